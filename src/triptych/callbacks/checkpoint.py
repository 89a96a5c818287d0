"""Checkpoints that are whole or not there, and hold nothing but data."""

import copy
import logging
import signal
import time
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any
from zipfile import ZipFile

import lightning.pytorch as pl
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor, distributed, nn

from triptych.errors import UserError
from triptych.models.backbone import strip_prefix
from triptych.runs.record import Record
from triptych.runs.stopping import (
    SIGNALS,
    Handler,
    exit_code,
    install_handlers,
    requeues_on_sigusr1,
)
from triptych.runs.storage import atomic_write


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target and renames: what lies there is whole, new or old."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(Path(path)) as temporary:
            try:
                torch.save(checkpoint, temporary)
            except RuntimeError as error:  # torch's way of saying that a write failed
                raise OSError(f"{path}: could not be written; is the disk full?") from error


def load_weights_into(network: nn.Module, path: Path) -> None:
    """Give a network the weights of `best.ckpt`; raises UserError where they are another's."""
    content = load_checkpoint(path)
    try:
        network.load_state_dict(content["state_dict"])
    except (KeyError, TypeError, AttributeError, RuntimeError, ValueError) as error:
        raise UserError(f"{path}: of another network, or damaged") from error


def load_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint's content on the CPU, its tensors read when used; raises UserError at code, and
    where a byte has changed: torch writes checksums, but does not look at them."""
    try:
        with ZipFile(path) as archive:
            if changed := archive.testzip():
                raise ValueError(f"{changed} is not what was written")
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        raise UserError(f"{path}: no checkpoint, or damaged; nothing of it was run") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: no checkpoint")
    return content


def checkpoint_step(path: Path) -> int:
    """The step that `last.ckpt` was saved at; raises UserError where it is not whole."""
    content = load_checkpoint(path)
    try:
        place, progress = content["ImageDataModule"], content["loops"]["fit_loop"]
        counts = [content["global_step"], place["epoch"], place["batch"]]
        counts.append(progress["epoch_loop.batch_progress"]["current"]["ready"])
        kept = content["callbacks"]["Journal"]
        counts += [kept["num_images"], kept["num_epochs"], kept["best"]["epoch"]]
        if not all(type(n) is int and n >= 0 for n in counts):
            raise ValueError("no place in the training")
        measured = [kept["train_seconds"], kept["best"]["accuracy"], *content["epoch_loss"]]
        if not all(type(n) in (int, float) for n in measured):
            raise ValueError("no account of the training")
        if len(content["optimizer_states"]) != 1 or len(content["lr_schedulers"]) != 1:
            raise ValueError("no optimizer, or no schedule")
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: no checkpoint of a training") from error
    return int(content["global_step"])


def generator_states(device: torch.device) -> list[dict[str, torch.Tensor]]:
    """The states of the global generators that dropout draws from, of every rank."""
    states = {"cpu": torch.get_rng_state()}
    states |= {"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {}
    if not distributed.is_initialized():
        return [states]
    every: list[dict[str, torch.Tensor]] = [{}] * distributed.get_world_size()
    distributed.all_gather_object(every, states)
    return every


def restore_generators(every: list[dict[str, torch.Tensor]], device: torch.device) -> None:
    """Go on with this rank's generators; a rank that had none yet gets its own seed."""
    rank = distributed.get_rank() if distributed.is_initialized() else 0
    if rank >= len(every):
        torch.manual_seed(torch.initial_seed() + rank)  # else all ranks would drop the same units
        return
    torch.set_rng_state(every[rank]["cpu"])
    if "cuda" in every[rank] and device.type == "cuda":
        torch.cuda.set_rng_state(every[rank]["cuda"], device)


# When a checkpoint is due within an epoch: after steps, after minutes, or before a stop.

log = logging.getLogger(__name__)
AGREE_SECONDS = 1.0  # between two questions of the ranks to each other: each waits for all
ONE_REQUEST_SECONDS = 1.0  # torchrun repeats a Ctrl-C that the terminal has sent already


def accumulates(trainer: pl.Trainer) -> bool:
    """Whether gradients wait for further batches: an optimizer step is under way."""
    within: bool = trainer.fit_loop.epoch_loop._should_accumulate()
    return within and not trainer.testing


def logged_step(trainer: pl.Trainer) -> int:
    """The step that something is logged at: one under way counts, for no checkpoint has it yet."""
    return trainer.global_step + accumulates(trainer)


class CheckpointSchedule:
    """Asked after every optimizer step, by all ranks alike, for they agree on the answer.

    Steps they can count; of minutes and signals they tell each other about once a second.
    """

    def __init__(self, every_n_steps: int | None, every_minutes: float | None) -> None:
        self.every_n_steps = every_n_steps
        self.every_seconds = None if every_minutes is None else 60 * every_minutes
        self.saved_at = time.monotonic()
        self.is_owed = False  # after a validation that could not be saved within a step
        self.stopped_by: int | None = None
        self.stopped_at = 0.0
        self.requeue: Handler | None = None  # Lightning's answer to SIGUSR1
        self.asked_at, self.asked_step = self.saved_at, 0
        self.num_steps = 1  # from one question to the next, the same on every rank

    def listen(self) -> None:
        """Let the first signal wait for the checkpoint after the present step.

        To be called when Lightning has installed its own handlers: it restores what was before
        them after training. Where it would requeue the job at SIGUSR1, in the middle of whatever
        goes on, that waits for the checkpoint, too.
        """
        before = install_handlers(self._stop, SIGNALS)
        self.requeue = before[signal.SIGUSR1] if requeues_on_sigusr1() else None

    def _stop(self, number: int, _: FrameType | None) -> None:
        if self.stopped_by is not None:
            if time.monotonic() - self.stopped_at > ONE_REQUEST_SECONDS:
                raise SystemExit(exit_code(number))
            return
        self.stopped_by, self.stopped_at = number, time.monotonic()
        log.info("stopping after this batch; once more to stop at once, without saving")

    def now(self, trainer: pl.Trainer) -> bool:
        """Whether to save a checkpoint at this step."""
        if self.is_owed:
            return True
        if self.every_n_steps and trainer.global_step % self.every_n_steps == 0:
            return True
        seconds = time.monotonic() - self.saved_at
        is_late = self.every_seconds is not None and seconds >= self.every_seconds
        is_due = is_late or self.stopped_by is not None
        return is_due if trainer.world_size == 1 else self._agreed_now(trainer, is_due)

    def saved(self, trainer: pl.Trainer) -> None:
        """Note that a checkpoint was saved; raises SystemExit where a signal asked to stop."""
        self.saved_at, self.is_owed = time.monotonic(), False
        if self._agreed(trainer, self.stopped_by is not None):
            if self._agreed(trainer, self.stopped_by == signal.SIGUSR1) and callable(self.requeue):
                self.requeue(signal.SIGUSR1, None)
            raise SystemExit(exit_code(self.stopped_by or 0))

    def _agreed(self, trainer: pl.Trainer, here: bool) -> bool:
        """Whether it holds on any rank: all of them take part in saving."""
        agreed: bool = trainer.strategy.reduce_boolean_decision(here, all=False)
        return agreed

    def _agreed_now(self, trainer: pl.Trainer, here: bool) -> bool:
        """`_agreed`, but about once in `AGREE_SECONDS` only, after as many steps as that takes."""
        steps = trainer.global_step - self.asked_step
        if 0 <= steps < self.num_steps:
            return False
        pace = (time.monotonic() - self.asked_at) / max(1, steps)
        told = torch.tensor([float(here), pace], device=trainer.strategy.root_device)
        agreed, slowest = trainer.strategy.reduce(told, reduce_op="max").tolist()
        # Doubled at most: a few fast steps say little of those to come.
        self.num_steps = max(1, min(2 * self.num_steps, int(AGREE_SECONDS / max(slowest, 1e-6))))
        self.asked_at, self.asked_step = time.monotonic(), trainer.global_step
        return bool(agreed)


# The best epoch's weights and answers, on their way to `best.ckpt` and `predictions/val.npz`.
#
# `last.ckpt` holds them, too, until both are written: they come after it, and again where a run is
# resumed that was killed between. So they never belong to an epoch that the record does not name.

Chosen = dict[str, Any]  # `val`: logits, labels, index, or None; in a checkpoint also `state_dict`


def weights(state: Mapping[str, Tensor], network: nn.Module) -> OrderedDict[str, Tensor]:
    """The network's part of the task's state, by the network's own names and versions."""
    own = OrderedDict(strip_prefix(state))
    own._metadata = network.state_dict()._metadata  # type: ignore[attr-defined]
    return own


def include(chosen: Chosen | None, checkpoint: dict[str, Any], network: nn.Module) -> None:
    """Let a checkpoint hold what was chosen, with the weights of that moment."""
    if chosen and "state_dict" not in chosen:
        chosen["state_dict"] = weights(checkpoint["state_dict"], network)
    checkpoint["chosen"] = chosen


def captured(chosen: Chosen, trainer: pl.Trainer) -> Chosen:
    """What was chosen, with the present weights where the next checkpoint will have others."""
    if not accumulates(trainer):
        return chosen
    content = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
    return copy.deepcopy(content["chosen"])


def keep(chosen: Chosen | None, record: Record, trainer: pl.Trainer) -> None:
    """Write both files, on rank 0; none where nothing was chosen."""
    if chosen is None or not trainer.is_global_zero:
        return
    content = {"state_dict": chosen["state_dict"], "config": record.config_yaml}
    AtomicCheckpointIO().save_checkpoint(content, record.checkpoint_path("best"))
    if chosen["val"] is None:
        record.drop_predictions("val")
        return
    logits, labels, index = (tensor.numpy() for tensor in chosen["val"])
    record.add_predictions("val", logits=logits, labels=labels, index=index)
