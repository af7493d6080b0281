"""One process at a time: a lock that says who holds it, on local disks and on network shares.

The lock is a small JSON file. It appears under its name in one step (a hard link to a file that is
written and flock'ed already), so that no process ever sees it half made. A holder that died is
recognised in three ways, in the order of their certainty:

* on the same kernel (containers included) its ``flock`` is gone;
* it was an earlier attempt of the same requeued batch job;
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
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

HEARTBEAT_S = 30.0
STALE_S = 300.0

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
    """

    def __init__(self, path: Path, *, what: str = "", wait_s: float = 0.0) -> None:
        self.path = Path(path)
        self.what = what or self.path.name
        self.wait_s = wait_s
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
        while not self._attempt():
            holder = read_holder(self.path)
            if time.monotonic() >= deadline:
                raise LockHeld(self.what, holder or Holder(), self.path)
            time.sleep(random.uniform(0.02, 0.2))
        self._stop.clear()
        threading.Thread(target=self._beat, args=(self._handle, self._stop), daemon=True).start()
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

    def _attempt(self) -> bool:
        """One try; a dead holder's file is put out of the way, and the try counts as failed only if alive."""
        for _ in range(3):
            self._handle = _create(self.path)
            if self._handle is not None:
                return True
            if not _remove_if_dead(self.path):
                return False
        return False

    @staticmethod
    def _beat(handle: int, stop: threading.Event) -> None:
        while not stop.wait(HEARTBEAT_S):
            try:
                os.utime(handle)
            except OSError:
                return


class SubjectLock(Lock):
    """The lock on one subject of one OUTPUT_DIR: ``OUTPUT_DIR/logs/sub-<label>.lock``."""

    def __init__(self, output_dir: Path, label: str, *, wait_s: float = 0.0) -> None:
        name = f"sub-{label.removeprefix('sub-')}"
        path = Path(output_dir) / "logs" / f"{name}.lock"
        super().__init__(path, what=f"{name} in {output_dir}", wait_s=wait_s)


def read_holder(path: Path) -> Holder | None:
    """Who holds the lock at ``path``; None if nobody does, unknown fields if it cannot be read."""
    try:
        content = json.loads(Path(path).read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return Holder()
    known = {f.name for f in fields(Holder)}
    return Holder(**{k: v for k, v in content.items() if k in known}) if isinstance(content, dict) else Holder()


def this_process(*, flocked: bool) -> Holder:
    """What this process writes into a lock."""
    environ = os.environ
    job = environ.get("SLURM_JOB_ID") or environ.get("PBS_JOBID") or environ.get("LSB_JOBID") or ""
    return Holder(
        host=socket.gethostname(),
        pid=os.getpid(),
        since=datetime.now(UTC).isoformat(timespec="seconds"),
        user=environ.get("LOGNAME") or f"uid{os.getuid()}",
        kernel=_kernel(),
        job=job,
        restarts=int(environ.get("SLURM_RESTART_COUNT") or 0),
        flocked=flocked,
    )


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
        if not _is_dead(handle, path):
            return False
        # renaming picks one winner among those who found it dead
        aside = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
        with suppress(FileNotFoundError):
            path.rename(aside)
            if not _same_file(handle, aside):  # somebody had renewed it in the meantime: give it back
                with suppress(FileExistsError):
                    os.link(aside, path)
            aside.unlink()
        return True
    finally:
        os.close(handle)


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
