"""Labels on the grid of the scan, tables, and maps in other spaces."""

from collections.abc import Sequence
from typing import Any

from nipype.interfaces.utility import IdentityInterface
from nipype.pipeline.engine import Node, Workflow

from qsmals.interfaces.anatomy import FitCortex, FitNuclei, RefineNuclei, RegisterTemplates, Resample
from qsmals.interfaces.regions import AtlasImage, MeasureRegions, RegionsInView
from qsmals.interfaces.utility import SLOTS
from qsmals.settings import Settings
from qsmals.workflows.anatomy import ants_settings
from qsmals.workflows.nodes import NodeMaker
from qsmals.workflows.plan import AtlasPlan, ScanPlan

ATLAS_SPACE = "MNI152NLin6Asym"
TEMPLATE_SPACES = ("MNI152NLin6Asym", "MNI152NLin2009cAsym")
NATIVE_SPACES = ("T1w", "MEGRE")
BRIDGE = "between_templates"
RIGID_FACTS, TEMPLATE_FACTS, BRIDGE_FACTS = FACTS = (
    "registration_gre",
    "registration_template",
    "registration_between_templates",
)
"""Quality of the registrations, by the inputs of `MeasureRegions`."""

MAPS = {"Chimap": "chi_ppm", "R2starmap": "r2star_hz"}
MASKS = {"Chimap": "brain_mask", "R2starmap": "fit_mask"}
"""Where each map was measured: background removal may lose voxels that relaxometry has not lost."""

UNITS = {"Chimap": "ppm", "R2starmap": "1/s"}


OF_A_SEGMENTATION = (
    "only substantia nigra, red nucleus, what they are cut out of (brainstem, ventral diencephalon), and the parts of "
    "pallidum and thalamus"
)
"""Rows that depend on the registration to the template where the labels are a subject's own segmentation."""


def registrations_of(space: str) -> tuple[str, ...]:
    """Which of `FACTS` a table depends on whose labels are drawn in that space.

    All depend on that of the scan to its T1w image, where there is one: it places the brain mask, too, so that a map in
    the wrong mask has no statistics of labels either that were drawn on the scan itself.

    Examples
    --------
    >>> registrations_of("T1w")
    ('registration_gre',)
    """
    if space in NATIVE_SPACES:
        return (RIGID_FACTS,)
    return (RIGID_FACTS, TEMPLATE_FACTS) if space == ATLAS_SPACE else FACTS


def tables_through(plan: ScanPlan, atlas: str) -> dict[str, tuple[str, ...]]:
    """Region tables that each of `FACTS` costs their statistics where it failed; ``atlas`` is the built-in one."""
    spaces = {atlas: ATLAS_SPACE, **{more.name: more.space for more in plan.atlases}}
    rows = {atlas: f" ({OF_A_SEGMENTATION})"} if plan.given_t1w.segmentation else {}
    return {
        facts: tuple(
            f"seg-{name}{rows.get(name, '') if facts == TEMPLATE_FACTS else ''}"
            for name, space in spaces.items()
            if facts in registrations_of(space)
        )
        for facts in FACTS
    }


def init_atlas_node(maker: NodeMaker, *, settings: Settings, name: str = "atlas") -> Node:
    """The atlas on its template, made once for all subjects.

    Outputs: ``labels``, ``table``, ``segmentation_table``, ``parts``, ``parts_table``.
    """
    atlas = AtlasImage(atlas=settings.anatomy.atlas, **ants_settings(settings))
    return maker.make(atlas, name, step="atlas", parallel=True)


def init_bridge_node(maker: NodeMaker, *, settings: Settings, name: str) -> Node:
    """The registration of the other template to the atlas's, once for all: outputs ``forward``, ``facts``."""
    register = RegisterTemplates(fixed=ATLAS_SPACE, moving=TEMPLATE_SPACES[1], **ants_settings(settings))
    return maker.make(register, name, step="registration of the templates", parallel=True)


def init_more_regions_wf(
    atlas: AtlasPlan, maker: NodeMaker, *, maps: Sequence[str], settings: Settings, name: str
) -> Workflow:
    """An atlas that the user brought: on the grid of a scan in one interpolation, and a table for each map.

    Inputs (``inputnode``)
    ----------------------
    between_templates, refined, from_template, to_gre : transforms, of which those are used that lead from the atlas's
    space to the scan; registration_gre, registration_template, registration_between_templates : their quality, of which
    those are used that the tables depend on; brain : on the T1w grid; reference : any image on the GRE grid; chi_ppm,
    r2star_hz, brain_mask, fit_mask, white_matter : as for :func:`init_measures_wf`.

    Outputs (``outputnode``)
    ------------------------
    labels : label image or probabilities; per map ``table_<Map>`` and ``columns_<Map>``.
    """
    ants = ants_settings(settings)
    ways = [BRIDGE, "refined", "from_template", "to_gre"]
    if atlas.space == ATLAS_SPACE:
        ways.remove(BRIDGE)
    if settings.anatomy.refinement != "susceptibility":
        ways.remove("refined")
    ways = {"T1w": ["to_gre"], "MEGRE": []}.get(atlas.space, ways)
    inputs = [
        BRIDGE,
        "refined",
        "from_template",
        "to_gre",
        "brain",
        "reference",
        *MAPS.values(),
        *MASKS.values(),
    ]
    inputnode = Node(IdentityInterface(fields=[*inputs, "white_matter", *FACTS]), name="inputnode")
    fields = ["labels", *(f"{word}_{suffix}" for suffix in maps for word in ("table", "columns"))]
    outputnode = Node(IdentityInterface(fields=fields), name="outputnode")
    kind = "probabilities" if atlas.probabilistic else "labels"
    move = maker.make(Resample(in_file=str(atlas.file), kind=kind, **ants), "move", step=f"regions of {atlas.name}")
    workflow = Workflow(name=name)
    workflow.connect([
        (inputnode, move, [("reference", "reference")]),
        (move, outputnode, [("out_file", "labels")]),
    ])  # fmt: skip
    if ways:
        chain = maker.join("chain")
        workflow.connect([
            (inputnode, chain, list(zip(ways, SLOTS, strict=False))),
            (chain, move, [("out", "transforms")]),
        ])  # fmt: skip
        cut = maker.make(RegionsInView(labels=str(atlas.file), probabilistic=atlas.probabilistic, **ants), "in_view")
        workflow.connect([
            (inputnode, cut, [("brain", "brain"), ("to_gre", "to_gre"), ("reference", "reference")]),
            (chain, cut, [("out", "transforms")]),
        ])  # fmt: skip
    regions = [[index, name, side, list(members)] for index, name, side, members in atlas.regions]
    for suffix in maps:
        measure = maker.make(
            MeasureRegions(
                regions=regions,
                optional=list(atlas.optional),
                probabilistic=atlas.probabilistic,
                unit=UNITS[suffix],
            ),
            f"measure_{suffix}",
            step=f"region table of the {suffix} ({atlas.name})",
            need="measure probabilities" if atlas.probabilistic else "measure",
        )
        workflow.connect([
            (inputnode, measure, [
                (MAPS[suffix], "in_file"), (MASKS[suffix], "mask"), ("white_matter", "white_matter"),
                *((facts, facts) for facts in registrations_of(atlas.space)),
            ]),
            (move, measure, [("out_file", "labels")]),
            (measure, outputnode, [("table", f"table_{suffix}"), ("columns", f"columns_{suffix}")]),
        ])  # fmt: skip
        if ways:
            workflow.connect([(cut, measure, [("in_view", "in_view")])])
    return workflow


def init_labels_wf(
    maker: NodeMaker, *, settings: Settings, segmentation: str = "", name: str = "labels_wf"
) -> Workflow:
    """The atlas on the grid of a scan, in one interpolation, its borders fitted to what the images show.

    Labels of ``segmentation`` (a file in the T1w image's coordinates) take the atlas's place, but for substantia nigra
    and red nucleus.

    Inputs (``inputnode``)
    ----------------------
    atlas, parts : label images; chi_ppm : susceptibility with any reference; brain, tissues : T1w brain and its
    segmentation; to_t1w, to_gre, to_template, from_template : transforms; reference : any image on the GRE grid.

    Outputs (``outputnode``)
    ------------------------
    labels, parts : on the GRE grid; t1w_labels : the same labels on the T1w grid, for pictures; cortex_facts,
    nuclei_facts : what the fits to grey matter and to susceptibility changed; tissues_on_gre : the segmentation on the
    GRE grid, where cortex is fitted to it; refined : transform of the atlas to where the nuclei are seen; in_view : how
    much of the regions lies in the field of view.
    """
    ants, refinement = ants_settings(settings), settings.anatomy.refinement
    refined = refinement == "susceptibility"
    fields = [
        *("atlas", "parts", "chi_ppm", "brain", "tissues", "to_t1w", "to_gre", "to_template", "from_template"),
        "reference",
    ]
    inputnode = Node(IdentityInterface(fields=fields), name="inputnode")
    outputs = ["labels", "parts", "t1w_labels", "tissues_on_gre", "cortex_facts", "nuclei_facts", "refined", "in_view"]
    outputnode = Node(IdentityInterface(fields=outputs), name="outputnode")
    chain = maker.join("to_gre_chain")
    move = maker.make(Resample(kind="labels", **ants), "labels_to_gre", step="regions on the GRE grid")
    move_parts = maker.make(Resample(kind="labels", **ants), "parts_to_gre")
    nuclei = maker.make(FitNuclei(), "nuclei", step="" if refinement == "none" else "borders of the deep nuclei")
    back = maker.join("to_t1w_chain")
    to_t1w = maker.make(Resample(kind="labels", **ants), "labels_to_t1w")
    cut = maker.make(RegionsInView(**ants), "in_view")

    workflow = Workflow(name=name)
    workflow.add_nodes([inputnode, outputnode])
    if refined:
        _add_refinement(workflow, maker, inputnode, chain, nuclei, ants)
    else:
        workflow.connect([(inputnode, chain, [("from_template", "first"), ("to_gre", "second")])])
    if refinement != "none":
        _add_brain(workflow, maker, inputnode, nuclei, ants)
    workflow.connect([
        (chain, move, [("out", "transforms")]),
        (inputnode, move, [("atlas", "in_file"), ("reference", "reference")]),
        (chain, move_parts, [("out", "transforms")]),
        (inputnode, move_parts, [("parts", "in_file"), ("reference", "reference")]),
        (move_parts, nuclei, [("out_file", "parts")]),
        (inputnode, back, [("to_t1w", "first")]),
        (back, to_t1w, [("out", "transforms")]),
        (nuclei, to_t1w, [("labels", "in_file")]),
        (inputnode, to_t1w, [("brain", "reference")]),
        (nuclei, outputnode, [("labels", "labels"), ("parts", "parts"), ("facts", "nuclei_facts")]),
        (to_t1w, outputnode, [("out_file", "t1w_labels")]),
        (inputnode, cut, [
            ("brain", "brain"), ("to_gre", "to_gre"), ("reference", "reference"), ("atlas", "labels"),
            ("parts", "parts"),
        ]),
        (chain, cut, [("out", "transforms")]),
        (cut, outputnode, [("in_view", "in_view")]),
    ])  # fmt: skip
    if segmentation:
        _add_segmentation(workflow, maker, nuclei, cut, segmentation, ants)
    if settings.anatomy.cortex == "atlas" or segmentation:
        workflow.connect([(move, nuclei, [("out_file", "labels")])])
    else:
        _add_cortex(workflow, maker, move, nuclei, ants)
    return workflow


def _add_refinement(
    workflow: Workflow, maker: NodeMaker, inputnode: Node, chain: Node, nuclei: Node, ants: dict[str, Any]
) -> None:
    """The deformation around the deep nuclei at the start of the chain, and the map that their borders follow."""
    refine = maker.make(
        RefineNuclei(template=ATLAS_SPACE, **ants),
        "refine_nuclei",
        step="deep nuclei placed by susceptibility",
        parallel=True,
    )
    workflow.connect([
        (inputnode, refine, [
            ("chi_ppm", "chi"), ("brain", "brain"), ("atlas", "labels"), ("to_t1w", "to_t1w"),
            ("to_template", "to_template"),
        ]),
        (refine, chain, [("inverse", "first")]),
        (refine, workflow.get_node("outputnode"), [("inverse", "refined")]),
        (inputnode, chain, [("from_template", "second"), ("to_gre", "third")]),
        (inputnode, nuclei, [("chi_ppm", "chi")]),
        (refine, nuclei, [("notes", "notes"), ("facts", "placement")]),
    ])  # fmt: skip


def _add_brain(workflow: Workflow, maker: NodeMaker, inputnode: Node, nuclei: Node, ants: dict[str, Any]) -> None:
    """The T1w brain on the GRE grid, for the borders that it shows."""
    brain_chain = maker.join("brain_chain")
    brain = maker.make(Resample(**ants), "brain_to_gre")
    workflow.connect([
        (inputnode, brain_chain, [("to_gre", "first")]),
        (brain_chain, brain, [("out", "transforms")]),
        (inputnode, brain, [("brain", "in_file"), ("reference", "reference")]),
        (brain, nuclei, [("out_file", "t1w")]),
    ])  # fmt: skip


def _add_segmentation(
    workflow: Workflow, maker: NodeMaker, nuclei: Node, cut: Node, file: str, ants: dict[str, Any]
) -> None:
    """Another pipeline's labels on the GRE grid, from their own grid in one interpolation."""
    chain = maker.join("segmentation_chain")
    move = maker.make(Resample(in_file=file, kind="labels", **ants), "segmentation_to_gre")
    inputnode, cut.inputs.segmentation = workflow.get_node("inputnode"), file
    workflow.connect([
        (inputnode, chain, [("to_gre", "first")]),
        (chain, move, [("out", "transforms")]),
        (chain, cut, [("out", "segmentation_transforms")]),
        (inputnode, move, [("reference", "reference")]),
        (move, nuclei, [("out_file", "segmentation")]),
    ])  # fmt: skip


def _add_cortex(workflow: Workflow, maker: NodeMaker, move: Node, nuclei: Node, ants: dict[str, Any]) -> None:
    """Cortex fitted to grey matter between the atlas's labels and the fit of the nuclei."""
    tissue_chain = maker.join("tissue_chain")
    move_tissues = maker.make(Resample(kind="labels", **ants), "tissues_to_gre")
    cortex = maker.make(FitCortex(), "cortex")
    inputnode, outputnode = workflow.get_node("inputnode"), workflow.get_node("outputnode")
    workflow.connect([
        (inputnode, tissue_chain, [("to_gre", "first")]),
        (tissue_chain, move_tissues, [("out", "transforms")]),
        (inputnode, move_tissues, [("tissues", "in_file"), ("reference", "reference")]),
        (move, cortex, [("out_file", "labels")]),
        (move_tissues, cortex, [("out_file", "tissues")]),
        (cortex, nuclei, [("labels", "labels")]),
        (cortex, outputnode, [("facts", "cortex_facts")]),
        (move_tissues, outputnode, [("out_file", "tissues_on_gre")]),
    ])  # fmt: skip


def init_measures_wf(
    maker: NodeMaker,
    *,
    maps: Sequence[str],
    spaces: Sequence[str],
    settings: Settings,
    segmented: bool = False,
    name: str = "measures_wf",
) -> Workflow:
    """A table of region statistics for each map, and each map in each of the ``spaces``: ``T1w`` and templates.

    With ``segmented`` the labels are FreeSurfer's own.

    Inputs (``inputnode``)
    ----------------------
    chi_ppm, r2star_hz : maps; brain_mask, fit_mask : where they were measured; white_matter, labels, parts : on the
    GRE grid; t1w_brain : reference; to_t1w : transform; registration_gre, registration_template : quality of those that
    placed the labels; in_view : how much of the regions lies in the field of view; per template ``to_<template>``.

    Outputs (``outputnode``)
    ------------------------
    Per map ``table_<Map>``, ``columns_<Map>`` and ``<Map>_<space>``.
    """
    inputs = ["chi_ppm", "r2star_hz", "brain_mask", "fit_mask", "white_matter", "labels", "parts"]
    inputs += [
        "t1w_brain",
        "to_t1w",
        *registrations_of(ATLAS_SPACE),
        "in_view",
        *(f"to_{space}" for space in settings.anatomy.output_spaces),
    ]
    inputnode = Node(IdentityInterface(fields=inputs), name="inputnode")
    per_map = ["table_{}", "columns_{}", *("{}_" + space for space in spaces)]
    fields = [word.format(suffix) for suffix in maps for word in per_map]
    outputnode = Node(IdentityInterface(fields=fields), name="outputnode")
    workflow = Workflow(name=name)
    workflow.add_nodes([inputnode, outputnode])
    for suffix in maps:
        _add_table(workflow, maker, suffix, settings.anatomy.atlas, segmented)
        for space in spaces:
            _add_move(workflow, maker, suffix, space, settings)
    return workflow


def _add_table(workflow: Workflow, maker: NodeMaker, suffix: str, atlas: str, segmented: bool) -> None:
    measure = maker.make(
        MeasureRegions(atlas=atlas, segmented=segmented, unit=UNITS[suffix]),
        f"measure_{suffix}",
        step=f"region table of the {suffix}",
    )
    workflow.connect([
        (workflow.get_node("inputnode"), measure, [
            (MAPS[suffix], "in_file"), (MASKS[suffix], "mask"), ("white_matter", "white_matter"),
            ("labels", "labels"), ("parts", "parts"), ("in_view", "in_view"),
            *((facts, facts) for facts in registrations_of(ATLAS_SPACE)),
        ]),
        (measure, workflow.get_node("outputnode"), [
            ("table", f"table_{suffix}"), ("columns", f"columns_{suffix}"),
        ]),
    ])  # fmt: skip


def _add_move(workflow: Workflow, maker: NodeMaker, suffix: str, space: str, settings: Settings) -> None:
    inputnode = workflow.get_node("inputnode")
    transforms = maker.join(f"transforms_{suffix}_{space}")
    template, need = ({}, "move T1w") if space == "T1w" else ({"template": space}, "move template")
    move = maker.make(Resample(**template, **ants_settings(settings)), f"move_{suffix}_{space}", need=need)
    workflow.connect([
        (inputnode, transforms, [("to_t1w", "first")]),
        (inputnode, move, [(MAPS[suffix], "in_file")]),
        (transforms, move, [("out", "transforms")]),
        (move, workflow.get_node("outputnode"), [("out_file", f"{suffix}_{space}")]),
    ])  # fmt: skip
    if space == "T1w":
        workflow.connect([(inputnode, move, [("t1w_brain", "reference")])])
    else:
        workflow.connect([(inputnode, transforms, [(f"to_{space}", "second")])])
