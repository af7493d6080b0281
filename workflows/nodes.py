"""One way to make a node: its words on the progress line, its threads and its memory."""

from dataclasses import dataclass
from typing import Any

from nipype.pipeline.engine import Node

from qsmals.engine.progress import announce
from qsmals.engine.resources import estimate_gb
from qsmals.interfaces.utility import ListOf


@dataclass(frozen=True)
class NodeMaker:
    """Makes the nodes of one scan.

    Attributes
    ----------
    unit : str
        Where in the data, as on the progress line.
    n_voxels, n_echoes : int
        Size of the scan, for the memory that a node asks for.
    omp_nthreads : int
        Threads of the nodes that use several.
    """

    unit: str
    n_voxels: int
    n_echoes: int
    omp_nthreads: int

    def make(
        self,
        interface: Any,
        name: str,
        *,
        step: str = "",
        volumes: float = 4.0,
        series: int = 0,
        n_voxels: int | None = None,
        base_gb: float | None = None,
        parallel: bool = False,
    ) -> Node:
        """A node that holds so many volumes and multi-echo series at once (float32)."""
        extra = {} if base_gb is None else {"base_gb": base_gb}
        size = n_voxels or self.n_voxels
        memory = estimate_gb(size, self.n_echoes if series else 0, volumes, n_series=max(series, 1), **extra)
        threads = self.omp_nthreads if parallel else 1
        return announce(Node(interface, name=name, n_procs=threads, mem_gb=memory), unit=self.unit, step=step)

    def join(self, name: str) -> Node:
        """Up to four values as a list; runs in no time and says nothing."""
        return announce(Node(ListOf(), name=name, mem_gb=0.1), unit=self.unit, step="")
