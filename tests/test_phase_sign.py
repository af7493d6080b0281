"""The sign of the phase from the field of the head."""

import numpy as np
import pytest

from qsmals.recon.grid import Grid
from qsmals.recon.phase.sign import detect_phase_sign
from tests.phase_phantom import axes, head

TILTS = [(0.0, 0.0, 1.0), (0.0, 0.5, 0.75**0.5), (0.5, 0.0, 0.75**0.5), (0.0, 1.0, 0.0), (0.48, 0.6, 0.64)]


def grid(b0_direction: tuple[float, float, float] = (0.0, 0.0, 1.0)) -> Grid:
    return Grid((48, 56, 40), (4.0, 4.0, 5.0), b0_direction)


def shimmed(field: np.ndarray) -> np.ndarray:
    """Add what frequency and shims may add: up to the second degree, larger than the field itself."""
    x, y, z = axes(field.shape)
    return (field + 0.7 - 2 * x + 1.5 * y + z - 1.2 * z**2 + 0.8 * x * y).astype(np.float32)


@pytest.mark.parametrize("b0_direction", TILTS)
@pytest.mark.parametrize("with_brain", [True, False])
def test_both_signs_are_found_at_any_tilt(b0_direction, with_brain):
    geometry = grid(b0_direction)
    tissue, brain, field = head(geometry)
    measured = shimmed(field) + np.random.default_rng(0).normal(0, 0.02, field.shape).astype(np.float32)
    before = measured.copy()
    for sign in (1, -1):
        found = detect_phase_sign(
            np.float32(sign) * measured, tissue_mask=tissue, brain_mask=brain if with_brain else None, grid=geometry
        )
        assert found.sign == sign and found.confident
        assert sign * found.correlation > 0.4
    np.testing.assert_array_equal(measured, before)


def test_values_outside_the_tissue_do_not_matter():
    tissue, brain, field = head(grid())
    disturbed = np.where(tissue, field, np.nan).astype(np.float32)
    disturbed[24, 28, 20] = np.nan
    plain = detect_phase_sign(np.where(tissue, field, 0), tissue_mask=tissue, brain_mask=brain, grid=grid())
    found = detect_phase_sign(disturbed, tissue_mask=tissue, brain_mask=brain, grid=grid())
    assert found.correlation == pytest.approx(plain.correlation, abs=0.01)


def test_fine_and_anisotropic_voxels_are_averaged():
    fine = Grid((96, 112, 40), (2.0, 2.0, 5.0))
    tissue, brain, field = head(fine)
    found = detect_phase_sign(-shimmed(field), tissue_mask=tissue, brain_mask=brain, grid=fine)
    assert found.sign == -1 and found.confident


def test_noise_is_not_confident():
    tissue, brain, field = head(grid())
    noise = np.random.default_rng(3).normal(size=field.shape).astype(np.float32)
    found = detect_phase_sign(noise, tissue_mask=tissue, brain_mask=brain, grid=grid())
    assert not found.confident and abs(found.correlation) < 0.2


def test_a_flat_field_is_not_confident():
    tissue, brain, field = head(grid())
    found = detect_phase_sign(np.zeros_like(field), tissue_mask=tissue, brain_mask=brain, grid=grid())
    assert (found.sign, found.confident) == (1, False)


def test_too_little_tissue_is_an_error():
    tissue, _, field = head(grid())
    with pytest.raises(ValueError, match="too little tissue"):
        detect_phase_sign(field, tissue_mask=np.zeros_like(tissue), brain_mask=None, grid=grid())


def test_shapes_must_fit():
    tissue, _, field = head(grid())
    with pytest.raises(ValueError, match="differ"):
        detect_phase_sign(field[1:], tissue_mask=tissue, brain_mask=None, grid=grid())
