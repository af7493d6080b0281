"""What a batch system must be able to say; one file a system holds how it says it."""

import getpass
import os
import re
import shlex
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from qsmals.engine.signals import is_awaited

Passing = Literal["away", "full"]
"""Why a later try may help: the system is away, or it holds as many jobs as it may."""
State = Literal["alive", "over", "stuck"]
"""``stuck``: in the queue, and the batch system itself says that it will never run."""
POLL_S = 5.0  # between two questions for all jobs
OUTAGE_S = 1800.0  # a controller being upgraded
LIMIT_S = 120.0  # for the answer to a command
HURRY_S = 5.0  # the same, once the run has been told to stop
LOOK_S = 0.5  # between two looks at what a command says that has not ended
UNKNOWN = "unknown to the batch system"


class Refused(RuntimeError):
    """The batch system did not take a job; ``passing``: why a later try may help, if it may."""

    def __init__(self, message: str, *, passing: Passing | None = None) -> None:
        super().__init__(message)
        self.passing = passing


class Silent(RuntimeError):
    """The batch system does not answer now, which says nothing of its jobs."""


@dataclass(frozen=True)
class Needs:
    """What a job asks for: its name, processors, memory, and the file that its output goes to (``%j``: its number)."""

    name: str
    threads: int
    mem_mib: int
    log: Path


@dataclass(frozen=True)
class Note:
    """How a job is known: its system by nipype's name, its own name, its folder, and its number once it has one."""

    system: str
    name: str
    folder: str
    job: str | None = None


def ask(command: Sequence[str], stop_at: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    """Run a command of the batch system; one that hangs is one that failed.

    So is one that begins to wait for better times, as it says by a word of ``stop_at``.
    """
    try:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
    except FileNotFoundError:
        words = f"there is no {command[0]} command here: start qsmals where jobs can be submitted"
        return subprocess.CompletedProcess(command, 127, "", words)
    until = time.monotonic() + LIMIT_S
    with process:
        try:
            while True:
                try:
                    told, complaint = process.communicate(timeout=LOOK_S)
                    return subprocess.CompletedProcess(command, process.returncode, told, complaint)
                except subprocess.TimeoutExpired as waiting:
                    said = (waiting.stderr or b"").decode(errors="replace")  # bytes, whatever was asked for
                if is_awaited():
                    until = min(until, time.monotonic() + HURRY_S)
                if any(word in said for word in stop_at):
                    return subprocess.CompletedProcess(command, 1, "", said)
                if time.monotonic() > until:
                    return subprocess.CompletedProcess(command, 1, "", f"{said} {command[0]} timed out".strip())
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


class Queue(ABC):
    """A batch system.

    Attributes
    ----------
    submit_command : str
        What must be on the PATH.
    args_key : str
        nipype's name in ``plugin_args`` for the user's own arguments of that command.
    own_args : frozenset of str
        More keys of ``plugin_args`` that this system reads.
    joined : bool
        Whether the command takes the value of a short option in the same word, as ``-c2``.
    transient : tuple of str
        What its message says when the system is away, so that a later try may help.
    full : tuple of str
        Patterns of what it says when a limit on the number of jobs is reached.
    waits : tuple of str
        What the command says before it waits by itself and tries again: it is ended then, having submitted nothing.
    """

    submit_command: ClassVar[str]
    args_key: ClassVar[str] = "qsub_args"
    own_args: ClassVar[frozenset[str]] = frozenset()
    joined: ClassVar[bool] = True
    transient: ClassVar[tuple[str, ...]] = ("timed out", "temporarily", "try again", "Connection refused")
    full: ClassVar[tuple[str, ...]] = ()
    waits: ClassVar[tuple[str, ...]] = ()

    def __init__(self, args: Mapping[str, Any] | None = None) -> None:
        self.args = dict(args or {})

    @abstractmethod
    def defaults(self, needs: Needs, script: str) -> dict[tuple[str, ...], list[str]]:
        """For each group of the command's options, what is given where the user gave none of them."""

    @abstractmethod
    def after(self, jobs: Sequence[str]) -> list[str]:
        """Arguments that hold a job until others have ended well."""

    @abstractmethod
    def states(self, jobs: Sequence[str]) -> dict[str, State]:
        """States of ``jobs``; one that is left out is not known any more, so it is over.

        Raises
        ------
        Silent
            There was no answer.
        """

    @abstractmethod
    def end_of(self, job: str) -> str:
        """The batch system's words for how a job ended."""

    @abstractmethod
    def cancel(self, jobs: Sequence[str]) -> list[str]:
        """The command that takes jobs out of the queue."""

    def submit(self, script: str, needs: Needs, given: Sequence[str], after: Sequence[str] = ()) -> str:
        """Submit ``script``; returns the number of the job.

        Raises
        ------
        Refused
            With the batch system's own message.
        """
        wanted = self.defaults(needs, script)
        own = [
            word for names, words in wanted.items() if not is_given(names, given, joined=self.joined) for word in words
        ]
        command = [self.submit_command, *given, *own, *(self.after(after) if after else ()), *self.tail(script)]
        done = ask(command, self.waits)
        number = self.number(done.stdout) if done.returncode == 0 else None
        if number is None:
            words = " ".join((done.stderr.strip() or done.stdout.strip() or "no message").split())
            message = f"{self.submit_command} refused {needs.name}: {words} ({shlex.join(command)})"
            raise Refused(message, passing=self.passing(words))
        return number

    def passing(self, words: str) -> Passing | None:
        """Why a later try may help where one was refused with ``words``; None: it will not."""
        if any(re.search(pattern, words, re.IGNORECASE) for pattern in self.full):
            return "full"
        return "away" if any(word.lower() in words.lower() for word in self.transient) else None

    def left(self, notes: Iterable[Note]) -> set[str]:
        """Jobs of ``notes`` that are in the queue; one without a number is not found.

        Raises
        ------
        Silent
            There was no answer.
        """
        jobs = sorted({note.job for note in notes if note.job})
        states = self.states(jobs) if jobs else {}
        return {job for job, state in states.items() if state != "over"}

    def tail(self, script: str) -> list[str]:
        """The last words of the submission: the script."""
        return [script]

    def number(self, answer: str) -> str | None:
        """The job's number in the answer to a submission: the last line begins with it."""
        found = re.match(r"\s*(\d+)", (answer.strip().splitlines() or [""])[-1])
        return found[1] if found else None

    def log_of(self, needs: Needs, job: str) -> Path:
        """Where the output of a job went."""
        return needs.log.with_name(needs.log.name.replace("%j", job))


def user() -> str:
    """The account's name, as the environment has it, else as the system."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid{os.getuid()}"


def is_given(names: Iterable[str], args: Sequence[str], *, joined: bool = True) -> bool:
    """Whether one of ``names`` is among ``args``: an option, or (without a dash in front) a part of any value.

    ``joined``: a short option may have its value in the same word.

    Examples
    --------
    >>> is_given(("-c",), ["-c2"]), is_given(("-o",), ["-ot", "5"], joined=False), is_given(("mem=",), ["-lmem=1gb"])
    (True, False, True)
    """
    return any(
        arg == name
        or (not name.startswith("-") and name in arg)
        or (name.startswith("--") and arg.startswith(f"{name}="))
        or (joined and len(name) == 2 and name.startswith("-") and arg.startswith(name))
        for arg in args
        for name in names
    )
