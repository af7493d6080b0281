"""Registration: GRE to T1w (rigid), T1w to a template (SyN), and one interpolation from end to end.

SyN: Avants et al. 2008, Med Image Anal 12:26, doi:10.1016/j.media.2007.06.004.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from qsmals.anatomy import search
from qsmals.anatomy.bias import correct_bias, foreground
from qsmals.anatomy.brain import Brain
from qsmals.anatomy.compute import Compute, ants_session
from qsmals.anatomy.images import (
    Image,
    ball,
    cropped,
    index_to_physical,
    resampled,
    with_data,
)
from qsmals.anatomy.linear import read_affine
from qsmals.anatomy.stages import Metric, Stage, run_stages, write_affine
from qsmals.recon.grid import bounding_box

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Transform:
    """A transform and its inverse as files that ITK reads.

    Attributes
    ----------
    forward : Path
        Resamples the moving image on the fixed grid.
    inverse : Path
        Resamples the fixed image on the moving grid.
    """

    forward: Path
    inverse: Path


def register_gre(magnitude: Image, t1w: Image, brain: Brain, *, compute: Compute) -> Transform:
    """Rigid motion from the GRE to the T1w image of the same person.

    The first pass compares the heads from many starts (up to 30 mm and 20 degrees apart, from the scanner's
    coordinates and from the centres of mass), the second the brains alone, so that jaw, neck and fat,
    which move or are shifted, have no part in the result.

    Parameters
    ----------
    magnitude : image
        GRE magnitude, for example all echoes combined; it may cover a part of the brain.
    t1w : image
        The T1w image from which ``brain`` was found, with its skull if it has one.
    brain : Brain
        Result of brain extraction on ``t1w``.
    compute : Compute
        Resources; `sloppy` ends at voxels of 2 mm.

    Returns
    -------
    Transform
        ``forward`` takes GRE images to the T1w grid, ``inverse`` T1w images and labels to the GRE grid.

    Raises
    ------
    ValueError
        The magnitude is empty.
    """
    folder = compute.folder("gre_to_t1w")
    with ants_session(compute) as ants:
        corrected = correct_bias(magnitude, compute=Compute(compute.work_dir, compute.threads, compute.seed, True))
        matrix, centre = _first_pass(corrected, t1w, compute.seed)
        first = write_affine(matrix, folder / "first.mat", centre_mm=centre)
        mask = ants.apply_transforms(corrected, brain.mask, [str(first)], interpolator="linear")
        inside = ndimage.binary_dilation(mask.numpy() > 0.5, ball(3.0, mask.spacing))
        if not inside.any():
            raise ValueError(
                "the GRE and the brain of the T1w image do not overlap: view one over the other; if both are of this "
                "head, give the transform between them (-d NAME=PATH)"
            )
        box = bounding_box(inside, 2)
        fixed = cropped(with_data(corrected, corrected.numpy() * inside), box)
        fine = 2.0 if compute.sloppy else max(1.0, float(np.min(magnitude.spacing)))
        stage = Stage(
            "Rigid[0.1]",
            (Metric("MI", resampled(fixed, fine), resampled(brain.image, fine), sampling=0.5),),
            iterations=(100, 50) if compute.sloppy else (100, 100, 50),
            shrink=(2, 1) if compute.sloppy else (4, 2, 1),
            smoothing=(1, 0) if compute.sloppy else (2, 1, 0),
            fixed_mask=cropped(with_data(corrected, inside), box),
        )
        affine, _ = run_stages([stage], initial=[first], composite=False, prefix=folder / "rigid", compute=compute)
        rigid = nearest_rigid(read_affine(affine))
        to_gre = write_affine(rigid, folder / "from-T1w_to-MEGRE.mat", centre_mm=centre)
        there = (rigid @ np.append(centre, 1))[:3]
        to_t1w = write_affine(
            np.asarray(np.linalg.inv(rigid), dtype=np.float64), folder / "from-MEGRE_to-T1w.mat", centre_mm=there
        )
    return Transform(to_t1w, to_gre)


def _first_pass(gre: Image, t1w: Image, seed: int) -> tuple[Floats, Floats]:
    """Rigid map (4, 4) from GRE points to T1w points and the GRE's centre, by search at 4 mm."""
    fixed, moving = resampled(gre, 4.0), resampled(t1w, 4.0)
    seen = foreground(fixed.numpy())
    to_physical = index_to_physical(fixed)
    near = ndimage.binary_dilation(seen, ball(8.0, fixed.spacing))
    points = search.sample(
        fixed.numpy(), to_physical, near, count=8000, bins=search.BINS, rng=np.random.default_rng(seed)
    )
    target = search.volume(moving.numpy(), index_to_physical(moving), foreground(moving.numpy()), bins=search.BINS)
    centre = to_physical[:3, :3] @ np.argwhere(seen).mean(0) + to_physical[:3, 3]
    goal = _centre(foreground(moving.numpy()), moving)
    best, _ = search.multistart(points, target, _motions(goal - centre), centre, keep=6, step_mm=0.5)
    return search.similarity_matrix(best, centre), centre


def _centre(mask: NDArray[np.bool_], image: Image) -> Floats:
    """Centre of a mask, LPS mm."""
    matrix = index_to_physical(image)
    return np.asarray(matrix[:3, :3] @ np.argwhere(mask).mean(0) + matrix[:3, 3])


def _motions(between_centres_mm: Floats) -> Floats:
    """Starts (n, 6): from no motion and from matched centres, turned and shifted along each axis."""
    turns = [np.zeros(3), *(sign * 0.26 * axis for axis in np.eye(3) for sign in (-1, 1))]
    shifts = [np.zeros(3), *(sign * 20.0 * axis for axis in np.eye(3) for sign in (-1, 1))]
    bases = [np.zeros(3), between_centres_mm, between_centres_mm * np.array([1.0, 1.0, 0.0])]
    return np.array([np.concatenate([t, b + s]) for b in bases for s in shifts for t in turns])


def both_ways(forward: Path | None, inverse: Path | None, folder: Path) -> Transform:
    """A linear transform of which only one direction may be known, with the other one computed.

    Parameters
    ----------
    forward, inverse : Path or None
        ITK affine files; at least one.
    folder : Path
        Where a computed one is written.

    Raises
    ------
    ValueError
        Neither is given, or a file is no linear transform.
    """
    known = forward or inverse
    if known is None:
        raise ValueError("a transform is needed in one direction at least")
    if forward and inverse:
        return Transform(forward, inverse)
    inverted = np.asarray(np.linalg.inv(read_affine(known)), dtype=np.float64)
    other = write_affine(inverted, folder / "other.mat")
    return Transform(forward or other, inverse or other)


def nearest_rigid(matrix: Floats) -> Floats:
    """The rigid (4, 4) map nearest to a nearly rigid one; the origin's image is kept."""
    left, _, right = np.linalg.svd(matrix[:3, :3])
    rigid = matrix.copy()
    rigid[:3, :3] = left @ right
    return rigid


def register_template(
    brain: Brain, template: Image, *, compute: Compute, name: str = "template", more: Sequence[Image] = ()
) -> Transform:
    """SyN from a T1w brain to a template brain.

    Parameters
    ----------
    brain : Brain
        Result of brain extraction.
    template : image
        T1-weighted template brain, 0 outside it.
    compute : Compute
        Resources; `sloppy` ends at voxels of 4 mm.
    name : str
        Folder of the transform files under the work folder.
    more : sequence of image
        Further contrasts of the same brain on its grid, 0 outside it; each is compared to the template as well.

    Returns
    -------
    Transform
        ``forward`` takes T1w images to the template grid, ``inverse`` template images and labels to the
        T1w grid.
    """
    folder = compute.folder(f"t1w_to_{name}")
    with ants_session(compute):
        fixed = _brain_box(template)
        moving = [_brain_box(image) for image in (brain.image, *more)]
        if compute.sloppy:
            fixed, moving = resampled(fixed, 2.0), [resampled(image, 2.0) for image in moving]
        coarse = tuple(Metric("MI", fixed, image, sampling=0.25) for image in moving)
        affine = Stage("Affine[0.1]", coarse, (200, 100, 50), (6, 4, 2), (3, 2, 1))
        fine = tuple(Metric("MI", fixed, image) for image in moving)
        syn = Stage("SyN[0.2,3,0]", fine, *_syn_levels(compute.sloppy))
        forward, inverse = run_stages(
            [affine, syn], initial=[brain.to_template], composite=True, prefix=folder / "syn", compute=compute
        )
    return Transform(forward, inverse)


def register_templates(fixed: Image, moving: Image, *, compute: Compute) -> Transform:
    """SyN of one template brain to another, over the whole brain.

    Parameters
    ----------
    fixed, moving : image
        T1-weighted template brains in MNI space, 0 outside the brain.
    compute : Compute
        Resources; `sloppy` ends at voxels of 4 mm.
    """
    folder = compute.folder("between_templates")
    with ants_session(compute):
        start = write_affine(np.eye(4), folder / "identity.mat")
        near, far = _brain_box(fixed), _brain_box(moving)
        if compute.sloppy:
            near, far = resampled(near, 2.0), resampled(far, 2.0)
        affine = Stage("Affine[0.1]", (Metric("MI", near, far, sampling=0.25),), (100, 50), (6, 4), (3, 2))
        syn = Stage("SyN[0.2,3,0]", (Metric("MI", near, far),), *_syn_levels(compute.sloppy))
        forward, inverse = run_stages(
            [affine, syn], initial=[start], composite=True, prefix=folder / "syn", compute=compute
        )
    return Transform(forward, inverse)


def _syn_levels(sloppy: bool) -> tuple[tuple[int, ...], tuple[int, ...], tuple[float, ...]]:
    """Iterations, shrink factors and smoothing of SyN."""
    if sloppy:
        return (40, 20), (4, 2), (2.0, 1.0)
    return (100, 70, 50), (8, 4, 2), (3.0, 2.0, 1.0)


def _brain_box(image: Image) -> Image:
    """A brain-only image cropped to the brain with 10 mm around it."""
    data = image.numpy()
    return cropped(image, bounding_box(data > 0.01 * data.max(), 10.0 / np.asarray(image.spacing)))


def resample(
    image: Image, reference: Image, transforms: Sequence[Path], *, labels: bool = False, order: int = 1
) -> Image:
    """Bring an image to another grid through several transforms in one interpolation.

    Parameters
    ----------
    image : image
        What to resample.
    reference : image
        Its grid is that of the result.
    transforms : sequence of Path
        From the transform nearest to ``image`` to the one nearest to ``reference``: for template labels on
        the GRE grid ``[t1w_to_template.inverse, gre_to_t1w.inverse]``. None where both share their coordinates.
    labels : bool
        Interpolate each label's membership and take the largest (no new label values, smooth edges).
    order : {0, 1, 3}
        Of the spline for maps: 0 nearest voxel, 1 linear, 3 cubic.

    Raises
    ------
    FileNotFoundError
        A transform file is missing.
    """
    import ants

    if missing := [str(path) for path in transforms if not Path(path).is_file()]:
        raise FileNotFoundError(f"no transform file {', '.join(missing)}")
    interpolator = "genericLabel" if labels else {0: "nearestNeighbor", 1: "linear", 3: "bSpline"}[order]
    if not transforms:
        return ants.resample_image_to_target(image, reference, interp_type=interpolator)
    files = [str(path) for path in reversed(transforms)]
    return ants.apply_transforms(reference, image, files, interpolator=interpolator, whichtoinvert=[False] * len(files))
