"""The measures and the figures at the end of a scan."""

from collections.abc import Iterable

from nipype.interfaces.utility import Merge
from nipype.pipeline.engine import Node, Workflow

from qsmals.interfaces.outputs import Save, SaveFacts, SaveFile
from qsmals.interfaces.quality import MeasureQuality
from qsmals.interfaces.report import DrawFigures
from qsmals.settings import Settings
from qsmals.workflows.anatomy import ants_settings
from qsmals.workflows.nodes import NodeMaker
from qsmals.workflows.plan import ScanPlan

FIGURES_STEP = "figures of the report"


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


def add_figures(workflow: Workflow, plan: ScanPlan, maker: NodeMaker, *, settings: Settings) -> None:
    """Draw the scan's figures once everything that ``workflow`` saves is under its final name."""
    saving = list(_saving(workflow))
    written = maker.make(Merge(len(saving)), "written", need="join")
    draw = DrawFigures(
        output_dir=settings.output_dir,
        subject=plan.unit.gre.subject,
        prefix=plan.unit.gre.prefix,
        run=plan.facts_file.parent.name,
        **({} if plan.age is None else {"age": plan.age}),
    )
    figures = maker.make(draw, "figures", step=FIGURES_STEP)
    for number, name in enumerate(saving, 1):
        inside, _, node = name.rpartition(".")
        field = f"{node}.out_file" if inside else "out_file"
        workflow.connect([(workflow.get_node(inside or node), written, [(field, f"in{number}")])])
    workflow.connect([(written, figures, [("out", "written")])])


def _saving(workflow: Workflow) -> Iterable[str]:
    """Names of the nodes that write outputs, within the workflow."""
    for name in sorted(workflow.list_node_names()):
        if isinstance(workflow.get_node(name).interface, Save | SaveFacts):
            yield name
