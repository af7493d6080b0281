"""The local engine: runs a nipype graph on this machine and outlives the death of its workers.

nipype's own MultiProc waits for ever when a worker is killed (out of memory, mostly). Here each
worker is a process of its own behind a pipe, so that it is known which node died of what, and the
others go on undisturbed. A node whose worker died is tried once more while nothing else runs; if it
dies again it has failed, with a crash file that names the cause, and the rest of the graph that does
not depend on it is run.
"""

import gc
import logging
import os
import signal
import subprocess
import traceback
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import numpy as np
from nipype.pipeline.plugins.base import DistributedPluginBase
from nipype.pipeline.plugins.multiproc import MultiProcPlugin

from qsmals.engine.progress import Measure, Reporting
from qsmals.engine.resources import base_of, cpu_limit, memory_limit, oom_kills
from qsmals.engine.signals import check_interrupted
from qsmals.engine.threads import thread_environment
from qsmals.engine.worker import Answer, Hello, Task, Worker, current_levels, dump_task

log = logging.getLogger(__name__)

MEMORY_SHARE = 0.9  # of the limit, when the caller gives none: the scheduler itself and the page cache
MAX_ATTEMPTS = 2
POLL_S = 1.0
SPARE_WORKERS = 2  # idle workers with other thread counts that are kept beyond the processors
STALLED_PASSES = 5
KILL_WAIT_S = 10.0


@dataclass
class _Job:
    """A task that was handed out and whose answer nipype has not taken yet."""

    node: Any
    payload: bytes
    attempts: int = 0
    oom_kills: int | None = None
    answer: Answer | None = None


class LocalPlugin(Reporting, MultiProcPlugin):  # type: ignore[misc]  # nipype has no types
    """nipype plugin for one machine: ``workflow.run(plugin=LocalPlugin(plugin_args={...}))``.

    ``plugin_args``, all optional:

    n_procs : int
        Threads that may run at once; default: what the job, container or machine allows.
    memory_gb : float
        Sum of ``mem_gb`` that may run at once; default: 90 % of the limit of the job, container
        or machine. A node that asks for more runs while nothing else does, after a warning.
    raise_insufficient : bool
        Refuse such a graph instead (default False).
    max_jobs : int
        Nodes that may run at once.
    progress : callable
        Called with a :class:`Step` for each node that ends; default :func:`log_progress`.
    naming : callable
        ``naming(node) -> (unit, step)``; default :func:`name_node`.
    initializer, initargs : callable, tuple
        Called in each new worker; importable by name.
    environ : dict
        More variables for the workers.
    itk_threads : int
        Threads of ITK when not those of the node (1: registrations with equal bytes).
    maxtasksperchild : int
        Nodes that a worker runs before a fresh one takes its place (default: any number).
    scheduler, status_callback
        As in nipype's MultiProc.

    What became of the nodes is in ``steps``, ``failures`` and ``peak_gb`` (:class:`Reporting`).
    """

    # accepted because nipype's MultiProc has them; a worker here is always a fresh, replaceable process
    _WITHOUT_MEANING = frozenset({"non_daemon", "mp_context", "n_gpu_procs"})
    _OWN = Reporting.REPORTING_ARGS | frozenset(
        {"initializer", "initargs", "environ", "itk_threads", "maxtasksperchild"}
    )
    _SHARED = frozenset({"n_procs", "memory_gb", "raise_insufficient", "max_jobs", "scheduler", "status_callback"})

    def __init__(self, plugin_args: dict[str, Any] | None = None) -> None:
        args = dict(plugin_args or {})
        unknown = sorted(set(args) - self._OWN - self._SHARED - self._WITHOUT_MEANING)
        if unknown:
            raise ValueError(f"the local engine knows no plugin_args {', '.join(unknown)}")
        # not MultiProcPlugin.__init__: it makes the pool that hangs
        DistributedPluginBase.__init__(self, {k: v for k, v in args.items() if k in self._SHARED})
        self._initializer = args.get("initializer")
        self._initargs = tuple(args.get("initargs", ()))
        self._environ: dict[str, str] = dict(args.get("environ") or {})
        self._itk_threads: int | None = args.get("itk_threads")
        self._most_tasks = float(args.get("maxtasksperchild") or np.inf)
        self.processors = int(args.get("n_procs") or cpu_limit().value)
        self.memory_gb = float(args.get("memory_gb") or memory_limit().value * MEMORY_SHARE)
        self.raise_insufficient = bool(args.get("raise_insufficient", False))
        self.n_gpus_visible = self.n_gpu_procs = 0
        self._most_jobs = float(args.get("max_jobs") or np.inf)
        self.max_jobs = np.inf  # nipype's loop would spin at its limit; the limit is kept in _submit_job
        self._cwd = str(Path.cwd())
        self._stats = None
        self._init_reporting(args)

    def _reset_reporting(self) -> None:
        super()._reset_reporting()
        self._taskid = 0
        self._jobs: dict[int, _Job] = {}
        self._workers: list[Worker] = []
        self._again: deque[int] = deque()
        self._alone: int | None = None
        self._idle_passes = 0
        self._subjects: dict[str, int] = {"": 0}

    # -- nipype's life cycle -------------------------------------------------------------------

    def run(self, graph: Any, config: Any, updatehash: bool = False) -> None:
        """As :meth:`Reporting.run`; what is there before it is no garbage, and nipype looks for some in every pass."""
        gc.collect()
        gc.freeze()
        try:
            super().run(graph, config, updatehash=updatehash)
        finally:
            gc.unfreeze()

    def _execution_settings(self) -> dict[str, Any]:
        # this class waits for events itself, so nipype's own pause between looks would only delay
        return {"poll_sleep_duration": 0}

    def _prerun_check(self, graph: Any) -> None:
        """Name the nodes that ask for more than there is, before anything runs."""
        for node in graph.nodes():
            if node.mem_gb > self.memory_gb:
                text = (
                    f"{node.fullname} asks for {node.mem_gb:.1f} GB and the run may use {self.memory_gb:.1f} GB: "
                    "it runs while nothing else does, and may be killed. More memory is given with --mem"
                )
                if self.raise_insufficient:
                    raise RuntimeError(text)
                log.warning("%s", text)
            if node.n_procs > self.processors and self.raise_insufficient:
                raise RuntimeError(f"{node.fullname} asks for {node.n_procs} threads of {self.processors}")

    def _postrun_check(self) -> None:
        for worker in self._workers:
            worker.retire()
        for worker in self._workers:
            worker.exit_status()
        self._workers = []

    def _abandon(self) -> None:
        workers, self._workers = self._workers, []
        for worker in workers:
            worker.kill()
        for worker in workers:
            with suppress(subprocess.TimeoutExpired):  # stuck in the kernel on a dead network share
                worker.process.wait(KILL_WAIT_S)

    # -- scheduling ----------------------------------------------------------------------------

    def _sort_jobs(self, jobids: Any, scheduler: str = "tsort") -> list[int]:
        """Ready nodes in nipype's order, those of a subject that came first before those of the next.

        A study is then ended subject by subject, and does not get to the last step of all of them at once.
        """
        return sorted(super()._sort_jobs(jobids, scheduler), key=lambda job: self._rank(self.procs[job]))

    def _rank(self, node: Any) -> int:
        """Place of a node's subject in the study; 0 is what all subjects share."""
        subject = self._naming(node)[0].split(" ")[0]
        return self._subjects.setdefault(subject, len(self._subjects))

    def _send_procs_to_workers(self, updatehash: bool = False, graph: Any = None) -> None:
        """One pass of nipype's loop: hand out what fits, then sleep until a worker has news."""
        check_interrupted()
        before = self._state()
        self._measure = Measure()
        if self._again or self._alone is not None:
            self._try_again()
        else:
            super()._send_procs_to_workers(updatehash=updatehash, graph=graph)
            if self._lacks_memory():
                self._retire_idle(keep=0)
                super()._send_procs_to_workers(updatehash=updatehash, graph=graph)
        if self._state() == before:
            self._sleep()

    def _state(self) -> tuple[int, ...]:
        """Changes whenever a pass has handed out, finished or expanded a node."""
        return (len(self.proc_done), int(self.proc_done.sum()), int(self.proc_pending.sum()), self._taskid)

    def _sleep(self) -> None:
        """Wait for news, or find out that none can come."""
        if any(worker.task_id is not None for worker in self._workers):
            self._idle_passes = 0
            self._listen(POLL_S)
            return
        waiting = ~self.proc_done | self.proc_pending
        news = self._again or any(job.answer is not None for job in self._jobs.values())
        if not waiting.any() or news:
            return
        self._idle_passes += 1
        if self._idle_passes > STALLED_PASSES:
            names = ", ".join(self.procs[i].fullname for i in np.flatnonzero(waiting)[:5])
            raise RuntimeError(f"nothing runs and these nodes can never start: {names}")

    def _try_again(self) -> None:
        """Hand out a node whose worker died, once nothing else runs."""
        if self._alone is None and all(worker.task_id is None for worker in self._workers):
            self._alone = self._again.popleft()
            self._retire_idle(keep=1)  # all the memory there is
            self._hand_out(self._alone)

    def _check_resources(self, running_tasks: Any) -> tuple[float, int, int]:
        """Free memory, processors and GPU slots.

        Idle workers hold memory too, and so does a busy one beyond what its node counts with: the libraries of the
        nodes before.
        """
        memory, processors, gpus = super()._check_resources(running_tasks)
        if len(running_tasks) >= self._most_jobs:
            processors = 0
        return max(0.0, memory - sum(map(self._held_gb, self._workers))), processors, gpus

    def _held_gb(self, worker: Worker) -> float:
        """Memory of a worker that no node's ``mem_gb`` covers."""
        if worker.task_id is None:
            return worker.resident_gb
        return max(0.0, worker.resident_gb - base_of(self._jobs[worker.task_id].node))

    def _lacks_memory(self) -> bool:
        """Whether a node is ready that only the memory of idle workers keeps from running."""
        if all(worker.task_id is not None for worker in self._workers):
            return False
        memory, processors, _ = self._check_resources(self.pending_tasks)
        ready = np.flatnonzero(~self.proc_done & (self.depidx.sum(axis=0) == 0).__array__())
        return any(
            min(self.procs[i].mem_gb, self.memory_gb) > memory and self._threads(self.procs[i]) <= processors
            for i in ready
        )

    def _threads(self, node: Any) -> int:
        return max(1, min(int(node.n_procs), self.processors))

    # -- workers -------------------------------------------------------------------------------

    def _submit_job(self, node: Any, updatehash: bool = False) -> int:
        if len(self._jobs) >= self._most_jobs:
            return None  # type: ignore[return-value]  # nipype's sign for "not now"
        self._taskid += 1
        node.use_plugin = None  # a MapNode carries the plugin's arguments, which need not pickle
        try:
            payload = dump_task(Task(self._taskid, node, updatehash))
        except Exception as error:
            lines = traceback.format_exception(error)
            self._jobs[self._taskid] = _Job(node, b"", answer=Answer(self._taskid, traceback=lines))
            return self._taskid
        self._jobs[self._taskid] = _Job(node, payload)
        self._hand_out(self._taskid)
        return self._taskid

    def _hand_out(self, task_id: int) -> None:
        """Give a task to an idle worker with the right number of threads, or to a new one."""
        job = self._jobs[task_id]
        job.attempts += 1
        job.oom_kills = oom_kills()
        n_threads = self._threads(job.node)
        self._retire([w for w in self._workers if w.task_id is None and w.n_tasks >= self._most_tasks])
        for _ in range(3):
            worker = self._idle_worker(n_threads) or self._new_worker(n_threads)
            try:
                worker.send(job.payload, task_id)
                return
            except OSError:  # it died while idle, which is nobody's fault
                self._workers.remove(worker)
                log.debug("a worker was found dead: %s", worker.exit_status())
        self._finish(task_id, _failure(task_id, "worker processes die as soon as they are started"))

    def _idle_worker(self, n_threads: int) -> Worker | None:
        idle = (w for w in reversed(self._workers) if w.task_id is None and w.n_threads == n_threads)
        return next(idle, None)

    def _new_worker(self, n_threads: int) -> Worker:
        self._retire_idle(keep=max(0, self.processors + SPARE_WORKERS - 1 - self._n_busy()))
        environ = os.environ | thread_environment(n_threads, itk_threads=self._itk_threads) | self._environ
        hello = Hello(current_levels(), self._cwd, self._initializer, self._initargs)
        worker = Worker.start(n_threads, environ, hello)
        self._workers.append(worker)
        return worker

    def _n_busy(self) -> int:
        return sum(worker.task_id is not None for worker in self._workers)

    def _retire_idle(self, keep: int) -> None:
        """Let all idle workers but the ``keep`` youngest end."""
        idle = [worker for worker in self._workers if worker.task_id is None]
        self._retire(idle[: max(0, len(idle) - keep)])

    def _retire(self, workers: list[Worker]) -> None:
        for worker in workers:
            self._workers.remove(worker)
            worker.retire()
            worker.exit_status()

    def _listen(self, timeout_s: float) -> None:
        """Take what the workers send within ``timeout_s``, and note their memory."""
        by_connection = {worker.connection: worker for worker in self._workers}
        for connection in wait(list(by_connection), timeout_s):
            self._receive(by_connection[connection])  # type: ignore[index]
        for worker in self._workers:
            if worker.task_id is not None:
                worker.look()

    def _receive(self, worker: Worker) -> None:
        try:
            while worker.connection.poll():
                message = worker.connection.recv()
                if isinstance(message, Answer):
                    self._answered(worker, message)
                else:
                    logging.getLogger(message.name).handle(message)
        except (EOFError, OSError):
            self._died(worker)
        except Exception as error:  # a result that cannot be unpickled here
            if worker.task_id is None:
                raise
            self._answered(worker, Answer(worker.task_id, traceback=traceback.format_exception(error)))

    def _answered(self, worker: Worker, answer: Answer) -> None:
        task_id, worker.task_id = worker.task_id, None
        worker.n_tasks += 1
        worker.resident_gb = answer.resident_gb or 0.0
        if task_id is None:
            return
        if answer.out_of_memory and self._may_try_again(task_id):
            job = self._jobs[task_id]
            self._put_back(task_id, f"out of memory: it had asked for {job.node.mem_gb:.1f} GB")
        else:
            self._finish(task_id, answer)

    def _died(self, worker: Worker) -> None:
        """A worker's pipe has closed: find out why, and what becomes of its node."""
        self._workers.remove(worker)
        status = worker.exit_status()
        if worker.task_id is None:
            log.debug("an idle worker ended (%s)", status)
            return
        why = self._cause_of_death(worker, status)
        if self._may_try_again(worker.task_id):
            self._put_back(worker.task_id, why)
        else:
            self._finish(worker.task_id, _failure(worker.task_id, why))

    def _cause_of_death(self, worker: Worker, status: int) -> str:
        job = self._jobs[worker.task_id or 0]
        asked = f"node {job.node.fullname} asked for {job.node.mem_gb:.1f} GB"
        if worker.seen_peak_gb:
            asked += f" and held at least {worker.seen_peak_gb:.1f} GB"
        if status >= 0:
            return f"its process ended with exit code {status}; {asked}"
        how = f"killed by signal {-status} ({signal.Signals(-status).name})"
        if -status != signal.SIGKILL:
            return f"{how}; {asked}"
        now = oom_kills()
        sure = now is not None and job.oom_kills is not None and now > job.oom_kills
        return f"{how}, {'out of memory, as the kernel counts' if sure else 'probably out of memory'}: {asked}"

    def _may_try_again(self, task_id: int) -> bool:
        return self._jobs[task_id].attempts < MAX_ATTEMPTS

    def _put_back(self, task_id: int, why: str) -> None:
        if self._alone == task_id:
            self._alone = None
        self._again.append(task_id)
        self._report(self._jobs[task_id].node, "again", why=why)

    def _finish(self, task_id: int, answer: Answer) -> None:
        if self._alone == task_id:
            self._alone = None
        self._jobs[task_id].answer = answer

    # -- results -------------------------------------------------------------------------------

    def _get_result(self, taskid: int) -> dict[str, Any] | None:
        answer = self._jobs[taskid].answer
        if answer is None:
            return None
        self._measure = Measure(answer.seconds, answer.peak_gb)
        return {"taskid": taskid, "result": answer.result, "traceback": answer.traceback}

    def _clear_task(self, taskid: int) -> None:
        del self._jobs[taskid]


def _failure(task_id: int, why: str) -> Answer:
    return Answer(task_id, traceback=[f"WorkerDied: {why}\n"])
