"""Full disks, killed processes, bare environments and company: what a run does, and what the same command does after.

A whole run is made once; the others take its transforms over (``--skip-registration``) and so last seconds.
"""

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from qsmals.cli.parser import parse
from qsmals.workflows.participant import run_folder
from tests.system.machine import ROOT, SLOPPY, call, copy_as, files_of, must, need, need_no_tmp, need_root, qsmals

QUICK = ("--skip-registration", "--refinement", "none", "--cortex", "atlas", "--nprocs", "2")
UID, GID = 12345, 23456


@pytest.fixture(scope="module")
def bids(subject: Path, shared: Path) -> Path:
    """Two coarse simulated people, who are the same."""
    two = shared / "two"
    two.mkdir()
    shutil.copy(subject / "dataset_description.json", two)
    for label in ("sub-01", "sub-02"):
        copy_as(label, subject, two)
    return two


@pytest.fixture(scope="module")
def options(whole: Path, shared: Path) -> tuple[str, ...]:
    """Options of a run that takes its registrations from another one."""
    prior = shared / "prior_two"
    for label in ("sub-01", "sub-02"):
        copy_as(label, whole, prior)
    return (*SLOPPY, *QUICK, "-d", f"prior={prior}")


@pytest.fixture(scope="module")
def undisturbed(shared: Path, bids: Path, options: tuple[str, ...]) -> Path:
    """A folder with outputs (``out``) and work folder (``work``) of a run of sub-01 that nothing happened to."""
    folder = shared / "undisturbed"
    words = (bids, folder / "out", "participant", *options, "--participant-label", "01", "-w", folder / "work")
    done = qsmals(*words)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def hand_over(undisturbed: Path, words: Sequence[object]) -> None:
    """Give a coming run of sub-01 the first steps of the undisturbed one, half of its time: atlas and brain mask."""
    source = run_folder(parse([str(words[0]), str(undisturbed / "out"), *map(str, words[2:])]).settings)
    source = undisturbed / "work" / source.relative_to(source.parents[1])
    target = run_folder(parse([str(word) for word in words]).settings)
    for step in ("atlas_sub_01", "sub_01_wf/anatomy_wf/extract_brain"):
        shutil.copytree(source / "participant_wf" / step, target / "participant_wf" / step)


@pytest.fixture
def folder(shared: Path, request: pytest.FixtureRequest) -> Path:
    """A folder of the test's own on the disk that the others use."""
    made = shared / request.node.name
    made.mkdir()
    return made


@pytest.fixture
def disk(folder: Path) -> Iterator[Path]:
    """A small disk; the test says how small, with :func:`resize`."""
    need_root()
    need("mount", "umount")
    place = folder / "disk"
    place.mkdir()
    if call("mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place).returncode:
        pytest.skip("this machine does not let its root mount a tmpfs")
    yield place
    must("umount", place)


def resize(disk: Path, n_bytes: int) -> None:
    must("mount", "-o", f"remount,size={n_bytes}", disk)


def size_of(folder: Path) -> int:
    """Bytes that a disk needs for what lies below ``folder``, by pages."""
    return sum(4096 * -(-path.stat().st_size // 4096) for path in folder.rglob("*") if path.is_file())


class Run:
    """A run that is going on; what it says is kept in ``said``."""

    def __init__(self, *words: object) -> None:
        command = [sys.executable, "-m", "qsmals", *map(str, words)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.said = ""

    def until(self, word: str) -> "Run":
        """Wait for a line with ``word``."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said += line
            if word in line:
                return self
        pytest.fail(f"no line with {word!r}:\n{self.said}")

    def until_node(self, out: Path, name: str) -> "Run":
        """Wait until a worker is at the node ``name``, as the run's log in ``out`` has it."""
        log = max((out / "logs").glob("*.log"), key=lambda path: path.stat().st_mtime)
        while f'Executing "{name}"' not in log.read_text():
            assert self.process.poll() is None, f"ended before the node {name}"
            time.sleep(0.05)
        return self

    def end(self) -> int:
        """The exit code, once it has ended."""
        assert self.process.stdout is not None
        self.said += self.process.stdout.read()
        return self.process.wait()

    def workers(self) -> list[int]:
        """Processes that run its nodes."""
        pids = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [int(pid) for pid in pids if b"engine.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def assert_whole(out: Path) -> None:
    """Every file that has its final name can be read to its end, none is empty, and none has another name."""
    for path in (path for path in out.rglob("*") if path.is_file()):
        assert not path.name.startswith(".qsmals-"), path
        assert path.stat().st_size > 0, path
        if path.suffix == ".gz":
            gzip.decompress(path.read_bytes())
        if path.suffix == ".json":
            json.loads(path.read_text())


def assert_same(out: Path, undisturbed: Path) -> None:
    """The outputs of the subject are those of a run that nothing happened to, byte for byte."""
    expected = files_of(undisturbed / "out" / "sub-01", ("log/*",))
    found = files_of(out / "sub-01", ("log/*",))
    assert sorted(found) == sorted(expected)
    assert [name for name in expected if found[name] != expected[name]] == []


def status_of(out: Path) -> dict[str, str]:
    subjects = json.loads((out / "logs" / "summary.json").read_text())["subjects"]
    return {name: entry["status"] for name, entry in subjects.items()}


def test_a_run_that_is_killed_terminated_and_robbed_of_a_worker(
    bids: Path, options: tuple[str, ...], undisturbed: Path, folder: Path
) -> None:
    """Faults: kill -9 of the run, SIGTERM in the middle, kill -9 of its workers; ends with the same bytes."""
    out = folder / "out"
    words = (bids, out, "participant", *options, "--participant-label", "01", "-w", folder / "work")
    hand_over(undisturbed, words)

    killed = Run(*words).until("magnitude, and phase")
    workers = killed.workers()
    killed.process.kill()
    assert killed.end() == -signal.SIGKILL
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert workers and not any(Path(f"/proc/{pid}").exists() for pid in workers), "its workers die with it"

    terminated = Run(*words).until("unwrapping")
    terminated.process.terminate()
    assert terminated.end() == 143, terminated.said
    assert "already done" in terminated.said and "SIGTERM" in terminated.said and "Traceback" not in terminated.said
    assert (out / "sub-01.html").is_file() and status_of(out) == {"sub-01": "failed"}
    assert not (out / "logs" / "sub-01.lock").exists()
    assert_whole(out)

    robbed = Run(*words).until("background field removal").until_node(out, "invert")  # which takes seconds
    for pid in robbed.workers():
        os.kill(pid, signal.SIGKILL)
    assert robbed.end() == 0, robbed.said
    assert "tried again, alone: killed by signal 9 (SIGKILL)" in robbed.said, robbed.said
    assert status_of(out) == {"sub-01": "ok"}
    assert_same(out, undisturbed)


def test_a_full_disk_for_the_outputs(
    bids: Path, options: tuple[str, ...], undisturbed: Path, disk: Path, folder: Path
) -> None:
    """Faults: OUTPUT_DIR fills up in the middle; the same command goes on once there is room."""
    out = disk / "out"
    words = (bids, out, "participant", *options, "--participant-label", "01", "-w", folder / "work")
    hand_over(undisturbed, words)
    resize(disk, size_of(undisturbed / "out" / "sub-01") // 2)
    done = qsmals(*words)
    said = done.stdout + done.stderr
    assert done.returncode in (1, 5), said
    assert "No space left on device" in said and "Traceback" not in said, said
    assert_whole(out)
    resize(disk, 10**9)
    done = qsmals(*words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert_same(out, undisturbed)


def test_no_room_at_all_for_the_outputs(
    bids: Path, options: tuple[str, ...], undisturbed: Path, disk: Path, folder: Path
) -> None:
    """Faults: no room for any output."""
    words = (bids, disk / "out", "participant", *options, "--participant-label", "01", "-w", folder / "work")
    hand_over(undisturbed, words)
    resize(disk, 4096 * 12)
    done = qsmals(*words)
    said = done.stdout + done.stderr
    assert done.returncode == 5, said
    assert "No space left on device" in said and "Traceback" not in said, said
    assert_whole(disk)


def test_no_room_for_the_group_level(bids: Path, undisturbed: Path, disk: Path) -> None:
    """Faults: no room for the group level."""
    out = disk / "out"
    resize(disk, 10**9)
    shutil.copytree(undisturbed / "out", out)
    resize(disk, int(must("df", "--block-size=1", "--output=used", disk).split()[1]))
    done = qsmals(bids, out, "group")
    said = done.stdout + done.stderr
    assert done.returncode == 5, said
    assert "No space left on device" in said and "Traceback" not in said, said
    assert_whole(out)
    resize(disk, 10**9)
    assert qsmals(bids, out, "group").returncode == 0
    assert_whole(out)


def test_a_full_disk_for_the_work_folder(
    bids: Path, options: tuple[str, ...], undisturbed: Path, disk: Path, folder: Path
) -> None:
    """Faults: the work folder fills up in the middle; the same command goes on once there is room."""
    words = (bids, folder / "out", "participant", *options, "--participant-label", "01", "-w", disk / "work")
    resize(disk, size_of(undisturbed / "work") // 2)
    done = qsmals(*words)
    said = done.stdout + done.stderr
    assert done.returncode == 1, said
    assert "No space left on device" in said and "Traceback" not in said, said
    assert status_of(folder / "out") == {"sub-01": "failed"}
    assert_whole(folder / "out")
    resize(disk, 10**9)
    done = qsmals(*words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert_same(folder / "out", undisturbed)


def test_two_runs_at_once(bids: Path, options: tuple[str, ...], undisturbed: Path, folder: Path) -> None:
    """Faults: two runs at once on different subjects of one OUTPUT_DIR, and on the same one."""
    out = folder / "out"
    runs = [Run(bids, out, "participant", *options, "--participant-label", label) for label in ("01", "02")]
    runs[0].until("magnitude, and phase")
    late = qsmals(bids, out, "participant", *options, "--participant-label", "01", "-w", folder / "elsewhere")
    assert late.returncode == 1, late.stdout + late.stderr
    assert f"sub-01 in {out} is being worked on by process {runs[0].process.pid} of " in late.stdout
    for run in runs:
        assert run.end() == 0, run.said
    assert status_of(out) == {"sub-01": "ok", "sub-02": "ok"}
    assert_same(out, undisturbed)
    first, second = (files_of(out / label, ("log/*", "figures/*", "*.json")) for label in ("sub-01", "sub-02"))
    assert {name.replace("sub-01", "sub-02"): content for name, content in first.items()} == second


def test_a_bare_environment(bids: Path, options: tuple[str, ...], undisturbed: Path, folder: Path) -> None:
    """Faults: a uid without HOME, LANG and LOGNAME, a tiny /tmp, and nothing to write but two folders."""
    need_root()
    need("unshare", "setpriv", "mount")
    need_no_tmp("which is all but full here")
    os.chown(folder, UID, GID)
    before = files_of(bids)
    # the tests' Python may lie where only root may look: the one capability lets its files be read, not written
    user = ["setpriv", f"--reuid={UID}", f"--regid={GID}", "--clear-groups", "--bounding-set=-all,+dac_read_search"]
    user += ["--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search"]
    bare = ["env", "-i", f"PATH={os.environ['PATH']}", f"PYTHONPATH={ROOT}", "HOME=/nonexistent"]
    mark = {name: value for name, value in os.environ.items() if name.startswith("QSMALS_")}
    bare += [f"{name}={value}" for name, value in mark.items()]
    words = [bids, folder / "out", "participant", *options, "--participant-label", "01", "-w", folder / "work"]
    script = 'mount -t tmpfs -o size=64k tmpfs /tmp && exec "$@"'
    program = [sys.executable, "-B", "-m", "qsmals", *words]
    done = call("unshare", "--mount", "sh", "-c", script, "sh", *user, *bare, *program, cwd="/")
    if "Operation not permitted" in done.stderr and not (folder / "out").exists():
        pytest.skip(f"this machine does not let its root change users or mounts: {done.stderr.strip()}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert files_of(bids) == before
    assert list((folder / "work").rglob("*.nbi")), "compiled code is kept in the work folder"
    assert_same(folder / "out", undisturbed)


def test_an_input_on_a_read_only_mount(bids: Path, options: tuple[str, ...], undisturbed: Path, folder: Path) -> None:
    """Faults: an input on a read-only mount."""
    need_root()
    need("unshare", "mount")
    script = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && ! touch "$0/x" 2>/dev/null && exec "$@"'
    words = (bids, folder / "out", "participant", *options, "--participant-label", "01", "-w", folder / "work")
    hand_over(undisturbed, words)
    command = [sys.executable, "-m", "qsmals", *words]
    done = call("unshare", "--mount", "sh", "-c", script, bids, *command)
    if not (folder / "out").exists() and "ermission" in done.stderr + done.stdout:
        pytest.skip(f"this machine does not let its root mount: {done.stderr.strip()}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert_same(folder / "out", undisturbed)
