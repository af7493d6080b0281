"""Results to their final names, with their sidecars."""

from collections.abc import Mapping, Sequence
from typing import Any

from nipype.interfaces.utility import IdentityInterface
from nipype.pipeline.engine import Node, Workflow

from qsmals.bids.layout import PART_PAIRS
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
)
from qsmals.interfaces.outputs import SaveFieldMap, SaveFile, SaveImage
from qsmals.settings import Reconstruction
from qsmals.workflows.nodes import NodeMaker
from qsmals.workflows.plan import ScanPlan

RELAXATION = {"R2starmap": "r2star_hz", "T2starmap": "t2star_s", "S0map": "s0"}


def init_outputs_wf(
    plan: ScanPlan, maker: NodeMaker, *, uris: Uris, recon: Reconstruction, atlas: str, name: str = "outputs_wf"
) -> Workflow:
    """Save everything that one scan gives.

    Inputs (``inputnode``)
    ----------------------
    The maps and masks of :func:`~qsmals.workflows.reconstruction.init_susceptibility_wf`; ``total_field_ppm``,
    ``magnitude`` (combined); ``labels`` and ``labels_table``; ``to_T1w`` (transform); per map and space
    ``<Map>_<space>``; per map ``table_<Map>`` and ``columns_<Map>``; ``reference``, for the sidecar of the map.
    """
    saver = _Saver(plan, maker, uris, recon, atlas, name)
    saver.save_native()
    saver.save_moved()
    saver.save_regions()
    saver.save_transform()
    return saver.workflow


class _Saver:
    """Adds one node a file; keeps what all sidecars share."""

    def __init__(
        self, plan: ScanPlan, maker: NodeMaker, uris: Uris, recon: Reconstruction, atlas: str, name: str
    ) -> None:
        self.plan, self.maker, self.uris, self.recon, self.atlas = plan, maker, uris, recon, atlas
        gre = plan.unit.gre
        self.sources = uris.of_all(gre.all_files)
        self.reference = native_reference(gre, uris)
        self.chi_uri = uris.of(plan.outputs["Chimap"].path)
        self.parameters = _methods(recon, len(plan.facts.te_s))
        self.workflow = Workflow(name=name)
        self.inputnode = Node(IdentityInterface(fields=list(self._fields())), name="inputnode")
        self.workflow.add_nodes([self.inputnode])

    def _fields(self) -> list[str]:
        keys = self.plan.outputs
        moved = [key.replace("/", "_") for key in keys if "/" in key and key.split("/")[0] in ("Chimap", "R2starmap")]
        tables = [
            f"{start}_{key.split('/')[2]}" for key in keys if key.startswith("roi/") for start in ("table", "columns")
        ]
        return [
            *("chi_ppm", "local_field_ppm", "total_field_ppm", "r2star_hz", "t2star_s", "s0", "magnitude"),
            *("brain_mask", "quality_mask", "labels", "labels_table", "reference"),
            *moved,
            *tables,
            "to_T1w",
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
        """Save the input ``field`` as the output ``key``; ``facts`` names an input that joins the sidecar."""
        node = self.maker.make(
            interface(out_file=str(self.plan.outputs[key].path), sidecar=dict(sidecar), **settings),
            "save_" + "".join(c if c.isalnum() else "_" for c in key),
            volumes=6,
        )
        links = [(field, "in_file")]
        links += [(facts, "facts")] if facts else []
        links += [("brain_mask", "mask")] if masked else []
        self.workflow.connect([(self.inputnode, node, links)])

    def map_fields(self, suffix: str, **extra: Any) -> dict[str, Any]:
        """Sidecar of a map."""
        stages = ("relaxometry",) if suffix in RELAXATION else tuple(s for s in self.parameters if s != "relaxometry")
        chosen = {s: self.parameters[s] for s in stages if s in self.parameters}
        return map_sidecar(
            suffix,
            self.plan.unit.gre,
            sources=extra.pop("sources", self.sources),
            algorithm=", ".join(str(v["method"]) for v in chosen.values()),
            parameters=chosen,
            b0_tesla=self.plan.facts.b0_tesla,
            **extra,
        )

    def save_native(self) -> None:
        """Maps, fields and masks on the grid of the scan."""
        gre, b0_tesla = self.plan.unit.gre, float(self.plan.facts.b0_tesla)
        self.add("Chimap", "chi_ppm", sidecar=self.map_fields("Chimap"), facts="reference")
        for suffix, field in RELAXATION.items():
            if suffix in self.plan.outputs:
                self.add(suffix, field, sidecar=self.map_fields(suffix))
        for desc in ("total", "local"):
            sidecar = fieldmap_sidecar(
                desc,
                gre,
                sources=self.sources,
                algorithm=self.recon.field if desc == "total" else self.recon.background,
                parameters=self.parameters,
                b0_tesla=b0_tesla,
            )
            field, key = f"{desc}_field_ppm", f"fieldmap/{desc}"
            self.add(key, field, sidecar=sidecar, interface=SaveFieldMap, masked=True, b0_tesla=b0_tesla)
        part = PART_PAIRS[gre.parts][0]
        note = "Root mean square of the magnitudes of all echoes"
        sidecar = magnitude_sidecar(gre, sources=self.uris.of_all(gre.files(part)), description=note)
        self.add("magnitude", "magnitude", sidecar=sidecar)
        for desc in ("brain", "quality"):
            sidecar = mask_sidecar(desc, sources=self.sources, spatial_reference=self.reference)
            self.add(f"mask/{desc}", f"{desc}_mask", sidecar=sidecar, dtype="uint8")

    def save_moved(self) -> None:
        """Maps on the grids of the T1w image and of the templates."""
        for key in self.plan.outputs:
            suffix, _, place = key.partition("/")
            if suffix not in ("Chimap", "R2starmap") or not place:
                continue
            space = Space(reference=self.uris.of(self.plan.t1w.file))
            if place != "T1w":
                space = Space(resolution="1 mm isotropic, the template's own grid")
            sources = [self.uris.of(self.plan.outputs[suffix].path), self.uris.of(self.plan.t1w.file)]
            sidecar = self.map_fields(suffix, sources=sources, space=space)
            self.add(key, key.replace("/", "_"), sidecar=sidecar, facts="reference" if suffix == "Chimap" else "")

    def save_regions(self) -> None:
        """Labels on the grid of the scan, and the tables measured with them."""
        labels = self.plan.outputs[f"dseg/{self.atlas}"]
        sidecar = dseg_sidecar(
            description="Regions of the atlas, brought to the gradient-echo grid in one interpolation",
            sources=[self.uris.of(self.plan.t1w.file), self.reference],
            spatial_reference=self.reference,
            atlas={"Name": self.atlas},
        )
        self.add(f"dseg/{self.atlas}", "labels", sidecar=sidecar, dtype="int32")
        self.add(f"dseg/{self.atlas}/table", "labels_table", sidecar={}, interface=SaveFile)
        for key in self.plan.outputs:
            if key.startswith("roi/"):
                suffix = key.split("/")[2]
                sources = self.uris.of_all([self.plan.outputs[suffix].path, labels.path])
                sidecar = table_sidecar({}, sources=sources)
                self.add(
                    key, f"table_{suffix}", sidecar=sidecar, interface=SaveFile, facts=f"columns_{suffix}"
                )  # fmt: skip

    def save_transform(self) -> None:
        """How images move from the scan to the T1w image."""
        t1w = self.uris.of(self.plan.t1w.file)
        sidecar = transform_sidecar(source=self.reference, target=t1w, description="Rigid (ITK)")
        self.add("xfm/T1w", "to_T1w", sidecar=sidecar, interface=SaveFile)


def init_anatomy_outputs_wf(
    plan: ScanPlan, maker: NodeMaker, *, uris: Uris, spaces: Sequence[str], name: str = "anatomy_outputs_wf"
) -> Workflow:
    """Save what belongs to a T1w image and not to one of its scans: inputs ``to_<template>``."""
    inputnode = Node(IdentityInterface(fields=[f"to_{space}" for space in spaces]), name="inputnode")
    workflow = Workflow(name=name)
    for space in spaces:
        sidecar = transform_sidecar(
            source=uris.of(plan.t1w.file), target=space, description="Affine and SyN, composite (ITK)"
        )
        save = SaveFile(out_file=str(plan.outputs[f"xfm/{space}"].path), sidecar=sidecar)
        workflow.connect([(inputnode, maker.make(save, f"save_to_{space}"), [(f"to_{space}", "in_file")])])
    return workflow


def _methods(recon: Reconstruction, n_echoes: int) -> dict[str, dict[str, Any]]:
    """Method and changed parameters of each stage that runs."""
    single = ("unwrap", "field", "background", "inversion")
    stages = single if n_echoes == 1 else ("phase_offset", *single, "relaxometry")
    names = {stage: getattr(recon, stage) for stage in stages}
    return {stage: {"method": n, **recon.parameters.get(n, {})} for stage, n in names.items()}
