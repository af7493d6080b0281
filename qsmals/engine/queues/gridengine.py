"""Grid Engine: qsub, qstat, qacct, qdel."""

import re
from collections.abc import Sequence

from qsmals.engine.queues.queue import UNKNOWN, Needs, Queue, Silent, State, ask, user


class GridEngine(Queue):
    """Sun, Oracle, Univa, Altair and Son of Grid Engine.

    ``parallel_environment`` (default ``smp``; null leaves it out) and ``memory_resource`` (default
    ``mem_free``, which every cluster has; ``h_vmem`` would also be a limit, and one on address space)
    name what a site calls them.
    """

    submit_command = "qsub"
    joined = False
    own_args = frozenset({"parallel_environment", "memory_resource"})
    transient = (*Queue.transient, "unable to contact qmaster", "can't connect", "unable to send message to qmaster")
    full = ("jobs are allowed per (user|cluster)",)

    def defaults(self, needs: Needs, script: str) -> dict[tuple[str, ...], list[str]]:
        """Grid Engine counts memory by processor."""
        place = self.args.get("parallel_environment", "smp")
        memory = self.args.get("memory_resource", "mem_free")
        slots = needs.threads if place else 1
        wanted = {
            ("-N",): ["-N", re.sub(r"[^\w.-]", "_", f"q-{needs.name}")],
            ("-o",): ["-o", str(needs.log).replace("%j", "$JOB_ID")],
            ("-j", "-e"): ["-j", "y"],
            ("-S",): ["-S", "/bin/bash"],
            ("-wd", "-cwd"): ["-wd", str(needs.log.parent)],
            ("-V",): ["-V"],
            ("-terse",): ["-terse"],
        }
        if memory:
            wanted[("mem_free=", "h_vmem=", "s_vmem=", "virtual_free=", f"{memory}=")] = [
                "-l",
                f"{memory}={-(-needs.mem_mib // slots)}M",
            ]
        if place and needs.threads > 1:
            wanted[("-pe",)] = ["-pe", str(place), str(needs.threads)]
        return wanted

    def after(self, jobs: Sequence[str]) -> list[str]:
        """Until they have ended, well or not: Grid Engine knows no other."""
        return ["-hold_jid", ",".join(jobs)]

    def states(self, jobs: Sequence[str]) -> dict[str, State]:
        """A job with an E in its state (``Eqw``) stays in the queue and is never run."""
        done = ask(["qstat", "-u", user()])
        if done.returncode != 0:
            raise Silent(done.stderr.strip())
        rows = (line.split() for line in done.stdout.splitlines())
        return {row[0]: "stuck" if "E" in row[4] else "alive" for row in rows if len(row) > 4 and row[0] in jobs}

    def end_of(self, job: str) -> str:
        """From the accounting file, which not every machine can read."""
        queued = ask(["qstat", "-j", job])
        reasons = re.findall(r"^error reason[^:]*:\s*(.+)$", queued.stdout, re.MULTILINE)
        if reasons:
            return "error in the queue: " + "; ".join(reason.strip() for reason in reasons)
        found = dict(re.findall(r"^(failed|exit_status|maxvmem)\s+(.+?)\s*$", ask(["qacct", "-j", job]).stdout, re.M))
        return ", ".join(f"{key} {value}" for key, value in found.items()) or UNKNOWN

    def cancel(self, jobs: Sequence[str]) -> list[str]:
        """All at once."""
        return ["qdel", *jobs]
