"""Page, text, table and verdict.json of drawn runs say the same numbers; none is NaN.

Few images, one group, networks that are always right or always wrong, plans that runs depart from.
"""

import csv
import html
import json
import re
import resource
from pathlib import Path

import numpy as np
import pytest

from tests.composing import composed
from tests.run_folders import change_predictions, change_record, draw_labels, write_run
from tests.verdict_schema import check_verdict
from triptych.errors import UserError
from triptych.tools.compare.command import compare
from triptych.tools.compare.content import MEASURES
from triptych.tools.compare.formats import interval, p_value, percent
from triptych.tools.plan.document import Plan, PlannedRecipe, write_plan

DIVERGED = {"status": "failed", "error": "the training loss is nan at epoch 1 batch 2"}


def draw_runs(rng: np.random.Generator, root: Path) -> dict[str, str]:
    """Their recipes' `group_hash`, by model."""
    num_images, num_classes = int(rng.choice([2, 20, 100])), int(rng.choice([2, 4]))
    groups = rng.integers(rng.choice([1, 5]), size=num_images) if rng.random() < 0.3 else None
    hashes = {}
    for model in ("a", "b", "c"):
        kind, skill = rng.choice(["drawn", "right", "wrong", "ties"]), rng.choice([0, 1, 3])
        for seed in range(rng.choice([1, 2, 3, 4])):
            sizes = {"num_images": num_images, "num_classes": num_classes}
            folder = write_run(root, model, seed, skill=skill, **sizes)
            hashes[model] = json.loads((folder / "run.json").read_text())["group_hash"]
            with np.load(folder / "predictions" / "test.npz") as file:
                logits, labels = file["logits"], file["labels"]
            if kind != "drawn":
                shift = {"right": 0, "wrong": 1}.get(kind)
                logits = np.float32(0) * logits
                if shift is not None:
                    logits[np.arange(num_images), (labels + shift) % num_classes] = 9
            more = {} if groups is None else {"groups": groups}
            for split in ("test", "val"):
                change_predictions(folder, split, logits=logits, **more)
            accuracy = float(np.mean(logits.argmax(axis=1) == labels))
            change_record(folder, metrics={"val/accuracy": accuracy, "test/accuracy": accuracy})
            if seed and rng.random() < 0.15:
                change_record(folder, **DIVERGED)
    return hashes


def declare(hashes: dict[str, str], metric: str, path: Path) -> str:
    recipes = [PlannedRecipe(model, [f"model={model}"], key) for model, key in hashes.items()]
    usual = {"margin": None, "difference": None, "data": "shapes", "num_images": 100}
    more = {"split_hash": None, "test_hash": None, "promised": {}}
    seeds = {"looks": [3, 4], "seeds": [0, 1, 2, 3], "recipes": recipes}
    write_plan(Plan(question="Which is best?", metric=metric, **usual, **seeds, **more), path)
    return str(path)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_all_files_say_the_same_numbers(seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    metric = ("accuracy", "f1", "nll", "brier")[seed % 4]
    hashes = draw_runs(rng, tmp_path / "logs")
    asked = {"metric": metric, "margin": rng.choice([None, 1, 50]) if seed % 4 < 2 else None}
    if rng.random() < 0.4:
        asked = {"plan": declare(hashes, metric, tmp_path / "plan.yaml")}
    page = compare(composed("compare", runs=str(tmp_path / "logs"), **asked))
    compare(composed("compare", runs=None, verify=str(page)))  # which ends with 1 where it differs
    verdict = check_verdict(json.loads((page.parent / "verdict.json").read_text()))
    text, shown = (page.with_name(n).read_text() for n in ("comparison.md", "index.html"))
    text = html.unescape(text.replace("\\", ""))  # as Markdown is shown
    shown = html.unescape(re.sub(r"<(style|script).*?</\1>|<[^>]*>", " ", shown, flags=re.DOTALL))
    for said in (text, shown):
        assert not re.search(r"\b(nan|inf|None)\b", said.replace("loss is nan", ""))
    measure = MEASURES[metric]
    for pair in verdict["pairs"]:
        low, high = (np.nan if pair[end] is None else pair[end] for end in ("low", "high"))
        rows = []  # people read the better one first
        for a, b, *numbers in (
            (pair["a"], pair["b"], pair["difference"], low, high),
            (pair["b"], pair["a"], -pair["difference"], -high, -low),
        ):
            cells = [measure.write(numbers[0]), interval(*numbers[1:], measure.write)]
            cells += [p_value(pair["p"]), p_value(pair["p_adjusted"])]
            row = f"| {a} − {b} | {' | '.join(cells)} |"
            rows += [row in text and all(cell in shown for cell in cells)]
        assert any(rows)
        assert low <= high or np.isnan(low)
        assert 0 <= pair["p"] <= pair["p_adjusted"] <= 1
    with page.with_name("comparison.csv").open() as file:
        for run, row in zip(verdict["runs"], csv.DictReader(file), strict=True):
            assert percent(float(row["accuracy"])) in text
            if metric in ("accuracy", "f1"):
                assert run["value"] == pytest.approx(float(row[metric]))


@pytest.mark.parametrize("seeds", [(0, 1, 2), (0, 77, 78, 79)])
def test_a_recipe_whose_runs_diverged_is_compared_at_a_look_or_not_at_all(
    seeds: tuple[int, ...], tmp_path: Path
) -> None:
    hashes = {}
    for model, chosen in (("a", (0, 1, 2)), ("b", seeds)):
        for seed in chosen:
            folder = write_run(tmp_path / "logs", model, seed)
            hashes[model] = json.loads((folder / "run.json").read_text())["group_hash"]
            if (model, seed) == ("a", 2):
                change_record(folder, **DIVERGED)
    plan = declare(hashes, "accuracy", tmp_path / "plan.yaml")
    page = compare(composed("compare", runs=str(tmp_path / "logs"), plan=plan))
    pairs = json.loads(page.with_name("verdict.json").read_text())["pairs"]
    assert [pair["num_seeds"] for pair in pairs] == [[3, 3]] * (len(seeds) == 3) + [[1, 1]]
    compare(composed("compare", runs=None, verify=str(page)))


def test_seeds_that_change_nothing_are_named_and_those_that_are_all_right_are_not(
    tmp_path: Path,
) -> None:
    for seed in range(3):
        for model, scale in (("a", 1.0), ("b", 1.0 + seed)):
            folder = write_run(tmp_path / "logs", model, seed)
            logits = np.eye(4, dtype=np.float32)[draw_labels(200)] * np.float32(scale)
            change_predictions(folder, logits=logits)
            change_record(folder, metrics={"val/accuracy": 1.0, "test/accuracy": 1.0})
    page = compare(composed("compare", runs=str(tmp_path / "logs")))
    limits = json.loads(page.with_name("verdict.json").read_text())["limits"]
    [alike] = [limit for limit in limits if "the same class" in limit]
    assert alike.startswith("a seed 0, a seed 1, a seed 2 and b seed 0 give")


def test_a_full_disk_leaves_all_files_as_they_were(tmp_path: Path) -> None:
    for model in ("a", "b"):
        write_run(tmp_path / "logs", model)
    asked = {"runs": str(tmp_path / "logs"), "out": str(tmp_path / "out")}
    page = compare(composed("compare", **asked))
    before = {path.name: path.read_bytes() for path in page.parent.iterdir()}
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before["index.html"]) // 2, usual[1]))
    try:
        with pytest.raises(UserError, match="cannot be written"):
            compare(composed("compare", **asked, metric="f1"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    assert {path.name: path.read_bytes() for path in page.parent.iterdir()} == before
