"""Which charts the page shows, and what each says in words."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from triptych.tools.compare.content import Comparison
from triptych.tools.compare.formats import DASH, MAX_WORDS, join_words, percent, spaced
from triptych.tools.compare.runs import Curve, ImageTypes, TrainedNetwork
from triptych.tools.compare.summaries import COSTS, Cost
from triptych.tools.report.charts import (
    NUM_STYLES,
    Axis,
    Series,
    draw_lines,
    draw_reliability,
    draw_trade_off,
    find_undominated,
    make_reliability_series,
    make_severity_series,
    render_chart,
)

MAX_RELIABILITY = 6
MAX_PLACES = 3  # charts of one cost, each of networks measured in one place
CURVES = (
    ("val/accuracy", "Validation accuracy", Axis("validation accuracy", "percent")),
    ("val/loss", "Validation loss", Axis("validation loss, nats")),
    ("train/loss", "Training loss", Axis("training loss, nats")),
)


@dataclass(frozen=True)
class Panel:
    heading: str
    chart: Markup
    caption: str = ""


class Key:
    """One style a recipe, shared by its networks, as long as there are styles.

    Of more recipes those of the highest accuracy have one and the others are grey.
    """

    def __init__(self, comparison: Comparison) -> None:
        recipes = comparison.recipes
        best = sorted(recipes, key=lambda recipe: -recipe.accuracy.value)[:NUM_STYLES]
        self.recipes = [recipe for recipe in recipes if recipe in best]
        self.num_others = len(recipes) - len(self.recipes)
        self.styles = {
            network.label: style
            for style, recipe in enumerate(self.recipes)
            for network in recipe.networks
        }


def draw_curves(curves: Sequence[Curve], key: Key) -> list[Panel]:
    """Validation accuracy and both losses by epoch; a ring marks the epoch that was scored."""
    panels = []
    for name, heading, y in CURVES:
        series = []
        for curve in curves:
            measured = np.isfinite(curve.metrics[name])
            epochs, values = curve.epochs[measured], curve.metrics[name][measured]
            scored = epochs == curve.best_epoch if name.startswith("val") else None
            style = key.styles.get(curve.label)
            series.append(Series(style, epochs.astype(np.float64), values, marked=scored))
        series = [line for line in series if len(line.x)]
        if series:
            words = f"{heading} by epoch, of {len(series)} networks; the table below has the ends"
            chart = render_chart(name, words, draw_lines, series, Axis("epoch", "count"), y)
            panels.append(Panel(heading, chart))
    return panels


def draw_costs(networks: Sequence[TrainedNetwork], key: Key) -> list[Panel]:
    """Accuracy against each cost that was measured, with what is not dominated marked.

    What depends on device, precision and threads is compared among networks that share them.
    """
    panels = []
    for cost in COSTS:
        measured = [network for network in networks if network.costs[cost.name]]
        for place, alike in _group_by_place(measured, cost).items():
            panels.append(_draw_cost(cost, place, alike, key))
    return panels


def _group_by_place(
    networks: Sequence[TrainedNetwork], cost: Cost
) -> dict[str, list[TrainedNetwork]]:
    """Networks by where a cost was measured: places with most of them, of two or more."""
    groups: dict[str, list[TrainedNetwork]] = {}
    for network in networks:
        place = (getattr(network, cost.of) or DASH) if cost.of else ""
        groups.setdefault(place, []).append(network)
    most = sorted(groups, key=lambda place: -len(groups[place]))[:MAX_PLACES]
    return {place: groups[place] for place in most if len(groups[place]) > 1 or len(groups) == 1}


def _draw_cost(cost: Cost, place: str, networks: Sequence[TrainedNetwork], key: Key) -> Panel:
    values = np.array([network.costs[cost.name] for network in networks], dtype=np.float64)
    accuracies = np.array([network.accuracy for network in networks])  # with their intervals
    best = find_undominated(cost.sign * values, accuracies[:, 0])
    labels = [network.label for network, good in zip(networks, best, strict=True) if good]
    caption = (f"{place}. " if place else "") + f"Not dominated: {join_words(labels, MAX_WORDS)}"
    words = f"Test accuracy against {cost.words}, of {len(networks)} networks. {caption}."
    styles = [key.styles.get(network.label) for network in networks]
    series = []
    for style in dict.fromkeys(styles):
        same = np.array([each == style for each in styles])
        y, low, high = accuracies[same].T
        series.append(Series(style, values[same], y, low, high, best[same]))
    axes = Axis(cost.words, "log", cost.unit), Axis("test accuracy", "percent")
    chart = render_chart(f"cost {cost.words} {place}", words, draw_trade_off, series, *axes)
    return Panel(cost.words[0].upper() + cost.words[1:], chart, caption)


def list_unmeasured(networks: Sequence[TrainedNetwork]) -> list[str]:
    """Names of the costs that no run has."""
    return [cost.words for cost in COSTS if not any(each.costs[cost.name] for each in networks)]


def draw_calibration(key: Key) -> list[Panel]:
    """Reliability of recipes that have a style: as trained (style 0), after the temperature (1)."""
    panels: list[Panel] = []
    measured = [(each.first.label, each.calibration) for each in key.recipes if each.calibration]
    for label, (before, _, after) in measured[:MAX_RELIABILITY]:
        words = f"Accuracy against confidence of {label}: calibration error "
        words += f"{percent(before.error)} points"
        words += f", {percent(after.error)} after the temperature" if after else ""
        parts = enumerate((before, after))
        series = [make_reliability_series(style, part) for style, part in parts if part]
        axes = Axis("confidence", "percent"), Axis("accuracy", "percent")
        name = f"reliability {len(panels)}"
        chart = render_chart(name, words, draw_reliability, series, *axes)
        panels.append(Panel(label, chart))
    return panels


def draw_image_types(measured: Sequence[ImageTypes], key: Key) -> list[Panel]:
    """A chart a type: accuracy by severity, of the first network of each recipe with a style."""
    shown = [network for network in measured if network.label in key.styles]
    kinds = dict.fromkeys(row.type for network in shown for row in network.rows if row.severity)
    shifts = 0.05 * (np.arange(len(shown)) - (len(shown) - 1) / 2)
    x, y = Axis("severity", ticks=("none", "1", "2", "3")), Axis("accuracy", "percent")
    panels = []
    for number, kind in enumerate(kinds):
        series = [
            make_severity_series(key.styles.get(network.label), network.rows, kind, shift)
            for network, shift in zip(shown, shifts, strict=True)
        ]
        heading = spaced(kind)
        names = join_words([network.label for network in shown], MAX_WORDS)
        words = f"Accuracy by severity of {heading}, of {names}; numbers in the table below"
        chart = render_chart(f"type {number}", words, draw_lines, series, x, y)
        panels.append(Panel(heading[:1].upper() + heading[1:], chart))
    return panels
