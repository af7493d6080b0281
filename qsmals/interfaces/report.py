"""The figures of the report, as a nipype interface."""

from pathlib import Path
from typing import Any

from nipype.interfaces.base import TraitedSpec, isdefined, traits

from qsmals.interfaces.base import Step, StepInput, log_warnings


class _FiguresInput(StepInput):
    output_dir = traits.Str(mandatory=True, desc="folder of the derivatives")
    subject = traits.Str(mandatory=True, desc="label")
    prefix = traits.Str(mandatory=True, desc="start of the scan's file names")
    run = traits.Str(mandatory=True, desc="folder of the run under the subject's log/")
    age = traits.Float(desc="of the subject, years")
    written = traits.List(traits.Str, desc="outputs that must be there before")


class _FiguresOutput(TraitedSpec):
    n_figures = traits.Int(desc="figures that were drawn")


class DrawFigures(Step):
    """All figures of one scan, from its outputs under their final names."""

    input_spec = _FiguresInput
    output_spec = _FiguresOutput
    _always_run = True

    def compute(self, folder: Path) -> dict[str, Any]:
        """Draw; what could not be drawn is for the page to say, and leaves the scan's results as they are."""
        from qsmals.reports.collect import find_scans
        from qsmals.reports.drawn import draw_figures

        given, n_figures = self.inputs, 0
        scans, faults = find_scans(Path(given.output_dir), given.subject, given.run)
        for scan in scans:
            if scan.prefix == given.prefix:
                figure_dir = Path(given.output_dir) / f"sub-{given.subject}" / "figures"
                age = float(given.age) if isdefined(given.age) else None
                try:
                    shown, more = draw_figures(scan, figure_dir, age=age)
                    n_figures = len(shown)
                    faults += more
                except OSError as error:
                    faults.append(f"{scan.prefix}: the figures cannot be written: {error}")
        log_warnings("report", faults, folder)
        return {"n_figures": n_figures}
