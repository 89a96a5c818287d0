"""Averaged weights that are worth scoring from the first epoch on.

Lightning's callbacks average: `EMAWeightAveraging` in `experiment=finetune`, others where a user
names them. What is amended here makes a short training's average no worse than its network.
"""

import logging
from functools import partial
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, StochasticWeightAveraging, WeightAveraging
from torch import Tensor

from triptych.callbacks.epoch_averages import reset_statistics

log = logging.getLogger(__name__)


def amend_averages(trainer: pl.Trainer) -> None:
    """Have the averages of the trainer's callbacks scored as they should be; before training."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    for callback in callbacks:
        if type(callback) is WeightAveraging and not has_function(callback):
            log.info(
                "WeightAveraging: the average weighs every step alike, also the first, untrained "
                "ones; EMAWeightAveraging forgets them, StochasticWeightAveraging starts later"
            )
    if averages := [c for c in callbacks if isinstance(c, WeightAveraging)]:
        callbacks.insert(0, AmendedAverages(averages))
    if late := [c for c in callbacks if isinstance(c, StochasticWeightAveraging)]:
        callbacks.insert(0, AmendedLateAverages(late))


def has_function(average: WeightAveraging) -> bool:
    """Whether the average is computed otherwise than as the mean of all weights."""
    return any(average._kwargs.get(name) for name in ("avg_fn", "multi_avg_fn"))


class MovingAverage:
    """An `avg_fn` of torch's AveragedModel that forgets its beginning, the untrained network.

    `keep` is the share of the old average at the next update.
    """

    def __init__(self, decay: float) -> None:
        self.decay, self.keep = decay, 0.0

    def prepare(self, number: int, steps: int = 1, every: int = 1) -> None:
        """Set `keep` for an update after step `number`, `steps` after the latest.

        `decay` counts once in `every` steps. The limit is that of TensorFlow's moving average:
        the average spans a tenth of the steps so far, at most.
        """
        self.keep = min(self.decay ** (steps / every), ((1 + number) / (10 + number)) ** steps)

    def __call__(self, averaged: Tensor, current: Tensor, num_averaged: Tensor | int) -> Tensor:
        if not averaged.is_floating_point():
            return current
        return averaged.lerp(current, 1 - self.keep)  # exact where both are equal: frozen layers


class AmendedAverages(Callback):
    """Runs before Lightning's averages.

    A moving average forgets the untrained network, and is brought up to date before it is scored,
    whatever its `update_every_n_steps`. Before its first update an average follows the network:
    that is what is scored and saved, not the weights that training began with.
    """

    def __init__(self, averages: list[WeightAveraging]) -> None:
        self.averages = averages
        self.moving: dict[WeightAveraging, MovingAverage] = {}
        for average in averages:
            if (decay := find_constant_decay(average._kwargs)) is not None:
                self.moving[average] = MovingAverage(decay)
                average._kwargs |= {"avg_fn": self.moving[average], "multi_avg_fn": None}

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        for average, moving in self.moving.items():
            steps = max(1, trainer.global_step - average._latest_update_step)
            every = getattr(average, "update_every_n_steps", steps)
            moving.prepare(trainer.global_step, steps, every or 1)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._bring_up_to_date(trainer, pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._bring_up_to_date(trainer, pl_module)
        for average, moving in self.moving.items():
            if not getattr(average, "update_every_n_steps", 0):
                moving.prepare(trainer.current_epoch)  # its updates are counted in epochs

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._follow(pl_module)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._follow(pl_module)

    def _bring_up_to_date(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._follow(pl_module)
        for average, moving in self.moving.items():
            every = getattr(average, "update_every_n_steps", 0)
            steps = trainer.global_step - average._latest_update_step
            model = average._average_model
            if model is not None and model.n_averaged > 0 and every > 0 and steps > 0:
                moving.prepare(trainer.global_step, steps, every)
                model.update_parameters(pl_module)
                average._latest_update_step = trainer.global_step

    @torch.no_grad()
    def _follow(self, pl_module: pl.LightningModule) -> None:
        """Give every average without an update the network's present weights."""
        for average in self.averages:
            model = average._average_model
            if model is not None and model.n_averaged == 0:
                model.module.load_state_dict(pl_module.state_dict())


class AmendedLateAverages(Callback):
    """Runs before Lightning's `StochasticWeightAveraging`.

    That takes an epoch's weights when the next one starts, and so never the last one's: here an
    epoch counts with those it ends with. It adds an epoch for BatchNorm's statistics, which is the
    only one to validate the average: here it is added for every network, and frozen layers keep
    their statistics. And its rates come back also within an epoch.
    """

    def __init__(self, averages: list[StochasticWeightAveraging]) -> None:
        self.averages = averages
        for average in averages:
            vars(average)["pl_module_contains_batch_norm"] = lambda _: True
            vars(average)["reset_batch_norm_and_save_state"] = partial(save_momenta, average)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for average in self.averages:
            if trainer.fit_loop.restarted_mid_epoch:
                average.on_train_epoch_start(trainer, pl_module)  # Lightning leaves it out

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for average in self.averages:
            average._latest_update_epoch = trainer.current_epoch  # it takes no weights now

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for average in self.averages:
            if average.swa_start <= trainer.current_epoch <= average.swa_end:
                model, number = average._average_model, average.n_averaged
                assert model is not None
                assert number is not None
                average.update_parameters(model, pl_module, number, average._avg_fn)


def save_momenta(average: StochasticWeightAveraging, pl_module: pl.LightningModule) -> None:
    average.momenta = reset_statistics(pl_module)


def find_constant_decay(functions: dict[str, Any]) -> float | None:
    """The decay of a moving average among AveragedModel's arguments; None of any other average."""
    average, multi_average = functions.get("avg_fn"), functions.get("multi_avg_fn")
    shares = []
    for number in map(torch.tensor, (1, 1000)):
        old, new = torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
        if average:
            old = average(old, new, number)
        elif multi_average:
            multi_average([old], [new], number)
        shares.append(float(old))
    is_moving = (average or multi_average) and shares[0] == shares[1] < 1
    return shares[0] if is_moving else None
