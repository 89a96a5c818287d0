"""Pictures of mistakes, and what the page's script does with them in a real browser."""

import base64
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.tools.browser import CHROMIUM, Browser
from triptych.tools.compare.content import Comparison
from triptych.tools.compare.pictures import ImageByImage, Picture, rank_images
from triptych.tools.report import images

SHOWN = """[...document.querySelectorAll("#pictures li")].map((each) =>
  each.querySelector("img").alt.split(",")[0].replace("Test image ", ""))"""
CHOOSE = """(([name, value]) => {
  const field = document.querySelector("#filters").elements[name];
  field.value = value;
  field.dispatchEvent(new Event("change", { bubbles: true }));
})"""


def test_a_large_picture_becomes_small_and_a_small_one_is_recognised() -> None:
    for shape, shown in (((32, 32), (32, 32)), ((96, 90), (96, 90)), ((500, 250), (96, 48))):
        rows, columns = np.indices(shape)
        pixels = np.stack([rows % 256, columns % 256, (rows + columns) // 4]).astype(np.uint8)
        url = images.encode_picture(pixels)
        written = Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))
        assert (written.height, written.width) == shown
        if shape == shown:
            difference = np.asarray(written).transpose(2, 0, 1).astype(int) - pixels
            assert abs(difference).mean() < 8


def test_pictures_fit_the_page_and_the_first_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (9, 3, 40, 40), dtype=np.uint8)
    pictures = [Picture(str(n), pixels, 0, "cat") for n, pixels in enumerate(noise)]
    size = sum(len(url) for _, url in images.encode_pictures(pictures[:4]))
    monkeypatch.setattr(images, "MAX_BYTES", size)
    assert [each.name for each, _ in images.encode_pictures(pictures)] == list("0123")


def test_what_divides_networks_and_what_all_get_wrong_come_by_turns() -> None:
    right = np.array([[1, 0, 0, 0, 1, 0], [1, 0, 1, 0, 0, 0]], dtype=bool)
    confidence = np.array([[0.9, 0.2, 0.3, 0.8, 0.5, 0.1], [0.9, 0.1, 0.9, 0.1, 0.7, 0.6]])
    assert rank_images(right, confidence).tolist() == [4, 3, 2, 5, 1, 0]


@pytest.fixture(scope="module")
def browser(html: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("chromium is not installed")
    folder = tmp_path_factory.mktemp("browser")
    (folder / "index.html").write_text(html)
    with Browser(folder / "profile") as browser:
        browser.open(f"file://{folder}/index.html")
        yield browser
        assert browser.errors == []


@pytest.fixture
def known(browser: Browser, comparison: Comparison) -> ImageByImage:
    """What the page was made from; its filters are as they were at first."""
    browser.open(browser.run("location.href"))
    assert comparison.images is not None
    return comparison.images


def choose(browser: Browser, **filters: object) -> set[str]:
    for name, value in filters.items():
        browser.run(f"{CHOOSE}({[name, str(value)]!r})")
    while browser.run('!document.querySelector("#pictures + button").hidden'):
        browser.run('document.querySelector("#pictures + button").click()')
    return set(browser.run(SHOWN))


def find(known: ImageByImage, fits: Any) -> set[str]:
    return {
        picture.name
        for picture in known.pictures
        if fits(picture.label, [each.label for each in picture.predictions])
    }


def test_filters_show_the_pictures_that_fit_and_count_them(
    browser: Browser, known: ImageByImage
) -> None:
    assert len(browser.run(SHOWN)) == 24
    assert browser.run("document.querySelector('#count').textContent").startswith("24 of 100 ")
    none = find(known, lambda true, labels: true not in labels)
    assert choose(browser, kind="none") == none != set()
    divided = find(known, lambda true, labels: true in labels and set(labels) != {true})
    assert choose(browser, kind="split") == divided != set()
    pair = find(known, lambda true, labels: labels[1] == true != labels[2])
    assert choose(browser, kind="pair", a=1, b=2) == pair != set()
    chosen = find(known, lambda true, labels: true == labels[2] == 9)
    found = choose(browser, kind="all", truth=9, predicted=9, network=2)
    assert found == chosen != set()
    sure = choose(browser, kind="sure", truth="", predicted="", network=0)
    assert sure == find(known, lambda true, labels: labels[0] != true)


def test_a_cell_opens_its_images_and_keys_move_and_enlarge(
    browser: Browser, known: ImageByImage
) -> None:
    pairs = [(each.label, each.predictions[0].label) for each in known.pictures]
    cell = next((true, predicted) for true, predicted in pairs if true != predicted)
    row, column = cell
    place = f"rows[{row}].cells[{column + 1}].firstChild"
    browser.run(f'document.querySelector(".confusion tbody").{place}.click()')
    assert set(browser.run(SHOWN)) == find(known, lambda true, labels: (true, labels[0]) == cell)
    choose(browser, truth="", predicted="", network="")
    first, second = known.pictures[:2]
    browser.run("document.querySelector('#pictures button').focus()")
    focused = "document.activeElement.querySelector('img').alt"
    browser.press("ArrowRight")
    assert second.name in browser.run(focused)
    browser.press("Enter")
    opened = browser.run("document.querySelector('dialog[open]').innerText")
    assert second.name in opened
    assert all(network in opened for network in known.networks)
    assert f"{100 * second.predictions[0].confidence:.1f}" in opened
    browser.press("ArrowLeft", "Escape")
    assert first.name in browser.run(focused)


def test_two_other_matrices_are_subtracted_as_the_first_two_were(
    browser: Browser, known: ImageByImage, comparison: Comparison
) -> None:
    read = '[...document.querySelectorAll("#difference .heat td")].map((each) => each.textContent)'
    before = browser.run(read)
    select = 'document.querySelector("#choose").querySelectorAll("select")'
    change = f"({select}[%d].value = %d, {select}[%d].dispatchEvent(new Event('change')))"
    browser.run(change % (1, 2, 1))
    assert browser.run(read) != before
    visible = (
        '[...document.querySelectorAll("#matrices .confusion")].filter((each) => !each.hidden)'
    )
    shown = browser.run(f"{visible}.map((each) => each.querySelector('caption').innerText)")
    assert shown == [comparison.recipes[place].label for place in (0, 2)]
    browser.run(change % (1, 1, 1))
    assert browser.run(read) == before
