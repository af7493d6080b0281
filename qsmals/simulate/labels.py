"""Label numbers of a simulated head: FreeSurfer's, and a few for what FreeSurfer leaves out."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

CSF = 24
FAT = 119
AIR = 130
BONE = 165
SOFT_TISSUE = 258
VITREOUS = 259
VEIN = 262
SUBSTANTIA_NIGRA = (27, 59)
RED_NUCLEUS = (751, 752)
OUTSIDE_BRAIN = (FAT, AIR, BONE, SOFT_TISSUE, VITREOUS)
MOTOR_CORTEX = (1024, 2024, 1017, 2017)


@dataclass(frozen=True)
class Region:
    """One label: number, name in lower case, hemisphere (L, R or B) and the tissue it is made of."""

    index: int
    name: str
    hemisphere: str
    tissue: str


_CORTEX_NAMES = {
    0: "cortex_unknown",
    1: "bankssts",
    2: "caudal_anterior_cingulate",
    3: "caudal_middle_frontal",
    4: "corpus_callosum",
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
# (left, right, name, tissue)
_PAIRS = (
    (2, 41, "white_matter", "white_matter"),
    (3, 42, "cortex_unparcellated", "cortex"),
    (4, 43, "lateral_ventricle", "csf"),
    (5, 44, "inferior_lateral_ventricle", "csf"),
    (7, 46, "cerebellum_white_matter", "cerebellum_white_matter"),
    (8, 47, "cerebellum_cortex", "cerebellum_cortex"),
    (10, 49, "thalamus", "thalamus"),
    (11, 50, "caudate", "caudate"),
    (12, 51, "putamen", "putamen"),
    (13, 52, "pallidum", "pallidum"),
    (17, 53, "hippocampus", "hippocampus"),
    (18, 54, "amygdala", "amygdala"),
    (78, 79, "white_matter_hypointensities", "white_matter"),
    (81, 82, "non_white_matter_hypointensities", "csf"),
    (26, 58, "accumbens", "accumbens"),
    (28, 60, "ventral_diencephalon", "ventral_diencephalon"),
    (30, 62, "vessel", "csf"),
    (31, 63, "choroid_plexus", "choroid_plexus"),
    (*SUBSTANTIA_NIGRA, "substantia_nigra", "substantia_nigra"),
    (*RED_NUCLEUS, "red_nucleus", "red_nucleus"),
)
_SINGLE = (
    (14, "third_ventricle", "csf"),
    (15, "fourth_ventricle", "csf"),
    (16, "brainstem", "brainstem"),
    (CSF, "csf", "csf"),
    (72, "fifth_ventricle", "csf"),
    (192, "corpus_callosum", "corpus_callosum"),
    (77, "white_matter_hypointensities", "white_matter"),
    (80, "non_white_matter_hypointensities", "csf"),
    (85, "optic_chiasm", "white_matter"),
    (FAT, "fat", "fat"),
    (AIR, "air", "air"),
    (BONE, "bone", "bone"),
    (251, "corpus_callosum_posterior", "corpus_callosum"),
    (252, "corpus_callosum_mid_posterior", "corpus_callosum"),
    (253, "corpus_callosum_central", "corpus_callosum"),
    (254, "corpus_callosum_mid_anterior", "corpus_callosum"),
    (255, "corpus_callosum_anterior", "corpus_callosum"),
    (SOFT_TISSUE, "soft_tissue", "soft_tissue"),
    (VITREOUS, "vitreous", "csf"),
    (VEIN, "vein", "vein"),
)


def _cortex() -> list[Region]:
    """Cortical regions of the Desikan-Killiany atlas, both hemispheres."""
    regions = []
    for offset, side in ((1000, "L"), (2000, "R")):
        for number, name in _CORTEX_NAMES.items():
            tissue = "motor_cortex" if offset + number in MOTOR_CORTEX else "cortex"
            tissue = "corpus_callosum" if name == "corpus_callosum" else tissue
            regions.append(Region(offset + number, name, side, tissue))
    return regions


def _build() -> dict[int, Region]:
    """Every label that a head may hold, by number."""
    regions = [Region(i, name, side, t) for a, b, name, t in _PAIRS for i, side in ((a, "L"), (b, "R"))]
    regions += [Region(i, name, "B", t) for i, name, t in _SINGLE]
    return {r.index: r for r in sorted(regions + _cortex(), key=lambda r: r.index)}


REGIONS: dict[int, Region] = _build()
"""Regions by label number."""


def check_labels(labels: ArrayLike) -> None:
    """Raise a ValueError naming the labels (0 apart) that no region describes."""
    unknown = [int(i) for i in np.unique(np.asarray(labels)) if i and int(i) not in REGIONS]
    if unknown:
        raise ValueError(
            f"the segmentation holds labels that are not FreeSurfer's aparc+aseg: {unknown[:10]}; "
            "give the aparc+aseg (Desikan-Killiany) volume of the same head"
        )


def tissue_index(labels: NDArray[np.integer], tissues: tuple[str, ...]) -> NDArray[np.uint8]:
    """Position of each voxel's tissue in ``tissues``.

    Parameters
    ----------
    labels : (x, y, z) integer
        Label numbers, all of them in ``REGIONS``.
    tissues : tuple of str
        Names of tissues, at most 255.

    Returns
    -------
    (x, y, z) uint8
    """
    table = np.zeros(max(REGIONS) + 1, np.uint8)
    for region in REGIONS.values():
        table[region.index] = tissues.index(region.tissue)
    result: NDArray[np.uint8] = table[labels]
    return result
