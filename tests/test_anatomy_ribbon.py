"""Cortical labels that follow the grey matter."""

import numpy as np
import pytest

from qsmals.anatomy.ribbon import RibbonParameters, fit_cortex

SIZE = (1.0, 1.0, 1.0)
LEFT, RIGHT = 1024, 2024


def gyri() -> tuple[np.ndarray, np.ndarray]:
    """A slab of fluid, grey and white matter in two hemispheres, and labels that lie 2 voxels too deep."""
    tissues = np.zeros((20, 12, 10), dtype=np.int32)
    tissues[2:6], tissues[6:9], tissues[9:18] = 1, 2, 3
    labels = np.zeros_like(tissues)
    labels[8:11] = LEFT
    labels[11:18] = 2
    labels[:, 6:][labels[:, 6:] == LEFT] = RIGHT
    labels[:, 6:][labels[:, 6:] == 2] = 41
    return labels, tissues


def test_cortex_goes_where_grey_matter_is() -> None:
    labels, tissues = gyri()
    before = labels.copy(), tissues.copy()
    fitted = fit_cortex(labels, tissues, voxel_size_mm=SIZE)
    assert (fitted[6:9, :6] == LEFT).all() and (fitted[6:9, 6:] == RIGHT).all()
    assert (fitted[9:18, :6] == 2).all() and (fitted[9:18, 6:] == 41).all()
    assert not fitted[:6].any()
    assert fitted.dtype == labels.dtype
    np.testing.assert_array_equal(labels, before[0])
    np.testing.assert_array_equal(tissues, before[1])


def test_the_reach_is_in_mm() -> None:
    labels, tissues = gyri()
    near = fit_cortex(labels, tissues, voxel_size_mm=SIZE, params=RibbonParameters(reach_mm=1.0))
    assert (near[7] >= 1000).all() and not (near[6] >= 1000).any()
    coarse = fit_cortex(labels, tissues, voxel_size_mm=(2.0, 1.0, 1.0))
    assert (coarse[7] >= 1000).all() and not (coarse[6] >= 1000).any()


def test_other_regions_keep_their_voxels() -> None:
    labels, tissues = gyri()
    labels[6:9, 2:4, 3:6] = 17  # hippocampus, grey as cortex is
    fitted = fit_cortex(labels, tissues, voxel_size_mm=SIZE)
    np.testing.assert_array_equal(fitted == 17, labels == 17)


def test_fluid_and_unknown_tissue() -> None:
    labels, tissues = gyri()
    labels[4:6] = LEFT
    tissues[8] = 0
    fitted = fit_cortex(labels, tissues, voxel_size_mm=SIZE)
    assert not fitted[4:6].any()
    assert not fitted[8].any()


def test_without_cortex_nothing_changes_and_shapes_must_agree() -> None:
    labels, tissues = gyri()
    plain = np.where(labels >= 1000, 0, labels)
    np.testing.assert_array_equal(fit_cortex(plain, tissues, voxel_size_mm=SIZE), plain)
    with pytest.raises(ValueError, match="one shape"):
        fit_cortex(labels[1:], tissues, voxel_size_mm=SIZE)
