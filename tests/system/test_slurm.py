"""Studies on a real SLURM: an array with its group job, tasks that are cancelled, killed or lose their node."""

import sys
from pathlib import Path

from tests.system.machine import ROOT, must, record
from tests.system.slurm import Cluster

SUBMIT = ROOT / "containers/slurm/submit.sh"
STATUS = ROOT / "containers/cluster/status.py"

# In place of qsmals, so that what happens around it can be told exactly: the file BEHAVIOUR/sub-01 says what
# the subject does; notes of every start and end are kept, with the node.
PROGRAM = """#!{python}
import os, pathlib, signal, sys, time
sys.path.insert(0, {root!r})
from qsmals.engine.summary import SubjectSummary, merge_summary, now
bids, out, level = sys.argv[1:4]
bids, out = pathlib.Path(bids), pathlib.Path(out)
def note(text):
    with open(out / "notes", "a") as notes:
        notes.write(text + "\\n")
node, work = os.uname().nodename, pathlib.Path(sys.argv[sys.argv.index("-w") + 1])
assert work.is_dir() and str(work).startswith("/tmp/")
if level == "group":
    note("group")
    sys.exit(0)
label = sys.argv[sys.argv.index("--participant-label") + 1]
note(f"{{label}} {{node}} start")
def stop(*_):
    merge_summary(out / "logs/summary.json", [SubjectSummary(label, "failed", "stopped by SIGTERM", ended=now())])
    sys.exit(143)
signal.signal(signal.SIGTERM, stop)
do = (bids / "behaviour" / label).read_text()
if do == "sleep":
    time.sleep(3600)
if do == "eat":
    kept = []
    while True:
        kept.append(bytearray(50_000_000)); kept[-1][::4096] = b"x" * len(kept[-1][::4096]); time.sleep(0.5)
if do == "wait":
    while not (bids / "go").exists():
        time.sleep(0.2)
bad = do == "fail"
entry = SubjectSummary(label, "failed" if bad else "ok", "one step" if bad else "", ended=now())
merge_summary(out / "logs/summary.json", [entry])
note(f"{{label}} {{node}} end")
sys.exit(bad)
"""


class Study:
    """Subjects that behave as they are told, submitted with the scripts of this repository."""

    def __init__(self, folder: Path, cluster: Cluster, behaviour: dict[str, str]) -> None:
        self.bids, self.out, self.cluster = folder / "bids", folder / "out", cluster
        program = folder / "venv/bin/qsmals"
        program.parent.mkdir(parents=True)
        program.write_text(PROGRAM.format(python=sys.executable, root=str(ROOT)))
        program.chmod(0o755)
        self.behave(behaviour)

    def behave(self, behaviour: dict[str, str]) -> None:
        """What each subject does when it is run."""
        (self.bids / "behaviour").mkdir(parents=True, exist_ok=True)
        for label, word in behaviour.items():
            (self.bids / label).mkdir(exist_ok=True)
            (self.bids / "behaviour" / label).write_text(word)

    def submit(self, *words: str) -> tuple[str, str]:
        """Numbers of the array and of the group job."""
        shown = must("bash", SUBMIT, "--venv", self.bids.parent / "venv", "--cpus", "1", "--mem", "300M", "--args",
                     "--kill-on-invalid-dep=yes", *words, self.bids, self.out, env=self.cluster.env)  # fmt: skip
        array = shown.split(": job ")[1].split(",")[0] if ": job " in shown else ""
        return array, shown.split("group job ")[1].split(",")[0]

    def notes(self) -> list[str]:
        """What was started and ended."""
        file = self.out / "notes"
        return file.read_text().splitlines() if file.exists() else []

    def status(self) -> str:
        """What the summary for people says."""
        return self.cluster.run(sys.executable, STATUS, self.out, "--bids", self.bids).stdout

    def wait_until_running(self, label: str) -> str:
        """The node that a subject runs on."""
        self.cluster.wait(lambda: any(n.startswith(label) for n in self.notes()), f"{label} to start", 60)
        return next(n for n in reversed(self.notes()) if n.startswith(label)).split()[1]


def test_nodes_share_neither_name_nor_tmp(cluster: Cluster, shared: Path) -> None:
    """The nodes of the test cluster have nothing in common but the shared disk."""
    out = shared / "names"
    wait = ("--wait", "--mem=50", "--output=/dev/null")
    script = f"#!/bin/sh\nhostname >> {out}; ls /tmp | wc -l >> {out}\n"
    (shared / "job.sh").write_text(script)
    for node in cluster.nodes:
        must("sbatch", *wait, f"--nodelist={node}", shared / "job.sh", env=cluster.env)
    assert out.read_text().split() == ["n1", "0", "n2", "0"]


def test_a_study_in_which_much_goes_wrong(cluster: Cluster, shared: Path) -> None:
    """SLURM scripts: of six tasks one fails, one is cancelled, one killed for memory, one loses its node; again."""
    ways = {"sub-01": "ok", "sub-02": "wait", "sub-03": "ok", "sub-04": "fail", "sub-05": "sleep", "sub-06": "eat"}
    study = Study(shared / "study", cluster, ways)
    array, group = study.submit()
    lost = study.wait_until_running("sub-02")
    study.wait_until_running("sub-05")
    must("scancel", f"{array}_5", env=cluster.env)
    cluster.wait(lambda: f"{array}_5" not in cluster.busy(), "the cancelled task to end", 60)
    cluster.kill_node(lost)
    must("scontrol", "update", f"NodeName={lost}", "State=DOWN", "Reason=power", env=cluster.env)
    (study.bids / "go").touch()
    cluster.wait(lambda: group not in cluster.busy(), "the group job", 180)
    notes = study.notes()
    assert notes[-1] == "group"
    starts = [note.split()[1] for note in notes if note.startswith("sub-02") and note.endswith("start")]
    assert starts[0] == lost and starts[-1] != lost, "the task of the lost node ran again on the other"
    said = study.status()
    assert "3 of 6 subjects are done" in said
    assert "sub-04  failed  one step" in said
    assert "sub-05  killed" in said and "CANCELLED" in said
    assert "sub-06  killed" in said and "memory limit" in said
    (log,) = (study.out / "logs/slurm").glob("*/group.log")
    assert log.read_text() == said, "the group job has said it in its log"
    record("status", f"$ containers/cluster/status.py /data/out --bids /data/bids\n{said}", data=study.bids.parent)
    # the node is back, the causes are gone: the same command runs what is missing, and only that
    cluster.start_node(lost)
    must("scontrol", "update", f"NodeName={lost}", "State=RESUME", env=cluster.env)
    cluster.wait(lambda: lost in cluster.idle(), f"{lost} to be back", 60)
    study.behave({"sub-04": "ok", "sub-05": "ok", "sub-06": "ok"})
    before = len(notes)
    _, group = study.submit()
    cluster.wait(lambda: group not in cluster.busy(), "the group job", 120)
    again = {note.split()[0] for note in study.notes()[before:]}
    assert again == {"sub-04", "sub-05", "sub-06", "group"}
    assert study.status() == "6 of 6 subjects are done\n"
    _, group = study.submit()
    cluster.wait(lambda: group not in cluster.busy(), "the group job", 60)
    assert study.notes()[-2:] == ["group", "group"]


def test_time_that_is_over_is_told_before(cluster: Cluster, shared: Path) -> None:
    """SLURM scripts: a task that is signalled before its time is over ends by itself and says so."""
    study = Study(shared / "late", cluster, {"sub-01": "sleep"})
    array, group = study.submit()
    study.wait_until_running("sub-01")
    must("scancel", "--batch", "--signal=TERM", f"{array}_1", env=cluster.env)  # what --signal=B:TERM@120 does
    cluster.wait(lambda: group not in cluster.busy(), "the group job", 60)
    assert "sub-01" in study.status() and "stopped by SIGTERM" in study.status()
    assert "ended with exit code 143" in next((study.out / "logs/slurm").glob("*/task-1.log")).read_text()


def test_what_is_in_the_queue_is_not_submitted_again(cluster: Cluster, shared: Path) -> None:
    """SLURM scripts: a second submission leaves out what still runs, and its group job waits for that."""
    study = Study(shared / "twice", cluster, {"sub-01": "wait", "sub-02": "ok"})
    study.submit()
    study.wait_until_running("sub-01")
    cluster.wait(lambda: "sub-02" in str(study.notes()), "sub-02", 60)
    assert "sub-01  running on n" in study.status()
    study.submit()
    (study.bids / "go").touch()
    cluster.wait(lambda: not cluster.busy(), "all jobs", 60)
    notes = study.notes()
    assert sum(note.startswith("sub-01") for note in notes) == 2, notes
    assert notes[-2:] == ["group", "group"], "both after all tasks"


def test_more_subjects_than_an_array_takes(cluster: Cluster, shared: Path) -> None:
    """SLURM scripts: five subjects in arrays of two at most; the group job comes after all of them."""
    study = Study(shared / "arrays", cluster, {f"sub-0{i}": "ok" for i in range(1, 6)})
    study.submit("--max-array", "2")
    cluster.wait(lambda: not cluster.busy(), "all jobs", 120)
    notes = study.notes()
    assert sorted(note.split()[0] for note in notes if note.endswith("end")) == [f"sub-0{i}" for i in range(1, 6)]
    assert notes.index("group") == len(notes) - 1
    assert len(list((study.out / "logs/slurm").glob("*/job"))) == 3
    assert study.status() == "5 of 5 subjects are done\n"
