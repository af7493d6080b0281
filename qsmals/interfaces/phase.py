"""From stored images to the total field, as nipype interfaces."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from nipype.interfaces.base import File, TraitedSpec, isdefined, traits
from numpy.typing import NDArray

from qsmals.interfaces.base import (
    Float,
    Step,
    StepInput,
    affine_of,
    load,
    load_echoes,
    load_mask,
    log_warnings,
    save,
    warnings_in,
)

if TYPE_CHECKING:
    from qsmals.recon.grid import Grid

MOST_ECHOES_WITHOUT_MISFIT = 2
"""With one echo, or two and a fitted offset, no misfit of the echoes tells their noise."""

NO_BRAIN = (
    "no voxel of the brain mask has signal in the gradient-echo scan: the registration to the T1w image failed, or the "
    "two do not belong together. Look at both images, and at --brain-extraction if the T1w image is brain-only"
)


class _PrepareInput(StepInput):
    parts = traits.Enum("polar", "cartesian", mandatory=True, desc="what the two lists of files hold")
    first_files = traits.List(File(exists=True), mandatory=True, desc="magnitude, or real part, echo by echo")
    second_files = traits.List(File(exists=True), mandatory=True, desc="phase, or imaginary part, echo by echo")
    units = traits.Str("", usedefault=True, desc="Units of the phase in the sidecars")
    manufacturer = traits.Str("", usedefault=True, desc="Manufacturer in the sidecars")


class _PrepareOutput(TraitedSpec):
    magnitude = File(desc="magnitude of all echoes, 4D")
    phase = File(desc="wrapped phase of all echoes, rad, 4D")
    combined = File(desc="root of the mean square of the magnitudes")
    tissue_mask = File(desc="voxels with signal")
    detected = traits.List(traits.Dict, desc="what was found out about the data")


class PreparePhase(Step):
    """Magnitude and phase in radians from what the scanner stored."""

    input_spec = _PrepareInput
    output_spec = _PrepareOutput

    def compute(self, folder: Path) -> dict[str, Any]:
        """Scale of the phase, alternating slices, tissue mask."""
        from qsmals.recon.field.magnitude import combined_magnitude
        from qsmals.recon.grid import Grid
        from qsmals.recon.mask.robust import robust_mask

        affine = affine_of(self.inputs.first_files[0])
        first = np.stack([load(path) for path in self.inputs.first_files], axis=-1)
        second = np.stack([load(path) for path in self.inputs.second_files], axis=-1)
        detected: list[dict[str, Any]] = []
        if self.inputs.parts == "polar":
            magnitude, phase = np.nan_to_num(first), self._radians(second, detected)
        else:
            magnitude, phase = np.hypot(first, second), np.arctan2(second, first)
            detected.append({"what": "phase scale", "found": "real and imaginary part", "evidence": "part- entities"})
        phase = _straighten_slices(magnitude, phase, detected)
        mask = robust_mask(magnitude[..., 0], grid=Grid.from_affine(magnitude.shape, affine))
        log_warnings("phase", warnings_in(detected), folder)
        return {
            "magnitude": save(magnitude, affine, folder / "magnitude.nii"),
            "phase": save(phase, affine, folder / "phase.nii"),
            "combined": save(combined_magnitude(magnitude), affine, folder / "combined.nii"),
            "tissue_mask": save(mask, affine, folder / "tissue_mask.nii"),
            "detected": detected,
        }

    def _radians(self, stored: Float, detected: list[dict[str, Any]]) -> Float:
        from qsmals.recon.phase.scaling import describe_values, detect_phase_scale, phase_to_radians

        values = describe_values(np.moveaxis(stored, -1, 0))
        scale = detect_phase_scale(
            values, units=self.inputs.units or None, manufacturer=self.inputs.manufacturer or None
        )
        found: dict[str, Any] = {
            "what": "phase scale",
            "found": f"{values.minimum:g} to {values.maximum:g}, times {scale.factor:.6g} rad",
            "evidence": scale.source,
        }
        if scale.warning:
            found |= {"warning": True, "evidence": f"{scale.source}; {scale.warning}"}
        detected.append(found)
        return phase_to_radians(stored, scale)


def _straighten_slices(magnitude: Float, phase: Float, detected: list[dict[str, Any]]) -> Float:
    """Phase without the alternating sign that some scanners leave between slices."""
    from qsmals.recon.phase.slices import detect_alternating_slices, undo_alternating_slices

    axis = detect_alternating_slices((magnitude[..., 0] * np.exp(1j * phase[..., 0])).astype(np.complex64))
    found = "none" if axis is None else f"every second slice along axis {axis} (0 is the first)"
    detected.append({"what": "slice alternation", "found": found, "evidence": "phase step between neighbours"})
    if axis is None:
        return phase
    # of unit length, so that voxels without magnitude keep their phase; one echo at a time, for the memory
    turned = [undo_alternating_slices(np.exp(1j * phase[..., e]), axis) for e in range(phase.shape[3])]
    return np.stack([np.angle(signal).astype(np.float32) for signal in turned], axis=-1)


class _OffsetInput(StepInput):
    magnitude = File(exists=True, mandatory=True, desc="all echoes")
    phase = File(exists=True, mandatory=True, desc="wrapped, rad, all echoes")
    mask = File(exists=True, mandatory=True, desc="voxels with signal")
    brain_mask = File(exists=True, desc="where the offset is estimated; all voxels with signal without it")
    te_s = traits.List(traits.Float, mandatory=True, desc="echo times, s")
    readout = traits.Enum("auto", "monopolar", "bipolar", usedefault=True)
    method = traits.Str(mandatory=True)
    parameters = traits.Dict(usedefault=True)


class _OffsetOutput(TraitedSpec):
    phase = File(desc="wrapped, rad, proportional to echo time")
    detected = traits.List(traits.Dict)


class RemovePhaseOffset(Step):
    """Coil phase offset and, for bipolar readouts, the even-odd phase."""

    input_spec = _OffsetInput
    output_spec = _OffsetOutput

    def compute(self, folder: Path) -> dict[str, Any]:
        """See :mod:`qsmals.recon.phase.mcpc3ds`."""
        from qsmals.recon.grid import Grid
        from qsmals.recon.phase import PHASE_OFFSET

        affine = affine_of(self.inputs.phase)
        phase, magnitude = load_echoes(self.inputs.phase), load_echoes(self.inputs.magnitude)
        mask = load_mask(self.inputs.mask)
        grid = Grid.from_affine(phase.shape, affine)
        te_s = tuple(self.inputs.te_s)
        brain = load_mask(self.inputs.brain_mask) if isdefined(self.inputs.brain_mask) else mask
        if not (mask & brain).any():
            raise ValueError(NO_BRAIN)
        bipolar, detected = self._polarity(phase, magnitude, te_s, mask & brain, grid)
        if len(te_s) > 1:
            method = PHASE_OFFSET[self.inputs.method]
            phase = method.function(
                phase,
                magnitude=magnitude,
                te_s=te_s,
                mask=mask,
                grid=grid,
                bipolar=bipolar,
                params=method.make_parameters(self.inputs.parameters),
                brain_mask=brain,
            ).phase_rad
        log_warnings("phase", warnings_in([detected]), folder)
        return {"phase": save(phase, affine, folder / "phase.nii"), "detected": [detected]}

    def _polarity(
        self, phase: Float, magnitude: Float, te_s: tuple[float, ...], mask: NDArray[np.bool_], grid: Any
    ) -> tuple[bool, dict[str, Any]]:
        from qsmals.recon.phase.bipolar import detect_bipolar

        asked = self.inputs.readout
        if len(te_s) < 3:
            return False, _untold_polarity(len(te_s), asked)
        check = detect_bipolar(phase, magnitude=magnitude, te_s=te_s, mask=mask, grid=grid)
        bipolar = check.bipolar if asked == "auto" else asked == "bipolar"
        evidence = f"median phase of even beyond odd echoes {check.even_odd_rad:.3f} rad"
        note: dict[str, Any] = {"what": "readout", "found": "bipolar" if bipolar else "monopolar", "evidence": evidence}
        if asked != "auto":
            note["evidence"] += "; set by --readout"
            note["warning"] = bipolar != check.bipolar
        return bipolar, note


def _untold_polarity(n_echoes: int, asked: str) -> dict[str, Any]:
    """The note about a readout with too few echoes to see its polarity or to correct it."""
    note: dict[str, Any] = {
        "what": "readout",
        "found": "monopolar assumed",
        "evidence": "fewer than three echoes do not tell",
    }
    if asked == "bipolar" and n_echoes == 2:
        note["found"] = "bipolar, NOT corrected"
        note["evidence"] = (
            "set by --readout; a bipolar readout with two echoes cannot be corrected, because nothing tells "
            "the even echo's own phase from the field's: the susceptibility may be wrong"
        )
        note["warning"] = True
    elif asked != "auto":
        note |= {"found": asked, "evidence": "set by --readout"}
        note["evidence"] += "; one echo needs no correction" if n_echoes == 1 else ""
    return note


class _UnwrapInput(StepInput):
    magnitude = File(exists=True, mandatory=True)
    phase = File(exists=True, mandatory=True, desc="wrapped, rad, proportional to echo time")
    mask = File(exists=True, mandatory=True)
    te_s = traits.List(traits.Float, mandatory=True)
    method = traits.Str(mandatory=True)
    parameters = traits.Dict(usedefault=True)


class _UnwrapOutput(TraitedSpec):
    phase = File(desc="unwrapped, rad")
    quality = File(desc="0..1")


class UnwrapPhase(Step):
    """Unwrapping by the method named."""

    input_spec = _UnwrapInput
    output_spec = _UnwrapOutput

    def compute(self, folder: Path) -> dict[str, Any]:
        """See :mod:`qsmals.recon.unwrap`."""
        from qsmals.recon.unwrap import UNWRAP

        method = UNWRAP[self.inputs.method]
        affine = affine_of(self.inputs.phase)
        unwrapped = method.function(
            load_echoes(self.inputs.phase),
            magnitude=load_echoes(self.inputs.magnitude),
            te_s=tuple(self.inputs.te_s),
            mask=load_mask(self.inputs.mask),
            params=method.make_parameters(self.inputs.parameters),
        )
        return {
            "phase": save(unwrapped.phase_rad, affine, folder / "unwrapped.nii"),
            "quality": save(unwrapped.quality, affine, folder / "quality.nii"),
        }


def _interpolation(steps: tuple[int, int, int]) -> list[dict[str, Any]]:
    """The note about interpolated images; none of images as measured."""
    if max(steps) == 1:
        return []
    found = f"{' × '.join(map(str, steps))} stored voxels to a measured one"
    return [{"what": "interpolation", "found": found, "evidence": "power of the brain's k-space drops inside it"}]


class _FieldInput(StepInput):
    magnitude = File(exists=True, mandatory=True)
    phase = File(exists=True, mandatory=True, desc="unwrapped, rad")
    mask = File(exists=True, mandatory=True)
    brain_mask = File(exists=True, desc="where the phase's sign is looked for; deep in the tissue without it")
    given = File(exists=True, desc="total field that another run made, Hz, 0 where it is unknown")
    te_s = traits.List(traits.Float, mandatory=True)
    b0_tesla = traits.Float(mandatory=True)
    sign = traits.Enum("auto", "positive", "negative", usedefault=True)
    method = traits.Str(mandatory=True)
    parameters = traits.Dict(usedefault=True)


class _FieldOutput(TraitedSpec):
    field_ppm = File(desc="total field, ppm, paramagnetic positive")
    noise_ppm = File(desc="standard deviation of the total field, ppm")
    detected = traits.List(traits.Dict)


class EstimateField(Step):
    """Total field with its noise, paramagnetic positive whatever the scanner's convention."""

    input_spec = _FieldInput
    output_spec = _FieldOutput

    def compute(self, folder: Path) -> dict[str, Any]:
        """See :mod:`qsmals.recon.field` and :mod:`qsmals.recon.phase.sign`."""
        from qsmals.recon.field import FIELD
        from qsmals.recon.field.total import measured_voxels
        from qsmals.recon.grid import Grid
        from qsmals.recon.mask.robust import without_cavities

        method = FIELD[self.inputs.method]
        affine = affine_of(self.inputs.phase)
        mask, magnitude = load_mask(self.inputs.mask), load_echoes(self.inputs.magnitude)
        grid = Grid.from_affine(mask.shape, affine)
        phase = load_echoes(self.inputs.phase)
        steps = self._acquired_steps(phase, magnitude, mask, grid)
        total = method.function(
            phase,
            magnitude=magnitude,
            te_s=tuple(self.inputs.te_s),
            mask=mask,
            b0_tesla=self.inputs.b0_tesla,
            params=method.make_parameters(self.inputs.parameters),
            acquired_steps=steps,
        )
        sign, note = self._sign(total.field_ppm, without_cavities(mask, magnitude[..., 0], grid=grid), grid)
        log_warnings("phase", warnings_in([note]), folder)
        field_ppm = np.float32(sign) * total.field_ppm
        if isdefined(self.inputs.given):
            field_ppm = self._given(field_ppm, mask, measured_voxels(total.field_ppm, total.noise_ppm))
            note["evidence"] += f"; the total field is that of {self.inputs.given}"
        return {
            "field_ppm": save(field_ppm, affine, folder / "total_field.nii"),
            "noise_ppm": save(total.noise_ppm, affine, folder / "noise.nii"),
            "detected": [note, *_interpolation(steps)],
        }

    def _acquired_steps(
        self, phase: Float, magnitude: Float, mask: NDArray[np.bool_], grid: "Grid"
    ) -> tuple[int, int, int]:
        """Stored voxels to a measured one, where the field's noise is that of the magnitude: of few echoes."""
        from qsmals.recon.field.resolution import AS_STORED, acquired_steps

        if len(self.inputs.te_s) > MOST_ECHOES_WITHOUT_MISFIT:
            return AS_STORED
        brain = mask & load_mask(self.inputs.brain_mask) if isdefined(self.inputs.brain_mask) else mask
        return acquired_steps(magnitude[..., 0], phase[..., 0], brain, voxel_size_mm=grid.voxel_size_mm)

    def _given(self, own_ppm: Float, mask: NDArray[np.bool_], measured: NDArray[np.bool_]) -> Float:
        """The given field in ppm; where it is 0 or not finite, the scan's own, shifted to the same level, if any."""
        from qsmals.recon.constants import GAMMA_BAR_MHZ_PER_TESLA

        given = load(self.inputs.given) / np.float32(GAMMA_BAR_MHZ_PER_TESLA * self.inputs.b0_tesla)
        known = np.isfinite(given) & (given != 0)
        if given.shape != own_ppm.shape or not (known & mask).any():
            raise ValueError(f"the total field {self.inputs.given} is empty or not on the grid of the scan")
        level = np.float32(np.median((given - own_ppm)[known & mask]))
        return np.where(known, given, np.where(measured, own_ppm + level, 0)).astype(np.float32)

    def _sign(self, field_ppm: Float, tissue: NDArray[np.bool_], grid: "Grid") -> tuple[int, dict[str, Any]]:
        from qsmals.recon.phase.sign import PhaseSign, detect_phase_sign

        asked = {"positive": 1, "negative": -1}.get(self.inputs.sign)
        try:
            brain = load_mask(self.inputs.brain_mask) if isdefined(self.inputs.brain_mask) else None
            found = detect_phase_sign(field_ppm, tissue_mask=tissue, brain_mask=brain, grid=grid)
        except ValueError:
            if asked is None:
                raise
            found = PhaseSign(sign=asked, correlation=0.0, confident=False)
        sign = asked or (found.sign if found.confident else 1)
        note: dict[str, Any] = {
            "what": "phase sign",
            "found": "stored phase grows with the field" if sign > 0 else "stored phase falls with the field: turned",
            "evidence": f"correlation with the field of a head in air {found.correlation:+.2f}",
            "confident": bool(found.confident),
        }
        if asked:
            note["evidence"] += "; set by --phase-sign"
            note["warning"] = bool(found.confident and found.sign != asked)
        elif not found.confident:
            note["evidence"] += ", too weak to tell: taken as stored; check the map, or give --phase-sign"
            note["warning"] = True
        return sign, note
