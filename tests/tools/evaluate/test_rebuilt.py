"""A network and its images from a run folder, made here by hand and then harmed."""

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from torch import Tensor

from triptych.build import build_datamodule
from triptych.callbacks.checkpoint import AtomicCheckpointIO
from triptych.config import CONFIGS, resolve_config
from triptych.data.shapes import OUTLINES, Shapes
from triptych.errors import UserError
from triptych.models.backbone import Preprocessing
from triptych.runs.record import Record
from triptych.tools.evaluate.rebuild import read_data, rebuild_run

CLASSES = tuple(OUTLINES)
TINY = [
    *("model=torchvision", "model.name=shufflenet_v2_x0_5", "model.weights=null"),
    *("model.input_size=32", "data=shapes", "data.num_train=20", "data.num_val=10"),
    *("data.source.num_train=40", "data.source.num_test=20", "data.num_test=15"),
]


def network(num_classes: int = len(CLASSES)) -> torch.nn.Module:
    torch.manual_seed(0)
    made: torch.nn.Module = torchvision.models.shufflenet_v2_x0_5(num_classes=num_classes)
    return made


def save(record: Record, state: Any) -> None:
    AtomicCheckpointIO().save_checkpoint({"state_dict": state}, record.checkpoint_path("best"))


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = resolve_config(
            compose("train", [*TINY, f"log_dir={tmp_path_factory.mktemp('logs')}"])
        )
    record = Record.create(config, [])
    save(record, network().state_dict())
    anything = Preprocessing(32, (0.5,) * 3, (0.5,) * 3)
    data = build_datamodule(config, Shapes(num_train=40, num_test=20, seed=0).read(), anything)
    hashes = {"split_hash": data.split_hash, "test_hash": data.test_hash}
    record.update(classes=CLASSES, metrics={"test/accuracy": 0.5}, **hashes)
    record.end("finished")
    return record.folder


@pytest.fixture
def record(original: Path, tmp_path: Path) -> Record:
    """A copy to do harm to."""
    return Record.open(Path(shutil.copytree(original, tmp_path / "run")))


@pytest.fixture
def edit(record: Record) -> Callable[[Callable[[Any], object]], None]:
    """Changes the frozen config."""

    def edited(change: Callable[[Any], object]) -> None:
        config = record.config
        change(config)
        (record.folder / "config.yaml").write_text(OmegaConf.to_yaml(config))

    return edited


def images(num: int = 3) -> Tensor:
    return Shapes(10, 10, seed=1).read().test.images[:num]


def refusal(record: Record, *trusted: str) -> str:
    with pytest.raises(UserError) as raised:
        rebuild_run(record.folder, trusted)
    said = str(raised.value)
    assert len(said.splitlines()) <= 3
    return said


def test_the_rebuilt_network_answers_as_the_one_that_was_saved(original: Path) -> None:
    run = rebuild_run(original)
    assert not run.backbone.training
    assert run.classes == CLASSES
    mean, std = torch.tensor([[[0.485, 0.456, 0.406]], [[0.229, 0.224, 0.225]]])
    pixels = (images() / 255 - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    with torch.no_grad():
        expected = network().eval()(pixels)
    torch.testing.assert_close(run.logits(images()), expected)


def test_logits_are_float32_whatever_the_precision(original: Path) -> None:
    run = rebuild_run(original)
    full = run.logits(images())
    run.precision = "bf16-mixed"
    half = run.logits(images())
    assert full.dtype == half.dtype == torch.float32
    assert not torch.equal(full, half)
    torch.testing.assert_close(half, full, rtol=0.1, atol=0.05)


def test_rebuilding_draws_no_weights_and_reads_none_but_the_checkpoint(
    record: Record, edit: Callable[[Callable[[Any], object]], None]
) -> None:
    """The pretrained weights that the config names are on no disk here, and tests are offline."""
    edit(lambda config: config["model"].update(weights="DEFAULT"))
    torch.testing.assert_close(
        rebuild_run(record.folder).backbone.network.state_dict(), dict(network().state_dict())
    )


def test_classes_without_names_are_numbered(record: Record) -> None:
    zeros = np.zeros((4, 10), np.float32)
    record.add_predictions("test", logits=zeros, labels=np.arange(4), index=np.arange(4))
    record.update(classes=None)
    assert rebuild_run(record.folder).classes == tuple("0123456789")


@pytest.mark.parametrize("status", ["running", "failed", "interrupted", 7])
def test_a_run_that_is_not_finished_is_refused(record: Record, status: Any) -> None:
    record.update(status=status)
    assert f"not finished, its status is {status}" in refusal(record)


@pytest.mark.parametrize(
    ("name", "value"),
    [("metrics", "[]"), ("num_threads", -1), ("precision", {"a": 1}), ("classes", "abc")],
)
def test_a_record_edited_by_hand_is_refused_by_the_fact(
    record: Record, name: str, value: Any
) -> None:
    record.update(**{name: value})
    assert f"run.json: {name} must be " in refusal(record)


def test_a_missing_a_truncated_and_a_poisoned_checkpoint_are_refused(record: Record) -> None:
    path = record.checkpoint_path("best")
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", pickle.dumps({"state_dict": Path("x")})):
        path.write_bytes(content)
        assert f"{path}: no checkpoint, or damaged; nothing of it was run" in refusal(record)
    path.unlink()
    assert str(path) in refusal(record)


def test_weights_of_another_network_are_refused_with_what_does_not_fit(record: Record) -> None:
    state = network().state_dict()
    del state["conv1.0.weight"]
    save(record, state)
    assert "conv1.0.weight" in refusal(record)
    save(record, network().state_dict() | {"fc.weight": torch.tensor(3.0)})
    assert "fc.weight" in refusal(record)
    for nothing in (None, [1.0], {}):
        save(record, nothing)
        assert "no weights of config.yaml's network" in refusal(record)


def test_a_checkpoint_of_other_classes_is_refused_in_one_line(record: Record) -> None:
    save(record, network(num_classes=3).state_dict())
    assert refusal(record) == f"{record.folder}: has 10 classes, its checkpoint 3"


def test_a_target_of_somebody_elses_runs_only_where_it_is_trusted(
    record: Record, edit: Callable[[Callable[[Any], object]], None]
) -> None:
    edit(lambda config: config["data"]["source"].update(_target_="pickle.loads"))
    assert "_target_=pickle.loads" in refusal(record)
    run = rebuild_run(record.folder, ["pickle.loads"])
    with pytest.raises(UserError, match="refuses its settings"):
        read_data(run)


def test_images_are_those_of_training_or_refused_by_what_differs(record: Record) -> None:
    run = rebuild_run(record.folder)
    frozen = record.config
    assert len(read_data(run).test) == 15
    assert read_data(run, batch_size=5).batch_size == 5
    assert run.config == frozen, "the run's own config stays as it was"
    for name, wrong in {"split_hash": "1", "test_hash": "2", "classes": ["cat"] * 10}.items():
        right = run.record.metadata[name]
        run.record.metadata[name] = wrong
        with pytest.raises(UserError, match=f"not the images of this run\ntheir {name} is"):
            read_data(run)
        run.record.metadata[name] = right


def test_images_that_are_elsewhere_are_asked_for_by_data_root(
    record: Record, edit: Callable[[Callable[[Any], object]], None], tmp_path: Path
) -> None:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cifar10 = resolve_config(compose("train", ["data=cifar10", f"data.root={tmp_path}/gone"]))[
            "data"
        ]
    edit(lambda config: config.update(data=cifar10))
    run = rebuild_run(record.folder)
    for root, looked_in in ((None, tmp_path / "gone"), (f"{tmp_path}/here", tmp_path / "here")):
        with pytest.raises(UserError) as raised:
            read_data(run, root)
        said = str(raised.value)
        assert f"looked in {looked_in}" in said
        assert "data_root=<folder>" in said
        assert len(said.splitlines()) <= 3
    assert not (tmp_path / "gone").exists(), "nothing was fetched"
