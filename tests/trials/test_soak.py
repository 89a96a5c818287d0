"""The short form of `make soak`."""

from pathlib import Path

import pytest

from tests.trials.soak import AVERAGE, Plan, soak


@pytest.mark.slow
def test_a_sweep_that_is_killed_and_started_again_loses_nothing_and_does_nothing_twice(
    tmp_path: Path,
) -> None:
    # At once: when its tiny job is done, there is nothing left to kill.
    job = {"rates": ("0.001",), "frozen": ("backbone",), "callbacks": (f"[{AVERAGE}]",)}
    plan = Plan(num_seeds=1, **job, num_kills=1, peace_seconds=0.0)
    tally = soak(tmp_path, plan, seed=5)
    assert tally.startswith("1 jobs: 1 finished, 0 failed")
    assert "\n1 kills: " in tally
