"""What a person sees of a run: a line per finished step, and each failure with its cause.

:class:`Reporting` is mixed into every nipype plugin that qsmals uses, so that the command line hears
of steps and failures in one way, whichever engine runs them.
"""

import logging
import os
import re
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from qsmals.engine.files import write_text
from qsmals.engine.job_notes import end_earlier
from qsmals.engine.queues import OUTAGE_S, POLL_S
from qsmals.engine.signals import check_interrupted
from qsmals.engine.summary import Failure, duration

log = logging.getLogger(__name__)
progress_log = logging.getLogger("qsmals.progress")

State = Literal["done", "cached", "failed", "again"]

_HEAD_OF_EXCEPTION = re.compile(r"([\w]+\.)*\w*(Error|Exception|Exit|Died|Locked|Held)\b")


@dataclass(frozen=True)
class Measure:
    """What running a node took: seconds, and the largest resident memory in GB."""

    seconds: float | None = None
    peak_gb: float | None = None


@dataclass(frozen=True)
class Step:
    """A node that has finished or failed, as a person follows it.

    Attributes
    ----------
    unit, name : str
        Where in the data (``sub-01 run-1``) and what (``unwrap (ROMEO)``).
    state : {'done', 'cached', 'failed', 'again'}
        ``again``: its worker died and it will be tried once more, alone.
    index, total : int
        Steps finished so far in the unit, and all of them.
    node : str
        nipype's full name.
    seconds, peak_gb : float or None
        Time and largest resident memory; None for what was not run in a worker.
    mem_gb, n_procs : float, int
        What the node had asked for.
    why : str
        Cause, when it failed.
    ended : float
        When that was known, s since the epoch.
    """

    unit: str
    name: str
    state: State
    index: int
    total: int
    node: str
    seconds: float | None = None
    peak_gb: float | None = None
    mem_gb: float = 0.0
    n_procs: int = 1
    why: str = ""
    ended: float = 0.0

    def __str__(self) -> str:
        where = f"[{self.unit}]" if self.unit else "[all]"
        outcome = {
            "done": duration(self.seconds) if self.seconds is not None else "done",
            "cached": "already done",
            "failed": f"FAILED: {self.why}",
            "again": f"to be tried again, alone: {self.why}",
        }[self.state]
        return f"{where} {self.index:>3}/{self.total}  {self.name}  {outcome}"


class NodesFailed(RuntimeError):
    """At least one node failed; the rest of the graph has been run. ``failures`` says which and why."""

    def __init__(self, failures: Iterable[Failure]) -> None:
        self.failures = tuple(failures)
        super().__init__("; ".join(f"{f.node} [{f.unit}]: {f.why}" for f in self.failures))


def announce(node: Any, *, unit: str, step: str) -> Any:
    """Give ``node`` the words of its progress line (an empty ``step``: no line); returns the node."""
    node.qsmals_unit, node.qsmals_step = unit, step
    return node


def name_node(node: Any) -> tuple[str, str]:
    """Unit and step of ``node``: what :func:`announce` said, else read from its name.

    ``wf.sub_01_wf.run_1_wf.unwrap_phase`` is step ``unwrap phase`` of ``sub-01 run-1``.
    """
    *parents, own = node.fullname.split(".")
    found = re.findall(r"(?:^|[._])(sub|ses|acq|run)_([A-Za-z0-9]+)", ".".join(parents))
    unit = getattr(node, "qsmals_unit", None)
    step = getattr(node, "qsmals_step", None)
    return (
        " ".join(f"{key}-{value}" for key, value in dict(found).items()) if unit is None else unit,
        own.replace("_", " ").strip() if step is None else step,
    )


def log_progress(step: Step) -> None:
    """The default for ``progress``: a line of the logger ``qsmals.progress``."""
    progress_log.log(logging.ERROR if step.state == "failed" else logging.INFO, "%s", step)


def write_steps(path: Path, steps: Iterable[Step]) -> Path:
    """Write time and memory of each step as a TSV table, asked for and measured side by side."""
    columns = ("unit", "name", "state", "seconds", "n_procs", "mem_gb", "peak_gb", "node")
    rows = ["\t".join(columns)]
    for step in steps:
        values = (getattr(step, column) for column in columns)
        rows.append("\t".join("n/a" if v is None else f"{v:.4g}" if isinstance(v, float) else str(v) for v in values))
    return write_text(path, "\n".join(rows) + "\n")


def write_crash(folder: Path, node: Any, lines: Iterable[str]) -> Path:
    """Write nipype's crash file of ``node`` under its usual name, whole or not at all (nipype's own may stay empty)."""
    user = os.environ.get("LOGNAME") or f"UID{os.getuid()}"
    name = f"crash-{time.strftime('%Y%m%d-%H%M%S')}-{user}-{node._id}-{uuid.uuid4()}.txt"
    head = f"Node: {node.fullname}\nWorking directory: {node.output_dir()}\n\nNode inputs:\n{node.inputs}\n"
    return write_text(folder / name, head + "".join(lines))


def nipype_settings(crash_dir: Path, *, stop_on_first_crash: bool = False) -> dict[str, dict[str, str]]:
    """What a workflow's ``config`` should hold: ``workflow.config.update(nipype_settings(...))``.

    Crash files are readable text in ``crash_dir``; nothing is asked of the network and no HTML
    page of nipype's own is written.
    """
    return {
        "execution": {
            "crashdump_dir": str(crash_dir),
            "crashfile_format": "txt",
            "stop_on_first_crash": str(stop_on_first_crash).lower(),
            "check_version": "false",
            "create_report": "false",
            "hash_method": "timestamp",
            "parameterize_dirs": "false",  # long values would make names that file systems refuse
        }
    }


class Reporting:
    """Mixed in before a distributed nipype plugin: collects and announces what becomes of the nodes.

    Attributes
    ----------
    steps : list of Step
        Every node that ended in the last run, for the log and for benchmarks.
    failures : list of Failure
        Every node that failed in the last run.
    peak_gb : dict
        Largest memory of any one node, by unit.
    nodes : frozenset of str
        Full names of all nodes of the last run's graph; empty before it began.
    """

    REPORTING_ARGS = frozenset({"progress", "naming"})

    _poll_s, _outage_s = POLL_S, OUTAGE_S  # patience with a batch system

    # of nipype's DistributedPluginBase
    procs: list[Any]
    mapnodesubids: dict[int, int]

    def _init_reporting(self, args: dict[str, Any]) -> None:
        self._progress: Callable[[Step], None] = args.get("progress") or log_progress
        self._naming: Callable[[Any], tuple[str, str]] = args.get("naming") or name_node
        self._reset_reporting()

    def _reset_reporting(self) -> None:
        self.steps: list[Step] = []
        self.failures: list[Failure] = []
        self.peak_gb: dict[str, float] = {}
        self.nodes: frozenset[str] = frozenset()
        self._measure = Measure()
        self._totals: dict[str, int] = {}
        self._counts: dict[str, int] = {}
        self._ended: set[str] = set()

    def run(self, graph: Any, config: Any, updatehash: bool = False) -> None:
        """Run ``graph`` to its end; raises :class:`NodesFailed` if a node failed.

        Jobs that a run before has left for these nodes end first. Whatever ends this one, :meth:`_abandon` ends what
        it had started.
        """
        self._reset_reporting()
        self.nodes = frozenset(node.fullname for node in graph.nodes())
        for node in graph.nodes():
            unit, step = self._naming(node)
            if step:
                self._totals[unit] = self._totals.get(unit, 0) + 1
        config = {**config, "execution": {**config["execution"], **self._execution_settings()}}
        try:
            end_earlier(graph.nodes(), poll_s=self._poll_s, outage_s=self._outage_s)
            super().run(graph, config, updatehash=updatehash)  # type: ignore[misc]
        except Exception as error:
            check_interrupted()
            if self.failures:
                raise NodesFailed(self.failures) from error
            raise
        finally:
            self._abandon()

    def _execution_settings(self) -> dict[str, Any]:
        """Settings of nipype's ``execution`` section that this engine needs otherwise."""
        return {}

    def _abandon(self) -> None:
        """End whatever still runs for this plugin."""

    def _task_finished_cb(self, jobid: int, cached: bool = False) -> None:
        super()._task_finished_cb(jobid, cached=cached)  # type: ignore[misc]
        node = self.procs[jobid]
        # nipype calls this also for a node that failed in the main process
        if node.fullname not in self._ended and jobid not in self.mapnodesubids:
            self._ended.add(node.fullname)
            self._report(node, "cached" if cached else "done")

    def _report_crash(self, node: Any, result: dict[str, Any] | None = None) -> str:
        """Write the crash file and keep the cause; a crash file that cannot be written fails nobody else."""
        lines = _as_lines(result["traceback"] if result else None)
        why = cause(lines)
        crash_file: str | None = None
        try:
            crash_file = str(write_crash(Path(node.config["execution"]["crashdump_dir"]), node, lines))
        except Exception as error:
            log.error("no crash file for %s: %s", node.fullname, error)
        log.debug("%s failed:\n%s", node.fullname, "".join(lines))
        unit, step = self._naming(node)
        self.failures.append(Failure(unit, step or node.name.replace("_", " "), why, crash_file))
        self._ended.add(node.fullname)
        self._report(node, "failed", why=why)
        return crash_file or "could not be written"

    def _report(self, node: Any, state: State, why: str = "") -> None:
        unit, name = self._naming(node)
        measure, self._measure = self._measure, Measure()
        if measure.peak_gb is not None:
            self.peak_gb[unit] = max(measure.peak_gb, self.peak_gb.get(unit, 0.0))
        if state in ("done", "cached") and name:
            self._counts[unit] = self._counts.get(unit, 0) + 1
        step = Step(
            unit=unit,
            name=name or node.name.replace("_", " "),
            state=state,
            index=self._counts.get(unit, 0),
            total=self._totals.get(unit, 0),
            node=node.fullname,
            seconds=measure.seconds,
            peak_gb=measure.peak_gb,
            mem_gb=float(node.mem_gb),
            n_procs=int(node.n_procs or 1),
            why=why,
            ended=time.time(),
        )
        self.steps.append(step)
        if name or state in ("failed", "again"):
            self._progress(step)


def cause(lines: Iterable[str], limit: int = 300) -> str:
    """The exception's own words, on one line, from a traceback (nipype nests them as text).

    Examples
    --------
    >>> cause(["Traceback (most recent call last):\\n", '  File "a.py", line 1\\n', "ValueError: echoes differ\\n"])
    'ValueError: echoes differ'
    """
    text = [line.strip() for line in "".join(lines).splitlines() if line.strip()]
    heads = [
        i for i, line in enumerate(text) if re.match(r"([\w]+\.)*\w*(Error|Exception|Exit|Died|Locked|Held)\b", line)
    ]
    chosen = " ".join(text[heads[-1] :] if heads else text[-1:]) or "no cause was given"
    return chosen if len(chosen) <= limit else chosen[: limit - 3] + "..."


def _as_lines(trace: str | list[str] | None) -> list[str]:
    """A traceback as the list of lines that nipype's crash report wants, whatever it was."""
    if not trace:
        return ["no traceback\n"]
    return trace.splitlines(keepends=True) if isinstance(trace, str) else list(trace)
