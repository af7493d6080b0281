"""From field and tissue to the complex images of a multi-echo spoiled gradient echo scan.

References
----------
Marques JP, et al. QSM reconstruction challenge 2.0: A realistic in silico head phantom for MRI data
simulation and evaluation of susceptibility mapping procedures. Magn Reson Med 2021. DOI 10.1002/mrm.28716.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from qsmals.recon.constants import GAMMA_BAR_MHZ_PER_TESLA
from qsmals.simulate.geometry import FloatArray, Scalar, coordinates, random_field

ComplexArray = NDArray[np.complex64]


@dataclass(frozen=True)
class Sequence:
    """A spoiled multi-echo gradient echo scan.

    Attributes
    ----------
    echo_times_s : tuple of float
        Ascending, s.
    repetition_time_s : float
    flip_angle_deg : float
    b0_tesla : float
    snr : float
        99th percentile of the first echo's magnitude in the brain over the standard deviation of
        the noise in the real part.
    bipolar : bool
        Whether even echoes are read in the opposite direction.
    readout_axis : int
        Array axis of the readout.
    bipolar_phase_rad : float
        Phase of even echoes at one end of the field of view (its negative at the other), bipolar only.
    bipolar_shift_voxels : float
        Displacement of even echoes along the readout, bipolar only.
    """

    echo_times_s: tuple[float, ...]
    repetition_time_s: float
    flip_angle_deg: float
    b0_tesla: float
    snr: float
    bipolar: bool = False
    readout_axis: int = 1
    bipolar_phase_rad: float = 1.2
    bipolar_shift_voxels: float = 0.0

    def __post_init__(self) -> None:
        times = np.asarray(self.echo_times_s)
        if times.size == 0 or times[0] <= 0 or np.any(np.diff(times) <= 0):
            raise ValueError(f"echo times are positive and ascend, not {self.echo_times_s}")
        if self.repetition_time_s <= times[-1]:
            raise ValueError(f"the repetition time {self.repetition_time_s} s is not after the last echo")
        if not 0 < self.b0_tesla < 30 or self.snr <= 0:
            raise ValueError(f"field strength {self.b0_tesla} T or signal-to-noise ratio {self.snr} is impossible")


def solid_harmonics(shape: tuple[int, ...], affine: NDArray[np.float64], *, step: int = 1) -> list[FloatArray]:
    """The nine solid harmonics up to second order on every ``step``-th voxel, in units of 100 mm."""
    x, y, z = (m[::step, ::step, ::step] if m.size == 1 else m for m in coordinates(shape, affine))
    x, y, z = (c / np.float32(100) for c in (x[::step], y[:, ::step], z[:, :, ::step]))
    full = np.zeros((x.size, y.size, z.size), np.float32)
    terms = (1 + 0 * x, x, y, z, x * y, y * z, x * z, x * x - y * y, 2 * z * z - x * x - y * y)
    return [full + t for t in terms]


def shim(
    field_ppm: FloatArray,
    *,
    mask: NDArray[np.bool_],
    affine: NDArray[np.float64],
    residue_ppm: float = 0.04,
    rng: np.random.Generator,
) -> FloatArray:
    """Field after a second-order shim over a mask that leaves a random low-order residue.

    Parameters
    ----------
    field_ppm : (x, y, z) float32
    mask : (x, y, z) bool
        Where the scanner measured the field.
    affine : (4, 4) float
        Voxel to head coordinates, mm; diagonal but for the offset.
    residue_ppm : float
        Standard deviation of each remaining coefficient, ppm at 100 mm.

    Returns
    -------
    (x, y, z) float32
    """
    step = max(1, round(4.0 / float(affine[0, 0])))
    inside = mask[::step, ::step, ::step]
    columns = np.stack([h[inside] for h in solid_harmonics(field_ppm.shape, affine, step=step)], axis=1)
    target = field_ppm[::step, ::step, ::step][inside]
    fitted = np.linalg.lstsq(columns.astype(np.float64), target.astype(np.float64), rcond=None)[0]
    change = residue_ppm * rng.standard_normal(len(fitted)) - fitted
    result = field_ppm.copy()
    for coefficient, harmonic in zip(change, solid_harmonics(field_ppm.shape, affine), strict=True):
        result += np.float32(coefficient) * harmonic
    return result


def coil_phase(shape: tuple[int, int, int], *, affine: NDArray[np.float64], rng: np.random.Generator) -> FloatArray:
    """Phase offset of the receive coil, the same for all echoes: smooth, about 1 rad in standard deviation."""
    smooth = random_field(shape, affine=affine, spacing_mm=90.0, rng=rng)
    slopes = 0.8 * rng.standard_normal(3)
    for slope, axis in zip(slopes, coordinates(shape, affine), strict=True):
        smooth = smooth + np.float32(slope / 100) * axis
    return smooth + np.float32(rng.uniform(-np.pi, np.pi))


def coil_sensitivity(
    shape: tuple[int, int, int], *, affine: NDArray[np.float64], rng: np.random.Generator
) -> FloatArray:
    """Receive sensitivity: smooth, positive, about 1 in the middle and larger near the scalp."""
    x, y, z = coordinates(shape, affine)
    bowl = (x * x + y * y + z * z) / np.float32(90.0**2)
    ripple = random_field(shape, affine=affine, spacing_mm=80.0, rng=rng)
    sensitivity: FloatArray = np.exp(np.float32(0.22) * np.minimum(bowl, 2) + np.float32(0.08) * ripple)
    return sensitivity


def steady_state(
    proton_density: FloatArray, r1_hz: FloatArray, *, repetition_time_s: float, flip_angle_deg: float
) -> FloatArray:
    """Amplitude of a spoiled gradient echo at zero echo time (Ernst formula).

    Examples
    --------
    >>> one = np.ones(1, np.float32)
    >>> round(float(steady_state(one, one, repetition_time_s=100.0, flip_angle_deg=90)[0]), 3)
    1.0
    """
    angle = np.deg2rad(flip_angle_deg)
    e1 = np.exp(np.float32(-repetition_time_s) * r1_hz)
    result: FloatArray = proton_density * np.float32(np.sin(angle)) * (1 - e1) / (1 - np.float32(np.cos(angle)) * e1)
    return result


def echo_signal(
    amplitude: FloatArray,
    *,
    r2star_hz: FloatArray,
    field_ppm: FloatArray,
    offset_rad: FloatArray,
    gradient_ppm: tuple[FloatArray, FloatArray, FloatArray],
    te_s: float,
    b0_tesla: float,
) -> ComplexArray:
    """Noise-free complex image at one echo time.

    Parameters
    ----------
    amplitude : (x, y, z) float32
        Magnitude at zero echo time.
    r2star_hz, field_ppm, offset_rad : (x, y, z) float32
        Decay, 1/s; field, ppm; phase at zero echo time, rad.
    gradient_ppm : three (x, y, z) float32
        Change of the field over one voxel along each axis, ppm: the signal of a voxel is the mean
        over a linear field, which a sinc gives.
    te_s, b0_tesla : float

    Returns
    -------
    (x, y, z) complex64
        Phase 2 pi gamma_bar B0 TE field + offset: paramagnetic is positive.
    """
    cycles = np.float32(GAMMA_BAR_MHZ_PER_TESLA * b0_tesla * te_s)
    out = np.empty(amplitude.shape, np.complex64)
    for x in range(len(out)):  # plane by plane: the intermediate arrays stay in the cache
        size = amplitude[x] * np.exp(np.float32(-te_s) * r2star_hz[x])
        for step in gradient_ppm:
            size *= np.sinc(cycles * step[x])
        angle = np.float32(2 * np.pi) * cycles * field_ppm[x] + offset_rad[x]
        out[x].real = size * np.cos(angle)
        out[x].imag = size * np.sin(angle)
    return out


def crop_kspace(image: NDArray[Scalar], factors: tuple[int, int, int]) -> NDArray[Scalar]:
    """Image at a coarser voxel size as a scanner would see it: the centre of its k-space.

    Parameters
    ----------
    image : (x, y, z) float32 or complex64
        Each size a multiple of its factor.
    factors : tuple of int, (3,)
        New voxel size over the old one.

    Returns
    -------
    array
        Same type, sampled at the centres of the new voxels; the mean is kept.

    Raises
    ------
    ValueError
        If a size is not a multiple of its factor.
    """
    result: NDArray[Any] = image
    for axis, factor in enumerate(factors):
        if image.shape[axis] % factor:
            raise ValueError(f"axis {axis} has {image.shape[axis]} voxels, not a multiple of {factor}")
        if factor > 1:
            result = _crop_axis(result, axis, factor)
    if np.iscomplexobj(result) and not np.iscomplexobj(image):
        result = np.ascontiguousarray(result.real)
    return result


def _crop_axis(image: NDArray[Any], axis: int, factor: int) -> NDArray[np.complex64]:
    """One axis of ``crop_kspace``."""
    size = image.shape[axis] // factor
    spectrum = fft.fft(image.astype(np.complex64, copy=False), axis=axis)
    index = np.fft.fftfreq(size, 1 / size).astype(int)
    kept = np.take(spectrum, index, axis=axis)
    ramp = np.exp(2j * np.pi * index * (factor - 1) / 2 / image.shape[axis]) / factor
    kept *= ramp.astype(np.complex64).reshape(_along(axis))
    result: NDArray[np.complex64] = fft.ifft(kept, axis=axis, overwrite_x=True)
    return result


def majority(labels: NDArray[np.int16], factors: tuple[int, int, int]) -> NDArray[np.int16]:
    """Most frequent label in each block of voxels; the smallest number wins a tie."""
    if factors == (1, 1, 1):
        return labels
    a, b, c = factors
    x, y, z = (n // f for n, f in zip(labels.shape, factors, strict=True))
    blocks = labels.reshape(x, a, y, b, z, c).transpose(0, 2, 4, 1, 3, 5).reshape(x, y, z, a * b * c)
    blocks = np.sort(blocks, axis=-1)
    best, longest = blocks[..., 0].copy(), np.zeros((x, y, z), np.int16)
    run = np.zeros((x, y, z), np.int16)
    for i in range(blocks.shape[-1]):
        same = blocks[..., i] == blocks[..., max(i - 1, 0)]
        run = np.where(same, run + 1, 1).astype(np.int16)
        better = run > longest
        best[better] = blocks[..., i][better]
        longest[better] = run[better]
    return best


def seen_field(field_ppm: FloatArray, amplitude: FloatArray, factors: tuple[int, int, int]) -> FloatArray:
    """Mean field of the voxels of the scan, weighted by the signal's amplitude; 0 where there is none.

    A plain mean over each block of voxels: cutting k-space would let the jumps of several ppm at
    the skin and the sinuses ring through the whole head.
    """
    if factors == (1, 1, 1):
        return field_ppm
    weight = _block_sum(amplitude, factors)
    product = _block_sum(amplitude * field_ppm, factors)
    result: FloatArray = np.divide(product, weight, out=np.zeros_like(product), where=weight > 0)
    return result


def _block_sum(values: FloatArray, factors: tuple[int, int, int]) -> FloatArray:
    """Sum over each block of voxels."""
    a, b, c = factors
    x, y, z = (n // f for n, f in zip(values.shape, factors, strict=True))
    result: FloatArray = values.reshape(x, a, y, b, z, c).sum(axis=(1, 3, 5), dtype=np.float32)
    return result


def readout_errors(shape: tuple[int, ...], sequence: Sequence) -> ComplexArray:
    """Factor that a bipolar readout puts on even echoes, of length one, broadcastable to ``shape``."""
    position = np.linspace(-1, 1, shape[sequence.readout_axis])
    factor = np.exp(1j * sequence.bipolar_phase_rad * position)
    result: ComplexArray = factor.astype(np.complex64).reshape(_along(sequence.readout_axis))
    return result


def _along(axis: int) -> tuple[int, int, int]:
    """Shape that lays a vector along one of three axes."""
    return (-1 if axis == 0 else 1, -1 if axis == 1 else 1, -1 if axis == 2 else 1)


def shifted(image: ComplexArray, *, axis: int, voxels: float) -> ComplexArray:
    """Image displaced along an axis by any number of voxels, by a phase ramp in k-space."""
    if voxels == 0:
        return image
    ramp = np.exp(-2j * np.pi * np.fft.fftfreq(image.shape[axis]) * voxels).astype(np.complex64)
    spectrum = fft.fft(image, axis=axis) * ramp.reshape(_along(axis))
    result: ComplexArray = fft.ifft(spectrum, axis=axis, overwrite_x=True)
    return result


def add_noise(image: ComplexArray, *, sd: float, rng: np.random.Generator) -> ComplexArray:
    """Image with complex Gaussian noise of standard deviation ``sd`` in each part."""
    noise = rng.standard_normal((*image.shape, 2), dtype=np.float32)
    result: ComplexArray = image + np.float32(sd) * noise.view(np.complex64)[..., 0]
    return result


def scan(
    sequence: Sequence,
    *,
    amplitude: FloatArray,
    r2star_hz: FloatArray,
    field_ppm: FloatArray,
    shift_ppm: FloatArray,
    offset_rad: FloatArray,
    brain: NDArray[np.bool_],
    factors: tuple[int, int, int],
    rng: np.random.Generator,
) -> Iterator[ComplexArray]:
    """Complex images of all echoes, one after the other.

    Parameters
    ----------
    sequence : Sequence
    amplitude, r2star_hz, field_ppm, offset_rad : (x, y, z) float32
        On the fine grid; see ``echo_signal``.
    shift_ppm : (x, y, z) float32
        Chemical shift, which adds to the field but does not dephase a voxel.
    brain : (x/fx, y/fy, z/fz) bool
        Brain on the coarse grid, for the noise level.
    factors : tuple of int, (3,)
        Coarse over fine voxel size.

    Yields
    ------
    (x/fx, y/fy, z/fz) complex64
    """
    step = np.gradient(field_ppm)
    frequency_ppm = field_ppm + shift_ppm
    sd = 0.0
    for number, te_s in enumerate(sequence.echo_times_s, start=1):
        fine = echo_signal(
            amplitude,
            r2star_hz=r2star_hz,
            field_ppm=frequency_ppm,
            offset_rad=offset_rad,
            gradient_ppm=step,
            te_s=te_s,
            b0_tesla=sequence.b0_tesla,
        )
        image = crop_kspace(fine, factors)
        if number == 1:
            sd = float(np.percentile(np.abs(image[brain]), 99)) / sequence.snr
        if sequence.bipolar and number % 2 == 0:
            image = shifted(image, axis=sequence.readout_axis, voxels=sequence.bipolar_shift_voxels)
            image = image * readout_errors(image.shape, sequence)
        yield add_noise(image, sd=sd, rng=rng)
