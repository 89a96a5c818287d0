"""A run as a line of the table, and the table as `comparison.csv`."""

import csv
import io
from collections.abc import Iterable
from typing import Any

from triptych.runs.reader import sanitize
from triptych.tools.compare.content import Circumstances, Row
from triptych.tools.compare.costs import COSTS
from triptych.tools.compare.groups import TrainedNetwork
from triptych.tools.evaluate.paper import paper_scores
from triptych.tools.statistics.calibration import calibration_error
from triptych.tools.statistics.intervals import wilson
from triptych.tools.statistics.scores import top_k_accuracies

COLUMNS = (
    *("model", "weights", "data", "seed", "num_test", "accuracy", "accuracy_low", "accuracy_high"),
    *("f1", "precision", "recall", "nll", "ece", "paper_f1", "paper_precision", "paper_recall"),
    *("num_params", "macs", "checkpoint_bytes", "train_images_per_second", "latency_ms_p50"),
    *("latency_ms_p95", "throughput_images_per_second", "peak_memory_bytes"),
    *("device", "precision_mode", "folder"),
)
WHERE = ("device", "precision", "num_threads")


def row(network: TrainedNetwork, cost: dict[str, Any] | None) -> Row:
    """A run's line; what `cost.json` does not have comes from the record where it can."""
    metadata, scores, num_test = network.metadata, network.scores, len(network.test.labels)
    seconds, epochs = metadata["train_seconds"], metadata["num_epochs"]
    interval = wilson(int(network.test.correct.sum()), num_test)
    paper: dict[str, Any] = {
        f"paper_{name}": value for name, value in paper_scores(network.test)._asdict().items()
    }
    trained = {
        "num_params": metadata["num_params"],
        "train_images_per_second": metadata["images_per_second"],
        "seconds_per_epoch": seconds / epochs if seconds and epochs else None,
    }
    measured = {name: value for name, value in (cost or {}).items() if value is not None}
    costs: dict[str, Any] = {each.name: (trained | measured).get(each.name) for each in COSTS}
    return Row(
        label=network.label,
        model=metadata["model"],
        weights=metadata["weights"],
        data=metadata["data"],
        seed=metadata["seed"],
        num_test=num_test,
        accuracy=scores.accuracy,
        accuracy_low=float(interval.low),
        accuracy_high=float(interval.high),
        **scores.macro._asdict(),
        nll=scores.nll,
        ece=calibration_error(network.test),
        weighted=scores.weighted,
        brier=scores.brier,
        top_k=top_k_accuracies(network.test),
        **paper,
        **costs,
        trained_on=Circumstances(*(metadata[name] for name in WHERE)),
        measured_on=Circumstances(*(cost[name] for name in WHERE)) if cost else None,
        folder=sanitize(str(network.folder)),
    )


def as_csv(rows: Iterable[Row]) -> str:
    """A line a run, fractions; empty where not measured."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([getattr(row, name) for name in COLUMNS] for row in rows)
    return text.getvalue()
