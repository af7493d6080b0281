"""SIGTERM and SIGINT become an exception in the main thread, so that reports are written before the end."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# SIGHUP: a lost terminal; SIGXCPU and SIGUSR2: how Grid Engine announces the end of a job
STOP_SIGNALS = ("SIGTERM", "SIGINT", "SIGHUP", "SIGXCPU", "SIGUSR2")

_received: int | None = None
_held = False


class Interrupted(BaseException):
    """A signal asked this run to stop.

    It is no ``Exception``, so that code which forgives errors does not forgive this one.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.signum = signum

    @property
    def exit_code(self) -> int:
        """Exit code by convention: 130 for SIGINT, 143 for SIGTERM and all others that end a job or a terminal."""
        return 128 + (signal.SIGINT if self.signum == signal.SIGINT else signal.SIGTERM)


def check_interrupted() -> None:
    """Raise :class:`Interrupted` if a signal has come inside :func:`interruptible`.

    Loops call this, because a library's bare ``except`` may have swallowed the first exception.
    """
    if _received is not None:
        raise Interrupted(_received)


@contextmanager
def held() -> Iterator[None]:
    """Let a stop signal wait for the end of the block, which ends soon once :func:`is_awaited` says that one has come.

    Raises
    ------
    Interrupted
        At the end of the block.
    """
    global _held
    _held = True
    try:
        yield
    finally:
        _held = False
    check_interrupted()


def is_awaited() -> bool:
    """Whether a stop signal waits for the end of a :func:`held` block."""
    return _held and _received is not None


@contextmanager
def interruptible() -> Iterator[None]:
    """Turn the first stop signal inside the block into :class:`Interrupted`.

    Further signals while the reports are being written are ignored, except a second SIGINT
    (somebody at the keyboard presses Ctrl-C again), which ends the process at once. The plugin
    ends its workers on the way out. On leaving the block the former handlers are back.

    Raises
    ------
    Interrupted
        In the main thread, wherever it is.
    ValueError
        Not called in the main thread.
    """
    global _received
    numbers = [getattr(signal, name) for name in STOP_SIGNALS if hasattr(signal, name)]
    # a signal that the caller had ignored stays ignored (nohup)
    before = {n: signal.getsignal(n) for n in numbers if signal.getsignal(n) is not signal.SIG_IGN}
    _received = None
    for number in before:
        signal.signal(number, _on_signal)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        _received = None


def _on_signal(signum: int, frame: FrameType | None) -> None:
    global _received
    if _received is None:
        _received = signum
        if not _held:
            raise Interrupted(signum)
        return
    if signum == signal.SIGINT:
        os._exit(128 + signum)
