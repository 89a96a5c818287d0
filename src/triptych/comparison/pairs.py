"""Which pairs are asked about, and what the statistics answer. Two questions, never mixed."""

from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from triptych.comparison import sentences
from triptych.comparison.content import Pair, Pairs
from triptych.comparison.exhibits import Estimate
from triptych.comparison.groups import Group
from triptych.evaluation.recipes import recipe_difference
from triptych.evaluation.resampling import drawn_interval, macro_f1_draws
from triptych.evaluation.statistics import holm, paired, simultaneous

MAX_ALL_PAIRS = 10  # of networks or recipes; beyond, each is asked about against one

Two = tuple[Group, Group]


def network_pairs(groups: Sequence[Group]) -> Pairs:
    """Trained networks, one a recipe: its lowest seed, chosen without a look at its results."""
    twos = _chosen(groups, lambda group: group.first.val_accuracy)
    differences = [paired(a.first.test.correct, b.first.test.correct) for a, b in twos]
    level = simultaneous(len(twos))
    adjusted = holm([difference.p_value for difference in differences])
    draws = _f1_draws(groups) if twos else {}
    pairs = []
    for (a, b), counts, p_holm in zip(twos, differences, adjusted, strict=True):
        f1 = a.first.scores.macro.f1 - b.first.scores.macro.f1
        interval = drawn_interval(f1, draws[a] - draws[b], level)
        pair = Pair(
            a=a.first.label,
            b=b.first.label,
            num_images=counts.num_images,
            num_seeds=(1, 1),
            difference=Estimate(counts.value, *counts.interval(level)),
            p=counts.p_value,
            p_holm=float(p_holm),
            only_a=counts.only_a,
            only_b=counts.only_b,
            f1_difference=Estimate(f1, *interval),
            sentence="",
        )
        pairs.append(sentences.worded(pair, len(twos)))
    note = sentences.how_networks_were_paired(len(groups), len(twos), MAX_ALL_PAIRS)
    return Pairs(sentences.ABOUT_NETWORKS, note, tuple(pairs))


def recipe_pairs(groups: Sequence[Group]) -> Pairs:
    """Recipes of three seeds or more."""
    able = [group for group in groups if group.can_be_told]
    twos = _chosen(able, lambda group: group.val_accuracy)
    differences = [recipe_difference(a.correct, b.correct) for a, b in twos]
    level = simultaneous(len(twos))
    adjusted = holm([difference.p_value for difference in differences])
    pairs = []
    for (a, b), found, p_holm in zip(twos, differences, adjusted, strict=True):
        pair = Pair(
            a=a.label,
            b=b.label,
            num_images=a.correct.shape[1],
            num_seeds=(len(a.networks), len(b.networks)),
            difference=Estimate(found.value, *found.interval(level)),
            p=found.p_value,
            p_holm=float(p_holm),
            only_a=None,
            only_b=None,
            f1_difference=None,
            sentence="",
        )
        pairs.append(sentences.worded(pair, len(twos)))
    note = sentences.how_recipes_were_paired(len(groups), len(able), len(twos), MAX_ALL_PAIRS)
    return Pairs(sentences.ABOUT_RECIPES, note, tuple(pairs))


def on_the_same_images(groups: Sequence[Group]) -> list[list[Group]]:
    """The groups, apart by the test images they answer for."""
    blocks: dict[tuple[str, int], list[Group]] = {}
    for group in groups:
        key = (group.first.facts["test_hash"], group.first.test.num_classes)
        blocks.setdefault(key, []).append(group)
    return list(blocks.values())


def _chosen(groups: Sequence[Group], val_accuracy: Callable[[Group], float | None]) -> list[Two]:
    """All pairs on the same images; of many groups each against the best on validation data."""
    twos: list[Two] = []
    for block in on_the_same_images(groups):
        if len(block) <= MAX_ALL_PAIRS:
            twos += combinations(block, 2)
        else:
            best = max(block, key=lambda group: val_accuracy(group) or 0)
            twos += [(best, group) for group in block if group is not best]
    return twos


def _f1_draws(groups: Sequence[Group]) -> dict[Group, NDArray[np.float64]]:
    """Macro F1 (R,) of each group's first network, on the same draws of images in a block."""
    found: dict[Group, NDArray[np.float64]] = {}
    for block in on_the_same_images(groups):
        tests = [group.first.test for group in block]
        predicted = np.stack([test.classes for test in tests])
        draws = macro_f1_draws(tests[0].labels, predicted, tests[0].num_classes)
        found.update(zip(block, draws, strict=True))
    return found
