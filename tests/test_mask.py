"""Masks: morphology in mm on anisotropic voxels, thresholds, and the masks of the field."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from qsmals.recon.grid import Grid
from qsmals.recon.mask import MASK, morphology
from qsmals.recon.mask.quality import (
    FALLBACK_RULE,
    OTSU_RULE,
    FieldMaskParameters,
    field_masks,
    otsu_threshold,
    quality_threshold,
)
from qsmals.recon.mask.robust import robust_mask, without_cavities
from qsmals.recon.mask.surroundings import roughness_ppm

SIZE = (1.0, 1.5, 2.0)
SHAPE = (44, 32, 24)


def radius_mm(shape: tuple[int, ...] = SHAPE, size: tuple[float, float, float] = SIZE) -> NDArray[np.float64]:
    axes = np.meshgrid(*[(np.arange(n) - (n - 1) / 2) * h for n, h in zip(shape, size, strict=True)], indexing="ij")
    return np.sqrt(sum(x**2 for x in axes))


def test_dilation_and_erosion_are_by_distance() -> None:
    point = np.zeros(SHAPE, bool)
    point[20, 15, 12] = True
    grown = morphology.dilate(point, 3.0, SIZE)
    offsets = (np.argwhere(grown) - (20, 15, 12)) * SIZE
    assert np.sqrt((offsets**2).sum(1)).max() == pytest.approx(3.0)
    assert grown[20, 17, 12] and not grown[20, 15, 14]
    np.testing.assert_array_equal(morphology.erode(grown, 2.9, SIZE), point)
    np.testing.assert_array_equal(morphology.dilate(~point & point, 3.0, SIZE), False)


def test_erosion_counts_the_edge_of_the_volume_as_outside() -> None:
    eroded = morphology.erode(np.ones((5, 5, 5), bool), 1.0, (1.0, 1.0, 1.0))
    assert eroded.sum() == 27 and eroded[1:4, 1:4, 1:4].all()


def test_depth_is_the_distance_to_the_outside() -> None:
    mask = radius_mm() < 12
    expected = ndimage.distance_transform_edt(mask, sampling=SIZE)
    np.testing.assert_allclose(morphology.depth_mm(mask, SIZE), expected, rtol=1e-6)
    assert not morphology.depth_mm(mask & ~mask, SIZE).any()


def test_close_fills_cracks_and_open_drops_whiskers() -> None:
    ball = radius_mm() < 11
    cracked = ball.copy()
    cracked[22] = False
    assert morphology.close(cracked, 2.0, SIZE)[22][morphology.erode(ball, 4.0, SIZE)[22]].all()
    whiskered = ball.copy()
    whiskered[:, 16, 12] = True
    opened = morphology.open_(whiskered, 2.0, SIZE)
    assert not opened[0, 16, 12] and (opened & ball).sum() > 0.95 * ball.sum()
    full = np.ones((4, 4, 4), bool)
    np.testing.assert_array_equal(morphology.close(full, 2.0, (1.0, 1.0, 1.0)), full)


def test_components_and_holes() -> None:
    mask = radius_mm() < 11
    holed = mask.copy()
    holed[22, 16, 12] = False
    holed[18:21, 14:17, 11:13] = False
    islands = holed.copy()
    islands[0, 0, 0] = True
    np.testing.assert_array_equal(morphology.largest_component(islands), holed)
    np.testing.assert_array_equal(morphology.fill_holes(holed), mask)
    small_only = morphology.fill_holes(holed, largest_mm3=3.0, voxel_size_mm=SIZE)
    assert small_only[22, 16, 12] and not small_only[19, 15, 12]


def test_otsu_parts_two_classes() -> None:
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(0.3, 0.05, 3000), rng.normal(0.8, 0.05, 9000), [np.nan]]).astype(np.float32)
    assert 0.45 < otsu_threshold(values) < 0.65
    assert otsu_threshold(np.full(5, 0.7)) == pytest.approx(0.7)
    with pytest.raises(ValueError, match="finite"):
        otsu_threshold(np.array([np.nan]))


def test_robust_mask_finds_the_head_and_ignores_noise() -> None:
    rng = np.random.default_rng(1)
    head = radius_mm() < 14
    signal = 100.0 * head * (1 + 0.3 * np.sin(np.arange(SHAPE[0]) / 8))[:, None, None]
    signal[22, 16, 12] = 0
    signal[1:3, 1:3, 1:3] = 90
    magnitude = np.abs(signal + rng.normal(0, 3, SHAPE) + 1j * rng.normal(0, 3, SHAPE)).astype(np.float32)
    original = magnitude.copy()
    found = robust_mask(magnitude, grid=Grid(SHAPE, SIZE))
    assert (found ^ head).sum() < 0.02 * head.sum()
    assert found[22, 16, 12] and not found[1, 1, 1]
    np.testing.assert_array_equal(magnitude, original)
    stacked = np.stack([magnitude, magnitude * 0.5], axis=-1)
    np.testing.assert_array_equal(robust_mask(stacked, grid=Grid(SHAPE, SIZE)), found)
    cut = np.where(head, signal, 0).astype(np.float32)
    assert (robust_mask(cut, grid=Grid(SHAPE, SIZE)) ^ head).sum() < 0.02 * head.sum()
    with pytest.raises(ValueError, match="no positive voxel"):
        robust_mask(np.zeros(SHAPE, np.float32), grid=Grid(SHAPE, SIZE))


def test_wide_cavities_are_air_and_narrow_gaps_are_not() -> None:
    grid = Grid((48, 48, 48), (1.0, 1.0, 1.0))
    radius = radius_mm(grid.shape, grid.voxel_size_mm)
    sinus, gap = radius < 8, (radius > 14) & (radius < 17)
    magnitude = np.where((radius < 22) & ~sinus & ~gap, 100, 0).astype(np.float32)
    magnitude += np.random.default_rng(0).rayleigh(1.0, grid.shape).astype(np.float32)
    filled = robust_mask(magnitude, grid=grid)
    assert filled[sinus | gap].all()
    open_ = without_cavities(filled, magnitude, grid=grid)
    assert not open_[radius < 7].any() and open_[gap].all()
    np.testing.assert_array_equal(open_ | sinus, filled)


def scan(seed: int = 2) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.float32], NDArray[np.float32]]:
    """Brain, its sinus, quality and magnitude: brain 10 mm, CSF to 12, bone to 14, scalp to 15.5, air."""
    rng = np.random.default_rng(seed)
    r = radius_mm()
    brain = r < 10
    sinus = np.zeros(SHAPE, bool)
    sinus[28:34, 12:20, 9:15] = True
    tissue = ((r < 12) | ((r > 14) & (r < 15.5))) & ~sinus
    quality = np.where(tissue, 0.85, 0.35) + rng.normal(0, 0.05, SHAPE)
    magnitude = np.where(tissue, 100.0, 4.0)
    magnitude[22, 16, 12], quality[22, 16, 12] = 2.0, 0.3  # a vein
    return brain, sinus, quality.astype(np.float32), magnitude.astype(np.float32)


def test_field_masks_keep_the_rim_reach_out_and_drop_the_sinus() -> None:
    brain, sinus, quality, magnitude = scan()
    params = FieldMaskParameters(reach_mm=6.0, close_mm=1.0)
    masks = field_masks(brain, quality=quality, magnitude=magnitude, grid=Grid(SHAPE, SIZE), params=params)
    r = radius_mm()
    near_sinus = morphology.dilate(sinus, 2.0, SIZE)
    rim = brain & (r > 8) & ~near_sinus
    assert masks.brain[rim].mean() > 0.99
    assert masks.brain[22, 16, 12] and not masks.quality[22, 16, 12]
    assert masks.brain[morphology.erode(sinus, 1.5, SIZE)].mean() < 0.05
    csf = (r > 10) & (r < 11.5) & ~near_sinus
    assert masks.reliable[csf].mean() > 0.98
    assert not masks.reliable[(r > 12.5) & (r < 13.5)].any()
    assert not (masks.brain & ~(masks.reliable & brain)).any()
    assert ndimage.label(masks.reliable)[1] == 1
    assert 0.4 < masks.quality_threshold < 0.8 and masks.threshold_rule == OTSU_RULE


def harmonic_ppm() -> NDArray[np.float32]:
    """A field of distant sources, of second order."""
    x, y, z = np.meshgrid(*[(np.arange(n) - n / 2) * h for n, h in zip(SHAPE, SIZE, strict=True)], indexing="ij")
    return (0.3 + 0.02 * x - 0.01 * z + 2e-4 * (x**2 - y**2) + 1e-4 * y * z).astype(np.float32)


def test_roughness_is_the_distance_from_the_mean_of_the_neighbours() -> None:
    grid, everywhere = Grid(SHAPE, SIZE), np.ones(SHAPE, bool)
    assert roughness_ppm(harmonic_ppm(), everywhere, grid)[1:-1, 1:-1, 1:-1].max() < 1e-6
    noise = np.random.default_rng(5).normal(0, 1, SHAPE).astype(np.float32)
    near = [np.roll(noise, step, axis) for axis in range(3) for step in (1, -1)]
    weights = np.repeat(1 / np.square(SIZE), 2)
    expected = np.abs(noise - sum(w * n for w, n in zip(weights, near, strict=True)) / weights.sum())
    inner = (slice(1, -1),) * 3
    np.testing.assert_allclose(roughness_ppm(noise, everywhere, grid)[inner], expected[inner], atol=1e-6)


def test_what_was_not_measured_makes_no_roughness() -> None:
    ramp = np.broadcast_to(np.arange(1, 5, dtype=np.float32), (3, 3, 4)).copy()
    known, grid = np.ones(ramp.shape, bool), Grid((3, 3, 4), (1, 1, 1))
    assert not roughness_ppm(ramp, known, grid).any()  # nor does the volume's edge
    ramp[1, 1, 2], known[1, 1, 2] = np.nan, False
    assert not np.nan_to_num(roughness_ppm(ramp, known, grid), nan=0.0)[known].any()


@pytest.mark.parametrize("name", MASK)
def test_a_rough_field_is_used_in_the_brain_alone(name: str) -> None:
    brain, _, quality, magnitude = scan()
    field = harmonic_ppm() + np.random.default_rng(6).normal(0, 1e-3, SHAPE).astype(np.float32)
    fat, unknown, shallow, deep = (11, 16, 12), (20, 22, 14), (13, 16, 12), (22, 16, 12)
    assert not brain[fat] and not brain[unknown] and brain[shallow] and brain[deep]
    field[fat] += 0.1
    field[unknown] = np.nan
    field[shallow] += 0.1
    field[deep] += 0.1
    arguments = {"quality": quality, "magnitude": magnitude, "grid": Grid(SHAPE, SIZE)}
    method = MASK[name]
    before = method.function(brain, **arguments, params=method.make_parameters())
    after = method.function(brain, **arguments, field_ppm=field, params=method.make_parameters())
    np.testing.assert_array_equal(after.brain, before.brain)
    assert after.n_rough == before.reliable.sum() - after.reliable.sum() and before.n_rough == 0
    if name == "brain":
        np.testing.assert_array_equal(after.reliable, brain)
        return
    assert before.reliable[fat] and not after.reliable[fat]
    assert after.reliable[unknown] and after.reliable[brain & before.brain].all()
    assert after.n_rough <= 7  # fat and what touches it
    strict = method.make_parameters({"largest_roughness": 1.0})
    assert method.function(brain, **arguments, field_ppm=field, params=strict).n_rough > after.n_rough
    with pytest.raises(ValueError, match="the field has shape"):
        method.function(brain, **arguments, field_ppm=field[1:], params=method.make_parameters())


def test_what_hangs_together_with_the_brain_alone_is_kept() -> None:
    brain, _, quality, magnitude = scan()
    field = harmonic_ppm() + np.random.default_rng(6).normal(0, 1e-3, SHAPE).astype(np.float32)
    r, x = radius_mm(), np.arange(SHAPE[0])[:, None, None]
    shell = (r > 10) & (r < 11.1) & (x < 20)  # rough, and what lies beyond it is not
    field[shell] += np.where(np.indices(SHAPE).sum(0) % 2, 0.2, -0.2)[shell].astype(np.float32)
    masks = field_masks(brain, quality=quality, magnitude=magnitude, grid=Grid(SHAPE, SIZE), field_ppm=field)
    assert ndimage.label(masks.reliable)[1] == 1 and masks.n_rough >= shell.sum() / 2


def test_field_masks_do_not_cut_a_brain_of_even_quality() -> None:
    brain, _, _, _ = scan()
    quality = np.where(brain, 0.8, 0).astype(np.float32)
    quality[brain] += np.random.default_rng(3).normal(0, 0.01, brain.sum()).astype(np.float32)
    masks = field_masks(brain, quality=quality, magnitude=None, grid=Grid(SHAPE, SIZE))
    np.testing.assert_array_equal(masks.brain, brain)
    assert masks.quality_threshold == 0.3 and masks.threshold_rule == FALLBACK_RULE


def test_the_rule_of_the_threshold_is_told() -> None:
    brain, _, quality, _ = scan()
    otsu = quality_threshold(quality, brain)
    assert otsu.rule == OTSU_RULE and 0.4 < otsu.value < 0.8
    capped = quality_threshold(quality, brain, FieldMaskParameters(largest_drop=0.001))
    assert capped.value < otsu.value and capped.rule == "capped, so that it drops no more than 0.1 % of the brain"


def test_field_masks_without_quality_or_magnitude() -> None:
    brain, _, quality, magnitude = scan()
    grid = Grid(SHAPE, SIZE)
    alone = field_masks(brain, quality=None, magnitude=None, grid=grid, params=FieldMaskParameters(reach_mm=0.0))
    np.testing.assert_array_equal(alone.brain, brain)
    assert (alone.quality_threshold, alone.threshold_rule) == (0, "")
    by_magnitude = field_masks(brain, quality=None, magnitude=np.stack([magnitude] * 3, -1), grid=grid)
    assert by_magnitude.brain.sum() > 0.8 * brain.sum()
    with pytest.raises(ValueError, match="empty"):
        field_masks(brain & ~brain, quality=quality, magnitude=None, grid=grid)
    with pytest.raises(ValueError, match="shape"):
        field_masks(brain, quality=quality[:-1], magnitude=None, grid=grid)
    with pytest.raises(ValueError, match="no voxel"):
        field_masks(brain, quality=np.zeros_like(quality), magnitude=None, grid=grid)


@pytest.mark.parametrize("name", MASK)
def test_every_choice_reports_the_brain_in_what_it_trusts(name: str) -> None:
    brain, _, quality, magnitude = scan()
    method = MASK[name]
    arguments = {"quality": quality, "magnitude": magnitude, "grid": Grid(SHAPE, SIZE)}
    before = brain.copy(), quality.copy(), magnitude.copy()
    masks = method.function(brain, **arguments, params=method.make_parameters())
    assert masks.brain.any() and not (masks.brain & ~brain).any()
    np.testing.assert_array_equal(masks.brain, masks.reliable & brain)
    assert masks.brain.dtype == masks.reliable.dtype == masks.quality.dtype == bool
    for array, kept in zip((brain, quality, magnitude), before, strict=True):
        np.testing.assert_array_equal(array, kept)
    with pytest.raises(ValueError, match="empty"):
        method.function(brain & ~brain, **arguments, params=method.make_parameters())


def test_choices_differ_in_what_they_trust() -> None:
    brain, sinus, quality, magnitude = scan()
    quality[18:21, 15:18, 11:14] = 0.3  # signal, but no phase
    bad, hollow, near = np.zeros(SHAPE, bool), morphology.erode(sinus, 1.5, SIZE) & brain, radius_mm() < 12
    bad[18:21, 15:18, 11:14] = True
    found = {}
    for name, method in MASK.items():
        params = method.make_parameters({} if name == "brain" else {"close_mm": 0.0})
        found[name] = method.function(
            brain, quality=quality, magnitude=magnitude, grid=Grid(SHAPE, SIZE), params=params
        )
    np.testing.assert_array_equal(found["brain"].reliable, brain)
    for name, masks in found.items():
        assert masks.quality[bad].all() == ("quality" not in name), name
        assert masks.brain[hollow].all() == (name == "brain"), name
        assert (masks.reliable & near & ~brain).any() == (name != "brain"), name
    with pytest.raises(ValueError, match="needs the quality map"):
        MASK["quality"].function(brain, quality=None, magnitude=magnitude, grid=Grid(SHAPE, SIZE))
    for name in ("magnitude", "brain-and-magnitude"):
        with pytest.raises(ValueError, match="needs the magnitude"):
            MASK[name].function(brain, quality=quality, magnitude=None, grid=Grid(SHAPE, SIZE))
