"""How a scan was acquired, as the page shows it: the consensus' items, what lacks, and the table of echoes."""

import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from qsmals.qc.measures import ECHO_MEASURES
from qsmals.reports.assess import Quality
from qsmals.reports.facts import ScanFacts


@dataclass(frozen=True)
class Item:
    """One item that a paper should state: its name, the fields that hold it, its unit, and if one echo has none."""

    title: str
    fields: tuple[str, ...]
    unit: str = ""
    several_echoes: bool = False


ITEMS = (
    Item("Field strength", ("MagneticFieldStrength",), "T"),
    Item("Manufacturer", ("Manufacturer",)),
    Item("Model", ("ManufacturersModelName",)),
    Item("Scanner software", ("SoftwareVersions",)),
    Item("Receive coil", ("ReceiveCoilName",)),
    Item("Coil combination", ("CoilCombinationMethod",)),
    Item("Sequence", ("PulseSequenceDetails", "SequenceName", "ScanningSequence")),
    Item("2D or 3D", ("MRAcquisitionType",)),
    Item("Number of echoes", ("NumberOfEchoes",)),
    Item("First echo time", ("FirstEchoTime",), "ms"),
    Item("Echo spacing", ("EchoSpacing",), "ms", several_echoes=True),
    Item("Readout", ("Readout",)),
    Item("Repetition time", ("RepetitionTime", "RepetitionTimeExcitation"), "ms"),
    Item("Flip angle", ("FlipAngle",), "°"),
    Item("Bandwidth", ("PixelBandwidth", "BandwidthPerPixel"), "Hz/pixel"),
    Item("Voxel size", ("VoxelSize",), "mm"),
    Item("Matrix", ("MatrixSize",)),
    Item("Field of view", ("FieldOfView",), "mm"),
    Item("Tilt against the main field", ("TiltDegrees",), "°"),
    Item("Slab orientation", ("ImageOrientationText",)),
    Item("Acceleration in plane", ("ParallelReductionFactorInPlane",)),
    Item("Acceleration through plane", ("ParallelReductionFactorOutOfPlane",)),
    Item("Partial Fourier", ("PartialFourier",)),
    Item("Flow compensation", ("FlowCompensation",)),
    Item("Fat suppression", ("FatSuppression",)),
    Item("Gradient nonlinearity corrected", ("NonlinearGradientCorrection",)),
    Item("Filters and prescan normalisation", ("FilterWords",)),
    Item("Scan time", ("AcquisitionDuration",), "s"),
)
"""What the consensus asks to be reported of the acquisition."""

SCAN_OPTIONS = {"FlowCompensation": "FC", "FatSuppression": "FS"}
"""Terms of DICOM's Scan Options (0018,0022)."""
SEQUENCES = {"SE": "spin echo", "IR": "inversion recovery", "GR": "gradient recalled", "EP": "echo planar"}
"""Terms of DICOM's Scanning Sequence (0018,0020)."""
FILTERS = {"NORM": "prescan normalisation", "FIL": "image filter"}
"""Terms that Siemens adds to DICOM's Image Type (0008,0008), which dcm2niix writes as ImageType, of enhanced DICOM as
ImageTypeText. Other vendors' filters stand in no field that converters write: the protocol has them."""
IMAGE_TYPES = ("ImageTypeText", "ImageType")


def acquisition(facts: ScanFacts | None) -> dict[str, Any]:
    """Items that are known, as pairs of title and words, and the titles of those that are not, as far as they apply."""
    values = _values(facts)
    known, unknown = [], []
    for item in ITEMS:
        if item.several_echoes and values.get("NumberOfEchoes") == 1:
            continue
        found = next((values[field] for field in item.fields if values.get(field) not in (None, "", [])), None)
        if found is None:
            unknown.append(in_sentence(item.title))
        else:
            known.append((item.title, with_unit(found, item.unit)))
    return {"known": known, "unknown": unknown}


def _values(facts: ScanFacts | None) -> dict[str, Any]:
    """Sidecar fields and what follows from them and from the data."""
    if facts is None:
        return {}
    values = dict(facts.acquisition)
    times = [float(t) for t in values.get("EchoTimes") or ()]
    if times:
        values |= {"NumberOfEchoes": len(times), "FirstEchoTime": times[0]}
    spacing = [b - a for a, b in itertools.pairwise(times)]
    if spacing:
        equal = max(spacing) - min(spacing) < 2e-5
        values["EchoSpacing"] = float(np.mean(spacing)) if equal else [round(s, 6) for s in spacing]
    if values.get("VoxelSize") and values.get("MatrixSize"):
        values["FieldOfView"] = [v * n for v, n in zip(values["VoxelSize"], values["MatrixSize"], strict=False)]
    found = {entry.get("what"): entry.get("found") for entry in facts.detected}
    options = re.split(r"[^A-Z0-9]+", str(values.get("ScanOptions") or "").upper())
    values |= {name: "yes (ScanOptions)" for name, term in SCAN_OPTIONS.items() if term in options}
    if values.get("ScanningSequence"):
        values["ScanningSequence"] = _spelled(values["ScanningSequence"])
    values["FilterWords"] = _filters(values)
    values.setdefault("Readout", found.get("readout"))
    values.setdefault("TiltDegrees", _degrees(found.get("tilt")))
    return values


def _spelled(codes: Any) -> str:
    """DICOM's codes of a sequence in words: ``GR`` is gradient recalled."""
    known = codes if isinstance(codes, list | tuple) else re.split(r"[^A-Za-z]+", str(codes))
    return ", ".join(SEQUENCES.get(str(code).upper(), str(code)) for code in known if code)


def _filters(values: Mapping[str, Any]) -> str:
    """Filters that the image type names; that a Siemens scan has none is known too, of other vendors' it is not."""
    field = next((name for name in IMAGE_TYPES if values.get(name)), "")
    terms = set(re.findall(r"[A-Z0-9]+", str(values.get(field, "")).upper()))
    named = [f"{words} ({field}: {term})" for term, words in FILTERS.items() if term in terms]
    siemens = "siemens" in str(values.get("Manufacturer", "")).lower()
    return ", ".join(named) or (f"none named ({field})" if field and siemens else "")


def _degrees(words: Any) -> Any:
    """The number at the start of what was found about the tilt, else the words."""
    number = str(words or "").split(" ")[0]
    return float(number) if number.replace(".", "", 1).isdigit() else words


def in_sentence(title: str) -> str:
    """A title inside a sentence: "2D or 3D" stays, "Flip angle" loses its capital."""
    return title[0].lower() + title[1:] if title[1:2].islower() else title


def with_unit(value: Any, unit: str) -> str:
    """A number, a list of numbers or a word with its unit; seconds become milliseconds."""
    factor = 1000 if unit == "ms" else 1
    items = value if isinstance(value, list | tuple) else [value]
    words = [f"{factor * v:.4g}" if isinstance(v, int | float) and not isinstance(v, bool) else str(v) for v in items]
    joined = (" × " if unit in ("mm", "") and len(words) == 3 else ", ").join(words)
    measured = any(isinstance(v, int | float) for v in items)
    return f"{joined} {unit}".replace(" °", "°").strip() if measured else joined


def echo_table(facts: ScanFacts | None, quality: Quality | None) -> dict[str, Any]:
    """Rows of the table of echoes: echo, echo time, and each measure that there is of the echoes."""
    rows = [dict(echo) for echo in (facts.echoes if facts else ())]
    for name, column in (quality.echoes if quality else {}).items():
        for row, value in zip(rows, column, strict=False):
            row[name] = value
    names = list(dict.fromkeys(name for row in rows for name in row))
    titles = {"echo": "Echo", "echo_time_s": "TE (ms)"} | {
        name: measure.title + (f" ({measure.unit})" if measure.unit else "") for name, measure in ECHO_MEASURES.items()
    }
    cells = [[_echo_cell(name, row.get(name)) for name in names] for row in rows]
    return {"titles": [titles.get(name, name.replace("_", " ")) for name in names], "rows": cells}


def _echo_cell(name: str, value: Any) -> str:
    if value is None:
        return "unknown"
    if isinstance(value, float):
        if not np.isfinite(value):
            return "n/a"
        digits = ECHO_MEASURES[name].digits if name in ECHO_MEASURES else None
        return (
            f"{1000 * value:.4g}"
            if name == "echo_time_s"
            else f"{value:.4g}"
            if digits is None
            else f"{value:.{digits}f}"
        )
    return str(value)


def reading(facts: ScanFacts | None, what: str) -> Mapping[str, Any]:
    """What was found out about one thing in the data, empty where nothing was."""
    return next((entry for entry in (facts.detected if facts else ()) if entry.get("what") == what), {})
