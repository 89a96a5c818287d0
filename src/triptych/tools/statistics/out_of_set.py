"""How well a network's doubt tells images of its classes from images of none of them.

Shapes: M known images, N strange ones, V of the calibration, C classes.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit, logsumexp, ndtri, softmax

from triptych.tools.statistics.conformal import Array, find_threshold
from triptych.tools.statistics.crossed import sum_by_group
from triptych.tools.statistics.groups import Groups
from triptych.tools.statistics.inference import LEVEL, WithInterval, wilson
from triptych.tools.statistics.selective import exact_interval

KEEP = 0.95  # of known images that are answered
Logits = NDArray[np.floating[Any]]
# Of logits (., C): as `abstention.Rejection` has it, and by Liu et al. (2020).
DOUBTS: dict[str, Callable[[Array], Array]] = {
    "probability": lambda logits: np.asarray(1 - softmax(logits, axis=1).max(axis=1)),
    "energy": lambda logits: np.asarray(-logsumexp(logits, axis=1)),
}


class Separation(NamedTuple):
    """An image is answered where its doubt is at most what `keep` of a calibration's images have,
    as by `abstention.Rejection`."""

    score: str  # one of DOUBTS
    auroc: WithInterval
    kept: WithInterval  # share of known images that are answered
    accepted: WithInterval  # of strange ones


def separate(
    score: str,
    val: Logits,
    known: Logits,
    strange: Logits,
    keep: float = KEEP,
    groups: Groups = None,
) -> Separation:
    """Of logits (V, C), (M, C) and (N, C); `groups` (M,) are those of the known images."""
    doubts = (DOUBTS[score](logits.astype(np.float64)) for logits in (val, known, strange))
    of_val, of_known, of_strange = doubts
    most = find_threshold(of_val, keep)
    kept, accepted = (
        WithInterval(float(answered.mean()), *exact_interval(answered, own))
        for answered, own in ((of_known <= most, groups), (of_strange <= most, None))
    )
    return Separation(score, measure_auroc(-of_known, -of_strange, groups), kept, accepted)


def measure_auroc(known: Array, strange: Array, groups: Groups = None) -> WithInterval:
    """The chance that a known image scores higher than a strange one, ties half.

    The variance is by placements (DeLong, DeLong & Clarke-Pearson, 1988), of known images over
    groups where they have any (Obuchowski, 1997); the interval is symmetric on the logit scale.
    Where the one always scores higher it is Wilson's of as many independent pairs as there are.
    """
    of_known = find_placements(known, strange)
    of_strange = 1 - find_placements(strange, known)
    value = float(of_known.mean())
    if groups is not None:
        of_known = sum_by_group(of_known[None], groups)[0]
    num_pairs = min(len(of_known), len(of_strange))
    scatter = num_pairs > 1 and sum(x.var(ddof=1) / len(x) for x in (of_known, of_strange))
    if not scatter or not 0 < value < 1:
        return WithInterval(value, *wilson(value * num_pairs, num_pairs))
    half = float(ndtri((1 + LEVEL) / 2)) * math.sqrt(scatter) / (value * (1 - value))
    low, high = (float(expit(logit(value) + side)) for side in (-half, half))
    return WithInterval(value, low, high)


def find_placements(scores: Array, others: Array) -> Array:
    """The share of `others` that score lower than each of the scores, ties half."""
    ordered = np.sort(others)
    below, up_to = (np.searchsorted(ordered, scores, side) for side in ("left", "right"))
    return np.asarray((below + up_to) / (2 * len(others)))
