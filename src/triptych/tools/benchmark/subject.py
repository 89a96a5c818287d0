"""What is measured: one network on one device, as a run would train it."""

import copy
from dataclasses import dataclass

import lightning.pytorch as pl
import torch
from torch import Tensor

from triptych import build
from triptych.config import Config
from triptych.data.datamodule import Batch, ImageDataModule
from triptych.errors import UserError
from triptych.models.backbone import Backbone
from triptych.module import ImageClassifier
from triptych.runs.record import Record
from triptych.tools.evaluate.rebuild import AUTOCAST
from triptych.training import prepare

# What a bare loop does: any other value of these is refused.
PLAIN = {
    **{"accumulate_grad_batches": 1, "devices": 1, "strategy": "auto", "callbacks": []},
    **{"gradient_clip_val": None, "fast_dev_run": False, "overfit_batches": 0.0},
    **dict.fromkeys(("limit_train_batches", "limit_test_batches")),
}


@dataclass(eq=False)
class Subject:
    """Images and a task that never trains itself: every way of training gets a copy."""

    config: Config
    data: ImageDataModule
    task: ImageClassifier
    device: torch.device
    precision: str  # by Lightning's name

    @property
    def batch_size(self) -> int:
        return self.data.batch_size

    def network(self, *, compiled: bool = True) -> Backbone:
        """A copy of the network on the device; compiled where `speed.compile` says so."""
        backbone = copy.deepcopy(self.task.backbone)
        build.move_to_device(backbone, self.device)
        if compiled:
            build.compile_network(backbone, self.config)
        return backbone

    def batch(self) -> Batch:
        """The first training batch, on the device, as it is stored."""
        stored = next(iter(self.data.train_dataloader()))
        return Batch(*(tensor.to(self.device) for tensor in stored))

    def autocast(self) -> torch.autocast:
        dtype = AUTOCAST.get(self.precision)
        # Without its cache, as Lightning has it: no weight is used twice in a step.
        enabled = dtype is not None
        return torch.autocast(self.device.type, dtype, enabled=enabled, cache_enabled=False)

    def as_it_computes(self, images: Tensor) -> Tensor:
        """Images in the precision and layout that the first convolution would bring them into."""
        dtype = AUTOCAST.get(self.precision, next(self.task.backbone.parameters()).dtype)
        return images.to(dtype, memory_format=torch.channels_last)


def made_subject(config: Config, record: Record) -> Subject:
    """Build it from a checked config; `record` is that of a run which leaves nothing.

    Raises UserError where a bare loop would not do what the config asks.
    """
    for name, value in PLAIN.items():
        if config["trainer"].get(name, value) != value:
            raise UserError(f"trainer.{name}: the benchmark measures plain steps on one device")
    pl.seed_everything(config["seed"], verbose=False)
    source = build.instantiate("data.source", config["data"]["source"])
    network = build.instantiate("model", config["model"])
    data, task = prepare(config, source, network)
    trainer = build.build_trainer(config, record, [])
    if trainer.precision not in ("32-true", "bf16-mixed"):
        raise UserError(f"trainer.precision={trainer.precision}: may be 32-true or bf16-mixed here")
    data.trainer = trainer  # a loader asks it for the device, and whether to pin memory
    return Subject(config, data, task, trainer.strategy.root_device, str(trainer.precision))
