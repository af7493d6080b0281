"""Every bad input gets its own message, all of a subject's at once, and nothing raises."""

import gzip
import os
import struct
import time
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from qsmals.bids.checks import CheckedSubject, check_subject
from qsmals.bids.errors import format_faults
from qsmals.bids.images import BadImage, read_facts
from qsmals.bids.layout import find_subjects
from qsmals.recon.phase.scaling import describe_values, detect_phase_scale
from tests.bids_trees import (
    AFFINE,
    SHAPE,
    Gre,
    Visit,
    change_sidecar,
    noise,
    phase,
    sidecar_of,
    write_image,
    write_tree,
)

MAG = "sub-01_echo-{}_part-mag_MEGRE.nii.gz"
PHASE = "sub-01_echo-{}_part-phase_MEGRE.nii.gz"


@pytest.fixture
def anat(tmp_path: Path) -> Path:
    """The anat folder of a good subject with three echoes."""
    return Visit("01").anat(write_tree(tmp_path, Visit("01")))


def check(anat: Path, **options: float) -> CheckedSubject:
    (subject,) = find_subjects(anat.parent.parent)
    return check_subject(subject, **options)


def test_good_subject_has_facts_and_no_fault(anat: Path) -> None:
    checked = check(anat)
    assert checked.ok
    facts = checked.facts["sub-01"]
    phases = np.stack([phase(PHASE.format(i).removesuffix(".nii.gz")) for i in (1, 2, 3)])
    assert (facts.phase_min, facts.phase_max, facts.phase_is_integer) == (phases.min(), phases.max(), True)
    assert facts.shape == SHAPE and np.allclose(facts.affine, AFFINE) and facts.voxel_size_mm == (1.0, 1.0, 2.0)
    assert facts.te_s == (0.005, 0.010, 0.015) and facts.b0_tesla == 3.0 and facts.phase_units == "arbitrary"
    first = noise(MAG.format(1).removesuffix(".nii.gz")).astype(float) * np.exp(-30 * 0.005)
    assert facts.magnitude_rms[0] == pytest.approx(np.sqrt(np.mean(first**2)), rel=1e-6)


def test_real_and_imaginary(tmp_path: Path) -> None:
    visit = Visit("01", gres=(Gre(parts=("real", "imag")),))
    checked = check(visit.anat(write_tree(tmp_path, visit)))
    facts = checked.facts["sub-01"]
    assert checked.ok and facts.parts == "cartesian" and facts.phase_min is None and facts.phase_is_integer is None
    assert facts.magnitude_rms[0] > facts.magnitude_rms[1] > 1000


def damage_nothing_but_cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def cut_in_the_header(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:30])


def make_empty(path: Path) -> None:
    path.write_bytes(b"")


def make_text(path: Path) -> None:
    path.write_bytes(gzip.compress(b"this is no image " * 100))


def remove_content(path: Path) -> None:
    path.unlink()
    path.symlink_to("../.git/annex/objects/x")


def make_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(content)


def not_compressed(path: Path) -> None:
    path.write_bytes(gzip.decompress(path.read_bytes()))


def edit_header(path: Path, offset: int, layout: str, *values: float) -> None:
    content = bytearray(gzip.decompress(path.read_bytes()))
    struct.pack_into(layout, content, offset, *values)
    path.write_bytes(gzip.compress(bytes(content)))


def claim_terabytes(path: Path) -> None:
    edit_header(path, 42, "<3h", 32000, 32000, 32000)


def claim_a_little_more(path: Path) -> None:
    edit_header(path, 42, "<3h", 12, 14, 50)


def claim_gigabytes(path: Path) -> None:
    edit_header(path, 42, "<3h", 1000, 1000, 1000)


def negative_shape(path: Path) -> None:
    edit_header(path, 42, "<3h", -6, 7, 5)


def unknown_data_type(path: Path) -> None:
    edit_header(path, 70, "<h", 999)


def resave(path: Path, data: np.ndarray, affine: np.ndarray = AFFINE) -> None:
    nib.save(nib.Nifti1Image(data, affine), path)


def values_of(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj).copy()


def put_nan(path: Path) -> None:
    data = values_of(path).astype(np.float32)
    data[1, 2, 3] = np.nan
    data[0, 0, 0] = np.inf
    resave(path, data)


def put_zeros(path: Path) -> None:
    resave(path, np.zeros(SHAPE, np.int16))


def put_huge(path: Path) -> None:
    data = values_of(path).astype(np.float64)
    data[1, 2, 3] = 1e300
    resave(path, data)


def put_complex(path: Path) -> None:
    resave(path, values_of(path).astype(np.complex64))


def put_4d(path: Path) -> None:
    resave(path, np.stack([values_of(path)] * 3, axis=-1))


def put_slice(path: Path) -> None:
    resave(path, values_of(path)[..., :1])


def nan_affine(path: Path) -> None:
    edit_header(path, 280, "<f", float("nan"))


def zero_zooms(path: Path) -> None:
    edit_header(path, 280, "<12f", *([0.0] * 12))


def flat_affine(path: Path) -> None:
    edit_header(path, 280, "<12f", 1, 1, 0, 0, 1, 1, 0, 0, 0, 0, 1, 0)


def sheared_affine(path: Path) -> None:
    edit_header(path, 280, "<12f", 1, 0.3, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0)


def no_orientation(path: Path) -> None:
    edit_header(path, 252, "<2h", 0, 0)


def voxels_in_metres(path: Path) -> None:
    resave(path, values_of(path), np.diag([0.001, 0.001, 0.001, 1]))


BAD_IMAGES: list[tuple[Callable[[Path], None], str, str]] = [
    (damage_nothing_but_cut, "truncated", "cut off"),
    (cut_in_the_header, "truncated", "cut off"),
    (flip_a_bit, "truncated", "damaged"),
    (not_compressed, "not-nifti", "not a NIfTI"),
    (make_empty, "empty", "0 bytes"),
    (make_text, "not-nifti", "not a NIfTI"),
    (remove_content, "missing-content", "datalad get"),
    (make_fifo, "missing-file", "not a file"),
    (claim_terabytes, "header-size", "more than any head scan"),
    (claim_gigabytes, "truncated", "the header promises"),
    (claim_a_little_more, "truncated", "cut off"),
    (negative_shape, "not-3d", "no volume"),
    (unknown_data_type, "not-nifti", "not a NIfTI"),
    (put_nan, "nan", "2 voxels that are NaN or infinite"),
    (put_zeros, "constant", "in every voxel"),
    (put_huge, "values", "1e+300"),
    (put_complex, "data-type", "complex64"),
    (put_4d, "not-3d", "one 3D file an echo"),
    (put_slice, "not-3d", "no volume"),
    (nan_affine, "affine", "NaN"),
    (zero_zooms, "voxel-size", "0 x 0 x 0 mm"),
    (flat_affine, "affine", "inverted"),
    (sheared_affine, "affine", "right angles"),
    (no_orientation, "affine", "qform"),
    (voxels_in_metres, "voxel-size", "0.001"),
]


@pytest.mark.parametrize(("damage", "code", "message"), BAD_IMAGES, ids=[d.__name__ for d, _, _ in BAD_IMAGES])
@pytest.mark.parametrize("name", [PHASE.format(2), "sub-01_T1w.nii.gz"], ids=["phase", "t1w"])
def test_bad_image(anat: Path, name: str, damage: Callable[[Path], None], code: str, message: str) -> None:
    damage(anat / name)
    checked = check(anat)
    (fault,) = [fault for fault in checked.faults if fault.code == code]
    assert message in str(fault) and fault.files == (anat / name,) and fault.remedy
    assert str(fault).startswith(f"sub-01: {name}: ")
    assert ("sub-01" in checked.facts) == (name == "sub-01_T1w.nii.gz")


def test_truncated_uncompressed_image(tmp_path: Path) -> None:
    path = write_image(tmp_path / "x.nii", noise("x"))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BadImage, match="the header promises") as caught:
        read_facts(path)
    assert caught.value.code == "truncated"


def test_facts_of_scaled_big_endian_4d_and_nifti2_images(tmp_path: Path) -> None:
    stored = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)
    image = nib.Nifti2Image(stored[..., None].astype(">i2"), AFFINE)
    image.header.set_slope_inter(2.0, -4096.0)
    nib.save(image, tmp_path / "x.nii.gz")
    facts = read_facts(tmp_path / "x.nii.gz")
    scaled = nib.load(tmp_path / "x.nii.gz").get_fdata()
    assert facts.shape == SHAPE
    assert (facts.minimum, facts.maximum) == (scaled.min(), scaled.max())
    assert facts.rms == pytest.approx(np.sqrt(np.mean(scaled**2)))


def test_reading_in_pieces_is_the_same_and_fractions_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = noise("x").round()
    whole = read_facts(write_image(tmp_path / "a.nii.gz", data))
    monkeypatch.setattr("qsmals.bids.images.CHUNK_VOXELS", 13)
    pieces = read_facts(tmp_path / "a.nii.gz")
    assert (pieces.minimum, pieces.maximum, pieces.is_integer) == (whole.minimum, whole.maximum, True)
    assert pieces.rms == pytest.approx(whole.rms, rel=1e-12)
    data[-1, -1, -1] += 0.5
    assert not read_facts(write_image(tmp_path / "b.nii.gz", data)).is_integer


def test_all_faults_at_once(anat: Path) -> None:
    damage_nothing_but_cut(anat / MAG.format(1))
    put_nan(anat / PHASE.format(2))
    change_sidecar(anat / MAG.format(3), EchoTime=None)
    damage_nothing_but_cut(anat / "sub-01_T1w.nii.gz")
    checked = check(anat)
    assert sorted(fault.code for fault in checked.faults) == ["echo-time", "nan", "truncated", "truncated"]
    assert len(format_faults(checked.faults).splitlines()) == 4


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "EchoTime is missing"),
        ("0.005", "'0.005', not a number"),
        ([0.005], "not a number"),
        (True, "not a number"),
        (float("nan"), "not a number"),
        (10**400, "a number out of range"),
        (5.0, "in milliseconds write 0.005"),
        (1e300, "too long"),
        (0, "impossible"),
        (-0.005, "impossible"),
    ],
)
def test_bad_echo_time(anat: Path, value: object, message: str) -> None:
    change_sidecar(anat / MAG.format(1), EchoTime=value)
    checked = check(anat)
    (fault,) = checked.faults
    assert fault.code == "echo-time" and message in str(fault) and "seconds" in fault.remedy
    assert not checked.facts


def test_echo_times_of_the_parts_differ(anat: Path) -> None:
    change_sidecar(anat / MAG.format(2), EchoTime=0.011)
    (fault,) = check(anat).faults
    assert "parts of echo 2 have different EchoTime" in str(fault)


def set_echo_times(anat: Path, *te_s: float) -> None:
    for index, value in enumerate(te_s, 1):
        for name in (MAG, PHASE):
            change_sidecar(anat / name.format(index), EchoTime=value)


def test_shuffled_echo_times(anat: Path) -> None:
    set_echo_times(anat, 0.005, 0.015, 0.010)
    (fault,) = check(anat).faults
    assert fault.code == "echo-order" and "echoes 1, 2, 3 have EchoTime 0.005, 0.015, 0.01 s" in str(fault)
    assert "Number the echoes" in fault.remedy


def test_shuffled_echo_images(anat: Path) -> None:
    first, last = anat / MAG.format(1), anat / MAG.format(3)
    first.rename(anat / "x")
    last.rename(first)
    (anat / "x").rename(last)
    (fault,) = check(anat).faults
    assert fault.code == "echo-order" and "rises from echo 1 to echo 3" in str(fault)


def test_an_echo_without_signal_is_named(anat: Path) -> None:
    image = nib.load(anat / MAG.format(2))
    nib.save(nib.Nifti1Image(0.02 * image.get_fdata(dtype=np.float32), image.affine), anat / MAG.format(2))
    (fault,) = check(anat).faults
    assert fault.code == "dark-echo" and "echo 2 is dark: its magnitude is 2 %" in str(fault)
    assert '{"megre": {"echo": [...]}}' in fault.remedy


def test_the_remedy_for_an_echo_without_signal_works(anat: Path) -> None:
    (subject,) = find_subjects(anat.parent.parent, bids_filters={"megre": {"echo": [1, 3]}})
    checked = check_subject(subject)
    assert checked.ok and checked.facts["sub-01"].te_s == (0.005, 0.015)


def test_equal_echo_times(anat: Path) -> None:
    set_echo_times(anat, 0.005, 0.010, 0.005)
    (fault,) = check(anat).faults
    assert fault.code == "echo-time-twice" and "echoes 1 and 3" in str(fault)


def set_field(anat: Path, value: object) -> None:
    for path in anat.glob("*_MEGRE.nii.gz"):
        change_sidecar(path, MagneticFieldStrength=value)


@pytest.mark.parametrize(
    ("value", "message"),
    [(None, "is missing"), ("3T", "not a number"), (3000, "not in tesla"), (0, "not in tesla"), (-3, "not in tesla")],
)
def test_bad_field_strength(anat: Path, value: object, message: str) -> None:
    set_field(anat, value)
    checked = check(anat)
    (fault,) = checked.faults
    assert fault.code == "field-strength" and message in str(fault) and "--field-strength" in fault.remedy
    override = check(anat, b0_tesla=2.89)
    assert override.ok and override.facts["sub-01"].b0_tesla == 2.89


def test_a_given_field_strength_that_contradicts_a_sidecar(anat: Path) -> None:
    (fault,) = check(anat, b0_tesla=7.0).faults
    assert fault.code == "field-strength" and "is 3 T, but --field-strength says 7" in str(fault)
    assert "Leave out --field-strength" in fault.remedy and len(fault.files) == 6
    assert not check(anat, b0_tesla=7.0).facts
    agreed = check(anat, b0_tesla=3.0005)
    assert agreed.ok and agreed.facts["sub-01"].b0_tesla == 3.0005
    change_sidecar(anat / MAG.format(2), MagneticFieldStrength=7)
    (fault,) = check(anat, b0_tesla=3.0).faults
    assert fault.files == (anat / MAG.format(2),) and "is 7 T" in str(fault)


def test_field_strength_differs_between_echoes(anat: Path) -> None:
    change_sidecar(anat / MAG.format(2), MagneticFieldStrength=7)
    (fault,) = check(anat).faults
    assert "differs between the images (3, 7 T)" in str(fault)


def test_grids_that_do_not_match(anat: Path) -> None:
    moved = AFFINE.copy()
    moved[2, 3] += 0.5
    resave(anat / MAG.format(2), values_of(anat / MAG.format(2)), moved)
    resave(anat / PHASE.format(3), values_of(anat / PHASE.format(3))[1:])
    shape, affine = sorted(check(anat).faults, key=str, reverse=True)
    assert "6 x 7 x 5 and 5 x 7 x 5 voxels" in str(shape) and "voxels away" in str(affine)
    assert {shape.code, affine.code} == {"grid"}


def test_rounding_of_an_affine_is_no_fault(anat: Path) -> None:
    path = anat / MAG.format(2)
    resave(path, values_of(path), AFFINE + 1e-4 * (AFFINE != 0) * (AFFINE != 1))
    assert check(anat).ok


@pytest.mark.parametrize("text", [b"", b"{", b"[1]", b"3", b'{"a": \xff}', b"[" * 100_000])
def test_bad_json(anat: Path, text: bytes) -> None:
    path = sidecar_of(anat / MAG.format(1))
    path.write_bytes(text)
    checked = check(anat)
    faults = [fault for fault in checked.faults if fault.code == "json"]
    assert [fault.files for fault in faults] == [(path,)] and "Mend the sidecar" in str(faults[0])


def test_units(anat: Path) -> None:
    change_sidecar(anat / PHASE.format(1), Units="degrees")
    change_sidecar(anat / PHASE.format(2), Units=["rad"])
    change_sidecar(anat / PHASE.format(3), Units="rad")
    faults = check(anat).faults
    assert {fault.code for fault in faults} == {"units"} and len(faults) == 3
    assert "Units says rad, but the values go from -40" in str(faults[-1])


def test_phase_in_radians(anat: Path) -> None:
    for index in (1, 2, 3):
        path = anat / PHASE.format(index)
        resave(path, (values_of(path) / 4096 * np.pi).astype(np.float32))
        change_sidecar(path, Units="rad")
    facts = check(anat).facts["sub-01"]
    assert (
        facts.phase_units == "rad" and facts.phase_is_integer is False and facts.phase_max == pytest.approx(np.pi, 0.01)
    )


def declare_radians(anat: Path, *ranges: tuple[float, float]) -> None:
    for index, (low, high) in enumerate(ranges, 1):
        path = anat / PHASE.format(index)
        stored = values_of(path).astype(float)
        share = (stored - stored.min()) / (stored.max() - stored.min())
        resave(path, (low + (high - low) * share).astype(np.float32))
        change_sidecar(path, Units="rad")


@pytest.mark.parametrize(
    ("ranges", "n_files"),
    [
        ([(-3.1, 3.1)] * 3, 0),
        ([(0.0, 6.28)] * 3, 0),
        ([(-1.0, 1.2)] * 3, 0),
        ([(-4.0, 2.2), (-3.1, 3.1), (-3.1, 3.1)], 1),
        ([(-3.1, 3.1), (0.0, 6.2), (-3.1, 3.1)], 3),
        ([(-180.0, 180.0), (-3.1, 3.1), (-3.1, 3.1)], 1),
    ],
)
def test_units_rad_means_what_the_reconstruction_takes(
    anat: Path, ranges: list[tuple[float, float]], n_files: int
) -> None:
    declare_radians(anat, *ranges)
    checked = check(anat)
    assert [(fault.code, len(fault.files)) for fault in checked.faults] == ([("units", n_files)] if n_files else [])
    stored = [values_of(anat / PHASE.format(index)).astype(np.float32) for index in (1, 2, 3)]
    if not n_files:
        assert detect_phase_scale(describe_values(stored), units="rad", manufacturer="Siemens").factor == 1
    elif ranges[0][0] > -100:
        with pytest.raises(ValueError, match="neither"):
            detect_phase_scale(describe_values(stored), units="rad", manufacturer="Siemens")


def test_faults_of_one_run_leave_the_other_usable(tmp_path: Path) -> None:
    visit = Visit("01", gres=(Gre("run-1"), Gre("run-2")))
    anat = visit.anat(write_tree(tmp_path, visit))
    put_nan(anat / "sub-01_run-2_echo-1_part-mag_MEGRE.nii.gz")
    (subject,) = find_subjects(tmp_path)
    checked = check_subject(subject)
    assert list(checked.facts) == ["sub-01_run-1"]
    assert len(checked.faults) == 1


def test_damaged_bytes_never_raise_anything_else(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    good = write_image(tmp_path / "good.nii", noise("x")).read_bytes()
    for number in range(400):
        content = bytearray(good)
        for position in rng.integers(0, 352 if number % 4 else len(content), rng.integers(1, 6)):
            content[position] ^= 1 << int(rng.integers(8))
        packed = number % 2 == 0
        path = tmp_path / ("bad.nii.gz" if packed else "bad.nii")
        path.write_bytes(gzip.compress(bytes(content), 1) if packed else bytes(content))
        started = time.monotonic()
        try:
            read_facts(path)
        except BadImage as bad:
            assert bad.what and bad.remedy
        assert time.monotonic() - started < 5
