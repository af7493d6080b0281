"""What can be wrong with a data set, as data: faults to report and exceptions that end a run."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with a subject's input.

    Attributes
    ----------
    subject : str
        Label without ``sub-``.
    code : str
        Short stable name of the kind of fault, e.g. ``truncated``, ``echo-time``, ``no-phase``.
    what : str
        What is wrong, one sentence without a full stop.
    remedy : str
        What the user can do about it, one sentence without a full stop.
    files : tuple of Path
        The files concerned; empty when files are missing.
    """

    subject: str
    code: str
    what: str
    remedy: str
    files: tuple[Path, ...] = ()

    def __str__(self) -> str:
        names = [path.name for path in self.files]
        shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        text = f"sub-{self.subject}: {shown + ': ' if shown else ''}{self.what}. {self.remedy}."
        return text.encode("utf-8", "backslashreplace").decode()


class InputError(Exception):
    """The base of the errors that a user can mend by changing the input or the options."""


class InvalidInput(InputError):
    """The data set, a filter file or a folder cannot be used as it is (exit code 3)."""


class NothingMatched(InputError):
    """No subject, session or scan is left after the selection (exit code 4)."""


def format_faults(faults: Iterable[Fault]) -> str:
    """The faults as text, one line each, in the order given."""
    return "\n".join(f"  {fault}" for fault in faults)
