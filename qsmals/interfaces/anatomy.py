"""Brain extraction, registration and resampling with ANTs, as nipype interfaces."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from nipype.interfaces.base import File, TraitedSpec, isdefined, traits
from numpy.typing import NDArray

from qsmals.interfaces.base import (
    Step,
    StepInput,
    affine_of,
    load,
    load_echoes,
    load_labels,
    load_mask,
    log_warnings,
    save,
    save_series,
    volume,
)


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
    mode = traits.Enum("auto", "template", "deepbet", "skip", usedefault=True)
    given_mask = File(exists=True, desc="brain mask that another pipeline made, in the T1w image's coordinates")


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
        from qsmals.anatomy.brain import brain_from_mask, extract_brain, on_grid
        from qsmals.anatomy.compute import ants_session
        from qsmals.anatomy.deepbet import deepbet_mask
        from qsmals.anatomy.templates import NLIN6

        compute, mode = self.resources(folder), self.inputs.mode
        with ants_session(compute):
            t1w, template = read_image(self.inputs.t1w), template_image(NLIN6)
        if isdefined(self.inputs.given_mask) or mode == "deepbet":
            with ants_session(compute):
                given = self.inputs.given_mask
                mask = on_grid(read_image(given) if isdefined(given) else deepbet_mask(t1w, folder), t1w)
            brain = brain_from_mask(t1w, mask, template, compute=compute)
        else:
            skull_stripped = {"auto": None, "template": False, "skip": True}[mode]
            brain = extract_brain(t1w, template, compute=compute, skull_stripped=skull_stripped)
        return _brain_outputs(brain, self.inputs.given_mask, folder)


def _brain_outputs(brain: Any, given_mask: Any, folder: Path) -> dict[str, Any]:
    """Files and facts of an extracted brain; ``given_mask`` is the mask that was taken over, or undefined."""
    mask = brain.mask.numpy() > 0.5
    return {
        "brain": write_image(brain.image, folder / "brain.nii"),
        "mask": write_image(brain.mask, folder / "brain_mask.nii"),
        "initial": str(brain.to_template),
        "facts": {
            "skull_stripped_input": bool(brain.skull_stripped),
            "given_mask": str(given_mask) if isdefined(given_mask) else "",
            "brain_ml": float(mask.sum() * np.prod(brain.mask.spacing)) / 1000,
        },
    }


class _GreBrainInput(AntsInput):
    magnitude = File(exists=True, mandatory=True, desc="all echoes")
    combined = File(exists=True, mandatory=True, desc="all echoes in one volume")
    te_s = traits.List(traits.Float, mandatory=True, desc="echo times, s")
    skull_stripped = traits.Bool(False, usedefault=True, desc="the scan shows the brain only")
    given_mask = File(exists=True, desc="brain mask in the scan's coordinates")


class _GreBrainOutput(_BrainOutput):
    decay = File(desc="decay rates, cut, 0 outside the brain; not with one echo")


class ExtractGreBrain(AntsStep):
    """Brain of a gradient-echo scan that has no T1w image beside it."""

    input_spec = _GreBrainInput
    output_spec = _GreBrainOutput

    def compute(self, folder: Path) -> dict[str, Any]:
        """See :mod:`qsmals.anatomy.gradient_echo`."""
        from qsmals.anatomy.brain import brain_from_mask, on_grid
        from qsmals.anatomy.compute import ants_session
        from qsmals.anatomy.gradient_echo import LEAST_SPAN_S, extract_gre_brain
        from qsmals.anatomy.templates import NLIN6

        compute, given = self.resources(folder), self.inputs.given_mask
        with ants_session(compute):
            combined, template = read_image(self.inputs.combined), template_image(NLIN6)
            if isdefined(given):
                mask = on_grid(read_image(given), combined)
                brain = brain_from_mask(combined, mask, template, compute=compute)
            else:
                skull_stripped = True if self.inputs.skull_stripped else None
                te_s = self.inputs.te_s
                loses = te_s[-1] - te_s[0] >= LEAST_SPAN_S
                brain = extract_gre_brain(
                    read_image(self.inputs.magnitude),
                    combined,
                    template,
                    last_echo=read_image(self.inputs.magnitude, number=-1) if loses else None,
                    compute=compute,
                    skull_stripped=skull_stripped,
                )
        outputs = _brain_outputs(brain, given, folder)
        if len(self.inputs.te_s) > 1:
            outputs["decay"] = self._decay(load_mask(outputs["mask"]), folder)
        return outputs

    def _decay(self, brain: Any, folder: Path) -> str:
        """The decay rates as an image to register."""
        from qsmals.anatomy.gradient_echo import decay_image
        from qsmals.recon.relaxometry.loglinear import log_linear

        te_s = np.array(self.inputs.te_s)
        found = log_linear(load_echoes(self.inputs.magnitude), te_s=te_s, mask=brain)
        return save(decay_image(found.r2star_hz, brain), affine_of(self.inputs.combined), folder / "decay.nii")


class _StayOutput(TraitedSpec):
    forward = File(desc="moves nothing")
    inverse = File(desc="moves nothing")


class Stay(AntsStep):
    """The transform between two images that share their coordinates."""

    input_spec = AntsInput
    output_spec = _StayOutput

    def compute(self, folder: Path) -> dict[str, Any]:
        """Write an identity."""
        from qsmals.anatomy.compute import ants_session
        from qsmals.anatomy.stages import write_affine

        with ants_session(self.resources(folder)):
            path = str(write_affine(np.eye(4), folder / "identity.mat"))
        return {"forward": path, "inverse": path}


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


class _NucleiInput(StepInput):
    labels = File(exists=True, mandatory=True, desc="atlas, FreeSurfer's numbers")
    segmentation = File(exists=True, desc="labels of another pipeline on the same grid, in place of the atlas's")
    chi = File(exists=True, desc="susceptibility on the same grid, ppm")
    t1w = File(exists=True, desc="T1w brain on the same grid")
    parts = File(exists=True, desc="parts of the atlas's labels on the same grid")
    notes = traits.List(traits.Str, desc="warnings of the step that placed the nuclei")
    placement = traits.Dict(desc="measures of that step")


class _NucleiOutput(TraitedSpec):
    labels = File(desc="with the borders of the deep nuclei where the images show them")
    parts = File(desc="parts of those labels")
    facts = traits.Dict(desc="share of the nuclear voxels lost and gained, and warnings")


class FitNuclei(Step):
    """Borders of the deep nuclei fitted to susceptibility and T1w intensity, and the labels' division into parts.

    Without an image the labels stay, and are only divided. With a segmentation its labels take the place of the
    atlas's, which then only has substantia nigra and red nucleus to add; numbers that FreeSurfer does not use there
    are left out.
    """

    input_spec = _NucleiInput
    output_spec = _NucleiOutput

    def compute(self, folder: Path) -> dict[str, Any]:
        """See :mod:`qsmals.anatomy.nuclei`."""
        from qsmals.anatomy.atlases import ALS, PARENTS, add_midbrain, without_unknown
        from qsmals.anatomy.nuclei import fit_nuclei, nuclei_change, split_parts
        from qsmals.recon.grid import voxel_size_mm

        affine = affine_of(self.inputs.labels)
        size = voxel_size_mm(affine)
        labels = load_labels(self.inputs.labels)
        given = {"chi_ppm": self.inputs.chi, "t1w": self.inputs.t1w}
        images = {name: load(path) if isdefined(path) else None for name, path in given.items()}
        seen = any(image is not None for image in images.values())
        fitted = (
            fit_nuclei(labels, chi_ppm=images["chi_ppm"], t1w=images["t1w"], voxel_size_mm=size) if seen else labels
        )
        change = nuclei_change(labels, fitted)
        warnings = list(change.warnings)
        if isdefined(self.inputs.segmentation):
            segmented, unknown = without_unknown(load_labels(self.inputs.segmentation), (*ALS.regions, *ALS.more))
            fitted = add_midbrain(segmented, fitted)
            if unknown:
                told = "the segmentation has labels that are not of FreeSurfer's aparc+aseg, left out: "
                warnings.append(told + ", ".join(map(str, unknown)))
        log_warnings("regions", warnings, folder)
        facts = {"lost_percent": change.lost_percent, "gained_percent": change.gained_percent}
        outputs = {
            "labels": save(fitted, affine, folder / "labels.nii"),
            "facts": {**(self.inputs.placement or {}), **facts, "warnings": [*(self.inputs.notes or []), *warnings]},
        }
        if isdefined(self.inputs.parts):
            parts = split_parts(fitted, load_labels(self.inputs.parts), PARENTS, voxel_size_mm=size)
            outputs["parts"] = save(parts, affine, folder / "parts.nii")
        return outputs


class _TemplateInput(AntsInput):
    brain = File(exists=True, mandatory=True)
    mask = File(exists=True, mandatory=True)
    initial = File(exists=True, mandatory=True)
    more = File(exists=True, desc="another contrast of the brain on the same grid")
    template = traits.Str(mandatory=True)
    source = traits.Enum("T1w", "GRE", usedefault=True, desc="what is registered, for messages")


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
        with ants_session(compute):
            more = [read_image(self.inputs.more)] if isdefined(self.inputs.more) else []
            transform = register_template(brain, template, compute=compute, more=more)
            quality = template_quality(template, brain.image, brain.mask, transform.forward, seed=compute.seed)
        what = f"registration of {self.inputs.source} to template"
        log_warnings("registration", (f"{what}: {why}" for why in quality.reasons), folder)
        return {"forward": str(transform.forward), "inverse": str(transform.inverse), "facts": quality.as_dict()}


class _TemplatesInput(AntsInput):
    fixed = traits.Str(mandatory=True)
    moving = traits.Str(mandatory=True)


class RegisterTemplates(AntsStep):
    """SyN from one template to another, for atlases that are drawn on it."""

    input_spec = _TemplatesInput
    output_spec = _TransformOutput

    def compute(self, folder: Path) -> dict[str, Any]:
        """See :func:`qsmals.anatomy.registration.register_templates`."""
        from qsmals.anatomy.compute import ants_session
        from qsmals.anatomy.quality import template_quality
        from qsmals.anatomy.registration import register_templates

        compute = self.resources(folder)
        with ants_session(compute):
            fixed, moving = template_image(self.inputs.fixed), template_image(self.inputs.moving)
            transform = register_templates(fixed, moving, compute=compute)
            quality = template_quality(
                fixed, moving, moving.new_image_like((moving.numpy() > 0).astype("float32")), transform.forward,
                seed=compute.seed,
            )  # fmt: skip
        log_warnings("registration", (f"registration of the templates: {why}" for why in quality.reasons), folder)
        return {"forward": str(transform.forward), "inverse": str(transform.inverse), "facts": quality.as_dict()}


class _GivenTemplateInput(AntsInput):
    brain = File(exists=True, mandatory=True)
    mask = File(exists=True, mandatory=True)
    template = traits.Str(mandatory=True)
    source = traits.Enum("T1w", "GRE", usedefault=True, desc="what was registered, for messages")
    forward = File(exists=True, mandatory=True, desc="brain to template, made by another run")
    inverse = File(exists=True, mandatory=True, desc="template to brain")


class GivenTemplate(AntsStep):
    """Transforms between brain and template that were made before, judged like new ones."""

    input_spec = _GivenTemplateInput
    output_spec = _TransformOutput

    def compute(self, folder: Path) -> dict[str, Any]:
        """See :func:`qsmals.anatomy.quality.template_quality` and :func:`~qsmals.anatomy.quality.with_round_trip`."""
        from qsmals.anatomy.compute import ants_session
        from qsmals.anatomy.quality import template_quality, with_round_trip

        compute, forward, inverse = self.resources(folder), Path(self.inputs.forward), Path(self.inputs.inverse)
        with ants_session(compute):
            template, brain, mask = (
                template_image(self.inputs.template), read_image(self.inputs.brain), read_image(self.inputs.mask)
            )  # fmt: skip
            quality = template_quality(template, brain, mask, forward, seed=compute.seed)
            quality = with_round_trip(quality, mask, inverse, forward)  # points move against images
        what = f"registration of {self.inputs.source} to template"
        log_warnings("registration", (f"{what}: {why}" for why in quality.reasons), folder)
        return {"forward": str(forward), "inverse": str(inverse), "facts": quality.as_dict()}


class _GivenRigidInput(AntsInput):
    magnitude = File(exists=True, mandatory=True, desc="one volume of the GRE scan")
    brain = File(exists=True, mandatory=True)
    mask = File(exists=True, mandatory=True)
    to_t1w = File(exists=True, desc="GRE to T1w, made by another run")
    to_gre = File(exists=True, desc="T1w to GRE; one of the two is enough")


class GivenRigid(AntsStep):
    """A motion between GRE scan and T1w image that was found before, judged like a new one."""

    input_spec = _GivenRigidInput
    output_spec = _TransformOutput

    def compute(self, folder: Path) -> dict[str, Any]:
        """See :func:`qsmals.anatomy.quality.rigid_quality` and :func:`~qsmals.anatomy.quality.with_round_trip`."""
        from qsmals.anatomy.compute import ants_session
        from qsmals.anatomy.quality import rigid_quality, with_round_trip
        from qsmals.anatomy.registration import both_ways

        compute = self.resources(folder)
        files = (self.inputs.to_t1w, self.inputs.to_gre)
        to_t1w, to_gre = (Path(file) if isdefined(file) else None for file in files)
        with ants_session(compute):
            transform = both_ways(to_t1w, to_gre, folder)
            magnitude, brain, mask = (
                read_image(file) for file in (self.inputs.magnitude, self.inputs.brain, self.inputs.mask)
            )
            quality = rigid_quality(magnitude, brain, mask, transform.forward, seed=compute.seed)
            quality = with_round_trip(quality, mask, transform.forward, transform.inverse)
        log_warnings("registration", (f"registration of GRE to T1w: {why}" for why in quality.reasons), folder)
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


UNREFINED = "they lie where registration to the template puts them"
NOT_COVERED = f"deep nuclei: the map covers less than half of them; {UNREFINED}"


class _RefineOutput(TraitedSpec):
    forward = File(desc="moves images to the refined template")
    inverse = File(desc="moves labels of the template to where the nuclei are seen")
    notes = traits.List(traits.Str, desc="warnings about the places of the nuclei")
    facts = traits.Dict(desc="measures of the deformation")


class RefineNuclei(AntsStep):
    """Atlas deformed around the deep nuclei to where the susceptibility map shows them."""

    input_spec = _RefineInput
    output_spec = _RefineOutput

    def compute(self, folder: Path) -> dict[str, Any]:
        """See :func:`qsmals.anatomy.refinement.refine_nuclei`; a deformation that fails its check is not used."""
        from qsmals.anatomy.compute import ants_session
        from qsmals.anatomy.refinement import refine_nuclei
        from qsmals.anatomy.registration import Transform
        from qsmals.anatomy.stages import write_affine

        refined = refine_nuclei(
            read_image(self.inputs.chi),
            read_image(self.inputs.brain),
            read_image(self.inputs.labels),
            template_image(self.inputs.template),
            gre_to_t1w=Path(self.inputs.to_t1w),
            t1w_to_template=Path(self.inputs.to_template),
            compute=self.resources(folder),
        )
        if refined and refined.quality.passed:
            transform, notes = refined.transform, list(refined.quality.warnings)
        else:
            notes = [_not_refined(refined.quality.reasons) if refined else NOT_COVERED]
            with ants_session(self.resources(folder)):
                same = write_affine(np.eye(4), folder / "identity.mat")
            transform = Transform(same, same)
        log_warnings("regions", notes, folder)
        return {
            "forward": str(transform.forward),
            "inverse": str(transform.inverse),
            "notes": notes,
            "facts": refined.quality.measures() if refined else {},
        }


def _not_refined(reasons: Sequence[str]) -> str:
    """A warning about a deformation that failed its check."""
    return f"deep nuclei: their fit to susceptibility is not used ({'; '.join(reasons)}); {UNREFINED}"


class _ResampleInput(AntsInput):
    in_file = File(exists=True, mandatory=True)
    reference = File(exists=True, desc="its grid is that of the result; the template's where not given")
    template = traits.Str("", usedefault=True)
    transforms = traits.List(File(exists=True), desc="from the image towards the reference; none: same coordinates")
    kind = traits.Enum("map", "labels", "mask", "probabilities", usedefault=True)


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
            transforms = [Path(path) for path in self.inputs.transforms or []]
            if self.inputs.kind == "probabilities":
                count, volumes = read_volumes(self.inputs.in_file)
                series = (resample(member, reference, transforms) for member in volumes)
                return {"out_file": write_volumes(series, count, reference, folder / "resampled.nii")}
            if self.inputs.kind == "labels":
                image, numbers = read_labels(self.inputs.in_file)
                moved = resample(image, reference, transforms, labels=True)
                return {"out_file": write_labels(moved, numbers, folder / "resampled.nii")}
            moved = resample(read_image(self.inputs.in_file), reference, transforms)
            if self.inputs.kind == "mask":
                moved = moved.new_image_like((moved.numpy() > 0.5).astype("float32"))
            return {"out_file": write_image(moved, folder / "resampled.nii")}


def read_image(path: str | Path, *, number: int = 0) -> Any:
    """An image as ANTs holds it, one volume of a series."""
    import nibabel as nib

    from qsmals.anatomy.images import to_ants

    loaded = nib.load(path)
    data = volume(np.asanyarray(loaded.dataobj))
    return to_ants(data[..., number] if data.ndim == 4 else data, loaded.affine)


def read_labels(path: str | Path) -> tuple[Any, Any]:
    """A label image as ANTs holds it, and the label of each of its values.

    ANTs holds float32. Where labels are too large for that, as those of the Allen atlases, their ranks are in the
    image; None in place of the labels where it has the labels themselves.
    """
    from qsmals.anatomy.images import EXACT_LABELS, to_ants

    affine, data = affine_of(path), load_labels(path)
    if data.max() < EXACT_LABELS:
        return to_ants(data, affine), None
    numbers, ranks = np.unique(data, return_inverse=True)
    return to_ants(ranks.reshape(data.shape), affine), numbers


def labels_of(ants_image: Any, numbers: Any) -> NDArray[np.int32]:
    """The labels of an image of :func:`read_labels` that was resampled."""
    values = np.rint(ants_image.numpy()).astype(np.int32)
    return values if numbers is None else numbers[values]


def write_labels(ants_image: Any, numbers: Any, path: Path) -> str:
    """Write an image of :func:`read_labels` that was resampled."""
    from qsmals.anatomy.images import from_ants

    return save(labels_of(ants_image, numbers), from_ants(ants_image)[1], path)


def read_volumes(path: str | Path) -> tuple[int, Iterator[Any]]:
    """How many volumes a series has, and each of them as ANTs holds it, read when it is asked for."""
    import nibabel as nib

    from qsmals.anatomy.images import each_volume, to_ants

    loaded: Any = nib.load(path, keep_file_open=True)
    return loaded.shape[3], (to_ants(data, loaded.affine) for data in each_volume(loaded))


def write_volumes(images: Iterable[Any], count: int, reference: Any, path: Path) -> str:
    """Write images on the grid of a reference as a series, each when it comes."""
    from qsmals.anatomy.images import LPS_FROM_RAS, index_to_physical

    return save_series((image.numpy() for image in images), count, LPS_FROM_RAS @ index_to_physical(reference), path)


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
