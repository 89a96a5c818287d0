"""What `import triptych` offers."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import triptych
from tests.run_folders import change_record
from tests.tiny import TARGETS, TINY
from triptych.runs.record import Record


def test_a_config_is_composed_and_checked() -> None:
    config = triptych.compose(["data=shapes", "model=alexnet", "trainer.max_time=00:00:01:00"])
    assert config["optim"]["lr"] == 0.001
    assert config["trainer"]["max_time"] == "00:00:01:00"


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("data.batchsize=3", "data.batch_size"),
        ("optim.lr=-1", "optim.lr=-1"),
        ("model=alexnetz", "alexnet"),
        ("model.name", "model.name"),
    ],
)
def test_a_wrong_setting_is_named(override: str, named: str) -> None:
    with pytest.raises(triptych.UserError, match=named):
        triptych.compose([override])


def test_a_config_is_checked_again_before_training() -> None:
    config = triptych.compose(["data=shapes", "model.weights=null"])
    with pytest.raises(triptych.UserError, match="seed=-1"):
        triptych.train(config | {"seed": -1})
    del config["trusted_targets"]  # nothing in it is for a new run
    with pytest.raises(triptych.UserError, match="seed=-1"):
        triptych.train(config | {"seed": -1})


def test_the_config_of_a_run_names_no_code_that_would_be_trained(
    trained_run: Path, tmp_path: Path
) -> None:
    shutil.copytree(trained_run, folder := tmp_path / "run")
    text = (folder / "config.yaml").read_text()
    vouched = text.replace("trusted_targets: []", f"trusted_targets: [{','.join(TARGETS)}]")
    assert vouched != text
    (folder / "config.yaml").write_text(vouched)
    with pytest.raises(triptych.UserError, match=r"_target_=tests\.tiny\."):
        triptych.train(triptych.load_run(folder).config | {"log_dir": str(tmp_path / "logs")})
    assert not (tmp_path / "logs").exists()


def test_a_run_is_read_from_its_folder(trained_run: Path) -> None:
    run = triptych.load_run(trained_run)
    assert run.folder == trained_run
    assert run.config["model"]["name"] == "tiny"
    assert run.metadata["status"] == "finished"
    predictions = run.predictions("test")
    accuracy = (predictions.logits.argmax(axis=1) == predictions.labels).mean()
    assert run.metrics["test/accuracy"] == pytest.approx(accuracy)
    assert len(run.predictions("val").labels) == run.metadata["num_val"]
    assert repr(run) == f"Run({str(trained_run)!r})"


def test_a_strangers_network_is_built_where_its_targets_are_trusted(
    trained_run: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(trained_run, tmp_path / "theirs"))
    change_record(folder, signature=None)
    run = triptych.load_run(folder)
    with pytest.raises(triptych.UserError, match=r"trusted_targets=\[tests\.tiny\.Tiny"):
        run.network()
    assert not run.network(trusted_targets=TARGETS).training


def test_its_network_gives_the_logits_that_were_saved(trained_run: Path) -> None:
    run = triptych.load_run(trained_run)
    network = run.network()
    assert not network.training
    source = run.config["data"]["source"]
    images = triptych.build.instantiate("data.source", source).read().test.images
    predictions = run.predictions("test")
    pixels = images[torch.from_numpy(predictions.index)] / 255
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in network.preprocessing[1:3])
    with torch.no_grad():
        logits = network((pixels - mean) / std)
    np.testing.assert_allclose(logits.numpy(), predictions.logits, rtol=1e-4, atol=1e-5)


def test_finished_runs_are_found_below_a_folder(trained_run: Path, tmp_path: Path) -> None:
    finished = shutil.copytree(trained_run, tmp_path / "logs" / "copy")
    config = triptych.load_run(finished).config
    Record.create(config | {"log_dir": str(tmp_path / "logs")}, [])  # it runs still
    assert [run.folder for run in triptych.find_runs(tmp_path / "logs")] == [finished]
    with pytest.raises(triptych.UserError, match=str(tmp_path / "empty")):
        triptych.find_runs(tmp_path / "empty")


def test_importing_the_package_does_not_import_torch() -> None:
    program = "import sys, triptych; print('torch' in sys.modules, sorted(triptych.__all__))"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    names = ["Run", "UserError", "compose", "find_runs", "load_run", "train"]
    assert ended.stdout == f"False {names}\n"


def test_a_finished_run_with_a_budget_is_returned_and_ends_no_program(
    tmp_path: Path, no_figures: None
) -> None:
    config = triptych.compose([*TINY, f"log_dir={tmp_path}", "minutes=5"])
    assert triptych.train(config).folder == triptych.train(config).folder
