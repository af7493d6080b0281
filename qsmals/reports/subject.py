"""The page of one subject: ``sub-<label>.html`` with its figures beside it."""

import re
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from qsmals.engine.files import write_text
from qsmals.qc.limits import LIMITS, Limit
from qsmals.qc.regions import ALIKE_PPB
from qsmals.qc.verdict import Reason, Verdict, judged_words, moved_words, with_limits
from qsmals.reports.acquisition import acquisition, echo_table, with_unit
from qsmals.reports.assess import assess_subject
from qsmals.reports.collect import PARTLY, Scan, find_scans
from qsmals.reports.conformance import conformance, counted
from qsmals.reports.crosslink import GROUP_PAGE, link_to_group
from qsmals.reports.drawn import Shown, draw_figures
from qsmals.reports.gallery import FLICKER, THUMBNAIL
from qsmals.reports.messages import GENERAL_ADVICE, UNEXPLAINED, with_advice
from qsmals.reports.tables import MAP_NAMES, mask_table, quality_table, reference_table, region_table, table_anchor
from qsmals.roi.columns import MINIMUM_COVERAGE

SECTIONS = {
    "phase": "Phase and field",
    "background": "Background and local field",
    "maps": "Maps",
    "registration": "Mask and registration",
    "regions": "Regions",
}
VERDICTS = {
    "pass": {"kind": "good", "word": "Pass", "about": "This does not prove the values right."},
    "check": {"kind": "note", "word": "Check", "about": "A person should look before this subject goes into a study."},
    "fail": {"kind": "bad", "word": "Fail", "about": "Do not use this subject's numbers as they are."},
}


@dataclass(frozen=True)
class SubjectReport:
    """A written page.

    Attributes
    ----------
    path : Path
        The HTML file.
    missing : tuple of str
        Outputs and figures that a finished subject should have and has not, one sentence each.
    verdict : Verdict
        Of the whole subject, with the reasons.
    """

    path: Path
    missing: tuple[str, ...]
    verdict: Verdict


def write_subject_report(
    output_dir: Path,
    subject: str,
    *,
    run_facts: Mapping[str, Any],
    limits: Mapping[str, Limit] = LIMITS,
    drawn: Container[str] = (),
    hurry: bool = False,
) -> SubjectReport:
    """Write ``sub-<subject>.html`` and its figures from what the subject's run left in ``output_dir``.

    Parameters
    ----------
    output_dir : Path
        The derivatives' folder.
    subject : str
        Label, with or without ``sub-``.
    run_facts : mapping
        What concerns the subject as a whole, each key optional: ``run`` (folder under ``log/``), ``version``,
        ``command``, ``errors`` that are of no scan (list of ``step``, ``message``, ``traceback``, ``advice``),
        ``times`` (list of ``step``, ``seconds``, ``memory_gb``), ``software`` (mapping), ``age`` (years).
    limits : mapping of measure to Limit
        What the verdict follows from.
    drawn : container of str
        Prefixes of the scans whose figures the run has drawn already.
    hurry : bool
        Whether to draw no figure at all, and to show those that there are.

    Returns
    -------
    SubjectReport
        The page, the verdict, and what is missing; the page lists it too.
    """
    output_dir, label = Path(output_dir), subject.removeprefix("sub-")
    scans, faults = find_scans(output_dir, label, run_facts.get("run"))
    figure_dir = output_dir / f"sub-{label}" / "figures"
    parameters = _shared_parameters(scans)
    pages = []
    for scan in scans:
        age, known = run_facts.get("age"), scan.prefix in drawn
        shown, lacking = draw_figures(scan, figure_dir, age=age, drawn=known, hurry=hurry)
        pages.append(_scan_page(scan, output_dir, shown, lacking, limits) | {"own": not parameters})
    errors = [with_advice(e) for e in (*(run_facts.get("errors") or ()), *_of_scans(scans, "errors"))]
    if not errors and any(scan.failed for scan in scans):
        errors = [{"step": "Run", "message": UNEXPLAINED.format(label=label), "advice": GENERAL_ADVICE}]
    missing = [*faults, *(entry for page in pages for entry in page["missing"])]
    if not scans and not errors:
        missing.append(f"sub-{label}: no susceptibility map and no facts of a run")
    mapped = any("chi" in scan.files for scan in scans)
    methods = _methods(output_dir, scans) if mapped else ""  # nothing to write a paper about
    if mapped and not methods and not errors:
        missing.append("methods text (logs/CITATION.md)")
    verdict, of_scans = assess_subject(scans, run_facts, limits)
    page = _template().render(
        label=label,
        run=run_facts,
        verdict=VERDICTS[verdict.word],
        reasons=_reasons(verdict, pages),
        basis=[_basis(page, of_scans[page["prefix"]], limits) for page in pages] if verdict.word == "pass" else [],
        moved=moved_words(limits),
        of_scans={prefix: VERDICTS[v.word] for prefix, v in of_scans.items()},
        judged={prefix: judged_words(v, limits) for prefix, v in of_scans.items()},
        warnings=_unique([*_of_scans(scans, "warnings"), *(why for scan in scans for why in scan.left_out)]),
        errors=errors,
        missing=missing,
        scans=pages,
        n_results=sum("chi" in scan.files for scan in scans),
        methods=_markdown(methods),
        citation_files=[p for p in ("logs/CITATION.md", "logs/CITATION.bib") if (output_dir / p).exists()],
        software=_software(run_facts, scans),
        times=_durations(run_facts.get("times") or ()),
        parameters=parameters,
        minimum_coverage=MINIMUM_COVERAGE,
        partly=PARTLY,
        alike_ppb=ALIKE_PPB,
    )
    path = write_text(output_dir / f"sub-{label}.html", page)
    if (output_dir / GROUP_PAGE).exists():  # asked after writing: a group page that comes now links what it finds
        link_to_group(path)
    return SubjectReport(path, tuple(missing), verdict)


def _basis(page: Mapping[str, Any], verdict: Verdict, limits: Mapping[str, Limit]) -> dict[str, Any]:
    """What a scan's pass rests on, and where to see whether it holds."""
    judged, unknown = len(with_limits(limits)), len(verdict.not_judged)
    places = {
        "map": f"{page['prefix']}-maps",
        "mask": "desc-mask_MEGRE.png",
        "labels": "desc-regions_MEGRE.png",
        "regions": f"{page['prefix']}-regions",
    }
    figures = [figure["name"] for section in page["sections"].values() for figure in section]
    sections = {f"{page['prefix']}-{name}" for name in SECTIONS if page["sections"][name]}
    if page["tables"]:
        sections.add(f"{page['prefix']}-regions")
    found = {
        word: place if place in sections else next((name for name in figures if name.endswith(place)), "")
        for word, place in places.items()
    }
    return {
        "prefix": page["prefix"],
        "within": judged - unknown,
        "judged": judged,
        "unknown": unknown,
        "places": {word: place for word, place in found.items() if place},
        "counted": page["counted"],
    }


def _reasons(verdict: Verdict, pages: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Each reason with the place on the page that shows it."""
    return [{"level": r.level, "text": r.text, "link": _place(r, pages)} for r in verdict.reasons]


def _place(reason: Reason, pages: Sequence[Mapping[str, Any]]) -> str:
    """Anchor of a reason's figure, else of the table of measures."""
    prefix, _, name = reason.figure.rpartition("/")
    page = next((p for p in pages if p["prefix"] == prefix), pages[0] if pages else None)
    if name == "messages" or page is None:
        return "#messages"
    figures = [figure for section in page["sections"].values() for figure in section]
    found = next((figure["name"] for figure in figures if figure["name"].endswith(name) and name), "")
    if found:
        return f"#{found}"
    if name == "flicker":
        return f"#{page['prefix']}-{'flicker' if page['flicker'] else 'registration'}"
    place = name if name in ("regions", "acquisition") else "quality"
    return "#messages" if page["empty"] else f"#{page['prefix']}-{place}"


def _of_scans(scans: Sequence[Scan], key: str) -> list[Any]:
    """Entries of the scans' facts, each once, marked with the names of the scans where not all have it."""
    told: list[tuple[Any, list[str]]] = []
    for scan in scans:
        for entry in getattr(scan.facts, key) if scan.facts else ():
            names = next((names for known, names in told if known == entry), None)
            if names is None:
                told.append((entry, [scan.prefix]))
            elif scan.prefix not in names:
                names.append(scan.prefix)
    return [entry if len(names) == len(scans) else _marked(entry, ", ".join(names)) for entry, names in told]


def _marked(entry: Any, names: str) -> Any:
    return f"{names}: {entry}" if isinstance(entry, str) else {"scan": names} | dict(entry)


def _unique(entries: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(entries))


def _methods(output_dir: Path, scans: Sequence[Scan]) -> str:
    """Methods texts of the scans, each once and with their names where there are several; else the study's."""
    texts: dict[str, list[str]] = {}
    for scan in scans:
        if scan.facts and scan.facts.methods:
            texts.setdefault(scan.facts.methods, []).append(scan.prefix)
    if len(texts) > 1:
        return "\n\n".join(f"# {', '.join(names)}\n\n{text}" for text, names in texts.items())
    shared = output_dir / "logs" / "CITATION.md"
    return next(iter(texts), "") or (shared.read_text() if shared.exists() else "")


def _shared_parameters(scans: Sequence[Scan]) -> Mapping[str, Any]:
    """Parameters of the scans where all have the same; else each shows its own."""
    found = [scan.facts.parameters for scan in scans if scan.facts]
    return found[0] if found and all(parameters == found[0] for parameters in found) else {}


def _software(run_facts: Mapping[str, Any], scans: Sequence[Scan]) -> dict[str, str]:
    software = dict(run_facts.get("software") or {})
    for scan in scans:
        software = (dict(scan.facts.software) if scan.facts else {}) | software
    return software


def _scan_page(
    scan: Scan,
    output_dir: Path,
    shown: Sequence[Shown],
    lacking: Sequence[str],
    limits: Mapping[str, Limit],
) -> dict[str, Any]:
    """What the template shows of one scan with its figures, and what they lack."""
    sections: dict[str, list[dict[str, str]]] = {name: [] for name in (THUMBNAIL, *SECTIONS)}
    for entry in shown:
        sections[entry.figure.section].append(_figure_words(entry, output_dir))
    parameters, software = (scan.facts.parameters, scan.facts.software) if scan.facts else ({}, {})
    pair = [f for f in sections["registration"] if f["name"].endswith(tuple(name for _, name, _ in FLICKER))]
    flicker = pair if len(pair) == len(FLICKER) else []
    sections["registration"] = [f for f in sections["registration"] if f not in flicker]
    return {
        "prefix": scan.prefix,
        "facts": scan.facts,
        "failed": scan.failed,
        "empty": scan.failed and "chi" not in scan.files,
        "missing": [*scan.missing, *lacking],
        "links": _links(scan, output_dir, [figure["name"] for section in sections.values() for figure in section]),
        "mask": mask_table(scan),
        "registration": _registration(scan),
        "details": _details(scan),
        "acquisition": acquisition(scan.facts),
        "times": _durations(scan.facts.times if scan.facts else ()),
        "detected": _told_apart(scan),
        "echoes": echo_table(scan.facts, scan.quality),
        "sections": sections,
        "flicker": flicker,
        "tables": [
            region_table(table, output_dir) | {"anchor": table_anchor(scan.prefix, table)} for table in scan.tables
        ],
        "reference": reference_table(scan),
        "quality": quality_table(scan.quality, limits),
        "conformance": (lines := conformance(scan, parameters, software)),
        "counted": counted(lines),
    }


REGISTRATION_WORDS = {
    "brain dice": "overlap of the brains",
    "jacobian low": "smallest volume change",
    "jacobian high": "largest volume change",
    "in view ml": "brain in the field of view (ml)",
}
DETAIL_WORDS = {
    "inversion": "Dipole inversion",
    "cortex": "Cortical labels fitted to grey matter",
    "nuclei": "Deep nuclei fitted to the images",
    "lost_percent": "voxels lost (%)",
    "gained_percent": "voxels gained (%)",
    "correlation_before": "correlation of susceptibility with the expected map as registered to the template",
    "correlation": "the same after the nuclei were moved",
    "jacobian_low": "smallest volume change",
    "jacobian_high": "largest volume change",
    "largest_shift_mm": "largest displacement (mm)",
}


def _registration(scan: Scan) -> list[tuple[str, str]]:
    """The registrations' own measures in words."""
    facts = scan.facts.registration if scan.facts else {}
    rows = []
    for name, value in facts.items():
        registration, _, measure = name.partition(", ")
        words = REGISTRATION_WORDS.get(measure, measure)
        if measure == "brain dice" and registration.startswith("GRE"):
            words = "share of the brain in the field of view with signal"
        rows.append((f"{registration}: {words}" if words else name, _words(value)))
    return rows


def _details(scan: Scan) -> list[tuple[str, list[tuple[str, str]]]]:
    """Facts of single steps that no other part of the page shows, by step."""
    found = []
    for step, values in (scan.facts.other if scan.facts else {}).items():
        if isinstance(values, Mapping):
            rows = [(name, value) for name, value in values.items() if value not in (None, "", [], {})]
        else:
            rows = [("value", values)] if values not in (None, "", [], {}) else []
        words = [(DETAIL_WORDS.get(name, name.replace("_", " ")), _words(value)) for name, value in rows]
        if words:
            found.append((DETAIL_WORDS.get(step, step.replace("_", " ").capitalize()), words))
    return found


REACHED = ("background field removal", "dipole inversion")
"""Entries that say what an algorithm reached, not what the images show."""


def _told_apart(scan: Scan) -> list[tuple[str, list[Mapping[str, Any]]]]:
    """What was detected in the data, and what the reconstruction reached, each under its title."""
    entries = scan.facts.detected if scan.facts else ()
    parts = (
        ("Detected in the data", [e for e in entries if e.get("what") not in REACHED]),
        ("What the reconstruction reached", [e for e in entries if e.get("what") in REACHED]),
    )
    return [(title, rows) for title, rows in parts if rows]


SHORT_S = 1.0
"""Shorter steps share one line of the table of times."""


def _durations(times: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Steps with their times, the longest first, and the sum of those that took less than a second."""
    known = [dict(t) for t in times]
    short = [t for t in known if isinstance(t.get("seconds"), int | float) and t["seconds"] < SHORT_S]
    long = sorted((t for t in known if t not in short), key=lambda t: -float(t.get("seconds") or 0.0))
    return {"long": long, "short": len(short), "short_s": sum(t["seconds"] for t in short)}


def _figure_words(shown: Shown, output_dir: Path) -> dict[str, str]:
    """A figure as the template shows it."""
    figure, link = shown.figure, shown.path.relative_to(output_dir).as_posix()
    kept = f"Drawn by an earlier run; no longer there: {shown.lost}." if shown.lost else ""
    return {"name": figure.name, "link": link, "title": figure.title, "caption": figure.caption, "kept": kept}


def _links(scan: Scan, output_dir: Path, figures: Sequence[str]) -> list[dict[str, str]]:
    """The files a reader looks for first, and where the page shows what is in them."""
    names = {
        "chi": ("Susceptibility map", "desc-mosaic_Chimap.png", "see the map"),
        "mask": ("Mask of the mapped voxels", "desc-mask_MEGRE.png", "see the mask"),
        "r2star": ("R2* map", "desc-mosaic_R2starmap.png", "see the map"),
    }
    links = [
        (word, scan.files[role], f"{scan.prefix}_{figure}", see)
        for role, (word, figure, see) in names.items()
        if role in scan.files
    ]
    links += [
        (
            f"Region table, {MAP_NAMES.get(t.quantity, t.quantity)} ({t.atlas})",
            t.path,
            table_anchor(scan.prefix, t),
            "see the table",
        )
        for t in scan.tables
    ]
    for role, path in scan.files.items():
        if role.startswith("labels:"):
            atlas = role.removeprefix("labels:")
            figure = f"{scan.prefix}_seg-{atlas}_desc-regions_MEGRE.png"
            links.append((f"Region labels ({atlas})", path, figure, "see the labels"))
    anchors = {*figures, *(table_anchor(scan.prefix, t) for t in scan.tables)}
    return [
        {"word": word, "link": path.relative_to(output_dir).as_posix(), "at": at if at in anchors else "", "see": see}
        for word, path, at, see in links
    ]


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


def _words(value: Any) -> str:
    """A setting or measure: numbers to four digits, lists with commas."""
    return with_unit(value, " ") if isinstance(value, list | float) and not isinstance(value, bool) else str(value)


def _breakable(name: str) -> Markup:
    """A name that may go on in a new line after each underscore."""
    return Markup("_<wbr>").join(name.split("_"))


@cache
def _template() -> jinja2.Template:
    """The page's template with its style and script inlined."""
    package = files("qsmals.reports")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.globals["style"] = Markup((package / "report.css").read_text())
    environment.globals["script"] = Markup((package / "report.js").read_text())
    environment.globals["section_titles"] = SECTIONS
    environment.filters["words"] = _words
    environment.filters["breakable"] = _breakable
    return environment.from_string((package / "subject.html").read_text())
