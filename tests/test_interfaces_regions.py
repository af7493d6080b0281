"""Region tables and the fit of the deep nuclei as the graph runs them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from qsmals.anatomy.atlases import ALS, MIDBRAIN
from qsmals.anatomy.destrieux import DESTRIEUX_ATLAS
from qsmals.anatomy.linear import read_affine
from qsmals.anatomy.quality import NucleiQuality
from qsmals.anatomy.refinement import Refined
from qsmals.anatomy.registration import Transform
from qsmals.cli.participant import atlas_plan
from qsmals.interfaces.anatomy import FitNuclei, GivenRigid, RefineNuclei, Resample
from qsmals.interfaces.base import load_labels, save
from qsmals.interfaces.outputs import SaveImage
from qsmals.interfaces.regions import MeasureRegions
from qsmals.roi.columns import STATISTICS
from qsmals.roi.table import read_table

SHAPE = (20, 18, 16)
AFFINE = np.diag([1.0, 1.0, 1.0, 1.0])
GOOD = {"passed": True, "reasons": []}
BAD = {"passed": False, "reasons": ["sharpness 1.02 below 1.25: the folds of the two images do not match"]}


def run(step: Any, folder: Path) -> Any:
    return step.run(cwd=str(folder)).outputs


def labels() -> np.ndarray:
    """White matter with a pallidum and a brainstem in it."""
    data = np.full(SHAPE, 2, np.int32)
    data[6:12, 6:12, 5:11] = 13
    data[14:18, 4:10, 4:10] = 16
    return data


def inputs(folder: Path, **more: Any) -> dict[str, Any]:
    values = np.random.default_rng(0).normal(0.01, 0.02, SHAPE).astype(np.float32)
    values[labels() == 13] += 0.1
    return {
        "in_file": save(values, AFFINE, folder / "chi.nii"),
        "mask": save(np.ones(SHAPE, bool), AFFINE, folder / "mask.nii"),
        "white_matter": save(labels() == 2, AFFINE, folder / "white.nii"),
        "labels": save(labels(), AFFINE, folder / "labels.nii"),
        "unit": "ppm",
        **more,
    }


def test_parts_are_rows_at_the_end_of_the_table(tmp_path: Path) -> None:
    parts = np.where(labels() == 13, np.where(np.indices(SHAPE)[0] < 9, 40021, 40023), 0).astype(np.int32)
    file = save(parts, AFFINE, tmp_path / "parts.nii")
    made = run(MeasureRegions(**inputs(tmp_path, atlas="als", parts=file, registration_gre=GOOD)), tmp_path)
    table = read_table(Path(made.table).read_text())
    assert len(table["name"]) == len(ALS.regions) + len(ALS.parts)
    rows = {(n, s): i for i, (n, s) in enumerate(zip(table["name"], table["hemisphere"], strict=True))}
    whole, outer = rows["pallidum", "L"], rows["pallidum_external", "L"]
    assert table["n_voxels"][whole] == 216 and table["n_voxels"][outer] == 108
    assert table["mean"][outer] > 0.08
    assert "RegistrationFailed" not in made.columns


@pytest.mark.parametrize("failed", ["registration_gre", "registration_template"])
def test_a_failed_registration_leaves_no_statistics(tmp_path: Path, failed: str) -> None:
    judged = {"registration_gre": GOOD, "registration_template": GOOD, failed: BAD}
    made = run(MeasureRegions(**inputs(tmp_path, atlas="als", **judged)), tmp_path)
    table = read_table(Path(made.table).read_text())
    assert all(np.isnan(table[name]).all() for name in STATISTICS)
    assert table["n_voxels"].max() > 0
    told = made.columns["RegistrationFailed"]
    assert told.startswith("All statistics are n/a") and "the folds of the two images do not match" in told
    json.dumps(made.columns)


def test_a_failed_registration_of_templates_counts_for_what_came_through_it(tmp_path: Path) -> None:
    given = inputs(tmp_path, regions=[[13, "a", "L", [13]]], registration_gre=GOOD, registration_template=GOOD)
    made = [run(MeasureRegions(**given, registration_between_templates=facts), tmp_path) for facts in (BAD, GOOD)]
    assert ["RegistrationFailed" in one.columns for one in made] == [True, False]


FROM_TEMPLATE = {
    *("substantia_nigra", "red_nucleus", "brainstem", "ventral_diencephalon", "pallidum_external", "pallidum_internal"),
    *("thalamus_motor", "thalamus_medial", "thalamus_pulvinar", "thalamus_other"),
}


@pytest.mark.parametrize("failed", ["registration_gre", "registration_template"])
def test_a_subjects_own_segmentation_needs_the_template_for_some_regions_only(tmp_path: Path, failed: str) -> None:
    data = labels()
    data[14:16, 4:6, 4:6], data[14:16, 6:8, 4:6], data[12:14, 4:8, 4:8] = 27, 751, 28
    parts = np.where(labels() == 13, np.where(np.indices(SHAPE)[0] < 9, 40021, 40023), 0).astype(np.int32)
    given = inputs(tmp_path, atlas="als", segmented=True, parts=save(parts, AFFINE, tmp_path / "parts.nii"))
    given["labels"] = save(data, AFFINE, tmp_path / "own.nii")
    judged = {"registration_gre": GOOD, "registration_template": GOOD, failed: BAD}
    made = run(MeasureRegions(**given, **judged), tmp_path)
    table = read_table(Path(made.table).read_text())
    there = table["n_voxels"] > 0
    known = np.isfinite(table["mean"])
    if failed == "registration_gre":
        assert not known.any() and made.columns["RegistrationFailed"].startswith("All statistics are n/a")
        return
    assert FROM_TEMPLATE.isdisjoint(table["name"][known])
    assert FROM_TEMPLATE.issuperset(table["name"][there & ~known])
    assert {"white_matter", "pallidum", "brain"} <= set(table["name"][known])
    told = made.columns["RegistrationFailed"]
    assert told.startswith("The statistics of brainstem, ") and "registration to the template: sharpness" in told


def failing(*arguments: Any, **more: Any) -> Refined:
    quality = NucleiQuality(0.5, 0.1, 0.9, 1.1, 2.0, ("correlation with the expected map 0.10 below 0.2",))
    return Refined(Transform(Path("forward.h5"), Path("inverse.h5")), quality)


def test_a_deformation_that_fails_its_check_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qsmals.anatomy.refinement.refine_nuclei", failing)
    image = save(labels(), AFFINE, tmp_path / "image.nii")
    files = dict.fromkeys(("chi", "brain", "labels", "to_t1w", "to_template"), image)
    placed = run(RefineNuclei(template="MNI152NLin6Asym", **files), tmp_path)
    assert np.allclose(read_affine(Path(placed.inverse)), np.eye(4)) and placed.forward == placed.inverse
    made = run(FitNuclei(labels=image, notes=placed.notes, placement=placed.facts), tmp_path)
    (warning,) = made.facts["warnings"]
    assert "is not used (correlation with the expected map 0.10 below 0.2)" in warning
    assert made.facts["correlation"] == 0.1 and made.facts["largest_shift_mm"] == 2.0


def test_probabilities_give_weighted_rows(tmp_path: Path) -> None:
    members = np.zeros((*SHAPE, 2), np.float32)
    members[..., 0][labels() == 13] = 0.5
    members[..., 1][labels() == 16] = 1.0
    given = inputs(tmp_path, regions=[[7, "a", "L", [1]], [8, "b", "B", [2]]], probabilistic=True)
    given["labels"] = save(members, AFFINE, tmp_path / "members.nii")
    made = run(MeasureRegions(**given), tmp_path)
    table = read_table(Path(made.table).read_text())
    assert table["volume_mm3"].tolist() == [108, 144]
    assert table["mean"][0] > 0.08 > 0.02 > table["mean"][1]
    assert "weighted by its membership" in made.columns["mean"]["Description"]


def test_a_segmentation_replaces_the_labels_but_for_the_midbrain_nuclei(tmp_path: Path) -> None:
    atlas = labels()
    atlas[15:17, 5:8, 5:8] = 27
    atlas[0:2, 0:2, 0:2] = 751
    segmentation = labels()
    segmentation[6:12, 6:12, 5:11] = 12
    made = run(
        FitNuclei(
            labels=save(atlas, AFFINE, tmp_path / "atlas.nii"),
            segmentation=save(segmentation, AFFINE, tmp_path / "aparc.nii"),
        ),
        tmp_path,
    )
    found = load_labels(made.labels)
    midbrain = np.isin(found, MIDBRAIN)
    assert np.array_equal(found[~midbrain], segmentation[~midbrain])
    assert np.array_equal(found == 27, atlas == 27)
    assert not (found == 751).any()  # outside the brainstem


def test_numbers_that_are_not_freesurfers_are_left_out_of_a_segmentation(tmp_path: Path) -> None:
    segmentation = labels()
    segmentation[:3], segmentation[19] = 77, 4711
    files = {"labels": labels(), "segmentation": segmentation}
    made = run(FitNuclei(**{n: save(d, AFFINE, tmp_path / f"{n}.nii") for n, d in files.items()}), tmp_path)
    assert set(np.unique(load_labels(made.labels))) == {0, 2, 13, 16, 77}
    assert "left out: 4711" in made.facts["warnings"][0]


def in_blocks(numbers: Sequence[int], path: Path) -> np.ndarray:
    """A made-up segmentation with every number in a block of 8 voxels, as FreeSurfer writes it."""
    data = np.zeros((16, 16, 32), np.int32)
    places = [(x, y, z) for x in range(0, 16, 2) for y in range(0, 16, 2) for z in range(0, 32, 2)]
    for number, (x, y, z) in zip(numbers, places, strict=False):
        data[x : x + 2, y : y + 2, z : z + 2] = number
    nib.save(nib.MGHImage(data, AFFINE), path)
    return data


def measured(file: Path, truth: np.ndarray, folder: Path, **atlas: Any) -> dict[tuple[str, str], dict[str, Any]]:
    """The table of a map that has each voxel's number as its value, by name and side."""
    values = save(truth.astype(np.float32) / 1000, AFFINE, folder / "map.nii")
    moved = run(Resample(in_file=str(file), reference=values, kind="labels"), folder)
    assert np.array_equal(load_labels(moved.out_file), truth)
    images = {name: save(np.ones(truth.shape, bool), AFFINE, folder / f"{name}.nii") for name in ("mask", "white")}
    step = MeasureRegions(
        in_file=values, mask=images["mask"], white_matter=images["white"], labels=moved.out_file, unit="ppm", **atlas
    )
    table = read_table(Path(run(step, folder).table).read_text())
    rows = [dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)]
    return {(row["name"], row["hemisphere"]): row for row in rows}


def test_labels_of_the_dkt_atlas_are_measured_under_their_names(tmp_path: Path) -> None:
    absent = (1, 4, 32, 33)  # DKT has no banks of the superior temporal sulcus and no poles
    gyri = [side + n for side in (1000, 2000) for n in range(1, 36) if n not in absent]
    inner = [2, 41, 4, 43, 10, 49, 11, 50, 12, 51, 13, 52, 16, 17, 53, 18, 54, 26, 58, 28, 60, 77, 85]
    file = tmp_path / "aparc.DKTatlas+aseg.mgz"
    rows = measured(file, in_blocks([*gyri, *inner], file), tmp_path, atlas="als", segmented=True)
    for name, left, right in (("precentral", 1024, 2024), ("insula", 1035, 2035), ("pallidum", 13, 52)):
        for side, index in (("L", left), ("R", right)):
            row = rows[name, side]
            assert (row["index"], row["n_voxels"]) == (index, 8)
            assert row["mean"] == pytest.approx(index / 1000)
    gone = [rows[name, "L"] for name in ("bankssts", "frontal_pole", "temporal_pole")]
    assert [row["n_voxels"] for row in gone] == [0, 0, 0] and np.isnan([row["mean"] for row in gone]).all()


def test_what_only_freesurfer_labels_has_a_row_where_it_is_and_counts_as_brain(tmp_path: Path) -> None:
    """The numbers of a subject's aparc+aseg by FreeSurfer 6."""
    gyri = [side + n for side in (1000, 2000) for n in range(36) if n != 4]
    pairs = [2, 3, 4, 5, 7, 8, 10, 11, 12, 13, 17, 18, 26, 28, 31, 41, 42, 43, 44, 46, 47, 49, 50, 51, 52, 53, 54, 58]
    inner = [*pairs, 60, 62, 63, 14, 15, 16, 24, 77, 85, *range(251, 256)]
    file = tmp_path / "aparc+aseg.mgz"
    truth = in_blocks([*gyri, *inner], file)
    rows = measured(file, truth, tmp_path, atlas="als", segmented=True)
    assert rows["brain", "B"]["n_voxels"] == (truth > 0).sum()
    assert rows["white_matter", "B"]["n_voxels"] == np.isin(truth, (2, 41, 77)).sum()
    assert rows["white_matter_hypointensities", "B"]["mean"] == pytest.approx(0.077)
    assert rows["choroid_plexus", "B"]["n_voxels"] == 16 and rows["vessel", "R"]["n_voxels"] == 8
    assert not {("vessel", "L"), ("fifth_ventricle", "B"), ("white_matter_hypointensities", "L")} & set(rows)
    named = {int(line.split("\t")[0]) for line in ALS.label_table(segmented=True).splitlines()[1:]}
    assert set(np.unique(truth)) - {0} <= named
    plain = measured(file, truth, tmp_path, atlas="als")
    assert len(plain) == len(ALS.regions) and ("csf", "B") not in plain


def test_labels_of_destrieux_are_measured_under_their_names(tmp_path: Path) -> None:
    plan = atlas_plan(DESTRIEUX_ATLAS, tmp_path / "aparc.a2009s+aseg.mgz")
    numbers = [side + n for side in (11100, 12100) for n in range(76) if n != 42]  # 0 is unknown cortex
    truth, atlas = in_blocks([*numbers, 2, 41, 13, 52, 77], plan.file), {"regions": list(plan.regions)}
    rows = measured(plan.file, truth, tmp_path, **atlas, optional=list(plan.optional))
    central, precentral = rows["s_central", "L"], rows["g_precentral", "R"]
    assert [central["index"], precentral["index"]] == [11146, 12129]
    assert (central["n_voxels"], precentral["mean"]) == (8, pytest.approx(12.129))
    assert rows["g_precentral", "B"]["n_voxels"] == 16
    assert rows["pallidum", "L"]["mean"] == pytest.approx(0.013)
    empty = {name for (name, _), row in rows.items() if row["n_voxels"] == 0}
    assert not {name for name in empty if name.startswith(("g_", "s_", "lat_", "pole_"))}
    assert {"cortex_unknown", "white_matter_hypointensities"} <= {name for name, _ in rows}
    assert not {"medial_wall", "csf"} & {name for name, _ in rows}
    named = {int(line.split("\t")[0]) for line in plan.table.splitlines()[1:]}
    assert set(np.unique(truth)) - {0} <= named


def test_volumes_of_probabilities_stay_apart(tmp_path: Path) -> None:
    members = np.random.default_rng(1).random((*SHAPE, 3)).astype(np.float32) / 3
    file = save(members, AFFINE, tmp_path / "in.nii")
    reference = save(np.zeros(SHAPE, np.float32), AFFINE, tmp_path / "reference.nii")
    made = run(Resample(in_file=file, reference=reference, kind="probabilities"), tmp_path)
    assert np.allclose(np.asanyarray(nib.load(made.out_file).dataobj), members, atol=1e-6)


def test_volumes_are_read_moved_and_written_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An atlas may have hundreds: none is read before the last one was written."""
    from qsmals.anatomy import images, registration
    from qsmals.interfaces import anatomy

    did: list[str] = []

    def telling(word: str, function: Any) -> Any:
        def told(*args: Any, **more: Any) -> Any:
            did.append(word)
            return function(*args, **more)

        return told

    monkeypatch.setattr(images, "to_ants", telling("read", images.to_ants))
    monkeypatch.setattr(registration, "resample", telling("moved", registration.resample))
    members = np.random.default_rng(1).random((*SHAPE, 3)).astype(np.float32) / 3
    nib.save(nib.Nifti1Image(members, AFFINE), tmp_path / "in.nii.gz")
    count, volumes = anatomy.read_volumes(tmp_path / "in.nii.gz")
    assert (count, did) == (3, [])
    reference = anatomy.read_image(save(np.zeros(SHAPE, np.float32), AFFINE, tmp_path / "reference.nii"))
    did.clear()
    moved = (registration.resample(member, reference, []) for member in volumes)
    written = nib.load(anatomy.write_volumes(moved, count, reference, tmp_path / "out.nii"))
    assert did == ["read", "moved"] * 3
    assert np.allclose(np.asanyarray(written.dataobj), members, atol=1e-6)
    assert np.allclose(written.affine, AFFINE) and written.header["qform_code"] == 1 == written.header["sform_code"]


def test_labels_too_large_for_float32_stay_what_they_are(tmp_path: Path) -> None:
    large = np.where(labels() == 13, 312782546, np.where(labels() == 16, 312782547, 0)).astype(np.int32)
    file = save(large, AFFINE, tmp_path / "in.nii")
    reference = save(np.zeros(SHAPE, np.float32), AFFINE, tmp_path / "reference.nii")
    made = run(Resample(in_file=file, reference=reference, kind="labels"), tmp_path)
    assert np.array_equal(load_labels(made.out_file), large)
    saved = SaveImage(in_file=made.out_file, out_file=str(tmp_path / "x_dseg.nii.gz"), dtype="int32")
    assert np.array_equal(load_labels(run(saved, tmp_path).out_file), large)
    given = inputs(tmp_path, regions=[[n, "a", side, [n]] for n, side in ((312782546, "L"), (312782547, "R"))])
    measured = run(MeasureRegions(**{**given, "labels": made.out_file}), tmp_path)
    table = read_table(Path(measured.table).read_text())
    assert table["n_voxels"].tolist() == [216, 144]


def test_labels_in_the_scans_own_space_need_no_transform(tmp_path: Path) -> None:
    file = save(labels(), AFFINE, tmp_path / "in.nii")
    reference = save(np.zeros(SHAPE, np.float32), AFFINE, tmp_path / "reference.nii")
    made = run(Resample(in_file=file, reference=reference, kind="labels"), tmp_path)
    assert np.array_equal(load_labels(made.out_file), labels())


def test_an_atlas_without_any_label_gives_rows_without_voxels(tmp_path: Path) -> None:
    from qsmals.anatomy.stages import write_affine

    empty = save(np.zeros(SHAPE, np.int16), AFFINE, tmp_path / "in.nii")
    reference = save(np.zeros(SHAPE, np.float32), AFFINE, tmp_path / "reference.nii")
    motion = np.eye(4)
    motion[0, 3] = 2.0
    move = str(write_affine(motion, tmp_path / "move.mat"))
    made = run(Resample(in_file=empty, reference=reference, transforms=[move], kind="labels"), tmp_path)
    given = inputs(tmp_path, regions=[[1, "lesion", "L", [1]], [2, "lesion", "R", [2]], [50001, "lesion", "B", [1, 2]]])
    measured = run(MeasureRegions(**{**given, "labels": made.out_file}), tmp_path)
    table = read_table(Path(measured.table).read_text())
    assert table["n_voxels"].tolist() == [0, 0, 0] and table["volume_mm3"].tolist() == [0, 0, 0]
    assert all(np.isnan(table[name]).all() for name in ("coverage", *STATISTICS))


def test_one_direction_of_a_given_motion_is_enough(tmp_path: Path) -> None:
    from qsmals.anatomy.search import similarity_matrix
    from qsmals.anatomy.stages import write_affine

    motion = similarity_matrix(np.array([0.1, 0, 0.05, 3.0, -2.0, 1.0]), np.zeros(3))
    file = write_affine(motion, tmp_path / "to_t1w.mat")
    head = np.random.default_rng(2).random((24, 24, 24)).astype(np.float32) + 1
    images = {name: save(head, AFFINE, tmp_path / f"{name}.nii") for name in ("magnitude", "brain", "mask")}
    made = run(GivenRigid(to_t1w=str(file), **images), tmp_path)
    assert np.allclose(read_affine(Path(made.forward)) @ read_affine(Path(made.inverse)), np.eye(4), atol=1e-5)
    assert made.facts["reasons"]  # noise against moved noise: nothing matches


def test_a_given_motion_of_which_one_direction_is_not_the_others_inverse_fails(tmp_path: Path) -> None:
    from qsmals.anatomy.stages import write_affine

    euler = "#Insight Transform File V1.0\n#Transform 0\nTransform: Euler3DTransform_double_3_3\n"
    there = tmp_path / "to_t1w.txt"
    there.write_text(euler + "Parameters: 0.1 0.02 0.05 3 -2 1\nFixedParameters: 10 12 9 0\n")
    back = np.linalg.inv(read_affine(there))
    head = np.random.default_rng(2).random((24, 24, 24)).astype(np.float32) + 1
    images = {name: save(head, AFFINE, tmp_path / f"{name}.nii") for name in ("magnitude", "brain", "mask")}
    told = []
    for shift_mm in (0.5, 2.0):
        back[0, 3] += shift_mm
        to_gre = write_affine(back, tmp_path / "to_gre.mat")
        made = run(GivenRigid(to_t1w=str(there), to_gre=str(to_gre), **images), tmp_path)
        assert (made.forward, made.inverse) == (str(there), str(to_gre))
        told.append([why for why in made.facts["reasons"] if "do not undo each other" in why])
    assert told[0] == [] and not made.facts["passed"]
    assert "to_t1w.txt" in told[1][0] and "to_gre.mat" in told[1][0] and "ends 2.5 mm from" in told[1][0]
