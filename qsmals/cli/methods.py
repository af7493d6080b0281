"""Every step of a run with all its parameters: what sidecars, report and methods text state."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from qsmals.anatomy import refinement
from qsmals.anatomy.atlases import get_atlas
from qsmals.anatomy.gradient_echo import FLUID_MM, LEAST_LOSS, LEAST_SIGNAL, LEAST_SPAN_S, MAX_DECAY, REACH_MM
from qsmals.anatomy.nuclei import NucleiParameters
from qsmals.anatomy.ribbon import RibbonParameters
from qsmals.anatomy.templates import NLIN6
from qsmals.bids.given import NO_GRE, NO_T1W, GivenGre, GivenT1w
from qsmals.recon.method import Method, Protocol
from qsmals.recon.presets import PRESETS
from qsmals.recon.relaxometry.arlo import spacing_allows_arlo
from qsmals.recon.stages import STAGES
from qsmals.reports.references import ATLASES
from qsmals.settings import Reconstruction, Settings
from qsmals.workflows.plan import ScanPlan

SEVERAL_ECHOES = ("phase_offset", "relaxometry")
"""Stages that one echo does not have."""


def chosen_methods(recon: Reconstruction, te_s: Sequence[float], b0_tesla: float) -> dict[str, tuple[Method, Any]]:
    """Method of each stage that runs for this scan, with its parameters (dataclass), in the order of the run.

    An inversion of the total field has no background field removal before it.
    """
    scan = Protocol(tuple(te_s), b0_tesla)
    stages = [stage for stage in STAGES if len(te_s) > 1 or stage not in SEVERAL_ECHOES]
    found = {}
    for stage in stages:
        asked = getattr(recon, stage)
        name = "log-linear" if asked == "arlo" and not spacing_allows_arlo(te_s) else asked
        method = STAGES[stage][name]
        found[stage] = method, method.make_parameters(recon.parameters.get(name), scan)
    if found["inversion"][0].total_field:
        del found["background"]
    return found


def step_parameters(
    settings: Settings,
    te_s: Sequence[float],
    b0_tesla: float,
    given_t1w: GivenT1w = NO_T1W,
    given: GivenGre = NO_GRE,
    *,
    alone: bool = False,
) -> dict[str, dict[str, Any]]:
    """Step to all its parameters, ``method`` among them; defaults are written out like what was changed.

    Parameters
    ----------
    settings : Settings
    te_s : sequence of float
        Echo times of the scan, s; with one echo there is neither phase offset nor relaxometry.
    b0_tesla : float
        Its field strength, T.
    given_t1w, given : GivenT1w, GivenGre
        What other pipelines have done: the files take the place of parameters.
    alone : bool
        Whether the scan has no T1w image.
    """
    recon, acquisition = settings.reconstruction, settings.acquisition
    steps = {s: {"method": m.name, **asdict(p)} for s, (m, p) in chosen_methods(recon, te_s, b0_tesla).items()}
    steps |= {
        **({"preset": {"method": recon.preset, "changes": list(preset_changes(recon))}} if recon.preset else {}),
        "readout": {"method": acquisition.readout},
        "phase_sign": {"method": acquisition.phase_sign},
        "reference": {"method": recon.reference},
    }
    return steps | _anatomy(settings) | (_on_gradient_echo(settings, te_s) if alone else {}) | _given(given_t1w, given)


def _on_gradient_echo(settings: Settings, te_s: Sequence[float]) -> dict[str, dict[str, Any]]:
    """Steps that are done otherwise where there is no T1w image."""
    steps = _anatomy(settings)
    metric = "mutual information with the combined magnitude and, with two echoes or more, the decay rate"
    how = "skip" if settings.anatomy.brain_extraction == "skip" else "gradient-echo"
    rule = {"least_signal": LEAST_SIGNAL, "reach_mm": REACH_MM}
    if te_s[-1] - te_s[0] >= LEAST_SPAN_S:
        rule |= {"least_loss": LEAST_LOSS, "fluid_mm": FLUID_MM}
    return {
        "brain_extraction": {**steps["brain_extraction"], "method": how, **(rule if how == "gradient-echo" else {})},
        "coregistration": {"method": "none: no T1w image"},
        "template_registration": {**steps["template_registration"], "metric": metric, "max_decay": MAX_DECAY},
        "cortex": {"method": "atlas"},
    }


def _given(t1w: GivenT1w, gre: GivenGre) -> dict[str, dict[str, Any]]:
    """Steps that another pipeline has done already."""
    steps: dict[str, dict[str, Any]] = {}
    if mask := t1w.brain_mask or gre.brain_mask:
        steps["brain_extraction"] = {"method": "given", "file": str(mask)}
    if gre.total_field:
        steps["given_field"] = {"method": "given", "file": str(gre.total_field)}
    if gre.to_t1w or gre.to_gre:
        steps["coregistration"] = {"method": "given", "file": str(gre.to_t1w or gre.to_gre)}
    if transforms := t1w.transforms or gre.transforms:
        files = {space: [str(path) for path in pair] for space, pair in transforms.items()}
        steps["template_registration"] = {"method": "given", "files": files}
    if t1w.segmentation:
        midbrain = "substantia nigra and red nucleus, inside its brainstem and ventral diencephalon, of the atlas als"
        steps["atlas"] = {"method": "given", "file": str(t1w.segmentation), "space": "T1w", "parts": [midbrain]}
        steps["cortex"] = {"method": "given"}
    return steps


def preset_changes(recon: Reconstruction) -> tuple[str, ...]:
    """What a run has otherwise than the preset from which it started; nothing without one."""
    return PRESETS[recon.preset].changes(asdict(recon)) if recon.preset else ()


def preset_words(recon: Reconstruction) -> Mapping[str, Any] | None:
    """What the methods text tells about the preset, if there is one."""
    if not recon.preset:
        return None
    preset = PRESETS[recon.preset]
    return {"sentence": preset.sentence, "citations": preset.citations, "changes": preset_changes(recon)}


def _anatomy(settings: Settings) -> dict[str, dict[str, Any]]:
    anatomy, behaviour = settings.anatomy, settings.behaviour
    ants = {
        "random_seed": behaviour.random_seed,
        "deterministic": behaviour.deterministic,
        "sloppy": behaviour.sloppy,
    }
    borders = {f"borders_{name}": value for name, value in asdict(NucleiParameters()).items()}
    nuclei = {
        **borders,
        "margin_mm": refinement.MARGIN_MM,
        "blur_mm": refinement.BLUR_MM,
        "range_ppm": refinement.RANGE_PPM,
    }
    ribbon = {"tissues": "Atropos, three classes", **asdict(RibbonParameters())}
    return {
        "brain_extraction": {
            "method": anatomy.brain_extraction,
            "template": NLIN6,
            "bias_correction": "N4",
            **ants,
        },
        "coregistration": {"method": "rigid", "metric": "mutual information", **ants},
        "template_registration": {
            "method": "SyN",
            "templates": anatomy.output_spaces,
            "metric": "mutual information",
            **ants,
        },
        "atlas": _atlas(anatomy.atlas),
        "refinement": {
            "method": anatomy.refinement,
            **{"susceptibility": nuclei | ants, "t1w": borders, "none": {}}[anatomy.refinement],
        },
        "cortex": {"method": anatomy.cortex, **({} if anatomy.cortex == "atlas" else ribbon | ants)},
        "interpolation": {
            "method": "all transforms at once",
            "maps": "linear",
            "labels": "largest membership",
            "mask": "linear, cut at one half",
        },
    }


def _atlas(name: str) -> dict[str, Any]:
    parts = [f"{words} (doi:{', doi:'.join(paper.doi for paper in papers)})" for words, papers in ATLASES[name]]
    return {"method": name, "space": get_atlas(name).space, "parts": parts}


def anatomy_words(settings: Settings) -> Mapping[str, Any]:
    """What the methods text tells about the T1w image and the regions."""
    anatomy = settings.anatomy
    return {
        "bias_correction": True,
        "brain_extraction": anatomy.brain_extraction,
        "gre_to_t1w": "rigid",
        "templates": list(anatomy.output_spaces),
        "registration": "SyN",
        "atlases": [anatomy.atlas, *(word.partition("=")[0] for word in anatomy.extra_atlases)],
        "refinement": anatomy.refinement,
        "cortex": RibbonParameters().reach_mm if anatomy.cortex == "grey-matter" else None,
        "output_spaces": list(anatomy.output_spaces),
        "sloppy": settings.behaviour.sloppy,
    }


def given_words(scan: ScanPlan) -> dict[str, Any]:
    """What the methods text tells otherwise where a scan has no T1w image, or results made before were taken."""
    t1w, gre = scan.given_t1w, scan.given
    words: dict[str, Any] = {}
    if scan.alone:
        step = scan.methods["brain_extraction"]
        how = "gradient-echo-loss" if "least_loss" in step else step["method"]
        words |= {"t1w": False, "brain_extraction": how, "gre_to_t1w": None, "cortex": None}
        words["decay"] = len(scan.facts.te_s) > 1
    if t1w.brain_mask or gre.brain_mask:
        words["brain_extraction"] = "given"
    if gre.to_t1w or gre.to_gre:
        words["gre_to_t1w"] = ""
    if t1w.segmentation:
        if t1w.brain_mask and t1w.brain_mask.parent == t1w.segmentation.parent:
            words["mask_by"] = t1w.segmenter
        segmentation = {"by": t1w.segmenter, "dkt": "DKT" in t1w.segmentation.name, "destrieux": bool(t1w.destrieux)}
        words |= {"segmentation": segmentation, "cortex": None}
    return words


def scan_words(settings: Settings, scan: ScanPlan) -> Mapping[str, Any]:
    """What the methods text tells about the T1w image and the regions of a scan, and what was given for it."""
    words = {**anatomy_words(settings), **given_words(scan)}
    given = scan.given_t1w.transforms or scan.given.transforms
    words["given_templates"] = [space for space in words["templates"] if space in given]
    words["templates"] = [space for space in words["templates"] if space not in given]
    return words
