"""The short form of `make soak`."""

import importlib.util
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("soak.py")


@pytest.mark.slow
def test_a_sweep_that_is_killed_and_started_again_loses_nothing_and_does_nothing_twice(
    tmp_path: Path,
) -> None:
    specified = importlib.util.spec_from_file_location("soak", PROGRAM)
    assert specified
    assert specified.loader
    soak = importlib.util.module_from_spec(specified)
    specified.loader.exec_module(soak)
    plan = soak.Plan(1, ("0.001", "1e30"), num_kills=1)
    tally = soak.soak(tmp_path, plan, seed=5)
    assert tally.startswith("2 jobs: 1 finished, 1 failed")
    assert "\n1 kills: 1 of the sweep" in tally
