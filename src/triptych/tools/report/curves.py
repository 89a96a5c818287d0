"""Learning curves, calibration and accuracy by severity."""

from collections.abc import Sequence

import numpy as np

from triptych.tools.compare import formats
from triptych.tools.compare.runs import Curve, ImageTypes
from triptych.tools.report import charts
from triptych.tools.report.charts import SMALL, Axis, Chart, Key, Series, make_chart

MAX_RELIABILITY = 6
CURVES = (
    ("val/accuracy", "Validation accuracy", Axis("validation accuracy", "percent")),
    ("val/loss", "Validation loss", Axis("validation loss, nats")),
    ("train/loss", "Training loss", Axis("training loss, nats")),
)


def draw_curves(curves: Sequence[Curve], key: Key) -> list[Chart]:
    """Validation accuracy and both losses by epoch; a ring marks the epoch that was scored."""
    panels = []
    for name, heading, y in CURVES:
        series = []
        for curve in curves:
            measured = np.isfinite(curve.metrics[name])
            epochs, values = curve.epochs[measured], curve.metrics[name][measured]
            scored = epochs == curve.best_epoch if name.startswith("val") else None
            style = key.styles.get(curve.label)
            along = epochs.astype(np.float64)
            series.append(Series(style, along, values, marked=scored, label=curve.label))
        series = [line for line in series if len(line.x)]
        if series:
            words = f"{heading} by epoch, of {len(series)} networks; the table below has the ends"
            x = Axis("epoch", "count")
            panels.append(make_chart(heading, words, charts.draw_lines, series, x, y))
    return panels


def draw_calibration(key: Key) -> list[Chart]:
    """Reliability of recipes that have a style: as trained (style 0), after the temperature (1)."""
    panels: list[Chart] = []
    measured = [(each.first.label, each.calibration) for each in key.recipes if each.calibration]
    for label, (before, _, after) in measured[:MAX_RELIABILITY]:
        words = f"Accuracy against confidence of {label}: calibration error "
        words += f"{formats.percent(before.error)} points"
        words += f", {formats.percent(after.error)} after the temperature" if after else ""
        parts = enumerate((before, after))
        series = [charts.make_reliability_series(style, part) for style, part in parts if part]
        axes = Axis("confidence", "percent"), Axis("accuracy", "percent")
        drawn = make_chart(label, words, charts.draw_reliability, series, *axes, sizes=SMALL)
        panels.append(drawn)
    return panels


def draw_image_types(measured: Sequence[ImageTypes], key: Key) -> list[Chart]:
    """A chart a type: accuracy by severity, of the first network of each recipe with a style."""
    shown = [network for network in measured if network.label in key.styles]
    kinds = dict.fromkeys(row.type for network in shown for row in network.rows if row.severity)
    shifts = 0.05 * (np.arange(len(shown)) - (len(shown) - 1) / 2)
    x, y = Axis("severity", ticks=("none", "1", "2", "3")), Axis("accuracy", "percent")
    panels = []
    for kind in kinds:
        series = [
            charts.make_severity_series(key.styles.get(network.label), network.rows, kind, shift)
            for network, shift in zip(shown, shifts, strict=True)
        ]
        heading = formats.spaced(kind)
        heading = heading[:1].upper() + heading[1:]
        names = formats.join_words([network.label for network in shown], formats.MAX_WORDS)
        words = f"Accuracy by severity of {heading}, of {names}; numbers in the table below"
        panels.append(make_chart(heading, words, charts.draw_lines, series, x, y, sizes=SMALL))
    return panels
