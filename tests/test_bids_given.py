"""Results of other pipelines: found by name, and refused where they belong to another head."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage
from scipy.io import savemat

from qsmals.bids.derivatives import prepare_output_dir
from qsmals.bids.given import (
    GivenGre,
    GivenT1w,
    given_for_gre,
    given_for_t1w,
    missing_transforms,
    parse_derivatives,
)
from qsmals.bids.layout import find_subjects
from qsmals.bids.names import sidecar_path
from tests.bids_trees import Gre, Visit, write_json, write_tree

SPACE = "MNI152NLin6Asym"


def head(seed: int) -> np.ndarray:
    """A smooth head with folds of its own, in a cube of 24 voxels."""
    x, y, z = np.indices((24, 24, 24)) - 11.5
    inside = (x**2 + y**2 + z**2) < 100
    folds = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=inside.shape), 1.0)
    return np.where(inside, 100 + 120 * folds, 0).astype(np.float32)


AFFINE = np.array([[2.0, 0, 0, -20], [0, 2.0, 0, -30], [0, 0, 2.0, -10], [0, 0, 0, 1]])


@pytest.fixture
def unit(tmp_path: Path):
    bids = write_tree(tmp_path / "bids", Visit("01", "A"))
    t1w = bids / "sub-01/ses-A/anat/sub-01_ses-A_T1w.nii.gz"
    nib.save(nib.Nifti1Image(head(1), AFFINE), t1w)
    return find_subjects(bids)[0].units[0]


def freesurfer(folder: Path, seed: int) -> Path:
    """A subject's folder with the axes that FreeSurfer uses, at the same scanner coordinates."""
    mri = folder / "mri"
    mri.mkdir(parents=True)
    data = head(seed)[::-1].transpose(0, 2, 1)[:, ::-1]
    turn = np.array([[-1, 0, 0, 23], [0, 0, 1, 0], [0, -1, 0, 23], [0, 0, 0, 1.0]])
    for name, values in (("orig", data), ("brainmask", data * (data > 0)), ("aparc+aseg", (data > 0) * 1024.0)):
        nib.save(nib.MGHImage(values.astype(np.float32), AFFINE @ turn), mri / f"{name}.mgz")
    return folder


def test_freesurfer_of_the_same_head_is_taken(tmp_path, unit):
    folder = freesurfer(tmp_path / "fs" / "sub-01_ses-A", 1)
    found, faults = given_for_t1w(unit.t1w, {"freesurfer": tmp_path / "fs"}, spaces=[SPACE])
    assert faults == []
    assert found.segmentation == folder / "mri" / "aparc+aseg.mgz"
    assert found.brain_mask == folder / "mri" / "brainmask.mgz"
    assert found.destrieux is None
    assert found.segmenter == "FreeSurfer"


@pytest.mark.parametrize("name", ["aparc.DKTatlas+aseg.mgz", "aparc.DKTatlas+aseg.deep.withCC.mgz"])
def test_the_dkt_atlas_serves_where_there_is_no_other_and_destrieux_comes_along(tmp_path, unit, name):
    mri = freesurfer(tmp_path / "fs" / "sub-01", 1) / "mri"
    (mri / "aparc+aseg.mgz").rename(mri / name)
    (mri / "aparc.a2009s+aseg.mgz").write_bytes((mri / name).read_bytes())
    found, faults = given_for_t1w(unit.t1w, {"fastsurfer": tmp_path / "fs"}, spaces=[SPACE])
    assert not faults
    assert (found.segmentation, found.destrieux) == (mri / name, mri / "aparc.a2009s+aseg.mgz")


@pytest.mark.parametrize("name", ["sub-01", "01"])
def test_a_folder_without_the_session_serves_all(tmp_path, unit, name):
    freesurfer(tmp_path / "fs" / name, 1)
    found, faults = given_for_t1w(unit.t1w, {"fastsurfer": tmp_path / "fs"}, spaces=[SPACE])
    assert found.segmentation and not faults


def test_freesurfer_of_another_head_is_refused(tmp_path, unit):
    freesurfer(tmp_path / "fs" / "sub-01", 2)
    found, faults = given_for_t1w(unit.t1w, {"freesurfer": tmp_path / "fs"}, spaces=[SPACE])
    assert found.segmentation is None
    assert "was not made from this T1w image" in str(faults[0])


def shifted(x_mm: float, y_mm: float = 0.0) -> np.ndarray:
    affine = AFFINE.copy()
    affine[:2, 3] += x_mm, y_mm
    return affine


def test_freesurfer_of_another_session_is_refused(tmp_path, unit):
    """The same head where a follow-up shows it; the folder is called as one for all sessions is."""
    freesurfer(tmp_path / "fs" / "sub-01", 1)
    nib.save(nib.Nifti1Image(head(1), shifted(2.0)), unit.t1w.file)
    found, faults = given_for_t1w(unit.t1w, {"freesurfer": tmp_path / "fs"}, spaces=[SPACE])
    assert found.segmentation is None
    assert "shows the same head 2.0 mm away" in str(faults[0]) and "sub-01_ses-A" in faults[0].remedy


def test_half_a_voxel_a_bias_field_and_another_grid_are_the_same_head(tmp_path, unit):
    freesurfer(tmp_path / "fs" / "sub-01", 1)
    x, y, z = np.indices((24, 24, 24)) / 11.5 - 1
    bias = 1 + 0.5 * x - 0.4 * y * z
    noise = np.random.default_rng(5).normal(0, 5, bias.shape)
    fine = np.diag([0.8, 0.8, 0.8, 1.0])
    finer = ndimage.affine_transform(head(1), fine[:3, :3], output_shape=(30, 30, 30), order=1)
    for data, affine in (
        (np.abs(head(1) * bias + noise), AFFINE),
        (head(1), shifted(0.5, 0.5)),
        (finer, AFFINE @ fine),
    ):
        nib.save(nib.Nifti1Image(data.astype(np.float32), affine), unit.t1w.file)
        found, faults = given_for_t1w(unit.t1w, {"freesurfer": tmp_path / "fs"}, spaces=[SPACE])
        assert found.segmentation and not faults


def test_freesurfer_that_is_not_there_or_not_finished_is_a_fault(tmp_path, unit):
    (tmp_path / "fs").mkdir()
    _, faults = given_for_t1w(unit.t1w, {"freesurfer": tmp_path / "fs"}, spaces=[SPACE])
    assert "no folder of sub-01" in str(faults[0])
    (freesurfer(tmp_path / "fs" / "sub-01", 1) / "mri" / "aparc+aseg.mgz").unlink()
    _, faults = given_for_t1w(unit.t1w, {"freesurfer": tmp_path / "fs"}, spaces=[SPACE])
    assert "recon-all run to its end" in str(faults[0])


LARGE = np.diag([4.0, 4.0, 4.0, 1.0])


def write_head_and_mask(image: Path, mask: Path, *, shift_mm: float = 0.0, part: int = 24, scale: float = 1.0) -> None:
    """A head of 270 ml and the mask of it, or of its first planes, at another place or of another size."""
    affine = LARGE @ np.diag([scale, scale, scale, 1.0])
    affine[0, 3] = shift_mm
    data = (head(1) > 0).astype(np.uint8)
    data[part:] = 0
    nib.save(nib.Nifti1Image(head(1), LARGE), image)
    nib.save(nib.Nifti1Image(data, affine), mask)


def test_a_mask_that_cannot_be_that_of_the_brain_is_refused(tmp_path, unit):
    mask = tmp_path / "other/sub-01/ses-A/anat/sub-01_ses-A_desc-brain_mask.nii.gz"
    mask.parent.mkdir(parents=True)
    for given, message in (
        ({}, ""),
        ({"part": 13}, ""),
        ({"part": 0}, "is empty"),
        ({"part": 5}, "outside 100 to 2500"),
        ({"scale": 3.0}, "outside 100 to 2500"),
        ({"shift_mm": 60.0}, "% of the brain mask lie outside the head"),
    ):
        write_head_and_mask(unit.t1w.file, mask, **given)
        found, faults = given_for_t1w(unit.t1w, {"other": tmp_path / "other"}, spaces=[])
        assert found.brain_mask == mask
        assert message in str(faults[0]) if message else not faults, given
    mask.write_bytes(mask.read_bytes()[:100])
    assert "cannot be read" in str(given_for_t1w(unit.t1w, {"other": tmp_path / "other"}, spaces=[])[1][0])


def composite(path: Path) -> None:
    """What begins like HDF5 and has the name that ITK gives its transforms."""
    content = b"\x89HDF\r\n\x1a\n" + bytes([0] * 32) + (200).to_bytes(8, "little") + b"TransformGroup"
    path.write_bytes(content.ljust(200, b"\0"))


def linear(path: Path) -> None:
    savemat(path, {"AffineTransform_double_3_3": [[*np.eye(3).ravel(), 0, 0, 0]], "fixed": [[0, 0, 0]]}, format="4")


def test_both_directions_come_from_one_folder(tmp_path, unit):
    names = [f"sub-01_ses-A_from-{a}_to-{b}_mode-image_xfm.mat" for a, b in (("MEGRE", "T1w"), ("T1w", "MEGRE"))]
    roots = {name: tmp_path / name for name in ("one", "two", "three")}
    anats = [root / "sub-01" / "ses-A" / "anat" for root in roots.values()]
    for anat, own in zip(anats, ((), names[1:], names), strict=True):
        anat.mkdir(parents=True)
        for name in own:
            linear(anat / name)
    found, faults = given_for_gre(unit.gre, roots)
    assert not faults
    assert (found.to_t1w, found.to_gre) == (None, anats[1] / names[1])


def test_transforms_that_cannot_be_used_are_faults(tmp_path, unit):
    anat = tmp_path / "other" / "sub-01" / "ses-A" / "anat"
    anat.mkdir(parents=True)
    (anat / "sub-01_ses-A_from-MEGRE_to-T1w_mode-image_xfm.mat").write_text("1 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 0 1\n")
    for start, end in (("T1w", SPACE), (SPACE, "T1w")):
        file = anat / f"sub-01_ses-A_from-{start}_to-{end}_mode-image_xfm.h5"
        composite(file)
        file.write_bytes(file.read_bytes()[:150])
    _, faults = given_for_gre(unit.gre, {"other": tmp_path / "other"})
    assert [fault.code for fault in faults] == ["transform"] and "is no linear transform of ITK" in str(faults[0])
    _, faults = given_for_t1w(unit.t1w, {"other": tmp_path / "other"}, spaces=[SPACE])
    assert len(faults) == 2 and all("cut off: 150 bytes are left of 200" in str(fault) for fault in faults)


def derivative(root: Path, prefix: str, *, program: str) -> None:
    """Transforms of a T1w image to a template and back, as a program's data set."""
    folder = root.joinpath(*prefix.split("_")[:2], "anat") if "ses-" in prefix else root / "sub-01" / "anat"
    folder.mkdir(parents=True)
    for start, end in (("T1w", SPACE), (SPACE, "T1w")):
        composite(folder / f"{prefix}_from-{start}_to-{end}_mode-image_xfm.h5")
    write_json(root / "dataset_description.json", {"GeneratedBy": [{"Name": program}]})


@pytest.mark.parametrize(
    ("visits", "prefix", "program", "good"),
    [
        ([Visit("01", "A"), Visit("01", "B")], "sub-01", "fMRIPrep", False),
        ([Visit("01", "A"), Visit("01", "B")], "sub-01_ses-A", "fMRIPrep", True),
        ([Visit("01", "A"), Visit("01", "B", t1ws=())], "sub-01", "fMRIPrep", True),
        ([Visit("01", t1ws=("run-1", "run-2"))], "sub-01", "fMRIPrep", False),
        ([Visit("01", t1ws=("run-1", "run-2"))], "sub-01_run-1", "fMRIPrep", True),
        ([Visit("01", t1ws=("run-1",))], "sub-01", "fMRIPrep", True),
        ([Visit("01", t1ws=("", "acq-x"))], "sub-01", "fMRIPrep", False),
        ([Visit("01", t1ws=("", "acq-x"))], "sub-01", "qsmals", True),
    ],
)
def test_what_was_made_from_several_images_is_of_none(tmp_path, visits, prefix, program, good):
    """fMRIPrep names its average of all T1w images by the entities that they share."""
    (subject,) = find_subjects(write_tree(tmp_path / "bids", *visits, empty=True), session_labels=None)
    derivative(tmp_path / "other", prefix, program=program)
    t1w = subject.units[0].t1w
    found, faults = given_for_t1w(t1w, {"other": tmp_path / "other"}, spaces=[SPACE], others=subject.all_t1ws)
    assert bool(found.transforms) == good
    if good:
        assert not faults
    else:
        assert "may be of any of 2 T1w images" in str(faults[0]) and "their average" in str(faults[0])


def test_images_of_sessions_that_are_not_processed_count_too(tmp_path):
    bids = write_tree(tmp_path, Visit("01", "A"), Visit("01", "B"), empty=True)
    (subject,) = find_subjects(bids, session_labels=["B"])
    assert [t1w.session for t1w in subject.all_t1ws] == ["A", "B"] and len(subject.t1w_scans) == 1


def test_a_field_of_one_of_several_scans_is_refused(tmp_path):
    bids = write_tree(tmp_path / "bids", Visit("01", gres=(Gre("run-1"), Gre("run-2"))), empty=True)
    (subject,) = find_subjects(bids)
    gres = [unit.gre for unit in subject.units]
    fmap = tmp_path / "other" / "sub-01" / "fmap"
    fmap.mkdir(parents=True)
    (fmap / "sub-01_desc-total_fieldmap.nii.gz").touch()
    (fmap / "sub-01_run-2_desc-total_fieldmap.nii.gz").touch()
    one, two = (given_for_gre(gre, {"other": tmp_path / "other"}, others=gres) for gre in gres)
    assert one[0].total_field is None and "any of 2 gradient-echo scans" in str(one[1][0])
    assert two[0].total_field and not two[1]


def test_masks_transforms_and_fields_are_found_by_their_names(tmp_path, unit):
    root = tmp_path / "other"
    names = [
        "anat/sub-01_ses-A_desc-brain_mask.nii.gz",
        "anat/sub-01_ses-A_space-MNI152NLin6Asym_desc-brain_mask.nii.gz",
        f"anat/sub-01_ses-A_from-T1w_to-{SPACE}_mode-image_xfm.h5",
        f"anat/sub-01_ses-A_from-{SPACE}_to-T1w_mode-image_xfm.h5",
        "anat/sub-01_ses-A_from-MEGRE_to-T1w_mode-image_xfm.mat",
        "anat/sub-01_ses-A_run-2_from-MEGRE_to-T1w_mode-image_xfm.mat",
        "fmap/sub-01_ses-A_desc-total_fieldmap.nii.gz",
    ]
    for name in names:
        (root / "sub-01/ses-A" / name).parent.mkdir(parents=True, exist_ok=True)
        make = {"mat": linear, "h5": composite}.get(name.rpartition(".")[2], Path.touch)
        make(root / "sub-01/ses-A" / name)
    anat = root / "sub-01/ses-A/anat"
    write_head_and_mask(unit.t1w.file, root / "sub-01/ses-A" / names[0])
    found, faults = given_for_t1w(unit.t1w, {"other": root}, spaces=[SPACE, "MNI152NLin2009cAsym"])
    assert not faults
    assert found.brain_mask == root / "sub-01/ses-A" / names[0]
    assert found.transforms == {SPACE: (root / "sub-01/ses-A" / names[2], root / "sub-01/ses-A" / names[3])}
    gre, faults = given_for_gre(unit.gre, {"other": root})
    assert not faults
    assert gre == GivenGre(anat / Path(names[4]).name, None, root / "sub-01/ses-A" / names[6])
    assert missing_transforms(unit, found, gre, spaces=[SPACE]) is None
    fault = missing_transforms(unit, found, GivenGre(), spaces=[SPACE, "MNI152NLin2009cAsym"])
    assert "from-MEGRE_to-T1w" in str(fault) and "from-T1w_to-MNI152NLin2009cAsym" in str(fault)
    assert SPACE not in str(fault)


def test_a_scan_without_t1w_takes_masks_and_transforms_of_its_own(tmp_path):
    bids = write_tree(tmp_path / "bids", Visit("01", t1ws=()), empty=True)
    alone = find_subjects(bids)[0].units[0]
    anat = tmp_path / "other" / "sub-01" / "anat"
    anat.mkdir(parents=True)
    mask = anat / "sub-01_space-MEGRE_desc-brain_mask.nii.gz"
    there, back = (anat / f"sub-01_from-{a}_to-{b}_mode-image_xfm.h5" for a, b in (("MEGRE", SPACE), (SPACE, "MEGRE")))
    for path in (there, back, anat / f"sub-01_from-T1w_to-{SPACE}_mode-image_xfm.h5"):
        composite(path)
    write_head_and_mask(alone.gre.files("mag")[0], mask)
    gre, faults = given_for_gre(alone.gre, {"other": tmp_path / "other"}, spaces=[SPACE], alone=True)
    assert not faults
    assert (gre.brain_mask, dict(gre.transforms)) == (mask, {SPACE: (there, back)})
    assert set(gre.files) == {mask, there, back}
    assert missing_transforms(alone, GivenT1w(), gre, spaces=[SPACE]) is None
    fault = missing_transforms(alone, GivenT1w(), GivenGre(), spaces=[SPACE])
    assert f"from-MEGRE_to-{SPACE} and from-{SPACE}_to-MEGRE" in str(fault) and "T1w" not in str(fault)
    assert given_for_gre(alone.gre, {"other": tmp_path / "other"})[0].brain_mask is None


@pytest.mark.parametrize("t1ws", [("",), ()], ids=["with T1w", "alone"])
@pytest.mark.parametrize("copied", [False, True], ids=["whole", "subject alone"])
def test_of_an_earlier_run_only_the_transforms_are_taken(tmp_path, t1ws, copied):
    bids = write_tree(tmp_path / "bids", Visit("01", t1ws=t1ws), empty=True)
    scan = find_subjects(bids)[0].units[0]
    own = "T1w" if t1ws else "MEGRE"
    found = {}
    for folder in ("earlier", "other"):
        names = ["fmap/sub-01_desc-total_fieldmap.nii.gz", "anat/sub-01_space-MEGRE_desc-brain_mask.nii.gz"]
        names += ["anat/sub-01_from-MEGRE_to-T1w_mode-image_xfm.mat"] if t1ws else []
        names += [f"anat/sub-01_from-{a}_to-{b}_mode-image_xfm.h5" for a, b in ((own, SPACE), (SPACE, own))]
        found[folder] = [tmp_path / folder / "sub-01" / name for name in names]
        for path in found[folder]:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    if copied:
        for path in found["earlier"]:
            sidecar_path(path).write_text(json.dumps({"SoftwareName": "qsmals"}))
    else:
        prepare_output_dir(tmp_path / "earlier", bids, environ={})
    roots = {"prev": tmp_path / "earlier", "third": tmp_path / "other"}
    measured = 1 if t1ws else 2

    def files(**derivatives):
        t1w = given_for_t1w(scan.t1w, derivatives, spaces=[SPACE])[0].files if scan.t1w else ()
        gre, _ = given_for_gre(scan.gre, derivatives, spaces=[SPACE], alone=not t1ws)
        assert gre.left == tuple(found["earlier"][:measured])
        return {*t1w, *gre.files}

    assert files(prev=roots["prev"]) == set(found["earlier"][2:])
    assert files(**roots) == {*found["earlier"][2:], *found["other"][:measured]}


def test_nothing_given_is_nothing_found(unit, tmp_path):
    assert given_for_t1w(unit.t1w, {}, spaces=[SPACE]) == (GivenT1w(), [])
    assert given_for_gre(unit.gre, {"other": tmp_path}) == (GivenGre(), [])


@pytest.mark.parametrize(
    ("words", "message"),
    [(["x"], "write NAME=PATH"), (["x=/absent/folder"], "no folder"), (["x=/tmp", "x=/tmp"], "given twice")],
)
def test_wrong_words_are_refused(words, message):
    with pytest.raises(ValueError, match=message):
        parse_derivatives(words)
