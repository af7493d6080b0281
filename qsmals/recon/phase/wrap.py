"""The one function that every phase computation needs."""

import numpy as np
from numpy.typing import NDArray

TWO_PI = np.float32(2.0 * np.pi)


def wrap(angle_rad: NDArray[np.float32]) -> NDArray[np.float32]:
    """Add the multiple of 2 pi that brings an angle to -pi..pi; NaN stays NaN.

    Parameters
    ----------
    angle_rad : array of float32
        Angles, rad.

    Returns
    -------
    array of float32
        A new array of the same shape.

    Examples
    --------
    >>> wrap(np.array([0.5, 4.0, -7.0], dtype=np.float32)).round(3).tolist()
    [0.5, -2.2829999923706055, -0.7170000076293945]
    """
    angle = np.asarray(angle_rad, dtype=np.float32)
    turns: NDArray[np.float32] = np.rint(angle / TWO_PI)
    turns *= -TWO_PI
    turns += angle
    return turns
