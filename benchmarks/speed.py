"""Time and memory of every reconstruction method on a head of full size, at several voxel sizes.

    python benchmarks/speed.py [--sizes 1.3 1.0 0.8] [--methods NAME ...] [--omp-nthreads N] [--docs docs] [--work DIR]

The head is synthetic: ellipsoids for scalp, skull, brain, nuclei and air in 168 x 212 x 165 mm, folds of a cortex, the
dipole field of all of it, a second-order shim, six noisy echoes. Every method runs in a process of its own, after its
compilation on a coarse head, on inputs that are right rather than made by the stage before. Times are also given in
units of one real FFT pair (rfftn and irfftn, float32) of the head's size in the same process, which says more than
seconds on another machine. Writes speed.md into the folder of `--docs`.

What the folder of `--work` has in its speed.tsv is not measured again; delete the file to measure changed methods.
"""

import argparse
import platform
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from measuring import Journal, cell, forget_peak, in_own_process, markdown, peak_memory_gb
from numpy.typing import NDArray
from scipy import fft

from qsmals import __version__
from qsmals.engine.files import atomic, write_text
from qsmals.engine.threads import threads
from qsmals.recon import fourier
from qsmals.recon.constants import GAMMA_BAR_MHZ_PER_TESLA
from qsmals.recon.grid import Grid
from qsmals.recon.stages import STAGES

Volume = NDArray[np.float32]
Mask = NDArray[np.bool_]
Inputs = dict[str, NDArray[Any]]

EXTENT_MM = (168.0, 212.0, 165.0)
TE_S = (0.004, 0.009, 0.014, 0.019, 0.024, 0.029)
B0_TESLA = 3.0
SNR = 80.0
AIR_PPM = 9.4
"""Susceptibility of air against that of tissue."""

WHOLE = "whole"
"""In place of a stage: all of them, by default, from files to the map."""

COARSE_MM = 5.0
"""Voxels of the head on which methods are compiled."""

REPEAT_S, REPEATS = 10.0, 3
"""A method that takes less than so many seconds runs so many times; the shortest counts."""

NUCLEI = (
    ("caudate", (14, 8, 12), (6, 14, 8), 0.05),
    ("putamen", (26, 2, 2), (6, 15, 9), 0.05),
    ("pallidum", (19, -2, 0), (4, 8, 5), 0.13),
    ("substantia nigra", (10, -18, -14), (3, 5, 5), 0.12),
    ("red nucleus", (5, -19, -9), (3, 3, 3), 0.11),
)
"""Name, centre and half axes in mm from the centre of the brain (right, front, up; both sides), susceptibility, ppm."""

INTRODUCTION = """# Speed and memory

Written by `benchmarks/speed.py` with qsmals {version}; do not edit by hand. {machine}, {threads} thread(s).

A synthetic head of {extent} mm with {echoes} echoes; every method with its defaults in a process of its own, compiled
before. *FFT pairs* is the time in units of one rfftn and irfftn of a float32 volume of the head's size, measured in the
same process before and after. *GB* is the peak of the process, Python, its libraries and the inputs included; *volumes*
is what the method took beyond that, in float32 volumes of the head's size. One thread may do what several were
allowed. Inversions start from the head's own field with noise; after a removal that leaves background in it, those
that stop on a tolerance need more iterations ([reconstruction.md](reconstruction.md) has their numbers). The row
*whole* is the default reconstruction from image arrays in files to the map, with the brain known and without
relaxometry.
"""


def coordinates_mm(grid: Grid) -> list[Volume]:
    """Broadcastable coordinates from the centre of the volume, mm: right, front, up."""
    axes = [h * (np.arange(n) - (n - 1) / 2) for n, h in zip(grid.shape, grid.voxel_size_mm, strict=True)]
    x, y, z = np.meshgrid(*(a.astype(np.float32) for a in axes), indexing="ij", sparse=True)
    return [x, y, z]


def ellipsoid(axes: list[Volume], centre: tuple[float, ...], half: tuple[float, ...]) -> Mask:
    """Voxels inside an ellipsoid, mm."""
    terms = [((a - np.float32(c)) / np.float32(h)) ** 2 for a, c, h in zip(axes, centre, half, strict=True)]
    return np.asarray(terms[0] + terms[1] + terms[2] < 1)


def head_grid(voxel_mm: float) -> Grid:
    """Grid of the head at a voxel size."""
    x, y, z = (round(extent / voxel_mm) for extent in EXTENT_MM)
    return Grid((x, y, z), (voxel_mm, voxel_mm, voxel_mm))


def anatomy(grid: Grid, rng: np.random.Generator) -> tuple[Volume, Mask, Mask]:
    """Susceptibility with 0 for soft tissue, ppm; tissue with signal; brain."""
    from qsmals.simulate.geometry import random_field

    axes = coordinates_mm(grid)
    head = ellipsoid(axes, (0, 0, 0), (82, 104, 81))
    skull = ellipsoid(axes, (0, 0, 4), (77, 98, 75)) & ~ellipsoid(axes, (0, 0, 4), (72, 93, 70))
    brain = ellipsoid(axes, (0, 0, 5), (69, 90, 66))
    air = ellipsoid(axes, (0, 88, -38), (14, 14, 14)) | ellipsoid(axes, (0, 55, -62), (18, 16, 14))
    for side in (-1, 1):
        air |= ellipsoid(axes, (side * 62, -8, -42), (9, 7, 7))
    affine = np.diag([*grid.voxel_size_mm, 1.0])
    affine[:3, 3] = [-h * (n - 1) / 2 for n, h in zip(grid.shape, grid.voxel_size_mm, strict=True)]
    folds = random_field(grid.shape, affine=affine, spacing_mm=6.0, rng=rng)
    inner = ellipsoid(axes, (0, 0, 5), (63, 84, 60))
    chi = np.where(inner & (folds < 0.6), np.float32(-0.02), np.float32(0.02)) * brain
    for _, (x, y, z), half, value in NUCLEI:
        for side in (-1, 1):
            chi[ellipsoid(axes, (side * x, y, z + 5), half)] = value
    chi[~brain] = 0
    chi[skull] = -2.0
    chi[air | ~head] = AIR_PPM
    tissue = head & ~air & ~skull
    return chi.astype(np.float32), tissue, brain & ~air


def make_inputs(voxel_mm: float) -> Inputs:
    """What the stages take, from a head whose truth is known, in the memory order of an image file."""
    from qsmals.recon.field.magnitude import combined_magnitude
    from qsmals.recon.mask.morphology import dilate
    from qsmals.simulate.acquisition import shim
    from qsmals.simulate.dipole import field_from_susceptibility

    grid, rng = head_grid(voxel_mm), np.random.default_rng(0)
    chi, tissue, brain = anatomy(grid, rng)
    affine = np.diag([*grid.voxel_size_mm, 1.0])
    affine[:3, 3] = [-h * (n - 1) / 2 for n, h in zip(grid.shape, grid.voxel_size_mm, strict=True)]
    total = field_from_susceptibility(chi, grid=grid, chi_outside_ppm=AIR_PPM)
    total = shim(total, mask=brain, affine=affine, rng=rng)
    reliable = dilate(brain, 5.0, grid.voxel_size_mm) & tissue
    local = field_from_susceptibility(np.where(reliable, chi, np.float32(0)), grid=grid)
    echoes = make_echoes(total, tissue, coordinates_mm(grid), rng)
    noise = np.float32(1 / (SNR * 2 * np.pi * GAMMA_BAR_MHZ_PER_TESLA * B0_TESLA * TE_S[-1]))
    shake = noise * rng.standard_normal(grid.shape, dtype=np.float32)
    inputs = echoes | {
        "tissue": tissue,
        "brain": brain,
        "reliable": reliable,
        "total": (total + shake) * tissue,
        "local": (local + shake) * reliable,
        "noise": np.where(tissue, noise, np.float32(np.inf)),
        "combined": combined_magnitude(echoes["magnitude"]),
        "r2star": relaxation(brain, coordinates_mm(grid)),
        "quality": np.where(tissue, np.float32(0.8), np.float32(0.2)),
    }
    return {name: np.asfortranarray(values) for name, values in inputs.items()}


def relaxation(brain: Mask, axes: list[Volume]) -> Volume:
    """R2* of the brain and of the fluid in its ventricles, 1/s."""
    fluid = ellipsoid(axes, (7, 8, 16), (4, 22, 6)) | ellipsoid(axes, (-7, 8, 16), (4, 22, 6))
    return (brain * np.where(fluid, np.float32(1), np.float32(20))).astype(np.float32)


def make_echoes(field_ppm: Volume, tissue: Mask, axes: list[Volume], rng: np.random.Generator) -> Inputs:
    """Magnitude, wrapped phase with and without a coil's offset, and unwrapped phase, (x, y, z, e)."""
    x, y, z = (a / np.float32(100) for a in axes)
    offset = np.float32(0.4) + np.float32(1.3) * x - np.float32(0.8) * y + np.float32(0.9) * z * x
    shape = (*field_ppm.shape, len(TE_S))
    result = {name: np.empty(shape, np.float32) for name in ("magnitude", "raw_phase", "phase", "unwrapped")}
    turn = np.float32(2 * np.pi)
    for echo, te in enumerate(TE_S):
        angle = turn * np.float32(GAMMA_BAR_MHZ_PER_TESLA * B0_TESLA * te) * field_ppm
        signal = tissue * np.float32(np.exp(-20 * te)) * np.exp(1j * angle)
        signal += (1j * rng.standard_normal(tissue.shape) + rng.standard_normal(tissue.shape)) / SNR
        phase = np.angle(signal).astype(np.float32)
        result["magnitude"][..., echo] = np.abs(signal)
        result["phase"][..., echo] = phase
        result["raw_phase"][..., echo] = np.angle(np.exp(1j * (phase + offset)))
        result["unwrapped"][..., echo] = phase + turn * np.rint((angle - phase) / turn)
    return result


NEEDED = {
    "phase_offset": ("raw_phase", "magnitude", "tissue", "brain"),
    "unwrap": ("phase", "magnitude", "tissue"),
    "field": ("unwrapped", "magnitude", "tissue"),
    "mask": ("quality", "magnitude", "brain", "total"),
    "background": ("total", "noise"),
    "inversion": ("local", "total", "noise", "reliable", "combined", "r2star"),
    "relaxometry": ("magnitude", "brain"),
}
"""Inputs of each stage; background removal takes the reliable mask or the brain as well."""


def prepared(stage: str, method: Any, inputs: Inputs, voxel_mm: float, mask_name: str) -> Callable[[], Any]:
    """The method with its arguments, ready to be called."""
    from qsmals.recon.field.weights import inverse_noise

    grid, params = head_grid(voxel_mm), method.make_parameters()
    if stage in ("background", "inversion"):
        mask = inputs[mask_name]
        field = inputs["total" if stage == "background" or method.total_field else "local"]
        weights = inverse_noise(inputs["noise"], mask)
        images = {"noise_ppm": "noise", "magnitude": "combined", "r2star_hz": "r2star"}
        wanted = signature(method.function).parameters
        given = {word: inputs[name] for word, name in images.items() if word in wanted}
        return lambda: method.function(field, mask=mask, grid=grid, weights=weights, params=params, **given)
    if stage == "mask":
        seen = {"quality": inputs["quality"], "magnitude": inputs["magnitude"], "field_ppm": inputs["total"]}
        return lambda: method.function(inputs["brain"], **seen, grid=grid, params=params)
    common = {"te_s": np.asarray(TE_S), "params": params}
    if stage == "relaxometry":
        return lambda: method.function(inputs["magnitude"], mask=inputs["brain"], **common)
    common |= {"magnitude": inputs["magnitude"], "mask": inputs["tissue"]}
    if stage == "phase_offset":
        common |= {"grid": grid, "bipolar": False, "brain_mask": inputs["brain"]}
        return lambda: method.function(inputs["raw_phase"], **common)
    if stage == "unwrap":
        return lambda: method.function(inputs["phase"], **common)
    return lambda: method.function(inputs["unwrapped"], b0_tesla=B0_TESLA, **common)


def whole(folder: Path, voxel_mm: float) -> Any:
    """The default reconstruction from images in files to the map, the brain known: every stage but relaxometry."""
    from qsmals.recon.field.weights import inverse_noise
    from qsmals.recon.mask.robust import robust_mask
    from qsmals.recon.reference import reference_to

    grid = head_grid(voxel_mm)
    magnitude, raw, brain = (np.load(folder / f"{name}.npy") for name in ("magnitude", "raw_phase", "brain"))
    steps = {stage: registry[registry.default] for stage, registry in STAGES.items()}
    ready = {stage: partial(step.function, params=step.make_parameters()) for stage, step in steps.items()}
    tissue = np.asfortranarray(robust_mask(magnitude[..., 0], grid=grid))
    common = {"magnitude": magnitude, "mask": tissue, "te_s": np.asarray(TE_S)}
    phase = ready["phase_offset"](raw, grid=grid, bipolar=False, brain_mask=brain, **common).phase_rad
    unwrapped = ready["unwrap"](phase, **common)
    total = ready["field"](unwrapped.phase_rad, b0_tesla=B0_TESLA, **common)
    seen = {"quality": unwrapped.quality, "magnitude": magnitude, "field_ppm": total.field_ppm}
    masks = ready["mask"](brain, **seen, grid=grid)
    mask = masks.reliable if steps["background"].beyond_brain else masks.brain
    weights = inverse_noise(total.noise_ppm, mask)
    local = ready["background"](total.field_ppm, mask=mask, grid=grid, weights=weights)
    known, apart = local.to_invert(finds_background=steps["inversion"].finds_background)
    known = np.asfortranarray(known)
    weights = inverse_noise(total.noise_ppm, known)
    more = {"noise_ppm": total.noise_ppm} if "noise_ppm" in signature(steps["inversion"].function).parameters else {}
    more |= {name: np.asfortranarray(mask) for name, mask in apart.items()}
    solution = ready["inversion"](np.asfortranarray(local.field_ppm), mask=known, grid=grid, weights=weights, **more)
    reference_to(solution.chi_ppm, known & masks.brain)
    return solution


def store_inputs(folder: Path, voxel_mm: float, n_threads: int) -> None:
    """The head at a voxel size, one file an array."""
    with threads(n_threads):
        inputs = make_inputs(voxel_mm)
    for name, values in inputs.items():
        with atomic(folder / f"{name}.npy") as stream:
            np.save(stream, values)
    write_text(folder / "complete", "")


def fft_pair_s(grid: Grid) -> float:
    """Seconds of one forward and backward FFT of a volume, the median of five."""
    volume = np.random.default_rng(0).standard_normal(fourier.padded_shape(grid.shape), dtype=np.float32)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        fft.irfftn(fft.rfftn(volume), s=volume.shape, overwrite_x=True)
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def measure(stage: str, name: str, folder: Path, voxel_mm: float, mask_name: str, n_threads: int) -> dict[str, float]:
    """Seconds, FFT pairs and memory of one method."""
    grid = head_grid(voxel_mm)
    with threads(n_threads):
        if stage == WHOLE:
            with tempfile.TemporaryDirectory() as coarse:
                store_inputs(Path(coarse), COARSE_MM, n_threads)
                whole(Path(coarse), COARSE_MM)
            call = partial(whole, folder, voxel_mm)
        else:
            method = STAGES[stage][name]
            prepared(stage, method, make_inputs(COARSE_MM), COARSE_MM, mask_name)()
            inputs = {key: np.load(folder / f"{key}.npy") for key in {*NEEDED[stage], mask_name}}
            call = prepared(stage, method, inputs, voxel_mm, mask_name)
        pairs = [fft_pair_s(grid)]
        forget_peak()
        before = resident_gb()
        seconds, result = timed(call)
        peak = peak_memory_gb()
        pairs.append(fft_pair_s(grid))
    pair_s = float(np.mean(pairs))
    convergence = getattr(result, "convergence", None)
    return {
        "seconds": seconds,
        "fft_pair_s": pair_s,
        "fft_pairs": seconds / pair_s,
        "peak_gb": peak,
        "volumes": max(peak - before, 0.0) * 1e9 / (4 * np.prod(grid.shape)),
        "iterations": convergence.iterations if convergence else np.nan,
    }


def resident_gb() -> float:
    """Resident memory of this process now, GB; the peak so far where the system does not tell."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return peak_memory_gb()
    line = next(x for x in status.read_text().splitlines() if x.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024 / 1e9


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Shortest time of one call, or of a few where it is short, and the result."""
    times: list[float] = []
    while not times or (times[0] < REPEAT_S and len(times) < REPEATS):
        result = None  # the result before must not count in the memory of the next
        start = time.perf_counter()
        result = call()
        times.append(time.perf_counter() - start)
    return min(times), result


def mask_of(stage: str, name: str) -> str:
    """The mask that the workflows give to a method; a whole reconstruction makes its own."""
    if stage == "background":
        return "reliable" if STAGES[stage][name].beyond_brain else "brain"
    return {"inversion": "reliable", "relaxometry": "brain"}.get(stage, "tissue")


def report(table: pd.DataFrame) -> str:
    """The document."""
    extent = " x ".join(f"{e:g}" for e in EXTENT_MM)
    n_threads = table["threads"].iloc[0]
    words = {"version": __version__, "machine": platform.machine(), "threads": n_threads, "extent": extent}
    text = [INTRODUCTION.format(**words, echoes=len(TE_S))]
    for size, rows in table.groupby("voxel_mm", sort=False):
        shape = " x ".join(str(n) for n in head_grid(float(size)).shape)
        pair = 1000 * rows["fft_pair_s"].median()
        text += [f"## {size:g} mm: {shape} voxels, one FFT pair {pair:.0f} ms", ""]
        header = ["stage", "method", "seconds", "FFT pairs", "GB", "volumes", "iterations"]
        lines = [
            [
                *(row["stage"].replace("_", " "), row["method"], cell(row["seconds"]), cell(row["fft_pairs"], 0)),
                *(cell(row["peak_gb"]), cell(row["volumes"], 1), cell(row["iterations"], 0)),
            ]
            for _, row in rows.iterrows()
        ]
        text += [markdown(header, lines), ""]
    return "\n".join(text)


def work(stage: str, name: str, voxel_mm: float, folder: Path, n_threads: int) -> dict[str, Any] | None:
    """The row of one method at one voxel size, measured unless it is there; None if it failed."""
    journal = Journal(folder / "speed.tsv")
    key = {"voxel_mm": voxel_mm, "stage": stage, "method": name, "threads": n_threads}
    if (row := journal.find(key)) is not None:
        return row
    arrays = folder / f"{voxel_mm:g}mm"
    try:
        if not (arrays / "complete").is_file():
            in_own_process(store_inputs, arrays, voxel_mm, n_threads, n_threads=n_threads)
        arguments = (stage, name, arrays, voxel_mm, mask_of(stage, name), n_threads)
        row = key | in_own_process(measure, *arguments, n_threads=n_threads)
    except Exception:
        traceback.print_exc()
        print(f"FAILED: {stage} {name} at {voxel_mm:g} mm", flush=True)
        return None
    journal.add(row)
    print(f"{voxel_mm:g} mm {stage} {name}: {row['seconds']:.2f} s, {row['peak_gb']:.2f} GB", flush=True)
    return row


def main(argv: list[str] | None = None) -> int:
    """Entry point; 1 if a measurement failed."""
    every = [(stage, name) for stage, registry in STAGES.items() for name in registry] + [(WHOLE, "default")]
    names = list(dict.fromkeys(name for _, name in every))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=float, nargs="+", default=[1.3, 1.0, 0.8], help="voxel edges, mm")
    parser.add_argument("--methods", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--omp-nthreads", type=int, default=2)
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "qsmals-speed")
    options = parser.parse_args(argv)
    chosen = [(size, *pair) for size in options.sizes for pair in every if pair[1] in options.methods]
    rows = [work(stage, name, size, options.work, options.omp_nthreads) for size, stage, name in chosen]
    table = pd.DataFrame([row for row in rows if row is not None])
    if table.empty:
        print("no measurement succeeded")
        return 1
    text = report(table)
    write_text(options.docs / "speed.md", text)
    print(text)
    return 0 if None not in rows else 1


if __name__ == "__main__":
    sys.exit(main())
