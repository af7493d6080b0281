"""From stored images to susceptibility on the grid of the gradient-echo scan."""

from typing import Any

from nipype.interfaces.utility import IdentityInterface
from nipype.pipeline.engine import Node, Workflow

from qsmals.bids.layout import PART_PAIRS
from qsmals.interfaces.phase import EstimateField, PreparePhase, RemovePhaseOffset, UnwrapPhase
from qsmals.interfaces.susceptibility import (
    FitRelaxation,
    InvertDipole,
    InvertTotalField,
    MakeFieldMasks,
    ReferenceSusceptibility,
    RemoveBackground,
)
from qsmals.settings import Acquisition, Reconstruction
from qsmals.workflows.nodes import NodeMaker
from qsmals.workflows.plan import ScanPlan


def init_prepare_node(plan: ScanPlan, maker: NodeMaker) -> Node:
    """Stored images to magnitude and wrapped phase in radians.

    Outputs: magnitude, phase : all echoes; combined : one volume; tissue_mask : voxels with signal; detected : what was
    found out about scale and slices.
    """
    gre, facts = plan.unit.gre, plan.facts
    first, second = PART_PAIRS[gre.parts]
    prepare = PreparePhase(
        parts=gre.parts,
        first_files=[str(path) for path in gre.files(first)],
        second_files=[str(path) for path in gre.files(second)],
        units=facts.phase_units or "",
        manufacturer=str(gre.metadata.get("Manufacturer", "")),
    )
    return maker.make(prepare, "prepare", step="magnitude, and phase in radians")


def init_field_wf(
    plan: ScanPlan, maker: NodeMaker, *, acquisition: Acquisition, recon: Reconstruction, name: str = "field_wf"
) -> Workflow:
    """Phase to the total field.

    Inputs (``inputnode``)
    ----------------------
    magnitude, phase, tissue_mask : from :func:`init_prepare_node`; brain_mask : on the GRE grid; the phase offset is
    estimated there, away from fat.

    Outputs (``outputnode``)
    ------------------------
    unwrapped : all echoes, rad; quality, field_ppm, noise_ppm : volumes; detected_offset, detected_field : what was
    found out.
    """
    te_s = [float(te) for te in plan.facts.te_s]
    b0_tesla = float(plan.facts.b0_tesla)
    inputnode = Node(IdentityInterface(fields=["magnitude", "phase", "tissue_mask", "brain_mask"]), name="inputnode")
    offset = maker.make(
        RemovePhaseOffset(te_s=te_s, readout=acquisition.readout, **_method(plan, recon, "phase_offset")),
        "offset",
        step=f"phase offset ({recon.phase_offset})",
        parallel=True,
    )
    unwrap = maker.make(
        UnwrapPhase(te_s=te_s, **_method(plan, recon, "unwrap")),
        "unwrap",
        step=f"unwrapping ({recon.unwrap})",
        parallel=True,
    )
    known = {"given": str(plan.given.total_field)} if plan.given.total_field else {}
    method = _method(plan, recon, "field")
    field = maker.make(
        EstimateField(te_s=te_s, b0_tesla=b0_tesla, sign=acquisition.phase_sign, **known, **method),
        "field",
        step=f"total field ({recon.field})",
        parallel=True,
    )
    outputs = ["unwrapped", "quality", "field_ppm", "noise_ppm", "detected_offset", "detected_field"]
    outputnode = Node(IdentityInterface(fields=outputs), name="outputnode")

    workflow = Workflow(name=name)
    workflow.connect([
        (inputnode, offset, [
            ("magnitude", "magnitude"), ("phase", "phase"), ("tissue_mask", "mask"), ("brain_mask", "brain_mask"),
        ]),
        (inputnode, unwrap, [("magnitude", "magnitude"), ("tissue_mask", "mask")]),
        (offset, unwrap, [("phase", "phase")]),
        (inputnode, field, [
            ("magnitude", "magnitude"), ("tissue_mask", "mask"), ("brain_mask", "brain_mask"),
        ]),
        (unwrap, field, [("phase", "phase")]),
        (offset, outputnode, [("detected", "detected_offset")]),
        (unwrap, outputnode, [("phase", "unwrapped"), ("quality", "quality")]),
        (field, outputnode, [
            ("field_ppm", "field_ppm"), ("noise_ppm", "noise_ppm"), ("detected", "detected_field"),
        ]),
    ])  # fmt: skip
    return workflow


def init_susceptibility_wf(
    plan: ScanPlan, maker: NodeMaker, *, recon: Reconstruction, name: str = "susceptibility_wf"
) -> Workflow:
    """Total field to susceptibility without a reference yet, and relaxometry.

    Inputs (``inputnode``)
    ----------------------
    magnitude : from :func:`init_prepare_node`; quality, field_ppm, noise_ppm : from :func:`init_field_wf`;
    brain_mask : on the GRE grid.

    Outputs (``outputnode``)
    ------------------------
    chi_ppm, local_field_ppm, r2star_hz, t2star_s, s0 : maps (no relaxation with one echo); mask : where
    susceptibility was found; brain_mask : the reliable part of the brain; quality_mask; mask_facts, inversion_facts,
    detected_inversion.
    """
    inputs = ["magnitude", "quality", "field_ppm", "noise_ppm", "brain_mask"]
    inputnode = Node(IdentityInterface(fields=inputs), name="inputnode")
    masks = maker.make(MakeFieldMasks(**_method(plan, recon, "mask")), "masks", step=f"masks ({recon.mask})")
    outputs = [
        *("chi_ppm", "local_field_ppm", "r2star_hz", "t2star_s", "s0", "mask", "brain_mask", "quality_mask"),
        *("mask_facts", "inversion_facts", "detected_inversion"),
    ]
    outputnode = Node(IdentityInterface(fields=outputs), name="outputnode")

    workflow = Workflow(name=name)
    workflow.connect([
        (inputnode, masks, [
            ("brain_mask", "brain_mask"), ("quality", "quality"), ("magnitude", "magnitude"),
            ("field_ppm", "field_ppm"),
        ]),
        (masks, outputnode, [
            ("brain_mask", "brain_mask"), ("quality_mask", "quality_mask"), ("facts", "mask_facts"),
        ]),
    ])  # fmt: skip
    if "background" in plan.methods:
        invert = _add_two_steps(workflow, plan, maker, recon)
    else:
        invert = _add_single_step(workflow, plan, maker, recon)
    workflow.connect([
        (inputnode, invert, [("noise_ppm", "noise_ppm"), ("magnitude", "magnitude")]),
        (masks, invert, [("brain_mask", "brain_mask")]),
        (invert, outputnode, [
            ("chi_ppm", "chi_ppm"), ("local_field_ppm", "local_field_ppm"), ("mask", "mask"),
            ("facts", "inversion_facts"), ("detected", "detected_inversion"),
        ]),
    ])  # fmt: skip
    if len(plan.facts.te_s) > 1:
        relax = _add_relaxometry(workflow, plan, maker, recon)
        workflow.connect([(relax, invert, [("r2star_hz", "r2star_hz")])])
    return workflow


def _add_two_steps(workflow: Workflow, plan: ScanPlan, maker: NodeMaker, recon: Reconstruction) -> Node:
    """Background field removal, and the inversion of what it leaves; the inversion is returned."""
    background = maker.make(
        RemoveBackground(**_method(plan, recon, "background")),
        "background",
        step=f"background field removal ({recon.background})",
        need=f"background {recon.background}",
        parallel=True,
    )
    invert = maker.make(
        InvertDipole(**_method(plan, recon, "inversion")),
        "invert",
        step=f"dipole inversion ({recon.inversion})",
        need=f"invert {recon.inversion}",
        parallel=True,
    )
    workflow.connect([
        (workflow.get_node("inputnode"), background, [("field_ppm", "field_ppm"), ("noise_ppm", "noise_ppm")]),
        (workflow.get_node("masks"), background, [
            ("brain_mask", "brain_mask"), ("reliable_mask", "reliable_mask"),
        ]),
        (background, invert, [
            ("local_field_ppm", "local_field_ppm"), ("mask", "mask"), ("known_mask", "known_mask"),
            ("detected", "detected_background"),
        ]),
    ])  # fmt: skip
    return invert


def _add_single_step(workflow: Workflow, plan: ScanPlan, maker: NodeMaker, recon: Reconstruction) -> Node:
    """The inversion of the total field, in all that is reliable; the local field is that of its map."""
    invert = maker.make(
        InvertTotalField(**_method(plan, recon, "inversion")),
        "invert",
        step=f"inversion of the total field ({recon.inversion})",
        need=f"invert {recon.inversion}",
        parallel=True,
    )
    workflow.connect([
        (workflow.get_node("inputnode"), invert, [("field_ppm", "field_ppm")]),
        (workflow.get_node("masks"), invert, [("reliable_mask", "mask")]),
    ])  # fmt: skip
    return invert


def init_reference_node(maker: NodeMaker, *, recon: Reconstruction) -> Node:
    """The map shifted to its reference region.

    Inputs: chi_ppm, mask, brain_mask, labels. Outputs: chi_ppm; measured_mask, the brain voxels with a susceptibility;
    white_matter; facts; sidecar.
    """
    reference = ReferenceSusceptibility(region=recon.reference)
    return maker.make(reference, "reference", step="reference region")


def _add_relaxometry(workflow: Workflow, plan: ScanPlan, maker: NodeMaker, recon: Reconstruction) -> Node:
    """R2*, T2* and S0 in the brain; one echo has none. The node is returned."""
    relax = maker.make(
        FitRelaxation(te_s=[float(te) for te in plan.facts.te_s], **_method(plan, recon, "relaxometry")),
        "relax",
        step=f"relaxometry ({recon.relaxometry})",
        need=f"relax {recon.relaxometry}",
        parallel=True,
    )
    workflow.connect([
        (workflow.get_node("inputnode"), relax, [("magnitude", "magnitude")]),
        (workflow.get_node("masks"), relax, [("brain_mask", "mask")]),
        (relax, workflow.get_node("outputnode"), [
            ("r2star_hz", "r2star_hz"), ("t2star_s", "t2star_s"), ("s0", "s0"),
        ]),
    ])  # fmt: skip
    return relax


def _method(plan: ScanPlan, recon: Reconstruction, stage: str) -> dict[str, Any]:
    """Name and parameters of the method chosen for a stage: all that sidecars and report state, as planned.

    A method that another one replaces for this scan keeps its own parameters: the step itself says why it is replaced.
    """
    name, planned = getattr(recon, stage), dict(plan.methods.get(stage, {}))
    own = planned.pop("method", None) == name
    return {"method": name, "parameters": planned if own else dict(recon.parameters.get(name, {}))}
