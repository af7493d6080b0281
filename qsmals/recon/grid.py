"""The sampling grid of a volume and the direction of the main field in it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage


@dataclass(frozen=True)
class Grid:
    """Geometry that the physics needs, in place of three arguments.

    Attributes
    ----------
    shape : tuple of int, (3,)
        Number of voxels along each array axis.
    voxel_size_mm : tuple of float, (3,)
        Edge length of a voxel along each array axis, mm, all positive.
    b0_direction : tuple of float, (3,)
        Unit vector of the main field in voxel axes. Its sign has no effect.
    """

    shape: tuple[int, int, int]
    voxel_size_mm: tuple[float, float, float]
    b0_direction: tuple[float, float, float] = (0.0, 0.0, 1.0)

    def __post_init__(self) -> None:
        if len(self.shape) != 3 or min(self.shape) < 1:
            raise ValueError(f"a grid has three positive sizes, not {self.shape}")
        if len(self.voxel_size_mm) != 3 or min(self.voxel_size_mm) <= 0:
            raise ValueError(f"a grid has three positive voxel sizes, not {self.voxel_size_mm}")
        length = float(np.linalg.norm(self.b0_direction))
        if len(self.b0_direction) != 3 or abs(length - 1) > 1e-4:
            raise ValueError(f"the B0 direction is a unit vector, not {self.b0_direction}")

    @classmethod
    def from_affine(cls, shape: tuple[int, ...], affine: ArrayLike) -> "Grid":
        """Grid of a scanner image whose world z axis is the main field.

        Parameters
        ----------
        shape : sequence of int
            Array shape; axes after the third are ignored.
        affine : (4, 4) array-like
            Voxel to scanner coordinates (RAS+, mm).

        Examples
        --------
        >>> Grid.from_affine((4, 5, 6, 3), np.diag([1, 1, 2, 1])).voxel_size_mm
        (1.0, 1.0, 2.0)
        """
        nx, ny, nz = shape[:3]
        size = voxel_size_mm(affine)
        return cls((nx, ny, nz), size, b0_direction(affine))


def voxel_size_mm(affine: ArrayLike) -> tuple[float, float, float]:
    """Edge lengths of a voxel, mm, from a (4, 4) voxel-to-scanner affine."""
    x, y, z = np.linalg.norm(np.asarray(affine, dtype=float)[:3, :3], axis=0)
    return float(x), float(y), float(z)


def b0_direction(affine: ArrayLike) -> tuple[float, float, float]:
    """Unit vector, in voxel axes, of the scanner's z axis (the main field).

    Parameters
    ----------
    affine : (4, 4) array-like
        Voxel to scanner coordinates (RAS+, mm), without shear.

    Examples
    --------
    >>> b0_direction(np.eye(4))
    (0.0, 0.0, 1.0)
    """
    matrix: NDArray[np.float64] = np.asarray(affine, dtype=float)[:3, :3]
    rotation = matrix / np.linalg.norm(matrix, axis=0)
    x, y, z = np.linalg.solve(rotation, np.array([0.0, 0.0, 1.0]))
    norm = float(np.sqrt(x * x + y * y + z * z))
    return float(x) / norm, float(y) / norm, float(z) / norm


def bounding_box(mask: NDArray[np.bool_], margin: ArrayLike = 0) -> tuple[slice, slice, slice]:
    """Slices around the true voxels with ``margin`` voxels more on each side (one number or three), within the volume.

    Examples
    --------
    >>> bounding_box(np.eye(3, dtype=bool)[..., None], (1, 0, 0))
    (slice(0, 3, None), slice(0, 3, None), slice(0, 1, None))

    Raises
    ------
    ValueError
        The mask is empty.
    """
    found = ndimage.find_objects(mask.astype(np.uint8))
    if not found:
        raise ValueError("the mask is empty")
    margins = np.broadcast_to(np.ceil(np.asarray(margin, dtype=float)).astype(int), 3)
    x, y, z = (
        slice(max(s.start - m, 0), min(s.stop + m, n))
        for s, m, n in zip(found[0], margins.tolist(), mask.shape, strict=True)
    )
    return x, y, z
