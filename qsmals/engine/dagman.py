"""nipype's CondorDAGMan engine, mended: HTCondor's DAGMan runs the graph, and each node's end is told.

nipype 1.11 and 1.12 return before anything has run, or (with ``block``) know nothing of the nodes. Here the
graph is one DAG; DAGMan writes the state of each node into a file, which is read until the last has ended.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from qsmals.engine.batch import GraphPlugin
from qsmals.engine.job_notes import write_note
from qsmals.engine.queues import UNKNOWN, Needs, Note, Refused, Silent, ask
from qsmals.engine.queues.condor import Condor
from qsmals.engine.queues.queue import State
from qsmals.engine.signals import held

STATUS_S = 10  # seconds between two states that DAGMan writes
# of DAGMan's node states, those after which nothing comes: done, error, and (behind an error) futile
_OVER = ("5", "6", "7")


class DagMan(Condor):
    """A DAG under HTCondor: jobs are collected, and submitted together."""

    submit_command = "condor_submit_dag"
    args_key = "dagman_args"

    def __init__(self, args: Mapping[str, Any] | None = None) -> None:
        super().__init__(args)
        self.lines: list[str] = []
        self.folder: Path | None = None
        self.cluster = ""

    def submit(self, script: str, needs: Needs, given: Any, after: Any = ()) -> str:
        """Note the job; :meth:`start` submits them all."""
        self.defaults(needs, script)
        self.folder = Path(script).parent
        job = f"N{len([line for line in self.lines if line.startswith('JOB ')])}"
        self.lines.append(f"JOB {job} {self.tail(script)[0]}")
        if after:
            self.lines.append(f"PARENT {' '.join(after)} CHILD {job}")
        return job

    def start(self, given: list[str]) -> None:
        """Submit what was noted.

        Raises
        ------
        Refused
            With HTCondor's own message.
        """
        if self.folder is None:
            return
        dag = self.folder / "graph.dag"
        self.status_file.unlink(missing_ok=True)
        dag.write_text("\n".join([*self.lines, f"NODE_STATUS_FILE {self.status_file} {STATUS_S}"]) + "\n")
        done = ask([self.submit_command, *given, "-force", str(dag)])
        found = re.search(r"cluster (\d+)", done.stdout)
        if done.returncode != 0 or found is None:
            words = " ".join((done.stderr.strip() or done.stdout.strip() or "no message").split())
            raise Refused(f"{self.submit_command} refused the graph: {words}", passing=self.passing(words))
        self.cluster = found[1]

    @property
    def status_file(self) -> Path:
        """Where DAGMan writes the states."""
        return (self.folder or Path()) / "graph.status"

    def _told(self) -> dict[str, tuple[str, str]]:
        """State and details of each node, as DAGMan last wrote them."""
        try:
            text = self.status_file.read_text()
        except FileNotFoundError:
            return {}
        words = r'Node = "(\w+)";\s*NodeStatus = (\d+);[^\n]*\n(?:\s*StatusDetails = "([^"]*)";)?'
        return {node: (state, details) for node, state, details in re.findall(words, text)}

    def states(self, jobs: Any) -> dict[str, State]:
        """From DAGMan's file, as long as DAGMan itself is in the queue; what it has not named yet will come."""
        if not self.cluster:
            return dict.fromkeys(jobs, "alive")
        done = ask(["condor_q", self.cluster, "-autoformat", "ClusterId", "JobStatus"])
        if done.returncode != 0:
            raise Silent(done.stderr.strip())
        if not re.search(rf"^{self.cluster} [1256]$", done.stdout, re.MULTILINE):
            return {}
        told = self._told()
        return {job: "over" if told.get(job, ("0", ""))[0] in _OVER else "alive" for job in jobs}

    def end_of(self, job: str) -> str:
        """DAGMan's details of the node."""
        state, details = self._told().get(job, ("", ""))
        return details or {"5": "COMPLETED", "6": "failed", "7": "behind a failed node"}.get(state, UNKNOWN)

    def cancel(self, jobs: Any) -> list[str]:
        """The nodes' own jobs; with the last of them DAGMan itself ends."""
        names = " || ".join(f'DAGNodeName == "{job}"' for job in jobs)
        return ["condor_rm", "-constraint", f"DAGManJobId == {self.cluster or 0} && ({names})"]


class DagManPlugin(GraphPlugin):
    """The graph engine whose jobs are submitted together."""

    queue: DagMan

    def _reset_reporting(self) -> None:
        super()._reset_reporting()
        self.queue.lines, self.queue.folder, self.queue.cluster = [], None, ""
        self._started = False
        self._notes: dict[str, Note] = {}

    def __init__(self, queue: DagMan, plugin_args: Mapping[str, Any] | None = None) -> None:
        self.queue = queue
        super().__init__(queue, plugin_args)
        self._at_once, self.max_jobs = self._most_jobs, math.inf  # it is for DAGMan to keep the limit

    def _send_procs_to_workers(self, updatehash: bool = False, graph: Any = None) -> None:
        if self._started:
            return
        super()._send_procs_to_workers(updatehash, graph)
        limit = [] if math.isinf(self._at_once) else ["-maxjobs", str(self._at_once)]
        with held():
            try:
                self.queue.start([*limit, *self._user_args.split()])
            except Refused as error:
                if self._door.refused(error, ours=False):
                    return
                self._refused |= dict.fromkeys(self._pending, str(error))
            else:
                for folder, note in self._notes.items():
                    write_note(folder, replace(note, job=self.queue.cluster))
            self._started = True

    def _note(self, folder: str, note: Note) -> None:
        """Written once DAGMan has a number, which is that of all its jobs."""
        self._notes[folder] = note

    def _abandon(self) -> None:
        """End DAGMan, which ends its jobs."""
        if self._pending and self.queue.cluster:
            ask(["condor_rm", self.queue.cluster])
        self._pending = {}
