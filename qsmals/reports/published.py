"""Susceptibility that is published for healthy adults, to show beside a subject's regions.

Scanners, ages, methods and reference regions differ between studies, so the values orient and do not decide.
"""

import math
from collections.abc import Collection
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
class Group:
    """The healthy adults of one study.

    Attributes
    ----------
    study : str
        How the study is called in running text.
    n : int
        How many they are.
    mean_age : float or None
        Years; None where what could be read of the study does not say.
    """

    study: str
    n: int
    mean_age: float | None


GROUPS = {
    # README of github.com/SNU-LIST/chi-separation-atlas: 106 brains (its counts of the sexes sum to 116), 62.1 ± 15.8
    MIN_2024.key: Group("Min et al.", 106, 62.1),
    # abstract: 11 controls matched to the patients' age and sex; the tables that give the age could not be read
    BHATTARAI_2020.key: Group("Bhattarai et al.", 11, None),
}
"""Key of a study to its group."""


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
    sd_ppb : float or None
        Standard deviation between the subjects of that group, see :data:`SD_WORDS`.
    area : str
        What the study measured, where that is another area than the region of the tables.
    """

    low_ppb: float | None
    high_ppb: float | None
    mean_ppb: float | None = None
    source: Citation | None = None
    sd_ppb: float | None = None
    area: str = ""


# Means of Min et al.: paramagnetic plus diamagnetic part of the atlas's tables (chi_para_ROI_stats.csv and
# chi_dia_ROI_stats.csv, commit baeb0cd). SDs: of the paramagnetic part, which varies most; none is given for the sum.
# Bhattarai et al.: mean of the four areas of the primary motor cortex in the controls of table 2, 27.8, 29.7, 27.0 and
# 28.3; no SD, as one between subjects of the mean of four areas does not follow from theirs.
EXPECTED: dict[str, Expected] = {
    "pallidum": Expected(70, 200, 119.3, MIN_2024, 10.4),
    "substantia_nigra": Expected(60, 220, 104.5, MIN_2024, 14.4),
    "red_nucleus": Expected(50, 180, 101.8, MIN_2024, 14.8),
    "subthalamic_nucleus": Expected(50, 170, 96.8, MIN_2024, 12.1),
    "dentate": Expected(60, 200),
    "putamen": Expected(10, 110, 66.8, MIN_2024, 20.6),
    "caudate": Expected(15, 75, 39.4, MIN_2024, 7.4),
    "accumbens": Expected(None, None, 22.0, MIN_2024),
    "precentral": Expected(0, 55, 28.2, BHATTARAI_2020, area="four areas of the primary motor cortex"),
    "paracentral": Expected(0, 55),
    "thalamus": Expected(-25, 45, 2.1, MIN_2024, 4.1),
    "hippocampus": Expected(-25, 40),
    "amygdala": Expected(-25, 40),
    "white_matter": Expected(-45, 15, -12.0, MIN_2024),
    "lateral_ventricle": Expected(-30, 50),
}

SD_WORDS = (
    "Dashed: ± the standard deviation between those adults, of the paramagnetic part of the susceptibility alone, as "
    "none is given for the whole."
)
"""What the figure of the regions says of its bars."""

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
    10.7
    """
    a, b, c = IRON[name]
    return a * (1.0 - math.exp(-b * age)) + c


def expected_at(age: float | None) -> dict[str, Expected]:
    """Published values with the means of the nuclei in :data:`IRON` scaled by their iron to an age in years.

    Susceptibility of these nuclei grows linearly with their iron (Langkammer et al. 2012,
    doi:10.1016/j.neuroimage.2012.05.049), so the mean is multiplied by the ratio of iron at the subject's age and at
    that of the published group. This is approximate: susceptibility is relative to a reference, as the mean of the
    brain, and so not proportional to iron. SDs stay as they are. Without an age nothing is scaled.
    """
    if age is None:
        return dict(EXPECTED)
    return {name: _at_age(name, values, age) for name, values in EXPECTED.items()}


def _at_age(name: str, values: Expected, age: float) -> Expected:
    """The same with its mean at an age, where iron and the age of the published group are known."""
    group = GROUPS[values.source.key] if values.source else None
    if name not in IRON or values.mean_ppb is None or group is None or group.mean_age is None:
        return values
    return replace(values, mean_ppb=values.mean_ppb * iron_at(name, age) / iron_at(name, group.mean_age))


def group_words(names: Collection[str]) -> str:
    """Where the published means of those regions come from: each group, its number and its age; empty for none.

    Examples
    --------
    >>> group_words({"putamen"})
    'Published means: 106 adults with a mean age of 62.1 years (Min et al.).'
    """
    sources = dict.fromkeys(v.source.key for name, v in EXPECTED.items() if name in names and v.source)
    groups = [f"{g.n} adults {_age_words(g)} ({g.study})" for g in (GROUPS[key] for key in sources)]
    return f"Published means: {', '.join(groups)}." if groups else ""


def area_words(names: Collection[str]) -> str:
    """Which of those regions have a published mean of another area; empty for none.

    Examples
    --------
    >>> area_words({"precentral", "putamen"})
    'Dotted: means of other areas than the regions of the table (precentral: four areas of the primary motor cortex).'
    """
    others = [f"{name.replace('_', ' ')}: {v.area}" for name, v in EXPECTED.items() if name in names and v.area]
    return f"Dotted: means of other areas than the regions of the table ({'; '.join(others)})." if others else ""


def _age_words(group: Group) -> str:
    return "whose mean age is not at hand" if group.mean_age is None else f"with a mean age of {group.mean_age:g} years"


def plausible_ranges() -> dict[str, tuple[float, float]]:
    """Region to its alarm limits, ppb, for those that have any."""
    return {
        name: (values.low_ppb, values.high_ppb)
        for name, values in EXPECTED.items()
        if values.low_ppb is not None and values.high_ppb is not None
    }
