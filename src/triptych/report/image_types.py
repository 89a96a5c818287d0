"""Pictures of what image types are and what they cost a network. Knows nothing of torch.

Shapes: K images of H x W pixels.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from triptych.evaluation.degradation import UNMODIFIED, Row

COLUMNS = ("unmodified", "severity 1", "severity 2", "severity 3")
PANELS_A_ROW = 5
GAP = 1 / 16  # between images, of their width; four times that between columns
LABELS, HEADS, WIDTH = 1.8, 0.4, 12.0  # inches: left of the images, above them, theirs


def type_sheet(variants: Mapping[str, NDArray[np.uint8]]) -> Figure:
    """A row for each type of images (4, K, 3, H, W): as they are, then at each severity."""
    sheet = np.concatenate([_line(images) for images in variants.values()])
    row, column = sheet.shape[0] / len(variants), sheet.shape[1] / len(COLUMNS)
    width, height = LABELS + WIDTH, HEADS + WIDTH * sheet.shape[0] / sheet.shape[1]
    figure = Figure(figsize=(width, height), dpi=100)
    axes = figure.add_axes((LABELS / width, 0, WIDTH / width, 1 - HEADS / height))
    axes.imshow(sheet, interpolation="nearest", aspect="auto")
    axes.set_frame_on(False)
    axes.set_yticks([(n + 0.5) * row for n in range(len(variants))], map(in_words, variants))
    axes.set_xticks([(n + 0.5) * column for n in range(len(COLUMNS))], COLUMNS)
    axes.tick_params(length=0, labeltop=True, labelbottom=False)
    return figure


def severity_curves(rows: Sequence[Row], heading: str) -> Figure:
    """Accuracy by severity, a panel a type, with 95 % intervals; 0 is the unmodified images."""
    unmodified = [row for row in rows if row.type == UNMODIFIED]
    types = list(dict.fromkeys(row.type for row in rows if row.type != UNMODIFIED))
    lines = -(-len(types) // PANELS_A_ROW)
    figure = Figure(figsize=(12, 2.4 * lines + 0.6), dpi=100, layout="constrained")
    figure.suptitle(f"{heading}: accuracy by severity, {rows[0].num_images} images")
    grid = figure.subplots(lines, PANELS_A_ROW, sharex=True, sharey=True, squeeze=False)
    for axes, name in zip(grid.flat, types, strict=False):
        points = [*unmodified, *(row for row in rows if row.type == name)]
        below = [row.accuracy - row.accuracy_low for row in points]
        above = [row.accuracy_high - row.accuracy for row in points]
        x, y = [row.severity for row in points], [row.accuracy for row in points]
        axes.errorbar(x, y, yerr=[below, above], marker="o", markersize=4, capsize=3)
        axes.set_title(in_words(name), fontsize=10)
        axes.set(xticks=range(len(COLUMNS)), ylim=(0, 1))
        axes.grid(alpha=0.3)
    for axes in grid.flat[len(types) :]:
        axes.set_axis_off()
    figure.supxlabel("severity", fontsize=10)
    figure.supylabel("accuracy", fontsize=10)
    return figure


def in_words(name: str) -> str:
    """`small_object_plain` as a person reads it."""
    return name.replace("_", " ")


def _line(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Images (4, K, 3, H, W) beside each other (H', W', 3), white between and below them."""
    gap = max(1, round(GAP * images.shape[-1]))
    spaced = np.pad(images, [(0, 0)] * 3 + [(0, gap)] * 2, constant_values=255)
    strips = np.concatenate(list(spaced.transpose(1, 0, 3, 4, 2)), axis=2)  # (4, H', K x W', 3)
    apart = np.pad(strips, [(0, 0), (0, 0), (0, 3 * gap), (0, 0)], constant_values=255)
    line: NDArray[np.uint8] = np.concatenate(list(apart), axis=1)
    return line
