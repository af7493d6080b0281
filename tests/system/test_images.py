"""The image under the rules of a shared cluster: the outputs are those of a run outside it, byte for byte.

The image is built from this checkout, or is the one that QSMALS_IMAGE names. QSMALS_RUN_AS (12345:23456) is who runs
images; a command in QSMALS_APPTAINER that takes another user of its own accord takes that one.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path

import pytest

from qsmals import __version__
from tests.system.machine import (
    AS_ROOT,
    CHEAP,
    FAST_SIF,
    ROOT,
    apptainer,
    call,
    containers,
    engine,
    files_of,
    must,
    record,
)

RUN_AS = os.environ.get("QSMALS_RUN_AS", "12345:23456")
# what holds the time, the place, or the container itself: everything else must be equal
LEAVE_OUT = ("logs/*", "sub-*/log/*", "work/*", "*.html", "dataset_description.json")


@pytest.fixture(scope="module")
def outside(whole: Path) -> dict[str, bytes]:
    """What a run outside any container writes."""
    return files_of(whole, LEAVE_OUT)


@pytest.fixture(scope="module")
def sif(image: str, shared: Path) -> Path:
    """The Apptainer image, built from the other."""
    command, folder = apptainer(), own(shared / "sif")
    archive, recipe, built = folder / "qsmals.tar", folder / "qsmals.def", folder / "qsmals.sif"
    must(
        engine(), "save", "--output", archive, *(("--format", "docker-archive") if engine() == "podman" else ()), image
    )
    archive.chmod(0o644)
    shutil.copy(ROOT / "containers/qsmals.def", recipe)
    must(command, "build", "--build-arg", f"archive={archive}", built, recipe, cwd=shared, env=FAST_SIF)
    archive.unlink()
    return built


def own(folder: Path) -> Path:
    """The folder, made, and owned by who runs the image."""
    folder.mkdir()
    user, group = RUN_AS.split(":")
    os.chown(folder, int(user), int(group))
    return folder


def strictly(image: str, words: Sequence[str], *, binds: Sequence[str] = ()) -> list[str]:
    """The command that runs the image without network, capabilities, a name, or anything to write to."""
    rules = ("--rm", "--network", "none", "--user", RUN_AS, "--read-only", "--tmpfs", "/tmp", "--cap-drop", "all",
             "--security-opt", "no-new-privileges")  # fmt: skip
    return [str(engine()), "run", *rules, *(word for bind in binds for word in ("-v", bind)), image, *words]


def entry(out: Path) -> dict[str, str]:
    """What the summary says of the one subject."""
    subjects: dict[str, dict[str, str]] = json.loads((out / "logs/summary.json").read_text())["subjects"]
    return subjects["sub-01"]


def different(found: dict[str, bytes], wanted: dict[str, bytes]) -> list[str]:
    """Names of the files that differ; sidecars name the Python that ran, which the base image chooses."""

    def content(files: dict[str, bytes], name: str) -> bytes:
        text = files.get(name, b"")
        return re.sub(rb'"python": "[\d.]+"', b"", text) if name.endswith(".json") else text

    return sorted(n for n in found.keys() | wanted.keys() if content(found, n) != content(wanted, n))


def test_an_image_runs_as_anybody_and_gives_the_same_bytes(
    image: str, subject: Path, shared: Path, outside: dict[str, bytes]
) -> None:
    """Image: uid 12345, read-only root and input, no network, no capabilities; outputs byte for byte as outside."""
    out, before = own(shared / "inside"), containers()
    words = strictly(image, ("/data", "/out", "participant", *CHEAP), binds=(f"{subject}:/data:ro", f"{out}:/out"))
    done = call(*words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert any(name.endswith("_Chimap.nii.gz") for name in outside)
    found = different(files_of(out, LEAVE_OUT), outside)
    assert found == []
    container = json.loads((out / "dataset_description.json").read_text())["GeneratedBy"][0]["Container"]
    assert container["Tag"] == f"qsmals:{__version__}"
    assert containers() == before
    lines = done.stdout.splitlines()
    shown = "\n".join([*lines[:6], "...", *lines[-4:]])
    record("image", f"$ {' '.join(words)}\n{shown}\n", data=shared)


def test_an_image_that_is_stopped_ends_in_order(image: str, subject: Path, shared: Path) -> None:
    """Image: stopped in the middle (SIGTERM); exit code 143, nothing half written, and the same command goes on."""
    out, name = own(shared / "stopped"), f"qsmals-{uuid.uuid4().hex[:8]}"
    binds = (f"{subject}:/data:ro", f"{out}:/out")
    words = strictly(image, ("/data", "/out", "participant", *CHEAP), binds=binds)
    named = [*words[:2], "--name", name, *words[2:]]
    with subprocess.Popen(named, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as running:
        assert running.stdout is not None
        said = next((line for line in running.stdout if "magnitude, and phase" in line), "")
        assert said, "a step ends"
        must(engine(), "stop", "--time", "60", name)
        said += running.stdout.read()
    assert running.returncode == 143, said
    assert "SIGTERM" in said and "Traceback" not in said, said
    assert "SIGTERM" in entry(out)["why"] and entry(out)["status"] == "failed"
    assert not list(out.rglob(".qsmals-*")) and not list(out.glob("logs/*.lock"))
    assert "already done" in must(*words)
    assert entry(out)["status"] == "ok"


def test_an_image_says_what_it_is(image: str) -> None:
    """Image: version and labels."""
    assert must(*strictly(image, ["--version"])).strip() == f"qsmals {__version__}"
    labels = json.loads(must(engine(), "image", "inspect", image))[0]["Labels"]
    assert labels["org.opencontainers.image.title"] == "qsmals"
    assert labels["org.opencontainers.image.version"] == __version__


def test_apptainer_gives_the_same_bytes(sif: Path, subject: Path, shared: Path, outside: dict[str, bytes]) -> None:
    """Apptainer: built from the image, contained, clean environment, no home; outputs byte for byte as outside it."""
    command, out = apptainer(), own(shared / "apptainer")
    must(command, "run", "--containall", "--cleanenv", "--no-home", "-B", f"{subject}:/data:ro", "-B", f"{out}:/out",
         sif, "/data", "/out", "participant", *CHEAP, cwd=shared)  # fmt: skip
    found = different(files_of(out, LEAVE_OUT), outside)
    assert found == []


def test_a_task_with_apptainer_that_is_signalled_ends_in_order(sif: Path, subject: Path, shared: Path) -> None:
    """Apptainer: a task of the cluster scripts is signalled (SIGTERM); 143, a word in the summary, and it goes on."""
    folder = shared / "signalled"
    out, work, commands = folder / "out", folder / "work", folder / "bin"
    commands.mkdir(parents=True)
    itself = f'PATH=${{PATH#*:}} exec {apptainer()} "$@"'  # which is not to find this folder again
    for name, text in (("apptainer", itself), ("sbatch", "echo 1"), ("scontrol", "exit 1")):
        (commands / name).write_text(f"#!/bin/bash\n{text}\n")
        (commands / name).chmod(0o755)
    environment = {"PATH": f"{commands}:{os.environ['PATH']}", "PYTHON": sys.executable, **AS_ROOT}
    must("bash", ROOT / "containers/slurm/submit.sh", "--image", sif, "--cpus", "2", "--mem", "8G", "--work", work,
         "--no-group", subject, out, "--", *CHEAP, env=environment)  # fmt: skip
    (run,) = (out / "logs/slurm").iterdir()
    job = {**os.environ, **environment, "SLURM_ARRAY_TASK_ID": "1"}
    with subprocess.Popen([run / "task.sh"], env=job, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          start_new_session=True, cwd=shared) as running:  # fmt: skip
        assert running.stdout is not None
        try:
            said = ""
            for line in running.stdout:
                said += line
                if "magnitude, and phase" in line:
                    break
            else:
                pytest.fail(f"no step ended:\n{said}")
            running.send_signal(signal.SIGTERM)  # to the shell of the job alone, as SLURM's --signal=B:TERM
            said += running.stdout.read()
        finally:
            if running.poll() is None:
                os.killpg(running.pid, signal.SIGKILL)
    assert running.returncode == 143, said
    assert (run / "ended/1").read_text() == "143\n"
    assert "SIGTERM" in said and "Traceback" not in said, said
    assert "SIGTERM" in entry(out)["why"] and entry(out)["status"] == "failed"
    assert not list(out.rglob(".qsmals-*")) and not list(out.glob("logs/*.lock"))
    assert "already done" in must(run / "task.sh", env={**environment, "SLURM_ARRAY_TASK_ID": "1"}, cwd=shared)
    assert entry(out)["status"] == "ok"
