"""IBM Spectrum LSF: bsub, bjobs, bkill."""

import re
from collections.abc import Sequence

from qsmals.engine.queues.queue import UNKNOWN, Needs, Queue, Silent, State, ask


class Lsf(Queue):
    """IBM Spectrum LSF."""

    submit_command = "bsub"
    args_key = "bsub_args"
    joined = False
    transient = (*Queue.transient, "LSF is down", "Please wait", "Failed in LSF library call")
    full = ("Pending (job|slot)s? threshold",)
    waits = ("Retrying in", "Please wait")

    def defaults(self, needs: Needs, script: str) -> dict[tuple[str, ...], list[str]]:
        """All processors on one machine; memory is reserved, not limited."""
        return {
            ("-n",): ["-n", str(needs.threads)],
            ("span[",): ["-R", "span[hosts=1]"],
            ("rusage[mem",): ["-R", f"rusage[mem={needs.mem_mib}MB]"],
            ("-J",): ["-J", needs.name],
            ("-o", "-oo"): ["-o", str(needs.log).replace("%j", "%J")],
            ("-cwd",): ["-cwd", str(needs.log.parent)],
        }

    def after(self, jobs: Sequence[str]) -> list[str]:
        """The job is told from its dependencies by ``end_of``, should one fail."""
        return ["-w", " && ".join(f"done({job})" for job in jobs), "-ti"]

    def tail(self, script: str) -> list[str]:
        """The script is a file, which need not be executable."""
        return ["bash", script]

    def number(self, answer: str) -> str | None:
        """``Job <123> is submitted to ...``."""
        found = re.search(r"<(\d+)>", answer)
        return found[1] if found else None

    def states(self, jobs: Sequence[str]) -> dict[str, State]:
        """``UNKWN`` and ``ZOMBI`` mean that a machine does not answer: LSF has not given the job up."""
        done = ask(["bjobs", "-a", *jobs])
        if done.returncode != 0 and "not found" not in done.stderr and "No job found" not in done.stderr:
            raise Silent(done.stderr.strip())
        rows = (line.split() for line in done.stdout.splitlines())
        return {row[0]: "over" if row[2] in ("DONE", "EXIT") else "alive" for row in rows if row[:1] and row[0] in jobs}

    def end_of(self, job: str) -> str:
        """``TERM_MEMLIMIT`` and its like, and the exit code."""
        text = re.sub(r"\n\s+", "", ask(["bjobs", "-l", job]).stdout)  # the report is folded
        found = re.findall(r"(TERM_\w+[^;.]*|Exited[^;.]*|Completed <\w+>)", text)
        return "; ".join(dict.fromkeys(word.strip() for word in found)) or UNKNOWN

    def cancel(self, jobs: Sequence[str]) -> list[str]:
        """All at once."""
        return ["bkill", *jobs]
