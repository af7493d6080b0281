"""The iterative inversions RTS, HD-QSM, iLSQR and NDI: each against its own objective and on known sources."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import numba
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import fft, ndimage, optimize

from qsmals.recon import fourier
from qsmals.recon.dipole import dipole_field, dipole_kernel
from qsmals.recon.grid import Grid
from qsmals.recon.inversion.hdqsm import HDQSM, HdQsmParameters, least_squares_stage, robust_stage, silenced
from qsmals.recon.inversion.ilsqr import ILSQR, IlsqrParameters, fast_map, flatness, ilsqr, least_squares, streaking
from qsmals.recon.inversion.ndi import NDI, NdiParameters, ndi
from qsmals.recon.inversion.rts import RTS, RtsParameters, fill_cone, rts
from qsmals.recon.method import Method
from tests.inversion_phantom import TILTED, blocks, divergence, ellipsoid, relative_error, slope_on

Array = NDArray[np.float64]

SMALL = Grid((8, 6, 5), (1.0, 1.2, 1.5), TILTED)


@dataclass(frozen=True)
class Case:
    """A method, and the relative error that it must stay below on the blocks without noise."""

    method: Method
    error: float


CASES = [Case(RTS, 0.3), Case(HDQSM, 0.1), Case(ILSQR, 0.35), Case(NDI, 0.43)]
every_method = pytest.mark.parametrize("case", CASES, ids=lambda c: c.method.name)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small volumes only lose time to threads."""
    before = numba.get_num_threads()
    numba.set_num_threads(1)
    yield
    numba.set_num_threads(before)


def filtered(kernel: NDArray[np.float32], volume: Array) -> Array:
    return np.asarray(fft.irfftn(kernel.astype(float) * fft.rfftn(volume), s=volume.shape))


def variation(chi: Array, corner: float) -> tuple[float, Array]:
    """Sum of the moduli of the differences, rounded at the corner, and its gradient."""
    slope = fourier.gradient(chi, SMALL.voxel_size_mm)  # type: ignore[arg-type]
    modulus = np.sqrt(slope**2 + corner**2)
    return float(modulus.sum()), -divergence(slope / modulus, SMALL.voxel_size_mm)  # type: ignore[arg-type]


def least(objective: Callable[[Array], tuple[float, Array]]) -> Array:
    """Minimum from a general solver in double precision."""

    def flat(x: Array) -> tuple[float, Array]:
        value, slope = objective(x.reshape(SMALL.shape))
        return value, slope.ravel()

    options = {"maxiter": 2000, "maxfun": 2500, "ftol": 1e-12, "gtol": 1e-8}
    start = np.zeros(int(np.prod(SMALL.shape)))
    return np.asarray(optimize.minimize(flat, start, jac=True, method="L-BFGS-B", options=options).x).reshape(
        SMALL.shape
    )


def noise(seed: int, spread: float) -> NDArray[np.float32]:
    return (spread * np.random.default_rng(seed).standard_normal(SMALL.shape)).astype(np.float32)


def assert_is_minimum(
    found: NDArray[np.float32], objective: Callable[[Array, float], tuple[float, Array]], corner: float
) -> None:
    """The method's map is as good as the general solver's, whose rounded corner costs it a little."""
    best = least(lambda x: objective(x, corner))
    reference, reached = objective(best, 0.0)[0], objective(found.astype(float), 0.0)[0]
    assert 0.995 * reference <= reached <= 1.002 * reference
    assert reached < 0.9 * objective(np.zeros(SMALL.shape), 0.0)[0]


def test_rts_fills_the_cone_with_the_least_variation() -> None:
    first = noise(1, 0.05)
    dipole = dipole_kernel(SMALL)
    params = RtsParameters(
        threshold=0.2, regularisation=3e-3, gradient_penalty=50.0, tolerance=1e-6, max_iterations=2000
    )
    found, convergence = fill_cone(first, dipole, SMALL, params)
    assert convergence.converged and convergence.iterations == len(convergence.changes)
    outside = (np.abs(dipole) >= 0.2).astype(np.float32)

    def objective(chi: Array, corner: float) -> tuple[float, Array]:
        change = filtered(outside, chi - first)
        with np.errstate(invalid="ignore"):
            rough, descent = variation(chi, corner)
        return 0.5 * float(np.sum(change**2)) + 3e-3 * rough, change + 3e-3 * descent

    assert_is_minimum(found, objective, 1e-5)


def test_rts_keeps_what_was_measured() -> None:
    """With its small regularisation, the second step leaves the frequencies outside the cone alone."""
    first = noise(2, 0.05)
    dipole = dipole_kernel(SMALL)
    found, _ = fill_cone(first, dipole, SMALL, RtsParameters())
    outside = (np.abs(dipole) >= 0.15).astype(np.float32)
    np.testing.assert_allclose(filtered(outside, found), filtered(outside, first), atol=1e-4)  # type: ignore[arg-type]
    assert variation(found, 0)[0] < 0.99 * variation(filtered(outside, first), 0)[0]  # type: ignore[arg-type]


def test_hd_qsm_reaches_the_minimum_of_its_final_stage() -> None:
    local, dipole = noise(3, 0.05), dipole_kernel(SMALL)
    weight = np.random.default_rng(4).uniform(0.5, 1.5, SMALL.shape).astype(np.float32)
    params = HdQsmParameters(regularisation=2e-3, gradient_penalty=50.0, tolerance=1e-6, max_iterations=1500)
    start = robust_stage(local, weight, dipole, SMALL, params)
    weight = silenced(weight, start, local, dipole)
    found, _ = least_squares_stage(start, local, weight, dipole, SMALL, params)
    again, _ = least_squares_stage(np.zeros_like(start), local, weight, dipole, SMALL, params)
    np.testing.assert_allclose(found, again, atol=2e-3)  # the minimum does not depend on the start

    def objective(chi: Array, corner: float) -> tuple[float, Array]:
        misfit = weight * (filtered(dipole, chi) - local)
        with np.errstate(invalid="ignore"):
            rough, descent = variation(chi, corner)
        return 0.5 * float(np.sum(misfit**2)) + 2e-3 * rough, filtered(dipole, weight * misfit) + 2e-3 * descent

    assert_is_minimum(found, objective, 1e-5)


def test_hd_qsm_silences_wrong_voxels() -> None:
    grid = Grid((30, 28, 26), (1.0, 1.0, 1.0))
    truth, mask = blocks(grid), ellipsoid(grid)
    wrong = mask & (np.random.default_rng(5).random(grid.shape) < 0.003)
    local = dipole_field(truth, grid) + np.where(wrong, np.float32(0.3), np.float32(0))
    params = HdQsmParameters()
    dipole = dipole_kernel(grid)
    weight = mask.astype(np.float32)
    robust = robust_stage(local * weight, weight, dipole, grid, params)
    lowered = silenced(weight, robust, local * weight, dipole)
    assert lowered.min() >= 0 and lowered.max() <= 1
    assert not lowered[~mask].any()
    assert lowered[wrong].mean() < 0.3 < 0.9 < lowered[mask & ~wrong].mean()


def test_ilsqr_estimates_the_streaks_of_its_objective() -> None:
    """Against dense least squares over the frequencies of the cone."""
    first, dipole = noise(6, 0.05), dipole_kernel(SMALL)
    params = IlsqrParameters(threshold=0.2, tolerance=1e-6, max_iterations=500)
    flat = np.random.default_rng(7).uniform(0, 1, (3, *SMALL.shape)).astype(np.float32)
    found, convergence = streaking(first, flat, dipole, SMALL, params)
    assert convergence.converged
    units = np.eye(first.size).reshape(-1, *SMALL.shape)
    cone = (np.abs(dipole) < 0.2).astype(np.float32)
    into_cone = np.stack([filtered(cone, u).ravel() for u in units], axis=1)
    slope = np.stack([fourier.gradient(u, SMALL.voxel_size_mm).ravel() for u in units], axis=1)
    weighted = np.sqrt(flat.astype(float)).ravel()[:, None] * slope
    answer = np.linalg.lstsq(weighted @ into_cone, weighted @ first.ravel(), rcond=1e-9)[0]
    np.testing.assert_allclose(found.ravel(), into_cone @ answer, atol=1e-5)


def test_ilsqr_first_map_is_the_dense_least_squares_solution() -> None:
    local, dipole = noise(8, 0.05), dipole_kernel(SMALL)
    power = np.random.default_rng(9).uniform(0.5, 1.5, SMALL.shape).astype(np.float32)
    params = IlsqrParameters(first_tolerance=1e-6, first_max_iterations=2000)
    found, reached = least_squares(local, power, dipole, params)
    assert reached.converged
    units = np.eye(local.size).reshape(-1, *SMALL.shape)
    operator = np.stack([filtered(dipole, u).ravel() for u in units], axis=1)
    answer = np.linalg.lstsq(operator.T @ (power.ravel()[:, None] * operator), operator.T @ (power * local).ravel())[0]
    unexplained = [power * (filtered(dipole, x.reshape(SMALL.shape)) - local) ** 2 for x in (found, answer)]
    assert unexplained[0].sum() == pytest.approx(unexplained[1].sum(), rel=1e-3)


def test_ilsqr_tells_of_a_first_map_that_stopped_early() -> None:
    local, mask = noise(8, 0.05), np.ones(SMALL.shape, dtype=bool)
    few = {"smoothing_radius_mm": 1.5, "padding_mm": 0.0}
    assert not ilsqr(local, mask=mask, grid=SMALL, params=IlsqrParameters(first_tolerance=0.5, **few)).notes
    params = IlsqrParameters(first_tolerance=1e-6, first_max_iterations=3, **few)
    (note,) = ilsqr(local, mask=mask, grid=SMALL, params=params).notes
    assert "first map" in note and "iterations, 3" in note and "1e-06" in note


def test_ilsqr_fast_map_has_the_edges() -> None:
    """Where the fast map counts as flat, the truth hardly varies."""
    grid = Grid((33, 30, 26), (1.0, 1.0, 1.5), TILTED)
    truth, mask = blocks(grid), ellipsoid(grid)
    params = IlsqrParameters()
    local = (dipole_field(truth, grid) * mask).astype(np.float32)
    flat = flatness(fast_map(local, mask, dipole_kernel(grid), grid, params), mask, grid, params)
    edges = fourier.gradient(truth, grid.voxel_size_mm) != 0
    assert flat[edges].mean() < 0.1 < 0.4 < flat[:, ndimage.binary_erosion(mask, iterations=2)].mean()
    assert not flat[:, ~mask].any()


@pytest.mark.parametrize("scale", [1.0, 60.0])
def test_ndi_reaches_the_minimum_of_its_objective(scale: float) -> None:
    """At a scale at which the sine is straight, and at one at which it is not."""
    local, dipole = noise(10, 0.02), dipole_kernel(SMALL)
    weights = np.random.default_rng(11).uniform(0.5, 1.5, SMALL.shape).astype(np.float32)
    alpha = 0.02
    params = NdiParameters(rad_per_ppm=scale, regularisation=alpha, padding_mm=0.0, tolerance=1e-6, max_iterations=3000)
    mask = np.ones(SMALL.shape, bool)
    found = ndi(local, mask=mask, grid=SMALL, weights=weights, params=params)
    assert found.convergence.converged
    power = np.minimum(weights / np.median(weights), 1).astype(float) ** 2
    phase = scale * local.astype(float)

    def objective(x: Array) -> tuple[float, Array]:
        misfit = filtered(dipole, x) - phase
        value = float(np.sum(power * (1 - np.cos(misfit))) + alpha / 2 * np.sum(x**2))
        return value, filtered(dipole, power * np.sin(misfit)) + alpha * x

    expected = least(objective)
    np.testing.assert_allclose(scale * found.chi_ppm, expected, atol=2e-3 * np.abs(expected).max())


def test_ndi_counts_iterations_and_changes_in_k_space_as_in_space() -> None:
    for shape in ((8, 6, 5), (8, 6, 6)):
        grid = Grid(shape, (1.0, 1.0, 1.0))
        local = noise(12, 0.05)[..., [0, 1, 2, 3, 4, 0][: shape[2]]]
        mask = np.ones(shape, bool)
        one, two = (
            ndi(local, mask=mask, grid=grid, params=NdiParameters(max_iterations=n, tolerance=1e-9, padding_mm=0.0))
            for n in (1, 2)
        )
        expected = np.linalg.norm(two.chi_ppm - one.chi_ppm) / np.linalg.norm(two.chi_ppm)
        assert two.convergence.changes == pytest.approx((1.0, expected), rel=1e-4)


@pytest.mark.parametrize(("size", "b0"), [((1.0, 1.0, 1.0), (0.0, 0.0, 1.0)), ((1.0, 1.0, 1.5), TILTED)])
def test_ndi_comes_near_the_truth_before_it_stops(
    size: tuple[float, float, float], b0: tuple[float, float, float]
) -> None:
    """Weights over their maximum left slopes of 0.74 and 0.69, and of 0.54 and 0.44 with bright voxels."""
    grid = Grid((33, 30, 26), size, b0)
    truth, mask = blocks(grid), ellipsoid(grid)
    local = dipole_field(truth, grid)
    even = np.ones(grid.shape, np.float32)
    bright = np.where(np.random.default_rng(16).random(grid.shape) < 0.02, np.float32(3), even)
    shell = np.where(np.arange(grid.shape[1])[:, None] > 20, np.float32(3), even)
    for weights in (even, bright, shell):
        found = ndi(local, mask=mask, grid=grid, weights=weights)
        assert slope_on(found.chi_ppm, truth, mask) > 0.76
        assert relative_error(found.chi_ppm, truth, mask) < 0.43
        assert found.convergence.converged and found.convergence.iterations < 40


def test_ndi_goes_with_momentum_where_plain_descent_goes() -> None:
    """1 / (1 - momentum) times as fast, and no other way."""
    grid = Grid((33, 30, 26), (1.0, 1.0, 1.0), TILTED)
    truth, mask = blocks(grid), ellipsoid(grid)
    noise = 0.001 * np.random.default_rng(17).standard_normal(grid.shape)
    local = (dipole_field(truth, grid) + noise).astype(np.float32)
    maps = [
        ndi(local, mask=mask, grid=grid, params=NdiParameters(momentum=m, max_iterations=n, tolerance=1e-9)).chi_ppm
        for m, n in ((0.7, 30), (0.0, 100), (0.0, 30))
    ]
    assert relative_error(maps[0], maps[1], mask) < 0.03 < 0.1 < relative_error(maps[2], maps[1], mask)


def test_ndi_stays_stable_up_to_its_largest_step() -> None:
    grid = Grid((20, 18, 16), (1.0, 1.0, 1.0))
    local, mask = dipole_field(blocks(grid), grid), np.ones(grid.shape, bool)
    for momentum in (0.0, 0.7, 0.9):
        params = NdiParameters(momentum=momentum, padding_mm=0.0, max_iterations=400, tolerance=1e-6)
        largest = (2 + 2 * momentum) / (1 + 2 * momentum) / (float(np.abs(dipole_kernel(grid)).max()) ** 2 + 1e-5)
        found = ndi(local, mask=mask, grid=grid, params=replace(params, step=0.98 * largest))
        assert found.convergence.changes[-1] < 1e-3
        with pytest.raises(ValueError, match="steps below"):
            ndi(local, mask=mask, grid=grid, params=replace(params, step=1.01 * largest))


def test_ndi_limits_what_a_wrong_phase_does() -> None:
    """A voxel that is off by a whole turn has no influence at all."""
    grid = Grid((24, 22, 20), (1.0, 1.0, 1.0))
    local = dipole_field(blocks(grid), grid)
    mask = ellipsoid(grid)
    wrong = local.copy()
    wrong[12, 11, 10] += 2 * np.pi / NdiParameters().rad_per_ppm
    maps = [ndi(f, mask=mask, grid=grid).chi_ppm for f in (local, wrong)]
    np.testing.assert_allclose(*maps, atol=1e-5)


@every_method
@pytest.mark.parametrize(("size", "b0"), [((1.0, 1.0, 1.0), (0.0, 0.0, 1.0)), ((1.0, 1.0, 1.5), TILTED)])
def test_blocks_are_found_at_any_tilt_and_voxel(
    case: Case, size: tuple[float, float, float], b0: tuple[float, float, float]
) -> None:
    grid = Grid((33, 30, 26), size, b0)
    truth, mask = blocks(grid), ellipsoid(grid)
    local = dipole_field(truth, grid)
    weights = np.ones(grid.shape, np.float32)
    before = local.copy(), mask.copy(), weights.copy()
    result = case.method.function(local, mask=mask, grid=grid, weights=weights)
    assert result.chi_ppm.dtype == np.float32 and result.chi_ppm.shape == grid.shape
    assert not result.chi_ppm[~mask].any()
    assert result.convergence.iterations == len(result.convergence.changes)
    assert relative_error(result.chi_ppm, truth, mask) < case.error
    for array, copy in zip((local, mask, weights), before, strict=True):
        np.testing.assert_array_equal(array, copy)


@every_method
def test_the_error_falls_with_the_noise(case: Case) -> None:
    grid = Grid((33, 30, 26), (1.0, 1.0, 1.0))
    truth, mask = blocks(grid), ellipsoid(grid)
    clean = dipole_field(truth, grid)
    random = np.random.default_rng(13).standard_normal(grid.shape)
    errors = []
    for spread in (0.01, 0.003, 0.0):
        local = (clean + spread * random).astype(np.float32)
        errors.append(relative_error(case.method.function(local, mask=mask, grid=grid).chi_ppm, truth, mask))
    assert errors[0] > 1.5 * errors[1] > 1.5 * errors[2]


@every_method
def test_the_scale_of_the_weights_has_no_effect(case: Case) -> None:
    grid = Grid((20, 18, 16), (1.0, 1.0, 1.0))
    local, mask = dipole_field(blocks(grid), grid), ellipsoid(grid)
    weights = np.random.default_rng(14).uniform(0.5, 1.5, grid.shape).astype(np.float32)
    maps = [case.method.function(local, mask=mask, grid=grid, weights=s * weights).chi_ppm for s in (1, 8)]
    np.testing.assert_allclose(*maps, atol=2e-5)


@every_method
def test_equal_input_gives_equal_bits(case: Case) -> None:
    grid = Grid((20, 18, 16), (1.0, 1.0, 1.0))
    local, mask = dipole_field(blocks(grid), grid), ellipsoid(grid)
    np.testing.assert_array_equal(*(case.method.function(local, mask=mask, grid=grid).chi_ppm for _ in range(2)))


@every_method
def test_a_field_of_zero_has_no_sources(case: Case) -> None:
    grid = Grid((12, 10, 8), (1.0, 1.0, 1.0))
    result = case.method.function(np.zeros(grid.shape, np.float32), mask=np.ones(grid.shape, bool), grid=grid)
    assert not result.chi_ppm.any()


@every_method
def test_bad_input_is_refused(case: Case) -> None:
    grid = Grid((12, 10, 8), (1.0, 1.0, 1.0))
    local, mask = blocks(grid), np.ones(grid.shape, bool)
    function = case.method.function
    with pytest.raises(ValueError, match="one shape"):
        function(local[1:], mask=mask, grid=grid)
    with pytest.raises(ValueError, match="empty"):
        function(local, mask=~mask, grid=grid)
    with pytest.raises(ValueError, match="weights"):
        function(local, mask=mask, grid=grid, weights=-np.ones(grid.shape, np.float32))
    local[0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        function(local, mask=mask, grid=grid)
    mask[0, 0, 0] = False
    assert np.isfinite(function(local, mask=mask, grid=grid).chi_ppm).all()


@pytest.mark.parametrize(
    ("case", "change"),
    [
        (CASES[0], {"regularisation": 0.0}),
        (CASES[0], {"first_iterations": 0}),
        (CASES[0], {"threshold": 0.4}),
        (CASES[0], {"padding_mm": -1.0}),
        (CASES[1], {"regularisation": -1.0}),
        (CASES[1], {"robust_field_penalty": 0.0}),
        (CASES[1], {"max_iterations": 0}),
        (CASES[2], {"tolerance": 0.0}),
        (CASES[2], {"threshold": 1.0}),
        (CASES[2], {"gradient_percentiles": (70.0, 50.0)}),
        (CASES[2], {"smoothing_radius_mm": 0.3}),
        (CASES[3], {"rad_per_ppm": 0.0}),
        (CASES[3], {"regularisation": -1e-3}),
        (CASES[3], {"step": 5.0}),
        (CASES[3], {"momentum": 1.0}),
        (CASES[3], {"momentum": -0.1}),
    ],
)
def test_bad_parameters_are_refused(case: Case, change: dict[str, Any]) -> None:
    grid = Grid((12, 10, 8), (1.0, 1.0, 1.0))
    params = replace(case.method.make_parameters(), **change)
    with pytest.raises(ValueError, match=r"."):
        case.method.function(blocks(grid), mask=np.ones(grid.shape, bool), grid=grid, params=params)


@every_method
def test_parameters_have_units_and_sources(case: Case) -> None:
    assert case.method.sentence.format(**vars(case.method.make_parameters()))
    assert all(f.metadata["unit"] and f.metadata["source"] for f in fields(case.method.parameters))
    assert all(paper.doi.startswith("10.") for paper in case.method.citations)


def test_a_voxel_of_the_mask_without_neighbours_does_no_harm() -> None:
    """Percentiles over no differences at all."""
    mask = np.zeros(SMALL.shape, bool)
    mask[::2, ::2, ::2] = True
    assert np.isfinite(ilsqr(noise(15, 0.05), mask=mask, grid=SMALL).chi_ppm).all()
    assert np.isfinite(rts(noise(15, 0.05), mask=mask, grid=SMALL).chi_ppm).all()
