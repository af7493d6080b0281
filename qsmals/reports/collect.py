"""The outputs of a subject, found by their names."""

from collections.abc import Container, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qsmals.bids.provenance import sidecar_of, why_outdated
from qsmals.reports.assess import Quality, read_quality
from qsmals.reports.facts import ScanFacts, newest_facts
from qsmals.roi.columns import MINIMUM_COVERAGE
from qsmals.roi.table import read_table

DERIVED = ("_space-", "_desc-", "_seg-", "_res-", "_atlas-")
OUTPUTS = {
    "chi": "anat/{prefix}_Chimap.nii.gz",
    "r2star": "anat/{prefix}_R2starmap.nii.gz",
    "mask": "anat/{prefix}_space-MEGRE_desc-brain_mask.nii.gz",
    "total_field": "fmap/{prefix}_desc-total_fieldmap.nii.gz",
    "local_field": "fmap/{prefix}_desc-local_fieldmap.nii.gz",
}
QUALITY = "anat/{prefix}_desc-qc_Chimap.json"
NAMES = {
    "chi": "susceptibility map",
    "r2star": "R2* map",
    "mask": "mask of the mapped voxels",
    "total_field": "total field",
    "local_field": "local field",
}


PARTLY = 0.9
"""Regions of which less than this share was measured are marked."""


@dataclass(frozen=True)
class RegionTable:
    """A region table of one atlas and map: its file, its columns, and what a failed registration took from it."""

    path: Path
    atlas: str
    quantity: str
    columns: Mapping[str, Any]
    registration_failed: str = ""

    @property
    def rows(self) -> list[dict[str, Any]]:
        """One mapping a region."""
        names = list(self.columns)
        return [dict(zip(names, row, strict=True)) for row in zip(*self.columns.values(), strict=True)]


@dataclass(frozen=True)
class Scan:
    """One gradient-echo scan of a subject: its facts, files and tables.

    Attributes
    ----------
    prefix : str
        Start of its file names.
    facts : ScanFacts or None
        What the workflow wrote about it.
    files : mapping of role to Path
        Existing files; roles are those of OUTPUTS, ``labels:<atlas>``, and those of the facts' images.
    tables : tuple of RegionTable
    missing : tuple of str
        What a finished scan should have and has not, in words.
    quality : Quality or None
        Its measures.
    left_out : tuple of str
        Why region tables that an earlier run left are not among ``tables``.
    """

    prefix: str
    facts: ScanFacts | None
    files: Mapping[str, Path]
    tables: tuple[RegionTable, ...]
    missing: tuple[str, ...]
    quality: Quality | None = None
    left_out: tuple[str, ...] = ()

    @property
    def failed(self) -> bool:
        """Whether the workflow said that the scan has no complete result."""
        return self.facts is not None and self.facts.failed


def find_scans(output_dir: Path, subject: str, run: str | None = None) -> tuple[list[Scan], list[str]]:
    """Every scan of a subject that left a map or facts, and what could not be read.

    Parameters
    ----------
    output_dir : Path
        The derivatives' folder.
    subject : str
        Label without ``sub-``.
    run : str, optional
        Folder under ``log/`` whose facts are preferred.
    """
    root = Path(output_dir) / f"sub-{subject}"
    facts, faults = newest_facts(root / "log", run)
    suffix = "_Chimap.nii.gz"
    maps = {path.name.removesuffix(suffix) for path in root.glob(f"**/anat/*{suffix}")}
    prefixes = sorted({p for p in maps if not any(entity in p for entity in DERIVED)} | set(facts))
    return [_scan(Path(output_dir), root, prefix, facts.get(prefix)) for prefix in prefixes], faults


def _scan(output_dir: Path, root: Path, prefix: str, facts: ScanFacts | None) -> Scan:
    sessions = [part for part in prefix.split("_") if part.startswith("ses-")]
    folder = root / sessions[0] if sessions else root
    files = {role: folder / pattern.format(prefix=prefix) for role, pattern in OUTPUTS.items()}
    outdated = outdated_tables(folder / "anat", prefix)
    tables, faults = _tables(folder / "anat", prefix, outdated)
    unused = {_entity(path, "seg") for path in outdated} - {table.atlas for table in tables}
    for path in sorted((folder / "anat").glob(f"{prefix}_space-MEGRE_seg-*_dseg.nii.gz")):
        if _entity(path, "seg") not in unused:
            files[f"labels:{_entity(path, 'seg')}"] = path
    if facts:
        files |= {role: output_dir / path for role, path in facts.images.items() if path}
    existing = {role: path for role, path in files.items() if path.exists()}
    quality, more_faults = _quality(folder / QUALITY.format(prefix=prefix), prefix)
    faults += more_faults
    missing = [] if facts and facts.failed else [*faults, *_missing(prefix, existing, tables, facts)]
    return Scan(prefix, facts, existing, tables, tuple(missing), quality, tuple(outdated.values()))


def _quality(path: Path, prefix: str) -> tuple[Quality | None, list[str]]:
    """Measures of a scan, and why there are none."""
    if not path.is_file():
        return None, [f"{prefix}: quality measures (anat/{path.name})"]
    try:
        return read_quality(path), []
    except ValueError as error:
        return None, [f"{prefix}: {error}"]


def _entity(path: Path, key: str) -> str:
    return next(part for part in path.name.split("_") if part.startswith(f"{key}-")).removeprefix(f"{key}-")


def outdated_tables(folder: Path, prefix: str) -> dict[Path, str]:
    """Region tables of a scan that were measured on an earlier map, each with the reason to leave it out.

    Parameters
    ----------
    folder : Path
        The ``anat`` folder of the scan.
    prefix : str
        Start of its file names.
    """
    return {path: why for path in _table_files(folder, prefix) if (why := why_outdated(path))}


def _table_files(folder: Path, prefix: str) -> list[Path]:
    """Files of a scan's region tables, susceptibility first."""
    paths = folder.glob(f"{prefix}_seg-*_desc-roi_*.tsv")
    return sorted(paths, key=lambda p: (not p.stem.endswith("_Chimap"), p.name))


def _tables(folder: Path, prefix: str, outdated: Container[Path]) -> tuple[tuple[RegionTable, ...], list[str]]:
    """Region tables of a scan that are not outdated, and those that could not be read."""
    tables, faults = [], []
    for path in (path for path in _table_files(folder, prefix) if path not in outdated):
        try:
            columns = read_table(path.read_text())
        except ValueError as error:
            faults.append(f"{prefix}: {path.name} cannot be read: {error}")
            continue
        atlas, quantity = _entity(path, "seg"), path.stem.rsplit("_", 1)[1]
        failed = str(sidecar_of(path).get("RegistrationFailed", ""))
        tables.append(RegionTable(path, atlas, quantity, columns, failed))
    return tuple(tables), faults


def _missing(
    prefix: str, files: Mapping[str, Path], tables: tuple[RegionTable, ...], facts: ScanFacts | None
) -> list[str]:
    one_echo = facts is not None and len(facts.acquisition.get("EchoTimes") or facts.echoes) == 1
    wanted = [role for role in OUTPUTS if not (role == "r2star" and one_echo)]
    missing = [
        f"{prefix}: {NAMES[role]} ({OUTPUTS[role].format(prefix=prefix)})" for role in wanted if role not in files
    ]
    if facts is None:
        missing.append(f"{prefix}: facts of the run (log/<run>/{prefix}_facts.json)")
    if not any(role.startswith("labels:") for role in files):
        missing.append(f"{prefix}: region labels (anat/{prefix}_space-MEGRE_seg-<atlas>_dseg.nii.gz)")
    if not any(table.quantity == "Chimap" for table in tables):
        missing.append(f"{prefix}: region table (anat/{prefix}_seg-<atlas>_desc-roi_Chimap.tsv)")
    return missing


def low_coverage(row: Mapping[str, Any]) -> bool:
    """Whether a region has too few measured voxels for statistics (or none)."""
    return not np.isfinite(row.get("mean", np.nan)) and not row.get("coverage", np.nan) >= MINIMUM_COVERAGE
