import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from triptych.runs.predictions import Predictions
from triptych.tools.statistics.scores import (
    per_class,
    score_predictions,
)

NUM_CLASSES = 5
CLASSES = list(range(NUM_CLASSES))


@st.composite
def drawn_predictions(draw: st.DrawFn) -> Predictions:
    """Unequal counts, some classes absent, some never predicted, and ties."""
    n = draw(st.integers(1, 60))
    present = draw(st.lists(st.integers(0, NUM_CLASSES - 1), min_size=1, max_size=NUM_CLASSES))
    labels = draw(st.lists(st.sampled_from(present), min_size=n, max_size=n))
    favoured = draw(st.sets(st.integers(0, NUM_CLASSES - 1)))
    random = np.random.default_rng(draw(st.integers(0, 10_000)))
    logits = 3 * random.standard_normal((n, NUM_CLASSES)).astype(np.float32)
    logits[:, sorted(favoured)] += 5
    if draw(st.booleans()):
        logits = logits.round()
    return Predictions(logits, np.array(labels), np.arange(n))


@settings(deadline=None, max_examples=12)
@given(drawn_predictions())
def test_averages_and_classes_equal_those_of_scikit_learn(predictions: Predictions) -> None:
    labels, classes = predictions.labels, predictions.classes
    scores = score_predictions(predictions)
    assert scores.accuracy == pytest.approx(sklearn_metrics.accuracy_score(labels, classes))
    expected = sklearn_metrics.confusion_matrix(labels, classes, labels=CLASSES)
    np.testing.assert_array_equal(scores.confusion, expected)
    for name in ("f1", "precision", "recall"):
        oracle = getattr(sklearn_metrics, f"{name}_score")
        over_all = {"labels": CLASSES, "zero_division": 0}
        each = oracle(labels, classes, average=None, **over_all)
        np.testing.assert_allclose(np.nan_to_num(getattr(scores.per_class, name)), each)
        for average in ("macro", "weighted"):
            mean = oracle(labels, classes, average=average, **over_all)
            assert getattr(getattr(scores, average), name) == pytest.approx(mean)


@settings(deadline=None, max_examples=12)
@given(drawn_predictions())
def test_losses_equal_those_of_scikit_learn(predictions: Predictions) -> None:
    scores = score_predictions(predictions)
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # sums of 1 - 1e-16
        nll = sklearn_metrics.log_loss(
            predictions.labels, predictions.probabilities, labels=CLASSES
        )
        brier = sklearn_metrics.brier_score_loss(
            predictions.labels, predictions.probabilities, labels=CLASSES, scale_by_half=False
        )
    assert scores.nll == pytest.approx(nll, rel=1e-6, abs=1e-12)
    assert scores.brier == pytest.approx(brier, rel=1e-6, abs=1e-12)


@settings(deadline=None, max_examples=20)
@given(drawn_predictions())
def test_top_k_takes_the_first_of_equal_classes(predictions: Predictions) -> None:
    best_first = np.argsort(-predictions.logits, axis=1, kind="stable")
    hits = best_first == predictions.labels[:, None]
    expected = {k: hits[:, :k].any(axis=1).mean() for k in (1, 3, 5)}
    assert score_predictions(predictions).top_k == expected


def test_a_value_that_is_undefined_is_nan() -> None:
    confusion = np.array([[3, 1, 0, 0], [0, 0, 0, 0], [2, 0, 0, 0], [0, 0, 0, 0]])
    f1, precision, recall = per_class(confusion)
    np.testing.assert_allclose(f1, [2 / 3, 0, 0, np.nan])
    np.testing.assert_allclose(precision, [3 / 5, 0, np.nan, np.nan])
    np.testing.assert_allclose(recall, [3 / 4, np.nan, 0, np.nan])
