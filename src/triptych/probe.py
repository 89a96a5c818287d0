"""A probe's backbone runs once: what its head takes of an image is kept, and the head learns from
that.

Shapes: N images of a split, B images of a batch, F features, C classes.
"""

import logging
from collections.abc import Iterator
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import BaseFinetuning, Callback
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from rich.filesize import decimal
from torch import Tensor

from triptych import Refused
from triptych.data.features import MOST_BYTES, Kept, folder, kept, near
from triptych.data.images import ImageData, Part
from triptych.data.keeping import hashed, told
from triptych.data.splits import digest
from triptych.model.weights import first_line
from triptych.record import Record
from triptych.task import Classification

log = logging.getLogger(__name__)
FORMAT = 1  # of the files: another number where they change and their names would not
NUM_CHECKED = 8  # images that show whether the head needs no more, and a file holds their features
ALIKE_FROM = 32  # images a batch: on a CPU larger ones gave an image the same bits, smaller others


class Probe(Callback):
    """Gives the splits their features before training, once weights are restored.

    Only where the backbone is frozen and an image is the same in every epoch. Where something else
    is in the way, a line of the log says what, and the backbone runs in every epoch.
    """

    def __init__(self, record: Record) -> None:
        self.record = record

    def on_fit_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if not pl_module.backbone.frozen:
            return
        data: ImageData = trainer.datamodule  # type: ignore[attr-defined]
        try:
            check_same_in_every_epoch(trainer, data)
            self._give_features(Frozen(trainer, pl_module, data), data)
        except Refused as refused:
            log.info("the backbone runs in every epoch: %s", first_line(refused))

    def _give_features(self, frozen: "Frozen", data: ImageData) -> None:
        parts = {"training": data.train, "validation": data.val, "test": data.test}
        first = {split: frozen.first_features(part) for split, part in parts.items()}
        num_bytes = sum(len(part) * first[split][0].nbytes for split, part in parts.items())
        if num_bytes > MOST_BYTES:
            most = decimal(MOST_BYTES)
            raise Refused(f"features take {decimal(num_bytes)}, at most {most} of them are kept")
        network = frozen.identity(self.record.facts["model"])
        features: dict[str, Tensor] = {}
        for split, part in parts.items():
            batches = frozen.all_features(part, f"Features of {split} images")
            found = kept(f"{network}-{pixels(part)}", len(part), first[split], batches)
            features[split] = found.features
            total = (self.record.facts.get("feature_seconds") or 0.0) + found.seconds
            self.record.update(feature_seconds=total)
            log.info("features of %d %s images %s", len(part), split, told_of(found))
        for split, part in parts.items():  # all of them or none
            part.features = features[split]


class Frozen:
    """A frozen backbone, run as in validation: on that device, in that precision and batch size."""

    def __init__(self, trainer: pl.Trainer, task: Classification, data: ImageData) -> None:
        self.trainer, self.task, self.data = trainer, task, data
        self.backbone = task.backbone
        self.batch_size = max(1, data.batch_size // trainer.world_size)

    def identity(self, model: str) -> str:
        """A hash of what makes features of images: the tensors below the head, and their use."""
        head = f"{self.backbone.head_name}."
        state = self.backbone.network.state_dict()
        below = {name: value for name, value in state.items() if not name.startswith(head)}
        kinds = [(name, str(t.dtype), list(t.shape)) for name, t in below.items()]
        device = self.trainer.strategy.root_device.type
        batch_size = min(self.batch_size, ALIKE_FROM)
        use = (str(self.trainer.precision), device, batch_size, torch.__version__)
        weights = digest(map(in_bytes, below.values()))
        return hashed(FORMAT, model, kinds, weights, self.backbone.expects, use)

    def all_features(self, part: Part, doing: str) -> Iterator[Tensor]:
        """Features (B, F) of a split's images, in batches and in order."""
        for start in told(range(0, len(part), self.batch_size), doing):
            yield self._run(part, start, start + self.batch_size)[0]

    def first_features(self, part: Part) -> Tensor:
        """Features of a split's first images; raises Refused unless they are all that is needed."""
        features, logits = self._run(part, 0, NUM_CHECKED)
        if features.ndim == 2:
            with torch.inference_mode(), self.trainer.precision_plugin.forward_context():
                answers = self.task(features.to(logits.device))
            if answers.shape == logits.shape and near(answers, logits):
                return features
        taken = "x".join(map(str, features.shape[1:]))
        raise Refused(
            f"its head {self.backbone.head_name} takes {taken} numbers and is not its last layer"
        )

    @torch.inference_mode()
    def _run(self, part: Part, start: int, end: int) -> tuple[Tensor, Tensor]:
        """What the head takes of the images at these places, on the CPU, and logits (B, C)."""
        taken: list[Tensor] = []
        images = part.data.images[part.index[start:end]].to(self.trainer.strategy.root_device)
        hook = self.backbone.head.register_forward_pre_hook(lambda _, args: taken.extend(args))
        try:
            # Every call has a hook of its own, for which a compiler would begin anew.
            with (
                self.trainer.precision_plugin.forward_context(),
                torch.compiler.set_stance("force_eager"),
            ):
                logits = self.task(self.data.pipeline.evaluation(images))
        finally:
            hook.remove()
        if len(taken) != 1:
            raise Refused(f"its head {self.backbone.head_name} runs {len(taken)} times an image")
        # float32 holds what half precisions do, and numpy knows no bfloat16
        return taken[0].to(torch.promote_types(taken[0].dtype, torch.float32)).cpu(), logits


def check_same_in_every_epoch(trainer: Any, data: ImageData) -> None:
    """Raise Refused where an image may have other features in another epoch, or comes but once."""
    for setting in ("augment", "mix"):
        if (value := getattr(data, setting)) != "none":
            raise Refused(f"data.{setting}={value}, so images differ from epoch to epoch")
    if any(isinstance(callback, BaseFinetuning) for callback in trainer.callbacks):
        raise Refused("a callback may train it, too")
    if not isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy):
        raise Refused(f"{type(trainer.strategy).__name__} spreads it over devices")
    if trainer.fast_dev_run:
        raise Refused("trainer.fast_dev_run takes but a few images")


def told_of(found: Kept) -> str:
    if not found.seconds:
        return f"read from {folder()}"
    by = " by another process" if found.is_awaited else ""
    return f"computed{by} in {found.seconds:.1f} s, kept in {folder()}"


def pixels(part: Part) -> str:
    """A hash of a split's images in their order."""
    return digest(part.data.images[some] for some in torch.split(part.index, 256))


def in_bytes(tensor: Tensor) -> Tensor:
    """A tensor's memory, in the order of its shape, whatever its kind and device."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
