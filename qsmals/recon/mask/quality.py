"""Where the phase can be trusted: the masks of the field and of the report."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from qsmals.recon.grid import Grid
from qsmals.recon.mask import morphology
from qsmals.recon.mask.surroundings import without_sources
from qsmals.recon.method import Citation, Method

HISTOGRAM_BINS = 256

SEPARATE_CLASSES = 4.0
"""Ashman's D from which two classes count as distinct."""

OTSU_RULE = "Otsu's, between noise and tissue"
FALLBACK_RULE = "the fallback, without two distinct classes"
CAPPED_RULE = "capped, so that it drops no more than {percent:g} % of the brain"


def around_words(where: str, largest_roughness: float) -> str:
    """What the methods text says of the surroundings, where background removal works beyond the brain."""
    return (
        f"The field around the brain, {where}, was used by the same rule, except in voxels where it differed from the "
        f"mean of its neighbours by more than {largest_roughness:g} times what is usual in the brain (the median)."
    )


@dataclass(frozen=True)
class FieldMaskParameters:
    """Settings of :func:`field_masks`."""

    reach_mm: float = field(
        default=5.0, metadata={"unit": "mm beyond the brain", "source": "design choice; docs/ablation.md has 0"}
    )
    signal_fraction: float = field(
        default=0.15,
        metadata={
            "unit": "fraction of the brain's median magnitude",
            "source": "design choice, between skull and dura",
        },
    )
    close_mm: float = field(
        default=2.0, metadata={"unit": "mm", "source": "SEPIA's closing of R2*-based masks; veins and sulci"}
    )
    open_mm: float = field(
        default=1.0, metadata={"unit": "mm", "source": "SEPIA's opening of R2*-based masks; single voxels"}
    )
    largest_roughness: float = field(
        default=15.0,
        metadata={"unit": "times the brain's median", "source": "images with partial volume (docs/ablation.md)"},
    )
    fallback_threshold: float = field(
        default=0.3, metadata={"unit": "quality", "source": "design choice, between ROMEO's quality of air and brain"}
    )
    largest_drop: float = field(
        default=0.1, metadata={"unit": "fraction of the brain", "source": "safeguard against a missed threshold"}
    )

    @property
    def words(self) -> Mapping[str, str]:
        """For the methods text."""
        return {
            "percent": f"{100 * self.signal_fraction:g} %",
            "around": around_words(f"within {self.reach_mm:g} mm", self.largest_roughness),
            "drop": f"{100 * self.largest_drop:g} %",
        }


@dataclass(frozen=True)
class FieldMasks:
    """Masks of one scan.

    Attributes
    ----------
    brain : (x, y, z) bool
        Where susceptibility is reported: the brain as far as its phase is reliable, holes filled.
    reliable : (x, y, z) bool
        Where the field is used: ``brain`` and what surrounds it with reliable phase (CSF, dura, scalp).
    quality : (x, y, z) bool
        Voxels of the region searched whose own phase is reliable, before holes are filled.
    quality_threshold : float
        Quality above which a voxel was reliable, 0 without a quality map.
    threshold_rule : str
        Which rule gave that threshold, in words; empty without a quality map.
    n_rough : int
        Voxels around the brain that are no part of ``reliable`` because their field is rough.
    """

    brain: NDArray[np.bool_]
    reliable: NDArray[np.bool_]
    quality: NDArray[np.bool_]
    quality_threshold: float
    threshold_rule: str = ""
    n_rough: int = 0


@dataclass(frozen=True)
class QualityThreshold:
    """A threshold of phase quality.

    Attributes
    ----------
    value : float
        Quality above which a voxel is reliable.
    rule : str
        Which rule gave it, in words.
    """

    value: float
    rule: str


def otsu_threshold(values: NDArray[np.float32]) -> float:
    """Value that parts a histogram into two classes with the largest variance between them.

    Parameters
    ----------
    values : (n,) float
        Any finite values; NaN is ignored.

    Returns
    -------
    float
        Values above it belong to the upper class; the only value if all are equal.

    Raises
    ------
    ValueError
        No finite value.

    References
    ----------
    Otsu N. IEEE Trans Syst Man Cybern 1979;9:62-66. doi:10.1109/TSMC.1979.4310076

    Examples
    --------
    >>> 0.2 <= otsu_threshold(np.array([0.1, 0.1, 0.2, 0.8, 0.9, 0.9])) < 0.8
    True
    """
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        raise ValueError("a threshold needs at least one finite value")
    counts, edges = np.histogram(finite, bins=HISTOGRAM_BINS)
    centres = 0.5 * (edges[1:] + edges[:-1])
    lower = np.cumsum(counts).astype(float)
    upper = finite.size - lower
    total = np.cumsum(counts * centres)
    valid = (lower > 0) & (upper > 0)
    if not valid.any():
        return float(finite[0])
    between = np.zeros(HISTOGRAM_BINS)
    difference = total[valid] / lower[valid] - (total[-1] - total[valid]) / upper[valid]
    between[valid] = lower[valid] * upper[valid] * difference**2
    best = np.flatnonzero(between >= between.max() * (1 - 1e-12))
    return float(edges[best[len(best) // 2] + 1])


def field_masks(
    brain_mask: NDArray[np.bool_],
    *,
    quality: NDArray[np.float32] | None,
    magnitude: NDArray[np.float32] | None,
    grid: Grid,
    field_ppm: NDArray[np.float32] | None = None,
    params: FieldMaskParameters | None = None,
) -> FieldMasks:
    """Brain mask and reliable mask from anatomy, phase quality and magnitude.

    A voxel is reliable when its quality lies above a threshold between tissue and noise (Otsu's where there are two
    classes, see :func:`quality_threshold`) and its magnitude above ``signal_fraction`` of the brain's median. The
    region searched is the brain dilated by ``reach_mm``: the more of the surrounding field is known, the better the
    background's sources are told from the cortex, which lies at the brain's rim. Reliable voxels are then closed by
    ``close_mm`` and filled (veins, iron-rich nuclei and bleeds have poor phase yet belong to the brain), opened by
    ``open_mm`` outside the brain, and cut to the largest component. At last voxels around the brain whose field is by
    far rougher than the brain's are left out: see :func:`~qsmals.recon.mask.surroundings.without_sources`.

    Parameters
    ----------
    brain_mask : (x, y, z) bool
        The brain, from any source.
    quality : (x, y, z) float32 in 0..1, optional
        Phase quality; 0 and NaN mean none. Without it the magnitude decides.
    magnitude : (x, y, z) or (x, y, z, e) float32, optional
        Magnitude; of several echoes the middle one is used, whose phase matters most for the field.
    grid : Grid
        Voxel size.
    field_ppm : (x, y, z) float32, optional
        Total field, ppm; without it no voxel is left out for its roughness.
    params : FieldMaskParameters, optional
        Settings.

    Returns
    -------
    FieldMasks

    Raises
    ------
    ValueError
        Empty brain mask, shapes that differ, or no reliable voxel in the brain.
    """
    params = params or FieldMaskParameters()
    brain = np.asarray(brain_mask, dtype=bool)
    _check(brain, quality, magnitude, field_ppm)
    size = grid.voxel_size_mm
    reliable = morphology.dilate(brain, params.reach_mm, size)
    threshold = QualityThreshold(0.0, "")
    if quality is not None:
        clean = np.nan_to_num(quality)
        threshold = quality_threshold(clean, brain, params)
        reliable &= clean > threshold.value
    if magnitude is not None:
        reliable &= _has_signal(magnitude, brain, params.signal_fraction)
    if not (reliable & brain).any():
        raise ValueError("no voxel of the brain has reliable phase; check phase, magnitude and the brain mask's grid")
    used = wide = _consolidated(reliable, brain, size, params)
    if field_ppm is not None:
        rough = params.largest_roughness
        used = without_sources(wide, brain, field_ppm=field_ppm, grid=grid, largest_roughness=rough)
    return FieldMasks(
        brain=brain & wide,
        reliable=used,
        quality=reliable,
        quality_threshold=threshold.value,
        threshold_rule=threshold.rule,
        n_rough=int(wide.sum() - used.sum()),
    )


def quality_threshold(
    quality: NDArray[np.float32], brain: NDArray[np.bool_], params: FieldMaskParameters | None = None
) -> QualityThreshold:
    """Quality between noise and tissue.

    Otsu's threshold over all voxels with a quality, if it parts two clearly distinct classes, else
    ``fallback_threshold``: a volume without air has no class of noise, and the threshold would part good from
    better. In either case at most ``largest_drop`` of the brain lies below, for which the threshold is capped.
    """
    params = params or FieldMaskParameters()
    values = quality[np.isfinite(quality) & (quality > 0)]
    threshold = QualityThreshold(params.fallback_threshold, FALLBACK_RULE)
    if values.size:
        otsu = otsu_threshold(values)
        if class_separation(values, otsu) >= SEPARATE_CLASSES:
            threshold = QualityThreshold(otsu, OTSU_RULE)
    cap = float(np.quantile(np.nan_to_num(quality[brain]), params.largest_drop))
    if cap < threshold.value:
        return QualityThreshold(cap, CAPPED_RULE.format(percent=100 * params.largest_drop))
    return threshold


def class_separation(values: NDArray[np.float32], threshold: float) -> float:
    """Distance between the means of the classes below and above a threshold, in units of their pooled spread.

    Ashman's D: about 2.7 for one normal distribution cut in the middle, above 4 for two distinct ones.

    References
    ----------
    Ashman KM, Bird CM, Zepf SE. Astron J 1994;108:2348-2361. doi:10.1086/117248
    """
    low, high = values[values <= threshold].astype(np.float64), values[values > threshold].astype(np.float64)
    if low.size == 0 or high.size == 0:
        return 0.0
    spread = float(np.sqrt(0.5 * (low.var() + high.var())))
    return float((high.mean() - low.mean()) / spread) if spread > 0 else float("inf")


def _check(brain: NDArray[np.bool_], *volumes: NDArray[np.float32] | None) -> None:
    if not brain.any():
        raise ValueError("the brain mask is empty")
    for name, volume in zip(("quality map", "magnitude", "field"), volumes, strict=True):
        if volume is not None and volume.shape[:3] != brain.shape:
            raise ValueError(f"the {name} has shape {volume.shape}, the brain mask {brain.shape}")


def _has_signal(magnitude: NDArray[np.float32], brain: NDArray[np.bool_], fraction: float) -> NDArray[np.bool_]:
    """Magnitude above a fraction of the brain's median, at the middle echo."""
    middle = magnitude[..., magnitude.shape[3] // 2] if magnitude.ndim == 4 else magnitude
    middle = np.nan_to_num(middle)
    return np.asarray(middle > fraction * float(np.median(middle[brain])))


def _consolidated(
    reliable: NDArray[np.bool_],
    brain: NDArray[np.bool_],
    size: morphology.Size,
    params: FieldMaskParameters,
) -> NDArray[np.bool_]:
    """Holes filled in the brain, whiskers dropped outside it, one component."""
    inside = morphology.fill_holes(morphology.close(reliable & brain, params.close_mm, size)) & brain
    outside = morphology.open_(reliable | inside, params.open_mm, size) & ~brain
    return morphology.largest_component(inside | outside)


THRESHOLD_WORDS = (
    "a threshold (Otsu's between noise and tissue where those were distinct classes, else {fallback_threshold:g}, and "
    "in no case one that dropped more than {drop} of the brain)"
)
"""For the methods text; which of them it was is known after the run, and stands in sidecar and report."""

OTSU_1979 = Citation(
    key="otsu1979",
    authors="Otsu N",
    title="A threshold selection method from gray-level histograms",
    journal="IEEE Transactions on Systems, Man, and Cybernetics 9:62-66",
    year=1979,
    doi="10.1109/TSMC.1979.4310076",
)

BRAIN_AND_QUALITY = Method(
    name="brain-and-quality",
    title="T1w brain mask, as far as the phase is reliable",
    function=field_masks,
    parameters=FieldMaskParameters,
    sentence="Susceptibility was mapped in the brain mask wherever the phase quality was above "
    + THRESHOLD_WORDS
    + " and the magnitude above {percent} of the brain's median, holes filled.",
    citations=(OTSU_1979,),
)
