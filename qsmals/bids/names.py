"""Every name under OUTPUT_DIR, in one place."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from qsmals.bids.layout import Unit
from qsmals.bids.naming import build_name

NATIVE_SPACE = "MEGRE"
RIGID_EXTENSION = ".mat"
COMPOSITE_EXTENSION = ".h5"
RELAXATION_MAPS = ("R2starmap", "T2starmap", "S0map")
IMAGE = ".nii.gz"
PARTS_OF = {"als": "alsparts"}
"""Atlas to the image of its labels' parts, which are measured in the same tables."""

BIDSIGNORE = (
    "*.html",
    "group",
    "work",
    "**/figures",
    "**/log",
    "**/*_xfm.*",
    "**/*_desc-qc_*",
    "**/*_desc-roi_*",  # with an extension after the last star the validator (3.0.2) does not match
    # the standard has no such entities for field maps, yet two scans may differ in nothing else
    "**/fmap/*_rec-*",
    "**/fmap/*_ce-*",
    "**/fmap/*_task-*",
)
"""Lines of ``.bidsignore``: what the standard has no name for (no trailing slashes: they would not match)."""

DESCRIPTIONS: Mapping[str, str] = {
    "desc-brain": "Brain mask",
    "desc-quality": "Voxels whose phase is reliable enough to be reconstructed",
    "desc-total": "Total field: everything that shifts the frequency, as fitted over the echoes",
    "desc-local": "Local field: total field without the part whose sources lie outside the mask",
    "desc-roi": "Statistics of the voxels of each region",
    "desc-qc": "Measures of the quality of a scan and its susceptibility map",
}
"""Every value of ``desc-`` with its meaning: the content of ``descriptions.tsv``."""


@dataclass(frozen=True)
class Output:
    """A file that a run leaves behind.

    Attributes
    ----------
    key : str
        How the program calls it, e.g. ``Chimap``, ``Chimap/T1w``, ``roi/<atlas>/Chimap``.
    path : Path
    sidecar : Path or None
        Its JSON file; None where another file's describes it.
    """

    key: str
    path: Path
    sidecar: Path | None

    @property
    def files(self) -> tuple[Path, ...]:
        """The file and its sidecar."""
        return (self.path,) if self.sidecar is None else (self.path, self.sidecar)


def derivative_path(
    output_dir: Path, source: Mapping[str, str], datatype: str, suffix: str, extension: str = IMAGE, **entities: str
) -> Path:
    """Path of a derivative: the source scan's entities and more, in the order of BIDS.

    Parameters
    ----------
    source : mapping
        `Scan.entities` of the scan that it is made of.
    **entities : str
        Further ones; Python's keyword is written ``from_``.

    Raises
    ------
    ValueError
        An entity that qsmals does not know, or a value that is not letters, digits and ``+``.

    Examples
    --------
    >>> str(derivative_path(Path("o"), {"sub": "1", "ses": "A"}, "anat", "mask", desc="brain", space="MEGRE"))
    'o/sub-1/ses-A/anat/sub-1_ses-A_space-MEGRE_desc-brain_mask.nii.gz'
    """
    merged = {**source, **{key.rstrip("_"): value for key, value in entities.items()}}
    folders = [f"{key}-{merged[key]}" for key in ("sub", "ses") if key in merged]
    return output_dir.joinpath(*folders, datatype, build_name(merged, suffix, extension))


def sidecar_path(path: Path) -> Path:
    """The JSON file of a derivative.

    Examples
    --------
    >>> sidecar_path(Path("sub-1_Chimap.nii.gz")).name
    'sub-1_Chimap.json'
    """
    return path.with_name(path.name.partition(".")[0] + ".json")


def map_names(n_echoes: int) -> tuple[str, ...]:
    """Suffixes of the maps that a scan gives: relaxation needs more than one echo.

    Examples
    --------
    >>> map_names(1)
    ('Chimap',)
    """
    return ("Chimap", *RELAXATION_MAPS) if n_echoes > 1 else ("Chimap",)


def unit_outputs(
    output_dir: Path,
    unit: Unit,
    *,
    atlases: Sequence[str] = (),
    probabilistic: Sequence[str] = (),
    templates: Sequence[str] = (),
    table_maps: Sequence[str] = ("Chimap", "R2starmap"),
    moved_maps: Sequence[str] = ("Chimap", "R2starmap"),
) -> dict[str, Output]:
    """Everything that one gradient-echo scan gives, by key.

    Parameters
    ----------
    output_dir : Path
    unit : Unit
        The scan with its T1-weighted image; without one there is nothing in T1w space, and the templates are reached
        from the scan itself.
    atlases, probabilistic : sequence of str
        Values of ``seg-``: of label images, and of those with a probability for each region.
    templates : sequence of str
        Values of ``space-`` of the templates to resample to.
    table_maps, moved_maps : sequence of str
        Maps that region tables are made of, and that are resampled; those that the scan cannot give are left out.
    """
    gre, maps = unit.gre.entities, map_names(len(unit.gre.echoes))
    outputs = [
        *_native(output_dir, gre, maps),
        *_regional(output_dir, gre, atlases, [m for m in table_maps if m in maps], "dseg"),
        *_regional(output_dir, gre, probabilistic, [m for m in table_maps if m in maps], "probseg"),
    ]
    outputs += _moved(output_dir, gre, unit.t1w is not None, templates, [m for m in moved_maps if m in maps])
    outputs += _transforms(output_dir, gre, unit.t1w.entities if unit.t1w else None, templates)
    return {output.key: output for output in outputs}


def _native(root: Path, gre: Mapping[str, str], maps: Sequence[str]) -> Iterator[Output]:
    for suffix in maps:
        yield _output(suffix, derivative_path(root, gre, "anat", suffix))
    for desc in ("brain", "quality"):
        path = derivative_path(root, gre, "anat", "mask", space=NATIVE_SPACE, desc=desc)
        yield _output(f"mask/{desc}", path)
    for desc in ("total", "local"):
        yield _output(f"fieldmap/{desc}", derivative_path(root, gre, "fmap", "fieldmap", desc=desc))
    yield _output("magnitude", derivative_path(root, gre, "fmap", "magnitude"))
    yield Output("qc", derivative_path(root, gre, "anat", "Chimap", ".json", desc="qc"), None)


def _regional(
    root: Path, gre: Mapping[str, str], atlases: Sequence[str], maps: Sequence[str], kind: str
) -> Iterator[Output]:
    for atlas in atlases:
        for seg in (atlas, PARTS_OF[atlas]) if atlas in PARTS_OF else (atlas,):
            labels = derivative_path(root, gre, "anat", kind, space=NATIVE_SPACE, seg=seg)
            yield _output(f"dseg/{seg}", labels)
            # the standard has a table of labels for dseg only
            table = derivative_path(root, gre, "anat", "dseg", ".tsv", space=NATIVE_SPACE, seg=seg)
            yield Output(f"dseg/{seg}/table", table, None if kind == "dseg" else sidecar_path(table))
        for suffix in maps:
            path = derivative_path(root, gre, "anat", suffix, ".tsv", seg=atlas, desc="roi")
            yield _output(f"roi/{atlas}/{suffix}", path)


def _moved(
    root: Path, gre: Mapping[str, str], with_t1w: bool, templates: Sequence[str], maps: Sequence[str]
) -> Iterator[Output]:
    for suffix in maps:
        if with_t1w:
            yield _output(f"{suffix}/T1w", derivative_path(root, gre, "anat", suffix, space="T1w"))
        for template in templates:
            path = derivative_path(root, gre, "anat", suffix, space=template, res="1")
            yield _output(f"{suffix}/{template}", path)


def _transforms(
    root: Path, gre: Mapping[str, str], t1w: Mapping[str, str] | None, templates: Sequence[str]
) -> Iterator[Output]:
    if t1w is not None:
        rigid = {"from_": NATIVE_SPACE, "to": "T1w", "mode": "image"}
        yield _output("xfm/T1w", derivative_path(root, gre, "anat", "xfm", RIGID_EXTENSION, **rigid))
    own, entities = (NATIVE_SPACE, gre) if t1w is None else ("T1w", t1w)
    for template in templates:
        warp = {"from_": own, "to": template, "mode": "image"}
        path = derivative_path(root, entities, "anat", "xfm", COMPOSITE_EXTENSION, **warp)
        yield _output(f"xfm/{template}", path)
        back = {"from_": template, "to": own, "mode": "image"}
        path = derivative_path(root, entities, "anat", "xfm", COMPOSITE_EXTENSION, **back)
        yield _output(f"xfm/from-{template}", path)


def _output(key: str, path: Path) -> Output:
    return Output(key, path, sidecar_path(path))


def expected_files(units: Sequence[Mapping[str, Output]]) -> tuple[Path, ...]:
    """Every file of `unit_outputs` results, sidecars included, once and sorted."""
    return tuple(sorted({path for outputs in units for output in outputs.values() for path in output.files}))


def missing_files(units: Sequence[Mapping[str, Output]]) -> tuple[Path, ...]:
    """Those of `expected_files` that are not there or are empty."""
    return tuple(p for p in expected_files(units) if not p.is_file() or p.stat().st_size == 0)


def log_dir(output_dir: Path, subject: str, run_id: str) -> Path:
    """Folder of one run's settings (``qsmals.toml``), log and crash files."""
    return output_dir / f"sub-{subject}" / "log" / run_id


def logs_dir(output_dir: Path) -> Path:
    """Folder of ``CITATION.md``, ``CITATION.bib`` and ``summary.json``."""
    return output_dir / "logs"
