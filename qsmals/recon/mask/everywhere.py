"""Masks of the whole head, by the quality of the phase or by the magnitude; the report still covers the brain."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from qsmals.recon.grid import Grid
from qsmals.recon.mask.quality import (
    OTSU_1979,
    THRESHOLD_WORDS,
    FieldMaskParameters,
    FieldMasks,
    around_words,
    field_masks,
)
from qsmals.recon.method import Method


@dataclass(frozen=True)
class QualityMaskParameters:
    """Settings of :func:`quality_everywhere`."""

    fallback_threshold: float = field(
        default=0.3, metadata={"unit": "quality", "source": "the same as of brain-and-quality"}
    )
    largest_drop: float = field(
        default=0.1, metadata={"unit": "fraction of the brain", "source": "the same as of brain-and-quality"}
    )
    close_mm: float = field(default=2.0, metadata={"unit": "mm", "source": "the same as of brain-and-quality"})
    open_mm: float = field(default=1.0, metadata={"unit": "mm", "source": "the same as of brain-and-quality"})
    largest_roughness: float = field(
        default=15.0, metadata={"unit": "times the brain's median", "source": "the same as of brain-and-quality"}
    )

    @property
    def words(self) -> Mapping[str, str]:
        """For the methods text."""
        around = around_words("in the whole head", self.largest_roughness)
        return {"around": around, "drop": f"{100 * self.largest_drop:g} %"}


@dataclass(frozen=True)
class MagnitudeMaskParameters:
    """Settings of :func:`magnitude_everywhere`."""

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
        around = around_words("in the whole head", self.largest_roughness)
        return {"percent": f"{100 * self.signal_fraction:g} %", "around": around}


def quality_everywhere(
    brain_mask: NDArray[np.bool_],
    *,
    quality: NDArray[np.float32] | None,
    magnitude: NDArray[np.float32] | None,
    grid: Grid,
    field_ppm: NDArray[np.float32] | None = None,
    params: QualityMaskParameters | None = None,
) -> FieldMasks:
    """Every voxel of the volume with reliable phase, in one piece with the brain.

    As :func:`quality.field_masks` with no limit to the reach and without the magnitude.

    Parameters
    ----------
    brain_mask : (x, y, z) bool
        The brain, from any source: what is reported, and whose holes are filled.
    quality : (x, y, z) float32 in 0..1
        Phase quality; 0 and NaN mean none.
    magnitude : optional
        Not used by this method.
    grid : Grid
        Voxel size.
    field_ppm : (x, y, z) float32, optional
        Total field, ppm; without it no voxel is left out for its roughness.
    params : QualityMaskParameters, optional
        Settings.

    Returns
    -------
    FieldMasks

    Raises
    ------
    ValueError
        No quality map, empty brain mask, shapes that differ, or no reliable voxel in the brain.
    """
    if quality is None:
        raise ValueError("a mask by phase quality needs the quality map")
    settings = FieldMaskParameters(**vars(params or QualityMaskParameters()), reach_mm=_diagonal_mm(grid))
    return field_masks(brain_mask, quality=quality, magnitude=None, grid=grid, field_ppm=field_ppm, params=settings)


def magnitude_everywhere(
    brain_mask: NDArray[np.bool_],
    *,
    quality: NDArray[np.float32] | None,
    magnitude: NDArray[np.float32] | None,
    grid: Grid,
    field_ppm: NDArray[np.float32] | None = None,
    params: MagnitudeMaskParameters | None = None,
) -> FieldMasks:
    """Every voxel of the volume with signal, in one piece with the brain.

    As :func:`quality.field_masks` with no limit to the reach and without the quality of the phase.

    Parameters
    ----------
    brain_mask : (x, y, z) bool
        The brain, from any source: what is reported, and whose holes are filled.
    quality : optional
        Not used by this method.
    magnitude : (x, y, z) or (x, y, z, e) float32
        Magnitude, any unit; of several echoes the middle one is used.
    grid : Grid
        Voxel size.
    field_ppm : (x, y, z) float32, optional
        Total field, ppm; without it no voxel is left out for its roughness.
    params : MagnitudeMaskParameters, optional
        Settings.

    Returns
    -------
    FieldMasks

    Raises
    ------
    ValueError
        No magnitude, empty brain mask, shapes that differ, or no voxel of the brain with signal.
    """
    if magnitude is None:
        raise ValueError("a mask by magnitude needs the magnitude")
    settings = FieldMaskParameters(**vars(params or MagnitudeMaskParameters()), reach_mm=_diagonal_mm(grid))
    return field_masks(brain_mask, quality=None, magnitude=magnitude, grid=grid, field_ppm=field_ppm, params=settings)


def _diagonal_mm(grid: Grid) -> float:
    return float(np.linalg.norm(np.multiply(grid.shape, grid.voxel_size_mm)))


QUALITY = Method(
    name="quality",
    title="phase quality of the whole head",
    function=quality_everywhere,
    parameters=QualityMaskParameters,
    sentence="Susceptibility was mapped in the brain mask wherever the phase quality was above "
    + THRESHOLD_WORDS
    + ", holes filled.",
    citations=(OTSU_1979,),
)

MAGNITUDE = Method(
    name="magnitude",
    title="magnitude of the whole head",
    function=magnitude_everywhere,
    parameters=MagnitudeMaskParameters,
    sentence="Susceptibility was mapped in the brain mask wherever the magnitude was above {percent} of the brain's "
    "median, holes filled.",
    citations=(),
)
