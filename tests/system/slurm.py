"""A private SLURM cluster on this machine: munge, a controller, and a daemon for each simulated node.

Each node has a host name and an empty /tmp of its own, so what leans on either fails here as on a real
cluster. Configuration, key, socket, spool and logs lie in one folder; /etc is left alone.
"""

import os
import pwd
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from tests.system.machine import call, must

CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={lab}/munge/socket
CryptoType=crypto/munge
StateSaveLocation={lab}/state
SlurmctldPidFile={lab}/slurmctld.pid
SlurmctldLogFile={lab}/slurmctld.log
# jobs may ask for more processors and memory than this machine has
SlurmdParameters=config_overrides
SlurmdSpoolDir={lab}/spool.%n
SlurmdPidFile={lab}/slurmd.%n.pid
SlurmdLogFile={lab}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
# what a job holds is looked at, and one that holds more than it asked for is killed
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=1
JobAcctGatherParams=OverMemoryKill
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=1024
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
ReturnToService=1
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0,sched_min_interval=0
KillWait=5
MinJobAge={min_job_age}
SlurmctldTimeout=30
SlurmdTimeout=20
InactiveLimit=0
"""
COMMANDS = ("slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "scancel", "sinfo", "munged", "unshare")


class Cluster:
    """The cluster in ``lab``; started by :meth:`start` and ended by :meth:`stop`."""

    def __init__(self, lab: Path, *, n_nodes: int = 2, min_job_age_s: int = 60) -> None:
        self.lab, self.nodes = lab, [f"n{i + 1}" for i in range(n_nodes)]
        self.port = 17000 + 10 * (os.getpid() % 1000)  # two runs on one machine do not meet
        self.min_job_age_s = min_job_age_s
        self.env = {"SLURM_CONF": str(lab / "slurm.conf")}

    def start(self) -> None:
        """Start all daemons and wait for the nodes."""
        for folder in (self.lab, self.lab / "state", *(self.lab / f"spool.{node}" for node in self.nodes)):
            folder.mkdir(mode=0o755)
        (self.lab / "slurm.conf").write_text(self._conf())
        self._start_munge()
        must("slurmctld", "-c", env=self.env)
        for node in self.nodes:
            self.start_node(node)
        self.wait(lambda: len(self.idle()) == len(self.nodes), "the nodes to come up", 60)

    def _conf(self) -> str:
        host = os.uname().nodename.split(".")[0]
        kib = int(
            next(line for line in Path("/proc/meminfo").read_text().splitlines() if "MemTotal" in line).split()[1]
        )
        mib = max(int(kib / 1024 * 0.9 / len(self.nodes)), 20_000)
        lines = [
            f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={self.port + 1 + i} "
            f"CPUs={max(os.cpu_count() or 1, 4)} RealMemory={mib} State=UNKNOWN"
            for i, node in enumerate(self.nodes)
        ]
        lines.append("PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP")
        head = CONF.format(host=host, port=self.port, lab=self.lab, min_job_age=self.min_job_age_s)
        return head + "\n".join(lines) + "\n"

    def _start_munge(self) -> None:
        folder, account = self.lab / "munge", pwd.getpwnam("munge")
        folder.mkdir(mode=0o755)
        key = folder / "key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        for path in (folder, key):
            os.chown(path, account.pw_uid, account.pw_gid)
        words = [f"--{word}-file={folder}/{word}" for word in ("key", "pid", "log", "seed")]
        must("setpriv", "--reuid", "munge", "--regid", "munge", "--clear-groups", "munged",
             *words, f"--socket={folder}/socket")  # fmt: skip
        self.wait((folder / "socket").exists, "munge", 10)

    def start_node(self, node: str) -> None:
        """Start a node's daemon in a host name and an empty /tmp of its own."""
        script = 'hostname "$1"; mount -t tmpfs -o mode=1777 tmpfs /tmp; exec slurmd -N "$1"'
        must("unshare", "--uts", "--mount", "--propagation", "private", "sh", "-c", script, "sh", node, env=self.env)

    def kill_node(self, node: str) -> None:
        """The power fails: the daemon and all that runs on the node are gone at once, and say nothing."""
        try:
            namespace = Path(f"/proc/{(self.lab / f'slurmd.{node}.pid').read_text().strip()}/ns/uts").readlink()
        except (FileNotFoundError, ProcessLookupError):
            return
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for folder in Path("/proc").glob("[0-9]*"):
                with suppress(OSError):
                    if (folder / "ns/uts").readlink() == namespace:
                        os.kill(int(folder.name), number)

    def idle(self) -> set[str]:
        """Names of the nodes that wait for work."""
        shown = call("sinfo", "--noheader", "--Node", "--states=idle", "--format=%N", env=self.env)
        return set(shown.stdout.split())

    def jobs(self) -> dict[str, str]:
        """States of the jobs in the queue and of those that ended lately; tasks of an array as 12_3."""
        shown = must("squeue", "--noheader", "--array", "--states=all", "--format=%i %T", env=self.env)
        return dict(line.split()[:2] for line in shown.splitlines())

    def busy(self) -> dict[str, str]:
        """Those that have not ended."""
        alive = {"PENDING", "RUNNING", "CONFIGURING", "COMPLETING", "SUSPENDED", "REQUEUED"}
        return {job: state for job, state in self.jobs().items() if state in alive}

    def wait(self, what: Callable[[], object], words: str, limit_s: float) -> None:
        """Wait until ``what`` is true."""
        end = time.monotonic() + limit_s
        while not what():
            if time.monotonic() > end:
                logs = "".join(f"\n== {p.name}\n{p.read_text()[-2000:]}" for p in sorted(self.lab.glob("*.log")))
                raise TimeoutError(
                    f"waited {limit_s:.0f} s for {words}; jobs {call('squeue', env=self.env).stdout}{logs}"
                )
            time.sleep(0.3)

    def stop(self) -> None:
        """Cancel every job and end every daemon that was started here."""
        if (self.lab / "slurmctld.pid").exists() and (left := list(self.busy())):
            call("scancel", *left, env=self.env)
            self.wait(lambda: not self.busy(), "cancelled jobs to end", 60)
        for node in self.nodes:
            self.kill_node(node)
        for file in (self.lab / "slurmctld.pid", self.lab / "munge" / "pid"):
            self._signal(file, signal.SIGTERM)
        shutil.rmtree(self.lab, ignore_errors=True)

    def _signal(self, pid_file: Path, number: int) -> None:
        try:
            pid = int(pid_file.read_text())
            os.kill(pid, number)
        except (FileNotFoundError, ProcessLookupError, ValueError):
            return
        end = time.monotonic() + 20
        while Path(f"/proc/{pid}").exists() and time.monotonic() < end:
            time.sleep(0.1)

    def run(self, *command: object, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Run a command on the login node, so to speak."""
        return call(*command, env={**self.env, **(env or {})})
