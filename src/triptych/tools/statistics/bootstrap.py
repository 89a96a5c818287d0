"""Images drawn again with replacement: how far a figure would scatter on other images.

Shapes: N images, C classes, K networks, R draws.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.special import ndtri

from triptych.tools.statistics.intervals import LEVEL, Interval

NUM_DRAWS = 1000
MAX_CHUNK = 2**21  # numbers held at once


@lru_cache(maxsize=1)  # for 10,000 images 10 MB and 0.1 s
def weights(num_images: int, num_draws: int = NUM_DRAWS, seed: int = 0) -> NDArray[np.uint8]:
    """How often each draw holds each image, (R, N): the same for everything that is compared."""
    random = np.random.default_rng(seed)
    counts = np.empty((num_draws, num_images), dtype=np.uint8)  # none comes near 256
    for row in counts:
        drawn = random.integers(num_images, size=num_images)
        row[:] = np.bincount(drawn, minlength=num_images)
    counts.flags.writeable = False
    return counts


def bootstrap_macro_f1(
    labels: NDArray[np.int64],
    predicted: NDArray[np.int64],
    num_classes: int,
    *,
    num_draws: int = NUM_DRAWS,
    seed: int = 0,
) -> NDArray[np.float64]:
    """Macro F1 (K, R) of predicted classes (K, N), every network on the same draws of images.

    A class that a draw has neither as a label nor as a prediction counts as 0.
    """
    num_networks, num_images = predicted.shape
    by_label = _indicators(labels[None], num_classes)
    # Right and wrong predictions apart, by class: all that F1 needs of the joint counts.
    outcomes = _indicators(predicted + num_classes * (predicted != labels), 2 * num_classes)
    drawn = weights(num_images, num_draws, seed)
    chunk = max(1, MAX_CHUNK // max(num_images, outcomes.shape[0]))
    draws = []
    for start in range(0, num_draws, chunk):
        w = np.ascontiguousarray(drawn[start : start + chunk].T, dtype=np.float32)
        right, wrong = np.split((outcomes @ w).reshape(num_networks, 2 * num_classes, -1), 2, 1)
        both = right + wrong + by_label @ w
        f1 = np.divide(2 * right, both, out=np.zeros_like(both), where=both > 0)
        draws.append(f1.mean(axis=1, dtype=np.float64))
    return np.concatenate(draws, axis=1)


def bootstrap_interval(value: float, draws: NDArray[np.float64], level: float = LEVEL) -> Interval:
    """An interval around a figure, or a difference of two, from its draws (R,).

    Normal, with the draws' standard deviation: at a level that is simultaneous over many pairs a
    percentile would be the extreme of the draws.
    """
    half = float(ndtri((1 + level) / 2) * draws.std(ddof=1))
    return Interval(value - half, value + half)


def _indicators(values: NDArray[np.int64], num_values: int) -> csr_array:
    """A row for each network and value, ones where the values (K, N) are that: (K * values, N)."""
    num_networks, num_images = values.shape
    rows = (values + num_values * np.arange(num_networks)[:, None]).ravel()
    columns = np.tile(np.arange(num_images), num_networks)
    shape = (num_networks * num_values, num_images)
    return csr_array((np.ones(rows.size, dtype=np.float32), (rows, columns)), shape=shape)
