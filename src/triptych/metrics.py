"""Scores of logits against labels, over every image once.

Shapes: N images, C classes.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanMetric, Metric, MetricCollection, classification
from torchmetrics.utilities import dim_zero_cat

from triptych.errors import CODE_ERRORS, UserError, summarize_error

PER_CLASS = ("f1", "precision", "recall")
UNKNOWN = torch.tensor(math.nan)


class SplitPredictions(Metric):
    """Logits (N, C), labels (N, ...) and indices (N,) of a split, from every device, by index.

    Gathered before anything is computed, so that a metric does not depend on how the images were
    spread over batches and devices, and no batch waits for the device.
    """

    full_state_update = False
    logits: list[Tensor]
    labels: list[Tensor]
    index: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        for name in ("logits", "labels", "index"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(self, logits: Tensor, labels: Tensor, index: Tensor) -> None:
        # A copy: in a compiled network the next batch's logits may take the place of these.
        self.logits.append(logits.detach().to(torch.float32, copy=True))
        self.labels.append(labels)
        self.index.append(index)

    def gather(self) -> tuple[Tensor, Tensor, Tensor]:
        """`compute`, but labels and index stay (N,) where N is 1: torchmetrics squeezes them."""
        logits, labels, index = self.compute()
        index = index.view(-1)
        return logits, labels.view(len(index), *labels.shape[1:]), index

    def compute(self) -> tuple[Tensor, Tensor, Tensor]:
        logits, labels, index = map(dim_zero_cat, (self.logits, self.labels, self.index))
        order = torch.argsort(index)
        return logits[order], labels[order], index[order]


class Scores(NamedTuple):
    """`values` are fractions, the loss in nats; `per_class` holds float (C,), undefined as 0."""

    values: dict[str, float]
    per_class: dict[str, Tensor]
    confusion: Tensor | None  # int64 (C, C), rows true, columns predicted; of one label an image

    def named(self, split: str) -> dict[str, float]:
        """The values as they are logged: `val/accuracy` and so on."""
        return {f"{split}/{name}": value for name, value in self.values.items()}


def build_metrics(num_classes: int) -> MetricCollection:
    """The metrics of validation and test alike."""
    shared: dict[str, Any] = {"num_classes": num_classes, "sync_on_compute": False}
    return MetricCollection(
        {
            "loss": MeanMetric(nan_strategy="disable", sync_on_compute=False),
            "accuracy": classification.MulticlassAccuracy(average="micro", **shared),
            "f1": classification.MulticlassF1Score(average=None, **shared),
            "precision": classification.MulticlassPrecision(average=None, **shared),
            "recall": classification.MulticlassRecall(average=None, **shared),
            "confusion": classification.MulticlassConfusionMatrix(**shared),
        }
    )


def compute_scores(
    metrics: MetricCollection, logits: Tensor, labels: Tensor, more: Mapping[str, nn.Module] = {}
) -> Scores:
    """Score a whole split. F1, precision and recall are means over all C classes; `more` metrics
    each add a value of their name.

    A class that is never predicted, or has no image, enters with 0 where its value is undefined
    (scikit-learn's `labels=range(C), zero_division=0`); `undefined_classes` counts such classes.
    """
    metrics.reset()
    losses = F.cross_entropy(logits, labels, reduction="none")
    # Counts are the same in any order. Where algorithms must be deterministic, torchmetrics would
    # compare N images with C x C cells, all at once.
    mode = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode("default")
    metrics.update(preds=logits, target=labels, value=losses)
    torch.set_deterministic_debug_mode(mode)
    results = {name: value.cpu() for name, value in metrics.compute().items()}
    confusion = results.pop("confusion")
    per_class = {name: results.pop(name) for name in PER_CLASS}
    values = {name: float(value) for name, value in results.items()}
    values |= {name: float(value.double().mean()) for name, value in per_class.items()}
    shares = logits.softmax(dim=1)
    values |= {name: compute_value(name, metric, shares, labels) for name, metric in more.items()}
    values["undefined_classes"] = int(((confusion.sum(0) == 0) | (confusion.sum(1) == 0)).sum())
    return Scores(values, per_class, confusion)


def compute_value(name: str, metric: Any, probabilities: Tensor, labels: Tensor) -> float:
    """A metric of a whole split, NaN where undefined; raises UserError at no single number."""
    try:
        metric.reset()
        metric.update(probabilities, labels)
        value = metric.compute()
    except CODE_ERRORS as error:
        kind, reason = type(metric).__name__, summarize_error(error)
        raise UserError(f"metrics.{name}: {kind} cannot score these labels ({reason})") from error
    if not isinstance(value, int | float | Tensor) or torch.as_tensor(value).numel() != 1:
        raise UserError(f"metrics.{name}: must be one number, as with average: macro")
    return float(value)


class EpochLoss:
    """The epoch so far: its mean training loss, in nats, and how many images were right, or NaN.

    A step appends both without waiting for the device; now and then what is unread is taken,
    summed over the ranks and added.
    """

    def __init__(
        self, total: float = 0, num_images: int = 0, num_batches: int = 0, correct: float = math.nan
    ) -> None:
        self.total, self.num_images, self.num_batches = total, num_images, num_batches
        self.correct = correct if num_images else 0.0
        self.unread: list[tuple[Tensor, int, Tensor]] = []

    def state(self) -> list[float | int]:
        """What was added, as the constructor takes it."""
        return [self.total, self.num_images, self.num_batches, self.correct]

    def append(self, loss: Tensor, num_images: int, correct: Tensor = UNKNOWN) -> None:
        self.unread.append((loss.detach(), num_images, correct))

    def take_unread(self) -> Tensor:
        """Of each unread batch loss times images, images, and correct: float32 (batches, 3)."""
        losses, num_images, correct = zip(*self.unread, strict=True)
        self.unread.clear()
        means = torch.stack(losses).float()
        counts = means.new_tensor(num_images)
        return torch.stack([means * counts, counts, torch.stack(correct).to(means)], dim=1)

    def add(self, sums: Tensor) -> int | None:
        """Add what `take_unread` gave; the number of the first batch not finite, from 1."""
        for loss, num_images, correct in sums.tolist():
            self.num_batches += 1
            self.total += loss
            self.num_images += int(num_images)
            self.correct += correct
            if not math.isfinite(loss):
                return self.num_batches
        return None

    @property
    def mean(self) -> float:
        return self.total / self.num_images
