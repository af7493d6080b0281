"""The group level's tidy tables."""

import json
from pathlib import Path

import pytest

from qsmals.bids.errors import InvalidInput, NothingMatched
from qsmals.bids.group import collect_tables, read_tsv
from tests.bids_trees import snapshot, write_json

COLUMNS = "index\tname\themisphere\tmean"


def write_table(output: Path, name: str, *rows: str, columns: str = COLUMNS) -> Path:
    """Write ``sub-..._seg-..._desc-roi_<Map>.tsv`` with its sidecar into its folder."""
    folders = [piece for piece in name.split("_") if piece.startswith(("sub-", "ses-"))]
    path = output.joinpath(*folders, "anat", f"{name}.tsv")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([columns, *rows]) + "\n")
    write_json(path.with_suffix(".json"), {"mean": {"Description": "Mean", "Units": "ppm"}, "Sources": ["x"]})
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
        *("index", "name", "hemisphere", "mean"),
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
