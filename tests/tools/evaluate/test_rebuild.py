"""A network and its images from a run folder, harmed in every way."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from tests.composing import composed
from tests.tiny import TARGETS, Tiny
from triptych.data.shapes import OUTLINES, Shapes
from triptych.errors import UserError
from triptych.runs.checkpoint_files import AtomicCheckpointIO
from triptych.runs.record import Record
from triptych.tools.evaluate.rebuild import (
    PIXELS_AT_ONCE,
    find_device,
    read_data,
    rebuild_run,
)


def draw_network() -> Tiny:
    torch.manual_seed(0)
    return Tiny(num_classes=len(OUTLINES))


def save(record: Record, state: Any) -> None:
    AtomicCheckpointIO().save_checkpoint({"state_dict": state}, record.checkpoint_path("best"))


@pytest.fixture
def record(copied: Path) -> Record:
    """A copy to do harm to."""
    return Record.open(copied)


def edit(record: Record, change: Callable[[Any], object]) -> None:
    """Change the frozen config."""
    config = record.config
    change(config)
    (record.folder / "config.yaml").write_text(OmegaConf.to_yaml(config))


def error_message(record: Record) -> str:
    with pytest.raises(UserError) as error:
        rebuild_run(record.folder, TARGETS)
    assert len(str(error.value).splitlines()) <= 3
    return str(error.value)


def test_the_rebuilt_network_answers_as_the_one_that_was_saved(record: Record) -> None:
    save(record, draw_network().state_dict())
    edit(record, lambda config: config["model"].update(weights="/no/such/weights"))  # not read
    run = rebuild_run(record.folder, TARGETS)
    assert not run.backbone.training
    assert run.classes == tuple(OUTLINES)
    images = Shapes(10, 10, seed=1).read().test.images[:3]
    with torch.no_grad():
        expected = draw_network().eval()((images / 255 - 0.5) / 0.5)
    full = run.logits(images)
    torch.testing.assert_close(full, expected)
    run.precision = "bf16-mixed"
    half = run.logits(images)
    assert full.dtype == half.dtype == torch.float32
    assert not torch.equal(full, half)
    torch.testing.assert_close(half, full, rtol=0.1, atol=0.05)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("status", "running"),
        ("status", 7),
        ("metrics", "[]"),
        ("num_threads", -1),
        ("precision", {"a": 1}),
        ("classes", "abc"),
        ("classes", ["a"] * 10_001),
        ("num_train", 10**20),
        ("classes", None),
    ],
)
def test_a_run_that_is_not_finished_or_was_edited_is_refused_by_the_name(
    record: Record, name: str, value: Any
) -> None:
    record.update(**{name: value})
    assert name in error_message(record)


def test_a_missing_a_truncated_and_a_poisoned_checkpoint_are_refused(record: Record) -> None:
    path = record.checkpoint_path("best")
    content = path.read_bytes()
    for broken in (content[: len(content) // 2], b"", pickle.dumps({"state_dict": Path("x")})):
        path.write_bytes(broken)
        assert str(path) in error_message(record)
    path.unlink()
    assert str(path) in error_message(record)


def test_weights_of_another_network_are_refused_with_what_does_not_fit(record: Record) -> None:
    state = draw_network().state_dict()
    save(record, {name: value for name, value in state.items() if name != "0.weight"})
    assert "0.weight" in error_message(record)
    for wrong in (state["5.weight"][:3], torch.tensor(3.0)):
        save(record, state | {"5.weight": wrong})
        assert "5.weight" in error_message(record)
    for nothing in (None, [1.0], {}):
        save(record, nothing)
        assert str(record.checkpoint_path("best")) in error_message(record)


def test_a_target_of_somebody_elses_runs_only_where_it_is_trusted(record: Record) -> None:
    edit(record, lambda config: config["data"]["source"].update(_target_="pickle.loads"))
    assert "_target_=pickle.loads" in error_message(record)
    run = rebuild_run(record.folder, [*TARGETS, "pickle.loads"])
    with pytest.raises(UserError, match=r"data\.source\b"):
        read_data(run)


def test_images_are_those_of_training_or_refused_by_what_differs(record: Record) -> None:
    run = rebuild_run(record.folder, TARGETS)
    assert read_data(run, batch_size=5).batch_size == 5
    assert run.config == record.config, "the run's own config stays as it was"
    run.config["data"] |= {"batch_size": 10**9, "num_workers": 10**11}
    data = read_data(run)
    assert data.batch_size * 32**2 == PIXELS_AT_ONCE
    assert data.num_workers == 0
    for name, wrong in {"split_hash": "1", "test_hash": "2", "classes": ["cat"] * 10}.items():
        right = run.record.metadata[name]
        run.record.metadata[name] = wrong
        with pytest.raises(UserError, match=f"not the images of this run .{name}.\n"):
            read_data(run)
        run.record.metadata[name] = right


def test_images_that_are_elsewhere_are_asked_for_by_data_root(
    record: Record, tmp_path: Path
) -> None:
    cifar10 = composed("train", "data=cifar10", f"data.root={tmp_path}/gone")["data"]
    edit(record, lambda config: config.update(data=cifar10))
    run = rebuild_run(record.folder, TARGETS)
    places = {None: os.environ["DATA_DIR"], f"{tmp_path}/here": tmp_path / "here"}
    for root, folder in places.items():  # what somebody else's config says is not looked at
        with pytest.raises(UserError, match=f"{folder}(?s:.*)data_root=<folder>"):
            read_data(run, root)
    assert not (tmp_path / "gone").exists(), "nothing was downloaded"


def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="device=cuda: "):
        find_device("cuda")
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert find_device("auto") == find_device("cpu") == torch.device("cpu")
