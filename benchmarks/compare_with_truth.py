"""Compare the maps and region tables of simulated subjects with their truth.

    python benchmarks/compare_with_truth.py SIMULATED_BIDS_DIR OUTPUT_DIR [--markdown FILE] [--figure FILE]

Prints, for each scan, the agreement of the map over the measured brain and one line a region: the true mean
(over the true region), the mean in the table, and their difference, in ppb. `--markdown` adds the same as a
section of a document. Metrics are those of the package qsm-ci where it is installed.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd

CHI_TABLE = "_seg-als_desc-roi_Chimap.tsv"
SHOWN = (
    *("precentral", "paracentral", "postcentral", "superior_frontal", "middle_frontal"),
    *("caudate", "putamen", "pallidum", "thalamus", "hippocampus", "amygdala", "accumbens"),
    *("substantia_nigra", "red_nucleus", "brainstem", "white_matter"),
)
UNIONS = {"middle_frontal": ("caudal_middle_frontal", "rostral_middle_frontal")}
DEEP = ("caudate", "putamen", "pallidum", "thalamus", "substantia_nigra", "red_nucleus")


@dataclass
class Comparison:
    """One scan against its truth: figures over the brain, and a table of regions (ppb)."""

    prefix: str
    figures: dict[str, float]
    regions: pd.DataFrame
    chi: np.ndarray = field(repr=False)
    truth: np.ndarray = field(repr=False)
    brain: np.ndarray = field(repr=False)
    voxel_size_mm: tuple[float, ...] = (1.0, 1.0, 1.0)


def compare(bids_dir: Path, output_dir: Path, prefix: str) -> Comparison:
    """The comparison of one scan, named by its entities, e.g. ``sub-01`` or ``sub-01_ses-A``."""
    place = Path(*(part for part in prefix.split("_") if part[:4] in ("sub-", "ses-")))
    truth_dir, out_dir = bids_dir / "derivatives" / "truth" / place, output_dir / place
    chi_image = nib.load(out_dir / "anat" / f"{prefix}_Chimap.nii.gz")
    chi = np.asanyarray(chi_image.dataobj, dtype=np.float32)
    measured = _voxels(out_dir / "anat" / f"{prefix}_space-MEGRE_desc-brain_mask.nii.gz") > 0
    truth = _voxels(truth_dir / "anat" / f"{prefix}_desc-truth_Chimap.nii.gz")
    brain = _voxels(truth_dir / "anat" / f"{prefix}_desc-brain_mask.nii.gz") > 0
    labels = np.rint(_voxels(truth_dir / "anat" / f"{prefix}_seg-truth_dseg.nii.gz")).astype(int)
    names = pd.read_csv(truth_dir / "anat" / f"{prefix}_seg-truth_dseg.tsv", sep="\t")
    ours = np.rint(_voxels(out_dir / "anat" / f"{prefix}_space-MEGRE_seg-als_dseg.nii.gz")).astype(int)
    table = pd.read_csv(out_dir / "anat" / f"{prefix}{CHI_TABLE}", sep="\t", na_values="n/a")
    both = measured & brain
    figures = map_figures(chi, truth, both)
    figures["kept"] = both.sum() / brain.sum()
    figures["offset_ppb"] = 1000 * float((chi - truth)[both].mean(dtype=float))
    figures["total_field_rms_ppb"] = field_error_ppb(truth_dir, out_dir, prefix, both)
    regions = region_errors(table, truth, labels, names, ours, both, chi)
    figures["local_field_nrmse_percent"] = local_field_error_percent(truth_dir, out_dir, prefix, both)
    sides = regions[regions["hemisphere"] != "B"]
    figures["slope"] = float(np.polyfit(sides["truth"], sides["measured"], 1)[0])
    deep = sides[sides["name"].isin(DEEP)]
    figures["deep_nuclei_mae_ppb"] = float(deep["error"].abs().mean())
    figures["deep_nuclei_map_ppb"] = float(deep["map error"].abs().mean())
    return Comparison(prefix, figures, regions, chi, truth, both, chi_image.header.get_zooms()[:3])


def _voxels(path: Path) -> np.ndarray:
    return np.asanyarray(nib.load(path).dataobj, dtype=np.float32)


def map_figures(chi: np.ndarray, truth: np.ndarray, mask: np.ndarray) -> dict[str, float]:
    """Agreement of two maps over a mask; xSIM is that of qsm-ci."""
    from qsm_ci.qsm_eval import xsim

    a, b = chi[mask].astype(float), truth[mask].astype(float)
    figures = {
        "nrmse_percent": 100 * float(np.linalg.norm((a - a.mean()) - (b - b.mean())) / np.linalg.norm(b - b.mean())),
        "correlation": float(np.corrcoef(a, b)[0, 1]),
    }
    inside = mask.astype(float)
    return {"xsim": float(xsim(chi * inside, truth * inside, mask)), **figures}


def field_error_ppb(truth_dir: Path, out_dir: Path, prefix: str, mask: np.ndarray) -> float:
    """Root mean square difference of the total fields over the mask, ppb, up to a constant."""
    sidecar = json.loads((out_dir / "fmap" / f"{prefix}_desc-total_fieldmap.json").read_text())
    hertz = 42.577478 * float(sidecar["MagneticFieldStrength"])
    found, true = fields(truth_dir, out_dir, prefix, "total")
    return 1000 * spread(found - true, mask) / hertz


def local_field_error_percent(truth_dir: Path, out_dir: Path, prefix: str, mask: np.ndarray) -> float:
    """The same of the local fields, in percent of the field of the brain's own sources."""
    found, true = fields(truth_dir, out_dir, prefix, "local")
    return 100 * spread(found - true, mask) / spread(true, mask)


def fields(truth_dir: Path, out_dir: Path, prefix: str, name: str) -> tuple[np.ndarray, np.ndarray]:
    """A field as found and as it is, Hz."""
    file = f"{prefix}_desc-{name}_fieldmap.nii.gz"
    return _voxels(out_dir / "fmap" / file), _voxels(truth_dir / "fmap" / file)


def spread(values: np.ndarray, mask: np.ndarray) -> float:
    """Standard deviation over a mask of what deviates from the median."""
    inside = values[mask].astype(float)
    return float(np.std(inside - np.median(inside)))


def region_errors(
    table: pd.DataFrame,
    truth: np.ndarray,
    labels: np.ndarray,
    names: pd.DataFrame,
    ours: np.ndarray,
    both: np.ndarray,
    chi: np.ndarray,
) -> pd.DataFrame:
    """True and measured means of the regions shown, ppb.

    ``placed`` is the true mean over the labels in use; ``map error`` the mean error of the map over the true region,
    with the mean of the true brain as zero of both.
    """
    rows = []
    difference = 1000 * (chi - truth)
    zero = float(difference[both].mean(dtype=float))
    for name in SHOWN:
        for side in ("L", "R", "B"):
            row = table[(table["name"] == name) & (table["hemisphere"] == side)]
            if row.empty:
                continue
            true_labels = _true_labels(names, name, side)
            parts = UNIONS.get(name, (name,))
            used = table[table["name"].isin(parts) & ((table["hemisphere"] == side) | (side == "B"))]["index"]
            inside = np.isin(labels, true_labels)
            placed = np.isin(ours, list(used)) & both
            true_mean = 1000 * _mean(truth, inside)
            rows.append(
                {
                    "name": name,
                    "hemisphere": side,
                    "truth": true_mean,
                    "measured": 1000 * float(row["mean"].iloc[0]),
                    "error": 1000 * float(row["mean"].iloc[0]) - true_mean,
                    "placed": 1000 * _mean(truth, placed),
                    "map error": _mean(difference, inside & both) - zero,
                    "coverage": float(row["coverage"].iloc[0]),
                }
            )
    return pd.DataFrame(rows)


def _mean(values: np.ndarray, region: np.ndarray) -> float:
    return float(values[region].mean(dtype=float)) if region.any() else np.nan


def _true_labels(names: pd.DataFrame, name: str, side: str) -> list[int]:
    parts = UNIONS.get(name, (name,))
    chosen = names[names["name"].isin(parts) & ((names["hemisphere"] == side) | (side == "B"))]
    return [int(i) for i in chosen["index"]]


def scans(output_dir: Path) -> Iterator[str]:
    """Prefixes of all scans that have a region table."""
    for table in sorted(output_dir.glob(f"sub-*/**/*{CHI_TABLE}")):
        yield table.name.removesuffix(CHI_TABLE)


def as_markdown(comparison: Comparison) -> str:
    """A section with the figures and the regions as a table."""
    shown = comparison.regions.round(
        {"truth": 1, "measured": 1, "error": 1, "placed": 1, "map error": 1, "coverage": 3}
    )
    lines = [f"### {comparison.prefix}", "", figure_line(comparison), "", "| " + " | ".join(shown.columns) + " |"]
    lines.append("|" + "---|" * len(shown.columns))
    lines += ["| " + " | ".join(str(v) for v in row) + " |" for row in shown.itertuples(index=False)]
    return "\n".join(lines) + "\n"


def figure_line(comparison: Comparison) -> str:
    """All figures of a comparison in one line."""
    return ", ".join(f"{name} {value:.3g}" for name, value in comparison.figures.items())


def draw(comparison: Comparison, path: Path) -> None:
    """Map, truth and difference in three planes, as PNG."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    where = np.argwhere(comparison.brain)
    centre = np.rint(where.mean(axis=0)).astype(int)
    columns = {"measured": comparison.chi, "truth": comparison.truth, "difference": comparison.chi - comparison.truth}
    figure, axes = plt.subplots(3, 3, figsize=(10, 10), facecolor="black")
    for column, (title, volume) in enumerate(columns.items()):
        for row in range(3):
            plane = np.take(np.where(comparison.brain, volume, 0), centre[row], axis=row).T
            sizes = [s for i, s in enumerate(comparison.voxel_size_mm) if i != row]
            drawn = axes[row, column].imshow(
                plane, cmap="gray", vmin=-0.1, vmax=0.2 if title != "difference" else 0.1, origin="lower",
                aspect=sizes[1] / sizes[0],
            )  # fmt: skip
            axes[row, column].axis("off")
        axes[0, column].set_title(title, color="white")
        bar = figure.colorbar(drawn, ax=axes[:, column], orientation="horizontal", shrink=0.8, pad=0.02)
        bar.set_label("ppm", color="white")
        bar.ax.tick_params(colors="white")
    figure.savefig(path, dpi=90, bbox_inches="tight", facecolor="black", metadata={"Software": None})
    plt.close(figure)


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bids_dir", type=Path)
    parser.add_argument("output_dir", type=Path)
    parser.add_argument("--markdown", type=Path, help="write the comparison there")
    parser.add_argument("--figure", type=Path, help="draw the first scan there (PNG)")
    options = parser.parse_args(argv)
    if not (options.bids_dir / "derivatives" / "truth").is_dir():
        print(f"{options.bids_dir} has no derivatives/truth: it was not written by qsmals-simulate")
        return 2
    comparisons = [compare(options.bids_dir, options.output_dir, prefix) for prefix in scans(options.output_dir)]
    for comparison in comparisons:
        print(f"\n{comparison.prefix}: {figure_line(comparison)}")
        print(comparison.regions.to_string(index=False, float_format=lambda v: f"{v:.2f}"))
    if not comparisons:
        print(f"no region tables in {options.output_dir}")
        return 1
    if options.markdown:
        options.markdown.write_text("\n".join(as_markdown(c) for c in comparisons))
    if options.figure:
        draw(comparisons[0], options.figure)
    print(f"\nMaps and tables: {options.output_dir}/sub-*/anat, reports: {options.output_dir}/sub-*.html")
    return 0


if __name__ == "__main__":
    sys.exit(main())
