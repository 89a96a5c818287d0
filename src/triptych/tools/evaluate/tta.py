"""Test-time augmentation: the mean of the probabilities of an image and its mirror image.

It stands beside the plain scores, never in their place. Shapes: N images, C classes.
"""

import logging
from typing import Any

import numpy as np
import torch
from scipy.special import log_softmax
from torch import Tensor

from triptych.runs.predictions import Predictions
from triptych.tools.evaluate.rebuild import RebuiltRun, use_threads
from triptych.tools.statistics.groups import network_difference, share_interval
from triptych.tools.statistics.scores import Averages, average_present, score_predictions

log = logging.getLogger(__name__)


def evaluate_mirrored(
    run: RebuiltRun,
    images: Tensor,
    predictions: Predictions,
    batch_size: int | None,
    *,
    of_present: bool = False,
) -> dict[str, Any]:
    """What `tta=flip` scores, as `evaluation.json` has it, with the accuracy that it gains.

    `images` are all of the set (3, H, W), `predictions` the plain ones. With `of_present`, means
    are over those classes that have images.
    """
    averaged = average_mirror(run, images, predictions, run.batch_size(batch_size))
    scores, correct = score_predictions(averaged), averaged.correct
    interval = share_interval(correct, predictions.groups)
    gain = network_difference(correct, predictions.correct, predictions.groups)
    macro = average_present(scores) if of_present else scores.macro
    entry = {
        **{"kind": "flip", "accuracy": scores.accuracy},
        **{"accuracy_low": interval.low, "accuracy_high": interval.high},
        **{"loss": scores.nll, **macro._asdict()},
        **{"gain": gain.value, "gain_low": gain.interval().low, "gain_high": gain.interval().high},
    }
    log.info(
        "tta=flip  accuracy %.4f (95 %% CI %.4f to %.4f)  %s  "
        "gain in accuracy %+.4f (95 %% CI %+.4f to %+.4f)",
        *(scores.accuracy, *interval),
        "  ".join(f"{name} {entry[name]:.4f}" for name in ("loss", *Averages._fields)),
        *(gain.value, *gain.interval()),
    )
    return entry


def average_mirror(
    run: RebuiltRun, images: Tensor, predictions: Predictions, batch_size: int
) -> Predictions:
    """The predictions averaged with those of the mirrored images: logarithms of probabilities."""
    batches = torch.split(torch.from_numpy(predictions.index), batch_size)
    with use_threads(run.record.metadata["num_threads"]):
        parts = [run.logits(images[some].flip(-1)).cpu() for some in batches]
    logits = (predictions.logits, torch.cat(parts).numpy())
    one, other = (log_softmax(each.astype(np.float64), axis=1) for each in logits)
    mean = np.logaddexp(one, other) - np.log(2)
    return Predictions(mean, predictions.labels, predictions.index)
