"""Which rank each recipe may have, which may be the best, and who beats whom when trained anew."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from triptych.tools.compare.content import MEASURES, Measure, Pair, Pairs, Section, Tested
from triptych.tools.compare.formats import MAX_WORDS, fixed, join_words
from triptych.tools.compare.pairs import has_metric
from triptych.tools.compare.recipes import Recipe, split_comparable
from triptych.tools.statistics.inference import WithInterval
from triptych.tools.statistics.ranks import (
    RankInterval,
    estimate_best,
    estimate_win,
    find_rank_intervals,
)

MIN_RANKED = 3  # of two the pair says it all


class Rank(NamedTuple):
    label: str
    interval: RankInterval
    p_best: float  # descriptive


class Ranking(NamedTuple):
    """Of recipes, or of trained networks, that were all tested against each other; best first."""

    kind: Literal["recipe", "trained network"]
    ranks: tuple[Rank, ...]

    @property
    def may_be_best(self) -> list[str]:
        return [each.label for each in self.ranks if each.interval.best == 1]


class Win(NamedTuple):
    """The chance that one new training of A scores better than one of B on these test images."""

    pair: Pair
    chance: WithInterval


@dataclass(frozen=True, kw_only=True)
class Ranks(Section):
    heading = "Ranks, and new trainings"
    measure: Measure
    rankings: tuple[Ranking, ...]
    wins: tuple[Win, ...]

    def describe(self) -> dict[str, Any]:
        rankings = [
            {
                "of": f"{ranking.kind}s",
                "may_be_best": ranking.may_be_best,
                "ranks": [
                    {"name": each.label, **each.interval._asdict(), "p_best": each.p_best}
                    for each in ranking.ranks
                ],
            }
            for ranking in self.rankings
        ]
        wins = [{"a": pair.a, "b": pair.b, **chance._asdict()} for pair, chance in self.wins]
        return {"rankings": rankings, "new_trainings": wins}


def build(tested: Tested) -> Ranks | None:
    """Of recipes; of trained networks where some recipe has too few seeds."""
    metric, recipes = tested.question.metric, tested.recipes
    measure = MEASURES[metric]
    rankings = rank(recipes, tested.recipe_pairs, metric, "recipe")
    if sum(len(each.ranks) for each in rankings) < len(recipes):
        firsts = [recipe.take(0) for recipe in recipes]
        rankings += rank(firsts, tested.network_pairs, metric, "trained network")
    scores = {
        recipe.label: measure.sign * recipe.trainings(metric).by_seed
        for recipe in recipes
        if recipe.has_enough_seeds and has_metric(recipe, metric)
    }
    wins = [
        Win(pair, estimate_win(scores[pair.a], scores[pair.b]))
        for pair in tested.recipe_pairs.pairs
        if {pair.a, pair.b} <= {*scores}
    ]
    if not rankings and not wins:
        return None
    sentences = [write_sentence(ranking, measure) for ranking in rankings]
    if len(wins) == 1:
        sentences.append(write_win(wins[0]))
    return Ranks(
        measure=measure,
        rankings=tuple(rankings),
        wins=tuple(wins),
        sentences=tuple(sentences),
    )


def rank(
    recipes: Sequence[Recipe], pairs: Pairs, metric: str, kind: Literal["recipe", "trained network"]
) -> list[Ranking]:
    """Those that can be compared, in blocks; none of so many that not all pairs were tested."""
    if pairs.limit:
        return []
    tested = {label for pair in pairs.pairs for label in (pair.a, pair.b)}
    rankings = []
    for block in split_comparable([recipe for recipe in recipes if recipe.label in tested]):
        if len(block) >= MIN_RANKED:
            rankings.append(rank_block(block, pairs.pairs, metric, kind))
    return rankings


def rank_block(
    block: Sequence[Recipe],
    pairs: Sequence[Pair],
    metric: str,
    kind: Literal["recipe", "trained network"],
) -> Ranking:
    places = {recipe.label: place for place, recipe in enumerate(block)}
    inside = [pair for pair in pairs if pair.a in places]
    winners = [
        places[getattr(pair, pair.better)] if pair.is_significant else None for pair in inside
    ]
    twos = [(places[pair.a], places[pair.b]) for pair in inside]
    trainings = [recipe.trainings(metric) for recipe in block]
    p_best = estimate_best(trainings, MEASURES[metric].sign)
    intervals = find_rank_intervals(len(block), twos, winners)
    order = sorted(places, key=lambda label: (intervals[places[label]], -p_best[places[label]]))
    ranks = (Rank(each, intervals[places[each]], float(p_best[places[each]])) for each in order)
    return Ranking(kind, tuple(ranks))


def write_sentence(ranking: Ranking, measure: Measure) -> str:
    """Which may be the best."""
    best, num_all = ranking.may_be_best, len(ranking.ranks)
    of = f"Of these {num_all} {ranking.kind}s"
    if len(best) == num_all:
        return f"{of} each may be the best by {measure.name} (95 %)."
    if len(best) == 1:
        return f"{of} {best[0]} is the best by {measure.name} (95 %)."
    names = join_words(best, MAX_WORDS)
    return f"{of} one of {names} is the best by {measure.name}, none of the others (95 %)."


def write_win(win: Win) -> str:
    """The better one first."""
    (one, other), (value, low, high) = (win.pair.a, win.pair.b), win.chance
    if value < 0.5:
        one, other, value, low, high = other, one, 1 - value, 1 - high, 1 - low
    return (
        f"A new training of {one} would beat a new one of {other} on these test images with "
        f"chance {fixed(value, 2)} (95 % {fixed(low, 2)} to {fixed(high, 2)})."
    )
