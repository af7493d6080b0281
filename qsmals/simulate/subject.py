"""One simulated person in one simulated scanner, from head to images and truth; arrays only."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qsmals.recon.dipole import dipole_field
from qsmals.recon.grid import Grid, b0_direction
from qsmals.simulate.acquisition import (
    ComplexArray,
    Sequence,
    coil_phase,
    coil_sensitivity,
    crop_kspace,
    majority,
    scan,
    seen_field,
    shim,
    steady_state,
)
from qsmals.simulate.anatomy import Head, bounding_box, brain_mask
from qsmals.simulate.dipole import field_from_susceptibility
from qsmals.simulate.geometry import FloatArray, random_field, random_motion, resample, rotation
from qsmals.simulate.labels import AIR
from qsmals.simulate.tissue import TISSUES, Person, tissue_maps
from qsmals.simulate.veins import veins

_STREAMS = ("person", "head", "deformation", "veins", "tissue", "shim", "coil", "noise", "motion", "t1w")
NECK_MM = 60.0
"""The lowest slice is continued downwards by this much for the field."""


@dataclass(frozen=True)
class SimulationSettings:
    """Everything that decides a simulated data set.

    Attributes
    ----------
    seed, participants : int
    sessions : tuple of str
        Session labels; empty for a data set without sessions.
    field_strength_tesla : float
    echo_times_s : tuple of float
    repetition_time_s : float or None
        None is 6 ms after the last echo.
    flip_angle_deg : float
    voxel_size_mm : (3,) float
        Of the gradient echo scan.
    simulation_voxel_size_mm : float or None
        Coarsest grid on which physics may run; None is the anatomy's voxel size.
    t1w_voxel_size_mm : float
    tilt_deg, tilt_axis
        Rotation of the head, and of the slabs that follow it, in the scanner.
    vendor : str
        ``siemens``, ``ge`` or ``philips``.
    bipolar : bool
    readout_shift_voxels : float
        Displacement of even echoes, bipolar only.
    snr : float
    motion_mm, motion_deg : float
        Size of the movement between the gradient echo scan and the T1w.
    als_effect_ppb : float
    deformation_mm : float
    extent : str
        ``head`` or ``brain``: what the field of view holds.
    slab_mm : float or None
        Height of the slab; None covers the brain from below to the top of the extent.
    """

    seed: int = 0
    participants: int = 2
    sessions: tuple[str, ...] = ()
    field_strength_tesla: float = 3.0
    echo_times_s: tuple[float, ...] = (0.004, 0.009, 0.014, 0.019, 0.024, 0.029)
    repetition_time_s: float | None = None
    flip_angle_deg: float = 15.0
    voxel_size_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)
    simulation_voxel_size_mm: float | None = None
    t1w_voxel_size_mm: float = 1.0
    tilt_deg: float = 0.0
    tilt_axis: tuple[float, float, float] = (1.0, 0.0, 0.0)
    vendor: str = "siemens"
    bipolar: bool = False
    readout_shift_voxels: float = 0.0
    snr: float = 80.0
    motion_mm: float = 1.0
    motion_deg: float = 1.0
    als_effect_ppb: float = 5.0
    deformation_mm: float = 3.0
    extent: str = "head"
    slab_mm: float | None = None

    def __post_init__(self) -> None:
        if self.participants < 1:
            raise ValueError(f"at least one participant, not {self.participants}")
        if min(self.voxel_size_mm) <= 0 or self.t1w_voxel_size_mm <= 0:
            raise ValueError("voxel sizes are positive")
        if self.extent not in ("head", "brain"):
            raise ValueError(f"the extent is head or brain, not {self.extent}")

    @property
    def sequence(self) -> Sequence:
        """The gradient echo scan."""
        return Sequence(
            echo_times_s=self.echo_times_s,
            repetition_time_s=self.repetition_time_s or self.echo_times_s[-1] + 0.006,
            flip_angle_deg=self.flip_angle_deg,
            b0_tesla=self.field_strength_tesla,
            snr=self.snr,
            bipolar=self.bipolar,
            bipolar_shift_voxels=self.readout_shift_voxels,
        )

    @property
    def tilt(self) -> NDArray[np.float64]:
        """(4, 4) rotation from head to scanner coordinates."""
        return rotation(self.tilt_axis, self.tilt_deg)


@dataclass(frozen=True)
class Body:
    """A person's property maps inside the field of view, on the grid of the physics.

    Attributes
    ----------
    amplitude : (x, y, z) float32
        Signal at zero echo time before the coil.
    r2star_hz, chi_ppm, field_ppm, local_ppm, shift_ppm : (x, y, z) float32
        ``chi_ppm`` has zero mean over the brain; ``field_ppm`` is before the shim; ``local_ppm``
        is the field of the sources in the brain.
    labels : (x, y, z) int16
    brain : (x, y, z) bool
    affine : (4, 4) float
        Voxel to head coordinates, mm.
    factors : tuple of int
        Voxel size of the scan over that of this grid.
    """

    amplitude: FloatArray
    r2star_hz: FloatArray
    chi_ppm: FloatArray
    field_ppm: FloatArray
    local_ppm: FloatArray
    shift_ppm: FloatArray
    labels: NDArray[np.int16]
    brain: NDArray[np.bool_]
    affine: NDArray[np.float64]
    factors: tuple[int, int, int]


@dataclass(frozen=True)
class Truth:
    """What a perfect reconstruction would find, on the grid of the scan."""

    chi_ppm: FloatArray
    r2star_hz: FloatArray
    total_ppm: FloatArray
    local_ppm: FloatArray
    magnitude: FloatArray
    labels: NDArray[np.int16]
    brain: NDArray[np.bool_]


def stream(seed: int, subject: int, name: str, session: int = 0) -> np.random.Generator:
    """Random numbers for one purpose of one subject's session, independent of all others."""
    key = (subject, _STREAMS.index(name), session)
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def make_person(seed: int, subject: int) -> Person:
    """Age, sex and group of a subject; even numbers are controls, odd ones have ALS."""
    rng = stream(seed, subject, "person")
    age = float(np.clip(np.round(rng.normal(60, 9)), 35, 80))
    return Person("ALS" if subject % 2 else "control", age, "M" if rng.random() < 0.55 else "F")


def physics_grid(
    voxel_size_mm: tuple[float, float, float], coarsest_mm: tuple[float, float, float]
) -> tuple[tuple[int, int, int], tuple[float, float, float]]:
    """Factors from the physics' grid to the scan's, and the physics' voxel size.

    Examples
    --------
    >>> physics_grid((1.0, 1.0, 2.0), (1.0, 1.0, 1.0))
    ((1, 1, 2), (1.0, 1.0, 1.0))
    >>> physics_grid((1.2, 1.2, 0.7), (1.0, 1.0, 1.0))
    ((2, 2, 1), (0.6, 0.6, 0.7))
    """
    factors = [max(1, int(np.ceil(v / c - 1e-3))) for v, c in zip(voxel_size_mm, coarsest_mm, strict=True)]
    size = [v / f for v, f in zip(voxel_size_mm, factors, strict=True)]
    return (factors[0], factors[1], factors[2]), (size[0], size[1], size[2])


def regrid(head: Head, vein_fraction: FloatArray, voxel_size_mm: tuple[float, float, float]) -> tuple[Head, FloatArray]:
    """Head and vein fraction on a grid of another voxel size over the same space."""
    if np.allclose(voxel_size_mm, head.voxel_size_mm, rtol=1e-6):
        return head, vein_fraction
    ratio = np.array(voxel_size_mm) / np.array(head.voxel_size_mm)
    x, y, z = (int(np.floor(n / r + 1e-6)) for n, r in zip(head.labels.shape, ratio, strict=True))
    matrix = np.diag([*ratio, 1.0])
    matrix[:3, 3] = (ratio - 1) / 2
    labels = resample(head.labels, matrix=matrix, shape=(x, y, z), order=0)
    t1w = resample(head.t1w, matrix=matrix, shape=(x, y, z))
    return Head(labels, t1w, head.affine @ matrix), resample(vein_fraction, matrix=matrix, shape=(x, y, z))


def field_of_view(
    head: Head, brain: NDArray[np.bool_], *, factors: tuple[int, int, int], settings: SimulationSettings
) -> tuple[slice, slice, slice]:
    """Voxels of the physics' grid that the scan covers, a whole number of the scan's voxels."""
    inner = [(s.start, s.stop) for s in bounding_box(brain)]
    whole = bounding_box(head.labels != AIR)
    outer = [(s.start, s.stop) for s in whole] if settings.extent == "head" else inner
    margin = 6.0 if settings.extent == "head" else 10.0
    spans = [[a - margin / v, b + margin / v] for (a, b), v in zip(outer, head.voxel_size_mm, strict=True)]
    spans[2][0] = inner[2][0] - 12.0 / head.voxel_size_mm[2]
    if settings.slab_mm is not None:
        middle, half = (inner[2][0] + inner[2][1]) / 2, settings.slab_mm / head.voxel_size_mm[2] / 2
        spans[2] = [max(spans[2][0], middle - half), min(spans[2][1], middle + half)]
    slices = []
    for (low, high), count, factor in zip(spans, head.labels.shape, factors, strict=True):
        start = max(0, int(np.ceil(low)))
        size = (min(count, int(np.floor(high))) - start) // (2 * factor) * 2 * factor
        slices.append(slice(start, start + max(size, factor)))
    return slices[0], slices[1], slices[2]


def scan_affine(body: Body) -> NDArray[np.float64]:
    """Voxel of the scan to head coordinates, mm."""
    factors = np.array(body.factors)
    matrix = np.diag([*factors, 1.0]).astype(float)
    matrix[:3, 3] = (factors - 1) / 2
    result: NDArray[np.float64] = body.affine @ matrix
    return result


def make_body(
    head: Head, vein_fraction: FloatArray, *, person: Person, subject: int, settings: SimulationSettings
) -> Body:
    """Property maps and fields of a person whose head has its veins.

    Parameters
    ----------
    head, vein_fraction
        From ``veins``.
    person : Person
    subject : int
        Number of the subject, from 0: chooses the random stream.
    settings : SimulationSettings
    """
    coarsest = settings.simulation_voxel_size_mm
    limit = head.voxel_size_mm if coarsest is None else (coarsest, coarsest, coarsest)
    factors, size = physics_grid(settings.voxel_size_mm, limit)
    blur_mm = 0.42 * float(np.mean(head.voxel_size_mm))
    fine, fraction = regrid(head, vein_fraction, size)
    maps = tissue_maps(
        fine,
        person=person,
        vein_fraction=fraction,
        b0_tesla=settings.field_strength_tesla,
        als_effect_ppb=settings.als_effect_ppb,
        blur_mm=blur_mm,
        rng=stream(settings.seed, subject, "tissue"),
    )
    brain = brain_mask(fine.labels, fine.voxel_size_mm)
    direction = b0_direction(settings.tilt)
    chi = maps.chi_ppm - np.float32(maps.chi_ppm[brain].mean(dtype=np.float64))
    local = _field_of_brain(chi, brain, fine, direction)
    field = _field_around_brain(chi, brain, fine, direction) + local
    box = field_of_view(fine, brain, factors=factors, settings=settings)
    affine = fine.affine.copy()
    affine[:3, 3] += np.diag(affine)[:3] * [s.start for s in box]
    sequence = settings.sequence
    amplitude = steady_state(
        maps.proton_density[box],
        maps.r1_hz[box],
        repetition_time_s=sequence.repetition_time_s,
        flip_angle_deg=sequence.flip_angle_deg,
    )
    return Body(
        amplitude=amplitude,
        r2star_hz=maps.r2star_hz[box],
        chi_ppm=chi[box],
        field_ppm=field[box],
        local_ppm=local[box],
        shift_ppm=maps.shift_ppm[box],
        labels=np.ascontiguousarray(fine.labels[box]),
        brain=np.ascontiguousarray(brain[box]),
        affine=affine,
        factors=factors,
    )


def _field_around_brain(
    chi_ppm: FloatArray, brain: NDArray[np.bool_], head: Head, direction: tuple[float, float, float]
) -> FloatArray:
    """Field of what surrounds the brain, in air, with the neck continued downwards; no grid holds air's jump."""
    neck = round(NECK_MM / head.voxel_size_mm[2])
    around = np.where(brain, np.float32(0), chi_ppm)
    longer = np.pad(around, ((0, 0), (0, 0), (neck, 0)), mode="edge")
    grid = Grid(longer.shape, head.voxel_size_mm, direction)
    air = float(chi_ppm[0, 0, -1])
    return field_from_susceptibility(longer, grid=grid, chi_outside_ppm=air)[:, :, neck:]


def _field_of_brain(
    chi_ppm: FloatArray, brain: NDArray[np.bool_], head: Head, direction: tuple[float, float, float]
) -> FloatArray:
    """Field of the sources inside the brain mask, which images hold up to their highest frequency."""
    sources = np.where(brain, chi_ppm, np.float32(0))
    return dipole_field(sources, Grid(sources.shape, head.voxel_size_mm, direction))


def acquire(
    body: Body, *, subject: int, session: int, settings: SimulationSettings
) -> tuple[Truth, Iterator[ComplexArray]]:
    """Truth and complex echoes of one session of a person.

    Returns
    -------
    Truth
    iterator of (x, y, z) complex64
        One image per echo, phase positive for paramagnetic fields.
    """
    rngs = {name: stream(settings.seed, subject, name, session) for name in ("shim", "coil", "noise")}
    shape = body.labels.shape
    field = shim(body.field_ppm, mask=body.brain, affine=body.affine, rng=rngs["shim"])
    offset = coil_phase(shape, affine=body.affine, rng=rngs["coil"])
    amplitude = body.amplitude * coil_sensitivity(shape, affine=body.affine, rng=rngs["coil"])
    brain = crop_kspace(body.brain.astype(np.float32), body.factors) > 0.5
    inside = body.brain.astype(np.float32)
    truth = Truth(
        chi_ppm=np.where(brain, crop_kspace(body.chi_ppm * inside, body.factors), np.float32(0)),
        r2star_hz=np.where(brain, crop_kspace(body.r2star_hz * inside, body.factors), np.float32(0)),
        total_ppm=seen_field(field + body.shift_ppm, amplitude, body.factors),
        local_ppm=np.where(brain, seen_field(body.local_ppm, amplitude * inside, body.factors), np.float32(0)),
        magnitude=np.abs(crop_kspace(amplitude, body.factors)),
        labels=majority(body.labels, body.factors),
        brain=brain,
    )
    echoes = scan(
        settings.sequence,
        amplitude=amplitude,
        r2star_hz=body.r2star_hz,
        field_ppm=field,
        shift_ppm=body.shift_ppm,
        offset_rad=offset,
        brain=brain,
        factors=body.factors,
        rng=rngs["noise"],
    )
    return truth, echoes


def with_veins(head: Head, *, subject: int, settings: SimulationSettings) -> tuple[Head, FloatArray]:
    """The head with its veins, also in the T1w."""
    marked, fraction = veins(head, rng=stream(settings.seed, subject, "veins"))
    dark = np.float32(TISSUES["vein"].t1w)
    t1w = head.t1w + fraction * (dark - head.t1w)
    return Head(marked.labels, t1w, head.affine), fraction


def motion(subject: int, session: int, settings: SimulationSettings) -> NDArray[np.float64]:
    """(4, 4) rigid motion in scanner coordinates from the gradient echo scan to the T1w."""
    rng = stream(settings.seed, subject, "motion", session)
    return random_motion(translation_mm=settings.motion_mm, rotation_deg=settings.motion_deg, rng=rng)


def scan_t1w(
    head: Head, *, moved: NDArray[np.float64], subject: int, session: int, settings: SimulationSettings
) -> tuple[FloatArray, NDArray[np.float64]]:
    """T1w of the moved head on its own grid.

    Returns
    -------
    (x, y, z) float32
        Intensity with noise and the coil's shading; white matter about 110.
    (4, 4) float
        Voxel to scanner coordinates, mm.
    """
    rng = stream(settings.seed, subject, "t1w", session)
    edge = settings.t1w_voxel_size_mm
    ratio = edge / np.array(head.voxel_size_mm)
    x, y, z = (int(n / r) for n, r in zip(head.labels.shape, ratio, strict=True))
    affine = np.diag([edge, edge, edge, 1.0])
    affine[:3, 3] = head.affine[:3, 3] + (ratio - 1) / 2 + np.array([0.37, -0.21, 0.44]) * edge
    pose = np.linalg.inv(settings.tilt) @ np.linalg.inv(moved) @ settings.tilt
    matrix = np.linalg.inv(head.affine) @ pose @ affine
    clean = resample(head.t1w, matrix=matrix, shape=(x, y, z))
    clean = clean * np.exp(np.float32(0.1) * random_field((x, y, z), affine=affine, spacing_mm=80.0, rng=rng))
    noise = rng.standard_normal((2, x, y, z), dtype=np.float32) * np.float32(2.2)
    return np.hypot(clean + noise[0], noise[1]), settings.tilt @ affine
