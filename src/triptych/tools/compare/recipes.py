"""Runs that differ in their seed alone are one recipe, under a label of its own.

Shapes: C classes, N test images.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from triptych.tools.compare.comparable import find_disagreements, list_settings
from triptych.tools.compare.content import Confusion, RecipeSummary, WithInterval
from triptych.tools.compare.runs import TrainedNetwork
from triptych.tools.statistics.calibration import Calibration
from triptych.tools.statistics.intervals import wilson
from triptych.tools.statistics.recipes import MIN_SEEDS, recipe_accuracy

MAX_CONFUSED = 5  # pairs of classes shown of a recipe


@dataclass(frozen=True, eq=False)
class Recipe:
    """The networks of a recipe, by seed.

    The first stands for the recipe where trained networks are compared.
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
    def has_enough_seeds(self) -> bool:
        """Whether a statement about the recipe itself is possible."""
        return len(self.networks) >= MIN_SEEDS and self.correct.shape[1] > 1

    @property
    def val_accuracy(self) -> float | None:
        """Mean over seeds; None where it was not measured for each."""
        values = [network.val_accuracy for network in self.networks]
        known = [value for value in values if value is not None]
        return sum(known) / len(known) if len(known) == len(values) else None


def group_by_recipe(runs: Iterable[TrainedNetwork]) -> list[Recipe]:
    """Recipes by model and label: an order that no result decides."""
    groups: dict[object, list[TrainedNetwork]] = {}
    for run in sorted(runs, key=lambda run: run.metadata["seed"]):
        groups.setdefault(run.recipe, []).append(run)
    firsts = [same[0] for same in groups.values()]
    names = make_labels([(run.metadata["model"], list_settings(run)) for run in firsts])
    recipes = [
        Recipe(
            name, tuple(replace(run, label=f"{name} seed {run.metadata['seed']}") for run in same)
        )
        for name, same in zip(names, groups.values(), strict=True)
    ]
    return sorted(recipes, key=lambda recipe: (recipe.first.metadata["model"], recipe.label))


def make_labels(recipes: Sequence[tuple[str, dict[str, str]]]) -> list[str]:
    """A label for each model and its settings: the model, and the settings that identify it.

    Settings are added one at a time, the one that separates most recipes first, until all differ
    or no setting separates them; then they are numbered.
    """
    labels = [model for model, _ in recipes]
    for model in set(labels):
        places = [place for place, (name, _) in enumerate(recipes) if name == model]
        tables = [recipes[place][1] for place in places]
        chosen: list[str] = []
        while best := _find_separating(tables, chosen):
            chosen.append(best)
        for place, table in zip(places, tables, strict=True):
            settings = (f"{name}={table[name]}" for name in chosen if name in table)
            labels[place] = ", ".join([model, *settings])
    return _number_duplicates(labels)


def _find_separating(tables: Sequence[dict[str, str]], chosen: Sequence[str]) -> str | None:
    """The setting that separates more tables than those chosen do; None where none does."""

    def count_distinct(names: Sequence[str]) -> int:
        return len({tuple(table.get(name) for name in names) for table in tables})

    names = dict.fromkeys(name for table in tables for name in table)
    best = max(names, key=lambda name: count_distinct([*chosen, name]), default=None)
    return best if best and count_distinct([*chosen, best]) > count_distinct(chosen) else None


def _number_duplicates(names: Sequence[str]) -> list[str]:
    """The names, with a number behind each that an earlier one has already."""
    unique: list[str] = []
    for name in names:
        candidate, number = name, 2
        while candidate in unique or (candidate != name and candidate in names):
            candidate, number = f"{name} ({number})", number + 1
        unique.append(candidate)
    return unique


def split_comparable(recipes: Sequence[Recipe]) -> list[list[Recipe]]:
    """The recipes in blocks; those of one block can be compared with each other."""
    blocks: list[list[Recipe]] = []
    for recipe in recipes:
        for block in blocks:
            networks = [network for each in (*block, recipe) for network in each.networks]
            if not find_disagreements(networks):
                block.append(recipe)
                break
        else:
            blocks.append([recipe])
    return blocks


def find_class_names(recipes: Iterable[Recipe]) -> tuple[str, ...]:
    """Of recipes on the same images, from the first record that has names; else numbers."""
    networks = [network for recipe in recipes for network in recipe.networks]
    named = (network.metadata["classes"] for network in networks if network.metadata["classes"])
    return tuple(next(named, map(str, range(networks[0].test.num_classes))))


def summarize_recipe(
    recipe: Recipe, classes: tuple[str, ...], calibration: Calibration | None
) -> RecipeSummary:
    """What is shown of a recipe, over its seeds."""
    confusion = np.sum([network.scores.confusion for network in recipe.networks], axis=0)
    f1 = np.stack([network.scores.per_class.f1 for network in recipe.networks])
    return RecipeSummary(
        label=recipe.label,
        model=recipe.first.metadata["model"],
        networks=tuple(network.label for network in recipe.networks),
        classes=classes,
        num_test=len(recipe.first.test.labels),
        accuracy=estimate_accuracy(recipe),
        confusion=confusion,
        most_confused=find_most_confused(confusion, classes),
        f1=f1.mean(axis=0),
        calibration=calibration,
    )


def estimate_accuracy(recipe: Recipe) -> WithInterval:
    """One network's with Wilson's interval; the mean of three seeds or more with a t interval.

    Of two seeds the mean has no interval: their scatter says too little.
    """
    correct = recipe.correct
    value = float(correct.mean())
    if recipe.has_enough_seeds:
        low, high = recipe_accuracy(correct).interval()
        return WithInterval(value, max(low, 0.0), min(high, 1.0))
    if len(recipe.networks) > 1:
        return WithInterval(value)
    return WithInterval(value, *map(float, wilson(int(correct.sum()), correct.size)))


def find_most_confused(
    confusion: NDArray[np.int64], classes: tuple[str, ...]
) -> tuple[Confusion, ...]:
    """The most frequent errors (C, C), most first."""
    errors = confusion - np.diag(np.diag(confusion))
    order = np.argsort(-errors, axis=None, kind="stable")[:MAX_CONFUSED]
    places = [divmod(int(place), len(classes)) for place in order]
    return tuple(
        Confusion(classes[i], classes[j], int(errors[i, j]), errors[i, j] / confusion[i].sum())
        for i, j in places
        if errors[i, j]
    )
