"""Heads: brain labels from an atlas or a segmentation, completed to a whole head and deformed.

Head coordinates are millimetres, x to the right, y to the front, z up, with the origin in the
middle of the brain. A head's grid has its axes along the head's.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from qsmals.simulate.geometry import FloatArray, coordinates, random_field, resample
from qsmals.simulate.labels import (
    AIR,
    BONE,
    CSF,
    FAT,
    OUTSIDE_BRAIN,
    RED_NUCLEUS,
    REGIONS,
    SOFT_TISSUE,
    SUBSTANTIA_NIGRA,
    VEIN,
    VITREOUS,
    check_labels,
)

LabelArray = NDArray[np.int16]
BoolArray = NDArray[np.bool_]

LANDMARKS = (4, 10, 11, 12, 13, 14, 15, 16, 17, 18, 26, 28, 43, 49, 50, 51, 52, 53, 54, 58, 60)
"""Labels whose centroids tie a head to template space: deep nuclei, ventricles, brainstem, ventral DC."""

MIDBRAIN = (16, 28, 60, 10, 49, 2, 41)
"""Labels that a midbrain nucleus may replace."""

# Air spaces as ellipsoids in MNI space, mm: centre, half axes; x is mirrored. Rough adult anatomy.
_AIR_CELLS = (
    ((12, 79, -8), (12, 7, 13)),
    ((9, 17, -39), (10, 13, 9)),
    ((7, 44, -42), (6, 18, 9)),
    ((5, 60, -58), (5, 30, 15)),
    ((30, 52, -62), (13, 16, 14)),
    ((0, 6, -85), (13, 9, 35)),
)
_MASTOID = ((54, -36, -46), (11, 13, 15))
_EYE = ((32, 62, -40), (12, 12, 12))


@dataclass(frozen=True)
class Head:
    """A head on a grid along its own axes.

    Attributes
    ----------
    labels : (x, y, z) int16
        Numbers of ``labels.REGIONS``, every voxel labelled (air is 130).
    t1w : (x, y, z) float32
        T1-weighted intensity; white matter is about 110.
    affine : (4, 4) float
        Voxel to head coordinates, mm; diagonal but for the offset.
    """

    labels: LabelArray
    t1w: FloatArray
    affine: NDArray[np.float64]

    @property
    def voxel_size_mm(self) -> tuple[float, float, float]:
        """Edge lengths of a voxel, mm."""
        x, y, z = np.diag(self.affine)[:3]
        return float(x), float(y), float(z)


def distance_mm(mask: BoolArray, voxel_size_mm: tuple[float, float, float]) -> FloatArray:
    """Signed distance to the surface of a mask, mm: positive outside, negative inside."""
    outside = ndimage.distance_transform_edt(~mask, sampling=voxel_size_mm).astype(np.float32)
    inside = ndimage.distance_transform_edt(mask, sampling=voxel_size_mm).astype(np.float32)
    half = np.float32(np.mean(voxel_size_mm) / 2)
    result: FloatArray = np.where(mask, half - inside, outside - half)
    return result


def smooth_distance_mm(mask: BoolArray, voxel_size_mm: tuple[float, float, float], *, close_mm: float) -> FloatArray:
    """Signed distance to a mask closed over ``close_mm``, found at twice the voxel size: fast and smooth."""
    even = np.pad(mask, [(0, n % 2) for n in mask.shape], mode="edge")
    x, y, z = (n // 2 for n in even.shape)
    share = even.reshape(x, 2, y, 2, z, 2).mean(axis=(1, 3, 5), dtype=np.float32)
    a, b, c = (2 * v for v in voxel_size_mm)
    coarse = share >= 0.5
    if close_mm:
        coarse = closed(coarse, close_mm, (a, b, c))
    distance = distance_mm(coarse, (a, b, c))
    matrix = np.diag([0.5, 0.5, 0.5, 1.0])
    matrix[:3, 3] = -0.25
    nx, ny, nz = mask.shape
    return resample(distance, matrix=matrix, shape=(nx, ny, nz))


def closed(mask: BoolArray, radius_mm: float, voxel_size_mm: tuple[float, float, float]) -> BoolArray:
    """Morphological closing with a ball, by distances, with its holes filled; the border counts as far away."""
    box = bounding_box(mask)
    pad = [int(np.ceil(radius_mm / v)) + 1 for v in voxel_size_mm]
    padded = np.pad(mask[box], [(p, p) for p in pad])
    grown = ndimage.distance_transform_edt(~padded, sampling=voxel_size_mm) <= radius_mm
    shrunk = ndimage.distance_transform_edt(grown, sampling=voxel_size_mm) > radius_mm
    inner = tuple(slice(p, n - p) for p, n in zip(pad, padded.shape, strict=True))
    result = mask.copy()
    result[box] |= ndimage.binary_fill_holes(shrunk[inner] | mask[box])
    return result


def bounding_box(mask: BoolArray, margin: int = 0) -> tuple[slice, slice, slice]:
    """Slices around the True voxels of a mask, ``margin`` voxels wider where the array allows.

    Raises
    ------
    ValueError
        If the mask is empty.
    """
    slices = []
    for axis in range(3):
        hit = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        if len(hit) == 0:
            raise ValueError("an empty mask has no bounding box")
        slices.append(slice(max(0, int(hit[0]) - margin), min(mask.shape[axis], int(hit[-1]) + 1 + margin)))
    return slices[0], slices[1], slices[2]


def brain_mask(labels: LabelArray, voxel_size_mm: tuple[float, float, float]) -> BoolArray:
    """Brain with its sulci, fissures and cisterns, without the layer of CSF under the skull.

    The parenchyma and ventricles are closed over 4 mm, as a brain extraction would draw it.
    """
    parenchyma = ~np.isin(labels, (*OUTSIDE_BRAIN, CSF, VEIN, 0))
    return closed(parenchyma, 4.0, voxel_size_mm) & ~np.isin(labels, OUTSIDE_BRAIN)


def thicken_cortex(
    labels: LabelArray, t1w: FloatArray, voxel_size_mm: tuple[float, float, float], *, reach_mm: float = 1.6
) -> LabelArray:
    """Labels whose cortex also takes the unlabelled voxels beside it that are as bright as grey matter.

    The packaged atlas is drawn tighter than the grey matter of the packaged template.

    Parameters
    ----------
    labels : (x, y, z) int16
        0 outside the brain's structures.
    t1w : (x, y, z) float32
        White matter about 110, cortex about 89.
    """
    distance, nearest = ndimage.distance_transform_edt(labels < 1000, sampling=voxel_size_mm, return_indices=True)
    grows = (labels == 0) & (distance <= reach_mm) & (t1w > 72)
    result = labels.copy()
    result[grows] = labels[tuple(axis[grows] for axis in nearest)]
    return result


def centroids_mm(labels: NDArray[np.integer], affine: NDArray[np.float64]) -> dict[int, NDArray[np.float64]]:
    """Centre of mass of each landmark label that is present, in the coordinates of ``affine``."""
    present = [i for i in LANDMARKS if np.any(labels == i)]
    centres = ndimage.center_of_mass(np.ones(labels.shape, np.uint8), labels, present)
    return {i: affine[:3, :3] @ np.asarray(c) + affine[:3, 3] for i, c in zip(present, centres, strict=True)}


def template_affine(
    head: dict[int, NDArray[np.float64]], template: dict[int, NDArray[np.float64]]
) -> NDArray[np.float64]:
    """(4, 4) least-squares affine from head to template coordinates over common centroids.

    Raises
    ------
    ValueError
        With fewer than 8 centroids in common.
    """
    common = sorted(set(head) & set(template))
    if len(common) < 8:
        raise ValueError(f"only {len(common)} of the labels {LANDMARKS} are in the segmentation; 8 are needed")
    source = np.array([[*head[i], 1.0] for i in common])
    target = np.array([template[i] for i in common])
    matrix = np.eye(4)
    matrix[:3] = np.linalg.lstsq(source, target, rcond=None)[0].T
    return matrix


def insert_midbrain_nuclei(
    labels: LabelArray, *, nuclei: NDArray[np.uint8], to_nuclei: NDArray[np.float64]
) -> LabelArray:
    """Labels with substantia nigra and red nucleus from an atlas.

    Parameters
    ----------
    labels : (x, y, z) int16
        FreeSurfer labels.
    nuclei : (i, j, k) uint8
        1 and 2 left and right substantia nigra, 3 and 4 left and right red nucleus.
    to_nuclei : (4, 4) float
        Voxel of ``labels`` to voxel of ``nuclei``.

    Returns
    -------
    (x, y, z) int16
        The nuclei replace midbrain labels only.

    Raises
    ------
    ValueError
        If a nucleus falls outside the midbrain.
    """
    box = bounding_box(np.isin(labels, (16, 28, 60)), margin=3)
    shift = np.eye(4)
    shift[:3, 3] = [s.start for s in box]
    x, y, z = labels[box].shape
    result = labels.copy()
    allowed = np.isin(labels[box], MIDBRAIN)
    for code, index in zip((1, 2, 3, 4), (*SUBSTANTIA_NIGRA, *RED_NUCLEUS), strict=True):
        drawn = (nuclei == code).astype(np.float32)
        share = resample(drawn, matrix=to_nuclei @ shift, shape=(x, y, z), outside="constant")
        where = (share > 0.5) & allowed
        if not where.any():
            raise ValueError(f"{REGIONS[index].name} falls outside the midbrain: are the axes of the labels right?")
        result[box][where] = index
    return result


def _ellipsoid(mni: tuple[FloatArray, ...], centre: tuple[float, ...], half: tuple[float, ...]) -> FloatArray:
    """Squared normalised distance from a centre and its mirror image; below 1 inside."""
    x, y, z = mni
    result: FloatArray = (
        ((np.abs(x) - centre[0]) / half[0]) ** 2 + ((y - centre[1]) / half[1]) ** 2 + ((z - centre[2]) / half[2]) ** 2
    )
    return result


def _template_coordinates(
    shape: tuple[int, ...], affine: NDArray[np.float64], to_mni: NDArray[np.float64]
) -> tuple[FloatArray, ...]:
    """MNI coordinates, mm, of every voxel."""
    mesh = coordinates(shape, affine)
    rows = []
    for row in to_mni[:3]:
        rows.append(np.float32(row[0]) * mesh[0] + np.float32(row[1]) * mesh[1] + np.float32(row[2]) * mesh[2])
        rows[-1] += np.float32(row[3])
    return tuple(rows)


def _face_and_neck(mni: tuple[FloatArray, ...]) -> BoolArray:
    """Face, nose and neck in MNI space: a few ellipsoids and a cylinder."""
    x, y, z = mni
    face = (np.abs(x) / 64) ** 3 + (np.abs(y - 26) / 64) ** 3 + (np.abs(z + 60) / 80) ** 3 < 1
    nose = _ellipsoid(mni, (0, 88, -62), (13, 20, 24)) < 1
    neck = ((x / 58) ** 2 + ((y + 22) / 62) ** 2 < 1) & (z < -50)
    skull_base = (x / 72) ** 2 + ((y + 20) / 85) ** 2 + ((z + 45) / 45) ** 2 < 1
    merged: BoolArray = face | nose | neck | skull_base
    return merged


def _air_spaces(mni: tuple[FloatArray, ...], texture: FloatArray) -> BoolArray:
    """Sinuses, nose, throat, ear canals and mastoid cells in MNI space."""
    x, y, z = mni
    air = ((x / 9) ** 2 + ((y - 10) / 9) ** 2 < 1) & (z < -95)
    for centre, half in _AIR_CELLS:
        air |= _ellipsoid(mni, centre, half) < 1
    septum = np.abs(x) < 1.2
    air &= ~(septum & (y > 30))
    air |= (np.abs(x) > 46) & ((y + 20) ** 2 + (z + 43) ** 2 < 4.0**2)
    return air | ((_ellipsoid(mni, *_MASTOID) < 1) & (texture > -0.1))


@dataclass(frozen=True)
class _Frame:
    """Where a head's voxels are: MNI coordinates, mm, and distance to the closed brain, mm."""

    size: tuple[float, float, float]
    mni: tuple[FloatArray, ...]
    hull: FloatArray


def _frame(brain: LabelArray, affine: NDArray[np.float64], to_mni: NDArray[np.float64]) -> _Frame:
    size = (float(affine[0, 0]), float(affine[1, 1]), float(affine[2, 2]))
    mni = _template_coordinates(brain.shape, affine, to_mni)
    return _Frame(size, mni, smooth_distance_mm(brain > 0, size, close_mm=9.0))


def _brain_in_csf(labels: LabelArray, brain: LabelArray, size: tuple[float, float, float]) -> LabelArray:
    """Labels with the brain put in, and CSF around it so that it touches neither bone nor air."""
    beside = ndimage.binary_dilation(brain > 0, iterations=max(1, round(1.6 / min(size))))
    around = np.where(beside & np.isin(labels, OUTSIDE_BRAIN), np.int16(CSF), labels)
    result: LabelArray = np.where(brain > 0, brain, around)
    return result


def build_around(
    brain: LabelArray, *, affine: NDArray[np.float64], to_mni: NDArray[np.float64], rng: np.random.Generator
) -> LabelArray:
    """A synthetic head around a brain: CSF, skull, soft tissue, fat, sinuses, ears, eyes, neck and air.

    Parameters
    ----------
    brain : (x, y, z) int16
        Labels of the brain, 0 elsewhere, with room for a head.
    affine : (4, 4) float
        Voxel to head coordinates, mm.
    to_mni : (4, 4) float
        Head to MNI coordinates, mm.

    Returns
    -------
    (x, y, z) int16
        Every voxel labelled.
    """
    return _around(brain, _frame(brain, affine, to_mni), affine, rng)


def _around(brain: LabelArray, frame: _Frame, affine: NDArray[np.float64], rng: np.random.Generator) -> LabelArray:
    """``build_around`` with distances and coordinates at hand."""
    mni, hull = frame.mni, frame.hull
    layer = random_field(brain.shape, affine=affine, spacing_mm=25.0, rng=rng)
    lumps = random_field(brain.shape, affine=affine, spacing_mm=6.0, rng=rng)
    cells = random_field(brain.shape, affine=affine, spacing_mm=2.5, rng=rng)
    csf = 2.2 + 0.8 * np.clip(layer, -1.5, 1.5)
    skull = csf + 6.0 + 1.2 * np.clip(layer[::-1], -1.5, 1.5)
    body = (hull < skull + 6.0) | _face_and_neck(mni)
    labels = np.where(body, SOFT_TISSUE, AIR).astype(np.int16)
    depth = -smooth_distance_mm(body, frame.size, close_mm=4.0)
    labels[body & (((depth > 1.5) & (depth < 5.0)) | ((depth > 7) & (lumps > 1.2)))] = FAT
    labels[hull < skull] = BONE
    labels[(hull < skull - 2.2) & (hull > csf + 2.2) & (lumps > 0.2)] = FAT
    labels[_vertebrae(mni)] = BONE
    labels[body & (_ellipsoid(mni, *_EYE) < 1) & (hull > 4)] = VITREOUS
    labels[body & _air_spaces(mni, cells) & (hull > csf + 2.0) & ((depth > 3.0) | (np.abs(mni[0]) > 60))] = AIR
    labels[_spinal_canal(mni)] = CSF
    labels[_spinal_cord(mni)] = SOFT_TISSUE
    labels[hull < csf] = CSF
    return _brain_in_csf(labels, brain, frame.size)


def _below_foramen(mni: tuple[FloatArray, ...], radius_mm: float) -> BoolArray:
    """Cylinder of the spine below the foramen magnum."""
    x, y, z = mni
    result: BoolArray = (x**2 + (y + 47) ** 2 < radius_mm**2) & (z < -66)
    return result


def _vertebrae(mni: tuple[FloatArray, ...]) -> BoolArray:
    """Cervical spine, in front of the canal, and its arch."""
    x, y, z = mni
    body = (x / 13) ** 2 + ((y + 32) / 10) ** 2 < 1
    result: BoolArray = (z < -78) & (body | (x**2 + (y + 47) ** 2 < 14**2))
    return result


def _spinal_canal(mni: tuple[FloatArray, ...]) -> BoolArray:
    return _below_foramen(mni, 9.0)


def _spinal_cord(mni: tuple[FloatArray, ...]) -> BoolArray:
    return _below_foramen(mni, 5.5)


def complete_real_head(
    brain: LabelArray,
    *,
    t1w: FloatArray,
    affine: NDArray[np.float64],
    to_mni: NDArray[np.float64],
    rng: np.random.Generator,
) -> LabelArray:
    """Labels of a real head: the brain's from its segmentation, the others from T1w intensity.

    Bright tissue keeps its place (fat, muscle and skin); what is dark inside the head is air in the
    sinuses, ears and throat and bone elsewhere, which a T1w cannot tell apart. A face that was
    removed for privacy is filled in, because its air spaces shape the field in the frontal lobes.

    Parameters
    ----------
    brain : (x, y, z) int16
        FreeSurfer labels, 0 outside the brain.
    t1w : (x, y, z) float32
        Intensity, white matter about 110.
    affine, to_mni, rng
        As in ``build_around``.

    Returns
    -------
    (x, y, z) int16
    """
    frame = _frame(brain, affine, to_mni)
    hull, mni = frame.hull, frame.mni
    synthetic = _around(brain, frame, affine, rng)
    smooth = ndimage.gaussian_filter(t1w, [0.7 / v for v in frame.size])
    scanned = smooth_distance_mm(smooth > 20, frame.size, close_mm=6.0) < 0
    scanned |= brain > 0
    cranial = (hull < 25) & ((mni[2] > -15) | (mni[1] < -30))
    labels = np.where(cranial & ~scanned, np.int16(AIR), synthetic)
    labels[scanned & (labels == AIR) & (synthetic != AIR)] = SOFT_TISSUE
    # White matter is 110: dura and muscle lie above 52, CSF between it and noise, fat above 130.
    near = hull < 14
    tissue = np.full(labels.shape, BONE, np.int16)
    tissue[smooth > 24] = CSF
    tissue[smooth > np.where(near, 52, 24)] = SOFT_TISSUE
    tissue[smooth > 130] = FAT
    tissue[(tissue == CSF) & (hull > 8)] = BONE
    sinus = cranial & (synthetic == AIR) & (hull > 4) & (smooth < 30) & (mni[2] < 25)
    labels = np.where(scanned & cranial, tissue, labels)
    labels[((hull < 3.0) & (smooth < 60)) | (hull < 0)] = CSF
    labels[sinus & scanned] = AIR
    return _brain_in_csf(labels, brain, frame.size)


def synthetic_t1w(labels: LabelArray, intensity: dict[str, float], *, blur_voxels: float = 0.6) -> FloatArray:
    """T1-weighted image with one intensity per tissue and soft borders."""
    table = np.zeros(max(REGIONS) + 1, np.float32)
    for region in REGIONS.values():
        table[region.index] = intensity[region.tissue]
    blurred: FloatArray = ndimage.gaussian_filter(table[labels], blur_voxels)
    return blurred


def deform(head: Head, *, amplitude_mm: float, shrink: float = 0.0, rng: np.random.Generator) -> Head:
    """The head under a smooth random invertible deformation.

    Parameters
    ----------
    head : Head
    amplitude_mm : float
        Standard deviation of the local displacement along each axis; the size of the head also
        changes along each axis, by 3 percent for 3 mm. It is reduced until the Jacobian
        determinant is above 0.3 everywhere.
    shrink : float
        Share by which the head also gets smaller.

    Returns
    -------
    Head
        On the same grid.
    """
    if amplitude_mm == 0 and shrink == 0:
        return head
    shape = head.labels.shape
    shift = [random_field(shape, affine=head.affine, spacing_mm=55.0, rng=rng) for _ in range(3)]
    stretch = rng.normal(0, 0.01 * amplitude_mm, 3)
    mesh = coordinates(shape, head.affine)
    moved = [np.float32(amplitude_mm) * s + np.float32(k) * x for s, k, x in zip(shift, stretch, mesh, strict=True)]
    moved = [m / np.float32(size) for m, size in zip(moved, head.voxel_size_mm, strict=True)]
    while jacobian_minimum(moved) < 0.3:
        moved = [m * np.float32(0.8) for m in moved]
    bigger = 1 / (1 - shrink) - 1
    moved = [m + np.float32(bigger / v) * x for m, x, v in zip(moved, mesh, head.voxel_size_mm, strict=True)]
    index = [
        m + np.arange(n, dtype=np.float32).reshape([-1 if a == i else 1 for a in range(3)])
        for i, (m, n) in enumerate(zip(moved, shape, strict=True))
    ]
    labels = ndimage.map_coordinates(head.labels, index, order=0, mode="nearest")
    t1w = ndimage.map_coordinates(head.t1w, index, order=1, mode="nearest")
    return Head(labels, t1w, head.affine)


def jacobian_minimum(displacement: list[FloatArray]) -> float:
    """Smallest Jacobian determinant of ``x + displacement`` (voxels), on every second voxel."""
    coarse = [d[::2, ::2, ::2] for d in displacement]
    rows = [np.gradient(d, 2.0) for d in coarse]
    matrix = np.stack([np.stack(r, axis=-1) for r in rows], axis=-2) + np.eye(3, dtype=np.float32)
    return float(np.linalg.det(matrix).min())


def head_from_brain(
    brain: NDArray[np.integer],
    *,
    t1w: FloatArray,
    affine: NDArray[np.float64],
    nuclei: NDArray[np.uint8],
    head_to_nuclei: NDArray[np.float64],
    to_mni: NDArray[np.float64],
    real: bool,
    intensity: dict[str, float],
    rng: np.random.Generator,
) -> Head:
    """A whole head from brain labels and a T1w: nuclei inserted, the rest of the head completed.

    Parameters
    ----------
    brain : (x, y, z) integer
        FreeSurfer labels.
    t1w : (x, y, z) float32
        Intensity, white matter about 110; of the brain only unless ``real``.
    nuclei, head_to_nuclei
        Midbrain nuclei (see ``insert_midbrain_nuclei``) and head coordinates to their voxels.
    to_mni : (4, 4) float
        Head to MNI coordinates.
    real : bool
        Whether the T1w shows the whole head.
    intensity : dict
        T1w intensity per tissue, for what the T1w does not show.
    """
    check_labels(brain)
    size = (float(affine[0, 0]), float(affine[1, 1]), float(affine[2, 2]))
    drawn = brain.astype(np.int16)
    if not real:
        drawn = thicken_cortex(drawn, t1w, size)
    labels = insert_midbrain_nuclei(drawn, nuclei=nuclei, to_nuclei=head_to_nuclei @ affine)
    if real:
        return Head(complete_real_head(labels, t1w=t1w, affine=affine, to_mni=to_mni, rng=rng), t1w, affine)
    whole = build_around(labels, affine=affine, to_mni=to_mni, rng=rng)
    painted = synthetic_t1w(whole, intensity)
    inside = ndimage.gaussian_filter((labels > 0).astype(np.float32), 1.0) * np.float32(0.45)
    return Head(whole, painted * (1 - inside) + t1w * inside, affine)
