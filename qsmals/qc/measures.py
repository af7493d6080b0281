"""What is measured about a scan: title, unit, definition and source of every measure, and where the page shows it."""

from dataclasses import dataclass

from qsmals.qc.regions import ALIKE_PPB

OWN = "own definition"
PERCENT, SHARE, ANY = (0.0, 100.0), (0.0, 1.0), (None, None)


@dataclass(frozen=True)
class Measure:
    """One quality measure.

    Attributes
    ----------
    title : str
        As pages and sentences name it.
    unit : str
        Empty for a pure number.
    definition : str
        What exactly is computed.
    source : str
        Paper that it is taken from or modelled on.
    figure : str
        Part of the page that shows why: a section, or a figure by the end of its file name.
    group : str
        Heading under which tables list it.
    digits : int
        Digits after the point when it is shown.
    possible : tuple of float or None
        Least and largest value that there can be; None where there is no bound.
    """

    title: str
    unit: str
    definition: str
    source: str
    figure: str
    group: str
    digits: int = 1
    possible: tuple[float | None, float | None] = (0.0, None)


MEASURES: dict[str, Measure] = {
    "snr_first": Measure(
        "SNR of the first echo",
        "",
        "Median magnitude in the brain over the standard deviation of the noise there: the median absolute value, "
        "scaled to a normal distribution, of the differences along all three axes at once. Along axes that the scanner "
        "interpolated or filtered (the power of the brain's k-space drops at a border inside it) voxels as far apart "
        "as measured ones are compared, which is up to a quarter too low unless a measured voxel is a whole number of "
        "stored ones",
        "Donoho & Johnstone 1994, doi:10.1093/biomet/81.3.425",
        "desc-echoes_MEGRE.png",
        "Signal",
    ),
    "snr_last": Measure(
        "SNR of the last echo",
        "",
        "As for the first echo",
        "Donoho & Johnstone 1994, doi:10.1093/biomet/81.3.425",
        "desc-echoes_MEGRE.png",
        "Signal",
    ),
    "echo_signal": Measure(
        "Weakest echo",
        "",
        "Smallest, over the echoes, ratio of the brain's median magnitude to what a mono-exponential fit of the other "
        "echoes predicts; needs three echoes, of which the first and the last are told apart by their phase noise",
        OWN,
        "desc-echoes_MEGRE.png",
        "Signal",
        2,
    ),
    "phase_noise": Measure(
        "Phase noise of the noisiest echo",
        "rad",
        "Standard deviation of the wrapped differences of phase along all three axes at once in the brain, from their "
        "median absolute value; phase without information gives about 0.8. In interpolated images as for the SNR",
        "Donoho & Johnstone 1994, doi:10.1093/biomet/81.3.425, applied to phase",
        "desc-echoes_MEGRE.png",
        "Signal",
        3,
    ),
    "field_noise": Measure(
        "Noise of the total field",
        "ppb",
        "Median over the brain of the standard deviation that the field fit gives each voxel; of a single echo of "
        "interpolated images it is told as the SNR is",
        "Biondetti et al. 2022, doi:10.1002/mrm.29365",
        "desc-field_MEGRE.png",
        "Signal",
        2,
    ),
    "ghosting": Measure(
        "Ghosting hint",
        "%",
        "Mean magnitude of the air beside the head less that of the air in the corners, in percent of the brain's "
        "median, along the axis where it is largest; not applicable where the scanner blanks the air",
        "after the ghost-to-signal ratio of Giannelli et al. 2010, doi:10.1120/jacmp.v11i4.3237",
        "desc-air_MEGRE.png",
        "Signal",
        2,
        possible=ANY,
    ),
    "air_outliers": Measure(
        "Motion hint: structured air",
        "%",
        "Share of the air's voxels above what Rayleigh noise would exceed once in ten thousand",
        "after the artefact index of Mortamet et al. 2009, doi:10.1002/mrm.21992",
        "desc-air_MEGRE.png",
        "Signal",
        2,
        possible=PERCENT,
    ),
    "phase_span": Measure(
        "Part of a turn that the phase covers",
        "",
        "Range of the last echo's wrapped phase in the brain (0.05 to 99.95 %) over 2 pi; needs field strength times "
        "echo time of 0.02 T s",
        OWN,
        "desc-echoes_MEGRE.png",
        "Phase and field",
        3,
        possible=SHARE,
    ),
    "jump_share": Measure(
        "Voxels with residual jumps of 2π",
        "%",
        "Voxels of the mask beside a step of more than half a turn in the first echo's unwrapped phase, or with an "
        "echo, or all echoes from one on, more than half a turn off the weighted line through zero and the others, "
        "where half a turn is more than five standard deviations of the noise of that distance; with two echoes also "
        "beside a step of the distance",
        "the criterion of Itoh 1982 (doi:10.1364/AO.21.002470) applied to the result",
        "desc-field_MEGRE.png",
        "Phase and field",
        3,
        possible=PERCENT,
    ),
    "jump_cluster": Measure(
        "Largest group of jumps of 2π",
        "ml",
        "Volume of the largest connected group of the voxels with residual jumps",
        OWN,
        "desc-jumps_MEGRE.png",
        "Phase and field",
        2,
    ),
    "fit_residual": Measure(
        "Residual of the field fit",
        "rad",
        "Median over the mask of the root mean square, weighted by magnitude squared, of the echoes' phase minus the "
        "weighted line through zero, whole turns removed; needs two echoes",
        OWN,
        "desc-field_MEGRE.png",
        "Phase and field",
        3,
    ),
    "fit_outliers": Measure(
        "Voxels that the field does not fit",
        "%",
        "Share of the mask's voxels whose residual of the field fit exceeds 0.5 rad",
        OWN,
        "desc-field_MEGRE.png",
        "Phase and field",
        2,
        possible=PERCENT,
    ),
    "brain_volume": Measure(
        "Brain of the T1w image",
        "ml",
        "Volume of the brain that was found in the T1w image (in the gradient echo where there is none), with its "
        "fluid, on the grid of the scan; the file desc-brain_mask has those of its voxels that are mapped",
        OWN,
        "desc-mask_MEGRE.png",
        "Mask",
        0,
    ),
    "brain_kept": Measure(
        "Share of the brain kept",
        "%",
        "Voxels of that brain that have a susceptibility: those of the file desc-brain_mask",
        OWN,
        "desc-mask_MEGRE.png",
        "Mask",
        possible=PERCENT,
    ),
    "motor_coverage": Measure(
        "Coverage of the motor cortex",
        "%",
        "Smallest share of measured voxels among the left and right precentral and paracentral gyri, by their names in "
        "the region table",
        OWN,
        "desc-mask_MEGRE.png",
        "Mask",
        possible=PERCENT,
    ),
    "motor_in_mask": Measure(
        "Motor cortex inside the mask",
        "%",
        "Share of the atlas's motor cortex, placed by the affine of the whole head alone, that lies in the mask or "
        "within 6 mm of it; smallest of the left and right precentral and paracentral gyri. A mask that is too small "
        "pulls the labels with it, but not this affine",
        OWN,
        "desc-mask_MEGRE.png",
        "Mask",
        possible=PERCENT,
    ),
    "lost_regions": Measure(
        "Regions lost",
        "",
        "Number of regions of which less than half was measured",
        OWN,
        "regions",
        "Mask",
        0,
    ),
    "contrast_pallidum": Measure(
        "Contrast of the pallidum",
        "",
        "Mean of the pallidum minus that of white matter, over the spread of white matter",
        OWN,
        "desc-deep_Chimap.png",
        "Map",
        possible=ANY,
    ),
    "contrast_substantia_nigra": Measure(
        "Contrast of the substantia nigra",
        "",
        "As for the pallidum",
        OWN,
        "desc-deep_Chimap.png",
        "Map",
        possible=ANY,
    ),
    "contrast_caudate": Measure(
        "Contrast of the caudate",
        "",
        "As for the pallidum",
        OWN,
        "desc-deep_Chimap.png",
        "Map",
        possible=ANY,
    ),
    "region_order": Measure(
        "Regions in the order of their iron",
        "%",
        "Share of the pairs that are in order: pallidum, then substantia nigra and red nucleus, putamen, caudate, "
        "thalamus, white matter; neighbours may differ by 5 ppb in the wrong direction",
        "Hallgren & Sourander 1958, doi:10.1111/j.1471-4159.1958.tb12607.x",
        "regions",
        "Map",
        0,
        possible=PERCENT,
    ),
    "implausible_regions": Measure(
        "Regions outside what adults have",
        "",
        "Number of regions, left and right, whose mean lies outside its alarm limits, wide over ages and methods",
        "the limits are in the figure of the regions",
        "regions",
        "Map",
        0,
    ),
    "cortex_outliers": Measure(
        "Cortical regions far from the others",
        "",
        "Number of cortical regions, left and right and but for the motor cortex, whose mean is more than "
        f"{ALIKE_PPB:g} ppb from the median of all cortical regions",
        OWN,
        "regions",
        "Map",
        0,
    ),
    "asymmetry": Measure(
        "Largest difference of left and right",
        "ppb",
        "Among caudate, putamen, pallidum and thalamus",
        OWN,
        "regions",
        "Map",
    ),
    "white_matter_sd": Measure(
        "Spread of white matter",
        "ppb",
        "Median absolute deviation, scaled to a normal distribution, of the core of cerebral white matter",
        OWN,
        "desc-mosaic_Chimap.png",
        "Map",
    ),
    "rim_offset": Measure(
        "Rim against core",
        "ppb",
        "Median of cortex within 3 mm of the mask's border (its first voxel at least) minus median of cortex deeper "
        "than 8 mm; cortex is what the region table numbers and names as FreeSurfer does",
        OWN,
        "desc-background_fieldmap.png",
        "Map",
        possible=ANY,
    ),
    "streaking": Measure(
        "Streaking",
        "",
        "Power of the tapered map where the dipole kernel is below 0.06 over that where it is 0.15 to 0.30, median "
        "over shells of spatial frequency from 0.04 to 0.2 per mm",
        OWN,
        "desc-mosaic_Chimap.png",
        "Map",
        2,
    ),
    "gre_overlap": Measure(
        "GRE on T1w: brain with signal",
        "",
        "Share of the T1w brain mask in the field of view of the GRE scan that has signal there",
        OWN,
        "desc-tissues_MEGRE.png",
        "Registration",
        2,
        possible=SHARE,
    ),
    "gre_sharpness": Measure(
        "GRE on T1w: sharpness",
        "",
        "Mutual information of the two images over its mean after shifts of 3 mm",
        OWN,
        "desc-tissues_MEGRE.png",
        "Registration",
        2,
    ),
    "template_overlap": Measure(
        "T1w on template: overlap of the brains",
        "",
        "Dice coefficient of the brain masks; smallest of the templates",
        "Dice 1945, doi:10.2307/1932409",
        "flicker",
        "Registration",
        3,
        possible=SHARE,
    ),
    "template_sharpness": Measure(
        "T1w on template: sharpness",
        "",
        "Mutual information of the two images over its mean after shifts of 3 mm; smallest of the templates",
        OWN,
        "flicker",
        "Registration",
        2,
    ),
    "jacobian_low": Measure(
        "Smallest volume change",
        "",
        "0.1st percentile of the Jacobian determinant of the deformation to the template",
        OWN,
        "flicker",
        "Registration",
        2,
        possible=ANY,
    ),
    "jacobian_high": Measure(
        "Largest volume change",
        "",
        "99.9th percentile of the Jacobian determinant of the deformation to the template",
        OWN,
        "flicker",
        "Registration",
        2,
    ),
}
"""In the order of tables."""

ECHO_MEASURES: dict[str, Measure] = {
    "snr": Measure("SNR", "", "See the SNR of the first echo", OWN, "", "Signal", 1),
    "signal_share": Measure("Signal over decay", "", "See the weakest echo", OWN, "", "Signal", 2),
    "phase_noise_rad": Measure("Phase noise", "rad", "See the phase noise", OWN, "", "Signal", 3),
}
"""Lists with one number an echo."""


def shown(name: str, value: float) -> str:
    """A measure with its unit, as sentences have it.

    Examples
    --------
    >>> shown("brain_kept", 98.234), shown("rim_offset", -3.0)
    ('98.2 %', '−3.0 ppb')
    """
    measure = MEASURES[name]
    words = f"{value:.{measure.digits}f}".replace("-", "−")
    return f"{words} {measure.unit}".strip()
