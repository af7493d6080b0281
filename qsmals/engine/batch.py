"""nipype's engines for batch systems, with the faults mended that end a run on a real cluster.

What nipype 1.11 and 1.12 do wrong, and what is done here instead, on every system of
:mod:`qsmals.engine.queues`:

* a job that vanishes (cancelled, out of memory, over time, its machine gone) ends the whole run with
  a ``TypeError``: here its node fails, with the batch system's own word for the end in the crash file;
* a job that the system will never run (in an error state, held, its dependency broken) is waited for
  for ever: here it is cancelled and has failed;
* a refused submission ends the run too: here it is tried again in later passes of nipype's loop while
  the system is away or holds as many jobs as it may, and else fails its node with the system's own message;
* a question that is not answered is read as "the job has finished": here it says nothing about the job;
* ``LOGNAME`` unset is a ``KeyError``;
* processors and memory of a node never reach the batch system, nor its threads the libraries;
* jobs stay in the queue when the run ends early: here they are cancelled, and those of a run that was killed by the
  next one (:mod:`qsmals.engine.job_notes`);
* a result left by an earlier attempt is taken for the result of a job that died;
* the engines that submit the whole graph (SLURMGraph and its like) return before anything has run:
  here they wait, and say of each node what became of it.
"""

import logging
import math
import os
import re
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nipype.pipeline.plugins.base import SGELikeBatchManagerBase
from nipype.pipeline.plugins.tools import create_pyscript

from qsmals.engine.job_notes import remove_note, write_note
from qsmals.engine.progress import Measure, Reporting
from qsmals.engine.queues import OUTAGE_S, POLL_S, QUEUES, UNKNOWN, Needs, Note, Queue, Refused, Silent, ask
from qsmals.engine.resources import GB, MIB
from qsmals.engine.signals import check_interrupted, held
from qsmals.engine.threads import thread_environment

log = logging.getLogger(__name__)

RESULT_WAIT_S = 60.0  # until a network share shows what another machine wrote
QUICK_WAIT_S = 2.0  # the same, for a job of which it is known that it ended badly
LONGEST_PAUSE = 12  # in poll_s, between two tries to submit
MIN_MEM_MIB = 512
HEADROOM = 1.25
"""A batch system kills what takes more than it asked for, and what a step takes is known to a quarter."""
# as SLURM, Grid Engine and PBS, OAR, and HTCondor say it
_ENDED_WELL = re.compile(r"^COMPLETED|exit_status 0\b|^state Terminated|ExitCode 0\b", re.IGNORECASE)
# nipype's script catches what its node raises: the batch system must see that the job failed, and its log why
_TAIL = """
if traceback is not None:
    sys.stderr.write(''.join(traceback))
    sys.exit(1)
"""


@dataclass
class Door:
    """Whether the batch system takes jobs now, and when it is tried again.

    Attributes
    ----------
    poll_s, outage_s : float
        As of :class:`BatchPlugin`.
    until : float
        When to try again, in the time of :func:`time.monotonic`.
    since : float or None
        Since when no job was taken although none of ours stood in the way; None: the last one was taken.
    met_limit : bool
        Whether a limit on the number of jobs was met in this run.
    """

    poll_s: float
    outage_s: float
    until: float = -math.inf
    since: float | None = None
    met_limit: bool = False
    tries: int = 0
    _given_up: Refused | None = None

    def is_shut(self) -> bool:
        """Whether to wait before the next try."""
        return self._given_up is None and time.monotonic() < self.until

    def given_up(self) -> Refused | None:
        """The refusal after which patience ended, until the next try: each could take its time to fail."""
        return self._given_up if time.monotonic() < self.until else None

    def is_narrow(self) -> bool:
        """Whether to send one job at a time, so that a refusal stops those behind it."""
        return self.met_limit or self.since is not None

    def refused(self, error: Refused, *, ours: bool) -> bool:
        """Note a refusal; returns whether to try again. ``ours``: jobs of ours are in the queue."""
        if error.passing is None:
            return False
        now = time.monotonic()
        if error.passing == "full" and not self.met_limit:
            self.met_limit = True
            log.warning(
                "%s; a limit on the number of jobs is met, and what is ready waits until some have ended. "
                "To stay below it, set max_jobs among the plugin_args in the file of --use-plugin",
                error,
            )
        elif error.passing == "away" and self.since is None:
            log.warning("%s; trying again for %.0f s", error, self.outage_s)
        if self.since is None or (error.passing == "full" and ours):
            self.since = now
        self._given_up = error if now - self.since > self.outage_s else None
        self.until = now + self.poll_s * min(2**self.tries, LONGEST_PAUSE)
        self.tries += 1
        return self._given_up is None

    def took(self) -> None:
        """A job was taken."""
        self.since, self.tries, self.until, self._given_up = None, 0, -math.inf, None

    def job_ended(self) -> None:
        """A job of ours has made room, if it is room that lacks."""
        if self.met_limit:
            self.tries, self.until = 0, -math.inf


class BatchPlugin(Reporting, SGELikeBatchManagerBase):  # type: ignore[misc]  # nipype has no types
    """A nipype engine that runs each node as a job of ``queue``.

    ``plugin_args`` are nipype's for that system (``sbatch_args``, ``qsub_args``, ``bsub_args``, ...,
    ``template``, ``max_jobs``), those of the queue, and:

    poll_s : float
        Seconds between two questions to the batch system (one question for all jobs, mostly).
    outage_s : float
        How long it may be silent before the run gives up, and how long it may take no job, none of this run
        being in the queue or the system being away, before a node that is ready has failed.
    result_wait_s : float
        How long to wait for the result of a job that has ended to appear on the shared disk.
    itk_threads : int
        Threads of ITK when not those of the node (1: registrations with equal bytes).
    """

    OWN_ARGS = Reporting.REPORTING_ARGS | {"poll_s", "outage_s", "result_wait_s", "itk_threads"}
    NIPYPE_ARGS = frozenset({"template", "max_jobs", "status_callback"})
    # nipype's words for what is done otherwise here
    WITHOUT_MEANING = frozenset({"retry_timeout", "max_tries", "jobid_re", "dont_resubmit_completed_jobs"})

    def __init__(self, queue: Queue, plugin_args: Mapping[str, Any] | None = None) -> None:
        args = dict(plugin_args or {})
        known = self.OWN_ARGS | self.NIPYPE_ARGS | self.WITHOUT_MEANING | queue.own_args | {queue.args_key}
        if unknown := sorted(set(args) - known):
            raise ValueError(
                f"this engine knows no plugin_args {', '.join(unknown)}; it has {', '.join(sorted(known))}"
            )
        set_logname()
        super().__init__("#!/bin/bash", plugin_args={k: v for k, v in args.items() if k in self.NIPYPE_ARGS})
        self.queue = queue
        self._system = next(name for name, kind in QUEUES.items() if isinstance(queue, kind))
        self._user_args = str(args.get(queue.args_key) or "")
        self._itk_threads: int | None = args.get("itk_threads")
        self._poll_s = float(args.get("poll_s", POLL_S))
        self._outage_s = float(args.get("outage_s", OUTAGE_S))
        self._result_wait_s = float(args.get("result_wait_s", RESULT_WAIT_S))
        self._init_reporting(args)

    def _reset_reporting(self) -> None:
        super()._reset_reporting()
        self._door = Door(self._poll_s, self._outage_s)
        self._put_off: dict[str, Path] = {}  # script by output folder of the nodes that were handed back
        self._unanswered: dict[str, Note] = {}  # by output folder of nodes whose submission may have come through
        self._pending: dict[str, str] = {}  # nipype's name: output folder by job
        self._logs: dict[str, Path] = {}
        self._submitted: dict[str, float] = {}
        self._refused: dict[str, str] = {}
        self._stuck: dict[str, str] = {}
        self._ended_at: dict[str, float] = {}
        self._alive: set[str] = set()
        self._asked_at = -math.inf
        self._silent_since: float | None = None

    def _execution_settings(self) -> dict[str, Any]:
        return {"poll_sleep_duration": min(1.0, self._poll_s)}

    # -- submission ----------------------------------------------------------------------------

    @property
    def max_jobs(self) -> float:
        """nipype's limit on the jobs in the queue, which it asks for before each that it sends.

        None more while the door is shut: nipype's loop would otherwise spin on what is handed back.
        """
        more = 0 if self._door.is_shut() else 1 if self._door.is_narrow() else math.inf
        return min(self._most_jobs, len(self.pending_tasks) + more)

    @max_jobs.setter
    def max_jobs(self, most: float) -> None:
        self._most_jobs = most

    def _submit_job(self, node: Any, updatehash: bool = False, after: Sequence[str] = ()) -> str | None:
        """Submit; a lasting refusal becomes a job that has failed already, a passing one None, nipype's "not now"."""
        check_interrupted()
        if self._door.is_shut():
            return None
        folder = node.output_dir()
        script = self._put_off.pop(folder, None) or self._prepare(node, updatehash)
        needs = self._needs(node, script.parent)
        note = Note(self._system, needs.name, str(script.parent))
        with held():  # what the batch system has taken is known here before the run ends
            try:
                if error := self._door.given_up():
                    raise error
                self._note(folder, note)
                job = self._found(folder) or self.queue.submit(str(script), needs, self._given(node), after)
                self._pending[job] = folder
                self._alive.add(job)
                self._door.took()
                self._note(folder, replace(note, job=job))
            except Refused as error:
                if error.passing == "away":
                    self._unanswered[folder] = note
                if self._door.refused(error, ours=not self._alive.isdisjoint(self._in_queue())):
                    self._put_off[folder] = script
                    return None
                job = f"refused-{len(self._refused) + 1}"
                self._pending[job], self._refused[job] = folder, str(error)
            self._logs[job] = self.queue.log_of(needs, job)
            self._submitted[job] = time.monotonic()
            return job

    def _note(self, folder: str, note: Note) -> None:
        """Note the job of the node that works in ``folder`` for a later run."""
        write_note(folder, note)

    def _prepare(self, node: Any, updatehash: bool) -> Path:
        """Write the script; a result that is there before any try is an earlier run's."""
        for stale in Path(node.output_dir()).glob("result_*.pklz"):
            stale.unlink(missing_ok=True)
        return self._write_script(node, updatehash)

    def _write_script(self, node: Any, updatehash: bool) -> Path:
        """What the job runs; the threads of its libraries are set in it, whatever environment reaches the job."""
        code = Path(create_pyscript(node, updatehash=updatehash))
        with code.open("a") as stream:
            stream.write(_TAIL)
        environ = thread_environment(_threads(node), itk_threads=self._itk_threads)
        lines = [
            self._template.rstrip("\n"),
            *(f"export {name}={shlex.quote(value)}" for name, value in environ.items()),
            f"cd {shlex.quote(str(code.parent))} || exit 1",
            shlex.join(["exec", sys.executable, str(code)]),
        ]
        script = code.with_name(f"batchscript_{code.stem}.sh")
        script.write_text("\n".join(lines) + "\n")
        return script

    def _needs(self, node: Any, folder: Path) -> Needs:
        name = node.fullname
        mem_mib = max(MIN_MEM_MIB, math.ceil(HEADROOM * node.mem_gb * GB / MIB))
        return Needs(name, _threads(node), mem_mib, folder / f"{name}-%j.out")

    def _given(self, node: Any) -> list[str]:
        """The user's own arguments: of the run, then of the node."""
        own = node.plugin_args if isinstance(node.plugin_args, dict) else {}
        general = "" if own.get("overwrite") else self._user_args
        return shlex.split(general) + shlex.split(own.get(self.queue.args_key, ""))

    def _found(self, folder: str) -> str | None:
        """The job of the node that works in ``folder``, if a try that had no answer has left it in the queue."""
        if folder not in self._unanswered:
            return None
        try:
            left = self.queue.left([self._unanswered[folder]])
        except Silent as silence:
            raise Refused(str(silence), passing="away") from silence
        return next(iter(sorted(left - self._submitted.keys())), None)

    def _in_queue(self) -> list[str]:
        """Jobs that were taken and whose end has not been dealt with."""
        return [job for job in self._pending if job not in self._refused]

    # -- polling -------------------------------------------------------------------------------

    def _is_pending(self, taskid: str) -> bool:
        if time.monotonic() - self._asked_at >= self._poll_s:
            self._ask_for_all()
        return taskid in self._alive

    def _ask_for_all(self) -> None:
        """Ask for all our jobs; an answer that does not come changes nothing."""
        check_interrupted()
        jobs = self._in_queue()
        try:
            states = self.queue.states(jobs) if jobs else {}
        except Silent as silence:
            self._note_silence(str(silence))
            return
        finally:
            self._asked_at = time.monotonic()
        self._silent_since = None
        for job in (job for job, state in states.items() if state == "stuck" and job not in self._stuck):
            self._stuck[job] = f"it would never have run, and was cancelled: {self.queue.end_of(job)}"
            self._cancel([job])
        # a job that the system does not know any more has ended too
        self._alive = {job for job in jobs if states.get(job) == "alive"}

    def _note_silence(self, message: str) -> None:
        now = time.monotonic()
        if self._silent_since is None:
            self._silent_since = now
            log.warning("the batch system does not answer, its jobs are waited for: %s", message)
        if now - self._silent_since > self._outage_s:
            raise RuntimeError(f"the batch system has not answered for {self._outage_s:.0f} s: {message}")

    def _get_result(self, taskid: str) -> dict[str, Any] | None:
        if taskid in self._refused:
            return _failed(self._refused[taskid])
        if self._is_pending(taskid):
            self._ended_at.pop(taskid, None)  # it was only out of the queue's sight
            return None
        if taskid in self._stuck or not _has_result(self._pending[taskid]):
            return self._missing_result(taskid)
        self._measure = Measure(seconds=time.monotonic() - self._submitted[taskid])
        return super()._get_result(taskid)  # type: ignore[no-any-return]

    def _missing_result(self, taskid: str) -> dict[str, Any] | None:
        """Nothing while a network share may still be late; then the failure, in the system's word for the end."""
        now = time.monotonic()
        end = self._stuck.get(taskid) or self.queue.end_of(taskid)
        well = end == UNKNOWN or _ENDED_WELL.search(end)
        patience = self._result_wait_s if well else min(QUICK_WAIT_S, self._result_wait_s)
        if now - self._ended_at.setdefault(taskid, now) < patience:
            return None
        return _failed(f"job {taskid} ended without a result: {end}", _tail_of(self._logs[taskid]))

    def _clear_task(self, taskid: str) -> None:
        folder = self._pending.pop(taskid)
        may_be_there = taskid in self._alive or (taskid in self._refused and folder in self._unanswered)
        if not may_be_there:
            remove_note(folder)
        self._alive.discard(taskid)
        if taskid not in self._refused:
            self._door.job_ended()

    def _abandon(self) -> None:
        """Cancel what is still in the queue; the notes stay, by which the next run sees to it that it has ended."""
        left, self._pending = self._in_queue(), {}
        if left:
            log.warning("cancelling jobs %s", " ".join(left))
            self._cancel(left)
        if self._unanswered:
            with suppress(Silent):
                if lost := sorted(self.queue.left(self._unanswered.values()) - set(left)):
                    log.warning("cancelling jobs that were taken without an answer: %s", " ".join(lost))
                    self._cancel(lost)

    def _cancel(self, jobs: Sequence[str]) -> None:
        done = ask(self.queue.cancel(jobs))
        if done.returncode != 0:
            log.debug("%s: %s", shlex.join(done.args), done.stderr.strip())


class GraphPlugin(BatchPlugin):
    """Gives all nodes to the batch system at once, each held until those before it have ended well.

    The run ends when the last of them has ended. Nodes that are up to date are not submitted; what
    comes after a failed node is taken out of the queue.
    """

    def _reset_reporting(self) -> None:
        super()._reset_reporting()
        self._job_of: dict[int, str] = {}  # by nipype's index of the node
        self._before: dict[str, list[str]] = {}
        self._dropped: set[int] = set()
        self._n_sent = 0

    def _send_procs_to_workers(self, updatehash: bool = False, graph: Any = None) -> None:
        """Called by nipype in every pass; all is done in the first, unless there is a limit."""
        if self._n_sent == len(self.procs):
            return
        index = {node: number for number, node in enumerate(self.procs)}
        for number in range(self._n_sent, len(self.procs)):  # in topological order
            if len(self.pending_tasks) >= self.max_jobs:
                return
            node, self._n_sent = self.procs[number], number + 1
            if number in self._dropped:
                continue
            before = [index[other] for other in graph.predecessors(node)]
            self.proc_done[number] = self.proc_pending[number] = True
            if not any(other in self._job_of for other in before) and self._local_hash_check(number, graph):
                continue
            # one that has ended well may be forgotten, and to wait for it an error
            jobs = [job for other in before if (job := self._job_of.get(other)) in self._pending]
            if refused := next((job for job in jobs if job in self._refused), None):
                job = f"behind-{number}"
                self._refused[job] = f"not submitted, because one before it was not: {self._refused[refused]}"
                self._pending[job] = node.output_dir()
            else:
                job = self._submit_job(node, updatehash, jobs)
            if job is None:
                self.proc_done[number] = self.proc_pending[number] = False
                self._n_sent = number
                return
            self._job_of[number], self._before[job] = job, jobs
            self.pending_tasks.insert(0, (job, number))  # nipype looks at the last one first

    def _clean_queue(self, jobid: int, graph: Any, result: dict[str, Any] | None = None) -> dict[str, Any]:
        """After a failure, what depends on it neither runs nor is waited for."""
        note: dict[str, Any] = super()._clean_queue(jobid, graph, result=result)
        index = {node: number for number, node in enumerate(self.procs)}
        behind = {index[node] for node in note["dependents"]} - {jobid} - self._dropped
        self._dropped |= behind
        if left := [job for n in behind if (job := self._job_of.get(n)) in self._pending and job not in self._refused]:
            self._cancel(left)
        return note

    def _get_result(self, taskid: str) -> dict[str, Any] | None:
        if any(self._job_of.get(number) == taskid for number in self._dropped):
            return {"result": None, "traceback": None}
        if any(job in self._pending for job in self._before[taskid]):
            return None  # what failed first is to blame for the rest
        return super()._get_result(taskid)

    def _task_finished_cb(self, jobid: int, cached: bool = False) -> None:
        if jobid not in self._dropped:
            super()._task_finished_cb(jobid, cached=cached)


def set_logname() -> None:
    """nipype's batch engines read LOGNAME, which containers and cron leave unset."""
    os.environ.setdefault("LOGNAME", os.environ.get("USER") or f"uid{os.getuid()}")


def _threads(node: Any) -> int:
    return max(1, int(node.n_procs or 1))


def _has_result(folder: str) -> bool:
    """Whether the node left a result; listing the folder makes a network share look again."""
    try:
        return any(path.match("result_*.pklz") for path in Path(folder).iterdir())
    except OSError:
        return False


def _tail_of(file: Path) -> str:
    """The end of a job's log, with its name."""
    try:
        text = file.read_text(errors="replace").strip()[-2000:]
    except OSError:
        return ""
    return f"{file}:\n{text}\n\n" if text else ""


def _failed(why: str, detail: str = "") -> dict[str, Any]:
    """A failure for nipype; the cause comes last, as in a traceback."""
    return {"result": None, "traceback": [*detail.splitlines(keepends=True), f"JobDied: {why}\n"]}
