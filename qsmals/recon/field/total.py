"""What every estimate of the total field returns."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class TotalField:
    """Field of all sources, and how uncertain it is.

    Attributes
    ----------
    field_ppm : (x, y, z) float32
        Deviation of the field relative to the main field, ppm; paramagnetic positive. 0 where nothing was measured.
    noise_ppm : (x, y, z) float32
        Standard deviation of ``field_ppm``, ppm, positive; infinite where nothing was measured, or what was measured
        is of no worth.
    """

    field_ppm: NDArray[np.float32]
    noise_ppm: NDArray[np.float32]


def measured_voxels(field_ppm: NDArray[np.float32], noise_ppm: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Where a field was measured, whatever its worth: it has a noise, or a value other than 0.

    Parameters
    ----------
    field_ppm, noise_ppm : (x, y, z) float32
        As those of :class:`TotalField`.

    Examples
    --------
    >>> measured_voxels(np.array([0.0, 0.0, 0.2]), np.array([0.01, np.inf, np.inf])).tolist()
    [True, False, True]
    """
    return np.isfinite(field_ppm) & (np.isfinite(noise_ppm) | (field_ppm != 0))
