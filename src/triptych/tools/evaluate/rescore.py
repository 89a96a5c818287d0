"""A rebuilt network's scores on a split, computed as training computed them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from math import isnan
from typing import Any, NamedTuple

import lightning.pytorch as pl
import torch

from triptych.build import build_optim, build_trainer, device_name
from triptych.data.datamodule import ImageDataModule
from triptych.errors import UserError
from triptych.module import ImageClassifier
from triptych.runs.predictions import Predictions
from triptych.runs.reader import MEASURED
from triptych.tools.evaluate.findings import describe_hardware
from triptych.tools.evaluate.rebuild import RebuiltRun
from triptych.tools.statistics.calibration import calibration_error

# The settings of a run's Trainer that bear on its scores.
SCORING = ("limit_test_batches", "limit_val_batches", "fast_dev_run", "deterministic", "benchmark")
SUMMARY = ("loss", "accuracy", "f1", "precision", "recall")


class Rescored(NamedTuple):
    """`metrics` now and as `logged` in training, by the same names; how and on what they came."""

    metrics: dict[str, float]
    logged: dict[str, float]
    predictions: Predictions
    device: str
    precision: str
    num_threads: int

    def find_largest_difference(self) -> tuple[str, float] | None:
        """Between a metric now and as logged, counts left out; NaN counts as the largest."""
        shared = sorted(self.metrics.keys() & self.logged.keys())
        measured = (name for name in shared if not name.endswith("/undefined_classes"))
        gaps = {name: abs(self.metrics[name] - self.logged[name]) for name in measured}
        return max(gaps.items(), key=lambda gap: (isnan(gap[1]), gap[1]), default=None)

    @property
    def metadata(self) -> dict[str, Any]:
        """As `evaluation.json` has them; the largest difference is null where none was logged."""
        values = {name: value for name, value in self._asdict().items() if name != "predictions"}
        difference = self.find_largest_difference()
        return values | {"largest_difference": difference and difference[1]}

    def summarize(self, metadata: dict[str, Any]) -> str:
        """The scores in a line, and whether they are those in the `metadata` of a record."""
        scores = {name.partition("/")[2]: value for name, value in self.metrics.items()}
        shown = [f"{metadata['model']} seed {metadata['seed']}"]
        shown += [f"{name} {scores[name]:.4f}" for name in SUMMARY]
        shown += [f"calibration error {calibration_error(self.predictions):.4f}"]
        match self.find_largest_difference():
            case None:
                shown += ["nothing was logged"]
            case (_, 0):
                shown += ["exactly as logged"]
            case (name, gap):
                there = map(metadata.get, ("device", "precision", "num_threads"))
                here = describe_hardware(self.device, self.precision, self.num_threads)
                shown += [
                    f"largest difference from what was logged: {name} by {gap:.2g} "
                    f"(trained on {describe_hardware(*there)}; here {here})"
                ]
        return "  ".join(shown)


def find_device(word: str) -> torch.device:
    """The device of `auto`, `cpu` or `cuda`; raises UserError where this machine has none such."""
    if word == "cuda" and not torch.cuda.is_available():
        raise UserError("device=cuda: there is no NVIDIA GPU that torch can use; take device=cpu")
    if word != "cpu" and torch.accelerator.is_available():
        device = torch.accelerator.current_accelerator()
        if device is not None and device.type in ("cuda", "mps"):
            return device
    return torch.device("cpu")


def build_scorer(run: RebuiltRun, device: torch.device) -> pl.Trainer:
    """The Trainer that scores a run on a device; the run's network goes there, in its precision.

    That is the precision of training where that was on the same kind of device, else the one that
    training would choose there.
    """
    metadata = run.record.metadata
    trained_on = str(metadata.get("device") or "").partition(":")[0]
    trained_on = trained_on if trained_on in ("cpu", "mps") else "cuda"  # a GPU's product name
    options = {name: run.config["trainer"].get(name) for name in SCORING}
    options |= {"precision": metadata.get("precision") if device.type == trained_on else None}
    options |= {"accelerator": device.type, "devices": 1, "enable_checkpointing": False}
    trainer = build_trainer(run.config | {"trainer": options}, run.record, [])
    run.precision = str(trainer.precision)
    run.to(device)
    return trainer


def rescore(run: RebuiltRun, data: ImageDataModule, split: str, trainer: pl.Trainer) -> Rescored:
    """Score `split` (test or val) with the Trainer of `build_scorer`; the network stays there.

    With as many threads as in training, if there are processors for them.
    """
    metadata, device = run.record.metadata, run.device
    task = ImageClassifier(run.backbone, build_optim(run.config), num_classes=len(data.classes))
    with use_threads(metadata.get("num_threads")) as num_threads:
        score = {"test": trainer.test, "val": trainer.validate}[split]
        score(task, datamodule=data, verbose=False)
    run.to(device)  # Lightning has moved it to the CPU
    logits, labels, index = (tensor.cpu().numpy() for tensor in task.predictions)
    return Rescored(
        metrics={f"{split}/{name}": value for name, value in task.scores.values.items()},
        logged=read_logged(metadata["metrics"], split),
        predictions=Predictions(logits, labels, index),
        device=device_name(device),
        precision=run.precision,
        num_threads=num_threads,
    )


def read_logged(metrics: dict[str, Any], split: str) -> dict[str, float]:
    """The metrics of a split that are numbers, of a `run.json` that may be edited by hand."""
    of_split = (name for name in metrics if name.startswith(f"{split}/"))
    return {name: metrics[name] for name in of_split if MEASURED.holds(metrics[name])}


@contextmanager
def use_threads(number: int | None) -> Iterator[int]:
    """As many of torch's threads within the block, where the machine has processors for them."""
    before = torch.get_num_threads()
    if number and number <= (os.cpu_count() or 1):
        torch.set_num_threads(number)
    try:
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)
