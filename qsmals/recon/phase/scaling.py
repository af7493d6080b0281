"""From the numbers that a file stores to phase in radians.

One factor serves all echoes of a scan: echoes differ in the range they reach, not in their scale. The factor comes,
in this order, from the sidecar, from the vendor's fixed scale, from the numbers' own spacing, and only at last, with a
warning, from the range seen: a crop, a masked phase or a short echo time does not reach +-pi, and stretching
it there would multiply every susceptibility.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qsmals.recon.phase.wrap import wrap

RADIAN_SLACK = 0.1
"""Radians by which stored radians may exceed pi (rounding, interpolation)."""

MILLIRADIAN = 1000.0 * math.pi
"""Largest milliradian value, 3141.6."""

SMALLEST_SCANNER_UNIT = 100.0
"""Largest values below this are no scanner integers."""

STEP_SAMPLES = 50_000
"""Distinct values looked at to find the spacing of the numbers."""

CIRCLES = tuple(2**n for n in range(10, 15))
"""Numbers of levels to a turn that scanners use. Files of 2^16 levels are stretched to their own range by
whoever wrote them, which says nothing."""


@dataclass(frozen=True)
class PhaseValues:
    """What the stored numbers of all echoes look like together.

    Attributes
    ----------
    minimum, maximum : float
        Extremes of the finite values over all echoes.
    step : float
        Spacing of the values if they lie on a regular grid (1 for integers, 2 for Siemens' even numbers, a file's slope
        otherwise); 0 if they do not.
    """

    minimum: float
    maximum: float
    step: float


@dataclass(frozen=True)
class PhaseScale:
    """How to turn stored numbers into radians: ``factor * value + offset_rad``.

    Attributes
    ----------
    factor : float
        Radians per stored unit, positive.
    offset_rad : float
        Radians of the stored value 0.
    source : str
        Where the factor comes from, for the log and the sidecar.
    warning : str
        Empty if the factor can be relied on; otherwise a sentence that says what is in doubt and what to do.
    """

    factor: float
    offset_rad: float
    source: str
    warning: str = ""

    @property
    def trusted(self) -> bool:
        """Whether the factor rests on more than the range of values seen."""
        return not self.warning


def describe_values(echoes: Iterable[ArrayLike]) -> PhaseValues:
    """Joint extremes and spacing of the stored values of all echoes, one echo at a time.

    Parameters
    ----------
    echoes : iterable of array-like
        Stored phase values, after the file's slope and intercept; NaN and infinities are ignored.

    Returns
    -------
    PhaseValues

    Raises
    ------
    ValueError
        No finite value, or all values are equal.

    Examples
    --------
    >>> describe_values([[-4096, 0, 2], [4, 4094]])
    PhaseValues(minimum=-4096.0, maximum=4094.0, step=2.0)
    """
    low, high, distinct = math.inf, -math.inf, np.empty(0)
    for echo in echoes:
        values = np.asarray(echo).ravel()
        if values.dtype.kind == "f":
            values = values[np.isfinite(values)]
        if values.size:
            low, high = min(low, float(values.min())), max(high, float(values.max()))
            distinct = np.union1d(distinct, np.unique(values[:: max(1, values.size // (4 * STEP_SAMPLES))]))
    if not low < high:
        raise ValueError("the phase has no two different finite values; it may be empty or masked away")
    return PhaseValues(minimum=low, maximum=high, step=_spacing(distinct[:STEP_SAMPLES]))


def detect_phase_scale(values: PhaseValues, *, units: str | None = None, manufacturer: str | None = None) -> PhaseScale:
    """Scale of stored phase.

    Parameters
    ----------
    values : PhaseValues
        The stored numbers of all echoes together, from :func:`describe_values`.
    units : str, optional
        ``Units`` of the sidecar. ``rad`` is believed as long as the numbers allow it; everything else
        means that the scale is to be found.
    manufacturer : str, optional
        ``Manufacturer`` of the sidecar.

    Returns
    -------
    PhaseScale

    Raises
    ------
    ValueError
        ``Units`` is ``rad``, the numbers contradict it, and no scanner's scale fits them.

    Examples
    --------
    >>> crop = PhaseValues(minimum=-3500, maximum=3900, step=2)
    >>> detect_phase_scale(crop, units="arbitrary", manufacturer="Siemens").factor == np.pi / 4096
    True
    """
    if (units or "").strip().lower() in ("rad", "radian", "radians"):
        return _declared_radians(values, manufacturer)
    known = _known_scale(values, manufacturer)
    return known if known is not None else _stretched(values)


def phase_to_radians(values: ArrayLike, scale: PhaseScale) -> NDArray[np.float32]:
    """Stored phase as wrapped radians.

    Parameters
    ----------
    values : array-like
        Stored numbers, any shape and type; NaN stays NaN.
    scale : PhaseScale
        From :func:`detect_phase_scale`.

    Returns
    -------
    array of float32
        Phase in -pi..pi, rad, a new array.

    Examples
    --------
    >>> phase_to_radians([2048, 3072, 1024], PhaseScale(np.pi / 2048, -np.pi, "example")) / np.float32(np.pi)
    array([ 0. ,  0.5, -0.5], dtype=float32)
    """
    stored = np.asarray(values)
    radians: NDArray[np.floating] = stored.astype(np.float32 if stored.dtype == np.float32 else np.float64)
    return wrap((radians * scale.factor + scale.offset_rad).astype(np.float32))


def _spacing(distinct: NDArray[np.float64]) -> float:
    """Spacing of sorted distinct values if all of them lie on one regular grid, else 0."""
    steps = np.diff(distinct)
    steps = steps[steps > 1e-6 * (distinct[-1] - distinct[0])]
    if steps.size == 0:
        return 0.0
    step = float(steps[steps < 1.5 * steps.min()].mean())
    position = (distinct - distinct[0]) / step
    if position[-1] > 2**17 or np.abs(position - np.rint(position)).max() > 0.05:
        return 0.0
    return float(round(step)) if abs(step - round(step)) < 1e-6 else step


def _declared_radians(values: PhaseValues, manufacturer: str | None) -> PhaseScale:
    """Scale of numbers whose sidecar says radians."""
    largest = max(abs(values.minimum), abs(values.maximum))
    span = values.maximum - values.minimum
    if largest <= math.pi + RADIAN_SLACK or (
        values.minimum >= -RADIAN_SLACK and values.maximum <= 2 * math.pi + RADIAN_SLACK
    ):
        doubt = f"Units is rad, but the phase spans only {span:.3g} rad; check the sidecar" if span < math.pi else ""
        return PhaseScale(1.0, 0.0, "Units: rad", doubt)
    known = _known_scale(values, manufacturer)
    seen = f"Units is rad, but the stored phase goes from {values.minimum:g} to {values.maximum:g}"
    if known is None:
        raise ValueError(
            f"{seen}, which is neither wrapped phase in radians nor a scanner's scale; "
            "store wrapped phase, or set Units to arbitrary if the numbers are the scanner's"
        )
    doubt = f"{seen}; taken as {known.source}. Set Units to arbitrary, or store radians"
    return PhaseScale(known.factor, known.offset_rad, known.source, doubt)


def _known_scale(values: PhaseValues, manufacturer: str | None) -> PhaseScale | None:
    """Scale that follows from the vendor or from the numbers themselves, or None."""
    return (
        _plain_units(values)
        or _vendor_scale(values, (manufacturer or "").lower())
        or _twelve_bits(values)
        or _full_circle(values)
        or _likely(values)
    )


def _reaches(values: PhaseValues, limit: float, least: float) -> bool:
    """Whether both extremes lie between ``least`` and ``limit`` on their side of 0."""
    return least <= -values.minimum <= limit and least <= values.maximum <= limit


def _plain_units(values: PhaseValues) -> PhaseScale | None:
    """Radians, milliradians or degrees whose range is reached on both sides."""
    pi, slack = math.pi, RADIAN_SLACK
    if _reaches(values, pi + slack, pi - slack):
        return PhaseScale(1.0, 0.0, "radians (the values reach -pi and pi)")
    if abs(values.minimum) <= slack and abs(values.maximum - 2 * pi) <= slack and values.step != 1:
        return PhaseScale(1.0, 0.0, "radians (the values reach 0 and 2 pi)")
    if _reaches(values, MILLIRADIAN + 1, MILLIRADIAN - 2):
        return PhaseScale(1e-3, 0.0, "milliradians (the values reach -3142 and 3142)")
    if _reaches(values, 180.5, 179):
        return PhaseScale(pi / 180, 0.0, "degrees (the values reach -180 and 180)")
    return None


def _vendor_scale(values: PhaseValues, manufacturer: str) -> PhaseScale | None:
    """Fixed scale of a vendor, whatever part of it the values reach."""
    largest = max(abs(values.minimum), abs(values.maximum))
    if largest < SMALLEST_SCANNER_UNIT:
        return None
    if "siemens" in manufacturer and largest <= 4096:
        whole = _twelve_bits(values)
        if whole is not None:
            return whole
        if values.minimum >= 0 and values.step != 2:
            return PhaseScale(math.pi / 2048, -math.pi, "Siemens integers 0..4095")
        return PhaseScale(math.pi / 4096, 0.0, "Siemens integers -4096..4095")
    for word, vendor in (("philips", "Philips"), ("ge ", "GE"), ("gehc", "GE"), ("general electric", "GE")):
        if f"{manufacturer} ".startswith(word) and values.minimum < 0 and largest <= MILLIRADIAN + 1:
            return PhaseScale(1e-3, 0.0, f"{vendor} milliradians")
    return None


def _twelve_bits(values: PhaseValues) -> PhaseScale | None:
    """Scanner integers whose range is reached on both sides, within a twentieth."""
    if values.step not in (1, 2):
        return None
    if 0 <= values.minimum <= 205 and 3891 <= values.maximum <= 4096:
        return PhaseScale(math.pi / 2048, -math.pi, "integers 0..4095")
    if _reaches(values, 2048, 1946):
        return PhaseScale(math.pi / 2048, 0.0, "integers -2048..2047")
    if _reaches(values, 4096, 3891):
        return PhaseScale(math.pi / 4096, 0.0, "integers -4096..4095")
    return None


def _full_circle(values: PhaseValues) -> PhaseScale | None:
    """Values that fill a scanner's number of levels exactly, whatever a slope made of them."""
    if values.step == 0:
        return None
    levels = round((values.maximum - values.minimum) / values.step) + 1
    for circle in CIRCLES:
        if abs(levels - circle) <= 1:
            factor = 2 * math.pi / (circle * values.step)
            centre = 0.5 * (values.maximum + values.minimum)
            return PhaseScale(factor, -factor * centre, f"{circle} levels to a turn, all of them reached")
    return None


def _likely(values: PhaseValues) -> PhaseScale | None:
    """A fixed scale that the range is compatible with but does not prove."""
    largest = max(abs(values.minimum), abs(values.maximum))
    text = f"the phase goes from {values.minimum:g} to {values.maximum:g} without Units or a known vendor; "
    ask = ". If that is wrong, store radians with Units: rad"
    if values.step != 1 and 0.5 * math.pi <= largest <= math.pi + RADIAN_SLACK:
        return PhaseScale(1.0, 0.0, "radians, from the range", f"{text}taken as radians{ask}")
    even = values.step == 2 and largest > 2048
    if values.minimum < 0 and (even or values.step == 1) and (even or largest > MILLIRADIAN + 1) and largest <= 4096:
        source = "integers -4096..4095, from the range"
        return PhaseScale(math.pi / 4096, 0.0, source, f"{text}taken as integers -4096..4095{ask}")
    return None


def _stretched(values: PhaseValues) -> PhaseScale:
    """The range seen taken as one turn, for want of anything better."""
    factor = 2 * math.pi / (values.maximum - values.minimum)
    warning = (
        f"UNKNOWN PHASE SCALE: no scanner's scale fits values from {values.minimum:g} to {values.maximum:g}. "
        "The range seen was stretched to -pi..pi, which is wrong for a crop or a masked phase, and then all "
        "susceptibilities are wrong by the same factor. Store radians with Units: rad"
    )
    return PhaseScale(factor, -factor * 0.5 * (values.maximum + values.minimum), "range seen", warning)
