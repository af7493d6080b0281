"""The files around the image and the cluster: the lock file, and the scripts that submit a study."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

from qsmals import __version__
from qsmals.cli.parser import build_parser, parse
from qsmals.engine.lock import this_process
from qsmals.engine.summary import Failure, SubjectSummary, merge_summary, now

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
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = project["project"]["dependencies"] + project["build-system"]["requires"]
    wanted += (ROOT / "containers/requirements.in").read_text().splitlines()
    for line in wanted:
        if line and not line.startswith("#"):
            name = re.match(r"[A-Za-z0-9._-]+", line)[0].lower()
            assert name in names, f"{name} is missing: run containers/lock.sh"


def test_the_image_is_built_from_the_lock_alone():
    recipe = (ROOT / "Dockerfile").read_text()
    installs = re.findall(r"pip install (.*?)(?: \\)?$", recipe, re.MULTILINE)
    assert len(installs) == 2 and all("--no-deps" in options for options in installs)
    assert "--require-hashes" in installs[0] and "--no-build-isolation" in installs[1]


def test_the_image_has_the_version_of_the_package():
    assert re.findall(r"^ARG VERSION=(.*)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE) == [__version__]


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
    for name in ("squeue", "qstat", "bjobs", "sacct"):  # nothing is in the queue
        put(tmp_path / "bin" / name, "#!/bin/sh\n")
    put(tmp_path / "bin/scontrol", "#!/bin/sh\necho 'MaxArraySize            = 1001'\n")
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    monkeypatch.setenv("NOTES", str(tmp_path / "notes"))
    monkeypatch.setenv("PYTHON", sys.executable)
    return tmp_path


def put(path, text):
    path.write_text("\n".join(line.strip() for line in text.splitlines()))
    path.chmod(0o755)


def submit(study, *args, system="slurm", cwd=None):
    command = ["bash", CONTAINERS / system / "submit.sh", *args]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)


def submitted(study, *args, **more):
    """The folder of a submission that went well."""
    done = submit(study, *args, **more)
    assert done.returncode == 0, done.stderr
    return max((study / "out/logs").glob("*/*/subjects.txt"), key=lambda path: path.stat().st_mtime_ns).parent


def job_environ(**given):
    """The environment of a job that knows of no batch system but what is given."""
    leave = ("SLURM", "SGE", "PBS", "LSB", "JOB_ID", "NSLOTS", "NCPUS", "APPTAINERENV", "SINGULARITYENV")
    return {name: value for name, value in os.environ.items() if not name.startswith(leave)} | given


def run_job(run, level="task", **given):
    return subprocess.run([run / f"{level}.sh"], env=job_environ(**given), capture_output=True, text=True, check=False)


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
    ("system", "usual", "own"),
    [
        ("slurm", "--cpus-per-task=1 --mem=4G --time=1:00:00", "--cpus-per-task=2 --mem=8G --time=2:30:00"),
        ("sge", "mem_free=4096M,h_rt=1:00:00", "mem_free=4096M,h_rt=2:30:00 -pe smp 2"),
        ("pbs", "select=1:ncpus=1:mem=4096mb walltime=1:00:00", "select=1:ncpus=2:mem=8192mb walltime=2:30:00"),
        ("lsf", "-n 1 rusage[mem=4096MB] -W 1:00", "-n 2 rusage[mem=8192MB] -W 2:30"),
    ],
)
def test_the_group_job_has_its_own_size(study, system, usual, own):
    size = ("--group-cpus", "2", "--group-mem", "8G", "--group-time", "2:30:00")
    for words, expected in (((), usual), (size, own)):
        assert submit(study, *words, study / "bids", study / "out", system=system).returncode == 0
        last = " ".join(asked(study)[-1]).split()
        assert all(word in last for word in expected.split()), last
    done = submit(study, "--group-mem", "8", study / "bids", study / "out", system=system)
    assert done.returncode == 2 and "--group-mem 8: give a whole number" in done.stderr
    assert submit(study, "--group-cpus", "0", study / "bids", study / "out", system=system).returncode == 2


@needs_bash
@pytest.mark.parametrize("again", [(), ("--again",)])
def test_a_data_set_or_list_without_subjects_is_an_error(study, again):
    (study / "empty").mkdir()
    (study / "list").touch()
    for words, told in (
        ((study / "empty", study / "out"), f"{study}/empty has no sub-*"),
        (("--subjects", study / "list", study / "bids", study / "out"), f"{study}/list names no subject"),
    ):
        done = submit(study, *again, *words)
        assert done.returncode == 1 and told in done.stderr and "nothing was submitted" in done.stderr
    assert not (study / "notes").exists()
    (study / "out/logs/summary.json").unlink()
    command = [sys.executable, CONTAINERS / "cluster/status.py", study / "out"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "give --bids" in done.stderr and done.stdout == ""


@needs_bash
@pytest.mark.parametrize("answer", ["echo refused >&2; exit 1", "exit 0"])
@pytest.mark.parametrize("system", ["slurm", "sge", "pbs", "lsf"])
def test_tasks_that_are_refused_end_the_submission(study, system, answer):
    for name in ("sbatch", "qsub", "bsub"):
        put(study / "bin" / name, f'#!/bin/sh\n[ "$1" = --version ] && exit\necho "$@" >> "$NOTES"\n{answer}\n')
    done = submit(study, study / "bids", study / "out", system=system)
    assert done.returncode == 1 and done.stdout == ""
    assert "did not take the tasks" in done.stderr and ("refused" in done.stderr) == ("refused" in answer)
    assert len((study / "notes").read_text().splitlines()) == 1, "no group job"
    assert not list((study / "out/logs").glob("*/*/subjects.txt")), "nothing that looks like tasks"


@needs_bash
@pytest.mark.parametrize("system", ["slurm", "sge", "pbs", "lsf"])
def test_a_group_job_that_is_refused_is_told(study, system):
    for name, ok in (("sbatch", "7"), ("qsub", "7"), ("bsub", "Job <7> is submitted")):
        put(study / "bin" / name, f'#!/bin/sh\ncase "$*" in *group.sh*) exit 1 ;; *) echo "{ok}" ;; esac\n')
    done = submit(study, study / "bids", study / "out", system=system)
    assert done.returncode == 1 and "2 subjects: job 7" in done.stdout and "group job" not in done.stdout
    assert "did not take the group job" in done.stderr


@needs_bash
@pytest.mark.parametrize(
    ("system", "arrays", "after"),
    [
        ("slurm", ("--array=1-2%2", "--array=1-3%3"), "--dependency=afterany:1:2"),
        ("sge", ("-t 1-2 -tc 2", "-t 1-3 -tc 3"), "-hold_jid 1,2"),
        ("pbs", ("-J 1-2%2", "-J 1-3%3"), "-W depend=afterany:1:2"),
        ("lsf", ("-J qsmals[1-2]%2", "-J qsmals[1-3]%3"), "-w ended(1) && ended(2)"),
    ],
)
def test_more_subjects_than_an_array_takes_are_several_arrays(study, system, arrays, after, tmp_path):
    put(study / "bin/qsmals", '#!/bin/sh\necho "$@"\n')
    for label in ("04", "05", "06"):
        (study / f"bids/sub-{label}").mkdir()
    done = submit(study, "--max-array", "3", "--throttle", "5", study / "bids", study / "out", system=system)
    assert done.returncode == 0, done.stderr
    *tasks, group = (" ".join(words) for words in asked(study))
    assert len(tasks) == 2 and all(word in words for word, words in zip(arrays, tasks, strict=True)), tasks
    assert f"{after} " in group, group
    first, second = sorted((study / f"out/logs/{system}").iterdir(), key=lambda run: int((run / "job").read_text()))
    assert (first / "subjects.txt").read_text() == "sub-02\nsub-03\n"
    assert (second / "subjects.txt").read_text() == "sub-04\nsub-05\nsub-06\n"
    assert [line.split(", logs")[0] for line in done.stdout.splitlines()[:2]] == [
        "2 subjects: job 1",
        "3 subjects: job 2",
    ]
    assert "--participant-label sub-05 " in run_job(second, SLURM_ARRAY_TASK_ID="2", TMPDIR=str(tmp_path)).stdout


@needs_bash
def test_torque_waits_for_arrays_and_jobs_in_different_words(study, monkeypatch):
    monkeypatch.setenv("PBS_DIALECT", "torque")
    put(study / "bin/qsub", '#!/bin/sh\nprintf "%s|" "$@" >> "$NOTES"; echo >> "$NOTES"\n'
        'n=$(wc -l < "$NOTES"); case "$*" in *" -t "*) n="$n[]" ;; esac; echo "$n.head"\n')  # fmt: skip
    (study / "bids/sub-04").mkdir()
    assert submit(study, "--max-array", "2", study / "bids", study / "out", system="pbs").returncode == 0
    assert "depend=afterany:1.head,afteranyarray:2[].head" in asked(study)[-1]


@needs_bash
def test_the_largest_array_is_asked_of_slurm(study):
    put(study / "bin/scontrol", "#!/bin/sh\necho 'MaxArraySize            = 2'\n")
    assert submit(study, study / "bids", study / "out").stdout.count("1 subject: job") == 2
    put(study / "bin/scontrol", "#!/bin/sh\nexit 1\n")
    assert "--array=1-2%20" in submitted_words(study)
    for word in ("--throttle", "--max-array"):
        assert submit(study, word, "0", study / "bids", study / "out").returncode == 2


def submitted_words(study):
    """Words of the first job of a submission that goes well."""
    (study / "notes").unlink()
    submitted(study, study / "bids", study / "out")
    return asked(study)[0]


@needs_bash
def test_an_array_that_is_refused_after_another_is_told(study):
    put(study / "bin/sbatch", '#!/bin/sh\necho >> "$NOTES"; [ $(wc -l < "$NOTES") -lt 2 ] && echo 7\n')
    done = submit(study, "--max-array", "1", study / "bids", study / "out")
    assert done.returncode == 1 and "1 subject: job 7" in done.stdout
    assert "did not take the tasks of 1 subject" in done.stderr and "stays: 7" in done.stderr
    assert len(list((study / "out/logs").glob("*/*/subjects.txt"))) == 1


# the queue with task 2 of job 1 and the group job, in the words of each system; of the array the first has ended
QUEUED = {
    "slurm": ("squeue", "1|2|RUNNING|None|n1\n2|N/A|PENDING|Dependency|\n9|1|RUNNING|None|n1"),
    "sge": (
        "qstat",
        "job-ID  prior   name       user         state submit/start at     queue          slots ja-task-ID\n"
        "--------------------------------------------------------------------------------------------------\n"
        "      1 0.55500 qsmals     me           r     11/24/2026 10:00:00 all.q@n1           4 2\n"
        "      2 0.00000 qsmals-gro me           hqw   11/24/2026 10:00:00                    1",
    ),
    "pbs": (
        "qstat",
        "Job Id: 1[].head\n    Job_Name = qsmals\n    job_state = B\n\nJob Id: 1[1].head\n    job_state = X\n\n"
        "Job Id: 1[2].head\n    Job_Name = qsmals\n    job_state = R\n\nJob Id: 2.head\n    job_state = H\n",
    ),
    "lsf": ("bjobs", "1|2|RUN|n1\n2|0|PEND|-"),
}


def queue_as(study, system):
    command, shown = QUEUED[system]
    put(study / "bin" / command, f"#!/bin/sh\ncat <<'X'\n{shown}\nX\n")
    return command


@needs_bash
@pytest.mark.parametrize(
    ("system", "after"),
    [
        ("slurm", "--dependency=afterany:1:2"),
        ("sge", "-hold_jid 1,2"),
        ("pbs", "-W depend=afterany:1:2"),
        ("lsf", "-w ended(1) && ended(2)"),
    ],
)
def test_what_is_queued_is_not_done_and_the_group_waits_for_it(study, system, after):
    run = submitted(study, study / "bids", study / "out", system=system)
    assert (run / "group_job").read_text() == "2\n"
    queue_as(study, system)
    merge_summary(study / "out/logs/summary.json", [SubjectSummary("sub-02", "ok", ended=now())])
    done = submit(study, study / "bids", study / "out", system=system)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("nothing to submit: 1 subject queued or running, every other is done\ngroup job 3")
    assert "sub-03 is left out: " in done.stderr and "done" not in done.stderr
    assert f"{after} " in " ".join(asked(study)[-1])
    assert "sub-03  " in status(study).stdout and (
        "on n1" in status(study).stdout or "in the queue" in status(study).stdout
    )
    merge_summary(study / "out/logs/summary.json", [SubjectSummary("sub-02", "failed")])
    done = submit(study, study / "bids", study / "out", system=system)
    assert "1 subject: job 4" in done.stdout
    group = " ".join(asked(study)[-1])
    assert all(word in re.split(r"\W+", group) for word in "124"), "after all three"


@needs_bash
@pytest.mark.parametrize("system", ["slurm", "sge", "pbs", "lsf"])
def test_a_queue_that_does_not_answer_ends_the_submission(study, system):
    submitted(study, study / "bids", study / "out", system=system)
    command, before = QUEUED[system][0], len(asked(study))
    put(study / "bin" / command, "#!/bin/sh\necho Unable to contact the controller >&2\nexit 1\n")
    done = submit(study, study / "bids", study / "out", system=system)
    assert done.returncode == 1 and len(asked(study)) == before
    assert f"{command} does not say what is in the queue: Unable to contact" in done.stderr
    assert "nothing was submitted" in done.stderr
    said = status(study)
    assert said.returncode == 1 and "does not say" in said.stderr and "subjects are done" in said.stdout
    assert status(study, "--missing").returncode == 2


def set_sessions(study, **sessions):
    """What the summary says of the sessions of sub-02, which has A and B; the other subjects are done."""
    for label in "AB":
        (study / f"bids/sub-02/ses-{label}").mkdir(exist_ok=True)
    worst = next((word for word in ("failed", "invalid", "incomplete") if word in sessions.values()), "ok")
    entries = [SubjectSummary("sub-02", worst, sessions=sessions), SubjectSummary("sub-03", "ok", sessions={"": "ok"})]
    merge_summary(study / "out/logs/summary.json", entries)


@pytest.mark.parametrize(
    ("sessions", "chosen", "missing"),
    [
        ({"A": "ok", "B": "ok"}, (), ""),
        ({"A": "ok"}, (), "sub-02\n"),
        ({"A": "ok"}, ("A",), ""),
        ({"A": "ok"}, ("ses-B",), "sub-02\n"),
        ({"A": "failed", "B": "ok"}, (), "sub-02\n"),
        ({"A": "failed", "B": "ok"}, ("B",), ""),
        ({"A": "ok", "B": "ok", "C": "failed"}, (), ""),  # C is no longer there
        ({}, (), ""),  # of a version that did not tell
        ({}, ("B",), ""),
        ({"A": "ok", "B": "ok"}, ("Z",), "sub-01\nsub-02\nsub-03\n"),
    ],
)
def test_a_subject_is_done_when_all_its_sessions_are(study, sessions, chosen, missing):
    set_sessions(study, **sessions)
    for label in ("01", "03"):  # they have the chosen sessions, and these are done
        for session in "AB":
            (study / f"bids/sub-{label}/ses-{session}").mkdir()
        merge_summary(
            study / "out/logs/summary.json", [SubjectSummary(f"sub-{label}", "ok", sessions={"A": "ok", "B": "ok"})]
        )
    words = ["--session-label", *chosen] if chosen else []
    assert status(study, "--missing", *words).stdout == missing
    assert status(study, *words).returncode == bool(missing)


def test_a_new_session_is_not_run_yet(study):
    set_sessions(study, A="ok")
    assert "sub-02  not run yet  ses-B\n" in status(study).stdout
    set_sessions(study, A="failed")
    assert "sub-02  failed\n    ses-B: not run yet\n" in status(study).stdout


@needs_bash
def test_the_sessions_among_the_options_are_those_that_count(study):
    set_sessions(study, A="ok", B="failed")
    for label in ("01", "03"):
        (study / f"bids/sub-{label}").rmdir()
    for words, what in (
        (["--session-label", "A"], "every subject is done"),
        (["--session_label=A", "-v"], "every subject is done"),
        (["-v", "--session-id", "A", "--sloppy"], "every subject is done"),
        (["--session-label", "A", "B"], "1 subject: job"),
        (["--session-label", "A", "--session-label", "B"], "1 subject: job"),
        ([], "1 subject: job"),
    ):
        assert what in submit(study, study / "bids", study / "out", "--", *words).stdout, words
    text = (CONTAINERS / "cluster/submit.sh").read_text()
    (action,) = (a for a in build_parser()._actions if a.dest == "selection.session_label")
    assert f"            {' | '.join(action.option_strings)}) taking=yes" in text


def test_status_asks_nothing_of_qsmals(study):
    command = [sys.executable, "-S", "-I", CONTAINERS / "cluster/status.py", study / "out"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={})
    assert done.returncode == 1 and "1 of 2 subjects are done" in done.stdout, done.stderr


def test_an_empty_queue_of_lsf_is_an_answer(study):
    submitted(study, study / "bids", study / "out", system="lsf")
    put(study / "bin/bjobs", "#!/bin/sh\necho No unfinished job found >&2\nexit 255\n")
    assert status(study, "--missing").stdout == "sub-02\nsub-03\n"


@needs_bash
@pytest.mark.parametrize(
    "index", [{"SLURM_ARRAY_TASK_ID": "2"}, {"SGE_TASK_ID": "2"}, {"PBS_ARRAY_INDEX": "2"}, {"LSB_JOBINDEX": "2"}]
)
def test_a_task_runs_its_own_subject_with_what_the_job_has(study, index, tmp_path):
    put(study / "bin/qsmals", '#!/bin/sh\nprintf "%s " "$@"\nexit 3\n')
    assert submit(study, "--mem", "10G", study / "bids", study / "out", "--", "--sloppy").returncode == 0
    (run,) = (study / "out/logs/slurm").iterdir()
    done = run_job(run, **index, NSLOTS="3", TMPDIR=str(tmp_path))
    assert done.returncode == 3, done.stderr
    words = done.stdout.splitlines()[1]
    assert f"{study}/bids {study}/out participant --participant-label sub-03 -w {tmp_path}/qsmals-" in words
    assert "--nprocs 3 --mem 9216MiB --sloppy" in words
    assert (run / "ended/2").read_text() == "3\n"
    assert not list(tmp_path.glob("qsmals-*"))


@pytest.fixture
def image(study):
    """An image, and commands that note how they were to run it and what of the environment would reach it."""
    program = f"""#!{sys.executable}
import json, os, sys
prefix = os.path.basename(sys.argv[0]).upper() + "ENV_"
inside = {{name.removeprefix(prefix): value for name, value in os.environ.items() if name.startswith(prefix)}}
assert "--cleanenv" in sys.argv
with open({str(study / "seen")!r}, "w") as file:
    json.dump([sys.argv, inside], file)
"""
    for name in ("apptainer", "singularity"):
        (study / "bin" / name).write_text(program)
        (study / "bin" / name).chmod(0o755)
    (study / "qsmals.sif").touch()
    return study / "qsmals.sif"


def seen_by(image):
    """Words of the command that ran the image, and the environment inside."""
    return json.loads((image.parent / "seen").read_text())


def bound(image):
    words, _ = seen_by(image)
    return [words[i + 1] for i, word in enumerate(words) if word == "-B"]


@needs_bash
@pytest.mark.parametrize("program", ["apptainer", "singularity"])
@pytest.mark.parametrize(
    ("names", "again", "job"),
    [
        ({"SLURM_JOB_ID": "8", "SLURM_ARRAY_TASK_ID": "2"}, {"SLURM_RESTART_COUNT": "1"}, "8"),
        ({"JOB_ID": "7", "SGE_TASK_ID": "2"}, {}, "7[2]"),
        ({"PBS_JOBID": "7[2].server", "PBS_ARRAY_INDEX": "2"}, {}, "7[2].server"),
        ({"LSB_JOBID": "7", "LSB_JOBINDEX": "2"}, {}, "7[2]"),
    ],
)
def test_the_lock_knows_the_attempts_of_a_task_in_an_image(study, image, monkeypatch, program, names, again, job):
    if program == "singularity":
        (study / "bin/apptainer").unlink()
        if shutil.which("apptainer"):
            pytest.skip("Apptainer is here, and goes first")
    run = submitted(study, "--image", image, study / "bids", study / "out")
    attempts, logs = [], []
    for more in ({}, again):
        done = run_job(run, **names, **more)
        assert done.returncode == 0, done.stderr
        logs.append(done.stdout)
        with monkeypatch.context() as patch:
            patch.setattr(os, "environ", seen_by(image)[1])
            attempts.append(this_process(flocked=False))
    assert [attempt.job for attempt in attempts] == [job, job]
    assert [attempt.restarts for attempt in attempts] == [0, 1]
    assert "attempt 1\n" in logs[0] and "attempt 2\n" in logs[1]


@needs_bash
@pytest.mark.parametrize("level", ["task", "group"])
@pytest.mark.parametrize("folder", ["gone", "file"])
def test_a_tmpdir_that_is_not_on_the_node_is_not_used(study, tmp_path, level, folder):
    put(study / "bin/qsmals", '#!/bin/sh\necho "TMPDIR=$TMPDIR, $*"\nexit 3\n')
    (tmp_path / "file").touch()
    done = run_job(submitted(study, study / "bids", study / "out"), level, TMPDIR=str(tmp_path / folder))
    assert done.returncode == 3, done.stderr
    assert "TMPDIR=/tmp, " in done.stdout and " -w /tmp/qsmals-" in done.stdout


@needs_bash
def test_a_task_that_does_not_reach_qsmals_leaves_its_code_and_removes_nothing(study, tmp_path):
    run = submitted(study, study / "bids", study / "out")
    put(study / "bin/mktemp", "#!/bin/sh\nexit 1\n")
    (tmp_path / "mine").mkdir()  # some sites call a folder of each user WORK
    for level in ("task", "group"):
        assert run_job(run, level, WORK=str(tmp_path / "mine")).returncode == 1
    assert (run / "ended/1").read_text() == "1\n"
    assert (tmp_path / "mine").is_dir()


# notes its work folder, and works on
WORKS = """#!/bin/sh
while [ "$1" != -w ]; do shift; done
echo "$2" > {study}/work.part && mv {study}/work.part {study}/work
sleep 60
"""


def wait_for(path):
    end = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < end, f"{path} does not come"
        time.sleep(0.02)
    return path


@needs_bash
@pytest.mark.skipif(shutil.which("flock") is None, reason="needs flock")
def test_what_a_killed_task_left_is_removed_by_the_next_and_what_is_in_use_is_not(study, tmp_path):
    put(study / "bin/qsmals", WORKS.format(study=study))
    run = submitted(study, study / "bids", study / "out")
    disk = tmp_path / "disk"
    names = {"NSLOTS": "1", "TMPDIR": str(disk), "JOB_ID": "7", "SGE_TASK_ID": "1"}
    for folder in ("qsmals-6-mine", "qsmals-5-far"):  # not of these scripts; of another node
        (disk / folder).mkdir(parents=True)
    (disk / "qsmals-5-far/.job").write_text("another-node\n")
    other = names | {"SGE_TASK_ID": "2"}  # of the same job on the same node
    with subprocess.Popen([run / "task.sh"], env=job_environ(**names), start_new_session=True) as first:
        try:
            left = Path(wait_for(study / "work").read_text().strip())
            assert left.parent == disk
            put(study / "bin/qsmals", "#!/bin/sh\nexit 0\n")
            assert run_job(run, **other).returncode == 0
            assert left.is_dir(), "its task is still running"
        finally:
            os.killpg(first.pid, signal.SIGKILL)
    assert left.is_dir() and not (run / "ended/1").exists(), "nothing of it was there to tidy up"
    subprocess.run(["flock", "--wait", "30", left / ".job", "true"], check=True)  # the last of its processes is gone
    done = run_job(run, **other)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in disk.iterdir()) == ["qsmals-5-far", "qsmals-6-mine"]


@needs_bash
def test_paths_among_the_options_reach_the_image(study, image):
    home = study / "my files"
    for folder in ("fs", "prior", "brain", "MNI152NLin6Asym", "native/01"):
        (home / folder).mkdir(parents=True)
    tables = ("labels.tsv", "b.tsv", "own native.tsv")
    for file in ("filter.json", "a.nii.gz", "b.nii.gz", "run=1.toml", "extra.txt", "gone.toml", *tables):
        (home / file).touch()
    (home / "data").symlink_to(home / "filter.json")  # as in a DataLad data set
    options = ["--reference", "brain", "-d", "freesurfer=fs", "prior=./prior", "--bids-filter-file", "data",
               "--atlas", "one=a.nii.gz,labels.tsv,MNI152NLin6Asym", "--atlas=two=b.nii.gz",
               "--qc-thresholds=gone.toml", "--atlas", "three=native/{subject}/x.nii.gz,own native.tsv,T1w",
               "--config-file", "run=1.toml", "-dthird=../my files/fs/../prior", "-d", f"out={study}/out",
               "none=/no/such/folder", "word=fs2", "-v"]  # fmt: skip
    run = submitted(study, "--image", image, "--bind", "extra.txt", study / "bids", study / "out", "--", *options,
                    cwd=home)  # fmt: skip
    assert (run / "options").read_text().split("\0")[:-1] == [
        "--reference", "brain", "-d", f"freesurfer={home}/fs", f"prior={home}/prior", "--bids-filter-file",
        f"{home}/data", "--atlas", f"one={home}/a.nii.gz,{home}/labels.tsv,MNI152NLin6Asym",
        f"--atlas=two={home}/b.nii.gz", f"--qc-thresholds={home}/gone.toml", "--atlas",
        f"three={home}/native/{{subject}}/x.nii.gz,{home}/own native.tsv,T1w", "--config-file", f"{home}/run=1.toml",
        f"-dthird={home}/prior", "-d", f"out={study}/out", "none=/no/such/folder", "word=fs2", "-v",
    ]  # fmt: skip
    (home / "gone.toml").unlink()
    done = run_job(run)
    assert done.returncode == 0, done.stderr
    files = ("a.nii.gz", "b.nii.gz", "b.tsv", "data", "extra.txt", "fs", "labels.tsv", "native", "own native.tsv",
             "prior", "run=1.toml")  # fmt: skip
    *read_only, bids, out, _ = bound(image)
    assert read_only == [f"{home}/{file}:{home}/{file}:ro" for file in files]
    assert (bids, out) == (f"{study}/bids:{study}/bids:ro", f"{study}/out:{study}/out")
    words, _ = seen_by(image)
    assert f"three={home}/native/{{subject}}/x.nii.gz,{home}/own native.tsv,T1w" in words


@needs_bash
def test_the_options_are_those_of_the_group_job_too(study, image):
    (study / "limits.toml").touch()
    (study / "bids/sub-01/log.toml").write_text('[selection]\nparticipant_label = ["02"]\n')
    (study / "out/sub-04").mkdir()
    options = ["--qc-thresholds", "limits.toml", "--sloppy"]
    for more, labels in ([], ()), (["--config-file=bids/sub-01/log.toml"], ("01", "02", "03", "04")):
        run = submitted(study, "--image", image, study / "bids", study / "out", "--", *options, *more, cwd=study)
        assert run_job(run, "group").returncode == 0
        words, _ = seen_by(image)
        settings = parse(words[words.index(str(image)) + 1 :]).settings
        assert settings.behaviour.qc_thresholds == str(study / "limits.toml") and settings.behaviour.sloppy
        assert settings.selection.participant_label == labels, "all, whomever the file names"
        assert f"{study}/limits.toml:{study}/limits.toml:ro" in bound(image)


@needs_bash
@pytest.mark.parametrize("name", ["a,b", "a:b"])
def test_a_path_that_apptainer_cannot_bind_is_told(study, image, name):
    (study / name).mkdir()
    for words in (
        [study / "bids", study / "out", "--", "-d", f"fs={study / name}"],
        ["--bind", study / name, study / "bids", study / "out"],
        ["--work", study / name, study / "bids", study / "out"],
        [study / "bids", study / name],
    ):
        done = submit(study, "--image", image, *words)
        assert done.returncode == 2
        assert f"{study / name}: Apptainer cannot bind" in done.stderr
    assert not (study / "out/logs/slurm").exists() and not (study / "notes").exists(), "nothing was begun"
    assert submit(study, study / "bids", study / "out", "--", "-d", f"fs={study / name}").returncode == 0


@needs_bash
@pytest.mark.parametrize("words", [["-w", "/work"], ["-w/work"], ["--work-dir=/work"]])
def test_the_work_folder_is_no_option_of_qsmals_here(study, words):
    done = submit(study, study / "bids", study / "out", "--", *words)
    assert done.returncode == 2 and "--work" in done.stderr


@needs_bash
def test_whom_to_run_is_no_option_of_qsmals_here(study):
    (action,) = (a for a in build_parser()._actions if a.dest == "selection.participant_label")
    for name in action.option_strings:
        for words in ([name, "01"], [f"{name}=01"], ["-v", name, "01", "02"]):
            done = submit(study, study / "bids", study / "out", "--", *words)
            assert done.returncode == 2 and "--subjects" in done.stderr, words
    assert not (study / "notes").exists()


def test_submit_knows_the_options_that_name_files():
    text = (CONTAINERS / "cluster/submit.sh").read_text()
    known = set(re.findall(r"-[\w-]+", text.partition("names_files() {")[2].partition("*)")[0]))
    takes_files = [action for action in build_parser()._actions if re.search("FILE|PATH|DIR", action.metavar or "")]
    assert known == {word for action in takes_files for word in action.option_strings} - {"-w", "--work-dir"}


@needs_bash
@pytest.mark.parametrize("size", ["1.5G", "16384", "08G", "-1G", "0G", "00", "G", "1P", "much", ""])
def test_memory_is_a_whole_number_with_a_unit(study, size):
    done = submit(study, "--mem", size, study / "bids", study / "out")
    assert done.returncode == 2
    assert done.stderr.startswith(f"submit.sh: --mem {size}: give a whole number")
    assert not (study / "notes").exists()


@needs_bash
@pytest.mark.parametrize(("size", "mib"), [("1500K", 2), ("512M", 512), ("3GB", 3072), ("1T", 1048576), ("2g", 2048)])
def test_memory_may_have_any_unit(study, size, mib):
    run = submitted(study, "--mem", size, study / "bids", study / "out")
    assert f"QSMALS_MEM_MIB={mib}\n" in (run / "settings").read_text()


@needs_bash
def test_the_whole_node_is_for_slurm_to_give(study):
    put(study / "bin/qsmals", '#!/bin/sh\nprintf "%s " "$@"\n')
    run = submitted(study, "--mem", "0", study / "bids", study / "out")
    assert "--mem=0" in asked(study)[0]
    for given in ({}, {"SLURM_MEM_PER_NODE": "0"}):
        done = run_job(run, **given)
        assert done.returncode == 0 and "--mem" not in done.stdout, done.stderr
    assert "--mem 900MiB" in run_job(run, SLURM_MEM_PER_NODE="1000").stdout
    assert submit(study, "--mem", "0", study / "bids", study / "out", system="pbs").returncode == 2


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


LONG_AGO = "2026-01-01T00:00:00+00:00"


@needs_bash
def test_what_the_newest_task_did_counts_and_not_an_older_word(study):
    summary = study / "out/logs/summary.json"
    (study / "bids/sub-04").mkdir()
    merge_summary(summary, [SubjectSummary(f"sub-0{i}", "ok", ended=LONG_AGO) for i in (1, 2, 3)])
    merge_summary(summary, [SubjectSummary("sub-04", "failed", "an old reason", ended=LONG_AGO)])
    run = submitted(study, "--again", study / "bids", study / "out")
    put(study / "bin/squeue", "#!/bin/sh\necho '1|1|RUNNING|None|n1'\n")
    waiting = "no result: its task has not started, or was taken out of the queue"
    assert status(study).stdout.splitlines() == [
        "sub-01  running on n1",
        *(f"sub-0{i}  {waiting}" for i in (2, 3, 4)),
        "0 of 4 subjects are done",
    ]
    put(study / "bin/squeue", "#!/bin/sh\n")
    for index, code in ((2, 2), (3, 0), (4, 137)):
        put(study / "bin/qsmals", f"#!/bin/sh\nexit {code}\n")
        run_job(run, SLURM_JOB_ID=str(index), SLURM_ARRAY_TASK_ID=str(index))
    killed = "slurmstepd: error: Detected 1 oom_kill event in StepId=1.batch."
    (run / "task-1.log").write_text(f"2026-11-20T10:00:00 sub-01 on n1, job 1, attempt 1\n{killed}\n")
    assert status(study).stdout.splitlines() == [
        f"sub-01  killed  {killed} (see {run}/task-1.log)",
        "sub-02  failed  exit code 2",
        "sub-04  failed  exit code 137",
        "1 of 4 subjects are done",
    ]
    assert (submitted(study, study / "bids", study / "out") / "subjects.txt").read_text() == "sub-01\nsub-02\nsub-04\n"
    merge_summary(summary, [SubjectSummary(f"sub-0{i}", "ok", ended=now()) for i in (1, 2, 4)])
    assert status(study).stdout == "4 of 4 subjects are done\n"


@needs_bash
@pytest.mark.parametrize(
    "names", [{"SLURM_JOB_ID": "8", "SLURM_ARRAY_TASK_ID": "1"}, {"JOB_ID": "7", "SGE_TASK_ID": "1"}]
)
def test_a_word_of_the_attempt_before_is_old(study, names):
    put(study / "bin/qsmals", "#!/bin/sh\nexit 143\n")
    run = submitted(study, study / "bids", study / "out")
    run_job(run, **names)
    stopped = SubjectSummary("sub-02", "failed", "stopped by SIGTERM", ended=now())
    merge_summary(study / "out/logs/summary.json", [stopped])
    assert "sub-02  failed  stopped by SIGTERM\n" in status(study).stdout
    put(study / "bin/date", f"#!/bin/sh\necho {int(time.time()) + 60}\n")
    put(study / "bin/qsmals", "#!/bin/sh\nexit 137\n")
    run_job(run, **names)
    assert "sub-02  failed  exit code 137\n" in status(study).stdout


def test_a_task_that_ended_well_without_a_word_is_no_failure(study):
    run = study / "out/logs/slurm/20260101T000000-aaaa"
    (run / "ended").mkdir(parents=True)
    (run / "subjects.txt").write_text("sub-03\n")
    (run / "ended/1").write_text("0\n")
    assert "sub-03  no result: exit code 0\n" in status(study).stdout


def test_the_accounting_is_asked_once_for_an_array(study):
    run = study / "out/logs/slurm/20260101T000000-aaaa"
    run.mkdir(parents=True)
    for label in ("04", "05", "06"):
        (study / f"bids/sub-{label}").mkdir()
    (run / "subjects.txt").write_text("".join(f"sub-0{i}\n" for i in (2, 3, 4, 5, 6)))
    (run / "job").write_text("7\n")
    put(
        study / "bin/sacct",
        """#!/bin/sh
        echo "$*" >> "$NOTES"
        echo "7_1|OUT_OF_MEMORY|0:125"
        echo "7_2|FAILED|9:0"
        echo "7_[3-4%20]|CANCELLED by 1000|0:0"
        """,
    )
    assert status(study).stdout.splitlines() == [
        "sub-02  killed  OUT_OF_MEMORY, exit code 0:125",
        "sub-03  killed  FAILED, exit code 9:0",
        "sub-04  killed  CANCELLED by 1000, exit code 0:0",
        "sub-05  killed  CANCELLED by 1000, exit code 0:0",
        "sub-06  no result: its task has not started, or was taken out of the queue",
        "1 of 6 subjects are done",
    ]
    (words,) = (study / "notes").read_text().splitlines()
    assert words.endswith("--jobs 7")


def test_what_is_in_the_queue_is_not_missing(study):
    run = study / "out/logs/slurm/20260101T000000-aaaa"
    run.mkdir(parents=True)
    (run / "subjects.txt").write_text("sub-02\nsub-03\n")
    (run / "job").write_text("7\n")
    put(study / "bin/squeue", "#!/bin/sh\necho '7|2|RUNNING|None|n1'\necho '7|1-2|PENDING|Resources|'\n")
    missing = status(study, "--missing")
    assert missing.stdout == "sub-02\n" and "sub-03 is left out: running on n1" in missing.stderr
    assert "sub-03  running on n1" in status(study).stdout
