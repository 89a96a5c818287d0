import csv
import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import norm

from triptych.errors import UserError
from triptych.tools.evaluate.degradation import (
    Outcomes,
    accuracy_by_variant,
    degradation_differences,
    degradations,
    read_outcomes,
    write_outcomes,
)
from triptych.tools.statistics.intervals import wilson


def outcomes(num_images: int = 400, seed: int = 0) -> Outcomes:
    """Two types at three severities; `noise` costs more than `blur`."""
    random = np.random.default_rng(seed)
    ease = random.random(num_images)
    shares = np.array([0.8, 0.8, 0.7, 0.6, 0.7, 0.5, 0.3])
    return Outcomes(
        types=np.array(["unmodified", *["blur"] * 3, *["noise"] * 3]),
        severities=np.array([0, 1, 2, 3, 1, 2, 3]),
        index=np.arange(num_images) * 3,
        correct=ease < shares[:, None],
    )


def test_a_row_a_variant_with_accuracy_and_wilsons_interval() -> None:
    scored = outcomes()
    for row, right, type, severity in zip(
        accuracy_by_variant(scored), scored.correct, scored.types, scored.severities, strict=True
    ):
        assert row[:3] == (type, severity, 400)
        assert row[3:] == (right.mean(), *wilson(right.sum(), 400))


def test_degradation_is_accuracy_unmodified_less_the_mean_over_severities() -> None:
    scored = outcomes()
    accuracy = scored.correct.mean(axis=1)
    lost = degradations(scored)
    assert list(lost) == ["blur", "noise", "all"]
    assert lost["blur"].value == pytest.approx(accuracy[0] - accuracy[1:4].mean())
    assert lost["noise"].value == pytest.approx(accuracy[0] - accuracy[4:].mean())
    assert lost["all"].value == pytest.approx((lost["blur"].value + lost["noise"].value) / 2)


def test_the_interval_is_that_of_a_mean_of_paired_differences() -> None:
    scored = outcomes()
    for type, lost in degradations(scored).items():
        severe = scored.correct[1:] if type == "all" else scored.correct[scored.types == type]
        paired = scored.correct[0] - severe.mean(axis=0)
        half = norm.ppf(0.975) * paired.std() / 400**0.5
        assert lost.low == pytest.approx(lost.value - half, abs=0.1 * half)
        assert lost.high == pytest.approx(lost.value + half, abs=0.1 * half)


def test_a_network_beside_itself_differs_by_nothing_for_certain() -> None:
    scored = outcomes()
    for difference in degradation_differences(scored, scored).values():
        assert difference == (0, 0, 0)


def test_two_networks_are_compared_image_by_image_on_the_types_of_both() -> None:
    one = outcomes()
    other = Outcomes(
        one.types[[0, 4, 5, 6]], one.severities[[0, 4, 5, 6]], one.index, one.correct[:4]
    )
    differences = degradation_differences(one, other)
    assert list(differences) == ["noise", "all"]
    each = [degradations(scored)["noise"] for scored in (one, other)]
    assert differences["noise"].value == pytest.approx(each[0].value - each[1].value)
    assert differences["all"] == differences["noise"]
    apart = sum((lost.high - lost.low) ** 2 for lost in each) ** 0.5
    assert differences["noise"].high - differences["noise"].low < 0.9 * apart


def test_networks_tried_on_other_images_are_not_compared() -> None:
    one = outcomes()
    with pytest.raises(UserError, match="different images"):
        degradation_differences(one, one._replace(index=one.index + 1))


def test_without_types_nothing_is_lost() -> None:
    scored = outcomes()
    assert (
        degradations(Outcomes(*(part[:1] for part in scored[:2]), *scored[2:3], scored.correct[:1]))
        == {}
    )


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    scored = outcomes()
    write_outcomes(scored, tmp_path)
    for written, read in zip(scored, read_outcomes(tmp_path), strict=True):
        np.testing.assert_array_equal(written, read)
    assert sorted(path.name for path in tmp_path.rglob("*.*")) == [
        "image_types.csv",
        "image_types.npz",
    ]


def test_the_table_has_the_columns_that_readers_expect(tmp_path: Path) -> None:
    write_outcomes(outcomes(), tmp_path)
    with (tmp_path / "image_types.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert list(lines[0]) == [
        *("type", "severity", "num_images", "accuracy", "accuracy_low", "accuracy_high")
    ]
    assert [(line["type"], line["severity"]) for line in lines[:2]] == [
        ("unmodified", "0"),
        ("blur", "1"),
    ]
    assert [float(line["accuracy"]) for line in lines] == [
        row.accuracy for row in accuracy_by_variant(outcomes())
    ]


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
        {"types": np.array([{}], dtype=object)},
    ],
)
def test_arrays_that_do_not_belong_together_are_refused(
    tmp_path: Path, broken: dict[str, np.ndarray]
) -> None:
    (tmp_path / "predictions").mkdir()
    np.savez(tmp_path / "predictions" / "image_types.npz", **outcomes()._asdict() | broken)
    with pytest.raises(UserError, match="image_types") as refusal:
        read_outcomes(tmp_path)
    assert len(str(refusal.value).splitlines()) == 1


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut short", b"\x93NUMPY"])
def test_a_broken_file_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "predictions").mkdir()
    (tmp_path / "predictions" / "image_types.npz").write_bytes(content)
    with pytest.raises(UserError, match="cannot be read as arrays") as refusal:
        read_outcomes(tmp_path)
    assert len(str(refusal.value).splitlines()) == 1


def test_degradations_are_numbers_that_json_takes() -> None:
    lost = {name: each._asdict() for name, each in degradations(outcomes()).items()}
    assert json.loads(json.dumps(lost, allow_nan=False)) == lost
