"""One simulated head from scans to tables, with low effort; then what happens around it."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from qsmals.engine.files import hash_file
from tests.browser import CHROMIUM, Browser, assert_whole

# whole runs, on whatever machine: more than the usual limit of a test
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

EXPECTED = Path(__file__).parent / "data" / "expected_outputs.txt"
OPTIONS = ("--sloppy", "--deterministic", "--nprocs", "2")


def qsmals(bids: Path, out: Path, level: str, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "qsmals", str(bids), str(out), level, *words]
    home = bids.parent / "home"
    home.mkdir(exist_ok=True)
    environment = {k: v for k, v in os.environ.items() if k not in ("MPLCONFIGDIR", "NUMBA_CACHE_DIR")}
    environment["HOME"] = str(home)
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def state(root: Path) -> dict[str, tuple[int, int]]:
    """Size and time of change of every file."""
    return {str(p): (p.stat().st_size, p.stat().st_mtime_ns) for p in sorted(root.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def bids(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A coarse simulated head, and a second subject whose phase is cut off."""
    root = tmp_path_factory.mktemp("end") / "bids"
    command = [sys.executable, "-m", "qsmals.cli.simulate", str(root), "--small", "--seed", "3"]
    subprocess.run(command, check=True, capture_output=True)
    shutil.copytree(root / "sub-01", root / "sub-bad")
    for path in sorted((root / "sub-bad").rglob("sub-01*")):
        path.rename(path.with_name(path.name.replace("sub-01", "sub-bad")))
    broken = root / "sub-bad" / "anat" / "sub-bad_echo-2_part-phase_MEGRE.nii.gz"
    broken.write_bytes(broken.read_bytes()[:2000])
    with (root / "participants.tsv").open("a") as table:
        table.write("sub-bad\tcontrol\t50\tF\n")
    return root


@pytest.fixture(scope="module")
def before(bids: Path) -> dict[str, tuple[int, int]]:
    """The input as it was before anything ran."""
    return state(bids)


@pytest.fixture(scope="module")
def done(bids: Path, before: dict[str, tuple[int, int]]) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The run that all tests look at."""
    out = bids.parent / "out"
    return out, qsmals(bids, out, "participant", *OPTIONS, "-w", str(bids.parent / "work"))


def test_a_bad_subject_fails_alone(done: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    out, ended = done
    assert ended.returncode == 3, ended.stdout + ended.stderr
    assert "Traceback" not in ended.stdout + ended.stderr
    subjects = json.loads((out / "logs" / "summary.json").read_text())["subjects"]
    assert {name: entry["status"] for name, entry in subjects.items()} == {"sub-01": "ok", "sub-bad": "invalid"}
    assert "echo-2_part-phase" in subjects["sub-bad"]["why"]


def test_the_files_are_those_on_the_list(done: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    out, _ = done
    found = {str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()}
    plain = sorted({re.sub(r"\d{8}T\d{6}_[0-9a-f]{8}", "RUN", name) for name in found})
    assert plain == EXPECTED.read_text().split()


def test_the_derivatives_are_valid_bids(done: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    validator = Path(sys.executable).with_name("bids-validator-deno")
    if not validator.is_file():
        pytest.skip("bids-validator-deno is not installed")
    shown = subprocess.run([validator, done[0], "--format", "json"], capture_output=True, text=True, check=False)
    issues = json.loads(shown.stdout)["issues"]["issues"]
    assert [i for i in issues if i["severity"] == "error"] == []


def test_the_table_orders_the_regions_as_the_truth_does(
    done: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    table = pd.read_csv(done[0] / "sub-01/anat/sub-01_seg-als_desc-roi_Chimap.tsv", sep="\t", na_values="n/a")
    both = table[table["hemisphere"] == "B"].set_index("name")["mean"]
    assert both["pallidum"] > both["putamen"] > both["thalamus"] > both["white_matter"]
    assert table["coverage"].notna().all()
    assert (table["coverage"] <= 1).all()


def test_the_map_is_referenced_to_the_brain_and_zero_outside(
    done: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    anat = done[0] / "sub-01" / "anat"
    chi = nib.load(anat / "sub-01_Chimap.nii.gz").get_fdata()
    mask = nib.load(anat / "sub-01_space-MEGRE_desc-brain_mask.nii.gz").get_fdata() > 0
    assert nib.load(anat / "sub-01_Chimap.nii.gz").get_data_dtype() == np.float32
    assert abs(chi[mask].mean()) < 1e-6
    assert not chi[~mask].any()
    sidecar = json.loads((anat / "sub-01_Chimap.json").read_text())
    assert sidecar["ReferenceRegion"]["Region"] == "brain"
    assert sidecar["ReferenceRegion"]["OffsetsPpm"]["wm"] < 0


def test_the_page_needs_no_network(done: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    page = (done[0] / "sub-01.html").read_text()
    assert not re.findall(
        r'(?:src|href)="(?:https?:)?//(?!doi\.org)', re.sub(r'<a [^>]*href="https://[^"]*"', "", page)
    )
    for figure in re.findall(r'src="([^"]+)"', page):
        assert figure.startswith("data:") or (done[0] / figure).is_file()


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium to open the pages in")
def test_the_pages_are_whole_in_a_browser(
    bids: Path, done: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(done[0], out)
    ended = qsmals(bids, out, "group")
    assert ended.returncode == 5, "the bad subject has no tables"
    with Browser(tmp_path / "profile") as browser:
        for name in ("sub-01", "sub-bad", "group"):
            for width in (360, 1440):
                with browser.page(out / f"{name}.html", width) as page:
                    assert_whole(page)


def test_neither_input_nor_home_is_touched(
    bids: Path, before: dict[str, tuple[int, int]], done: tuple[Path, subprocess.CompletedProcess[str]]
) -> None:
    assert state(bids) == before
    assert list((bids.parent / "home").iterdir()) == []


def test_the_page_can_be_written_anew(bids: Path, done: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    page = done[0] / "sub-01.html"
    text = page.read_text()
    page.unlink()
    words = ["--reports-only", "--participant-label", "01", "-w", str(bids.parent / "work")]
    ended = qsmals(bids, done[0], "participant", *words)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert page.read_text() == text


def test_the_group_level_joins_tables_and_participants(
    bids: Path, done: tuple[Path, subprocess.CompletedProcess[str]]
) -> None:
    ended = qsmals(bids, done[0], "group", "-w", str(bids.parent / "work"))
    assert ended.returncode == 5  # sub-bad has no table
    assert "sub-bad" in ended.stdout
    table = pd.read_csv(done[0] / "group" / "seg-als_desc-roi_Chimap.tsv", sep="\t", na_values="n/a")
    assert set(table["participant_id"]) == {"sub-01"}
    assert {"group", "age", "sex", "name", "mean"} <= set(table.columns)
    shutil.rmtree(done[0] / "group")


def test_a_second_run_repeats_no_step_and_restores_what_was_lost(
    bids: Path, done: tuple[Path, subprocess.CompletedProcess[str]]
) -> None:
    out, _ = done
    chi = out / "sub-01" / "anat" / "sub-01_Chimap.nii.gz"
    before = hash_file(chi)
    chi.unlink()
    ended = qsmals(bids, out, "participant", *OPTIONS, "-w", str(bids.parent / "work"), "--participant-label", "sub-01")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert hash_file(chi) == before
    steps = [line for line in ended.stdout.splitlines() if "[sub-01]" in line]
    assert steps
    drawn = [line for line in steps if "already done" not in line]  # figures are outputs, and written again
    assert len(drawn) == 1 and "figures of the report" in drawn[0], ended.stdout
    newest = sorted((out / "sub-01" / "log").iterdir())[-1]
    shutil.rmtree(newest)


def test_a_subject_without_t1w_is_processed_on_the_gradient_echo(bids: Path, tmp_path: Path) -> None:
    filters = tmp_path / "filters.json"
    filters.write_text(json.dumps({"t1w": {"suffix": "absent"}}))
    words = [*OPTIONS, "--participant-label", "01", "--bids-filter-file", str(filters)]
    ended = qsmals(bids, tmp_path / "out", "participant", *words, "-w", str(tmp_path / "work"))
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "no T1w image: the brain mask comes from the gradient echo" in ended.stdout
    anat = tmp_path / "out" / "sub-01" / "anat"
    names = {path.name for path in anat.iterdir()}
    assert "sub-01_from-MEGRE_to-MNI152NLin6Asym_mode-image_xfm.h5" in names
    assert "sub-01_space-MNI152NLin6Asym_res-1_Chimap.nii.gz" in names
    assert not [name for name in names if "T1w" in name]
    table = pd.read_csv(anat / "sub-01_seg-als_desc-roi_Chimap.tsv", sep="\t", na_values="n/a")
    both = table[table["hemisphere"] == "B"].set_index("name")["mean"]
    assert both["pallidum"] > both["thalamus"]
    assert "no T1w image" in json.loads((anat / "sub-01_seg-als_desc-roi_Chimap.json").read_text())["Warning"]
    page = (tmp_path / "out" / "sub-01.html").read_text()
    assert "No T1w image: the brain mask comes from the gradient echo" in page
    truth = bids / "derivatives/truth/sub-01/anat/sub-01_desc-brain_mask.nii.gz"
    brain, found = (
        nib.load(path).get_fdata() > 0 for path in (truth, anat / "sub-01_space-MEGRE_desc-brain_mask.nii.gz")
    )
    assert 2 * (brain & found).sum() / (brain.sum() + found.sum()) > 0.85


def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(
    bids: Path, done: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    words = [str(bids), str(tmp_path / "out"), "participant", *OPTIONS, "--participant-label", "01"]
    words += ["-w", str(tmp_path / "work")]
    command = [sys.executable, "-m", "qsmals", *words]
    first = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert first.stdout is not None
    for line in first.stdout:
        if "phase offset" in line:
            break
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    time.sleep(1)
    assert not (tmp_path / "out" / "sub-01" / "anat" / "sub-01_Chimap.nii.gz").exists()
    plugin = tmp_path / "plugin.yml"
    plugin.write_text("plugin: MultiProc\nplugin_args:\n  n_procs: 2\n")
    command += ["--use-plugin", str(plugin), "--write-graph", "--clean-workdir"]
    second = subprocess.run(command, capture_output=True, text=True, check=False)
    assert second.returncode == 0, second.stdout + second.stderr
    assert "already done" in second.stdout
    assert '-> "' in (tmp_path / "out" / "logs" / "graph.dot").read_text()
    assert not list((tmp_path / "work").rglob("sub_01_wf")), "--clean-workdir leaves nothing of a finished subject"
    for name in ("sub-01_Chimap.nii.gz", "sub-01_seg-als_desc-roi_Chimap.tsv", "sub-01_R2starmap.nii.gz"):
        assert hash_file(tmp_path / "out/sub-01/anat" / name) == hash_file(done[0] / "sub-01/anat" / name), name


def test_a_termination_ends_in_143_with_a_page(bids: Path, tmp_path: Path) -> None:
    words = [str(bids), str(tmp_path / "out"), "participant", *OPTIONS, "--participant-label", "01"]
    command = [sys.executable, "-m", "qsmals", *words, "-w", str(tmp_path / "work")]
    started = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert started.stdout is not None
    for line in started.stdout:
        if "magnitude, and phase" in line:
            break
    # the same subject, meanwhile, from elsewhere
    other = subprocess.run([*command, "-w", str(tmp_path / "other")], capture_output=True, text=True, check=False)
    assert other.returncode == 1, other.stdout + other.stderr
    assert "sub-01" in other.stdout and "is being worked on by" in other.stdout, other.stdout + other.stderr
    started.terminate()
    rest = started.stdout.read()
    assert started.wait(60) == 143, rest
    assert "SIGTERM" in rest
    assert (tmp_path / "out" / "sub-01.html").is_file()
    entry = json.loads((tmp_path / "out" / "logs" / "summary.json").read_text())["subjects"]["sub-01"]
    assert entry["status"] == "failed"
