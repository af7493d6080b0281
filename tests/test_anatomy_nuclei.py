"""Borders of the deep nuclei: found where the image shows them, and never drawn around bright noise."""

import numpy as np
import pytest
from scipy import ndimage

from qsmals.anatomy.nuclei import fit_nuclei, nuclei_change, split_parts

SIZE = (1.0, 1.0, 1.0)
WHITE, PALLIDUM, PUTAMEN = 2, 13, 12


def ellipsoids(shift: float = 0.0, grow: float = 0.0) -> np.ndarray:
    """Pallidum beside putamen in white matter, both moved and grown by so many voxels."""
    x, y, z = np.indices((44, 40, 36)).astype(float)
    labels = np.full(x.shape, WHITE, np.int32)
    for label, centre, half in ((PUTAMEN, (27, 20, 18), (6, 11, 9)), (PALLIDUM, (17, 20, 18), (5, 8, 7))):
        inside = sum(((a - c - shift) / (h + grow)) ** 2 for a, c, h in zip((x, y, z), centre, half, strict=True)) < 1
        labels[inside] = label
    return labels


def picture(labels: np.ndarray, values: dict[int, float], *, noise: float, seed: int = 0) -> np.ndarray:
    """A value for each label, blurred by less than a voxel, with noise."""
    image = np.zeros(labels.shape)
    for label, value in values.items():
        image[labels == label] = value
    rng = np.random.default_rng(seed)
    return (ndimage.gaussian_filter(image, 0.6) + rng.normal(0, noise, labels.shape)).astype(np.float32)


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * float((a & b).sum()) / float(a.sum() + b.sum())


TRUTH = ellipsoids()
CHI = {WHITE: -0.02, PALLIDUM: 0.12, PUTAMEN: 0.05}
T1W = {WHITE: 110.0, PALLIDUM: 98.0, PUTAMEN: 80.0}


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    return [picture(TRUTH, CHI, noise=0.008), picture(TRUTH, T1W, noise=4.0, seed=1)]


@pytest.mark.parametrize(("shift", "grow"), [(0.0, 1.2), (0.0, -1.2), (1.0, 0.0), (-0.7, 0.8)])
def test_borders_move_to_where_the_images_show_them(images, shift, grow):
    atlas = ellipsoids(shift, grow)
    fitted = fit_nuclei(atlas, chi_ppm=images[0], t1w=images[1], voxel_size_mm=SIZE)
    for label in (PALLIDUM, PUTAMEN):
        assert dice(fitted == label, label == TRUTH) > max(0.90, dice(atlas == label, label == TRUTH))
        # the mean of what was measured is that of the true region, from above and from below
        true_mean, mean = (float(images[0][labels == label].mean()) for labels in (TRUTH, fitted))
        assert abs(mean - true_mean) < 0.07 * true_mean


def test_bright_noise_is_not_collected():
    atlas = ellipsoids()
    change = []
    for seed in range(8):
        noise = np.random.default_rng(seed).normal(1.0, 0.01, atlas.shape).astype(np.float32)
        fitted = fit_nuclei(atlas, chi_ppm=noise, voxel_size_mm=SIZE)
        change += [float(noise[fitted == n].mean() - noise[atlas == n].mean()) / 0.01 for n in (PALLIDUM, PUTAMEN)]
        assert dice(fitted == PALLIDUM, atlas == PALLIDUM) > 0.93
    assert abs(float(np.mean(change))) < 0.02  # standard deviations of the noise


def test_smooth_variation_in_a_nucleus_is_not_cut_off(images):
    """A nucleus whose iron falls off by half from one end to the other keeps both ends."""
    ramp = np.linspace(1.3, 0.7, TRUTH.shape[1])[None, :, None]
    chi = np.where(TRUTH == WHITE, images[0], images[0] * ramp).astype(np.float32)
    fitted = fit_nuclei(ellipsoids(grow=1.0), chi_ppm=chi, t1w=images[1], voxel_size_mm=SIZE)
    assert dice(fitted == PUTAMEN, TRUTH == PUTAMEN) > 0.94


def test_units_do_not_matter_and_inputs_stay(images):
    atlas = ellipsoids(0.6, 0.5)
    before = atlas.copy()
    first = fit_nuclei(atlas, chi_ppm=images[0], t1w=images[1], voxel_size_mm=SIZE)
    second = fit_nuclei(atlas, chi_ppm=images[0] * 1000 - 5000, t1w=images[1] / 7, voxel_size_mm=SIZE)
    assert (first != second).mean() < 1e-4
    assert np.array_equal(atlas, before)
    assert first.dtype == np.int32


def test_what_was_not_measured_keeps_its_label(images):
    atlas = ellipsoids(1.0, 0.0)
    chi = images[0].copy()
    chi[:, :, :18] = 0
    chi[:, :, -1] = np.nan
    fitted = fit_nuclei(atlas, chi_ppm=chi, t1w=images[1], voxel_size_mm=SIZE)
    assert np.array_equal(fitted[:, :, :18], atlas[:, :, :18])
    assert not np.array_equal(fitted[:, :, 18:], atlas[:, :, 18:])


def test_labels_of_the_surroundings_keep_their_borders(images):
    atlas = ellipsoids(1.0, 0.0)
    atlas[(atlas == WHITE) & (np.indices(atlas.shape)[1] < 8)] = 251
    fitted = fit_nuclei(atlas, chi_ppm=images[0], t1w=images[1], voxel_size_mm=SIZE)
    both = np.isin(atlas, (WHITE, 251)) & np.isin(fitted, (WHITE, 251))
    assert np.array_equal(fitted[both], atlas[both])


def test_each_side_is_fitted():
    right = {WHITE: 41, PALLIDUM: 52, PUTAMEN: 51}
    mirrored = np.vectorize(right.get)(TRUTH[::-1])
    truth = np.concatenate([TRUTH, mirrored]).astype(np.int32)
    atlas = np.concatenate([ellipsoids(0.8), np.vectorize(right.get)(ellipsoids(0.8)[::-1])]).astype(np.int32)
    chi = picture(truth, CHI | {right[k]: v for k, v in CHI.items()}, noise=0.008)
    fitted = fit_nuclei(atlas, chi_ppm=chi, voxel_size_mm=SIZE)
    for label in (13, 52):
        assert dice(fitted == label, truth == label) > 0.93


def test_thick_slices_are_millimetres_too():
    thick = (slice(None), slice(None), slice(None, None, 2))
    chi = picture(TRUTH, CHI, noise=0.008)[thick]
    fitted = fit_nuclei(ellipsoids(1.0)[thick], chi_ppm=chi, voxel_size_mm=(1.0, 1.0, 2.0))
    assert dice(fitted == PALLIDUM, TRUTH[thick] == PALLIDUM) > 0.93


def test_labels_without_nuclei_come_back_as_they_were():
    plain = np.full((12, 12, 12), 1024, np.int32)
    assert np.array_equal(fit_nuclei(plain, t1w=np.ones(plain.shape, np.float32), voxel_size_mm=SIZE), plain)


def test_hippocampus_follows_the_t1w_image_too():
    """A structure without iron: on susceptibility there is nothing to see, on the T1w image there is."""
    name = {PALLIDUM: 17, PUTAMEN: WHITE, WHITE: WHITE}
    truth, atlas = (np.vectorize(name.get)(ellipsoids(s)).astype(np.int32) for s in (0.0, 0.8))
    chi = np.random.default_rng(2).normal(0.01, 0.01, truth.shape).astype(np.float32)
    t1w = picture(truth, {WHITE: 110.0, 17: 72.0}, noise=4.0)
    alone = fit_nuclei(atlas, chi_ppm=chi, voxel_size_mm=SIZE)
    both = fit_nuclei(atlas, chi_ppm=chi, t1w=t1w, voxel_size_mm=SIZE)
    assert dice(both == 17, truth == 17) > 0.95 > dice(alone == 17, truth == 17)


def test_a_t1w_image_alone_moves_only_what_it_shows():
    name = {PALLIDUM: 11, PUTAMEN: PUTAMEN, WHITE: WHITE}
    truth, atlas = (np.vectorize(name.get)(ellipsoids(s)).astype(np.int32) for s in (0.0, 0.8))
    t1w = picture(truth, {WHITE: 110.0, 11: 80.0, PUTAMEN: 80.0}, noise=4.0)
    fitted = fit_nuclei(atlas, t1w=t1w, voxel_size_mm=SIZE)
    assert dice(fitted == 11, truth == 11) > 0.95 > dice(atlas == 11, truth == 11)
    assert np.array_equal(fitted == PUTAMEN, atlas == PUTAMEN)


def test_what_cannot_be_fitted_is_refused():
    labels = np.zeros((5, 5, 5), np.int32)
    with pytest.raises(ValueError, match="without an image"):
        fit_nuclei(labels, voxel_size_mm=SIZE)
    with pytest.raises(ValueError, match="one shape"):
        fit_nuclei(labels, chi_ppm=np.zeros((5, 5, 4), np.float32), voxel_size_mm=SIZE)


def test_parts_divide_the_whole_label_and_nothing_else():
    labels = ellipsoids()
    drawn = np.zeros_like(labels)
    drawn[8:16], drawn[18:22] = 40021, 40023
    parts = split_parts(labels, drawn, {40021: PALLIDUM, 40023: PALLIDUM}, voxel_size_mm=SIZE)
    assert np.array_equal(parts > 0, labels == PALLIDUM)
    assert set(np.unique(parts)) == {0, 40021, 40023}
    assert not split_parts(labels, np.zeros_like(labels), {40021: PALLIDUM}, voxel_size_mm=SIZE).any()


def test_a_nucleus_that_doubles_is_named():
    small, large = ellipsoids(grow=-1.5), ellipsoids(grow=2.0)
    assert "13" in nuclei_change(small, large).warnings[0]
    assert nuclei_change(small, small).warnings == ()
