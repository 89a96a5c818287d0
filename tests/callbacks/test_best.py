"""The weights to be scored, as they come back from the disk."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from torchvision.models import mnasnet0_5

from triptych.callbacks import checkpoint
from triptych.errors import UserError
from triptych.models.backbone import load_weights
from triptych.runs import checkpoint_files
from triptych.runs.record import Record


@pytest.fixture
def module() -> Any:
    module: Any = LightningModule()
    module.backbone = torch.nn.Module()
    module.backbone.network = mnasnet0_5(num_classes=3)  # which asks weights for their version
    return module


@pytest.mark.parametrize("averaged", [False, True])
def test_best_weights_keep_what_their_modules_ask_for(
    module: Any, tmp_path: Path, averaged: bool
) -> None:
    (tmp_path / "config.yaml").write_text("")
    state = (
        dict(module.state_dict()) if averaged else module.state_dict()
    )  # as Lightning averages them
    content: dict[str, Any] = {"state_dict": state}
    best = checkpoint.BestWeights()
    best.unwritten = {"val": None}
    best.capture(content["state_dict"], module.backbone.network)
    best.save(Record(tmp_path, {}))
    path = tmp_path / "checkpoints" / "best.ckpt"
    scored, taken = mnasnet0_5(num_classes=3), mnasnet0_5(num_classes=5)
    checkpoint_files.load_weights_into(scored, path)
    load_weights(taken, "classifier.1", path)
    for name, value in module.backbone.network.state_dict().items():
        assert torch.equal(scored.state_dict()[name], value)
        assert torch.equal(taken.state_dict()[name], value) or name.startswith("classifier")


def test_weights_are_taken_from_last_ckpt_and_refused_without_a_version_that_is_needed(
    module: Any, tmp_path: Path
) -> None:
    path = tmp_path / "last.ckpt"
    torch.save({"state_dict": module.state_dict()}, path)
    load_weights(mnasnet0_5(num_classes=3), "classifier.1", path)
    torch.save({"state_dict": dict(module.state_dict())}, path)
    with pytest.raises(UserError, match="of another network"):
        load_weights(mnasnet0_5(num_classes=3), "classifier.1", path)
