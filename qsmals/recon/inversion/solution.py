"""What every dipole inversion returns, and the checks and shared pieces of all of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from qsmals.recon.convergence import Convergence
from qsmals.recon.dipole import dipole_field
from qsmals.recon.grid import Grid, bounding_box

ONE_STEP = Convergence(iterations=1, changes=(0.0,), tolerance=0.0)
"""Convergence of a method with a closed form."""


@dataclass(frozen=True)
class Susceptibility:
    """Result of a dipole inversion.

    Attributes
    ----------
    chi_ppm : (x, y, z) float32
        Susceptibility, ppm, 0 outside the mask, up to a constant (see :mod:`qsmals.recon.reference`).
    convergence : Convergence
        Iterations and changes.
    mask : (x, y, z) bool or None
        Where the map holds if that is less than the mask given.
    notes : tuple of str
        What a person should know about this map, a sentence each without its full stop.
    residual_ppm : (x, y, z) float32 or None
        What the map, and the background field of a method that finds one, leave of the field, ppm, 0 outside the mask.
    adapted : mapping of str to float
        What the method took from the data: parameters that follow a measured property of the field, and that property,
        with the unit at the end of each name.
    adapted_to : str
        What those parameters follow, in words without a full stop; empty if there are none.
    """

    chi_ppm: NDArray[np.float32]
    convergence: Convergence
    mask: NDArray[np.bool_] | None = None
    notes: tuple[str, ...] = ()
    residual_ppm: NDArray[np.float32] | None = None
    adapted: Mapping[str, float] = field(default_factory=dict)
    adapted_to: str = ""


def stage_notes(reached: Mapping[str, Convergence]) -> tuple[str, ...]:
    """Notes on stages before a method's last one that stopped at their largest number of iterations.

    Parameters
    ----------
    reached : mapping of str to Convergence
        By the stage's name, as a sentence begins with it.

    Examples
    --------
    >>> stage_notes({"the first map": Convergence(5, (0.5, 0.04), 0.01), "the second": Convergence(2, (0.001,), 0.01)})
    ('the first map stopped at its largest number of iterations, 5, at 0.04 before its tolerance of 0.01',)
    """
    return tuple(
        f"{stage} stopped at its largest number of iterations, {stop.iterations}, at {stop.reached:.2g} before its "
        f"tolerance of {stop.tolerance:g}"
        for stage, stop in reached.items()
        if stop.iterations and not stop.converged
    )


def brain_field(solution: Susceptibility, brain: NDArray[np.bool_], grid: Grid) -> NDArray[np.float32]:
    """Local field of the brain by a method that also found what is background.

    It is the field of the brain's own susceptibility, with a mean of 0 there, and what the method leaves unexplained,
    if it tells. Sources around the brain that the mask holds are background to the brain, and no part of it.

    Parameters
    ----------
    solution : Susceptibility
        Of such a method.
    brain : (x, y, z) bool
        The brain, as far as the map goes.
    grid : Grid
        Voxel size and B0 direction.

    Returns
    -------
    (x, y, z) float32, ppm
        0 outside the brain.

    Raises
    ------
    ValueError
        The brain is empty.
    """
    if not brain.any():
        raise ValueError("the brain is empty")
    box = bounding_box(brain)
    inside, chi = brain[box], solution.chi_ppm[box]
    chi = np.where(inside, chi - np.float32(chi[inside].mean(dtype=np.float64)), np.float32(0))
    own = dipole_field(chi, replace(grid, shape=inside.shape))
    if solution.residual_ppm is not None:
        own += solution.residual_ppm[box]
    result = np.zeros_like(brain, dtype=np.float32)
    result[box] = np.where(inside, own, np.float32(0))
    return result


def harmonic_part(harmonic: NDArray[np.bool_] | None, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Where the rest of a field is harmonic: ``harmonic``, or the whole mask where that is not given.

    Raises
    ------
    ValueError
        It has another shape than the mask, or reaches beyond it.
    """
    if harmonic is None:
        return mask
    if harmonic.shape != mask.shape or bool((harmonic & ~mask).any()):
        raise ValueError("where the rest of the field is harmonic must lie in the mask")
    return harmonic


def checked_inputs(
    field_ppm: NDArray[np.float32],
    mask: NDArray[np.bool_],
    grid: Grid,
    weights: NDArray[np.float32] | None,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Field and weights as float32, both 0 outside the mask; the weights divided by their mean over the mask.

    Without weights every voxel of the mask has the weight 1.

    Raises
    ------
    ValueError
        Shapes differ, the mask is empty, NaN in the mask, or weights that are negative or all zero.
    """
    shapes = {field_ppm.shape, mask.shape, grid.shape} | (set() if weights is None else {weights.shape})
    if len(shapes) > 1:
        raise ValueError(f"field, mask, weights and grid must have one shape, not {sorted(shapes)}")
    if not mask.any():
        raise ValueError("the mask is empty")
    field = np.where(mask, field_ppm, 0).astype(np.float32)
    if not np.isfinite(field).all():
        raise ValueError("the local field has NaN or infinity in the mask; exclude those voxels from the mask")
    if weights is None:
        return field, mask.astype(np.float32)
    inside = np.where(mask, weights, 0).astype(np.float32)
    mean = float(inside.sum(dtype=np.float64)) / int(mask.sum())
    if not np.isfinite(mean) or inside.min() < 0 or mean <= 0:
        raise ValueError("weights must be finite, 0 or more and positive somewhere in the mask")
    return field, inside / np.float32(mean)
