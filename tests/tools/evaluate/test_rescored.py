"""How far scores are from what was logged, and in which words."""

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from triptych.errors import UserError
from triptych.runs.predictions import Predictions
from triptych.tools.evaluate import rescore
from triptych.tools.evaluate.rescore import Rescored, build_scorer, logged_metrics

NOW = {"loss": 0.5, "accuracy": 0.9, "f1": 0.8, "precision": 0.8, "recall": 0.8}


def a_score(logged: dict[str, Any], **now: float) -> Rescored:
    predicted = Predictions(np.eye(2), np.array([0, 1]), np.arange(2))
    metrics = {f"test/{name}": value for name, value in (NOW | now).items()}
    return Rescored(metrics, logged_metrics(logged, "test"), predicted, "cpu", "32-true", 1)


def words(found: Rescored, **metadata: Any) -> str:
    return found.verdict({"model": "net", "seed": 0} | metadata)


def test_a_count_of_classes_is_no_difference_between_metrics() -> None:
    found = a_score({"test/accuracy": 0.8, "test/undefined_classes": 7}, undefined_classes=2)
    assert found.differences == {"test/accuracy": pytest.approx(0.1)}
    said = words(found, device="cpu", precision=None, num_threads=2)
    assert said.endswith(
        "test/accuracy off by 0.1 from what was logged (cpu, 2 threads); "
        "here cpu, 32-true, 1 thread"
    )


def test_what_is_not_known_of_training_is_not_called_none() -> None:
    assert "logged (device not known); here" in words(a_score({"test/accuracy": 0.8}))


def test_nan_is_said_plainly_and_before_all_else() -> None:
    found = a_score({"test/accuracy": 0.1, "test/loss": 0.5}, loss=math.nan)
    assert words(found).endswith("test/loss is NaN here, logged was 0.5")
    assert math.isnan(found.metadata["largest_difference"])


def test_what_no_run_measures_counts_as_not_logged() -> None:
    logged = {"test/loss": math.nan, "test/f1": 10**400, "test/recall": None, "val/loss": 1.0}
    assert words(a_score(logged)).endswith("nothing was logged")


def test_a_precision_that_needs_another_library_is_refused_by_its_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def lacking(*_: Any) -> None:
        raise ModuleNotFoundError("No module named 'transformer_engine'")

    monkeypatch.setattr(rescore, "build_trainer", lacking)
    metadata = {"device": "cpu", "precision": "transformer-engine"}
    run: Any = SimpleNamespace(
        record=SimpleNamespace(metadata=metadata, folder="logs/run"), config={"trainer": {}}
    )
    with pytest.raises(UserError, match="logs/run: its precision transformer-engine needs what is"):
        build_scorer(run, torch.device("cpu"))
