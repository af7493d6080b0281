"""The brain mask as it is."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qsmals.recon.grid import Grid
from qsmals.recon.mask.quality import FieldMasks
from qsmals.recon.method import Method


@dataclass(frozen=True)
class BrainMaskParameters:
    """The brain mask has no settings."""


def brain_alone(
    brain_mask: NDArray[np.bool_],
    *,
    quality: NDArray[np.float32] | None,
    magnitude: NDArray[np.float32] | None,
    grid: Grid,
    field_ppm: NDArray[np.float32] | None = None,
    params: BrainMaskParameters | None = None,
) -> FieldMasks:
    """The brain mask for everything, whatever the phase is like in it.

    Voxels without any measured phase are left to background removal, which knows the field: see
    :func:`qsmals.recon.background.gaps.bridge_gaps`.

    Parameters
    ----------
    brain_mask : (x, y, z) bool
        The brain, from any source.
    quality, magnitude, field_ppm, params
        Not used by this method.
    grid : Grid
        Voxel size; not used either.

    Returns
    -------
    FieldMasks

    Raises
    ------
    ValueError
        Empty brain mask.
    """
    brain = np.asarray(brain_mask, dtype=bool)
    if not brain.any():
        raise ValueError("the brain mask is empty")
    return FieldMasks(brain=brain, reliable=brain.copy(), quality=brain.copy(), quality_threshold=0.0)


BRAIN = Method(
    name="brain",
    title="T1w brain mask",
    function=brain_alone,
    parameters=BrainMaskParameters,
    sentence="The field was used in the brain mask, as far as it was measured, and nowhere else.",
    citations=(),
)
