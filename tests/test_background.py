"""Background field removal: each method on sources inside and outside a known mask."""

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

import numba
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import fft, ndimage

from qsmals.recon import fourier
from qsmals.recon.background import BACKGROUND
from qsmals.recon.background.gaps import bridge_gaps
from qsmals.recon.background.ismv import IsmvParameters, ismv
from qsmals.recon.background.lbv import LbvParameters, interior, lbv
from qsmals.recon.background.pdf import PdfParameters, pdf
from qsmals.recon.background.resharp import ResharpParameters, resharp
from qsmals.recon.background.sharp import SharpParameters, sharp
from qsmals.recon.background.spheres import SpheresInMask
from qsmals.recon.background.vsharp import VSharpParameters, sphere_radii_mm, truncated_inverse, vsharp
from qsmals.recon.dipole import dipole_field, voxel_dipole_kernel
from qsmals.recon.grid import Grid
from qsmals.recon.mask.morphology import depth_mm, erode


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small volumes only lose time to threads."""
    before = numba.get_num_threads()
    numba.set_num_threads(1)
    yield
    numba.set_num_threads(before)


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
    local = dipole_field(inside.astype(np.float32), grid)
    background = dipole_field(outside.astype(np.float32), grid, kernel=voxel_dipole_kernel) + shim.astype(np.float32)
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


FASTER = {"pdf": PdfParameters(margin_mm=8.0, max_iterations=60)}

LIMITS = {"v-sharp": 0.4, "sharp": 0.2, "resharp": 0.25, "ismv": 0.25, "pdf": 0.25, "lbv": 0.25}
"""Largest error, 4 mm inside the mask and where the method answers; the total field's is 5."""


@pytest.mark.parametrize("name", list(BACKGROUND))
@pytest.mark.parametrize(("size", "b0"), GEOMETRIES)
def test_every_method_parts_inside_from_outside(
    size: tuple[float, float, float], b0: tuple[float, float, float], name: str
) -> None:
    scan = head(size, b0)
    total, before = scan.total_ppm, scan.total_ppm.copy()
    result = BACKGROUND[name].function(total, mask=scan.mask, grid=scan.grid, params=FASTER.get(name))
    assert result.field_ppm.dtype == np.float32
    np.testing.assert_array_equal(total, before)
    assert not result.field_ppm[~result.mask].any()
    assert not (result.mask & ~scan.mask).any()
    core = erode(scan.mask, 4.0, size) & result.mask
    assert error(total, scan.local_ppm, core) > 3
    assert error(result.field_ppm, scan.local_ppm, core) < LIMITS[name]


def field_of_sphere(
    grid: Grid, centre: tuple[float, float, float], radius: float, chi_ppm: float
) -> NDArray[np.float64]:
    """Field of a sphere at the voxels' centres, ppm, in closed form: that of a dipole outside, none inside."""
    axes = [
        (np.arange(n) - (n - 1) / 2) * h - c for n, h, c in zip(grid.shape, grid.voxel_size_mm, centre, strict=True)
    ]
    p = np.meshgrid(*axes, indexing="ij")
    r = np.sqrt(sum(v**2 for v in p))
    cosine = sum(v * b for v, b in zip(p, grid.b0_direction, strict=True)) / np.maximum(r, 1e-9)
    return np.where(r < radius, 0, chi_ppm / 3 * (radius / np.maximum(r, radius)) ** 3 * (3 * cosine**2 - 1))


@pytest.mark.parametrize("name", list(BACKGROUND))
def test_every_method_parts_analytic_sources(name: str) -> None:
    """A sphere inside and spheres outside, from the formula: nothing of the program's own made the fields."""
    grid = Grid((50, 46, 40), (1.0, 1.0, 1.3), (0.48, -0.36, 0.8))
    axes = [(np.arange(n) - (n - 1) / 2) * h for n, h in zip(grid.shape, grid.voxel_size_mm, strict=True)]
    mask = sum(v**2 for v in np.meshgrid(*axes, indexing="ij")) < 19.0**2
    local = field_of_sphere(grid, (4.0, -3.0, 2.0), 4.0, 0.3)
    background = field_of_sphere(grid, (0.0, 27.0, -9.0), 7.0, 9.0) + field_of_sphere(
        grid, (-20.0, -12.0, 14.0), 5.0, -9.0
    )
    total = (local + background).astype(np.float32)
    result = BACKGROUND[name].function(total, mask=mask, grid=grid, params=FASTER.get(name))
    core = erode(mask, 4.0, grid.voxel_size_mm) & result.mask
    assert error(total, local.astype(np.float32), core) > 2
    assert error(result.field_ppm, local.astype(np.float32), core) < LIMITS[name]


@pytest.mark.parametrize("name", list(BACKGROUND))
def test_every_method_describes_itself(name: str) -> None:
    method = BACKGROUND[name]
    params = method.make_parameters()
    assert method.sentence.format(**vars(params) | dict(getattr(params, "words", {})))
    assert all(f.metadata["unit"] and f.metadata["source"] for f in fields(method.parameters))


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


def test_vsharp_takes_radii_in_voxels_and_erodes_before() -> None:
    scan = head()
    size = min(scan.grid.voxel_size_mm)
    mm = VSharpParameters(largest_radius_mm=4 * size, step_mm=size)
    voxels = VSharpParameters(radii_voxels=(4, 3, 2, 1, 0.6))
    np.testing.assert_array_equal(
        vsharp(scan.total_ppm, mask=scan.mask, grid=scan.grid, params=voxels).field_ppm,
        vsharp(scan.total_ppm, mask=scan.mask, grid=scan.grid, params=mm).field_ppm,
    )
    eroded = replace(voxels, erosion_voxels=2)
    smaller = np.asarray(ndimage.binary_erosion(scan.mask, iterations=2))
    found = vsharp(scan.total_ppm, mask=scan.mask, grid=scan.grid, params=eroded)
    expected = vsharp(scan.total_ppm, mask=smaller, grid=scan.grid, params=voxels)
    np.testing.assert_array_equal(found.mask, expected.mask)
    np.testing.assert_array_equal(found.field_ppm, expected.field_ppm)
    with pytest.raises(ValueError, match="erosion"):
        vsharp(scan.total_ppm, mask=scan.mask, grid=scan.grid, params=replace(voxels, erosion_voxels=-1))
    with pytest.raises(ValueError, match="radii"):
        vsharp(scan.total_ppm, mask=scan.mask, grid=scan.grid, params=replace(voxels, radii_voxels=(2, 0.3)))


CUBE = Grid((26, 24, 22), (1.0, 1.0, 1.5))


SMALL_RADII = {
    "v-sharp": VSharpParameters(largest_radius_mm=4.0),
    "sharp": SharpParameters(radius_mm=3.0),
    "resharp": ResharpParameters(radius_mm=3.0),
}


def gaps_phantom() -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_]]:
    """A harmonic field, a mask that holds all but a frame, and where the field was measured in it."""
    x, y, z = np.meshgrid(
        *[np.arange(n) * h for n, h in zip(CUBE.shape, CUBE.voxel_size_mm, strict=True)], indexing="ij"
    )
    field = (0.3 + 0.005 * z + 0.001 * (x * y - 3 * x)).astype(np.float32)
    mask = np.zeros(CUBE.shape, dtype=bool)
    mask[2:-2, 2:-2, 2:-2] = True
    return field, mask, mask.copy()


def test_a_fully_measured_field_is_kept_as_it_is() -> None:
    field, mask, measured = gaps_phantom()
    found = bridge_gaps(field, mask=mask, measured=measured, grid=CUBE)
    assert found.field_ppm is field and found.mask is mask and (found.n_bridged, found.n_left_out) == (0, 0)


def test_enclosed_gaps_get_the_harmonic_field_and_open_ones_are_left_out() -> None:
    field, mask, measured = gaps_phantom()
    measured[8:15, 8:15, 8:12] = False
    measured[2:6, 2:10, :] = False
    measured[20:, 12, 12] = False  # a groove of one voxel, as of a vein at the surface
    spoiled = np.where(measured, field, np.float32(np.nan))
    before = spoiled.copy()
    found = bridge_gaps(spoiled, mask=mask, measured=measured, grid=CUBE)
    np.testing.assert_array_equal(spoiled, before)
    assert found.mask[8:15, 8:15, 8:12].all() and found.mask[20:23, 12, 12].all()
    assert not found.mask[2:4, 2:8, :].any() and not (found.mask & ~mask).any()
    assert found.n_bridged + found.n_left_out == np.count_nonzero(mask & ~measured)
    assert found.n_left_out == np.count_nonzero(mask & ~found.mask)
    np.testing.assert_allclose(found.field_ppm[8:15, 8:15, 8:12], field[8:15, 8:15, 8:12], atol=2e-5)
    np.testing.assert_allclose(found.field_ppm[20:23, 12, 12], field[20:23, 12, 12], atol=0.01)


@pytest.mark.parametrize("name", ["v-sharp", "sharp", "resharp", "ismv", "lbv"])
def test_a_void_in_a_harmonic_field_makes_no_source(name: str) -> None:
    field, mask, measured = gaps_phantom()
    measured[10:15, 10:15, 9:12] = False
    found = bridge_gaps(np.where(measured, field, 0), mask=mask, measured=measured, grid=CUBE)
    params = SMALL_RADII.get(name)
    local = BACKGROUND[name].function(found.field_ppm, mask=found.mask, grid=CUBE, params=params)
    whole = BACKGROUND[name].function(field, mask=mask, grid=CUBE, params=params)
    np.testing.assert_array_equal(local.mask, whole.mask)
    np.testing.assert_allclose(local.field_ppm, whole.field_ppm, atol=1e-4)


def test_a_field_without_any_measurement_is_refused() -> None:
    field, mask, measured = gaps_phantom()
    with pytest.raises(ValueError, match="in no voxel"):
        bridge_gaps(field, mask=mask, measured=~measured, grid=CUBE)
    with pytest.raises(ValueError, match="one shape"):
        bridge_gaps(field[1:], mask=mask, measured=measured, grid=CUBE)


@pytest.mark.parametrize("size", [(1.0, 1.0, 3.0), (0.7, 0.7, 1.5), (2.0, 1.0, 1.5)])
@pytest.mark.parametrize("radius_mm", [0.6, 1.3, 4.0, 30.0])
def test_spheres_of_any_voxel_are_told_by_their_own_voxels(size: tuple[float, float, float], radius_mm: float) -> None:
    scan = head(size)
    radius_mm = max(radius_mm, 0.6 * min(size))
    found = SpheresInMask(scan.mask, scan.grid).fit(radius_mm)
    footprint = fourier.sphere(radius_mm, size) != 0
    if radius_mm == 30.0:
        assert not found.any()
    else:
        np.testing.assert_array_equal(found, ndimage.binary_erosion(scan.mask, footprint))


@pytest.mark.parametrize("radius_mm", [0.6, 1.0, 3.0, 8.0])
def test_spheres_of_cubic_voxels_keep_their_distance(radius_mm: float) -> None:
    scan = head()
    reach = fourier.sphere_reach_mm(radius_mm, scan.grid.voxel_size_mm)
    expected = depth_mm(scan.mask, scan.grid.voxel_size_mm) > reach + 1e-4
    np.testing.assert_array_equal(SpheresInMask(scan.mask, scan.grid).fit(radius_mm), expected)


def test_vsharp_loses_one_voxel_of_any_shape() -> None:
    """Not a slice's thickness in-plane: the smallest sphere reaches the six neighbours."""
    scan = head((1.0, 1.0, 3.0))
    result = vsharp(scan.total_ppm, mask=scan.mask, grid=scan.grid)
    np.testing.assert_array_equal(result.mask, ndimage.binary_erosion(scan.mask))


def test_truncated_inverse() -> None:
    np.testing.assert_allclose(truncated_inverse(np.array([2.0, -0.5, 0.01], np.float32), 0.05), [0.5, -2.0, 0.0])


@pytest.mark.parametrize("method", [m.function for m in BACKGROUND.values()])
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


def test_methods_with_spheres_refuse_a_thin_mask() -> None:
    scan = head((2.0, 2.0, 2.0))
    sheet = np.zeros_like(scan.mask)
    sheet[13] = True
    for method in (sharp, resharp, ismv, lbv):
        with pytest.raises(ValueError, match="too thin"):
            method(scan.total_ppm, mask=sheet, grid=scan.grid)


SMALL = Grid((9, 8, 10), (2.0, 2.0, 2.0), (0.48, -0.36, 0.8))


def small_mask() -> NDArray[np.bool_]:
    p = np.meshgrid(*[np.arange(n) - (n - 1) / 2 for n in SMALL.shape], indexing="ij")
    return np.asarray(sum(x**2 for x in p) < 13)


def dense(operator, grid: Grid) -> NDArray[np.float64]:  # type: ignore[no-untyped-def]
    """Matrix of a linear map of volumes, column by column."""
    units = np.eye(int(np.prod(grid.shape))).reshape(-1, *grid.shape)
    return np.stack([operator(u).ravel() for u in units], axis=1)


def sphere_mean(radius_mm: float, grid: Grid) -> NDArray[np.float64]:
    """Matrix of the spherical mean, zero beyond the volume, by convolution in image space."""
    weights = fourier.sphere(radius_mm, grid.voxel_size_mm)
    return dense(lambda v: ndimage.convolve(v, weights, mode="constant"), grid)


def test_ismv_is_the_fixed_point_of_its_iteration() -> None:
    mask = small_mask()
    total = np.random.default_rng(0).standard_normal(SMALL.shape).astype(np.float32)
    params = IsmvParameters(radius_mm=2.0, tolerance=1e-6)
    result = ismv(total, mask=mask, grid=SMALL, params=params)
    mean = sphere_mean(2.0, SMALL)
    background = np.where(mask, total, 0).astype(float).ravel()
    inner = result.mask.ravel()
    for _ in range(1000):
        background[inner] = (mean @ background)[inner]
    expected = np.where(inner, total.ravel() - background, 0).reshape(SMALL.shape)
    np.testing.assert_allclose(result.field_ppm, expected, atol=2e-5)


def test_resharp_is_the_dense_tikhonov_solution() -> None:
    mask = small_mask()
    total = np.random.default_rng(1).standard_normal(SMALL.shape).astype(np.float32)
    params = ResharpParameters(radius_mm=2.0, regularisation=0.01, tolerance=1e-6, max_iterations=300)
    result = resharp(total, mask=mask, grid=SMALL, params=params)
    high = np.eye(total.size) - sphere_mean(2.0, SMALL)
    kept = high[result.mask.ravel()]
    field = np.where(mask, total, 0).astype(float).ravel()
    expected = np.linalg.solve(kept.T @ kept + 0.01 * np.eye(total.size), kept.T @ (kept @ field))
    np.testing.assert_allclose(result.field_ppm[result.mask], expected[result.mask.ravel()], atol=2e-5)


def test_lbv_is_the_dense_boundary_value_solution() -> None:
    grid = Grid(SMALL.shape, (1.0, 1.5, 2.0))
    mask = small_mask()
    total = np.random.default_rng(2).standard_normal(grid.shape).astype(np.float32)
    result = lbv(total, mask=mask, grid=grid, params=LbvParameters(tolerance=1e-7))
    stencil = np.zeros((3, 3, 3))
    for axis, h in enumerate(grid.voxel_size_mm):
        for step in (0, 2):
            stencil[tuple(step if a == axis else 1 for a in range(3))] = 1 / h**2
    stencil[1, 1, 1] = -stencil.sum()
    laplacian = dense(lambda v: ndimage.convolve(v, stencil, mode="constant"), grid)
    inner = interior(mask).ravel()
    np.testing.assert_array_equal(result.mask.ravel(), inner)
    np.testing.assert_array_equal(result.known, mask & ndimage.binary_dilation(interior(mask)))
    assert not result.field_ppm.ravel()[~inner].any()
    right = (laplacian @ np.where(mask, total, 0).ravel().astype(float))[inner]
    expected = np.linalg.solve(laplacian[np.ix_(inner, inner)], right)
    np.testing.assert_allclose(result.field_ppm.ravel()[inner], expected, atol=1e-5)


def test_interior_stops_at_the_edge_of_the_volume() -> None:
    full = interior(np.ones((4, 4, 4), bool))
    assert full.sum() == 8 and full[1:3, 1:3, 1:3].all()


def test_pdf_is_the_dense_weighted_projection() -> None:
    grid = Grid((8, 9, 10), (1.0, 1.0, 1.5), (0.48, -0.36, 0.8))
    p = np.meshgrid(*[np.arange(n) - (n - 1) / 2 for n in grid.shape], indexing="ij")
    mask = np.asarray(sum(x**2 for x in p) < 11)
    rng = np.random.default_rng(3)
    dipole = voxel_dipole_kernel(grid).astype(float)
    operator = dense(lambda v: fft.irfftn(dipole * fft.rfftn(v), s=grid.shape), grid)
    np.testing.assert_allclose(operator, operator.T, atol=1e-10)
    total = (operator @ np.where(mask, 0, rng.standard_normal(grid.shape)).ravel()).reshape(grid.shape)
    total += 0.1 * rng.standard_normal(grid.shape)
    total = total.astype(np.float32)
    weights = rng.uniform(0.3, 1.0, grid.shape).astype(np.float32)
    params = PdfParameters(margin_mm=0.0, tolerance=1e-6, max_iterations=3000)
    result = pdf(total, mask=mask, grid=grid, weights=weights, params=params)
    w = weights[mask].astype(float)
    rows = operator[mask.ravel()][:, ~mask.ravel()]
    shimless = total[mask] - polynomial_fit(total, weights, mask, grid)
    sources = np.linalg.lstsq(w[:, None] * rows, w * shimless, rcond=1e-9)[0]
    least = np.linalg.norm(w * (shimless - rows @ sources))
    assert np.linalg.norm(w * result.field_ppm[mask]) == pytest.approx(least, abs=0.02 * np.linalg.norm(w * shimless))


def polynomial_fit(
    total: NDArray[np.float32], weights: NDArray[np.float32], mask: NDArray[np.bool_], grid: Grid
) -> NDArray[np.float64]:
    """Weighted fit of harmonic polynomials to second degree, in the mask."""
    x, y, z = (
        c[mask]
        for c in np.meshgrid(
            *[np.arange(n) * h for n, h in zip(grid.shape, grid.voxel_size_mm, strict=True)], indexing="ij"
        )
    )
    x, y, z = x - x.mean(), y - y.mean(), z - z.mean()
    terms = np.stack([np.ones_like(x), x, y, z, x * y, y * z, x * z, x**2 - y**2, 2 * z**2 - x**2 - y**2], axis=1)
    w = weights[mask].astype(float)
    return terms @ np.linalg.lstsq(w[:, None] * terms, w * total[mask], rcond=None)[0]


def test_pdf_takes_the_shim_and_refuses_a_full_mask() -> None:
    scan = head((2.0, 2.0, 2.0))
    p = np.meshgrid(*[np.arange(n, dtype=float) for n in scan.grid.shape], indexing="ij")
    shim = (0.01 * p[0] - 0.02 * p[1] + 0.001 * p[0] * p[2]).astype(np.float32)
    result = pdf(shim, mask=scan.mask, grid=scan.grid)
    assert np.abs(result.field_ppm).max() < 1e-5
    with pytest.raises(ValueError, match="margin"):
        grid = Grid((8, 8, 8), (1.0, 1.0, 1.0))
        pdf(np.zeros(grid.shape, np.float32), mask=np.ones(grid.shape, bool), grid=grid, params=PdfParameters(0.0))
    with pytest.raises(ValueError, match="weights"):
        pdf(shim, mask=scan.mask, grid=scan.grid, weights=-np.ones(shape=scan.grid.shape, dtype=np.float32))


def test_sharp_is_vsharp_with_one_sphere_where_it_fits() -> None:
    scan = head((2.0, 2.0, 2.0))
    one = sharp(scan.total_ppm, mask=scan.mask, grid=scan.grid, params=SharpParameters(radius_mm=6.0))
    weights = fourier.sphere(6.0, scan.grid.voxel_size_mm)
    total = np.where(scan.mask, scan.total_ppm, 0).astype(float)
    filtered = np.where(one.mask, total - ndimage.convolve(total, weights, mode="constant"), 0)
    again = one.field_ppm - ndimage.convolve(one.field_ppm.astype(float), weights, mode="constant")
    deep = erode(one.mask, 8.0, scan.grid.voxel_size_mm)
    assert np.corrcoef(again[deep], filtered[deep])[0, 1] > 0.99
