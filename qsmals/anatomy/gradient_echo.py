"""Brain extraction where there is no T1w image: from the gradient-echo scan itself.

The contrast of a gradient echo between grey matter, white matter and fluid depends on its timing and may be turned
round, so that tissue is told from what surrounds it by its signal alone: the skull has none. The template is aligned by
mutual information, which asks for no particular contrast. The decay rate is a second image of the same head on which
fluid is dark whatever the timing, and which no receive coil shades.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from qsmals.anatomy.bias import correct_bias
from qsmals.anatomy.brain import Brain, extract_brain
from qsmals.anatomy.compute import Compute, ants_session
from qsmals.anatomy.images import Image, with_data

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]

LEAST_SIGNAL = 0.35
"""Signal of tissue and fluid relative to the median of the brain; the skull has less."""

REACH_MM = 6.0
"""How far the brain may lie outside the aligned template."""

MAX_DECAY = 2.5
"""Decay rates beyond so many medians of the brain are those of veins and of air nearby: they are cut."""


def extract_gre_brain(
    first_echo: Image, combined: Image, template: Image, *, compute: Compute, skull_stripped: bool | None = None
) -> Brain:
    """Find the brain, with the fluid inside the skull, in a gradient-echo scan.

    Parameters
    ----------
    first_echo : image
        Magnitude of the first echo, which has lost least beside the sinuses.
    combined : image
        Magnitude of all echoes together on the same grid, for the registrations that follow.
    template : image
        T1-weighted template brain, 0 outside it.
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
    with ants_session(compute):
        image = correct_bias(combined, mask=found.mask, compute=compute)
        return replace(found, image=with_data(image, image.numpy() * found.mask.numpy()))


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
    seen = (ndimage.gaussian_filter(data, 0.5) > LEAST_SIGNAL * np.median(inside)) & (from_prior_mm < REACH_MM)
    return seen, seen


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
