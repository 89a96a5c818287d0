"""When a checkpoint is due within an epoch."""

import itertools
import signal
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from triptych.callbacks import checkpoint
from triptych.callbacks.checkpoint import SaveSchedule
from triptych.runs.stopping import signal_handlers


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: clock.now)
    return clock


def trainer(step: int = 1) -> Any:
    strategy = SimpleNamespace(reduce_boolean_decision=lambda here, all: here)
    return SimpleNamespace(global_step=step, strategy=strategy, world_size=1)


def test_steps_and_minutes_make_one_due(clock: SimpleNamespace) -> None:
    schedule = SaveSchedule(every_n_steps=3, every_minutes=2)
    assert [step for step in range(1, 8) if schedule.should_save(trainer(step))] == [3, 6]
    clock.now += 120
    assert schedule.should_save(trainer(7))
    schedule.restart()
    assert not schedule.should_save(trainer(7)), "the minutes begin anew"


def test_a_signal_waits_for_the_checkpoint_and_ends_the_run_after_it(
    clock: SimpleNamespace,
) -> None:
    schedule = SaveSchedule(None, None)
    schedule._request_stop(signal.SIGTERM, None)
    assert schedule.should_save(trainer())
    with pytest.raises(SystemExit) as ended:
        schedule.stop_if_requested(trainer())
    assert ended.value.code == 143


def test_two_signals_within_a_second_are_one_request(clock: SimpleNamespace) -> None:
    schedule = SaveSchedule(None, None)
    schedule._request_stop(signal.SIGINT, None)
    clock.now += 0.5
    schedule._request_stop(signal.SIGTERM, None)  # as torchrun passes Ctrl-C on
    clock.now += 1
    with pytest.raises(SystemExit) as ended:
        schedule._request_stop(signal.SIGINT, None)
    assert ended.value.code == 130


def test_ranks_ask_each_other_about_once_a_second_and_steps_need_no_asking(
    clock: SimpleNamespace,
) -> None:
    asked: list[float] = []

    def reduce(told: torch.Tensor, reduce_op: str) -> torch.Tensor:
        assert reduce_op == "max"
        asked.append(clock.now)
        return told

    strategy = SimpleNamespace(reduce=reduce, root_device="cpu")
    two: Any = SimpleNamespace(global_step=0, strategy=strategy, world_size=2)
    schedule = SaveSchedule(every_n_steps=7, every_minutes=None)
    due = []
    for step in range(1, 3001):
        clock.now += 0.01 if step < 2000 else 0.5  # it becomes slow
        if step == 2500:
            schedule._request_stop(signal.SIGTERM, None)
        two.global_step = step
        if schedule.should_save(two) and step % 7:
            due.append(step)
    assert due[0] - 2500 <= 2
    fast = [at for at in asked if at < 120]
    assert 15 <= len(fast) <= 30, "twenty seconds of fast steps"
    assert max(later - earlier for earlier, later in itertools.pairwise(fast)) < 1.2


def test_one_device_asks_nobody(clock: SimpleNamespace) -> None:
    alone = SimpleNamespace(global_step=1, world_size=1)  # and no strategy
    assert not SaveSchedule(None, None).should_save(alone)  # type: ignore[arg-type]


def test_a_job_that_slurm_would_requeue_is_saved_first(
    clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint.stopping, "requeues_on_sigusr1", lambda: True)
    requeued: list[int] = []
    with (
        signal_handlers(signal.SIG_IGN),
        signal_handlers(lambda n, _: requeued.append(n), [signal.SIGUSR1]),
    ):
        schedule = SaveSchedule(None, None)
        schedule.catch_signals()
        signal.raise_signal(signal.SIGUSR1)
        assert requeued == []
        assert schedule.should_save(trainer())
        with pytest.raises(SystemExit) as ended:
            schedule.stop_if_requested(trainer())
    assert (ended.value.code, requeued) == (143, [signal.SIGUSR1])
