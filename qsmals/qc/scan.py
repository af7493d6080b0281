"""All measures of one scan, from its arrays and its region table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qsmals.qc import phase, regions, signal, susceptibility
from qsmals.recon.field.resolution import Steps, acquired_steps
from qsmals.recon.field.weighted import detail_noise
from qsmals.recon.grid import Grid
from qsmals.recon.mask.morphology import dilate
from qsmals.roi.columns import MINIMUM_COVERAGE

AFFINE_MM = 6.0
"""How far an affine may misplace cortex that is there."""

Float = NDArray[np.float32]
Bool = NDArray[np.bool_]


@dataclass(frozen=True)
class ScanArrays:
    """What the measures look at, all on the grid of the scan.

    Attributes
    ----------
    magnitude, phase_rad, unwrapped_rad : (x, y, z, e) float32
        Magnitude; wrapped phase as scaled; unwrapped phase free of an offset. Rad.
    noise_ppm : (x, y, z) float32
        Standard deviation of the total field; infinite where there is none.
    chi_ppm : (x, y, z) float32
        Susceptibility with its reference, 0 outside ``measured``.
    brain, measured, white_matter : (x, y, z) bool
        Brain of the T1w image; voxels with a susceptibility; white matter free of its border.
    labels : (x, y, z) int
        Regions, by the numbers of the region table.
    expected : (x, y, z) int or None
        The atlas's regions where the first affine of the head alone puts them, before any mask had a say.
    """

    magnitude: Float
    phase_rad: Float
    unwrapped_rad: Float
    noise_ppm: Float
    chi_ppm: Float
    brain: Bool
    measured: Bool
    white_matter: Bool
    labels: NDArray[np.int32]
    expected: NDArray[np.int32] | None = None


@dataclass(frozen=True)
class ScanMeasures:
    """Measures by name, those of each echo, and what goes with them in words.

    Attributes
    ----------
    values : mapping of str to float
        By the names of :data:`qsmals.qc.measures.MEASURES`; NaN where one does not apply.
    echoes : mapping of str to list of float
        ``snr``, ``signal_share``, ``phase_noise_rad``: one number an echo.
    details : mapping of str to str
        Measure to where or which: the region, the echo.
    jump_voxel : tuple of float or None
        Centre of the largest group of residual jumps, voxels.
    """

    values: Mapping[str, float]
    echoes: Mapping[str, list[float]]
    details: Mapping[str, str]
    jump_voxel: tuple[float, float, float] | None


def measure_scan(
    arrays: ScanArrays,
    rows: Sequence[Mapping[str, Any]],
    *,
    te_s: Sequence[float],
    b0_tesla: float,
    grid: Grid,
    ranges_ppb: Mapping[str, tuple[float, float]],
) -> ScanMeasures:
    """Every measure that needs voxels or the region table.

    Parameters
    ----------
    arrays : ScanArrays
    rows : sequence of mapping
        Region table of the susceptibility map: ``index``, ``name``, ``hemisphere``, ``mean`` (ppm), ``coverage``. What
        is cortex, and which is the motor cortex, its names say; without such names their measures are NaN.
    te_s : (e,) float
        Echo times, s.
    b0_tesla : float
        Field strength, T.
    grid : Grid
        Voxel size and direction of the main field.
    ranges_ppb : mapping of region to (low, high)
        What adults have, ppb.

    Raises
    ------
    ValueError
        The brain holds no cube of 2x2x2 voxels to estimate noise from.
    """
    details: dict[str, str] = {}
    first = int(np.argmin(te_s))
    steps = acquired_steps(
        arrays.magnitude[..., first], arrays.phase_rad[..., first], arrays.brain, voxel_size_mm=grid.voxel_size_mm
    )
    echoes, of_signal = _signal(arrays, te_s, grid, steps, details)
    of_phase, jumps = _phase(arrays, te_s, b0_tesla, grid, steps)
    values = {**of_signal, **of_phase, **_mask(arrays, rows, grid, details)}
    values |= _map(arrays, rows, grid, ranges_ppb, details)
    return ScanMeasures(values, echoes, {k: v for k, v in details.items() if v}, jumps.cluster_voxel)


def _signal(
    arrays: ScanArrays, te_s: Sequence[float], grid: Grid, steps: Steps, details: dict[str, str]
) -> tuple[dict[str, list[float]], dict[str, float]]:
    magnitude, brain, thin = arrays.magnitude, arrays.brain, _every(steps)
    first = int(np.argmin(te_s))
    snr = signal.snr_of_echoes(magnitude[thin], brain[thin])
    share = signal.echo_share(signal.echo_levels(magnitude, brain), te_s)
    noise = signal.phase_noise(arrays.phase_rad[thin], brain[thin])
    ghosts, outliers = signal.ghosting(magnitude[..., first], brain, voxel_size_mm=grid.voxel_size_mm)
    thinned = f"interpolated images: one voxel of {' × '.join(map(str, steps))}" if max(steps) > 1 else ""
    if np.isfinite(share).any():
        details["echo_signal"] = f"echo {signal.weakest_echo(share, noise)}"
    if np.isfinite(noise).any():
        details["phase_noise"] = "; ".join(filter(None, (f"echo {int(np.nanargmax(noise)) + 1}", thinned)))
    details["snr_first"] = details["snr_last"] = thinned
    field_noise = arrays.noise_ppm[arrays.brain & np.isfinite(arrays.noise_ppm)]
    values = {
        "snr_first": float(snr[first]),
        "snr_last": float(snr[int(np.argmax(te_s))]),
        "echo_signal": float(np.nanmin(share)) if np.isfinite(share).any() else float("nan"),
        "phase_noise": float(np.nanmax(noise)) if np.isfinite(noise).any() else float("nan"),
        "field_noise": 1000.0 * float(np.median(field_noise)) if field_noise.size else float("nan"),
        "ghosting": 100.0 * ghosts,
        "air_outliers": 100.0 * outliers,
    }
    lists = {"snr": snr, "signal_share": share, "phase_noise_rad": noise}
    return {name: [float(v) for v in column] for name, column in lists.items()}, values


def _every(steps: Steps) -> tuple[slice, slice, slice]:
    """One voxel of so many along each axis."""
    x, y, z = (slice(None, None, step) for step in steps)
    return x, y, z


def _phase(
    arrays: ScanArrays, te_s: Sequence[float], b0_tesla: float, grid: Grid, steps: Steps
) -> tuple[dict[str, float], phase.Jumps]:
    thin = _every(steps)
    noise = detail_noise(arrays.magnitude[..., int(np.argmin(te_s))][thin], arrays.brain[thin])
    jumps = phase.residual_jumps(
        arrays.unwrapped_rad,
        arrays.magnitude,
        arrays.measured,
        te_s=te_s,
        voxel_size_mm=grid.voxel_size_mm,
        noise=noise,
    )
    rate = phase.echo_rate(arrays.unwrapped_rad, arrays.magnitude, te_s)
    residual, large = phase.fit_residual(arrays.unwrapped_rad, arrays.magnitude, rate, arrays.measured, te_s=te_s)
    values = {
        "phase_span": phase.phase_span(arrays.phase_rad, arrays.brain, te_s=te_s, b0_tesla=b0_tesla),
        "jump_share": 100.0 * jumps.share,
        "jump_cluster": jumps.cluster_ml,
        "fit_residual": residual,
        "fit_outliers": 100.0 * large,
    }
    return values, jumps


def _mask(
    arrays: ScanArrays, rows: Sequence[Mapping[str, Any]], grid: Grid, details: dict[str, str]
) -> dict[str, float]:
    voxel_ml = float(np.prod(grid.voxel_size_mm)) / 1000
    brain, measured = float(arrays.brain.sum()), float((arrays.measured & arrays.brain).sum())
    coverage, place = regions.least_coverage(rows)
    lost = regions.lost_regions(rows, MINIMUM_COVERAGE)
    details["motor_coverage"] = place
    details["lost_regions"] = ", ".join(lost)
    values = {
        "brain_volume": brain * voxel_ml,
        "brain_kept": 100.0 * measured / brain if brain else float("nan"),
        "motor_coverage": 100.0 * coverage,
        "lost_regions": float(len(lost)),
        "motor_in_mask": float("nan"),
    }
    if arrays.expected is not None:
        shares = {}
        near = dilate(arrays.measured, AFFINE_MM, grid.voxel_size_mm)
        for name, label in regions.motor_labels(rows).items():
            there = arrays.expected == label
            if there.any():
                shares[name] = 100.0 * float(near[there].mean())
        if shares:
            details["motor_in_mask"] = min(shares, key=lambda n: shares[n])
            values["motor_in_mask"] = min(shares.values())
    return values


def _map(
    arrays: ScanArrays,
    rows: Sequence[Mapping[str, Any]],
    grid: Grid,
    ranges_ppb: Mapping[str, tuple[float, float]],
    details: dict[str, str],
) -> dict[str, float]:
    cortex = np.isin(arrays.labels, regions.cortical_labels(rows))
    spread = susceptibility.white_matter_sd(arrays.chi_ppm, arrays.white_matter & arrays.measured)
    sides, where = regions.asymmetry(rows)
    strange = regions.implausible(rows, ranges_ppb)
    details["asymmetry"] = where
    apart = regions.unlike_cortex(rows)
    details["implausible_regions"] = ", ".join(strange)
    details["cortex_outliers"] = ", ".join(apart)
    return {
        "white_matter_sd": spread,
        "contrast_pallidum": regions.contrast(rows, "pallidum", spread),
        "contrast_substantia_nigra": regions.contrast(rows, "substantia_nigra", spread),
        "contrast_caudate": regions.contrast(rows, "caudate", spread),
        "region_order": 100.0 * regions.order_share(rows),
        "implausible_regions": float(len(strange)),
        "cortex_outliers": float(len(apart)) if cortex.any() else float("nan"),
        "asymmetry": sides,
        "rim_offset": susceptibility.rim_offset(
            arrays.chi_ppm, arrays.measured, cortex, voxel_size_mm=grid.voxel_size_mm
        ),
        "streaking": susceptibility.streaking(arrays.chi_ppm, arrays.measured, grid=grid),
    }
