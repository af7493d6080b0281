"""What a user gets to read when the input is wrong: message, exit code, and what happens to the others."""

import errno
import gzip
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from qsmals.cli import main
from tests.bids_trees import AFFINE, Gre, Visit, change_sidecar, snapshot, write_image, write_tree

Damage = Callable[[Path], None]


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The command line changes variables and logging of the process; the tests' own stay as they were."""
    import logging
    import os

    for name, value in os.environ.items():
        monkeypatch.setenv(name, value)
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", list(root.handlers))


def run(tmp_path: Path, *words: str) -> int:
    return main([str(tmp_path / "bids"), str(tmp_path / "out"), "participant", "--skip-bids-validation", *words])


def anat(root: Path) -> Path:
    return root / "sub-01" / "anat"


def truncate(root: Path) -> None:
    image = anat(root) / "sub-01_echo-2_part-mag_MEGRE.nii.gz"
    image.write_bytes(image.read_bytes()[:-40])


def make_nan(root: Path) -> None:
    image = anat(root) / "sub-01_echo-1_part-phase_MEGRE.nii.gz"
    data = nib.load(image).get_fdata().astype(np.float32)
    data[2, 3, 1] = np.nan
    nib.save(nib.Nifti1Image(data, AFFINE), image)


def drop_echo_time(root: Path) -> None:
    for part in ("mag", "phase"):
        change_sidecar(anat(root) / f"sub-01_echo-3_part-{part}_MEGRE.nii.gz", EchoTime=None)


def drop_field_strength(root: Path) -> None:
    for image in anat(root).glob("*MEGRE.nii.gz"):
        change_sidecar(image, MagneticFieldStrength=None)


def shuffle_echoes(root: Path) -> None:
    for part in ("mag", "phase"):
        change_sidecar(anat(root) / f"sub-01_echo-1_part-{part}_MEGRE.nii.gz", EchoTime=0.015)
        change_sidecar(anat(root) / f"sub-01_echo-3_part-{part}_MEGRE.nii.gz", EchoTime=0.005)


def shift_grid(root: Path) -> None:
    image = anat(root) / "sub-01_echo-2_part-phase_MEGRE.nii.gz"
    moved = AFFINE.copy()
    moved[0, 3] += 5
    write_image(image, np.asarray(nib.load(image).dataobj), None, moved)


def drop_phase(root: Path) -> None:
    for path in anat(root).glob("*part-phase*"):
        path.unlink()


FAULTS: dict[str, tuple[Damage, str]] = {
    "truncated file": (truncate, "opy"),
    "NaN phase": (make_nan, "NaN"),
    "no echo time": (drop_echo_time, "EchoTime"),
    "no field strength": (drop_field_strength, "--field-strength"),
    "shuffled echoes": (shuffle_echoes, "echo"),
    "mismatched grids": (shift_grid, "grid"),
    "no phase": (drop_phase, "phase"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_ends_in_code_3_and_says_what_to_do(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage, words = FAULTS[name]
    root = write_tree(tmp_path / "bids", Visit())
    damage(root)
    before = snapshot(root)
    assert run(tmp_path) == 3
    shown = capsys.readouterr().out
    assert words in shown
    assert "sub-01" in shown
    assert "Traceback" not in shown
    assert snapshot(root) == before
    entry = json.loads((tmp_path / "out" / "logs" / "summary.json").read_text())["subjects"]["sub-01"]
    assert entry["status"] == "invalid"
    assert not list((tmp_path / "out" / "work").glob("qsmals-*"))


ATLASES: dict[str, tuple[np.ndarray, str, str, int, str]] = {
    "no table": (np.ones((4, 4, 4), np.int16), "", "MNI152NLin6Asym", 2, "there is no table"),
    "unknown space": (np.ones((4, 4, 4), np.int16), "1\tstn\n", "MNI152NLin6Sym", 2, "no transform leads from"),
    "no row for a label": (
        np.full((4, 4, 4), 2, np.int16),
        "1\tstn\n",
        "MNI152NLin6Asym",
        3,
        "no row for the labels 2",
    ),
    "no column": (np.ones((4, 4, 4), np.int16), "1\n", "MNI152NLin6Asym", 3, "no column name"),
    "half a probability": (np.full((4, 4, 4, 2), 0.2, np.float32), "1\ta\n2\tb\n", "MNI152NLin6Asym", 3, "not to one"),
    "more than one": (np.full((4, 4, 4, 2), 0.9, np.float32), "1\ta\n2\tb\n", "MNI152NLin6Asym", 3, "more than one"),
}


@pytest.mark.parametrize("name", ATLASES)
def test_a_wrong_atlas_ends_before_any_work(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, rows, space, code, words = ATLASES[name]
    write_tree(tmp_path / "bids", Visit())
    write_image(tmp_path / "own.nii.gz", data, None, np.eye(4))
    if rows:
        header = "index\tname\n" if "\t" in rows else "index\n"
        (tmp_path / "own.tsv").write_text(header + rows)
    try:
        ended = run(tmp_path, "--atlas", f"own={tmp_path}/own.nii.gz,{tmp_path}/own.tsv,{space}")
    except SystemExit as usage:
        ended = int(usage.code or 0)
    assert ended == code
    shown = capsys.readouterr()
    assert words in shown.out + shown.err
    assert "own" in shown.out + shown.err and "Traceback" not in shown.out + shown.err
    assert not list(tmp_path.rglob("qsmals-*"))


def test_all_faults_of_a_subject_are_told_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_tree(tmp_path / "bids", Visit())
    for damage in (truncate, make_nan, drop_echo_time):
        damage(root)
    assert run(tmp_path) == 3
    shown = capsys.readouterr().out
    for words in ("echo-2_part-mag", "NaN", "EchoTime"):
        assert words in shown


def test_the_methods_text_needs_no_processing(tmp_path: Path) -> None:
    write_tree(tmp_path / "bids", Visit(gres=(Gre(te_s=(0.004, 0.009, 0.014)),)))
    assert run(tmp_path, "--boilerplate-only") == 0
    text = (tmp_path / "out" / "logs" / "CITATION.md").read_text()
    assert "ROMEO" in text
    assert "10.1002/mrm.28563" in (tmp_path / "out" / "logs" / "CITATION.bib").read_text()


def test_field_strength_on_the_command_line_mends_its_absence(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "bids", Visit())
    drop_field_strength(root)
    assert run(tmp_path, "--field-strength", "3", "--boilerplate-only") == 0


def test_an_unknown_participant_is_code_4(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tree(tmp_path / "bids", Visit())
    assert run(tmp_path, "--participant-label", "99") == 4
    assert "99" in capsys.readouterr().out


def test_reports_are_written_anew_without_the_input(tmp_path: Path) -> None:
    truncate(write_tree(tmp_path / "bids", Visit()))
    assert run(tmp_path) == 3
    page = tmp_path / "out" / "sub-01.html"
    text = page.read_text()
    page.unlink()
    shutil.rmtree(tmp_path / "bids" / "sub-01")
    assert run(tmp_path, "--reports-only") == 0
    assert page.read_text() == text and "damaged" in text
    assert run(tmp_path, "--reports-only", "--participant-label", "02") == 4
    assert run(tmp_path, "--reports-only", "--participant-label", "01", "02") == 5
    next((tmp_path / "out" / "sub-01" / "log").glob("*/run.json")).write_text("{")
    assert run(tmp_path, "--reports-only") == 5


def test_a_derivative_as_input_is_code_3(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "bids", Visit())
    description = {"Name": "x", "BIDSVersion": "1.10.0", "DatasetType": "derivative"}
    (root / "dataset_description.json").write_text(json.dumps(description))
    assert main([str(root), str(tmp_path / "out"), "participant"]) == 3


def test_group_without_tables_is_code_4(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "bids", Visit())
    (tmp_path / "out").mkdir()
    assert main([str(root), str(tmp_path / "out"), "group"]) == 4


def test_a_locked_subject_says_who_holds_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from qsmals.engine.lock import SubjectLock

    write_tree(tmp_path / "bids", Visit())
    with SubjectLock(tmp_path / "out", "01"):
        assert run(tmp_path) == 1
    shown = capsys.readouterr().out
    assert "sub-01" in shown
    assert "process" in shown


def test_a_summary_that_stays_locked_is_code_5(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from qsmals.engine import summary
    from qsmals.engine.lock import Lock

    write_tree(tmp_path / "bids", Visit())
    monkeypatch.setattr(summary, "LOCK_WAIT_S", 0.05)
    with Lock(tmp_path / "out" / "logs" / ".summary.json.lock", what="summary"):
        assert run(tmp_path, "--boilerplate-only") == 5
    assert "is being worked on by" in capsys.readouterr().out


@pytest.mark.parametrize("label", [None, "01"])
def test_the_validator_is_for_whole_data_sets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], label: str | None
) -> None:
    root, validated = write_tree(tmp_path / "bids", Visit()), []
    monkeypatch.setattr("qsmals.cli.participant.validate", validated.append)
    words = ["--participant-label", label] if label else []
    assert main([str(root), str(tmp_path / "out"), "participant", "--boilerplate-only", *words]) == 0
    assert validated == ([] if label else [root])
    assert ("looks at whole data sets: not run" in capsys.readouterr().out) == bool(label)
    (root / "dataset_description.json").write_text("{")
    assert main([str(root), str(tmp_path / "out"), "participant", "--boilerplate-only", *words]) == 3


def test_the_log_lies_beside_the_summary(tmp_path: Path) -> None:
    write_tree(tmp_path / "bids", Visit())
    run(tmp_path, "--boilerplate-only")
    (log,) = (tmp_path / "out" / "logs").glob("*.log")
    assert "1 subject with 1 scan" in log.read_text()


def test_an_uncompressed_image_is_as_good(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "bids", Visit())
    for packed in anat(root).glob("*.nii.gz"):
        with gzip.open(packed) as stream, packed.with_suffix("").open("wb") as plain:
            shutil.copyfileobj(stream, plain)
        packed.unlink()
    assert run(tmp_path, "--boilerplate-only") == 0


def test_a_full_disk_is_code_5_and_no_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from qsmals.cli import participant

    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "out" / "x"))

    monkeypatch.setattr(participant.writing, "write_citation", full)
    write_tree(tmp_path / "bids", Visit())
    assert run(tmp_path) == 5
    said = capsys.readouterr().out
    assert "No space left on device" in said and "Traceback" not in said


def test_a_broken_participants_table_costs_the_ages_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_tree(tmp_path / "bids", Visit("01"))
    (root / "participants.tsv").write_text("age\n5\n")
    assert run(tmp_path, "--boilerplate-only") == 0
    assert "participants.tsv has no column participant_id; the ages in it are not used" in capsys.readouterr().out


def test_nothing_is_left_of_a_log_on_a_full_disk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from qsmals.cli.run import _LogFile

    handler = _LogFile("/dev/full", encoding="utf-8")
    handler.emit(logging.makeLogRecord({"msg": "a word"}))
    handler.emit(logging.makeLogRecord({"msg": "another"}))
    assert capsys.readouterr().err.count("cannot be written: [Errno 28] No space left on device") == 1
    handler.baseFilename = str(tmp_path / "empty.log")
    (tmp_path / "empty.log").touch()
    handler.flush()
    handler.close()
    assert not (tmp_path / "empty.log").exists()
