"""A network of your own, chosen on the command line by its `_target_`."""

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import nn

from triptych.errors import UserError
from triptych.models.backbone import BackboneFactory, Preprocessing


@dataclass(frozen=True, kw_only=True)
class CustomModel(BackboneFactory):
    """`network(num_classes=C)` gives a module, images (N, 3, S, S) in, logits (N, C) out.

    `weights` is a checkpoint's path, or None; `mean` and `std` None are 0.5, or what a run that
    wrote the checkpoint recorded.
    """

    network: Callable[..., nn.Module]
    input_size: int = field()  # no default, unlike the networks whose size is known
    weights: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def _is_path(self, weights: str) -> bool:
        return True

    def _preprocessing(self) -> Preprocessing:
        mean, std = (tuple(given or (0.5, 0.5, 0.5)) for given in (self.mean, self.std))
        return Preprocessing(self.input_size, mean, std)

    def _build_network(self, num_classes: int, load: bool) -> nn.Module:
        try:
            network = self.network(num_classes=num_classes)
        except TypeError as error:
            if "'num_classes'" not in str(error):
                raise  # a fault of the network's own
            raise UserError(f"model.network: is given num_classes; {error}") from error
        if not isinstance(network, nn.Module):
            raise UserError(f"model.network: {type(network).__name__} is no torch.nn.Module")
        return network
