"""Rigid registration of GRE to T1w with known displacements, slabs, and the T1w image of somebody else.

    python benchmarks/registration.py DATA_FOLDER [--docs docs] [--work-dir DIR] [--threads N] [--sloppy]

DATA_FOLDER has one folder a head with `T1.mgz` (or `.nii.gz`). From each T1w image a GRE magnitude is made (contrast
turned round, a coil's shading, noise), displaced by a known motion, and registered back; docs/registration.md gets the
mean error over the brain in mm, the measures of quality, and whether the check passed. With two heads or more each GRE,
and a slab of it, is also registered to the T1w image of the others, which the check must fail. Without such a folder it
says so and does nothing.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from anatomy import find, read
from measuring import markdown
from scipy import ndimage

from qsmals import __version__
from qsmals.anatomy.brain import Brain, extract_brain
from qsmals.anatomy.compute import Compute, ants_session
from qsmals.anatomy.images import cropped, index_to_physical, with_data
from qsmals.anatomy.linear import read_affine
from qsmals.anatomy.quality import RegistrationQuality, rigid_quality
from qsmals.anatomy.registration import register_gre
from qsmals.anatomy.search import similarity_matrix
from qsmals.anatomy.templates import NLIN6, template_path

MOTIONS = {
    "none": (0, 0, 0, 0, 0, 0),
    "5 mm, 5 degrees": (5, 0, 0, 3, -3, 2.6),
    "20 mm, 15 degrees": (15, 0, 0, 12, -10, 12.5),
    "20 mm, 15 degrees about z": (0, 0, 15, -12, 12, -10.5),
}
"""Turns about x, y, z (degrees) and shifts (mm)."""

SLABS = (0.6, 0.2)
"""Shares of the brain that slabs show; the smaller one is a slab for the midbrain."""


def gradient_echo(t1w: Any, brain: Brain, *, seed: int) -> Any:
    """A GRE magnitude of the same head: grey brighter than white, fluid bright, a coil's shading, noise."""
    data = t1w.numpy()
    inside = brain.mask.numpy() > 0
    white = float(np.percentile(data[inside], 90))
    tissue = data > 0.12 * white
    value = np.where(tissue, 1.35 * white - 0.7 * np.minimum(data, 1.3 * white), 0.0)
    value[inside & ~tissue] = 1.3 * white
    rng = np.random.default_rng(seed)
    slope = 1 + 0.3 * np.linspace(-1, 1, data.shape[1])[None, :, None]
    noise = rng.normal(0, 0.03 * white, (2, *data.shape))
    return with_data(t1w, np.hypot(ndimage.gaussian_filter(value, 0.5) * slope + noise[0], noise[1]))


def moved(image: Any, motion: np.ndarray) -> Any:
    """The image with its content moved: what was at p is at ``motion`` @ p (LPS, mm)."""
    matrix = index_to_physical(image)
    to_index = np.linalg.inv(matrix) @ np.linalg.inv(motion) @ matrix
    return with_data(image, ndimage.affine_transform(image.numpy(), to_index[:3, :3], to_index[:3, 3], order=1))


def motion_of(name: str, centre: np.ndarray) -> np.ndarray:
    """The (4, 4) motion of that name about the centre of the brain."""
    turns, shift = np.radians(MOTIONS[name][:3]), MOTIONS[name][3:]
    return np.asarray(similarity_matrix(np.array([*turns, *shift], dtype=float), centre))


def slab_of(image: Any, where: np.ndarray, share: float) -> Any:
    """The slices, across the axis nearest to head-foot, around the brain's middle that hold a share of its voxels."""
    axis = int(np.abs(np.asarray(image.direction)[2]).argmax())
    voxels = where.sum(axis=tuple(other for other in range(3) if other != axis))
    filled = np.flatnonzero(voxels)
    outwards = np.argsort(np.abs(np.arange(len(voxels)) - filled[[0, -1]].mean()), kind="stable")
    enough = int(np.searchsorted(np.cumsum(voxels[outwards]), share * voxels.sum())) + 1
    box = [slice(0, n) for n in image.shape]
    box[axis] = slice(int(outwards[:enough].min()), int(outwards[:enough].max()) + 1)
    return cropped(image, tuple(box))


def error_mm(found: Path, motion: np.ndarray, points: np.ndarray) -> float:
    """Mean distance between where the found and the true motion put the points of the brain."""
    back = read_affine(found) @ (motion @ points)
    return float(np.linalg.norm((back - points)[:3], axis=0).mean())


def run(heads: dict[str, Any], compute: Compute) -> list[list[str]]:
    """One row a registration."""
    rows = []
    brains = {}
    with ants_session(compute):
        template = read(template_path(NLIN6))
        for name, t1w in heads.items():
            own = Compute(compute.work_dir / name, compute.threads, compute.seed, compute.sloppy)
            brains[name] = extract_brain(t1w, template, compute=own)
        for name, t1w in heads.items():
            brain = brains[name]
            matrix = index_to_physical(t1w)
            inside = np.argwhere(brain.mask.numpy() > 0)[::50]
            points = matrix @ np.column_stack([inside, np.ones(len(inside))]).T
            gre = gradient_echo(t1w, brain, seed=compute.seed)
            cases = [(motion, 1.0) for motion in MOTIONS] + [("20 mm, 15 degrees", share) for share in SLABS]
            for motion_name, share in cases:
                motion = motion_of(motion_name, points[:3].mean(1))
                image = moved(gre, motion)
                if share < 1:
                    image = slab_of(image, moved(brain.mask, motion).numpy() > 0.5, share)
                found, quality, seconds = registered(image, t1w, brain, compute)
                what = motion_name + slab_words(share)
                rows.append(row(name, name, what, quality, seconds, error_mm(found, motion, points)))
            for other, share in ((other, share) for other in heads if other != name for share in (1.0, SLABS[-1])):
                image = slab_of(gre, brain.mask.numpy() > 0, share) if share < 1 else gre
                _, quality, seconds = registered(image, heads[other], brains[other], compute)
                rows.append(row(name, other, "another person" + slab_words(share), quality, seconds, None))
    return rows


def slab_words(share: float) -> str:
    """What a slab shows, after the displacement's name."""
    return f", slab of {100 * share:.0f} % of the brain" if share < 1 else ""


def registered(image: Any, t1w: Any, brain: Brain, compute: Compute) -> tuple[Path, RegistrationQuality, float]:
    """T1w-to-GRE transform, its quality, and seconds."""
    start = time.monotonic()
    found = register_gre(image, t1w, brain, compute=compute)
    seconds = time.monotonic() - start
    return found.inverse, rigid_quality(image, brain.image, brain.mask, found.forward), seconds


def row(gre: str, t1w: str, what: str, quality: RegistrationQuality, seconds: float, error: float | None) -> list[str]:
    """Cells of the table; also printed."""
    cells = [gre, t1w, what, "–" if error is None else f"{error:.2f}", f"{quality.in_view_ml:.0f}"]
    cells += [f"{quality.brain_dice:.2f}", f"{quality.sharpness:.2f}"]
    cells += ["passed" if quality.passed else "failed", f"{seconds:.0f}"]
    print(" | ".join(cells), flush=True)
    return cells


def report(rows: list[list[str]], compute: Compute) -> str:
    """The document."""
    header = ["GRE of", "T1w of", "displacement", "mean error, mm", "brain in view, ml"]
    header += ["of it with signal", "sharpness", "check"]
    lines = [
        "# Registration of GRE to T1w",
        "",
        f"Written by `benchmarks/registration.py` with qsmals {__version__}; do not edit by hand. "
        f"{compute.threads} thread(s){', sloppy' if compute.sloppy else ''}. A GRE magnitude made from each head's T1w "
        "image is displaced by a known motion and registered back; the error is the mean over the brain's voxels. "
        "In view is what the field of view holds of the brain. Sharpness is the mutual information relative to that "
        "after shifts of 3 mm.",
        "",
        markdown([*header, "seconds"], rows),
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run every head that is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_folder", type=Path)
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    parser.add_argument("--work-dir", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sloppy", action="store_true")
    options = parser.parse_args()
    folders = sorted(p for p in options.data_folder.iterdir() if p.is_dir()) if options.data_folder.is_dir() else []
    files = {p.name: found for p in folders if (found := find(p, "T1"))}
    if not files:
        print(f"no head with T1 in {options.data_folder}: nothing to do")
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        compute = Compute(options.work_dir or Path(scratch), threads=options.threads, sloppy=options.sloppy)
        with ants_session(compute):
            heads = {name: read(path) for name, path in files.items()}
        rows = run(heads, compute)
    (options.docs / "registration.md").write_text(report(rows, compute))
    return 0


if __name__ == "__main__":
    sys.exit(main())
