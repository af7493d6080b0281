"""Which voxels around the brain have a field that a map of the brain can use."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from qsmals.recon.grid import Grid

Mask = NDArray[np.bool_]


def roughness_ppm(field_ppm: NDArray[np.float32], mask: Mask, grid: Grid) -> NDArray[np.float32]:
    """How far a field is from the mean of its six neighbours, which a harmonic field equals.

    Parameters
    ----------
    field_ppm : (x, y, z) float32
        Any field; one of distant sources has no roughness.
    mask : (x, y, z) bool
        Where it is known. An axis along which a neighbour is not counts as straight.
    grid : Grid
        Voxel size: near neighbours count more than far ones, by the inverse square of their distance.

    Returns
    -------
    (x, y, z) float32
        Not negative, in the unit of the field.

    Examples
    --------
    >>> spike = np.zeros((5, 5, 5), dtype=np.float32)
    >>> spike[2, 2, 2] = 0.06
    >>> rough = roughness_ppm(spike, np.ones((5, 5, 5), dtype=bool), Grid((5, 5, 5), (1, 1, 1)))
    >>> round(float(rough[2, 2, 2]), 3), round(float(rough[1, 2, 2]), 3)
    (0.06, 0.01)
    """
    result = np.zeros_like(field_ppm)
    per_axis = 1.0 / np.square(grid.voxel_size_mm)
    for axis, weight in enumerate(per_axis / (2 * per_axis.sum())):
        line, known = np.moveaxis(field_ppm, axis, 0), np.moveaxis(mask, axis, 0)
        bend = 2 * line[1:-1]
        bend -= line[2:]
        bend -= line[:-2]
        bend[~(known[2:] & known[:-2])] = 0
        np.moveaxis(result, axis, 0)[1:-1] += np.float32(weight) * bend
    return np.abs(result, out=result)


def without_sources(
    mask: Mask, brain: Mask, *, field_ppm: NDArray[np.float32], grid: Grid, largest_roughness: float
) -> Mask:
    """A mask without the voxels around the brain whose field neither tissue nor anything distant makes.

    Fat, bone, air and large veins share voxels with CSF and dura, and the field of such a voxel is no mean of the
    fields in it: it is weighted by a signal that changes from echo to echo, and fat adds its chemical shift. To
    whatever takes the field for that of a map and of distant sources, it is a strong source. Around the brain nothing
    but such sources makes a field rougher than the brain's own by far. In the brain veins and bleeds do, and all of it
    stays.

    Parameters
    ----------
    mask, brain : (x, y, z) bool
        Where the field would be used; the brain.
    field_ppm : (x, y, z) float32
        Total field, ppm. Where it is 0 or not finite it was not measured, and is not judged.
    grid : Grid
        Voxel size.
    largest_roughness : float
        In units of the median over the brain within the mask.

    Returns
    -------
    (x, y, z) bool
        At most ``mask``; of the surroundings what hangs together with the brain.
    """
    judged = mask & np.isfinite(field_ppm) & (field_ppm != 0)
    if not (judged & brain).any():
        return mask.copy()
    rough = roughness_ppm(field_ppm, judged, grid)
    typical = float(np.median(rough[judged & brain]))
    kept = mask & (brain | ~judged | (rough <= np.float32(largest_roughness * typical)))
    parts, count = ndimage.label(kept)
    wanted = np.zeros(count + 1, dtype=bool)
    wanted[parts[kept & brain]] = True
    return np.asarray(wanted[parts])
