import re
from collections.abc import Callable
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup

from triptych.tools.report.charts import (
    DASHES,
    MARKERS,
    NUM_STYLES,
    Axis,
    Series,
    lines,
    reliability,
    swatch,
    trade_off,
    undominated,
)
from triptych.tools.report.svg import VARIABLES

Draw = Callable[[str, str, list[Series]], Markup]
EPOCH, ACCURACY = Axis("epoch", "count"), Axis("accuracy", "percent")


def draw_lines(name: str, words: str, series: list[Series]) -> Markup:
    return lines(name, words, series, EPOCH, ACCURACY)


def draw_trade_off(name: str, words: str, series: list[Series]) -> Markup:
    return trade_off(name, words, series, Axis("parameters", "log"), ACCURACY)


EVERY_CHART = pytest.mark.parametrize("draw", [draw_lines, draw_trade_off, reliability])


def cloud(style: int | None = 0, num_points: int = 3) -> Series:
    x = np.linspace(0.5, 1, num_points)
    return Series(style, x, x, x - 0.1, x + 0.1, marked=x == x.max())


def elements(svg: str) -> list[ElementTree.Element]:
    return list(ElementTree.fromstring(svg).iter())


@EVERY_CHART
def test_a_chart_is_one_image_whose_words_a_screen_reader_says(draw: Draw) -> None:
    words = "\"x\" <b> & 'y'"
    svg = elements(draw("a", words, [cloud()]))[0]
    assert (svg.tag, svg.get("role"), svg.get("aria-label")) == ("svg", "img", words)
    assert svg.get("width") is None
    assert svg.get("viewBox") == "0 0 340 236"


@EVERY_CHART
def test_a_chart_has_no_colour_of_its_own_but_the_page_s_variables(draw: Draw) -> None:
    styled = " ".join(
        element.get("style", "") for element in elements(draw("a", "", [cloud(3), cloud(None)]))
    )
    assert re.findall(r"#[0-9a-f]{6}", styled) == []
    used = set(re.findall(r"var\(--[\w-]+\)|currentColor", styled))
    assert {"var(--series-3)", "var(--other)", "var(--rule)", "currentColor"} <= used
    assert used <= set(VARIABLES.values())


def test_text_stays_text_in_the_page_s_own_font() -> None:
    svg = elements(lines("a", "", [cloud()], Axis("a <b> $x^2$"), Axis("y")))
    texts = [element for element in svg if element.tag == "text"]
    assert {"a <b> $x^2$", "y"} <= {element.text for element in texts}
    assert not any("font-family" in element.get("style", "") for element in texts)


@EVERY_CHART
def test_ids_of_two_charts_differ_even_where_they_show_the_same(draw: Draw) -> None:
    first, second = (
        [each.get("id") for each in elements(draw(name, "", [cloud()])) if each.get("id")]
        for name in ("a", "b")
    )
    assert first
    assert len({*first, *second}) == len(first) + len(second)


@EVERY_CHART
def test_what_a_chart_refers_to_it_holds(draw: Draw) -> None:
    svg = draw("a", "", [cloud(), cloud(1)])
    referred = set(re.findall(r"(?:url\(|href=\")#(\w+)", svg))
    assert referred
    assert referred <= set(re.findall(r' id="(\w+)"', svg))


@EVERY_CHART
def test_the_same_numbers_give_the_same_bytes(draw: Draw) -> None:
    assert draw("a", "", [cloud()]) == draw("a", "", [cloud()])


@EVERY_CHART
def test_a_single_point_is_drawn_without_a_warning(draw: Draw) -> None:
    assert "var(--series-0)" in draw("a", "", [cloud(num_points=1)])


def test_points_that_stand_out_are_filled_and_the_others_hollow() -> None:
    uses = [each for each in elements(draw_trade_off("a", "", [cloud(2)])) if each.tag == "use"]
    fills = [re.search(r"fill: ([^;]+)", use.get("style", "")) for use in uses]
    counted = [fill[1] for fill in fills if fill]
    assert (counted.count("var(--paper)"), counted.count("var(--series-2)")) == (2, 1)


@pytest.mark.parametrize(
    ("most", "ticks"),
    [(2, ["1", "2"]), (40, ["1", "2", "5", "10", "20", "50"]), (1000, ["1", "10", "100", "1k"])],
)
def test_ticks_of_a_cost_are_as_many_as_can_be_read(most: float, ticks: list[str]) -> None:
    series = Series(0, np.array([0.8, most]), np.array([0.5, 0.9]))
    svg = elements(trade_off("a", "", [series], Axis("", "log"), ACCURACY))
    texts = [element.text or "" for element in svg if element.tag == "text"]
    assert [text for text in texts if text[0].isdigit() and not text.endswith("%")] == ticks


def test_series_without_a_style_lie_behind_the_others() -> None:
    svg = draw_lines("a", "", [cloud(0), cloud(None)])
    assert svg.index("var(--other)") < svg.index("var(--series-0)")


def test_no_two_styles_have_the_same_marker_or_dashes() -> None:
    assert len(MARKERS) == len(DASHES) == NUM_STYLES
    assert len(set(MARKERS)) == len(set(DASHES)) == NUM_STYLES
    assert len({swatch(style) for style in (None, *range(NUM_STYLES))}) == NUM_STYLES + 1


def test_a_swatch_is_decoration_and_may_stand_on_a_page_twice() -> None:
    svg = elements(swatch(4))
    assert svg[0].get("aria-hidden") == "true"
    assert not any(element.get("id") for element in svg)
    assert any("var(--series-4)" in element.get("style", "") for element in svg)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=8))
def test_undominated_points_are_those_that_no_other_beats(points: list[tuple[int, int]]) -> None:
    def beats(one: tuple[int, int], other: tuple[int, int]) -> bool:
        return one[0] <= other[0] and one[1] >= other[1] and one != other

    cost, gain = np.array(points, dtype=np.float64).T
    expected = [not any(beats(one, other) for one in points) for other in points]
    assert undominated(cost, gain).tolist() == expected
