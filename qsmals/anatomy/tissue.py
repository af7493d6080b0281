"""Grey matter, white matter and fluid on the T1w grid."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from qsmals.anatomy.compute import Compute, ants_session, require_threads
from qsmals.anatomy.images import Image, bounding_box, with_data

CSF, GREY, WHITE = 1, 2, 3

FLUID_LABELS = (4, 5, 14, 15, 24, 31, 43, 44, 63)
WHITE_LABELS = (2, 7, 16, 28, 41, 46, 60, 77, 85, 251, 252, 253, 254, 255)
"""FreeSurfer's indices of fluid, and of tissue as bright as white matter on T1w images."""


@dataclass(frozen=True)
class Tissues:
    """A three-class segmentation on the grid of the T1w image.

    Attributes
    ----------
    labels : image
        0 outside the brain mask, 1 fluid, 2 grey matter, 3 white matter.
    csf, grey, white : image
        Probability of each class, 0 to 1.
    """

    labels: Image
    csf: Image
    grey: Image
    white: Image


def segment_tissues(brain: Image, mask: Image, *, labels: Image | None = None, compute: Compute) -> Tissues:
    """Segment a bias-corrected T1w brain with Atropos.

    Avants et al. 2011, Neuroinformatics 9:381, doi:10.1007/s12021-011-9109-y.

    Parameters
    ----------
    brain : image
        Bias-corrected T1w brain.
    mask : image
        Brain mask on the same grid.
    labels : image or None
        FreeSurfer labels warped from the atlas to the same grid: smoothed by 2 mm they are the prior, with
        a weight of 0.25, which keeps the pale deep nuclei grey. None starts from intensity alone.
    compute : Compute
        Resources; `sloppy` does 3 iterations in place of 10.

    Raises
    ------
    ValueError
        The mask is empty.
    """
    inside = mask.numpy() > 0
    box = bounding_box(inside, 4)
    with ants_session(compute) as ants:
        require_threads(compute)
        small, where = _plain(brain.numpy()[box], brain), _plain(inside[box], brain)
        start = "Kmeans[3]" if labels is None else _priors(_plain(labels.numpy()[box], brain), where)
        result = ants.atropos(
            a=small,
            x=where,
            i=start,
            m="[0.1,1x1x1]",
            c="[3,0]" if compute.sloppy else "[10,0.001]",
            priorweight=0.25,
            r=0,
        )
        for leftover in compute.work_dir.glob("antsr*prob*.nii.gz"):
            leftover.unlink()
        maps = [_whole(brain, p.numpy(), box) for p in result["probabilityimages"]]
        return Tissues(_whole(brain, result["segmentation"].numpy(), box), *maps)


def _plain(data: NDArray[np.float32], reference: Image) -> Image:
    """Image of the array with the reference's voxel size, at the origin and unturned.

    Atropos reads its priors from files, whose headers keep seven digits of the origin: it then finds that
    they lie elsewhere than the image. This way there are no digits to lose.
    """
    import ants

    spacing = tuple(float(np.float32(s)) for s in reference.spacing)
    return ants.from_numpy(np.ascontiguousarray(data, dtype=np.float32), spacing=spacing)


def _whole(reference: Image, data: NDArray[np.float32], box: tuple[slice, slice, slice]) -> Image:
    """Put a cropped array back on the grid of ``reference``."""
    whole = np.zeros(reference.shape, dtype=np.float32)
    whole[box] = data
    return with_data(reference, whole)


def _priors(labels: Image, mask: Image) -> list[Image]:
    """Prior probabilities of fluid, grey and white matter from FreeSurfer labels, each at least 0.02."""
    data, inside = np.rint(labels.numpy()).astype(np.int32), mask.numpy() > 0
    fluid = np.isin(data, FLUID_LABELS) | ((data == 0) & inside)
    white = np.isin(data, WHITE_LABELS)
    grey = (data > 0) & ~fluid & ~white
    sigma = 2.0 / np.asarray(labels.spacing)
    soft = np.stack([ndimage.gaussian_filter(m.astype(np.float32), sigma) + 0.02 for m in (fluid, grey, white)])
    soft /= soft.sum(0)
    return [with_data(labels, np.where(inside, p, 0)) for p in soft]


def eroded_core(probability: Image, *, threshold: float = 0.9, erosion_mm: float = 2.0) -> NDArray[np.bool_]:
    """Voxels of a class away from its edges: above ``threshold`` and ``erosion_mm`` deep.

    An erosion that would leave under a hundred voxels is halved until it does not.
    """
    mask = probability.numpy() > threshold
    depth = ndimage.distance_transform_edt(np.pad(mask, 1), sampling=tuple(probability.spacing))[1:-1, 1:-1, 1:-1]
    while erosion_mm > 0.1 and (depth > erosion_mm).sum() < 100:
        erosion_mm /= 2
    return np.asarray(depth > erosion_mm)
