"""Finished runs of an untrained network, with its predictions."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from tests.composing import composed
from tests.tiny import Tiny, choose
from triptych.build import build_datamodule
from triptych.data.shapes import OUTLINES, Shapes
from triptych.data.transforms import DeviceTransforms
from triptych.models.backbone import Preprocessing
from triptych.runs.checkpoint_files import AtomicCheckpointIO
from triptych.runs.predictions import Predictions
from triptych.runs.record import Record
from triptych.tools.statistics.scores import score_predictions

SETTINGS = [
    *("data=shapes", "data.num_train=20", "data.num_val=10", "data.num_test=15"),
    *("data.source.num_train=40", "data.source.num_test=20", *choose("Tiny")),
]


def network(seed: int = 0) -> nn.Module:
    """Its head is scaled so that images differ in their probabilities."""
    torch.manual_seed(seed)
    made = Tiny(len(OUTLINES))
    made[-1].weight.data *= 20
    return made.eval()


def plant(logs: Path, seed: int = 0, model: str = "tiny", **metadata: Any) -> Record:
    """The run of `network(seed)`, which is called `model`."""
    config = composed("train", *SETTINGS, log_dir=str(logs), seed=seed)
    config["model"]["name"] = model
    record = Record.create(config, [])
    state = {"state_dict": network(seed).state_dict()}
    AtomicCheckpointIO().save_checkpoint(state, record.checkpoint_path("best"))
    preprocessing = Preprocessing(32, (0.5,) * 3, (0.5,) * 3)
    data = build_datamodule(config, Shapes(num_train=40, num_test=20, seed=0).read(), preprocessing)
    images = data.test.data.images[data.test.index]
    with torch.inference_mode():
        logits = network(seed)(DeviceTransforms(preprocessing).evaluation(images)).numpy()
    predicted = Predictions(
        logits, data.test.data.labels[data.test.index].numpy(), data.test.index.numpy()
    )
    record.add_predictions("test", logits=logits, labels=predicted.labels, index=predicted.index)
    metrics = {"test/accuracy": score_predictions(predicted).accuracy}
    hashes = {"split_hash": data.split_hash, "test_hash": data.test_hash}
    classes = list(data.classes)
    trained = {"metrics": metrics, "device": "cpu", "precision": "32-true"}
    record.update(**({"classes": classes} | trained | hashes | metadata))
    record.end("finished")
    return record
