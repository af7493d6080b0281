"""Atlas labels and region tables, as nipype interfaces."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from nipype.interfaces.base import File, TraitedSpec, isdefined, traits
from numpy.typing import NDArray

from qsmals.interfaces.anatomy import AntsInput, AntsStep, labels_of, read_image, read_labels, read_volumes, write_image
from qsmals.interfaces.base import Step, StepInput, affine_of, load, load_echoes, load_labels, load_mask


class _MeasureInput(StepInput):
    in_file = File(exists=True, mandatory=True, desc="map")
    mask = File(exists=True, mandatory=True, desc="where the map was measured")
    white_matter = File(exists=True, mandatory=True)
    labels = File(exists=True, mandatory=True)
    parts = File(exists=True, desc="parts of the labels: more rows at the end of the table")
    atlas = traits.Str("", usedefault=True, desc="name of a packaged atlas")
    segmented = traits.Bool(False, usedefault=True, desc="the labels are a subject's own segmentation by FreeSurfer")
    regions = traits.List(desc="of any other: index, name, hemisphere and members of each")
    optional = traits.List(traits.Int, desc="numbers of regions that have no row where they have no voxel")
    probabilistic = traits.Bool(False, usedefault=True, desc="the labels are volumes of probabilities")
    unit = traits.Str(mandatory=True, desc="of the map")
    in_view = traits.List(desc="number and volumes in and outside the field of view, mm^3, of labels that it cuts")
    registration_gre = traits.Dict(desc="quality of that of GRE to T1w, which placed labels and mask")
    registration_template = traits.Dict(desc="quality of that to the built-in atlas's template, which placed labels")
    registration_between_templates = traits.Dict(desc="quality of that of another template to the built-in atlas's")


class _MeasureOutput(TraitedSpec):
    table = File(desc="TSV, one row a region")
    columns = traits.Dict(desc="what each column means")


class MeasureRegions(Step):
    """Statistics of a map in each region of an atlas.

    A registration that is given and failed takes the statistics of the rows that depend on it: of all, but where the
    labels are a subject's own segmentation the one to the template takes those alone that the atlas had a part in.
    """

    input_spec = _MeasureInput
    output_spec = _MeasureOutput

    def compute(self, folder: Path) -> dict[str, Any]:
        """See :func:`qsmals.roi.statistics.region_statistics` and :func:`qsmals.roi.weighted.weighted_statistics`."""
        from qsmals.anatomy.view import volumes_beyond
        from qsmals.recon.grid import voxel_size_mm
        from qsmals.roi.columns import STATISTICS
        from qsmals.roi.table import column_dictionary, table_text
        from qsmals.roi.weighted import weighted_statistics

        regions, parts, optional = self._regions()
        in_view = self.inputs.in_view or []
        measured: dict[str, Any] = {
            "values": load(self.inputs.in_file),
            "measured": load_mask(self.inputs.mask),
            "voxel_size_mm": voxel_size_mm(affine_of(self.inputs.in_file)),
        }
        if self.inputs.probabilistic:
            table = weighted_statistics(
                memberships=load_echoes(self.inputs.labels),
                regions=regions,
                beyond_mm3=volumes_beyond(in_view),
                **measured,
            )
        else:
            measured["white_matter"] = load_mask(self.inputs.white_matter)
            table = self._statistics(self.inputs.labels, regions, measured)
        absent = np.isin(table["index"], optional) & (table["volume_mm3"] == 0)
        table = {name: column[~absent] for name, column in table.items()}
        if isdefined(self.inputs.parts):
            more = self._statistics(self.inputs.parts, parts, measured)
            table = {name: np.concatenate([table[name], more[name]]) for name in table}
        columns: dict[str, Any] = column_dictionary(self.inputs.unit, weighted=self.inputs.probabilistic)
        lost, reasons = self._lost(table["index"])
        if reasons:
            table |= {name: np.where(lost, np.nan, table[name]) for name in STATISTICS}
            names = ", ".join(dict.fromkeys(table["name"][lost]))
            which = "All statistics" if lost.all() else f"The statistics of {names}"
            columns["RegistrationFailed"] = f"{which} are n/a: {'; '.join(reasons)}"
        written = folder / "table.tsv"
        written.write_text(table_text(table))
        return {"table": str(written), "columns": columns}

    def _lost(self, index: NDArray[np.int64]) -> tuple[NDArray[np.bool_], list[str]]:
        """Rows (n,) of the regions numbered ``index`` that came through a failed registration, and how it failed."""
        from qsmals.anatomy.atlases import changed_by_midbrain, get_atlas

        every = np.ones(len(index), dtype=bool)
        placed = every
        if self.inputs.segmented:
            atlas = get_atlas(self.inputs.atlas)
            placed = np.isin(index, [r.index for r in (*changed_by_midbrain(atlas.regions), *atlas.parts)])
        judged = (
            ("of GRE to T1w", self.inputs.registration_gre, every),
            ("to the template", self.inputs.registration_template, placed),
            ("of the templates", self.inputs.registration_between_templates, every),
        )
        failed = [(name, facts["reasons"], rows) for name, facts, rows in judged if facts and facts["reasons"]]
        lost = np.any([rows for _, _, rows in failed], axis=0) if failed else ~every
        return lost, [f"registration {name}: {why}" for name, reasons, _ in failed for why in reasons]

    def _statistics(self, file: str, regions: tuple[Any, ...], measured: dict[str, Any]) -> dict[str, Any]:
        """Statistics of the regions of a label image."""
        from qsmals.anatomy.view import volumes_beyond
        from qsmals.roi.statistics import region_statistics

        labels, in_view = load_labels(file), self.inputs.in_view or []
        voxel_mm3 = float(np.prod(measured["voxel_size_mm"]))
        on_grid = {int(n): voxel_mm3 * int((labels == int(n)).sum()) for n, *_ in in_view}
        beyond = volumes_beyond(in_view, on_grid_mm3=on_grid)
        return region_statistics(labels=labels, regions=regions, beyond_mm3=beyond, **measured)

    def _regions(self) -> tuple[tuple[Any, ...], tuple[Any, ...], list[int]]:
        """Regions and parts of the packaged atlas, or the regions that were given, and which of them may be absent."""
        from qsmals.anatomy.atlases import get_atlas
        from qsmals.roi.statistics import Region

        if self.inputs.atlas:
            atlas = get_atlas(self.inputs.atlas)
            more = atlas.more if self.inputs.segmented else ()
            return (*atlas.regions, *more), atlas.parts, [r.index for r in more]
        regions = tuple(Region(index, name, side, tuple(m)) for index, name, side, m in self.inputs.regions)
        return regions, (), list(self.inputs.optional or [])


class _InViewInput(AntsInput):
    brain = File(exists=True, mandatory=True, desc="0 outside the brain, on the T1w grid")
    to_gre = File(exists=True, mandatory=True, desc="linear transform of T1w images to the GRE grid")
    reference = File(exists=True, mandatory=True, desc="any image on the GRE grid")
    labels = File(exists=True, mandatory=True)
    parts = File(exists=True, desc="parts of the labels, on their grid")
    transforms = traits.List(File(exists=True), desc="of labels and parts to the GRE grid")
    segmentation = File(exists=True, desc="labels of another pipeline in place of the atlas's")
    segmentation_transforms = traits.List(File(exists=True), desc="of those to the GRE grid")
    probabilistic = traits.Bool(False, usedefault=True, desc="the labels are volumes of probabilities")


class _InViewOutput(TraitedSpec):
    in_view = traits.List(desc="number and volumes in and outside the field of view, mm^3, of labels that it cuts")


class RegionsInView(AntsStep):
    """How much of each region lies in the field of view of the scan."""

    input_spec = _InViewInput
    output_spec = _InViewOutput

    def compute(self, folder: Path) -> dict[str, Any]:
        """See :mod:`qsmals.anatomy.view`."""
        from qsmals.anatomy.compute import ants_session
        from qsmals.anatomy.view import counted, grid_around, label_volumes, membership_volumes

        to_gre = Path(self.inputs.to_gre)
        with ants_session(self.resources(folder)):
            brain, reference = read_image(self.inputs.brain), read_image(self.inputs.reference)
            grid = grid_around(brain, reference, to_gre)
            if grid is None:
                return {"in_view": []}
            shown, hidden = counted(grid, brain, reference, to_gre)
            if self.inputs.probabilistic:
                found = membership_volumes(self._memberships(grid), shown, hidden)
            else:
                labels, parts = self._labels(grid)
                found = label_volumes(labels, shown, hidden)
                if parts is not None:
                    found += label_volumes(parts, shown, hidden)
        return {"in_view": [list(entry) for entry in found]}

    def _memberships(self, grid: Any) -> Iterator[Any]:
        """Each volume of probabilities on the grid."""
        from qsmals.anatomy.registration import resample

        transforms = [Path(path) for path in self.inputs.transforms or []]
        _, volumes = read_volumes(self.inputs.labels)
        for member in volumes:
            yield resample(member, grid, transforms).numpy()

    def _labels(self, grid: Any) -> tuple[Any, Any]:
        """Labels on the grid, and their parts where they have some."""
        from qsmals.anatomy.atlases import PARENTS, add_midbrain

        labels, parts = self._moved("labels", grid), None
        if isdefined(self.inputs.segmentation):
            labels = add_midbrain(self._moved("segmentation", grid), labels)
        if isdefined(self.inputs.parts):
            parts = self._moved("parts", grid)
            for part, parent in PARENTS.items():
                parts[(parts == part) & (labels != parent)] = 0
        return labels, parts

    def _moved(self, name: str, grid: Any) -> Any:
        """One label image on the grid."""
        from qsmals.anatomy.registration import resample

        way = "segmentation_transforms" if name == "segmentation" else "transforms"
        transforms = [Path(path) for path in getattr(self.inputs, way) or []]
        image, numbers = read_labels(getattr(self.inputs, name))
        return labels_of(resample(image, grid, transforms, order=0), numbers)


class _AtlasInput(AntsInput):
    atlas = traits.Str(mandatory=True)


class _AtlasOutput(TraitedSpec):
    labels = File(desc="label image in the atlas's space")
    table = File(desc="index, name and hemisphere of each label")
    segmentation_table = File(desc="the same where FreeSurfer's labels of a subject take the place of the atlas's")
    parts = File(desc="image of the labels' parts")
    parts_table = File(desc="index, name and hemisphere of each part")


class AtlasImage(AntsStep):
    """The label image of a packaged atlas and its table."""

    input_spec = _AtlasInput
    output_spec = _AtlasOutput

    def compute(self, folder: Path) -> dict[str, Any]:
        """See :mod:`qsmals.anatomy.atlases`."""
        from qsmals.anatomy.atlases import atlas_images, get_atlas

        atlas = get_atlas(self.inputs.atlas)
        labels, parts = atlas_images(self.inputs.atlas, compute=self.resources(folder))
        tables = {
            "labels.tsv": atlas.label_table(),
            "segmentation.tsv": atlas.label_table(segmented=True),
            "parts.tsv": atlas.part_table(),
        }
        for name, text in tables.items():
            (folder / name).write_text(text)
        return {
            "labels": write_image(labels, folder / "labels.nii"),
            "table": str(folder / "labels.tsv"),
            "segmentation_table": str(folder / "segmentation.tsv"),
            "parts": write_image(parts, folder / "parts.nii"),
            "parts_table": str(folder / "parts.tsv"),
        }
