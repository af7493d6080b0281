"""The graph, built and never run, over a grid of options on data sets of empty files."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from nipype.interfaces.base import isdefined

from qsmals import __version__
from qsmals.bids.checks import ScanFacts
from qsmals.bids.layout import find_subjects
from qsmals.bids.names import expected_files, unit_outputs
from qsmals.settings import Anatomy, Behaviour, Settings
from qsmals.workflows.participant import init_run_wf, run_folder
from qsmals.workflows.plan import Limits, RunPlan, ScanPlan, SubjectPlan
from tests.bids_trees import Gre, Visit, write_tree

SAVERS = ("SaveImage", "SaveFieldMap", "SaveFile")
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
            scans.append(ScanPlan(unit, facts, outputs, out / f"{unit.gre.prefix}_facts.json"))
        subjects.append(SubjectPlan(subject.label, tuple(scans), out / f"sub-{subject.label}" / "log" / "r"))
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
    promised = {p for p in expected_files([s.outputs for s in plan.subjects[0].scans]) if p.suffix != ".json"}
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


def test_one_echo_has_no_relaxometry(tmp_path: Path) -> None:
    kinds = {type(n.interface).__name__ for n in nodes_of(plan_of(tmp_path, [Visit(gres=(Gre(te_s=(0.02,)),))]))}
    assert "FitRelaxation" not in kinds
    assert "InvertDipole" in kinds


def test_every_node_says_what_it_needs(tmp_path: Path) -> None:
    for node in nodes_of(plan_of(tmp_path, [Visit(gres=(Gre(te_s=SIX_ECHOES),))])):
        assert 0 < node.mem_gb < 8, node.fullname
        assert 1 <= node.n_procs <= 2, node.fullname
        if type(node.interface).__name__ != "IdentityInterface":
            assert hasattr(node, "qsmals_step"), node.fullname


def test_the_options_reach_the_steps(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, [Visit()], behaviour=Behaviour(sloppy=True, random_seed=7, deterministic=True))
    recon = replace(plan.settings.reconstruction, parameters={"tv": {"max_iterations": 3}})
    nodes = nodes_of(replace(plan, settings=replace(plan.settings, reconstruction=recon)))
    for node in nodes:
        inputs = node.interface.inputs
        if hasattr(inputs, "seed"):
            assert (inputs.seed, inputs.sloppy, inputs.deterministic) == (7, True, True), node.fullname
        if type(node.interface).__name__ == "InvertDipole":
            assert inputs.parameters == {"max_iterations": 3}


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
