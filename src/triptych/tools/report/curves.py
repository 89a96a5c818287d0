"""Learning curves, calibration, selective risk and accuracy by severity."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from matplotlib.axes import Axes

from triptych.callbacks.figures import count_columns
from triptych.tools.compare import formats
from triptych.tools.compare.abstention import Abstention
from triptych.tools.compare.recipes import Recipe
from triptych.tools.compare.runs import Curve, ImageTypes
from triptych.tools.report import charts
from triptych.tools.report.charts import SMALL, Axis, Chart, Key, Series, make_chart
from triptych.tools.statistics.calibration import NUM_BINS

MAX_RELIABILITY = 6
MAX_EPOCHS = 150  # drawn of a line, besides those that were scored: a picture has no more room
MAX_SHARES, LEAST_ANSWERED = 100, 0.02  # drawn of a line of risk: of fewer images it only jumps
MIN_BIN = 10  # images: the interval of a bin of fewer reaches over most of the picture
CURVES = (
    ("val/accuracy", "Validation accuracy", Axis("validation accuracy", "percent")),
    ("val/loss", "Validation loss", Axis("validation loss, nats")),
    ("train/loss", "Training loss", Axis("training loss, nats")),
)


def draw_curves(recipes: Sequence[Recipe], curves: Sequence[Curve], key: Key) -> list[Chart]:
    """Validation accuracy and both losses by epoch: a line a recipe, with the band of its seeds; a
    ring marks an epoch that was scored."""
    drawn = []
    for name, heading, y in CURVES:
        series = []
        for recipe in recipes:
            labels = {network.label for network in recipe.networks}
            own = [curve for curve in curves if curve.label in labels]
            line = average_curves(own, name, key.styles.get(recipe.label), recipe.label)
            series += [line] if line else []
        if series:
            words = f"{heading} by epoch, of {formats.pluralize(len(series), 'recipe')}"
            words += "; the table below has the ends"
            x = Axis("epoch", "count")
            drawn.append(make_chart(heading, words, draw_named_bands, series, x, y))
    return drawn


def average_curves(
    curves: Sequence[Curve], name: str, style: int | None, label: str
) -> Series | None:
    """The mean of seeds, from the lowest to the highest of them, over the epochs that all have."""
    tables = []
    for curve in curves:
        values = curve.metrics[name]
        known = np.isfinite(values)
        if known.any():
            tables.append(dict(zip(curve.epochs[known].tolist(), values[known], strict=True)))
    epochs = sorted(set.intersection(*map(set, tables))) if tables else []
    if not epochs:
        return None
    scored = {curve.best_epoch for curve in curves} if name.startswith("val") else set()
    step = math.ceil(len(epochs) / MAX_EPOCHS)
    epochs = sorted({*epochs[::-step]} | (scored & {*epochs}))
    values = np.array([[table[epoch] for epoch in epochs] for table in tables])
    low, high = (values.min(axis=0), values.max(axis=0)) if len(values) > 1 else (None, None)
    is_scored = np.isin(epochs, [epoch for epoch in scored if epoch])
    x = np.array(epochs, dtype=np.float64)
    return Series(style, x, values.mean(axis=0), low, high, is_scored, label)


def draw_named_bands(axes: Axes, series: Sequence[Series]) -> None:
    """The same, each line with its name at its end."""
    charts.draw_bands(axes, series)
    named = [each for each in series if each.label and each.style is not None]
    room = min(charts.LETTER * max((count_columns(s.label) for s in named), default=0) + 10, 170)
    room = min(room, 0.4 * axes.bbox.width)
    axes.autoscale_view()
    low, high = axes.get_xlim()
    ticks = [tick for tick in axes.get_xticks() if low <= tick <= high]
    axes.set_xlim(low, high + (high - low) * room / (axes.bbox.width - room))
    axes.set_xticks(ticks)
    ends = [axes.transData.transform((each.x[-1], each.y[-1])) for each in named]
    heights = move_apart([y for _, y in ends], axes.bbox.y0 + 2, axes.bbox.y1 - 12)
    for each, (x, _), height in zip(named, ends, heights, strict=True):
        name = charts.cut_middle(each.label, max(int((room - 8) / charts.LETTER), 6))
        left, base = axes.transData.inverted().transform((x + 8, height))
        colour = charts.find_colour(each.style)
        axes.text(left, base, name, fontsize=12, va="center", color=colour, bbox=charts.HALO)


def move_apart(heights: Sequence[float], low: float, high: float, gap: float = 14) -> list[float]:
    """Heights as near to these as can be, in their order, with a gap between them."""
    order = np.argsort(heights, kind="stable")
    moved, least = np.array(heights, dtype=float), low
    for place in order:
        moved[place] = least = max(moved[place], least)
        least += gap
    most = high
    for place in order[::-1]:
        moved[place] = most = min(moved[place], most)
        most -= gap
    return [float(height) for height in moved]


def draw_calibration(key: Key) -> list[Chart]:
    """Reliability of recipes that have a style: as trained (style 0), after the temperature (1).

    Of fewer images than fill the bins nothing is drawn.
    """
    panels: list[Chart] = []
    enough = [each for each in key.recipes if each.first.num_test >= MIN_BIN * NUM_BINS]
    measured = [(each.first.label, each.calibration) for each in enough if each.calibration]
    for label, (before, _, after) in measured[:MAX_RELIABILITY]:
        caption = f"Error {formats.percent(before.error)} points"
        caption += f", {formats.percent(after.error)} after the temperature" if after else ""
        words = f"Accuracy against confidence of {label}. {caption}"
        parts = enumerate((before, after))
        names = ("as trained", "after the temperature")
        series = [charts.make_reliability_series(s, part, names[s]) for s, part in parts if part]
        axes = Axis("confidence", "percent"), Axis("accuracy", "percent")
        about = (label, words, charts.draw_reliability, series)
        panels.append(make_chart(*about, *axes, sizes=SMALL, caption=caption))
    return panels


def draw_risks(section: Abstention, key: Key) -> Chart:
    """The errors among what a network answers by how much it answers, on test images."""
    series = []
    for each in section.measured:
        (_, answered, errors), chosen = each.curve, each.answers[0]
        wanted = np.linspace(LEAST_ANSWERED, 1, MAX_SHARES) * answered[-1]
        places = np.unique(np.searchsorted(answered, [*wanted, chosen.num_answered]))
        answered, errors = answered[places], errors[places]
        marked, risk = answered == chosen.num_answered, errors / answered
        low, high = (np.where(marked, end, np.nan) for end in (risk, chosen.bound or np.nan))
        style, share = key.styles.get(each.recipe), answered / answered[-1]
        series.append(Series(style, share, risk, low, high, marked, each.recipe))
    heading = "Errors among the answers, by how many are given"
    words = f"{heading}, of the first network of {formats.pluralize(len(series), 'recipe')}"
    axes = Axis("test images answered", "percent"), Axis("errors among them", "percent")
    caption = f"A ring is where at most {formats.rate(section.risk)} of answers on validation "
    caption += "images are wrong; the line from it ends at the bound of errors there"
    return make_chart(heading, words, draw_bounded, series, *axes, caption=caption)


def draw_bounded(axes: Axes, series: Sequence[Series]) -> None:
    for each in series:
        charts.draw_intervals(axes, each)
    draw_named_bands(axes, [replace(each, low=None, high=None) for each in series])


def draw_image_types(measured: Sequence[ImageTypes], key: Key) -> list[Chart]:
    """A chart a type: accuracy by severity, of the first network of each recipe with a style; the
    type that costs these networks most accuracy comes first."""
    shown = [network for network in measured if network.label in key.styles]
    kinds = sorted(
        dict.fromkeys(row.type for network in shown for row in network.rows if row.severity),
        key=lambda kind: -find_loss(shown, kind),
    )
    shifts = 0.05 * (np.arange(len(shown)) - (len(shown) - 1) / 2)
    x, y = Axis("severity", ticks=("none", "1", "2", "3")), Axis("accuracy", "percent")
    panels = []
    for kind in kinds:
        series = [
            charts.make_severity_series(
                key.styles.get(network.label), network.rows, kind, shift, network.label
            )
            for network, shift in zip(shown, shifts, strict=True)
        ]
        heading = formats.capitalize(formats.spaced(kind))
        names = formats.join_words([network.label for network in shown], formats.MAX_WORDS)
        words = f"Accuracy by severity of {heading}, of {names}; numbers in the table below"
        loss = find_loss(shown, kind)
        caption = f"{formats.percent(loss, 1)} points lost" if loss else ""
        about = (heading, words, charts.draw_lines, series)
        panels.append(make_chart(*about, x, y, sizes=SMALL, caption=caption))
    return panels


def find_loss(measured: Sequence[ImageTypes], kind: str) -> float:
    """The mean over these networks of the accuracy that a type of images costs."""
    known = [each.degradations[kind].value for each in measured if kind in each.degradations]
    return float(np.mean(known)) if known else 0.0
