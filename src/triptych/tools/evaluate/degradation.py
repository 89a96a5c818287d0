"""How much accuracy each type of images costs a network, from what it got right. No torch.

Shapes: N images, V variants of them, of which the first is the unmodified one.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from triptych.errors import UserError
from triptych.runs.predictions import read_arrays
from triptych.runs.storage import atomic_write, write_csv
from triptych.tools.statistics.groups import resample_images, share_interval
from triptych.tools.statistics.inference import LEVEL, WithInterval

UNMODIFIED = "unmodified"
OVERALL = "all"  # the mean over the types
MAX_VARIANTS = 300  # each type has a chart; there are 10, at three severities each
IMAGES_AT_ONCE = 100_000  # of more, the resamples are made floats part by part


class VariantAccuracy(NamedTuple):
    """A line of `image_types.csv`; the unmodified images' has severity 0."""

    type: str
    severity: int
    num_images: int
    accuracy: float
    accuracy_low: float
    accuracy_high: float


class Outcomes(NamedTuple):
    """Which images a network got right in every variant: `predictions/image_types.npz`."""

    types: NDArray[np.str_]  # (V,)
    severities: NDArray[np.int64]  # (V,)
    index: NDArray[np.int64]  # type: ignore[assignment]  # (N,), place in the official set
    correct: NDArray[np.bool_]  # (V, N)
    groups: NDArray[np.int64] | None = None  # (N,), of images that have any


def accuracy_by_variant(outcomes: Outcomes) -> list[VariantAccuracy]:
    """With 95 % intervals over images, or groups of them."""
    types, severities, index, every, groups = outcomes
    variants = zip(types.tolist(), severities.tolist(), every, strict=True)
    return [
        VariantAccuracy(
            name, s, len(index), int(right.sum()) / len(index), *share_interval(right, groups)
        )
        for name, s, right in variants
    ]


def degradations(outcomes: Outcomes) -> dict[str, WithInterval]:
    """Accuracy unmodified less its mean over a type's severities: each type, then `all`."""
    return _bootstrap_means(_losses_by_image(outcomes), outcomes.groups)


def degradation_differences(one: Outcomes, other: Outcomes) -> dict[str, WithInterval]:
    """How much more the one network loses than the other on the same images, for types of both."""
    assert np.array_equal(one.index, other.index)
    a, b = _losses_by_image(one), _losses_by_image(other)
    return _bootstrap_means({name: a[name] - b[name] for name in a if name in b}, one.groups)


def _losses_by_image(outcomes: Outcomes) -> dict[str, NDArray[np.float64]]:
    """Correctness unmodified less its mean over a type's severities, (N,) for each type."""
    _, *names = dict.fromkeys(outcomes.types.tolist())
    right = {name: outcomes.correct[outcomes.types == name].mean(axis=0) for name in names}
    return {name: outcomes.correct[0] - mean for name, mean in right.items()}


def _bootstrap_means(
    losses: dict[str, NDArray[np.float64]], groups: NDArray[np.int64] | None
) -> dict[str, WithInterval]:
    """Means of each type's (N,) and of all types; percentiles over resamples that they share."""
    if not losses:
        return {}
    values = np.stack([*losses.values(), np.mean([*losses.values()], axis=0)])
    num_images = values.shape[1]
    counts = resample_images(num_images, groups)
    parts = np.array_split(counts, max(1, num_images // IMAGES_AT_ONCE))
    resampled = np.concatenate([part @ values.T / part.sum(axis=1)[:, None] for part in parts])
    low, high = np.quantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    columns = np.stack([values.mean(axis=1), low, high], axis=1).tolist()
    return dict(zip([*losses, OVERALL], map(WithInterval._make, columns), strict=True))


def write_outcomes(outcomes: Outcomes, folder: Path) -> None:
    """`image_types.csv` and `predictions/image_types.npz` of a run folder."""
    rows = [VariantAccuracy._fields, *accuracy_by_variant(outcomes)]
    write_csv(folder / "image_types.csv", rows)
    (folder / "predictions").mkdir(exist_ok=True)
    with atomic_write(folder / "predictions" / "image_types.npz") as path, path.open("wb") as file:
        arrays = {name: array for name, array in outcomes._asdict().items() if array is not None}
        np.savez_compressed(file, allow_pickle=False, **arrays)


def read_outcomes(folder: Path) -> Outcomes:
    """What `write_outcomes` left there; raises UserError in one line where it is not that."""
    path = folder / "predictions" / "image_types.npz"
    outcomes = Outcomes(**read_arrays(path, Outcomes._fields[:-1], Outcomes._fields[-1:]))
    types, severities, index, correct, groups = outcomes
    groups = index if groups is None else groups
    if (
        [types.dtype.kind, severities.dtype, index.dtype, correct.dtype] != ["U", "i8", "i8", "?"]
        or groups.dtype != "i8"
        or groups.shape != index.shape
        or not types.ndim == index.ndim == 1
        or types.shape != severities.shape
        or correct.shape != (len(types), len(index))
        or len(index) == 0
        or len(types) > MAX_VARIANTS
        or np.flatnonzero(types == UNMODIFIED).tolist() != [0]
    ):
        raise UserError(f"{path}: its arrays do not belong together; run evaluate.py again")
    return outcomes
