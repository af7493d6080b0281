"""Grey matter, white matter and fluid on the T1w grid."""

import numpy as np
from numpy.typing import NDArray

from qsmals.anatomy.compute import Compute, ants_session, require_threads
from qsmals.anatomy.images import Image, with_data
from qsmals.recon.grid import bounding_box

CSF, GREY, WHITE = 1, 2, 3


def segment_tissues(brain: Image, mask: Image, *, compute: Compute) -> Image:
    """Segment a bias-corrected T1w brain with Atropos.

    Avants et al. 2011, Neuroinformatics 9:381, doi:10.1007/s12021-011-9109-y.

    Parameters
    ----------
    brain : image
        Bias-corrected T1w brain.
    mask : image
        Brain mask on the same grid.
    compute : Compute
        Resources; `sloppy` does 3 iterations in place of 10.

    Returns
    -------
    image
        On the same grid: 0 outside the brain mask, 1 fluid, 2 grey matter, 3 white matter. The classes start from
        intensity alone: smoothed labels of an atlas as a prior pull the boundary of the cortex back to where the
        atlas has it.

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
        result = ants.atropos(
            a=small,
            x=where,
            i="Kmeans[3]",
            m="[0.1,1x1x1]",
            c="[3,0]" if compute.sloppy else "[10,0.001]",
            priorweight=0.0,
            r=0,
        )
        for leftover in compute.work_dir.glob("antsr*prob*.nii.gz"):
            leftover.unlink()
        return _whole(brain, result["segmentation"].numpy(), box)


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
