"""What the machine allows, and making do with any environment."""

import json
import os
import resource
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from scipy import fft

from qsmals.engine import resources
from qsmals.engine.background import map_in_threads
from qsmals.engine.resources import (
    cpu_limit,
    memory_limit,
    oom_kills,
    parse_mem,
    peak_memory_gb,
    reset_peak_memory,
)
from qsmals.engine.threads import thread_environment, threads

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    ("text", "gigabytes"),
    [("8GB", 8), ("8000MB", 8), ("8G", 8), ("8000", 8), (8000, 8), ("1 TiB", 1024**4 / 1e9), (".5g", 0.5)],
)
def test_parse_mem(text, gigabytes):
    assert parse_mem(text) == pytest.approx(gigabytes)


@pytest.mark.parametrize("text", ["", "8 XB", "-8GB", "0", "GB", "1e3", "8GB 2"])
def test_parse_mem_refuses(text):
    with pytest.raises(ValueError, match=r"memory"):
        parse_mem(text)


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A pretended /proc and /sys/fs/cgroup: ``machine("0::/job", {"job/memory.max": "1000"})``."""

    def pretend(cgroup, contents):
        monkeypatch.setattr(resources, "_PROC", tmp_path / "proc")
        monkeypatch.setattr(resources, "_SYS_CGROUP", tmp_path / "cgroup")
        for name, text in {"proc/self/cgroup": cgroup, **{f"cgroup/{k}": v for k, v in contents.items()}}.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text + "\n")

    return pretend


def test_memory_of_cgroup_v2_and_its_parents(machine):
    machine("0::/slurm/job", {"slurm/job/memory.max": "max", "slurm/memory.max": "3000000"})
    limit = memory_limit({})
    assert limit.value == pytest.approx(0.003) and "slurm/memory.max" in limit.source


def test_memory_of_cgroup_v1(machine):
    machine("5:memory:/docker/abc\n0::/", {"memory/memory.limit_in_bytes": "2000000"})
    assert memory_limit({}).value == pytest.approx(0.002), "the host's path does not exist in the container"


def test_memory_without_a_limit_is_the_machine(machine):
    machine("5:memory:/", {"memory/memory.limit_in_bytes": "9223372036854771712"})
    assert memory_limit({}).source == "the machine"


@pytest.mark.parametrize(
    ("environ", "gigabytes"),
    [
        ({"SLURM_MEM_PER_NODE": "100"}, 100 * 1024**2 / 1e9),
        ({"SLURM_MEM_PER_CPU": "50", "SLURM_CPUS_ON_NODE": "4"}, 200 * 1024**2 / 1e9),
    ],
)
def test_memory_of_a_job(machine, environ, gigabytes):
    machine("0::/", {})
    assert memory_limit(environ).value == pytest.approx(gigabytes)
    assert memory_limit({"SLURM_MEM_PER_NODE": "0"}).source == "the machine"


def test_memory_of_ulimit(machine, monkeypatch):
    machine("0::/", {})
    monkeypatch.setattr(resources.resource, "getrlimit", lambda which: (5_000_000, resource.RLIM_INFINITY))
    assert memory_limit({}).value == pytest.approx(0.005)


def test_cpus(machine, monkeypatch):
    machine("0::/job", {"job/cpu.max": "150000 100000"})
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert cpu_limit({}).value == 1
    machine("0::/job", {"job/cpu.max": "max 100000"})
    assert cpu_limit({}).value == 8
    assert cpu_limit({"SLURM_JOB_ID": "1", "SLURM_CPUS_PER_TASK": "3"}).value == 3
    assert cpu_limit({"SLURM_CPUS_PER_TASK": "3"}).value == 8, "left over in a shell, not a job"
    assert cpu_limit({"NSLOTS": "2"}).source == "NSLOTS"


def test_cpus_of_cgroup_v1(machine, monkeypatch):
    machine("4:cpu,cpuacct:/", {"cpu,cpuacct/cpu.cfs_quota_us": "250000", "cpu,cpuacct/cpu.cfs_period_us": "100000"})
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert cpu_limit({}).value == 2


def test_oom_kills(machine):
    machine("0::/job", {"job/memory.events": "oom 1\noom_kill 3"})
    assert oom_kills() == 3


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")
def test_peak_memory_is_measured():
    if not reset_peak_memory():
        pytest.skip("this kernel refuses to reset the peak")
    before = peak_memory_gb()
    block = np.ones(25_000_000, dtype=np.float32)
    assert peak_memory_gb() - before == pytest.approx(block.nbytes / 1e9, rel=0.2)
    del block
    reset_peak_memory()
    assert peak_memory_gb() < before + 0.05


def test_threads():
    import numba

    before = numba.get_num_threads()
    with threads(1):
        assert fft.get_workers() == 1 and numba.get_num_threads() == 1
        with threads(10_000):
            assert numba.get_num_threads() == numba.config.NUMBA_NUM_THREADS
    assert numba.get_num_threads() == before
    with pytest.raises(ValueError, match="at least one"), threads(0):
        pass
    assert thread_environment(4, itk_threads=1)["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] == "1"


def test_map_in_threads_keeps_the_order_and_ends_at_an_error():
    assert map_in_threads(lambda n: n * n, range(20), 3) == [n * n for n in range(20)]
    with pytest.raises(ZeroDivisionError):
        map_in_threads(lambda n: 1 // n, [1, 0, 2], 2)


def prepare(work_dir, environ, tail=""):
    """Call prepare_environment in a fresh process and return what it set, and what ``tail`` printed."""
    script = f"""
        import json, os, sys
        sys.path.insert(0, {str(REPOSITORY)!r})
        from pathlib import Path
        from qsmals.engine.environment import prepare_environment
        heavy = sorted(set(sys.modules) & {{"numpy", "nipype", "numba", "matplotlib"}})
        changed = prepare_environment(Path({str(work_dir)!r}))
        print(json.dumps([heavy, changed, sys.stdout.encoding]))
    """
    code = textwrap.dedent(script) + textwrap.dedent(tail)
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    first, *rest = done.stdout.splitlines()
    return (*json.loads(first), rest)


def test_environment_with_nothing_usable(tmp_path):
    environ = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "TMPDIR": "/proc/nowhere", "MPLCONFIGDIR": "/proc/x"}
    kernels = tmp_path / "kernels"
    kernels.mkdir()
    (kernels / "kernel.py").write_text("import numba\n@numba.njit(cache=True)\ndef f(x): return x + 1\nf(1)\n")
    tail = """
        import tempfile, getpass, matplotlib
        print(tempfile.gettempdir()); print(getpass.getuser()); print("µ")
        sys.path.insert(0, "{kernels}")
        import kernel
        print(matplotlib.get_configdir())
    """
    heavy, changed, encoding, rest = prepare(tmp_path, environ, tail.replace("{kernels}", str(kernels)))
    assert heavy == [] and encoding == "utf-8"
    for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME", "MPLCONFIGDIR", "NUMBA_CACHE_DIR", "NIPYPE_CONFIG_DIR"):
        assert Path(changed[name]).is_dir() and Path(changed[name]).is_relative_to(tmp_path), name
    assert changed["LOGNAME"] and changed["NO_ET"] == "1"
    assert list(Path(changed["NUMBA_CACHE_DIR"]).rglob("*.nbi")), "compiled code is kept in the work folder"
    assert rest[0] == changed["TMPDIR"] and rest[2] == "µ" and rest[3] == changed["MPLCONFIGDIR"]


def test_environment_leaves_what_works(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    keep = {"HOME": str(home), "NUMBA_CACHE_DIR": str(tmp_path / "nb"), "LOGNAME": "ada", "LANG": "de_DE.UTF-8"}
    _, changed, _, _ = prepare(tmp_path / "work", {"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "3", **keep})
    assert not {*keep, "OMP_NUM_THREADS", "TMPDIR"} & set(changed)
    assert list(home.iterdir()) == [], "HOME is never written"


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to become another user")
def test_environment_of_an_unknown_user(tmp_path):
    work = tmp_path / "work"
    work.mkdir()
    os.chown(work, 12345, 23456)
    for folder in (tmp_path, *tmp_path.parents):
        if folder.is_relative_to("/tmp") and folder != Path("/tmp"):
            folder.chmod(folder.stat().st_mode | 0o011)
    try:
        subprocess.run([sys.executable, "-c", ""], user=12345, check=True)
    except PermissionError:
        pytest.skip("this Python lies where other users may not go")
    script = f"""
        import sys
        sys.path.insert(0, {str(REPOSITORY)!r})
        from pathlib import Path
        from qsmals.engine.environment import prepare_environment
        print(prepare_environment(Path({str(work)!r}))["LOGNAME"])
        import nipype, matplotlib.pyplot, numba
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        env={"PATH": os.environ["PATH"], "HOME": "/root"},
        user=12345,
        group=23456,
        extra_groups=[],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "uid12345"
