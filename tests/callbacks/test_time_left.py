"""How long a run takes from now on, and whether that is in time."""

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from triptych.callbacks.advice import find_quicker
from triptych.callbacks.deadline import has_time_for_step
from triptych.callbacks.time_left import Pace, RunClock, describe_left
from triptych.runs.durations import PROGRESS_FILE, format_duration, format_left
from triptych.runs.record import Record

SECONDS = st.floats(1e-3, 1e3)


@given(slow=SECONDS, rates=st.tuples(SECONDS, SECONDS), kinds=st.lists(st.booleans(), min_size=1))
def test_constant_rates_are_found_exactly_whatever_the_first_of_a_kind_took(
    slow: float, rates: tuple[float, float], kinds: list[bool]
) -> None:
    pace, now = Pace(5.0), 5.0
    for number, kind in enumerate([True, False, *kinds, True, False]):
        now += slow * rates[kind] if number < 2 else rates[kind]
        pace.advance(str(kind), now)
    assert pace.seconds("True") == pytest.approx(rates[1])
    assert pace.seconds("False") == pytest.approx(rates[0])
    assert pace.seconds("another") is None


def test_what_a_step_takes_now_counts_more_than_what_it_took_an_hour_ago() -> None:
    pace, now = Pace(0.0), 0.0
    for seconds in [4.0] * 900 + [1.0] * 1800:
        now += seconds
        pace.advance("train", now)
    assert pace.seconds("train") == pytest.approx(1.0, rel=0.15)


class Counted(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch: torch.Tensor, _: int) -> torch.Tensor:
        loss: torch.Tensor = self.layer(batch).sum()
        return loss

    def validation_step(self, batch: torch.Tensor, _: int) -> None: ...

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.0)


class Data(pl.LightningDataModule):
    batch_size, train, val, test = 2, range(20), range(6), range(4)

    def train_dataloader(self) -> Any:
        return DataLoader(torch.zeros(20, 1), batch_size=2)  # type: ignore[arg-type]

    def val_dataloader(self) -> Any:
        return DataLoader(torch.zeros(6, 1), batch_size=2)  # type: ignore[arg-type]


class Oracle(pl.Callback):
    """What was left at every batch, by what came after it."""

    def __init__(self, clock: RunClock) -> None:
        self.clock = clock
        self.said: list[tuple[float, float]] = []
        self.done: list[tuple[int, int]] = []
        self.num_train = self.num_val = 0

    def note(self, trainer: pl.Trainer) -> None:
        self.said.append(self.clock.count_left(trainer)[:2])
        self.done.append((self.num_train, self.num_val))

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.num_train += 1
        self.note(trainer)

    def on_validation_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.num_val += 1
        self.note(trainer)


def fit(module: pl.LightningModule, callbacks: list[pl.Callback], **settings: Any) -> None:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    quiet |= {"enable_checkpointing": False, "num_sanity_val_steps": 0}
    trainer = pl.Trainer(accelerator="cpu", callbacks=callbacks, **quiet, **settings)
    trainer.fit(module, datamodule=Data())


@pytest.mark.parametrize(
    "settings",
    [
        {"max_epochs": 3},
        {"max_epochs": 3, "limit_train_batches": 0.5, "limit_val_batches": 2},
        {"max_epochs": 4, "check_val_every_n_epoch": 2},
        {"max_epochs": 2, "val_check_interval": 0.3},
        {"max_epochs": 2, "val_check_interval": 7, "check_val_every_n_epoch": None},
        {"max_epochs": -1, "max_steps": 13},
        {"max_epochs": 9, "max_steps": 6, "accumulate_grad_batches": 2},
        {"max_epochs": 2, "limit_val_batches": 0},
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_the_batches_left_are_those_that_come(settings: dict[str, Any]) -> None:
    clock = RunClock(Record(None, {}))  # type: ignore[arg-type]
    oracle = Oracle(clock)
    fit(Counted(), [clock, oracle], **settings)
    whole = (oracle.num_train, oracle.num_val)
    left = [tuple(n - d for n, d in zip(whole, done, strict=True)) for done in oracle.done]
    assert len(left) > 9
    assert oracle.said == left


@pytest.mark.parametrize(
    ("done", "deadline", "has_time"),
    [
        (3, 5.9, False),  # a second, with a margin, and the end
        (3, 6.5, True),
        (9, 6.5, False),  # three batches of validation, as well
        (9, 14.0, True),
        (10, 6.5, True),  # the next epoch begins
    ],
)
def test_a_validation_that_follows_the_next_step_needs_its_time_too(
    done: int, deadline: float, has_time: bool
) -> None:
    ready = SimpleNamespace(current=SimpleNamespace(ready=done))
    trainer: Any = SimpleNamespace(
        fit_loop=SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=ready)),
        **{"num_training_batches": 10, "val_check_batch": 10, "check_val_every_n_epoch": 1},
        **{"max_epochs": 3, "max_steps": -1, "current_epoch": 0, "accumulate_grad_batches": 1},
        **{"limit_val_batches": 1.0, "datamodule": Data(), "training": True, "should_stop": False},
    )
    clock = RunClock(Record(None, {}))  # type: ignore[arg-type]
    clock.pace._seen = {"train": (10.0, 10.0), "val": (10.0, 20.0)}  # a second, two seconds
    clock.end_seconds, clock.deadline = 5.0, time.time() + deadline
    assert has_time_for_step(clock, trainer) is has_time
    trainer.should_stop = True
    assert has_time_for_step(clock, trainer), "it ends by itself"


@pytest.mark.parametrize("max_epochs", [10**9, 10**15])
def test_a_training_of_a_thousand_years_is_described_or_has_no_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, max_epochs: int
) -> None:
    monkeypatch.setattr(RunClock, "count_left", lambda *_: (60.0 * max_epochs, 0.0, max_epochs))
    clock = RunClock(Record(tmp_path, {"status": "running"}))
    clock.pace._seen, clock.pace.counts = {"train": (10.0, 10.0)}, {"train": 10}
    clock.has_advised = True
    trainer: Any = SimpleNamespace(
        **{"testing": False, "callbacks": [clock], "datamodule": Data()},
        **{"limit_test_batches": 1.0, "limit_val_batches": 1.0},
    )
    said = "694444 days" in describe_left(trainer)
    assert said is (max_epochs == 10**9)
    if said:
        end, share = map(float, (tmp_path / PROGRESS_FILE).read_text().split())
        assert end - time.time() > 5e10
        assert 0 <= share < 1e-6


def test_durations_are_no_more_precise_than_an_estimate() -> None:
    texts = {3: "5 s", 42: "40 s", 59: "1 min", 83: "1 min 20 s", 700: "12 min", 3599: "1 h"}
    texts |= {4900: "1 h 20 min", 90_000: "25 h", 400_000: "5 days"}
    assert {seconds: format_duration(seconds) for seconds in texts} == texts
    assert "ends" not in format_left(50)
    assert time.strftime("%a", time.localtime(time.time() + 100_000)) in format_left(100_000)


def test_what_is_quicker_takes_an_hour_and_can_be_typed(trained_run: Path, tmp_path: Path) -> None:
    record = Record.open(trained_run)
    record.metadata |= {"num_train": 50_000, "input_size": 224, "classes": ["a", "b"]}
    quicker = find_quicker(record, 40 * 3600.0)
    assert list(quicker) == ["data.num_train=1000", "model.input_size=32"]
    two_hours = find_quicker(record, 2 * 3600.0)
    assert list(two_hours) == ["data.num_train=20000", "model.input_size=128"]
    (tmp_path / "config.yaml").write_text("model: {name: of_fixed_size}")
    own = Record(tmp_path, record.metadata)
    assert list(find_quicker(own, 2 * 3600.0)) == ["data.num_train=20000"]


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_what_follows_a_validation_within_an_epoch_is_a_pause_and_no_training() -> None:
    class Slow(pl.Callback):
        def on_validation_end(self, *_: Any) -> None:
            time.sleep(0.2)

    clock = RunClock(Record(None, {}))  # type: ignore[arg-type]
    fit(Counted(), [clock, Slow()], max_epochs=2, val_check_interval=0.5)
    assert clock.pace.counts["pause"] == 3, "after the last one nothing follows"
    assert clock.pace.seconds("train") == pytest.approx(0, abs=0.1)
    assert clock.pace.seconds("pause") == pytest.approx(0.2, abs=0.1)
