"""What the pages cost: one subject's at 1 mm in time, memory and size, and a study's of 200 subjects in a browser.

    python benchmarks/pages.py WORK_DIR [--docs docs] [--subjects 200]

Simulates a head of 1 mm and processes it, unless WORK_DIR has it (`bids`, `out` and `work`, with `out/sub-01.html`).
Its page is then written anew and measured; its table and measures, each varied a little, are those of the subjects of
a study, whose page is opened in a headless chromium (left out where there is none). docs/pages.md gets the numbers.
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

import nibabel as nib
from measuring import forget_peak, in_own_process, markdown, peak_memory_gb

from qsmals import __version__
from qsmals.engine.files import write_text
from qsmals.reports.collect import find_scans
from qsmals.reports.gallery import drawings
from qsmals.reports.group import write_group_report
from qsmals.reports.subject import write_subject_report

sys.path.append(str(Path(__file__).resolve().parents[1]))  # the tests drive the same browser
from tests.browser import CHROMIUM, Browser

LABEL = "01"
MOST_SECONDS, MOST_MB = 60.0, 15.0
MOST_OPENING_S = 3.0
WIDTHS = (360, 1440)
INTRODUCTION = """# What the pages cost

Written by `benchmarks/pages.py` with qsmals {version}; do not edit by hand. {machine}, {threads} thread(s).
"""


def prepare(root: Path) -> None:
    """A processed head of 1 mm, unless it is there."""
    if (root / "out" / f"sub-{LABEL}.html").is_file():
        return
    module = [sys.executable, "-m"]
    size = ["--voxel-size-mm", "1", "1", "1"]
    subprocess.run(
        [*module, "qsmals.cli.simulate", str(root / "bids"), "--participants", "1", *size],
        check=True,
    )
    words = [str(root / "bids"), str(root / "out"), "participant", "-w", str(root / "work"), "--skip-bids-validation"]
    subprocess.run([*module, "qsmals", *words], check=True)


def run_facts(out: Path) -> dict[str, object]:
    """What the subject's last run wrote about itself."""
    latest = sorted((out / f"sub-{LABEL}" / "log").glob("*/run.json"))[-1]
    content: dict[str, object] = json.loads(latest.read_text())
    return content


def measure_page(out: Path) -> dict[str, float]:
    """Seconds of wall clock and processor, and peak memory of writing the subject's page; runs in its own process."""
    facts = run_facts(out)
    forget_peak()
    start, used = time.monotonic(), time.process_time()
    write_subject_report(out, LABEL, run_facts=facts)
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
    html = (out / f"sub-{LABEL}.html").stat().st_size
    figures = sum(path.stat().st_size for path in (out / f"sub-{LABEL}" / "figures").iterdir())
    return html / 1e6, figures / 1e6


def make_study(out: Path, root: Path, n_subjects: int) -> None:
    """A derivative folder of many subjects: measures and table of one, each number varied by a normal 3 %."""
    rng = random.Random(0)
    anat = out / f"sub-{LABEL}" / "anat"
    quality = json.loads((anat / f"sub-{LABEL}_desc-qc_Chimap.json").read_text())
    table = (anat / f"sub-{LABEL}_seg-als_desc-roi_Chimap.tsv").read_text().splitlines()
    facts = next((out / f"sub-{LABEL}" / "log").glob(f"*/sub-{LABEL}_facts.json"))
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
        (log / f"{name}_facts.json").write_text(facts.read_text().replace(f"sub-{LABEL}", name))
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
    n_echoes = len(scan.facts.echoes) if scan.facts else 0
    text = document(
        f"{shape} voxels, {n_echoes} echoes", page, sizes, figures, group, opening, options.subjects, threads
    )
    write_text(options.docs / "pages.md", text)
    print(text)
    fits = page["seconds"] <= MOST_SECONDS and sum(sizes) <= MOST_MB
    return 0 if fits and all(seconds <= MOST_OPENING_S for seconds in opening.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
