"""Regions that the field of view cuts: whole in number, measured in part."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qsmals.anatomy.images import LPS_FROM_RAS, to_ants
from qsmals.anatomy.search import similarity_matrix
from qsmals.anatomy.stages import write_affine
from qsmals.anatomy.view import STEP_MM, grid_around, volumes_beyond
from qsmals.interfaces.base import save
from qsmals.interfaces.regions import MeasureRegions, RegionsInView
from qsmals.roi.statistics import Region, region_statistics
from qsmals.roi.table import read_table

SHAPE = (60, 66, 60)
T1W = np.diag([2.0, 2.0, 2.0, 1.0])
T1W[:3, 3] = [-60, -66, -60]
PUTAMEN, PALLIDUM, CORTEX = 12, 13, 1024
MOTION = similarity_matrix(np.array([0.1, -0.15, 0.2, 6.0, -4.0, 3.0]), np.zeros(3))
"""LPS points of the scan to those of the T1w image."""

SIZE = (1.5, 1.5, 3.0)


def places() -> np.ndarray:
    """Scanner coordinates of the T1w image's voxels, mm."""
    return np.stack(np.meshgrid(*(T1W[i, i] * np.arange(SHAPE[i]) + T1W[i, 3] for i in range(3)), indexing="ij"))


def t1w_images() -> dict[str, np.ndarray]:
    """A round brain, a putamen around its middle, a pallidum above, a cortex below."""
    x, y, z = places()
    labels = np.zeros(SHAPE, np.int32)
    labels[(np.abs(x) < 12) & (np.abs(y) < 20) & (np.abs(z) < 14)] = PUTAMEN
    labels[(np.abs(x) < 12) & (np.abs(y) < 20) & (np.abs(z - 28) < 8)] = PALLIDUM
    labels[(np.abs(x) < 12) & (np.abs(y) < 20) & (np.abs(z + 36) < 6)] = CORTEX
    return {"brain": (x**2 + y**2 + z**2 < 50**2).astype(np.float32), "labels": labels}


def slab(thickness_mm: float, above_mm: float) -> tuple[tuple[int, int, int], np.ndarray]:
    """Grid of a scan in the scanner's moved coordinates, from ``above_mm`` upwards along its slices."""
    shape = (90, 96, round(thickness_mm / SIZE[2]))
    affine = np.diag([*SIZE, 1.0])
    affine[:3, 3] = [-67.5, -72.0, above_mm + SIZE[2] / 2]
    return shape, np.linalg.inv(LPS_FROM_RAS @ MOTION @ LPS_FROM_RAS) @ affine


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """T1w images and the transform, with a slab whose lower face halves the putamen."""
    shape, affine = slab(45.0, 0.0)
    saved = {name: save(data, T1W, tmp_path / f"{name}.nii") for name, data in t1w_images().items()}
    reference = save(np.ones(shape, np.float32), affine, tmp_path / "gre.nii")
    return {**saved, "reference": reference, "to_gre": str(write_affine(MOTION, tmp_path / "to_gre.mat"))}


def in_view(folder: Path, files: dict[str, str], **more: Any) -> dict[int, tuple[float, float]]:
    given = {"transforms": [files["to_gre"]], **files, **more}
    found = RegionsInView(**given).run(cwd=str(folder)).outputs.in_view
    return {label: (inside, outside) for label, inside, outside in found}


def test_volumes_on_both_sides_of_the_edge_are_counted(tmp_path: Path, files: dict[str, str]) -> None:
    found = in_view(tmp_path, files)
    assert set(found) == {PUTAMEN, CORTEX}, "the pallidum is wholly in view"
    volume = 8.0 * int((t1w_images()["labels"] == PUTAMEN).sum())
    assert found[PUTAMEN] == pytest.approx((volume / 2, volume / 2), rel=0.08)
    assert found[CORTEX][0] == 0.0


def test_labels_of_any_size_are_counted(tmp_path: Path, files: dict[str, str]) -> None:
    large = np.where(t1w_images()["labels"] == PUTAMEN, 312782546, 0).astype(np.int32)
    found = in_view(tmp_path, files | {"labels": save(large, T1W, tmp_path / "large.nii")})
    assert found == {312782546: in_view(tmp_path, files)[PUTAMEN]}


def test_a_slab_through_a_region_covers_half_of_it(tmp_path: Path, files: dict[str, str]) -> None:
    """From labels on the T1w grid to the table, with the transform that takes them to the scan."""
    from qsmals.interfaces.anatomy import Resample

    labels = Resample(
        in_file=files["labels"], reference=files["reference"], transforms=[files["to_gre"]], kind="labels"
    )
    step = {
        "in_file": files["reference"],
        "mask": files["reference"],
        "white_matter": files["reference"],
        "labels": labels.run(cwd=str(tmp_path)).outputs.out_file,
        "atlas": "als",
        "unit": "ppm",
    }
    cut = [[label, *volumes] for label, volumes in in_view(tmp_path, files).items()]
    table = read_table(Path(MeasureRegions(in_view=cut, **step).run(cwd=str(tmp_path)).outputs.table).read_text())
    rows = {int(i): at for at, i in enumerate(table["index"])}
    coverage = {i: table["coverage"][rows[i]] for i in (PUTAMEN, PALLIDUM, CORTEX)}
    assert coverage == pytest.approx({PUTAMEN: 0.5, PALLIDUM: 1.0, CORTEX: 0.0}, abs=0.04)
    whole = 8.0 * int((t1w_images()["labels"] == PUTAMEN).sum())
    assert table["volume_mm3"][rows[PUTAMEN]] == pytest.approx(whole, rel=0.05)
    assert np.isnan(table["mean"][rows[CORTEX]])


def test_a_scan_of_the_whole_brain_cuts_nothing(tmp_path: Path, files: dict[str, str]) -> None:
    shape, affine = slab(110.0, -55.0)
    files["reference"] = save(np.ones(shape, np.float32), affine, tmp_path / "whole.nii")
    assert in_view(tmp_path, files) == {}


def test_segmentation_parts_and_probabilities(tmp_path: Path, files: dict[str, str]) -> None:
    other = t1w_images()["labels"]
    segmentation = save(PALLIDUM * (other == PUTAMEN).astype(np.int32), T1W, tmp_path / "segmentation.nii")
    upper = np.where(places()[2] > 6, 40021, 40023).astype(np.int32)
    parts = save(upper, T1W, tmp_path / "parts.nii")
    more = {"segmentation": segmentation, "segmentation_transforms": [files["to_gre"]], "parts": parts}
    found = in_view(tmp_path, files, **more)
    assert set(found) == {PALLIDUM, 40023}, "parts only where the segmentation has their nucleus"
    assert found[40023][1] == found[PALLIDUM][1]
    members = np.stack([other == PALLIDUM, 0.5 * (other == PUTAMEN)], axis=-1).astype(np.float32)
    labels = save(members, T1W, tmp_path / "members.nii")
    found = in_view(tmp_path, files | {"labels": labels}, probabilistic=True)
    assert sum(found[2]) == pytest.approx(4.0 * int((other == PUTAMEN).sum()), rel=0.05)


def test_the_grid_lies_along_the_scan_around_the_brain(tmp_path: Path) -> None:
    shape, affine = slab(45.0, 0.0)
    reference = to_ants(np.zeros(shape, np.float32), affine)
    grid = grid_around(to_ants(t1w_images()["brain"], T1W), reference, write_affine(MOTION, tmp_path / "to_gre.mat"))
    assert np.allclose(grid.direction, reference.direction)
    assert np.asarray(grid.shape) * STEP_MM == pytest.approx(100, abs=6)


def test_fits_change_what_lies_outside_by_the_same_factor() -> None:
    cut = [(CORTEX, 100.0, 100.0), (PUTAMEN, 100.0, 10.0), (PALLIDUM, 0.0, 7.0)]
    found = volumes_beyond(cut, on_grid_mm3={CORTEX: 80.0, PUTAMEN: 1000.0})
    assert found == {CORTEX: 80.0, PUTAMEN: 20.0, PALLIDUM: 7.0}


def test_unions_count_what_lies_outside_of_their_members() -> None:
    labels = np.array([1, 1, 2, 2]).reshape(4, 1, 1)
    regions = (Region(1, "a", "L", (1,)), Region(2, "a", "R", (2,)), Region(3, "a", "B", (1, 2)))
    table = region_statistics(
        np.arange(4.0).reshape(4, 1, 1),
        labels,
        measured=np.ones(labels.shape, bool),
        regions=regions,
        voxel_size_mm=(1, 1, 2),
        beyond_mm3={1: 8.0, 9: 5.0},
    )
    assert table["coverage"] == pytest.approx([1 / 3, 1.0, 0.5])
    assert table["volume_mm3"].tolist() == [12.0, 4.0, 16.0]
    assert np.isnan(table["mean"][0]) and table["mean"][2] == 1.5
