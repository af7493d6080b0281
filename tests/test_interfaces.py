"""The interfaces from stored images to susceptibility, one after the other, on a small head with known truth."""

import logging
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from qsmals.interfaces.anatomy import FitCortex, read_image
from qsmals.interfaces.base import load, load_echoes, load_labels, load_mask, log_warnings
from qsmals.interfaces.outputs import SaveFieldMap, SaveImage
from qsmals.interfaces.phase import EstimateField, PreparePhase, RemovePhaseOffset, UnwrapPhase
from qsmals.interfaces.susceptibility import (
    FitRelaxation,
    InvertDipole,
    InvertTotalField,
    MakeFieldMasks,
    ReferenceSusceptibility,
    RemoveBackground,
)
from qsmals.recon.background import BACKGROUND
from qsmals.recon.constants import GAMMA_BAR_MHZ_PER_TESLA
from qsmals.recon.dipole import dipole_field
from qsmals.recon.grid import Grid
from qsmals.recon.inversion import INVERSION
from tests.phase_phantom import B0_TESLA, axes, ellipsoid, signal, smooth_field, smooth_offset, zero_filled

SHAPE = (32, 32, 32)
AFFINE = np.diag([3.0, 3.0, 3.0, 1.0])
GRID = Grid.from_affine(SHAPE, AFFINE)
TE_S = [0.004, 0.009, 0.014, 0.019, 0.024]
HEAD = ellipsoid(SHAPE, 0.92)
BRAIN = ellipsoid(SHAPE, 0.78)
R2STAR_HZ = 20.0


def sphere(centre: tuple[float, float, float], radius: float) -> np.ndarray:
    x, y, z = axes(SHAPE)
    return np.asarray((x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (z - centre[2]) ** 2 < radius**2)


NUCLEUS = sphere((0.25, 0.0, 0.0), 0.2)
CSF = sphere((-0.3, 0.0, 0.0), 0.2)
CHI_PPM = np.where(NUCLEUS, 0.2, 0.0).astype(np.float32)
FIELD_PPM = smooth_field(SHAPE, 0.3) + dipole_field(CHI_PPM, GRID)


def write(path: Path, values: np.ndarray) -> str:
    nib.save(nib.Nifti1Image(values, AFFINE), path)
    return str(path)


def acquired(n_echoes: int, *, snr: float = 200.0, te_s: list[float] = TE_S) -> np.ndarray:
    """Complex signal (x, y, z, e) of the head in air, with the phase offset of a coil where it can be removed."""
    offset = smooth_offset(SHAPE) if n_echoes > 1 else 0.0
    head = np.where(HEAD, 1.0, 0.0).astype(np.float32)
    rng = np.random.default_rng(n_echoes)
    phase, magnitude = signal(
        FIELD_PPM, te_s[:n_echoes], offset_rad=offset, amplitude=head, r2star_hz=R2STAR_HZ, snr=snr, rng=rng
    )
    return np.asarray(1000 * magnitude * np.exp(1j * phase))


def store(folder: Path, data: np.ndarray, parts: str) -> dict[str, Any]:
    """Inputs of `PreparePhase`: one file an echo, phase as Siemens stores it."""
    names = ("mag", "phase") if parts == "polar" else ("real", "imag")
    files: tuple[list[str], list[str]] = ([], [])
    for echo in range(data.shape[3]):
        value = data[..., echo]
        stored = (
            (np.abs(value).astype(np.float32), np.rint(np.angle(value) * 4095 / np.pi).astype(np.int16))
            if parts == "polar"
            else (value.real.astype(np.float32), value.imag.astype(np.float32))
        )
        for name, values, listed in zip(names, stored, files, strict=True):
            listed.append(write(folder / f"{name}{echo}.nii.gz", values))
    return {"parts": parts, "first_files": files[0], "second_files": files[1], "manufacturer": "Siemens"}


def run(step: Any, folder: Path) -> Any:
    """Outputs of an interface that runs in a folder of its own."""
    here = folder / type(step).__name__
    here.mkdir(exist_ok=True)
    return step.run(cwd=str(here)).outputs


def field_chain(folder: Path, data: np.ndarray, parts: str = "polar", **options: str) -> dict[str, Any]:
    """`PreparePhase` to `EstimateField`: the outputs of each by its name."""
    te_s = TE_S[: data.shape[3]]
    prepared = run(PreparePhase(**store(folder, data, parts)), folder)
    common = {"magnitude": prepared.magnitude, "mask": prepared.tissue_mask, "te_s": te_s}
    brain = write(folder / "brain_of_t1w.nii", BRAIN.astype(np.uint8))
    offset = run(RemovePhaseOffset(phase=prepared.phase, brain_mask=brain, method="mcpc-3d-s", **common), folder)
    unwrapped = run(UnwrapPhase(phase=offset.phase, method="romeo", **common), folder)
    field = run(
        EstimateField(
            phase=unwrapped.phase, method="weighted", b0_tesla=B0_TESLA, sign=options.get("sign", "positive"), **common
        ),
        folder,
    )
    return {"prepared": prepared, "offset": offset, "unwrapped": unwrapped, "field": field}


def error_ppb(path: str, sign: float = 1.0) -> float:
    """Deviation from the true field in the brain that 99 % of the voxels stay below, ppb; its level is arbitrary."""
    inside = BRAIN
    difference = load(path)[inside] - sign * FIELD_PPM[inside]
    return float(1000 * np.quantile(np.abs(difference - np.median(difference)), 0.99))


@pytest.mark.parametrize("parts", ["polar", "cartesian"])
@pytest.mark.parametrize("n_echoes", [1, 2, 5])
def test_the_field_is_right(n_echoes: int, parts: str, tmp_path: Path) -> None:
    # one or two early echoes need less noise: 1 / 200 rad at 4 ms alone is 1.6 ppb, and three times that in the tail
    found = field_chain(tmp_path, acquired(n_echoes, snr=200.0 if n_echoes == 5 else 2000.0), parts)
    assert error_ppb(found["field"].field_ppm) < 5
    assert load_echoes(found["prepared"].phase).shape == (*SHAPE, n_echoes)
    assert (load_mask(found["prepared"].tissue_mask) == HEAD).mean() > 0.98
    notes = [*found["prepared"].detected, *found["offset"].detected, *found["field"].detected]
    assert [note["what"] for note in notes] == ["phase scale", "slice alternation", "readout", "phase sign"]
    assert notes[1]["found"] == "none" and notes[2]["found"].startswith("monopolar")


@pytest.mark.parametrize(("n_echoes", "parts"), [(5, "polar"), (1, "cartesian")])
def test_from_stored_images_to_susceptibility(n_echoes: int, parts: str, tmp_path: Path) -> None:
    found = field_chain(tmp_path, acquired(n_echoes, snr=500.0), parts)
    brain = write(tmp_path / "brain.nii", BRAIN.astype(np.uint8))
    magnitude, field = found["prepared"].magnitude, found["field"]
    make = MakeFieldMasks(
        brain_mask=brain,
        quality=found["unwrapped"].quality,
        magnitude=magnitude,
        field_ppm=field.field_ppm,
        method="brain-and-quality",
    )
    masks = run(make, tmp_path)
    assert load_mask(masks.brain_mask).sum() > 0.97 * BRAIN.sum()
    background = run(
        RemoveBackground(
            field_ppm=field.field_ppm,
            noise_ppm=field.noise_ppm,
            brain_mask=masks.brain_mask,
            reliable_mask=masks.reliable_mask,
            method=BACKGROUND.default,
        ),
        tmp_path,
    )
    inverted = run(
        InvertDipole(
            local_field_ppm=background.local_field_ppm,
            noise_ppm=field.noise_ppm,
            mask=background.mask,
            known_mask=background.known_mask,
            method=INVERSION.default,
            detected_background=background.detected,
        ),
        tmp_path,
    )
    assert inverted.facts["iterations"] > 1
    inner, known = load_mask(background.mask), load_mask(background.known_mask)
    assert inner.sum() < known.sum() and not (inner & ~known).any()
    np.testing.assert_array_equal(load_mask(inverted.mask), known)
    reached, taken = inverted.detected
    assert reached["what"] == "background field removal" and "warning" not in reached
    assert taken["what"] == "dipole inversion" and "mm, noise" in taken["found"] and taken["found"].endswith(" ppm")
    labels = np.where(NUCLEUS, 13, np.where(CSF, 4, 2)) * BRAIN
    referenced = run(
        ReferenceSusceptibility(
            chi_ppm=inverted.chi_ppm,
            mask=inverted.mask,
            brain_mask=masks.brain_mask,
            labels=write(tmp_path / "labels.nii", labels.astype(np.int32)),
            region="csf",
        ),
        tmp_path,
    )
    chi = load(referenced.chi_ppm)
    measured = load_mask(referenced.measured_mask)
    assert chi[CSF & measured].mean() == pytest.approx(0, abs=0.02)
    assert chi[NUCLEUS].mean() == pytest.approx(0.2, abs=0.07)
    assert not chi[~measured].any()
    assert referenced.facts["offsets_ppm"]["csf"] == 0 and abs(referenced.facts["offsets_ppm"]["wm"]) < 0.05
    white = load_mask(referenced.white_matter)
    assert white.any() and (labels[white] == 2).all()
    if n_echoes > 1:
        relaxed = run(FitRelaxation(magnitude=magnitude, mask=brain, te_s=TE_S, method="arlo"), tmp_path)
        assert np.median(load(relaxed.r2star_hz)[BRAIN]) == pytest.approx(R2STAR_HZ, rel=0.02)
        assert relaxed.method == "arlo"


def test_phase_sign_negative_turns_the_field(tmp_path: Path) -> None:
    found = field_chain(tmp_path, acquired(2, snr=2000.0), sign="negative")
    assert error_ppb(found["field"].field_ppm, sign=-1.0) < 5
    (note,) = found["field"].detected
    assert "turned" in note["found"] and "set by --phase-sign" in note["evidence"]


def test_a_total_field_made_before_is_taken(tmp_path: Path) -> None:
    found = field_chain(tmp_path, acquired(2, snr=2000.0))
    own = load(found["field"].field_ppm).copy()
    hertz = GAMMA_BAR_MHZ_PER_TESLA * B0_TESLA
    known = BRAIN & (np.indices(SHAPE)[2] > SHAPE[2] // 2)
    given = write(tmp_path / "given.nii", np.where(known, (own + 0.5) * hertz, 0).astype(np.float32))
    step = EstimateField(
        magnitude=found["prepared"].magnitude,
        phase=found["unwrapped"].phase,
        mask=found["prepared"].tissue_mask,
        te_s=TE_S[:2],
        b0_tesla=B0_TESLA,
        method="weighted",
        given=given,
    )
    taken = run(step, tmp_path)
    assert np.abs(load(taken.field_ppm) - own - 0.5)[BRAIN].max() < 1e-4
    outside = ~(load_mask(found["prepared"].tissue_mask) | known)
    assert outside.any() and not load(taken.field_ppm)[outside].any()
    assert "given.nii" in taken.detected[0]["evidence"]


def test_interpolated_images_of_one_echo_keep_their_noise(tmp_path: Path) -> None:
    medians = []
    for name, shape in (("measured", SHAPE), ("interpolated", (64, 64, 32))):
        data = zero_filled(acquired(1, snr=10.0)[..., 0], shape)
        step = EstimateField(
            magnitude=write(tmp_path / f"{name}_mag.nii", np.abs(data).astype(np.float32)),
            phase=write(tmp_path / f"{name}_phase.nii", np.angle(data).astype(np.float32)),
            mask=write(tmp_path / f"{name}_mask.nii", ellipsoid(shape, 0.8).astype(np.uint8)),
            te_s=TE_S[:1],
            b0_tesla=B0_TESLA,
            sign="positive",
            method="weighted",
        )
        (tmp_path / name).mkdir()
        found = run(step, tmp_path / name)
        medians.append(float(np.median(load(found.noise_ppm)[ellipsoid(shape, 0.6)])))
        told = [entry["found"] for entry in found.detected if entry["what"] == "interpolation"]
        assert told == (["2 × 2 × 1 stored voxels to a measured one"] if name == "interpolated" else [])
    assert medians[1] == pytest.approx(medians[0], rel=0.1)


@pytest.mark.parametrize("parts", ["polar", "cartesian"])
def test_alternating_slices_are_straightened(parts: str, tmp_path: Path) -> None:
    data = acquired(5)
    data[:, :, 1::2] *= -1
    found = field_chain(tmp_path, data, parts)
    assert error_ppb(found["field"].field_ppm) < 5
    assert "along axis 2" in found["prepared"].detected[1]["found"]


def test_the_combined_magnitude_is_the_mean_power(tmp_path: Path) -> None:
    data = acquired(2)
    prepared = run(PreparePhase(**store(tmp_path, data, "cartesian")), tmp_path)
    expected = np.sqrt(np.mean(np.abs(data) ** 2, axis=3))
    np.testing.assert_allclose(load(prepared.combined), expected, rtol=1e-4, atol=1e-3)


def test_images_with_trailing_axes_of_length_one(tmp_path: Path) -> None:
    data = acquired(2)
    plain = run(PreparePhase(**store(tmp_path, data, "polar")), tmp_path)
    (tmp_path / "trailing").mkdir()
    stored = store(tmp_path / "trailing", data, "polar")
    for path in (*stored["first_files"], *stored["second_files"]):
        values = np.asanyarray(nib.load(path).dataobj)
        write(Path(path), values[..., None, None])
    trailing = run(PreparePhase(**stored), tmp_path / "trailing")
    np.testing.assert_array_equal(load(trailing.phase), load(plain.phase))
    assert load(stored["first_files"][0]).shape == load_labels(stored["first_files"][0]).shape == SHAPE
    assert load_echoes(stored["first_files"][0]).shape == (*SHAPE, 1)
    assert read_image(stored["first_files"][0]).shape == SHAPE
    assert read_image(trailing.phase).shape == SHAPE


def two_echo_offset(folder: Path, n_echoes: int, readout: str) -> dict[str, Any]:
    prepared = run(PreparePhase(**store(folder, acquired(n_echoes), "polar")), folder)
    step = RemovePhaseOffset(
        magnitude=prepared.magnitude,
        phase=prepared.phase,
        mask=prepared.tissue_mask,
        te_s=TE_S[:n_echoes],
        readout=readout,
        method="mcpc-3d-s",
    )
    (note,) = run(step, folder).detected
    return dict(note)


def test_a_bipolar_readout_with_two_echoes_is_called_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    note = two_echo_offset(tmp_path, 2, "bipolar")
    assert note["warning"] is True and "a bipolar readout with two echoes cannot be corrected" in note["evidence"]
    (record,) = [r for r in caplog.records if r.name == "qsmals.phase"]
    assert record.levelno == logging.WARNING and "cannot be corrected" in record.getMessage()
    assert "RemovePhaseOffset" in record.getMessage()


@pytest.mark.parametrize(("n_echoes", "readout"), [(1, "bipolar"), (2, "monopolar"), (2, "auto")])
def test_other_readouts_of_few_echoes_raise_no_alarm(
    n_echoes: int, readout: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert "warning" not in two_echo_offset(tmp_path, n_echoes, readout)
    assert not [r for r in caplog.records if r.name.startswith("qsmals")]


def test_a_readout_that_contradicts_the_data_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert two_echo_offset(tmp_path, 3, "bipolar")["warning"] is True
    (record,) = [r for r in caplog.records if r.name == "qsmals.phase"]
    assert "readout: bipolar" in record.getMessage() and "set by --readout" in record.getMessage()


def test_an_unknown_phase_scale_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = acquired(1)
    stored = store(tmp_path, data, "polar") | {"manufacturer": "Nobody"}
    write(Path(stored["second_files"][0]), (37.1 * np.angle(data[..., 0])).astype(np.float32))
    prepared = run(PreparePhase(**stored), tmp_path)
    assert prepared.detected[0]["warning"] is True
    (record,) = [r for r in caplog.records if r.name == "qsmals.phase"]
    assert record.levelno == logging.WARNING and "UNKNOWN PHASE SCALE" in record.getMessage()


def test_an_inversion_that_stops_early_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    field = np.where(BRAIN, dipole_field(CHI_PPM, GRID), 0).astype(np.float32)
    step = InvertDipole(
        local_field_ppm=write(tmp_path / "field.nii", field),
        noise_ppm=write(tmp_path / "noise.nii", np.full(SHAPE, 0.01, np.float32)),
        mask=write(tmp_path / "mask.nii", BRAIN.astype(np.uint8)),
        method="tv",
        parameters={"max_iterations": 1},
    )
    assert run(step, tmp_path).facts["converged"] is False
    (record,) = [r for r in caplog.records if r.name == "qsmals.inversion"]
    assert "largest number of iterations" in record.getMessage()


def test_background_removal_that_stops_early_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    field = np.where(BRAIN, dipole_field(CHI_PPM, GRID), 0).astype(np.float32)
    mask = write(tmp_path / "mask.nii", BRAIN.astype(np.uint8))
    step = RemoveBackground(
        field_ppm=write(tmp_path / "field.nii", field),
        noise_ppm=write(tmp_path / "noise.nii", np.full(SHAPE, 0.01, np.float32)),
        brain_mask=mask,
        reliable_mask=mask,
        method="lbv",
        parameters={"max_iterations": 1},
    )
    (entry,) = run(step, tmp_path).detected
    assert entry["warning"] is True and entry["found"].startswith("1 iterations")
    (record,) = [r for r in caplog.records if r.name == "qsmals.background"]
    assert "largest number of iterations" in record.getMessage()


def test_a_background_removed_from_noise_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = np.ones(SHAPE, bool)
    step = RemoveBackground(
        field_ppm=write(tmp_path / "field.nii", dipole_field(CHI_PPM, GRID)),
        noise_ppm=write(tmp_path / "noise.nii", np.where(BRAIN, 0.001, 0.03).astype(np.float32)),
        brain_mask=write(tmp_path / "brain.nii", BRAIN.astype(np.uint8)),
        reliable_mask=write(tmp_path / "reliable.nii", whole.astype(np.uint8)),
        method="lbv",
    )
    run(step, tmp_path)
    (record,) = [r for r in caplog.records if r.name == "qsmals.background"]
    share = 100 * (1 - np.count_nonzero(BRAIN) / BRAIN.size)
    assert record.getMessage().startswith(f"{share:.0f} % of the voxels") and "brain-and-quality" in record.getMessage()


def test_removal_leaves_out_what_was_not_measured(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A mask that reaches beyond the tissue, and a vein: voxels of no worth, which still were measured, stay."""
    x, y, z = axes(SHAPE)
    field = (0.3 + 0.05 * z + 0 * (x + y)).astype(np.float32)
    beyond, vein, worthless = BRAIN & (x > 0.5), sphere((-0.2, 0.1, 0.0), 0.09), sphere((0.0, -0.4, 0.0), 0.1)
    unmeasured = beyond | vein
    mask = write(tmp_path / "mask.nii", BRAIN.astype(np.uint8))
    step = RemoveBackground(
        field_ppm=write(tmp_path / "field.nii", np.where(unmeasured, 0, field)),
        noise_ppm=write(tmp_path / "noise.nii", np.where(unmeasured | worthless, np.inf, 0.001).astype(np.float32)),
        brain_mask=mask,
        reliable_mask=mask,
        method="v-sharp",
    )
    found = run(step, tmp_path)
    kept = load_mask(found.mask)
    assert not kept[beyond].any() and kept[vein].all() and kept[worthless].all()
    assert np.abs(load(found.local_field_ppm)[kept]).max() < 0.002
    (entry,) = found.detected
    assert entry["found"] == f"{beyond.sum()} of {BRAIN.sum()} of the mask left out, {vein.sum()} in gaps bridged"
    (record,) = [r for r in caplog.records if r.name == "qsmals.background"]
    assert "voxels without phase" in record.getMessage()


def test_medi_takes_its_edges_from_the_magnitude(tmp_path: Path) -> None:
    field = np.where(BRAIN, dipole_field(CHI_PPM, GRID), 0).astype(np.float32)
    given = {
        "local_field_ppm": write(tmp_path / "field.nii", field),
        "noise_ppm": write(tmp_path / "noise.nii", np.full(SHAPE, 0.01, np.float32)),
        "mask": write(tmp_path / "mask.nii", BRAIN.astype(np.uint8)),
        "parameters": {"max_iterations": 3},
    }
    echoes = np.where(CHI_PPM > 0, 2, 1)[..., None] * np.ones(2)
    magnitude = write(tmp_path / "magnitude.nii", echoes.astype(np.float32))
    maps = {}
    for method in ("medi", "l2"):
        settings = given if method == "medi" else {k: v for k, v in given.items() if k != "parameters"}
        for name, more in (("with", {"magnitude": magnitude}), ("without", {})):
            folder = tmp_path / f"{method}_{name}"
            folder.mkdir()
            maps[method, name] = load(run(InvertDipole(method=method, **settings, **more), folder).chi_ppm)
    assert np.abs(maps["medi", "with"] - maps["medi", "without"]).max() > 1e-3
    np.testing.assert_array_equal(maps["l2", "with"], maps["l2", "without"])


def test_a_note_of_an_inversion_is_logged_and_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    field = np.where(BRAIN, dipole_field(CHI_PPM, GRID), 0).astype(np.float32)
    given = {
        "local_field_ppm": write(tmp_path / "field.nii", field),
        "noise_ppm": write(tmp_path / "noise.nii", np.full(SHAPE, 0.01, np.float32)),
        "mask": write(tmp_path / "mask.nii", BRAIN.astype(np.uint8)),
        "method": "medi-0",
        "parameters": {"max_iterations": 1, "tolerance": 10.0},
    }
    even = write(tmp_path / "r2star.nii", np.where(BRAIN, 20, 0).astype(np.float32))
    assert "no cerebrospinal fluid" in run(InvertDipole(**given, r2star_hz=even), tmp_path).facts["notes"][0]
    assert [r.name for r in caplog.records if "no cerebrospinal fluid" in r.getMessage()] == ["qsmals.inversion"]
    r2star = np.where(BRAIN, np.where(CSF, 2, 20), 0).astype(np.float32)
    found = run(InvertDipole(**given, r2star_hz=write(tmp_path / "r2star.nii", r2star)), tmp_path)
    assert not found.facts["notes"]
    assert abs(float(load(found.chi_ppm)[CSF & BRAIN].mean())) < 0.02


def test_the_total_field_is_inverted_in_one_step(tmp_path: Path) -> None:
    step = InvertTotalField(
        field_ppm=write(tmp_path / "field.nii", np.where(BRAIN, FIELD_PPM, 0).astype(np.float32)),
        noise_ppm=write(tmp_path / "noise.nii", np.full(SHAPE, 0.01, np.float32)),
        mask=write(tmp_path / "mask.nii", BRAIN.astype(np.uint8)),
        method="tgv",
        parameters={"max_iterations": 400},
    )
    found = run(step, tmp_path)
    chi, mask = load(found.chi_ppm), load(found.mask) > 0
    assert 0 < (BRAIN & ~mask).sum() < 0.5 * BRAIN.sum() and not (mask & ~BRAIN).any()
    inside = NUCLEUS & mask
    assert 0.1 < chi[inside].mean() - chi[mask & ~NUCLEUS].mean() < 0.25
    local = load(found.local_field_ppm)
    assert not local[~mask].any()
    assert np.corrcoef(local[mask], dipole_field(CHI_PPM, GRID)[mask])[0, 1] > 0.6


def test_cortex_is_fitted_and_a_poor_fit_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    labels = np.zeros(SHAPE, np.int16)
    labels[5:8] = 1024
    tissues = np.zeros(SHAPE, np.uint8)
    tissues[7:10] = 2
    tissues[10:] = 3
    given = {"labels": write(tmp_path / "labels.nii", labels)}
    good = run(FitCortex(**given, tissues=write(tmp_path / "tissues.nii", tissues)), tmp_path)
    assert (load_labels(good.labels)[7] == 1024).all() and not load_labels(good.labels)[:7].any()
    assert good.facts["lost_percent"] == 66.7 and good.facts["warnings"] == [] and not caplog.records
    tissues[7] = 1
    bad = run(FitCortex(**given, tissues=write(tmp_path / "worse.nii", tissues)), tmp_path)
    assert bad.facts["lost_percent"] == 100.0
    assert "check registration" in caplog.records[0].getMessage()


def test_a_brain_mask_elsewhere_is_named(tmp_path: Path) -> None:
    for echoes in (2, 5):
        phase = write(tmp_path / "phase.nii", np.zeros((*SHAPE, echoes), np.float32))
        magnitude = write(tmp_path / "magnitude.nii", np.ones((*SHAPE, echoes), np.float32))
        step = RemovePhaseOffset(
            phase=phase,
            magnitude=magnitude,
            mask=write(tmp_path / "mask.nii", BRAIN.astype(np.uint8)),
            brain_mask=write(tmp_path / "brain.nii", (~BRAIN).astype(np.uint8)),
            te_s=[0.005 * (e + 1) for e in range(echoes)],
            method="mcpc-3d-s",
        )
        with pytest.raises(ValueError, match="registration to the T1w image failed"):
            run(step, tmp_path)


def test_uneven_echoes_are_fitted_log_linearly(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    te_s = [0.004, 0.008, 0.020, 0.026]
    decay = (500 * np.exp(-R2STAR_HZ * np.array(te_s))).astype(np.float32)
    step = FitRelaxation(
        magnitude=write(tmp_path / "magnitude.nii", np.where(BRAIN[..., None], decay, np.float32(0))),
        mask=write(tmp_path / "mask.nii", BRAIN.astype(np.uint8)),
        te_s=te_s,
        method="arlo",
        parameters={"r2star_max_hz": 500.0},
    )
    fitted = run(step, tmp_path)
    np.testing.assert_allclose(load(fitted.r2star_hz)[BRAIN], R2STAR_HZ, rtol=1e-4)
    assert fitted.method == "log-linear"
    (record,) = [r for r in caplog.records if r.name == "qsmals.relaxometry"]
    assert record.levelno == logging.WARNING and "too uneven for ARLO (TE 4, 8, 20, 26 ms)" in record.getMessage()


def test_a_field_map_is_in_hertz_and_its_inputs_stay(tmp_path: Path) -> None:
    field = write(tmp_path / "field.nii", FIELD_PPM.astype(np.float32))
    step = SaveFieldMap(in_file=field, out_file=str(tmp_path / "out_fieldmap.nii.gz"), b0_tesla=B0_TESLA)
    before = step.inputs.get()
    saved = run(step, tmp_path)
    assert step.inputs.get() == before and step.inputs.factor == 1.0
    hertz = FIELD_PPM * GAMMA_BAR_MHZ_PER_TESLA * B0_TESLA
    np.testing.assert_allclose(load(saved.out_file), hertz, rtol=1e-5, atol=1e-4)
    plain = run(SaveImage(in_file=field, out_file=str(tmp_path / "plain.nii.gz"), factor=2.0), tmp_path)
    np.testing.assert_allclose(load(plain.out_file), 2 * FIELD_PPM, rtol=1e-6)


def test_warnings_name_the_node(caplog: pytest.LogCaptureFixture) -> None:
    log_warnings("registration", ["the folds do not match"], Path("/scratch/run/sub_01/gre_wf/field_wf/register"))
    (record,) = caplog.records
    assert record.name == "qsmals.registration" and record.levelno == logging.WARNING
    assert record.getMessage() == "the folds do not match [sub_01/gre_wf/field_wf/register]"
