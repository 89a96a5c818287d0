"""Runs of another task than one label an image: what `evaluation.json` says of them."""

from typing import Any

from triptych.config import Config, format_value
from triptych.errors import UserError
from triptych.metrics import Scores
from triptych.runs.predictions import MultilabelPredictions, Predictions
from triptych.tools.evaluate.document import begin_document, describe_classes
from triptych.tools.evaluate.rebuild import RebuiltRun
from triptych.tools.statistics.average_precision import bootstrap_ap
from triptych.tools.statistics.inference import bootstrap_interval


def check_settings(run: RebuiltRun, config: Config) -> None:
    """Raise UserError at a setting that means something for one label an image alone."""
    asked = {
        **{name: config[name] for name in ("data", "tta", "shifts", "ood", "suspect_labels")},
        "protocol": None if config["protocol"] == "full" else config["protocol"],
        "image_types": config["image_types"]["types"],
        "grad_cam.images": config["grad_cam"]["images"],
    }
    for name, value in asked.items():
        if value and value != "none":
            raise UserError(
                f"{name}: takes one label an image; {run.record.folder} is of the task "
                f"{format_value(run.task)}, leave it out"
            )


def describe_scores(
    run: RebuiltRun, predictions: Predictions, scores: Scores, split: str
) -> dict[str, Any]:
    """The scores of each class; of several labels an image the mean average precision with the
    interval of a bootstrap over images."""
    document = begin_document(split, len(predictions.index)) | {"task": run.task}
    columns: dict[str, Any] = dict(scores.per_class)
    if isinstance(predictions, MultilabelPredictions):
        value = scores.values["ap"]
        low, high = bootstrap_interval(value, bootstrap_ap(predictions))
        document |= {"ap": value, "ap_low": max(low, 0.0), "ap_high": min(high, 1.0)}
        columns["num"] = predictions.labels.sum(axis=0, dtype=int)
    return document | {"per_class": describe_classes(run.classes, columns)}
