"""Put a real picture and a real excerpt of a table into the README.

    python benchmarks/readme.py SIMULATED_BIDS_DIR OUTPUT_DIR

Takes the first subject of a simulated data set that `qsmals` has processed.
"""

import argparse
import shutil
import sys
from pathlib import Path

import pandas as pd
from compare_with_truth import compare

ROOT = Path(__file__).resolve().parents[1]
START, END = "<!-- table -->", "<!-- /table -->"
COLUMNS = ["name", "hemisphere", "n_voxels", "coverage", "mean", "sd", "median", "p90", "wm_contrast"]
ROWS = ("precentral", "caudate", "putamen", "pallidum", "substantia_nigra", "red_nucleus")


def excerpt(bids_dir: Path, output_dir: Path, prefix: str) -> str:
    """Some columns of some regions as Markdown, with the true mean beside them."""
    path = output_dir / prefix / "anat" / f"{prefix}_seg-als_desc-roi_Chimap.tsv"
    table = pd.read_csv(path, sep="\t", na_values="n/a")
    chosen = table[table["name"].isin(ROWS) & (table["hemisphere"] != "B")][["index", *COLUMNS]]
    chosen = chosen.sort_values("name", key=lambda names: names.map(ROWS.index), kind="stable")
    truth = compare(bids_dir, output_dir, prefix).regions.set_index(["name", "hemisphere"])["truth"] / 1000
    lines = ["| " + " | ".join([*chosen.columns, "truth"]) + " |", "|" + "---|" * (len(chosen.columns) + 1)]
    for row in chosen.itertuples(index=False):
        values = ["n/a" if pd.isna(v) else f"{v:.4f}" if isinstance(v, float) else str(v) for v in row]
        lines.append("| " + " | ".join([*values, f"{truth[(row.name, row.hemisphere)]:.4f}"]) + " |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bids_dir", type=Path)
    parser.add_argument("output_dir", type=Path)
    options = parser.parse_args(argv)
    prefix = sorted(p.name for p in options.output_dir.glob("sub-*") if p.is_dir())[0]
    picture = ROOT / "docs" / "images" / "chimap.png"
    picture.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(options.output_dir / prefix / "figures" / f"{prefix}_desc-mosaic_Chimap.png", picture)
    readme = ROOT / "README.md"
    before, rest = readme.read_text().split(START)
    after = rest.split(END)[1]
    readme.write_text(f"{before}{START}\n{excerpt(options.bids_dir, options.output_dir, prefix)}\n{END}{after}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
