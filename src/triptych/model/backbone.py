"""A backbone: a network with a head of its own, and what its weights expect of an image.

Shapes: N images, C classes, F features, S pixels a side of the network's input.
"""

from typing import NamedTuple, Self

import torch
from torch import Tensor, nn

from triptych import Refused
from triptych.model.weights import first_line


class Preprocessing(NamedTuple):
    """What a network expects: pixels a side; mean and std for images in [0, 1]."""

    input_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bilinear"


class Backbone(nn.Module):
    """A network whose last layer was replaced: images float (N, 3, S, S) in, logits (N, C) out.

    Frozen, it trains its head alone: no other parameter has a gradient, and all but the head stays
    in evaluation mode, so that BatchNorm's statistics do not move either.
    """

    def __init__(
        self, network: nn.Module, num_classes: int, expects: Preprocessing, freeze: str = "none"
    ) -> None:
        super().__init__()
        self.network = network
        self.expects = expects
        self.frozen = freeze == "backbone"
        self.head_name = find_head(network)
        self.replaced = str(self.head)
        network.set_submodule(self.head_name, new_head(self.head, num_classes))
        if self.frozen:
            network.requires_grad_(False)
            self.head.requires_grad_(True)
            self.train()  # Lightning trains in the modes it finds

    @property
    def head(self) -> nn.Module:
        """The layer that gives the logits."""
        return self.network.get_submodule(self.head_name)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of images, or of what the head takes of them: float (N, F)."""
        logits: Tensor = self.head(images) if images.ndim == 2 else self.network(images)
        return logits

    def train(self, mode: bool = True) -> Self:
        super().train(mode and not self.frozen)
        self.head.train(mode)
        return self


def find_head(network: nn.Module) -> str:
    """The name of the last layer, linear or 1x1 convolution: the one that scores."""
    layers: list[str] = [
        name
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear)
        or (isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1))
    ]
    if not layers:
        raise Refused("the network has no linear layer or 1x1 convolution to serve as its head")
    return layers[-1]


def new_head(old: nn.Module, num_classes: int) -> nn.Module:
    """A layer like `old` with another number of outputs, freshly initialised."""
    bias = old.bias is not None
    if isinstance(old, nn.Conv2d):
        return nn.Conv2d(old.in_channels, num_classes, kernel_size=1, bias=bias)
    assert isinstance(old, nn.Linear)
    return nn.Linear(old.in_features, num_classes, bias=bias)


def try_out(backbone: Backbone, name: str) -> None:
    """Raise Refused unless one image of the expected size passes."""
    size = backbone.expects.input_size
    try:
        with torch.no_grad():
            backbone.eval()(torch.zeros(1, 3, size, size))
    except Exception as error:
        reason = first_line(error)
        raise Refused(f"model.input_size={size}: {name} cannot take it ({reason})") from error
    backbone.train()
