r"""Data term of the nonlinear inversions: the misfit of the complex signal in place of the field.

For a misfit of t radians ``|exp(i D chi) - exp(i f)|^2 = 2 - 2 cos t``: near 0 that is t^2, a jump of the phase by 2 pi
counts as none, and a voxel whose phase is noise counts for no more than 4, but for enough to want a low weight.

All volumes are in ppm; ``s``, in rad/ppm, is the phase of 1 ppm. The term is divided by s^2, which makes it
``W^2 / s^2 (1 - cos(s (D chi - f)))``, and so tends to ``1/2 W^2 (D chi - f)^2`` for small misfits: a regularisation
means the same as in the linear methods.

Liu T, et al. Magn Reson Med 2013;69:467-476. doi:10.1002/mrm.24272
Milovic C, et al. Magn Reson Med 2018;80:814-821. doi:10.1002/mrm.27073
"""

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

Volume = NDArray[np.float32]

RAD_PER_PPM = 15.25
"""Phase of 1 ppm, rad, after an echo time of 19 ms at 3 T: 2 pi gamma B0 TE."""

MEAN_TE_SOURCE = "2 pi gamma B0 TE at the scan's mean echo time; here 3 T and 19 ms"

NEWTON_STEPS = 12
"""Most steps per voxel; two or three are usual, more where the misfit is near half a turn."""

NEWTON_TOLERANCE_RAD = 1e-5
"""A step below this ends Newton's method in a voxel; the resolution of float32 at a few radians."""

TURN = 2.0 * np.pi


@njit(cache=True)  # type: ignore[untyped-decorator]
def nearest_misfit(misfit_rad: float, weight: float, penalty: float) -> float:
    """Phase t with the least ``weight (1 - cos t) + penalty/2 (t - misfit)^2``, rad.

    Whole turns of the misfit are set aside, which leaves r within half a turn. The least value then has its t between
    0 and r, where the derivative is concave and changes sign once: Newton's steps from 0, the first of which is the
    linear solution, approach it from one side and cannot overshoot.
    """
    turns = TURN * np.rint(misfit_rad / TURN)
    rest = misfit_rad - turns
    t = 0.0
    for _ in range(NEWTON_STEPS):
        step = (weight * np.sin(t) + penalty * (t - rest)) / (weight * np.cos(t) + penalty)
        t -= step
        if abs(step) < NEWTON_TOLERANCE_RAD:
            break
    return t + turns


@njit(cache=True, parallel=True)  # type: ignore[untyped-decorator]
def update_phase(
    explained: Volume, local: Volume, power: Volume, mu: float, scale: float, multiplier: Volume, target: Volume
) -> None:
    """As :func:`admm.update_field` with the nonlinear data term: y, its multiplier u, and the next target y - u.

    ``power`` is W^2, ``scale`` s.
    """
    for i in prange(local.shape[0]):
        for j in range(local.shape[1]):
            for k in range(local.shape[2]):
                sum_ = explained[i, j, k] + multiplier[i, j, k]
                y = sum_
                if power[i, j, k] > 0:
                    misfit = scale * (np.float64(sum_) - np.float64(local[i, j, k]))
                    y = local[i, j, k] + np.float32(nearest_misfit(misfit, power[i, j, k], mu) / scale)
                multiplier[i, j, k] = sum_ - y
                target[i, j, k] = y - multiplier[i, j, k]
