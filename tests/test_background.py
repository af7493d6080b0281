"""Background field removal: each method on sources inside and outside a known mask."""

from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from qsmals.recon import fourier
from qsmals.recon.background.vsharp import VSharpParameters, sphere_radii_mm, truncated_inverse, vsharp
from qsmals.recon.grid import Grid
from qsmals.recon.mask.morphology import depth_mm, erode


@dataclass(frozen=True)
class Head:
    """A ball of tissue with sources, in the field of air and a shim."""

    grid: Grid
    mask: NDArray[np.bool_]
    local_ppm: NDArray[np.float32]
    background_ppm: NDArray[np.float32]

    @property
    def total_ppm(self) -> NDArray[np.float32]:
        return self.local_ppm + self.background_ppm


def head(size: tuple[float, float, float] = (1.0, 1.0, 1.0), b0: tuple[float, float, float] = (0.0, 0.0, 1.0)) -> Head:
    extent = np.array([52.0, 48.0, 56.0])
    x, y, z = (int(v) for v in extent / size)
    grid = Grid((x, y, z), size, b0)
    p = np.meshgrid(*[(np.arange(n) - (n - 1) / 2) * h for n, h in zip(grid.shape, size, strict=True)], indexing="ij")
    r = np.sqrt(sum(v**2 for v in p))
    mask = r < 19

    def ball(centre: tuple[float, float, float], radius: float) -> NDArray[np.float64]:
        distance = np.sqrt(sum((v - c) ** 2 for v, c in zip(p, centre, strict=True)))
        return np.clip((radius - distance) / 2 + 0.5, 0, 1)

    inside = (
        0.1 * ball((4, 0, 3), 4)
        + 0.05 * ball((-8, 3, -4), 4)
        - 0.05 * ball((2, -9, -2), 5)
        + 0.06 * ball((-4, 4, 9), 3)
    )
    outside = 9.0 * ball((0, 22, -12), 3) - 2.0 * ball((-20, -6, 16), 4)
    shim = 0.003 * p[0] - 0.002 * p[2] + 0.0001 * (p[0] ** 2 - p[1] ** 2)
    local = fourier.dipole_field(inside.astype(np.float32), grid)
    background = fourier.dipole_field(outside.astype(np.float32), grid) + shim.astype(np.float32)
    return Head(grid, mask, local, background)


def error(found: NDArray[np.float32], truth: NDArray[np.float32], where: NDArray[np.bool_]) -> float:
    """Root mean square of the difference over that of the truth, both without their means."""
    difference = (found - truth)[where].astype(float)
    return float(difference.std() / truth[where].astype(float).std())


GEOMETRIES = [
    ((1.0, 1.0, 1.0), (0.0, 0.0, 1.0)),
    ((1.0, 1.0, 2.0), (0.0, 0.0, 1.0)),
    ((1.0, 1.0, 1.0), (0.48, -0.36, 0.8)),
]


@pytest.mark.parametrize(("size", "b0"), GEOMETRIES)
def test_vsharp_parts_inside_from_outside(size: tuple[float, float, float], b0: tuple[float, float, float]) -> None:
    scan = head(size, b0)
    total, before = scan.total_ppm, scan.total_ppm.copy()
    result = vsharp(total, mask=scan.mask, grid=scan.grid)
    assert result.field_ppm.dtype == np.float32
    np.testing.assert_array_equal(total, before)
    assert not result.field_ppm[~result.mask].any()
    core = erode(scan.mask, 4.0, size)
    assert error(total, scan.local_ppm, core) > 3
    assert error(result.field_ppm, scan.local_ppm, core) < 0.3


def test_vsharp_removes_a_harmonic_field_and_loses_one_voxel() -> None:
    scan = head()
    result = vsharp(scan.background_ppm, mask=scan.mask, grid=scan.grid)
    assert np.abs(result.field_ppm[erode(scan.mask, 3.0, scan.grid.voxel_size_mm)]).max() < 0.01
    np.testing.assert_array_equal(result.mask, depth_mm(scan.mask, scan.grid.voxel_size_mm) > 1.0001)


def test_vsharp_ignores_what_lies_outside_the_mask() -> None:
    scan = head()
    spoiled = np.where(scan.mask, scan.total_ppm, np.nan).astype(np.float32)
    clean = vsharp(scan.total_ppm, mask=scan.mask, grid=scan.grid)
    np.testing.assert_array_equal(vsharp(spoiled, mask=scan.mask, grid=scan.grid).field_ppm, clean.field_ppm)


def test_vsharp_radii_descend_to_one_voxel() -> None:
    radii = sphere_radii_mm(VSharpParameters(largest_radius_mm=4.0), Grid((9, 9, 9), (1.0, 1.0, 1.0)))
    assert radii == [4.0, 3.0, 2.0, 1.0, 0.6]
    assert sphere_radii_mm(VSharpParameters(), Grid((9, 9, 9), (2.0, 2.0, 2.0)))[-1] == pytest.approx(1.2)
    with pytest.raises(ValueError, match="largest radius"):
        sphere_radii_mm(VSharpParameters(largest_radius_mm=0.3), Grid((9, 9, 9), (1.0, 1.0, 1.0)))


def test_truncated_inverse() -> None:
    np.testing.assert_allclose(truncated_inverse(np.array([2.0, -0.5, 0.01], np.float32), 0.05), [0.5, -2.0, 0.0])


@pytest.mark.parametrize("method", [vsharp])
def test_bad_input_is_refused(method) -> None:  # type: ignore[no-untyped-def]
    scan = head((2.0, 2.0, 2.0))
    holed = scan.total_ppm.copy()
    holed[13, 12, 14] = np.nan
    with pytest.raises(ValueError, match="not finite in 1 voxel"):
        method(holed, mask=scan.mask, grid=scan.grid)
    with pytest.raises(ValueError, match="empty"):
        method(scan.total_ppm, mask=np.zeros_like(scan.mask), grid=scan.grid)
    with pytest.raises(ValueError, match="one shape"):
        method(scan.total_ppm[1:], mask=scan.mask, grid=scan.grid)


def test_vsharp_needs_an_interior() -> None:
    scan = head((2.0, 2.0, 2.0))
    sheet = np.zeros_like(scan.mask)
    sheet[13] = True
    with pytest.raises(ValueError, match="too thin"):
        vsharp(scan.total_ppm, mask=sheet, grid=scan.grid)
