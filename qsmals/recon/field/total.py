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
        Standard deviation of ``field_ppm``, ppm, positive; infinite where nothing was measured.
    """

    field_ppm: NDArray[np.float32]
    noise_ppm: NDArray[np.float32]
