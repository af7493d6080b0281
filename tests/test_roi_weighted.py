"""Statistics of probabilistic regions, against copies of voxels and against the kernel for labels."""

import numpy as np
import pytest

from qsmals.roi.columns import COLUMN_NAMES
from qsmals.roi.statistics import Region, region_statistics
from qsmals.roi.weighted import weighted_statistics

SHAPE, SIZE = (9, 8, 7), (1.0, 1.0, 2.0)
RNG = np.random.default_rng(5)
VALUES = RNG.normal(0.02, 0.05, SHAPE).astype(np.float32)
VALUES[0, 0, :3] = np.nan
VALUES[4, 4, :] = 0.0
MEASURED = RNG.random(SHAPE) < 0.9
REGIONS = (Region(11, "a", "L", (1,)), Region(12, "a", "R", (2,)), Region(50011, "a", "B", (1, 2)))


def test_weights_of_one_give_the_statistics_of_labels():
    labels = RNG.integers(0, 3, SHAPE)
    members = np.stack([labels == 1, labels == 2], axis=-1).astype(np.float32)
    ours = weighted_statistics(VALUES, members, measured=MEASURED, regions=REGIONS, voxel_size_mm=SIZE)
    theirs = region_statistics(VALUES, labels, measured=MEASURED, regions=REGIONS, voxel_size_mm=SIZE)
    assert tuple(ours) == COLUMN_NAMES
    for name in ("n_voxels", "volume_mm3", "coverage", "mean", "min", "max", "positive_mean", "negative_mean"):
        assert ours[name] == pytest.approx(theirs[name], rel=1e-5)
    for name in ("positive_fraction", "skewness", "kurtosis"):
        assert ours[name] == pytest.approx(theirs[name], rel=1e-5)
    n = theirs["n_voxels"]
    assert ours["sd"] == pytest.approx(theirs["sd"] * np.sqrt((n - 1) / n), rel=1e-5)
    assert np.isnan(ours["eroded_mean"]).all() and np.isnan(ours["wm_contrast"]).all()


def test_a_weight_is_a_number_of_copies():
    copies = RNG.integers(0, 5, SHAPE)
    row = weighted_statistics(
        VALUES, (copies / 4).astype(np.float32)[..., None], measured=MEASURED, regions=REGIONS[:1], voxel_size_mm=SIZE
    )
    use = MEASURED & np.isfinite(VALUES)
    x = np.repeat(VALUES[use].astype(float), copies[use])
    expected = {
        "n_voxels": int((use & (copies > 0)).sum()),
        "volume_mm3": copies.sum() / 4 * 2,
        "coverage": copies[use].sum() / copies.sum(),
        "mean": x.mean(),
        "sd": x.std(),
        "median": np.quantile(x, 0.5, method="inverted_cdf"),
        "mad": np.quantile(np.abs(x - np.quantile(x, 0.5, method="inverted_cdf")), 0.5, method="inverted_cdf"),
        "p10": np.quantile(x, 0.1, method="inverted_cdf"),
        "p95": np.quantile(x, 0.95, method="inverted_cdf"),
        "positive_fraction": (x > 0).mean(),
        "negative_mean": x[x < 0].mean(),
        "top10_mean": x[x >= np.quantile(x, 0.9, method="inverted_cdf")].mean(),
    }
    for name, value in expected.items():
        assert float(row[name][0]) == pytest.approx(value, rel=1e-5), name


def test_half_measured_regions_are_described_and_less_is_not():
    members = np.ones((*SHAPE, 1), np.float32)
    half = np.zeros(SHAPE, bool)
    half[:5] = True
    for mask, described in ((half, True), (np.roll(half, 0) & (np.indices(SHAPE)[0] < 4), False)):
        row = weighted_statistics(
            np.ones(SHAPE, np.float32), members, measured=mask, regions=REGIONS[:1], voxel_size_mm=SIZE
        )
        assert np.isfinite(row["mean"][0]) == described
        assert np.isnan(row["skewness"][0])


def test_a_region_without_membership_keeps_its_row():
    row = weighted_statistics(VALUES, np.zeros((*SHAPE, 1)), measured=MEASURED, regions=REGIONS[:1], voxel_size_mm=SIZE)
    assert row["n_voxels"][0] == 0
    assert np.isnan(row["coverage"][0]) and np.isnan(row["mean"][0])


def test_wrong_input_is_refused():
    members = np.zeros((*SHAPE, 1))
    good = {"measured": MEASURED, "regions": REGIONS[:1], "voxel_size_mm": SIZE}
    with pytest.raises(ValueError, match="one grid"):
        weighted_statistics(VALUES, members[:4], **good)
    with pytest.raises(ValueError, match="volumes 1 to 1"):
        weighted_statistics(VALUES, members, **{**good, "regions": REGIONS[1:2]})
    with pytest.raises(ValueError, match="edge lengths"):
        weighted_statistics(VALUES, members, **{**good, "voxel_size_mm": (1, 0, 1)})
