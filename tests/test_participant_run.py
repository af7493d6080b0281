"""A study in one run: locks, windows, the order of its subjects, and what is written when one of them has ended."""

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from nipype.interfaces.utility import Function
from nipype.pipeline.engine import Node, Workflow

from qsmals.cli import participant
from qsmals.cli.parser import Request
from qsmals.engine.lock import SubjectLock
from qsmals.engine.progress import announce
from qsmals.engine.summary import SubjectSummary, now
from qsmals.settings import Resources, Settings
from qsmals.workflows.participant import run_folder, subject_graph
from qsmals.workflows.plan import Limits, RunPlan
from qsmals.workflows.quality import FIGURES_STEP
from tests.bids_trees import Visit, write_tree
from tests.test_workflows import plan_of

LABELS = ("01", "02", "03")


@pytest.fixture
def plan(tmp_path: Path) -> RunPlan:
    return plan_of(tmp_path, [Visit(label) for label in LABELS])


@pytest.fixture
def notes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Three steps a subject in place of the real graph, the last of which draws figures; sub-02's second fails."""
    path = tmp_path / "notes"

    def graph(plan: RunPlan) -> Workflow:
        whole = Workflow("participant_wf", base_dir=str(tmp_path / "nodes"))
        for subject in plan.subjects:
            own = Workflow(subject_graph(subject.label))
            before = None
            for name in ("first", "second", "figures"):
                wanted = Function(
                    ["notes", "label", "name", "bad", "after"],
                    ["out"],
                    _run,
                    imports=["from pathlib import Path", "from typing import Any"],
                )
                bad = subject.label == "02" and name == "second"
                wanted.inputs.trait_set(notes=str(path), label=subject.label, name=name, bad=bad)
                node = announce(Node(wanted, name), unit=f"sub-{subject.label}", step=_step(name))
                if before is None:
                    own.add_nodes([node])
                else:
                    own.connect(before, "out", node, "after")
                before = node
            whole.add_nodes([own])
        whole.config["execution"]["crashdump_dir"] = str(tmp_path / "crashes")
        return whole

    monkeypatch.setattr("qsmals.workflows.participant.init_run_wf", graph)
    return path


def _step(name: str) -> str:
    return FIGURES_STEP if name == "figures" else name


def _run(notes: str, label: str, name: str, bad: bool, after: Any = None) -> str:
    with Path(notes).open("a") as stream:
        stream.write(f"{label} {name}\n")
    if bad:
        raise ValueError("a bad step")
    return name


def test_a_study_ends_subject_by_subject(plan: RunPlan, notes: Path) -> None:
    ended: list[tuple[str, list[str]]] = []
    one = RunPlan(plan.settings, plan.subjects, Limits(1, 1, 8.0))
    done = participant.execute(one, lambda label, own: ended.append((label, notes.read_text().splitlines())))
    steps = [f"{label} {name}" for label in LABELS for name in ("first", "second", "figures")]
    assert notes.read_text().splitlines() == [step for step in steps if step != "02 figures"]
    assert ended == [("01", steps[:3]), ("03", notes.read_text().splitlines())]
    assert [failure.unit for failure in done.failures] == ["sub-02"]
    assert done.of_subject("02").unfinished and not done.of_subject("03").unfinished


def test_what_cannot_be_written_at_the_end_of_a_subject_stops_nobody(plan: RunPlan, notes: Path) -> None:
    def end(label: str, own: Any) -> None:
        raise RuntimeError("no page")

    done = participant.execute(plan, end)
    assert "03 figures" in notes.read_text() and len(done.failures) == 1


def entry_of(label: str) -> SubjectSummary:
    return SubjectSummary(f"sub-{label}", "ok", ended=now())


def test_windows_follow_each_other_and_say_what_became_of_all(
    plan: RunPlan, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[list[str]] = []

    def run(window: RunPlan, run_id: str, request: Request, entries: list[SubjectSummary]) -> bool:
        seen.append([subject.label for subject in window.subjects])
        held = [path.name for path in Path(plan.settings.output_dir).glob("logs/*.lock")]
        assert sorted(held) == [f"sub-{label}.lock" for label in seen[-1]]
        entries += map(entry_of, seen[-1])
        return len(seen) < 2

    monkeypatch.setattr(participant, "run_subjects", run)
    monkeypatch.setattr(participant, "WINDOW", 1)
    small = RunPlan(plan.settings, plan.subjects, Limits(0, 1, 8.0))
    assert participant.run_locked(small, [], "r", None) == 0  # type: ignore[arg-type]
    assert seen == [["01"], ["02"]]
    assert "1 subjects were not begun" in caplog.text
    assert not list(Path(plan.settings.output_dir).glob("logs/*.lock"))


def test_two_studies_do_not_meet_in_one_work_folder(plan: RunPlan, caplog: pytest.LogCaptureFixture) -> None:
    with SubjectLock(run_folder(plan.settings), "02"), participant.ExitStack() as stack:
        taken = [subject.label for subject in plan.subjects if participant.locked(subject, plan.settings, stack)]
    assert taken == ["01", "03"]
    assert f"sub-02 in {run_folder(plan.settings)} is being worked on by" in caplog.text
    assert not list(Path(plan.settings.output_dir).glob("logs/*.lock"))


@pytest.mark.parametrize(
    ("plugin", "asked", "threads"),
    [
        ("MultiProc", {}, 1),
        ("MultiProc", {"omp_nthreads": 6}, 1),
        ("SLURM", {}, 8),
        ("SLURM", {"omp_nthreads": 12}, 12),
        ("SLURM", {"omp_nthreads": 12, "nprocs": 4}, 4),
    ],
)
def test_the_processors_of_the_driver_bound_its_own_steps_only(
    plugin: str, asked: dict[str, int], threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "1")
    (tmp_path / "plugin.yml").write_text(f"plugin: {plugin}\n")
    resources = Resources(use_plugin=str(tmp_path / "plugin.yml"), **asked)
    settings = Settings("bids", "out", "work", resources=resources)
    assert participant.limits(settings).omp_nthreads == threads


READS_SLOWLY = """
import sys, time
from qsmals.cli import main, participant

def check(*args, **words):
    print("reading", flush=True)
    time.sleep(100)

participant.check_subject = check
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.timeout(120)
def test_a_signal_does_not_wait_for_slow_reading(tmp_path: Path) -> None:
    bids = write_tree(tmp_path / "bids", *map(Visit, LABELS), empty=True)
    words = [bids, tmp_path / "out", "participant", "--skip-bids-validation"]
    run = subprocess.Popen([sys.executable, "-c", READS_SLOWLY, *map(str, words)], stdout=subprocess.PIPE, text=True)
    assert run.stdout is not None
    for line in run.stdout:
        if line == "reading\n":
            break
    began = time.monotonic()
    run.send_signal(signal.SIGTERM)
    rest = run.stdout.read()
    assert run.wait() == 143 and time.monotonic() - began < 8
    assert "stopped by SIGTERM; run the same command again" in rest
    (log,) = (tmp_path / "out/logs").glob("*.log")
    assert "stopped by SIGTERM" in log.read_text()
