"""Pass, check or fail, with each reason in one sentence."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from qsmals.qc.limits import LIMITS, Limit
from qsmals.qc.measures import MEASURES, shown

Word = Literal["pass", "check", "fail"]
WORDS: tuple[Word, ...] = ("pass", "check", "fail")


@dataclass(frozen=True)
class Reason:
    """One reason against a scan.

    Attributes
    ----------
    level : {'check', 'fail'}
    text : str
        One sentence.
    figure : str
        Where the page shows it, see :class:`qsmals.qc.measures.Measure`; empty for nowhere in particular.
    measure : str
        The measure that it comes from, empty for others.
    """

    level: Literal["check", "fail"]
    text: str
    figure: str = ""
    measure: str = ""


@dataclass(frozen=True)
class Verdict:
    """The verdict on a scan or a subject.

    Attributes
    ----------
    word : {'pass', 'check', 'fail'}
    reasons : tuple of Reason
        The worst first.
    not_judged : tuple of str
        Titles of the measures that have limits but no value here.
    """

    word: Word
    reasons: tuple[Reason, ...] = ()
    not_judged: tuple[str, ...] = ()


def judge(
    values: Mapping[str, float],
    *,
    details: Mapping[str, str] | None = None,
    limits: Mapping[str, Limit] = LIMITS,
    others: Iterable[Reason] = (),
) -> Verdict:
    """Verdict on one scan.

    Parameters
    ----------
    values : mapping of measure to float
        Measures without limits do not count; those that have limits but are NaN or missing are listed as not judged.
    details : mapping of measure to str, optional
        Where or which.
    limits : mapping of measure to Limit
        The table, perhaps with overrides.
    others : iterable of Reason
        What is known beside the measures: failed steps, warnings, missing files.

    Returns
    -------
    Verdict

    Examples
    --------
    >>> judge({"snr_first": 10.0}).reasons[0].text
    'SNR of the first echo is 10.0, below 15: the noise is strong, and small regions are not reliable.'
    """
    found, unknown = list(others), []
    for name in with_limits(limits):
        limit, value = limits[name], values.get(name, math.nan)
        level = limit.level(value)
        if level:
            found.append(_reason(limit, level, value, (details or {}).get(name, "")))
        if not math.isfinite(value):
            unknown.append(MEASURES[name].title)
    return worst_of([Verdict("pass", tuple(found), tuple(unknown))])


def with_limits(limits: Mapping[str, Limit] = LIMITS) -> list[str]:
    """Measures that can be judged: those of which a limit is not off, in the order of tables."""
    return [n for n in MEASURES if n in limits and (limits[n].check, limits[n].fail) != (None, None)]


def judged_words(verdict: Verdict, limits: Mapping[str, Limit] = LIMITS) -> str:
    """How many of a scan's measures the verdict rests on, and which it does not, as a sentence.

    Examples
    --------
    >>> few = {name: LIMITS[name] for name in ("snr_first", "phase_noise")}
    >>> judged_words(judge({"snr_first": 40.0}, limits=few), few)
    '1 of 2 measures apply; not judged: Phase noise of the noisiest echo.'
    """
    every = len(with_limits(limits))
    if not verdict.not_judged:
        return f"All {every} measures apply."
    known = every - len(verdict.not_judged)
    return f"{known} of {every} measures apply; not judged: {'; '.join(verdict.not_judged)}."


def moved_words(limits: Mapping[str, Limit]) -> str:
    """Which limits the user's file set, as a sentence; empty where it set none.

    Examples
    --------
    >>> from qsmals.qc.limits import with_overrides
    >>> moved_words(with_overrides({"snr_first": {"check": 20}, "streaking": {"check": "off", "fail": "off"}}))
    'The limits of 2 measures were set by --qc-thresholds: SNR of the first echo, Streaking (off).'
    """
    known = with_limits(limits)
    titles = [
        MEASURES[name].title + ("" if name in known else " (off)")
        for name in MEASURES
        if name in limits and limits[name].replaced is not None
    ]
    counted = f"{len(titles)} measures" if len(titles) > 1 else "one measure"
    return f"The limits of {counted} were set by --qc-thresholds: {', '.join(titles)}." if titles else ""


def worst_of(verdicts: Sequence[Verdict]) -> Verdict:
    """All reasons together, the worst first, the verdict that follows from them, and all that was not judged."""
    reasons = [reason for verdict in verdicts for reason in verdict.reasons]
    ordered = tuple(sorted(reasons, key=lambda reason: reason.level != "fail"))
    worst = max((WORDS.index(r.level) for r in ordered), default=0)
    unknown = dict.fromkeys(title for verdict in verdicts for title in verdict.not_judged)
    return Verdict(WORDS[worst], ordered, tuple(unknown))


def _reason(limit: Limit, level: Literal["check", "fail"], value: float, detail: str) -> Reason:
    measure = MEASURES[limit.measure]
    bound = limit.check if level == "check" else limit.fail
    where = f" ({detail})" if detail else ""
    meaning = limit.severe if level == "fail" and limit.severe else limit.meaning
    assert bound is not None
    text = f"{measure.title} is {shown(limit.measure, value)}{where}, {limit.bound(bound)}: {meaning}."
    return Reason(level, text, measure.figure, limit.measure)
