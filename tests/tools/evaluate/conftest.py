"""A finished run of a tiny network, trained once for all tests of evaluation, and copies of it."""

import shutil
from pathlib import Path

import pytest

from tests.composing import composed
from triptych.training import train

TINY = [
    *("model=torchvision", "model.name=shufflenet_v2_x0_5", "model.input_size=32"),
    *("model.weights=null", "data=shapes", "data.batch_size=8", "data.num_train=32"),
    *("data.num_val=30", "data.num_test=35", "data.source.num_train=70"),
    *("data.source.num_test=40", "++trainer.max_epochs=1", "trainer.accelerator=cpu"),
    *("trainer.logger=null", "++trainer.enable_progress_bar=false"),
]


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run as training left it; nothing may change it."""
    return train(composed("train", *TINY, log_dir=str(tmp_path_factory.mktemp("logs"))), []).folder


@pytest.fixture
def copied(trained: Path, tmp_path: Path) -> Path:
    """A copy to change, alone below `runs`."""
    return Path(shutil.copytree(trained, tmp_path / "runs" / "good"))
