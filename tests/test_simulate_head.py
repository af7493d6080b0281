"""Heads and people: anatomy, deformation, veins, planted susceptibility."""

from dataclasses import replace

import numpy as np
import pytest

from qsmals.bids.phantom import template_head
from qsmals.simulate import anatomy, tissue
from qsmals.simulate.geometry import coordinates
from qsmals.simulate.labels import (
    AIR,
    BONE,
    CSF,
    MOTOR_CORTEX,
    OUTSIDE_BRAIN,
    RED_NUCLEUS,
    REGIONS,
    SUBSTANTIA_NIGRA,
    VEIN,
    check_labels,
)
from qsmals.simulate.subject import SimulationSettings, field_of_view, make_person, physics_grid, regrid, stream
from qsmals.simulate.veins import veins

EDGE_MM = 2.5


@pytest.fixture(scope="module")
def head() -> anatomy.Head:
    return template_head(seed=0, voxel_size_mm=EDGE_MM)


def centre_mm(head: anatomy.Head, labels: tuple[int, ...]) -> np.ndarray:
    index = np.argwhere(np.isin(head.labels, labels)).mean(axis=0)
    return head.affine[:3, :3] @ index + head.affine[:3, 3]


def test_the_head_is_whole(head: anatomy.Head) -> None:
    check_labels(head.labels)
    assert head.labels.min() > 0
    assert np.all(head.labels[[0, -1]] == AIR) and np.all(head.labels[:, [0, -1]] == AIR)
    assert np.all(head.labels[..., -1] == AIR)
    litres = {r: (head.labels == r).sum() * EDGE_MM**3 / 1e6 for r in (BONE, CSF)}
    assert 0.3 < litres[BONE] < 1.2 and 0.15 < litres[CSF] < 0.7


def test_the_brain_touches_neither_bone_nor_air(head: anatomy.Head) -> None:
    outside = np.isin(head.labels, OUTSIDE_BRAIN)
    brain = ~outside & (head.labels != CSF)
    for axis in range(3):
        assert not (brain & np.roll(outside, 1, axis)).any()
        assert not (brain & np.roll(outside, -1, axis)).any()


def test_sinuses_lie_under_the_frontal_lobes(head: anatomy.Head) -> None:
    x, y, z = np.broadcast_arrays(*coordinates(head.labels.shape, head.affine))
    box = (np.abs(x) < 12) & (y > 25) & (y < 60) & (z < -35) & (z > -60)
    assert (head.labels[box] == AIR).mean() > 0.15


def test_midbrain_nuclei_are_where_they_belong(head: anatomy.Head) -> None:
    for left, right in (SUBSTANTIA_NIGRA, RED_NUCLEUS):
        a, b = centre_mm(head, (left,)), centre_mm(head, (right,))
        assert a[0] < 0 < b[0]
        np.testing.assert_allclose(a[1:], b[1:], atol=3)
    nigra, red = centre_mm(head, SUBSTANTIA_NIGRA), centre_mm(head, RED_NUCLEUS)
    assert nigra[1] > red[1] and nigra[2] < red[2]  # in front of and below the red nucleus
    assert nigra[2] < centre_mm(head, (10, 49))[2]  # below the thalamus
    volume = np.isin(head.labels, SUBSTANTIA_NIGRA).sum() * EDGE_MM**3
    assert 700 < volume < 2200


def test_nuclei_outside_the_midbrain_are_an_error(head: anatomy.Head) -> None:
    far = np.eye(4)
    far[:3, 3] = 400
    with pytest.raises(ValueError, match="outside the midbrain"):
        anatomy.insert_midbrain_nuclei(head.labels, nuclei=np.ones((5, 5, 5), np.uint8), to_nuclei=far)


def test_template_affine_finds_a_known_affine() -> None:
    rng = np.random.default_rng(0)
    truth = np.eye(4)
    truth[:3] += rng.normal(0, 0.1, (3, 4)) * [1, 1, 1, 50]
    points = {i: rng.normal(0, 30, 3) for i in anatomy.LANDMARKS}
    moved = {i: (truth @ [*p, 1])[:3] for i, p in points.items()}
    np.testing.assert_allclose(anatomy.template_affine(points, moved), truth, atol=1e-8)
    with pytest.raises(ValueError, match="8 are needed"):
        anatomy.template_affine({i: points[i] for i in anatomy.LANDMARKS[:5]}, moved)


def test_unknown_labels_are_named() -> None:
    with pytest.raises(ValueError, match="11129"):
        check_labels(np.array([0, 2, 11129]))


def test_deformation_is_smooth_invertible_and_reproducible(head: anatomy.Head) -> None:
    first, again, other = (
        anatomy.deform(head, amplitude_mm=3.0, shrink=0.05, rng=stream(0, s, "deformation")) for s in (0, 0, 1)
    )
    np.testing.assert_array_equal(first.labels, again.labels)
    np.testing.assert_array_equal(first.t1w, again.t1w)
    assert (first.labels != other.labels).mean() > 0.02
    assert set(np.unique(first.labels)) <= set(np.unique(head.labels))
    assert anatomy.deform(head, amplitude_mm=0.0, rng=np.random.default_rng(0)) is head
    brains = [np.sum(~np.isin(h.labels, OUTSIDE_BRAIN)) for h in (head, first)]
    assert 0.7 < brains[1] / brains[0] < 1.0


def test_a_wild_deformation_is_calmed_until_it_can_be_inverted(head: anatomy.Head) -> None:
    folded = [np.float32(4) * np.random.default_rng(i).normal(size=(20, 20, 20)).astype(np.float32) for i in range(3)]
    assert anatomy.jacobian_minimum(folded) < 0.3
    assert anatomy.jacobian_minimum([np.zeros((8, 8, 8), np.float32)] * 3) == pytest.approx(1.0)
    wild = anatomy.deform(head, amplitude_mm=40.0, rng=np.random.default_rng(0))
    assert np.isin(wild.labels, (2, 41)).any()


def test_veins(head: anatomy.Head) -> None:
    marked, fraction = veins(head, rng=np.random.default_rng(0))
    again, same = veins(head, rng=np.random.default_rng(0))
    np.testing.assert_array_equal(fraction, same)
    np.testing.assert_array_equal(marked.labels, again.labels)
    assert fraction.min() >= 0 and fraction.max() <= 1 and (fraction > 0).sum() > 500
    sinus = centre_mm(marked, (VEIN,))
    middle = centre_mm(head, (2, 41))
    assert abs(sinus[0] - middle[0]) < 5 and sinus[2] > middle[2]
    changed = marked.labels != head.labels
    assert np.all(marked.labels[changed] == VEIN)
    assert not np.isin(head.labels[changed], (2, 41, 1024)).any()


def test_planted_means_are_exact_before_borders_blur(head: anatomy.Head) -> None:
    person = make_person(0, 0)
    chi = tissue.susceptibility(head, person=person, als_effect_ppb=5.0, rng=np.random.default_rng(1)) * 1e3
    means = tissue.person_susceptibility_ppb(person, rng=np.random.default_rng(1))
    for index in np.unique(head.labels):
        region = REGIONS[int(index)]
        assert chi[head.labels == index].mean(dtype=float) == pytest.approx(means[region.tissue], abs=0.3, rel=1e-4)


def test_the_published_order_of_regions_holds() -> None:
    chi = {name: t.chi_ppb for name, t in tissue.TISSUES.items()}
    order = ["air", "vein", "pallidum", "substantia_nigra", "red_nucleus", "putamen", "caudate", "motor_cortex"]
    order += ["cortex", "thalamus", "white_matter", "bone"]
    assert [chi[n] for n in order] == sorted((chi[n] for n in order), reverse=True)


def test_the_als_effect_is_planted_in_deep_motor_cortex(head: anatomy.Head) -> None:
    control = tissue.Person("control", 60.0, "F")
    patient = replace(control, group="ALS")
    maps = [
        tissue.susceptibility(head, person=p, als_effect_ppb=7.0, rng=np.random.default_rng(2)) * 1e3
        for p in (control, patient)
    ]
    change = maps[1] - maps[0]
    motor = np.isin(head.labels, MOTOR_CORTEX)
    assert np.abs(change[~motor]).max() == 0
    for index in MOTOR_CORTEX:
        assert change[head.labels == index].mean(dtype=float) == pytest.approx(7.0, abs=1e-3)
    depth = tissue.cortical_depth(head.labels, motor, head.voxel_size_mm)
    assert depth.min() >= 0 and depth.max() <= 1
    assert change[motor][depth > 0.6].mean() > change[motor][depth < 0.4].mean() + 2
    assert maps[0][motor][depth > 0.6].mean() > maps[0][motor][depth < 0.4].mean() + 2


def test_texture_follows_the_t1w(head: anatomy.Head) -> None:
    person = tissue.Person("control", 60.0, "F")
    chi = tissue.susceptibility(head, person=person, als_effect_ppb=0.0, rng=np.random.default_rng(3))
    white = np.isin(head.labels, (2, 41))
    assert np.corrcoef(chi[white], head.t1w[white])[0, 1] < -0.3


def test_iron_grows_with_age() -> None:
    young, old = (tissue.iron_change_ppb("putamen", a) for a in (30.0, 80.0))
    assert young < -10 and 0 < old < 10


def test_relaxation_follows_the_field_strength(head: anatomy.Head) -> None:
    assert tissue.r2star_factor(3.0) == pytest.approx(1) and tissue.r1_factor(3.0) == pytest.approx(1)
    assert tissue.r2star_factor(7.0) == pytest.approx(37.3 / 18.8, rel=0.05)  # white matter, Peters 2007
    fraction = np.zeros(head.labels.shape, np.float32)
    low, high = (
        tissue.tissue_maps(
            head,
            person=make_person(0, 0),
            vein_fraction=fraction,
            b0_tesla=b,
            als_effect_ppb=0.0,
            blur_mm=0.4,
            rng=np.random.default_rng(0),
        )
        for b in (3.0, 7.0)
    )
    np.testing.assert_array_equal(low.chi_ppm, high.chi_ppm)
    np.testing.assert_allclose(high.r2star_hz, low.r2star_hz * tissue.r2star_factor(7.0), rtol=1e-4)
    assert low.chi_ppm.dtype == low.r2star_hz.dtype == np.float32
    assert all(np.isfinite(v).all() for v in vars(low).values())


def test_people_differ_and_do_not_depend_on_their_number() -> None:
    people = [make_person(7, i) for i in range(20)]
    assert people == [make_person(7, i) for i in range(20)]
    assert [p.group for p in people[:4]] == ["control", "ALS", "control", "ALS"]
    assert len({p.age_years for p in people}) > 5 and {p.sex for p in people} == {"F", "M"}
    draws = [
        tissue.person_susceptibility_ppb(replace(p, age_years=60.0), rng=stream(7, i, "tissue"))["putamen"]
        for i, p in enumerate(people)
    ]
    assert 2 < np.std(draws) < 12 and abs(np.mean(draws) - 67) < 8


def test_streams_are_independent() -> None:
    keys = [(0, 0, "noise", 0), (0, 0, "noise", 1), (0, 1, "noise", 0), (1, 0, "noise", 0), (0, 0, "shim", 0)]
    first = [stream(s, i, n, k).random() for s, i, n, k in keys]
    assert len(set(first)) == len(keys)


def test_physics_runs_at_least_as_finely_as_the_scan() -> None:
    assert physics_grid((3.0, 3.0, 3.0), (1.5, 1.5, 1.5)) == ((2, 2, 2), (1.5, 1.5, 1.5))
    assert physics_grid((0.8, 0.8, 0.8), (1.0, 1.0, 1.0)) == ((1, 1, 1), (0.8, 0.8, 0.8))


def test_regridding_keeps_every_structure_in_place(head: anatomy.Head) -> None:
    fine, fraction = regrid(head, np.zeros(head.labels.shape, np.float32), (2.0, 2.0, 1.25))
    assert fraction.shape == fine.labels.shape == fine.t1w.shape
    assert fine.voxel_size_mm == pytest.approx((2.0, 2.0, 1.25))
    for labels in ((12,), (2, 41), RED_NUCLEUS):
        np.testing.assert_allclose(centre_mm(fine, labels), centre_mm(head, labels), atol=1.2)


def test_field_of_view_holds_the_brain(head: anatomy.Head) -> None:
    brain = anatomy.brain_mask(head.labels, head.voxel_size_mm)
    sizes = {}
    for extent, slab in (("head", None), ("brain", None), ("brain", 60.0)):
        box = field_of_view(head, brain, factors=(2, 2, 2), settings=SimulationSettings(extent=extent, slab_mm=slab))
        shape = head.labels[box].shape
        assert all(n % 4 == 0 for n in shape)
        sizes[extent, slab] = np.prod(shape)
        if slab is None:
            assert brain[box].sum() > 0.999 * brain.sum()
        else:
            assert abs(shape[2] * EDGE_MM - slab) <= 4 * EDGE_MM
    assert sizes["head", None] > sizes["brain", None] > sizes["brain", 60.0]
