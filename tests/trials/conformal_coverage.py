"""How often sets of classes hold the true one, over splits of a real run's own answers.

`python -m tests.trials.conformal_coverage RUN... [--splits 20] [--level 0.95]` mixes the validation
and test predictions of each run folder, splits them anew each time into as many images to calibrate
on and others to count, prints coverage overall and by class, and exits with 1 where what is
promised lies outside of what theory allows: the mean over splits by more than three standard
errors, or a single split that has a chance below one in ten thousand.

Of M images after a calibration on n coverage is beta-binomial (M; k, n + 1 - k), splits are
independent. That holds of any scores without ties, whatever chose the network: what choosing it on
validation images costs is not seen here, where these are mixed with others.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.special import softmax

from triptych.runs.predictions import read_predictions
from triptych.tools.statistics.abstention import METHODS, ClassSets, Method
from triptych.tools.statistics.conformal import Array, find_rank
from triptych.tools.statistics.selective import draw_uniform

EXTREME = 1e-4  # chance of a single split


def read_answers(folder: Path) -> tuple[Array, NDArray[np.int64], int]:
    """Probabilities and labels of validation and test images, and how many the former are."""
    both = [read_predictions(folder / "predictions" / f"{name}.npz") for name in ("val", "test")]
    probabilities = softmax(np.concatenate([e.logits for e in both]).astype(np.float64), axis=1)
    return probabilities, np.concatenate([each.labels for each in both]), len(both[0].labels)


def split_answers(
    probabilities: Array,
    labels: NDArray[np.int64],
    num_val: int,
    method: Method,
    level: float,
    num_splits: int,
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]]:
    """Of each split, by class (C,): images to calibrate on, others, and those covered of these."""
    u = draw_uniform(np.arange(len(labels)), 2)
    num_classes = probabilities.shape[1]
    for seed in range(num_splits):
        order = np.random.default_rng(seed).permutation(len(labels))
        a, b = order[:num_val], order[num_val:]
        sets = ClassSets.calibrate(probabilities[a], labels[a], level, method, u[a])
        covered = sets.select(probabilities[b], u[b])[np.arange(len(b)), labels[b]]
        rows = (labels[a], labels[b], labels[b][covered])
        val, test, inside = (np.bincount(row, minlength=num_classes) for row in rows)
        yield val, test, inside


def judge(
    calibrated: NDArray[np.int64],
    counted: NDArray[np.int64],
    covered: NDArray[np.int64],
    level: float,
) -> tuple[float, float, bool]:
    """Of splits (S,): the mean coverage, the share that lies in its 95 % range, whether all is
    within what theory allows."""
    ranks = np.array([find_rank(n, level) for n in calibrated.tolist()])
    law = stats.betabinom(counted, ranks, calibrated + 1 - ranks)
    tails = 2 * np.minimum(law.cdf(covered), law.sf(covered - 1))
    error = float(np.sqrt(np.sum(law.var() / counted**2))) / len(counted)
    gap = abs(float(np.mean((covered - law.mean()) / counted)))
    fits = bool(gap < 3 * error and tails.min() > EXTREME)
    return float(np.mean(covered / counted)), float((tails > 0.05).mean()), fits


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--splits", type=int, default=20)
    parser.add_argument("--level", type=float, default=0.95)
    given = parser.parse_args()
    failures = 0
    for folder in given.runs:
        answers = read_answers(folder)
        print(f"{folder}: {answers[2]:,} to calibrate on, {len(answers[1]) - answers[2]:,} others")
        for method in METHODS:
            splits = split_answers(*answers, method, given.level, given.splits)
            val, test, inside = (np.stack(part) for part in zip(*splits, strict=True))
            rows = {"all": tuple(each.sum(axis=1) for each in (val, test, inside))}
            classwise = {
                f"class {c}": (val[:, c], test[:, c], inside[:, c]) for c in range(val.shape[1])
            }
            for name, row in (rows | classwise).items():
                is_promised = (name == "all") == (method != "classwise")
                mean, usual, fits = judge(*row, given.level)
                shares = row[2] / row[1]
                failures += is_promised and not fits
                verdict = ("as promised" if fits else "NOT AS PROMISED") if is_promised else ""
                print(
                    f"  {method:<9} {name:<9} {100 * mean:6.2f} % ({100 * shares.min():.2f} to "
                    f"{100 * shares.max():.2f}), {100 * usual:3.0f} % of splits as usual  {verdict}"
                )
    print(f"{failures} outside of what theory allows")
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
