"""The group level's first step: every subject's region tables as one tidy table per atlas and map."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qsmals.bids.errors import InvalidInput, NothingMatched
from qsmals.bids.naming import LABEL, Name, natural_key, parse_name, strip_prefix
from qsmals.bids.provenance import differences, recipe_of, why_outdated
from qsmals.bids.sidecars import strict_json
from qsmals.engine.files import write_json, write_text

MISSING = "n/a"
ID_COLUMNS: Mapping[str, str] = {
    "participant_id": "Participant, as in participants.tsv",
    "session_id": "Session; n/a where the data have none",
    "acq": "Acquisition (acq-) of the gradient-echo scan; n/a where it has none",
    "run": "Run of the gradient-echo scan; n/a where it has none",
}
EXTRA_COLUMNS: Mapping[str, str] = {
    "task": "task- of the gradient-echo scan",
    "ce": "Contrast agent (ce-) of the gradient-echo scan",
    "rec": "Reconstruction (rec-) of the gradient-echo scan",
    "chunk": "chunk- of the gradient-echo scan",
}
"""Columns that are there only when a scan has the entity."""

LABELS_FROM = "labels_from"
LABELS_COLUMN: Mapping[str, Any] = {
    "Description": "Whose labels were measured: atlas, or the pipeline whose segmentation of the subject was given",
}

Row = dict[str, str]


@dataclass(frozen=True)
class GroupTables:
    """What `collect_tables` made.

    Attributes
    ----------
    tables : tuple of Path
        One file per atlas and map, in natural order.
    participants : tuple of str
        Those with at least one table (``sub-01``), in natural order.
    without_tables : tuple of str
        Those with a folder in OUTPUT_DIR or a line in participants.tsv, and no table.
    warnings : tuple of str
    """

    tables: tuple[Path, ...]
    participants: tuple[str, ...]
    without_tables: tuple[str, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class _Table:
    """One subject's region table."""

    path: Path
    name: Name
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    sidecar: Mapping[str, Any]

    @property
    def kind(self) -> tuple[str, str]:
        """Atlas and map."""
        return self.name.entities["seg"], self.name.suffix

    @property
    def participant(self) -> str:
        return f"sub-{self.name.entities['sub']}"

    def identity(self) -> Row:
        entities = self.name.entities
        session = {"session_id": f"ses-{entities['ses']}"} if "ses" in entities else {}
        others = {key: entities[key] for key in ("acq", "run", *EXTRA_COLUMNS) if key in entities}
        return {"participant_id": self.participant, **session, **others}

    @property
    def scan(self) -> str:
        """As a person reads it: ``sub-01 ses-A run-1``."""
        ids = ("participant_id", "session_id")
        return " ".join(value if key in ids else f"{key}-{value}" for key, value in self.identity().items())

    @property
    def labels_from(self) -> str:
        """Whose labels were used, in a word."""
        return str(self.sidecar.get("LabelsFrom") or MISSING)


def collect_tables(
    output_dir: Path, *, bids_dir: Path | None = None, participant_labels: Sequence[str] | None = None
) -> GroupTables:
    """Write ``group/seg-<atlas>_desc-roi_<Map>.tsv`` with its data dictionary, for every atlas and map.

    No image is read. Numbers are copied as text, so that equal inputs give equal bytes. A table that an earlier run
    measured on another map than the one beside it is left out with a warning, and there is one where tables that come
    together were not made alike.

    Parameters
    ----------
    output_dir : Path
        Holds the participant level's results.
    bids_dir : Path, optional
        Where ``participants.tsv`` and ``participants.json`` are, if they are.
    participant_labels : sequence of str, optional
        With or without ``sub-``; all when not given.

    Raises
    ------
    NothingMatched
        No participant there, or none of these; one that failed and has no table counts.
    InvalidInput
        A table that cannot be read.
    """
    wanted = {f"sub-{strip_prefix(label, 'sub')}" for label in participant_labels} if participant_labels else None
    there = [t for t in _find_tables(output_dir) if t.rows and (wanted is None or t.participant in wanted)]
    outdated = {table.path: why for table in there if (why := why_outdated(table.path))}
    tables = [table for table in there if table.path not in outdated]
    folders = [name for name in _subject_folders(output_dir) if wanted is None or name in wanted]
    if not folders:
        raise NothingMatched(
            f"OUTPUT_DIR {output_dir} has no results (sub-*)"
            f"{' of ' + ', '.join(sorted(wanted)) if wanted else ''}: run the participant level first"
        )
    people, dictionary, warnings = read_participants(bids_dir)
    warnings += outdated.values()
    found = sorted({table.participant for table in tables}, key=natural_key)
    known = {*folders, *(p for p in people if wanted is None or p in wanted)}
    by_kind: dict[tuple[str, str], list[_Table]] = defaultdict(list)
    for table in tables:
        by_kind[table.kind].append(table)
    written = []
    for kind in sorted(by_kind, key=lambda pair: natural_key("/".join(pair))):
        written.append(_write_group(output_dir, kind, by_kind[kind], people, dictionary))
        warnings += _table_warnings(kind, by_kind[kind], found)
    without = tuple(sorted(known - set(found), key=natural_key))
    return GroupTables(tuple(written), tuple(found), without, tuple(warnings))


def read_participants(bids_dir: Path | None) -> tuple[dict[str, Row], dict[str, Any], list[str]]:
    """``participants.tsv`` by ``sub-<label>``, its data dictionary, and warnings.

    Without the file all three are empty; ids with and without ``sub-`` are understood.
    """
    path = bids_dir / "participants.tsv" if bids_dir else None
    if path is None or not path.is_file():
        return {}, {}, []
    columns, rows = read_tsv(path)
    if "participant_id" not in columns:
        raise InvalidInput(f"{path} has no column participant_id")
    people: dict[str, Row] = {}
    warnings = []
    for row in rows:
        label = f"sub-{strip_prefix(row.pop('participant_id'), 'sub')}"
        if label in people:
            warnings.append(f"{label} is in participants.tsv more than once; the first line counts")
        people.setdefault(label, row)
    dictionary_path = path.with_suffix(".json")
    dictionary = _read_dictionary(dictionary_path) if dictionary_path.is_file() else {}
    return people, dictionary, warnings


def read_tsv(path: Path) -> tuple[tuple[str, ...], list[Row]]:
    """Columns and rows of a table, all values as text.

    Raises
    ------
    InvalidInput
        Unreadable, without a header, or with a row of another length.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path} cannot be read as a table: {error}") from error
    if not lines or not lines[0].strip():
        raise InvalidInput(f"{path} is empty: a table begins with the names of its columns")
    columns = tuple(lines[0].split("\t"))
    if len(set(columns)) != len(columns):
        raise InvalidInput(f"{path} has two columns of the same name")
    rows = []
    for number, line in enumerate(lines[1:], 2):
        values = line.split("\t")
        if not line.strip():
            continue
        if len(values) != len(columns):
            raise InvalidInput(f"{path}, line {number}: {len(values)} values for {len(columns)} columns")
        rows.append({column: value.strip() or MISSING for column, value in zip(columns, values, strict=True)})
    return columns, rows


def _find_tables(output_dir: Path) -> list[_Table]:
    """Every region table below OUTPUT_DIR, in natural order of participant, session, scan."""
    paths = [
        path
        for pattern in ("sub-*/anat/*_desc-roi_*.tsv", "sub-*/ses-*/anat/*_desc-roi_*.tsv")
        for path in output_dir.glob(pattern)
    ]
    tables = []
    for path in sorted(paths, key=lambda p: natural_key(p.relative_to(output_dir))):
        name = parse_name(path.name)
        if {"sub", "seg", "desc"} <= name.entities.keys() and name.extension == ".tsv":
            columns, rows = read_tsv(path)
            sidecar = path.with_suffix(".json")
            content = _read_dictionary(sidecar) if sidecar.is_file() else {}
            tables.append(_Table(path, name, columns, tuple(rows), content))
    return sorted(tables, key=_table_order)


def _table_order(table: _Table) -> list[Any]:
    identity = table.identity()
    return [natural_key(identity.get(key, "")) for key in (*ID_COLUMNS, *EXTRA_COLUMNS)]


def _subject_folders(output_dir: Path) -> list[str]:
    return [p.name for p in output_dir.glob("sub-*") if p.is_dir() and LABEL.fullmatch(p.name[4:])]


def _write_group(
    output_dir: Path,
    kind: tuple[str, str],
    tables: Sequence[_Table],
    people: Mapping[str, Row],
    dictionary: Mapping[str, Any],
) -> Path:
    """Write one atlas' and map's table and, after it, its data dictionary."""
    identities = [table.identity() for table in tables]
    ids = [*ID_COLUMNS, *(key for key in EXTRA_COLUMNS if any(key in i for i in identities))]
    values = _union(table.columns for table in tables)
    person_columns = {
        c: free_name(c, {*ids, LABELS_FROM, *values}) for c in _union(row.keys() for row in people.values())
    }
    lines = ["\t".join([*ids, *person_columns.values(), LABELS_FROM, *values])]
    for table, identity in zip(tables, identities, strict=True):
        person = people.get(table.participant, {})
        start = [identity.get(c, MISSING) for c in ids] + [person.get(c, MISSING) for c in person_columns]
        start.append(table.labels_from)
        lines += ["\t".join([*start, *(row.get(c, MISSING) for c in values)]) for row in table.rows]
    atlas, suffix = kind
    path = output_dir / "group" / f"seg-{atlas}_desc-roi_{suffix}.tsv"
    write_text(path, "\n".join(lines) + "\n")
    described = {
        **{c: {"Description": ID_COLUMNS.get(c) or EXTRA_COLUMNS[c]} for c in ids},
        **{new: dictionary.get(c, {"Description": f"{c} of participants.tsv"}) for c, new in person_columns.items()},
        LABELS_FROM: LABELS_COLUMN,
        **_described_values(tables, values),
    }
    write_json(path.with_suffix(".json"), strict_json(described))
    return path


def free_name(column: str, taken: set[str]) -> str:
    """``column`` of participants.tsv, or another name where the table that it goes into has one of that name."""
    while column in taken:
        column = f"participants_{column}"
    return column


def _described_values(tables: Sequence[_Table], columns: Sequence[str]) -> dict[str, Any]:
    """The columns' descriptions out of the first sidecar that has each."""
    described: dict[str, Any] = {}
    for table in tables:
        if all(column in described for column in columns):
            break
        described.update({c: table.sidecar[c] for c in columns if c in table.sidecar and c not in described})
    return {c: described.get(c, {"Description": f"{c} of the region tables"}) for c in columns}


def _table_warnings(kind: tuple[str, str], tables: Sequence[_Table], participants: Sequence[str]) -> list[str]:
    """What a reader of the table should know: who and what is not everywhere, and which tables were made otherwise."""
    warnings = []
    label = f"seg-{kind[0]} {kind[1]}"
    lacking = [p for p in participants if p not in {table.participant for table in tables}]
    if lacking:
        warnings.append(f"{label}: no table of {', '.join(lacking)}")
    columns = {table.columns for table in tables}
    if len(columns) > 1:
        warnings.append(f"{label}: the tables have different columns (made by different versions?); gaps are {MISSING}")
    recipes = [(table.scan, recipe_of(table.sidecar)) for table in tables]
    return [*warnings, *(f"{label}: {sentence}" for sentence in differences(recipes))]


def _union(groups: Iterable[Iterable[str]]) -> list[str]:
    """Every name once, in the order of first appearance."""
    return list(dict.fromkeys(name for group in groups for name in group))


def _read_dictionary(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidInput(f"{path} cannot be read as JSON: {error}") from error
    return content if isinstance(content, dict) else {}
