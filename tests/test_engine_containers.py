"""The files around the image and the cluster: the lock file, and the scripts that submit a study."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from qsmals.engine.summary import Failure, SubjectSummary, merge_summary

ROOT = Path(__file__).resolve().parents[1]
SLURM = ROOT / "containers/slurm"


def locked():
    """Entries of the lock file: name -> text with its hashes."""
    text = (ROOT / "containers/requirements.lock").read_text()
    entries = re.findall(
        r"^([a-z0-9][a-z0-9._-]*)==(\S+)((?: \\\n    --hash=sha256:[0-9a-f]{64})+)$", text, re.MULTILINE
    )
    assert len(entries) == len(re.findall(r"^[^\s#]", text, re.MULTILINE)), "every entry has its hashes"
    return {name: version for name, version, _ in entries}


def test_lock_holds_every_dependency():
    names = locked()
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    wanted += (ROOT / "containers/requirements.in").read_text().splitlines()
    for line in wanted:
        if line and not line.startswith("#"):
            name = re.match(r"[A-Za-z0-9._-]+", line)[0].lower()
            assert name in names, f"{name} is missing: run containers/lock.sh"


def test_lock_names_no_registry():
    text = (ROOT / "containers/requirements.lock").read_text()
    assert "://" not in text and "--index-url" not in text and "--find-links" not in text


@pytest.fixture
def study(tmp_path):
    """A data set of three subjects, an OUTPUT_DIR where the first is done, and an sbatch that only notes."""
    for label in ("01", "02", "03"):
        (tmp_path / f"bids/sub-{label}").mkdir(parents=True)
    failure = Failure("sub-02", "unwrapping", "killed by signal 9", "/out/crash.txt")
    entries = [SubjectSummary("sub-01", "ok"), SubjectSummary("sub-02", "failed", "one step", (failure,))]
    merge_summary(tmp_path / "out/logs/summary.json", entries)
    sbatch = tmp_path / "bin/sbatch"
    sbatch.parent.mkdir()
    sbatch.write_text('#!/bin/sh\nprintf "%s|" "$@" >> "$NOTES"; echo >> "$NOTES"; wc -l < "$NOTES"\n')
    sbatch.chmod(0o755)
    return tmp_path


def submit(study, *args):
    environ = os.environ | {"PATH": f"{study}/bin:{os.environ['PATH']}", "NOTES": f"{study}/notes"}
    environ["PYTHON"] = sys.executable
    command = ["bash", SLURM / "submit.sh", *args]
    return subprocess.run(command, env=environ, capture_output=True, text=True, check=False)


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_submit_asks_for_what_is_missing(study):
    done = submit(
        study, "--mem", "8G", "--throttle", "5", "--sbatch", "-p long", study / "bids", study / "out", "--", "-v"
    )
    assert done.returncode == 0, done.stderr
    array, group = (line.split("|") for line in (study / "notes").read_text().splitlines())
    assert "--array=1-2%5" in array and "--mem=8G" in array and array[array.index("-p") + 1] == "long"
    assert "--dependency=afterany:1" in group and group[-2].endswith("group.sbatch")
    (run,) = (study / "out/logs/slurm").iterdir()
    assert (run / "subjects.txt").read_text() == "sub-02\nsub-03\n"
    assert (run / "options").read_text() == "-v\0"


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_submit_with_nothing_missing_runs_the_group(study):
    merge_summary(study / "out/logs/summary.json", [SubjectSummary(f"sub-0{i}", "ok") for i in (2, 3)])
    done = submit(study, study / "bids", study / "out")
    assert done.returncode == 0 and "every subject is done" in done.stdout
    assert "--dependency" not in (study / "notes").read_text()
    assert submit(study, "--nonsense", study / "bids", study / "out").returncode == 2


def test_status_says_who_failed_and_why(study):
    command = [sys.executable, SLURM / "status.py", study / "out", "--bids", study / "bids"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        "sub-02  failed  one step",
        "    unwrapping: killed by signal 9 (see /out/crash.txt)",
        "sub-03  no result: not run yet, running, or killed (see the log of its task)",
        "1 of 3 subjects are done",
    ]
