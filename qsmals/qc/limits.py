"""From which value a measure asks for a look, and from which a scan is not usable: one table, with its origin."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from qsmals.qc.measures import shown

OFF = "off"
REAL = "real scans are less uniform than simulated ones, by how much was not measured here"
REGISTRATION = "the registration's own check (qsmals/anatomy/quality.py)"


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
    clean : tuple of float
        Least and largest value of the clean simulated heads in docs/planted_faults.md.
    why : str
        Why the limits lie where they do.
    faults : tuple of str
        Faults of docs/planted_faults.md that go beyond them; empty where none does.
    severe : str
        The meaning of a value beyond the limit to fail, where that differs.
    replaced : tuple of float or None, optional
        The program's own limits, to check and to fail, where the user's file set others.
    """

    measure: str
    bad: Literal["below", "above", "beyond"]
    check: float | None
    fail: float | None
    meaning: str
    clean: tuple[float, float]
    why: str
    faults: tuple[str, ...] = ()
    severe: str = ""
    replaced: tuple[float | None, float | None] | None = None

    @property
    def origin(self) -> str:
        """Where the numbers come from, in words."""
        if self.replaced is not None:
            own = zip(("check", "fail"), self.replaced, strict=True)
            words = ", ".join(f"{word} {OFF if bound is None else self.bound(bound)}" for word, bound in own)
            return f"set by the user's file (--qc-thresholds) in place of {words}"
        low, high = (shown(self.measure, value) for value in self.clean)
        return f"clean simulated heads have {low if low == high else f'{low} to {high}'}; {self.why}"

    def bound(self, limit: float) -> str:
        """One of the limits with its side, in words: ``below 15``, ``beyond ±25``."""
        return f"beyond ±{limit:g}" if self.bad == "beyond" else f"{self.bad} {limit:g}"

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
        Limit(
            "snr_first",
            "below",
            15,
            8,
            "the noise is strong, and small regions are not reliable",
            clean=(25.4, 36.5),
            why="chosen below them, because fast protocols have less signal; patients had no part in it",
            faults=("noise",),
        ),
        Limit(
            "echo_signal",
            "below",
            0.6,
            0.3,
            "an echo has less signal than the others predict: a dead or damaged echo",
            clean=(1.0, 1.0),
            why=f"far below, because real decay is not purely exponential; {REAL}",
            faults=("last echo",),
        ),
        Limit(
            "phase_noise",
            "above",
            0.35,
            0.6,
            "the phase of an echo is noisy",
            clean=(0.037, 0.057),
            why="chosen between them and the 0.8 of phase without information",
            faults=("last echo",),
            severe="the phase of an echo holds hardly any information: a dead echo, or phase that is no phase",
        ),
        Limit(
            "field_noise",
            "above",
            4,
            10,
            "the noise of the field reaches that of the differences studied",
            clean=(1.51, 2.86),
            why="chosen above them, at the size of differences between groups",
            faults=("scale", "noise"),
        ),
        Limit(
            "ghosting",
            "above",
            5,
            None,
            "signal beside the head: ghosts or motion",
            clean=(1.34, 2.68),
            why="chosen above them; simulated heads do not move, so that nothing shows how well it works",
        ),
        Limit(
            "phase_span",
            "below",
            0.98,
            0.9,
            "the phase does not fill its circle: its scale is probably wrong (Units in the sidecar)",
            clean=(0.997, 0.999),
            why="1 by definition",
            faults=("scale",),
        ),
        Limit(
            "jump_share",
            "above",
            0.5,
            5,
            "unwrapping left jumps of 2π",
            clean=(0.003, 0.017),
            faults=("scale",),
            why=f"far above, because flow, vessels and haemorrhage can make jumps in few voxels of a good scan; {REAL}",
        ),
        Limit(
            "jump_cluster",
            "above",
            0.5,
            10,
            "unwrapping left a connected region with jumps of 2π",
            clean=(0.02, 0.05),
            why="chosen as the volume of a small nucleus, such as the substantia nigra, which it could falsify whole",
            faults=("vein", "late vein", "scale"),
        ),
        Limit(
            "fit_residual",
            "above",
            0.2,
            0.5,
            "the echoes do not agree on one field: noise, a damaged echo, a wrong phase scale or an offset that stayed",
            clean=(0.024, 0.029),
            why=f"far above, because flow and several compartments in a voxel bend real phase; {REAL}",
        ),
        Limit(
            "fit_outliers",
            "above",
            8,
            30,
            "in many voxels the echoes do not agree on one field",
            clean=(0.03, 0.1),
            why=f"far above, because flow and several compartments in a voxel bend real phase; {REAL}",
            faults=("scale",),
        ),
        Limit(
            "brain_volume",
            "below",
            850,
            500,
            "what was found as brain, or what the scan shows of it, is smaller than the brains of adults",
            clean=(1437, 1650),
            why="intracranial volume of adults, 1000 to 2000 ml, with a margin",
        ),
        Limit(
            "brain_kept",
            "below",
            90,
            75,
            "part of the brain has no susceptibility",
            clean=(96.1, 99.7),
            why="chosen below them",
            faults=("registration", "t1w"),
        ),
        Limit(
            "motor_coverage",
            "below",
            90,
            70,
            "the motor cortex is not wholly measured",
            clean=(97.3, 100.0),
            why="chosen below them",
            faults=("registration", "t1w"),
        ),
        Limit(
            "motor_in_mask",
            "below",
            85,
            60,
            "the mask leaves out motor cortex where the atlas expects it",
            clean=(97.7, 100.0),
            why="chosen below them",
            faults=("registration", "mask"),
        ),
        Limit(
            "lost_regions",
            "above",
            3,
            8,
            "regions with less than half of their voxels measured",
            clean=(0, 0),
            why="chosen above them, for poles and orbits next to air, which dephase at long echo times",
            faults=("registration", "t1w"),
        ),
        Limit(
            "contrast_pallidum",
            "below",
            3,
            0,
            "the pallidum hardly stands out: noise, or labels that missed it",
            clean=(20.8, 30.1),
            why=f"far below, because it is a share of the spread of white matter, which is larger in people; {REAL}",
            faults=("sign", "scale"),
            severe="the pallidum is darker than white matter, as with a turned phase sign (--phase-sign)",
        ),
        Limit(
            "contrast_substantia_nigra",
            "below",
            2,
            None,
            "the substantia nigra hardly stands out: noise, or labels that missed it",
            clean=(18.9, 25.8),
            why="far below, as for the pallidum, and it loses iron in some diseases",
            faults=("sign", "scale"),
        ),
        Limit(
            "contrast_caudate",
            "below",
            1,
            None,
            "the caudate hardly stands out: noise, or labels that missed it",
            clean=(7.9, 12.2),
            why="far below, as for the pallidum",
            faults=("sign",),
        ),
        Limit(
            "region_order",
            "below",
            80,
            50,
            "regions do not follow their iron: labels misplaced, or a faulty map",
            clean=(100, 100),
            why="one pair in five may be out of order, with age or disease; chance gives about half",
            faults=("sign", "scale"),
            severe="regions stand in the reverse of their iron, as with a turned phase sign (--phase-sign)",
        ),
        Limit(
            "implausible_regions",
            "above",
            0,
            6,
            "outside what is known of adults: disease, or a wrong scale, sign or region",
            clean=(0, 0),
            why="alarm limits, chosen wide around published means of healthy adults (qsmals/reports/published.py)",
            faults=("sign", "scale", "double"),
        ),
        Limit(
            "cortex_outliers",
            "above",
            2,
            None,
            "the field next to air bends the map of the cortex there; the regions named are not reliable",
            clean=(0, 1),
            why="chosen above them, for the two frontal poles, where the field changes within a voxel",
            faults=("scale",),
        ),
        Limit(
            "asymmetry",
            "above",
            30,
            None,
            "left and right differ: disease, or a misplaced region",
            clean=(1.4, 11.4),
            why=f"far above; {REAL}",
            faults=("scale", "noise"),
        ),
        Limit(
            "white_matter_sd",
            "above",
            35,
            80,
            "white matter is uneven: noise, streaks or background",
            clean=(4.4, 5.8),
            why="far above, because the white matter of simulated heads has one susceptibility, that of people depends "
            f"on its fibres; {REAL}",
        ),
        Limit(
            "rim_offset",
            "beyond",
            25,
            60,
            "the rim of the brain still carries background field",
            clean=(-4.5, -1.1),
            why=f"far beyond them; {REAL}",
        ),
        Limit(
            "streaking",
            "above",
            2.5,
            6,
            "the map has streaks along the magic angle",
            clean=(0.68, 0.76),
            why=f"far above; 1 is a map without streaks by definition; {REAL}",
        ),
        Limit(
            "gre_overlap",
            "below",
            0.5,
            0.3,
            "the GRE scan is dark where the T1w image has brain",
            clean=(0.99, 1.0),
            why=f"{REGISTRATION}, far below, because coils shade and tissue next to air dephases; "
            "a slab loses nothing by what it does not show",
        ),
        Limit(
            "gre_sharpness",
            "below",
            1.25,
            1.1,
            "the GRE scan does not lie on the T1w image",
            clean=(1.37, 1.88),
            why=f"{REGISTRATION}; images that do not lie on one another have 1",
            faults=("registration", "t1w"),
        ),
        Limit(
            "template_overlap",
            "below",
            0.9,
            0.8,
            "brain extraction or registration to the template failed",
            clean=(0.965, 0.988),
            why=REGISTRATION,
        ),
        Limit(
            "template_sharpness",
            "below",
            1.15,
            1.05,
            "the T1w image does not lie on the template",
            clean=(1.88, 2.15),
            why=f"{REGISTRATION}; images that do not lie on one another have 1",
            faults=("t1w",),
        ),
        Limit(
            "jacobian_low",
            "below",
            0.1,
            0.0,
            "the deformation crushes tissue",
            clean=(0.39, 0.57),
            why=f"{REGISTRATION}; below 0 the deformation folds",
        ),
        Limit(
            "jacobian_high",
            "above",
            10,
            None,
            "the deformation tears tissue",
            clean=(1.38, 1.73),
            why=f"{REGISTRATION}, far above, because an atrophied brain is stretched where it lost most",
        ),
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
        A measure without limits, another key, something that is no number, or a check laxer than the fail.

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
        new = replace(old, check=check, fail=fail)
        if check is not None and fail is not None and (check < fail if old.bad == "below" else check > fail):
            laxer = f"to check {new.bound(check)} is laxer than to fail {new.bound(fail)}"
            raise ValueError(f"{name}: {laxer}, and no scan would be checked; give both")
        limits[name] = replace(new, replaced=(old.check, old.fail)) if new != old else old
    return limits


def _number(value: Any, where: str) -> float | None:
    if value == OFF:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{where} is a number or {OFF!r}, not {value!r}")
    return float(value)
