"""Batch systems that behave as real ones do on a bad day: one file under the names of all their commands.

Jobs are run at once by the command that submits them; the name of a job says how it fares: ``vanishes``
(ends without a word), ``waits`` (never gets its turn), ``stuck`` (will never run, and the system knows),
``refused``, ``slow`` (runs only once nothing more is refused for now), ``late`` (SLURM: the same, and the
answer to its submission is lost). The first submission meets a controller that is away, the first question
is not answered; :func:`refuse` makes more submissions fail, and :func:`free` gives what waits its turn.
"""

import stat
import sys
from pathlib import Path

COMMANDS = {
    "SLURM": ("sbatch", "squeue", "scontrol", "scancel"),
    "SGE": ("qsub", "qstat", "qacct", "qdel"),
    "PBS": ("qsub", "qstat", "qdel"),
    "Torque": ("qsub", "qstat", "qdel"),
    "LSF": ("bsub", "bjobs", "bkill"),
    "OAR": ("oarsub", "oarstat", "oardel"),
    "Condor": ("condor_submit", "condor_submit_dag", "condor_q", "condor_history", "condor_rm"),
}

PROGRAM = r"""
import json, pathlib, re, subprocess, sys, time
here, name, args = pathlib.Path(__file__).parent, pathlib.Path(sys.argv[0]).name, sys.argv[1:]
notes = here / "state.json"
jobs = json.loads(notes.read_text()) if notes.exists() else {}

def fail(text, code=1):
    print(text, file=sys.stderr)
    sys.exit(code)

def once(word):
    if (here / word).exists():
        return False
    (here / word).touch()
    return True

def note(job, state):
    jobs[job] = state
    notes.write_text(json.dumps(jobs))

def script_and_name():
    if name == "condor_submit":
        text = pathlib.Path(args[-1]).read_text()
        return re.search(r"'(.+)'", text)[1], re.search(r'batch_name = "(.+)"', text)[1], text
    script = args[-1].split()[-1]
    words = {"sbatch": "--job-name=", "qsub": "-N", "bsub": "-J", "oarsub": "-n"}[name]
    joined = [a.removeprefix(words) for a in args if words.endswith("=") and a.startswith(words)]
    return script, (joined or [args[args.index(words) + 1]])[0], ""

def left(word):
    # whether the next one fails, of as many as the file says
    file = here / word
    count = int(file.read_text()) if file.exists() else 0
    if count:
        file.write_text(str(count - 1))
    return count > 0

def put_by(job, script):
    (here / f"slow-{job}").write_text(script)
    note(job, "WAITS")

def catch_up():
    if any((here / word).exists() and int((here / word).read_text()) for word in ("full", "away")):
        return
    for file in here.glob("slow-*"):
        done = subprocess.run(["bash", file.read_text()], capture_output=True)
        note(file.name.removeprefix("slow-"), "FAILED" if done.returncode else "DONE")
        file.unlink()

def submit(refusal, away, full, answer):
    script, title, text = script_and_name()
    with open(here / "asked", "a") as log:
        log.write(" ".join(args) + " | " + text.replace("\n", ";") + "\n")
    if "refused" in title:
        fail(refusal)
    if left("away") or once("was_away"):
        fail(away)
    if left("full"):
        fail(full)
    before = re.findall(r"afterok:([\w.:]+)|-hold_jid (\S+)|done\((\d+)\)|-a (\d+)", " ".join(args))
    before = [n for group in before for part in group if part for n in re.split("[:,]", part)]
    job = str(1 + len(jobs))
    place = [title, *(a.removeprefix("--chdir=") for a in args if a.startswith("--chdir="))]
    (here / f"place-{job}").write_text("|".join(place))
    if "slow" in title or "late" in title:
        put_by(job, script)
        if "late" in title:
            fail("sbatch: error: Batch job submission failed: Socket timed out on send/recv operation")
        print(answer.format(job))
        return
    if any(jobs[n.split(".")[0]] != "DONE" for n in before) and name != "qsub":
        state = "NEVER"
    elif "vanishes" in title:
        state = "KILLED"
    elif ("waits" in title and not (here / "free").exists()) or "stuck" in title:
        state = "WAITS" if "waits" in title else "STUCK"
    else:
        done = subprocess.run(["bash", script], capture_output=True, text=True)
        state = "FAILED" if done.returncode else "DONE"
    note(job, state)
    if "dawdles" in title:
        time.sleep(1.5)
    print(answer.format(job))

def silent(text):
    if once("was_silent"):
        fail(text)

def cancel():
    with open(here / "cancelled", "a") as log:
        log.write(" ".join(args) + "\n")
    for job in args:
        if jobs.get(job.split(".")[0]) in ("WAITS", "STUCK"):
            note(job.split(".")[0], "KILLED")

if name in ("squeue", "qstat", "bjobs", "oarstat", "condor_q") and "%Z" not in " ".join(args):
    catch_up()
queued = {job: state for job, state in jobs.items() if state in ("WAITS", "STUCK")}
"""

SYSTEMS = {
    "SLURM": r'''
words = {"DONE": "COMPLETED", "FAILED": "FAILED", "KILLED": "OUT_OF_MEMORY", "WAITS": "PENDING", "STUCK": "PENDING",
         "NEVER": "CANCELLED"}
if name == "sbatch":
    submit("sbatch: error: Invalid qos specification", "sbatch: error: Unable to contact slurm controller",
           "sbatch: error: QOSMaxSubmitJobPerUserLimit\nsbatch: error: Batch job submission failed: Job violates "
           "accounting/QOS policy (job submit limit, user's size and/or time limits)", "{};cluster")
elif name == "squeue" and "%Z" in args[-1]:
    for job in queued:
        print(f"{job}|{(here / f'place-{job}').read_text()}")
elif name == "squeue":
    silent("slurm_load_jobs error: Socket timed out on send/recv operation")
    for job, state in jobs.items():
        print(job, words[state], "DependencyNeverSatisfied" if state == "STUCK" else "None")
elif name == "scontrol":
    state = jobs[args[-1]]
    print(f"JobId={args[-1]} JobState={words[state]} Reason=DependencyNeverSatisfied ExitCode=0:125")
else:
    cancel()
''',
    "SGE": r'''
if name == "qsub":
    submit("Unable to run job: job rejected: the requested parallel environment \"smp\" does not exist.",
           "error: unable to contact qmaster using port 6444 on host \"head\"",
           "Unable to run job: job rejected: only 2000 jobs are allowed per user (current job count: 2000).\nExiting.",
           "{}")
elif name == "qstat" and args[0] == "-j":
    state = jobs[args[1]]
    print("error reason    1:          can't create output file" if state == "STUCK" else "Following jobs do not exist")
elif name == "qstat":
    silent("error: failed receiving gdi request response for mid=1 (got syncron message receive timeout error).")
    if queued:
        print("job-ID  prior   name       user   state submit/start at     queue   slots ja-task-ID\n" + "-" * 99)
    for job, state in queued.items():
        print(f"{job:>7} 0.55500 q-wf.some  me     {'Eqw' if state == 'STUCK' else 'qw':5} 11/24/2026 10:00:00  1")
elif name == "qacct":
    print("failed       100 : assumedly after job\nexit_status  137                  (Killed)\nmaxvmem      7.9GB")
else:
    cancel()
''',
    "PBS": r'''
def block(job, state, more=""):
    print(f"Job Id: {job}.head\n    Job_Name = x\n    job_state = {state}\n{more}")
if "--version" in args:
    print("pbs_version = 22.05.11" if PRO else "Version: 6.1.3")
elif name == "qsub":
    submit("qsub: Unauthorized Request", "qsub: cannot connect to server head (errno=15034)",
           "qsub: would exceed complex's per-user limit of jobs in 'Q' state" if PRO else
           "qsub: submit error (Maximum number of jobs already in queue for user MSG=total number of current user's "
           "jobs exceeds the queue limit: user me@head, queue batch)", "{}.head")
elif name == "qstat":
    numbers = [a.split(".")[0] for a in args if not a.startswith("-")]
    if "-x" in args or (len(numbers) == 1 and not PRO and jobs[numbers[0]] == "KILLED" and not once("first_look")):
        block(numbers[0], "F" if PRO else "C", "    Exit_status = 137\n    comment = job killed: mem exceeded limit\n")
        sys.exit(0)
    silent("qstat: cannot connect to server head (errno=111) Connection refused")
    for job in numbers:
        if jobs[job] == "WAITS" or jobs[job] == "STUCK":
            block(job, "Q")
        elif not PRO:
            block(job, "C")
        else:
            print(f"qstat: {job}.head Job has finished, use -x or -H to obtain its history", file=sys.stderr)
    sys.exit(35 if PRO else 0)
else:
    cancel()
''',
    "LSF": r'''
if name == "bsub":
    submit("Bad or empty queue. Job not submitted.", "LSF is down. Please wait ...",
           "User <me>: Pending job threshold reached. Retrying in 60 seconds...",
           "Job <{}> is submitted to default queue <normal>.")
elif name == "bjobs" and args[0] == "-l":
    print("Job <1>, Job Name <wf.x>, User <me>, Project <default>\n Tue Nov 24: Exited with exit code 137. The CPU\n"
          "                     time used is 1.2 seconds.\n Tue Nov 24: Completed <exit>; TERM_MEMLIMIT: job killed\n"
          "                     after reaching LSF memory usage limit.")
elif name == "bjobs":
    silent("LSF is down. Please wait ...")
    print("JOBID   USER    STAT  QUEUE      FROM_HOST   EXEC_HOST   JOB_NAME   SUBMIT_TIME")
    for job in args[1:]:
        state = jobs[job]
        word = {"DONE": "DONE", "WAITS": "PEND", "STUCK": "PEND"}.get(state, "EXIT")
        print(job, "me", word, "normal head n1 x Nov 24")
else:
    cancel()
''',
    "OAR": r'''
if name == "oarsub":
    submit("[ADMISSION RULE] Error: no such queue", "DB connection refused, try again",
           "[ADMISSION RULE] Error: you cannot have more than 50 jobs waiting in the queue at the same time.",
           "[ADMISSION RULE] Modify resource\nOAR_JOB_ID={}")
elif name == "oarstat" and "-f" in args:
    print("Job_Id: 1\n    state = Error\n    message = walltime or memory\n    exit_code = 9 (9,0,0)")
elif name == "oarstat":
    silent("Cannot connect to the database")
    state = jobs[args[-1]]
    print(json.dumps({args[-1]: {"DONE": "Terminated", "WAITS": "Waiting", "STUCK": "Waiting"}.get(state, "Error")}))
else:
    cancel()
''',
    "Condor": r'''
if name == "condor_submit":
    submit("ERROR: Executable file does not exist", "ERROR: Failed to connect to local queue manager",
           "ERROR: Number of submitted jobs would exceed MAX_JOBS_PER_OWNER", "{0}.0 - {0}.0")
elif name == "condor_submit_dag":
    with open(here / "asked", "a") as log:
        log.write(" ".join(args) + "\n")
    if left("away"):
        fail("ERROR: Failed to connect to local queue manager")
    text, told, ends = pathlib.Path(args[-1]).read_text(), "", {}
    (here / "dag").write_text(text)
    before = {}
    for parents, child in re.findall(r"PARENT (.+) CHILD (\S+)", text):
        before[child] = parents.split()
    for node, description in re.findall(r"JOB (\S+) (\S+)", text):
        spec = pathlib.Path(description).read_text()
        if any(ends[other] != 5 for other in before.get(node, [])):
            ends[node], why = 7, ""
        elif "vanishes" in spec:
            ends[node], why = 6, "Job proc (7.0.0) failed with signal 9"
        else:
            done = subprocess.run(["bash", re.search(r"'(.+)'", spec)[1]], capture_output=True)
            ends[node], why = (6 if done.returncode else 5), ""
        told += f'[\n  Type = "NodeStatus";\n  Node = "{node}";\n  NodeStatus = {ends[node]}; /* "X" */\n'
        told += f'  StatusDetails = "{why}";\n  RetryCount = 0;\n]\n'
    pathlib.Path(re.search(r"NODE_STATUS_FILE (\S+)", text)[1]).write_text(told)
    note("7", "WAITS")
    print("1 job(s) submitted to cluster 7.")
elif name == "condor_q" and args[0].isdigit() and len(args) == 4:
    print("7 2")
elif name == "condor_q" and args[0].isdigit():
    if jobs[args[0]] == "STUCK":
        print("5, \"Job has gone over memory limit of 512 megabytes\", undefined, undefined, undefined")
elif name == "condor_q":
    silent("-- Failed to fetch ads from: <127.0.0.1:9618>")
    for job, state in queued.items():
        print(job, {"WAITS": 1, "STUCK": 5}[state])
elif name == "condor_history":
    print("3, undefined, \"via condor_rm\", undefined, 9")
else:
    cancel()
''',
}  # fmt: skip


def install(folder: Path, system: str) -> Path:
    """Write the commands of ``system`` into ``folder``, which is made."""
    folder.mkdir()
    own = SYSTEMS["PBS" if system == "Torque" else system]
    text = f"#!{sys.executable}\nPRO = {system == 'PBS'}\n{PROGRAM}\n{own}"
    for name in COMMANDS[system]:
        script = folder / name
        script.write_text(text)
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return folder


def free(folder: Path) -> None:
    """Let jobs that wait have their turn, from the next submission on."""
    (folder / "free").touch()


def refuse(folder: Path, why: str, times: int) -> None:
    """Let the next submissions fail: ``away``, the system does not answer; ``full``, it has jobs enough."""
    (folder / why).write_text(str(times))
