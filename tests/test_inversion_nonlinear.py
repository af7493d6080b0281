"""Nonlinear dipole inversions: each against a minimisation of its own objective, on known sources and on jumps."""

from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from typing import Any

import numba
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import fft, optimize

from qsmals.recon import fourier
from qsmals.recon.background import BACKGROUND
from qsmals.recon.background.spheres import sphere_interior
from qsmals.recon.dipole import dipole_field, dipole_kernel, voxel_dipole_kernel
from qsmals.recon.grid import Grid
from qsmals.recon.inversion import nonlinearweakharmonic
from qsmals.recon.inversion.medi import MEDI, edges, medi, reweighted
from qsmals.recon.inversion.medi0 import MEDI_0, medi_0
from qsmals.recon.inversion.nonlinear import nearest_misfit, update_phase
from qsmals.recon.inversion.nonlineartgv import NONLINEAR_TGV, adjoint_bend, update_bend
from qsmals.recon.inversion.nonlineartv import NONLINEAR_TV
from qsmals.recon.inversion.nonlinearweakharmonic import LARGEST_GRADIENT_WEIGHT, NONLINEAR_WEAK_HARMONIC
from qsmals.recon.inversion.solution import brain_field
from qsmals.recon.mask.ventricles import ventricles
from qsmals.recon.method import Method
from tests.inversion_phantom import TILTED, blocks, divergence, ellipsoid, folded_rim, relative_error

TIGHT = {"tolerance": 1e-6, "max_iterations": 1500, "gradient_penalty": 50.0, "field_penalty": 3.0}
METHODS = {method.name: method for method in (NONLINEAR_TV, NONLINEAR_TGV, MEDI)}

Array = NDArray[np.float64]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small volumes only lose time to threads."""
    before = numba.get_num_threads()
    numba.set_num_threads(1)
    yield
    numba.set_num_threads(before)


@pytest.fixture(params=METHODS.values(), ids=METHODS)
def method(request: pytest.FixtureRequest) -> Method:
    found = request.param
    assert isinstance(found, Method)
    return found


def test_step_of_the_field_finds_the_least_of_all_minima() -> None:
    """On a fine grid of phases, also where the weight outdoes the penalty and there are several minima."""
    rng = np.random.default_rng(0)
    t = np.linspace(-20, 20, 400_001)
    for _ in range(60):
        weight, penalty, misfit = rng.uniform(0, 4), rng.uniform(0.1, 2), rng.uniform(-12, 12)

        def cost(t: Any, weight: float = weight, penalty: float = penalty, misfit: float = misfit) -> Any:
            return weight * (1 - np.cos(t)) + penalty / 2 * (t - misfit) ** 2

        assert cost(nearest_misfit(misfit, weight, penalty)) <= cost(t).min() + 1e-4


def test_whole_turns_of_the_phase_have_no_effect() -> None:
    rng = np.random.default_rng(1)
    explained, local = (0.1 * rng.standard_normal((2, 5, 6, 7))).astype(np.float32)
    power = rng.uniform(0, 2, local.shape).astype(np.float32)
    power[0] = 0
    turns = (2 * np.pi / 15 * rng.integers(-2, 3, local.shape)).astype(np.float32)
    results = []
    for data in (local, local + turns):
        multiplier, target = np.zeros_like(local), np.empty_like(local)
        update_phase(explained, data, power, 0.3, 15.0, multiplier, target)
        np.testing.assert_allclose(target[0], explained[0], atol=1e-7)
        # where the step is at rest its derivative vanishes
        field = explained - multiplier
        slope = power / 15 * np.sin(15.0 * (field.astype(float) - data))
        np.testing.assert_allclose(slope, 0.3 * multiplier, atol=1e-5)
        results.append(target)
    np.testing.assert_allclose(*results, atol=1e-6)


def test_bend_and_its_adjoint_are_a_pair() -> None:
    rng = np.random.default_rng(2)
    slope = rng.standard_normal((3, 6, 5, 7)).astype(np.float32)
    tensor = rng.standard_normal((6, 6, 5, 7)).astype(np.float32)
    inverse_size = (1 / np.array([1.0, 1.2, 1.5])).astype(np.float32)
    bend, back = np.zeros_like(tensor), np.empty_like(slope)
    update_bend(slope, np.float32(0), inverse_size, np.zeros_like(tensor), bend)
    adjoint_bend(tensor, inverse_size, back)
    twice = np.array([1, 1, 1, 2, 2, 2])[:, None, None, None]
    assert np.sum(twice * bend * tensor, dtype=float) == pytest.approx(np.sum(slope * back, dtype=float), rel=1e-5)
    expected: Any = symmetric_gradient(slope, (1.0, 1.2, 1.5))
    np.testing.assert_allclose(bend, expected, atol=1e-5)


def test_a_linear_slope_is_bent_only_at_the_border() -> None:
    """The derivative of a vector field that is linear in position is a constant tensor."""
    matrix = np.array([[0.3, 0.1, -0.2], [0.1, 0.5, 0.4], [-0.2, 0.4, -0.7]])
    size = np.array([1.0, 1.2, 1.5])
    position = np.stack(np.meshgrid(*[np.arange(5) * h for h in size], indexing="ij"))
    slope = np.einsum("ab,b...->a...", matrix, position).astype(np.float32)
    bend = np.zeros((6, 5, 5, 5), np.float32)
    update_bend(slope, np.float32(0), (1 / size).astype(np.float32), np.zeros_like(bend), bend)
    expected = [0.3, 0.5, -0.7, 0.1, -0.2, 0.4]
    np.testing.assert_allclose(bend[:, 2, 2, 2], expected, atol=1e-5)


# ----------------------------------------------------------------------------------------- objectives


def backward(volume: Array, axis: int, size: float) -> Array:
    return (volume - np.roll(volume, 1, axis)) / size


def backward_adjoint(volume: Array, axis: int, size: float) -> Array:
    return (volume - np.roll(volume, -1, axis)) / size


def symmetric_gradient(v: Any, size: tuple[float, ...]) -> Array:
    pairs = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))
    return np.stack([(backward(v[b], a, size[a]) + backward(v[a], b, size[b])) / 2 for a, b in pairs])


class Objective:
    """What a method minimises, with corners rounded, on the whole of a small periodic grid."""

    grid = Grid((8, 6, 5), (1.0, 1.2, 1.5), TILTED)

    def __init__(self, lam: float, scale: float, corner: float) -> None:
        rng = np.random.default_rng(3)
        self.local = (0.03 * rng.standard_normal(self.grid.shape)).astype(np.float32)
        self.weights = rng.uniform(0.5, 1.5, self.grid.shape).astype(np.float32)
        self.power = (self.weights / self.weights.mean()).astype(float) ** 2
        self.kernel = dipole_kernel(self.grid).astype(float)
        self.lam, self.scale, self.corner = lam, scale, corner

    def data(self, chi: Array) -> tuple[float, Array]:
        misfit = self.scale * (fft.irfftn(self.kernel * fft.rfftn(chi), s=chi.shape) - self.local)
        value = np.sum(self.power * (1 - np.cos(misfit))) / self.scale**2
        pulled = fft.irfftn(self.kernel * fft.rfftn(self.power * np.sin(misfit)), s=chi.shape)
        return float(value), pulled / self.scale

    def rounded(self, x: Any) -> tuple[Array, Array]:
        modulus = np.sqrt(x**2 + self.corner**2)
        return modulus - self.corner, x / modulus

    def variation(self, chi: Any, part: Any = 1.0) -> tuple[float, Any]:
        value, sign = self.rounded(fourier.gradient(chi, self.grid.voxel_size_mm))
        back: Any = part * sign
        return self.lam * (part * value).sum(), -self.lam * divergence(back, self.grid.voxel_size_mm)

    def least(self, function: Callable[[Any], tuple[float, Any]], size: int, start: Any = None) -> Array:
        def flat(x: Array) -> tuple[float, Array]:
            value, slope = function(x)
            return value, slope.ravel()

        steps = 4000 if start is None else 200
        options = {"maxiter": steps, "maxfun": 5000, "ftol": 1e-13, "gtol": 1e-9}
        first = np.zeros(size) if start is None else start
        best = optimize.minimize(flat, first, jac=True, method="L-BFGS-B", options=options)
        return np.asarray(best.x)

    def run(self, method: Method, **settings: Any) -> Array:
        params = replace(
            method.make_parameters(), regularisation=self.lam, rad_per_ppm=self.scale, padding_mm=0.0, **settings
        )
        mask = np.ones(self.grid.shape, bool)
        chi = method.function(self.local, mask=mask, grid=self.grid, weights=self.weights, params=params).chi_ppm
        return np.asarray(chi, dtype=float)


def test_nonlinear_tv_reaches_the_minimum_of_its_objective() -> None:
    problem = Objective(lam=1e-3, scale=15.0, corner=1e-6)

    def value(x: Any) -> tuple[float, Any]:
        chi = x.reshape(problem.grid.shape)
        a, b = problem.data(chi), problem.variation(chi)
        return a[0] + b[0], a[1] + b[1]

    found = problem.run(NONLINEAR_TV, **TIGHT)
    reached, reference = value(found)[0], value(problem.least(value, found.size))[0]
    assert reference * 0.995 <= reached <= reference * 1.002
    assert reached < 0.9 * value(0 * found)[0]


def test_nonlinear_tgv_reaches_the_minimum_of_its_objective() -> None:
    problem = Objective(lam=1e-3, scale=15.0, corner=1e-6)
    size, second = problem.grid.voxel_size_mm, 2.0
    shape = (4, *problem.grid.shape)
    twice = np.array([1, 1, 1, 2, 2, 2])[:, None, None, None]

    def value(x: Any) -> tuple[float, Any]:
        chi, v = x.reshape(shape)[0], x.reshape(shape)[1:]
        total, slope = problem.data(chi)
        first, sign = problem.rounded(fourier.gradient(chi, size) - v)
        bent, turn = problem.rounded(symmetric_gradient(v, size))
        total += problem.lam * (first.sum() + second * (twice * bent).sum())
        rows = ((0, 3, 4), (3, 1, 5), (4, 5, 2))
        back = [sum(backward_adjoint(turn[c], b, size[b]) for b, c in enumerate(row)) for row in rows]
        slope = slope - problem.lam * divergence(np.asarray(sign), size)
        return total, np.stack([slope, *(problem.lam * (second * np.stack(back) - sign))])

    found = problem.run(NONLINEAR_TGV, **TIGHT)

    def value_of_slope(v: Any) -> tuple[float, Any]:  # the method returns chi alone: the best v for it
        total, slope = value(np.concatenate([found.ravel(), v]))
        return total, slope[1:]

    best = problem.least(value_of_slope, 3 * found.size)
    reached, reference = value_of_slope(best)[0], value(problem.least(value, 4 * found.size))[0]
    assert reference * 0.995 <= reached <= reference * 1.005
    assert reached < 0.9 * value(np.zeros(4 * found.size))[0]


def test_nonlinear_weak_harmonic_reaches_the_minimum_of_its_objective() -> None:
    """In FANSI's units: phase in radians, differences and Laplacians of voxels, and weights that have edges."""
    problem = Objective(lam=5e-3, scale=15.0, corner=1e-6)
    edge = float(np.cbrt(np.prod(problem.grid.voxel_size_mm)))
    x, y, z = (size / edge for size in problem.grid.voxel_size_mm)
    shape, size, beta = problem.grid.shape, (x, y, z), 7.0
    mask = np.ones(shape, bool)
    mask[5:, 3:, :2] = False
    weights = np.where(mask, problem.weights, 0) / problem.weights[mask].mean()
    power, phase = weights**2, problem.scale * problem.local.astype(float)
    slope = np.abs(fourier.gradient(weights.astype(np.float32), size)).astype(float)
    relative = np.where(slope > 0, slope.mean() / np.maximum(slope, 1e-12), LARGEST_GRADIENT_WEIGHT)
    relative = np.minimum(relative, LARGEST_GRADIENT_WEIGHT)
    squared = fourier.laplacian_kernel(Grid(shape, size)).astype(float)

    def convolved(volume: Any, spectrum: Any) -> Array:
        return np.asarray(fft.irfftn(spectrum * fft.rfftn(volume), s=shape))

    def value(v: Any) -> tuple[float, Any]:
        chi, h = v.reshape(2, *shape)
        misfit = convolved(chi, problem.kernel) + h - phase
        bent = np.where(mask, convolved(h, -squared), 0)
        modulus, sign = problem.rounded(fourier.gradient(chi, size))
        total = (
            np.sum(power * (1 - np.cos(misfit))) + problem.lam * (relative * modulus).sum() + beta / 2 * (bent**2).sum()
        )
        pulled = power * np.sin(misfit)
        by_chi = convolved(pulled, problem.kernel) - problem.lam * divergence(np.asarray(relative * sign), size)
        return float(total), np.stack([by_chi, pulled + beta * convolved(bent, -squared)])

    # where equal weights all but forbid a difference, the reference finds it hard to move
    relative = np.minimum(relative, 50.0)
    params = NONLINEAR_WEAK_HARMONIC.make_parameters({
        "regularisation": problem.lam, "gradient_penalty": 0.1, "field_penalty": 3.0, "harmonic_weight": beta,
        "harmonic_penalty": 0.5, "tolerance": 1e-6, "max_iterations": 1000,
    })  # fmt: skip
    data = [a.astype(np.float32) for a in (phase, power, relative)]
    found = nonlinearweakharmonic._solve(*data, mask, Grid(shape, size, TILTED), params)[0].astype(float)

    def value_of_harmonic(h: Any) -> tuple[float, Any]:  # the method returns the susceptibility alone
        total, back = value(np.concatenate([found.ravel(), h]))
        return total, back[1]

    best = problem.least(value_of_harmonic, found.size, start=np.zeros(found.size))
    best = problem.least(value_of_harmonic, found.size, start=best)
    reached = value_of_harmonic(best)[0]
    both = np.concatenate([found.ravel(), best])
    assert value(problem.least(value, both.size, start=both))[0] >= 0.995 * reached
    assert reached < 0.9 * value(np.zeros(both.size))[0]


@pytest.mark.parametrize(
    ("size", "b0", "background", "fat_ppm", "part"),
    [
        ((1.0, 1.0, 1.0), (0.0, 0.0, 1.0), "v-sharp", 0.0, 0.75),
        ((1.0, 1.0, 1.5), TILTED, "v-sharp", 0.0, 0.9),
        ((1.0, 1.0, 1.5), TILTED, "lbv", 0.3, 0.5),
    ],
)
def test_the_local_field_of_nonlinear_weak_harmonic_is_better_than_the_removals(
    size: tuple[float, float, float], b0: tuple[float, float, float], background: str, fat_ppm: float, part: float
) -> None:
    """What V-SHARP took too much of, and what LBV left of fat around the brain, is harmonic."""
    head = folded_rim(size, b0, fat_ppm)
    removal = BACKGROUND[background]
    mask = head.mask if removal.beyond_brain else head.brain & head.away
    local = removal.function(head.total, mask=mask, grid=head.grid)
    found = NONLINEAR_WEAK_HARMONIC.function(local.field_ppm, mask=local.mask, grid=head.grid)
    brain, own = local.mask & head.brain, dipole_field(head.chi, head.grid)
    assert NONLINEAR_WEAK_HARMONIC.finds_background
    errors = [(f - own)[brain].std() for f in (brain_field(found, brain, head.grid), local.field_ppm)]
    assert errors[0] < part * errors[1]


def test_nonlinear_weak_harmonic_takes_boundary_values() -> None:
    """On the outermost voxels of the brain LBV leaves what is harmonic inside of them."""
    head = folded_rim((1.5, 1.5, 1.5), (0.0, 0.0, 1.0))
    local = BACKGROUND["lbv"].function(head.total, mask=head.brain & head.away, grid=head.grid)
    assert local.known is not None
    errors = [
        np.std((NONLINEAR_WEAK_HARMONIC.function(local.field_ppm, mask=local.known, grid=head.grid, **where).chi_ppm
                - head.chi)[local.mask])
        for where in ({"harmonic": local.mask}, {})
    ]  # fmt: skip
    assert errors[0] < errors[1]
    with pytest.raises(ValueError, match="must lie in the mask"):
        NONLINEAR_WEAK_HARMONIC.function(local.field_ppm, mask=local.mask, grid=head.grid, harmonic=local.known)


def test_nonlinear_weak_harmonic_leaves_unexplained_what_is_not_harmonic() -> None:
    """Field = that of the map + one that is nearly harmonic + the residual, to the nearest turn of the phase."""
    grid = Grid((24, 22, 20), (1.0, 1.0, 1.0), TILTED)
    truth, mask = blocks(grid), ellipsoid(grid)
    noise = 1e-3 * np.random.default_rng(6).standard_normal(grid.shape)
    local = (dipole_field(truth, grid) + noise).astype(np.float32)
    params = NONLINEAR_WEAK_HARMONIC.make_parameters({"rad_per_ppm": 15.0, "padding_mm": 0.0})
    found = NONLINEAR_WEAK_HARMONIC.function(local, mask=mask, grid=grid, params=params)
    assert found.residual_ppm is not None and not found.residual_ppm[~mask].any()
    assert 0.2e-3 < found.residual_ppm[mask].std() < 2e-3
    turned = local.copy()
    turned[12, 11, 10] += 2 * np.pi / 15
    again = NONLINEAR_WEAK_HARMONIC.function(turned, mask=mask, grid=grid, params=params)
    np.testing.assert_allclose(again.residual_ppm, found.residual_ppm, atol=1e-5)


def test_gradient_weights_are_the_mean_difference_over_each() -> None:
    grid = Grid((7, 6, 5), (1.0, 1.0, 1.0))
    image = np.random.default_rng(9).uniform(0, 1, grid.shape).astype(np.float32)
    found = nonlinearweakharmonic.gradient_weights(image, grid, grid.shape)
    slope = np.abs(fourier.gradient(image, grid.voxel_size_mm))
    np.testing.assert_allclose(found * slope, slope.mean(), rtol=1e-4)
    image[:] = 0
    image[2, 2, 2] = 1
    wide = nonlinearweakharmonic.gradient_weights(image, grid, (9, 8, 8))
    assert wide.shape == (3, 9, 8, 8)
    assert wide.max() == pytest.approx(LARGEST_GRADIENT_WEIGHT)
    assert wide[0, 2, 2, 2] == pytest.approx(6 / (3 * image.size))


@pytest.mark.parametrize("fluid", [False, True])
def test_medi_reaches_the_minimum_of_its_objective(fluid: bool) -> None:
    problem = Objective(lam=1e-3, scale=15.0, corner=1e-6)
    mask = np.ones(problem.grid.shape, bool)
    csf = np.zeros_like(mask)
    csf[2:5, 1:4, 1:3] = fluid
    image = np.random.default_rng(4).uniform(0, 1, mask.shape).astype(np.float32)
    part = ~edges(image, mask, problem.grid, 0.3)
    charge = 0.7

    def value(x: Any) -> tuple[float, Any]:
        chi = x.reshape(mask.shape)
        a, b = problem.data(chi), problem.variation(chi, part)
        total, slope = a[0] + b[0], a[1] + b[1]
        if fluid:
            rest = np.where(csf, chi - chi[csf].mean(), 0)
            total, slope = total + charge / 2 * (rest**2).sum(), slope + charge * rest
        return total, slope

    params = MEDI.make_parameters({"regularisation": 1e-3, "rad_per_ppm": 15.0, "csf_weight": charge} | TIGHT)
    tight = replace(params, padding_mm=0.0)
    found = medi(
        problem.local, mask=mask, grid=problem.grid, weights=problem.weights, params=tight, magnitude=image,
        csf_mask=csf if fluid else None,
    ).chi_ppm.astype(float)  # fmt: skip
    reached, reference = value(found)[0], value(problem.least(value, found.size))[0]
    assert reference * 0.9999 <= reached <= reference * 1.001
    assert reached < 0.9 * value(0 * found)[0]
    assert not fluid or abs(found[csf].mean()) < 1e-6


def spherical_mean(grid: Grid, radius_mm: float) -> Array:
    """Matrix of the cyclic mean over a sphere, voxel by voxel of its weights."""
    weights = fourier.sphere(radius_mm, grid.voxel_size_mm)
    units = np.eye(int(np.prod(grid.shape))).reshape(-1, *grid.shape)
    total = np.zeros_like(units)
    for place in np.ndindex(weights.shape):
        shift = tuple(int(p - n // 2) for p, n in zip(place, weights.shape, strict=True))
        total += weights[place] * np.roll(units, shift, axis=(1, 2, 3))
    return np.asarray(total.reshape(len(units), -1).T)


def test_medi_reaches_the_minimum_of_its_objective_less_spherical_means() -> None:
    """The data term of the consensus paper's MEDI, with matrices of its sphere and its dipole."""
    problem, radius = Objective(lam=1e-4, scale=15.0, corner=1e-5), 1.3
    grid, size = problem.grid, problem.local.size
    mask = np.ones(grid.shape, bool)
    mask[0, :, 0] = False
    mean = spherical_mean(grid, radius)
    np.testing.assert_allclose(mean, mean.T, atol=1e-12)
    units = np.eye(size).reshape(size, *grid.shape)
    dipole = np.stack([fft.irfftn(problem.kernel * fft.rfftn(u), s=grid.shape).ravel() for u in units], axis=1)
    less = dipole @ (np.eye(size) - mean)
    np.testing.assert_allclose(less, less.T, atol=1e-7)  # its own adjoint, as the descent takes it to be

    inner = sphere_interior(mask, radius, grid)
    assert 20 < inner.sum() < mask.sum()
    given = np.where(mask, problem.weights / problem.weights[mask].mean(), 0).ravel().astype(float)
    variance = np.divide(1, given**2, out=np.zeros(size), where=given > 0)
    weight = np.where(inner.ravel(), 1 / np.sqrt(np.maximum(variance + mean @ variance, 1e-12)), 0)
    weight /= weight[inner.ravel()].mean()
    local = np.where(mask, problem.local, 0).ravel().astype(float)
    local = np.where(inner.ravel(), local - mean @ local, 0)

    problem.kernel = fft.rfftn(less[:, 0].reshape(grid.shape)).real
    problem.power, given_field = np.square(weight).reshape(grid.shape), problem.local
    problem.local = local.reshape(grid.shape).astype(np.float32)

    def value(x: Any) -> tuple[float, Any]:
        (data, pulled), (rough, slope) = problem.data(x.reshape(grid.shape)), problem.variation(x.reshape(grid.shape))
        return data + rough, pulled + slope

    settings = {"regularisation": 1e-4, "rad_per_ppm": 15.0, "smv_radius_mm": radius, "edge_fraction": 0.0}
    params = replace(MEDI.make_parameters(settings | TIGHT), padding_mm=0.0)
    found = medi(given_field, mask=mask, grid=grid, weights=problem.weights, params=params)
    np.testing.assert_array_equal(found.mask, inner)

    def with_found(x: Any) -> tuple[float, Any]:  # the method gives the map in its mask: the best around it
        total, slope = value(np.where(inner, found.chi_ppm, x.reshape(grid.shape)))
        return total, np.where(inner, 0, slope)

    reached, reference = with_found(problem.least(with_found, size))[0], value(problem.least(value, size))[0]
    assert reference * 0.999 <= reached <= reference * 1.002
    assert reached < 0.9 * value(np.zeros(size))[0]


# -------------------------------------------------------------------------------------------- sources


@pytest.mark.parametrize(("size", "b0"), [((1.0, 1.0, 1.0), (0.0, 0.0, 1.0)), ((1.0, 1.0, 1.5), TILTED)])
def test_blocks_are_recovered_at_any_tilt_and_voxel(
    method: Method, size: tuple[float, float, float], b0: tuple[float, float, float]
) -> None:
    grid = Grid((24, 22, 20), size, b0)
    truth, mask = blocks(grid), ellipsoid(grid)
    local, weights = dipole_field(truth, grid), mask.astype(np.float32)
    before = local.copy(), mask.copy(), weights.copy()
    params = replace(method.make_parameters(), regularisation=3e-5)
    result = method.function(local, mask=mask, grid=grid, weights=weights, params=params)
    assert result.chi_ppm.dtype == np.float32 and result.chi_ppm.shape == grid.shape
    assert result.convergence.iterations == len(result.convergence.changes)
    assert result.convergence.converged
    assert relative_error(result.chi_ppm, truth, mask) < 0.1
    assert not result.chi_ppm[~mask].any()
    for array, kept in zip((local, mask, weights), before, strict=True):
        np.testing.assert_array_equal(array, kept)


def test_jumps_of_a_turn_do_no_harm(method: Method) -> None:
    grid = Grid((24, 22, 20), (1.0, 1.0, 1.0), TILTED)
    truth, mask = blocks(grid), ellipsoid(grid)
    rng = np.random.default_rng(5)
    params = method.make_parameters()
    local = dipole_field(truth, grid)
    turns = np.where(mask & (rng.random(mask.shape) < 0.03), rng.choice([-1, 1], mask.shape), 0)
    jumped = (local + turns * 2 * np.pi / params.rad_per_ppm).astype(np.float32)
    plain = method.function(local, mask=mask, grid=grid, params=params).chi_ppm
    found = method.function(jumped, mask=mask, grid=grid, params=params).chi_ppm
    error = relative_error(plain, truth, mask)
    assert error < 0.15
    assert relative_error(found, truth, mask) < error + 0.05
    linear = method.function(jumped, mask=mask, grid=grid, params=replace(params, rad_per_ppm=0.1)).chi_ppm
    assert relative_error(linear, truth, mask) > 1


def test_strong_sources_are_not_taken_for_jumps(method: Method) -> None:
    """A block of 2 ppm, whose field is many times what a turn of the phase makes after 19 ms."""
    grid = Grid((24, 22, 20), (1.0, 1.0, 1.0), TILTED)
    truth, mask = blocks(grid), ellipsoid(grid)
    truth[8:11, 12:15, 10:13] = 2.0
    local = dipole_field(truth, grid)
    assert np.abs(local).max() > 0.5
    assert relative_error(method.function(local, mask=mask, grid=grid).chi_ppm, truth, mask) < 0.2


def test_result_is_the_same_every_time(method: Method) -> None:
    grid = Grid((16, 15, 14), (1.0, 1.0, 1.0))
    local = dipole_field(blocks(grid), grid)
    runs = [method.function(local, mask=ellipsoid(grid), grid=grid).chi_ppm for _ in range(2)]
    np.testing.assert_array_equal(*runs)


# ---------------------------------------------------------------------------------------------- edges


def test_edges_are_the_largest_differences_inside_the_mask() -> None:
    grid = Grid((12, 11, 10), (1.0, 1.0, 2.0))
    image = np.random.default_rng(7).uniform(0, 1, grid.shape).astype(np.float32)
    mask = ellipsoid(grid)
    image[~mask] = np.nan
    found = edges(image, mask, grid, 0.3)
    inside = np.stack([mask & np.roll(mask, -1, axis) for axis in range(3)])
    assert found.sum() == pytest.approx(0.3 * inside.sum(), abs=2)
    assert not found[~inside].any()
    slope = np.abs(fourier.gradient(image, grid.voxel_size_mm))
    assert slope[found].min() >= slope[inside & ~found].max()
    assert not edges(np.ones_like(image), mask, grid, 0.3).any()
    assert not edges(image, np.zeros_like(mask), grid, 0.3).any()


def test_medi_profits_from_an_image_with_the_edges() -> None:
    grid = Grid((24, 22, 20), (1.0, 1.0, 1.0), TILTED)
    truth, mask = blocks(grid), ellipsoid(grid)
    noise = 0.004 * np.random.default_rng(8).standard_normal(grid.shape)
    local = (dipole_field(truth, grid) + noise).astype(np.float32)
    magnitude = (1 + 2 * truth).astype(np.float32)
    params = replace(MEDI.make_parameters(), regularisation=1e-3)
    with_edges = medi(local, mask=mask, grid=grid, params=params, magnitude=magnitude).chi_ppm
    without = medi(local, mask=mask, grid=grid, params=params).chi_ppm
    assert relative_error(with_edges, truth, mask) < 0.7 * relative_error(without, truth, mask)


# ----------------------------------------------------------------------------------------- bad inputs


def test_bad_input_is_refused(method: Method) -> None:
    grid = Grid((12, 10, 8), (1.0, 1.0, 1.0))
    local, mask = blocks(grid), np.ones(grid.shape, bool)
    with pytest.raises(ValueError, match="one shape"):
        method.function(local[1:], mask=mask, grid=grid)
    with pytest.raises(ValueError, match="empty"):
        method.function(local, mask=~mask, grid=grid)
    with pytest.raises(ValueError, match="weights"):
        method.function(local, mask=mask, grid=grid, weights=-np.ones(grid.shape, np.float32))
    local[0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        method.function(local, mask=mask, grid=grid)


def test_parameters_are_positive_and_documented(method: Method) -> None:
    grid = Grid((12, 10, 8), (1.0, 1.0, 1.0))
    local, mask = blocks(grid), np.ones(grid.shape, bool)
    defaults = method.make_parameters()
    for f in fields(method.parameters):
        assert f.metadata["unit"] and f.metadata["source"]
        if f.name in ("padding_mm", "edge_fraction", "medi_lambda", "smv_radius_mm", "merit"):
            continue
        with pytest.raises(ValueError, match="positive"):
            method.function(local, mask=mask, grid=grid, params=replace(defaults, **{f.name: 0}))
    with pytest.raises(ValueError, match="margin"):
        method.function(local, mask=mask, grid=grid, params=replace(defaults, padding_mm=-1.0))
    assert method.sentence.format(**vars(defaults) | dict(getattr(defaults, "words", {})))


def test_medi_refuses_bad_images() -> None:
    grid = Grid((12, 10, 8), (1.0, 1.0, 1.0))
    local, mask = blocks(grid), np.ones(grid.shape, bool)
    mask[0] = False
    image = np.ones(grid.shape, np.float32)
    with pytest.raises(ValueError, match="magnitude"):
        medi(local, mask=mask, grid=grid, magnitude=image[1:])
    with pytest.raises(ValueError, match="magnitude has NaN"):
        medi(local, mask=mask, grid=grid, magnitude=np.where(mask, np.nan, image).astype(np.float32))
    with pytest.raises(ValueError, match="fluid"):
        medi(local, mask=mask, grid=grid, csf_mask=mask[1:])
    with pytest.raises(ValueError, match="no voxel"):
        medi(local, mask=mask, grid=grid, csf_mask=~mask)
    with pytest.raises(ValueError, match="edge fraction"):
        medi(local, mask=mask, grid=grid, params=MEDI.make_parameters({"edge_fraction": 1.5}))


def test_medi_takes_its_own_lambda() -> None:
    """``lambda |W (exp(i D x) - exp(i phi))|^2 + |M grad x|_1`` over x in radians."""
    grid = Grid((16, 15, 14), (1.0, 1.0, 1.0), TILTED)
    mask, local = ellipsoid(grid), dipole_field(blocks(grid), grid)
    params = MEDI.make_parameters({"medi_lambda": 250.0, "rad_per_ppm": 4.0, "regularisation": 9.0})
    plain = replace(params, medi_lambda=0.0, regularisation=1 / (2 * 4.0 * 250.0))
    maps = [medi(local, mask=mask, grid=grid, params=p).chi_ppm for p in (params, plain)]
    np.testing.assert_array_equal(*maps)
    with pytest.raises(ValueError, match="0 or more"):
        medi(local, mask=mask, grid=grid, params=replace(params, medi_lambda=-1.0))


def test_medi_without_spherical_means_ignores_the_background() -> None:
    grid = Grid((30, 28, 26), (1.0, 1.0, 1.5), TILTED)
    truth, mask = blocks(grid), ellipsoid(grid)
    far = np.zeros(grid.shape, np.float32)
    far[:2, 10:16, 10:16] = 5.0
    local, background = dipole_field(truth, grid), dipole_field(far, grid, kernel=voxel_dipole_kernel)
    params = replace(MEDI.make_parameters(), smv_radius_mm=3.0, regularisation=3e-5)
    clean = medi(local, mask=mask, grid=grid, params=params)
    assert clean.mask is not None and (clean.mask & ~mask).sum() == 0 and 0.2 < clean.mask.sum() / mask.sum() < 0.9
    assert not clean.chi_ppm[~clean.mask].any()
    assert relative_error(clean.chi_ppm, truth, clean.mask) < 0.25
    found = medi(local + background, mask=mask, grid=grid, params=params)
    assert relative_error(found.chi_ppm, clean.chi_ppm, clean.mask) < 0.1
    off = medi(local + background, mask=mask, grid=grid, params=replace(params, smv_radius_mm=0.0)).chi_ppm
    assert relative_error(off, truth, clean.mask) > 0.5


def test_merit_takes_weight_from_voxels_of_large_misfit() -> None:
    rng = np.random.default_rng(10)
    local = (0.01 * rng.standard_normal((12, 11, 10))).astype(np.float32)
    power = rng.uniform(0.5, 1.5, local.shape).astype(np.float32)
    power[0] = 0
    known = power > 0
    local[5, 5, 5] = 0.2
    found = reweighted(np.zeros_like(local), local, power, known, 4.0)
    weight = np.sqrt(power[known].astype(float))
    misfit = weight * (1 - np.exp(4j * local[known].astype(float)))
    size = np.abs(misfit - misfit.mean())
    expected = weight / np.maximum(size / (6 * size.std()), 1) ** 2
    expected /= expected.mean()
    np.testing.assert_allclose(np.sqrt(found[known]), expected, rtol=1e-4)
    assert not found[0].any() and found[5, 5, 5] < 0.2 * power[5, 5, 5]
    grid = Grid((24, 22, 20), (1.0, 1.0, 1.0), TILTED)
    truth, mask = blocks(grid), ellipsoid(grid)
    wrong = dipole_field(truth, grid)
    wrong[12, 11, 10], wrong[9, 12, 12] = 0.5, -0.5
    errors = [
        relative_error(
            medi(wrong, mask=mask, grid=grid, params=replace(MEDI.make_parameters(), merit=m)).chi_ppm, truth, mask
        )
        for m in (False, True)
    ]
    assert errors[1] < 0.8 * errors[0]
    params = replace(MEDI.make_parameters(), merit=True, tolerance=0.9)
    reached = medi(wrong, mask=mask, grid=grid, params=params).convergence.iterations
    assert reached == params.merit_every * params.merit_times + 1  # it waits for the last of them
    with pytest.raises(ValueError, match="more than"):
        medi(wrong, mask=mask, grid=grid, params=replace(params, max_iterations=50))


def brain_with_ventricle() -> tuple[Grid, NDArray[np.bool_], NDArray[np.float32], NDArray[np.bool_]]:
    """Grid of 3 mm, brain, R2* and its ventricle: a rod from the centre outwards; fluid of the sulci, and a spot."""
    grid = Grid((40, 40, 40), (3.0, 3.0, 3.0))
    x, y, z = np.meshgrid(*[3 * (np.arange(40) - 19.5)] * 3, indexing="ij")
    r = np.sqrt(x**2 + y**2 + z**2)
    brain = r < 55
    ventricle = (np.abs(y) < 6) & (np.abs(z) < 6) & (x > -10) & (x < 40)
    r2star = np.where(brain, 20.0, 0.0)
    r2star[ventricle | (brain & (r > 48))] = 2.0
    r2star[30, 30, 20] = 2.0
    return grid, brain, r2star.astype(np.float32), ventricle


def test_ventricles_hang_together_with_the_centre() -> None:
    grid, brain, r2star, ventricle = brain_with_ventricle()
    np.testing.assert_array_equal(ventricles(r2star, mask=brain, grid=grid), ventricle)
    assert not ventricles(np.where(brain, 20, 0).astype(np.float32), mask=brain, grid=grid).any()
    assert not ventricles(r2star, mask=brain & ~brain, grid=grid).any()
    with pytest.raises(ValueError, match="shape"):
        ventricles(r2star[1:], mask=brain, grid=grid)


def test_medi_0_refers_to_the_fluid_or_says_that_it_cannot() -> None:
    grid, brain, r2star, ventricle = brain_with_ventricle()
    chi = np.where(ventricle, 0.05, 0.0).astype(np.float32)
    local, params = dipole_field(chi, grid), MEDI_0.make_parameters({"max_iterations": 3})
    found = medi_0(local, mask=brain, grid=grid, params=params, r2star_hz=r2star)
    assert not found.notes and abs(float(found.chi_ppm[ventricle].mean())) < 1e-6
    assert found.chi_ppm[brain & ~ventricle].mean() < -0.01
    plain = medi(local, mask=brain, grid=grid, params=params).chi_ppm
    for r2, words in ((None, "no R2"), (np.where(brain, 20, 0).astype(np.float32), "no cerebrospinal fluid")):
        other = medi_0(local, mask=brain, grid=grid, params=params, r2star_hz=r2)
        assert words in other.notes[0] and len(other.notes) == 1
        np.testing.assert_array_equal(other.chi_ppm, plain)
