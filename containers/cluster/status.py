#!/usr/bin/env python3
"""Who is done, who failed and why, who is missing: from OUTPUT_DIR/logs.

Any Python 3.6 or later; nothing else is needed, so that it runs on a login node. A subject that left no
word in logs/summary.json (its task was cancelled, or killed) is looked for in the log of its newest task
and, where SLURM's commands are, in the queue.

    status.py OUTPUT_DIR [--bids BIDS_DIR | --subjects FILE] [--missing [--all]]

Exit code: 0 if every subject is done, else 1 (with --missing always 0).
"""

import argparse
import json
import re
import subprocess
import sys
from datetime import datetime
from pathlib import Path

# how SLURM, Grid Engine, PBS and LSF put it
KILLED = re.compile(
    r"(CANCELLED AT|DUE TO TIME LIMIT|DUE TO NODE FAILURE|DUE TO PREEMPTION|oom.kill|exceeded memory limit|OOM Killed"
    r"|PBS: job killed|TERM_[A-Z]+|exceeded (?:hard|soft) .*limit)"
)


def read_labels(arguments):
    """Labels with their prefix: of the list, else of the data set, else of the summary."""
    if arguments.subjects:
        words = Path(arguments.subjects).read_text().split()
        return [word if word.startswith("sub-") else "sub-" + word for word in words]
    if arguments.bids:
        return sorted(entry.name for entry in Path(arguments.bids).glob("sub-*") if entry.is_dir())
    return None


def read_entries(output_dir):
    """Entries of the summary by subject; none if no subject has ended yet."""
    try:
        return json.loads(Path(output_dir, "logs", "summary.json").read_text(encoding="utf-8"))["subjects"]
    except FileNotFoundError:
        return {}


class Task:
    """The newest task of a subject: a line of subjects.txt in a folder that submit.sh made."""

    def __init__(self, run, index):
        self.run, self.index = run, index
        torque = run / f"task.log-{index}"
        self.log = torque if torque.exists() else run / f"task-{index}.log"

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
            job = "{}_{}".format((self.run / "job").read_text().strip(), self.index)
            command = ["sacct", "--allocations", "--noheader", "--parsable2", "--format=State,ExitCode", "--jobs", job]
            return ask(command).strip().split("\n")[-1].replace("|", ", exit code ") or None
        except OSError:
            return None

    def changed(self):
        """When the log was last written, in seconds; 0 if there is none."""
        return self.log.stat().st_mtime if self.log.exists() else 0.0

    def queue(self, queues):
        """What SLURM's queue says of the task; None where it is not in it."""
        try:
            job = (self.run / "job").read_text().strip()
        except OSError:
            return None
        return queues.get((job, self.index))


def newest_tasks(output_dir):
    """The newest task of each subject."""
    tasks = {}
    for run in sorted(Path(output_dir, "logs").glob("*/*/subjects.txt"), key=lambda path: path.stat().st_mtime):
        for index, label in enumerate(run.read_text().split(), 1):
            tasks[label] = Task(run.parent, index)
    return tasks


def ask(command):
    """What a command prints; nothing where it is not there or fails."""
    try:
        shown = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return shown.stdout.decode(errors="replace")


def slurm_queue():
    """State, reason and node of each array task in the queue; empty where there is no SLURM."""
    queue = {}
    for line in ask(["squeue", "--noheader", "--array", "--format=%F|%K|%T|%r|%N"]).splitlines():
        job, index, state, reason, node = line.split("|")
        if index.isdigit():
            queue[job, int(index)] = state.lower() + (" on " + node if node else f" ({reason})")
    return queue


def describe(label, entry, task, queues):
    """Lines on one subject."""
    waiting = task.queue(queues) if task else None
    if waiting:
        return [f"{label}  {waiting}"]
    killer = task.killer() if task else None
    if killer and (entry is None or task.changed() > when(entry)):
        told = "; it had got to: " + entry["why"] if entry and entry.get("why") else ""
        return [f"{label}  killed  {killer} (see {task.log}){told}"]
    if entry is not None:
        lines = ["{}  {}  {}".format(label, entry["status"], entry.get("why", "")).rstrip()]
        for failure in entry.get("failures", []):
            crash = failure.get("crash_file")
            lines.append("    {}: {}{}".format(failure["node"], failure["why"], f" (see {crash})" if crash else ""))
        return lines
    if task is None:
        return [f"{label}  not run yet"]
    code = task.ended()
    if code is not None:
        return [f"{label}  failed  exit code {code} (see {task.log})"]
    end = task.accounting()
    if end:
        return [f"{label}  killed  {end} (see {task.log})"]
    if task.log.exists():
        return [f"{label}  no result: running, or killed without a word (see {task.log})"]
    return [f"{label}  no result: its task has not started, or was taken out of the queue"]


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
    parser.add_argument("--missing", action="store_true", help="only the labels that are neither done nor queued")
    parser.add_argument("--all", action="store_true", help="with --missing: those that are done too")
    arguments = parser.parse_args()
    entries = read_entries(arguments.output_dir)
    labels = read_labels(arguments) or sorted(entries)
    left = [label for label in labels if entries.get(label, {}).get("status") != "ok"]
    tasks, queues = newest_tasks(arguments.output_dir), slurm_queue()
    if arguments.missing:
        for label in labels if arguments.all else left:
            waiting = label in tasks and tasks[label].queue(queues)
            if waiting:
                print(f"{label} is left out: {waiting}", file=sys.stderr)
            else:
                print(label)
        return 0
    for label in left:
        print("\n".join(describe(label, entries.get(label), tasks.get(label), queues)))
    print(f"{len(labels) - len(left)} of {len(labels)} {'subject is' if len(labels) == 1 else 'subjects are'} done")
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
