"""One volume that stands for the magnitude of all echoes."""

import numpy as np
from numpy.typing import NDArray


def combined_magnitude(magnitude: NDArray[np.float32]) -> NDArray[np.float32]:
    """Root of the mean square over echoes: bright where any echo has signal, anatomy of the early ones.

    Parameters
    ----------
    magnitude : (x, y, z, e) or (x, y, z) float32
        Magnitude, any unit. NaN, infinite and negative values count as 0.

    Returns
    -------
    (x, y, z) float32
        In the magnitude's unit, a new array.

    Raises
    ------
    ValueError
        Another number of dimensions.

    Examples
    --------
    >>> combined_magnitude(np.array([[[[1.0, 7.0]]]], dtype=np.float32)).tolist()
    [[[5.0]]]
    """
    if magnitude.ndim not in (3, 4):
        raise ValueError(f"the magnitude has three or four dimensions, not {magnitude.ndim}")
    echoes = magnitude[..., None] if magnitude.ndim == 3 else magnitude
    power = np.zeros(echoes.shape[:3])
    for echo in range(echoes.shape[3]):
        value = np.nan_to_num(echoes[..., echo].astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
        power += value.clip(min=0) ** 2
    return np.sqrt(power / echoes.shape[3]).astype(np.float32)
