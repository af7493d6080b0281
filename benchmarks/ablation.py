"""What each part of the default reconstruction is worth: the default with one thing changed, on simulated heads.

    python benchmarks/ablation.py WORK_DIR [--t1w T1W --segmentation APARC_ASEG] [--conditions NAME ...]
        [--omp-nthreads N] [--docs docs]

WORK_DIR is that of `accuracy.py`, whose simulations and total fields are used and, where missing, made. Writes
ablation.md into the folder of `--docs`. What WORK_DIR has in its ablation.tsv is not measured again. If the files of
`--t1w` and `--segmentation` are not there, it says so and does nothing.
"""

import argparse
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import accuracy
import numpy as np
import pandas as pd
from measuring import Journal, cell, in_own_process, markdown

from qsmals import __version__
from qsmals.engine.files import write_text
from qsmals.engine.threads import threads
from qsmals.recon.background import BACKGROUND
from qsmals.recon.inversion import INVERSION

NEVER = 1e9


@dataclass(frozen=True)
class Variant:
    """The default with one thing changed.

    ``stages`` names other methods of the stages before background removal, ``mask`` parameters of the mask; ``factor``
    is on the regularisation.
    """

    words: str
    background: str = BACKGROUND.default
    stages: dict[str, str] = field(default_factory=dict)
    mask: dict[str, float] = field(default_factory=dict)
    factor: float = 1.0
    parameters: dict[str, Any] = field(default_factory=dict)
    surroundings: bool = True
    outermost: bool = True
    noise: bool = True


VARIANTS = (
    Variant("the default"),
    Variant("unwrapped by Laplacian", stages={"unwrap": "laplacian"}),
    Variant("field by the nonlinear complex fit", stages={"field": "complex-fit"}),
    Variant("field weighted by phase SNR", stages={"field": "phase-snr"}),
    Variant("mask of the brain, no voxel dropped", stages={"mask": "brain"}),
    Variant("mask by quality, in the whole head", stages={"mask": "quality"}),
    Variant("mask by magnitude, in the whole head", stages={"mask": "magnitude"}),
    Variant("rough voxels kept", mask={"largest_roughness": NEVER}),
    Variant("rough from 8 times the brain's median", mask={"largest_roughness": 8.0}),
    Variant("rough from 30 times the brain's median", mask={"largest_roughness": 30.0}),
    Variant("outermost voxels not used", outermost=False),
    Variant("field of the brain only", surroundings=False),
    Variant("background by PDF", background="pdf"),
    Variant("background by V-SHARP", background="v-sharp"),
    Variant("half the regularisation", factor=0.5),
    Variant("twice the regularisation", factor=2.0),
    Variant("no reweighting at edges and outliers", parameters={"reweightings": 0}),
    Variant("reweighted twice", parameters={"reweightings": 2}),
    Variant("edges from 0.01 ppm/mm", parameters={"edge_ppm_per_mm": 0.01}),
    Variant("outliers keep their weight", parameters={"outlier_factor": NEVER}),
    Variant("regularisation not following the noise", noise=False),
    Variant("a fifth of the harmonic penalty", parameters={"harmonic_penalty": 0.04}),
    Variant("five times the harmonic penalty", parameters={"harmonic_penalty": 1.0}),
    Variant("400 iterations", parameters={"tolerance": 1e-6, "max_iterations": 400}),
)

LEFT_OUT = ("rim_kept", "total_field_rms_ppb", "local_field_nrmse_percent", "iterations", "peak_gb")
COLUMNS = {key: column for key, column in accuracy.MAP_COLUMNS.items() if key not in LEFT_OUT} | {
    f"{name}_error": (name.replace("_", " "), 1) for name in ("precentral", "paracentral", "substantia_nigra")
}

INTRODUCTION = """# What each part of the reconstruction is worth

Written by `benchmarks/ablation.py` with qsmals {version}; do not edit by hand.

The default reconstruction with one thing changed, on the heads and with the columns of
[reconstruction.md](reconstruction.md): true brain mask and labels, errors of the deep nuclei, the rim, the core and
the regions in ppb.{grid}
"""

FINER = ("partial", "coarse")
FINER_WORDS = " The images come from a grid finer than the scan's: tissues share voxels, as they do in a scanner."
"""Conditions that are simulated so, and what the page says where it has no others."""


def measure(bids: Path, field_file: Path, variant: Variant, n_threads: int) -> dict[str, float]:
    """A variant on a scan, and its agreement with the truth."""
    from qsmals.recon.reference import reference_to

    background, inversion = BACKGROUND[variant.background], INVERSION[INVERSION.default]
    regularisation = variant.factor * inversion.make_parameters().regularisation
    with threads(n_threads):
        local, solution, figures = accuracy.reconstruct(
            bids,
            field_file,
            accuracy.read_grid(bids),
            f"{background.name}+{inversion.name}",
            background.beyond_brain and variant.surroundings,
            parameters={"regularisation": regularisation} | variant.parameters,
            noise=variant.noise,
            outermost=variant.outermost,
        )
    with np.load(field_file) as stored:
        measured = local.mask & stored["brain"]
    chi = np.where(measured, reference_to(solution.chi_ppm, measured)[0], np.float32(0))
    truth = accuracy.read_truth(bids)
    return figures | accuracy.score(chi, measured & truth.brain, truth)


def total_field(scan: accuracy.Condition, variant: Variant, n_threads: int) -> Path:
    """The file of the total field and masks that a variant starts from, made where it is missing."""
    chosen = "_".join(f"{what}-{choice}" for what, choice in (*variant.stages.items(), *variant.mask.items()))
    path = scan.folder / f"total_field_{chosen}.npz" if chosen else scan.field
    if not path.is_file():
        choices = variant.stages, variant.mask
        in_own_process(accuracy.make_total_field, scan.bids, path, n_threads, *choices, n_threads=n_threads)
    return path


def work(scan: accuracy.Condition, journal: Journal, n_threads: int) -> list[dict[str, Any]]:
    """Rows of all variants on a condition."""
    accuracy.simulate(scan)
    rows = []
    for variant in VARIANTS:
        key = scan.key(variant.words, n_threads)
        row = journal.find(key)
        if row is None:
            start = total_field(scan, variant, n_threads)
            row = key | in_own_process(measure, scan.bids, start, variant, n_threads, n_threads=n_threads)
            journal.add(row)
        rows.append(row)
        print(f"{scan.name}, {variant.words}: NRMSE {row['nrmse_percent']:.1f} %", flush=True)
    return rows


def report(table: pd.DataFrame) -> str:
    """The document."""
    finer = set(table["condition"]) <= set(FINER)
    text = [INTRODUCTION.format(version=__version__, grid=FINER_WORDS if finer else "")]
    for name, rows in table.groupby("condition", sort=False):
        lines = [
            [row["pipeline"], *(cell(row[key], digits) for key, (_, digits) in COLUMNS.items())]
            for _, row in rows.iterrows()
        ]
        text += [
            f"## {accuracy.TITLES[str(name)]}",
            "",
            markdown(["variant", *(c for c, _ in COLUMNS.values())], lines),
        ]
        text += [""]
    return "\n".join(text)


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work_dir", type=Path)
    parser.add_argument("--t1w", type=Path, help="T1w image of a head")
    parser.add_argument("--segmentation", type=Path, help="its FreeSurfer aparc+aseg")
    parser.add_argument("--conditions", nargs="+", choices=tuple(accuracy.CHANGES), default=list(FINER))
    parser.add_argument("--voxel-size-mm", type=float, nargs=3, default=(1.0, 1.0, 1.0), metavar=("X", "Y", "Z"))
    parser.add_argument("--omp-nthreads", type=int, default=2)
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    options = parser.parse_args(argv)
    given = [path for path in (options.t1w, options.segmentation) if path]
    if any(not path.is_file() for path in given):
        print(f"skipped: no file {', '.join(str(p) for p in given if not p.is_file())}")
        return 0
    head = ["--t1w", str(options.t1w), "--segmentation", str(options.segmentation)] if len(given) == 2 else []
    journal = Journal(options.work_dir / "ablation.tsv")
    rows: list[dict[str, Any]] = []
    for name in options.conditions:
        scan = accuracy.condition(name, options.work_dir, head, tuple(options.voxel_size_mm))
        rows += work(scan, journal, options.omp_nthreads)
    write_text(options.docs / "ablation.md", report(pd.DataFrame(rows)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
