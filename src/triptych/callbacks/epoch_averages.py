"""Weights averaged over epochs: stochastic weight averaging and soups.

A training ends with the mean, which is validated as an epoch of its own. An average over steps,
validated in every epoch, is in averages.py.
"""

import logging
import math
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from triptych.callbacks.checkpoint import CheckpointCallback
from triptych.callbacks.unfreezing import Groups
from triptych.config import MONITOR

log = logging.getLogger(__name__)
Weights = dict[str, Tensor]  # of a network, by name, on the CPU


class EpochAverage(Checkpoint):
    """Gives the network the mean of some epochs' weights, after the last epoch, whatever ends it.

    BatchNorm's statistics are then computed anew on the training images, and a validation follows:
    it counts as an epoch after the last, which is scored on the test set if it is the best. As a
    `Checkpoint` it runs after callbacks that end a training, and before the run's own.
    """

    is_over = False

    def compute_mean(self) -> tuple[list[int], Weights]:
        """The epochs, from 1, that the mean is of, and the mean; without epochs there is none."""
        raise NotImplementedError

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        if not is_last_epoch(trainer):
            return
        name, (epochs, mean) = type(self).__name__, self.compute_mean()
        if len(epochs) < 2:
            log.info("%s: fewer than two epochs, nothing to average", name)
            return
        self.is_over = True
        pl_module.backbone.network.load_state_dict(mean, strict=False)
        recompute_statistics(trainer, pl_module)
        [checkpoints] = (c for c in trainer.callbacks if isinstance(c, CheckpointCallback))
        before = checkpoints.best.metrics
        validate_epoch(trainer)
        is_best = checkpoints.best.metrics is not before
        if trainer.is_global_zero:
            checkpoints.record.update(averaged_epochs=epochs, average_is_best=is_best)
        listed, verdict = ", ".join(map(str, epochs)), "is" if is_best else "is not"
        log.info("%s: the mean of epochs %s %s what is scored", name, listed, verdict)


def is_last_epoch(trainer: pl.Trainer) -> bool:
    """Whether no epoch follows the present one: to be asked at its end."""
    progress = trainer.fit_loop.epoch_progress.current
    completed = progress.completed
    is_last = bool(trainer.fit_loop.done)
    progress.completed = completed  # which `done` sets
    return is_last


def validate_epoch(trainer: Any) -> None:
    """Run a validation at the end of an epoch, as if it were of the epoch after it."""
    progress, connector = trainer.fit_loop.epoch_progress.current, trainer._logger_connector
    is_first, trainer.validating = connector._first_loop_iter, True
    progress.completed += 1
    trainer.fit_loop.epoch_loop.val_loop.run()
    progress.completed -= 1
    connector._first_loop_iter, trainer.training = is_first, True


class SWA(EpochAverage):
    """Stochastic weight averaging (Izmailov et al., 2018): the mean of the last epochs' weights.

    From the epoch that passes `start`, a share of the training, but for two epochs at least, the
    rate stays as it is then, or as `lr` says for the head, others in proportion. An epoch counts
    with the weights it ends with.
    """

    def __init__(self, start: float = 0.75, lr: float | None = None) -> None:
        if not 0 <= start < 1 or (lr is not None and lr <= 0):
            raise ValueError("start must be at least 0 and below 1, lr above 0")
        self.start, self.lr = start, lr
        self.has_begun = False
        self.epochs: list[int] = []
        self.average: Weights = {}

    def state_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("has_begun", "epochs", "average")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        vars(self).update(state)

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if self.has_begun:  # a run is resumed
            stop_schedules(trainer)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        steps, total = pl_module.count_steps()
        done = trainer.current_epoch * steps
        is_time = done + steps > self.start * total or done >= total - 2 * steps
        if self.has_begun or not is_time:
            return
        self.has_begun = True
        stop_schedules(trainer)
        groups = Groups(trainer.optimizers[0], [], pl_module)
        factor = self.lr / groups.reference["lr"] if self.lr else 1.0
        for group in trainer.optimizers[0].param_groups:
            group["lr"] *= factor

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if self.has_begun:
            self.epochs.append(trainer.current_epoch + 1)
            for name, new in read_weights(pl_module).items():
                old = self.average.get(name, new)
                self.average[name] = old + (new - old) / len(self.epochs)
        super().on_train_epoch_end(trainer, pl_module)

    def compute_mean(self) -> tuple[list[int], Weights]:
        return self.epochs, self.average


class Soup(EpochAverage):
    """A uniform soup (Wortsman et al., 2022) of one training: the mean of the `k` best epochs.

    The best are those of the highest `monitor`, or the lowest as `mode` says, the earlier on a tie.
    """

    def __init__(self, monitor: str = MONITOR, mode: str = "max", k: int = 3) -> None:
        if k < 2:
            raise ValueError("k must be at least 2")
        self.monitor, self.mode, self.k = monitor, mode, k
        self.best: list[tuple[float, int, Weights]] = []  # score, epoch, weights; the best first

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best = state["best"]

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if trainer.sanity_checking or self.is_over:
            return
        score, sign = pl_module.scores.named("val")[self.monitor], -1 if self.mode == "max" else 1
        is_among = len(self.best) < self.k or sign * score < sign * self.best[-1][0]
        if is_among and not math.isnan(score):
            self.best.append((score, trainer.current_epoch + 1, read_weights(pl_module)))
            self.best = sorted(self.best, key=lambda entry: sign * entry[0])[: self.k]

    def compute_mean(self) -> tuple[list[int], Weights]:
        every = [weights for _, _, weights in self.best]
        names = every[0] if every else ()
        mean = {name: torch.stack([w[name] for w in every]).mean(0) for name in names}
        return sorted(epoch for _, epoch, _ in self.best), mean


def stop_schedules(trainer: pl.Trainer) -> None:
    """Have rates stay: Lightning steps a schedule at intervals of `step` or `epoch`."""
    for config in trainer.lr_scheduler_configs:
        config.interval = "never"


def read_weights(pl_module: Any) -> Weights:
    """A copy of the network's parameters, in float32 at least."""
    return {
        name: p.detach().to("cpu", torch.promote_types(p.dtype, torch.float32), copy=True)
        for name, p in pl_module.backbone.network.named_parameters()
    }


@torch.no_grad()
def recompute_statistics(trainer: Any, pl_module: Any) -> None:
    """Give BatchNorm layers that learn the statistics of an epoch's training images, on all ranks.

    As torch's `update_bn` has it: each batch counts alike.
    """
    momenta = reset_statistics(pl_module)
    loader = trainer.datamodule.train_dataloader()
    loader.batch_sampler.set_epoch(trainer.current_epoch)
    batches = zip(range(trainer.num_training_batches if momenta else 0), loader, strict=False)
    progress = trainer.fit_loop.epoch_loop.batch_progress.current
    ready = progress.ready
    for number, batch in batches:
        progress.ready = number  # images are mixed by it
        moved = trainer.strategy.batch_to_device(batch, dataloader_idx=0)
        with trainer.precision_plugin.forward_context():
            pl_module(moved.inputs)
    progress.ready = ready
    for layer, momentum in momenta.items():
        layer.momentum = momentum
        for name in ("running_mean", "running_var"):
            statistics: Tensor = getattr(layer, name)
            statistics.copy_(trainer.strategy.reduce(statistics, reduce_op="mean"))


def reset_statistics(pl_module: nn.Module) -> dict[_BatchNorm, float | None]:
    """BatchNorm layers that learn, ready for a cumulative mean, and their momenta until now."""
    layers = [m for m in pl_module.modules() if isinstance(m, _BatchNorm) and m.training]
    momenta = {layer: layer.momentum for layer in layers if layer.track_running_stats}
    for layer in momenta:
        layer.reset_running_stats()
        layer.momentum = None
    return momenta
