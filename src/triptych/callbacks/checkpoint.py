"""When a checkpoint is saved, what it holds, and the best epoch's weights."""

import copy
import logging
import math
import signal
import time
from collections import OrderedDict
from functools import partial
from types import FrameType
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor, distributed, nn

from triptych.callbacks.loop import (
    dump_checkpoint,
    is_accumulating,
    is_last_batch,
    resume_by_epochs,
    validates_next,
)
from triptych.callbacks.recorder import RunRecorder
from triptych.callbacks.time_left import RunClock
from triptych.errors import UserError
from triptych.models.backbone import strip_prefix
from triptych.runs import stopping
from triptych.runs.checkpoint_files import AtomicCheckpointIO
from triptych.runs.record import Record

log = logging.getLogger(__name__)
NETWORK = "backbone.network."  # its weights in a module's state; losses have some, too
REPEAT_SECONDS = 1.0  # torchrun repeats a Ctrl-C that the terminal has sent already


class BestWeights:
    """The epoch to be scored: its weights and validation predictions, until they are written.

    Weights are taken from what a checkpoint holds, for callbacks may change that (averaged
    weights). `last.ckpt` holds them, too, until both files are written: a run that is killed
    in between writes them when it is resumed.
    """

    def __init__(self) -> None:
        self.epoch, self.step = 0, 0  # epochs from 1
        self.metrics: dict[str, float] = {}
        self.unwritten: dict[str, Any] | None = None  # `val` predictions; then `state_dict`

    def capture(self, state: dict[str, Tensor], network: nn.Module) -> None:
        """Take the weights out of a checkpoint's state, by the network's own names."""
        if self.unwritten and "state_dict" not in self.unwritten:
            of_network = {n: value for n, value in state.items() if n.startswith(NETWORK)}
            weights = OrderedDict(strip_prefix(of_network))
            weights._metadata = network.state_dict()._metadata  # type: ignore[attr-defined]
            self.unwritten["state_dict"] = weights

    def save(self, record: Record) -> None:
        """Write `best.ckpt` and `predictions/val.npz`, once."""
        unwritten, self.unwritten = self.unwritten, None
        if unwritten is None:
            return
        weights = unwritten["state_dict"]
        weights.update({name: tensor.cpu() for name, tensor in weights.items()})  # to load anywhere
        content = {"state_dict": weights, "config": record.config_yaml}
        content |= record.weights_metadata
        AtomicCheckpointIO().save_checkpoint(content, record.checkpoint_path("best"))
        if unwritten["val"] is None:
            record.drop_predictions("val")
            return
        logits, labels, index = (tensor.numpy() for tensor in unwritten["val"])
        record.add_predictions("val", logits=logits, labels=labels, index=index)


class CheckpointCallback(Checkpoint):
    """Saves `last.ckpt` and `best.ckpt`. Lightning runs it after all other callbacks.

    `last.ckpt`, all that resuming needs, is saved at the end of an epoch, after its validation,
    and within an epoch when the schedule says so, where an optimizer step is complete; never on a
    batch that a validation follows, or a run resumed there would skip it. `best.ckpt` follows it:
    the epoch of the best `monitor`, its `mode` (`max` or `min`), the earlier one on a tie; without
    one, or without validation, the last. NaN is never the best.
    """

    def __init__(
        self,
        record: Record,
        recorder: RunRecorder,
        schedule: "SaveSchedule",
        monitor: str | None,
        mode: str = "max",
    ) -> None:
        self.record, self.recorder, self.schedule = record, recorder, schedule
        self.monitor, self.mode = monitor, mode
        self.captures_at_once = False  # where callbacks may change weights until the next save
        self.best = BestWeights()
        self._step = 0
        self._generators: list[dict[str, Tensor]] = []
        self.has_started = False  # then settings and checkpoint have been accepted

    def state_dict(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self.best).items() if name != "unwritten"}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        vars(self.best).update({name: state[name] for name in self.state_dict()})

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._save_best(trainer)  # of a run that was killed before it wrote them

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._step = trainer.global_step
        restore_generators(self._generators, trainer.strategy.root_device)
        self.schedule.catch_signals()
        self.has_started = True

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        has_stepped, self._step = trainer.global_step != self._step, trainer.global_step
        if not has_stepped or is_last_batch(trainer) or validates_next(trainer):
            return
        if self.schedule.should_save(trainer):
            self.recorder.read_loss(trainer, pl_module)
            self.save(trainer)
            self.schedule.stop_if_requested(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if trainer.sanity_checking:
            return
        values = pl_module.scores.named("val")
        if self.monitor not in values and self.monitor in (logged := trainer.callback_metrics):
            values[self.monitor] = float(logged[self.monitor])  # by a subclass
        if self._is_best(values):
            self._choose(trainer, values, [tensor.cpu() for tensor in pl_module.predictions])
        if is_accumulating(trainer):
            self.schedule.is_overdue = True  # at the end of the step
        elif not is_last_batch(trainer):
            self.save(trainer)
            self.schedule.stop_if_requested(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        is_latest = self.best.step == trainer.global_step  # else steps followed its validation
        if not is_latest if self.monitor is None else self.monitor not in self.best.metrics:
            self._choose(trainer, {}, None)
        self.save(trainer)
        self.schedule.stop_if_requested(trainer)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.record.update(best_epoch=self.best.epoch, metrics=self.best.metrics)

    def save(self, trainer: pl.Trainer) -> None:
        """Write `last.ckpt`, and `best.ckpt` where there is a better epoch."""
        started = time.monotonic()
        for logger in trainer.loggers:
            logger.save()  # curves must reach as far as the checkpoint
        trainer.save_checkpoint(self.record.checkpoint_path("last"), weights_only=False)
        self._save_best(trainer)
        self.schedule.restart()
        self.recorder.pause()
        if self.schedule.clock:
            self.schedule.clock.save_seconds = time.monotonic() - started

    def _save_best(self, trainer: pl.Trainer) -> None:
        if trainer.is_global_zero:
            self.best.save(self.record)
        self.best.unwritten = None

    def _is_best(self, values: dict[str, float]) -> bool:
        if self.monitor is None:
            return True
        if self.monitor not in values:
            known = ", ".join(values)
            raise UserError(f"checkpoint.monitor={self.monitor}: must be one of {known}")
        value, best = values[self.monitor], self.best.metrics.get(self.monitor)
        if math.isnan(value):
            log.info("%s is NaN, which is never the best", self.monitor)
        if best is None:
            return not math.isnan(value)
        return value < best if self.mode == "min" else value > best

    def _choose(
        self, trainer: pl.Trainer, values: dict[str, float], predictions: list[Tensor] | None
    ) -> None:
        best = self.best
        best.epoch, best.step = trainer.current_epoch + 1, trainer.global_step
        best.metrics = {"train/loss": self.recorder.train_loss} | values
        best.unwritten = {"val": predictions}
        if is_accumulating(trainer) or self.captures_at_once:  # what is saved next may differ
            best.unwritten = copy.deepcopy(dump_checkpoint(trainer)["best"])

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: Any, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["generators"] = generator_states(trainer.strategy.root_device)
        checkpoint["should_stop"] = trainer.should_stop  # an early stop, which Lightning forgets
        checkpoint |= self.record.weights_metadata
        self.best.capture(checkpoint["state_dict"], pl_module.backbone.network)
        checkpoint["best"] = self.best.unwritten

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: Any, checkpoint: dict[str, Any]
    ) -> None:
        resume_by_epochs(trainer)
        self._generators = checkpoint["generators"]
        trainer.should_stop = checkpoint["should_stop"]
        self.best.unwritten = checkpoint["best"]


class SaveSchedule:
    """When a checkpoint is due within an epoch: after steps, after minutes, or before a stop, by a
    signal or because the run's `clock` has no time for more.

    Asked after every optimizer step, by all ranks alike, and they agree on the answer. Steps they
    can count; about minutes and signals they exchange a word once a second.
    """

    def __init__(
        self, every_n_steps: int | None, every_minutes: float | None, clock: RunClock | None = None
    ) -> None:
        self.every_n_steps, self.clock = every_n_steps, clock
        self.every_seconds = None if every_minutes is None else 60 * every_minutes
        self.is_overdue = False  # a validation within a step could not be saved
        self.stopped_by: int | None = None
        self._stopped_at = 0.0
        self._requeue: stopping.Handler | None = None  # Lightning's answer to SIGUSR1
        self._saved_at = time.monotonic()
        self._agreement: Any = None  # of several ranks

    def catch_signals(self) -> None:
        """Let the first signal wait for the checkpoint after the present step; not the second.

        To be called when Lightning has installed its own handlers, which it takes back after
        training. Where Lightning would requeue the job at SIGUSR1, that waits as well.
        """
        before = stopping.install_handlers(self._request_stop, stopping.SIGNALS)
        self._requeue = before[signal.SIGUSR1] if stopping.requeues_on_sigusr1() else None

    def _request_stop(self, number: int, _: FrameType | None) -> None:
        if self.stopped_by is not None:
            if time.monotonic() - self._stopped_at > REPEAT_SECONDS:
                raise SystemExit(stopping.exit_code(number))
            return
        self.stopped_by, self._stopped_at = number, time.monotonic()
        log.info("stopping after this batch; once more to stop at once, without saving")

    def should_save(self, trainer: pl.Trainer) -> bool:
        """Whether to save a checkpoint at this step."""
        if self.is_overdue:
            return True
        if self.every_n_steps and trainer.global_step % self.every_n_steps == 0:
            return True
        seconds = time.monotonic() - self._saved_at
        is_late = self.every_seconds is not None and seconds >= self.every_seconds
        is_due = is_late or self.stopped_by is not None or self.is_out_of_time(trainer)
        if trainer.world_size == 1:
            return is_due
        if self._agreement is None:
            from triptych.distributed.agreement import Agreement

            self._agreement = Agreement()
        return bool(self._agreement.is_due(trainer, is_due))

    def restart(self) -> None:
        """Count from now: a checkpoint was saved."""
        self._saved_at, self.is_overdue = time.monotonic(), False

    def stop_if_requested(self, trainer: pl.Trainer) -> None:
        """Raise SystemExit where a signal asked any rank to stop; OutOfTime where any has no time.

        What there is has been saved.
        """
        is_true_on_any = partial(trainer.strategy.reduce_boolean_decision, all=False)
        if not is_true_on_any(self.stopped_by is not None):
            has_deadline = self.clock and self.clock.deadline < math.inf
            if has_deadline and is_true_on_any(self.is_out_of_time(trainer)):
                raise stopping.OutOfTime(0)
            return
        if is_true_on_any(self.stopped_by == signal.SIGUSR1) and callable(self._requeue):
            self._requeue(signal.SIGUSR1, None)
        raise SystemExit(stopping.exit_code(self.stopped_by or 0))

    def is_out_of_time(self, trainer: pl.Trainer) -> bool:
        """Whether the run has to be stopped now, for at the next chance it would be late."""
        if self.clock is None or self.clock.deadline == math.inf:
            return False
        from triptych.callbacks.deadline import has_time_for_step

        return not has_time_for_step(self.clock, trainer)


def generator_states(device: torch.device) -> list[dict[str, Tensor]]:
    """The states of the global generators that dropout draws from, of every rank."""
    states = {"cpu": torch.get_rng_state()}
    states |= {"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {}
    if not distributed.is_initialized():
        return [states]
    every: list[dict[str, Tensor]] = [{}] * distributed.get_world_size()
    distributed.all_gather_object(every, states)
    return every


def restore_generators(every: list[dict[str, Tensor]], device: torch.device) -> None:
    """Go on with this rank's generators; a rank that had none yet gets its own seed."""
    rank = distributed.get_rank() if distributed.is_initialized() else 0
    if rank >= len(every):
        torch.manual_seed(torch.initial_seed() + rank)  # else all ranks would drop the same units
        return
    torch.set_rng_state(every[rank]["cpu"])
    if "cuda" in every[rank] and device.type == "cuda":
        torch.cuda.set_rng_state(every[rank]["cuda"], device)
