"""From which value a measure asks for a look, and from which a scan is not usable: one table, with its origin."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

OFF = "off"
PLANTED = (
    "chosen so that clean simulated heads pass, as the range that ten of them reach with a margin "
    "(benchmarks/planted_faults.py); patients had no part in it"
)
REGISTRATION = "the registration's own check (qsmals/anatomy/quality.py)"
DESIGN = "design choice"


@dataclass(frozen=True)
class Limit:
    """The limits of one measure.

    Attributes
    ----------
    measure : str
        Name in :data:`qsmals.qc.measures.MEASURES`.
    bad : {'below', 'above', 'beyond'}
        On which side of the limits a scan is in doubt; ``beyond`` is above in size, whatever the sign.
    check, fail : float or None
        The limits; None is no limit.
    meaning : str
        What such a value says, as the end of a sentence.
    severe : str
        The same for a value beyond the limit to fail, where that differs.
    origin : str
        Where the numbers come from.
    """

    measure: str
    bad: Literal["below", "above", "beyond"]
    check: float | None
    fail: float | None
    meaning: str
    origin: str
    severe: str = ""

    def level(self, value: float) -> Literal["", "check", "fail"]:
        """How a value is judged; NaN, which is a measure that does not apply, is not."""
        if self.fail is not None and self._exceeds(value, self.fail):
            return "fail"
        return "check" if self.check is not None and self._exceeds(value, self.check) else ""

    def _exceeds(self, value: float, limit: float) -> bool:
        return value < limit if self.bad == "below" else (abs(value) if self.bad == "beyond" else value) > limit


LIMITS: dict[str, Limit] = {
    limit.measure: limit
    for limit in (
        Limit("snr_first", "below", 15, 8, "the noise is strong, and small regions are not reliable", PLANTED),
        Limit(
            "echo_signal",
            "below",
            0.6,
            0.3,
            "an echo has less signal than the others predict: a dead or damaged echo",
            PLANTED,
        ),
        Limit(
            "phase_noise",
            "above",
            0.35,
            0.6,
            "the phase of an echo is noisy",
            PLANTED,
            "the phase of an echo holds hardly any information: a dead echo, or phase that is no phase",
        ),
        Limit("field_noise", "above", 4, 10, "the noise of the field reaches that of the differences studied", PLANTED),
        Limit("ghosting", "above", 5, None, "signal beside the head: ghosts or motion", DESIGN),
        Limit(
            "phase_span",
            "below",
            0.98,
            0.9,
            "the phase does not fill its circle: its scale is probably wrong (Units in the sidecar)",
            "1 by definition; clean heads reach 0.99",
        ),
        Limit("jump_share", "above", 0.5, 5, "unwrapping left jumps of 2π", PLANTED),
        Limit("jump_cluster", "above", 0.5, 10, "unwrapping left a connected region with jumps of 2π", PLANTED),
        Limit(
            "fit_residual",
            "above",
            0.2,
            0.5,
            "the echoes do not agree on one field: noise, a damaged echo, a wrong phase scale or an offset that stayed",
            PLANTED,
        ),
        Limit("fit_outliers", "above", 8, 30, "in many voxels the echoes do not agree on one field", PLANTED),
        Limit(
            "brain_volume",
            "below",
            850,
            500,
            "the brain mask is smaller than the brains of adults",
            "intracranial volume of adults, 1000 to 2000 ml, with a margin",
        ),
        Limit("brain_kept", "below", 80, 65, "part of the brain has no susceptibility", PLANTED),
        Limit("motor_coverage", "below", 75, 50, "the motor cortex is not wholly measured", PLANTED),
        Limit(
            "motor_in_mask",
            "below",
            75,
            50,
            "the mask leaves out motor cortex where the atlas expects it",
            PLANTED,
        ),
        Limit("lost_regions", "above", 2, 8, "regions with less than half of their voxels measured", PLANTED),
        Limit(
            "contrast_pallidum",
            "below",
            3,
            0,
            "the pallidum hardly stands out: noise, or labels that missed it",
            PLANTED,
            "the pallidum is darker than white matter, as with a turned phase sign (--phase-sign)",
        ),
        Limit(
            "contrast_substantia_nigra",
            "below",
            2,
            None,
            "the substantia nigra hardly stands out: noise, or labels that missed it",
            PLANTED,
        ),
        Limit(
            "contrast_caudate",
            "below",
            1,
            None,
            "the caudate hardly stands out: noise, or labels that missed it",
            PLANTED,
        ),
        Limit(
            "region_order",
            "below",
            80,
            50,
            "regions do not follow their iron: labels misplaced, or a faulty map",
            PLANTED,
            "regions stand in the reverse of their iron, as with a turned phase sign (--phase-sign)",
        ),
        Limit(
            "implausible_regions",
            "above",
            0,
            6,
            "outside what is known of adults: disease, or a wrong scale, sign or region",
            "alarm limits, chosen wide around published means of healthy adults (qsmals/reports/published.py)",
        ),
        Limit("asymmetry", "above", 30, None, "left and right differ: disease, or a misplaced region", PLANTED),
        Limit("white_matter_sd", "above", 35, 80, "white matter is uneven: noise, streaks or background", PLANTED),
        Limit("rim_offset", "beyond", 25, 60, "the rim of the brain still carries background field", PLANTED),
        Limit("streaking", "above", 2.5, 6, "the map has streaks along the magic angle", PLANTED),
        Limit("gre_overlap", "below", 0.5, 0.3, "the GRE scan shows little of the T1w image's brain", REGISTRATION),
        Limit("gre_sharpness", "below", 1.25, 1.1, "the GRE scan does not lie on the T1w image", REGISTRATION),
        Limit(
            "template_overlap",
            "below",
            0.9,
            0.8,
            "brain extraction or registration to the template failed",
            REGISTRATION,
        ),
        Limit("template_sharpness", "below", 1.15, 1.05, "the T1w image does not lie on the template", REGISTRATION),
        Limit("jacobian_low", "below", 0.1, 0.0, "the deformation crushes tissue", REGISTRATION),
        Limit("jacobian_high", "above", 10, None, "the deformation tears tissue", REGISTRATION),
    )
}


def with_overrides(content: Mapping[str, Any]) -> dict[str, Limit]:
    """The table with other numbers, as a file gives them.

    Parameters
    ----------
    content : mapping of measure to mapping
        ``check`` and ``fail``, each a number or ``"off"``.

    Raises
    ------
    ValueError
        A measure without limits, another key, or something that is no number.

    Examples
    --------
    >>> with_overrides({"snr_first": {"check": 20, "fail": "off"}})["snr_first"].fail is None
    True
    """
    limits = dict(LIMITS)
    for name, values in content.items():
        if name not in limits:
            raise ValueError(f"no limits of {name}; there are {', '.join(limits)}")
        if not isinstance(values, Mapping) or set(values) - {"check", "fail"}:
            raise ValueError(f"{name}: a table with check and fail is needed, each a number or {OFF!r}")
        old = limits[name]
        check = _number(values["check"], f"{name}.check") if "check" in values else old.check
        fail = _number(values["fail"], f"{name}.fail") if "fail" in values else old.fail
        limits[name] = replace(old, check=check, fail=fail)
    return limits


def _number(value: Any, where: str) -> float | None:
    if value == OFF:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{where} is a number or {OFF!r}, not {value!r}")
    return float(value)
