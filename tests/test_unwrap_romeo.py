"""ROMEO: spatial growth, echoes in time, islands, quality."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from skimage.restoration import unwrap_phase

from qsmals.recon.unwrap import UNWRAP
from qsmals.recon.unwrap.romeo import EDGE_WEIGHTS, RomeoParameters, phase_quality, romeo
from tests.phase_phantom import RADIANS_PER_PPM_SECOND, ellipsoid, signal, smooth_field

SHAPE = (28, 36, 20)
MASK = ellipsoid(SHAPE)
TE_S = [0.004, 0.009, 0.014, 0.019]


def unwrap(phase, magnitude=None, te_s=None, mask=None, **params):
    return romeo(
        phase,
        magnitude=magnitude,
        te_s=TE_S[: phase.shape[3]] if te_s is None else te_s,
        mask=np.ones(phase.shape[:3], dtype=bool) if mask is None else mask,
        params=RomeoParameters(**params),
    )


def truth(te_s, scale_ppm=0.6, shape=SHAPE):
    field = smooth_field(shape, scale_ppm)
    return np.stack([RADIANS_PER_PPM_SECOND * te * field for te in te_s], axis=-1)


def turns(a, b):
    """Difference in whole turns; fails if it is no whole number."""
    difference = (a.astype(float) - b) / (2 * np.pi)
    np.testing.assert_allclose(difference, np.rint(difference), atol=1e-4)
    return np.rint(difference).astype(int)


@pytest.mark.parametrize("n_echoes", [1, 2, 3, 4])
@pytest.mark.parametrize("with_magnitude", [True, False])
def test_noise_free_field_is_recovered(n_echoes, with_magnitude):
    te_s = TE_S[:n_echoes]
    phase, magnitude = signal(smooth_field(SHAPE, 1.5), te_s)
    result = unwrap(phase, magnitude if with_magnitude else None, mask=MASK)
    assert result.phase_rad.shape == phase.shape
    assert result.phase_rad.dtype == result.quality.dtype == np.float32
    np.testing.assert_allclose(result.phase_rad[MASK], truth(te_s, 1.5)[MASK], atol=1e-3)
    assert not result.phase_rad[~MASK].any() and not result.quality[~MASK].any()
    assert 0.5 < result.quality[MASK].min() <= result.quality[MASK].max() <= 1


@pytest.mark.parametrize("weights", [EDGE_WEIGHTS, ("phase-coherence",), ("linearity", "magnitude-level")])
@pytest.mark.parametrize("template_echo", [1, 2, 9])
def test_any_weights_and_template_unwrap_a_smooth_field(weights, template_echo):
    phase, magnitude = signal(smooth_field(SHAPE), TE_S)
    result = unwrap(phase, magnitude, mask=MASK, weights=weights, template_echo=template_echo)
    np.testing.assert_allclose(result.phase_rad[MASK], truth(TE_S)[MASK], atol=1e-3)


def test_noise_makes_few_errors_and_echoes_stay_consistent():
    """At a signal-to-noise ratio of 8, falling to 5, the field of all echoes agrees."""
    phase, magnitude = signal(smooth_field(SHAPE), TE_S, snr=8, rng=np.random.default_rng(0))
    result = unwrap(phase, magnitude, mask=MASK)
    wrong = np.abs(result.phase_rad - truth(TE_S))[MASK] > np.pi
    assert wrong[:, 0].sum() == 0 and wrong.mean() < 5e-4
    rate = result.phase_rad / np.asarray(TE_S)
    assert np.abs(rate - rate[..., :1])[MASK].max() < 2 * np.pi / TE_S[0]


def test_quality_tells_noise_from_signal():
    tissue = ellipsoid(SHAPE, 0.7)
    rng = np.random.default_rng(1)
    phase, magnitude = signal(smooth_field(SHAPE), TE_S, amplitude=tissue.astype(np.float32), snr=40, rng=rng)
    quality = unwrap(phase, magnitude).quality
    inside, outside = ellipsoid(SHAPE, 0.6), ~ellipsoid(SHAPE, 0.8)
    assert np.quantile(quality[inside], 0.01) > np.quantile(quality[outside], 0.99)
    np.testing.assert_array_equal(
        quality, phase_quality(phase, magnitude=magnitude, te_s=TE_S, mask=np.ones(SHAPE, dtype=bool))
    )


def test_agreement_with_scikit_image():
    phase, magnitude = signal(smooth_field(SHAPE, 2.5), TE_S[1:2], snr=8, rng=np.random.default_rng(2))
    ours = unwrap(phase, magnitude, mask=MASK).phase_rad[..., 0]
    theirs = unwrap_phase(np.ma.masked_array(phase[..., 0], ~MASK), rng=0).filled(0)
    difference = turns(ours[MASK], theirs[MASK])
    assert np.mean(difference == np.bincount(difference - difference.min()).argmax() + difference.min()) > 0.999


@pytest.mark.parametrize("where", ["phase", "magnitude"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_outside(where, value):
    phase, magnitude = signal(smooth_field(SHAPE), TE_S)
    (phase if where == "phase" else magnitude)[10:13, 12, 10, 2] = value
    before = phase.copy(), magnitude.copy(), MASK.copy()
    result = unwrap(phase, magnitude, mask=MASK)
    np.testing.assert_array_equal(phase, before[0])
    np.testing.assert_array_equal(magnitude, before[1])
    np.testing.assert_array_equal(MASK, before[2])
    assert not result.phase_rad[10:13, 12, 10].any() and not result.quality[10:13, 12, 10].any()
    good = MASK.copy()
    good[10:13, 12, 10] = False
    np.testing.assert_allclose(result.phase_rad[good], truth(TE_S)[good], atol=1e-3)


def test_magnitude_of_zero_is_allowed():
    phase, magnitude = signal(smooth_field(SHAPE), TE_S)
    magnitude[10:13, 12, 10] = 0
    result = unwrap(phase, magnitude, mask=MASK)
    np.testing.assert_allclose(result.phase_rad[MASK], truth(TE_S)[MASK], atol=1e-3)


@pytest.mark.parametrize("n_echoes", [1, 4])
def test_islands_get_the_turns_of_their_neighbours(n_echoes):
    """Slabs, blocks and single voxels apart from each other, as noise and veins cut a mask."""
    mask = MASK.copy()
    mask[:, 17:20] = False
    mask[9, :, :] = False
    mask[14:, :, 8:10] = False
    te_s = TE_S[:n_echoes]
    phase, magnitude = signal(smooth_field(SHAPE, 1.2), te_s)
    result = unwrap(phase, magnitude, mask=mask)
    np.testing.assert_allclose(result.phase_rad[mask], truth(te_s, 1.2)[mask], atol=1e-3)


def test_echoes_decide_where_a_gap_cannot():
    """An island whose field is two wraps of the first echo away from the rest."""
    te_s = [0.0041, 0.0097, 0.0163]
    field = np.zeros((20, 8, 8), dtype=np.float32)
    field[12:] = 2 * 2 * np.pi / (RADIANS_PER_PPM_SECOND * te_s[0]) + 0.1
    mask = np.ones(field.shape, dtype=bool)
    mask[9:12] = False
    phase, magnitude = signal(field, te_s, snr=30, rng=np.random.default_rng(0))
    result = unwrap(phase, magnitude, te_s=te_s, mask=mask)
    expected = np.stack([RADIANS_PER_PPM_SECOND * te * field for te in te_s], axis=-1)
    assert np.abs(result.phase_rad - expected)[mask].max() < 1


def test_many_random_islands():
    mask = np.random.default_rng(3).random(SHAPE) < 0.2
    phase, magnitude = signal(smooth_field(SHAPE), TE_S)
    result = unwrap(phase, magnitude, mask=mask)
    assert turns(result.phase_rad[mask], phase[mask]).shape == (mask.sum(), 4)
    assert np.mean(np.abs(result.phase_rad - truth(TE_S))[mask] < 1e-3) > 0.99


def test_the_level_of_the_largest_component_is_nearest_to_zero():
    phase = np.full((12, 10, 8, 1), 3.0, dtype=np.float32)
    phase[6:] = -3.0
    result = unwrap(phase)
    assert abs(np.median(result.phase_rad)) < np.pi
    assert np.ptp(result.phase_rad) < 0.5


@pytest.mark.parametrize("shape", [(40, 1, 1), (1, 30, 24), (24, 30, 1), (1, 1, 2)])
def test_lines_and_slices(shape):
    field = np.linspace(-1.5, 1.5, int(np.prod(shape)), dtype=np.float32).reshape(shape)
    field = np.cumsum(np.ones(shape, np.float32), axis=int(np.argmax(shape))) * 0.05 + 0.002 * field
    field -= np.median(field)
    phase, magnitude = signal(field, TE_S)
    result = unwrap(phase, magnitude)
    expected = np.stack([RADIANS_PER_PPM_SECOND * te * field for te in TE_S], axis=-1)
    np.testing.assert_allclose(result.phase_rad, expected, atol=1e-3)


def test_an_empty_mask_gives_zeros():
    phase, magnitude = signal(smooth_field(SHAPE), TE_S)
    result = unwrap(phase, magnitude, mask=np.zeros(SHAPE, dtype=bool))
    assert not result.phase_rad.any() and not result.quality.any()


def test_memory_layout_and_repetition_do_not_matter():
    phase, magnitude = signal(smooth_field(SHAPE), TE_S, snr=4, rng=np.random.default_rng(6))
    plain = unwrap(phase, magnitude)
    again = unwrap(np.asfortranarray(phase), np.asfortranarray(magnitude), mask=np.ones(SHAPE, dtype=bool, order="F"))
    np.testing.assert_array_equal(plain.phase_rad, again.phase_rad)
    np.testing.assert_array_equal(plain.quality, again.quality)


@settings(max_examples=40, deadline=None)
@given(
    phase=hnp.arrays(np.float32, (5, 4, 3, 2), elements=st.floats(-3.125, 3.125, width=32)),
    mask=hnp.arrays(bool, (5, 4, 3)),
)
def test_any_phase_is_changed_by_whole_turns_only(phase, mask):
    result = unwrap(phase, mask=mask)
    turns(result.phase_rad[mask], phase[mask])
    rewrapped = np.angle(np.exp(1j * result.phase_rad[mask].astype(float)))
    np.testing.assert_allclose(rewrapped, phase[mask], atol=1e-5)
    assert not result.phase_rad[~mask].any()


@settings(max_examples=25, deadline=None)
@given(constant=st.floats(-3, 3), scale=st.floats(0.1, 1.5))
def test_a_constant_phase_moves_the_result_by_a_constant(constant, scale):
    """One echo: the unwrapped phase of a shifted input is the shifted unwrapped phase, up to whole turns."""
    phase, magnitude = signal(smooth_field((14, 18, 10), scale), TE_S[:1], snr=30, rng=np.random.default_rng(0))
    shifted = np.angle(np.exp(1j * (phase + constant))).astype(np.float32)
    difference = unwrap(shifted, magnitude).phase_rad - unwrap(phase, magnitude).phase_rad - constant
    np.testing.assert_allclose(difference, difference.flat[0], atol=1e-4)
    np.testing.assert_allclose(np.sin(difference / 2), 0, atol=1e-4)


def test_wrong_arguments():
    phase, magnitude = signal(smooth_field(SHAPE), TE_S)
    with pytest.raises(ValueError, match="do not fit together"):
        unwrap(phase, magnitude, te_s=TE_S[:2])
    with pytest.raises(ValueError, match="differ in shape"):
        unwrap(phase, magnitude[..., :2])
    with pytest.raises(ValueError, match="increasing"):
        unwrap(phase, magnitude, te_s=TE_S[::-1])
    with pytest.raises(ValueError, match="weights are some of"):
        RomeoParameters(weights=("phase",))
    with pytest.raises(ValueError, match="counted from 1"):
        RomeoParameters(template_echo=0)


def test_the_registry_knows_the_methods():
    assert UNWRAP.default == "romeo" and UNWRAP["romeo"].function is romeo
    method = UNWRAP["romeo"]
    assert "template echo 1" in method.sentence.format(**vars(method.make_parameters()))
    assert method.make_parameters({"weights": ["linearity"]}).weights == ("linearity",)
