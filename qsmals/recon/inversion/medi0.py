"""Morphology enabled dipole inversion with the fluid of the ventricles as its zero."""

from dataclasses import dataclass, field, fields, replace

import numpy as np
from numpy.typing import NDArray

from qsmals.recon.grid import Grid
from qsmals.recon.inversion.medi import MEDI, MEDIParameters, medi
from qsmals.recon.inversion.solution import Susceptibility
from qsmals.recon.mask.ventricles import MEDI_TOOLBOX, VentricleParameters, ventricles
from qsmals.recon.method import Citation, Method

Volume = NDArray[np.float32]

NO_R2STAR = "MEDI+0 had no R2* to find cerebrospinal fluid by: this is the map of MEDI, without its term for the fluid"
NO_FLUID = (
    "MEDI+0 found no cerebrospinal fluid in the ventricles (R2* below {limit:g} 1/s near the centre of the mask): this "
    "is the map of MEDI, without its term for the fluid"
)


@dataclass(frozen=True)
class MEDI0Parameters(MEDIParameters):
    """Settings of :func:`medi_0`: those of MEDI, and how the fluid is found."""

    largest_r2star_hz: float = field(default=5.0, metadata={"unit": "1/s", "source": MEDI_TOOLBOX})
    centre_radius_mm: float = field(default=30.0, metadata={"unit": "mm", "source": MEDI_TOOLBOX})
    rim_mm: float = field(default=10.0, metadata={"unit": "mm", "source": MEDI_TOOLBOX})
    parts: int = field(default=3, metadata={"unit": "largest parts near the centre", "source": MEDI_TOOLBOX})


def medi_0(
    field_ppm: Volume,
    *,
    mask: NDArray[np.bool_],
    grid: Grid,
    weights: Volume | None = None,
    params: MEDI0Parameters | None = None,
    magnitude: Volume | None = None,
    r2star_hz: Volume | None = None,
) -> Susceptibility:
    """MEDI with a charge on the variance of susceptibility in the fluid of the ventricles, and a mean of 0 there.

    Parameters
    ----------
    field_ppm, mask, grid, weights, magnitude
        As of :func:`medi.medi`.
    params : MEDI0Parameters, optional
        Settings.
    r2star_hz : (x, y, z) float32, optional
        R2*, 1/s, by which :func:`ventricles` finds the fluid. Without it, or where it finds none, the map is that of
        MEDI, and its ``notes`` say so.

    Returns
    -------
    Susceptibility

    Raises
    ------
    ValueError
        As :func:`medi.medi`.

    References
    ----------
    Liu Z, et al. Magn Reson Med 2018;79:2795-2803. doi:10.1002/mrm.26946
    """
    params = params or MEDI0Parameters()
    fluid, note = _fluid(r2star_hz, mask, grid, params)
    found = medi(field_ppm, mask=mask, grid=grid, weights=weights, params=params, magnitude=magnitude, csf_mask=fluid)
    return replace(found, notes=(*found.notes, *note))


def _fluid(
    r2star_hz: Volume | None, mask: NDArray[np.bool_], grid: Grid, params: MEDI0Parameters
) -> tuple[NDArray[np.bool_] | None, tuple[str, ...]]:
    """The fluid, or none and why."""
    if r2star_hz is None:
        return None, (NO_R2STAR,)
    rule = VentricleParameters(**{f.name: getattr(params, f.name) for f in fields(VentricleParameters)})
    fluid = ventricles(r2star_hz, mask=mask, grid=grid, params=rule)
    if not fluid.any():
        return None, (NO_FLUID.format(limit=params.largest_r2star_hz),)
    return fluid, ()


MEDI_0 = Method(
    name="medi-0",
    title="MEDI with zero reference in cerebrospinal fluid (MEDI+0)",
    function=medi_0,
    parameters=MEDI0Parameters,
    sentence=f"{MEDI.sentence[:-1]}; the variance of susceptibility in the fluid of the ventricles (R2* below "
    "{largest_r2star_hz:g} 1/s) was charged with the weight {csf_weight:g} (MEDI+0).",
    citations=(
        *MEDI.citations,
        Citation(
            key="liu2018medi0",
            authors="Liu Z, Spincemaille P, Yao Y, Zhang Y, Wang Y",
            title="MEDI+0: Morphology enabled dipole inversion with automatic uniform cerebrospinal fluid zero "
            "reference for quantitative susceptibility mapping",
            journal="Magnetic Resonance in Medicine 79:2795-2803",
            year=2018,
            doi="10.1002/mrm.26946",
        ),
    ),
)
