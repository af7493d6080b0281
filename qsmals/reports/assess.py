"""The verdict on a scan and on a subject: the one place where measures, limits and everything else meet."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qsmals.bids.errors import InvalidInput
from qsmals.qc.limits import LIMITS, Limit, with_overrides
from qsmals.qc.verdict import Reason, Verdict, judge, with_limits, worst_of

if TYPE_CHECKING:
    from qsmals.reports.collect import Scan

REGISTRATION_WARNING = "registration of "
"""Warnings that begin so repeat a measure."""

SIGN_MEASURES = ("contrast_pallidum", "region_order")
"""Measures that a turned sign puts beyond their limits."""

SIGN_UNKNOWN = (
    "The sign of the map could not be judged: neither the pallidum nor an order of regions by their iron is known, and "
    "the field of the head did not tell the sign of the phase."
)


@dataclass(frozen=True)
class Quality:
    """Content of ``[...]_desc-qc_Chimap.json``.

    Attributes
    ----------
    values : mapping of measure to float
        NaN where a measure does not apply.
    details : mapping of measure to str
        Where or which.
    echoes : mapping of str to sequence of float
        One number an echo.
    jump_centre_mm : tuple of float or None
        Scanner coordinates of the largest group of residual jumps.
    coverage : mapping of region to float
        Share of its voxels that were measured.
    """

    values: Mapping[str, float] = field(default_factory=dict)
    details: Mapping[str, str] = field(default_factory=dict)
    echoes: Mapping[str, Sequence[float]] = field(default_factory=dict)
    jump_centre_mm: tuple[float, float, float] | None = None
    coverage: Mapping[str, float] = field(default_factory=dict)


def read_quality(path: Path) -> Quality:
    """Measures of one scan.

    Raises
    ------
    ValueError
        The file is not one of them.
    """
    try:
        content = json.loads(path.read_text())
        centre = content.get("JumpCentreMm")
        return Quality(
            values={name: _float(value) for name, value in content["Measures"].items()},
            details={name: str(words) for name, words in (content.get("Details") or {}).items()},
            echoes={name: [_float(v) for v in column] for name, column in (content.get("Echoes") or {}).items()},
            jump_centre_mm=(float(centre[0]), float(centre[1]), float(centre[2])) if centre else None,
            coverage={name: _float(value) for name, value in (content.get("Coverage") or {}).items()},
        )
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(f"{path.name} holds no quality measures ({error}); run the subject again") from None


def _float(value: Any) -> float:
    return float("nan") if value is None else float(value)


def read_limits(path: Path | None) -> dict[str, Limit]:
    """The table of limits, with the numbers of a TOML file where one is given.

    Raises
    ------
    InvalidInput
        The file cannot be read, or names a measure or a key that there is not.
    """
    if path is None:
        return dict(LIMITS)
    import tomllib

    try:
        return with_overrides(tomllib.loads(Path(path).read_text()))
    except (OSError, ValueError) as error:
        raise InvalidInput(f"limits of quality, {path}: {error}") from None


def assess_scan(scan: "Scan", limits: Mapping[str, Limit] = LIMITS) -> Verdict:
    """Verdict on one scan from its measures, the warnings in its facts, and what is missing."""
    quality = scan.quality or Quality()
    others = [*_beside_measures(scan, sign_is_seen=_sign_is_seen(quality, limits)), *_unknown_sign(scan, limits)]
    return judge(quality.values, details=quality.details, limits=limits, others=others)


def _sign_is_seen(quality: Quality, limits: Mapping[str, Limit]) -> bool:
    """Whether iron is bright in the map, so that its sign is right whatever the phase's own field told."""
    values = [(limits.get(name), quality.values.get(name, math.nan)) for name in SIGN_MEASURES]
    return all(limit is not None and math.isfinite(value) and not limit.level(value) for limit, value in values)


def _unknown_sign(scan: "Scan", limits: Mapping[str, Limit]) -> list[Reason]:
    """A reason to look at a measured map whose sign nothing tells."""
    if scan.quality is None:
        return []
    values = scan.quality.values
    judged = any(math.isfinite(values.get(name, math.nan)) for name in SIGN_MEASURES if name in with_limits(limits))
    return [] if judged or _sign_is_told(scan) else [Reason("check", SIGN_UNKNOWN, "regions")]


def _sign_is_weak(scan: "Scan") -> bool:
    """Whether the field of the head was asked for the sign of the phase and could not tell."""
    entries = scan.facts.detected if scan.facts else ()
    return any(entry.get("what") == "phase sign" and entry.get("confident") is False for entry in entries)


def _sign_is_told(scan: "Scan") -> bool:
    """Whether the field of the head told the sign of the phase."""
    entries = scan.facts.detected if scan.facts else ()
    return any(_told(entry) for entry in entries if entry.get("what") == "phase sign")


def _told(entry: Mapping[str, Any]) -> bool:
    """Whether the images themselves told the sign of the phase; a sign that was asked for is no proof of itself."""
    asked = "set by" in str(entry.get("evidence", ""))
    return bool(entry.get("confident", not (asked or entry.get("warning"))))


def _beside_measures(scan: "Scan", *, sign_is_seen: bool) -> Iterable[Reason]:
    facts = scan.facts
    for error in facts.errors if facts else ():
        yield _failure(error)
    if scan.failed and not (facts and facts.errors):
        yield Reason("fail", "The scan was not processed to its end.", "messages")
    if "chi" not in scan.files and not scan.failed:
        yield Reason("fail", "There is no susceptibility map.", "messages")
    if scan.quality is None and not scan.failed:
        yield Reason("check", "There are no quality measures of this scan.", "messages")
    noted = [f"{entry['what']}: " for entry in (facts.detected if facts else ()) if entry.get("warning")]
    for warning in dict.fromkeys(facts.warnings if facts else ()):
        if sign_is_seen and warning.startswith("phase sign: ") and _sign_is_weak(scan):
            continue
        if not warning.startswith(REGISTRATION_WARNING):
            place = "acquisition" if warning.startswith(tuple(noted)) else "messages"
            yield Reason("check", _sentence(warning), place)
    if scan.missing and not scan.failed:
        yield Reason("check", f"Outputs are missing: {len(scan.missing)}, listed under the messages.", "messages")


def assess_subject(
    scans: Sequence["Scan"], run_facts: Mapping[str, Any], limits: Mapping[str, Limit] = LIMITS
) -> tuple[Verdict, dict[str, Verdict]]:
    """Verdict on a subject, and that on each of its scans by prefix.

    Parameters
    ----------
    scans : sequence of Scan
        From :func:`qsmals.reports.collect.find_scans`.
    run_facts : mapping
        See :func:`qsmals.reports.subject.write_subject_report`: ``errors`` count.
    limits : mapping of measure to Limit
    """
    of_scans = {scan.prefix: assess_scan(scan, limits) for scan in scans}
    shared = _shared(list(of_scans.values())) if len(scans) > 1 else ()
    marked = [_with_prefix(verdict, prefix if len(scans) > 1 else "", shared) for prefix, verdict in of_scans.items()]
    return worst_of([assess_run(scans, run_facts), Verdict("pass", shared), *marked]), of_scans


def assess_run(scans: Sequence["Scan"], run_facts: Mapping[str, Any]) -> Verdict:
    """What the subject's latest run says that is of no scan: a refused input, or that there is nothing of it."""
    reasons = [_failure(error) for error in run_facts.get("errors") or ()]
    if not scans and not reasons:
        reasons.append(Reason("fail", "There is no susceptibility map and no record of a run.", "messages"))
    return worst_of([Verdict("pass", tuple(reasons))])


def _shared(verdicts: Sequence[Verdict]) -> tuple[Reason, ...]:
    """Messages that all scans have, as of a step that is for all of them."""
    first, *others = (verdict.reasons for verdict in verdicts)
    return tuple(r for r in first if r.figure == "messages" and all(r in reasons for reasons in others))


def _with_prefix(verdict: Verdict, prefix: str, shared: Sequence[Reason]) -> Verdict:
    """The verdict on one of several scans as that on the subject has it, without what is said of all."""
    if not prefix:
        return verdict
    own = (r for r in verdict.reasons if r not in shared)
    return Verdict(
        verdict.word,
        tuple(Reason(r.level, f"{prefix}: {r.text}", f"{prefix}/{r.figure}", r.measure) for r in own),
        tuple(f"{prefix}: {title}" for title in verdict.not_judged),
    )


def _failure(error: Mapping[str, Any]) -> Reason:
    step = str(error.get("step") or "A step")
    text = f"{step[:1].upper()}{step[1:]} failed: {_first_line(error.get('message'))}."
    return Reason("fail", text, "messages")


def _first_line(message: Any) -> str:
    lines = [line.strip() for line in str(message or "no message").splitlines() if line.strip()]
    return (lines[0] if lines else "no message").rstrip(".")


def _sentence(text: str) -> str:
    """A warning as a sentence: capital letter, full stop."""
    text = text.strip()
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")
