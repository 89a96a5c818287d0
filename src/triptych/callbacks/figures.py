"""Pictures of a run, as matplotlib figures that belong to nobody but the caller (no pyplot)."""

import io
import unicodedata
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.image import imsave
from matplotlib.text import Text
from numpy.typing import NDArray

from triptych.runs.storage import atomic_write

MAX_IMAGES = 32
MAX_WRITTEN_CLASSES = 20  # of more classes counts would be too small to read
MAX_NAMED_CLASSES = 40
# TensorBoard shows a picture 350 pixels wide, and leaves out pixels of a larger one: of this every
# second. Letters can be read there in a figure of few inches.
WIDTH = 700.1  # pixels; what matplotlib rounds down


def image_grid(images: NDArray[np.uint8], titles: Sequence[str], heading: str) -> Figure:
    """The first 32 of images (N, 3, H, W), N > 0, pixel for pixel, each under its title."""
    num_images = min(len(images), MAX_IMAGES)
    columns = min(num_images, 4)
    rows = -(-num_images // columns)
    height = 1.35 * rows + 0.4
    figure = Figure(figsize=(4.8, height), dpi=WIDTH / 4.8)
    _add_heading(figure, heading)
    figure.subplots_adjust(0.01, 0.01, 0.99, 1 - 0.6 / height, wspace=0.06, hspace=0.2)
    for axes in figure.subplots(rows, columns, squeeze=False).flat:
        axes.set_axis_off()
    for axes, image, title in zip(figure.axes, images[:num_images], titles, strict=False):
        axes.imshow(image.transpose(1, 2, 0), interpolation="nearest")
        axes.set_title(truncate(title, 16), fontsize=9, y=1)  # else matplotlib measures
    return figure


def confusion_matrix(counts: NDArray[np.int64], classes: Sequence[str], heading: str) -> Figure:
    """Counts (C, C), a row for each true class, coloured by the fraction of that row.

    Of more than 20 classes a colour bar stands in place of the counts. A class without images has
    no fractions: its row is grey, and the axis says so.
    """
    is_written = len(classes) <= MAX_WRITTEN_CLASSES
    totals = np.broadcast_to(counts.sum(axis=1, keepdims=True), counts.shape)
    fractions = np.ma.masked_array(counts / np.maximum(totals, 1), mask=totals == 0)
    names = [truncate(name, 20) for name in classes]
    longest = max(map(count_columns, names)) if len(names) <= MAX_NAMED_CLASSES else 3
    side = max(3.4, 0.28 * len(classes)) if is_written else 4.6
    figure = _square(side, longest, beside=0.1 if is_written else 0.9)
    [axes] = figure.axes
    # Without numbers to read, a square root makes rare confusions visible beside the diagonal.
    norm = PowerNorm(1 if is_written else 0.5, vmin=0, vmax=1)
    picture = axes.imshow(fractions, cmap="Blues", norm=norm, interpolation="nearest")
    _add_heading(figure, heading)
    axes.set(xlabel="predicted class", facecolor="0.85")
    axes.set_ylabel("true class (grey: no images)" if fractions.mask.any() else "true class")
    _name_classes(axes, names)
    if is_written:
        size = min(10, 100 * side / len(counts) / len(str(counts.max())))  # points
        _write_counts(axes, counts, fractions.filled(0) > 0.5, size)
    else:
        corner = axes.get_position()
        bar = figure.add_axes((corner.x1 + 0.02, corner.y0, 0.02, corner.height))
        figure.colorbar(picture, cax=bar, label="fraction of the true class")
    return figure


def _add_heading(figure: Figure, heading: str) -> None:
    """In one line, in smaller letters where it is long."""
    width, height = figure.get_size_inches()
    size = min(11, 100 * width / max(1, count_columns(heading)))
    figure.suptitle(heading, y=1 - 0.1 / height, va="top", fontsize=size)


def _square(side: float, longest_name: int, beside: float) -> Figure:
    """Axes `side` inches wide and high, with room for names, a heading and what stands `beside`.

    Margins follow from the number of letters: layouts of matplotlib, which measure, are slow.
    """
    room = 0.085 * longest_name  # inches at 10 points
    left, bottom = 0.4 + room, 0.4 + 0.75 * room
    width, height = left + side + beside, bottom + side + 0.4
    figure = Figure(figsize=(width, height), dpi=WIDTH / width)
    figure.add_axes((left / width, bottom / height, side / width, side / height))
    return figure


def _write_counts(
    axes: Axes, counts: NDArray[np.int64], is_dark: NDArray[np.bool_], size: float
) -> None:
    """Every count in its cell: zeros faint, so that the others catch the eye."""
    for (row, column), count in np.ndenumerate(counts):
        colour = "white" if is_dark[row, column] else "0.15" if count else "0.75"
        axes.text(column, row, str(count), ha="center", va="center", color=colour, size=size)


def _name_classes(axes: Axes, names: Sequence[str]) -> None:
    """Every class by name, or some ten by number where names would overlap."""
    if len(names) > MAX_NAMED_CLASSES:
        numbers = range(0, len(names), 10 * -(-len(names) // 100))
        axes.set(xticks=numbers, yticks=numbers)
        return
    size = 10 if len(names) <= MAX_WRITTEN_CLASSES else 7.5
    axes.set_yticks(range(len(names)), names, fontsize=size)
    axes.set_xticks(range(len(names)), names, fontsize=size, rotation=45)
    for label in axes.get_xticklabels():
        label.set(horizontalalignment="right", rotation_mode="anchor")


def save(figure: Figure, path: Path) -> NDArray[np.uint8]:
    """Write a PNG, whole or not at all; its pixels, (3, H, W), so that nobody draws it twice."""
    image = pixels(figure)
    with atomic_write(path) as temporary:
        imsave(temporary, image.transpose(1, 2, 0), format="png")
    return image


def pixels(figure: Figure) -> NDArray[np.uint8]:
    """The figure as drawn, (3, H, W); dollars in a name are no formula."""
    for axes in figure.axes:  # the texts of ticks are set when they are asked for
        axes.get_xticklabels(), axes.get_yticklabels()
    texts = figure.findobj(Text)
    for text in texts:
        text.set_parse_math(False)
    letters = frozenset("".join(text.get_text() for text in texts)) - {"…", "−"}  # ours
    if letters and max(letters) > "\u024f":  # beyond Latin
        from triptych.data.fonts import find_fonts

        families = find_fonts(letters)
        for text in texts if families else ():
            text.set_fontfamily([*text.get_fontfamily(), *families])
    buffer = io.BytesIO()
    with missing_letters_as_boxes():
        figure.savefig(buffer, format="rgba")
    width, height = figure.canvas.get_width_height()
    image = np.frombuffer(buffer.getbuffer(), dtype=np.uint8).reshape(height, width, 4)
    return np.ascontiguousarray(image[..., :3].transpose(2, 0, 1))


def truncate(name: str, length: int) -> str:
    """At most that many letters, the last of a longer name an ellipsis."""
    return name if len(name) <= length else name[: length - 1] + "…"


@contextmanager
def missing_letters_as_boxes() -> Iterator[None]:
    """Draw without a warning for each letter that no font has: `find_fonts` says so once."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        yield


def count_columns(text: str) -> int:
    """How wide a text is, in Latin letters: Chinese ones and emoji are twice as wide."""
    return sum(1 + (unicodedata.east_asian_width(letter) in "WF") for letter in text)
