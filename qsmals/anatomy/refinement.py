"""Deep nuclei, placed by their iron: a last deformation that sees the susceptibility map.

Pallidum, substantia nigra and red nucleus hardly differ from their surroundings on a T1w image, so that a registration
of T1w images places them by their neighbours only. On a susceptibility map they are what stands out. The map
that the atlas lets expect (published mean values, region by region) is registered to the subject's map around the
nuclei, with the T1w images as a second pair that keeps ventricles and cortex where they are. The metrics are local
correlations, which neither the level of the iron nor the reference of the map changes.

That T1w and susceptibility contrast together place nuclei better than either alone: Li X et al. 2019,
doi:10.1016/j.neuroimage.2019.02.016.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from qsmals.anatomy.compute import Compute, ants_session
from qsmals.anatomy.images import Image, cropped, resampled, with_data
from qsmals.anatomy.quality import NucleiQuality, nuclei_quality
from qsmals.anatomy.registration import Transform, resample
from qsmals.anatomy.stages import Metric, Stage, run_stages, write_affine
from qsmals.recon.grid import bounding_box

EXPECTED_PPM = {
    **dict.fromkeys((13, 52), 0.119),
    **dict.fromkeys((27, 59), 0.105),
    **dict.fromkeys((751, 752), 0.102),
    **dict.fromkeys((12, 51), 0.067),
    **dict.fromkeys((11, 50), 0.039),
    **dict.fromkeys((26, 58), 0.022),
    **dict.fromkeys((10, 49), 0.002),
    **dict.fromkeys((2, 41, 251, 252, 253, 254, 255), -0.012),
    **dict.fromkeys((4, 43, 5, 44, 14, 15), 0.015),
}
"""Label to mean susceptibility of healthy people, ppm, white matter and ventricles included: Min et al. 2024
(arXiv:2311.04468)."""

CORTEX_PPM = 0.015
NUCLEI = (11, 50, 12, 51, 13, 52, 10, 49, 26, 58, 27, 59, 751, 752)
MARGIN_MM = 12.0
BLUR_MM = 0.8
RANGE_PPM = (-0.1, 0.25)
"""Veins and streaks beyond this range say nothing about nuclei."""


def expected_susceptibility(labels: Image) -> Image:
    """The map that an atlas lets expect: a value a region, slightly blurred, ppm.

    Parameters
    ----------
    labels : image
        FreeSurfer's numbers (cortex 1000 and above), and 751, 752 for the red nucleus.
    """
    codes = np.rint(labels.numpy()).astype(int)
    values = np.where(codes >= 1000, CORTEX_PPM, 0.0).astype(np.float32)
    for code, ppm in EXPECTED_PPM.items():
        values[codes == code] = ppm
    sigma = BLUR_MM / np.asarray(labels.spacing)
    return with_data(labels, np.asarray(ndimage.gaussian_filter(values, sigma), dtype=np.float32))


@dataclass(frozen=True)
class Refined:
    """The deformation around the deep nuclei and what it is worth.

    Attributes
    ----------
    transform : Transform
        ``inverse`` takes template labels to the refined template; chain it before the other inverses. Identity away
        from the nuclei.
    quality : NucleiQuality
    """

    transform: Transform
    quality: NucleiQuality


def refine_nuclei(
    chi: Image,
    t1w_brain: Image,
    labels: Image,
    template: Image,
    *,
    gre_to_t1w: Path,
    t1w_to_template: Path,
    compute: Compute,
) -> Refined | None:
    """Deform the template around the deep nuclei until its expected susceptibility fits the subject's.

    Parameters
    ----------
    chi : image
        Susceptibility on the GRE grid, ppm, any reference; 0 outside the brain.
    t1w_brain : image
        Bias-corrected T1w brain.
    labels, template : image
        Atlas and the brain it is drawn on, on one grid.
    gre_to_t1w, t1w_to_template : Path
        Transforms of the registrations so far.
    compute : Compute
        Resources; `sloppy` ends at 4 mm.

    Returns
    -------
    Refined or None
        None where the map covers less than half of the nuclei, as that of a slab
        above them, and shows nothing to refine by.

    Raises
    ------
    ValueError
        The labels have no deep nuclei.
    """
    nuclei = np.isin(np.rint(labels.numpy()).astype(int), NUCLEI)
    if not nuclei.any():
        raise ValueError("the atlas has no deep nuclei to refine")
    folder = compute.folder("nuclei")
    with ants_session(compute):
        box = bounding_box(nuclei, MARGIN_MM / np.asarray(template.spacing))
        expected, anatomy = cropped(expected_susceptibility(labels), box), cropped(template, box)
        there, nuclei = resample(chi, expected, [gre_to_t1w, t1w_to_template]), nuclei[box]
        if (there.numpy()[nuclei] != 0).mean() < 0.5:
            return None
        level = float(np.median(there.numpy()[there.numpy() != 0]))
        measured = _within_range(there, level)
        t1w = resample(t1w_brain, anatomy, [t1w_to_template])
        pairs = [(expected, measured), (anatomy, t1w)]
        if compute.sloppy:
            pairs = [(resampled(a, 2.0), resampled(b, 2.0)) for a, b in pairs]
        forward, inverse = run_stages(
            [_syn(pairs, sloppy=compute.sloppy)],
            initial=[write_affine(np.eye(4), folder / "identity.mat")],
            composite=True,
            prefix=folder / "nuclei",
            compute=compute,
        )
        again = resample(chi, expected, [gre_to_t1w, t1w_to_template, forward])
        before, after = (with_data(m, _within_range(m, level).numpy() * (m.numpy() != 0)) for m in (there, again))
        quality = nuclei_quality(expected, before, after, nuclei, forward)
    return Refined(Transform(forward, inverse), quality)


def _within_range(measured: Image, level_ppm: float) -> Image:
    """A map relative to its level, without what is no nucleus."""
    return with_data(measured, np.clip(measured.numpy() - level_ppm, *RANGE_PPM).astype(np.float32))


def _syn(pairs: Sequence[tuple[Image, Image]], *, sloppy: bool) -> Stage:
    """Local correlation of the susceptibility maps, and with a quarter of their weight of the T1w images."""
    metrics = tuple(
        Metric("CC", fixed, moving, weight=weight, parameter=3)
        for (fixed, moving), weight in zip(pairs, (2.0, 0.5), strict=True)
    )
    if sloppy:
        return Stage("SyN[0.25,3,0]", metrics, (30,), (2,), (1.0,))
    # a last level at the full resolution took three times as long and raised Dice by 0.02
    return Stage("SyN[0.25,3,0]", metrics, (100, 60), (4, 2), (2.0, 1.0))
