"""Brain extraction where there is no T1w image: from the gradient-echo scan itself.

The contrast of a magnitude between grey matter, white matter and fluid depends on its timing and may be turned round,
so that the inside of the skull is found by its signal alone: the skull has none. The template is aligned by mutual
information, which asks for no particular contrast. What the signal loses between the first and the last echo does not
depend on the timing in this way: tissue loses much of it and fluid nearly nothing, which tells the brain from the fluid
around it. The decay rate is a second image to register, on which fluid is dark and which no receive coil shades.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from qsmals.anatomy.bias import correct_bias
from qsmals.anatomy.brain import Brain, closing_mm, extract_brain
from qsmals.anatomy.compute import Compute, ants_session
from qsmals.anatomy.images import Image, distance_mm, largest_component, with_data
from qsmals.recon.grid import bounding_box

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]

LEAST_SIGNAL = 0.35
"""Signal of tissue and fluid relative to the median of the brain; the skull has less."""

REACH_MM = 6.0
"""How far the inside of the skull may lie outside the aligned template."""

LEAST_LOSS = 0.5
"""What tissue loses between two echoes relative to the median of the brain; fluid loses a tenth of it."""

LEAST_SPAN_S = 0.008
"""Time between first and last echo from which the loss stands out of the noise (tissue at 3 T: a seventh)."""

FLUID_MM = 2.0
"""Fluid and pia kept around the closed surface of the tissue."""

MAX_DECAY = 2.5
"""Decay rates beyond so many medians of the brain are those of veins and of air nearby: they are cut."""


def extract_gre_brain(
    first_echo: Image,
    combined: Image,
    template: Image,
    *,
    last_echo: Image | None = None,
    compute: Compute,
    skull_stripped: bool | None = None,
) -> Brain:
    """Find the brain in a gradient-echo scan.

    Parameters
    ----------
    first_echo : image
        Magnitude of the first echo, which has lost least beside the sinuses.
    combined : image
        Magnitude of all echoes together on the same grid, for the registrations that follow.
    template : image
        T1-weighted template brain, 0 outside it.
    last_echo : image or None
        Magnitude of an echo at least `LEAST_SPAN_S` later; without it the fluid inside the skull belongs to the brain.
    compute : Compute
        Resources.
    skull_stripped : bool or None
        Whether the scan shows the brain only; None finds out.

    Returns
    -------
    Brain
        ``image`` is the combined magnitude, bias-corrected, 0 outside the mask.

    Raises
    ------
    ValueError
        The image is empty, or no brain of a plausible size was found in it.
    """
    found = extract_brain(
        first_echo, template, compute=compute, skull_stripped=skull_stripped, find_tissue=signal_voxels
    )
    mask = found.mask.numpy() > 0
    if last_echo is not None and not found.skull_stripped:
        loss = np.maximum(first_echo.numpy() - last_echo.numpy(), 0)
        mask = without_outer_fluid(mask, loss, voxel_size_mm=tuple(float(s) for s in first_echo.spacing))
    with ants_session(compute):
        kept = with_data(combined, mask)
        image = correct_bias(combined, mask=kept, compute=compute)
        return replace(found, mask=kept, image=with_data(image, image.numpy() * mask))


def signal_voxels(data: Floats, from_prior_mm: Floats) -> tuple[Bools, Bools]:
    """Voxels with as much signal as tissue and fluid have near the aligned template, twice.

    Raises
    ------
    ValueError
        The template does not lie in the image.
    """
    inside = data[from_prior_mm < -5]
    if inside.size < 1000:
        raise ValueError("the aligned template holds no voxels: the image is not a head, or its orientation is wrong")
    bright = ndimage.gaussian_filter(data, 0.5) > LEAST_SIGNAL * np.median(inside)
    seen = bright & (from_prior_mm < REACH_MM)
    return seen, seen


def without_outer_fluid(mask: Bools, loss: Floats, *, voxel_size_mm: tuple[float, ...]) -> Bools:
    """The inside of the skull without the fluid that lies more than `FLUID_MM` from the tissue.

    The tissue is eroded by 2 mm, which cuts the bridges to the dura, its largest part is grown back and closed over the
    sulci (10 mm), as in a T1w image.

    Parameters
    ----------
    mask : (x, y, z) bool
        Tissue and fluid.
    loss : (x, y, z) float32
        Signal of the first echo minus that of the last, any unit.
    voxel_size_mm : (3,) float
        Edge lengths.

    Raises
    ------
    ValueError
        No tissue is thicker than the erosion.
    """
    box = bounding_box(mask, 12.0 / np.asarray(voxel_size_mm))
    inside = mask[box]
    smooth = ndimage.gaussian_filter(loss[box], 0.5 / np.asarray(voxel_size_mm))
    tissue = inside & (smooth > LEAST_LOSS * np.median(smooth[inside]))
    radius = max(2.0, 1.01 * max(voxel_size_mm))
    inner = largest_component(ndimage.distance_transform_edt(tissue, sampling=voxel_size_mm) > radius)
    if not inner.any():
        raise ValueError("no brain tissue was found by the signal that it loses between the echoes")
    core = (distance_mm(inner, voxel_size_mm) <= radius + 1.0) & tissue
    surface = ndimage.binary_fill_holes(closing_mm(core, 10.0, voxel_size_mm))
    kept = np.zeros_like(mask)
    kept[box] = inside & (distance_mm(surface, voxel_size_mm) <= FLUID_MM)
    return kept


def decay_image(r2star_hz: Floats, brain: Bools) -> Floats:
    """Decay rates as an image to register: 0 outside the brain, cut at `MAX_DECAY` medians of it.

    Parameters
    ----------
    r2star_hz : (x, y, z) float32
        Decay rate, 1/s; 0 where there is none.
    brain : (x, y, z) bool

    Raises
    ------
    ValueError
        No voxel of the brain has a decay rate.
    """
    measured = r2star_hz[brain & (r2star_hz > 0)]
    if measured.size == 0:
        raise ValueError("no voxel of the brain has a decay rate")
    top = np.float32(MAX_DECAY * float(np.median(measured)))
    return np.where(brain, np.minimum(r2star_hz, top), np.float32(0))
