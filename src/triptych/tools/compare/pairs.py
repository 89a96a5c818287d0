"""Which pairs are compared, and what the statistics say. Two questions, never mixed."""

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from triptych.runs.reader import sanitize
from triptych.tools.compare import sentences
from triptych.tools.compare.content import (
    ImageTypes,
    LossDifference,
    LossDifferences,
    Pair,
    Pairs,
    WithInterval,
)
from triptych.tools.compare.recipes import Recipe, split_comparable
from triptych.tools.evaluate.degradation import degradation_differences
from triptych.tools.statistics.bootstrap import bootstrap_interval, bootstrap_macro_f1
from triptych.tools.statistics.intervals import (
    PairedDifference,
    bonferroni_level,
    holm,
    paired_difference,
)
from triptych.tools.statistics.recipes import Estimate, recipe_difference

MAX_ALL_PAIRS = 10  # networks or recipes; of more, each is compared with one only

Two = tuple[Recipe, Recipe]
Validated = Callable[[Recipe], float | None]


def compare_networks(recipes: Sequence[Recipe]) -> Pairs:
    """Trained networks, one a recipe: its lowest seed, chosen without a look at its results."""
    twos = choose_pairs(recipes, get_first_val_accuracy)
    differences = [paired_difference(a.first.test.correct, b.first.test.correct) for a, b in twos]
    draws = _draw_f1(recipes) if twos else {}
    fields = [
        {
            "a": a.first.label,
            "b": b.first.label,
            "num_images": counts.num_images,
            "num_seeds": (1, 1),
            "only_a": counts.only_a,
            "only_b": counts.only_b,
            "f1_difference": _f1_difference(a, b, draws, bonferroni_level(len(twos))),
        }
        for (a, b), counts in zip(twos, differences, strict=True)
    ]
    choice = _describe_choice(recipes, get_first_val_accuracy)
    note = sentences.describe_network_pairs(len(recipes), len(twos), choice)
    return Pairs(sentences.NETWORK_QUESTION, note, _test(differences, fields))


def compare_recipes(recipes: Sequence[Recipe]) -> Pairs:
    """Recipes of three seeds or more."""
    repeated = [recipe for recipe in recipes if recipe.has_enough_seeds]
    twos = choose_pairs(repeated, get_val_accuracy)
    differences = [recipe_difference(a.correct, b.correct) for a, b in twos]
    fields = [
        {
            "a": a.label,
            "b": b.label,
            "num_images": a.correct.shape[1],
            "num_seeds": (len(a.networks), len(b.networks)),
            **dict.fromkeys(("only_a", "only_b", "f1_difference")),
        }
        for a, b in twos
    ]
    choice = _describe_choice(repeated, get_val_accuracy)
    note = sentences.describe_recipe_pairs(len(recipes), len(repeated), len(twos), choice)
    return Pairs(sentences.RECIPE_QUESTION, note, _test(differences, fields))


def get_first_val_accuracy(recipe: Recipe) -> float | None:
    return recipe.first.val_accuracy


def get_val_accuracy(recipe: Recipe) -> float | None:
    return recipe.val_accuracy


def _test(
    differences: Sequence[PairedDifference | Estimate], fields: Sequence[dict[str, Any]]
) -> tuple[Pair, ...]:
    """Pairs with p values by Holm and simultaneous intervals; `fields` is what else each has."""
    level = bonferroni_level(len(differences))
    adjusted = holm([difference.p_value for difference in differences])
    pairs = (
        Pair(
            difference=WithInterval(difference.value, *difference.interval(level)),
            p=difference.p_value,
            p_holm=float(p_holm),
            sentence="",
            **rest,
        )
        for difference, p_holm, rest in zip(differences, adjusted, fields, strict=True)
    )
    return tuple(sentences.add_sentence(pair, len(differences)) for pair in pairs)


def choose_pairs(recipes: Sequence[Recipe], val_accuracy: Validated) -> list[Two]:
    """All pairs that can be compared; of many recipes each with the best on validation data."""
    twos: list[Two] = []
    for block in split_comparable(recipes):
        if len(block) <= MAX_ALL_PAIRS:
            twos += combinations(block, 2)
        else:
            best = max(block, key=lambda recipe: val_accuracy(recipe) or 0)
            twos += [(best, recipe) for recipe in block if recipe is not best]
    return twos


def _describe_choice(recipes: Sequence[Recipe], val_accuracy: Validated) -> str:
    """What `choose_pairs` did, in words."""
    large = [block for block in split_comparable(recipes) if len(block) > MAX_ALL_PAIRS]
    validated = all(any(val_accuracy(recipe) for recipe in block) for block in large)
    return sentences.describe_choice(MAX_ALL_PAIRS if large else None, validated)


def _draw_f1(recipes: Sequence[Recipe]) -> dict[Recipe, NDArray[np.float64]]:
    """Macro F1 (R,) of each recipe's first network, on the same bootstrap samples in a block."""
    f1: dict[Recipe, NDArray[np.float64]] = {}
    for block in split_comparable(recipes):
        tests = [recipe.first.test for recipe in block]
        predicted = np.stack([test.classes for test in tests])
        draws = bootstrap_macro_f1(tests[0].labels, predicted, tests[0].num_classes)
        f1.update(zip(block, draws, strict=True))
    return f1


def _f1_difference(
    a: Recipe, b: Recipe, draws: dict[Recipe, NDArray[np.float64]], level: float
) -> WithInterval:
    value = a.first.scores.macro.f1 - b.first.scores.macro.f1
    return WithInterval(value, *bootstrap_interval(value, draws[a] - draws[b], level))


def compare_losses(recipes: Sequence[Recipe], image_types: Sequence[ImageTypes]) -> LossDifferences:
    """Who loses more accuracy on image types, for networks evaluated on the same images."""
    measured = {
        recipe: each
        for recipe in recipes
        for each in image_types
        if each.outcomes and each.label in [network.label for network in recipe.networks]
    }
    pairs = []
    for a, b in choose_pairs([*measured], get_val_accuracy):
        one, other = measured[a].outcomes, measured[b].outcomes
        if one and other and np.array_equal(one.index, other.index):
            by_type = sanitize(degradation_differences(one, other))
            if by_type:
                labels = measured[a].label, measured[b].label
                pairs.append(LossDifference(*labels, len(one.index), by_type))
    images = {each.label: each.outcomes.index for each in measured.values() if each.outcomes}
    return LossDifferences(sentences.describe_losses(pairs, images), tuple(pairs))
