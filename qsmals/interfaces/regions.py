"""Atlas labels and region tables, as nipype interfaces."""

from pathlib import Path
from typing import Any

import numpy as np
from nipype.interfaces.base import File, TraitedSpec, isdefined, traits

from qsmals.interfaces.anatomy import AntsInput, AntsStep, write_image
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
    registrations = traits.List(traits.Dict, desc="quality of the registrations that brought the labels here")


class _MeasureOutput(TraitedSpec):
    table = File(desc="TSV, one row a region")
    columns = traits.Dict(desc="what each column means")


class MeasureRegions(Step):
    """Statistics of a map in each region of an atlas."""

    input_spec = _MeasureInput
    output_spec = _MeasureOutput

    def compute(self, folder: Path) -> dict[str, Any]:
        """See :func:`qsmals.roi.statistics.region_statistics` and :func:`qsmals.roi.weighted.weighted_statistics`."""
        from qsmals.recon.grid import voxel_size_mm
        from qsmals.roi.columns import STATISTICS
        from qsmals.roi.statistics import region_statistics
        from qsmals.roi.table import column_dictionary, table_text
        from qsmals.roi.weighted import weighted_statistics

        regions, parts, optional = self._regions()
        measured: dict[str, Any] = {
            "values": load(self.inputs.in_file),
            "measured": load_mask(self.inputs.mask),
            "voxel_size_mm": voxel_size_mm(affine_of(self.inputs.in_file)),
        }
        if self.inputs.probabilistic:
            table = weighted_statistics(memberships=load_echoes(self.inputs.labels), regions=regions, **measured)
        else:
            measured["white_matter"] = load_mask(self.inputs.white_matter)
            table = region_statistics(labels=load_labels(self.inputs.labels), regions=regions, **measured)
        absent = np.isin(table["index"], optional) & (table["volume_mm3"] == 0)
        table = {name: column[~absent] for name, column in table.items()}
        if isdefined(self.inputs.parts):
            more = region_statistics(labels=load_labels(self.inputs.parts), regions=parts, **measured)
            table = {name: np.concatenate([table[name], more[name]]) for name in table}
        columns: dict[str, Any] = column_dictionary(self.inputs.unit, weighted=self.inputs.probabilistic)
        if failed := [why for facts in self.inputs.registrations or [] for why in facts["reasons"]]:
            table |= {name: np.full(len(table["index"]), np.nan) for name in STATISTICS}
            columns["RegistrationFailed"] = "All statistics are n/a: " + "; ".join(failed)
        written = folder / "table.tsv"
        written.write_text(table_text(table))
        return {"table": str(written), "columns": columns}

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
