"""What is to be done for each scan, decided before any graph is built."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

from qsmals.bids.checks import ScanFacts
from qsmals.bids.given import NO_GRE, NO_T1W, GivenGre, GivenT1w
from qsmals.bids.layout import T1wScan, Unit
from qsmals.bids.names import Output
from qsmals.settings import Acquisition, Reconstruction, Settings
from qsmals.workflows.memory import Sizes, block_voxels, box_voxels


@dataclass(frozen=True)
class Limits:
    """Processors and memory of the run, all known."""

    nprocs: int
    omp_nthreads: int
    memory_gb: float


@dataclass(frozen=True)
class AtlasPlan:
    """An atlas beside the built-in one.

    Attributes
    ----------
    name : str
        Value of ``seg-``.
    file : Path
        Label image, or probabilities (4D).
    space : str
        A template, ``T1w`` or ``MEGRE``.
    probabilistic : bool
    regions : tuple of (index, name, hemisphere, members)
        Members are label values, or volume numbers from 1.
    table : str
        ``index name hemisphere`` as text.
    optional : tuple of int
        Numbers of regions that have no row where a subject has no voxel of them.
    """

    name: str
    file: Path
    space: str
    probabilistic: bool
    regions: tuple[tuple[int, str, str, tuple[int, ...]], ...]
    table: str
    optional: tuple[int, ...] = ()


@dataclass(frozen=True)
class ScanPlan:
    """One gradient-echo scan: its images, what the check found in them, and the files to write.

    Attributes
    ----------
    outputs : mapping of str to Output
        By key, see :func:`qsmals.bids.names.unit_outputs`.
    facts_file : Path
        Where the facts for the report go.
    methods : mapping of str to mapping
        Step to all its parameters, ``method`` among them: what the sidecars and the report state.
    software : mapping of str to str
        Package to version.
    given_t1w, given : GivenT1w, GivenGre
        What other pipelines have done already.
    atlases : tuple of AtlasPlan
        Those beside the built-in one.
    t1w_voxels : int
        Voxels of the T1w image.
    age : float or None
        Of the subject, years.
    """

    unit: Unit
    facts: ScanFacts
    outputs: Mapping[str, Output]
    facts_file: Path
    methods: Mapping[str, Mapping[str, Any]]
    software: Mapping[str, str]
    given_t1w: GivenT1w = NO_T1W
    given: GivenGre = NO_GRE
    atlases: tuple[AtlasPlan, ...] = ()
    t1w_voxels: int = 256**3
    age: float | None = None

    @property
    def t1w(self) -> T1wScan:
        """The T1-weighted image of a scan that is not ``alone``."""
        assert self.unit.t1w is not None
        return self.unit.t1w

    @property
    def sizes(self) -> Sizes:
        """Voxels of its images, for the memory that its steps ask for."""
        facts = self.facts
        grid, n_voxels = (facts.shape, facts.voxel_size_mm), prod(facts.shape)
        t1w_voxels = n_voxels if self.alone else self.t1w_voxels
        return Sizes(n_voxels, len(facts.te_s), t1w_voxels, block_voxels(*grid), box_voxels(*grid))

    @property
    def alone(self) -> bool:
        """Whether there is no T1w image: brain and atlas are found on the scan itself."""
        return self.unit.t1w is None


@dataclass(frozen=True)
class SubjectPlan:
    """All scans of one subject, its log folder, and the sessions that the run speaks of ('' for none)."""

    label: str
    scans: tuple[ScanPlan, ...]
    log_dir: Path
    sessions: tuple[str, ...] = ()

    def of_session(self, session: str) -> "SubjectPlan":
        """The part that concerns one session."""
        own = tuple(scan for scan in self.scans if (scan.unit.gre.session or "") == session)
        return replace(self, scans=own, sessions=(session,))

    @property
    def prefixes(self) -> frozenset[str]:
        """Prefixes of its scans and of their T1w images."""
        scans = [scan.unit.gre.prefix for scan in self.scans]
        return frozenset([*scans, *(scan.t1w.prefix for scan in self.scans if not scan.alone)])


@dataclass(frozen=True)
class RunPlan:
    """A whole run."""

    settings: Settings
    subjects: tuple[SubjectPlan, ...]
    limits: Limits


FIELD_METHODS = ("phase_offset", "unwrap", "field")
FIELD_DETECTION = ("phase_sign", "readout")
"""Stages, and what is detected in the data, on which the total field depends."""


def beside_given_field(settings: Settings, total_field: Path | None) -> list[str]:
    """A warning where settings that are not the default speak of a total field that is given, else nothing.

    They are no error: other scans of the run may have no such file, and the steps are done for the phase's reliability
    and noise, and where the given field has no value.
    """
    if total_field is None:
        return []
    recon, acquisition = settings.reconstruction, settings.acquisition
    chosen = {name: (getattr(recon, name), getattr(Reconstruction(), name)) for name in FIELD_METHODS}
    chosen |= {name: (getattr(acquisition, name), getattr(Acquisition(), name)) for name in FIELD_DETECTION}
    words = [f"{name.replace('_', '-')} {value}" for name, (value, default) in chosen.items() if value != default]
    words += [f"parameters of {m}" for m in (getattr(recon, name) for name in FIELD_METHODS) if m in recon.parameters]
    if not words:
        return []
    return [
        f"the total field is that of {total_field}: what was set for it ({', '.join(words)}) changes the map only "
        "through the reliability and noise of the phase, and where that field has no value; leave it out, or the field"
    ]


def graph_name(prefix: str, kind: str) -> str:
    """Name of a graph from the entities of a scan.

    >>> graph_name("sub-01_ses-A_run-1", "gre")
    'gre_ses_A_run_1_wf'
    """
    entities = "_".join(part for part in prefix.split("_") if not part.startswith("sub-"))
    words = re.sub(r"[^A-Za-z0-9]+", "_", entities).strip("_")
    return f"{kind}_{words}_wf" if words else f"{kind}_wf"


def unit_label(prefix: str) -> str:
    """Entities as a person reads them: ``sub-01 ses-A run-1``."""
    return prefix.replace("_", " ")
