"""Brain extraction of a T1w image with a brain-only template.

The template has no skull, so that the skull must never pull on it. The scalp, known by its depth under
the air, is removed first; the alignment starts from many poses and sizes and looks at the inside of the
template and at the dark rim around it; and the aligned template is only a prior for where the brain lies:
its surface is found in the image, by opening the bright tissue until the scalp and the dura fall off. It is found
twice, the second time after the brightness inside the first surface was evened out: a correction over the whole head
follows the scalp, and leaves parts of the brain, often of the cerebellum, too dark to pass for tissue.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from qsmals.anatomy import search
from qsmals.anatomy.bias import correct_bias, foreground
from qsmals.anatomy.compute import Compute, ants_session
from qsmals.anatomy.images import (
    Image,
    cropped,
    distance_mm,
    index_to_physical,
    largest_component,
    resampled,
    same_grid,
    with_data,
)
from qsmals.anatomy.place import MOST_BRAIN_ML, mask_doubt, mask_voxels
from qsmals.anatomy.stages import write_affine
from qsmals.recon.grid import bounding_box

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]
FindsTissue = Callable[[Floats, Floats], tuple[Mask, Mask]]
"""Intensities and distance to the aligned template (mm) to: voxels that may be tissue, and that may be brain at all."""

LEAST_HEAD_ML = 100.0
"""No head, not even a slab of one that a registration could find, has less signal."""

SCALP_MM = 8.0
"""Depth under the air within which no adult has brain (scalp of 4-8 mm over a skull of 4-8 mm)."""

MARGIN_MM = 2.5
"""Fluid and pia kept around the closed surface of the bright tissue."""

SHELL_MM = 3.0
"""What is looked at around the brain when its own brightness is evened out."""

SURE_MM = 4.0
"""Depth in the aligned template from which a voxel is taken as brain: more than the alignment errs by."""

PLAUSIBLE_ML = (500.0, MOST_BRAIN_ML)
"""Of a whole brain."""

BRIGHTEST_RIM = 0.8
"""Mean brightness of the skull and fluid around a brain, relative to the inside: heads have 0.4 to 0.5, noise 0.9."""


@dataclass(frozen=True)
class Brain:
    """What brain extraction found.

    Attributes
    ----------
    mask : image
        1 in the brain and the fluid that surrounds it, 0 elsewhere; grid of the T1w image.
    image : image
        The T1w image, bias-corrected, 0 outside the mask, 98th percentile inside it 100.
    skull_stripped : bool
        The T1w image was brain-only when it came.
    to_template : Path
        Linear transform (T1w image to template) with which a registration may start.
    """

    mask: Image
    image: Image
    skull_stripped: bool
    to_template: Path


def extract_brain(
    t1w: Image,
    template: Image,
    *,
    compute: Compute,
    skull_stripped: bool | None = None,
    find_tissue: FindsTissue | None = None,
) -> Brain:
    """Find the brain in a T1w image with or without skull.

    Parameters
    ----------
    t1w : image
        T1-weighted head, any grid; the orientation in its header must be right.
    template : image
        T1-weighted template brain, 0 outside it.
    compute : Compute
        Resources; `sloppy` looks for the surface at 2 mm instead of 1 mm.
    skull_stripped : bool or None
        Whether the image is brain-only; None finds out.
    find_tissue : function, optional
        How tissue looks where the contrast is not T1w; :func:`tissue_voxels` where it is not given.

    Raises
    ------
    ValueError
        The image is empty, or no brain of a plausible size was found in it.
    """
    with ants_session(compute):
        coarse = Compute(compute.work_dir, compute.threads, compute.seed, sloppy=True)
        seen = resampled(t1w, 2.0) if compute.sloppy else t1w
        level = resampled(correct_bias(seen, compute=coarse), 2.0 if compute.sloppy else 1.0)
        stripped = is_brain_only(level) if skull_stripped is None else skull_stripped
        matrix, centre = align_template(level, template, brain_only=stripped, seed=compute.seed)
        initial = write_affine(matrix, compute.folder("brain") / "initial.mat", centre_mm=centre)
        find_tissue = find_tissue or tissue_voxels
        if stripped:
            found = brain_only_mask(level)
        else:
            found = find_surface(level, template, initial, find_tissue=find_tissue)
            _require_dark_rim(found, level)
            near = with_data(found, distance_mm(found.numpy() > 0, found.spacing) <= SHELL_MM)
            level = correct_bias(level, mask=near, compute=coarse)
            found = find_surface(level, template, initial, find_tissue=find_tissue)
        mask = on_grid(found, t1w)
        _require_plausible(mask)
        image = correct_bias(t1w, mask=mask, compute=compute)
        return Brain(mask, with_data(image, image.numpy() * mask.numpy()), stripped, initial)


def _require_plausible(mask: Image) -> None:
    volume_ml = float(mask.numpy().sum()) * float(np.prod(mask.spacing)) / 1000
    if not PLAUSIBLE_ML[0] <= volume_ml <= PLAUSIBLE_ML[1]:
        raise ValueError(
            f"brain extraction found {volume_ml:.0f} ml, outside {PLAUSIBLE_ML[0]:.0f} to {PLAUSIBLE_ML[1]:.0f}: "
            "check that the image is a head with the right orientation, or give a brain mask"
        )


def _require_dark_rim(mask: Image, head: Image) -> None:
    """Refuse what has no skull around it: noise, and heads in another orientation than their header says."""
    inside, data = mask.numpy() > 0, head.numpy()
    distance = distance_mm(inside, mask.spacing)
    rim = (distance > 1) & (distance <= 6)
    if rim.any() and data[rim].mean() > BRIGHTEST_RIM * data[inside].mean():
        raise ValueError(
            "no brain was found: what lies around it is not darker than its inside, as bone is; check that the image "
            "is a head with the right orientation, or give a brain mask"
        )


def brain_from_mask(t1w: Image, mask: Image, template: Image, *, compute: Compute) -> Brain:
    """The same result with a mask that is already known, on the grid of the T1w image.

    Raises
    ------
    ValueError
        The mask lies on another grid, or cannot be that of the brain in the image: it is empty, too small or too large,
        or lies beside the head.
    """
    if not same_grid(t1w, mask):
        raise ValueError(f"the brain mask (shape {mask.shape}) is not on the grid of the T1w image ({t1w.shape})")
    binary = with_data(mask, mask.numpy() > 0)
    place = index_to_physical(t1w)
    if doubt := mask_doubt(binary.numpy() > 0, place, t1w.numpy(), place):
        raise ValueError(f"{doubt}: check that the mask belongs to this image, or leave it out")
    with ants_session(compute):
        image = correct_bias(t1w, mask=binary, compute=compute)
        brain = with_data(image, image.numpy() * binary.numpy())
        matrix, centre = align_template(resampled(brain, 2.0), template, brain_only=True, seed=compute.seed)
        initial = write_affine(matrix, compute.folder("brain") / "initial.mat", centre_mm=centre)
        return Brain(binary, brain, bool((t1w.numpy()[binary.numpy() == 0] == 0).all()), initial)


def is_brain_only(head: Image) -> bool:
    """Whether nothing but the brain is in a T1w image (skull and scalp were removed or never there).

    Under the air a head has its scalp, brighter than the tissue below it, then the dark skull; a brain has
    its cortex, darker than the white matter below. Judged by the mean brightness in shells: the outer
    4 mm of the object relative to the shell 12 to 20 mm deep, and by the volume of the object.
    """
    data, depth = head.numpy(), depth_under_air(head)
    volume_ml = float((depth > 0).sum()) * float(np.prod(head.spacing)) / 1000
    if volume_ml > PLAUSIBLE_ML[1]:
        return False
    dark = np.median(data[(depth > 20)]) * 0.35 if (depth > 20).any() else 0.0
    ring = (depth > 5) & (depth < 14)
    return bool(ring.any() and float((data[ring] < dark).mean()) < 0.12)


def depth_under_air(head: Image) -> Floats:
    """Distance of each voxel of the object to the air outside it, mm; 0 in the air. Sinuses are filled."""
    data = head.numpy()
    bright = data > 0.12 * np.percentile(data[data > 0], 98)
    filled = _fill_slices(closing_mm(_large_components(bright), 4.0, head.spacing))
    padded = np.pad(filled, 1)
    depth = ndimage.distance_transform_edt(padded, sampling=tuple(head.spacing))[1:-1, 1:-1, 1:-1]
    return np.asarray(depth, dtype=np.float32)


def _large_components(mask: Mask) -> Mask:
    """Components of at least a hundredth of the whole: the brain and the scalp, which bone may part, not the noise."""
    labels, _ = ndimage.label(mask)
    sizes = np.bincount(labels.ravel())
    large = sizes >= 0.01 * mask.sum()
    large[0] = False
    return np.asarray(large[labels])


def _fill_slices(mask: Mask) -> Mask:
    """Fill the holes of the volume and of every axial, coronal and sagittal slice."""
    filled = ndimage.binary_fill_holes(mask)
    for axis in range(3):
        moved = np.moveaxis(filled, axis, 0)
        for plane in moved:
            plane[...] = ndimage.binary_fill_holes(plane)
    return np.asarray(filled)


def closing_mm(mask: Mask, radius_mm: float, spacing: Any) -> Mask:
    """Closing by a ball of any radius, by distances: seconds where structuring elements take minutes."""
    step = np.asarray(spacing, dtype=float)
    pad = [(int(n), int(n)) for n in np.ceil(radius_mm / step).astype(int) + 1]
    padded = np.pad(mask, pad)
    grown = ndimage.distance_transform_edt(~padded, sampling=tuple(step)) <= radius_mm
    shrunk = ndimage.distance_transform_edt(grown, sampling=tuple(step)) > radius_mm
    inner = tuple(slice(before, -after) for before, after in pad)
    return np.asarray(shrunk[inner] | mask)


def align_template(
    head: Image, template: Image, *, brain_only: bool, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Rigid motion and scale from template points to head points, by mutual information from many starts.

    Returns
    -------
    matrix : (4, 4) array
        LPS mm, template to head.
    centre : (3,) array
        Centre of the template brain, LPS mm.

    Raises
    ------
    ValueError
        The image holds less than a brain could be.
    """
    coarse = resampled(template, 4.0)
    inside = coarse.numpy() > 0.1 * np.percentile(coarse.numpy()[coarse.numpy() > 0], 98)
    to_physical = index_to_physical(coarse)
    centre = to_physical[:3, :3] @ np.argwhere(inside).mean(0) + to_physical[:3, 3]
    moving = resampled(head if brain_only else with_data(head, without_scalp(head)), 4.0)
    data = moving.numpy()
    bright = foreground(data)
    bright_ml = float(bright.sum() * np.prod(moving.spacing)) / 1000
    if bright_ml < LEAST_HEAD_ML:
        raise ValueError(
            f"what has signal in the image is {bright_ml:.0f} ml: it does not show a head; check the image"
        )
    rng = np.random.default_rng(seed)
    near = distance_mm(inside, coarse.spacing) < 4.0
    fixed = search.sample(coarse.numpy(), to_physical, near, count=6000, bins=search.BINS, rng=rng)
    volume = search.volume(data, index_to_physical(moving), bright, bins=search.BINS)
    starts = _poses(bright, index_to_physical(moving), centre, brain_only=brain_only)
    best, _ = search.multistart(fixed, volume, starts, centre, keep=6, step_mm=1.0)
    return search.similarity_matrix(best, centre), centre


def without_scalp(head: Image) -> Floats:
    """The head without its outer 8 mm, and with fat no brighter than white matter may be."""
    data, depth = head.numpy(), depth_under_air(head)
    deep = data[depth > SCALP_MM]
    ceiling = float(np.percentile(deep[deep > 0], 99)) if (deep > 0).any() else float(data.max())
    return np.where(depth > SCALP_MM, np.minimum(data, ceiling), 0).astype(np.float32)


def _poses(bright: Mask, to_physical: NDArray[np.float64], centre: NDArray[np.float64], *, brain_only: bool) -> Any:
    """Starts (n, 7) for the search: pitch, place and size of the brain in the bright part of a head."""
    points = np.argwhere(bright) @ to_physical[:3, :3].T + to_physical[:3, 3]
    top = float(np.percentile(points[:, 2], 99.9))
    upper = points[points[:, 2] > top - 140]
    middle = (np.percentile(upper, 1, axis=0) + np.percentile(upper, 99, axis=0)) / 2
    heights = [middle[2]] if brain_only else [top - drop for drop in (45.0, 60.0, 75.0, 90.0)]
    return np.array(
        [
            [pitch, 0, 0, middle[0] - centre[0], middle[1] + forward - centre[1], height - centre[2], size]
            for height in heights
            for forward in (-12.0, 0.0, 12.0)
            for pitch in (-0.35, 0.0, 0.35)
            for size in (-0.25, -0.1, 0.05)
        ]
    )


def brain_only_mask(head: Image) -> Image:
    """Mask of an image that is brain-only: what is not background, its largest part, closed and filled."""
    data = head.numpy()
    positive = data[data > 0]
    bright = largest_component(data > 0.02 * np.percentile(positive, 98))
    return with_data(head, ndimage.binary_fill_holes(closing_mm(bright, 4.0, head.spacing)))


def find_surface(head: Image, template: Image, initial: Path, *, find_tissue: FindsTissue) -> Image:
    """Mask of the brain in a bias-corrected head, given a linear transform of the template to it.

    The intensities of fluid, grey and white matter are learned inside the aligned template. The bright
    tissue is eroded by 2 mm, which cuts the thin bridges to dura and scalp; what still hangs together
    with the inside is grown back, closed over the sulci (10 mm) and widened into the fluid around it. What lies more
    than 4 mm inside the aligned template belongs to the brain unless it is brighter than white matter: the cisterns
    under the tentorium, and the vermis between them, are not reached from the inside otherwise.
    """
    import ants

    support = with_data(template, template.numpy() > 0)
    warped = ants.apply_transforms(head, support, [str(initial)], interpolator="linear", whichtoinvert=[True])
    box = bounding_box(warped.numpy() > 0.5, 22.0 / np.asarray(head.spacing))
    small = cropped(head, box)
    from_prior = distance_mm(warped.numpy()[box] > 0.5, head.spacing)
    tissue, not_brighter = find_tissue(small.numpy(), from_prior)
    core = connected_core(tissue & (from_prior < 12), from_prior, head.spacing)
    closed = ndimage.binary_fill_holes(closing_mm(core, 10.0, head.spacing))
    grown = (distance_mm(closed, head.spacing) <= MARGIN_MM) & not_brighter
    sure = (from_prior < -SURE_MM) & not_brighter
    solid = ndimage.binary_fill_holes(closing_mm(largest_component(grown | closed | sure), 2.0, head.spacing))
    whole = np.zeros(head.shape, dtype=np.float32)
    whole[box] = solid
    return with_data(head, whole)


def tissue_voxels(data: Floats, from_prior_mm: Floats) -> tuple[Mask, Mask]:
    """Voxels as bright as grey or white matter, and voxels not brighter than white matter."""
    smooth = ndimage.gaussian_filter(data, 0.5)
    inside = data[from_prior_mm < -5]
    if inside.size < 1000:
        raise ValueError("the aligned template holds no voxels: the image is not a head, or its orientation is wrong")
    fluid, grey, white = three_classes(inside)
    ceiling = white + 0.35 * (white - fluid)
    return (smooth > (fluid + grey) / 2) & (smooth < ceiling), smooth < ceiling


def three_classes(values: Floats) -> tuple[float, float, float]:
    """Centres of three intensity classes (k-means from fixed starts), dark to bright."""
    low, high = np.percentile(values, [2, 98])
    x = values[(values > low) & (values < high)].astype(np.float64)
    if x.size == 0:
        raise ValueError("the image is constant where the brain should be")
    centres = np.array([low + 0.15 * (high - low), np.percentile(x, 40), np.percentile(x, 80)])
    for _ in range(100):
        edges = (centres[1:] + centres[:-1]) / 2
        label = np.searchsorted(edges, x)
        count = np.maximum(np.bincount(label, minlength=3), 1)
        moved = np.bincount(label, weights=x, minlength=3) / count
        if np.abs(moved - centres).max() < 1e-3:
            break
        centres = moved
    return float(centres[0]), float(centres[1]), float(centres[2])


def connected_core(tissue: Mask, from_prior_mm: Floats, spacing: Any) -> Mask:
    """Tissue that a 2 mm erosion leaves connected to the inside of the prior, grown back."""
    step = tuple(np.asarray(spacing, dtype=float))
    radius = max(2.0, 1.01 * max(step))
    eroded = (ndimage.distance_transform_edt(tissue, sampling=step) > radius) & (from_prior_mm < 8)
    labels, _ = ndimage.label(eroded)
    sizes = np.bincount(labels.ravel())
    wanted = np.unique(labels[eroded & (from_prior_mm < -12)])
    kept = np.isin(labels, [n for n in wanted if n and sizes[n] * np.prod(step) > 500])
    if not kept.any():
        raise ValueError("no brain tissue was found inside the aligned template: is the image a T1w head?")
    return np.asarray((ndimage.distance_transform_edt(~kept, sampling=step) <= radius + 1.0) & tissue)


def on_grid(mask: Image, reference: Image) -> Image:
    """A mask (:func:`~qsmals.anatomy.place.mask_voxels`) on the grid of ``reference``: linear, cut at one half."""
    import ants

    inside = with_data(mask, mask_voxels(mask.numpy()))
    moved = ants.resample_image_to_target(inside, reference, interp_type="linear")
    return with_data(reference, moved.numpy() > 0.5)
