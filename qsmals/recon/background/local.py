"""What every background removal returns, and the checks that all of them make first."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qsmals.recon.convergence import Convergence
from qsmals.recon.grid import Grid


@dataclass(frozen=True)
class LocalField:
    """Field of the sources inside the mask.

    Attributes
    ----------
    field_ppm : (x, y, z) float32
        Local field, ppm, 0 outside the mask.
    mask : (x, y, z) bool
        Where the method could separate the local field; at most the mask it was given.
    known : (x, y, z) bool or None
        Where ``field_ppm`` is the total field less a function that is harmonic in ``mask``, if that is more than
        ``mask``: for an inversion that finds background itself (`Method.finds_background`).
    convergence : Convergence or None
        What an iterative method reached; None for a direct one.
    """

    field_ppm: NDArray[np.float32]
    mask: NDArray[np.bool_]
    convergence: Convergence | None = None
    known: NDArray[np.bool_] | None = None

    def to_invert(self, *, finds_background: bool) -> tuple[NDArray[np.bool_], dict[str, NDArray[np.bool_]]]:
        """Mask of an inversion of this field, and the arguments that it takes beyond those that all have.

        An inversion that finds background itself takes ``known`` as its mask where there is one, and is told by its
        argument ``harmonic`` that the rest of the field is harmonic in ``mask`` alone.
        """
        if finds_background and self.known is not None:
            return self.known, {"harmonic": self.mask}
        return self.mask, {}


def checked_field(field_ppm: NDArray[np.float32], mask: NDArray[np.bool_], grid: Grid) -> NDArray[np.float32]:
    """The field as float32 with 0 outside the mask.

    Raises
    ------
    ValueError
        Shapes differ, the mask is empty, or the field has a NaN or infinity inside the mask.
    """
    if field_ppm.shape != grid.shape or mask.shape != grid.shape:
        raise ValueError(f"field {field_ppm.shape}, mask {mask.shape} and grid {grid.shape} must have one shape")
    if not mask.any():
        raise ValueError("the mask is empty")
    field = np.where(mask, field_ppm, 0).astype(np.float32)
    bad = int(np.count_nonzero(~np.isfinite(field)))
    if bad:
        raise ValueError(f"the field is not finite in {bad} voxels of the mask; exclude them from the mask")
    return field
