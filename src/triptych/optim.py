"""Optimizer and schedule: they are tuned together."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from triptych.errors import UserError
from triptych.models.backbone import Backbone


@dataclass(frozen=True, kw_only=True)
class Optim:
    """How a network learns; rates are per step, `warmup_epochs` may be a fraction.

    So long the rate rises linearly, or with `schedule="onecycle"` as that does (0: 30 % of all).
    `optimizer(groups)` makes a torch optimizer, `schedule`, where it is no word, a scheduler of it,
    stepped once an `interval`, `step` or `epoch`, by `monitor` where it looks at one. `backbone_lr`
    is the rate below the head, `lr` where it is None, times `layer_decay` for each block that is
    nearer to it: ULMFiT (Howard & Ruder, 2018). Norm layers and biases never decay.
    """

    optimizer: Callable[[list[dict[str, Any]]], Optimizer]
    lr: float
    backbone_lr: float | None = None
    layer_decay: float = 1.0
    weight_decay: float = 0.0
    schedule: str | Callable[[Optimizer], LRScheduler] = "constant"
    interval: str = "step"
    monitor: str | None = None
    warmup_epochs: float = 0.0

    def build(
        self, backbone: Backbone, steps_per_epoch: float, total_steps: int, more: Any = ()
    ) -> tuple[Optimizer, LRScheduler]:
        """Optimizer over what trains, and a schedule to be stepped once a step.

        `more` parameters, as a loss may have them, learn as the head does.
        Raises UserError where the schedule falls towards an end and training has none, or goes on.
        """
        try:
            optimizer = self.optimizer([*self.groups(backbone), *self.group(more, self.lr)])
        except (TypeError, ValueError) as error:
            raise UserError(f"optim.optimizer: {error}") from error
        if not isinstance(self.schedule, str):
            try:
                schedule = self.schedule(optimizer)
            except (TypeError, ValueError) as error:
                raise UserError(f"optim.schedule: {error}") from error
            last = getattr(schedule, "total_steps", math.inf)  # OneCycleLR takes no step beyond
            by_step = self.interval == "step"
            num = total_steps if by_step else math.ceil(total_steps / steps_per_epoch)
            if num > last:
                what = f"this training has {num} {self.interval}s"
                raise UserError(f"optim.schedule.total_steps={last}: too few, {what}")
            return optimizer, schedule
        if self.schedule != "constant" and total_steps < 1:
            raise UserError(
                f"optim.schedule={self.schedule}: falls towards an end; give trainer.max_epochs or "
                "trainer.max_steps, or choose constant"
            )
        warmup_steps = round(self.warmup_epochs * steps_per_epoch)
        if self.schedule == "onecycle":
            rates = [group["lr"] for group in optimizer.param_groups]
            has_momentum = bool({"momentum", "betas"} & optimizer.defaults.keys())
            options: dict[str, Any] = {"cycle_momentum": has_momentum}
            if warmup_steps:  # torch divides by zero where either side has a single step
                rising = max(2, min(warmup_steps, total_steps - 1))
                options["pct_start"] = min(1.0, rising / total_steps)
            return optimizer, OneCycleLR(optimizer, rates, total_steps, **options)
        return optimizer, LambdaLR(
            optimizer, lambda step: self.factor(step, warmup_steps, total_steps)
        )

    def factor(self, step: int, warmup_steps: int, total_steps: int) -> float:
        """The share of the rate at a step, in [0, 1]: linear up, then as the schedule says."""
        if step < warmup_steps:
            return (step + 1) / (warmup_steps + 1)
        if self.schedule == "constant":
            return 1.0
        done = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
        if self.schedule == "step":
            return 1.0 if done < 0.5 else 0.1 if done < 0.75 else 0.01
        if self.schedule == "polynomial":
            return float((1 - done) ** 0.9)
        return (1 + math.cos(math.pi * done)) / 2

    def groups(self, backbone: Backbone) -> list[dict[str, Any]]:
        """Trainable parameters by rate and decay, the head's last; no group is empty."""
        return [group for part in self.list_rates(backbone) for group in self.group(*part)]

    def list_rates(self, backbone: Backbone) -> list[tuple[list[nn.Parameter], float]]:
        """All parameters and the rate that they learn at, from the first layers to the head."""
        head = dict.fromkeys(backbone.head.parameters())
        rate = self.lr if self.backbone_lr is None else self.backbone_lr
        if self.layer_decay == 1:
            below = [([p for p in backbone.parameters() if p not in head], rate)]
        else:
            from triptych.models.depth import split_by_depth  # most runs do without

            blocks = enumerate(reversed(split_by_depth(backbone.network, backbone.head)), start=1)
            below = [(block, rate * self.layer_decay**depth) for depth, block in blocks][::-1]
        return [*below, ([*head], self.lr)]

    def group(self, parameters: Iterable[nn.Parameter], lr: float) -> list[dict[str, Any]]:
        """Groups of those that are trainable: what decays, and norm layers and biases."""
        trainable = [p for p in parameters if p.requires_grad]
        decays = [p for p in trainable if p.ndim > 1 or not self.weight_decay]
        rest = [p for p in trainable if p.ndim <= 1 and self.weight_decay]
        groups = [(decays, self.weight_decay), (rest, 0.0)]
        return [{"params": ps, "lr": lr, "weight_decay": decay} for ps, decay in groups if ps]
