"""Recipes on test images from elsewhere: how accurate each still is, and who is better there.

Pairs are tested as on the test set: trained networks by image, recipes by image and seed, Holm's p
over the pairs of a table. Shapes: n seeds, N images.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from triptych.runs.reader import sanitize
from triptych.tools.compare import pairs
from triptych.tools.compare.content import ACCURACY, AS_USUAL, Measure, Pair, Section, Tested
from triptych.tools.compare.formats import percent, pluralize
from triptych.tools.compare.recipes import Recipe
from triptych.tools.compare.runs import Problem, read_optional
from triptych.tools.compare.sentences import add_sentences
from triptych.tools.evaluate.settings import SHIFTS
from triptych.tools.evaluate.shifts import CORRUPTIONS, OTHER_CLASSES, SEVERITIES, read_shifted
from triptych.tools.statistics import inference
from triptych.tools.statistics.crossed import (
    Estimate,
    Trainings,
    crossed_difference,
    crossed_mean,
    paired_difference,
    summarize_trainings,
)
from triptych.tools.statistics.inference import Interval, WithInterval
from triptych.tools.statistics.several_sets import count_better

MAX_SENTENCES = 10
ABOUT = {
    "cifar10_1": "New photos, gathered as those of CIFAR-10 were (Recht et al., 2019).",
    "cifar10_c": "CIFAR-10's test images under 15 corruptions at five severities (Hendrycks and "
    "Dietterich, 2019). An image counts once, by the mean over its 75 versions.",
    "svhn": "House numbers (Netzer et al., 2011), of no class that the networks know: a network "
    "should reject them. It does so where its confidence is below the one that 95 % of its own "
    "validation images reach.",
}
MEASURES = {
    "cifar10_1": ACCURACY,
    "cifar10_c": Measure("accuracy", ACCURACY.better),  # of means, which McNemar's test is not for
    "svhn": Measure("share rejected", "better at rejecting", ACCURACY.tests),
}


@dataclass(frozen=True, eq=False)
class Scored:
    """A recipe on a set: where its networks did what is right, or how often over the versions."""

    recipe: Recipe
    values: NDArray[Any]  # (n, N), booleans or fractions
    by_corruption: dict[str, float] = field(default_factory=dict)  # of CIFAR-10-C

    def take_first(self) -> "Scored":
        return Scored(self.recipe.take(0), self.values[:1])

    @property
    def are_counts(self) -> bool:
        """Whether an image is right or wrong, not a mean over versions."""
        return self.values.dtype == np.bool_

    @cached_property
    def trainings(self) -> Trainings:
        return summarize_trainings(self.values)

    @cached_property
    def share(self) -> WithInterval:
        """With an interval as on the test set; of fractions of one network, by t over images."""
        (n, num_images), value = self.values.shape, float(self.values.mean())
        if n == 2:
            return WithInterval(value)
        if n == 1 and self.are_counts:
            return WithInterval(value, *inference.wilson(int(self.values.sum()), num_images))
        return WithInterval(value, *crossed_mean(self.trainings, Interval(0, 1)).interval())

    @property
    def change(self) -> float:
        """From the accuracy on the test set."""
        return self.share.value - self.recipe.accuracy.value


class OtherSet(NamedTuple):
    name: str
    title: str
    about: str
    measure: Measure
    scored: Sequence[Scored]
    recipe_pairs: Sequence[Pair]
    network_pairs: Sequence[Pair]

    @property
    def is_accuracy(self) -> bool:
        return self.name != OTHER_CLASSES

    @property
    def num_images(self) -> int:
        return int(self.scored[0].values.shape[1])

    def write_sentences(self) -> list[str]:
        """The least and the greatest share, and what the pairs say."""
        shares = sorted((each.share.value, each.recipe.label) for each in self.scored)
        ends = shares if len(shares) == 1 else (shares[0], shares[-1])
        span = " to ".join(f"{percent(share)} % ({label})" for share, label in ends)
        images = f"{self.title} ({pluralize(self.num_images, 'image')})"
        sentences = [f"On {images} the {self.measure.name} is {span}."]
        kind = "recipes" if self.recipe_pairs else "trained networks"
        table = self.recipe_pairs or self.network_pairs
        num = sum(pair.is_significant for pair in table)
        if len(table) == 1:
            sentences.append(f"On {self.title}, {table[0].sentence}")
        elif table:
            sentences.append(
                f"On {self.title}, {num} of {len(table)} pairs of {kind} differ significantly."
            )
        return sentences

    def describe(self) -> dict[str, Any]:
        """For verdict.json."""
        tables = {"recipes": self.recipe_pairs, "networks": self.network_pairs}
        return {
            "name": self.name,
            "num_images": self.num_images,
            "measure": "accuracy" if self.is_accuracy else "rejected",
            "recipes": [
                {
                    **{"recipe": each.recipe.label, **each.share._asdict()},
                    "change": each.change if self.is_accuracy else None,
                    "by_corruption": each.by_corruption or None,
                }
                for each in self.scored
            ],
            "pairs": {kind: [pair.describe() for pair in two] for kind, two in tables.items()},
        }


class Counted(NamedTuple):
    """On how many sets, of the test set and those of its classes, a is better than b: at least."""

    a: str
    b: str
    num_sets: int
    better: int
    worse: int

    @property
    def sentence(self) -> str:
        a, b, better, worse = self.a, self.b, self.better, self.worse
        if worse > better:
            a, b, better, worse = b, a, worse, better
        if not better:
            return f"{a} and {b} differ significantly on none of {self.num_sets} test sets."
        others = f"on at least {worse}" if worse else "on none"
        return (
            f"{a} is better than {b} on at least {better} of {self.num_sets} test sets (95 %), "
            f"significantly worse {others}."
        )


@dataclass(frozen=True, kw_only=True)
class Shifts(Section):
    heading: ClassVar[str] = "Other test sets"
    sets: Sequence[OtherSet]
    counted: Sequence[Counted]

    def describe(self) -> dict[str, Any]:
        counted = [each._asdict() for each in self.counted]
        return {"sets": [each.describe() for each in self.sets], "counted": counted}


def build(tested: Tested) -> Shifts | None:
    """Of the sets that `evaluate` scored; None without any."""
    sets = []
    for name, title in SHIFTS.items():
        if scored := read_scored(name, tested):
            repeated = [each for each in scored if each.recipe.has_enough_seeds]
            ones = [each.take_first() for each in scored]
            about, measure = ABOUT[name], MEASURES[name]
            both = (compare_pairs(each, measure) for each in (repeated, ones))
            sets.append(OtherSet(name, title, about, measure, scored, *both))
    if not sets:
        return None
    counted = count_sets(sets, tested)
    said = [sentence for each in sets for sentence in each.write_sentences()]
    if len(counted) <= MAX_SENTENCES:
        said += [each.sentence for each in counted]
    return Shifts(sentences=tuple(said), sets=sets, counted=counted)


def read_scored(name: str, tested: Tested) -> list[Scored]:
    """Recipes of which every network was scored, on the images that most were scored on."""
    found = {
        recipe: [
            read_optional(
                lambda n: read_shifted(n.folder, name, n.test.num_classes), network, tested.problems
            )
            for network in recipe.networks
        ]
        for recipe in tested.recipes
    }
    images = Counter(each.images for row in found.values() for each in row if each)
    [(most, _)] = images.most_common(1) or [("", 0)]
    scored = []
    for recipe, row in found.items():
        same = [each.values for each in row if each and each.images == most]
        if len(same) == len(row):
            scored.append(average_versions(recipe, np.stack(same)))
        elif any(row):
            what = f"left out on {SHIFTS[name]}: {len(same)} of {pluralize(len(row), 'run')} of "
            what += f"{recipe.label} were evaluated there on the images of most others"
            tested.problems.append(Problem(sanitize(str(recipe.first.folder)), what))
    return scored


def average_versions(recipe: Recipe, right: NDArray[np.bool_]) -> Scored:
    """Of (n, V, N) the values by image, and by corruption where there are versions."""
    if right.shape[1] == 1:
        return Scored(recipe, right[:, 0])
    means = right.mean(axis=2).mean(axis=0).reshape(-1, SEVERITIES).mean(axis=1).tolist()
    return Scored(recipe, right.mean(axis=1), dict(zip(CORRUPTIONS, means, strict=True)))


def compare_pairs(scored: Sequence[Scored], measure: Measure) -> Sequence[Pair]:
    """The pairs that can be compared, and were on the test set."""
    by_label = {each.recipe.label: each for each in scored}
    twos, *_ = pairs.choose_pairs([s.recipe for s in scored])
    both = [(by_label[a.label], by_label[b.label]) for a, b in twos]
    tests = pairs.adjust([estimate_difference(a, b) for a, b in both])
    rows = []
    for (a, b), test in zip(both, tests, strict=True):
        (n, num_images), m = a.values.shape, len(b.values)
        pair = Pair(a.recipe.label, b.recipe.label, num_images, (n, m), *test, measure=measure)
        rows.append(pair)
    return add_sentences(rows)


def estimate_difference(a: Scored, b: Scored) -> Estimate:
    """Two networks by their images that one alone gets right, if these are right or wrong."""
    if a.are_counts and len(a.values) == len(b.values) == 1:
        return paired_difference(a.values[0], b.values[0])
    return crossed_difference(
        a.trainings, b.trainings, bounds=pairs.BOUNDS["accuracy"], pseudo_images=a.are_counts
    )


def count_sets(sets: Sequence[OtherSet], tested: Tested) -> list[Counted]:
    """Recipes where there are pairs of them, else networks: those tested on all of these sets.

    SVHN is not among them: to reject is another question than to classify. No mean over the sets:
    CIFAR-10-C has the test set's images, and a network's skill is the same on all of them.
    """
    recipe_pairs, network_pairs = tested.recipe_pairs, tested.network_pairs
    if tested.question.metric != AS_USUAL.metric:
        recipe_pairs = pairs.compare_recipes(tested.recipes)
        network_pairs = pairs.compare_networks(tested.recipes)
    judged = [each.recipe_pairs or each.network_pairs for each in sets if each.is_accuracy]
    on_test = recipe_pairs.pairs or network_pairs.pairs
    tables = [{(pair.a, pair.b): pair for pair in table} for table in (on_test, *judged)]
    twos = [names for names in tables[0] if all(names in table for table in tables)]
    if not judged or not twos:
        return []
    rows = [[table[names] for table in tables] for names in twos]
    counts = count_better(
        [[pair.p for pair in row] for row in rows],
        [[pair.difference.value for pair in row] for row in rows],
    )
    return [Counted(*two, len(tables), *count) for two, count in zip(twos, counts, strict=True)]
