"""When a checkpoint is due within an epoch."""

import signal
from types import SimpleNamespace
from typing import Any

import pytest

from triptych import due
from triptych.due import Due


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(due.time, "monotonic", lambda: clock.now)
    return clock


def trainer(step: int = 1) -> Any:
    strategy = SimpleNamespace(reduce_boolean_decision=lambda here, all: here)
    return SimpleNamespace(global_step=step, strategy=strategy)


def test_steps_and_minutes_make_one_due(clock: SimpleNamespace) -> None:
    checkpoint = Due(every_n_steps=3, every_minutes=2)
    assert [step for step in range(1, 8) if checkpoint.now(trainer(step))] == [3, 6]
    clock.now += 120
    assert checkpoint.now(trainer(7))
    checkpoint.saved(trainer(7))
    assert not checkpoint.now(trainer(7)), "the minutes begin anew"


def test_a_signal_waits_for_the_checkpoint_and_ends_the_run_after_it(
    clock: SimpleNamespace,
) -> None:
    checkpoint = Due(None, None)
    checkpoint._stop(signal.SIGTERM, None)
    assert checkpoint.now(trainer())
    with pytest.raises(SystemExit) as ended:
        checkpoint.saved(trainer())
    assert ended.value.code == 143


def test_two_signals_within_a_second_are_one_request(clock: SimpleNamespace) -> None:
    checkpoint = Due(None, None)
    checkpoint._stop(signal.SIGINT, None)
    clock.now += 0.5
    checkpoint._stop(signal.SIGTERM, None)  # as torchrun passes Ctrl-C on
    clock.now += 1
    with pytest.raises(SystemExit) as ended:
        checkpoint._stop(signal.SIGINT, None)
    assert ended.value.code == 130
