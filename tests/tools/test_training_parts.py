"""Every command reads a run whose callbacks, loggers and the like are not on this machine."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import triptych
from tests.composing import composed
from tests.tiny import TARGETS
from triptych.errors import UserError
from triptych.runs.record import Record
from triptych.runs.resume_request import check_run_config
from triptych.runs.trust import check_untrusted_config, drop_training_parts
from triptych.tools.compare.command import compare
from triptych.tools.evaluate.command import evaluate
from triptych.tools.export.command import export
from triptych.tools.predict.command import predict_images
from triptych.tools.serve.networks import read_groups

GONE = {"_target_": "a_colleagues_package.Part", "rate": [1, {"_target_": "another.Gone"}]}
TRUSTED = [*TARGETS]  # and nothing of the above
PARTS = ("callbacks", "logger", "plugins", "profiler", "strategy")


@pytest.fixture(scope="module")
def folder(trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of a Trainer with parts that can be imported no more."""
    record = Record.open(shutil.copytree(trained_run, tmp_path_factory.mktemp("logs") / "run"))
    config = record.config
    config["trainer"] |= {name: [GONE] for name in ("callbacks", "logger", "plugins")}
    config["trainer"] |= {"profiler": GONE, "strategy": GONE}
    config["data"]["augment"] = config["optim"]["schedule"] = config["loss"] = GONE
    record.write_config(config)
    return record.folder


def settings(folder: Path, **others: Any) -> dict[str, Any]:
    return {"run": str(folder), "trusted_targets": TRUSTED, "device": "cpu", **others}


def test_it_is_evaluated_exported_and_predicted_with(folder: Path, tmp_path: Path) -> None:
    evaluate(composed("evaluate", "run=none", "cost=false", **settings(folder)), [])
    assert (folder / "evaluation.json").exists()
    chosen = {"run": str(folder), "trusted_targets": TRUSTED}
    export(composed("export", "run=none", "format=torch", "time_seconds=0.01", **chosen), [])
    assert any((folder / "export").iterdir())
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(tmp_path / "one.png")
    where = {"images": str(tmp_path), "out": str(tmp_path / "out.csv")}
    predict_images(composed("predict", "run=none", "images=none", **settings(folder, **where)))
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 2


def test_it_is_compared_and_served(folder: Path, tmp_path: Path) -> None:
    chosen = composed("compare", runs=str(folder), out=str(tmp_path / "page"))
    assert compare(chosen).exists()
    serving = composed("serve", "runs=none", "device=cpu", trusted_targets=TRUSTED)
    groups, problems = read_groups([folder], serving)
    assert (len(groups), problems) == (1, [])
    assert triptych.load_run(folder).network(TRUSTED).head_name


@pytest.mark.parametrize("place", ["model", "data"])
def test_a_network_or_a_data_set_that_nobody_trusts_is_refused_still(
    folder: Path, tmp_path: Path, place: str
) -> None:
    record = Record.open(shutil.copytree(folder, tmp_path / "run"))
    record.write_config(record.config | {place: record.config[place] | {"source": GONE}})
    with pytest.raises(UserError, match=r"trusted_targets=\[a_colleagues_package\.Part"):
        triptych.load_run(record.folder).network(TRUSTED)


@pytest.mark.parametrize("place", PARTS)
def test_to_train_on_every_part_must_be_trusted(folder: Path, place: str) -> None:
    config = composed("train")
    config["trainer"][place] = [GONE] if place in ("callbacks", "logger", "plugins") else GONE
    with pytest.raises(UserError, match=r"trusted_targets=\[a_colleagues_package\.Part"):
        check_untrusted_config(config)
    check_untrusted_config(drop_training_parts(config))
    record = Record.open(folder)
    with pytest.raises(UserError, match=r"trusted_targets=\[a_colleagues_package\.Part"):
        check_run_config(record, composed("train", trusted_targets=TRUSTED))


@pytest.mark.parametrize("end", ["max_steps=13", "max_time=00:00:01:00"])
def test_a_run_without_a_number_of_epochs_is_read_as_any_other(end: str) -> None:
    config = composed("train", "trainer.max_epochs=-1", f"++trainer.{end}")
    check_untrusted_config(drop_training_parts(config))
