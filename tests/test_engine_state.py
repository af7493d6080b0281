"""Locks and the summary: several processes on one OUTPUT_DIR."""

import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from qsmals.engine import lock as lock_module
from qsmals.engine import summary as summary_module
from qsmals.engine.lock import Lock, LockHeld, SubjectLock, read_holder, this_process
from qsmals.engine.summary import (
    Failure,
    SubjectSummary,
    duration,
    exit_code,
    merge_summary,
    read_summary,
    summary_lines,
)

REPOSITORY = Path(__file__).resolve().parents[1]


def hold_in_another_process(output_dir, label="01"):
    script = f"""
        import sys, time
        sys.path.insert(0, {str(REPOSITORY)!r})
        from qsmals.engine.lock import SubjectLock
        with SubjectLock({str(output_dir)!r}, {label!r}):
            print("held", flush=True)
            time.sleep(60)
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


def test_lock_says_who_holds_it(tmp_path):
    other = hold_in_another_process(tmp_path)
    try:
        with pytest.raises(LockHeld) as caught, SubjectLock(tmp_path, "sub-01"):
            pytest.fail("two holders")
        holder = caught.value.holder
        assert holder.pid == other.pid and holder.since.startswith("20")
        text = str(caught.value)
        assert "sub-01" in text and f"process {other.pid}" in text and str(caught.value.path) in text
        assert str(pickle.loads(pickle.dumps(caught.value))) == text
        with SubjectLock(tmp_path, "02") as free:
            assert free.held
    finally:
        other.kill()
        other.wait()


def test_lock_of_a_killed_process_is_taken_over(tmp_path):
    other = hold_in_another_process(tmp_path)
    other.send_signal(signal.SIGKILL)
    other.wait()
    assert read_holder(tmp_path / "logs/sub-01.lock").pid == other.pid
    with SubjectLock(tmp_path, "01"):
        assert read_holder(tmp_path / "logs/sub-01.lock").pid == os.getpid()
    assert list((tmp_path / "logs").iterdir()) == []


def test_lock_waits(tmp_path):
    other = hold_in_another_process(tmp_path)
    other.kill()  # dies while we wait
    with SubjectLock(tmp_path, "01", wait_s=10) as lock:
        assert lock.held
        with pytest.raises(RuntimeError, match="already"):
            lock.acquire()
    other.wait()


def foreign(path, *, age_s=0.0, **changes):
    """The lock of a process on another machine, last touched ``age_s`` seconds ago."""
    content = asdict(this_process(flocked=False)) | {"host": "node7", "kernel": "other", "pid": 1} | changes
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))
    then = time.time() - age_s
    os.utime(path, (then, then))


def test_lock_of_another_machine_goes_stale_by_age(tmp_path):
    path = tmp_path / "logs/sub-01.lock"
    foreign(path, age_s=lock_module.STALE_S / 2)
    with pytest.raises(LockHeld, match="node7"):
        SubjectLock(tmp_path, "01").acquire()
    foreign(path, age_s=lock_module.STALE_S * 2)
    with SubjectLock(tmp_path, "01"):
        assert read_holder(path).host != "node7"


def test_lock_of_the_job_before_it_was_requeued(tmp_path, monkeypatch):
    path = tmp_path / "logs/sub-01.lock"
    foreign(path, job="4711", restarts=0)
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    with pytest.raises(LockHeld, match="job 4711"):
        SubjectLock(tmp_path, "01").acquire()
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    SubjectLock(tmp_path, "01").acquire().release()


@pytest.mark.parametrize(("number", "index"), [("LSB_JOBID", "LSB_JOBINDEX"), ("JOB_ID", "SGE_TASK_ID")])
def test_lock_of_another_task_of_an_array_of_one_number(tmp_path, monkeypatch, number, index):
    for name in lock_module.JOB_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "logs/sub-01.lock"
    monkeypatch.setenv(number, "7")
    monkeypatch.setenv(index, "1")
    foreign(path)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    monkeypatch.setenv(index, "2")
    with pytest.raises(LockHeld, match=r"job 7\[1\]"):
        SubjectLock(tmp_path, "01").acquire()
    monkeypatch.setenv(index, "1")  # the task that held it, again
    SubjectLock(tmp_path, "01").acquire().release()


def test_lock_without_hard_links(tmp_path, monkeypatch):
    def refuse(*args):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(lock_module.os, "link", refuse)
    with Lock(tmp_path / "a.lock"):
        with pytest.raises(LockHeld):
            Lock(tmp_path / "a.lock").acquire()
        assert read_holder(tmp_path / "a.lock").pid == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_heartbeat(tmp_path, monkeypatch):
    monkeypatch.setattr(lock_module, "HEARTBEAT_S", 0.02)
    with Lock(tmp_path / "a.lock") as lock:
        os.utime(lock.path, (0, 0))
        deadline = time.monotonic() + 5
        while lock.path.stat().st_mtime == 0 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert lock.path.stat().st_mtime > 0


def wait_for(condition):
    deadline = time.monotonic() + 5
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


def test_heartbeat_survives_a_file_server_that_is_away(tmp_path, monkeypatch):
    monkeypatch.setattr(lock_module, "HEARTBEAT_S", 0.02)
    utime, calls = os.utime, []

    def away_twice(*args):
        calls.append(args)
        if len(calls) < 3:
            raise OSError(116, "Stale file handle")
        utime(*args)

    with Lock(tmp_path / "a.lock") as lock:
        os.utime(lock.path, (0, 0))
        monkeypatch.setattr(lock_module.os, "utime", away_twice)
        assert wait_for(lambda: lock.path.stat().st_mtime > 0) and len(calls) >= 3


def test_a_holder_is_told_that_its_lock_was_taken(tmp_path, monkeypatch):
    monkeypatch.setattr(lock_module, "HEARTBEAT_S", 0.02)
    told = []
    path = tmp_path / "logs/sub-01.lock"
    with SubjectLock(tmp_path, "01", on_lost=told.append):
        path.unlink()
        foreign(path)
        assert wait_for(lambda: told)
    assert [holder.host for holder in told] == ["node7"]
    assert read_holder(path).host == "node7", "it is not ours to remove any more"


def test_one_process_breaks_a_dead_lock(tmp_path):
    path, breaker = tmp_path / "logs/sub-01.lock", tmp_path / "logs/.sub-01.lock.breaking"
    foreign(path, age_s=lock_module.STALE_S * 2)
    breaker.touch()
    with pytest.raises(LockHeld):
        SubjectLock(tmp_path, "01").acquire()
    then = time.time() - lock_module.STALE_S * 2
    os.utime(breaker, (then, then))  # whoever was at it was killed
    with SubjectLock(tmp_path, "01", wait_s=5):
        assert read_holder(path).pid == os.getpid() and not breaker.exists()


def test_leftovers_of_killed_processes_are_swept(tmp_path):
    old, new = tmp_path / ".a.lock.0123456789ab", tmp_path / ".a.lock.ba9876543210"
    for path in (old, new, tmp_path / ".clock.0123456789ab"):
        path.touch()
    then = time.time() - 2 * lock_module.LEFT_OVER_S
    for path in (old, tmp_path / ".clock.0123456789ab"):
        os.utime(path, (then, then))
    with Lock(tmp_path / "a.lock"):
        assert sorted(p.name for p in tmp_path.iterdir()) == [".a.lock.ba9876543210", "a.lock"]


def test_summary_outwaits_a_holder_that_died_elsewhere(tmp_path, monkeypatch):
    assert summary_module.LOCK_WAIT_S > lock_module.STALE_S
    monkeypatch.setattr(summary_module, "LOCK_WAIT_S", 0.05)
    foreign(tmp_path / "logs/.summary.json.lock")
    with pytest.raises(LockHeld, match="node7"):
        merge_summary(tmp_path / "logs/summary.json", [SubjectSummary("sub-01", "ok")])


def _merge_many(path, first):
    for i in range(first, first + 5):
        merge_summary(path, [SubjectSummary(f"sub-{i:02d}", "ok", seconds=1.0)])


def test_summary_merged_by_many_processes(tmp_path):
    path = tmp_path / "logs/summary.json"
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_merge_many, args=(path, first)) for first in (0, 5, 10)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert sorted(read_summary(path)) == [f"sub-{i:02d}" for i in range(15)]
    assert [p.name for p in path.parent.iterdir()] == ["summary.json"]


def test_summary_round_trip_and_replacement(tmp_path):
    path = tmp_path / "summary.json"
    failure = Failure("sub-01 run-1", "unwrap", "killed by signal 9", "/out/crash.txt")
    bad = SubjectSummary("sub-01", "failed", "unwrap failed", (failure,), seconds=372.0, peak_memory_gb=3.14)
    merge_summary(path, [bad, SubjectSummary("sub-02", "ok", warnings=("look",))])
    assert read_summary(path)["sub-02"].warnings == ("look",)
    assert read_summary(path)["sub-01"] == bad
    merge_summary(path, [SubjectSummary("sub-01", "ok")])
    assert {k: v.status for k, v in read_summary(path).items()} == {"sub-01": "ok", "sub-02": "ok"}


def test_summary_keeps_the_sessions_that_a_run_was_not_asked_for(tmp_path):
    path = tmp_path / "summary.json"
    failures = (Failure("sub-01 ses-A run-1", "unwrap", "killed"), Failure("sub-01 ses-B", "invert", "no memory"))
    whys = {"A": "unwrap: killed", "B": "invert: no memory"}
    both = SubjectSummary("sub-01", "failed", whys["A"], failures, sessions=dict.fromkeys("AB", "failed"),
                          session_whys=whys)  # fmt: skip
    merge_summary(path, [both])
    assert read_summary(path)["sub-01"] == both

    def run_again(label, status, why=""):
        entry = SubjectSummary(
            "sub-01", status, why, sessions={label: status}, session_whys={label: why} if why else {}
        )
        merge_summary(path, [entry], keep_sessions=True)
        return read_summary(path)["sub-01"]

    after = run_again("B", "ok")
    assert (after.status, after.why) == ("failed", "ses-A: unwrap: killed")
    assert after.sessions == {"A": "failed", "B": "ok"} and after.failures == failures[:1]
    after = run_again("B", "invalid", "no phase")
    assert (after.status, after.why) == ("failed", "no phase; ses-A: unwrap: killed")
    after = run_again("A", "ok")
    assert (after.status, after.why, after.failures) == ("invalid", "ses-B: no phase", ())
    after = run_again("B", "ok")
    assert (after.status, after.why, after.sessions) == ("ok", "", {"A": "ok", "B": "ok"})
    merge_summary(path, [SubjectSummary("sub-01", "ok", sessions={"A": "ok"})])  # of a run of all that is there
    assert read_summary(path)["sub-01"].sessions == {"A": "ok"}


def test_summary_of_a_version_without_sessions_is_read(tmp_path):
    path = tmp_path / "summary.json"
    path.write_text('{"subjects": {"sub-01": {"status": "failed", "why": "x", "host": "n1"}}}')
    assert read_summary(path)["sub-01"].sessions == {}
    merge_summary(path, [SubjectSummary("sub-01", "ok", sessions={"B": "ok"})], keep_sessions=True)
    assert read_summary(path)["sub-01"].status == "ok"
    with pytest.raises(ValueError, match="'well' is none of"):
        SubjectSummary("sub-01", "ok", sessions={"A": "well"})


def test_summary_that_is_none_is_moved_aside(tmp_path, caplog):
    path = tmp_path / "summary.json"
    path.write_text("{half")
    with pytest.raises(ValueError, match="not a summary"):
        read_summary(path)
    merge_summary(path, [SubjectSummary("sub-01", "ok")])
    (aside,) = tmp_path.glob("summary.unreadable-*.json")
    assert aside.read_text() == "{half" and "moved to" in caplog.text
    assert list(read_summary(path)) == ["sub-01"]


def test_summary_exit_codes_and_lines():
    ok = SubjectSummary("sub-01", "ok", seconds=12.34, peak_memory_gb=3.14)
    failure = Failure("sub-02 run-1", "unwrap", "killed by signal 9", "/out/crash.txt")
    failed = SubjectSummary("sub-02", "failed", "1 step failed", (failure,))
    invalid = SubjectSummary("sub-03", "invalid", "no EchoTime")
    incomplete = SubjectSummary("sub-04", "incomplete", "no report")
    assert [exit_code(e) for e in ([], [ok], [ok, incomplete], [incomplete, invalid], [invalid, failed])] == [
        0,
        0,
        5,
        3,
        1,
    ]
    assert summary_lines([ok]) == ["sub-01  ok          12.3 s, peak 3.1 GB", "All well: 1 subject"]
    lines = summary_lines([failed, ok])
    assert (
        lines[0].startswith("sub-01")
        and lines[2] == "    unwrap [sub-02 run-1]: killed by signal 9 (see /out/crash.txt)"
    )
    assert lines[-1] == "1 of 2 subjects did not finish well: sub-02"
    warned = replace(ok, warnings=("sub-01_run-1: the registration is poor",))
    assert summary_lines([warned])[1] == "    warning: sub-01_run-1: the registration is poor"
    assert duration(59.96) == "60.0 s" and duration(3600) == "1 h 0 min"
    with pytest.raises(ValueError, match="status 'good'"):
        SubjectSummary("sub-01", "good")
