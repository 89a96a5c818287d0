"""Test images of doubtful truth: the verdict with and without them, and whatever their labels.

Both are always shown. The list must not come from errors of what is compared, which would make a
result: of the images that A alone gets wrong, leaving any out favours A. Near-duplicates are found
from images alone, so a compared network's features may have found them.

Shapes: N images.
"""

import csv
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from triptych.errors import UserError
from triptych.runs.predictions import Predictions, unescape_formula
from triptych.runs.reader import sanitize
from triptych.runs.storage import check_regular_file
from triptych.tools.compare.answers import split_csv
from triptych.tools.compare.content import (
    ACCURACY,
    MEASURES,
    Measure,
    Pair,
    Pairs,
    Question,
    Section,
    Tested,
)
from triptych.tools.compare.formats import MAX_WORDS, join_words, pluralize
from triptych.tools.compare.pairs import (
    compare_networks,
    compare_recipes,
    has_metric,
    measure_looks,
)
from triptych.tools.compare.pictures import Picture
from triptych.tools.compare.recipes import Recipe, split_comparable
from triptych.tools.compare.runs import TrainedNetwork, read_pictures
from triptych.tools.statistics.crossed import Trainings, crossed_difference, summarize_trainings
from triptych.tools.statistics.inference import Interval, WithInterval
from triptych.tools.statistics.suspects import bound_by_labels, spread_over_all

# How lists name the column of images, by their place in the official test set or by their file.
COLUMNS = "index testid test_id test_index image image_id id file filename path".split()
MAX_PICTURES = 12
MAX_SHOWN = 80  # letters of a name in a message


class SuspectList(NamedTuple):
    """What a file says of test images."""

    path: Path
    digest: str  # SHA-256 of the file
    images: set[int] | set[str]  # places in the official test set, or files
    source: str  # in words
    test_hashes: set[str]  # of the images it was made for, where it says so
    made_by: set[str]  # recipes and predictions whose errors it was made from


class Change(NamedTuple):
    """A pair with and without the suspects; differences are of the metric of the question."""

    pair: Pair
    rest: Pair  # the same test on the images that are left
    without: WithInterval  # simultaneous as in the table of pairs, and so is the shift
    shift: WithInterval
    by_labels: Interval | None  # of accuracies, whatever the suspects' labels

    @property
    def is_turned(self) -> bool:
        """Whether the sign changes, or what can be told."""
        signs = {np.sign(pair.difference.value) for pair in (self.pair, self.rest)}
        return len(signs) > 1 or self.pair.verdict != self.rest.verdict

    @property
    def is_certain(self) -> bool:
        """Whether no labels of the suspects could turn the order."""
        return self.by_labels is not None and not self.by_labels.low <= 0 <= self.by_labels.high

    def describe(self) -> dict[str, Any]:
        pair, (value, low, high) = self.pair, self.without
        return {
            **{"a": pair.a, "b": pair.b, "with": pair.difference.value},
            **{"without": value, "without_low": low, "without_high": high},
            **{f"shift_{name}": v for name, v in self.shift._asdict().items()},
            **{"verdict": pair.verdict, "verdict_without": self.rest.verdict},
            "any_labels": self.by_labels and [*self.by_labels],
        }


@dataclass(frozen=True, kw_only=True)
class Suspects(Section):
    """The images that a list names, and what leaving them out changes."""

    heading: ClassVar[str] = "Without doubtful test images"
    listed: SuspectList
    num_suspects: int
    num_images: int
    measure: Measure
    means: tuple[tuple[str, float, float], ...]  # of recipes, with and without them
    recipe_changes: tuple[Change, ...]
    network_changes: tuple[Change, ...]
    pictures: tuple[Picture, ...]

    @property
    def keeps_order(self) -> bool:
        """Whether the recipes are in the same order by their means."""
        orders = [[*np.argsort([row[side] for row in self.means])] for side in (1, 2)]
        return orders[0] == orders[1]

    def describe(self) -> dict[str, Any]:
        return {
            "file": self.listed.path.name,
            "digest": self.listed.digest,
            "source": self.listed.source,
            "num_suspects": self.num_suspects,
            "num_images": self.num_images,
            "keeps_order": self.keeps_order,
            "recipes": [{"recipe": name, "with": w, "without": o} for name, w, o in self.means],
            "recipe_pairs": [change.describe() for change in self.recipe_changes],
            "network_pairs": [change.describe() for change in self.network_changes],
        }


def build(tested: Tested) -> Suspects | None:
    """The verdict with and without the suspects; None where no list is given.

    Raises UserError where the list cannot be read, is of other images, leaves none, or was made
    from errors of a compared recipe.
    """
    question, metric = tested.question, tested.question.metric
    if question.suspects is None:
        return None
    if len(split_comparable(tested.recipes)) > 1:
        raise UserError("suspects: of one test set; these runs have several, compare them apart")
    listed = read_list(Path(question.suspects))
    for recipe in tested.recipes:
        check_source(listed, recipe)
    suspect = find_suspects(listed, tested.recipes[0].first)
    recipes = [recipe for recipe in tested.recipes if has_metric(recipe, metric)]
    rest = [leave_out(recipe, suspect) for recipe in recipes]
    after = compare_recipes(rest, question)
    by_recipe = find_changes(tested.recipe_pairs, after, recipes, suspect, question)
    firsts, after = [recipe.take(0) for recipe in recipes], compare_networks(rest, question)
    alone = replace(question, plan=None)
    by_network = find_changes(tested.network_pairs, after, firsts, suspect, alone)
    section = Suspects(
        listed=listed,
        num_suspects=int(suspect.sum()),
        num_images=len(suspect),
        measure=MEASURES[metric],
        means=tuple(
            (one.label, float(one.values(metric).mean()), float(other.values(metric).mean()))
            for one, other in zip(recipes, rest, strict=True)
        ),
        recipe_changes=by_recipe,
        network_changes=by_network,
        pictures=choose_pictures(tested, suspect),
    )
    return replace(section, sentences=tuple(write_sentences(section)))


def read_list(path: Path) -> SuspectList:
    """A CSV file with a column of `COLUMNS`, one column without a head, or JSON of either kind.

    Raises UserError where it is none of these, and where it lists nothing.
    """
    try:
        content = check_regular_file(path).read_bytes()
        rows = json.loads(content) if path.suffix == ".json" else parse_csv(path)
        rows = [row if isinstance(row, dict) else {"index": row} for row in rows]
        rows = [{str(name).casefold(): cell for name, cell in row.items()} for row in rows]
        present = dict.fromkeys(name for row in rows for name in row)
        column = next((name for name in COLUMNS if name in present), "")
        if rows and not column:
            raise ValueError(f"its columns are {join_words([*present], MAX_WORDS)}")
    except (OSError, ValueError, TypeError, RecursionError, csv.Error) as error:
        reason = "it is no text" if isinstance(error, UnicodeError) else error
        raise UserError(
            f"suspects={path}: cannot be read ({reason})\n"
            "a CSV file with a column index (or TestID, file) lists test images, or a JSON list"
        ) from error
    names = {unescape_formula(str(row[column]).strip()) for row in rows if column in row} - {""}
    if not names:
        raise UserError(f"suspects={path}: lists no image")
    source, hashes, made_by = (
        sorted({str(row[name]) for row in rows if row.get(name)})
        for name in ("source", "test_hash", "made_by")
    )
    return SuspectList(
        path=path,
        digest=hashlib.sha256(content).hexdigest(),
        images={*map(int, names)} if all(map(str.isdecimal, names)) else names,
        source=join_words(sanitize(source), 3) or "not named in the file",
        test_hashes={*hashes},
        made_by={*" ".join(made_by).split()},
    )


def parse_csv(path: Path) -> list[dict[str, str]]:
    head, lines = split_csv(path)
    if len(head) == 1 and head[0].casefold() not in COLUMNS:
        head, lines = ["index"], [head, *lines]
    return [dict(zip(head, line, strict=True)) for line in lines]


def check_source(listed: SuspectList, recipe: Recipe) -> None:
    """Raise UserError at a list of other images, or made from errors of this recipe."""
    for network in recipe.networks:
        group, test = (str(network.metadata[f"{name}_hash"]) for name in ("group", "test"))
        if listed.made_by and listed.made_by & {group, network.digest}:
            raise UserError(
                f"suspects={listed.path}: was made from errors of {recipe.label}, which is "
                "compared: leaving them out would favour it or its rivals\n"
                "take a list from networks that are not compared, or a published one"
            )
        if listed.test_hashes - {test} and not network.is_guest:  # of whom labels alone are known
            others = join_words(sorted(sanitize([*listed.test_hashes])), 3)
            raise UserError(
                f"suspects={listed.path}: lists images of another test set, of test_hash {others}; "
                f"that of {network.folder} is {test}"
            )


def find_suspects(listed: SuspectList, network: TrainedNetwork) -> NDArray[np.bool_]:
    """Which test images (N,) are listed; raises UserError where none is, or hardly any is not."""
    images: list[Any] = network.test.index.tolist()
    if any(isinstance(image, str) for image in listed.images):
        names = network.read_files() or {}
        images = [names.get(place) for place in images]
    suspect = np.array([image in listed.images for image in images])
    if not suspect.any():
        shown = join_words([str(image)[:MAX_SHOWN] for image in sorted(listed.images)], 3)
        raise UserError(
            f"suspects={listed.path}: none of its images ({sanitize(shown)}) is a test image of "
            f"these runs, as {images[0] or network.test.index[0]}"
        )
    test = network.test
    units = test.index if test.groups is None else test.groups
    if len(np.unique(units[~suspect])) < min(2, len(np.unique(units))):
        what = "test images" if test.groups is None else "groups of test images"
        raise UserError(f"suspects={listed.path}: lists all of the {what}, or all but one")
    return suspect


def leave_out(recipe: Recipe, suspect: NDArray[np.bool_]) -> Recipe:
    """The recipe as if the test set had the other images alone."""

    def take_rest(test: Predictions) -> Predictions:
        arrays = {each.name: getattr(test, each.name) for each in fields(test)}
        return replace(test, **{k: v[~suspect] for k, v in arrays.items() if v is not None})

    networks = (replace(network, test=take_rest(network.test)) for network in recipe.networks)
    return replace(recipe, networks=tuple(networks), _trainings={})


def find_changes(
    before: Pairs,
    after: Pairs,
    recipes: Sequence[Recipe],
    suspect: NDArray[np.bool_],
    question: Question,
) -> tuple[Change, ...]:
    """Of each pair, by the crossed formula without pseudo-images; of a plan at the last look
    of both."""
    metric, plan = question.metric, question.plan
    summarize = cache(lambda recipe: summarize_twice(recipe, suspect, metric))
    by_label = {recipe.label: recipe for recipe in recipes}
    changes = []
    for pair, rest in zip(before.pairs, after.pairs, strict=True):
        a, b, _ = measure_looks(by_label[pair.a], by_label[pair.b], metric, plan)
        summaries = zip(summarize(a), summarize(b), strict=True)
        estimates = [crossed_difference(*two) for two in summaries]
        without, shift = (WithInterval(e.value, *e.interval(pair.level)) for e in estimates)
        limits = find_limits(a, b, suspect) if pair.measure is ACCURACY else None
        changes.append(Change(pair, rest, without, shift, limits))
    return tuple(changes)


def summarize_twice(
    recipe: Recipe, suspect: NDArray[np.bool_], metric: str
) -> tuple[Trainings, Trainings]:
    """Without the suspects, by values for all images, and of these less the values as they are."""
    values, groups = recipe.values(metric), recipe.first.test.groups
    without = spread_over_all(leave_out(recipe, suspect).values(metric), ~suspect)
    return summarize_trainings(without, groups), summarize_trainings(without - values, groups)


def find_limits(a: Recipe, b: Recipe, suspect: NDArray[np.bool_]) -> Interval:
    of_a, of_b = (np.stack([n.test.classes for n in each.networks]) for each in (a, b))
    return bound_by_labels(of_a, of_b, a.first.test.labels, suspect, a.first.test.num_classes)


def choose_pictures(tested: Tested, suspect: NDArray[np.bool_]) -> tuple[Picture, ...]:
    """Of suspects whose pixels the first network of a recipe kept, the first ones."""
    firsts = [recipe.first for recipe in tested.recipes]
    pixels, files = read_pictures(firsts, tested.problems)
    test, classes = firsts[0].test, tested.recipes[0].classes
    listed = zip(test.index[suspect].tolist(), test.labels[suspect], strict=True)
    shown = [(n, int(label)) for n, label in listed if n in pixels][:MAX_PICTURES]
    return tuple(
        Picture(files.get(n, f"no. {n}"), pixels[n], label, classes[label]) for n, label in shown
    )


def write_sentences(section: Suspects) -> Iterator[str]:
    """What changes without the suspects, and what could change with other labels of them."""
    listed, num, measure = section.listed, section.num_suspects, section.measure
    others = len(listed.images) - num
    more = f"; {others:,} others that it lists are not among these" if others else ""
    images = f"{num:,} of {pluralize(section.num_images, 'test image')}"
    name = sanitize(listed.path.name)
    yield f"{name} lists {images} as doubtful (source: {listed.source}{more})."
    if not (changes := section.recipe_changes or section.network_changes):
        return
    if len(changes) == 1:
        [(pair, _, without, shift, _)] = changes
        before, after, moved = (measure.write(e.value) for e in (pair.difference, without, shift))
        yield (
            f"Without them {pair.a} − {pair.b} is {after} instead of {before} {measure.unit} "
            f"(change {moved}, 95 % interval {measure.write_interval(shift)})."
        )
    kind = "recipes" if section.recipe_changes else "trained networks"
    pairs = f"{pluralize(len(changes), 'pair')} of {kind}"
    if len(changes) > 1:
        ends = [measure.write(end(c.shift.value for c in changes)) for end in (min, max)]
        span = f"{' to '.join(ends)} {measure.unit}".strip()
        yield f"Without them the differences of {pairs} change by {span}."
    both = section.recipe_changes + section.network_changes
    turned = [f"{change.pair.a} − {change.pair.b}" for change in both if change.is_turned]
    what = f"the sign or the verdict of {join_words(turned, MAX_WORDS)} changes"
    order = "the same" if section.keeps_order else "another"
    yield (
        f"Without them {what if turned else 'no sign and no verdict changes'}; "
        f"the order by {measure.name} is {order}."
    )
    if measure is ACCURACY:
        num_open = sum(not change.is_certain for change in changes)
        labels = "Other labels" if num_open else "No other labels"
        turn = f"{num_open} of {pairs}" if num_open else f"any of {pairs}"
        yield f"{labels} of these images could turn the order of {turn}."
