"""How far scores are from what was logged, and on which device a run is scored."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from triptych.errors import UserError
from triptych.runs.predictions import Predictions
from triptych.tools.evaluate.rescore import Rescored, find_device, read_logged, use_threads

NOW = {"loss": 0.5, "accuracy": 0.9, "f1": 0.8, "precision": 0.8, "recall": 0.8}


def rescored(logged: dict[str, Any], **now: float) -> Rescored:
    predictions = Predictions(np.eye(2), np.array([0, 1]), np.arange(2))
    metrics = {f"test/{name}": value for name, value in (NOW | now).items()}
    return Rescored(metrics, read_logged(logged, "test"), predictions, "cpu", "32-true", 1)


def summary(result: Rescored, **metadata: Any) -> str:
    return result.summarize({"model": "net", "seed": 0} | metadata)


def test_a_count_of_classes_is_no_difference_between_metrics() -> None:
    result = rescored({"test/accuracy": 0.8, "test/undefined_classes": 7}, undefined_classes=2)
    assert result.metadata["largest_difference"] == pytest.approx(0.1)
    text = summary(result, device="cpu", precision=None, num_threads=2)
    assert "test/accuracy by 0.1 (trained on cpu, 2 threads; here cpu, 32-true, 1 thread)" in text
    assert "(trained on device not known;" in summary(result)


def test_nan_counts_as_the_largest_difference() -> None:
    result = rescored({"test/accuracy": 0.1, "test/loss": 0.5}, loss=math.nan)
    assert "test/loss by nan" in summary(result)
    assert math.isnan(result.metadata["largest_difference"])


def test_what_no_run_measures_counts_as_not_logged() -> None:
    logged = {"test/loss": math.nan, "test/f1": 10**400, "test/recall": None, "val/loss": 1.0}
    assert summary(rescored(logged)).endswith("nothing was logged")
    assert rescored(logged).metadata["largest_difference"] is None


def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="device=cuda: "):
        find_device("cuda")
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert find_device("auto") == find_device("cpu") == torch.device("cpu")


def test_a_run_is_scored_with_as_many_threads_as_in_training_where_there_are_processors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 3)
    before = torch.get_num_threads()
    for recorded, expected in ((3, 3), (4, before), (None, before)):
        with use_threads(recorded) as num_threads:
            assert num_threads == torch.get_num_threads() == expected
        assert torch.get_num_threads() == before
