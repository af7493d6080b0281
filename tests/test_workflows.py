"""The graph, built and never run, over a grid of options on data sets of empty files."""

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from math import prod
from pathlib import Path
from typing import Any

import networkx as nx
import pytest
from nipype.interfaces.base import isdefined
from nipype.pipeline.engine.utils import generate_expanded_graph

from qsmals import __version__
from qsmals.bids.checks import ScanFacts
from qsmals.bids.given import GivenGre, GivenT1w
from qsmals.bids.layout import NO_T1W_NOTE, find_subjects
from qsmals.bids.names import expected_files, sidecar_path, unit_outputs
from qsmals.bids.provenance import why_outdated
from qsmals.cli.methods import step_parameters
from qsmals.cli.parser import Request
from qsmals.cli.participant import Done, conclude
from qsmals.cli.writing import (
    errors_of,
    failed_registrations,
    scan_methods,
    scans_with_figures,
    warnings_of,
    write_citation,
    write_report,
)
from qsmals.engine.files import write_json, write_text
from qsmals.engine.progress import Step
from qsmals.engine.summary import Failure, SubjectSummary
from qsmals.recon.inversion import INVERSION
from qsmals.reports.facts import read_facts
from qsmals.reports.group import write_group_report
from qsmals.settings import Acquisition, Anatomy, Behaviour, Reconstruction, Settings
from qsmals.workflows.memory import NEEDS, Sizes, block_voxels, box_voxels, need_of
from qsmals.workflows.participant import atlas_links, init_run_wf, init_scan_wf, known_facts, node_names, run_folder
from qsmals.workflows.plan import AtlasPlan, Limits, RunPlan, ScanPlan, SubjectPlan
from qsmals.workflows.quality import FIGURES_STEP
from qsmals.workflows.regions import BRIDGE_FACTS, FACTS, OF_A_SEGMENTATION, RIGID_FACTS, TEMPLATE_FACTS
from tests.bids_trees import Gre, Visit, write_tree

SAVERS = ("SaveImage", "SaveFieldMap", "SaveFile", "SaveText")
SPACES = ("MNI152NLin6Asym", "MNI152NLin2009cAsym")
SIX_ECHOES = tuple(0.004 + 0.005 * e for e in range(6))


def plan_of(root: Path, visits: Sequence[Visit], **settings: Any) -> RunPlan:
    """The plan for a tree of empty files, as the command line would make it."""
    bids, out = write_tree(root / "bids", *visits, empty=True), root / "out"
    chosen = Settings(str(bids), str(out), str(root / "work"), **settings)
    subjects = []
    for subject in find_subjects(bids):
        scans = []
        for unit in subject.units:
            facts = ScanFacts(
                prefix=unit.gre.prefix,
                shape=(168, 212, 165),
                affine=((1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1)),
                voxel_size_mm=(1.0, 1.0, 1.0),
                te_s=unit.gre.te_s,
                b0_tesla=3.0,
                parts=unit.gre.parts,
                phase_min=-4096,
                phase_max=4094,
                phase_is_integer=True,
                phase_units="arbitrary",
                magnitude_rms=tuple(1.0 for _ in unit.gre.te_s),
            )
            outputs = unit_outputs(out, unit, atlases=("als",), templates=chosen.anatomy.output_spaces)
            methods = step_parameters(chosen, unit.gre.te_s, 3.0, alone=unit.t1w is None)
            file = out / f"{unit.gre.prefix}_facts.json"
            scans.append(ScanPlan(unit, facts, outputs, file, methods, {"qsmals": __version__, "numpy": "2"}))
        log_dir = out / f"sub-{subject.label}" / "log" / "r"
        subjects.append(SubjectPlan(subject.label, tuple(scans), log_dir, subject.sessions))
    return RunPlan(chosen, tuple(subjects), Limits(2, 2, 8.0))


def nodes_of(plan: RunPlan) -> list[Any]:
    return list(init_run_wf(plan)._create_flat_graph().nodes())


def saved(nodes: Sequence[Any]) -> list[Path]:
    return [Path(n.interface.inputs.out_file) for n in nodes if type(n.interface).__name__ in SAVERS]


@pytest.mark.parametrize("parts", [("mag", "phase"), ("real", "imag")], ids=["polar", "cartesian"])
@pytest.mark.parametrize("te_s", [(0.02,), (0.01, 0.02), SIX_ECHOES], ids=["1 echo", "2 echoes", "6 echoes"])
@pytest.mark.parametrize(
    "spaces", [("MNI152NLin6Asym",), ("MNI152NLin6Asym", "MNI152NLin2009cAsym")], ids=["6", "both"]
)
def test_every_promised_file_has_one_node(
    tmp_path: Path, parts: tuple[str, ...], te_s: tuple[float, ...], spaces: tuple[str, ...]
) -> None:
    plan = plan_of(tmp_path, [Visit(gres=(Gre(te_s=te_s, parts=parts),))], anatomy=Anatomy(output_spaces=spaces))
    written = saved(nodes_of(plan))
    files = expected_files([s.outputs for s in plan.subjects[0].scans])
    promised = {p for p in files if p.suffix != ".json" or "_desc-qc_" in p.name}  # other JSON goes with its file
    assert len(written) == len(set(written))
    assert set(written) == promised


def test_sessions_runs_and_acquisitions_each_have_their_graph(tmp_path: Path) -> None:
    visits = [
        Visit("01", "A", gres=(Gre("run-1"), Gre("run-2"))),
        Visit("01", "B", gres=(Gre("acq-fast"),)),
        Visit("02"),
    ]
    nodes = nodes_of(plan_of(tmp_path, visits))
    assert len(saved(nodes)) == len(set(saved(nodes)))
    kinds = [type(n.interface).__name__ for n in nodes]
    assert kinds.count("UnwrapPhase") == 4
    assert kinds.count("ExtractBrain") == 3  # one for each T1w image
    assert kinds.count("AtlasImage") == 1  # one for the whole run


@pytest.mark.parametrize(
    ("step", "a", "b", "c"),
    [
        ("sub-01 ses-A run-1", "failed", "incomplete", "incomplete"),
        ("sub-01 ses-A", "failed", "incomplete", "failed"),  # the T1w image of A, which serves C as well
        ("sub-01 ses-B", "incomplete", "failed", "incomplete"),
        ("sub-01 ses-C", "incomplete", "incomplete", "failed"),
        ("", "failed", "failed", "failed"),
    ],
)
def test_a_failure_is_that_of_the_sessions_it_concerns(tmp_path: Path, step: str, a: str, b: str, c: str) -> None:
    visits = [Visit("01", "A", gres=(Gre("run-1"), Gre("run-2"))), Visit("01", "B"), Visit("01", "C", t1ws=())]
    plan = plan_of(tmp_path, visits)
    subject = plan.subjects[0]
    assert subject.scans[-1].t1w.session == "A"
    entry = conclude(subject, Done((), (Failure(step, "invert", "killed"),), ()))
    assert entry.status == "failed" and entry.why == "invert: killed"
    assert entry.sessions == {"A": a, "B": b, "C": c}
    assert all("outputs are missing" in entry.session_whys[s] for s, w in entry.sessions.items() if w == "incomplete")


def test_steps_that_were_not_run_are_those_of_their_session(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, [Visit("01", "A"), Visit("01", "B")])
    nodes = sorted(node_names(init_run_wf(plan)))
    left = tuple(name for name in nodes if "ses_B" in name)
    entry = conclude(plan.subjects[0], Done((), (), left, halt="the disk is full"))
    assert entry.sessions == {"A": "incomplete", "B": "failed"}
    assert entry.why == entry.session_whys["B"] == f"the disk is full ({len(left)} steps left)"


@pytest.mark.parametrize("t1ws", [("",), ()], ids=["T1w", "alone"])
def test_figures_come_after_all_that_a_scan_saves(tmp_path: Path, t1ws: tuple[str, ...]) -> None:
    plan = plan_of(tmp_path, [Visit(gres=(Gre("run-1"), Gre("run-2")), t1ws=t1ws)])
    graph = init_run_wf(plan)._create_flat_graph()
    for figures in (node for node in graph if type(node.interface).__name__ == "DrawFigures"):
        before = set(saved(list(nx.ancestors(graph, figures))))
        promised = {o.path for s in plan.subjects[0].scans for o in s.outputs.values() if o.path in saved(list(graph))}
        own = {path for path in promised if f"_{figures.fullname.split('gre_')[1][:5].replace('_', '-')}" in path.name}
        assert own and own <= before
    names = [type(node.interface).__name__ for node in graph]
    assert names.count("DrawFigures") == 2


def test_pages_take_the_figures_of_the_scans_that_drew_them(tmp_path: Path) -> None:
    subject = plan_of(tmp_path, [Visit(gres=(Gre("run-1"), Gre("run-2")))]).subjects[0]
    steps = [
        Step("sub-01 run-1", FIGURES_STEP, "done", 1, 1, "a"),
        Step("sub-01 run-2", FIGURES_STEP, "failed", 1, 1, "b"),
    ]
    assert scans_with_figures(subject, steps) == {"sub-01_run-1"}


@pytest.mark.parametrize("te_s", [(0.02,), SIX_ECHOES], ids=["1 echo", "6 echoes"])
@pytest.mark.parametrize("refinement", ["susceptibility", "none"])
def test_a_scan_without_t1w_is_its_own_anatomy(tmp_path: Path, te_s: tuple[float, ...], refinement: Any) -> None:
    anatomy = Anatomy(refinement=refinement, output_spaces=SPACES, brain_extraction="deepbet")
    plan = plan_of(tmp_path, [Visit("01", gres=(Gre(te_s=te_s),), t1ws=()), Visit("02")], anatomy=anatomy)
    nodes = nodes_of(plan)
    promised = expected_files([scan.outputs for subject in plan.subjects for scan in subject.scans])
    assert set(saved(nodes)) == {p for p in promised if p.suffix != ".json" or "_desc-qc_" in p.name}
    own = [n for n in nodes if n.fullname.startswith("participant_wf.sub_01_wf")]
    kinds = [type(n.interface).__name__ for n in own]
    assert not {"ExtractBrain", "RegisterGre", "SegmentTissues", "FitCortex"} & set(kinds)
    assert (kinds.count("ExtractGreBrain"), kinds.count("RegisterTemplate"), kinds.count("Stay")) == (1, 2, 1)
    (scan,) = plan.subjects[0].scans
    known = known_facts(scan, plan.settings)
    assert known["warnings"] == [NO_T1W_NOTE, *known["warnings"][1:]] and "deepbet" in known["warnings"][1]
    assert scan.methods["brain_extraction"]["method"] == "gradient-echo"
    sidecars = [n.interface.inputs.sidecar for n in own if type(n.interface).__name__ in SAVERS[:3]]
    described = [sidecar for sidecar in sidecars if sidecar]
    assert described and all(sidecar["Warning"] == NO_T1W_NOTE for sidecar in described)
    assert not any("T1w" in source for sidecar in described for source in sidecar["Sources"])
    measuring = nodes_and_links(plan, "MeasureRegions", through=True)
    fed = [links for n, links in measuring if n.fullname.startswith("participant_wf.sub_01_wf")]
    assert fed and all(set(links) & set(FACTS) == {TEMPLATE_FACTS} for links in fed)
    assert all(links[TEMPLATE_FACTS] == (f"register_{SPACES[0]}", "facts") for links in fed)


@pytest.mark.parametrize("refinement", ["susceptibility", "t1w", "none"])
def test_given_results_take_the_place_of_steps_and_atlases_are_added(tmp_path: Path, refinement: Any) -> None:
    plan = plan_of(tmp_path, [Visit("01"), Visit("02")], anatomy=Anatomy(refinement=refinement))
    file = tmp_path / "file.nii"
    file.touch()
    one = (((1, "x", "L", (1,)),), "index\tname\themisphere\n1\tx\tL\n")
    more = (
        AtlasPlan("cit", file, SPACES[1], False, *one),
        AtlasPlan("stn", file, SPACES[0], True, *one),
        AtlasPlan("own", file, "T1w", False, *one),
        AtlasPlan("here", file, "MEGRE", False, *one),
    )
    subjects = []
    for subject in plan.subjects:
        (scan,) = subject.scans
        names = {"atlases": ("als", "cit", "own", "here"), "probabilistic": ("stn",), "templates": SPACES[:1]}
        outputs = unit_outputs(tmp_path / "out", scan.unit, **names)
        given = {
            "given_t1w": GivenT1w(file, file, None, {SPACES[0]: (file, file)}),
            "given": GivenGre(to_t1w=file, total_field=file),
        }
        subjects.append(replace(subject, scans=(replace(scan, atlases=more, outputs=outputs, **given),)))
    whole = replace(plan, subjects=tuple(subjects))
    nodes = nodes_of(whole)
    kinds = [type(n.interface).__name__ for n in nodes]
    assert not {"RegisterGre", "RegisterTemplate", "FitCortex"} & set(kinds)
    judged = Counter(
        (node.fullname.split(".")[-2], *sorted(set(links) & set(FACTS)))
        for node, links in nodes_and_links(whole, "MeasureRegions")
    )
    assert judged == dict.fromkeys(
        [
            ("measures_wf", RIGID_FACTS, TEMPLATE_FACTS),
            ("atlas_cit", BRIDGE_FACTS, RIGID_FACTS, TEMPLATE_FACTS),
            ("atlas_stn", RIGID_FACTS, TEMPLATE_FACTS),
            ("atlas_own", RIGID_FACTS),
            ("atlas_here", RIGID_FACTS),
        ],
        4,
    ), "two maps of two subjects each"
    told = [links[BRIDGE_FACTS][1] for links in links_into(whole, "SaveFacts")]
    assert told == [BRIDGE_FACTS] * 2
    (lost, _) = [n.interface.inputs.lost_tables for n in nodes if type(n.interface).__name__ == "SaveFacts"]
    assert lost == {
        "GRE to T1w": ["seg-als", "seg-cit", "seg-stn", "seg-own", "seg-here"],
        f"T1w to {SPACES[0]}": [f"seg-als ({OF_A_SEGMENTATION})", "seg-cit", "seg-stn"],
        "the templates": ["seg-cit"],
    }
    assert (kinds.count("GivenRigid"), kinds.count("GivenTemplate"), kinds.count("RegisterTemplates")) == (2, 2, 1)
    assert all(
        n.interface.inputs.given_mask == str(file) for n in nodes if type(n.interface).__name__ == "ExtractBrain"
    )
    assert all(n.interface.inputs.given == str(file) for n in nodes if type(n.interface).__name__ == "EstimateField")
    scans = [scan.outputs for subject in subjects for scan in subject.scans]
    promised = {p for p in expected_files(scans) if p.suffix != ".json" or "_desc-qc_" in p.name}
    assert set(saved(nodes)) == promised
    assert len(saved(nodes)) == len(promised)
    texts = [n.interface.inputs for n in nodes if type(n.interface).__name__ == "SaveText"]
    described = {Path(i.out_file).name for i in texts if "SpatialReference" in i.sidecar}
    assert described == {f"sub-0{n}_space-MEGRE_seg-stn_dseg.tsv" for n in (1, 2)}


def test_labels_of_freesurfer_bring_their_own_rows(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, [Visit("01"), Visit("02")])
    file = tmp_path / "aparc+aseg.mgz"
    file.touch()
    one, two = plan.subjects
    given = replace(one.scans[0], given_t1w=GivenT1w(file, file, segmenter="FreeSurfer"))
    plan = replace(plan, subjects=(replace(one, scans=(given,)), two))
    nodes = nodes_of(plan)
    lost = [n.interface.inputs.lost_tables for n in nodes if type(n.interface).__name__ == "SaveFacts"]
    told = sorted(named[f"T1w to {SPACES[0]}"][0] for named in lost)
    assert told[0] == "seg-als" and told[1].startswith("seg-als (only substantia nigra, red nucleus, ")
    tables = [n.interface.inputs for n in nodes if type(n.interface).__name__ == "MeasureRegions"]
    assert [step.segmented for step in tables].count(True) == len(tables) / 2
    assert [dict(atlas_links(s))["labels_table"] for s in (given, two.scans[0])] == ["segmentation_table", "table"]


def test_sidecars_say_whose_labels_were_used(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, [Visit("01")])
    (subject,) = plan.subjects
    (scan,) = subject.scans
    folder = tmp_path / "fs" / "sub-01" / "mri"
    folder.mkdir(parents=True)
    files = [folder / name for name in ("brainmask.mgz", "aparc+aseg.mgz", "aparc.a2009s+aseg.mgz")]
    for file in files:
        file.touch()
    one = (((11101, "x", "L", (11101,)),), "index\tname\themisphere\n11101\tx\tL\n")
    more = AtlasPlan("a2009s", files[2], "T1w", False, *one)
    outputs = unit_outputs(tmp_path / "out", scan.unit, atlases=("als", "a2009s"), templates=SPACES[:1])
    given = GivenT1w(*files, segmenter="FreeSurfer")
    changed = replace(scan, atlases=(more,), outputs=outputs, given_t1w=given)
    found = sidecars(nodes_of(replace(plan, subjects=(replace(subject, scans=(changed,)),))), "sub-01_")
    for atlas, file in (("als", files[1]), ("a2009s", files[2])):
        image, table = found[f"space-MEGRE_seg-{atlas}_dseg.nii.gz"], found[f"seg-{atlas}_desc-roi_Chimap.tsv"]
        assert f"FreeSurfer's own segmentation of this subject ({file.name})" in table["Labels"]
        assert image["Description"] == table["Labels"] and "one interpolation" in table["Labels"]
        assert file.as_uri() in image["Sources"] and file.as_uri() in table["Sources"]
        assert table["LabelsFrom"] == "FreeSurfer"
    plain = sidecars(nodes_of(plan), "sub-01_")["seg-als_desc-roi_Chimap.tsv"]
    assert plain["LabelsFrom"] == "atlas"
    assert "Regions of the atlas" in plain["Labels"] and "FreeSurfer" not in plain["Labels"]


def segmented(folder: Path, segmenter: str, segmentation: str, **more: Any) -> GivenT1w:
    """What a subject's folder of FreeSurfer or FastSurfer gives, of empty files."""
    names = ("mask.mgz", segmentation, "aparc.a2009s+aseg.mgz")
    return GivenT1w(*(folder / name for name in names), segmenter=segmenter, **more)


@pytest.mark.parametrize("refinement", ["susceptibility", "t1w", "none"])
def test_the_methods_text_is_true_of_what_was_given(tmp_path: Path, refinement: Any) -> None:
    anatomy = Anatomy(refinement=refinement, output_spaces=SPACES, extra_atlases=("mine=/atlas.nii",))
    plan = plan_of(tmp_path, [Visit("01")], anatomy=anatomy)
    scan = plan.subjects[0].scans[0]
    own, _ = scan_methods(plan.settings, scan)
    for words in ("gyri of the Desikan-Killiany atlas", "and the MNI152NLin2009cAsym template", "Cortical labels were"):
        assert words in own
    assert "not made here" not in own and "subject's own" not in own and "made before" not in own
    file = tmp_path / "file"
    given_t1w = segmented(tmp_path, "FastSurfer", "aparc.DKTatlas+aseg.deep.mgz", transforms={SPACES[0]: (file, file)})
    given = GivenGre(to_t1w=file, total_field=file)
    markdown, _ = scan_methods(plan.settings, replace(scan, given_t1w=given_t1w, given=given))
    assert "mask was not made here: that of FastSurfer was taken over." in markdown
    assert (
        "those of the subject's own FastSurfer segmentation (Henschel et al., 2020), with the gyri of the "
        "Desikan-Killiany-Tourville atlas (Klein and Tourville, 2012), and its gyri and sulci of aparc.a2009s "
        "(Destrieux et al., 2010). To them were added" in markdown
    )
    assert "those of the atlas mine. All were brought" in markdown
    assert "FreeSurfer" not in markdown and "gyri of the Desikan-Killiany atlas" not in markdown
    assert (
        "The T1-weighted image was registered to the MNI152NLin2009cAsym template (Fonov et al., 2011) by" in markdown
    )
    assert (
        "transforms of the T1-weighted image to the MNI152NLin6Asym template (Evans et al., 2012) were made" in markdown
    )
    assert "magnitude was registered" not in markdown and "Cortical labels" not in markdown
    assert markdown.index("total field was not made here") < markdown.index("ROMEO")
    fitted = "The borders of substantia nigra and red nucleus were then fitted to susceptibility" in markdown
    assert fitted == (refinement == "susceptibility") and "amygdala" not in markdown
    assert fitted or "Substantia nigra and red nucleus were placed by registration alone." in markdown
    every = dict.fromkeys(SPACES, (file, file))
    assert "normalization" not in scan_methods(plan.settings, replace(scan, given_t1w=GivenT1w(transforms=every)))[0]


def test_the_sidecar_of_the_total_field_tells_that_it_was_given(tmp_path: Path) -> None:
    plan, file = plan_of(tmp_path, [Visit("01")]), tmp_path / "file"
    scan = plan.subjects[0].scans[0]
    methods = {**scan.methods, "given_field": {"method": "given", "file": str(file)}}
    told = replace(plan, subjects=(replace(plan.subjects[0], scans=(replace(scan, methods=methods),)),))
    for one, how in ((plan, "weighted"), (told, "given, weighted")):
        assert sidecars(nodes_of(one), "sub-01_")["desc-total_fieldmap.nii.gz"]["EstimationAlgorithm"] == how


def test_the_methods_text_of_a_scan_without_t1w_tells_what_was_given(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, [Visit("01", t1ws=())])
    scan, file = plan.subjects[0].scans[0], tmp_path / "file"
    given = GivenGre(brain_mask=file, transforms={SPACES[0]: (file, file)})
    markdown, _ = scan_methods(plan.settings, replace(scan, given=given))
    assert "mask was not made here: one that had been made before" in markdown and "template brain" not in markdown
    assert "transforms of the gradient-echo magnitude to the MNI152NLin6Asym template" in markdown
    assert "normalization" not in markdown


def test_the_methods_of_a_run_tell_which_scans_were_done_otherwise(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, [Visit("01"), Visit("02"), Visit("03")])
    first = plan.subjects[0]
    given_t1w = segmented(tmp_path, "FreeSurfer", "aparc+aseg.mgz")
    given = replace(first, scans=(replace(first.scans[0], given_t1w=given_t1w),))
    write_citation(tmp_path / "out", replace(plan, subjects=(given, *plan.subjects[1:])))
    text = (tmp_path / "out" / "logs" / "CITATION.md").read_text()
    main, _, apart = text.partition("In 1 of 3 scans (sub-01) instead: ")
    assert "own FreeSurfer segmentation" not in main and "own FreeSurfer segmentation" in apart
    assert text.count("### ") == 6 and "10.1016/j.neuroimage.2012.01.021" in text


@pytest.mark.parametrize("inversion", ["weak-harmonic", "tgv"])
def test_tables_belong_to_the_maps_of_the_same_run_and_to_no_others(tmp_path: Path, inversion: str) -> None:
    plan = plan_of(tmp_path, [Visit("01")], reconstruction=Reconstruction(inversion=inversion))
    nodes = [n.interface.inputs for n in nodes_of(plan) if type(n.interface).__name__ in SAVERS[:3]]
    for saving in nodes:
        write_text(Path(saving.out_file), "x")
        write_json(sidecar_path(Path(saving.out_file)), {**saving.sidecar, **saving.facts})
    scan = plan.subjects[0].scans[0]
    tables = [scan.outputs[f"roi/als/{suffix}"].path for suffix in ("Chimap", "R2starmap")]
    assert [why_outdated(path) for path in tables] == ["", ""]
    other = plan_of(tmp_path, [Visit("01")], reconstruction=Reconstruction(inversion="tv"))
    path = scan.outputs["Chimap"].path
    again = next(
        n.interface.inputs for n in nodes_of(other) if str(path) == getattr(n.interface.inputs, "out_file", "")
    )
    write_json(sidecar_path(path), again.sidecar)
    assert "inversion" in why_outdated(tables[0]) and not why_outdated(tables[1])
    scan.facts_file.parent.mkdir(parents=True, exist_ok=True)
    scan.facts_file.write_text(json.dumps(known_facts(scan, plan.settings)))
    assert [text for text in warnings_of(plan.subjects[0]) if "left out" in text] == [why_outdated(tables[0])]


@pytest.mark.parametrize(
    ("recon", "acquisition", "said"),
    [
        ({}, {}, ""),
        ({"unwrap": "laplacian"}, {"phase_sign": "positive"}, "(unwrap laplacian, phase-sign positive)"),
        ({"parameters": {"romeo": {}}, "inversion": "tv"}, {}, "(parameters of romeo)"),
    ],
)
def test_settings_beside_a_given_field_are_told(tmp_path: Path, recon: Any, acquisition: Any, said: str) -> None:
    chosen = {"reconstruction": Reconstruction(**recon), "acquisition": Acquisition(**acquisition)}
    plan = plan_of(tmp_path, [Visit("01")], **chosen)
    scan, file = plan.subjects[0].scans[0], tmp_path / "fieldmap.nii.gz"
    assert known_facts(scan, plan.settings)["warnings"] == []
    warnings = known_facts(replace(scan, given=GivenGre(total_field=file)), plan.settings)["warnings"]
    assert len(warnings) == bool(said) and (not said or (said in warnings[0] and str(file) in warnings[0]))


def test_one_echo_has_no_relaxometry(tmp_path: Path) -> None:
    kinds = {type(n.interface).__name__ for n in nodes_of(plan_of(tmp_path, [Visit(gres=(Gre(te_s=(0.02,)),))]))}
    assert "FitRelaxation" not in kinds
    assert "InvertDipole" in kinds


def test_the_inversion_is_told_where_the_field_is_known(tmp_path: Path) -> None:
    graph = init_run_wf(plan_of(tmp_path, [Visit(gres=(Gre(te_s=SIX_ECHOES),))]))._create_flat_graph()
    kinds = {node: type(node.interface).__name__ for node in graph.nodes()}
    links = {(kinds[a], kinds[b], *link) for a, b, data in graph.edges(data=True) for link in data["connect"]}
    for name in ("mask", "known_mask"):
        assert ("RemoveBackground", "InvertDipole", name, name) in links
    assert "field_ppm" in {link[3] for link in links if link[1] == "MakeFieldMasks"}


def test_every_node_says_what_it_needs(tmp_path: Path) -> None:
    for node in nodes_of(plan_of(tmp_path, [Visit(gres=(Gre(te_s=SIX_ECHOES),))])):
        assert 0 < node.mem_gb < 8, node.fullname
        assert 1 <= node.n_procs <= 2, node.fullname
        if type(node.interface).__name__ != "IdentityInterface":
            assert hasattr(node, "qsmals_step"), node.fullname


def test_memory_grows_with_the_images() -> None:
    small = Sizes(300_000, 4, 1_300_000, 300_000, 250_000)
    large = Sizes(7_600_000, 6, 10_400_000, 950_000, 4_200_000)
    for key in NEEDS:
        assert need_of(key).gigabytes(small) <= need_of(key).gigabytes(large) < 4
    with pytest.raises(LookupError, match="nowhere"):
        need_of("nowhere_else")


def measured_memory() -> list[tuple[str, float, tuple[int, int, int], float]]:
    """Step with its method, voxel edge, shape and GB of every removal and inversion in docs/speed.md."""
    steps = {"background": "background", "inversion": "invert"}
    rows = []
    for part in (Path(__file__).parents[1] / "docs/speed.md").read_text().split("\n## ")[1:]:
        head = re.match(r"([\d.]+) mm: (\d+) x (\d+) x (\d+) voxels", part)
        assert head, part[:40]
        x, y, z = (int(n) for n in head.groups()[1:])
        for line in part.splitlines():
            cells = [cell.strip() for cell in line.strip("| ").split("|")]
            if cells[0] in steps:
                rows.append((f"{steps[cells[0]]} {cells[1]}", float(head[1]), (x, y, z), float(cells[4])))
    return rows


def test_memory_covers_what_was_measured() -> None:
    """Within 5 %: the process that was measured holds a little that a step's does not."""
    rows = measured_memory()
    assert {step for step, *_ in rows} >= {f"invert {name}" for name in INVERSION}
    for step, size, shape, gigabytes in rows:
        n = prod(shape)
        sizes = Sizes(n, 6, n, block_voxels(shape, (size,) * 3), box_voxels(shape, (size,) * 3))
        assert need_of(step).gigabytes(sizes) > 0.95 * gigabytes, (step, size)


def test_the_options_reach_the_steps(tmp_path: Path) -> None:
    recon = Reconstruction(parameters={"weak-harmonic": {"max_iterations": 3}})
    behaviour = Behaviour(sloppy=True, random_seed=7, deterministic=True)
    plan = plan_of(tmp_path, [Visit()], behaviour=behaviour, reconstruction=recon)
    for node in nodes_of(plan):
        inputs = node.interface.inputs
        if hasattr(inputs, "seed"):
            assert (inputs.seed, inputs.sloppy, inputs.deterministic) == (7, True, True), node.fullname
        if type(node.interface).__name__ == "InvertDipole":
            planned = plan.subjects[0].scans[0].methods["inversion"]
            assert {"method": inputs.method, **inputs.parameters} == planned and planned["max_iterations"] == 3


def test_the_work_folder_names_the_version_and_the_study(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, [Visit()])
    folder = run_folder(plan.settings)
    assert folder.parent.name == f"qsmals-{__version__}"
    assert init_run_wf(plan).base_dir == str(folder)
    assert run_folder(replace(plan.settings, output_dir=str(tmp_path / "other"))) != folder


def test_nothing_is_written_while_the_graph_is_built(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, [Visit()])
    before = sorted(tmp_path.rglob("*"))
    nodes_of(plan)
    assert sorted(tmp_path.rglob("*")) == before


def test_all_required_inputs_are_set_or_connected(tmp_path: Path) -> None:
    workflow = init_run_wf(plan_of(tmp_path, [Visit(gres=(Gre(te_s=SIX_ECHOES),))]))
    graph = workflow._create_flat_graph()
    for node in graph.nodes():
        connected = {target for _, _, data in graph.in_edges(node, data=True) for _, target in data["connect"]}
        for name, trait in node.interface.inputs.traits(mandatory=True).items():
            value = getattr(node.interface.inputs, name)
            assert name in connected or isdefined(value), f"{node.fullname}.{name}, {trait}"


def sidecars(nodes: Sequence[Any], start: str = "") -> dict[str, dict[str, Any]]:
    """Name of each saved file without its start to the sidecar known before the run."""
    found = {Path(n.interface.inputs.out_file).name: n for n in nodes if type(n.interface).__name__ in SAVERS}
    return {name.removeprefix(start): node.interface.inputs.sidecar for name, node in found.items()}


def test_sidecars_state_every_parameter_and_version(tmp_path: Path) -> None:
    recon = Reconstruction(parameters={"weak-harmonic": {"max_iterations": 3}})
    settings = {"reconstruction": recon, "anatomy": Anatomy(output_spaces=SPACES)}
    plan = plan_of(tmp_path, [Visit(gres=(Gre(te_s=SIX_ECHOES),))], **settings, behaviour=Behaviour(sloppy=True))
    found = sidecars(nodes_of(plan), "sub-01_")
    inversion = {"method": "weak-harmonic", **asdict(INVERSION["weak-harmonic"].parameters())}
    assert found["Chimap.nii.gz"]["Parameters"]["inversion"] == inversion | {"max_iterations": 3}
    assert len(inversion) > 3, "the defaults are written too"
    for name, content in found.items():
        if content:
            assert content["ProcessingSoftware"] == {"qsmals": __version__, "numpy": "2"}, name
            assert "magnitude" in name or content["Parameters"], name
    steps = {name: set(content.get("Parameters", ())) for name, content in found.items()}
    assert steps["Chimap.nii.gz"] >= {"phase_offset", "unwrap", "field", "background", "inversion", "reference", "mask"}
    assert "inversion" not in steps["R2starmap.nii.gz"] and "relaxometry" in steps["R2starmap.nii.gz"]
    assert "inversion" in steps["desc-local_fieldmap.nii.gz"]  # which finds background as well
    assert "inversion" not in steps["desc-total_fieldmap.nii.gz"]
    assert steps["space-MEGRE_desc-brain_mask.nii.gz"] >= {"brain_extraction", "mask", "coregistration"}
    assert steps["space-MEGRE_seg-als_dseg.nii.gz"] >= {"refinement", "template_registration", "atlas"}
    assert steps["from-MEGRE_to-T1w_mode-image_xfm.mat"] == {"brain_extraction", "coregistration"}
    for space in SPACES:
        assert steps[f"space-{space}_res-1_Chimap.nii.gz"] >= {"template_registration", "interpolation", "inversion"}
        content = found[f"from-T1w_to-{space}_mode-image_xfm.h5"]
        assert content["Parameters"]["template_registration"]["sloppy"] is True
        assert content["Parameters"]["template_registration"]["method"] == "SyN"


def test_one_echo_has_no_steps_of_several(tmp_path: Path) -> None:
    found = sidecars(nodes_of(plan_of(tmp_path, [Visit(gres=(Gre(te_s=(0.02,)),))])), "sub-01_")
    assert not {"phase_offset", "relaxometry"} & set(found["Chimap.nii.gz"]["Parameters"])
    assert found["Chimap.nii.gz"]["EstimationAlgorithm"] == "romeo, weighted, lbv, weak-harmonic"


@pytest.mark.parametrize("refinement", ["susceptibility", "t1w", "none"])
def test_sources_of_masks_and_labels(tmp_path: Path, refinement: Any) -> None:
    found = sidecars(nodes_of(plan_of(tmp_path, [Visit()], anatomy=Anatomy(refinement=refinement))), "sub-01_")
    rigid = "bids::sub-01/anat/sub-01_from-MEGRE_to-T1w_mode-image_xfm.mat"
    warp = "bids::sub-01/anat/sub-01_from-T1w_to-MNI152NLin6Asym_mode-image_xfm.h5"
    t1w = "bids:raw:sub-01/anat/sub-01_T1w.nii.gz"
    for desc in ("brain", "quality"):
        assert set(found[f"space-MEGRE_desc-{desc}_mask.nii.gz"]["Sources"]) >= {t1w, rigid}
    labels = found["space-MEGRE_seg-als_dseg.nii.gz"]
    assert set(labels["Sources"]) >= {t1w, rigid, warp}
    assert ("bids::sub-01/anat/sub-01_Chimap.nii.gz" in labels["Sources"]) == (refinement == "susceptibility")
    assert labels["Parameters"]["refinement"]["method"] == refinement
    assert labels["Atlas"]["Space"] == "MNI152NLin6Asym" and "CIT168" in " ".join(labels["Atlas"]["Parts"])


def links_into(plan: RunPlan, kind: str) -> list[dict[str, tuple[str, str]]]:
    """Per node of a kind: input to the node and output that feed it."""
    return [links for _, links in nodes_and_links(plan, kind)]


def nodes_and_links(plan: RunPlan, kind: str, *, through: bool = False) -> list[tuple[Any, dict[str, tuple[str, str]]]]:
    """The nodes of a kind, each with its inputs and the node and output that feed them.

    With ``through`` those that make the values, however many input and output nodes of graphs lie between.
    """
    graph = init_run_wf(plan)._create_flat_graph()
    if through:
        graph = generate_expanded_graph(graph)
    return [
        (
            node,
            {
                target: (source.name, output if isinstance(output, str) else output[0])
                for source, _, data in graph.in_edges(node, data=True)
                for output, target in data["connect"]
            },
        )
        for node in graph.nodes()
        if type(node.interface).__name__ == kind
    ]


def test_what_was_detected_reaches_sidecars_and_report(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, [Visit()], anatomy=Anatomy(output_spaces=SPACES, brain_extraction="skip"))
    images = [links["facts"] for links in links_into(plan, "SaveImage") if "facts" in links]
    assert images.count(("sidecar_facts", "chi")) == 1 + 1 + len(SPACES)  # native, T1w and templates
    assert images.count(("sidecar_facts", "mask")) == 2
    assert [links["facts"] for links in links_into(plan, "SaveFieldMap")] == [("sidecar_facts", "field")] * 2
    (joined,) = links_into(plan, "SidecarFacts")
    assert set(joined) >= {"reference", "mask", "detected_prepare", "detected_offset", "detected_field"}
    (report,) = links_into(plan, "SaveFacts")
    assert "brain" in report and report["registration_templates"] == ("template_facts", "out")
    (node,) = [n for n in nodes_of(plan) if type(n.interface).__name__ == "SaveFacts"]
    assert node.interface.inputs.templates == list(SPACES) and node.interface.inputs.brain_extraction == "skip"


def test_every_input_of_a_scan_is_used(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, [Visit()], anatomy=Anatomy(output_spaces=SPACES))
    scan = init_scan_wf(plan.subjects[0].scans[0], settings=plan.settings, limits=plan.limits)
    inputnode = scan.get_node("inputnode")
    used = {output for _, _, data in scan._graph.out_edges(inputnode, data=True) for output, _ in data["connect"]}
    unused = set(inputnode.outputs.copyable_trait_names()) - used
    assert unused == {"from_MNI152NLin2009cAsym"}  # labels come from the other template


def test_a_method_that_does_not_suit_the_echoes_is_told(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, [Visit(gres=(Gre(te_s=(0.004, 0.008, 0.02, 0.03)),))])
    scan = plan.subjects[0].scans[0]
    assert scan.methods["relaxometry"]["method"] == "log-linear"
    assert "relaxometry: arlo does not suit" in known_facts(scan, plan.settings)["warnings"][-1]
    assert not [
        w
        for w in known_facts(plan_of(tmp_path / "even", [Visit()]).subjects[0].scans[0], plan.settings)["warnings"]
        if "relaxometry" in w
    ]


def test_an_inversion_of_the_total_field_takes_the_place_of_background_removal(tmp_path: Path) -> None:
    recon = Reconstruction(inversion="tgv", background="pdf")
    plan = plan_of(tmp_path, [Visit(gres=(Gre(te_s=SIX_ECHOES),))], reconstruction=recon)
    nodes = nodes_of(plan)
    kinds = [type(n.interface).__name__ for n in nodes]
    assert "RemoveBackground" not in kinds and "InvertDipole" not in kinds and kinds.count("InvertTotalField") == 1
    assert "background" not in plan.subjects[0].scans[0].methods
    (links,) = links_into(plan, "InvertTotalField")
    assert links["field_ppm"] == ("inputnode", "field_ppm") and links["mask"] == ("masks", "reliable_mask")
    files = expected_files([s.outputs for s in plan.subjects[0].scans])
    assert set(saved(nodes)) == {p for p in files if p.suffix != ".json" or "_desc-qc_" in p.name}
    found = sidecars(nodes, "sub-01_")
    assert found["Chimap.nii.gz"]["EstimationAlgorithm"] == "mcpc-3d-s, romeo, weighted, tgv"
    local = found["desc-local_fieldmap.nii.gz"]
    assert local["EstimationAlgorithm"] == "field of the map by tgv" and "inversion" in local["Parameters"]
    assert found["desc-total_fieldmap.nii.gz"]["EstimationAlgorithm"] == "weighted"
    assert "inversion" not in found["desc-total_fieldmap.nii.gz"]["Parameters"]


def test_a_failed_registration_is_found_in_what_the_scan_left(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, [Visit("01")])
    (subject,) = plan.subjects
    assert failed_registrations(subject) == []
    subject.scans[0].facts_file.parent.mkdir(parents=True, exist_ok=True)
    subject.scans[0].facts_file.write_text(json.dumps({"registration_failed": ["GRE to T1w: sharpness 1.02"]}))
    assert failed_registrations(subject) == ["sub-01, GRE to T1w: sharpness 1.02"]


def test_a_scan_that_failed_is_told_apart_from_the_others(tmp_path: Path) -> None:
    """Its error is its own, it has a row in the study, and each scan keeps its own parameters and methods text."""
    plan = plan_of(
        tmp_path, [Visit("01", "A", gres=(Gre(te_s=SIX_ECHOES),)), Visit("01", "B", gres=(Gre(te_s=(0.02,)),))]
    )
    scans = [replace(s, facts_file=plan.subjects[0].log_dir / s.facts_file.name) for s in plan.subjects[0].scans]
    subject = replace(plan.subjects[0], scans=tuple(scans))
    good = scans[0]
    good.facts_file.parent.mkdir(parents=True)
    good.facts_file.write_text(json.dumps(known_facts(good, plan.settings)))
    failure = Failure("sub-01 ses-B", "unwrapping", "it was killed")
    entry = SubjectSummary("sub-01", "failed", "unwrapping: it was killed", failures=(failure,))
    write_report(tmp_path / "out", subject, entry, [], Request("participant", plan.settings), "r")
    facts = [read_facts(scan.facts_file) for scan in scans]
    assert [[error["message"] for error in f.errors] for f in facts] == [[], ["it was killed"]]
    assert [f.failed for f in facts] == [False, True]
    assert [f.parameters["field"]["method"] for f in facts] == [s.methods["field"]["method"] for s in scans]
    assert facts[0].methods != facts[1].methods and all(f.software["numpy"] == "2" for f in facts)
    rows = write_group_report(tmp_path / "out").rows
    assert [row.identity["session_id"] for row in rows] == ["ses-A", "ses-B"]
    told = [" ".join(reason.text for reason in row.verdict.reasons) for row in rows]
    assert "it was killed" in told[1] and "it was killed" not in told[0]


@pytest.mark.parametrize(
    ("unit", "of"),
    [("", "AB"), ("sub-01", "AB"), ("sub-01 ses-A", "A"), ("sub-01 ses-B", "B"), ("sub-01 ses-B acq-t1", "AB")],
)
def test_a_failure_is_that_of_the_scans_whose_step_it_is(tmp_path: Path, unit: str, of: str) -> None:
    (subject,) = plan_of(tmp_path, [Visit("01", "A"), Visit("01", "B")]).subjects
    entry = SubjectSummary("sub-01", "failed", "brain: no head", failures=(Failure(unit, "brain", "no head"),))
    found = [scan.unit.gre.session for scan in subject.scans if errors_of(scan, subject, entry)]
    assert "".join(map(str, found)) == of


def test_a_run_that_was_stopped_is_an_error_of_the_sessions_that_it_left(tmp_path: Path) -> None:
    (subject,) = plan_of(tmp_path, [Visit("01", "A"), Visit("01", "B")]).subjects
    fates = {"sessions": {"A": "ok", "B": "failed"}, "session_whys": {"B": "stopped by SIGTERM (3 steps left)"}}
    entry = SubjectSummary("sub-01", "failed", "stopped by SIGTERM (9 steps left)", **fates)
    told = [[error["message"] for error in errors_of(scan, subject, entry)] for scan in subject.scans]
    assert told == [[], ["stopped by SIGTERM (3 steps left)"]]


def test_a_session_that_was_not_ended_says_so_beside_another_that_failed(tmp_path: Path) -> None:
    (subject,) = plan_of(tmp_path, [Visit("01", "A"), Visit("01", "B")]).subjects
    fates = {"sessions": {"A": "failed", "B": "failed"}, "session_whys": {"B": "stopped by SIGTERM (3 steps left)"}}
    failures = (Failure("sub-01 ses-A", "unwrap", "no phase"),)
    entry = SubjectSummary("sub-01", "failed", "unwrap: no phase", failures=failures, **fates)
    told = [[error["message"] for error in errors_of(scan, subject, entry)] for scan in subject.scans]
    assert told == [["no phase"], ["stopped by SIGTERM (3 steps left)"]]
