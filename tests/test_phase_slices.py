"""Slices with alternating sign."""

import numpy as np
import pytest

from qsmals.recon.phase.slices import (
    detect_alternating_slices,
    neighbour_correlation,
    undo_alternating_slices,
)
from tests.phase_phantom import RADIANS_PER_PPM_SECOND, axes, ellipsoid, smooth_field, smooth_offset

SHAPE = (30, 34, 22)


def volume(*, noise: float = 0.02, field_scale_ppm: float = 0.6, gradient: float = 0.0, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    phase = RADIANS_PER_PPM_SECOND * 0.005 * smooth_field(SHAPE, field_scale_ppm) + smooth_offset(SHAPE)
    phase = phase + gradient * np.arange(SHAPE[2])
    tissue = ellipsoid(SHAPE)
    fat = tissue & ~ellipsoid(SHAPE, 0.8)
    signal = tissue * np.exp(1j * (phase + 2.2 * fat))
    return (signal + noise * (rng.normal(size=SHAPE) + 1j * rng.normal(size=SHAPE))).astype(np.complex64)


@pytest.mark.parametrize("noise", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_alternation_is_found_along_any_axis_and_undone(axis, noise):
    signal = volume(noise=noise)
    stored = undo_alternating_slices(signal, axis)
    assert detect_alternating_slices(stored) == axis
    np.testing.assert_array_equal(undo_alternating_slices(stored, axis), signal)


@pytest.mark.parametrize("gradient", [0.0, 0.8, 1.4, -1.4])
@pytest.mark.parametrize("noise", [0.0, 0.1, 1.0])
def test_ordinary_data_raise_no_alarm(noise, gradient):
    assert detect_alternating_slices(volume(noise=noise, gradient=gradient)) is None


def test_strong_fields_raise_no_alarm():
    assert detect_alternating_slices(volume(field_scale_ppm=3.0)) is None


@pytest.mark.parametrize("seed", range(10))
def test_pure_noise_raises_no_alarm(seed):
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=SHAPE) + 1j * rng.normal(size=SHAPE)
    assert detect_alternating_slices(noise.astype(np.complex64)) is None


def test_values_that_are_not_finite_are_ignored():
    signal = undo_alternating_slices(volume(), 2)
    signal[5:9, 5:9, 3] = np.nan
    assert detect_alternating_slices(signal) == 2


def test_all_echoes_are_corrected_alike():
    signal = np.stack([volume(), 2 * volume(seed=1)], axis=-1)
    before = signal.copy()
    corrected = undo_alternating_slices(signal, 1)
    np.testing.assert_array_equal(signal, before)
    np.testing.assert_array_equal(corrected[:, ::2], signal[:, ::2])
    np.testing.assert_array_equal(corrected[:, 1::2], -signal[:, 1::2])
    assert corrected.dtype == np.complex64


def test_no_signal_and_one_slice():
    assert neighbour_correlation(np.zeros((4, 4, 4), dtype=np.complex64), 2) == (0.0, 0.0)
    assert detect_alternating_slices(np.ones((6, 6, 1), dtype=np.complex64)) is None


def test_wrong_arguments():
    with pytest.raises(ValueError, match="one complex volume"):
        detect_alternating_slices(np.ones((4, 4, 4)))
    with pytest.raises(ValueError, match="0, 1 or 2"):
        undo_alternating_slices(volume(), 3)


def test_coordinates_of_the_phantom_span_the_volume():
    assert [float(a.max()) for a in axes(SHAPE)] == [1.0, 1.0, 1.0]
