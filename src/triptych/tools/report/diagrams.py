"""Figures of an evaluation, as PNGs, drawn by the functions that draw the page's charts.

Shapes: K images of H x W pixels, white seams included in H' and W'.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from triptych.callbacks.figures import truncate
from triptych.tools.compare.formats import percent, spaced
from triptych.tools.evaluate.degradation import UNMODIFIED, VariantAccuracy
from triptych.tools.report.charts import (
    Axis,
    draw_lines,
    draw_reliability,
    label_axes,
    make_reliability_series,
    make_severity_series,
)
from triptych.tools.statistics.calibration import Calibration

if TYPE_CHECKING:  # it imports torch, which no picture needs
    from triptych.tools.evaluate.grad_cam import Explanation

MAX_COLUMNS = 8
LEVELS = ("unmodified", "severity 1", "severity 2", "severity 3")
PANELS_A_ROW = 5
MAX_SIDE = 64  # pixels of an image among many: a larger one would be shrunk as it is drawn
GAP = 1 / 16  # between images, of their width; four times that between columns
TITLE_LETTERS = 20  # that fit above an image
LABELS, HEADS, IMAGES = 1.8, 0.4, 12.0  # inches: left of the images, above them, theirs
ROWS = ("image", "heat for\nthe prediction", "heat for\nthe true class")


def reliability_diagram(calibration: Calibration, heading: str) -> Figure:
    """Accuracy against confidence: a point a bin of equally many images, with its interval."""
    before, temperature, after = calibration
    curves = [(before, "as trained")]
    if after and temperature:
        curves.append((after, f"temperature {temperature:.2f}"))
    series = []
    for style, (measured, name) in enumerate(curves):
        error, expected = percent(measured.error, 1), percent(measured.expected, 1)
        label = f"{name}: error {error} % ({expected} % if calibrated)"
        series.append(make_reliability_series(style, measured, label))
    figure = Figure(figsize=(6.4, 5.6), dpi=100)
    axes = figure.add_axes((0.13, 0.1, 0.84, 0.82))
    x = Axis("confidence: mean probability of the predicted class", "percent")
    label_axes(axes, x, Axis("accuracy, with 95 % interval", "percent"))
    draw_reliability(axes, series)
    axes.set_title(heading, y=1)
    axes.legend(loc="upper left", fontsize=9)
    return figure


def severity_curves(rows: Sequence[VariantAccuracy], heading: str) -> Figure:
    """Accuracy by severity, a panel a type, with 95 % intervals; 0 is the unmodified images."""
    types = list(dict.fromkeys(row.type for row in rows if row.type != UNMODIFIED))
    lines = -(-len(types) // PANELS_A_ROW)
    height = 2.4 * lines + 0.6
    figure = Figure(figsize=(12, height), dpi=100)
    figure.suptitle(f"{heading}: accuracy by severity, {rows[0].num_images} images")
    figure.subplots_adjust(0.06, 0.6 / height, 0.99, 1 - 0.7 / height, wspace=0.08, hspace=0.25)
    grid = figure.subplots(lines, PANELS_A_ROW, sharex=True, sharey=True, squeeze=False)
    for axes, name in zip(grid.flat, types, strict=False):
        label_axes(axes, Axis("", ticks=("none", "1", "2", "3")), Axis("", "percent"))
        draw_lines(axes, [make_severity_series(0, rows, name)])
        axes.set_title(spaced(name), fontsize=10)
        axes.set_ylim(0, 1)
    for axes in grid.flat[len(types) :]:
        axes.set_axis_off()
    figure.supxlabel("severity", fontsize=10)
    figure.supylabel("accuracy", x=0.005, fontsize=10)
    return figure


def heat_maps(explained: Sequence["Explanation"], heading: str) -> Figure:
    """A column an image: the image, then the heat over it for the predicted and the true class."""
    columns = min(len(explained), MAX_COLUMNS)
    bands = -(-len(explained) // columns)
    width, height = max(1.4 * columns + 0.9, 4.2), 5.1 * bands + 0.6
    figure = Figure(figsize=(width, height), dpi=100)
    figure.suptitle(heading, y=1 - 0.1 / height, va="top")
    # By hand: matplotlib's layouts, which measure, take as long as the drawing.
    figure.subplots_adjust(
        0.8 / width, 0.25 / height, 1 - 0.1 / width, 1 - 0.65 / height, wspace=0.06, hspace=0.25
    )
    grid = figure.subplots(3 * bands, columns, squeeze=False)
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[], frame_on=False)
    for place, each in enumerate(explained):
        band, column = divmod(place, columns)
        _draw_column(grid[3 * band : 3 * band + 3, column], each)
    for row, axes in enumerate(grid[:, 0]):
        axes.set_ylabel(ROWS[row % 3], fontsize=9)
    return figure


def _draw_column(column: NDArray[np.object_], each: "Explanation") -> None:
    picture = each.image.transpose(1, 2, 0)
    titles = [shorten_path(each.name, TITLE_LETTERS)]
    for name, probability in zip(each.names, each.probabilities, strict=True):
        titles.append(f"{truncate(name, 16)} {probability:.1%}")
    extent = (0, picture.shape[1], picture.shape[0], 0)
    for axes, title, heat in zip(column, titles, (None, *each.heats), strict=True):
        axes.imshow(picture, extent=extent, interpolation="nearest")
        axes.set_title(title, fontsize=8 if heat is None else 9, y=1)
        if heat is None:
            continue
        if heat.max() > 0:
            axes.imshow(heat / heat.max(), cmap="inferno", alpha=0.6, extent=extent, vmin=0)
        else:
            axes.set_xlabel("no heat", fontsize=8)


def shorten_path(path: str, length: int) -> str:
    """At most that many letters, the first of a longer path an ellipsis: its end tells most."""
    return path if len(path) <= length else "…" + path[1 - length :]


def type_sheet(variants: Mapping[str, NDArray[np.uint8]]) -> Figure:
    """A row for each type of images (4, K, 3, H, W): as they are, then at each severity."""
    parts = []
    for images in variants.values():  # beside each other, white between and below them
        step = max(1, images.shape[-1] // MAX_SIDE)
        images = images[..., ::step, ::step]
        gap = max(1, round(GAP * images.shape[-1]))
        padded = np.pad(images, [(0, 0)] * 3 + [(0, gap)] * 2, constant_values=255)
        strips = np.concatenate(list(padded.transpose(1, 0, 3, 4, 2)), axis=2)  # (4, H', K W', 3)
        apart = np.pad(strips, [(0, 0), (0, 0), (0, 3 * gap), (0, 0)], constant_values=255)
        parts.append(np.concatenate(list(apart), axis=1))
    sheet = np.concatenate(parts)
    row, column = sheet.shape[0] / len(variants), sheet.shape[1] / len(LEVELS)
    width, height = LABELS + IMAGES, HEADS + IMAGES * sheet.shape[0] / sheet.shape[1]
    figure = Figure(figsize=(width, height), dpi=100)
    axes = figure.add_axes((LABELS / width, 0, IMAGES / width, 1 - HEADS / height))
    axes.imshow(sheet, interpolation="nearest", aspect="auto")
    axes.set_frame_on(False)
    axes.set_yticks([(n + 0.5) * row for n in range(len(variants))], map(spaced, variants))
    axes.set_xticks([(n + 0.5) * column for n in range(len(LEVELS))], LEVELS)
    axes.tick_params(length=0, labeltop=True, labelbottom=False)
    return figure
