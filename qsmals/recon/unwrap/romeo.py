"""ROMEO: unwrapping along a maximum spanning tree of phase and magnitude quality, echo by echo consistent.

Dymerska B, Eckstein K, Bachrata B, Siow B, Trattnig S, Shmueli K, Robinson SD. Phase unwrapping with a
rapid opensource minimum spanning tree algorithm (ROMEO). Magn Reson Med 2021;85:2294-2308.
doi:10.1002/mrm.28563
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from qsmals.recon.method import Citation, Method
from qsmals.recon.unwrap.islands import component_offsets
from qsmals.recon.unwrap.unwrapped import Unwrapped

TWO_PI = 2.0 * np.pi
BINS = 255
"""Costs are whole numbers from 1 (the most reliable edge) to 255; 0 marks an edge that does not exist."""

EDGE_WEIGHTS = ("phase-coherence", "gradient-coherence", "linearity", "magnitude-coherence", "magnitude-level")
"""Names of the factors of an edge's weight, each in 0..1."""

_SOURCE = "doi:10.1002/mrm.28563"


@dataclass(frozen=True)
class RomeoParameters:
    """Settings of ROMEO.

    Attributes
    ----------
    template_echo : int
        Echo that is unwrapped in space, counted from 1; the last echo if there are fewer.
    weights : tuple of str
        Factors of an edge's weight, of :data:`EDGE_WEIGHTS`. ``gradient-coherence`` needs two echoes and the two
        magnitude factors need the magnitude; they are left out without.
    """

    template_echo: int = field(default=1, metadata={"unit": "1", "source": _SOURCE})
    weights: tuple[str, ...] = field(
        default=("phase-coherence", "gradient-coherence", "magnitude-coherence"),
        metadata={"unit": "", "source": f"{_SOURCE}; choice of the ROMEO program"},
    )

    def __post_init__(self) -> None:
        unknown = sorted(set(self.weights) - set(EDGE_WEIGHTS))
        if unknown or not self.weights:
            raise ValueError(f"ROMEO's weights are some of {', '.join(EDGE_WEIGHTS)}, not {self.weights}")
        if self.template_echo < 1:
            raise ValueError(f"the template echo is counted from 1, not {self.template_echo}")


def romeo(
    phase_rad: NDArray[np.float32],
    *,
    magnitude: NDArray[np.float32] | None,
    te_s: Sequence[float],
    mask: NDArray[np.bool_],
    params: RomeoParameters,
) -> Unwrapped:
    """Unwrap multi-echo phase: one echo in space, the others in time.

    The template echo grows from its most reliable voxel along the edges of highest weight (a spanning tree).
    Connected components of the mask get the multiple of 2 pi that agrees best with the other echoes and, where
    that does not tell, with the nearest component; the largest one the multiple that puts its median next
    to 0. Each further echo is shifted, voxel by voxel, to the multiple of 2 pi nearest to the field of the
    echoes unwrapped before.

    Parameters
    ----------
    phase_rad : (x, y, z, e) float32
        Wrapped phase, rad, free of a phase offset (phase proportional to echo time) if e is 2 or more.
        Voxels with a value that is not finite are treated as outside the mask. Axes of size 1 are allowed.
    magnitude : (x, y, z, e) float32 or None
        Magnitude, any unit, 0 or more.
    te_s : (e,) float
        Echo times, s, positive and increasing.
    mask : (x, y, z) bool
        Where to unwrap.
    params : RomeoParameters
        Settings.

    Returns
    -------
    Unwrapped
        Congruent with the input: the difference from ``phase_rad`` is a whole multiple of 2 pi. The quality is
        the mean weight of a voxel's edges.

    Raises
    ------
    ValueError
        Shapes do not fit, or echo times do not increase.

    Examples
    --------
    >>> ramp = np.linspace(0, 20, 40, dtype=np.float32).reshape(40, 1, 1, 1)
    >>> wrapped = np.angle(np.exp(1j * ramp)).astype(np.float32)
    >>> inside = np.ones((40, 1, 1), dtype=bool)
    >>> result = romeo(wrapped, magnitude=None, te_s=[0.01], mask=inside, params=RomeoParameters())
    >>> bool(np.allclose(np.diff(result.phase_rad, axis=0), np.diff(ramp, axis=0), atol=1e-5))
    True
    """
    te = check_echoes(phase_rad, magnitude, te_s, mask)
    valid = valid_voxels(phase_rad, magnitude, mask)
    template = min(params.template_echo, te.size) - 1
    cost = edge_costs(phase_rad, magnitude=magnitude, te_s=te, valid=valid, template=template, weights=params.weights)
    quality = _mean_weight(cost)
    wrapped = np.ascontiguousarray(phase_rad[..., template], dtype=np.float32)
    label, wraps = _grow(wrapped, cost, valid, int(np.argmax(quality)))
    wraps += component_offsets(label, wraps, phase_rad, magnitude, te, template)[label]
    unwrapped = np.zeros((te.size, *mask.shape), dtype=np.float32)
    unwrapped[template][valid] = wrapped[valid] + TWO_PI * wraps[valid]
    _unwrap_other_echoes(unwrapped, phase_rad, magnitude, te, valid, template)
    return Unwrapped(phase_rad=np.moveaxis(unwrapped, 0, -1), quality=quality)


def phase_quality(
    phase_rad: NDArray[np.float32],
    *,
    magnitude: NDArray[np.float32] | None,
    te_s: Sequence[float],
    mask: NDArray[np.bool_],
    params: RomeoParameters | None = None,
) -> NDArray[np.float32]:
    """The quality map of :func:`romeo` without unwrapping; arguments and errors are the same.

    Returns
    -------
    (x, y, z) float32 in 0..1
        Mean weight of a voxel's edges, 0 outside the mask.
    """
    params = params or RomeoParameters()
    te = check_echoes(phase_rad, magnitude, te_s, mask)
    valid = valid_voxels(phase_rad, magnitude, mask)
    template = min(params.template_echo, te.size) - 1
    return _mean_weight(  # type: ignore[no-any-return]
        edge_costs(phase_rad, magnitude=magnitude, te_s=te, valid=valid, template=template, weights=params.weights)
    )


def check_echoes(
    phase_rad: NDArray[np.float32],
    magnitude: NDArray[np.float32] | None,
    te_s: Sequence[float],
    mask: NDArray[np.bool_],
) -> NDArray[np.float64]:
    """Echo times as an array, after checking that the arrays of an unwrapping fit together."""
    te = np.asarray(te_s, dtype=np.float64)
    if phase_rad.ndim != 4 or phase_rad.shape[3] != te.size or phase_rad.shape[:3] != mask.shape:
        raise ValueError(f"phase {phase_rad.shape}, mask {mask.shape} and {te.size} echo times do not fit together")
    if magnitude is not None and magnitude.shape != phase_rad.shape:
        raise ValueError(f"magnitude {magnitude.shape} and phase {phase_rad.shape} differ in shape")
    if te.size == 0 or te[0] <= 0 or np.any(np.diff(te) <= 0):
        raise ValueError(f"echo times are positive and increasing, not {te.tolist()} s")
    return te


def edge_costs(
    phase_rad: NDArray[np.float32],
    *,
    magnitude: NDArray[np.float32] | None,
    te_s: NDArray[np.float64],
    valid: NDArray[np.bool_],
    template: int,
    weights: Sequence[str],
) -> NDArray[np.uint8]:
    """Cost of the edge from each voxel to its next neighbour along each axis.

    Parameters
    ----------
    phase_rad, magnitude, te_s : see :func:`romeo`
    valid : (x, y, z) bool
        Voxels that have edges; all their values are finite.
    template : int
        Echo that is unwrapped in space, counted from 0.
    weights : sequence of str
        Factors of :data:`EDGE_WEIGHTS`.

    Returns
    -------
    (3, x, y, z) uint8
        1 (weight 1) to 255 (weight 0); 0 where there is no edge.
    """
    phase = np.ascontiguousarray(phase_rad[..., template], dtype=np.float32)
    if te_s.size > 1:
        other = template + 1 if template + 1 < te_s.size else template - 1
        second = np.ascontiguousarray(phase_rad[..., other], dtype=np.float32)
        ratio = te_s[template] / te_s[other]
    else:
        second, ratio = phase, 1.0
    amplitude = phase if magnitude is None else np.ascontiguousarray(magnitude[..., template], dtype=np.float32)
    use = np.array([name in weights for name in EDGE_WEIGHTS])
    use[1] &= te_s.size > 1
    use[3:] &= magnitude is not None
    level = 0.5 * float(np.quantile(amplitude[valid], 0.95)) if use[4] and valid.any() else 1.0
    return _edge_costs(phase, second, ratio, amplitude, max(level, 1e-30), valid, use)  # type: ignore[no-any-return]


def _unwrap_other_echoes(
    unwrapped: NDArray[np.float32],
    phase_rad: NDArray[np.float32],
    magnitude: NDArray[np.float32] | None,
    te_s: NDArray[np.float64],
    valid: NDArray[np.bool_],
    template: int,
) -> None:
    """Fill the echoes after the template, then those before it, in place of the zeros of ``unwrapped``."""
    weighted = np.zeros(valid.shape, dtype=np.float32)
    weight = np.zeros(valid.shape, dtype=np.float32)
    order = [template, *range(template + 1, te_s.size), *range(template - 1, -1, -1)]
    for echo in order:
        wrapped = np.ascontiguousarray(phase_rad[..., echo], dtype=np.float32)
        amplitude = None if magnitude is None else np.ascontiguousarray(magnitude[..., echo], dtype=np.float32)
        _follow(
            unwrapped[echo], wrapped, amplitude, te_s[echo] / te_s[template], valid, weighted, weight, echo == template
        )


def valid_voxels(
    phase_rad: NDArray[np.float32], magnitude: NDArray[np.float32] | None, mask: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Voxels of the mask where every value of every echo is finite."""
    valid = np.ascontiguousarray(mask, dtype=bool).copy()
    for volumes in (phase_rad, magnitude):
        if volumes is not None:
            for echo in range(volumes.shape[3]):
                valid &= np.isfinite(volumes[..., echo])
    return valid


@njit(cache=True, inline="always")
def _wrap(angle):  # type: ignore[no-untyped-def]
    return angle - TWO_PI * np.rint(angle / TWO_PI)


@njit(cache=True)
def _weight(phase, second, ratio, amplitude, level, use, i, j, before, after):  # type: ignore[no-untyped-def]
    """Weight of the edge between voxels i and j of the flattened volume; before and after are -1 at a border."""
    step = _wrap(phase[j] - phase[i])
    weight = 1.0
    if use[0]:
        weight *= 0.1 + 0.9 * (1.0 - abs(step) / np.pi)
    if use[1]:
        weight *= 0.1 + 0.9 * max(0.0, 1.0 - abs(step - _wrap(second[j] - second[i]) * ratio))
    if use[2]:
        linear = 0.9
        if before >= 0 and after >= 0:
            left = abs(_wrap(phase[before] - 2.0 * phase[i] + phase[j]))
            right = abs(_wrap(phase[i] - 2.0 * phase[j] + phase[after]))
            linear = max(0.0, 1.0 - 0.5 * left) * max(0.0, 1.0 - 0.5 * right)
        weight *= 0.1 + 0.9 * linear
    small, big = min(amplitude[i], amplitude[j]), max(amplitude[i], amplitude[j])
    if use[3]:
        weight *= 0.1 + 0.9 * ((small / big) ** 2 if big > 0.0 else 0.0)
    if use[4]:
        weight *= 0.55 + 0.45 * min(1.0, small / level)
    return weight


@njit(cache=True, parallel=True)
def _edge_costs(phase, second, ratio, amplitude, level, valid, use):  # type: ignore[no-untyped-def]
    nx, ny, nz = valid.shape
    cost = np.zeros((3, nx, ny, nz), dtype=np.uint8)
    flat, flat2, flat_amplitude, inside = phase.ravel(), second.ravel(), amplitude.ravel(), valid.ravel()
    sizes, strides = (nx, ny, nz), (ny * nz, nz, 1)
    for x in prange(nx):
        for y in range(ny):
            for z in range(nz):
                i = (x * ny + y) * nz + z
                if not inside[i]:
                    continue
                for axis in range(3):
                    size, stride = sizes[axis], strides[axis]
                    position = x if axis == 0 else (y if axis == 1 else z)
                    if position + 1 >= size or not inside[i + stride]:
                        continue
                    before = i - stride if position > 0 and inside[i - stride] else -1
                    after = i + 2 * stride if position + 2 < size and inside[i + 2 * stride] else -1
                    weight = _weight(flat, flat2, ratio, flat_amplitude, level, use, i, i + stride, before, after)
                    cost[axis, x, y, z] = max(int(np.rint((1.0 - weight) * BINS)), 1)
    return cost


@njit(cache=True, parallel=True)
def _mean_weight(cost):  # type: ignore[no-untyped-def]
    """Mean weight of the edges that a voxel has, 0 for a voxel without any."""
    _, nx, ny, nz = cost.shape
    strides = (ny * nz, nz, 1)
    costs = cost.reshape(3, nx * ny * nz)
    quality = np.zeros((nx, ny, nz), dtype=np.float32)
    for x in prange(nx):
        for y in range(ny):
            for z in range(nz):
                voxel = (x * ny + y) * nz + z
                total, count = 0, 0
                for axis in range(3):
                    for tail in (voxel, voxel - strides[axis]):
                        if tail >= 0 and costs[axis, tail] > 0:
                            total += int(costs[axis, tail])
                            count += 1
                if count > 0:
                    quality[x, y, z] = 1.0 - total / (count * BINS)
    return quality


@njit(cache=True, parallel=True)
def _follow(out, wrapped, amplitude, te, valid, weighted, weight, is_template):  # type: ignore[no-untyped-def]
    """Unwrap one echo next to the field of the echoes before, and add it to that field.

    The field is the mean of phase over echo time with the weights magnitude^2 TE^2, that is ``weighted / weight``;
    echo times are relative to the template's.
    """
    nx, ny, nz = valid.shape
    for x in prange(nx):
        for y in range(ny):
            for z in range(nz):
                if not valid[x, y, z]:
                    continue
                if not is_template:
                    expected = te * weighted[x, y, z] / weight[x, y, z]
                    turns = np.rint((expected - wrapped[x, y, z]) / TWO_PI)
                    out[x, y, z] = wrapped[x, y, z] + TWO_PI * turns
                m = 1.0 if amplitude is None else max(amplitude[x, y, z], 1e-12)
                weighted[x, y, z] += m * m * te * out[x, y, z]
                weight[x, y, z] += m * m * te * te


@njit(cache=True)
def _push(head, item, following, state, cost, new):  # type: ignore[no-untyped-def]
    """Put an item on the stack of its cost. state = slots used, first free slot, lowest cost in use."""
    if state[1] >= 0:
        slot = state[1]
        state[1] = following[slot]
    else:
        slot = state[0]
        state[0] += 1
    item[slot] = new
    following[slot] = head[cost]
    head[cost] = slot
    state[2] = min(state[2], cost)


@njit(cache=True)
def _pop(head, item, following, state):  # type: ignore[no-untyped-def]
    """Take the youngest item of the lowest cost, or -1."""
    while state[2] <= BINS and head[state[2]] < 0:
        state[2] += 1
    if state[2] > BINS:
        return -1
    slot = head[state[2]]
    head[state[2]] = following[slot]
    following[slot] = state[1]
    state[1] = slot
    return int(item[slot])


@njit(cache=True)
def _grow(phase, cost, valid, first):  # type: ignore[no-untyped-def]
    """Component (1, 2, ... ; 0 outside) and number of turns to add, for each voxel.

    The queue has one stack per cost; a stack is a linked list in a pool of slots that doubles when it must, so
    memory follows the front and not the volume. An item is 6 times the voxel to reach plus its way in.
    """
    _, ny, nz = valid.shape
    strides = (ny * nz, nz, 1)
    flat, inside, costs = phase.ravel(), valid.ravel(), cost.reshape(3, valid.size)
    label = np.zeros(valid.size, dtype=np.int32)
    wraps = np.zeros(valid.size, dtype=np.int16)
    head = np.full(BINS + 1, -1, dtype=np.int32)
    item, following = np.empty(4096, dtype=np.int64), np.empty(4096, dtype=np.int32)
    state = np.array([0, -1, BINS + 1], dtype=np.int64)
    component = 0
    for scan in range(-1, valid.size):
        voxel = first if scan < 0 else scan
        if voxel < 0 or not inside[voxel] or label[voxel] != 0:
            continue
        component += 1
        label[voxel] = component
        while voxel >= 0:
            if state[0] + 6 > item.size:
                item = np.concatenate((item, np.empty_like(item)))
                following = np.concatenate((following, np.empty_like(following)))
            for way in range(6):
                step = strides[way // 2]
                tail = voxel if way % 2 == 0 else voxel - step
                if tail < 0 or costs[way // 2, tail] == 0:
                    continue
                target = voxel + step if way % 2 == 0 else tail
                if label[target] == 0:
                    _push(head, item, following, state, int(costs[way // 2, tail]), target * 6 + way)
            voxel = -1
            while voxel < 0:
                new = _pop(head, item, following, state)
                if new < 0:
                    break
                target, way = new // 6, new % 6
                if label[target] == 0:
                    source = target - strides[way // 2] if way % 2 == 0 else target + strides[way // 2]
                    wraps[target] = wraps[source] + np.int16(np.rint((flat[source] - flat[target]) / TWO_PI))
                    label[target] = component
                    voxel = target
    return label.reshape(valid.shape), wraps.reshape(valid.shape)


ROMEO = Method(
    name="romeo",
    title="ROMEO",
    function=romeo,
    parameters=RomeoParameters,
    sentence="The phase was unwrapped with ROMEO (template echo {template_echo}; weights: {weights}), "
    "the other echoes following the field of the echoes before.",
    citations=(
        Citation(
            key="dymerska2021",
            authors="Dymerska B, Eckstein K, Bachrata B, Siow B, Trattnig S, Shmueli K, Robinson SD",
            title="Phase unwrapping with a rapid opensource minimum spanning tree algorithm (ROMEO)",
            journal="Magnetic Resonance in Medicine",
            year=2021,
            doi="10.1002/mrm.28563",
        ),
    ),
)
