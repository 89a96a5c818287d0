"""Predictions of anybody's networks, in every format, alone and beside runs."""

import csv
import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.metrics import accuracy_score, f1_score

from tests.composing import composed
from tests.run_folders import (
    change_predictions,
    change_record,
    draw_labels,
    draw_logits,
    write_run,
)
from triptych.errors import UserError
from triptych.tools.compare.command import build_comparison, compare, read_networks
from triptych.tools.compare.content import Comparison
from triptych.tools.compare.guests import name_file, read_guests
from triptych.tools.compare.settings import expand_arguments
from triptych.tools.report.page import render_page

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


@pytest.mark.parametrize("prefix", ["", "prob_"])
def test_columns_of_a_csv_are_classes_by_their_names_in_any_order(root: Path, prefix: str) -> None:
    shares = softmax(LOGITS[2].astype(float), axis=1)
    order = [2, 0, 3, 1]
    head = ",".join(["id", *(f"{prefix}{NAMES[n]}" for n in order)])
    write_csv(root / "answers" / "x.csv", head, range(120), *shares[:, order].T)
    write_csv(root / "labels.csv", "id,label", range(120), [NAMES[each] for each in LABELS])
    guest, notes = read_one(root, "x.csv", "labels.csv")
    assert notes == []
    assert guest.metadata["classes"] == NAMES
    np.testing.assert_allclose(guest.test.probabilities, shares, rtol=1e-9)


def test_names_and_seeds_come_from_the_names_of_files_and_folders(root: Path) -> None:
    for path, *expected in [
        ("resnet50_seed3.npz", "resnet50", 3),
        ("resnet50-seed3.json", "resnet50", 3),
        ("ResNet 50 Seed=12 best.npy", "ResNet 50 best", 12),
        ("vgg/seed4.csv", "vgg", 4),
        ("wrn_28_10.json", "wrn_28_10", None),
        ("seedling.json", "seedling", None),
    ]:
        assert [*name_file(Path(path))[1:]] == expected


def test_a_table_names_files_that_lie_beside_it(root: Path) -> None:
    for seed in range(3):
        np.save(root / "answers" / f"{seed}.npy", LOGITS[seed])
    lines = ["file;name;seed", *(f"answers/{seed}.npy;net, wide;{seed}" for seed in range(3))]
    (root / "table.csv").write_text("\n".join([*lines, "answers/9.npy;gone;"]))
    guests, problems = read_guests(str(root / "table.csv"), str(root / "labels.npy"), [])
    names = [(guest.metadata["model"], guest.metadata["seed"]) for guest in guests]
    assert names == [("net, wide", seed) for seed in range(3)]
    assert [problem.what for problem in problems] == ["cannot be read (no such file)"]
    (root / "comparison").mkdir()  # of an earlier comparison, and of no network
    for name in ("comparison.md", "comparison.csv", "verdict.json"):
        (root / "comparison" / name).write_text("{}")
    assert len(read_guests(str(root), str(root / "labels.npy"), [])[0]) == len(names)
    write_run(root / "logs")
    with pytest.raises(UserError, match="holds runs"):
        read_guests(str(root), str(root / "labels.npy"), [])
    (root / "table.csv").write_text("file,seed\nanswers/0.npy,many")
    with pytest.raises(UserError, match=r"row 2 .*many"):
        read_guests(str(root / "table.csv"), str(root / "labels.npy"), [])


def shares() -> np.ndarray:
    return softmax(LOGITS[0].astype(float), axis=1)


BROKEN: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "length": ("a.json", lambda p: p.write_text("[0, 1, 2]"), "3 answers for 120"),
    "class": ("a.json", lambda p: p.write_text(str([*range(120)])), "class 119; there are 4"),
    "negative": ("a.npy", lambda p: np.save(p, LABELS - 1), "image .* has -1"),
    "fraction": ("a.npy", lambda p: np.save(p, LABELS + 0.5), "no class"),
    "NaN": ("a.npy", lambda p: np.save(p, LOGITS[0] * np.nan), "image 0 .* not finite"),
    "pickle": ("a.npy", lambda p: np.save(p, np.array([{}])), "pickled"),
    "a pickle's bytes": ("a.npy", lambda p: p.write_bytes(b"\x80\x04."), "cannot be read"),
    "nothing": ("a.npz", lambda p: p.write_bytes(b""), "cannot be read"),
    "no answer": ("a.json", lambda p: p.write_text("[]"), "empty"),
    "objects": ("a.json", lambda p: p.write_text('[{"id": 1}]'), "list of classes"),
    "a mapping": ("a.json", lambda p: p.write_text('{"a": 1}'), "list of classes"),
    "mixed": ("a.json", lambda p: p.write_text('["cat", 1]'), "mixes"),
    "nested": ("a.json", lambda p: p.write_text("[" * 99_999), "cannot be read"),
    "a long name": ("a.json", lambda p: p.write_text(json.dumps(["x" * 2000])), "2000|1000"),
    "cut short": ("a.json", lambda p: p.write_text("[1,"), "cannot be read"),
    "counts": ("a.npy", lambda p: np.save(p, np.full((120, 4), 9)), "whole numbers"),
    "columns": ("a.npy", lambda p: np.save(p, np.hstack([LOGITS[0]] * 2)), "8 columns for 4"),
    "a cube": ("a.npy", lambda p: np.save(p, np.zeros((2, 2, 2))), r"\(2, 2, 2\)"),
    "compressed": (
        *("a.npz", lambda p: np.savez_compressed(p, logits=np.zeros((120, 30_000)))),
        "larger than is read compressed",
    ),
    "names": ("a.npz", lambda p: np.savez(p, a=LABELS, b=LABELS), "holds a, b"),
    "other labels": (
        *("a.npz", lambda p: np.savez(p, preds=LABELS, labels=np.roll(LABELS, 1))),
        "labels of .* images differ",
    ),
    "ids": ("a.csv", lambda p: write_csv(p, "id,label", range(1, 121), LABELS), "lacks 1 .*: 0"),
    "other ids": (
        *("a.csv", lambda p: write_csv(p, "id,label", [f"{n}.png" for n in range(120)], LABELS)),
        r"lacks 120 .*: 0, .*own are 0\.png",
    ),
    "ids twice": ("a.csv", lambda p: write_csv(p, "id,label", [1] * 120, LABELS), "id 1 120 times"),
    "no head": ("a.csv", lambda p: write_csv(p, "5,1", LABELS, LABELS), "name the columns"),
    "ragged": ("a.csv", lambda p: p.write_text("id,label\n1,2,3"), "row 2 has 3 cells"),
    "a gap": ("a.csv", lambda p: p.write_text("id,label\n1,\n2,x"), "image 0 has no answer"),
    "Latin 1": ("a.csv", lambda p: p.write_bytes(b"id,label\n1,caf\xe9"), "cannot be read"),
    "a word": ("a.json", lambda p: p.write_text(json.dumps(["cat"] * 120)), "names of classes"),
}


@pytest.mark.parametrize(("name", "write", "reason"), BROKEN.values(), ids=BROKEN)
def test_a_broken_file_among_others_is_named_in_a_line(
    root: Path, name: str, write: Callable[[Path], Any], reason: str
) -> None:
    np.save(root / "answers" / "good.npy", LOGITS[0])
    write(root / "answers" / name)
    guests, [problem] = read_guests(str(root / "answers"), str(root / "labels.npy"), [])
    assert [guest.label for guest in guests] == ["good"]
    assert problem.folder == str(root / "answers" / name)
    assert "\n" not in problem.what
    assert len(problem.what) < 300
    assert re.search(reason, problem.what)


@pytest.mark.parametrize(
    ("write", "gave", "reason"),
    [
        (lambda p: np.savez(p, probs=shares() * 1.03), "probabilities", "sum to 1.03"),
        (lambda p: np.savez(p, probs=shares() * 100), "classes", "sum to 100"),
        (lambda p: np.savez(p, probs=LOGITS[0]), "logits", "negative"),
        (lambda p: np.savez(p, logits=shares()), "probabilities", "its logits are probabilities"),
        (lambda p: np.savez(p, probs=np.eye(4)[1 - LABELS % 2]), "probabilities", "infinite"),
        (lambda p: np.savez(p, y_pred=np.roll(LABELS, 31)), "classes", "any order"),
        (
            lambda p: np.savez(p, pred=[*LABELS, 0, 0], ids=np.arange(122)),
            *("classes", "2 of its 122 ids"),
        ),
    ],
)
def test_what_is_doubtful_goes_on_and_is_said(
    root: Path, write: Callable[[Path], Any], gave: str, reason: str
) -> None:
    write(root / "answers" / "a.npz")
    guest, notes = read_one(root, "a.npz")
    assert guest.gave == gave
    assert any(reason in note for note in notes), notes
    assert 0 <= guest.accuracy.value <= 1


def test_the_same_name_and_seed_twice_and_one_network_under_two_names_are_named(
    root: Path,
) -> None:
    for name in ("net_seed1.npy", "net-seed1.npy", "other.npy"):
        np.save(root / "answers" / name, LOGITS[0])
    comparison = compare_files(root)
    [problem] = comparison.problems
    assert "same name and seed" in problem.what
    alike = [line for line in comparison.cautions if "the same class" in line]
    assert len(alike) == 1
    assert "net seed 1 and other" in alike[0]


def config_of(root: Path, **settings: Any) -> dict[str, Any]:
    usual = {"predictions": str(root / "answers"), "labels": str(root / "labels.npy")}
    return composed("compare", **(usual | {"runs": None, "out": str(root / "out")} | settings))


def compare_files(root: Path, **settings: Any) -> Comparison:
    networks, problems, _ = read_networks(config_of(root, **settings))
    return build_comparison(networks, problems)


def test_seeds_of_a_name_are_one_recipe_that_is_tested_as_runs_are(root: Path) -> None:
    """Against the same predictions in run folders."""
    for model, skill in {"alexnet": 1.0, "resnet50": 2.5}.items():
        for seed in range(3):
            run = write_run(root / "logs", model, seed, skill=skill)
            path = root / "answers" / f"{model}_seed{seed}.npz"
            path.write_bytes((run / "predictions" / "test.npz").read_bytes())
    by_runs = compare_files(root, runs=str(root / "logs"), predictions=None, labels=None)
    by_files = compare_files(root, labels=None)  # the files have labels
    for pairs in ("recipe_pairs", "network_pairs"):
        ours, its = getattr(by_files, pairs).pairs, getattr(by_runs, pairs).pairs
        assert [each.difference for each in ours] == [each.difference for each in its]
        assert [each.p for each in ours] == [each.p for each in its]
    assert [n.scores.nll for n in by_files.networks] == [n.scores.nll for n in by_runs.networks]
    assert [n.digest for n in by_files.networks] == [n.digest for n in by_runs.networks]


def test_guests_stand_beside_runs_of_the_same_images(root: Path) -> None:
    """By their ids, and by the run's names of classes; nothing unknown is said to differ."""
    runs = [write_run(root / "logs", name, num_images=120) for name in ("alexnet", "vgg11")]
    names = [f"class {each}" for each in LOGITS[2].argmax(axis=1)]
    order = np.random.default_rng(1).permutation(120)
    write_csv(root / "answers" / "guest.csv", "id,prediction", range(120), names, order=order)
    comparison = compare_files(root, runs=str(root / "logs"), labels=None)
    assert (comparison.banner, comparison.problems) == (None, ())
    assert {recipe.label for recipe in comparison.recipes} == {"alexnet", "guest", "vgg11"}
    assert len(comparison.network_pairs.pairs) == 3
    assert comparison.differing == {}
    right = float((LOGITS[2].argmax(axis=1) == LABELS).mean())
    [guest] = [recipe for recipe in comparison.recipes if recipe.label == "guest"]
    assert guest.accuracy.value == right
    page = render_page(comparison)
    assert all(text in page for text in ("Learning curves", "Accuracy against cost", "guest.csv"))
    change_predictions(runs[0], labels=np.roll(LABELS, 1))
    np.save(root / "labels.npy", np.roll(LABELS, 2))
    with pytest.raises(UserError, match=r"cannot be compared.*labels\.npy"):
        compare(config_of(root, runs=str(root / "logs")))


def test_runs_on_some_of_the_images_are_compared_on_these(root: Path) -> None:
    run = write_run(root / "logs", "vgg11", num_images=60)
    places = np.arange(0, 120, 2)
    change_predictions(run, index=places, labels=LABELS[places], logits=LOGITS[3][places])
    accuracy = float((LOGITS[3][places].argmax(axis=1) == LABELS[places]).mean())
    change_record(run, metrics={"test/accuracy": accuracy})
    np.save(root / "answers" / "guest.npy", LOGITS[3])
    comparison = compare_files(root, runs=str(root / "logs"))
    guest, vgg11 = comparison.networks
    assert (guest.num_test, guest.accuracy) == (60, vgg11.accuracy)
    assert guest.metadata["classes"] == ["class 0", "class 1", "class 2", "class 3"]


def test_a_page_of_guests_leaves_out_what_cannot_be_known(root: Path) -> None:
    evil = "<script>alert(1)<x>" + "y" * 80
    np.save(root / "answers" / f"{evil}_seed0.npy", LABELS)
    np.save(root / "answers" / "b.npy", LOGITS[0].argmax(axis=1))
    path = compare(config_of(root))
    page, text = (path.with_name(name).read_text() for name in ("index.html", "comparison.md"))
    for word in ("learning curves", "accuracy and cost", 'id="calibration"', "grad-cam", "commit"):
        assert word not in (page + text).lower()
    assert "The reference study" not in page
    assert "<script>alert" not in page + text
    [row, _] = csv.DictReader(path.with_name("comparison.csv").read_text().splitlines())
    assert (row["nll"], row["ece"], row["num_params"], row["num_test"]) == ("", "", "", "120")


def test_labels_may_be_a_data_set_on_disk_or_a_run(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "data").mkdir()
    source = "_target_: triptych.data.shapes.Shapes\n  num_train: 20\n  num_test: 50\n  seed: 0"
    (root / "data" / "shapes.yaml").write_text(f"source:\n  {source}")
    monkeypatch.setattr("triptych.tools.compare.guests.CONFIGS", root)
    np.save(root / "answers" / "a.npy", np.arange(50) % 10)
    [guest], _ = read_guests(str(root / "answers"), "shapes", [])
    assert (guest.accuracy.value, guest.metadata["data"]) == (1.0, "shapes")
    assert len(guest.metadata["classes"]) == 10
    np.save(root / "answers" / "a.npy", LABELS)
    run = write_run(root / "logs", num_images=120)
    [guest], _ = read_guests(str(root / "answers"), str(run), [])
    assert (guest.accuracy.value, guest.metadata["data"]) == (1.0, "shapes")


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"predictions": "nowhere"}, "predictions=nowhere: no such file"),
        ({"labels": "cifar"}, "labels=cifar: .*cifar10"),
        ({"predictions": None}, "runs=null"),
        ({"predictions": None, "runs": "logs"}, "labels=.*of predictions="),
    ],
)
def test_what_is_not_there_is_refused_before_anything_is_read(
    root: Path, settings: dict[str, Any], reason: str
) -> None:
    with pytest.raises(UserError, match=reason):
        config_of(root, **settings)


def test_unusable_files_alone_and_unknown_labels_end_with_a_line(root: Path) -> None:
    with pytest.raises(UserError, match="no file there ends with"):
        compare(config_of(root))
    (root / "answers" / "a.json").write_text("{}")
    with pytest.raises(UserError, match=r"none can be shown\n.*a\.json"):
        compare(config_of(root))
    np.save(root / "answers" / "b.npy", LABELS)
    with pytest.raises(UserError, match="labels=null: must be given"):
        compare(config_of(root, labels=None))
    with pytest.raises(UserError, match="labels=folder: may be any images"):
        compare(config_of(root, labels="folder"))


def test_predictions_stand_beside_runs_only_where_these_are_typed() -> None:
    assert expand_arguments(["predictions=a"]) == ["predictions=a", "runs=null"]
    for typed in (["predictions=a", "runs=b"], ["out=c"]):
        assert expand_arguments(typed) == typed


def test_a_column_of_groups_beside_the_labels_counts_for_every_network(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / "runs", seed=seed, num_images=120) for seed in range(3)]
    labels = draw_labels(120)
    groups = [f"object {n // 4}" for n in range(120)]
    write_csv(tmp_path / "labels.csv", "id,label,group", range(120), labels, groups)
    (tmp_path / "answers").mkdir()
    np.save(tmp_path / "answers" / "other.npy", np.roll(labels, 1))
    settings = {"predictions": str(tmp_path / "answers"), "labels": str(tmp_path / "labels.csv")}
    networks, _, _ = read_networks(config_of(tmp_path, runs=str(tmp_path / "runs"), **settings))
    assert [network.num_groups for network in networks] == [30] * (len(runs) + 1)
    assert np.array_equal(networks[0].test.groups, np.unique(groups, return_inverse=True)[1])
