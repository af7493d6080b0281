"""Compare ROMEO with scikit-image's unwrapping on a real multi-echo scan.

    python benchmarks/unwrapping.py DATA_FOLDER [--te-s 0.004 0.008 0.012] [--output docs/unwrapping.md]

DATA_FOLDER holds `Mag.nii` and `Phase.nii` (x, y, z, echo), for instance `test/data/small` of the repository
korbinian90/MriResearchTools.jl. Both methods start from the same wrapped phase, so that they differ by whole turns
only; the report says in how many voxels they do, and why. Beside the Markdown report stands a figure of the same name.
Without the folder the script says so and ends.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from skimage.restoration import unwrap_phase

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from qsmals.engine.files import write_bytes, write_text
from qsmals.recon.grid import Grid
from qsmals.recon.phase.mcpc3ds import Mcpc3dsParameters, mcpc3ds
from qsmals.recon.phase.scaling import PhaseScale, describe_values, detect_phase_scale, phase_to_radians
from qsmals.recon.phase.wrap import wrap
from qsmals.recon.unwrap.romeo import RomeoParameters, romeo

TURN = 2 * np.pi
SIGNAL = 0.2
"""Part of the median magnitude of the first echo from which a voxel has signal; the crop lies in the brain."""

SOME_TURNS = 1e-3
"""Largest distance from a whole number of turns that rounding explains."""


@dataclass(frozen=True)
class Scan:
    """Wrapped, offset-free phase in radians with what belongs to it."""

    phase_rad: NDArray[np.float32]
    magnitude: NDArray[np.float32]
    te_s: tuple[float, ...]
    mask: NDArray[np.bool_]
    scale: PhaseScale


@dataclass(frozen=True)
class Echo:
    """One echo unwrapped by both methods."""

    ours: NDArray[np.float32]
    theirs: NDArray[np.float32]
    turns: NDArray[np.int_]
    quality: NDArray[np.float32]

    @property
    def differs(self) -> NDArray[np.bool_]:
        """Voxels that are not a common number of turns apart."""
        return np.asarray(self.turns != 0)


def load(folder: Path, te_s: Sequence[float]) -> Scan:
    """Scan with its phase offset removed, and the mask of its voxels with signal."""
    image = nib.load(folder / "Mag.nii")
    magnitude = np.asarray(image.dataobj, dtype=np.float32)
    stored = np.asarray(nib.load(folder / "Phase.nii").dataobj, dtype=np.float32)
    if magnitude.shape != stored.shape or stored.shape[3] != len(te_s):
        raise SystemExit(f"magnitude {magnitude.shape}, phase {stored.shape} and {len(te_s)} echo times do not fit")
    scale = detect_phase_scale(describe_values(np.moveaxis(stored, -1, 0)))
    grid = Grid.from_affine(stored.shape, image.affine)
    mask = magnitude[..., 0] > SIGNAL * np.median(magnitude[..., 0])
    corrected = mcpc3ds(
        phase_to_radians(stored, scale),
        magnitude=magnitude,
        te_s=te_s,
        mask=mask,
        grid=grid,
        bipolar=False,
        params=Mcpc3dsParameters(),
    )
    return Scan(corrected.phase_rad, magnitude, tuple(te_s), mask, scale)


def compare(scan: Scan) -> list[Echo]:
    """Every echo by ROMEO (all together) and by scikit-image (one by one), with their difference in turns."""
    result = romeo(scan.phase_rad, magnitude=scan.magnitude, te_s=scan.te_s, mask=scan.mask, params=RomeoParameters())
    echoes = []
    for echo in range(len(scan.te_s)):
        ours = result.phase_rad[..., echo]
        masked = np.ma.masked_array(scan.phase_rad[..., echo].astype(np.float64), ~scan.mask)
        theirs = np.where(scan.mask, unwrap_phase(masked, rng=0).filled(0), 0).astype(np.float32)
        apart = (ours.astype(float) - theirs)[scan.mask] / TURN
        whole = np.rint(apart).astype(int)
        if np.abs(apart - whole).max() > SOME_TURNS:
            raise SystemExit(f"echo {echo + 1}: the two results are not whole turns apart")
        values, counts = np.unique(whole, return_counts=True)
        turns = np.zeros(scan.mask.shape, dtype=int)
        turns[scan.mask] = whole - values[np.argmax(counts)]
        echoes.append(Echo(ours, theirs, turns, result.quality))
    return echoes


def near_singularities(phase_rad: NDArray[np.float32], mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Voxels of 2x2 loops around which the wrapped differences do not add up to zero.

    At such a loop the phase has no unique unwrapping: the result depends on where the cut between a pair of
    singularities is laid.
    """
    near = np.zeros(mask.shape, dtype=bool)
    for a, b in ((0, 1), (0, 2), (1, 2)):
        here, right = phase_rad, np.roll(phase_rad, -1, a)
        across, up = np.roll(right, -1, b), np.roll(phase_rad, -1, b)
        circulation = wrap(right - here) + wrap(across - right) + wrap(up - across) + wrap(here - up)
        odd = np.abs(circulation) > np.pi
        odd &= mask & np.roll(mask, -1, a) & np.roll(mask, -1, b) & np.roll(np.roll(mask, -1, a), -1, b)
        odd.swapaxes(0, a)[-1] = False
        odd.swapaxes(0, b)[-1] = False
        for shift_a in (0, 1):
            for shift_b in (0, 1):
                near |= np.roll(np.roll(odd, shift_a, a), shift_b, b)
    return near


def misfit_in_time(scan: Scan, echoes: list[Echo], echo: int, which: str) -> float:
    """Median distance, in turns, of differing voxels from the phase that the first echo predicts.

    The common number of turns between an echo and the first is taken from the voxels on which both methods agree.
    """
    values = getattr(echoes[echo], which)
    expected = echoes[0].ours * (scan.te_s[echo] / scan.te_s[0])
    distance = (values - expected) / TURN
    agreeing = scan.mask & ~echoes[echo].differs
    level = np.rint(np.median(distance[agreeing]))
    return float(np.median(np.abs(distance - level)[echoes[echo].differs]))


def report(scan: Scan, echoes: list[Echo], seconds: float, figure: str) -> str:
    """The comparison as Markdown."""
    rows = [
        f"| {n + 1} | {1e3 * scan.te_s[n]:g} | {int(e.differs.sum())} | {100 * (1 - e.differs[scan.mask].mean()):.3f} |"
        for n, e in enumerate(echoes)
    ]
    shape = " x ".join(str(n) for n in scan.mask.shape)
    lines = [
        "# Unwrapping of a real scan",
        "",
        "ROMEO of this package against `skimage.restoration.unwrap_phase` on a real gradient-echo crop "
        f"({shape} voxels, {len(scan.te_s)} echoes; repository korbinian90/MriResearchTools.jl, `test/data/small`, "
        f"MIT licence). The phase was scaled by its own levels ({scan.scale.source}), its offset removed with "
        f"MCPC-3D-S, and both methods unwrapped the {int(scan.mask.sum())} voxels with signal (of {scan.mask.size}): "
        "ROMEO all echoes together, scikit-image one by one. Two results agree in a voxel when their difference is the "
        "multiple of 2 pi that is common to most voxels; no difference was anything but a multiple of 2 pi. "
        f"ROMEO took {seconds:.2f} s.",
        "",
        "| echo | echo time, ms | voxels that differ | agreement, % |",
        "|---|---|---|---|",
        *rows,
        "",
        f"![Magnitude, wrapped phase, result and difference]({figure})",
        "",
        "## Where and why they differ",
        "",
        *explanation(scan, echoes),
        "",
        "Written by `benchmarks/unwrapping.py`.",
    ]
    return "\n".join(lines) + "\n"


def explanation(scan: Scan, echoes: list[Echo]) -> list[str]:
    """One item per echo that has differences, with what its voxels have in common."""
    items = []
    for n, echo in enumerate(echoes):
        differs = echo.differs
        if not differs.any():
            items.append(f"- Echo {n + 1}: no difference.")
            continue
        strength = np.median(scan.magnitude[..., n][differs]) / np.median(scan.magnitude[..., n][scan.mask])
        near = near_singularities(scan.phase_rad[..., n], scan.mask)
        slices, counts = np.unique(np.nonzero(differs)[2], return_counts=True)
        voxels = "1 voxel" if differs.sum() == 1 else f"{int(differs.sum())} voxels"
        items.append(
            f"- Echo {n + 1}: {voxels}, at most {np.abs(echo.turns).max()} turn apart, {counts.max()} in slice "
            f"{slices[np.argmax(counts)]} (all in slices {slices.min()} to {slices.max()}). The median magnitude is "
            f"{100 * strength:.0f} % of that of all voxels. {100 * near[differs].mean():.0f} % touch a phase "
            "singularity (a loop of 2 x 2 voxels whose wrapped differences do not cancel), against "
            f"{100 * near[scan.mask].mean():.2f} % of all voxels. The phase that the first echo predicts is "
            f"{misfit_in_time(scan, echoes, n, 'ours'):.2f} turns from ROMEO's result there (median) and "
            f"{misfit_in_time(scan, echoes, n, 'theirs'):.2f} from scikit-image's."
        )
    first = 100 * near_singularities(scan.phase_rad[..., 0], scan.mask)[scan.mask].mean()
    items += [
        "",
        "Singularities come where the signal has dephased, here in the dark strip that the figure shows. "
        "Around them a single echo does not say where the cut of 2 pi runs, and a spatial method lays it along the "
        f"voxels that it trusts least. ROMEO unwraps the late echoes from the first one, in which {first:.2f} % of the "
        "voxels touch a singularity; the prediction from the first echo shows which of the two is right.",
    ]
    return items


def draw(scan: Scan, echoes: list[Echo], path: Path) -> None:
    """Magnitude, wrapped phase, ROMEO's phase and the difference, echo by echo, in the slice that differs most."""
    import io

    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    worst = int(np.argmax(sum(e.differs.sum(axis=(0, 1)) for e in echoes)))
    figure, panels = plt.subplots(len(echoes), 4, figsize=(11, 2.75 * len(echoes)), squeeze=False)
    for n, echo in enumerate(echoes):
        shown = np.where(scan.mask, 1.0, np.nan)[:, :, worst]
        limit = float(np.abs(echo.ours).max())
        for panel, (title, image, limits, colours) in zip(
            panels[n],
            [
                ("magnitude", scan.magnitude[:, :, worst, n], (0, float(scan.magnitude.max())), "gray"),
                ("wrapped, rad", scan.phase_rad[:, :, worst, n] * shown, (-np.pi, np.pi), "twilight"),
                ("ROMEO, rad", echo.ours[:, :, worst] * shown, (-limit, limit), "RdBu_r"),
                ("ROMEO - scikit-image, turns", echo.turns[:, :, worst] * shown, (-2, 2), "PiYG"),
            ],
            strict=True,
        ):
            drawn = panel.imshow(image.T, origin="lower", vmin=limits[0], vmax=limits[1], cmap=colours)
            panel.set_title(f"{title}" if n else f"{title}\nslice {worst}", fontsize=9)
            panel.set_xticks([])
            panel.set_yticks([])
            figure.colorbar(drawn, ax=panel, fraction=0.045)
        panels[n][0].set_ylabel(f"echo {n + 1}, {1e3 * scan.te_s[n]:g} ms")
    figure.tight_layout()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=90, metadata={"Software": None})
    plt.close(figure)
    write_bytes(path, buffer.getvalue())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparison; 0 if every echo agrees in 99 % of the voxels or there are no data, else 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--te-s", type=float, nargs="+", default=[0.004, 0.008, 0.012], help="echo times, s")
    parser.add_argument("--output", type=Path, default=Path("docs/unwrapping.md"))
    options = parser.parse_args(arguments)
    missing = [name for name in ("Mag.nii", "Phase.nii") if not (options.folder / name).is_file()]
    if missing:
        print(f"skipped: {options.folder} has no {' and no '.join(missing)}")
        return 0
    scan = load(options.folder, options.te_s)
    compare(scan)  # compiles
    start = time.perf_counter()
    romeo(scan.phase_rad, magnitude=scan.magnitude, te_s=scan.te_s, mask=scan.mask, params=RomeoParameters())
    seconds = time.perf_counter() - start
    echoes = compare(scan)
    figure = options.output.with_suffix(".png")
    draw(scan, echoes, figure)
    text = report(scan, echoes, seconds, figure.name)
    write_text(options.output, text)
    print(text)
    return 0 if all(e.differs[scan.mask].mean() <= 0.01 for e in echoes) else 1


if __name__ == "__main__":
    sys.exit(main())
