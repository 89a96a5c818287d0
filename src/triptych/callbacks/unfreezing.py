"""Layers that a callback unfreezes while the network trains: they join the optimizer."""

import logging
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import BaseFinetuning, Callback
from lightning.pytorch.strategies import DDPStrategy
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from triptych.errors import list_first
from triptych.models.depth import split_by_depth

log = logging.getLogger(__name__)
RATES = ("lr", "initial_lr", "max_lr", "min_lr")  # of a group; schedules keep theirs there, too


class GradualUnfreezing(BaseFinetuning):
    """Lets the head learn first, and from the second epoch on `blocks` more an epoch, the last ones
    first: Howard & Ruder (2018). What does not learn yet runs as in evaluation.
    """

    def __init__(self, blocks: int = 1) -> None:
        super().__init__()
        if blocks < 1:
            raise ValueError("blocks must be at least 1")
        self.blocks = blocks

    def freeze_before_training(self, pl_module: Any) -> None:
        backbone = pl_module.backbone
        backbone.frozen = True
        backbone.requires_grad_(False)
        backbone.head.requires_grad_(True)
        backbone.train()

    def finetune_function(self, pl_module: Any, epoch: int, optimizer: Optimizer) -> None:
        backbone = pl_module.backbone
        every = split_by_depth(backbone.network, backbone.head)
        for block in every[::-1][: self.blocks * epoch]:
            for parameter in block:
                parameter.requires_grad_(True)


class UnfrozenLayers(Callback):
    """Runs after the user's callbacks, and has all learn that they let learn.

    A parameter that becomes trainable joins the optimizer before the next batch, at the recipe's
    rate and weight decay; a group that a callback added gets the recipe's weight decay, and its
    rate follows the schedule. A resumed run has the same groups again.
    """

    def __init__(self) -> None:
        self.num_groups = 0  # of the optimizer, that are as they should be
        self.resumed: list[list[str]] | None = None  # the groups' parameters, by name

    def setup(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        if stage == "fit" and any(isinstance(c, BaseFinetuning) for c in callbacks):
            # They freeze `backbone`, which is everything here, to leave the head to learn.
            pl_module.backbone.head.requires_grad_(True)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: Any, checkpoint: dict[str, Any]
    ) -> None:
        names = {parameter: name for name, parameter in pl_module.named_parameters()}
        groups = trainer.optimizers[0].param_groups if trainer.optimizers else []
        checkpoint["optimizer_groups"] = [[names[p] for p in g["params"]] for g in groups]

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: Any, checkpoint: dict[str, Any]
    ) -> None:
        self.resumed = checkpoint.get("optimizer_groups")
        trained = {name for names in self.resumed or () for name in names}
        for prefix, module in pl_module.named_modules():
            for name, parameter in module.named_parameters(prefix, recurse=False):
                if name in trained:
                    parameter.requires_grad_(True)
                    if isinstance(module, _BatchNorm):
                        module.track_running_stats = True  # as it is where one is unfrozen

    def on_fit_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Lay the optimizer out as the checkpoint's is, which is loaded into it next."""
        optimizer = trainer.optimizers[0]
        if self.resumed:
            parameters = dict(pl_module.named_parameters())
            like = optimizer.param_groups[-1]
            optimizer.param_groups = [
                like | {"params": [parameters[name] for name in names]} for names in self.resumed
            ]
            for schedule in find_schedules(trainer):
                if hasattr(schedule, "lr_lambdas"):
                    schedule.lr_lambdas = schedule.lr_lambdas[:1] * len(self.resumed)
        self.num_groups = len(optimizer.param_groups)
        pl_module.backbone.train()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        optimizer, optim = trainer.optimizers[0], pl_module.optim
        groups = Groups(optimizer, find_schedules(trainer), pl_module)
        groups.follow_rates(self.num_groups)
        added = optimizer.param_groups[self.num_groups :]
        del optimizer.param_groups[self.num_groups :]
        for group in added:
            groups.add(group["params"], group["lr"])
        new = groups.find_unlearned()
        if new:
            for parameters, rate in optim.list_rates(pl_module.backbone):
                joining = [p for p in parameters if p in {*new.values()}]
                groups.add(joining, groups.reference["lr"] * rate / optim.lr)
            log.info("%d parameters join the optimizer: %s", len(new), list_first([*new]))
        if added or new:
            self.num_groups = len(optimizer.param_groups)
            self._rearrange(trainer, pl_module)

    def _rearrange(self, trainer: Any, pl_module: Any) -> None:
        """Have the layers that learn now run as such, and their gradients reach every rank."""
        pl_module.backbone.train()
        if isinstance(trainer.strategy, DDPStrategy):
            trainer.strategy.model = pl_module
            trainer.strategy.configure_ddp()


def find_schedules(trainer: pl.Trainer) -> list[Any]:
    """The learning rate's schedule, or those that it is made of; none where a callback has taken it
    away, to put in its own."""
    schedules: list[Any] = [config.scheduler for config in trainer.lr_scheduler_configs]
    schedules += [part for whole in schedules for part in getattr(whole, "_schedulers", ())]
    return [schedule for schedule in schedules if hasattr(schedule, "base_lrs")]


class Groups:
    """An optimizer's groups of parameters, and its schedules."""

    def __init__(self, optimizer: Optimizer, schedules: list[Any], pl_module: Any) -> None:
        self.optimizer, self.schedules, self.module = optimizer, schedules, pl_module
        self.head = {*pl_module.backbone.head.parameters()}
        groups = enumerate(optimizer.param_groups)
        self.place, self.reference = next(
            (place, group) for place, group in groups if self.head & {*group["params"]}
        )

    def find_unlearned(self) -> dict[str, nn.Parameter]:
        """Trainable parameters that no group holds, by name."""
        held = {p for group in self.optimizer.param_groups for p in group["params"]}
        named = self.module.named_parameters()
        return {name: p for name, p in named if p.requires_grad and p not in held}

    def add(self, parameters: list[nn.Parameter], lr: float) -> None:
        """Add groups at a present rate, by weight decay; they follow the schedule as the head."""
        scale = lr / self.reference["lr"] if self.reference["lr"] else 0.0
        like = self.reference | {k: self.reference[k] * scale for k in RATES if k in self.reference}
        like["joined_as"] = len(self.optimizer.param_groups)
        for group in self.module.optim.group(parameters, lr):
            self.optimizer.add_param_group(like | group)
            for schedule in self.schedules:
                schedule.base_lrs.append(schedule.base_lrs[self.place] * scale)
                schedule.get_last_lr().append(lr)
                if hasattr(schedule, "lr_lambdas"):
                    schedule.lr_lambdas.append(schedule.lr_lambdas[self.place])

    def follow_rates(self, num_groups: int) -> None:
        """Have a schedule go on from the rates that a callback has set of what joined."""
        groups = self.optimizer.param_groups[:num_groups]
        for schedule in self.schedules:
            rates = schedule.get_last_lr()
            for place, group in enumerate(groups):
                ratio = group["lr"] / rates[place] if rates[place] else 1.0
                if "joined_as" in group and ratio != 1:
                    self._scale(schedule, group["joined_as"], ratio, num_groups)

    def _scale(self, schedule: Any, joined_as: int, ratio: float, num_groups: int) -> None:
        """Change the rates of groups that joined as one."""
        rates = schedule.get_last_lr()
        for place, group in enumerate(self.optimizer.param_groups[:num_groups]):
            if group.get("joined_as") == joined_as:
                schedule.base_lrs[place] *= ratio
                rates[place] *= ratio
                group |= {key: group[key] * ratio for key in RATES if key in group}
                group["lr"] = rates[place]
