"""Sets of classes and rejection: the rates that they promise, and what too few images leave."""

import math

import numpy as np
import pytest

from triptych.tools.statistics.abstention import METHODS, ClassSets, Method, Rejection
from triptych.tools.statistics.conformal import Array

RANDOM = np.random.default_rng(0)


def draw(num_images: int) -> tuple[Array, np.ndarray]:
    """Probabilities (N, 4) of a network that knows the fourth class least, and labels."""
    labels = RANDOM.integers(0, 4, num_images)
    strength = np.array([4.0, 3.0, 2.0, 1.0])[labels]
    logits = RANDOM.normal(size=(num_images, 4))
    logits[np.arange(num_images), labels] += strength
    p = np.exp(logits)
    return p / p.sum(axis=1, keepdims=True), labels


@pytest.mark.parametrize("method", METHODS)
def test_sets_hold_the_true_class_at_the_rate_asked_for(method: Method) -> None:
    (val, val_labels), (new, labels) = draw(4000), draw(4000)
    u = {"u": RANDOM.random(4000)} if method == "raps" else {}
    sets = ClassSets.calibrate(val, val_labels, 0.9, method, **u)
    is_in = sets.select(new, **u)[np.arange(4000), labels]
    assert is_in.mean() == pytest.approx(0.9, abs=0.02)
    worst = min(is_in[labels == c].mean() for c in range(4))
    assert worst > 0.87 if method == "classwise" else worst < 0.87


def test_a_class_of_too_few_images_is_in_every_set_of_class_wise_thresholds() -> None:
    val, labels = draw(400)
    labels[labels == 3] = 0
    labels[:8] = 3  # 9 are needed for 90 %
    sets = ClassSets.calibrate(val, labels, 0.9, "classwise")
    assert sets.thresholds[3] == math.inf
    assert sets.num_by_class[3] == 8
    assert sets.select(draw(50)[0])[:, 3].all()


def test_a_rejection_keeps_the_share_asked_for() -> None:
    rejection = Rejection.calibrate(draw(4000)[0], 0.8)
    assert rejection.accept(draw(4000)[0]).mean() == pytest.approx(0.8, abs=0.02)


def test_the_image_at_the_threshold_is_answered() -> None:
    val = draw(99)[0]
    assert Rejection.calibrate(val, 0.9).accept(val).sum() == 90


def test_too_few_images_reject_nothing() -> None:
    rejection = Rejection.calibrate(draw(3)[0], 0.9)
    assert rejection.accept(np.full((1, 4), 0.25)).all()
