"""Pass, check or fail, with each reason in one sentence."""

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
    """The verdict on a scan or a subject, and its reasons, the worst first."""

    word: Word
    reasons: tuple[Reason, ...] = ()


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
        NaN, and measures without limits, do not count.
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
    found = list(others)
    for name in MEASURES:
        limit = limits.get(name)
        if limit is None or name not in values:
            continue
        level = limit.level(values[name])
        if level:
            found.append(_reason(limit, level, values[name], (details or {}).get(name, "")))
    return worst_of([Verdict("pass", tuple(found))])


def worst_of(verdicts: Sequence[Verdict]) -> Verdict:
    """All reasons together, the worst first, and the verdict that follows from them."""
    reasons = [reason for verdict in verdicts for reason in verdict.reasons]
    ordered = tuple(sorted(reasons, key=lambda reason: reason.level != "fail"))
    worst = max((WORDS.index(r.level) for r in ordered), default=0)
    return Verdict(WORDS[worst], ordered)


def _reason(limit: Limit, level: Literal["check", "fail"], value: float, detail: str) -> Reason:
    measure = MEASURES[limit.measure]
    bound = limit.check if level == "check" else limit.fail
    side = {"below": "below", "above": "above", "beyond": "beyond ±"}[limit.bad]
    where = f" ({detail})" if detail else ""
    meaning = limit.severe if level == "fail" and limit.severe else limit.meaning
    text = f"{measure.title} is {shown(limit.measure, value)}{where}, {side} {bound:g}: {meaning}."
    return Reason(level, text.replace("± ", "±"), measure.figure, limit.measure)
