"""What the page asks of an acquisition: items that apply, fields that answer them, and what stays unknown."""

import pytest

from qsmals.reports.acquisition import ITEMS, acquisition
from qsmals.reports.collect import Scan
from qsmals.reports.conformance import conformance
from qsmals.reports.facts import ScanFacts
from tests.report_trees import FACTS

FILTERS = "Filters and prescan normalisation"
COMPLETE = FACTS["acquisition"] | {item.fields[0]: "known" for item in ITEMS if item.title != "Echo spacing"}
DERIVED = ("NumberOfEchoes", "FirstEchoTime", "EchoSpacing", "FieldOfView", "FilterWords", "VoxelSize", "MatrixSize")


def facts(**fields) -> ScanFacts:
    """Facts of a scan whose every item is in its sidecar, but for those that the image type tells."""
    known = {name: value for name, value in COMPLETE.items() if name not in DERIVED}
    grid = {name: FACTS["acquisition"][name] for name in ("VoxelSize", "MatrixSize")}
    return ScanFacts("sub-01", acquisition=known | grid | fields)


def reporting(**fields):
    return next(line for line in conformance(Scan("sub-01", facts(**fields), {}, (), ()), {}, {}) if line.item == "C9")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"ImageType": ["ORIGINAL", "PRIMARY", "M", "ND", "NORM"]}, "prescan normalisation (ImageType: NORM)"),
        ({"ImageType": [["ORIGINAL", "M", "FIL"], ["ORIGINAL", "M", "FIL"]]}, "image filter (ImageType: FIL)"),
        ({"ImageType": "ORIGINAL\\PRIMARY\\M\\NORM", "Manufacturer": "X"}, "prescan normalisation (ImageType: NORM)"),
        (
            {"ImageTypeText": ["ORIGINAL", "PRIMARY", "M", "ND"], "Manufacturer": "Siemens"},
            "none named (ImageTypeText)",
        ),
    ],
)
def test_the_image_type_tells_of_filters(fields, words):
    assert dict(acquisition(facts(**fields))["known"])[FILTERS] == words
    assert reporting(**fields).answer == "met"


@pytest.mark.parametrize(
    "fields", [{}, {"ImageType": ["ORIGINAL", "PRIMARY", "M"], "Manufacturer": "GE MEDICAL SYSTEMS"}]
)
def test_what_no_field_answers_is_unknown_and_not_unmet(fields):
    assert acquisition(facts(**fields))["unknown"] == ["filters and prescan normalisation"]
    line = reporting(**fields)
    assert line.answer == "unknown" and line.evidence.endswith(
        "take from the protocol: filters and prescan normalisation"
    )
    nothing = conformance(Scan("sub-01", None, {}, (), ()), {}, {})
    assert next(line for line in nothing if line.item == "C9").answer == "unknown"


def test_a_given_field_is_not_told_as_if_it_were_made_here():
    steps = {"unwrap": {"method": "romeo"}, "field": {"method": "weighted"}}
    scan = Scan("sub-01", facts(), {}, (), ())
    own, given = (
        {line.item: line for line in conformance(scan, parameters, {})}
        for parameters in (steps, steps | {"given_field": {"method": "given", "file": "/x/fieldmap.nii.gz"}})
    )
    for item in ("C3", "C4"):
        assert own[item].answer == "met"
        assert given[item].answer == "unknown" and "/x/fieldmap.nii.gz" in given[item].evidence
    assert [item for item in own if item[0] == "C" and own[item] != given[item]] == ["C3", "C4"]


def test_one_echo_has_no_spacing_to_lack():
    one = acquisition(facts(EchoTimes=[0.02]))
    assert "echo spacing" not in one["unknown"] and "Echo spacing" not in dict(one["known"])
    assert "echo spacing" in acquisition(facts(EchoTimes=None))["unknown"]
    assert dict(acquisition(facts())["known"])["Echo spacing"] == "5 ms"
