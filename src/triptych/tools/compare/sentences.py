"""What is said of a comparison: plain English, numbers with units and n."""

import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from triptych.runs.reader import sanitize
from triptych.tools.compare import formats
from triptych.tools.compare.cautions import write_cautions
from triptych.tools.compare.content import (
    COSTS,
    Pair,
    Pairs,
    Question,
    list_untested,
    rank_pairs,
)
from triptych.tools.compare.formats import MAX_WORDS, join_words, percent, pluralize
from triptych.tools.compare.headlines import (
    MAX_NAMES,
    ONE_SEED,
    count_seeds,
    explain_no_pairs,
    name_data,
    write_claim,
    write_headlines,
    write_question,
    write_test,
)
from triptych.tools.compare.recipes import Recipe, find_differing, find_name, write_banner
from triptych.tools.compare.runs import Problem, TrainedNetwork
from triptych.tools.statistics.inference import MIN_SEEDS

MAX_SENTENCES = 10  # of one kind in a verdict; of more, tables say it better
# Costs by name, what one recipe takes of another's, and on what it depends.
SHARES = (
    ("train_seconds", "training time", "trained_on"),
    ("latency_ms_p50", "latency", "measured_on"),
    ("macs", "multiply-accumulates", None),
    ("num_params", "parameters", None),
)


def describe_runs(
    read: Sequence[TrainedNetwork],
    recipes: Sequence[Recipe],
    problems: Sequence[Problem],
    question: Question,
    tables: Sequence[Pairs],
    described: str,
) -> dict[str, Any]:
    """The fields of a `BaseComparison` that are the same for every task."""
    differing = find_differing(recipes)
    return {
        "title": write_title(recipes),
        "question": question,
        "asked": write_question(recipes, question),
        "answers": write_headlines(recipes, tables, question, described),
        "banner": write_banner(read),
        "cautions": write_cautions(recipes, differing),
        "differing": differing,
        "recipes": tuple(recipes),
        "recipe_pairs": tables[0],
        "network_pairs": tables[1],
        "problems": tuple(problems),
        "command": sanitize(os.environ.get("TRIPTYCH_COMMAND", "python compare.py")),
        "made_at": datetime.now(UTC).isoformat(timespec="minutes"),
        "version": version("triptych"),
    }


def write_title(recipes: Sequence[Recipe]) -> str:
    """Which networks on which data."""
    called = [*dict.fromkeys(find_name(recipe.networks) or recipe.model for recipe in recipes)]
    names = join_words(called) if len(called) <= MAX_NAMES else f"{len(called)} networks"
    return f"{names} on {name_data(recipes)}"


def write_summary(
    recipes: Sequence[Recipe], network_pairs: Pairs, recipe_pairs: Pairs, question: Question
) -> tuple[str, ...]:
    """What was compared, how accurate each is, and which differences are significant."""
    counts = sorted({(recipe.first.num_test, recipe.first.num_groups or 0) for recipe in recipes})
    sizes = join_words([formats.count_images(*each) for each in counts])
    num_networks = sum(len(recipe.networks) for recipe in recipes)
    trained = pluralize(num_networks, "trained network")
    of = f" of {pluralize(len(recipes), 'recipe')}" if len(recipes) < num_networks else ""
    sentences = [f"{trained}{of}, on {sizes}, each counted once."]
    sentences += _write_accuracies(recipes)
    sentences += _select_sentences(rank_pairs(recipe_pairs.pairs, recipes), "recipes")
    untested = list_untested(recipes, recipe_pairs, network_pairs)
    sentences += _select_sentences(rank_pairs(untested, recipes), "trained networks")
    if not network_pairs.pairs:
        sentences.append(explain_no_pairs(recipes, network_pairs, question.measure))
    if network_pairs.pairs and question.margin is not None and question.plan is None:
        margin = question.measure.write_margin(question.margin)
        sentences.append(
            f"The margin of {margin} was not declared before the runs by a plan: if results were "
            "known, its verdicts only describe."
        )
    return tuple(sentences)


def _write_accuracies(recipes: Sequence[Recipe]) -> list[str]:
    if len(recipes) == 1:
        return [write_accuracy(recipes[0])]
    if len(recipes) <= MAX_SENTENCES:
        unit = "groups" if any(recipe.first.num_groups for recipe in recipes) else "images"
        are_single = sorted({len(recipe.networks) == 1 for recipe in recipes})
        over = " or, of one seed, ".join((f"seeds and {unit}", unit)[each] for each in are_single)
        each = join_words([_write_briefly(recipe) for recipe in recipes])
        return [f"Accuracy with its 95 % CI over {over}: {each}."]
    low, high = (best(recipe.accuracy.value for recipe in recipes) for best in (min, max))
    return [
        f"Accuracy ranges from {percent(low)} % ({_name_recipes(low, recipes)}) to "
        f"{percent(high)} % ({_name_recipes(high, recipes)}); see the table."
    ]


def _write_briefly(recipe: Recipe) -> str:
    value, low, high = recipe.accuracy
    bounds = f"{formats.interval(low, high)}; " if low == low else "no interval; "
    seeds = pluralize(len(recipe.networks), "seed")
    return f"{recipe.label} {percent(value)} % ({bounds}{seeds})"


def _name_recipes(accuracy: float, recipes: Sequence[Recipe]) -> str:
    """The recipes of that very accuracy."""
    return join_words([each.label for each in recipes if each.accuracy.value == accuracy], most=3)


def write_accuracy(recipe: Recipe) -> str:
    value, low, high = recipe.accuracy
    num_groups, seeds = recipe.first.num_groups, len(recipe.networks)
    images = formats.count_images(recipe.first.num_test, num_groups, "image")
    claim = f"{recipe.label} classifies {percent(value)} % of {images} correctly"
    if math.isnan(low):
        mean = f"{claim}, mean of {pluralize(seeds, 'seed')}"
        return f"{mean} (no interval: that takes {MIN_SEEDS} seeds and two images)."
    bounds, what = f"{formats.interval(low, high)} %", "groups" if num_groups else "images"
    if seeds == 1:
        return f"{claim} (one seed; 95 % CI over {what} {bounds})."
    return f"{claim} (mean of {seeds} seeds; 95 % CI over seeds and {what} {bounds})."


def _select_sentences(pairs: Sequence[Pair], kind: str) -> list[str]:
    """Those of all pairs; of many pairs the number of significant ones."""
    if len(pairs) <= MAX_SENTENCES:
        said = [pair.sentence for pair in pairs]
        if len(pairs) < 2:
            return said
        shared = f"These {len(pairs)} intervals hold at once, with 95 % confidence."
        shared += f" {ONE_SEED}" * all(ONE_SEED in sentence for sentence in said)
        return [*(sentence.replace(f" {ONE_SEED}", "") for sentence in said), shared]
    counts = Counter("better" if pair.is_significant else pair.verdict for pair in pairs)
    measure, margin = pairs[0].measure, pairs[0].margin
    others = f"{len(pairs) - counts['better']} do not"
    if margin is not None:
        inferior = counts["a_not_inferior"] + counts["b_not_inferior"]
        others = (
            f"of the others {counts['equivalent']} are as good as each other within ±"
            f"{measure.write_margin(margin)}, in {inferior} one is not worse by more, and "
            f"{counts['undecided']} are undecided"
        )
    return [
        f"Of {len(pairs)} pairs of {kind}, {counts['better']} differ significantly in "
        f"{measure.name} and {others}; see the table of pairs."
    ]


def write_lowest_costs(recipes: Sequence[Recipe]) -> tuple[str, ...]:
    """The recipes of the lowest costs (means of their seeds), untested, where all were measured
    alike."""
    parts = []
    for cost in filter(lambda cost: cost.least, COSTS):
        means = [recipe.average_cost(cost.name) for recipe in recipes]
        values = [mean for mean in means if mean is not None]
        networks = [network for recipe in recipes for network in recipe.networks]
        places = {getattr(network, cost.of) for network in networks} if cost.of else set()
        if len(values) < len(recipes) or len(places) > 1:
            continue
        best = min(values, key=lambda value: cost.sign * value)
        owners = [each for each, value in zip(recipes, values, strict=True) if value == best]
        models = {recipe.model for recipe in owners}
        if len(owners) < len(recipes):
            of_model = [recipe for recipe in recipes if recipe.model in models]
            is_model = len(models) == 1 and len(of_model) == len(owners)
            labels = [*models] if is_model else [recipe.label for recipe in owners]
            names = join_words(labels, MAX_WORDS)
            parts.append(cost.least.format(names, best))
    if not parts:
        return ()
    accuracies = {recipe.accuracy.value for recipe in recipes}
    top = max(accuracies)
    if len(accuracies) > 1:
        parts.insert(0, f"highest accuracy, {_name_recipes(top, recipes)} ({percent(top)} %)")
    return (f"Described, not tested: {'; '.join(parts)}.",)


def compare_costs(a: Recipe, b: Recipe) -> str:
    """`36 % of its training time`: what a takes of b's, where both were measured alike; nothing
    where a takes no less of the first that is known."""
    shares = []
    for name, words, of in SHARES:
        places = {getattr(each, of) for each in (*a.networks, *b.networks)} if of else {""}
        mine, others = a.average_cost(name), b.average_cost(name)
        if len(places) == 1 and mine and others:
            shares.append((mine / others, words))
    if not shares or shares[0][0] >= 1:
        return ""
    return join_words([f"{percent(share, 0)} % of its {words}" for share, words in shares])


def add_sentences(pairs: Sequence[Pair]) -> tuple[Pair, ...]:
    return tuple(replace(pair, sentence=write_sentence(pair, len(pairs))) for pair in pairs)


def write_sentence(pair: Pair, num_pairs: int) -> str:
    """What it claims depends on p values adjusted by Holm alone, in the order of verdicts."""
    pair = pair.better_first
    difference, measure = pair.difference, pair.measure
    where, end = "", f"; {count_seeds(pair)})."
    if pair.num_seeds == (1, 1):
        where = f" on these {formats.count_images(pair.num_images, pair.num_groups)}"
        end = f"). {ONE_SEED}"
    claim = write_claim(pair)
    if pair.costs[0] and pair.verdict != "undecided":
        claim += f" at {pair.costs[0]}"
    if pair.verdict in ("a_not_inferior", "b_not_inferior"):
        end += " Whether it is better stays open."
    if pair.is_significant and pair.is_equivalent:
        end += " The difference is there and does not matter."
        if pair.costs[1]:
            end += f" {pair.b} comes within the margin of {pair.a} at {pair.costs[1]}."
    p = write_test(pair) + " after Holm" * (num_pairs > 1)
    bounds = f"95 % CI {measure.write_interval(difference)}"
    bounds = bounds if difference.low == difference.low else "no interval"
    return f"{claim}{where}: {measure.write_amount(difference.value)} ({bounds}; {p}{end}"
