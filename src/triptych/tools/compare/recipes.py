"""Runs that differ in their seed alone are one recipe; which runs and recipes can be compared.

Shapes: C classes, N test images.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from triptych.config import SLOTS, format_value, is_node
from triptych.errors import UserError
from triptych.runs.reader import sanitize
from triptych.runs.record import NOT_THE_EXPERIMENT
from triptych.tools.compare.names import Described, cut_name, has_default, make_labels
from triptych.tools.compare.runs import HARDWARE, TrainedNetwork
from triptych.tools.compare.searches import find_replicates, find_search
from triptych.tools.statistics.calibration import Calibration
from triptych.tools.statistics.crossed import (
    Trainings,
    crossed_mean,
    summarize_trainings,
)
from triptych.tools.statistics.inference import MIN_SEEDS, Interval, WithInterval, wilson
from triptych.tools.statistics.scores import METRICS

MAX_CONFUSED = 5  # pairs of classes shown of a recipe
# In the order of what explains the rest: other data have other classes, images and splits.
MUST_AGREE: dict[str, Callable[[TrainedNetwork], object]] = {
    "data": lambda run: run.metadata["data"],
    "number of classes": lambda run: run.test.num_classes,
    "test_hash": lambda run: run.metadata["test_hash"],
    "split_hash": lambda run: run.metadata["split_hash"] or (),  # of a guest not known
    "classes": lambda run: tuple(run.metadata["classes"] or ()),
}
LEFT_OUT = {*NOT_THE_EXPERIMENT, "seed"}
# What a network is, or what the record says better: `weights` as they were resolved.
OF_MODEL = "name _target_ min_input_size known_weights weights input_size"
LEFT_OUT |= {f"model.{name}" for name in OF_MODEL.split()}
NETWORK = "model.network"  # with its arguments: a setting only among recipes of one model
CHOSEN = {*SLOTS.values(), NETWORK}  # where a class stands, by itself or by a name: else a word


@dataclass(frozen=True)
class Confusion:
    """How many test images of one class were taken for another, over all seeds of a recipe."""

    true: str
    predicted: str
    count: int
    fraction: float  # of the images of the true class


@dataclass(frozen=True, eq=False)
class Recipe:
    """Runs that differ in their seed alone."""

    label: str  # its name or model, and settings where several are called alike: "alexnet lr=0.01"
    networks: tuple[TrainedNetwork, ...]  # by seed
    classes: tuple[str, ...] = ()
    calibration: Calibration | None = None  # of its first network; of the first 10 recipes
    _trainings: dict[str, Trainings] = field(default_factory=dict, repr=False)

    @property
    def first(self) -> TrainedNetwork:
        """It stands for the recipe where trained networks are compared."""
        return self.networks[0]

    @property
    def model(self) -> str:
        return str(self.first.metadata["model"])

    def take(self, place: int) -> "Recipe":
        """One of its networks as a recipe of its own, whose label is the network's."""
        network = self.networks[place]
        return replace(self, label=network.label, networks=(network,), _trainings={})

    def values(self, metric: str) -> NDArray[np.float64]:
        """What its networks scored by one of `METRICS`, (seeds, N)."""
        values = [METRICS[metric](network.test) for network in self.networks]
        return np.stack(values).astype(np.float64)

    def trainings(self, metric: str = "accuracy") -> Trainings:
        """The same, summarized: by group where images have groups."""
        if metric not in self._trainings:
            self.add_score(metric, self.values(metric))
        return self._trainings[metric]

    def add_score(self, name: str, values: ArrayLike) -> None:
        """What its networks scored (seeds, N), by a name for `trainings`."""
        self._trainings[name] = summarize_trainings(values, self.first.test.groups)

    @property
    def has_enough_seeds(self) -> bool:
        """Whether a statement about the recipe itself is possible."""
        num_images = self.first.num_groups or self.first.num_test
        return len(self.networks) >= MIN_SEEDS and num_images > 1

    def average(self, get: Callable[[TrainedNetwork], float | None]) -> float | None:
        """Mean over seeds; None where it is not known of each."""
        values = [value for network in self.networks if (value := get(network)) is not None]
        return sum(values) / len(values) if len(values) == len(self.networks) else None

    def average_cost(self, name: str) -> float | None:
        """Of one of the costs, or of another number of the record."""
        return self.average(lambda network: (network.metadata | network.costs).get(name))

    @cached_property
    def accuracy(self) -> WithInterval:
        """One network's with its own interval; the mean of three seeds or more with a t interval.

        Of two seeds the mean has no interval: their scatter says too little.
        """
        if len(self.networks) == 1:
            return self.first.accuracy
        value = float(self.values("accuracy").mean())
        if not self.has_enough_seeds:
            return WithInterval(value)
        trainings = self.trainings()
        estimate = crossed_mean(trainings, Interval(0, 1))
        if not estimate.variance:  # all right, or all wrong, which does not make it certain
            num = trainings.num_images
            return WithInterval(value, *wilson(value * num, num))
        return WithInterval(value, *estimate.interval())

    @cached_property
    def confusion(self) -> NDArray[np.int64]:
        """(C, C), rows true, columns predicted, summed over seeds."""
        return np.asarray(sum(network.scores.confusion for network in self.networks))

    @property
    def most_confused(self) -> tuple[Confusion, ...]:
        """The most frequent errors, most first."""
        places = np.argwhere(self.confusion)  # few of 10,000 classes squared
        places = places[places[:, 0] != places[:, 1]]
        counts, totals = self.confusion[tuple(places.T)], self.confusion.sum(axis=1)
        order = np.argsort(-counts, kind="stable")[:MAX_CONFUSED]
        return tuple(
            Confusion(self.classes[i], self.classes[j], int(count), count / totals[i])
            for (i, j), count in zip(places[order], counts[order], strict=True)
        )

    @cached_property
    def f1(self) -> NDArray[np.float64]:
        """(C,), mean over seeds; NaN where undefined."""
        f1 = np.stack([network.scores.per_class.f1 for network in self.networks])
        return np.asarray(f1.mean(axis=0))


def group_by_recipe(runs: Iterable[TrainedNetwork]) -> list[Recipe]:
    """Recipes by name: an order that no result decides.

    Of whole searches that were replicated a recipe has a network each, whatever settings won.
    """
    runs = sorted(runs, key=lambda run: run.metadata["seed"] or 0)
    replicates = find_replicates(runs)
    groups: dict[object, list[TrainedNetwork]] = {}
    for run in runs:
        groups.setdefault(replicates.get(run, run.recipe), []).append(run)
    names = make_labels([describe_group(same, same[0] in replicates) for same in groups.values()])
    recipes = [
        Recipe(name, tuple(replace(run, label=label_network(name, run)) for run in same))
        for name, same in zip(names, groups.values(), strict=True)
    ]
    return sort_by_name(recipes)


def sort_by_name(recipes: Iterable[Recipe]) -> list[Recipe]:
    return sorted(recipes, key=lambda recipe: (recipe.model, recipe.label))


def label_network(name: str, run: TrainedNetwork) -> str:
    """The recipe's name with the seed, where that is known."""
    seed = run.metadata["seed"]
    return name if seed is None else f"{name} seed {seed}"


def describe_group(same: Sequence[TrainedNetwork], are_replicates: bool) -> Described:
    """Name or model and settings of a recipe; of one that is a budget of tuning, that budget."""
    name, search = find_name(same), find_search(same[0])
    model = same[0].metadata["model"]
    title = cut_name(name or model)
    if are_replicates and search:
        budget = {"budget": search.budget, "sampler": search.sampler}
        return Described(title if name else f"{title} tuned", budget)
    settings = {} if same[0].is_guest else {"model": model} | list_settings(same[0])
    return Described(title, settings, partial(has_default, same[0].config))


def find_name(runs: Iterable[TrainedNetwork]) -> str | None:
    """That of a recipe: of its runs with a name the one that finished last has the last word."""
    named = [run.metadata for run in runs if run.metadata["name"]]
    return max((run["finished_at"], str(run["name"])) for run in named)[1] if named else None


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
    return tuple(map(cut_name, next(named, map(str, range(networks[0].test.num_classes)))))


def name_classes(recipes: Sequence[Recipe]) -> list[Recipe]:
    """The recipes with the names of their classes."""
    blocks = split_comparable(recipes)
    names = {recipe.label: find_class_names(block) for block in blocks for recipe in block}
    return [replace(recipe, classes=names[recipe.label]) for recipe in recipes]


def find_disagreements(runs: Sequence[TrainedNetwork]) -> list[str]:
    """In a line each, what is not the same for all runs, by the first two that differ."""
    lines = []
    for name, get in MUST_AGREE.items():
        folders: dict[object, list[str]] = defaultdict(list)
        for run in runs:
            folders[get(run)].append(sanitize(str(run.folder)))
        folders.pop((), None)
        if len(folders) > 1:
            usual = max(folders, key=lambda value: len(folders[value]))
            other = next(value for value in folders if value != usual)
            shown = [f"{format_value(each)} in {folders[each][0]}" for each in (other, usual)]
            lines.append(f"{name}: {', '.join(shown)}")
    return lines


def require_comparable(runs: Sequence[TrainedNetwork]) -> None:
    """Raise UserError unless all runs have the same test images, split and classes."""
    lines = find_disagreements(runs)
    if lines:
        raise UserError(
            f"these runs cannot be compared, {lines[0]}\n"
            "name with runs= those that belong together; allow_mixed=true shows all of them and "
            "tests only pairs that can be compared"
        )


def write_banner(runs: Sequence[TrainedNetwork]) -> str | None:
    """What a page must say first whose runs cannot be compared; None where they can."""
    lines = "; ".join(find_disagreements(runs))
    tested = "Not all of these runs can be compared: only pairs that can be compared are tested."
    return f"{tested} What differs: {lines}." if lines else None


def list_settings(run: TrainedNetwork) -> dict[str, str]:
    """Every setting besides the model, as it would be typed, and a class that research chose where
    a word for it would stand."""
    settings = {name: run.metadata[name] for name in ("weights", "input_size")}
    settings |= {name: v for name, v in _flatten(run.config, "") if name not in LEFT_OUT}
    return {name: describe_value(value) for name, value in settings.items()}


def describe_value(value: Any) -> str:
    """A setting as it would be typed, lists as JSON; of nodes in a list, their classes as called:
    `Soup(k=3)`."""
    if not isinstance(value, list | dict):
        return format_value(value)
    if not (value and isinstance(value, list) and all(map(is_node, value))):
        return json.dumps(value, default=str)
    calls = []
    for node in value:
        given = {name: v for name, v in node.items() if name != "_target_"}
        arguments = ", ".join(f"{name}={describe_value(v)}" for name, v in given.items())
        calls.append(f"{node['_target_'].rpartition('.')[2]}({arguments})")
    return ", ".join(calls)


def list_environment(run: TrainedNetwork) -> dict[str, str]:
    """Devices and libraries: not chosen by the experiment, yet able to change its figures."""
    versions = run.metadata["versions"] or {}
    return {name: format_value(run.metadata[name]) for name in HARDWARE} | {
        f"version of {name}": format_value(version) for name, version in versions.items()
    }


def list_differing(network: TrainedNetwork) -> dict[str, str]:
    """All that can differ between runs, by name. Nothing is known of guests."""
    return {} if network.is_guest else list_settings(network) | list_environment(network)


def find_differing(recipes: Sequence[Recipe]) -> dict[str, tuple[str, ...]]:
    """Settings, devices and libraries that are not the same for all runs: a value a recipe.

    Where runs of a recipe differ, it has all their values. Nothing is known of guests.
    """
    differing: dict[str, tuple[str, ...]] = {}
    for list_values in (list_settings, list_environment):
        tables = [
            [list_values(network) for network in recipe.networks if not network.is_guest]
            for recipe in recipes
        ]
        names = [*dict.fromkeys(name for same in tables for table in same for name in table)]
        if len({recipe.model for recipe in recipes}) > 1:
            names = [name for name in names if not name.startswith(NETWORK)]
        for name in sorted(names, key=partial(_find_place, names)):
            each = [sorted({table.get(name, "not set") for table in same}) for same in tables]
            if len({value for options in each for value in options}) > 1:
                differing[name] = tuple(" or ".join(options) or "not known" for options in each)
    return differing


def _find_place(names: Sequence[str], name: str) -> int:
    """Where a setting stands among these; arguments of a class, where that does."""
    above = accumulate(name.split("."), "{}.{}".format)
    return min(names.index(each) for each in above if each in names)


def _flatten(node: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in node.items():
        key = f"{prefix}{name}"
        if name == "_target_" and {prefix[:-1], prefix[:-1].rpartition(".")[0]} & CHOSEN:
            ours = str(value).startswith("triptych.")
            yield prefix[:-1], value.rpartition(".")[2] if ours else value
        elif isinstance(value, dict) and value and key not in LEFT_OUT:
            yield from _flatten(value, f"{key}.")
        else:
            yield key, value
