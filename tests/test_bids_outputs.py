"""Names, sidecars and top-level files of the derivatives, and the verdict of the BIDS validator on them."""

import json
import math
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qsmals.bids.derivatives import check_dataset, container_fields, prepare_output_dir
from qsmals.bids.errors import InvalidInput
from qsmals.bids.layout import Unit, find_subjects
from qsmals.bids.names import (
    derivative_path,
    expected_files,
    log_dir,
    logs_dir,
    missing_files,
    unit_outputs,
)
from qsmals.bids.naming import build_name, parse_name
from qsmals.bids.sidecars import (
    Space,
    Uris,
    acquisition_metadata,
    dseg_sidecar,
    fieldmap_sidecar,
    magnitude_sidecar,
    map_sidecar,
    mask_sidecar,
    native_reference,
    strict_json,
    table_sidecar,
    transform_sidecar,
    with_software,
)
from qsmals.engine.files import write_json, write_text
from tests.bids_trees import Gre, Visit, change_sidecar, snapshot, write_image, write_tree

TEMPLATE = "MNI152NLin6Asym"
VALIDATOR = shutil.which("bids-validator-deno", path=str(Path(sys.executable).parent)) or shutil.which(
    "bids-validator-deno"
)


def units_of(root: Path) -> list[Unit]:
    return [unit for subject in find_subjects(root) for unit in subject.units]


def write_results(output_dir: Path, bids_dir: Path, unit: Unit) -> dict[str, Path]:
    """Write every output of a unit as a tiny file with its real sidecar."""
    uris = Uris(bids_dir, output_dir)
    outputs = unit_outputs(output_dir, unit, atlases=["aparc"], templates=[TEMPLATE])
    raw = uris.of_all(unit.gre.all_files)
    native = native_reference(unit.gre, uris)
    assert unit.t1w is not None
    spaces = {"T1w": Space(uris.of(unit.t1w.file)), TEMPLATE: Space(resolution="1 mm isotropic")}
    common: dict[str, Any] = {"sources": raw, "algorithm": "ROMEO, V-SHARP, TV"}
    for key, output in outputs.items():
        kind, _, rest = key.partition("/")
        if output.path.suffix == ".gz":
            write_image(output.path, np.arange(64, dtype=np.float32).reshape(4, 4, 4))
        elif output.path.suffix == ".tsv":
            write_text(output.path, "index\tname\tmean\n1\tcaudate\t0.05\n")
        else:
            write_text(output.path, "transform\n")
        if output.sidecar is None:
            continue
        if kind == "mask":
            content = mask_sidecar(rest, sources=raw, spatial_reference=native)
        elif kind == "fieldmap":
            content = fieldmap_sidecar(rest, unit.gre, **common)
        elif kind == "magnitude":
            content = magnitude_sidecar(unit.gre, sources=raw, description="Root mean square over the echoes")
        elif kind == "dseg":
            content = dseg_sidecar(description="Labels", sources=raw, spatial_reference=native, atlas={"Name": "x"})
        elif kind == "roi":
            content = table_sidecar({"mean": {"Description": "Mean", "Units": "ppm"}}, sources=raw)
        elif kind == "xfm":
            content = transform_sidecar(source=native, target=rest, description="Rigid")
        else:
            content = map_sidecar(kind, unit.gre, space=spaces.get(rest), references=["10.1/x"], **common)
        facts = {"Detected": [{"What": "phase sign", "Found": "as stored", "Evidence": "fit", "Warning": True}]}
        write_json(output.sidecar, with_software({**content, **facts}, {"numpy": "2.3.5"}))
    return {key: output.path for key, output in outputs.items()}


def errors_of_validator(folder: Path) -> list[tuple[str, str]]:
    assert VALIDATOR is not None
    done = subprocess.run([VALIDATOR, str(folder), "--format", "json"], capture_output=True, text=True, check=False)
    issues = json.loads(done.stdout)["issues"]["issues"]
    return [(issue["code"], issue.get("location", "")) for issue in issues if issue["severity"] == "error"]


@pytest.mark.skipif(VALIDATOR is None, reason="bids-validator-deno is not installed")
def test_validator_finds_no_error(tmp_path: Path) -> None:
    raw, output = tmp_path / "raw data", tmp_path / "out"
    write_tree(raw, Visit("01", "A", (Gre("acq-x_rec-y_run-1"), Gre("acq-x_rec-y_run-2"))), Visit("02"))
    prepare_output_dir(output, raw, environ={})
    units = units_of(raw)
    assert len(units) == 3
    for unit in units:
        write_results(output, raw, unit)
    for subject in ("01", "02"):
        write_text(output / f"sub-{subject}.html", "<html></html>")
        write_text(output / f"sub-{subject}" / "figures" / "sub-01_map.svg", "<svg/>")
        write_text(log_dir(output, subject, "20261121") / "qsmals.toml", "")
    write_text(logs_dir(output) / "CITATION.md", "x")
    write_text(output / "group" / "seg-aparc_desc-roi_Chimap.tsv", "participant_id\nsub-01\n")
    assert errors_of_validator(output) == []
    all_outputs = [unit_outputs(output, unit, atlases=["aparc"], templates=[TEMPLATE]) for unit in units]
    assert missing_files(all_outputs) == () and set(expected_files(all_outputs)) <= set(output.rglob("*"))


@pytest.mark.skipif(VALIDATOR is None, reason="bids-validator-deno is not installed")
def test_validator_sees_what_the_ignore_file_hides(tmp_path: Path) -> None:
    raw, output = write_tree(tmp_path / "raw", Visit("01")), tmp_path / "out"
    prepare_output_dir(output, raw, environ={})
    write_results(output, raw, units_of(raw)[0])
    (output / ".bidsignore").unlink()
    assert {code for code, _ in errors_of_validator(output)}


def test_names_of_outputs(tmp_path: Path) -> None:
    raw = write_tree(tmp_path / "raw", Visit("01", "A", (Gre("acq-x_run-2"),)), empty=True)
    (unit,) = units_of(raw)
    outputs = unit_outputs(Path("o"), unit, atlases=["aparc"], templates=[TEMPLATE])
    start = "o/sub-01/ses-A/anat/sub-01_ses-A_acq-x_run-2"
    names = {key: str(output.path) for key, output in outputs.items()}
    assert names["Chimap"] == f"{start}_Chimap.nii.gz"
    assert names["mask/brain"] == f"{start}_space-MEGRE_desc-brain_mask.nii.gz"
    assert names["dseg/aparc/table"] == f"{start}_space-MEGRE_seg-aparc_dseg.tsv"
    assert names["roi/aparc/R2starmap"] == f"{start}_seg-aparc_desc-roi_R2starmap.tsv"
    assert names[f"Chimap/{TEMPLATE}"] == f"{start}_space-{TEMPLATE}_res-1_Chimap.nii.gz"
    assert names["xfm/T1w"] == f"{start}_from-MEGRE_to-T1w_mode-image_xfm.mat"
    assert names[f"xfm/{TEMPLATE}"] == f"o/sub-01/ses-A/anat/sub-01_ses-A_from-T1w_to-{TEMPLATE}_mode-image_xfm.h5"
    assert names["fieldmap/total"] == "o/sub-01/ses-A/fmap/sub-01_ses-A_acq-x_run-2_desc-total_fieldmap.nii.gz"
    assert outputs["dseg/aparc"].sidecar == Path(f"{start}_space-MEGRE_seg-aparc_dseg.json")


def test_a_single_echo_gives_no_relaxation_and_a_scan_alone_reaches_the_template_itself(tmp_path: Path) -> None:
    raw = write_tree(tmp_path, Visit("01", gres=(Gre(te_s=(0.02,)),), t1ws=()), empty=True)
    (unit,) = units_of(raw)
    outputs = unit_outputs(Path("o"), unit, atlases=["a"], templates=[TEMPLATE])
    assert not [key for key in outputs if "R2" in key or "S0" in key or "T1w" in key]
    assert {"Chimap", "roi/a/Chimap", f"Chimap/{TEMPLATE}"} <= outputs.keys()
    there, back = (outputs[key].path.name for key in (f"xfm/{TEMPLATE}", f"xfm/from-{TEMPLATE}"))
    assert there == f"sub-01_from-MEGRE_to-{TEMPLATE}_mode-image_xfm.h5"
    assert back == f"sub-01_from-{TEMPLATE}_to-MEGRE_mode-image_xfm.h5"


def test_names_are_taken_apart_and_built_again() -> None:
    name = "sub-01_ses-A_acq-x_rec-r_run-01_space-MEGRE_seg-aparc_desc-roi_Chimap.tsv"
    parsed = parse_name(name)
    assert build_name(parsed.entities, parsed.suffix, parsed.extension) == name and parsed.unknown == ()
    assert parse_name("sub-01_acq-a-b__T1w.nii").unknown == ("acq-a-b", "")


@pytest.mark.parametrize("entities", [{"desc": "a b"}, {"desc": "../x"}, {"stat": "mean"}, {"seg": ""}])
def test_bad_entities_are_refused(entities: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"letters, digits|no BIDS entity"):
        derivative_path(Path("o"), {"sub": "01"}, "anat", "Chimap", **entities)


def test_map_sidecar_says_what_bids_requires(tmp_path: Path) -> None:
    raw = write_tree(tmp_path, Visit("01"), empty=True)
    for path in (raw / "sub-01" / "anat").glob("*_MEGRE.nii.gz"):
        index = int(parse_name(path.name).entities["echo"])
        change_sidecar(path, PatientName="A^B", FlipAngle=15, BandwidthPerPixel=100 * index)
    (unit,) = units_of(raw)
    content = map_sidecar(
        "Chimap",
        unit.gre,
        sources=["bids:raw:sub-01/x"],
        algorithm="TV",
        references=["10.1/a", "10.1/b"],
        parameters={"inversion": {"weight": np.float32(0.5), "steps": (1, 2), "limit": math.inf}},
        space=Space("bids:raw:y", "1 mm"),
        b0_tesla=2.89,
    )
    assert content["Units"] == "ppm" and content["SkullStripped"] is True
    assert content["SpatialReference"] == "bids:raw:y" and content["Resolution"] == {"1": "1 mm"}
    assert content["EchoTime"] == [0.005, 0.010, 0.015] and content["BandwidthPerPixel"] == [100, 200, 300]
    assert content["FlipAngle"] == 15 and content["MagneticFieldStrength"] == 2.89
    assert content["EstimationReference"] == "10.1/a; 10.1/b" and content["Sources"] == ["bids:raw:sub-01/x"]
    assert content["Parameters"] == {"inversion": {"weight": 0.5, "steps": [1, 2], "limit": None}}
    assert "PatientName" not in content
    json.dumps(content, allow_nan=False)


def test_echo_time_of_a_single_echo_is_a_number(tmp_path: Path) -> None:
    raw = write_tree(tmp_path, Visit("01", gres=(Gre(te_s=(0.02,)),)), empty=True)
    assert acquisition_metadata(units_of(raw)[0].gre)["EchoTime"] == 0.02


def test_uris(tmp_path: Path) -> None:
    uris = Uris(tmp_path / "raw", tmp_path / "raw" / "derivatives" / "qsmals")
    assert uris.of(tmp_path / "raw" / "sub-01" / "a.nii") == "bids:raw:sub-01/a.nii"
    assert uris.of(tmp_path / "raw" / "derivatives" / "qsmals" / "sub-01" / "a.nii") == "bids::sub-01/a.nii"
    assert uris.of(Path("/else where/é.nii")) == "file:///else%20where/%C3%A9.nii"


def test_strict_json_refuses_what_json_has_not_and_mends_surrogates() -> None:
    assert strict_json({"a": "\ud800", "b": np.nan, "c": Path("x/y")}) == {"a": "?", "b": None, "c": "x/y"}
    with pytest.raises(TypeError, match="no place in a JSON sidecar"):
        strict_json({"a": {1, 2}})


# --- top-level files ------------------------------------------------------------------------------


def test_output_dir_is_prepared_once_and_warns_of_another_version(tmp_path: Path) -> None:
    output = tmp_path / "out"
    assert prepare_output_dir(output, tmp_path / "raw", environ={}, version="1.0") == ()
    before = snapshot(output)
    times = [path.stat().st_mtime_ns for path in sorted(output.iterdir())]
    assert prepare_output_dir(output, tmp_path / "raw", environ={}, version="1.0") == ()
    assert snapshot(output) == before and [p.stat().st_mtime_ns for p in sorted(output.iterdir())] == times
    (warning,) = prepare_output_dir(output, tmp_path / "raw", environ={}, version="2.0")
    assert "qsmals 1.0; this is 2.0" in warning
    content = json.loads((output / "dataset_description.json").read_text())
    assert content["DatasetType"] == "derivative" and content["GeneratedBy"] == [{"Name": "qsmals", "Version": "2.0"}]
    assert content["DatasetLinks"] == {"raw": (tmp_path / "raw").as_uri()}


def test_lines_added_to_bidsignore_stay(tmp_path: Path) -> None:
    (tmp_path / ".bidsignore").write_text("mine\n*.html\n")
    prepare_output_dir(tmp_path, tmp_path / "raw", environ={})
    prepare_output_dir(tmp_path, tmp_path / "raw", environ={})
    lines = (tmp_path / ".bidsignore").read_text().splitlines()
    assert lines.count("mine") == 1 and lines.count("*.html") == 1 and "**/figures" in lines
    assert not any(line.endswith("/") for line in lines)
    table = (tmp_path / "descriptions.tsv").read_text().splitlines()
    assert table[0] == "desc_id\tdescription" and all(re.match(r"desc-[a-z]+\t\S", line) for line in table[1:])


def test_many_at_once_leave_whole_files(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from qsmals.bids.derivatives import prepare_output_dir;"
        "prepare_output_dir(Path(sys.argv[1]), Path(sys.argv[2]), environ={})"
    )
    output = tmp_path / "out"
    command = [sys.executable, "-c", code, str(output), str(tmp_path / "raw")]
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda _: subprocess.run(command, check=False, timeout=60).returncode, range(4)))
    assert done == [0] * 4
    assert sorted(p.name for p in output.iterdir()) == [".bidsignore", "dataset_description.json", "descriptions.tsv"]
    json.loads((output / "dataset_description.json").read_text())


def test_output_in_the_derivatives_of_the_raw_data_links_relatively(tmp_path: Path) -> None:
    output = tmp_path / "derivatives" / "qsmals"
    prepare_output_dir(output, tmp_path, environ={})
    assert json.loads((output / "dataset_description.json").read_text())["DatasetLinks"] == {"raw": "../.."}


def test_folder_of_another_program_is_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "dataset_description.json", {"Name": "fMRIPrep", "GeneratedBy": [{"Name": "fMRIPrep"}]})
    with pytest.raises(InvalidInput, match=r"another data set \(fMRIPrep\)"):
        prepare_output_dir(tmp_path, tmp_path / "raw", environ={})


@pytest.mark.parametrize("text", ["{", "[]", '{"Name": "x"}', '{"Name": "x", "BIDSVersion": 1}'])
def test_bad_dataset_description(tmp_path: Path, text: str) -> None:
    with pytest.raises(InvalidInput, match="is missing"):
        check_dataset(tmp_path)
    (tmp_path / "dataset_description.json").write_text(text)
    with pytest.raises(InvalidInput, match="dataset_description"):
        check_dataset(tmp_path)


def test_derivative_as_input_is_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "dataset_description.json", {"Name": "x", "BIDSVersion": "1", "DatasetType": "derivative"})
    with pytest.raises(InvalidInput, match="must be the raw one"):
        check_dataset(tmp_path)
    write_json(tmp_path / "dataset_description.json", {"Name": "x", "BIDSVersion": "1"})
    check_dataset(tmp_path)


def test_container_of_apptainer_and_docker() -> None:
    found = container_fields({"QSMALS_DOCKER_TAG": "qsmals:1", "APPTAINER_CONTAINER": "/images/q.sif"})
    assert found == {"Type": "apptainer", "Tag": "qsmals:1", "URI": "file:///images/q.sif"}
    assert container_fields({"SINGULARITY_CONTAINER": "/q.sif"})["Type"] == "singularity"
    assert container_fields({}) == {}
