"""From total field to referenced susceptibility, and relaxometry, as nipype interfaces."""

from collections.abc import Callable, Mapping
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
from nipype.interfaces.base import File, TraitedSpec, isdefined, traits

from qsmals.interfaces.base import (
    Bool,
    Float,
    Step,
    StepInput,
    affine_of,
    load,
    load_echoes,
    load_labels,
    load_mask,
    log_warnings,
    save,
    warnings_in,
)

BACKGROUND_NOT_CONVERGED = "background field removal stopped at its largest number of iterations before its tolerance"
LARGEST_NOISY_SHARE = 0.1
"""Design choice: on simulated heads the default mask stays far below it, and a mask of the whole head is above."""
NOISY_SURROUNDINGS = (
    "{percent:.0f} % of the voxels from which the background is removed have a field of little worth, and the maps may "
    "be wrong; --mask brain-and-quality leaves them out"
)
LARGEST_UNMEASURED_SHARE = 0.01
"""Design choice: from this share of the mask left out on, the log tells as well."""
NOT_CONVERGED = "the dipole inversion stopped at its largest number of iterations before its tolerance"


class _MaskInput(StepInput):
    brain_mask = File(exists=True, mandatory=True, desc="brain on the GRE grid")
    quality = File(exists=True, mandatory=True, desc="phase quality, 0..1")
    magnitude = File(exists=True, mandatory=True, desc="magnitude of all echoes")
    field_ppm = File(exists=True, mandatory=True, desc="total field, ppm")
    method = traits.Str(mandatory=True)
    parameters = traits.Dict(usedefault=True)


class _MaskOutput(TraitedSpec):
    brain_mask = File(desc="where susceptibility is reported")
    reliable_mask = File(desc="where the field is used: the brain and its surroundings with reliable phase")
    quality_mask = File(desc="voxels whose own phase is reliable")
    facts = traits.Dict(desc="threshold and sizes")


class MakeFieldMasks(Step):
    """Brain and reliable masks by the method named."""

    input_spec = _MaskInput
    output_spec = _MaskOutput

    def compute(self, folder: Path) -> dict[str, Any]:
        """See :mod:`qsmals.recon.mask`."""
        from qsmals.recon.grid import Grid
        from qsmals.recon.mask import MASK

        method = MASK[self.inputs.method]
        affine = affine_of(self.inputs.brain_mask)
        brain = load_mask(self.inputs.brain_mask)
        grid = Grid.from_affine(brain.shape, affine)
        masks = method.function(
            brain,
            quality=load(self.inputs.quality),
            magnitude=load_echoes(self.inputs.magnitude),
            grid=grid,
            field_ppm=load(self.inputs.field_ppm),
            params=method.make_parameters(self.inputs.parameters),
        )
        voxel_ml = float(np.prod(grid.voxel_size_mm)) / 1000
        return {
            "brain_mask": save(masks.brain, affine, folder / "brain_mask.nii"),
            "reliable_mask": save(masks.reliable, affine, folder / "reliable_mask.nii"),
            "quality_mask": save(masks.quality, affine, folder / "quality_mask.nii"),
            "facts": {
                "source": method.title,
                "volume_ml": round(float(masks.brain.sum()) * voxel_ml, 1),
                "dropped_percent": round(100 * (1 - float(masks.brain.sum()) / float(brain.sum())), 2),
                "quality_threshold": round(float(masks.quality_threshold), 3),
                **({"threshold_rule": masks.threshold_rule} if masks.threshold_rule else {}),
                **({"rough_ml": round(masks.n_rough * voxel_ml, 1)} if masks.n_rough else {}),
            },
        }


class _BackgroundInput(StepInput):
    field_ppm = File(exists=True, mandatory=True, desc="total field, ppm")
    noise_ppm = File(exists=True, mandatory=True, desc="standard deviation of the total field, ppm")
    brain_mask = File(exists=True, mandatory=True, desc="brain as far as its field is reliable")
    reliable_mask = File(exists=True, mandatory=True, desc="brain and surroundings with a reliable field")
    method = traits.Str(mandatory=True)
    parameters = traits.Dict(usedefault=True)


class _BackgroundOutput(TraitedSpec):
    local_field_ppm = File(desc="local field, ppm")
    mask = File(desc="where the local field is known")
    known_mask = File(desc="where it is known up to a function that is harmonic in the mask")
    detected = traits.List(traits.Dict, desc="voxels without a measurement, and what an iterative method reached")


class RemoveBackground(Step):
    """Background field removal by the method named."""

    input_spec = _BackgroundInput
    output_spec = _BackgroundOutput

    def compute(self, folder: Path) -> dict[str, Any]:
        """See :mod:`qsmals.recon.background`; voxels without a measured field are no part of any mask."""
        from qsmals.recon.background import BACKGROUND
        from qsmals.recon.background.gaps import bridge_gaps
        from qsmals.recon.field.total import measured_voxels
        from qsmals.recon.field.weights import inverse_noise
        from qsmals.recon.grid import Grid

        method = BACKGROUND[self.inputs.method]
        affine = affine_of(self.inputs.field_ppm)
        brain, noise = load_mask(self.inputs.brain_mask), load(self.inputs.noise_ppm)
        mask = load_mask(self.inputs.reliable_mask) if method.beyond_brain else brain
        field_ppm, grid = load(self.inputs.field_ppm), Grid.from_affine(mask.shape, affine)
        bridged = bridge_gaps(field_ppm, mask=mask, measured=measured_voxels(field_ppm, noise), grid=grid)
        missing, mask = _unmeasured(bridged, int(mask.sum())), bridged.mask
        local = method.function(
            bridged.field_ppm,
            mask=mask,
            grid=grid,
            weights=inverse_noise(noise, mask),
            params=method.make_parameters(self.inputs.parameters),
        )
        warnings = _noise_warnings(noise, mask, brain)
        if local.convergence is not None and not local.convergence.converged:
            warnings.append(BACKGROUND_NOT_CONVERGED)
        warnings += warnings_in(missing)
        log_warnings("background", warnings, folder)
        return {
            "local_field_ppm": save(local.field_ppm, affine, folder / "local_field.nii"),
            "mask": save(local.mask, affine, folder / "mask.nii"),
            "known_mask": save(local.mask if local.known is None else local.known, affine, folder / "known.nii"),
            "detected": [*missing, *_reached(local.convergence)],
        }


class _CommonInversionInput(StepInput):
    noise_ppm = File(exists=True, mandatory=True, desc="standard deviation of the total field, ppm")
    mask = File(exists=True, mandatory=True, desc="where the field is known")
    magnitude = File(exists=True, desc="magnitude of all echoes, for methods that take edges from it")
    r2star_hz = File(exists=True, desc="R2*, 1/s, for methods that find fluid by it")
    brain_mask = File(exists=True, desc="brain as far as its field is reliable; without it the whole mask is brain")
    method = traits.Str(mandatory=True)
    parameters = traits.Dict(usedefault=True)


class _InversionInput(_CommonInversionInput):
    local_field_ppm = File(exists=True, mandatory=True, desc="local field, ppm")
    known_mask = File(exists=True, desc="where a method that finds background itself can start from the local field")
    detected_background = traits.List(traits.Dict, usedefault=True, desc="what background field removal reached")


class _InversionOutput(TraitedSpec):
    chi_ppm = File(desc="susceptibility, ppm, up to a constant")
    local_field_ppm = File(desc="local field, ppm; of a method that finds background itself without that")
    mask = File(desc="where susceptibility was found")
    detected = traits.List(traits.Dict, desc="what the method took from the data")
    facts = traits.Dict(desc="iterations, the change that they reached, and notes")


class InvertDipole(Step):
    """Dipole inversion by the method named."""

    input_spec = _InversionInput
    output_spec = _InversionOutput

    def compute(self, folder: Path) -> dict[str, Any]:
        """See :mod:`qsmals.recon.inversion`, and :func:`qsmals.recon.inversion.solution.brain_field`."""
        from qsmals.recon.background.local import LocalField

        known = load_mask(self.inputs.known_mask) if isdefined(self.inputs.known_mask) else None
        removed = LocalField(load(self.inputs.local_field_ppm), load_mask(self.inputs.mask), known=known)
        both = finds_background(self.inputs.method)
        mask, apart = removed.to_invert(finds_background=both)
        solution, found = self._solution(removed.field_ppm, mask, **apart)
        local = self._brain_field(solution, found) if both else removed.field_ppm
        results = self._saved(solution, found, local, folder)
        return results | {"detected": [*map(dict, self.inputs.detected_background), *results["detected"]]}

    def _brain_field(self, solution: Any, measured: Bool) -> Float:
        """Local field of the brain, as far as it was measured."""
        from qsmals.recon.grid import Grid
        from qsmals.recon.inversion.solution import brain_field

        if isdefined(self.inputs.brain_mask):
            measured = measured & load_mask(self.inputs.brain_mask)
        return brain_field(solution, measured, Grid.from_affine(measured.shape, affine_of(self.inputs.mask)))

    def _solution(self, field_ppm: Float, mask: Bool, **apart: Bool) -> tuple[Any, Bool]:
        """What the method finds in a field on the mask, and where."""
        from qsmals.recon.field.weights import inverse_noise
        from qsmals.recon.grid import Grid
        from qsmals.recon.inversion import INVERSION

        method = INVERSION[self.inputs.method]
        solution = method.function(
            field_ppm,
            mask=mask,
            grid=Grid.from_affine(mask.shape, affine_of(self.inputs.mask)),
            weights=inverse_noise(load(self.inputs.noise_ppm), mask),
            params=method.make_parameters(self.inputs.parameters),
            **apart,
            **self._images(method.function),
        )
        return solution, mask if solution.mask is None else solution.mask

    def _saved(self, solution: Any, found: Bool, local_ppm: Float, folder: Path) -> dict[str, Any]:
        affine, reached = affine_of(self.inputs.mask), solution.convergence
        notes = [*([] if reached.converged else [NOT_CONVERGED]), *solution.notes]
        log_warnings("inversion", notes, folder)
        return {
            "chi_ppm": save(solution.chi_ppm, affine, folder / "chi.nii"),
            "local_field_ppm": save(local_ppm, affine, folder / "local_field.nii"),
            "mask": save(found, affine, folder / "found.nii"),
            "detected": _adapted(solution.adapted, solution.adapted_to),
            "facts": {
                "iterations": reached.iterations,
                "relative_change": reached.reached,
                "tolerance": reached.tolerance,
                "converged": reached.converged,
                "notes": list(solution.notes),
            },
        }

    def _images(self, function: Callable[..., Any]) -> dict[str, Any]:
        """Noise, combined magnitude and R2* for a method that has a use for them (weak-harmonic, MEDI, MEDI+0)."""
        from qsmals.recon.field.magnitude import combined_magnitude

        found: dict[str, Any] = {}
        wanted = signature(function).parameters
        if "noise_ppm" in wanted:
            found["noise_ppm"] = load(self.inputs.noise_ppm)
        if "magnitude" in wanted and isdefined(self.inputs.magnitude):
            found["magnitude"] = combined_magnitude(load_echoes(self.inputs.magnitude))
        if "r2star_hz" in wanted and isdefined(self.inputs.r2star_hz):
            found["r2star_hz"] = load(self.inputs.r2star_hz)
        return found


class _SingleStepInput(_CommonInversionInput):
    field_ppm = File(exists=True, mandatory=True, desc="total field, ppm")


class InvertTotalField(InvertDipole):
    """Susceptibility from the total field by the method named, without background field removal."""

    input_spec = _SingleStepInput
    output_spec = _InversionOutput

    def compute(self, folder: Path) -> dict[str, Any]:
        """See :mod:`qsmals.recon.inversion`; the local field is that of the map, for there is no other."""
        mask = load_mask(self.inputs.mask)
        if isdefined(self.inputs.brain_mask):
            brain = load_mask(self.inputs.brain_mask)
            log_warnings("inversion", _noise_warnings(load(self.inputs.noise_ppm), mask, brain), folder)
        solution, found = self._solution(load(self.inputs.field_ppm), mask)
        return self._saved(solution, found, self._brain_field(solution, found), folder)


def _noise_warnings(noise_ppm: Float, mask: Any, brain: Any) -> list[str]:
    """Whether much of the field from which background and susceptibility are found is noise."""
    from qsmals.recon.field.weights import noisy_share

    share = noisy_share(noise_ppm, mask, brain)
    return [NOISY_SURROUNDINGS.format(percent=100 * share)] if share > LARGEST_NOISY_SHARE else []


def _unmeasured(bridged: Any, n_mask: int) -> list[dict[str, Any]]:
    """Voxels of the mask without a measured field, as a line for report and sidecar; none where all were measured."""
    if not bridged.n_left_out + bridged.n_bridged:
        return []
    entry = {
        "what": "voxels without phase",
        "found": f"{bridged.n_left_out} of {n_mask} of the mask left out, {bridged.n_bridged} in gaps bridged",
        "evidence": "outside the tissue, or without magnitude or phase",
    }
    return [entry | {"warning": True} if bridged.n_left_out > LARGEST_UNMEASURED_SHARE * n_mask else entry]


def _reached(convergence: Any) -> list[dict[str, Any]]:
    """What background field removal reached, as a line for report and sidecar; none of a method without iterations."""
    if convergence is None:
        return []
    found = f"{convergence.iterations} iterations to a relative residual of {convergence.reached:.2g}"
    asked = f"tolerance {convergence.tolerance:g}"
    entry = {"what": "background field removal", "found": found, "evidence": asked}
    return [entry if convergence.converged else entry | {"warning": True}]


def _adapted(adapted: Mapping[str, float], evidence: str) -> list[dict[str, str]]:
    """Parameters that followed the data, and what they followed in the method's words, for report and sidecar."""
    words = {name.rpartition("_"): value for name, value in adapted.items()}
    found = ", ".join(f"{name.replace('_', ' ')} {value:.3g} {unit}" for (name, _, unit), value in words.items())
    return [{"what": "dipole inversion", "found": found, "evidence": evidence}] if found else []


def finds_background(inversion: str) -> bool:
    """Whether an inversion finds background as well, so that the local field comes from it."""
    from qsmals.recon.inversion import INVERSION

    return INVERSION[inversion].finds_background


class _RelaxometryInput(StepInput):
    magnitude = File(exists=True, mandatory=True, desc="magnitude of all echoes")
    mask = File(exists=True, mandatory=True, desc="where to fit")
    te_s = traits.List(traits.Float, mandatory=True, desc="echo times, s")
    method = traits.Str(mandatory=True)
    parameters = traits.Dict(usedefault=True)


class _RelaxometryOutput(TraitedSpec):
    r2star_hz = File(desc="R2*, 1/s")
    t2star_s = File(desc="T2*, s")
    s0 = File(desc="magnitude at echo time 0")
    method = traits.Str(desc="method used: log-linear where echo spacings rule out the ARLO asked for")


class FitRelaxation(Step):
    """R2*, T2* and S0 by the method named."""

    input_spec = _RelaxometryInput
    output_spec = _RelaxometryOutput

    def compute(self, folder: Path) -> dict[str, Any]:
        """See :mod:`qsmals.recon.relaxometry`."""
        from qsmals.recon.relaxometry import RELAXOMETRY

        method = RELAXOMETRY[self._usable_method(folder)]
        affine = affine_of(self.inputs.magnitude)
        maps = method.function(
            load_echoes(self.inputs.magnitude),
            te_s=tuple(self.inputs.te_s),
            mask=load_mask(self.inputs.mask),
            # those of the method asked for mean nothing to one that stands in for it
            params=method.make_parameters(self.inputs.parameters if method.name == self.inputs.method else {}),
        )
        return {
            "r2star_hz": save(maps.r2star_hz, affine, folder / "r2star.nii"),
            "t2star_s": save(maps.t2star_s, affine, folder / "t2star.nii"),
            "s0": save(maps.s0, affine, folder / "s0.nii"),
            "method": method.name,
        }

    def _usable_method(self, folder: Path) -> str:
        """The method asked for, or the log-linear fit where echo spacings rule out ARLO."""
        from qsmals.recon.relaxometry.arlo import spacing_allows_arlo

        asked = str(self.inputs.method)
        if asked != "arlo" or spacing_allows_arlo(self.inputs.te_s):
            return asked
        times = ", ".join(f"{1000 * te:g}" for te in self.inputs.te_s)
        why = f"relaxometry: the echo spacings are too uneven for ARLO (TE {times} ms); the log-linear fit was used"
        log_warnings("relaxometry", [why], folder)
        return "log-linear"


class _ReferenceInput(StepInput):
    chi_ppm = File(exists=True, mandatory=True, desc="susceptibility, ppm, up to a constant")
    mask = File(exists=True, mandatory=True, desc="where susceptibility was found")
    brain_mask = File(exists=True, mandatory=True, desc="where it is reported")
    labels = File(exists=True, mandatory=True, desc="regions on the GRE grid, FreeSurfer's numbers")
    region = traits.Enum("brain", "csf", "wm", usedefault=True, desc="region whose mean is zero")


class _ReferenceOutput(TraitedSpec):
    chi_ppm = File(desc="susceptibility, ppm, 0 outside the measured mask")
    measured_mask = File(desc="brain voxels with a susceptibility")
    white_matter = File(desc="white matter away from its border")
    facts = traits.Dict(desc="reference region; offsets to whole brain, CSF and white matter, ppm")
    sidecar = traits.Dict(desc="the same for the sidecar of the map")


class ReferenceSusceptibility(Step):
    """Shift the map to its reference region and say where the other regions lie."""

    input_spec = _ReferenceInput
    output_spec = _ReferenceOutput

    def compute(self, folder: Path) -> dict[str, Any]:
        """See :mod:`qsmals.recon.reference`."""
        from qsmals.recon.reference import (
            DEFINITIONS,
            WHITE_MATTER,
            reference_offsets,
            reference_regions,
            reference_to,
            region_core,
        )

        affine = affine_of(self.inputs.chi_ppm)
        measured = load_mask(self.inputs.mask) & load_mask(self.inputs.brain_mask)
        labels = load_labels(self.inputs.labels)
        chi, _ = reference_to(load(self.inputs.chi_ppm), measured)
        offsets = reference_offsets(chi, reference_regions(labels, measured))
        chosen = offsets[self.inputs.region]
        if chosen.mean_ppm is None:
            raise ValueError(f"no reference to {self.inputs.region}: {chosen.reason}; use --reference brain")
        chi = np.where(measured, chi - np.float32(chosen.mean_ppm), np.float32(0))
        shift = {name: None if o.mean_ppm is None else o.mean_ppm - chosen.mean_ppm for name, o in offsets.items()}
        return {
            "chi_ppm": save(chi, affine, folder / "chi.nii"),
            "measured_mask": save(measured, affine, folder / "measured.nii"),
            "white_matter": save(region_core(labels, WHITE_MATTER), affine, folder / "white_matter.nii"),
            "facts": {
                "region": self.inputs.region,
                "offsets_ppm": shift,
                "sd_ppm": {name: o.sd_ppm for name, o in offsets.items()},
                "n_voxels": {name: o.n_voxels for name, o in offsets.items()},
                "unavailable": {name: o.reason for name, o in offsets.items() if o.reason},
            },
            "sidecar": {
                "ReferenceRegion": {
                    "Region": self.inputs.region,
                    "OffsetsPpm": shift,
                    "StandardDeviationsPpm": {name: o.sd_ppm for name, o in offsets.items()},
                    "Definitions": dict(DEFINITIONS),
                }
            },
        }
