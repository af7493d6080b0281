"""Linear transforms in files of ITK: ``.mat`` (MATLAB, version 4) and ``.txt`` (Insight Transform File)."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

Floats = NDArray[np.float64]
Parts = tuple[Floats, Floats]
"""Matrix (3, 3) and translation (3,), mm."""

LEAST_DETERMINANT = 1e-3


def _affine(parameters: Floats, fixed: Floats) -> Parts:
    return parameters[:9].reshape(3, 3), parameters[9:]


def _euler(parameters: Floats, fixed: Floats) -> Parts:
    """Angles about x, y and z, turned about y, x and z in this order, or x, y, z where the fixed parameters say so."""
    order = "xyz" if fixed[3:].any() else "yxz"
    angles = [parameters["xyz".index(axis)] for axis in order]
    return Rotation.from_euler(order, angles).as_matrix(), parameters[3:]


def _versor(parameters: Floats, fixed: Floats) -> Parts:
    return _turned([*parameters[:3], np.sqrt(max(0.0, 1.0 - float(parameters[:3] @ parameters[:3])))]), parameters[3:6]


def _similarity(parameters: Floats, fixed: Floats) -> Parts:
    turn, translation = _versor(parameters, fixed)
    return parameters[6] * turn, translation


def _quaternion(parameters: Floats, fixed: Floats) -> Parts:
    return _turned(parameters[:4]), parameters[4:]


def _translation(parameters: Floats, fixed: Floats) -> Parts:
    return np.eye(3), parameters


def _turned(quaternion: NDArray[np.float64] | list[float]) -> Floats:
    """Rotation matrix of x, y, z, w."""
    return np.asarray(Rotation.from_quat(quaternion).as_matrix())


KINDS: Mapping[str, tuple[int, Callable[[Floats, Floats], Parts]]] = {
    "AffineTransform": (12, _affine),
    "MatrixOffsetTransformBase": (12, _affine),
    "Rigid3DTransform": (12, _affine),
    "Euler3DTransform": (6, _euler),
    "VersorRigid3DTransform": (6, _versor),
    "Similarity3DTransform": (7, _similarity),
    "QuaternionRigidTransform": (7, _quaternion),
    "TranslationTransform": (3, _translation),
}
"""ITK's name of each kind, how many parameters it has, and what they mean."""


def read_affine(path: Path) -> Floats:
    """The (4, 4) map of LPS points, mm (fixed to moving), in a file of ITK.

    Raises
    ------
    ValueError
        The file cannot be read, or is not one linear transform in three dimensions that can be inverted.
    """
    try:
        word, parameters, fixed = _read_text(path) if path.suffix == ".txt" else _read_matlab(path)
    except Exception as error:  # scipy raises nearly anything where bytes are no MATLAB file
        raise ValueError(f"{path} is no linear transform of ITK ({error})") from error
    name, _, precision_and_dimensions = word.partition("_")
    if name not in KINDS or not precision_and_dimensions.endswith("_3_3"):
        raise ValueError(f"{path} holds a {word}; what is read is {', '.join(KINDS)} in three dimensions")
    count, meaning = KINDS[name]
    if parameters.size != count or fixed.size not in (0, 3, 4) or not np.isfinite([*parameters, *fixed]).all():
        raise ValueError(f"{path} does not hold the {count} parameters and the centre of a {name}")
    matrix, centre = np.eye(4), fixed[:3] if fixed.size else np.zeros(3)
    matrix[:3, :3], translation = meaning(parameters, fixed)
    matrix[:3, 3] = translation + centre - matrix[:3, :3] @ centre
    if abs(np.linalg.det(matrix)) < LEAST_DETERMINANT:
        raise ValueError(f"{path} maps the head to a plane: it cannot be inverted")
    return matrix


def _read_matlab(path: Path) -> tuple[str, Floats, Floats]:
    """Name, parameters and fixed parameters."""
    from scipy.io import loadmat

    found = {key: np.asarray(value, dtype=float).ravel() for key, value in loadmat(path, appendmat=False).items()
             if not key.startswith("__")}  # fmt: skip
    fixed = found.pop("fixed")
    if len(found) != 1:
        raise ValueError(f"it has {len(found)} transforms")
    ((word, parameters),) = found.items()
    return word, parameters, fixed


def _read_text(path: Path) -> tuple[str, Floats, Floats]:
    """Name, parameters and fixed parameters."""
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    pairs = [(key.strip(), value.strip()) for key, colon, value in (line.partition(":") for line in lines) if colon]
    found = dict(pairs)
    if len(pairs) != len(found):
        raise ValueError("it has several transforms")
    if "Transform" not in found or "Parameters" not in found:
        raise ValueError("it has no Transform: and Parameters:")
    parameters, fixed = (np.array(found.get(key, "").split(), dtype=float) for key in ("Parameters", "FixedParameters"))
    return found["Transform"], parameters, fixed
