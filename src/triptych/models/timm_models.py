"""timm's networks, by name; their weights come from the Hugging Face hub."""

import os
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import nn

from triptych.download import can_download
from triptych.errors import UserError, closest_matches, summarize_error
from triptych.models.backbone import Backbone, Preprocessing, check_forward, load_weights

FILE = "model.safetensors"  # where timm names no other
OWN_FILES = (".pth", ".pt", ".ckpt", ".safetensors")


@dataclass(frozen=True)
class TimmModel:
    """Any network of timm's list that scores with one head.

    `weights`: DEFAULT, another of timm's tags for the network, a checkpoint's path, or None.
    All but the constructor raises UserError where timm is not installed or has no such network.
    """

    name: str
    weights: str | None = "DEFAULT"
    input_size: int | None = None
    freeze: str = "none"

    @property
    def weights_name(self) -> str | None:
        tag: str = self._entry.tag
        return tag if self._is_pretrained else self.weights

    def missing(self) -> str | None:
        entry, path = self._entry, self._checkpoint
        if path:
            return None if path.is_file() else f"weights of {self.name}: {path.absolute()}"
        if not self._is_pretrained or self._cached():
            return None
        place = import_library("huggingface_hub").constants.HF_HUB_CACHE
        file = f"{entry.hf_hub_id}/{self._hub_file['filename']}"
        return f"weights of {self.name}: {file}, looked for in {place}"

    def can_download(self) -> bool:
        hub = import_library("huggingface_hub")
        offline = not self._is_pretrained or hub.constants.HF_HUB_OFFLINE
        return not offline and can_download([hub.hf_hub_url(**self._hub_file)])

    def build(self, num_classes: int, *, load: bool = True) -> Backbone:
        entry = self._entry
        preprocessing = Preprocessing(
            input_size=self.input_size or entry.input_size[-1],
            mean=entry.mean,
            std=entry.std,
            interpolation=entry.interpolation,
        )
        network = self._network(num_classes, preprocessing.input_size, load and self._is_pretrained)
        backbone = Backbone(network, num_classes, preprocessing, self.freeze)
        if backbone.head_name != entry.classifier:
            raise UserError(
                f"model.name={self.name}: scores with several heads, or none; takes one"
            )
        if load and self._checkpoint:
            load_weights(network, backbone.head_name, self._checkpoint)
        if self.input_size is not None:
            check_forward(backbone, self.name)
        return backbone

    def _network(self, num_classes: int, input_size: int, load: bool) -> nn.Module:
        entry, path = self._entry, None
        told = {}
        if not entry.num_classes:
            told["num_classes"] = num_classes  # it gives features, and has no head to replace
        if entry.fixed_input_size:
            told["img_size"] = input_size  # to which timm fits the positions in the weights
        if load:
            os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"  # bars code from what is unpickled
            path = self._cached() or self._fetched()
            entry = replace(entry, file=str(path), custom_load=False)
        try:
            network: nn.Module = import_library().create_model(
                self.name, pretrained=load, pretrained_cfg=entry, **told
            )
        except Exception as error:
            size = f"model.input_size={input_size}: {self.name} cannot take it"
            what = f"weights {path}: cannot be used by {self.name}" if path else size
            raise UserError(f"{what} ({summarize_error(error)})") from error
        return network

    @property
    def _checkpoint(self) -> Path | None:
        is_path = self.weights is not None and self.weights.endswith(OWN_FILES)
        return Path(self.weights) if self.weights and is_path else None

    @property
    def _is_pretrained(self) -> bool:
        """Whether the weights are timm's."""
        return self.weights is not None and self._checkpoint is None

    @cached_property
    def _entry(self) -> Any:
        """What timm knows of the weights; of its own choice where they are not timm's."""
        timm = import_library()
        check_name(self.name, timm.list_models())
        chosen = timm.get_pretrained_cfg(self.name)
        if not self._is_pretrained:
            return chosen
        tags = [full.partition(".")[2] for full in timm.list_pretrained(f"{self.name}.*")]
        wanted = str(self.weights)
        if wanted not in ("DEFAULT", *tags):
            may = (
                f"DEFAULT, a tag of timm's, null, or a file; near: {closest_matches(wanted, tags)}"
            )
            raise UserError(f"model.weights={wanted}: may be {may}")
        if wanted != "DEFAULT":
            chosen = timm.get_pretrained_cfg(f"{self.name}.{wanted}")
        if not chosen.hf_hub_id:
            may = f"the hub has none for {self.name}; null, or a file"
            raise UserError(f"model.weights={wanted}: {may}")
        return chosen

    def _cached(self) -> Path | None:
        found = import_library("huggingface_hub").try_to_load_from_cache(**self._hub_file)
        return Path(found) if isinstance(found, str) else None

    def _fetched(self) -> Path:
        try:
            return Path(import_library("huggingface_hub").hf_hub_download(**self._hub_file))
        except Exception as error:  # of the hub's library, the network's, the disk: many kinds
            what = f"weights of {self.name}: {self._entry.hf_hub_id} could not be fetched"
            raise UserError(f"{what} ({summarize_error(error)})") from error

    @property
    def _hub_file(self) -> dict[str, str | None]:
        """As the hub's functions take it; an id may end with a revision."""
        repo, _, revision = self._entry.hf_hub_id.partition("@")
        filename = self._entry.hf_hub_filename or FILE
        return {"repo_id": repo, "filename": filename, "revision": revision or None}


def import_library(name: str = "timm") -> Any:
    """timm or what it brings along, imported only when asked for."""
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise UserError("model=timm: timm is not installed; pip install 'timm>=1.0'") from error


def check_name(name: str, known: list[str]) -> None:
    """Raise UserError where timm knows no such network, or the name holds a tag as well."""
    if name not in known:
        network, _, tag = name.partition(".")
        raise UserError(
            f"model.name={name}: give timm's tag as model.name={network} model.weights={tag}"
            if tag and network in known
            else f"model.name={name}: not a network of timm; near: {closest_matches(name, known)}"
        )
