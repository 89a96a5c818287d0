"""Where the uncertainty of recipes and their differences comes from, and what would narrow it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from triptych.tools.compare.content import MEASURES, Measure, Pair, Section, Tested
from triptych.tools.compare.formats import join_words, percent
from triptych.tools.compare.pairs import has_metric
from triptych.tools.statistics.components import (
    Components,
    Jackknife,
    estimate_image,
    expect_estimate,
    leave_out_seeds,
    split_variance,
)
from triptych.tools.statistics.inference import WithInterval, bonferroni_level
from triptych.tools.statistics.planning import Scatter

SEEDS = (3, 5, 10, 20)
DESIGNS = (  # what could be bought, then what infinitely many would leave
    *("as now", "a seed more each", "twice the images", "any number of seeds"),
    *("any number of images", *(f"{n} seeds" for n in SEEDS)),
    *(f"{n} seeds, 4 times the images" for n in SEEDS),
)
MAX_SENTENCES = 3
# Of trainings as unstable as this, the error over many pairs of few seeds was seen to exceed 5 %.
UNSTABLE, FEW_SEEDS, MANY_PAIRS = 0.003, 5, 3


class Shares(NamedTuple):
    """Of a variance; the limits are those with that part at the ends of its interval alone."""

    images: WithInterval
    seeds: WithInterval
    flips: WithInterval


class Design(NamedTuple):
    """So many seeds of A and B, and test images, and half of the interval that is expected."""

    num_seeds: tuple[float, float]
    num_images: float
    half_width: float
    at_skill_limit: float  # half of it with skill at its upper limit


class RecipeParts(NamedTuple):
    label: str
    num_seeds: int
    components: Components
    shares: Shares

    @property
    def skill_sd(self) -> WithInterval:
        return WithInterval(*map(math.sqrt, self.components.skill))


class PairParts(NamedTuple):
    pair: Pair
    shares: Shares
    designs: tuple[Design, ...]  # by DESIGNS


@dataclass(frozen=True, kw_only=True)
class Uncertainty(Section):
    heading = "Where the uncertainty comes from"
    measure: Measure
    unit: str  # "images", or "groups" of them, where these belong together
    recipes: tuple[RecipeParts, ...]
    pairs: tuple[PairParts, ...]

    @property
    def fewest(self) -> RecipeParts:
        """Whose skill is known worst."""
        return min(self.recipes, key=lambda each: (each.num_seeds, -each.skill_sd.high))

    @property
    def names(self) -> list[str]:
        return [name.replace("images", self.unit) for name in DESIGNS]

    def describe(self) -> dict[str, Any]:
        recipes = [
            {"recipe": each.label, "num_seeds": each.num_seeds, **_describe(each.shares)}
            | {"skill_sd": each.skill_sd._asdict()}
            | {"p_flips_alone": each.components.p_flips_alone}
            for each in self.recipes
        ]
        pairs = [
            {"a": each.pair.a, "b": each.pair.b, **_describe(each.shares)}
            | {"designs": {n: d._asdict() for n, d in zip(DESIGNS, each.designs, strict=True)}}
            for each in self.pairs
        ]
        return {"of": self.unit, "recipes": recipes, "pairs": pairs}


def _describe(shares: Shares) -> dict[str, Any]:
    return {name: share._asdict() for name, share in shares._asdict().items()}


def build(tested: Tested) -> Uncertainty | None:
    """Of recipes of three seeds or more, by the metric of the question."""
    metric = tested.question.metric
    enough = [each for each in tested.recipes if each.has_enough_seeds and has_metric(each, metric)]
    if not enough:
        return None
    samples = {each.label: leave_out_seeds(each.values(metric)) for each in enough}
    pairs = [pair for pair in tested.recipe_pairs.pairs if {pair.a, pair.b} <= {*samples}]
    measure, level = MEASURES[metric], bonferroni_level(len(pairs))
    recipes = [split_recipe(label, sample) for label, sample in samples.items()]
    parts = [split_pair(pair, samples[pair.a], samples[pair.b], level) for pair in pairs]
    undecided = [each for each in parts if each.pair.verdict == "undecided"]
    undecided.sort(key=lambda each: each.pair.p_holm)
    return Uncertainty(
        measure=measure,
        unit="groups" if enough[0].first.num_groups else "images",
        recipes=tuple(recipes),
        pairs=tuple(parts),
        sentences=(
            *(write_sentence(each, measure) for each in undecided[:MAX_SENTENCES]),
            *warn_of_unstable(recipes, len(pairs), measure),
        ),
    )


def split_recipe(label: str, sample: Jackknife) -> RecipeParts:
    components, trainings = split_variance(sample), sample.trainings
    shares = share_parts(components.image, [(components, trainings.num_seeds)], sample)
    return RecipeParts(label, trainings.num_seeds, components, shares)


def split_pair(pair: Pair, a: Jackknife, b: Jackknife, level: float) -> PairParts:
    """At the level of the intervals in the table of pairs."""
    image, both = estimate_image(a, b), [split_variance(each) for each in (a, b)]
    flips = (both[0].flips.value, both[1].flips.value)
    scatter = Scatter(image.value, (both[0].skill.value, both[1].skill.value), flips)
    at_limit = scatter._replace(skill=(both[0].skill.high, both[1].skill.high))

    def expect(num_seeds: tuple[float, float], num_images: float) -> Design:
        estimates = (expect_estimate(each, num_seeds, num_images) for each in (scatter, at_limit))
        return Design(num_seeds, num_images, *(each.interval(level).high for each in estimates))

    (n, m), num_images = pair.num_seeds, a.trainings.num_images
    bought = [((n, m), 1.0), ((n + 1, m + 1), 1.0), ((n, m), 2.0)]
    limits = [((math.inf, math.inf), 1.0), ((n, m), math.inf)]
    grid = [((each, each), k) for k in (1.0, 4.0) for each in SEEDS]
    designs = (expect(seeds, k * num_images) for seeds, k in (*bought, *limits, *grid))
    shares = share_parts(image, list(zip(both, (n, m), strict=True)), a)
    return PairParts(pair, shares, tuple(designs))


def share_parts(
    image: WithInterval, repeated: Sequence[tuple[Components, int]], sample: Jackknife
) -> Shares:
    """Of the variance of a mean over seeds and images, or of a difference of two."""
    num_images = sample.trainings.num_images
    seeds = (sum(each.skill[k] / n for each, n in repeated) for k in range(3))
    flips = (sum(each.flips[k] / n for each, n in repeated) / num_images for k in range(3))
    parts = [[each / num_images for each in image], [*seeds], [*flips]]
    total, shares = sum(part[0] for part in parts), []
    for part in parts:
        rest = total - part[0]
        shares.append(WithInterval(*(x / (x + rest) if x + rest > 0 else 0.0 for x in part)))
    return Shares(*shares)


def write_sentence(parts: PairParts, measure: Measure) -> str:
    """What would narrow the interval of a pair that is not decided."""
    images = "groups of test images" if parts.pair.num_groups else "test images"
    words = zip((images, "seeds", "flips"), parts.shares, strict=True)
    shares = join_words([f"{percent(share.value, 0)} % is {word}" for word, share in words])
    widths = [measure.write_width(each.half_width) for each in parts.designs]
    by_design = dict(zip(DESIGNS, widths, strict=True))
    most = max(parts.pair.num_seeds)
    expected = f"expect ±{widths[0]} {measure.unit}"
    if more := next((n for n in SEEDS if n > most), None):
        expected = (
            f"{more} seeds each instead of {most} would narrow the expected ±{widths[0]} to "
            f"±{by_design[f'{more} seeds']} {measure.unit}"
        )
    least = by_design["any number of seeds"]
    of = f"{parts.pair.a} − {parts.pair.b}"
    return f"Of the uncertainty of {of} {shares}: {expected}, more seeds never below ±{least}."


def warn_of_unstable(recipes: Sequence[RecipeParts], num_pairs: int, measure: Measure) -> list[str]:
    """Where few seeds of unstable trainings make many pairs."""
    few = [each for each in recipes if each.num_seeds < FEW_SEEDS]
    unstable = [each.label for each in recipes if each.skill_sd.value > UNSTABLE]
    if not (few and unstable and num_pairs > MANY_PAIRS and measure.unit == "points"):
        return []
    return [
        f"With {min(each.num_seeds for each in few)} seeds and trainings as unstable as those of "
        f"{join_words(unstable, 3)}, the error over all {num_pairs} pairs may reach 10 %; "
        f"{FEW_SEEDS} seeds keep 5 %."
    ]
