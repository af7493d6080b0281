"""Both pages in a real browser, opened from disk: nothing is asked for elsewhere, and everything works."""

import json
import random
import re
from pathlib import Path

import pytest

from qsmals.reports.group import write_group_report
from qsmals.reports.subject import write_subject_report
from tests.browser import CHROMIUM, EXCESS, Browser, Page, assert_whole
from tests.report_trees import CLEAN, FACTS, RUN, make_scan, write_facts, write_quality

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium to open the pages in")
WIDTHS = (360, 1440)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Browser:
    with Browser(tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two subjects, one of them failed, with their pages and the study's."""
    root = tmp_path_factory.mktemp("pages")
    make_scan(root, "sub-01")
    error = {"step": "unwrap", "message": "it was killed", "traceback": "Traceback\n  " + "x" * 300}
    write_facts(root, "sub-02", {"status": "failed", "errors": [error]})
    for label in ("01", "02"):
        write_subject_report(root, label, run_facts=RUN)
    write_group_report(root, people={f"sub-0{n}": {"age": age} for n, age in enumerate(("n/a", "100", "61", "9"), 1)})
    return root


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["sub-01", "sub-02", "group"])
def test_a_page_is_whole(browser, tree, name, width):
    with browser.page(tree / f"{name}.html", width) as page:
        assert page.evaluate("innerWidth") == width
        assert_whole(page)
        page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
        assert page.evaluate(EXCESS) <= 0


HIDDEN = """[...document.querySelectorAll("nav a")].filter((a) => { const b = a.getBoundingClientRect();
  const n = a.closest("nav").getBoundingClientRect();
  return b.left < n.left || b.right > Math.min(n.right, innerWidth) || b.bottom > n.bottom; })
  .map((a) => a.textContent)"""


@pytest.mark.parametrize("width", [*WIDTHS, 800])
@pytest.mark.parametrize("name", ["sub-01", "group"])
def test_every_entry_of_the_bar_is_seen(browser, tree, name, width):
    with browser.page(tree / f"{name}.html", width) as page:
        assert page.evaluate("document.querySelectorAll('nav a').length") >= 4
        assert page.evaluate(HIDDEN) == []


def means(page: Page, selector: str, column: int) -> list[str]:
    found: list[str] = page.evaluate(
        f"[...document.querySelectorAll('{selector} tbody tr')].map((r) => r.cells[{column}].textContent)"
    )
    return found


def test_the_region_table_sorts_both_ways(browser, tree):
    with browser.page(tree / "sub-01.html", 1440) as page:
        click = "document.querySelectorAll('.regions th button')[6].click()"
        page.evaluate(click)
        up = means(page, ".regions", 6)
        page.evaluate(click)
        down = means(page, ".regions", 6)
        values = [float(v.replace("−", "-")) for v in up[:-1]]
        assert up[-1] == down[-1] == "n/a" and values == sorted(values)
        assert [float(v.replace("−", "-")) for v in down[:-1]] == values[::-1]


def test_the_name_heads_its_row_and_stays_in_view(browser, tree):
    with browser.page(tree / "sub-01.html", 360) as page:
        head = "document.querySelector('.regions tbody th')"
        left = f"({head}.getBoundingClientRect().left - {head}.closest('.scroll').getBoundingClientRect().left)"
        page.evaluate(f"{head}.closest('.scroll').scrollLeft = 400")
        assert 0 <= page.evaluate(left) <= 2
        page.evaluate("document.querySelectorAll('.regions thead button')[1].click()")
        names = means(page, ".regions", 1)
        assert names == sorted(names)


def test_figures_stay_legible_on_a_phone(browser, tree):
    with browser.page(tree / "sub-01.html", 360) as page:
        widths = page.evaluate(
            "[...document.querySelectorAll('.wide img')].map((i) => i.getBoundingClientRect().width)"
        )
        assert min(widths) >= 500, "they scroll inside their frame instead of shrinking"


def test_every_reason_leads_to_what_shows_it(browser, tree):
    with browser.page(tree / "sub-01.html", 1440) as page:
        links = page.evaluate("[...document.querySelectorAll('.reasons a')].map((a) => a.getAttribute('href'))")
        assert links and all(page.evaluate(f"Boolean(document.getElementById({json.dumps(i[1:])}))") for i in links)


def test_the_flicker_turns_and_can_be_stopped(browser, tree):
    with browser.page(tree / "sub-01.html", 1440) as page:
        second = "document.querySelector('.stack').classList.contains('second')"
        wait = "new Promise((d) => setTimeout(() => d(%s), 1100))"
        before = page.evaluate(second)
        assert page.evaluate(wait % second) != before
        page.evaluate("document.querySelector('.flicker button').click()")
        stopped = page.evaluate(second)
        assert page.evaluate(wait % second) == stopped
        assert page.evaluate("document.querySelector('.flicker button').textContent") == "Play"
        assert not page.evaluate("document.querySelector('.flicker button').hasAttribute('aria-pressed')")


def test_a_region_is_found_by_its_name(browser, tree):
    with browser.page(tree / "sub-01.html", 1440) as page:
        shown = "[...document.querySelectorAll('.regions tbody tr')].filter((r) => r.offsetParent !== null).length"
        every = page.evaluate(shown)
        page.evaluate(SET.format("'.find input'", "'puta r'"))
        assert page.evaluate(shown) == 1 < every
        page.evaluate(SET.format("'.find input'", "''"))
        assert page.evaluate(shown) == every


def test_the_methods_text_can_be_copied(browser, tree):
    with browser.page(tree / "sub-01.html", 1440) as page:
        page.evaluate("document.addEventListener('copy', () => { window.taken = getSelection().toString(); })")
        box = page.evaluate(
            "(() => { const e = document.querySelector('[data-copy]'); e.scrollIntoView({block: 'center'});"
            " const b = e.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2]; })()"
        )
        page.click(*box)
        assert page.evaluate("document.querySelector('[data-copy]').textContent") == "Copied"
        assert "Phase was unwrapped well" in page.evaluate("window.taken")


BOX = """(() => { const b = document.querySelector("canvas").getBoundingClientRect();
  return [b.x, b.y, b.width, b.height]; })()"""
SET = """(() => {{ const e = document.querySelector({}); e.value = {};
  for (const name of ["input", "change"]) e.dispatchEvent(new Event(name)); }})()"""
PIXELS = """(() => { const c = document.querySelector("canvas");
  const d = c.getContext("2d").getImageData(0, 0, c.width, c.height).data;
  let sum = 0; for (let i = 0; i < d.length; i += 4) sum += d[i] * (i % 9973); return sum; })()"""


def test_the_viewer_moves_and_fades(browser, tree):
    path = next((tree / "sub-01/figures").glob("*_desc-viewer_Chimap.html"))
    with browser.page(path, 1000) as page:
        assert page.errors == []
        assert [u for u in page.requests if not u.startswith(("file:", "data:"))] == []
        page.evaluate("new Promise((d) => setTimeout(d, 500))")
        first = page.evaluate(PIXELS)
        assert first > 0, "something is drawn"
        box = page.evaluate(BOX)
        page.click(box[0] + 0.12 * box[2], box[1] + 0.45 * box[3])
        page.evaluate("new Promise((d) => setTimeout(d, 300))")
        moved = page.evaluate(PIXELS)
        assert moved != first
        page.evaluate(SET.format("'input[type=range]'", "'0'"))
        page.evaluate("new Promise((d) => setTimeout(d, 300))")
        assert page.evaluate(PIXELS) != moved


def test_the_viewer_names_what_lies_under_the_cross(browser, tree):
    path = next((tree / "sub-01/figures").glob("*_desc-viewer_Chimap.html"))
    with browser.page(path, 1000) as page:
        page.evaluate("new Promise((d) => setTimeout(d, 800))")
        words = "document.getElementById('at').textContent"
        assert re.fullmatch(r"[a-z ]+: −?\d+ ppb, at (−?\d+, ){2}−?\d+ mm", page.evaluate(words))
        assert not page.evaluate(words).startswith("no region")
        assert page.evaluate("document.querySelector('input.slider').value") == "15"
        assert "Regions" in page.evaluate("document.body.innerText")
        box = page.evaluate(BOX)
        page.click(box[0] + 0.005 * box[2], box[1] + 0.5 * box[3])
        assert page.evaluate(words).startswith("outside the map, at ")


def test_ages_sort_as_numbers(browser, tree):
    with browser.page(tree / "group.html", 1440) as page:
        page.evaluate("document.querySelectorAll('table.study th button')[2].click()")
        assert means(page, "table.study", 0) == ["sub-04", "sub-03", "sub-02", "sub-01"]


def test_a_page_can_be_printed(browser, tree):
    with browser.page(tree / "sub-01.html", 1440) as page:
        assert page.pdf().startswith(b"%PDF")


PAPER = 1030
"""Width of a landscape sheet of A4 less its margins, CSS pixels."""
CUT = """[...document.querySelectorAll("table")].filter((t) => t.offsetParent !== null
  && t.getBoundingClientRect().right > innerWidth).map((t) => t.className)"""
HEADS = """[...document.querySelectorAll("{} thead th")].filter((h) => h.offsetParent !== null)
  .map((h) => getComputedStyle(h, "::before").content.replaceAll('"', ""))"""


def test_no_table_is_cut_on_paper_and_heads_have_words(browser, tree):
    with browser.page(tree / "sub-01.html", PAPER) as page:
        page.print_style()
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert page.evaluate(CUT) == []
        heads = page.evaluate(HEADS.format(".regions"))
        assert {"name", "hemisphere", "coverage", "mean (ppb)", "sd (ppb)", "wm_contrast (ppb)"} <= set(heads)
        assert "skewness" not in heads and "" not in heads
        assert page.evaluate("[...document.querySelectorAll('figure:has(iframe)')].every((f) => !f.offsetParent)")


def test_the_study_on_paper_says_where_the_rest_is(browser, large):
    with browser.page(large / "group.html", PAPER) as page:
        page.print_style()
        assert page.evaluate(CUT) == []
        heads = page.evaluate(HEADS.format(".study"))
        assert heads[:3] == ["Subject", "Verdict", "SNR of the first echo"] and len(heads) < 12
        assert "all measures and regions are in group/desc-qc_Chimap.tsv" in page.evaluate("document.body.innerText")


TOP = """(() => {{ location.hash = "{0}";
  return new Promise((d) => setTimeout(() => d([document.getElementById("{0}").getBoundingClientRect().top,
    document.querySelector("nav").getBoundingClientRect().bottom]), 300)); }})()"""


@pytest.mark.parametrize("width", [800, 1440])
def test_a_link_opens_what_it_leads_to_below_the_bar(browser, tree, width):
    with browser.page(tree / "sub-01.html", width) as page:
        last = "[...document.querySelectorAll('details[id]')].at(-1)"
        name = page.evaluate(f"{last}.id")
        page.evaluate(f"{last}.open = false")
        for target in (name, "sub-01-phase"):
            top, bar = page.evaluate(TOP.format(target))
            assert bar <= top < bar + 60, target
        assert page.evaluate(f"{last}.open")


def test_numbers_are_not_broken_on_a_phone(browser, tree):
    with browser.page(tree / "sub-01.html", 360) as page:
        wrap = "getComputedStyle(e).overflowWrap"
        assert page.evaluate(f"[...document.querySelectorAll('.plain td')].every((e) => {wrap} !== 'anywhere')")
        inside = (
            "[...document.querySelectorAll('.card .scroll')].map((s) => s.scrollWidth - s.clientWidth)"
            ".every((excess) => excess <= 0)"
        )
        assert page.evaluate(inside), "the reference table needs no scrolling"
        assert page.evaluate("document.querySelector('.regions tbody th').getBoundingClientRect().width") <= 130


def test_the_planes_stand_one_below_the_other_on_a_phone(browser, tree):
    path = next((tree / "sub-01/figures").glob("*_desc-viewer_Chimap.html"))
    with browser.page(path, 330) as page:
        page.evaluate("new Promise((d) => setTimeout(d, 800))")
        boxes = page.evaluate(
            "[...document.querySelectorAll('#stacked canvas')].map((c) => c.getBoundingClientRect())"
            ".map((b) => [b.left, b.top, b.width, b.height])"
        )
        assert len(boxes) == 3 and all(width > 200 for _, _, width, _ in boxes)
        assert boxes[0][1] < boxes[1][1] < boxes[2][1] and page.evaluate(EXCESS) <= 0
        words = "document.getElementById('at').textContent"
        before = page.evaluate(words)
        left, top, width, height = boxes[0]
        page.click(left + 0.3 * width, top + 0.4 * height)
        assert page.evaluate(words) != before and page.errors == []


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of 200 subjects, one of them far from the others: measures and tables only."""
    root = tmp_path_factory.mktemp("large")
    rng = random.Random(0)
    header = "name\themisphere\tmean\tcoverage"
    for n in range(1, 201):
        name = f"sub-{n:03d}"
        anat = root / name / "anat"
        measures = {key: value * (1 + rng.gauss(0, 0.004)) for key, value in CLEAN.items()}
        write_quality(anat, name, **measures | ({"streaking": 2.0} if n == 77 else {}))
        lines = [
            f"{region}\t{side}\t{mean + rng.gauss(0, 0.003):.5f}\t1"
            for region, mean in (("pallidum", 0.11), ("putamen", 0.05), ("caudate", 0.04), ("precentral", 0.02))
            for side in ("L", "R")
        ]
        (anat / f"{name}_seg-als_desc-roi_Chimap.tsv").write_text("\n".join([header, *lines]) + "\n")
        write_facts(root, name, FACTS | {"warnings": [], "detected": []})
        (root / f"{name}.html").write_text("page")
    write_group_report(root)
    return root


def test_two_hundred_subjects_make_one_page(browser, large):
    with browser.page(large / "group.html", 1440) as page:
        assert_whole(page)
        assert page.evaluate("document.querySelectorAll('table.study tbody tr').length") == 200


def test_the_study_is_sorted_filtered_and_its_outlier_found(browser, large):
    with browser.page(large / "group.html", 1440) as page:
        shown = "[...document.querySelectorAll('table.study tbody tr')].filter((r) => r.offsetParent !== null).length"
        page.evaluate(SET.format("'#words'", "'sub-07'"))
        assert page.evaluate(shown) == 10
        assert page.evaluate("document.getElementById('shown').textContent") == "10 of 200 shown"
        page.evaluate(SET.format("'#words'", "''"))
        page.evaluate(SET.format("'#word'", "'pass'"))
        assert page.evaluate(shown) == 0, "none passes: their maps are not there"
        page.evaluate(SET.format("'#word'", "''"))
        outlier = "[...document.querySelectorAll('.strip')].find((f) => f.textContent.startsWith('Streaking'))"
        assert page.evaluate(f"{outlier}.querySelector('a.far').getAttribute('href')") == "sub-077.html"
        heads = "[...document.querySelectorAll('table.study th')]"
        column = page.evaluate(f"{heads}.findIndex((h) => h.textContent.startsWith('Streaking'))")
        for _ in range(2):
            page.evaluate(f"document.querySelectorAll('table.study th button')[{column}].click()")
        assert means(page, "table.study", 0)[0] == "sub-077"
        page.evaluate("document.querySelector('[data-kind=measure]').click()")
        assert page.evaluate("getComputedStyle(document.querySelector('td.k-measure')).display") == "none"
