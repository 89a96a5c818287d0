"""Runs that follow a plan: their looks, and where they depart from it.

At a look a recipe is so many of the declared seeds, the first ones, never others.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import combinations, takewhile
from math import comb
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from triptych.errors import UserError
from triptych.runs.reader import sanitize
from triptych.runs.record import Record
from triptych.tools.compare.content import AS_USUAL, MEASURES, Question, Section, Tested
from triptych.tools.compare.formats import join_words, percent
from triptych.tools.compare.pairs import measure
from triptych.tools.compare.recipes import Recipe
from triptych.tools.compare.runs import Problem, TrainedNetwork
from triptych.tools.plan.document import FILE, Plan, read_plan
from triptych.tools.statistics.inference import bonferroni_level
from triptych.tools.statistics.planning import look_weights

MAX_UNPLANNED = 10  # pairs whose interval is shown


def find_plan(
    networks: Sequence[TrainedNetwork], chosen: str | None, problems: list[Problem]
) -> Plan | None:
    """The plan in the file that was chosen, or else that runs carry; None where they carry none, or
    several, which is a problem."""
    if chosen:
        return read_plan(Path(chosen))
    plans: dict[str, Plan] = {}
    for path in [network.folder / FILE for network in networks]:
        try:
            if path.exists():
                plan = read_plan(path)
                plans.setdefault(plan.digest, plan)
        except UserError as error:
            problems.append(Problem(sanitize(str(path.parent)), sanitize(str(error))))
    if len(plans) > 1:
        said = f"runs follow {len(plans)} plans, so none is taken: plan=<file> chooses one"
        problems.append(Problem(sanitize(str(networks[0].folder.parent)), said))
    return next(iter(plans.values())) if len(plans) == 1 else None


def ask_by_plan(plan: Plan, folders: Iterable[Path], usual: Question) -> Question:
    """The plan's question; `folders`: of runs, of which those that diverged count."""
    diverged = set()
    for folder in folders:
        with suppress(UserError):  # it is named where it is read
            if has_diverged(record := Record.open(folder)):
                diverged.add((record.metadata.get("group_hash"), record.metadata.get("seed")))
    margin = plan.margin and plan.margin / MEASURES[plan.metric].per_unit
    followed = Followed(plan, frozenset(diverged), usual)
    return replace(usual, metric=plan.metric, margin=margin, plan=followed)


def has_diverged(record: Record) -> bool:
    """Whether a run ended by its loss, and not by its machine."""
    error = str(record.metadata.get("error"))
    return record.metadata.get("status") == "failed" and error.startswith("the training loss is")


@dataclass(frozen=True, eq=False)
class Followed:
    """A plan, its runs that diverged, (group_hash, seed), and what was asked beside it."""

    plan: Plan
    diverged: frozenset[tuple[Any, Any]] = frozenset()
    asked: Question = AS_USUAL
    _looks: dict[Recipe, list[Recipe]] = field(default_factory=dict, repr=False)

    @property
    def num_pairs(self) -> int:
        return comb(len(self.plan.recipes), 2)

    @property
    def weights(self) -> NDArray[np.float64]:
        """The share of the level that each look spends."""
        return look_weights(self.plan.looks)

    def has(self, recipe: Recipe) -> bool:
        return recipe.first.metadata.get("group_hash") in self.plan.group_hashes

    def find_looks(self, recipe: Recipe) -> list[Recipe]:
        """What a recipe was at each look that it has the seeds of, in order.

        A run that diverged counts as it is: no image is right.
        """
        if recipe not in self._looks:
            group = recipe.first.metadata.get("group_hash")
            by_seed = {s: fail(recipe.first, s) for g, s in self.diverged if g == group}
            by_seed |= {network.metadata["seed"]: network for network in recipe.networks}
            here = self.plan.seeds if self.has(recipe) else []
            networks = [by_seed[seed] for seed in takewhile(by_seed.__contains__, here)]
            self._looks[recipe] = [
                replace(recipe, networks=tuple(networks[:look]), _trainings={})
                for look in self.plan.looks
                if look <= len(networks)
            ]
        return self._looks[recipe]


def fail(network: TrainedNetwork, seed: int) -> TrainedNetwork:
    """The same network with every image wrong."""
    test = network.test
    wrong = (test.labels + 1) % test.num_classes
    logits = np.eye(test.num_classes, dtype=np.float32)[wrong]
    metadata = network.metadata | {"seed": seed}
    return replace(network, metadata=metadata, test=replace(test, logits=logits))


@dataclass(frozen=True, kw_only=True)
class Planned(Section):
    heading: ClassVar[str] = "The plan"
    plan: Plan
    promises: Sequence[str]
    looks: Mapping[str, Sequence[int]]  # done, by recipe
    departures: Sequence[str]

    @property
    def question(self) -> str:
        return str(sanitize(self.plan.question))

    @property
    def written_at(self) -> str:
        """2026-11-27 19:55, as it is recorded."""
        return str(sanitize(self.plan.written_at))[:16].replace("T", " ")

    def describe(self) -> dict[str, Any]:
        declared: dict[str, Any] = sanitize(self.plan.declared)
        per_unit = MEASURES[self.plan.metric].per_unit
        for name in ("margin", "difference"):
            declared[name] = declared[name] and declared[name] / per_unit
        declared["recipes"] = [each["label"] for each in declared["recipes"]]
        return declared | {
            "digest": self.plan.digest,
            "is_intact": self.plan.is_intact,
            "looks_done": self.looks,
            "departures": self.departures,
        }


def build(tested: Tested) -> Planned | None:
    followed = tested.question.plan
    if followed is None:
        return None
    plan, recipes = followed.plan, [each for each in tested.recipes if followed.has(each)]
    looks = {each.label: plan.looks[: len(followed.find_looks(each))] for each in recipes}
    departures = [*find_departures(followed, tested)]
    most = join_words([*map(str, max(looks.values(), key=len, default=[]))])
    done = f"Looked at {most}" if most else "No look is complete"
    sentences = [f"{done} of the planned {join_words([*map(str, plan.looks)])} seeds."]
    if most:
        sentences[0] += (
            " P values and intervals of pairs of recipes are adjusted for the looks; intervals of "
            "single recipes are not."
        )
    if departures:
        sentences.append(f"The runs depart from their plan: {' '.join(departures)}")
    return Planned(
        sentences=tuple(sentences),
        plan=plan,
        promises=[*write_promises(plan)],
        looks=looks,
        departures=departures,
    )


def write_promises(plan: Plan) -> Iterator[str]:
    """What was printed before the first run, in a sentence each."""
    figures: Mapping[str, Any] = next(iter(plan.promised.values()), {})
    words = MEASURES[plan.metric]
    written = {name: words.write_margin(round(value or 0, 4)) for name, value in figures.items()}
    typed = {"difference": plan.difference, "margin": plan.margin}
    written |= {n: words.write_margin(v / words.per_unit) for n, v in typed.items() if v}
    if "detectable" in figures:
        yield f"A difference of {written['detectable']} is found with 80 % chance."
    if "power" in figures and plan.difference:
        power = percent(figures["power"], 0)
        yield f"One of {written['difference']} is found with {power} % chance."
    if "equivalence_power" in figures and plan.margin:
        power = percent(figures["equivalence_power"], 0)
        yield f"Equal recipes are shown to be within {written['margin']} with {power} % chance."
    if figures.get("limit"):
        yield f"On so many images no number of seeds finds less than {written['limit']}."


def find_departures(followed: Followed, tested: Tested) -> Iterator[str]:
    """In a sentence each, what the runs, or the question, have that was not declared."""
    plan, asked = followed.plan, followed.asked
    if not plan.is_intact:
        yield "Its file was edited after it was written: what it says was not declared before."
    if asked.metric not in (AS_USUAL.metric, plan.metric):
        yield f"metric={asked.metric} was asked for now: the planned {plan.metric} counts."
    if asked.margin not in (None, tested.question.margin):
        yield "Another margin was asked for now: the planned one counts."
    recipes = {each.first.metadata.get("group_hash"): each for each in tested.recipes}
    others = [each.label for each in tested.recipes if not followed.has(each)]
    absent = [each.label for each in plan.recipes if each.group_hash not in recipes]
    for names, words in ((others, "not in the plan"), (absent, "planned, but no run is here")):
        if names:
            yield f"{join_words(sanitize(names), 5)}: {words}."
    here = [each for each in tested.recipes if followed.has(each)]
    if here:
        yield from find_other_runs(followed, here)
    yield from find_unplanned_looks(followed, here, tested.question.metric)


def find_other_runs(followed: Followed, here: Sequence[Recipe]) -> Iterator[str]:
    """Of planned recipes: runs before the plan, of other data, or that count without a network."""
    plan, first = followed.plan, here[0].first
    networks = [network for recipe in here for network in recipe.networks]
    if early := sum(each.metadata["started_at"] < plan.written_at for each in networks):
        yield f"{early} of its {len(networks)} runs began before it was written."
    if plan.num_images not in (num_images := (first.num_test, first.num_groups)):
        now = num_images[1] or num_images[0]
        yield f"{now:,} test images, {plan.num_images:,} were planned."
    hashes = (first.metadata[name] for name in ("split_hash", "test_hash"))
    if changed := plan.find_changed_data(*hashes):
        yield f"The data changed: {sanitize(changed)}."
    for planned in plan.recipes:
        for seed in plan.seeds:
            if (planned.group_hash, seed) in followed.diverged:
                yield f"{sanitize(planned.label)} seed {seed} diverged: no image counts as right."


def find_unplanned_looks(
    followed: Followed, recipes: Sequence[Recipe], metric: str
) -> Iterator[str]:
    """Recipes with other seeds than those of their last look, and what all their seeds show."""
    changed = set()
    for recipe in recipes:
        *_, last = [(), *(look.networks for look in followed.find_looks(recipe))]
        if not {*recipe.networks} <= {*last}:
            seeds = [str(network.metadata["seed"]) for network in recipe.networks]
            yield f"{recipe.label} has seeds {join_words(seeds, 20)}: not a planned look."
            changed.add(recipe.label)
    level = bonferroni_level(followed.num_pairs)
    repeated = [recipe for recipe in recipes if recipe.has_enough_seeds]
    twos = [(a, b) for a, b in combinations(repeated, 2) if {a.label, b.label} & changed]
    for a, b in twos[:MAX_UNPLANNED]:
        found, words = measure(a, b, metric, level), MEASURES[metric]
        shown = f"{words.write(found.value)} ({words.write_interval(found)}) {words.unit}".strip()
        yield f"{a.label} − {b.label} with all seeds: {shown}, without a p."
