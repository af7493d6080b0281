"""Brain mask by deepbet, a neural network for T1w images whose weights come with its package.

Fisch L et al. 2024, Comput Biol Med 179:108845, doi:10.1016/j.compbiomed.2024.108845.
"""

import importlib.util
from pathlib import Path

import numpy as np

from qsmals.anatomy.images import Image, from_ants, to_ants


def deepbet_installed() -> bool:
    """Whether the package is there."""
    return importlib.util.find_spec("deepbet") is not None


def deepbet_mask(t1w: Image, folder: Path) -> Image:
    """Brain mask in the coordinates of the T1w image, on the processor, without network.

    Parameters
    ----------
    t1w : image
        T1-weighted head.
    folder : Path
        Where the files go by which deepbet takes its input and gives its result.

    Raises
    ------
    ModuleNotFoundError
        deepbet is not installed.
    """
    if not deepbet_installed():
        raise ModuleNotFoundError("deepbet is not installed: pip install 'qsmals[deepbet]'")
    import nibabel as nib
    from deepbet import run_bet

    data, affine = from_ants(t1w)
    head, mask = folder / "deepbet_head.nii.gz", folder / "deepbet_mask.nii.gz"
    nib.save(nib.Nifti1Image(data, affine), head)
    run_bet([str(head)], mask_paths=[str(mask)], no_gpu=True, skip_broken=False)
    found = nib.load(mask)
    return to_ants(np.asanyarray(found.dataobj) > 0, found.affine)
