"""Brain masks and regions against reference segmentations: real heads, simulated ones, with and without a T1w image.

    python benchmarks/anatomy.py FOLDER [FOLDER ...] [--docs docs] [--work-dir DIR] [--threads N] [--sloppy]

A FOLDER is one of

* a head, or a folder of heads, with `T1.mgz` (or `.nii.gz`), FreeSurfer's `aparc+aseg.mgz` on the same grid and, if
  there is one, `brainmask.mgz`; its gradient echo is made as `benchmarks/registration.py` does, at the same place;
* a data set of `qsmals-simulate`, whose truth is known; each scan is also processed without its T1w image.

From the T1w image to the labels on the grid of the gradient echo, each head runs in a process of its own, as the
program does without a susceptibility map (benchmarks/nuclei.py shows what that adds). docs/anatomy.md gets Dice, volume
ratio and centroid distance per region, the brain mask, times and memory; docs/anatomy.tsv the same for machines. What
is measured is kept in the work folder, as <head>_<way>.json, beside a picture of it (brain mask red, regions blue,
those of the reference yellow), which stays there because a head is its owner's: the same command goes on after an
interruption; remove the files to measure anew. Folders without a head are named.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import nibabel as nib
import numpy as np
import pandas as pd
from measuring import forget_peak, in_own_process, markdown, peak_memory_gb
from nibabel.affines import apply_affine, voxel_sizes

from qsmals import __version__
from qsmals.anatomy.atlases import ALS, atlas_image
from qsmals.anatomy.brain import Brain, extract_brain
from qsmals.anatomy.compute import Compute, ants_session
from qsmals.anatomy.gradient_echo import LEAST_SPAN_S, decay_image, extract_gre_brain
from qsmals.anatomy.images import to_ants, with_data
from qsmals.anatomy.nuclei import fit_nuclei
from qsmals.anatomy.quality import template_quality
from qsmals.anatomy.registration import register_gre, register_template, resample
from qsmals.anatomy.ribbon import fit_cortex
from qsmals.anatomy.templates import template_path
from qsmals.anatomy.tissue import segment_tissues
from qsmals.engine.files import write_text

SHOWN = (
    *("thalamus", "caudate", "putamen", "pallidum", "hippocampus", "amygdala", "accumbens", "brainstem"),
    *("precentral", "postcentral", "paracentral", "superior_frontal", "white_matter", "lateral_ventricle"),
)
GOALS = {
    **dict.fromkeys(("thalamus", "caudate", "putamen"), 0.86),
    **dict.fromkeys(("pallidum", "hippocampus"), 0.80),
    **{"amygdala": 0.74, "precentral": 0.65},
}
"""Dice that was aimed at on real heads."""

SUFFIXES = (".mgz", ".nii.gz", ".nii")
COLOURS = ("red", "deepskyblue", "gold")
DRAWN = (10, 11, 12, 13, 17, 18, 49, 50, 51, 52, 53, 54, 1024, 2024)
WHITE_MATTER = (2, 41)

Result = TypeVar("Result")


@dataclass(frozen=True)
class Head:
    """A head with reference labels.

    Attributes
    ----------
    name : str
    t1w, labels : Path
        FreeSurfer's numbers; on the grid of the T1w image, or of the gradient echo where there is one.
    mask : Path or None
        Reference brain mask on the grid of the labels.
    echoes : tuple of Path
        Magnitudes of a gradient echo; none for a head with a T1w image only.
    te_s : tuple of float
        Echo times, s.
    """

    name: str
    t1w: Path
    labels: Path
    mask: Path | None
    echoes: tuple[Path, ...] = ()
    te_s: tuple[float, ...] = ()


def find(folder: Path, name: str) -> Path | None:
    """``folder/name`` with one of the known suffixes, None when there is none."""
    return next((folder / (name + s) for s in SUFFIXES if (folder / (name + s)).is_file()), None)


def heads(folder: Path) -> Iterator[Head]:
    """Every head in a folder."""
    for candidate in [folder, *sorted(p for p in folder.iterdir() if p.is_dir())]:
        t1w, labels = find(candidate, "T1"), find(candidate, "aparc+aseg")
        if t1w and labels:
            yield Head(candidate.name, t1w, labels, find(candidate, "brainmask"))
    for truth in sorted(folder.glob("derivatives/truth/sub-*/anat/*_seg-truth_dseg.nii.gz")):
        prefix = truth.name.removesuffix("_seg-truth_dseg.nii.gz")
        anat = folder / truth.relative_to(folder / "derivatives/truth").parent
        echoes = tuple(sorted(anat.glob(f"{prefix}_echo-*_part-mag_MEGRE.nii.gz")))
        sidecars = (p.with_name(p.name.replace(".nii.gz", ".json")) for p in echoes)
        te_s = tuple(float(json.loads(p.read_text())["EchoTime"]) for p in sidecars)
        mask = truth.with_name(f"{prefix}_desc-brain_mask.nii.gz")
        yield Head(f"{folder.parent.name}_{prefix}", anat / f"{prefix}_T1w.nii.gz", truth, mask, echoes, te_s)


def ways(head: Head) -> tuple[str, ...]:
    """How labels are found for a head: by its T1w image, and by its gradient echo alone where there is a real one."""
    return ("T1w", "echo") if head.echoes else ("T1w",)


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """Overlap of two masks, 0 to 1."""
    return 2.0 * float((a & b).sum()) / max(float(a.sum() + b.sum()), 1.0)


def compare(labels: np.ndarray, reference: np.ndarray, affine: np.ndarray) -> list[dict[str, Any]]:
    """One row for each region on each side that the reference has."""
    rows = []
    for region in ALS.regions:
        ours, theirs = np.isin(labels, region.members), np.isin(reference, region.members)
        if region.hemisphere == "B" and region.name != "brainstem":
            continue
        if region.name not in SHOWN or not theirs.any():
            continue
        apart = np.nan
        if ours.any():
            centres = [apply_affine(affine, np.argwhere(m)).mean(0) for m in (ours, theirs)]
            apart = float(np.linalg.norm(centres[0] - centres[1]))
        row = {"name": region.name, "hemisphere": region.hemisphere, "dice": dice(ours, theirs)}
        rows.append({**row, "volume_ratio": ours.sum() / theirs.sum(), "centroid_mm": apart})
    return rows


class Stopwatch:
    """Seconds on the wall and of all processors, step by step."""

    def __init__(self) -> None:
        self.wall: dict[str, float] = {}
        self.cpu: dict[str, float] = {}

    def __call__(self, name: str, step: Callable[[], Result]) -> Result:
        """Result of ``step``, with its times noted."""
        start, used = time.monotonic(), time.process_time()
        result = step()
        self.wall[name], self.cpu[name] = time.monotonic() - start, time.process_time() - used
        return result


def measure(head: Head, way: str, compute: Compute, picture: Path) -> dict[str, Any]:
    """Labels of one head by its T1w image or by its gradient ``echo`` alone, compared with the reference."""
    watch = Stopwatch()
    with ants_session(compute):
        template = read(template_path(ALS.space))
        atlas = watch("atlas", lambda: atlas_image(ALS.name, compute=compute))
        forget_peak()
        chain = by_t1w if way == "T1w" else by_echo
        brain, mask, labels, background, quality = chain(head, template, atlas, compute, watch)
    peak = peak_memory_gb()
    loaded = nib.load(head.labels)
    reference = np.rint(np.asanyarray(loaded.dataobj)).astype(np.int32)
    figures = {
        "brain_ml": float(brain.mask.numpy().sum() * np.prod(brain.mask.spacing)) / 1000,
        "labels_inside": float(mask[reference > 0].mean()),
        "mask_dice": dice(mask, voxels(head.mask) > 0) if head.mask else np.nan,
        "wall_s": sum(s for name, s in watch.wall.items() if name != "atlas"),
        "cpu_s": sum(s for name, s in watch.cpu.items() if name != "atlas"),
        "atlas_cpu_s": watch.cpu["atlas"],
        "peak_gb": peak,
        "flat": flat(voxels(head.t1w), reference) if not head.echoes else {},
        "steps": {name: round(s, 1) for name, s in watch.cpu.items()},
        "registration": {k: v for k, v in quality.as_dict().items() if isinstance(v, float)},
    }
    draw(background, [mask, np.isin(labels, DRAWN), np.isin(reference, DRAWN)], voxel_sizes(loaded.affine), picture)
    return {"rows": compare(labels, reference, loaded.affine), **figures}


Found = tuple[Brain, np.ndarray, np.ndarray, np.ndarray, Any]
"""Brain; on the grid of the labels the mask, labels and an image to draw on; quality of the registration."""


def by_t1w(head: Head, template: Any, atlas: Any, compute: Compute, watch: Stopwatch) -> Found:
    """Everything that the program does from the T1w image to the labels, without a susceptibility map."""
    from registration import gradient_echo

    t1w = read(head.t1w)
    brain = watch("brain", lambda: extract_brain(t1w, template, compute=compute))
    tissues = watch("tissues", lambda: segment_tissues(brain.image, brain.mask, compute=compute))
    to_template = watch("template", lambda: register_template(brain, template, compute=compute))
    gre = combined(head) if head.echoes else gradient_echo(t1w, brain, seed=1)
    to_t1w = watch("rigid", lambda: register_gre(gre, t1w, brain, compute=compute))
    back = [to_template.inverse, to_t1w.inverse]
    moved = watch("labels", lambda: resample(atlas, gre, back, labels=True))
    matter = watch("matter", lambda: resample(tissues, gre, back[1:], labels=True))
    spacing = tuple(float(s) for s in gre.spacing)
    ribbon = watch("cortex", lambda: fit_cortex(whole(moved), whole(matter), voxel_size_mm=spacing))
    shown = watch("brain on GRE", lambda: resample(brain.image, gre, back[1:]).numpy())
    fitted = watch("nuclei", lambda: fit_nuclei(ribbon, t1w=shown, voxel_size_mm=spacing))
    mask = resample(brain.mask, gre, back[1:]).numpy() > 0.5
    quality = template_quality(template, brain.image, brain.mask, to_template.forward)
    return brain, mask, fitted, resample(t1w, gre, back[1:]).numpy(), quality


def by_echo(head: Head, template: Any, atlas: Any, compute: Compute, watch: Stopwatch) -> Found:
    """The same from the gradient echo alone."""
    from qsmals.recon.relaxometry.loglinear import log_linear

    gre, first, last = combined(head), read(head.echoes[0]), read(head.echoes[-1])
    last = last if head.te_s[-1] - head.te_s[0] >= LEAST_SPAN_S else None
    brain = watch("brain", lambda: extract_gre_brain(first, gre, template, last_echo=last, compute=compute))
    series = np.stack([voxels(path) for path in head.echoes], axis=-1).astype(np.float32)
    inside = brain.mask.numpy() > 0.5
    rates = watch("decay", lambda: log_linear(series, te_s=np.array(head.te_s), mask=inside).r2star_hz)
    more = [with_data(gre, decay_image(rates, inside))]
    to_template = watch("template", lambda: register_template(brain, template, compute=compute, more=more))
    labels = watch("labels", lambda: resample(atlas, gre, [to_template.inverse], labels=True))
    quality = template_quality(template, brain.image, brain.mask, to_template.forward)
    return brain, inside, whole(labels), gre.numpy(), quality


def combined(head: Head) -> Any:
    """Root mean square of the echoes' magnitudes."""
    affine = nib.load(head.echoes[0]).affine
    squares = [voxels(path).astype(np.float32) ** 2 for path in head.echoes]
    return to_ants(np.sqrt(np.mean(squares, axis=0)), affine)


def whole(image: Any) -> np.ndarray:
    """Labels as whole numbers."""
    return np.rint(image.numpy()).astype(np.int32)


def flat(t1w: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """Share of each shown region that has exactly the most common brightness of white matter.

    Where a preparation of the image made white matter uniform, what it took for white matter cannot be told from it.
    """
    values, counts = np.unique(t1w[np.isin(reference, WHITE_MATTER)], return_counts=True)
    level = values[counts.argmax()]
    members = {name: [i for r in ALS.regions if r.name == name for i in r.members] for name in SHOWN}
    return {name: float((t1w[np.isin(reference, labels)] == level).mean()) for name, labels in members.items()}


def voxels(path: Path | None) -> np.ndarray:
    """Array of an image file."""
    return np.asanyarray(nib.load(path).dataobj)


def read(path: Path | None) -> Any:
    """An image file as ANTs holds it."""
    loaded = nib.load(path)
    return to_ants(np.asanyarray(loaded.dataobj), loaded.affine)


def draw(background: np.ndarray, masks: list[np.ndarray], size: np.ndarray, path: Path) -> None:
    """Outlines over six slices of each of two directions: our mask, our regions, the reference's regions."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    inside = np.argwhere(masks[0])
    low, high = np.maximum(inside.min(0) - 8, 0), inside.max(0) + 8
    bright = float(np.percentile(background[masks[0]], 99.5))
    figure, axes = plt.subplots(2, 6, figsize=(18, 7), layout="constrained")
    for row, axis in zip(axes, (1, 2), strict=True):
        places = np.linspace(low[axis], high[axis], 10).astype(int)[2:8]
        across = [i for i in range(3) if i != axis]
        for ax, place in zip(row, places, strict=True):
            box: list[Any] = [slice(a, b) for a, b in zip(low, high, strict=True)]
            box[axis] = place
            aspect = size[across[1]] / size[across[0]]
            ax.imshow(background[tuple(box)].T, cmap="gray", vmin=0, vmax=bright, aspect=aspect)
            for mask, colour in zip(masks, COLOURS, strict=True):
                if mask[tuple(box)].any():
                    ax.contour(mask[tuple(box)].T, [0.5], colors=colour, linewidths=0.7)
            ax.axis("off")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=55)
    plt.close(figure)


ABOUT = """\
Each head goes from its T1w image to labels on the grid of its gradient echo as the program does it with `--refinement
t1w`, without asking the susceptibility map: brain extraction, tissues, SyN to the template, rigid registration of the
gradient echo, one interpolation, cortex fitted to grey matter, borders of the nuclei that a T1w image shows fitted to
it. Left and right are averaged. What the susceptibility map adds for the deep nuclei is in [nuclei.md](nuclei.md); how
far a rigid registration can be trusted, in [registration.md](registration.md). Columns that say `echo` were made
without the T1w image."""

FLAT = (
    "Flat is the share of a region's voxels in the reference that have exactly the most common brightness of white "
    "matter ({:.0f} % of the white matter has it): the image was prepared so that white matter is uniform, and what "
    "was taken for it is uniform as well. No method that looks at this image alone finds a border between two "
    "regions where both are flat; the susceptibility map shows it. A region that is hardly flat misses its goal for "
    "other reasons: above are its volume and the distance of its centre."
)

GREY_TRUTH = """\
Simulated heads are deformed copies of the template on which the atlas is drawn, so that their Dice says how well the
registration undoes a deformation; that of real heads also holds how differently two brains are folded and
segmented, and is the one to believe."""


def report(results: Mapping[tuple[str, str], Mapping[str, Any]], compute: Compute) -> str:
    """The document."""
    names = [f"{head}, {way}" for head, way in results]
    lines = [
        "# Brain masks and regions against reference labels",
        "",
        f"Written by `benchmarks/anatomy.py` with qsmals {__version__}; do not edit by hand. "
        f"{compute.threads} thread(s){', sloppy' if compute.sloppy else ''}.",
        "",
        ABOUT,
        "",
        "## Brain mask, time and memory",
        "",
    ]
    header = [
        *("head", "brain, ml", "Dice of the mask", "labels inside it, %", "seconds", "seconds of processors"),
        *("memory, GB", "sharpness on the template"),
    ]
    rows = [
        [
            *(name, f"{r['brain_ml']:.0f}", f"{r['mask_dice']:.3f}", f"{100 * r['labels_inside']:.2f}"),
            *(f"{r['wall_s']:.0f}", f"{r['cpu_s']:.0f}", f"{r['peak_gb']:.1f}"),
            f"{r['registration']['sharpness']:.2f}",
        ]
        for name, r in zip(names, results.values(), strict=True)
    ]
    lines += [markdown(header, rows), "", "The atlas itself is made once for all subjects, in "]
    lines[-1] += (
        f"{max(r['atlas_cpu_s'] for r in results.values()):.0f} seconds of processors. Seconds are those on the "
    )
    lines[-1] += "wall, beside whatever else the machine was doing."
    for title, column, digits in (
        ("Dice", "dice", 3), ("Volume relative to the reference", "volume_ratio", 2),
        ("Distance of the centres, mm", "centroid_mm", 2),
    ):  # fmt: skip
        tables = [pd.DataFrame(r["rows"]).groupby("name", sort=False)[column].mean() for r in results.values()]
        goal = column == "dice"
        body = [
            [
                region.replace("_", " "),
                *([f"{GOALS[region]:.2f}" if region in GOALS else "–"] if goal else []),
                *(f"{t[region]:.{digits}f}" if region in t else "–" for t in tables),
            ]
            for region in SHOWN
        ]
        lines += ["", f"## {title}", "", markdown(["region", *(["goal"] if goal else []), *names], body)]
    simulated = ["", GREY_TRUTH] if any(not r["flat"] for r in results.values()) else []
    return "\n".join([*lines, *simulated, *out_of_reach(results)]) + "\n"


def out_of_reach(results: Mapping[tuple[str, str], Mapping[str, Any]]) -> list[str]:
    """Goals that were missed on real heads, with what the image shows of those regions."""
    lines = []
    for (head, _), r in results.items():
        means = pd.DataFrame(r["rows"]).groupby("name", sort=False)["dice"].mean()
        missed = [region for region, goal in GOALS.items() if means.get(region, 1.0) < goal] if r["flat"] else []
        if not missed:
            continue
        words = "; ".join(
            f"{region} {means[region]:.3f} of {GOALS[region]:.2f}, {100 * r['flat'][region]:.0f} % flat"
            for region in missed
        )
        lines += ["", f"{head}: {words}. {FLAT.format(100 * r['flat']['white_matter'])}"]
    return ["", "## Goals that were missed", *lines] if lines else []


def main() -> int:
    """Run every head that is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    parser.add_argument("--work-dir", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sloppy", action="store_true")
    options = parser.parse_args()
    found = {folder: list(heads(folder)) if folder.is_dir() else [] for folder in options.folders}
    for folder in (folder for folder, inside in found.items() if not inside):
        print(f"no head with reference labels in {folder}")
    todo = [(head, way) for inside in found.values() for head in inside for way in ways(head)]
    if not todo:
        return 0
    results = {}
    with tempfile.TemporaryDirectory() as scratch:
        work = options.work_dir or Path(scratch)
        for head, way in todo:
            compute = Compute(work / f"{head.name}_{way}", threads=options.threads, sloppy=options.sloppy)
            picture = work / f"{head.name}_{way}.png"
            kept = work / f"{head.name}_{way}.json"
            if not kept.is_file():
                made = in_own_process(measure, head, way, compute, picture, n_threads=options.threads)
                write_text(kept, json.dumps(made, indent=2))
            results[head.name, way] = made = json.loads(kept.read_text())
            print(head.name, way, {k: v for k, v in made.items() if k != "rows"}, flush=True)
            print(pd.DataFrame(made["rows"]).to_string(), flush=True)
            write_page(results, compute, options.docs)
    return 0


def write_page(results: Mapping[tuple[str, str], Mapping[str, Any]], compute: Compute, docs: Path) -> None:
    """The page and its table, with what has been measured so far."""
    rows = [{**row, "head": head, "way": way} for (head, way), made in results.items() for row in made["rows"]]
    pd.DataFrame(rows).to_csv(docs / "anatomy.tsv", sep="\t", index=False, float_format="%.4f")
    (docs / "anatomy.md").write_text(report(results, compute))


if __name__ == "__main__":
    sys.exit(main())
