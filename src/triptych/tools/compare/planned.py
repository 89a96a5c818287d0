"""Runs that follow a plan: their looks, and where they depart from it.

At a look a recipe is so many of the declared seeds, the first ones, never others.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import combinations
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from triptych.errors import UserError
from triptych.runs.reader import FINITE, sanitize
from triptych.runs.record import Record
from triptych.tools.compare.content import MEASURES, Question, Section, Tested
from triptych.tools.compare.formats import join_words, percent
from triptych.tools.compare.pairs import measure
from triptych.tools.compare.recipes import Recipe
from triptych.tools.compare.runs import Problem, TrainedNetwork
from triptych.tools.plan.document import FILE, Plan, read_plan
from triptych.tools.statistics.inference import bonferroni_level

MAX_UNPLANNED = 10  # pairs whose interval is shown


@dataclass(frozen=True, eq=False)
class Followed:
    """A plan, the runs of it that diverged, (group_hash, seed), and what it was asked besides."""

    plan: Plan
    diverged: frozenset[tuple[Any, Any]] = frozenset()
    undeclared: Sequence[str] = ()
    _looks: dict[Recipe, list[Recipe]] = field(default_factory=dict, repr=False)

    @property
    def num_pairs(self) -> int:
        return self.plan.num_pairs

    @property
    def weights(self) -> list[float]:
        return self.plan.weights

    def has(self, recipe: Recipe) -> bool:
        return recipe.first.metadata.get("group_hash") in self.plan.group_hashes

    def find_looks(self, recipe: Recipe) -> list[Recipe]:
        """What a recipe was at each look that it has the seeds of, in order.

        A run that diverged counts as it is: no image is right.
        """
        if recipe not in self._looks:
            name, here = recipe.first.metadata.get("group_hash"), self.has(recipe)
            by_seed = {s: fail(recipe.first, s) for group, s in self.diverged if group == name}
            by_seed |= {network.metadata["seed"]: network for network in recipe.networks}
            seeds = [by_seed.get(seed) for seed in self.plan.seeds]
            self._looks[recipe] = [
                replace(recipe, networks=tuple(filter(None, seeds[:look])), _trainings={})
                for look in self.plan.looks
                if here and None not in seeds[:look]
            ]
        return self._looks[recipe]


def fail(network: TrainedNetwork, seed: int) -> TrainedNetwork:
    """The same network with every image wrong."""
    test = network.test
    wrong = (test.labels + 1) % test.num_classes
    logits = np.eye(test.num_classes, dtype=np.float32)[wrong]
    metadata = network.metadata | {"seed": seed}
    return replace(network, metadata=metadata, test=replace(test, logits=logits))


def has_diverged(record: Record) -> bool:
    """Whether a run ended by its loss, and not by its machine."""
    error = str(record.metadata.get("error"))
    return record.metadata.get("status") == "failed" and error.startswith("the training loss is")


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
    margin = plan.margin / MEASURES[plan.metric].per_unit if plan.margin else None
    undeclared = [f"metric={usual.metric}"] * (usual.metric not in ("accuracy", plan.metric))
    undeclared += ["another margin"] * (usual.margin not in (None, margin))
    followed = Followed(plan, frozenset(diverged), undeclared)
    return replace(usual, metric=plan.metric, margin=margin, plan=followed)


@dataclass(frozen=True, kw_only=True)
class Planned(Section):
    heading: ClassVar[str] = "The plan"
    plan: Plan
    question: str
    written_at: str
    promise: str
    looks: Mapping[str, Sequence[int]]  # done, by recipe
    departures: Sequence[str]

    def describe(self) -> dict[str, Any]:
        declared: dict[str, Any] = sanitize(self.plan.declared) | {"digest": self.plan.digest}
        per_unit = MEASURES[self.plan.metric].per_unit
        for name in ("margin", "difference"):
            declared[name] = declared[name] and declared[name] / per_unit
        declared["recipes"] = [each["label"] for each in declared["recipes"]]
        looks = {label: [*done] for label, done in self.looks.items()}
        is_intact = self.plan.is_intact
        done = {"looks_done": looks, "is_intact": is_intact, "departures": [*self.departures]}
        return declared | done


def build(tested: Tested) -> Planned | None:
    followed = tested.question.plan
    if followed is None:
        return None
    plan, recipes = followed.plan, [each for each in tested.recipes if followed.has(each)]
    looks = {each.label: plan.looks[: len(followed.find_looks(each))] for each in recipes}
    departures = [*find_departures(followed, tested)]
    most: list[int] = max(looks.values(), key=len, default=[])
    done = f"Looked at {join_numbers(most)}" if most else "No look is complete"
    said = f"{done} of the planned {join_numbers(plan.looks)} seeds"
    if most:
        said += "; p values and intervals of recipes are adjusted for the looks"
    sentences = [f"{said} (declared {sanitize(plan.written_at)[:10]})."]
    if departures:
        sentences.append(f"It departs from its plan: {' '.join(departures)}")
    return Planned(
        sentences=tuple(sentences),
        plan=plan,
        question=sanitize(plan.question),
        written_at=sanitize(plan.written_at),
        promise=describe_promise(plan),
        looks=looks,
        departures=departures,
    )


def join_numbers(numbers: Sequence[int]) -> str:
    return join_words([*map(str, numbers)])


def describe_promise(plan: Plan) -> str:
    """What was printed before the first run, as far as it is numbers."""
    promised = next((v for v in plan.promised.values() if isinstance(v, dict)), {})
    known = {name: value for name, value in promised.items() if FINITE.holds(value)}
    measure, said = MEASURES[plan.metric], []
    if "detectable" in known:
        shown = measure.write_margin(round(known["detectable"], 4))
        said.append(f"a difference of {shown} would be found with 80 % chance")
    if "power" in known and plan.difference:
        shown = f"{plan.difference:g} {measure.unit}".strip()
        said.append(f"the {shown} that must not be missed with {percent(known['power'], 0)} %")
    if "limit" in known:
        shown = measure.write_margin(round(known["limit"], 4))
        said.append(f"less than {shown} with no number of seeds, on so many images")
    return "; ".join(said)


def find_departures(followed: Followed, tested: Tested) -> Iterator[str]:
    """In a sentence each, what the runs, or the question, have that was not declared."""
    plan = followed.plan
    if not plan.is_intact:
        yield "Its file was edited after it was written: what it says was not declared before."
    if followed.undeclared:
        yield f"{' and '.join(followed.undeclared)} was asked for now: what was planned counts."
    recipes = {each.first.metadata.get("group_hash"): each for each in tested.recipes}
    others = [each.label for each in tested.recipes if not followed.has(each)]
    absent = [each.label for each in plan.recipes if each.group_hash not in recipes]
    for names, words in ((others, "not in the plan"), (absent, "planned, and not here")):
        if names:
            yield f"{join_words(sanitize(names), 5)}: {words}."
    here = [each for each in tested.recipes if followed.has(each)]
    if here:
        yield from find_other_runs(followed, here)
    yield from find_unplanned_looks(followed, here, tested.question.metric)


def find_other_runs(followed: Followed, here: Sequence[Recipe]) -> Iterator[str]:
    """Of planned recipes: runs before the plan, of other data, or that count without a network."""
    plan = followed.plan
    networks = [network for recipe in here for network in recipe.networks]
    early = sum(is_before(each.metadata["started_at"], plan.written_at) for each in networks)
    if early:
        yield f"{early} of its {len(networks)} runs began before it was written."
    metadata, num_images = here[0].first.metadata, here[0].first.num_test
    if plan.num_images not in (num_images, here[0].trainings().num_images):  # of groups
        yield f"{num_images:,} test images, {plan.num_images:,} were planned."
    if changed := plan.find_changed_data(metadata["split_hash"], metadata["test_hash"]):
        yield f"The data changed: {sanitize(changed)}."
    labels = {recipe.first.metadata["group_hash"]: recipe.label for recipe in here}
    for group, seed in sorted(followed.diverged & {(g, s) for g in labels for s in plan.seeds}):
        yield f"{labels[group]} seed {seed} diverged, and counts as right on no image."


def find_unplanned_looks(
    followed: Followed, recipes: Sequence[Recipe], metric: str
) -> Iterator[str]:
    """Recipes with other seeds than those of their last look, and what all their seeds show."""
    changed = set()
    for recipe in recipes:
        *_, last = [(), *(look.networks for look in followed.find_looks(recipe))]
        looked = {network.metadata["seed"] for network in last}
        seeds = [network.metadata["seed"] for network in recipe.networks]
        if not looked.issuperset(seeds):
            shown = join_words([*map(str, seeds)], 20)
            yield f"{recipe.label} has seeds {shown}: not a planned look."
            changed.add(recipe.label)
    level = bonferroni_level(followed.num_pairs)
    twos = [(a, b) for a, b in combinations(recipes, 2) if {a.label, b.label} & changed]
    for a, b in twos[:MAX_UNPLANNED]:
        if a.has_enough_seeds and b.has_enough_seeds:
            found, words = measure(a, b, metric, level), MEASURES[metric]
            shown = f"{words.write(found.value)} ({words.write_interval(found)}) {words.unit}"
            yield f"{a.label} − {b.label} with all seeds: {shown.strip()}, without a p."


def is_before(one: Any, other: str) -> bool:
    """Of two times as records have them; False where one cannot be read."""
    with suppress(TypeError, ValueError):
        return datetime.fromisoformat(str(one)) < datetime.fromisoformat(other)
    return False
