"""Susceptibility that is published for healthy adults, to show beside a subject's regions.

Scanners, ages, methods and reference regions differ between studies, so the values orient and do not decide.
"""

import math
from dataclasses import dataclass, replace

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


ALARM_LIMITS = (
    "Alarm limits are chosen wide around published means of healthy adults (Min et al., arXiv:2311.04468; Bhattarai et "
    "al., doi:10.21037/qims-20-187; where neither has the region, by the program's authors); a mean outside asks for a "
    "look."
)
"""What the figures of the regions say of their limits."""


@dataclass(frozen=True)
class Expected:
    """What to expect in a region of a healthy adult.

    Attributes
    ----------
    low_ppb, high_ppb : float or None
        Alarm limits, wide over ages, methods and reference regions; a value outside asks for a look.
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

MIN_2024_AGE = 62.1
"""Mean age of the healthy adults of that study, years."""

HALLGREN_1958 = Citation(
    key="hallgren1958",
    authors="Hallgren B, Sourander P",
    title="The effect of age on the non-haemin iron in the human brain",
    journal="Journal of Neurochemistry",
    year=1958,
    doi="10.1111/j.1471-4159.1958.tb12607.x",
)
IRON = {"pallidum": (21.41, 0.09, 0.37), "putamen": (14.62, 0.04, 0.46), "caudate": (9.66, 0.05, 0.33)}
"""Iron at an age, mg/100 g: ``a (1 - exp(-b age)) + c`` of Hallgren & Sourander 1958."""


def iron_at(name: str, age: float) -> float:
    """Iron of a nucleus at an age, mg/100 g wet weight.

    Examples
    --------
    >>> round(iron_at("putamen", 30.0), 1)
    10.9
    """
    a, b, c = IRON[name]
    return a * (1.0 - math.exp(-b * age)) + c


def expected_at(age: float | None) -> dict[str, Expected]:
    """Published values with the means of the nuclei in :data:`IRON` scaled by their iron to an age in years.

    Susceptibility of these nuclei is proportional to their iron (Langkammer et al. 2012,
    doi:10.1016/j.neuroimage.2012.05.049), so the mean is multiplied by the ratio of iron at the subject's age and at
    that of the published group. Without an age nothing is scaled.
    """
    if age is None:
        return dict(EXPECTED)
    scaled = {
        name: replace(values, mean_ppb=values.mean_ppb * iron_at(name, age) / iron_at(name, MIN_2024_AGE))
        for name, values in EXPECTED.items()
        if name in IRON and values.mean_ppb is not None
    }
    return {name: scaled.get(name, values) for name, values in EXPECTED.items()}


def plausible_ranges() -> dict[str, tuple[float, float]]:
    """Region to its alarm limits, ppb, for those that have any."""
    return {
        name: (values.low_ppb, values.high_ppb)
        for name, values in EXPECTED.items()
        if values.low_ppb is not None and values.high_ppb is not None
    }
