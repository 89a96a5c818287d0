"""Which charts the page shows, and what each says in words."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from triptych.tools.compare.content import Comparison, Recipe, Row
from triptych.tools.compare.costs import COSTS, Cost
from triptych.tools.compare.exhibits import Curve, ImageTypes
from triptych.tools.compare.sentences import some
from triptych.tools.report.charts import (
    NUM_STYLES,
    Axis,
    Series,
    lines,
    reliability,
    trade_off,
    undominated,
)
from triptych.tools.report.formats import place, spaced
from triptych.tools.statistics.calibration import Reliability

MAX_RELIABILITY = 6
MAX_PLACES = 3  # charts of one cost, each of networks measured in one place


@dataclass(frozen=True)
class Panel:
    heading: str
    chart: Markup
    caption: str = ""


class Key:
    """One style a recipe, shared by its networks, as far as styles can be told apart.

    Where there are more recipes, those of the highest accuracy have one and the others are grey.
    """

    def __init__(self, comparison: Comparison) -> None:
        recipes = comparison.recipes
        ranked = sorted(recipes, key=lambda recipe: -recipe.accuracy.value)
        best = {recipe.label for recipe in ranked[:NUM_STYLES]}
        shown = [recipe for recipe in recipes if recipe.label in best]
        self.labels = [recipe.label for recipe in shown]
        self.num_others = len(recipes) - len(shown)
        self.styles = {
            network: style for style, recipe in enumerate(shown) for network in recipe.networks
        }

    def first(self, networks: Iterable[str]) -> list[str]:
        """The first of these networks in every recipe that has a style."""
        first: dict[int, str] = {}
        for network in networks:
            if network in self.styles:
                first.setdefault(self.styles[network], network)
        return list(first.values())


def learning_curves(curves: Sequence[Curve], key: Key) -> list[Panel]:
    """Validation accuracy and both losses by epoch; a ring marks the epoch that was scored."""
    asked = (
        ("val_accuracy", "Validation accuracy", "percent"),
        ("val_loss", "Validation loss", "number"),
        ("train_loss", "Training loss", "number"),
    )
    panels = []
    for name, heading, kind in asked:
        series = [_course(curve, name, key) for curve in curves]
        series = [line for line in series if len(line.x)]
        if series:
            words = f"{heading} by epoch, of {len(series)} networks; the table below has the ends"
            y = Axis(heading.lower() + (", nats" if kind == "number" else ""), kind)
            chart = lines(f"curve {name}", words, series, Axis("epoch", "count"), y)
            panels.append(Panel(heading, chart))
    return panels


def _course(curve: Curve, name: str, key: Key) -> Series:
    values = getattr(curve, name)
    there = np.isfinite(values)
    epochs = curve.epochs[there]
    scored = epochs == curve.best_epoch if name.startswith("val") else None
    return Series(key.styles.get(curve.label), epochs, values[there], marked=scored)


def costs(rows: Sequence[Row], key: Key) -> list[Panel]:
    """Accuracy against each cost that was measured, with what is not dominated marked.

    What depends on device, precision and threads is compared among networks that share them.
    """
    panels = []
    for cost in COSTS:
        measured = [row for row in rows if getattr(row, cost.name)]
        for where, alike in _by_place(measured, cost).items():
            values = np.array([getattr(row, cost.name) for row in alike], dtype=np.float64)
            panels.append(_trade_off(cost, where, alike, values, key))
    return panels


def _by_place(rows: Sequence[Row], cost: Cost) -> dict[str, list[Row]]:
    """Rows by where a cost that depends on it was measured: places with most, of two or more."""
    apart: dict[str, list[Row]] = {}
    for row in rows:
        apart.setdefault(place(getattr(row, cost.of)) if cost.of else "", []).append(row)
    most = sorted(apart, key=lambda where: -len(apart[where]))[:MAX_PLACES]
    return {where: apart[where] for where in most if len(apart[where]) > 1 or len(apart) == 1}


def _trade_off(
    cost: Cost, where: str, rows: Sequence[Row], values: NDArray[np.float64], key: Key
) -> Panel:
    best = undominated(cost.sign * values, np.array([row.accuracy for row in rows]))
    names = some([row.label for row, good in zip(rows, best, strict=True) if good])
    caption = (f"{where}. " if where else "") + f"Not dominated: {names}"
    words = f"Test accuracy against {cost.words}, of {len(rows)} networks. {caption}."
    axes = Axis(cost.words, "log", cost.unit), Axis("test accuracy", "percent")
    name = f"cost {cost.words} {where}"
    chart = trade_off(name, words, _clouds(rows, values, best, key), *axes)
    return Panel(cost.words[0].upper() + cost.words[1:], chart, caption)


def unmeasured(rows: Sequence[Row]) -> list[str]:
    """Names of the costs that no run has."""
    return [cost.words for cost in COSTS if not any(getattr(row, cost.name) for row in rows)]


def _clouds(
    rows: Sequence[Row], cost: NDArray[np.float64], best: NDArray[np.bool_], key: Key
) -> list[Series]:
    """A series a style."""
    styles = [key.styles.get(row.label) for row in rows]
    values = np.array([(row.accuracy, row.accuracy_low, row.accuracy_high) for row in rows])
    clouds = []
    for style in dict.fromkeys(styles):
        own = np.array([each == style for each in styles])
        y, low, high = values[own].T
        clouds.append(Series(style, cost[own], y, low, high, best[own]))
    return clouds


def calibration(recipes: Sequence[Recipe], key: Key) -> list[Panel]:
    """Reliability of recipes that have a style: as trained (style 0), after the temperature (1)."""
    panels: list[Panel] = []
    for recipe in recipes:
        if not recipe.calibration or recipe.label not in key.labels:
            continue
        before, _, after = recipe.calibration
        words = f"Accuracy against confidence of {recipe.networks[0]}: calibration error "
        words += f"{100 * before.error:.2f} points"
        words += f", {100 * after.error:.2f} after the temperature" if after else ""
        series = [_bins(style, part) for style, part in enumerate((before, after)) if part]
        chart = reliability(f"reliability {len(panels)}", words, series)
        panels.append(Panel(recipe.networks[0], chart))
    return panels[:MAX_RELIABILITY]


def _bins(style: int, measured: Reliability) -> Series:
    bins = [(each.confidence, each.accuracy, *each.interval) for each in measured.bins]
    return Series(style, *np.array(bins, dtype=np.float64).T)


def image_types(measured: Sequence[ImageTypes], key: Key) -> list[Panel]:
    """A chart a type: accuracy by severity, of the first network of each recipe with a style."""
    first = key.first(network.label for network in measured)
    shown = [network for network in measured if network.label in first]
    kinds = dict.fromkeys(row.type for network in shown for row in network.rows if row.severity)
    panels = []
    for number, kind in enumerate(kinds):
        shifts = 0.05 * (np.arange(len(shown)) - (len(shown) - 1) / 2)
        series = [
            _fading(network, kind, shift, key) for network, shift in zip(shown, shifts, strict=True)
        ]
        heading = spaced(kind)
        words = f"Accuracy by severity of {heading}, of {some(first)}; numbers in the table below"
        x = Axis("severity", ticks=("none", "1", "2", "3"))
        chart = lines(f"type {number}", words, series, x, Axis("accuracy", "percent"))
        panels.append(Panel(heading[:1].upper() + heading[1:], chart))
    return panels


def _fading(network: ImageTypes, kind: str, shift: float, key: Key) -> Series:
    """From the unmodified images, severity 0, to the hardest."""
    shown = [row for row in network.rows if row.type == kind or not row.severity]
    values = [(row.severity + shift, *row[3:6]) for row in shown]
    return Series(key.styles.get(network.label), *np.array(sorted(values), dtype=np.float64).T)
