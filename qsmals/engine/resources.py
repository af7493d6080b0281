"""What this process may use: the memory and processors of its job, container or machine, whichever is least."""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

try:
    import resource
except ImportError:  # not on Windows, where there is no limit to read either
    resource = None  # type: ignore[assignment]

GB = 1e9
MIB = 1024**2

# A worker with compiled kernels and without data, where the maker of a node does not say
BASE_GB = 0.25


def base_of(node: Any) -> float:
    """What ``node`` counts of its ``mem_gb`` for the process and its libraries, GB (set by who made the node)."""
    return float(getattr(node, "qsmals_base_gb", BASE_GB))


_UNITS = {
    "": 1e6,
    "B": 1.0,
    "K": 1e3, "KB": 1e3, "KIB": 1024.0,
    "M": 1e6, "MB": 1e6, "MIB": 1024.0**2,
    "G": 1e9, "GB": 1e9, "GIB": 1024.0**3,
    "T": 1e12, "TB": 1e12, "TIB": 1024.0**4,
}  # fmt: skip

_SYS_CGROUP = Path("/sys/fs/cgroup")
_PROC = Path("/proc")


@dataclass(frozen=True)
class Limit:
    """An upper bound and the word for who set it, e.g. ``Limit(8.0, "SLURM_MEM_PER_NODE")``."""

    value: float
    source: str


def parse_mem(text: str | int | float) -> float:
    """Memory in GB (1e9 bytes) from a number with a unit; a plain number is MB, as in fMRIPrep.

    Raises
    ------
    ValueError
        Not a positive number with a known unit.

    Examples
    --------
    >>> parse_mem("8GB"), parse_mem("8000MB"), parse_mem("8G"), parse_mem(8000), parse_mem("7.5 g")
    (8.0, 8.0, 8.0, 8.0, 7.5)
    """
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([A-Za-z]*)\s*", str(text))
    if match is None or match[2].upper() not in _UNITS:
        raise ValueError(f"cannot read {text!r} as memory: give a number with a unit, as 8GB, 8000MB or 7.5G")
    gigabytes = float(match[1]) * _UNITS[match[2].upper()] / GB
    if gigabytes <= 0:
        raise ValueError(f"memory must be more than zero, not {text!r}")
    return gigabytes


def memory_limit(environ: Mapping[str, str] | None = None) -> Limit:
    """The least of the limits on memory, in GB: cgroup, batch job, ``ulimit``, machine."""
    environ = os.environ if environ is None else environ
    return min(_memory_limits(environ), key=lambda limit: limit.value)


def cpu_limit(environ: Mapping[str, str] | None = None) -> Limit:
    """The least of the limits on processors (a whole number): affinity, cgroup quota, batch job."""
    environ = os.environ if environ is None else environ
    return min(_cpu_limits(environ), key=lambda limit: limit.value)


def peak_memory_gb(pid: int | str = "self") -> float | None:
    """Largest resident memory of a process so far, in GB; None where the system does not say."""
    return _status_gb(pid, "VmHWM")


def resident_memory_gb(pid: int | str = "self") -> float | None:
    """Resident memory of a process now, in GB; None where the system does not say."""
    return _status_gb(pid, "VmRSS")


def reset_peak_memory() -> bool:
    """Start the count of :func:`peak_memory_gb` of this process anew; False where that is refused."""
    try:
        (_PROC / "self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def oom_kills() -> int | None:
    """How often the kernel killed for memory in this cgroup (or on this machine); None if it does not say."""
    for folder in _cgroup_folders("memory"):
        for name in ("memory.events", "memory.oom_control"):
            match = re.search(r"^oom_kill (\d+)$", _read(folder / name) or "", re.MULTILINE)
            if match:
                return int(match[1])
    match = re.search(r"^oom_kill (\d+)$", _read(_PROC / "vmstat") or "", re.MULTILINE)
    return int(match[1]) if match else None


def _status_gb(pid: int | str, key: str) -> float | None:
    match = re.search(rf"^{key}:\s+(\d+) kB", _read(_PROC / str(pid) / "status") or "", re.MULTILINE)
    return int(match[1]) * 1024 / GB if match else None


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return None


def _cgroup_folders(controller: str) -> Iterator[Path]:
    """Folders that hold this process's limits, own cgroup first, then its parents (v2 and v1).

    Inside a container the path in ``/proc/self/cgroup`` may be that of the host and not exist;
    the walk to the root of the mount still meets the container's own limits.
    """
    for line in (_read(_PROC / "self/cgroup") or "0::/").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        root = _SYS_CGROUP / controllers
        inside = Path(path.lstrip("/"))
        for part in (inside, *inside.parents):
            if (root / part).is_dir():
                yield root / part


def _memory_limits(environ: Mapping[str, str]) -> Iterator[Limit]:
    yield Limit(_machine_gb(), "the machine")
    for folder in _cgroup_folders("memory"):
        for name in ("memory.max", "memory.high", "memory.limit_in_bytes"):
            value = _read(folder / name)
            if value and value.isdigit() and 0 < int(value) < 2**62:
                yield Limit(int(value) / GB, f"the cgroup ({folder / name})")
    yield from _slurm_memory(environ)
    if resource is not None:
        for name in ("RLIMIT_AS", "RLIMIT_DATA"):
            soft, _ = resource.getrlimit(getattr(resource, name))
            if soft != resource.RLIM_INFINITY:
                yield Limit(soft / GB, f"ulimit ({name})")


def _machine_gb() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GB


def _slurm_memory(environ: Mapping[str, str]) -> Iterator[Limit]:
    per_node = _number(environ, "SLURM_MEM_PER_NODE")
    if per_node:  # 0 means all of the node
        yield Limit(per_node * MIB / GB, "SLURM_MEM_PER_NODE")
    per_cpu = _number(environ, "SLURM_MEM_PER_CPU")
    cpus = _number(environ, "SLURM_CPUS_ON_NODE") or _number(environ, "SLURM_CPUS_PER_TASK")
    if per_cpu and cpus:
        yield Limit(per_cpu * cpus * MIB / GB, "SLURM_MEM_PER_CPU")


def _cpu_limits(environ: Mapping[str, str]) -> Iterator[Limit]:
    yield Limit(os.cpu_count() or 1, "the machine")
    if hasattr(os, "sched_getaffinity"):
        yield Limit(len(os.sched_getaffinity(0)), "the processor affinity")
    for folder in _cgroup_folders("cpu"):
        quota = _cgroup_cpus(folder)
        if quota is not None:
            yield Limit(max(1, int(quota)), f"the cgroup ({folder})")
    names = ("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE") if environ.get("SLURM_JOB_ID") else ()
    for name in (*names, "NSLOTS", "PBS_NCPUS", "NCPUS", "LSB_DJOB_NUMPROC"):
        value = _number(environ, name)
        if value:
            yield Limit(value, name)


def _cgroup_cpus(folder: Path) -> float | None:
    """Processors' worth of time that a cgroup allows; None without a quota."""
    version2 = (_read(folder / "cpu.max") or "").split()
    if len(version2) == 2 and version2[0].isdigit():
        return int(version2[0]) / int(version2[1])
    quota, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
    if quota and period and quota.isdigit() and int(quota) > 0:
        return int(quota) / int(period)
    return None


def _number(environ: Mapping[str, str], name: str) -> int | None:
    value = environ.get(name, "")
    return int(value) if value.isdigit() else None
