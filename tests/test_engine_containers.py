"""The files around the image and the cluster: the lock file, and the scripts that submit a study."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from qsmals.engine.summary import Failure, SubjectSummary, merge_summary

ROOT = Path(__file__).resolve().parents[1]
CONTAINERS = ROOT / "containers"


def locked():
    """Entries of the lock file: name -> text with its hashes."""
    text = (ROOT / "containers/requirements.lock").read_text()
    entries = re.findall(
        r"^([a-z0-9][a-z0-9._-]*)==(\S+)((?: \\\n    --hash=sha256:[0-9a-f]{64})+)$", text, re.MULTILINE
    )
    assert len(entries) == len(re.findall(r"^[^\s#]", text, re.MULTILINE)), "every entry has its hashes"
    return {name: version for name, version, _ in entries}


def test_lock_holds_every_dependency():
    names = locked()
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    wanted += (ROOT / "containers/requirements.in").read_text().splitlines()
    for line in wanted:
        if line and not line.startswith("#"):
            name = re.match(r"[A-Za-z0-9._-]+", line)[0].lower()
            assert name in names, f"{name} is missing: run containers/lock.sh"


def test_lock_names_no_registry():
    text = (ROOT / "containers/requirements.lock").read_text()
    assert "://" not in text and "--index-url" not in text and "--find-links" not in text


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A data set of three subjects, an OUTPUT_DIR where the first is done, and submitting commands that only note."""
    for label in ("01", "02", "03"):
        (tmp_path / f"bids/sub-{label}").mkdir(parents=True)
    failure = Failure("sub-02", "unwrapping", "killed by signal 9", "/out/crash.txt")
    entries = [SubjectSummary("sub-01", "ok"), SubjectSummary("sub-02", "failed", "one step", (failure,))]
    merge_summary(tmp_path / "out/logs/summary.json", entries)
    (tmp_path / "bin").mkdir()
    for name, answer in (("sbatch", "$n"), ("qsub", "$n"), ("bsub", "Job <$n> is submitted to queue <normal>.")):
        put(
            tmp_path / "bin" / name,
            f"""#!/bin/sh
            [ "$1" != --version ] || {{ echo pbs_version = 22; exit; }}
            printf "%s|" "$@" >> "$NOTES"; echo >> "$NOTES"; n=$(wc -l < "$NOTES"); echo "{answer}"
            """,
        )
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    monkeypatch.setenv("NOTES", str(tmp_path / "notes"))
    monkeypatch.setenv("PYTHON", sys.executable)
    return tmp_path


def put(path, text):
    path.write_text("\n".join(line.strip() for line in text.splitlines()))
    path.chmod(0o755)


def submit(study, *args, system="slurm"):
    command = ["bash", CONTAINERS / system / "submit.sh", *args]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def asked(study):
    return [line.split("|") for line in (study / "notes").read_text().splitlines()]


needs_bash = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")


@needs_bash
def test_submit_asks_for_what_is_missing(study):
    done = submit(
        study, "--mem", "8G", "--throttle", "5", "--args", "-p long", study / "bids", study / "out", "--", "-v"
    )
    assert done.returncode == 0, done.stderr
    array, group = asked(study)
    assert "--array=1-2%5" in array and "--mem=8G" in array and array[array.index("-p") + 1] == "long"
    assert "--dependency=afterany:1" in group and group[-2].endswith("group.sh")
    (run,) = (study / "out/logs/slurm").iterdir()
    assert (run / "subjects.txt").read_text() == "sub-02\nsub-03\n"
    assert (run / "options").read_text() == "-v\0"


@needs_bash
def test_submit_with_nothing_missing_runs_the_group(study):
    merge_summary(study / "out/logs/summary.json", [SubjectSummary(f"sub-0{i}", "ok") for i in (2, 3)])
    done = submit(study, study / "bids", study / "out")
    assert done.returncode == 0 and "every subject is done" in done.stdout
    assert "--dependency" not in (study / "notes").read_text()
    assert submit(study, "--nonsense", study / "bids", study / "out").returncode == 2
    assert submit(study, "--mem", "much", study / "bids", study / "out").returncode == 2


@needs_bash
@pytest.mark.parametrize(
    ("system", "array", "group"),
    [
        ("sge", "-t 1-2 -tc 20 mem_free=4096M,h_rt=4:00:00 -pe smp 4", "-hold_jid 1"),
        ("pbs", "-J 1-2%20 select=1:ncpus=4:mem=16384mb walltime=4:00:00", "-W depend=afterany:1"),
        ("lsf", "-J qsmals[1-2]%20 rusage[mem=16384MB] -W 4:00", "-w ended(1)"),
    ],
)
def test_other_systems_are_asked_in_their_own_words(study, system, array, group):
    done = submit(study, study / "bids", study / "out", system=system)
    assert done.returncode == 0, done.stderr
    tasks, last = (" ".join(words) for words in asked(study))
    assert all(word in tasks.split() for word in array.split()), tasks
    assert group in last, last


@needs_bash
@pytest.mark.parametrize(
    "index", [{"SLURM_ARRAY_TASK_ID": "2"}, {"SGE_TASK_ID": "2"}, {"PBS_ARRAY_INDEX": "2"}, {"LSB_JOBINDEX": "2"}]
)
def test_a_task_runs_its_own_subject_with_what_the_job_has(study, index, tmp_path):
    put(study / "bin/qsmals", '#!/bin/sh\nprintf "%s " "$@"\nexit 3\n')
    assert submit(study, "--mem", "10G", study / "bids", study / "out", "--", "--sloppy").returncode == 0
    (run,) = (study / "out/logs/slurm").iterdir()
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "SGE", "PBS", "LSB"))}
    environ |= index | {"NSLOTS": "3", "TMPDIR": str(tmp_path)}
    done = subprocess.run([run / "task.sh"], env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr
    words = done.stdout.splitlines()[1]
    assert f"{study}/bids {study}/out participant --participant-label sub-03 -w {tmp_path}/qsmals-" in words
    assert "--nprocs 3 --mem 9216MiB --sloppy" in words
    assert (run / "ended/2").read_text() == "3\n"
    assert not list(tmp_path.glob("qsmals-*"))


def status(study, *words):
    command = [sys.executable, CONTAINERS / "cluster/status.py", study / "out", "--bids", study / "bids", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_status_says_who_failed_and_why(study):
    done = status(study)
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        "sub-02  failed  one step",
        "    unwrapping: killed by signal 9 (see /out/crash.txt)",
        "sub-03  not run yet",
        "1 of 3 subjects are done",
    ]


def test_status_reads_the_log_of_a_task_that_left_no_word(study):
    run = study / "out/logs/slurm/20260101T000000-aaaa"
    (run / "ended").mkdir(parents=True)
    (run / "subjects.txt").write_text("sub-02\nsub-03\n")
    log = "2026-01-01T00:00:00 sub-03 on n1, job 7, attempt 1\n"
    killed = "slurmstepd: error: *** JOB 7 ON n1 CANCELLED AT 2026-01-01T00:00:05 DUE TO TIME LIMIT ***"
    (run / "task-2.log").write_text(f"{log}{killed}\n")
    assert f"sub-03  killed  {killed} (see {run}/task-2.log)" in status(study).stdout
    (run / "task-2.log").write_text(f"{killed}\n{log}")  # that was the attempt before
    assert "sub-03  no result: running, or killed without a word" in status(study).stdout
    (run / "ended/2").write_text("70\n")
    assert "sub-03  failed  exit code 70" in status(study).stdout


def test_what_is_in_the_queue_is_not_missing(study):
    run = study / "out/logs/slurm/20260101T000000-aaaa"
    run.mkdir(parents=True)
    (run / "subjects.txt").write_text("sub-02\nsub-03\n")
    (run / "job").write_text("7\n")
    put(study / "bin/squeue", "#!/bin/sh\necho '7|2|RUNNING|None|n1'\necho '7|1-2|PENDING|Resources|'\n")
    missing = status(study, "--missing")
    assert missing.stdout == "sub-02\n" and "sub-03 is left out: running on n1" in missing.stderr
    assert "sub-03  running on n1" in status(study).stdout
