"""Batch systems, each in its own words: how a job is submitted, asked for, ended, and what its end is called.

A :class:`Queue` only makes commands and reads answers; :mod:`qsmals.engine.batch` runs nipype graphs on it.
"""

from qsmals.engine.queues.condor import Condor
from qsmals.engine.queues.gridengine import GridEngine
from qsmals.engine.queues.lsf import Lsf
from qsmals.engine.queues.oar import Oar
from qsmals.engine.queues.pbs import Pbs
from qsmals.engine.queues.queue import OUTAGE_S, POLL_S, UNKNOWN, Needs, Note, Queue, Refused, Silent, ask
from qsmals.engine.queues.slurm import Slurm

QUEUES: dict[str, type[Queue]] = {
    "SLURM": Slurm,
    "SGE": GridEngine,
    "PBS": Pbs,
    "LSF": Lsf,
    "OAR": Oar,
    "Condor": Condor,
}
"""By nipype's name."""

__all__ = ["OUTAGE_S", "POLL_S", "QUEUES", "UNKNOWN", "Needs", "Note", "Queue", "Refused", "Silent", "ask"]
