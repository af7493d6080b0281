"""The consensus' recommendations and its list of what to report, item by item, with the evidence of this scan."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from qsmals.recon.stages import STAGES
from qsmals.reports.acquisition import acquisition, reading
from qsmals.reports.collect import Scan
from qsmals.reports.consensus import RECOMMENDED, reason
from qsmals.reports.tables import REFERENCE_NAMES

Answer = Literal["met", "not met", "unknown"]


@dataclass(frozen=True)
class Line:
    """One item: its number, what is asked, whether it is met, and how one sees that."""

    item: str
    asked: str
    answer: Answer
    evidence: str


def conformance(scan: Scan, parameters: Mapping[str, Mapping[str, Any]], software: Mapping[str, str]) -> list[Line]:
    """Recommendations C1 to C9 (doi:10.1002/mrm.30006) and the five items of its list for the processing.

    Parameters
    ----------
    scan : Scan
    parameters : mapping of step to settings
        As the run recorded them, ``method`` among them.
    software : mapping of package to version
    """
    method = {step: str(values.get("method", "")) for step, values in parameters.items()}
    field = [
        _one_of("Exact phase unwrapping (region growing, best path, graph cut), not Laplacian", "unwrap", method),
        _combination(scan, method.get("field")),
    ]
    if "given_field" in parameters:
        words = f"total field given: {parameters['given_field'].get('file', 'file not recorded')}"
        field = [replace(line, answer="unknown", evidence=words) for line in field]
    return [
        _sequence(scan),
        _phase(scan),
        *field,
        _mask(scan),
        _one_of("Background field removal by a SHARP-based method or PDF, within the brain mask", "background", method),
        _one_of("Dipole inversion as an optimisation with sparse regularisation", "inversion", method),
        _reference(scan),
        _reporting(scan),
        *_processing(scan, parameters, software),
    ]


def counted(lines: Sequence[Line]) -> str:
    """How many items have which answer: "11 met, 2 not met, 1 unknown"."""
    answers: tuple[Answer, ...] = ("met", "not met", "unknown")
    return ", ".join(f"{sum(line.answer == answer for line in lines)} {answer}" for answer in answers)


def _sequence(scan: Scan) -> Line:
    facts = scan.facts
    kind = str(facts.acquisition.get("MRAcquisitionType", "")) if facts else ""
    readout = str(reading(facts, "readout").get("found", ""))
    n_echoes = len(facts.acquisition.get("EchoTimes") or facts.echoes) if facts else 0
    known = {"3D": kind == "3D" if kind else None, "monopolar": _monopolar(readout), "multi-echo": _several(n_echoes)}
    words = [kind or "2D or 3D not recorded", f"{n_echoes} echoes" if n_echoes else "echoes not recorded"]
    answer: Answer = "not met" if False in known.values() else "unknown" if None in known.values() else "met"
    evidence = ", ".join([*words, f"readout {readout}" if readout else "readout not recorded"])
    return Line("C1", "Monopolar 3D multi-echo gradient echo", answer, evidence)


def _monopolar(readout: str) -> bool | None:
    if readout.startswith("bipolar"):
        return False
    return True if readout == "monopolar" else None


def _several(n_echoes: int) -> bool | None:
    return n_echoes > 1 if n_echoes else None


def _phase(scan: Scan) -> Line:
    found = reading(scan.facts, "phase scale")
    if not found:
        return Line("C2", "Phase saved and exported", "unknown", "not recorded")
    scale = str(found.get("found", ""))
    images = "real and imaginary images" if scale.startswith("real") else "phase images"
    words = f"{images} present; {scale} ({found.get('evidence', '')})"
    return Line("C2", "Phase saved and exported", "unknown" if found.get("warning") else "met", words)


def _title(step: str, method: str) -> str:
    """A method as running text names it; the word itself where it is none of ours (given from elsewhere)."""
    return STAGES[step][method].title if method in STAGES[step] else method


def _one_of(asked: str, stage: str, methods: Mapping[str, str]) -> Line:
    item, method = RECOMMENDED[stage].item, methods.get(stage)
    if not method:
        return Line(item, asked, "unknown", "not recorded")
    met = method in RECOMMENDED[stage].methods
    why = "" if met else f" in place of {RECOMMENDED[stage].asked}, {reason(stage, methods)}"
    return Line(item, asked, "met" if met else "not met", f"{_title(stage, method)}{why}")


def _combination(scan: Scan, method: str | None) -> Line:
    asked = "Echoes combined before background field removal"
    n_echoes = len(scan.facts.acquisition.get("EchoTimes") or scan.facts.echoes) if scan.facts else 0
    if n_echoes == 1:
        return Line("C4", asked, "not met", "one echo: there is nothing to combine")
    words = f"total field: {_title('field', method)}" if method else "not recorded"
    return Line("C4", asked, "met" if method else "unknown", words)


def _mask(scan: Scan) -> Line:
    asked = "Mask from brain extraction and phase quality"
    source = str(scan.facts.mask.get("source", "")) if scan.facts else ""
    if not source:
        return Line("C5", asked, "unknown", "not recorded")
    words = source.lower()
    return Line("C5", asked, "met" if "brain" in words and "phase" in words else "not met", source)


def _reference(scan: Scan) -> Line:
    asked = "Reference region stated, whole brain available"
    reference = scan.facts.reference if scan.facts else {}
    region = str(reference.get("region", ""))
    if not region:
        return Line("C8", asked, "unknown", "not recorded")
    offsets = [name for name, value in (reference.get("offsets_ppm") or {}).items() if value is not None]
    met = region == "brain" or "brain" in offsets
    named = ", ".join(REFERENCE_NAMES.get(name, name) for name in offsets)
    words = f"{REFERENCE_NAMES.get(region, region)}; offsets to {named or 'none'}"
    return Line("C8", asked, "met" if met else "not met", words)


def _reporting(scan: Scan) -> Line:
    """What no sidecar says is not unmet but unknown: the protocol, which the paper's authors have, may say it."""
    items = acquisition(scan.facts)
    n_known, lacking = len(items["known"]), items["unknown"]
    evidence = f"{n_known} of {n_known + len(lacking)} items of the acquisition are known"
    if lacking:
        evidence += f"; take from the protocol: {', '.join(lacking)}"
    return Line("C9", "Minimum list of acquisition and processing", "unknown" if lacking else "met", evidence)


def _processing(scan: Scan, parameters: Mapping[str, Mapping[str, Any]], software: Mapping[str, str]) -> list[Line]:
    version = software.get("qsmals", "")
    steps = [step.replace("_", " ") for step in parameters]
    reference = scan.facts.reference if scan.facts else {}
    spread = [name for name, value in (reference.get("sd_ppm") or {}).items() if value is not None]
    named = ", ".join(REFERENCE_NAMES.get(name, name) for name in spread)
    moved = parameters.get("interpolation")
    return [
        Line(
            "R1",
            "Toolbox and version",
            "met" if version else "unknown",
            f"qsmals {version}" if version else "not recorded",
        ),
        Line(
            "R2",
            "Algorithm of every step with its numbers, defaults included",
            "met" if steps else "unknown",
            f"{len(steps)} steps under Parameters" if steps else "not recorded",
        ),
        Line(
            "R3",
            "Further processing: transforms and interpolation",
            "met" if moved else "unknown",
            "; ".join(f"{k}: {v}" for k, v in moved.items()) if moved else "not recorded",
        ),
        Line(
            "R4",
            "Unit, reference region, and its mean and SD under whole-brain reference",
            "met" if reference.get("region") and spread else "unknown",
            f"files in ppm, page and plots in ppb; mean and SD of {named}" if spread else "not recorded",
        ),
        Line(
            "R5",
            "Criteria of inclusion and exclusion, with artefacts and their severity",
            "unknown",
            "the study decides; the limits behind the verdict are listed under Quality measures",
        ),
    ]
