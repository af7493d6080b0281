"""nipype's engine on an IPython cluster (``ipcluster start``), mended.

nipype 1.11 and 1.12 wait for ever once no engine is left, fail without arguments, and lose a run in the
housekeeping of results. Here a lost engine fails its node, with the cluster's own word for it, and a
cluster without engines is given up after ``outage_s``.
"""

import logging
import pickle
import time
import traceback
from collections.abc import Mapping
from typing import Any

from nipype.pipeline.plugins.base import DistributedPluginBase

from qsmals.engine.progress import Measure, Reporting
from qsmals.engine.signals import check_interrupted

log = logging.getLogger(__name__)

OUTAGE_S = 600.0
# nipype's names of what connects to a cluster
CONNECTION = frozenset({"url_file", "profile", "cluster_id", "context", "debug", "timeout", "config", "username"})
CONNECTION |= {"sshserver", "sshkey", "password", "paramiko"}


class IPythonEngine(Reporting, DistributedPluginBase):  # type: ignore[misc]  # nipype has no types
    """Each node is a task of the cluster; ``plugin_args`` as nipype's, and ``outage_s``.

    Raises
    ------
    ValueError
        ipyparallel is not installed, or no cluster answers.
    """

    OWN_ARGS = Reporting.REPORTING_ARGS | {"outage_s", "itk_threads", "max_jobs", "status_callback"}

    def __init__(self, plugin_args: Mapping[str, Any] | None = None) -> None:
        args = dict(plugin_args or {})
        if unknown := sorted(set(args) - self.OWN_ARGS - CONNECTION):
            raise ValueError(f"the IPython engine knows no plugin_args {', '.join(unknown)}")
        super().__init__(plugin_args={k: v for k, v in args.items() if k in ("max_jobs", "status_callback")})
        self._itk_threads: int | None = args.get("itk_threads")
        self._outage_s = float(args.get("outage_s", OUTAGE_S))
        self._client = _connect({k: v for k, v in args.items() if k in CONNECTION})
        self._init_reporting(args)

    def _reset_reporting(self) -> None:
        super()._reset_reporting()
        self._tasks: dict[int, Any] = {}
        self._started: dict[int, float] = {}
        self._taskid = 0
        self._empty_since: float | None = None

    def _submit_job(self, node: Any, updatehash: bool = False) -> int:
        check_interrupted()
        self._taskid += 1
        threads = max(1, int(node.n_procs or 1))
        view = self._client.load_balanced_view()
        self._tasks[self._taskid] = view.apply_async(
            run_node, pickle.dumps(node), updatehash, threads, self._itk_threads
        )
        self._started[self._taskid] = time.monotonic()
        return self._taskid

    def _get_result(self, taskid: int) -> dict[str, Any] | None:
        check_interrupted()
        task = self._tasks[taskid]
        if not task.ready():
            return self._given_up()
        self._measure = Measure(seconds=time.monotonic() - self._started[taskid])
        try:
            answer: dict[str, Any] = task.get()
        except Exception as error:  # the engine died, or the answer cannot be read here
            return {
                "result": None,
                "traceback": [f"JobDied: the IPython cluster says {type(error).__name__}: {error}\n"],
            }
        return answer

    def _given_up(self) -> dict[str, Any] | None:
        """A failure, once there has been no engine for too long."""
        if self._client.ids:
            self._empty_since = None
            return None
        now = time.monotonic()
        if self._empty_since is None:
            self._empty_since = now
            log.warning("the IPython cluster has no engines; they are waited for")
        if now - self._empty_since < self._outage_s:
            return None
        why = f"JobDied: the IPython cluster has had no engine for {self._outage_s:.0f} s\n"
        return {"result": None, "traceback": [why]}

    def _clear_task(self, taskid: int) -> None:
        del self._tasks[taskid]

    def _abandon(self) -> None:
        """Take what has not started out of the cluster's queue."""
        left = [task for task in self._tasks.values() if not task.ready()]
        for task in left:
            try:
                task.abort()
            except Exception as error:  # it has started, or the cluster is gone
                log.debug("a task of the IPython cluster could not be taken back: %s", error)
        self._tasks = {}


def run_node(payload: bytes, updatehash: bool, threads: int, itk_threads: int | None) -> dict[str, Any]:
    """Run a pickled node on an engine: nipype's result, or the traceback as a list of lines."""
    import os

    from qsmals.engine.threads import thread_environment
    from qsmals.engine.threads import threads as narrowed

    cwd = os.getcwd()  # noqa: PTH109 - it goes back as it was
    # read by libraries that this engine has not loaded yet
    os.environ.update(thread_environment(threads, itk_threads=itk_threads))
    try:
        with narrowed(threads):
            return {"result": pickle.loads(payload).run(updatehash=updatehash), "traceback": None}
    except Exception as error:
        return {"result": None, "traceback": traceback.format_exception(error)}
    finally:
        os.chdir(cwd)


def _connect(words: dict[str, Any]) -> Any:
    try:
        import ipyparallel  # type: ignore[import-not-found]
    except ImportError:
        raise ValueError("the IPython engine needs ipyparallel: pip install ipyparallel") from None
    try:
        return ipyparallel.Client(**words)
    except Exception as error:
        raise ValueError(f"no IPython cluster answers ({error}): start one with ipcluster start") from error
