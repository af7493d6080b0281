"""Magnetic and relaxation properties of a head's tissues, with the variation that real heads show.

References
----------
Susceptibility, whole-brain referenced: Min K, et al. (chi-separation atlas, 2024); Marques JP, et al.
Magn Reson Med 2021, DOI 10.1002/mrm.28716; motor cortex: Bhattarai A, et al. 2020, PMC7358415.
Relaxation and its change with field: Peters AM, et al. Magn Reson Imaging 2007,
DOI 10.1016/j.mri.2007.02.014 (R2*); Rooney WD, et al. Magn Reson Med 2007, DOI 10.1002/mrm.21122 (R1).
Iron with age: Hallgren B, Sourander P. J Neurochem 1958, DOI 10.1111/j.1471-4159.1958.tb12607.x.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from qsmals.simulate.anatomy import Head, LabelArray, bounding_box
from qsmals.simulate.geometry import FloatArray, random_field
from qsmals.simulate.labels import MOTOR_CORTEX, REGIONS, tissue_index

REFERENCE_AGE_YEARS = 60.0
PPB_PER_MG_PER_100G = 8.0
"""Susceptibility per iron concentration, ppb per mg/100 g wet weight (0.75-0.9 ppb per ug/g)."""
DEPTH_PPB = 16.0
"""Susceptibility at the white matter's side of the motor cortex over that at its surface, ppb."""
R2STAR_HZ_PER_PPM = 120.0
"""How much faster iron-rich voxels decay at 3 T, 1/s per ppm."""


@dataclass(frozen=True)
class Tissue:
    """One tissue at 3 T and ``REFERENCE_AGE_YEARS``.

    Attributes
    ----------
    chi_ppb : float
        Susceptibility relative to the whole brain, ppb.
    proton_density : float
        Relative to CSF.
    r1_hz, r2star_hz : float
        Relaxation rates, 1/s.
    t1w : float
        Intensity in a T1w whose white matter is 110.
    iron_sd_ppb, texture_ppb, subject_sd_ppb : float
        Standard deviation of the smooth variation inside a region, of the part that follows the
        T1w intensity (its sign says whether brighter is more paramagnetic) and between people.
    shift_ppm : float
        Chemical shift, ppm.
    """

    chi_ppb: float
    proton_density: float
    r1_hz: float
    r2star_hz: float
    t1w: float
    iron_sd_ppb: float = 0.0
    texture_ppb: float = 0.0
    subject_sd_ppb: float = 0.0
    shift_ppm: float = 0.0


TISSUES: dict[str, Tissue] = {
    "white_matter": Tissue(-20, 0.70, 1.18, 20, 110, 5, -5, 2),
    "corpus_callosum": Tissue(-24, 0.70, 1.20, 20, 114, 4, -3, 2),
    "cerebellum_white_matter": Tissue(-18, 0.71, 1.15, 21, 106, 5, -4, 2),
    "cortex": Tissue(17, 0.82, 0.68, 17, 70, 4, -2, 2),
    "motor_cortex": Tissue(28.5, 0.82, 0.72, 19, 76, 4, 1, 3),
    "cerebellum_cortex": Tissue(12, 0.82, 0.70, 18, 72, 4, -3, 2),
    "csf": Tissue(12, 1.00, 0.24, 2, 16),
    "choroid_plexus": Tissue(10, 0.90, 0.50, 12, 40),
    "thalamus": Tissue(8, 0.77, 0.90, 22, 92, 10, -4, 4),
    "caudate": Tissue(42, 0.81, 0.76, 24, 76, 6, 3, 6),
    "putamen": Tissue(67, 0.80, 0.82, 28, 82, 9, 5, 9),
    "pallidum": Tissue(128, 0.72, 1.05, 42, 98, 11, 5, 8),
    "accumbens": Tissue(22, 0.81, 0.76, 20, 78, 4, 2, 3),
    "hippocampus": Tissue(4, 0.82, 0.68, 17, 72, 4, -2, 3),
    "amygdala": Tissue(3, 0.82, 0.68, 17, 72, 4, -2, 3),
    "ventral_diencephalon": Tissue(10, 0.74, 0.98, 23, 96, 8, 0, 3),
    "brainstem": Tissue(-5, 0.72, 1.02, 20, 98, 6, -3, 2),
    "substantia_nigra": Tissue(112, 0.75, 1.00, 38, 96, 12, 0, 8),
    "red_nucleus": Tissue(101, 0.76, 1.00, 34, 98, 8, 0, 8),
    "vein": Tissue(250, 0.80, 0.55, 50, 42),
    "soft_tissue": Tissue(0, 0.70, 0.80, 32, 52),
    "fat": Tissue(19, 0.70, 2.60, 45, 185, shift_ppm=-3.4),
    "bone": Tissue(-2100, 0.06, 2.50, 300, 10),
    "air": Tissue(9400, 0.0, 1.0, 0.0, 1),
}
T1W_INTENSITY: dict[str, float] = {name: tissue.t1w for name, tissue in TISSUES.items()}
_NAMES = tuple(TISSUES)
_AGEING = {"pallidum": (21.41, 0.09), "putamen": (14.62, 0.04), "caudate": (9.66, 0.05), "motor_cortex": (4.79, 0.06)}


@dataclass(frozen=True)
class Person:
    """Who is scanned.

    Attributes
    ----------
    group : str
        ``ALS`` or ``control``.
    age_years : float
    sex : str
        ``F`` or ``M``.
    """

    group: str
    age_years: float
    sex: str


@dataclass(frozen=True)
class TissueMaps:
    """What the scanner's signal depends on, each (x, y, z) float32.

    ``chi_ppm`` in ppm, ``proton_density`` relative to CSF, ``r1_hz`` and ``r2star_hz`` in 1/s,
    ``shift_ppm`` the chemical shift in ppm.
    """

    chi_ppm: FloatArray
    proton_density: FloatArray
    r1_hz: FloatArray
    r2star_hz: FloatArray
    shift_ppm: FloatArray


def iron_change_ppb(tissue: str, age_years: float) -> float:
    """Susceptibility at an age less that at 60 years, from Hallgren and Sourander's curves, ppb.

    Examples
    --------
    >>> iron_change_ppb("putamen", 60.0), iron_change_ppb("thalamus", 30.0)
    (0.0, 0.0)
    >>> round(iron_change_ppb("putamen", 40.0), 1)
    -13.0
    """
    if tissue not in _AGEING:
        return 0.0
    plateau, rate = _AGEING[tissue]
    return float(PPB_PER_MG_PER_100G * plateau * (np.exp(-rate * REFERENCE_AGE_YEARS) - np.exp(-rate * age_years)))


def person_susceptibility_ppb(person: Person, *, rng: np.random.Generator) -> dict[str, float]:
    """Mean susceptibility of each tissue in one person, ppb, before any disease effect.

    Published means, shifted with age and by a deviation that is half shared by all iron-rich
    tissues and half each tissue's own, cut at 1.5 standard deviations.
    """
    shared, own = rng.standard_normal(), rng.standard_normal(len(TISSUES))
    deviation = np.clip(np.sqrt(0.5) * (shared + own), -1.5, 1.5)
    return {
        name: t.chi_ppb + iron_change_ppb(name, person.age_years) + t.subject_sd_ppb * float(z)
        for (name, t), z in zip(TISSUES.items(), deviation, strict=True)
    }


def r2star_factor(b0_tesla: float) -> float:
    """R2* of brain tissue over its value at 3 T: linear through the measurements at 1.5, 3 and 7 T."""
    return 0.3 + 0.7 * b0_tesla / 3.0


def r1_factor(b0_tesla: float) -> float:
    """R1 of brain tissue over its value at 3 T (T1 grows with the field to the power 0.38)."""
    return float((b0_tesla / 3.0) ** -0.38)


def cortical_depth(
    labels: LabelArray, where: NDArray[np.bool_], voxel_size_mm: tuple[float, float, float]
) -> FloatArray:
    """Relative depth in the cortex, 0 at the pial surface and 1 at the white matter, of some voxels.

    Parameters
    ----------
    labels : (x, y, z) int16
    where : (x, y, z) bool
        Cortical voxels whose depth is wanted.
    voxel_size_mm : (3,) float

    Returns
    -------
    (n,) float32
        In the order of ``labels[where]``.
    """
    box = bounding_box(where, margin=round(10 / min(voxel_size_mm)))
    part = labels[box]
    white = np.isin(part, [i for i, r in REGIONS.items() if r.tissue == "white_matter"])
    outside = np.isin(part, [i for i, r in REGIONS.items() if r.tissue in ("csf", "vein", "bone", "soft_tissue")])
    to_white = ndimage.distance_transform_edt(~white, sampling=voxel_size_mm)[where[box]]
    to_outside = ndimage.distance_transform_edt(~outside, sampling=voxel_size_mm)[where[box]]
    depth: FloatArray = (to_outside / (to_outside + to_white)).astype(np.float32)
    return depth


def susceptibility(head: Head, *, person: Person, als_effect_ppb: float, rng: np.random.Generator) -> FloatArray:
    """Susceptibility map of a person's head with hard borders, ppm.

    The mean of every region is its planted value: all variation inside a region (smooth, with the
    T1w, with cortical depth) has zero mean over it. In the motor cortex iron grows from the pial
    surface to the white matter, and so does the ALS effect, whose regional mean is
    ``als_effect_ppb``.

    Parameters
    ----------
    head : Head
    person : Person
    als_effect_ppb : float
        Added to the mean of precentral and paracentral cortex of a person with ALS, ppb.

    Returns
    -------
    (x, y, z) float32
    """
    means = person_susceptibility_ppb(person, rng=rng)
    tissue = tissue_index(head.labels, _NAMES)
    chi = np.array([means[n] for n in _NAMES], np.float32)[tissue]
    smooth = random_field(head.labels.shape, affine=head.affine, spacing_mm=5.0, rng=rng)
    variation = np.array([t.iron_sd_ppb for t in TISSUES.values()], np.float32)[tissue] * smooth
    variation += np.array([t.texture_ppb for t in TISSUES.values()], np.float32)[tissue] * texture_score(head)
    motor = np.isin(head.labels, MOTOR_CORTEX)
    depth = cortical_depth(head.labels, motor, head.voxel_size_mm)
    variation[motor] += np.float32(DEPTH_PPB) * depth
    chi += centred(variation, head.labels)
    if person.group == "ALS":
        weight = np.zeros(head.labels.shape, np.float32)
        weight[motor] = depth
        for index in MOTOR_CORTEX:
            here = head.labels == index
            if here.any():
                chi[here] += np.float32(als_effect_ppb) * weight[here] / weight[here].mean(dtype=np.float64)
    return chi * np.float32(1e-3)


def texture_score(head: Head) -> FloatArray:
    """T1w intensity of each voxel as a score within its region, cut at 2."""
    index = np.arange(max(REGIONS) + 1)
    flat = head.labels.ravel()
    count = np.maximum(np.bincount(flat, minlength=len(index)), 1)
    mean = np.bincount(flat, head.t1w.ravel(), len(index)) / count
    square = np.bincount(flat, np.square(head.t1w, dtype=np.float64).ravel(), len(index)) / count
    scale = np.sqrt(np.maximum(square - mean**2, 1.0))
    score = (head.t1w - mean.astype(np.float32)[head.labels]) / scale.astype(np.float32)[head.labels]
    result: FloatArray = np.clip(score, -2, 2)
    return result


def centred(values: FloatArray, labels: LabelArray) -> FloatArray:
    """Values less their mean over each label."""
    flat = labels.ravel()
    count = np.maximum(np.bincount(flat), 1)
    mean = (np.bincount(flat, values.ravel()) / count).astype(np.float32)
    result: FloatArray = values - mean[labels]
    return result


def tissue_maps(
    head: Head,
    *,
    person: Person,
    vein_fraction: FloatArray,
    b0_tesla: float,
    als_effect_ppb: float,
    blur_mm: float,
    rng: np.random.Generator,
) -> TissueMaps:
    """Property maps of a person's head at a field strength.

    Parameters
    ----------
    head : Head
    person : Person
    vein_fraction : (x, y, z) float32
        Share of each voxel that a thin vein fills, 0..1.
    b0_tesla : float
    als_effect_ppb : float
        See ``susceptibility``.
    blur_mm : float
        Standard deviation of the Gaussian that stands for tissue borders inside voxels.

    Returns
    -------
    TissueMaps
    """
    tissue = tissue_index(head.labels, _NAMES)
    chi = susceptibility(head, person=person, als_effect_ppb=als_effect_ppb, rng=rng)
    base = np.array([t.chi_ppb for t in TISSUES.values()], np.float32)[tissue] * np.float32(1e-3)
    decay = np.array([t.r2star_hz for t in TISSUES.values()], np.float32)[tissue]
    decay = np.maximum(decay + np.float32(R2STAR_HZ_PER_PPM) * (chi - base), np.float32(1.0))
    bright = 1 + np.float32(0.04) * texture_score(head)
    rate = np.array([t.r1_hz for t in TISSUES.values()], np.float32)[tissue]
    maps = {
        "chi_ppm": chi,
        "proton_density": np.array([t.proton_density for t in TISSUES.values()], np.float32)[tissue],
        "r1_hz": rate * bright * np.float32(r1_factor(b0_tesla)),
        "r2star_hz": decay * np.float32(r2star_factor(b0_tesla)),
    }
    vein = TISSUES["vein"]
    of_vein = {
        "chi_ppm": vein.chi_ppb * 1e-3,
        "proton_density": vein.proton_density,
        "r1_hz": vein.r1_hz * r1_factor(b0_tesla),
        "r2star_hz": vein.r2star_hz * r2star_factor(b0_tesla),
    }
    sigma = [blur_mm / v for v in head.voxel_size_mm]
    mixed = {
        name: ndimage.gaussian_filter(value + vein_fraction * (np.float32(of_vein[name]) - value), sigma)
        for name, value in maps.items()
    }
    shift = np.array([t.shift_ppm for t in TISSUES.values()], np.float32)[tissue]
    return TissueMaps(**mixed, shift_ppm=shift)
