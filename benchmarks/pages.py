"""What the pages cost: one subject's at 1 mm in time, memory and size, and a study's of 200 subjects in a browser.

    python benchmarks/pages.py WORK_DIR [--docs docs] [--subjects 200]

Simulates a head of 1 mm (`WORK_DIR/bids`) and lays its truth, with noise, down as a run would lay down its results and
working files (`WORK_DIR/out`), unless they are there: what a page costs depends on the size of the images and not on
how they came about. The page is then written and measured; its table and measures, each varied a little, are those of
the subjects of a study, whose page is opened in a headless chromium (left out where there is none). docs/pages.md gets
the numbers.
"""

import argparse
import json
import platform
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from measuring import forget_peak, in_own_process, markdown, peak_memory_gb
from nibabel.processing import resample_from_to

from qsmals import __version__
from qsmals.anatomy.templates import NLIN6, template_path
from qsmals.engine.files import write_text
from qsmals.reports.collect import find_scans
from qsmals.reports.gallery import drawings
from qsmals.reports.group import write_group_report
from qsmals.reports.subject import write_subject_report
from qsmals.roi.statistics import Region, region_statistics
from qsmals.roi.table import table_text

sys.path.append(str(Path(__file__).resolve().parents[1]))  # the tests drive the same browser and know the facts
from tests.browser import CHROMIUM, Browser
from tests.report_trees import FACTS, RUN, write_facts, write_quality

LABEL, NAME = "01", "sub-01"
SEED = 0
NOISE_PPM = 0.006
"""Of the map: noise is what makes an image file large."""

MOST_SECONDS, MOST_MB = 60.0, 15.0
MOST_OPENING_S = 3.0
WIDTHS = (360, 1440)
INTRODUCTION = """# What the pages cost

Written by `benchmarks/pages.py` with qsmals {version}; do not edit by hand. {machine}, {threads} thread(s).
"""


def prepare(root: Path) -> None:
    """A head of 1 mm and its truth laid down as results, unless they are there."""
    if not (root / "bids" / NAME).is_dir():
        words = [str(root / "bids"), "--participants", "1", "--voxel-size-mm", "1", "1", "1"]
        subprocess.run([sys.executable, "-m", "qsmals.cli.simulate", *words], check=True)
    if not (root / "out" / NAME).is_dir():
        lay_down(root)


def lay_down(root: Path) -> None:
    """Results and working files of the head, from its truth and its scans."""
    truth, rng = root / "bids" / "derivatives" / "truth" / NAME, np.random.default_rng(SEED)
    labels = nib.load(truth / "anat" / f"{NAME}_seg-truth_dseg.nii.gz")
    brain = np.asarray(nib.load(truth / "anat" / f"{NAME}_desc-brain_mask.nii.gz").dataobj) > 0

    def put(name: str, data: np.ndarray, image: nib.Nifti1Image = labels) -> None:
        path = root / "out" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(data, image.affine), path)

    def measured(name: str, noise: float) -> np.ndarray:
        values = nib.load(truth / name).get_fdata(dtype=np.float32)
        return np.where(brain, values + rng.normal(0, noise, brain.shape), 0).astype(np.float32)

    regions = np.where(brain, np.asarray(labels.dataobj), 0).astype(np.int32)
    anat, fmap = f"{NAME}/anat/{NAME}", f"{NAME}/fmap/{NAME}"
    chi = measured(f"anat/{NAME}_desc-truth_Chimap.nii.gz", NOISE_PPM)
    r2star = measured(f"anat/{NAME}_desc-truth_R2starmap.nii.gz", 1.5)
    total = measured(f"fmap/{NAME}_desc-total_fieldmap.nii.gz", 0.1)
    put(f"{anat}_Chimap.nii.gz", chi)
    put(f"{anat}_R2starmap.nii.gz", r2star)
    put(f"{anat}_space-MEGRE_desc-brain_mask.nii.gz", brain.astype(np.uint8))
    put(f"{anat}_space-MEGRE_seg-als_dseg.nii.gz", regions)
    put(f"{fmap}_desc-total_fieldmap.nii.gz", total)
    put(f"{fmap}_desc-local_fieldmap.nii.gz", measured(f"fmap/{NAME}_desc-local_fieldmap.nii.gz", 0.1))
    table = truth / "anat" / f"{NAME}_seg-truth_dseg.tsv"
    shutil.copy(table, root / "out" / f"{anat}_space-MEGRE_seg-als_dseg.tsv")
    rows = [line.split("\t")[:3] for line in table.read_text().splitlines()[1:]]
    listed = [Region(int(index), name, side, (int(index),)) for index, name, side in rows]
    for values, quantity in ((chi, "Chimap"), (r2star, "R2starmap")):
        statistics = region_statistics(values, regions, measured=brain, regions=listed, voxel_size_mm=(1, 1, 1))
        write_text(root / "out" / f"{anat}_seg-als_desc-roi_{quantity}.tsv", table_text(statistics))
    images = _working_files(root, regions, total, put)
    write_quality((root / "out" / anat).parent, NAME)
    write_facts(root / "out", NAME, FACTS | {"images": images, "detected": [], "warnings": []})


def _working_files(root: Path, regions: np.ndarray, total_hz: np.ndarray, put: Any) -> dict[str, str]:
    """Write the images that a run keeps in its work folder for the page; role to file."""
    scans, rng = root / "bids" / NAME / "anat", np.random.default_rng(SEED)
    echoes = sorted(scans.glob("*_part-mag_MEGRE.nii.gz"))
    te_s = [json.loads(Path(str(path).replace(".nii.gz", ".json")).read_text())["EchoTime"] for path in echoes]
    magnitude = np.stack([nib.load(path).get_fdata(dtype=np.float32) for path in echoes], -1)
    stored = [Path(str(path).replace("part-mag", "part-phase")) for path in echoes]
    phase = np.stack([nib.load(path).get_fdata(dtype=np.float32) for path in stored], -1) * np.float32(np.pi / 4096)
    turns = 2 * np.pi * np.asarray(te_s, dtype=np.float32)
    t1w, template = nib.load(scans / f"{NAME}_T1w.nii.gz"), template_path(NLIN6)
    on_gre = nib.load(root / "out" / NAME / "anat" / f"{NAME}_space-MEGRE_seg-als_dseg.nii.gz")
    on_t1w = np.asarray(resample_from_to(on_gre, t1w, order=0).dataobj).astype(np.int32)
    head = t1w.get_fdata(dtype=np.float32)
    made = {
        "magnitude": (magnitude, on_gre),
        "phase": (phase, on_gre),
        "unwrapped": (total_hz[..., None] * turns, on_gre),
        "quality": (np.clip(0.9 + rng.normal(0, 0.03, regions.shape), 0, 1).astype(np.float32), on_gre),
        "noise": (np.where(regions > 0, 0.002, np.inf).astype(np.float32), on_gre),
        "tissues_on_gre": (_tissues(regions), on_gre),
        "t1w": (np.where(on_t1w > 0, head, 0), t1w),
        "t1w_labels": (on_t1w, t1w),
        "tissues": (_tissues(on_t1w), t1w),
    }
    moved = resample_from_to(t1w, nib.load(template), order=1)
    made["t1w_on_template"] = (np.asarray(moved.dataobj, dtype=np.float32), moved)
    for role, (data, image) in made.items():
        put(f"work/{role}.nii", data, image)
    return {role: f"work/{role}.nii" for role in made} | {"template": str(template)}


def _tissues(labels: np.ndarray) -> np.ndarray:
    """The segmentation's numbers: white matter 3, all else in the brain 2."""
    return np.where(np.isin(labels, (2, 41)), 3, np.where(labels > 0, 2, 0)).astype(np.uint8)


def measure_page(out: Path) -> dict[str, float]:
    """Seconds of wall clock and processor, and peak memory of writing the subject's page; runs in its own process."""
    forget_peak()
    start, used = time.monotonic(), time.process_time()
    write_subject_report(out, LABEL, run_facts=RUN | {"age": 50.0})
    return {
        "seconds": time.monotonic() - start,
        "processor_s": time.process_time() - used,
        "peak_gb": peak_memory_gb(),
    }


def measure_figures(out: Path) -> list[tuple[str, float, float]]:
    """Title, seconds and size (kB) of every figure, one after the other; runs in its own process."""
    found = []
    for scan in find_scans(out, LABEL)[0]:
        for drawing in drawings(scan, age=50.0):
            start = time.monotonic()
            data = drawing.draw()
            found.append((drawing.title, time.monotonic() - start, len(data) / 1e3))
    return found


def size_mb(out: Path) -> tuple[float, float]:
    """Size of the page and of all that it shows, 10^6 bytes."""
    html = (out / f"{NAME}.html").stat().st_size
    figures = sum(path.stat().st_size for path in (out / NAME / "figures").iterdir())
    return html / 1e6, figures / 1e6


def make_study(out: Path, root: Path, n_subjects: int) -> None:
    """A derivative folder of many subjects: measures and table of one, each number varied by a normal 3 %."""
    rng = random.Random(0)
    anat = out / NAME / "anat"
    quality = json.loads((anat / f"{NAME}_desc-qc_Chimap.json").read_text())
    table = (anat / f"{NAME}_seg-als_desc-roi_Chimap.tsv").read_text().splitlines()
    facts = next((out / NAME / "log").glob(f"*/{NAME}_facts.json"))
    mean = table[0].split("\t").index("mean")
    for number in range(1, n_subjects + 1):
        name = f"sub-{number:03d}"
        place = root / name / "anat"
        place.mkdir(parents=True)
        varied = {k: None if v is None else v * (1 + 0.03 * rng.gauss(0, 1)) for k, v in quality["Measures"].items()}
        content = quality | {"Measures": varied}
        (place / f"{name}_desc-qc_Chimap.json").write_text(json.dumps(content))
        lines = [line.split("\t") for line in table]
        for cells in lines[1:]:
            if cells[mean] != "n/a":
                cells[mean] = f"{float(cells[mean]) * (1 + 0.03 * rng.gauss(0, 1)):.6g}"
        text = "\n".join("\t".join(cells) for cells in lines) + "\n"
        (place / f"{name}_seg-als_desc-roi_Chimap.tsv").write_text(text)
        log = root / name / "log" / facts.parent.name
        log.mkdir(parents=True)
        (log / f"{name}_facts.json").write_text(facts.read_text().replace(NAME, name))
        (root / f"{name}.html").write_text("page")


def measure_group(root: Path) -> tuple[float, float]:
    """Seconds to write the study's page, and its size, 10^6 bytes; runs in its own process."""
    start = time.monotonic()
    path = write_group_report(root).path
    return time.monotonic() - start, path.stat().st_size / 1e6


def opening_seconds(page: Path, profile: Path) -> dict[int, float]:
    """Seconds from the start until the second frame after loading, by width of the window."""
    if CHROMIUM is None:
        return {}
    found = {}
    with Browser(profile) as browser:
        for width in WIDTHS:
            with browser.page(page, width) as opened:
                found[width] = opened.seconds
    return found


def document(
    shape: str,
    page: dict[str, float],
    sizes: tuple[float, float],
    figures: list[tuple[str, float, float]],
    group: tuple[float, float],
    opening: dict[int, float],
    n_subjects: int,
    threads: int,
) -> str:
    """The page of the manual."""
    words = {"version": __version__, "machine": platform.machine(), "threads": threads}
    lines = [INTRODUCTION.format(**words), f"## One subject, 1 mm ({shape})", ""]
    rows = [
        ["time to write (s)", f"{page['seconds']:.1f}", f"{MOST_SECONDS:g}"],
        ["processor time (s)", f"{page['processor_s']:.1f}", ""],
        ["peak memory (GB)", f"{page['peak_gb']:.2f}", ""],
        ["page with its figures (MB)", f"{sum(sizes):.1f}", f"{MOST_MB:g}"],
        ["of which the page itself (MB)", f"{sizes[0]:.2f}", ""],
    ]
    lines += [markdown(["", "measured", "at most"], rows), "", "Its figures:", ""]
    rows = [[title, f"{seconds:.2f}", f"{kilobytes:.0f}"] for title, seconds, kilobytes in figures]
    lines += [markdown(["figure", "s", "kB"], rows), "", f"## A study of {n_subjects} subjects", ""]
    rows = [["time to write (s)", f"{group[0]:.1f}", ""], ["page (MB)", f"{group[1]:.2f}", ""]]
    rows += [
        [f"time to open at {width} px, chromium (s)", f"{seconds:.2f}", f"{MOST_OPENING_S:g}"]
        for width, seconds in opening.items()
    ]
    return "\n".join([*lines, markdown(["", "measured", "at most"], rows), ""])


def main(argv: list[str] | None = None) -> int:
    """Entry point; 1 when a page costs more than it may."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work_dir", type=Path)
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    parser.add_argument("--subjects", type=int, default=200)
    parser.add_argument("--omp-nthreads", type=int, default=2)
    options = parser.parse_args(argv)
    root, threads = options.work_dir, options.omp_nthreads
    prepare(root)
    out = root / "out"
    page = in_own_process(measure_page, out, n_threads=threads)
    sizes = size_mb(out)
    figures = in_own_process(measure_figures, out, n_threads=threads)
    study = root / "study"
    shutil.rmtree(study, ignore_errors=True)
    make_study(out, study, options.subjects)
    group = in_own_process(measure_group, study, n_threads=threads)
    opening = opening_seconds(study / "group.html", root / "profile")
    scan = find_scans(out, LABEL)[0][0]
    shape = " × ".join(str(n) for n in nib.load(scan.files["chi"]).shape)
    n_echoes = len(list((root / "bids" / NAME / "anat").glob("*_part-mag_MEGRE.nii.gz")))
    text = document(
        f"{shape} voxels, {n_echoes} echoes", page, sizes, figures, group, opening, options.subjects, threads
    )
    write_text(options.docs / "pages.md", text)
    print(text)
    fits = page["seconds"] <= MOST_SECONDS and sum(sizes) <= MOST_MB
    return 0 if fits and all(seconds <= MOST_OPENING_S for seconds in opening.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
