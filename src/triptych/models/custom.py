"""A network of your own, chosen on the command line by its `_target_`."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from triptych.models.backbone import (
    Backbone,
    Preprocessing,
    check_forward,
    load_weights,
    missing_weights,
)


@dataclass(frozen=True)
class CustomModel:
    """`network(num_classes=C)` gives a module, images (N, 3, S, S) in, logits (N, C) out.

    `weights` is a checkpoint's path, or None.
    """

    name: str
    network: Callable[..., nn.Module]
    input_size: int
    weights: str | None = None
    freeze: str = "none"
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)

    @property
    def weights_name(self) -> str | None:
        return self.weights

    def missing(self) -> str | None:
        return missing_weights(self.name, Path(self.weights) if self.weights else None)

    def can_download(self) -> bool:
        return False

    def build(self, num_classes: int, *, load: bool = True) -> Backbone:
        network = self.network(num_classes=num_classes)
        preprocessing = Preprocessing(self.input_size, tuple(self.mean), tuple(self.std))
        backbone = Backbone(network, num_classes, preprocessing, self.freeze)
        if load and self.weights:
            load_weights(backbone.network, backbone.head_name, Path(self.weights))
        check_forward(backbone, self.name)
        return backbone
