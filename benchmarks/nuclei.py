"""Borders of the deep nuclei on simulated heads: what each setting of the fit gives, against the truth.

    python benchmarks/nuclei.py SIMULATED_BIDS_DIR OUTPUT_DIR [SIMULATED_BIDS_DIR OUTPUT_DIR ...] [--docs docs]

Takes the maps of runs of `qsmals` on data of `qsmals-simulate`, made with `--refinement none` or with the default, and
registers nothing: the labels before the fit are those in the work folder of the run (OUTPUT_DIR/work, or `--work-dir`).
Writes docs/nuclei.md: Dice, volume ratio and centroid distance before and after the fit, the true map's mean over the
labels (`placed`), and the measured mean, for the default and for each setting changed alone.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from measuring import markdown

from qsmals import __version__
from qsmals.anatomy.nuclei import NucleiParameters, fit_nuclei

NUCLEI = {
    "thalamus": (10, 49),
    "caudate": (11, 50),
    "putamen": (12, 51),
    "pallidum": (13, 52),
    "hippocampus": (17, 53),
    "amygdala": (18, 54),
    "accumbens": (26, 58),
    "substantia_nigra": (27, 59),
    "red_nucleus": (751, 752),
}
VARIANTS: dict[str, dict[str, float]] = {
    "before the fit": {},
    "default": {},
    "faint_reach_mm 2.5": {"faint_reach_mm": 2.5},
    "slope_mm 0.7": {"slope_mm": 0.7},
    "local_mm 8": {"local_mm": 8.0},
    "core_mm 1.5": {"core_mm": 1.5},
    "smoothness 0.3": {"smoothness": 0.3},
}


@dataclass(frozen=True)
class Scan:
    """One simulated scan: labels before the fit, images, and the truth, all on the GRE grid."""

    name: str
    labels: np.ndarray
    chi: np.ndarray
    t1w: np.ndarray
    truth: np.ndarray
    true_labels: np.ndarray
    size: tuple[float, float, float]


def voxels(path: Path) -> np.ndarray:
    """Array of an image file."""
    return np.asanyarray(nib.load(path).dataobj)


def scans(bids_dir: Path, output_dir: Path, work_dir: Path) -> Iterator[Scan]:
    """The scans of a run without sessions whose work folder is there."""
    for folder in sorted(work_dir.glob("qsmals-*/*/participant_wf/sub_*_wf")):
        subject = folder.name.removeprefix("sub_").removesuffix("_wf")
        labels = folder / "gre_wf/labels_wf"
        prefix = f"sub-{subject}"
        truth = bids_dir / "derivatives" / "truth" / prefix / "anat" / prefix
        before = next(
            (p for p in (labels / "cortex/labels.nii", labels / "labels_to_gre/resampled.nii") if p.is_file()), None
        )
        if before is None or not (labels / "brain_to_gre/resampled.nii").is_file():
            continue
        size = nib.load(before).header.get_zooms()[:3]
        yield Scan(
            name=f"{bids_dir.parent.name} {prefix}",
            labels=np.rint(voxels(before)).astype(np.int32),
            chi=voxels(output_dir / prefix / "anat" / f"{prefix}_Chimap.nii.gz").astype(np.float32),
            t1w=voxels(labels / "brain_to_gre/resampled.nii").astype(np.float32),
            truth=voxels(Path(f"{truth}_desc-truth_Chimap.nii.gz")),
            true_labels=np.rint(voxels(Path(f"{truth}_seg-truth_dseg.nii.gz"))).astype(np.int32),
            size=(float(size[0]), float(size[1]), float(size[2])),
        )


def fitted(scan: Scan, variant: str) -> np.ndarray:
    """Labels of a variant."""
    if variant == "before the fit":
        return scan.labels
    images = {"chi_ppm": scan.chi, "t1w": scan.t1w}
    params = replace(NucleiParameters(), **VARIANTS[variant])
    return fit_nuclei(scan.labels, **images, voxel_size_mm=scan.size, params=params)


def rows_of(scan: Scan, variant: str) -> list[dict[str, object]]:
    """One row a nucleus: mean over both sides of the geometry, means over both together of the maps (ppb)."""
    labels, rows = fitted(scan, variant), []
    for name, sides in NUCLEI.items():
        dice, ratio, apart = [], [], []
        for side in sides:
            ours, theirs = labels == side, scan.true_labels == side
            dice.append(2 * (ours & theirs).sum() / max(ours.sum() + theirs.sum(), 1))
            ratio.append(ours.sum() / max(theirs.sum(), 1))
            centres = [np.argwhere(m).mean(0) if m.any() else np.full(3, np.nan) for m in (ours, theirs)]
            apart.append(np.linalg.norm((centres[0] - centres[1]) * scan.size))
        ours, theirs = np.isin(labels, sides), np.isin(scan.true_labels, sides)
        rows.append(
            {
                "scan": scan.name,
                "variant": variant,
                "name": name,
                "dice": np.mean(dice),
                "volume_ratio": np.mean(ratio),
                "centroid_mm": np.mean(apart),
                "truth": 1000 * scan.truth[theirs].mean(),
                "placed": 1000 * scan.truth[ours].mean(),
                "measured": 1000 * scan.chi[ours].mean(),
                "measured_true": 1000 * scan.chi[theirs].mean(),
            }
        )
    return rows


def report(table: pd.DataFrame) -> str:
    """The document."""
    lines = [
        "# Borders of the deep nuclei",
        "",
        f"Written by `benchmarks/nuclei.py` with qsmals {__version__}; do not edit by hand. Simulated heads, default "
        "reconstruction. `placed` is the mean of the true map over the labels, `measured` that of the measured map, "
        "`over true labels` that of the measured map over the true labels (ppb): a fit that collected bright voxels "
        "would show a `measured` above it.",
    ]
    for scan, part in table.groupby("scan", sort=False):
        lines += ["", f"## {scan}", ""]
        header = ["nucleus", "Dice before", "after", "volume ratio before", "after", "centroid, mm, before", "after"]
        header += ["truth", "placed before", "after", "measured before", "after", "over true labels"]
        before, after = (part[part["variant"] == v].set_index("name") for v in ("before the fit", "default"))
        rows = []
        for name in NUCLEI:
            b, a = before.loc[name], after.loc[name]
            cells = [f"{x:.3f}" for x in (b.dice, a.dice)] + [f"{x:.2f}" for x in (b.volume_ratio, a.volume_ratio)]
            cells += [f"{x:.2f}" for x in (b.centroid_mm, a.centroid_mm)]
            cells += [f"{x:.1f}" for x in (a.truth, b.placed, a.placed, b.measured, a.measured, a.measured_true)]
            rows.append([name, *cells])
        lines.append(markdown(header, rows))
    lines += ["", "## Each setting alone", "", "Mean over all scans: Dice, and |placed - truth| in ppb.", ""]
    rows = []
    for variant in VARIANTS:
        part = table[table["variant"] == variant]
        error = (part["placed"] - part["truth"]).abs()
        cells = []
        for name in NUCLEI:
            own = part["name"] == name
            cells.append(f"{part[own]['dice'].mean():.3f}, {error[own].mean():.1f}")
        rows.append([variant, *cells])
    lines.append(markdown(["setting", *NUCLEI], rows))
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", metavar="BIDS_DIR OUTPUT_DIR")
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    parser.add_argument("--work-dir", type=Path, nargs="+", help="one a run, where it is not OUTPUT_DIR/work")
    options = parser.parse_args(argv)
    if len(options.folders) % 2:
        parser.error("give a BIDS_DIR and an OUTPUT_DIR for each run")
    runs = list(zip(options.folders[::2], options.folders[1::2], strict=True))
    works = options.work_dir or [out / "work" for _, out in runs]
    if len(works) != len(runs):
        parser.error(f"{len(works)} work folders for {len(runs)} runs")
    found = [scan for (bids, out), work in zip(runs, works, strict=True) for scan in scans(bids, out, work)]
    if not found:
        print("no scan with the labels of a run in its work folder: nothing to do")
        return 0
    rows = [row for scan in found for variant in VARIANTS for row in rows_of(scan, variant)]
    text = report(pd.DataFrame(rows))
    (options.docs / "nuclei.md").write_text(text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
