"""Phase offset, even-odd phase and their detection."""

import numpy as np
import pytest

from qsmals.recon.grid import Grid
from qsmals.recon.phase import PHASE_OFFSET
from qsmals.recon.phase.bipolar import detect_bipolar
from qsmals.recon.phase.mcpc3ds import Mcpc3dsParameters, mcpc3ds
from qsmals.recon.phase.smooth import smooth_phase
from tests.phase_phantom import (
    RADIANS_PER_PPM_SECOND,
    axes,
    ellipsoid,
    signal,
    smooth_field,
    smooth_offset,
    wrapped,
)

SHAPE = (40, 44, 36)
GRID = Grid(SHAPE, (2.0, 2.0, 2.5))
MASK = ellipsoid(SHAPE)
EQUAL = [0.004, 0.009, 0.014, 0.019]
UNEQUAL = [0.0031, 0.0077, 0.0139, 0.0172]


def linear_phase(slope: float = 1.5) -> np.ndarray:
    x, y, _ = axes(SHAPE)
    return (0.3 + slope * x - 0.3 * slope * y + np.zeros(SHAPE)).astype(np.float32)


def spread(angle: np.ndarray, mask: np.ndarray = MASK) -> float:
    """Root mean square of a phase about its mean direction, rad."""
    values = np.exp(1j * angle[mask].astype(float))
    return float(np.sqrt(np.mean(np.angle(values * np.conj(values.mean())) ** 2)))


def misfit(phase: np.ndarray, te_s: list[float]) -> float:
    """Deviation, rad, of echoes from proportionality to echo time, over all the levels the field may have."""
    field = smooth_field(SHAPE)
    levels = RADIANS_PER_PPM_SECOND * field[MASK][:, None] * np.asarray(te_s)
    rest = np.exp(1j * (phase[MASK] - levels))
    rates = np.linspace(-2 * np.pi / 0.005, 2 * np.pi / 0.005, 4001)
    centre = rest.mean(axis=0)
    best = max(rates, key=lambda rate: np.sum(centre * np.exp(-1j * rate * np.asarray(te_s))).real)
    turned = rest * np.exp(-1j * best * np.asarray(te_s))
    return float(np.sqrt(np.mean(np.angle(turned) ** 2)))


@pytest.mark.parametrize("te_s", [EQUAL, UNEQUAL, EQUAL[:2]])
@pytest.mark.parametrize("with_magnitude", [True, False])
def test_offset_is_removed(te_s, with_magnitude):
    rng = np.random.default_rng(0)
    phase, magnitude = signal(smooth_field(SHAPE), te_s, offset_rad=smooth_offset(SHAPE), snr=60, rng=rng)
    result = mcpc3ds(
        phase,
        magnitude=magnitude if with_magnitude else None,
        te_s=te_s,
        mask=MASK,
        grid=GRID,
        bipolar=False,
        params=Mcpc3dsParameters(),
    )
    assert result.phase_rad.shape == phase.shape and result.phase_rad.dtype == np.float32
    assert result.even_odd_rad is None and not result.phase_rad[~MASK].any()
    assert spread(result.offset_rad - smooth_offset(SHAPE)) < 0.03
    assert misfit(result.phase_rad, te_s) < 0.06


def test_the_edge_of_the_mask_has_no_bias():
    """A phase ramp is reproduced at the rim as well as inside: the smoother fits a plane, not a mean."""
    offset = linear_phase(2.5)
    weight = MASK.astype(np.float32)
    smooth = smooth_phase(wrapped(offset), weight=weight, sigma_mm=7.0, voxel_size_mm=GRID.voxel_size_mm)
    rim = MASK & ~ellipsoid(SHAPE, 0.8)
    assert np.abs(wrapped(smooth - offset))[rim].max() < 0.03
    assert np.abs(wrapped(smooth - offset))[MASK].max() < 0.03


def test_smoothing_averages_noise_and_knows_no_wraps():
    rng = np.random.default_rng(4)
    offset = 3.1 + smooth_offset(SHAPE)
    noisy = wrapped(offset + rng.normal(0, 0.5, SHAPE))
    smooth = smooth_phase(noisy, weight=np.ones(SHAPE, np.float32), sigma_mm=7.0, voxel_size_mm=GRID.voxel_size_mm)
    assert np.sqrt(np.mean(wrapped(smooth - offset) ** 2)) < 0.05


def test_smoothing_ignores_what_has_no_weight():
    angle = np.where(MASK, 0.5, np.nan).astype(np.float32)
    weight = np.where(MASK, 1.0, 0.0).astype(np.float32)
    smooth = smooth_phase(angle, weight=weight, sigma_mm=7.0, voxel_size_mm=GRID.voxel_size_mm)
    np.testing.assert_allclose(smooth[MASK], 0.5, atol=1e-5)
    nothing = smooth_phase(angle, weight=np.zeros(SHAPE, np.float32), sigma_mm=7.0, voxel_size_mm=GRID.voxel_size_mm)
    assert not nothing.any()


def test_a_flat_volume_can_be_smoothed():
    angle = np.full((20, 24, 1), 3.0, dtype=np.float32)
    smooth = smooth_phase(angle, weight=np.ones_like(angle), sigma_mm=7.0, voxel_size_mm=(1.0, 1.0, 3.0))
    np.testing.assert_allclose(smooth, 3.0, atol=1e-5)


@pytest.mark.parametrize("te_s", [EQUAL, UNEQUAL, EQUAL[:3]])
def test_bipolar_readout_is_corrected_at_any_echo_spacing(te_s):
    rng = np.random.default_rng(1)
    even_odd = linear_phase()
    phase, magnitude = signal(
        smooth_field(SHAPE), te_s, offset_rad=smooth_offset(SHAPE), even_odd_rad=even_odd, snr=60, rng=rng
    )
    result = mcpc3ds(
        phase, magnitude=magnitude, te_s=te_s, mask=MASK, grid=GRID, bipolar=True, params=Mcpc3dsParameters()
    )
    assert result.even_odd_rad is not None
    assert spread(result.even_odd_rad - even_odd) < 0.03
    assert misfit(result.phase_rad, te_s) < 0.06
    ignored = mcpc3ds(
        phase, magnitude=magnitude, te_s=te_s, mask=MASK, grid=GRID, bipolar=False, params=Mcpc3dsParameters()
    )
    assert misfit(ignored.phase_rad, te_s) > 0.3


@pytest.mark.parametrize("te_s", [EQUAL, UNEQUAL, EQUAL[:3]])
@pytest.mark.parametrize("with_magnitude", [True, False])
def test_bipolar_readout_is_detected(te_s, with_magnitude):
    rng = np.random.default_rng(2)
    for slope, expected in ((0.0, False), (0.8, True), (4.0, True)):
        even_odd = linear_phase(slope) if slope else 0.0
        phase, magnitude = signal(
            smooth_field(SHAPE), te_s, offset_rad=smooth_offset(SHAPE), even_odd_rad=even_odd, snr=40, rng=rng
        )
        check = detect_bipolar(phase, magnitude=magnitude if with_magnitude else None, te_s=te_s, mask=MASK, grid=GRID)
        assert check.bipolar is expected
        assert check.even_odd_rad < 0.03 or expected


def test_fat_around_the_head_is_no_bipolar_readout():
    """Two unresolved lines bend the phase evolution of the rim; the sign does not alternate."""
    rng = np.random.default_rng(5)
    rim = MASK & ~ellipsoid(SHAPE, 0.78)
    phase, magnitude = signal(smooth_field(SHAPE), EQUAL, offset_rad=smooth_offset(SHAPE), snr=60, rng=rng)
    for echo, te in enumerate(EQUAL):
        mixture = 0.4 + 0.6 * np.exp(-2j * np.pi * 434 * te)
        phase[rim, echo] = wrapped(phase[rim, echo] + np.angle(mixture))
        magnitude[rim, echo] *= abs(mixture)
    assert not detect_bipolar(phase, magnitude=magnitude, te_s=EQUAL, mask=MASK, grid=GRID).bipolar


def test_fat_around_the_brain_does_not_reach_into_it():
    """The phase of fat turns by more than one cycle between echoes: its offset is wrong, and stays outside."""
    rng = np.random.default_rng(6)
    brain = ellipsoid(SHAPE, 0.78)
    phase, magnitude = signal(smooth_field(SHAPE), EQUAL, offset_rad=smooth_offset(SHAPE), snr=60, rng=rng)
    for echo, te in enumerate(EQUAL):
        phase[~brain, echo] = wrapped(phase[~brain, echo] - 2 * np.pi * 434 * te)
    arguments = {"magnitude": magnitude, "te_s": EQUAL, "mask": MASK, "grid": GRID, "bipolar": False}
    rim = brain & ~ellipsoid(SHAPE, 0.7)
    with_fat = mcpc3ds(phase, **arguments, params=Mcpc3dsParameters())
    without = mcpc3ds(phase, **arguments, params=Mcpc3dsParameters(), brain_mask=brain)
    assert spread(without.offset_rad - smooth_offset(SHAPE), rim) < 0.03
    assert spread(with_fat.offset_rad - smooth_offset(SHAPE), rim) > 0.1
    assert without.phase_rad[MASK & ~brain].any(), "the offset is taken off in the whole mask"
    with pytest.raises(ValueError, match="no voxel of the brain mask has signal"):
        mcpc3ds(phase, **arguments, params=Mcpc3dsParameters(), brain_mask=~MASK)


def test_what_is_not_finite_is_left_out_and_inputs_are_kept():
    phase, magnitude = signal(smooth_field(SHAPE), EQUAL, offset_rad=smooth_offset(SHAPE))
    phase[20, 20, 18, 1] = np.nan
    magnitude[22, 20, 18, 3] = np.inf
    before = phase.copy(), magnitude.copy(), MASK.copy()
    result = mcpc3ds(
        phase, magnitude=magnitude, te_s=EQUAL, mask=MASK, grid=GRID, bipolar=False, params=Mcpc3dsParameters()
    )
    np.testing.assert_array_equal(phase, before[0])
    np.testing.assert_array_equal(magnitude, before[1])
    np.testing.assert_array_equal(MASK, before[2])
    assert np.isfinite(result.phase_rad).all()
    assert not result.phase_rad[20, 20, 18].any() and not result.phase_rad[22, 20, 18].any()
    assert spread(result.offset_rad - smooth_offset(SHAPE)) < 0.03


def test_a_region_without_signal_in_one_echo_does_not_matter():
    phase, magnitude = signal(smooth_field(SHAPE), EQUAL, offset_rad=smooth_offset(SHAPE))
    magnitude[18:22, 18:22, 18:22, 0] = 0
    phase[18:22, 18:22, 18:22, 0] = 2.0
    result = mcpc3ds(
        phase, magnitude=magnitude, te_s=EQUAL, mask=MASK, grid=GRID, bipolar=False, params=Mcpc3dsParameters()
    )
    assert spread(result.offset_rad - smooth_offset(SHAPE)) < 0.03


def test_too_few_echoes_and_wrong_parameters():
    phase, magnitude = signal(smooth_field(SHAPE), EQUAL[:2])
    arguments = {"mask": MASK, "grid": GRID, "params": Mcpc3dsParameters()}
    with pytest.raises(ValueError, match="bipolar readout 3; the number is 2"):
        mcpc3ds(phase, magnitude=magnitude, te_s=EQUAL[:2], bipolar=True, **arguments)
    with pytest.raises(ValueError, match="takes 2 echoes"):
        mcpc3ds(phase[..., :1], magnitude=None, te_s=EQUAL[:1], bipolar=False, **arguments)
    with pytest.raises(ValueError, match="from 3 echoes"):
        detect_bipolar(phase, magnitude=magnitude, te_s=EQUAL[:2], mask=MASK, grid=GRID)
    with pytest.raises(ValueError, match="positive length"):
        Mcpc3dsParameters(sigma_mm=0)
    with pytest.raises(ValueError, match="no voxel"):
        detect_bipolar(
            np.zeros((*SHAPE, 3), np.float32), magnitude=None, te_s=EQUAL[:3], mask=np.zeros_like(MASK), grid=GRID
        )


def test_the_registry_knows_the_method():
    method = PHASE_OFFSET["mcpc-3d-s"]
    assert PHASE_OFFSET.default == "mcpc-3d-s" and method.function is mcpc3ds
    assert "7.0 mm" in method.sentence.format(**vars(method.make_parameters()))
