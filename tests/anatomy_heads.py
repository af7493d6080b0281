"""Small heads with known truth for the tests of the anatomical steps: the packaged template with a skull around it."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

from qsmals.anatomy.images import LPS_FROM_RAS, distance_mm, index_to_physical, resampled, to_ants, with_data
from qsmals.anatomy.templates import NLIN6, template_path

CSF, BONE, SCALP = 15.0, 4.0, 95.0


@dataclass(frozen=True)
class SmallHead:
    """A head on a coarse grid.

    Attributes
    ----------
    t1w, gre : image
        T1-weighted and gradient-echo contrast on the same grid.
    brain : (x, y, z) bool
        Where its brain is.
    """

    t1w: Any
    gre: Any
    brain: np.ndarray


def template() -> Any:
    """The packaged NLin6 brain."""
    import nibabel as nib

    loaded = nib.load(template_path(NLIN6))
    return to_ants(np.asanyarray(loaded.dataobj), loaded.affine)


def small_head(voxel_mm: float = 3.0, *, seed: int = 3) -> SmallHead:
    """The template's brain with fluid (3 mm), bone (6 mm) and scalp (6 mm) around it, noise and a coil's bias."""
    coarse = resampled(template(), voxel_mm)
    pad = int(np.ceil(24 / voxel_mm))
    data = np.pad(coarse.numpy(), pad)
    brain = largest(data > 0.15 * np.percentile(data[data > 0], 98))
    tissue = np.where(brain, data / np.percentile(data[brain], 98) * 80, 0)
    outside = distance_mm(brain, (voxel_mm,) * 3)
    t1w, gre = tissue.copy(), np.where(brain, 120 - 0.8 * tissue, 0)
    for depth, t1w_value, gre_value in ((15, SCALP, 70.0), (9, BONE, 4.0), (3, CSF, 90.0)):
        shell = (outside > 0) & (outside <= depth)
        t1w[shell], gre[shell] = t1w_value, gre_value
    rng = np.random.default_rng(seed)
    x = np.linspace(-1, 1, data.shape[0])[:, None, None]
    bias = 1 + 0.15 * x
    affine = LPS_FROM_RAS @ index_to_physical(coarse)
    affine[:3, 3] -= affine[:3, :3] @ np.full(3, pad)
    noisy = [np.abs(v * bias + rng.normal(0, 1.5, v.shape)) * (outside < 30) for v in (t1w, gre)]
    return SmallHead(to_ants(noisy[0], affine), to_ants(noisy[1], affine), brain)


def largest(mask: np.ndarray) -> np.ndarray:
    """Largest component, holes filled."""
    labels, _ = ndimage.label(mask)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return ndimage.binary_fill_holes(labels == sizes.argmax())


def moved(image: Any, motion: np.ndarray) -> Any:
    """The image with its content moved by ``motion`` (4, 4; LPS mm): what was at p is at motion @ p."""
    matrix = index_to_physical(image)
    to_index = np.linalg.inv(matrix) @ np.linalg.inv(motion) @ matrix
    data = ndimage.affine_transform(image.numpy(), to_index[:3, :3], to_index[:3, 3], order=1)
    return with_data(image, data)


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """Overlap of two masks."""
    return 2.0 * float((a & b).sum()) / float(a.sum() + b.sum())
