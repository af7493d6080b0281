"""Results to their final names, with their sidecars."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nipype.interfaces.utility import IdentityInterface
from nipype.pipeline.engine import Node, Workflow

from qsmals.bids.layout import NO_T1W_NOTE, PART_PAIRS
from qsmals.bids.sidecars import (
    Space,
    Uris,
    dseg_sidecar,
    fieldmap_sidecar,
    magnitude_sidecar,
    map_sidecar,
    mask_sidecar,
    native_reference,
    table_sidecar,
    transform_sidecar,
    with_software,
)
from qsmals.interfaces.outputs import SaveFieldMap, SaveFile, SaveImage, SaveText, SidecarFacts
from qsmals.interfaces.susceptibility import finds_background
from qsmals.settings import Anatomy
from qsmals.workflows.nodes import NodeMaker
from qsmals.workflows.plan import AtlasPlan, ScanPlan
from qsmals.workflows.regions import ATLAS_SPACE, TEMPLATE_SPACES

RELAXATION = {"R2starmap": "r2star_hz", "T2starmap": "t2star_s", "S0map": "s0"}
DETECTED = ("detected_prepare", "detected_offset", "detected_field", "detected_inversion")

ATLAS_LABELS = "atlas"
"""Whose labels a table was measured with, where they are no other pipeline's."""

FIELD_STAGES = ("phase_offset", "unwrap", "field", "given_field")
CHI_STAGES = (*FIELD_STAGES, "background", "inversion")
MASK_STEPS = ("brain_extraction", "coregistration", "interpolation", "unwrap", "mask")
FIELD_STEPS = ("preset", *FIELD_STAGES, "readout", "phase_sign", *MASK_STEPS, "background")
CHI_STEPS = (*FIELD_STEPS, "inversion", "reference")
RELAXATION_STEPS = (*MASK_STEPS, "relaxometry")
TEMPLATE_STEPS = ("brain_extraction", "template_registration")
REGION_STEPS = (*TEMPLATE_STEPS, "coregistration", "atlas", "refinement", "cortex", "interpolation")
"""Steps that a file depends on, by their names in :attr:`ScanPlan.methods`."""


def init_outputs_wf(
    plan: ScanPlan, maker: NodeMaker, *, uris: Uris, anatomy: Anatomy, name: str = "outputs_wf"
) -> Workflow:
    """Save everything that one scan gives.

    Inputs (``inputnode``)
    ----------------------
    The maps and masks of :func:`~qsmals.workflows.reconstruction.init_susceptibility_wf`; ``total_field_ppm``,
    ``magnitude`` (combined); ``labels``, ``parts`` and their tables; ``to_T1w`` (transform); per map and space
    ``<Map>_<space>``; per map ``table_<Map>`` and ``columns_<Map>``; for the sidecars ``reference``, ``mask_facts`` and
    the lists of what was detected in the data.
    """
    saver = _Saver(plan, maker, uris, anatomy, name)
    saver.save_native()
    saver.save_moved()
    saver.save_regions()
    saver.save_transform()
    return saver.workflow


def anchor(plan: ScanPlan, uris: Uris) -> list[str]:
    """URIs of the T1w image and of the transform to it; none where the scan is alone."""
    return [] if plan.alone else [uris.of(plan.t1w.file), uris.of(plan.outputs["xfm/T1w"].path)]


def segmented_labels(segmenter: str, file: Path) -> str:
    """Whose labels were used, in words, where they are another pipeline's."""
    made = f"{segmenter}'s own" if segmenter else "another pipeline's"
    words = f"The labels are {made} segmentation of this subject ({file.name}), brought to the gradient-echo grid"
    return f"{words} in one interpolation"


def completed(sidecar: Mapping[str, Any], plan: ScanPlan) -> dict[str, Any]:
    """A sidecar with the software, and the warning where there was no T1w image."""
    return with_software({**sidecar, **({"Warning": NO_T1W_NOTE} if plan.alone else {})}, plan.software)


class _Saver:
    """Adds one node a file; keeps what all sidecars share."""

    def __init__(self, plan: ScanPlan, maker: NodeMaker, uris: Uris, anatomy: Anatomy, name: str) -> None:
        self.plan, self.maker, self.uris, self.atlas = plan, maker, uris, anatomy.atlas
        self.refinement, self.refined = anatomy.refinement, anatomy.refinement == "susceptibility"
        gre = plan.unit.gre
        self.sources = uris.of_all(gre.all_files)
        self.reference = native_reference(gre, uris)
        self.anchor = anchor(plan, uris)
        self.measured = [*self.sources, *self.anchor]
        """What a map depends on: the brain mask comes from the T1w image, where there is one."""
        self.workflow = Workflow(name=name)
        self.inputnode = Node(IdentityInterface(fields=list(self._fields())), name="inputnode")
        self.facts = maker.make(SidecarFacts(), "sidecar_facts")
        self.workflow.connect([
            (self.inputnode, self.facts, [
                ("reference", "reference"), ("mask_facts", "mask"), *((name, name) for name in DETECTED),
            ]),
        ])  # fmt: skip

    def _fields(self) -> list[str]:
        keys = self.plan.outputs
        moved = [key.replace("/", "_") for key in keys if "/" in key and key.split("/")[0] in ("Chimap", "R2starmap")]
        tables = [
            f"{start}_{key.split('/')[2]}"
            for key in keys
            if key.startswith(f"roi/{self.atlas}/")
            for start in ("table", "columns")
        ]
        return [
            *("chi_ppm", "local_field_ppm", "total_field_ppm", "r2star_hz", "t2star_s", "s0", "magnitude"),
            *(
                "brain_mask",
                "quality_mask",
                "labels",
                "labels_table",
                "parts",
                "parts_table",
                "reference",
                "mask_facts",
                *DETECTED,
            ),
            *moved,
            *tables,
            *([] if self.plan.alone else ["to_T1w"]),
        ]

    def add(
        self,
        key: str,
        field: str,
        *,
        sidecar: Mapping[str, Any],
        interface: type[SaveImage] | type[SaveFile] = SaveImage,
        facts: str = "",
        masked: bool = False,
        **settings: Any,
    ) -> None:
        """Save the input ``field`` as the output ``key``.

        ``facts`` names what else joins the sidecar: an output of `SidecarFacts`, or an input.
        """
        content = completed(sidecar, self.plan) if sidecar else {}
        node = self.maker.make(
            interface(out_file=str(self.plan.outputs[key].path), sidecar=content, **settings),
            "save_" + "".join(c if c.isalnum() else "_" for c in key),
            need=_need(key, interface),
        )
        links = [(field, "in_file")]
        links += [("brain_mask", "mask")] if masked else []
        if facts in self.facts.outputs.copyable_trait_names():
            self.workflow.connect([(self.facts, node, [(facts, "facts")])])
        elif facts:
            links.append((facts, "facts"))
        self.workflow.connect([(self.inputnode, node, links)])

    def parameters(self, *steps: str) -> dict[str, Any]:
        """All parameters of those steps that this scan has."""
        return _parameters(self.plan, *steps)

    def algorithm(self, *stages: str) -> str:
        """Names of the methods, in the order of the run."""
        return ", ".join(str(step["method"]) for step in self.parameters(*stages).values())

    @property
    def single_step(self) -> bool:
        """Whether susceptibility came from the total field, and the local field from it."""
        return "background" not in self.plan.methods

    @property
    def local_stages(self) -> tuple[str, ...]:
        """Stages that the local field comes from after the total field."""
        if self.single_step:
            return ("inversion",)
        both = finds_background(str(self.plan.methods["inversion"]["method"]))
        return ("background", "inversion") if both else ("background",)

    def total_algorithm(self) -> str:
        """How the total field was found: here only where a field that was given has no value."""
        return self.algorithm("given_field", "field")

    def local_algorithm(self) -> str:
        """How the local field was found."""
        names = self.algorithm(*self.local_stages)
        return f"field of the map by {names}" if self.single_step else names

    def uri(self, key: str) -> str:
        """URI of another output."""
        return self.uris.of(self.plan.outputs[key].path)

    def map_fields(self, suffix: str, *more_steps: str, **extra: Any) -> dict[str, Any]:
        """Sidecar of a map; ``more_steps`` are those after the map itself."""
        relaxation = suffix in RELAXATION
        return map_sidecar(
            suffix,
            self.plan.unit.gre,
            sources=extra.pop("sources", self.measured),
            algorithm=self.algorithm(*(("relaxometry",) if relaxation else CHI_STAGES)),
            parameters=self.parameters(*(RELAXATION_STEPS if relaxation else CHI_STEPS), *more_steps),
            b0_tesla=self.plan.facts.b0_tesla,
            **extra,
        )

    def save_native(self) -> None:
        """Maps, fields and masks on the grid of the scan."""
        gre, b0_tesla = self.plan.unit.gre, float(self.plan.facts.b0_tesla)
        self.add("Chimap", "chi_ppm", sidecar=self.map_fields("Chimap"), facts="chi")
        for suffix, field in RELAXATION.items():
            if suffix in self.plan.outputs:
                self.add(suffix, field, sidecar=self.map_fields(suffix))
        for desc in ("total", "local"):
            sidecar = fieldmap_sidecar(
                desc,
                gre,
                sources=self.measured,
                algorithm=self.total_algorithm() if desc == "total" else self.local_algorithm(),
                parameters=self.parameters(*FIELD_STEPS, *(self.local_stages if desc == "local" else ())),
                b0_tesla=b0_tesla,
            )
            saving: dict[str, Any] = {"interface": SaveFieldMap, "masked": True, "b0_tesla": b0_tesla}
            self.add(f"fieldmap/{desc}", f"{desc}_field_ppm", sidecar=sidecar, facts="field", **saving)
        part = PART_PAIRS[gre.parts][0]
        note = "Root mean square of the magnitudes of all echoes"
        sidecar = magnitude_sidecar(gre, sources=self.uris.of_all(gre.files(part)), description=note)
        self.add("magnitude", "magnitude", sidecar=sidecar)
        for desc in ("brain", "quality"):
            # the brain mask is what background removal left of the brain
            steps = (*FIELD_STAGES, *MASK_STEPS, "background") if desc == "brain" else MASK_STEPS
            sidecar = mask_sidecar(
                desc,
                sources=[*self.anchor, *self.sources],
                spatial_reference=self.reference,
                parameters=self.parameters(*steps),
            )
            self.add(f"mask/{desc}", f"{desc}_mask", sidecar=sidecar, facts="mask", dtype="uint8")

    def save_moved(self) -> None:
        """Maps on the grids of the T1w image and of the templates."""
        for key in self.plan.outputs:
            suffix, _, place = key.partition("/")
            if suffix not in ("Chimap", "R2starmap") or not place:
                continue
            sources = [self.uri(suffix), *self.anchor]
            space = Space(reference=next(iter(self.anchor), self.reference))
            steps: tuple[str, ...] = ("brain_extraction", "coregistration", "interpolation")
            if place != "T1w":
                space, steps = Space(resolution="1 mm isotropic, the template's own grid"), (*steps, *TEMPLATE_STEPS)
                sources.append(self.uri(f"xfm/{place}"))
            sidecar = self.map_fields(suffix, *steps, sources=sources, space=space)
            self.add(key, key.replace("/", "_"), sidecar=sidecar, facts="chi" if suffix == "Chimap" else "")

    def save_regions(self) -> None:
        """Labels on the grid of the scan, and the tables measured with them."""
        place = "Regions of the atlas, brought to the gradient-echo grid in one interpolation"
        ribbon = ", cortex fitted to grey matter" if self.plan.methods["cortex"]["method"] == "grey-matter" else ""
        last = {
            "susceptibility": ", the deep nuclei moved to where the susceptibility map shows them and their borders "
            "fitted to it",
            "t1w": ", the borders of thalamus, caudate, hippocampus and amygdala fitted to the "
            f"{'gradient echo' if self.plan.alone else 'T1w image'}",
            "none": "",
        }
        sources = [*self.anchor[:1], self.uri(f"xfm/{ATLAS_SPACE}"), *self.anchor[1:], self.reference]
        atlas = self.plan.methods["atlas"]
        description = place + last[self.refinement] + ribbon
        given, own = self.plan.given_t1w, []
        if given.segmentation:
            own = [self.uris.of(given.segmentation)]
            description = segmented_labels(given.segmenter, given.segmentation) + (
                ", with substantia nigra and red nucleus of the atlas in its brainstem and ventral diencephalon"
            )
        sources = [*own, *sources]
        sidecar = dseg_sidecar(
            description=description,
            sources=[*sources, self.uri("Chimap")] if self.refined else sources,
            spatial_reference=self.reference,
            atlas={"Name": self.atlas, "Space": atlas["space"], "Parts": atlas["parts"]},
            parameters=self.parameters(*REGION_STEPS),
        )
        self.add(f"dseg/{self.atlas}", "labels", sidecar=sidecar, dtype="int32")
        self.add(f"dseg/{self.atlas}/table", "labels_table", sidecar={}, interface=SaveFile)
        whole = self.uri(f"dseg/{self.atlas}")
        parts = dseg_sidecar(
            description=f"Parts of labels of {whole}: rows at the end of its tables",
            sources=[whole],
            spatial_reference=self.reference,
            atlas={"Name": f"{self.atlas}parts", "Space": atlas["space"], "Parts": atlas["parts"]},
            parameters=self.parameters(*REGION_STEPS),
        )
        self.add(f"dseg/{self.atlas}parts", "parts", sidecar=parts, dtype="int32")
        self.add(f"dseg/{self.atlas}parts/table", "parts_table", sidecar={}, interface=SaveFile)
        for key in self.plan.outputs:
            if key.startswith(f"roi/{self.atlas}/"):
                suffix = key.split("/")[2]
                steps = RELAXATION_STEPS if suffix in RELAXATION else CHI_STEPS
                sidecar = table_sidecar(
                    {},
                    sources=[self.uri(suffix), self.uri(f"dseg/{self.atlas}"), *own],
                    labels=description,
                    labels_from=given.segmenter if given.segmentation else ATLAS_LABELS,
                    parameters=self.parameters(*steps, *REGION_STEPS),
                )
                saving: dict[str, Any] = {"interface": SaveFile, "facts": f"columns_{suffix}"}
                self.add(key, f"table_{suffix}", sidecar=sidecar, **saving)

    def save_transform(self) -> None:
        """How images move from the scan to the T1w image, where there is one."""
        if self.plan.alone:
            return
        sidecar = transform_sidecar(
            source=self.reference,
            target=self.anchor[0],
            description="Rigid (ITK)",
            parameters=self.parameters("brain_extraction", "coregistration"),
        )
        self.add("xfm/T1w", "to_T1w", sidecar=sidecar, interface=SaveFile)


def init_more_outputs_wf(
    atlas: AtlasPlan, plan: ScanPlan, maker: NodeMaker, *, maps: Sequence[str], uris: Uris, name: str
) -> Workflow:
    """Save what a user's atlas gave: inputs ``labels``, and per map ``table_<Map>``, ``columns_<Map>``."""
    fields = ["labels", *(f"{word}_{suffix}" for suffix in maps for word in ("table", "columns"))]
    inputnode = Node(IdentityInterface(fields=fields), name="inputnode")
    workflow = Workflow(name=name)
    steps = REGION_STEPS if atlas.space in TEMPLATE_SPACES else ("coregistration", "interpolation")
    labels, file = plan.outputs[f"dseg/{atlas.name}"], uris.of(atlas.file)
    description = f"Regions of the atlas {atlas.name}, brought to the gradient-echo grid in one interpolation"
    labels_from = ATLAS_LABELS
    if plan.given_t1w.destrieux and atlas.file == plan.given_t1w.destrieux.absolute():
        labels_from = plan.given_t1w.segmenter
        description = segmented_labels(labels_from, atlas.file)
    sidecar = dseg_sidecar(
        description=description,
        sources=[file, *anchor(plan, uris)[1:]],
        spatial_reference=native_reference(plan.unit.gre, uris),
        atlas={"Name": atlas.name, "Space": atlas.space, "File": file},
        parameters=_parameters(plan, *steps),
    )

    def save(name: str, links: list[tuple[str, str]], interface: Any) -> None:
        node = maker.make(interface, f"save_{name}", need=_need(name, type(interface)))
        if links:
            workflow.connect([(inputnode, node, links)])
        else:
            workflow.add_nodes([node])

    image = {"out_file": str(labels.path), "sidecar": completed(sidecar, plan)}
    dtype = "float32" if atlas.probabilistic else "int32"
    save("labels", [("labels", "in_file")], SaveImage(dtype=dtype, **image))
    names: dict[str, Any] = {"text": atlas.table, "out_file": str(plan.outputs[f"dseg/{atlas.name}/table"].path)}
    if atlas.probabilistic:
        content = {**sidecar, "Description": f"Names of the volumes of {labels.path.name}"}
        names["sidecar"] = completed(content, plan)
    save("names", [], SaveText(**names))
    for suffix in maps:
        own = RELAXATION_STEPS if suffix in RELAXATION else CHI_STEPS
        content = table_sidecar(
            {},
            sources=[uris.of(plan.outputs[suffix].path), uris.of(labels.path), file],
            labels=description,
            labels_from=labels_from,
            parameters=_parameters(plan, *own, *steps),
        )
        out_file = str(plan.outputs[f"roi/{atlas.name}/{suffix}"].path)
        links = [(f"table_{suffix}", "in_file"), (f"columns_{suffix}", "facts")]
        save(suffix, links, SaveFile(out_file=out_file, sidecar=completed(content, plan)))
    return workflow


def init_anatomy_outputs_wf(
    plan: ScanPlan, maker: NodeMaker, *, uris: Uris, spaces: Sequence[str], name: str = "anatomy_outputs_wf"
) -> Workflow:
    """Save how a T1w image, or a scan without one, moves: inputs ``to_<template>``, ``from_<template>``."""
    fields = [f"{way}_{space}" for space in spaces for way in ("to", "from")]
    inputnode = Node(IdentityInterface(fields=fields), name="inputnode")
    workflow = Workflow(name=name)
    image = native_reference(plan.unit.gre, uris) if plan.alone else uris.of(plan.t1w.file)
    for space in spaces:
        for way, source, target in (("to", image, space), ("from", space, image)):
            sidecar = transform_sidecar(
                source=source,
                target=target,
                made_from=image,
                description="Affine and SyN, composite (ITK)",
                parameters=_parameters(plan, *TEMPLATE_STEPS),
            )
            key = f"xfm/{space}" if way == "to" else f"xfm/from-{space}"
            save = SaveFile(out_file=str(plan.outputs[key].path), sidecar=completed(sidecar, plan))
            node = maker.make(save, f"save_{way}_{space}", need="save file")
            workflow.connect([(inputnode, node, [(f"{way}_{space}", "in_file")])])
    return workflow


def _need(key: str, interface: type) -> str:
    """What :mod:`qsmals.workflows.memory` calls the saving of an output: by the grid that its image lies on."""
    if interface is not SaveImage:
        return "save file"
    grid = key.rpartition("/")[2]
    return {"T1w": "save T1w", **dict.fromkeys(TEMPLATE_SPACES, "save template")}.get(grid, "save")


def _parameters(plan: ScanPlan, *steps: str) -> dict[str, Any]:
    """All parameters of those of the steps that the scan has, each step once."""
    return {step: dict(plan.methods[step]) for step in dict.fromkeys(steps) if step in plan.methods}
