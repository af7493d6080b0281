"""Whether a registration can be believed."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from qsmals.anatomy import search
from qsmals.anatomy.images import Image, index_to_physical, resampled

MIN_BRAIN_DICE = 0.90
MIN_JACOBIAN, MAX_JACOBIAN = 0.1, 10.0
MIN_SHARPNESS = 1.25
MIN_TEMPLATE_SHARPNESS = 1.15


@dataclass(frozen=True)
class RegistrationQuality:
    """Measures of one registration; those that it does not have are NaN.

    Attributes
    ----------
    brain_dice : float
        Overlap of the brain masks, 0 to 1.
    mutual_information : float
        Of the two images inside the brain, nats.
    sharpness : float
        Mutual information divided by its mean after shifts of 3 mm along each axis: well above 1 where the
        same folds lie on each other, near 1 where they do not.
    jacobian_low, jacobian_high : float
        0.1st and 99.9th percentile of the volume change inside the brain, 1 is none.
    passed : bool
        Whether all measures are within their limits.
    reasons : tuple of str
        What is not, in words.
    """

    brain_dice: float
    mutual_information: float
    sharpness: float
    jacobian_low: float
    jacobian_high: float
    passed: bool
    reasons: tuple[str, ...]

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
        Without Jacobians; ``brain_dice`` is the share of the whole mask in which the GRE is bright, and fails only
        when it is below 0.3: slabs of part of the brain are allowed.
    """
    import ants

    here = ants.apply_transforms(t1w_brain, gre, [str(gre_to_t1w)], interpolator="linear", whichtoinvert=[False])
    covered = (t1w_mask.numpy() > 0) & (here.numpy() > 0)
    share = _bright_share(here.numpy(), t1w_mask.numpy() > 0)
    information, sharpness = _sharpness(t1w_brain, here, covered, seed)
    reasons = _too_low("sharpness", sharpness, MIN_SHARPNESS, "the folds of the two images do not match")
    reasons += _too_low("share of the brain mask with signal", share, 0.3, "the GRE shows little of this brain")
    return RegistrationQuality(share, information, sharpness, np.nan, np.nan, not reasons, tuple(reasons))


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


def volume_change(reference: Image, transform: Path) -> NDArray[np.float64]:
    """Jacobian determinant of a transform on the grid of ``reference``; negative where it folds.

    Central differences of the mapped coordinates of the voxels.
    """
    import ants
    import pandas as pd

    matrix = index_to_physical(reference)
    grid = np.indices(reference.shape).reshape(3, -1)
    places = pd.DataFrame((matrix[:3, :3] @ grid + matrix[:3, 3:]).T, columns=["x", "y", "z"])
    moved = ants.apply_transforms_to_points(3, places, [str(transform)], whichtoinvert=[False])
    mapped = moved[["x", "y", "z"]].to_numpy().T.reshape(3, *reference.shape)
    gradient = np.stack([np.stack(np.gradient(axis), axis=-1) for axis in mapped], axis=-2)
    return np.asarray(np.linalg.det(gradient) / np.linalg.det(matrix[:3, :3]))


def _too_low(name: str, value: float, limit: float, meaning: str) -> list[str]:
    """A reason when ``value`` is below ``limit`` (or not a number)."""
    return [] if value >= limit else [f"{name} {value:.2f} below {limit:g}: {meaning}"]


def _bright_share(data: NDArray[np.float32], mask: NDArray[np.bool_]) -> float:
    """Share of the mask's voxels in which the image has signal (a fifth of its bright tissue)."""
    inside = data[mask]
    positive = inside[inside > 0]
    return float((inside > 0.2 * np.percentile(positive, 98)).mean()) if positive.size else 0.0


def _sharpness(fixed: Image, moving: Image, mask: NDArray[np.bool_], seed: int) -> tuple[float, float]:
    """Mutual information of two images on one grid inside a mask, and its ratio to that after 3 mm shifts."""
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
            moved[axis, 3] = 3.0 * sign
            shifted.append(search.alignment(points, target, moved))
    return there, there / max(float(np.mean(shifted)), 1e-6)
