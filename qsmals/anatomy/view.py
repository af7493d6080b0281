"""What of each region the field of view of a scan leaves out.

A slab ends somewhere, and a region that goes on beyond its end is whole on the grid of the scan. Its other part is
counted on a grid of the same directions around the whole brain, where labels are only counted: those that are measured
are resampled once, to the grid of the scan.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qsmals.anatomy.images import Image, index_to_physical
from qsmals.anatomy.linear import read_affine
from qsmals.anatomy.registration import resample

STEP_MM = 1.5
"""Edge of the voxels in which regions are counted: the smallest, the red nuclei, have 70 of them."""

MOST_CHANGE = 2.0
"""By what factor the fits to the images are taken to change the volume of a region, at most."""

InView = tuple[int, float, float]
"""A label and its volume, mm^3, in the brain inside the field of view and outside it."""


def grid_around(brain: Image, reference: Image, to_gre: Path) -> Image | None:
    """An empty image around the whole brain, along the axes of the scan.

    Parameters
    ----------
    brain : image
        Positive in the brain, on the T1w grid.
    reference : image
        On the grid of the scan.
    to_gre : Path
        Linear transform of T1w images to the grid of the scan.

    Returns
    -------
    image or None
        Voxels of `STEP_MM`; None where the scan shows all of the brain.
    """
    import ants

    scan = index_to_physical(reference)
    to_index = np.linalg.inv(scan) @ np.linalg.inv(read_affine(to_gre)) @ index_to_physical(brain)
    index = to_index[:3, :3] @ np.argwhere(brain.numpy() > 0).T + to_index[:3, 3:]
    if not index.size:
        return None
    low, high = index.min(axis=1), index.max(axis=1)
    if (low >= -0.5).all() and (high <= np.asarray(reference.shape) - 0.5).all():
        return None
    step = STEP_MM / np.asarray(reference.spacing)
    shape = tuple(int(n) for n in np.ceil((high - low) / step) + 1)
    return ants.from_numpy(
        np.zeros(shape, dtype=np.float32),
        origin=tuple((scan @ [*low, 1.0])[:3]),
        spacing=(STEP_MM,) * 3,
        direction=reference.direction,
    )


def counted(grid: Image, brain: Image, reference: Image, to_gre: Path) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Voxels of a grid in the brain that the scan shows, and those that it does not show."""
    inside = resample(brain, grid, [to_gre], order=0).numpy() > 0
    to_index = np.linalg.inv(index_to_physical(reference)) @ index_to_physical(grid)
    shown = np.ones(grid.shape, dtype=bool)
    for axis, n in enumerate(reference.shape):  # the grids have the same axes
        index = to_index[axis, axis] * np.arange(grid.shape[axis]) + to_index[axis, 3]
        place = [1, 1, 1]
        place[axis] = -1
        shown &= ((index > -0.5) & (index < n - 0.5)).reshape(place)
    return inside & shown, inside & ~shown


def label_volumes(labels: NDArray[np.int32], shown: NDArray[np.bool_], hidden: NDArray[np.bool_]) -> tuple[InView, ...]:
    """Volumes of those labels that are not wholly shown, on the grid of :func:`grid_around`.

    Examples
    --------
    >>> row = np.array([0, 12, 12, 13, 13, 13])
    >>> label_volumes(row, np.arange(6) < 4, np.arange(6) >= 4)
    ((13, 3.375, 6.75),)
    """
    inside, outside = _counts(labels[shown]), _counts(labels[hidden])
    voxel = STEP_MM**3
    return tuple((n, voxel * inside.get(n, 0), voxel * count) for n, count in outside.items() if n)


def _counts(labels: NDArray[np.int32]) -> dict[int, int]:
    """How often each label is there, in their order."""
    values, counts = np.unique(labels, return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


def membership_volumes(
    members: Iterable[NDArray[np.float32]], shown: NDArray[np.bool_], hidden: NDArray[np.bool_]
) -> tuple[InView, ...]:
    """The same of the volumes of a probabilistic atlas, numbered from 1."""
    voxel = STEP_MM**3
    sums = [[voxel * float(m[where].sum(dtype=np.float64)) for where in (shown, hidden)] for m in members]
    return tuple((n, here, there) for n, (here, there) in enumerate(sums, 1) if there)


def volumes_beyond(
    in_view: Sequence[Sequence[float]], *, on_grid_mm3: Mapping[int, float] | None = None
) -> dict[int, float]:
    """Volume of each label outside the field of view, mm^3.

    The fits to grey matter and to susceptibility change a label in the field of view only; by the same factor, up to
    `MOST_CHANGE`, it would have changed outside.

    Parameters
    ----------
    in_view : sequence of InView
        Before the fits.
    on_grid_mm3 : mapping of int to float, optional
        Volume of the labels that are measured, after the fits.

    Examples
    --------
    >>> volumes_beyond([(1024, 1000.0, 500.0), (13, 0.0, 50.0)], on_grid_mm3={1024: 800.0})
    {1024: 400.0, 13: 50.0}
    """
    found = {}
    for label, here, there in in_view:
        now = (on_grid_mm3 or {}).get(int(label), 0.0)
        factor = float(np.clip(now / here, 1 / MOST_CHANGE, MOST_CHANGE)) if here and now else 1.0
        found[int(label)] = factor * float(there)
    return found
