"""What sidecars, report and methods text are told about the steps of a run."""

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qsmals.bids.sidecars import strict_json
from qsmals.cli.methods import anatomy_words, chosen_methods, step_parameters
from qsmals.interfaces.outputs import SaveFacts, SidecarFacts
from qsmals.qc.limits import LIMITS
from qsmals.recon.stages import STAGES
from qsmals.reports.boilerplate import methods_text
from qsmals.settings import Anatomy, Behaviour, Reconstruction, Settings

EVEN = (0.004, 0.009, 0.014)
DETECTED = {
    "detected_prepare": [{"what": "phase scale", "found": "-4096 to 4094", "evidence": "Siemens"}],
    "detected_offset": [{"what": "readout", "found": "monopolar", "evidence": "0.01 rad"}],
    "detected_field": [{"what": "phase sign", "found": "turned", "evidence": "-0.5", "warning": True}],
    "detected_inversion": [{"what": "dipole inversion", "found": "noise 0.002 ppm", "evidence": "field"}],
}


def settings(**groups: Any) -> Settings:
    return Settings("in", "out", "work", **groups)


def test_defaults_and_changes_stand_together() -> None:
    recon = Reconstruction(parameters={"lbv": {"tolerance": 0.07}})
    steps = step_parameters(settings(reconstruction=recon), EVEN, 3.0)
    for stage, registry in STAGES.items():
        method = registry[getattr(recon, stage)]
        changed = {"tolerance": 0.07} if stage == "background" else {}
        assert steps[stage] == {"method": method.name, **asdict(method.make_parameters()), **changed}
    assert steps["reference"] == {"method": "brain"} and steps["mask"]["reach_mm"] > 0
    json.dumps(strict_json(steps), allow_nan=False)


def test_a_name_means_one_method() -> None:
    """Parameters of a run are kept by the name of the method."""
    names = [name for registry in STAGES.values() for name in registry]
    assert len(names) == len(set(names))


def test_no_parameter_hides_the_name_of_its_method() -> None:
    for registry in STAGES.values():
        for method in registry.values():
            assert "method" not in {f.name for f in fields(method.parameters)}, method.name


def test_echo_times_decide_which_stages_and_methods_run() -> None:
    recon = Reconstruction()
    assert not {"phase_offset", "relaxometry"} & set(chosen_methods(recon, (0.02,), 3.0))
    assert list(chosen_methods(recon, EVEN, 3.0)) == list(STAGES)
    assert chosen_methods(recon, EVEN, 3.0)["relaxometry"][0].name == "arlo"
    assert chosen_methods(recon, (0.004, 0.008, 0.02), 3.0)["relaxometry"][0].name == "log-linear"


def test_the_scale_of_the_phase_follows_the_scan() -> None:
    """(weight, scale): at 7 T and other echo times the phase of 1 ppm is another one, unless it is set."""
    for name, short, long in (("nonlinear-tv", 9.0, 20.0), ("ndi", 9.0, 20.0), ("medi", 5.0, 10.0)):
        found = {}
        for te_s, b0_tesla in ((EVEN, 3.0), (EVEN, 7.0), ((0.005, 0.015, 0.025, 0.035), 3.0)):
            recon = Reconstruction(inversion=name)
            found[te_s, b0_tesla] = chosen_methods(recon, te_s, b0_tesla)["inversion"][1].rad_per_ppm
        expected = [2e-3 * np.pi * 42.577478 * x for x in (3 * short, 7 * short, 3 * long)]
        assert list(found.values()) == pytest.approx(expected, rel=1e-4)
        fixed = Reconstruction(inversion=name, parameters={name: {"rad_per_ppm": 2.0}})
        assert chosen_methods(fixed, EVEN, 7.0)["inversion"][1].rad_per_ppm == 2.0
    alone = chosen_methods(Reconstruction(inversion="medi"), (0.02,), 3.0)["inversion"][1]
    assert alone.rad_per_ppm == pytest.approx(2e-3 * np.pi * 42.577478 * 3 * 20, rel=1e-4)


def test_anatomical_steps_carry_seed_effort_and_choice() -> None:
    chosen = settings(
        anatomy=Anatomy(brain_extraction="skip", refinement="none"), behaviour=Behaviour(sloppy=True, random_seed=7)
    )
    steps = step_parameters(chosen, EVEN, 3.0)
    for step in ("brain_extraction", "coregistration", "template_registration"):
        assert (steps[step]["random_seed"], steps[step]["sloppy"]) == (7, True)
    assert steps["brain_extraction"]["method"] == "skip" and steps["refinement"] == {"method": "none"}
    assert "10.1038/sdata.2018.63" in steps["atlas"]["parts"][2]
    refined = step_parameters(settings(), EVEN, 3.0)["refinement"]
    assert refined["margin_mm"] == 12.0 and refined["sloppy"] is False


@pytest.mark.parametrize("refinement", ["susceptibility", "t1w", "none"])
@pytest.mark.parametrize("sloppy", [True, False])
def test_the_methods_text_follows_the_settings(refinement: Any, sloppy: bool) -> None:
    chosen = settings(
        anatomy=Anatomy(refinement=refinement, brain_extraction="skip"), behaviour=Behaviour(sloppy=sloppy)
    )
    steps = list(chosen_methods(chosen.reconstruction, EVEN, 3.0).values())
    versions = {"qsmals": "1"}
    markdown, bib = methods_text(steps, acquisition={}, anatomy=anatomy_words(chosen), versions=versions)
    assert ("fitted the subject's map" in markdown) == (refinement == "susceptibility")
    assert ("caudate, hippocampus and amygdala were fitted to T1-weighted" in markdown) == (refinement == "t1w")
    assert ("--sloppy" in markdown) == sloppy
    assert "brain-only" in markdown and "10.1038/sdata.2018.63" in bib


def run(interface: Any, folder: Path, **inputs: Any) -> Any:
    return interface(**inputs).run(cwd=str(folder)).outputs


def test_sidecars_join_what_the_run_found(tmp_path: Path) -> None:
    reference = {"ReferenceRegion": {"Region": "brain", "OffsetsPpm": {"csf": float("nan")}}}
    found = run(
        SidecarFacts,
        tmp_path,
        **DETECTED,
        reference=reference,
        mask={"quality_threshold": 0.25, "threshold_rule": "capped"},
    )
    assert [entry["What"] for entry in found.field["Detected"]] == [
        *("phase scale", "readout", "phase sign", "dipole inversion")
    ]
    assert found.field["Detected"][2]["Warning"] is True and found.mask == {
        "QualityThreshold": 0.25,
        "QualityThresholdRule": "capped",
    }
    assert found.chi == found.field | {"ReferenceRegion": {"Region": "brain", "OffsetsPpm": {"csf": None}}}


@pytest.mark.parametrize(
    ("asked", "stripped", "found", "evidence"),
    [
        ("auto", True, "brain only; brain mask of 1400 ml", "brightness under its surface"),
        ("auto", False, "head with skull; brain mask of 1400 ml", "brightness under its surface"),
        ("skip", True, "brain only; brain mask of 1400 ml", "set by --brain-extraction skip"),
    ],
)
def test_the_report_tells_of_a_brain_only_image_and_of_each_template(
    tmp_path: Path, asked: str, stripped: bool, found: str, evidence: str
) -> None:
    run(
        SaveFacts,
        tmp_path,
        out_file=str(tmp_path / "facts.json"),
        known={"prefix": "sub-01", "detected": [{"what": "tilt", "found": "0"}], "warnings": ["known before"]},
        brain={"skull_stripped_input": stripped, "brain_ml": 1400.2},
        brain_extraction=asked,
        templates=["MNI152NLin6Asym", "MNI152NLin2009cAsym"],
        registration_templates=[{"dice": 0.9, "reasons": []}, {"dice": 0.4, "reasons": ["poor", "torn"]}],
        registration_gre={"dice": 0.95, "reasons": ["dark"]},
        lost_tables={"GRE to T1w": ["seg-als", "seg-a2009s"], "T1w to MNI152NLin6Asym": ["seg-als"]},
        **DETECTED,
    )
    facts = json.loads((tmp_path / "facts.json").read_text())
    assert [entry["what"] for entry in facts["detected"]] == [
        *("tilt", "T1w image", "phase scale", "readout", "phase sign", "dipole inversion")
    ]
    assert (facts["detected"][1]["found"], facts["detected"][1]["evidence"]) == (found, evidence)
    assert facts["registration"]["T1w to MNI152NLin6Asym, dice"] == 0.9
    assert facts["registration"]["T1w to MNI152NLin2009cAsym, dice"] == 0.4
    assert facts["warnings"] == [
        "known before",
        "phase sign: turned (-0.5)",
        "registration of GRE to T1w: dark (no statistics in the tables of seg-als, seg-a2009s)",
        "registration of T1w to MNI152NLin2009cAsym: poor; torn (no region table depends on it)",
    ]


@pytest.mark.parametrize(
    ("shown_ml", "reasons", "told"),
    [(280.0, [], True), (1300.0, [], False), (280.0, ["poor"], False), (None, [], False)],
    ids=["slab", "whole", "misplaced", "unknown"],
)
def test_a_slab_is_told_with_what_to_do(tmp_path: Path, shown_ml: float | None, reasons: list[str], told: bool) -> None:
    run(
        SaveFacts,
        tmp_path,
        out_file=str(tmp_path / "facts.json"),
        known={"prefix": "sub-01"},
        brain={"skull_stripped_input": False, "brain_ml": 1400.0},
        registration_gre={"in_view_ml": shown_ml, "reasons": reasons},
    )
    warnings = json.loads((tmp_path / "facts.json").read_text())["warnings"]
    slab = [warning for warning in warnings if warning.startswith("field of view: ")]
    assert bool(slab) == told
    if told:
        assert "280 of the 1400 ml" in slab[0] and "--qc-thresholds" in slab[0] and "reference is the mean" in slab[0]
        named = [name for name in LIMITS if name in slab[0]]
        assert named == ["brain_volume", "motor_coverage", "lost_regions"]


def test_a_failed_registration_of_the_templates_is_told(tmp_path: Path) -> None:
    between = {"brain_dice": 0.97, "reasons": ["poor"]}
    step = {"out_file": str(tmp_path / "facts.json"), "known": {"prefix": "sub-01"}}
    lost = {"the templates": ["seg-cit"]}
    run(SaveFacts, tmp_path, **step, registration_between_templates=between, lost_tables=lost)
    facts = json.loads((tmp_path / "facts.json").read_text())
    (failed,) = facts["registration_failed"]
    assert failed == "the templates: poor (no statistics in the tables of seg-cit)"
    assert facts["registration"] == {"between templates, brain dice": 0.97}
    (warning,) = facts["warnings"]
    assert warning.endswith(f"registration of {failed}") and not warning.startswith("registration of ")
