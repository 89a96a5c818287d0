"""Which rank each recipe may have, which may be the best, and who beats whom when trained anew."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from triptych.tools.compare.content import Measure, Pair, Pairs, Question, Section, Tested, describe
from triptych.tools.compare.formats import MAX_WORDS, chance, join_words
from triptych.tools.compare.pairs import find_tested, take_last_look
from triptych.tools.compare.recipes import Recipe, sort_by_name, split_comparable
from triptych.tools.statistics.ranks import estimate_best, estimate_win, find_rank_intervals

MIN_RANKED = 3  # of two the pair says it all


class Rank(NamedTuple):
    name: str
    best: int  # 1 is the best of all
    worst: int
    p_best: float  # descriptive


class Ranking(NamedTuple):
    """Of recipes, or of trained networks, that were all tested against each other; best first."""

    of: str
    may_be_best: list[str]
    ranks: list[Rank]


class Win(NamedTuple):
    """The chance that one new training of A scores better than one of B on these test images."""

    a: str  # the better one
    b: str
    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Ranks(Section):
    heading = "Ranks, and new trainings"
    measure: Measure
    rankings: Sequence[Ranking]
    wins: Sequence[Win]

    def describe(self) -> dict[str, Any]:
        return {"rankings": describe(self.rankings), "new_trainings": describe(self.wins)}


def build(tested: Tested) -> Ranks | None:
    """Of recipes; of trained networks where some recipe has too few seeds."""
    question = tested.question
    recipes = [take_last_look(question.plan, each)[0] for each in tested.recipes]
    rankings = rank(recipes, tested.recipe_pairs, question, "recipes")
    if sum(len(each.ranks) for each in rankings) < len(recipes):
        firsts = [recipe.take(0) for recipe in tested.recipes]
        rankings += rank(firsts, tested.network_pairs, question, "trained networks")
    wins = [estimate_chance(two, question) for two in find_tested(tested)]
    if not rankings and not wins:
        return None
    sentences = [write_sentence(ranking, question.measure) for ranking in rankings]
    if len(wins) == 1:
        sentences.append(write_win(wins[0], question.measure))
    return Ranks(measure=question.measure, rankings=rankings, wins=wins, sentences=tuple(sentences))


def rank(recipes: Sequence[Recipe], pairs: Pairs, question: Question, of: str) -> list[Ranking]:
    """Those that can be compared, in blocks; none of so many that not all pairs were tested."""
    tested = {label for pair in pairs.pairs for label in (pair.a, pair.b)}
    rankings = []
    shown = sort_by_name(recipe for recipe in recipes if recipe.label in tested)
    for block in split_comparable(shown):
        if len(block) >= MIN_RANKED and not pairs.limit:
            ranks = rank_block(block, pairs.pairs, question)
            rankings.append(Ranking(of, [each.name for each in ranks if each.best == 1], ranks))
    return rankings


def rank_block(block: Sequence[Recipe], pairs: Sequence[Pair], question: Question) -> list[Rank]:
    places = {recipe.label: place for place, recipe in enumerate(block)}
    wins = [
        (places[pair.a], places[pair.b]) if pair.better == "a" else (places[pair.b], places[pair.a])
        for pair in pairs
        if pair.is_significant and pair.a in places
    ]
    intervals = find_rank_intervals(len(block), wins)
    trainings = [recipe.trainings(question.metric) for recipe in block]
    p_best = estimate_best(trainings, question.measure.sign).tolist()
    ranks = (Rank(name, *intervals[place], p_best[place]) for name, place in places.items())
    return sorted(ranks, key=lambda each: (each.best, each.worst, -each.p_best))


def estimate_chance(recipes: Sequence[Recipe], question: Question) -> Win:
    scores = {
        each.label: question.measure.sign * each.trainings(question.metric).by_seed
        for each in recipes
    }
    better, worse = sorted(scores, key=lambda label: -scores[label].mean())
    return Win(better, worse, *estimate_win(scores[better], scores[worse]))


def write_sentence(ranking: Ranking, measure: Measure) -> str:
    """Which may be the best."""
    best = ranking.may_be_best
    of = f"Of these {len(ranking.ranks)} {ranking.of}"
    if len(best) == len(ranking.ranks):
        return f"{of} each may be the best by {measure.name} (95 %)."
    if len(best) == 1:
        return f"{of} {best[0]} is the best by {measure.name} (95 %)."
    names = join_words(best, MAX_WORDS)
    return f"{of} one of {names} is the best by {measure.name}, none of the others (95 %)."


def write_win(win: Win, measure: Measure) -> str:
    value, low, high = map(chance, win[2:])
    return (
        f"A new training of {win.a} would beat a new one of {win.b} in {measure.name} on these "
        f"test images with chance {value} (95 % {low} to {high})."
    )
