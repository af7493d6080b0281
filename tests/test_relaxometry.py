"""R2* of known decays: exact cases, noise, uneven and few echoes, bounds and bad voxels."""

import numpy as np
import pytest
from numpy.typing import NDArray

from qsmals.recon.relaxometry import RELAXOMETRY
from qsmals.recon.relaxometry.arlo import ArloParameters, arlo, simpson_coefficients, spacing_allows_arlo
from qsmals.recon.relaxometry.loglinear import LogLinearParameters, log_linear
from qsmals.recon.relaxometry.relaxation import noise_level

EVEN = np.array([0.005, 0.011, 0.017, 0.023, 0.029])


def decay(rates_hz: list[float], te_s: NDArray[np.float64], s0: float = 500.0) -> NDArray[np.float32]:
    return (s0 * np.exp(-np.outer(rates_hz, te_s))).astype(np.float32).reshape(len(rates_hz), 1, 1, te_s.size)


def everywhere(magnitude: NDArray[np.float32]) -> NDArray[np.bool_]:
    return np.ones(magnitude.shape[:3], bool)


def test_arlo_gives_the_published_values_without_noise() -> None:
    magnitude = decay([100.0, 50.0, 25.0], EVEN)
    fit = arlo(magnitude, te_s=EVEN, mask=everywhere(magnitude))
    np.testing.assert_allclose(fit.r2star_hz.ravel(), [99.93, 50.0, 25.0], atol=0.01)
    np.testing.assert_allclose(fit.t2star_s * fit.r2star_hz, 1, rtol=1e-6)
    np.testing.assert_allclose(fit.s0.ravel(), 500, rtol=2e-3)
    assert fit.r2star_hz.dtype == fit.t2star_s.dtype == fit.s0.dtype == np.float32


def test_arlo_is_its_formula() -> None:
    rng = np.random.default_rng(0)
    magnitude = decay([30.0], EVEN) + rng.normal(0, 5, (1, 1, 1, 5)).astype(np.float32)
    y, c = magnitude.ravel().astype(float), 0.006 / 3
    s, d = c * (y[:-2] + 4 * y[1:-1] + y[2:]), y[:-2] - y[2:]
    t2star = ((s**2).sum() + c * (s * d).sum()) / (c * (d**2).sum() + (s * d).sum())
    fit = arlo(magnitude, te_s=EVEN, mask=everywhere(magnitude))
    assert fit.t2star_s.item() == pytest.approx(t2star, rel=1e-6)


def test_uneven_echoes_are_integrated_as_uneven() -> None:
    times = np.array([0.004, 0.009, 0.0165, 0.0225, 0.031])
    magnitude = decay([60.0, 20.0], times)
    fit = arlo(magnitude, te_s=times, mask=everywhere(magnitude))
    np.testing.assert_allclose(fit.r2star_hz.ravel(), [60, 20], rtol=0.005)
    parabola = 3 * times**2 - times + 2
    expected = np.diff(times[[0, 2]] ** 3 - times[[0, 2]] ** 2 / 2 + 2 * times[[0, 2]])[0]
    assert simpson_coefficients(times)[0] @ parabola[:3] == pytest.approx(expected)
    with pytest.raises(ValueError, match="log-linear"):
        arlo(
            decay([20.0], np.array([0.01, 0.02, 0.05])),
            te_s=np.array([0.01, 0.02, 0.05]),
            mask=np.ones((1, 1, 1), bool),
        )


def test_two_echoes_are_exact_and_one_is_refused() -> None:
    magnitude = decay([80.0, 5.0], EVEN[:2])
    fit = arlo(magnitude, te_s=EVEN[:2], mask=everywhere(magnitude))
    np.testing.assert_allclose(fit.r2star_hz.ravel(), [80, 5], rtol=1e-5)
    np.testing.assert_allclose(fit.s0.ravel(), 500, rtol=1e-5)
    with pytest.raises(ValueError, match="two echoes"):
        arlo(magnitude[..., :1], te_s=EVEN[:1], mask=everywhere(magnitude))


def test_bounds_bad_voxels_and_mask() -> None:
    magnitude = decay([3000.0, -40.0, 20.0, 20.0, 20.0], EVEN)
    magnitude[2, 0, 0, 3] = np.nan
    magnitude[3] = 0
    original = magnitude.copy()
    mask = everywhere(magnitude)
    mask[4] = False
    fit = arlo(magnitude, te_s=EVEN, mask=mask, params=ArloParameters(r2star_max_hz=300.0))
    np.testing.assert_allclose(fit.r2star_hz.ravel(), [300, 0.5, 0, 0, 0], rtol=1e-6)
    assert not fit.s0[2:].any()
    assert not fit.t2star_s[2:].any()
    np.testing.assert_array_equal(magnitude, original)


@pytest.mark.parametrize("times", [np.array([0.01, 0.01, 0.02]), np.array([0.0, 0.01, 0.02]), np.array([0.01, 0.02])])
def test_bad_echo_times_are_refused(times: NDArray[np.float64]) -> None:
    with pytest.raises(ValueError, match="echo times"):
        arlo(decay([10.0], EVEN[:3]), te_s=times, mask=np.ones((1, 1, 1), bool))


def test_noise_level_from_air_and_refusal_of_tissue() -> None:
    rng = np.random.default_rng(1)
    magnitude = np.abs(rng.normal(0, 3, (40, 40, 4, 2)) + 1j * rng.normal(0, 3, (40, 40, 4, 2))).astype(np.float32)
    mask = np.zeros(magnitude.shape[:3], bool)
    assert noise_level(magnitude, mask) == pytest.approx(3, rel=0.05)
    assert noise_level(magnitude + 100, mask) == 0
    assert noise_level(magnitude, ~mask) == 0


def test_the_noise_floor_does_not_slow_a_fast_decay() -> None:
    rng = np.random.default_rng(2)
    times = np.arange(1, 9) * 0.004
    clean = np.broadcast_to(100 * np.exp(-150 * times), (30, 30, 4, 8))
    magnitude = np.concatenate([clean, np.zeros_like(clean)], axis=0)
    magnitude = np.abs(magnitude + rng.normal(0, 2, magnitude.shape) + 1j * rng.normal(0, 2, magnitude.shape))
    mask = np.zeros(magnitude.shape[:3], bool)
    mask[:30] = True
    fit = arlo(magnitude.astype(np.float32), te_s=times, mask=mask)
    assert fit.noise == pytest.approx(2, rel=0.1)
    assert np.median(fit.r2star_hz[mask]) == pytest.approx(150, rel=0.05)


def test_arlo_says_which_spacings_it_takes() -> None:
    assert spacing_allows_arlo(EVEN) and spacing_allows_arlo(EVEN[:2]) and spacing_allows_arlo(EVEN[:1])
    assert spacing_allows_arlo([0.005, 0.010, 0.0199])
    for times in ([0.005, 0.010, 0.020], [0.004, 0.014, 0.019], [0.003, 0.006, 0.012, 0.018]):
        assert not spacing_allows_arlo(times)
        with pytest.raises(ValueError, match="log-linear"):
            simpson_coefficients(np.array(times))


@pytest.mark.parametrize("times", [EVEN, EVEN[:2], np.array([0.002, 0.003, 0.020, 0.024, 0.060])])
def test_log_linear_is_exact_for_any_spacing(times: NDArray[np.float64]) -> None:
    magnitude = decay([120.0, 50.0, 5.0, 0.6], times, s0=2000.0)
    fit = log_linear(magnitude, te_s=times, mask=everywhere(magnitude))
    np.testing.assert_allclose(fit.r2star_hz.ravel(), [120, 50, 5, 0.6], rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(fit.s0.ravel(), 2000, rtol=1e-5)
    np.testing.assert_allclose(fit.t2star_s * fit.r2star_hz, 1, rtol=1e-6)
    assert fit.r2star_hz.dtype == fit.t2star_s.dtype == fit.s0.dtype == np.float32


def test_log_linear_is_a_weighted_line() -> None:
    times = np.array([0.004, 0.006, 0.020, 0.025])
    magnitude = decay([40.0], times) + np.random.default_rng(3).normal(0, 15, (1, 1, 1, 4)).astype(np.float32)
    y = magnitude.ravel().astype(float)
    slope = np.polyfit(times, np.log(y), 1, w=y)[0]  # polyfit squares its weights
    assert log_linear(magnitude, te_s=times, mask=everywhere(magnitude)).r2star_hz.item() == pytest.approx(-slope)
    tiny = log_linear(magnitude * np.float32(1e-18), te_s=times, mask=everywhere(magnitude))
    assert tiny.r2star_hz.item() == pytest.approx(-slope, rel=1e-5)


def test_log_linear_keeps_bounds_mask_and_leaves_bad_voxels_out() -> None:
    magnitude = decay([3000.0, -40.0, 20.0, 20.0, 20.0, 20.0], EVEN)
    magnitude[2, 0, 0, 3] = np.nan
    magnitude[3] = 0
    magnitude[5, 0, 0, 4] = 0
    original = magnitude.copy()
    mask = everywhere(magnitude)
    mask[4] = False
    fit = log_linear(magnitude, te_s=EVEN, mask=mask, params=LogLinearParameters(r2star_max_hz=300.0))
    np.testing.assert_allclose(fit.r2star_hz.ravel(), [300, 0.5, 0, 0, 0, 20], rtol=1e-5)
    assert not fit.s0[2:5].any() and not fit.t2star_s[2:5].any()
    np.testing.assert_array_equal(magnitude, original)
    with pytest.raises(ValueError, match="two echoes"):
        log_linear(magnitude[..., :1], te_s=EVEN[:1], mask=mask)
    with pytest.raises(ValueError, match="echo times"):
        log_linear(magnitude, te_s=EVEN[::-1].copy(), mask=mask)


def test_log_linear_leaves_out_echoes_in_the_noise() -> None:
    rng = np.random.default_rng(2)
    times = np.array([0.003, 0.006, 0.009, 0.020, 0.040])
    clean = np.broadcast_to(100 * np.exp(-150 * times), (30, 30, 4, 5))
    magnitude = np.concatenate([clean, np.zeros_like(clean)], axis=0)
    magnitude = np.abs(magnitude + rng.normal(0, 2, magnitude.shape) + 1j * rng.normal(0, 2, magnitude.shape))
    mask = np.zeros(magnitude.shape[:3], bool)
    mask[:30] = True
    fit = log_linear(magnitude.astype(np.float32), te_s=times, mask=mask)
    assert fit.noise == pytest.approx(2, rel=0.1)
    assert np.median(fit.r2star_hz[mask]) == pytest.approx(150, rel=0.02)


def test_all_methods_have_the_same_bounds() -> None:
    assert list(RELAXOMETRY) == ["arlo", "log-linear", "nonlinear"]
    values = {"r2star_max_hz": 400.0}
    for name in RELAXOMETRY:
        assert RELAXOMETRY[name].make_parameters(values).r2star_max_hz == 400.0
