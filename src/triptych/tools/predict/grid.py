"""The first photos, each under what was said of it."""

import textwrap
import warnings
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

from triptych.figures import save, shorten
from triptych.tools.predict.rows import Prediction, one_line

COLUMNS = 6
CELL, GAP, TEXT, HEAD = 1.9, 0.12, 0.4, 0.45  # inches: of a photo, beside and above it, in all
LETTERS = 25  # that fit above a photo

Seen = tuple[Prediction, Image.Image | None]


def photo_grid(seen: Sequence[Seen], heading: str) -> Figure:
    """Each photo, in its own proportions, under its class and its file's name; in that order."""
    columns = min(len(seen), COLUMNS)
    rows = -(-len(seen) // columns)
    width = (CELL + GAP) * max(columns, 2) + GAP
    height = (CELL + GAP + TEXT) * rows + HEAD
    figure = Figure(figsize=(width, height), dpi=100)
    figure.text(GAP / width, 1 - GAP / height, one_line(heading), va="top", fontsize=11)
    for place, (prediction, thumbnail) in enumerate(seen):
        row, column = divmod(place, columns)
        left = GAP + column * (CELL + GAP)
        top = height - HEAD - row * (CELL + GAP + TEXT)
        name = shorten(one_line(Path(prediction.path).name), LETTERS)
        figure.text(left / width, top / height, said(prediction), va="top", fontsize=10)
        figure.text(left / width, (top - 0.2) / height, name, va="top", fontsize=8, color="0.4")
        box = (left / width, (top - TEXT - CELL) / height, CELL / width, CELL / height)
        axes = figure.add_axes(box, xticks=[], yticks=[], frame_on=False, anchor="NW")
        if thumbnail:
            axes.imshow(thumbnail)
        else:
            axes.set(frame_on=True, facecolor="0.95")
            reason = textwrap.fill(prediction.error or "", LETTERS, max_lines=6)
            axes.text(0.05, 0.95, reason, va="top", fontsize=8, color="0.4")
    return figure


def said(prediction: Prediction) -> str:
    """The class and how probable it is, and how many of an ensemble's networks say so."""
    if prediction.error:
        return "not predicted"
    label, probability = prediction.top[0]
    votes = f", {prediction.agreement}" if prediction.votes else ""
    share = f"  {probability:.1%}{votes}"
    return shorten(label, LETTERS - len(share)) + share


def save_grid(path: Path, seen: Sequence[Seen], heading: str) -> None:
    """Write a PNG; letters that the font lacks are boxes."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        save(photo_grid(seen, heading), path)
