"""Where the uncertainty of recipes and their differences comes from, and what would narrow it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from triptych.tools.compare.content import (
    Measure,
    Pair,
    Section,
    Tested,
    describe,
    rank_pairs,
)
from triptych.tools.compare.formats import join_words, percent
from triptych.tools.compare.pairs import find_tested, has_metric, take_last_look
from triptych.tools.statistics.components import (
    Components,
    Jackknife,
    estimate_image,
    expect_estimate,
    leave_out_seeds,
    split_variance,
)
from triptych.tools.statistics.inference import WithInterval
from triptych.tools.statistics.planning import Scatter

# What could be bought: so many seeds more of each recipe and times as many images; or any number,
# which leaves a limit.
STEPS = {
    **{"as now": (0, 1), "a seed more each": (1, 1), "twice the images": (0, 2)},
    **{"any number of seeds": (math.inf, 1), "any number of images": (0, math.inf)},
}
SEEDS, TIMES = (3, 5, 10, 20), (1, 4)  # the same by numbers of seeds
MAX_SENTENCES = 3  # in the verdict
# Of trainings as unstable as this, the error over many pairs of few seeds was seen to exceed 5 %.
UNSTABLE, FEW_SEEDS, MANY_PAIRS = 0.003, 5, 3


class Design(NamedTuple):
    """So many seeds of A and B, and test images, and half of the interval that is expected."""

    num_seeds: tuple[float, float]
    num_images: float
    half_width: float
    at_skill_limit: float  # half of it with skill at its upper limit


class RecipeParts(NamedTuple):
    recipe: str
    num_seeds: int
    images: WithInterval  # share of the variance
    seeds: WithInterval
    flips: WithInterval
    skill_sd: WithInterval
    p_flips_alone: float


class PairParts(NamedTuple):
    a: str
    b: str
    images: WithInterval
    seeds: WithInterval
    flips: WithInterval
    designs: dict[str, Design]  # those of `STEPS`, then those of `SEEDS`


@dataclass(frozen=True, kw_only=True)
class Uncertainty(Section):
    heading = "Where the uncertainty comes from"
    measure: Measure
    unit: str  # "images", or "groups" of them, where these belong together
    recipes: Sequence[RecipeParts]
    pairs: Sequence[PairParts]
    advice: Sequence[str]  # what would narrow the interval of the first pairs
    steps = tuple(STEPS)

    @property
    def grid(self) -> list[str]:
        return [name for name in self.pairs[0].designs if name not in STEPS]

    def describe(self) -> dict[str, Any]:
        return {"of": self.unit, "recipes": describe(self.recipes), "pairs": describe(self.pairs)}


def build(tested: Tested) -> Uncertainty | None:
    """Of recipes of three seeds or more, by the metric of the question; of a plan at its looks."""
    question, metric = tested.question, tested.question.metric
    recipes = [take_last_look(question.plan, each)[0] for each in tested.recipes]
    recipes = [each for each in recipes if each.has_enough_seeds and has_metric(each, metric)]
    if not recipes:
        return None
    sample = cache(lambda each: leave_out_seeds(each.values(metric), each.first.test.groups))
    parts = [split_recipe(each.label, sample(each)) for each in recipes]
    twos = {frozenset(each.label for each in two): two for two in find_tested(tested)}
    table = rank_pairs(tested.recipe_pairs.pairs, tested.recipes)
    pairs = []
    for pair in table:
        one, other = twos[frozenset((pair.a, pair.b))]
        two = (one, other) if pair.a == one.label else (other, one)
        pairs.append(split_pair(pair, *map(sample, two)))
    undecided = [n for n, pair in enumerate(table) if pair.verdict == "undecided"]
    scattered = [n for n in undecided if pairs[n].designs["as now"].half_width > 0]
    shown = scattered if len(scattered) <= MAX_SENTENCES else []
    return Uncertainty(
        measure=question.measure,
        unit="groups" if recipes[0].first.num_groups else "images",
        recipes=parts,
        pairs=pairs,
        advice=[
            write_sentence(*each)
            for each in zip(table[:MAX_SENTENCES], pairs, strict=False)
            if each[1].designs["as now"].half_width > 0
        ],
        sentences=(
            *(write_sentence(table[n], pairs[n]) for n in shown),
            *warn_of_unstable(parts, len(pairs), question.measure),
        ),
    )


def split_recipe(label: str, sample: Jackknife) -> RecipeParts:
    parts, n = split_variance(sample), sample.trainings.num_seeds
    shares = share_parts(parts.image, [(parts, n)], sample.trainings.num_images)
    skill_sd = WithInterval(*map(math.sqrt, parts.skill))
    return RecipeParts(label, n, *shares, skill_sd, parts.p_flips_alone)


def split_pair(pair: Pair, a: Jackknife, b: Jackknife) -> PairParts:
    """Half-widths are at the level of the interval in the table of pairs."""
    image, both = estimate_image(a, b), [split_variance(each) for each in (a, b)]
    num_images = a.trainings.num_images
    flips = (both[0].flips.value, both[1].flips.value)
    scatter = Scatter(image.value, (both[0].skill.value, both[1].skill.value), flips)
    at_limit = scatter._replace(skill=(both[0].skill.high, both[1].skill.high))
    designs = {}
    for name, (num_seeds, times) in list_designs(pair.num_seeds).items():
        bought = (num_seeds, times * num_images)
        expected = (expect_estimate(each, *bought) for each in (scatter, at_limit))
        designs[name] = Design(*bought, *(each.interval(pair.level).high for each in expected))
    shares = share_parts(image, [*zip(both, pair.num_seeds, strict=True)], num_images)
    return PairParts(pair.a, pair.b, *shares, designs)


def list_designs(num_seeds: tuple[int, int]) -> dict[str, tuple[tuple[float, float], float]]:
    """Numbers of seeds and how many times the images, by the words for them."""
    n, m = num_seeds
    designs = {name: ((n + more, m + more), times) for name, (more, times) in STEPS.items()}
    for times in TIMES:
        more_images = f", {times} times the images" if times > 1 else ""
        designs |= {f"{each} seeds{more_images}": ((each, each), times) for each in SEEDS}
    return designs


def share_parts(
    image: WithInterval, repeated: Sequence[tuple[Components, int]], num_images: int
) -> tuple[WithInterval, WithInterval, WithInterval]:
    """What images, seeds and flips are of the variance of a mean, or of a difference of two; the
    limits of a share are those with that part alone at the ends of its interval."""
    seeds = sum(np.array(each.skill) / n for each, n in repeated)
    flips = sum(np.array(each.flips) / n for each, n in repeated) / num_images
    parts = np.array([np.array(image) / num_images, seeds, flips])  # value, low, high of each
    value = parts[:, :1]
    total = parts + value.sum() - value
    shares = np.divide(parts, total, out=np.zeros_like(parts), where=total > 0)
    of_images, of_seeds, of_flips = (WithInterval(*each) for each in shares.round(12).tolist())
    return of_images, of_seeds, of_flips


def write_sentence(pair: Pair, parts: PairParts) -> str:
    """What would narrow the interval of a pair that is not decided."""
    unit = "groups" if pair.num_groups else "images"
    shares = [
        (parts.images.value, unit),
        (parts.seeds.value, "seeds"),
        (parts.flips.value, "flips"),
    ]
    made_of = [f"{percent(value, 0)} % from {name}" for value, name in sorted(shares, reverse=True)]
    more = next((f"{n} seeds" for n in SEEDS if n > max(pair.num_seeds)), "twice the images")
    limit = parts.designs["any number of seeds"].half_width
    width, now, least = (
        f"±{pair.measure.write_width(half)}"
        for half in (parts.designs[more].half_width, parts.designs["as now"].half_width, limit)
    )
    never = f"; more seeds alone never give less than {least}" if limit else ""
    return (
        f"The uncertainty of {pair.a} − {pair.b} comes {join_words(made_of)}: "
        f"with {more.replace('images', unit)} expect {width} {pair.measure.unit} "
        f"instead of {now}{never}."
    )


def warn_of_unstable(recipes: Sequence[RecipeParts], num_pairs: int, measure: Measure) -> list[str]:
    """Where few seeds of unstable trainings make many pairs."""
    unstable = [
        each for each in recipes if each.num_seeds < FEW_SEEDS and each.skill_sd.value > UNSTABLE
    ]
    if not unstable or num_pairs <= MANY_PAIRS or measure.unit != "points":
        return []
    return [
        f"With {min(each.num_seeds for each in unstable)} seeds and trainings as unstable as those "
        f"of {join_words([each.recipe for each in unstable], 3)}, the chance of a wrong claim "
        f"among all {num_pairs} pairs may reach 10 %; with {FEW_SEEDS} seeds it stays near 5 %."
    ]
