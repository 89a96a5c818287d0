"""A probe's backbone runs once: what its head takes of an image is kept, and the head learns from
that.

Shapes: N images of a split, B images of a batch, F features, C classes.
"""

import fcntl
import logging
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import BaseFinetuning, Callback
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from rich.filesize import decimal
from torch import Tensor

from triptych.data.datamodule import ImageDataModule, ImageSubset
from triptych.data.disk_cache import data_dir, hash_json, lock_file, memmap_tensor, track_progress
from triptych.data.source import hash_tensors
from triptych.errors import UserError, summarize_error
from triptych.module import ImageClassifier
from triptych.runs.record import Record
from triptych.runs.storage import atomic_write

# What a frozen backbone makes of images: computed once, and mapped from disk ever after.
#
# Shapes: N images, F features.

MOST_BYTES = 8 * 10**9  # of all features on disk; the least recently used go first
NOISE = 0.02  # relative: of bfloat16, where another size of batch takes another kernel


class Features(NamedTuple):
    features: Tensor  # float (N, F), to be read only
    seconds: float  # until this or another process had computed them, 0 where they lay on disk
    is_awaited: bool = False  # another process did


def features_dir() -> Path:
    return data_dir() / ".features"


def load_or_compute(
    name: str, num_images: int, first: Tensor, batches: Iterable[Tensor]
) -> Features:
    """The features that lie under a name, else those of all `batches`, in order.

    `first` are those of the first images, float32 or float64: a file that begins otherwise, or has
    another size, is not trusted. Of several processes one computes, by going through its batches.
    Raises UserError where the disk does not take them.
    """
    path, shape = features_dir() / f"{name}.features", (num_images, first.shape[1])
    if (features := _open(path, shape, first)) is not None:
        return Features(features, 0.0)
    started, is_awaited = time.monotonic(), True
    with lock_file(path):
        if (features := _open(path, shape, first)) is None:
            _write(path, num_images * first[0].nbytes, batches)
            features = _open(path, shape, first)
            is_awaited = False
    if features is None:
        raise UserError(f"{path}: another time, the same images had other features")
    return Features(features, time.monotonic() - started, is_awaited)


def _open(path: Path, shape: tuple[int, int], first: Tensor) -> Tensor | None:
    """What is stored, mapped; None where there is nothing, or something else.

    The lock lasts as long as the map does: `_make_room` passes over what is in use.
    """
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH)  # others' looks whether it is in use are short
            if os.fstat(file.fileno()).st_size != shape[0] * first[0].nbytes:
                return None
            features = memmap_tensor(np.memmap(file, first.numpy().dtype, "r", shape=shape))
    except OSError:
        return None
    with suppress(OSError):  # of a disk that is read-only
        os.utime(path)
    return features if is_close(features[: len(first)], first) else None


def is_close(found: Tensor, expected: Tensor) -> bool:
    """Whether two tensors differ by no more than `NOISE` of the latter's norm; never where NaN."""
    return bool((found - expected).norm() <= NOISE * expected.norm())


def _write(path: Path, num_bytes: int, batches: Iterable[Tensor]) -> None:
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with lock_file(path.with_name("room")):
            _make_room(path.parent, num_bytes)
            file.truncate(num_bytes)  # it counts from now on
        for batch in batches:
            file.write(batch.numpy().data)


def _make_room(parent: Path, num_bytes: int) -> None:
    """Unlink what was used least recently, and by no living process, until so many bytes fit in."""
    sizes, used_at = {}, {}
    for path in parent.iterdir():
        with suppress(FileNotFoundError):
            sizes[path], used_at[path] = path.stat().st_size, path.stat().st_mtime_ns
    excess = sum(sizes.values()) + num_bytes - MOST_BYTES
    for path in sorted(sizes, key=lambda path: used_at[path]):
        if excess > 0 and path.suffix != ".lock" and _unused(path):
            path.unlink(missing_ok=True)
            path.with_name(f"{path.name}.lock").unlink(missing_ok=True)
            excess -= sizes[path]
    free = shutil.disk_usage(parent).free
    if excess > 0 or free < num_bytes:
        room = f"{decimal(free)} are free" if free < num_bytes else "others are in use"
        raise UserError(f"{parent}: features take {decimal(num_bytes)}, {room}")


def _unused(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


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
        data: ImageDataModule = trainer.datamodule  # type: ignore[attr-defined]
        try:
            check_same_in_every_epoch(trainer, data)
            self._give_features(Frozen(trainer, pl_module, data), data)
        except UserError as refused:
            log.info("the backbone runs in every epoch: %s", summarize_error(refused))

    def _give_features(self, frozen: "Frozen", data: ImageDataModule) -> None:
        parts = {"training": data.train, "validation": data.val, "test": data.test}
        first = {split: frozen.first_features(part) for split, part in parts.items()}
        num_bytes = sum(len(part) * first[split][0].nbytes for split, part in parts.items())
        if num_bytes > MOST_BYTES:
            most = decimal(MOST_BYTES)
            raise UserError(f"features take {decimal(num_bytes)}, at most {most} of them are kept")
        network = frozen.identity(self.record.metadata["model"])
        features: dict[str, Tensor] = {}
        for split, part in parts.items():
            batches = frozen.all_features(part, f"Features of {split} images")
            found = load_or_compute(f"{network}-{pixels(part)}", len(part), first[split], batches)
            features[split] = found.features
            total = (self.record.metadata.get("feature_seconds") or 0.0) + found.seconds
            self.record.update(feature_seconds=total)
            log.info("features of %d %s images %s", len(part), split, told_of(found))
        for split, part in parts.items():  # all of them or none
            part.features = features[split]


class Frozen:
    """A frozen backbone, run as in validation: on that device, in that precision and batch size."""

    def __init__(self, trainer: pl.Trainer, task: ImageClassifier, data: ImageDataModule) -> None:
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
        weights = hash_tensors(map(in_bytes, below.values()))
        return hash_json(FORMAT, model, kinds, weights, self.backbone.preprocessing, use)

    def all_features(self, part: ImageSubset, doing: str) -> Iterator[Tensor]:
        """Features (B, F) of a split's images, in batches and in order."""
        for start in track_progress(range(0, len(part), self.batch_size), doing):
            yield self._run(part, start, start + self.batch_size)[0]

    def first_features(self, part: ImageSubset) -> Tensor:
        """Features of a split's first images; raises UserError unless they are all that is needed."""
        features, logits = self._run(part, 0, NUM_CHECKED)
        if features.ndim == 2:
            with torch.inference_mode(), self.trainer.precision_plugin.forward_context():
                answers = self.task(features.to(logits.device))
            if answers.shape == logits.shape and is_close(answers, logits):
                return features
        taken = "x".join(map(str, features.shape[1:]))
        raise UserError(
            f"its head {self.backbone.head_name} takes {taken} numbers and is not its last layer"
        )

    @torch.inference_mode()
    def _run(self, part: ImageSubset, start: int, end: int) -> tuple[Tensor, Tensor]:
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
                logits = self.task(self.data.transforms.evaluation(images))
        finally:
            hook.remove()
        if len(taken) != 1:
            raise UserError(f"its head {self.backbone.head_name} runs {len(taken)} times an image")
        # float32 holds what half precisions do, and numpy knows no bfloat16
        return taken[0].to(torch.promote_types(taken[0].dtype, torch.float32)).cpu(), logits


def check_same_in_every_epoch(trainer: Any, data: ImageDataModule) -> None:
    """Raise UserError where an image may have other features in another epoch, or comes but once."""
    for setting in ("augment", "mix"):
        if (value := getattr(data, setting)) != "none":
            raise UserError(f"data.{setting}={value}, so images differ from epoch to epoch")
    if any(isinstance(callback, BaseFinetuning) for callback in trainer.callbacks):
        raise UserError("a callback may train it, too")
    if not isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy):
        raise UserError(f"{type(trainer.strategy).__name__} spreads it over devices")
    if trainer.fast_dev_run:
        raise UserError("trainer.fast_dev_run takes but a few images")


def told_of(found: Features) -> str:
    if not found.seconds:
        return f"read from {features_dir()}"
    by = " by another process" if found.is_awaited else ""
    return f"computed{by} in {found.seconds:.1f} s, kept in {features_dir()}"


def pixels(part: ImageSubset) -> str:
    """A hash of a split's images in their order."""
    return hash_tensors(part.data.images[some] for some in torch.split(part.index, 256))


def in_bytes(tensor: Tensor) -> Tensor:
    """A tensor's memory, in the order of its shape, whatever its kind and device."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
