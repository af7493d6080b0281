"""What all interfaces share: load, call, save, with the threads that the node was given."""

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from nipype.interfaces.base import BaseInterfaceInputSpec, SimpleInterface, traits
from numpy.typing import ArrayLike, NDArray

from qsmals.engine.threads import threads

SERIES_OFFSET = 352
"""Of the voxels in a NIfTI file without extensions, bytes."""

Float = NDArray[np.float32]
Bool = NDArray[np.bool_]


class StepInput(BaseInterfaceInputSpec):
    """Inputs that every step has."""

    num_threads = traits.Int(1, usedefault=True, nohash=True, desc="threads that the step may use")


class Step(SimpleInterface):
    """A node's work in one method: ``compute`` gets the node's folder and returns its outputs."""

    def compute(self, folder: Path) -> dict[str, Any]:
        """Outputs by name; files are written to ``folder``."""
        raise NotImplementedError(type(self).__name__)

    def _run_interface(self, runtime: Any) -> Any:
        with threads(self.inputs.num_threads):
            self._results.update(self.compute(Path(runtime.cwd)))
        return runtime


def warnings_in(detected: Iterable[Mapping[str, Any]]) -> list[str]:
    """Sentences of those notes about the data (``what``, ``found``, ``evidence``) that say ``warning``."""
    return [f"{note['what']}: {note['found']} ({note['evidence']})" for note in detected if note.get("warning")]


def log_warnings(stage: str, texts: Iterable[str], folder: Path) -> None:
    """Show warnings on the terminal and in the log, with the node's folder, which names the scan."""
    for text in texts:
        logging.getLogger(f"qsmals.{stage}").warning("%s [%s]", text, "/".join(folder.parts[-4:]))


def volume(values: NDArray[Any]) -> NDArray[Any]:
    """Voxels without trailing axes of length 1 after the third, which some converters write."""
    while values.ndim > 3 and values.shape[-1] == 1:
        values = values[..., 0]
    return values


def load(path: str | Path) -> Float:
    """Voxels of an image as float32; trailing axes of length 1 are dropped."""
    import nibabel as nib

    return volume(np.asanyarray(nib.load(path).dataobj)).astype(np.float32, copy=False)


def load_echoes(path: str | Path) -> Float:
    """Voxels of a multi-echo series as float32, (x, y, z, e) also for a single echo."""
    series = load(path)
    return series[..., None] if series.ndim == 3 else series


def load_mask(path: str | Path) -> Bool:
    """Voxels of an image as a mask: above one half."""
    return load(path) > 0.5


def load_labels(path: str | Path) -> NDArray[np.int32]:
    """Voxels of a label image as whole numbers."""
    import nibabel as nib

    values = volume(np.asanyarray(nib.load(path).dataobj))
    return (values if np.issubdtype(values.dtype, np.integer) else np.rint(values)).astype(np.int32)


def affine_of(path: str | Path) -> NDArray[np.float64]:
    """(4, 4) voxel to scanner coordinates, mm."""
    import nibabel as nib

    return np.asarray(nib.load(path).affine, dtype=float)


def save(values: ArrayLike, affine: ArrayLike, path: Path) -> str:
    """Write an uncompressed image for the next node; masks become uint8. Returns the path as text."""
    image(values, affine).to_filename(path)
    return str(path)


def save_series(volumes: Iterable[NDArray[Any]], count: int, affine: ArrayLike, path: Path) -> str:
    """Write ``count`` volumes (x, y, z) one after the other as an uncompressed float32 series; never holds two."""
    with path.open("wb") as stream:
        for number, values in enumerate(volumes):
            if number == 0:
                header = image(np.broadcast_to(np.float32(0), (*values.shape, count)), affine).header
                header["vox_offset"] = SERIES_OFFSET
                header.write_to(stream)
                stream.write(bytes(SERIES_OFFSET - stream.tell()))
            stream.write(values.astype("<f4").tobytes(order="F"))
    return str(path)


def image(values: ArrayLike, affine: ArrayLike) -> Any:
    """A NIfTI image in scanner coordinates (both forms set), mm and s."""
    import nibabel as nib

    array = np.asarray(values)
    if array.dtype == np.bool_:
        array = array.astype(np.uint8)
    made = nib.Nifti1Image(array, np.asarray(affine, dtype=float))
    made.header.set_xyzt_units("mm", "sec")
    made.set_sform(made.affine, 1)
    made.set_qform(made.affine, 1)
    return made
