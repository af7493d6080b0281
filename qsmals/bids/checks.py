"""Check a subject's input before any long work: every sidecar, every voxel, all faults at once."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import isfinite, prod
from pathlib import Path
from typing import Any

import numpy as np

from qsmals.bids.errors import Fault
from qsmals.bids.images import BadImage, ImageFacts, read_facts
from qsmals.bids.layout import PART_PAIRS, GreScan, SubjectInputs, T1wScan, as_number
from qsmals.recon.phase.scaling import PhaseValues, detect_phase_scale

TE_RANGE_S = (1e-5, 0.3)
"""Echo times that a gradient echo can have; larger ones are milliseconds by mistake."""

B0_RANGE_TESLA = (0.01, 25.0)
B0_TOLERANCE_TESLA = 1e-3
GRID_TOLERANCE_VOXELS = 0.05
MAX_MAGNITUDE_RISE = 1.25
"""No physics lets the whole-image magnitude rise by this factor from one echo to a later one."""

DARK_ECHO_SHARE = 1 / 3
"""An echo with less than this share of the magnitude of both echoes beside it holds no signal (design choice)."""

LARGEST_VALUE = 1e30
PHASE_UNITS = ("rad", "arbitrary")


@dataclass(frozen=True)
class ScanFacts:
    """What one reading of a scan's voxels found, so that nobody need read them again to know it.

    Attributes
    ----------
    prefix : str
        The scan's, e.g. ``sub-01_run-1``.
    shape : tuple of int, (3,)
    affine : tuple of tuple of float, (4, 4)
        Voxel to scanner coordinates, mm.
    voxel_size_mm : tuple of float, (3,)
    te_s : tuple of float, (e,)
        Echo times, s, in the order of the echoes.
    b0_tesla : float
        From the sidecars, or the override.
    parts : str
        ``polar`` or ``cartesian``.
    phase_min, phase_max : float or None
        Over the phase images of all echoes, after the headers' scaling; None for real and imaginary.
    phase_is_integer : bool or None
        Whether all phase values are whole numbers; None for real and imaginary.
    phase_units : str or None
        ``rad``, ``arbitrary`` or None where the sidecars do not say.
    magnitude_rms : tuple of float, (e,)
        Root mean square over all voxels of each echo.
    """

    prefix: str
    shape: tuple[int, int, int]
    affine: tuple[tuple[float, ...], ...]
    voxel_size_mm: tuple[float, float, float]
    te_s: tuple[float, ...]
    b0_tesla: float
    parts: str
    phase_min: float | None
    phase_max: float | None
    phase_is_integer: bool | None
    phase_units: str | None
    magnitude_rms: tuple[float, ...]


@dataclass(frozen=True)
class CheckedSubject:
    """The result of `check_subject`.

    Attributes
    ----------
    label : str
        Without ``sub-``.
    faults : tuple of Fault
        Those of the names and of the contents; the subject can be run when there are none.
    facts : mapping of str to ScanFacts
        Prefix of each gradient-echo scan without faults to what its voxels say.
    t1w_voxels : mapping of Path to int
        Number of voxels of each T1w image.
    """

    label: str
    faults: tuple[Fault, ...]
    facts: Mapping[str, ScanFacts] = field(default_factory=dict)
    t1w_voxels: Mapping[Path, int] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.faults


def check_subject(subject: SubjectInputs, *, b0_tesla: float | None = None) -> CheckedSubject:
    """Read a subject's sidecars and every voxel of its images, and report everything that is wrong.

    Parameters
    ----------
    subject : SubjectInputs
        From `qsmals.bids.layout.find_subjects`.
    b0_tesla : float, optional
        Field strength that replaces ``MagneticFieldStrength``, T.
    """
    checker = _Checker(subject.label, b0_tesla)
    for unit in subject.units:
        checker.check_gre(unit.gre)
    for t1w in subject.t1w_scans:
        checker.check_t1w(t1w)
    return CheckedSubject(subject.label, (*subject.faults, *checker.faults), checker.facts, checker.t1w_voxels)


class _Checker:
    """Collects the faults of one subject."""

    def __init__(self, label: str, b0_tesla: float | None) -> None:
        self.label = label
        self.b0_tesla = b0_tesla
        self.faults: list[Fault] = []
        self.facts: dict[str, ScanFacts] = {}
        self.t1w_voxels: dict[Path, int] = {}

    def fault(self, code: str, what: str, remedy: str, files: Iterable[Path] = ()) -> None:
        fault = Fault(self.label, code, what, remedy, tuple(files))
        if fault not in self.faults:
            self.faults.append(fault)

    def check_gre(self, gre: GreScan) -> None:
        before = len(self.faults)
        self._check_sidecars(gre.sidecars)
        self._check_echo_times(gre)
        b0_tesla = self._check_field_strength(gre)
        self._check_phase_units(gre)
        images = {path: facts for path in gre.all_files if (facts := self._check_image(path))}
        self._check_grids(list(images.values()))
        self._check_echo_contents(gre, images)
        complete = all(part in echo.files for echo in gre.echoes for part in PART_PAIRS[gre.parts])
        if complete and b0_tesla is not None and len(self.faults) == before:
            self.facts[gre.prefix] = _scan_facts(gre, images, b0_tesla)

    def check_t1w(self, t1w: T1wScan) -> None:
        self._check_sidecars(t1w.sidecars)
        if facts := self._check_image(t1w.file):
            self.t1w_voxels[t1w.file] = prod(facts.shape)

    # sidecars

    def _check_sidecars(self, sidecars: Iterable[Any]) -> None:
        for sidecar in sidecars:
            if sidecar.problem:
                self.fault("json", sidecar.problem, "Mend the sidecar", [sidecar.path])

    def _check_echo_times(self, gre: GreScan) -> None:
        usable = True
        for echo in gre.echoes:
            for part, path in echo.files.items():
                usable &= self._check_echo_time(path, echo.metadata[part].get("EchoTime"))
            times = {as_number(m.get("EchoTime")) for m in echo.metadata.values()}
            if usable and len(times) > 1:
                what = f"the parts of echo {echo.index} have different EchoTime ({_listed(times)} s)"
                self.fault("echo-time", what, "Correct the sidecars", echo.files.values())
                usable = False
        if usable:
            self._check_echo_order(gre)

    def _check_echo_time(self, path: Path, value: Any) -> bool:
        number = as_number(value)
        low, high = TE_RANGE_S
        if value is None:
            remedy = "Add EchoTime, in seconds, to the image's JSON sidecar"
            self.fault("echo-time", "EchoTime is missing", remedy, [path])
        elif number is None:
            self.fault("echo-time", f"EchoTime is {_shown(value)}, not a number", "Write a number in seconds", [path])
        elif number > high:
            remedy = f"BIDS wants seconds: if this is in milliseconds write {number / 1000:.6g}"
            self.fault("echo-time", f"EchoTime {number:g} s is too long for a gradient echo", remedy, [path])
        elif number < low:
            self.fault("echo-time", f"EchoTime {number:g} s is impossible", "Write the echo time in seconds", [path])
        else:
            return True
        return False

    def _check_echo_order(self, gre: GreScan) -> None:
        """Echo times must rise with the echo index."""
        files = gre.files_of_first_part
        same = [(a, b) for a, b in pairwise(sorted(gre.echoes, key=lambda e: e.time_s)) if a.time_s == b.time_s]
        if same:
            what = f"echoes {same[0][0].index} and {same[0][1].index} have the same EchoTime ({same[0][0].time_s:g} s)"
            remedy = "Correct EchoTime in the sidecars, or remove the echo that is there twice"
            self.fault("echo-time-twice", what, remedy, files)
        elif list(gre.te_s) != sorted(gre.te_s):
            numbers = _listed(echo.index for echo in gre.echoes)
            what = f"the echoes are shuffled: echoes {numbers} have EchoTime {_listed(gre.te_s)} s"
            remedy = "Number the echoes by their echo time, or correct EchoTime where the sidecars were mixed up"
            self.fault("echo-order", what, remedy, files)

    def _check_field_strength(self, gre: GreScan) -> float | None:
        """The field strength to use, T; None after a fault."""
        values = [m.get("MagneticFieldStrength") for echo in gre.echoes for m in echo.metadata.values()]
        numbers = [as_number(v) for v in values]
        files = gre.files_of_first_part
        low, high = B0_RANGE_TESLA
        if self.b0_tesla is not None:
            return self._check_given_field_strength(gre, self.b0_tesla, numbers)
        remedy = "Write it in tesla in the JSON sidecars, or give --field-strength"
        if all(v is None for v in values):
            self.fault("field-strength", "MagneticFieldStrength is missing", remedy, files)
        elif any(n is None for n in numbers):
            odd = [path for path, n in zip(gre.all_files, numbers, strict=True) if n is None]
            self.fault("field-strength", "MagneticFieldStrength is missing or not a number", remedy, odd)
        else:
            found = sorted({n for n in numbers if n is not None})
            if found[0] < low or found[-1] > high:
                self.fault("field-strength", f"MagneticFieldStrength {_listed(found)} is not in tesla", remedy, files)
            elif found[-1] - found[0] > B0_TOLERANCE_TESLA:
                what = f"MagneticFieldStrength differs between the images ({_listed(found)} T)"
                self.fault("field-strength", what, remedy, files)
            else:
                return found[0]
        return None

    def _check_given_field_strength(
        self, gre: GreScan, b0_tesla: float, numbers: Sequence[float | None]
    ) -> float | None:
        """The field strength given, T, in place of what is missing or impossible; None where a sidecar differs."""
        low, high = B0_RANGE_TESLA
        against = [
            (path, number)
            for path, number in zip(gre.all_files, numbers, strict=True)
            if number is not None and low <= number <= high and abs(number - b0_tesla) > B0_TOLERANCE_TESLA
        ]
        if not against:
            return b0_tesla
        found = _listed(sorted({number for _, number in against}))
        what = f"MagneticFieldStrength is {found} T, but --field-strength says {b0_tesla:g}"
        remedy = "Leave out --field-strength, or correct the JSON sidecars if they are wrong"
        self.fault("field-strength", what, remedy, [path for path, _ in against])
        return None

    def _check_phase_units(self, gre: GreScan) -> None:
        for echo in gre.echoes:
            units = echo.metadata.get("phase", {}).get("Units", "arbitrary")
            if units not in PHASE_UNITS:
                what = f"Units is {_shown(units)} where BIDS allows rad and arbitrary"
                self.fault("units", what, "Correct it in the JSON sidecar", [echo.files["phase"]])

    # voxels

    def _check_image(self, path: Path) -> ImageFacts | None:
        """Facts of a readable image; None after a fault that makes the rest pointless."""
        try:
            facts = read_facts(path)
        except BadImage as bad:
            self.fault(bad.code, bad.what, bad.remedy, [path])
            return None
        if facts.n_nonfinite:
            what = f"has {facts.n_nonfinite} voxels that are NaN or infinite"
            self.fault("nan", what, "Put 0 there, or export the image again", [path])
        elif facts.minimum == facts.maximum:
            what = f"has the value {facts.minimum:g} in every voxel"
            self.fault("constant", what, "Export the image again: it holds no measurement", [path])
        elif max(abs(facts.minimum), abs(facts.maximum)) > LARGEST_VALUE:
            what = f"has values up to {max(abs(facts.minimum), abs(facts.maximum)):.3g}, which no scanner writes"
            self.fault("values", what, "Convert the image again", [path])
        return facts

    def _check_grids(self, images: Sequence[ImageFacts]) -> None:
        """All images of a scan must lie on the first one's grid."""
        remedy = "All echoes and parts must be from one scan, without resampling: choose matching files"
        for image in images[1:]:
            first = images[0]
            if image.shape != first.shape:
                what = f"the grids differ: {_sizes(first.shape)} and {_sizes(image.shape)} voxels"
            elif (shift := _corner_shift_voxels(first, image)) > GRID_TOLERANCE_VOXELS:
                what = f"the grids differ: a corner lies {shift:.2g} voxels away (affine)"
            else:
                continue
            self.fault("grid", what, remedy, [first.path, image.path])

    def _check_echo_contents(self, gre: GreScan, images: Mapping[Path, ImageFacts]) -> None:
        if gre.parts == "polar":
            self._check_radians(gre, images)
        rms = _magnitude_rms(gre, images)
        known = [(value, echo) for echo, value in zip(gre.echoes, rms, strict=True) if isfinite(value)]
        if list(gre.te_s) != sorted(gre.te_s):
            return
        for count, (after, second) in enumerate(known[1:], 1):
            before, first = min(known[:count], key=lambda pair: pair[0])
            if after > MAX_MAGNITUDE_RISE * before > 0:
                part = PART_PAIRS[gre.parts][0]
                earlier = [value for value, echo in known[:count] if echo.time_s < first.time_s]
                if earlier and before < DARK_ECHO_SHARE * min(earlier[-1], after):
                    share = 100 * before / min(earlier[-1], after)
                    what = f"echo {first.index} is dark: its magnitude is {share:.0f} % of that of the echoes beside it"
                    remedy = (
                        "It holds noise, or another echo's image: export it again, or leave it out with "
                        '--bids-filter-file and the echoes to use: {"megre": {"echo": [...]}}'
                    )
                    self.fault("dark-echo", what, remedy, [first.files[part]])
                    return
                what = (
                    f"the magnitude rises from echo {first.index} to echo {second.index} by {after / before:.2f} times"
                )
                remedy = "A gradient echo decays: check that the files of the echoes are not shuffled or rescaled"
                self.fault("echo-order", what, remedy, [first.files[part], second.files[part]])
                return

    def _check_radians(self, gre: GreScan, images: Mapping[Path, ImageFacts]) -> None:
        """Phase that its sidecar calls rad must be a wrapped phase: each echo's, and that of all echoes together."""
        declared = [e for e in gre.echoes if e.metadata.get("phase", {}).get("Units") == "rad"]
        known = [facts for e in declared if (facts := images.get(e.files["phase"])) and isfinite(facts.minimum)]
        bad = [[facts] for facts in known if not _in_radians([facts], gre)]
        if not bad and known and not _in_radians(known, gre):
            bad = [known]
        for group in bad:
            low, high = min(facts.minimum for facts in group), max(facts.maximum for facts in group)
            what = f"Units says rad, but the values go from {low:g} to {high:g}"
            remedy = (
                'Write "Units": "arbitrary" for a phase in scanner units; radians go from -pi to pi, or from 0 to 2 pi'
            )
            self.fault("units", what, remedy, [facts.path for facts in group])


def _in_radians(images: Sequence[ImageFacts], gre: GreScan) -> bool:
    """Whether the reconstruction will take phase images whose sidecars say rad as radians."""
    values = PhaseValues(
        minimum=min(facts.minimum for facts in images),
        maximum=max(facts.maximum for facts in images),
        step=1.0 if all(facts.is_integer for facts in images) else 0.0,
    )
    try:
        scale = detect_phase_scale(values, units="rad", manufacturer=str(gre.metadata.get("Manufacturer", "")))
    except ValueError:
        return False
    return scale.factor == 1.0


def _magnitude_rms(gre: GreScan, images: Mapping[Path, ImageFacts]) -> tuple[float, ...]:
    """Root mean square magnitude of each echo; NaN where an image is missing or bad."""

    def rms(echo_files: Mapping[str, Path]) -> float:
        parts = ("mag",) if gre.parts == "polar" else PART_PAIRS["cartesian"]
        found = [images.get(echo_files.get(part, Path())) for part in parts]
        squares = [facts.rms**2 if facts and not facts.n_nonfinite else float("nan") for facts in found]
        return float(np.sqrt(np.sum(squares)))

    return tuple(rms(echo.files) for echo in gre.echoes)


def _scan_facts(gre: GreScan, images: Mapping[Path, ImageFacts], b0_tesla: float) -> ScanFacts:
    first = images[gre.all_files[0]]
    phases = [images[path] for path in gre.files("phase")] if gre.parts == "polar" else []
    edges = np.linalg.norm(np.array(first.affine)[:3, :3], axis=0)
    return ScanFacts(
        prefix=gre.prefix,
        shape=first.shape,
        affine=first.affine,
        voxel_size_mm=(float(edges[0]), float(edges[1]), float(edges[2])),
        te_s=gre.te_s,
        b0_tesla=b0_tesla,
        parts=gre.parts,
        phase_min=min((p.minimum for p in phases), default=None),
        phase_max=max((p.maximum for p in phases), default=None),
        phase_is_integer=all(p.is_integer for p in phases) if phases else None,
        phase_units=gre.phase_units,
        magnitude_rms=_magnitude_rms(gre, images),
    )


def _corner_shift_voxels(a: ImageFacts, b: ImageFacts) -> float:
    """Largest distance between the same corner of two volumes, in voxels of the first."""
    corners = np.array([[i, j, k, 1] for i in (0, a.shape[0]) for j in (0, a.shape[1]) for k in (0, a.shape[2])])
    first, second = np.array(a.affine), np.array(b.affine)
    distance_mm = np.linalg.norm((corners @ (first - second).T)[:, :3], axis=1).max()
    return float(distance_mm / np.linalg.norm(first[:3, :3], axis=0).min())


def _sizes(shape: Iterable[int]) -> str:
    return " x ".join(map(str, shape))


def _listed(values: Iterable[Any]) -> str:
    return ", ".join(f"{v:g}" if isinstance(v, int | float) else str(v) for v in values)


def _shown(value: Any) -> str:
    """A JSON value as short text."""
    text = repr(value) if not isinstance(value, int) or isinstance(value, bool) else "a number out of range"
    return text if len(text) <= 40 else text[:37] + "..."
