"""Which rank each recipe may have, which may be the best, and who beats whom when trained anew."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from triptych.tools.compare.content import Measure, Pair, Pairs, Question, Section, Tested
from triptych.tools.compare.formats import MAX_WORDS, fixed, join_words
from triptych.tools.compare.pairs import find_tested, take_last_look
from triptych.tools.compare.recipes import Recipe, split_comparable
from triptych.tools.statistics.inference import WithInterval
from triptych.tools.statistics.ranks import (
    RankInterval,
    estimate_best,
    estimate_win,
    find_rank_intervals,
)

MIN_RANKED = 3  # of two the pair says it all

Kind = Literal["recipe", "trained network"]


class Rank(NamedTuple):
    label: str
    interval: RankInterval
    p_best: float  # descriptive


class Ranking(NamedTuple):
    """Of recipes, or of trained networks, that were all tested against each other; best first."""

    kind: Kind
    ranks: tuple[Rank, ...]

    @property
    def may_be_best(self) -> list[str]:
        return [each.label for each in self.ranks if each.interval.best == 1]


class Win(NamedTuple):
    """The chance that one new training of A scores better than one of B on these test images."""

    a: str  # the better one
    b: str
    chance: WithInterval


@dataclass(frozen=True, kw_only=True)
class Ranks(Section):
    heading = "Ranks, and new trainings"
    measure: Measure
    rankings: Sequence[Ranking]
    wins: Sequence[Win]

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
        wins = [{"a": a, "b": b, **chance._asdict()} for a, b, chance in self.wins]
        return {"rankings": rankings, "new_trainings": wins}


def build(tested: Tested) -> Ranks | None:
    """Of recipes; of trained networks where some recipe has too few seeds."""
    question = tested.question
    recipes = [take_last_look(question.plan, each)[0] for each in tested.recipes]
    rankings = rank(recipes, tested.recipe_pairs, question, "recipe")
    if sum(len(each.ranks) for each in rankings) < len(recipes):
        firsts = [recipe.take(0) for recipe in tested.recipes]
        rankings += rank(firsts, tested.network_pairs, question, "trained network")
    wins = [estimate_chance(two, question) for two in find_tested(tested)]
    if not rankings and not wins:
        return None
    sentences = [write_sentence(ranking, question.measure) for ranking in rankings]
    if len(wins) == 1:
        sentences.append(write_win(wins[0]))
    return Ranks(measure=question.measure, rankings=rankings, wins=wins, sentences=tuple(sentences))


def rank(recipes: Sequence[Recipe], pairs: Pairs, question: Question, kind: Kind) -> list[Ranking]:
    """Those that can be compared, in blocks; none of so many that not all pairs were tested."""
    tested = {label for pair in pairs.pairs for label in (pair.a, pair.b)}
    blocks = split_comparable([recipe for recipe in recipes if recipe.label in tested])
    return [
        Ranking(kind, rank_block(block, pairs.pairs, question))
        for block in blocks
        if len(block) >= MIN_RANKED and not pairs.limit
    ]


def rank_block(
    block: Sequence[Recipe], pairs: Sequence[Pair], question: Question
) -> tuple[Rank, ...]:
    places = {recipe.label: place for place, recipe in enumerate(block)}
    wins = [
        (places[pair.a], places[pair.b]) if pair.better == "a" else (places[pair.b], places[pair.a])
        for pair in pairs
        if pair.is_significant and pair.a in places
    ]
    intervals = find_rank_intervals(len(block), wins)
    trainings = [recipe.trainings(question.metric) for recipe in block]
    p_best = estimate_best(trainings, question.measure.sign).tolist()
    ranks = map(Rank, places, intervals, p_best)
    return tuple(sorted(ranks, key=lambda each: (each.interval, -each.p_best)))


def estimate_chance(recipes: Sequence[Recipe], question: Question) -> Win:
    scores = {
        each.label: question.measure.sign * each.trainings(question.metric).by_seed
        for each in recipes
    }
    better, worse = sorted(scores, key=lambda label: -scores[label].mean())
    return Win(better, worse, estimate_win(scores[better], scores[worse]))


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
    value, low, high = (fixed(each, 2) for each in win.chance)
    return (
        f"A new training of {win.a} would beat a new one of {win.b} on these test images with "
        f"chance {value} (95 % {low} to {high})."
    )
