"""Results under their final names: the only interfaces that write to OUTPUT_DIR."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from nipype.interfaces.base import File, TraitedSpec, isdefined, traits

from qsmals.engine.files import write_bytes, write_image, write_json, write_text
from qsmals.interfaces.base import Step, StepInput, affine_of, image, load, load_mask


class _SaveInput(StepInput):
    out_file = traits.Str(mandatory=True, desc="final path")
    sidecar = traits.Dict(usedefault=True, desc="content of the JSON file; none is written where empty")
    facts = traits.Dict(usedefault=True, desc="further content that only the run knows")


class _SaveOutput(TraitedSpec):
    out_file = File(desc="the file under its final name")


class _Save(Step):
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


class SaveImage(_Save):
    """An image as compressed NIfTI with its sidecar."""

    input_spec = _SaveImageInput

    def compute(self, folder: Path) -> dict[str, Any]:
        """Scale, mask, convert, write."""
        values = load(self.inputs.in_file) * np.float32(self.inputs.factor)
        if isdefined(self.inputs.mask):
            values = np.where(load_mask(self.inputs.mask), values, np.float32(0))
        dtype = np.dtype(self.inputs.dtype)
        stored = values if dtype == np.float32 else np.rint(values).astype(dtype)
        write_image(Path(self.inputs.out_file), image(stored, affine_of(self.inputs.in_file)))
        return self._finish()


class _SaveFieldMapInput(_SaveImageInput):
    b0_tesla = traits.Float(mandatory=True)


class SaveFieldMap(SaveImage):
    """A field in ppm as a field map in Hz."""

    input_spec = _SaveFieldMapInput

    def compute(self, folder: Path) -> dict[str, Any]:
        """Scale by the Larmor frequency, write."""
        from qsmals.recon.constants import GAMMA_BAR_MHZ_PER_TESLA

        self.inputs.factor = GAMMA_BAR_MHZ_PER_TESLA * self.inputs.b0_tesla
        return super().compute(folder)


class _SaveFileInput(_SaveInput):
    in_file = File(exists=True, mandatory=True)


class SaveFile(_Save):
    """Any file as it is, with its sidecar."""

    input_spec = _SaveFileInput

    def compute(self, folder: Path) -> dict[str, Any]:
        """Copy through the atomic writer."""
        path = Path(self.inputs.out_file)
        write_bytes(path, Path(self.inputs.in_file).read_bytes())
        return self._finish()


class _FactsInput(StepInput):
    out_file = traits.Str(mandatory=True)
    known = traits.Dict(mandatory=True, desc="what was known before the run")
    detected_prepare = traits.List(traits.Dict)
    detected_offset = traits.List(traits.Dict)
    detected_field = traits.List(traits.Dict)
    mask = traits.Dict(usedefault=True)
    inversion = traits.Dict(usedefault=True)
    reference = traits.Dict(usedefault=True)
    registration_gre = traits.Dict(usedefault=True, desc="quality of the rigid registration")
    registration_template = traits.Dict(usedefault=True, desc="quality of the deformable registration")
    images = traits.Dict(usedefault=True, desc="files for figures")
    magnitude = File(exists=True)
    phase = File(exists=True)
    unwrapped = File(exists=True)
    quality = File(exists=True)
    t1w = File(exists=True)
    t1w_labels = File(exists=True)
    t1w_on_gre = File(exists=True)


class SaveFacts(Step):
    """What the report needs to know about a scan beyond its images."""

    input_spec = _FactsInput
    output_spec = _SaveOutput
    _always_run = True

    def compute(self, folder: Path) -> dict[str, Any]:
        """Gather and write JSON."""
        known = dict(self.inputs.known)
        detected = [*known.pop("detected", [])]
        for name in ("prepare", "offset", "field"):
            detected += getattr(self.inputs, f"detected_{name}") or []
        images = {
            name: str(getattr(self.inputs, name))
            for name in ("magnitude", "phase", "unwrapped", "quality", "t1w", "t1w_labels", "t1w_on_gre")
            if isdefined(getattr(self.inputs, name))
        }
        warnings = [f"{d['what']}: {d['found']} ({d['evidence']})" for d in detected if d.get("warning")]
        if self.inputs.inversion and not self.inputs.inversion["converged"]:
            warnings.append("the dipole inversion stopped at its largest number of iterations before its tolerance")
        registration = {
            "GRE to T1w": dict(self.inputs.registration_gre),
            "T1w to template": dict(self.inputs.registration_template),
        }
        for name, measures in registration.items():
            warnings += [f"registration of {name}: {reason}" for reason in measures.get("reasons", [])]
        facts = {
            **known,
            "detected": detected,
            "mask": self.inputs.mask,
            "inversion": self.inputs.inversion,
            "reference": self.inputs.reference,
            "registration": {
                f"{name}, {measure.replace('_', ' ')}": value
                for name, measures in registration.items()
                for measure, value in measures.items()
                if isinstance(value, float)
            },
            "images": images,
            "warnings": [*known.get("warnings", []), *warnings],
        }
        write_text(Path(self.inputs.out_file), json.dumps(facts, indent=2, default=float) + "\n")
        return {"out_file": self.inputs.out_file}
