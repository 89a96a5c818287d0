"""A comparison as a page with charts and as text: `index.html` and `comparison.md`.

The page is one HTML file that opens from disk and loads nothing. Every string is escaped by the
templates, and a content security policy admits the page's own script alone, so that nothing a run
folder says is ever executed.
"""

import base64
import hashlib
import html
import io
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.image import imsave
from matplotlib.ticker import EngFormatter
from numpy.typing import NDArray

from triptych.runs.reader import sanitize
from triptych.tools.compare import formats
from triptych.tools.compare.content import COSTS, BaseComparison, Comparison, Cost
from triptych.tools.compare.runs import Curve, ImageTypes, TrainedNetwork
from triptych.tools.report import charts
from triptych.tools.report.charts import Axis, Series, render_chart
from triptych.tools.statistics.inference import (
    MIN_SEEDS,
    NUM_RESAMPLES,
    Interval,
    WithInterval,
    wilson,
)
from triptych.tools.statistics.scores import LAST_CORRECT, TABLE_1, WHY_THEY_DIFFER, last_batch

CONTENTS = {  # sections of their own come after the pairs
    "verdict": "Verdict",
    "runs": "The runs",
    "pairs": "Pair by pair",
    "learning": "Learning curves",
    "classes": "Class by class",
    "cost": "Accuracy and cost",
    "calibration": "Calibration",
    "image_types": "Image types",
    "images": "Image by image",
    "study": "The reference study",
    "reproduce": "How to reproduce this",
}
OF_RUNS = ("learning", "cost", "image_types")
OF_LABELS = {  # of runs with any number of labels an image
    "labels_verdict": "Verdict",
    "labels_runs": "The runs",
    "labels_pairs": "Pair by pair",
    "reproduce": "How to reproduce this",
}
MAX_RELIABILITY = 6
MAX_PLACES = 3  # charts of one cost, each of networks measured in one place
CURVES = (
    ("val/accuracy", "Validation accuracy", Axis("validation accuracy", "percent")),
    ("val/loss", "Validation loss", Axis("validation loss, nats")),
    ("train/loss", "Training loss", Axis("training loss, nats")),
)
MAX_CELLS = 1000  # of a side of a matrix that is a picture
MAX_SIDE = 96  # of a picture in the gallery, in pixels


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
        best = sorted(recipes, key=lambda recipe: -recipe.accuracy.value)[: charts.NUM_STYLES]
        self.recipes = [recipe for recipe in recipes if recipe in best]
        self.num_others = len(recipes) - len(self.recipes)
        self.styles = {
            network.label: style
            for style, recipe in enumerate(self.recipes)
            for network in recipe.networks
        }


def render_page(comparison: BaseComparison) -> str:
    """`index.html`; the same comparison gives the same bytes."""
    if not isinstance(comparison, Comparison):
        return render_frame(OF_LABELS, c=comparison)
    key = Key(comparison)
    return render_frame(
        list_contents(comparison),
        c=comparison,
        key=key,
        curves=draw_curves(comparison.curves, key),
        costs=draw_costs(comparison.networks, key),
        unmeasured=list_unmeasured(comparison.networks),
        calibration=draw_calibration(key),
        image_types=draw_image_types(comparison.image_types, key),
    )


def list_contents(comparison: Comparison) -> dict[str, str]:
    """The headings of a page's sections; those of its own come after the pairs.

    What cannot be known of any of its networks is left out.
    """
    left_out = [] if comparison.runs else [*OF_RUNS]
    left_out += [] if comparison.has_study else ["study"]
    left_out += [] if comparison.has_probabilities else ["calibration"]
    shared = {name: heading for name, heading in CONTENTS.items() if name not in left_out}
    shared["runs"] = shared["runs"] if comparison.runs else "The networks"
    own = {name: section.heading for name, section in comparison.sections.items()}
    place = [*shared].index("pairs") + 1
    return dict([*shared.items()][:place]) | own | shared


def render_frame(contents: dict[str, str], **content: Any) -> str:
    """A page of these sections."""
    environment = make_environment("report")
    script = environment.get_template("page.js").render()
    digest = hashlib.sha256(script.encode()).digest()
    return environment.get_template("page.html.jinja").render(
        **content,
        contents=contents.items(),
        script=Markup(script),
        # What the browser may do: show the page's own styles and pictures, run this one script.
        policy="default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{base64.b64encode(digest).decode()}'; "
        "base-uri 'none'; form-action 'none'",
    )


def render_markdown(comparison: BaseComparison) -> str:
    """`comparison.md`: what one pastes into an issue or a paper's notes."""
    environment = make_environment("report", finalize=_escape_value)
    kind = "comparison" if isinstance(comparison, Comparison) else "labels"
    template = environment.get_template(f"{kind}.md.jinja")
    return template.render(c=comparison)


def escape_markdown(words: str) -> str:
    """Words as they are, whatever they are: neither HTML nor Markdown."""
    signs = r"[\\`*\[\]|~$]|(?<![^\W_])_|_(?![^\W_])|(?<=\w):(?=//)|^[#+-]|(?<=\d)[.)](?=\s|$)"
    return re.sub(signs, r"\\\g<0>", html.escape(words, quote=False))


def _escape_value(value: object) -> Markup:
    return value if isinstance(value, Markup) else Markup(escape_markdown(str(value)))


@cache
def make_environment(*tools: str, autoescape: bool = True, **options: Any) -> Environment:
    """The templates of these tools, the first one's first, with the filters of the page."""
    environment = Environment(
        loader=ChoiceLoader(
            [PackageLoader(f"triptych.tools.{each}", "template") for each in tools]
        ),
        autoescape=autoescape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        **options,
    )
    environment.filters |= {function.__name__: function for function in FILTERS}
    environment.filters["interval"] = format_interval
    environment.globals |= {"swatch": charts.swatch, "wilson": wilson, "min_seeds": MIN_SEEDS}
    environment.globals |= {"num_resamples": NUM_RESAMPLES}
    environment.filters["extract"] = lambda name, table: table[name]
    study = {"why_they_differ": WHY_THEY_DIFFER, "table_1": TABLE_1, "last_correct": LAST_CORRECT}
    environment.globals |= study
    return environment


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
            x = Axis("epoch", "count")
            chart = render_chart(name, words, charts.draw_lines, series, x, y)
            panels.append(Panel(heading, chart))
    return panels


def draw_costs(networks: Sequence[TrainedNetwork], key: Key) -> list[Panel]:
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


def _draw_cost(cost: Cost, place: str, networks: Sequence[TrainedNetwork], key: Key) -> Panel:
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
        series.append(Series(style, values[same], y, low, high, best[same]))
    axes = Axis(cost.words, "log", cost.unit), Axis("test accuracy", "percent")
    name = f"cost {cost.words} {place}"
    chart = render_chart(name, words, charts.draw_trade_off, series, *axes)
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
        words += f"{formats.percent(before.error)} points"
        words += f", {formats.percent(after.error)} after the temperature" if after else ""
        parts = enumerate((before, after))
        series = [charts.make_reliability_series(style, part) for style, part in parts if part]
        axes = Axis("confidence", "percent"), Axis("accuracy", "percent")
        name = f"reliability {len(panels)}"
        chart = render_chart(name, words, charts.draw_reliability, series, *axes)
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
            charts.make_severity_series(key.styles.get(network.label), network.rows, kind, shift)
            for network, shift in zip(shown, shifts, strict=True)
        ]
        heading = formats.spaced(kind)
        names = formats.join_words([network.label for network in shown], formats.MAX_WORDS)
        words = f"Accuracy by severity of {heading}, of {names}; numbers in the table below"
        chart = render_chart(f"type {number}", words, charts.draw_lines, series, x, y)
        panels.append(Panel(heading[:1].upper() + heading[1:], chart))
    return panels


def format_interval(
    estimate: WithInterval | Interval, digits: int = 2, signed: bool = False
) -> str:
    write = formats.points if signed else formats.percent
    return formats.interval(estimate.low, estimate.high, write, digits)


def short(value: float | None, unit: str = "") -> str:
    """5.61 M, 22.54 MB."""
    return formats.DASH if value is None else EngFormatter(unit, places=2)(value)


def share(part: float, total: float) -> str:
    """The square root of a share, as CSS takes it."""
    return f"{100 * math.sqrt(part / total):.0f}%" if total else "0%"


def find_scale(values: Iterable[Iterable[float]], zero: bool = False) -> Interval:
    """The lowest and the highest of all values; with `zero`, 0 is in the middle."""
    known = [value for each in values for value in each if not math.isnan(value)]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    most = max(abs(low), abs(high))
    return Interval(-most, most) if zero else Interval(low, high)


def locate(value: float, scale: Interval) -> str:
    """Where a value lies between the ends of a scale, as CSS takes it."""
    if math.isnan(value):
        return "0%"
    low, high = scale
    return f"{100 * (value - low) / (high - low) if high > low else 50:.1f}%"


def png(pixels: NDArray[np.uint8]) -> str:
    """An image (3, H, W); of a large one, every so many pixels, for a page holds dozens."""
    step = math.ceil(max(pixels.shape[1:]) / MAX_SIDE)
    return encode_png(pixels[:, ::step, ::step].transpose(1, 2, 0))


def heat_png(counts: NDArray[np.int64]) -> str:
    """A matrix (C, C), a pixel a cell, or a few where there are many: the square root of its share
    of the row."""
    starts = np.arange(0, len(counts), math.ceil(len(counts) / MAX_CELLS))
    counts = np.add.reduceat(np.add.reduceat(counts, starts, axis=0), starts, axis=1)
    totals = np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return encode_png(np.sqrt(counts / totals), cmap="Blues", vmin=0, vmax=1)


def encode_png(pixels: NDArray[Any], **colours: Any) -> str:
    """A data: URL of pixels (H, W, 3), or of values (H, W) in these colours."""
    buffer = io.BytesIO()
    imsave(buffer, np.ascontiguousarray(pixels), format="png", **colours)
    return formats.data_uri(buffer.getvalue())


FILTERS = (
    *(formats.percent, formats.points, formats.thousands, formats.fixed, formats.p_value),
    *(formats.chance, formats.join_words, formats.pluralize, formats.spaced, last_batch),
    *(short, share, find_scale, locate),
    *(formats.data_uri, png, heat_png, sanitize, Markup),
)
