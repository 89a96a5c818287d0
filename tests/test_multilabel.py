"""Any number of labels an image, from the table to the comparison; and a task of a fork's own."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from sklearn import metrics as sklearn
from torch import Tensor, nn

from tests.composing import composed
from tests.run_folders import change_predictions, change_record, write_run
from tests.tiny import choose, draw_nothing
from triptych import load_run
from triptych.cli import prepare
from triptych.data.folder import Folder
from triptych.data.mixing import make_mix
from triptych.data.rng import find_strata, split_stratified
from triptych.errors import UserError
from triptych.metrics import Scores
from triptych.module import ImageClassifier
from triptych.runs.multilabel import average_precision, score_labels
from triptych.runs.predictions import MultilabelPredictions, read_predictions
from triptych.tools.compare.command import compare
from triptych.tools.evaluate.command import evaluate
from triptych.tools.export.command import export
from triptych.tools.predict.command import predict_images
from triptych.tools.serve.networks import read_groups
from triptych.tools.statistics.average_precision import bootstrap_ap, estimate_ap
from triptych.tools.statistics.inference import holm
from triptych.training import train

NAMES = ("blue", "green", "red")
SMALL = (
    *("data=folder", "data.size=32", "data.batch_size=16", *choose("Learner"), "optim.lr=0.003"),
    *("++trainer.max_epochs=2", "++trainer.accelerator=cpu", "++trainer.precision=32-true"),
)


class Levels(ImageClassifier):
    """A fork's task: classes in an order, scored by how far a prediction is off."""

    task = "levels"
    summary = ("off_by",)

    @property
    def monitors(self) -> dict[str, str]:
        return {"val/off_by": "min"}

    @staticmethod
    def probabilities(logits: Tensor) -> Tensor:
        return logits.softmax(1).cumsum(1)

    def score(self, logits: Tensor, labels: Tensor) -> Scores:
        off_by = (logits.argmax(1) - labels).abs().double()
        by_class = torch.stack([off_by[labels == c].mean().nan_to_num() for c in range(3)])
        return Scores({"off_by": float(off_by.mean())}, {"off_by": by_class}, None)


def draw(n: int, seed: int = 0, skill: float = 1.0) -> MultilabelPredictions:
    """Predictions of three classes; networks of other seeds have the same labels."""
    labels = (np.random.default_rng(7).random((n, 3)) < (0.5, 0.3, 0.1)).astype(np.uint8)
    logits = np.random.default_rng(seed).normal(size=(n, 3)) + skill * labels - 0.5
    return MultilabelPredictions(logits.astype(np.float32), labels, np.arange(n))


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stripes of colour, any number of them; which, in a cell a photo or in three columns."""
    root, random = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    cells, marks = [("file", "label")], [("file", "red", "green", "blue")]
    for n in range(60):
        image = random.integers(0, 60, (32, 32, 3), np.uint8)
        shown = random.random(3) < (0.5, 0.4, 0.2)
        for c in np.flatnonzero(shown):
            image[10 * c : 10 * c + 10, :, c] += 150
        Image.fromarray(image).save(root / f"{n:02}.png")
        names = [name for name, there in zip(NAMES[::-1], shown, strict=True) if there]
        cells.append((f"{n:02}.png", " | ".join(names)))
        marks.append((f"{n:02}.png", *map(str, shown.astype(int))))
    for name, rows in (("cells.csv", cells), ("marks.csv", marks)):
        with (root / name).open("w", newline="") as file:
            csv.writer(file).writerows(rows)
    return root


def run_training(root: Path, log_dir: Path, *overrides: str) -> Path:
    typed = [*SMALL, f"data.root={root}", f"log_dir={log_dir}", *map(prepare, overrides)]
    return train(composed("train", *typed), typed).folder


@pytest.fixture(scope="module")
def folder(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        draw_nothing(patch.setattr)
        logs = tmp_path_factory.mktemp("logs")
        return run_training(photos, logs, "data.labels=cells.csv", "module=multilabel")


def scores_of(n: int) -> Any:
    few = st.lists(st.integers(-3, 3), min_size=n, max_size=n)  # many are equal
    return st.tuples(few, *2 * [st.lists(st.integers(0, 1), min_size=n, max_size=n)])


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 12).flatmap(scores_of))
def test_average_precision_is_scikit_learns_also_of_a_resample(drawn: Any) -> None:
    scores, labels, counts = (np.array(each) for each in drawn)
    [plain] = average_precision(scores.astype(float), labels > 0)
    [resampled] = average_precision(scores.astype(float), labels > 0, counts[None])
    for value, weights in ((plain, np.ones(len(labels))), (resampled, counts)):
        if (labels * weights).any():
            expected = sklearn.average_precision_score(labels, scores, sample_weight=weights)
            assert value == pytest.approx(expected)
        else:
            assert np.isnan(value)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.UndefinedMetricWarning")
def test_scores_are_scikit_learns_and_a_class_without_images_has_no_average_precision() -> None:
    predictions = draw(80)
    predictions.labels[:, 2] = 0
    values, per_class = score_labels(predictions)
    labels, predicted = predictions.labels, predictions.logits > 0
    expected = sklearn.precision_recall_fscore_support(
        labels, predicted, average="macro", zero_division=0
    )
    assert [values[n] for n in ("precision", "recall", "f1")] == pytest.approx(expected[:3])
    assert values["accuracy"] == sklearn.accuracy_score(labels, predicted)
    two = sklearn.average_precision_score(labels[:, :2], predictions.logits[:, :2])
    assert values["ap"] == pytest.approx(two)
    assert np.isnan(per_class["ap"][2])
    assert values["undefined_classes"] == 1
    loss = nn.BCEWithLogitsLoss()(*map(torch.tensor, (predictions.logits, labels * 1.0)))
    assert values["loss"] == pytest.approx(float(loss), rel=1e-6)


def test_both_kinds_of_table_give_the_same_labels(photos: Path) -> None:
    both = [Folder(str(photos), 32, labels=f"{n}.csv", separator="|") for n in ("cells", "marks")]
    sets = [source.read() for source in both]
    assert sets[0].classes == sets[1].classes == NAMES
    by_file = [dict(zip(s.files or (), s.train.labels.tolist(), strict=True)) for s in sets]
    assert by_file[0] == by_file[1]
    assert sets[0].train.labels.dtype == torch.uint8
    row = read_csv(photos / "marks.csv")[0]
    assert by_file[0][row["file"]] == [int(row[name]) for name in NAMES]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("file,a,b\n00.png,1,2\n", "line 2: b is 2"),
        ("file,a|c,b\n00.png,1,0\n", "separator"),
        ("file\n00.png\n", "no column label"),
        ("file,label\n00.png,a|b\n00.png,a\n", "line 3"),
        ("file,label,split\n00.png,a,train\n01.png,a|c,test\n", "c: the label of no training"),
    ],
)
def test_a_table_that_says_no_labels_is_refused(
    photos: Path, tmp_path: Path, text: str, said: str
) -> None:
    (tmp_path / "bad.csv").write_text(text)
    with pytest.raises(UserError, match=said.replace("|", r"\|")):
        Folder(str(photos), 32, labels=str(tmp_path / "bad.csv"), separator="|").read()


def test_a_split_gives_every_part_its_share_of_rare_labels() -> None:
    labels = torch.tensor(draw(1000).labels)
    assert torch.equal(find_strata(labels[:, 0].long()), labels[:, 0].long())
    strata = find_strata(labels)
    assert set(strata[labels[:, 2] > 0].tolist()) == {2}
    assert set(strata[labels.sum(1) == 0].tolist()) == {3}
    parts = split_stratified(labels, [200, 300, None], seed=0)
    assert torch.equal(torch.cat(parts).sort().values, torch.arange(1000))
    for part, share in zip(parts, (0.2, 0.3, 0.5), strict=True):
        assert abs(labels[part, 2].sum() - share * labels[:, 2].sum()) <= 2


def test_mixed_images_have_the_shares_of_all_their_labels() -> None:
    labels = torch.tensor([[1, 1, 0], [0, 0, 0]], dtype=torch.uint8)
    mix = make_mix("mixup", 3)
    assert mix
    images, mixed = mix(torch.tensor([1.0, 0.0]).view(2, 1, 1, 1), labels, 0, 0, 0)
    own = images[:, 0, 0, 0].tolist()
    torch.testing.assert_close(mixed, torch.tensor([[own[0], own[0], 0], [own[1], own[1], 0]]))


def test_a_run_records_scores_predictions_and_tables(folder: Path) -> None:
    run = load_run(folder)
    assert run.metadata["task"] == "multilabel"
    assert run.metadata["monitor"] == "val/ap"
    predictions = run.predictions("test")
    assert isinstance(predictions, MultilabelPredictions)
    assert predictions.labels.shape == (len(predictions.index), 3)
    values = score_labels(predictions).values
    assert {f"test/{n}": v for n, v in values.items()} == pytest.approx(
        {n: v for n, v in run.metrics.items() if n.startswith("test/")}
    )
    rows = read_csv(folder / "predictions" / "test.csv")
    assert len(rows) == len(predictions.index)
    for row, labels, shares in zip(
        rows, predictions.labels, predictions.probabilities, strict=True
    ):
        names = [name for name, there in zip(NAMES, labels, strict=True) if there]
        assert row["labels"] == "|".join(names)
        assert [float(row[f"probability of {n}"]) for n in NAMES] == pytest.approx(shares, abs=1e-6)
    assert "val/ap" in (folder / "metrics.csv").read_text().partition("\n")[0].split(",")
    rows = read_csv(folder / "metrics.csv")
    assert {row["train/accuracy"] for row in rows} == {""}, "an image may be right in part"
    with pytest.raises(UserError, match="labels must be int64"):
        read_predictions(folder / "predictions" / "test.npz")


def test_a_run_is_evaluated_predicted_and_exported_by_sigmoids(
    folder: Path, photos: Path, tmp_path: Path
) -> None:
    chosen = {"run": str(folder), "device": "cpu"}
    evaluate(composed("evaluate", "run=x", "cost=false", **chosen), [])
    document = json.loads((folder / "evaluation.json").read_text())
    assert document["largest_difference"] == 0
    assert [row["class"] for row in document["per_class"]] == [*NAMES]
    predictions = load_run(folder).predictions()
    images = {"images": [str(photos / f"{n:02}.png") for n in range(3)]}
    for name in ("out.csv", "out.jsonl"):
        out = {"out": str(tmp_path / name)}
        predict_images(composed("predict", "run=x", "images=x", **chosen, **images, **out))
    rows = read_csv(tmp_path / "out.csv")
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    for row, line in zip(rows, lines, strict=True):
        shares = {n: float(row[f"probability of {n}"]) for n in NAMES}
        assert {each["class"]: each["probability"] for each in line["probabilities"]} == shares
        labels = [name for name, share in shares.items() if share > 0.5]
        assert (row["labels"], {*line["labels"]}) == ("|".join(labels), {*labels})
    export(composed("export", f"run={folder}", "format=torch", "time_seconds=0.01"), [])
    [file] = (folder / "export").glob("*.pt2")
    files = Folder(str(photos), 32, labels="cells.csv", separator="|").read().files or ()
    image = np.array(Image.open(photos / files[predictions.index[0]])).transpose(2, 0, 1)
    [shares] = torch.export.load(file).module()(torch.tensor(image[None])).tolist()
    assert shares == pytest.approx(predictions.probabilities[0].tolist(), abs=1e-4)
    assert "sigmoid" in file.with_name("README.md").read_text()


@pytest.mark.parametrize("asked", ["tta=flip", "image_types=all", "grad_cam.images=most_confused"])
def test_what_takes_one_label_an_image_says_so_in_a_line(folder: Path, asked: str) -> None:
    with pytest.raises(UserError, match=f"{asked.partition('=')[0]}: takes one label") as error:
        evaluate(composed("evaluate", "run=x", "cost=false", asked, run=str(folder)), [])
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="of the task multilabel"):
        read_groups([folder], composed("serve", f"runs={folder}"))


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["data.labels=cells.csv", "data.separator='|'"], "module=multilabel"),
        (["data.labels=marks.csv"], "module=multilabel"),
        (["data.labels=one.csv", "module=multilabel", "data.separator=null"], "has one label"),
        (["data.labels=cells.csv", "module=multilabel", "loss=focal"], "FocalLoss"),
        (["data.labels=cells.csv", "module=multilabel", "metrics=[auroc]"], "MultilabelAUROC"),
        (["data.labels=cells.csv", "module=multilabel", "data.sampler=balanced"], "sampler"),
        (["data.labels=cells.csv", "module=multilabel", "checkpoint.monitor=val/x"], "val/ap"),
    ],
)
def test_parts_of_another_task_are_refused_before_training(
    photos: Path, tmp_path: Path, overrides: list[str], said: str
) -> None:
    rows = [f"{n:02}.png,{'ab'[n % 2]}" for n in range(60)]
    (photos / "one.csv").write_text("\n".join(["file,label", *rows]))
    with pytest.raises(UserError, match=said):
        run_training(photos, tmp_path, *overrides)


@pytest.mark.usefixtures("no_figures")
def test_a_task_of_a_forks_own_goes_all_the_way_or_is_refused_by_name(
    photos: Path, tmp_path: Path
) -> None:
    rows = [f"{n:02}.png,{n % 3}" for n in range(60)]
    (photos / "levels.csv").write_text("\n".join(["file,label", *rows]))
    task = "module._target_=tests.test_multilabel.Levels"
    typed = ["data.labels=levels.csv", task, "checkpoint.monitor=val/off_by"]
    folder = run_training(photos, tmp_path / "logs", *typed)
    run = load_run(folder)
    assert {"val/off_by", "test/off_by"} <= run.metrics.keys()
    chosen = {"run": str(folder), "device": "cpu"}
    evaluate(composed("evaluate", "run=x", "cost=false", **chosen), [])
    assert json.loads((folder / "evaluation.json").read_text())["largest_difference"] == 0
    out = tmp_path / "out.csv"
    where = {"images": str(photos / "00.png"), "out": str(out)}
    predict_images(composed("predict", "run=x", "images=x", **chosen, **where))
    [row] = read_csv(out)
    assert (row["class"], float(row["probability"])) == ("2", pytest.approx(1))  # all of them
    with pytest.raises(UserError, match="of the task levels"):
        compare(composed("compare", runs=str(folder)))


@pytest.mark.parametrize(
    "arrays",
    [
        {"labels": np.zeros((4, 3))},
        {"labels": np.full((4, 3), 2, np.uint8)},
        {"labels": np.zeros((4, 2), np.uint8)},
        {"index": np.array(4)},
        {"logits": np.zeros(4, np.float32)},
    ],
)
def test_a_file_of_other_arrays_is_refused_in_a_line(tmp_path: Path, arrays: Any) -> None:
    predictions = draw(4)
    sound = {name: getattr(predictions, name) for name in ("logits", "labels", "index")}
    np.savez(tmp_path / "test.npz", **(sound | arrays))
    with pytest.raises(UserError, match=r"test\.npz: ") as error:
        read_predictions(tmp_path / "test.npz", "multilabel")
    assert "\n" not in str(error.value)


def write_multilabel_run(root: Path, model: str, seed: int, skill: float) -> Path:
    folder = write_run(root, model, seed, num_images=300, num_classes=3)
    predictions = draw(300, seed=int(1000 * skill) + seed, skill=skill)
    arrays: dict[str, NDArray[Any]] = {"logits": predictions.logits, "labels": predictions.labels}
    for split in ("test", "val"):
        change_predictions(folder, split, **arrays)
    values = score_labels(predictions).values
    scores = {f"{split}/{n}": v for split in ("test", "val") for n, v in values.items()}
    change_record(folder, metrics=scores, task="multilabel")
    return folder


def test_recipes_and_networks_are_compared_by_mean_average_precision(tmp_path: Path) -> None:
    for seed in range(3):
        write_multilabel_run(tmp_path / "logs", "good", seed, skill=2.0)
        write_multilabel_run(tmp_path / "logs", "poor", seed, skill=0.3)
    page = compare(composed("compare", runs=str(tmp_path / "logs"), require="good better poor"))
    rows = read_csv(page.parent / "comparison.csv")
    assert [row["model"] for row in rows] == ["good"] * 3 + ["poor"] * 3
    for row in rows:
        assert 0 <= float(row["ap_low"]) < float(row["ap"]) < float(row["ap_high"]) <= 1
    text = (page.parent / "comparison.md").read_text()
    assert "good is higher in mean average precision than poor" in text
    assert "holds: good better poor" in text
    assert "good seed 0 is higher in mean average precision than poor seed 0" in text
    assert "bootstrap" in page.read_text()
    compare(composed("compare", runs=None, verify=str(page)))  # which ends with 1 where it differs
    write_run(tmp_path / "logs", "other")  # one label an image: they are not mixed
    text = compare(composed("compare", runs=str(tmp_path / "logs"))).read_text()
    assert text.count("of the task multilabel") == 12  # as words and as data


def test_a_pair_is_told_apart_just_where_its_interval_excludes_zero() -> None:
    labels = draw(200).labels
    for skill in (1.0, 1.2, 1.4, 2.0):
        a, b = draw(200, 1, skill), draw(200, 2, 1.0)
        assert np.array_equal(a.labels, labels)
        value = score_labels(a).values["ap"] - score_labels(b).values["ap"]
        draws = bootstrap_ap(a, 200) - bootstrap_ap(b, 200)
        found, other = estimate_ap(value, draws, 200), estimate_ap(-value, -draws, 200)
        low, high = found.interval()
        assert (holm([found.p_value])[0] < 0.05) == (not low <= 0 <= high)
        assert [-bound for bound in other.interval()] == pytest.approx([high, low])


def test_a_perfect_ranking_has_no_interval_and_seeds_widen_that_of_a_recipe() -> None:
    perfect = draw(100, skill=100.0)
    found = estimate_ap(1.0, bootstrap_ap(perfect, 50), 100)
    assert (found.standard_error, found.p_value) == (np.inf, 1)
    draws = bootstrap_ap(draw(100), 50)
    alone = estimate_ap(0.5, draws, 100)
    repeated = estimate_ap(0.5, draws, 100, [np.array([0.4, 0.5, 0.6])])
    assert repeated.standard_error**2 == pytest.approx(alone.standard_error**2 + 0.01 / 3)
    assert repeated.df < alone.df == pytest.approx(99)
