"""What this machine can do, and what runs on it for the tests."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
MARK = "QSMALS_SYSTEM_TEST"
SLOPPY = ("--sloppy", "--deterministic", "--skip-bids-validation")
# the least that a whole run can cost
CHEAP = (*SLOPPY, "--nprocs", "2", "--inversion", "tkd",
         "--background", "v-sharp", "--refinement", "none", "--cortex", "atlas")  # fmt: skip

# compressed quickly rather than well
FAST_SIF = {f"{name}_MKSQUASHFS_ARGS": "-comp gzip -Xcompression-level 1" for name in ("APPTAINER", "SINGULARITY")}

# jobs of the tests are root's, who cannot have Apptainer's privileged mode everywhere
AS_ROOT = {"APPTAINER_USERNS": "1", "RUN_AS": "0:0"}


def need_root() -> None:
    """Skip where this is not root."""
    if os.geteuid() != 0:
        pytest.skip("needs root")


def need_no_tmp(why: str) -> None:
    """Skip where this checkout or its Python lies below /tmp, which the test hides."""
    places = [place for place in (ROOT, Path(sys.prefix).resolve()) if Path("/tmp") in place.parents]
    if places:
        pytest.skip(f"{places[0]} lies below /tmp, {why}")


def need(*commands: str) -> None:
    """Skip where a command is missing, naming it (tests/system/prepare.sh installs those that Debian has)."""
    missing = [command for command in commands if shutil.which(command) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")


def call(*command: object, env: Mapping[str, str] | None = None, **kwargs: Any) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, its output as text."""
    words = [str(word) for word in command]
    return subprocess.run(
        words, capture_output=True, text=True, check=False, env={**os.environ, **(env or {})}, **kwargs
    )


def must(*command: object, **kwargs: Any) -> str:
    """The output of a command that must end well."""
    done = call(*command, **kwargs)
    assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
    return done.stdout


def qsmals(*words: object, **kwargs: Any) -> subprocess.CompletedProcess[str]:
    """The program of this checkout."""
    return call(sys.executable, "-m", "qsmals", *words, **kwargs)


def simulate(folder: Path, *, participants: int = 1, seed: int = 3) -> Path:
    """Write a data set of coarse simulated people; returns the folder."""
    words = ("--small", "--participants", participants, "--seed", seed)
    must(sys.executable, "-m", "qsmals.cli.simulate", folder, *words)
    return folder


def copy_as(label: str, source: Path, target: Path) -> None:
    """Copy sub-01 of one data set into another as ``label``, without logs and figures."""
    for path in (source / "sub-01").rglob("sub-01_*"):
        name = path.relative_to(source)
        if "log" not in name.parts and "figures" not in name.parts:
            renamed = target / str(name).replace("sub-01", label)
            renamed.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, renamed)


def children() -> dict[int, str]:
    """Command lines of the processes that inherited the mark of this run, by process id."""
    mark, found = f"{MARK}={os.environ.get(MARK, '')}".encode(), {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (folder / "environ").read_bytes().split(b"\0") and int(folder.name) != os.getpid():
                found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
        except (OSError, UnicodeDecodeError):
            continue
    return {pid: words for pid, words in found.items() if words}  # a zombie has no words


def mounts() -> set[str]:
    """Mount points of this namespace."""
    return {line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()}


def engine() -> str | None:
    """The command that runs images here."""
    return next((name for name in ("podman", "docker") if shutil.which(name)), None)


def builder() -> list[str]:
    """The command that builds an image, up to its context: see :func:`build_image`."""
    if words := os.environ.get("QSMALS_BUILD"):
        return words.split()
    for name, verb in (("buildah", "bud"), ("podman", "build"), ("docker", "build")):
        if shutil.which(name):
            return [name, verb]
    pytest.skip("needs buildah, podman or docker")


def build_image(context: Path, tag: str, *arguments: str) -> None:
    """Build an image.

    QSMALS_BUILD is a command that does it in place of ``docker build``, given the context, the tag and more options.
    """
    words = builder()
    own = "QSMALS_BUILD" in os.environ
    must_build(call(*words, *([context, tag, *arguments] if own else ["-t", tag, *arguments, context])))


def must_build(done: subprocess.CompletedProcess[str]) -> None:
    """What a build must have come to; skips where the base image cannot be had."""
    if done.returncode and any(word in done.stderr for word in ("pinging container registry", "dial tcp", "pull")):
        pytest.skip(f"the base image cannot be had here: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def apptainer() -> str:
    """The command that QSMALS_APPTAINER names, else ``apptainer`` or ``singularity``."""
    found = next((name for name in ("apptainer", "singularity") if shutil.which(name)), "apptainer")
    command = os.environ.get("QSMALS_APPTAINER", found)
    need(command)
    return command


def containers() -> set[str]:
    """Containers that exist, running or not."""
    name = engine()
    if name is None:
        return set()
    return set(call(name, "ps", "--all", "--quiet").stdout.split())


def files_of(folder: Path, leave_out: Sequence[str] = ()) -> dict[str, bytes]:
    """Contents of the files below ``folder`` by relative path; patterns, where ``*`` goes across folders, leave out."""
    files = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {
        name: path.read_bytes()
        for name, path in files.items()
        if not any(fnmatchcase(name, pattern) for pattern in leave_out)
    }


def record(name: str, text: str, **places: Path) -> None:
    """Keep a transcript for the manual, where QSMALS_TRANSCRIPTS names a folder; ``places`` give paths short names."""
    if folder := os.environ.get("QSMALS_TRANSCRIPTS"):
        for word, path in places.items():
            text = text.replace(str(path), f"/{word}")
        Path(folder, f"{name}.txt").write_text(text)
