"""What a network answered for a whole split: `predictions/*.npz`, checked on the way in.

Shapes: N images, C classes.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray
from scipy.special import softmax

from triptych.errors import UserError

# Arrays out of somebody's file.

Array = NDArray[Any]


def read_arrays(path: Path, names: tuple[str, ...]) -> dict[str, Array]:
    """The arrays of those names in an npz file, of whatever shapes; nothing in it is run.

    Raises UserError in one line where the file is missing or broken, or lacks one of them.
    """
    try:
        # numpy leaves open what it cannot read, unless it is given an open file.
        with path.open("rb") as file, NpzFile(file, allow_pickle=False) as npz:
            arrays = {name: np.asarray(npz[name]) for name in names if name in npz}
    except FileNotFoundError:
        raise UserError(f"{path}: missing") from None
    except Exception as error:  # of numpy, of zipfile, of the system: many kinds
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise UserError(f"{path}: cannot be read as arrays ({reason})") from error
    missing = ", ".join(name for name in names if name not in arrays)
    if missing:
        raise UserError(f"{path}: has no {missing}")
    return arrays


ARRAYS = ("logits", "labels", "index")
MAX_CLASSES = 10_000  # a confusion matrix of more would not fit into memory


@dataclass(frozen=True, eq=False)
class Predictions:
    """Logits (N, C), labels int64 (N,), and where in the official set, ascending int64 (N,)."""

    logits: NDArray[np.floating]
    labels: NDArray[np.int64]
    index: NDArray[np.int64]

    @property
    def num_classes(self) -> int:
        return int(self.logits.shape[1])

    @cached_property
    def probabilities(self) -> NDArray[np.float64]:
        """Softmax of the logits, (N, C)."""
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


def read_predictions(path: Path) -> Predictions:
    """Read what `Record.add_predictions` wrote; raises UserError in one line where it is not that."""
    arrays = read_arrays(path, ARRAYS)
    problem = _misshapen(**arrays) or _impossible(**arrays)
    if problem:
        raise UserError(f"{path}: {problem}")
    return Predictions(**arrays)


def read_validation(folder: Path, num_classes: int) -> Predictions:
    """A run's answers in validation; raises UserError too where they are of other classes."""
    path = folder / "predictions" / "val.npz"
    found = read_predictions(path)
    if found.num_classes != num_classes:
        raise UserError(f"{path}: has {found.num_classes} classes, the test images {num_classes}")
    return found


def _misshapen(logits: Array, labels: Array, index: Array) -> str | None:
    if logits.ndim != 2 or logits.shape[1] < 2 or logits.dtype.kind != "f":
        return f"logits must be floats (N, C), they are {_kind(logits)}"
    if logits.shape[1] > MAX_CLASSES:
        return f"logits are of {logits.shape[1]:,} classes, there may be {MAX_CLASSES:,}"
    for name, values in (("labels", labels), ("index", index)):
        if values.shape != logits.shape[:1] or values.dtype != np.int64:
            return f"{name} must be int64 ({len(logits)},) as the logits, they are {_kind(values)}"
    return None if len(logits) else "holds no image"


def _impossible(logits: Array, labels: Array, index: Array) -> str | None:
    not_finite = ~np.isfinite(logits).all(axis=1)
    if not_finite.any():
        first = index[not_finite.argmax()]
        return f"{not_finite.sum()} images have logits that are not finite, the first is {first}"
    if labels.min() < 0 or labels.max() >= logits.shape[1]:
        classes = f"0 to {logits.shape[1] - 1}"
        return f"labels must be {classes}, they go from {labels.min()} to {labels.max()}"
    if index[0] < 0:
        return f"index must not be negative, it begins with {index[0]}"
    descends = index[1:] <= index[:-1]
    if descends.any():
        i = int(descends.argmax())
        return f"index must ascend, {index[i + 1]} follows {index[i]}"
    return None


def _kind(values: Array) -> str:
    return f"{values.dtype} {values.shape}"
