"""OAR: oarsub, oarstat, oardel."""

import json
import re
import shlex
from collections.abc import Sequence

from qsmals.engine.queues.queue import UNKNOWN, Needs, Queue, Silent, State, ask


class Oar(Queue):
    """OAR, which hands out memory with the processors."""

    submit_command = "oarsub"
    args_key = "oarsub_args"
    own_args = frozenset({"max_jobname_len"})
    full = (r"more than \d+ ([\w-]+ )?jobs",)  # the admission rule that OAR brings along; sites word their own

    def defaults(self, needs: Needs, script: str) -> dict[tuple[str, ...], list[str]]:
        """Cores of one machine."""
        log = str(needs.log).replace("%j", "%jobid%")
        return {
            ("-l", "--resource"): ["-l", f"/nodes=1/core={needs.threads}"],
            ("-n", "--name"): ["-n", needs.name[-int(self.args.get("max_jobname_len", 15)) :]],
            ("-O", "--stdout"): ["-O", log],
            ("-E", "--stderr"): ["-E", log],
            ("-d", "--directory"): ["-d", str(needs.log.parent)],
        }

    def after(self, jobs: Sequence[str]) -> list[str]:
        """One option for each of the others; a job behind a failed one is cancelled by the engine."""
        return [word for job in jobs for word in ("-a", job)]

    def tail(self, script: str) -> list[str]:
        """OAR runs the words of its last argument."""
        return [f"bash {shlex.quote(script)}"]

    def number(self, answer: str) -> str | None:
        """``OAR_JOB_ID=123``, or JSON."""
        found = re.search(r'(?:OAR_JOB_ID=|"job_id"\s*:\s*"?)(\d+)', answer)
        return found[1] if found else None

    def states(self, jobs: Sequence[str]) -> dict[str, State]:
        """One question a job: that is what every version of oarstat answers in JSON."""
        found: dict[str, State] = {}
        for job in jobs:
            done = ask(["oarstat", "-J", "-s", "-j", job])
            try:
                state = str(json.loads(done.stdout)[job]).lower()
            except (ValueError, KeyError, TypeError):
                if done.returncode != 0:
                    raise Silent(done.stderr.strip()) from None
                continue
            found[job] = "over" if state in ("error", "terminated") else "alive"
        return found

    def end_of(self, job: str) -> str:
        """State, message and exit code."""
        done = ask(["oarstat", "-f", "-j", job])
        found = re.findall(r"^\s*(state|message|exit_code)\s*=\s*(.+?)\s*$", done.stdout, re.MULTILINE)
        return ", ".join(f"{key} {value}" for key, value in found) or UNKNOWN

    def cancel(self, jobs: Sequence[str]) -> list[str]:
        """All at once."""
        return ["oardel", *jobs]
