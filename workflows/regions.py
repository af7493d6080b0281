"""Labels on the grid of the scan, tables, and maps in other spaces."""

from collections.abc import Sequence

from nipype.interfaces.utility import IdentityInterface
from nipype.pipeline.engine import Node, Workflow

from qsmals.interfaces.anatomy import FitCortex, RefineNuclei, Resample
from qsmals.interfaces.regions import AtlasImage, MeasureRegions
from qsmals.settings import Settings
from qsmals.workflows.anatomy import ants_settings
from qsmals.workflows.nodes import NodeMaker

ATLAS_SPACE = "MNI152NLin6Asym"
MAPS = {"Chimap": "chi_ppm", "R2starmap": "r2star_hz"}
MASKS = {"Chimap": "brain_mask", "R2starmap": "fit_mask"}
"""Where each map was measured: background removal may lose voxels that relaxometry has not lost."""

UNITS = {"Chimap": "ppm", "R2starmap": "1/s"}


def init_atlas_node(maker: NodeMaker, *, settings: Settings, name: str = "atlas") -> Node:
    """The atlas on its template, made once for all subjects: outputs ``labels`` and ``table``."""
    atlas = AtlasImage(atlas=settings.anatomy.atlas, **ants_settings(settings))
    return maker.make(atlas, name, step="atlas", volumes=40, parallel=True)


def init_labels_wf(maker: NodeMaker, *, settings: Settings, name: str = "labels_wf") -> Workflow:
    """The atlas on the grids of a scan and of its T1w image, in one interpolation, its cortex fitted to grey matter.

    Inputs (``inputnode``)
    ----------------------
    atlas : label image; chi_ppm : susceptibility with any reference; brain, tissues : T1w brain and its segmentation;
    to_t1w, to_gre, to_template, from_template : transforms; reference : any image on the GRE grid.

    Outputs (``outputnode``)
    ------------------------
    labels, t1w_labels : label images; cortex_facts : what the fit to grey matter changed on the GRE grid.
    """
    ants = ants_settings(settings)
    fields = ["atlas", "chi_ppm", "brain", "tissues", "to_t1w", "to_gre", "to_template", "from_template", "reference"]
    inputnode = Node(IdentityInterface(fields=fields), name="inputnode")
    to_gre_chain, to_t1w_chain = maker.join("to_gre_chain"), maker.join("to_t1w_chain")
    to_gre = maker.make(Resample(kind="labels", **ants), "labels_to_gre", step="regions on the GRE grid", volumes=24)
    to_t1w = maker.make(Resample(kind="labels", **ants), "labels_to_t1w", volumes=24)
    outputnode = Node(IdentityInterface(fields=["labels", "t1w_labels", "cortex_facts"]), name="outputnode")
    workflow = Workflow(name=name)
    if settings.anatomy.refinement == "none":
        links = [("from_template", "first")]
        workflow.connect([
            (inputnode, to_gre_chain, [*links, ("to_gre", "second")]),
            (inputnode, to_t1w_chain, links),
        ])  # fmt: skip
    else:
        refine = maker.make(
            RefineNuclei(template=ATLAS_SPACE, **ants),
            "refine_nuclei",
            step="deep nuclei placed by susceptibility",
            volumes=30,
            parallel=True,
        )
        links = [("from_template", "second")]
        workflow.connect([
            (inputnode, refine, [
                ("chi_ppm", "chi"), ("brain", "brain"), ("atlas", "labels"), ("to_t1w", "to_t1w"),
                ("to_template", "to_template"),
            ]),
            (refine, to_gre_chain, [("inverse", "first")]),
            (refine, to_t1w_chain, [("inverse", "first")]),
            (inputnode, to_gre_chain, [*links, ("to_gre", "third")]),
            (inputnode, to_t1w_chain, links),
        ])  # fmt: skip
    workflow.connect([
        (to_gre_chain, to_gre, [("out", "transforms")]),
        (inputnode, to_gre, [("atlas", "in_file"), ("reference", "reference")]),
        (to_t1w_chain, to_t1w, [("out", "transforms")]),
        (inputnode, to_t1w, [("atlas", "in_file"), ("brain", "reference")]),
    ])  # fmt: skip
    if settings.anatomy.cortex == "atlas":
        workflow.connect([
            (to_gre, outputnode, [("out_file", "labels")]),
            (to_t1w, outputnode, [("out_file", "t1w_labels")]),
        ])  # fmt: skip
        return workflow
    tissue_chain = maker.join("tissue_chain")
    move_tissues = maker.make(Resample(kind="labels", **ants), "tissues_to_gre", volumes=24)
    on_gre, on_t1w = (maker.make(FitCortex(), f"cortex_on_{grid}", volumes=16) for grid in ("gre", "t1w"))
    workflow.connect([
        (inputnode, tissue_chain, [("to_gre", "first")]),
        (tissue_chain, move_tissues, [("out", "transforms")]),
        (inputnode, move_tissues, [("tissues", "in_file"), ("reference", "reference")]),
        (to_gre, on_gre, [("out_file", "labels")]),
        (move_tissues, on_gre, [("out_file", "tissues")]),
        (to_t1w, on_t1w, [("out_file", "labels")]),
        (inputnode, on_t1w, [("tissues", "tissues")]),
        (on_gre, outputnode, [("labels", "labels"), ("facts", "cortex_facts")]),
        (on_t1w, outputnode, [("labels", "t1w_labels")]),
    ])  # fmt: skip
    return workflow


def init_measures_wf(
    maker: NodeMaker, *, maps: Sequence[str], settings: Settings, name: str = "measures_wf"
) -> Workflow:
    """A table of region statistics for each map, and each map on the T1w grid and in the templates' spaces.

    Inputs (``inputnode``)
    ----------------------
    chi_ppm, r2star_hz : maps; brain_mask, fit_mask : where they were measured; white_matter, labels : on the GRE grid;
    t1w_brain : reference;
    to_t1w : transform; per template ``to_<template>``.

    Outputs (``outputnode``)
    ------------------------
    Per map ``table_<Map>``, ``columns_<Map>`` and ``<Map>_<space>``.
    """
    spaces = settings.anatomy.output_spaces
    inputs = ["chi_ppm", "r2star_hz", "brain_mask", "fit_mask", "white_matter", "labels", "t1w_brain", "to_t1w"]
    inputnode = Node(IdentityInterface(fields=[*inputs, *(f"to_{space}" for space in spaces)]), name="inputnode")
    per_map = ["table_{}", "columns_{}", "{}_T1w", *("{}_" + space for space in spaces)]
    fields = [word.format(suffix) for suffix in maps for word in per_map]
    outputnode = Node(IdentityInterface(fields=fields), name="outputnode")
    workflow = Workflow(name=name)
    workflow.add_nodes([inputnode, outputnode])
    for suffix in maps:
        _add_table(workflow, maker, suffix, settings.anatomy.atlas)
        for space in ("T1w", *spaces):
            _add_move(workflow, maker, suffix, space, settings)
    return workflow


def _add_table(workflow: Workflow, maker: NodeMaker, suffix: str, atlas: str) -> None:
    measure = maker.make(
        MeasureRegions(atlas=atlas, unit=UNITS[suffix]),
        f"measure_{suffix}",
        step=f"region table of the {suffix}",
        volumes=16,
    )
    workflow.connect([
        (workflow.get_node("inputnode"), measure, [
            (MAPS[suffix], "in_file"), (MASKS[suffix], "mask"), ("white_matter", "white_matter"),
            ("labels", "labels"),
        ]),
        (measure, workflow.get_node("outputnode"), [
            ("table", f"table_{suffix}"), ("columns", f"columns_{suffix}"),
        ]),
    ])  # fmt: skip


def _add_move(workflow: Workflow, maker: NodeMaker, suffix: str, space: str, settings: Settings) -> None:
    inputnode = workflow.get_node("inputnode")
    transforms = maker.join(f"transforms_{suffix}_{space}")
    template = {} if space == "T1w" else {"template": space}
    move = maker.make(Resample(**template, **ants_settings(settings)), f"move_{suffix}_{space}", volumes=30)
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
