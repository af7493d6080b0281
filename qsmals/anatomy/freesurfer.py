"""A subject's folder of FreeSurfer or FastSurfer: the files in it, and whether it was made from a given T1w image."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

Floats = NDArray[Any]

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

MIN_CORRELATION = 0.6
"""Of a T1w image with FreeSurfer's own copy of it, evened out, where the two fit best: 0.99, with a coil's strong bias
and noise as well, and 0.85 where one of the two has lost its skull; 0.2 of a real brain with the template's in its
place."""

MAX_DISPLACEMENT_MM = 0.75
"""How far a T1w image may lie from FreeSurfer's own copy of it: half a voxel along two axes. Follow-ups with slices
that the scanner planned lie 1 to 2 mm apart."""

STEP_MM = 2.0
"""Voxels in which the two are compared."""

SMOOTHED_MM, AROUND_MM = 1.5, 8.0
"""Standard deviations of what is smoothed away, for grids that differ, and of the surroundings to which each voxel is
compared, for brightness that does."""

LEAST_VOXELS = 100
MOST_STEPS = 15
SETTLED_MM = 0.02
"""A step that moves the brain by less is the last."""


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


@dataclass(frozen=True)
class Match:
    """How a T1w image fits FreeSurfer's copy of it.

    Attributes
    ----------
    correlation : float
        Inside the brain, evened out, at the rigid motion where the two fit best, -1 to 1; 0 where they do not overlap.
        Below `MIN_CORRELATION` the folder is of another head.
    displacement_mm : float
        Median over the brain of that motion. Above `MAX_DISPLACEMENT_MM` the folder is of another scan of this head.
    """

    correlation: float
    displacement_mm: float


def same_head(t1w: Path, found: FreeSurferFolder) -> Match:
    """Whether a T1w image is the one from which FreeSurfer's folder was made.

    FreeSurfer keeps the coordinates of the scan it was given, so that its copy lies on it without any registration: the
    rigid motion that leads from one to the other is nothing. It is found by Gauss and Newton's method on images in
    which each voxel is compared to its surroundings, for FreeSurfer may have evened out the brightness (inverse
    compositional form: Baker and Matthews 2004, Int J Comput Vis 56:221, doi:10.1023/B:VISI.0000011205.11775.fd).

    Parameters
    ----------
    t1w : Path
    found : FreeSurferFolder
    """
    import nibabel as nib

    original, mask, image = (nib.load(path) for path in (found.original, found.brain_mask, t1w))
    brain = _plain(mask) > 0
    if not brain.any():
        return Match(0.0, 0.0)
    box = _Box.around(brain, mask.affine)
    inside = box.sampled(brain.astype(np.float32), mask.affine) > 0.5
    theirs = _evened(box.sampled(_smoothed(original), original.affine))
    head = _smoothed(image)
    if inside.sum() < LEAST_VOXELS:
        return Match(0.0, 0.0)

    def ours(motion: Floats) -> Floats:
        return _evened(box.sampled(head, image.affine, motion))[inside]

    return _best_match(theirs, inside, box, ours)


def _best_match(theirs: Floats, inside: NDArray[np.bool_], box: "_Box", ours: Callable[[Floats], Floats]) -> Match:
    """The rigid motion from ``theirs`` to ``ours`` by which they correlate best, from none."""
    gradient = np.stack([axis[inside] for axis in np.gradient(theirs)], axis=-1) @ np.linalg.inv(box.affine[:3, :3])
    points = np.argwhere(inside) @ box.affine[:3, :3].T + box.affine[:3, 3]
    centre = points.mean(axis=0)
    slopes = np.column_stack([gradient, np.cross(points - centre, gradient)])
    fixed, motion, best = theirs[inside], np.eye(4), Match(0.0, 0.0)
    for _ in range(MOST_STEPS):
        moving = ours(motion)
        if np.ptp(moving) == 0 or np.ptp(fixed) == 0:
            break
        correlation = float(np.corrcoef(fixed, moving)[0, 1])
        if correlation <= best.correlation:
            break
        best = Match(correlation, _displacement_mm(motion, points))
        change = np.linalg.lstsq(slopes, moving - fixed, rcond=None)[0]
        step = np.linalg.inv(_rigid(change, centre))
        if _displacement_mm(step, points) < SETTLED_MM:
            break
        motion = motion @ step
    return best


def _rigid(change: Floats, centre: Floats) -> Floats:
    """The (4, 4) motion of three shifts (mm) and a turn about ``centre`` (rotation vector, rad)."""
    motion = np.eye(4)
    motion[:3, :3] = Rotation.from_rotvec(change[3:]).as_matrix()
    motion[:3, 3] = change[:3] + centre - motion[:3, :3] @ centre
    return motion


def _displacement_mm(motion: Floats, points: Floats) -> float:
    """Median of how far a motion moves some points."""
    return float(np.median(np.linalg.norm(points @ motion[:3, :3].T + motion[:3, 3] - points, axis=1)))


@dataclass(frozen=True)
class _Box:
    """A grid of voxels of `STEP_MM`: its shape, and its voxels to scanner coordinates (4, 4)."""

    shape: tuple[int, ...]
    affine: Floats

    @classmethod
    def around(cls, brain: NDArray[np.bool_], affine: Floats) -> "_Box":
        """Along the axes of a mask, with its surroundings."""
        step = STEP_MM / np.linalg.norm(affine[:3, :3], axis=0)
        index = np.argwhere(brain)
        margin = AROUND_MM / STEP_MM * step
        low, high = index.min(axis=0) - margin, index.max(axis=0) + margin
        grid = np.diag([*step, 1.0])
        grid[:3, 3] = low
        return cls(tuple(int(n) for n in (high - low) // step + 1), affine @ grid)

    def sampled(self, data: Floats, affine: Floats, motion: Floats | None = None) -> Floats:
        """An image at the places of the grid, after a motion of these; 0 beyond its edges."""
        to_index = np.linalg.inv(affine) @ (np.eye(4) if motion is None else motion) @ self.affine
        return np.asarray(
            ndimage.affine_transform(data, to_index[:3, :3], to_index[:3, 3], output_shape=self.shape, order=1)
        )


def _smoothed(image: Any) -> Floats:
    """Voxels of an image without what is finer than `SMOOTHED_MM`."""
    size = np.linalg.norm(image.affine[:3, :3], axis=0)
    return np.asarray(ndimage.gaussian_filter(_plain(image), SMOOTHED_MM / size, truncate=3.0))


def _evened(data: Floats) -> Floats:
    """Each voxel of a `_Box` in standard deviations of its surroundings from their mean."""
    sigma = AROUND_MM / STEP_MM
    away = data - ndimage.gaussian_filter(data, sigma)
    spread = np.sqrt(ndimage.gaussian_filter(away * away, sigma))
    return np.asarray(away / np.maximum(spread, 0.01 * spread.max() or 1.0))


def _plain(image: Any) -> NDArray[np.float32]:
    data = np.asanyarray(image.dataobj).astype(np.float32)
    return data[..., 0] if data.ndim == 4 else data
