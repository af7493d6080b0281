"""The README's examples for Docker, Apptainer and SLURM, as they are written there, on the data of a simulated person.

They run in a copy of this checkout below /data, where the examples have their data. Where this machine has podman in
place of docker, ``docker`` is podman, and building is left to QSMALS_BUILD and Apptainer to QSMALS_APPTAINER.
"""

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.machine import AS_ROOT, FAST_SIF, ROOT, apptainer, call, engine, must, must_build, need_root, record
from tests.system.slurm import Cluster

pytestmark = pytest.mark.slow

PLACE = Path("/data")
CHECKOUT = PLACE / "qsmals"
IMAGE = "qsmals"
HEAD, TAIL = 8, 5

DOCKER = """#!/bin/bash
# podman in place of docker; building is left to QSMALS_BUILD, or done before
if [ "$1" = build ]; then
    if [ -n "${QSMALS_IMAGE:-}" ]; then exec podman tag "$QSMALS_IMAGE" "localhost/$3"; fi
    if [ -n "${QSMALS_BUILD:-}" ]; then exec $QSMALS_BUILD "$4" "localhost/$3"; fi
fi
exec podman "$@"
"""


def examples(heading: str) -> list[str]:
    """Commands of the README's section."""
    section = re.search(rf"^## {heading}\n(.*?)^## ", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    assert section, heading
    blocks = re.findall(r"^```\n(.*?)^```", section[1], re.DOTALL | re.MULTILINE)
    return [line for block in blocks for line in block.splitlines() if line]


@pytest.fixture(scope="module")
def place(subject: Path) -> Iterator[Path]:
    """/data with a study and a copy of this checkout, and only for these tests."""
    need_root()
    if PLACE.exists():
        pytest.skip(f"{PLACE} is there already")
    PLACE.mkdir()
    try:
        shutil.copytree(subject, PLACE / "study")
        shutil.copytree(ROOT, CHECKOUT, symlinks=True, ignore=shutil.ignore_patterns(".*", "__pycache__", "demo"))
        shutil.copy(ROOT / ".dockerignore", CHECKOUT)
        yield PLACE
    finally:
        shutil.rmtree(PLACE)


@pytest.fixture(scope="module")
def environment(shared: Path) -> Iterator[dict[str, str]]:
    """An environment in which docker is a command; the README's image is removed in the end."""
    commands = shared / "commands"
    commands.mkdir()
    name = engine()
    if name is None:
        pytest.skip("needs podman or docker")
    if call(name, "image", "inspect", IMAGE).returncode == 0:
        pytest.skip(f"an image {IMAGE} is there already")
    if name == "podman":
        put(commands / "docker", DOCKER)
    yield {"PATH": f"{commands}:{os.environ['PATH']}", **AS_ROOT}
    call(name, "rmi", IMAGE)  # where it came to be


@pytest.fixture(scope="module")
def with_apptainer(environment: dict[str, str], shared: Path) -> dict[str, str]:
    """The same, in which apptainer is a command too."""
    put(shared / "commands/apptainer", f'#!/bin/bash\nexec {apptainer()} "$@"\n')
    return {**environment, **FAST_SIF}


def put(command: Path, text: str) -> None:
    """Make a command."""
    command.write_text(text)
    command.chmod(0o755)


def run(command: str, environment: dict[str, str]) -> str:
    """A command in the checkout; returns it with what it printed, the middle left out."""
    lines = must("bash", "-c", command, cwd=CHECKOUT, env=environment).splitlines()
    if len(lines) > HEAD + TAIL + 1:
        lines[HEAD:-TAIL] = ["..."]
    return "\n".join([f"$ {command}", *lines])


def test_examples_of_docker(place: Path, environment: dict[str, str]) -> None:
    """README: build and run the image with Docker."""
    build, run_docker, *_ = examples("Docker and Apptainer")
    (place / "out").mkdir()
    must_build(call("bash", "-c", build, cwd=CHECKOUT, env=environment))  # what it prints is pip's
    shown = run(run_docker, environment)
    assert "All well: 1 subject" in shown
    record("readme-docker", f"$ {build}\n{shown}")


def test_examples_of_apptainer(place: Path, with_apptainer: dict[str, str]) -> None:
    """README: run the same image with Apptainer, which finds all done."""
    *_, to_apptainer, run_apptainer = examples("Docker and Apptainer")
    if call(engine(), "image", "inspect", IMAGE).returncode or not (place / "out/sub-01.html").is_file():
        pytest.skip("the test before has made no image, or not run it")
    must("bash", "-c", to_apptainer, cwd=CHECKOUT, env=with_apptainer)
    shown = run(run_apptainer, with_apptainer)
    assert "All well: 1 subject" in shown and "already done" in shown
    record("readme-apptainer", f"$ {to_apptainer}\n{shown}")


def test_examples_of_a_cluster(place: Path, with_apptainer: dict[str, str], cluster: Cluster) -> None:
    """README: submit a study with the Apptainer image to SLURM, and ask what became of it."""
    submit, ask = examples("On a cluster")
    if not (CHECKOUT / "qsmals.sif").is_file():
        pytest.skip("the test before has made no image")
    shutil.rmtree(place / "out")
    environment = {**with_apptainer, **cluster.env}
    shown = run(submit, environment)
    cluster.wait(lambda: not cluster.busy(), "the study", 1200)
    said = run(ask, environment)
    (log,) = (place / "out/logs/slurm").glob("*/task-1.log")
    assert "1 of 1 subject is done" in said, log.read_text()
    assert (place / "out/group.html").is_file()
    lines = log.read_text().splitlines()
    shown += "\n\n".join(
        ["", "\n".join(["$ cat /data/out/logs/slurm/*/task-1.log", *lines[:HEAD], "...", *lines[-TAIL:]]), said]
    )
    record("readme-slurm", shown)
