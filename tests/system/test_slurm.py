"""Studies on a real SLURM: an array with its group job, tasks that are cancelled, killed or lose their node."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.machine import must, need, need_root
from tests.system.slurm import COMMANDS, Cluster


@pytest.fixture(scope="module")
def cluster(shared: Path) -> Iterator[Cluster]:
    """Two nodes."""
    need_root()
    need(*COMMANDS)
    found = Cluster(shared / "slurm")
    try:
        found.start()
        yield found
    finally:
        found.stop()


def test_nodes_share_neither_name_nor_tmp(cluster: Cluster, shared: Path) -> None:
    out = shared / "names"
    wait = ("--wait", "--mem=50", "--output=/dev/null")
    script = f"#!/bin/sh\nhostname >> {out}; ls /tmp | wc -l >> {out}\n"
    (shared / "job.sh").write_text(script)
    for node in cluster.nodes:
        must("sbatch", *wait, f"--nodelist={node}", shared / "job.sh", env=cluster.env)
    assert out.read_text().split() == ["n1", "0", "n2", "0"]
