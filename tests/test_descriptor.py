"""What is written for nipoppy, BABS and Boutiques says what the program does."""

import fnmatch
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from qsmals import __version__
from qsmals.cli.descriptor import EXIT_CODES, LEVEL_ID, descriptor
from qsmals.cli.parser import Request, build_parser, parse

ROOT = Path(__file__).resolve().parents[1]
NIPOPPY = ROOT / "containers/nipoppy"


def load(name: str) -> Any:
    return json.loads((NIPOPPY / name).read_text())


def words_of(invocation: dict[str, Any], folders: dict[str, str]) -> list[str]:
    """The command line that Boutiques makes of an invocation."""
    words: list[str] = []
    inputs = {entry["id"]: entry for entry in descriptor()["inputs"]}
    assert set(invocation) <= set(inputs)
    for identity, entry in inputs.items():
        if identity in invocation and invocation[identity] is not False:
            value = invocation[identity]
            values = value if isinstance(value, list) else [value]
            words += [entry["command-line-flag"]] if "command-line-flag" in entry else []
            words += [] if entry["type"] == "Flag" else [folders.get(str(v), str(v)) for v in values]
    return words


def test_the_file_is_what_the_parser_says() -> None:
    remedy = "python -m qsmals.cli.descriptor > containers/nipoppy/descriptor.json"
    assert load("descriptor.json") == descriptor(), remedy


def test_every_option_is_in_it_once() -> None:
    inputs = descriptor()["inputs"]
    flags = [entry["command-line-flag"] for entry in inputs if "command-line-flag" in entry]
    options = [action for action in build_parser()._actions if action.option_strings and action.nargs != "?"]
    assert len(flags) == len(set(flags)) == len(options) - 1  # all but --help
    assert [entry["id"] for entry in inputs if not entry["optional"]] == ["bids_dir", "output_dir", LEVEL_ID]
    kinds = {entry["id"]: (entry["type"], entry.get("integer"), entry.get("list")) for entry in inputs}
    assert kinds["nprocs"] == ("Number", True, None) and kinds["field_strength"] == ("Number", None, None)
    assert kinds["participant_label"] == ("String", None, True) and kinds["sloppy"] == ("Flag", None, None)
    assert kinds["bids_filter_file"] == ("File", None, None)


def test_exit_codes_are_those_of_the_manual() -> None:
    table = (ROOT / "docs/usage.md").read_text().split("## Exit codes")[1]
    told = {int(n) for cell in re.findall(r"^\| ([\d, ]+) \|", table, re.MULTILINE) for n in cell.split(",")}
    assert told == {0, *EXIT_CODES}


def test_boutiques_accepts_it() -> None:
    boutiques = pytest.importorskip("boutiques")
    boutiques.validate(json.dumps(descriptor()))
    for name in ("invocation.json", "invocation_group.json"):
        boutiques.invocation("-i", (NIPOPPY / name).read_text(), json.dumps(descriptor()))


@pytest.mark.parametrize(("name", "level"), [("invocation.json", "participant"), ("invocation_group.json", "group")])
def test_nipoppy_starts_what_it_should(name: str, level: str, tmp_path: Path) -> None:
    for folder in ("bids", "out"):
        (tmp_path / folder).mkdir()
    folders = {
        "[[NIPOPPY_DPATH_BIDS]]": str(tmp_path / "bids"),
        "[[NIPOPPY_DPATH_PIPELINE_OUTPUT]]": str(tmp_path / "out"),
        "[[NIPOPPY_DPATH_PIPELINE_WORK]]": str(tmp_path / "work"),
        "[[NIPOPPY_PARTICIPANT_ID]]": "01",
    }
    request: Request = parse(words_of(load(name), folders))
    assert request.level == level and request.settings.work_dir == str(tmp_path / "work")
    assert request.settings.selection.participant_label == (("01",) if level == "participant" else ())


def test_nipoppy_finds_its_files_and_the_outputs_that_it_tracks() -> None:
    config = load("config.json")
    assert config["VERSION"] == __version__
    named = [value for step in config["STEPS"] for key, value in step.items() if key.endswith("_FILE")]
    assert {path.name for path in NIPOPPY.iterdir()} == {*named, "config.json"}
    expected = (ROOT / "tests/data/expected_outputs.txt").read_text().split()
    made = [name.replace("sub-01/anat/sub-01_", "sub-01/ses-A/anat/sub-01_ses-A_") for name in expected]
    for path in load("tracker.json")["PATHS"]:
        pattern = path.replace("[[NIPOPPY_BIDS_PARTICIPANT_ID]]", "sub-01").replace(
            "[[NIPOPPY_BIDS_SESSION_ID]]", "ses-A"
        )
        assert fnmatch.filter(made, pattern), f"nothing that is written matches {path}"


def test_babs_starts_what_it_should(tmp_path: Path) -> None:
    config = yaml.safe_load((ROOT / "containers/babs/qsmals.yaml").read_text())
    assert set(config["zip_foldernames"].values()) == {__version__.replace(".", "-")}
    arguments = dict(config["bids_app_args"])
    selection = arguments.pop("$SUBJECT_SELECTION_FLAG")
    (tmp_path / "bids").mkdir()
    words = [str(tmp_path / "bids"), str(tmp_path / "outputs/qsmals"), "participant"]
    for flag, value in arguments.items():
        words += [flag, *([value.replace("$BABS_TMPDIR", str(tmp_path / "wkdir"))] if value else [])]
    request = parse([*words, selection, "sub-01"])
    assert request.settings.selection.participant_label == ("01",)
    assert str(request.settings.resources.nprocs) == config["cluster_resources"]["number_of_cpus"]
