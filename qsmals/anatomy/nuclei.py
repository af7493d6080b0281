"""Borders of the deep grey nuclei, moved to where the images show them.

Registration brings the nuclei of an atlas to their places, but their borders stay a millimetre off: a rim of white
matter around a pallidum lowers its mean susceptibility by a tenth. Here every voxel near a border is given to one of
the labels beside it, by what it looks like, by how far the atlas says it is from each, and by
its neighbours.

A fit that chose bright voxels would raise the means that it is made for. What a label looks like is therefore learned
from the inside of the atlas's label, away from every border, and never from the voxels that the fit chose; and the
spread is one for all labels. A border then comes to lie halfway between the brightness of its two sides, which is where
a blurred edge is; and where two labels look the same it stays where the atlas has it, whatever the noise.

Distances as log-odds of labels: Pohl et al. 2007, Med Image Anal 11:465, doi:10.1016/j.media.2007.06.003. Means that
vary in space: Li et al. 2008, IEEE Trans Image Process 17:1940, doi:10.1109/TIP.2008.2002304. Mean field of the
neighbours: Zhang 1992, IEEE Trans Signal Process 40:2570, doi:10.1109/78.157297.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from qsmals.recon.grid import bounding_box

Labels = NDArray[np.int32]
Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]

WITH_IRON = ((11, 12, 13, 26, 27, 751), (50, 51, 52, 58, 59, 752))
"""Caudate, putamen, pallidum, accumbens, substantia nigra and red nucleus, left and right. With the T1w image as a
second judge their borders are worse: it shows other borders, or none."""

WITHOUT_IRON = ((10, 17, 18), (49, 53, 54))
"""Thalamus, hippocampus, amygdala."""

SEEN_ON_T1W = ((10, 11, 17, 18), (49, 50, 53, 54))
"""The same and the caudate: what is fitted to a T1w image alone. Putamen, pallidum, accumbens, substantia nigra and red
nucleus show borders there that are not theirs, or none."""

NUCLEI = tuple(n for sides in (WITH_IRON, WITHOUT_IRON) for side in sides for n in side)

FAINT = (10, 49, 17, 53, 18, 54, 26, 58)
"""Those that touch tissue that looks like them on every image: their borders move less."""

ONE_KIND = ((2, 41, 251, 252, 253, 254, 255), (4, 43, 5, 44, 14, 15))
"""White matter, and fluid: labels that look alike. All of the cortex is a third kind; every other label is its own."""

CORTEX = 1000
BOX_MARGIN_MM = 6.0
"""Surroundings from which the looks of the neighbours are learned, beyond the reach."""

NEAR_MM = 4.0
LEAST_CORE = 20
LARGEST_MISFIT = 8.0
"""Of one image, in units of half a squared spread: a vein or a hole in one map must not overrule the others."""


@dataclass(frozen=True)
class NucleiParameters:
    """Settings of :func:`fit_nuclei`; chosen on simulated heads, see ``benchmarks/nuclei.py``."""

    reach_mm: float = field(default=2.5, metadata={"unit": "mm", "source": "error of registration, by evidence"})
    faint_reach_mm: float = field(default=1.0, metadata={"unit": "mm", "source": "by evidence"})
    slope_mm: float = field(default=1.0, metadata={"unit": "mm", "source": "0.7 is as good"})
    local_mm: float = field(default=5.0, metadata={"unit": "mm", "source": "8 is as good"})
    core_mm: float = field(default=1.0, metadata={"unit": "mm", "source": "beyond the blur of an edge; 1.5 is as good"})
    smoothness: float = field(default=0.6, metadata={"source": "0.3 is as good"})
    iterations: int = field(default=6, metadata={"source": "later ones change less than 0.1 % of the voxels"})


def fit_nuclei(
    labels: Labels,
    *,
    chi_ppm: Floats | None = None,
    t1w: Floats | None = None,
    voxel_size_mm: tuple[float, float, float],
    params: NucleiParameters | None = None,
) -> Labels:
    """Move the borders of the deep grey nuclei to where images of the same head show them.

    The borders of the nuclei with iron follow the susceptibility alone, those of thalamus, hippocampus and amygdala
    all images. Without a susceptibility map `SEEN_ON_T1W` are fitted and the others stay. Borders between two labels
    of the surroundings stay as they are.

    Parameters
    ----------
    labels : (x, y, z) int32
        FreeSurfer's numbers, 751 and 752 for the red nuclei; labels that are not there are no loss.
    chi_ppm, t1w : (x, y, z) float32, optional
        Susceptibility (any reference) and the T1w brain on the same grid; the scale of neither matters. Voxels that
        are 0 or not finite are "not measured" and keep their labels.
    voxel_size_mm : (3,) float
        Edge lengths.
    params : NucleiParameters, optional
        Reach, slopes and smoothness.

    Returns
    -------
    (x, y, z) int32
        A new array.

    Raises
    ------
    ValueError
        There is no image, or the shapes differ.
    """
    params = params or NucleiParameters()
    images = [image for image in (chi_ppm, t1w) if image is not None]
    if not images:
        raise ValueError("borders cannot be fitted without an image")
    if {labels.shape} != {image.shape for image in images}:
        raise ValueError(f"labels {labels.shape} and images {[i.shape for i in images]} must have one shape")
    fitted = labels.copy()
    passes = [(SEEN_ON_T1W, images)] if chi_ppm is None else [(WITH_IRON, images[:1]), (WITHOUT_IRON, images)]
    for names, looks in passes:
        before = fitted.copy()
        for side in names:
            nuclei = [n for n in side if (before == n).any()]
            if nuclei:
                box = bounding_box(
                    np.isin(before, nuclei), (params.reach_mm + BOX_MARGIN_MM) / np.asarray(voxel_size_mm)
                )
                part = before[box]
                new = _fit_side(part, [image[box] for image in looks], nuclei, voxel_size_mm, params)
                fitted[box] = np.where(new != part, new, fitted[box])
    return fitted


def _fit_side(
    labels: Labels,
    images: Sequence[Floats],
    nuclei: Sequence[int],
    voxel_size_mm: tuple[float, float, float],
    params: NucleiParameters,
) -> Labels:
    """The fit of one hemisphere's nuclei in a box around them."""
    measured = np.all([np.isfinite(image) & (image != 0) for image in images], axis=0)
    to_nuclei = signed_distance_mm(np.isin(labels, nuclei), voxel_size_mm)
    kinds = _kinds(labels)
    names = np.unique(kinds[to_nuclei <= params.reach_mm])
    depth = np.stack([signed_distance_mm(kinds == name, voxel_size_mm) for name in names])
    is_nucleus = np.isin(names, nuclei)
    cores = [
        _core(kinds == name, depth[k], None if is_nucleus[k] else depth[is_nucleus].min(0), measured, params.core_mm)
        for k, name in enumerate(names)
    ]
    faint = np.isin(names, FAINT)
    depth[faint] *= params.reach_mm / params.faint_reach_mm
    border = (np.abs(depth[is_nucleus]).min(0) <= params.reach_mm) & measured
    near = to_nuclei < NEAR_MM
    looks = [_misfit(i.astype(np.float32), cores, near, border, voxel_size_mm, params.local_mm) for i in images]
    misfit = np.sum(looks, axis=0)
    energy = np.where(depth[:, border] <= params.reach_mm, -depth[:, border] / params.slope_mm - misfit, -np.inf)
    own = kinds[None] == names[:, None, None, None]
    winner = _settle(energy, own, border, params)
    return _relabel(labels, kinds, border, names[winner], is_nucleus[winner], voxel_size_mm)


def _kinds(labels: Labels) -> Labels:
    """The number that stands for the kind of tissue of each voxel."""
    kinds = labels.copy()
    for group in ONE_KIND:
        kinds[np.isin(labels, group)] = group[0]
    kinds[labels >= CORTEX] = CORTEX
    return kinds


def signed_distance_mm(mask: Bools, voxel_size_mm: Sequence[float]) -> Floats:
    """Distance of each voxel's centre to the surface of a mask, mm, negative inside; far where the mask is empty."""
    if not mask.any():
        return np.full(mask.shape, 1e3, np.float32)
    half = float(np.mean(voxel_size_mm)) / 2
    outside = ndimage.distance_transform_edt(~mask, sampling=voxel_size_mm)
    inside = ndimage.distance_transform_edt(mask, sampling=voxel_size_mm)
    return np.where(mask, half - inside, outside - half).astype(np.float32)


def _core(mask: Bools, depth: Floats, to_nuclei: Floats | None, measured: Bools, core_mm: float) -> Bools:
    """The inside of a label: ``core_mm`` from its border (and from the nuclei), or its deeper half if it is thin."""
    core = mask & measured
    for distance in (-depth, to_nuclei):
        if distance is not None and core.any():
            core = core & (distance >= min(core_mm, float(np.median(distance[core]))))
    return core


def _misfit(
    image: Floats,
    cores: Sequence[Bools],
    near: Bools,
    border: Bools,
    voxel_size_mm: Sequence[float],
    local_mm: float,
) -> Floats:
    """Half the squared distance of the border's voxels to each kind's mean nearby, in units of the spread, (k, n).

    The mean of a kind at a place is that of its core around it (Gaussian of ``local_mm``), drawn towards the median of
    its core where there is little of it. The spread is that of all cores around their means, near the nuclei. A kind
    without a core is as likely as a voxel one spread from its mean.
    """
    sigma = local_mm / np.asarray(voxel_size_mm)
    little = 0.02
    means, residuals = [], []
    for core in cores:
        if core.sum() < LEAST_CORE:
            means.append(np.full(int(border.sum()), np.nan, np.float32))
            continue
        weight = ndimage.gaussian_filter(core.astype(np.float32), sigma)
        total = ndimage.gaussian_filter(np.where(core, image, 0).astype(np.float32), sigma)
        mean = (total + little * float(np.median(image[core]))) / (weight + little)
        means.append(mean[border])
        residuals.append(np.abs(image - mean)[core & near])
    if not residuals:
        return np.full((len(cores), int(border.sum())), 0.5, np.float32)
    spread = max(float(np.percentile(np.concatenate(residuals), 68)), 1e-12)
    off = (image[border] - np.stack(means)) / np.float32(spread)
    return np.where(np.isnan(off), 0.5, np.minimum(0.5 * off * off, LARGEST_MISFIT)).astype(np.float32)


def _settle(energy: NDArray[np.floating], own: Bools, border: Bools, params: NucleiParameters) -> NDArray[np.intp]:
    """Number of the likeliest kind of each voxel of the border, with the support of its six neighbours."""
    belief = own.astype(np.float32)
    belief[:, border] = _shares(energy)
    for _ in range(params.iterations):
        support = np.stack([_neighbours(share)[border] for share in belief])
        shares = _shares(energy + params.smoothness * support)
        belief[:, border] = shares
    return np.asarray(belief[:, border].argmax(0))


def _shares(energy: NDArray[np.floating]) -> NDArray[np.floating]:
    """Exponentials that sum to one over the kinds; every voxel is allowed its own kind, so that the top is finite."""
    grown = np.exp(energy - energy.max(0))
    return np.asarray(grown / grown.sum(0))


def _neighbours(share: Floats) -> Floats:
    """Sum over the six face neighbours."""
    total = np.zeros_like(share)
    for axis in range(3):
        here, there = np.moveaxis(total, axis, 0), np.moveaxis(share, axis, 0)
        here[1:] += there[:-1]
        here[:-1] += there[1:]
    return total


def _relabel(
    labels: Labels,
    kinds: Labels,
    border: Bools,
    name: NDArray[np.int32],
    to_nucleus: Bools,
    voxel_size_mm: Sequence[float],
) -> Labels:
    """Labels with the border's voxels in their new kinds; what a nucleus loses takes the nearest label of that kind."""
    new = labels.copy()
    before = labels[border]
    changed = (name != kinds[border]) & (to_nucleus | np.isin(before, NUCLEI))
    after = np.where(changed & to_nucleus, name, before)
    places = np.argwhere(border)
    for kind in np.unique(name[changed & ~to_nucleus]):
        lost = changed & ~to_nucleus & (name == kind)
        nearest = ndimage.distance_transform_edt(
            kinds != kind, sampling=voxel_size_mm, return_distances=False, return_indices=True
        )
        after[lost] = labels[tuple(nearest[(slice(None), *places[lost].T)])]
    new[border] = after
    return new


def split_parts(
    labels: Labels, parts: Labels, parents: Mapping[int, int], *, voxel_size_mm: tuple[float, float, float]
) -> Labels:
    """Divide labels into parts: each voxel of a divided label takes the nearest voxel's part.

    Parameters
    ----------
    labels : (x, y, z) int32
    parts : (x, y, z) int32
        Where an atlas has the parts; it need not fit the labels.
    parents : mapping of int to int
        Part to the label that it divides.
    voxel_size_mm : (3,) float
        Edge lengths.

    Returns
    -------
    (x, y, z) int32
        0 outside the divided labels, and in those none of whose parts is there.

    Examples
    --------
    >>> row = np.array([0, 13, 13, 13, 0], dtype=np.int32).reshape(-1, 1, 1)
    >>> drawn = np.array([21, 21, 0, 23, 23], dtype=np.int32).reshape(-1, 1, 1)
    >>> split_parts(row, drawn, {21: 13, 23: 13}, voxel_size_mm=(1.0, 1.0, 1.0)).ravel().tolist()
    [0, 21, 21, 23, 0]
    """
    result = np.zeros_like(labels)
    for parent in sorted(set(parents.values())):
        wanted = labels == parent
        own = np.isin(parts, [part for part, of in parents.items() if of == parent])
        if not wanted.any() or not own.any():
            continue
        box = bounding_box(wanted | own)
        nearest = ndimage.distance_transform_edt(
            ~own[box], sampling=voxel_size_mm, return_distances=False, return_indices=True
        )
        result[box] = np.where(wanted[box], parts[box][tuple(nearest)], result[box])
    return result


@dataclass(frozen=True)
class NucleiChange:
    """What :func:`fit_nuclei` did: nuclear voxels lost and gained, % of those before, and what to look at."""

    lost_percent: float
    gained_percent: float
    warnings: tuple[str, ...]


LARGEST_CHANGE = 2.0


def nuclei_change(before: Labels, after: Labels) -> NucleiChange:
    """Compare labels before and after the fit.

    A nucleus that more than halves or doubles is a sign of a poor registration or map.

    Examples
    --------
    >>> change = nuclei_change(np.array([13, 13, 13, 2]), np.array([13, 2, 2, 2]))
    >>> change.lost_percent, change.warnings
    (66.7, ('the fit to the images changed the volume of these labels by a factor above 2: 13',))
    """
    names = NUCLEI
    were, are = np.isin(before, names), np.isin(after, names)
    total = max(int(were.sum()), 1)
    sizes = {n: (int((before == n).sum()), int((after == n).sum())) for n in names}
    odd = [str(n) for n, (old, new) in sizes.items() if old and not 1 / LARGEST_CHANGE <= new / old <= LARGEST_CHANGE]
    told = f"the fit to the images changed the volume of these labels by a factor above {LARGEST_CHANGE:g}: "
    return NucleiChange(
        round(100.0 * int((were & ~are).sum()) / total, 1),
        round(100.0 * int((are & ~were).sum()) / total, 1),
        (told + ", ".join(odd),) if odd else (),
    )
