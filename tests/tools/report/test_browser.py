"""The page in a real browser: at phone and desktop width, with scripts on and off."""

import base64
import csv
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.tools.browser import CHROMIUM, Browser
from triptych.tools.report.page import CONTENTS

SCREEN = {"deviceScaleFactor": 1, "mobile": False}
HOSTILE = "<img src=x onerror=\"document.documentElement.id='hacked'\">" + "long" * 40
MEASURE = """(() => {
  const root = document.documentElement;
  const all = [...document.querySelectorAll("body *")];
  const scrolls = (each) => each.closest(".box, pre, svg, nav, .skip");
  return {
    overflow: root.scrollWidth - root.clientWidth,
    beyond: all.filter((each) => !scrolls(each)
      && each.getBoundingClientRect().right > root.clientWidth + 1).map((each) => each.outerHTML
      .slice(0, 80)),
    hacked: root.id,
    headings: [...document.querySelectorAll("h2")].filter((each) => each.offsetHeight)
      .map((each) => each.textContent),
    charts: [...document.querySelectorAll(".charts svg")].map((each) => each.clientWidth)
      .filter((width) => width),
    letters: Math.min(...[...document.querySelectorAll(".charts svg text")]
      .map((each) => [each, each.closest("svg")]).filter(([, svg]) => svg.clientWidth)
      .map(([each, svg]) => parseFloat(getComputedStyle(each).fontSize)
        * svg.clientWidth / svg.viewBox.baseVal.width)),
    painted: getComputedStyle(document.querySelector(".charts svg text")).fill,
    missing: [...document.images].filter((each) => !each.naturalWidth).length,
  };
})()"""
SORT = """(() => {
  const table = document.querySelector("#runs ~ .box table");
  const head = [...table.tHead.rows[0].cells].find((each) => /accuracy/.test(each.textContent));
  const column = () => [...table.tBodies[0].rows].map((row) => row.cells[head.cellIndex].innerText);
  const button = head.querySelector("button");
  const states = [[head.getAttribute("aria-sort"), column()]];
  for (const _ of [1, 2]) {
    button.focus();
    states.push([document.activeElement === button
      && (button.click(), head.getAttribute("aria-sort")), column()]);
  }
  return states;
})()"""


@pytest.fixture(scope="module")
def browser(
    write_page: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Browser]:
    """A browser that has opened the page of runs with a hostile name."""
    if CHROMIUM is None:
        pytest.skip("chromium is not installed")
    folder = tmp_path_factory.mktemp("browser")
    (folder / "index.html").write_text(write_page(HOSTILE))
    with Browser(folder / "profile") as browser:
        browser.open(f"file://{folder}/index.html")
        yield browser
        assert browser.errors == []


def test_the_page_is_printed_on_few_sheets_and_nothing_is_wider_than_a_sheet(
    browser: Browser,
) -> None:
    paper = {"paperWidth": 8.27, "paperHeight": 11.69, "preferCSSPageSize": True}
    printed = base64.b64decode(browser.call("Page.printToPDF", **paper)["data"])
    assert 4 <= len(re.findall(rb"/Type /Page\b", printed)) <= 10  # nine, without such a name
    browser.call("Emulation.setEmulatedMedia", media="print")
    browser.call("Emulation.setDeviceMetricsOverride", width=695, height=1000, **SCREEN)
    wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert browser.run(wide) == 0
    browser.call("Emulation.setEmulatedMedia", media="")


@pytest.mark.parametrize(("width", "has_scripts"), [(360, True), (360, False), (1280, True)])
def test_every_section_fits_the_screen_and_the_name_of_a_run_is_never_executed(
    browser: Browser, width: int, has_scripts: bool
) -> None:
    browser.call("Emulation.setScriptExecutionDisabled", value=not has_scripts)
    browser.open(browser.run("location.href"), width)
    shown: dict[str, Any] = browser.run(MEASURE)
    assert (shown["overflow"], shown["beyond"]) == (0, []), "only tables scroll, in their box"
    usual = [heading for heading in shown["headings"] if heading in CONTENTS.values()]
    assert usual == list(CONTENTS.values())
    assert len(shown["charts"]) > 15
    assert min(shown["charts"]) > 250
    assert shown["letters"] > 10.5
    assert shown["painted"] != "rgb(0, 0, 0)"  # which an unknown colour would be
    assert (shown["missing"], shown["hacked"]) == (0, "")


def test_a_table_sorts_by_its_head_up_then_down(browser: Browser) -> None:
    browser.call("Emulation.setScriptExecutionDisabled", value=False)
    browser.open(browser.run("location.href"))
    (before, came), (once, up), (twice, down) = browser.run(SORT)
    assert (before, once, twice) == (None, "ascending", "descending")
    assert came != up == sorted(came, key=float)
    assert down == up[::-1]


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1280, "light")])
def test_axe_finds_nothing_serious(browser: Browser, width: int, scheme: str) -> None:
    axe = Path(os.environ.get("AXE_CORE", ""))
    if not axe.is_file():
        pytest.skip("AXE_CORE names no axe.min.js")
    media = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.call("Emulation.setEmulatedMedia", features=media)
    browser.call("Emulation.setScriptExecutionDisabled", value=False)
    browser.open(browser.run("location.href"), width)
    browser.run(f"{axe.read_text()}; 0")
    found: dict[str, Any] = browser.run("""axe.run().then((found) => ({
      passed: found.passes.length,
      violations: found.violations.filter(({impact}) => ["serious", "critical"].includes(impact))
        .map(({id, nodes}) => [id, nodes[0].html.slice(0, 200)]),
    }))""")
    assert found["passed"] > 20
    assert found["violations"] == []


CATCH = """(() => {
  window.caught = [];
  navigator.clipboard.writeText = async (text) => caught.push(text);
  URL.createObjectURL = (blob) => (caught.push(blob), "#");
  HTMLAnchorElement.prototype.click = function () { caught.push(this.download); };
})()"""
PRESS = """(async () => {
  const scope = document.querySelector("%s");
  for (const button of scope.querySelectorAll(".tools button")) {
    if ("%s".split(" ").includes(button.textContent)) button.click();
  }
  await new Promise((done) => setTimeout(done, 1500));
  return Promise.all(caught.splice(0).map((each) => (each instanceof Blob
    ? each.type === "image/png" ? `png of ${each.size > 5000}` : each.text() : each)));
})()"""


@pytest.fixture
def page(browser: Browser) -> Browser:
    browser.call("Emulation.setScriptExecutionDisabled", value=False)
    browser.open(browser.run("location.href"), 1280)
    browser.run(CATCH)
    return browser


def test_a_table_is_copied_as_markdown_latex_and_csv(page: Browser) -> None:
    markdown, latex, csv_text = page.run(PRESS % (".of-runs", "Markdown LaTeX CSV"))[:3]
    read = [*csv.reader(csv_text.splitlines())]
    assert read[0][:3] == ["network", "accuracy, %", "interval, %"]
    name, accuracy = next((row[0], row[1]) for row in read if row[0].startswith("<img"))
    assert name.startswith(HOSTILE)
    lines = markdown.splitlines()
    assert (len(lines), len(latex.splitlines())) == (len(read) + 1, len(read) + 8)
    assert lines[1].startswith("| --- | ---: |")
    assert "\\toprule" in latex
    assert "<img" not in latex.replace("$<$", "")
    shown = re.findall(r"& (\d\d\.\d\d) &", latex)
    assert f"{float(accuracy):.2f}" in shown, "CSV has the percents of its head"


def test_a_copied_name_is_neither_a_formula_nor_markup(page: Browser) -> None:
    name = "=1+[a](b)_$x$"
    page.run(f"document.querySelector('.of-runs tbody th').textContent = {name!r}")
    markdown, latex, csv_text = page.run(PRESS % (".of-runs", "Markdown LaTeX CSV"))[:3]
    assert markdown.splitlines()[2].startswith(r"| =1+\[a\](b)\_\$x\$ |")
    assert r"=1+[a](b)\_\$x\$ &" in latex
    assert [*csv.reader(csv_text.splitlines())][1][0] == f"'{name}"


def test_a_chart_is_saved_as_svg_png_and_data(page: Browser) -> None:
    svg, *rest = page.run(PRESS % (".answer .chart", "SVG PNG Data"))
    assert ElementTree.fromstring(svg).get("width")
    assert re.findall(r"var\(|currentColor", svg) == []
    assert "#0072b2" in svg
    names = {each for each in rest if each.startswith("accuracy_on")}
    assert {name.rpartition(".")[2] for name in names} == {"svg", "png", "csv"}
    [data] = [each for each in rest if each.startswith("name,")]
    rows = [*csv.reader(data.splitlines())]
    assert {len(row) for row in rows[1:]} <= {3, 5}
    assert any(row[0].startswith(HOSTILE) for row in rows)
    assert any(each.startswith("png of true") for each in rest)
