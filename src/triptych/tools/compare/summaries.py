"""What is shown of each trained network: its line of the table and of the CSV, and its errors."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from triptych.runs.reader import sanitize
from triptych.tools.compare.content import (
    Circumstances,
    CorrectCounts,
    Gallery,
    NetworkSummary,
    Picture,
    WrongPrediction,
)
from triptych.tools.compare.recipes import Recipe
from triptych.tools.compare.runs import TrainedNetwork
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
CIRCUMSTANCES = ("device", "precision", "num_threads")
MAX_PICTURES = 24  # a list


class Cost(NamedTuple):
    """A cost: a field of `NetworkSummary`, and of `cost.json` where that has it."""

    name: str
    words: str
    form: str  # writes a value with its unit
    least: str | None = None  # what the verdict says the best has; None: it is not mentioned there
    unit: str = ""  # of an axis, to which a prefix may be put
    sign: int = 1  # -1 where more is better
    of: Literal["measured_on", "trained_on"] | None = None  # the field that says on what it depends


COSTS = (
    Cost("num_params", "parameters", "{:,}", "fewest parameters"),
    Cost("macs", "multiply-accumulates an image", "{:,}", "fewest multiply-accumulates an image"),
    Cost("checkpoint_bytes", "checkpoint size", "{:,} bytes", unit="B"),
    Cost(
        *("train_images_per_second", "training, images/s", "{:,.0f} images/s"),
        sign=-1,
        of="trained_on",
    ),
    Cost("seconds_per_epoch", "training, seconds an epoch", "{:.1f} s", of="trained_on"),
    Cost(
        *("latency_ms_p50", "median latency at batch 1, ms", "{:.1f} ms"),
        least="shortest median latency at batch 1",
        of="measured_on",
    ),
    Cost(
        *("latency_ms_p95", "95th percentile of the latency at batch 1, ms", "{:.1f} ms"),
        of="measured_on",
    ),
    Cost(
        *("throughput_images_per_second", "throughput, images/s", "{:,.0f} images/s"),
        least="highest throughput",
        sign=-1,
        of="measured_on",
    ),
    Cost(
        *("peak_memory_bytes", "peak memory (on a CPU: of the whole process)", "{:,} bytes"),
        unit="B",
        of="measured_on",
    ),
)


def summarize_network(network: TrainedNetwork, cost: Mapping[str, Any] | None) -> NetworkSummary:
    """A network's line; what `cost.json` does not have comes from the record where it can."""
    metadata, scores, num_test = network.metadata, network.scores, len(network.test.labels)
    seconds, epochs = metadata["train_seconds"], metadata["num_epochs"]
    low, high = wilson(int(network.test.correct.sum()), num_test)
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
    return NetworkSummary(
        label=network.label,
        **{name: metadata[name] for name in ("model", "weights", "data", "seed")},
        num_test=num_test,
        accuracy=scores.accuracy,
        accuracy_low=float(low),
        accuracy_high=float(high),
        **scores.macro._asdict(),
        nll=scores.nll,
        ece=calibration_error(network.test),
        weighted=scores.weighted,
        brier=scores.brier,
        top_k=top_k_accuracies(network.test),
        **paper,
        **costs,
        trained_on=Circumstances(*(metadata[name] for name in CIRCUMSTANCES)),
        measured_on=Circumstances(*(cost[name] for name in CIRCUMSTANCES)) if cost else None,
        folder=sanitize(str(network.folder)),
        metadata=metadata,
    )


def write_csv(networks: Iterable[NetworkSummary]) -> str:
    """A line a run, fractions; empty where not measured."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([getattr(network, name) for name in COLUMNS] for network in networks)
    return text.getvalue()


def count_correct(recipes: Sequence[Recipe]) -> CorrectCounts | None:
    """Counts over the first network of each recipe, all on the same images."""
    if len(recipes) < 2:
        return None
    correct = np.stack([recipe.first.test.correct for recipe in recipes])
    alone = correct & (correct.sum(axis=0) == 1)
    return CorrectCounts(
        networks=tuple(recipe.first.label for recipe in recipes),
        num_images=correct.shape[1],
        num_all_right=int(correct.all(axis=0).sum()),
        num_all_wrong=int((~correct).all(axis=0).sum()),
        num_only_right=tuple(alone.sum(axis=1).tolist()),
    )


def build_gallery(
    recipes: Sequence[Recipe], pixels: Mapping[int, NDArray[np.uint8]], classes: Sequence[str]
) -> Gallery | None:
    """Errors of the first networks, most confident first, among the images that were kept."""
    index = recipes[0].first.test.index
    available = np.flatnonzero(np.isin(index, list(pixels)))
    if not available.size:
        return None
    tests = [recipe.first.test for recipe in recipes]
    wrong = np.stack([~test.correct for test in tests])
    confidence = np.stack([test.confidence for test in tests]) * wrong  # (networks, N)

    def make_picture(place: int, networks: Iterable[int]) -> Picture:
        predictions = tuple(
            WrongPrediction(
                recipes[n].first.label,
                classes[tests[n].classes[place]],
                float(confidence[n, place]),
            )
            for n in networks
        )
        number, true = int(index[place]), classes[tests[0].labels[place]]
        return Picture(number, pixels[number], true, predictions)

    by_all = _most_confident(available[wrong[:, available].all(axis=0)], confidence.mean(axis=0))
    by_one = _most_confident(available[wrong[:, available].any(axis=0)], confidence.max(axis=0))
    surest = confidence.argmax(axis=0).tolist()
    return Gallery(
        all_wrong=tuple(make_picture(place, range(len(recipes))) for place in by_all),
        num_all_wrong=int(wrong.all(axis=0).sum()),
        confident_errors=tuple(make_picture(place, [surest[place]]) for place in by_one),
    )


def _most_confident(places: NDArray[np.int64], confidence: NDArray[np.float64]) -> list[int]:
    order = np.argsort(-confidence[places], kind="stable")
    return [int(place) for place in places[order[:MAX_PICTURES]]]
