"""The page in a real browser: at phone and desktop width, with scripts on and off.

One start of Chromium opens a page of our own that holds the comparison in frames, asks each frame
what it shows, and leaves the answers in its own document.
"""

import html
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from triptych.tools.report.page import CONTENTS

CHROMIUM = shutil.which("chromium")
OPTIONS = """--headless --no-sandbox --disable-gpu --disable-background-networking --disable-sync
    --disable-component-update --no-first-run --dump-dom""".split()
FRAMES = {"phone": (360, True), "plain phone": (360, False), "desktop": (1280, True)}
HOSTILE = "<img src=x onerror=\"document.documentElement.id='hacked'\">" + "long" * 40
ASK = """
const measure = (frame) => {
  const page = frame.contentDocument, root = page.documentElement;
  const all = [...page.querySelectorAll("body *")];
  const scrolls = (each) => each.closest(".box, pre, svg, .skip");
  return {
    overflow: root.scrollWidth - root.clientWidth,
    beyond: all.filter((each) => !scrolls(each)
      && each.getBoundingClientRect().right > root.clientWidth + 1).map((each) => each.outerHTML
      .slice(0, 80)),
    hacked: root.id,
    headings: [...page.querySelectorAll("h2")].filter((each) => each.offsetHeight)
      .map((each) => each.textContent),
    charts: [...page.querySelectorAll(".charts svg")].map((each) => each.clientWidth),
    painted: getComputedStyle(page.querySelector(".charts svg text")).fill,
    missing: [...page.images].filter((each) => !each.naturalWidth).length,
  };
};
const sorted = (page) => {
  const table = page.querySelector("#runs ~ .box table");
  const head = [...table.tHead.rows[0].cells].find((each) => /accuracy/.test(each.textContent));
  const column = () => [...table.tBodies[0].rows].map((row) => row.cells[head.cellIndex].innerText);
  const button = head.querySelector("button");
  const states = [[head.getAttribute("aria-sort"), column()]];
  for (const _ of [1, 2]) {
    button.focus();
    states.push([page.activeElement === button && (button.click(), head.getAttribute("aria-sort")),
      column()]);
  }
  return states;
};
addEventListener("load", () => {
  const answers = {};
  for (const frame of document.querySelectorAll("iframe")) answers[frame.title] = measure(frame);
  answers.sorted = sorted(document.querySelector("iframe[title=desktop]").contentDocument);
  document.querySelector("output").textContent = JSON.stringify(answers);
});
"""


def frame(title: str, shown: str) -> str:
    width, scripts = FRAMES[title]
    sandbox = "allow-same-origin allow-scripts" if scripts else "allow-same-origin"
    return (
        f'<iframe title="{title}" sandbox="{sandbox}" style="border:0;width:{width}px;height:800px"'
        f' srcdoc="{html.escape(shown)}"></iframe>'
    )


@pytest.fixture(scope="module")
def answers(
    write_page: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """What every frame shows, and the runs before and after each of two clicks on a head."""
    if CHROMIUM is None:
        pytest.skip("chromium is not installed")
    shown = write_page(HOSTILE)
    folder = tmp_path_factory.mktemp("browser")
    frames = "".join(frame(title, shown) for title in FRAMES)
    (folder / "frames.html").write_text(f"{frames}<output></output><script>{ASK}</script>")
    done = subprocess.run(
        [CHROMIUM, *OPTIONS, f"--user-data-dir={folder / 'profile'}", folder / "frames.html"],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    found = re.search(r"<output>(.*?)</output>", done.stdout, flags=re.DOTALL)
    assert found, done.stderr
    measured: dict[str, Any] = json.loads(html.unescape(found[1]))
    return measured


@pytest.mark.parametrize("title", FRAMES)
def test_nothing_is_wider_than_the_screen_but_tables_that_scroll_in_their_box(
    answers: dict[str, Any], title: str
) -> None:
    assert (answers[title]["overflow"], answers[title]["beyond"]) == (0, [])


@pytest.mark.parametrize("title", FRAMES)
def test_every_section_is_there_and_the_name_of_a_run_is_never_executed(
    answers: dict[str, Any], title: str
) -> None:
    shown = answers[title]
    assert shown["headings"] == list(CONTENTS.values())
    assert len(shown["charts"]) > 15
    assert min(shown["charts"]) > 250
    assert shown["painted"] != "rgb(0, 0, 0)"  # which an unknown colour would be
    assert (shown["missing"], shown["hacked"]) == (0, "")


def test_a_table_sorts_by_its_head_up_then_down(answers: dict[str, Any]) -> None:
    (before, came), (once, up), (twice, down) = answers["sorted"]
    assert (before, once, twice) == (None, "ascending", "descending")
    assert came != up == sorted(came, key=float)
    assert down == up[::-1]
