"""Accuracy against latency: networks and the files made of them, in one picture."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from triptych.tools.compare import formats
from triptych.tools.compare.deployments import Block, Deployments
from triptych.tools.export.formats import FORMATS
from triptych.tools.report import charts
from triptych.tools.report.charts import LARGE, MARKERS, Axis, Chart, Key, Series, Size
from triptych.tools.report.costs import (
    MAX_LABELS,
    MAX_PLACES,
    draw_marks,
    find_pareto_optimal,
    write_labels,
)

NETWORK = "torch"  # what a network runs in
MARKS = dict(zip((NETWORK, *(each.words for each in FORMATS.values())), MARKERS, strict=False))
AXES = Axis("median latency at batch 1, ms", "log"), Axis("test accuracy", "percent")
ENTRY, LINE = 112, 19  # pixels of an entry of the key
LEAST = 0.02  # of the scale of accuracies, on which small differences stay small


def draw_deployments(section: Deployments, key: Key) -> list[Chart]:
    """A chart for each device and number of threads, those of the most networks first."""
    places: dict[str, list[Block]] = defaultdict(list)
    for block in section.blocks:
        places[block.newest.place].append(block)
    most = sorted(places, key=lambda place: -len(places[place]))[:MAX_PLACES]
    return [draw_place(place, places[place], key) for place in most]


def draw_place(place: str, blocks: Sequence[Block], key: Key) -> Chart:
    """Of one device: a line a network, from it to its files, a mark a format."""
    counts = Counter(block.files[0].recipe for block in blocks)
    groups = [list_points(block, counts[block.files[0].recipe] == 1, key) for block in blocks]
    series = [each for group in groups for each in group]
    x, y = np.array([(each.x[0], each.y[0]) for each in series]).T
    best = find_pareto_optimal(x, y)
    series = [replace(each, marked=best[n : n + 1]) for n, each in enumerate(series)]
    names = [each.label for each, is_best in zip(series, best, strict=True) if is_best]

    def render(size: Size) -> Figure:
        marks = [name for name, mark in MARKS.items() if any(s.marker == mark for s in series)]
        num_columns = (size[0] - 68) // ENTRY
        top = 14 + LINE * -(-len(marks) // num_columns)
        figure, axes = charts.begin_figure(*size, margins=(58, 42, 10, top))
        charts.label_axes(axes, *AXES)
        room = max(LEAST - float(np.ptp(y)), 0.2 * float(np.ptp(y))) / 2
        axes.set_ylim(y.min() - room, y.max() + room)
        for group in groups:
            points = sorted((each.x[0], each.y[0]) for each in group)
            look = charts.find_look(group[0].style) | {"marker": "", "linewidth": 1}
            axes.plot(*zip(*points, strict=True), **look)
        draw_marks(axes, series)
        write_labels(axes, shorten_labels(series), on_lines=True)
        draw_key(axes, marks, num_columns)
        return figure

    heading = "Accuracy against latency, of networks and their files"
    caption = f"{place}. Pareto-optimal: {formats.join_words(names, formats.MAX_WORDS)}"
    data = charts.write_data(series, *AXES)
    return charts.draw_sizes(heading, f"{heading}: {caption}.", LARGE, render, data, caption)


def list_points(block: Block, is_alone: bool, key: Key) -> list[Series]:
    """The network, then its files, by the recipe's name where it is `is_alone` of it."""
    own = block.newest.record["network"]
    name = block.files[0].recipe if is_alone else block.network.label
    points = [(NETWORK, own, block.network.accuracy.value)]
    points += [(each.words, each.record, each.accuracy.value) for each in block.files]
    style = key.styles.get(block.network.label)
    return [
        Series(
            *(style, np.array([measured["latency_ms_p50"]]), np.array([accuracy])),
            label=f"{name} in {words}",
            marker=MARKS[words],
        )
        for words, measured, accuracy in points
    ]


def shorten_labels(series: Sequence[Series]) -> list[Series]:
    """Networks first, by their names; where there are few points files, too, by their formats."""
    shown = []
    for each in sorted(series, key=lambda each: each.marker != MARKS[NETWORK]):
        name, _, words = each.label.rpartition(" in ")
        of_file = words if len(series) <= MAX_LABELS else ""
        shown.append(replace(each, label=name if words == NETWORK else of_file))
    return shown


def draw_key(axes: Axes, marks: Sequence[str], num_columns: int) -> None:
    """Above the picture, each mark with its format."""
    look: dict[str, Any] = {"linestyle": "none", "color": charts.INK, "markersize": 6.5}
    handles = [Line2D([], [], marker=MARKS[name], label=name, **look) for name in marks]
    place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0, 1), "ncols": num_columns}
    axes.legend(handles=handles, frameon=False, labelcolor=charts.TEXT, **place)
