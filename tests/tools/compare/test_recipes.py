import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from triptych.runs.predictions import Predictions
from triptych.runs.reader import OPTIONAL_METADATA
from triptych.tools.compare.recipes import Recipe, describe_value, group_by_recipe, make_labels
from triptych.tools.compare.runs import TrainedNetwork
from triptych.tools.statistics.scores import score_predictions

TEST = Predictions(np.eye(3, dtype=np.float32), np.arange(3), np.arange(3))
SCORES = score_predictions(TEST)
SETTINGS = st.dictionaries(
    st.sampled_from(["optim.lr", "epochs", "weights"]), st.sampled_from("123")
)
RECIPES = st.lists(st.tuples(st.sampled_from(["alexnet", "vgg", "vgg (2)"]), SETTINGS), max_size=8)


def make_network(model: str, group: str, seed: int) -> TrainedNetwork:
    hashes = {"group_hash": group, "split_hash": "s", "test_hash": "t"}
    metadata = dict.fromkeys(OPTIONAL_METADATA) | hashes | {"model": model, "seed": seed}
    config = {"model": {"name": model}, "optim": {"lr": float(ord(group))}}
    return TrainedNetwork(Path(), metadata, config, TEST, SCORES, model)


@given(RECIPES)
def test_every_recipe_has_a_label_of_its_own_that_begins_with_its_model(
    recipes: list[tuple[str, dict[str, str]]],
) -> None:
    labels = make_labels(recipes)
    assert len(set(labels)) == len(recipes)
    assert all(label.startswith(model) for label, (model, _) in zip(labels, recipes, strict=True))


@given(RECIPES)
def test_a_model_alone_is_its_own_label_and_a_setting_that_all_share_is_not_named(
    recipes: list[tuple[str, dict[str, str]]],
) -> None:
    models = [model for model, _ in recipes]
    for label, (model, settings) in zip(make_labels(recipes), recipes, strict=True):
        if models.count(model) == 1:
            assert label == model
        for name in settings:
            if len({table.get(name) for other, table in recipes if other == model}) == 1:
                assert f"{name}=" not in label


def test_a_label_names_the_settings_that_differ_and_no_more() -> None:
    shared = {"weights": "null", "epochs": "2"}
    recipes = [("vgg", shared | {"lr": lr}) for lr in "12"] + [("alexnet", shared | {"lr": "3"})]
    assert make_labels(recipes) == ["vgg, lr=1", "vgg, lr=2", "alexnet"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.1, "0.1"),
        ([], "[]"),
        ([1, {"a": 2}], '[1, {"a": 2}]'),
        (
            [{"_target_": "a.Soup", "k": 3, "by": None}, {"_target_": "EMA"}],
            "Soup(k=3, by=null), EMA()",
        ),
    ],
)
def test_classes_of_a_list_are_shown_as_they_are_called(value: object, text: str) -> None:
    assert describe_value(value) == text


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9)), unique=True, min_size=1))
def test_every_run_is_in_one_recipe_with_those_of_its_group_hash_by_seed(
    keys: list[tuple[str, int]],
) -> None:
    recipes = group_by_recipe([make_network("vgg", group, seed) for group, seed in keys])
    assert len(recipes) == len({group for group, _ in keys})
    assert sum(len(recipe.networks) for recipe in recipes) == len(keys)
    for recipe in recipes:
        seeds = [network.metadata["seed"] for network in recipe.networks]
        assert seeds == sorted(seeds)
        assert len({network.metadata["group_hash"] for network in recipe.networks}) == 1
    names = [network.label for recipe in recipes for network in recipe.networks]
    assert len(set(names)) == len(keys)


def test_two_seeds_have_a_mean_and_no_interval_over_seeds() -> None:
    [recipe] = group_by_recipe([make_network("vgg", "a", seed) for seed in (4, 5)])
    value, low, high = recipe.accuracy
    assert value == 1
    assert math.isnan(low)
    assert math.isnan(high)


def test_seeds_that_are_all_right_have_the_interval_of_so_many_images() -> None:
    [recipe] = group_by_recipe([make_network("vgg", "a", seed) for seed in (4, 5, 6)])
    low, high = stats.binomtest(3, 3).proportion_ci(method="wilson")
    assert recipe.accuracy == (1, pytest.approx(low), pytest.approx(high))


def test_the_most_frequent_errors_come_first_with_their_share_of_the_true_class() -> None:
    def count(confusion: list[list[int]]) -> Recipe:
        scores = SimpleNamespace(confusion=np.array(confusion))
        return Recipe("vgg", (SimpleNamespace(scores=scores),), ("a", "b"))

    first, second = count([[5, 1], [3, 1]]).most_confused
    assert (first.true, first.predicted, first.count) == ("b", "a", 3)
    assert first.fraction == pytest.approx(0.75)
    assert second.count == 1
    assert count([[3, 0], [0, 4]]).most_confused == ()
