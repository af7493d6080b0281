"""First linear alignment of two images from many starts, by mutual information of sampled points.

Coordinates are ITK's physical ones (LPS+, mm). A linear map takes points of the fixed image to points of
the moving image, as ITK's transforms do.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, optimize

Array = NDArray[np.float64]

BINS = 24
"""Intensity classes of both images."""


@dataclass(frozen=True)
class Sampled:
    """Points of the fixed image with their intensity classes.

    Attributes
    ----------
    points_mm : (n, 3) array
        Physical coordinates.
    classes : (n,) array of int
        Intensity bin of the fixed image at each point.
    """

    points_mm: Array
    classes: NDArray[np.intp]


@dataclass(frozen=True)
class Volume:
    """A smooth moving image, binned for mutual information: array, and physical-to-index matrix (4, 4)."""

    data: NDArray[np.float32]
    to_index: Array
    bins: int


def sample(
    data: NDArray[np.float32],
    to_physical: Array,
    mask: NDArray[np.bool_],
    *,
    count: int,
    bins: int,
    rng: np.random.Generator,
) -> Sampled:
    """Draw up to ``count`` voxels of ``mask`` and sort their intensities into ``bins`` of equal width.

    Raises
    ------
    ValueError
        The mask holds fewer than 100 voxels.
    """
    indices = np.argwhere(mask)
    if len(indices) < 100:
        raise ValueError(f"only {len(indices)} voxels to align an image with: is it empty?")
    chosen = indices[np.sort(rng.permutation(len(indices))[:count])]
    points = chosen @ to_physical[:3, :3].T + to_physical[:3, 3]
    return Sampled(points, classes(data[tuple(chosen.T)], bins))


def classes(values: NDArray[np.float32], bins: int) -> NDArray[np.intp]:
    """Bin numbers 0 .. bins-1 of equal width between the 0.5th and 99.5th percentile."""
    low, high = np.percentile(values, [0.5, 99.5])
    scaled = (values - low) / max(float(high - low), 1e-12) * bins
    return np.clip(scaled, 0, bins - 1).astype(np.intp)


def volume(data: NDArray[np.float32], to_physical: Array, mask: NDArray[np.bool_], *, bins: int) -> Volume:
    """Prepare a moving image: intensities scaled to 0 .. bins-1 between its percentiles inside ``mask``."""
    low, high = np.percentile(data[mask], [0.5, 99.5])
    scaled = np.clip((data - low) / max(float(high - low), 1e-12) * (bins - 1), 0, bins - 1)
    return Volume(scaled.astype(np.float32), np.asarray(np.linalg.inv(to_physical), dtype=np.float64), bins)


def mutual_information(a: NDArray[np.intp], b: NDArray[np.intp], bins: int) -> float:
    """Mutual information of two sets of bin numbers, in nats.

    Examples
    --------
    >>> import numpy as np
    >>> round(mutual_information(np.array([0, 0, 1, 1]), np.array([1, 1, 0, 0]), 2), 4)
    0.6931
    """
    joint = np.bincount(a * bins + b, minlength=bins * bins).reshape(bins, bins) / len(a)
    outer = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    filled = joint > 0
    return float((joint[filled] * np.log(joint[filled] / outer[filled])).sum())


def similarity_matrix(parameters: Array, centre_mm: Array) -> Array:
    """(4, 4) map of a rotation (three angles, rad, about x, y, z), a shift (mm) and a log scale.

    The rotation and the scale are about ``centre_mm`` (of the fixed image). Six parameters mean scale 1.
    """
    (cx, cy, cz), (sx, sy, sz) = np.cos(parameters[:3]), np.sin(parameters[:3])
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    scale = np.exp(parameters[6]) if len(parameters) > 6 else 1.0
    matrix = np.eye(4)
    matrix[:3, :3] = scale * (about_z @ about_y @ about_x)
    matrix[:3, 3] = centre_mm + parameters[3:6] - matrix[:3, :3] @ centre_mm
    return matrix


def alignment(fixed: Sampled, moving: Volume, matrix: Array) -> float:
    """Mutual information of the sampled points with the moving image under ``matrix``, nats.

    Points that leave the moving image count as its darkest class.
    """
    to_index = moving.to_index @ matrix
    index = fixed.points_mm @ to_index[:3, :3].T + to_index[:3, 3]
    values = ndimage.map_coordinates(moving.data, index.T, order=1, mode="constant", cval=0.0)
    return mutual_information(fixed.classes, np.rint(values).astype(np.intp), moving.bins)


def best_start(fixed: Sampled, moving: Volume, starts: Array, centre_mm: Array, *, keep: int) -> Array:
    """The ``keep`` rows of ``starts`` (n, 6 or 7) with the highest mutual information, best first."""
    scores = [alignment(fixed, moving, similarity_matrix(row, centre_mm)) for row in starts]
    return np.asarray(starts[np.argsort(scores)[::-1][:keep]])


def refine(fixed: Sampled, moving: Volume, start: Array, centre_mm: Array, *, step_mm: float) -> tuple[Array, float]:
    """Climb from ``start`` by Powell's method; parameters and mutual information at the top.

    ``step_mm`` is the accuracy asked for; angles are scaled so that it means the same 80 mm from the centre.
    """
    unit = np.array([1 / 80.0] * 3 + [1.0] * 3 + [1 / 80.0])[: len(start)]

    def cost(scaled: Array) -> float:
        return -alignment(fixed, moving, similarity_matrix(scaled * unit, centre_mm))

    origin = start / unit
    directions = np.eye(len(start)) * 4 * step_mm
    found = optimize.minimize(
        cost, origin, method="Powell", options={"xtol": 0.05, "ftol": 1e-4, "direc": directions, "maxiter": 30}
    )
    return np.asarray(found.x * unit), float(-found.fun)


def multistart(
    fixed: Sampled, moving: Volume, starts: Array, centre_mm: Array, *, keep: int, step_mm: float
) -> tuple[Array, float]:
    """Best parameters, and their mutual information, of climbs from the ``keep`` best starts."""
    climbs = [
        refine(fixed, moving, s, centre_mm, step_mm=step_mm)
        for s in best_start(fixed, moving, starts, centre_mm, keep=keep)
    ]
    return max(climbs, key=lambda climb: climb[1])
