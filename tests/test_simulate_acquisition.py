"""From tissue to stored images: signal, k-space, shim, readout, noise and vendors' formats."""

import numpy as np
import pytest
from numpy.typing import NDArray

from qsmals.recon.constants import GAMMA_BAR_MHZ_PER_TESLA
from qsmals.simulate import acquisition as acq
from qsmals.simulate.geometry import random_field, random_motion, resample, rotation
from qsmals.simulate.vendor import VENDORS, decode, encode

SHAPE = (12, 10, 8)
AFFINE = np.diag([3.0, 3.0, 3.0, 1.0])


def sequence(**changes: object) -> acq.Sequence:
    values: dict[str, object] = {
        "echo_times_s": (0.004, 0.009, 0.014),
        "repetition_time_s": 0.03,
        "flip_angle_deg": 15.0,
        "b0_tesla": 3.0,
        "snr": 80.0,
    }
    return acq.Sequence(**(values | changes))  # type: ignore[arg-type]


def constant(value: float) -> NDArray[np.float32]:
    return np.full(SHAPE, value, np.float32)


def echo(te_s: float, field_ppm: float = 0.1, slope_ppm: float = 0.0) -> NDArray[np.complex64]:
    zero = constant(0)
    return acq.echo_signal(
        constant(2.0),
        r2star_hz=constant(40.0),
        field_ppm=constant(field_ppm),
        offset_rad=constant(0.3),
        gradient_ppm=(zero, zero, constant(slope_ppm)),
        te_s=te_s,
        b0_tesla=3.0,
    )


def test_phase_is_positive_for_positive_fields_and_magnitude_decays() -> None:
    image = echo(0.01)
    expected = 2 * np.pi * GAMMA_BAR_MHZ_PER_TESLA * 3.0 * 0.01 * 0.1 + 0.3
    np.testing.assert_allclose(np.angle(image * np.exp(-1j * expected)), 0, atol=1e-5)
    np.testing.assert_allclose(np.abs(image), 2 * np.exp(-0.4), rtol=1e-5)
    assert image.dtype == np.complex64


def test_a_field_that_turns_once_across_a_voxel_leaves_no_signal() -> None:
    one_turn = 1 / (GAMMA_BAR_MHZ_PER_TESLA * 3.0 * 0.01)
    assert np.abs(echo(0.01, slope_ppm=one_turn)).max() < 1e-5
    fine = np.linspace(-0.5, 0.5, 2001) * 0.3 * one_turn
    mean = np.abs(np.exp(2j * np.pi * fine / one_turn).mean())
    np.testing.assert_allclose(np.abs(echo(0.01, slope_ppm=0.3 * one_turn)), 2 * np.exp(-0.4) * mean, rtol=1e-3)


def test_ernst_formula_has_its_maximum_at_the_ernst_angle() -> None:
    one = np.ones(1, np.float32)
    angle = float(np.rad2deg(np.arccos(np.exp(-0.03))))
    best, *others = (
        float(acq.steady_state(one, one, repetition_time_s=0.03, flip_angle_deg=a)[0])
        for a in (angle, 0.8 * angle, 1.2 * angle)
    )
    assert best > max(others)


@pytest.mark.parametrize("factors", [(1, 1, 2), (3, 3, 3), (2, 1, 4)])
def test_cutting_kspace_keeps_the_mean(factors: tuple[int, int, int]) -> None:
    rng = np.random.default_rng(3)
    real = rng.normal(1, 1, (12, 12, 16)).astype(np.float32)[:, :, : 12 if factors[2] == 3 else 16]
    image = (real + 1j * real[::-1]).astype(np.complex64)
    for fine in (real, image):
        coarse = acq.crop_kspace(fine, factors)
        assert coarse.shape == tuple(n // f for n, f in zip(fine.shape, factors, strict=True))
        assert coarse.dtype == fine.dtype
        np.testing.assert_allclose(coarse.mean(), fine.mean(), rtol=1e-4)


def test_cutting_kspace_samples_at_the_centres_of_the_new_voxels() -> None:
    """A wave that both grids can carry keeps its values; one that the coarse grid cannot vanishes."""
    x = np.arange(48)
    centres = 3 * np.arange(16) + 1
    slow, fast = (np.cos(2 * np.pi * n * x / 48 + 0.4).astype(np.float32) for n in (3, 20))
    wave = np.broadcast_to((slow + fast)[:, None, None], (48, 3, 3))
    coarse = acq.crop_kspace(np.ascontiguousarray(wave), (3, 1, 1))
    np.testing.assert_allclose(coarse[:, 0, 0], slow[centres], atol=1e-5)


def test_cutting_kspace_of_a_size_that_does_not_divide_is_an_error() -> None:
    with pytest.raises(ValueError, match="not a multiple"):
        acq.crop_kspace(np.zeros((9, 8, 8), np.float32), (2, 1, 1))


def test_partial_volume_of_two_phases_loses_signal() -> None:
    """Voxels of opposite phase cancel when the scan's voxel holds both."""
    stripes = np.where(np.arange(16) % 2, 1, -1).astype(np.complex64)
    image = np.broadcast_to(stripes, (4, 4, 16))
    assert np.abs(acq.crop_kspace(np.ascontiguousarray(image), (1, 1, 2))).max() < 1e-5


def test_majority_of_a_block() -> None:
    labels = np.zeros((4, 4, 4), np.int16)
    labels[:2, :2, :2] = [[[7, 7], [7, 3]], [[3, 7], [5, 5]]]
    labels[2:, 2:, 2:] = [[[9, 2], [9, 2]], [[9, 2], [9, 2]]]
    reduced = acq.majority(labels, (2, 2, 2))
    assert reduced[0, 0, 0] == 7
    assert reduced[1, 1, 1] == 2
    assert reduced[0, 1, 1] == 0


def test_seen_field_weighs_by_amplitude() -> None:
    field = constant(0.0)
    field[::2] = 1.0
    amplitude = constant(1.0)
    amplitude[::2] = 3.0
    amplitude[:2] = 0.0
    seen = acq.seen_field(field, amplitude, (2, 1, 1))
    np.testing.assert_allclose(seen[1:], 0.75, rtol=1e-6)
    np.testing.assert_array_equal(seen[0], 0)


def test_shim_removes_all_low_orders() -> None:
    shape = (40, 44, 36)
    affine = np.diag([4.0, 4.0, 4.0, 1.0])
    affine[:3, 3] = [-78, -86, -70]
    mask = np.ones(shape, bool)
    coefficients = np.linspace(-1, 1, 9)
    field = sum(np.float32(c) * h for c, h in zip(coefficients, acq.solid_harmonics(shape, affine), strict=True))
    field = np.asarray(field, dtype=np.float32)
    before = field.copy()
    rng = np.random.default_rng(0)
    assert np.abs(acq.shim(field, mask=mask, affine=affine, residue_ppm=0, rng=rng)).max() < 1e-4
    residue = acq.shim(field, mask=mask, affine=affine, residue_ppm=0.04, rng=rng)
    assert 0.005 < residue.std() < 0.2
    np.testing.assert_array_equal(field, before)


def test_solid_harmonics_have_no_laplacian() -> None:
    for harmonic in acq.solid_harmonics((9, 9, 9), AFFINE):
        laplacian = sum(
            np.diff(harmonic.astype(float), 2, axis=a)[tuple(slice(None) if b == a else slice(1, -1) for b in range(3))]
            for a in range(3)
        )
        assert np.abs(laplacian).max() < 1e-5


def run_scan(**changes: object) -> list[NDArray[np.complex64]]:
    zero = constant(0)
    return list(
        acq.scan(
            sequence(**changes),
            amplitude=constant(1.0),
            r2star_hz=constant(20.0),
            field_ppm=constant(0.05),
            shift_ppm=zero,
            offset_rad=constant(1.0),
            brain=np.ones(SHAPE, bool),
            factors=(1, 1, 1),
            rng=np.random.default_rng(5),
        )
    )


def test_noise_has_the_asked_level_in_every_echo() -> None:
    for noisy, clean in zip(run_scan(snr=50.0), run_scan(snr=1e9), strict=True):
        error = noisy - clean
        expected = np.abs(run_scan(snr=1e9)[0]).max() / 50
        assert error.real.std() == pytest.approx(expected, rel=0.1)
        assert error.imag.std() == pytest.approx(expected, rel=0.1)


def test_bipolar_readout_changes_even_echoes_only_and_linearly() -> None:
    straight, both = run_scan(snr=1e9), run_scan(snr=1e9, bipolar=True, bipolar_phase_rad=1.2)
    for number, (a, b) in enumerate(zip(straight, both, strict=True), start=1):
        phase = np.angle(b * np.conj(a))
        expected = np.linspace(-1.2, 1.2, SHAPE[1]) if number % 2 == 0 else np.zeros(SHAPE[1])
        np.testing.assert_allclose(phase, np.broadcast_to(expected[None, :, None], SHAPE), atol=1e-4)


def test_a_whole_voxel_of_displacement_is_a_roll() -> None:
    image = np.random.default_rng(2).normal(size=(*SHAPE, 2)).astype(np.float32).view(np.complex64)[..., 0]
    np.testing.assert_allclose(acq.shifted(image, axis=1, voxels=2), np.roll(image, 2, axis=1), atol=1e-5)
    assert acq.shifted(image, axis=1, voxels=0) is image


@pytest.mark.parametrize(
    "changes",
    [
        {"echo_times_s": (0.009, 0.004)},
        {"echo_times_s": ()},
        {"repetition_time_s": 0.01},
        {"b0_tesla": 0.0},
        {"snr": 0.0},
    ],
)
def test_impossible_sequences_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        sequence(**changes)


@pytest.mark.parametrize("vendor", VENDORS)
def test_vendor_formats_decode_to_the_same_complex_image(vendor: str) -> None:
    rng = np.random.default_rng(11)
    phase = rng.uniform(-np.pi, np.pi, SHAPE)
    phase[0, 0, :4] = [np.pi, -np.pi, 0.0, np.nextafter(np.pi, 0)]
    image = (rng.uniform(0.2, 1, SHAPE) * np.exp(1j * phase)).astype(np.complex64)
    first, second = encode(image, vendor=vendor, scale=4000.0)
    np.testing.assert_allclose(decode(first, second, vendor=vendor, scale=4000.0), image, atol=2e-3)
    assert first.levels.dtype == second.levels.dtype == np.int16


def test_vendors_conventions() -> None:
    image = np.ones((2, 2, 4), np.complex64) * np.complex64(np.exp(0.5j))
    _, siemens = encode(image, vendor="siemens", scale=1000)
    assert siemens.levels.min() >= 0 and siemens.levels.max() <= 4095
    shown = siemens.levels * siemens.slope + siemens.intercept
    np.testing.assert_allclose(shown * np.pi / 4096, 0.5, atol=1e-3)
    _, philips = encode(image, vendor="philips", scale=1000)
    np.testing.assert_allclose(philips.levels * philips.slope + philips.intercept, 500, atol=1)
    real, imaginary = encode(image, vendor="ge", scale=1000)
    assert np.all(np.sign(real.levels[..., ::2]) == 1) and np.all(np.sign(real.levels[..., 1::2]) == -1)
    assert np.all(imaginary.levels[..., 0] < 0)
    with pytest.raises(ValueError, match="no vendor"):
        encode(image, vendor="bruker", scale=1)


def test_random_field_is_the_same_function_on_every_grid() -> None:
    def sampled(step: int) -> NDArray[np.float32]:
        affine = np.diag([float(step)] * 3 + [1.0])
        affine[:3, 3] = [-40, -30, -20]
        n = 40 // step
        return random_field((n, n, n), affine=affine, spacing_mm=12.0, rng=np.random.default_rng(4))

    np.testing.assert_allclose(sampled(1)[::4, ::4, ::4], sampled(4), atol=1e-5)


def test_random_field_has_unit_spread() -> None:
    affine = np.diag([4.0, 4.0, 4.0, 1.0])
    affine[:3, 3] = -140
    field = random_field((70, 70, 70), affine=affine, spacing_mm=10.0, rng=np.random.default_rng(0))
    assert abs(float(field.mean())) < 0.05
    assert float(field.std()) == pytest.approx(1.0, abs=0.05)


def test_random_motion_has_the_asked_size() -> None:
    moved = random_motion(translation_mm=3.0, rotation_deg=5.0, rng=np.random.default_rng(0))
    assert np.linalg.norm(moved[:3, 3]) == pytest.approx(3.0)
    assert np.rad2deg(np.arccos((np.trace(moved[:3, :3]) - 1) / 2)) == pytest.approx(5.0)
    assert np.linalg.det(moved[:3, :3]) == pytest.approx(1.0)
    with pytest.raises(ValueError, match="axis"):
        rotation((0, 0, 0), 10)


def test_resample_takes_matrices_from_new_to_old() -> None:
    volume = np.arange(4 * 5 * 6, dtype=np.float32).reshape(4, 5, 6)
    shift = np.eye(4)
    shift[:3, 3] = [1, 2, 3]
    np.testing.assert_array_equal(resample(volume, matrix=shift, shape=(3, 3, 3)), volume[1:, 2:, 3:])
    np.testing.assert_array_equal(
        resample(volume, matrix=np.eye(4), shape=(6, 5, 6), outside="constant", fill=-1)[4:], -1
    )
