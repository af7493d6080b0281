"""``logs/summary.json``: what became of each subject, kept right by any number of processes."""

import json
import logging
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from qsmals.engine.files import write_json
from qsmals.engine.lock import STALE_S, Lock

Status = Literal["ok", "failed", "invalid", "incomplete"]
STATUSES: tuple[Status, ...] = ("ok", "failed", "invalid", "incomplete")
EXIT_CODES: tuple[tuple[Status, int], ...] = (("failed", 1), ("invalid", 3), ("incomplete", 5))
"""The worst first: a batch system should look at a failure before anything else."""
SUMMARY_NAME = "summary.json"
LOCK_WAIT_S = STALE_S + 60.0
"""Longer than a holder that died on another machine counts as alive."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Failure:
    """One step that failed: where in the data, which step, the cause in one line, the crash file."""

    unit: str
    node: str
    why: str
    crash_file: str | None = None


@dataclass(frozen=True)
class SubjectSummary:
    """What became of one subject.

    Attributes
    ----------
    subject : str
        With its prefix: ``sub-01``.
    status : {'ok', 'failed', 'invalid', 'incomplete'}
        ``invalid``: the input was refused; ``incomplete``: outputs or a report are missing.
    why : str
        One line; empty when all is well.
    failures : tuple of Failure
        Each step that failed.
    warnings : tuple of str
        What a person should look at although the subject ended, with the scan's prefix.
    verdict : str
        ``pass``, ``check`` or ``fail``, as on the subject's page; empty where there is none.
    reasons : tuple of str
        Why, one sentence each.
    started, ended : str
        ISO 8601 with the offset from UTC.
    seconds : float
        Wall time.
    peak_memory_gb : float or None
        The most that any one step held.
    version, host : str
        Of the program, and of the machine.
    sessions : mapping of str to str
        Status of each session that the entry speaks of, by its label; '' stands for scans without one. Empty in
        entries of versions that did not tell.
    session_whys : mapping of str to str
        One line for each session that is not well.
    """

    subject: str
    status: Status
    why: str = ""
    failures: tuple[Failure, ...] = ()
    warnings: tuple[str, ...] = ()
    verdict: str = ""
    reasons: tuple[str, ...] = ()
    started: str = ""
    ended: str = ""
    seconds: float = 0.0
    peak_memory_gb: float | None = None
    version: str = ""
    host: str = field(default_factory=lambda: os.uname().nodename)
    sessions: Mapping[str, Status] = field(default_factory=dict)
    session_whys: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for status in (self.status, *self.sessions.values()):
            if status not in STATUSES:
                raise ValueError(f"{self.subject}: status {status!r} is none of {', '.join(STATUSES)}")


def now() -> str:
    """The time, as entries hold it."""
    return datetime.now(UTC).astimezone().isoformat(timespec="seconds")


def read_summary(path: Path) -> dict[str, SubjectSummary]:
    """Entries by subject; empty if there is no such file.

    Raises
    ------
    ValueError
        The file is no summary.
    """
    try:
        text = Path(path).read_text()
    except FileNotFoundError:
        return {}
    try:
        entries = json.loads(text)["subjects"]
        return {name: _entry(name, values) for name, values in entries.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not a summary of qsmals: {error}") from error


def merge_summary(
    path: Path, entries: Iterable[SubjectSummary], *, keep_sessions: bool = False
) -> dict[str, SubjectSummary]:
    """Put ``entries`` into the summary at ``path``, keeping those of other subjects; return all.

    With ``keep_sessions``, of a run that was asked for some sessions only, what is known of the others stays
    (:func:`with_earlier_sessions`). Safe with any number of processes on any number of machines. A file that is no
    summary is moved aside (and that is logged), never overwritten.

    Raises
    ------
    LockHeld
        Another process has held the summary for :data:`LOCK_WAIT_S` seconds.
    OSError
        It cannot be written.
    """
    path = Path(path)
    with Lock(path.with_name(f".{path.name}.lock"), what=str(path), wait_s=LOCK_WAIT_S):
        try:
            merged = read_summary(path)
        except ValueError as error:
            aside = path.with_name(f"{path.stem}.unreadable-{int(time.time())}.json")
            path.replace(aside)
            log.warning("%s; moved to %s", error, aside)
            merged = {}
        for entry in entries:
            earlier = merged.get(entry.subject) if keep_sessions else None
            merged[entry.subject] = with_earlier_sessions(entry, earlier) if earlier else entry
        merged = dict(sorted(merged.items()))
        write_json(path, {"subjects": {name: _content(entry) for name, entry in merged.items()}})
    return merged


def with_earlier_sessions(entry: SubjectSummary, earlier: SubjectSummary) -> SubjectSummary:
    """The entry with the sessions of an earlier one that it does not speak of; its status is the worst of all.

    Examples
    --------
    >>> one = SubjectSummary("sub-01", "failed", "killed", sessions={"A": "failed"}, session_whys={"A": "killed"})
    >>> both = with_earlier_sessions(SubjectSummary("sub-01", "ok", sessions={"B": "ok"}), one)
    >>> both.status, both.why, both.sessions
    ('failed', 'ses-A: killed', {'A': 'failed', 'B': 'ok'})
    """
    kept = {label: status for label, status in earlier.sessions.items() if label not in entry.sessions}
    whys = {label: earlier.session_whys.get(label, status) for label, status in kept.items() if status != "ok"}
    names = {label: f"ses-{label}" if label else "without a session" for label in whys}
    found = {entry.status, *kept.values()}
    return replace(
        entry,
        status=next((status for status, _ in EXIT_CODES if status in found), "ok"),
        why="; ".join([entry.why] * bool(entry.why) + [f"{names[label]}: {why}" for label, why in whys.items()]),
        failures=entry.failures + tuple(f for f in earlier.failures if {*names.values()} & {*f.unit.split()}),
        sessions=dict(sorted({**kept, **entry.sessions}.items())),
        session_whys=dict(sorted({**whys, **entry.session_whys}.items())),
    )


def exit_code(entries: Iterable[SubjectSummary]) -> int:
    """Exit code of a run with these entries: 0 all well, 1 a failure, 3 invalid input, 5 incomplete."""
    found = {entry.status for entry in entries}
    return next((code for status, code in EXIT_CODES if status in found), 0)


def summary_lines(entries: Iterable[SubjectSummary]) -> list[str]:
    """The last lines of a run: one per subject, the failed steps and warnings below it, and the count at the end."""
    entries = sorted(entries, key=lambda entry: (entry.status != "ok", entry.subject))
    width = max((len(entry.subject) for entry in entries), default=0)
    lines = []
    for entry in entries:
        lines.append(f"{entry.subject:<{width}}  {entry.status:<10}  {_facts(entry)}".rstrip())
        lines.extend(_failure_line(failure) for failure in entry.failures)
        lines.extend(f"    warning: {text}" for text in entry.warnings)
        if entry.verdict and entry.status == "ok":
            lines.append(f"    verdict: {entry.verdict}" + "".join(f"\n        {text}" for text in entry.reasons))
    bad = [entry.subject for entry in entries if entry.status != "ok"]
    if bad:
        lines.append(f"{len(bad)} of {len(entries)} subjects did not finish well: {', '.join(bad)}")
    elif entries:
        lines.append(f"All well: {len(entries)} subject{'s' * (len(entries) != 1)}")
    return lines


def duration(seconds: float) -> str:
    """Seconds in words.

    Examples
    --------
    >>> duration(12.3), duration(372), duration(7300)
    ('12.3 s', '6 min 12 s', '2 h 1 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{int(seconds) // 60} min {int(seconds) % 60} s"
    return f"{int(seconds) // 3600} h {int(seconds) % 3600 // 60} min"


def _facts(entry: SubjectSummary) -> str:
    facts = [entry.why] if entry.why else []
    facts.append(duration(entry.seconds))
    if entry.peak_memory_gb is not None:
        facts.append(f"peak {entry.peak_memory_gb:.1f} GB")
    return ", ".join(facts)


def _failure_line(failure: Failure) -> str:
    where = f" [{failure.unit}]" if failure.unit else ""
    crash = f" (see {failure.crash_file})" if failure.crash_file else ""
    return f"    {failure.node}{where}: {failure.why}{crash}"


def _content(entry: SubjectSummary) -> dict[str, Any]:
    content = asdict(entry)
    del content["subject"]
    return content


def _entry(name: str, values: Mapping[str, Any]) -> SubjectSummary:
    """An entry from JSON; a field of a later version is left out."""
    known = {f.name for f in fields(SubjectSummary)}
    kept = {k: v for k, v in values.items() if k in known}
    kept["failures"] = tuple(Failure(**failure) for failure in kept.get("failures", ()))
    kept["warnings"] = tuple(kept.get("warnings", ()))
    kept["reasons"] = tuple(kept.get("reasons", ()))
    return SubjectSummary(subject=name, **kept)
