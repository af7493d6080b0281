"""Clean heads that should pass, and heads with planted faults that must be found: the verdicts on both.

    python benchmarks/planted_faults.py WORK_DIR [--docs docs] [--only NAME ...] [--others N] [--voxel-size-mm MM]
        [--measured-only]

Simulates ten people of different seeds, field strengths, tilts and vendors as one data set and runs `qsmals --sloppy`
on all: the limits were set so that these pass. Other heads, which had no part in the limits, are run as they
would be for a study, without `--sloppy`. Then one fault at a time is done to the first of the ten, and one to the same
head with three echoes: in its images where the fault is one of images, in an intermediate result of the run where it is
one of a step, and the run goes on from there. The verdicts are written to docs/planted_faults.md. What is in WORK_DIR
already is not made again, with `--others` only the first N of the other heads are made, and with `--measured-only`
nothing is: the page says which heads were not run.
"""

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
from measuring import cell, markdown

from qsmals import __version__
from qsmals.engine.files import write_text
from qsmals.qc import phase, signal
from qsmals.qc.limits import LIMITS
from qsmals.qc.measures import MEASURES
from qsmals.qc.verdict import Reason, Verdict
from qsmals.reports.assess import assess_scan
from qsmals.reports.collect import Scan, find_scans
from qsmals.workflows.participant import LOW_EFFORT

SEED = 7
LOW_FIELD = ("--field-strength", "1.5", "--echo-times-ms", "5", "12", "19", "26", "33", "40")
HIGH_FIELD = ("--field-strength", "7", "--echo-times-ms", "3", "7", "11", "15", "19")
CLEAN = {
    "3 T": ["--seed", "0"],
    "3 T, tilted 20° in pitch": ["--seed", "11", "--tilt-deg", "20", "--tilt-axis", "x"],
    "3 T, tilted 30° in roll": ["--seed", "12", "--tilt-deg", "30", "--tilt-axis", "y"],
    "3 T, GE": ["--seed", "13", "--vendor", "ge"],
    "3 T, Philips, bipolar": ["--seed", "14", "--vendor", "philips", "--readout", "bipolar"],
    "3 T, slices of 3 mm": ["--seed", "15", "--voxel-size-mm", "2", "2", "3"],
    "1.5 T": ["--seed", "16", *LOW_FIELD],
    "1.5 T, tilted 15°": ["--seed", "17", *LOW_FIELD, "--tilt-deg", "15", "--tilt-axis", "x"],
    "7 T": ["--seed", "18", *HIGH_FIELD],
    "7 T, tilted 25°": ["--seed", "19", *HIGH_FIELD, "--tilt-deg", "25", "--tilt-axis", "y"],
}
UNSEEN = {
    "3 T, 2 mm, motor cortex 15 ppb higher (ALS)": [
        *("--seed", "105", "--voxel-size-mm", "2", "2", "2", "--participants", "2", "--als-effect-ppb", "15"),
    ],
    "3 T, 1 mm": ["--seed", "101", "--voxel-size-mm", "1", "1", "1"],
    "1.5 T, 2 mm, tilted 35° in pitch, SNR 50": [
        *("--seed", "107", "--voxel-size-mm", "2", "2", "2", "--snr", "50", *LOW_FIELD),
        *("--tilt-deg", "35", "--tilt-axis", "x"),
    ],
    "7 T, 1.5 mm, tilted 10° in pitch, Philips": [
        *("--seed", "103", "--voxel-size-mm", "1.5", "1.5", "1.5", "--vendor", "philips", *HIGH_FIELD),
        *("--tilt-deg", "10", "--tilt-axis", "x"),
    ],
    "3 T, 2 mm, three echoes": ["--seed", "104", "--voxel-size-mm", "2", "2", "2", "--echo-times-ms", "6", "14", "22"],
    "3 T, 2 mm, another shape of head (deformation of 6 mm)": [
        *("--seed", "106", "--voxel-size-mm", "2", "2", "2", "--deformation-mm", "6"),
    ],
    "3 T, 1 mm, tilted 25° in roll, GE": [
        *("--seed", "102", "--voxel-size-mm", "1", "1", "1"),
        *("--tilt-deg", "25", "--tilt-axis", "y", "--vendor", "ge"),
    ],
    "3 T, 1 × 1 × 3 mm, bipolar": [
        *("--seed", "108", "--voxel-size-mm", "1", "1", "3", "--readout", "bipolar", "--readout-shift-voxels", "0.2"),
    ],
}
"""Heads that had no part in the limits; of two participants the second, who has ALS, is taken."""
THREE_ECHOES = {"3 T, three echoes": ["--seed", "0", "--echo-times-ms", "6", "14", "22"]}
"""The first head with three echoes, for the faults that few echoes hide."""
INTRODUCTION = """# Verdicts on clean and on faulty heads

Written by `benchmarks/planted_faults.py` with qsmals {version}; do not edit by hand.

All heads are simulated (`qsmals-simulate`, peak SNR of 80, voxels of {voxel:g} mm unless said otherwise, with air,
bone, fat, veins, coil phase and shim). What the measures are is in [quality.md](quality.md). Simulated heads are kinder
than people: they do not move, their fields are smooth, and their brains are one brain deformed. What these tables
show is that the limits leave clean heads alone and that each fault is called by its name, not how often a real study
would have to look.

Faults are planted in the first of the ten heads, or, where it says so, in the same head with three echoes (6, 14 and
22 ms). The first ten heads and those with faults were run with `--sloppy`, whose own note for the page is left out of
the verdicts here.
"""
GIVEN = (
    "Written with `--measured-only`: what was run may have been run by an earlier state of the program; it is judged "
    "by the present limits."
)
SET_ON = """The limits were set so that these heads pass; that they do is no test of them."""
NOT_SET_ON = (
    """None of these had a part in setting the limits. They were run as a study would be, without `--sloppy`."""
)


@dataclass(frozen=True)
class Study:
    """One simulated data set with its results, a subject a head."""

    root: Path
    heads: Mapping[str, Sequence[str]]
    sloppy: bool = True

    @property
    def bids(self) -> Path:
        return self.root / "bids"

    @property
    def out(self) -> Path:
        return self.root / "out"

    def simulate(self, number: int, voxel_mm: float) -> None:
        """Write a head as a subject of that number, unless it is there."""
        words = list(self.heads.values())[number - 1]
        name, folder = f"sub-{number:02d}", self.root / f"simulated-{number:02d}"
        if (self.bids / name).is_dir():
            return
        size = [] if "--voxel-size-mm" in words else ["--voxel-size-mm", *[f"{voxel_mm:g}"] * 3]
        call([*MODULE, "qsmals.cli.simulate", str(folder), "--participants", "1", *size, *words], self.root)
        made = max(path.name for path in folder.glob("sub-*"))
        for path in sorted((folder / made).rglob(f"{made}*")):
            path.rename(path.with_name(path.name.replace(made, name)))
        self.bids.mkdir(exist_ok=True)
        shutil.copy(folder / "dataset_description.json", self.bids)
        (folder / made).rename(self.bids / name)
        shutil.rmtree(folder)

    def run(self, number: int, *options: str) -> int:
        """Process a head; the exit code."""
        words = [str(self.bids), str(self.out), "participant", "--participant-label", f"{number:02d}"]
        words += ["--skip-bids-validation", "-w", str(self.root / "work"), *(["--sloppy"] if self.sloppy else [])]
        return call([*MODULE, "qsmals", *words, *options], self.root, fails=True)

    def run_first(self, *options: str) -> int:
        """Process the first head."""
        return self.run(1, *options)

    def clean(self, number: int, voxel_mm: float) -> Path:
        """Folder of the kept results of a head without fault, which is run unless it was."""
        place = self.root / f"clean-{number:02d}"
        if not place.is_dir():
            self.simulate(number, voxel_mm)
            self.run(number)
            keep(self.out / f"sub-{number:02d}", place / f"sub-{number:02d}")
        return place

    def node(self, path: str) -> Path:
        """Folder of a node of the first subject's run."""
        return next((self.root / "work").glob(f"qsmals-*/*/participant_wf/sub_01_wf/{path}"))


MODULE = [sys.executable, "-m"]
PARTS = ("mag", "phase")
RAD_PER_UNIT = np.pi / 4096
ImageFault = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


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


def echoes(study: Study) -> tuple[np.ndarray, np.ndarray]:
    """Magnitude, and phase in rad, of the first head as stored, echoes last."""
    parts = [np.stack([np.asarray(nib.load(p).dataobj, dtype=float) for p in images(study, x)], -1) for x in PARTS]
    return parts[0], parts[1] * RAD_PER_UNIT


def half_scale(magnitude: np.ndarray, phase_rad: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Phase of half of its size."""
    return magnitude, phase_rad / 2


def double_scale(magnitude: np.ndarray, phase_rad: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Phase of twice its size, wrapped anew: a converter took the stored numbers for twice the angles that they are.

    The program itself cannot be made to: numbers beyond the range that their sidecar declares are refused or scaled by
    what they reach. Wrapped by another program before, they fill their circle as right ones do.
    """
    return magnitude, np.angle(np.exp(2j * phase_rad))


def dead_echo(echo: int, magnitude: np.ndarray, phase_rad: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One echo (its place in the list) holds noise alone."""
    shape, rng = magnitude.shape[:3], np.random.default_rng(SEED)
    level = 0.02 * np.percentile(magnitude[..., echo], 99)
    noise = level * (rng.standard_normal(shape) + 1j * rng.standard_normal(shape))
    magnitude, phase_rad = magnitude.copy(), phase_rad.copy()
    magnitude[..., echo], phase_rad[..., echo] = np.abs(noise), np.angle(noise)
    return magnitude, phase_rad


def strong_noise(magnitude: np.ndarray, phase_rad: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Complex noise of a sixth of the brain's signal in every echo."""
    rng, first = np.random.default_rng(SEED), magnitude[..., 0]
    level = np.median(first[first > 0.3 * np.percentile(first, 99)]) / 6
    noise = level * (rng.standard_normal(magnitude.shape) + 1j * rng.standard_normal(magnitude.shape))
    signal = magnitude * np.exp(1j * phase_rad) + noise
    return np.abs(signal), np.angle(signal)


def in_images(fault: ImageFault, study: Study) -> None:
    """Store the first head's images with a fault in them, phase in radians, and process it."""
    paths = [images(study, part) for part in PARTS]
    sidecars = [path.with_name(path.name.replace(".nii.gz", ".json")) for path in paths[1]]
    with kept(*paths[0], *paths[1], *sidecars):
        for part, values in zip(paths, fault(*echoes(study)), strict=True):
            for number, path in enumerate(part):
                change(path, values[..., number])
        for sidecar in sidecars:
            sidecar.write_text(json.dumps(json.loads(sidecar.read_text()) | {"Units": "rad"}))
        study.run_first()


def failed_registration(study: Study) -> None:
    """A transform from the GRE scan to T1w that is 12 mm and 10 degrees off, as another program's result (`-d`)."""
    import ants

    name = "sub-01_from-MEGRE_to-T1w_mode-image_xfm.mat"
    folder = study.root / "wrong"
    (folder / "sub-01" / "anat").mkdir(parents=True, exist_ok=True)
    shutil.copy(study.bids / "dataset_description.json", folder)
    transform = ants.read_transform(str(study.root / "clean-01" / "sub-01" / "anat" / name))
    angle = np.deg2rad(10)
    turn = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    parameters = np.asarray(transform.parameters, dtype=float)
    parameters[:9] = (parameters[:9].reshape(3, 3) @ turn).ravel()
    parameters[9:] += np.array([6.0, 8.0, 6.0])
    transform.set_parameters(parameters)
    ants.write_transform(transform, str(folder / "sub-01" / "anat" / name))
    study.run_first("-d", f"wrong={folder}")


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


def vein_of_jumps(echoes: slice, study: Study) -> None:
    """A tube of 3 mm radius and 60 mm length in which the unwrapped phase of some echoes is one turn too high."""
    path = study.node("gre_wf/field_wf/unwrap/unwrapped.nii")
    with kept(path):
        image = nib.load(path)
        size = np.linalg.norm(image.affine[:3, :3], axis=0)
        brain = nib.load(study.node("gre_wf/coregistration_wf/move_mask/resampled.nii")).get_fdata() > 0.5
        phase_rad = image.get_fdata()
        phase_rad[..., echoes] += 2 * np.pi * vein(brain, size)[..., None]
        change(path, phase_rad)
        study.run_first()


def vein(brain: np.ndarray, size_mm: np.ndarray) -> np.ndarray:
    """The tube: along the second axis, 12 mm beside and 20 mm above the centre of the brain."""
    centre = np.argwhere(brain).mean(axis=0) + np.array([0, 0, 20]) / size_mm
    offset = (np.stack(np.indices(brain.shape), -1) - centre) * size_mm
    return (np.hypot(offset[..., 0] - 12, offset[..., 2]) < 3) & (np.abs(offset[..., 1]) < 30)


IMAGE_FAULTS: dict[str, ImageFault] = {
    "half scale": half_scale,
    "double scale": double_scale,
    "third echo dead": partial(dead_echo, 2),
    "last echo dead": partial(dead_echo, -1),
    "strong noise": strong_noise,
}


@dataclass(frozen=True)
class Fault:
    """A fault, what does it, what names it (a measure beyond its limit, or the words of a refusal), and its head."""

    title: str
    plant: Callable[[Study], None]
    named_by: tuple[str, ...]
    refusal: str = ""
    three_echoes: bool = False

    def study(self, first: Study) -> Study:
        """Where the head lies that it is planted in."""
        return Study(first.root / "three-echoes", THREE_ECHOES) if self.three_echoes else first


# Those of intermediate results first: the results that they change must be those of the clean images.
FAULTS = {
    "vein": Fault("A vein of 2π jumps", partial(vein_of_jumps, slice(None)), ("jump_share", "jump_cluster")),
    "late vein": Fault(
        "A vein of 2π jumps in the last of three echoes",
        partial(vein_of_jumps, slice(-1, None)),
        ("jump_share", "jump_cluster"),
        three_echoes=True,
    ),
    "sign": Fault("Flipped phase sign (`--phase-sign`)", flipped_sign, ("contrast_pallidum", "region_order")),
    "registration": Fault(
        "Failed registration (transform off by 12 mm and 10°)", failed_registration, ("gre_overlap", "gre_sharpness")
    ),
    "mask": Fault("Mask without the motor cortex", cut_mask, ("motor_coverage", "motor_in_mask")),
    "scale": Fault("Wrong phase scale (half)", partial(in_images, IMAGE_FAULTS["half scale"]), ("phase_span",)),
    "double": Fault(
        "Wrong phase scale (double, wrapped anew)",
        partial(in_images, IMAGE_FAULTS["double scale"]),
        ("implausible_regions", "fit_residual", "fit_outliers"),
    ),
    "echo": Fault(
        "Dead third echo", partial(in_images, IMAGE_FAULTS["third echo dead"]), ("echo_signal",), "echo 3 is dark"
    ),
    "last echo": Fault("Dead last echo", partial(in_images, IMAGE_FAULTS["last echo dead"]), ("echo_signal",)),
    "noise": Fault(
        "Strong noise", partial(in_images, IMAGE_FAULTS["strong noise"]), ("snr_first", "phase_noise", "field_noise")
    ),
    "t1w": Fault(
        "Failed registration (T1w header turned by 90°)",
        turned_t1w,
        ("gre_overlap", "gre_sharpness", "template_overlap", "template_sharpness"),
    ),
}


Result = tuple[Scan, Verdict]
IGNORED = shutil.ignore_patterns("figures", "*.h5", "*_space-MNI*", "*_space-T1w*")


def clean_verdicts(study: Study, voxel_mm: float, *, at_most: int) -> dict[str, Result]:
    """Verdicts of the first heads without fault, and of those of the others that were run."""
    found = {}
    for number, name in enumerate(study.heads, 1):
        if number > at_most and not (study.root / f"clean-{number:02d}").is_dir():
            continue
        found[name] = assessed(study.clean(number, voxel_mm), f"{number:02d}")
        print(f"clean, {name}: {_words(found[name][1])}", flush=True)
    return found


def fault_verdicts(study: Study, only: list[str], voxel_mm: float, *, measured_only: bool) -> dict[str, Result]:
    """Verdicts of the first head with every fault in turn, or of those that were run."""
    found = {}
    for name, fault in FAULTS.items():
        where, place = fault.study(study), study.root / f"fault-{name}"
        if (only and name not in only) or (measured_only and not place.is_dir()):
            continue
        if not place.is_dir():
            where.clean(1, voxel_mm)
            shutil.rmtree(where.out / "sub-01", ignore_errors=True)  # nothing of the run before may be judged
            fault.plant(where)
            keep(where.out / "sub-01", place / "sub-01")
            shutil.copy(where.out / "logs" / "summary.json", place)
        found[name] = judged(place)
        print(f"{fault.title}: {_words(found[name][1])}", flush=True)
    return found


def judged(place: Path) -> Result:
    """Verdict on kept results; of a subject whose images were refused, the reason that its page gives."""
    summary = place / "summary.json"
    entry = json.loads(summary.read_text())["subjects"]["sub-01"] if summary.is_file() else {}
    if entry.get("status") == "invalid":
        return Scan("sub-01", None, {}, (), ()), Verdict(entry["verdict"], (Reason("fail", entry["why"], "refusal"),))
    return assessed(place, "01")


def assessed(place: Path, label: str) -> Result:
    """Verdict on a subject's only scan, but for what `--sloppy` says of itself."""
    scan = find_scans(place, label)[0][0]
    if scan.facts:
        warnings = tuple(text for text in scan.facts.warnings if text != LOW_EFFORT)
        scan = replace(scan, facts=replace(scan.facts, warnings=warnings))
    return scan, assess_scan(scan)


def keep(results: Path, place: Path) -> None:
    """Copy results without the images that no verdict needs."""
    shutil.copytree(results, place, ignore=IGNORED)


def _words(verdict: Verdict) -> str:
    return " ".join([verdict.word + ".", *(f"[{r.level}] {r.text}" for r in verdict.reasons)])


def image_measures(study: Study) -> dict[str, dict[str, float]]:
    """Measures that need no processing, of the first head's images as they are and with each fault of images."""
    scan = find_scans(study.root / "clean-01", "01")[0][0]
    brain = np.asarray(nib.load(scan.files["mask"]).dataobj) > 0
    sidecars = [path.with_name(path.name.replace(".nii.gz", ".json")) for path in images(study, "mag")]
    te_s = [json.loads(path.read_text())["EchoTime"] for path in sidecars]
    found = {}
    for title, fault in {"clean": None, **IMAGE_FAULTS}.items():
        arrays = echoes(study) if fault is None else fault(*echoes(study))
        magnitude, phase_rad = (array.astype(np.float32) for array in arrays)
        found[title] = {
            "snr_first": float(signal.snr_of_echoes(magnitude, brain)[0]),
            "echo_signal": float(np.min(signal.echo_share(signal.echo_levels(magnitude, brain), te_s))),
            "phase_noise": float(np.max(signal.phase_noise(phase_rad, brain))),
            "phase_span": phase.phase_span(phase_rad, brain, te_s=te_s, b0_tesla=3.0),
        }
    return found


def _image_table(measured: dict[str, dict[str, float]]) -> list[str]:
    """The same as a table, bold beyond a limit."""
    rows = []
    for name in next(iter(measured.values())):
        words = [cell(values[name], MEASURES[name].digits) for values in measured.values()]
        levels = [LIMITS[name].level(values[name]) for values in measured.values()]
        marked = [f"**{word}** ({level})" if level else word for word, level in zip(words, levels, strict=True)]
        rows.append([MEASURES[name].title, *marked])
    return [
        "Faults of the images are seen before any processing, in the stored images inside the brain mask of the clean "
        "run:",
        "",
        markdown(["measure", *measured], rows),
        "",
    ]


def naming(fault: Fault, verdict: Verdict) -> list[str]:
    """The reasons of the verdict that name the fault."""
    said = [reason.text for reason in verdict.reasons if reason.measure in fault.named_by]
    refused = [reason.text for reason in verdict.reasons if reason.figure == "refusal"]
    return said + [text for text in refused if fault.refusal and fault.refusal in text]


def document(
    clean: dict[str, Result],
    unseen: dict[str, Result],
    faulty: dict[str, Result],
    of_images: dict[str, dict[str, float]],
    voxel_mm: float,
    *,
    measured_only: bool,
) -> str:
    """The page of the manual."""
    lines = [INTRODUCTION.format(version=__version__, voxel=voxel_mm)]
    if measured_only:
        lines += [GIVEN, ""]
    parts = (("Clean heads", SET_ON, clean, CLEAN), ("Other clean heads", NOT_SET_ON, unseen, UNSEEN))
    for title, about, heads, every in parts:
        rows = [[name, verdict.word, " ".join(r.text for r in verdict.reasons)] for name, (_, verdict) in heads.items()]
        passed = sum(verdict.word == "pass" for _, verdict in heads.values())
        lines += [f"## {title}", ""]
        if rows:
            lines += [f"{about} {passed} of {len(heads)} pass.", ""]
            lines += [markdown(["head", "verdict", "reasons"], rows), ""]
        if left := [name for name in every if name not in heads]:
            lines += [f"Not run: {'; '.join(left)}.", ""]
    rows = []
    for name, (_, verdict) in faulty.items():
        names = naming(FAULTS[name], verdict)
        others = [r.text for r in verdict.reasons if r.text not in names]
        rows.append([FAULTS[name].title, verdict.word, " ".join(names) or "not named", " ".join(others)])
    rows += [[fault.title, "not run", "", ""] for name, fault in FAULTS.items() if name not in faulty]
    found = sum(verdict.word != "pass" for _, verdict in faulty.values())
    named = sum(bool(naming(FAULTS[name], verdict)) for name, (_, verdict) in faulty.items())
    lines += ["## Planted faults", "", f"{found} of {len(faulty)} are found, {named} are named.", ""]
    lines += [markdown(["fault", "verdict", "what names it", "further reasons"], rows), "", *_image_table(of_images)]
    lines += ["## Measures", ""]
    lines += [
        "Range over the ten clean heads and over the others, the limits, and the value with each fault. Bold is beyond "
        "a limit; a dash is a measure that does not apply.",
        "",
    ]
    header = ["measure", "ten clean", "other clean", "check", "fail", *faulty]
    body = []
    for name, measure in MEASURES.items():
        digits = measure.digits
        limit = LIMITS.get(name)
        bounds = ["–" if x is None else f"{x:g}" for x in ((limit.check, limit.fail) if limit else (None, None))]
        cells = []
        for scan, _ in faulty.values():
            value = scan.quality.values.get(name, np.nan) if scan.quality else np.nan
            words = cell(value, digits)
            cells.append(f"**{words}**" if limit and limit.level(value) else words)
        title = measure.title + (f", {measure.unit}" if measure.unit else "")
        body.append([title, _span(clean, name, digits), _span(unseen, name, digits), *bounds, *cells])
    return "\n".join([*lines, markdown(header, body), ""])


def _span(heads: dict[str, Result], name: str, digits: int) -> str:
    """Smallest and largest value of a measure."""
    values = [scan.quality.values.get(name, np.nan) for scan, _ in heads.values() if scan.quality]
    known = [v for v in values if np.isfinite(v)]
    return f"{cell(min(known), digits)} to {cell(max(known), digits)}" if known else "–"


def main(argv: list[str] | None = None) -> int:
    """Entry point; 1 when a clean head does not pass or a fault is not found and named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work_dir", type=Path)
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    parser.add_argument("--only", nargs="+", default=[], choices=FAULTS, help="some faults; no page then")
    parser.add_argument("--others", type=int, default=len(UNSEEN), help="how many of the other clean heads")
    parser.add_argument("--voxel-size-mm", type=float, default=2.5)
    parser.add_argument("--measured-only", action="store_true", help="run nothing more")
    options = parser.parse_args(argv)
    study, voxel_mm, given = Study(options.work_dir, CLEAN), options.voxel_size_mm, options.measured_only
    faulty = fault_verdicts(study, options.only, voxel_mm, measured_only=given)
    clean: dict[str, Result] = {}
    unseen: dict[str, Result] = {}
    if not options.only:
        clean = clean_verdicts(study, voxel_mm, at_most=0 if given else len(CLEAN))
        others = Study(options.work_dir / "unseen", UNSEEN, sloppy=False)
        unseen = clean_verdicts(others, voxel_mm, at_most=0 if given else options.others)
        page = document(clean, unseen, faulty, image_measures(study), voxel_mm, measured_only=given)
        write_text(options.docs / "planted_faults.md", page)
    missed = [name for name, (_, v) in faulty.items() if v.word == "pass" or not naming(FAULTS[name], v)]
    doubted = [name for name, (_, v) in (clean | unseen).items() if v.word != "pass"]
    print(
        f"not found or not named: {', '.join(missed) or 'none'}; clean heads in doubt: {', '.join(doubted) or 'none'}"
    )
    return 1 if missed or doubted else 0


if __name__ == "__main__":
    sys.exit(main())
