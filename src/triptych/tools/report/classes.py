"""Where networks fail: confusion matrices, their difference, and scores class by class.

Shapes: C classes. A difference is in shares of the images of a true class.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from triptych.callbacks.figures import count_columns, truncate
from triptych.tools.compare import formats
from triptych.tools.compare.recipes import Recipe
from triptych.tools.report import charts
from triptych.tools.report.charts import Chart, Key
from triptych.tools.report.images import encode

MAX_CELLS = 1000  # of a side of a matrix that is a picture
HEAT = (43, 123, 186)  # seen on white and on black
BETTER, WORSE = (0, 114, 178), (213, 94, 0)
NUM_CONFUSED = 5
MAX_CLASSES = 30  # of a chart
ROW = 24  # pixels
LETTER = 7.2  # pixels
WIDTHS = {900: 24, 358: 13}  # of a chart, in pixels, and the most letters of a class
LAST = 52  # pixels at the right, for the number of a row


class Change(NamedTuple):
    """Of a confusion, from one recipe to the other."""

    true: str
    predicted: str
    shares: tuple[float, float]  # of the images of the true class


class Difference(NamedTuple):
    """The confusion matrix of recipe a, less that of b."""

    a: Recipe
    b: Recipe
    shares: NDArray[np.float64]  # (C, C), 0 where a class has no images
    better: NDArray[np.float64]  # the same; above 0 what is better of a, below 0 of b
    scale: float  # the largest of them
    changes: tuple[Change, ...]  # the confusions that differ most


def subtract_best(recipes: Sequence[Recipe]) -> Difference | None:
    """Of the first two that know the same classes."""
    twos = ((a, b) for a, b in combinations(recipes, 2) if a.classes == b.classes)
    pair = next(twos, None)
    return subtract(*pair) if pair else None


def subtract(a: Recipe, b: Recipe) -> Difference:
    one, other = share_rows(a.confusion), share_rows(b.confusion)
    shares = one - other
    errors = np.where(np.eye(len(shares), dtype=bool), 0, shares)
    images = abs(errors) * a.confusion.sum(axis=1, keepdims=True)
    order = np.argsort(-images, axis=None, kind="stable")[:NUM_CONFUSED]
    changes = tuple(
        Change(a.classes[i], a.classes[j], (float(one[i, j]), float(other[i, j])))
        for i, j in zip(*np.unravel_index(order, errors.shape), strict=True)
        if errors[i, j]
    )
    better = find_better(shares)
    return Difference(a, b, shares, better, float(abs(better).max()), changes)


def find_better(shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """A difference (C, C) with its sign by who is better: more on the diagonal, fewer errors."""
    return np.where(np.eye(len(shares), dtype=bool), shares, -shares)


def list_empty(recipe: Recipe) -> list[str]:
    """The classes without test images."""
    counts = recipe.confusion.sum(axis=1)
    return [name for name, count in zip(recipe.classes, counts, strict=True) if not count]


def share_rows(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """(C, C) counts as shares of their row, 0 where it is empty."""
    return np.asarray(confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1))


def draw_matrix(confusion: NDArray[np.int64]) -> str:
    """A picture (C, C), as opaque as the square root of a cell's share of its row."""
    return paint(np.sqrt(share_rows(join_cells(confusion))))


def draw_difference(difference: Difference) -> str:
    """The same of two recipes, in one colour where a is better and in another where b is."""
    one, other = (share_rows(join_cells(each.confusion)) for each in difference[:2])
    better = find_better(one - other)
    return paint(np.sign(better) * np.sqrt(abs(better)), BETTER, WORSE)


def join_cells(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """A matrix of at most `MAX_CELLS` a side: neighbours are added."""
    starts = np.arange(0, len(counts), math.ceil(len(counts) / MAX_CELLS))
    return np.add.reduceat(np.add.reduceat(counts, starts, axis=0), starts, axis=1)


def paint(
    values: NDArray[np.float64],
    above: tuple[int, int, int] = HEAT,
    below: tuple[int, int, int] = HEAT,
) -> str:
    """Values from -1 to 1 as a PNG that is transparent at 0."""
    colours = np.where(values[..., None] < 0, below, above)
    opacity = (255 * abs(values)).round()[..., None]
    return encode(Image.fromarray(np.concatenate([colours, opacity], 2).astype(np.uint8)))


def draw_classes(recipes: Sequence[Recipe], key: Key) -> list[Chart]:
    """A chart for recipes of the same classes: a row a class, a dot a recipe."""
    groups: dict[tuple[str, ...], list[Recipe]] = {}
    for recipe in recipes:
        groups.setdefault(recipe.classes, []).append(recipe)
    return [draw_group(same, key) for same in groups.values()]


def draw_group(recipes: Sequence[Recipe], key: Key) -> Chart:
    """Sorted by the difference between the best and the worst; of one recipe by its score."""
    classes, f1 = recipes[0].classes, np.stack([recipe.f1 for recipe in recipes])
    known = np.where(np.isnan(f1).all(axis=0), 0, f1)
    low, high = np.nanmin(known, axis=0), np.nanmax(known, axis=0)
    several = len(recipes) > 1
    order = np.argsort(low - high if several else high, kind="stable")[:MAX_CLASSES]
    heading = "F1 by class, in per cent"
    if len(order) < len(classes):
        kind = "that differ most" if several else "of the lowest F1"
        heading += f": the {len(order)} of {len(classes)} classes {kind}"
    numbers = [
        formats.DASH if np.isnan(f1[:, place]).all() else formats.percent(number, 1)
        for place, number in zip(order, (high - low if several else high)[order], strict=True)
    ]
    names = [classes[place] for place in order]
    dots = {key.styles[each.label]: each.f1[order] for each in recipes if each.label in key.styles}
    ends = low[order], high[order]
    lines: list[Sequence[object]] = [("class", "recipe", "F1")]
    lines += [(classes[n], each.label, float(each.f1[n])) for n in order for each in recipes]
    joined = "A line joins the worst and the best recipe; at the right is their distance in points"
    return charts.draw_sizes(
        *(heading, f"{heading}, a dot a recipe; numbers in the table below", [*WIDTHS]),
        render=lambda width: render_rows(names, numbers, ends, dots, width),
        data=charts.write_lines(lines),
        caption=joined if several else "",
    )


def render_rows(
    names: Sequence[str],
    numbers: Sequence[str],
    ends: tuple[NDArray[np.float64], NDArray[np.float64]],
    dots: Mapping[int, NDArray[np.float64]],
    width: int,
) -> Figure:
    """A row a name: a line between its ends, a dot of each style, a number at the right."""
    names = [truncate(n, max(1, WIDTHS[width] * len(n) // max(1, count_columns(n)))) for n in names]
    left = 14 + LETTER * max(map(count_columns, names))
    height = ROW * len(names) + 30
    figure, axes = charts.begin_figure(width, height, margins=(left, 4, LAST, 26))
    charts.draw_scale(axes, lambda value: f"{100 * value:.4g}%")
    low, high = float(ends[0].min()), float(ends[1].max())
    room, rows = 0.03 * (high - low) or 0.01, np.arange(len(names))
    axes.set(xlim=(low - room, high + room), ylim=(len(names) - 0.5, -0.5))
    axes.set_yticks(rows, names, color=charts.TEXT, fontsize=12.5)
    axes.tick_params(pad=8, labeltop=True, labelbottom=False)
    axes.spines[:].set_visible(False)
    axes.hlines(rows, *ends, color=charts.OTHER, linewidth=2, zorder=1)
    for style, values in sorted(dots.items(), reverse=True):  # the best in front
        axes.plot(values, rows, charts.MARKERS[style], color=charts.SERIES[style], markersize=7.5)
    right: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "ha": "right", "va": "center"}
    for row, number in enumerate(numbers):
        axes.text(1 + (LAST - 2) / axes.bbox.width, row, number, color=charts.TEXT, **right)
    return figure
