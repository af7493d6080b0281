#!/usr/bin/env python3
"""Who is done, who failed and why, who is missing: from OUTPUT_DIR/logs.

Any Python 3.6 or later; nothing else is needed, so that it runs on a login node. A subject of which the
newest task left no word in logs/summary.json (it was cancelled, or killed) is looked for in the log of that
task and, where the batch system's commands are, in the queue; an older word there counts no more.

    status.py OUTPUT_DIR [--bids BIDS_DIR] [--subjects FILE] [--session-label LABEL ...]
              [--missing [--all] [--queued FILE]]

A subject is done when each of its sessions is: those that BIDS_DIR has, or of these the ones that
--session-label names. A summary of an earlier version does not tell sessions apart.

Exit code: 0 if every subject is done, else 1. With --missing 0, and 2 where the batch system does not say
what is in its queue. Where there is nobody to speak of 2.
"""

import argparse
import getpass
import json
import re
import subprocess
import sys
from datetime import datetime
from functools import lru_cache
from pathlib import Path

# how SLURM, Grid Engine, PBS and LSF put it
KILLED = re.compile(
    r"(CANCELLED AT|DUE TO TIME LIMIT|DUE TO NODE FAILURE|DUE TO PREEMPTION|oom.kill|exceeded memory limit|OOM Killed"
    r"|PBS: job killed|TERM_[A-Z]+|exceeded (?:hard|soft) .*limit)"
)


def read_labels(arguments, entries):
    """Labels with their prefix: of the list, else of the data set, else of the summary's entries."""
    if arguments.subjects:
        words = Path(arguments.subjects).read_text().split()
        return [word if word.startswith("sub-") else "sub-" + word for word in words]
    if arguments.bids:
        return sorted(entry.name for entry in Path(arguments.bids).glob("sub-*") if entry.is_dir())
    return sorted(entries)


def nobody(arguments):
    """Why there are no labels."""
    if arguments.subjects:
        return f"{arguments.subjects} names no subject"
    if arguments.bids:
        return f"{arguments.bids} has no sub-*: it is no BIDS_DIR"
    return f"{arguments.output_dir}/logs/summary.json names no subject: give --bids BIDS_DIR"


def read_entries(output_dir):
    """Entries of the summary by subject; none if no subject has ended yet."""
    try:
        return json.loads(Path(output_dir, "logs", "summary.json").read_text(encoding="utf-8"))["subjects"]
    except FileNotFoundError:
        return {}


def sessions_left(label, entry, bids, chosen):
    """Labels of the sessions of a subject that are not done ('' stands for a subject without sessions)."""
    known = entry.get("sessions") or {}
    folders = [folder.name[4:] for folder in Path(bids, label).glob("ses-*") if folder.is_dir()] if bids else []
    there = set(folders or known or [""]) | ({""} & set(known))
    wanted = {session for session in there if session in chosen} if chosen else there
    if not wanted or not known:  # a label that is nowhere is for qsmals to tell
        return [] if wanted and entry.get("status") == "ok" else sorted(wanted or chosen)
    return sorted(session for session in wanted if known.get(session) != "ok")


class NoAnswer(Exception):
    """A batch system that is there does not say what is in its queue."""


class Job:
    """An array of tasks or a group job that submit.sh submitted: its number as the system has it."""

    def __init__(self, file):
        self.system, self.text = file.parent.parent.name, file.read_text().strip()
        self.number = (re.findall(r"\d+", self.text) or [""])[0]


class Task:
    """The newest task of a subject: a line of subjects.txt in a folder that submit.sh made."""

    def __init__(self, run, index, alone):
        self.run, self.index, self.alone = run, index, alone
        torque = run / f"task.log-{index}"
        self.log = torque if torque.exists() else run / f"task-{index}.log"

    def began(self):
        """When its last attempt began, else when it was submitted, in seconds."""
        try:
            began, _ = (self.run / "attempts" / str(self.index)).read_text().split("\n")[-2].split()
            return int(began)
        except (OSError, IndexError, ValueError):
            return int((self.run / "subjects.txt").stat().st_mtime)

    def ended(self):
        """Exit code of qsmals as text; None if it did not come that far."""
        path = self.run / "ended" / str(self.index)
        return path.read_text().strip() if path.exists() else None

    def killer(self):
        """The batch system's last word in the log, where it killed the task."""
        try:
            lines = self.log.read_text(errors="replace").splitlines()
        except OSError:
            return None
        start = max((i for i, line in enumerate(lines) if ", attempt " in line), default=0)
        words = [line.strip() for line in lines[start:] if KILLED.search(line)]
        return words[-1] if words else None

    def accounting(self):
        """State and exit code in SLURM's accounting; None where there is none."""
        try:
            job = Job(self.run / "job")
        except OSError:
            return None
        return slurm_accounts(job.number).get(self.index) if job.system == "slurm" else None

    def changed(self):
        """When the log was last written, in seconds; 0 if there is none."""
        return self.log.stat().st_mtime if self.log.exists() else 0.0

    def queue(self, queues):
        """What the queue says of the task; None where it is not in it."""
        try:
            job = Job(self.run / "job")
        except OSError:
            return None
        found = queues.get((job.system, job.number, self.index))
        return found or (queues.get((job.system, job.number, 0)) if self.alone else None)  # PBS makes no array of one


def newest_tasks(output_dir):
    """The newest task of each subject."""
    tasks = {}
    for run in sorted(Path(output_dir, "logs").glob("*/*/subjects.txt"), key=lambda path: path.stat().st_mtime):
        labels = run.read_text().split()
        for index, label in enumerate(labels, 1):
            tasks[label] = Task(run.parent, index, len(labels) == 1)
    return tasks


def jobs_of(output_dir):
    """All that was submitted for an OUTPUT_DIR, the oldest first."""
    files = [file for name in ("job", "group_job") for file in Path(output_dir, "logs").glob("*/*/" + name)]
    return [Job(file) for file in sorted(files, key=lambda path: path.stat().st_mtime)]


def ask(command):
    """What a command prints; nothing where it is not there or fails."""
    try:
        return ask_queue(command)
    except NoAnswer:
        return ""


def ask_queue(command, nothing=None):
    """What a command prints; nothing where it is not there, or fails with words that match ``nothing``.

    Raises NoAnswer where it fails in another way.
    """
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60)  # noqa: UP022
    except (FileNotFoundError, PermissionError):
        return ""
    except (OSError, subprocess.SubprocessError) as error:
        raise NoAnswer(f"{command[0]} does not say what is in the queue: {error}") from error
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip() or f"exit code {done.returncode}"
        if nothing and re.search(nothing, said):
            return ""
        raise NoAnswer(f"{command[0]} does not say what is in the queue: {said}")
    return done.stdout.decode(errors="replace")


@lru_cache(maxsize=None)  # noqa: UP033 - Python 3.6 has no cache
def slurm_accounts(number):
    """State and exit code of each task of an array in SLURM's accounting, by index; none where there is none."""
    command = ["env", "SLURM_BITSTR_LEN=0", "sacct"]  # it cuts long lists of indices short
    command += ["--allocations", "--noheader", "--parsable2", "--format=JobID,State,ExitCode", "--jobs", number]
    accounts = {}
    for line in ask(command).splitlines():
        name, state, code = line.split("|")
        indices = name.partition("_")[2].partition("%")[0]  # 3, or [4-6,9%2] of those that never started
        for first, last in re.findall(r"(\d+)(?:-(\d+))?", indices):
            accounts.update(dict.fromkeys(range(int(first), int(last or first) + 1), f"{state}, exit code {code}"))
    return accounts


def slurm_queue():
    """Number, index (0: not one of an array) and state with reason or node of what is in SLURM's queue."""
    for line in ask_queue(["squeue", "--noheader", "--array", "--format=%F|%K|%T|%r|%N"]).splitlines():
        job, index, state, reason, node = line.split("|", 4)
        yield job, int(index) if index.isdigit() else 0, state.lower() + (" on " + node if node else f" ({reason})")


def sge_queue():
    """The same for Grid Engine."""
    for line in ask_queue(["qstat", "-g", "d", "-u", getpass.getuser()]).splitlines():
        words = line.split()
        if len(words) > 7 and words[0].isdigit():
            yield words[0], int(words[-1]) if words[-1].isdigit() else 0, f"in the queue ({words[4]})"


def pbs_queue():
    """The same for PBS Professional and Torque."""
    for block in re.split(r"^Job Id:", ask_queue(["qstat", "-t", "-f"]), flags=re.MULTILINE)[1:]:
        name = re.match(r"\s*(\d+)(?:\[(\d*)\])?", block)
        state = re.search(r"^\s*job_state = (\w)", block, re.MULTILINE)
        if name and state and state.group(1) not in "CFX":  # completed, finished, expired
            yield name.group(1), int(name.group(2) or 0), f"in the queue ({state.group(1)})"


def lsf_queue():
    """The same for LSF."""
    fields = "jobid jobindex stat exec_host delimiter='|'"
    for line in ask_queue(["bjobs", "-noheader", "-o", fields], "(?i)no (unfinished )?job found").splitlines():
        words = [word.strip() for word in line.split("|")]
        if len(words) == 4 and words[0].isdigit():
            host = " on " + words[3] if words[3] not in ("", "-") else ""
            yield words[0], int(words[1]) if words[1].isdigit() else 0, f"in the queue ({words[2]}{host})"


QUEUES = {"slurm": slurm_queue, "sge": sge_queue, "pbs": pbs_queue, "lsf": lsf_queue}


def read_queues(jobs):
    """What the queues say, by system, number and index; only those are asked to which ``jobs`` were given."""
    queues = {}
    for system in sorted({job.system for job in jobs} & set(QUEUES)):
        for number, index, state in QUEUES[system]():
            queues[system, number, index] = state
    return queues


def describe(label, entry, task, queues, sessions):
    """Lines on one subject, of which ``sessions`` are not done; ``entry`` is the one that counts."""
    waiting = task.queue(queues) if task else None
    if waiting:
        return [f"{label}  {waiting}"]
    killer = task.killer() if task and task.ended() != "0" else None
    if killer and (entry is None or task.changed() > when(entry)):
        told = "; it had got to: " + entry["why"] if entry and entry.get("why") else ""
        return [f"{label}  killed  {killer} (see {task.log}){told}"]
    if entry is not None:
        known = entry.get("sessions") or {}
        new = ["ses-" + session for session in sessions if session and session not in known] if known else []
        if new and entry["status"] == "ok":
            return ["{}  not run yet  {}".format(label, ", ".join(new))]
        lines = ["{}  {}  {}".format(label, entry["status"], entry.get("why", "")).rstrip()]
        for failure in entry.get("failures", []):
            crash = failure.get("crash_file")
            lines.append("    {}: {}{}".format(failure["node"], failure["why"], f" (see {crash})" if crash else ""))
        return lines + [f"    {session}: not run yet" for session in new]
    if task is None:
        return [f"{label}  not run yet"]
    see = f" (see {task.log})" if task.log.exists() else ""
    code = task.ended()
    if code is not None:
        return [f"{label}  {'no result:' if code == '0' else 'failed '} exit code {code}{see}"]
    end = task.accounting()
    if end:
        return [f"{label}  killed  {end}{see}"]
    if see:
        return [f"{label}  no result: running, or killed without a word{see}"]
    return [f"{label}  no result: its task has not started, or was taken out of the queue"]


def entry_that_counts(entry, task):
    """The entry; None if the newest task began after it was written and has not ended well.

    One that ended well and wrote no entry, as with --boilerplate-only, leaves the subject as it was.
    """
    old = entry is not None and task is not None and when(entry) < task.began() and task.ended() != "0"
    return None if old else entry


def when(entry):
    """When an entry was written, in seconds; 0 if it does not say."""
    text = entry.get("ended", "")
    try:  # Python 3.6 reads no colon in the offset
        return datetime.strptime(re.sub(r":(\d\d)$", r"\1", text), "%Y-%m-%dT%H:%M:%S%z").timestamp()
    except ValueError:
        return 0.0


def main():
    """Print what was asked for; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output_dir")
    parser.add_argument("--bids")
    parser.add_argument("--subjects")
    parser.add_argument("--session-label", nargs="+", default=[], help="only these sessions count")
    parser.add_argument("--missing", action="store_true", help="only the labels that are neither done nor queued")
    parser.add_argument("--all", action="store_true", help="with --missing: those that are done too")
    parser.add_argument(
        "--queued",
        metavar="FILE",
        help="with --missing: write there what is in the queue, as 'job NUMBER' and 'sub-01'",
    )
    arguments = parser.parse_args()
    entries = read_entries(arguments.output_dir)
    labels = read_labels(arguments, entries)
    if not labels:
        print(f"status.py: {nobody(arguments)}", file=sys.stderr)
        return 2
    chosen = {label[4:] if label.startswith("ses-") else label for label in arguments.session_label}
    tasks, jobs = newest_tasks(arguments.output_dir), jobs_of(arguments.output_dir)
    entries = {label: entry_that_counts(entries.get(label), tasks.get(label)) for label in labels}
    sessions = {label: sessions_left(label, entries[label] or {}, arguments.bids, chosen) for label in labels}
    left = [label for label in labels if sessions[label]]
    try:
        queues = read_queues(jobs)
    except NoAnswer as error:
        print(f"status.py: {error}", file=sys.stderr)
        if arguments.missing:
            return 2
        queues = {}
    if arguments.missing:
        print_missing(labels if arguments.all else left, tasks, jobs, queues, arguments.queued)
        return 0
    for label in left:
        print("\n".join(describe(label, entries[label], tasks.get(label), queues, sessions[label])))
    print(f"{len(labels) - len(left)} of {len(labels)} {'subject is' if len(labels) == 1 else 'subjects are'} done")
    return 1 if left else 0


def print_missing(labels, tasks, jobs, queues, file):
    """Print those of ``labels`` that are not in the queue; write those that are, and the jobs there, into ``file``."""
    numbers = {(system, number) for system, number, _ in queues}
    queued = [f"job {job.text}" for job in jobs if (job.system, job.number) in numbers]
    for label in labels:
        waiting = label in tasks and tasks[label].queue(queues)
        if waiting:
            print(f"{label} is left out: {waiting}", file=sys.stderr)
            queued.append(label)
        else:
            print(label)
    if file:
        Path(file).write_text("".join(line + "\n" for line in queued))


if __name__ == "__main__":
    sys.exit(main())
