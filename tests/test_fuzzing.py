"""Forty damaged data sets: no traceback, no hang, no stray file, and an exit code that the manual has."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
SEEDS = 40


@pytest.mark.skipif(not hasattr(os, "fork"), reason="each tree is run in a forked process")
@pytest.mark.timeout(1200)
def test_damaged_trees_break_no_promise(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.fuzzing", "0", str(SEEDS), str(tmp_path / "fuzz")]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    said = done.stdout.splitlines()[-1]
    assert said.startswith(f"{SEEDS} trees with "), done.stdout
    for code in (0, 1, 3):
        assert f" ended in {code}" in said, "the trees are not all refused, and not all accepted"
