"""Region statistics against scipy and pandas, and the rules about what counts."""

import itertools
import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage, stats

from qsmals.roi.columns import COLUMN_NAMES, MINIMUM_ADJACENT_VOXELS, STATISTICS
from qsmals.roi.statistics import Region, region_statistics

SHAPE = (23, 18, 15)
VOXEL_MM = (1.0, 1.2, 2.0)
REGIONS = (
    Region(11, "caudate", "L", (11,)),
    Region(50, "caudate", "R", (50,)),
    Region(1011, "caudate", "B", (11, 50)),
    Region(16, "brainstem", "B", (16,)),
    Region(2, "cerebral_white_matter", "B", (2, 41)),
    Region(77, "absent", "L", (77,)),
)


@pytest.fixture
def head() -> dict[str, np.ndarray]:
    """A float32 map with NaN, infinity, zeros and a mask that cuts regions, and its labels."""
    rng = np.random.default_rng(3)
    labels = np.zeros(SHAPE, np.int32)
    labels[2:9, 3:15, 2:13] = 2
    labels[13:21, 3:15, 2:13] = 41
    labels[4:8, 5:11, 4:10] = 11
    labels[15:19, 5:11, 4:10] = 50
    labels[9:13, 5:12, 0:9] = 16
    labels[0, 0, 0] = 999
    values = (0.05 * rng.standard_gamma(1.5, SHAPE) - 0.04).astype(np.float32)
    values[rng.random(SHAPE) < 0.02] = 0
    values[rng.random(SHAPE) < 0.02] = np.nan
    values[5, 6, 5] = np.inf
    measured = np.ones(SHAPE, bool)
    measured[:, :, :3] = False
    measured[15:17, 5:7] = False
    return {"values": values, "labels": labels, "measured": measured, "white_matter": np.isin(labels, (2, 41))}


def expected(head: dict[str, np.ndarray], region: Region, voxel_mm=VOXEL_MM) -> dict[str, float]:
    """Every column of one region, computed with scipy and pandas."""
    inside = np.isin(head["labels"], region.members)
    good = head["measured"] & np.isfinite(head["values"])
    x = pd.Series(head["values"][inside & good].astype(np.float64))
    cross = ndimage.generate_binary_structure(3, 1)
    core = ndimage.binary_erosion(inside, cross) & good
    near = ndimage.distance_transform_edt(~inside, sampling=voxel_mm) <= 5.0 + 1e-5
    white = head["white_matter"] & good & near & ~inside
    values = head["values"].astype(np.float64)
    return {
        "n_voxels": len(x),
        "volume_mm3": inside.sum() * np.prod(voxel_mm),
        "coverage": len(x) / inside.sum(),
        "mean": x.mean(),
        "sd": x.std(),
        "median": x.median(),
        "mad": stats.median_abs_deviation(x),
        "skewness": stats.skew(x),
        "kurtosis": stats.kurtosis(x),
        **{f"p{q:02d}": x.quantile(q / 100) for q in (5, 10, 25, 75, 90, 95)},
        "min": x.min(),
        "max": x.max(),
        "positive_mean": x[x > 0].mean(),
        "positive_fraction": (x > 0).mean(),
        "negative_mean": x[x < 0].mean(),
        "top10_mean": x[x >= x.quantile(0.9)].mean(),
        "eroded_mean": values[core].mean() if core.any() else np.nan,
        "wm_contrast": x.mean() - values[white].mean() if white.sum() >= MINIMUM_ADJACENT_VOXELS else np.nan,
    }


def test_every_column_agrees_with_scipy_and_pandas(head):
    table = region_statistics(**head, regions=REGIONS, voxel_size_mm=VOXEL_MM)
    assert tuple(table) == COLUMN_NAMES
    for row, region in enumerate(REGIONS[:-1]):
        reference = expected(head, region)
        assert set(reference) | {"index", "name", "hemisphere"} == set(COLUMN_NAMES)
        for name, value in reference.items():
            np.testing.assert_allclose(table[name][row], value, rtol=1e-5, atol=1e-9, err_msg=f"{region.name} {name}")
    assert np.isfinite([table[s][:4] for s in STATISTICS]).all(), "each statistic was exercised"


@pytest.mark.parametrize("voxel_mm", [(1.0, 1.0, 1.0), (0.7, 2.0, 1.3), (2.5, 2.5, 2.5), (1.0, 1.0, 6.0)])
def test_adjacent_white_matter_at_any_voxel_size(head, voxel_mm):
    table = region_statistics(**head, regions=REGIONS, voxel_size_mm=voxel_mm)
    for row in range(5):
        np.testing.assert_allclose(
            table["wm_contrast"][row], expected(head, REGIONS[row], voxel_mm)["wm_contrast"], rtol=1e-6
        )


def test_identity_columns_follow_the_regions(head):
    table = region_statistics(**head, regions=REGIONS, voxel_size_mm=VOXEL_MM)
    assert table["index"].tolist() == [r.index for r in REGIONS]
    assert table["name"].tolist() == [r.name for r in REGIONS]
    assert table["hemisphere"].tolist() == ["L", "R", "B", "B", "B", "L"]


def test_region_without_voxels_keeps_its_row(head):
    table = region_statistics(**head, regions=REGIONS, voxel_size_mm=VOXEL_MM)
    assert table["n_voxels"][-1] == 0 and table["volume_mm3"][-1] == 0 and np.isnan(table["coverage"][-1])
    assert np.isnan([table[s][-1] for s in STATISTICS]).all()


def test_both_is_the_union_of_left_and_right(head):
    table = region_statistics(**head, regions=REGIONS, voxel_size_mm=VOXEL_MM)
    n, mean = table["n_voxels"], table["mean"]
    assert n[2] == n[0] + n[1] and table["volume_mm3"][2] == table["volume_mm3"][0] + table["volume_mm3"][1]
    np.testing.assert_allclose(mean[2], (n[0] * mean[0] + n[1] * mean[1]) / n[2], rtol=1e-12)
    assert table["max"][2] == max(table["max"][:2]) and table["min"][2] == min(table["min"][:2])


def test_true_zeros_count_and_nan_does_not():
    values = np.array([0, 0, 4, np.nan], np.float32).reshape(4, 1, 1)
    table = region_statistics(
        values,
        np.ones((4, 1, 1), int),
        measured=np.ones((4, 1, 1), bool),
        regions=[Region(1, "a", "B", (1,))],
        voxel_size_mm=(1, 1, 1),
    )
    assert table["n_voxels"][0] == 3 and table["coverage"][0] == 0.75
    assert table["mean"][0] == pytest.approx(4 / 3) and table["median"][0] == 0
    assert table["positive_fraction"][0] == pytest.approx(1 / 3) and np.isnan(table["negative_mean"][0])


@pytest.mark.parametrize(("measured_voxels", "described"), [(4, False), (5, True), (10, True), (0, False)])
def test_statistics_need_half_the_region(measured_voxels, described):
    shape = (10, 1, 1)
    measured = np.arange(10).reshape(shape) < measured_voxels
    table = region_statistics(
        np.arange(10.0).reshape(shape),
        np.ones(shape, np.uint8),
        measured=measured,
        regions=[Region(1, "a", "B", (1,))],
        voxel_size_mm=(1, 1, 1),
    )
    assert table["n_voxels"][0] == measured_voxels and table["coverage"][0] == measured_voxels / 10
    assert table["volume_mm3"][0] == 10
    assert np.isfinite(table["mean"][0]) == described


def test_a_constant_region_has_no_shape_and_one_voxel_no_spread():
    labels = np.array([1, 1, 1, 2]).reshape(4, 1, 1)
    table = region_statistics(
        np.full((4, 1, 1), 0.1, np.float32),
        labels,
        measured=labels > 0,
        regions=[Region(1, "a", "L", (1,)), Region(2, "b", "L", (2,))],
        voxel_size_mm=(1, 1, 1),
    )
    assert table["sd"][0] == pytest.approx(0, abs=1e-12) and np.isnan(table["sd"][1])
    assert np.isnan(table["skewness"]).all() and np.isnan(table["kurtosis"]).all()
    np.testing.assert_allclose(table["mean"], 0.1, rtol=1e-6)


def test_erosion_and_contrast_are_missing_where_undefined(head):
    thin = dict(head, labels=np.where(head["labels"] == 11, 0, head["labels"]))
    thin["labels"][5, 5:9, 5] = 11
    table = region_statistics(**thin, regions=REGIONS, voxel_size_mm=VOXEL_MM)
    assert np.isnan(table["eroded_mean"][0]) and np.isfinite(table["mean"][0])
    assert np.isnan(table["wm_contrast"][4]), "white matter has no white matter outside itself"
    del thin["white_matter"]
    assert np.isnan(region_statistics(**thin, regions=REGIONS, voxel_size_mm=VOXEL_MM)["wm_contrast"]).all()


def test_inputs_are_not_mutated_and_integers_are_accepted(head):
    before = {name: array.copy() for name, array in head.items()}
    region_statistics(**head, regions=REGIONS, voxel_size_mm=VOXEL_MM)
    for name, array in head.items():
        np.testing.assert_array_equal(array, before[name])
    whole = dict(head, values=np.arange(head["labels"].size, dtype=np.int16).reshape(SHAPE))
    table = region_statistics(**whole, regions=REGIONS, voxel_size_mm=VOXEL_MM)
    assert table["mean"][0] == whole["values"][(whole["labels"] == 11) & whole["measured"]].mean()


def test_memory_order_has_no_effect(head):
    fortran = {name: np.asfortranarray(array) for name, array in head.items()}
    one = region_statistics(**head, regions=REGIONS, voxel_size_mm=VOXEL_MM)
    two = region_statistics(**fortran, regions=REGIONS, voxel_size_mm=VOXEL_MM)
    for name in STATISTICS:
        np.testing.assert_array_equal(one[name], two[name])


def test_float64_sums_keep_a_small_signal_on_a_large_offset():
    rng = np.random.default_rng(0)
    values = (1000 + rng.normal(0, 1, (100, 100, 30))).astype(np.float32)
    labels = np.ones(values.shape, np.int32)
    table = region_statistics(
        values, labels, measured=labels > 0, regions=[Region(1, "a", "B", (1,))], voxel_size_mm=(1, 1, 1)
    )
    exact = values.astype(np.float64)
    assert table["mean"][0] == pytest.approx(exact.mean(), rel=1e-12)
    assert table["sd"][0] == pytest.approx(exact.std(ddof=1), rel=1e-9)


def one_region(x: np.ndarray) -> dict[str, np.ndarray]:
    shape = (len(x), 1, 1)
    return region_statistics(
        x.reshape(shape),
        np.ones(shape, int),
        measured=np.ones(shape, bool),
        regions=[Region(1, "a", "B", (1,))],
        voxel_size_mm=(1, 1, 1),
    )


sample = st.lists(st.floats(-1, 1, width=32), min_size=2, max_size=40)


@settings(max_examples=50, deadline=None)
@given(sample, st.randoms(use_true_random=False))
def test_the_order_of_voxels_has_no_effect(x, random):
    shuffled = random.sample(x, len(x))
    one, two = one_region(np.array(x, np.float32)), one_region(np.array(shuffled, np.float32))
    for name in STATISTICS:
        np.testing.assert_array_equal(one[name], two[name])


@settings(max_examples=50, deadline=None)
@given(sample)
def test_order_statistics_are_ordered_and_means_lie_between(x):
    table = {name: column[0] for name, column in one_region(np.array(x, np.float32)).items()}
    ladder = [table[n] for n in ("min", "p05", "p10", "p25", "median", "p75", "p90", "p95", "max")]
    assert all(a <= b + 1e-12 for a, b in itertools.pairwise(ladder))
    assert table["min"] - 1e-12 <= table["mean"] <= table["top10_mean"] + 1e-12 <= table["max"] + 2e-12
    assert 0 <= table["positive_fraction"] <= 1 and table["mad"] >= 0


@settings(max_examples=50, deadline=None)
@given(sample, st.floats(-2, 2), st.floats(0.1, 3))
def test_units_are_kept(x, shift, scale):
    x64 = np.array(x, np.float64)
    one, two = one_region(x64), one_region(shift + scale * x64)
    for name in ("mean", "median", "p05", "p95", "min", "max"):
        assert two[name][0] == pytest.approx(shift + scale * one[name][0], abs=1e-9)
    for name in ("sd", "mad"):
        assert two[name][0] == pytest.approx(scale * one[name][0], abs=1e-9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": np.zeros((2, 2, 2), int)}, "shape"),
        ({"labels": np.zeros(SHAPE)}, "whole numbers"),
        ({"voxel_size_mm": (1, 1, 0)}, "positive edge lengths"),
        ({"values": np.zeros((3, 3)), "labels": np.zeros((3, 3), int), "measured": np.ones((3, 3))}, "shape"),
    ],
)
def test_wrong_input_is_refused(head, change, message):
    arguments = dict(head, regions=REGIONS, voxel_size_mm=VOXEL_MM) | change
    with pytest.raises(ValueError, match=message):
        region_statistics(**arguments)


@pytest.mark.parametrize(("hemisphere", "members"), [("l", (1,)), ("L", ()), ("L", (0,)), ("B", (3, -1))])
def test_a_region_is_checked(hemisphere, members):
    with pytest.raises(ValueError, match="region thalamus"):
        Region(1, "thalamus", hemisphere, members)


def test_hundreds_of_regions_in_a_second():
    shape = (182, 182, 182)
    block = np.add.outer(np.add.outer(np.arange(182) // 23, 8 * (np.arange(182) // 23)), 64 * (np.arange(182) // 36))
    labels = (1 + block).astype(np.int32)
    labels[::3] = 0
    values = np.random.default_rng(0).standard_normal(shape, np.float32)
    white = labels % 7 == 0
    regions = [Region(int(v), str(v), "L", (int(v),)) for v in np.unique(labels) if v]
    arguments = {"measured": labels > 0, "regions": regions, "voxel_size_mm": (1, 1, 1), "white_matter": white}
    assert len(regions) > 300 and labels.size > 6e6
    region_statistics(values[:4], labels[:4], **dict(arguments, measured=labels[:4] > 0, white_matter=white[:4]))
    times = []
    for _ in range(2):
        start = time.process_time()
        region_statistics(values, labels, **arguments)
        times.append(time.process_time() - start)
    assert min(times) < 4, f"{min(times):.1f} s; four times the labelled voxels of a head at 1 mm take about one"
