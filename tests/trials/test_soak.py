"""The short form of `make soak`."""

from pathlib import Path

import pytest

from tests.trials.soak import FAILING, Plan, soak


@pytest.mark.slow
def test_a_sweep_that_is_killed_and_started_again_loses_nothing_and_does_nothing_twice(
    tmp_path: Path,
) -> None:
    # At once: when its tiny jobs are done, there is nothing left to kill.
    plan = Plan(num_seeds=1, rates=("0.001", FAILING), num_kills=1, peace_seconds=0.0)
    tally = soak(tmp_path, plan, seed=5)
    assert tally.startswith("2 jobs: 1 finished, 1 failed")
    assert "\n1 kills: " in tally
