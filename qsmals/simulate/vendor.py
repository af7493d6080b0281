"""How the scanners of three vendors store complex images.

Siemens keeps phase as 4096 levels that a converter shows as -4096..4094; Philips as levels with a
slope that gives milliradians; GE keeps real and imaginary parts, with the phase of the opposite
sign and every second slice negated.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qsmals.simulate.acquisition import ComplexArray

VENDORS = ("siemens", "ge", "philips")
MAGNITUDE_LEVELS = {"siemens": 4095, "philips": 4095, "ge": 16000}


@dataclass(frozen=True)
class Stored:
    """Integers of an image file.

    Attributes
    ----------
    part : str
        ``mag``, ``phase``, ``real`` or ``imag``.
    levels : (x, y, z) int16
    slope, intercept : float
        The file's value is ``slope * levels + intercept``.
    """

    part: str
    levels: NDArray[np.int16]
    slope: float = 1.0
    intercept: float = 0.0


def encode(image: ComplexArray, *, vendor: str, scale: float) -> tuple[Stored, Stored]:
    """The two integer images that a vendor makes of a complex one.

    Parameters
    ----------
    image : (x, y, z) complex64
        Phase positive for paramagnetic fields; the third axis is the slice axis.
    vendor : str
        One of ``VENDORS``.
    scale : float
        Levels per unit of magnitude, the same for all echoes of a scan.

    Returns
    -------
    two Stored
        Magnitude and phase, or real and imaginary part for GE.

    Raises
    ------
    ValueError
        For an unknown vendor.
    """
    if vendor == "ge":
        signed = np.conj(image) * np.where(np.arange(image.shape[2]) % 2, -1, 1).astype(np.float32)
        return Stored("real", _levels(signed.real * scale)), Stored("imag", _levels(signed.imag * scale))
    if vendor not in VENDORS:
        raise ValueError(f"no vendor {vendor!r}; there are {', '.join(VENDORS)}")
    magnitude = Stored("mag", np.clip(_levels(np.abs(image) * scale), 0, 4095).astype(np.int16))
    turns = np.angle(image) / np.float32(2 * np.pi)
    if vendor == "siemens":
        levels = (np.rint(turns * 4096 + 2048).astype(np.int32) % 4096).astype(np.int16)
        return magnitude, Stored("phase", levels, 2.0, -4096.0)
    milliradians = 2000 * np.pi
    levels = np.clip(np.rint((turns + 0.5) * 4095), 0, 4095).astype(np.int16)
    return magnitude, Stored("phase", levels, milliradians / 4095, -milliradians / 2)


def _levels(values: NDArray[np.floating]) -> NDArray[np.int16]:
    levels: NDArray[np.int16] = np.clip(np.rint(values), -32768, 32767).astype(np.int16)
    return levels


def decode(first: Stored, second: Stored, *, vendor: str, scale: float) -> ComplexArray:
    """The complex image that ``encode`` was given, up to rounding."""
    a, b = (s.levels * s.slope + s.intercept for s in (first, second))
    if vendor == "ge":
        sign = np.where(np.arange(a.shape[2]) % 2, -1, 1)
        image = (a - 1j * b) * sign / scale
    else:
        radians = b * (np.pi / 4096) if vendor == "siemens" else b / 1000
        image = a / scale * np.exp(1j * radians)
    result: ComplexArray = image.astype(np.complex64)
    return result
