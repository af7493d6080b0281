"""R2* by the fit of the exponential itself."""

import numba
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import least_squares
from scipy.special import ive

from qsmals.recon.relaxometry.loglinear import log_linear
from qsmals.recon.relaxometry.nonlinear import NONLINEAR, NonlinearParameters, _noisy_mean, nonlinear

EVEN = np.array([0.005, 0.011, 0.017, 0.023, 0.029])
MODELLED = NonlinearParameters(noise_floor="modelled")


def decay(rates_hz: list[float] | NDArray[np.float64], te_s: NDArray[np.float64], s0: float = 500.0) -> NDArray:
    return (s0 * np.exp(-np.outer(rates_hz, te_s))).astype(np.float32).reshape(len(rates_hz), 1, 1, te_s.size)


def noisy(clean: NDArray, sd: float, seed: int) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    return np.abs(clean + rng.normal(0, sd, clean.shape) + 1j * rng.normal(0, sd, clean.shape)).astype(np.float32)


def everywhere(magnitude: NDArray) -> NDArray[np.bool_]:
    return np.ones(magnitude.shape[:3], bool)


def with_air(tissue: NDArray, sd: float, seed: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Noisy tissue beside as much air, and where the tissue is."""
    magnitude = noisy(np.concatenate([tissue, np.zeros_like(tissue)]), sd, seed)
    mask = np.zeros(magnitude.shape[:3], bool)
    mask[: tissue.shape[0]] = True
    return magnitude, mask


@pytest.mark.parametrize("params", [None, MODELLED])
@pytest.mark.parametrize("times", [EVEN, EVEN[:2], np.array([0.002, 0.003, 0.020, 0.024, 0.060])])
def test_it_is_exact_without_noise_for_any_spacing(times: NDArray, params: NonlinearParameters | None) -> None:
    magnitude = decay([120.0, 50.0, 5.0, 0.6], times, s0=2000.0)
    fit = nonlinear(magnitude, te_s=times, mask=everywhere(magnitude), params=params)
    np.testing.assert_allclose(fit.r2star_hz.ravel(), [120, 50, 5, 0.6], rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(fit.s0.ravel(), 2000, rtol=1e-5)
    np.testing.assert_allclose(fit.t2star_s * fit.r2star_hz, 1, rtol=1e-6)
    assert fit.r2star_hz.dtype == fit.t2star_s.dtype == fit.s0.dtype == np.float32


def test_it_is_the_least_squares_solution() -> None:
    rates = np.random.default_rng(0).uniform(5, 120, 300)
    magnitude = noisy(decay(rates, EVEN), 40, seed=1)
    fit = nonlinear(magnitude, te_s=EVEN, mask=everywhere(magnitude))
    for values, rate, s0 in zip(magnitude[:, 0, 0].astype(float), fit.r2star_hz.flat, fit.s0.flat, strict=True):

        def misfit(p: NDArray, values: NDArray = values) -> NDArray:
            return p[0] * np.exp(-p[1] * EVEN * 100) - values / 500

        expected = least_squares(misfit, [1.0, 0.4], method="lm", xtol=1e-12, ftol=1e-12).x
        assert rate == pytest.approx(max(100 * expected[1], 0.5), rel=1e-4)
        if rate > 0.5:
            assert s0 == pytest.approx(500 * expected[0], rel=1e-4)


def test_the_modelled_floor_is_the_least_squares_solution() -> None:
    rates = np.repeat(np.random.default_rng(2).uniform(40, 200, 300), 4)
    magnitude, mask = with_air(decay(rates, EVEN), 25, seed=3)
    fit = nonlinear(magnitude, te_s=EVEN, mask=mask, params=MODELLED)
    assert fit.noise == pytest.approx(25, rel=0.1)

    def misfit(p: NDArray, values: NDArray) -> NDArray:
        return [_noisy_mean(s, fit.noise / 500)[0] for s in p[0] * np.exp(-p[1] * EVEN * 100)] - values / 500

    better = 0
    for v in np.flatnonzero(fit.r2star_hz[mask])[::6]:
        values = magnitude[v, 0, 0].astype(float)
        found = np.array([fit.s0[v, 0, 0] / 500, fit.r2star_hz[v, 0, 0] / 100], dtype=float)
        expected = least_squares(
            misfit, np.clip(found * 1.05, 0.01, 9.9), bounds=([0, 0.005], [np.inf, 10]), args=(values,), xtol=1e-10
        )
        better += np.sum(misfit(found, values) ** 2) > 2 * expected.cost + 1e-7
    assert better == 0


def test_the_mean_of_a_noisy_magnitude() -> None:
    signals = np.linspace(0, 12, 200)
    half = signals**2 / 4
    exact = np.sqrt(np.pi / 2) * ((1 + 2 * half) * ive(0, half) + 2 * half * ive(1, half))
    mean, slope = np.array([_noisy_mean(s, 1.0) for s in signals]).T
    np.testing.assert_allclose(mean, exact, atol=0.002)
    step = 1e-5
    numeric = [(_noisy_mean(s + step, 1.0)[0] - _noisy_mean(s - step, 1.0)[0]) / (2 * step) for s in signals]
    np.testing.assert_allclose(slope, numeric, atol=1e-8)


@pytest.mark.parametrize("rate", [20.0, 60.0, 100.0])
def test_it_has_the_least_variance_and_less_bias_than_the_log_linear_fit(rate: float) -> None:
    snr = 20
    magnitude = noisy(decay(np.full(20000, rate), EVEN), 500 / snr, seed=4)
    error = nonlinear(magnitude, te_s=EVEN, mask=everywhere(magnitude)).r2star_hz - rate
    linear = log_linear(magnitude, te_s=EVEN, mask=everywhere(magnitude)).r2star_hz - rate
    slopes = np.stack([np.ones(5), -EVEN], axis=1) * np.exp(-rate * EVEN)[:, None]
    bound = np.sqrt(np.linalg.inv(slopes.T @ slopes)[1, 1]) / snr  # of Cramer and Rao, for an unbiased estimate
    assert np.std(error) < 1.01 * bound
    assert abs(np.mean(error)) < 0.5 * abs(np.mean(linear))
    assert np.mean(error**2) < 1.02 * np.mean(linear**2)  # less by far for fast decays
    assert rate < 50 or np.mean(error**2) < 0.95 * np.mean(linear**2)


@pytest.mark.parametrize("noise_floor", ["subtracted", "modelled"])
def test_the_noise_floor_does_not_slow_a_fast_decay(noise_floor: str) -> None:
    times = np.arange(1, 9) * 0.004
    magnitude, mask = with_air(decay(np.full(3600, 150.0), times, s0=100.0), 2, seed=5)
    params = NonlinearParameters(noise_floor=noise_floor)
    fit = nonlinear(magnitude, te_s=times, mask=mask, params=params)
    assert fit.noise == pytest.approx(2, rel=0.1)
    assert np.median(fit.r2star_hz[mask]) == pytest.approx(150, rel=0.02)
    assert np.median(fit.s0[mask]) == pytest.approx(100, rel=0.02)


def test_bounds_bad_voxels_and_mask() -> None:
    magnitude = decay([3000.0, -40.0, 20.0, 20.0, 20.0, 20.0], EVEN)
    magnitude[2, 0, 0, 3] = np.nan
    magnitude[3] = 0
    magnitude[5, 0, 0, 4] = 0
    original = magnitude.copy()
    mask = everywhere(magnitude)
    mask[4] = False
    for noise_floor in ("subtracted", "modelled"):
        params = NonlinearParameters(r2star_max_hz=300.0, noise_floor=noise_floor)
        fit = nonlinear(magnitude, te_s=EVEN, mask=mask, params=params)
        np.testing.assert_allclose(fit.r2star_hz.ravel(), [300, 0.5, 0, 0, 0, 20], rtol=1e-5)
        assert not fit.s0[2:5].any() and not fit.t2star_s[2:5].any()
        assert fit.s0[5].item() == pytest.approx(500, rel=1e-5)
    model = np.exp(-0.5 * EVEN)
    held = (model * magnitude[1, 0, 0]).sum() / (model**2).sum()
    assert fit.s0[1].item() == pytest.approx(held, rel=1e-5)
    np.testing.assert_array_equal(magnitude, original)


def test_the_unit_of_the_magnitude_does_not_matter() -> None:
    magnitude = noisy(decay([10.0, 40.0, 90.0], EVEN), 25, seed=6)
    rates = nonlinear(magnitude, te_s=EVEN, mask=everywhere(magnitude)).r2star_hz
    for factor in (1e-18, 1e18):
        scaled = magnitude * np.float32(factor)
        fit = nonlinear(scaled, te_s=EVEN, mask=everywhere(scaled))
        np.testing.assert_allclose(fit.r2star_hz, rates, rtol=1e-4)


def test_neither_threads_nor_memory_order_change_the_result() -> None:
    magnitude = noisy(decay(np.linspace(5, 100, 200), EVEN), 25, seed=7)
    one = nonlinear(magnitude, te_s=EVEN, mask=everywhere(magnitude))
    threads = numba.get_num_threads()
    try:
        numba.set_num_threads(1)
        other = nonlinear(np.asfortranarray(magnitude), te_s=tuple(EVEN), mask=everywhere(magnitude))
    finally:
        numba.set_num_threads(threads)
    np.testing.assert_array_equal(one.r2star_hz, other.r2star_hz)
    np.testing.assert_array_equal(one.s0, other.s0)


def test_wrong_arguments() -> None:
    magnitude = decay([20.0], EVEN)
    with pytest.raises(ValueError, match="two echoes"):
        nonlinear(magnitude[..., :1], te_s=EVEN[:1], mask=everywhere(magnitude))
    with pytest.raises(ValueError, match="echo times"):
        nonlinear(magnitude, te_s=EVEN[::-1].copy(), mask=everywhere(magnitude))
    with pytest.raises(ValueError, match="subtracted or modelled"):
        NonlinearParameters(noise_floor="off")
    with pytest.raises(ValueError, match="tolerance"):
        NonlinearParameters(max_iterations=0)


def test_the_method_tells_its_settings() -> None:
    assert NONLINEAR.function is nonlinear
    params = NONLINEAR.make_parameters({"noise_floor": "modelled", "r2star_max_hz": 400.0})
    assert "noise floor modelled), within 0.5 to 400 1/s" in NONLINEAR.sentence.format(**vars(params))
