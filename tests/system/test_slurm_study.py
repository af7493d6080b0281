"""Six small subjects through the array of a real SLURM, and two of them once more through nipype's SLURM engine."""

import json
import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest

from tests.system.machine import CHEAP, ROOT, copy_as, files_of, must, qsmals, record
from tests.system.slurm import Cluster

LABELS = tuple(f"sub-{n:02d}" for n in range(1, 7))


@pytest.fixture(scope="module")
def prior(whole: Path, shared: Path) -> Path:
    """Registrations of each of the six: those of the one head that they all have."""
    six = shared / "prior_six"
    for label in LABELS:
        copy_as(label, whole, six)
    return six


@pytest.fixture(scope="module")
def study(subject: Path, shared: Path) -> Path:
    """Six people with the same head."""
    six = shared / "six"
    six.mkdir()
    shutil.copy(subject / "dataset_description.json", six)
    for label in LABELS:
        copy_as(label, subject, six)
    return six


def maps_and_tables(out: Path, label: str) -> dict[str, bytes]:
    """Images and tables of a subject."""
    found = files_of(out / label, leave_out=("log/*", "figures/*", "*.json"))
    assert any(name.endswith("_Chimap.tsv") for name in found)
    return found


def test_six_subjects_through_the_array_and_the_group_job(
    cluster: Cluster, study: Path, prior: Path, shared: Path
) -> None:
    """SLURM scripts: six subjects from scans to the group's tables, working files on the disks of the nodes."""
    out = shared / "array"
    program = Path(sys.executable).parent.parent
    options = (*CHEAP, "-d", f"prior={prior}", "--skip-registration")
    shown = must("bash", ROOT / "containers/slurm/submit.sh", "--venv", program, "--cpus", "2", "--mem", "3G",
         study, out, "--", *options, env=cluster.env)  # fmt: skip
    cluster.wait(lambda: not cluster.busy(), "the array and its group job", 1500)
    (log,) = (out / "logs/slurm").glob("*/group.log")
    assert "6 of 6 subjects are done" in log.read_text(), log.read_text()
    one = (log.parent / "task-1.log").read_text()
    command = "$ containers/slurm/submit.sh --venv VENV --cpus 2 --mem 3G /data/six /data/array -- ..."
    tail = "\n".join([*one.splitlines()[:8], "...", *one.splitlines()[-4:]])
    record("array", f"{command}\n{shown}\n$ cat task-1.log\n{tail}\n\n$ cat group.log\n{log.read_text()}", data=shared)
    table = pd.read_csv(next((out / "group").glob("*als*Chimap.tsv")), sep="\t")
    assert set(table["participant_id"]) == set(LABELS)
    assert not list(out.glob("work/*")), "working files were on the nodes"


def test_the_slurm_engine_gives_the_same_bytes(cluster: Cluster, study: Path, prior: Path, shared: Path) -> None:
    """`--use-plugin` with SLURM: every step a job of its own; maps and tables are those of the array, byte for byte."""
    out, settings = shared / "engine", shared / "slurm.yml"
    settings.write_text("plugin: SLURM\nplugin_args: {sbatch_args: --time=30, poll_s: 1, max_jobs: 6}\n")
    words = (*CHEAP, "-d", f"prior={prior}", "--skip-registration", "--participant-label", "01", "02")
    done = qsmals(study, out, "participant", *words, "--use-plugin", settings, "-w", shared / "engine_work",
                  env=cluster.env)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads((out / "logs/summary.json").read_text())["subjects"]
    assert {name: entry["status"] for name, entry in summary.items()} == {"sub-01": "ok", "sub-02": "ok"}
    for label in LABELS[:2]:
        assert maps_and_tables(out, label) == maps_and_tables(shared / "array", label)
    assert cluster.busy() == {}
