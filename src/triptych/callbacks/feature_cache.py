"""Runs a frozen backbone once over every image; its head then trains on features kept on disk.

They lie in DATA_DIR/.features, named by a hash of all that makes them, for later runs to read.

Shapes: N images of all splits, B images of a batch, F features, C classes.
"""

import logging
import os
import time
from bisect import bisect_right
from itertools import accumulate
from typing import Any, BinaryIO

import torch
from lightning.pytorch.callbacks import BaseFinetuning, Callback
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from rich.filesize import decimal
from torch import Tensor

from triptych.callbacks.deadline import has_time
from triptych.callbacks.progress import ProgressLines
from triptych.callbacks.time_left import RunClock, count_batches, find_clock
from triptych.data.datamodule import ImageSubset
from triptych.data.disk_cache import data_dir, hash_json, lock_file, map_tensor, track_progress
from triptych.data.source import hash_tensors
from triptych.errors import UserError, summarize_error
from triptych.runs.durations import format_left
from triptych.runs.record import Record
from triptych.runs.stopping import OutOfTime

log = logging.getLogger(__name__)

HEAD_STEP, HEAD_EPOCH = 0.002, 0.2  # seconds, for a probe: Lightning's own, and saving
MAX_BYTES = 8 * 10**9  # of all features on disk; the least recently used are removed
TOLERANCE = 0.02  # relative: bfloat16 rounds so much, and another batch size rounds otherwise
NUM_CHECKED = 8  # first images, by which the head and a file are checked
# From one fsync to the next, 1 on others: as many are computed again where a run is cut off.
SYNC_BATCHES = {"cuda": 32}
SAME_BITS_FROM = 32  # images a batch: on a CPU larger batches gave the same bits, smaller others


class FeatureCache(Callback):
    """Gives the splits their features before training, once weights are restored.

    Where features may change between epochs, or cannot be kept, the log says why, and the backbone
    runs in every epoch.
    """

    def __init__(self, record: Record) -> None:
        self.record = record

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        splits = (trainer.datamodule.train, trainer.datamodule.val, trainer.datamodule.test)
        try:
            check_features_stay(trainer)
            backbone = FrozenBackbone(trainer, splits, self.record.metadata["model"])
            features, seconds = backbone.load_or_compute()
        except UserError as error:
            log.info("the backbone runs in every epoch: %s", summarize_error(error))
            return
        for split, part in zip(splits, torch.split(features, [*map(len, splits)]), strict=True):
            split.features = part
        earlier = self.record.metadata.get("feature_seconds") or 0.0
        self.record.update(feature_seconds=earlier + seconds)


def check_features_stay(trainer: Any) -> None:
    """Raise UserError where an image's features may change, or each is used but once."""
    for setting in ("augment", "mix"):
        if (value := getattr(trainer.datamodule, setting)) != "none":
            value = value if isinstance(value, str) else type(value).__name__
            raise UserError(f"data.{setting}={value}, so images differ from epoch to epoch")
    for callback in trainer.callbacks:
        is_known = type(callback).__module__.startswith(("lightning.", "triptych."))
        if isinstance(callback, BaseFinetuning) or not is_known:
            raise UserError(f"a callback may train it, too: {type(callback).__name__}")
    if not isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy):
        raise UserError(f"{type(trainer.strategy).__name__} spreads it over devices")
    if trainer.fast_dev_run:
        raise UserError("trainer.fast_dev_run takes but a few images")


class FrozenBackbone:
    """A frozen backbone, run as in validation: on that device, in that precision and batch size."""

    def __init__(self, trainer: Any, splits: tuple[ImageSubset, ...], model: str) -> None:
        self.trainer, self.splits = trainer, splits
        self.module, self.head = trainer.lightning_module, trainer.lightning_module.backbone.head
        self.batch_size = max(1, trainer.datamodule.batch_size // trainer.world_size)
        self.path = data_dir() / ".features" / f"{self._hash(model)}.features"

    def _hash(self, model: str) -> str:
        """Of all that makes features: images, weights below the head, and how both are used."""
        backbone, trainer = self.module.backbone, self.trainer
        state = backbone.network.state_dict()
        below = [state[name] for name in state if not name.startswith(f"{backbone.head_name}.")]
        weights = hash_tensors(t.cpu().contiguous().flatten().view(torch.uint8) for t in below)
        images = [
            hash_tensors(s.data.images[i] for i in torch.split(s.index, 256)) for s in self.splits
        ]
        run = (str(trainer.precision), trainer.strategy.root_device.type, torch.__version__)
        batch_size = min(self.batch_size, SAME_BITS_FROM)
        return hash_json(model, weights, backbone.expectations, images, *run, batch_size)

    def load_or_compute(self) -> tuple[Tensor, float]:
        """Features float (N, F), read-only, and seconds until they were there, 0 where read.

        Of several processes one computes. Raises UserError where they cannot be kept.
        """
        first, started = self._first_features(), time.monotonic()
        if (features := self._read(first)) is not None:
            log.info("features read from %s", self.path)
            return features, 0.0
        with lock_file(self.path):
            if (features := self._read(first)) is None:
                self._write(first[0].nbytes)
                features = self._read(first)
        if features is None:
            raise UserError(f"{self.path}: the same images had other features when computed again")
        seconds = time.monotonic() - started
        log.info("features computed in %.1f s: %s", seconds, self.path)
        return features, seconds

    def _first_features(self) -> Tensor:
        """Features of the first images; raises UserError unless the head is the last layer."""
        features, logits = self._run(self.splits[0], 0, NUM_CHECKED)
        with torch.inference_mode(), self.trainer.precision_plugin.forward_context():
            answers = self.head(features.to(logits.device, self.module.dtype))
        if features.ndim != 2 or not is_close(answers, logits):
            raise UserError(f"its head {self.module.backbone.head_name} is not its last layer")
        return features

    def _read(self, first: Tensor) -> Tensor | None:
        """The features in the file; None where there is none, or it does not fit the first."""
        shape = (sum(map(len, self.splits)), first.shape[1])
        try:
            features = map_tensor(self.path, first.numpy().dtype, shape)
        except (OSError, ValueError):  # not there, or too short
            return None
        if os.access(self.path, os.W_OK):
            os.utime(self.path)  # used now: others are removed first
        return features if is_close(features[: len(first)], first) else None

    def _write(self, bytes_per_image: int) -> None:
        """Compute all features, in place of the least recently used; who maps those keeps them."""
        num_bytes = bytes_per_image * sum(map(len, self.splits))
        if num_bytes > MAX_BYTES:
            raise UserError(f"features take {decimal(num_bytes)}, more than {decimal(MAX_BYTES)}")
        part = self.path.with_suffix(".part")
        for path in sorted(self.path.parent.iterdir(), key=os.path.getmtime, reverse=True):
            num_bytes += path.stat().st_size if path != part else 0
            if num_bytes > MAX_BYTES:
                path.unlink()
        try:
            with part.open("ab") as file:
                self._append(file, bytes_per_image)
        except OSError:
            part.unlink(missing_ok=True)  # a full disk needs the space
            raise
        os.replace(part, self.path)

    def _append(self, file: BinaryIO, bytes_per_image: int) -> None:
        """Compute what is not in the file: a run that was cut off may have left the first part."""
        size = self.batch_size
        batches = [(split, n) for split in self.splits for n in range(0, len(split), size)]
        ends = [*accumulate(min(size, len(split) - n) for split, n in batches)]
        num_whole = bisect_right(ends, file.tell() // bytes_per_image)
        sync_batches = SYNC_BATCHES.get(self.trainer.strategy.root_device.type, 1)
        first = max(0, num_whole - sync_batches)  # later ones may not have reached the disk
        file.truncate(ends[first - 1] * bytes_per_image if first else 0)
        for number in track_progress(range(first, len(batches)), "Features"):
            split, start = batches[number]
            features, _ = self._run(split, start, start + size)
            file.write(features.numpy().data)
            # However little time there is, it comes further than it was.
            may_stop = number - first >= sync_batches
            self._show_progress(number, len(batches), may_stop=may_stop)
            if number % sync_batches == 0:
                file.flush()
                os.fsync(file.fileno())

    def _show_progress(self, number: int, total: int, *, may_stop: bool) -> None:
        """Say how long it takes, where nobody did for a while; raises OutOfTime at a deadline."""
        if clock := find_clock(self.trainer):
            left = note_features(clock, self.trainer, total - number - 1, may_stop=may_stop)
            for lines in self.trainer.callbacks:
                if isinstance(lines, ProgressLines):
                    lines.say(f"features, batch {number + 1} of {total}", lambda: left)

    @torch.inference_mode()
    def _run(self, split: ImageSubset, start: int, end: int) -> tuple[Tensor, Tensor]:
        """What the head takes of the images at positions `start` to `end`, and logits (B, C)."""
        inputs: list[Tensor] = []
        images = split.data.images[split.index[start:end]].to(self.trainer.strategy.root_device)
        with (
            self.head.register_forward_pre_hook(lambda _, args: inputs.extend(args)),
            self.trainer.precision_plugin.forward_context(),
            torch.compiler.set_stance("force_eager"),  # a compiler would begin anew at each hook
        ):
            logits = self.module(self.trainer.datamodule.transforms.evaluation(images))
        # float32 holds what half precisions do, and numpy knows no bfloat16
        return inputs[-1].to(torch.promote_types(inputs[-1].dtype, torch.float32)).cpu(), logits


def is_close(actual: Tensor, expected: Tensor) -> bool:
    """Whether two tensors differ by `TOLERANCE` of the second's norm at most; False at NaN."""
    return bool((actual - expected).norm() <= TOLERANCE * expected.norm())


def note_features(clock: RunClock, trainer: Any, num_left: int, *, may_stop: bool) -> str:
    """Note that a batch of features was computed, of which so many are left; the time that is left
    with the training of the head, in words that continue a line.

    Raises OutOfTime where there is no time for the next, if it `may_stop`.
    """
    clock.pace.advance("features", time.monotonic())
    each = clock.seconds("features")
    if may_stop and not has_time(clock, each):
        raise OutOfTime(0)
    per_epoch = count_batches(trainer, "train")
    steps = max(trainer.max_epochs or 0, 0) * per_epoch
    if trainer.max_steps > 0:
        steps = trainer.max_steps
    head = HEAD_STEP * steps + HEAD_EPOCH * steps / max(1, per_epoch)
    seconds = num_left * each + head + clock.end_seconds
    if clock.pace.is_new():
        return ""
    clock.feature_seconds = (clock.pace.counts["features"] + num_left) * each
    clock.report_end(seconds)
    return f", {format_left(seconds)}"
