"""The rate to begin with and the largest batch, each from a short training that leaves nothing."""

import csv
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.composing import composed
from tests.tiny import TINY
from triptych.config import Config
from triptych.errors import UserError
from triptych.module import ImageClassifier
from triptych.tools.tune import finders
from triptych.tools.tune.command import tune
from triptych.tools.tune.finders import find_fastest_fall, try_sizes

TYPED = [*TINY, "study=mine"]


@pytest.fixture(autouse=True)
def _no_collection(monkeypatch: pytest.MonkeyPatch) -> None:
    """It looks at every object of the test suite, after each size that is tried."""
    monkeypatch.setattr(finders, "garbage_collection_cuda", list)


def compose(folder: Path, *typed: str) -> Config:
    return composed("tune", *TYPED, *typed, log_dir=str(folder))


def read_table(folder: Path, method: str) -> list[dict[str, str]]:
    [path] = folder.glob(f"tune/mine/{method}_*/{method}.csv")
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def list_files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_the_rate_rises_in_every_group_and_the_curve_is_all_that_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    typed = ["search=range", "search.num_steps=20", "search.low=1e-4", "search.high=0.01"]
    typed += ["optim.backbone_lr=0.005", "trainer.accumulate_grad_batches=2"]
    typed += ["callbacks=[early_stopping]", "optim.schedule=cosine", "data.batch_size=10"]
    step, seen = ImageClassifier.training_step, []

    def note(module: Any, *batch: Any) -> Any:
        seen.append([group["lr"] for group in module.optimizers().param_groups])
        return step(module, *batch)

    def first_step(losses: Any, _: int) -> int:
        assert np.isfinite(losses).all()
        return 7

    monkeypatch.setattr(ImageClassifier, "training_step", note)
    monkeypatch.setattr(finders, "find_fastest_fall", first_step)
    caplog.set_level("INFO")
    tune(compose(tmp_path, *typed), [*TYPED, *typed, "+search.more=1"])
    rows = read_table(tmp_path, "range")
    rates = 1e-4 * 100 ** (np.arange(20) / 19)
    assert [float(row["optim.lr"]) for row in rows] == pytest.approx(rates)
    assert [row["suggested"] for row in rows] == [*7 * "0", "1", *12 * "0"]
    assert list_files(tmp_path) == ["config.yaml", "range.csv", "range.png"]
    lrs = np.array(seen)[::2]  # two batches a step
    np.testing.assert_allclose(lrs[:, -1], rates)
    np.testing.assert_allclose(lrs[:, 0], rates / 2)
    command = caplog.messages[-1].removeprefix("next  ")
    assert command.startswith(f"python train.py {TYPED[0]} ")
    assert command.endswith("data.batch_size=10 optim.lr=0.00055 optim.backbone_lr=0.00027")
    assert not {"search", "study", "backbone_lr=0.005"} & {*command.replace("=", " ").split()}


def test_where_no_rate_is_clear_the_curve_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverge(module: Any, batch: Any, batch_idx: int) -> Any:
        loss = sum(p.sum() for p in module.parameters() if p.requires_grad) * 0
        return loss + (math.nan if module.global_step == 9 else 1.0)

    monkeypatch.setattr(ImageClassifier, "training_step", diverge)
    with pytest.raises(UserError, match=r"search\.low=1e-07, search\.high=10"):
        tune(compose(tmp_path, "search=range"), TYPED)
    assert [row["loss"] for row in read_table(tmp_path, "range")] == ["1.0"] * 9
    assert "range.png" in list_files(tmp_path)


@settings(max_examples=20)
@given(st.integers(30, 70), st.floats(0.5, 3), st.integers(0, 2**32 - 1))
def test_the_steepest_fall_of_a_noisy_curve_is_found(centre: int, fall: float, seed: int) -> None:
    noise = np.random.default_rng(seed).normal(scale=0.03 * fall, size=100)
    losses = 3 - fall / (1 + np.exp(-(np.arange(100) - centre) / 3)) + noise
    found = find_fastest_fall(losses, 12)
    assert found is not None
    assert abs(found - centre) <= 4


def test_noise_alone_is_no_fall_and_too_few_steps_say_nothing() -> None:
    draws = np.random.default_rng(0).normal(2.3, 0.1, size=(20, 100))
    found = [find_fastest_fall(losses, 12) is not None for losses in draws]
    assert sum(found) < 4
    assert find_fastest_fall(draws[0, :11], 12) is None


@given(st.integers(1, 5000), st.integers(2, 5000), st.integers(0, 6000))
def test_the_largest_size_that_was_tried_is_not_far_below_what_fits(
    start: int, most: int, capacity: int
) -> None:
    tried = try_sizes(lambda size: size if size <= capacity else None, start, most)
    fitting = [size for size, peak in tried.items() if peak is not None]
    assert max(tried) <= most
    assert len(tried) <= 3 + math.log2(most)
    if capacity >= most:
        assert max(fitting) == most
    elif capacity >= 2:
        assert min(tried.keys() - {*fitting}) <= 1.5 * max(fitting) + 1
    else:
        assert fitting in ([], [1])


@pytest.mark.parametrize(("capacity", "found"), [(13, 12), (3, 3)])
def test_the_largest_batch_is_found_and_memory_is_all_that_may_be_short(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capacity: int,
    found: int,
) -> None:
    step, sizes = ImageClassifier.training_step, []

    def limited(module: Any, batch: Any, batch_idx: int) -> Any:
        sizes.append(len(batch.inputs))
        if sizes[-1] > capacity:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return step(module, batch, batch_idx)

    monkeypatch.setattr(ImageClassifier, "training_step", limited)
    caplog.set_level("INFO")
    tune(compose(tmp_path, "search=batch"), [*TYPED, "search=batch"])
    rows = read_table(tmp_path, "batch")
    assert {int(row["batch_size"]): row["fits"] for row in rows} == {
        size: str(int(size <= capacity)) for size in sizes
    }
    assert sizes.count(found) == finders.BATCH_STEPS
    assert caplog.messages[-1].endswith(f" data.batch_size={found}")
    assert caplog.messages[-1].count("data.batch_size") == 1
    assert list_files(tmp_path) == ["batch.csv", "config.yaml"]


def test_a_size_that_would_need_more_than_is_free_is_not_tried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried: list[int] = []
    data = SimpleNamespace(batch_size=0)
    module = SimpleNamespace(zero_grad=list, split_predictions=SimpleNamespace(reset=list))
    short: Any = SimpleNamespace(config={"trainer": {"accelerator": "cpu"}}, data=data)
    short.module, short.fit = module, lambda *_, **options: tried.append(data.batch_size)
    monkeypatch.setattr(finders, "measure_free_memory", lambda: 200)
    monkeypatch.setattr(
        finders, "measure_peak_bytes", lambda call, _: call() or 1000 + 10 * data.batch_size
    )
    trial = finders.BatchTrial(short)
    assert [trial(size) for size in (8, 16, 32)] == [1080, 1160, None]
    assert tried == [8, 16]


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        (["search=range", "search.low=20"], "search.low=20: must be below search.high=10"),
        (["search=range", "search.low=0"], "search.low=0: must be a number above 0"),
        (["search=range", "search.num_steps=3"], "search.num_steps=3: must be"),
        (["search=range", "search.method=fast"], "search.method=fast: must be one of"),
        (["search=batch", "+search.optim.lr=[1]"], "search.optim"),
        (["search=batch", "trainer.devices=2"], "trainer.devices=2"),
    ],
)
def test_what_cannot_be_found_so_is_refused_by_name(
    tmp_path: Path, typed: list[str], says: str
) -> None:
    with pytest.raises(UserError) as raised:
        tune(compose(tmp_path, *typed), typed)
    assert str(raised.value).startswith(says)
    assert not [*tmp_path.iterdir()]
