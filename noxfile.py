"""Sessions that test, check, build and show the project; `nox -l` lists them."""

import itertools
import shutil
import sys
from pathlib import Path

import nox
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

nox.needs_version = ">=2025.2.9"
nox.options.sessions = ["lint", "docs", "tests", "wheel"]
nox.options.default_venv_backend = "virtualenv"

PYPROJECT = nox.project.load_toml("pyproject.toml")

# What each session installs of its backend, and nothing of the others. PyTorch stands at one version, because
# an open range may choose a build with gigabytes of GPU libraries.
BACKENDS = {
    "tensorflow": ["tensorflow-cpu; sys_platform == 'linux'", "tensorflow; sys_platform != 'linux'"],
    "jax": ["jax"],
    "torch": ["torch==2.13.0"],
}

on_each_backend = nox.parametrize("backend", list(BACKENDS), ids=list(BACKENDS))


def temporary(session: nox.Session) -> Path:
    """The session's temporary folder, from wherever it is looked for: tests work in folders of their own."""
    return Path(session.create_tmp()).resolve()


def environment(session: nox.Session, backend: str) -> None:
    """Run on `backend`, without the settings of the user's own Keras."""
    session.env.update(
        KERAS_BACKEND=backend,
        KERAS_HOME=str(temporary(session)),
        TF_CPP_MIN_LOG_LEVEL="3",
        JAX_PLATFORMS="cpu",
        OMP_NUM_THREADS="1",  # on matrices as small as the tests' threads mostly wait for each other
    )


def install_peers(session: nox.Session, backend: str) -> None:
    """Install the backend's other packages with SAM, and those that measure curvature."""
    # tf_keras asks for a TensorFlow of another name than the one that is there, curvlinops for a newer PyTorch.
    alone = ["--no-deps"] if backend in ("tensorflow", "torch") else []
    session.install(*alone, *nox.project.dependency_groups(PYPROJECT, f"bench-{backend}"))


def oldest(specifiers: SpecifierSet) -> str:
    """The version of the one `>=` among them."""
    (version,) = [specifier.version for specifier in specifiers if specifier.operator == ">="]
    return version


def pinned(backend: str) -> list[str]:
    """What the project depends on, on `backend`, each at the oldest version that pyproject.toml allows."""
    project = PYPROJECT["project"]
    groups = [project["optional-dependencies"][name] for name in (backend, "plot", "demo")]
    requirements = [Requirement(text) for group in (project["dependencies"], *groups) for text in group]
    pins = {r.name: oldest(r.specifier) for r in requirements if r.name != project["name"]}
    if "tensorflow" in pins and sys.platform == "linux":
        pins["tensorflow-cpu"] = pins.pop("tensorflow")  # the same without gigabytes of GPU libraries
    return [f"{name}=={version}" for name, version in pins.items()]


@nox.session
def lint(session: nox.Session) -> None:
    """Style, docstrings, spelling and types."""
    session.install(*nox.project.dependency_groups(PYPROJECT, "lint"), "numpy", "nox")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("codespell")
    session.run("mypy")


@nox.session
@on_each_backend
def tests(session: nox.Session, backend: str) -> None:
    """The test suite and the examples in docstrings, on one backend, with the packages that users come from."""
    more = ["tensorboard"] if backend == "tensorflow" else []  # for Keras's callback
    session.install("-e", ".[demo]", *BACKENDS[backend], *more, *nox.project.dependency_groups(PYPROJECT, "test"))
    install_peers(session, backend)
    environment(session, backend)
    if backend == "jax":  # tests that compile the same program compile it once
        session.env.update(
            JAX_COMPILATION_CACHE_DIR=str(temporary(session) / "compiled"),
            JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0",
            JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES="0",
        )
    side_by_side = ["--numprocesses=auto", "--maxprocesses=4", "--dist=loadfile"]
    session.run("pytest", "--peers", *side_by_side, "--durations=10", *session.posargs)


@nox.session(python=oldest(SpecifierSet(PYPROJECT["project"]["requires-python"])))
@on_each_backend
def minimums(session: nox.Session, backend: str) -> None:
    """The core of the test suite on the oldest supported versions: Python, Keras, one backend and the others.

    The core is what meets Keras and the backend most closely: the optimizer by hand, the training step in `fit`,
    files, low precision; and the plots, for matplotlib. What is left out runs in `tests` on the newest versions; here
    some of it would fail where Keras has changed, as `train_on_batch` did not use to reset the metrics.
    """
    session.install("-e", ".[demo]", *pinned(backend), *nox.project.dependency_groups(PYPROJECT, "test"))
    environment(session, backend)
    core = [f"tests/test_{name}.py" for name in ("sam", "sam_model", "saving", "mixed_precision", "plots")]
    # Old packages call what newer ones beside them have deprecated since.
    session.run("pytest", "-W", "ignore::DeprecationWarning", *(session.posargs or core))


@nox.session
@on_each_backend
def keras_suite(session: nox.Session, backend: str) -> None:
    """Keras's own tests with SAM in front, on one backend; the package brings them along.

    What follows `--` is for pytest: modules with tests, or `--plain` to run them without SAM.
    """
    everything = itertools.chain(*BACKENDS.values())  # the tests import all three
    session.install("-e", ".", *everything, *nox.project.dependency_groups(PYPROJECT, "test", "keras-suite"))
    environment(session, backend)
    suite = Path("tests/keras_suite").resolve()
    packages = ("trainers.trainer_test", "trainers.compile_utils_test", "trainers.epoch_iterator_test")
    packages += ("models", "callbacks", "saving", "optimizers")
    modules = [f"keras.src.{name}" for name in packages]
    chosen = any(argument.startswith("keras.src.") for argument in session.posargs)
    side_by_side = ["--numprocesses=auto", "--maxprocesses=4"]
    session.run("pytest", "--override-ini=addopts=", "-ra", str(suite / "test_custom_fit.py"))
    session.run(
        *("pytest", "-c", str(suite / "keras.ini"), "-p", "plugin", "-ra", *side_by_side, "--durations=10"),
        *("--pyargs", *([] if chosen else modules), *session.posargs),
        env={"PYTHONPATH": str(suite)},
    )


@nox.session
@on_each_backend
def clients(session: nox.Session, backend: str) -> None:
    """That other packages of the Keras world work with SAM, on one backend and without the others.

    KerasHub asks for TensorFlow on every backend, for texts; it is installed without what it asks for, and with what
    the rest of it imports.
    """
    more = ["tensorboard"] if backend == "tensorflow" else []  # for KerasTuner, which does not ask for it
    groups = nox.project.dependency_groups(PYPROJECT, "test", "clients")
    session.install("-e", ".", *BACKENDS[backend], *more, *groups)
    session.install("--no-deps", *nox.project.dependency_groups(PYPROJECT, "clients-alone"))
    environment(session, backend)
    # What pyproject.toml adds leaves these tests out, and makes errors of the other packages' own warnings.
    session.run("pytest", "--override-ini=addopts=", "-ra", "-W", "default", *(session.posargs or ["tests/clients"]))


@nox.session
def build(session: nox.Session) -> None:
    """What a release uploads, in `dist/`: the sdist, and the wheel that is built from it; and a user's type check."""
    session.install("build", "twine", *nox.project.dependency_groups(PYPROJECT, "lint"))
    shutil.rmtree("dist", ignore_errors=True)
    session.run("python", "-m", "build")
    session.run("twine", "check", "--strict", *map(str, Path("dist").iterdir()))
    session.install("numpy")
    session.install("--no-deps", *map(str, Path("dist").glob("*.whl")))
    user = Path("tests/workers/typed_user.py").resolve()
    session.chdir(temporary(session))  # out of the source tree, with mypy's own settings
    session.run("mypy", "--strict", "--config-file=", str(user))


@nox.session(requires=["build"])
@on_each_backend
def wheel(session: nox.Session, backend: str) -> None:
    """The built wheel alone, used outside the source tree on one backend."""
    (built,) = Path("dist").glob("*.whl")
    session.install(str(built), *BACKENDS[backend])
    environment(session, backend)
    smoke = Path("tests/workers/smoke.py").resolve()
    session.chdir(temporary(session))
    session.run("python", "-I", str(smoke))


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation, in `site/`; a warning or a public name without a docstring is an error."""
    session.install(*nox.project.dependency_groups(PYPROJECT, "docs"))
    session.run("ruff", "check", "--select", "D1", "--ignore", "D105,D107", "keras_sam")  # as in pyproject.toml
    session.run("zensical", "build", "--strict", "--clean")


@nox.session
def demo(session: nox.Session) -> None:
    """SGD against SAM on real data with wrong labels, on JAX."""
    session.install("-e", ".[jax,demo]")
    environment(session, "jax")
    session.run("python", "-m", "keras_sam.demo", *session.posargs)


@nox.session
@on_each_backend
def bench(session: nox.Session, backend: str) -> None:
    """The cost of a step beside that of the backend's other packages; first, that they take the same steps."""
    session.install("-e", ".[demo]", *BACKENDS[backend], *nox.project.dependency_groups(PYPROJECT, "test"))
    install_peers(session, backend)
    environment(session, backend)
    session.run("pytest", "-q", "--peers", "tests/test_peers.py")
    session.run("python", "benchmarks/step_cost.py", *session.posargs)


@nox.session
@on_each_backend
def bench_analysis(session: nox.Session, backend: str) -> None:
    """The cost of curvature beside that of the backend's other packages, in gradients."""
    session.install("-e", ".[demo]", *BACKENDS[backend])
    install_peers(session, backend)
    environment(session, backend)
    session.run("python", "benchmarks/analysis_cost.py", *session.posargs)
