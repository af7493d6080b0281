"""Damaged data sets by the hundred, and a few that are accepted, run for real to the failure of their nodes."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.bids_trees import Visit, write_tree
from tests.system.machine import ROOT, call, qsmals

FIRST, SEEDS = 1000, 300
"""Other trees than those of the quick tests."""


@pytest.mark.slow
def test_three_hundred_damaged_trees(shared: Path) -> None:
    """Fuzzer: 300 damaged data sets; documented exit codes, no traceback, no hang, no file outside OUTPUT_DIR."""
    n_parts = len(os.sched_getaffinity(0))
    parts = [range(FIRST, FIRST + SEEDS)[SEEDS * i // n_parts : SEEDS * (i + 1) // n_parts] for i in range(n_parts)]

    def run(part: range) -> subprocess.CompletedProcess[str]:
        return call(sys.executable, "-m", "tests.fuzzing", part[0], len(part), shared / f"fuzz-{part[0]}", cwd=ROOT)

    with ThreadPoolExecutor(n_parts) as pool:
        for part, done in zip(parts, pool.map(run, parts), strict=True):
            assert done.returncode == 0, done.stdout + done.stderr
            assert done.stdout.splitlines()[-1].startswith(f"{len(part)} trees with ")


def test_an_image_of_a_few_voxels_fails_in_its_nodes_and_says_which(shared: Path) -> None:
    """Fuzzer: what passes every check and cannot be processed: exit code 1, a page, crash files, and nothing else."""
    bids = write_tree(shared / "tiny", Visit("01"), Visit("02"))
    out = shared / "tiny-out"
    done = qsmals(bids, out, "participant", "--sloppy", "--skip-bids-validation", "-w", shared / "tiny-work")
    said = done.stdout + done.stderr
    assert done.returncode == 1, said
    assert "Traceback" not in said, said
    subjects = json.loads((out / "logs" / "summary.json").read_text())["subjects"]
    for label in ("sub-01", "sub-02"):
        assert subjects[label]["status"] == "failed" and subjects[label]["why"]
        assert (out / f"{label}.html").is_file()
        assert all(Path(failure["crash_file"]).is_file() for failure in subjects[label]["failures"])
