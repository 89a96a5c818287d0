"""Any number of labels an image: `module=multilabel`. A task in a file of its own, as any other.

Shapes: B images of a batch, N of a split, C classes.
"""

import numpy as np
import torch
from torch import Tensor, nn

from triptych.data.datamodule import Batch
from triptych.errors import UserError
from triptych.losses import FocalLoss
from triptych.metrics import UNKNOWN, Scores, compute_value
from triptych.module import ImageClassifier
from triptych.runs.multilabel import score_labels, write_table
from triptych.runs.predictions import MULTILABEL, MultilabelPredictions


class MultilabelClassifier(ImageClassifier):
    """Learns labels (B, C) of 0 and 1, each class by its own sigmoid; see `score_labels`."""

    task = MULTILABEL
    default_loss = "triptych.losses.BinaryCrossEntropy"
    summary = ("loss", "ap", "f1")
    write_table = staticmethod(write_table)

    @property
    def monitors(self) -> dict[str, str]:
        return {"val/ap": "max"} | super().monitors

    @staticmethod
    def probabilities(logits: Tensor) -> Tensor:
        return logits.sigmoid()

    def count_correct(self, logits: Tensor, labels: Tensor) -> Tensor:
        return UNKNOWN  # some labels of an image may be right

    def check_labels(self, labels: Tensor) -> None:
        if labels.ndim == 1:
            raise UserError(
                "module=multilabel: an image of these data has one label\n"
                "for several: data=folder data.root=<photos> data.labels=<a CSV file>"
            )
        if isinstance(self.loss, nn.CrossEntropyLoss | FocalLoss):
            name = type(self.loss).__name__
            raise UserError(
                f"loss: {name} takes one label an image; with module=multilabel loss=bce, or "
                "another as torch.nn.MultiLabelSoftMarginLoss"
            )
        for name, metric in self.more_metrics.items():
            if (kind := type(metric).__name__).startswith("Multiclass"):
                several = kind.replace("Multiclass", "Multilabel")
                raise UserError(
                    f"metrics.{name}: {kind} takes one label an image\n"
                    f"for several: metrics.{name}._target_=torchmetrics.classification.{several}"
                )

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return super().training_step(batch._replace(labels=batch.labels.float()), batch_idx)

    def score(self, logits: Tensor, labels: Tensor) -> Scores:
        shares, index = self.probabilities(logits), np.arange(len(labels))
        arrays = (logits.cpu().numpy(), labels.cpu().numpy(), index)
        values, per_class = score_labels(MultilabelPredictions(*arrays))
        more = dict(self.more_metrics.items())
        values |= {name: compute_value(name, each, shares, labels) for name, each in more.items()}
        defined = {name: torch.from_numpy(np.nan_to_num(v)) for name, v in per_class.items()}
        return Scores(values, defined, None)
