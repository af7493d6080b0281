"""How much effort a step may take, with how many threads, which seed, and where it may write."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

THREADS_VARIABLE = "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"


@dataclass(frozen=True)
class Compute:
    """Resources of an anatomical step.

    Attributes
    ----------
    work_dir : Path
        Every intermediate and transform file goes here; created when missing.
    threads : int
        Threads of ITK, at least 1. ITK reads the number once in the life of a process, at its first
        filter, so that all steps of a process must agree on it.
    seed : int
        Seed of every random number. Mutual information summed by several threads still differs in the
        last bits from run to run; one thread and a seed give equal bytes.
    sloppy : bool
        Coarse grids and few iterations, for tests.
    """

    work_dir: Path
    threads: int = 1
    seed: int = 42
    sloppy: bool = False

    def __post_init__(self) -> None:
        if self.threads < 1:
            raise ValueError(f"a step needs at least one thread, not {self.threads}")
        if self.seed < 1:
            raise ValueError(f"ITK takes a seed of 0 for the clock: give a positive one, not {self.seed}")
        if set(str(self.work_dir)) & set(",[]"):
            raise ValueError(f"ANTs cannot use a folder with a comma or a bracket in its path: {self.work_dir}")

    def folder(self, name: str) -> Path:
        """The folder ``name`` under ``work_dir``, created when missing."""
        path = self.work_dir / name
        path.mkdir(parents=True, exist_ok=True)
        return path


class _Threads:
    """The thread number that ITK has frozen in this process, None before its first use."""

    frozen: int | None = None


@contextmanager
def ants_session(compute: Compute) -> Iterator[Any]:
    """Give the ``ants`` module with threads and temporary folder set as ``compute`` says.

    The first session of a process decides how many threads ITK has; see `require_threads`.
    """
    compute.work_dir.mkdir(parents=True, exist_ok=True)
    if _Threads.frozen is None:
        os.environ[THREADS_VARIABLE] = str(compute.threads)
        _Threads.frozen = compute.threads
    import ants

    before = tempfile.tempdir
    tempfile.tempdir = str(compute.work_dir)
    try:
        yield ants
    finally:
        tempfile.tempdir = before


def require_threads(compute: Compute) -> None:
    """Refuse to go on when one thread was asked for and ITK runs with more.

    Steps that only resample give the same bits with any number of threads; those that optimise do not.

    Raises
    ------
    RuntimeError
        An earlier step of this process started ITK with more threads.
    """
    if compute.threads == 1 and (_Threads.frozen or 1) > 1:
        raise RuntimeError(
            f"ITK already runs with {_Threads.frozen} threads in this process and cannot go back to one, which "
            "equal results need: give every anatomical step of a process the same number of threads"
        )
