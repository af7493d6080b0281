"""Which multiple of 2 pi a connected component of an unwrapped phase gets.

Unwrapping inside a component leaves one whole number of turns open. Two things tell it: the other echoes,
because an offset-free phase is proportional to the echo time, and the phase across the gap to the nearest
component, because the field is continuous there.
"""

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import breadth_first_order, minimum_spanning_tree

TWO_PI = 2.0 * np.pi
SAMPLES = 20000
"""Voxels of a component that are looked at, at most (twice this number minus one)."""

REACH = 2
"""Turns tried on both sides of the continuous one."""

PENALTY = 0.05
"""Agreement (a mean cosine) that a turn away from continuity must gain. Echo times in whole proportions
give the same agreement for every turn, and continuity decides."""


def component_offsets(
    label: NDArray[np.int32],
    wraps: NDArray[np.int16],
    phase_rad: NDArray[np.float32],
    magnitude: NDArray[np.float32] | None,
    te_s: NDArray[np.float64],
    template: int,
) -> NDArray[np.int16]:
    """Turns to add to each component of the template echo.

    Parameters
    ----------
    label : (x, y, z) int32
        Component of each voxel, 1, 2, ...; 0 outside.
    wraps : (x, y, z) int16
        Turns that unwrap the template echo inside each component.
    phase_rad : (x, y, z, e) float32
        Wrapped phase of all echoes, rad.
    magnitude : (x, y, z, e) float32 or None
        Magnitude, the weight of a voxel's agreement.
    te_s : (e,) float64
        Echo times, s.
    template : int
        Index of the unwrapped echo.

    Returns
    -------
    (components + 1,) int16
        Turns by label; 0 for label 0. The largest component starts from the turn that puts its median next to 0.
    """
    count = np.bincount(label.ravel())
    offsets = np.zeros(count.size, dtype=np.int16)
    if count.size == 1:
        return offsets
    chosen = _sample(label.ravel(), np.maximum(count // SAMPLES, 1))
    labels = label.ravel()[chosen]
    voxels = np.unravel_index(chosen, label.shape)
    values = phase_rad[..., template][voxels] + TWO_PI * wraps[voxels]
    agreement = _Agreement(labels, voxels, values, phase_rad, magnitude, te_s / te_s[template], count.size)
    largest = int(np.argmax(count[1:])) + 1
    middle = float(np.median(values[labels == largest]))
    offsets[largest] = agreement.best(largest, -round(middle / TWO_PI))
    if count.size > 2:
        for component, parent, jump in _bridges(label, wraps, phase_rad[..., template], largest):
            offsets[component] = agreement.best(component, int(offsets[parent]) + round(jump))
    return offsets


class _Agreement:
    """How well the echoes of each component agree, as a function of the turns added to the template."""

    def __init__(
        self,
        labels: NDArray[np.int32],
        voxels: tuple[NDArray[np.intp], ...],
        values: NDArray[np.floating[Any]],
        phase_rad: NDArray[np.float32],
        magnitude: NDArray[np.float32] | None,
        ratios: NDArray[np.float64],
        size: int,
    ) -> None:
        self.ratios = ratios
        self.mean = np.zeros((ratios.size, size), dtype=complex)
        total = np.zeros(size)
        for echo, ratio in enumerate(ratios):
            if ratio == 1.0:
                continue
            weight = np.ones(labels.size) if magnitude is None else magnitude[..., echo][voxels].astype(float)
            misfit = phase_rad[..., echo][voxels] - ratio * values
            self.mean[echo].real = np.bincount(labels, weight * np.cos(misfit), minlength=size)
            self.mean[echo].imag = np.bincount(labels, weight * np.sin(misfit), minlength=size)
            total += np.bincount(labels, weight, minlength=size)
        self.mean /= np.where(total > 0, total, 1.0)

    def best(self, component: int, near: int) -> int:
        """Turns with the highest agreement, less a penalty for the distance from ``near``."""
        turns = near + np.arange(-REACH, REACH + 1)
        rotated = self.mean[:, component, None] * np.exp(-1j * TWO_PI * self.ratios[:, None] * turns)
        return int(turns[np.argmax(rotated.real.sum(axis=0) - PENALTY * np.abs(turns - near))])


@njit(cache=True)
def _sample(label, every):  # type: ignore[no-untyped-def]
    """Indices of every n-th voxel of each component."""
    seen = np.zeros(every.size, dtype=np.int64)
    chosen = np.empty(label.size, dtype=np.int64)
    n = 0
    for i in range(label.size):
        c = label[i]
        if c > 0:
            if seen[c] % every[c] == 0:
                chosen[n] = i
                n += 1
            seen[c] += 1
    return chosen[:n].copy()


def _bridges(
    label: NDArray[np.int32], wraps: NDArray[np.int16], template_rad: NDArray[np.float32], root: int
) -> list[tuple[int, int, float]]:
    """Components from the root outwards, each with the one it hangs on and the turns between them.

    The volume is divided among the components by distance; where two territories touch, the nearest voxels of both
    sides are compared. The shortest gaps make a tree.
    """
    source, distance = _territories(label)
    first, second, gap = _contacts(label, source, distance)
    voxels = np.unravel_index(np.concatenate((first, second)), label.shape)
    turns = template_rad[voxels] / TWO_PI + wraps[voxels]
    jump = turns[: first.size] - turns[first.size :]
    one, two = label.ravel()[first], label.ravel()[second]
    swap = one > two
    jump[swap] *= -1.0
    one, two = np.minimum(one, two), np.maximum(one, two)
    keys, pair = np.unique(one.astype(np.int64) * (int(label.max()) + 1) + two, return_inverse=True)
    shortest = ndimage.minimum(gap, pair, np.arange(keys.size))
    near = gap <= shortest[pair] + 1
    jumps = ndimage.median(jump[near], pair[near], np.arange(keys.size))
    size = int(label.max()) + 1
    low, high = (keys // size).astype(np.int32), (keys % size).astype(np.int32)
    tree = minimum_spanning_tree(coo_array((shortest.astype(float), (low, high)), shape=(size, size)).tocsr())
    order, parents = breadth_first_order(tree, root, directed=False)
    known = {(int(a), int(b)): float(j) for a, b, j in zip(low, high, jumps, strict=True)}
    return [(int(c), int(parents[c]), _jump(known, int(parents[c]), int(c))) for c in order[1:]]


def _jump(known: dict[tuple[int, int], float], parent: int, child: int) -> float:
    """Turns to add to the child so that it continues its parent."""
    return known[parent, child] if parent < child else -known[child, parent]


def _contacts(
    label: NDArray[np.int32], source: NDArray[np.int32], distance: NDArray[np.int32]
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
    """Nearest voxels of both components, and the gap in voxels, at every face between two territories."""
    owner = label.ravel()[source]
    parts = []
    for axis in range(3):
        low = tuple(slice(None, -1) if a == axis else slice(None) for a in range(3))
        high = tuple(slice(1, None) if a == axis else slice(None) for a in range(3))
        face = owner[low] != owner[high]
        parts.append((source[low][face], source[high][face], distance[low][face] + distance[high][face]))
    first, second, gap = (np.concatenate(column) for column in zip(*parts, strict=True))
    return first, second, gap


@njit(cache=True)
def _territories(label):  # type: ignore[no-untyped-def]
    """Nearest labelled voxel (flat index) and the number of steps to it, by breadth-first search."""
    shape = label.shape
    strides = (shape[1] * shape[2], shape[2], 1)
    flat = label.ravel()
    source = np.full(flat.size, -1, dtype=np.int32)
    distance = np.zeros(flat.size, dtype=np.int32)
    queue = np.empty(flat.size, dtype=np.int32)
    last = 0
    for i in range(flat.size):
        if flat[i] > 0:
            source[i] = i
            queue[last] = i
            last += 1
    done = 0
    while done < last:
        i = queue[done]
        done += 1
        for axis in range(3):
            position = (i // strides[axis]) % shape[axis]
            for side in (-1, 1):
                if 0 <= position + side < shape[axis]:
                    j = i + side * strides[axis]
                    if source[j] < 0:
                        source[j] = source[i]
                        distance[j] = distance[i] + 1
                        queue[last] = j
                        last += 1
    return source.reshape(shape), distance.reshape(shape)
