"""A finished run's network, images and scorer, rebuilt from its folder alone.

Shapes: B images of a batch, H x W stored pixels, S pixels a side of the network's input, C classes.
"""

import copy
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from triptych.build import build_datamodule, build_trainer, instantiate, move_to_device
from triptych.config import Config, format_value
from triptych.data.datamodule import ImageDataModule
from triptych.data.source import Source
from triptych.data.transforms import DeviceTransforms
from triptych.errors import UserError
from triptych.library import Run
from triptych.models.backbone import Backbone
from triptych.module import ImageClassifier
from triptych.runs.reader import describe_change, read_finished
from triptych.runs.record import Record
from triptych.runs.trust import SCORING, is_signed, localize_source

PIXELS_AT_ONCE = 2**25  # that a network takes in a batch: some 4 GB, most of it in its layers
PIXELS_AT_ONCE_GPU = 2**28
AUTOCAST = {"16-mixed": torch.float16, "bf16-mixed": torch.bfloat16}  # by Lightning's names


@dataclass(eq=False)
class RebuiltRun:
    """A run's network with the weights that were scored, in evaluation mode.

    `precision` is Lightning's name of it; `to` moves to a device. The data source of `config` has
    this machine's places; unless `knows_place`, they have to be typed.
    """

    record: Record
    config: Config
    classes: tuple[str, ...]
    backbone: Backbone
    precision: str = "32-true"
    knows_place: bool = True
    module: type[ImageClassifier] = ImageClassifier  # of its task

    def __post_init__(self) -> None:
        self.device = torch.device("cpu")
        self.transforms = DeviceTransforms(self.backbone.preprocessing)

    def to(self, device: torch.device) -> None:
        move_to_device(self.backbone, device)
        self.device = device

    @property
    def task(self) -> str | None:
        """None of one label an image."""
        return None if self.module.task == ImageClassifier.task else self.module.task

    def batch_size(self, wanted: int | None = None) -> int:
        """Images a batch: those wanted or else as in training, as far as memory holds them."""
        most = PIXELS_AT_ONCE if self.device.type == "cpu" else PIXELS_AT_ONCE_GPU
        most //= self.backbone.preprocessing.input_size**2
        return max(1, min(most, wanted or self.config["data"]["batch_size"]))

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

    Raises UserError where the folder is no finished run, and where `Run.network` does or
    `localize_source`.
    """
    record = read_finished(folder)
    backbone, config = Run(record).network(trusted), record.config
    run = RebuiltRun(record, config, tuple(record.metadata["classes"]), backbone)
    if config.get("module"):
        from triptych.slots import find_task

        run.module = find_task(config)
    if not is_signed(folder, record.metadata.get("signature")):
        config["data"]["source"], unknown = localize_source(config, trusted)
        run.knows_place = not unknown
    return run


def read_data(
    run: RebuiltRun, root: str | None = None, batch_size: int | None = None
) -> ImageDataModule:
    """The run's images, as split in training; downloads nothing.

    `root` is where they lie on this machine, None where the config says. Raises UserError where
    they are missing, or are not those of the record.
    """
    folder, metadata, config = run.record.folder, run.record.metadata, copy.deepcopy(run.config)
    settings = config["data"]["source"]
    if root is not None and "root" in settings:
        settings["root"] = root
        if not run.knows_place and "labels" in settings:
            settings["labels"] = os.path.join(root, os.path.basename(settings["labels"]))
    elif not run.knows_place:
        raise UserError(
            f"{folder}: not a run of yours, or edited since; its data.root="
            f"{format_value(settings['root'])} is not read\n"
            "data_root=<folder> says where its photos lie"
        )
    config["data"] |= {"batch_size": run.batch_size(batch_size), "num_workers": 0}
    config["data"]["augment"] = "none"  # a part of the training alone
    source: Source = instantiate("data.source", settings)
    if missing := source.missing():
        raise UserError(f"{folder}: {missing}\ndata_root=<folder> says where the images lie")
    data = build_datamodule(config, source.read(), run.backbone.preprocessing)
    now: dict[str, Any] = {"classes": data.classes}
    now |= {f"num_{split}": len(getattr(data, split)) for split in ("train", "val", "test")}
    for name in ("split_hash", "test_hash", "classes"):
        value, recorded = getattr(data, name), metadata[name]
        if value != (tuple(recorded) if name == "classes" else recorded):
            raise UserError(
                f"{folder}: these are not the images of this run ({name})\n"
                f"{describe_change(metadata, now)}"
            )
    return data


def find_device(word: str) -> torch.device:
    """The device of `auto`, `cpu` or `cuda`; raises UserError where this machine has none such."""
    if word == "cuda" and not torch.cuda.is_available():
        raise UserError("device=cuda: there is no NVIDIA GPU that torch can use; take device=cpu")
    device = torch.accelerator.current_accelerator(check_available=True)
    if word == "cpu" or device is None or device.type not in ("cuda", "mps"):
        return torch.device("cpu")
    return device


def build_scorer(run: RebuiltRun, device: torch.device) -> pl.Trainer:
    """The Trainer that scores a run on a device; the run's network goes there, in its precision.

    That is the precision of training where that was on the same kind of device, else the one that
    training would choose there.
    """
    metadata = run.record.metadata
    trained_on = (metadata["device"] or "").partition(":")[0]
    trained_on = trained_on if trained_on in ("cpu", "mps") else "cuda"  # a GPU's product name
    options = {name: run.config["trainer"].get(name) for name in SCORING}
    options["precision"] = metadata["precision"] if device.type == trained_on else None
    options |= {"accelerator": device.type, "devices": 1, "enable_checkpointing": False}
    trainer = build_trainer(run.config | {"trainer": options}, run.record, [])
    run.precision = str(trainer.precision)
    run.to(device)
    return trainer


@contextmanager
def use_threads(number: int | None) -> Iterator[int]:
    """As many of torch's threads within the block, where the machine has processors for them."""
    before = torch.get_num_threads()
    if number and number <= (os.cpu_count() or 1):
        torch.set_num_threads(number)
    try:
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)
