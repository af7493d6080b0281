"""Plugin files, and the SLURM engine against commands that behave as a cluster does on a bad day."""

import os
import stat
import sys
import textwrap
from pathlib import Path

import pytest
from nipype import Node, Workflow
from nipype.interfaces.utility import Function

from qsmals.engine.batch import SlurmPlugin
from qsmals.engine.plugin import LocalPlugin
from qsmals.engine.plugins_config import PluginSettings, load_plugin_file, make_plugin
from qsmals.engine.progress import NodesFailed, nipype_settings

# One file under four names. Jobs are run by sbatch itself, at once; the name of the job says how it fares.
CLUSTER = """
    import os, pathlib, subprocess, sys
    here, name, args = pathlib.Path(__file__).parent, pathlib.Path(sys.argv[0]).name, sys.argv[1:]
    state = here / "state"
    def fail(text):
        print(text, file=sys.stderr); sys.exit(1)
    if name == "sbatch":
        with open(here / "asked", "a") as log: log.write(" ".join(args) + "\\n")
        job = [a for a in args if a.startswith("--job-name=")][0]
        if "refused" in job: fail("sbatch: error: Invalid qos specification")
        if not (here / "was_away").exists():
            (here / "was_away").touch(); fail("sbatch: error: Unable to contact slurm controller")
        number = 1 + (len(state.read_text().splitlines()) if state.exists() else 0)
        end = "COMPLETED"
        if "vanishes" in job: end = "OUT_OF_MEMORY"
        elif "waits" in job: end = "PENDING"
        else: subprocess.run(["bash", args[-1]], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        with open(state, "a") as log: log.write(f"{number} {end}\\n")
        print(f"{number};cluster")
    elif name == "squeue":
        if not (here / "was_silent").exists():
            (here / "was_silent").touch(); fail("slurm_load_jobs error: Socket timed out on send/recv operation")
        print(state.read_text() if state.exists() else "")
    elif name == "scontrol":
        found = [l.split()[1] for l in state.read_text().splitlines() if l.split()[0] == args[-1]]
        print(f"JobId={args[-1]} JobState={found[0]} Reason=OutOfMemory ExitCode=0:125")
    elif name == "scancel":
        (here / "cancelled").write_text(" ".join(args))
"""


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """A folder with sbatch, squeue, scontrol and scancel, first on the PATH; LOGNAME is unset."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("sbatch", "squeue", "scontrol", "scancel"):
        script = folder / name
        script.write_text(f"#!{sys.executable}\n" + textwrap.dedent(CLUSTER))
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.delenv("LOGNAME", raising=False)
    return folder


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


def slurm(**args):
    return SlurmPlugin({"poll_s": 0.05, "result_wait_s": 0.2, "progress": lambda step: None, **args})


@pytest.mark.timeout(60)
def test_slurm_names_what_went_wrong_and_goes_on(cluster, tmp_path):
    plugin = slurm(sbatch_args="--partition=long")
    with pytest.raises(NodesFailed) as caught:
        graph(tmp_path, ["works", "vanishes", "refused"], mem_gb=2.0, n_procs=3).run(plugin=plugin)
    why = {failure.node: failure.why for failure in caught.value.failures}
    assert set(why) == {"vanishes", "refused"}
    assert "OUT_OF_MEMORY" in why["vanishes"] and "Invalid qos" in why["refused"]
    assert all(Path(failure.crash_file).exists() for failure in caught.value.failures)
    assert [step.state for step in plugin.steps if step.name == "works"] == ["done"]
    asked = (cluster / "asked").read_text().splitlines()[0]
    for part in ("--partition=long", "--cpus-per-task=3", "--mem=1908M", "OMP_NUM_THREADS=3"):
        assert part in asked
    assert not (cluster / "cancelled").exists()


@pytest.mark.timeout(60)
def test_slurm_leaves_no_job_behind(cluster, tmp_path):
    wf = graph(tmp_path, ["refused", "waits"])
    wf.config["execution"]["stop_on_first_crash"] = "true"
    with pytest.raises(NodesFailed):
        wf.run(plugin=slurm())
    assert (cluster / "cancelled").read_text() == "1"


@pytest.mark.timeout(60)
def test_slurm_takes_no_stale_result(cluster, tmp_path):
    graph(tmp_path, ["vanishes"]).run(plugin=LocalPlugin({"n_procs": 1, "memory_gb": 1, "progress": print}))
    again = graph(tmp_path, ["vanishes"])
    again.get_node("vanishes").inputs.value = 5
    with pytest.raises(NodesFailed, match="OUT_OF_MEMORY"):
        again.run(plugin=slurm())


def test_slurm_arguments_of_the_user_win(cluster):
    node = Node(Function(function=add_one), name="a", n_procs=4)
    node.plugin_args = {"sbatch_args": "--mem-per-cpu=1G -c2 --export=NONE -J mine -o /dev/null"}
    assert slurm()._job_args(node, Path("/tmp")) == node.plugin_args["sbatch_args"].split()


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
    assert isinstance(plugin, SlurmPlugin) and plugin._sbatch_args == "-p x"
    assert make_plugin(PluginSettings("Linear"), n_procs=8)._most_jobs == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a", "must be a mapping"),
        ("plugin: [", "cannot be read"),
        ("plugin: MultiProc\nargs: 1", "unknown key args"),
        ("plugin: MultiProc\nplugin_args: 3", "plugin_args must be"),
        ("plugin: Dask", "no engine Dask; use MultiProc"),
        ("plugin: SLURMGraph", "before anything has run"),
    ],
)
def test_plugin_file_refused(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        load_plugin_file(write(tmp_path / "a.yml", text))
    with pytest.raises(ValueError, match="missing"):
        load_plugin_file(tmp_path / "missing.yml")


@pytest.mark.parametrize(("name", "command"), [("PBS", "qsub"), ("LSF", "bsub"), ("OAR", "oarsub")])
def test_other_engines_report_alike(name, command, monkeypatch, tmp_path):
    monkeypatch.delenv("LOGNAME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match=f"needs the command {command}"):
        make_plugin(PluginSettings(name))
    write(tmp_path / command, "#!/bin/sh\n").chmod(0o755)
    plugin = make_plugin(PluginSettings(name), n_procs=2, progress=print)
    assert type(plugin).__name__ == f"{name}Plugin" and plugin.failures == [] and os.environ["LOGNAME"]
