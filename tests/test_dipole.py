"""The dipole kernels: against the continuous formula, the point dipole, an analytic sphere and adjoint tests."""

import numpy as np
import pytest
from scipy import fft

from qsmals.recon.dipole import Kernel, dipole_field, dipole_kernel, voxel_dipole_kernel
from qsmals.recon.grid import Grid

TILTED = (0.36, -0.48, 0.8)
CUBES = (1.0, 1.0, 1.0)


@pytest.mark.parametrize("shape", [(12, 9, 10), (11, 12, 13)])
@pytest.mark.parametrize("direction", [(0.0, 0.0, 1.0), TILTED])
def test_kernel_is_what_a_scanner_keeps_of_a_finer_one(
    shape: tuple[int, int, int], direction: tuple[float, float, float]
) -> None:
    """The field of a finer grid, its k-space cut to the grid, is the kernel times the susceptibility cut alike."""
    size, rng = (1.0, 1.2, 2.0), np.random.default_rng(3)
    fine = tuple(3 * n for n in shape)
    chi = rng.standard_normal(fine)
    axes = [fft.fftfreq(n, h / 3) for n, h in zip(fine, size, strict=True)]
    k = np.meshgrid(*axes, indexing="ij")
    squared = sum(x**2 for x in k)
    squared[0, 0, 0] = 1
    exact = 1 / 3 - sum(x * b for x, b in zip(k, direction, strict=True)) ** 2 / squared
    exact[0, 0, 0] = 0
    below = [np.abs(a) < 0.5 / h * (1 - 1e-9) for a, h in zip(axes, size, strict=True)]
    kept = np.ix_(*below)  # all below the highest frequency, which an even number has once and the finer grid twice
    coarse = [np.abs(fft.fftfreq(n, h)) < 0.5 / h * (1 - 1e-9) for n, h in zip(shape, size, strict=True)]
    there = np.ix_(*coarse)
    spectra = [fft.fftn(chi), fft.fftn(fft.ifftn(exact * fft.fftn(chi)).real)]
    images = []
    for spectrum in spectra:
        cut = np.zeros(shape, complex)
        cut[there] = spectrum[kept]
        images.append(fft.ifftn(cut).real)
    field = fft.irfftn(dipole_kernel(Grid(shape, size, direction)) * fft.rfftn(images[0]), s=shape)
    np.testing.assert_allclose(field, images[1], atol=1e-6 * np.abs(images[1]).max())


@pytest.mark.parametrize("make", [dipole_kernel, voxel_dipole_kernel])
@pytest.mark.parametrize("size", [CUBES, (1.0, 1.0, 2.0), (0.7, 1.0, 1.4)])
@pytest.mark.parametrize("direction", [(0.0, 0.0, 1.0), TILTED])
def test_kernel_tends_to_the_continuous_formula_at_low_frequencies(
    size: tuple[float, float, float], direction: tuple[float, float, float], make: Kernel
) -> None:
    shape = (48, 45, 40)
    kernel = make(Grid(shape, size, direction), shape)
    k = np.meshgrid(*[fft.fftfreq(n, h) for n, h in zip(shape, size, strict=True)], indexing="ij")
    squared = sum(x**2 for x in k)
    squared[0, 0, 0] = 1
    expected = 1 / 3 - sum(x * b for x, b in zip(k, direction, strict=True)) ** 2 / squared
    low = (squared < (0.1 / max(size)) ** 2)[:, :, : shape[2] // 2 + 1]
    assert kernel.dtype == np.float32
    assert kernel[0, 0, 0] == 0
    assert low.sum() > 30
    low[0, 0, 0] = False
    np.testing.assert_allclose(kernel[low], expected[:, :, : shape[2] // 2 + 1][low], atol=0.03)


@pytest.mark.parametrize("direction", [(0.0, 0.0, 1.0), TILTED])
def test_kernel_of_a_voxel_is_the_point_dipole_in_space(direction: tuple[float, float, float]) -> None:
    """Along the voxel axes too, where a kernel cut off in k-space is wrong by a factor of ten."""
    shape = (96, 96, 96)
    space = fft.irfftn(voxel_dipole_kernel(Grid(shape, CUBES, direction)), s=shape)
    axes = np.meshgrid(*[fft.fftfreq(n, 1 / n) for n in shape], indexing="ij")
    r = np.sqrt(sum(x**2 for x in axes))
    r[0, 0, 0] = 1
    cosine = sum(x * b for x, b in zip(axes, direction, strict=True)) / r
    point = (3 * cosine**2 - 1) / (4 * np.pi * r**3)
    peak = 2 / (4 * np.pi * r**3)
    near = (r >= 1) & (r < 8)
    near[0, 0, 0] = False
    assert np.abs((space - point) / peak)[near].max() < 0.02
    # farther out the periodic copies count, whose field is smooth: what is left of the difference along the axes
    for axis in range(3):
        line = np.moveaxis(space - point, axis, 0)[:25, 0, 0]
        assert np.abs(np.diff(line, 2))[6:].max() < 0.02 * peak[20, 0, 0]
    assert abs(space[0, 0, 0]) < 1e-4


def test_copies_of_the_period_are_part_of_the_kernel() -> None:
    """The kernel of a period is the sum of that of twice the period over its copies, up to their mean."""
    small, large = (16, 18, 20), (32, 36, 40)
    one = fft.irfftn(voxel_dipole_kernel(Grid(small, CUBES, TILTED)), s=small)
    two = fft.irfftn(voxel_dipole_kernel(Grid(large, CUBES, TILTED)), s=large)
    folded = two.reshape(2, 16, 2, 18, 2, 20).sum(axis=(0, 2, 4))
    np.testing.assert_allclose(one, folded, atol=2e-6)


def test_voxels_of_unequal_edges_are_rows_of_cubes() -> None:
    """Against a grid of cubes in which every second slice is looked at."""
    shape = (32, 32, 24)
    coarse = fft.irfftn(voxel_dipole_kernel(Grid(shape, (1.0, 1.0, 2.0), TILTED)), s=shape)
    fine_shape = (32, 32, 48)
    fine = fft.irfftn(voxel_dipole_kernel(Grid(fine_shape, CUBES, TILTED)), s=fine_shape)
    voxel = np.zeros(fine_shape)
    voxel[0, 0, :2] = 1
    field = fft.irfftn(fft.rfftn(voxel) * fft.rfftn(fine), s=fine_shape)
    # centre of the voxel of two cubes lies between slices 0 and 1: fields there by the mean of neighbours far away
    middle = 0.5 * (field + np.roll(field, -1, axis=2))[:, :, ::2]
    far = np.ones(shape, bool)
    for axis, n in enumerate(shape):
        distance = np.abs(fft.fftfreq(n, 1 / n))
        far &= (distance > 5).reshape([-1 if a == axis else 1 for a in range(3)])
    assert np.corrcoef(coarse[far], middle[far])[0, 1] > 0.999


@pytest.mark.parametrize("make", [dipole_kernel, voxel_dipole_kernel])
def test_dipole_convolution_is_self_adjoint_at_any_tilt(make: Kernel) -> None:
    grid = Grid((8, 10, 6), (1.0, 1.2, 2.0), TILTED)
    kernel = make(grid, grid.shape).astype(np.float64)
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((2, *grid.shape))
    field_a, field_b = (fft.irfftn(kernel * fft.rfftn(v), s=grid.shape) for v in (a, b))
    assert np.vdot(field_a, b) == pytest.approx(np.vdot(a, field_b), rel=1e-10)


@pytest.mark.parametrize("kernel", [dipole_kernel, voxel_dipole_kernel])
@pytest.mark.parametrize("direction", [(0.0, 0.0, 1.0), TILTED])
def test_field_of_a_sphere(direction: tuple[float, float, float], kernel: Kernel) -> None:
    grid = Grid((48, 48, 40), (1.0, 1.0, 1.2), direction)
    axes = np.meshgrid(
        *[(np.arange(n) - n // 2) * h for n, h in zip(grid.shape, grid.voxel_size_mm, strict=True)], indexing="ij"
    )
    r = np.sqrt(sum(x**2 for x in axes))
    smooth_ball = np.clip((7.5 - r) / 2 + 0.5, 0, 1)
    volume = smooth_ball.sum() * np.prod(grid.voxel_size_mm)
    field = dipole_field(smooth_ball.astype(np.float32), grid, kernel=kernel)
    cosine = sum(x * b for x, b in zip(axes, direction, strict=True)) / np.maximum(r, 1e-9)
    outside = (r > 10) & (r < 18)
    expected = volume / (4 * np.pi * np.maximum(r, 1) ** 3) * (3 * cosine**2 - 1)
    assert field.dtype == np.float32
    assert np.sqrt(np.mean((field - expected)[outside] ** 2)) < 0.002  # of a field of 0.05 rms
    assert np.abs(field[r < 5]).max() < 0.02
