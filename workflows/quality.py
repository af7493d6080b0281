"""The measures at the end of a scan."""

from nipype.pipeline.engine import Node

from qsmals.interfaces.outputs import SaveFile
from qsmals.interfaces.quality import MeasureQuality
from qsmals.settings import Settings
from qsmals.workflows.anatomy import ants_settings
from qsmals.workflows.nodes import NodeMaker
from qsmals.workflows.plan import ScanPlan


def init_quality_node(plan: ScanPlan, maker: NodeMaker, *, settings: Settings) -> Node:
    """Quality measures of one scan.

    Inputs: what the scan's graph made, see :class:`~qsmals.interfaces.quality.MeasureQuality`. Outputs: out_file, JSON.
    """
    measure = MeasureQuality(
        te_s=[float(te) for te in plan.facts.te_s], b0_tesla=float(plan.facts.b0_tesla), **ants_settings(settings)
    )
    return maker.make(measure, "quality", step="quality measures")


def init_save_quality_node(plan: ScanPlan, maker: NodeMaker) -> Node:
    """The measures under their final name: input in_file."""
    return maker.make(SaveFile(out_file=str(plan.outputs["qc"].path)), "save_quality", need="save file")
