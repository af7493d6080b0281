"""The page of one subject: ``sub-<label>.html`` with its figures beside it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup, escape

from qsmals.engine.files import write_bytes, write_text
from qsmals.reports.collect import RegionTable, Scan, find_scans, low_coverage
from qsmals.reports.gallery import Drawing, drawings
from qsmals.roi.columns import MINIMUM_COVERAGE
from qsmals.roi.table import COLUMNS, MAP_UNIT

SECTIONS = {
    "phase": "Phase and field",
    "maps": "Maps",
    "registration": "Mask and registration",
    "regions": "Regions",
}
MAP_UNITS = {"Chimap": "ppm", "R2starmap": "1/s", "T2starmap": "s", "S0map": "arbitrary"}
MAP_NAMES = {"Chimap": "susceptibility", "R2starmap": "R2*", "T2starmap": "T2*", "S0map": "S0"}
ACQUISITION_ITEMS = {
    "MagneticFieldStrength": ("Field strength", "T"),
    "Manufacturer": ("Manufacturer", ""),
    "ManufacturersModelName": ("Model", ""),
    "SoftwareVersions": ("Scanner software", ""),
    "ReceiveCoilName": ("Receive coil", ""),
    "PulseSequenceDetails": ("Sequence", ""),
    "MRAcquisitionType": ("2D or 3D", ""),
    "EchoTimes": ("Echo times", "ms"),
    "Readout": ("Readout", ""),
    "RepetitionTime": ("Repetition time", "ms"),
    "FlipAngle": ("Flip angle", "°"),
    "PixelBandwidth": ("Bandwidth", "Hz/pixel"),
    "VoxelSize": ("Voxel size", "mm"),
    "MatrixSize": ("Matrix", ""),
    "TiltDegrees": ("Tilt against the main field", "°"),
    "B0Direction": ("Main field in voxel axes", ""),
    "ParallelReductionFactorInPlane": ("Acceleration in plane", ""),
    "PartialFourier": ("Partial Fourier", ""),
}
ADVICE = (
    (
        r"MemoryError|out of memory|was killed|SIGKILL|signal 9",
        "The step ran out of memory. Run the subject alone, with --nprocs 1 and more memory (--mem, or the request "
        "to the cluster).",
    ),
    (r"No space left", "A disk is full. Free space in the output and work folders, or move the work folder with -w."),
    (
        r"end-of-stream|EOFError|CRC check|could the file be damaged|not a gzip",
        "An input image is damaged or cut off. Copy or convert it again.",
    ),
    (r"EchoTime", "Each gradient-echo image needs EchoTime in its sidecar. Convert again or add it."),
    (
        r"MagneticFieldStrength|field strength",
        "The field strength is not in the sidecar. Add it, or give --field-strength.",
    ),
    (
        r"Permission denied|Read-only file",
        "A folder cannot be written. Check the rights of the output and work folders.",
    ),
)
GENERAL_ADVICE = (
    "Run the same command again: finished steps are not repeated. If the step fails again, look at the traceback "
    "and at the input images it names."
)
# Figures of images that a run may leave in its work folder: an earlier drawing is kept when they are gone, and a
# figure counts as missing only where the facts name such an image.
EARLIER_FIGURES = (
    ("desc-mask_MEGRE.png", "registration", "Brain mask on the gradient echo", ("magnitude",)),
    ("desc-regions_T1w.png", "registration", "Regions on T1w", ("t1w", "t1w_on_gre")),
    ("desc-echoes_MEGRE.png", "phase", "First and last echo", ("magnitude", "phase")),
)
UNEXPLAINED = "The run failed and recorded no message. Crash files, if any, are in sub-{label}/log/."


@dataclass(frozen=True)
class SubjectReport:
    """A written page.

    Attributes
    ----------
    path : Path
        The HTML file.
    missing : tuple of str
        Outputs and figures that a finished subject should have and has not, one sentence each.
    """

    path: Path
    missing: tuple[str, ...]


def write_subject_report(output_dir: Path, subject: str, *, run_facts: Mapping[str, Any]) -> SubjectReport:
    """Write ``sub-<subject>.html`` and its figures from what the subject's run left in ``output_dir``.

    Parameters
    ----------
    output_dir : Path
        The derivatives' folder.
    subject : str
        Label, with or without ``sub-``.
    run_facts : mapping
        What concerns the subject as a whole, each key optional: ``run`` (folder under ``log/``), ``version``,
        ``command``, ``status`` (``finished``, ``failed`` or ``interrupted``), ``warnings`` (list of str), ``errors``
        (list of ``step``, ``message``, ``traceback``, ``advice``), ``times`` (list of ``step``, ``seconds``,
        ``memory_gb``), ``software`` (mapping), ``parameters`` (step to mapping), ``methods`` (Markdown).

    Returns
    -------
    SubjectReport
        The page, and what is missing; the page lists it too.
    """
    output_dir, label = Path(output_dir), subject.removeprefix("sub-")
    scans, faults = find_scans(output_dir, label, run_facts.get("run"))
    figure_dir = output_dir / f"sub-{label}" / "figures"
    pages = [_scan_page(scan, output_dir, figure_dir) for scan in scans]
    errors = [_with_advice(e) for e in _all(run_facts, scans, "errors")]
    if not errors and (run_facts.get("status") == "failed" or any(scan.failed for scan in scans)):
        errors = [{"step": "Run", "message": UNEXPLAINED.format(label=label), "advice": GENERAL_ADVICE}]
    missing = [*faults, *(entry for page in pages for entry in page["missing"])]
    if not scans and not errors:
        missing.append(f"sub-{label}: no susceptibility map and no facts of a run")
    methods = _methods(output_dir, run_facts, scans)
    if not methods and not errors:
        missing.append("methods text (logs/CITATION.md)")
    page = _template().render(
        label=label,
        run=run_facts,
        status=_status(run_facts, errors, missing),
        warnings=_unique(_all(run_facts, scans, "warnings")),
        errors=errors,
        missing=missing,
        scans=pages,
        methods=_markdown(methods),
        citation_files=[p for p in ("logs/CITATION.md", "logs/CITATION.bib") if (output_dir / p).exists()],
        software=_software(run_facts, scans),
        times=[dict(t) for t in run_facts.get("times") or ()],
        parameters=run_facts.get("parameters") or {},
        minimum_coverage=MINIMUM_COVERAGE,
    )
    return SubjectReport(write_text(output_dir / f"sub-{label}.html", page), tuple(missing))


def _all(run_facts: Mapping[str, Any], scans: Sequence[Scan], key: str) -> list[Any]:
    """Entries of the run and of each of its scans, the latter marked with the scan's name where there are several."""
    entries = list(run_facts.get(key) or ())
    for scan in scans:
        for entry in getattr(scan.facts, key) if scan.facts else ():
            if entry in entries:
                continue
            if isinstance(entry, str):
                entries.append(f"{scan.prefix}: {entry}" if len(scans) > 1 else entry)
            else:
                entries.append({"scan": scan.prefix} | dict(entry))
    return entries


def _unique(entries: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(entries))


def _with_advice(error: Mapping[str, Any]) -> dict[str, Any]:
    """An error with something to try, from the error itself or from what its words suggest."""
    words = f"{error.get('message', '')} {error.get('traceback', '')}"
    guesses = [advice for pattern, advice in ADVICE if re.search(pattern, words, re.IGNORECASE)]
    return {"advice": guesses[0] if guesses else GENERAL_ADVICE} | {k: v for k, v in error.items() if v}


def _status(run_facts: Mapping[str, Any], errors: Sequence[Any], missing: Sequence[str]) -> dict[str, str]:
    """The one word at the top of the page and its class."""
    status = run_facts.get("status") or ("failed" if errors else "finished")
    if status == "failed" or errors:
        return {"kind": "bad", "word": "Failed"}
    if status != "finished":
        return {"kind": "bad", "word": str(status).capitalize()}
    return {"kind": "note", "word": "Finished, incomplete"} if missing else {"kind": "good", "word": "Finished"}


def _methods(output_dir: Path, run_facts: Mapping[str, Any], scans: Sequence[Scan]) -> str:
    """Methods text of the run, of its first scan, or of the whole output folder."""
    texts = [run_facts.get("methods"), *(scan.facts.methods for scan in scans if scan.facts)]
    kept = next((str(text) for text in texts if text), "")
    shared = output_dir / "logs" / "CITATION.md"
    return kept or (shared.read_text() if shared.exists() else "")


def _software(run_facts: Mapping[str, Any], scans: Sequence[Scan]) -> dict[str, str]:
    software = dict(run_facts.get("software") or {})
    for scan in scans:
        software = (dict(scan.facts.software) if scan.facts else {}) | software
    return software


def _scan_page(scan: Scan, output_dir: Path, figure_dir: Path) -> dict[str, Any]:
    """What the template shows of one scan; its figures are written on the way."""
    sections, faults = _figures(scan, output_dir, figure_dir)
    return {
        "prefix": scan.prefix,
        "facts": scan.facts,
        "failed": scan.failed,
        "missing": [*scan.missing, *faults],
        "links": _links(scan, output_dir),
        "acquisition": _acquisition(scan),
        "echoes": _echo_table(scan),
        "sections": sections,
        "tables": [_table(table, output_dir) for table in scan.tables],
        "reference": _reference(scan),
    }


def _figures(scan: Scan, output_dir: Path, figure_dir: Path) -> tuple[dict[str, list[dict[str, str]]], list[str]]:
    """Draw a scan's figures; one that was drawn before and cannot be drawn now stays on the page."""
    sections: dict[str, list[dict[str, str]]] = {name: [] for name in SECTIONS}
    faults, done = [], set()
    for drawing in drawings(scan):
        path = figure_dir / f"{scan.prefix}_{drawing.name}"
        try:
            write_bytes(path, drawing.draw())
        except Exception as error:  # a damaged image must not take the rest of the page with it
            faults.append(f"{scan.prefix}: figure “{drawing.title}” could not be drawn: {error}")
        else:
            sections[drawing.section].append(_figure_words(drawing, path, output_dir))
        done.add(drawing.name)
    named = set(scan.facts.images) if scan.facts else set()
    for name, section, title, roles in EARLIER_FIGURES:
        path = figure_dir / f"{scan.prefix}_{name}"
        if name not in done and path.exists():
            earlier = Drawing(section, name, title, "Drawn by an earlier run of the report.", bytes)
            sections[section].insert(0, _figure_words(earlier, path, output_dir))
        elif name not in done and not scan.failed and named & set(roles):
            faults.append(f"{scan.prefix}: figure “{title}” (the images that the facts name no longer exist)")
    return sections, faults


def _figure_words(drawing: Drawing, path: Path, output_dir: Path) -> dict[str, str]:
    link = path.relative_to(output_dir).as_posix()
    return {"name": path.name, "link": link, "title": drawing.title, "caption": drawing.caption}


def _links(scan: Scan, output_dir: Path) -> list[tuple[str, str]]:
    """The files a reader looks for first."""
    names = {"chi": "Susceptibility map", "mask": "Brain mask", "r2star": "R2* map"}
    links = [(word, scan.files[role]) for role, word in names.items() if role in scan.files]
    links += [(f"Region table, {MAP_NAMES.get(t.quantity, t.quantity)} ({t.atlas})", t.path) for t in scan.tables]
    links += [
        (f"Region labels ({role.removeprefix('labels:')})", path)
        for role, path in scan.files.items()
        if role.startswith("labels:")
    ]
    return [(word, path.relative_to(output_dir).as_posix()) for word, path in links]


def _acquisition(scan: Scan) -> dict[str, Any]:
    """Items of the consensus that the sidecars fill, and the names of those they do not."""
    facts = scan.facts.acquisition if scan.facts else {}
    known = [
        (title, _with_unit(facts[key], unit))
        for key, (title, unit) in ACQUISITION_ITEMS.items()
        if facts.get(key) not in (None, "", [])
    ]
    unknown = [_in_sentence(title) for key, (title, _) in ACQUISITION_ITEMS.items() if facts.get(key) in (None, "", [])]
    return {"known": known, "unknown": unknown}


def _in_sentence(title: str) -> str:
    """A title inside a sentence: "2D or 3D" stays, "Flip angle" loses its capital."""
    return title[0].lower() + title[1:] if title[1:2].islower() else title


def _with_unit(value: Any, unit: str) -> str:
    factor = 1000 if unit == "ms" else 1
    items = value if isinstance(value, list | tuple) else [value]
    words = [f"{factor * v:.4g}" if isinstance(v, int | float) and not isinstance(v, bool) else str(v) for v in items]
    return (
        ((" × " if unit in ("mm", "") and len(words) == 3 else ", ").join(words) + f" {unit}")
        .replace(" °", "°")
        .strip()
    )


def _echo_table(scan: Scan) -> dict[str, Any]:
    """Rows of the table of echoes, with every column that any echo has."""
    rows = [dict(echo) for echo in (scan.facts.echoes if scan.facts else ())]
    names = list(dict.fromkeys(name for row in rows for name in row))
    titles = {"echo": "Echo", "echo_time_s": "TE (ms)", "snr": "SNR"}
    cells = [[_echo_cell(name, row.get(name)) for name in names] for row in rows]
    return {"titles": [titles.get(name, name.replace("_", " ")) for name in names], "rows": cells}


def _echo_cell(name: str, value: Any) -> str:
    if value is None:
        return "unknown"
    if isinstance(value, float):
        return f"{1000 * value:.4g}" if name == "echo_time_s" else f"{value:.4g}"
    return str(value)


def _reference(scan: Scan) -> dict[str, Any]:
    """Reference region in words, and offsets in ppb."""
    reference = scan.facts.reference if scan.facts else {}
    names = {"brain": "whole brain mask", "csf": "cerebrospinal fluid", "wm": "white matter", "none": "none"}
    spread = reference.get("sd_ppm") or {}
    offsets = [
        (names.get(key, key.replace("_", " ")), _ppb(value), _ppb(spread.get(key)).lstrip("+"))
        for key, value in (reference.get("offsets_ppm") or {}).items()
    ]
    region = str(reference.get("region") or "")
    return {"region": names.get(region, region.replace("_", " ")), "offsets": offsets}


def _ppb(value: float | None) -> str:
    return "unknown" if value is None or not np.isfinite(value) else f"{1000 * value:+.1f}".replace("-", "−")


def _table(table: RegionTable, output_dir: Path) -> dict[str, Any]:
    """A region table as the page shows it: header with units, and cells with what to sort by."""
    unit = MAP_UNITS.get(table.quantity, "")
    header = []
    for name in table.columns:
        column = COLUMNS.get(name)
        shown = unit if column and column.unit == MAP_UNIT else column.unit if column else ""
        header.append(
            {"name": name, "unit": "" if shown == "1" else shown, "about": column.description if column else ""}
        )
    rows = [{"cells": [_table_cell(n, row[n]) for n in table.columns], "low": low_coverage(row)} for row in table.rows]
    return {
        "title": f"{MAP_NAMES.get(table.quantity, table.quantity)}, {table.atlas}",
        "quantity": table.quantity,
        "link": table.path.relative_to(output_dir).as_posix(),
        "header": header,
        "rows": rows,
        "low": sum(row["low"] for row in rows),
    }


def _table_cell(name: str, value: Any) -> dict[str, str]:
    if isinstance(value, str):
        return {"text": value, "sort": value, "kind": "word"}
    if isinstance(value, int | np.integer):
        return {"text": str(value), "sort": str(value), "kind": "number"}
    if not np.isfinite(value):
        return {"text": "n/a", "sort": "", "kind": "number"}
    shown = f"{value:.0f}" if name == "volume_mm3" else f"{value:.3f}" if name == "coverage" else f"{value:.4g}"
    return {"text": shown.replace("-", "−"), "sort": repr(float(value)), "kind": "number"}


def _markdown(text: str) -> Markup:
    """Headings, lists, paragraphs, emphasis and links of the methods text as HTML."""
    blocks = []
    for block in re.split(r"\n\s*\n", text.strip()):
        heading = re.fullmatch(r"(#+)\s+(.+)", block)
        lines = block.splitlines()
        if heading:
            level = min(len(heading[1]) + 1, 6)
            blocks.append(f"<h{level}>{_inline(heading[2])}</h{level}>")
        elif lines and all(line.startswith("- ") for line in lines):
            blocks.append("<ul>" + "".join(f"<li>{_inline(line[2:])}</li>" for line in lines) + "</ul>")
        elif block:
            blocks.append(f"<p>{_inline(' '.join(lines))}</p>")
    return Markup("\n".join(blocks))


def _inline(text: str) -> str:
    """One line of Markdown, escaped, with emphasis and links."""
    words = str(escape(text))
    words = re.sub(r"(?<![*\w])\*([^*]+)\*(?![*\w])", r"<em>\1</em>", words)
    return re.sub(r"(https://[^\s<>&]+[^\s<>&.,;)])", r'<a href="\1">\1</a>', words)


@cache
def _template() -> jinja2.Template:
    """The page's template with its style and script inlined."""
    package = files("qsmals.reports")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.globals["style"] = Markup((package / "report.css").read_text())
    environment.globals["script"] = Markup((package / "report.js").read_text())
    environment.globals["section_titles"] = SECTIONS
    environment.filters["words"] = lambda value: _with_unit(value, " ") if isinstance(value, list) else str(value)
    return environment.from_string((package / "subject.html").read_text())
