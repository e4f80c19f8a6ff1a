"""What a measurement was made with: versions, and the kind of machine."""

import importlib
import os
import platform

import keras


def describe() -> dict[str, str]:
    """Versions of Python, Keras and the backend, and what it computes on."""
    backend = keras.backend.backend()
    return {
        "python": platform.python_version(),
        "keras": keras.__version__,
        "backend": backend,
        "backend_version": importlib.import_module(backend).__version__,
        "device": _accelerator(backend) or f"{platform.machine()} CPU",
    }


def one_thread_a_core() -> int:
    """Let the backend compute in as many threads as this process has cores, and return how many.

    More of them wait for each other, and a ratio of times is then one of their waiting. To be called before the backend
    computes anything.
    """
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    backend = keras.backend.backend()
    if backend == "torch":
        importlib.import_module("torch").set_num_threads(threads)
    elif backend == "tensorflow":
        threading = importlib.import_module("tensorflow").config.threading
        try:
            threading.set_intra_op_parallelism_threads(threads)
            threading.set_inter_op_parallelism_threads(threads)
        except RuntimeError:  # it has computed already, with as many as it chose
            threads = threading.get_intra_op_parallelism_threads() or os.cpu_count() or 1
    else:  # JAX makes its threads with its first computation, one for each core that the process then has
        importlib.import_module("jax").devices()
    return threads


def _accelerator(backend: str) -> str | None:
    """The name of what the backend computes on by itself, if that is not the CPU."""
    if backend == "jax":
        import jax

        device = jax.devices()[0]
        return None if device.platform == "cpu" else device.device_kind
    if backend == "torch":
        import torch

        return torch.cuda.get_device_name() if torch.cuda.is_available() else None
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    return tf.config.experimental.get_device_details(gpus[0])["device_name"] if gpus else None
