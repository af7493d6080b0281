"""T1w image, or gradient echo where there is none, to brain and template."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nipype.interfaces.utility import IdentityInterface
from nipype.pipeline.engine import Node, Workflow

from qsmals.bids.given import NO_GRE, NO_T1W, GivenGre, GivenT1w
from qsmals.bids.layout import T1wScan
from qsmals.interfaces.anatomy import (
    ExtractBrain,
    ExtractGreBrain,
    GivenRigid,
    GivenTemplate,
    RegisterGre,
    RegisterTemplate,
    Resample,
    SegmentTissues,
    Stay,
)
from qsmals.settings import Settings
from qsmals.workflows.nodes import NodeMaker
from qsmals.workflows.plan import ScanPlan

Given = Mapping[str, tuple[Path, Path]]
"""Template to the transforms to it and back that another run made."""


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
    workflow = Workflow(name=name)
    workflow.add_nodes([extract])
    outputnode = _add_templates(workflow, maker, settings, given.transforms)
    if settings.anatomy.cortex == "grey-matter":
        tissues = maker.make(SegmentTissues(**ants), "tissues", step="grey and white matter", parallel=True)
        workflow.connect([
            (extract, tissues, [("brain", "brain"), ("mask", "mask")]),
            (tissues, outputnode, [("tissues", "tissues")]),
        ])  # fmt: skip
    return workflow


def init_gre_anatomy_wf(
    plan: ScanPlan, maker: NodeMaker, *, settings: Settings, given: GivenGre = NO_GRE, name: str = "anatomy_wf"
) -> Workflow:
    """Brain of a gradient-echo scan without a T1w image, and its registration to each template.

    Inputs (``inputnode``)
    ----------------------
    magnitude : all echoes; combined : one volume.

    Outputs (``outputnode``)
    ------------------------
    Those of :func:`init_anatomy_wf` with the scan in place of the T1w image, and no tissues.
    """
    ants, te_s = ants_settings(settings), [float(te) for te in plan.facts.te_s]
    inputnode = Node(IdentityInterface(fields=["magnitude", "combined"]), name="inputnode")
    extract = maker.make(
        ExtractGreBrain(
            te_s=te_s,
            skull_stripped=settings.anatomy.brain_extraction == "skip",
            **({"given_mask": str(given.brain_mask)} if given.brain_mask else {}),
            **ants,
        ),
        "extract_brain",
        step="brain extraction from the gradient echo",
        need="extract_brain gre",
        parallel=True,
    )
    workflow = Workflow(name=name)
    workflow.connect([(inputnode, extract, [("magnitude", "magnitude"), ("combined", "combined")])])
    _add_templates(workflow, maker, settings, given.transforms, source="GRE")
    if len(te_s) > 1:
        registrations = (workflow.get_node(f"register_{space}") for space in settings.anatomy.output_spaces)
        links = [(extract, node, [("decay", "more")]) for node in registrations if "more" in node.inputs.get()]
        workflow.connect(links)
    return workflow


def _add_templates(
    workflow: Workflow, maker: NodeMaker, settings: Settings, given: Given, *, source: str = "T1w"
) -> Node:
    """Registration of the extracted brain to each template; returns the graph's ``outputnode``."""
    ants, spaces, extract = ants_settings(settings), settings.anatomy.output_spaces, workflow.get_node("extract_brain")
    per_space = [f"{word}_{space}" for space in spaces for word in ("to", "from", "facts")]
    fields = ["brain", "mask", "tissues", "initial", "brain_facts", "t1w_on_template", *per_space]
    outputnode = Node(IdentityInterface(fields=fields), name="outputnode")
    workflow.connect([
        (extract, outputnode, [
            ("brain", "brain"), ("mask", "mask"), ("initial", "initial"), ("facts", "brain_facts"),
        ]),
    ])  # fmt: skip
    for space in spaces:
        register = _template_node(space, maker, given, {"source": source, **ants})
        links = ("brain", "mask") if space in given else ("brain", "mask", "initial")
        workflow.connect([
            (extract, register, [(link, link) for link in links]),
            (register, outputnode, [
                ("forward", f"to_{space}"), ("inverse", f"from_{space}"), ("facts", f"facts_{space}"),
            ]),
        ])  # fmt: skip
    _add_brain_on_template(workflow, maker, spaces[0], ants)
    return outputnode


def _template_node(space: str, maker: NodeMaker, given: Given, options: dict[str, Any]) -> Node:
    """The registration to a template, or the check of transforms that are there already."""
    if space not in given:
        register = RegisterTemplate(template=space, **options)
        step = f"registration to {space} (SyN)"
        return maker.make(register, f"register_{space}", step=step, parallel=True)
    forward, inverse = (str(path) for path in given[space])
    known = GivenTemplate(template=space, forward=forward, inverse=inverse, **options)
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


def init_same_space_wf(maker: NodeMaker, *, settings: Settings, name: str = "coregistration_wf") -> Workflow:
    """In place of :func:`init_coregistration_wf` where brain and atlas are found on the scan itself: nothing moves.

    Inputs (``inputnode``)
    ----------------------
    mask : from :func:`init_gre_anatomy_wf`.

    Outputs (``outputnode``)
    ------------------------
    to_t1w, to_gre : identities; brain_mask : on the GRE grid.
    """
    inputnode = Node(IdentityInterface(fields=["mask"]), name="inputnode")
    outputnode = Node(IdentityInterface(fields=["to_t1w", "to_gre", "brain_mask"]), name="outputnode")
    stay = maker.make(Stay(**ants_settings(settings)), "stay")
    workflow = Workflow(name=name)
    workflow.connect([
        (inputnode, outputnode, [("mask", "brain_mask")]),
        (stay, outputnode, [("forward", "to_t1w"), ("inverse", "to_gre")]),
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
