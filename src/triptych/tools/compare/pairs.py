"""Which pairs are asked about, and what the statistics answer. Two questions, never mixed."""

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from triptych.tools.compare import sentences
from triptych.tools.compare.comparable import blocks
from triptych.tools.compare.content import Pair, Pairs
from triptych.tools.compare.exhibits import WithInterval
from triptych.tools.compare.groups import Group
from triptych.tools.statistics.bootstrap import bootstrap_interval, bootstrap_macro_f1
from triptych.tools.statistics.intervals import (
    PairedDifference,
    bonferroni_level,
    holm,
    paired_difference,
)
from triptych.tools.statistics.recipes import Estimate, recipe_difference

MAX_ALL_PAIRS = 10  # of networks or recipes; beyond, each is asked about against one

Two = tuple[Group, Group]
Validated = Callable[[Group], float | None]


def network_pairs(groups: Sequence[Group]) -> Pairs:
    """Trained networks, one a recipe: its lowest seed, chosen without a look at its results."""
    twos = chosen(groups, of_first)
    differences = [paired_difference(a.first.test.correct, b.first.test.correct) for a, b in twos]
    draws = _f1_draws(groups) if twos else {}
    own = [
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
    which = _how_chosen(groups, of_first)
    note = sentences.how_networks_were_paired(len(groups), len(twos), which)
    return Pairs(sentences.ABOUT_NETWORKS, note, _tested(differences, own))


def recipe_pairs(groups: Sequence[Group]) -> Pairs:
    """Recipes of three seeds or more."""
    able = [group for group in groups if group.can_be_told]
    twos = chosen(able, of_all)
    differences = [recipe_difference(a.correct, b.correct) for a, b in twos]
    own = [
        {
            "a": a.label,
            "b": b.label,
            "num_images": a.correct.shape[1],
            "num_seeds": (len(a.networks), len(b.networks)),
            **dict.fromkeys(("only_a", "only_b", "f1_difference")),
        }
        for a, b in twos
    ]
    which = _how_chosen(able, of_all)
    note = sentences.how_recipes_were_paired(len(groups), len(able), len(twos), which)
    return Pairs(sentences.ABOUT_RECIPES, note, _tested(differences, own))


def of_first(group: Group) -> float | None:
    return group.first.val_accuracy


def of_all(group: Group) -> float | None:
    return group.val_accuracy


def _tested(
    differences: Sequence[PairedDifference | Estimate], own: Sequence[dict[str, Any]]
) -> tuple[Pair, ...]:
    """Pairs, adjusted and simultaneous over all of them; `own` is what else each has."""
    level = bonferroni_level(len(differences))
    adjusted = holm([difference.p_value for difference in differences])
    pairs = (
        Pair(
            difference=WithInterval(found.value, *found.interval(level)),
            p=found.p_value,
            p_holm=float(p_holm),
            sentence="",
            **fields,
        )
        for found, p_holm, fields in zip(differences, adjusted, own, strict=True)
    )
    return tuple(sentences.worded(pair, len(differences)) for pair in pairs)


def chosen(groups: Sequence[Group], val_accuracy: Validated) -> list[Two]:
    """All pairs that can be compared; of many groups each with the best on validation data."""
    twos: list[Two] = []
    for block in blocks(groups):
        if len(block) <= MAX_ALL_PAIRS:
            twos += combinations(block, 2)
        else:
            best = max(block, key=lambda group: val_accuracy(group) or 0)
            twos += [(best, group) for group in block if group is not best]
    return twos


def _how_chosen(groups: Sequence[Group], val_accuracy: Validated) -> str:
    """What `chosen` did, in words."""
    many = [block for block in blocks(groups) if len(block) > MAX_ALL_PAIRS]
    validated = all(any(val_accuracy(group) for group in block) for block in many)
    return sentences.which_pairs(MAX_ALL_PAIRS if many else None, validated)


def _f1_draws(groups: Sequence[Group]) -> dict[Group, NDArray[np.float64]]:
    """Macro F1 (R,) of each group's first network, on the same draws of images in a block."""
    found: dict[Group, NDArray[np.float64]] = {}
    for block in blocks(groups):
        tests = [group.first.test for group in block]
        predicted = np.stack([test.classes for test in tests])
        draws = bootstrap_macro_f1(tests[0].labels, predicted, tests[0].num_classes)
        found.update(zip(block, draws, strict=True))
    return found


def _f1_difference(
    a: Group, b: Group, draws: dict[Group, NDArray[np.float64]], level: float
) -> WithInterval:
    value = a.first.scores.macro.f1 - b.first.scores.macro.f1
    return WithInterval(value, *bootstrap_interval(value, draws[a] - draws[b], level))
