"""``qsmals-simulate``: write a simulated BIDS data set whose truth is known."""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qsmals import __version__

EXIT_OK, EXIT_USAGE = 0, 2
_AXES = {"x": (1.0, 0.0, 0.0), "y": (0.0, 1.0, 0.0), "z": (0.0, 0.0, 1.0)}


def parser() -> argparse.ArgumentParser:
    """The command line; an option that is not given leaves the setting's own default."""
    p = argparse.ArgumentParser(
        prog="qsmals-simulate",
        description="Simulate multi-echo gradient echo and T1w scans of people with known susceptibility, as BIDS.",
        argument_default=argparse.SUPPRESS,
    )
    p.add_argument(
        "output_dir", type=Path, metavar="OUTPUT_DIR", help="new folder, or an earlier simulation, which is replaced"
    )
    p.add_argument("--version", action="version", version=f"qsmals-simulate {__version__}")
    p.add_argument("--small", action="store_true", help="a coarse quick head for tests: 1 subject, 3 mm, 4 echoes")
    _add_people(p.add_argument_group("people"))
    _add_scanner(p.add_argument_group("scanner"))
    return p


def _add_people(g: Any) -> None:
    g.add_argument("--participants", type=int, metavar="N", help="number of people, control and ALS in turn (2)")
    g.add_argument("--sessions", nargs="+", metavar="LABEL", help="session labels (none)")
    g.add_argument("--seed", type=int, help="equal seeds give equal files (0)")
    g.add_argument("--als-effect-ppb", type=float, metavar="PPB", help="added to the motor cortex in ALS (5)")
    g.add_argument("--deformation-mm", type=float, metavar="MM", help="how much heads differ in shape (3)")
    g.add_argument("--t1w", type=Path, metavar="FILE", help="T1w of a real head in place of the packaged template")
    g.add_argument("--segmentation", type=Path, metavar="FILE", help="its FreeSurfer aparc+aseg, on the same grid")


def _add_scanner(g: Any) -> None:
    g.add_argument("--field-strength", type=float, metavar="TESLA", dest="field_strength_tesla", help="(3)")
    g.add_argument("--echo-times-ms", type=float, nargs="+", metavar="MS", help="(4 9 14 19 24 29)")
    g.add_argument("--repetition-time-ms", type=float, metavar="MS", help="(6 ms after the last echo)")
    g.add_argument("--flip-angle-deg", type=float, metavar="DEG", help="(15)")
    g.add_argument("--voxel-size-mm", type=float, nargs=3, metavar=("X", "Y", "Z"), help="(1 1 1)")
    g.add_argument(
        "--simulation-voxel-size",
        type=float,
        metavar="MM",
        dest="simulation_voxel_size_mm",
        help="coarsest grid for the physics (the voxel size of the anatomy)",
    )
    g.add_argument("--tilt-deg", type=float, metavar="DEG", help="tilt of head and slab in the scanner (0)")
    g.add_argument("--tilt-axis", choices=sorted(_AXES), help="axis of the tilt: x nods, y leans, z turns (x)")
    g.add_argument("--vendor", choices=("siemens", "ge", "philips"), help="how images are stored (siemens)")
    g.add_argument("--readout", choices=("monopolar", "bipolar"), help="(monopolar)")
    g.add_argument("--readout-shift-voxels", type=float, metavar="N", help="shift of even echoes, bipolar only (0)")
    g.add_argument("--snr", type=float, help="peak signal-to-noise ratio of the first echo in the brain (80)")
    g.add_argument("--motion-mm", type=float, metavar="MM", help="translation between MEGRE and T1w (1)")
    g.add_argument("--motion-deg", type=float, metavar="DEG", help="rotation between MEGRE and T1w (1)")
    g.add_argument("--extent", choices=("head", "brain"), help="what the field of view holds (head)")
    g.add_argument("--slab-mm", type=float, metavar="MM", help="height of the slab (all of the extent)")


def settings_from(options: dict[str, Any]) -> Any:
    """Settings of a simulation from parsed options; raises ValueError for impossible ones."""
    from dataclasses import replace

    from qsmals.bids.phantom import small
    from qsmals.simulate.subject import SimulationSettings

    values = dict(options)
    base = small(SimulationSettings()) if values.pop("small", False) else SimulationSettings()
    if "echo_times_ms" in values:
        values["echo_times_s"] = tuple(t / 1000 for t in values.pop("echo_times_ms"))
    if "repetition_time_ms" in values:
        values["repetition_time_s"] = values.pop("repetition_time_ms") / 1000
    if "tilt_axis" in values:
        values["tilt_axis"] = _AXES[values["tilt_axis"]]
    if "readout" in values:
        values["bipolar"] = values.pop("readout") == "bipolar"
    for name in ("voxel_size_mm", "sessions"):
        if name in values:
            values[name] = tuple(values[name])
    settings = replace(base, **values)
    _ = settings.sequence
    return settings


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    command = parser()
    options = vars(command.parse_args(arguments))
    folder = options.pop("output_dir")
    t1w, segmentation = options.pop("t1w", None), options.pop("segmentation", None)
    if (t1w is None) != (segmentation is None):
        command.error("--t1w and --segmentation belong together")
    from qsmals.bids.phantom import NotOurs, RealHead, write_dataset

    start = time.monotonic()
    try:
        settings = settings_from(options)
        source = RealHead(t1w, segmentation) if t1w else None
        for what, share in write_dataset(folder, settings, source=source):
            print(f"[{100 * share:3.0f} %] {time.monotonic() - start:6.1f} s  {what}", flush=True)
    except (NotOurs, ValueError, FileNotFoundError) as error:
        print(f"qsmals-simulate: error: {error}", file=sys.stderr)
        return EXIT_USAGE
    print(f"simulated data set in {folder}, its truth in {folder / 'derivatives' / 'truth'}")
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
