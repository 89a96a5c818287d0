"""The page in a real browser: by keyboard, by dropping, on a phone, in dark mode, with errors."""

import base64
import io
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from tests.tools.browser import CHROMIUM, Browser
from tests.tools.serve.conftest import CLASSES, configure
from tests.tools.serve.test_connections import serve_app
from triptych.tools.compare.runs import Problem
from triptych.tools.serve.networks import NetworkGroup

service = pytest.importorskip("triptych.tools.serve.service", reason="uvicorn is missing")

HOSTILE = "<img src=x onerror=\"document.documentElement.id='hacked'\">" + "long" * 40
DONE = "document.querySelector('#results').ariaBusy === 'false'"
FOCUSED = "document.activeElement.id || document.activeElement.dataset.label"
SUMMARY = "document.querySelector('#summary').textContent"
PROBLEM = "document.querySelector('#problem').textContent"
DROP = """(() => {
  const dataTransfer = new DataTransfer();
  const bytes = Uint8Array.from(atob("%s"), (letter) => letter.charCodeAt(0));
  dataTransfer.items.add(new File([bytes], "image"));
  document.querySelector("h1").dispatchEvent(
    new DragEvent("drop", { dataTransfer, bubbles: true, cancelable: true }));
})()"""


@pytest.fixture(scope="module")
def url(group: NetworkGroup, answering: NetworkGroup) -> Iterator[str]:
    """A page of the planted networks; /1, where everything has a hostile name; and /2, where these
    answer with sets of classes or "none of these"."""
    networks = tuple(replace(n, name=f"{n.name} {HOSTILE}") for n in group.networks)
    classes = tuple(f"{name} {HOSTILE}" for name in CLASSES)
    hostile = replace(group, data=(HOSTILE,), networks=networks, classes=classes)
    thresholds = [n.thresholds for n in answering.networks]
    answers = tuple(
        replace(n, thresholds=t and replace(t, classes=classes))
        for n, t in zip(networks, thresholds, strict=True)
    )
    groups = [group, hostile, replace(hostile, networks=answers)]
    app = service.Service(groups, [Problem(HOSTILE, HOSTILE)], configure()).app
    with serve_app(service.Gate(app)) as (port, _):
        yield f"http://127.0.0.1:{port}/"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("chromium is not installed")
    with Browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser
        # The rejected image, where this process tests it: tests may be shared out.
        assert set(browser.errors) <= {REJECTION}


REJECTION = (
    "Failed to load resource: the server responded with a status of 415 (Unsupported Media Type)"
)


def drop(browser: Browser, content: bytes) -> None:
    browser.run(DROP % base64.b64encode(content).decode())


def test_an_example_is_chosen_and_predicted_by_keyboard_alone(browser: Browser, url: str) -> None:
    browser.open(url)
    order = []
    for _ in range(7):
        browser.press("Tab")
        order.append(browser.run(FOCUSED))
    labels = "[...document.querySelectorAll('.examples button')].map((b) => b.dataset.label)"
    expected = ["choose", *browser.run(labels)[:2]]
    assert order[4:] == expected, "behind the skip link and three groups"
    outlined = "getComputedStyle(document.activeElement).outlineStyle"
    assert browser.run(outlined) == "solid"
    chosen = browser.run("document.activeElement.dataset.label")
    browser.press("Enter")
    browser.until(DONE)
    assert browser.run(SUMMARY).endswith(f" {chosen}.")
    assert browser.run("document.querySelector('[role=status]').contains(summary)")
    assert browser.run("document.activeElement.ariaPressed") == "true", "the focus has not moved"
    assert browser.run("document.querySelectorAll('article ol li').length") == 2 * 5
    shown = "[...document.querySelectorAll('.photo')].map((p) => p.checkVisibility())"
    assert browser.run(shown) == [True, True]
    heat = "[...document.querySelectorAll('.heat')].filter((h) => h.checkVisibility()).length"
    before = browser.run(heat)
    assert before > 0
    browser.run("document.querySelector('#heat').focus()")
    browser.press(" ")
    assert browser.run(heat) == 0
    browser.press(" ")
    assert browser.run(heat) == before


def test_an_image_is_dropped_and_a_file_that_is_none_clears_its_predictions(
    browser: Browser, url: str
) -> None:
    browser.open(url)
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((20, 60, 3), np.uint8)).save(buffer, "TIFF")
    drop(browser, buffer.getvalue())
    browser.until(DONE)
    assert browser.run(SUMMARY).endswith(".")
    assert "label" not in browser.run(SUMMARY)
    assert browser.run("document.querySelector('.photo').naturalWidth") == 60
    drop(browser, b"no image")
    browser.until(PROBLEM)
    assert browser.run(PROBLEM).startswith("The file cannot be read: no image")
    assert browser.run("document.querySelector('#problem').role") == "alert"
    assert browser.run("document.querySelectorAll('article li').length") == 0
    assert not browser.run("document.querySelector('.photo').checkVisibility()")


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("place", [1, 2])
def test_hostile_names_are_text_and_nothing_is_wider_than_the_screen(
    browser: Browser, url: str, place: int, width: int
) -> None:
    browser.open(f"{url}{place}", width)
    browser.run("document.querySelector('.examples button').click()")
    browser.until(DONE)
    browser.run("document.querySelector('details').open = true")
    assert HOSTILE in browser.run("document.querySelector('article ol').textContent")
    answers = browser.run("[...document.querySelectorAll('.answer')].map((a) => a.textContent)")
    shown = "[...document.querySelectorAll('.answer')].map((a) => a.checkVisibility())"
    assert browser.run(shown) == [place == 2] * 2
    assert [*map(bool, answers)] == [place == 2] * 2
    assert ("100 validation images" in browser.run("document.body.textContent")) == (place == 2)
    assert browser.run("document.documentElement.id") == ""
    beyond = """[...document.querySelectorAll("body *")]
        .filter((each) => !each.closest(".box, .skip"))
        .filter((each) => each.getBoundingClientRect().right > document.documentElement.clientWidth)
        .map((each) => each.outerHTML.slice(0, 80))"""
    assert browser.run(beyond) == []
    assert browser.run("document.documentElement.scrollWidth") <= width
