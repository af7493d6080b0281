"""The data set that qsmals-simulate writes."""

import filecmp
import json
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from qsmals.bids.phantom import NotOurs, RealHead, small, template_head, write_dataset
from qsmals.cli.simulate import main, parser, settings_from
from qsmals.recon.constants import GAMMA_BAR_MHZ_PER_TESLA
from qsmals.recon.grid import b0_direction
from qsmals.simulate.subject import SimulationSettings
from qsmals.simulate.vendor import Stored, decode

QUICK = replace(
    small(SimulationSettings()),
    simulation_voxel_size_mm=2.5,
    voxel_size_mm=(5.0, 5.0, 5.0),
    echo_times_s=(0.004, 0.009, 0.014),
    t1w_voxel_size_mm=3.0,
)
HERTZ = GAMMA_BAR_MHZ_PER_TESLA * 3.0


def make(folder: Path, settings: SimulationSettings, source: RealHead | None = None) -> Path:
    for _ in write_dataset(folder, settings, source=source):
        pass
    return folder


@pytest.fixture(scope="module")
def siemens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("siemens") / "data", QUICK)


@pytest.fixture(scope="module")
def ge_tilted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = replace(QUICK, vendor="ge", tilt_deg=30.0, motion_mm=4.0, motion_deg=6.0)
    return make(tmp_path_factory.mktemp("ge") / "data", settings)


def load(folder: Path, name: str, sub: str = "sub-01") -> Any:
    return nib.load(folder / sub / "anat" / f"{sub}_{name}.nii.gz")


def truth(folder: Path, name: str, kind: str = "anat", sub: str = "sub-01") -> Any:
    return nib.load(folder / "derivatives" / "truth" / sub / kind / f"{sub}_{name}.nii.gz")


def stored(image: Any, part: str) -> Stored:
    """What encode() made, from the file's header."""
    proxy = image.dataobj
    return Stored(part, np.asarray(proxy.get_unscaled()), proxy.slope, proxy.inter)


def complex_echo(folder: Path, echo: int, vendor: str) -> np.ndarray:
    parts = ("real", "imag") if vendor == "ge" else ("mag", "phase")
    images = [stored(load(folder, f"echo-{echo}_part-{p}_MEGRE"), p) for p in parts]
    return decode(*images, vendor=vendor, scale=1.0)


def same(a: Path, b: Path) -> bool:
    files = sorted(p.relative_to(a) for p in a.rglob("*") if p.is_file())
    return files == sorted(p.relative_to(b) for p in b.rglob("*") if p.is_file()) and all(
        filecmp.cmp(a / f, b / f, shallow=False) for f in files
    )


def test_equal_seeds_give_equal_bytes_and_others_do_not(siemens: Path, tmp_path: Path) -> None:
    assert same(siemens, make(tmp_path / "again", QUICK))
    other = make(tmp_path / "other", replace(QUICK, seed=1))
    assert not np.array_equal(truth(siemens, "seg-truth_dseg").dataobj, truth(other, "seg-truth_dseg").dataobj)


@pytest.mark.parametrize("name", ["siemens", "ge_tilted"])
def test_the_data_set_is_valid_bids(name: str, request: pytest.FixtureRequest) -> None:
    validator = shutil.which("bids-validator-deno", path=str(Path(sys.executable).parent)) or shutil.which(
        "bids-validator-deno"
    )
    if validator is None:
        pytest.skip("bids-validator-deno is not installed")
    folder = request.getfixturevalue(name)
    for root in (folder, folder / "derivatives" / "truth"):
        shown = subprocess.run([validator, str(root), "--format", "json"], capture_output=True, text=True)
        issues = json.loads(shown.stdout)["issues"]["issues"]
        assert [i for i in issues if i["severity"] == "error"] == []


def test_phase_follows_the_true_field(siemens: Path) -> None:
    """Between two echoes the phase turns by 2 pi field dTE, positive for paramagnetic sources."""
    brain = np.asarray(truth(siemens, "desc-brain_mask").dataobj) > 0
    inner = ndimage.binary_erosion(brain, iterations=2)
    field_hz = truth(siemens, "desc-total_fieldmap", "fmap").get_fdata()
    turned = complex_echo(siemens, 2, "siemens") * np.conj(complex_echo(siemens, 1, "siemens"))
    error = np.angle(turned * np.exp(-2j * np.pi * field_hz * 0.005))[inner]
    assert abs(np.median(error)) < 0.02
    assert np.percentile(np.abs(error), 90) < 0.25
    assert np.corrcoef(np.angle(turned)[inner], field_hz[inner])[0, 1] > 0.9


def test_local_field_is_that_of_the_true_susceptibility(siemens: Path) -> None:
    from qsmals.recon.grid import Grid
    from qsmals.simulate.dipole import field_from_susceptibility

    image = truth(siemens, "desc-truth_Chimap")
    chi = np.asarray(image.dataobj, dtype=np.float32)
    brain = np.asarray(truth(siemens, "desc-brain_mask").dataobj) > 0
    local = truth(siemens, "desc-local_fieldmap", "fmap").get_fdata() / HERTZ
    field = field_from_susceptibility(chi, grid=Grid.from_affine(chi.shape, image.affine))
    assert np.corrcoef(field[brain], local[brain])[0, 1] > 0.9  # voxels of 5 mm, against block means of 2.5 mm
    assert abs(chi[brain].mean()) < 2e-3
    assert np.abs(chi[~brain]).max() == 0


def test_the_total_field_is_shimmed(siemens: Path) -> None:
    brain = np.asarray(truth(siemens, "desc-brain_mask").dataobj) > 0
    total = truth(siemens, "desc-total_fieldmap", "fmap").get_fdata()[brain] / HERTZ
    assert np.mean(np.abs(total) < 1) > 0.98
    assert total.std() > 0.05


def test_regions_keep_their_order(siemens: Path) -> None:
    labels = np.asarray(truth(siemens, "seg-truth_dseg").dataobj)
    chi = truth(siemens, "desc-truth_Chimap").get_fdata()
    r2star = truth(siemens, "desc-truth_R2starmap").get_fdata()
    regions = [(13, 52), (27, 59), (12, 51), (11, 50), (10, 49), (2, 41)]
    means = [chi[np.isin(labels, r)].mean() for r in regions]
    assert means == sorted(means, reverse=True)
    assert r2star[np.isin(labels, (13, 52))].mean() > r2star[np.isin(labels, (2, 41))].mean()


def test_sidecars_say_what_a_scanner_says(siemens: Path, ge_tilted: Path) -> None:
    for echo, seconds in enumerate(QUICK.echo_times_s, start=1):
        for folder, part, maker in ((siemens, "phase", "Siemens"), (ge_tilted, "imag", "GE")):
            text = (folder / "sub-01" / "anat" / f"sub-01_echo-{echo}_part-{part}_MEGRE.json").read_text()
            sidecar = json.loads(text)
            assert sidecar["EchoTime"] == seconds
            assert sidecar["MagneticFieldStrength"] == 3.0
            assert sidecar["Manufacturer"] == maker
            assert sidecar.get("Units") == ("arbitrary" if part == "phase" else None)
    phase = load(siemens, "echo-1_part-phase_MEGRE")
    assert (phase.dataobj.slope, phase.dataobj.inter) == (2.0, -4096.0)
    shown = phase.get_fdata()
    assert shown.min() >= -4096 and shown.max() <= 4094 and np.ptp(shown) > 8000


def test_all_vendors_store_the_same_scan(siemens: Path, tmp_path: Path) -> None:
    reference = complex_echo(siemens, 2, "siemens")
    brain = np.asarray(truth(siemens, "desc-brain_mask").dataobj) > 0
    for vendor in ("ge", "philips"):
        folder = make(tmp_path / vendor, replace(QUICK, vendor=vendor))
        image = complex_echo(folder, 2, vendor)
        factor = np.vdot(reference[brain], image[brain]) / np.vdot(reference[brain], reference[brain])
        assert abs(factor.imag) < 1e-3 * factor.real
        error = np.abs(image[brain] / factor - reference[brain])
        assert error.max() < 0.02 * np.percentile(np.abs(reference[brain]), 99)
        np.testing.assert_array_equal(
            truth(folder, "desc-truth_Chimap").dataobj, truth(siemens, "desc-truth_Chimap").dataobj
        )


def test_a_tilt_turns_the_slab_and_the_field_but_not_the_head(siemens: Path, ge_tilted: Path) -> None:
    straight, tilted = truth(siemens, "desc-truth_Chimap"), truth(ge_tilted, "desc-truth_Chimap")
    np.testing.assert_array_equal(straight.dataobj, tilted.dataobj)
    np.testing.assert_allclose(b0_direction(straight.affine), (0, 0, 1), atol=1e-6)
    direction = b0_direction(load(ge_tilted, "echo-1_part-real_MEGRE").affine)
    np.testing.assert_allclose(direction, (0, 0.5, np.sqrt(0.75)), atol=1e-6)
    fields = [truth(f, "desc-local_fieldmap", "fmap").get_fdata() for f in (siemens, ge_tilted)]
    assert np.corrcoef(fields[0].ravel(), fields[1].ravel())[0, 1] < 0.9


@pytest.mark.parametrize("name", ["siemens", "ge_tilted"])
def test_the_t1w_shows_the_same_head_moved(name: str, request: pytest.FixtureRequest) -> None:
    """Through the true transform the T1w falls on the labels; without it, it does so less well."""
    folder = request.getfixturevalue(name)
    labels = truth(folder, "seg-truth_dseg")
    t1w = load(folder, "T1w")
    text = folder / "derivatives" / "truth" / "sub-01" / "anat" / "sub-01_from-MEGRE_to-T1w_mode-points_xfm.txt"
    moved = np.loadtxt(text)
    assert nib.aff2axcodes(t1w.affine) == ("P", "S", "R")
    assert not np.allclose(np.sort(np.abs(t1w.affine[:3, 3])), np.sort(np.abs(labels.affine[:3, 3])))
    codes = np.asarray(labels.dataobj)

    def contrast(motion: np.ndarray) -> float:
        matrix = np.linalg.inv(t1w.affine) @ motion @ labels.affine
        seen = ndimage.affine_transform(t1w.get_fdata(), matrix[:3, :3], matrix[:3, 3], codes.shape, order=1)
        return float(seen[np.isin(codes, (2, 41))].mean() / seen[np.isin(codes, (24, 4, 43))].mean())

    assert contrast(moved) > 1.6
    if name == "ge_tilted":
        assert contrast(moved) > 1.05 * contrast(np.eye(4))
        assert np.linalg.norm(moved[:3, 3]) == pytest.approx(4.0, abs=1e-6)


def test_more_participants_and_sessions_leave_the_first_alone(siemens: Path, tmp_path: Path) -> None:
    more = make(tmp_path / "more", replace(QUICK, participants=2))
    assert same(siemens / "sub-01", more / "sub-01")
    rows = (more / "participants.tsv").read_text().splitlines()
    assert rows[0].split("\t") == ["participant_id", "group", "age", "sex"]
    assert [r.split("\t")[:2] for r in rows[1:]] == [["sub-01", "control"], ["sub-02", "ALS"]]
    assert not np.array_equal(
        truth(more, "seg-truth_dseg").dataobj, truth(more, "seg-truth_dseg", sub="sub-02").dataobj
    )
    again = make(more, replace(QUICK, sessions=("A", "B")))  # an earlier simulation is replaced
    assert not (again / "sub-02").exists()
    maps = [again / "sub-01" / f"ses-{s}" / "anat" / f"sub-01_ses-{s}_T1w.nii.gz" for s in "AB"]
    assert not np.array_equal(nib.load(maps[0]).dataobj, nib.load(maps[1]).dataobj)


def test_a_bipolar_readout_leaves_a_phase_along_the_readout(siemens: Path, tmp_path: Path) -> None:
    folder = make(tmp_path / "bipolar", replace(QUICK, bipolar=True))
    brain = np.asarray(truth(siemens, "desc-brain_mask").dataobj) > 0
    for echo, expected in ((1, 0.0), (2, 1.2), (3, 0.0)):
        change = complex_echo(folder, echo, "siemens") * np.conj(complex_echo(siemens, echo, "siemens"))
        line = np.linspace(-1, 1, change.shape[1])[None, :, None]
        residue = np.angle(change * np.exp(-1j * expected * line))[brain]
        assert np.percentile(np.abs(residue), 95) < 0.02


def test_anisotropic_voxels(tmp_path: Path) -> None:
    folder = make(tmp_path / "data", replace(QUICK, voxel_size_mm=(5.0, 5.0, 7.5), extent="brain", slab_mm=90.0))
    image = load(folder, "echo-1_part-mag_MEGRE")
    np.testing.assert_allclose(image.header.get_zooms(), (5, 5, 7.5), rtol=1e-5)
    assert 70 <= image.shape[2] * 7.5 <= 90


def test_a_real_head_from_files(tmp_path: Path) -> None:
    """The synthetic head, saved as another program would, with an oblique affine, comes back as a head."""
    head = template_head(seed=3, voxel_size_mm=3.0)
    keep = (head.labels < 100) & (head.labels != 24) | (head.labels >= 250) & ~np.isin(head.labels, (258, 259, 262))
    brain = np.where(keep & ~np.isin(head.labels, (27, 59, 751, 752)), head.labels, 0)
    brain[np.isin(head.labels, (27, 751))], brain[np.isin(head.labels, (59, 752))] = 28, 60
    turn = np.array([[0.99, -0.14, 0, 5], [0.14, 0.99, 0, -9], [0, 0, 1, 20], [0, 0, 0, 1.0]])
    files = RealHead(tmp_path / "t1.nii", tmp_path / "aparc+aseg.nii")
    nib.save(nib.Nifti1Image(head.t1w * 3, turn @ head.affine), files.t1w)
    nib.save(nib.Nifti1Image(brain.astype(np.int32), turn @ head.affine), files.segmentation)
    folder = make(tmp_path / "data", replace(QUICK, simulation_voxel_size_mm=4.0), files)
    labels = np.asarray(truth(folder, "seg-truth_dseg").dataobj)
    assert {2, 41, 24, 119, 130, 165, 258, 27, 59, 751, 752, 1024} <= set(np.unique(labels).tolist())
    with pytest.raises(ValueError, match="not on the grid"):
        nib.save(nib.Nifti1Image(brain[1:].astype(np.int32), head.affine), files.segmentation)
        make(tmp_path / "other", QUICK, files)


def test_a_folder_of_others_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(NotOurs, match="not empty"):
        make(tmp_path, QUICK)
    assert main([str(tmp_path), "--small"]) == 2
    assert "not empty" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]
    assert main([str(tmp_path / "mine.txt"), "--small"]) == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ["--echo-times-ms", "9", "4"],
        ["--participants", "0"],
        ["--voxel-size-mm", "1", "1", "0"],
        ["--snr", "-1"],
        ["--repetition-time-ms", "5"],
        ["--t1w", "missing.nii", "--segmentation", "missing.nii"],
    ],
)
def test_impossible_options_end_in_a_message(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path / "out"), *arguments]) == 2
    assert "error:" in capsys.readouterr().err


def test_t1w_and_segmentation_belong_together(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as stop:
        main([str(tmp_path / "out"), "--t1w", "a.nii"])
    assert stop.value.code == 2


def test_options_become_settings() -> None:
    line = (
        "out --participants 3 --seed 9 --field-strength 7 --echo-times-ms 5 10 15 --voxel-size-mm 1 1 2 --tilt-deg 20"
    )
    line += " --tilt-axis y --vendor ge --readout bipolar --snr 50 --motion-mm 2 --motion-deg 3 --als-effect-ppb 8"
    line += " --sessions A B --slab-mm 100 --extent brain --simulation-voxel-size 0.5"
    options = vars(parser().parse_args(line.split()))
    options.pop("output_dir")
    expected = SimulationSettings(
        seed=9,
        participants=3,
        sessions=("A", "B"),
        field_strength_tesla=7.0,
        echo_times_s=(0.005, 0.01, 0.015),
        voxel_size_mm=(1.0, 1.0, 2.0),
        simulation_voxel_size_mm=0.5,
        tilt_deg=20.0,
        tilt_axis=(0.0, 1.0, 0.0),
        vendor="ge",
        bipolar=True,
        snr=50.0,
        motion_mm=2.0,
        motion_deg=3.0,
        als_effect_ppb=8.0,
        extent="brain",
        slab_mm=100.0,
    )
    assert settings_from(options) == expected
    assert settings_from({}) == SimulationSettings()
    assert settings_from({"small": True, "participants": 2}) == replace(small(SimulationSettings()), participants=2)


def test_help_is_fast() -> None:
    """The best of three, on a machine that may be busy."""
    seconds = []
    for _ in range(3):
        start = time.monotonic()
        shown = subprocess.run(
            [sys.executable, "-m", "qsmals.cli.simulate", "--help"], capture_output=True, text=True, check=True
        )
        seconds.append(time.monotonic() - start)
        assert "--als-effect-ppb" in shown.stdout
    assert min(seconds) < 0.5
