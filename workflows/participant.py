"""The whole graph: subjects, their T1w images, and their gradient-echo scans."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from nipype.interfaces.utility import IdentityInterface
from nipype.pipeline.engine import Node, Workflow

import qsmals
from qsmals import __version__
from qsmals.bids.layout import GreScan
from qsmals.bids.names import map_names
from qsmals.bids.sidecars import Uris, acquisition_metadata, strict_json
from qsmals.engine.progress import nipype_settings
from qsmals.interfaces.outputs import SaveFacts
from qsmals.interfaces.utility import SLOTS
from qsmals.settings import Settings
from qsmals.workflows.anatomy import (
    init_anatomy_wf,
    init_coregistration_wf,
    init_gre_anatomy_wf,
    init_same_space_wf,
)
from qsmals.workflows.memory import Sizes
from qsmals.workflows.nodes import NodeMaker
from qsmals.workflows.outputs import DETECTED, init_anatomy_outputs_wf, init_more_outputs_wf, init_outputs_wf
from qsmals.workflows.plan import (
    AtlasPlan,
    Limits,
    RunPlan,
    ScanPlan,
    SubjectPlan,
    beside_given_field,
    graph_name,
    unit_label,
)
from qsmals.workflows.quality import add_figures, init_quality_node, init_save_quality_node
from qsmals.workflows.reconstruction import (
    init_field_wf,
    init_prepare_node,
    init_reference_node,
    init_susceptibility_wf,
)
from qsmals.workflows.regions import (
    ATLAS_SPACE,
    BRIDGE,
    BRIDGE_FACTS,
    MAPS,
    RIGID_FACTS,
    TEMPLATE_FACTS,
    TEMPLATE_SPACES,
    init_atlas_node,
    init_bridge_node,
    init_labels_wf,
    init_measures_wf,
    init_more_regions_wf,
    registrations_of,
    tables_through,
)

LOW_EFFORT = "low effort (--sloppy): not for a study"
ATLAS_FIELDS = ("atlas", "labels_table", "parts", "parts_table")
"""Inputs of a scan's graph that the atlas's node fills."""


def run_folder(settings: Settings) -> Path:
    """Where the graph works; results of other code or of another study are never taken for this one's."""
    study = hashlib.sha256(f"{settings.bids_dir}\n{settings.output_dir}\n{code_digest()}".encode()).hexdigest()[:8]
    return Path(settings.work_dir) / f"qsmals-{__version__}" / study


@lru_cache
def code_digest() -> str:
    """Digest of the package's sources: a version that is under development does not tell its states apart."""
    root = Path(qsmals.__file__).parent
    files = sorted(path for path in root.rglob("*.py") if "__pycache__" not in path.parts)
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def node_names(workflow: Workflow) -> set[str]:
    """Full names of the nodes that a run of the graph must end."""
    nodes = workflow._create_flat_graph().nodes()
    return {node.fullname for node in nodes if not isinstance(node.interface, IdentityInterface)}


def subject_graph(label: str) -> str:
    """Name of a subject's graph and of its folder."""
    return "sub_" + "".join(c if c.isalnum() else "_" for c in label) + "_wf"


def init_run_wf(plan: RunPlan) -> Workflow:
    """All subjects side by side; they share nothing."""
    folder = run_folder(plan.settings)
    workflow = Workflow(name="participant_wf", base_dir=str(folder))
    behaviour = plan.settings.behaviour
    # named after a subject whose lock this process holds: no other run works in the node's folder
    first = subject_graph(plan.subjects[0].label).removesuffix("_wf")
    maker = NodeMaker("", Sizes(0, 0, 0), plan.limits.omp_nthreads)
    atlas = init_atlas_node(maker, settings=plan.settings, name=f"atlas_{first}")
    atlas.config = nipype_settings(Path(plan.settings.output_dir) / "logs")
    bridge = None
    if any(needs_bridge(scan) for subject in plan.subjects for scan in subject.scans):
        bridge = init_bridge_node(maker, settings=plan.settings, name=f"templates_{first}")
        bridge.config = atlas.config
    for subject in plan.subjects:
        graph = init_subject_wf(subject, settings=plan.settings, limits=plan.limits)
        config = nipype_settings(subject.log_dir, stop_on_first_crash=behaviour.stop_on_first_crash)
        for node in graph._get_all_nodes():
            node.config = config
        links = [
            (output, f"{graph_name(scan.unit.gre.prefix, 'gre')}.inputnode.{name}")
            for scan in subject.scans
            for name, output in atlas_links(scan)
        ]
        workflow.connect([(atlas, graph, links)])
        if bridge is not None:
            inputs = [
                (output, f"{graph_name(scan.unit.gre.prefix, 'gre')}.inputnode.{name}")
                for scan in subject.scans
                if needs_bridge(scan)
                for output, name in (("forward", BRIDGE), ("facts", BRIDGE_FACTS))
            ]
            workflow.connect([(bridge, graph, inputs)])
        workflow.config.update(config)
    return workflow


def atlas_links(scan: ScanPlan) -> list[tuple[str, str]]:
    """Inputs of a scan's graph with the outputs of the atlas's node that fill them."""
    table = "segmentation_table" if scan.given_t1w.segmentation else "table"
    return list(zip(ATLAS_FIELDS, ("labels", table, "parts", "parts_table"), strict=True))


def needs_bridge(scan: ScanPlan) -> bool:
    """Whether an atlas is drawn on another template than the built-in one."""
    return any(BRIDGE_FACTS in registrations_of(atlas.space) for atlas in scan.atlases)


def init_subject_wf(plan: SubjectPlan, *, settings: Settings, limits: Limits) -> Workflow:
    """Each T1w image once, each gradient-echo scan with the T1w image that goes with it."""
    workflow = Workflow(name=subject_graph(plan.label))
    anatomy: dict[Path, Workflow] = {}
    for scan in plan.scans:
        if scan.alone:
            workflow.add_nodes([init_scan_wf(scan, settings=settings, limits=limits)])
            continue
        file = scan.t1w.file
        if file not in anatomy:
            anatomy[file] = _anatomy(scan, settings, limits)
            workflow.connect([(anatomy[file], _anatomy_outputs(scan, settings, limits), _to_templates(settings))])
        graph = init_scan_wf(scan, settings=settings, limits=limits)
        links = [(f"outputnode.{field}", f"inputnode.{field}") for field in _anatomy_fields(settings)]
        workflow.connect([(anatomy[file], graph, links)])
    return workflow


def _anatomy(plan: ScanPlan, settings: Settings, limits: Limits) -> Workflow:
    prefix = plan.t1w.prefix
    maker = NodeMaker(unit_label(prefix), plan.sizes, limits.omp_nthreads)
    name = graph_name(prefix, "anatomy")
    return init_anatomy_wf(plan.t1w, maker, settings=settings, given=plan.given_t1w, name=name)


def _anatomy_outputs(plan: ScanPlan, settings: Settings, limits: Limits) -> Workflow:
    prefix = plan.t1w.prefix
    maker = NodeMaker(unit_label(prefix), plan.sizes, limits.omp_nthreads)
    uris = Uris(Path(settings.bids_dir), Path(settings.output_dir))
    name = graph_name(prefix, "anatomy_outputs")
    return init_anatomy_outputs_wf(plan, maker, uris=uris, spaces=settings.anatomy.output_spaces, name=name)


def _to_templates(settings: Settings) -> list[tuple[str, str]]:
    return _through(*(f"{way}_{space}" for space in settings.anatomy.output_spaces for way in ("to", "from")))


def _anatomy_fields(settings: Settings) -> list[str]:
    per_space = [f"{word}_{space}" for space in settings.anatomy.output_spaces for word in ("to", "from", "facts")]
    tissues = ["tissues"] if settings.anatomy.cortex == "grey-matter" else []
    return ["brain", "mask", *tissues, "initial", "brain_facts", "t1w_on_template", *per_space]


def for_scan(settings: Settings, plan: ScanPlan) -> Settings:
    """The settings as they apply to a scan: without a T1w image nothing tells which voxels are grey matter."""
    if not plan.alone:
        return settings
    anatomy = replace(settings.anatomy, cortex="atlas")
    if anatomy.brain_extraction != "skip":  # the built-in way is the only one that knows other contrasts than T1w
        anatomy = replace(anatomy, brain_extraction="auto")
    return replace(settings, anatomy=anatomy)


def init_scan_wf(plan: ScanPlan, *, settings: Settings, limits: Limits) -> Workflow:
    """One gradient-echo scan from its images to its tables.

    Inputs (``inputnode``): the outputs of :func:`~qsmals.workflows.anatomy.init_anatomy_wf`, unless the scan is alone,
    and those of :func:`~qsmals.workflows.regions.init_atlas_node`.
    """
    known, settings = known_facts(plan, settings), for_scan(settings, plan)
    prefix, spaces = plan.unit.gre.prefix, settings.anatomy.output_spaces
    maker = NodeMaker(unit_label(prefix), plan.sizes, limits.omp_nthreads)
    recon = settings.reconstruction
    maps = [suffix for suffix in MAPS if suffix in map_names(len(plan.facts.te_s))]
    uris = Uris(Path(settings.bids_dir), Path(settings.output_dir))

    bridge = [BRIDGE, BRIDGE_FACTS] if needs_bridge(plan) else []
    fields = [*([] if plan.alone else _anatomy_fields(settings)), *ATLAS_FIELDS, *bridge]
    inputnode = Node(IdentityInterface(fields=fields), name="inputnode")
    prepare = init_prepare_node(plan, maker)
    field = init_field_wf(plan, maker, acquisition=settings.acquisition, recon=recon)
    anatomy = Node(IdentityInterface(fields=_anatomy_fields(settings)), name="anatomy") if plan.alone else inputnode
    if plan.alone:
        coregister = init_same_space_wf(maker, settings=settings)
    else:
        coregister = init_coregistration_wf(plan.t1w, maker, settings=settings, given=plan.given)
    segmentation = str(plan.given_t1w.segmentation or "")
    labels = init_labels_wf(maker, settings=settings, segmentation=segmentation)
    chi = init_susceptibility_wf(plan, maker, recon=recon)
    reference = init_reference_node(maker, recon=recon)
    moved = tuple(spaces) if plan.alone else ("T1w", *spaces)
    measures = init_measures_wf(maker, maps=maps, spaces=moved, settings=settings, segmented=bool(segmentation))
    outputs = init_outputs_wf(plan, maker, uris=uris, anatomy=settings.anatomy)
    template_facts, source = maker.join("template_facts"), "GRE" if plan.alone else "T1w"
    save_facts = SaveFacts(
        out_file=str(plan.facts_file),
        known=known,
        brain_extraction=settings.anatomy.brain_extraction,
        templates=list(spaces),
        source=source,
        lost_tables=_lost_tables(plan, settings, source),
    )
    facts = maker.make(save_facts, "facts")
    quality, save_quality = init_quality_node(plan, maker, settings=settings), init_save_quality_node(plan, maker)

    workflow = Workflow(name=graph_name(prefix, "gre"))
    workflow.connect([
        (anatomy, coregister, _ins("mask")),
        (prepare, field, _ins("magnitude", "phase", "tissue_mask")),
        (coregister, field, _through("brain_mask")),
        (prepare, chi, _ins("magnitude")),
        (field, chi, _through("quality", "field_ppm", "noise_ppm")),
        (coregister, chi, _through("brain_mask")),
        (anatomy, labels, [
            (f"from_{ATLAS_SPACE}", "inputnode.from_template"), (f"to_{ATLAS_SPACE}", "inputnode.to_template"),
            *_ins("brain", *(f for f in fields if f == "tissues")),
        ]),
        (inputnode, labels, _ins("atlas", "parts")),
        (coregister, labels, _through("to_t1w", "to_gre")),
        (prepare, labels, [("combined", "inputnode.reference")]),
        (chi, labels, _through("chi_ppm")),
        (chi, reference, [(f"outputnode.{name}", name) for name in ("chi_ppm", "mask", "brain_mask")]),
        (labels, reference, [("outputnode.labels", "labels")]),
        (reference, measures, [
            ("chi_ppm", "inputnode.chi_ppm"), ("measured_mask", "inputnode.brain_mask"),
            ("white_matter", "inputnode.white_matter"),
        ]),
        (chi, measures, [("outputnode.brain_mask", "inputnode.fit_mask"), *_through(*_relaxation("r2star_hz", plan))]),
        (labels, measures, _through("labels", "parts", "in_view")),
        (anatomy, measures, [("brain", "inputnode.t1w_brain"), *_ins(*(f"to_{space}" for space in spaces))]),
        (coregister, measures, _through("to_t1w")),
        (chi, outputs, _through(
            "local_field_ppm", "quality_mask",
            *_relaxation("r2star_hz", plan), *_relaxation("t2star_s", plan), *_relaxation("s0", plan),
        )),
        (reference, outputs, [
            ("chi_ppm", "inputnode.chi_ppm"), ("measured_mask", "inputnode.brain_mask"),
            ("sidecar", "inputnode.reference"),
        ]),
        (chi, outputs, _through("mask_facts", DETECTED[3])),
        (field, outputs, [
            ("outputnode.field_ppm", "inputnode.total_field_ppm"), *_through(*DETECTED[1:3]),
        ]),
        (prepare, outputs, [("combined", "inputnode.magnitude"), ("detected", f"inputnode.{DETECTED[0]}")]),
        (labels, outputs, _through("labels", "parts")),
        (measures, outputs, _through(*_measured(maps, moved))),
        (inputnode, outputs, _ins("labels_table", "parts_table")),
        (field, facts, [
            *((f"outputnode.{n}", n) for n in (*DETECTED[1:3], "unwrapped", "quality")),
            ("outputnode.noise_ppm", "noise"),
        ]),
        (prepare, facts, [("magnitude", "magnitude"), ("phase", "phase"), ("detected", DETECTED[0])]),
        (chi, facts, [
            ("outputnode.mask_facts", "mask"), ("outputnode.inversion_facts", "inversion"),
            (f"outputnode.{DETECTED[3]}", DETECTED[3]),
        ]),
        (reference, facts, [("facts", "reference")]),
        (anatomy, facts, [("brain_facts", "brain"), ("t1w_on_template", "t1w_on_template")]),
        (anatomy, template_facts, [
            (f"facts_{space}", slot) for space, slot in zip(spaces, SLOTS[: len(spaces)], strict=True)
        ]),
        (template_facts, facts, [("out", "registration_templates")]),
        (anatomy, measures, [(f"facts_{ATLAS_SPACE}", f"inputnode.{TEMPLATE_FACTS}")]),
        (labels, facts, [("outputnode.nuclei_facts", "nuclei")]),
        (prepare, quality, [("magnitude", "magnitude"), ("phase", "phase")]),
        (field, quality, [("outputnode.unwrapped", "unwrapped"), ("outputnode.noise_ppm", "noise_ppm")]),
        (reference, quality, [(n, n) for n in ("chi_ppm", "measured_mask", "white_matter")]),
        (coregister, quality, [("outputnode.brain_mask", "brain_mask"), ("outputnode.to_gre", "to_gre")]),
        (labels, quality, [("outputnode.labels", "labels")]),
        (measures, quality, [("outputnode.table_Chimap", "table")]),
        (inputnode, quality, [("atlas", "atlas")]),
        (anatomy, quality, [("initial", "initial")]),
        (template_facts, quality, [("out", "registration_templates")]),
        (quality, save_quality, [("out_file", "in_file")]),
    ])  # fmt: skip
    if plan.alone:
        found = init_gre_anatomy_wf(plan, maker, settings=settings, given=plan.given)
        saving = init_anatomy_outputs_wf(plan, maker, uris=uris, spaces=spaces)
        workflow.connect([
            (prepare, found, _ins("magnitude", "combined")),
            (found, anatomy, [(f"outputnode.{field}", field) for field in _anatomy_fields(settings)]),
            (found, saving, _to_templates(settings)),
        ])  # fmt: skip
    else:
        workflow.connect([
            (inputnode, coregister, _ins("brain", "initial")),
            (prepare, coregister, [("combined", "inputnode.magnitude")]),
            (coregister, outputs, [("outputnode.to_t1w", "inputnode.to_T1w")]),
            (coregister, facts, [("outputnode.facts", "registration_gre"), ("outputnode.t1w_on_gre", "t1w_on_gre")]),
            (coregister, measures, [("outputnode.facts", f"inputnode.{RIGID_FACTS}")]),
            (coregister, quality, [("outputnode.facts", "registration_gre")]),
            (inputnode, facts, [("brain", "t1w")]),
            (labels, facts, [("outputnode.t1w_labels", "t1w_labels")]),
        ])  # fmt: skip
    if settings.anatomy.cortex == "grey-matter" and not segmentation:
        workflow.connect([
            (labels, facts, [
                ("outputnode.cortex_facts", "cortex"), ("outputnode.tissues_on_gre", "tissues_on_gre"),
            ]),
            (inputnode, facts, [("tissues", "tissues")]),
        ])  # fmt: skip
    if bridge:
        workflow.connect([(inputnode, facts, [(BRIDGE_FACTS, BRIDGE_FACTS)])])
    for atlas in plan.atlases:
        _add_atlas(workflow, atlas, plan, maker, maps, settings, uris)
    add_figures(workflow, plan, maker, settings=settings)
    return workflow


def _add_atlas(
    workflow: Workflow,
    atlas: AtlasPlan,
    plan: ScanPlan,
    maker: NodeMaker,
    maps: list[str],
    settings: Settings,
    uris: Uris,
) -> None:
    """One more atlas in the graph of a scan: on its grid, measured, saved."""
    node, named, judged = workflow.get_node, f"atlas_{atlas.name}", registrations_of(atlas.space)
    graph = init_more_regions_wf(atlas, maker, maps=maps, settings=settings, name=named)
    save = init_more_outputs_wf(atlas, plan, maker, maps=maps, uris=uris, name=f"{named}_outputs")
    workflow.connect([
        (node("anatomy" if plan.alone else "inputnode"), graph, [
            (f"from_{ATLAS_SPACE}", "inputnode.from_template"), *_ins("brain"),
        ]),
        (node("coregistration_wf"), graph, _through("to_gre")),
        (node("prepare"), graph, [("combined", "inputnode.reference")]),
        (node("reference"), graph, [
            ("chi_ppm", "inputnode.chi_ppm"), ("measured_mask", "inputnode.brain_mask"),
            ("white_matter", "inputnode.white_matter"),
        ]),
        (node("susceptibility_wf"), graph, [
            ("outputnode.brain_mask", "inputnode.fit_mask"), *_through(*_relaxation("r2star_hz", plan)),
        ]),
        (graph, save, _through("labels", *(f"{word}_{suffix}" for suffix in maps for word in ("table", "columns")))),
    ])  # fmt: skip
    if settings.anatomy.refinement == "susceptibility" and atlas.space in TEMPLATE_SPACES:
        workflow.connect([(node("labels_wf"), graph, _through("refined"))])
    if not plan.alone:
        workflow.connect([(node("coregistration_wf"), graph, [("outputnode.facts", f"inputnode.{RIGID_FACTS}")])])
    if TEMPLATE_FACTS in judged:
        quality = (f"facts_{ATLAS_SPACE}", f"inputnode.{TEMPLATE_FACTS}")
        workflow.connect([(node("anatomy" if plan.alone else "inputnode"), graph, [quality])])
    if BRIDGE_FACTS in judged:
        workflow.connect([(node("inputnode"), graph, _ins(BRIDGE, BRIDGE_FACTS))])


def _lost_tables(plan: ScanPlan, settings: Settings, source: str) -> dict[str, list[str]]:
    """Region tables without statistics where a registration fails, by the names that `SaveFacts` has for them."""
    tables = tables_through(plan, settings.anatomy.atlas)
    names = {"GRE to T1w": RIGID_FACTS, f"{source} to {ATLAS_SPACE}": TEMPLATE_FACTS, "the templates": BRIDGE_FACTS}
    return {name: list(tables[facts]) for name, facts in names.items()}


def known_facts(plan: ScanPlan, settings: Settings) -> dict[str, Any]:
    """What is known about a scan before it is run, as the report reads it."""
    facts, gre = plan.facts, plan.unit.gre
    acquisition = acquisition_metadata(gre, b0_tesla=facts.b0_tesla) | {
        "EchoTimes": list(facts.te_s),
        "VoxelSize": [round(v, 4) for v in facts.voxel_size_mm],
        "MatrixSize": list(facts.shape),
        **image_type(gre),
    }
    known = {
        "prefix": gre.prefix,
        "acquisition": acquisition,
        "echoes": [{"echo": e.index, "echo_time_s": t} for e, t in zip(gre.echoes, facts.te_s, strict=True)],
        "detected": [tilt(facts.affine)],
        "warnings": [
            *([LOW_EFFORT] if settings.behaviour.sloppy else []),
            *plan.unit.notes,
            *_replaced_methods(plan, settings),
            *beside_given_field(settings, plan.given.total_field),
        ],
    }
    strict: dict[str, Any] = strict_json(known)
    return strict


def image_type(gre: GreScan) -> dict[str, Any]:
    """How the scanner prepared the images of the first echo, such as by filters; not for the sidecars of maps."""
    for metadata in gre.echoes[0].metadata.values():
        found = {name: metadata[name] for name in ("ImageType", "ImageTypeText") if name in metadata}
        if found:
            return found
    return {}


def _replaced_methods(plan: ScanPlan, settings: Settings) -> list[str]:
    """A sentence for each stage whose method does not suit the scan, so that another one is used."""
    asked = vars(settings.reconstruction)
    replaced = [
        f"{stage.replace('_', ' ')}: {asked[stage]} does not suit these echo times; {values['method']} is used"
        for stage, values in plan.methods.items()
        if stage in asked and values["method"] != asked[stage]
    ]
    if plan.alone and settings.anatomy.brain_extraction == "deepbet":
        replaced.append("brain extraction: deepbet knows T1w images only; the brain was found by the scan's signal")
    return replaced


def tilt(affine: Any) -> dict[str, Any]:
    """The angle between the slices' normal and the main field, as a line of the report."""
    import numpy as np

    matrix = np.asarray(affine, dtype=float)[:3, :3]
    z_of_axes = matrix[2] / np.linalg.norm(matrix, axis=0)
    degrees = float(np.degrees(np.arccos(min(1.0, float(np.abs(z_of_axes).max())))))
    return {"what": "tilt", "found": f"{degrees:.1f} degrees between the main field and the nearest voxel axis",
            "evidence": "affine"}  # fmt: skip


def _through(*fields: str) -> list[tuple[str, str]]:
    """Links from the outputs of one graph to the inputs of the same names of another."""
    return [(f"outputnode.{field}", f"inputnode.{field}") for field in fields]


def _ins(*fields: str) -> list[tuple[str, str]]:
    """Links from an input node to the inputs of the same names of a graph."""
    return [(field, f"inputnode.{field}") for field in fields]


def _relaxation(field: str, plan: ScanPlan) -> list[str]:
    return [field] if len(plan.facts.te_s) > 1 else []


def _measured(maps: list[str], spaces: Sequence[str]) -> list[str]:
    words = ["table_{}", "columns_{}", *("{}_" + space for space in spaces)]
    return [word.format(suffix) for suffix in maps for word in words]
