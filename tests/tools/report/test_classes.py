import base64
import io
import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from sklearn.metrics import confusion_matrix

from triptych.tools.compare.content import Comparison
from triptych.tools.compare.recipes import Recipe
from triptych.tools.report import classes
from triptych.tools.report.charts import Key
from triptych.tools.report.page import render_page
from triptych.tools.statistics.scores import per_class

Repeat = Callable[[int], Comparison]


def read(url: str) -> NDArray[np.uint8]:
    """The pixels of a data: URL."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))))


def with_confusion(recipe: Recipe, confusion: NDArray[np.int64], label: str) -> Recipe:
    """That recipe with other scores."""
    scores = recipe.first.scores._replace(confusion=confusion, per_class=per_class(confusion))
    names = tuple(f"class {number}" for number in range(len(confusion)))
    return replace(
        recipe, label=label, classes=names, networks=(replace(recipe.first, scores=scores),)
    )


def test_every_confusion_is_counted_in_its_cell(html: str, comparison: Comparison) -> None:
    figures = re.findall(r'<figure class="confusion" .*?</figure>', html, flags=re.DOTALL)
    for recipe, figure in zip(comparison.recipes, figures, strict=True):
        assert f"Confusion matrix of {recipe.label}" in figure
        cells = [int(cell) for cell in re.findall(r"<td style[^>]*>(\d+)</td>", figure)]
        np.testing.assert_array_equal(np.reshape(cells, recipe.confusion.shape), recipe.confusion)


def test_a_difference_is_of_shares_of_the_true_class(html: str, comparison: Comparison) -> None:
    a, b, *_ = comparison.recipes
    shares = []
    for recipe in (a, b):
        labels = np.concatenate([network.test.labels for network in recipe.networks])
        answers = np.concatenate([network.test.classes for network in recipe.networks])
        shares.append(confusion_matrix(labels, answers, labels=range(10), normalize="true"))
    [figure] = re.findall(r'<figure class="confusion difference".*?</figure>', html, re.DOTALL)
    cells = re.findall(r'<td class="(.)" style[^>]*>([^<]*)</td>', figure)
    shown = [float(number.replace("−", "-")) / 100 for _, number in cells]
    expected = shares[0] - shares[1]
    np.testing.assert_allclose(np.reshape(shown, (10, 10)), expected, atol=0.0005)
    for (side, _), value, is_right in zip(cells, expected.flat, np.eye(10).flat, strict=True):
        assert abs(value) < 1e-12 or (side == "a") == (value > 0 if is_right else value < 0)


def test_a_class_without_images_is_named_and_has_no_shares(repeat: Repeat) -> None:
    counts = np.array([[3, 1, 0], [0, 0, 0], [0, 2, 2]])
    one, other = (with_confusion(repeat(1).recipes[0], counts // n, f"recipe {n}") for n in (1, 2))
    assert classes.list_empty(one) == ["class 1"]
    difference = classes.subtract(one, other)
    np.testing.assert_allclose(difference.shares, [[-0.25, 0.25, 0], [0] * 3, [0] * 3])
    assert [change[:2] for change in difference.changes] == [("class 0", "class 1")]
    assert (difference.better <= 0).all()


@pytest.mark.parametrize(("num_classes", "side"), [(3, 3), (1000, 1000), (2500, 834)])
def test_a_matrix_of_any_number_of_classes_is_a_picture_of_at_most_a_thousand_cells(
    num_classes: int, side: int
) -> None:
    opacity = read(classes.draw_matrix(np.eye(num_classes, dtype=np.int64)))[..., 3]
    assert opacity.shape == (side, side)
    assert (opacity.argmax(axis=1) == np.arange(side)).all()


@pytest.mark.usefixtures("without_charts")
def test_a_hundred_classes_are_pictures_and_the_rows_of_those_that_differ_most(
    repeat: Repeat,
) -> None:
    made = repeat(2)
    counts = np.random.default_rng(0).integers(0, 9, (2, 100, 100))
    recipes = tuple(map(with_confusion, made.recipes, counts, ("one", "other")))
    html = render_page(replace(made, recipes=recipes))
    assert html.count('alt="Confusion matrix of ') == 2
    assert len(html) < 1_500_000
    better = read(classes.draw_difference(classes.subtract(*recipes)))
    is_blue = better[..., 2] > better[..., 0]
    share = [each / each.sum(axis=1, keepdims=True) for each in counts]
    off = ~np.eye(100, dtype=bool)
    clear = off & (abs(share[0] - share[1]) > 1e-3)
    np.testing.assert_array_equal(is_blue[clear], (share[0] < share[1])[clear])
    [chart] = classes.draw_classes(recipes, Key(recipes))
    rows = [line.split(",") for line in chart.data.splitlines()[1:]]
    spread = abs(np.subtract(*(recipe.f1 for recipe in recipes)))
    most = [f"class {place}" for place in np.argsort(-spread, kind="stable")[:30]]
    assert [name for name, label, _ in rows if label == "one"] == most
