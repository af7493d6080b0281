"""Atlases that the user brings: what is taken, and what is refused before anything runs."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from qsmals.anatomy.custom import parse_atlas, read_regions, read_user_atlas, split_side
from qsmals.anatomy.destrieux import DESTRIEUX_ATLAS, NAMES
from qsmals.bids.layout import find_subjects
from qsmals.cli.participant import native_atlases
from qsmals.roi.statistics import Region
from tests.bids_trees import AFFINE, Gre, Visit, write_tree

TABLE = "index\tname\n1\tLeft-STN\n2\tRight-STN\n7\tpons\n"
MNI = np.diag([2.0, 2.0, 2.0, 1.0])
MNI[:3, 3] = [-90, -126, -72]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    labels = np.zeros((91, 109, 91), np.int16)
    labels[40:44, 55:60, 30:34], labels[47:51, 55:60, 30:34], labels[45:47, 48:50, 20:24] = 1, 2, 7
    nib.save(nib.Nifti1Image(labels, MNI), tmp_path / "stn.nii.gz")
    (tmp_path / "stn.tsv").write_text(TABLE)
    return tmp_path


def image(folder: Path, data: np.ndarray, name: str = "stn.nii.gz") -> None:
    nib.save(nib.Nifti1Image(data, MNI), folder / name)


def read(folder: Path, space: str = "MNI152NLin6Asym"):
    spec = parse_atlas(f"stn={folder}/stn.nii.gz,{folder}/stn.tsv,{space}")
    return read_user_atlas(spec, Path(spec.file))


def probabilities(scale: float) -> np.ndarray:
    data = np.zeros((91, 109, 91, 3), np.float32)
    data[40:44, 55:60, 30:34, 0] = 0.7 * scale
    data[40:44, 55:60, 30:34, 1] = 0.3 * scale
    data[45:47, 48:50, 20:24, 2] = 0.5 * scale
    return data


def test_a_label_image_with_its_table(folder):
    atlas = read(folder)
    assert not atlas.probabilistic
    assert [(r.index, r.name, r.hemisphere, r.members) for r in atlas.regions] == [
        (1, "stn", "L", (1,)),
        (2, "stn", "R", (2,)),
        (7, "pons", "B", (7,)),
        (50001, "stn", "B", (1, 2)),
    ]
    assert atlas.label_table() == "index\tname\themisphere\n1\tstn\tL\n2\tstn\tR\n7\tpons\tB\n"


def test_probabilities_are_volumes_in_the_order_of_the_table(folder):
    image(folder, probabilities(1.0))
    atlas = read(folder)
    assert atlas.probabilistic
    assert [r.members for r in atlas.regions] == [(1,), (2,), (3,), (1, 2)]
    assert atlas.label_table().count("\n") == 4


def test_a_single_volume_is_what_its_values_say(folder):
    """An atlas of one region has fractions; a label image has a fourth axis from a converter."""
    (folder / "stn.tsv").write_text("index\tname\n7\tstn\n")
    image(folder, probabilities(1.0)[..., :1])
    atlas = read(folder)
    assert atlas.probabilistic and [r.members for r in atlas.regions] == [(1,)]
    labels = np.zeros((91, 109, 91, 1), np.int16)
    labels[40:44, 55:60, 30:34] = 7
    image(folder, labels)
    atlas = read(folder)
    assert not atlas.probabilistic and [r.members for r in atlas.regions] == [(7,)]


def test_the_background_has_no_row(folder):
    (folder / "stn.tsv").write_text("index\tname\n0\tUnknown\n" + TABLE.partition("\n")[2])
    assert [r.index for r in read(folder).regions] == [1, 2, 7, 50001]
    image(folder, probabilities(1.0))
    assert [r.members for r in read(folder).regions] == [(1,), (2,), (3,), (1, 2)]


def test_large_indices_are_taken(folder):
    labels = np.zeros((91, 109, 91), np.int32)
    labels[40:44, 55:60, 30:34], labels[47:51, 55:60, 30:34] = 312782546, 312782547
    image(folder, labels)
    (folder / "stn.tsv").write_text("index\tname\n312782546\tL x\n312782547\tL y\n")
    assert [r.index for r in read(folder).regions] == [312782546, 312782547]


def test_table_and_space_may_stand_in_the_names(folder):
    (folder / "stn.nii.gz").rename(folder / "tpl-MNI152NLin2009cAsym_stn.nii.gz")
    (folder / "stn.tsv").rename(folder / "tpl-MNI152NLin2009cAsym_stn.tsv")
    spec = parse_atlas(f"stn={folder}/tpl-MNI152NLin2009cAsym_stn.nii.gz")
    assert (spec.space, Path(spec.table).name) == ("MNI152NLin2009cAsym", "tpl-MNI152NLin2009cAsym_stn.tsv")


def test_native_images_are_one_a_subject(folder):
    spec = parse_atlas(f"own={folder}/{{subject}}_{{session}}.nii.gz,{folder}/stn.tsv,T1w")
    assert spec.native
    assert spec.path({"sub": "01", "ses": "A", "run": "2"}) == folder / "01_A.nii.gz"
    with pytest.raises(ValueError, match=r"\{session\} stands in .*, and the T1w image sub-01_run-2 has no ses-"):
        spec.path({"sub": "01", "run": "2"})


def test_a_subjects_atlas_is_called_after_the_scan_in_whose_space_it_is(folder):
    """The T1w image may come from another session; runs of a gradient echo have atlases of their own."""
    gres = (Gre("acq-x_run-1"), Gre("acq-x_run-2"))
    bids = write_tree(folder / "bids", Visit("01", "A", t1ws=("run-1",)), Visit("01", "B", gres=gres, t1ws=()))
    units = [unit for unit in find_subjects(bids)[0].units if unit.gre.session == "B"]
    words = (
        f"t={folder}/T1w_{{session}}_{{run}}.nii.gz,{folder}/stn.tsv,T1w",
        f"g={folder}/GRE_{{session}}_{{acquisition}}_{{run}}.nii.gz,{folder}/stn.tsv,MEGRE",
    )
    specs, faults = [parse_atlas(word) for word in words], []
    for name in ("T1w_A_1", "GRE_B_x_1", "GRE_B_x_2"):
        nib.save(nib.Nifti1Image(np.ones((6, 7, 5), np.int16), AFFINE), folder / f"{name}.nii.gz")
    found = [[image.name for _, image in native_atlases(specs, unit, faults)] for unit in units]
    assert not faults
    assert found == [["T1w_A_1.nii.gz", f"GRE_B_x_{run}.nii.gz"] for run in (1, 2)]


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("stn.nii.gz", "write NAME=FILE"),
        ("a-b={f}/stn.nii.gz", "letters and digits only"),
        ("ALS={f}/stn.nii.gz", "the built-in atlas"),
        ("x={f}/stn.txt", "is no image"),
        ("x={f}/stn.nii.gz", "in which space is it"),
        ("x={f}/stn.nii.gz,{f}/stn.tsv,MNI305", "no transform leads from MNI305"),
        ("x={f}/gone.nii.gz,{f}/stn.tsv,T1w", "there is no file"),
        ("x={f}/stn.nii.gz,{f}/gone.tsv,T1w", "there is no table"),
        ("x={f}/{{subject}}.nii.gz,{f}/stn.tsv,MNI152NLin6Asym", "are for images in T1w or MEGRE"),
        ("x={f}/{{subject}}_{{echo}}.nii.gz,{f}/stn.tsv,T1w", r"\{echo\} is unknown"),
    ],
)
def test_wrong_words_are_refused(folder, word, message):
    with pytest.raises(ValueError, match=message):
        parse_atlas(word.replace("{f}", str(folder)).replace("{{", "{").replace("}}", "}"))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("name\nx\n", "no column index"),
        ("index name\n1 x\n", "no column index"),
        ("index\tname\n", "has no row"),
        ("index\tname\n1\tx\n1\ty\n", "the index 1 twice"),
        ("index\tname\nx\ty\n", "line 2: the index 'x'"),
        ("index\tname\n3\t\n", "has no name"),
        ("index\tname\n0\tUnknown\n", "has no row"),
        ("index\tname\n2147483648\tx\n", "is too large"),
        ("index\tname\themisphere\n1\tx\tL\n2\tx\tlinks\n", "line 3: the hemisphere 'links' is none of L, R, B"),
        ("index\tname\n1\tx\n4\tLeft-y\n3\tX\n", "the indices 1 and 3 have the same name and side"),
        ("index\tname\n1\tLeft-STN\n2\tRight-STN\n", "no row for the labels 7"),
    ],
)
def test_wrong_tables_are_refused(folder, table, message):
    (folder / "stn.tsv").write_text(table)
    with pytest.raises(ValueError, match=message):
        read(folder)


def test_wrong_images_are_refused(folder):
    for data, message in (
        (probabilities(1.5), "add up to 1.5"),
        (probabilities(100.0), "divide by 100"),
        (probabilities(0.1), "no more than 0.1 anywhere"),
        (-probabilities(1.0), "no probabilities"),
        (probabilities(1.0)[..., :2], "2 volumes, but the table has 3 rows"),
        (np.full((91, 109, 91), 0.5, np.float32), "no labels"),
        (np.zeros((91, 109, 91), np.int16), "no label above 0"),
    ):
        image(folder, data)
        with pytest.raises(ValueError, match=message):
            read(folder)
    (folder / "stn.nii.gz").write_bytes(b"no image")
    with pytest.raises(ValueError, match="cannot be read"):
        read(folder)


def test_labels_outside_the_head_of_the_template_are_in_another_space(folder):
    loaded = nib.load(folder / "stn.nii.gz")
    moved = MNI.copy()
    moved[:3, 3] += 200
    nib.save(nib.Nifti1Image(np.asanyarray(loaded.dataobj), moved), folder / "stn.nii.gz")
    with pytest.raises(ValueError, match="outside a brain in MNI152NLin6Asym"):
        read(folder)
    assert read(folder, "T1w").regions  # where a subject lies, nobody knows


def scan_of(folder: Path, affine: np.ndarray, shape: tuple[int, int, int] = (91, 109, 91)) -> Path:
    """A head with dark ventricles, on the grid of the atlas."""
    x, y, z = (a - (n - 1) / 2 for a, n in zip(np.indices(shape), shape, strict=True))
    head = (x / 38) ** 2 + (y / 46) ** 2 + (z / 40) ** 2 < 1
    ventricle = (x / 5) ** 2 + (y / 10) ** 2 + (z / 5) ** 2 < 1
    rng = np.random.default_rng(0)
    data = 100.0 * (head & ~ventricle) + np.abs(rng.normal(0, 2, shape))
    nib.save(nib.Nifti1Image(data.astype(np.float32), affine), folder / "scan.nii.gz")
    return folder / "scan.nii.gz"


def moved(x: float = 0.0, z: float = 0.0) -> np.ndarray:
    affine = MNI.copy()
    affine[:3, 3] += [x, 0, z]
    return affine


@pytest.mark.parametrize("space", ["T1w", "MEGRE"])
def test_a_subjects_own_atlas_lies_in_the_subjects_image(folder, space):
    spec = parse_atlas(f"stn={folder}/stn.nii.gz,{folder}/stn.tsv,{space}")
    file = Path(spec.file)
    assert read_user_atlas(spec, file, scan=scan_of(folder, moved())).regions
    assert read_user_atlas(spec, file, scan=scan_of(folder, moved(z=20.0))).regions
    message = (
        "100 % of the labels of .* lie outside (the head that scan.nii.gz shows|the field of view of scan.nii.gz):"
    )
    with pytest.raises(ValueError, match=message):
        read_user_atlas(spec, file, scan=scan_of(folder, moved(x=300.0)))


def test_labels_beside_the_head_of_the_t1w_image_are_refused(folder):
    """Inside its field of view; what is dark inside the head, as a ventricle, belongs to it."""
    labels = np.zeros((91, 109, 91), np.int16)
    labels[42:49, 50:59, 42:49] = 1
    nib.save(nib.Nifti1Image(labels, MNI), folder / "stn.nii.gz")
    spec = parse_atlas(f"stn={folder}/stn.nii.gz,{folder}/stn.tsv,T1w")
    assert read_user_atlas(spec, Path(spec.file), scan=scan_of(folder, moved())).regions
    nib.save(nib.Nifti1Image(labels, moved(x=88.0)), folder / "stn.nii.gz")
    with pytest.raises(ValueError, match="belongs to another image, or its affine is wrong"):
        read_user_atlas(spec, Path(spec.file), scan=scan_of(folder, moved()))


def test_a_slab_may_show_a_part_of_the_labels(folder):
    labels = np.zeros((91, 109, 91), np.int16)
    labels[10:80, 10:100, 10:80] = 1
    nib.save(nib.Nifti1Image(labels, MNI), folder / "stn.nii.gz")
    spec = parse_atlas(f"stn={folder}/stn.nii.gz,{folder}/stn.tsv,MEGRE")
    assert read_user_atlas(spec, Path(spec.file), scan=scan_of(folder, moved(z=80.0), (91, 109, 12))).regions


def test_a_misplaced_atlas_is_a_fault_of_its_subject(folder):
    """As ``participant`` looks at it before any graph is built."""
    bids = write_tree(folder / "bids", Visit("01"))
    (unit,) = find_subjects(bids)[0].units
    assert unit.t1w is not None
    unit.t1w.file.write_bytes(scan_of(folder, moved(x=300.0)).read_bytes())
    specs, faults = [parse_atlas(f"own={folder}/stn.nii.gz,{folder}/stn.tsv,T1w")], []
    assert list(native_atlases(specs, unit, faults)) == []
    assert faults[0].code == "atlas" and "outside the head that sub-01_T1w.nii.gz shows" in str(faults[0])


@pytest.mark.parametrize("space", ["T1w", "MEGRE"])
def test_a_subject_may_have_no_voxel_of_an_own_atlas(folder, space):
    """A template has all of its regions, but not everybody has a lesion."""
    spec = parse_atlas(f"stn={folder}/stn.nii.gz,{folder}/stn.tsv,{space}")
    for data in (np.zeros((91, 109, 91), np.int16), 0 * probabilities(1.0)):
        image(folder, data)
        assert read_user_atlas(spec, Path(spec.file), scan=scan_of(folder, moved())).regions
        with pytest.raises(ValueError, match=r"no label above 0|no more than 0 anywhere"):
            read(folder)


def test_a_missing_atlas_says_that_an_empty_one_may_be_given(folder):
    (unit,) = find_subjects(write_tree(folder / "bids", Visit("01")))[0].units
    specs, faults = [parse_atlas(f"own={folder}/{{subject}}_lesions.nii.gz,{folder}/stn.tsv,T1w")], []
    assert list(native_atlases(specs, unit, faults)) == []
    assert "01_lesions.nii.gz; an image without any label says" in str(faults[0])


def test_sides_are_words_of_the_name():
    assert split_side("ctx-lh-precentral") == ("ctx_precentral", "L")
    assert split_side("R Red Nucleus ") == ("red_nucleus", "R")
    assert split_side("Area_PGp_L") == ("area_pgp", "L")
    assert split_side("l") == ("l", "B")
    assert split_side("Lateral-Ventricle") == ("lateral_ventricle", "B")


def test_a_column_for_the_hemisphere_wins(tmp_path):
    (tmp_path / "t.tsv").write_text("index\tname\themisphere\n60001\tx\tL\n60002\tx\tR\n3\tz\tB\n")
    regions = read_regions(tmp_path / "t.tsv")
    assert regions[:2] == (Region(60001, "x", "L", (60001,)), Region(60002, "x", "R", (60002,)))
    assert regions[3].index == 500000 + 60001


@pytest.mark.parametrize("words", [("n/a", "N/A"), ("", ""), ("lh", "RH"), ("left", "Right"), ("l", "R")])
def test_the_hemisphere_is_a_usual_word_or_left_to_the_name(tmp_path, words):
    left, right = words
    table = f"index\tname\themisphere\n1\tLeft-STN\t{left}\n2\tRight-STN\t{right}\n3\tpons\t{'n/a' if left else ''}\n"
    (tmp_path / "t.tsv").write_text(table)
    sides = [(r.name, r.hemisphere) for r in read_regions(tmp_path / "t.tsv")]
    assert sides == [("stn", "L"), ("stn", "R"), ("pons", "B"), ("stn", "B")]


def test_destrieux_names_fill_their_numbers():
    by_index = {r.index: r for r in DESTRIEUX_ATLAS.regions}
    assert len(NAMES) == 75
    assert (by_index[11129].name, by_index[12175].name) == ("g_precentral", "s_temporal_transverse")
    assert by_index[12142] in DESTRIEUX_ATLAS.optional and by_index[11141] not in DESTRIEUX_ATLAS.optional
    assert len(by_index) == len(DESTRIEUX_ATLAS.regions)
