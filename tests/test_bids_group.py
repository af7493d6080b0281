"""The group level's tidy tables."""

import json
from pathlib import Path
from typing import Any

import pytest

from qsmals.bids.errors import InvalidInput, NothingMatched
from qsmals.bids.group import collect_tables, read_tsv
from qsmals.reports.collect import outdated_tables
from tests.bids_trees import snapshot, write_json

COLUMNS = "index\tname\themisphere\tmean"


def write_table(output: Path, name: str, *rows: str, columns: str = COLUMNS, **sidecar: Any) -> Path:
    """Write ``sub-..._seg-..._desc-roi_<Map>.tsv`` with its sidecar into its folder."""
    folders = [piece for piece in name.split("_") if piece.startswith(("sub-", "ses-"))]
    path = output.joinpath(*folders, "anat", f"{name}.tsv")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([columns, *rows]) + "\n")
    columns_of = {"mean": {"Description": "Mean", "Units": "ppm"}}
    write_json(path.with_suffix(".json"), {**columns_of, "Sources": ["x"], **sidecar})
    return path


def rows_of(path: Path) -> list[dict[str, str]]:
    return read_tsv(path)[1]


def test_one_tidy_table_per_atlas_and_map(tmp_path: Path) -> None:
    out, raw = tmp_path / "out", tmp_path / "raw"
    write_table(out, "sub-10_seg-aparc_desc-roi_Chimap", "1\tcaudate\tL\t0.0500")
    write_table(out, "sub-2_ses-B_acq-x_run-2_seg-aparc_desc-roi_Chimap", "1\tcaudate\tL\tn/a", "2\tputamen\tR\t1e-3")
    write_table(out, "sub-2_ses-B_acq-x_run-10_seg-aparc_desc-roi_Chimap", "1\tcaudate\tL\t0.07")
    write_table(out, "sub-2_ses-B_acq-x_run-2_seg-aparc_desc-roi_R2starmap", "1\tcaudate\tL\t20")
    write_table(out, "sub-2_ses-B_acq-x_run-2_seg-nigra_desc-roi_Chimap", "1\tsn\tL\t0.1")
    raw.mkdir()
    (raw / "participants.tsv").write_text(
        "\ufeffparticipant_id\tage\tname\nsub-10\t61\tz\nsub-3\t70\t\n", encoding="utf-8"
    )
    write_json(raw / "participants.json", {"age": {"Description": "Age", "Units": "year"}})
    result = collect_tables(out, bids_dir=raw)
    assert [path.name for path in result.tables] == [
        "seg-aparc_desc-roi_Chimap.tsv",
        "seg-aparc_desc-roi_R2starmap.tsv",
        "seg-nigra_desc-roi_Chimap.tsv",
    ]
    columns, rows = read_tsv(result.tables[0])
    assert columns == (
        *("participant_id", "session_id", "acq", "run", "age", "participants_name"),
        *("labels_from", "index", "name", "hemisphere", "mean"),
    )
    assert [(r["participant_id"], r["session_id"], r["acq"], r["run"], r["age"], r["mean"]) for r in rows] == [
        ("sub-2", "ses-B", "x", "2", "n/a", "n/a"),
        ("sub-2", "ses-B", "x", "2", "n/a", "1e-3"),
        ("sub-2", "ses-B", "x", "10", "n/a", "0.07"),
        ("sub-10", "n/a", "n/a", "n/a", "61", "0.0500"),
    ]
    dictionary = json.loads(result.tables[0].with_suffix(".json").read_text())
    assert set(dictionary) == set(columns) and dictionary["mean"]["Units"] == "ppm"
    assert dictionary["age"] == {"Description": "Age", "Units": "year"}
    assert all("Description" in entry for entry in dictionary.values())
    assert result.participants == ("sub-2", "sub-10") and result.without_tables == ("sub-3",)
    assert "seg-nigra Chimap: no table of sub-10" in result.warnings


def test_equal_inputs_give_equal_bytes_and_subjects_are_not_touched(tmp_path: Path) -> None:
    write_table(tmp_path, "sub-1_seg-a_desc-roi_Chimap", "1\tcaudate\tL\t0.05")
    (tmp_path / "sub-2" / "anat").mkdir(parents=True)
    before = snapshot(tmp_path / "sub-1")
    first = collect_tables(tmp_path)
    bytes_of_first = snapshot(tmp_path / "group")
    assert collect_tables(tmp_path) == first and snapshot(tmp_path / "group") == bytes_of_first
    assert snapshot(tmp_path / "sub-1") == before and first.without_tables == ("sub-2",)


def test_participants_can_be_chosen(tmp_path: Path) -> None:
    for label in "123":
        write_table(tmp_path, f"sub-{label}_seg-a_desc-roi_Chimap", "1\tcaudate\tL\t0.05")
    result = collect_tables(tmp_path, participant_labels=["sub-1", "3"])
    assert [row["participant_id"] for row in rows_of(result.tables[0])] == ["sub-1", "sub-3"]
    with pytest.raises(NothingMatched, match="sub-9"):
        collect_tables(tmp_path, participant_labels=["9"])


def test_output_dir_without_tables(tmp_path: Path) -> None:
    with pytest.raises(NothingMatched, match="run the participant level first"):
        collect_tables(tmp_path)
    write_table(tmp_path, "sub-1_seg-a_desc-roi_Chimap")
    collected = collect_tables(tmp_path)
    assert collected.tables == () and collected.without_tables == ("sub-1",)


def test_columns_of_different_versions(tmp_path: Path) -> None:
    write_table(tmp_path, "sub-1_seg-a_desc-roi_Chimap", "1\tx\tL\t2")
    write_table(tmp_path, "sub-2_rec-r_seg-a_desc-roi_Chimap", "1\t5", columns="index\tmedian")
    result = collect_tables(tmp_path)
    first, second = rows_of(result.tables[0])
    assert (first["mean"], first["median"], first["rec"]) == ("2", "n/a", "n/a")
    assert (second["mean"], second["median"], second["rec"]) == ("n/a", "5", "r")
    assert any("different columns" in warning for warning in result.warnings)


ROW = "1\tcaudate\tL\t0.05"
STEPS: dict[str, Any] = {
    "inversion": {"method": "tv", "weight": 2.0},
    "brain_extraction": {"method": "auto"},
    "atlas": {"method": "als"},
}
GIVEN = STEPS | {"brain_extraction": {"method": "given", "file": "/fs/1"}, "atlas": {"method": "given", "file": "/fs"}}


def made(steps: dict[str, Any] = STEPS, labels_from: str = "atlas", version: str = "1", **more: Any) -> dict[str, Any]:
    """The part of a sidecar that tells how a table was made."""
    return {"LabelsFrom": labels_from, "Labels": "l", "SoftwareVersion": version, "Parameters": steps, **more}


def test_tables_that_were_not_made_alike_are_told_with_their_scans(tmp_path: Path) -> None:
    for label in "1234567":
        write_table(tmp_path, f"sub-{label}_seg-als_desc-roi_Chimap", ROW, **made())
    write_table(tmp_path, "sub-2_seg-als_desc-roi_Chimap", ROW, **made(GIVEN, "FreeSurfer"))
    other_file = GIVEN | {"brain_extraction": {"method": "given", "file": "/fs/8"}}
    write_table(tmp_path, "sub-8_ses-B_seg-als_desc-roi_Chimap", ROW, **made(other_file, "FreeSurfer"))
    write_table(tmp_path, "sub-3_seg-als_desc-roi_Chimap", ROW, **made(version="0.9"))
    weaker = STEPS | {"inversion": {"method": "tv", "weight": 1.0}, "preset": {"method": "consensus"}}
    write_table(tmp_path, "sub-4_seg-als_desc-roi_Chimap", ROW, **made(weaker))
    write_table(tmp_path, "sub-5_seg-als_desc-roi_Chimap", ROW, **made(Labels="of the DKT atlas"))
    result = collect_tables(tmp_path)
    start, usual = "seg-als Chimap: ", "not made like 3 others (as that of sub-1): "
    assert result.warnings == (
        f"{start}2 of 8 tables (sub-2, sub-8 ses-B) were {usual}labels of FreeSurfer in place of the atlas; brain "
        "extraction given in place of auto; atlas given in place of als",
        f"{start}1 of 8 tables (sub-3) was {usual}qsmals 0.9 in place of 1",
        f"{start}1 of 8 tables (sub-4) was {usual}other parameters of inversion; preset consensus in place of none",
        f"{start}1 of 8 tables (sub-5) was {usual}other labels (“Labels” in their JSON)",
    )
    whose = {row["participant_id"]: row["labels_from"] for row in rows_of(result.tables[0])}
    assert (whose["sub-1"], whose["sub-2"], whose["sub-8"]) == ("atlas", "FreeSurfer", "FreeSurfer")
    assert "Description" in json.loads(result.tables[0].with_suffix(".json").read_text())["labels_from"]


def test_what_follows_the_scan_or_the_machine_makes_no_difference(tmp_path: Path) -> None:
    for label, scale, seed in (("1", 9.0, 1), ("2", 20.0, 2)):
        steps = {"inversion": {"method": "ndi", "rad_per_ppm": scale}, "coregistration": {"random_seed": seed}}
        write_table(tmp_path, f"sub-{label}_seg-als_desc-roi_Chimap", ROW, **made(steps))
    assert collect_tables(tmp_path).warnings == ()


@pytest.mark.parametrize(
    ("now", "why"),
    [
        ({"inversion": STEPS["inversion"], "brain_extraction": {"method": "given"}}, "brain extraction"),
        ({"inversion": STEPS["inversion"]}, "brain extraction"),
        ({"inversion": STEPS["inversion"], "brain_extraction": {"method": "auto"}}, ""),
        (None, ""),
    ],
)
def test_tables_of_an_earlier_map_are_left_out(tmp_path: Path, now: dict[str, Any] | None, why: str) -> None:
    write_table(tmp_path, "sub-1_run-1_seg-als_desc-roi_Chimap", ROW)
    old = write_table(tmp_path, "sub-1_run-1_seg-x_desc-roi_Chimap", ROW, **made())
    if now is not None:
        write_json(old.with_name("sub-1_run-1_Chimap.json"), {"SoftwareVersion": "1", "Parameters": now})
    result = collect_tables(tmp_path)
    assert [path.name.split("_")[0] for path in result.tables] == ["seg-als"] + ["seg-x"] * (not why)
    assert old.is_file(), "what a user may want is not removed"
    assert list(outdated_tables(old.parent, "sub-1_run-1")) == [old] * bool(why)
    assert not why or f"{old.name} is left out: it was measured on an earlier Chimap" in result.warnings[0]
    assert not why or f"otherwise ({why})" in result.warnings[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "is empty"),
        (b"a\tb\n1\n", "line 2: 1 values for 2"),
        (b"a\ta\n", "same name"),
        (b"\xff\n", "cannot be read"),
    ],
)
def test_bad_tables(tmp_path: Path, text: bytes, message: str) -> None:
    write_table(tmp_path, "sub-1_seg-a_desc-roi_Chimap").write_bytes(text)
    with pytest.raises(InvalidInput, match=message):
        collect_tables(tmp_path)


def test_participants_table_without_ids_and_with_a_line_twice(tmp_path: Path) -> None:
    write_table(tmp_path, "sub-1_seg-a_desc-roi_Chimap", "1\tx\tL\t2")
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "participants.tsv").write_text("participant_id\tage\n1\t50\nsub-1\t60\n")
    result = collect_tables(tmp_path, bids_dir=raw)
    assert rows_of(result.tables[0])[0]["age"] == "50" and "more than once" in result.warnings[0]
    (raw / "participants.tsv").write_text("id\n1\n")
    with pytest.raises(InvalidInput, match="participant_id"):
        collect_tables(tmp_path, bids_dir=raw)
