"""Small derivative trees, as a workflow leaves them, for the tests of pages."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np

from qsmals.qc.measures import MEASURES
from qsmals.roi.statistics import Region, region_statistics
from qsmals.roi.table import table_text

SHAPE = (24, 26, 22)
REGIONS = [
    *(Region(i, n, h, (i,)) for i, n, h in [(11, "caudate", "L"), (50, "caudate", "R"), (12, "putamen", "L")]),
    *(Region(i, n, h, (i,)) for i, n, h in [(51, "putamen", "R"), (16, "brainstem", "B"), (77, "lost", "L")]),
    Region(2, "cerebral_white_matter", "B", (2,)),
]
AFFINE = np.diag([2.0, 2.0, 3.0, 1.0])
AFFINE[:3, 3] = -24, -26, -33


def make_scan(root: Path, prefix: str, *, facts: dict | None = None, seed: int = 0) -> None:
    """Every output of one scan and its facts, as a workflow leaves them."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(SHAPE, np.int16)
    labels[4:20, 4:22, 4:18] = 2
    for value, x in ((11, 6), (12, 8), (51, 14), (50, 16)):
        labels[x : x + 2, 10:16, 8:14] = value
    labels[11:13, 8:12, 4:10] = 16
    labels[4:6, 4:6, 4:6] = 77
    mask = labels > 0
    mask[4:6, 4:6, 4:6] = False
    chi = np.select([labels == 11, labels == 50, labels == 12, labels == 51], [0.04, 0.042, 0.06, 0.065], -0.01)
    chi = np.where(mask, chi + rng.normal(0, 0.005, SHAPE), 0).astype(np.float32)
    session = next((p for p in prefix.split("_") if p.startswith("ses-")), "")
    folder = root / prefix.split("_")[0] / session
    maps = {
        "anat/{}_Chimap": chi,
        "anat/{}_R2starmap": np.where(mask, 20 + 200 * chi, 0),
        "anat/{}_space-MEGRE_desc-brain_mask": mask.astype(np.uint8),
        "anat/{}_space-MEGRE_seg-als_dseg": labels,
        "fmap/{}_desc-total_fieldmap": np.where(mask, rng.normal(0, 20, SHAPE), 0),
        "fmap/{}_desc-local_fieldmap": np.where(mask, rng.normal(0, 2, SHAPE), 0),
    }
    for name, data in maps.items():
        path = folder / f"{name.format(prefix)}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        data = data.astype(np.float32) if data.dtype == np.float64 else data
        nib.save(nib.Nifti1Image(data, AFFINE), path)
    (folder / "anat" / f"{prefix}_space-MEGRE_seg-als_dseg.tsv").write_text(
        "index\tname\n" + "".join(f"{r.index}\t{r.name}\n" for r in REGIONS)
    )
    table = region_statistics(chi, labels, measured=mask, regions=REGIONS, voxel_size_mm=(2, 2, 3))
    (folder / "anat" / f"{prefix}_seg-als_desc-roi_Chimap.tsv").write_text(table_text(table))
    work = root / "work"
    work.mkdir(exist_ok=True)
    magnitude = np.stack([(100 - 20 * e) * (1 + mask) + rng.normal(0, 2, SHAPE) for e in range(3)], -1)
    phase = rng.uniform(-np.pi, np.pi, (*SHAPE, 3))
    tissues = np.where(labels == 2, 3, np.where(labels > 0, 2, 0))
    extra = {"tissues": tissues, "t1w_on_template": magnitude[..., 0] * mask, "unwrapped": phase}
    extra["noise"] = np.where(mask, 0.002, np.inf)
    for name, data in {"magnitude": magnitude, "phase": phase, "quality": mask * 0.9, **extra}.items():
        nib.save(nib.Nifti1Image(data.astype(np.float32), AFFINE), work / f"{prefix}_{name}.nii.gz")
    write_quality(folder / "anat", prefix)
    write_facts(root, prefix, FACTS | {"images": images(prefix)} | (facts or {}))


ROLES = ("magnitude", "phase", "quality", "unwrapped", "noise", "tissues", "t1w_on_template")
CLEAN = {
    **{"snr_first": 40.0, "snr_last": 25.0, "echo_signal": 0.98, "phase_noise": 0.04, "field_noise": 1.5},
    **{"ghosting": 1.0, "air_outliers": 1.0, "phase_span": 0.999, "jump_share": 0.01, "jump_cluster": 0.2},
    **{"fit_residual": 0.03, "fit_outliers": 0.1, "brain_volume": 1400.0, "brain_kept": 98.0, "motor_coverage": 99.0},
    **{"motor_in_mask": 99.0, "lost_regions": 0.0, "contrast_pallidum": 20.0, "contrast_substantia_nigra": 15.0},
    **{
        "contrast_caudate": 8.0,
        "region_order": 100.0,
        "implausible_regions": 0.0,
        "cortex_outliers": 0.0,
        "asymmetry": 3.0,
    },
    **{"white_matter_sd": 6.0, "rim_offset": -3.0, "streaking": 0.7, "gre_overlap": 0.99, "gre_sharpness": 1.6},
    **{"template_overlap": 0.97, "template_sharpness": 1.9, "jacobian_low": 0.5, "jacobian_high": 1.7},
}
"""Measures of a scan without fault."""
assert CLEAN.keys() == MEASURES.keys()


def write_quality(anat: Path, prefix: str, details: dict | None = None, **measures: float | None) -> Path:
    """Measures of a scan; those not given are without fault."""
    content = {
        "Measures": CLEAN | measures,
        "Details": {"phase_noise": "echo 3"} | (details or {}),
        "Echoes": {"snr": [40.0, 32.0, 25.0], "phase_noise_rad": [0.03, 0.035, None]},
        "JumpCentreMm": [0.0, 2.0, 3.0],
        "Coverage": {"left caudate": 1.0},
    }
    path = anat / f"{prefix}_desc-qc_Chimap.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def images(prefix: str) -> dict[str, str]:
    roles = {role: f"work/{prefix}_{role}.nii.gz" for role in ROLES}
    return roles | {
        "t1w_on_gre": roles["magnitude"],
        "t1w": roles["t1w_on_template"],
        "tissues_on_gre": roles["tissues"],
        "template": roles["t1w_on_template"],
    }


def write_facts(root: Path, prefix: str, facts: dict, run: str = "20260101") -> Path:
    path = root / prefix.split("_")[0] / "log" / run / f"{prefix}_facts.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"prefix": prefix} | facts))
    return path


FACTS = {
    "status": "finished",
    "started": "2026-01-01T10:00:00",
    "acquisition": {
        "MagneticFieldStrength": 3,
        "Manufacturer": "Siemens",
        "EchoTimes": [0.004, 0.009, 0.014],
        "RepetitionTime": 0.035,
        "VoxelSize": [2.0, 2.0, 3.0],
        "MatrixSize": [24, 26, 22],
        "Readout": "monopolar",
    },
    "echoes": [{"echo": n, "echo_time_s": t, "snr": 80.5 / n} for n, t in ((1, 0.004), (2, 0.009), (3, 0.014))],
    "detected": [
        {"what": "phase scale", "found": "Siemens integers", "evidence": "range −4096 to 4095", "warning": False},
        {"what": "phase sign", "found": "flipped", "evidence": "pallidum darker than <white matter>", "warning": True},
    ],
    "mask": {"source": "T1w brain mask and phase quality", "volume_ml": 1234.5},
    "reference": {"region": "brain", "offsets_ppm": {"csf": 0.0191, "wm": -0.012}, "sd_ppm": {"csf": 0.03}},
    "parameters": {"unwrap": {"method": "romeo"}, "background": {"method": "v-sharp", "radius_mm": 12.0}},
    "warnings": ["phase sign: flipped (pallidum darker than <white matter>)"],
    "times": [{"step": "unwrap", "seconds": 12.34, "memory_gb": 1.2}],
    "software": {"qsmals": "1.0", "nipype": "1.11"},
    "methods": "## Methods\n\nPhase was unwrapped *well* (A & B, 2021).\n\n- One. https://doi.org/10.1/x.\n- Two.",
}
RUN = {"run": "20260101", "version": "1.0", "command": "qsmals in out participant", "status": "finished"}
