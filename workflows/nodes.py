"""One way to make a node: its words on the progress line, its threads and its memory."""

from dataclasses import dataclass
from typing import Any

from nipype.pipeline.engine import Node

from qsmals.engine.progress import announce
from qsmals.interfaces.utility import ListOf
from qsmals.workflows.memory import Sizes, need_of


@dataclass(frozen=True)
class NodeMaker:
    """Makes the nodes of one scan.

    Attributes
    ----------
    unit : str
        Where in the data, as on the progress line.
    sizes : Sizes
        Of the images, for the memory that a node asks for.
    omp_nthreads : int
        Threads of the nodes that use several.
    """

    unit: str
    sizes: Sizes
    omp_nthreads: int

    def make(self, interface: Any, name: str, *, step: str = "", need: str = "", parallel: bool = False) -> Node:
        """A node that asks for the memory that ``need`` (or else its name) stands for in `qsmals.workflows.memory`."""
        wanted = need_of(need or name)
        threads = self.omp_nthreads if parallel else 1
        node = Node(interface, name=name, n_procs=threads, mem_gb=wanted.gigabytes(self.sizes))
        node.qsmals_base_gb = wanted.base_gb
        return announce(node, unit=self.unit, step=step)

    def join(self, name: str) -> Node:
        """Up to four values as a list; runs in no time and says nothing."""
        return self.make(ListOf(), name, need="join")
