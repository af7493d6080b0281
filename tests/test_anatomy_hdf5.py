"""Composite transform files without the time of their writing."""

import time

import numpy as np

from qsmals.anatomy.compute import Compute, ants_session
from qsmals.anatomy.hdf5 import clear_times, composite_doubt


def test_equal_transforms_are_equal_files_and_stay_readable(tmp_path):
    with ants_session(Compute(tmp_path)) as ants:
        transform = ants.create_ants_transform(
            transform_type="AffineTransform", dimension=3, matrix=np.diag([1.1, 0.9, 1.0]), translation=(1, 2, 3)
        )
        files = [tmp_path / "a.h5", tmp_path / "b.h5"]
        for file in files:
            ants.write_transform(transform, str(file))
            time.sleep(1.1)
        assert files[0].read_bytes() != files[1].read_bytes()
        for file in files:
            clear_times(file)
        assert files[0].read_bytes() == files[1].read_bytes()
        assert np.allclose(ants.read_transform(str(files[0])).parameters, transform.parameters)
    whole = files[0].read_bytes()
    assert composite_doubt(files[0]) == ""
    files[0].write_bytes(whole[: len(whole) // 2])
    assert "cut off" in composite_doubt(files[0])


def test_what_is_no_composite_transform_is_told_apart(tmp_path):
    file = tmp_path / "x.h5"
    assert "cannot be read" in composite_doubt(file)
    file.write_bytes(b"")
    assert composite_doubt(file) == "it is no HDF5 file"
    file.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    assert composite_doubt(file) == "it holds no transform of ITK"


def test_other_bytes_are_left_alone(tmp_path):
    file = tmp_path / "no.h5"
    content = b"OHDR\x02\x20" + bytes(range(60)) + b"OHDR\x02"
    file.write_bytes(content)
    clear_times(file)
    assert file.read_bytes() == content
