"""Accuracy against what it costs."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from triptych.tools.compare import formats
from triptych.tools.compare.content import COSTS, Cost
from triptych.tools.compare.runs import TrainedNetwork
from triptych.tools.report import charts
from triptych.tools.report.charts import Axis, Chart, Key, Series, make_chart

MAX_PLACES = 3  # charts of one cost, each of networks measured in one place


def draw_costs(networks: Sequence[TrainedNetwork], key: Key) -> list[Chart]:
    """Accuracy against each cost that was measured, with what is not dominated marked.

    What depends on device, precision and threads is compared among networks that share them.
    """
    panels = []
    for cost in COSTS:
        groups: dict[str, list[TrainedNetwork]] = defaultdict(list)  # by where it was measured
        for network in networks:
            if network.costs[cost.name]:
                place = (getattr(network, cost.of) or formats.DASH) if cost.of else ""
                groups[place].append(network)
        places = sorted(groups, key=lambda place: -len(groups[place]))[:MAX_PLACES]
        shown = [place for place in places if len(groups[place]) > 1 or len(groups) == 1]
        panels += [_draw_cost(cost, place, groups[place], key) for place in shown]
    return panels


def _draw_cost(cost: Cost, place: str, networks: Sequence[TrainedNetwork], key: Key) -> Chart:
    values = np.array([network.costs[cost.name] for network in networks], dtype=np.float64)
    accuracies = np.array([network.accuracy for network in networks])  # with their intervals
    best = charts.find_undominated(cost.sign * values, accuracies[:, 0])
    labels = [network.label for network, good in zip(networks, best, strict=True) if good]
    caption = f"Not dominated: {formats.join_words(labels, formats.MAX_WORDS)}"
    caption = f"{place}. {caption}" if place else caption
    words = f"Test accuracy against {cost.words}, of {len(networks)} networks. {caption}."
    styles = [key.styles.get(network.label) for network in networks]
    series = []
    for style in dict.fromkeys(styles):
        same = np.array([each == style for each in styles])
        y, low, high = accuracies[same].T
        names = tuple(
            network.label for network, is_one in zip(networks, same, strict=True) if is_one
        )
        series.append(Series(style, values[same], y, low, high, best[same], names))
    axes = Axis(cost.words, "log", cost.unit), Axis("test accuracy", "percent")
    heading = cost.words[0].upper() + cost.words[1:]
    return make_chart(heading, words, charts.draw_trade_off, series, *axes, caption=caption)


def list_unmeasured(networks: Sequence[TrainedNetwork]) -> list[str]:
    """Names of the costs that no run has."""
    return [cost.words for cost in COSTS if not any(each.costs[cost.name] for each in networks)]
