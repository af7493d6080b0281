"""The forward field against analytic bodies and against another program."""

import numpy as np
import pytest
from numpy.typing import NDArray

from qsmals.recon.grid import Grid
from qsmals.simulate.dipole import field_from_susceptibility

DIRECTIONS = [(0.0, 0.0, 1.0), (1.0, 0.0, 0.0), (0.0, 0.6, 0.8), (0.36, -0.48, 0.8)]
Array = NDArray[np.float64]


def positions_mm(shape: tuple[int, int, int], size: tuple[float, float, float]) -> Array:
    """Coordinates of voxel centres, the middle of the array at the origin."""
    axes = [(np.arange(n) - (n - 1) / 2) * v for n, v in zip(shape, size, strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij"))


def filled(distance: Array, radius_mm: float, size: tuple[float, float, float]) -> NDArray[np.float32]:
    """Share of each voxel inside a surface, from the distance of its centre."""
    edge = float(np.mean(size))
    return np.clip((radius_mm - distance) / edge + 0.5, 0, 1).astype(np.float32)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("size", [(1.0, 1.0, 1.0), (1.0, 1.25, 2.0)])
def test_sphere(direction: tuple[float, float, float], size: tuple[float, float, float]) -> None:
    shape, radius = (72, 60, 48), 10.0
    place = positions_mm(shape, size)
    distance = np.linalg.norm(place, axis=0)
    chi = filled(distance, radius, size)
    field = field_from_susceptibility(chi, grid=Grid(shape, size, direction))
    cosine = np.tensordot(direction, place, 1) / np.maximum(distance, 1e-6)
    volume = chi.sum(dtype=float) * np.prod(size)  # of the sphere as drawn
    outside = volume / (4 * np.pi * np.maximum(distance, radius) ** 3) * (3 * cosine**2 - 1)
    clear = (np.abs(distance - radius) > 2 * max(size)) & (distance < 2.2 * radius)
    error = (field - np.where(distance < radius, 0, outside))[clear]
    assert np.sqrt(np.mean(error**2)) < 0.004
    assert np.abs(error).max() < 0.04  # of 0.67 at the pole
    assert abs(float(error[(distance < radius)[clear]].mean())) < 0.002


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_infinite_cylinder(direction: tuple[float, float, float]) -> None:
    """Along z: chi/6 (3 cos^2 - 1) inside, chi/2 (a/r)^2 sin^2 cos(2 phi) outside."""
    shape, size, radius = (56, 56, 220), (1.0, 1.0, 1.0), 6.0
    place = positions_mm(shape, size)
    distance = np.hypot(place[0], place[1])
    field = field_from_susceptibility(filled(distance, radius, size), grid=Grid(shape, size, direction))
    middle = slice(100, 120)
    cos_axis = direction[2]
    sin2 = 1 - cos_axis**2
    across = np.array(direction[:2]) / max(np.sqrt(sin2), 1e-9)
    cos_phi = np.tensordot(across, place[:2], 1) / distance
    outside = sin2 / 2 * (radius / distance) ** 2 * (2 * cos_phi**2 - 1)
    expected = np.where(distance < radius, (3 * cos_axis**2 - 1) / 6, outside)
    clear = (np.abs(distance - radius) > 2) & (distance < 20)
    error = (field - expected)[..., middle][clear[..., middle]]
    assert np.sqrt(np.mean(error**2)) < 0.006
    assert np.abs(error).max() < 0.03


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_agrees_with_qsm_forward(direction: tuple[float, float, float]) -> None:
    """For a smooth source: its kernel is sampled in k-space and rings at sharp edges, ours is sampled in space."""
    main = pytest.importorskip("qsm_forward.qsm_forward")
    shape, size = (48, 44, 40), (1.0, 1.0, 1.0)
    distance = np.linalg.norm(positions_mm(shape, size), axis=0)
    chi = np.exp(-(distance**2) / (2 * 5.0**2)).astype(np.float32)
    ours = field_from_susceptibility(chi, grid=Grid(shape, size, direction))
    theirs = main.generate_field(chi, voxel_size=size, B0_dir=list(direction))
    difference = (ours - ours.mean()) - (theirs - theirs.mean())
    assert np.abs(difference).max() < 1e-2 * np.ptp(ours)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_field_outside_a_source_is_harmonic(direction: tuple[float, float, float]) -> None:
    shape, size = (56, 56, 56), (1.0, 1.0, 1.0)
    distance = np.linalg.norm(positions_mm(shape, size), axis=0)
    field = field_from_susceptibility(filled(distance, 8.0, size), grid=Grid(shape, size, direction)).astype(float)
    laplacian = sum(np.roll(field, 1, axis) + np.roll(field, -1, axis) - 2 * field for axis in range(3))
    outside = (distance > 13) & (distance < 26)
    assert np.abs(laplacian[outside]).max() < 2e-3 * np.abs(field[outside]).max()


def test_what_surrounds_the_array_counts() -> None:
    """A uniform array in the same medium makes no field; a body in air is one that sits in air."""
    chi = np.full((20, 22, 18), 9.4, np.float32)
    grid = Grid((20, 22, 18), (1.0, 1.0, 1.0))
    assert np.abs(field_from_susceptibility(chi, grid=grid, chi_outside_ppm=9.4)).max() < 1e-5
    body = chi.copy()
    body[6:14, 6:14, 6:14] = 0
    in_air = field_from_susceptibility(body, grid=grid, chi_outside_ppm=9.4)
    hole = field_from_susceptibility(body - np.float32(9.4), grid=grid)
    np.testing.assert_allclose(in_air, hole, atol=2e-5)


def test_padding_brings_the_field_nearer_to_free_space() -> None:
    shape, size = (40, 40, 40), (1.0, 1.0, 1.0)
    place = positions_mm(shape, size)
    distance = np.linalg.norm(place, axis=0)
    chi = filled(distance, 8.0, size)
    cosine = place[2] / np.maximum(distance, 1e-6)
    expected = chi.sum() / (4 * np.pi * np.maximum(distance, 8) ** 3) * (3 * cosine**2 - 1)
    ring = (distance > 12) & (distance < 19)

    def error(padding: float) -> float:
        field = field_from_susceptibility(chi, grid=Grid(shape, size), padding_factor=padding)
        return float(np.sqrt(np.mean((field - expected)[ring] ** 2)))

    assert error(3.0) < error(2.0) < 0.5 * error(1.0)


def test_contract_of_the_kernel() -> None:
    chi = np.random.default_rng(0).normal(size=(9, 10, 11)).astype(np.float32)
    before = chi.copy()
    grid = Grid((9, 10, 11), (1.0, 2.0, 1.5))
    field = field_from_susceptibility(chi, grid=grid)
    assert field.dtype == np.float32
    np.testing.assert_array_equal(chi, before)
    np.testing.assert_allclose(field_from_susceptibility(2 * chi, grid=grid), 2 * field, atol=1e-5)
    with pytest.raises(ValueError, match="its grid"):
        field_from_susceptibility(chi[1:], grid=grid)
    with pytest.raises(ValueError, match="padding"):
        field_from_susceptibility(chi, grid=grid, padding_factor=0.5)
    chi[0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        field_from_susceptibility(chi, grid=grid)


def test_sign_of_the_direction_has_no_effect() -> None:
    chi = np.random.default_rng(1).normal(size=(8, 12, 10)).astype(np.float32)
    up, down = Grid(chi.shape, (1.0, 1.0, 1.0), (0.0, 0.6, 0.8)), Grid(chi.shape, (1.0, 1.0, 1.0), (0.0, -0.6, -0.8))
    np.testing.assert_allclose(
        field_from_susceptibility(chi, grid=up), field_from_susceptibility(chi, grid=down), atol=1e-6
    )
