"""torchvision's classifiers, by name."""

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import nn
from torchvision.models import WeightsEnum, get_model, get_model_weights, list_models

from triptych.download import can_download
from triptych.errors import UserError, closest_matches, summarize_error
from triptych.models.backbone import Backbone, Preprocessing, check_forward, load_weights

# GoogLeNet and Inception v3 differ from the rest in three ways. Their auxiliary heads, which serve
# training from scratch, torchvision drops with pretrained weights and we drop always: logits are
# one tensor in every mode. Their constructors warn unless told how to initialise. And pretrained
# they expect inputs in [-1, 1], so `transform_input` turns ImageNet's normalisation into that.
AUXILIARY_HEADS = {"googlenet": ("aux1.", "aux2."), "inception_v3": ("AuxLogits.",)}


@dataclass(frozen=True)
class TorchvisionModel:
    """Any classifier of torchvision's list.

    `weights`: DEFAULT, another name of the network's weights enum, a checkpoint's path, or None.
    The last two fields say in YAML what torchvision knows, to refuse before torch is imported.
    """

    name: str
    weights: str | None = "DEFAULT"
    input_size: int | None = None
    freeze: str = "none"
    min_input_size: int | None = None
    known_weights: tuple[str, ...] | None = None

    @property
    def weights_name(self) -> str | None:
        name: str | None = self._entry.name if self._entry else self.weights
        return name

    def missing(self) -> str | None:
        path = self._checkpoint or (self._entry and cache_path(self._entry))
        absent = path is not None and not path.is_file()
        return f"weights of {self.name}: {path.absolute()}" if path and absent else None

    def can_download(self) -> bool:
        return self._entry is not None and can_download([self._entry.url])

    def build(self, num_classes: int, *, load: bool = True) -> Backbone:
        backbone = Backbone(self._network(load), num_classes, self._expects(), self.freeze)
        if load and self._checkpoint:
            ignored = AUXILIARY_HEADS.get(self.name, ())
            load_weights(backbone.network, backbone.head_name, self._checkpoint, ignored)
        if self.input_size is not None:
            check_forward(backbone, self.name)
        return backbone

    def _network(self, load: bool) -> nn.Module:
        # torchvision unpickles what lies in TORCH_HOME unguarded: this bars code from it.
        os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
        entry = self._entry if load else None
        told = self._told_by_weights if entry is None else {}
        try:
            network: nn.Module = get_model(self.name, weights=entry, **told)
        except Exception as error:
            if entry is None:
                raise
            reason = summarize_error(error)
            raise UserError(f"weights {cache_path(entry)}: cannot be used ({reason})") from error
        if self.name in AUXILIARY_HEADS:
            network.transform_input = self.weights is not None  # type: ignore[assignment]
        return network

    @property
    def _told_by_weights(self) -> dict[str, Any]:
        """What a constructor learns from pretrained weights, and must be told without them."""
        if self.name in AUXILIARY_HEADS:
            return {"aux_logits": False, "init_weights": True}
        if self.name.startswith("vit_"):  # made for one input size
            return {"image_size": (self._entry or self._enum.DEFAULT).transforms().crop_size[0]}
        return {}

    @property
    def _checkpoint(self) -> Path | None:
        is_path = self.weights is not None and self.weights.endswith((".pth", ".pt", ".ckpt"))
        return Path(self.weights) if self.weights and is_path else None

    @cached_property
    def _enum(self) -> Any:
        names = list_models(module=torchvision.models)
        if self.name not in names:
            near = closest_matches(self.name, names)
            raise UserError(
                f"model.name={self.name}: not a classifier of torchvision; near: {near}"
            )
        return get_model_weights(self.name)

    @cached_property
    def _entry(self) -> WeightsEnum | None:
        enum = self._enum
        if self.weights is None or self._checkpoint:
            return None
        if self.weights not in enum.__members__:
            known = ", ".join(["DEFAULT", *(entry.name for entry in enum)])
            raise UserError(f"model.weights={self.weights}: may be {known}, null, or a .pth file")
        entry: WeightsEnum = enum[self.weights]
        return entry

    def _expects(self) -> Preprocessing:
        entry = self._entry or self._enum.DEFAULT
        least = entry.meta.get("min_size", (1, 1))[0]
        if self.input_size is not None and self.input_size < least:
            raise UserError(
                f"model.input_size={self.input_size}: {self.name} takes {least} or more"
            )
        transforms = entry.transforms()
        return Preprocessing(
            input_size=self.input_size or transforms.crop_size[0],
            mean=tuple(transforms.mean),
            std=tuple(transforms.std),
            interpolation=transforms.interpolation.value,
        )


def cache_path(entry: WeightsEnum) -> Path:
    """Where torch keeps a file of pretrained weights."""
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(entry.url).name
