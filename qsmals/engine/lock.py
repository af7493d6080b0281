"""One process at a time: a lock that says who holds it, on local disks and on network shares.

The lock is a small JSON file. It appears under its name in one step (a hard link to a file that is
written and flock'ed already), so that no process ever sees it half made. A holder that died is
recognised in three ways, in the order of their certainty:

* on the same kernel (containers included) its ``flock`` is gone;
* it was an earlier attempt of the same requeued batch job, or task of an array;
* it has not touched the file for :data:`STALE_S` seconds by the file server's own clock (a holder
  touches it every :data:`HEARTBEAT_S` seconds).
"""

import atexit
import errno
import fcntl
import json
import os
import random
import secrets
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

HEARTBEAT_S = 30.0
STALE_S = 300.0
LEFT_OVER_S = 3600.0
"""Helping files of locks that are older belong to processes that were killed while they made them."""

# answers of file systems without hard links (CIFS, FUSE, exFAT)
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EACCES, errno.EINVAL}


@dataclass(frozen=True)
class Holder:
    """Who holds a lock, as written into its file."""

    host: str = "unknown"
    pid: int = 0
    since: str = "unknown"
    user: str = "unknown"
    kernel: str = ""
    job: str = ""
    restarts: int = 0
    flocked: bool = False

    def __str__(self) -> str:
        job = f", job {self.job}" if self.job else ""
        return f"process {self.pid} of {self.user} on {self.host}{job}, since {self.since}"


class LockHeld(RuntimeError):
    """Another process holds the lock; ``holder`` says who, ``path`` is the lock's file."""

    def __init__(self, what: str, holder: Holder, path: Path) -> None:
        super().__init__(
            f"{what} is being worked on by {holder}. Wait for it to end; if it is certainly gone, remove {path}"
        )
        self.holder = holder
        self.path = path

    def __reduce__(self) -> tuple[type["LockHeld"], tuple[str, Holder, Path]]:
        return type(self), (str(self).split(" is being worked on by ")[0], self.holder, self.path)


class Lock:
    """A lock at ``path`` for ``what`` (words for the message); a context manager.

    Parameters
    ----------
    path : Path
        File that stands for the lock; its folder is made.
    what : str
        What is locked, in words: ``"sub-01 in /out"``.
    wait_s : float
        How long to wait for another holder before :class:`LockHeld` is raised.
    on_lost : callable, optional
        Called once, in another thread and with the new holder, if somebody took the lock from this process: it was
        suspended, or could not reach the file, for more than :data:`STALE_S` seconds.
    """

    def __init__(
        self, path: Path, *, what: str = "", wait_s: float = 0.0, on_lost: Callable[[Holder], None] | None = None
    ) -> None:
        self.path = Path(path)
        self.what = what or self.path.name
        self.wait_s = wait_s
        self.on_lost = on_lost
        self._handle: int | None = None
        self._stop = threading.Event()

    @property
    def held(self) -> bool:
        """Whether this object holds the lock."""
        return self._handle is not None

    def acquire(self) -> Self:
        """Take the lock, waiting up to ``wait_s`` seconds; raises :class:`LockHeld`."""
        if self.held:
            raise RuntimeError(f"{self.what}: this process holds the lock already")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        deadline = time.monotonic() + self.wait_s
        while (handle := self._attempt()) is None:
            holder = read_holder(self.path)
            if time.monotonic() >= deadline:
                raise LockHeld(self.what, holder or Holder(), self.path)
            time.sleep(random.uniform(0.02, 0.2))
        _sweep(self.path)
        self._stop.clear()
        self._handle = handle
        beat = threading.Thread(target=self._beat, args=(handle, _parse(os.pread(handle, 4096, 0)), self._stop))
        beat.daemon = True
        beat.start()
        atexit.register(self.release)
        return self

    def release(self) -> None:
        """Give the lock back; does nothing if it is not held."""
        handle, self._handle = self._handle, None
        if handle is None:
            return
        self._stop.set()
        self._stop = threading.Event()
        with suppress(OSError):
            if _same_file(handle, self.path):
                self.path.unlink()
        os.close(handle)
        atexit.unregister(self.release)

    def __enter__(self) -> Self:
        return self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _attempt(self) -> int | None:
        """The open handle of the lock's file; None if a living holder has it. A dead one's is put out of the way."""
        for _ in range(3):
            handle = _create(self.path)
            if handle is not None or not _remove_if_dead(self.path):
                return handle
        return None

    def _beat(self, handle: int, mine: Holder, stop: threading.Event) -> None:
        while not stop.wait(HEARTBEAT_S):
            with suppress(OSError):  # a file server may be away for a while
                os.utime(handle)
            now = read_holder(self.path)
            if now is None or now in (Holder(), mine) or stop.is_set():
                continue
            if self.on_lost is not None:
                self.on_lost(now)
            return


class SubjectLock(Lock):
    """The lock on one subject of one OUTPUT_DIR: ``OUTPUT_DIR/logs/sub-<label>.lock``."""

    def __init__(
        self,
        output_dir: Path,
        label: str,
        *,
        wait_s: float = 0.0,
        on_lost: Callable[[Holder], None] | None = None,
    ) -> None:
        name = f"sub-{label.removeprefix('sub-')}"
        path = Path(output_dir) / "logs" / f"{name}.lock"
        super().__init__(path, what=f"{name} in {output_dir}", wait_s=wait_s, on_lost=on_lost)


def read_holder(path: Path) -> Holder | None:
    """Who holds the lock at ``path``; None if nobody does, unknown fields if it cannot be read."""
    try:
        return _parse(Path(path).read_bytes())
    except FileNotFoundError:
        return None
    except OSError:
        return Holder()


def _parse(content: bytes) -> Holder:
    """What a lock's file says; unknown fields if it says nothing that can be read."""
    try:
        entries = json.loads(content)
    except ValueError:
        return Holder()
    known = {f.name for f in fields(Holder)}
    return Holder(**{k: v for k, v in entries.items() if k in known}) if isinstance(entries, dict) else Holder()


JOB_VARIABLES = {"SLURM_JOB_ID": "", "PBS_JOBID": "", "LSB_JOBID": "LSB_JOBINDEX", "JOB_ID": "SGE_TASK_ID"}
"""Where batch systems say which job this is: SLURM, PBS and Torque, LSF, Grid Engine. The last two give all tasks of an
array one number, and say elsewhere which task it is."""


def this_process(*, flocked: bool) -> Holder:
    """What this process writes into a lock."""
    environ = os.environ
    return Holder(
        host=socket.gethostname(),
        pid=os.getpid(),
        since=datetime.now(UTC).isoformat(timespec="seconds"),
        user=environ.get("LOGNAME") or f"uid{os.getuid()}",
        kernel=_kernel(),
        job=_job(environ),
        restarts=int(environ.get("SLURM_RESTART_COUNT") or 0),
        flocked=flocked,
    )


def _job(environ: Mapping[str, str]) -> str:
    """The job or the task of an array, as no other one is called; empty outside of batch systems.

    Examples
    --------
    >>> _job({"JOB_ID": "7", "SGE_TASK_ID": "2"}), _job({"JOB_ID": "7", "SGE_TASK_ID": "undefined"})
    ('7[2]', '7')
    """
    for name, task in JOB_VARIABLES.items():
        if number := environ.get(name):
            index = environ.get(task, "")
            return f"{number}[{index}]" if index.isdecimal() and index != "0" else number
    return ""


def _kernel() -> str:
    """Identity of the running kernel: equal in all containers of a machine, new at each start of it."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _create(path: Path) -> int | None:
    """Make the lock's file if there is none; its open handle, or None if somebody was first."""
    own = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    handle = os.open(own, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        holder = this_process(flocked=_flock(handle))
        os.write(handle, (json.dumps(asdict(holder), indent=1) + "\n").encode())
        os.fsync(handle)
        if _publish(own, path, handle):
            return handle
    except BaseException:
        os.close(handle)
        raise
    finally:
        with suppress(FileNotFoundError):
            own.unlink()
    os.close(handle)
    return None


def _publish(own: Path, path: Path, handle: int) -> bool:
    """Give the finished file ``own`` the lock's name unless that is taken; True if it is ours now."""
    try:
        os.link(own, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            # a server may have linked and lost the answer: what counts is the name
            return _same_file(handle, path)
        return _publish_without_links(own, path)
    return _same_file(handle, path)


def _publish_without_links(own: Path, path: Path) -> bool:
    """Reserve the name with O_EXCL, then put the finished file over the reservation."""
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    except FileExistsError:
        return False
    own.replace(path)
    return True


def _remove_if_dead(path: Path) -> bool:
    """Remove the lock of a holder that died; True if the name is worth another try."""
    try:
        handle = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return True
    except PermissionError:  # another user's: whoever it is, it is not ours to remove
        return False
    try:
        return _is_dead(handle, path) and _put_away(handle, path)
    finally:
        os.close(handle)


def _put_away(handle: int, path: Path) -> bool:
    """Remove a dead lock; one process at a time does so, lest a second removes what the first has renewed."""
    breaker = path.with_name(f".{path.name}.breaking")
    try:
        os.close(os.open(breaker, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    except FileExistsError:
        with suppress(FileNotFoundError):
            if time.time() - breaker.stat().st_mtime > STALE_S:  # it was killed in between
                breaker.unlink()
        return False
    try:
        if _same_file(handle, path):
            path.unlink(missing_ok=True)
        return True
    finally:
        breaker.unlink(missing_ok=True)


def _sweep(path: Path) -> None:
    """Remove what processes left that were killed while they took or broke the lock."""
    for pattern in (f".{path.name}.*", ".clock.*"):
        for left in path.parent.glob(pattern):
            with suppress(OSError):
                if time.time() - left.stat().st_mtime > LEFT_OVER_S:
                    left.unlink()


def _is_dead(handle: int, path: Path) -> bool:
    holder = read_holder(path)
    if holder is None:
        return True
    if holder.flocked and holder.kernel and holder.kernel == _kernel():
        return _flock(handle)
    mine = this_process(flocked=False)
    if holder.job and holder.job == mine.job and holder.restarts < mine.restarts:
        return True
    return _age_s(handle, path.parent) > STALE_S


def _age_s(handle: int, folder: Path) -> float:
    """Seconds since the file was touched, by the clock that stamps files in ``folder``."""
    probe = folder / f".clock.{secrets.token_hex(6)}"
    now_handle = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        return os.fstat(now_handle).st_mtime - os.fstat(handle).st_mtime
    finally:
        os.close(now_handle)
        probe.unlink()


def _flock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _same_file(handle: int, path: Path) -> bool:
    try:
        there = path.stat()
    except OSError:
        return False
    here = os.fstat(handle)
    return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)
