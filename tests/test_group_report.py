"""The study's page and table from small derivative trees."""

import json
import random
import re
from itertools import pairwise
from pathlib import Path

import pytest

from qsmals.anatomy.atlases import ALS
from qsmals.cli import main
from qsmals.cli.writing import collect_citation
from qsmals.engine.lock import SubjectLock
from qsmals.engine.summary import SubjectSummary
from qsmals.qc.measures import MEASURES
from qsmals.reports.crosslink import GROUP_LINK
from qsmals.reports.group import GroupReport, write_group_report
from qsmals.reports.published import EXPECTED
from qsmals.reports.strips import LETTER, Point, outliers, strip
from qsmals.reports.subject import write_subject_report
from tests.browser import CHROMIUM, Browser
from tests.report_trees import CLEAN, FACTS, make_scan, write_facts, write_quality

PEOPLE = {f"sub-{n:02d}": {"group": "ALS" if n % 2 else "control", "age": str(40 + n)} for n in range(1, 9)}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six good subjects, one with an outlier, one that failed, one that was refused, one never run."""
    root = tmp_path_factory.mktemp("study")
    for n in range(1, 7):
        make_scan(root, f"sub-{n:02d}", seed=n, facts={"detected": [], "warnings": []})
        snr = 40.0 + n if n < 6 else 12.0
        write_quality(root / f"sub-{n:02d}" / "anat", f"sub-{n:02d}", snr_first=snr, jump_share=None)
        (root / f"sub-{n:02d}.html").write_text("page")
    write_facts(root, "sub-07", {"status": "failed", "errors": [{"step": "unwrap", "message": "killed\nlong"}]})
    (root / "sub-07.html").write_text("page")
    return root


SUMMARY = {"sub-09": SubjectSummary("sub-09", "invalid", "no EchoTime")}


def report(study: Path, **options) -> GroupReport:
    return write_group_report(study, people=PEOPLE, summary=SUMMARY, **options)


def table(report: GroupReport) -> list[dict[str, str]]:
    header, *lines = [line.split("\t") for line in report.table.read_text().splitlines()]
    return [dict(zip(header, line, strict=True)) for line in lines]


def test_every_subject_has_a_row_with_its_verdict(study):
    written = report(study)
    rows = {row["participant_id"]: row for row in table(written)}
    assert list(rows) == [f"sub-{n:02d}" for n in range(1, 10)]
    words = [row["verdict"] for row in rows.values()]
    assert words == ["pass"] * 5 + ["check"] + ["fail"] * 3
    assert written.verdicts == {"pass": 5, "check": 1, "fail": 3}
    assert "SNR of the first echo is 12.0, below 15" in rows["sub-06"]["reasons"]
    assert "Unwrap failed: killed." in rows["sub-07"]["reasons"]
    assert rows["sub-08"]["reasons"] == "Not processed: there is no result."
    assert rows["sub-09"]["reasons"] == "Invalid: no EchoTime"
    assert (
        rows["sub-03"]["snr_first"] == "43" and rows["sub-03"]["jump_share"] == "n/a" and rows["sub-03"]["age"] == "43"
    )
    assert float(rows["sub-01"]["chi_caudate_L"]) == pytest.approx(40, abs=3)
    described = json.loads(written.table.with_suffix(".json").read_text())
    assert described.keys() == rows["sub-01"].keys()
    assert described["snr_first"]["LongName"] == MEASURES["snr_first"].title


def test_the_page_tells_what_the_tables_mix(study):
    told = "seg-als Chimap: 1 of 8 tables (sub-02) was not made like 7 others <as that of sub-01>"
    html = report(study, warnings=[told]).path.read_text()
    assert told.replace("<", "&lt;").replace(">", "&gt;") in html and "About the tables" in html
    assert "About the tables" not in report(study).path.read_text()


def test_the_page_lists_those_in_doubt_and_leads_to_their_pages(study):
    html = report(study).path.read_text()
    attention = html[html.index('id="attention"') : html.index('id="table"')]
    for name in ("sub-06", "sub-07"):
        assert f'<a href="{name}.html">{name}</a>' in attention
    assert "<strong>sub-08</strong>" in attention and "sub-01" not in attention
    outlying = re.findall(r'<a href="([^"]+)" class="[a-z]+ far"', html)
    assert "sub-06.html" in outlying
    assert "http" not in html.replace("https://doi.org", "")
    assert html.count("<tr data-word") == 9


def test_pages_written_before_the_study_lead_back_to_it(tmp_path):
    for label in ("01", "02", "03"):
        make_scan(tmp_path, f"sub-{label}")
        write_subject_report(tmp_path, label, run_facts=FACTS, hurry=True)
    pages = {label: tmp_path / f"sub-{label}.html" for label in ("01", "02", "03")}
    before = pages["01"].read_text()
    assert GROUP_LINK not in before
    with SubjectLock(tmp_path, "02"):  # its run is at work, and writes its page itself
        write_group_report(tmp_path, labels=["sub-01", "sub-02"])
    after = pages["01"].read_text()
    assert after.replace(GROUP_LINK, "") == before and after.count('href="group.html"') == 1
    assert GROUP_LINK not in pages["02"].read_text() and GROUP_LINK not in pages["03"].read_text()
    write_subject_report(tmp_path, "02", run_facts=FACTS, hurry=True)
    write_group_report(tmp_path)
    assert all(page.read_text().count(GROUP_LINK) == 1 for page in pages.values())
    assert not list((tmp_path / "logs").glob("*.lock"))


def test_limits_and_labels_are_followed(study):
    from qsmals.qc.limits import with_overrides

    few = report(study, labels=["sub-01", "sub-06"], limits=with_overrides({"snr_first": {"check": 5, "fail": 1}}))
    told = "The limits of one measure were set by --qc-thresholds: SNR of the first echo."
    assert told in few.path.read_text() and "set by --qc-thresholds" not in report(study).path.read_text()
    assert few.verdicts == {"pass": 2} and [row.name for row in few.rows] == ["sub-01", "sub-06"]


def test_sessions_and_runs_are_rows(tmp_path):
    for prefix in ("sub-01_ses-A_run-1", "sub-01_ses-B"):
        make_scan(tmp_path, prefix)
    written = write_group_report(tmp_path)
    assert [row.name for row in written.rows] == ["sub-01 ses-A run-1", "sub-01 ses-B"]
    rows = table(written)
    assert [(row["session_id"], row["run"]) for row in rows] == [("ses-A", "1"), ("ses-B", "n/a")]


def test_equal_input_gives_equal_bytes(study):
    assert report(study).path.read_bytes() == report(study).path.read_bytes()


def test_outliers_need_company_and_spread():
    assert outliers([1.0, 2.0, 50.0]) == [False] * 3
    assert outliers([1.0] * 6) == [False] * 6
    assert outliers([1.0] * 6 + [9.0])[-1]
    assert outliers([float("nan"), *[1.0, 1.1, 0.9, 1.0, 1.05, 4.0]]) == [False] * 6 + [True]


def test_a_strip_is_drawn_for_any_values():
    points = [Point(n, v, f"<{n}>", "", "pass", False) for n, v in enumerate((0.0, 0.0, 0.0))]
    assert "&lt;1&gt;" in strip(points) and "<1>" not in strip(points)
    assert strip([]) == ""
    assert strip(points, bounds=[5.0]).count('<line class="bound') == 0 and "fail 5 →" in strip(points, bounds=[5.0])
    spread = [Point(n, float(n), str(n), "p.html", "fail", n == 9) for n in range(10)]
    assert strip(spread, bounds=[5.0]).count('class="bound worst"') == 1 and 'class="fail far"' in strip(spread)


def test_the_tab_key_stops_at_outliers_only_and_a_strip_is_a_named_group():
    points = [Point(n, float(n), str(n), "p.html", "pass", n == 3) for n in range(5)]
    svg = strip(points, title="SNR <first>")
    assert '<svg viewBox="0 0 360 88" role="group" aria-label="SNR &lt;first&gt;: 5 scans">' in svg and "img" not in svg
    assert svg.count("<a ") == 5 and svg.count('tabindex="-1"') == 4
    assert re.search(r'<a href="p.html" class="pass far" data-row="3">', svg)
    assert 'aria-label="Values: 1 scan"' in strip(points[:1])


def atlas_tree(root: Path, n_subjects: int, name=lambda region: region.name) -> Path:
    """Tables of every region of the atlas, one of them far off in the last subject, and measures."""
    rng = random.Random(0)
    regions = (*ALS.regions, *ALS.parts)
    means = {region.name: rng.gauss(0.02, 0.03) for region in regions}
    for n in range(1, n_subjects + 1):
        subject = f"sub-{n:03d}"
        write_quality(root / subject / "anat", subject, **{k: v * (1 + rng.gauss(0, 0.004)) for k, v in CLEAN.items()})
        lines = ["index\tname\themisphere\tmean\tcoverage"]
        for r in regions:
            mean = means[r.name] + rng.gauss(0, 0.003) + 0.1 * (n == n_subjects and r.name == "insula")
            lines.append(f"{r.index}\t{name(r)}\t{r.hemisphere}\t{mean:.5f}\t1")
        (root / subject / "anat" / f"{subject}_seg-als_desc-roi_Chimap.tsv").write_text("\n".join(lines) + "\n")
        write_facts(root, subject, FACTS | {"warnings": [], "detected": []})
        (root / f"{subject}.html").write_text("page")
    return root


def shown_and_further(html: str) -> tuple[list[str], list[str]]:
    """Titles of the regions that are drawn and of those that can be chosen."""
    section = html[html.index('id="regions"') :]
    drawn = re.findall(r'<figcaption title="Mean susceptibility">([^<]*?) <small>', section)
    return drawn, re.findall(r'<option value="\d+">([^<]*)</option>', section)


def test_every_region_is_in_the_table_and_can_be_chosen(tmp_path):
    written = write_group_report(atlas_tree(tmp_path, 6))
    html, row = written.path.read_text(), table(written)[0]
    regions = {column.removeprefix("chi_") for column in row if column.startswith("chi_")}
    sided = {r.name for r in ALS.regions if r.hemisphere == "L"} | {r.name for r in ALS.parts}
    assert {f"{name}_{side}" for name in sided for side in "LR"} <= regions
    assert {"brainstem_B", "brain_B", "pallidum_external_L"} <= regions and "insula_B" not in regions
    assert json.loads(written.table.with_suffix(".json").read_text())["chi_brainstem_B"]["Units"] == "ppb"
    drawn, further = shown_and_further(html)
    assert drawn[:2] == ["left pallidum", "right pallidum"]
    assert len(drawn) + len(further) == len(regions)
    assert {"brainstem", "left insula", "left pallidum external"} <= set(further) and "left putamen" not in further
    assert (
        f"show the {len(drawn)} regions with published values or alarm limits. {len(further)} further regions" in html
    )
    assert "R2* and other maps" in html and len(re.findall("<th ", html)) == 2 + len(CLEAN) + len(drawn)


def test_an_atlas_without_published_regions_shows_its_first_thirty(tmp_path):
    written = write_group_report(atlas_tree(tmp_path, 3, name=lambda region: f"area_{region.name}"))
    html = written.path.read_text()
    drawn, further = shown_and_further(html)
    assert len(drawn) == 30 and drawn[0] == "left area white matter" and len(further) > 90
    assert "No region has published values or alarm limits; table and plots show the first 30 of the atlas." in html
    assert "Alarm limits" not in html and "chi_area_insula_L" in table(written)[0]


def test_published_regions_lead_though_the_first_subject_lacks_them(tmp_path):
    atlas_tree(tmp_path, 2)
    path = tmp_path / "sub-001" / "anat" / "sub-001_seg-als_desc-roi_Chimap.tsv"
    path.write_text("\n".join(line for line in path.read_text().splitlines() if "\tpallidum\t" not in line) + "\n")
    columns = [c for c in table(write_group_report(tmp_path))[0] if c.startswith("chi_")]
    assert columns[:2] == ["chi_pallidum_L", "chi_pallidum_R"]
    assert columns[-1].removeprefix("chi_").rpartition("_")[0] not in EXPECTED


@pytest.fixture(scope="module")
def whole_atlas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of 200 subjects with every region of the atlas."""
    return write_group_report(atlas_tree(tmp_path_factory.mktemp("whole"), 200)).path


def test_the_page_of_a_large_study_stays_small(whole_atlas):
    html = whole_atlas.read_text()
    assert len(html.encode()) < 15e6
    page = re.sub(r'<script type="application/json".*?</script>', "", html, flags=re.S)
    assert len(page) < len(html) and page.count("<a ") > 10_000
    assert len(re.findall(r'<a (?![^>]*tabindex="-1")', page)) < 1000, "places where the tab key stops"


CHOOSE = """(() => { const e = document.getElementById("further");
  e.value = [...e.options].find((o) => o.textContent === "%s").value; e.dispatchEvent(new Event("change")); })()"""
FAINT = "document.querySelectorAll('#further-strip [data-row].off').length"


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium to open the page in")
def test_a_further_region_is_chosen_drawn_and_filtered(whole_atlas, tmp_path):
    with Browser(tmp_path / "profile") as browser, browser.page(whole_atlas, 1440) as page:
        assert page.errors == []
        points = "document.querySelectorAll('#further-strip [data-row]').length"
        assert page.evaluate(points) == 0
        page.evaluate(CHOOSE % "left insula")
        assert page.evaluate(points) == 200
        assert page.evaluate("document.querySelector('#further-strip figcaption').textContent") == "left insula (ppb)"
        assert page.evaluate("document.querySelector('#further-strip a.far').getAttribute('href')") == "sub-200.html"
        page.evaluate("(() => { const e = document.getElementById('words'); e.value = 'sub-20'; "
                      "e.dispatchEvent(new Event('input')); })()")  # fmt: skip
        assert page.evaluate(FAINT) == 199
        page.evaluate(CHOOSE % "brainstem")
        assert page.evaluate(FAINT) == 199
        page.evaluate("(() => { const e = document.getElementById('further'); e.value = ''; "
                      "e.dispatchEvent(new Event('change')); })()")  # fmt: skip
        assert page.evaluate(points) == 0


def numbers(svg: str) -> list[str]:
    return re.findall(r'<text [^>]*y="82"[^>]*>([^<]*)</text>', svg)


def test_a_strip_holds_its_limit_and_ends_where_values_end():
    near = strip(
        [Point(0, 40.0, "a", "", "pass", False), Point(1, 41.0, "b", "", "pass", False)], kept=[15.0], least_width=8.0
    )
    assert near.count('class="bound"') == 1 and len(numbers(near)) == 1 and ">15</text>" in near
    counts = [Point(n, 0.0, "a", "", "pass", False) for n in range(2)]
    assert numbers(strip(counts, possible=(0.0, None), least_width=2.0, digits=0)) == ["0", "2"]
    shares = [Point(n, v, "a", "", "pass", False) for n, v in enumerate((99.0, 100.0))]
    assert numbers(strip(shares, possible=(0.0, 100.0), least_width=20.0, digits=0)) == ["80", "100"]
    volumes = [Point(n, v, "a", "", "pass", False) for n, v in enumerate((1462.0, 1680.0))]
    assert numbers(strip(volumes, digits=0)) == ["1462", "1680"]
    small = strip([Point(0, 0.001, "a", "", "pass", False)], kept=[50.0], least_width=0.02, digits=2)
    assert 'class="bound"' not in small and "check 50.00 →" in small


def test_every_limit_has_its_number_and_its_kind():
    points = [Point(n, v, "a", "", "pass", False) for n, v in enumerate((0.0, 10.0))]
    svg = strip(points, kept=[-2.0, 2.0, 3.0], bounds=[-2.5, 2.5], digits=1)
    assert svg.count('<line class="bound"') == 3 and svg.count('<line class="bound worst"') == 2
    found = re.findall(r'<text class="limit( worst)?" x="([\d.]+)" [^>]*>([^<]*)<', svg)
    assert [(w, n) for w, _, n in found] == [
        *((" worst", "−2.5"), ("", "−2.0"), ("", "2.0"), (" worst", "2.5"), ("", "3.0"))
    ]
    places = [float(x) for _, x, _ in found]
    assert all(b - a >= 4 * LETTER for a, b in pairwise(places)) and places[0] > 0 and places[-1] < 360


def test_numbers_of_participants_are_told_from_words(tmp_path):
    for n in (1, 2, 3):
        make_scan(tmp_path, f"sub-0{n}")
    people = {"sub-01": {"age": "n/a", "site": "7"}, "sub-02": {"age": "9.5", "site": "B"}, "sub-03": {"age": "61"}}
    html = write_group_report(tmp_path, people=people).path.read_text()
    assert html.count('<td class="number k-person"') == 3 and html.count('<td class="word k-person"') == 3
    assert '<td class="number k-person" data-sort="">n/a</td>' in html


def test_a_study_whose_subjects_all_failed_has_a_page(tmp_path):
    bids, out = tmp_path / "bids", tmp_path / "out"
    bids.mkdir()
    for label in ("01", "02"):
        write_facts(out, f"sub-{label}", {"status": "failed", "errors": [{"step": "unwrap", "message": "killed"}]})
    assert main([str(bids), str(out), "group"]) == 5
    html = (out / "group.html").read_text()
    assert html.count("Unwrap failed: killed.") >= 2 and not list((out / "group").glob("seg-*"))


def one(root: Path, prefix: str, run: str, **facts) -> None:
    """A scan that a run of its own made."""
    make_scan(root, prefix)
    (root / "sub-01/log/20260101" / f"{prefix}_facts.json").unlink()
    write_facts(root, prefix, FACTS | {"detected": [], "warnings": []} | facts, run=run)


def test_a_run_of_one_session_says_nothing_of_the_others(tmp_path):
    one(tmp_path, "sub-01_ses-A", "20260101", warnings=["low effort"], parameters={"unwrap": {"method": "laplacian"}})
    one(tmp_path, "sub-01_ses-B", "20260102", errors=[{"step": "save to MNI", "message": "killed", "traceback": "at"}])
    one(tmp_path, "sub-01_ses-C", "20260103")
    write_facts(tmp_path, "sub-01_ses-D", {"status": "failed", "errors": [{"step": "unwrap", "message": "boom"}]})
    rows = {row.name: row.verdict for row in write_group_report(tmp_path).rows}
    words = {name.split()[1]: verdict.word for name, verdict in rows.items()}
    assert words == {"ses-A": "check", "ses-B": "fail", "ses-C": "pass", "ses-D": "fail"}
    written = write_subject_report(tmp_path, "01", run_facts={"run": "20260103"}, hurry=True)
    html = written.path.read_text()
    assert "sub-01_ses-B: Save to MNI failed: killed." in [reason.text for reason in written.verdict.reasons]
    assert 'id="sub-01_ses-A-parameters"' in html and "laplacian" in html and 'id="parameters"' not in html


def test_what_all_scans_have_is_told_once(tmp_path):
    for session in "AB":
        one(tmp_path, f"sub-01_ses-{session}", "20260101", warnings=["low effort"])
    written = write_subject_report(tmp_path, "01", run_facts={}, hurry=True)
    assert [reason.text for reason in written.verdict.reasons] == ["Low effort."]
    assert written.path.read_text().count("<li>low effort</li>") == 1
    assert 'id="parameters"' in written.path.read_text()


@pytest.mark.parametrize(
    ("sessions", "expected"),
    [(["B"], [("sub-01", "fail"), ("sub-01 ses-A", "pass")]), (["A", "B"], [("sub-01 ses-A", "fail")])],
)
def test_a_refused_run_fails_the_sessions_that_it_was_about(tmp_path, sessions, expected):
    one(tmp_path, "sub-01_ses-A", "20260101")
    log = tmp_path / "sub-01/log/20260102"
    log.mkdir()
    refusal = {"sessions": sessions, "errors": [{"step": "Input check", "message": "no EchoTime"}]}
    (log / "run.json").write_text(json.dumps(refusal))
    rows = write_group_report(tmp_path).rows
    assert [(row.name, row.verdict.word) for row in rows] == expected


def test_a_column_of_participants_does_not_hide_one_of_the_table(tmp_path):
    one(tmp_path, "sub-01_ses-A", "20260101")
    people = {"sub-01": {"verdict": "7", "age": "50"}}
    written = write_group_report(tmp_path, people=people, dictionary={"age": {"Units": "years"}})
    (row,) = table(written)
    assert row["verdict"] == "pass" and row["participants_verdict"] == "7"
    described = json.loads(written.table.with_suffix(".json").read_text())
    assert list(described) == list(row) and described["age"] == {"Units": "years"}


def test_the_page_lists_every_failure(tmp_path):
    one(tmp_path, "sub-01_ses-A", "20260101", errors=[{"step": "unwrap", "message": "boom"}])
    html = write_group_report(tmp_path).path.read_text()
    listed = html.split("Missing and failed")[1].split("In doubt")[0]
    assert "sub-01 ses-A" in listed and "None" not in listed


def test_the_methods_of_a_study_come_from_all_its_subjects(tmp_path):
    """Each subject's run wrote its own text, as tasks of a cluster do; the group level joins them."""
    for n, unwrap in enumerate(("ROMEO", "ROMEO", "Laplacian"), 1):
        mapping = f"### Mapping\n\n{unwrap}.\n\n### References\n\n- {unwrap} 1.\n"
        bibtex = f"@article{{{unwrap},\n  year = {{1}}\n}}\n"
        text = f"## Methods\n\n### Overview\n\nBy us.\n\n{mapping}"
        make_scan(tmp_path, f"sub-{n:02d}", facts={"methods": text, "bibtex": bibtex})
    collect_citation(tmp_path, ["sub-01", "sub-02", "sub-03", "sub-04"])
    text = (tmp_path / "logs/CITATION.md").read_text()
    assert text == (
        "## Methods\n\n### Overview\n\nBy us.\n\n### Mapping\n\nROMEO.\n\n"
        "In 1 of 3 scans (sub-03) instead: Laplacian.\n\n### References\n\n- Laplacian 1.\n- ROMEO 1.\n"
    )
    assert (tmp_path / "logs/CITATION.bib").read_text().count("@article") == 2
    make_scan(tmp_path, "sub-05", facts={"methods": ""})
    collect_citation(tmp_path, ["sub-05"])
    assert (tmp_path / "logs/CITATION.md").read_text() == text, "a scan that says nothing leaves the text as it is"
