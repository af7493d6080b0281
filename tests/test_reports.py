"""The subject page from a small derivative tree, and its figures."""

import base64
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import matplotlib
import nibabel as nib
import numpy as np
import pytest

from qsmals.reports import figures
from qsmals.reports.collect import find_scans
from qsmals.reports.facts import newest_facts, read_facts
from qsmals.reports.figures import Panel, Scale, Volume
from qsmals.reports.published import EXPECTED
from qsmals.reports.subject import SubjectReport, write_subject_report
from qsmals.roi.columns import COLUMN_NAMES
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
    for name, data in (("magnitude", magnitude), ("phase", phase), ("quality", mask * 0.9)):
        nib.save(nib.Nifti1Image(data.astype(np.float32), AFFINE), work / f"{prefix}_{name}.nii.gz")
    write_facts(root, prefix, FACTS | {"images": images(prefix)} | (facts or {}))


def images(prefix: str) -> dict[str, str]:
    roles = {role: f"work/{prefix}_{role}.nii.gz" for role in ("magnitude", "phase", "quality")}
    return roles | {"t1w_on_gre": roles["magnitude"]}


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
    "warnings": ["the sign of the phase was flipped"],
    "times": [{"step": "unwrap", "seconds": 12.34, "memory_gb": 1.2}],
    "software": {"qsmals": "1.0", "nipype": "1.11"},
    "methods": "## Methods\n\nPhase was unwrapped *well* (A & B, 2021).\n\n- One. https://doi.org/10.1/x.\n- Two.",
}
RUN = {"run": "20260101", "version": "1.0", "command": "qsmals in out participant", "status": "finished"}


class Page(HTMLParser):
    """Addresses, identifiers and text of a page; fails on tags that do not close."""

    VOID = ("meta", "link", "img", "br", "hr", "input")

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.sources: list[str] = []
        self.ids: set[str] = set()
        self.open: list[str] = []
        self.text = ""
        self.feed(path.read_text())
        assert not self.open, self.open

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.links += [values["href"]] if "href" in values else []
        self.sources += [values["src"]] if "src" in values else []
        self.ids |= {values["id"]} if "id" in values else set()
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"style", "script"} & set(self.open):
            self.text += data


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    make_scan(tmp_path, "sub-01")
    return tmp_path


def report(tree: Path, **run) -> tuple[SubjectReport, Page]:
    written = write_subject_report(tree, "01", run_facts=RUN | run)
    return written, Page(written.path)


def test_a_complete_subject(tree):
    written, page = report(tree)
    assert written.path == tree / "sub-01.html"
    assert written.missing == ()
    assert "Finished with 1 warning" in page.text
    for words in (
        "Field strength3 T",
        "Echo times4, 9, 14 ms",
        "Matrix24 × 26 × 22",
        "whole brain mask",
        "cerebrospinal fluid+19.1",
        "white matter−12.0",
        "1234 ml",
        "Siemens integers",
        "pallidum darker than <white matter>",
        "the sign of the phase was flipped",
        "radius_mm = 12.0",
        "12.3",
        "Not recorded: model, scanner software, receive coil, sequence, 2D or 3D, flip angle",
        "qsmals in out participant",
    ):
        assert words in page.text, words


def test_the_page_is_whole_without_a_network(tree):
    written, page = report(tree)
    for address in page.sources:
        assert (tree / address).stat().st_size > 500, address
    outside = [a for a in page.links if ":" in a and not a.startswith(("https://doi.org/", "data:"))]
    assert outside == [] and not any(":" in source for source in page.sources)
    for address in page.links:
        if address.startswith("#"):
            assert address[1:] in page.ids, address
        elif ":" not in address:
            assert (tree / address).exists(), address
    assert "url(" not in written.path.read_text() and "@import" not in written.path.read_text()


def test_every_figure_is_there_and_has_words(tree):
    _, page = report(tree)
    names = {Path(source).name for source in page.sources}
    assert names == {
        "sub-01_desc-echoes_MEGRE.png",
        "sub-01_desc-field_MEGRE.png",
        "sub-01_desc-mosaic_Chimap.png",
        "sub-01_desc-local_fieldmap.png",
        "sub-01_desc-mosaic_R2starmap.png",
        "sub-01_desc-mask_MEGRE.png",
        "sub-01_desc-regions_T1w.png",
        "sub-01_seg-als_desc-regions_MEGRE.png",
        "sub-01_seg-als_desc-deep_Chimap.png",
        "sub-01_seg-als_desc-regions_Chimap.svg",
    }
    html = (tree / "sub-01.html").read_text()
    assert html.count("<figcaption>") == html.count('alt="') == len(names)


def test_the_table_holds_every_column_and_marks_low_coverage(tree):
    report(tree)
    html = (tree / "sub-01.html").read_text()
    header = re.search(r"<thead><tr>\s*<th title.*?</thead>", html, re.S)[0]
    assert re.findall(r'<button type="button">(\w+)', header) == list(COLUMN_NAMES)
    assert html.count('<tr class="low">') == 1 and "1 of 7 regions have less than 50 %" in html
    assert re.search(r'<tr class="low">\s*<td[^>]*>77</td><td[^>]*>lost</td>', html)


def test_equal_input_gives_equal_bytes(tree):
    report(tree)
    before = {p: p.read_bytes() for p in [tree / "sub-01.html", *sorted((tree / "sub-01/figures").iterdir())]}
    for path in before:
        path.unlink()
    report(tree)
    assert {p: p.read_bytes() for p in before} == before


def test_missing_outputs_are_named_and_the_page_still_stands(tree):
    (tree / "sub-01/anat/sub-01_R2starmap.nii.gz").unlink()
    (tree / "sub-01/fmap/sub-01_desc-total_fieldmap.nii.gz").unlink()
    written, page = report(tree)
    assert [m.split(" (")[0] for m in written.missing] == ["sub-01: R2* map", "sub-01: total field"]
    assert "Finished, incomplete" in page.text and all(m in page.text for m in written.missing)


def test_a_damaged_image_costs_its_figures_only(tree):
    path = tree / "sub-01/anat/sub-01_R2starmap.nii.gz"
    path.write_bytes(path.read_bytes()[:200])
    written, page = report(tree)
    assert len(written.missing) == 1 and "figure “R2*” could not be drawn" in written.missing[0]
    assert "sub-01/figures/sub-01_desc-mosaic_Chimap.png" in page.sources


def test_figures_of_vanished_images_are_kept(tree):
    report(tree)
    shutil.rmtree(tree / "work")
    written, page = report(tree)
    assert written.missing == ()
    assert "sub-01/figures/sub-01_desc-echoes_MEGRE.png" in page.sources
    assert "Drawn by an earlier run" in page.text
    shutil.rmtree(tree / "sub-01/figures")
    written, _ = report(tree)
    assert any("figure “First and last echo”" in m for m in written.missing)


def test_a_scan_without_t1w_lacks_nothing(tmp_path):
    make_scan(tmp_path, "sub-01", facts={"images": {k: v for k, v in images("sub-01").items() if k != "t1w_on_gre"}})
    written, page = report(tmp_path)
    assert written.missing == () and "Regions on T1w" not in page.text


def test_a_failed_subject_says_what_failed_and_what_to_try(tmp_path):
    trace = "Traceback (most recent call last):\n  <frame>\nMemoryError: no room"
    error = {"step": "unwrap", "message": "the worker was killed", "traceback": trace}
    written, page = report(tmp_path, status="failed", errors=[error])
    assert written.missing == ()
    assert "Failed" in page.text and trace in page.text and "What to try: The step ran out of memory" in page.text
    assert "0 gradient-echo scans" in page.text


def test_advice_of_the_caller_comes_first(tmp_path):
    _, page = report(tmp_path, errors=[{"step": "x", "message": "MemoryError", "advice": "Buy a computer."}])
    assert "Buy a computer." in page.text and "ran out of memory" not in page.text


def test_a_failure_without_words_points_to_the_log(tmp_path):
    write_facts(tmp_path, "sub-01", {"status": "failed"})
    written, page = report(tmp_path)
    assert "recorded no message" in page.text and "sub-01/log/" in page.text and written.missing == ()


def test_a_subject_that_left_nothing_is_incomplete(tmp_path):
    written, _ = report(tmp_path)
    assert any("no susceptibility map" in m for m in written.missing)


def test_sessions_and_runs_have_their_sections(tmp_path):
    prefixes = ["sub-01_ses-A_run-1", "sub-01_ses-A_run-2", "sub-01_ses-B"]
    for seed, prefix in enumerate(prefixes):
        make_scan(tmp_path, prefix, seed=seed)
    failed = {"step": "inversion", "message": "it diverged", "traceback": ""}
    write_facts(tmp_path, "sub-01_ses-B", {"started": "2026-01-02T09:00:00", "errors": [failed]}, run="20260102")
    scans, faults = find_scans(tmp_path, "01")
    assert [s.prefix for s in scans] == prefixes and faults == []
    assert [s.failed for s in scans] == [False, False, True], "the newest run counts"
    assert not find_scans(tmp_path, "01", "20260101")[0][2].failed, "a given run counts first"
    _, page = report(tmp_path, run="20260102")
    assert set(prefixes) <= page.ids
    assert "sub-01_ses-B" in page.text and "it diverged" in page.text
    assert "sub-01_ses-A_run-1: the sign of the phase was flipped" in page.text


def test_text_is_escaped(tmp_path):
    make_scan(tmp_path, "sub-01", facts={"warnings": ["<script>alert(1)</script>"], "methods": "<b>x</b>\n\n# <i>"})
    written, page = report(tmp_path, command="a <b> & c")
    html = written.path.read_text()
    assert "<script>alert" not in html and "<b>x" not in html and "<i>" not in html
    assert "<script>alert(1)</script>" in page.text and "a <b> & c" in page.text


def test_facts_are_read_and_faults_named(tmp_path):
    path = write_facts(tmp_path, "sub-01", FACTS | {"novelty": 3})
    facts = read_facts(path)
    assert facts.b0_tesla == 3 and facts.other == {"novelty": 3} and not facts.failed and len(facts.echoes) == 3
    path.write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        read_facts(path)
    path.write_text("{}")
    with pytest.raises(ValueError, match="names no prefix"):
        read_facts(path)
    path.write_text('{"prefix": "sub-01", "echoes": {}}')
    with pytest.raises(ValueError, match="echoes: a list is needed"):
        read_facts(path)
    assert len(newest_facts(tmp_path / "sub-01/log", None)[1]) == 1
    assert any("a list is needed" in m for m in report(tmp_path)[0].missing)


def test_a_region_table_that_cannot_be_read_is_named(tree):
    (tree / "sub-01/anat/sub-01_seg-als_desc-roi_Chimap.tsv").write_text("name\tmean\nx\n")
    assert any("cannot be read: line 2" in m for m in report(tree)[0].missing)


def png_size(data: bytes) -> tuple[int, int]:
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")


GREY = Scale(0, 1, "signal")


def test_any_orientation_gives_the_same_picture():
    """A volume stored in other axes is the same patient."""
    data = np.random.default_rng(0).random(SHAPE).astype(np.float32)
    affine = AFFINE.copy()
    turned = np.ascontiguousarray(data.transpose(2, 0, 1)[:, ::-1])
    other = np.eye(4)
    other[:3, :3] = affine[:3, [2, 0, 1]]
    other[:3, 3] = affine[:3, 3] + affine[:3, 0] * (SHAPE[0] - 1)
    other[:3, 1] *= -1
    one = figures.mosaic(Volume.from_array(data, affine), scale=GREY, title="t")
    two = figures.mosaic(Volume.from_array(turned, other), scale=GREY, title="t")
    assert one == two


def test_left_is_left():
    data = np.zeros((10, 10, 10), np.float32)
    data[:3] = 1
    las = np.diag([-1.0, 1, 1, 1])
    assert Volume.from_array(data, np.eye(4)).data[0, 5, 5] == 1
    assert Volume.from_array(data, las).data[-1, 5, 5] == 1, "a first index on the right is drawn on the right"


def test_voxels_keep_their_shape():
    flat = Volume(np.ones((20, 20, 20), np.float32), np.diag([1.0, 1, 1, 1]))
    tall = Volume(np.ones((20, 20, 20), np.float32), np.diag([1.0, 1, 3, 1]))
    panels = [png_size(figures.panels([Panel(v, GREY, "x")], title="t"))[1] for v in (flat, tall)]
    assert panels[1] > 1.8 * panels[0]


def test_tilt_is_said():
    angle = np.deg2rad(20)
    affine = np.eye(4)
    affine[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    assert Volume.from_array(np.ones((5, 5, 5)), affine).tilt_deg == pytest.approx(20, abs=0.1)


def test_figures_leave_matplotlib_as_it_was():
    before = dict(matplotlib.rcParams)
    volume = Volume(np.random.default_rng(0).random((8, 9, 10)).astype(np.float32), np.eye(4))
    labels = Volume((volume.data > 0.5).astype(int), np.eye(4))
    figures.mosaic(volume, scale=GREY, title="t", outline=labels, labels=labels)
    figures.region_plot([{"name": "caudate", "hemisphere": "L", "mean": 0.04}], expected=EXPECTED)
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize("shape", [(1, 12, 12), (12, 1, 12), (12, 12, 1), (2, 2, 2)])
def test_thin_and_empty_volumes_are_drawn(shape):
    empty = Volume(np.zeros(shape, np.float32), np.eye(4))
    assert png_size(figures.mosaic(empty, scale=GREY, title="t", outline=empty, labels=empty))[0] > 1000


def test_the_region_plot_shows_sides_and_the_published_range():
    rows = [{"name": "pallidum", "hemisphere": side, "mean": mean} for side, mean in (("L", 0.1), ("R", 0.13))]
    rows += [{"name": "thalamus", "hemisphere": "L", "mean": np.nan}, {"name": "unknown", "hemisphere": "B", "mean": 1}]
    svg = figures.region_plot(rows, expected=EXPECTED).decode()
    assert "pallidum" in svg and "thalamus" not in svg and "unknown" not in svg
    assert "mean susceptibility (ppb)" in svg and "published mean" in svg and "<dc:date>" not in svg
    assert figures.region_plot(rows, expected=EXPECTED).decode() == svg
    assert "expected range" in figures.region_plot([], expected=EXPECTED).decode()


def test_published_values_are_plausible():
    for name, values in EXPECTED.items():
        if values.low_ppb is not None and values.mean_ppb is not None:
            assert values.low_ppb < values.mean_ppb < values.high_ppb, name
        assert (values.mean_ppb is None) == (values.source is None)


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


PROBE = """<script>
const seen = {errors: []};
addEventListener("error", (e) => seen.errors.push(String(e.message || e.target.src)), true);
addEventListener("load", () => {
  const means = () => [...document.querySelectorAll(".regions tbody tr")].map((r) => r.cells[6].textContent);
  const button = document.querySelectorAll(".regions th button")[6];
  button.click(); seen.up = means(); button.click(); seen.down = means();
  seen.images = [...document.images].map((i) => i.naturalWidth);
  seen.width = innerWidth;
  seen.excess = document.documentElement.scrollWidth - innerWidth;
  seen.requests = performance.getEntriesByType("resource").map((r) => r.name);
  parent.postMessage(JSON.stringify(seen), "*");
});
</script>"""
FRAME = """<iframe src="probe.html" style="width: {width}px; height: 900px; border: 0"></iframe><script>
addEventListener("message", (e) => {{ document.title = "seen:" + btoa(unescape(encodeURIComponent(e.data))); }});
</script>"""


def opened(tree: Path, width: int, profile: Path) -> dict:
    """What a browser sees in the subject's page at a width, told by a script added to a copy of it."""
    (tree / "probe.html").write_text((tree / "sub-01.html").read_text().replace("<head>", "<head>" + PROBE))
    (tree / "frame.html").write_text("<!DOCTYPE html><title>-</title>" + FRAME.format(width=width))
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}"]
    command += ["--virtual-time-budget=20000", "--dump-dom", (tree / "frame.html").as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    return json.loads(base64.b64decode(re.search(r"<title>seen:([^<]+)", dom)[1]))


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium to open the page in")
def test_a_browser_opens_the_page_and_sorts_the_table(tree, tmp_path):
    report(tree)
    for width in (360, 1440):
        seen = opened(tree, width, tmp_path / "profile")
        assert seen["errors"] == [] and len(seen["images"]) == 10 and min(seen["images"]) > 0
        assert seen["requests"] == [], "nothing but files beside the page is asked for"
        assert seen["width"] == width and seen["excess"] <= 0, "the page itself never scrolls sideways"
        values = [float(v.replace("−", "-")) for v in seen["up"][:-1]]
        assert seen["up"][-1] == seen["down"][-1] == "n/a" and values == sorted(values)
        assert [float(v.replace("−", "-")) for v in seen["down"][:-1]] == values[::-1]
