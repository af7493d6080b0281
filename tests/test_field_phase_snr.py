"""The total field as ROMEO combines it, and the exclusion by the residual of a single decay."""

import numpy as np
import pytest
from numpy.typing import NDArray

from qsmals.recon.constants import GAMMA_BAR_MHZ_PER_TESLA
from qsmals.recon.field.phasesnr import PhaseSnrParameters, phase_snr, relative_residual

B0_TESLA = 3.0
TE_S = (0.005, 0.012, 0.02, 0.027)
RAD = 2 * np.pi * GAMMA_BAR_MHZ_PER_TESLA * B0_TESLA
SHAPE = (6, 5, 4)


def echoes(seed: int = 0, noise: float = 0.0) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Field, ppm; unwrapped phase and magnitude of a decay at 15 to 40 1/s."""
    rng = np.random.default_rng(seed)
    field = (0.2 * rng.standard_normal(SHAPE)).astype(np.float32)
    te = np.asarray(TE_S)
    magnitude = np.exp(-te * rng.uniform(15, 40, (*SHAPE, 1)))
    phase = RAD * te * field[..., None] + noise / magnitude * rng.standard_normal(magnitude.shape)
    return field, phase.astype(np.float32), magnitude.astype(np.float32)


def test_the_field_is_the_mean_by_magnitude_and_echo_time() -> None:
    field, phase, magnitude = echoes()
    mask = np.ones(SHAPE, bool)
    arguments = {"te_s": TE_S, "mask": mask, "b0_tesla": B0_TESLA, "params": PhaseSnrParameters()}
    exact = phase_snr(phase, magnitude=magnitude, **arguments)
    np.testing.assert_allclose(exact.field_ppm, field, atol=1e-5)
    field, phase, magnitude = echoes(1, noise=0.05)
    found = phase_snr(phase, magnitude=magnitude, **arguments)
    te = np.asarray(TE_S)
    expected = (phase / te * magnitude * te).sum(-1) / (magnitude * te).sum(-1) / RAD
    np.testing.assert_allclose(found.field_ppm, expected, atol=1e-6)
    pattern = 1 / np.sqrt((magnitude**2 * te**2).sum(-1))
    ratio = found.noise_ppm[np.isfinite(found.noise_ppm)] / pattern[np.isfinite(found.noise_ppm)]
    assert ratio.max() / ratio.min() == pytest.approx(1, rel=1e-4)
    spread = np.std((found.field_ppm - field) / found.noise_ppm)
    assert 0.7 < spread < 1.4


def test_voxels_that_do_not_decay_as_one_exponential_have_no_weight_but_a_field() -> None:
    _, phase, magnitude = echoes(2)
    phase[1, 2, 3, 1:3] += 2.5  # echoes whose phase is off
    magnitude[4, 1, 1] = (0.1, 0.4, 0.7, 1.0)  # grows with time
    found = phase_snr(
        phase, magnitude=magnitude, te_s=TE_S, mask=np.ones(SHAPE, bool), b0_tesla=B0_TESLA, params=PhaseSnrParameters()
    )
    excluded = np.isinf(found.noise_ppm)
    assert excluded[1, 2, 3] and excluded[4, 1, 1] and excluded.sum() == 2
    assert found.field_ppm[1, 2, 3] != 0
    patient = phase_snr(
        phase, magnitude=magnitude, te_s=TE_S, mask=np.ones(SHAPE, bool), b0_tesla=B0_TESLA,
        params=PhaseSnrParameters(largest_residual=100.0),
    )  # fmt: skip
    assert np.isfinite(patient.noise_ppm).all()


def test_the_residual_is_its_definition() -> None:
    """Of signals seen from the first echo, with the decay rate of the trapezoidal rule."""
    rng = np.random.default_rng(3)
    te = np.asarray(TE_S)
    phase, strength, rate = rng.uniform(-3, 3, (7, 4)), rng.uniform(0.2, 1, (7, 4)), rng.uniform(-100, 100, 7)
    signal = strength * np.exp(1j * phase)
    seen = signal * np.conj(signal[:, :1])
    expected = []
    for v in range(7):
        decay = (strength[v, 0] - strength[v, -1]) / np.trapezoid(strength[v], te)
        decay = min(max(decay, 1 / (20 * te[-1])), 20 / te[0])
        start = strength[v, 0] * np.exp(decay * te[0])
        model = start * np.exp(te * (-decay + 1j * rate[v]))
        model = model * np.conj(model[0])
        expected.append(np.sum(np.abs(model - seen[v]) ** 2) / np.sum(np.abs(seen[v]) ** 2))
    np.testing.assert_allclose(relative_residual(phase, strength, te, rate), expected, rtol=1e-9)
    assert np.isinf(relative_residual(phase[:1], 0 * strength[:1], te, rate[:1])).all()


def test_one_echo_and_no_magnitude() -> None:
    field, phase, magnitude = echoes(4)
    common = {"mask": np.ones(SHAPE, bool), "b0_tesla": B0_TESLA, "params": PhaseSnrParameters()}
    single = phase_snr(phase[..., :1], magnitude=magnitude[..., :1], te_s=TE_S[:1], **common)
    np.testing.assert_allclose(single.field_ppm, field, atol=1e-5)
    assert np.isfinite(single.noise_ppm).all()
    blind = phase_snr(phase, magnitude=None, te_s=TE_S, **common)
    np.testing.assert_allclose(blind.field_ppm, field, atol=1e-5)
    assert np.isfinite(blind.noise_ppm).all()
    with pytest.raises(ValueError, match="positive"):
        PhaseSnrParameters(largest_residual=0.0)
    with pytest.raises(ValueError, match="positive"):
        phase_snr(phase, magnitude=None, te_s=(0.0, *TE_S[1:]), **common)


def test_voxels_without_signal_are_left_out() -> None:
    _, phase, magnitude = echoes(5)
    magnitude[0, 0, 0], phase[1, 1, 1, 0] = 0, np.nan
    mask = np.ones(SHAPE, bool)
    mask[2] = False
    found = phase_snr(phase, magnitude=magnitude, te_s=TE_S, mask=mask, b0_tesla=B0_TESLA, params=PhaseSnrParameters())
    for where in ((0, 0, 0), (1, 1, 1), 2):
        assert np.isinf(found.noise_ppm[where]).all() and not np.any(found.field_ppm[where])
