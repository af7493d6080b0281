"""What a report knows about one scan beyond its images: ``sub-<label>/log/<run>/<prefix>_facts.json``.

The workflow writes the file; every key but ``prefix`` may be missing.

``prefix`` : str
    Start of the scan's file names, e.g. ``sub-01_ses-A_run-1``.
``status`` : str
    ``finished`` or ``failed``.
``started`` : str
    ISO 8601 time at which the scan's workflow began.
``acquisition`` : object
    Sidecar fields under their BIDS names, and ``EchoTimes`` (s), ``VoxelSize`` (mm), ``MatrixSize``, ``Readout``
    (``monopolar`` or ``bipolar``), ``TiltDegrees``, ``B0Direction`` (voxel axes).
``echoes`` : list of object
    One per echo: ``echo``, ``echo_time_s``, and any further columns (``snr``, ``magnitude``, ``phase``).
``detected`` : list of object
    What was found out about the data: ``what`` (phase scale, phase sign, slice alternation, readout, tilt),
    ``found``, ``evidence``, and ``warning`` (true where a person should look).
``mask`` : object
    ``source`` (a phrase) and ``volume_ml``.
``reference`` : object
    ``region``, ``offsets_ppm`` and ``sd_ppm`` (objects of region to ppm under the map's reference).
``parameters`` : object
    Step to an object of its settings, ``method`` among them.
``registration`` : object
    Measure to value, e.g. overlap of tissue masks.
``images`` : object
    Files for figures that are no outputs, absolute or relative to the output folder, on the GRE grid: ``magnitude``
    and ``phase`` (3D or 4D with the echoes last, phase in rad), ``unwrapped`` (rad), ``quality`` (0..1),
    ``t1w_on_gre``; on the T1w grid ``t1w`` and ``t1w_labels``.
``warnings`` : list of str
``errors`` : list of object
    ``step``, ``message``, ``traceback``, ``advice``.
``times`` : list of object
    ``step``, ``seconds``, ``memory_gb``.
``software`` : object
    Package to version.
``methods`` : str
    Methods text of this scan, Markdown.
``bibtex`` : str
    The papers that it cites.

The facts of a scan's newest run are the ones that count: what went wrong in an earlier run of it is mended, and a later
run of other scans says nothing about it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class ScanFacts:
    """Content of a facts file; keys as in the module's description, unknown ones in ``other``."""

    prefix: str
    status: str = "finished"
    started: str = ""
    acquisition: Mapping[str, Any] = field(default_factory=dict)
    echoes: tuple[Mapping[str, Any], ...] = ()
    detected: tuple[Mapping[str, Any], ...] = ()
    mask: Mapping[str, Any] = field(default_factory=dict)
    reference: Mapping[str, Any] = field(default_factory=dict)
    parameters: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    registration: Mapping[str, Any] = field(default_factory=dict)
    images: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    errors: tuple[Mapping[str, Any], ...] = ()
    times: tuple[Mapping[str, Any], ...] = ()
    software: Mapping[str, str] = field(default_factory=dict)
    methods: str = ""
    bibtex: str = ""
    other: Mapping[str, Any] = field(default_factory=dict)

    @property
    def failed(self) -> bool:
        """Whether the scan has no complete result."""
        return self.status == "failed" or bool(self.errors)

    @property
    def b0_tesla(self) -> float | None:
        """Field strength, T, where it is known."""
        value = self.acquisition.get("MagneticFieldStrength")
        return float(value) if value else None


def read_facts(path: Path) -> ScanFacts:
    """Facts of one scan.

    Raises
    ------
    ValueError
        If the file is not JSON, has no prefix, or a key does not have its type.
    """
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}); run the subject again to write it anew") from None
    if not isinstance(content, dict) or not content.get("prefix"):
        raise ValueError(f"{path} names no prefix; run the subject again to write it anew")
    known = {f.name: f.default_factory() if callable(f.default_factory) else f.default for f in fields(ScanFacts)}
    values: dict[str, Any] = {}
    for key in known.keys() & content.keys() - {"other"}:
        values[key] = _as(known[key], content[key], f"{path}, {key}")
    return ScanFacts(**values, other={k: v for k, v in content.items() if k not in known})


def _as(default: Any, value: Any, where: str) -> Any:
    """``value`` in the type of ``default``; null is the default."""
    if value is None:
        return default
    if isinstance(default, tuple):
        if isinstance(value, list):
            return tuple(value)
        raise ValueError(f"{where}: a list is needed, not {type(value).__name__}")
    wanted = dict if isinstance(default, dict) else str
    if not isinstance(value, wanted):
        raise ValueError(f"{where}: {'an object' if wanted is dict else 'text'} is needed, not {type(value).__name__}")
    return value


def newest_facts(log: Path, run: str | None) -> tuple[dict[str, ScanFacts], list[str]]:
    """The newest facts of each prefix under ``sub-<label>/log``, and what could not be read.

    Parameters
    ----------
    log : Path
        The subject's log folder; names of runs begin with the time.
    run : str or None
        Folder of one run whose facts are preferred over newer ones.
    """
    found: dict[str, ScanFacts] = {}
    faults = []
    for path in sorted(log.glob("*/*_facts.json"), key=lambda path: (path.parent.name == run, path)):
        try:
            facts = read_facts(path)
        except ValueError as error:
            faults.append(str(error))
            continue
        found[facts.prefix] = facts
    return dict(sorted(found.items())), faults
