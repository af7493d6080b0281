"""Images, grids and masks of the anatomical steps."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from qsmals.anatomy.compute import Compute, ants_session
from qsmals.anatomy.images import (
    ball,
    cropped,
    distance_mm,
    from_ants,
    index_to_physical,
    largest_component,
    resampled,
    same_grid,
    to_ants,
    with_data,
)
from qsmals.anatomy.linear import read_affine
from qsmals.anatomy.stages import write_affine
from qsmals.recon.grid import bounding_box

OBLIQUE = np.array([[0.9, -0.2, 0.1, -20], [0.3, 1.1, -0.5, 14], [0.0, 0.6, 1.9, 5], [0, 0, 0, 1.0]])


@pytest.fixture
def oblique() -> np.ndarray:
    rotation, _ = np.linalg.qr(OBLIQUE[:3, :3])
    affine = np.eye(4)
    affine[:3, :3] = rotation @ np.diag([1.0, 1.5, 2.0])
    affine[:3, 3] = OBLIQUE[:3, 3]
    return affine


def test_arrays_survive_the_way_to_ants_and_back(oblique):
    data = np.random.default_rng(0).normal(size=(5, 6, 7)).astype(np.float32)
    before = data.copy()
    back, affine = from_ants(to_ants(data, oblique))
    assert np.array_equal(back, data)
    assert np.array_equal(data, before)
    assert np.allclose(affine, oblique, atol=1e-6)


def test_ants_reads_the_same_place_from_a_file(oblique, tmp_path):
    data = np.arange(210, dtype=np.float32).reshape(5, 6, 7)
    nib.save(nib.Nifti1Image(data, oblique), tmp_path / "image.nii")
    with ants_session(Compute(tmp_path)) as ants:
        assert same_grid(ants.image_read(str(tmp_path / "image.nii")), to_ants(data, oblique))


@pytest.mark.parametrize(
    ("data", "affine", "message"),
    [
        (np.zeros((3, 3)), np.eye(4), "three dimensions"),
        (np.full((3, 3, 3), np.nan), np.eye(4), "finite"),
        (np.zeros((3, 3, 3)), np.array([[1, 0.3, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]), "perpendicular"),
    ],
)
def test_images_that_ants_cannot_hold_are_refused(data, affine, message):
    with pytest.raises(ValueError, match=message):
        to_ants(data, affine)


def test_a_cropped_image_stays_where_it_was(oblique):
    image = to_ants(np.arange(210, dtype=np.float32).reshape(5, 6, 7), oblique)
    box = (slice(1, 4), slice(2, 6), slice(0, 5))
    part = cropped(image, box)
    assert part.shape == (3, 4, 5)
    assert part.numpy()[0, 0, 0] == image.numpy()[1, 2, 0]
    assert np.allclose(index_to_physical(part)[:, 3], index_to_physical(image) @ [1, 2, 0, 1])


def test_resampling_labels_makes_no_new_ones():
    labels = np.zeros((12, 12, 12))
    labels[3:9, 3:9, 3:9] = 1017
    coarse = resampled(to_ants(labels, np.eye(4)), 2.5, labels=True)
    assert set(np.unique(coarse.numpy())) == {0.0, 1017.0}


def test_boxes_and_distances():
    mask = np.zeros((10, 10, 10), bool)
    mask[4:6, 4:6, 4:6] = True
    assert bounding_box(mask, (1, 2, 20)) == (slice(3, 7), slice(2, 8), slice(0, 10))
    with pytest.raises(ValueError, match="empty"):
        bounding_box(np.zeros((3, 3, 3), bool), 1)
    assert distance_mm(mask, (1, 1, 2))[4, 4, 9] == pytest.approx(8.0)
    assert ball(2.0, (1, 1, 2)).shape == (5, 5, 3)
    two = mask.copy()
    two[0, 0, 0] = True
    assert np.array_equal(largest_component(two), mask)
    assert not largest_component(np.zeros((3, 3, 3), bool)).any()


def test_affine_files_keep_the_map(tmp_path, oblique):
    with ants_session(Compute(tmp_path)):
        matrix = np.eye(4)
        matrix[:3, :3] = oblique[:3, :3]
        matrix[:3, 3] = [3, -4, 5]
        path = write_affine(matrix, tmp_path / "a.mat", centre_mm=(10, 20, 30))
        assert np.allclose(read_affine(path), matrix, atol=1e-4)


def test_grids_that_differ_are_told_apart():
    image = to_ants(np.zeros((4, 4, 4)), np.eye(4))
    turned = to_ants(np.zeros((4, 4, 4)), np.diag([1, 1, 1.1, 1]))
    assert same_grid(image, with_data(image, np.ones((4, 4, 4))))
    assert not same_grid(image, turned)


@pytest.mark.parametrize(
    ("arguments", "message"), [({"threads": 0}, "one thread"), ({"seed": 0}, "seed"), ({}, "comma")]
)
def test_resources_that_cannot_work_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Compute(Path("/a,b"), **arguments)
