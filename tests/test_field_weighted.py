"""Total field from unwrapped phase."""

import numpy as np
import pytest

from qsmals.recon.field import FIELD
from qsmals.recon.field.magnitude import combined_magnitude
from qsmals.recon.field.weighted import WeightedParameters, detail_noise, weighted
from qsmals.recon.field.weights import LARGEST_WEIGHT, inverse_noise
from tests.phase_phantom import B0_TESLA, RADIANS_PER_PPM_SECOND, ellipsoid, smooth_field

SHAPE = (24, 28, 20)
MASK = ellipsoid(SHAPE)
TE_S = [0.004, 0.009, 0.014, 0.019, 0.024]


def echoes(te_s: list[float], snr: float, seed: int = 0, r2star_hz: float = 25.0) -> tuple[np.ndarray, np.ndarray]:
    """Unwrapped noisy phase and magnitude with contrast."""
    rng = np.random.default_rng(seed)
    field = smooth_field(SHAPE)
    amplitude = 0.3 + 0.7 * ellipsoid(SHAPE, 0.5)
    phases, magnitudes = [], []
    for te in te_s:
        noise = (rng.normal(size=SHAPE) + 1j * rng.normal(size=SHAPE)) / snr
        ideal = amplitude * np.exp(-te * r2star_hz)
        value = ideal + noise
        phases.append(RADIANS_PER_PPM_SECOND * te * field + np.angle(value))
        magnitudes.append(np.abs(value))
    return np.stack(phases, -1).astype(np.float32), np.stack(magnitudes, -1).astype(np.float32)


def estimate(phase, magnitude, te_s=TE_S, mask=MASK, **params):
    return weighted(
        phase, magnitude=magnitude, te_s=te_s, mask=mask, b0_tesla=B0_TESLA, params=WeightedParameters(**params)
    )


@pytest.mark.parametrize("n_echoes", [1, 2, 5])
@pytest.mark.parametrize("with_magnitude", [True, False])
def test_noise_free_phase_gives_the_field(n_echoes, with_magnitude):
    te_s = TE_S[:n_echoes]
    phase = np.stack([RADIANS_PER_PPM_SECOND * te * smooth_field(SHAPE) for te in te_s], -1).astype(np.float32)
    total = estimate(phase, np.ones_like(phase) if with_magnitude else None, te_s)
    assert total.field_ppm.dtype == total.noise_ppm.dtype == np.float32
    np.testing.assert_allclose(total.field_ppm[MASK], smooth_field(SHAPE)[MASK], atol=1e-5)
    assert not total.field_ppm[~MASK].any() and np.isinf(total.noise_ppm[~MASK]).all()
    assert np.isfinite(total.noise_ppm[MASK]).all()


@pytest.mark.parametrize("n_echoes", [1, 2, 5])
def test_noise_is_predicted(n_echoes):
    te_s = TE_S[:n_echoes]
    phase, magnitude = echoes(te_s, snr=50)
    total = estimate(phase, magnitude, te_s)
    score = (total.field_ppm - smooth_field(SHAPE))[MASK] / total.noise_ppm[MASK]
    assert 0.85 < np.std(score) < 1.1
    core = ellipsoid(SHAPE, 0.45)
    assert np.median(total.noise_ppm[core]) < 0.5 * np.median(total.noise_ppm[MASK & ~ellipsoid(SHAPE, 0.6)])


def test_the_weights_have_the_least_variance():
    phase, magnitude = echoes(TE_S, snr=20, r2star_hz=40)
    error = np.std((estimate(phase, magnitude).field_ppm - smooth_field(SHAPE))[MASK])
    for power in (0.0, 1.0):
        weights = (magnitude * np.asarray(TE_S)) ** power
        other = np.sum(weights * phase / np.asarray(TE_S), axis=-1) / weights.sum(axis=-1) / RADIANS_PER_PPM_SECOND
        assert error < np.std((other - smooth_field(SHAPE))[MASK])


def test_voxels_whose_echoes_disagree_are_marked_as_noisy():
    phase, magnitude = echoes(TE_S, snr=50)
    phase[12, 14, 10, 3] += 2 * np.pi
    plain, marked = estimate(phase, magnitude, residual_quantile=1.0), estimate(phase, magnitude)
    assert marked.noise_ppm[12, 14, 10] > 10 * plain.noise_ppm[12, 14, 10]
    assert np.mean(marked.noise_ppm[MASK] > 1.001 * plain.noise_ppm[MASK]) < 0.03


def test_what_cannot_be_measured_is_left_out():
    phase, magnitude = echoes(TE_S, snr=50)
    phase[12, 14, 10, 2] = np.nan
    magnitude[12, 14, 11, 0] = np.nan
    magnitude[12, 14, 12] = 0
    before = phase.copy(), magnitude.copy()
    total = estimate(phase, magnitude)
    assert not total.field_ppm[12, 14, 10:13].any() and np.isinf(total.noise_ppm[12, 14, 10:13]).all()
    assert np.isfinite(total.field_ppm).all()
    np.testing.assert_array_equal(phase, before[0])
    np.testing.assert_array_equal(magnitude, before[1])


def test_an_empty_mask_gives_an_empty_field():
    phase, magnitude = echoes(TE_S, snr=50)
    for n in (1, 5):
        total = estimate(phase[..., :n], magnitude[..., :n], TE_S[:n], np.zeros_like(MASK))
        assert not total.field_ppm.any() and np.isinf(total.noise_ppm).all()


@pytest.mark.parametrize(("steps", "factor"), [((2, 2, 1), (2, 2, 1)), ((2, 2, 2), (2, 2, 2)), ((1, 1, 1), (1, 1, 1))])
def test_noise_of_interpolated_images_is_seen_over_a_measured_voxel(steps, factor):
    """Zeros around k-space leave the noise of a voxel as it is and hide it from its neighbours."""
    noise = np.random.default_rng(1).standard_normal((32, 30, 28))
    shape = tuple(n * f for n, f in zip(noise.shape, factor, strict=True))
    k = np.fft.fftshift(np.fft.fftn(noise))
    k = np.pad(k, [((m - n) // 2, (m - n) // 2) for m, n in zip(shape, k.shape, strict=True)])
    larger = np.fft.ifftn(np.fft.ifftshift(k)).real * np.prod(factor)
    everywhere = np.ones(shape, dtype=bool)
    assert detail_noise(larger, everywhere, steps) == pytest.approx(larger.std(), rel=0.05)
    assert max(steps) == 1 or detail_noise(larger, everywhere) < 0.5 * larger.std()


@pytest.mark.parametrize("method", list(FIELD))
def test_every_method_takes_the_noise_of_one_echo_over_a_measured_voxel(method):
    phase, magnitude = (np.repeat(volume, 2, axis=0) for volume in echoes(TE_S[:1], snr=50))
    mask = np.repeat(MASK, 2, axis=0)
    known = {"magnitude": magnitude, "te_s": TE_S[:1], "mask": mask, "b0_tesla": B0_TESLA}
    params = FIELD[method].make_parameters()
    wrong = FIELD[method].function(phase, params=params, **known).noise_ppm[mask]
    right = FIELD[method].function(phase, params=params, acquired_steps=(2, 1, 1), **known).noise_ppm[mask]
    expected = estimate(*echoes(TE_S[:1], snr=50), TE_S[:1]).noise_ppm[MASK]
    assert np.median(right) == pytest.approx(np.median(expected), rel=0.05)
    assert np.median(wrong) < 0.9 * np.median(expected)


def test_one_echo_of_one_slice_can_be_estimated():
    phase, magnitude = echoes(TE_S[:1], snr=50)
    total = estimate(phase[:, :, :1], magnitude[:, :, :1], TE_S[:1], np.ones((*SHAPE[:2], 1), dtype=bool))
    score = (total.field_ppm - smooth_field(SHAPE)[:, :, :1]) / total.noise_ppm
    assert 0.7 < np.std(score) < 1.3


def test_wrong_arguments():
    phase, magnitude = echoes(TE_S, snr=50)
    with pytest.raises(ValueError, match="do not fit together"):
        estimate(phase, magnitude, TE_S[:3])
    with pytest.raises(ValueError, match="differ in shape"):
        estimate(phase, magnitude[1:])
    with pytest.raises(ValueError, match="positive"):
        estimate(phase, magnitude, [-0.004, *TE_S[1:]])
    with pytest.raises(ValueError, match="probability"):
        WeightedParameters(residual_quantile=0.1)
    with pytest.raises(ValueError, match=r"2x2x2"):
        lonely = np.zeros_like(MASK)
        lonely[12, 14, 10] = True
        estimate(phase[..., :1], magnitude[..., :1], TE_S[:1], lonely)


def test_the_registry_knows_the_method():
    assert FIELD.default == "weighted" and FIELD["weighted"].function is weighted


def test_echoes_are_combined_without_nan():
    magnitudes = np.stack([np.full((2, 2, 2), 3.0), np.full((2, 2, 2), 4.0)], axis=-1).astype(np.float32)
    magnitudes[0, 0, 0, 1] = np.nan
    magnitudes[0, 0, 1, 1] = -1
    before = magnitudes.copy()
    combined = combined_magnitude(magnitudes)
    assert combined[1, 1, 1] == pytest.approx(np.sqrt(12.5))
    assert combined[0, 0, 0] == combined[0, 0, 1] == pytest.approx(np.sqrt(4.5))
    assert combined.dtype == np.float32
    np.testing.assert_array_equal(magnitudes, before)
    np.testing.assert_array_equal(combined_magnitude(magnitudes[..., 0]), magnitudes[..., 0])
    with pytest.raises(ValueError, match="dimensions"):
        combined_magnitude(np.zeros((2, 2), np.float32))


def test_weights_are_the_inverse_of_known_noise():
    noise = np.array([0.01, 0.02, 0.04, 1e-9, np.inf, np.nan, 0.0, -1.0, 0.02], np.float32).reshape(3, 3, 1)
    mask = np.ones(noise.shape, bool)
    mask[2, 2] = False
    weights = inverse_noise(noise, mask)
    known = np.median([0.01, 0.02, 0.04, 1e-9])
    expected = [known / 0.01, known / 0.02, known / 0.04, LARGEST_WEIGHT, 0, 0, 0, 0, 0]
    np.testing.assert_allclose(weights.ravel(), expected, rtol=1e-6)
    assert weights.dtype == np.float32
    np.testing.assert_array_equal(inverse_noise(np.full(noise.shape, np.inf, np.float32), mask), mask)
    with pytest.raises(ValueError, match="shape"):
        inverse_noise(noise[1:], mask)
