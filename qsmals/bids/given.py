"""Results of other pipelines that replace steps of this one: ``-d NAME=PATH``."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from qsmals.anatomy.freesurfer import MAX_DISPLACEMENT_MM, MIN_CORRELATION, Match, find_folder, read_folder, same_head
from qsmals.anatomy.hdf5 import composite_doubt
from qsmals.anatomy.images import as_volume
from qsmals.anatomy.linear import read_affine
from qsmals.anatomy.place import mask_doubt, mask_voxels
from qsmals.bids.derivatives import NAME, is_of_qsmals
from qsmals.bids.errors import Fault
from qsmals.bids.layout import GreScan, T1wScan, Unit
from qsmals.bids.naming import natural_key, parse_name
from qsmals.bids.provenance import sidecar_of

SEGMENTERS = {"freesurfer": "FreeSurfer", "fastsurfer": "FastSurfer"}
"""Names for ``-d`` of the pipelines whose segmentations are taken over, and how they are written."""

IMAGES = (".nii.gz", ".nii")
AFFINES = (".mat", ".txt")
COMPOSITES = (".h5",)


@dataclass(frozen=True)
class GivenT1w:
    """What is already known about a T1w image; None and empty where nothing is.

    Attributes
    ----------
    brain_mask : Path or None
        Positive in the brain, on any grid in the T1w image's coordinates.
    segmentation : Path or None
        FreeSurfer's or FastSurfer's ``aparc+aseg``.
    destrieux : Path or None
        FreeSurfer's ``aparc.a2009s+aseg``.
    transforms : mapping of str to (Path, Path)
        Template to the transforms from T1w to it and back (ITK composites).
    segmenter : str
        Who made the segmentations, a value of `SEGMENTERS`.
    """

    brain_mask: Path | None = None
    segmentation: Path | None = None
    destrieux: Path | None = None
    transforms: Mapping[str, tuple[Path, Path]] = field(default_factory=dict)
    segmenter: str = ""

    @property
    def files(self) -> tuple[Path, ...]:
        """All of them."""
        found = (self.brain_mask, self.segmentation, self.destrieux, *(p for t in self.transforms.values() for p in t))
        return tuple(path for path in found if path)


@dataclass(frozen=True)
class GivenGre:
    """What is already known about a gradient-echo scan.

    Attributes
    ----------
    to_t1w, to_gre : Path or None
        Rigid transform (ITK) that takes GRE images to the T1w grid, or its inverse; one is enough.
    total_field : Path or None
        In Hz on the grid of the scan.
    brain_mask : Path or None
        In the scan's coordinates; for a scan without a T1w image.
    transforms : mapping of str to (Path, Path)
        Template to the transforms from the scan to it and back (ITK composites); for a scan without a T1w image.
    left : tuple of Path
        Field and mask of an earlier run of qsmals, which are not taken.
    """

    to_t1w: Path | None = None
    to_gre: Path | None = None
    total_field: Path | None = None
    brain_mask: Path | None = None
    transforms: Mapping[str, tuple[Path, Path]] = field(default_factory=dict)
    left: tuple[Path, ...] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        """All that are used."""
        found = (self.to_t1w, self.to_gre, self.total_field, self.brain_mask)
        return tuple(path for path in (*found, *(p for t in self.transforms.values() for p in t)) if path)


NO_T1W, NO_GRE = GivenT1w(), GivenGre()
"""Nothing from anywhere else."""


def parse_derivatives(words: Sequence[str]) -> dict[str, Path]:
    """``NAME=PATH`` words as a mapping.

    Raises
    ------
    ValueError
        A word without a name, a name twice, or a path that is no folder.

    Examples
    --------
    >>> parse_derivatives(["freesurfer"])
    Traceback (most recent call last):
    ...
    ValueError: --derivatives freesurfer: write NAME=PATH, as freesurfer=/data/freesurfer
    """
    found: dict[str, Path] = {}
    for word in words:
        name, equals, path = word.partition("=")
        if not equals or not name or not path:
            raise ValueError(f"--derivatives {word}: write NAME=PATH, as freesurfer=/data/freesurfer")
        if name in found:
            raise ValueError(f"--derivatives {word}: {name} is given twice")
        if not Path(path).is_dir():
            raise ValueError(f"--derivatives {word}: there is no folder {path}")
        found[name] = Path(path).absolute()
    return found


def given_for_t1w(
    t1w: T1wScan, derivatives: Mapping[str, Path], *, spaces: Sequence[str], others: Sequence[T1wScan] = ()
) -> tuple[GivenT1w, list[Fault]]:
    """What the folders hold for a T1w image, and what is wrong with it.

    Parameters
    ----------
    t1w : T1wScan
    derivatives : mapping of str to Path
        ``freesurfer`` and ``fastsurfer`` are folders of subjects (SUBJECTS_DIR), every other name a BIDS derivative.
    spaces : sequence of str
        Templates whose transforms are looked for.
    others : sequence of T1wScan
        The subject's T1w images: a file that may be of another one of them as well is refused.
    """
    faults: list[Fault] = []
    searches = [
        _Search(root, t1w, tuple(others), faults) for name, root in derivatives.items() if name not in SEGMENTERS
    ]
    mask = next((found for s in searches if (found := s.first("anat", "mask", IMAGES, {"desc": "brain"}))), None)
    if mask and (fault := _mask_fault(t1w, mask, t1w.file)):
        faults.append(fault)
    given = GivenT1w(brain_mask=mask, transforms=_transforms(searches, spaces))
    for name in SEGMENTERS:
        if name in derivatives:
            return _with_segmentation(given, t1w, name, derivatives[name], faults), faults
    return given, faults


def _mask_fault(scan: T1wScan | GreScan, mask: Path, image: Path) -> Fault | None:
    """A fault where a given brain mask cannot be that of the brain in an image."""
    import nibabel as nib

    try:
        (data, affine), (values, place) = (
            (as_volume(np.asanyarray(loaded.dataobj)), loaded.affine) for loaded in map(nib.load, (image, mask))
        )
        if values.ndim != 3:
            why = f"a brain mask has three dimensions, not {values.ndim}"
        else:
            why = mask_doubt(mask_voxels(values), place, data, affine)
    except (OSError, EOFError, ValueError, zlib.error, nib.filebasedimages.ImageFileError) as error:
        why = f"it cannot be read ({error})"
    remedy = f"Give the mask of {image.name}, or leave it out of the folder given with -d"
    return Fault(scan.subject, "mask", why, remedy, (mask,)) if why else None


def _with_segmentation(given: GivenT1w, t1w: T1wScan, name: str, root: Path, faults: list[Fault]) -> GivenT1w:
    folder = find_folder(root, t1w.subject, t1w.session)
    if folder is None:
        what = f"no folder of sub-{t1w.subject} in {root} (-d {name}=)"
        faults.append(Fault(t1w.subject, "segmentation", what, "Run recon-all for it, or leave the option out"))
        return given
    try:
        found = read_folder(folder)
        match = same_head(t1w.file, found)
    except (OSError, EOFError, ValueError) as error:
        faults.append(Fault(t1w.subject, "segmentation", str(error), "Run recon-all again, or leave the option out"))
        return given
    if why := _of_another_scan(match):
        remedy = f"Give the folder of this subject, session and scan, as {t1w.prefix}, or run recon-all for it"
        faults.append(
            Fault(t1w.subject, "segmentation", f"{folder} was not made from this T1w image: {why}", remedy, (t1w.file,))
        )
        return given
    mask = given.brain_mask or found.brain_mask
    return GivenT1w(mask, found.segmentation, found.destrieux, given.transforms, SEGMENTERS[name])


def _of_another_scan(match: Match) -> str:
    """What speaks against a folder's being made from a T1w image; empty where nothing does."""
    if match.correlation < MIN_CORRELATION:
        return (
            f"wherever one is laid on the other, the two images correlate by {match.correlation:.2f} only in the brain"
        )
    if match.displacement_mm > MAX_DISPLACEMENT_MM:
        return (
            f"it shows the same head {match.displacement_mm:.1f} mm away, as another scan or session does; "
            f"{MAX_DISPLACEMENT_MM:g} mm are allowed"
        )
    return ""


def given_for_gre(
    gre: GreScan,
    derivatives: Mapping[str, Path],
    *,
    spaces: Sequence[str] = (),
    alone: bool = False,
    others: Sequence[GreScan] = (),
) -> tuple[GivenGre, list[Fault]]:
    """What the folders hold for a gradient-echo scan, and what is wrong with it.

    Brain mask and ``spaces`` are looked for only for a scan ``alone``, without T1w image; a file that may be of one of
    the subject's ``others`` as well is refused.

    Of an earlier run of qsmals only the transforms are taken. Its total field follows from its options, and the mask
    that it writes on the scan's grid is what background removal left of the brain: a run that took them over would not
    do what it is asked for, and lose a rim of the brain.
    """
    faults: list[Fault] = []
    left: list[Path] = []
    searches = [
        _Search(root, gre, tuple(others), faults, left) for name, root in derivatives.items() if name not in SEGMENTERS
    ]

    def foreign(datatype: str, suffix: str, **entities: str) -> Path | None:
        return next((p for s in searches if (p := s.first(datatype, suffix, IMAGES, entities, foreign=True))), None)

    total_field = foreign("fmap", "fieldmap", desc="total")
    if alone:
        mask = foreign("anat", "mask", desc="brain", space="MEGRE")
        magnitude = gre.echoes[0].files.get("mag")
        if mask and magnitude and (fault := _mask_fault(gre, mask, magnitude)):
            faults.append(fault)
        given = GivenGre(total_field=total_field, brain_mask=mask, transforms=_transforms(searches, spaces))
    else:
        to_t1w, to_gre = _motion(searches)
        given = GivenGre(to_t1w=to_t1w, to_gre=to_gre, total_field=total_field)
    return replace(given, left=tuple(left)), faults


def _of_qsmals(path: Path, root: Path) -> bool:
    """Whether a file is an output of qsmals, as its sidecar or the description of its data set says."""
    return sidecar_of(path).get("SoftwareName") == NAME or is_of_qsmals(root)


def _motion(searches: Sequence["_Search"]) -> tuple[Path | None, Path | None]:
    """The transforms of a scan to its T1w image and back of the first folder that has one of the two."""
    for search in searches:
        there = search.transform(AFFINES, "MEGRE", "T1w")
        back = search.transform(AFFINES, "T1w", "MEGRE")
        if there or back:
            return there, back
    return None, None


def _transforms(searches: Sequence["_Search"], spaces: Sequence[str]) -> dict[str, tuple[Path, Path]]:
    """Each template to the transforms to it and back that the first folder with both has for a scan."""
    found: dict[str, tuple[Path, Path]] = {}
    for search in reversed(searches):
        for space in spaces:
            there = search.transform(COMPOSITES, search.own, space)
            back = search.transform(COMPOSITES, space, search.own)
            if there and back:
                found[space] = (there, back)
    return found


def missing_transforms(unit: Unit, t1w: GivenT1w, gre: GivenGre, *, spaces: Sequence[str]) -> Fault | None:
    """A fault where ``--skip-registration`` lacks a transform."""
    if unit.t1w:
        prefix, own, known = unit.t1w.prefix, "T1w", t1w.transforms
        lacking = [] if gre.to_t1w or gre.to_gre else [f"from-MEGRE_to-T1w or from-T1w_to-MEGRE of {unit.gre.prefix}"]
    else:
        prefix, own, known, lacking = unit.gre.prefix, "MEGRE", gre.transforms, []
    lacking += [f"from-{own}_to-{s} and from-{s}_to-{own} of {prefix}" for s in spaces if s not in known]
    if not lacking:
        return None
    what = f"--skip-registration needs the transforms {'; '.join(lacking)} (*_mode-image_xfm.*)"
    return Fault(unit.gre.subject, "transform", what, "Give the folder that has them with -d NAME=PATH")


@dataclass(frozen=True)
class _Search:
    """Looks in a BIDS derivative for what belongs to a scan; what is wrong with it is added to ``faults``.

    Outputs of qsmals that are not to be taken are added to ``left``. ``others`` are the subject's scans of this kind;
    whether ``scan`` itself is one of them does not matter.
    """

    root: Path
    scan: T1wScan | GreScan
    others: tuple[T1wScan | GreScan, ...]
    faults: list[Fault]
    left: list[Path] = field(default_factory=list)

    @property
    def own(self) -> str:
        """What ``space``, ``from`` and ``to`` call the scan's space."""
        return "T1w" if isinstance(self.scan, T1wScan) else "MEGRE"

    def first(
        self,
        datatype: str,
        suffix: str,
        extensions: Sequence[str],
        entities: Mapping[str, str],
        *,
        foreign: bool = False,
    ) -> Path | None:
        """The file with most of the scan's entities; None with a fault where it may be of another scan as well.

        A file belongs to a scan if it has all of ``entities`` and no entity of the scan with another value; beyond
        these it may have ``space`` for the scan's own space only. With ``foreign`` outputs of qsmals are left.
        """
        folders = [self.root / f"sub-{self.scan.subject}"]
        folders += [folders[0] / f"ses-{self.scan.session}"] if self.scan.session else []
        found = []
        for path in (p for folder in folders for p in (folder / datatype).glob(f"sub-{self.scan.subject}_*")):
            name = parse_name(path.name)
            if name.suffix != suffix or name.extension not in extensions or name.unknown:
                continue
            theirs = dict(name.entities)
            if any(theirs.pop(key, None) != value for key, value in entities.items()):
                continue
            if theirs.pop("space", self.own) != self.own or not _belongs(theirs, self.scan):
                continue
            if foreign and _of_qsmals(path, self.root):
                self.left.append(path)
            else:
                found.append((-len(theirs), natural_key(path.name), path, theirs))
        if not found:
            return None
        *_, path, theirs = min(found)
        return None if self._is_shared(path, theirs) else path

    def transform(self, extensions: Sequence[str], start: str, end: str) -> Path | None:
        """The transform of images between two spaces; a fault where it is none that ITK reads."""
        path = self.first("anat", "xfm", extensions, {"from": start, "to": end, "mode": "image"})
        if path and (why := transform_doubt(path)):
            remedy = "Convert it to a transform of ITK, or leave it out of the folder given with -d"
            self.faults.append(Fault(self.scan.subject, "transform", why, remedy, (path,)))
        return path

    def _is_shared(self, path: Path, entities: Mapping[str, str]) -> bool:
        """Whether a file was made from several scans, or from another one, for all that its name tells.

        The name that is wholly a scan's own is that of several where other scans have more entities: only this program
        is known to name each file by the one image it was made from.
        """
        owners = [other for other in self.others if _belongs(entities, other)]
        if len(owners) < 2 or (entities == self.scan.entities and is_of_qsmals(self.root)):
            return False
        names = ", ".join(other.prefix for other in owners)
        kind = "T1w images" if self.own == "T1w" else "gradient-echo scans"
        what = f"it may be of any of {len(owners)} {kind} ({names})"
        if self.own == "T1w":
            what += "; pipelines as fMRIPrep make it from their average, which lies in the space of none of them"
        remedy = "Give a file for each of them, with session, acquisition and run in its name, or leave the folder out"
        self.faults.append(Fault(self.scan.subject, "derivative", what, remedy, (path,)))
        return True


def transform_doubt(path: Path) -> str:
    """Why a transform cannot be used; empty where nothing speaks against it."""
    if path.suffix in COMPOSITES:
        return composite_doubt(path)
    try:
        read_affine(path)
    except ValueError as error:
        return str(error)
    return ""


def _belongs(entities: Mapping[str, str], scan: T1wScan | GreScan) -> bool:
    """Whether a scan has all of the entities."""
    return all(scan.entities.get(key) == value for key, value in entities.items())
