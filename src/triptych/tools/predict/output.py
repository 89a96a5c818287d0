"""A prediction, the three ways to write it as a row, and the grid of the first images.

Shapes: M networks, C classes.
"""

import csv
import io
import json
import os
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from triptych.callbacks.figures import save, truncate
from triptych.data.decoder import read_image
from triptych.data.photos import Unreadable
from triptych.errors import sanitize_text
from triptych.runs.storage import atomic_write, escape_formulas
from triptych.tools.predict.answers import Answer, Thresholds

DIGITS = 6  # of a probability, the precision of float32
SCREEN_LETTERS = 20  # of a class on the screen
COLUMNS = 6
PIXELS = 192  # of an image's longer side in the grid
CELL_LETTERS = 25  # that fit above an image


class Choice(NamedTuple):
    label: str
    probability: float


class Prediction(NamedTuple):
    """`top`: the most probable classes, best first; `votes`: each network's own best; `tta`: the
    best of the image and its mirror image together, `answer`: by thresholds, where asked for.

    A single network has no votes. With an `error` the rest is empty.
    """

    path: str
    top: tuple[Choice, ...] = ()
    votes: tuple[Choice, ...] = ()
    tta: tuple[Choice, ...] = ()
    answer: Answer | None = None
    error: str | None = None

    @property
    def agreement(self) -> str:
        """How many networks vote for the class, as 2 of 3; empty without votes."""
        agree = sum(vote.label == self.top[0].label for vote in self.votes)
        return f"{agree} of {len(self.votes)}" if self.votes else ""


class Layout(NamedTuple):
    """What all rows share: the length of the top, the names of the voters, the classes, whether
    mirror images count as well, and what answers are made by."""

    num_top: int
    voters: Sequence[str]
    classes: Sequence[str]
    has_tta: bool = False
    thresholds: Thresholds | None = None


Write = Callable[[Prediction], Any]
Array = NDArray[np.floating]


class Form(NamedTuple):
    """What is written of a prediction besides its path and its error."""

    list_columns: Callable[[Layout], list[str]]
    list_cells: Callable[[Layout, Prediction], list[Any]]
    describe: Callable[[Layout, Prediction], dict[str, Any]]  # for JSON
    format: Callable[[Layout, Prediction, str], str]  # a line for a person, with the path
    title: Callable[[Prediction], str]  # above an image of the grid


def make_prediction(
    path: str, layout: Layout, probabilities: Array, mirrored: Array | None = None
) -> Prediction:
    """The prediction of networks with probabilities (M, C); of equal ones the first class wins."""
    mean = probabilities.mean(axis=0, dtype=np.float64)
    of_both = mean if mirrored is None else (mean + mirrored.mean(axis=0, dtype=np.float64)) / 2
    if not np.isfinite(of_both).all():
        return Prediction(path, error="the network's output is not finite")
    order = np.argsort(-mean, kind="stable")[: layout.num_top]
    best = probabilities.argmax(axis=1) if layout.voters else ()
    surest = int(of_both.argmax())
    return Prediction(
        path,
        tuple(Choice(layout.classes[c], float(mean[c])) for c in order),
        tuple(Choice(layout.classes[c], float(probabilities[m, c])) for m, c in enumerate(best)),
        (Choice(layout.classes[surest], float(of_both[surest])),) if layout.has_tta else (),
        layout.thresholds.answer(mean) if layout.thresholds else None,
    )


def as_json(choice: Choice) -> dict[str, Any]:
    return {"class": choice.label, "probability": round(choice.probability, DIGITS)}


def list_columns(layout: Layout) -> list[str]:
    places = ["", *(f"_{place}" for place in range(2, layout.num_top + 1))]
    columns = [f"{name}{place}" for place in places for name in ("class", "probability")]
    more = [*layout.voters, *(["tta"] * layout.has_tta)]
    columns += [f"{each} {name}" for each in more for name in ("class", "probability")]
    return [*["answer"] * bool(layout.thresholds), *columns]


def list_cells(layout: Layout, prediction: Prediction) -> list[Any]:
    choices = (*prediction.top, *prediction.votes, *prediction.tta)
    cells = [cell for label, p in choices for cell in (label, round(p, DIGITS))]
    return [prediction.answer.format(), *cells] if prediction.answer else cells


def describe(layout: Layout, prediction: Prediction) -> dict[str, Any]:
    top, votes = ([*map(as_json, each)] for each in (prediction.top, prediction.votes))
    answer = prediction.answer.describe() if prediction.answer else None
    return {
        **({"answer": answer} if layout.thresholds else {}),
        **(top[0] if top else {"class": None, "probability": None}),
        "top": top,
        "votes": dict(zip(layout.voters, votes, strict=False)),
        **({"tta": next(map(as_json, prediction.tta), None)} if layout.has_tta else {}),
    }


def format_line(layout: Layout, prediction: Prediction, path: str) -> str:
    """The path is last because its length has no bound."""
    width = min(SCREEN_LETTERS, max(map(len, layout.classes)))
    top, tta = (
        [f"{n[:SCREEN_LETTERS]:{width}} {p:6.1%}" for n, p in choices]
        for choices in (prediction.top, prediction.tta)
    )
    more = [f"tta {choice}" for choice in tta]
    answer = prediction.answer.line if prediction.answer else None
    return "  ".join(filter(None, [*top, *more, prediction.agreement, answer, path]))


def cell_title(prediction: Prediction) -> str:
    """The answer, or the class, its probability, and the number of networks that agree."""
    if prediction.error:
        return "not predicted"
    if prediction.answer:
        return truncate(prediction.answer.line, CELL_LETTERS)
    label, probability = prediction.top[0]
    share = f"  {probability:.1%}" + (f", {prediction.agreement}" if prediction.votes else "")
    return truncate(label, CELL_LETTERS - len(share)) + share


ONE_LABEL = Form(list_columns, list_cells, describe, format_line, cell_title)


@contextmanager
def open_output(out: Path | None, layout: Layout, form: Form = ONE_LABEL) -> Iterator[Write]:
    """A writer of predictions: into the file, complete when the block ends, or standard output.

    Bytes of a file name that are not UTF-8 are written as escapes.
    """
    if out:
        write_rows = write_csv if out.suffix.lower() == ".csv" else write_json_lines
        with (
            atomic_write(out) as temporary,
            temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file,
        ):
            yield write_rows(file, layout, form)
        return
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    stdout = sys.stdout  # a progress bar replaces it
    try:
        try:
            yield (write_lines if stdout.isatty() else write_csv)(stdout, layout, form)
        finally:
            stdout.flush()
    except OSError:  # else the rest of the buffer is tried again when the program ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), stdout.fileno())
        raise


def write_csv(file: TextIO, layout: Layout, form: Form = ONE_LABEL) -> Write:
    """A header now, then a row an image."""
    writer = csv.writer(file, lineterminator="\n")
    num_cells = len(columns := form.list_columns(layout))
    writer.writerow(escape_formulas(["path", *columns, "error"]))

    def write(prediction: Prediction) -> None:
        cells = form.list_cells(layout, prediction) if prediction.top else [""] * num_cells
        writer.writerow(escape_formulas([prediction.path, *cells, prediction.error]))

    return write


def write_json_lines(file: TextIO, layout: Layout, form: Form = ONE_LABEL) -> Write:
    """An object a line, all with the same keys."""

    def write(prediction: Prediction) -> None:
        content = {"path": prediction.path, **form.describe(layout, prediction)}
        content["error"] = prediction.error
        file.write(json.dumps(content, ensure_ascii=False, allow_nan=False) + "\n")

    return write


def write_lines(file: TextIO, layout: Layout, form: Form = ONE_LABEL) -> Write:
    """Lines for a person."""

    def write(prediction: Prediction) -> None:
        path, error = sanitize_line(prediction.path), prediction.error
        print(f"{path}: {error}" if error else form.format(layout, prediction, path), file=file)

    return write


def sanitize_line(text: str) -> str:
    """As `sanitize_text`, line ends included."""
    return sanitize_text(text).replace("\n", "\ufffd")


def save_grid(
    path: Path,
    predictions: Sequence[Prediction],
    heading: str,
    max_pixels: int,
    form: Form = ONE_LABEL,
) -> None:
    """Write a PNG; letters that the font lacks are boxes."""
    save(draw_grid(predictions, heading, max_pixels, form), path)


def draw_grid(
    predictions: Sequence[Prediction], heading: str, max_pixels: int, form: Form = ONE_LABEL
) -> Figure:
    """Each image, in its own proportions, under its class and its file's name; in that order."""
    columns = min(len(predictions), COLUMNS)
    rows = -(-len(predictions) // columns)
    height = 2.4 * rows + 0.35  # inches
    figure = Figure(figsize=(2 * max(columns, 2), height), dpi=100)
    figure.suptitle(heading, x=0.01, y=1 - 0.1 / height, ha="left", va="top", size=11)
    figure.subplots_adjust(0.01, 0.02, 0.99, 1 - 0.75 / height, wspace=0.06, hspace=0.25)
    axes_list = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in axes_list:
        axes.set_axis_off()
    for axes, prediction in zip(axes_list, predictions, strict=False):
        name = truncate(sanitize_line(Path(prediction.path).name), CELL_LETTERS)
        axes.set_title(f"{form.title(prediction)}\n{name}", loc="left", size=9, y=1)
        try:
            image = read_image(Path(prediction.path), max_pixels=max_pixels)
            image.thumbnail((PIXELS, PIXELS))
            axes.imshow(image)
            axes.set_anchor("NW")
        except Unreadable as error:
            reason = textwrap.fill(str(error), CELL_LETTERS, max_lines=6)
            axes.text(0, 0.95, reason, va="top", size=8, color="0.4")
    return figure
