"""The workflows call sessions that exist, and all that a change must pass; minimums are those that are stated."""

import itertools
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
WORKFLOW, WEEKLY = (yaml.safe_load((ROOT / f".github/workflows/{name}.yml").read_text()) for name in ("ci", "weekly"))
BACKENDS = ("tensorflow", "jax", "torch")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def sessions():
    """The names of all of nox's sessions."""
    environment = {name: value for name, value in os.environ.items() if name != "NOXSESSION"}
    command = [sys.executable, "-m", "nox", "--list", "--no-color"]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    names = re.findall(r"^[*-] (\S+)", run.stdout, re.MULTILINE)
    return {re.sub(r"-[\d.]+(?=\(|$)", "", name) for name in names}


def combinations(job):
    """The values of a job's matrix, by the expression that stands for each."""
    matrix = job.get("strategy", {}).get("matrix", {})
    for values in itertools.product(*matrix.values()):
        yield {f"${{{{ matrix.{name} }}}}": str(value) for name, value in zip(matrix, values, strict=True)}


def called(workflow):
    """The sessions that the workflow runs."""
    for job in workflow["jobs"].values():
        for values in combinations(job):
            for step in job["steps"]:
                command = step.get("run", "")
                for expression, value in values.items():
                    command = command.replace(expression, value)
                yield from re.findall(r'nox -s "?([^"\s]+)"?', command)


def test_the_workflow_runs_sessions_that_exist(sessions):
    names = list(called(WORKFLOW))
    assert len(names) == len(set(names)) + 3  # the tests run on two versions of Python
    assert set(names) <= set(sessions)
    parts = ("lint", "docs", "tests", "wheel", "minimums")
    assert set(names) == {name for name in sessions if name.split("(")[0] in parts}


def test_the_weekly_workflow_runs_what_takes_long(sessions):
    names = list(called(WEEKLY))
    assert sorted(names) == sorted(f"{part}({backend})" for part in ("keras_suite", "clients") for backend in BACKENDS)
    assert set(names) <= set(sessions)


def test_supported_versions_of_python_are_those_that_the_workflow_runs():
    stated = [c.rpartition(" ")[2] for c in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", c)]
    run = {
        version
        for job in WORKFLOW["jobs"].values()
        for version in job.get("strategy", {}).get("matrix", {}).get("python", [])
    } | {
        step["with"]["python-version"]
        for job in WORKFLOW["jobs"].values()
        for step in job["steps"]
        if "setup-python" in step.get("uses", "") and "matrix" not in step["with"]["python-version"]
    }
    assert set(stated) == run
    assert PROJECT["requires-python"] == f">={min(stated, key=lambda version: int(version[2:]))}"


@pytest.mark.parametrize("group", ["dependencies", *PROJECT["optional-dependencies"]])
def test_every_dependency_states_its_oldest_version(group):
    """So that the session `minimums` can pin it."""
    requirements = PROJECT["dependencies"] if group == "dependencies" else PROJECT["optional-dependencies"][group]
    for requirement in map(Requirement, requirements):
        operators = [specifier.operator for specifier in requirement.specifier]
        assert operators == ([] if requirement.name == PROJECT["name"] else [">="])


def test_the_readme_states_the_oldest_versions():
    stated = (ROOT / "README.md").read_text()
    requirements = [*PROJECT["dependencies"], *(PROJECT["optional-dependencies"][name][0] for name in BACKENDS)]
    oldest = {r.name: next(iter(r.specifier)).version for r in map(Requirement, requirements)}
    assert (
        f"Tested from Keras {oldest['keras']}, TensorFlow {oldest['tensorflow']}, JAX {oldest['jax']} and "
        f"PyTorch {oldest['torch']} on."
    ) in stated
