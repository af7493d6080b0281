"""Atlases that the user brings: label images and probabilistic ones, with a table of their regions."""

import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Formatter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qsmals.anatomy.atlases import BOTH_SIDES, is_single
from qsmals.anatomy.images import as_volume, each_volume
from qsmals.anatomy.place import share_in
from qsmals.anatomy.templates import TEMPLATES
from qsmals.roi.statistics import Region

NAME = re.compile(r"[A-Za-z0-9]+")
NATIVE = ("T1w", "MEGRE")
PLACEHOLDERS = {"subject": "sub", "session": "ses", "acquisition": "acq", "run": "run"}
"""What may stand in braces in the name of a native image, and the entity of its scan that takes the place."""

SUFFIXES = (".nii.gz", ".nii", ".mgz")
LARGEST_INDEX = 2**31 - 1
"""What a label image holds that is written."""

WHOLE = 1e-3
"""How far from a whole number a label may be after the scaling of its file."""

SUM_TOLERANCE = 0.01
LEAST_TOP = 0.5
"""No probabilistic atlas is less certain than this everywhere."""

LEAST_INSIDE = 0.9
"""Share of an atlas's voxels that must lie in the head of the template that it is said to be drawn on."""

LEAST_IN_HEAD = 0.5
"""Share of the voxels of a subject's own atlas that must lie in the head of the T1w image: it may label air as well."""

LEAST_IN_SCAN = 0.1
"""Share of those that must lie in the field of view of the gradient echo, which may be a slab."""

HEAD_LPS_MM = ((-95.0, 95.0), (-95.0, 130.0), (-90.0, 100.0))
"""Bounds of the brain, cerebellum and brainstem in MNI space, with a margin."""

_SIDES = {"l": "L", "lh": "L", "left": "L", "r": "R", "rh": "R", "right": "R"}
_HEMISPHERES = {**_SIDES, "b": "B", "both": "B", "bilateral": "B"}
"""Words of a table's column, in lower case; ``n/a`` and nothing leave it to the name."""


@dataclass(frozen=True)
class AtlasFile:
    """What ``--atlas NAME=FILE[,LABELS.tsv[,SPACE]]`` says.

    Attributes
    ----------
    name : str
        Value of ``seg-`` in file names.
    file : str
        Path of the image; `PLACEHOLDERS` in braces stand for labels (native spaces only).
    table : str
        Path of the table of regions.
    space : str
        A template, ``T1w`` or ``MEGRE``.
    """

    name: str
    file: str
    table: str
    space: str

    @property
    def native(self) -> bool:
        """Whether each subject has an image of its own."""
        return self.space in NATIVE

    @property
    def fields(self) -> frozenset[str]:
        """What stands in braces in the path."""
        return frozenset(field for _, field, _, _ in Formatter().parse(self.file) if field is not None)

    def path(self, entities: Mapping[str, str]) -> Path:
        """The image that belongs to a scan in whose space the atlas is, by the scan's entities (``sub``, ``ses``, ...).

        Raises
        ------
        ValueError
            The path asks for an entity that the scan does not have.
        """
        labels = {field: entities.get(PLACEHOLDERS[field]) for field in sorted(self.fields)}
        for field, label in labels.items():
            if label is None:
                raise ValueError(
                    f"atlas {self.name}: {{{field}}} stands in {self.file}, and the {self.space} image "
                    f"{'_'.join(f'{key}-{value}' for key, value in entities.items())} has no {PLACEHOLDERS[field]}-"
                )
        return Path(self.file.format(**labels))


@dataclass(frozen=True)
class UserAtlas:
    """A user's atlas whose table and image were read.

    Attributes
    ----------
    spec : AtlasFile
    regions : tuple of Region
        Labels in the order of the table, then the unions of left and right. Members are label values; of a
        probabilistic atlas, volume numbers from 1.
    probabilistic : bool
        A volume for each region instead of a label for each voxel.
    optional : tuple of Region
        Those of ``regions`` that have no row in the table of a subject who has no voxel of them.
    """

    spec: AtlasFile
    regions: tuple[Region, ...]
    probabilistic: bool
    optional: tuple[Region, ...] = ()

    def label_table(self) -> str:
        """Tab-separated ``index name hemisphere``, as the packaged atlas has it."""
        rows = [f"{r.index}\t{r.name}\t{r.hemisphere}\n" for r in self.regions if len(r.members) == 1]
        return "".join(["index\tname\themisphere\n", *rows])


def parse_atlas(word: str) -> AtlasFile:
    """Take ``NAME=FILE[,LABELS.tsv[,SPACE]]`` apart and look whether the files are there.

    The table may be left out where a ``.tsv`` of the same name lies beside the image, the space where the image's name
    has ``space-`` or ``tpl-``.

    Raises
    ------
    ValueError
        What is missing or wrong, with what to do.

    Examples
    --------
    >>> parse_atlas("als=x.nii.gz")
    Traceback (most recent call last):
    ...
    ValueError: --atlas als=x.nii.gz: als is the built-in atlas; choose another name
    """
    name, equals, rest = word.partition("=")
    file, *more = rest.split(",")
    where = f"--atlas {word}"
    if not equals or not file or len(more) > 2:
        raise ValueError(f"{where}: write NAME=FILE, NAME=FILE,LABELS.tsv or NAME=FILE,LABELS.tsv,SPACE")
    if not NAME.fullmatch(name):
        raise ValueError(f"{where}: the name {name!r} goes into file names; use letters and digits only")
    if name.lower() in ("als", "alsparts"):
        raise ValueError(f"{where}: {name} is the built-in atlas; choose another name")
    if not file.endswith(SUFFIXES):
        raise ValueError(f"{where}: {file} is no image; there are {', '.join(SUFFIXES)}")
    space = more[1] if len(more) == 2 and more[1] else _space_in_name(file)
    if not space:
        raise ValueError(
            f"{where}: in which space is it? Add one of {', '.join((*TEMPLATES, *NATIVE))} after the table"
        )
    if space not in (*TEMPLATES, *NATIVE):
        raise ValueError(
            f"{where}: no transform leads from {space} to the templates that this program has "
            f"({', '.join(TEMPLATES)}); resample the atlas to one of them, or to the subjects' T1w images (T1w)"
        )
    table = more[0] if more and more[0] else _stem(file) + ".tsv"
    found = AtlasFile(name, file, table, space)
    _check_files(found, where)
    return found


def _check_files(atlas: AtlasFile, where: str) -> None:
    known = ", ".join(f"{{{field}}}" for field in PLACEHOLDERS)
    try:
        fields = atlas.fields
    except ValueError as error:
        raise ValueError(f"{where}: {error} in {atlas.file}") from error
    if unknown := sorted(fields - set(PLACEHOLDERS)):
        raise ValueError(f"{where}: {{{unknown[0]}}} is unknown; there are {known}")
    if fields and not atlas.native:
        raise ValueError(f"{where}: {known} are for images in {' or '.join(NATIVE)} space")
    if not fields and not Path(atlas.file).is_file():
        raise ValueError(f"{where}: there is no file {atlas.file}")
    if not Path(atlas.table).is_file():
        raise ValueError(
            f"{where}: there is no table {atlas.table}; it is a .tsv with the columns index and name (and hemisphere, "
            "where the names do not tell it)"
        )


def _space_in_name(file: str) -> str:
    found = re.search(r"(?:^|_)(?:space|tpl)-([A-Za-z0-9]+)", Path(file).name)
    return found[1] if found else ""


def _stem(file: str) -> str:
    return next(file.removesuffix(suffix) for suffix in SUFFIXES if file.endswith(suffix))


def read_regions(table: Path) -> tuple[Region, ...]:
    """The rows of a table, and the unions of those that a left and a right one share a name.

    The row of index 0, which BIDS has for the background, is none.

    Raises
    ------
    ValueError
        No columns ``index`` and ``name``, an index that is no positive whole number or is there twice, a name that is
        empty or is there twice on one side, a hemisphere that is none.
    """
    lines = Path(table).read_text(encoding="utf-8-sig").splitlines()
    rows = [line.rstrip("\r").split("\t") for line in lines if line.strip()]
    header = [cell.strip().lower() for cell in rows[0]] if rows else []
    lacking = [column for column in ("index", "name") if column not in header]
    if lacking:
        raise ValueError(
            f"{table} has no column {' and no column '.join(lacking)}: its first line must be tab-separated names, "
            "index and name among them"
        )
    numbered = [(number, dict(zip(header, row, strict=False))) for number, row in enumerate(rows[1:], 2)]
    regions = [_region(table, number, row) for number, row in numbered if row.get("index", "").strip() != "0"]
    if not regions:
        raise ValueError(f"{table} has no row")
    twice = sorted({r.index for r in regions if [q.index for q in regions].count(r.index) > 1})
    if twice:
        raise ValueError(f"{table} has the index {twice[0]} twice")
    names = [(r.name, r.hemisphere) for r in regions]
    if same := next((pair for pair in names if names.count(pair) > 1), None):
        shared = " and ".join(str(r.index) for r in regions if (r.name, r.hemisphere) == same)
        raise ValueError(
            f"{table}: the indices {shared} have the same name and side ({', '.join(same)}); tell them apart by "
            "name, or by hemisphere (L, R, B)"
        )
    return (*regions, *_both_sides(regions))


def _region(table: Path, line: int, row: dict[str, str]) -> Region:
    word = row.get("index", "").strip()
    if not word.isdecimal() or int(word) < 1:
        raise ValueError(f"{table}, line {line}: the index {word!r} is no whole number above 0")
    if int(word) > LARGEST_INDEX:
        raise ValueError(f"{table}, line {line}: the index {word} is too large; renumber table and image")
    name, side = split_side(row.get("name", ""))
    given = row.get("hemisphere", "").strip()
    if given.lower() not in ("", "n/a"):
        if given.lower() not in _HEMISPHERES:
            raise ValueError(
                f"{table}, line {line}: the hemisphere {given!r} is none of L, R, B, lh, rh, left, right; n/a leaves "
                "it to the name"
            )
        side = _HEMISPHERES[given.lower()]
    if not name:
        raise ValueError(f"{table}, line {line}: index {word} has no name")
    return Region(int(word), name, side, (int(word),))


def split_side(text: str) -> tuple[str, str]:
    """Lower-case name of a region and its hemisphere, where a word of the name tells it.

    Examples
    --------
    >>> split_side("Left-Globus Pallidus_externa"), split_side("pulvinar_R"), split_side("Brainstem")
    (('globus_pallidus_externa', 'L'), ('pulvinar', 'R'), ('brainstem', 'B'))
    """
    words = [word for word in re.split(r"[^A-Za-z0-9+]+", text.strip().lower()) if word]
    places = [0, -1] if words and words[0] != "ctx" else [1, -1]
    for place in places:
        if len(words) > 1 and words[place] in _SIDES:
            side = _SIDES[words.pop(place)]
            return "_".join(words), side
    return "_".join(words), "B"


def _both_sides(regions: Sequence[Region]) -> list[Region]:
    """One more region for each name that a left and a right one have."""
    offset = BOTH_SIDES
    while offset <= max(r.index for r in regions):
        offset *= 10
    by_name: dict[str, dict[str, list[Region]]] = {}
    for region in regions:
        by_name.setdefault(region.name, {}).setdefault(region.hemisphere, []).append(region)
    pairs = [(s["L"], s["R"]) for s in by_name.values() if "L" in s and "R" in s and "B" not in s]
    return [
        Region(offset + left[0].index, left[0].name, "B", tuple(i for r in (*left, *right) for i in r.members))
        for left, right in pairs
    ]


def read_user_atlas(spec: AtlasFile, image: Path, *, scan: Path | None = None) -> UserAtlas:
    """Read a table and an image of it, and see that they belong together.

    An image of one subject may be empty: not everybody has a lesion.

    Parameters
    ----------
    spec : AtlasFile
    image : Path
        ``spec.file``, or one subject's.
    scan : Path, optional
        That subject's image whose space a native atlas is in: it must lie where the labels are.

    Raises
    ------
    ValueError
        What is wrong, with the atlas's name.
    """
    import nibabel as nib

    where = f"atlas {spec.name}"
    try:
        regions = read_regions(Path(spec.table))
        loaded: Any = nib.load(image, keep_file_open=True)
        if loaded.get_data_dtype().names is not None:
            raise ValueError(f"{image} is a coloured picture (RGB); give the label image that it was made from")
        probabilistic = _is_probabilistic(image, loaded)
        check = _check_probabilities if probabilistic else _check_labels
        checked, inside = check(image, loaded, regions, may_be_empty=spec.native)
    except (OSError, EOFError, zlib.error, nib.filebasedimages.ImageFileError) as error:
        raise ValueError(f"{where}: {image} cannot be read ({error})") from error
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    if not spec.native:
        _check_place(where, image, inside, loaded.affine, spec.space)
    elif scan is not None and inside.any():
        _check_native_place(where, image, inside, loaded.affine, scan, head=spec.space == "T1w")
    return UserAtlas(spec, checked, probabilistic)


def _is_probabilistic(image: Path, loaded: Any) -> bool:
    """Whether an image has a volume for each region.

    A fourth axis of length 1 may be all that is left of the volumes of an atlas of one region, or what a converter
    added to a label image: the former has fractions.
    """
    n_axes = max([3, *(axis for axis, n in enumerate(loaded.shape, 1) if n > 1)])
    if n_axes > 4 or len(loaded.shape) < 3:
        raise ValueError(f"{image} has {len(loaded.shape)} dimensions; give labels (3) or probabilities (4)")
    if n_axes == 4 or len(loaded.shape) == 3:
        return n_axes == 4
    values = next(each_volume(loaded))
    return bool(np.abs(values - np.rint(values)).max() > WHOLE)


Checked = tuple[tuple[Region, ...], NDArray[np.bool_]]
"""The regions of an atlas with the members that its image has, and where any of them is."""


def _check_labels(image: Path, loaded: Any, regions: tuple[Region, ...], *, may_be_empty: bool) -> Checked:
    data = as_volume(np.asanyarray(loaded.dataobj))
    values = np.unique(data)
    if not np.isfinite(values).all() or (values < 0).any() or np.abs(values - np.rint(values)).max() > WHOLE:
        raise ValueError(f"{image} has values that are no labels (whole numbers from 0)")
    found = {int(v) for v in np.rint(values)} - {0}
    if not found and not may_be_empty:
        raise ValueError(f"{image} has no label above 0")
    missing = sorted(found - {r.index for r in regions if is_single(r)})
    if missing:
        shown = ", ".join(map(str, missing[:10])) + (" ..." if len(missing) > 10 else "")
        raise ValueError(f"the table has no row for the labels {shown} of {image}")
    return regions, data > 0


def _check_probabilities(image: Path, loaded: Any, regions: tuple[Region, ...], *, may_be_empty: bool) -> Checked:
    """Volume by volume: an atlas may have hundreds."""
    singles = [r for r in regions if is_single(r)]
    if len(singles) != loaded.shape[3]:
        raise ValueError(f"{image} has {loaded.shape[3]} volumes, but the table has {len(singles)} rows")
    total = np.zeros(loaded.shape[:3])
    for values in each_volume(loaded):
        if not np.isfinite(values).all() or values.min() < -SUM_TOLERANCE:
            raise ValueError(f"{image} has values that are no probabilities (0 to 1)")
        total += values
    top = float(total.max())
    if top > 1 + SUM_TOLERANCE:
        percent = "; they look like percent: divide by 100" if 50 < top < 150 else ""
        raise ValueError(f"the probabilities of {image} add up to {top:.4g} in a voxel, more than one{percent}")
    if top < LEAST_TOP and not (may_be_empty and top == 0):
        raise ValueError(f"the probabilities of {image} add up to no more than {top:.4g} anywhere, not to one")
    volume_of = {r.index: number for number, r in enumerate(singles, 1)}
    placed = [Region(r.index, r.name, r.hemisphere, tuple(volume_of[i] for i in r.members)) for r in regions]
    return tuple(placed), total > LEAST_TOP


def _check_place(where: str, image: Path, inside: NDArray[np.bool_], affine: NDArray[np.float64], space: str) -> None:
    """The labels must lie where a brain in MNI space is."""
    indices = np.argwhere(inside)
    if not len(indices):
        raise ValueError(f"{where}: {image} is empty")
    places = indices @ np.asarray(affine)[:3, :3].T + np.asarray(affine)[:3, 3]
    places[:, :2] *= -1
    good = np.all([(places[:, i] > low) & (places[:, i] < high) for i, (low, high) in enumerate(HEAD_LPS_MM)], axis=0)
    if good.mean() < LEAST_INSIDE:
        raise ValueError(
            f"{where}: {100 * (1 - good.mean()):.0f} % of the labels of {image} lie outside a brain in {space}: "
            "it is in another space, or its affine is wrong"
        )


def _check_native_place(
    where: str, image: Path, inside: NDArray[np.bool_], affine: NDArray[np.float64], scan: Path, *, head: bool
) -> None:
    """The labels must lie in the head that a T1w image shows, or in the field of view of a scan."""
    import nibabel as nib

    loaded: Any = nib.load(scan)
    data = as_volume(np.asanyarray(loaded.dataobj)) if head else loaded.dataobj
    shown = share_in(inside, np.asarray(affine), data, loaded.affine, head=head)
    if shown < (LEAST_IN_HEAD if head else LEAST_IN_SCAN):
        what = "the head that" if head else "the field of view of"
        raise ValueError(
            f"{where}: {100 * (1 - shown):.0f} % of the labels of {image} lie outside {what} {scan.name}"
            f"{' shows' if head else ''}: it belongs to another image, or its affine is wrong"
        )
