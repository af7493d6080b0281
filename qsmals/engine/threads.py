"""How many threads the libraries use inside a node.

Workers are started with the thread counts of their nodes in the environment, before numpy, numba or
ITK are loaded (:func:`thread_environment`); inside a kernel's caller, :func:`threads` narrows it.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
)


def thread_environment(n_threads: int, *, itk_threads: int | None = None) -> dict[str, str]:
    """Variables that make a new process use ``n_threads`` threads (ITK ``itk_threads``, if given)."""
    values = dict.fromkeys(THREAD_VARIABLES, str(n_threads))
    if itk_threads is not None:
        values["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = str(itk_threads)
    # waiting OpenMP threads must not burn the processors of other nodes
    values["OMP_WAIT_POLICY"] = "PASSIVE"
    return values


@contextmanager
def threads(n_threads: int) -> Iterator[None]:
    """Let scipy.fft, numba and BLAS use ``n_threads`` threads inside the block.

    numba and BLAS can be narrowed to at most what they started with; scipy.fft follows at once.
    ITK reads ``ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS`` once, at its first filter: the variable is
    lowered for a process that has not come that far (never raised: one ITK thread may have been
    asked for to get equal bytes) and restored afterwards.

    Raises
    ------
    ValueError
        ``n_threads`` is less than 1.
    """
    if n_threads < 1:
        raise ValueError(f"a node needs at least one thread, not {n_threads}")
    from scipy import fft

    with ExitStack() as stack:
        stack.enter_context(fft.set_workers(n_threads))
        stack.enter_context(_numba_threads(n_threads))
        stack.enter_context(_blas_threads(n_threads))
        stack.enter_context(_itk_threads(n_threads))
        yield


@contextmanager
def _numba_threads(n_threads: int) -> Iterator[None]:
    import numba

    before = numba.get_num_threads()
    numba.set_num_threads(min(n_threads, numba.config.NUMBA_NUM_THREADS))
    try:
        yield
    finally:
        numba.set_num_threads(before)


@contextmanager
def _blas_threads(n_threads: int) -> Iterator[None]:
    """Where threadpoolctl is installed; else BLAS keeps the count of the process's environment."""
    try:
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]
    except ImportError:
        yield
        return
    with threadpool_limits(limits=n_threads):
        yield


@contextmanager
def _itk_threads(n_threads: int) -> Iterator[None]:
    name = "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"
    if "ants" in sys.modules:
        yield
        return
    before = os.environ.get(name)
    allowed = int(before) if before and before.isdigit() else n_threads
    os.environ[name] = str(min(n_threads, allowed))
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = before
