"""Brain masks and regions on real heads against reference segmentations.

    python benchmarks/anatomy.py DATA_FOLDER [--docs docs] [--work-dir DIR] [--threads N] [--sloppy]

DATA_FOLDER has one folder a head with `T1.mgz` (or `.nii.gz`), FreeSurfer's `aparc+aseg.mgz` on the same grid and,
if there is one, `brainmask.mgz`. For each head the anatomical chain runs from the T1w image to the atlas's labels;
docs/anatomy.md gets Dice, volume ratio and centroid distance per region, docs/anatomy.tsv the same for machines, and
docs/anatomy_<head>.png the outlines over the T1w image. Without such a folder it says so and does nothing.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
from nibabel.affines import apply_affine

from qsmals import __version__
from qsmals.anatomy.atlases import ALS, atlas_image
from qsmals.anatomy.brain import extract_brain
from qsmals.anatomy.compute import Compute, ants_session
from qsmals.anatomy.images import to_ants
from qsmals.anatomy.quality import template_quality
from qsmals.anatomy.registration import register_template, resample
from qsmals.anatomy.templates import template_path

SHOWN = (
    *("thalamus", "caudate", "putamen", "pallidum", "hippocampus", "amygdala", "accumbens", "brainstem"),
    *("precentral", "postcentral", "paracentral", "superior_frontal", "white_matter", "lateral_ventricle"),
)
SUFFIXES = (".mgz", ".nii.gz", ".nii")
COLOURS = ("red", "deepskyblue", "gold")


def find(folder: Path, name: str) -> Path | None:
    """``folder/name`` with one of the known suffixes, None when there is none."""
    return next((folder / (name + s) for s in SUFFIXES if (folder / (name + s)).is_file()), None)


def heads(data_folder: Path) -> list[Path]:
    """Folders with a T1w image and a segmentation."""
    if not data_folder.is_dir():
        return []
    candidates = [data_folder, *sorted(p for p in data_folder.iterdir() if p.is_dir())]
    return [p for p in candidates if find(p, "T1") and find(p, "aparc+aseg")]


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """Overlap of two masks, 0 to 1."""
    return 2.0 * float((a & b).sum()) / max(float(a.sum() + b.sum()), 1.0)


def compare(labels: np.ndarray, reference: np.ndarray, affine: np.ndarray) -> pd.DataFrame:
    """One row for each region on each side that the reference has."""
    rows = []
    for region in ALS.regions:
        ours, theirs = np.isin(labels, region.members), np.isin(reference, region.members)
        if region.hemisphere == "B" and region.name not in ("brainstem", "corpus_callosum"):
            continue
        if region.name not in SHOWN or not theirs.any():
            continue
        apart = np.nan
        if ours.any():
            centres = [apply_affine(affine, np.argwhere(m)).mean(0) for m in (ours, theirs)]
            apart = float(np.linalg.norm(centres[0] - centres[1]))
        rows.append((region.name, region.hemisphere, dice(ours, theirs), ours.sum() / theirs.sum(), apart))
    return pd.DataFrame(rows, columns=["name", "hemisphere", "dice", "volume_ratio", "centroid_mm"])


def run(head: Path, compute: Compute, picture: Path) -> tuple[pd.DataFrame, dict[str, float]]:
    """The chain on one head: its region table, and mask figures with the times of the steps in seconds."""
    loaded = nib.load(find(head, "T1"))
    reference = np.rint(voxels(find(head, "aparc+aseg"))).astype(np.int32)
    figures: dict[str, float] = {}
    with ants_session(compute):
        t1w, template = to_ants(np.asanyarray(loaded.dataobj), loaded.affine), read(template_path(ALS.space))
        brain = timed(figures, "brain_s", lambda: extract_brain(t1w, template, compute=compute))
        to_template = timed(figures, "template_s", lambda: register_template(brain, template, compute=compute))
        atlas = timed(figures, "atlas_s", lambda: atlas_image(ALS.name, compute=compute))
        moved = timed(figures, "labels_s", lambda: resample(atlas, t1w, [to_template.inverse], labels=True))
        quality = template_quality(template, brain.image, brain.mask, to_template.forward)
    figures |= {k: float(v) for k, v in quality.as_dict().items() if isinstance(v, (int, float))}
    mask, labels = brain.mask.numpy() > 0, np.rint(moved.numpy()).astype(np.int32)
    figures["segmentation_inside"] = float(mask[reference > 0].mean())
    if (path := find(head, "brainmask")) is not None:
        figures["mask_dice"] = dice(mask, voxels(path) > 0)
    draw(np.asanyarray(loaded.dataobj), [mask, np.isin(labels, DRAWN), np.isin(reference, DRAWN)], picture)
    return compare(labels, reference, loaded.affine), figures


DRAWN = (10, 11, 12, 13, 17, 18, 49, 50, 51, 52, 53, 54, 1024, 2024)


def timed(figures: dict[str, float], name: str, step: Any) -> Any:
    """Result of ``step``, with its seconds noted."""
    start = time.monotonic()
    result = step()
    figures[name] = time.monotonic() - start
    return result


def voxels(path: Path | None) -> np.ndarray:
    """Array of an image file."""
    return np.asanyarray(nib.load(path).dataobj)


def read(path: Path) -> Any:
    """An image file as ANTs holds it."""
    loaded = nib.load(path)
    return to_ants(np.asanyarray(loaded.dataobj), loaded.affine)


def draw(t1w: np.ndarray, masks: list[np.ndarray], path: Path) -> None:
    """Outlines over six slices of each of two directions: our mask, our regions, the reference's regions."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    inside = np.argwhere(masks[0])
    low, high = np.maximum(inside.min(0) - 8, 0), inside.max(0) + 8
    figure, axes = plt.subplots(2, 6, figsize=(18, 7), layout="constrained")
    for row, axis in zip(axes, (1, 2), strict=True):
        places = np.linspace(low[axis], high[axis], 10).astype(int)[2:8]
        for ax, place in zip(row, places, strict=True):
            box: list[Any] = [slice(a, b) for a, b in zip(low, high, strict=True)]
            box[axis] = place
            ax.imshow(t1w[tuple(box)].T, cmap="gray", vmax=np.percentile(t1w[masks[0]], 99.5))
            for mask, colour in zip(masks, COLOURS, strict=True):
                if mask[tuple(box)].any():
                    ax.contour(mask[tuple(box)].T, [0.5], colors=colour, linewidths=0.7)
            ax.axis("off")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=70)
    plt.close(figure)


def report(results: dict[str, tuple[pd.DataFrame, dict[str, float]]], compute: Compute) -> str:
    """The document."""
    lines = [
        "# Anatomy on real heads",
        "",
        f"Written by `benchmarks/anatomy.py` with qsmals {__version__}; do not edit by hand. "
        f"{compute.threads} thread(s){', sloppy' if compute.sloppy else ''}.",
    ]
    for name, (table, figures) in results.items():
        lines += ["", f"## {name}", "", "| | |", "|---|---|"]
        lines += [
            f"| {key.removesuffix('_s')}{', s' if key.endswith('_s') else ''} | {v:.3f} |" for key, v in figures.items()
        ]
        lines += ["", f"![outlines](anatomy_{name}.png)", ""]
        lines += ["| region | Dice | volume ratio | centroid, mm |", "|---|---|---|---|"]
        means = table.groupby("name", sort=False)[["dice", "volume_ratio", "centroid_mm"]].mean()
        lines += [
            f"| {region} | {row.dice:.3f} | {row.volume_ratio:.2f} | {row.centroid_mm:.2f} |"
            for region, row in means.iterrows()
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
    found = heads(options.data_folder)
    if not found:
        print(f"no head with T1 and aparc+aseg in {options.data_folder}: nothing to do")
        return 0
    results = {}
    with tempfile.TemporaryDirectory() as scratch:
        work = options.work_dir or Path(scratch)
        for head in found:
            compute = Compute(work / head.name, threads=options.threads, sloppy=options.sloppy)
            results[head.name] = run(head, compute, options.docs / f"anatomy_{head.name}.png")
            print(results[head.name][0].to_string(), results[head.name][1], flush=True)
    tables = [table.assign(head=name) for name, (table, _) in results.items()]
    pd.concat(tables).to_csv(options.docs / "anatomy.tsv", sep="\t", index=False, float_format="%.4f")
    (options.docs / "anatomy.md").write_text(report(results, compute))
    return 0


if __name__ == "__main__":
    sys.exit(main())
