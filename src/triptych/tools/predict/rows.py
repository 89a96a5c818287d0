"""What is said of an image, and the three ways of writing it down. Knows nothing of torch.

Shapes: M networks, C classes.
"""

import csv
import json
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple, TextIO

import numpy as np
from numpy.typing import NDArray

from triptych.errors import sanitize_text

LONGEST_NAME = 20  # letters of a class on the screen


class Guess(NamedTuple):
    label: str
    probability: float


class Prediction(NamedTuple):
    """`top` is the most probable classes, best first; `votes` each network's own.

    Of a single network there are no votes. Where there is an `error`, the rest is empty.
    """

    path: str
    top: tuple[Guess, ...] = ()
    votes: tuple[Guess, ...] = ()
    error: str | None = None

    @property
    def agreement(self) -> str:
        """How many of the networks vote for the class, as 2 of 3; empty without votes."""
        agree = sum(vote.label == self.top[0].label for vote in self.votes)
        return f"{agree} of {len(self.votes)}" if self.votes else ""


class Layout(NamedTuple):
    """What all rows have alike: places in the top, names of those who vote, classes."""

    num_top: int
    voters: Sequence[str]
    classes: Sequence[str]


Write = Callable[[Prediction], Any]


def predicted(path: str, probabilities: NDArray[np.floating], layout: Layout) -> Prediction:
    """What networks with probabilities (M, C) say together; of equal ones the first class wins."""
    mean = probabilities.mean(axis=0, dtype=np.float64)
    if not np.isfinite(mean).all():
        return Prediction(path, error="the network's answer is not finite")
    order = np.argsort(-mean, kind="stable")[: layout.num_top]
    best = probabilities.argmax(axis=1) if layout.voters else ()
    return Prediction(
        path,
        tuple(Guess(layout.classes[c], float(mean[c])) for c in order),
        tuple(Guess(layout.classes[c], float(probabilities[m, c])) for m, c in enumerate(best)),
    )


def as_csv(file: TextIO, layout: Layout) -> Write:
    """A header now, then a row an image; names with commas, quotes or line ends are quoted."""
    places = ["", *(f"_{place}" for place in range(2, layout.num_top + 1))]
    columns = [f"{name}{place}" for place in places for name in ("class", "probability")]
    columns += [f"{voter}{what}" for voter in layout.voters for what in (" class", " probability")]
    # Ended by \r\n, for only then is a name with a lone \r quoted.
    lines = SimpleNamespace(write=lambda line: file.write(line.removesuffix("\r\n") + "\n"))
    writer = csv.writer(lines)
    writer.writerow(["path", *columns, "error"])

    def write(prediction: Prediction) -> None:
        cells = [cell for guess in (*prediction.top, *prediction.votes) for cell in guess]
        cells = cells or [""] * len(columns)
        writer.writerow([prediction.path, *map(rounded, cells), prediction.error])

    return write


def as_json_lines(file: TextIO, layout: Layout) -> Write:
    """An object a line, with the same keys in all."""

    def write(prediction: Prediction) -> None:
        top = [of_guess(guess) for guess in prediction.top]
        content = {
            "path": prediction.path,
            **(top[0] if top else {"class": None, "probability": None}),
            "top": top,
            "votes": dict(zip(layout.voters, map(of_guess, prediction.votes), strict=False)),
            "error": prediction.error,
        }
        file.write(json.dumps(content, ensure_ascii=False, allow_nan=False) + "\n")

    return write


def as_lines(file: TextIO, layout: Layout) -> Write:
    """Lines for a person, the path last: it alone has no bound."""
    width = min(LONGEST_NAME, max(map(len, layout.classes)))

    def write(prediction: Prediction) -> None:
        path = one_line(prediction.path)
        if prediction.error:
            print(f"{path}: {prediction.error}", file=file)
            return
        guesses = [f"{n[:LONGEST_NAME]:{width}} {p:6.1%}" for n, p in prediction.top]
        votes = [prediction.agreement] if prediction.votes else []
        print("  ".join([*guesses, *votes, path]), file=file)

    return write


def one_line(text: str) -> str:
    """As `legible`, line ends included."""
    return sanitize_text(text).replace("\n", "\ufffd")


def of_guess(guess: Guess) -> dict[str, Any]:
    return {"class": guess.label, "probability": rounded(guess.probability)}


def rounded(value: Any) -> Any:
    """A probability to its sixth digit; float32 knows no more."""
    return round(value, 6) if isinstance(value, float) else value


WAYS: dict[str, Callable[[TextIO, Layout], Write]] = {
    ".csv": as_csv,
    ".jsonl": as_json_lines,
    ".ndjson": as_json_lines,
}
