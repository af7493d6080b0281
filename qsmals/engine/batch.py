"""nipype's own batch engines, with the faults mended that end a run on a real cluster.

What nipype 1.11 and 1.12 do wrong, and what is done here instead:

* a job that vanishes (cancelled, out of memory, over time, its machine gone) ends the whole run with
  a ``TypeError``: here its node fails, with SLURM's own word for the end in the crash file;
* a refused ``sbatch`` ends the run too: here it is retried while the controller is away, and else
  fails its node with SLURM's own message;
* ``squeue`` failing is read as "the job has finished": here it says nothing about the job;
* ``LOGNAME`` unset is a ``KeyError``;
* processors and memory of a node never reach ``sbatch``;
* jobs stay in the queue when the run ends early: here they are cancelled;
* a result left by an earlier attempt is taken for the result of a job that died.
"""

import logging
import math
import os
import shlex
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from nipype.pipeline.plugins.slurm import SLURMPlugin

from qsmals.engine.progress import Measure, Reporting
from qsmals.engine.resources import GB, MIB
from qsmals.engine.signals import check_interrupted
from qsmals.engine.threads import thread_environment

log = logging.getLogger(__name__)

POLL_S = 5.0
OUTAGE_S = 1800.0  # a controller being upgraded
RESULT_WAIT_S = 60.0  # until a network share shows what another machine wrote
SUBMIT_TRIES = 5
MIN_MEM_MIB = 512

_TRANSIENT = ("Unable to contact", "timed out", "temporarily", "try again", "Connection refused", "not available")
_ENDED = frozenset({"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY"})
_ENDED |= {"PREEMPTED", "REVOKED", "TIMEOUT"}


class Refused(RuntimeError):
    """The batch system did not take a job."""


class SlurmPlugin(Reporting, SLURMPlugin):  # type: ignore[misc]  # nipype has no types
    """nipype's SLURM engine for clusters as they are; ``plugin_args`` as nipype's, and:

    poll_s : float
        Seconds between two questions to the controller (one question for all jobs).
    outage_s : float
        How long the controller may be silent before the run gives up.
    result_wait_s : float
        How long to wait for the result of a job that has ended to appear on the shared disk.
    max_jobs : int
        Jobs in the queue at once.
    """

    OWN_ARGS = Reporting.REPORTING_ARGS | {"poll_s", "outage_s", "result_wait_s"}

    def __init__(self, plugin_args: dict[str, Any] | None = None) -> None:
        args = dict(plugin_args or {})
        set_logname()
        super().__init__(plugin_args={k: v for k, v in args.items() if k not in self.OWN_ARGS})
        self._poll_s = float(args.get("poll_s", POLL_S))
        self._outage_s = float(args.get("outage_s", OUTAGE_S))
        self._result_wait_s = float(args.get("result_wait_s", RESULT_WAIT_S))
        self._init_reporting(args)

    def _reset_reporting(self) -> None:
        super()._reset_reporting()
        self._pending: dict[int, str] = {}
        self._submitted: dict[int, float] = {}
        self._refused: dict[int, str] = {}
        self._ended_at: dict[int, float] = {}
        self._alive: set[int] = set()
        self._asked_at = -math.inf
        self._silent_since: float | None = None

    def _execution_settings(self) -> dict[str, Any]:
        return {"poll_sleep_duration": min(1.0, self._poll_s)}

    # -- submission ----------------------------------------------------------------------------

    def _submit_batchtask(self, scriptfile: str, node: Any) -> int:
        """Submit; a refusal becomes a task with a negative number that has failed already."""
        check_interrupted()
        for stale in Path(node.output_dir()).glob("result_*.pklz"):
            stale.unlink(missing_ok=True)
        try:
            task_id = self._sbatch(scriptfile, node)
        except Refused as error:
            task_id = -len(self._refused) - 1
            self._refused[task_id] = str(error)
        self._pending[task_id] = node.output_dir()
        self._submitted[task_id] = time.monotonic()
        self._alive.add(task_id)
        return task_id

    def _sbatch(self, scriptfile: str, node: Any) -> int:
        command = ["sbatch", "--parsable", *self._job_args(node, Path(scriptfile).parent), scriptfile]
        for attempt in range(SUBMIT_TRIES):
            try:
                done = _ask(command)
            except FileNotFoundError:
                raise Refused("there is no sbatch command here: start qsmals where jobs can be submitted") from None
            if done.returncode == 0:
                return int(done.stdout.split()[-1].split(";")[0])
            if not any(word in done.stderr for word in _TRANSIENT):
                break
            time.sleep(self._poll_s * 2**attempt)
        raise Refused(f"sbatch refused {node.fullname}: {done.stderr.strip()} ({shlex.join(command)})")

    def _job_args(self, node: Any, folder: Path) -> list[str]:
        """Arguments of sbatch: the user's, and for what he left open, what the node needs."""
        own = node.plugin_args if isinstance(node.plugin_args, dict) else {}
        general = "" if own.get("overwrite") else self._sbatch_args or ""
        given = shlex.split(general) + shlex.split(own.get("sbatch_args", ""))
        threads = max(1, int(node.n_procs or 1))
        exports = ",".join(f"{k}={v}" for k, v in thread_environment(threads).items())
        defaults = {
            ("-c", "--cpus-per-task"): f"--cpus-per-task={threads}",
            ("--mem", "--mem-per-cpu", "--mem-per-gpu"): f"--mem={_mebibytes(node.mem_gb)}M",
            ("-J", "--job-name"): f"--job-name={node.fullname}",
            ("-o", "--output"): f"--output={folder / 'slurm-%j.out'}",
            ("--export",): f"--export=ALL,{exports}",
        }
        return given + [text for names, text in defaults.items() if not _is_given(names, given)]

    # -- polling -------------------------------------------------------------------------------

    def _is_pending(self, taskid: int) -> bool:
        if time.monotonic() - self._asked_at >= self._poll_s:
            self._ask_for_all()
        return taskid in self._alive

    def _ask_for_all(self) -> None:
        """One question to the controller for all our jobs; an answer that does not come changes nothing."""
        check_interrupted()
        asked = {task_id for task_id in self._pending if task_id > 0}
        self._asked_at = time.monotonic()
        done = _ask(["squeue", "--noheader", "--me", "--states=all", "--format=%A %T"])
        if done.returncode != 0:
            self._note_silence(done.stderr)
            return
        self._silent_since = None
        states = dict(line.split()[:2] for line in done.stdout.splitlines() if len(line.split()) >= 2)
        # a job that the controller does not list any more has ended too
        self._alive = {t for t in asked if str(t) in states and states[str(t)] not in _ENDED}

    def _note_silence(self, message: str) -> None:
        now = time.monotonic()
        if self._silent_since is None:
            self._silent_since = now
            log.warning("SLURM does not answer, its jobs are waited for: %s", message.strip())
        if now - self._silent_since > self._outage_s:
            raise RuntimeError(f"SLURM has not answered for {self._outage_s:.0f} s: {message.strip()}")

    def _get_result(self, taskid: int) -> dict[str, Any] | None:
        if taskid in self._refused:
            return _failed(self._refused[taskid])
        if self._is_pending(taskid):
            return None
        if not _result_file(self._pending[taskid]):
            return self._missing_result(taskid)
        self._measure = Measure(seconds=time.monotonic() - self._submitted[taskid])
        return super()._get_result(taskid)  # type: ignore[no-any-return]

    def _missing_result(self, taskid: int) -> dict[str, Any] | None:
        """Nothing while a network share may still be late; then the failure, with SLURM's word for the end."""
        now = time.monotonic()
        state = self._final_state(taskid)
        patience = self._result_wait_s if state.startswith(("COMPLETED", "unknown")) else min(2.0, self._result_wait_s)
        if now - self._ended_at.setdefault(taskid, now) < patience:
            return None
        return _failed(f"SLURM job {taskid} ended without a result: {state}", self._tail_of_log(taskid))

    def _final_state(self, taskid: int) -> str:
        done = _ask(["scontrol", "--oneliner", "show", "job", str(taskid)])
        facts = dict(part.split("=", 1) for part in done.stdout.split() if "=" in part)
        if "JobState" not in facts:
            return "unknown to the controller"
        return f"{facts['JobState']}, reason {facts.get('Reason', '?')}, exit code {facts.get('ExitCode', '?')}"

    def _tail_of_log(self, taskid: int) -> str:
        for folder in Path(self._pending[taskid]).parents:
            file = folder / "batch" / f"slurm-{taskid}.out"
            if file.is_file():
                text = file.read_text(errors="replace").strip()[-2000:]
                return f"{file}:\n{text}\n\n" if text else ""
        return ""

    def _clear_task(self, taskid: int) -> None:
        super()._clear_task(taskid)
        self._alive.discard(taskid)

    def _abandon(self) -> None:
        """Cancel what is still in the queue."""
        left = [str(task_id) for task_id in self._pending if task_id > 0]
        if left:
            log.warning("cancelling SLURM jobs %s", " ".join(left))
            with suppress(OSError):
                _ask(["scancel", *left])
        self._pending = {}


def set_logname() -> None:
    """nipype's batch engines read LOGNAME, which containers and cron leave unset."""
    os.environ.setdefault("LOGNAME", os.environ.get("USER") or f"uid{os.getuid()}")


def _ask(command: list[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, "", f"{command[0]} timed out")


def _is_given(names: tuple[str, ...], args: list[str]) -> bool:
    return any(
        arg == name
        or (name.startswith("--") and arg.startswith(f"{name}="))
        or (len(name) == 2 and arg.startswith(name))
        for arg in args
        for name in names
    )


def _mebibytes(gigabytes: float) -> int:
    return max(MIN_MEM_MIB, math.ceil(gigabytes * GB / MIB))


def _result_file(folder: str) -> bool:
    """Whether the node left a result; listing the folder makes a network share look again."""
    try:
        return any(path.match("result_*.pklz") for path in Path(folder).iterdir())
    except OSError:
        return False


def _failed(why: str, detail: str = "") -> dict[str, Any]:
    """A failure for nipype; the cause comes last, as in a traceback."""
    return {"result": None, "traceback": [*detail.splitlines(keepends=True), f"JobDied: {why}\n"]}
