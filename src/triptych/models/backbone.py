"""A backbone: a network with a new head, its weights, and what they expect of an image.

Shapes: N images, C classes, F features of an image, S pixels a side of the network's input.
"""

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor, nn

from triptych.errors import UserError, summarize_error
from triptych.models import find_weights, is_weights_path


class Preprocessing(NamedTuple):
    """What a network expects: pixels a side; mean and std for images in [0, 1]."""

    input_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bilinear"


class Backbone(nn.Module):
    """A network whose last layer was replaced by a head for `num_classes` classes.

    With `freeze="backbone"` the head alone trains: no other parameter has a gradient, and all but
    the head stays in evaluation mode, so that BatchNorm's statistics do not move either. Layers
    that are unfrozen later train as others do.
    """

    def __init__(
        self,
        network: nn.Module,
        num_classes: int,
        preprocessing: Preprocessing,
        freeze: str = "none",
    ) -> None:
        super().__init__()
        self.network = network
        self.preprocessing = preprocessing
        self.frozen = freeze == "backbone"
        self.head_name = find_head(network)
        self.replaced = str(self.head)  # the layer that the head took the place of
        self.head_origin = ""  # of weights from a file: which rows of the head it gave
        self.notes: list[str] = []  # on what was assumed of a file
        network.set_submodule(self.head_name, new_head(self.head, num_classes))
        if self.frozen:
            network.requires_grad_(False)
            self.head.requires_grad_(True)
            self.train()  # Lightning trains in the modes it finds

    @property
    def head(self) -> nn.Module:
        """The layer that gives the logits."""
        return self.network.get_submodule(self.head_name)

    @property
    def expectations(self) -> dict[str, Any]:
        """What the weights expect of an image in plain types, as run.json and checkpoints have it.

        `transform_input`: the network itself turns ImageNet's normalisation into [-1, 1].
        """
        entries = {
            k: [*v] if type(v) is tuple else v for k, v in self.preprocessing._asdict().items()
        }
        return entries | {"transform_input": bool(getattr(self.network, "transform_input", False))}

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits (N, C) of images (N, 3, S, S), or of features (N, F) as the head takes them."""
        logits: Tensor = self.head(inputs) if inputs.ndim == 2 else self.network(inputs)
        return logits

    def train(self, mode: bool = True) -> Self:
        is_frozen = self.frozen and not all(p.requires_grad for p in self.parameters())
        super().train(mode and not is_frozen)
        for layer in self.network.modules() if is_frozen else ():
            own = [*layer.parameters(recurse=False)]
            if own and all(p.requires_grad for p in own):  # the head, and what was unfrozen
                layer.training = mode
        return self


@dataclass(frozen=True)
class BackboneFactory(ABC):
    """What `model=` chooses: a network that says what it needs before it is built.

    `weights` is the name of pretrained weights, the path of a file of them or of a run's folder, or
    None for random ones.
    `input_size` None is the size that the network was made for, `drop_path` None its own rate.
    """

    name: str
    weights: str | None = "DEFAULT"
    input_size: int | None = None
    freeze: str = "none"
    drop_path: float | None = None

    ignored: ClassVar[tuple[str, ...]] = ()  # parameters in a checkpoint that start with one

    @property
    def weights_name(self) -> str | None:
        """The weights by their own name (never DEFAULT) or path; None from scratch."""
        return self.weights

    @property
    def weights_path(self) -> Path | None:
        """The checkpoint that `weights` names, if it names one, or the run that has it."""
        if self.weights is None or not self._is_path(self.weights):
            return None
        return find_weights(Path(os.path.expanduser(self.weights)))

    @property
    def is_pretrained(self) -> bool:
        """Whether `weights` names pretrained weights, not a file."""
        return self.weights is not None and self.weights_path is None

    def missing(self) -> str | None:
        """Which weights are not on disk, and where they were looked for; None if all are."""
        path = self.weights_path or self._pretrained_path()
        if path is None or path.exists():
            return None
        return f"weights of {self.name}: {path.absolute()}"

    def can_download(self) -> bool:
        """Whether what is missing could be downloaded now."""
        return False

    def build(
        self,
        num_classes: int,
        *,
        load: bool = True,
        classes: Sequence[str] | None = None,
        recorded: Any = None,
    ) -> Backbone:
        """The backbone with its weights, or without them if `load` is False.

        Of a file's head those rows are taken that it has for `classes`. Without loading, `recorded`
        are the `expectations` of the weights that will follow. Raises UserError where they are no
        such, where a file does not fit, and where the network cannot take the input size.
        """
        if recorded is not None or (load and self.weights_path):
            from triptych.models.weight_files import build_for_weights

            return build_for_weights(self, num_classes, load, classes, recorded)
        return self._assemble(num_classes, load, self._preprocessing())

    def _assemble(self, num_classes: int, load: bool, preprocessing: Preprocessing) -> Backbone:
        network = self._build_network(num_classes, load)
        if self.drop_path is not None:
            from triptych.models.depth import set_drop_path  # most runs do without

            set_drop_path(network, self.drop_path, self.name)
        backbone = Backbone(network, num_classes, preprocessing, self.freeze)
        if self.input_size is not None:
            check_forward(backbone, self.name)
        return backbone

    def _is_path(self, weights: str) -> bool:
        return is_weights_path(weights)

    @abstractmethod
    def _preprocessing(self) -> Preprocessing: ...

    @abstractmethod
    def _build_network(self, num_classes: int, load: bool) -> nn.Module:
        """With pretrained weights if `load`; its head is replaced whatever its classes."""

    def _pretrained_path(self) -> Path | None:
        """Where pretrained weights lie, or would."""
        return None


def find_head(network: nn.Module) -> str:
    """The name of the last layer that is linear or a 1x1 convolution."""
    for name, module in reversed([*network.named_modules()]):
        is_pointwise = isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1)
        if isinstance(module, nn.Linear) or is_pointwise:
            return str(name)
    raise UserError("the network has no linear layer or 1x1 convolution to serve as its head")


def new_head(old: nn.Module, num_classes: int) -> nn.Module:
    """A layer like `old` with another number of outputs, freshly initialised."""
    bias = old.bias is not None
    if isinstance(old, nn.Conv2d):
        return nn.Conv2d(old.in_channels, num_classes, kernel_size=1, bias=bias)
    assert isinstance(old, nn.Linear)
    return nn.Linear(old.in_features, num_classes, bias=bias)


def check_forward(backbone: Backbone, name: str) -> None:
    """Raise UserError unless the backbone takes an image of its input size."""
    size = backbone.preprocessing.input_size
    try:
        with torch.no_grad():
            backbone.eval()(torch.zeros(1, 3, size, size))
    except Exception as error:
        reason = summarize_error(error)
        raise UserError(f"model.input_size={size}: {name} cannot take it ({reason})") from error
    backbone.train()


def strip_prefix(named: Mapping[str, Any]) -> dict[str, Any]:
    """A state dict by the network's own names; in `last.ckpt` they begin with backbone.network."""
    prefix = re.compile(r"^backbone\.network(\.|$)")
    return {prefix.sub("", name): value for name, value in named.items()}
