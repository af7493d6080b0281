"""Discovery of scans: names, sessions, filters, choices, and what is said when nothing fits."""

import json
import os
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from qsmals.bids.errors import InvalidInput, NothingMatched
from qsmals.bids.filters import merged_queries, read_filter_file
from qsmals.bids.layout import NO_T1W_NOTE, SubjectInputs, find_subjects
from tests.bids_trees import Gre, Visit, change_sidecar, sidecar_of, snapshot, visits, write_json, write_tree


def prefixes(subject: SubjectInputs) -> list[str]:
    return [unit.gre.prefix for unit in subject.units]


def codes(subject: SubjectInputs) -> list[str]:
    return [fault.code for fault in subject.faults]


def test_finds_echoes_parts_and_times_in_order(tmp_path: Path) -> None:
    write_tree(tmp_path, Visit("01"), Visit("02"), empty=True)
    before = snapshot(tmp_path)
    first, second = find_subjects(tmp_path)
    assert (first.label, second.label) == ("01", "02")
    gre = first.units[0].gre
    assert gre.te_s == (0.005, 0.010, 0.015)
    assert gre.parts == "polar" and gre.b0_tesla == 3.0 and gre.phase_units == "arbitrary"
    assert [path.name for path in gre.files("phase")] == [f"sub-01_echo-{i}_part-phase_MEGRE.nii.gz" for i in (1, 2, 3)]
    assert first.units[0].t1w is not None and first.units[0].t1w.file.name == "sub-01_T1w.nii.gz"
    assert first.faults == () and first.units[0].notes == ()
    assert snapshot(tmp_path) == before


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(tree=visits())
def test_every_scan_of_any_tree_is_found_once(tree: list[Visit]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_tree(Path(folder), *tree, empty=True)
        subjects = find_subjects(Path(folder))
        found = {unit.gre.prefix: unit.gre for subject in subjects for unit in subject.units}
    wanted = {"_".join(filter(None, (v.prefix, g.entities))): g for v in tree for g in v.gres}
    assert set(found) == set(wanted)
    assert all(found[prefix].te_s == gre.te_s for prefix, gre in wanted.items())
    assert all(found[p].parts == ("cartesian" if "real" in g.parts else "polar") for p, g in wanted.items())
    assert not any(subject.faults for subject in subjects)


def test_sessions_runs_and_acquisitions_are_scans_of_their_own(tmp_path: Path) -> None:
    gres = (Gre("acq-fine_run-01"), Gre("acq-fine_run-02"), Gre("acq-coarse"))
    write_tree(tmp_path, Visit("01", "A", gres), Visit("01", "B"), empty=True)
    (subject,) = find_subjects(tmp_path)
    assert prefixes(subject) == [
        "sub-01_ses-A_acq-coarse",
        "sub-01_ses-A_acq-fine_run-01",
        "sub-01_ses-A_acq-fine_run-02",
        "sub-01_ses-B",
    ]
    assert [unit.gre.session for unit in subject.units] == ["A", "A", "A", "B"]
    assert subject.sessions == ("A", "B")
    assert len(subject.t1w_scans) == 2


@pytest.mark.parametrize("label", ["02", "sub-02"])
def test_participant_label_with_and_without_prefix(tmp_path: Path, label: str) -> None:
    write_tree(tmp_path, Visit("01"), Visit("02"), empty=True)
    assert [s.label for s in find_subjects(tmp_path, participant_labels=[label])] == ["02"]


def test_unknown_participant_lists_those_there(tmp_path: Path) -> None:
    write_tree(tmp_path, Visit("01"), Visit("02"), empty=True)
    with pytest.raises(NothingMatched, match=r"no participant 07.*there are 01, 02"):
        find_subjects(tmp_path, participant_labels=["01", "sub-07"])


@pytest.mark.parametrize("label", ["B", "ses-B"])
def test_session_label_selects_the_gre_and_keeps_the_other_t1w(tmp_path: Path, label: str) -> None:
    write_tree(tmp_path, Visit("01", "A"), Visit("01", "B", t1ws=()), empty=True)
    (subject,) = find_subjects(tmp_path, session_labels=[label])
    (unit,) = subject.units
    assert unit.gre.session == "B" and unit.t1w is not None and unit.t1w.session == "A"
    assert "no T1w image in session B" in unit.notes[0]


def test_sessions_without_scans_are_looked_at_too(tmp_path: Path) -> None:
    write_tree(tmp_path, Visit("01", "A"), Visit("02"), empty=True)
    (tmp_path / "sub-01/ses-B/func").mkdir(parents=True)
    assert [subject.sessions for subject in find_subjects(tmp_path)] == [("A", "B"), ("",)]
    (subject,) = find_subjects(tmp_path, participant_labels=["01"], session_labels=["ses-A", "Z"])
    assert subject.sessions == ("A",)


def test_unknown_session_matches_nothing(tmp_path: Path) -> None:
    write_tree(tmp_path, Visit("01", "A"), empty=True)
    with pytest.raises(NothingMatched, match="session Z"):
        find_subjects(tmp_path, session_labels=["Z"])


def test_data_set_without_megre_matches_nothing(tmp_path: Path) -> None:
    write_tree(tmp_path, Visit("01", gres=()), empty=True)
    with pytest.raises(NothingMatched, match=r"_MEGRE\.nii\.gz.*--bids-filter-file"):
        find_subjects(tmp_path)


@pytest.mark.parametrize("make", [lambda p: None, lambda p: p.touch(), lambda p: p.mkdir()])
def test_folder_that_is_no_data_set(tmp_path: Path, make: object) -> None:
    root = tmp_path / "data"
    make(root)  # type: ignore[operator]
    with pytest.raises(InvalidInput, match="BIDS_DIR"):
        find_subjects(root)


def test_subject_without_megre_is_a_fault_and_the_other_goes_on(tmp_path: Path) -> None:
    write_tree(tmp_path, Visit("01"), Visit("02", gres=()), empty=True)
    first, second = find_subjects(tmp_path)
    assert len(first.units) == 1 and first.faults == ()
    assert codes(second) == ["no-megre"] and "Name them" in second.faults[0].remedy


def test_subject_without_t1w_is_processed_with_a_warning(tmp_path: Path) -> None:
    write_tree(tmp_path, Visit("01", t1ws=()), empty=True)
    (subject,) = find_subjects(tmp_path)
    assert subject.faults == () and subject.t1w_scans == ()
    assert subject.units[0].t1w is None
    assert subject.units[0].notes == (NO_T1W_NOTE,)


def test_subject_without_phase_says_what_to_do(tmp_path: Path) -> None:
    write_tree(tmp_path, Visit("01", gres=(Gre(parts=("mag",)),)), empty=True)
    (subject,) = find_subjects(tmp_path)
    assert codes(subject) == ["no-phase"] and "Add part-phase images" in str(subject.faults[0])
    assert subject.units == ()


def test_magnitude_without_part_next_to_phase(tmp_path: Path) -> None:
    write_tree(tmp_path, Visit("01", gres=(Gre(parts=("", "phase")),)), empty=True)
    (subject,) = find_subjects(tmp_path)
    assert subject.units[0].gre.files("mag")[0].name == "sub-01_echo-1_MEGRE.nii.gz"
    assert subject.faults == ()


def test_missing_part_and_missing_echo(tmp_path: Path) -> None:
    anat = Visit("01").anat(
        write_tree(tmp_path, Visit("01", gres=(Gre(te_s=(0.004, 0.008, 0.012, 0.016)),)), empty=True)
    )
    (anat / "sub-01_echo-2_part-phase_MEGRE.nii.gz").unlink()
    for part in ("mag", "phase"):
        (anat / f"sub-01_echo-3_part-{part}_MEGRE.nii.gz").unlink()
    (subject,) = find_subjects(tmp_path)
    assert codes(subject) == ["missing-echo", "missing-part"]
    assert "echo 3 of 4 is missing" in str(subject.faults[0])
    assert "echo 2 has no part-phase image" in str(subject.faults[1])


def test_echoes_chosen_by_a_filter_are_no_gap(tmp_path: Path) -> None:
    write_tree(tmp_path, Visit("01"), empty=True)
    (subject,) = find_subjects(tmp_path, bids_filters={"megre": {"echo": [1, "3"]}})
    assert subject.units[0].gre.te_s == (0.005, 0.015) and subject.faults == ()


def test_same_image_twice(tmp_path: Path) -> None:
    anat = Visit("01").anat(write_tree(tmp_path, Visit("01"), empty=True))
    (anat / "sub-01_echo-1_part-mag_MEGRE.nii").touch()
    (anat / "sub-01_echo-2_MEGRE.nii.gz").touch()
    (subject,) = find_subjects(tmp_path)
    assert codes(subject) == ["duplicate", "duplicate"] and "Keep one of them" in str(subject.faults[0])


def test_names_that_do_not_fit_their_folder(tmp_path: Path) -> None:
    anat = Visit("01").anat(write_tree(tmp_path, Visit("01"), empty=True))
    for name in ("sub-02_echo-1_part-mag", "sub-01_ses-X_echo-1_part-mag", "sub-01_acq-ä_echo-1_part-mag"):
        (anat / f"{name}_MEGRE.nii.gz").touch()
    (anat / "sub-01_echo-1_part-mag_MEGRE copy.nii.gz").touch()
    (subject,) = find_subjects(tmp_path)
    assert codes(subject) == ["name", "name", "name"]
    assert len(subject.units) == 1 and len(subject.units[0].gre.echoes) == 3


def test_t1w_choice_and_its_note(tmp_path: Path) -> None:
    write_tree(
        tmp_path, Visit("01", t1ws=("run-10", "run-2", "acq-a_run-1")), Visit("02", t1ws=("acq-a", "")), empty=True
    )
    first, second = find_subjects(tmp_path)
    assert first.t1w_scans[0].file.name == "sub-01_run-2_T1w.nii.gz"
    assert second.t1w_scans[0].file.name == "sub-02_T1w.nii.gz"
    assert "3 T1w images; sub-01_run-2_T1w.nii.gz is used" in first.units[0].notes[0]


def test_filters_find_older_names_and_single_echoes(tmp_path: Path) -> None:
    write_tree(tmp_path, Visit("01", gres=(Gre("acq-swi", (0.02,), suffix="T2starw"),)), empty=True)
    (subject,) = find_subjects(tmp_path, bids_filters={"megre": {"suffix": "T2starw"}})
    assert prefixes(subject) == ["sub-01_acq-swi"] and subject.units[0].gre.te_s == (0.02,)
    assert subject.faults == ()


def test_filter_with_another_folder_and_bare_phase(tmp_path: Path) -> None:
    write_tree(tmp_path, Visit("01", gres=()), empty=True)
    folder = tmp_path / "sub-01" / "swi"
    folder.mkdir()
    for echo in (1, 2):
        for piece in ("", "phase_"):
            (folder / f"sub-01_echo-{echo}_{piece}GRE.nii.gz").touch()
            write_json(folder / f"sub-01_echo-{echo}_{piece}GRE.json", {"EchoTime": 0.01 * echo})
    (subject,) = find_subjects(tmp_path, bids_filters={"megre": {"suffix": "GRE", "datatype": "swi"}})
    assert subject.units[0].gre.te_s == (0.01, 0.02) and subject.faults == ()


@pytest.mark.parametrize(
    ("filters", "wanted"),
    [
        ({"acquisition": None}, ["sub-01"]),
        ({"acquisition": "*"}, ["sub-01_acq-x_run-1", "sub-01_acq-x_run-2"]),
        ({"acq": "Query.ANY", "run": 2}, ["sub-01_acq-x_run-2"]),
        ({"run": [None, "1"]}, ["sub-01", "sub-01_acq-x_run-1"]),
        ({"acquisition": "Query.OPTIONAL", "run": "Query.NONE"}, ["sub-01"]),
    ],
)
def test_filter_words(tmp_path: Path, filters: dict[str, object], wanted: list[str]) -> None:
    write_tree(tmp_path, Visit("01", gres=(Gre(), Gre("acq-x_run-1"), Gre("acq-x_run-2"))), empty=True)
    (subject,) = find_subjects(tmp_path, bids_filters={"megre": filters})
    assert prefixes(subject) == wanted


def test_filter_file_ignores_keys_of_other_programs(tmp_path: Path) -> None:
    path = tmp_path / "filters.json"
    path.write_text(json.dumps({"bold": {"datatype": "func"}, "fmap": 3, "t1w": {"session": "ses-A"}}))
    assert read_filter_file(path) == {"t1w": {"session": "A"}}


@pytest.mark.parametrize("text", ["{", "[]", '{"megre": []}', '{"megre": {"suffix": {"a": 1}}}'])
def test_bad_filter_file(tmp_path: Path, text: str) -> None:
    path = tmp_path / "filters.json"
    path.write_text(text)
    with pytest.raises(InvalidInput, match="filter"):
        read_filter_file(path)


def test_misspelt_entity_in_a_filter(tmp_path: Path) -> None:
    write_tree(tmp_path, Visit("01"), empty=True)
    with pytest.raises(InvalidInput, match="acquisitionn"):
        find_subjects(tmp_path, bids_filters={"megre": {"acquisitionn": "x"}})
    with pytest.raises(InvalidInput, match="datatype"):
        find_subjects(tmp_path, bids_filters={"megre": {"datatype": "../x"}})


def test_default_queries_are_not_changed_by_filters() -> None:
    merged_queries({"megre": {"suffix": "GRE"}})
    assert merged_queries(None)["megre"]["suffix"] == "MEGRE"


def test_clash_of_outputs(tmp_path: Path) -> None:
    write_tree(tmp_path, Visit("01", gres=(Gre(), Gre(suffix="T2starw"))), empty=True)
    (subject,) = find_subjects(tmp_path, bids_filters={"megre": {"suffix": ["MEGRE", "T2starw"]}})
    assert codes(subject) == ["clash"]


def test_metadata_is_inherited_and_the_nearest_wins(tmp_path: Path) -> None:
    visit = Visit("01", "A")
    anat = visit.anat(write_tree(tmp_path, visit, empty=True))
    for path in anat.glob("*_MEGRE.nii.gz"):
        change_sidecar(path, MagneticFieldStrength=None, EchoTime=None, Manufacturer=None)
    write_json(tmp_path / "MEGRE.json", {"MagneticFieldStrength": 1.5, "Manufacturer": "top"})
    write_json(tmp_path / "sub-01" / "sub-01_MEGRE.json", {"MagneticFieldStrength": 7})
    write_json(tmp_path / "sub-01" / "sub-02_MEGRE.json", {"MagneticFieldStrength": 9})
    for index in (1, 2, 3):
        write_json(anat / f"sub-01_ses-A_echo-{index}_MEGRE.json", {"EchoTime": index / 100})
    (subject,) = find_subjects(tmp_path)
    gre = subject.units[0].gre
    assert gre.b0_tesla == 7.0 and gre.metadata["Manufacturer"] == "top" and gre.te_s == (0.01, 0.02, 0.03)


def test_derivatives_and_source_data_are_not_raw(tmp_path: Path) -> None:
    write_tree(tmp_path, Visit("01"), empty=True)
    for folder in ("derivatives/other", "sourcedata", "sub-01/other"):
        write_tree(tmp_path / folder, Visit("01", gres=(Gre("acq-no"),)), empty=True)
    (subject,) = find_subjects(tmp_path)
    assert prefixes(subject) == ["sub-01"]


def test_folders_with_spaces_unicode_and_misleading_names(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "sub-99" / "ses-old data é#%" / "anat", Visit("01"), empty=True)
    (root / "sub-Zoë").mkdir()
    (root / "sub-").mkdir()
    (subject,) = find_subjects(root)
    assert prefixes(subject) == ["sub-01"] and subject.units[0].gre.session is None
    (root / "code").mkdir()
    (subject,) = find_subjects(root / "code" / "..")
    assert prefixes(subject) == ["sub-01"]


def test_links_in_circles(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "data", Visit("01"), empty=True)
    (root / "sub-01" / "anat" / "loop").symlink_to(root)
    (root / "sub-01" / "ses-loop").symlink_to(root / "sub-01")
    (root / "sub-02").symlink_to("sub-02")
    (root / "sub-03").symlink_to(".")
    (root / "sub-01" / "anat" / "sub-01_acq-x_T1w.nii.gz").symlink_to("sub-01_acq-x_T1w.nii.gz")
    first, third = find_subjects(root)
    assert first.label == "01" and prefixes(first) == ["sub-01"]
    assert third.label == "03" and codes(third) == ["no-megre"]


def test_names_that_are_no_text_are_passed_over(tmp_path: Path) -> None:
    anat = Visit("01").anat(write_tree(tmp_path, Visit("01"), empty=True))
    (anat / os.fsdecode(b"sub-01_acq-\xff_MEGRE.nii.gz")).touch()
    (tmp_path / os.fsdecode(b"sub-\xff")).mkdir()
    (subject,) = find_subjects(tmp_path)
    assert prefixes(subject) == ["sub-01"] and subject.faults == ()
    odd = tmp_path / os.fsdecode(b"data\xff")
    write_tree(odd, Visit("01"), empty=True)
    with pytest.raises(InvalidInput, match="cannot be read as text"):
        find_subjects(odd)


def test_linked_subject_folder(tmp_path: Path) -> None:
    elsewhere = write_tree(tmp_path / "elsewhere", Visit("01"), empty=True)
    root = tmp_path / "data"
    root.mkdir()
    (root / "sub-01").symlink_to(elsewhere / "sub-01")
    (subject,) = find_subjects(root)
    assert prefixes(subject) == ["sub-01"] and subject.units[0].gre.te_s == (0.005, 0.010, 0.015)


def test_database_is_made_once_and_used_again(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "data", Visit("01"), Visit("02"), empty=True)
    before, database = snapshot(root), tmp_path / "index"
    (first,) = find_subjects(root, participant_labels=["01"], database_dir=database)
    made = (database / "layout_index.sqlite").stat().st_mtime_ns
    (second,) = find_subjects(root, participant_labels=["02"], database_dir=database)
    assert (first.label, second.label) == ("01", "02") and second.units
    assert (database / "layout_index.sqlite").stat().st_mtime_ns == made
    assert snapshot(root) == before and [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_unusable_databases(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "data", Visit("01"), empty=True)
    other = write_tree(tmp_path / "other", Visit("01"), empty=True)
    with pytest.raises(InvalidInput, match="in BIDS_DIR"):
        find_subjects(root, database_dir=root / "index")
    find_subjects(other, database_dir=tmp_path / "index")
    with pytest.raises(InvalidInput, match="was made for"):
        find_subjects(root, database_dir=tmp_path / "index")
    (tmp_path / "index" / "layout_index.sqlite").write_bytes(b"no database at all")
    with pytest.raises(InvalidInput, match="Remove it"):
        find_subjects(root, database_dir=tmp_path / "index")


def test_broken_sidecar_is_kept_for_the_check(tmp_path: Path) -> None:
    anat = Visit("01").anat(write_tree(tmp_path, Visit("01"), empty=True))
    path = sidecar_of(anat / "sub-01_echo-1_part-mag_MEGRE.nii.gz")
    path.write_bytes(b"{\xff")
    (subject,) = find_subjects(tmp_path)
    assert [s.path for s in subject.units[0].gre.sidecars if s.problem] == [path]


def test_importing_the_module_does_not_import_pybids() -> None:
    import subprocess

    code = "import sys, qsmals.bids.checks; sys.exit('bids' in sys.modules or 'nibabel' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("content", ["7", "[]", '"text"'])
def test_a_description_that_is_no_object_is_refused(tmp_path: Path, content: str) -> None:
    bids = write_tree(tmp_path, Visit("01"))
    (bids / "dataset_description.json").write_text(content)
    with pytest.raises(InvalidInput, match="must hold a JSON object"):
        find_subjects(bids)
