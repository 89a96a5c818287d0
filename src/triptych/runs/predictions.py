"""A network's predictions for a whole split: `predictions/*.npz`, checked as they are read.

Beside each lies `predictions/<split>.csv`, for people, in which alone the files' names are.

Shapes: N images, C classes.
"""

import csv
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import IO, Any, ClassVar
from zipfile import ZipFile

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray
from scipy.special import expit, softmax

from triptych.config import format_value
from triptych.errors import UserError
from triptych.runs.reader import MAX_CLASSES, sanitize
from triptych.runs.record import write_prediction_table
from triptych.runs.storage import FORMULA, check_regular_file

log = logging.getLogger(__name__)
Array = NDArray[Any]
MULTILABEL = "multilabel"  # the task of any number of labels an image, in run.json
TOLERANCE = 1e-4  # of a probability that was rounded
MAX_LENGTH = 1_000_000  # of an array's sides: statistics draw a thousand times so many numbers
MAX_BYTES = 2**30  # of an array, as float64 too
MAX_INFLATED = 2**24  # bytes that compression may have saved


@dataclass(frozen=True, eq=False)
class Predictions:
    """Logits (N, C), labels int64 (N,), and places in the official set, ascending int64 (N,).

    `groups`, int64 (N,): equal for images that are not independent, as photos of one object.
    """

    logits: NDArray[np.floating]
    labels: NDArray[np.int64]
    index: NDArray[np.int64]
    groups: NDArray[np.int64] | None = None
    has_probabilities: ClassVar[bool] = True

    @property
    def num_classes(self) -> int:
        return int(self.logits.shape[1])

    @property
    def probabilities(self) -> NDArray[np.float64]:
        """Softmax of the logits, (N, C); not kept: of 60 networks it would fill the memory."""
        return np.asarray(softmax(self.logits.astype(np.float64), axis=1))

    @cached_property
    def classes(self) -> NDArray[np.int64]:
        """The predicted class, (N,); of equal logits the first."""
        return np.asarray(self.logits.argmax(axis=1))

    @cached_property
    def correct(self) -> NDArray[np.bool_]:
        """Whether the prediction is right, (N,)."""
        return np.equal(self.classes, self.labels)

    @cached_property
    def confidence(self) -> NDArray[np.float64]:
        """The probability of the predicted class, (N,)."""
        return np.asarray(self.probabilities.max(axis=1))

    def is_of_images(self, other: "Predictions") -> bool:
        """Whether they are for the images of the other ones, by the same labels."""
        pairs = (self.index, other.index), (self.labels, other.labels)
        return all(np.array_equal(*pair) for pair in pairs)


@dataclass(frozen=True, eq=False)
class MultilabelPredictions(Predictions):
    """Each class by itself: labels uint8 (N, C) of 0 and 1.

    An image is `correct` where every label is, as in scikit-learn; `classes` is the likeliest one.
    """

    labels: NDArray[np.uint8]  # type: ignore[assignment]

    @cached_property
    def probabilities(self) -> NDArray[np.float64]:
        """Sigmoid of the logits, (N, C)."""
        return np.asarray(expit(self.logits.astype(np.float64)))

    @cached_property
    def predicted(self) -> NDArray[np.bool_]:
        """The classes of a probability above 0.5, (N, C)."""
        return np.asarray(self.logits > 0)

    @cached_property
    def correct(self) -> NDArray[np.bool_]:
        return np.asarray((self.predicted == self.labels).all(axis=1))


@dataclass(frozen=True, eq=False)
class ClassPredictions(Predictions):
    """Classes alone: `answers` (N,). The logits (N, C), and what is computed from them, are NaN."""

    answers: NDArray[np.int64] = field(kw_only=True)
    has_probabilities = False

    @property
    def probabilities(self) -> NDArray[np.float64]:
        return np.asarray(self.logits, dtype=np.float64)

    @cached_property
    def classes(self) -> NDArray[np.int64]:
        return self.answers


def read_arrays(
    path: Path, names: tuple[str, ...], optional: tuple[str, ...] = ()
) -> dict[str, Array]:
    """The arrays of those names in an npz file, of any shape and type; pickles are not loaded.

    Raises UserError in one line where the file is missing or broken, or lacks one of them.
    """
    try:
        with ZipFile(path) as archive:
            members = {*archive.namelist()}
            present = [name for name in (*names, *optional) if f"{name}.npy" in members]
            arrays = {name: read_array(archive, name) for name in present}
    except FileNotFoundError:
        raise UserError(f"{path}: missing") from None
    except Exception as error:  # of numpy, of zipfile, of the system: many kinds
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise UserError(f"{path}: cannot be read as arrays ({reason})") from error
    if missing := ", ".join(name for name in names if name not in arrays):
        raise UserError(f"{path}: has no {missing}")
    return arrays


def read_array(archive: ZipFile, name: str) -> Array:
    """An array of an npz file, read where its head and the archive's index are within bounds."""
    info = archive.getinfo(f"{name}.npy")
    if info.file_size > info.compress_size + MAX_INFLATED:
        raise ValueError(f"{name} is larger than is read compressed; save it as it is")
    with archive.open(info) as file:
        return read_npy(file, info.file_size, name)


def read_npy(file: IO[bytes], num_bytes: int, name: str = "the array") -> Array:
    """An array of a file so long, read where its head is within bounds; pickles are not loaded."""
    is_old = npy.read_magic(file) == (1, 0)
    read_head = npy.read_array_header_1_0 if is_old else npy.read_array_header_2_0
    shape, _, dtype = read_head(file)
    if dtype.hasobject:
        raise ValueError(f"{name} is pickled, which may run code")
    size, least = math.prod(shape), min(shape, default=1)
    if size * dtype.itemsize != num_bytes - file.tell() or least < 0:
        raise ValueError(f"{name} is not as long as its head says, {dtype} {shape}")
    if max(shape, default=1) > MAX_LENGTH or size * max(dtype.itemsize, 8) > MAX_BYTES:
        raise ValueError(f"{name} is larger than is read, {dtype} {shape}")
    file.seek(0)
    return np.asarray(npy.read_array(file, allow_pickle=False))


def read_predictions(path: Path, task: str | None = None) -> Predictions:
    """What `Record.add_predictions` wrote; raises UserError in one line where it is not that.

    `task` is that of `run.json`, None for one label an image.
    """
    if task not in (None, MULTILABEL):
        raise UserError(f"{path}: of a task that is not read here, {format_value(task)}")
    arrays = read_arrays(path, ("logits", "labels", "index"), ("groups",))
    if problem := (_find_multilabel_problem if task else _find_problem)(**arrays):
        raise UserError(f"{path}: {problem}")
    return (MultilabelPredictions if task else Predictions)(**arrays)


def read_validation(folder: Path, num_classes: int, task: str | None = None) -> Predictions:
    """A run's predictions in validation; raises UserError too unless they have `num_classes`."""
    path = folder / "predictions" / "val.npz"
    val = read_predictions(path, task)
    if val.num_classes != num_classes:
        raise UserError(f"{path}: has {val.num_classes} classes, the test images {num_classes}")
    return val


def write_missing_tables(
    folder: Path,
    classes: Sequence[str],
    files: Sequence[str] | None,
    index: Mapping[str, NDArray[np.int64]],
    task: str | None = None,
    write: Callable[..., None] = write_prediction_table,
) -> None:
    """Tables that a run folder lacks of its predictions for splits at those places of the set."""
    for split, places in index.items():
        path = folder / "predictions" / f"{split}.csv"
        tables = (path, path.with_name("mistakes.csv")) if split == "test" else (path,)
        if all(table.exists() for table in tables) or not path.with_suffix(".npz").exists():
            continue
        try:
            saved = read_predictions(path.with_suffix(".npz"), task)
        except UserError as error:
            log.warning("%s is not written: %s", path.name, error)
            continue
        if np.array_equal(saved.index, places) and saved.num_classes == len(classes):
            arrays = {"logits": saved.logits, "labels": saved.labels, "index": saved.index}
            write(path, classes, files, **arrays)


def read_files(folder: Path, test: Predictions) -> dict[int, str] | None:
    """The file of each test image by its index, in one line; None where the run has no files.

    Raises UserError where `test.csv` cannot be read, or is not of the predictions `test`: somebody
    may have sorted it.
    """
    path = folder / "predictions" / "test.csv"
    if not path.exists():
        return None
    try:
        with check_regular_file(path).open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            if "file" not in (reader.fieldnames or ()):
                return None
            most = len(test.labels) + 1  # are enough to see that there are too many
            rows = [(row["file"], float(row["probability"])) for row in islice(reader, most)]
    except (OSError, ValueError, LookupError, TypeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read ({error})") from error
    shares = np.array([share for _, share in rows])
    if len(rows) != len(test.labels) or not np.abs(shares - test.confidence).max() < TOLERANCE:
        raise UserError(f"{path}: not of test.npz; delete it, evaluate.py writes it again")
    names = [unescape_formula(name) for name, _ in rows]
    return dict(zip(test.index.tolist(), sanitize(names), strict=True))


def unescape_formula(text: str) -> str:
    """A cell as it was before `escape_formulas`."""
    return text[1:] if text[:1] == "'" and FORMULA.match(text[1:]) else text


def _find_multilabel_problem(
    logits: Array, labels: Array, index: Array, groups: Array | None = None
) -> str | None:
    if problem := _find_problem(logits, np.zeros(index.shape, np.int64), index, groups):
        return problem
    if labels.dtype != np.uint8 or labels.shape != logits.shape or labels.max() > 1:
        return f"labels must be 0 or 1, uint8 {logits.shape}; they are {labels.dtype}"
    return None


def _find_problem(
    logits: Array, labels: Array, index: Array, groups: Array | None = None
) -> str | None:
    if logits.ndim != 2 or logits.dtype.kind != "f" or not 2 <= logits.shape[1] <= MAX_CLASSES:
        expected = f"floats (N, C) of 2 to {MAX_CLASSES:,} classes"
        return f"logits must be {expected}, they are {logits.dtype} {logits.shape}"
    num_images, num_classes = logits.shape
    groups = index if groups is None else groups
    for name, values in (("labels", labels), ("index", index), ("groups", groups)):
        if values.dtype != np.int64 or values.shape != (num_images,):
            return f"{name} must be int64 ({num_images},), they are {values.dtype} {values.shape}"
    if not num_images:
        return "holds no image"
    finite = np.isfinite(logits).all(axis=1)
    if not finite.all():
        return f"the logits of image {index[finite.argmin()]} are not finite"
    if labels.min() < 0 or labels.max() >= num_classes:
        return f"labels go from {labels.min()} to {labels.max()}, there are {num_classes} classes"
    if index[0] < 0 or (index[1:] <= index[:-1]).any():
        return "index must ascend, from 0 or more"
    return None
