"""Sessions that test, check and show the project; `nox -l` lists them."""

import nox

nox.needs_version = ">=2025.2.9"
nox.options.sessions = ["lint", "docs", "tests"]
nox.options.default_venv_backend = "virtualenv"

PYPROJECT = nox.project.load_toml("pyproject.toml")

# What each session installs of its backend, and nothing of the others. PyTorch stands at one version, because
# an open range may choose a build with gigabytes of GPU libraries.
BACKENDS = {
    "tensorflow": ["tensorflow-cpu; sys_platform == 'linux'", "tensorflow; sys_platform != 'linux'", "tensorboard"],
    "jax": ["jax"],
    "torch": ["torch==2.13.0"],
}


def environment(session: nox.Session, backend: str) -> None:
    """Run on `backend`, without the settings of the user's own Keras."""
    session.env.update(
        KERAS_BACKEND=backend,
        KERAS_HOME=session.create_tmp(),
        TF_CPP_MIN_LOG_LEVEL="3",
        JAX_PLATFORMS="cpu",
        OMP_NUM_THREADS="1",  # on matrices as small as the tests' threads mostly wait for each other
    )


def install_peers(session: nox.Session, backend: str) -> None:
    """Install the backend's other packages with SAM."""
    # tf_keras asks for a TensorFlow of another name than the one that is there.
    alone = ["--no-deps"] if backend == "tensorflow" else []
    session.install(*alone, *nox.project.dependency_groups(PYPROJECT, f"bench-{backend}"))


@nox.session
def lint(session: nox.Session) -> None:
    """Style, docstrings and types."""
    session.install(*nox.project.dependency_groups(PYPROJECT, "lint"), "numpy", "nox")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy")


@nox.session
@nox.parametrize("backend", list(BACKENDS), ids=list(BACKENDS))
def tests(session: nox.Session, backend: str) -> None:
    """The test suite and the examples in docstrings, on one backend."""
    session.install("-e", ".[demo]", *BACKENDS[backend], *nox.project.dependency_groups(PYPROJECT, "test"))
    environment(session, backend)
    session.run("pytest", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation, in `site/`; a warning or a public name without a docstring is an error."""
    session.install(*nox.project.dependency_groups(PYPROJECT, "docs"))
    session.run("ruff", "check", "--select", "D1", "keras_sam")
    session.run("zensical", "build", "--strict", "--clean")


@nox.session
def demo(session: nox.Session) -> None:
    """SGD against SAM on real data with wrong labels, on JAX."""
    session.install("-e", ".[jax,demo]")
    environment(session, "jax")
    session.run("python", "-m", "keras_sam.demo", *session.posargs)


@nox.session
@nox.parametrize("backend", list(BACKENDS), ids=list(BACKENDS))
def bench(session: nox.Session, backend: str) -> None:
    """The cost of a step beside that of the backend's other packages; first, that they take the same steps."""
    session.install("-e", ".[demo]", *BACKENDS[backend], *nox.project.dependency_groups(PYPROJECT, "test"))
    install_peers(session, backend)
    environment(session, backend)
    session.run("pytest", "-q", "-W", "ignore", "benchmarks/test_peers.py")
    session.run("python", "benchmarks/step_cost.py", *session.posargs)


@nox.session
@nox.parametrize("backend", list(BACKENDS), ids=list(BACKENDS))
def migration(session: nox.Session, backend: str) -> None:
    """The migration guides, with the packages that they come from."""
    session.install("-e", ".", *BACKENDS[backend], *nox.project.dependency_groups(PYPROJECT, "test"))
    install_peers(session, backend)
    environment(session, backend)
    session.run("pytest", "--peers", "tests/test_migration.py", "tests/test_migration_defects.py", *session.posargs)
