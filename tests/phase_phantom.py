"""Small volumes with known field, phase offset and noise, for the tests of the way from phase to field."""

import numpy as np
from numpy.typing import NDArray

from qsmals.recon.constants import GAMMA_BAR_MHZ_PER_TESLA
from qsmals.recon.dipole import dipole_field, voxel_dipole_kernel
from qsmals.recon.grid import Grid

B0_TESLA = 3.0
RADIANS_PER_PPM_SECOND = 2 * np.pi * GAMMA_BAR_MHZ_PER_TESLA * B0_TESLA
Volume = NDArray[np.float32]


def axes(shape: tuple[int, int, int]) -> list[Volume]:
    """Coordinates from -1 to 1 along each axis, broadcastable."""
    return list(np.meshgrid(*[np.linspace(-1, 1, n, dtype=np.float32) for n in shape], indexing="ij", sparse=True))


def ellipsoid(shape: tuple[int, int, int], radius: float = 0.9) -> NDArray[np.bool_]:
    """Ellipsoid that fills the volume up to a fraction of its half edges."""
    x, y, z = axes(shape)
    return np.asarray(x**2 + y**2 + z**2 < radius**2)


def wrapped(angle: NDArray[np.floating]) -> Volume:
    """Angle in -pi..pi, by way of a complex number."""
    return np.angle(np.exp(1j * angle)).astype(np.float32)


def smooth_field(shape: tuple[int, int, int], scale_ppm: float = 0.6) -> Volume:
    """Field, ppm, with several wraps at late echoes and a mean of about 0."""
    x, y, z = axes(shape)
    return (scale_ppm * (x + 0.6 * y * z - 0.7 * z**2 + 0.4 * np.sin(3 * y))).astype(np.float32)


def smooth_offset(shape: tuple[int, int, int]) -> Volume:
    """Phase at echo time zero, rad, as a coil may have it."""
    x, y, z = axes(shape)
    return (0.4 + 1.3 * x - 0.8 * y + 0.9 * z + 0.5 * x * y - 0.4 * z**2).astype(np.float32)


def zero_filled(signal_: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """An image with its k-space in the middle of a larger one, as scanners interpolate."""
    k = np.fft.fftshift(np.fft.fftn(signal_))
    pads = [((new - old) // 2, new - old - (new - old) // 2) for old, new in zip(signal_.shape, shape, strict=True)]
    larger = np.fft.ifftn(np.fft.ifftshift(np.pad(k, pads)))
    return larger * (np.prod(shape) / np.prod(signal_.shape))


def signal(
    field_ppm: Volume,
    te_s: list[float],
    *,
    offset_rad: Volume | float = 0.0,
    even_odd_rad: Volume | float = 0.0,
    amplitude: Volume | float = 1.0,
    r2star_hz: float = 20.0,
    snr: float = np.inf,
    rng: np.random.Generator | None = None,
) -> tuple[Volume, Volume]:
    """Wrapped phase and magnitude, (x, y, z, e) float32."""
    echoes = []
    for echo, te in enumerate(te_s):
        phase = RADIANS_PER_PPM_SECOND * te * field_ppm + offset_rad + (even_odd_rad if echo % 2 else 0.0)
        value = amplitude * np.exp(-te * r2star_hz) * np.exp(1j * phase.astype(np.float64))
        if np.isfinite(snr):
            assert rng is not None
            value = value + (rng.normal(size=value.shape) + 1j * rng.normal(size=value.shape)) / snr
        echoes.append(value)
    stack = np.stack(echoes, axis=-1)
    return np.angle(stack).astype(np.float32), np.abs(stack).astype(np.float32)


def head(grid: Grid) -> tuple[NDArray[np.bool_], NDArray[np.bool_], Volume]:
    """Tissue, brain and field (ppm, without shim) of a head with a sinus, two ear canals and a skull.

    The skull gives no signal but has the tissue's susceptibility; the field of view cuts the neck.
    """
    x, y, z = axes(grid.shape)
    outline = (x / 0.72) ** 2 + (y / 0.85) ** 2 + ((z - 0.1) / 0.8) ** 2 < 1
    neck = (x / 0.4) ** 2 + ((y + 0.15) / 0.45) ** 2 + 0 * z < 1
    outline |= neck & (z < 0)
    radius = np.sqrt((x / 0.72) ** 2 + (y / 0.85) ** 2 + ((z - 0.1) / 0.8) ** 2)
    brain = (radius < 0.8) & (z > -0.45)
    skull = (radius >= 0.82) & (radius < 0.9) & (z > -0.5)
    sinus = (x / 0.22) ** 2 + ((y - 0.5) / 0.22) ** 2 + ((z + 0.35) / 0.2) ** 2 < 1
    ears = ((abs(x) - 0.55) / 0.12) ** 2 + ((y + 0.05) / 0.1) ** 2 + ((z + 0.3) / 0.1) ** 2 < 1
    air = sinus | ears
    brain &= ~air
    chi = np.where(outline & ~air, -9.4, 0.0).astype(np.float32)
    continued = np.concatenate([np.repeat(chi[:, :, :1], grid.shape[2], axis=2), chi], axis=2)
    tall = Grid((grid.shape[0], grid.shape[1], 2 * grid.shape[2]), grid.voxel_size_mm, grid.b0_direction)
    field = dipole_field(continued, tall, kernel=voxel_dipole_kernel)[:, :, grid.shape[2] :]
    return outline & ~air & ~skull, brain, np.ascontiguousarray(field)
