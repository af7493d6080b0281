"""Susceptibility that is published for healthy adults, to show beside a subject's regions.

Scanners, ages, methods and reference regions differ between studies, so the values orient and do not decide.
"""

from dataclasses import dataclass

from qsmals.recon.method import Citation

MIN_2024 = Citation(
    key="min2024",
    authors="Min K, Sohn B, Kim WJ, et al.",
    title="A human brain atlas of chi-separation for normative iron and myelin distributions",
    journal="arXiv",
    year=2023,
    doi="10.48550/arXiv.2311.04468",
)
BHATTARAI_2020 = Citation(
    key="bhattarai2020",
    authors="Bhattarai A, Chen Z, Ward PGD, et al.",
    title="Serial assessment of iron in the motor cortex in limb-onset amyotrophic lateral sclerosis using "
    "quantitative susceptibility mapping",
    journal="Quantitative Imaging in Medicine and Surgery",
    year=2020,
    doi="10.21037/qims-20-187",
)


@dataclass(frozen=True)
class Expected:
    """What to expect in a region of a healthy adult.

    Attributes
    ----------
    low_ppb, high_ppb : float or None
        Wide limits over ages, methods and reference regions; a value outside asks for a look.
    mean_ppb : float or None
        Mean of one published group of healthy adults.
    source : Citation or None
        The study with the mean.
    """

    low_ppb: float | None
    high_ppb: float | None
    mean_ppb: float | None = None
    source: Citation | None = None


EXPECTED: dict[str, Expected] = {
    "pallidum": Expected(70, 200, 119.3, MIN_2024),
    "substantia_nigra": Expected(60, 220, 104.5, MIN_2024),
    "red_nucleus": Expected(50, 180, 101.8, MIN_2024),
    "subthalamic_nucleus": Expected(50, 170, 96.8, MIN_2024),
    "dentate": Expected(60, 200),
    "putamen": Expected(10, 110, 66.8, MIN_2024),
    "caudate": Expected(15, 75, 39.4, MIN_2024),
    "accumbens": Expected(None, None, 22.0, MIN_2024),
    "precentral": Expected(0, 55, 28.4, BHATTARAI_2020),
    "paracentral": Expected(0, 55),
    "thalamus": Expected(-25, 45, 2.1, MIN_2024),
    "hippocampus": Expected(-25, 40),
    "amygdala": Expected(-25, 40),
    "white_matter": Expected(-45, 15, -12.0, MIN_2024),
    "lateral_ventricle": Expected(-30, 50),
}
