"""A network of your own, chosen on the command line by its `_target_`."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

from torch import nn

from triptych.models.backbone import BackboneFactory, Preprocessing


@dataclass(frozen=True, kw_only=True)
class CustomModel(BackboneFactory):
    """`network(num_classes=C)` gives a module, images (N, 3, S, S) in, logits (N, C) out.

    `weights` is a checkpoint's path, or None.
    """

    network: Callable[..., nn.Module]
    input_size: int = field()  # no default, unlike the networks whose size is known
    weights: str | None = None
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)

    suffixes: ClassVar[tuple[str, ...]] = ("",)  # any

    def _preprocessing(self) -> Preprocessing:
        return Preprocessing(self.input_size, tuple(self.mean), tuple(self.std))

    def _build_network(self, num_classes: int, load: bool) -> nn.Module:
        return self.network(num_classes=num_classes)
