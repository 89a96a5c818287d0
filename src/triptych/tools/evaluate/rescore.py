"""A rebuilt network's scores on a split, by the way that training took to them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from math import isnan
from typing import Any, NamedTuple

import lightning.pytorch as pl
import torch

from triptych.build import build_optim, build_trainer, device_name
from triptych.data.datamodule import ImageDataModule
from triptych.errors import UserError, summarize_error
from triptych.module import ImageClassifier
from triptych.runs.predictions import Predictions
from triptych.runs.reader import MEASURED
from triptych.tools.evaluate.findings import describe_hardware
from triptych.tools.evaluate.rebuild import RebuiltRun
from triptych.tools.statistics.calibration import calibration_error

# What of a run's Trainer bears on its scores.
BEARING = ("limit_test_batches", "limit_val_batches", "fast_dev_run", "deterministic", "benchmark")


SHOWN = ("loss", "accuracy", "f1", "precision", "recall")


class Rescored(NamedTuple):
    """`metrics` now and as `logged` in training, by the same names; how and on what they came."""

    metrics: dict[str, float]
    logged: dict[str, float]
    predicted: Predictions
    device: str
    precision: str
    num_threads: int

    @property
    def differences(self) -> dict[str, float]:
        """Between each metric now and as logged, counts left out; NaN first, then the largest."""
        shared = self.metrics.keys() & self.logged.keys()
        measured = sorted(name for name in shared if not name.endswith("/undefined_classes"))
        gaps = {name: abs(self.metrics[name] - self.logged[name]) for name in measured}
        return dict(sorted(gaps.items(), key=lambda gap: (not isnan(gap[1]), -gap[1])))

    @property
    def metadata(self) -> dict[str, Any]:
        """As `evaluation.json` has them; the largest difference is null where none was logged."""
        largest = next(iter(self.differences.values()), None)
        shown = {name: value for name, value in self._asdict().items() if name != "predicted"}
        return shown | {"largest_difference": largest}

    def verdict(self, metadata: dict[str, Any]) -> str:
        """The scores in a line, and whether they are those in a record's `facts`."""
        scores = {name.partition("/")[2]: value for name, value in self.metrics.items()}
        shown = [f"{name} {scores[name]:.4f}" for name in SHOWN]
        shown += [f"calibration error {calibration_error(self.predicted):.4f}"]
        return "  ".join(
            [f"{metadata['model']} seed {metadata['seed']}", *shown, self._compared(metadata)]
        )

    def _compared(self, metadata: dict[str, Any]) -> str:
        if not self.differences:
            return "nothing was logged"
        (name, largest), *others = self.differences.items()
        if isnan(largest):
            return f"{name} is NaN here, logged was {self.logged[name]:.4g}"
        if largest == 0:
            return "exactly as logged"
        there = describe_hardware(*map(metadata.get, ("device", "precision", "num_threads")))
        here = describe_hardware(self.device, self.precision, self.num_threads)
        more = ", others by no more," if any(gap for _, gap in others) else ""
        return f"{name} off by {largest:.2g}{more} from what was logged ({there}); here {here}"


def find_device(word: str) -> torch.device:
    """The device of `auto`, `cpu` or `cuda`; raises UserError where this machine has none such."""
    if word == "cuda" and not torch.cuda.is_available():
        raise UserError("device=cuda: there is no NVIDIA GPU that torch can use; take device=cpu")
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    usable = word != "cpu" and found is not None and found.type in ("cuda", "mps")
    return found if usable and found else torch.device("cpu")


def build_scorer(run: RebuiltRun, device: torch.device) -> pl.Trainer:
    """The Trainer that scores a run on a device; the run's network goes there, in its precision.

    That is the precision of training where that was on the same kind of device, else the one that
    training would choose there.
    """
    metadata = run.record.metadata
    trained_on = str(metadata.get("device") or "").partition(":")[0]
    trained_on = trained_on if trained_on in ("cpu", "mps") else "cuda"  # a GPU's product name
    options = {name: run.config["trainer"].get(name) for name in BEARING}
    options |= {"precision": metadata.get("precision") if device.type == trained_on else None}
    options |= {"accelerator": device.type, "devices": 1, "enable_checkpointing": False}
    try:
        trainer = build_trainer(run.config | {"trainer": options}, run.record, [])
    except ImportError as error:
        needs = f"{options['precision']} needs what is not installed ({summarize_error(error)})"
        raise UserError(f"{run.record.folder}: its precision {needs}") from error
    run.precision = str(trainer.precision)
    run.to(device)
    return trainer


def rescore(run: RebuiltRun, data: ImageDataModule, split: str, trainer: pl.Trainer) -> Rescored:
    """Score `split` (test or val) with the run's scoring Trainer, and leave its network where it is.

    With as many threads as in training, if there are processors for them.
    """
    metadata, device = run.record.metadata, run.device
    task = ImageClassifier(run.backbone, build_optim(run.config), num_classes=len(data.classes))
    with threads(metadata.get("num_threads")) as num_threads:
        again = {"test": trainer.test, "val": trainer.validate}[split]
        again(task, datamodule=data, verbose=False)
    run.to(device)  # Lightning has moved it to the CPU
    logits, labels, index = (tensor.cpu().numpy() for tensor in task.predictions)
    return Rescored(
        metrics={f"{split}/{name}": value for name, value in task.scores.values.items()},
        logged=logged_metrics(metadata["metrics"], split),
        predicted=Predictions(logits, labels, index),
        device=device_name(device),
        precision=run.precision,
        num_threads=num_threads,
    )


def logged_metrics(metrics: dict[str, Any], split: str) -> dict[str, float]:
    is_own = (name for name in metrics if name.startswith(f"{split}/"))
    return {name: metrics[name] for name in is_own if MEASURED.holds(metrics[name])}


@contextmanager
def threads(number: int | None) -> Iterator[int]:
    """As many of torch's threads within the block, where the machine has processors for them."""
    own = torch.get_num_threads()
    if number and number <= (os.cpu_count() or 1):
        torch.set_num_threads(number)
    try:
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(own)
