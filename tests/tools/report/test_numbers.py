"""No number is lost: whatever a comparison knows stands on its page."""

import json
import re
from collections.abc import Iterator
from html import unescape
from itertools import chain
from typing import Any

import numpy as np
import pytest

from triptych.tools.compare.content import Comparison
from triptych.tools.compare.verdict import write_verdict

NUMBER = re.compile(r"(?<![\w.])\d[\d,]*\.?\d*")
SCALES = (1, 1e2, 1e-3, 1e-6, 1e-9)  # as it is, in percent, in thousands, millions, milliards


def read_numbers(html: str) -> dict[str, set[tuple[float, int]]]:
    """The numbers of all table rows with the same first cell, with their decimals."""
    numbers: dict[str, set[tuple[float, int]]] = {}
    for row in re.findall(r"<tr.*?</tr>", html, flags=re.DOTALL):
        first, _, rest = row.partition("</th>")
        label, text = (unescape(re.sub(r"<[^>]*>", " ", part)).strip() for part in (first, rest))
        for found in NUMBER.findall(text):
            number = found.replace(",", "").rstrip(".")
            digits = len(number.partition(".")[2])
            numbers.setdefault(label, set()).add((float(number), digits))
    return numbers


def list_numbers(value: Any) -> Iterator[float]:
    """Every finite number within tuples, lists, mappings and arrays, without its sign."""
    if isinstance(value, bool | str | None):
        return
    if isinstance(value, int | float | np.number):
        if np.isfinite(value):
            yield abs(float(value))
    elif isinstance(value, dict):
        yield from chain.from_iterable(map(list_numbers, value.values()))
    else:
        yield from chain.from_iterable(map(list_numbers, value))


def list_known(c: Comparison) -> Iterator[tuple[str, Any]]:
    """What a comparison knows, by the first cell of the rows where it stands."""
    for network in c.networks:
        scores = network.scores
        yield network.label, (network.accuracy, scores.macro, scores.weighted, scores.paper)
        yield network.label, (scores.nll, scores.brier, [scores.top_k[k] for k in (1, 3, 5)])
        yield network.label, (network.ece, network.costs)
    for recipe in c.recipes:
        yield from zip(recipe.classes, recipe.f1, strict=True)
        yield from zip(recipe.classes, recipe.confusion, strict=True)
        assert recipe.calibration
        before, temperature, after = recipe.calibration
        assert after
        errors = [(each.error, *each.interval, each.nll) for each in (before, after)]
        yield recipe.first.label, (temperature, before.expected, before.expected_high, errors)
    section: Any = c.sections["abstention"]
    for each in section.measured:
        sets = [sets[1:] for sets in each.sets]
        answers = [(row.risk, *row[1:]) for row in each.answers]
        yield each.label, (each.num_val, each.num_candidates, sets, answers)
        yield from ((row.name, row[1:-1]) for row in each.classes)
    for pair in (*c.rank_pairs(c.recipe_pairs), *c.rank_pairs(c.network_pairs)):
        tested = (pair.difference, pair.only_a, pair.only_b, pair.f1_difference)
        yield f"{pair.a} − {pair.b}", (tested, [max(p, 1e-4) for p in (pair.p, pair.p_holm)])
    for curve in c.curves:
        ends = [curve.metrics[name][-1] for name in ("train/loss", "val/loss")]
        yield curve.label, (ends, curve.best_accuracy)
    for each in c.image_types:
        rows = [(row.num_images, row.accuracy, *row[4:6]) for row in each.rows]
        yield each.label, (rows, each.degradations["all"])
    for loss in c.losses:
        yield f"{loss.a} − {loss.b}", loss.by_type["all"]


def is_written(value: float, number: float, digits: int) -> bool:
    """Whether a number with so many decimals is the value, rounded, in one of the scales."""
    scaled = [scale * value for scale in SCALES if scale >= 1 or value >= 1000]
    near = [each for each in scaled if abs(each - number) <= 0.500001 * 10.0**-digits]
    return any(digits or each >= 2 or each == number for each in near)


def test_every_number_stands_in_a_row_of_its_name(html: str, comparison: Comparison) -> None:
    shown, count = read_numbers(html), 0
    for label, values in list_known(comparison):
        for value in list_numbers(values):
            assert any(is_written(value, *each) for each in shown[label]), f"{label}: {value}"
            count += 1
    assert count > 1000


def test_the_verdict_has_each_recipe_s_part_of_the_uncertainty(comparison: Comparison) -> None:
    section = comparison.sections["uncertainty"]
    components = json.loads(write_verdict(comparison))["components"]
    assert len(components["recipes"]) == len(comparison.recipes)
    assert [*list_numbers(components)] == pytest.approx([*list_numbers(section.describe())])
