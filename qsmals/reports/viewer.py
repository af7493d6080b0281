"""The interactive three-plane viewer of the susceptibility map, a page of its own that needs no network."""

import re
import warnings

import nibabel as nib
import numpy as np
from matplotlib.colors import ListedColormap

from qsmals.reports.figures import CONTOUR_COLOURS, Array, Scale, Volume, colour_numbers

NOT_COLOURED = (0, 2, 41)
"""Labels without a colour: outside, and cerebral white matter, under which the map should be seen."""

LEAST_VOXEL_MM = 1.0
"""Finer maps are shown at this size: the page stays small."""

OPACITY = 0.45
FOREIGN = re.compile(r'href="https?://[^"]*favicon[^"]*"')
"""The one address that nilearn's page would ask for: its icon."""

RANDOM = re.compile(r"3Dviewer-([0-9a-f]{32})")
"""What nilearn calls a viewer: another name each time, where equal input should give equal bytes."""


def viewer(chi: Volume, mask: Volume, labels: Volume | None, *, scale: Scale, title: str) -> bytes:
    """A page with the map in three planes that follow the pointer, and the regions over it with a slider.

    Parameters
    ----------
    chi : Volume
        Susceptibility, ppm.
    mask : Volume
        Where it was measured.
    labels : Volume of int or None
        Regions on the same grid.
    scale : Scale
        Range of the grey values.
    title : str
        One line over the planes.

    Returns
    -------
    bytes
        HTML (nilearn's viewer, BSD licence), with the images and all code inlined.
    """
    from nilearn import image
    from nilearn.plotting import view_img

    inside = mask.data != 0
    box = tuple(slice(max(int(i.min()) - 2, 0), int(i.max()) + 3) for i in np.nonzero(inside)) if inside.any() else ()
    corner = [s.start for s in box] if box else [0, 0, 0]
    affine = chi.affine.copy()
    affine[:3, 3] = (chi.affine @ [*corner, 1])[:3]
    shown = np.where(inside, np.clip(chi.data, scale.low, scale.high), scale.low)[box].astype(np.float32)
    colours = np.zeros(shown.shape, dtype=np.float32) if labels is None else _colours(labels.data)[box]
    background, overlay = nib.Nifti1Image(shown, affine), nib.Nifti1Image(colours, affine)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nilearn says that images lack what they do not need
        if float(chi.size_mm.min()) < 0.95 * LEAST_VOXEL_MM:
            target = np.diag([LEAST_VOXEL_MM] * 3)
            background = image.resample_img(
                background, target, interpolation="linear", copy_header=True, force_resample=True
            )
            overlay = image.resample_img(
                overlay, target, interpolation="nearest", copy_header=True, force_resample=True
            )
        page = view_img(
            overlay,
            bg_img=background,
            cmap=ListedColormap(CONTOUR_COLOURS),
            vmin=0.5,
            vmax=len(CONTOUR_COLOURS) + 0.5,
            symmetric_cmap=False,
            threshold=0.5,
            resampling_interpolation="nearest",
            opacity=OPACITY,
            colorbar=False,
            dim=0,
            black_bg=True,
            title=title,
        )
    html = FOREIGN.sub('href="data:,"', page.get_standalone())
    for identifier in set(RANDOM.findall(html)):
        html = html.replace(identifier, "map")
    return html.encode()


def _colours(labels: Array) -> Array:
    """Number of the colour of each voxel from 1, 0 for none."""
    coloured = ~np.isin(labels, NOT_COLOURED)
    return np.where(coloured, 1 + colour_numbers(labels) % len(CONTOUR_COLOURS), 0).astype(np.float32)
