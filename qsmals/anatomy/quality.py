"""Whether a registration can be believed."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from qsmals.anatomy import search
from qsmals.anatomy.images import Image, ball, index_to_physical, resampled, with_data

MIN_BRAIN_DICE = 0.90
MIN_JACOBIAN, MAX_JACOBIAN = 0.1, 10.0
MIN_IN_VIEW_ML = 100.0
"""Slabs are allowed: this is 8 mm of the height of a brain of 1400 ml. Less shows too few folds to judge by."""

MIN_SIGNAL_SHARE = 0.3
SHIFT_MM = 3.0
MIN_SHARPNESS = 1.25
MIN_TEMPLATE_SHARPNESS = 1.15
MAX_ROUND_TRIP_MM = 1.0
"""Median over the brain of what two transforms, there and back, may err by; those of SyN err by a tenth of it."""

ROUND_TRIP_POINTS = 20_000
MIN_NUCLEI_CORRELATION = 0.2
"""Simulated heads have 0.83 and more, one with a noise of 100 ppb 0.47, and a map of nothing but noise 0.04. A map with
the wrong sign has -0.83, for the metric is blind to the sign."""

MAX_NUCLEI_SHIFT_MM = 8.0
"""Simulated heads have 2 to 5 mm. Nuclei farther away are found as well, but the registrations before were wrong."""


@dataclass(frozen=True)
class RegistrationQuality:
    """Measures of one registration; those that it does not have are NaN.

    Attributes
    ----------
    brain_dice : float
        Overlap of the brain masks, 0 to 1; of a rigid registration the share of the brain in the field of view of the
        GRE in which the GRE has signal.
    mutual_information : float
        Of the two images inside the brain, nats.
    sharpness : float
        Mutual information divided by its mean after shifts of `SHIFT_MM` along each axis: well above 1 where the
        same folds lie on each other, near 1 where they do not.
    jacobian_low, jacobian_high : float
        0.1st and 99.9th percentile of the volume change inside the brain, 1 is none.
    passed : bool
        Whether all measures are within their limits.
    reasons : tuple of str
        What is not, in words.
    in_view_ml : float
        Brain in the field of view of the GRE; of rigid registrations only.
    """

    brain_dice: float
    mutual_information: float
    sharpness: float
    jacobian_low: float
    jacobian_high: float
    passed: bool
    reasons: tuple[str, ...]
    in_view_ml: float = np.nan

    def as_dict(self) -> dict[str, Any]:
        """For a JSON file: NaN becomes None."""
        return {k: None if isinstance(v, float) and np.isnan(v) else v for k, v in asdict(self).items()}


def rigid_quality(
    gre: Image, t1w_brain: Image, t1w_mask: Image, gre_to_t1w: Path, *, seed: int = 42
) -> RegistrationQuality:
    """Measures of a rigid registration of two images of the same head.

    Parameters
    ----------
    gre : image
        GRE magnitude.
    t1w_brain, t1w_mask : image
        Brain-only T1w image and its mask.
    gre_to_t1w : Path
        Transform of GRE images to the T1w grid.
    seed : int
        Of the choice of voxels.

    Returns
    -------
    RegistrationQuality
        Without Jacobians. Only what lies in the field of view of the GRE counts, which may be a slab of a part of the
        brain (`MIN_IN_VIEW_ML`).
    """
    import ants

    here = ants.apply_transforms(t1w_brain, gre, [str(gre_to_t1w)], interpolator="linear", whichtoinvert=[False])
    brain = t1w_mask.numpy() > 0
    shown, core = _field_of_view(gre, t1w_brain, gre_to_t1w)
    in_view_ml = float((brain & shown).sum() * np.prod(t1w_mask.spacing)) / 1000
    share = _bright_share(here.numpy(), brain & shown)
    information, sharpness = _sharpness(t1w_brain, here, brain & core & (here.numpy() > 0), seed)
    little = "the GRE shows too little of this brain, or the two are not of the same place; view one over the other"
    dark = "the GRE is dark where the T1w image has brain"
    reasons = _too_low("brain in the field of view (ml)", in_view_ml, MIN_IN_VIEW_ML, little) or [
        *_too_low("sharpness", sharpness, MIN_SHARPNESS, "the folds of the two images do not match"),
        *_too_low("share of the brain in the field of view with signal", share, MIN_SIGNAL_SHARE, dark),
    ]
    return RegistrationQuality(share, information, sharpness, np.nan, np.nan, not reasons, tuple(reasons), in_view_ml)


def template_quality(
    template: Image, brain: Image, mask: Image, forward: Path, *, seed: int = 42
) -> RegistrationQuality:
    """Measures of a deformable registration of a T1w brain to a template brain.

    Parameters
    ----------
    template : image
        Template brain, 0 outside it.
    brain, mask : image
        T1w brain and its mask.
    forward : Path
        Composite transform of T1w images to the template grid.
    seed : int
        Of the choice of voxels.
    """
    import ants

    coarse = resampled(template, 2.0)
    inside = coarse.numpy() > 0.02 * np.percentile(coarse.numpy()[coarse.numpy() > 0], 98)
    warped = ants.apply_transforms(coarse, brain, [str(forward)], interpolator="linear", whichtoinvert=[False])
    moved = ants.apply_transforms(coarse, mask, [str(forward)], interpolator="linear", whichtoinvert=[False])
    there = moved.numpy() > 0.5
    dice = 2.0 * float((inside & there).sum()) / max(float(inside.sum() + there.sum()), 1.0)
    information, sharpness = _sharpness(coarse, warped, inside & there, seed)
    low, high = np.percentile(volume_change(coarse, forward)[inside], [0.1, 99.9])
    reasons = _too_low("overlap of the brain masks", dice, MIN_BRAIN_DICE, "brain extraction or registration failed")
    reasons += _too_low("sharpness", sharpness, MIN_TEMPLATE_SHARPNESS, "the folds do not match the template's")
    reasons += _too_low("smallest volume change", float(low), MIN_JACOBIAN, "the deformation folds or crushes tissue")
    if high > MAX_JACOBIAN:
        reasons.append(f"largest volume change {high:.2f} above {MAX_JACOBIAN:g}: the deformation tears tissue")
    return RegistrationQuality(dice, information, sharpness, float(low), float(high), not reasons, tuple(reasons))


def with_round_trip(quality: RegistrationQuality, mask: Image, there: Path, back: Path) -> RegistrationQuality:
    """The quality of a transform, failed where the one in the other direction is not its inverse.

    Images and labels come through one of the two each, and only one was judged.

    Parameters
    ----------
    quality : RegistrationQuality
    mask : image
        Positive in the brain.
    there, back : Path
        Transforms that take points of the mask's space elsewhere and back.
    """
    index = np.argwhere(mask.numpy() > 0)
    index = index[:: max(1, len(index) // ROUND_TRIP_POINTS)]
    places, elsewhere = _mapped(mask, there, index.T)
    error_mm = float(np.median(np.linalg.norm(_moved(elsewhere, back) - places, axis=1)))
    if error_mm <= MAX_ROUND_TRIP_MM:
        return quality
    why = (
        f"{there} and {back} do not undo each other: a point of the brain that goes there and back ends {error_mm:.1f} "
        f"mm from where it was (median; {MAX_ROUND_TRIP_MM:g} are allowed)"
    )
    return replace(quality, passed=False, reasons=(*quality.reasons, why))


@dataclass(frozen=True)
class NucleiQuality:
    """Measures of the deformation that places the deep nuclei by susceptibility, in the nuclei and 3 mm around them.

    Attributes
    ----------
    correlation_before, correlation : float
        Of the susceptibility that the atlas lets expect with the measured one, before and after, -1 to 1.
    jacobian_low, jacobian_high : float
        0.1st and 99.9th percentile of the volume change, 1 is none.
    largest_shift_mm : float
        99th percentile of the displacement.
    reasons : tuple of str
        Why the deformation cannot be believed, in words.
    warnings : tuple of str
        What it says against the registrations before it.
    """

    correlation_before: float
    correlation: float
    jacobian_low: float
    jacobian_high: float
    largest_shift_mm: float
    reasons: tuple[str, ...]
    warnings: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether all measures are within their limits."""
        return not self.reasons

    def measures(self) -> dict[str, float]:
        """All numbers, by name."""
        return {name: value for name, value in asdict(self).items() if isinstance(value, float)}


def nuclei_quality(
    expected: Image, before: Image, after: Image, nuclei: NDArray[np.bool_], forward: Path
) -> NucleiQuality:
    """Measures of a deformation around the deep nuclei.

    Parameters
    ----------
    expected : image
        Susceptibility that the atlas lets expect, any unit.
    before, after : image
        The measured map on the same grid before and after the deformation; 0 where it was not measured.
    nuclei : (x, y, z) bool
        Where the atlas has them.
    forward : Path
        Transform of images to the deformed grid.
    """
    near = ndimage.binary_dilation(nuclei, ball(3.0, expected.spacing))
    maps = [image.numpy() for image in (before, after)]
    seen = near & np.all([data != 0 for data in maps], axis=0)
    was, now = (_correlation(expected.numpy()[seen], data[seen]) for data in maps)
    low, high = np.percentile(volume_change(expected, forward)[near], [0.1, 99.9])
    shift = float(np.percentile(_shifts_mm(expected, forward, near), 99))
    reasons = _too_low("correlation with the expected map", now, MIN_NUCLEI_CORRELATION, "the map shows other nuclei")
    if not now > was:
        reasons.append(f"correlation with the expected map {now:.2f}, {was:.2f} before: the deformation is no gain")
    reasons += _too_low("smallest volume change", float(low), MIN_JACOBIAN, "the deformation folds or crushes tissue")
    if high > MAX_JACOBIAN:
        reasons.append(f"largest volume change {high:.2f} above {MAX_JACOBIAN:g}: the deformation tears tissue")
    far = f"deep nuclei: found {shift:.1f} mm from where registration puts them, above {MAX_NUCLEI_SHIFT_MM:g}"
    warnings = (f"{far}: look at the registrations",) if shift > MAX_NUCLEI_SHIFT_MM and not reasons else ()
    return NucleiQuality(was, now, float(low), float(high), shift, tuple(reasons), warnings)


def _correlation(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Pearson's correlation; 0 where an array has one value or none."""
    flat = a.size == 0 or np.ptp(a) == 0 or np.ptp(b) == 0
    return 0.0 if flat else float(np.corrcoef(a, b)[0, 1])


def _shifts_mm(reference: Image, transform: Path, where: NDArray[np.bool_]) -> NDArray[np.float64]:
    """How far a transform moves some voxels of a grid."""
    places, moved = _mapped(reference, transform, np.argwhere(where).T)
    return np.linalg.norm(moved - places, axis=1)


def _mapped(
    reference: Image, transform: Path, index: NDArray[np.intp]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Places of voxels (3, n) of a grid, LPS mm (n, 3), and where a transform takes them."""
    matrix = index_to_physical(reference)
    places = np.asarray((matrix[:3, :3] @ index + matrix[:3, 3:]).T)
    return places, _moved(places, transform)


def _moved(places: NDArray[np.float64], transform: Path) -> NDArray[np.float64]:
    """Where a transform takes points, LPS mm (n, 3)."""
    import ants
    import pandas as pd

    table = pd.DataFrame(places, columns=["x", "y", "z"])
    moved = ants.apply_transforms_to_points(3, table, [str(transform)], whichtoinvert=[False])
    return np.asarray(moved[["x", "y", "z"]].to_numpy())


def volume_change(reference: Image, transform: Path) -> NDArray[np.float64]:
    """Jacobian determinant of a transform on the grid of ``reference``; negative where it folds.

    Central differences of the mapped coordinates of the voxels.
    """
    _, moved = _mapped(reference, transform, np.indices(reference.shape).reshape(3, -1))
    mapped = moved.T.reshape(3, *reference.shape)
    gradient = np.stack([np.stack(np.gradient(axis), axis=-1) for axis in mapped], axis=-2)
    return np.asarray(np.linalg.det(gradient) / np.linalg.det(index_to_physical(reference)[:3, :3]))


def _too_low(name: str, value: float, limit: float, meaning: str) -> list[str]:
    """A reason when ``value`` is below ``limit`` (or not a number)."""
    return [] if value >= limit else [f"{name} {value:.2f} below {limit:g}: {meaning}"]


def _field_of_view(gre: Image, grid: Image, gre_to_t1w: Path) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Voxels of a grid that the GRE image holds, and those that it still holds after a shift by `SHIFT_MM`."""
    import ants

    margins = np.ceil(SHIFT_MM / np.asarray(gre.spacing)).astype(int)
    depth = np.ones(gre.shape, dtype=np.float32)
    depth[tuple(slice(m, n - m) for m, n in zip(margins, gre.shape, strict=True))] = 2
    moved = ants.apply_transforms(
        grid, with_data(gre, depth), [str(gre_to_t1w)], interpolator="nearestNeighbor", whichtoinvert=[False]
    ).numpy()
    return moved > 0, moved > 1


def _bright_share(data: NDArray[np.float32], mask: NDArray[np.bool_]) -> float:
    """Share of the mask's voxels in which the image has signal (a fifth of its bright tissue)."""
    inside = data[mask]
    positive = inside[inside > 0]
    return float((inside > 0.2 * np.percentile(positive, 98)).mean()) if positive.size else 0.0


def _sharpness(fixed: Image, moving: Image, mask: NDArray[np.bool_], seed: int) -> tuple[float, float]:
    """Mutual information of two images on one grid inside a mask, and its ratio to that after shifts."""
    if mask.sum() < 1000:
        return 0.0, 0.0
    matrix = index_to_physical(fixed)
    a, b = (ndimage.gaussian_filter(i.numpy(), 1.0 / np.asarray(i.spacing)) for i in (fixed, moving))
    rng = np.random.default_rng(seed)
    points = search.sample(a, matrix, mask, count=40000, bins=32, rng=rng)
    target = search.volume(b, matrix, mask, bins=32)
    there = search.alignment(points, target, np.eye(4))
    shifted = []
    for axis in range(3):
        for sign in (-1, 1):
            moved = np.eye(4)
            moved[axis, 3] = SHIFT_MM * sign
            shifted.append(search.alignment(points, target, moved))
    return there, there / max(float(np.mean(shifted)), 1e-6)
