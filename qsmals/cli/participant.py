"""The participant level: find, check, run, report."""

import logging
import math
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qsmals import __version__
from qsmals.anatomy.custom import AtlasFile, UserAtlas, parse_atlas, read_user_atlas
from qsmals.anatomy.destrieux import DESTRIEUX_ATLAS
from qsmals.bids.checks import CheckedSubject, check_subject
from qsmals.bids.derivatives import check_dataset, prepare_output_dir
from qsmals.bids.errors import Fault, InvalidInput, NothingMatched, format_faults
from qsmals.bids.filters import read_filter_file
from qsmals.bids.given import (
    SEGMENTERS,
    GivenGre,
    GivenT1w,
    given_for_gre,
    given_for_t1w,
    missing_transforms,
    parse_derivatives,
)
from qsmals.bids.group import read_participants
from qsmals.bids.images import BadImage, read_facts
from qsmals.bids.layout import SubjectInputs, T1wScan, Unit, find_subjects
from qsmals.bids.names import log_dir, missing_files, unit_outputs
from qsmals.bids.naming import strip_prefix
from qsmals.cli import writing
from qsmals.cli.methods import step_parameters
from qsmals.cli.parser import Request
from qsmals.engine.background import map_in_threads
from qsmals.engine.files import sweep
from qsmals.engine.lock import Holder, LockHeld, SubjectLock
from qsmals.engine.plugins_config import PluginSettings, check_plugin, load_plugin_file, make_plugin
from qsmals.engine.progress import Step
from qsmals.engine.resources import cpu_limit, memory_limit
from qsmals.engine.signals import Interrupted
from qsmals.engine.summary import (
    Failure,
    Status,
    SubjectSummary,
    exit_code,
    merge_summary,
    now,
    read_summary,
    summary_lines,
)
from qsmals.settings import Settings, write_toml
from qsmals.workflows.plan import AtlasPlan, Limits, RunPlan, ScanPlan, SubjectPlan, beside_given_field, unit_label

if TYPE_CHECKING:
    from qsmals.reports.subject import SubjectReport

MEMORY_SHARE = 0.9
MAX_OMP_NTHREADS = 8
TABLE_MAPS = ("Chimap", "R2starmap")
WINDOW = 100
"""Subjects in one graph, or eight times as many as there are processors: a larger study is run window by window, so
that the scheduler does not walk through its whole graph for each step, and nobody's lock is held for weeks."""

log = logging.getLogger("qsmals")


def participant(request: Request, run_id: str) -> int:
    """Process every chosen subject; returns the exit code."""
    settings = request.settings
    output_dir = Path(settings.output_dir)
    if request.reports_only:
        return reports_only(settings)
    if settings.resources.use_plugin:
        check_plugin(Path(settings.resources.use_plugin))
    if not settings.selection.skip_bids_validation:
        check_dataset(Path(settings.bids_dir))
        if settings.selection.participant_label:
            log.info("the BIDS validator looks at whole data sets: not run for chosen participants")
        else:
            validate(Path(settings.bids_dir))
    subjects = find(settings)
    try:
        read_participants(Path(settings.bids_dir))
    except InvalidInput as error:
        log.warning("%s; the ages in it are not used", error)
    for warning in prepare_output_dir(output_dir, Path(settings.bids_dir), environ=os.environ):
        log.warning("%s", warning)
    atlases = read_atlases(settings)
    checked = check_all(subjects, settings)
    checked, given = find_given(subjects, checked, settings, atlases)
    refused = [(subject, checked[subject.label]) for subject in subjects if not checked[subject.label].ok]
    invalid = [summarise_invalid(c, subject.sessions, request, run_id) for subject, c in refused]
    put(settings, invalid)
    sound = [s for s in subjects if checked[s.label].ok]
    plan = make_plan(sound, checked, settings, run_id, given)
    if not plan.subjects:
        say(invalid)
        return exit_code(invalid)
    writing.write_citation(output_dir, plan)
    if request.boilerplate_only:
        log.info("methods text: %s", output_dir / "logs" / "CITATION.md")
        return exit_code(invalid)
    return run_locked(plan, invalid, run_id, request)


def find(settings: Settings) -> tuple[SubjectInputs, ...]:
    """The subjects that the settings choose."""
    selection = settings.selection
    filters = read_filter_file(Path(selection.bids_filter_file)) if selection.bids_filter_file else None
    subjects = find_subjects(
        Path(settings.bids_dir),
        participant_labels=selection.participant_label or None,
        session_labels=selection.session_label or None,
        bids_filters=filters,
        database_dir=Path(selection.bids_database_dir) if selection.bids_database_dir else None,
    )
    scans = sum(len(s.units) for s in subjects)
    log.info("%d subject%s with %d scan%s", len(subjects), "s"[: len(subjects) != 1], scans, "s"[: scans != 1])
    return subjects


def validate(bids_dir: Path) -> None:
    """Let the BIDS validator say what it finds, where it is installed; what it says stops nothing."""
    beside = Path(sys.executable).with_name("bids-validator-deno")
    program = str(beside) if beside.is_file() else shutil.which("bids-validator-deno")
    if program is None:
        log.info("the BIDS validator is not installed (pip install bids-validator-deno): not run")
        return
    found = subprocess.run(
        [program, str(bids_dir)], capture_output=True, text=True, env={**os.environ, "NO_COLOR": "1"}
    )
    errors = [line.strip() for line in found.stdout.splitlines() if "[ERROR]" in line]
    for line in errors:
        log.warning("BIDS validator: %s", line)
    if not errors and found.returncode:
        log.warning("the BIDS validator failed: %s", found.stderr.strip()[-500:])


def check_all(subjects: Sequence[SubjectInputs], settings: Settings) -> dict[str, CheckedSubject]:
    """Read every voxel of every subject, several at a time, and log all that is wrong."""
    b0_tesla = settings.acquisition.field_strength_tesla
    n_threads = settings.resources.nprocs or int(cpu_limit().value)
    checked = map_in_threads(lambda s: check_subject(s, b0_tesla=b0_tesla), subjects, min(n_threads, 8))
    for result in checked:
        if not result.ok:
            log.error("sub-%s cannot be processed:\n%s", result.label, format_faults(result.faults))
    for subject in subjects:
        for note in sorted({note for unit in subject.units for note in unit.notes}):
            log.warning("sub-%s: %s", subject.label, note)
    return {result.label: result for result in checked}


def read_atlases(settings: Settings) -> tuple[UserAtlas, ...]:
    """The user's atlases on templates, read and checked; those of each subject are read with the subject."""
    specs = (parse_atlas(word) for word in settings.anatomy.extra_atlases)
    try:
        return tuple(read_user_atlas(spec, Path(spec.file)) for spec in specs if not spec.native)
    except ValueError as error:
        raise InvalidInput(str(error)) from error


@dataclass(frozen=True)
class Given:
    """What a scan brings along from other pipelines, and its atlases beside the built-in one."""

    t1w: GivenT1w
    gre: GivenGre
    atlases: tuple[AtlasPlan, ...]


def find_given(
    subjects: Sequence[SubjectInputs],
    checked: Mapping[str, CheckedSubject],
    settings: Settings,
    atlases: Sequence[UserAtlas],
) -> tuple[dict[str, CheckedSubject], dict[str, Given]]:
    """What other pipelines have done for each sound scan, by its prefix; what is wrong with it joins the faults."""
    derivatives = parse_derivatives(settings.selection.derivatives)
    spaces = settings.anatomy.output_spaces
    native = [spec for word in settings.anatomy.extra_atlases if (spec := parse_atlas(word)).native]
    result, given = dict(checked), {}
    for subject in (s for s in subjects if checked[s.label].ok):
        faults: list[Fault] = []
        known = {
            t1w.file: given_for_t1w(t1w, derivatives, spaces=spaces, others=subject.all_t1ws)
            for t1w in subject.t1w_scans
        }
        gres = [unit.gre for unit in subject.units]
        faults += [fault for _, found in known.values() for fault in found]
        for unit in subject.units:
            t1w = known[unit.t1w.file][0] if unit.t1w else GivenT1w()
            gre, wrong = given_for_gre(unit.gre, derivatives, spaces=spaces, alone=unit.t1w is None, others=gres)
            faults += wrong
            faults += [] if unit.t1w else needing_t1w(unit, derivatives, native)
            own = [*native_atlases(native, unit, faults), *destrieux_atlas(t1w)]
            given[unit.gre.prefix] = Given(t1w, gre, tuple(atlas_plan(a, f) for a, f in [*shared(atlases), *own]))
            if settings.anatomy.skip_registration and (fault := missing_transforms(unit, t1w, gre, spaces=spaces)):
                faults.append(fault)
            if gre.total_field and (fault := field_fault(unit, gre.total_field, checked[subject.label])):
                faults.append(fault)
            for file in (*t1w.files, *gre.files):
                log.info("%s: %s is used", unit_label(unit.gre.prefix), file)
            for file in gre.left:
                text = "%s: %s is not used, for a run of qsmals made it: this one makes its own"
                log.info(text, unit_label(unit.gre.prefix), file)
            for warning in beside_given_field(settings, gre.total_field):
                log.warning("%s: %s", unit_label(unit.gre.prefix), warning)
        if faults:
            result[subject.label] = replace(checked[subject.label], faults=tuple(dict.fromkeys(faults)))
            log.error("sub-%s cannot be processed:\n%s", subject.label, format_faults(faults))
    return result, given


def needing_t1w(unit: Unit, derivatives: Mapping[str, Path], native: Sequence[AtlasFile]) -> list[Fault]:
    """Faults of a scan without a T1w image where an option speaks of the T1w image."""
    named = [f"-d {name}=" for name in SEGMENTERS if name in derivatives]
    named += [f"the atlas {spec.name}, in T1w space," for spec in native if spec.space == "T1w"]
    remedy = "Add the T1w image from which it was made, or leave the option out for this subject"
    return [Fault(unit.gre.subject, "no-t1w", f"{what} needs a T1w image, and there is none", remedy) for what in named]


def field_fault(unit: Unit, path: Path, checked: CheckedSubject) -> Fault | None:
    """A fault where a given total field cannot be read or is not on the grid of its scan."""
    facts, remedy = checked.facts[unit.gre.prefix], "Resample it, or leave it out of the folder given with -d"
    try:
        field = read_facts(path)
    except BadImage as bad:
        return Fault(unit.gre.subject, bad.code, bad.what, remedy, (path,))
    if field.shape == facts.shape and np.allclose(field.affine, facts.affine, atol=1e-2):
        return None
    return Fault(unit.gre.subject, "grid", f"the total field is not on the grid of {unit.gre.prefix}", remedy, (path,))


def shared(atlases: Sequence[UserAtlas]) -> list[tuple[UserAtlas, Path]]:
    """Atlases on templates with their files."""
    return [(atlas, Path(atlas.spec.file)) for atlas in atlases]


def native_atlases(specs: Sequence[AtlasFile], unit: Unit, faults: list[Fault]) -> Iterator[tuple[UserAtlas, Path]]:
    """A subject's own label images; what is wrong with one is added to ``faults``."""
    for spec in specs:
        scan = unit.t1w if spec.space == "T1w" else unit.gre
        if scan is None:  # a fault already: see needing_t1w
            continue
        try:
            image = spec.path(scan.entities)
            if not image.is_file():
                told = "; an image without any label says that there is nothing to measure"
                raise ValueError(f"atlas {spec.name}: there is no file {image}{told}")
            shown = scan.file if isinstance(scan, T1wScan) else scan.all_files[0]
            yield read_user_atlas(spec, image, scan=shown), image
        except ValueError as error:
            faults.append(Fault(unit.gre.subject, "atlas", str(error), "Mend it, or leave the atlas out"))


def destrieux_atlas(given: GivenT1w) -> list[tuple[UserAtlas, Path]]:
    """FreeSurfer's second parcellation, where the subject's folder has it."""
    return [(DESTRIEUX_ATLAS, given.destrieux)] if given.destrieux else []


def atlas_plan(atlas: UserAtlas, file: Path) -> AtlasPlan:
    """An atlas as the graph takes it."""
    regions = tuple((r.index, r.name, r.hemisphere, r.members) for r in atlas.regions)
    return AtlasPlan(
        name=atlas.spec.name,
        file=file.absolute(),
        space=atlas.spec.space,
        probabilistic=atlas.probabilistic,
        regions=regions,
        table=atlas.label_table(),
        optional=tuple(r.index for r in atlas.optional),
    )


def summarise_invalid(
    checked: CheckedSubject, sessions: Sequence[str], request: Request, run_id: str
) -> SubjectSummary:
    """The entry of a subject whose input was refused; its page says the same in full."""
    first, *more = checked.faults
    why = str(first).removeprefix(f"sub-{checked.label}: ") + (f" And {len(more)} more." if more else "")
    entry = SubjectSummary(
        f"sub-{checked.label}",
        "invalid",
        why,
        started=now(),
        ended=now(),
        version=__version__,
        sessions=dict.fromkeys(sessions, "invalid"),
        session_whys=dict.fromkeys(sessions, why),
    )
    report = writing.write_refusal(Path(request.settings.output_dir), checked, sessions, request, run_id)
    return _with_verdict(entry, report)


def _with_verdict(entry: SubjectSummary, report: "SubjectReport") -> SubjectSummary:
    """The entry with the verdict of the subject's page."""
    reasons = tuple(reason.text for reason in report.verdict.reasons)
    return replace(entry, verdict=report.verdict.word, reasons=reasons)


def make_plan(
    subjects: Iterable[SubjectInputs],
    checked: Mapping[str, CheckedSubject],
    settings: Settings,
    run_id: str,
    given: Mapping[str, Given],
) -> RunPlan:
    """Decide files and limits of a run."""
    plans, software = [], writing.versions()

    def own(unit: Unit) -> Given:
        return given[unit.gre.prefix]

    for subject in subjects:
        folder = log_dir(Path(settings.output_dir), subject.label, run_id)
        facts, age = checked[subject.label].facts, writing.age_of(Path(settings.bids_dir), subject.label)
        scans = tuple(
            ScanPlan(
                unit=unit,
                facts=facts[unit.gre.prefix],
                outputs=unit_outputs(
                    Path(settings.output_dir),
                    unit,
                    atlases=(settings.anatomy.atlas, *(a.name for a in own(unit).atlases if not a.probabilistic)),
                    probabilistic=tuple(a.name for a in own(unit).atlases if a.probabilistic),
                    templates=settings.anatomy.output_spaces,
                    table_maps=TABLE_MAPS,
                ),
                facts_file=folder / f"{unit.gre.prefix}_facts.json",
                methods=step_parameters(
                    settings,
                    unit.gre.te_s,
                    facts[unit.gre.prefix].b0_tesla,
                    own(unit).t1w,
                    own(unit).gre,
                    alone=unit.t1w is None,
                ),
                software=software,
                given_t1w=own(unit).t1w,
                given=own(unit).gre,
                atlases=own(unit).atlases,
                t1w_voxels=checked[subject.label].t1w_voxels[unit.t1w.file] if unit.t1w else 0,
                age=age,
            )
            for unit in subject.units
        )
        plans.append(SubjectPlan(subject.label, scans, folder, subject.sessions))
    return RunPlan(settings, tuple(plans), limits(settings))


def limits(settings: Settings) -> Limits:
    """What the run may use: the options, else what the job, container or machine allows."""
    chosen = settings.resources.use_plugin
    here = not chosen or load_plugin_file(Path(chosen)).is_local
    nprocs = settings.resources.nprocs or max(int(cpu_limit().value), 1)
    # elsewhere a step has the processors that it asks for, whatever this machine has
    most = nprocs if here or settings.resources.nprocs else math.inf
    omp = settings.resources.omp_nthreads or int(min(most, MAX_OMP_NTHREADS))
    if omp > most:
        log.warning("--omp-nthreads %d is more than --nprocs %d: %d is used", omp, nprocs, nprocs)
    allowed, asked = memory_limit(), settings.resources.memory_gb
    if here and asked and asked > allowed.value:
        text = "--mem %.1f GB is more than %s allows (%.1f GB): steps may be killed"
        log.warning(text, asked, allowed.source, allowed.value)
    memory_gb = asked or allowed.value * MEMORY_SHARE
    return Limits(nprocs, int(min(omp, most)), memory_gb)


def run_locked(plan: RunPlan, invalid: Sequence[SubjectSummary], run_id: str, request: Request) -> int:
    """Run the subjects that nobody else is running, window by window."""
    entries, held = list(invalid), 0
    try:
        for window in windows(plan.subjects, max(WINDOW, 8 * plan.limits.nprocs)):
            with ExitStack() as stack:
                free = [subject for subject in window if locked(subject, plan.settings, stack)]
                held += len(window) - len(free)
                if free and not run_subjects(replace(plan, subjects=tuple(free)), run_id, request, entries):
                    break
    finally:
        order = {f"sub-{subject.label}": place for place, subject in enumerate(plan.subjects)}
        say(sorted(entries, key=lambda entry: order.get(entry.subject, -1)))
    begun = len(entries) - len(invalid) + held
    if begun < len(plan.subjects):
        log.warning("%d subjects were not begun; the same command goes on with them", len(plan.subjects) - begun)
    return exit_code(entries) or (1 if held else 0)


def windows(subjects: Sequence[SubjectPlan], size: int) -> Iterator[Sequence[SubjectPlan]]:
    """The subjects, at most ``size`` at a time."""
    return (subjects[first : first + size] for first in range(0, len(subjects), size))


def locked(subject: SubjectPlan, settings: Settings, stack: ExitStack) -> bool:
    """Take a subject for this run, in OUTPUT_DIR and in the work folder; says who has it where that cannot be."""
    from qsmals.workflows.participant import run_folder

    output_dir = Path(settings.output_dir)
    try:
        with ExitStack() as both:
            for place in (output_dir, run_folder(settings)):
                both.enter_context(SubjectLock(place, subject.label, on_lost=partial(stop_for, subject.label)))
            stack.enter_context(both.pop_all())
    except LockHeld as error:
        log.error("%s", error)
        return False
    sweep(output_dir / f"sub-{subject.label}")  # what a killed run left half written
    return True


def stop_for(label: str, holder: Holder) -> None:
    """End this run as by SIGTERM: another one works on its subject, and two would write the same files."""
    log.error("sub-%s: this run was away for so long that %s took the subject over", label, holder)
    os.kill(os.getpid(), signal.SIGTERM)


def run_subjects(plan: RunPlan, run_id: str, request: Request, entries: list[SubjectSummary]) -> bool:
    """Run the graph and write logs, reports and summary, whatever happens in it; each subject's when it has ended.

    Parameters
    ----------
    entries : list of SubjectSummary
        Gets those of these subjects.

    Returns
    -------
    bool
        Whether other subjects may follow.
    """
    started = now()
    for subject in plan.subjects:
        software = {"software": writing.versions(), "run": {"id": run_id, "command": " ".join(request.command)}}
        write_toml(subject.log_dir / "qsmals.toml", plan.settings, **software)
    subjects = {subject.label: subject for subject in plan.subjects}
    labels = set(subjects)

    def end(label: str, own: Done) -> None:
        entry = reported(subjects[label], concluded(subjects[label], own, started), own, request, run_id)
        put(plan.settings, [entry])
        entries.append(entry)
        del subjects[label]

    done = execute(plan, end)
    left = {label: done.of_subject(label) for label in subjects}
    ended = {label: concluded(subjects[label], own, started) for label, own in left.items()}
    if done.stop is not None:
        note(plan.settings, ended.values())  # first, for there may be no time for more
    ended = {label: reported(subjects[label], ended[label], left[label], request, run_id) for label in subjects}
    entries += ended.values()
    try:
        put(plan.settings, ended.values())
    except (OSError, LockHeld):
        if done.stop is not None:
            raise done.stop from None
        raise
    if done.stop is not None:
        raise done.stop
    if plan.settings.behaviour.clean_workdir:
        clean(plan, (entry for entry in entries if entry.subject.removeprefix("sub-") in labels))
    return not done.halt and not (done.failures and plan.settings.behaviour.stop_on_first_crash)


def put(settings: Settings, entries: Iterable[SubjectSummary]) -> None:
    """Put entries into the summary; what it has of sessions that were not asked for stays."""
    summary = Path(settings.output_dir) / "logs" / "summary.json"
    merge_summary(summary, entries, keep_sessions=bool(settings.selection.session_label))


def note(settings: Settings, entries: Iterable[SubjectSummary]) -> None:
    """Put entries into the summary that will be put there again; where that cannot be, the log says so."""
    try:
        put(settings, entries)
    except (OSError, LockHeld) as error:
        log.error("%s", error)


def concluded(subject: SubjectPlan, done: "Done", started: str) -> SubjectSummary:
    """What became of a subject in a run that has started at ``started`` and ends now."""
    return replace(conclude(subject, done), started=started, ended=now())


def reported(
    subject: SubjectPlan, entry: SubjectSummary, done: "Done", request: Request, run_id: str
) -> SubjectSummary:
    """Write the subject's page; returns the entry with what the page says, or why there is none."""
    try:
        report = writing.write_report(
            Path(request.settings.output_dir),
            subject,
            entry,
            done.steps,
            request,
            run_id,
            hurry=done.stop is not None,
        )
    except OSError as error:  # a full disk: the other subjects and the summary still get their chance
        log.error("sub-%s: the report cannot be written: %s", subject.label, error)
        if entry.status != "ok":
            return entry
        return _incomplete(entry, f"the report cannot be written: {error}")
    if entry.status == "ok" and report.missing:
        entry = _incomplete(entry, "the report lacks " + "; ".join(report.missing))
    return _with_verdict(replace(entry, warnings=tuple(writing.warnings_of(subject))), report)


def _incomplete(entry: SubjectSummary, why: str) -> SubjectSummary:
    """The entry of a subject that was well, without its report; the report is that of all its sessions."""
    status: Status = "incomplete"
    sessions, whys = dict.fromkeys(entry.sessions, status), dict.fromkeys(entry.sessions, why)
    return replace(entry, status=status, why=why, sessions=sessions, session_whys=whys)


@dataclass(frozen=True)
class Done:
    """What a run of the graph left: its steps and failures, nodes that never ended, and what ended it before them.

    That is a signal (``stop``), or the words of an error outside of all nodes (``halt``), such as a full work folder.
    """

    steps: tuple[Step, ...]
    failures: tuple[Failure, ...]
    unfinished: tuple[str, ...]
    stop: Interrupted | None = None
    halt: str = ""

    def of_subject(self, label: str) -> "Done":
        """The part that concerns one subject; what all share (the atlas) concerns everyone."""
        from qsmals.workflows.participant import subject_graph

        name, graph = f"sub-{label}", f".{subject_graph(label)}."
        return Done(
            tuple(step for step in self.steps if step.unit.split(" ")[0] in (name, "")),
            tuple(failure for failure in self.failures if failure.unit.split(" ")[0] in (name, "")),
            tuple(node for node in self.unfinished if graph in f".{node}."),
            self.stop,
            self.halt,
        )

    def of_session(self, subject: SubjectPlan, session: str) -> "Done":
        """The part that concerns one session; what none of the sessions has for its own concerns all."""
        from qsmals.workflows.plan import graph_name, unit_label

        own = subject.of_session(session).prefixes
        others = subject.prefixes - own
        units = {unit_label(prefix) for prefix in others}
        graphs = {graph_name(prefix, kind) for prefix in others for kind in ("gre", "anatomy", "anatomy_outputs")}
        return replace(
            self,
            failures=tuple(failure for failure in self.failures if failure.unit not in units),
            unfinished=tuple(node for node in self.unfinished if not graphs & set(node.split("."))),
        )


def execute(plan: RunPlan, end: Callable[[str, Done], None]) -> Done:
    """Run the graph, to its end or until a signal comes.

    ``end`` is called with the label of each subject all of whose steps have ended well, as soon as they have, and with
    what they left; where it fails, the subject is left to the end of the run.
    """
    from qsmals.engine.progress import NodesFailed, log_progress
    from qsmals.workflows.participant import init_run_wf, node_names
    from qsmals.workflows.quality import FIGURES_STEP

    settings = plan.settings
    quieten_nipype()
    workflow = init_run_wf(plan)
    if settings.behaviour.write_graph:
        writing.write_graph(workflow, Path(settings.output_dir) / "logs" / "graph.dot")
    chosen = settings.resources.use_plugin

    def progress(step: Step) -> None:
        log_progress(step)
        if step.name == FIGURES_STEP and step.state in ("done", "cached"):
            label = step.unit.split(" ")[0].removeprefix("sub-")
            own = found().of_subject(label)
            if not own.failures and not own.unfinished:
                try:
                    end(label, own)
                except Exception as error:  # must not end the others; it comes again when all have ended
                    log.error("sub-%s: %s", label, error)
                    log.debug("where it happened", exc_info=True)

    plugin = make_plugin(
        load_plugin_file(Path(chosen)) if chosen else PluginSettings(),
        n_procs=plan.limits.nprocs,
        memory_gb=plan.limits.memory_gb,
        progress=progress,
        **({"itk_threads": 1} if settings.behaviour.deterministic else {}),
    )
    names = node_names(workflow)

    def found(stop: Interrupted | None = None, halt: str = "") -> Done:
        ended = {step.node for step in plugin.steps if step.state in ("done", "cached")}
        left = (plugin.nodes or names) - ended
        return Done(tuple(plugin.steps), tuple(plugin.failures), tuple(sorted(left)), stop, halt)

    stop, halt = None, ""
    try:
        workflow.run(plugin=plugin)
    except NodesFailed as error:
        log.debug("%s", error)
    except Interrupted as signal:
        stop = signal
    except OSError as error:
        halt = f"the run cannot go on: {error}"
        log.error("%s", halt)
    return found(stop, halt)


def quieten_nipype() -> None:
    """nipype announces every node and its folder: that is for the log file and for ``-v``, not for the terminal."""
    import nipype  # noqa: F401 - sets up its loggers when it is imported

    for name in ("nipype", "nipype.workflow", "nipype.utils", "nipype.interface", "nipype.filemanip"):
        library = logging.getLogger(name)
        library.handlers, library.propagate = [], True


def conclude(subject: SubjectPlan, done: Done) -> SubjectSummary:
    """What became of a subject: from its nodes in this run, and from the files that are there."""
    name = f"sub-{subject.label}"
    common: dict[str, Any] = {
        "failures": done.failures,
        "peak_memory_gb": max((step.peak_gb for step in done.steps if step.peak_gb is not None), default=None),
        "seconds": sum(step.seconds for step in done.steps if step.seconds is not None),
        "version": __version__,
    }
    fates = {label: fate(subject.of_session(label), done.of_session(subject, label)) for label in subject.sessions}
    common["sessions"] = {label: status for label, (status, _) in fates.items()}
    common["session_whys"] = {label: why for label, (_, why) in fates.items() if why}
    return SubjectSummary(name, *fate(subject, done), **common)


def fate(subject: SubjectPlan, done: Done) -> tuple[Status, str]:
    """Status of a subject or of one of its sessions, and why it is not ok."""
    if done.failures:
        first = done.failures[0]
        return "failed", f"{first.node}: {first.why}"
    if done.unfinished:
        why = str(done.stop) if done.stop else done.halt or "not run to its end, because the run stopped before"
        return "failed", f"{why} ({len(done.unfinished)} steps left)"
    if missing := missing_files([scan.outputs for scan in subject.scans]):
        names = ", ".join(path.name for path in missing[:3])
        return "incomplete", f"{len(missing)} outputs are missing: {names} ..."
    if failed := writing.failed_registrations(subject):
        return "failed", f"registration of {'; '.join(failed)}"
    return "ok", ""


def reports_only(settings: Settings) -> int:
    """Write the reports anew from the outputs that are there, and their verdicts into the summary; no input is read.

    Raises
    ------
    NothingMatched
        None of the chosen subjects was processed.
    """
    output_dir = Path(settings.output_dir)
    processed = writing.subjects_with_runs(output_dir)
    chosen = [strip_prefix(label, "sub") for label in settings.selection.participant_label]
    labels = list(dict.fromkeys(chosen)) or processed
    if not set(labels) & set(processed):
        raise NothingMatched(f"no report to write anew: none of the subjects was processed in {output_dir}")
    summary = output_dir / "logs" / "summary.json"
    known = read_summary(summary)
    complete = True
    for label in labels:
        try:
            report = writing.rewrite_report(output_dir, label, settings)
        except (FileNotFoundError, ValueError) as error:
            log.warning("%s", error)
            complete = False
            continue
        log.info("wrote %s: %s", report.path, report.verdict.word)
        for reason in report.verdict.reasons:
            log.info("    %s", reason.text)
        for sentence in report.missing:
            log.warning("sub-%s: %s", label, sentence)
        complete = complete and not report.missing
        if f"sub-{label}" in known:
            merge_summary(summary, [_with_verdict(known[f"sub-{label}"], report)])
    return 0 if complete else 5


def clean(plan: RunPlan, entries: Iterable[SubjectSummary]) -> None:
    """Remove the working files of the subjects that ended well."""
    from qsmals.workflows.participant import run_folder, subject_graph

    for entry in entries:
        if entry.status == "ok":
            folder = run_folder(plan.settings) / "participant_wf" / subject_graph(entry.subject.removeprefix("sub-"))
            shutil.rmtree(folder, ignore_errors=False)
            log.info("removed %s", folder)


def say(entries: Iterable[SubjectSummary]) -> None:
    """The last lines of a run."""
    for line in _lines(entries):
        log.info("%s", line)


def _lines(entries: Iterable[SubjectSummary]) -> Iterator[str]:
    yield from summary_lines(list(entries))
