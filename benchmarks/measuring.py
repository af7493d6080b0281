"""What the benchmarks that measure share: one process a measurement, its memory, and results kept as they come."""

import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from qsmals.engine.files import write_text
from qsmals.engine.threads import thread_environment

Result = TypeVar("Result")


class Journal:
    """A table on disk, one row a measurement, written after each: an interrupted benchmark goes on from there."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> pd.DataFrame:
        """All rows so far."""
        if not self.path.is_file():
            return pd.DataFrame()
        return pd.read_csv(self.path, sep="\t", keep_default_na=False, na_values=["n/a"])

    def find(self, key: Mapping[str, Any]) -> dict[str, Any] | None:
        """The row with these values, None when there is none."""
        table = self.read()
        for name, value in key.items():
            if name not in table:
                return None
            table = table[table[name].astype(str) == str(value)]
        return None if table.empty else dict(table.iloc[-1])

    def add(self, row: Mapping[str, Any]) -> None:
        """Append a row; columns that it brings along are empty in the rows before."""
        table = pd.concat([self.read(), pd.DataFrame([row])], ignore_index=True)
        write_text(self.path, table.to_csv(sep="\t", index=False, na_rep="n/a"))


def in_own_process(function: Callable[..., Result], *arguments: Any, n_threads: int) -> Result:
    """Result of ``function`` in a fresh process, so that its memory and its compiled code are its own.

    The libraries of the process start with ``n_threads`` threads. A process that was killed, say for its memory, is a
    ``BrokenProcessPool``; what the function raised is raised here.
    """
    os.environ.update(thread_environment(n_threads))
    with ProcessPoolExecutor(max_workers=1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def forget_peak() -> None:
    """Start the record of the largest resident memory anew, where the kernel (Linux) can."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory_gb() -> float:
    """Largest resident memory of this process since it started or :func:`forget_peak`, GB.

    On Linux ``getrusage`` starts a child at the peak of the process that started it; the kernel's ``VmHWM`` does not.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024 / 1e9
    import resource
    import sys

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9


def cell(value: Any, digits: int = 2) -> str:
    """A number for a table, a dash for one that was not measured."""
    if isinstance(value, str):
        return value
    return "–" if value is None or pd.isna(value) else f"{value:.{digits}f}"


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """A table of finished cells."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def run(command: list[str], log: Path) -> float:
    """Run a command with its output in a log; seconds. A failure ends the benchmark with the log's name."""
    start = time.monotonic()
    with log.open("w") as stream:
        code = subprocess.run(command, stdout=stream, stderr=subprocess.STDOUT, check=False).returncode
    if code:
        sys.exit(f"{' '.join(command)}\nended with code {code}; see {log}")
    return time.monotonic() - start
