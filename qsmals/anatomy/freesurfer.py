"""A subject's folder of FreeSurfer or FastSurfer: the files in it, and whether it was made from a given T1w image."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

SEGMENTATIONS = (
    "aparc+aseg.mgz",
    "aparc.DKTatlas+aseg.mgz",
    "aparc.DKTatlas+aseg.mapped.mgz",
    "aparc.DKTatlas+aseg.deep.withCC.mgz",
    "aparc.DKTatlas+aseg.deep.mgz",
)
"""Whole segmentations with the gyri of Desikan and Killiany (numbers 1001 to 2035), the first that is there counts."""

DESTRIEUX = "aparc.a2009s+aseg.mgz"
MASKS = ("brainmask.mgz", "mask.mgz")
ORIGINALS = ("orig.mgz", "rawavg.mgz", "T1.mgz", "orig_nu.mgz", "nu.mgz")
"""Images of the head before it was stripped: what the T1w image is compared with."""

MIN_CORRELATION = 0.8
"""Of a T1w image with FreeSurfer's own copy of it, inside the brain: 0.98 and more; with that of another head at the
same place at most 0.6."""

GRID_STEP = 3


@dataclass(frozen=True)
class FreeSurferFolder:
    """The files of one subject that are used.

    Attributes
    ----------
    folder : Path
    segmentation : Path
        One of `SEGMENTATIONS`.
    brain_mask : Path
        Positive in the brain.
    original : Path
        The head as FreeSurfer read it.
    destrieux : Path or None
        ``aparc.a2009s+aseg.mgz``, where it is.
    """

    folder: Path
    segmentation: Path
    brain_mask: Path
    original: Path
    destrieux: Path | None


def find_folder(subjects_dir: Path, subject: str, session: str | None) -> Path | None:
    """Folder of a subject under FreeSurfer's SUBJECTS_DIR, with and without ``sub-`` and the session.

    Parameters
    ----------
    subjects_dir : Path
    subject, session : str, str or None
        Labels without ``sub-`` and ``ses-``.
    """
    of_session = [f"sub-{subject}_ses-{session}", f"sub-{subject}.ses-{session}"] if session else []
    names = [*of_session, f"sub-{subject}", subject]
    return next((subjects_dir / name for name in names if (subjects_dir / name / "mri").is_dir()), None)


def read_folder(folder: Path) -> FreeSurferFolder:
    """The files of a subject's folder.

    Raises
    ------
    FileNotFoundError
        One is missing: the message names the folder and what it lacks.
    """
    mri = folder / "mri"
    destrieux = mri / DESTRIEUX
    return FreeSurferFolder(
        folder=folder,
        segmentation=_first(mri, SEGMENTATIONS),
        brain_mask=_first(mri, MASKS),
        original=_first(mri, ORIGINALS),
        destrieux=destrieux if destrieux.is_file() else None,
    )


def _first(folder: Path, names: Sequence[str]) -> Path:
    found = next((folder / name for name in names if (folder / name).is_file()), None)
    if found is None:
        raise FileNotFoundError(f"{folder} has no {' and no '.join(names)}: was recon-all run to its end?")
    return found


def same_head(t1w: Path, found: FreeSurferFolder) -> float:
    """Correlation of a T1w image with FreeSurfer's copy of it at the same scanner coordinates, inside the brain.

    FreeSurfer keeps the coordinates of the scan it was given, so that its copy lies on it without any registration.

    Parameters
    ----------
    t1w : Path
    found : FreeSurferFolder

    Returns
    -------
    float
        -1 to 1; 0 where the two do not overlap. Below `MIN_CORRELATION` the folder is of another head or scan.
    """
    import nibabel as nib

    original, mask, image = (nib.load(path) for path in (found.original, found.brain_mask, t1w))
    inside = _plain(mask)[::GRID_STEP, ::GRID_STEP, ::GRID_STEP] > 0
    if original.shape[:3] != mask.shape[:3] or not inside.any():
        return 0.0
    places = original.affine @ np.column_stack([GRID_STEP * np.argwhere(inside), np.ones(inside.sum())]).T
    theirs = _plain(original)[::GRID_STEP, ::GRID_STEP, ::GRID_STEP][inside]
    head = _plain(image)
    index = (np.linalg.inv(image.affine) @ places)[:3]
    ours = ndimage.map_coordinates(head, index, order=1, mode="constant", cval=0.0)
    if np.ptp(ours) == 0 or np.ptp(theirs) == 0:
        return 0.0
    return float(np.corrcoef(ours, theirs)[0, 1])


def _plain(image: Any) -> NDArray[np.float32]:
    data = np.asanyarray(image.dataobj).astype(np.float32)
    return data[..., 0] if data.ndim == 4 else data
