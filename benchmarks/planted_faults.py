"""Clean heads that should pass, and one head with planted faults that must be found: the verdicts on both.

    python benchmarks/planted_faults.py WORK_DIR [--docs docs] [--only NAME ...] [--voxel-size-mm MM]

Simulates ten people of different seeds, field strengths, tilts and vendors as one data set and runs `qsmals --sloppy`
on all. Then one fault at a time is done to the first: in its images where the fault is one of images, in an
intermediate result of the run where it is one of a step, and the run goes on from there. The verdicts are written to
docs/planted_faults.md. What is in WORK_DIR already is not made again.
"""

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from measuring import cell, markdown

from qsmals import __version__
from qsmals.qc.limits import LIMITS
from qsmals.qc.measures import MEASURES
from qsmals.qc.verdict import Verdict
from qsmals.reports.assess import assess_scan
from qsmals.reports.collect import Scan, find_scans

SEED = 7
CLEAN = {
    "3 T": ["--seed", "0"],
    "3 T, tilted 20° in pitch": ["--seed", "11", "--tilt-deg", "20", "--tilt-axis", "x"],
    "3 T, tilted 30° in roll": ["--seed", "12", "--tilt-deg", "30", "--tilt-axis", "y"],
    "3 T, GE": ["--seed", "13", "--vendor", "ge"],
    "3 T, Philips, bipolar": ["--seed", "14", "--vendor", "philips", "--readout", "bipolar"],
    "3 T, slices of 3 mm": ["--seed", "15", "--voxel-size-mm", "2", "2", "3"],
    "1.5 T": ["--seed", "16", "--field-strength", "1.5", "--echo-times-ms", "5", "12", "19", "26", "33", "40"],
    "1.5 T, tilted 15°": [
        *("--seed", "17", "--field-strength", "1.5", "--echo-times-ms", "5", "12", "19", "26", "33", "40"),
        *("--tilt-deg", "15", "--tilt-axis", "x"),
    ],
    "7 T": ["--seed", "18", "--field-strength", "7", "--echo-times-ms", "3", "7", "11", "15", "19"],
    "7 T, tilted 25°": [
        *("--seed", "19", "--field-strength", "7", "--echo-times-ms", "3", "7", "11", "15", "19"),
        *("--tilt-deg", "25", "--tilt-axis", "y"),
    ],
}
INTRODUCTION = """# Verdicts on clean and on faulty heads

Written by `benchmarks/planted_faults.py` with qsmals {version}; do not edit by hand.

All heads are simulated (`qsmals-simulate`, peak SNR of 80, voxels of {voxel:g} mm unless said otherwise, with air,
bone, fat, veins, coil phase and shim) and run with `--sloppy`, whose own note for the page is left out of the verdicts
here. What the measures are is in [quality.md](quality.md).
"""


@dataclass(frozen=True)
class Study:
    """One simulated data set with its results."""

    root: Path

    @property
    def bids(self) -> Path:
        return self.root / "bids"

    @property
    def out(self) -> Path:
        return self.root / "out"

    def simulate(self, voxel_mm: float) -> None:
        """Write every head as a subject of its own, unless it is there."""
        for number, words in enumerate(CLEAN.values(), 1):
            name, folder = f"sub-{number:02d}", self.root / f"simulated-{number:02d}"
            if (self.bids / name).is_dir():
                continue
            size = [] if "--voxel-size-mm" in words else ["--voxel-size-mm", *[f"{voxel_mm:g}"] * 3]
            call([*MODULE, "qsmals.cli.simulate", str(folder), "--participants", "1", *size, *words], self.root)
            for path in sorted((folder / "sub-01").rglob("sub-01*")):
                path.rename(path.with_name(path.name.replace("sub-01", name)))
            self.bids.mkdir(exist_ok=True)
            shutil.copy(folder / "dataset_description.json", self.bids)
            (folder / "sub-01").rename(self.bids / name)
            shutil.rmtree(folder)

    def run(self, *options: str) -> int:
        """Process the data set; the exit code."""
        words = [str(self.bids), str(self.out), "participant", "--sloppy", "--skip-bids-validation"]
        return call([*MODULE, "qsmals", *words, "-w", str(self.root / "work"), *options], self.root, fails=True)

    def run_first(self, *options: str) -> int:
        """Process the first subject."""
        return self.run("--participant-label", "01", *options)

    def node(self, path: str) -> Path:
        """Folder of a node of the first subject's run."""
        return next((self.root / "work").glob(f"qsmals-*/*/participant_wf/sub_01_wf/{path}"))


MODULE = [sys.executable, "-m"]


def call(command: list[str], folder: Path, *, fails: bool = False) -> int:
    """Run a command with its output at the end of a log; a failure ends the benchmark unless it may fail."""
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "log.txt"
    with log.open("a") as stream:
        code = subprocess.run(command, stdout=stream, stderr=subprocess.STDOUT, check=False).returncode
    if code and not fails:
        sys.exit(f"{' '.join(command)}\nended with code {code}; see {log}")
    return code


@contextmanager
def kept(*paths: Path) -> Iterator[None]:
    """Files that are changed inside, and put back afterwards."""
    copies = [path.with_name(path.name + ".kept") for path in paths]
    for path, copy in zip(paths, copies, strict=True):
        shutil.copy2(path, copy)
    try:
        yield
    finally:
        for path, copy in zip(paths, copies, strict=True):
            copy.replace(path)


def images(study: Study, part: str) -> list[Path]:
    """Stored images of one part, by echo."""
    return sorted((study.bids / "sub-01" / "anat").glob(f"*_part-{part}_MEGRE.nii.gz"))


def change(path: Path, values: np.ndarray) -> None:
    """Write other values into an image file, as they are."""
    image = nib.load(path)
    made = nib.Nifti1Image(values.astype(np.float32), image.affine)
    nib.save(made, path)


def flipped_sign(study: Study) -> None:
    """The sign of the phase, forced by an option to what it is not."""
    study.run_first("--phase-sign", "negative")


def wrong_scale(study: Study) -> None:
    """Phase stored in radians with half of its size."""
    paths = images(study, "phase")
    sidecars = [path.with_name(path.name.replace(".nii.gz", ".json")) for path in paths]
    with kept(*paths, *sidecars):
        for path, sidecar in zip(paths, sidecars, strict=True):
            stored = np.asarray(nib.load(path).dataobj, dtype=float)
            turn = stored.max() - stored.min()
            change(path, (stored - 0.5 * (stored.max() + stored.min())) / turn * np.pi)
            content = json.loads(sidecar.read_text())
            sidecar.write_text(json.dumps({**content, "Units": "rad"}))
        study.run_first()


def failed_registration(study: Study) -> None:
    """Labels and mask moved by 12 mm and 10 degrees: the transforms between T1w and GRE replaced."""
    import ants

    node = study.node("gre_wf/coregistration_wf/register_gre")
    paths = [next(node.rglob(f"from-{a}_to-{b}.mat")) for a, b in (("T1w", "MEGRE"), ("MEGRE", "T1w"))]
    angle = np.deg2rad(10)
    turn = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    with kept(*paths):
        for path, sign in zip(paths, (1, -1), strict=True):
            transform = ants.read_transform(str(path))
            parameters = np.asarray(transform.parameters, dtype=float)
            parameters[:9] = (parameters[:9].reshape(3, 3) @ (turn if sign > 0 else turn.T)).ravel()
            parameters[9:] += sign * np.array([6.0, 8.0, 6.0])
            transform.set_parameters(parameters)
            ants.write_transform(transform, str(path))
        study.run_first()


def turned_t1w(study: Study) -> None:
    """A T1w image whose header is turned by a quarter: no registration finds the head again."""
    path = next((study.bids / "sub-01" / "anat").glob("*_T1w.nii.gz"))
    with kept(path):
        image = nib.load(path)
        affine = image.affine.copy()
        affine[:3] = np.array([[0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0]]) @ affine
        nib.save(nib.Nifti1Image(np.asarray(image.dataobj, dtype=np.float32), affine), path)
        study.run_first()


def cut_mask(study: Study) -> None:
    """A brain mask without the uppermost 22 mm: the motor cortex of both legs and hands."""
    node = study.node("anatomy_wf/extract_brain")
    paths = [node / "brain_mask.nii", node / "brain.nii"]
    with kept(*paths):
        mask = nib.load(paths[0])
        inside = mask.get_fdata() > 0.5
        z = (mask.affine @ np.vstack([np.argwhere(inside).T, np.ones(int(inside.sum()))]))[2]
        grid = np.indices(mask.shape).reshape(3, -1)
        height = (mask.affine[:3, :3] @ grid + mask.affine[:3, 3:])[2].reshape(mask.shape)
        for path in paths:
            change(path, np.where(height > z.max() - 22, 0, nib.load(path).get_fdata()))
        study.run_first()


def dead_echo(study: Study) -> None:
    """The third echo holds noise alone."""
    magnitude, phase = images(study, "mag")[2], images(study, "phase")[2]
    rng = np.random.default_rng(SEED)
    with kept(magnitude, phase):
        stored = np.asarray(nib.load(magnitude).dataobj, dtype=float)
        level = 0.02 * np.percentile(stored, 99)
        noise = level * (rng.standard_normal(stored.shape) + 1j * rng.standard_normal(stored.shape))
        change(magnitude, np.abs(noise))
        angles = np.asarray(nib.load(phase).dataobj, dtype=float)
        change(phase, np.rint(angles.min() + (np.angle(noise) / np.pi + 1) / 2 * (angles.max() - angles.min())))
        study.run_first()


def strong_noise(study: Study) -> None:
    """Complex noise of a sixth of the brain's signal in every echo."""
    rng = np.random.default_rng(SEED)
    pairs = list(zip(images(study, "mag"), images(study, "phase"), strict=True))
    first = np.asarray(nib.load(pairs[0][0]).dataobj)
    level = np.median(first[first > 0.3 * np.percentile(first, 99)]) / 6
    with kept(*(path for pair in pairs for path in pair)):
        for magnitude, phase in pairs:
            stored, angles = (np.asarray(nib.load(path).dataobj, dtype=float) for path in (magnitude, phase))
            scale = np.pi / 4096
            signal = stored * np.exp(1j * angles * scale)
            signal = signal + level * (rng.standard_normal(stored.shape) + 1j * rng.standard_normal(stored.shape))
            change(magnitude, np.abs(signal))
            change(phase, np.clip(np.rint(np.angle(signal) / scale), -4096, 4095))
        study.run_first()


def vein_of_jumps(study: Study) -> None:
    """A tube of 3 mm radius and 60 mm length in which the unwrapped phase is one turn too high."""
    path = study.node("gre_wf/field_wf/unwrap/unwrapped.nii")
    with kept(path):
        image = nib.load(path)
        size = np.linalg.norm(image.affine[:3, :3], axis=0)
        brain = nib.load(study.node("gre_wf/coregistration_wf/move_mask/resampled.nii")).get_fdata() > 0.5
        centre = np.argwhere(brain).mean(axis=0) + np.array([0, 0, 20]) / size
        offset = (np.stack(np.indices(image.shape[:3]), -1) - centre) * size
        tube = (np.hypot(offset[..., 0] - 12, offset[..., 2]) < 3) & (np.abs(offset[..., 1]) < 30)
        change(path, image.get_fdata() + 2 * np.pi * tube[..., None])
        study.run_first()


@dataclass(frozen=True)
class Fault:
    """A fault, what does it, and words of which a reason must have one."""

    title: str
    plant: Callable[[Study], None]
    named_by: tuple[str, ...]


# Those of intermediate results first: the results that they change must be those of the clean images.
FAULTS = {
    "vein": Fault("A vein of 2π jumps", vein_of_jumps, ("jumps of 2π",)),
    "sign": Fault("Flipped phase sign (`--phase-sign`)", flipped_sign, ("phase sign",)),
    "registration": Fault(
        "Failed registration (transform off by 12 mm and 10°)", failed_registration, ("labels", "mask", "outside")
    ),
    "mask": Fault("Mask without the motor cortex", cut_mask, ("motor cortex",)),
    "scale": Fault("Wrong phase scale (half)", wrong_scale, ("scale",)),
    "echo": Fault("Dead echo", dead_echo, ("dead",)),
    "noise": Fault("Strong noise", strong_noise, ("noise", "noisy")),
    "t1w": Fault("Failed registration (T1w header turned by 90°)", turned_t1w, ("registration", "T1w", "labels")),
}


Result = tuple[Scan, Verdict]


def clean_verdicts(study: Study, voxel_mm: float) -> dict[str, Result]:
    """Run every clean head, and keep the results."""
    if not (study.root / "clean").is_dir():
        study.simulate(voxel_mm)
        study.run()
        keep(study, study.root / "clean")
    found = {}
    for number, name in enumerate(CLEAN, 1):
        scan = find_scans(study.root / "clean", f"{number:02d}")[0][0]
        found[name] = (scan, assess_scan(scan))
        print(f"clean, {name}: {_words(found[name][1])}", flush=True)
    return found


def fault_verdicts(study: Study, only: list[str]) -> dict[str, Result]:
    """Plant every fault in the first head, and keep the results."""
    found = {}
    for name, fault in FAULTS.items():
        place = study.root / f"fault-{name}"
        if only and name not in only:
            continue
        if not place.is_dir():
            fault.plant(study)
            keep(study, place)
        scan = find_scans(place, "01")[0][0]
        found[name] = (scan, assess_scan(scan))
        print(f"{fault.title}: {_words(found[name][1])}", flush=True)
    return found


def keep(study: Study, place: Path) -> None:
    """Copy the results without the images that no verdict needs."""
    shutil.copytree(study.out, place, ignore=shutil.ignore_patterns("figures", "*.h5", "*_space-MNI*", "*_space-T1w*"))


def _words(verdict: Verdict) -> str:
    return " ".join([verdict.word + ".", *(f"[{r.level}] {r.text}" for r in verdict.reasons)])


def is_named(fault: Fault, verdict: Verdict) -> bool:
    """Whether a reason of the verdict names the fault."""
    return any(word in reason.text for reason in verdict.reasons for word in fault.named_by)


def document(clean: dict[str, Result], faulty: dict[str, Result], voxel_mm: float) -> str:
    """The page of the manual."""
    rows = [[name, verdict.word, " ".join(r.text for r in verdict.reasons)] for name, (_, verdict) in clean.items()]
    lines = [INTRODUCTION.format(version=__version__, voxel=voxel_mm), "## Clean heads", ""]
    passed = sum(verdict.word == "pass" for _, verdict in clean.values())
    lines += [f"{passed} of {len(clean)} pass.", "", markdown(["head", "verdict", "reasons"], rows), ""]
    rows = [
        [FAULTS[name].title, verdict.word, "yes" if is_named(FAULTS[name], verdict) else "no",
         " ".join(r.text for r in verdict.reasons)]
        for name, (_, verdict) in faulty.items()
    ]  # fmt: skip
    found = sum(verdict.word != "pass" for _, verdict in faulty.values())
    lines += ["## Planted faults", "", f"{found} of {len(faulty)} are found.", ""]
    lines += [markdown(["fault", "verdict", "named", "reasons"], rows), "", "## Measures", ""]
    lines += ["Range over the clean heads, the limits, and the value with each fault. Bold is beyond a limit.", ""]
    header = ["measure", "clean", "check", "fail", *faulty]
    body = []
    for name, measure in MEASURES.items():
        values = [s.quality.values.get(name, np.nan) for s, _ in clean.values() if s.quality]
        known = [v for v in values if np.isfinite(v)]
        digits = measure.digits
        span = f"{cell(min(known), digits)} to {cell(max(known), digits)}" if known else "–"
        limit = LIMITS.get(name)
        bounds = ["–" if x is None else f"{x:g}" for x in ((limit.check, limit.fail) if limit else (None, None))]
        cells = []
        for scan, _ in faulty.values():
            value = scan.quality.values.get(name, np.nan) if scan.quality else np.nan
            words = cell(value, digits)
            cells.append(f"**{words}**" if limit and limit.level(value) else words)
        body.append([measure.title + (f", {measure.unit}" if measure.unit else ""), span, *bounds, *cells])
    return "\n".join([*lines, markdown(header, body), ""])


def main(argv: list[str] | None = None) -> int:
    """Entry point; 1 when a clean head does not pass or a fault is not found and named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work_dir", type=Path)
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    parser.add_argument("--only", nargs="+", default=[], choices=FAULTS, help="some faults; no page then")
    parser.add_argument("--voxel-size-mm", type=float, default=2.5)
    options = parser.parse_args(argv)
    study = Study(options.work_dir)
    clean = clean_verdicts(study, options.voxel_size_mm)
    faulty = fault_verdicts(study, options.only)
    if not options.only:
        (options.docs / "planted_faults.md").write_text(document(clean, faulty, options.voxel_size_mm))
    missed = [name for name, (_, v) in faulty.items() if v.word == "pass" or not is_named(FAULTS[name], v)]
    doubted = [name for name, (_, v) in clean.items() if v.word != "pass"]
    print(
        f"not found or not named: {', '.join(missed) or 'none'}; clean heads in doubt: {', '.join(doubted) or 'none'}"
    )
    return 1 if missed or doubted else 0


if __name__ == "__main__":
    sys.exit(main())
