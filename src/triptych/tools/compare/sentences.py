"""What is said of a comparison: plain English, numbers with units and n."""

import math
import os
from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from triptych.runs.reader import sanitize
from triptych.tools.compare import formats
from triptych.tools.compare.content import COSTS, Pair, Pairs
from triptych.tools.compare.formats import MAX_WORDS, join_words, percent, pluralize, points
from triptych.tools.compare.recipes import Recipe, find_differing, write_banner
from triptych.tools.compare.runs import Problem, TrainedNetwork, find_other_code
from triptych.tools.statistics.inference import MIN_SEEDS

MAX_SENTENCES = 10  # of one kind in a verdict; of more, tables say it better
MAX_MODELS = 4  # in a title


def describe_runs(
    read: Sequence[TrainedNetwork], recipes: Sequence[Recipe], problems: Sequence[Problem]
) -> dict[str, Any]:
    """The fields of a `BaseComparison` that are the same for every task."""
    differing = find_differing(recipes)
    return {
        "title": write_title(recipes),
        "banner": write_banner(read),
        "cautions": write_cautions(recipes, differing),
        "differing": differing,
        "recipes": tuple(recipes),
        "problems": tuple(problems),
        "command": sanitize(os.environ.get("TRIPTYCH_COMMAND", "python compare.py")),
        "made_at": datetime.now(UTC).isoformat(timespec="minutes"),
        "version": version("triptych"),
    }


def write_title(recipes: Sequence[Recipe]) -> str:
    """Which networks on which data."""
    models = [*dict.fromkeys(recipe.model for recipe in recipes)]
    names = join_words(models) if len(models) <= MAX_MODELS else f"{len(models)} networks"
    data = [*dict.fromkeys(recipe.first.metadata["data"] for recipe in recipes)]
    return f"{names} on {join_words(data)}"


def write_verdict(
    recipes: Sequence[Recipe], network_pairs: Pairs, recipe_pairs: Pairs
) -> tuple[str, ...]:
    """What was compared, how accurate each is, and which differences are significant."""
    num_tests = sorted({recipe.first.num_test for recipe in recipes})
    sizes = join_words([pluralize(n, "test image") for n in num_tests])
    num_networks = sum(len(recipe.networks) for recipe in recipes)
    trained = pluralize(num_networks, "trained network")
    of = f" of {pluralize(len(recipes), 'recipe')}" if len(recipes) < num_networks else ""
    were = "was" if num_networks == 1 else "were"
    sentences = [f"{trained}{of} {were} evaluated on {sizes}; every image counts once."]
    sentences += _write_accuracies(recipes)
    tested = {label for pair in recipe_pairs.pairs for label in (pair.a, pair.b)}
    untested = {recipe.first.label for recipe in recipes if recipe.label not in tested}
    sentences += _select_sentences(recipe_pairs.pairs, "recipes")
    pairs = [pair for pair in network_pairs.pairs if {pair.a, pair.b} & untested]
    sentences += _select_sentences(pairs, "trained networks")
    if len(recipes) == 1:
        sentences.append("One recipe: there is nothing to compare it with.")
    elif not network_pairs.pairs:
        sentences.append("No two recipes can be compared: no pair is tested.")
    return tuple(sentences)


def _write_accuracies(recipes: Sequence[Recipe]) -> list[str]:
    if len(recipes) <= MAX_SENTENCES:
        return [_write_accuracy(recipe) for recipe in recipes]
    low, high = (best(recipe.accuracy.value for recipe in recipes) for best in (min, max))
    return [
        f"Accuracy ranges from {percent(low)} % ({_name_recipes(low, recipes)}) to "
        f"{percent(high)} % ({_name_recipes(high, recipes)}); the table has each with its interval."
    ]


def _name_recipes(accuracy: float, recipes: Sequence[Recipe]) -> str:
    """The recipes of that very accuracy."""
    return join_words([each.label for each in recipes if each.accuracy.value == accuracy], most=3)


def _write_accuracy(recipe: Recipe) -> str:
    value, low, high = recipe.accuracy
    images, seeds = pluralize(recipe.first.num_test, "image"), len(recipe.networks)
    claim = f"{recipe.label} classifies {percent(value)} % of {images} correctly"
    if math.isnan(low):
        mean = f"{claim}, mean of {pluralize(seeds, 'seed')}"
        return f"{mean}, without an interval: that takes {MIN_SEEDS} seeds and two images."
    bounds = f"{formats.interval(low, high)} %"
    if seeds == 1:
        return f"{claim} (one seed; 95 % Wilson interval over images {bounds})."
    return f"{claim}, mean of {seeds} seeds (95 % t interval over seeds and images {bounds})."


def _select_sentences(pairs: Sequence[Pair], kind: str) -> list[str]:
    """Those of all pairs; of many pairs the number of significant ones."""
    if len(pairs) <= MAX_SENTENCES:
        return [pair.sentence for pair in pairs]
    num_significant = sum(pair.is_significant for pair in pairs)
    return [
        f"Of {len(pairs)} pairs of {kind}, {num_significant} differ significantly in accuracy and "
        f"{len(pairs) - num_significant} do not; the table of pairs has each with its interval."
    ]


def write_lowest_costs(recipes: Sequence[Recipe]) -> tuple[str, ...]:
    """The recipes of the lowest costs, without a test, where all were measured alike."""
    parts = []
    for cost in filter(lambda cost: cost.least, COSTS):
        values = [recipe.first.costs[cost.name] for recipe in recipes]
        places = {getattr(recipe.first, cost.of) for recipe in recipes} if cost.of else set()
        if None in values or len(places) > 1:
            continue
        best = min(values, key=lambda value: cost.sign * value)
        owners = [each for each, value in zip(recipes, values, strict=True) if value == best]
        models = {recipe.model for recipe in owners}
        if len(owners) < len(recipes):
            labels = [*models] if len(models) == 1 else [recipe.label for recipe in owners]
            names = join_words(labels, MAX_WORDS)
            parts.append(cost.least.format(names, best))
    if not parts:
        return ()
    accuracies = {recipe.accuracy.value for recipe in recipes}
    top = max(accuracies)
    if len(accuracies) > 1:
        parts.insert(0, f"highest accuracy, {_name_recipes(top, recipes)} ({percent(top)} %)")
    return (f"Described, not tested: {'; '.join(parts)}.",)


def write_cautions(recipes: Sequence[Recipe], differing: Collection[str]) -> tuple[str, ...]:
    """What a reader must know before repeating the figures."""
    sentences = [
        "One split and one test set: no interval here covers how the figures would change with "
        "another split, or with test images from elsewhere.",
        "Validation images chose the epoch of each run, unless its recipe scores the last one; "
        "test images chose nothing.",
    ]
    if differing:
        names = join_words([*differing], MAX_WORDS)
        sentences.append(
            f"Besides the network, the runs differ in {names}: a difference between recipes is one "
            "of whole recipes, not of networks alone."
        )
    sentences += describe_code(recipes)
    few = sum(len(recipe.networks) < MIN_SEEDS for recipe in recipes)
    if few:
        have = "has" if few == 1 else "have"
        sentences.append(
            f"{few} of {pluralize(len(recipes), 'recipe')} {have} fewer than {MIN_SEEDS} seeds: "
            "their figures say nothing about retraining."
        )
    undefined = [
        f"{network.label} ({network.scores.undefined_classes})"
        for recipe in recipes
        for network in recipe.networks
        if network.scores.undefined_classes
    ]
    if undefined:
        sentences.append(
            "A class without test images or predictions has no precision or recall. It counts as 0 "
            f"in macro averages, as in scikit-learn: {join_words(undefined, MAX_WORDS)}."
        )
    return tuple(sentences)


def describe_code(recipes: Sequence[Recipe]) -> list[str]:
    """Where different code trained the runs of a recipe, or those of different recipes."""
    sentences, named = [], set[str]()
    for recipe in recipes:
        if files := find_other_code(recipe.networks):
            named.update(files)
            sentences.append(
                f"Runs of {recipe.label} were trained by different code: "
                f"{join_words(files, MAX_WORDS)}. What is said of the recipe mixes them."
            )
    networks = [network for recipe in recipes for network in recipe.networks]
    if files := [name for name in find_other_code(networks) if name not in named]:
        sentences.append(
            f"Recipes were trained by different code: {join_words(files, MAX_WORDS)}. A difference "
            "between them may be one of the code."
        )
    unknown = sum(network.metadata["code"] is None for network in networks)
    if 0 < unknown < len(networks):
        runs = f"{unknown} of {pluralize(len(networks), 'run')}"
        sentences.append(f"The code that trained {runs} is not recorded.")
    return sentences


def add_sentences(pairs: Sequence[Pair]) -> tuple[Pair, ...]:
    return tuple(replace(pair, sentence=write_sentence(pair, len(pairs))) for pair in pairs)


def write_sentence(pair: Pair, num_pairs: int) -> str:
    """Whether it claims a difference depends on Holm's p alone."""
    better, other, seeds = pair.a, pair.b, pair.num_seeds
    value, low, high = pair.difference
    if value < 0:  # the better first
        better, other, seeds = other, better, seeds[::-1]
        value, low, high = -value, -high, -low
    is_recipe = pair.num_seeds != (1, 1)
    images = pluralize(pair.num_images, "test image")
    if is_recipe:
        a, b = seeds
        each = f"{a} seeds each" if a == b else f"{a} and {b} seeds"
        usual, where, end = ("better", "t test"), "", f"; {each}, {images})."
    else:
        usual, where = ("more accurate", "McNemar"), f" on these {images}"
        end = "). One seed each, so this says nothing about retraining."
    word, test = pair.words or usual
    claim = f"{better} is {word} than {other}"
    if not pair.is_significant:
        claim = f"{better} and {other} do not differ significantly"
    p = f"{test} p = {formats.p_value(pair.p_holm)}".replace("= <", "<")
    bounds = f"95 % CI {formats.interval(low, high, points).replace('+', '')}"
    if num_pairs > 1:
        bounds, p = f"{bounds}, simultaneous over {num_pairs} pairs", f"{p} after Holm"
    bounds = bounds if low == low else "no interval"
    evidence = f"{points(value)} points ({bounds}; {p}"
    return f"{claim}{where}: {evidence}{end}"


def describe_setting(name: str, values: Sequence[str], labels: Sequence[str]) -> str:
    """`optim.lr: 0.1 (alexnet), 0.01 (googlenet and resnet50)`, by the labels of the recipes."""
    owners: dict[str, list[str]] = {}
    for value, label in zip(values, labels, strict=True):
        owners.setdefault(value, []).append(label)
    shown = [f"{value} ({join_words(names, 3)})" for value, names in owners.items()]
    rest = [f"{len(shown) - MAX_WORDS} more values"] if len(shown) > MAX_WORDS else []
    return f"{name}: {', '.join([*shown[:MAX_WORDS], *rest])}"
