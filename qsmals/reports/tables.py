"""Region tables, quality measures and reference offsets as the page shows them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from qsmals.qc.limits import Limit
from qsmals.qc.measures import MEASURES, shown
from qsmals.qc.regions import far_cortex
from qsmals.reports.assess import Quality
from qsmals.reports.collect import PARTLY, RegionTable, Scan, low_coverage
from qsmals.roi.table import COLUMNS, MAP_UNIT

MAP_UNITS = {"Chimap": "ppb", "R2starmap": "1/s", "T2starmap": "s", "S0map": "arbitrary"}
SHOWN_FACTORS = {"Chimap": 1000.0}
"""From the unit of a file to that of the page: susceptibility is in ppm there, and in ppb on every card and plot."""

MAP_DIGITS = {"Chimap": 1, "R2starmap": 1, "T2starmap": 4, "S0map": 1}
DIGITS = {"volume_mm3": 0, "coverage": 3, "positive_fraction": 3, "skewness": 2, "kurtosis": 2}
"""Digits after the point in a column: of the map's unit on the page, and of other columns."""

MAP_NAMES = {"Chimap": "susceptibility", "R2starmap": "R2*", "T2starmap": "T2*", "S0map": "S0"}
REFERENCE_NAMES = {
    "brain": "whole brain (the mapped voxels)",
    "csf": "core of the lateral ventricles (one voxel in)",
    "wm": "core of cerebral white matter (one voxel in)",
    "none": "none",
}

PRINTED = ("name", "hemisphere", "n_voxels", "volume_mm3", "coverage", "mean", "sd", "median", "wm_contrast")
"""Columns of a region table that a sheet of paper has room for."""


def region_table(table: RegionTable, output_dir: Path) -> dict[str, Any]:
    """A region table as the page shows it: header with units, and cells with what to sort by."""
    unit, factor = MAP_UNITS.get(table.quantity, ""), SHOWN_FACTORS.get(table.quantity, 1.0)
    in_unit = {name for name in table.columns if name in COLUMNS and COLUMNS[name].unit == MAP_UNIT}
    digits = DIGITS | dict.fromkeys(in_unit, MAP_DIGITS.get(table.quantity, 3))
    header = []
    for name in table.columns:
        column = COLUMNS.get(name)
        words = unit if name in in_unit else column.unit if column else ""
        header.append(
            {
                "name": name,
                "unit": "" if words == "1" else words.replace("^3", "³"),
                "about": column.description if column else "",
                "printed": name in PRINTED,
            }
        )
    far = [row["index"] for row in far_cortex(table.rows)] if table.quantity == "Chimap" else []
    rows = [
        {
            "cells": [
                _table_cell(n, factor * row[n] if n in in_unit else row[n], digits.get(n)) for n in table.columns
            ],
            "low": low_coverage(row),
            "part": not low_coverage(row) and row.get("coverage", 1.0) < PARTLY,
            "far": row.get("index") in far,
        }
        for row in table.rows
    ]
    return {
        "title": f"{MAP_NAMES.get(table.quantity, table.quantity)}, {table.atlas}",
        "quantity": table.quantity,
        "link": table.path.relative_to(output_dir).as_posix(),
        "header": header,
        "rows": rows,
        "low": sum(row["low"] for row in rows),
        "part": sum(row["part"] for row in rows),
        "far": sum(row["far"] for row in rows),
        "failed": table.registration_failed,
    }


def table_anchor(prefix: str, table: RegionTable) -> str:
    """Where a scan's page has a table."""
    return f"{prefix}-table-{table.atlas}-{table.quantity}"


def _table_cell(name: str, value: Any, digits: int | None) -> dict[str, Any]:
    return _cell_words(value, digits) | {"head": name == "name", "printed": name in PRINTED}


def _cell_words(value: Any, digits: int | None) -> dict[str, str]:
    if isinstance(value, str):
        return {"text": value, "sort": value, "kind": "word"}
    if isinstance(value, int | np.integer):
        return {"text": str(value), "sort": str(value), "kind": "number"}
    if not np.isfinite(value):
        return {"text": "n/a", "sort": "", "kind": "number"}
    words = f"{value:.4g}" if digits is None else f"{value:z.{digits}f}"  # z: no −0.0
    return {"text": words.replace("-", "−"), "sort": repr(float(value)), "kind": "number"}


def quality_table(quality: Quality | None, limits: Mapping[str, Limit]) -> list[dict[str, Any]]:
    """Groups of measures: name, value, level, limits in words, and the definition of each."""
    if quality is None:
        return []
    groups: dict[str, list[dict[str, Any]]] = {}
    for name, measure in MEASURES.items():
        value = quality.values.get(name, float("nan"))
        limit = limits.get(name)
        groups.setdefault(measure.group, []).append(
            {
                "title": measure.title,
                "value": shown(name, value) if np.isfinite(value) else "n/a",
                "detail": quality.details.get(name, ""),
                "level": limit.level(value) if limit else "",
                "check": _bound(limit, limit.check if limit else None),
                "fail": _bound(limit, limit.fail if limit else None),
                "about": f"{measure.definition}. Source: {measure.source}.",
                "origin": limit.origin if limit else "",
            }
        )
    return [{"title": title, "rows": rows} for title, rows in groups.items()]


def _bound(limit: Limit | None, bound: float | None) -> str:
    """A limit in words: ``< 15``, ``> 2.5``, ``> ±25``."""
    if limit is None or bound is None:
        return ""
    return {"below": f"< {bound:g}", "above": f"> {bound:g}", "beyond": f"> ±{bound:g}"}[limit.bad]


def reference_table(scan: Scan) -> dict[str, Any]:
    """Reference region in words, and offsets in ppb of regions whose volumes stand beside their names."""
    reference = scan.facts.reference if scan.facts else {}
    spread = reference.get("sd_ppm") or {}
    sizes = _region_volumes(scan)
    offsets = [
        (
            ", ".join(filter(None, (REFERENCE_NAMES.get(key, key.replace("_", " ")), sizes.get(key)))),
            _ppb(value),
            _ppb(spread.get(key)).lstrip("+"),
        )
        for key, value in (reference.get("offsets_ppm") or {}).items()
    ]
    region = str(reference.get("region") or "")
    return {"region": REFERENCE_NAMES.get(region, region.replace("_", " ")), "offsets": offsets}


def _region_volumes(scan: Scan) -> dict[str, str]:
    """Volumes of the regions that could serve as reference, in words, where the voxel size is known."""
    if scan.facts is None:
        return {}
    size = [_number(edge) for edge in scan.facts.acquisition.get("VoxelSize") or ()]
    voxel_ml = float(np.prod(size)) / 1000 if len(size) == 3 else np.nan
    volumes = {key: _number(n) * voxel_ml for key, n in (scan.facts.reference.get("n_voxels") or {}).items()}
    return {key: f"{ml:.0f} ml" if ml >= 10 else f"{ml:.1f} ml" for key, ml in volumes.items() if np.isfinite(ml)}


MASK_PARTS = {"phase": "with reliable phase", "signal": "with signal", "magnitude": "with signal"}
"""Word in the mask's source to what is said of the part of the brain whose field was used."""

MASK_WORDS = {
    "quality_threshold": "Threshold of phase quality (0 to 1)",
    "threshold_rule": "Rule of that threshold",
    "rough_ml": "Around the brain, not used because the field is rough there (ml)",
}


def mask_table(scan: Scan) -> dict[str, Any]:
    """Volumes from the whole brain to what is mapped, in ml and percent of the brain, and what else is known of it."""
    facts = scan.facts.mask if scan.facts else {}
    measures = scan.quality.values if scan.quality else {}
    brain, mapped = (_number(measures.get(name)) for name in ("brain_volume", "brain_kept"))
    source = str(facts.get("source") or "phase")
    part = next((words for word, words in MASK_PARTS.items() if word in source), "where the field was used")
    from_t1w = scan.facts is not None and not {"t1w", "t1w_on_gre"}.isdisjoint(scan.facts.images)
    of_field = _number(facts.get("volume_ml"))
    volumes = (
        ("brain of the T1w image" if from_t1w else "brain", brain, np.nan),
        (part, of_field, 100.0 - _number(facts.get("dropped_percent"))),
        ("of it lost to background removal, at the rim", *lost_at_the_rim(scan)),
        (MAPPED_WORDS, brain * mapped / 100.0, mapped),
    )
    others = {k: v for k, v in facts.items() if k not in ("source", "volume_ml", "dropped_percent")}
    return {
        "source": facts.get("source"),
        "volumes": [(words, size) for words, *known in volumes if (size := _size(*known))],
        "others": [(MASK_WORDS.get(name, name.replace("_", " ")), value) for name, value in others.items()],
    }


MAPPED_WORDS = "with a susceptibility (mapped): the file desc-brain_mask, and the whole brain as reference"


LEAST_LOST_PERCENT = 0.05
"""Of the brain: less is shown as 0.0 %."""


def lost_at_the_rim(scan: Scan) -> tuple[float, float]:
    """What background removal took of the voxels whose field was used: ml, and percent of the brain.

    NaN where nothing was lost, or where it is not known.
    """
    facts = scan.facts.mask if scan.facts else {}
    measures = scan.quality.values if scan.quality else {}
    brain, mapped = (_number(measures.get(name)) for name in ("brain_volume", "brain_kept"))
    lost_ml = _number(facts.get("volume_ml")) - brain * mapped / 100.0
    percent = 100.0 * lost_ml / brain if brain > 0 else np.nan
    return (lost_ml, percent) if percent >= LEAST_LOST_PERCENT else (np.nan, np.nan)


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else np.nan


def _size(volume_ml: float, percent: float) -> str:
    """A volume with its share, as far as they are known."""
    known = ((volume_ml, f"{volume_ml:.0f} ml"), (percent, f"{percent:.1f} %"))
    return ", ".join(words for value, words in known if np.isfinite(value))


def _ppb(value: float | None) -> str:
    return "unknown" if value is None or not np.isfinite(value) else f"{1000 * value:+.1f}".replace("-", "−")
