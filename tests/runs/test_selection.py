"""How often validation images chose a network."""

from typing import Any

import pytest

from triptych.runs.selection import count_candidates

STOPPING = {"_target_": "lightning.pytorch.callbacks.EarlyStopping"}
AVERAGE = {"_target_": "lightning.pytorch.callbacks.EMAWeightAveraging"}
SOUP = {"_target_": "triptych.callbacks.epoch_averages.Soup"}
TUNED = {"tuned": {"num_trials": 20}}


def configure(score: str = "best", *callbacks: Any, **settings: Any) -> dict[str, Any]:
    trainer = {"max_epochs": 40, "callbacks": [*callbacks]}
    return {"checkpoint": {"score": score}, "trainer": trainer, **settings}


@pytest.mark.parametrize(
    ("config", "number"),
    [
        (configure("last"), 1),
        (configure("best"), 12),
        (configure("last", **TUNED), 20),
        (configure("best", **TUNED), 240),
        (configure("last", AVERAGE), 1),
        (configure("last", STOPPING), 40),  # it might have stopped at any of them
        (configure("best", STOPPING), 40),
        (configure("last", SOUP), None),  # of any of the epochs together
        (configure("best", {"_target_": "mine.Callback"}), None),
        ({"trainer": {"val_check_interval": 0.25}}, None),
        ({}, 12),  # the best epoch is the default
    ],
)
def test_epochs_and_trials_are_counted_where_they_were_chosen_among(
    config: dict[str, Any], number: int | None
) -> None:
    assert count_candidates(config, 12) == number


def test_what_is_not_recorded_is_not_known() -> None:
    assert count_candidates(configure("best"), None) is None
    assert count_candidates(configure("last"), None) == 1
    assert count_candidates(configure("last", tuned={"num_trials": "many"}), 12) is None
