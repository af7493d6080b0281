"""HTCondor: condor_submit, condor_q, condor_history, condor_rm."""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from qsmals.engine.queues.queue import UNKNOWN, Needs, Queue, Silent, State, ask


class Condor(Queue):
    """HTCondor by its own commands (nipype goes through condor_qsub, which knows neither processors nor memory).

    ``initial_specs`` and ``override_specs``, as of nipype's DAGMan engine: lines of the submit
    description before and after those that are written here.
    """

    submit_command = "condor_submit"
    args_key = "condor_args"
    joined = False
    own_args = frozenset({"initial_specs", "override_specs"})
    transient = (*Queue.transient, "Failed to connect", "Can't find address", "DEADLINE")
    full = ("would exceed MAX_JOBS_(SUBMITTED|PER_OWNER)",)
    _over: ClassVar[dict[str, str]] = {"3": "removed", "4": "completed"}

    def defaults(self, needs: Needs, script: str) -> dict[tuple[str, ...], list[str]]:
        """The description is written beside the script, where :meth:`tail` names it."""
        log = self.log_of(needs, "$(Cluster)")
        lines = [
            str(self.args.get("initial_specs", "")),
            "universe = vanilla",
            "executable = /bin/bash",
            f"arguments = \"'{script}'\"",
            "getenv = True",
            f"initialdir = {needs.log.parent}",
            f"output = {log}",
            f"error = {log}",
            f"request_cpus = {needs.threads}",
            f"request_memory = {needs.mem_mib}",
            f'batch_name = "{needs.name}"',
            str(self.args.get("override_specs", "")),
            "queue",
        ]
        Path(*self.tail(script)).write_text("\n".join(line for line in lines if line) + "\n")
        return {("-terse",): ["-terse"]}

    def after(self, jobs: Sequence[str]) -> list[str]:
        """HTCondor holds no job for another: that is DAGMan's work."""
        raise NotImplementedError("HTCondor orders jobs through DAGMan")

    def tail(self, script: str) -> list[str]:
        """The submit description in place of the script."""
        return [str(Path(script).with_suffix(".submit"))]

    def states(self, jobs: Sequence[str]) -> dict[str, State]:
        """A held job (a limit was passed, a file is missing) waits for a person: it is stuck."""
        done = ask(["condor_q", "-autoformat", "ClusterId", "JobStatus"])
        if done.returncode != 0:
            raise Silent(done.stderr.strip())
        rows = (line.split() for line in done.stdout.splitlines())
        return {
            row[0]: "over" if row[1] in self._over else "stuck" if row[1] == "5" else "alive"
            for row in rows
            if len(row) > 1 and row[0] in jobs
        }

    def end_of(self, job: str) -> str:
        """The reason for holding or removing it, and the exit code."""
        for command in (["condor_q"], ["condor_history", "-limit", "1"]):
            wanted = ("JobStatus", "HoldReason", "RemoveReason", "ExitCode", "ExitSignal")
            done = ask([*command, job, "-autoformat:V,", *wanted])
            values = [word.strip().strip('"') for word in done.stdout.strip().split(",")] if done.stdout.strip() else []
            known = [f"{k} {v}" for k, v in zip(wanted, values, strict=False) if v not in ("undefined", "")]
            if known:
                return ", ".join(known)
        return UNKNOWN

    def cancel(self, jobs: Sequence[str]) -> list[str]:
        """All at once."""
        return ["condor_rm", *jobs]
