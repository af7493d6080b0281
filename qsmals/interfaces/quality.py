"""Quality measures of a scan, as a nipype interface."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from nipype.interfaces.base import File, TraitedSpec, isdefined, traits
from numpy.typing import NDArray

from qsmals.interfaces.anatomy import AntsInput, AntsStep, read_image
from qsmals.interfaces.base import affine_of, load, load_echoes, load_labels, load_mask

REGISTRATION_NAMES = {"brain_dice": "overlap", "sharpness": "sharpness"}


class _QualityInput(AntsInput):
    magnitude = File(exists=True, mandatory=True, desc="all echoes")
    phase = File(exists=True, mandatory=True, desc="wrapped phase as scaled, rad, all echoes")
    unwrapped = File(exists=True, mandatory=True, desc="rad, all echoes")
    noise_ppm = File(exists=True, mandatory=True, desc="standard deviation of the total field, ppm")
    chi_ppm = File(exists=True, mandatory=True, desc="referenced susceptibility, ppm")
    brain_mask = File(exists=True, mandatory=True, desc="brain of the T1w image on the GRE grid")
    measured_mask = File(exists=True, mandatory=True, desc="voxels with a susceptibility")
    white_matter = File(exists=True, mandatory=True, desc="white matter away from its border")
    labels = File(exists=True, mandatory=True, desc="regions on the GRE grid, FreeSurfer's numbers")
    table = File(exists=True, mandatory=True, desc="region table of the susceptibility map")
    te_s = traits.List(traits.Float, mandatory=True, desc="echo times, s")
    b0_tesla = traits.Float(mandatory=True)
    atlas = File(exists=True, desc="label image in the template's space")
    initial = File(exists=True, desc="affine of T1w images to the template, found before any mask")
    to_gre = File(exists=True, desc="transform of T1w images to the GRE grid")
    registration_gre = traits.Dict(usedefault=True, desc="quality of the rigid registration")
    registration_templates = traits.List(traits.Dict, desc="quality of each deformable registration")


class _QualityOutput(TraitedSpec):
    out_file = File(desc="measures, their details and definitions, JSON")


class MeasureQuality(AntsStep):
    """All quality measures of one scan."""

    input_spec = _QualityInput
    output_spec = _QualityOutput

    def compute(self, folder: Path) -> dict[str, Any]:
        """See :func:`qsmals.qc.scan.measure_scan`."""
        from qsmals.bids.sidecars import strict_json
        from qsmals.qc.scan import ScanArrays, measure_scan
        from qsmals.recon.grid import Grid
        from qsmals.reports.published import plausible_ranges

        affine = affine_of(self.inputs.brain_mask)
        arrays = ScanArrays(
            magnitude=load_echoes(self.inputs.magnitude),
            phase_rad=load_echoes(self.inputs.phase),
            unwrapped_rad=load_echoes(self.inputs.unwrapped),
            noise_ppm=load(self.inputs.noise_ppm),
            chi_ppm=load(self.inputs.chi_ppm),
            brain=load_mask(self.inputs.brain_mask),
            measured=load_mask(self.inputs.measured_mask),
            white_matter=load_mask(self.inputs.white_matter),
            labels=load_labels(self.inputs.labels),
            expected=self._expected(folder),
        )
        rows = _rows(Path(self.inputs.table))
        found = measure_scan(
            arrays,
            rows,
            te_s=tuple(self.inputs.te_s),
            b0_tesla=self.inputs.b0_tesla,
            grid=Grid.from_affine(arrays.brain.shape, affine),
            ranges_ppb=plausible_ranges(),
        )
        values = {**found.values, **self._registration()}
        centre = None
        if found.jump_voxel is not None:
            centre = [round(float(c), 1) for c in (affine @ [*found.jump_voxel, 1.0])[:3]]
        content = {
            "Measures": values,
            "Details": dict(found.details),
            "Echoes": {name: list(numbers) for name, numbers in found.echoes.items()},
            "JumpCentreMm": centre,
            "Coverage": {_words(row): row["coverage"] for row in rows if np.isfinite(row["coverage"])},
            "Definitions": _definitions(),
        }
        out_file = folder / "quality.json"
        out_file.write_text(json.dumps(strict_json(content), indent=2) + "\n")
        return {"out_file": str(out_file)}

    def _expected(self, folder: Path) -> NDArray[np.int32] | None:
        """The atlas on the GRE grid through the first affine alone."""
        if not (isdefined(self.inputs.atlas) and isdefined(self.inputs.initial) and isdefined(self.inputs.to_gre)):
            return None
        from qsmals.anatomy.compute import ants_session

        with ants_session(self.resources(folder)) as ants:
            moved = ants.apply_transforms(
                read_image(self.inputs.brain_mask),
                read_image(self.inputs.atlas),
                [str(self.inputs.to_gre), str(self.inputs.initial)],
                interpolator="nearestNeighbor",
                whichtoinvert=[False, True],
            )
        from qsmals.anatomy.images import from_ants

        return np.rint(from_ants(moved)[0]).astype(np.int32)

    def _registration(self) -> dict[str, float]:
        """The registrations' own measures, the worst of the templates."""
        values = {f"gre_{name}": _number(self.inputs.registration_gre, key) for key, name in REGISTRATION_NAMES.items()}
        templates = [dict(facts) for facts in self.inputs.registration_templates or []]
        for key, name in REGISTRATION_NAMES.items():
            values[f"template_{name}"] = min((_number(t, key) for t in templates), default=float("nan"))
        values["jacobian_low"] = min((_number(t, "jacobian_low") for t in templates), default=float("nan"))
        values["jacobian_high"] = max((_number(t, "jacobian_high") for t in templates), default=float("nan"))
        return values


def _number(facts: Mapping[str, Any], key: str) -> float:
    value = facts.get(key)
    return float(value) if isinstance(value, int | float) else float("nan")


def _rows(path: Path) -> list[dict[str, Any]]:
    from qsmals.roi.table import read_table

    columns = read_table(path.read_text())
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _words(row: Mapping[str, Any]) -> str:
    side = {"L": "left ", "R": "right "}.get(row["hemisphere"], "")
    return f"{side}{row['name'].replace('_', ' ')}"


def _definitions() -> dict[str, dict[str, str]]:
    """What each measure is, for whoever opens the file without the manual."""
    from qsmals.qc.measures import ECHO_MEASURES, MEASURES

    return {
        name: {"LongName": m.title, "Description": m.definition, "Units": m.unit or "1", "Source": m.source}
        for name, m in (MEASURES | ECHO_MEASURES).items()
    }
