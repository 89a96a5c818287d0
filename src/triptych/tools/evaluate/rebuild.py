"""A finished run's network and images, rebuilt from its folder alone.

Shapes: B images of a batch, H x W stored pixels, S pixels a side of the network's input, C classes.
"""

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from triptych.build import build_datamodule, instantiate, move_to_device
from triptych.config import Config, format_value
from triptych.data.datamodule import ImageDataModule
from triptych.data.source import Source
from triptych.data.transforms import DeviceTransforms
from triptych.errors import UserError
from triptych.models.backbone import Backbone, BackboneFactory
from triptych.runs import checkpoint_files
from triptych.runs.predictions import read_predictions
from triptych.runs.reader import read_finished
from triptych.runs.record import Record
from triptych.runs.trust import check_untrusted_config

AUTOCAST = {"16-mixed": torch.float16, "bf16-mixed": torch.bfloat16}  # by Lightning's names


@dataclass(eq=False)
class RebuiltRun:
    """A run's network with the weights that were scored, in evaluation mode.

    `precision` is Lightning's name of it; `to` moves to a device.
    """

    record: Record
    config: Config
    classes: tuple[str, ...]
    backbone: Backbone
    precision: str = "32-true"

    def __post_init__(self) -> None:
        self.device = torch.device("cpu")
        self.transforms = DeviceTransforms(self.backbone.preprocessing)

    def to(self, device: torch.device) -> None:
        move_to_device(self.backbone, device)
        self.device = device

    def logits(self, images: Tensor) -> Tensor:
        """Logits float32 (B, C) on the device, of stored images uint8 (B, 3, H, W)."""
        with torch.inference_mode():
            return self.forward(self.transforms.evaluation(images.to(self.device))).float()

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, C) in `precision`, of transformed images (B, 3, S, S)."""
        dtype = AUTOCAST.get(self.precision)
        with torch.autocast(self.device.type, dtype, enabled=dtype is not None):
            logits: Tensor = self.backbone(images.to(next(self.backbone.parameters()).dtype))
        return logits


def rebuild_run(folder: Path, trusted: Iterable[str] = ()) -> RebuiltRun:
    """The network of a finished run, on the CPU; needs no images.

    Classes that the record does not name are numbered. Raises UserError where the folder is no
    finished run, its config names a `_target_` that is neither installed nor in `trusted`, or its
    best checkpoint is missing, damaged, of other classes or another network's.
    """
    record = read_finished(folder)
    config, path = record.config, record.checkpoint_path("best")
    check_untrusted_config(config, trusted)
    state: Any = checkpoint_files.load_checkpoint(path).get("state_dict")
    classes = record.metadata["classes"] or number_classes(record)
    factory: BackboneFactory = instantiate("model", config["model"])
    backbone = factory.build(num_classes=len(classes), load=False)
    try:
        backbone.network.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError, ValueError) as error:
        reason = " ".join(str(error).splitlines()[:2])[:200]  # torch lists every tensor
        raise UserError(
            f"{path}: does not fit config.yaml's network of {len(classes)} classes\n{reason}"
        ) from error
    return RebuiltRun(record, config, tuple(classes), backbone.eval())


def number_classes(record: Record) -> list[str]:
    """Names for the classes of a record that has none."""
    test = read_predictions(record.folder / "predictions" / "test.npz")
    return [str(number) for number in range(test.num_classes)]


def read_data(
    run: RebuiltRun, root: str | None = None, batch_size: int | None = None
) -> ImageDataModule:
    """The run's images, as split in training; downloads nothing.

    `root` is where they lie on this machine, None where the config says. Raises UserError where
    they are missing, or are not those of the record.
    """
    folder, metadata, config = run.record.folder, run.record.metadata, copy.deepcopy(run.config)
    if root is not None and "root" in config["data"]["source"]:
        config["data"]["source"]["root"] = root
    config["data"]["batch_size"] = batch_size or config["data"]["batch_size"]
    source: Source = instantiate("data.source", config["data"]["source"])
    if missing := source.missing():
        raise UserError(f"{folder}: {missing}\ndata_root=<folder> says where the images lie")
    data = build_datamodule(config, source.read(), run.backbone.preprocessing)
    actual: dict[str, Any] = {"split_hash": data.split_hash, "test_hash": data.test_hash}
    if metadata["classes"] is not None:
        actual["classes"] = list(data.classes)
    for name, value in actual.items():
        if value != (recorded := metadata.get(name)):
            raise UserError(
                f"{folder}: these are not the images of this run\n"
                f"their {name} is {format_value(value)}, in run.json {format_value(recorded)}"
            )
    return data
