import hashlib
import shutil
from pathlib import Path

import pytest
import torch

from tests.composing import composed
from tests.run_folders import change_record
from tests.tiny import TINY, Tiny
from triptych.errors import UserError
from triptych.models.custom import CustomModel
from triptych.models.weight_files import WeightsFile
from triptych.runs.record import Record
from triptych.runs.weights_origin import describe_weights
from triptych.training import train


def make_factory(weights: Path) -> CustomModel:
    return CustomModel("tiny", network=Tiny, input_size=32, weights=str(weights))


@pytest.mark.usefixtures("no_figures")
def test_a_run_starts_from_the_best_weights_of_another_and_says_which(
    trained_run: Path, tmp_path: Path
) -> None:
    settings = [*TINY, f"++model.weights={trained_run}", "++trainer.max_epochs=1", "optim.lr=1e-9"]
    record = train(composed("train", *settings, f"log_dir={tmp_path}"), settings)
    best = trained_run / "checkpoints" / "best.ckpt"
    first, after = (
        WeightsFile.read(f / "checkpoints" / "best.ckpt") for f in (trained_run, record.folder)
    )
    state = first.content["state_dict"]
    for name, value in after.content["state_dict"].items():
        if "running" not in name and "num_batches" not in name:
            torch.testing.assert_close(value, state[name], atol=1e-6, rtol=0)
    assert record.metadata["weights"] == str(trained_run)
    assert record.metadata["weights_sha256"] == hashlib.sha256(best.read_bytes()).hexdigest()
    assert record.metadata["weights_run"] == Record.open(trained_run).metadata["config_hash"]
    assert "all 10 rows by class name" in (record.folder / "train.log").read_text()


def test_the_rows_of_a_head_are_matched_by_the_names_of_classes(trained_run: Path) -> None:
    names = Record.open(trained_run).metadata["classes"]
    own = make_factory(trained_run).build(len(names), classes=names).head.weight
    others = make_factory(trained_run).build(3, classes=[names[7], "new", names[2]])
    assert others.head.weight[[0, 2]].equal(own[[7, 2]])
    assert "2 of 3 rows" in others.head_origin


def test_a_file_in_a_run_s_folder_is_of_that_run_and_any_other_of_none(
    trained_run: Path, tmp_path: Path
) -> None:
    best = trained_run / "checkpoints" / "best.ckpt"
    of_folder = describe_weights(make_factory(trained_run))
    assert of_folder == describe_weights(make_factory(best))
    moved = shutil.copy(best, tmp_path / "moved.ckpt")
    assert describe_weights(make_factory(moved)) == of_folder | {"weights_run": None}


def test_the_folder_of_a_run_that_is_not_finished_is_refused_with_its_file(
    trained_run: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(trained_run, tmp_path / "run"))
    change_record(folder, status="interrupted", config_hash="../x")
    best = folder / "checkpoints" / "best.ckpt"
    with pytest.raises(UserError, match=r"interrupted\n.*best\.ckpt"):
        describe_weights(make_factory(folder))
    assert describe_weights(make_factory(best))["weights_run"] is None  # no hash
    best.unlink()
    assert describe_weights(make_factory(folder)) == {}
    with pytest.raises(UserError, match="a folder"):
        make_factory(folder).build(10)
