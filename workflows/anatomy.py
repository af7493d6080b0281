"""T1w image to brain, template and regions."""

from typing import Any

from nipype.interfaces.utility import IdentityInterface
from nipype.pipeline.engine import Node, Workflow

from qsmals.bids.given import NO_GRE, NO_T1W, GivenGre, GivenT1w
from qsmals.bids.layout import T1wScan
from qsmals.interfaces.anatomy import (
    ExtractBrain,
    GivenRigid,
    GivenTemplate,
    RegisterGre,
    RegisterTemplate,
    Resample,
    SegmentTissues,
)
from qsmals.settings import Settings
from qsmals.workflows.nodes import NodeMaker


def ants_settings(settings: Settings) -> dict[str, Any]:
    """What every step that runs ANTs is told."""
    behaviour = settings.behaviour
    return {"seed": behaviour.random_seed, "deterministic": behaviour.deterministic, "sloppy": behaviour.sloppy}


def init_anatomy_wf(
    t1w: T1wScan, maker: NodeMaker, *, settings: Settings, given: GivenT1w = NO_T1W, name: str = "anatomy_wf"
) -> Workflow:
    """Brain of one T1w image and its registration to each template, unless they were ``given``.

    Outputs (``outputnode``)
    ------------------------
    brain, mask : images on the T1w grid; tissues : likewise, where cortex is fitted to grey matter; initial : affine to
    start with; brain_facts; t1w_on_template : the brain on the first template's grid; per template ``to_<template>``,
    ``from_<template>`` (composite transforms) and ``facts_<template>``.
    """
    ants = ants_settings(settings)
    extract = maker.make(
        ExtractBrain(
            t1w=str(t1w.file),
            mode=settings.anatomy.brain_extraction,
            **({"given_mask": str(given.brain_mask)} if given.brain_mask else {}),
            **ants,
        ),
        "extract_brain",
        step="brain extraction",
        parallel=True,
    )
    spaces = settings.anatomy.output_spaces
    per_space = [f"{word}_{space}" for space in spaces for word in ("to", "from", "facts")]
    fields = ["brain", "mask", "tissues", "initial", "brain_facts", "t1w_on_template", *per_space]
    outputnode = Node(IdentityInterface(fields=fields), name="outputnode")
    workflow = Workflow(name=name)
    workflow.connect([
        (extract, outputnode, [
            ("brain", "brain"), ("mask", "mask"), ("initial", "initial"), ("facts", "brain_facts"),
        ]),
    ])  # fmt: skip
    if settings.anatomy.cortex == "grey-matter":
        tissues = maker.make(SegmentTissues(**ants), "tissues", step="grey and white matter", parallel=True)
        workflow.connect([
            (extract, tissues, [("brain", "brain"), ("mask", "mask")]),
            (tissues, outputnode, [("tissues", "tissues")]),
        ])  # fmt: skip
    for space in spaces:
        register = _template_node(space, maker, given, ants)
        links = ("brain", "mask") if space in given.transforms else ("brain", "mask", "initial")
        workflow.connect([
            (extract, register, [(link, link) for link in links]),
            (register, outputnode, [
                ("forward", f"to_{space}"), ("inverse", f"from_{space}"), ("facts", f"facts_{space}"),
            ]),
        ])  # fmt: skip
    _add_brain_on_template(workflow, maker, spaces[0], ants)
    return workflow


def _template_node(space: str, maker: NodeMaker, given: GivenT1w, ants: dict[str, Any]) -> Node:
    """The registration to a template, or the check of transforms that are there already."""
    if space not in given.transforms:
        register = RegisterTemplate(template=space, **ants)
        step = f"registration to {space} (SyN)"
        return maker.make(register, f"register_{space}", step=step, parallel=True)
    forward, inverse = (str(path) for path in given.transforms[space])
    known = GivenTemplate(template=space, forward=forward, inverse=inverse, **ants)
    return maker.make(known, f"register_{space}", step=f"given transforms to {space}", need="register given")


def _add_brain_on_template(workflow: Workflow, maker: NodeMaker, space: str, ants: dict[str, Any]) -> None:
    """The brain on a template's grid, for the page to show one over the other."""
    as_list = maker.join("as_list")
    move = maker.make(Resample(template=space, **ants), "brain_on_template")
    workflow.connect([
        (workflow.get_node(f"register_{space}"), as_list, [("forward", "first")]),
        (workflow.get_node("extract_brain"), move, [("brain", "in_file")]),
        (as_list, move, [("out", "transforms")]),
        (move, workflow.get_node("outputnode"), [("out_file", "t1w_on_template")]),
    ])  # fmt: skip


def init_coregistration_wf(
    t1w: T1wScan,
    maker: NodeMaker,
    *,
    settings: Settings,
    given: GivenGre = NO_GRE,
    name: str = "coregistration_wf",
) -> Workflow:
    """Rigid motion of the GRE scan to the T1w image, and the brain mask and T1w image on the GRE grid.

    Inputs (``inputnode``)
    ----------------------
    magnitude : combined echoes; brain, mask, initial : from :func:`init_anatomy_wf`.

    Outputs (``outputnode``)
    ------------------------
    to_t1w, to_gre : transforms; facts : quality; brain_mask, t1w_on_gre : on the GRE grid.
    """
    ants = ants_settings(settings)
    inputnode = Node(IdentityInterface(fields=["magnitude", "brain", "mask", "initial"]), name="inputnode")
    register = _rigid_node(t1w, maker, given, ants)
    links = ("magnitude", "brain", "mask") if given.to_t1w or given.to_gre else inputnode.outputs.copyable_trait_names()
    as_list = maker.join("as_list")
    move_mask = maker.make(Resample(kind="mask", **ants), "move_mask")
    move_t1w = maker.make(Resample(in_file=str(t1w.file), **ants), "move_t1w")
    outputs = ["to_t1w", "to_gre", "facts", "brain_mask", "t1w_on_gre"]
    outputnode = Node(IdentityInterface(fields=outputs), name="outputnode")
    workflow = Workflow(name=name)
    workflow.connect([
        (inputnode, register, [(link, link) for link in links]),
        (register, as_list, [("inverse", "first")]),
        (inputnode, move_mask, [("mask", "in_file"), ("magnitude", "reference")]),
        (as_list, move_mask, [("out", "transforms")]),
        (inputnode, move_t1w, [("magnitude", "reference")]),
        (as_list, move_t1w, [("out", "transforms")]),
        (register, outputnode, [("forward", "to_t1w"), ("inverse", "to_gre"), ("facts", "facts")]),
        (move_mask, outputnode, [("out_file", "brain_mask")]),
        (move_t1w, outputnode, [("out_file", "t1w_on_gre")]),
    ])  # fmt: skip
    return workflow


def _rigid_node(t1w: T1wScan, maker: NodeMaker, given: GivenGre, ants: dict[str, Any]) -> Node:
    """The registration of a scan to its T1w image, or the check of a transform that is there already."""
    files = {name: str(path) for name, path in (("to_t1w", given.to_t1w), ("to_gre", given.to_gre)) if path}
    if files:
        step = "given transform of the GRE scan to the T1w image"
        return maker.make(GivenRigid(**files, **ants), "register_gre", step=step)
    register = RegisterGre(t1w=str(t1w.file), **ants)
    step = "registration of the GRE scan to the T1w image (rigid)"
    return maker.make(register, "register_gre", step=step, parallel=True)
