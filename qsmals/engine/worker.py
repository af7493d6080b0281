"""Worker processes of the local engine: one Python each, talking over a pipe.

The process that schedules (:class:`Worker`) starts ``python -c "... serve(fd)"``: a fresh
interpreter, so that thread counts in the environment are read by every library, nothing is
inherited from a process that has threads, and no socket or semaphore has to be made on a file
system. A worker runs one node at a time and answers with :class:`Answer`; its log records come
over the same pipe. It dies with its parent.
"""

import ctypes
import gc
import logging
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any

from qsmals.engine.resources import peak_memory_gb, reset_peak_memory, resident_memory_gb

_SERVE = "import sys; sys.path[:] = {path!r}; from qsmals.engine.worker import serve; serve({handle}, {parent})"
_PR_SET_PDEATHSIG = 1
_OOM_SCORE = 300  # of -1000 to 1000; anyone may raise his own
_MEMORY_ERROR = re.compile(r"^\s*([\w.]+\.)?\w*MemoryError\b", re.MULTILINE)


@dataclass(frozen=True)
class Hello:
    """First message to a worker: levels by logger name, folder, and what to call before any node."""

    levels: dict[str, int]
    cwd: str
    initializer: Callable[..., None] | None = None
    initargs: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Task:
    """A node to run."""

    task_id: int
    node: Any
    updatehash: bool


@dataclass(frozen=True)
class Answer:
    """What became of a task: nipype's result, or the traceback as a list of lines."""

    task_id: int
    result: Any = None
    traceback: list[str] | None = None
    out_of_memory: bool = False
    seconds: float = 0.0
    peak_gb: float | None = None
    resident_gb: float | None = None


@dataclass
class Worker:
    """Handle on one worker process.

    Attributes
    ----------
    n_threads : int
        Threads that its libraries were started with.
    task_id : int or None
        The task it works on; None when idle.
    n_tasks : int
        Tasks that it has ended.
    resident_gb : float
        What it held when it had ended its last task.
    seen_peak_gb : float
        Largest memory seen from outside while it works on the task, for the case that it dies.
    """

    n_threads: int
    process: subprocess.Popen[bytes]
    connection: Connection
    task_id: int | None = None
    n_tasks: int = 0
    seen_peak_gb: float = 0.0
    resident_gb: float = 0.0
    started: float = field(default_factory=time.monotonic)

    @classmethod
    def start(cls, n_threads: int, environ: dict[str, str], hello: Hello) -> "Worker":
        """Start a process whose environment is ``environ``; it loads its libraries while we go on."""
        ours, theirs = Pipe()
        code = _SERVE.format(path=sys.path, handle=theirs.fileno(), parent=os.getpid())
        try:
            process = subprocess.Popen(
                [sys.executable, "-c", code],
                env=environ,
                cwd=hello.cwd,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                process_group=0,  # Ctrl-C in a terminal is for the parent, which ends its workers in order
            )
        finally:
            theirs.close()
        worker = cls(n_threads=n_threads, process=process, connection=ours)
        worker.connection.send(hello)
        return worker

    def send(self, payload: bytes, task_id: int) -> None:
        """Hand over a pickled :class:`Task`; OSError if the worker is dead."""
        self.connection.send_bytes(payload)
        self.task_id = task_id
        self.seen_peak_gb = 0.0
        self.started = time.monotonic()

    def look(self) -> None:
        """Note the memory of a busy worker, so that a cause of death can be named."""
        self.seen_peak_gb = max(self.seen_peak_gb, peak_memory_gb(self.process.pid) or 0.0)

    def exit_status(self, timeout_s: float = 10.0) -> int:
        """Exit code, or minus the signal; kills a process that closed its pipe and stays."""
        try:
            status = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            return self.process.wait()
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)  # what it had started
        self.connection.close()
        return status

    def retire(self) -> None:
        """Let an idle worker end by itself."""
        self.connection.close()

    def kill(self) -> None:
        """End the worker and what it started, at once."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            self.process.kill()
        self.connection.close()


def dump_task(task: Task) -> bytes:
    """Pickle a task; raises what pickle raises for a node that cannot be sent."""
    return pickle.dumps(task, protocol=pickle.HIGHEST_PROTOCOL)


def serve(handle: int, parent: int) -> None:
    """Main loop of a worker process on the pipe ``handle``; ends when the parent closes it."""
    _die_with_parent(parent)
    _prefer_to_be_killed()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    connection = Connection(handle)
    sender = _Sender(connection)
    try:
        hello: Hello = connection.recv()
        _forward_logs(sender, hello.levels)
        if hello.initializer is not None:
            hello.initializer(*hello.initargs)
        while True:
            sender.send(_run(connection.recv_bytes()))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        # the parent has closed the pipe: no more work, and nothing that an orderly end would save
        logging.shutdown()
        os._exit(0)


def _run(payload: bytes) -> Answer:
    """Run the task in ``payload`` and describe what became of it; never raises an ``Exception``."""
    task_id = -1
    reset_peak_memory()
    begin = time.perf_counter()
    result, lines, memory = None, None, False
    try:
        task: Task = pickle.loads(payload)
        task_id = task.task_id
        result = task.node.run(updatehash=task.updatehash)
    except (Exception, SystemExit) as error:  # an interface that calls sys.exit must not end the worker
        lines = traceback.format_exception(error)
        # nipype turns what an interface raised into text
        memory = _MEMORY_ERROR.search("".join(lines)) is not None
    seconds = time.perf_counter() - begin
    peak = peak_memory_gb()
    _free_memory()
    return Answer(task_id, result, lines, memory, seconds, peak, resident_memory_gb())


def _free_memory() -> None:
    """Give freed arrays back to the system, so that an idle worker counts little.

    What survives is the libraries, which the next collection need not walk through again.
    """
    gc.collect()
    gc.freeze()
    if sys.platform.startswith("linux"):
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc only
        if trim is not None:
            trim(0)


def _die_with_parent(parent: int) -> None:
    """Be killed when the parent is (``kill -9`` of a run leaves no process behind)."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before we asked
            os._exit(1)
    else:
        threading.Thread(target=_watch_parent, args=(parent,), daemon=True).start()


def _prefer_to_be_killed() -> None:
    """When memory runs out, let the kernel take this worker rather than the process that schedules."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(_OOM_SCORE))


def _watch_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(2.0)
    os._exit(1)


class _Sender:
    """Sends from any thread of the worker, one message at a time."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.RLock()

    def send(self, message: Answer | logging.LogRecord) -> None:
        """Send ``message``; an answer whose result cannot be pickled becomes a failure that says so."""
        try:
            payload = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
        except Exception as error:
            if not isinstance(message, Answer):
                raise
            lines = traceback.format_exception(error)
            payload = pickle.dumps(Answer(message.task_id, traceback=lines, seconds=message.seconds))
        with self._lock:
            self._connection.send_bytes(payload)


class _PipeHandler(logging.Handler):
    """Hands log records to the parent, which writes them where the run's log goes."""

    def __init__(self, sender: _Sender) -> None:
        super().__init__()
        self._sender = sender

    def emit(self, record: logging.LogRecord) -> None:
        record.msg, record.args = record.getMessage(), None
        if record.exc_info:
            record.exc_text = "".join(traceback.format_exception(*record.exc_info)).rstrip()
            record.exc_info = None
        try:
            self._sender.send(record)
        except OSError:
            self.handleError(record)


def _forward_logs(sender: _Sender, levels: dict[str, int]) -> None:
    """Send every log record to the parent, at the parent's levels, and write none here."""
    import nipype  # noqa: F401  (it installs handlers of its own, which would write twice)

    for name in [*logging.root.manager.loggerDict, *levels]:
        logger = logging.getLogger(name)
        for handler in list(logger.handlers):
            logger.removeHandler(handler)
        logger.propagate = True
        logger.setLevel(levels.get(name, logging.NOTSET))
    logging.getLogger().addHandler(_PipeHandler(sender))
    logging.captureWarnings(True)


def current_levels() -> dict[str, int]:
    """Levels of this process's loggers by name (the root's is ``""``), for :class:`Hello`."""
    named = {name: logging.getLogger(name).level for name in logging.root.manager.loggerDict}
    return {"": logging.getLogger().level} | {name: level for name, level in named.items() if level}
