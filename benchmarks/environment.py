"""What a measurement was made with: versions, and the kind of machine."""

import importlib
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
