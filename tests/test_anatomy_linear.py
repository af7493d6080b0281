"""Linear transforms of ITK in files, against what ITK makes of them."""

from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from qsmals.anatomy.linear import read_affine

POINTS = np.array([[0.0, 0, 0], [100, 0, 0], [0, 50, 10]])


def text(path: Path, kind: str, parameters: str, fixed: str = "1 2 3") -> Path:
    path.write_text(
        f"#Insight Transform File V1.0\n#Transform 0\nTransform: {kind}\nParameters: {parameters}\n"
        f"FixedParameters: {fixed}\n"
    )
    return path


@pytest.mark.parametrize(
    ("kind", "parameters", "fixed", "expected"),
    [  # of antsApplyTransformsToPoints
        (
            *("Euler3DTransform_double_3_3", "0.1 0.2 0.3 4 5 6", "1 2 3 0"),
            [[4.00152, 4.89458, 6.0725], [97.04474, 35.75233, -13.69518], [-8.51356, 52.07514, 20.81587]],
        ),
        (
            *("Euler3DTransform_double_3_3", "0.1 0.2 0.3 4 5 6", "1 2 3 1"),
            [[3.95885, 4.90839, 6.07747], [97.58819, 33.87134, -13.78946], [-7.61244, 52.36008, 20.72134]],
        ),
        (
            *("VersorRigid3DTransform_double_3_3", "0.1 0.2 0.3 4 5 6", "1 2 3"),
            [[4, 5, 6], [78, 64.64171, -25.09447], [-17.51141, 44.34528, 30.27362]],
        ),
        (
            *("Similarity3DTransform_double_3_3", "0.1 0.2 0.3 4 5 6 1.1", "1 2 3"),
            [[3.9, 4.8, 5.7], [85.3, 70.40589, -28.50392], [-19.76255, 48.0798, 32.40098]],
        ),
        (
            *("QuaternionRigidTransform_double_3_3", "0.1 0.2 0.3 0.92736184954957 4 5 6", "1 2 3"),
            [[4, 5, 6], [78, 64.64171, -25.09447], [-17.51141, 44.34528, 30.27362]],
        ),
        ("TranslationTransform_double_3_3", "4 5 6", "", [[4, 5, 6], [104, 5, 6], [4, 55, 16]]),
        (
            *("AffineTransform_float_3_3", "1 0 0 0 1 0 0 .1 1 4 5 6", "1 2 3"),
            [[4, 5, 5.8], [104, 5, 5.8], [4, 55, 20.8]],
        ),
    ],
)
def test_each_kind_moves_points_as_itk_does(tmp_path, kind, parameters, fixed, expected):
    values, centre = ([float(word) for word in words.split()] for words in (parameters, fixed))
    savemat(tmp_path / "x.mat", {kind: np.c_[values], "fixed": np.c_[centre] if centre else 0.0}, format="4")
    for path in (text(tmp_path / "x.txt", kind, parameters, fixed), *([tmp_path / "x.mat"] if centre else [])):
        matrix = read_affine(path)
        assert np.allclose(POINTS @ matrix[:3, :3].T + matrix[:3, 3], expected, atol=2e-5)


def test_what_is_no_single_linear_transform_is_refused(tmp_path):
    path = text(tmp_path / "x.txt", "Euler3DTransform_double_3_3", "0 0 0 0 0 0")
    path.write_text(2 * path.read_text())
    for file, message in (
        (path, "several transforms"),
        (text(tmp_path / "a.txt", "AffineTransform_double_2_2", "1 0 0 1 0 0"), "in three dimensions"),
        (text(tmp_path / "b.txt", "BSplineTransform_double_3_3", "1 0 0 1 0 0"), "holds a BSplineTransform"),
        (text(tmp_path / "c.txt", "Euler3DTransform_double_3_3", "1 0 0"), "the 6 parameters"),
        (text(tmp_path / "d.txt", "AffineTransform_double_3_3", "0 " * 12), "cannot be inverted"),
        (tmp_path / "gone.mat", "no linear transform of ITK"),
    ):
        with pytest.raises(ValueError, match=message):
            read_affine(file)
    (tmp_path / "fsl.mat").write_text("1 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 0 1\n")
    with pytest.raises(ValueError, match="no linear transform of ITK"):
        read_affine(tmp_path / "fsl.mat")
