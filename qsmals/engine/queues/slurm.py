"""SLURM: sbatch, squeue, scontrol, scancel."""

from collections.abc import Iterable, Sequence

from qsmals.engine.queues.queue import UNKNOWN, Needs, Note, Queue, Silent, State, ask


class Slurm(Queue):
    """SLURM."""

    submit_command = "sbatch"
    args_key = "sbatch_args"
    transient = (*Queue.transient, "Unable to contact", "not available", "Zero Bytes")
    # the sentence about "job submit limit" also stands for every other limit, which then has its name before it
    full = (
        r"\b(Assoc|QOS)\w*SubmitJob",
        r"^(?!.*\b(Assoc|QOS)\w).*job submit limit",
        "temporarily unable to accept job",
        "job queue full",
        "Resource temporarily unavailable",
    )
    waits = ("retrying",)
    _over = frozenset(
        {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED"}
        | {"REVOKED", "TIMEOUT"}
    )
    # a person may release a job that a person held; these wait for ever
    _stuck = frozenset({"DependencyNeverSatisfied", "launch_failed_requeued_held", "BadConstraints"})

    def defaults(self, needs: Needs, script: str) -> dict[tuple[str, ...], list[str]]:
        """Processors, memory, name, log and folder; the environment goes along."""
        return {
            ("-c", "--cpus-per-task"): [f"--cpus-per-task={needs.threads}"],
            ("--mem", "--mem-per-cpu", "--mem-per-gpu"): [f"--mem={needs.mem_mib}M"],
            ("-J", "--job-name"): [f"--job-name={needs.name}"],
            ("-o", "--output"): [f"--output={needs.log}"],
            ("-D", "--chdir"): [f"--chdir={needs.log.parent}"],
            ("--parsable",): ["--parsable"],
        }

    def after(self, jobs: Sequence[str]) -> list[str]:
        """The job leaves the queue when one of the others fails."""
        return [f"--dependency=afterok:{':'.join(jobs)}", "--kill-on-invalid-dep=yes"]

    def states(self, jobs: Sequence[str]) -> dict[str, State]:
        """From one squeue over all of the user's jobs."""
        done = ask(["squeue", "--noheader", "--me", "--states=all", "--format=%A %T %r"])
        if done.returncode != 0:
            raise Silent(done.stderr.strip())
        found: dict[str, State] = {}
        for line in done.stdout.splitlines():
            words = line.split(maxsplit=2)
            if len(words) >= 2 and words[0] in jobs:
                reason = (words[2] if len(words) > 2 else "").replace(" ", "_")
                found[words[0]] = "over" if words[1] in self._over else "stuck" if reason in self._stuck else "alive"
        return found

    def left(self, notes: Iterable[Note]) -> set[str]:
        """By folder, and number or name.

        A controller that answers too late has taken the job all the same, and another cluster may have a job of the
        same number.
        """
        wanted = {(word, note.folder) for note in notes for word in (note.job, note.name)}
        done = ask(["squeue", "--noheader", "--me", "--format=%A|%j|%Z"])
        if done.returncode != 0:
            raise Silent(done.stderr.strip())
        rows = (line.strip().split("|", maxsplit=2) for line in done.stdout.splitlines())
        return {
            job
            for job, name, folder in (row for row in rows if len(row) == 3)
            if {(job, folder), (name, folder)} & wanted
        }

    def end_of(self, job: str) -> str:
        """State, reason and exit code, as the controller remembers them for some minutes."""
        done = ask(["scontrol", "--oneliner", "show", "job", job])
        facts = dict(part.split("=", 1) for part in done.stdout.split() if "=" in part)
        if "JobState" not in facts:
            return UNKNOWN
        return f"{facts['JobState']}, reason {facts.get('Reason', '?')}, exit code {facts.get('ExitCode', '?')}"

    def cancel(self, jobs: Sequence[str]) -> list[str]:
        """All at once."""
        return ["scancel", *jobs]
