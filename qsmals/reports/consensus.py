"""Which methods the QSM consensus recommends (doi:10.1002/mrm.30006), and why one may depart from it."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Recommended:
    """A recommendation: its item, the stage and the methods in words, and our names of the methods."""

    item: str
    stage: str
    asked: str
    methods: tuple[str, ...]


RECOMMENDED: Mapping[str, Recommended] = {
    "unwrap": Recommended("C3", "phase unwrapping", "an exact method", ("romeo",)),
    "background": Recommended(
        "C6",
        "background field removal",
        "a SHARP-based method or PDF",
        ("v-sharp", "sharp", "resharp", "pdf", "ismv"),
    ),
    "inversion": Recommended(
        "C7",
        "dipole inversion",
        "an optimisation with sparse regularisation",
        (
            *("weak-harmonic", "tv", "rts", "hd-qsm", "nonlinear-tv", "nonlinear-weak-harmonic"),
            *("nonlinear-tgv", "medi", "tgv"),
        ),
    ),
}
"""Stage to its recommendation. Sparse inversions are those that regularise by a sparse gradient: total variation, its
generalisation, or morphology."""

CHOICE = "by the choice of the study"
LBV = (
    "because LBV, which solves Laplace's equation in the mask, left less error at the rim of simulated heads than "
    "those, and the weak-harmonic inversion after it returns what the removal takes too much of"
)


def reason(stage: str, methods: Mapping[str, str]) -> str:
    """Why a stage departs from the consensus, as the end of a sentence; what the program has no reason for is a choice.

    Parameters
    ----------
    stage : str
        A key of :data:`RECOMMENDED`.
    methods : mapping of stage to method
    """
    default = (methods.get("background"), methods.get("inversion")) == ("lbv", "weak-harmonic")
    return LBV if stage == "background" and default else CHOICE


def departures(methods: Mapping[str, str], titles: Mapping[str, str]) -> str:
    """Where the methods depart from the consensus, and why, as one sentence; empty where they do not.

    Parameters
    ----------
    methods : mapping of stage to method
        A stage that did not run is left out.
    titles : mapping of stage to str
        Each method as running text names it.

    Examples
    --------
    >>> departures({"unwrap": "laplacian"}, {"unwrap": "Laplacian"}).partition(" in ")[2]
    'phase unwrapping (Laplacian in place of an exact method), by the choice of the study.'
    >>> departures({"unwrap": "romeo"}, {"unwrap": "ROMEO"})
    ''
    """
    found = [
        f"{entry.stage} ({titles[stage]} in place of {entry.asked}), {reason(stage, methods)}"
        for stage, entry in RECOMMENDED.items()
        if stage in methods and methods[stage] not in entry.methods
    ]
    return (
        f"The reconstruction differs from the recommendations of the consensus in {'; and in '.join(found)}."
        if found
        else ""
    )
