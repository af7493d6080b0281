"""The interactive three-plane viewer of the susceptibility map, a page of its own that needs no network."""

import base64
import gzip
import io
import json
import re
import warnings
from collections.abc import Mapping
from importlib.resources import files

import nibabel as nib
import numpy as np
from markupsafe import escape
from matplotlib.colors import ListedColormap

from qsmals.reports.figures import CONTOUR_COLOURS, Array, Scale, Volume, colour_numbers

NOT_COLOURED = (0, 2, 41)
"""Labels without a colour: outside, and cerebral white matter, under which the map should be seen."""

LEAST_VOXEL_MM = 1.0
"""Finer maps are shown at this size: the page stays small."""

OPACITY = 0.15
"""Of the regions at first: the map is what is to be seen."""

OPENING = "pallidum"
"""Part of the name of the region in which the cross stands at first."""

OUTSIDE = -32768
"""In place of a value where nothing was measured."""

MADE = re.compile(r"\bbrain = brainsprite\(")
"""Where nilearn's page makes its planes; our script reads their place from a name that it can reach."""

LEGEND = """<div id="legend">
<span>{title}</span><span class="ramp">{low} <i></i> {high}</span><span id="at"></span></div>
<style>
#legend {{ display: flex; flex-wrap: wrap; align-items: center; gap: .3rem 1.2rem;
  font: 15px/1.4 system-ui, sans-serif; }}
#legend .ramp {{ white-space: nowrap; }}
#legend i {{ display: inline-block; width: 8rem; height: .8rem; vertical-align: middle; border: 1px solid #888;
  background: linear-gradient(to right, #000, #fff); }}
#at {{ font-weight: 600; }}
#stacked {{ display: none; background: #000; }}
#stacked canvas {{ display: block; max-width: 100%; margin: 0 auto; }}
@media (max-width: 600px) {{
  #drawn {{ position: absolute; left: -9999px; width: calc((100vw - 16px) * var(--share)); }}
  #stacked {{ display: block; }}
}}
div:has(> input.slider) {{ flex-wrap: wrap; font: 15px/1.4 system-ui, sans-serif; }}
</style>
<script id="map-data" type="application/json">{data}</script>
<script>{script}</script>
</body>"""
"""The scale, the place of the words, the values under the cross, and the script, at the end of nilearn's page."""

FOREIGN = re.compile(r'href="https?://[^"]*favicon[^"]*"')
"""The one address that nilearn's page would ask for: its icon."""

SPRITE = re.compile(r'(id="spriteImg-[0-9a-z]+"[^>]*src="data:image/png;base64,)([A-Za-z0-9+/=]+)')
"""The image that holds all slices of the map: grey, and written in four channels."""

RANDOM = re.compile(r"3Dviewer-([0-9a-f]{32})")
"""What nilearn calls a viewer: another name each time, where equal input should give equal bytes."""


def viewer(
    chi: Volume, mask: Volume, labels: Volume | None, *, names: Mapping[int, str], scale: Scale, title: str
) -> bytes:
    """A page with the map in three planes that follow the pointer, the regions faintly over it, and words.

    Parameters
    ----------
    chi : Volume
        Susceptibility, ppm.
    mask : Volume
        Where it was measured.
    labels : Volume of int or None
        Regions on the same grid.
    names : mapping of int to str
        Label value to the region's name, said where the cross is.
    scale : Scale
        Range of the grey values, ppm.
    title : str
        Whose map it is.

    Returns
    -------
    bytes
        HTML (nilearn's viewer, BSD licence), with the images and all code inlined.

    Raises
    ------
    RuntimeError
        nilearn's page is not what the script knows.
    """
    from nilearn.plotting import view_img

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nilearn says that images lack what they do not need
        affine, values, inside, regions = _straight(*_cut(chi, mask, labels))
        known = np.unique(regions[regions > 0])
        colours = _colours(regions)
        shown = np.where(inside, np.clip(values, scale.low, scale.high), scale.low).astype(np.float32)
        shown[0, 0, 0] = scale.high  # nilearn's white is the largest value: a map without veins would be stretched
        page = view_img(
            nib.Nifti1Image(colours, affine),
            bg_img=nib.Nifti1Image(shown, affine),
            cmap=ListedColormap(CONTOUR_COLOURS),
            vmin=0.5,
            vmax=len(CONTOUR_COLOURS) + 0.5,
            symmetric_cmap=False,
            threshold=0.5,
            resampling_interpolation="nearest",
            opacity=OPACITY,
            cut_coords=_opening(regions, inside, names, affine),
            colorbar=False,
            dim=0,
            black_bg=True,
        )
    html = FOREIGN.sub('href="data:,"', page.get_standalone())
    for identifier in set(RANDOM.findall(html)):
        html = html.replace(identifier, "map")
    html = SPRITE.sub(lambda found: found[1] + _grey(found[2]), html)
    html, made = MADE.subn("brain = window.shownMap = brainsprite(", html)
    if made != 1 or html.count("</body>") != 1:
        raise RuntimeError("this version of nilearn writes its viewer otherwise")
    packed = _packed(np.where(inside, np.rint(1000 * values), OUTSIDE), np.searchsorted(known, regions) + (regions > 0))
    data = {
        "shape": values.shape,
        "corner_mm": affine[:3, 3].tolist(),
        "edge_mm": float(affine[0, 0]),
        "names": ["", *(names.get(int(value), f"label {value}") for value in known)],
        "outside": OUTSIDE,
        "opacity": round(100 * OPACITY),
        "packed": packed,
    }
    end = LEGEND.format(
        title=escape(title),
        low=f"{scale.low:g}".replace("-", "−"),
        high=f"{scale.high:g} ppm",
        data=json.dumps(data).replace("<", "\\u003c"),
        script=(files("qsmals.reports") / "viewer.js").read_text(),
    )
    return html.replace("</body>", end).encode()


def _grey(encoded: str) -> str:
    """An image in base64 with one channel in place of four equal ones, about half its size; others as they are."""
    from PIL import Image

    with Image.open(io.BytesIO(base64.b64decode(encoded))) as image:
        pixels = np.asarray(image)
    if pixels.ndim != 3 or np.ptp(pixels[..., :3], axis=-1).any() or (pixels[..., 3:] != 255).any():
        return encoded
    stream = io.BytesIO()
    Image.fromarray(pixels[..., 0]).save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


def _opening(regions: Array, inside: Array, names: Mapping[int, str], affine: Array) -> tuple[float, ...]:
    """Where the cross stands at first, scanner mm: in the nucleus that is brightest in all, else amid the brain."""
    wanted = [value for value, name in names.items() if OPENING in name]
    found = next((regions == value for value in wanted if (regions == value).any()), inside if inside.any() else None)
    if found is None:
        return tuple(affine[:3, :3] @ np.array(inside.shape) / 2 + affine[:3, 3])
    places = np.argwhere(found)
    nearest = places[np.argmin(((places - places.mean(axis=0)) ** 2).sum(axis=1))]
    return tuple(affine[:3, :3] @ nearest + affine[:3, 3])


def _cut(chi: Volume, mask: Volume, labels: Volume | None) -> tuple[Array, Array, Array, Array]:
    """Affine, susceptibility, mask and labels of the box around the brain; no label without labels."""
    inside = mask.data != 0
    box = tuple(slice(max(int(i.min()) - 2, 0), int(i.max()) + 3) for i in np.nonzero(inside)) if inside.any() else ()
    corner = [s.start for s in box] if box else [0, 0, 0]
    affine = chi.affine.copy()
    affine[:3, 3] = (chi.affine @ [*corner, 1])[:3]
    regions = np.zeros(inside.shape, dtype=np.int32) if labels is None else labels.data
    return affine, np.where(inside, chi.data, 0)[box], inside[box], regions[box]


def _straight(affine: Array, values: Array, inside: Array, regions: Array) -> tuple[Array, Array, Array, Array]:
    """The same on an isotropic grid along the scanner's axes, which is the one that nilearn's page draws."""
    from nilearn import image

    size = np.linalg.norm(affine[:3, :3], axis=0)
    edge = max(float(size.min()), LEAST_VOXEL_MM) if size.min() < 0.95 * LEAST_VOXEL_MM else float(size.min())
    target = np.diag([edge] * 3)
    if np.allclose(affine[:3, :3], target, atol=1e-4 * edge):
        straight = affine.copy()
        straight[:3, :3] = target
        return straight, values, inside, regions

    def moved(data: Array, interpolation: str) -> nib.Nifti1Image:
        return image.resample_img(
            nib.Nifti1Image(data.astype(np.float32), affine),
            target,
            interpolation=interpolation,
            copy_header=True,
            force_resample=True,
        )

    map_image = moved(values, "linear")
    others = [np.asarray(moved(data, "nearest").dataobj) for data in (inside, regions)]
    return map_image.affine, np.asarray(map_image.dataobj), others[0] > 0.5, np.rint(others[1]).astype(np.int32)


def _packed(values_ppb: Array, regions: Array) -> str:
    """Values and numbers of regions, last axis fastest, as gzip in base64."""
    content = values_ppb.astype("<i2").tobytes() + regions.astype("<u2").tobytes()
    return base64.b64encode(gzip.compress(content, compresslevel=6, mtime=0)).decode()


def _colours(labels: Array) -> Array:
    """Number of the colour of each voxel from 1, 0 for none."""
    coloured = ~np.isin(labels, NOT_COLOURED)
    return np.where(coloured, 1 + colour_numbers(labels) % len(CONTOUR_COLOURS), 0).astype(np.float32)
