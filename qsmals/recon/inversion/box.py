"""Inversion on the box of the mask, for a method to which what lies beyond it makes no difference."""

from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from inspect import signature
from typing import Any, ParamSpec

import numpy as np
from numpy.typing import NDArray

from qsmals.recon.grid import box_of
from qsmals.recon.inversion.solution import Susceptibility

P = ParamSpec("P")


def on_box_of_mask(kernel: Callable[P, Susceptibility]) -> Callable[P, Susceptibility]:
    """A dipole inversion that sees the smallest box around its mask, and whose maps have the whole grid again.

    It is for a method that finds any harmonic field together with the susceptibility: the fields of the map's cyclic
    images are harmonic in the mask, and it has a place for them. Other methods take them for susceptibility, and want
    the space that the field of view leaves around the head, often half of it or more.

    Parameters
    ----------
    kernel : callable
        Takes ``mask`` and ``grid``, and volumes of their shape.

    Returns
    -------
    callable
        With the same arguments. Arguments that do not fit together reach the kernel as they are, for it to refuse.
    """
    arguments = signature(kernel)

    @wraps(kernel)
    def cropped(*args: P.args, **kwargs: P.kwargs) -> Susceptibility:
        given = arguments.bind(*args, **kwargs)
        values = given.arguments
        mask, grid = values["mask"], values["grid"]
        volumes = {name: value for name, value in values.items() if isinstance(value, np.ndarray)}
        if not mask.any() or {grid.shape} != {volume.shape for volume in volumes.values()}:
            return kernel(*args, **kwargs)
        box = box_of(mask)
        values.update((name, volume[box].copy(order="K")) for name, volume in volumes.items())
        values["grid"] = replace(grid, shape=values["mask"].shape)
        return _enlarged(kernel(*given.args, **given.kwargs), box, mask)

    return cropped


def _enlarged(solution: Susceptibility, box: tuple[slice, slice, slice], mask: NDArray[np.bool_]) -> Susceptibility:
    """The same with volumes of the mask's shape, in its memory order, 0 beyond the box."""

    def whole(volume: NDArray[np.generic]) -> NDArray[np.generic]:
        result = np.zeros_like(mask, dtype=volume.dtype)
        result[box] = volume
        return result

    volumes: dict[str, Any] = {
        name: whole(value) for name, value in vars(solution).items() if isinstance(value, np.ndarray)
    }
    return replace(solution, **volumes)
