"""Total field by the fit of the complex signal."""

import numba
import numpy as np
import pytest
from scipy.optimize import least_squares

from qsmals.recon.field.nonlinear import NONLINEAR, NonlinearParameters, nonlinear
from qsmals.recon.field.weighted import WeightedParameters, weighted
from tests.phase_phantom import B0_TESLA, RADIANS_PER_PPM_SECOND, ellipsoid, signal, smooth_field

SHAPE = (12, 14, 10)
MASK = ellipsoid(SHAPE)
FIELD = smooth_field(SHAPE)
TE_S = [0.004, 0.009, 0.014, 0.019, 0.024]
EVEN_TE_S = [0.005, 0.010, 0.015, 0.020, 0.025]


def echoes(te_s=TE_S, *, snr=np.inf, offset_rad=0.0, seed=0, r2star_hz=25.0):
    """Unwrapped phase and magnitude; noise turns the phase by less than half a turn."""
    rng = np.random.default_rng(seed)
    ideal = np.stack([RADIANS_PER_PPM_SECOND * te * FIELD + offset_rad for te in te_s], axis=-1)
    phase, magnitude = signal(FIELD, te_s, offset_rad=offset_rad, r2star_hz=r2star_hz, snr=snr, rng=rng)
    return (ideal + np.angle(np.exp(1j * (phase - ideal)))).astype(np.float32), magnitude


def estimate(phase, magnitude, te_s=TE_S, mask=MASK, **params):
    return nonlinear(
        phase, magnitude=magnitude, te_s=te_s, mask=mask, b0_tesla=B0_TESLA, params=NonlinearParameters(**params)
    )


def mean_of_echoes(phase, magnitude, te_s=TE_S, mask=MASK):
    return weighted(phase, magnitude=magnitude, te_s=te_s, mask=mask, b0_tesla=B0_TESLA, params=WeightedParameters())


@pytest.mark.parametrize("n_echoes", [1, 2, 5])
@pytest.mark.parametrize("with_magnitude", [True, False])
def test_noise_free_phase_gives_the_field(n_echoes, with_magnitude):
    te_s = TE_S[:n_echoes]
    phase, magnitude = echoes(te_s)
    total = estimate(phase, magnitude if with_magnitude else None, te_s)
    assert total.field_ppm.dtype == total.noise_ppm.dtype == np.float32
    np.testing.assert_allclose(total.field_ppm[MASK], FIELD[MASK], atol=1e-5)
    assert not total.field_ppm[~MASK].any() and np.isinf(total.noise_ppm[~MASK]).all()
    assert np.isfinite(total.noise_ppm[MASK]).all()


@pytest.mark.parametrize("n_echoes", [2, 3, 5])
def test_a_fitted_offset_does_not_change_the_field(n_echoes):
    te_s = TE_S[:n_echoes]
    phase, magnitude = echoes(te_s, offset_rad=2.5)
    np.testing.assert_allclose(
        estimate(phase, magnitude, te_s, offset="fitted").field_ppm[MASK], FIELD[MASK], atol=1e-5
    )
    assert np.abs(estimate(phase, magnitude, te_s).field_ppm - FIELD)[MASK].min() > 0.01


@pytest.mark.parametrize("offset", ["zero", "fitted"])
def test_it_is_the_least_squares_solution(offset):
    phase, magnitude = echoes(snr=10, seed=1)
    total = estimate(phase, magnitude, offset=offset)
    te = np.asarray(TE_S)
    for x, y, z in np.random.default_rng(2).permutation(np.argwhere(MASK))[:200]:
        angle, strength = phase[x, y, z].astype(float), magnitude[x, y, z].astype(float)

        def misfit(p, angle=angle, strength=strength):
            level = p[1] if offset == "fitted" else 0.0
            rest = strength * (np.exp(1j * (angle - level)) - np.exp(1j * p[0] * te * 100))
            return np.concatenate([rest.real, rest.imag])

        start = [RADIANS_PER_PPM_SECOND * FIELD[x, y, z] / 100, 0.0]
        expected = least_squares(misfit, start[: 1 + (offset == "fitted")], method="lm", xtol=1e-12, ftol=1e-12)
        assert total.field_ppm[x, y, z] == pytest.approx(expected.x[0] * 100 / RADIANS_PER_PPM_SECOND, abs=2e-6)


def test_without_large_misfits_it_is_the_weighted_mean():
    phase, magnitude = echoes(snr=100)
    total, mean = estimate(phase, magnitude), mean_of_echoes(phase, magnitude)
    np.testing.assert_allclose(total.field_ppm, mean.field_ppm, atol=1e-5)
    np.testing.assert_allclose(total.noise_ppm[MASK], mean.noise_ppm[MASK], rtol=1e-2)


@pytest.mark.parametrize("offset", ["zero", "fitted"])
def test_its_variance_is_that_of_the_best_linear_estimate(offset):
    phase, magnitude = echoes(snr=20, r2star_hz=40, seed=3)
    error = np.std((estimate(phase, magnitude, offset=offset).field_ppm - FIELD)[MASK])
    if offset == "zero":
        linear = mean_of_echoes(phase, magnitude).field_ppm
    else:
        te, power = np.asarray(TE_S), magnitude.astype(float) ** 2
        time = te - (power * te).sum(-1, keepdims=True) / power.sum(-1, keepdims=True)
        linear = (power * time * phase).sum(-1) / (power * time**2).sum(-1) / RADIANS_PER_PPM_SECOND
    assert error < 1.002 * np.std((linear - FIELD)[MASK])


@pytest.mark.parametrize("offset", ["zero", "fitted"])
def test_an_echo_off_by_whole_turns_changes_nothing(offset):
    phase, magnitude = echoes(snr=20, seed=4)
    before = estimate(phase, magnitude, offset=offset)
    for echo in range(len(TE_S)):
        for turns in (1, -2):
            wrong = phase.copy()
            wrong[..., echo] += np.float32(turns * 2 * np.pi)
            after = estimate(wrong, magnitude, offset=offset)
            np.testing.assert_allclose(after.field_ppm, before.field_ppm, atol=2e-6)
            np.testing.assert_allclose(after.noise_ppm[MASK], before.noise_ppm[MASK], rtol=1e-3)


@pytest.mark.parametrize("n_echoes", [3, 5])
@pytest.mark.parametrize("snr", [np.inf, 20])
def test_rates_that_even_echoes_cannot_tell_apart_are_told_by_the_other_echoes(n_echoes, snr):
    te_s = EVEN_TE_S[:n_echoes]
    phase, magnitude = echoes(te_s, snr=snr)
    before = estimate(phase, magnitude, te_s).field_ppm
    for echo in range(n_echoes):
        wrong = phase.copy()
        wrong[..., echo] -= np.float32(2 * np.pi)
        np.testing.assert_allclose(estimate(wrong, magnitude, te_s).field_ppm, before, atol=2e-6)


def test_the_later_of_two_echoes_may_be_off_by_a_turn():
    phase, magnitude = echoes(TE_S[:2], snr=20)
    wrong = phase.copy()
    wrong[..., 1] += np.float32(2 * np.pi)
    expected = estimate(phase, magnitude, TE_S[:2]).field_ppm
    np.testing.assert_allclose(estimate(wrong, magnitude, TE_S[:2]).field_ppm, expected, atol=2e-6)


@pytest.mark.parametrize(("n_echoes", "offset"), [(1, "zero"), (2, "zero"), (5, "zero"), (2, "fitted"), (5, "fitted")])
def test_noise_is_predicted(n_echoes, offset):
    te_s = TE_S[:n_echoes]
    phase, magnitude = echoes(te_s, snr=50, seed=5)
    total = estimate(phase, magnitude, te_s, offset=offset)
    score = (total.field_ppm - FIELD)[MASK] / total.noise_ppm[MASK]
    assert 0.85 < np.std(score) < 1.15


def test_voxels_whose_echoes_disagree_are_marked_as_noisy():
    phase, magnitude = echoes(snr=50)
    phase[6, 7, 5, 3] += np.pi / 2
    plain, marked = estimate(phase, magnitude, residual_quantile=1.0), estimate(phase, magnitude)
    assert marked.noise_ppm[6, 7, 5] > 10 * plain.noise_ppm[6, 7, 5]
    assert np.mean(marked.noise_ppm[MASK] > 1.001 * plain.noise_ppm[MASK]) < 0.05


@pytest.mark.parametrize("offset", ["zero", "fitted"])
def test_what_cannot_be_measured_is_left_out(offset):
    phase, magnitude = echoes(snr=50)
    expected = estimate(phase, magnitude, offset=offset).field_ppm
    phase[6, 7, 4, 2] = np.nan
    magnitude[6, 7, 5, 0] = np.inf
    magnitude[6, 7, 6] = 0
    magnitude[6, 8, 6, 1:4] = 0
    before = phase.copy(), magnitude.copy()
    total = estimate(phase, magnitude, offset=offset)
    assert not total.field_ppm[6, 7, 4:7].any() and np.isinf(total.noise_ppm[6, 7, 4:7]).all()
    assert np.isfinite(total.field_ppm).all()
    assert total.field_ppm[6, 8, 6] == pytest.approx(expected[6, 8, 6], abs=0.02)
    np.testing.assert_array_equal(phase, before[0])
    np.testing.assert_array_equal(magnitude, before[1])


def test_one_echo_is_that_of_the_closed_form_and_has_no_offset():
    phase, magnitude = echoes(TE_S[:1], snr=20)
    expected = mean_of_echoes(phase, magnitude, TE_S[:1])
    for offset in ("zero", "fitted"):
        total = estimate(phase, magnitude, TE_S[:1], offset=offset)
        np.testing.assert_array_equal(total.field_ppm, expected.field_ppm)
        np.testing.assert_array_equal(total.noise_ppm, expected.noise_ppm)


def test_an_offset_needs_two_echoes_with_signal():
    phase, magnitude = echoes(snr=50)
    magnitude[6, 7, 5, 1:] = 0
    assert np.isinf(estimate(phase, magnitude, offset="fitted").noise_ppm[6, 7, 5])
    assert np.isfinite(estimate(phase, magnitude).noise_ppm[6, 7, 5])


@pytest.mark.parametrize("offset", ["zero", "fitted"])
def test_an_empty_mask_gives_an_empty_field(offset):
    phase, magnitude = echoes(snr=50)
    for n in (1, 2, 5):
        total = estimate(phase[..., :n], magnitude[..., :n], TE_S[:n], np.zeros_like(MASK), offset=offset)
        assert not total.field_ppm.any() and np.isinf(total.noise_ppm).all()


def test_neither_threads_nor_memory_order_change_the_result():
    phase, magnitude = echoes(snr=10)
    one = estimate(phase, magnitude)
    threads = numba.get_num_threads()
    try:
        numba.set_num_threads(1)
        other = estimate(np.asfortranarray(phase), np.asfortranarray(magnitude))
    finally:
        numba.set_num_threads(threads)
    np.testing.assert_array_equal(one.field_ppm, other.field_ppm)
    np.testing.assert_array_equal(one.noise_ppm, other.noise_ppm)


def test_wrong_arguments():
    phase, magnitude = echoes()
    with pytest.raises(ValueError, match="do not fit together"):
        estimate(phase, magnitude, TE_S[:3])
    with pytest.raises(ValueError, match="differ in shape"):
        estimate(phase, magnitude[1:])
    with pytest.raises(ValueError, match="positive"):
        estimate(phase, magnitude, [-0.004, *TE_S[1:]])
    with pytest.raises(ValueError, match="zero or fitted"):
        NonlinearParameters(offset="free")
    with pytest.raises(ValueError, match="tolerance"):
        NonlinearParameters(tolerance_rad=0)
    with pytest.raises(ValueError, match="probability"):
        NonlinearParameters(residual_quantile=0.1)


def test_the_method_tells_its_settings():
    assert NONLINEAR.function is nonlinear
    params = NONLINEAR.make_parameters({"offset": "fitted"})
    assert "phase offset fitted" in NONLINEAR.sentence.format(**vars(params))
