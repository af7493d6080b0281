"""Read every voxel of a NIfTI file once, in pieces, and say what is in it or what is wrong with it."""

import gzip
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

CHUNK_VOXELS = 1 << 20
MAX_VOXELS = 1 << 30
"""More voxels than any head scan has; a header that claims more is refused."""

DEFLATE_MAX_RATIO = 1032
"""The most that the deflate format can shrink data (zlib's technical details)."""

MIN_VOXELS_PER_AXIS = 4
VOXEL_SIZE_RANGE_MM = (0.05, 20.0)
MAX_AXIS_COSINE = 0.01

_AGAIN = "Copy the file again from its source or convert it again"


class BadImage(Exception):
    """A file that is no usable image: ``code``, what is wrong and what to do."""

    def __init__(self, code: str, what: str, remedy: str) -> None:
        super().__init__(what)
        self.code = code
        self.what = what
        self.remedy = remedy


@dataclass(frozen=True)
class ImageFacts:
    """What the header and the voxels of an image say.

    Attributes
    ----------
    path : Path
    shape : tuple of int, (3,)
    affine : tuple of tuple of float, (4, 4)
        Voxel to scanner coordinates, mm.
    minimum, maximum : float
        Over the finite voxels, after the header's scaling.
    n_nonfinite : int
        Voxels that are NaN or infinite.
    is_integer : bool
        Whether every finite value is a whole number after scaling.
    rms : float
        Root of the mean square over all finite voxels.
    """

    path: Path
    shape: tuple[int, int, int]
    affine: tuple[tuple[float, ...], ...]
    minimum: float
    maximum: float
    n_nonfinite: int
    is_integer: bool
    rms: float


def read_facts(path: Path) -> ImageFacts:
    """Read the header, then every voxel, with a few MB of memory whatever the header claims.

    Raises
    ------
    BadImage
        Missing, empty, truncated or damaged file, no NIfTI, not a volume, unusable orientation.
    """
    require_file(path)
    image = _open(path)
    shape = _volume_shape(image)
    _require_real_dtype(image)
    _require_plausible_size(path, image)
    affine = _usable_affine(image)
    return _scan_voxels(path, image, shape, affine)


def require_file(path: Path) -> None:
    """Raise BadImage unless ``path`` is a readable file with something in it."""
    if path.is_symlink() and not path.exists():
        remedy = "Fetch the content (for DataLad: datalad get) or mend the link"
        raise BadImage("missing-content", "is a link to a file that is not there", remedy)
    try:
        if not path.is_file():
            raise BadImage("missing-file", "is not there or is not a file", "Restore the file")
        with path.open("rb") as stream:
            if not stream.read(1):
                raise BadImage("empty", "is empty (0 bytes)", _AGAIN)
    except OSError as error:
        raise BadImage("unreadable", f"cannot be read ({error.strerror})", "Check the permissions") from error


def _open(path: Path) -> Any:
    """The nibabel image, header only."""
    import nibabel as nib

    try:
        image = nib.load(path)
    except Exception as error:  # a damaged header can make nibabel raise nearly anything
        _require_sound_start(path)
        hint = " ".join(str(error).split())[:160]
        raise BadImage("not-nifti", f"is not a NIfTI image ({type(error).__name__}: {hint})", _AGAIN) from error
    if not isinstance(image, nib.Nifti1Image):
        raise BadImage("not-nifti", f"is not a NIfTI image but {type(image).__name__}", _AGAIN)
    return image


def _require_sound_start(path: Path) -> None:
    """Raise BadImage when the compressed stream itself is damaged near its start."""
    try:
        with _stream(path) as stream:
            stream.read(1 << 20)
    except gzip.BadGzipFile as error:
        if "Not a gzipped file" not in str(error):
            raise BadImage("truncated", f"is cut off or damaged ({error})", _AGAIN) from error
    except (EOFError, zlib.error) as error:
        raise BadImage("truncated", f"is cut off or damaged ({error})", _AGAIN) from error


def _volume_shape(image: Any) -> tuple[int, int, int]:
    """Shape without trailing axes of length one."""
    shape = tuple(int(n) for n in image.dataobj.shape)
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) > 3:
        remedy = "Split it into one 3D file an echo (echo-1, echo-2, ...), as BIDS wants"
        raise BadImage("not-3d", f"has {len(shape)} dimensions {shape} where one 3D volume is expected", remedy)
    if len(shape) < 3 or min(shape) < MIN_VOXELS_PER_AXIS:
        remedy = f"Give a volume with at least {MIN_VOXELS_PER_AXIS} voxels along each axis"
        raise BadImage("not-3d", f"has the shape {shape}, which is no volume", remedy)
    return shape[0], shape[1], shape[2]


def _require_real_dtype(image: Any) -> None:
    if image.dataobj.dtype.kind not in "iuf":
        what = f"has the data type {image.dataobj.dtype} where real numbers are expected"
        raise BadImage("data-type", what, "Store magnitude and phase (or real and imaginary part) as separate files")


def _require_plausible_size(path: Path, image: Any) -> None:
    """Compare what the header claims with what the file can hold, before anything is read."""
    data = image.dataobj
    if prod(data.shape) > MAX_VOXELS:
        what = f"claims {prod(data.shape):.3g} voxels in its header, more than any head scan has"
        raise BadImage("header-size", what, _AGAIN)
    if data.offset < 0:
        raise BadImage("header-size", f"has the impossible data offset {data.offset} in its header", _AGAIN)
    needed = data.offset + prod(data.shape) * data.dtype.itemsize
    size = path.stat().st_size
    holds = size * DEFLATE_MAX_RATIO if path.name.endswith(".gz") else size
    if needed > holds:
        what = f"is cut off: the header promises {needed} bytes, the file has {size}"
        raise BadImage("truncated", what, _AGAIN)


def _usable_affine(image: Any) -> NDArray[np.float64]:
    """The affine, when it places the volume in the scanner."""
    again = "Convert from DICOM again (dcm2niix), or set the orientation in the header"
    affine = np.asarray(image.affine, dtype=float)
    if not np.isfinite(affine).all():
        raise BadImage("affine", "has NaN or infinity in its orientation (affine)", again)
    edges = np.linalg.norm(affine[:3, :3], axis=0)
    low, high = VOXEL_SIZE_RANGE_MM
    if not (np.all(edges >= low) and np.all(edges <= high)):
        shown = " x ".join(f"{edge:.4g}" for edge in edges)
        raise BadImage("voxel-size", f"has voxels of {shown} mm, outside {low:g} to {high:g} mm", again)
    axes = affine[:3, :3] / edges
    if abs(np.linalg.det(axes)) < 1e-3:
        raise BadImage("affine", "has an orientation (affine) that cannot be inverted", again)
    if np.abs(axes.T @ axes - np.eye(3)).max() > MAX_AXIS_COSINE:
        remedy = "Give the image as it came from the scanner, without a registration in its header"
        raise BadImage("affine", "has axes that are not at right angles (shear in the affine)", remedy)
    if not (image.header["sform_code"] or image.header["qform_code"]):
        raise BadImage("affine", "has no orientation (qform and sform codes are 0): B0's direction is unknown", again)
    return affine


def _scan_voxels(path: Path, image: Any, shape: tuple[int, int, int], affine: NDArray[np.float64]) -> ImageFacts:
    lows, highs, squares = [], [], 0.0
    n_bad = n_good = 0
    is_integer = True
    for values in _pieces(path, image):
        finite = np.isfinite(values)
        if not finite.all():
            n_bad += int(values.size - np.count_nonzero(finite))
            values = values[finite]
        if not values.size:
            continue
        n_good += values.size
        lows.append(float(values.min()))
        highs.append(float(values.max()))
        with np.errstate(over="ignore"):
            squares += float(np.dot(values, values))
        is_integer = is_integer and bool(np.abs(values - np.rint(values)).max() < 1e-3)
    return ImageFacts(
        path=path,
        shape=shape,
        affine=tuple(tuple(float(v) for v in row) for row in affine),
        minimum=min(lows, default=float("nan")),
        maximum=max(highs, default=float("nan")),
        n_nonfinite=n_bad,
        is_integer=is_integer and n_good > 0,
        rms=(squares / n_good) ** 0.5 if n_good else float("nan"),
    )


def _pieces(path: Path, image: Any) -> Iterator[NDArray[np.float64]]:
    """The voxels after the header's scaling, a million at a time; the end of the stream is checked."""
    data = image.dataobj
    remaining = prod(data.shape)
    try:
        with _stream(path) as stream:
            _skip(stream, int(data.offset))
            while remaining:
                count = min(remaining, CHUNK_VOXELS)
                yield _scaled(_read_exactly(stream, count * data.dtype.itemsize), data)
                remaining -= count
            while stream.read(1 << 20):  # a gzip checksum is compared at the end only
                pass
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise BadImage("truncated", f"is cut off or damaged ({error})", _AGAIN) from error
    except OSError as error:
        raise BadImage("unreadable", f"cannot be read ({error.strerror or error})", _AGAIN) from error


def _stream(path: Path) -> IO[bytes]:
    return gzip.open(path, "rb") if path.name.endswith(".gz") else path.open("rb")  # type: ignore[return-value]


def _skip(stream: IO[bytes], count: int) -> None:
    while count > 0:
        count -= len(_read_exactly(stream, min(count, 1 << 20)))


def _read_exactly(stream: IO[bytes], count: int) -> bytes:
    content = stream.read(count)
    if len(content) < count:
        raise EOFError("it ends before the last voxel")
    return content


def _scaled(content: bytes, data: Any) -> NDArray[np.float64]:
    """Bytes as float64 values with slope and intercept; overflow shows as infinity and is counted."""
    values = np.frombuffer(content, dtype=data.dtype).astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        return values * data.slope + data.inter if (data.slope, data.inter) != (1.0, 0.0) else values
