"""Stored numbers to radians."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qsmals.recon.phase.scaling import (
    PhaseScale,
    PhaseValues,
    describe_values,
    detect_phase_scale,
    phase_to_radians,
)

PI = np.pi


@pytest.mark.parametrize(
    ("low", "high", "step", "manufacturer", "factor", "offset"),
    [
        (-4096, 4094, 2, "Siemens", PI / 4096, 0),
        (-4096, 4095, 1, None, PI / 4096, 0),
        (-3500, 3900, 2, "SIEMENS", PI / 4096, 0),  # a crop
        (-900, 1200, 1, "Siemens", PI / 4096, 0),
        (40, 3800, 2, "Siemens", PI / 4096, 0),  # a crop with positive phase only
        (0, 4095, 1, "Siemens Healthineers", PI / 2048, -PI),
        (0, 4095, 1, None, PI / 2048, -PI),
        (700, 2900, 1, "Siemens", PI / 2048, -PI),
        (-2048, 2047, 1, "Siemens", PI / 2048, 0),
        (-3142, 3142, 1, "Siemens", 1e-3, 0),  # somebody rescaled it
        (-3142, 3141, 1, None, 1e-3, 0),
        (-2800, 3000, 1, "GE MEDICAL SYSTEMS", 1e-3, 0),
        (-2800, 3000, 1, "GEHC", 1e-3, 0),
        (-3141.59, 3139.2, 1.5345, "Philips Medical Systems", 1e-3, 0),
        (-2000.5, 1000.2, 1.5345, "Philips", 1e-3, 0),
        (-180, 180, 1, None, PI / 180, 0),
        (-3.1416, 3.1415, 0, None, 1, 0),
        (-PI, PI, 2 * PI / 4096, "Siemens", 1, 0),
        (0, 2 * PI, 0, None, 1, 0),
    ],
)
def test_fixed_scales_need_no_warning(low, high, step, manufacturer, factor, offset):
    scale = detect_phase_scale(PhaseValues(low, high, step), units="arbitrary", manufacturer=manufacturer)
    assert scale.factor == pytest.approx(factor, rel=1e-12)
    assert scale.offset_rad == pytest.approx(offset)
    assert scale.trusted and not scale.warning and scale.source


@pytest.mark.parametrize(("low", "high", "step"), [(-3500, 3900, 2), (-3600, 3300, 1)])
def test_a_likely_scale_is_taken_with_a_warning(low, high, step):
    scale = detect_phase_scale(PhaseValues(low, high, step))
    assert scale.factor == pytest.approx(PI / 4096) and not scale.trusted


def test_floats_short_of_pi_are_radians_with_a_warning():
    scale = detect_phase_scale(PhaseValues(-2.7, 2.9, 0.0))
    assert (scale.factor, scale.offset_rad) == (1.0, 0.0) and "Units" in scale.warning


def test_stretching_the_range_is_the_last_resort_and_loud():
    scale = detect_phase_scale(PhaseValues(-0.01, 0.03, 0.0), units="arbitrary", manufacturer="Siemens")
    assert scale.factor * 0.04 == pytest.approx(2 * PI)
    assert scale.factor * -0.01 + scale.offset_rad == pytest.approx(-PI)
    assert not scale.trusted and "UNKNOWN PHASE SCALE" in scale.warning and "Units: rad" in scale.warning


def test_declared_radians_are_trusted():
    for low, high in ((-3.1, 3.14), (0.0, 6.28), (-3.2, 3.2)):
        scale = detect_phase_scale(PhaseValues(low, high, 0.0), units="rad", manufacturer="Siemens")
        assert (scale.factor, scale.offset_rad, scale.trusted) == (1.0, 0.0, True)


def test_declared_radians_of_a_tiny_span_are_doubted():
    assert "spans only" in detect_phase_scale(PhaseValues(-0.01, 0.02, 0.0), units="rad").warning


def test_declared_radians_that_are_scanner_integers_are_scaled_with_a_warning():
    scale = detect_phase_scale(PhaseValues(-4096, 4094, 2), units="rad", manufacturer="Siemens")
    assert scale.factor == pytest.approx(PI / 4096) and "Units is rad" in scale.warning


def test_declared_radians_that_fit_nothing_are_an_error():
    with pytest.raises(ValueError, match="from -35 to 41"):
        detect_phase_scale(PhaseValues(-35.0, 41.0, 0.0), units="rad")


def test_levels_of_a_rescaled_file_are_counted():
    rng = np.random.default_rng(1)
    slope = 1.7945675e-06
    stored = (rng.integers(-2048, 2048, size=(30, 30, 30, 3)) * slope).astype(np.float32)
    values = describe_values(np.moveaxis(stored, -1, 0))
    assert values.step == pytest.approx(slope, rel=1e-4)
    scale = detect_phase_scale(values)
    assert scale.trusted and scale.factor == pytest.approx(PI / (2048 * slope), rel=1e-3)


def test_values_are_described_over_all_echoes():
    echoes = [np.array([-4090, 10, 12, 20], dtype=np.int16), np.array([np.nan, 2.0, 4092.0]), np.array([np.inf])]
    assert describe_values(echoes) == PhaseValues(-4090.0, 4092.0, 2.0)


def test_continuous_values_have_no_spacing():
    assert describe_values([np.random.default_rng(0).normal(size=2000)]).step == 0.0


@pytest.mark.parametrize("stored", [[np.nan, np.nan], [3.0, 3.0], []])
def test_phase_without_content_is_an_error(stored):
    with pytest.raises(ValueError, match="no two different"):
        describe_values([stored])


def test_integers_become_radians():
    stored = np.array([[-4096, 0], [2048, 4094]], dtype=np.int16)
    radians = phase_to_radians(stored, PhaseScale(PI / 4096, 0.0, "test"))
    assert radians.dtype == np.float32
    np.testing.assert_allclose(radians, [[-PI, 0], [PI / 2, PI * 4094 / 4096]], rtol=1e-6)
    np.testing.assert_array_equal(stored, [[-4096, 0], [2048, 4094]])


def test_nan_stays_nan():
    assert np.isnan(phase_to_radians([np.nan, 1.0], PhaseScale(1.0, 0.0, "test"))).tolist() == [True, False]


@settings(max_examples=60, deadline=None)
@given(
    turn=st.sampled_from([(PI / 4096, 0.0), (PI / 2048, -PI), (1e-3, 0.0), (1.0, 0.0)]),
    radians=st.lists(st.floats(-3.1, 3.1), min_size=1, max_size=20),
)
def test_scaling_undoes_storing(turn, radians):
    factor, offset = turn
    stored = (np.array(radians) - offset) / factor
    back = phase_to_radians(stored, PhaseScale(factor, offset, "test"))
    np.testing.assert_allclose(np.exp(1j * back), np.exp(1j * np.array(radians)), atol=1e-6)
    assert np.all(np.abs(back) <= np.float32(PI) + 1e-6)
