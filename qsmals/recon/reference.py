"""The zero of a susceptibility map, which the field does not determine."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

WHITE_MATTER = (2, 41)
CSF = (4, 43)
"""FreeSurfer's numbers of cerebral white matter, and of the lateral ventricles."""

DEFINITIONS = {
    "brain": "all voxels with a susceptibility, those of the mask desc-brain",
    "csf": "core of the lateral ventricles: their labels without the outermost layer of voxels",
    "wm": "core of cerebral white matter: its labels without the outermost layer of voxels",
}
"""What the regions of :func:`reference_regions` are, in words."""


@dataclass(frozen=True)
class ReferenceOffset:
    """Susceptibility of a region that could serve as reference, in a map referenced to the whole brain.

    Attributes
    ----------
    mean_ppm, sd_ppm : float or None
        Mean and standard deviation over the region, ppm; subtract the mean to reference the map
        to the region. None where the region could not be measured.
    n_voxels : int
        Voxels with a finite value.
    reason : str
        Why there is no mean, empty if there is one.
    """

    mean_ppm: float | None
    sd_ppm: float | None
    n_voxels: int
    reason: str = ""


def region_core(labels: NDArray[np.integer], numbers: Sequence[int]) -> NDArray[np.bool_]:
    """Voxels of some labels that do not touch another one with a face: free of the neighbours' partial volume.

    Parameters
    ----------
    labels : (x, y, z) int
        Label image; beyond its edge everything is another label.
    numbers : sequence of int
        Labels that make up the region, e.g. `WHITE_MATTER`.

    Returns
    -------
    (x, y, z) bool

    Examples
    --------
    >>> labels = np.zeros((5, 5, 5), dtype=np.int32)
    >>> labels[1:4, 1:4, 1:4] = 2
    >>> np.argwhere(region_core(labels, WHITE_MATTER)).tolist()
    [[2, 2, 2]]
    """
    return np.asarray(ndimage.binary_erosion(np.isin(labels, numbers)))


def reference_regions(labels: NDArray[np.integer], measured: NDArray[np.bool_]) -> dict[str, NDArray[np.bool_]]:
    """The regions to which a map can be referenced: all measured voxels, and the cores of CSF and white matter.

    Parameters
    ----------
    labels : (x, y, z) int
        Regions, FreeSurfer's numbers.
    measured : (x, y, z) bool
        Brain voxels with a susceptibility.

    Returns
    -------
    dict of str to (x, y, z) bool
        ``brain``, ``csf`` (lateral ventricles) and ``wm``, each within ``measured``.

    Raises
    ------
    ValueError
        Shapes differ.
    """
    if labels.shape != measured.shape:
        raise ValueError(f"the labels have shape {labels.shape}, the measured voxels {measured.shape}")
    return {
        "brain": measured,
        "csf": region_core(labels, CSF) & measured,
        "wm": region_core(labels, WHITE_MATTER) & measured,
    }


def reference_to(chi_ppm: NDArray[np.float32], region: NDArray[np.bool_]) -> tuple[NDArray[np.float32], float]:
    """Shift a map so that its mean over a region is zero.

    Parameters
    ----------
    chi_ppm : (x, y, z) float32
        Susceptibility, ppm. NaN stays NaN and does not count in the mean.
    region : (x, y, z) bool
        The reference: the brain mask by default of the program, as the consensus recommends.

    Returns
    -------
    chi_ppm : (x, y, z) float32
        The map minus the offset at every voxel, those outside the region too.
    offset_ppm : float
        Mean over the region before the shift.

    Raises
    ------
    ValueError
        Shapes differ, or the region has no finite voxel.

    References
    ----------
    QSM Consensus Organization Committee, Bilgic B, et al. Magn Reson Med 2024;91:1834-1862. doi:10.1002/mrm.30006

    Examples
    --------
    >>> reference_to(np.array([[[1.0, 3.0]]], dtype=np.float32), np.array([[[True, True]]]))[1]
    2.0
    """
    values = _finite(chi_ppm, region)
    if values.size == 0:
        raise ValueError("the reference region has no voxel with a susceptibility")
    offset = float(values.mean(dtype=np.float64))
    return chi_ppm - chi_ppm.dtype.type(offset), offset


def reference_offsets(
    chi_ppm: NDArray[np.float32], regions: Mapping[str, NDArray[np.bool_] | None], min_voxels: int = 10
) -> dict[str, ReferenceOffset]:
    """Mean and standard deviation of candidate references, e.g. CSF and white matter.

    Parameters
    ----------
    chi_ppm : (x, y, z) float32
        Susceptibility referenced to the whole brain, ppm. NaN does not count.
    regions : mapping of str to (x, y, z) bool or None
        Masks by name; None for a region that was not found.
    min_voxels : int
        Fewer voxels than this are no reference.

    Returns
    -------
    dict of str to ReferenceOffset
        In the order given.
    """
    return {name: _offset(chi_ppm, region, min_voxels) for name, region in regions.items()}


def _offset(chi_ppm: NDArray[np.float32], region: NDArray[np.bool_] | None, min_voxels: int) -> ReferenceOffset:
    if region is None:
        return ReferenceOffset(None, None, 0, "the region was not found")
    values = _finite(chi_ppm, region)
    if values.size < max(min_voxels, 1):
        return ReferenceOffset(None, None, values.size, f"the region has {values.size} of at least {min_voxels} voxels")
    mean = float(values.mean(dtype=np.float64))
    sd = float(values.std(dtype=np.float64, ddof=1)) if values.size > 1 else 0.0
    return ReferenceOffset(mean, sd, values.size)


def _finite(chi_ppm: NDArray[np.float32], region: NDArray[np.bool_]) -> NDArray[np.float32]:
    if chi_ppm.shape != region.shape:
        raise ValueError(f"the map has shape {chi_ppm.shape}, the region {region.shape}")
    values = chi_ppm[region]
    return np.asarray(values[np.isfinite(values)])
