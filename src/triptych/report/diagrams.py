"""Pictures of an evaluation, as matplotlib figures that belong to nobody but the caller."""

import textwrap
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from triptych.evaluation.calibration import Calibration

MAX_COLUMNS = 8
ROWS = ("image", "heat for\nthe prediction", "heat for\nthe true class")


class Explained(NamedTuple):
    """An image and where a network found two classes in it; heat is scaled by its own maximum."""

    image: NDArray[np.uint8]  # (3, H, W)
    heats: NDArray[np.floating]  # (2, S, S): of the predicted class, of the true one
    names: tuple[str, str]
    probabilities: tuple[float, float]
    place: int  # in the official set


def reliability_diagram(calibration: Calibration, heading: str) -> Figure:
    """Accuracy against confidence: a point a bin of equally many images, with its interval."""
    figure = Figure(figsize=(5.6, 5.6), dpi=100)
    axes = figure.add_axes((0.12, 0.1, 0.84, 0.84))
    axes.plot([0, 1], [0, 1], color="0.6", linestyle="--", linewidth=1, label="calibrated")
    shown = [(calibration.before, "as trained", "#0b57a4", "o")]
    if calibration.after and calibration.temperature:
        label = f"temperature {calibration.temperature:.2f}"
        shown.append((calibration.after, label, "#c4500a", "s"))
    for found, label, colour, marker in shown:
        confidence = [bin.confidence for bin in found.bins]
        accuracy = np.array([bin.accuracy for bin in found.bins])
        low, high = np.array([bin.interval for bin in found.bins]).T
        error = f"{label}: error {found.error:.1%} ({found.expected:.1%} if calibrated)"
        axes.errorbar(
            confidence, accuracy, yerr=np.abs([accuracy - low, high - accuracy]), label=error,
            color=colour, marker=marker, markersize=5, linewidth=1.2, capsize=2, elinewidth=0.8,
        )  # fmt: skip
    axes.set(xlim=(0, 1.01), ylim=(0, 1.01), aspect="equal")
    axes.set_title(heading, y=1)
    axes.set_xlabel("confidence: mean probability of the predicted class")
    axes.set_ylabel("accuracy, with 95 % interval")
    axes.grid(color="0.92")
    axes.legend(loc="upper left", fontsize=9)
    return figure


def heat_maps(explained: Sequence[Explained], heading: str) -> Figure:
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
        _draw(grid[3 * band : 3 * band + 3, column], each)
    for row, axes in enumerate(grid[:, 0]):
        axes.set_ylabel(ROWS[row % 3], fontsize=9)
    return figure


def _draw(column: NDArray[np.object_], each: Explained) -> None:
    picture = each.image.transpose(1, 2, 0)
    titles = [f"image {each.place}"]
    for name, probability in zip(each.names, each.probabilities, strict=True):
        titles.append(f"{textwrap.shorten(name, 16, placeholder='…')} {probability:.1%}")
    extent = (0, picture.shape[1], picture.shape[0], 0)
    for axes, title, heat in zip(column, titles, (None, *each.heats), strict=True):
        axes.imshow(picture, extent=extent, interpolation="nearest")
        axes.set_title(title, fontsize=9, y=1)
        if heat is None:
            continue
        if heat.max() > 0:
            axes.imshow(heat / heat.max(), cmap="inferno", alpha=0.6, extent=extent, vmin=0)
        else:
            axes.set_xlabel("no heat", fontsize=8)
