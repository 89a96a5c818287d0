"""Predictions of anybody's networks, in every format, alone and beside runs."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.metrics import accuracy_score, f1_score

from tests.run_folders import draw_labels, draw_logits
from triptych.tools.compare.guests import read_guests

LABELS = draw_labels(120)
NAMES = ["bird", "cat", "dog", "fish"]
LOGITS = {seed: draw_logits(LABELS, 2.0, seed, 4) for seed in range(4)}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with the true classes beside `answers`."""
    (tmp_path / "answers").mkdir()
    np.save(tmp_path / "labels.npy", LABELS)
    return tmp_path


def read_one(root: Path, name: str, labels: str = "labels.npy") -> tuple[Any, list[str]]:
    guests, problems = read_guests(str(root / "answers" / name), str(root / labels), [])
    assert len(guests) == 1, problems
    return guests[0], [problem.what for problem in problems]


def write_csv(path: Path, head: str, *columns: Any, order: Any = slice(None)) -> None:
    rows = [",".join(map(str, row)) for row in zip(*columns, strict=True)]
    path.write_text("\n".join([head, *np.array(rows)[order]]))


def write_classes(folder: Path, seed: int = 0) -> dict[str, np.ndarray]:
    """The same classes in every format; the one a name was made of."""
    classes = LOGITS[seed].argmax(axis=1)
    (folder / "a.json").write_text(json.dumps(classes.tolist()))
    (folder / "b.json").write_text(json.dumps([NAMES[each] for each in classes]))
    np.save(folder / "c.npy", classes.astype(np.uint8))
    np.savez(folder / "d.npz", anything=classes.astype(np.float32))
    np.savez(folder / "e.npz", y_pred=classes, y_true=LABELS, note=np.zeros(3))
    shuffled = np.random.default_rng(0).permutation(len(classes))
    write_csv(folder / "f.csv", "id,label", range(120), classes, order=shuffled)
    write_csv(folder / "g.csv", "index;prediction", range(120), classes)
    (folder / "g.csv").write_text((folder / "g.csv").read_text().replace(",", ";"))
    (folder / "h.csv").write_text("\n".join(map(str, classes)))
    return {path.stem: classes for path in folder.iterdir()}


def test_every_format_of_classes_gives_the_same_network(root: Path) -> None:
    expected = write_classes(root / "answers")
    write_csv(root / "labels.csv", "id,label", range(120), [NAMES[each] for each in LABELS])
    guests, problems = read_guests(str(root / "answers"), str(root / "labels.csv"), [])
    assert problems == []
    assert [guest.label for guest in guests] == sorted(expected) == list("abcdefgh")
    for guest in guests:
        assert guest.test.classes.tolist() == expected[guest.label].tolist()
        assert (guest.gave, guest.has_probabilities) == ("classes", False)
        classes = expected[guest.label]
        assert guest.accuracy.value == accuracy_score(LABELS, classes)
        assert guest.scores.macro.f1 == pytest.approx(f1_score(LABELS, classes, average="macro"))
        assert np.isnan([guest.scores.nll, guest.scores.brier, guest.ece]).all()
        assert guest.scores.top_k == {1: guest.accuracy.value}
        content = guest.folder.read_bytes()
        assert guest.digest == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("kind", ["logits", "probs", "scores"])
def test_logits_and_probabilities_give_every_score_of_the_run_that_has_them(
    root: Path, kind: str
) -> None:
    values = LOGITS[1] if kind == "logits" else softmax(LOGITS[1].astype(float), axis=1)
    np.savez_compressed(root / "answers" / "net_seed1.npz", **{kind: values})
    guest, notes = read_one(root, "net_seed1.npz")
    assert notes == []
    assert guest.gave == ("logits" if kind == "logits" else "probabilities")
    rows = np.arange(120)
    nll = -np.log(softmax(LOGITS[1].astype(float), axis=1)[rows, LABELS]).mean()
    assert guest.scores.nll == pytest.approx(nll, rel=1e-6)
    assert guest.scores.top_k[3] > guest.accuracy.value
    assert (guest.metadata["model"], guest.metadata["seed"]) == ("net", 1)


def test_columns_of_a_csv_are_classes_by_their_names_in_any_order(root: Path) -> None:
    shares = softmax(LOGITS[2].astype(float), axis=1)
    order = [2, 0, 3, 1]
    head = ",".join(["id", *(NAMES[n] for n in order)])
    write_csv(root / "answers" / "x.csv", head, range(120), *shares[:, order].T)
    write_csv(root / "labels.csv", "id,label", range(120), [NAMES[each] for each in LABELS])
    guest, notes = read_one(root, "x.csv", "labels.csv")
    assert notes == []
    assert guest.metadata["classes"] == NAMES
    np.testing.assert_allclose(guest.test.probabilities, shares, rtol=1e-9)
