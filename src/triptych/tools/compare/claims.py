"""Claims that a comparison bears out or does not: `require='a not_inferior b margin=0.5'`.

Levels are two-sided, as everywhere on the page: a claim holds where the interval at 1 - level lies
beyond its margin. Claims of one command are adjusted by Holm, those of a log by their numbers.
"""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from triptych.errors import UserError, closest_matches
from triptych.tools.compare import formats
from triptych.tools.compare.content import SIGNIFICANT, Measure, Question
from triptych.tools.compare.pairs import adjust_in_margin, has_metric, measure_looks
from triptych.tools.compare.recipes import Recipe, split_comparable
from triptych.tools.compare.settings import Claim
from triptych.tools.compare.tries import Try, open_tries
from triptych.tools.statistics import inference
from triptych.tools.statistics.crossed import Estimate
from triptych.tools.statistics.inference import MIN_SEEDS, WithInterval


class Answer(NamedTuple):
    """Whether a claim holds, and by which numbers; fractions, or the unit of a loss."""

    claim: Claim
    kind: Literal["recipes", "networks"]  # networks where both are single ones
    difference: WithInterval  # of A minus B, at the level that is tested
    level: float
    p: float  # two-sided, of the nearest truth of which the claim would be wrong
    tried: Try  # its p is that of the log, or else adjusted by Holm over the claims of one command
    measure: Measure
    num_claims: int  # of that command

    def __str__(self) -> str:
        how = "one of unknown many tries: require_log=<file> counts them"
        if self.num_claims > 1:
            how = f"after Holm over {self.num_claims} claims; {how}"
        if self.tried.number:
            how = f"try {self.tried.number} of the log{', repeated' * self.tried.is_repeated}"
        of = " (of these trained networks)" if self.kind == "networks" else ""
        value = self.measure.write_amount(self.difference.value)
        return (
            f"{'holds' if self.tried.holds else 'does not hold'}: {self.claim}{of}: {value} "
            f"({100 * self.level:.6g} % interval {self.measure.write_interval(self.difference)}; "
            f"{formats.p_statement(self.tried.p)}, tested at {self.tried.level:.2g}; {how})"
        )

    def describe(self) -> dict[str, Any]:
        """For verdict.json."""
        value, low, high = self.difference
        return {
            **{"claim": str(self.claim), "kind": self.kind, "difference": value},
            **{"low": low, "high": high, "level": self.level, "p": self.p},
            "tested": self.tried._asdict(),
        }


def answer_claims(
    claims: Sequence[Claim],
    recipes: Sequence[Recipe],
    question: Question,
    subtract: Callable[[Recipe, Recipe], Estimate],
    log: Path | None = None,
) -> list[Answer]:
    """Test claims, those without a margin by that of the question.

    Raises UserError where one names what cannot be compared, or where the log is not whole.
    """
    measure, tested = question.measure, []
    for claim in claims:
        if claim.margin is None and claim.relation != "better" and question.margin:
            claim = claim._replace(margin=question.margin * measure.per_unit)
        a, b = find_pair(claim, recipes, question.metric)
        check_planned(claim, a, b, question.plan)
        found, margin = subtract(a, b), (claim.margin or 0) / measure.per_unit
        p = find_p(claim.relation, margin, found, measure.sign)
        tested.append((claim, a, b, found, p))
    if log:
        with open_tries(log) as tries:
            tried = [
                tries.test(str(claim), make_key(question.metric, claim, a, b), p)
                for claim, a, b, _, p in tested
            ]
    else:
        adjusted = inference.holm([p for *_, p in tested]).tolist()
        tried = [Try(p, SIGNIFICANT, p < SIGNIFICANT) for p in adjusted]
    answers = []
    for (claim, a, b, found, p), each in zip(tested, tried, strict=True):
        level = 1 - each.level / (1 if log else len(claims))
        difference = WithInterval(found.value, *found.interval(level))
        kind: Literal["recipes", "networks"] = "recipes" if is_of_recipes(a, b) else "networks"
        answers.append(Answer(claim, kind, difference, level, p, each, measure, len(claims)))
    return answers


def check_planned(claim: Claim, a: Recipe, b: Recipe, plan: Any) -> None:
    """Raise UserError where a recipe of a plan, which has looks, is to be set against a network."""
    repeated = [each for each in (a, b) if len(each.networks) > 1]
    if plan and len(repeated) == 1 and plan.has(repeated[0]):
        raise UserError(
            f"require={claim}: {repeated[0].label} is a recipe of a plan; name another of it, "
            "or two trained networks"
        )


def subtract_values(a: Recipe, b: Recipe, question: Question) -> Estimate:
    """By the metric that is asked for: of recipes of a plan at its looks."""
    plan = question.plan if is_of_recipes(a, b) else None
    *_, difference = measure_looks(a, b, question.metric, plan)
    return difference


def is_of_recipes(a: Recipe, b: Recipe) -> bool:
    """Whether it is a claim about recipes, at least about one of them."""
    return len(a.networks) > 1 or len(b.networks) > 1


def find_p(relation: str, margin: float, difference: Estimate, sign: int) -> float:
    """Two-sided; the exact test where A is claimed to be better by any amount."""
    if relation == "better" and not margin:
        return difference.p_value if sign * difference.value > 0 else 1.0
    margin = -margin if relation == "better" else margin
    [(a, b)] = adjust_in_margin([difference], margin, sign)
    return max(a, b) if relation == "equivalent" else a


def make_key(metric: str, claim: Claim, a: Recipe, b: Recipe) -> dict[str, Any]:
    """What makes it the same as an earlier try, whatever its networks are called now."""
    test = a.first.test
    images = hashlib.sha256(test.index.tobytes() + test.labels.tobytes()).hexdigest()
    digests = {name: [n.digest for n in each.networks] for name, each in (("a", a), ("b", b))}
    asked = {"metric": metric, "relation": claim.relation, "margin": claim.margin}
    return {**asked, **digests, "images": images}


def find_pair(claim: Claim, recipes: Sequence[Recipe], metric: str) -> tuple[Recipe, Recipe]:
    """Recipes of three seeds or more, or single networks by their labels.

    Raises UserError where there are no such two, or where they cannot be compared.
    """
    a, b = (find_named(claim, label, recipes) for label in (claim.a, claim.b))
    if a.label == b.label:
        raise UserError(f"require={claim}: names {a.label} twice")
    if len(split_comparable([a, b])) > 1:
        raise UserError(f"require={claim}: the two have other test images, splits or classes")
    if not (has_metric(a, metric) and has_metric(b, metric)):
        raise UserError(f"require={claim}: of one only the classes are known, {metric} takes more")
    return a, b


def find_named(claim: Claim, label: str, recipes: Sequence[Recipe]) -> Recipe:
    networks = {network.label: (r, n) for r in recipes for n, network in enumerate(r.networks)}
    named = next((recipe for recipe in recipes if recipe.label == label), None)
    if named and named.has_enough_seeds:
        return named
    if label in networks:
        recipe, place = networks[label]
        return recipe.take(place)
    if named:
        raise UserError(
            f"require={claim}: {label} has {formats.pluralize(len(named.networks), 'seed')}, "
            f"a claim about a recipe takes {MIN_SEEDS}\n"
            f"its trained network has a name of its own: {named.first.label}"
        )
    nearest = closest_matches(label, [*networks, *(recipe.label for recipe in recipes)])
    raise UserError(f"require={claim}: nothing here is called {label}; nearest: {nearest}")
