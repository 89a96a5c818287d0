"""Runs that differ in their seed alone are one recipe, under a name of its own."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from triptych.tools.compare.content import Recipe
from triptych.tools.compare.differences import settings_of
from triptych.tools.compare.exhibits import Confused, WithInterval
from triptych.tools.compare.runs import Run
from triptych.tools.statistics.calibration import Calibration
from triptych.tools.statistics.intervals import wilson
from triptych.tools.statistics.recipes import MIN_SEEDS, recipe_accuracy

MAX_CONFUSED = 5  # pairs of classes shown of a recipe


@dataclass(frozen=True, eq=False)
class TrainedNetwork(Run):
    """A trained network: a run under a name that no other has."""

    label: str


@dataclass(frozen=True, eq=False)
class Group:
    """The networks of a recipe, by seed.

    The first stands for the recipe where one trained network is asked for.
    """

    label: str
    networks: tuple[TrainedNetwork, ...]

    @property
    def first(self) -> TrainedNetwork:
        return self.networks[0]

    @cached_property
    def correct(self) -> NDArray[np.bool_]:
        """(seeds, N)."""
        return np.stack([network.test.correct for network in self.networks])

    @property
    def can_be_told(self) -> bool:
        """Whether there are seeds enough to say something of the recipe itself."""
        return len(self.networks) >= MIN_SEEDS and self.correct.shape[1] > 1

    @property
    def val_accuracy(self) -> float | None:
        """Mean over seeds; None where it was not measured for each."""
        values = [network.val_accuracy for network in self.networks]
        known = [value for value in values if value is not None]
        return sum(known) / len(known) if len(known) == len(values) else None


def grouped(runs: Iterable[Run]) -> list[Group]:
    """A group a recipe, by model and label: an order that no result decides."""
    found: dict[object, list[Run]] = {}
    for run in sorted(runs, key=lambda run: run.metadata["seed"]):
        found.setdefault(run.recipe, []).append(run)
    named = labels([(same[0].metadata["model"], settings_of(same[0])) for same in found.values()])
    groups = [_group(name, same) for name, same in zip(named, found.values(), strict=True)]
    return sorted(groups, key=lambda group: (group.first.metadata["model"], group.label))


def _group(label: str, runs: Iterable[Run]) -> Group:
    networks = (
        TrainedNetwork(**vars(run), label=f"{label} seed {run.metadata['seed']}") for run in runs
    )
    return Group(label, tuple(networks))


def labels(recipes: Sequence[tuple[str, dict[str, str]]]) -> list[str]:
    """A label for each model and its settings: the model, and what tells it from its likes.

    Settings are taken one at a time, the one that tells most apart first, until all differ or
    nothing is left to tell them by; then they are numbered.
    """
    found = [model for model, _ in recipes]
    for model in set(found):
        places = [place for place, (name, _) in enumerate(recipes) if name == model]
        tables = [recipes[place][1] for place in places]
        chosen: list[str] = []
        while best := _most_telling(tables, chosen):
            chosen.append(best)
        for place, table in zip(places, tables, strict=True):
            told = (f"{name}={table[name]}" for name in chosen if name in table)
            found[place] = ", ".join([model, *told])
    return _numbered(found)


def _most_telling(tables: Sequence[dict[str, str]], chosen: Sequence[str]) -> str | None:
    """The setting that splits the tables further than those chosen do; None where none does."""

    def parts(names: Sequence[str]) -> int:
        return len({tuple(table.get(name) for name in names) for table in tables})

    names = dict.fromkeys(name for table in tables for name in table)
    best = max(names, key=lambda name: parts([*chosen, name]), default=None)
    return best if best and parts([*chosen, best]) > parts(chosen) else None


def _numbered(names: Sequence[str]) -> list[str]:
    """The names, with a number behind each that an earlier one has already."""
    unique: list[str] = []
    for name in names:
        candidate, number = name, 2
        while candidate in unique or (candidate != name and candidate in names):
            candidate, number = f"{name} ({number})", number + 1
        unique.append(candidate)
    return unique


def summary(group: Group, classes: tuple[str, ...], calibration: Calibration | None) -> Recipe:
    """What is shown of a recipe, over its seeds."""
    confusion = np.sum([network.scores.confusion for network in group.networks], axis=0)
    return Recipe(
        label=group.label,
        model=group.first.metadata["model"],
        networks=tuple(network.label for network in group.networks),
        classes=classes,
        num_test=len(group.first.test.labels),
        accuracy=accuracy(group),
        confusion=confusion,
        most_confused=most_confused(confusion, classes),
        f1=_mean_f1(group),
        calibration=calibration,
    )


def accuracy(group: Group) -> WithInterval:
    """One network's with Wilson's interval; the mean of three seeds or more with that of t.

    Of two seeds the mean stands alone: their scatter says too little.
    """
    value = float(group.correct.mean())
    if group.can_be_told:
        low, high = recipe_accuracy(group.correct).interval()
        return WithInterval(value, max(low, 0.0), min(high, 1.0))
    if len(group.networks) > 1:
        return WithInterval(value, None, None)
    return WithInterval(value, *map(float, wilson(int(group.correct.sum()), group.correct.size)))


def most_confused(confusion: NDArray[np.int64], classes: tuple[str, ...]) -> tuple[Confused, ...]:
    """The errors (C, C) that occur most, most first."""
    errors = confusion - np.diag(np.diag(confusion))
    order = np.argsort(-errors, axis=None, kind="stable")[:MAX_CONFUSED]
    places = [divmod(int(place), len(classes)) for place in order]
    return tuple(
        Confused(classes[i], classes[j], int(errors[i, j]), errors[i, j] / confusion[i].sum())
        for i, j in places
        if errors[i, j]
    )


def _mean_f1(group: Group) -> NDArray[np.float64]:
    """(C,): mean over the seeds; NaN where one of them has none."""
    f1 = np.stack([network.scores.per_class.f1 for network in group.networks])
    mean: NDArray[np.float64] = f1.mean(axis=0)
    return mean


def class_names(groups: Iterable[Group]) -> tuple[str, ...]:
    """Of groups on the same images, from the first record that has names; else numbers."""
    networks = [network for group in groups for network in group.networks]
    named = (network.metadata["classes"] for network in networks if network.metadata["classes"])
    return tuple(next(named, map(str, range(networks[0].test.num_classes))))
