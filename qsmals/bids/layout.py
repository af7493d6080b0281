"""Find the scans of each subject with pybids and put them together into units of work."""

import json
import math
import os
import re
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from qsmals.bids.errors import Fault, InvalidInput, NothingMatched
from qsmals.bids.filters import as_list, merged_queries, pybids_query
from qsmals.bids.metadata import Sidecar, SidecarReader, constant_fields, merged
from qsmals.bids.naming import (
    LABEL,
    PARTS,
    SCAN_ENTITIES,
    Name,
    build_prefix,
    natural_key,
    parse_name,
    strip_prefix,
)

Parts = Literal["polar", "cartesian"]
PART_PAIRS: Mapping[Parts, tuple[str, str]] = {"polar": ("mag", "phase"), "cartesian": ("real", "imag")}

NO_T1W_NOTE = (
    "no T1w image: the brain mask comes from the gradient echo and the atlas is registered to the gradient echo, which "
    "is less exact; cortical labels are not fitted to grey matter. Look at the outlines in the report"
)
"""What the log, the report and the tables' sidecars say where a scan has no T1w image."""


@dataclass(frozen=True)
class Echo:
    """The images of one echo.

    Attributes
    ----------
    index : int
        The number after ``echo-``; 1 for an image without it.
    time_s : float
        Echo time in s; NaN when the sidecars do not have a number.
    files : mapping of str to Path
        Part (``mag`` and ``phase``, or ``real`` and ``imag``) to image.
    metadata : mapping of str to mapping
        Part to the merged sidecar of that image.
    """

    index: int
    time_s: float
    files: Mapping[str, Path]
    metadata: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Scan:
    """What every scan has: where it belongs and how its derivatives are called.

    Attributes
    ----------
    subject : str
        Label without ``sub-``.
    session : str or None
        Label without ``ses-``.
    entities : mapping of str to str
        Entities (``sub``, ``ses``, ``acq``, ``run``, ...) that its derivatives keep.
    sidecars : tuple of Sidecar
        Every JSON file that says something about the scan.
    """

    subject: str
    session: str | None
    entities: Mapping[str, str]
    sidecars: tuple[Sidecar, ...] = field(repr=False)

    @property
    def prefix(self) -> str:
        """The entities joined, e.g. ``sub-01_ses-A_acq-x_run-1``."""
        return build_prefix(self.entities)


@dataclass(frozen=True)
class GreScan(Scan):
    """A gradient-echo scan: all its echoes, as magnitude and phase or as real and imaginary part.

    Attributes
    ----------
    suffix : str
        Suffix of the images (``MEGRE`` unless a filter says otherwise).
    parts : "polar" or "cartesian"
        Magnitude and phase, or real and imaginary part.
    echoes : tuple of Echo
        In the order of their index.
    metadata : mapping
        Sidecar fields that all images share.
    """

    suffix: str
    parts: Parts
    echoes: tuple[Echo, ...]
    metadata: Mapping[str, Any] = field(repr=False)

    @property
    def te_s(self) -> tuple[float, ...]:
        """Echo times in s, one an echo."""
        return tuple(echo.time_s for echo in self.echoes)

    def files(self, part: str) -> tuple[Path, ...]:
        """The images of one part, one an echo."""
        return tuple(echo.files[part] for echo in self.echoes)

    @property
    def all_files(self) -> tuple[Path, ...]:
        """Every image of the scan: echo by echo, the parts in their order."""
        return tuple(e.files[part] for e in self.echoes for part in PART_PAIRS[self.parts] if part in e.files)

    @property
    def files_of_first_part(self) -> tuple[Path, ...]:
        """One image an echo, to name the scan in a message."""
        return tuple(next(iter(echo.files.values())) for echo in self.echoes if echo.files)

    @property
    def b0_tesla(self) -> float | None:
        """Field strength that the sidecars give, T; None without a usable number."""
        return as_number(self.metadata.get("MagneticFieldStrength"))

    @property
    def phase_units(self) -> str | None:
        """``Units`` of the phase images where they all say the same, e.g. ``rad`` or ``arbitrary``."""
        units = {str(e.metadata.get("phase", {}).get("Units")) for e in self.echoes}
        return units.pop() if len(units) == 1 and units != {"None"} else None


@dataclass(frozen=True)
class T1wScan(Scan):
    """A T1-weighted image."""

    file: Path
    metadata: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True)
class Unit:
    """One gradient-echo scan and the T1-weighted image that goes with it.

    Attributes
    ----------
    gre : GreScan
    t1w : T1wScan or None
    notes : tuple of str
        Choices that the report should tell, e.g. a T1w image of another session.
    """

    gre: GreScan
    t1w: T1wScan | None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class SubjectInputs:
    """Everything of one subject: what can be run, and the faults seen in names and sidecars.

    ``sessions`` are the labels of all sessions that were looked at, with scans or without; '' for none. ``all_t1ws``
    are the T1-weighted images of all sessions, whether a unit uses them or not.
    """

    label: str
    units: tuple[Unit, ...]
    faults: tuple[Fault, ...] = ()
    sessions: tuple[str, ...] = ()
    all_t1ws: tuple[T1wScan, ...] = ()

    @cached_property
    def t1w_scans(self) -> tuple[T1wScan, ...]:
        """The distinct T1-weighted images in use, in the order of the units."""
        return tuple({unit.t1w.file: unit.t1w for unit in self.units if unit.t1w}.values())


def find_subjects(
    bids_dir: Path,
    *,
    participant_labels: Sequence[str] | None = None,
    session_labels: Sequence[str] | None = None,
    bids_filters: Mapping[str, Mapping[str, Any]] | None = None,
    database_dir: Path | None = None,
) -> tuple[SubjectInputs, ...]:
    """Find the gradient-echo and T1-weighted scans of the subjects that are asked for.

    Parameters
    ----------
    bids_dir : Path
        Raw BIDS data set; never written to.
    participant_labels, session_labels : sequence of str, optional
        With or without ``sub-`` and ``ses-``; all when not given. Sessions select gradient-echo scans; a
        T1-weighted image may come from another session of the subject.
    bids_filters : mapping, optional
        Content of a filter file, see `qsmals.bids.filters.QUERIES`.
    database_dir : Path, optional
        Folder of a pybids index to use, or to make (of the whole data set) when it is not there. Without
        it the index of the chosen subjects is kept in memory.

    Returns
    -------
    tuple of SubjectInputs
        In natural order of the labels. A subject without gradient-echo scans has a fault and no units.

    Raises
    ------
    InvalidInput
        `bids_dir` is not a folder with subjects, or a filter or the database cannot be used.
    NothingMatched
        An unknown label, or no gradient-echo scan in any chosen subject.
    """
    root = Path(bids_dir).absolute()
    if not str(root).isprintable():
        raise InvalidInput(f"the path of BIDS_DIR has characters that cannot be read as text: {str(root)!r}")
    labels = select_participants(list_participants(root), participant_labels)
    queries = merged_queries(bids_filters)
    folders = {label: session_folders(root, label) for label in labels}  # one that comes now is for the next run
    images = _query_images(root, labels, queries, database_dir)
    sessions = {strip_prefix(s, "ses") for s in session_labels} if session_labels else None
    reader = SidecarReader(root)
    finder = _Finder(root, reader, sessions, "echo" in (bids_filters or {}).get("megre", {}))
    found = [finder.subject(s, images["megre"][s], images["t1w"][s]) for s in labels]
    subjects = tuple(replace(s, sessions=_considered(s.units, folders[s.label], sessions)) for s in found)
    _require_scans(subjects, queries, session_labels)
    return subjects


def list_participants(bids_dir: Path) -> tuple[str, ...]:
    """Labels (without ``sub-``) of the subject folders, in natural order.

    Raises
    ------
    InvalidInput
        The folder cannot be read or has no subject.
    """
    try:
        names = [entry.name for entry in os.scandir(bids_dir) if entry.name.startswith("sub-") and _is_dir(entry)]
    except OSError as error:
        raise InvalidInput(f"BIDS_DIR {bids_dir} cannot be read: {error.strerror}") from error
    labels = [name[4:] for name in names if LABEL.fullmatch(name[4:])]
    if not labels:
        odd = f" ({', '.join(sorted(names)[:5])}: a label is made of letters and digits only)" if names else ""
        raise InvalidInput(f"BIDS_DIR {bids_dir} has no folder sub-<label>{odd}. Give the top folder of the data set")
    return tuple(sorted(labels, key=natural_key))


def session_folders(bids_dir: Path, label: str) -> tuple[str, ...]:
    """Labels of a subject's session folders; one empty label where it has none."""
    try:
        with os.scandir(bids_dir / f"sub-{label}") as entries:
            found = sorted(entry.name[4:] for entry in entries if entry.name.startswith("ses-") and _is_dir(entry))
    except OSError:  # what is wrong with its scans is told where they are read
        found = []
    return tuple(found) or ("",)


def _considered(units: Iterable[Unit], folders: Iterable[str], sessions: set[str] | None) -> tuple[str, ...]:
    chosen = {label for label in folders if sessions is None or label in sessions}
    return tuple(sorted(chosen | {unit.gre.session or "" for unit in units}))


def select_participants(available: Sequence[str], wanted: Sequence[str] | None) -> tuple[str, ...]:
    """The labels that are asked for, in natural order; an unknown one is a NothingMatched.

    Examples
    --------
    >>> select_participants(["01", "02"], ["sub-02"])
    ('02',)
    """
    if not wanted:
        return tuple(available)
    labels = {strip_prefix(label, "sub") for label in wanted}
    unknown = sorted(labels - set(available), key=natural_key)
    if unknown:
        there = ", ".join(available[:20]) + (f" and {len(available) - 20} more" if len(available) > 20 else "")
        raise NothingMatched(f"no participant {', '.join(unknown)} in the data set; there are {there}")
    return tuple(sorted(labels, key=natural_key))


def as_number(value: Any) -> float | None:
    """A finite JSON number as float; None for anything else (text, true, NaN, too large)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


class _Finder:
    """Puts the images of a subject together; holds what is the same for every subject."""

    def __init__(self, root: Path, reader: SidecarReader, sessions: set[str] | None, echoes_chosen: bool) -> None:
        self.root = root
        self.reader = reader
        self.sessions = sessions
        self.echoes_chosen = echoes_chosen

    def subject(self, label: str, gre_images: Iterable[Path], t1w_images: Iterable[Path]) -> SubjectInputs:
        faults: list[Fault] = []
        gre_named = self._well_named(label, gre_images, faults)
        scans = self._gre_scans(label, gre_named, faults)
        t1ws = [self._t1w_scan(label, path) for path in self._well_named(label, t1w_images, faults)]
        units = tuple(Unit(gre, *choose_t1w(gre, t1ws)) for gre in scans)
        faults += _clashes(label, [unit.gre for unit in units])
        if not gre_named:
            faults.append(self._no_gre(label))
        return SubjectInputs(label, units, tuple(faults), all_t1ws=tuple(t1ws))

    def _no_gre(self, label: str) -> Fault:
        where = f" in session {', '.join(sorted(self.sessions))}" if self.sessions else ""
        what = f"no multi-echo gradient-echo images (*_MEGRE.nii.gz){where}"
        remedy = "Name them sub-<label>_echo-<n>_part-{mag,phase}_MEGRE.nii.gz, or use --bids-filter-file"
        return Fault(label, "no-megre", what, remedy)

    def _well_named(self, label: str, images: Iterable[Path], faults: list[Fault]) -> list[Path]:
        """The images whose names fit BIDS and the folders they lie in, in natural order."""
        good = []
        for path in sorted(images, key=natural_key):
            problem = _name_problem(path, self.root, label)
            if problem:
                faults.append(Fault(label, "name", problem, "Rename the file", (path,)))
            else:
                good.append(path)
        return good

    def _gre_scans(self, label: str, images: list[Path], faults: list[Fault]) -> list[GreScan]:
        groups: dict[tuple[Any, ...], list[Path]] = defaultdict(list)
        for path in images:
            name = parse_name(path.name)
            if self.sessions is None or name.entities.get("ses") in self.sessions:
                rest = tuple(item for item in name.entities.items() if item[0] not in ("echo", "part"))
                groups[(str(path.parent), rest, name.suffix)].append(path)
        if images and not groups:
            faults.append(self._no_gre(label))
        scans = (self._gre_scan(label, group, faults) for group in groups.values())
        return sorted((scan for scan in scans if scan), key=lambda scan: natural_key(scan.prefix))

    def _gre_scan(self, label: str, images: list[Path], faults: list[Fault]) -> GreScan | None:
        names = {path: parse_name(path.name) for path in images}
        table = _by_echo_and_part(label, names, faults)
        parts: Parts | None = _choose_parts(table)
        if parts is None:
            faults.append(_no_phase(label, images))
            return None
        faults += _missing_images(label, table, parts, check_gaps=not self.echoes_chosen)
        echoes = tuple(self._echo(index, table[index], parts) for index in sorted(table))
        used = [path for echo in echoes for path in echo.files.values()]
        first = names[images[0]]
        return GreScan(
            **self._common(label, first, used),
            suffix=first.suffix,
            parts=parts,
            echoes=echoes,
            metadata=constant_fields([dict(m) for echo in echoes for m in echo.metadata.values()]),
        )

    def _echo(self, index: int, files: Mapping[str, Path], parts: Parts) -> Echo:
        used = {part: files[part] for part in PART_PAIRS[parts] if part in files}
        metadata = {part: merged(self.reader.applicable(path)) for part, path in used.items()}
        times = [as_number(m.get("EchoTime")) for m in metadata.values()]
        return Echo(index, next((t for t in times if t is not None), math.nan), used, metadata)

    def _t1w_scan(self, label: str, path: Path) -> T1wScan:
        sidecars = self.reader.applicable(path)
        return T1wScan(**self._common(label, parse_name(path.name), [path]), file=path, metadata=merged(sidecars))

    def _common(self, label: str, name: Name, files: Iterable[Path]) -> dict[str, Any]:
        """The arguments that every scan has."""
        sidecars = {s.path: s for path in files for s in self.reader.applicable(path)}
        entities = {key: name.entities[key] for key in SCAN_ENTITIES if key in name.entities}
        session = name.entities.get("ses")
        return {"subject": label, "session": session, "entities": entities, "sidecars": tuple(sidecars.values())}


def choose_t1w(gre: GreScan, t1ws: Sequence[T1wScan]) -> tuple[T1wScan | None, tuple[str, ...]]:
    """The T1-weighted image for a gradient-echo scan, with notes on the choice.

    An image of the same session comes before one of another; then the one with the fewest entities (a
    plain ``_T1w`` before ``acq-``, ``rec-``, ``run-``), then the first in natural order.
    """
    if not t1ws:
        return None, (NO_T1W_NOTE,)
    here = [t1w for t1w in t1ws if t1w.session == gre.session]
    notes = []
    if not here:
        notes.append(f"no T1w image in session {gre.session or '(none)'}; one of another session is used")
    candidates = sorted(here or t1ws, key=_t1w_order)
    if len(candidates) > 1:
        notes.append(f"{len(candidates)} T1w images; {candidates[0].file.name} is used (fewest entities, then first)")
    return candidates[0], tuple(notes)


def _t1w_order(t1w: T1wScan) -> tuple[int, list[tuple[int, int | str]]]:
    return len(parse_name(t1w.file.name).entities), natural_key(t1w.file.name)


def _is_dir(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _name_problem(path: Path, root: Path, label: str) -> str:
    """What keeps a name from being read, empty when nothing does."""
    name = parse_name(path.name)
    folders = path.relative_to(root).parts[:-1]
    session = next((f[4:] for f in folders[1:2] if f.startswith("ses-")), None)
    if name.unknown:
        return f"{', '.join(name.unknown)} in the name is not <key>-<letters and digits>"
    if name.entities.get("sub") != label:
        return f"the name does not begin with sub-{label}, the folder it lies in"
    if name.entities.get("ses") != session:
        return f"the name and the folder disagree on the session ({name.entities.get('ses')}, {session})"
    if not name.entities.get("echo", "1").isdecimal():
        return f"echo-{name.entities['echo']} is not a number"
    if name.entities.get("part", "mag") not in PARTS:
        return f"part-{name.entities['part']} is none of {', '.join(PARTS)}"
    return ""


Table = dict[int, dict[str, Path]]


def _by_echo_and_part(label: str, names: Mapping[Path, Name], faults: list[Fault]) -> Table:
    """Echo index to part to image; a second image in one place is a fault."""
    table: Table = defaultdict(dict)
    for path, name in names.items():
        echo, part = int(name.entities.get("echo", "1")), name.entities.get("part", "mag")
        first = table[echo].setdefault(part, path)
        if first is not path:
            what = f"two images for echo {echo}, part {part}"
            faults.append(Fault(label, "duplicate", what, "Keep one of them", (first, path)))
    return dict(table)


def _choose_parts(table: Table) -> Parts | None:
    """Magnitude and phase where any echo has a phase that is at least as complete as real and imaginary."""
    counts = {p: sum(all(part in files for part in pair) for files in table.values()) for p, pair in PART_PAIRS.items()}
    if any(counts.values()):
        return "polar" if counts["polar"] >= counts["cartesian"] else "cartesian"
    present = {part for files in table.values() for part in files}
    return "polar" if "phase" in present else "cartesian" if {"real", "imag"} & present else None


def _no_phase(label: str, images: list[Path]) -> Fault:
    what = "magnitude without phase: susceptibility needs the phase images"
    remedy = "Add part-phase images (on most scanners the phase must be switched on for saving), or leave this scan out"
    return Fault(label, "no-phase", what, remedy, tuple(images))


def _missing_images(label: str, table: Table, parts: Parts, *, check_gaps: bool) -> list[Fault]:
    """Faults for echoes that are not there and for parts that an echo lacks."""
    faults = []
    everything = tuple(path for files in table.values() for path in files.values())
    gaps = sorted(set(range(1, max(table) + 1)) - set(table)) if max(table) <= 1000 else [1000]
    if gaps and check_gaps:
        what = f"echo {', '.join(map(str, gaps[:10]))} of {max(table)} is missing"
        remedy = "Restore the images, or choose the echoes to use with --bids-filter-file"
        faults.append(Fault(label, "missing-echo", what, remedy, everything[:1]))
    for index in sorted(table):
        lacking = [part for part in PART_PAIRS[parts] if part not in table[index]]
        if lacking:
            what = f"echo {index} has no part-{' and no part-'.join(lacking)} image"
            remedy = "Restore it, or leave the echo out with --bids-filter-file"
            faults.append(Fault(label, "missing-part", what, remedy, tuple(table[index].values())))
    return faults


def _clashes(label: str, scans: Sequence[GreScan]) -> list[Fault]:
    """Scans whose outputs would have the same names."""
    by_prefix: dict[str, list[GreScan]] = defaultdict(list)
    for scan in scans:
        by_prefix[scan.prefix].append(scan)
    what = "several gradient-echo scans whose outputs would have the same name"
    remedy = "Choose one with --bids-filter-file, or tell them apart by acq- or run-"
    return [
        Fault(label, "clash", what, remedy, tuple(scan.all_files[0] for scan in same))
        for same in by_prefix.values()
        if len(same) > 1
    ]


def _require_scans(
    subjects: Sequence[SubjectInputs], queries: Mapping[str, Mapping[str, Any]], sessions: Sequence[str] | None
) -> None:
    """Raise when no chosen subject has any gradient-echo image."""
    if any(subject.units or any(f.code != "no-megre" for f in subject.faults) for subject in subjects):
        return
    query = {key: value for key, value in queries["megre"].items() if key != "extension"}
    chosen = f" in session {', '.join(sessions)}" if sessions else ""
    raise NothingMatched(
        f"no gradient-echo image{chosen} in {len(subjects)} subject(s) matches {query}. Multi-echo images are named "
        "*_MEGRE.nii.gz; --bids-filter-file finds older names, and --session-label must name a session that is there"
    )


# --- pybids ---------------------------------------------------------------------------------------


def _query_images(
    root: Path, labels: Sequence[str], queries: Mapping[str, Mapping[str, Any]], database_dir: Path | None
) -> dict[str, dict[str, list[Path]]]:
    """Query name to subject label to the images found."""
    layout = _open_layout(root, labels, _datatypes(queries), database_dir)
    chosen = set(labels)
    found: dict[str, dict[str, list[Path]]] = {key: defaultdict(list) for key in queries}
    for key, query in queries.items():
        folders = set(as_list(query.get("datatype", "anat")))
        entities = {k: v for k, v in query.items() if k != "datatype"}
        try:
            files = layout.get(return_type="filename", **pybids_query(entities))
        except (ValueError, TypeError) as error:
            raise InvalidInput(f'the filter "{key}" cannot be used: {error}') from error
        for path in map(Path, files):
            subject = path.relative_to(root).parts[0].removeprefix("sub-")
            if subject in chosen and path.parent.name in folders:
                found[key][subject].append(path)
    return found


def _datatypes(queries: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Folders that the queries look into, e.g. ``anat``."""
    names = {name for query in queries.values() for name in as_list(query.get("datatype", "anat"))}
    for name in names:
        if not (isinstance(name, str) and LABEL.fullmatch(name)):
            raise InvalidInput(f"a filter's datatype must be the name of a folder such as anat, not {name!r}")
    return sorted(names)


def _open_layout(root: Path, labels: Sequence[str], datatypes: Sequence[str], database_dir: Path | None) -> Any:
    """A pybids layout: of the chosen subjects in memory, or of all subjects from or into a database."""
    from bids.layout import BIDSLayout

    description = root / "dataset_description.json"
    if os.path.lexists(description) and not description.is_file():
        raise InvalidInput(f"{description} is no readable file. Mend or remove it")
    _require_object(description)
    if database_dir is None:
        try:
            return BIDSLayout(root, validate=False, config=[_config()], indexer=_indexer(labels, datatypes))
        except (ValueError, RecursionError, OSError) as error:  # pybids reads the description as it pleases
            raise InvalidInput(f"BIDS_DIR cannot be indexed ({error}). Look at {description} first") from error
    database_dir = database_dir.absolute()
    if not (database_dir / "layout_index.sqlite").exists():
        if root in database_dir.parents:
            raise InvalidInput(f"the pybids database {database_dir} cannot be made in BIDS_DIR: choose another folder")
        _make_database(root, datatypes, database_dir)
    try:
        layout = BIDSLayout(root, validate=False, database_path=database_dir)
    except Exception as error:  # sqlalchemy, sqlite3 and pybids raise their own kinds
        raise InvalidInput(f"the pybids database {database_dir} cannot be used ({error}). Remove it") from error
    if Path(layout.root) != root:
        raise InvalidInput(f"the pybids database {database_dir} was made for {layout.root}, not {root}. Remove it")
    return layout


def _require_object(description: Path) -> None:
    """Refuse a description that is JSON but no object; what is no JSON at all is left to pybids."""
    try:
        content = json.loads(description.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return
    if not isinstance(content, dict):
        raise InvalidInput(f"{description} must hold a JSON object, not {type(content).__name__}. Mend or remove it")


def _make_database(root: Path, datatypes: Sequence[str], database_dir: Path) -> None:
    """Index all subjects into a folder that appears complete or not at all."""
    from bids.layout import BIDSLayout

    database_dir.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{database_dir.name}-", dir=database_dir.parent))
    try:
        indexer = _indexer(None, datatypes)
        BIDSLayout(root, validate=False, config=[_config()], indexer=indexer, database_path=folder)
        database_dir.mkdir(exist_ok=True)
        (folder / "layout_index.sqlite").replace(database_dir / "layout_index.sqlite")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


_TEXT = r"[^/\ud800-\udfff]+"
"""Names that are UTF-8: SQLite takes no others."""


def _indexer(labels: Sequence[str] | None, datatypes: Sequence[str]) -> Any:
    """An indexer that enters no folder but the chosen ones: no derivatives, no link that leads in circles."""
    from bids.layout import BIDSLayoutIndexer

    subjects = "|".join(map(re.escape, labels)) if labels is not None else LABEL.pattern
    image = rf"/{_TEXT}\.nii(?:\.gz)?"
    wanted = rf"/sub-(?:{subjects})(?:/ses-{_TEXT})?(?:/(?:{'|'.join(datatypes)})(?:{image})?)?"
    return BIDSLayoutIndexer(
        validate=False,
        index_metadata=False,  # sidecars are read by SidecarReader, which reports bad ones in place of raising
        ignore=[re.compile(rf"^(?!{wanted}$)")],
        config_filename=".no-extra-pybids-config",
    )


def _config() -> dict[str, Any]:
    """pybids' own entities, looked for in the file name alone.

    pybids matches its patterns against the whole path, so that a data set below a folder ``sub-x`` or
    ``ses-y`` would get its labels from there.
    """
    import json

    from bids.config import get_option

    config: dict[str, Any] = json.loads(Path(get_option("config_paths")["bids"]).read_text())
    for entity in config["entities"]:
        for start in (r"[_/\\]+", r"[/\\]+"):
            if entity["pattern"].startswith(start) and entity["name"] != "datatype":
                entity["pattern"] = rf"(?:/|_){entity['pattern'].removeprefix(start)}(?=[_.])[^/]*$"
    return config
