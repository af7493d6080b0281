"""Region tables, quality measures and reference offsets as the page shows them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from qsmals.qc.limits import Limit
from qsmals.qc.measures import MEASURES, shown
from qsmals.reports.assess import Quality
from qsmals.reports.collect import PARTLY, RegionTable, Scan, low_coverage
from qsmals.roi.table import COLUMNS, MAP_UNIT

MAP_UNITS = {"Chimap": "ppm", "R2starmap": "1/s", "T2starmap": "s", "S0map": "arbitrary"}
MAP_NAMES = {"Chimap": "susceptibility", "R2starmap": "R2*", "T2starmap": "T2*", "S0map": "S0"}
REFERENCE_NAMES = {
    "brain": "whole brain mask",
    "csf": "cerebrospinal fluid",
    "wm": "white matter",
    "none": "none",
}

PRINTED = ("name", "hemisphere", "n_voxels", "volume_mm3", "coverage", "mean", "sd", "median", "wm_contrast")
"""Columns of a region table that a sheet of paper has room for."""


def region_table(table: RegionTable, output_dir: Path) -> dict[str, Any]:
    """A region table as the page shows it: header with units, and cells with what to sort by."""
    unit = MAP_UNITS.get(table.quantity, "")
    header = []
    for name in table.columns:
        column = COLUMNS.get(name)
        words = unit if column and column.unit == MAP_UNIT else column.unit if column else ""
        header.append(
            {
                "name": name,
                "unit": "" if words == "1" else words.replace("^3", "³"),
                "about": column.description if column else "",
                "printed": name in PRINTED,
            }
        )
    rows = [
        {
            "cells": [_table_cell(n, row[n]) for n in table.columns],
            "low": low_coverage(row),
            "part": not low_coverage(row) and row.get("coverage", 1.0) < PARTLY,
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
    }


def table_anchor(prefix: str, table: RegionTable) -> str:
    """Where a scan's page has a table."""
    return f"{prefix}-table-{table.atlas}-{table.quantity}"


def _table_cell(name: str, value: Any) -> dict[str, Any]:
    return _cell_words(name, value) | {"head": name == "name", "printed": name in PRINTED}


def _cell_words(name: str, value: Any) -> dict[str, str]:
    if isinstance(value, str):
        return {"text": value, "sort": value, "kind": "word"}
    if isinstance(value, int | np.integer):
        return {"text": str(value), "sort": str(value), "kind": "number"}
    if not np.isfinite(value):
        return {"text": "n/a", "sort": "", "kind": "number"}
    words = f"{value:.0f}" if name == "volume_mm3" else f"{value:.3f}" if name == "coverage" else f"{value:.4g}"
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
    """Reference region in words, and offsets in ppb."""
    reference = scan.facts.reference if scan.facts else {}
    spread = reference.get("sd_ppm") or {}
    offsets = [
        (REFERENCE_NAMES.get(key, key.replace("_", " ")), _ppb(value), _ppb(spread.get(key)).lstrip("+"))
        for key, value in (reference.get("offsets_ppm") or {}).items()
    ]
    region = str(reference.get("region") or "")
    return {"region": REFERENCE_NAMES.get(region, region.replace("_", " ")), "offsets": offsets}


MASK_PARTS = {"phase": "with reliable phase", "signal": "with signal", "magnitude": "with signal"}
"""Word in the mask's source to what is said of the part of the brain whose field was used."""

MASK_WORDS = {"quality_threshold": "Threshold of phase quality (0 to 1)"}


def mask_table(scan: Scan) -> dict[str, Any]:
    """Volumes from the whole brain to what is mapped, in ml and percent of the brain, and what else is known of it."""
    facts = scan.facts.mask if scan.facts else {}
    measures = scan.quality.values if scan.quality else {}
    brain, mapped = (_number(measures.get(name)) for name in ("brain_volume", "brain_kept"))
    source = str(facts.get("source") or "phase")
    part = next((words for word, words in MASK_PARTS.items() if word in source), "where the field was used")
    from_t1w = scan.facts is not None and not {"t1w", "t1w_on_gre"}.isdisjoint(scan.facts.images)
    volumes = (
        ("brain of the T1w image" if from_t1w else "brain", brain, np.nan),
        (part, _number(facts.get("volume_ml")), 100.0 - _number(facts.get("dropped_percent"))),
        ("with a susceptibility (mapped)", brain * mapped / 100.0, mapped),
    )
    others = {k: v for k, v in facts.items() if k not in ("source", "volume_ml", "dropped_percent")}
    return {
        "source": facts.get("source"),
        "volumes": [(words, size) for words, *known in volumes if (size := _size(*known))],
        "others": [(MASK_WORDS.get(name, name.replace("_", " ")), value) for name, value in others.items()],
    }


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else np.nan


def _size(volume_ml: float, percent: float) -> str:
    """A volume with its share, as far as they are known."""
    known = ((volume_ml, f"{volume_ml:.0f} ml"), (percent, f"{percent:.1f} %"))
    return ", ".join(words for value, words in known if np.isfinite(value))


def _ppb(value: float | None) -> str:
    return "unknown" if value is None or not np.isfinite(value) else f"{1000 * value:+.1f}".replace("-", "−")
