"""Words to a request: argparse only, so that ``--help`` answers at once."""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from qsmals import __version__
from qsmals.engine.resources import parse_mem
from qsmals.recon.method import Registry
from qsmals.recon.presets import PRESETS
from qsmals.recon.stages import STAGES
from qsmals.settings import Anatomy, Settings, merge, read_toml

if TYPE_CHECKING:
    from qsmals.anatomy.custom import AtlasFile

SPACES = ("MNI152NLin6Asym", "MNI152NLin2009cAsym")
EPILOG = """exit codes:
  0 all well; 1 at least one subject failed; 2 usage; 3 the input is invalid; 4 nothing matched;
  5 outputs or a report incomplete; 70 internal error; 130/143 interrupted or terminated

The manual is in docs/ and README.md of the source."""


@dataclass(frozen=True)
class Request:
    """What was asked: the level, the settings, and what to do instead of a whole run."""

    level: str
    settings: Settings
    reports_only: bool = False
    boilerplate_only: bool = False
    verbosity: int = 0
    command: tuple[str, ...] = ()


def parse(argv: Sequence[str] | None = None) -> Request:
    """Parse and check ``argv``; a wrong word prints what is wrong and exits with 2."""
    words = list(sys.argv[1:] if argv is None else argv)
    parser = build_parser()
    given = vars(parser.parse_args(words))
    try:
        settings = _settings(given)
        check_folders(settings, given["level"])
        _check_methods(settings)
        _check_files(settings)
    except ValueError as error:
        parser.error(str(error))
    return Request(
        level=given["level"],
        settings=settings,
        reports_only=given.get("reports_only", False),
        boilerplate_only=given.get("boilerplate_only", False),
        verbosity=given.get("verbosity", 0),
        command=("qsmals", *words),
    )


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n(`{self.prog} --help` lists the options)\n")


def build_parser() -> argparse.ArgumentParser:
    """The parser; a destination with a dot is the place of the value in the settings."""
    parser = _Parser(
        prog="qsmals",
        description="Susceptibility maps and region tables from multi-echo GRE and T1w scans (a BIDS App).",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    parser.add_argument("bids_dir", type=_folder, help="a BIDS data set with MEGRE magnitude and phase, and T1w")
    parser.add_argument("output_dir", type=_folder, help="where the derivatives go; made where missing")
    parser.add_argument(
        "level",
        metavar="{participant,group}",
        choices=("participant", "group"),
        help="participant: maps, tables and a report for each subject; group: the study's tables",
    )
    parser.add_argument("--version", action="version", version=f"qsmals {__version__}")
    for add in (_add_selection, _add_acquisition, _add_methods, _add_anatomy, _add_resources, _add_behaviour):
        add(parser)
    return parser


def _add_selection(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what to process")
    group.add_argument(
        "--participant-label",
        "--participant_label",
        dest="selection.participant_label",
        nargs="+",
        action="extend",
        type=_without_prefix("sub-"),
        metavar="LABEL",
        help="participants, with or without sub- (default: all)",
    )
    group.add_argument(
        "--session-label",
        "--session_label",
        "--session-id",
        dest="selection.session_label",
        nargs="+",
        action="extend",
        type=_without_prefix("ses-"),
        metavar="LABEL",
        help="sessions, with or without ses- (default: all)",
    )
    group.add_argument(
        "--bids-filter-file",
        dest="selection.bids_filter_file",
        type=_file,
        metavar="FILE",
        help="JSON with pybids filters under the keys megre and t1w; other keys are ignored",
    )
    group.add_argument(
        "-d",
        "--derivatives",
        dest="selection.derivatives",
        nargs="+",
        action="extend",
        metavar="NAME=PATH",
        help="results of other pipelines in place of own steps: freesurfer=SUBJECTS_DIR (or fastsurfer=), or any BIDS "
        "derivative with a brain mask of the T1w image, transforms, or a total field (of an earlier OUTPUT_DIR only "
        "transforms)",
    )
    group.add_argument(
        "--bids-database-dir",
        dest="selection.bids_database_dir",
        type=_folder,
        metavar="DIR",
        help="keep pybids' index there (default: a fresh one in memory)",
    )
    group.add_argument(
        "--skip-bids-validation",
        "--skip_bids_validation",
        dest="selection.skip_bids_validation",
        action="store_true",
        help="do not run the BIDS validator (the images are checked all the same)",
    )


def _add_acquisition(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what the sidecars lack")
    group.add_argument(
        "--field-strength",
        dest="acquisition.field_strength_tesla",
        type=_positive,
        metavar="TESLA",
        help="for scans without MagneticFieldStrength; one that contradicts a sidecar is an error",
    )
    group.add_argument(
        "--phase-sign",
        dest="acquisition.phase_sign",
        choices=("auto", "positive", "negative"),
        help="positive: stored phase grows with the field; default: auto, from the data",
    )
    group.add_argument(
        "--readout",
        dest="acquisition.readout",
        choices=("auto", "monopolar", "bipolar"),
        help="polarity of the readout gradients; default: auto, from the data",
    )


def _add_methods(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("reconstruction (the defaults are meant for publication)")
    group.add_argument(
        "--preset",
        dest="reconstruction.preset",
        choices=tuple(PRESETS),
        help="a published pipeline with all its parameters; the options below win over it",
    )
    for dest, registry in STAGES.items():
        group.add_argument(
            f"--{dest.replace('_', '-')}",
            dest=f"reconstruction.{dest}",
            choices=tuple(registry),
            help=f"default: {registry.default}",
        )
    group.add_argument(
        "--reference",
        dest="reconstruction.reference",
        choices=("brain", "csf", "wm"),
        help="region whose mean susceptibility is zero; default: brain (offsets to all are always written)",
    )


def _add_anatomy(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("anatomy")
    group.add_argument(
        "--brain-extraction",
        dest="anatomy.brain_extraction",
        choices=("auto", "template", "deepbet", "skip"),
        help="template: the T1w image shows a whole head; skip: it is brain-only; default: auto, which detects that; "
        "deepbet: by a neural network, an extra (pip install 'qsmals[deepbet]')",
    )
    group.add_argument(
        "--atlas",
        dest="anatomy.extra_atlases",
        action="append",
        metavar="NAME=FILE[,LABELS.tsv[,SPACE]]",
        help="one more set of regions (repeatable): a label image or 4D probabilities, a table (index, name) and "
        f"the space: {', '.join(SPACES)}, T1w or MEGRE ({{subject}}, {{session}}, {{acquisition}} and {{run}} in FILE "
        "stand for the labels of each scan)",
    )
    group.add_argument(
        "--skip-registration",
        dest="anatomy.skip_registration",
        action="store_true",
        help="take all transforms from the folders given with -d, and stop where one is missing",
    )
    group.add_argument(
        "--refinement",
        dest="anatomy.refinement",
        choices=("susceptibility", "t1w", "none"),
        help="place deep nuclei by the susceptibility map as well (default), fit those that the T1w image shows to it, "
        "or leave all as registration put them",
    )
    group.add_argument(
        "--cortex",
        dest="anatomy.cortex",
        choices=("grey-matter", "atlas"),
        help="fit cortical labels to the T1w image's grey matter (default), or leave them as registration put them",
    )
    group.add_argument(
        "--output-spaces",
        dest="anatomy.output_spaces",
        nargs="+",
        choices=SPACES,
        metavar="SPACE",
        help=f"standard spaces for the maps: {', '.join(SPACES)} (the first is always written)",
    )


def _add_resources(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("resources (default: what the job or the container allows)")
    group.add_argument(
        "--nprocs",
        "--n-cpus",
        "--nthreads",
        dest="resources.nprocs",
        type=_count,
        metavar="N",
        help="processors for the whole run",
    )
    group.add_argument(
        "--omp-nthreads",
        dest="resources.omp_nthreads",
        type=_count,
        metavar="N",
        help="processors for one step",
    )
    group.add_argument(
        "--mem",
        "--mem-mb",
        "--mem_mb",
        dest="resources.memory_gb",
        type=_memory,
        metavar="SIZE",
        help="memory for the whole run, with a unit, as 12GB (a bare number is MB)",
    )
    group.add_argument(
        "--use-plugin",
        dest="resources.use_plugin",
        type=_file,
        metavar="FILE",
        help="nipype plugin settings (YAML or JSON) in place of the local engine",
    )
    group.add_argument(
        "-w", "--work-dir", dest="work_dir", type=_folder, metavar="DIR", help="default: OUTPUT_DIR/work"
    )


def _add_behaviour(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("how to go about it")
    group.add_argument(
        "--config-file",
        type=_file,
        metavar="FILE",
        help="TOML with settings, as written to sub-*/log/*/qsmals.toml; the command line wins",
    )
    group.add_argument(
        "--sloppy", dest="behaviour.sloppy", action="store_true", help="low effort, for tests: never for a study"
    )
    group.add_argument(
        "--random-seed", dest="behaviour.random_seed", type=_count, metavar="N", help="seed of the registrations"
    )
    group.add_argument(
        "--deterministic",
        dest="behaviour.deterministic",
        action="store_true",
        help="equal bytes for equal input: registrations run on one thread",
    )
    group.add_argument(
        "--stop-on-first-crash",
        dest="behaviour.stop_on_first_crash",
        action="store_true",
        help="do not go on with other subjects after a failure",
    )
    group.add_argument(
        "--qc-thresholds",
        dest="behaviour.qc_thresholds",
        type=_file,
        metavar="FILE",
        help="TOML with other limits for the verdicts: [measure] check = ..., fail = ... (see docs/quality.md)",
    )
    group.add_argument("--reports-only", action="store_true", help="write the reports anew from existing outputs")
    group.add_argument(
        "--boilerplate-only",
        "--boilerplate",
        action="store_true",
        help="write the methods text and citations, and stop",
    )
    group.add_argument(
        "--write-graph", dest="behaviour.write_graph", action="store_true", help="write the workflow graph to the log"
    )
    group.add_argument(
        "--clean-workdir",
        dest="behaviour.clean_workdir",
        action="store_true",
        help="remove this version's files from the work folder after success",
    )
    group.add_argument("--notrack", action="store_true", help="accepted and without effect: there is no telemetry")
    group.add_argument("-v", "--verbose", dest="verbosity", action="count", help="say more (twice: everything)")


def _settings(given: dict[str, Any]) -> Settings:
    values: dict[str, Any] = read_toml(Path(given["config_file"])) if "config_file" in given else {}
    for own in ("run", "software", "work_dir"):  # of that run, not of this one
        values.pop(own, None)
    values = merge(_with_preset(values, given.get("reconstruction.preset")), _nested(given))
    values.setdefault("work_dir", str(Path(given["output_dir"]) / "work"))
    settings = Settings.from_mapping(values)
    return replace(settings, anatomy=_with_atlas_space(settings.anatomy))


def _with_preset(values: dict[str, Any], asked: str | None) -> dict[str, Any]:
    """The settings of a file on top of the preset that it names, or one that was asked for in place of its methods."""
    own = values.get("reconstruction", {})
    name = asked or (own.get("preset") if isinstance(own, dict) else None)
    if name is None:
        return values
    if name not in PRESETS:
        raise ValueError(f"reconstruction.preset: no preset {name}; there are {', '.join(PRESETS)}")
    preset = {"preset": name, **PRESETS[name].reconstruction}
    return {**values, "reconstruction": preset if asked else merge(preset, own)}


def _with_atlas_space(anatomy: Anatomy) -> Anatomy:
    """The atlas's own space first, then the others that were asked for, each once."""
    for space in anatomy.output_spaces:
        if space not in SPACES:
            raise ValueError(f"anatomy.output_spaces: no template {space}; there are {', '.join(SPACES)}")
    return replace(anatomy, output_spaces=tuple(dict.fromkeys((SPACES[0], *anatomy.output_spaces))))


def _nested(given: dict[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {k: given[k] for k in ("bids_dir", "output_dir", "work_dir") if k in given}
    for place, value in given.items():
        if "." in place:
            table, name = place.split(".")
            nested.setdefault(table, {})[name] = value
    return nested


def check_folders(settings: Settings, level: str) -> None:
    """Raise ValueError where a folder is missing, or where one would be written into another."""
    bids, output, work = (Path(p).resolve() for p in (settings.bids_dir, settings.output_dir, settings.work_dir))
    if not bids.is_dir():
        raise ValueError(f"BIDS_DIR {bids} is no folder")
    if output == bids:
        raise ValueError("OUTPUT_DIR is BIDS_DIR itself; give another, as BIDS_DIR/derivatives/qsmals")
    if bids.is_relative_to(output):
        raise ValueError(f"OUTPUT_DIR {output} holds BIDS_DIR; give another, as BIDS_DIR/derivatives/qsmals")
    inside = output.relative_to(bids).parts if output.is_relative_to(bids) else ()
    if inside and (inside[0] != "derivatives" or len(inside) < 2):
        raise ValueError(f"OUTPUT_DIR {output} lies in BIDS_DIR; inside it only derivatives/NAME may be written")
    if work.is_relative_to(bids) and not work.is_relative_to(output):
        raise ValueError(f"the work folder {work} lies in BIDS_DIR; choose another with -w")
    if work == output:
        raise ValueError("the work folder is OUTPUT_DIR itself; choose another with -w")
    if level == "group" and not output.is_dir():
        raise ValueError(f"OUTPUT_DIR {output} does not exist: run the participant level first")
    if output.exists() and not output.is_dir():
        raise ValueError(f"OUTPUT_DIR {output} is a file")
    _check_anatomy(settings)


def _check_anatomy(settings: Settings) -> None:
    """Raise ValueError for derivatives and atlases that are not there, and for a method that is not installed."""
    anatomy = settings.anatomy
    if settings.selection.derivatives:
        from qsmals.bids.given import parse_derivatives

        for name, folder in parse_derivatives(settings.selection.derivatives).items():
            if folder.resolve() == Path(settings.output_dir).resolve():
                raise ValueError(
                    f"--derivatives {name}={folder}: this is OUTPUT_DIR itself, whose files this run replaces; "
                    "give this run an OUTPUT_DIR of its own"
                )
    elif anatomy.skip_registration:
        raise ValueError("--skip-registration: give the folder that has the transforms with -d NAME=PATH")
    if anatomy.extra_atlases:
        from qsmals.anatomy.custom import parse_atlas

        atlases = [parse_atlas(word) for word in anatomy.extra_atlases]
        names = [atlas.name for atlas in atlases]
        if everyones := next((atlas for atlas in atlases if atlas.native and "subject" not in atlas.fields), None):
            _check_one_subject(Path(settings.bids_dir), everyones)
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"--atlas: {twice} is given twice")
    if anatomy.brain_extraction == "deepbet":
        from qsmals.anatomy.deepbet import deepbet_installed

        if not deepbet_installed():
            raise ValueError("--brain-extraction deepbet: it is not installed; pip install 'qsmals[deepbet]'")


def _check_one_subject(bids_dir: Path, atlas: "AtlasFile") -> None:
    """Raise ValueError where one image would be taken for the own image of several subjects of a data set.

    Those that are not chosen count as well: each may be the task of another job.
    """
    from qsmals.bids.errors import InvalidInput
    from qsmals.bids.layout import list_participants

    try:
        subjects = list_participants(bids_dir)
    except InvalidInput:  # told where the scans are looked for
        return
    if len(subjects) > 1:
        raise ValueError(
            f"--atlas {atlas.name}={atlas.file}: in {atlas.space} space each subject has an image of its own, and "
            f"BIDS_DIR has {len(subjects)} subjects; write {{subject}} where the label stands in the path"
        )


def _check_files(settings: Settings) -> None:
    if settings.behaviour.random_seed < 1:
        raise ValueError("behaviour.random_seed must be 1 or more: ITK takes 0 for the clock")
    if settings.resources.use_plugin:
        from qsmals.engine.plugins_config import load_plugin_file

        load_plugin_file(Path(settings.resources.use_plugin))
    if settings.behaviour.qc_thresholds:
        from qsmals.qc.limits import with_overrides

        path = Path(settings.behaviour.qc_thresholds)
        if not path.is_file():
            raise ValueError(f"behaviour.qc_thresholds: {path} is no file")
        try:
            with_overrides(read_toml(path))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None


def _check_methods(settings: Settings) -> None:
    chosen = settings.reconstruction
    known = {name for registry in STAGES.values() for name in registry}
    for stage, registry in STAGES.items():
        _choose(registry, getattr(chosen, stage))
    for method, values in chosen.parameters.items():
        if method not in known:
            raise ValueError(
                f"reconstruction.parameters.{method}: no such method; there are {', '.join(sorted(known))}"
            )
        for registry in STAGES.values():
            if method in registry:
                registry[method].make_parameters(values)


def _choose(registry: Registry, name: str) -> None:
    if name not in registry:
        raise ValueError(f"{registry.stage}: no method {name}; there are {', '.join(registry)}")


def _folder(word: str) -> str:
    return os.path.abspath(Path(word).expanduser())  # noqa: PTH100 - links are kept as the user wrote them


def _file(word: str) -> str:
    if not Path(word).is_file():
        raise argparse.ArgumentTypeError(f"{word} is no file")
    return _folder(word)


def _without_prefix(prefix: str) -> Any:
    def label(word: str) -> str:
        return word.removeprefix(prefix)

    return label


def _count(word: str) -> int:
    if not word.isdecimal() or int(word) < 1:
        raise argparse.ArgumentTypeError(f"{word} is not a whole number above 0")
    return int(word)


def _positive(word: str) -> float:
    try:
        number = float(word)
    except ValueError:
        number = -1.0
    if not 0 < number < 100:
        raise argparse.ArgumentTypeError(f"{word} is not a positive number")
    return number


def _memory(word: str) -> float:
    try:
        return parse_mem(word)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
