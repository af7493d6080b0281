"""Kernels of convolution: against their definitions, an analytic sphere and adjoint tests."""

import numpy as np
import pytest
from scipy import fft

from qsmals.recon import fourier
from qsmals.recon.grid import Grid
from tests.inversion_phantom import divergence

TILTED = (0.36, -0.48, 0.8)


def test_padded_shape_is_fast_and_large_enough() -> None:
    shape = fourier.padded_shape((101, 97, 40), (12, 0, 5))
    assert all(n >= low for n, low in zip(shape, (113, 97, 45), strict=True))
    assert all(fft.next_fast_len(n, real=True) == n for n in shape)
    with pytest.raises(ValueError, match="margin"):
        fourier.padded_shape((4, 4, 4), -1)


def test_margin_is_in_mm() -> None:
    assert fourier.margin_voxels(6.0, Grid((4, 4, 4), (1.0, 2.0, 2.5))) == (6, 3, 3)


def test_transform_pads_and_inverse_crops() -> None:
    volume = np.random.default_rng(0).standard_normal((7, 6, 5)).astype(np.float32)
    spectrum = fourier.transform(volume, (8, 9, 10))
    assert spectrum.dtype == np.complex64
    back = fourier.inverse(spectrum, (8, 9, 10), volume.shape)
    assert back.dtype == np.float32
    np.testing.assert_allclose(back, volume, atol=1e-6)


def test_gradient_and_divergence_are_adjoint() -> None:
    rng = np.random.default_rng(2)
    size = (0.5, 1.0, 2.0)
    volume, field = rng.standard_normal((5, 6, 7)), rng.standard_normal((3, 5, 6, 7))
    left = np.vdot(fourier.gradient(volume, size), field)
    assert left == pytest.approx(-np.vdot(volume, divergence(field, size)), rel=1e-12)


def test_gradient_of_a_ramp_is_its_slope_per_mm() -> None:
    ramp = np.arange(6, dtype=np.float32)[None, :, None] * np.ones((4, 1, 5), np.float32)
    slope = fourier.gradient(ramp, (1.0, 2.0, 1.0))
    assert slope.dtype == np.float32
    np.testing.assert_allclose(slope[1, :, :-1], 0.5)
    np.testing.assert_allclose(slope[[0, 2]], 0)


def test_laplacian_kernel_is_gradient_squared() -> None:
    grid = Grid((6, 5, 8), (0.5, 1.0, 2.0))
    volume = np.random.default_rng(3).standard_normal(grid.shape)
    expected = -divergence(fourier.gradient(volume, grid.voxel_size_mm), grid.voxel_size_mm)
    actual = fft.irfftn(fourier.laplacian_kernel(grid).astype(float) * fft.rfftn(volume), s=grid.shape)
    np.testing.assert_allclose(actual, expected, atol=1e-5)


@pytest.mark.parametrize("size", [(1.0, 1.0, 1.0), (1.0, 1.0, 2.0), (0.6, 0.8, 1.5)])
@pytest.mark.parametrize("radius", [1.6, 3.0, 5.5])
def test_sphere_mean_of_a_harmonic_is_its_centre(size: tuple[float, float, float], radius: float) -> None:
    weights = fourier.sphere(radius, size)
    assert weights.sum() == pytest.approx(1)
    x, y, z = np.meshgrid(
        *[(np.arange(n) - n // 2) * h for n, h in zip(weights.shape, size, strict=True)], indexing="ij"
    )
    for harmonic in (x, x * y, x**2 - z**2, 2 * z**2 - x**2 - y**2, z**3 - 3 * z * x**2):
        assert (weights * (harmonic + 2)).sum() == pytest.approx(2, abs=1e-9)


def test_sphere_volume_is_its_radius() -> None:
    weights = fourier.sphere(6.0, (1.0, 1.0, 1.0))
    assert 1 / np.median(weights[weights > 0]) == pytest.approx(4 / 3 * np.pi * 6**3, rel=0.01)


def test_sphere_reach_and_refusal() -> None:
    assert fourier.sphere_reach_mm(0.6, (1.0, 1.0, 1.0)) == pytest.approx(1.0)
    assert fourier.sphere_reach_mm(0.6, (1.0, 1.0, 2.0)) == pytest.approx(2.0)
    with pytest.raises(ValueError, match="no neighbour"):
        fourier.sphere(0.5, (1.0, 1.0, 1.0))
    with pytest.raises(ValueError, match="does not fit"):
        fourier.sphere_kernel(9.0, Grid((8, 8, 8), (1.0, 1.0, 1.0)), (8, 8, 8))


def test_sphere_kernel_is_the_spectrum_of_the_mean() -> None:
    grid = Grid((12, 10, 9), (1.0, 1.0, 1.5))
    point = np.zeros(grid.shape, np.float32)
    point[5, 5, 4] = 1
    kernel = fourier.sphere_kernel(2.0, grid, grid.shape)
    assert kernel.flat[0] == pytest.approx(1)
    spread = fourier.inverse(fourier.transform(point, grid.shape) * kernel, grid.shape)
    weights = fourier.sphere(2.0, grid.voxel_size_mm)
    half = [n // 2 for n in weights.shape]
    box = tuple(slice(c - h, c + h + 1) for c, h in zip((5, 5, 4), half, strict=True))
    np.testing.assert_allclose(spread[box], weights, atol=1e-6)
    assert spread.sum() == pytest.approx(1, abs=1e-5)
