"""Small BIDS trees for tests: real NIfTI files of a few voxels, or empty files for tests of names only."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

SHAPE = (6, 7, 5)
AFFINE = np.array([[1.0, 0, 0, -3], [0, 1.0, 0, -3], [0, 0, 2.0, -5], [0, 0, 0, 1]])
TE_S = (0.005, 0.010, 0.015)
COMMON = {"MagneticFieldStrength": 3.0, "Manufacturer": "Siemens", "RepetitionTime": 0.05, "FlipAngle": 15}


@dataclass(frozen=True)
class Gre:
    """A gradient-echo scan to write: its entities after ``sub-`` and ``ses-``, echo times and parts."""

    entities: str = ""
    te_s: Sequence[float] = TE_S
    parts: Sequence[str] = ("mag", "phase")
    suffix: str = "MEGRE"


@dataclass(frozen=True)
class Visit:
    """The scans of a subject in one session (or in none)."""

    subject: str = "01"
    session: str | None = None
    gres: Sequence[Gre] = (Gre(),)
    t1ws: Sequence[str] = field(default=("",))

    @property
    def prefix(self) -> str:
        """``sub-01`` or ``sub-01_ses-A``."""
        return f"sub-{self.subject}" + (f"_ses-{self.session}" if self.session else "")

    def anat(self, root: Path) -> Path:
        """The folder of the images."""
        return root.joinpath(*self.prefix.split("_"), "anat")


def write_tree(root: Path, *visits: Visit, empty: bool = False) -> Path:
    """Write a raw data set; with ``empty`` the images are empty files beside true sidecars."""
    write_json(root / "dataset_description.json", {"Name": "tree", "BIDSVersion": "1.10.0", "DatasetType": "raw"})
    for visit in visits:
        for gre in visit.gres:
            write_gre(visit, gre, root, empty=empty)
        for entities in visit.t1ws:
            path = visit.anat(root) / f"{_join(visit.prefix, entities)}_T1w.nii.gz"
            write_image(path, None if empty else noise(path.name), {"MagneticFieldStrength": 3.0})
    return root


def write_gre(visit: Visit, gre: Gre, root: Path, *, empty: bool) -> None:
    """Write the images of one gradient-echo scan; the magnitude decays and the phase are Siemens integers."""
    for index, te_s in enumerate(gre.te_s, 1):
        for part in gre.parts:
            echo = f"echo-{index}" if len(gre.te_s) > 1 else ""
            name = _join(visit.prefix, gre.entities, echo, f"part-{part}" if part else "", gre.suffix)
            data = noise(name) * np.exp(-30 * te_s) if part != "phase" else phase(name)
            units = {"Units": "arbitrary"} if part == "phase" else {}
            write_image(
                visit.anat(root) / f"{name}.nii.gz", None if empty else data, {"EchoTime": te_s, **COMMON, **units}
            )


def noise(name: str) -> NDArray[np.float32]:
    """Positive values that depend on nothing but the name."""
    return np.random.default_rng(list(name.encode())).uniform(900, 1100, SHAPE).astype(np.float32)


def phase(name: str) -> NDArray[np.int16]:
    """Whole numbers over -4096..4094, as Siemens scanners write."""
    return np.random.default_rng(list(name.encode())).integers(-4096, 4095, SHAPE).astype(np.int16)


def write_image(
    path: Path,
    data: NDArray[Any] | None,
    metadata: Mapping[str, Any] | None = None,
    affine: NDArray[np.float64] = AFFINE,
) -> Path:
    """Write an image (an empty file without ``data``) with its sidecar."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if data is None:
        path.touch()
    else:
        nib.save(nib.Nifti1Image(data, affine), path)
    if metadata is not None:
        write_json(sidecar_of(path), metadata)
    return path


def sidecar_of(image: Path) -> Path:
    """Path of an image's own JSON file."""
    return image.with_name(image.name.partition(".")[0] + ".json")


def change_sidecar(image: Path, **fields: Any) -> None:
    """Set fields of an image's sidecar; ``None`` removes one."""
    content = json.loads(sidecar_of(image).read_text())
    content.update(fields)
    write_json(sidecar_of(image), {key: value for key, value in content.items() if value is not None})


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON, NaN and infinity allowed (the tests need bad files too)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def snapshot(root: Path) -> dict[str, bytes | None]:
    """Every path below ``root`` with the bytes of the files, to show that nothing was changed."""
    return {str(p.relative_to(root)): p.read_bytes() if p.is_file() else None for p in sorted(root.rglob("*"))}


def _join(*pieces: str) -> str:
    return "_".join(piece for piece in pieces if piece)


# --- hypothesis -----------------------------------------------------------------------------------

labels = st.text("abcXYZ0129", min_size=1, max_size=4)


@st.composite
def gre_scans(draw: st.DrawFn) -> Gre:
    """Scans of one to five echoes with or without acquisition and run."""
    acquisition = draw(st.none() | labels)
    run = draw(st.none() | st.integers(1, 12))
    entities = _join(f"acq-{acquisition}" if acquisition else "", f"run-{run}" if run else "")
    n_echoes = draw(st.integers(1, 5))
    te_s = tuple(round(0.004 + 0.005 * i, 4) for i in range(n_echoes))
    parts = draw(st.sampled_from([("mag", "phase"), ("", "phase"), ("real", "imag")]))
    return Gre(entities, te_s, parts)


@st.composite
def visits(draw: st.DrawFn) -> list[Visit]:
    """Data sets of up to three subjects with up to two sessions, whose outputs cannot clash."""
    result = []
    for subject in draw(st.lists(labels, min_size=1, max_size=3, unique_by=str.lower)):
        sessions = draw(st.just([None]) | st.lists(labels, min_size=1, max_size=2, unique_by=str.lower))
        for session in sessions:
            gres = draw(st.lists(gre_scans(), min_size=1, max_size=2, unique_by=lambda gre: gre.entities.lower()))
            result.append(Visit(subject, session, tuple(gres), ("",)))
    return result
