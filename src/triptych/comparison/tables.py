"""A run as a line of the table, and the table as `comparison.csv`."""

import csv
import io
from collections.abc import Iterable
from dataclasses import asdict, fields
from typing import Any

from triptych.comparison.content import Row
from triptych.comparison.groups import Network
from triptych.comparison.runs import printable
from triptych.evaluation.calibration import calibration_error
from triptych.evaluation.paper import paper_scores
from triptych.evaluation.statistics import wilson

COSTS = """
    num_params macs checkpoint_bytes train_images_per_second latency_ms_p50 latency_ms_p95
    throughput_images_per_second peak_memory_bytes device
""".split()
COLUMNS = tuple(field.name for field in fields(Row) if field.name != "label")


def row(network: Network, cost: dict[str, Any]) -> Row:
    """A run's line; what `cost.json` does not have comes from the record where it can."""
    facts, scores, num_test = network.facts, network.scores, len(network.test.labels)
    interval = wilson(int(network.test.correct.sum()), num_test)
    paper: dict[str, Any] = {
        f"paper_{name}": value for name, value in paper_scores(network.test)._asdict().items()
    }
    known: dict[str, Any] = {
        "num_params": facts["num_params"],
        "train_images_per_second": facts["images_per_second"],
        "device": facts["device"],
        "precision": facts["precision"],
    } | {name: value for name, value in cost.items() if value is not None}
    costs: dict[str, Any] = {name: known.get(name) for name in COSTS}
    return Row(
        label=network.label,
        model=facts["model"],
        weights=facts["weights"],
        data=facts["data"],
        seed=facts["seed"],
        num_test=num_test,
        accuracy=scores.accuracy,
        accuracy_low=float(interval.low),
        accuracy_high=float(interval.high),
        **scores.macro._asdict(),
        nll=scores.nll,
        ece=calibration_error(network.test),
        **paper,
        **costs,
        precision_mode=known["precision"],
        folder=printable(str(network.folder)),
    )


def as_csv(rows: Iterable[Row]) -> str:
    """A line a run, fractions; empty where not measured."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    return text.getvalue()
