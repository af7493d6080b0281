"""Brain extraction, registration and resampling with ANTs, as nipype interfaces."""

from pathlib import Path
from typing import Any

import numpy as np
from nipype.interfaces.base import File, TraitedSpec, traits

from qsmals.interfaces.base import Step, StepInput, affine_of, load_labels, log_warnings, save, volume


class AntsInput(StepInput):
    """Inputs of every step that runs ANTs."""

    seed = traits.Range(low=1, value=42, usedefault=True, desc="of every random number")
    deterministic = traits.Bool(False, usedefault=True, desc="one ITK thread, for equal bytes")
    sloppy = traits.Bool(False, usedefault=True, desc="coarse and quick, for tests")


class AntsStep(Step):
    """A step that runs ANTs with the node's threads, seed and folder."""

    def resources(self, folder: Path) -> Any:
        """The anatomical step's resources."""
        from qsmals.anatomy.compute import Compute

        threads = 1 if self.inputs.deterministic else self.inputs.num_threads
        return Compute(folder / "ants", threads=threads, seed=self.inputs.seed, sloppy=self.inputs.sloppy)


class _BrainInput(AntsInput):
    t1w = File(exists=True, mandatory=True)
    mode = traits.Enum("auto", "template", "skip", usedefault=True)


class _BrainOutput(TraitedSpec):
    brain = File(desc="bias-corrected T1w, 0 outside the brain")
    mask = File(desc="brain with its fluid, T1w grid")
    initial = File(desc="affine with which a registration to the template may start")
    facts = traits.Dict()


class ExtractBrain(AntsStep):
    """Bias correction and brain mask of a T1w image."""

    input_spec = _BrainInput
    output_spec = _BrainOutput

    def compute(self, folder: Path) -> dict[str, Any]:
        """See :mod:`qsmals.anatomy.brain`."""
        from qsmals.anatomy.brain import extract_brain
        from qsmals.anatomy.templates import NLIN6

        skull_stripped = {"auto": None, "template": False, "skip": True}[self.inputs.mode]
        t1w, template = read_image(self.inputs.t1w), template_image(NLIN6)
        brain = extract_brain(t1w, template, compute=self.resources(folder), skull_stripped=skull_stripped)
        mask = brain.mask.numpy() > 0.5
        return {
            "brain": write_image(brain.image, folder / "brain.nii"),
            "mask": write_image(brain.mask, folder / "brain_mask.nii"),
            "initial": str(brain.to_template),
            "facts": {
                "skull_stripped_input": bool(brain.skull_stripped),
                "brain_ml": float(mask.sum() * np.prod(brain.mask.spacing)) / 1000,
            },
        }


class _TissueInput(AntsInput):
    brain = File(exists=True, mandatory=True, desc="bias-corrected T1w brain")
    mask = File(exists=True, mandatory=True)


class _TissueOutput(TraitedSpec):
    tissues = File(desc="1 fluid, 2 grey matter, 3 white matter")


class SegmentTissues(AntsStep):
    """Fluid, grey and white matter of a T1w brain."""

    input_spec = _TissueInput
    output_spec = _TissueOutput

    def compute(self, folder: Path) -> dict[str, Any]:
        """See :func:`qsmals.anatomy.tissue.segment_tissues`."""
        from qsmals.anatomy.tissue import segment_tissues

        found = segment_tissues(
            read_image(self.inputs.brain), read_image(self.inputs.mask), compute=self.resources(folder)
        )
        return {"tissues": write_image(found, folder / "tissues.nii")}


class _CortexInput(StepInput):
    labels = File(exists=True, mandatory=True, desc="atlas on the grid of the tissues")
    tissues = File(exists=True, mandatory=True)


class _CortexOutput(TraitedSpec):
    labels = File(desc="with cortex where grey matter is")
    facts = traits.Dict(desc="share of the cortical voxels lost and gained, and warnings")


class FitCortex(Step):
    """Cortical labels fitted to the grey matter."""

    input_spec = _CortexInput
    output_spec = _CortexOutput

    def compute(self, folder: Path) -> dict[str, Any]:
        """See :func:`qsmals.anatomy.ribbon.fit_cortex`."""
        from qsmals.anatomy.ribbon import cortex_change, fit_cortex
        from qsmals.recon.grid import voxel_size_mm

        affine = affine_of(self.inputs.labels)
        labels = load_labels(self.inputs.labels)
        fitted = fit_cortex(labels, load_labels(self.inputs.tissues), voxel_size_mm=voxel_size_mm(affine))
        change = cortex_change(labels, fitted)
        log_warnings("regions", change.warnings, folder)
        facts = {"lost_percent": change.lost_percent, "gained_percent": change.gained_percent}
        return {
            "labels": save(fitted, affine, folder / "labels.nii"),
            "facts": {**facts, "warnings": list(change.warnings)},
        }


class _TemplateInput(AntsInput):
    brain = File(exists=True, mandatory=True)
    mask = File(exists=True, mandatory=True)
    initial = File(exists=True, mandatory=True)
    template = traits.Str(mandatory=True)


class _TransformOutput(TraitedSpec):
    forward = File(desc="moves images forward")
    inverse = File(desc="moves images back")
    facts = traits.Dict(desc="measures of the registration's quality")


class RegisterTemplate(AntsStep):
    """SyN from the T1w brain to a template brain."""

    input_spec = _TemplateInput
    output_spec = _TransformOutput

    def compute(self, folder: Path) -> dict[str, Any]:
        """See :func:`qsmals.anatomy.registration.register_template`."""
        from qsmals.anatomy.compute import ants_session
        from qsmals.anatomy.quality import template_quality
        from qsmals.anatomy.registration import register_template

        brain, template, compute = _brain(self.inputs), template_image(self.inputs.template), self.resources(folder)
        transform = register_template(brain, template, compute=compute)
        with ants_session(compute):
            quality = template_quality(template, brain.image, brain.mask, transform.forward, seed=compute.seed)
        log_warnings("registration", (f"registration of T1w to template: {why}" for why in quality.reasons), folder)
        return {"forward": str(transform.forward), "inverse": str(transform.inverse), "facts": quality.as_dict()}


class _GreInput(AntsInput):
    magnitude = File(exists=True, mandatory=True, desc="one volume of the GRE scan")
    t1w = File(exists=True, mandatory=True)
    brain = File(exists=True, mandatory=True)
    mask = File(exists=True, mandatory=True)
    initial = File(exists=True, mandatory=True)


class RegisterGre(AntsStep):
    """Rigid motion from the GRE scan to the T1w image."""

    input_spec = _GreInput
    output_spec = _TransformOutput

    def compute(self, folder: Path) -> dict[str, Any]:
        """See :func:`qsmals.anatomy.registration.register_gre`."""
        from qsmals.anatomy.compute import ants_session
        from qsmals.anatomy.quality import rigid_quality
        from qsmals.anatomy.registration import register_gre

        brain, compute = _brain(self.inputs), self.resources(folder)
        magnitude = read_image(self.inputs.magnitude)
        transform = register_gre(magnitude, read_image(self.inputs.t1w), brain, compute=compute)
        with ants_session(compute):
            quality = rigid_quality(magnitude, brain.image, brain.mask, transform.forward, seed=compute.seed)
        log_warnings("registration", (f"registration of GRE to T1w: {why}" for why in quality.reasons), folder)
        return {"forward": str(transform.forward), "inverse": str(transform.inverse), "facts": quality.as_dict()}


class _RefineInput(AntsInput):
    chi = File(exists=True, mandatory=True, desc="susceptibility on the GRE grid, ppm")
    brain = File(exists=True, mandatory=True, desc="T1w brain")
    labels = File(exists=True, mandatory=True, desc="atlas on its template")
    template = traits.Str(mandatory=True)
    to_t1w = File(exists=True, mandatory=True)
    to_template = File(exists=True, mandatory=True)


class _RefineOutput(TraitedSpec):
    forward = File(desc="moves images to the refined template")
    inverse = File(desc="moves labels of the template to where the nuclei are seen")


class RefineNuclei(AntsStep):
    """Atlas deformed around the deep nuclei to where the susceptibility map shows them."""

    input_spec = _RefineInput
    output_spec = _RefineOutput

    def compute(self, folder: Path) -> dict[str, Any]:
        """See :func:`qsmals.anatomy.refinement.refine_nuclei`."""
        from qsmals.anatomy.refinement import refine_nuclei

        transform = refine_nuclei(
            read_image(self.inputs.chi),
            read_image(self.inputs.brain),
            read_image(self.inputs.labels),
            template_image(self.inputs.template),
            gre_to_t1w=Path(self.inputs.to_t1w),
            t1w_to_template=Path(self.inputs.to_template),
            compute=self.resources(folder),
        )
        return {"forward": str(transform.forward), "inverse": str(transform.inverse)}


class _ResampleInput(AntsInput):
    in_file = File(exists=True, mandatory=True)
    reference = File(exists=True, desc="its grid is that of the result; the template's where not given")
    template = traits.Str("", usedefault=True)
    transforms = traits.List(File(exists=True), mandatory=True, desc="from the image towards the reference")
    kind = traits.Enum("map", "labels", "mask", usedefault=True)


class _ResampleOutput(TraitedSpec):
    out_file = File()


class Resample(AntsStep):
    """An image on another grid, in one interpolation."""

    input_spec = _ResampleInput
    output_spec = _ResampleOutput

    def compute(self, folder: Path) -> dict[str, Any]:
        """See :func:`qsmals.anatomy.registration.resample`."""
        from qsmals.anatomy.compute import ants_session
        from qsmals.anatomy.registration import resample

        with ants_session(self.resources(folder)):
            name = self.inputs.template
            reference = template_image(name) if name else read_image(self.inputs.reference)
            moved = resample(
                read_image(self.inputs.in_file),
                reference,
                [Path(path) for path in self.inputs.transforms],
                labels=self.inputs.kind == "labels",
            )
            if self.inputs.kind == "mask":
                moved = moved.new_image_like((moved.numpy() > 0.5).astype("float32"))
            return {"out_file": write_image(moved, folder / "resampled.nii")}


def read_image(path: str | Path) -> Any:
    """An image as ANTs holds it, the first volume of a series."""
    import nibabel as nib

    from qsmals.anatomy.images import to_ants

    loaded = nib.load(path)
    data = volume(np.asanyarray(loaded.dataobj))
    return to_ants(data[..., 0] if data.ndim == 4 else data, loaded.affine)


def write_image(ants_image: Any, path: Path) -> str:
    """Write an image of ANTs for the next node; returns the path as text."""
    from qsmals.anatomy.images import from_ants

    data, affine = from_ants(ants_image)
    return save(data, affine, path)


def template_image(name: str) -> Any:
    """The packaged template brain."""
    from qsmals.anatomy.templates import template_path

    return read_image(template_path(name))


def _brain(inputs: Any) -> Any:
    """The brain that `ExtractBrain` wrote.

    Registrations use its image, mask and affine; whether the input came without a skull mattered
    to the extraction only, and is told in its facts.
    """
    from qsmals.anatomy.brain import Brain

    return Brain(
        mask=read_image(inputs.mask),
        image=read_image(inputs.brain),
        skull_stripped=False,
        to_template=Path(inputs.initial),
    )
