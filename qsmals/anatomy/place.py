"""Whether labels and masks lie in the head that an image shows."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from qsmals.anatomy.bias import foreground

COARSE_MM, CLOSED_MM = 3.0, 12.0
"""Voxels in which the head is found, and the gaps in it that are closed: fluid and air are dark on a T1w image."""

MOST_POINTS = 50_000
"""Voxels of a label image or a mask whose place is looked at."""

LEAST_MASK_ML, MOST_BRAIN_ML = 100.0, 2500.0
"""A mask may be of a part of the brain, in a slab; there is no larger brain."""

LEAST_MASK_IN_HEAD = 0.8
"""Share of the voxels of a brain mask that must lie in the head: fluid at the edge of a brain-only image is dark."""

INTENSITY = 20.0
"""A mask whose largest value is above it is an image of intensities."""


def coarse_head(data: NDArray[Any], voxel_size_mm: Sequence[float]) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Where the head (or the brain, if there is no more of it) lies in a T1w image.

    Parameters
    ----------
    data : (x, y, z) array
        Brightness.
    voxel_size_mm : (3,) sequence of float

    Returns
    -------
    step : (3,) int
        Voxels of the image to one of the mask.
    mask : (i, j, k) bool
        In voxels of about `COARSE_MM`, gaps up to `CLOSED_MM` closed.
    """
    step = np.maximum(1, np.rint(COARSE_MM / np.asarray(voxel_size_mm, dtype=float)).astype(int))
    bright = foreground(np.asarray(data[:: step[0], :: step[1], :: step[2]], dtype=np.float32))
    times = round(CLOSED_MM / COARSE_MM / 2)
    padded = ndimage.binary_closing(np.pad(bright, times), iterations=times)
    return step, ndimage.binary_fill_holes(padded)[(slice(times, -times),) * 3]


def share_in(
    inside: NDArray[np.bool_],
    affine: NDArray[np.float64],
    data: NDArray[Any],
    data_affine: NDArray[np.float64],
    *,
    head: bool,
) -> float:
    """Share of the voxels of a mask that lie in the head that an image shows, or in its field of view.

    Parameters
    ----------
    inside : (x, y, z) bool
        The mask, not empty.
    affine, data_affine : (4, 4) array
        Voxels of the mask and of the image to coordinates that they share, mm.
    data : (i, j, k) array
        The image; looked at only for the ``head``.
    head : bool
        Whether voxels in the field of view, but outside the head, lie outside.
    """
    indices = np.argwhere(inside)
    indices = indices[:: max(1, len(indices) // MOST_POINTS)]
    to_image = np.linalg.inv(data_affine) @ np.asarray(affine)
    index = np.rint(indices @ to_image[:3, :3].T + to_image[:3, 3]).astype(int)
    shown = np.all((index >= 0) & (index < data.shape[:3]), axis=1)
    if head:
        step, mask = coarse_head(data, np.linalg.norm(data_affine[:3, :3], axis=0).tolist())
        shown[shown] = mask[tuple((index[shown] // step).T)]
    return float(shown.mean())


def mask_voxels(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Voxels of a brain mask.

    An image of intensities, as FreeSurfer's brainmask, is a mask where it is more than the 1 that marks what was edited
    out.
    """
    return np.asarray(values > (1.5 if values.max() > INTENSITY else 0.5))


def mask_doubt(
    inside: NDArray[np.bool_],
    affine: NDArray[np.float64],
    data: NDArray[Any],
    data_affine: NDArray[np.float64],
) -> str:
    """Why a mask cannot be that of the brain in an image; empty where nothing speaks against it.

    Parameters
    ----------
    inside : (x, y, z) bool
        The mask; a part of the brain is enough.
    affine, data_affine : (4, 4) array
        Voxels of mask and image to coordinates that they share, mm.
    data : (i, j, k) array
        The image, brighter in the head than in the air.

    Examples
    --------
    >>> mask_doubt(np.zeros((9, 9, 9), bool), np.eye(4), np.ones((9, 9, 9)), np.eye(4))
    'the brain mask is empty'
    """
    if not inside.any():
        return "the brain mask is empty"
    volume_ml = float(inside.sum()) * abs(float(np.linalg.det(affine[:3, :3]))) / 1000
    if not LEAST_MASK_ML <= volume_ml <= MOST_BRAIN_ML:
        return f"the brain mask has {volume_ml:.0f} ml, outside {LEAST_MASK_ML:.0f} to {MOST_BRAIN_ML:.0f}"
    share = share_in(inside, affine, data, data_affine, head=True)
    if share < LEAST_MASK_IN_HEAD:
        return f"{100 * (1 - share):.0f} % of the brain mask lie outside the head that the image shows"
    return ""
