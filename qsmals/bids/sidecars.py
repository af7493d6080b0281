"""JSON sidecars of the derivatives: what BIDS requires, how the file was made, and from what."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qsmals import __version__
from qsmals.bids.layout import PART_PAIRS, GreScan

RAW_DATASET = "raw"
"""Name of the input data set in BIDS URIs (``bids:raw:sub-01/...``)."""

ACQUISITION_FIELDS = (
    *("Manufacturer", "ManufacturersModelName", "SoftwareVersions", "MagneticFieldStrength", "ImagingFrequency"),
    *("ReceiveCoilName", "ReceiveCoilActiveElements", "CoilCombinationMethod", "PulseSequenceType"),
    *("ScanningSequence", "SequenceVariant", "ScanOptions", "SequenceName", "PulseSequenceDetails"),
    *("NonlinearGradientCorrection", "MRAcquisitionType", "EchoTime", "RepetitionTime", "RepetitionTimeExcitation"),
    *("FlipAngle", "SpoilingState", "SpoilingType", "BandwidthPerPixel", "PixelBandwidth", "DwellTime"),
    *("ParallelReductionFactorInPlane", "ParallelReductionFactorOutOfPlane", "ParallelAcquisitionTechnique"),
    *("PartialFourier", "PartialFourierDirection", "PhaseEncodingDirection", "InPlanePhaseEncodingDirectionDICOM"),
    *("SliceThickness", "SpacingBetweenSlices", "ImageOrientationText", "BodyPart"),
)
"""Fields copied from the scan: how it was measured, nothing about who was measured or when."""


@dataclass(frozen=True)
class MapKind:
    """Unit and meaning of a quantitative map."""

    units: str
    description: str


MAPS: Mapping[str, MapKind] = {
    "Chimap": MapKind("ppm", "Magnetic susceptibility, paramagnetic positive, relative to the stated reference region"),
    "R2starmap": MapKind("1/s", "Effective transverse relaxation rate R2*"),
    "T2starmap": MapKind("s", "Effective transverse relaxation time T2*"),
    "S0map": MapKind("arbitrary", "Signal magnitude extrapolated to echo time zero"),
}

FIELDMAPS: Mapping[str, str] = {
    "total": "Total field as a frequency, paramagnetic positive",
    "local": "Local field as a frequency, paramagnetic positive: the total field without background",
}

MASKS: Mapping[str, str] = {
    "brain": "Brain mask from the T1-weighted image, where the mask step of Parameters takes the field as known",
    "quality": "Voxels that the mask step of Parameters takes as reliable by themselves, before holes are filled",
}


@dataclass(frozen=True)
class Uris:
    """Writes paths as BIDS URIs.

    Attributes
    ----------
    bids_dir, output_dir : Path
        The raw data set (``bids:raw:``) and the derivative one (``bids::``).
    """

    bids_dir: Path
    output_dir: Path

    def of(self, path: Path) -> str:
        """The URI of a file of either data set; a ``file:`` URI for any other file.

        Examples
        --------
        >>> Uris(Path("/in"), Path("/in/derivatives/q")).of(Path("/in/sub-1/anat/sub-1_T1w.nii"))
        'bids:raw:sub-1/anat/sub-1_T1w.nii'
        """
        absolute = path.absolute()
        for root, start in ((self.output_dir, "bids::"), (self.bids_dir, f"bids:{RAW_DATASET}:")):
            if absolute.is_relative_to(root.absolute()):
                return start + absolute.relative_to(root.absolute()).as_posix()
        return absolute.as_uri()

    def of_all(self, paths: Iterable[Path]) -> list[str]:
        """The URIs of several files."""
        return [self.of(path) for path in paths]


@dataclass(frozen=True)
class Space:
    """The grid of a derivative that is not on the scan's own.

    Attributes
    ----------
    reference : str
        URI of the image on whose grid it lies; empty for a template that BIDS knows by name.
    resolution : str
        What ``res-`` means; empty without that entity.
    """

    reference: str = ""
    resolution: str = ""

    def fields(self) -> dict[str, Any]:
        """``SpatialReference`` and ``Resolution`` where there is something to say."""
        found = {"SpatialReference": self.reference, "Resolution": {"1": self.resolution} if self.resolution else ""}
        return {key: value for key, value in found.items() if value}


def native_reference(gre: GreScan, uris: Uris) -> str:
    """URI of the image that stands for the scan's grid: the first echo's magnitude or real part."""
    return uris.of(gre.echoes[0].files[PART_PAIRS[gre.parts][0]])


def acquisition_metadata(gre: GreScan, *, b0_tesla: float | None = None) -> dict[str, Any]:
    """How the scan was measured: fields that all echoes share as they are, others as one value an echo.

    Parameters
    ----------
    gre : GreScan
    b0_tesla : float, optional
        Field strength that was used in place of the sidecars', T.
    """
    result: dict[str, Any] = {}
    for name in ACQUISITION_FIELDS:
        values = [next((m[name] for m in echo.metadata.values() if name in m), None) for echo in gre.echoes]
        if all(value is not None for value in values):
            result[name] = values[0] if name != "EchoTime" and all(v == values[0] for v in values) else values
    if len(gre.echoes) == 1 and "EchoTime" in result:
        result["EchoTime"] = result["EchoTime"][0]
    if b0_tesla is not None:
        result["MagneticFieldStrength"] = b0_tesla
    return result


def map_sidecar(
    suffix: str,
    gre: GreScan,
    *,
    sources: Sequence[str],
    algorithm: str,
    references: Sequence[str] = (),
    parameters: Mapping[str, Any] | None = None,
    space: Space | None = None,
    skull_stripped: bool = True,
    b0_tesla: float | None = None,
) -> dict[str, Any]:
    """Sidecar of a quantitative map.

    Parameters
    ----------
    suffix : str
        A key of `MAPS`.
    gre : GreScan
        The scan that it was made of.
    sources : sequence of str
        URIs of the files that went into it.
    algorithm : str
        The steps in words, e.g. ``"ROMEO, V-SHARP, TV"``.
    references : sequence of str
        Papers, as DOIs or citations.
    parameters : mapping, optional
        Step to the parameters used.
    space : Space, optional
        Where the map is not on the scan's own grid.
    skull_stripped : bool
        Whether everything outside the brain is zero.
    b0_tesla : float, optional
        Field strength that was used in place of the sidecars', T.
    """
    kind = MAPS[suffix]
    fields: dict[str, Any] = {
        "Description": kind.description,
        "Units": kind.units,
        "SkullStripped": skull_stripped,
        **(space.fields() if space else {}),
        "EstimationAlgorithm": algorithm,
    }
    if references:
        fields["EstimationReference"] = "; ".join(references)
    return _finished(fields, sources, parameters, acquisition_metadata(gre, b0_tesla=b0_tesla))


def fieldmap_sidecar(
    desc: str,
    gre: GreScan,
    *,
    sources: Sequence[str],
    algorithm: str,
    parameters: Mapping[str, Any] | None = None,
    b0_tesla: float | None = None,
) -> dict[str, Any]:
    """Sidecar of a total or local field map, in Hz (``desc`` is a key of `FIELDMAPS`)."""
    fields = {
        "Description": FIELDMAPS[desc],
        "Units": "Hz",
        "SkullStripped": True,
        "EstimationAlgorithm": algorithm,
    }
    return _finished(fields, sources, parameters, acquisition_metadata(gre, b0_tesla=b0_tesla))


def magnitude_sidecar(gre: GreScan, *, sources: Sequence[str], description: str) -> dict[str, Any]:
    """Sidecar of the magnitude image that goes with the field maps."""
    fields = {"Description": description, "Units": "arbitrary", "SkullStripped": False}
    return _finished(fields, sources, None, acquisition_metadata(gre))


def mask_sidecar(
    desc: str, *, sources: Sequence[str], spatial_reference: str, parameters: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Sidecar of a mask on the scan's grid (``desc`` is a key of `MASKS`)."""
    fields = {"Description": MASKS[desc], "Type": "Brain" if desc == "brain" else "ROI"}
    return _finished({**fields, "SpatialReference": spatial_reference}, sources, parameters)


def dseg_sidecar(
    *,
    description: str,
    sources: Sequence[str],
    spatial_reference: str,
    atlas: Mapping[str, Any] | None = None,
    parameters: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Sidecar of a label image; ``atlas`` tells its name, version, licence and paper."""
    fields = {"Description": description, "Manual": False, "SpatialReference": spatial_reference}
    return _finished({**fields, **({"Atlas": atlas} if atlas else {})}, sources, parameters)


def transform_sidecar(
    *,
    source: str,
    target: str,
    description: str,
    made_from: str | None = None,
    parameters: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Sidecar of a transform: it takes images from ``source`` to the grid of ``target`` (URIs or template name).

    ``made_from`` is the URI of the image that was registered, where ``source`` is none.
    """
    fields = {"Description": description, "From": source, "To": target}
    return _finished(fields, [made_from or source], parameters)


def table_sidecar(
    columns: Mapping[str, Mapping[str, Any]],
    *,
    sources: Sequence[str],
    labels: str = "",
    labels_from: str = "",
    parameters: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Sidecar of a table: its columns first, then whose labels were used and where the numbers come from.

    ``labels`` says it in full, ``labels_from`` in a word: ``atlas``, or the pipeline that made the segmentation.
    """
    whose = {"LabelsFrom": labels_from, "Labels": labels}
    return _finished({**columns, **{key: words for key, words in whose.items() if words}}, sources, parameters)


def with_software(sidecar: Mapping[str, Any], versions: Mapping[str, str]) -> dict[str, Any]:
    """A sidecar with the versions of the packages that made the file; ``SoftwareVersions`` is the scanner's in BIDS.

    Examples
    --------
    >>> with_software({"Units": "ppm"}, {"numpy": "2.3.5"})
    {'Units': 'ppm', 'ProcessingSoftware': {'numpy': '2.3.5'}}
    """
    return {**sidecar, "ProcessingSoftware": dict(versions)}


def _finished(
    fields: Mapping[str, Any],
    sources: Sequence[str],
    parameters: Mapping[str, Any] | None = None,
    acquisition: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The fields with provenance after them, as strict JSON."""
    end = {"Sources": list(sources), "SoftwareName": "qsmals", "SoftwareVersion": __version__}
    parameters_field = {"Parameters": parameters} if parameters else {}
    return {str(k): strict_json(v) for k, v in {**fields, **(acquisition or {}), **end, **parameters_field}.items()}


def strict_json(value: Any) -> Any:
    """``value`` in types that JSON has; NaN and infinity, which it has not, become null.

    Examples
    --------
    >>> strict_json({"a": np.float32(0.5), "b": (1, float("nan")), "c": np.arange(2)})
    {'a': 0.5, 'b': [1, None], 'c': [0, 1]}
    """
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): strict_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [strict_json(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Path):
        value = value.as_posix()
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()  # half a surrogate pair cannot be written
    if value is None or isinstance(value, int):
        return value
    raise TypeError(f"{value!r} of type {type(value).__name__} has no place in a JSON sidecar")
