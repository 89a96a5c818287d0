"""Which pairs are compared, and what the statistics say. Two questions, never mixed."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations, compress
from typing import Any, NamedTuple

import numpy as np

from triptych.runs.reader import sanitize
from triptych.tools.compare.content import AS_USUAL, LossDifference, Pair, Pairs, Question, Tested
from triptych.tools.compare.recipes import Recipe, sort_by_name, split_comparable
from triptych.tools.compare.runs import ImageTypes
from triptych.tools.compare.sentences import add_sentences, compare_costs
from triptych.tools.evaluate.degradation import degradation_differences
from triptych.tools.statistics import inference
from triptych.tools.statistics.crossed import (
    UNBOUNDED,
    Estimate,
    PairedDifference,
    crossed_difference,
)
from triptych.tools.statistics.groups import difference_over_groups, network_difference
from triptych.tools.statistics.inference import Interval, WithInterval
from triptych.tools.statistics.planning import LookedEstimate, join_looks

MAX_ALL_PAIRS = 20  # networks or recipes; of more, each is compared with one only
BOUNDS = {"accuracy": Interval(-1, 1), "f1": Interval(-1, 1), "brier": Interval(-2, 2)}


class Adjusted(NamedTuple):
    """What is said of a difference among others, as the fields of a `Pair`."""

    difference: WithInterval  # simultaneous
    p: float
    p_holm: float
    level: float  # of the interval by itself


def compare_networks(recipes: Sequence[Recipe], question: Question = AS_USUAL) -> Pairs:
    """Of each recipe its network of the lowest seed, chosen without a look at results."""
    return _compare([recipe.take(0) for recipe in recipes], replace(question, plan=None))


def compare_recipes(recipes: Sequence[Recipe], question: Question = AS_USUAL) -> Pairs:
    """Recipes of three seeds or more; of a plan, at its looks."""
    plan = question.plan
    repeated = [r for r in recipes if r.has_enough_seeds or (plan and plan.find_looks(r))]
    return _compare(repeated, question)


def _compare(recipes: Sequence[Recipe], question: Question) -> Pairs:
    metric, margin, plan = question.metric, question.margin, question.plan
    recipes = [recipe for recipe in recipes if has_metric(recipe, metric)]
    twos, limit, is_validated = choose_pairs(recipes)
    if plan:  # a recipe with a look may have too few seeds where the other one has none
        looked = [take_last_look(plan, *two) for two in twos]
        enough = [all(recipe.has_enough_seeds for recipe in two) for two in looked]
        twos = [*compress(twos, enough)]
    measured = [measure_looks(a, b, metric, plan) for a, b in twos]
    differences = [found for *_, found in measured]
    num_pairs = max(len(twos), plan.num_pairs if plan else 0)
    tests = adjust(differences, num_pairs)
    not_inferior = adjust_in_margin(differences, margin, question.measure.sign, num_pairs)
    pairs = []
    for (a, b, found), test, p in zip(measured, tests, not_inferior, strict=True):
        pair = Pair(
            *(a.label, b.label, a.first.num_test, (len(a.networks), len(b.networks)), *test),
            measure=question.measure,
            margin=margin,
            num_groups=a.first.num_groups,
            p_not_inferior=p,
            costs=("", "") if margin is None else (compare_costs(a, b), compare_costs(b, a)),
        )
        if isinstance(found, PairedDifference):
            f1 = measure(a, b, "f1", pair.level)
            pair = replace(pair, only_a=found.only_a, only_b=found.only_b, f1_difference=f1)
        pairs.append(pair)
    return Pairs(add_sentences(pairs), len(recipes), limit, is_validated)


def has_metric(recipe: Recipe, metric: str) -> bool:
    """Whether all of its networks have it: classes alone give no loss, and an image whose class
    has the probability 0 gives an infinite one."""
    if metric not in ("nll", "brier"):
        return True
    return all(np.isfinite(getattr(network.scores, metric)) for network in recipe.networks)


def rank_recipes(recipes: Sequence[Recipe], question: Question) -> list[Recipe]:
    """The best first, by the mean of the metric; ties by name, last those without that metric."""
    metric, sign = question.metric, question.measure.sign

    def find_place(recipe: Recipe) -> float:
        return -sign * recipe.values(metric).mean() if has_metric(recipe, metric) else np.inf

    return sorted(sort_by_name(recipes), key=find_place)


def choose_pairs(
    recipes: Sequence[Recipe],
) -> tuple[list[tuple[Recipe, Recipe]], int | None, bool]:
    """All pairs that can be compared; of many recipes each with the best on validation data.

    By name, so that no result decides which of a pair is A.
    Also the `limit` of `Pairs` and its `is_validated`.
    """
    twos: list[tuple[Recipe, Recipe]] = []
    limit, is_validated = None, True
    for block in split_comparable(sort_by_name(recipes)):
        if len(block) <= MAX_ALL_PAIRS:
            twos += combinations(block, 2)
            continue
        scores = [recipe.average(lambda network: network.val_score) or 0 for recipe in block]
        best = block[int(np.argmax(scores))]
        twos += [(best, recipe) for recipe in block if recipe is not best]
        limit, is_validated = MAX_ALL_PAIRS, is_validated and max(scores) > 0
    return twos, limit, is_validated


def measure_looks(a: Recipe, b: Recipe, metric: str, plan: Any) -> tuple[Recipe, Recipe, Estimate]:
    """The difference, and of which networks: of recipes of a plan at the last look of both."""
    if plan is None or not (plan.has(a) and plan.has(b)):
        return a, b, measure_difference(a, b, metric)
    looks = zip(plan.find_looks(a), plan.find_looks(b), strict=False)
    estimates = [estimate_difference(*look, metric) for look in looks]
    a, b = take_last_look(plan, a, b)
    return a, b, join_looks(estimate_difference(a, b, metric), estimates, plan.weights)


def take_last_look(plan: Any, *recipes: Recipe) -> tuple[Recipe, ...]:
    """As they were at the last look of a plan that all of them have the seeds of; without such a
    look, as they are."""
    looks = [*zip(*map(plan.find_looks, recipes), strict=False)] if plan else []
    return looks[-1] if looks else recipes


def find_tested(tested: Tested) -> list[tuple[Recipe, ...]]:
    """The two recipes of each pair, as they were tested."""
    by_label, plan = {each.label: each for each in tested.recipes}, tested.question.plan
    pairs = tested.recipe_pairs.pairs
    return [take_last_look(plan, by_label[pair.a], by_label[pair.b]) for pair in pairs]


def measure_difference(a: Recipe, b: Recipe, metric: str) -> Estimate:
    """Of accuracies of two networks as such, by their counts; else as of recipes."""
    if metric == "accuracy" and len(a.networks) == len(b.networks) == 1:
        one, other = a.first.test, b.first.test
        return network_difference(one.correct, other.correct, one.groups)
    return estimate_difference(a, b, metric)


def estimate_difference(a: Recipe, b: Recipe, metric: str = "accuracy") -> Estimate:
    """A's mean of a metric minus B's, over the same images and the seeds of each."""
    two = a.trainings(metric), b.trainings(metric)
    if metric == "accuracy" and a.first.test.groups is not None:
        return difference_over_groups(*two)
    bounds = BOUNDS.get(metric, UNBOUNDED)
    return crossed_difference(*two, bounds=bounds, pseudo_images=metric == "accuracy")


def measure(a: Recipe, b: Recipe, metric: str, level: float) -> WithInterval:
    """The same with its interval, at that level."""
    estimate = estimate_difference(a, b, metric)
    return WithInterval(estimate.value, *estimate.interval(level))


def adjust(differences: Sequence[Estimate], num_pairs: int = 0) -> list[Adjusted]:
    """`num_pairs`: of a plan, where some of its pairs are not there yet."""
    over_all = inference.bonferroni_level(max(num_pairs, len(differences)))
    adjusted = inference.holm([each.p_value for each in differences], num_pairs).tolist()
    rows = []
    for each, p_holm in zip(differences, adjusted, strict=True):
        interval = WithInterval(each.value, *each.interval(over_all))
        level = each.level_at_look(over_all) if isinstance(each, LookedEstimate) else over_all
        rows.append(Adjusted(interval, each.p_value, p_holm, level))
    return rows


def adjust_in_margin(
    differences: Sequence[Estimate], margin: float | None, sign: int, num_pairs: int = 0
) -> list[tuple[float, float]]:
    """That A, and that B, is not worse than the other by the margin: two-sided p, by Holm.

    At most one of a pair's two hypotheses is true. So the smaller p of each pair is adjusted over
    the pairs; so is the larger, which says that neither is worse. `sign` is -1 of losses.
    """
    if margin is None:
        return [(1.0, 1.0)] * len(differences)
    above = [each.p(-margin) if each.centre > -margin else 1.0 for each in differences]
    below = [each.p(margin) if each.centre < margin else 1.0 for each in differences]
    both = np.array([above, below][::sign])
    smaller, larger = (inference.holm(p.tolist(), num_pairs) for p in np.sort(both, axis=0))
    adjusted = np.where(both == both.min(axis=0), smaller, larger)
    return [(float(a), float(b)) for a, b in adjusted.T]


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
    twos, *_ = choose_pairs([*labels])
    for a, b in twos:
        one, other = outcomes[labels[a]], outcomes[labels[b]]
        if np.array_equal(one.index, other.index):
            by_type = sanitize(degradation_differences(one, other))
            if by_type:
                pairs.append(LossDifference(labels[a], labels[b], len(one.index), by_type))
    if len({each.index.tobytes() for each in outcomes.values()}) < 2:
        return pairs, {}
    return pairs, {label: len(each.index) for label, each in outcomes.items()}
