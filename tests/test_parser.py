"""The command line as the manual says it."""

import subprocess
import sys
from pathlib import Path

import pytest

from qsmals.cli.parser import build_parser, parse
from qsmals.recon.stages import STAGES


@pytest.fixture
def folders(tmp_path: Path) -> list[str]:
    (tmp_path / "bids").mkdir()
    return [str(tmp_path / "bids"), str(tmp_path / "out")]


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stop:
        parse(words)
    assert stop.value.code == 2
    return capsys.readouterr().err


def test_help_names_every_option_and_exit_code() -> None:
    shown = subprocess.run([sys.executable, "-m", "qsmals", "--help"], capture_output=True, text=True, check=True)
    for action in build_parser()._actions:
        assert all(flag in shown.stdout for flag in action.option_strings)
    assert "143" in shown.stdout


def test_labels_lose_their_prefix(folders: list[str]) -> None:
    words = [*folders, "participant", "--participant-label", "sub-01", "02", "--session-label", "ses-A"]
    selection = parse(words).settings.selection
    assert selection.participant_label == ("01", "02")
    assert selection.session_label == ("A",)


@pytest.mark.parametrize(("word", "gigabytes"), [("8GB", 8.0), ("8000MB", 8.0), ("8000", 8.0)])
def test_memory_has_a_unit(folders: list[str], word: str, gigabytes: float) -> None:
    assert parse([*folders, "participant", "--mem", word]).settings.resources.memory_gb == pytest.approx(gigabytes)


def test_work_folder_lies_in_the_output_by_default(folders: list[str]) -> None:
    settings = parse([*folders, "participant"]).settings
    assert settings.work_dir == str(Path(settings.output_dir) / "work")


def test_the_command_line_wins_over_the_file(folders: list[str], tmp_path: Path) -> None:
    config = tmp_path / "run.toml"
    config.write_text(
        "[behaviour]\nsloppy = true\nrandom_seed = 5\n[reconstruction.parameters.tv]\nregularisation = 1e-4\n"
        "[software]\nqsmals = '0'\n"
    )
    settings = parse([*folders, "participant", "--config-file", str(config), "--random-seed", "9"]).settings
    assert settings.behaviour.sloppy
    assert settings.behaviour.random_seed == 9
    assert settings.reconstruction.parameters == {"tv": {"regularisation": 1e-4}}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[behavior]\nsloppy = true\n", "unknown setting behavior"),
        ("[reconstruction]\ninversion = 'magic'\n", "inversion: no method magic"),
        ("[reconstruction.parameters.magic]\na = 1\n", "no such method"),
        ("[reconstruction.parameters.tv]\nlambda = 1\n", "tv has no parameter lambda"),
    ],
)
def test_a_wrong_file_is_refused(
    folders: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, words: str
) -> None:
    config = tmp_path / "run.toml"
    config.write_text(text)
    assert words in refused([*folders, "participant", "--config-file", str(config)], capsys)


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (["--mem", "many"], "--mem"),
        (["--nprocs", "0"], "--nprocs"),
        (["--field-strength", "-3"], "--field-strength"),
        (["--use-plugin", "absent.yml"], "absent.yml is no file"),
        (["-d", "freesurfer=/absent"], "--derivatives freesurfer=/absent"),
        (["--random-seed", "0"], "--random-seed"),
        (["--inversion", "magic"], "--inversion"),
    ],
)
def test_a_wrong_option_is_named(
    folders: list[str], capsys: pytest.CaptureFixture[str], extra: list[str], words: str
) -> None:
    assert words in refused([*folders, "participant", *extra], capsys)


def test_the_output_is_no_derivative_to_start_from(folders: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    out = Path(folders[1])
    out.mkdir()
    (out.parent / "link").symlink_to(out)
    for name in (out, out.parent / "link"):
        said = refused([*folders, "participant", "-d", f"prev={name}"], capsys)
        assert f"prev={name}: this is OUTPUT_DIR itself" in said and "an OUTPUT_DIR of its own" in said
    (out / "fs").mkdir()
    parse([*folders, "participant", "-d", f"freesurfer={out / 'fs'}"])


def test_folders_must_not_mix(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bids = tmp_path / "bids"
    bids.mkdir()
    assert "is no folder" in refused([str(tmp_path / "absent"), str(tmp_path / "out"), "participant"], capsys)
    assert "BIDS_DIR itself" in refused([str(bids), str(bids), "participant"], capsys)
    assert "holds BIDS_DIR" in refused([str(bids), str(tmp_path), "participant"], capsys)
    for inside in ("out", "sub-01", "derivatives", "sourcedata/x"):
        assert "only derivatives/NAME" in refused([str(bids), str(bids / inside), "participant"], capsys)
    work = ["-w", str(bids / "work")]
    assert "choose another with -w" in refused([str(bids), str(tmp_path / "out"), "participant", *work], capsys)
    assert "run the participant level first" in refused([str(bids), str(tmp_path / "out"), "group"], capsys)
    parse([str(bids), str(bids / "derivatives" / "qsmals"), "participant"])


def test_every_stage_has_an_option() -> None:
    flags = {flag for action in build_parser()._actions for flag in action.option_strings}
    assert {f"--{stage.replace('_', '-')}" for stage in STAGES} <= flags


def test_an_engine_that_does_not_exist_is_refused_at_once(
    folders: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = tmp_path / "plugin.yml"
    chosen.write_text("plugin: Magic\n")
    assert "no engine Magic" in refused([*folders, "participant", "--use-plugin", str(chosen)], capsys)


def test_a_file_of_an_earlier_run_does_not_bring_its_work_folder(folders: list[str], tmp_path: Path) -> None:
    config = tmp_path / "run.toml"
    config.write_text("work_dir = '/gone'\n[behaviour]\nsloppy = true\n")
    settings = parse([*folders, "participant", "--config-file", str(config)]).settings
    assert settings.work_dir == str(Path(settings.output_dir) / "work")
    assert settings.behaviour.sloppy


@pytest.mark.parametrize("chosen", [[], ["--participant-label", "01"]])
def test_an_image_in_native_space_is_not_that_of_several_subjects(
    tmp_path: Path, folders: list[str], capsys: pytest.CaptureFixture[str], chosen: list[str]
) -> None:
    """Those that are not chosen are the tasks of other jobs."""
    (tmp_path / "x.nii.gz").touch()
    (tmp_path / "x.tsv").touch()
    word = f"x={tmp_path}/x.nii.gz,{tmp_path}/x.tsv,"
    (tmp_path / "bids" / "sub-01").mkdir()
    assert parse([*folders, "participant", "--atlas", word + "T1w"])
    (tmp_path / "bids" / "sub-02").mkdir()
    told = refused([*folders, "participant", *chosen, "--atlas", word + "MEGRE"], capsys)
    assert "has 2 subjects; write {subject}" in told
    assert parse([*folders, "participant", *chosen, "--atlas", word + "MNI152NLin6Asym"])
    assert parse([*folders, "participant", *chosen, "--atlas", word.replace("x.nii", "{subject}.nii") + "T1w"])
