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
from triptych.tools.compare.guests import Guest
from triptych.tools.compare.names import MAX_NAME, Described, make_labels, shorten_values
from triptych.tools.compare.recipes import Recipe, describe_value, group_by_recipe
from triptych.tools.compare.runs import TrainedNetwork
from triptych.tools.statistics.scores import score_predictions

TEST = Predictions(np.eye(3, dtype=np.float32), np.arange(3), np.arange(3))
SCORES = score_predictions(TEST)
SETTINGS = st.dictionaries(
    st.sampled_from(["optim.lr", "epochs", "weights"]), st.sampled_from("123")
)
RECIPES = st.lists(
    st.builds(
        lambda title, settings, defaults: Described(title, settings, defaults.__contains__),
        st.sampled_from(["alexnet", "vgg", "vgg (2)"]),
        SETTINGS,
        st.sets(st.sampled_from(["optim.lr", "epochs"])),
    ),
    max_size=8,
)


def make_network(model: str, group: str, seed: int) -> TrainedNetwork:
    hashes = {"group_hash": group, "split_hash": "s", "test_hash": "t"}
    metadata = dict.fromkeys(OPTIONAL_METADATA) | hashes | {"model": model, "seed": seed}
    config = {"model": {"name": model}, "optim": {"lr": float(ord(group))}}
    return TrainedNetwork(Path(), metadata, config, TEST, SCORES, model)


@given(RECIPES)
def test_every_recipe_has_a_label_of_its_own_that_begins_with_its_title(
    recipes: list[Described],
) -> None:
    labels = make_labels(recipes)
    assert len(set(labels)) == len(recipes)
    assert all(label.startswith(each.title) for label, each in zip(labels, recipes, strict=True))


def test_a_name_without_end_is_cut_and_two_that_begin_alike_still_differ() -> None:
    networks = [make_network("a" * 10_000 + end, end, seed=0) for end in "xy"]
    labels = [recipe.label for recipe in group_by_recipe(networks)]
    assert len({*labels}) == 2
    assert max(map(len, labels)) == MAX_NAME


def test_others_predictions_keep_their_name_beside_runs_of_the_same() -> None:
    ours, theirs = make_network("a", "a", seed=0), make_network("x", "b", seed=0)
    ours.metadata.update(name="x", finished_at="2026")
    guest = Guest(Path(), theirs.metadata, {}, TEST, SCORES, "x", gave="logits")
    labels = {recipe.first.is_guest: recipe.label for recipe in group_by_recipe([ours, guest])}
    assert labels[True] == "x" != labels[False]


@given(RECIPES)
def test_a_model_alone_is_its_own_label_and_a_setting_that_all_share_is_not_named(
    recipes: list[Described],
) -> None:
    titles = [recipe.title for recipe in recipes]
    for label, recipe in zip(make_labels(recipes), recipes, strict=True):
        if titles.count(recipe.title) == 1:
            assert label == recipe.title
        for name in recipe.settings:
            same = [each.settings.get(name) for each in recipes if each.title == recipe.title]
            if len({*same}) == 1:
                assert f"{name.removeprefix('optim.')}=" not in label


def test_a_label_names_the_settings_that_differ_and_no_more() -> None:
    shared = {"weights": "null", "epochs": "2"}
    recipes = [Described("vgg", shared | {"optim.lr": lr}) for lr in "12"]
    recipes.append(Described("alexnet", shared | {"optim.lr": "3"}))
    assert make_labels(recipes) == ["vgg lr=1", "vgg lr=2", "alexnet"]


def test_the_shortest_of_settings_that_separate_alike_is_named_without_defaults() -> None:
    tables = [
        {"optim.lr": lr, "optim.name": "adam", "data.augment": augment, "data.num": "1", "num": "2"}
        for lr, augment in (("0.1", "none"), ("0.2", "RandAugment(magnitude=9)"))
    ]
    labels = make_labels(
        [Described("vgg", each, lambda name: name == "optim.lr") for each in tables]
    )
    assert labels == ["vgg lr=0.1", "vgg lr=0.2"], "defaults are named where nothing else differs"
    defaults = ({"0.1"}, {"0.3"})
    recipes = [
        Described("vgg", t, lambda name, d=d, t=t: t[name] in d)  # type: ignore[misc]
        for t, d in zip(tables, defaults, strict=True)
    ]
    assert make_labels(recipes) == ["vgg", "vgg lr=0.2"]
    recipes = [Described("vgg", {"data.name": n, "optim.name": "x", "num": n * 9}) for n in "ab"]
    assert make_labels(recipes) == ["vgg data=a", "vgg data=b"]
    recipes = [Described("vgg", {"data.num": n, "data.source.num": "1"}) for n in "ab"]
    assert make_labels(recipes) == ["vgg data.num=a", "vgg data.num=b"]


@given(st.lists(st.text("ab (,", max_size=90), unique=True, min_size=1, max_size=5))
def test_long_values_are_short_and_differ_as_they_did(values: list[str]) -> None:
    short = shorten_values(values)
    assert len({*short.values()}) == len({*short}) == len(values)
    assert max(map(len, short.values())) <= 41
    if max(map(len, values)) <= 40 and "(" not in "".join(values):
        assert all(short[each] == each for each in values)


def test_a_list_of_classes_is_named_by_them_or_by_what_they_are_called_with() -> None:
    soup = "Soup(k=3, by=val/accuracy, at_least=2, per_epoch=1), EMA(decay=0.99)"
    assert [*shorten_values([soup, "EMA(decay=0.99)"]).values()] == ["EMA", "Soup+EMA"]
    other = soup.replace("k=3", "k=4")
    assert {each[:5] for each in shorten_values([soup, other]).values()} == {"…k=3,", "…k=4,"}


def test_a_recipe_has_the_name_that_its_last_named_run_has_and_others_their_settings() -> None:
    runs = [make_network("vgg", group, seed) for group, seed in (("a", 0), ("a", 1), ("b", 0))]
    for run, name in zip(runs, ("old", "best", "best"), strict=True):
        run.metadata.update(name=name, finished_at=name)
    runs[0].metadata["finished_at"] = "aaa"
    labels = [recipe.label for recipe in group_by_recipe(runs)]
    assert labels == ["best lr=97.0", "best lr=98.0"]


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
