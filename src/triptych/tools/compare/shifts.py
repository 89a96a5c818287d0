"""Recipes on test images from elsewhere: how accurate each still is, and who is better there.

Pairs are tested as on the test set: trained networks by image, recipes by image and seed, Holm's p
over the pairs of a table. Shapes: n seeds, N images.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from triptych.runs.reader import sanitize
from triptych.runs.storage import replace_non_finite
from triptych.tools.compare import pairs
from triptych.tools.compare.content import AS_USUAL, Pair, Section, Tested
from triptych.tools.compare.formats import interval, p_value, percent, pluralize, points
from triptych.tools.compare.recipes import Recipe
from triptych.tools.compare.runs import Problem, TrainedNetwork, read_optional
from triptych.tools.evaluate.settings import SHIFTS
from triptych.tools.evaluate.shifts import (
    CORRUPTIONS,
    OTHER_CLASSES,
    SEVERITIES,
    Shifted,
    read_shifted,
)
from triptych.tools.statistics import inference
from triptych.tools.statistics.crossed import (
    Estimate,
    Trainings,
    combine,
    crossed_difference,
    crossed_mean,
    summarize_trainings,
)
from triptych.tools.statistics.inference import Interval, PairedDifference, WithInterval
from triptych.tools.statistics.several_sets import count_better

MAX_SENTENCES = 10
SHARES = Interval(-1, 1)  # within which two of them differ
ABOUT = {
    "cifar10_1": "New photos, gathered as those of CIFAR-10 were (Recht et al., 2019).",
    "cifar10_c": "CIFAR-10's test images under 15 corruptions at five severities (Hendrycks and "
    "Dietterich, 2019). An image counts once, by the mean over its 75 versions.",
    "svhn": "House numbers (Netzer et al., 2011), of no class that the networks know: the share "
    "that each rejects, its confidence being below what 95 % of its own validation images reach.",
}


@dataclass(frozen=True, eq=False)
class Scored:
    """A recipe on a set: where its networks did what is right, or how often over the versions."""

    recipe: Recipe
    values: NDArray[Any]  # (n, N), booleans or fractions
    by_corruption: tuple[float, ...] = ()  # of CIFAR-10-C

    def take_first(self) -> "Scored":
        return Scored(self.recipe.take(0), self.values[:1])

    @cached_property
    def trainings(self) -> Trainings:
        return summarize_trainings(self.values)

    @cached_property
    def share(self) -> WithInterval:
        """With an interval as on the test set; of fractions of one network, by t over images."""
        (n, num_images), value = self.values.shape, float(self.values.mean())
        if n >= inference.MIN_SEEDS:
            return WithInterval(value, *crossed_mean(self.trainings, Interval(0, 1)).interval())
        if n > 1:
            return WithInterval(value)
        if self.values.dtype == np.bool_:
            return WithInterval(value, *inference.wilson(int(self.values.sum()), num_images))
        variance = float(self.values.var(ddof=1)) / num_images
        return WithInterval(value, *combine(value, [variance], [num_images - 1]).interval())

    @property
    def drop(self) -> float:
        """From the accuracy on the test set."""
        return self.recipe.accuracy.value - self.share.value


class OtherSet(NamedTuple):
    name: str
    title: str
    about: str
    num_images: int
    scored: Sequence[Scored]
    recipe_pairs: Sequence[Pair]
    network_pairs: Sequence[Pair]

    @property
    def is_accuracy(self) -> bool:
        return self.name != OTHER_CLASSES


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
    corruptions: ClassVar[Sequence[str]] = CORRUPTIONS
    sets: Sequence[OtherSet]
    counted: Sequence[Counted]

    def describe(self) -> dict[str, Any]:
        sets = []
        for each in self.sets:
            tables = {"recipes": each.recipe_pairs, "networks": each.network_pairs}
            sets.append(
                {
                    "name": each.name,
                    "num_images": each.num_images,
                    "measure": "accuracy" if each.is_accuracy else "rejected",
                    "recipes": [describe_scored(scored, each) for scored in each.scored],
                    "pairs": {
                        kind: [p.describe() for p in table] for kind, table in tables.items()
                    },
                }
            )
        counted = [each._asdict() for each in self.counted]
        return {"sets": replace_non_finite(sets), "counted": counted}


def describe_scored(scored: Scored, on: OtherSet) -> dict[str, Any]:
    described = {"recipe": scored.recipe.label, **scored.share._asdict()}
    described["drop"] = scored.drop if on.is_accuracy else None
    means = scored.by_corruption
    return described | {
        "by_corruption": dict(zip(CORRUPTIONS, means, strict=True)) if means else None
    }


def build(tested: Tested) -> Shifts | None:
    """Of the sets that `evaluate` scored; None without any."""
    sets = [each for name in SHIFTS if (each := compare_on(name, tested))]
    if not sets:
        return None
    counted = count_sets(sets, tested)
    said = [c.sentence for c in counted] if len(counted) <= MAX_SENTENCES else []
    return Shifts(sentences=(*map(write_summary, sets), *said), sets=sets, counted=counted)


def compare_on(name: str, tested: Tested) -> OtherSet | None:
    scored = read_scored(name, tested)
    if not scored:
        return None
    repeated = [each for each in scored if each.recipe.has_enough_seeds]
    return OtherSet(
        name=name,
        title=SHIFTS[name],
        about=ABOUT[name],
        num_images=scored[0].values.shape[1],
        scored=scored,
        recipe_pairs=compare_pairs(repeated),
        network_pairs=compare_pairs([each.take_first() for each in scored]),
    )


def read_scored(name: str, tested: Tested) -> list[Scored]:
    """Recipes of which every network was scored, on the images that most were scored on."""

    def read(network: TrainedNetwork) -> Shifted | None:
        return read_shifted(network.folder, name, network.test.num_classes)

    read_one = partial(read_optional, read, problems=tested.problems)
    found = {
        recipe: [read_one(network) for network in recipe.networks] for recipe in tested.recipes
    }
    images = Counter(each.images for row in found.values() for each in row if each)
    [(most, _)] = images.most_common(1) or [("", 0)]
    scored = []
    for recipe, row in found.items():
        same = [each for each in row if each and each.images == most]
        if len(same) == len(row):
            scored.append(Scored(recipe, *average_versions([each.values for each in same])))
        elif any(row):
            what = f"left out on {SHIFTS[name]}: {len(same)} of {pluralize(len(row), 'run')} of "
            what += f"{recipe.label} were evaluated there on the images of most others"
            tested.problems.append(Problem(sanitize(str(recipe.first.folder)), what))
    return scored


def average_versions(
    values: Sequence[NDArray[np.bool_]],
) -> tuple[NDArray[Any], tuple[float, ...]]:
    """Of (V, N) a network the values (n, N), and means by corruption where there are versions."""
    if len(values[0]) == 1:
        return np.concatenate(values), ()
    by_corruption = np.mean([each.mean(axis=1) for each in values], axis=0)
    means = by_corruption.reshape(-1, SEVERITIES).mean(axis=1)
    return np.stack([each.mean(axis=0) for each in values]), tuple(means.tolist())


def compare_pairs(scored: Sequence[Scored]) -> list[Pair]:
    """The pairs that can be compared, and were on the test set."""
    by_label = {each.recipe.label: each for each in scored}
    twos, *_ = pairs.choose_pairs([s.recipe for s in scored], lambda recipe: recipe.val_accuracy)
    both = [(by_label[a.label], by_label[b.label]) for a, b in twos]
    tests = pairs.adjust([estimate_difference(a, b) for a, b in both])
    rows = []
    for (a, b), tested in zip(both, tests, strict=True):
        (num_a, num_images), (num_b, _) = a.values.shape, b.values.shape
        fields = (a.recipe.label, b.recipe.label, num_images, (num_a, num_b))
        rows.append(Pair(*fields, *tested))
    return rows


def estimate_difference(a: Scored, b: Scored) -> Estimate | PairedDifference:
    """Two networks by their images that one alone gets right, if these are right or wrong."""
    is_counted = a.values.dtype == np.bool_
    if is_counted and len(a.values) == len(b.values) == 1:
        return inference.paired_difference(a.values[0], b.values[0])
    return crossed_difference(a.trainings, b.trainings, bounds=SHARES, pseudo_images=is_counted)


def count_sets(sets: Sequence[OtherSet], tested: Tested) -> list[Counted]:
    """Recipes where there are pairs of them, else networks: those tested on all of these sets.

    SVHN is not among them: to reject is another question than to classify. No mean over the sets:
    CIFAR-10-C has the test set's images, and a network's skill is the same on all of them.
    """
    judged = [each for each in sets if each.is_accuracy]
    recipe_pairs, network_pairs = tested.recipe_pairs, tested.network_pairs
    if tested.question.metric != AS_USUAL.metric:
        recipe_pairs = pairs.compare_recipes(tested.recipes)
        network_pairs = pairs.compare_networks(tested.recipes)
    on_test = recipe_pairs.pairs or network_pairs.pairs
    others = [each.recipe_pairs or each.network_pairs for each in judged]
    tables = [{(pair.a, pair.b): pair for pair in table} for table in (on_test, *others)]
    twos = [names for names in tables[0] if all(names in table for table in tables)]
    if not judged or not twos:
        return []
    rows = [[table[names] for table in tables] for names in twos]
    counts = count_better(
        [[pair.p for pair in row] for row in rows],
        [[pair.difference.value for pair in row] for row in rows],
    )
    return [Counted(*two, len(tables), *count) for two, count in zip(twos, counts, strict=True)]


def write_summary(each: OtherSet) -> str:
    """A sentence on a set."""
    shares = sorted((s.share.value, s.recipe.label) for s in each.scored)
    (low, worst), (high, best) = shares[0], shares[-1]
    verb = "classified correctly" if each.is_accuracy else "rejected"
    span = f"{percent(low)} % ({worst})"
    if len(shares) > 1:
        span = f"{span} to {percent(high)} % ({best})"
    table, kind = each.recipe_pairs, "recipes"
    if not table:
        table, kind = each.network_pairs, "trained networks"
    return (
        f"Of {each.num_images:,} images of {each.title} {span} are {verb}{summarize(table, kind)}."
    )


def summarize(table: Sequence[Pair], kind: str) -> str:
    if not table:
        return ""
    if len(table) > 1:
        num = sum(pair.is_significant for pair in table)
        return f"; of {len(table)} pairs of {kind} {num} differ significantly"
    [pair] = table
    value, low, high = pair.difference
    evidence = f"95 % CI {interval(low, high, points)}; p = {p_value(pair.p)}".replace("= <", "<")
    return f"; {pair.a} less {pair.b} is {points(value)} points ({evidence})"
