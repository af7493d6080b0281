"""What every unwrapping method returns."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Unwrapped:
    """Phase without wraps, and how far it can be trusted.

    Attributes
    ----------
    phase_rad : (x, y, z, e) float32
        Unwrapped phase, rad; 0 outside the mask and where an input was not finite.
    quality : (x, y, z) float32
        0 (unreliable, or outside the mask) to 1 (reliable).
    """

    phase_rad: NDArray[np.float32]
    quality: NDArray[np.float32]
