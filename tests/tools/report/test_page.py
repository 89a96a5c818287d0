import base64
import hashlib
import re
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from html import unescape
from html.parser import HTMLParser
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from triptych.tools.compare.content import Comparison, Question, Section
from triptych.tools.compare.formats import percent, spaced
from triptych.tools.evaluate.settings import LEVELS
from triptych.tools.report import page
from triptych.tools.report.page import (
    CONTENTS,
    find_scale,
    list_contents,
    locate,
    render_page,
)
from triptych.tools.statistics.inference import WithInterval

MARKDOWN = MarkdownIt("commonmark").enable(["table", "strikethrough"])
Repeat = Callable[[int], Comparison]
HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)> $x^2$ {{ 7 * 7 }} </style>"
VOID = {"meta", "img", "col", "br", "link", "input"}


@given(st.text("\\`*_[]()<>#+-=.!|~$&:/a1 \"'{}", min_size=1).map(lambda w: " ".join(w.split())))
def test_words_are_shown_as_they_are_in_a_list_and_in_a_table_of_markdown(words: str) -> None:
    listed = MARKDOWN.render(f"- {page.escape_markdown(words)}")
    assert unescape(re.sub(r"</?(ul|li)>|\n", "", listed)) == words
    table = MARKDOWN.render(f"| a | b |\n| --- | --- |\n| {page.escape_markdown(words)} | c |")
    assert f"<td>{words}</td>\n<td>c</td>" in unescape(table)


class Parsed(HTMLParser):
    """The elements of a page with their attributes and all the text within, in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []  # of the element of the same place
        self.open: list[int] = []
        self.feed(html)
        self.close()
        assert self.open == [], "an element is never closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs)
        self.elements.append((tag, dict(attrs)))
        self.texts.append("")
        if tag not in VOID:
            self.open.append(len(self.elements) - 1)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.texts.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.elements[self.open.pop()][0] == tag
        if tag in {"td", "th"}:
            self.handle_data(" ")

    def handle_data(self, data: str) -> None:
        for place in self.open:
            self.texts[place] += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def text(self, tag: str) -> list[str]:
        return [
            " ".join(text.split())
            for (name, _), text in zip(self.elements, self.texts, strict=True)
            if name == tag
        ]


@pytest.fixture(scope="module")
def parsed(html: str) -> Parsed:
    return Parsed(html)


@pytest.fixture(scope="module")
def bare(repeat: Repeat) -> str:
    """The page of a run of which nothing optional is known."""
    made = repeat(1)
    known = {"split_hash": "s", "test_hash": "t", "started_at": "now", "data": "shapes"}
    network = made.networks[0]
    metadata = dict.fromkeys(network.metadata) | known | {"metrics": {}}
    recipe = replace(
        made.recipes[0],
        networks=(replace(network, metadata=metadata, cost=None),),
        calibration=None,
    )
    empty = dict.fromkeys(("verdict", "cautions", "curves", "grad_cams", "problems"), ())
    return render_page(replace(made, **empty, recipes=(recipe,), images=None))


def test_question_and_answer_stand_before_every_table_and_the_rest_in_order(
    html: str, comparison: Comparison
) -> None:
    text = unescape(re.sub(r"<style>.*?</style>", "", html, flags=re.DOTALL))
    asked, table = text.index("<h1"), text.index("<table")
    assert all(asked < text.index(answer.text) < table for answer in comparison.answers)
    assert all(sentence in text for sentence in comparison.verdict)


def test_a_network_that_is_all_of_its_recipe_is_drawn_by_the_recipe_s_name(
    write_page: Callable[[str], str],
) -> None:
    found = re.search(r'aria-label="(Difference between trained [^"]*)"', write_page("alexnet"))
    assert found
    assert "seed" not in found[1]
    assert re.search(r"resnet50 − (alexnet|googlenet) \+", found[1])


def test_sections_stand_in_the_order_of_the_contents(
    parsed: Parsed, comparison: Comparison
) -> None:
    contents = list_contents(comparison)
    assert [name for name in contents if name in CONTENTS] == [*CONTENTS]
    assert parsed.text("h2") == list(contents.values())
    links = [a["href"] for a in parsed.all("a")]
    assert links[: len(contents) + 1] == ["#main", *(f"#{anchor}" for anchor in contents)]
    assert {f"#{each.get('id')}" for _, each in parsed.elements} >= set(links)


def test_there_is_one_title_and_no_level_of_headings_is_skipped(parsed: Parsed, bare: str) -> None:
    for found in (parsed, Parsed(bare)):
        levels = [int(tag[1]) for tag, _ in found.elements if re.fullmatch("h[1-6]", tag)]
        assert levels[0] == 1
        assert levels.count(1) == 1
        assert all(after <= before + 1 for before, after in pairwise(levels))


def test_a_screen_reader_finds_its_way(parsed: Parsed) -> None:
    ids = [each["id"] for _, each in parsed.elements if "id" in each]
    assert len(set(ids)) == len(ids) > 30
    tags = [tag for tag, _ in parsed.elements]
    assert [tags.count(tag) for tag in ("header", "main", "footer", "nav")] == [1, 1, 1, 1]
    assert parsed.all("html") == [{"lang": "en"}]
    assert tags.count("table") == tags.count("caption") > 10
    heads = parsed.all("th")
    assert heads
    assert {head["scope"] for head in heads} <= {"col", "row", "colgroup"}
    assert len(parsed.all("img")) > 10
    assert all(image["alt"] for image in parsed.all("img"))
    for svg in parsed.all("svg"):
        assert svg.get("aria-hidden") == "true" or (svg["role"] == "img" and svg["aria-label"])
    for box in (each for _, each in parsed.elements if each.get("class") == "box"):
        assert box["tabindex"] == "0"  # so that the keyboard can scroll it
        assert box["aria-label"]


def test_nothing_is_loaded_from_elsewhere_and_only_the_page_s_script_runs(
    html: str, parsed: Parsed
) -> None:
    for _, attributes in parsed.elements:
        for name in {"src", "href", "srcset", "data", "action"} & set(attributes):
            assert re.match(r"#|data:image/(png|webp);base64,", attributes[name] or "")
    assert re.findall(r"url\((?!#)|@import|<link|<iframe", html) == []
    [script] = re.findall(r"<script>(.*?)</script>", html, flags=re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    [policy] = [meta["content"] or "" for meta in parsed.all("meta") if meta.get("http-equiv")]
    assert policy.startswith("default-src 'none'")
    assert f"script-src 'sha256-{digest}';" in policy


def make_hostile(value: Any) -> Any:
    """Every string that a run folder could bring is HTML; of a tuple the first two are enough."""
    if isinstance(value, str):
        return HOSTILE
    if isinstance(value, Question):
        return value
    if is_dataclass(value) and not isinstance(value, type):
        return replace(
            value, **{f.name: make_hostile(getattr(value, f.name)) for f in fields(value)}
        )
    if isinstance(value, dict):
        changed = {k: make_hostile(v) for k, v in value.items()}
        first = next(iter(value.values()), None)  # sections have names of ours
        return (
            changed if first is None or isinstance(first, Section) else {**changed, HOSTILE: first}
        )
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(make_hostile, value))
    return tuple(map(make_hostile, value[:20])) if isinstance(value, tuple | list) else value


@pytest.mark.usefixtures("without_charts")
def test_whatever_a_run_calls_itself_is_text(comparison: Comparison) -> None:
    found = Parsed(render_page(make_hostile(comparison)))
    assert len(found.all("script")) == 1
    assert all((image["src"] or "").startswith("data:") for image in found.all("img"))
    assert not any(name.startswith("on") for _, each in found.elements for name in each)
    for tag in ("strong", "p", "th", "td", "li", "code", "figcaption"):
        assert any(HOSTILE in text for text in found.text(tag)), tag
    assert any(HOSTILE in (svg.get("aria-label") or "") for svg in found.all("svg"))
    assert any(HOSTILE in (image["alt"] or "") for image in found.all("img"))


def test_a_section_without_data_names_the_command_that_measures_it(bare: str) -> None:
    found = Parsed(bare)
    assert {*found.text("h2")} >= {*CONTENTS.values()} - {
        CONTENTS[name] for name in ("pairs", "study")
    }
    missing = " ".join(found.text("p"))
    for command in (
        "python evaluate.py run=<folder> image_types=all",
        "python evaluate.py run=<folder> grad_cam.images=most_confused",
        "python train.py model=googlenet",
    ):
        assert command in missing
    assert "None" not in " ".join(found.text("main"))
    assert "nan" not in " ".join(found.text("td"))


def test_every_run_is_a_line_of_the_table_with_its_interval(
    parsed: Parsed, comparison: Comparison
) -> None:
    lines = parsed.text("tr")
    for row in comparison.networks:
        value, low, high = map(percent, row.accuracy)
        shown = f"{row.label} {value} {low} to {high} {row.scores.macro.f1:.3f}"
        assert any(line.startswith(shown) for line in lines)


def test_the_study_s_table_stands_as_published_beside_both_protocols(
    parsed: Parsed, comparison: Comparison
) -> None:
    lines = parsed.text("tr")
    assert "googlenet 91.55 0.7071 0.84375 0.8333" in lines
    shown = " ".join(f"{value:.4f}" for value in comparison.networks[0].scores.paper)
    assert any(line.endswith(shown) for line in lines)


@pytest.mark.usefixtures("without_charts")
def test_mixed_runs_stand_under_a_banner_each_with_their_own_classes(repeat: Repeat) -> None:
    made = repeat(1)
    other = replace(made.recipes[0], classes=tuple("abcdefghij"))
    mixed = replace(made, recipes=(*made.recipes, other), banner="two test sets", images=None)
    found = Parsed(render_page(mixed))
    assert found.text("p").count("two test sets") == 1
    heads = [line for line in found.text("tr") if line.startswith("true ↓")]
    assert sum("a b c" in line for line in heads) == 1
    assert sum("airplane automobile" in line for line in heads) == 1
    assert not any(figure.get("id") == "difference" for figure in found.all("figure"))


@pytest.mark.usefixtures("without_charts")
def test_twelve_recipes_are_drawn_as_eight_and_the_rest_in_grey(repeat: Repeat) -> None:
    found = Parsed(render_page(repeat(12)))
    assert len([svg for svg in found.all("svg") if svg.get("role") == "img"]) <= 50
    assert any("4 more recipes in grey" in text for text in found.text("p"))
    assert found.text("summary").count("Confusion matrices of 10 more recipes") == 1


def test_values_are_placed_on_one_scale_and_an_undefined_one_at_its_start() -> None:
    scale = find_scale([WithInterval(0.5, 0.4, 0.8), WithInterval(0.6)])
    assert [locate(value, scale) for value in (0.4, 0.5, 0.8, np.nan)] == [
        *("0.0%", "25.0%", "100.0%", "0%")
    ]
    around_zero = find_scale([WithInterval(0.02, 0.01, 0.04)], zero=True)
    assert [locate(value, around_zero) for value in (0.0, 0.02)] == ["50.0%", "75.0%"]
    assert locate(0.5, find_scale([[0.5]])) == "50.0%"


def test_every_number_of_a_table_has_its_definition_a_click_away(
    html: str, parsed: Parsed, comparison: Comparison
) -> None:
    ids = {each.get("id") for _, each in parsed.elements}
    links = {a["href"] or "" for a in parsed.all("a")}
    defined = {link[1:] for link in links if link.startswith("#def-")}
    assert len(defined) > 15
    assert defined <= ids
    known = {column for _, _, columns in read_terms().values() for column in columns}
    heads = set(re.findall(r'<th scope="col">([^<]*)</th>', html)) - known
    words = {*"A B command commit data device folder network recipe score".split()}
    words |= {"class", "method", "prediction", "rule", "true taken for predicted"}
    words |= {recipe.label for recipe in comparison.recipes}
    words |= {"precision mode", "split", "started", "test set", "threads", "type", "weights"}
    counts = {"epochs", "scored epoch", "severity", "test images", "inference on", "trained on"}
    named = {*comparison.recipes[0].classes, *comparison.differing, *map(spaced, LEVELS)}
    step = re.compile("wrong$|seed|number of images|as now|times the|twice")
    steps = {head for head in heads if step.search(head)}
    assert heads - words - counts - named - steps == set()


def read_terms() -> dict[str, tuple[str, str, list[str]]]:
    module: Any = page.make_environment("report").get_template("definitions.html.jinja").module
    terms: dict[str, tuple[str, str, list[str]]] = module.terms
    return terms
