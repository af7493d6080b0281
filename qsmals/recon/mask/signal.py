"""Brain mask and magnitude: voxels with signal in and around the brain."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from qsmals.recon.grid import Grid
from qsmals.recon.mask.quality import FieldMaskParameters, FieldMasks, around_words, field_masks
from qsmals.recon.method import Method


@dataclass(frozen=True)
class SignalMaskParameters:
    """Settings of :func:`brain_with_signal`."""

    reach_mm: float = field(
        default=5.0, metadata={"unit": "mm beyond the brain", "source": "the same as of brain-and-quality"}
    )
    signal_fraction: float = field(
        default=0.15,
        metadata={
            "unit": "fraction of the brain's median magnitude",
            "source": "the same as of brain-and-quality",
        },
    )
    close_mm: float = field(default=2.0, metadata={"unit": "mm", "source": "the same as of brain-and-quality"})
    open_mm: float = field(default=1.0, metadata={"unit": "mm", "source": "the same as of brain-and-quality"})
    largest_roughness: float = field(
        default=15.0, metadata={"unit": "times the brain's median", "source": "the same as of brain-and-quality"}
    )

    @property
    def words(self) -> Mapping[str, str]:
        """For the methods text."""
        around = around_words(f"within {self.reach_mm:g} mm", self.largest_roughness)
        return {"percent": f"{100 * self.signal_fraction:g} %", "around": around}


def brain_with_signal(
    brain_mask: NDArray[np.bool_],
    *,
    quality: NDArray[np.float32] | None,
    magnitude: NDArray[np.float32] | None,
    grid: Grid,
    field_ppm: NDArray[np.float32] | None = None,
    params: SignalMaskParameters | None = None,
) -> FieldMasks:
    """Brain mask and reliable mask from anatomy and magnitude.

    As :func:`quality.field_masks` without the quality of the phase.

    Parameters
    ----------
    brain_mask : (x, y, z) bool
        The brain, from any source.
    quality : (x, y, z) float32, optional
        Not used by this method.
    magnitude : (x, y, z) or (x, y, z, e) float32
        Magnitude, any unit; of several echoes the middle one is used.
    grid : Grid
        Voxel size.
    field_ppm : (x, y, z) float32, optional
        Total field, ppm; without it no voxel is left out for its roughness.
    params : SignalMaskParameters, optional
        Settings.

    Returns
    -------
    FieldMasks

    Raises
    ------
    ValueError
        No magnitude, empty brain mask, shapes that differ, or no voxel of the brain with signal.
    """
    params = params or SignalMaskParameters()
    if magnitude is None:
        raise ValueError("a mask by magnitude needs the magnitude")
    settings = FieldMaskParameters(**vars(params))
    return field_masks(brain_mask, quality=None, magnitude=magnitude, grid=grid, field_ppm=field_ppm, params=settings)


BRAIN_AND_MAGNITUDE = Method(
    name="brain-and-magnitude",
    title="T1w brain mask, as far as there is signal",
    function=brain_with_signal,
    parameters=SignalMaskParameters,
    sentence="Susceptibility was mapped in the brain mask wherever the magnitude was above {percent} of the brain's "
    "median, holes filled.",
    citations=(),
)
