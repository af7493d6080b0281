"""Cortical labels, fitted to the grey matter that the T1w image shows.

Registration brings a gyrus of the atlas to the right place but not its ribbon, which is two to four millimetres thick
and folded differently in every brain: half of what is labelled cortex is then white matter or fluid, and the mean of
the motor cortex that of a mixture. Which voxels are grey is seen on the image; the atlas only has to say to which gyrus
they belong.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from qsmals.anatomy.tissue import CSF, GREY, WHITE

Labels = NDArray[np.int32]

LARGEST_LOSS_PERCENT = 70.0
"""Loss beyond which a fit is suspect (design choice)."""

NO_TISSUE = 0
FIRST_CORTICAL = 1000
LEFT_WHITE, RIGHT_WHITE = 2, 41
RIGHT_CORTEX = 2000


@dataclass(frozen=True)
class RibbonParameters:
    """Settings of :func:`fit_cortex`."""

    reach_mm: float = field(
        default=2.5, metadata={"unit": "mm", "source": "thickness of the cortex; 4 mm gives the same on 1 head"}
    )


def fit_cortex(
    labels: Labels,
    tissues: Labels,
    *,
    voxel_size_mm: tuple[float, float, float],
    params: RibbonParameters | None = None,
) -> Labels:
    """Move the borders of cortical labels to those of the grey matter.

    Of the cortical labels, voxels of fluid or without a tissue become unlabelled and those of white matter the white
    matter of their hemisphere. Grey voxels that are unlabelled or labelled white matter take the label of the
    nearest cortical voxel within ``reach_mm``. Every other label stays as it is.

    Parameters
    ----------
    labels : (x, y, z) int32
        FreeSurfer's numbers: cortex from 1000 (left) and 2000 (right), 2 and 41 for white matter.
    tissues : (x, y, z) int32
        On the same grid: 0 outside the brain, 1 fluid, 2 grey matter, 3 white matter.
    voxel_size_mm : (3,) float
        Edge lengths.
    params : RibbonParameters, optional
        Reach.

    Returns
    -------
    (x, y, z) int32
        A new array.

    Raises
    ------
    ValueError
        The shapes differ.

    Examples
    --------
    >>> row = np.array([2, 2, 2, 1024, 1024, 0, 0], dtype=np.int32).reshape(-1, 1, 1)
    >>> seen = np.array([3, 3, 2, 2, 1, 1, 2]).reshape(-1, 1, 1)
    >>> fit_cortex(row, seen, voxel_size_mm=(1.0, 1.0, 1.0)).ravel().tolist()
    [2, 2, 1024, 1024, 0, 0, 1024]
    """
    params = params or RibbonParameters()
    if labels.shape != tissues.shape:
        raise ValueError(f"labels {labels.shape} and tissues {tissues.shape} must have one shape")
    fitted = labels.copy()
    cortex = labels >= FIRST_CORTICAL
    if not cortex.any():
        return fitted
    distance, nearest = ndimage.distance_transform_edt(~cortex, sampling=voxel_size_mm, return_indices=True)
    free = np.isin(labels, (0, LEFT_WHITE, RIGHT_WHITE))
    gained = (tissues == GREY) & free & (distance <= params.reach_mm)
    fitted[gained] = labels[tuple(axis[gained] for axis in nearest)]
    fitted[cortex & np.isin(tissues, (NO_TISSUE, CSF))] = 0
    white = cortex & (tissues == WHITE)
    fitted[white] = np.where(labels[white] >= RIGHT_CORTEX, RIGHT_WHITE, LEFT_WHITE)
    return fitted


@dataclass(frozen=True)
class CortexChange:
    """What :func:`fit_cortex` did: cortical voxels lost and gained, % of those before, and what to look at."""

    lost_percent: float
    gained_percent: float
    warnings: tuple[str, ...]


def cortex_change(before: Labels, after: Labels) -> CortexChange:
    """Compare labels before and after the fit.

    A gyrus that loses most of its voxels is a sign of a poor registration or of a poor contrast of grey and white
    matter on the T1w image; the whole cortex losing most of its own, of a failed tissue segmentation.

    Examples
    --------
    >>> change = cortex_change(np.array([1024] * 4), np.array([1024, 0, 0, 0]))
    >>> change.lost_percent, len(change.warnings)
    (75.0, 2)
    """
    cortex, now = before >= FIRST_CORTICAL, after >= FIRST_CORTICAL
    total = max(int(cortex.sum()), 1)
    lost = 100.0 * float((cortex & ~now).sum()) / total
    gained = 100.0 * float((now & ~cortex).sum()) / total
    warnings = []
    if lost > LARGEST_LOSS_PERCENT:
        warnings.append(
            f"{lost:.0f} % of the cortical labels do not lie on grey matter: check registration and T1w image"
        )
    indices, counts = np.unique(before[cortex], return_counts=True)
    left = [float((after[before == index] == index).mean()) for index in indices]
    poor = [
        str(i) for i, part, n in zip(indices, left, counts, strict=True) if 100.0 * (1 - part) > LARGEST_LOSS_PERCENT
    ]
    if poor:
        warnings.append(f"these cortical labels lie mostly outside grey matter: {', '.join(poor)}")
    return CortexChange(round(lost, 1), round(gained, 1), tuple(warnings))
