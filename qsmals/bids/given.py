"""Results of other pipelines that replace steps of this one: ``-d NAME=PATH``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from qsmals.anatomy.freesurfer import MAX_DISPLACEMENT_MM, MIN_CORRELATION, Match, find_folder, read_folder, same_head
from qsmals.bids.errors import Fault
from qsmals.bids.layout import GreScan, T1wScan, Unit
from qsmals.bids.naming import natural_key, parse_name

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
    """

    to_t1w: Path | None = None
    to_gre: Path | None = None
    total_field: Path | None = None
    brain_mask: Path | None = None
    transforms: Mapping[str, tuple[Path, Path]] = field(default_factory=dict)

    @property
    def files(self) -> tuple[Path, ...]:
        """All of them."""
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
    t1w: T1wScan, derivatives: Mapping[str, Path], *, spaces: Sequence[str]
) -> tuple[GivenT1w, list[Fault]]:
    """What the folders hold for a T1w image, and what is wrong with it.

    Parameters
    ----------
    t1w : T1wScan
    derivatives : mapping of str to Path
        ``freesurfer`` and ``fastsurfer`` are folders of subjects (SUBJECTS_DIR), every other name a BIDS derivative.
    spaces : sequence of str
        Templates whose transforms are looked for.
    """
    masks: list[Path] = []
    transforms: dict[str, tuple[Path, Path]] = {}
    for name, root in derivatives.items():
        if name not in SEGMENTERS:
            masks += _find(root, t1w, "anat", "mask", IMAGES, {"desc": "brain"})
            transforms = {**_composites(root, t1w, spaces), **transforms}
    given = GivenT1w(brain_mask=masks[0] if masks else None, transforms=transforms)
    faults: list[Fault] = []
    for name in SEGMENTERS:
        if name in derivatives:
            return _with_segmentation(given, t1w, name, derivatives[name], faults), faults
    return given, faults


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
    gre: GreScan, derivatives: Mapping[str, Path], *, spaces: Sequence[str] = (), alone: bool = False
) -> GivenGre:
    """What the folders hold for a gradient-echo scan; brain mask and ``spaces`` only for one ``alone``, without T1w."""
    roots = [root for name, root in derivatives.items() if name not in SEGMENTERS]

    def first(datatype: str, suffix: str, extensions: Sequence[str], **entities: str) -> Path | None:
        wanted = {key.rstrip("_"): value for key, value in entities.items()}
        return next((p for root in roots for p in _find(root, gre, datatype, suffix, extensions, wanted)), None)

    if alone:
        transforms: dict[str, tuple[Path, Path]] = {}
        for root in roots:
            transforms = {**_composites(root, gre, spaces), **transforms}
        return GivenGre(
            total_field=first("fmap", "fieldmap", IMAGES, desc="total"),
            brain_mask=first("anat", "mask", IMAGES, desc="brain", space="MEGRE"),
            transforms=transforms,
        )
    return GivenGre(
        to_t1w=first("anat", "xfm", AFFINES, from_="MEGRE", to="T1w", mode="image"),
        to_gre=first("anat", "xfm", AFFINES, from_="T1w", to="MEGRE", mode="image"),
        total_field=first("fmap", "fieldmap", IMAGES, desc="total"),
    )


def _composites(root: Path, scan: T1wScan | GreScan, spaces: Sequence[str]) -> dict[str, tuple[Path, Path]]:
    """Each template to the transforms to it and back that a folder has for a scan."""
    own, found = "T1w" if isinstance(scan, T1wScan) else "MEGRE", {}
    for space in spaces:
        there = _find(root, scan, "anat", "xfm", COMPOSITES, {"from": own, "to": space, "mode": "image"})
        back = _find(root, scan, "anat", "xfm", COMPOSITES, {"from": space, "to": own, "mode": "image"})
        if there and back:
            found[space] = (there[0], back[0])
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


def _find(
    root: Path,
    scan: T1wScan | GreScan,
    datatype: str,
    suffix: str,
    extensions: Sequence[str],
    entities: Mapping[str, str],
) -> list[Path]:
    """Files of a derivative that belong to a scan: those with most of its entities first.

    A file belongs if it has all of ``entities`` and no entity of the scan with another value; beyond these it may have
    ``space`` for the scan's own space only.
    """
    folders = [root / f"sub-{scan.subject}"]
    folders += [folders[0] / f"ses-{scan.session}"] if scan.session else []
    own = "T1w" if isinstance(scan, T1wScan) else "MEGRE"
    found = []
    for path in (p for folder in folders for p in (folder / datatype).glob(f"sub-{scan.subject}_*")):
        name = parse_name(path.name)
        if name.suffix != suffix or name.extension not in extensions or name.unknown:
            continue
        theirs = dict(name.entities)
        if any(theirs.pop(key, None) != value for key, value in entities.items()):
            continue
        if theirs.pop("space", own) == own and all(scan.entities.get(key) == value for key, value in theirs.items()):
            found.append((-len(theirs), natural_key(path.name), path))
    return [path for _, _, path in sorted(found)]
