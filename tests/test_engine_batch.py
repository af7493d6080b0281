"""Plugin files, and nipype graphs on batch systems that behave as real ones do on a bad day."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
from nipype import Node, Workflow
from nipype.interfaces.utility import Function

from qsmals.engine.batch import BatchPlugin, GraphPlugin
from qsmals.engine.job_notes import write_note
from qsmals.engine.plugin import LocalPlugin
from qsmals.engine.plugins_config import PluginSettings, load_plugin_file, make_plugin
from qsmals.engine.progress import NodesFailed, nipype_settings
from qsmals.engine.queues import QUEUES, Needs, Note
from qsmals.engine.queues.queue import ask
from qsmals.engine.signals import Interrupted, interruptible
from tests.fake_cluster import COMMANDS, free, install, refuse

# how each is asked for 3 processors and 2 GB, and a quarter more than that
ASKED = {
    "SLURM": ("--cpus-per-task=3", "--mem=2385M"),
    "SGE": ("-pe smp 3", "mem_free=795M"),
    "PBS": ("select=1:ncpus=3:mem=2385mb",),
    "Torque": ("nodes=1:ppn=3", "mem=2385mb"),
    "LSF": ("-n 3", "span[hosts=1]", "rusage[mem=2385MB]"),
    "OAR": ("/nodes=1/core=3",),
    "Condor": ("request_cpus = 3", "request_memory = 2385"),
}
# what each calls the end of a job that vanished, one that was stuck, and a refusal
ENDS = {
    "SLURM": ("OUT_OF_MEMORY", "DependencyNeverSatisfied", "Invalid qos"),
    "SGE": ("exit_status 137", "can't create output file", "parallel environment"),
    "PBS": ("mem exceeded limit", None, "Unauthorized Request"),
    "Torque": ("mem exceeded limit", None, "Unauthorized Request"),
    "LSF": ("TERM_MEMLIMIT", None, "Bad or empty queue"),
    "OAR": ("walltime or memory", None, "no such queue"),
    "Condor": ("via condor_rm", "over memory limit", "Executable file"),
}
FAST = {"poll_s": 0.05, "result_wait_s": 0.2}


@pytest.fixture(params=list(COMMANDS))
def system(request, tmp_path, monkeypatch):
    """Name of a batch system whose commands are first on the PATH; LOGNAME is unset."""
    use(request.param, tmp_path, monkeypatch)
    return request.param


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """The folder of SLURM's commands, first on the PATH; LOGNAME is unset."""
    return use("SLURM", tmp_path, monkeypatch)


def use(name, tmp_path, monkeypatch):
    folder = install(tmp_path / "bin", name)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.delenv("LOGNAME", raising=False)
    return folder


def engine(system, kind=BatchPlugin, **args):
    queue = QUEUES["PBS" if system == "Torque" else system](args)
    return kind(queue, {**FAST, "progress": lambda step: None, **args})


def add_one(value):
    return value + 1


def graph(tmp_path, names, **node_args):
    wf = Workflow("wf", base_dir=str(tmp_path / "work"))
    nodes = [Node(Function(function=add_one), name=name, **node_args) for name in names]
    for node in nodes:
        node.inputs.value = 1
    wf.add_nodes(nodes)
    wf.config.update(nipype_settings(tmp_path / "crash"))
    return wf


def fail():
    raise ValueError("echoes differ")


def chain(tmp_path, *names, **functions):
    """A graph in which each node takes the value of the one before; ``functions``: others, by name."""
    wf = Workflow("wf", base_dir=str(tmp_path / "work"))
    nodes = [Node(Function(function=functions.get(name, add_one)), name=name) for name in names]
    nodes[0].inputs.value = 1
    wf.connect([(a, b, [("out", "value")]) for a, b in pairwise(nodes)])
    wf.config.update(nipype_settings(tmp_path / "crash"))
    return wf


@pytest.mark.timeout(120)
def test_a_batch_system_says_what_went_wrong_and_the_rest_goes_on(system, tmp_path):
    vanished, stuck, refused = ENDS[system]
    names = ["works", "vanishes", "refused", *(["stuck"] if stuck else [])]
    plugin = engine(system, itk_threads=1)
    with pytest.raises(NodesFailed) as caught:
        graph(tmp_path, names, mem_gb=2.0, n_procs=3).run(plugin=plugin)
    why = {failure.node: failure.why for failure in caught.value.failures}
    assert set(why) == set(names) - {"works"}
    assert vanished in why["vanishes"] and refused in why["refused"]
    if stuck:
        assert stuck in why["stuck"] and (tmp_path / "bin/cancelled").exists()
    assert all(Path(failure.crash_file).exists() for failure in caught.value.failures)
    assert [step.state for step in plugin.steps if step.name == "works"] == ["done"]
    assert os.environ["LOGNAME"]
    asked = (tmp_path / "bin/asked").read_text().splitlines()[-1]
    assert all(part in asked for part in ASKED[system]), asked
    script = next((tmp_path / "work/wf/batch").glob("batchscript_*.sh")).read_text()
    assert "export OMP_NUM_THREADS=3" in script and "export ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS=1" in script


@pytest.mark.timeout(120)
def test_an_error_in_a_node_is_told_as_it_is(cluster, tmp_path):
    with pytest.raises(NodesFailed, match="ValueError: echoes differ"):
        wf = Workflow("wf", base_dir=str(tmp_path / "work"))
        wf.add_nodes([Node(Function(function=fail), name="fails")])
        wf.config.update(nipype_settings(tmp_path / "crash"))
        wf.run(plugin=engine("SLURM"))


@pytest.mark.timeout(120)
def test_no_job_is_left_behind(cluster, tmp_path):
    (cluster / "was_away").touch()
    wf = graph(tmp_path, ["refused", "waits"])
    wf.config["execution"]["stop_on_first_crash"] = "true"
    with pytest.raises(NodesFailed):
        wf.run(plugin=engine("SLURM"))
    assert (cluster / "cancelled").read_text() == "1\n"


class Killed(BaseException):
    """Ends a run where it stands."""


def leave(wf, plugin):
    """Run until the jobs are in the queue, and end as ``kill -9`` ends a run: nothing is cleaned up."""

    def die(*args):
        raise Killed

    plugin._abandon, plugin._get_result = lambda: None, die
    with pytest.raises(Killed):
        wf.run(plugin=plugin)


def notes(tmp_path):
    return {path.name: json.loads(path.read_text()) for path in (tmp_path / "work").rglob("*.job")}


@pytest.mark.timeout(120)
def test_jobs_of_a_run_that_was_killed_end_before_the_next_begins(system, tmp_path, caplog):
    folder = tmp_path / "bin"
    leave(graph(tmp_path, ["waits"]), engine(system))
    (note,) = notes(tmp_path).values()
    assert note["job"].startswith("1") and note["name"] == "wf.waits"
    free(folder)
    plugin = engine(system)
    graph(tmp_path, ["waits"]).run(plugin=plugin)
    assert [step.state for step in plugin.steps] == ["done"]
    assert (folder / "cancelled").read_text() == f"{note['job']}\n"
    assert json.loads((folder / "state.json").read_text()) == {"1": "KILLED", "2": "DONE"}
    assert "jobs of an earlier run are cancelled" in caplog.text and not notes(tmp_path)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("here", [True, False])
def test_another_engine_ends_the_jobs_of_a_killed_run(here, cluster, tmp_path, monkeypatch, caplog):
    code = (
        "import sys; from pathlib import Path; from tests.test_engine_batch import engine, graph; "
        "graph(Path(sys.argv[1]), ['waits']).run(plugin=engine('SLURM'))"
    )
    run = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=Path(__file__).parents[1])
    try:
        until = time.monotonic() + 60
        while not any(note["job"] for note in notes(tmp_path).values()):
            assert time.monotonic() < until and run.poll() is None
            time.sleep(0.1)
    finally:
        run.kill()
        run.wait()
    if not here:
        monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(LocalPlugin, "_poll_s", 0.05)
    plugin = LocalPlugin({"n_procs": 1, "memory_gb": 1, "progress": print})
    graph(tmp_path, ["waits"]).run(plugin=plugin)
    assert [step.state for step in plugin.steps] == ["done"]
    assert (cluster / "cancelled").exists() == here == (not notes(tmp_path))
    assert ("which cannot be asked here; cancel them, should they be there: 1" in caplog.text) != here


@pytest.mark.timeout(120)
def test_a_run_without_an_answer_about_earlier_jobs_does_not_begin(cluster, tmp_path, monkeypatch):
    leave(graph(tmp_path, ["waits"]), engine("SLURM"))
    (cluster / "squeue").write_text("#!/bin/sh\nexit 1\n")
    with pytest.raises(TimeoutError, match=r"does not say whether jobs of an earlier run.* \*\.job below .*work/wf"):
        graph(tmp_path, ["waits"]).run(plugin=engine("SLURM", outage_s=0.2))
    assert submissions(cluster, "batchscript") == (2, 1)


@pytest.mark.timeout(120)
def test_a_job_of_the_same_number_elsewhere_is_let_be(cluster, tmp_path):
    leave(graph(tmp_path, ["waits"]), engine("SLURM"))
    (cluster / "place-1").write_text("wf.waits|/elsewhere")
    free(cluster)
    graph(tmp_path, ["waits"]).run(plugin=engine("SLURM"))
    assert not (cluster / "cancelled").exists()


@pytest.mark.timeout(120)
def test_a_job_that_was_taken_as_its_run_was_killed_is_found_by_its_name(cluster, tmp_path):
    leave(graph(tmp_path, ["waits"]), engine("SLURM"))
    write_note(str(tmp_path / "work/wf/waits"), Note("SLURM", "wf.waits", str(tmp_path / "work/wf/batch")))
    free(cluster)
    graph(tmp_path, ["waits"]).run(plugin=engine("SLURM"))
    assert (cluster / "cancelled").read_text() == "1\n"


@pytest.mark.timeout(120)
@pytest.mark.parametrize("hurry_s", [5.0, 0.2])
def test_a_signal_during_a_submission_leaves_no_job(hurry_s, cluster, tmp_path, monkeypatch):
    """The answer is waited for, and where it takes too long the job is looked for."""
    (cluster / "was_away").touch()
    monkeypatch.setattr("qsmals.engine.queues.queue.HURRY_S", hurry_s)

    def stop():
        while not (cluster / "state.json").exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=stop)
    thread.start()
    with pytest.raises(Interrupted), interruptible():
        graph(tmp_path, ["waits_dawdles", "b"]).run(plugin=engine("SLURM"))
    thread.join()
    assert (cluster / "cancelled").read_text() == "1\n"
    assert submissions(cluster, "batchscript") == (1, 1)
    assert [note["job"] for note in notes(tmp_path).values()] == ["1" if hurry_s > 1 else None]


def submissions(folder, name):
    """How often a job of that name was submitted, and how many jobs of all names the system took."""
    asked = (folder / "asked").read_text().splitlines()
    taken = json.loads((folder / "state.json").read_text()) if (folder / "state.json").exists() else {}
    return sum(name in line for line in asked), len(taken)


@pytest.mark.timeout(120)
def test_a_limit_on_the_number_of_jobs_is_waited_for(system, tmp_path, caplog):
    folder = tmp_path / "bin"
    refuse(folder, "full", 3)
    plugin = engine(system)
    graph(tmp_path, ["a", "b", "c"]).run(plugin=plugin)
    assert sorted(step.name for step in plugin.steps if step.state == "done") == ["a", "b", "c"]
    assert submissions(folder, "batchscript")[1] == 3, "no job is lost, none is there twice"
    told = [record for record in caplog.records if "max_jobs" in record.getMessage()]
    assert [record.levelname for record in told] == ["WARNING"]
    assert len(list((tmp_path / "work/wf/batch").glob("batchscript_*.sh"))) == 3


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("why", "words"), [("full", "job submit limit"), ("away", "Unable to contact")])
def test_a_system_that_takes_no_job_for_too_long(why, words, cluster, tmp_path):
    refuse(cluster, why, 10**6)
    with pytest.raises(NodesFailed) as caught:
        graph(tmp_path, ["a", "b"]).run(plugin=engine("SLURM", outage_s=1.0))
    assert {failure.node for failure in caught.value.failures} == {"a", "b"}
    assert all(words in failure.why for failure in caught.value.failures)
    assert 4 < submissions(cluster, "batchscript")[0] < 10, "the tries are spaced"


@pytest.mark.timeout(120)
def test_an_outage_is_outlasted_and_a_true_refusal_told_at_once(cluster, tmp_path):
    refuse(cluster, "away", 7)
    with pytest.raises(NodesFailed) as caught:
        graph(tmp_path, ["a", "refused"]).run(plugin=engine("SLURM"))
    assert [(f.node, "Invalid qos" in f.why) for f in caught.value.failures] == [("refused", True)]
    assert submissions(cluster, "wf_refused.sh") == (1, 1)


@pytest.mark.timeout(120)
def test_jobs_in_the_queue_are_reason_enough_to_wait_at_a_limit(cluster, tmp_path):
    (cluster / "was_away").touch()
    plugin = engine("SLURM", outage_s=0.1)
    real, taken = plugin.queue.submit, []

    def submit(*args):
        job = real(*args)
        if not taken:
            refuse(cluster, "full", 6)
        taken.append(job)
        return job

    plugin.queue.submit = submit
    began = time.monotonic()
    graph(tmp_path, ["a_slow", "b"]).run(plugin=plugin)
    assert time.monotonic() - began > 1 and len(plugin.steps) == 2 and taken == ["1", "2"]


@pytest.mark.timeout(120)
def test_a_submission_without_answer_is_not_repeated(cluster, tmp_path):
    plugin = engine("SLURM")
    graph(tmp_path, ["late"]).run(plugin=plugin)
    assert [step.state for step in plugin.steps] == ["done"]
    assert submissions(cluster, "wf_late.sh") == (2, 1), "the first met a controller that was away"


@pytest.mark.parametrize(
    ("name", "words", "passing"),
    [
        (
            "SLURM",
            "sbatch: error: AssocMaxSubmitJobLimit Job violates accounting/QOS policy (job submit limit, ",
            "full",
        ),
        ("SLURM", "Batch job submission failed: Job violates accounting/QOS policy (job submit limit, user's ", "full"),
        ("SLURM", "QOSMaxWallDurationPerJobLimit Job violates accounting/QOS policy (job submit limit, ", None),
        ("SLURM", "Slurm temporarily unable to accept job, sleeping and retrying", "full"),
        ("SLURM", "Batch job submission failed: Resource temporarily unavailable", "full"),
        ("SLURM", "Batch job submission failed: Socket timed out on send/recv operation", "away"),
        ("SLURM", "Batch job submission failed: Invalid account or account/partition combination specified", None),
        ("SGE", "job rejected: Only 10000 jobs are allowed per cluster", "full"),
        ("PBS", "qsub: Maximum number of jobs in 'Q' state for user me already in complex", "full"),
        ("PBS", "qsub: would exceed queue generic's per-user limit", "full"),
        ("PBS", "qsub: Job violates queue and/or server resource limits", None),
        ("PBS", "qsub: Unknown queue", None),
        ("LSF", "Group <g>: Pending job threshold reached.", "full"),
        ("Condor", "ERROR: Number of submitted jobs would exceed MAX_JOBS_SUBMITTED", "full"),
    ],
)
def test_which_refusals_pass(name, words, passing):
    assert QUEUES[name]().passing(words) == passing


def test_a_command_that_waits_by_itself_is_ended():
    began = time.monotonic()
    done = ask(["bash", "-c", "echo 'threshold reached. Retrying in 60 seconds' >&2; sleep 60"], ["Retrying in"])
    assert done.returncode and "threshold" in done.stderr and time.monotonic() - began < 10


@pytest.mark.timeout(120)
def test_a_job_that_is_seen_again_keeps_its_patience(cluster):
    plugin = engine("SLURM")
    plugin._pending, plugin._logs, plugin._submitted = {"7": "nowhere"}, {"7": "nowhere"}, {"7": 0.0}
    plugin._ended_at["7"] = -1e9  # the queue had once answered without it
    plugin._alive, plugin._poll_s, plugin._asked_at = {"7"}, 1e9, time.monotonic()
    assert plugin._get_result("7") is None
    plugin._alive = set()
    assert plugin._get_result("7") is None, "its result may still be on its way through a network share"


def test_no_stale_result_is_taken(cluster, tmp_path):
    graph(tmp_path, ["vanishes"]).run(plugin=LocalPlugin({"n_procs": 1, "memory_gb": 1, "progress": print}))
    again = graph(tmp_path, ["vanishes"])
    again.get_node("vanishes").inputs.value = 5
    with pytest.raises(NodesFailed, match="OUT_OF_MEMORY"):
        again.run(plugin=engine("SLURM"))


@pytest.mark.timeout(120)
def test_a_graph_submitted_at_once_is_waited_for(cluster, tmp_path):
    plugin = engine("SLURM", GraphPlugin)
    chain(tmp_path, "a", "b").run(plugin=plugin)
    assert [step.state for step in plugin.steps] == ["done"] * 2
    asked = (cluster / "asked").read_text().splitlines()
    assert "--dependency=afterok:1" in asked[-1]
    again = engine("SLURM", GraphPlugin)
    chain(tmp_path, "a", "b").run(plugin=again)
    assert [step.state for step in again.steps] == ["cached"] * 2
    assert (cluster / "asked").read_text().splitlines() == asked


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("args", "waits"), [({}, True), ({"max_jobs": 1}, False)])
def test_a_graph_meets_a_limit(args, waits, cluster, tmp_path):
    refuse(cluster, "full", 3)
    plugin = engine("SLURM", GraphPlugin, **args)
    chain(tmp_path, "a", "b", "c").run(plugin=plugin)
    assert [step.name for step in plugin.steps] == ["a", "b", "c"]
    assert submissions(cluster, "batchscript") == (7, 3)
    assert ("--dependency=afterok" in (cluster / "asked").read_text()) == waits


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("system", "bad"), [("SLURM", "vanishes"), ("PBS", "refused"), ("SGE", "fails")], indirect=["system"]
)
def test_behind_a_failure_the_graph_ends(system, bad, tmp_path):
    plugin = engine(system, GraphPlugin)
    wf = chain(tmp_path, bad, "waits", "d", fails=lambda value: 1 / 0)
    wf.add_nodes([Node(Function(function=add_one), name="beside")])
    wf.get_node("beside").inputs.value = 1
    with pytest.raises(NodesFailed) as caught:
        wf.run(plugin=plugin)
    assert [failure.node for failure in caught.value.failures] == [bad]
    assert {step.name: step.state for step in plugin.steps} == {"beside": "done", bad: "failed"}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("SLURM", "--dependency=afterok:7:8 --kill-on-invalid-dep=yes"),
        ("SGE", "-hold_jid 7,8"),
        ("PBS", "-W depend=afterok:7:8"),
        ("LSF", "-w done(7) && done(8) -ti"),
        ("OAR", "-a 7 -a 8"),
    ],
)
def test_a_job_waits_for_others(name, words):
    assert " ".join(QUEUES[name]().after(["7", "8"])) == words


@pytest.mark.timeout(120)
def test_dagman_runs_the_graph_and_tells_of_each_node(tmp_path, monkeypatch):
    folder = use("Condor", tmp_path, monkeypatch)
    refuse(folder, "away", 2)
    plugin = make_plugin(PluginSettings("CondorDAGMan", {**FAST, "max_jobs": 5}), progress=lambda step: None)
    wf = chain(tmp_path, "a", "vanishes", "b")
    with pytest.raises(NodesFailed, match="failed with signal 9"):
        wf.run(plugin=plugin)
    assert {step.name: step.state for step in plugin.steps} == {"a": "done", "vanishes": "failed"}
    dag = (folder / "dag").read_text()
    assert (folder / "asked").read_text().count("-maxjobs 5") == 3
    assert "PARENT N0 CHILD N1" in dag and "PARENT N1 CHILD N2" in dag
    assert "DAGNodeName" in (folder / "cancelled").read_text()  # what was behind the failed one


@pytest.mark.timeout(120)
def test_dagman_of_a_killed_run_is_ended(tmp_path, monkeypatch):
    folder = use("Condor", tmp_path, monkeypatch)

    def dagman():
        return make_plugin(PluginSettings("CondorDAGMan", dict(FAST)), progress=lambda step: None)

    leave(chain(tmp_path, "a", "b"), dagman())
    assert [note["job"] for note in notes(tmp_path).values()] == ["7", "7"]
    chain(tmp_path, "a", "b").run(plugin=dagman())
    assert (folder / "cancelled").read_text().splitlines()[0] == "7" and not notes(tmp_path)


class Task:
    """A task of an IPython cluster that has ended before it is asked for."""

    def __init__(self, function, *args):
        self.answer = function(*args)

    def ready(self):
        return True

    def get(self):
        return self.answer

    def abort(self):
        raise AssertionError("nothing is left to abort")


class Lost(Task):
    """One whose engine died."""

    def get(self):
        raise RuntimeError("Engine 0 died while running task")


class Waits(Task):
    """One that no engine takes."""

    def ready(self):
        return False

    def abort(self):
        pass


@pytest.mark.parametrize(("kind", "message"), [(Task, None), (Lost, "Engine 0 died"), (Waits, "has had no engine for")])
def test_an_ipython_cluster_that_loses_its_engines(kind, message, tmp_path, monkeypatch):
    view = SimpleNamespace(apply_async=kind)
    client = SimpleNamespace(ids=[] if kind is Waits else [0], load_balanced_view=lambda: view)
    monkeypatch.setitem(sys.modules, "ipyparallel", SimpleNamespace(Client=lambda **words: client))
    monkeypatch.setattr("os.environ", dict(os.environ))
    plugin = make_plugin(PluginSettings("IPython", {"outage_s": 0.1}), progress=lambda step: None)
    wf = graph(tmp_path, ["a"])
    wf.config["execution"]["poll_sleep_duration"] = 0.05
    if message is None:
        wf.run(plugin=plugin)
        assert [step.state for step in plugin.steps] == ["done"]
    else:
        with pytest.raises(NodesFailed, match=message):
            wf.run(plugin=plugin)


def test_an_ipython_cluster_that_is_not_there(monkeypatch):
    monkeypatch.setitem(sys.modules, "ipyparallel", None)
    with pytest.raises(ValueError, match="pip install ipyparallel"):
        make_plugin(PluginSettings("IPython"))


def test_arguments_of_the_user_win(tmp_path):
    def asked(name, given, **args):
        queue = QUEUES[name](args)
        wanted = queue.defaults(Needs("wf.a", 4, 1000, tmp_path / "a-%j.out"), str(tmp_path / "a.sh"))
        from qsmals.engine.queues.queue import is_given

        words = given.split()
        return " ".join(
            w for names, ws in wanted.items() if not is_given(names, words, joined=queue.joined) for w in ws
        )

    mine = asked("SLURM", "--mem-per-cpu=1G -c2 -J mine -o /dev/null")
    assert mine == f"--chdir={tmp_path} --parsable"
    assert "mem_free" not in asked("SGE", "-l h_vmem=4G") and "-pe" in asked("SGE", "-l h_rt=1:00:00")
    assert "-pe" not in asked("SGE", "", parallel_environment=None)
    assert asked("PBS", "-lselect=1:ncpus=2", dialect="pbspro").count("select") == 0
    assert "mem=1000mb" in asked("PBS", "-l walltime=1:00", dialect="torque")
    assert "span" not in asked("LSF", "-R span[ptile=2]") and "rusage" in asked("LSF", "-R span[ptile=2]")
    with pytest.raises(ValueError, match="no plugin_args sbatch_arguments"):
        engine("SLURM", sbatch_arguments="x")


def write(path, text):
    path.write_text(text)
    return path


def test_plugin_file_as_fmriprep_has_it(tmp_path, cluster):
    yaml = write(tmp_path / "a.yml", "plugin: LegacyMultiProc\nplugin_args: {maxtasksperchild: 1, n_procs: 3}\n")
    settings = load_plugin_file(yaml)
    assert settings == PluginSettings("LegacyMultiProc", {"maxtasksperchild": 1, "n_procs": 3})
    plugin = make_plugin(settings, n_procs=8, memory_gb=2.5)
    assert isinstance(plugin, LocalPlugin) and (plugin.processors, plugin.memory_gb) == (3, 2.5)
    json = write(tmp_path / "a.json", '{"plugin": "SLURM", "plugin_args": {"sbatch_args": "-p x"}}')
    plugin = make_plugin(load_plugin_file(json), n_procs=8, memory_gb=2.5, itk_threads=1)
    assert isinstance(plugin, BatchPlugin) and plugin._user_args == "-p x" and plugin._itk_threads == 1
    assert make_plugin(PluginSettings("Linear"), n_procs=8)._most_jobs == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a", "must be a mapping"),
        ("plugin: [", "cannot be read"),
        ("plugin: MultiProc\nargs: 1", "unknown key args"),
        ("plugin: MultiProc\nplugin_args: 3", "plugin_args must be"),
        ("plugin: Dask", "no engine Dask; use MultiProc"),
        ("plugin: Debug", "runs a Python function"),
        ("plugin: SomaFlow", "no longer has"),
    ],
)
def test_plugin_file_refused(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        load_plugin_file(write(tmp_path / "a.yml", text))
    with pytest.raises(ValueError, match="missing"):
        load_plugin_file(tmp_path / "missing.yml")


@pytest.mark.parametrize(
    ("name", "command"),
    [("SLURMGraph", "sbatch"), ("PBS", "qsub"), ("SGEGraph", "qsub"), ("LSF", "bsub"), ("OAR", "oarsub")],
)
def test_every_engine_is_made_from_a_file(name, command, monkeypatch, tmp_path):
    monkeypatch.delenv("LOGNAME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match=f"needs the command {command}"):
        make_plugin(PluginSettings(name))
    write(tmp_path / command, "#!/bin/sh\n").chmod(0o755)
    plugin = make_plugin(PluginSettings(name), n_procs=2, memory_gb=1, progress=print)
    assert isinstance(plugin, GraphPlugin) == name.endswith("Graph")
    assert plugin.failures == [] and os.environ["LOGNAME"]
