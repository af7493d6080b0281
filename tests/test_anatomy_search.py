"""The search for a first alignment, on smooth random volumes."""

import numpy as np
import pytest
from scipy import ndimage

from qsmals.anatomy import search

SHAPE = (40, 44, 36)


@pytest.fixture(scope="module")
def blobs() -> np.ndarray:
    rng = np.random.default_rng(1)
    noise = ndimage.gaussian_filter(rng.normal(size=SHAPE), 2.5)
    envelope = ndimage.gaussian_filter(np.pad(np.ones((20, 24, 16)), 10), 2)
    return (noise / noise.std() * envelope).astype(np.float32)


def test_mutual_information_of_independent_and_equal_classes():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 4, 100_000), rng.integers(0, 4, 100_000)
    assert search.mutual_information(a, b, 4) == pytest.approx(0, abs=1e-3)
    assert search.mutual_information(a, a, 4) == pytest.approx(np.log(4), abs=1e-3)


def test_a_known_motion_is_found(blobs):
    to_physical = np.diag([4.0, 4.0, 4.0, 1.0])
    centre = np.array(SHAPE) * 2.0
    truth = np.array([0.1, -0.15, 0.2, 9.0, -7.0, 5.0])
    to_index = np.linalg.inv(to_physical) @ np.linalg.inv(search.similarity_matrix(truth, centre)) @ to_physical
    moving = ndimage.affine_transform(blobs, to_index[:3, :3], to_index[:3, 3], order=3)
    everywhere = np.ones(SHAPE, bool)
    rng = np.random.default_rng(0)
    points = search.sample(blobs, to_physical, everywhere, count=8000, bins=search.BINS, rng=rng)
    # A contrast that is turned upside down and bent changes nothing.
    target = search.volume(np.exp(-moving / 2), to_physical, everywhere, bins=search.BINS)
    starts = np.array([[t, 0, 0, s, 0, 0] for t in (-0.2, 0, 0.2) for s in (-10.0, 0, 10.0)])
    found, _ = search.multistart(points, target, starts, centre, keep=3, step_mm=0.5)
    corners = np.array([[30, 40, 30, 1], [130, 130, 110, 1.0]]).T
    error = (search.similarity_matrix(found, centre) - search.similarity_matrix(truth, centre)) @ corners
    assert np.linalg.norm(error[:3], axis=0).max() < 1.0


def test_a_scale_is_about_the_centre():
    matrix = search.similarity_matrix(np.array([0, 0, 0, 0, 0, 0, np.log(2)]), np.array([1.0, 2.0, 3.0]))
    assert np.allclose(matrix @ [1, 2, 3, 1], [1, 2, 3, 1])
    assert np.allclose(matrix @ [2, 2, 3, 1], [3, 2, 3, 1])


def test_an_empty_mask_is_refused(blobs):
    with pytest.raises(ValueError, match="0 voxels"):
        search.sample(blobs, np.eye(4), np.zeros(SHAPE, bool), count=10, bins=4, rng=np.random.default_rng(0))
