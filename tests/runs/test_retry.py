"""A run that is out of memory, and the one smaller try that was asked for."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.composing import composed
from tests.same_run import assert_same_run
from tests.tiny import TINY
from triptych.config import Config
from triptych.errors import UserError
from triptych.module import ImageClassifier
from triptych.runs import retry
from triptych.runs.reader import find_newest_run
from triptych.runs.record import Record, config_hash
from triptych.training import train

pytestmark = pytest.mark.usefixtures("no_figures")
HALVED = ("data.batch_size=4", "++trainer.accumulate_grad_batches=2")


def compose(folder: Path, *typed: str) -> Config:
    return composed("train", *TINY, "trainer.max_epochs=2", *typed, log_dir=str(folder))


def lack_memory(patch: pytest.MonkeyPatch, least: int, after: int = 0) -> None:
    """Have batches of so many images, or more, not fit from some step on."""
    step, steps = ImageClassifier.training_step, []

    def limited(module: Any, batch: Any, batch_idx: int) -> Any:
        steps.append(batch_idx)
        if len(batch.inputs) >= least and len(steps) > after:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return step(module, batch, batch_idx)

    patch.setattr(ImageClassifier, "training_step", limited)


def find_records(folder: Path) -> list[Record]:
    return [Record.open(path.parent) for path in sorted(folder.rglob("run.json"))]


def test_half_the_batch_is_tried_once_and_is_the_run_that_was_typed_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lack_memory(monkeypatch, least=5)
    folders: list[str] = []
    config = compose(tmp_path / "a", "trainer.on_oom=halve")
    requested = config_hash(config)
    assert requested == config_hash(compose(tmp_path / "a"))
    halved = train(config, [*TINY, "trainer.on_oom=halve"], folders.append)
    typed = train(compose(tmp_path / "b", *HALVED), [])

    [record] = find_records(tmp_path / "a")
    assert (record.folder, record.metadata["status"]) == (Path(folders[-1]), "finished")
    assert record.metadata["requested_batch_size"] == 8
    assert record.metadata["batch_size"] == 4
    overrides = record.metadata["overrides"]
    assert [o for o in overrides if "batch" in o] == [HALVED[0], HALVED[1].lstrip("+")]
    assert record.config | {"log_dir": ""} == typed.config | {"log_dir": ""}
    assert_same_run(halved.folder, typed.folder)
    for digest in (requested, config_hash(typed.config)):  # a sweep finds it by either
        found = find_newest_run(tmp_path / "a", config_hash=digest)
        assert found
        assert found.folder == record.folder


def test_a_second_lack_of_memory_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lack_memory(monkeypatch, least=2)
    with pytest.raises(SystemExit) as ended:
        train(compose(tmp_path, "trainer.on_oom=halve"), [])
    assert ended.value.code == 1
    [record] = find_records(tmp_path)
    assert record.metadata["status"] == "failed"
    assert "data.batch_size=2 trainer.accumulate_grad_batches=4" in record.metadata["error"]


def test_what_was_learned_before_memory_was_short_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lack_memory(monkeypatch, least=5, after=7)
    train(compose(tmp_path, "trainer.on_oom=halve"), [])
    failed, finished = sorted(find_records(tmp_path), key=lambda r: -r.metadata["batch_size"])
    assert [r.metadata["status"] for r in (failed, finished)] == ["failed", "finished"]
    assert failed.checkpoint_path("last").exists()
    assert retry.may_halve(failed.folder, is_new=True)
    assert not retry.may_halve(failed.folder, is_new=False), "it can be resumed with more memory"


@pytest.mark.parametrize(
    ("status", "error", "more"),
    [
        ("failed", "out of memory at data.batch_size=1; try", {"data.batch_size": 1}),
        ("failed", "a bug", {}),
        ("interrupted", "out of memory at data.batch_size=8; ", {}),
        ("failed", "out of memory at data.batch_size=8; ", {"requested_hash": "a"}),
    ],
)
def test_other_ends_are_no_reason_to_try_again(
    tmp_path: Path, status: str, error: str, more: dict[str, Any]
) -> None:
    size = more.pop("data.batch_size", 8)
    record = Record.create(compose(tmp_path, f"data.batch_size={size}"), [])
    record.end(status, error=error, **more)
    assert not retry.may_halve(record.folder, is_new=True)


def test_ranks_that_others_have_started_are_not_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Two:
        world_size = staticmethod(lambda: 2)

    monkeypatch.setattr(retry, "cluster_environment", Two)
    with pytest.raises(UserError, match=r"trainer\.on_oom=halve"):
        train(compose(tmp_path, "trainer.on_oom=halve"), [])
    assert not [*tmp_path.iterdir()]
