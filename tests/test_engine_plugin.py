"""The local engine: nodes that fail, workers that die, and what becomes of the rest."""

import json
import logging
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from nipype import MapNode, Node, Workflow
from nipype.interfaces.base import BaseInterfaceInputSpec, SimpleInterface, TraitedSpec, traits

from qsmals.engine.plugin import LocalPlugin
from qsmals.engine.progress import NodesFailed, Step, announce, cause, name_node, nipype_settings, write_steps
from qsmals.engine.signals import Interrupted, interruptible

REPOSITORY = Path(__file__).resolve().parents[1]


class _ActInput(BaseInterfaceInputSpec):
    what = traits.Str("count", usedefault=True)
    value = traits.Int(0, usedefault=True)
    notes = traits.Str(desc="folder where each execution leaves a file")
    name = traits.Str()


class _ActOutput(TraitedSpec):
    value = traits.Int()


class Act(SimpleInterface):
    """Adds one to ``value``, or fails in the way ``what`` says; notes when it began and ended."""

    input_spec = _ActInput
    output_spec = _ActOutput

    def _run_interface(self, runtime):
        notes, name, what = Path(self.inputs.notes), self.inputs.name, self.inputs.what
        begin = time.time()
        attempt = len(list(notes.glob(f"{name}.*.begin"))) + 1
        (notes / f"{name}.{attempt}.begin").write_text(str(os.getpid()))
        if what == "die" or (what == "die once" and attempt == 1):
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        if what == "leave":
            os._exit(7)
        if what == "exit":
            sys.exit(3)
        if what == "raise later":
            while not list(notes.glob("slow.*.begin")):
                time.sleep(0.05)
        if what in ("raise", "raise later"):
            raise ValueError("echoes differ")
        if what == "memory" and attempt == 1:
            raise MemoryError("cannot allocate")
        if what == "slow":
            time.sleep(0.5)
        if what == "for ever":
            time.sleep(600)
        if what == "log":
            logging.getLogger("nipype.interface").warning("a word from %s", name)
        threads = {k: os.environ.get(k) for k in ("OMP_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS")}
        (notes / f"{name}.{attempt}.end").write_text(json.dumps({"begin": begin, "end": time.time(), **threads}))
        self._results["value"] = self.inputs.value + 1
        return runtime


@pytest.fixture
def make(tmp_path):
    """``make({"a": "count", "b": "raise"}, [("a", "b")])``: a workflow of acts, in its own folder."""

    def build(acts, edges=(), **node_args):
        notes = tmp_path / "notes"
        notes.mkdir(exist_ok=True)
        wf = Workflow("wf", base_dir=str(tmp_path))
        nodes = {n: Node(Act(what=w, notes=str(notes), name=n), name=n, **node_args) for n, w in acts.items()}
        for node in nodes.values():
            announce(node, unit="sub-01", step=f"step {node.name}")
        wf.add_nodes(list(nodes.values()))
        for source, target in edges:
            wf.connect(nodes[source], "value", nodes[target], "value")
        wf.config.update(nipype_settings(tmp_path / "crash"))
        return wf

    return build


def local(**args):
    steps = []
    plugin = LocalPlugin({"n_procs": 2, "memory_gb": 4.0, "progress": steps.append, **args})
    plugin.seen = steps
    return plugin


def notes(tmp_path, name, what="end"):
    return sorted((tmp_path / "notes").glob(f"{name}.*.{what}"))


@pytest.mark.timeout(300)
def test_killed_worker_fails_its_node_only(make, tmp_path):
    wf = make({"bad": "die", "after": "count", "good": "slow", "last": "count"}, [("bad", "after"), ("good", "last")])
    plugin = local()
    with pytest.raises(NodesFailed) as caught:
        wf.run(plugin=plugin)
    (failure,) = caught.value.failures
    assert failure.node == "step bad" and failure.unit == "sub-01"
    assert "killed by signal 9 (SIGKILL)" in failure.why and "out of memory" in failure.why
    assert "wf.bad asked for 0.2 GB" in failure.why
    crash = Path(failure.crash_file).read_text()
    assert "wf.bad" in crash and "killed by signal 9" in crash
    assert len(notes(tmp_path, "bad", "begin")) == 2, "tried once more"
    assert len(notes(tmp_path, "good")) == 1, "an innocent node in flight is not disturbed"
    assert len(notes(tmp_path, "last")) == 1 and not notes(tmp_path, "after")
    assert [s.state for s in plugin.seen if s.name == "step bad"] == ["again", "failed"]


@pytest.mark.timeout(300)
def test_second_attempt_runs_alone(make, tmp_path):
    wf = make({"frail": "die once", **dict.fromkeys(("s1", "s2", "s3"), "slow")})
    plugin = local()
    wf.run(plugin=plugin)
    assert plugin.failures == []
    assert len(notes(tmp_path, "frail", "begin")) == 2
    retry = json.loads((tmp_path / "notes/frail.2.end").read_text())
    for other in ("s1", "s2", "s3"):
        span = json.loads((tmp_path / f"notes/{other}.1.end").read_text())
        assert span["end"] <= retry["begin"] or span["begin"] >= retry["end"]


@pytest.mark.timeout(300)
def test_other_deaths_are_named(make):
    wf = make({"a": "segfault", "b": "leave", "c": "exit", "d": "raise"})
    with pytest.raises(NodesFailed) as caught:
        wf.run(plugin=local())
    why = {f.node: f.why for f in caught.value.failures}
    assert "signal 11 (SIGSEGV)" in why["step a"]
    assert "exit code 7" in why["step b"]
    assert "SystemExit: 3" in why["step c"]
    assert why["step d"] == "ValueError: echoes differ"


@pytest.mark.timeout(300)
def test_memory_error_is_tried_again(make, tmp_path):
    plugin = local()
    make({"hungry": "memory"}).run(plugin=plugin)
    assert len(notes(tmp_path, "hungry", "begin")) == 2
    assert [s.state for s in plugin.seen] == ["again", "done"]


@pytest.mark.timeout(300)
def test_stop_on_first_crash(make, tmp_path):
    wf = make({"bad": "raise later", "slow": "for ever"})
    wf.config["execution"]["stop_on_first_crash"] = "true"
    begin = time.monotonic()
    with pytest.raises(NodesFailed, match="echoes differ"):
        wf.run(plugin=local())
    assert time.monotonic() - begin < 30
    pid = int(notes(tmp_path, "slow", "begin")[0].read_text())
    assert not Path(f"/proc/{pid}").exists(), "no worker is left behind"


@pytest.mark.timeout(300)
def test_resume_runs_only_what_is_missing(make, tmp_path):
    edges = [("a", "b"), ("b", "c")]
    with pytest.raises(NodesFailed):
        make({"a": "count", "b": "raise", "c": "count"}, edges).run(plugin=local())
    plugin = local()
    make({"a": "count", "b": "count", "c": "count"}, edges).run(plugin=plugin)
    assert len(notes(tmp_path, "a", "begin")) == 1
    assert {s.name: s.state for s in plugin.seen} == {"step a": "cached", "step b": "done", "step c": "done"}


@pytest.mark.timeout(300)
def test_progress_steps_and_table(make, tmp_path):
    plugin = local()
    make({"a": "count", "b": "count"}, [("a", "b")]).run(plugin=plugin)
    assert [(s.index, s.total, s.name, s.state) for s in plugin.seen] == [
        (1, 2, "step a", "done"),
        (2, 2, "step b", "done"),
    ]
    assert plugin.seen[0].peak_gb > 0.02 and plugin.peak_gb["sub-01"] >= plugin.seen[0].peak_gb
    rows = write_steps(tmp_path / "steps.tsv", plugin.steps).read_text().splitlines()
    assert rows[0].split("\t")[:3] == ["unit", "name", "state"] and len(rows) == 3


def test_progress_line():
    step = Step("sub-01 run-1", "unwrap (ROMEO)", "done", 7, 23, "wf.unwrap", seconds=12.3)
    assert str(step) == "[sub-01 run-1]   7/23  unwrap (ROMEO)  12.3 s"


@pytest.mark.timeout(300)
def test_threads_and_concurrency(make, tmp_path):
    make({"a": "slow", "b": "slow"}, n_procs=2).run(plugin=local(itk_threads=1))
    spans = [json.loads((tmp_path / f"notes/{n}.1.end").read_text()) for n in "ab"]
    spans.sort(key=lambda span: span["begin"])
    assert spans[0]["end"] <= spans[1]["begin"], "two nodes of two threads do not fit in two processors"
    assert {s["OMP_NUM_THREADS"] for s in spans} == {"2"}
    assert {s["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] for s in spans} == {"1"}


@pytest.mark.timeout(300)
def test_memory_is_not_overbooked(make, tmp_path, caplog):
    make({"a": "slow", "b": "slow"}, mem_gb=3.0).run(plugin=local(memory_gb=2.0))
    spans = sorted(json.loads((tmp_path / f"notes/{n}.1.end").read_text())["begin"] for n in "ab")
    assert spans[1] - spans[0] >= 0.5
    with pytest.raises(RuntimeError, match=r"wf\.a asks for 3\.0 GB"):
        make({"a": "count"}, mem_gb=3.0).run(plugin=local(memory_gb=2.0, raise_insufficient=True))


@pytest.mark.timeout(300)
def test_memory_planned_never_exceeds_the_limit(make, tmp_path):
    """At every submission: what running nodes ask for, and what idle and used workers hold beyond it."""
    wf = make(dict.fromkeys("abcdefgh", "count"))
    for i, node in enumerate(wf._get_all_nodes()):
        node._mem_gb, node.qsmals_base_gb = (0.2, 0.45, 0.7)[i % 3], 0.01
    plugin, planned = local(n_procs=4, memory_gb=1.2), []
    hand_out = plugin._hand_out

    def watched(task_id):
        hand_out(task_id)
        busy = [plugin._jobs[w.task_id].node.mem_gb for w in plugin._workers if w.task_id is not None]
        planned.append(sum(busy) + sum(map(plugin._held_gb, plugin._workers)))

    plugin._hand_out = watched
    wf.run(plugin=plugin)
    assert len(planned) == 8 and max(planned) <= 1.2 + 1e-9, planned
    assert max(planned) > 0.7, "some ran side by side"


@pytest.mark.timeout(300)
def test_workers_are_replaced_after_so_many_nodes(make, tmp_path):
    make({"a": "count", "b": "count", "c": "count"}, [("a", "b"), ("b", "c")]).run(plugin=local(maxtasksperchild=1))
    assert len({file.read_text() for file in (tmp_path / "notes").glob("*.begin")}) == 3


@pytest.mark.timeout(300)
def test_map_node_with_a_dead_part_ends(make, tmp_path):
    wf = make({"good": "count"})
    parts = MapNode(Act(notes=str(tmp_path / "notes"), name="part"), iterfield=["what"], name="parts")
    parts.inputs.what = ["count", "raise", "count"]
    after = Node(Act(notes=str(tmp_path / "notes"), name="after"), name="after")
    wf.connect(parts, ("value", _first), after, "value")
    with pytest.raises(NodesFailed, match="echoes differ"):
        wf.run(plugin=local())
    assert notes(tmp_path, "good") and not notes(tmp_path, "after")


def _first(values):
    return values[0]


@pytest.mark.timeout(300)
def test_worker_logs_reach_the_parent(make, caplog):
    nipype_log = logging.getLogger("nipype.interface")
    nipype_log.addHandler(caplog.handler)
    try:
        make({"talker": "log"}).run(plugin=local())
    finally:
        nipype_log.removeHandler(caplog.handler)
    assert "a word from talker" in caplog.messages


def start_run(tmp_path, acts):
    """A run of ``acts`` in a process of its own; returns once a node of each name has begun."""
    script = f"""
        import sys
        sys.path.insert(0, {str(REPOSITORY)!r})
        from pathlib import Path
        from nipype import Node, Workflow
        from qsmals.engine.plugin import LocalPlugin
        from qsmals.engine.signals import Interrupted, interruptible
        from tests.test_engine_plugin import Act
        wf = Workflow("wf", base_dir={str(tmp_path)!r})
        for name, what in {acts!r}.items():
            wf.add_nodes([Node(Act(what=what, notes={str(tmp_path / "notes")!r}, name=name), name=name)])
        try:
            with interruptible():
                wf.run(plugin=LocalPlugin({{"n_procs": 2}}))
        except Interrupted as stop:
            Path("report").write_text(str(stop))
            sys.exit(stop.exit_code)
    """
    (tmp_path / "notes").mkdir()
    run = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], cwd=tmp_path, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 30
    while not all(notes(tmp_path, name, "begin") for name in acts) and time.monotonic() < deadline:
        time.sleep(0.05)
    return run


def workers(tmp_path):
    return [Path("/proc") / file.read_text() for file in (tmp_path / "notes").glob("*.begin")]


@pytest.mark.timeout(300)
def test_sigterm_ends_workers(tmp_path):
    run = start_run(tmp_path, {"a": "for ever", "b": "for ever"})
    run.send_signal(signal.SIGTERM)
    assert run.wait(20) == 143
    assert (tmp_path / "report").read_text() == "stopped by SIGTERM"
    assert workers(tmp_path) and not any(worker.exists() for worker in workers(tmp_path))


@pytest.mark.timeout(300)
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere workers end within seconds, not at once")
def test_killed_run_leaves_no_worker_and_goes_on(tmp_path, make):
    run = start_run(tmp_path, {"a": "count", "b": "for ever"})
    while not notes(tmp_path, "a"):
        time.sleep(0.05)
    run.kill()
    run.wait()
    deadline = time.monotonic() + 10
    while any(worker.exists() for worker in workers(tmp_path)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(worker.exists() for worker in workers(tmp_path))
    plugin = local()
    make({"a": "count", "b": "count"}).run(plugin=plugin)
    assert {step.name: step.state for step in plugin.seen} == {"step a": "cached", "step b": "done"}


def test_interrupted_is_not_an_exception():
    with pytest.raises(Interrupted) as caught, interruptible():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        except Exception:
            pytest.fail("forgiven")
    assert caught.value.exit_code == 143
    assert [Interrupted(n).exit_code for n in (signal.SIGHUP, signal.SIGUSR2, signal.SIGINT)] == [143, 143, 130]
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_unknown_plugin_args_are_refused():
    with pytest.raises(ValueError, match="n_proc"):
        LocalPlugin({"n_proc": 2})


def test_names_from_the_hierarchy():
    node = Node(Act(), name="unwrap_phase")
    node._hierarchy = "wf.sub_01_wf.run_1_wf"
    assert name_node(node) == ("sub-01 run-1", "unwrap phase")


def test_cause_of_nested_text():
    lines = [
        "Traceback (most recent call last):\n",
        "nipype.pipeline.engine.nodes.NodeExecutionError: Exception raised while executing Node a.\n\nTraceback:\n",
        '\tFile "x.py", line 3\n\tValueError: first line\n\tsecond line\n',
    ]
    assert cause(lines) == "ValueError: first line second line"
    assert cause([]) == "no cause was given"
