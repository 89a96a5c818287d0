import re
from itertools import combinations
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup

from triptych.tools.report.charts import (
    DASHES,
    LETTER,
    MARKERS,
    MEDIUM,
    NUM_STYLES,
    VARIABLES,
    Axis,
    Draw,
    Series,
    draw_lines,
    draw_reliability,
    make_chart,
    swatch,
)
from triptych.tools.report.costs import draw_trade_off, find_pareto_optimal, overlap
from triptych.tools.report.curves import move_apart

COST, ACCURACY = Axis("parameters", "log"), Axis("accuracy", "percent")
EVERY_CHART = pytest.mark.parametrize("draw", [draw_lines, draw_trade_off, draw_reliability])


def make_series(style: int | None = 0, num_points: int = 3) -> Series:
    x = np.linspace(0.5, 1, num_points)
    return Series(style, x, x, x - 0.1, x + 0.1, marked=x == x.max())


def render(
    draw: Draw, *series: Series, name: str = "a", words: str = "", axes: tuple[Axis, ...] = ()
) -> Markup:
    x = COST if draw is draw_trade_off else Axis("epoch", "count")
    x, y = axes or (x, ACCURACY)
    return make_chart(name, words, draw, series, x, y, sizes=MEDIUM[:1]).picture


def parse(svg: str) -> list[ElementTree.Element]:
    return list(ElementTree.fromstring(svg).iter())


@EVERY_CHART
def test_a_chart_is_one_image_whose_words_a_screen_reader_says(draw: Draw) -> None:
    words = "\"x\" <b> & 'y'"
    svg = parse(render(draw, make_series(), words=words))[0]
    assert (svg.tag, svg.get("role"), svg.get("aria-label")) == ("svg", "img", words)
    assert svg.get("width") is None
    assert svg.get("viewBox") == "0 0 480 310"


def test_a_tick_says_where_it_is() -> None:
    hours = np.array([0.002, 0.004, 0.008])
    line = Series(0, hours, 2.301 + hours)
    svg = parse(render(draw_lines, line, axes=(Axis("hours"), Axis("loss"))))
    ticks = [float(each.text) for each in svg if re.fullmatch(r"[\d.]+", each.text or "")]
    assert len(ticks) == len(set(ticks)) >= 6
    assert {0.002, 0.004, 0.006, 0.008} <= set(ticks)


@EVERY_CHART
def test_a_chart_has_no_colour_of_its_own_but_the_page_s_variables(draw: Draw) -> None:
    elements = parse(render(draw, make_series(3), make_series(None)))
    styled = " ".join(element.get("style", "") for element in elements)
    assert re.findall(r"#[0-9a-f]{6}", styled) == []
    used = set(re.findall(r"var\(--[\w-]+\)|currentColor", styled))
    assert {"var(--series-3)", "var(--other)", "var(--rule)", "currentColor"} <= used
    assert used <= set(VARIABLES.values())


def test_text_stays_text_in_the_page_s_own_font() -> None:
    axes = Axis("a <b> $x^2$"), Axis("y")
    svg = parse(render(draw_lines, make_series(), axes=axes))
    texts = [element for element in svg if element.tag == "text"]
    assert {"a <b> $x^2$", "y"} <= {element.text for element in texts}
    assert not any("font-family" in element.get("style", "") for element in texts)


@EVERY_CHART
def test_ids_are_a_chart_s_own_and_complete(draw: Draw) -> None:
    first, second = (render(draw, make_series(), make_series(1), name=name) for name in "ab")
    ids = [set(re.findall(r' id="(\w+)"', svg)) for svg in (first, second)]
    assert ids[0]
    assert not ids[0] & ids[1]
    assert set(re.findall(r"(?:url\(|href=\")#(\w+)", first)) <= ids[0]
    assert render(draw, make_series(), make_series(1)) == first, "the same numbers, other bytes"


@pytest.mark.parametrize(
    ("most", "ticks"),
    [(2, ["1", "2"]), (40, ["1", "2", "5", "10", "20", "50"]), (1000, ["1", "10", "100", "1k"])],
)
def test_ticks_of_a_cost_are_as_many_as_can_be_read(most: float, ticks: list[str]) -> None:
    series = Series(0, np.array([0.8, most]), np.array([0.5, 0.9]))
    texts = [each.text or "" for each in parse(render(draw_trade_off, series))]
    assert [text for text in texts if text[:1].isdigit() and not text.endswith("%")] == ticks


@given(st.lists(st.floats(0, 300), max_size=10))
def test_names_at_the_ends_of_lines_keep_their_order_and_neveroverlap(
    heights: list[float],
) -> None:
    moved = move_apart(heights, 0, 300)
    apart = np.diff(sorted(moved))
    assert len(moved) == len(heights)
    assert (apart >= 14 - 1e-9).all()
    order = np.argsort(heights, kind="stable")
    assert (np.argsort(moved, kind="stable") == order).all()
    assert not moved or (min(moved) >= -1e-9 and max(moved) <= 300 + 1e-9)


def test_names_of_points_neveroverlap() -> None:
    random = np.random.default_rng(0)
    points = random.uniform(0.3, 0.9, (2, 40, 1))
    series = [
        Series(n % 8, x, y, marked=np.array([True]), label=f"network {n}")
        for n, (x, y) in enumerate(zip(*points, strict=True))
    ]
    texts = [each for each in parse(render(draw_trade_off, *series)) if each.tag == "text"]
    names = [each for each in texts if (each.text or "").startswith("network")]
    places = [(float(each.get("x") or 0), float(each.get("y") or 0)) for each in names]
    boxes = [
        (x, y, x + LETTER * len(each.text or ""), y + 12)
        for (x, y), each in zip(places, names, strict=True)
    ]
    assert len(names) > 10
    assert not any(overlap(a, b) for a, b in combinations(boxes, 2))


def test_no_two_styles_look_alike() -> None:
    assert len(set(MARKERS)) == len(set(DASHES)) == NUM_STYLES
    swatches = {swatch(style) for style in (None, *range(NUM_STYLES))}
    assert len(swatches) == NUM_STYLES + 1
    assert not any(" id=" in each for each in swatches)  # one stands on a page repeatedly


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=8))
def test_pareto_optimal_points_are_those_that_no_other_beats(points: list[tuple[int, int]]) -> None:
    def beats(one: tuple[int, int], other: tuple[int, int]) -> bool:
        return one[0] <= other[0] and one[1] >= other[1] and one != other

    cost, gain = np.array(points, dtype=np.float64).T
    expected = [not any(beats(one, other) for one in points) for other in points]
    assert find_pareto_optimal(cost, gain).tolist() == expected
