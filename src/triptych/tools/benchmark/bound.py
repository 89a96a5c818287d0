"""The upper bound: a bare loop over one batch that lies on the device already.

The same network, precision, memory format, compiler, loss and optimizer as in a run, and nothing
else: no loader, no Trainer, no schedule, nothing logged.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from triptych.tools.benchmark.clock import Stopwatch
from triptych.tools.benchmark.subject import Subject


class Bound:
    """Batches as the network takes them; with `pipeline`, as they are stored, made ready anew in
    every step. `compiled=False` leaves out the compiler."""

    def __init__(self, subject: Subject, *, pipeline: bool = False, compiled: bool = True) -> None:
        self.subject = subject
        self.backbone = subject.network(compiled=compiled)
        self.criterion = subject.task.criterion.to(subject.device)
        self.optimizer, _ = subject.task.optim.build(self.backbone, 1, 1)
        self.stored = subject.batch()
        self.keys = (subject.data.seed, 0, self.stored.index)
        images, self.labels = self._made_ready()
        self.images = subject.as_it_computes(images)
        self.has_pipeline = pipeline

    def seconds(self, warm_up_steps: int, steps: int, mode: str) -> float:
        """What `steps` steps take; `mode` is train or inference."""
        step: Callable[[], object] = self.train if mode == "train" else self.infer
        self.backbone.train(mode == "train")
        stopwatch = Stopwatch(self.subject.device, warm_up_steps, warm_up_steps + steps)
        for number in range(1, warm_up_steps + steps + 1):
            step()
            stopwatch.step_ended(number)
        return stopwatch.seconds

    def train(self) -> None:
        images, labels = self._made_ready() if self.has_pipeline else (self.images, self.labels)
        with self.subject.autocast():
            loss: Tensor = self.criterion(self.backbone(images), labels)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()

    @torch.inference_mode()
    def infer(self) -> None:
        pipeline = self.subject.data.transforms
        images = pipeline.evaluation(self.stored.inputs) if self.has_pipeline else self.images
        with self.subject.autocast():
            self.backbone(images)

    def _made_ready(self) -> tuple[Tensor, Tensor]:
        images, labels, _ = self.stored
        return self.subject.data.transforms.training(images, labels, self.keys)
