"""Laplacian unwrapping."""

import numpy as np
import pytest
from scipy import ndimage

from qsmals.recon.unwrap import UNWRAP
from qsmals.recon.unwrap.laplacian import LaplacianParameters, laplacian
from tests.phase_phantom import RADIANS_PER_PPM_SECOND, ellipsoid, signal, smooth_field

SHAPE = (28, 36, 20)
MASK = ellipsoid(SHAPE)
TE_S = [0.005, 0.012]


def unwrap(phase, magnitude=None, mask=MASK, te_s=TE_S):
    return laplacian(phase, magnitude=magnitude, te_s=te_s, mask=mask, params=LaplacianParameters())


def test_noise_free_phase_is_recovered_up_to_whole_turns():
    phase, magnitude = signal(smooth_field(SHAPE, 1.5), TE_S)
    result = unwrap(phase, magnitude)
    assert result.phase_rad.dtype == np.float32 and not result.phase_rad[~MASK].any()
    for echo, te in enumerate(TE_S):
        difference = (result.phase_rad[..., echo] - RADIANS_PER_PPM_SECOND * te * smooth_field(SHAPE, 1.5))[MASK]
        np.testing.assert_allclose(difference, difference[0], atol=5e-3)
        assert abs(np.sin(difference[0] / 2)) < 5e-3


@pytest.mark.parametrize(("seed", "rise_rad"), [(0, 20.0), (1, 25.0)])
def test_it_agrees_with_scikit_image_on_smooth_phase(seed, rise_rad):
    """Without residues there is one unwrapped phase, up to whole turns."""
    restoration = pytest.importorskip("skimage.restoration")
    smooth = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(SHAPE), 5.0)
    true = (rise_rad * (smooth - smooth.min()) / np.ptp(smooth)).astype(np.float32)
    assert max(np.abs(np.diff(true, axis=axis)).max() for axis in range(3)) < np.pi
    wrapped = np.angle(np.exp(1j * true)).astype(np.float32)
    theirs = restoration.unwrap_phase(np.ma.array(wrapped, mask=~MASK), rng=0).filled(0)
    ours = unwrap(wrapped[..., None], te_s=TE_S[:1]).phase_rad[..., 0]
    assert np.ptp(true[MASK]) > 2 * np.pi
    turns = (ours - theirs)[MASK] / (2 * np.pi)
    np.testing.assert_allclose(turns, np.rint(np.median(turns)), atol=1e-3)


@pytest.mark.parametrize("offset_ppm", [-1.7, -0.2, 0.0, 0.2, 0.5, 1.7])
@pytest.mark.parametrize("with_magnitude", [True, False])
def test_the_echoes_agree_whatever_the_mean_of_the_field(offset_ppm, with_magnitude):
    """Each echo's mean phase alone is known up to whole turns: 0.15 ppm of mean are half a turn at 29 ms."""
    te_s = [0.004, 0.009, 0.014, 0.019, 0.024, 0.029]
    field = smooth_field(SHAPE) - smooth_field(SHAPE)[MASK].mean() + offset_ppm
    phase, magnitude = signal(field, te_s, snr=80, rng=np.random.default_rng(0))
    result = unwrap(phase, magnitude if with_magnitude else None, te_s=te_s).phase_rad
    for echo, te in enumerate(te_s):
        assert np.abs(np.median((result[..., echo] - RADIANS_PER_PPM_SECOND * te * field)[MASK])) < 0.3


def test_noise_gives_a_close_fit():
    phase, magnitude = signal(smooth_field(SHAPE), TE_S, snr=20, rng=np.random.default_rng(0))
    difference = (unwrap(phase, magnitude).phase_rad[..., 0] - RADIANS_PER_PPM_SECOND * TE_S[0] * smooth_field(SHAPE))[
        MASK
    ]
    assert np.std(difference) < 0.1


def test_what_is_not_finite_is_left_out_and_inputs_are_kept():
    phase, magnitude = signal(smooth_field(SHAPE), TE_S)
    phase[10, 12, 10, 1] = np.nan
    before = phase.copy()
    result = unwrap(phase, magnitude)
    np.testing.assert_array_equal(phase, before)
    assert np.isfinite(result.phase_rad).all() and not result.phase_rad[10, 12, 10].any()
    assert 0.5 < result.quality[MASK].mean() <= 1


def test_one_slice_and_an_empty_mask():
    phase, _ = signal(smooth_field(SHAPE), TE_S)
    one = unwrap(phase[:, :, 9:10], mask=MASK[:, :, 9:10]).phase_rad
    assert one.shape == (28, 36, 1, 2) and one.any()
    assert not unwrap(phase, mask=np.zeros_like(MASK)).phase_rad.any()


def test_shapes_must_fit():
    phase, _ = signal(smooth_field(SHAPE), TE_S)
    with pytest.raises(ValueError, match="do not fit together"):
        unwrap(phase, te_s=TE_S[:1])


def test_the_registry_knows_the_method():
    assert UNWRAP["laplacian"].function is laplacian
