"""The stages of an ANTs registration, written out, and the one call that runs them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qsmals.anatomy.compute import Compute, require_threads
from qsmals.anatomy.hdf5 import clear_times
from qsmals.anatomy.images import Image


@dataclass(frozen=True)
class Metric:
    """One similarity term.

    Attributes
    ----------
    name : str
        ``MI`` (32 bins), ``CC`` (neighbourhood cross-correlation), ``GC`` or ``MeanSquares``.
    fixed, moving : image
        The pair it compares.
    weight : float
        Its share among the terms of a stage.
    parameter : int
        Bins of MI, radius in voxels of CC.
    sampling : float or None
        Share of voxels of a regular sample, None for all.
    """

    name: str
    fixed: Image
    moving: Image
    weight: float = 1.0
    parameter: int = 32
    sampling: float | None = None


@dataclass(frozen=True)
class Stage:
    """One transform model with its metrics and its levels from coarse to fine.

    Attributes
    ----------
    transform : str
        For example ``Rigid[0.1]``, ``Affine[0.1]``, ``SyN[0.2,3,0]``.
    metrics : tuple of Metric
        Terms to add up.
    iterations, shrink : tuple of int
        Most iterations and the subsampling factor of each level.
    smoothing : tuple of float
        Gaussian sigma of each level, voxels.
    fixed_mask, moving_mask : image or None
        Where the metrics are evaluated.
    """

    transform: str
    metrics: tuple[Metric, ...]
    iterations: tuple[int, ...]
    shrink: tuple[int, ...]
    smoothing: tuple[float, ...]
    fixed_mask: Image | None = None
    moving_mask: Image | None = None


def run_stages(
    stages: Sequence[Stage], *, initial: Sequence[Path] = (), composite: bool, prefix: Path, compute: Compute
) -> tuple[Path, Path]:
    """Register and return the transform file (moving image to fixed grid) and that of its inverse.

    Parameters
    ----------
    stages : sequence of Stage
        In order; all on the same pair of spaces.
    initial : sequence of Path
        Transforms to begin with, in the order of antsRegistration (the first listed is applied last).
    composite : bool
        True writes ``<prefix>Composite.h5`` and ``<prefix>InverseComposite.h5``; False is for linear
        stages only: both paths are ``<prefix>0GenericAffine.mat``.
    prefix : Path
        Start of the names of the files to write.

    Raises
    ------
    RuntimeError
        antsRegistration failed, with the names of the files it worked on.
    """
    import ants
    from ants.internal import get_pointer_string as pointer

    require_threads(compute)
    moved, fixed_moved = stages[0].metrics[0].fixed.clone("float"), stages[0].metrics[0].moving.clone("float")
    keep_alive: list[Any] = []
    arguments = ["--dimensionality", "3", "--float", "1", "--random-seed", str(compute.seed), "-z", "1", "-u", "0"]
    arguments += ["--output", f"[{prefix},{pointer(moved)},{pointer(fixed_moved)}]"]
    arguments += ["--write-composite-transform", str(int(composite))]
    if initial:
        arguments += ["-r", *(str(path) for path in initial)]
    for stage in stages:
        arguments += _stage_arguments(stage, keep_alive, pointer)
    try:
        ants.registration(arguments, None)
    except Exception as error:
        raise RuntimeError(f"antsRegistration failed ({error}) while writing {prefix}*") from error
    if composite:
        files = Path(f"{prefix}Composite.h5"), Path(f"{prefix}InverseComposite.h5")
        for file in files:
            clear_times(file)
        return files
    return Path(f"{prefix}0GenericAffine.mat"), Path(f"{prefix}0GenericAffine.mat")


def _stage_arguments(stage: Stage, keep_alive: list[Any], pointer: Any) -> list[str]:
    """Command line of one stage; images made for it are appended to ``keep_alive``."""

    def address(image: Image | None) -> str:
        if image is None:
            return "NA"
        clone = image.clone("float")
        keep_alive.append(clone)
        return str(pointer(clone))

    arguments = ["--transform", stage.transform]
    for m in stage.metrics:
        sampling = f",Regular,{m.sampling}" if m.sampling else ""
        arguments += [
            "--metric",
            f"{m.name}[{address(m.fixed)},{address(m.moving)},{m.weight},{m.parameter}{sampling}]",
        ]
    arguments += ["--convergence", f"[{_times(stage.iterations)},1e-6,10]"]
    arguments += ["--shrink-factors", _times(stage.shrink)]
    arguments += ["--smoothing-sigmas", _times(stage.smoothing) + "vox"]
    return [*arguments, "--masks", f"[{address(stage.fixed_mask)},{address(stage.moving_mask)}]"]


def _times(values: Sequence[float]) -> str:
    """``(4, 2, 1)`` as ``4x2x1``."""
    return "x".join(f"{v:g}" for v in values)


def write_affine(matrix: NDArray[np.float64], path: Path, *, centre_mm: ArrayLike = (0.0, 0.0, 0.0)) -> Path:
    """Write a (4, 4) map of LPS points (fixed to moving) as an ITK affine about ``centre_mm``."""
    import ants

    centre = np.asarray(centre_mm, dtype=float)
    translation = matrix[:3, :3] @ centre + matrix[:3, 3] - centre
    path.parent.mkdir(parents=True, exist_ok=True)
    transform = ants.create_ants_transform(
        transform_type="AffineTransform",
        precision="double",
        dimension=3,
        matrix=matrix[:3, :3],
        translation=translation,
        center=centre,
    )
    ants.write_transform(transform, str(path))
    return path
