"""PBS Professional, OpenPBS and Torque: qsub, qstat, qdel."""

import re
from collections.abc import Sequence
from pathlib import Path

from qsmals.engine.queues.queue import UNKNOWN, Needs, Queue, Silent, State, ask


class Pbs(Queue):
    """PBS Professional, OpenPBS and Torque, which ask for processors in different words.

    ``dialect``: ``pbspro`` or ``torque``; by default what ``qsub --version`` says.
    """

    submit_command = "qsub"
    own_args = frozenset({"dialect", "max_jobname_len"})
    transient = (*Queue.transient, "cannot connect to server", "Connection reset", "No route to host")
    full = (
        r"Maximum number of jobs\b.*\balready in",  # both dialects
        r"would exceed .*\blimit\b",  # PBS Professional, over all jobs of a user, a group, a queue
    )

    def is_pro(self) -> bool:
        """Whether the server speaks PBS Professional's words."""
        if "dialect" not in self.args:
            done = ask([self.submit_command, "--version"])
            self.args["dialect"] = "pbspro" if "pbs_version" in done.stdout + done.stderr else "torque"
        if self.args["dialect"] not in ("pbspro", "torque"):
            raise ValueError(f"dialect must be pbspro or torque, not {self.args['dialect']!r}")
        return bool(self.args["dialect"] == "pbspro")

    def defaults(self, needs: Needs, script: str) -> dict[tuple[str, ...], list[str]]:
        """Log and errors go to one file, named by the script (PBS copies it when the job ends)."""
        name = re.sub(r"[^\w-]", "_", needs.name.rsplit(".", 1)[-1])[: int(self.args.get("max_jobname_len", 15))]
        wanted = {
            ("-N",): ["-N", name if name[:1].isalpha() else f"q{name}"[:15]],
            ("-o",): ["-o", str(self.log_of(needs, ""))],
            ("-j", "-e"): ["-j", "oe"],
            ("-V",): ["-V"],
        }
        if self.is_pro():
            chunk = f"select=1:ncpus={needs.threads}:mem={needs.mem_mib}mb"
            return wanted | {("select=", "ncpus=", "nodes="): ["-l", chunk]}
        return wanted | {
            ("nodes=", "procs=", "ncpus="): ["-l", f"nodes=1:ppn={needs.threads}"],
            ("mem=",): ["-l", f"mem={needs.mem_mib}mb"],
        }

    def log_of(self, needs: Needs, job: str) -> Path:
        """Named by the step: PBS wants the name before the job has a number."""
        return needs.log.with_name(f"{needs.name}.out")

    def after(self, jobs: Sequence[str]) -> list[str]:
        """The job leaves the queue when one of the others fails."""
        return ["-W", f"depend=afterok:{':'.join(jobs)}"]

    def number(self, answer: str) -> str | None:
        """With the server, as ``123.server``."""
        found = re.search(r"^\s*(\d+(\[\])?(\.[\w.-]+)?)\s*$", answer, re.MULTILINE)
        return found[1] if found else None

    def states(self, jobs: Sequence[str]) -> dict[str, State]:
        """From one qstat over the jobs; a complaint about one of them does not spoil the others."""
        done = ask(["qstat", "-f", *jobs])
        known = dict(re.findall(r"Job Id:\s*(\S+)(?s:.*?)job_state\s*=\s*(\w)", done.stdout))
        told = done.stdout + done.stderr
        if done.returncode != 0 and not known and not re.search(r"Unknown Job|has finished|Invalid job", told, re.I):
            raise Silent(done.stderr.strip())
        by_number = {job.split(".")[0]: state for job, state in known.items()}
        return {
            job: "over" if by_number[number] in "CFX" else "alive"
            for job in jobs
            if (number := job.split(".")[0]) in by_number
        }

    def end_of(self, job: str) -> str:
        """PBS Professional remembers (-x) where its administrator lets it, Torque for some minutes."""
        done = ask(["qstat", "-x", "-f", job] if self.is_pro() else ["qstat", "-f", job])
        words = r"^\s*(Exit_status|comment|resources_used\.(?:mem|walltime))\s*=\s*(.+?)\s*$"
        found = re.findall(words, done.stdout, re.MULTILINE | re.IGNORECASE)
        return ", ".join(f"{key} {value}" for key, value in found) or UNKNOWN

    def cancel(self, jobs: Sequence[str]) -> list[str]:
        """All at once."""
        return ["qdel", *jobs]
