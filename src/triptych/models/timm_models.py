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
from triptych.models.backbone import BackboneFactory, Preprocessing, find_head


@dataclass(frozen=True)
class TimmModel(BackboneFactory):
    """Any network of timm's list that classifies with one head; `weights` may be a tag of timm's.

    All but the constructor raises UserError if timm is not installed or has no such network.
    """

    @property
    def weights_name(self) -> str | None:
        tag: str = self._pretrained.tag
        return tag if self.is_pretrained else self.weights

    def missing(self) -> str | None:
        hub_id = self._pretrained.hf_hub_id
        if not self.is_pretrained or self._cached_path():
            return super().missing()
        cache = import_library("huggingface_hub").constants.HF_HUB_CACHE
        file = f"{hub_id}/{self._hub_file['filename']}"
        return f"weights of {self.name}: {file}, looked for in {cache}"

    def can_download(self) -> bool:
        hub = import_library("huggingface_hub")
        if not self.is_pretrained or hub.constants.HF_HUB_OFFLINE:
            return False
        return can_download([hub.hf_hub_url(**self._hub_file)])

    def _preprocessing(self) -> Preprocessing:
        config = self._pretrained
        size = self.input_size or config.input_size[-1]
        return Preprocessing(size, config.mean, config.std, config.interpolation)

    def _build_network(self, num_classes: int, load: bool) -> nn.Module:
        config, path = self._pretrained, None
        settings: dict[str, Any] = {"drop_path_rate": self.drop_path}  # timm leaves out None
        size = self._preprocessing().input_size
        if not config.num_classes:
            settings["num_classes"] = num_classes  # it gives features, and has no head to replace
        if config.fixed_input_size:
            settings["img_size"] = size  # timm fits the positions in the weights to it
        if load and self.is_pretrained:
            os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"  # bars code from what is unpickled
            path = self._cached_path() or self._download()
            config = replace(config, file=str(path), custom_load=False)
        try:
            network: nn.Module = import_library().create_model(
                self.name, pretrained=path is not None, pretrained_cfg=config, **settings
            )
        except Exception as error:
            problem = f"model.input_size={size}: {self.name} cannot take it"
            if "drop_path_rate" in str(error):
                problem = f"model.drop_path={self.drop_path}: {self.name} has no stochastic depth"
            elif path:
                problem = f"weights {path}: cannot be used by {self.name}"
            raise UserError(f"{problem} ({summarize_error(error)})") from error
        if find_head(network) != config.classifier:
            raise UserError(f"model.name={self.name}: has several heads, or none; takes one")
        return network

    @cached_property
    def _pretrained(self) -> Any:
        """timm's PretrainedCfg of the weights; of its default if the weights are not timm's."""
        timm = import_library()
        if self.name not in (names := timm.list_models()):
            near = closest_matches(self.name.partition(".")[0], names)
            raise UserError(
                f"model.name={self.name}: not a network of timm; near: {near}; "
                "a tag is given as model.weights"
            )
        config = timm.get_pretrained_cfg(self.name)
        if not self.is_pretrained:
            return config
        tag = str(self.weights)
        tags = [name.partition(".")[2] for name in timm.list_pretrained(f"{self.name}.*")]
        if tag not in ("DEFAULT", *tags):
            may = f"DEFAULT, a tag of timm's, null, or a file; near: {closest_matches(tag, tags)}"
            raise UserError(f"model.weights={tag}: may be {may}")
        if tag != "DEFAULT":
            config = timm.get_pretrained_cfg(f"{self.name}.{tag}")
        if not config.hf_hub_id:
            may = f"the hub has none for {self.name}; null, or a file"
            raise UserError(f"model.weights={tag}: {may}")
        return config

    @property
    def _hub_file(self) -> dict[str, str | None]:
        """The arguments of the hub's functions; an id may end with a revision."""
        repo, _, revision = self._pretrained.hf_hub_id.partition("@")
        filename = self._pretrained.hf_hub_filename or "model.safetensors"
        return {"repo_id": repo, "filename": filename, "revision": revision or None}

    def _cached_path(self) -> Path | None:
        path = import_library("huggingface_hub").try_to_load_from_cache(**self._hub_file)
        return Path(path) if isinstance(path, str) else None

    def _download(self) -> Path:
        try:
            return Path(import_library("huggingface_hub").hf_hub_download(**self._hub_file))
        except Exception as error:  # of the hub's library, the network's, the disk: many kinds
            problem = f"weights of {self.name}: {self._pretrained.hf_hub_id} cannot be downloaded"
            raise UserError(f"{problem} ({summarize_error(error)})") from error


def import_library(name: str = "timm") -> Any:
    """timm or a library that comes with it, imported only if a model of timm's is chosen."""
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise UserError("model=timm: timm is not installed; pip install 'timm>=1.0'") from error
