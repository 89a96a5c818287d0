"""What `evaluation.json` says of a split, from its predictions. No torch.

Shapes: N images, C classes.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from triptych.runs.predictions import Predictions
from triptych.runs.record import SCHEMA, library_versions
from triptych.tools.evaluate.paper import last_batch, paper_scores
from triptych.tools.statistics.calibration import Calibration, Reliability
from triptych.tools.statistics.scores import Scores, top_k_accuracies


def describe_split(
    split: str,
    predictions: Predictions,
    scores: Scores,
    calibration: Calibration,
    classes: Sequence[str],
) -> dict[str, Any]:
    """Plain numbers; fractions, losses in nats, and NaN where a class's value is undefined."""
    values = zip(classes, *scores.per_class, scores.confusion.sum(axis=1).tolist(), strict=True)
    document = {
        "schema": SCHEMA,
        "split": split,
        "versions": library_versions(),
        "evaluated_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "num_images": len(predictions.labels),
        "nll": scores.nll,
        "brier": scores.brier,
        "top_k": {str(k): share for k, share in top_k_accuracies(predictions).items()},
        "macro": scores.macro._asdict(),
        "weighted": scores.weighted._asdict(),
        "undefined_classes": scores.undefined_classes,
        "per_class": [
            {"class": name, "f1": float(f1), "precision": float(p), "recall": float(r), "num": num}
            for name, f1, p, r, num in values
        ],
        "calibration": {
            **_describe_reliability(calibration.before),
            "temperature": calibration.temperature,
            "after": calibration.after and _describe_reliability(calibration.after),
        },
    }
    if split == "test":
        num_images = last_batch(len(predictions.labels))
        document["paper"] = {"num_images": num_images, **paper_scores(predictions)._asdict()}
    return document


def describe_hardware(device: str | None, precision: str | None, num_threads: int | None) -> str:
    """What is known of them: cpu, 32-true, 2 threads."""
    threads = None if num_threads is None else f"{num_threads} thread{'s' * (num_threads != 1)}"
    known = (device, precision, threads)
    return ", ".join(word for word in known if word) or "device not known"


def _describe_reliability(reliability: Reliability) -> dict[str, Any]:
    """The calibration error beside what a perfectly calibrated network would show."""
    return {
        "ece": reliability.error,
        "ece_low": reliability.interval.low,
        "ece_high": reliability.interval.high,
        "ece_if_calibrated": reliability.expected,
        "ece_if_calibrated_high": reliability.expected_high,
        "nll": reliability.nll,
    }
