"""Referencing: offsets, NaN, and regions that cannot serve."""

import numpy as np
import pytest

from qsmals.recon.reference import CSF, WHITE_MATTER, reference_offsets, reference_regions, reference_to, region_core


def chi() -> np.ndarray:
    values = np.random.default_rng(0).normal(0.02, 0.05, (8, 7, 6)).astype(np.float32)
    values[0, 0, 0] = np.nan
    return values


def test_reference_is_the_mean_of_the_region() -> None:
    values, region = chi(), np.ones((8, 7, 6), bool)
    original = values.copy()
    shifted, offset = reference_to(values, region)
    assert shifted.dtype == np.float32
    assert np.nanmean(shifted.astype(float)) == pytest.approx(0, abs=1e-8)
    assert offset == pytest.approx(np.nanmean(values.astype(float)))
    np.testing.assert_array_equal(values, original)
    with pytest.raises(ValueError, match="no voxel"):
        reference_to(values, ~region)
    with pytest.raises(ValueError, match="shape"):
        reference_to(values, region[1:])


def test_offsets_make_another_reference_arithmetic() -> None:
    values, csf, tiny = chi(), np.zeros((8, 7, 6), bool), np.zeros((8, 7, 6), bool)
    csf[:3] = True
    tiny[0, 0, :2] = True
    brain, _ = reference_to(values, np.ones((8, 7, 6), bool))
    offsets = reference_offsets(brain, {"csf": csf, "white matter": None, "tiny": tiny})
    assert list(offsets) == ["csf", "white matter", "tiny"]
    assert offsets["csf"].mean_ppm == pytest.approx(np.nanmean(brain[:3].astype(float)))
    assert offsets["csf"].sd_ppm == pytest.approx(np.nanstd(brain[:3].astype(float), ddof=1))
    assert offsets["csf"].n_voxels == csf.sum() - 1 and offsets["csf"].reason == ""
    direct, _ = reference_to(values, csf)
    np.testing.assert_allclose(brain - np.float32(offsets["csf"].mean_ppm), direct, atol=1e-7)
    assert offsets["white matter"].mean_ppm is None and "not found" in offsets["white matter"].reason
    assert offsets["tiny"].mean_ppm is None and "1 of at least 10" in offsets["tiny"].reason


def test_regions_are_free_of_their_borders_and_measured() -> None:
    labels = np.zeros((12, 12, 12), np.int32)
    labels[2:6, 2:10, 2:10], labels[6:10, 2:10, 2:10], labels[0:2, 0:4, 0:4] = WHITE_MATTER[0], WHITE_MATTER[1], CSF[0]
    core = region_core(labels, WHITE_MATTER)
    expected = np.zeros_like(core)
    expected[3:9, 3:9, 3:9] = True  # the two halves together: no border between them
    np.testing.assert_array_equal(core, expected)
    measured = np.ones(labels.shape, bool)
    measured[:4] = False
    regions = reference_regions(labels, measured)
    assert list(regions) == ["brain", "csf", "wm"]
    np.testing.assert_array_equal(regions["brain"], measured)
    np.testing.assert_array_equal(regions["wm"], expected & measured)
    assert not regions["csf"].any()
    with pytest.raises(ValueError, match="shape"):
        reference_regions(labels, measured[1:])
