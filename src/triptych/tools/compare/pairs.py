"""Which pairs are compared, and what the statistics say. Two questions, never mixed."""

from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from triptych.runs.reader import sanitize
from triptych.tools.compare import sentences
from triptych.tools.compare.content import LossDifference, Pair, Pairs
from triptych.tools.compare.recipes import Recipe, split_comparable
from triptych.tools.compare.runs import ImageTypes
from triptych.tools.evaluate.degradation import degradation_differences
from triptych.tools.statistics import inference

MAX_ALL_PAIRS = 10  # networks or recipes; of more, each is compared with one only


def compare_networks(recipes: Sequence[Recipe]) -> Pairs:
    """Trained networks, one a recipe: its lowest seed, chosen without a look at its results."""
    twos, limit, is_validated = choose_pairs(recipes, lambda recipe: recipe.first.val_accuracy)
    correct = [(a.first.test.correct, b.first.test.correct) for a, b in twos]
    counts = [inference.paired_difference(*each) for each in correct]
    f1: dict[Recipe, NDArray[np.float64]] = {}  # (R,) each, of the same samples in a block
    for block in split_comparable(recipes) if twos else ():
        tests = [recipe.first.test for recipe in block]
        predicted = np.stack([test.classes for test in tests])
        draws = inference.bootstrap_macro_f1(tests[0].labels, predicted, tests[0].num_classes)
        f1.update(zip(block, draws, strict=True))
    level = inference.bonferroni_level(len(twos))
    pairs = []
    for (a, b), count, tested in zip(twos, counts, adjust(counts), strict=True):
        value = a.first.scores.macro.f1 - b.first.scores.macro.f1
        bounds = inference.bootstrap_interval(value, f1[a] - f1[b], level)
        f1_difference = inference.WithInterval(value, *bounds)
        fields = (a.first.label, b.first.label, count.num_images, (1, 1), *tested)
        pairs.append(Pair(*fields, count.only_a, count.only_b, f1_difference))
    return Pairs(sentences.add_sentences(pairs), len(recipes), limit, is_validated)


def compare_recipes(recipes: Sequence[Recipe]) -> Pairs:
    """Recipes of three seeds or more."""
    repeated = [recipe for recipe in recipes if recipe.has_enough_seeds]
    twos, limit, is_validated = choose_pairs(repeated, lambda recipe: recipe.val_accuracy)
    tests = adjust([inference.recipe_difference(a.correct, b.correct) for a, b in twos])
    pairs = [
        Pair(a.label, b.label, a.correct.shape[1], (len(a.networks), len(b.networks)), *tested)
        for (a, b), tested in zip(twos, tests, strict=True)
    ]
    return Pairs(sentences.add_sentences(pairs), len(repeated), limit, is_validated)


def adjust(
    differences: Sequence[inference.PairedDifference | inference.Estimate],
) -> list[tuple[inference.WithInterval, float, float]]:
    """Each with its simultaneous interval, its p value, and that adjusted by Holm."""
    level = inference.bonferroni_level(len(differences))
    p_values = [each.p_value for each in differences]
    values = [inference.WithInterval(each.value, *each.interval(level)) for each in differences]
    return [*zip(values, p_values, inference.holm(p_values).tolist(), strict=True)]


def choose_pairs(
    recipes: Sequence[Recipe], get_accuracy: Callable[[Recipe], float | None]
) -> tuple[list[tuple[Recipe, Recipe]], int | None, bool]:
    """All pairs that can be compared; of many recipes each with the best on validation data.

    Also the `limit` of `Pairs` and its `is_validated`.
    """
    twos: list[tuple[Recipe, Recipe]] = []
    limit, is_validated = None, True
    for block in split_comparable(recipes):
        if len(block) <= MAX_ALL_PAIRS:
            twos += combinations(block, 2)
            continue
        best = max(block, key=lambda recipe: get_accuracy(recipe) or 0)
        twos += [(best, recipe) for recipe in block if recipe is not best]
        limit, is_validated = MAX_ALL_PAIRS, is_validated and bool(get_accuracy(best))
    return twos, limit, is_validated


def compare_losses(
    recipes: Sequence[Recipe], image_types: Sequence[ImageTypes]
) -> tuple[list[LossDifference], dict[str, int]]:
    """Who loses more accuracy, for networks evaluated on the same images.

    Also how many images each was evaluated on, where these are not the same for all.
    """
    outcomes = {each.label: each.outcomes for each in image_types if each.outcomes}
    labels = {
        recipe: network.label
        for recipe in recipes
        for network in recipe.networks
        if network.label in outcomes
    }
    pairs = []
    twos, *_ = choose_pairs([*labels], lambda recipe: recipe.val_accuracy)
    for a, b in twos:
        one, other = outcomes[labels[a]], outcomes[labels[b]]
        if np.array_equal(one.index, other.index):
            by_type = sanitize(degradation_differences(one, other))
            if by_type:
                pairs.append(LossDifference(labels[a], labels[b], len(one.index), by_type))
    if len({each.index.tobytes() for each in outcomes.values()}) < 2:
        return pairs, {}
    return pairs, {label: len(each.index) for label, each in outcomes.items()}
