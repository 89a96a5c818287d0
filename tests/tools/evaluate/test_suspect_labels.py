"""Labels that networks doubt."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.run_folders import change_record, write_run
from triptych.errors import UserError
from triptych.tools.compare.suspects import read_list
from triptych.tools.evaluate.suspect_labels import find_suspect_labels, report_suspect_labels


def find_by_definition(p: np.ndarray, labels: np.ndarray) -> dict[int, int]:
    """Confident learning in plain loops."""
    num_classes = p.shape[1]
    of_class = {c: [p[n, c] for n in range(len(p)) if labels[n] == c] for c in range(num_classes)}
    means = {c: sum(values) / len(values) for c, values in of_class.items() if values}
    found = {}
    for n, label in enumerate(labels):
        sure = [c for c in means if p[n, c] >= means[c]]
        if sure and (guess := max(sure, key=lambda c: p[n, c])) != label:
            found[n] = guess
    return found


@pytest.mark.parametrize("key", range(5))
def test_labels_are_doubted_where_another_class_is_confident(key: int) -> None:
    random = np.random.default_rng(key)
    p = random.dirichlet(np.ones(5), 80)
    labels = random.integers(4, size=80)  # of the last class there is no image
    rows, guesses = find_suspect_labels(p, labels)
    assert dict(zip(rows.tolist(), guesses.tolist(), strict=True)) == find_by_definition(p, labels)
    assert (np.diff(p[rows, labels[rows]]) >= 0).all()


def test_wrong_labels_are_doubted_first_and_right_ones_are_not() -> None:
    labels = np.arange(100) % 4
    p = np.full((100, 4), 0.02)
    p[np.arange(100), labels] = 0.94
    given = labels.copy()
    given[[5, 8]] = 3, 1
    rows, guesses = find_suspect_labels(p, given)
    assert (rows.tolist(), guesses.tolist()) == ([5, 8], [1, 0])


def test_a_list_names_the_runs_it_was_made_by(tmp_path: Path) -> None:
    folders = [write_run(tmp_path, "googlenet", seed, skill=1.0) for seed in (0, 1)]
    report_suspect_labels(folders)
    path = tmp_path / "shapes" / "googlenet" / "suspect_labels.csv"
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    record = json.loads((folders[0] / "run.json").read_text())
    assert rows
    assert {row["kind"] for row in rows} == {"label"}
    assert all(row["label"] != row["suggested"] for row in rows)
    listed = read_list(path)
    assert record["group_hash"] in listed.made_by
    assert len(listed.made_by) == 3  # a recipe, and the predictions of two seeds
    assert listed.test_hashes == {record["test_hash"]}
    assert "googlenet" in listed.source


def test_runs_of_other_test_images_cannot_doubt_together(tmp_path: Path) -> None:
    one, other = write_run(tmp_path / "a"), write_run(tmp_path / "b", "alexnet")
    change_record(other, test_hash="f" * 16)
    with pytest.raises(UserError, match="test_hash"):
        report_suspect_labels([one, other])


def test_doubted_images_that_the_run_kept_are_shown(tmp_path: Path) -> None:
    folder = write_run(tmp_path, skill=1.0)
    images = np.random.default_rng(0).integers(255, size=(200, 3, 8, 8), dtype=np.uint8)
    kept = folder / "predictions" / "test_images.npz"
    np.savez(kept, index=np.arange(200), images=images)
    report_suspect_labels([folder])
    assert (folder / "figures" / "suspect_labels.png").stat().st_size > 1000
    shutil.rmtree(folder / "figures")
    kept.unlink()
    report_suspect_labels([folder])
    assert not (folder / "figures").exists()
