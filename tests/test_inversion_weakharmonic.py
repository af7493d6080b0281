"""Weak-harmonic inversion: against a dense minimiser, blind to harmonic fields, and robust to outliers."""

from collections.abc import Iterator
from dataclasses import replace

import numba
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import fft, ndimage, optimize

from qsmals.interfaces.susceptibility import _adapted
from qsmals.recon import fourier
from qsmals.recon.background import BACKGROUND
from qsmals.recon.dipole import dipole_field, dipole_kernel, voxel_dipole_kernel
from qsmals.recon.grid import Grid
from qsmals.recon.inversion.solution import ONE_STEP, Susceptibility, brain_field
from qsmals.recon.inversion.tv import tv
from qsmals.recon.inversion.weakharmonic import WEAK_HARMONIC, WeakHarmonicParameters, weak_harmonic
from tests.inversion_phantom import TILTED, blocks, divergence, ellipsoid, folded_rim, relative_error

GRID = Grid((36, 33, 30), (1.0, 1.0, 1.0), TILTED)
PLAIN = WeakHarmonicParameters(reweightings=0)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small volumes only lose time to threads."""
    before = numba.get_num_threads()
    numba.set_num_threads(1)
    yield
    numba.set_num_threads(before)


def far_sources(grid: Grid, strength: float) -> NDArray[np.float32]:
    """Field of sources at the edges of the volume, outside the ellipsoid: harmonic in it."""
    chi = np.zeros(grid.shape, np.float32)
    chi[0, 4:9, 5:12] = strength
    chi[-2:, -6:, 3:8] = -strength
    chi[10:20, 0, -3:] = strength
    assert not (chi[ellipsoid(grid)]).any()
    return dipole_field(chi, grid, kernel=voxel_dipole_kernel)


def bowl(grid: Grid, height: float) -> NDArray[np.float32]:
    """Second-degree harmonic polynomial along B0, as a shim leaves it."""
    p = np.meshgrid(*[(np.arange(n) - n / 2) / n for n in grid.shape], indexing="ij")
    along = sum(x * b for x, b in zip(p, grid.b0_direction, strict=True))
    return (height * (3 * along**2 - sum(x**2 for x in p))).astype(np.float32)


def test_it_reaches_the_minimum_of_its_objective() -> None:
    """Against L-BFGS over susceptibility and the charges outside the mask that make the harmonic field."""
    grid = Grid((10, 8, 6), (1.0, 1.2, 1.5), TILTED)
    rng = np.random.default_rng(1)
    local = (0.05 * rng.standard_normal(grid.shape)).astype(np.float32)
    mask = np.ones(grid.shape, bool)
    mask[4:7, 3:5, :2] = False
    weights = np.where(mask, rng.uniform(0.5, 1.5, grid.shape), 0)
    weights /= weights[mask].mean()
    lam, corner = 2e-4, 1e-6
    kernel = dipole_kernel(grid).astype(float)
    potential = -1.0 / np.where(fourier.laplacian_kernel(grid) > 0, fourier.laplacian_kernel(grid), np.inf).astype(
        float
    )
    data = local.astype(float)

    def convolved(volume: NDArray[np.float64], spectrum: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(fft.irfftn(spectrum * fft.rfftn(volume), s=grid.shape))

    def objective(chi: NDArray[np.float64], harmonic: NDArray[np.float64], smooth: float) -> float:
        misfit = weights * (convolved(chi, kernel) + harmonic - data)
        slope = fourier.gradient(chi, grid.voxel_size_mm)
        return float(0.5 * np.sum(misfit**2) + lam * np.sqrt(slope**2 + smooth**2).sum())

    def value_and_slope(x: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        chi, charge = x[:-1].reshape(2, *grid.shape)
        harmonic = convolved(np.where(mask, 0, charge), potential) + x[-1]
        residual = weights**2 * (convolved(chi, kernel) + harmonic - data)
        slope = fourier.gradient(chi, grid.voxel_size_mm)
        modulus = np.sqrt(slope**2 + corner**2)
        by_chi = convolved(residual, kernel) - lam * divergence(slope / modulus, grid.voxel_size_mm)
        by_charge = np.where(mask, 0, convolved(residual, potential))
        return objective(chi, harmonic, corner), np.r_[by_chi.ravel(), by_charge.ravel(), residual.sum()]

    start = np.zeros(2 * local.size + 1)
    options = {"maxiter": 20000, "maxfun": 25000, "ftol": 1e-13, "gtol": 1e-8}
    best = optimize.minimize(value_and_slope, start, jac=True, method="L-BFGS-B", options=options)
    params = replace(
        PLAIN, regularisation=lam, padding_mm=0.0, tolerance=1e-7, max_iterations=4000, gradient_penalty=50.0
    )
    found = weak_harmonic(local, mask=mask, grid=grid, weights=weights.astype(np.float32), params=params)
    # the method gives the susceptibility in the mask; the rest of both is what fits it best
    fixed = np.r_[mask.ravel(), np.zeros(local.size + 1, bool)]
    start[: local.size] = found.chi_ppm.ravel()

    def with_found(x: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        value, slope = value_and_slope(x)
        return value, np.where(fixed, 0, slope)

    rest = optimize.minimize(with_found, start, jac=True, method="L-BFGS-B", options=options)
    assert best.fun <= rest.fun <= 1.01 * best.fun
    assert best.fun < 0.8 * objective(np.zeros(grid.shape), np.zeros(grid.shape), 0.0)


def test_a_harmonic_field_leaves_the_map_as_it_is() -> None:
    truth, mask = blocks(GRID), ellipsoid(GRID)
    local = dipole_field(truth, GRID)
    params = replace(PLAIN, regularisation=1e-5, tolerance=1e-4, max_iterations=400)
    alone = weak_harmonic(local, mask=mask, grid=GRID, params=params).chi_ppm
    assert relative_error(alone, truth, mask) < 0.1
    for background in (bowl(GRID, 0.1), far_sources(GRID, 10.0)):
        assert np.std(background[mask]) > np.std(local[mask])
        both = weak_harmonic(local + background, mask=mask, grid=GRID, params=params).chi_ppm
        assert relative_error(both, truth, mask) < 0.2
        assert relative_error(tv(local + background, mask=mask, grid=GRID).chi_ppm, truth, mask) > 0.6


def test_reweighting_restores_strong_edges() -> None:
    truth, mask = blocks(GRID), ellipsoid(GRID)
    local = dipole_field(truth, GRID)
    strong = WeakHarmonicParameters(regularisation=1e-3, tolerance=1e-3, max_iterations=200)
    plain = weak_harmonic(local, mask=mask, grid=GRID, params=replace(strong, reweightings=0)).chi_ppm
    weighted = weak_harmonic(local, mask=mask, grid=GRID, params=strong).chi_ppm
    high, low = truth == truth.max(), mask & (truth == 0)
    contrast = [float(chi[high].mean() - chi[low].mean()) for chi in (plain, weighted)]
    assert contrast[0] < contrast[1] <= 0.103
    assert abs(contrast[1] - 0.1) < 0.6 * abs(contrast[0] - 0.1)


def test_outliers_lose_their_weight() -> None:
    truth, mask = blocks(GRID), ellipsoid(GRID)
    rng = np.random.default_rng(2)
    bad = mask & (rng.random(GRID.shape) < 0.02)
    noise = 1e-3 * rng.standard_normal(GRID.shape) + np.where(bad, 0.2 * rng.standard_normal(GRID.shape), 0)
    local = (dipole_field(truth, GRID) + noise).astype(np.float32)
    robust = WeakHarmonicParameters(reweightings=3, tolerance=1e-3)
    trusting = replace(robust, outlier_factor=1e6)
    errors = [
        relative_error(weak_harmonic(local, mask=mask, grid=GRID, params=p).chi_ppm, truth, mask)
        for p in (robust, trusting)
    ]
    assert errors[0] < 0.7 * errors[1]


def test_input_is_kept_and_runs_are_equal() -> None:
    mask = ellipsoid(GRID)
    local = dipole_field(blocks(GRID), GRID)
    weights = np.ones(GRID.shape, np.float32)
    before = local.copy(), mask.copy(), weights.copy()
    runs = [weak_harmonic(local, mask=mask, grid=GRID, weights=weights) for _ in range(2)]
    np.testing.assert_array_equal(runs[0].chi_ppm, runs[1].chi_ppm)
    for kept, now in zip(before, (local, mask, weights), strict=True):
        np.testing.assert_array_equal(kept, now)
    assert runs[0].convergence.converged and runs[0].convergence.iterations > 30


def test_more_than_the_field_of_the_mask_is_not_needed() -> None:
    """What lies outside the mask has no influence, NaN there included."""
    mask = ellipsoid(GRID)
    local = dipole_field(blocks(GRID), GRID)
    garbage = np.where(mask, local, np.nan).astype(np.float32)
    a, b = (weak_harmonic(f, mask=mask, grid=GRID).chi_ppm for f in (local, garbage))
    np.testing.assert_array_equal(a, b)


def test_bad_parameters_are_refused() -> None:
    mask = ellipsoid(GRID)
    for bad in (
        {"regularisation": 0.0},
        {"harmonic_penalty": -1.0},
        {"reweight_every": 0},
        {"reweightings": -1},
        {"max_iterations": 20, "reweightings": 2},
    ):
        with pytest.raises(ValueError, match=r"positive|need more than"):
            weak_harmonic(blocks(GRID), mask=mask, grid=GRID, params=replace(PLAIN, **bad))


def test_regularisation_follows_the_noise() -> None:
    mask = ellipsoid(GRID)
    local = dipole_field(blocks(GRID), GRID)
    noise = np.where(mask, np.float32(1.6e-3), np.float32(np.inf))
    params = replace(PLAIN, max_iterations=5)
    twice = replace(params, regularisation=2 * params.regularisation)
    by_noise = weak_harmonic(local, mask=mask, grid=GRID, noise_ppm=noise, params=params).chi_ppm
    expected = weak_harmonic(local, mask=mask, grid=GRID, params=twice).chi_ppm
    np.testing.assert_allclose(by_noise, expected, atol=1e-6)
    quiet = weak_harmonic(local, mask=mask, grid=GRID, noise_ppm=noise / 1e6, params=params).chi_ppm
    least = replace(params, regularisation=params.regularisation * params.least_noise_ppm / params.reference_noise_ppm)
    expected = weak_harmonic(local, mask=mask, grid=GRID, params=least).chi_ppm
    np.testing.assert_allclose(quiet, expected, atol=1e-6)
    assert np.abs(by_noise - quiet).max() > 1e-3
    told = weak_harmonic(local, mask=mask, grid=GRID, noise_ppm=noise, params=params).adapted
    assert told == pytest.approx({"regularisation_mm": 2 * params.regularisation, "noise_ppm": 1.6e-3})
    assert not weak_harmonic(local, mask=mask, grid=GRID, noise_ppm=4 * noise, params=params).notes
    (note,) = weak_harmonic(local, mask=mask, grid=GRID, noise_ppm=20 * noise, params=params).notes
    assert "32.0 ppb" in note and "40 times" in note and "echoes disagree" in note
    with pytest.raises(ValueError, match="noise"):
        weak_harmonic(local, mask=mask, grid=GRID, noise_ppm=noise[1:], params=params)


def test_the_brains_own_field_is_found_in_that_of_all_sources() -> None:
    """Sources around the brain, inside and outside the mask, are no part of it."""
    mask = ellipsoid(GRID)
    brain = ndimage.binary_erosion(mask, iterations=3)
    chi = blocks(GRID) * brain
    chi -= np.where(brain, chi[brain].mean(), 0).astype(np.float32)
    around = np.where(mask & ~brain, np.float32(0.05), np.float32(0))
    total = dipole_field(chi + around, GRID) + far_sources(GRID, 10.0) + bowl(GRID, 0.1)
    params = WeakHarmonicParameters(regularisation=2e-5, tolerance=1e-4, max_iterations=300)
    found = weak_harmonic(total, mask=mask, grid=GRID, params=params)
    own = dipole_field(chi, GRID)
    error = brain_field(found, brain, GRID) - own
    assert error[brain].std() < 0.3 * own[brain].std() < 0.3 * (total - own)[brain].std()
    with pytest.raises(ValueError, match="empty"):
        brain_field(found, np.zeros_like(brain), GRID)


@pytest.mark.parametrize("noise_ppm", [0.0, 8e-4])
def test_the_number_of_iterations_is_in_effect_fixed(noise_ppm: float) -> None:
    """The tolerance, long reached, ends only the iterations after the last period of reweighting."""
    mask, noise = ellipsoid(GRID), noise_ppm * np.random.default_rng(4).standard_normal(GRID.shape)
    local = (dipole_field(blocks(GRID), GRID) + noise).astype(np.float32)
    told = np.full(GRID.shape, noise_ppm, np.float32)
    params = WeakHarmonicParameters()
    assert params.least_iterations == params.reweight_every * (params.reweightings + 1) == 75
    for tolerance, most, iterations in ((0.002, 150, 75), (0.5, 150, 75), (1e-5, 80, 80)):
        limits = replace(params, tolerance=tolerance, max_iterations=most)
        found = weak_harmonic(local, mask=mask, grid=GRID, noise_ppm=told, params=limits).convergence
        assert found.iterations == iterations and found.converged == (iterations == 75)
    words = WEAK_HARMONIC.sentence.format(**vars(params) | dict(params.words))
    assert "75 iterations, and up to 150 while the relative change was above 0.002" in words
    assert "75" in WeakHarmonicParameters.__dataclass_fields__["tolerance"].metadata["source"]


def test_the_report_says_what_a_parameter_followed_in_the_methods_words() -> None:
    found = weak_harmonic(dipole_field(blocks(GRID), GRID), mask=ellipsoid(GRID), grid=GRID, params=PLAIN)
    line = _adapted(found.adapted, found.adapted_to)[0]
    assert line["found"] == "regularisation 5e-05 mm, noise 0.0008 ppm"
    assert "regularisation" in line["evidence"] and "noise of the total field" in line["evidence"]
    assert _adapted({"threshold_hz": 3.0}, "the threshold follows the fluid") == [
        {"what": "dipole inversion", "found": "threshold 3 hz", "evidence": "the threshold follows the fluid"}
    ]
    assert _adapted({}, "") == []


@pytest.mark.parametrize(("background", "largest_ppb"), [("lbv", 0.5), ("pdf", 3.0)])
@pytest.mark.parametrize(("size", "b0"), [((1.0, 1.0, 1.0), (0.0, 0.0, 1.0)), ((1.0, 1.0, 1.5), TILTED)])
def test_the_cortex_at_the_rim_is_right_with_defaults(
    size: tuple[float, float, float], b0: tuple[float, float, float], background: str, largest_ppb: float
) -> None:
    """Folded cortex of 40 ppb in the outermost 4 mm of the brain, beside air, in a shim of the second order."""
    head = folded_rim(size, b0)
    local = BACKGROUND[background].function(head.total, mask=head.mask, grid=head.grid)
    found = weak_harmonic(local.field_ppm, mask=local.mask, grid=head.grid).chi_ppm
    assert not (head.brain & ~local.mask).any()
    error = 1000 * (found - head.chi)
    assert abs(error[head.cortex].mean() - error[head.brain].mean()) < largest_ppb
    assert error[head.brain & ~head.rim].std() < 2


def test_boundary_values_cost_no_voxel_of_the_brain() -> None:
    """The field of the brain alone: LBV leaves nothing on its outermost voxels, and they have a map all the same."""
    head = folded_rim((1.0, 1.0, 1.0), (0.0, 0.0, 1.0))
    local = BACKGROUND["lbv"].function(head.total, mask=head.brain & head.mask, grid=head.grid)
    assert local.known is not None and local.mask.sum() < 0.9 * local.known.sum()
    common = {"mask": local.known, "grid": head.grid}
    error = {}
    for name, where in (("inside", {"harmonic": local.mask}), ("everywhere", {})):
        chi = weak_harmonic(local.field_ppm, **common, **where).chi_ppm
        difference = 1000 * (chi - head.chi)[local.known]
        error[name] = float(np.std(difference))
        if name == "inside":
            assert abs(difference[head.cortex[local.known]].mean() - difference.mean()) < 2
    assert error["inside"] < 5 and error["inside"] < error["everywhere"]
    with pytest.raises(ValueError, match="must lie in the mask"):
        weak_harmonic(local.field_ppm, mask=local.mask, grid=head.grid, harmonic=local.known)


def test_the_local_field_of_a_slab_has_no_cyclic_images() -> None:
    """The brain reaches the first and the last slice."""
    grid, tall = Grid((36, 33, 14), (1.0, 1.0, 1.0)), Grid((36, 33, 98), (1.0, 1.0, 1.0))
    slab = slice(42, 56)
    brain = ellipsoid(Grid((36, 33, 30), (1.0, 1.0, 1.0)))[:, :, 8:22]
    chi = np.where(brain, np.random.default_rng(3).standard_normal(grid.shape), 0) + 0.3 * blocks(grid)
    chi = np.where(brain, chi - chi[brain].mean(), 0).astype(np.float32)
    alone = np.zeros(tall.shape, np.float32)
    alone[:, :, slab] = chi
    own = dipole_field(alone, tall)[:, :, slab]
    error = brain_field(Susceptibility(chi, ONE_STEP), brain, grid) - own
    assert error[brain].std() < 0.02 * own[brain].std()
