"""Accuracy against what it costs: one picture, whose cost the reader chooses."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, LogLocator
from numpy.typing import NDArray

from triptych.callbacks.figures import count_columns
from triptych.tools.compare import formats
from triptych.tools.compare.content import COSTS, Cost
from triptych.tools.compare.recipes import Recipe
from triptych.tools.compare.runs import TrainedNetwork
from triptych.tools.report import charts
from triptych.tools.report.charts import LARGE, Axis, Chart, Key, Numbers, Series, make_chart
from triptych.tools.statistics.inference import WithInterval

MAX_PLACES = 3  # charts of one cost, each of networks measured in one place
MAX_LETTERS = 24  # of a name
MAX_LABELS = 12  # of more recipes those that are Pareto-optimal have one


def draw_costs(recipes: Sequence[Recipe], key: Key) -> list[Chart]:
    """A chart for each cost that was measured, of recipes with their seeds.

    What depends on device, precision and threads is compared among networks that share them.
    """
    drawn = []
    for cost in COSTS:
        groups: dict[str, list[Series]] = defaultdict(list)  # by where it was measured
        for recipe in recipes:
            for place, networks in group_by_place(recipe, cost).items():
                groups[place].append(make_series(recipe, networks, cost, key))
        places = sorted(groups, key=lambda place: -len(groups[place]))[:MAX_PLACES]
        shown = [place for place in places if len(groups[place]) > 1 or len(groups) == 1]
        drawn += [draw_cost(cost, place, groups[place], len(shown) > 1) for place in shown]
    return drawn


def group_by_place(recipe: Recipe, cost: Cost) -> dict[str, list[TrainedNetwork]]:
    """Those of a recipe's networks of which a cost is known, by where it was measured."""
    groups: dict[str, list[TrainedNetwork]] = defaultdict(list)
    for network in recipe.networks:
        if network.costs[cost.name]:
            groups[(getattr(network, cost.of) or formats.DASH) if cost.of else ""].append(network)
    return groups


def make_series(recipe: Recipe, networks: list[TrainedNetwork], cost: Cost, key: Key) -> Series:
    """The mean first, with an interval where these are all networks of the recipe; then each."""
    costs = np.array([network.costs[cost.name] for network in networks], dtype=np.float64)
    accuracies = np.array([network.accuracy.value for network in networks])
    is_all = len(networks) == len(recipe.networks)
    mean, *ends = recipe.accuracy if is_all else WithInterval(float(accuracies.mean()))
    x, y = np.array([costs.mean(), *costs]), np.array([mean, *accuracies])
    low, high = (np.array([end, *np.full(len(networks), np.nan)]) for end in ends)
    return Series(key.styles.get(recipe.label), x, y, low, high, label=recipe.label)


def draw_cost(cost: Cost, place: str, measured: Sequence[Series], is_one_of: bool) -> Chart:
    costs, accuracies = np.array([(each.x[0], each.y[0]) for each in measured]).T
    best = find_pareto_optimal(cost.sign * costs, accuracies)
    series = [
        replace(each, marked=np.full(len(each.x), is_best))
        for each, is_best in zip(measured, best, strict=True)
    ]
    names = [each.label for each, is_best in zip(measured, best, strict=True) if is_best]
    caption = f"Pareto-optimal: {formats.join_words(names, formats.MAX_WORDS)}"
    caption = f"{place}. {caption}" if place else caption
    words = f"Test accuracy against {cost.words}, of {formats.pluralize(len(measured), 'recipe')}"
    axes = Axis(cost.words, "log", cost.unit), Axis("test accuracy", "percent")
    heading = formats.capitalize(cost.words)
    heading = f"{heading} ({place})" if is_one_of else heading
    return make_chart(
        *(heading, f"{words}. {caption}.", draw_trade_off, series),
        *axes,
        sizes=LARGE,
        caption=caption,
    )


def find_pareto_optimal(cost: Numbers, gain: Numbers) -> NDArray[np.bool_]:
    """(n,) costs and gains -> (n,): nothing else costs no more, gains no less, and differs."""
    no_worse = (cost[None] <= cost[:, None]) & (gain[None] >= gain[:, None])
    better = (cost[None] < cost[:, None]) | (gain[None] > gain[:, None])
    return np.asarray(~(no_worse & better).any(axis=1))


def draw_trade_off(axes: Axes, series: Sequence[Series]) -> None:
    """Of each series its first point, a mean, with its interval and name; small, what it is of.

    Marked means are filled and joined, the others hollow.
    """
    best = draw_marks(axes, series)
    write_labels(axes, series if len(series) <= MAX_LABELS else best)


def draw_marks(axes: Axes, series: Sequence[Series]) -> list[Series]:
    """The same without names; those that are marked."""
    costs = np.concatenate([each.x for each in series])
    axes.set_xlim(costs.min() / 1.3, costs.max() * 1.3)
    if costs.max() > 50 * costs.min():  # 2 and 5 between powers of ten would overlap
        axes.xaxis.set_major_locator(LogLocator(numticks=8))
    hollow = {"markerfacecolor": charts.PAPER}
    best = [each for each in series if each.marked is not None and each.marked[0]]
    for each in sorted(series, key=lambda each: each.style is not None):
        look, mean = charts.find_point_look(each.style), (each.x[:1], each.y[:1])
        axes.plot(each.x[1:], each.y[1:], **look | {"markersize": 3, "marker": "o", "alpha": 0.6})
        charts.draw_intervals(axes, each)
        marker = {"marker": each.marker} if each.marker else {}
        axes.plot(*mean, **look | marker | ({} if each in best else hollow))
    if best:
        line = sorted((each.x[0], each.y[0]) for each in best)
        charts.draw_dotted(axes, *zip(*line, strict=True))
    return best


def write_labels(axes: Axes, series: Sequence[Series], *, on_lines: bool = False) -> None:
    """The name of each series beside its first point, where it covers no point and no other name;
    where there is no such place, none. First above it, where points lie `on_lines`."""
    axes.autoscale_view()
    points = [axes.transData.transform(np.column_stack((s.x, s.y))) for s in series]
    left, bottom, right, top = axes.bbox.extents
    taken = [(x - 5, y - 5, x + 5, y + 5) for each in points for x, y in each]
    for each, (x, y) in zip(series, (point[0] for point in points), strict=True):
        if not each.label:
            continue
        name = charts.cut_middle(each.label, MAX_LETTERS)
        width = charts.LETTER * count_columns(name)
        sides = [(9, -6), (-9 - width, -6)]
        above = [(-width / 2, 10), (-width / 2, -22), (9, 8)]
        for dx, dy in [(4 - width, 9), *above, *sides] if on_lines else [*sides, *above]:
            box = (x + dx, y + dy, x + dx + width, y + dy + 13)
            is_inside = box[0] >= left and box[2] <= right and bottom <= box[1] and box[3] <= top
            if is_inside and not any(overlap(box, other) for other in taken):
                left_x, base = axes.transData.inverted().transform((box[0], box[1] + 3))
                axes.text(left_x, base, name, fontsize=12, color=charts.find_colour(each.style))
                taken.append((box[0] - 6, box[1], box[2] + 6, box[3]))
                break


def overlap(a: Sequence[float], b: Sequence[float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def list_measured(networks: Sequence[TrainedNetwork]) -> list[Cost]:
    """The costs that some run has."""
    return [cost for cost in COSTS if any(each.costs[cost.name] for each in networks)]


def write_cost(value: float | None, cost: Cost) -> str:
    """5.61 M, 22.54 MB, 1,204 s."""
    if value is None:
        return formats.DASH
    if cost.digits is None:
        return EngFormatter(cost.unit, places=2)(value)
    return f"{value:,.{cost.digits}f}"
