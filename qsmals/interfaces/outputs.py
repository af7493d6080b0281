"""Results under their final names: the only interfaces that write to OUTPUT_DIR."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from nipype.interfaces.base import File, TraitedSpec, isdefined, traits
from numpy.typing import NDArray

from qsmals.engine.files import write_bytes, write_image, write_json, write_text
from qsmals.interfaces.base import Step, StepInput, affine_of, image, load, load_labels, load_mask, warnings_in
from qsmals.interfaces.susceptibility import NOT_CONVERGED


class _SaveInput(StepInput):
    out_file = traits.Str(mandatory=True, desc="final path")
    sidecar = traits.Dict(usedefault=True, desc="content of the JSON file; none is written where empty")
    facts = traits.Dict(usedefault=True, desc="further content that only the run knows")


class _SaveOutput(TraitedSpec):
    out_file = File(desc="the file under its final name")


class Save(Step):
    """A result is written again on every run: the folder may have been emptied since the last."""

    output_spec = _SaveOutput
    _always_run = True

    def _finish(self) -> dict[str, Any]:
        """Write the sidecar, last."""
        path = Path(self.inputs.out_file)
        if self.inputs.sidecar:
            write_json(
                path.with_name(path.name.partition(".")[0] + ".json"), {**self.inputs.sidecar, **self.inputs.facts}
            )
        return {"out_file": str(path)}


class _SaveImageInput(_SaveInput):
    in_file = File(exists=True, mandatory=True)
    mask = File(exists=True, desc="0 outside it")
    dtype = traits.Enum("float32", "uint8", "int16", "int32", usedefault=True)
    factor = traits.Float(1.0, usedefault=True, desc="multiplies the values, e.g. Hz per ppm")


class SaveImage(Save):
    """An image as compressed NIfTI with its sidecar."""

    input_spec = _SaveImageInput

    def compute(self, folder: Path) -> dict[str, Any]:
        """Scale, mask, convert, write."""
        dtype, factor = np.dtype(self.inputs.dtype), self._factor()
        values: NDArray[Any] = load_labels(self.inputs.in_file) if dtype == np.int32 else load(self.inputs.in_file)
        if factor != 1:
            values = values * np.float32(factor)
        if isdefined(self.inputs.mask):
            values = np.where(load_mask(self.inputs.mask), values, values.dtype.type(0))
        stored = values if values.dtype == dtype else np.rint(values).astype(dtype)
        write_image(Path(self.inputs.out_file), image(stored, affine_of(self.inputs.in_file)))
        return self._finish()

    def _factor(self) -> float:
        """What the values are multiplied by."""
        return float(self.inputs.factor)


class _SaveFieldMapInput(_SaveImageInput):
    b0_tesla = traits.Float(mandatory=True)


class SaveFieldMap(SaveImage):
    """A field in ppm as a field map in Hz."""

    input_spec = _SaveFieldMapInput

    def _factor(self) -> float:
        """Hz per ppm at this field strength."""
        from qsmals.recon.constants import GAMMA_BAR_MHZ_PER_TESLA

        return super()._factor() * GAMMA_BAR_MHZ_PER_TESLA * float(self.inputs.b0_tesla)


class _SaveFileInput(_SaveInput):
    in_file = File(exists=True, mandatory=True)


class SaveFile(Save):
    """Any file as it is, with its sidecar."""

    input_spec = _SaveFileInput

    def compute(self, folder: Path) -> dict[str, Any]:
        """Copy through the atomic writer."""
        path = Path(self.inputs.out_file)
        write_bytes(path, Path(self.inputs.in_file).read_bytes())
        return self._finish()


class _SaveTextInput(_SaveInput):
    text = traits.Str(mandatory=True)


class SaveText(Save):
    """Text that was known before the run."""

    input_spec = _SaveTextInput

    def compute(self, folder: Path) -> dict[str, Any]:
        """Write through the atomic writer."""
        write_text(Path(self.inputs.out_file), self.inputs.text)
        return self._finish()


class _DetectedInput(StepInput):
    detected_prepare = traits.List(traits.Dict, desc="scale of the phase, slices")
    detected_offset = traits.List(traits.Dict, desc="readout")
    detected_field = traits.List(traits.Dict, desc="sign of the phase")
    detected_inversion = traits.List(traits.Dict, desc="parameters that follow the field")


def _detected(inputs: Any) -> list[dict[str, Any]]:
    """What the steps found out about the data, in the order in which they ran."""
    lists = (getattr(inputs, f"detected_{step}") for step in ("prepare", "offset", "field", "inversion"))
    return [dict(entry) for found in lists for entry in found or []]


class _SidecarFactsInput(_DetectedInput):
    reference = traits.Dict(usedefault=True, desc="reference region and offsets, as the sidecar states them")
    mask = traits.Dict(usedefault=True, desc="facts of the masks")


class _SidecarFactsOutput(TraitedSpec):
    chi = traits.Dict(desc="for susceptibility")
    field = traits.Dict(desc="for total and local field")
    mask = traits.Dict(desc="for masks")


class SidecarFacts(Step):
    """What the sidecars state that only the run knows."""

    input_spec = _SidecarFactsInput
    output_spec = _SidecarFactsOutput

    def compute(self, folder: Path) -> dict[str, Any]:
        """Join what several steps found."""
        from qsmals.bids.sidecars import strict_json

        entries = [{key.capitalize(): value for key, value in entry.items()} for entry in _detected(self.inputs)]
        field = {"Detected": strict_json(entries)}
        words = {"quality_threshold": "QualityThreshold", "threshold_rule": "QualityThresholdRule"}
        facts = self.inputs.mask
        return {
            "chi": {**strict_json(dict(self.inputs.reference)), **field},
            "field": field,
            "mask": strict_json({words[key]: facts[key] for key in words if facts.get(key) is not None}),
        }


LEAST_IN_VIEW = 0.75
"""Share of the brain in the field of view below which the page speaks of a slab; a whole cerebellum is a tenth."""

IMAGES = (
    *("magnitude", "phase", "unwrapped", "quality", "noise", "t1w", "t1w_labels", "t1w_on_gre"),
    *("tissues", "tissues_on_gre", "t1w_on_template"),
)
"""Images for the report's figures that are no outputs: inputs of :class:`SaveFacts`."""


class _FactsInput(_DetectedInput):
    out_file = traits.Str(mandatory=True)
    known = traits.Dict(mandatory=True, desc="what was known before the run")
    brain = traits.Dict(usedefault=True, desc="what brain extraction found in the T1w image")
    brain_extraction = traits.Enum("auto", "template", "deepbet", "skip", usedefault=True, desc="what was asked of it")
    mask = traits.Dict(usedefault=True)
    inversion = traits.Dict(usedefault=True)
    cortex = traits.Dict(usedefault=True, desc="what the fit of cortical labels to grey matter changed")
    nuclei = traits.Dict(usedefault=True, desc="what the fit of the deep nuclei's borders changed")
    reference = traits.Dict(usedefault=True)
    registration_gre = traits.Dict(usedefault=True, desc="quality of the rigid registration")
    source = traits.Enum("T1w", "GRE", usedefault=True, desc="what was registered to the templates")
    templates = traits.List(traits.Str, desc="names of the templates")
    registration_templates = traits.List(traits.Dict, desc="quality of the deformable registration to each")
    registration_between_templates = traits.Dict(usedefault=True, desc="quality of that which other atlases need")
    lost_tables = traits.Dict(usedefault=True, desc="region tables that depend on each registration, by its name")
    magnitude = File(exists=True)
    phase = File(exists=True)
    unwrapped = File(exists=True)
    quality = File(exists=True)
    noise = File(exists=True, desc="standard deviation of the total field, ppm")
    t1w = File(exists=True)
    t1w_labels = File(exists=True)
    t1w_on_gre = File(exists=True)
    tissues = File(exists=True, desc="1 fluid, 2 grey matter, 3 white matter, on the T1w grid")
    tissues_on_gre = File(exists=True, desc="likewise on the GRE grid")
    t1w_on_template = File(exists=True, desc="T1w brain on the first template")


class SaveFacts(Step):
    """What the report needs to know about a scan beyond its images."""

    input_spec = _FactsInput
    output_spec = _SaveOutput
    _always_run = True

    def compute(self, folder: Path) -> dict[str, Any]:
        """Gather and write JSON."""
        from qsmals.anatomy.templates import template_path

        known = dict(self.inputs.known)
        detected = [*known.pop("detected", []), *self._t1w(), *_detected(self.inputs)]
        images = {name: str(getattr(self.inputs, name)) for name in IMAGES if isdefined(getattr(self.inputs, name))}
        if "t1w_on_template" in images and self.inputs.templates:
            images["template"] = str(template_path(self.inputs.templates[0]))
        warnings = warnings_in(detected)
        if self.inputs.inversion and not self.inputs.inversion["converged"]:
            warnings.append(NOT_CONVERGED)
        warnings += self.inputs.inversion.get("notes", [])
        warnings += [*self.inputs.cortex.get("warnings", []), *self.inputs.nuclei.get("warnings", [])]
        warnings += self._slab()
        registration = {
            "GRE to T1w": dict(self.inputs.registration_gre),
            **{f"{self.inputs.source} to {name}": dict(found) for name, found in self._templates()},
        }
        failed = [self._failure(name, found) for name, found in registration.items() if found.get("reasons")]
        warnings += [f"registration of {failure}" for failure in failed]
        if between := dict(self.inputs.registration_between_templates):
            registration["between templates"] = between
            if between["reasons"]:  # no measure of quality tells it: the verdict rests on the warning
                failed.append(self._failure("the templates", between))
                warnings.append(f"atlases on the other template: registration of {failed[-1]}")
        facts = {
            **known,
            "detected": detected,
            "mask": self.inputs.mask,
            "inversion": self.inputs.inversion,
            "cortex": self.inputs.cortex,
            "nuclei": self.inputs.nuclei,
            "reference": self.inputs.reference,
            "registration": {
                f"{name}, {measure.replace('_', ' ')}": value
                for name, measures in registration.items()
                for measure, value in measures.items()
                if isinstance(value, float)
            },
            "registration_failed": failed,
            "images": images,
            "warnings": [*known.get("warnings", []), *warnings],
        }
        write_text(Path(self.inputs.out_file), json.dumps(facts, indent=2, default=float) + "\n")
        return {"out_file": self.inputs.out_file}

    def _slab(self) -> list[str]:
        """What follows from a field of view that leaves out much of the brain, and what to do about it."""
        measured, whole_ml = dict(self.inputs.registration_gre), self.inputs.brain.get("brain_ml")
        shown_ml = measured.get("in_view_ml")
        if measured.get("reasons") or shown_ml is None or not whole_ml or shown_ml >= LEAST_IN_VIEW * whole_ml:
            return []
        return [
            f"field of view: the scan shows {shown_ml:.0f} of the {whole_ml:.0f} ml of the T1w image's brain. Regions "
            "that it leaves out have no statistics, and a whole-brain reference is the mean of what it shows: compare "
            "it with scans of the same part only. If it was meant to show more, look at its position and repeat it. In "
            'a study of such scans set brain_volume, motor_coverage and lost_regions to "off" (--qc-thresholds)'
        ]

    def _failure(self, name: str, measures: dict[str, Any]) -> str:
        """A failed registration: what of, why, and the region tables that have no statistics for it."""
        tables = ", ".join(self.inputs.lost_tables.get(name, []))
        told = f"no statistics in the tables of {tables}" if tables else "no region table depends on it"
        return f"{name}: {'; '.join(measures['reasons'])} ({told})"

    def _templates(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Each template with the quality of its registration."""
        return zip(self.inputs.templates or [], self.inputs.registration_templates or [], strict=True)

    def _t1w(self) -> list[dict[str, Any]]:
        """Whether the T1w image (or what stands in for it) came without skull, as a line of the report."""
        if not self.inputs.brain:
            return []
        asked = self.inputs.brain_extraction
        image = "brain only" if self.inputs.brain["skull_stripped_input"] else "head with skull"
        evidence = "brightness under its surface" if asked == "auto" else f"set by --brain-extraction {asked}"
        if given := self.inputs.brain.get("given_mask"):
            evidence = f"brain mask of {given}"
        found = f"{image}; brain mask of {self.inputs.brain['brain_ml']:.0f} ml"
        what = "T1w image" if self.inputs.source == "T1w" else "gradient echo in place of a T1w image"
        return [{"what": what, "found": found, "evidence": evidence}]
