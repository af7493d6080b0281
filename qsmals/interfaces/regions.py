"""Atlas labels and region tables, as nipype interfaces."""

from pathlib import Path
from typing import Any

from nipype.interfaces.base import File, TraitedSpec, traits

from qsmals.interfaces.anatomy import AntsInput, AntsStep, write_image
from qsmals.interfaces.base import Step, StepInput, affine_of, load, load_labels, load_mask


class _MeasureInput(StepInput):
    in_file = File(exists=True, mandatory=True, desc="map")
    mask = File(exists=True, mandatory=True, desc="where the map was measured")
    white_matter = File(exists=True, mandatory=True)
    labels = File(exists=True, mandatory=True)
    atlas = traits.Str(mandatory=True)
    unit = traits.Str(mandatory=True, desc="of the map")


class _MeasureOutput(TraitedSpec):
    table = File(desc="TSV, one row a region")
    columns = traits.Dict(desc="what each column means")


class MeasureRegions(Step):
    """Statistics of a map in each region of an atlas."""

    input_spec = _MeasureInput
    output_spec = _MeasureOutput

    def compute(self, folder: Path) -> dict[str, Any]:
        """See :func:`qsmals.roi.statistics.region_statistics`."""
        from qsmals.anatomy.atlases import get_atlas
        from qsmals.recon.grid import voxel_size_mm
        from qsmals.roi.statistics import region_statistics
        from qsmals.roi.table import column_dictionary, table_text

        table = region_statistics(
            load(self.inputs.in_file),
            load_labels(self.inputs.labels),
            measured=load_mask(self.inputs.mask),
            regions=get_atlas(self.inputs.atlas).regions,
            voxel_size_mm=voxel_size_mm(affine_of(self.inputs.in_file)),
            white_matter=load_mask(self.inputs.white_matter),
        )
        written = folder / "table.tsv"
        written.write_text(table_text(table))
        return {"table": str(written), "columns": column_dictionary(self.inputs.unit)}


class _AtlasInput(AntsInput):
    atlas = traits.Str(mandatory=True)


class _AtlasOutput(TraitedSpec):
    labels = File(desc="label image in the atlas's space")
    table = File(desc="index, name and hemisphere of each label")


class AtlasImage(AntsStep):
    """The label image of a packaged atlas and its table."""

    input_spec = _AtlasInput
    output_spec = _AtlasOutput

    def compute(self, folder: Path) -> dict[str, Any]:
        """See :mod:`qsmals.anatomy.atlases`."""
        from qsmals.anatomy.atlases import atlas_image, get_atlas

        labels = atlas_image(self.inputs.atlas, compute=self.resources(folder))
        table = folder / "labels.tsv"
        table.write_text(get_atlas(self.inputs.atlas).label_table())
        return {"labels": write_image(labels, folder / "labels.nii"), "table": str(table)}
