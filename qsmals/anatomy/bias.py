"""Correction of the slow intensity variation of the receive coils (N4)."""

import numpy as np

from qsmals.anatomy.compute import Compute, ants_session, require_threads
from qsmals.anatomy.images import Image, with_data


def correct_bias(image: Image, *, mask: Image | None = None, compute: Compute) -> Image:
    """Divide out the smooth bias field of an image (N4).

    Tustison et al. 2010, IEEE Trans Med Imaging 29:1310, doi:10.1109/TMI.2010.2046908.

    Parameters
    ----------
    image : image
        Any unit; negative values (ringing, interpolation) are set to 0.
    mask : image or None
        Where the field is estimated; None means the voxels brighter than the background. The field is
        divided out everywhere.
    compute : Compute
        Resources; `sloppy` works on voxels twice as large with fewer iterations.

    Returns
    -------
    image
        Same grid, scaled so that the 98th percentile inside the mask is 100.

    Raises
    ------
    ValueError
        The image is empty or constant.
    """
    require_threads(compute)
    with ants_session(compute) as ants:
        data = np.maximum(image.numpy().astype(np.float32), 0)
        inside = foreground(data) if mask is None else mask.numpy() > 0
        if not inside.any() or float(np.ptp(data[inside])) == 0:
            raise ValueError("the image is empty or constant: there is nothing to correct")
        shrink = max(1, round((6.0 if compute.sloppy else 4.0) / float(np.mean(image.spacing))))
        iterations = [20, 20] if compute.sloppy else [50, 50, 30]
        field = ants.n4_bias_field_correction(
            with_data(image, data / np.percentile(data[inside], 98) * 100),
            mask=with_data(image, inside),
            shrink_factor=shrink,
            convergence={"iters": iterations, "tol": 1e-5},
            spline_param=[4, 4, 4] if compute.sloppy else 200,
            return_bias_field=True,
        ).numpy()
        corrected = data / np.maximum(field, 1e-3)
        return with_data(image, corrected * (100 / np.percentile(corrected[inside], 98)))


def foreground(data: np.ndarray) -> np.ndarray:
    """Voxels brighter than a fifth of the bright tissue (98th percentile of the positive voxels)."""
    positive = data[data > 0]
    if positive.size == 0:
        return np.zeros(data.shape, dtype=bool)
    return np.asarray(data > 0.2 * np.percentile(positive, 98))
