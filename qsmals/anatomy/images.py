"""ANTs images from arrays with affines and back, and small geometry on their grids."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

EXACT_LABELS = 2**24
"""Whole numbers below it are float32 without a loss."""

LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])

Image = Any
"""An ``ants.ANTsImage``; named so that this module can be imported without ants."""


def to_ants(data: NDArray[Any], affine: ArrayLike) -> Image:
    """ANTs image of a three-dimensional array.

    Parameters
    ----------
    data : (x, y, z) array
        Booleans and integers become float32, which holds every label below `EXACT_LABELS` exactly.
    affine : (4, 4) array-like
        Voxel to scanner coordinates (RAS+, mm), without shear.

    Raises
    ------
    ValueError
        The array is not three-dimensional, holds NaN or infinity, or the affine is sheared.
    """
    import ants

    data = np.asarray(data)
    if data.ndim != 3:
        raise ValueError(f"an image has three dimensions, not {data.ndim} (shape {data.shape})")
    values = np.ascontiguousarray(data, dtype=np.float32)
    if not np.isfinite(values).all():
        raise ValueError("an image for ANTs has finite values only: replace NaN and infinity before")
    matrix = LPS_FROM_RAS @ np.asarray(affine, dtype=float)
    spacing = np.linalg.norm(matrix[:3, :3], axis=0)
    direction = matrix[:3, :3] / spacing
    if np.abs(direction.T @ direction - np.eye(3)).max() > 1e-3:
        raise ValueError("the voxel axes are not perpendicular (sheared affine): resample the image first")
    # ITK refuses what float32 headers leave of a rotation; the nearest exact one is within 1e-3.
    left, _, right = np.linalg.svd(direction)
    return ants.from_numpy(values, origin=tuple(matrix[:3, 3]), spacing=tuple(spacing), direction=left @ right)


def from_ants(image: Image) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Array (float32) and voxel-to-RAS affine of an ANTs image."""
    return image.numpy().astype(np.float32, copy=False), LPS_FROM_RAS @ index_to_physical(image)


def index_to_physical(image: Image) -> NDArray[np.float64]:
    """(4, 4) matrix from voxel indices to ITK's physical coordinates (LPS+, mm)."""
    matrix = np.eye(4)
    matrix[:3, :3] = np.asarray(image.direction) @ np.diag(image.spacing)
    matrix[:3, 3] = image.origin
    return matrix


def with_data(reference: Image, data: NDArray[Any]) -> Image:
    """Float32 image of ``data`` on the grid of ``reference``."""
    import ants

    return ants.from_numpy(
        np.ascontiguousarray(data, dtype=np.float32),
        origin=reference.origin,
        spacing=reference.spacing,
        direction=reference.direction,
    )


def as_volume(data: NDArray[Any]) -> NDArray[Any]:
    """The array without trailing axes of length 1 after the third, which some converters write."""
    while data.ndim > 3 and data.shape[-1] == 1:
        data = data[..., 0]
    return data


def each_volume(image: Any) -> Iterator[NDArray[Any]]:
    """The volumes of a 4D nibabel image, read one after the other (load it with ``keep_file_open=True``)."""
    for number in range(image.shape[3]):
        yield as_volume(np.asanyarray(image.dataobj[(slice(None),) * 3 + (number,)]))


def same_grid(a: Image, b: Image, *, tolerance_mm: float = 1e-3) -> bool:
    """Whether two images have the same shape and their corners lie within ``tolerance_mm``."""
    if a.shape != b.shape:
        return False
    corners = np.array([[0, 0, 0, 1], [*np.array(a.shape) - 1, 1]], dtype=float).T
    return bool(np.abs((index_to_physical(a) - index_to_physical(b)) @ corners).max() < tolerance_mm)


def resampled(image: Image, voxel_size_mm: float, *, labels: bool = False) -> Image:
    """The image on an isotropic grid of about ``voxel_size_mm``; smoothed first when that is coarser.

    Labels are taken from the nearest voxel and never smoothed.
    """
    import ants

    if not labels:
        sigma = np.maximum(voxel_size_mm / np.array(image.spacing) - 1, 0) * 0.5
        if sigma.max() > 0:
            image = with_data(image, ndimage.gaussian_filter(image.numpy(), sigma))
    return ants.resample_image(image, (voxel_size_mm,) * 3, False, 1 if labels else 0)


def cropped(image: Image, box: tuple[slice, slice, slice]) -> Image:
    """The part of the image inside ``box``, with its origin moved."""
    import ants

    start = np.array([*(s.indices(n)[0] for s, n in zip(box, image.shape, strict=True)), 1.0])
    return ants.from_numpy(
        np.ascontiguousarray(image.numpy()[box], dtype=np.float32),
        origin=tuple((index_to_physical(image) @ start)[:3]),
        spacing=image.spacing,
        direction=image.direction,
    )


def ball(radius_mm: float, spacing: ArrayLike) -> NDArray[np.bool_]:
    """Structuring element: the voxels within ``radius_mm`` of the centre voxel."""
    step = np.asarray(spacing, dtype=float)
    half = np.floor(radius_mm / step).astype(int)
    axes = np.meshgrid(*(np.arange(-h, h + 1) * s for h, s in zip(half, step, strict=True)), indexing="ij")
    return np.asarray(sum(a**2 for a in axes) <= radius_mm**2 + 1e-6)


def distance_mm(mask: NDArray[np.bool_], spacing: ArrayLike) -> NDArray[np.float32]:
    """Signed distance to the edge of a mask, mm, negative inside."""
    step = tuple(np.asarray(spacing, dtype=float))
    outside = ndimage.distance_transform_edt(~mask, sampling=step)
    inside = ndimage.distance_transform_edt(mask, sampling=step)
    return np.asarray(outside - inside, dtype=np.float32)


def largest_component(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The largest face-connected component; an empty mask stays empty."""
    labels, count = ndimage.label(mask)
    if count == 0:
        return mask.copy()
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return np.asarray(labels == sizes.argmax())
