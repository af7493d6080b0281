"""What a run costs before and beside its steps.

    python benchmarks/startup.py [--docs docs] [--subjects 1000] [--graph-subjects 100] [--without-run]

Indexes a data set of many subjects (empty files) to run one of them, builds the graph of many subjects, and runs one
coarse subject with `--sloppy`; each in a process of its own, imports included. Writes startup.md into the folder of
`--docs`. Seconds are those of the wall clock; processor seconds stand beside them, because a busy machine stretches the
first and not the second.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from measuring import in_own_process, markdown

from qsmals import __version__
from qsmals.engine.files import write_text

TE_S = (0.005, 0.010, 0.015, 0.020)
SHAPE = (6, 7, 5)

INTRODUCTION = """# Start-up

Written by `benchmarks/startup.py` with qsmals {version}; do not edit by hand. Imports are part of every number.
"""


def write_tree(root: Path, n_subjects: int, *, empty: bool) -> Path:
    """A data set of subjects with four echoes and a T1w image, of empty files or of a few voxels."""
    write_text(root / "dataset_description.json", json.dumps({"Name": "many", "BIDSVersion": "1.10.0"}))
    rng = np.random.default_rng(0)
    for number in range(n_subjects):
        label = f"sub-{number:04d}"
        anat = root / label / "anat"
        anat.mkdir(parents=True)
        for echo, te in enumerate(TE_S, 1):
            for part in ("mag", "phase"):
                values = (
                    rng.uniform(900, 1000, SHAPE) * np.exp(-30 * te)
                    if part == "mag"
                    else rng.integers(4096, size=SHAPE)
                )
                path = anat / f"{label}_echo-{echo}_part-{part}_MEGRE.nii"
                sidecar = {
                    "EchoTime": te,
                    "MagneticFieldStrength": 3.0,
                    "Manufacturer": "Siemens",
                    "Units": "arbitrary",
                }
                _write(path, None if empty else values.astype(np.float32 if part == "mag" else np.int16), sidecar)
        _write(anat / f"{label}_T1w.nii", None if empty else rng.uniform(1, 2, SHAPE).astype(np.float32), {})
    return root


def _write(path: Path, values: Any, sidecar: dict[str, Any]) -> None:
    if values is None:
        path.touch()
    else:
        nib.save(nib.Nifti1Image(values, np.diag([1.0, 1.0, 2.0, 1.0])), path)
    path.with_suffix(".json").write_text(json.dumps(sidecar))


def measure_index(root: Path) -> dict[str, float]:
    """Find the scans of one subject of many."""
    begin = time.perf_counter()
    from qsmals.bids.layout import find_subjects

    (subject,) = find_subjects(root, participant_labels=["0007"])
    assert len(subject.units) == 1 and len(subject.units[0].gre.echoes) == len(TE_S)
    return _spent(begin)


def measure_graph(root: Path, folder: Path) -> dict[str, float]:
    """From checked subjects to the graph that nipype runs."""
    from qsmals.cli import participant
    from qsmals.cli.parser import parse

    settings = parse([str(root), str(folder / "out"), "participant", "--nprocs", "2", "--mem", "8GB"]).settings
    subjects = participant.find(settings)
    checked, given = participant.find_given(subjects, participant.check_all(subjects, settings), settings, ())
    assert all(result.ok for result in checked.values())
    processor, begin = time.process_time(), time.perf_counter()
    plan = participant.make_plan(list(subjects), checked, settings, "run", given)
    from nipype.pipeline.engine.utils import generate_expanded_graph

    from qsmals.workflows.participant import init_run_wf

    graph = generate_expanded_graph(init_run_wf(plan)._create_flat_graph())
    return _spent(begin, processor) | {"nodes": len(graph)}


def _spent(begin: float, processor: float = 0.0) -> dict[str, float]:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    return {"s": time.perf_counter() - begin, "cpu_s": time.process_time() - processor, "gb": peak}


def measure_run(bids: Path, folder: Path) -> dict[str, float]:
    """One whole run: its time, and how much of it no step was running."""
    begin = time.time()
    from qsmals.cli import main, participant

    execute, steps = participant.execute, []

    def kept(plan: Any, end: Any) -> Any:
        done = execute(plan, end)
        steps.extend(done.steps)
        return done

    participant.execute = kept  # type: ignore[assignment]
    words = [str(bids), str(folder / "out"), "participant", "--sloppy", "--skip-bids-validation", "--nprocs", "2"]
    code = main([*words, "-w", str(folder / "work")])
    total = time.time() - begin
    assert code == 0, f"the run ended with {code}"
    within = union((step.ended - step.seconds, step.ended) for step in steps if step.seconds is not None)
    return {"s": total, "outside_s": total - within, "share": 1 - within / total}


def union(spans: Iterable[tuple[float, float]]) -> float:
    """Length of the time that at least one span covers.

    >>> union([(0, 2), (1, 3), (5, 6)])
    4.0
    """
    total, end = 0.0, -np.inf
    for first, last in sorted(spans):
        total += max(0.0, last - max(first, end))
        end = max(end, last)
    return float(total)


def main() -> int:
    """Measure and write the page; returns 1 where a limit is broken (in processor seconds)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    parser.add_argument("--subjects", type=int, default=1000)
    parser.add_argument("--graph-subjects", type=int, default=100)
    parser.add_argument("--without-run", action="store_true", help="leave out the run, which takes minutes")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        many = write_tree(folder / "many", args.subjects, empty=True)
        index = in_own_process(measure_index, many, n_threads=1)
        some = write_tree(folder / "some", args.graph_subjects, empty=False)
        graph = in_own_process(measure_graph, some, folder, n_threads=1)
        run = None
        if not args.without_run:
            simulate = [sys.executable, "-m", "qsmals.cli.simulate", folder / "bids", "--small"]
            subprocess.run(simulate, check=True, stdout=subprocess.DEVNULL)
            run = in_own_process(measure_run, folder / "bids", folder, n_threads=1)
    rows = [
        [f"find one subject among {args.subjects} (empty files)", *_cells(index), "5 s, 0.5 GB"],
        [f"build the graph of {args.graph_subjects} subjects ({graph['nodes']:.0f} steps)", *_cells(graph), "10 s"],
    ]
    broken = index["cpu_s"] > 5 or index["gb"] > 0.5 or graph["cpu_s"] > 10
    if run:
        outside = f"{run['outside_s']:.1f} of {run['s']:.1f} ({run['share']:.1%})"
        rows.append(["one coarse subject, `--sloppy`: time in which no step runs", outside, "–", "–", "10 %"])
        broken |= run["share"] > 0.1
    page = markdown(["what", "s", "processor s", "GB", "limit"], rows)
    write_text(args.docs / "startup.md", f"{INTRODUCTION.format(version=__version__)}\n{page}\n")
    print(page)
    return int(broken)


def _cells(spent: dict[str, float]) -> list[str]:
    return [f"{spent['s']:.1f}", f"{spent['cpu_s']:.1f}", f"{spent['gb']:.2f}"]


if __name__ == "__main__":
    sys.exit(main())
