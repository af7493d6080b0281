"""The subject page from a small derivative tree, and its figures."""

import base64
import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import matplotlib
import numpy as np
import pytest

from qsmals.anatomy.atlases import ALS
from qsmals.bids.errors import InvalidInput
from qsmals.bids.names import sidecar_path
from qsmals.interfaces.report import DrawFigures
from qsmals.qc.limits import with_overrides
from qsmals.qc.measures import MEASURES
from qsmals.qc.verdict import Verdict, with_limits
from qsmals.reports import figures
from qsmals.reports.acquisition import acquisition, with_unit
from qsmals.reports.assess import read_limits
from qsmals.reports.collect import find_scans
from qsmals.reports.conformance import conformance, counted
from qsmals.reports.facts import newest_facts, read_facts
from qsmals.reports.figures import Panel, Scale, Volume
from qsmals.reports.gallery import Images, _wanted, drawings
from qsmals.reports.published import EXPECTED, GROUPS, expected_at
from qsmals.reports.subject import SubjectReport, write_subject_report
from qsmals.reports.tables import mask_table, reference_table, region_table
from qsmals.roi.columns import COLUMN_NAMES
from qsmals.roi.table import table_text
from tests.report_trees import AFFINE, CLEAN, FACTS, RUN, SHAPE, images, make_scan, write_facts, write_quality


class Page(HTMLParser):
    """Addresses, identifiers and text of a page; fails on tags that do not close."""

    VOID = ("meta", "wbr", "link", "img", "br", "hr", "input")

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
    written = write_subject_report(tree, "01", run_facts=RUN | {"age": 45.0} | run)
    return written, Page(written.path)


def test_a_complete_subject(tree):
    written, page = report(tree)
    assert written.path == tree / "sub-01.html"
    assert written.missing == ()
    assert written.verdict.word == "check" and len(written.verdict.reasons) == 1
    assert "Check" in page.text and "A person should look" in page.text
    for words in (
        "Field strength3 T",
        "Number of echoes3",
        "Echo spacing5 ms",
        "Field of view48 × 52 × 66 mm",
        "Matrix24 × 26 × 22",
        "whole brain (the mapped voxels)",
        "core of the lateral ventricles (one voxel in)+19.1",
        "core of cerebral white matter (one voxel in)−12.0",
        "1234 ml",
        "Siemens integers",
        "pallidum darker than <white matter>",
        "Phase sign: flipped (pallidum darker than <white matter>).",
        "radius_mm = 12",
        "12.3",
        "Missing from the sidecars, to be taken from the protocol: model, scanner software, receive coil",
        "SNR of the first echo",
        "45 years",
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
        "sub-01_desc-jumps_MEGRE.png",
        "sub-01_desc-background_fieldmap.png",
        "sub-01_desc-viewer_Chimap.html",
        "sub-01_desc-tissues_T1w.png",
        "sub-01_desc-tissues_MEGRE.png",
        "sub-01_desc-flicker1_T1w.png",
        "sub-01_desc-flicker2_T1w.png",
        "sub-01_desc-echoes_MEGRE.png",
        "sub-01_desc-air_MEGRE.png",
        "sub-01_desc-field_MEGRE.png",
        "sub-01_desc-mosaic_Chimap.png",
        "sub-01_desc-thumbnail_Chimap.png",
        "sub-01_desc-local_fieldmap.png",
        "sub-01_desc-mosaic_R2starmap.png",
        "sub-01_desc-mask_MEGRE.png",
        "sub-01_desc-regions_T1w.png",
        "sub-01_seg-als_desc-regions_MEGRE.png",
        "sub-01_seg-als_desc-deep_Chimap.png",
        "sub-01_seg-als_desc-regions_Chimap.svg",
        "sub-01_seg-als_desc-otherregions_Chimap.svg",
    }
    html = (tree / "sub-01.html").read_text()
    assert html.count("<figcaption>") == len(names) - 2, "the flicker is one figure of two images, the thumbnail none"
    assert html.count('alt="') == len(names) - 1 and html.count("<iframe") == 1


def test_the_verdict_names_its_figure(tree):
    write_quality(tree / "sub-01/anat", "sub-01", {"contrast_pallidum": ""}, contrast_pallidum=-20.0, brain_kept=60.0)
    written, page = report(tree)
    assert written.verdict.word == "fail"
    assert [r.measure for r in written.verdict.reasons] == ["brain_kept", "contrast_pallidum", ""]
    assert "the pallidum is darker than white matter, as with a turned phase sign" in page.text
    html = written.path.read_text()
    assert '<a href="#sub-01_seg-als_desc-deep_Chimap.png">Show</a>' in html
    assert 'id="sub-01_seg-als_desc-deep_Chimap.png"' in html


def test_a_clean_scan_passes(tmp_path):
    clean = [dict(FACTS["detected"][0])]
    make_scan(tmp_path, "sub-01", facts={"detected": clean, "warnings": []})
    written, page = report(tmp_path)
    assert written.verdict == Verdict("pass")
    n = len(with_limits())
    assert f"{n} of {n} measures are within limits (limits were set on simulated heads)." in page.text
    assert "Look at: map, mask, labels, regions. Consensus: " in page.text
    html = written.path.read_text()
    links = re.findall(r'<a href="#([^"]+)">', html[html.index('class="basis"') : html.index("</header>")])
    assert len(links) == 6 and set(links) <= set(page.ids)
    assert "set by --qc-thresholds:" not in page.text
    moved = with_overrides({"snr_first": {"check": 10}})
    page = Page(write_subject_report(tmp_path, "01", run_facts=RUN, limits=moved).path)
    assert "(other limits were set on simulated heads)" in page.text
    assert "were set by --qc-thresholds: SNR of the first echo." in page.text


def test_limits_can_be_moved(tree, tmp_path):
    file = tmp_path / "limits.toml"
    file.write_text('[snr_first]\ncheck = 50\nfail = "off"\n')
    limits = read_limits(file)
    written = write_subject_report(tree, "01", run_facts=RUN, limits=limits)
    assert "snr_first" in [r.measure for r in written.verdict.reasons]
    assert "below 50" in written.path.read_text()
    told = "The limits of one measure were set by --qc-thresholds: SNR of the first echo."
    html = written.path.read_text()
    assert html.index("<header") < html.index(told) < html.index("</header>")
    assert "set by the user&#39;s file (--qc-thresholds) in place of check below 15, fail below 8" in html
    refused = ("[nothing]\ncheck = 1", *(f"[snr_first]\n{line}" for line in ("check = 5", "check = true", "low = 1")))
    for content in (*refused, "snr_first = 1", "["):
        file.write_text(content)
        with pytest.raises(InvalidInput, match="limits of quality"):
            read_limits(file)


def test_the_consensus_is_answered_with_evidence(tree):
    scan = find_scans(tree, "01")[0][0]
    steps = {"unwrap": {"method": "romeo"}, "field": {"method": "weighted"}, "background": {"method": "lbv"}}
    lines = {line.item: line for line in conformance(scan, steps, {"qsmals": "1.0"})}
    assert list(lines) == [*(f"C{n}" for n in range(1, 10)), *(f"R{n}" for n in range(1, 6))]
    assert lines["C3"].answer == lines["C4"].answer == lines["C5"].answer == lines["C8"].answer == "met"
    assert lines["C6"].answer == "not met" and lines["C6"].evidence == (
        "LBV in place of a SHARP-based method or PDF, by the choice of the study"
    )
    assert lines["C7"].answer == "unknown" and lines["C9"].answer == "unknown" and "flip angle" in lines["C9"].evidence
    assert lines["C3"].evidence == "ROMEO" and lines["C8"].evidence.startswith(
        "whole brain (the mapped voxels); offsets"
    )
    assert lines["C1"].answer == "unknown", "2D or 3D is not in the sidecar"
    assert lines["C2"].evidence.startswith("phase images present; Siemens integers")
    assert lines["R4"].evidence.startswith("files in ppm, page and plots in ppb")
    own = conformance(scan, steps | {"inversion": {"method": "weak-harmonic"}}, {})
    told = next(line.evidence for line in own if line.item == "C6")
    assert told.startswith("LBV in place of a SHARP-based method or PDF, because LBV, which solves")
    assert counted(own).split(", ")[1] == "1 not met" and "docs/" not in " ".join(line.evidence for line in own)


def test_items_of_the_acquisition_are_read_or_named_as_missing(tree):
    options = FACTS["acquisition"] | {"ScanOptions": "FC\\PFP", "ScanningSequence": ["GR", "XX"]}
    write_facts(tree, "sub-01", FACTS | {"acquisition": options | {"ParallelReductionFactorOutOfPlane": 2}})
    items = acquisition(find_scans(tree, "01")[0][0].facts)
    known = dict(items["known"])
    assert known["Flow compensation"].startswith("yes") and known["Acceleration through plane"] == "2"
    assert known["Sequence"] == "gradient recalled, XX"
    assert {"fat suppression", "filters and prescan normalisation", "slab orientation"} <= set(items["unknown"])


def test_units_stand_behind_numbers_only():
    assert with_unit(15.0, "°") == "15°" and with_unit("not known", "°") == "not known"
    assert with_unit([1.5, 1.5, 2.0], "mm") == "1.5 × 1.5 × 2 mm" and with_unit(0.004, "ms") == "4 ms"


def test_published_means_follow_age():
    young, old = expected_at(30.0), expected_at(80.0)
    assert young["putamen"].mean_ppb < EXPECTED["putamen"].mean_ppb < old["putamen"].mean_ppb
    assert young["thalamus"] == EXPECTED["thalamus"] and expected_at(None) == EXPECTED
    assert young["putamen"].low_ppb == EXPECTED["putamen"].low_ppb
    assert young["putamen"].sd_ppb == EXPECTED["putamen"].sd_ppb and young["precentral"] == EXPECTED["precentral"]


def test_the_caption_names_the_groups_behind_the_published_means(tree):
    report(tree)
    name = "sub-01_seg-als_desc-regions_Chimap.svg"
    caption = dict(shown(tree))[name]
    assert "106 adults with a mean age of 62.1 years (Min et al.)" in caption and "Bhattarai et al.)" not in caption
    assert "± the standard deviation between those adults, of the paramagnetic part" in caption
    assert "another area" not in caption and "Dotted" not in caption
    assert "scaled to 45 years" in caption and "relative to the mean of the whole brain" in caption
    assert "is approximate" in caption
    report(tree, age=None)
    assert "The subject's age is not known, and nothing is scaled to it." in dict(shown(tree))[name].replace(
        "&#39;", "'"
    )


def test_a_published_mean_of_another_area_says_so(tree):
    assert EXPECTED["precentral"].area and EXPECTED["precentral"].sd_ppb is None
    table = tree / "sub-01/anat/sub-01_seg-als_desc-roi_Chimap.tsv"
    table.write_text(table.read_text().replace("caudate", "precentral").replace("putamen", "paracentral"))
    report(tree)
    caption = dict(shown(tree))["sub-01_seg-als_desc-regions_Chimap.svg"]
    assert "Dotted: means of other areas than the regions of the table (precentral: four areas of the" in caption
    assert "standard deviation" not in caption, "none of the regions has one"
    rows = [{"name": "precentral", "hemisphere": "L", "mean": 0.01}]
    same = {"precentral": replace(EXPECTED["precentral"], area="")}
    dashes = [figures.region_plot(rows, expected=e).decode().count("stroke-dasharray") for e in (EXPECTED, same)]
    assert dashes[0] == dashes[1] + 1


def test_the_viewer_asks_for_nothing_and_is_the_same_twice(tree):
    report(tree)
    page = (tree / "sub-01/figures/sub-01_desc-viewer_Chimap.html").read_text()
    assert "http" not in re.sub(r"data:[a-z/]+;base64,[^\"']+", "", page).replace("http://www.w3.org", "")
    assert "<span>sub-01</span>" in page and "−0.1 <i></i> 0.2 ppm" in page and "window.shownMap = " in page
    assert '"names": ["", "cerebral white matter", "caudate", "putamen"' in page


def test_the_table_holds_every_column_and_marks_low_coverage(tree):
    told = {"RegistrationFailed": "The statistics of red_nucleus are n/a: registration to the template: poor"}
    (tree / "sub-01/anat/sub-01_seg-als_desc-roi_Chimap.json").write_text(json.dumps(told))
    report(tree)
    html = (tree / "sub-01.html").read_text()
    header = re.search(r'<table class="regions sortable">.*?</thead>', html, re.S)[0]
    assert re.findall(r'<button type="button">(\w+)', header) == list(COLUMN_NAMES)
    assert f"<strong>{told['RegistrationFailed']}.</strong>" in html
    assert html.count('<tr class="low">') == 1 and "1 of 7 regions have less than 50 %" in html
    assert re.search(r'<tr class="low">\s*<td[^>]*>77</td><th scope="row"[^>]*>lost</th>', html)


def test_cortex_far_from_the_rest_is_marked(tmp_path):
    make_scan(tmp_path, "sub-01")
    index = {region.name: region.index for region in ALS.regions if region.hemisphere == "L"}
    names = ["cuneus", "insula", "fusiform", "frontal_pole"]
    rows = {"index": [index[name] for name in names], "name": names, "hemisphere": ["L"] * 4}
    rows |= {"coverage": [1.0] * 4, "mean": [0.01, 0.012, 0.008, -0.022]}
    (tmp_path / "sub-01/anat/sub-01_seg-als_desc-roi_Chimap.tsv").write_text(table_text(rows))
    html = write_subject_report(tmp_path, "01", run_facts=RUN, hurry=True).path.read_text()
    assert html.count('<tr class="far">') == 1 and "1 cortical region lies more than 25 ppb from the median" in html


def test_a_table_without_statistics_names_the_registration_and_not_the_coverage(tmp_path):
    anat = tmp_path / "sub-01" / "anat"
    anat.mkdir(parents=True)
    (anat / "sub-01_Chimap.nii.gz").touch()
    rows = {"name": ["caudate", "lost"], "hemisphere": ["L", "L"], "coverage": [0.98, 0.2], "mean": [np.nan, np.nan]}
    file = anat / "sub-01_seg-als_desc-roi_Chimap.tsv"
    file.write_text(table_text(rows))
    told = "All statistics are n/a: registration of GRE to T1w: poor"
    file.with_suffix(".json").write_text(json.dumps({"RegistrationFailed": told}))
    ((scan,), _) = find_scans(tmp_path, "01")
    table = region_table(scan.tables[0], tmp_path)
    assert table["failed"] == told and [row["low"] for row in table["rows"]] == [False, True]


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
    assert "Outputs are missing: 2" in page.text and all(m in page.text for m in written.missing)
    assert written.verdict.word == "check"


def test_a_damaged_image_costs_its_figures_only(tree):
    path = tree / "sub-01/anat/sub-01_R2starmap.nii.gz"
    path.write_bytes(path.read_bytes()[:200])
    written, page = report(tree)
    assert len(written.missing) == 1 and "figure “R2*” could not be drawn" in written.missing[0]
    assert "sub-01/figures/sub-01_desc-mosaic_Chimap.png" in page.sources


def figure_bytes(tree: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((tree / "sub-01/figures").iterdir())}


def shown(tree: Path) -> list[tuple[str, str]]:
    """Each figure of the page with its caption, in order."""
    html = (tree / "sub-01.html").read_text()
    figure = re.compile(r'<figure id="([^"]+)".*?<figcaption>(.*?)</figcaption>', re.S)
    return [(name, re.sub("<[^>]+>", "", words).strip()) for name, words in figure.findall(html)]


def test_figures_of_vanished_images_are_kept_as_they_were(tree):
    _, first = report(tree)
    drawn, words = figure_bytes(tree), shown(tree)
    shutil.rmtree(tree / "work")
    for _ in range(2):
        written, page = report(tree)
        assert written.missing == ()
        assert figure_bytes(tree) == drawn, "none was drawn anew from less, and the manifest is the same"
        assert page.sources == first.sources, "none is lost, and they stand in the same order"
        kept = shown(tree)
        assert [name for name, _ in kept] == [name for name, _ in words]
        assert all(now.startswith(before) for (_, now), (_, before) in zip(kept, words, strict=True))
    captions = dict(kept)
    assert "This subject on the template, and the template in turn." in captions["sub-01-flicker"]
    assert captions["sub-01_desc-field_MEGRE.png"].endswith(
        "Drawn by an earlier run; no longer there: unwrapped phase, phase quality and noise of the total field."
    )
    assert "earlier run" not in captions["sub-01_desc-mosaic_Chimap.png"]


def test_links_lead_to_kept_figures(tree):
    write_quality(tree / "sub-01/anat", "sub-01", snr_first=1.0, jump_cluster=9.0, template_overlap=0.1)
    report(tree)
    shutil.rmtree(tree / "work")
    _, page = report(tree)
    html = (tree / "sub-01.html").read_text()
    for target in ("sub-01_desc-echoes_MEGRE.png", "sub-01_desc-jumps_MEGRE.png", "sub-01-flicker"):
        assert f'<a href="#{target}">Show</a>' in html and target in page.ids, target
    assert '<a href="#sub-01_seg-als_desc-regions_MEGRE.png">see the labels</a>' in html
    assert "sub-01_seg-als_desc-regions_MEGRE.png" in page.ids


def test_the_manifest_says_what_the_page_shows(tree):
    report(tree)
    entries = json.loads((tree / "sub-01/figures/sub-01_desc-figures.json").read_text())
    assert [list(entry) for entry in entries] == [["name", "section", "title", "caption", "roles"]] * len(entries)
    on_page = [name for name, _ in shown(tree) if "flicker" not in name]
    assert [e["name"] for e in entries if e["section"] != "card" and "flicker" not in e["name"]] == on_page
    assert {e["name"] for e in entries} == set(figure_bytes(tree)) - {"sub-01_desc-figures.json"}
    field = next(entry for entry in entries if entry["name"] == "sub-01_desc-field_MEGRE.png")
    assert field["roles"] == ["unwrapped", "total_field", "quality", "mask", "noise"]


def test_a_drawing_names_every_image_that_it_reads(tree, monkeypatch):
    read: set[str] = set()
    volume = Images.volume
    monkeypatch.setattr(Images, "volume", lambda self, role, echo=None: read.add(role) or volume(self, role, echo))
    scan = find_scans(tree, "01")[0][0]
    for name in [drawing.name for drawing in drawings(scan)]:
        drawing = next(d for d in drawings(scan) if d.name == name)
        read.clear()
        drawing.draw()
        pair = {"template", "t1w_on_template"}  # of no use one without the other
        assert read == set(drawing.roles) or read < pair == set(drawing.roles), name


def test_what_the_facts_name_and_nothing_shows_is_missing(tree):
    report(tree)
    shutil.rmtree(tree / "work")
    shutil.rmtree(tree / "sub-01/figures")
    written, page = report(tree)
    lost = "(the images that the facts name no longer exist)"
    assert f"sub-01: figure “First and last echo” {lost}" in written.missing
    assert f"sub-01: figure “Regions on the gradient echo (als)” {lost}" in written.missing
    assert [m for m in written.missing if "drawn without" in m] == [
        "sub-01: figure “Unwrapped phase and total field” is drawn without unwrapped phase, phase quality "
        "and noise of the total field "
        "(named by the facts, no longer there)"
    ]
    assert "sub-01/figures/sub-01_desc-field_MEGRE.png" in page.sources


def test_a_manifest_that_cannot_be_read_costs_what_it_kept(tree):
    report(tree)
    (tree / "sub-01/figures/sub-01_desc-figures.json").write_text("[{")
    shutil.rmtree(tree / "work")
    written, _ = report(tree)
    assert any("figure “First and last echo”" in m for m in written.missing)


def test_a_lost_output_leaves_its_figure(tree):
    report(tree)
    (tree / "sub-01/anat/sub-01_R2starmap.nii.gz").unlink()
    written, page = report(tree)
    assert [m.split(" (")[0] for m in written.missing] == ["sub-01: R2* map"]
    assert "sub-01/figures/sub-01_desc-mosaic_R2starmap.png" in page.sources
    assert "no longer there: R2* map." in page.text


def test_a_later_run_that_failed_leaves_the_earlier_figures(tree):
    report(tree)
    drawn = figure_bytes(tree)
    shutil.rmtree(tree / "work")
    write_facts(tree, "sub-01", {"status": "failed", "acquisition": FACTS["acquisition"]}, run="20260102")
    written, page = report(tree, run="20260102")
    assert figure_bytes(tree) == drawn and written.missing == ()
    assert "sub-01/figures/sub-01_desc-echoes_MEGRE.png" in page.sources


def test_figures_that_the_run_drew_are_not_drawn_again(tree):
    folder, given = tree / "sub-01/figures", {"output_dir": str(tree), "subject": "01", "prefix": "sub-01"}
    step = DrawFigures(run="20260101", age=45.0, **given)
    assert step.compute(tree)["n_figures"] == len(list(folder.glob("*"))) - 1  # the manifest is none
    drawn = folder / "sub-01_desc-local_fieldmap.png"
    expected, lost = figure_bytes(tree), folder / "sub-01_desc-background_fieldmap.png"
    drawn.write_bytes(b"as the run left it")
    lost.unlink()
    written = write_subject_report(tree, "01", run_facts=RUN | {"age": 45.0}, drawn={"sub-01"})
    assert written.missing == () and drawn.read_bytes() == b"as the run left it"
    assert lost.read_bytes() == expected[lost.name]
    assert report(tree)[0].missing == () and figure_bytes(tree) == expected


def test_a_stopped_run_draws_nothing(tree):
    written = write_subject_report(tree, "01", run_facts=RUN, hurry=True)
    assert written.path.is_file() and not (tree / "sub-01/figures").exists() and written.missing == ()
    report(tree)
    drawn = figure_bytes(tree)
    write_subject_report(tree, "01", run_facts=RUN, hurry=True)
    assert figure_bytes(tree) == drawn and "sub-01_desc-echoes_MEGRE.png" in written.path.read_text()


def test_figures_without_room_are_told_and_fail_nothing(tree, caplog):
    (tree / "sub-01/figures").write_text("in the way")
    step = DrawFigures(run="20260101", output_dir=str(tree), subject="01", prefix="sub-01")
    assert step.compute(tree) == {"n_figures": 0}
    assert "sub-01: the figures cannot be written" in caplog.text


def test_figures_of_images_that_a_later_run_had_no_use_for_leave_the_page(tree):
    report(tree)
    roles = {role: path for role, path in images("sub-01").items() if role in ("magnitude", "phase")}
    write_facts(tree, "sub-01", FACTS | {"images": roles}, run="20260102")
    for role in ("t1w_on_template", "tissues", "unwrapped", "quality", "noise"):
        (tree / f"work/sub-01_{role}.nii.gz").unlink()
    written, page = report(tree, run="20260102")
    assert written.missing == () and "earlier run" not in page.text
    assert not any(name in source for source in page.sources for name in ("T1w", "tissues", "flicker", "jumps"))


def test_the_volumes_of_the_mask_lead_from_the_brain_to_the_map(tree):
    threshold = {"quality_threshold": 0.56, "threshold_rule": "capped"}
    make_scan(tree, "sub-01", facts={"mask": FACTS["mask"] | {"dropped_percent": 11.8} | threshold})
    write_quality(tree / "sub-01/anat", "sub-01", brain_volume=1400.0, brain_kept=85.0)
    _, page = report(tree)
    words = (
        *("brain of the T1w image1400 ml", "with reliable phase1234 ml, 88.2 %"),
        "of it lost to background removal, at the rim44 ml, 3.2 %",
        "(mapped): the file desc-brain_mask, and the whole brain as reference1190 ml, 85.0 %",
    )
    places = [page.text.index(part) for part in words]
    assert places == sorted(places) and "Threshold of phase quality (0 to 1): 0.56" in page.text
    assert "Rule of that threshold: capped" in page.text
    rim = "or lies at the rim where background and brain cannot be told apart."
    assert rim in dict(shown(tree))["sub-01_desc-mask_MEGRE.png"]


def test_a_rim_that_was_not_lost_is_not_explained(tree):
    write_quality(tree / "sub-01/anat", "sub-01", brain_volume=1400.0, brain_kept=100 * (1234.5 - 0.6) / 1400)
    _, page = report(tree)
    assert "with reliable phase1234 ml" in page.text and "lost to background removal" not in page.text
    caption = dict(shown(tree))["sub-01_desc-mask_MEGRE.png"]
    assert caption.endswith("what lies between the lines has no reliable phase.")


def test_the_volumes_of_the_mask_as_far_as_they_are_known(tmp_path):
    def volumes(**facts) -> list[tuple[str, str]]:
        make_scan(tmp_path, "sub-01", facts=facts)
        write_quality(tmp_path / "sub-01/anat", "sub-01", brain_volume=None, brain_kept=None)
        return mask_table(find_scans(tmp_path, "01")[0][0])["volumes"]

    assert volumes() == [("with reliable phase", "1234 ml")]
    assert volumes(mask={}) == []
    signal = {"source": "T1w brain mask, as far as there is signal", "volume_ml": 1000, "dropped_percent": 1}
    assert volumes(mask=signal) == [("with signal", "1000 ml, 99.0 %")]
    assert volumes(mask={"source": "T1w brain mask", "volume_ml": 9}) == [("where the field was used", "9 ml")]
    make_scan(tmp_path, "sub-01", facts={"images": {}})
    assert mask_table(find_scans(tmp_path, "01")[0][0])["volumes"][0][0] == "brain"


def test_captions_say_what_the_line_is(tree):
    report(tree)
    assert "The orange line encloses where the map has values." in dict(shown(tree))["sub-01_desc-field_MEGRE.png"]
    assert "brain mask" not in "".join(words for name, words in shown(tree) if name != "sub-01_desc-mask_MEGRE.png")


def test_the_page_can_be_used_without_a_mouse_and_without_sight(tree):
    report(tree)
    html = (tree / "sub-01.html").read_text()
    scrollers = re.findall(r'<div[^>]* tabindex="0"[^>]*>', html)
    assert len(scrollers) > 20 and all(re.search(r'role="region" aria-label="[^"]{5,}"', tag) for tag in scrollers)
    assert "aria-pressed" not in html
    rows = re.search(r'<table class="regions sortable">.*?<tbody>(.*?)</tbody>', html, re.S)[1]
    assert rows.count('<th scope="row"') == rows.count("<tr") == 7
    columns = re.search(r"<summary>What each column is</summary>(.*?)</details>", html, re.S)[1]
    assert re.findall(r"<dt>(\w+)", columns) == list(COLUMN_NAMES)
    assert "<dt>coverage</dt><dd>" in columns and "<dt>mean (ppb)</dt><dd>" in columns


def test_a_scan_without_t1w_lacks_nothing(tmp_path):
    make_scan(
        tmp_path,
        "sub-01",
        facts={"images": {k: v for k, v in images("sub-01").items() if "t1w" not in k and k != "tissues"}},
    )
    written, page = report(tmp_path)
    assert written.missing == () and "Regions on T1w" not in page.text


def test_a_failed_subject_says_what_failed_and_what_to_try(tmp_path):
    trace = "Traceback (most recent call last):\n  <frame>\nMemoryError: no room"
    error = {"step": "unwrap", "message": "the worker was killed", "traceback": trace}
    written, page = report(tmp_path, status="failed", errors=[error])
    assert written.missing == ()
    assert written.verdict.word == "fail" and "Unwrap failed: the worker was killed." in page.text
    assert trace in page.text and "What to try: The step ran out of memory" in page.text
    assert "No map" in page.text and "methods" not in page.ids, "nothing was computed that a paper could describe"


def test_a_scan_that_failed_early_shows_no_empty_sections(tmp_path):
    write_facts(tmp_path, "sub-01", {"errors": [{"step": "x", "message": "it broke"}]})
    _, page = report(tmp_path)
    assert "This scan has no map and no table." in page.text
    assert not {"sub-01-consensus", "sub-01-acquisition", "sub-01-files"} & page.ids
    assert all(link[1:] in page.ids for link in page.links if link.startswith("#"))


def test_advice_of_the_caller_comes_first(tmp_path):
    _, page = report(tmp_path, errors=[{"step": "x", "message": "MemoryError", "advice": "Buy a computer."}])
    assert "Buy a computer." in page.text and "ran out of memory" not in page.text


def test_a_fault_of_the_input_has_its_own_advice(tmp_path):
    error = {"step": "Check of the input", "message": "T1w.nii.gz: has the value 100 in every voxel"}
    _, page = report(tmp_path, status="failed", errors=[error | {"advice": "Export the image again."}])
    assert "What to try: Export the image again." in page.text and "same command" not in page.text
    assert "#errors" in page.links and "errors" in page.ids
    _, page = report(tmp_path, status="failed", errors=[error])
    assert "What to try" not in page.text


def test_a_run_that_was_stopped_is_told_from_a_failure(tmp_path):
    _, page = report(
        tmp_path, status="failed", errors=[{"step": "run", "message": "stopped by SIGTERM (63 steps left)"}]
    )
    assert "stopped from outside, not by a fault of this subject" in page.text


def test_measures_that_do_not_apply_do_not_count(tree):
    clean = [dict(FACTS["detected"][0]), {"what": "phase sign", "found": "as stored", "confident": True}]
    make_scan(tree, "sub-02", facts={"detected": clean, "warnings": []})
    path = write_quality(tree / "sub-02/anat", "sub-02", **dict.fromkeys(CLEAN))
    path.write_text(path.read_text().replace('"snr": [40.0, 32.0, 25.0]', '"snr": [null, null, null]'))
    written = write_subject_report(tree, "02", run_facts=RUN)
    assert written.verdict.word == "pass" and written.missing == ()
    assert written.verdict.not_judged and "measures apply; not judged: " in Page(written.path).text
    assert Page(written.path).text.count("n/a") > len(CLEAN)


def test_one_echo_and_no_t1w_lack_nothing(tmp_path):
    roles = {k: v for k, v in images("sub-01").items() if k in ("magnitude", "phase", "quality")}
    acquisition = FACTS["acquisition"] | {"EchoTimes": [0.02]}
    facts = {"images": roles, "acquisition": acquisition, "echoes": FACTS["echoes"][:1], "registration": {}}
    make_scan(tmp_path, "sub-01", facts=facts)
    (tmp_path / "sub-01/anat/sub-01_R2starmap.nii.gz").unlink()
    written, page = report(tmp_path)
    assert written.missing == () and "one echo: there is nothing to combine" in page.text


def test_a_huge_table_is_shown_whole(tree):
    path = tree / "sub-01/anat/sub-01_seg-als_desc-roi_Chimap.tsv"
    header, *lines = path.read_text().splitlines()
    many = [f"{n}\tarea_{n}\t" + line.split("\t", 2)[2] for n in range(1000) for line in lines[:3]]
    path.write_text("\n".join([header, *many]) + "\n")
    written, page = report(tree)
    assert written.missing == () and page.text.count("area_") == 3000
    assert not any("otherregions" in source for source in page.sources), "no plot can hold them"


def test_what_single_steps_did_is_told_in_words(tmp_path):
    other = {"cortex": {"lost_percent": 18.123456, "warnings": []}, "registration_failed": [], "novelty": 3}
    make_scan(tmp_path, "sub-01", facts=other)
    _, page = report(tmp_path)
    assert "Cortical labels fitted to grey matter" in page.text and "voxels lost (%)18.12" in page.text
    assert "registration failed" not in page.text and "Novelty" in page.text and "{" not in page.text


def test_a_failure_without_words_points_to_the_log(tmp_path):
    write_facts(tmp_path, "sub-01", {"status": "failed"})
    written, page = report(tmp_path)
    assert "recorded no message" in page.text and "sub-01/log/" in page.text and written.missing == ()


def test_a_table_of_an_earlier_map_is_told_and_not_shown(tmp_path):
    make_scan(tmp_path, "sub-01")
    anat = tmp_path / "sub-01" / "anat"
    old = anat / "sub-01_seg-mine_desc-roi_Chimap.tsv"
    old.write_text((anat / "sub-01_seg-als_desc-roi_Chimap.tsv").read_text())
    labels = anat / "sub-01_space-MEGRE_seg-als_dseg.nii.gz"
    shutil.copy(labels, anat / "sub-01_space-MEGRE_seg-mine_dseg.nii.gz")
    page = Page(write_subject_report(tmp_path, "01", run_facts=RUN, hurry=True).path)
    assert "Region table, susceptibility (mine)" in page.text and "left out" not in page.text
    assert "Region labels (mine)" in page.text
    for path, method in ((old, "tv"), (anat / "sub-01_Chimap.nii.gz", "tkd")):
        sidecar_path(path).write_text(json.dumps({"Parameters": {"inversion": {"method": method}}}))
    written = write_subject_report(tmp_path, "01", run_facts=RUN, hurry=True)
    page = Page(written.path)
    assert f"{old.name} is left out" in page.text and "Region table, susceptibility (mine)" not in page.text
    assert "Region labels (mine)" not in page.text and "Region labels (als)" in page.text
    assert not any(old.name in words for words in written.missing) and old.is_file()


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
    assert "sub-01_ses-A_run-1: Phase sign: flipped" in page.text


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


def test_slices_go_where_they_are_wanted():
    core, place = np.array([10, 110]), figures.Place
    spread = [at for at, _ in figures._slices(5, core, [], 3)]
    assert spread == [20, 40, 60, 79, 99]
    wanted = [place(2, 50, "pallidum"), place(2, 51, "thalamus"), place(2, 90, "precentral"), place(2, 400, "lost")]
    found = figures._slices(5, core, wanted, 3)
    assert [f for f in found if f[1]] == [(50, "pallidum, thalamus"), (90, "precentral")]
    assert len(found) == 5 and found == sorted(found)
    assert len(figures._slices(9, np.array([0, 2]), [place(2, 1, "x")], 3)) <= 2


def test_gaps_are_filled_above_the_lowest_part():
    core, wanted = np.array([0, 100]), [figures.Place(2, 60, "pallidum"), figures.Place(2, 67, "thalamus")]
    assert [at for at, _ in figures._slices(4, core, wanted, 8, fill_from=0.3)] == [45, 60, 79, 89]
    assert figures._slices(1, core, wanted, 8, fill_from=0.3) == [(60, "pallidum, thalamus")]


def test_the_leg_area_and_the_caudate_have_their_slices(tree):
    path = tree / "sub-01/anat/sub-01_space-MEGRE_seg-als_dseg.tsv"
    path.write_text(path.read_text().replace("brainstem", "paracentral"))
    images = Images(find_scans(tree, "01")[0][0])
    places = {(place.words, place.axis): place.at for place in _wanted(images)}
    assert places["caudate", 1] == 14, "in its front"
    assert max(p.at for p in _wanted(images) if p.words == "paracentral") == 9, "in the uppermost of slices 4 to 9"


def test_the_echo_of_a_reason_is_in_its_figure(tree):
    details = {"echo_signal": "echo 2", "phase_noise": "echo 2; interpolated images: one voxel of 2 × 2 × 1"}
    write_quality(tree / "sub-01/anat", "sub-01", details, echo_signal=0.1, phase_noise=0.8)
    scan = find_scans(tree, "01")[0][0]
    drawing = next(d for d in drawings(scan) if d.name == "desc-echoes_MEGRE.png")
    assert "echo 2, the weakest by the measures; echo 2, the noisiest" in drawing.caption
    wide = png_size(drawing.draw())
    bad = {"echo_signal": 0.1, "phase_noise": 0.8}
    for words, values in (("echo 1", bad), ("echo 3", bad), ("1 or 3", bad), ("", bad), ("echo 2", {})):
        details = {"echo_signal": words, "phase_noise": words}
        write_quality(tree / "sub-01/anat", "sub-01", details, **values)
        scan = find_scans(tree, "01")[0][0]
        drawing = next(d for d in drawings(scan) if d.name == "desc-echoes_MEGRE.png")
        assert "by the measures" not in drawing.caption
    assert png_size(drawing.draw())[1] > wide[1], "six columns are lower than four"


def test_faults_lead_to_figures_that_show_them(tree):
    write_quality(tree / "sub-01/anat", "sub-01", ghosting=9.0, field_noise=50.0, fit_outliers=90.0)
    written, page = report(tree)
    figures_of = {r.measure: r.figure for r in written.verdict.reasons}
    assert figures_of["ghosting"] == MEASURES["air_outliers"].figure == "desc-air_MEGRE.png"
    assert figures_of["field_noise"] == figures_of["fit_outliers"] == "desc-field_MEGRE.png"
    assert "#sub-01_desc-air_MEGRE.png" in page.links
    assert "the echoes do not agree on one field" in dict(shown(tree))["sub-01_desc-field_MEGRE.png"]


def test_ghosts_are_seen_in_the_air(tree, monkeypatch):
    seen = {}
    monkeypatch.setattr(figures, "planes", lambda volume, **words: seen.update(words, volume=volume) or b"")
    next(d for d in drawings(find_scans(tree, "01")[0][0]) if d.name == "desc-air_MEGRE.png").draw()
    inside = seen["outline"].data != 0
    assert np.median(seen["volume"].data[inside]) == pytest.approx(100) and seen["scale"].high == 10


def test_the_page_has_susceptibility_in_ppb_and_the_file_in_ppm(tree):
    table = find_scans(tree, "01")[0][0].tables[0]
    shown_table = region_table(table, tree)
    column = {entry["name"]: n for n, entry in enumerate(shown_table["header"])}
    row, cells = table.rows[0], shown_table["rows"][0]["cells"]
    assert shown_table["header"][column["mean"]]["unit"] == "ppb"
    assert float(cells[column["mean"]]["sort"]) == pytest.approx(1000 * row["mean"])
    for name in ("skewness", "positive_fraction", "volume_mm3"):
        assert float(cells[column[name]]["sort"]) == pytest.approx(row[name]), name


def test_a_column_has_the_same_digits_in_every_row(tmp_path):
    values = {
        "mean": [0.109, 0.1102, -0.00003, -0.0205],
        "skewness": [0.0004679, -1.25, 12.0, 0.0],
        "kurtosis": [3.0, -0.5, 100.125, 0.0],
        "positive_fraction": [1.0, 0.5, 0.98765, 0.0],
        "coverage": [1.0, 0.75, 0.98765, 0.5],
        "volume_mm3": [15332.625, 9.0, 100.5, 0.0],
    }
    names = {"name": [f"area_{n}" for n in range(4)], "hemisphere": ["B"] * 4, "n_voxels": [9, 10, 100, 1]}
    anat = tmp_path / "sub-01/anat"
    anat.mkdir(parents=True)
    (anat / "sub-01_Chimap.nii.gz").touch()
    for quantity in ("Chimap", "R2starmap"):
        (anat / f"sub-01_seg-als_desc-roi_{quantity}.tsv").write_text(table_text(names | values))
    tables = {t.quantity: region_table(t, tmp_path) for t in find_scans(tmp_path, "01")[0][0].tables}
    columns = {
        entry["name"]: [row["cells"][n]["text"] for row in tables["Chimap"]["rows"]]
        for n, entry in enumerate(tables["Chimap"]["header"])
    }
    assert columns["mean"] == ["109.0", "110.2", "0.0", "−20.5"]
    assert columns["skewness"] == ["0.00", "−1.25", "12.00", "0.00"]
    assert columns["positive_fraction"] == ["1.000", "0.500", "0.988", "0.000"]
    assert columns["n_voxels"] == ["9", "10", "100", "1"] and columns["volume_mm3"][0] == "15333"
    for table in tables.values():
        for n, entry in enumerate(table["header"][3:], start=3):
            places = {len(row["cells"][n]["text"].partition(".")[2]) for row in table["rows"]}
            assert len(places) == 1, entry["name"]
    first = tables["Chimap"]["rows"][0]["cells"]
    assert float(first[list(columns).index("skewness")]["sort"]) == 0.0004679, "sorted by the whole number"


def test_reference_regions_have_their_volumes(tree):
    reference = FACTS["reference"] | {"n_voxels": {"csf": 200, "wm": 100000}}
    make_scan(tree, "sub-01", facts={"reference": reference})
    names = [name for name, _, _ in reference_table(find_scans(tree, "01")[0][0])["offsets"]]
    assert names[0].endswith("(one voxel in), 2.4 ml") and names[1].endswith("(one voxel in), 1200 ml")


def test_what_a_method_reached_is_no_detection(tree):
    detected = [*FACTS["detected"], {"what": "dipole inversion", "found": "75 iterations", "evidence": "tolerance"}]
    make_scan(tree, "sub-01", facts={"detected": detected})
    _, page = report(tree)
    assert page.text.index("Detected in the data") < page.text.index("What the reconstruction reached")
    assert page.text.index("What the reconstruction reached") < page.text.index("75 iterations")


def test_the_region_plot_shows_sides_and_the_published_range():
    rows = [{"name": "pallidum", "hemisphere": side, "mean": mean} for side, mean in (("L", 0.1), ("R", 0.13))]
    rows += [{"name": "thalamus", "hemisphere": "L", "mean": np.nan}, {"name": "unknown", "hemisphere": "B", "mean": 1}]
    svg = figures.region_plot(rows, expected=EXPECTED).decode()
    assert "pallidum" in svg and "thalamus" in svg and "unknown" not in svg
    assert svg.count("not measured") == 1, "a region that was lost keeps its line"
    assert "mean susceptibility (ppb)" in svg and "published mean" in svg and "<dc:date>" not in svg
    assert "± SD, paramagnetic part" in svg
    without = {name: replace(values, sd_ppb=None) for name, values in EXPECTED.items()}
    lines = [figures.region_plot(rows, expected=known).decode().count("line2d") for known in (EXPECTED, without)]
    assert lines[0] == lines[1] + 2, "a bar each for pallidum and thalamus"
    assert figures.region_plot(rows, expected=EXPECTED).decode() == svg
    assert "alarm limits" in figures.region_plot([], expected=EXPECTED).decode()


def test_the_other_regions_are_drawn_too():
    rows = [{"name": "pallidum", "hemisphere": "L", "mean": 0.1, "coverage": 1.0}]
    rows += [{"name": f"gyrus_{n}", "hemisphere": h, "mean": 0.01, "coverage": 1.0} for n in range(5) for h in "LR"]
    rows += [{"name": "insula", "hemisphere": "L", "mean": 0.01, "coverage": 0.7}]
    rows += [{"name": "insula", "hemisphere": "R", "mean": np.nan, "coverage": 0.2}]
    svg = figures.other_regions_plot(rows, without=EXPECTED).decode()
    assert "pallidum" not in svg and "gyrus 4" in svg and "right not measured" in svg
    assert figures.other_regions_plot([], without=EXPECTED).startswith(b"<?xml")


def test_neighbouring_labels_differ_in_colour():
    for labels in (np.arange(1, 30), np.array([0, *range(40021, 40033)]), np.array([0, 1002, 2002, 1003, 2003])):
        colours = figures.colour_numbers(labels)[labels > 0] % len(figures.CONTOUR_COLOURS)
        assert (colours[1:] != colours[:-1]).all() and (colours[2:] != colours[:-2]).all()
    assert (figures.colour_numbers(np.array([[0, 5], [5, 0]])) == [[0, 2], [2, 0]]).all()


def test_published_values_are_plausible():
    for name, values in EXPECTED.items():
        if values.low_ppb is not None and values.mean_ppb is not None:
            assert values.low_ppb < values.mean_ppb < values.high_ppb, name
        assert (values.mean_ppb is None) == (values.source is None)
        assert values.source is None or values.source.key in GROUPS
        assert values.sd_ppb is None or (values.source is not None and 0 < values.sd_ppb < 25), name


def test_a_sign_that_the_map_shows_needs_no_look(tree):
    weak = {
        "what": "phase sign",
        "found": "as stored",
        "evidence": "correlation +0.11, too weak to tell",
        "confident": False,
        "warning": True,
    }
    words = "phase sign: as stored (correlation +0.11, too weak to tell)"
    make_scan(tree, "sub-02", facts={"detected": [weak], "warnings": [words]})
    write_quality(tree / "sub-02/anat", "sub-02", **CLEAN)
    assert write_subject_report(tree, "02", run_facts=RUN).verdict.word == "pass"
    write_quality(tree / "sub-02/anat", "sub-02", **(CLEAN | {"contrast_pallidum": None, "region_order": None}))
    told = [reason.text for reason in write_subject_report(tree, "02", run_facts=RUN).verdict.reasons]
    assert any("too weak to tell" in text for text in told) and any("could not be judged" in text for text in told)


def test_the_viewer_holds_the_map_in_one_channel(tree):
    report(tree)
    page = (tree / "sub-01/figures/sub-01_desc-viewer_Chimap.html").read_text()
    (encoded,) = re.findall(r'id="spriteImg-map"[^>]*base64,([^"]+)"', page)
    assert base64.b64decode(encoded)[25] == 0, "PNG's colour type: grey"
