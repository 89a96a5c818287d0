"""The section `scores`: recipes by every score that has a value an image, not by accuracy alone.

The negative log-likelihood comes twice: as trained, where calibration counts, and after the
temperature that suits each network's validation images best, where discrimination is left.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

from triptych.tools.compare.content import MEASURES, SIGNIFICANT, Measure, Pair, Section, Tested
from triptych.tools.compare.formats import join_words, pluralize
from triptych.tools.compare.pairs import BOUNDS, adjust, estimate_difference, has_metric
from triptych.tools.compare.recipes import Recipe
from triptych.tools.compare.runs import Problem, read_optional, read_val_predictions
from triptych.tools.statistics.calibration import best_temperature, scale
from triptych.tools.statistics.crossed import UNBOUNDED, crossed_mean
from triptych.tools.statistics.inference import Interval, WithInterval
from triptych.tools.statistics.scores import image_nll

SCALED = "nll_after_temperature"
FEW = 0.01  # of the images; they should not make most of the scatter
MAX_PAIRS = 10  # on the page: of more, those that differ are counted
MAX_SENTENCES = 3


SCORES = {
    **{metric: MEASURES[metric] for metric in ("accuracy", "f1")},
    "nll": MEASURES["nll"]._replace(name="NLL as trained"),
    SCALED: MEASURES["nll"]._replace(name="NLL after the temperature"),
    "brier": MEASURES["brier"],
}


class ScorePair(NamedTuple):
    """A score of recipe A minus that of B; interval and Holm over the pairs of that score."""

    metric: str  # of SCORES
    measure: Measure
    a: str
    b: str
    difference: WithInterval
    p: float
    p_adjusted: float
    is_carried_by_few: bool  # of a loss, whose scatter over images a few make

    @property
    def better(self) -> str | None:
        """Of the two, where they differ significantly."""
        gain = self.measure.sign * self.difference.value
        return (self.a if gain > 0 else self.b) if gain and self.p_adjusted < SIGNIFICANT else None


@dataclass(frozen=True, kw_only=True)
class ScoresSection(Section):
    heading: ClassVar[str] = "Other scores"
    columns: Sequence[tuple[str, Measure, Mapping[str, WithInterval]]]  # by the recipe's label
    pairs: Sequence[ScorePair]
    is_planned: bool  # by a plan, whose looks adjust its own metric alone

    @property
    def visible(self) -> Sequence[ScorePair]:
        """The pairs, where they are not too many."""
        return self.pairs if len({(pair.a, pair.b) for pair in self.pairs}) <= MAX_PAIRS else ()

    @property
    def summary(self) -> str:
        """How many pairs differ by each score, and of which of those shown a few images decide."""
        parts = []
        for metric in dict.fromkeys(pair.metric for pair in self.pairs):
            same = [pair for pair in self.pairs if pair.metric == metric]
            num = sum(pair.better is not None for pair in same)
            parts.append(f"{num} of {pluralize(len(same), 'pair')} by {same[0].measure.name}")
        few = [f"{p.a} and {p.b} by {p.measure.name}" for p in self.visible if p.is_carried_by_few]
        carried = f" A few images carry the difference of {join_words(few, 5)}: 1 % of them make "
        carried = f"{carried}more than half of its scatter." if few else ""
        where = "" if self.visible else " verdict.json has each pair."
        looks = " These are not adjusted for the looks of the plan." if self.is_planned else ""
        return f"Significant after Holm: {join_words(parts)}.{looks}{where}{carried}"

    def describe(self) -> dict[str, Any]:
        values = [
            {"metric": metric, "recipe": label, **value._asdict()}
            for metric, _, by_recipe in self.columns
            for label, value in by_recipe.items()
        ]
        pairs = []
        for pair in self.pairs:
            value, low, high = pair.difference
            own = pair._asdict() | {"difference": value, "low": low, "high": high}
            del own["measure"]
            pairs.append(own | {"better": pair.better})
        return {"values": values, "pairs": pairs}


def build(tested: Tested) -> ScoresSection | None:
    """Of recipes that are compared; None without such."""
    table = [pair.better_first for pair in tested.recipe_pairs.pairs]
    labels = {label for pair in table for label in (pair.a, pair.b)}
    # at a look of a plan a recipe may be fewer networks, and runs that diverged
    recipes = [each for each in tested.recipes if each.label in labels and each.has_enough_seeds]
    if not recipes:
        return None
    columns, pairs = [], []
    for metric, measure in SCORES.items():
        known = {r.label: r for r in recipes if has_score(r, metric, tested.problems)}
        bounds = Interval(0, BOUNDS.get(metric, UNBOUNDED).high)
        means = {k: crossed_mean(r.trainings(metric), bounds) for k, r in known.items()}
        if means:
            values = {k: WithInterval(m.value, *m.interval()) for k, m in means.items()}
            columns.append((metric, measure, values))
        if metric != tested.question.metric:  # of which the pairs themselves are
            twos = [(known[p.a], known[p.b]) for p in table if {p.a, p.b} <= known.keys()]
            pairs += compare_scores(metric, twos)
    sentences = [*write_contradictions(table, pairs)][:MAX_SENTENCES]
    is_planned = tested.question.plan is not None
    return ScoresSection(
        columns=columns, pairs=pairs, is_planned=is_planned, sentences=tuple(sentences)
    )


def has_score(recipe: Recipe, metric: str, problems: list[Problem]) -> bool:
    """Whether its networks have what a score takes: probabilities, and those in validation."""
    if metric != SCALED:
        return has_metric(recipe, metric)
    values = []
    for network in recipe.networks if has_metric(recipe, "nll") else ():
        if val := read_optional(read_val_predictions, network, problems):
            values.append(image_nll(scale(network.test, best_temperature(val))))
    if len(values) < len(recipe.networks):
        return False
    recipe.add_score(SCALED, values)
    return True


def compare_scores(metric: str, twos: Sequence[tuple[Recipe, Recipe]]) -> list[ScorePair]:
    tested = adjust([estimate_difference(a, b, metric) for a, b in twos])
    measure = SCORES[metric]
    return [
        ScorePair(
            *(metric, measure, a.label, b.label, found.difference, found.p, found.p_holm),
            is_carried_by_few=measure.sign < 0 and is_carried_by_few(a, b, metric),
        )
        for (a, b), found in zip(twos, tested, strict=True)
    ]


def is_carried_by_few(a: Recipe, b: Recipe, metric: str) -> bool:
    """Whether a hundredth of the images make more than half of the scatter of the difference."""
    difference = a.trainings(metric).by_image - b.trainings(metric).by_image
    squares = np.sort((difference - difference.mean()) ** 2)
    return bool(squares[-math.ceil(FEW * len(squares)) :].sum() > squares.sum() / 2)


def write_contradictions(pairs: Sequence[Pair], scores: Sequence[ScorePair]) -> Iterator[str]:
    """Where another score says that the other recipe is better."""
    verdicts = {(pair.a, pair.b): pair.verdict for pair in pairs}
    for each in scores:
        better = {"a_better": each.a, "b_better": each.b}.get(verdicts[each.a, each.b])
        if better and each.better not in (better, None):
            measure = each.measure
            difference = measure.write_amount(each.difference.value)
            yield (
                f"By {measure.name} it is the other way round, {each.better} is better than "
                f"{better}: {each.a} − {each.b} is {difference} "
                f"(95 % CI {measure.write_interval(each.difference)})."
            )
