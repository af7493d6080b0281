"""The page of a study: ``group.html``, and the table behind it."""

import json
import logging
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from qsmals import __version__
from qsmals.bids.group import EXTRA_COLUMNS, ID_COLUMNS, free_name
from qsmals.bids.naming import natural_key, parse_name
from qsmals.engine.files import write_json, write_text
from qsmals.engine.lock import LockHeld, SubjectLock
from qsmals.engine.summary import SubjectSummary
from qsmals.qc.limits import LIMITS, Limit
from qsmals.qc.measures import MEASURES
from qsmals.qc.verdict import Reason, Verdict, moved_words, worst_of
from qsmals.reports.assess import assess_run, assess_scan
from qsmals.reports.collect import Scan, find_scans
from qsmals.reports.crosslink import GROUP_LINK, GROUP_PAGE, link_to_group
from qsmals.reports.published import ALARM_LIMITS, EXPECTED
from qsmals.reports.strips import Point, outliers, strip

log = logging.getLogger("qsmals")

MISSING = "n/a"
RUN_FACTS = "run.json"
TABLE_NAME = "desc-qc_Chimap.tsv"
DEFAULT_ATLAS = "als"
"""The atlas whose regions have published values or alarm limits."""

SHOWN_WITHOUT_PUBLISHED = 30
"""Regions on the page of an atlas of which none has published values or alarm limits."""

PRINTED = ("snr_first", "jump_share", "brain_kept", "motor_coverage", "contrast_pallidum", "region_order", "streaking")
"""Measures that a sheet of paper has room for beside the verdict."""

WORDS = {"pass": "good", "check": "note", "fail": "bad"}


@dataclass(frozen=True)
class Row:
    """One scan of the study, or a subject that has none.

    Attributes
    ----------
    identity : mapping of str to str
        ``participant_id`` and what else tells the scan apart.
    verdict : Verdict
    page : str
        The subject's page beside the group page; empty where there is none.
    person : mapping of str to str
        Its line of participants.tsv.
    measures : mapping of str to float
    regions : mapping of str to float
        Mean susceptibility, ppb, by ``pallidum_L``; every region of the atlas.
    """

    identity: Mapping[str, str]
    verdict: Verdict
    page: str
    person: Mapping[str, str] = field(default_factory=dict)
    measures: Mapping[str, float] = field(default_factory=dict)
    regions: Mapping[str, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """As the page calls it: ``sub-01 ses-A run-1``."""
        others = [f"{k}-{v}" for k, v in self.identity.items() if k not in ("participant_id", "session_id")]
        return " ".join([*(v for k, v in self.identity.items() if k in ("participant_id", "session_id")), *others])


@dataclass(frozen=True)
class GroupReport:
    """What was written: the page, the table, and how many scans have which verdict."""

    path: Path
    table: Path
    verdicts: Mapping[str, int]
    rows: tuple[Row, ...]


def write_group_report(
    output_dir: Path,
    *,
    people: Mapping[str, Mapping[str, str]] | None = None,
    dictionary: Mapping[str, Any] | None = None,
    summary: Mapping[str, SubjectSummary] | None = None,
    labels: Sequence[str] | None = None,
    limits: Mapping[str, Limit] = LIMITS,
    warnings: Sequence[str] = (),
) -> GroupReport:
    """Write ``group.html`` and ``group/desc-qc_Chimap.tsv`` with its data dictionary; no image is read.

    Parameters
    ----------
    output_dir : Path
        The derivatives' folder.
    people : mapping of participant to row, optional
        participants.tsv; those without results are listed as missing.
    dictionary : mapping of column to object, optional
        participants.json.
    summary : mapping of participant to SubjectSummary, optional
        What became of each subject.
    labels : sequence of str, optional
        Participants (``sub-01``) to show; all without.
    limits : mapping of measure to Limit
        What the verdicts follow from.
    warnings : sequence of str
        What a reader of the study's tables should know.
    """
    people, summary = people or {}, summary or {}
    folders = [p.name for p in output_dir.glob("sub-*") if p.is_dir()]
    known = {*folders, *people, *summary}
    chosen = sorted(known & set(labels) if labels else known, key=natural_key)
    rows = [row for name in chosen for row in _rows(output_dir, name, people.get(name, {}), summary.get(name), limits)]
    table = _write_table(output_dir, rows, dictionary or {})
    page = _page(rows, limits, output_dir, warnings)
    verdicts: Counter[str] = Counter(row.verdict.word for row in rows)
    path = write_text(output_dir / GROUP_PAGE, page)
    for name in chosen:
        _link_back(output_dir, name)
    return GroupReport(path, table, dict(verdicts), tuple(rows))


def _link_back(output_dir: Path, name: str) -> None:
    """Give a subject's page the link to this one, unless a run is at work on it: it writes the page with the link."""
    page = output_dir / f"{name}.html"
    if not page.is_file() or GROUP_LINK in page.read_text():
        return
    try:
        with SubjectLock(output_dir, name):
            link_to_group(page)
    except LockHeld:
        log.info("%s: its run writes the link to %s", name, GROUP_PAGE)
    except OSError as error:  # another user's page: the study's is whole all the same
        log.warning("%s has no link to %s: %s", page.name, GROUP_PAGE, error)


def _rows(
    output_dir: Path,
    name: str,
    person: Mapping[str, str],
    entry: SubjectSummary | None,
    limits: Mapping[str, Limit],
) -> Iterable[Row]:
    """One row a scan; one for a subject without any, or whose latest run was refused for sessions that have none."""
    page = f"{name}.html" if (output_dir / f"{name}.html").is_file() else ""
    run_facts = _run_facts(output_dir / name / "log")
    scans, _ = find_scans(output_dir, name.removeprefix("sub-"))
    refused = {scan.prefix for scan in scans if _is_of_run(scan, run_facts)} if run_facts.get("errors") else set()
    if not scans or (run_facts.get("errors") and not refused):
        yield Row({"participant_id": name}, _without_scan(run_facts, entry), page, person)
    for scan in scans:
        verdict = assess_scan(scan, limits)
        if scan.prefix in refused:
            verdict = worst_of([assess_run(scans, run_facts), verdict])
        measures = scan.quality.values if scan.quality else {}
        yield Row(_identity(scan.prefix), verdict, page, person, measures, _regions(scan))


def _is_of_run(scan: Scan, run_facts: Mapping[str, Any]) -> bool:
    """Whether a scan's session is one of those that a refused run was asked for; all are where it does not say."""
    sessions = run_facts.get("sessions")
    return sessions is None or parse_name(f"{scan.prefix}_Chimap.nii.gz").entities.get("ses", "") in sessions


def _run_facts(log: Path) -> dict[str, Any]:
    """What the subject's latest run wrote about itself; empty where none did."""
    written = sorted(log.glob(f"*/{RUN_FACTS}"))
    if not written:
        return {}
    try:
        content = json.loads(written[-1].read_text())
    except ValueError:
        return {"errors": [{"step": "Run", "message": f"{written[-1]} cannot be read"}]}
    return content if isinstance(content, dict) else {}


def _without_scan(run_facts: Mapping[str, Any], entry: SubjectSummary | None) -> Verdict:
    """Why a subject has no scan: what its run says, else the summary, else that it was not processed."""
    if run_facts.get("errors"):
        return assess_run([], run_facts)
    if entry is not None and entry.status != "ok":
        return Verdict("fail", (Reason("fail", f"{entry.status.capitalize()}: {entry.why}"),))
    return Verdict("fail", (Reason("fail", "Not processed: there is no result."),))


def _identity(prefix: str) -> dict[str, str]:
    entities = parse_name(f"{prefix}_Chimap.nii.gz").entities
    session = {"session_id": f"ses-{entities['ses']}"} if "ses" in entities else {}
    others = {key: entities[key] for key in ("acq", "run", *EXTRA_COLUMNS) if key in entities}
    return {"participant_id": f"sub-{entities['sub']}", **session, **others}


def _regions(scan: Scan) -> dict[str, float]:
    """Mean susceptibility of the regions, ppb; left and right, or both together where the table has no sides."""
    tables = [t for t in scan.tables if t.quantity == "Chimap"]
    table = min(tables, key=lambda t: t.atlas != DEFAULT_ATLAS, default=None)
    if table is None:
        return {}
    means = {(row["name"], row["hemisphere"]): 1000.0 * float(row["mean"]) for row in table.rows}
    return {f"{name}_{side}": mean for (name, side), mean in means.items() if side != "B" or (name, "L") not in means}


def _region_order(rows: Sequence[Row]) -> list[str]:
    """All regions of the study: those with published values in their order, then the others in that of the tables."""
    published = list(EXPECTED)
    keys = _union(row.regions for row in rows)
    return sorted(keys, key=lambda k: published.index(_name(k)) if _name(k) in EXPECTED else len(published))


def _name(key: str) -> str:
    """Region without its side: ``pallidum_L`` is the pallidum."""
    return key.rpartition("_")[0]


def _shown_regions(rows: Sequence[Row]) -> tuple[list[str], list[str]]:
    """Regions with a value somewhere that the page shows at once, and those that can be chosen."""
    known = [r for r in _region_order(rows) if any(np.isfinite(row.regions.get(r, np.nan)) for row in rows)]
    shown = [r for r in known if _name(r) in EXPECTED] or known[:SHOWN_WITHOUT_PUBLISHED]
    return shown, [r for r in known if r not in shown]


def _write_table(output_dir: Path, rows: Sequence[Row], dictionary: Mapping[str, Any]) -> Path:
    """The rows as TSV, and what each column means."""
    ids = [*ID_COLUMNS, *(key for key in EXTRA_COLUMNS if any(key in row.identity for row in rows))]
    measures = [name for name in MEASURES if any(name in row.measures for row in rows)]
    regions = _region_order(rows)
    described: dict[str, Any] = {
        "verdict": {"Description": "pass, check or fail: the worst of all measures and messages"},
        "reasons": {"Description": "Why it is not pass, one sentence each"},
    }
    described |= {
        m: {"LongName": MEASURES[m].title, "Description": MEASURES[m].definition, "Units": MEASURES[m].unit or "1"}
        for m in measures
    }
    described |= {
        f"chi_{r}": {"Description": f"Mean susceptibility of {_region_title(r)}", "Units": "ppb"} for r in regions
    }
    persons = {c: free_name(c, {*ids, *described}) for c in _union(row.person for row in rows) if c not in ids}
    lines = ["\t".join([*ids, *persons.values(), *described])]
    for row in rows:
        reasons = "; ".join(r.text for r in row.verdict.reasons).replace("\t", " ").replace("\n", " ")
        cells = [row.identity.get(c, MISSING) for c in ids] + [row.person.get(c, MISSING) for c in persons]
        cells += [row.verdict.word, reasons or MISSING]
        cells += [_number(row.measures.get(m)) for m in measures] + [_number(row.regions.get(r)) for r in regions]
        lines.append("\t".join(cells))
    path = output_dir / "group" / TABLE_NAME
    write_text(path, "\n".join(lines) + "\n")
    of_ids = {c: {"Description": ID_COLUMNS.get(c) or EXTRA_COLUMNS[c]} for c in ids}
    of_persons = {new: dictionary.get(c, {"Description": f"{c} of participants.tsv"}) for c, new in persons.items()}
    write_json(path.with_suffix(".json"), {**of_ids, **of_persons, **described})
    return path


def _number(value: float | None) -> str:
    return MISSING if value is None or not np.isfinite(value) else f"{value:.6g}"


def _union(groups: Iterable[Iterable[str]]) -> list[str]:
    return list(dict.fromkeys(name for group in groups for name in group))


def _region_title(key: str) -> str:
    name, _, side = key.rpartition("_")
    return f"{ {'L': 'left ', 'R': 'right '}.get(side, '') }{name.replace('_', ' ')}".strip()


def _page(rows: Sequence[Row], limits: Mapping[str, Limit], output_dir: Path, warnings: Sequence[str]) -> str:
    persons = [c for c in _union(row.person for row in rows) if c not in ID_COLUMNS]
    measures = [name for name in MEASURES if any(np.isfinite(row.measures.get(name, np.nan)) for row in rows)]
    regions, further = _shown_regions(rows)
    columns: list[dict[str, Any]] = [{"title": "Subject", "unit": "", "about": "", "kind": "id"}]
    columns += [{"title": "Verdict", "unit": "", "about": "The worst of all measures and messages", "kind": "id"}]
    columns += [{"title": c, "unit": "", "about": "From participants.tsv", "kind": "person"} for c in persons]
    columns += [
        {
            "title": MEASURES[m].title,
            "unit": MEASURES[m].unit,
            "about": MEASURES[m].definition,
            "kind": "measure",
            "key": m in PRINTED,
        }
        for m in measures
    ]
    columns += [
        {"title": _region_title(r), "unit": "ppb", "about": "Mean susceptibility", "kind": "region"} for r in regions
    ]
    far = {f"m:{m}": outliers([row.measures.get(m, np.nan) for row in rows]) for m in measures}
    far |= {f"r:{r}": outliers([row.regions.get(r, np.nan) for row in rows]) for r in (*regions, *further)}
    numeric = {c for c in persons if all(_is_number(v) for row in rows if (v := _person_sort(row, c)))}
    tables = sorted(path.name for path in (output_dir / "group").glob("*.tsv"))
    return _template().render(
        version=__version__,
        counts=[(word, WORDS[word], sum(row.verdict.word == word for row in rows)) for word in WORDS],
        n_subjects=len({row.identity["participant_id"] for row in rows}),
        n_rows=len(rows),
        n_scans=sum(bool(row.measures or row.regions) for row in rows),
        failed=[row for row in rows if row.verdict.word == "fail"],
        doubted=[row for row in rows if row.verdict.word == "check"],
        warnings=warnings,
        columns=columns,
        rows=[_cells(at, row, persons, measures, regions, limits, far, numeric) for at, row in enumerate(rows)],
        measure_strips=[_measure_strip(m, rows, limits, far[f"m:{m}"]) for m in measures],
        region_strips=[_region_strip(r, rows, far[f"r:{r}"]) for r in regions],
        further=[_region_title(r) for r in further],
        further_strips=_json([_region_strip(r, rows, far[f"r:{r}"])["svg"] for r in further]),
        published=any(_name(r) in EXPECTED for r in regions),
        table_name=TABLE_NAME,
        tables=tables,
        kinds=WORDS,
        moved=moved_words(limits),
        alarm_limits=ALARM_LIMITS,
    )


def _cells(
    at: int,
    row: Row,
    persons: Sequence[str],
    measures: Sequence[str],
    regions: Sequence[str],
    limits: Mapping[str, Limit],
    far: Mapping[str, Sequence[bool]],
    numeric: Container[str],
) -> dict[str, Any]:
    """A row of the page's table; columns of participants.tsv in ``numeric`` hold numbers only."""
    cells: list[dict[str, Any]] = [
        {
            "text": row.person.get(c, ""),
            "sort": _person_sort(row, c),
            "mark": "",
            "kind": "person",
            "number": c in numeric,
        }
        for c in persons
    ]
    for name in measures:
        value = row.measures.get(name, np.nan)
        level = limits[name].level(value) if name in limits else ""
        mark = level or ("outlier" if far[f"m:{name}"][at] else "")
        cells.append(_cell(value, MEASURES[name].digits, mark, "measure") | {"key": name in PRINTED})
    for name in regions:
        cells.append(_cell(row.regions.get(name, np.nan), 1, "outlier" if far[f"r:{name}"][at] else "", "region"))
    return {
        "name": row.name,
        "page": row.page,
        "word": row.verdict.word,
        "kind": WORDS[row.verdict.word],
        "why": " ".join(r.text for r in row.verdict.reasons),
        "cells": cells,
        "at": at,
    }


def _person_sort(row: Row, column: str) -> str:
    """What a cell of participants.tsv sorts by; empty, which sorts last, where it says nothing."""
    value = row.person.get(column, "").strip()
    return "" if value.lower() in UNSAID else value


UNSAID = ("", "n/a", "na", "nan", "none")


def _is_number(words: str) -> bool:
    try:
        return bool(np.isfinite(float(words)))
    except ValueError:
        return False


def _cell(value: float, digits: int, mark: str, kind: str) -> dict[str, Any]:
    if not np.isfinite(value):
        return {"text": MISSING, "sort": "", "mark": mark, "kind": kind}
    return {"text": f"{value:.{digits}f}".replace("-", "−"), "sort": repr(float(value)), "mark": mark, "kind": kind}


def _points(values: Sequence[float], rows: Sequence[Row], far: Sequence[bool]) -> list[Point]:
    return [
        Point(at, float(value), row.name, row.page, row.verdict.word, far[at])
        for at, (value, row) in enumerate(zip(values, rows, strict=True))
        if np.isfinite(value)
    ]


LEAST_WIDTH_PPB = 20.0
"""Of a scale of susceptibility: a few times the spread of a region among healthy adults."""


def _limits(limit: Limit | None) -> tuple[float | None, float | None]:
    """Limits to check and to fail."""
    return (limit.check, limit.fail) if limit else (None, None)


def _least_width(points: Sequence[Point], digits: int) -> float:
    """Width of a scale under which values do not differ: a fifth of their size, or twenty of their last digit."""
    middle = float(np.median([abs(p.value) for p in points])) if points else 0.0
    return max(0.2 * middle, 20 * 10.0**-digits if digits else 2.0)


def _measure_strip(name: str, rows: Sequence[Row], limits: Mapping[str, Limit], far: Sequence[bool]) -> dict[str, Any]:
    measure, limit = MEASURES[name], limits.get(name)
    signs = (-1, 1) if limit and limit.bad == "beyond" else (1,)
    kept, bounds = ([s * b for s in signs if limit and b is not None] for b in _limits(limit))
    points = _points([row.measures.get(name, np.nan) for row in rows], rows, far)
    return {
        "title": measure.title,
        "unit": measure.unit,
        "about": measure.definition,
        "svg": strip(
            points,
            title=measure.title,
            kept=kept,
            bounds=bounds,
            possible=measure.possible,
            least_width=_least_width(points, measure.digits),
            digits=measure.digits,
        ),
    }


def _region_strip(name: str, rows: Sequence[Row], far: Sequence[bool]) -> dict[str, Any]:
    known = EXPECTED.get(_name(name))
    kept = [b for b in (known.low_ppb, known.high_ppb) if b is not None] if known else []
    points = _points([row.regions.get(name, np.nan) for row in rows], rows, far)
    title = _region_title(name)
    svg = strip(points, title=title, kept=kept, least_width=LEAST_WIDTH_PPB, digits=1)
    return {"title": title, "unit": "ppb", "about": "Mean susceptibility", "svg": svg}


def _json(content: Any) -> Markup:
    """JSON as it may stand in a script element."""
    return Markup(json.dumps(content, ensure_ascii=False, separators=(",", ":")).replace("</", "<\\/"))


@cache
def _template() -> jinja2.Template:
    """The page's template with its style and scripts inlined."""
    package = files("qsmals.reports")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.globals["style"] = Markup((package / "report.css").read_text())
    scripts = [(package / name).read_text() for name in ("report.js", "group.js")]
    environment.globals["script"] = Markup("".join(scripts))
    return environment.from_string((package / "group.html").read_text())
