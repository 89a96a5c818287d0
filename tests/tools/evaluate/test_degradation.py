import csv
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import norm

from triptych.errors import UserError
from triptych.tools.evaluate.degradation import (
    Outcomes,
    degradation_differences,
    degradations,
    read_outcomes,
    write_outcomes,
)
from triptych.tools.statistics.inference import wilson


def draw_outcomes() -> Outcomes:
    """Two types at three severities; `noise` costs more than `blur`."""
    ease = np.random.default_rng(0).random(400)
    shares = np.array([0.8, 0.8, 0.7, 0.6, 0.7, 0.5, 0.3])
    return Outcomes(
        types=np.array(["unmodified", *["blur"] * 3, *["noise"] * 3]),
        severities=np.array([0, 1, 2, 3, 1, 2, 3]),
        index=np.arange(400) * 3,
        correct=ease < shares[:, None],
    )


def test_degradation_is_accuracy_unmodified_less_the_mean_over_severities() -> None:
    outcomes = draw_outcomes()
    accuracy = outcomes.correct.mean(axis=1)
    losses = degradations(outcomes)
    assert list(losses) == ["blur", "noise", "all"]
    assert losses["blur"].value == pytest.approx(accuracy[0] - accuracy[1:4].mean())
    assert losses["noise"].value == pytest.approx(accuracy[0] - accuracy[4:].mean())
    assert losses["all"].value == pytest.approx((losses["blur"].value + losses["noise"].value) / 2)
    unmodified = Outcomes(
        outcomes.types[:1], outcomes.severities[:1], outcomes.index, outcomes.correct[:1]
    )
    assert degradations(unmodified) == {}


def test_the_interval_is_that_of_a_mean_of_paired_differences() -> None:
    outcomes = draw_outcomes()
    for name, loss in degradations(outcomes).items():
        severe = outcomes.correct[1:] if name == "all" else outcomes.correct[outcomes.types == name]
        paired = outcomes.correct[0] - severe.mean(axis=0)
        half = norm.ppf(0.975) * paired.std() / 400**0.5
        assert loss.low == pytest.approx(loss.value - half, abs=0.1 * half)
        assert loss.high == pytest.approx(loss.value + half, abs=0.1 * half)


def test_two_networks_are_compared_image_by_image_on_the_types_of_both() -> None:
    one = draw_outcomes()
    assert set(degradation_differences(one, one).values()) == {(0, 0, 0)}
    rows = [0, 4, 5, 6]
    other = Outcomes(one.types[rows], one.severities[rows], one.index, one.correct[:4])
    differences = degradation_differences(one, other)
    assert list(differences) == ["noise", "all"]
    each = [degradations(outcomes)["noise"] for outcomes in (one, other)]
    assert differences["noise"].value == pytest.approx(each[0].value - each[1].value)
    assert differences["all"] == differences["noise"]
    unpaired = sum((loss.high - loss.low) ** 2 for loss in each) ** 0.5
    assert differences["noise"].high - differences["noise"].low < 0.9 * unpaired


def test_what_is_written_is_read_again_and_the_table_has_its_columns(tmp_path: Path) -> None:
    outcomes = draw_outcomes()
    write_outcomes(outcomes, tmp_path)
    for written, read in zip(outcomes, read_outcomes(tmp_path), strict=True):
        np.testing.assert_array_equal(written, read)
    with (tmp_path / "image_types.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert list(lines[0]) == [
        *("type", "severity", "num_images", "accuracy", "accuracy_low", "accuracy_high")
    ]
    assert [line["type"] for line in lines] == outcomes.types.tolist()
    assert [int(line["severity"]) for line in lines] == outcomes.severities.tolist()
    assert [float(line["accuracy"]) for line in lines] == outcomes.correct.mean(axis=1).tolist()
    for line, right in zip(lines, outcomes.correct.sum(axis=1), strict=True):
        assert (float(line["accuracy_low"]), float(line["accuracy_high"])) == wilson(right, 400)


@pytest.mark.parametrize(
    "broken",
    [
        {"correct": np.ones((7, 399), dtype=bool)},
        {"correct": np.ones((7, 400))},
        {"correct": np.ones((7, 0), dtype=bool), "index": np.arange(0)},
        {"types": np.array(["blur"] * 7)},
        {"types": np.array(["unmodified"] * 7)},
        {"types": np.array([b"unmodified"] * 7)},
        {"severities": np.arange(6)},
        {"index": np.arange(400.0)},
        {"index": np.arange(400)[:, None]},
        {"types": np.array("unmodified")},
        {
            "types": np.array(["unmodified", *map(str, range(300))]),
            "severities": np.ones(301, dtype=np.int64),
            "correct": np.ones((301, 400), dtype=bool),
        },
        {"types": np.array([{}], dtype=object)},
    ],
)
def test_arrays_that_do_not_belong_together_are_refused(
    tmp_path: Path, broken: dict[str, np.ndarray]
) -> None:
    (tmp_path / "predictions").mkdir()
    np.savez(tmp_path / "predictions" / "image_types.npz", **draw_outcomes()._asdict() | broken)
    with pytest.raises(UserError, match="image_types") as error:
        read_outcomes(tmp_path)
    assert len(str(error.value).splitlines()) == 1
