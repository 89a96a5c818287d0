"""torchvision's classifiers, by name."""

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
import torchvision
from torch import nn
from torchvision.models import WeightsEnum, get_model, get_model_weights, list_models

from triptych.download import can_download
from triptych.errors import UserError, closest_matches, summarize_error
from triptych.models.backbone import BackboneFactory, Preprocessing

# They differ from the rest in three ways. Their auxiliary heads, which serve training from scratch,
# torchvision drops with pretrained weights and we drop always: logits are one tensor in every mode.
# Their constructors warn unless told how to initialise. And pretrained they expect inputs in
# [-1, 1], so `transform_input` turns ImageNet's normalisation into that.
HAVE_AUXILIARY_HEADS = ("googlenet", "inception_v3")


@dataclass(frozen=True)
class TorchvisionModel(BackboneFactory):
    """Any classifier of torchvision's list; `weights` may be a name of its weights enum.

    The last two fields repeat what torchvision knows, for checks before torch is imported.
    """

    min_input_size: int | None = None
    known_weights: tuple[str, ...] | None = None

    ignored: ClassVar[tuple[str, ...]] = ("aux1.", "aux2.", "AuxLogits.")  # the auxiliary heads

    @property
    def weights_name(self) -> str | None:
        return str(self._pretrained.name) if self._pretrained else self.weights

    def can_download(self) -> bool:
        return self._pretrained is not None and can_download([self._pretrained.url])

    def _pretrained_path(self) -> Path | None:
        return cache_path(self._pretrained) if self._pretrained else None

    @cached_property
    def _weights_enum(self) -> Any:
        names = list_models(module=torchvision.models)
        if self.name not in names:
            near = closest_matches(self.name, names)
            raise UserError(f"model.name={self.name}: no classifier of torchvision; near: {near}")
        return get_model_weights(self.name)

    @cached_property
    def _pretrained(self) -> WeightsEnum | None:
        """The weights that torchvision offers; None for a file, or from scratch."""
        enum = self._weights_enum
        if not self.is_pretrained:
            return None
        if self.weights not in enum.__members__:
            known = ", ".join(["DEFAULT", *(weights.name for weights in enum)])
            raise UserError(f"model.weights={self.weights}: may be {known}, null, or a file")
        weights: WeightsEnum = enum[self.weights]
        return weights

    def _build_network(self, num_classes: int, load: bool) -> nn.Module:
        # torchvision unpickles what lies in TORCH_HOME unguarded: this bars code from it.
        os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
        weights = self._pretrained if load else None
        settings = {} if weights else self._settings_without_weights()
        try:
            network: nn.Module = get_model(self.name, weights=weights, **settings)
        except Exception as error:
            reason = summarize_error(error)
            if weights is None:
                problem = f"model.input_size={self.input_size}: {self.name} cannot take it"
                raise UserError(f"{problem} ({reason})") from error
            raise UserError(f"weights {cache_path(weights)}: cannot be used ({reason})") from error
        if self.name in HAVE_AUXILIARY_HEADS:
            network.transform_input = self.weights is not None  # type: ignore[assignment]
        return network

    def _settings_without_weights(self) -> dict[str, Any]:
        """What a constructor derives from pretrained weights, and must be told without them."""
        if self.name in HAVE_AUXILIARY_HEADS:
            return {"aux_logits": False, "init_weights": True}
        if self.name.startswith("vit_"):  # made for one input size
            size = self.input_size if self.weights_path else None
            return {"image_size": size or self._transforms.crop_size[0]}
        return {}

    def _preprocessing(self) -> Preprocessing:
        size = self.input_size or self._transforms.crop_size[0]
        mean, std = tuple(self._transforms.mean), tuple(self._transforms.std)
        return Preprocessing(size, mean, std, self._transforms.interpolation.value)

    @property
    def _transforms(self) -> Any:
        """What the weights expect; without any of torchvision's, what its default ones do."""
        return (self._pretrained or self._weights_enum.DEFAULT).transforms()


def cache_path(weights: WeightsEnum) -> Path:
    """Where torch keeps a file of pretrained weights."""
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
