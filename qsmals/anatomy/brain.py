"""Brain extraction of a T1w image with a brain-only template.

The template has no skull, so that the skull must never pull on it: the scalp, known by its depth
under the air, is removed first, the first alignment looks at the inside of the brain alone and from many
starts, and the warped template mask is only a prior: the edge is then found in the image.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from qsmals.anatomy import search
from qsmals.anatomy.bias import correct_bias
from qsmals.anatomy.compute import Compute, ants_session
from qsmals.anatomy.images import (
    Image,
    ball,
    distance_mm,
    index_to_physical,
    largest_component,
    resampled,
    with_data,
)
from qsmals.anatomy.stages import Metric, Stage, run_stages, write_affine

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]

SCALP_MM = 8.0
"""Depth under the air within which no adult has brain (scalp of 5-7 mm over a skull of 4-8 mm)."""

BINS = 24


@dataclass(frozen=True)
class Brain:
    """What brain extraction found.

    Attributes
    ----------
    mask : image
        1 in the brain with the fluid that surrounds it, 0 elsewhere; grid of the T1w image.
    image : image
        The T1w image, bias-corrected, 0 outside the mask, white matter near 100.
    skull_stripped : bool
        The T1w image was brain-only when it came.
    to_template : Path or None
        Affine, T1w image to template, with which a registration may start; None without a template.
    """

    mask: Image
    image: Image
    skull_stripped: bool
    to_template: Path


def extract_brain(t1w: Image, template: Image, *, compute: Compute) -> Brain:
    """Find the brain in a T1w image with or without skull.

    Parameters
    ----------
    t1w : image
        T1-weighted head, any grid; the orientation in its header must be right.
    template : image
        T1-weighted template brain, 0 outside it.
    compute : Compute
        Resources; `sloppy` works at 3 mm and skips the deformation.

    Raises
    ------
    ValueError
        The image is empty, or no brain of a plausible size (500 to 2500 ml) was found in it.
    """
    with ants_session(compute):
        coarse = Compute(compute.work_dir, compute.threads, compute.seed, sloppy=True)
        head = resampled(correct_bias(t1w, compute=coarse), 3.0 if compute.sloppy else 2.0)
        start = align_template(head, template, compute=compute)
        stripped = is_brain_only(head, template, start)
        ...
