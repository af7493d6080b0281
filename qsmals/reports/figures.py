"""Figures of maps, masks, labels and region tables, as bytes of a PNG or SVG file.

Volumes are turned to the closest right-anterior-superior axes, never resampled, and drawn in millimetres, so
anisotropic voxels keep their shape. The left of an image is the patient's left. Equal input gives equal bytes.
"""

import io
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import nibabel as nib
import numpy as np
from matplotlib import style
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from nibabel.affines import obliquity
from numpy.typing import NDArray

from qsmals.reports.collect import PARTLY
from qsmals.reports.published import Expected

Array = NDArray[Any]

WIDTH_INCHES = 12.0
DPI = 120
GAP_MM = 4.0
THUMBNAIL_INCHES = 2.4
PANEL_FOOT = 0.85
PANEL_PLACES = 4
BRAIN_COLOUR, MAPPED_COLOUR = "#56B4E9", "#E69F00"
# Okabe and Ito's palette, without black and the yellow that vanishes on white matter.
CONTOUR_COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#D55E00", "#CC79A7", "#0072B2")
CONVENTION = "Left of the image = left of the patient (neurological)"
STYLE = {"font.family": "sans-serif", "font.size": 9, "svg.fonttype": "none", "svg.hashsalt": "qsmals"}
PLANES = (("axial", "z", 2, (0, 1)), ("coronal", "y", 1, (0, 2)), ("sagittal", "x", 0, (1, 2)))


@dataclass(frozen=True)
class Scale:
    """Grey (or colour) range of a quantity, the same for every subject, with the words for its colour bar."""

    low: float
    high: float
    label: str
    colours: str = "gray"


@dataclass(frozen=True)
class Volume:
    """A volume in closest right-anterior-superior axes.

    Attributes
    ----------
    data : (x, y, z) ndarray
        Values; x grows to the right, y to the front, z to the top of the patient.
    affine : (4, 4) ndarray
        Voxel to scanner coordinates, mm.
    """

    data: Array
    affine: Array

    @classmethod
    def from_array(cls, data: Array, affine: Array) -> "Volume":
        """Turn an array in any orientation; only axes are swapped and flipped."""
        image = nib.as_closest_canonical(nib.Nifti1Image(_plain(data), affine))
        return cls(np.asarray(image.dataobj), image.affine)

    @property
    def size_mm(self) -> Array:
        """Edge lengths of a voxel, mm."""
        size: Array = np.linalg.norm(self.affine[:3, :3], axis=0)
        return size

    @property
    def tilt_deg(self) -> float:
        """Largest angle between a voxel axis and the scanner axis closest to it, degrees."""
        return float(np.degrees(obliquity(self.affine).max()))


@dataclass(frozen=True)
class Panel:
    """One column of a comparison: a volume, its scale and its title."""

    volume: Volume
    scale: Scale
    title: str


@dataclass(frozen=True)
class Place:
    """A slice that a mosaic should have: its voxel along its axis (0 to 2: sagittal, coronal, axial), and its name."""

    axis: int
    at: int
    words: str


def _plain(data: Array) -> Array:
    """An array in a type that a NIfTI image holds."""
    data = np.asarray(data)
    if data.dtype == bool:
        return data.astype(np.uint8)
    return data.astype(np.float32 if np.issubdtype(data.dtype, np.floating) else np.int32, copy=False)


def mosaic(
    volume: Volume,
    *,
    scale: Scale,
    title: str,
    outline: Volume | None = None,
    wider: Volume | None = None,
    labels: Volume | None = None,
    around: Volume | None = None,
    columns: int = 7,
    axial_rows: int = 1,
    wanted: Sequence[Place] = (),
) -> bytes:
    """Slices in three planes with a colour bar, as PNG.

    Parameters
    ----------
    volume : Volume
        What is shown.
    scale : Scale
        Its range and unit.
    title : str
        One line above the slices.
    outline : Volume, optional
        Mapped voxels on the same grid, whose outline is orange.
    wider : Volume, optional
        The brain on the same grid, whose outline is blue and lies under the orange one.
    labels : Volume of int, optional
        Labels on the same grid whose borders are drawn, each in its colour.
    around : Volume, optional
        A mask on the same grid; the slices cover its bounding box and a margin (default: where the volume is
        not zero).
    columns : int
        Slices in the row with the widest slices; narrower planes get more.
    axial_rows : int
        Rows of axial slices.
    wanted : sequence of Place
        Voxels that slices of their plane go through, the most wanted first; the others fill the widest gaps, and
        without any all are equally spaced.
    """
    shown = (around or wider or outline or volume).data
    box = _bounding_box(shown, volume.size_mm)
    labels = None if labels is None else Volume(colour_numbers(labels.data), labels.affine)
    core = _bounding_box(shown, volume.size_mm, margin_mm=0)
    tiles = _mosaic_tiles(volume, box, core, columns, axial_rows, wanted)
    width = max(t.left + t.width for t in tiles)
    height = max(t.top for t in tiles)
    with _figure(width, height, title, volume.tilt_deg, head=0.34, side=0.8, foot=0.28) as (figure, axes):
        for tile in tiles:
            _draw_tile(axes, tile, volume, scale, outline, labels, wider)
        _side_bar(figure, scale)
        return _png(figure)


def thumbnail(volume: Volume, *, scale: Scale, around: Volume, axial: int) -> bytes:
    """One axial slice without words, as a small PNG.

    Parameters
    ----------
    volume : Volume
        What is shown.
    scale : Scale
        Its range.
    around : Volume
        A mask on the same grid that the slice is cut to.
    axial : int
        Voxel along the third axis.
    """
    tile = _tile(0, axial, _bounding_box(around.data, volume.size_mm), volume.size_mm, 0.0, 0.0)
    figure = Figure(figsize=(THUMBNAIL_INCHES, THUMBNAIL_INCHES * tile.height / tile.width), dpi=DPI, facecolor="black")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.imshow(
        _slice(volume, tile), origin="lower", cmap=scale.colours, vmin=scale.low, vmax=scale.high, aspect="auto"
    )
    return _png(figure)


def colour_numbers(labels: Array) -> Array:
    """A number for each label in their order, 0 for 0, whose remainders by the colours differ among neighbours.

    Every second label differs as well, because left and right often take turns. The first two are green and vermilion.

    Examples
    --------
    >>> colour_numbers(np.array([0, 40021, 40023, 40025, 40031]))
    array([0, 2, 3, 4, 5])
    """
    values, places = np.unique(labels, return_inverse=True)
    rank = np.cumsum(values > 0)
    numbers = np.where(values > 0, rank + 1 + (rank - 1) // len(CONTOUR_COLOURS), 0)
    coloured: Array = numbers[places].reshape(labels.shape)
    return coloured


def panels(
    columns: Sequence[Panel],
    *,
    title: str,
    outline: Volume | None = None,
    through_mm: tuple[float, float, float] | None = None,
) -> bytes:
    """Several volumes on one grid side by side, each in three planes, as PNG.

    Parameters
    ----------
    columns : sequence of Panel
        On one grid.
    title : str
        One line above them.
    outline : Volume, optional
        Mapped voxels on the same grid, whose outline is orange; the planes are cut to their bounding box.
    through_mm : tuple of float, optional
        Scanner coordinates of a point that the planes go through (default: the middle of the box); it is marked.
    """
    first = columns[0].volume
    box = _bounding_box((outline or first).data, first.size_mm)
    centre = box.sum(axis=1) // 2
    if through_mm is not None:
        point = np.linalg.inv(first.affine) @ [*through_mm, 1.0]
        centre = np.clip(np.rint(point[:3]).astype(int), 0, np.array(first.data.shape) - 1)
    placed = [_column_tiles(box, first.size_mm, at, centre) for at in range(len(columns))]
    pitch = max(tile.width for tile in placed[0]) + GAP_MM
    height = max(tile.top for tile in placed[0])
    places = max(len(columns), PANEL_PLACES)  # a few columns are not blown up to the page's width
    share = 1 / places
    with _figure(pitch * places, height, title, first.tilt_deg, head=0.58, side=0.0, foot=PANEL_FOOT) as (
        figure,
        axes,
    ):
        for at, (panel, tiles) in enumerate(zip(columns, placed, strict=True)):
            for tile in tiles:
                _draw_tile(axes, tile, panel.volume, panel.scale, outline, None)
                if through_mm is not None:
                    _mark(axes, tile, centre, first.size_mm)
            _panel_words(figure, panel, (at + 0.5) * share, share)
        return _png(figure)


def planes(volume: Volume, *, scale: Scale, title: str, outline: Volume, through: Volume) -> bytes:
    """One slice of each plane through the whole field of view, side by side with a colour bar, as PNG.

    Parameters
    ----------
    volume : Volume
        What is shown.
    scale : Scale
        Its range and unit.
    title : str
        One line above the slices.
    outline : Volume
        Mapped voxels on the same grid, whose outline is orange.
    through : Volume
        A mask on the same grid through whose middle the slices go.
    """
    box = np.array([[0, n] for n in volume.data.shape])
    centre = _bounding_box(through.data, volume.size_mm).sum(axis=1) // 2
    tiles, left = [], 0.0
    for plane, (_, _, axis, _) in enumerate(PLANES):
        tile = _tile(plane, int(centre[axis]), box, volume.size_mm, left, 0.0)
        tiles.append(tile)
        left += tile.width + GAP_MM
    height = max(tile.top for tile in tiles)
    with _figure(left, height, title, volume.tilt_deg, head=0.34, side=0.8, foot=0.28) as (figure, axes):
        for tile in tiles:
            _draw_tile(axes, tile, volume, scale, outline, None)
        _side_bar(figure, scale)
        return _png(figure)


def region_plot(
    rows: Sequence[Mapping[str, Any]], *, expected: Mapping[str, Expected], unit_factor: float = 1000.0
) -> bytes:
    """Mean of each region, left and right, over the mean that is published for healthy adults, as SVG.

    Parameters
    ----------
    rows : sequence of mapping
        Rows of a region table with ``name``, ``hemisphere``, ``mean`` (ppm) and, where known, ``coverage`` (0 to 1);
        only those named in ``expected`` are drawn. A region whose mean is NaN keeps its line and says so.
    expected : mapping of name to Expected
        Published values, ppb, in the order in which the regions appear from the top.
    unit_factor : float
        From the table's unit to ppb.
    """
    named = {row["name"] for row in rows}
    drawn = [name for name in expected if name in named]
    with style.context(["default", STYLE]):
        figure = Figure(figsize=(8.0, 1.45 + 0.32 * max(len(drawn), 1)))
        axes = figure.add_subplot()
        for place, name in enumerate(drawn):
            _draw_expected(axes, place, expected[name])
        _draw_regions(axes, drawn, rows, unit_factor, size=7)
        _region_legend(figure, axes, expected=True)
        figure.subplots_adjust(
            left=0.24, right=0.98, bottom=0.6 / figure.get_figheight(), top=1 - 0.62 / figure.get_figheight()
        )
        return _svg(figure)


def other_regions_plot(
    rows: Sequence[Mapping[str, Any]], *, without: Container[str], unit_factor: float = 1000.0
) -> bytes:
    """Mean of each region that has no published value, left and right, in two columns of one scale, as SVG.

    Parameters
    ----------
    rows : sequence of mapping
        As for :func:`region_plot`.
    without : container of str
        Regions that are drawn elsewhere.
    unit_factor : float
        From the table's unit to ppb.
    """
    names = list(dict.fromkeys(row["name"] for row in rows if row["name"] not in without))
    half = max((len(names) + 1) // 2, 1)
    with style.context(["default", STYLE]):
        figure = Figure(figsize=(11.0, 1.3 + 0.2 * half))
        left, right = figure.subplots(1, 2, sharex=True)
        for axes, drawn in ((left, names[:half]), (right, names[half:])):
            _draw_regions(axes, drawn, rows, unit_factor, size=5)
        _region_legend(figure, left, expected=False)
        height = figure.get_figheight()
        figure.subplots_adjust(left=0.2, right=0.985, wspace=0.56, bottom=0.6 / height, top=1 - 0.45 / height)
        return _svg(figure)


_SIDES = {"L": ("<", "#0072B2", -0.12), "R": (">", "#D55E00", 0.12), "B": ("D", "0.25", 0.0)}


def _draw_regions(
    axes: Any, names: Sequence[str], rows: Sequence[Mapping[str, Any]], unit_factor: float, *, size: float
) -> None:
    """A line for each region with the means of its two sides, or of both together where it has no sides."""
    for place, name in enumerate(names):
        sides = {row["hemisphere"]: row for row in rows if row["name"] == name}
        shown = {side: row for side, row in sides.items() if side != "B" or len(sides) == 1}
        lost = [side for side, row in shown.items() if not np.isfinite(row["mean"])]
        for side, row in shown.items():
            marker, colour, shift = _SIDES[side]
            face = "white" if row.get("coverage", 1.0) < PARTLY else colour
            edge, width = (colour, 1.2) if face == "white" else ("white", 0.6)
            if side not in lost:
                mean = unit_factor * row["mean"]
                axes.plot(mean, place + shift, marker, color=colour, ms=size, mfc=face, mec=edge, mew=width)
        if lost:
            words = "not measured" if len(lost) == len(shown) else f"{SIDE_WORDS[lost[0]]} not measured"
            axes.text(
                0.995,
                place,
                words,
                transform=axes.get_yaxis_transform(),
                color=LOST,
                fontsize=7.5,
                ha="right",
                va="center",
            )
    axes.axvline(0, color="0.6", lw=0.8, zorder=0)
    axes.grid(axis="y", color="0.93", lw=0.6, zorder=-1)
    axes.set_axisbelow(True)
    axes.set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
    axes.set_ylim(max(len(names), 1) - 0.4, -0.6)
    axes.set_xlabel("mean susceptibility (ppb)")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(left=False)


SIDE_WORDS = {"L": "left", "R": "right", "B": "both"}
LOST = "#a40e26"


ANOTHER_AREA, OF_A_PART = ":", "--"
"""Lines of published values that are not of the same quantity as the means of the table."""


def _draw_expected(axes: Any, place: int, values: Expected) -> None:
    if values.low_ppb is not None and values.high_ppb is not None:
        axes.barh(place, values.high_ppb - values.low_ppb, left=values.low_ppb, height=0.62, color="0.88", zorder=0)
    if values.mean_ppb is not None:
        kind = ANOTHER_AREA if values.area else "-"
        axes.plot([values.mean_ppb] * 2, [place - 0.31, place + 0.31], kind, color="0.45", lw=1.5, zorder=1)
        if values.sd_ppb is not None:
            ends = values.mean_ppb - values.sd_ppb, values.mean_ppb + values.sd_ppb
            axes.plot(ends, [place] * 2, OF_A_PART, color="0.45", lw=1.0, zorder=1)


def _region_legend(figure: Any, axes: Any, *, expected: bool) -> None:
    axes.plot([], [], "<", color=_SIDES["L"][1], label="left")
    axes.plot([], [], ">", color=_SIDES["R"][1], label="right")
    axes.plot([], [], "D", color=_SIDES["B"][1], label="midline or both")
    axes.plot([], [], "D", color="0.25", mfc="white", label=f"less than {PARTLY:.0%} measured".replace("%", " %"))
    if expected:
        axes.bar(0, 0, color="0.88", label="alarm limits")
        axes.plot([], [], "|", color="0.45", ms=11, mew=1.5, label="published mean")
        axes.plot([], [], ANOTHER_AREA, color="0.45", lw=1.5, label="mean of another area")
        axes.plot([], [], OF_A_PART, color="0.45", lw=1.0, label="± SD, paramagnetic part")
    handles, words = axes.get_legend_handles_labels()
    figure.legend(handles, words, loc="upper center", ncol=4, frameon=False, handletextpad=0.4, columnspacing=1.4)


@dataclass(frozen=True)
class _Tile:
    """One slice: which plane and voxel, the box inside it, and its place in the figure, mm."""

    plane: int
    at: int
    low: tuple[int, int]
    high: tuple[int, int]
    left: float
    top: float
    width: float
    height: float
    words: str = ""


def _bounding_box(mask: Array, size_mm: Array, margin_mm: float = 5.0) -> Array:
    """First and one-past-last voxel of what is not zero along each axis with a margin, (3, 2)."""
    present = np.isfinite(mask) & (mask != 0)
    box = np.array([[0, n] for n in mask.shape])
    for axis in range(3):
        where = np.flatnonzero(present.any(axis=tuple(a for a in range(3) if a != axis)))
        if where.size:
            margin = int(np.ceil(margin_mm / size_mm[axis]))
            box[axis] = max(where[0] - margin, 0), min(where[-1] + 1 + margin, mask.shape[axis])
    return box


def _tile(plane: int, at: int, box: Array, size_mm: Array, left: float, bottom: float, words: str = "") -> _Tile:
    across, up = PLANES[plane][3]
    width = float((box[across, 1] - box[across, 0]) * size_mm[across])
    height = float((box[up, 1] - box[up, 0]) * size_mm[up])
    low = int(box[across, 0]), int(box[up, 0])
    high = int(box[across, 1]), int(box[up, 1])
    return _Tile(plane, at, low, high, left, bottom + height, width, height, words)


def _mosaic_tiles(
    volume: Volume, box: Array, core: Array, columns: int, axial_rows: int, wanted: Sequence[Place]
) -> list[_Tile]:
    """Slices of each plane, cut to the box and spread over its core, in rows of one width; axial ones at the top."""
    extent = (box[:, 1] - box[:, 0]) * volume.size_mm
    row_width = columns * (max(extent[PLANES[p][3][0]] for p in range(3)) + GAP_MM)
    tiles, bottom = [], 0.0
    for plane in (2, 1, 0):
        axis, (across, up) = PLANES[plane][2], PLANES[plane][3]
        available = int(core[axis, 1] - core[axis, 0])
        rows = axial_rows if plane == 0 else 1
        in_row = max(1, min(int(row_width / (extent[across] + GAP_MM)), available))
        number = min(in_row * rows, available)
        chosen = [p for p in wanted if p.axis == axis]
        apart = LEAST_APART_MM[axis] / float(volume.size_mm[axis])
        placed = _slices(number, core[axis], chosen, apart=apart, fill_from=FILL_FROM[axis])
        pitch = row_width / in_row
        for first in reversed(range(0, number, in_row)):  # from the bottom row up
            for column, (at, words) in enumerate(placed[first : first + in_row]):
                left = column * pitch + (pitch - extent[across]) / 2
                tiles.append(_tile(plane, at, box, volume.size_mm, left, bottom, words))
            bottom += extent[up] + GAP_MM
    return tiles


LEAST_APART_MM = (8.0, 8.0, 4.0)
"""Wanted slices along an axis that lie closer than this share one: nuclei are long from back to front, and flat."""

FILL_FROM = (0.0, 0.0, 0.25)
"""Share of the extent along an axis above which gaps are filled: the lowest part, of the cerebellum, shows little."""


def _slices(
    number: int, core: Array, wanted: Sequence[Place], apart: float, *, fill_from: float = 0.0
) -> list[tuple[int, str]]:
    """Positions of slices along an axis with the names of what they were wanted for, in order.

    Parameters
    ----------
    number : int
        How many.
    core : (2,) ndarray of int
        First and one-past-last voxel.
    wanted : sequence of Place
        On this axis, the most wanted first.
    apart : float
        Wanted slices that lie closer, voxels, share one.
    fill_from : float
        Share of the axis, 0 to 1, above which the widest gaps between wanted slices are halved.
    """
    first, last = int(core[0]), int(core[1]) - 1
    if not wanted:
        return [(first + round(float(share) * (last - first)), "") for share in _spread(number)]
    found: dict[int, list[str]] = {}
    for place in wanted:
        near = next((at for at in found if abs(at - place.at) < apart), None)
        if near is not None:
            found[near].append(place.words)
        elif len(found) < number and first <= place.at <= last:
            found[place.at] = [place.words]
    lowest = first + round(fill_from * (last - first))
    while len(found) < number:
        edges = [lowest, *(at for at in sorted(found) if at > lowest), last]
        gap = max(range(len(edges) - 1), key=lambda n: (edges[n + 1] - edges[n], n))
        middle = (edges[gap] + edges[gap + 1]) // 2
        if middle in found:
            break
        found[middle] = []
    return [(at, ", ".join(dict.fromkeys(found[at]))) for at in sorted(found)]


def _spread(number: int) -> Array:
    """Places between 0 and 1 that leave out the first and last slices, where little is to be seen."""
    return np.linspace(0.1, 0.9, number) if number > 1 else np.array([0.5])


def _mark(axes: Any, tile: _Tile, point: Array, size_mm: Array) -> None:
    """A ring around a voxel."""
    across, up = PLANES[tile.plane][3]
    x = tile.left + (point[across] - tile.low[0] + 0.5) * size_mm[across]
    y = tile.top - tile.height + (point[up] - tile.low[1] + 0.5) * size_mm[up]
    axes.plot([x], [y], "o", ms=16, mfc="none", mec=CONTOUR_COLOURS[0], mew=1.2)


def _column_tiles(box: Array, size_mm: Array, column: int, centre: Array) -> list[_Tile]:
    """One slice of each plane through a voxel, one above the other."""
    extent = (box[:, 1] - box[:, 0]) * size_mm
    pitch = max(extent[PLANES[p][3][0]] for p in range(3)) + GAP_MM
    tiles, bottom = [], 0.0
    for plane in (2, 1, 0):
        axis, (across, up) = PLANES[plane][2], PLANES[plane][3]
        left = column * pitch + (pitch - extent[across]) / 2
        tiles.append(_tile(plane, int(centre[axis]), box, size_mm, left, bottom))
        bottom += extent[up] + GAP_MM
    return tiles


def _slice(volume: Volume, tile: _Tile) -> Array:
    """The part of a plane that a tile shows, rows from the bottom up."""
    index: list[int | slice] = [tile.at] * 3
    for axis, low, high in zip(PLANES[tile.plane][3], tile.low, tile.high, strict=True):
        index[axis] = slice(low, high)
    part: Array = volume.data[tuple(index)].T
    return part


def _draw_tile(
    axes: Any,
    tile: _Tile,
    volume: Volume,
    scale: Scale,
    outline: Volume | None,
    labels: Volume | None,
    wider: Volume | None = None,
) -> None:
    bottom = tile.top - tile.height
    extent = (tile.left, tile.left + tile.width, bottom, tile.top)
    axes.imshow(
        _slice(volume, tile),
        origin="lower",
        extent=extent,
        cmap=scale.colours,
        vmin=scale.low,
        vmax=scale.high,
        interpolation="nearest",
        aspect="auto",
    )
    lines = (wider, BRAIN_COLOUR, 1.8), (outline, MAPPED_COLOUR, 0.7)
    for mask, colour, width in lines:
        if mask is not None:
            _draw_borders(axes, (_slice(mask, tile) != 0).astype(int), extent, (colour,), width)
    if labels is not None:
        _draw_borders(axes, _slice(labels, tile).astype(int), extent, CONTOUR_COLOURS, 0.45)
    sides = ("L", "R") if PLANES[tile.plane][3][0] == 0 else ("P", "A")
    middle = bottom + tile.height / 2
    _write(axes, tile.left + 1, tile.top - 1, _position(volume, tile), ha="left", va="top")
    _write(axes, tile.left + 1, bottom + 1, tile.words.replace(", ", "\n"), ha="left", va="bottom")
    _write(axes, tile.left + 1, middle, sides[0], ha="left", va="center")
    _write(axes, tile.left + tile.width - 1, middle, sides[1], ha="right", va="center")


def _write(axes: Any, x: float, y: float, words: str, **place: str) -> None:
    """Small words that stay legible on bright and dark tissue and on noise."""
    if words:
        behind = {"facecolor": "black", "alpha": 0.65, "edgecolor": "none", "pad": 0.8}
        axes.text(x, y, words, color="0.95", fontsize=6.5, bbox=behind, **place)


def _position(volume: Volume, tile: _Tile) -> str:
    """Where a slice lies: the scanner coordinate of its middle along its axis."""
    _, letter, axis, (across, up) = PLANES[tile.plane]
    centre = np.ones(4)
    centre[axis] = tile.at
    centre[across] = (tile.low[0] + tile.high[0] - 1) / 2
    centre[up] = (tile.low[1] + tile.high[1] - 1) / 2
    return f"{letter} = {(volume.affine @ centre)[axis]:.0f} mm".replace("-", "−").replace("−0 ", "0 ")


def _draw_borders(axes: Any, labels: Array, extent: tuple[float, ...], colours: Sequence[str], width: float) -> None:
    """Lines along the voxel edges where labels change, in the colour of the larger label."""
    rows, columns = labels.shape
    x = np.linspace(extent[0], extent[1], columns + 1)
    y = np.linspace(extent[2], extent[3], rows + 1)
    r, c = np.nonzero(labels[:, 1:] != labels[:, :-1])
    upright = np.stack([x[c + 1], y[r], x[c + 1], y[r + 1]], axis=-1)
    owner = [np.maximum(labels[r, c], labels[r, c + 1])]
    r, c = np.nonzero(labels[1:] != labels[:-1])
    level = np.stack([x[c], y[r + 1], x[c + 1], y[r + 1]], axis=-1)
    owner.append(np.maximum(labels[r, c], labels[r + 1, c]))
    colour = np.concatenate(owner) % len(colours)
    lines = np.concatenate([upright, level])
    for number in np.unique(colour):
        points = np.full((int((colour == number).sum()), 3, 2), np.nan)  # the third point lifts the pen
        points[:, :2] = lines[colour == number].reshape(-1, 2, 2)
        axes.plot(*points.reshape(-1, 2).T, color=colours[number], linewidth=width, solid_capstyle="projecting")


@contextmanager
def _figure(
    width_mm: float, height_mm: float, title: str, tilt_deg: float, *, head: float, side: float, foot: float
) -> Iterator[tuple[Figure, Any]]:
    """A black figure with axes in millimetres; inches above, to the right and below are kept free of images."""
    body = WIDTH_INCHES - side
    height = body * height_mm / width_mm
    total = head + height + foot
    with style.context(["default", STYLE]):
        figure = Figure(figsize=(WIDTH_INCHES, total), dpi=DPI, facecolor="black")
        axes = figure.add_axes((0, foot / total, body / WIDTH_INCHES, height / total))
        axes.set_axis_off()
        axes.set_xlim(0, width_mm)
        axes.set_ylim(0, height_mm)
        oblique = f"; slices follow the acquired axes, tilted {tilt_deg:.0f}° in the scanner" if tilt_deg > 0.5 else ""
        figure.text(0.006, 1 - 0.08 / total, title, color="white", fontsize=11, va="top")
        figure.text(0.006, 0.07 / total, CONVENTION + oblique + ".", color="0.75", fontsize=8, va="bottom")
        yield figure, axes


def _side_bar(figure: Figure, scale: Scale) -> None:
    """Colour bar at the right edge of a mosaic."""
    bar = figure.add_axes((1 - 0.72 / WIDTH_INCHES, 0.25, 0.13 / WIDTH_INCHES, 0.5))
    _fill_bar(figure, bar, scale, "vertical")


def _panel_words(figure: Figure, panel: Panel, centre: float, width: float) -> None:
    """Title over and colour bar under one column; its place is given in shares of the figure's width."""
    total = figure.get_figheight()
    figure.text(centre, 1 - 0.38 / total, panel.title, color="white", fontsize=9, ha="center", va="top")
    bar = figure.add_axes((centre - 0.35 * width, (PANEL_FOOT - 0.17) / total, 0.7 * width, 0.09 / total))
    _fill_bar(figure, bar, panel.scale, "horizontal")


def _fill_bar(figure: Figure, bar: Any, scale: Scale, orientation: Literal["vertical", "horizontal"]) -> None:
    mappable = ScalarMappable(Normalize(scale.low, scale.high), scale.colours)
    made = figure.colorbar(mappable, cax=bar, orientation=orientation)
    made.set_label(scale.label, color="white", fontsize=8)
    made.outline.set_edgecolor("0.5")
    bar.tick_params(colors="white", labelsize=7)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})
    return buffer.getvalue()


def _svg(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None, "Creator": None})
    return buffer.getvalue()
