"""The atomic writer: whole files or none, equal bytes for equal content."""

import errno
import hashlib
import os
import resource
import subprocess
import sys
import textwrap
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from qsmals.engine import files
from qsmals.engine.files import atomic, hash_file, sweep, write_bytes, write_image, write_json, write_text

REPOSITORY = Path(__file__).resolve().parents[1]


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_writes_into_a_new_folder(tmp_path):
    path = write_text(tmp_path / "a/b/c.txt", "µ ppm\n")
    assert path.read_bytes() == "µ ppm\n".encode()
    assert names(path.parent) == ["c.txt"]


def test_block_that_raises_leaves_the_old_file(tmp_path):
    path = write_text(tmp_path / "map.json", "old")
    with pytest.raises(ZeroDivisionError), atomic(path) as stream:
        stream.write(b"new")
        raise ZeroDivisionError
    assert path.read_text() == "old" and names(tmp_path) == ["map.json"]


def test_failing_sync_leaves_nothing(tmp_path, monkeypatch):
    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device.*map\.nii") as caught:
        write_bytes(tmp_path / "map.nii", b"voxels")
    assert caught.value.errno == errno.ENOSPC
    assert names(tmp_path) == []


def test_folder_that_cannot_sync_is_no_error(tmp_path, monkeypatch):
    real = os.fsync

    def only_files(handle):
        if os.path.isdir(f"/proc/self/fd/{handle}"):  # noqa: PTH112
            raise OSError(errno.EINVAL, "Invalid argument")
        real(handle)

    monkeypatch.setattr(files.os, "fsync", only_files)
    assert write_text(tmp_path / "a.txt", "x").read_text() == "x"


def test_full_disk(tmp_path):
    """A real write that the kernel refuses half-way (a limit on the file's size)."""
    script = f"""
        import resource, signal, sys
        sys.path.insert(0, {str(REPOSITORY)!r})
        from pathlib import Path
        from qsmals.engine.files import write_bytes
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, {resource.RLIM_INFINITY}))
        try:
            write_bytes(Path({str(tmp_path)!r}) / "map.nii", bytes(1_000_000))
        except OSError as error:
            print(error)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True)
    assert "File too large" in done.stdout and "map.nii" in done.stdout
    assert names(tmp_path) == []


def test_names_as_long_as_the_file_system_allows(tmp_path):
    name = "s" * 251 + ".txt"
    assert write_text(tmp_path / name, "x").name == name
    with pytest.raises(OSError, match="File name too long"):
        write_text(tmp_path / ("s" * 252 + ".txt"), "x")
    assert names(tmp_path) == [name]


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_permissions_follow_the_umask(tmp_path, mask):
    before = os.umask(mask)
    try:
        path = write_text(tmp_path / "a.txt", "x")
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask


def test_a_link_is_replaced_not_followed(tmp_path):
    target = write_text(tmp_path / "annex/object", "published")
    link = tmp_path / "a.txt"
    link.symlink_to(target)
    write_text(link, "new")
    assert target.read_text() == "published" and not link.is_symlink()


def test_json_refuses_nan(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"mean": float("nan")})
    assert names(tmp_path) == []
    assert write_json(tmp_path / "a.json", {"b": 1, "a": "µ"}).read_text() == '{\n  "b": 1,\n  "a": "µ"\n}\n'


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_images_round_trip_with_equal_bytes(tmp_path, suffix):
    voxels = np.random.default_rng(0).normal(size=(7, 5, 3)).astype(np.float32)
    image = nib.Nifti1Image(voxels, np.diag([1.0, 2.0, 3.0, 1.0]))
    one, two = (write_image(tmp_path / f"{n}{suffix}", image) for n in ("one", "two"))
    assert hash_file(one) == hash_file(two)
    loaded = nib.load(one)
    np.testing.assert_array_equal(np.asanyarray(loaded.dataobj), voxels)
    assert loaded.get_data_dtype() == np.float32
    write_image(tmp_path / f"again{suffix}", loaded)
    assert loaded.get_filename() == str(one), "the image still belongs to its file"
    assert hash_file(tmp_path / f"again{suffix}") == hash_file(one)


def test_gzip_carries_no_time_and_no_name(tmp_path):
    head = write_bytes(tmp_path / "a.tsv.gz", b"x").read_bytes()[:10]
    assert head[3] == 0 and head[4:8] == b"\0\0\0\0"


def test_hash_reads_every_block(tmp_path):
    content = bytes(range(256)) * 9000
    assert hash_file(write_bytes(tmp_path / "a", content)) == hashlib.sha256(content).hexdigest()


def test_sweep_removes_what_a_killed_writer_left(tmp_path):
    script = f"""
        import os, sys
        sys.path.insert(0, {str(REPOSITORY)!r})
        from pathlib import Path
        from qsmals.engine.files import atomic
        with atomic(Path({str(tmp_path)!r}) / "anat/map.nii") as stream:
            stream.write(b"half")
            os.kill(os.getpid(), 9)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=False)
    (left,) = (tmp_path / "anat").iterdir()
    assert left.name.startswith(".")
    assert sweep(tmp_path, older_than_s=3600) == [] and sweep(tmp_path, recursive=False) == []
    assert sweep(tmp_path) == [left] and names(tmp_path / "anat") == []
