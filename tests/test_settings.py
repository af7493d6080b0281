"""Settings keep their meaning through a file, and refuse what they do not know."""

from dataclasses import replace
from pathlib import Path

import pytest

from qsmals.settings import Acquisition, Reconstruction, Selection, Settings, merge, read_toml, write_toml


def test_settings_round_trip_through_toml(tmp_path: Path) -> None:
    settings = Settings(
        "/bids",
        "/out",
        "/work",
        selection=Selection(participant_label=("01", "02"), derivatives=("freesurfer=/fs",)),
        acquisition=Acquisition(field_strength_tesla=3.0),
        reconstruction=Reconstruction(parameters={"tv": {"regularisation": 1e-4}}),
    )
    written = write_toml(tmp_path / "run.toml", settings)
    assert Settings.from_mapping(read_toml(written)) == settings


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"anatomy": {"atlass": "als"}}, "anatomy.atlass"),
        ({"colour": 1}, "unknown setting colour"),
        ({"behaviour": {"sloppy": "yes"}}, "behaviour.sloppy is of type bool"),
        ({"behaviour": {"random_seed": True}}, "behaviour.random_seed is of type int"),
        ({"resources": 4}, "resources is a table"),
        ({"acquisition": {"phase_sign": "up"}}, "acquisition.phase_sign is one of auto, positive, negative"),
        ({"selection": {"participant_label": "01"}}, "selection.participant_label is a list"),
    ],
)
def test_a_wrong_setting_is_named(table: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Settings.from_mapping({"bids_dir": "b", "output_dir": "o", "work_dir": "w", **table})


def test_whole_numbers_serve_as_reals() -> None:
    built = Settings.from_mapping(
        {"bids_dir": "b", "output_dir": "o", "work_dir": "w", "acquisition": {"field_strength_tesla": 3}}
    )
    assert built.acquisition.field_strength_tesla == 3.0
    assert isinstance(built.acquisition.field_strength_tesla, float)


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "run.toml"
    broken.write_text("a = = 1")
    with pytest.raises(ValueError, match=r"run\.toml is not a TOML file"):
        read_toml(broken)


def test_merge_prefers_the_second() -> None:
    assert merge({"a": 1, "b": {"c": 2}}, {"b": {"d": 3}}) == {"a": 1, "b": {"c": 2, "d": 3}}


def test_settings_cannot_be_changed() -> None:
    settings = Settings("b", "o", "w")
    with pytest.raises(AttributeError):
        settings.bids_dir = "x"  # type: ignore[misc]
    assert replace(settings, bids_dir="x").bids_dir == "x"
