"""Veins of a head: the large sinuses as labels, thin cortical and deep veins as shares of voxels."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from qsmals.simulate.anatomy import Head, smooth_distance_mm
from qsmals.simulate.geometry import FloatArray
from qsmals.simulate.labels import BONE, CSF, FAT, OUTSIDE_BRAIN, REGIONS, SOFT_TISSUE, VEIN

Path = NDArray[np.float64]


def veins(head: Head, *, rng: np.random.Generator) -> tuple[Head, FloatArray]:
    """The head with its large sinuses as labels, and the share of each voxel that thin veins fill.

    Parameters
    ----------
    head : Head
        Without veins.
    rng : Generator

    Returns
    -------
    Head
        Superior sagittal and straight sinus are labelled ``VEIN``.
    (x, y, z) float32
        Share of the voxel inside a thin vein, 0..1.
    """
    brain = ~np.isin(head.labels, (*OUTSIDE_BRAIN, CSF))
    surface = smooth_distance_mm(brain, head.voxel_size_mm, close_mm=6.0)
    sagittal = _sagittal_sinus(head, surface < 0)
    straight = _straight_sinus(head, sagittal)
    large = _tube(head, sagittal, 3.0) | _tube(head, straight, 1.8)
    large &= np.isin(head.labels, (CSF, BONE, SOFT_TISSUE, FAT))
    labels = np.where(large, np.int16(VEIN), head.labels)
    fraction = np.zeros(head.labels.shape, np.float32)
    for path, radius_mm in [
        *_cortical_veins(head, surface, sagittal, rng),
        *_internal_cerebral_veins(head, straight, rng),
        *_medullary_veins(head, rng),
    ]:
        _deposit(fraction, path, radius_mm, head)
    np.minimum(fraction, 1, out=fraction)
    fraction[np.isin(labels, (*OUTSIDE_BRAIN, VEIN))] = 0
    return Head(labels, head.t1w, head.affine), fraction


def _to_mm(head: Head, index: NDArray[np.float64]) -> Path:
    return index * np.diag(head.affine)[:3] + head.affine[:3, 3]


def _to_index(head: Head, path: Path) -> Path:
    return (path - head.affine[:3, 3]) / np.diag(head.affine)[:3]


def _resampled(path: Path, step_mm: float) -> Path:
    """Points along a polyline at equal distances."""
    length = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(path, axis=0), axis=1))])
    at = np.arange(0, length[-1], step_mm)
    return np.stack([np.interp(at, length, path[:, i]) for i in range(3)], axis=1)


def _midline_mm(head: Head) -> float:
    """Position of the midline: halfway between the hemispheres' centres."""
    index = np.arange(head.labels.shape[0])
    sides = []
    for side in ("L", "R"):
        numbers = [r.index for r in REGIONS.values() if r.hemisphere == side]
        counts = np.isin(head.labels, numbers).sum(axis=(1, 2))
        sides.append(float((index * counts).sum() / counts.sum()))
    return float(head.affine[0, 3] + head.affine[0, 0] * np.mean(sides))


def _sagittal_sinus(head: Head, hull: NDArray[np.bool_]) -> Path:
    """Centre line of the superior sagittal sinus, from the forehead over the top to the confluence, mm."""
    column = round((_midline_mm(head) - head.affine[0, 3]) / head.affine[0, 0])
    plane: NDArray[np.bool_] = np.logical_or.reduce(hull[column - 2 : column + 3], axis=0)
    centre = np.argwhere(plane).mean(axis=0)
    angles = np.deg2rad(np.arange(25, 206, 3))
    points = []
    for angle in angles:
        ray = centre[:, None] + np.array([np.cos(angle), np.sin(angle)])[:, None] * np.arange(0, 400, 0.5)
        ray = ray[:, (ray >= 0).all(axis=0) & (ray[0] <= plane.shape[0] - 1) & (ray[1] <= plane.shape[1] - 1)]
        inside = np.flatnonzero(plane[tuple(np.rint(ray).astype(int))])
        edge = ray[:, inside[-1]]
        outward = np.array([np.cos(angle), np.sin(angle)])
        points.append([column, *(edge + outward * 2.0 / np.array(head.voxel_size_mm[1:]))])
    smooth = ndimage.gaussian_filter1d(np.array(points, dtype=float), 1.5, axis=0, mode="nearest")
    return _resampled(_to_mm(head, smooth), 1.0)


def _straight_sinus(head: Head, sagittal: Path) -> Path:
    """Centre line from behind the splenium to the end of the sagittal sinus, mm."""
    splenium = np.argwhere(head.labels == 251)
    if len(splenium) == 0:
        splenium = np.argwhere(np.isin(head.labels, (10, 49)))
    back = splenium[splenium[:, 1] <= np.percentile(splenium[:, 1], 10)].mean(axis=0)
    start = _to_mm(head, back) + np.array([0.0, -4.0, -4.0])
    start[0] = sagittal[-1, 0]
    return _resampled(np.stack([start, sagittal[-1]]), 1.0)


def _tube(head: Head, path: Path, radius_mm: float) -> NDArray[np.bool_]:
    """Voxels within a radius of a centre line with points every millimetre."""
    size = np.array(head.voxel_size_mm)
    reach = np.ceil(radius_mm / size).astype(int) + 1
    ball = np.stack(np.meshgrid(*[np.arange(-r, r + 1) for r in reach], indexing="ij"), axis=-1).reshape(-1, 3)
    exact = _to_index(head, path)
    centre = np.rint(exact).astype(int)
    index = centre[:, None, :] + ball[None]
    near = np.linalg.norm((index - exact[:, None, :]) * size, axis=-1) <= radius_mm
    near &= ((index >= 0) & (index < head.labels.shape)).all(axis=-1)
    tube = np.zeros(head.labels.shape, bool)
    tube[tuple(index[near].T)] = True
    return tube


def _walk(
    start: NDArray[np.float64],
    direction: NDArray[np.float64],
    *,
    length_mm: float,
    bend: float,
    rng: np.random.Generator,
) -> Path:
    """A smooth random path: straight on, with the direction turning a little at each millimetre."""
    steps = int(length_mm)
    path = np.empty((steps, 3))
    heading = direction / np.linalg.norm(direction)
    for i in range(steps):
        path[i] = start
        heading = heading + bend * rng.standard_normal(3)
        heading /= np.linalg.norm(heading)
        start = start + heading
    smooth: Path = ndimage.gaussian_filter1d(path, 2.0, axis=0, mode="nearest")
    return smooth


def _cortical_veins(
    head: Head, hull_mm: FloatArray, sagittal: Path, rng: np.random.Generator, *, count: int = 26
) -> list[tuple[Path, float]]:
    """Veins that run over the cortex towards the sagittal sinus, dipping into sulci on the way."""
    distance = ndimage.gaussian_filter(hull_mm, 2.0)
    slope = np.stack(np.gradient(distance, *head.voxel_size_mm), axis=-1)
    surface = np.argwhere((np.abs(distance) < 1.0) & np.isin(head.labels, (CSF, VEIN)))
    centre = _to_mm(head, np.array(ndimage.center_of_mass(hull_mm < 0)))
    upper = surface[_to_mm(head, surface.astype(float))[:, 2] > centre[2] - 15]
    found = []
    for start in upper[rng.choice(len(upper), size=count, replace=False)]:
        path = _surface_walk(_to_mm(head, start.astype(float)), sagittal, distance, slope, head, rng)
        found.append((path, float(rng.uniform(0.4, 0.9))))
        for _ in range(2):
            here = path[rng.integers(len(path))]
            inward = centre - here
            found.append((_walk(here, inward, length_mm=rng.uniform(8, 18), bend=0.15, rng=rng), 0.4))
    return found


def _surface_walk(
    start: NDArray[np.float64],
    sagittal: Path,
    distance: FloatArray,
    slope: NDArray[np.float32],
    head: Head,
    rng: np.random.Generator,
) -> Path:
    """Path on the hull from a point to the sagittal sinus, at most 140 mm."""
    target = sagittal[np.argmin(np.linalg.norm(sagittal - start, axis=1))]
    path, heading = [start], np.zeros(3)
    for _ in range(140):
        here = path[-1]
        if np.linalg.norm(target - here) < 3:
            break
        voxel = tuple(np.clip(np.rint(_to_index(head, here)).astype(int), 0, np.array(head.labels.shape) - 1))
        normal = slope[voxel] / max(float(np.linalg.norm(slope[voxel])), 1e-3)
        pull = (target - here) / np.linalg.norm(target - here)
        heading = 0.75 * heading + 0.25 * pull + 0.18 * rng.standard_normal(3)
        heading -= normal * (heading @ normal + 0.3 * (distance[voxel] + 0.5))
        heading /= max(float(np.linalg.norm(heading)), 1e-6)
        path.append(here + heading)
    return np.array(path)


def _internal_cerebral_veins(head: Head, straight: Path, rng: np.random.Generator) -> list[tuple[Path, float]]:
    """A pair of veins over the third ventricle, with thalamostriate and septal branches."""
    found = []
    for thalamus, sign in ((10, -1), (49, 1)):
        voxels = _to_mm(head, np.argwhere(head.labels == thalamus).astype(float))
        if len(voxels) == 0:
            continue
        front = np.array(
            [straight[0, 0] + sign * 2.5, np.percentile(voxels[:, 1], 95), np.percentile(voxels[:, 2], 90)]
        )
        middle = np.array([straight[0, 0] + sign * 2.0, voxels[:, 1].mean(), np.percentile(voxels[:, 2], 97)])
        found.append((_resampled(np.stack([front, middle, straight[0]]), 0.5), 0.9))
        side = np.array([sign * 1.0, -0.6, 0.5])
        found.append((_walk(front, side, length_mm=28, bend=0.05, rng=rng), 0.6))
        found.append((_walk(front, np.array([sign * 0.15, 1.0, 0.2]), length_mm=20, bend=0.05, rng=rng), 0.5))
    return found


def _medullary_veins(head: Head, rng: np.random.Generator, *, count: int = 60) -> list[tuple[Path, float]]:
    """Thin veins that leave the lateral ventricles through the white matter."""
    found = []
    for ventricle, white in ((4, 2), (43, 41)):
        body = head.labels == ventricle
        if not body.any():
            continue
        edge = np.argwhere(ndimage.binary_dilation(body, iterations=2) & (head.labels == white))
        if len(edge) == 0:
            continue
        centre = _to_mm(head, np.argwhere(body).mean(axis=0))
        for start in edge[rng.choice(len(edge), size=min(count // 2, len(edge)), replace=False)]:
            here = _to_mm(head, start.astype(float))
            outward = (here - centre) * np.array([2.0, 0.3, 1.0])
            found.append((_walk(here, outward, length_mm=rng.uniform(10, 25), bend=0.06, rng=rng), 0.3))
    return found


def _deposit(fraction: FloatArray, path: Path, radius_mm: float, head: Head) -> None:
    """Add a thin tube's volume to the voxels along it, shared between neighbours by distance."""
    step = 0.25
    points = _to_index(head, _resampled(path, step))
    volume = np.pi * radius_mm**2 * step / float(np.prod(head.voxel_size_mm))
    corner = np.floor(points).astype(int)
    rest = points - corner
    for offset in np.ndindex(2, 2, 2):
        index = corner + offset
        weight = np.prod(np.where(offset, rest, 1 - rest), axis=1) * volume
        inside = ((index >= 0) & (index < fraction.shape)).all(axis=1)
        np.add.at(fraction, tuple(index[inside].T), weight[inside].astype(np.float32))
