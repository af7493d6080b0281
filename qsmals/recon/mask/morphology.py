"""Morphology of masks in millimetres, so that it means the same on voxels of any shape."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from qsmals.recon.grid import bounding_box

Mask = NDArray[np.bool_]
Size = tuple[float, float, float]

TOLERANCE_MM = 1e-4


def dilate(mask: Mask, radius_mm: float, voxel_size_mm: Size) -> Mask:
    """Voxels whose centre is at most ``radius_mm`` from the centre of a voxel of the mask.

    Parameters
    ----------
    mask : (x, y, z) bool
        Any mask; an empty one stays empty.
    radius_mm : float
        0 or more; less than a voxel changes nothing.
    voxel_size_mm : (3,) float
        Edge lengths.

    Examples
    --------
    >>> point = np.zeros((5, 5, 5), dtype=bool)
    >>> point[2, 2, 2] = True
    >>> int(dilate(point, 1.0, (1.0, 1.0, 1.0)).sum()), int(dilate(point, 1.0, (1.0, 1.0, 2.0)).sum())
    (7, 5)
    """
    if radius_mm <= 0 or not mask.any():
        return mask.copy()
    box = _box(mask, radius_mm, voxel_size_mm)
    result = np.zeros_like(mask)
    result[box] = ndimage.distance_transform_edt(~mask[box], sampling=voxel_size_mm) <= radius_mm + TOLERANCE_MM
    return result


def erode(mask: Mask, radius_mm: float, voxel_size_mm: Size) -> Mask:
    """Voxels whose centre is more than ``radius_mm`` from every voxel outside; the volume's edge counts as outside."""
    if radius_mm <= 0 or not mask.any():
        return mask.copy()
    return depth_mm(mask, voxel_size_mm) > radius_mm + TOLERANCE_MM


def depth_mm(mask: Mask, voxel_size_mm: Size) -> NDArray[np.float32]:
    """Distance, mm, from each voxel of the mask to the nearest voxel centre outside; 0 outside the mask.

    Beyond the edge of the volume everything is outside.
    """
    result = np.zeros(mask.shape, dtype=np.float32)
    if not mask.any():
        return result
    box = _box(mask, 0.0, voxel_size_mm)
    inside = np.pad(mask[box], 1)
    result[box] = ndimage.distance_transform_edt(inside, sampling=voxel_size_mm)[1:-1, 1:-1, 1:-1]
    return result


def close(mask: Mask, radius_mm: float, voxel_size_mm: Size) -> Mask:
    """Dilation then erosion; the volume is extended first, so nothing is lost or gained at its edge."""
    pads = [(n, n) for n in (int(np.ceil(radius_mm / size)) + 1 for size in voxel_size_mm)]
    wide = dilate(np.pad(mask, pads), radius_mm, voxel_size_mm)
    closed = erode(wide, radius_mm, voxel_size_mm)
    return closed[tuple(slice(a, -b) for a, b in pads)] | mask


def open_(mask: Mask, radius_mm: float, voxel_size_mm: Size) -> Mask:
    """Erosion then dilation: drops what is thinner than about twice the radius."""
    return dilate(erode(mask, radius_mm, voxel_size_mm), radius_mm, voxel_size_mm) & mask


def largest_component(mask: Mask) -> Mask:
    """The face-connected part with the most voxels (the first of equals); an empty mask stays empty."""
    labels, count = ndimage.label(mask)
    if count < 2:
        return mask.copy()
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return np.asarray(labels == sizes.argmax())


def fill_holes(mask: Mask, largest_mm3: float | None = None, voxel_size_mm: Size = (1.0, 1.0, 1.0)) -> Mask:
    """Fill what is enclosed by the mask (face-connected), up to ``largest_mm3`` each, or all."""
    filled = ndimage.binary_fill_holes(mask)
    if largest_mm3 is None:
        return np.asarray(filled)
    holes, count = ndimage.label(filled & ~mask)
    if count == 0:
        return mask.copy()
    volumes = np.bincount(holes.ravel()) * float(np.prod(voxel_size_mm))
    small = volumes <= largest_mm3
    small[0] = False
    return np.asarray(mask | small[holes])


def _box(mask: Mask, margin_mm: float, voxel_size_mm: Size) -> tuple[slice, slice, slice]:
    """Bounding box of the mask with a margin: distances are only needed there, and cost time."""
    return bounding_box(mask, [int(np.ceil(margin_mm / size)) + 1 for size in voxel_size_mm])
