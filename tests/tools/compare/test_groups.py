from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from tests.run_folders import drawn_labels, write_run
from triptych.runs.predictions import Predictions
from triptych.runs.reader import OPTIONAL_METADATA, find_run_folders
from triptych.tools.compare.groups import class_names, grouped, labels, most_confused, summary
from triptych.tools.compare.runs import Run, read_runs
from triptych.tools.statistics.scores import score_predictions

TEST = Predictions(np.eye(3, dtype=np.float32), np.arange(3), np.arange(3))
SETTINGS = st.dictionaries(
    st.sampled_from(["optim.lr", "epochs", "weights"]), st.sampled_from("123")
)
RECIPES = st.lists(st.tuples(st.sampled_from(["alexnet", "vgg", "vgg (2)"]), SETTINGS), max_size=8)


def a_run(model: str, group: str, seed: int, lr: float = 0.1) -> Run:
    metadata = {
        "model": model,
        "group_hash": group,
        "split_hash": "s",
        "test_hash": "t",
        "seed": seed,
    }
    config = {"model": {"name": model}, "optim": {"lr": lr}}
    return Run(
        Path(), dict.fromkeys(OPTIONAL_METADATA) | metadata, config, TEST, score_predictions(TEST)
    )


@given(RECIPES)
def test_every_recipe_has_a_label_of_its_own_that_begins_with_its_model(
    recipes: list[tuple[str, dict[str, str]]],
) -> None:
    found = labels(recipes)
    assert len(set(found)) == len(recipes)
    assert all(label.startswith(model) for label, (model, _) in zip(found, recipes, strict=True))


@given(RECIPES)
def test_a_model_alone_is_its_own_label_and_a_setting_that_none_shares_is_not_named(
    recipes: list[tuple[str, dict[str, str]]],
) -> None:
    models = [model for model, _ in recipes]
    for label, (model, settings) in zip(labels(recipes), recipes, strict=True):
        if models.count(model) == 1:
            assert label == model
        for name in settings:
            if len({table.get(name) for other, table in recipes if other == model}) == 1:
                assert f"{name}=" not in label


def test_a_label_names_what_tells_a_recipe_from_its_likes_and_no_more() -> None:
    shared = {"weights": "null", "epochs": "2"}
    recipes = [("vgg", shared | {"lr": lr}) for lr in "12"] + [("alexnet", shared | {"lr": "3"})]
    assert labels(recipes) == ["vgg, lr=1", "vgg, lr=2", "alexnet"]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9)), unique=True, min_size=1))
def test_every_run_is_in_one_group_with_those_of_its_group_hash_by_seed(
    keys: list[tuple[str, int]],
) -> None:
    groups = grouped([a_run("vgg", group, seed, float(ord(group))) for group, seed in keys])
    assert len(groups) == len({group for group, _ in keys})
    assert sum(len(group.networks) for group in groups) == len(keys)
    for group in groups:
        seeds = [network.metadata["seed"] for network in group.networks]
        assert seeds == sorted(seeds)
        assert len({network.metadata["group_hash"] for network in group.networks}) == 1
    names = [network.label for group in groups for network in group.networks]
    assert len(set(names)) == len(keys)


def test_the_order_of_recipes_does_not_follow_their_results(tmp_path: Path) -> None:
    for model, skill in (("vgg11", 4.0), ("alexnet", 1.0), ("googlenet", 2.0)):
        write_run(tmp_path, model, skill=skill)
    groups = grouped(read_runs(find_run_folders([str(tmp_path)]))[0])
    assert [group.label for group in groups] == ["alexnet", "googlenet", "vgg11"]


def test_a_recipe_sums_its_confusions_and_averages_its_f1_over_seeds(tmp_path: Path) -> None:
    folders = [write_run(tmp_path, seed=seed) for seed in range(3)]
    [group] = grouped(read_runs(folders)[0])
    recipe = summary(group, class_names([group]), None)
    labels = drawn_labels(200)
    answers = [np.load(f / "predictions" / "test.npz")["logits"].argmax(axis=1) for f in folders]
    assert recipe.classes == ("class 0", "class 1", "class 2", "class 3")
    assert recipe.confusion.sum() == 600
    assert recipe.confusion[1, 2] == sum(((labels == 1) & (a == 2)).sum() for a in answers)
    by_hand = np.mean([f1_score(labels, a, average=None) for a in answers], axis=0)
    np.testing.assert_allclose(recipe.f1, by_hand)
    assert recipe.accuracy.value == pytest.approx(np.mean([(labels == a).mean() for a in answers]))
    first = recipe.most_confused[0]
    errors = recipe.confusion - np.diag(np.diag(recipe.confusion))
    assert first.count == errors.max()
    row = recipe.classes.index(first.true)
    assert first.fraction == errors.max() / recipe.confusion[row].sum()


def test_two_seeds_have_a_mean_and_no_interval_over_seeds(tmp_path: Path) -> None:
    [group] = grouped(read_runs([write_run(tmp_path, seed=seed) for seed in (4, 5)])[0])
    recipe = summary(group, class_names([group]), None)
    assert (recipe.accuracy.low, recipe.accuracy.high) == (None, None)


def test_nothing_is_confused_where_all_is_right() -> None:
    assert most_confused(np.diag([3, 4]), ("a", "b")) == ()
