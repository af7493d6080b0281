"""Which voxels at the brain's surface and around it have a field that a map of the brain can use."""

import numpy as np
from numpy.typing import NDArray

from qsmals.recon.grid import Grid
from qsmals.recon.mask import morphology

Mask = NDArray[np.bool_]


def roughness_ppm(field_ppm: NDArray[np.float32], grid: Grid) -> NDArray[np.float32]:
    """How far a field is from the mean of its six neighbours, which a harmonic field equals.

    Parameters
    ----------
    field_ppm : (x, y, z) float32
        Any field; one of distant sources has no roughness.
    grid : Grid
        Voxel size: near neighbours count more than far ones, by the inverse square of their distance.

    Returns
    -------
    (x, y, z) float32
        Not negative, in the unit of the field. At the edge of the volume the axis that ends there does not count.

    Examples
    --------
    >>> spike = np.zeros((5, 5, 5), dtype=np.float32)
    >>> spike[2, 2, 2] = 0.06
    >>> rough = roughness_ppm(spike, Grid((5, 5, 5), (1, 1, 1)))
    >>> round(float(rough[2, 2, 2]), 3), round(float(rough[1, 2, 2]), 3)
    (0.06, 0.01)
    """
    result = np.zeros_like(field_ppm)
    per_axis = 1.0 / np.square(grid.voxel_size_mm)
    for axis, weight in enumerate(per_axis / (2 * per_axis.sum())):
        line = np.moveaxis(field_ppm, axis, 0)
        bend = 2 * line[1:-1]
        bend -= line[2:]
        bend -= line[:-2]
        np.moveaxis(result, axis, 0)[1:-1] += np.float32(weight) * bend
    return np.abs(result, out=result)


def without_sources(
    mask: Mask,
    brain: Mask,
    *,
    field_ppm: NDArray[np.float32],
    grid: Grid,
    largest_roughness: float,
    trusted_depth_mm: float,
) -> Mask:
    """A mask without the voxels whose field neither the brain nor anything distant makes.

    Fat, bone, air and large veins share voxels with CSF and dura, and the field of such a voxel is no mean of the
    fields in it: it is weighted by a signal that changes from echo to echo, and fat adds its chemical shift. To
    whatever takes the field for that of a map and of distant sources, it is a strong source. Around the brain nothing
    but such sources makes a field rougher than the brain's own by far. Deep inside it veins and bleeds do; there all
    voxels stay. Near its surface a brain mask that is too wide holds the same voxels as its surroundings.

    Parameters
    ----------
    mask, brain : (x, y, z) bool
        Where the field would be used; the brain.
    field_ppm : (x, y, z) float32
        Total field, ppm; values that are not finite are as rough as can be.
    grid : Grid
        Voxel size.
    largest_roughness : float
        In units of the median over the brain within the mask.
    trusted_depth_mm : float
        Voxels of the brain deeper than that stay whatever their field.

    Returns
    -------
    (x, y, z) bool
        At most ``mask``, in one piece.
    """
    rough = roughness_ppm(field_ppm, grid)
    typical = float(np.nanmedian(rough[mask & brain]))
    smooth = rough <= np.float32(largest_roughness * typical)
    trusted = morphology.erode(brain, trusted_depth_mm, grid.voxel_size_mm)
    return morphology.largest_component(mask & (trusted | smooth))
