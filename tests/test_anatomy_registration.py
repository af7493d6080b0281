"""Registrations of small heads with known motion, and what is resampled through them."""

import numpy as np
import pytest

from qsmals.anatomy import quality
from qsmals.anatomy.brain import Brain, brain_from_mask
from qsmals.anatomy.compute import Compute, ants_session
from qsmals.anatomy.images import LPS_FROM_RAS, cropped, index_to_physical, to_ants, with_data
from qsmals.anatomy.linear import read_affine
from qsmals.anatomy.registration import (
    Transform,
    nearest_rigid,
    register_gre,
    register_template,
    resample,
)
from qsmals.anatomy.search import similarity_matrix
from qsmals.anatomy.stages import write_affine
from qsmals.anatomy.tissue import segment_tissues
from tests.anatomy_heads import SmallHead, dice, moved, small_head, template

MOTION = similarity_matrix(np.array([0.2, -0.1, 0.15, 12.0, -10.0, 12.0]), np.zeros(3))


@pytest.fixture(scope="module")
def compute(tmp_path_factory) -> Compute:
    return Compute(tmp_path_factory.mktemp("registration"), sloppy=True)


@pytest.fixture(scope="module")
def head(compute) -> SmallHead:
    with ants_session(compute):
        return small_head()


@pytest.fixture(scope="module")
def brain(head, compute) -> Brain:
    return brain_from_mask(head.t1w, with_data(head.t1w, head.brain), template(), compute=compute)


@pytest.fixture(scope="module")
def gre(head) -> object:
    return moved(head.gre, MOTION)


@pytest.fixture(scope="module")
def rigid(head, brain, gre, compute) -> Transform:
    return register_gre(gre, head.t1w, brain, compute=compute)


@pytest.fixture(scope="module")
def to_template(brain, compute) -> Transform:
    return register_template(brain, template(), compute=compute)


def motion_error_mm(path, head: SmallHead) -> float:
    """Largest error of a T1w-to-GRE transform over the brain's voxels, against MOTION."""
    matrix = index_to_physical(head.t1w)
    points = matrix @ np.column_stack([np.argwhere(head.brain)[::50], np.ones((head.brain.sum() + 49) // 50)]).T
    return float(np.linalg.norm((read_affine(path) @ (MOTION @ points) - points)[:3], axis=0).max())


def test_a_motion_of_twenty_mm_and_fifteen_degrees_is_recovered(rigid, head):
    assert motion_error_mm(rigid.inverse, head) < 1.0


def test_the_inverse_undoes_the_motion(rigid):
    assert np.allclose(read_affine(rigid.forward) @ read_affine(rigid.inverse), np.eye(4), atol=1e-3)


def test_a_slab_is_enough(head, brain, gre, tmp_path):
    slab = cropped(gre, (slice(None), slice(None), slice(30, 52)))
    found = register_gre(slab, head.t1w, brain, compute=Compute(tmp_path, sloppy=True))
    assert motion_error_mm(found.inverse, head) < 1.5


def test_the_right_registration_passes_and_a_wrong_one_fails(gre, brain, rigid, tmp_path, compute):
    with ants_session(compute):
        good = quality.rigid_quality(gre, brain.image, brain.mask, rigid.forward)
        off = read_affine(rigid.forward).copy()
        off[:3, 3] += 8
        bad = quality.rigid_quality(gre, brain.image, brain.mask, write_affine(off, tmp_path / "off.mat"))
    assert good.passed, good
    assert not bad.passed
    assert "sharpness" in bad.reasons[0]
    assert good.as_dict()["jacobian_low"] is None


def judged(head, slices: slice, shift_mm: float, folder) -> quality.RegistrationQuality:
    """A slab of the displaced head under the true motion, or one that is off by a shift along head-foot."""
    off = similarity_matrix(np.array([0, 0, 0, 0, 0, shift_mm]), np.zeros(3))
    slab = cropped(moved(head.gre, MOTION), (slice(None), slice(None), slices))
    brain = with_data(head.t1w, head.t1w.numpy() * head.brain)
    to_t1w = write_affine(off @ MOTION, folder / "to_t1w.mat")
    return quality.rigid_quality(slab, brain, with_data(head.t1w, head.brain), to_t1w)


def test_a_thin_slab_is_judged_by_what_it_shows(head, tmp_path, compute):
    whole_ml = head.brain.sum() * np.prod(head.t1w.spacing) / 1000
    with ants_session(compute):
        right = judged(head, slice(37, 43), 0, tmp_path)
        shifted = judged(head, slice(37, 43), 8, tmp_path)
        thinner = judged(head, slice(39, 40), 0, tmp_path)
        elsewhere = judged(head, slice(37, 43), 120, tmp_path)
    assert right.passed, right
    assert right.brain_dice > 0.95 and 0.15 < right.in_view_ml / whole_ml < 0.25
    assert [reason.split(" below")[0][:9] for reason in shifted.reasons] == ["sharpness"]
    for little in (thinner, elsewhere):
        (reason,) = little.reasons
        assert "brain in the field of view (ml)" in reason and "below 100" in reason


def test_equal_seeds_give_equal_bytes(head, brain, gre, rigid, tmp_path):
    again = register_gre(gre, head.t1w, brain, compute=Compute(tmp_path, sloppy=True))
    assert again.forward.read_bytes() == rigid.forward.read_bytes()


def test_the_template_fits_and_labels_keep_their_side(to_template, brain, head, compute):
    with ants_session(compute):
        result = quality.template_quality(template(), brain.image, brain.mask, to_template.forward)
        sides = template()
        x = (LPS_FROM_RAS @ index_to_physical(sides))[0]
        ras_x = np.tensordot(np.indices(sides.shape), x[:3], axes=(0, 0)) + x[3]
        halves = with_data(sides, np.where(sides.numpy() > 0, np.where(ras_x < -3, 12, np.where(ras_x > 3, 51, 0)), 0))
        labels = np.rint(resample(halves, head.t1w, [to_template.inverse], labels=True).numpy()).astype(int)
    assert result.passed, result
    assert set(np.unique(labels)) == {0, 12, 51}
    to_ras = LPS_FROM_RAS @ index_to_physical(head.t1w)
    for label, sign in ((12, -1), (51, 1)):
        x = (to_ras @ np.column_stack([np.argwhere(labels == label), np.ones((labels == label).sum())]).T)[0]
        assert (x * sign > 0).mean() > 0.99
    assert dice(labels > 0, head.brain) > 0.85


def test_template_labels_reach_the_gre_in_one_step(to_template, rigid, gre, head, compute):
    with ants_session(compute):
        support = with_data(template(), template().numpy() > 0)
        labels = resample(support, gre, [to_template.inverse, rigid.inverse], labels=True).numpy() > 0.5
    truth = moved(with_data(head.t1w, head.brain), MOTION).numpy() > 0.5
    assert labels.shape == gre.shape
    assert dice(labels, truth) > 0.9


@pytest.mark.slow
def test_the_deformation_is_reproducible(brain, to_template, tmp_path):
    again = register_template(brain, template(), compute=Compute(tmp_path, sloppy=True))
    assert again.inverse.read_bytes() == to_template.inverse.read_bytes()


def test_missing_transforms_and_empty_scans_are_refused(head, brain, compute, tmp_path):
    with ants_session(compute):
        with pytest.raises(FileNotFoundError, match=r"gone\.h5"):
            resample(head.t1w, head.t1w, [tmp_path / "gone.h5"])
        with pytest.raises(ValueError, match="empty or constant"):
            register_gre(to_ants(np.zeros((20, 20, 20)), np.eye(4)), head.t1w, brain, compute=compute)


def test_the_nearest_rigid_map_has_no_scale():
    rigid = nearest_rigid(MOTION @ np.diag([1.01, 0.99, 1.0, 1.0]))
    assert np.allclose(rigid[:3, :3] @ rigid[:3, :3].T, np.eye(3))
    assert np.array_equal(rigid[:3, 3], MOTION[:3, 3])


def test_tissues_are_told_apart(brain, head, compute):
    labels = segment_tissues(brain.image, brain.mask, compute=compute).numpy()
    assert set(np.unique(labels)) == {0, 1, 2, 3}
    assert not labels[~head.brain].any()
    means = [brain.image.numpy()[labels == k].mean() for k in (1, 2, 3)]
    assert means == sorted(means)
    assert not list(compute.work_dir.glob("antsr*"))
