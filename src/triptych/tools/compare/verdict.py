"""The first sentences of a comparison, and what its figures do not cover."""

from collections.abc import Sequence

from triptych.tools.compare.content import Pairs, Recipe, Row, Setting
from triptych.tools.compare.costs import COSTS
from triptych.tools.compare.groups import Group
from triptych.tools.compare.sentences import MAX_SENTENCES, counted, listed, percent, some
from triptych.tools.statistics.recipes import MIN_SEEDS


def verdict(
    recipes: Sequence[Recipe], rows: Sequence[Row], networks: Pairs, of_recipes: Pairs
) -> tuple[str, ...]:
    """What was compared, how accurate each is, and what can be told apart."""
    num_tests = sorted({recipe.num_test for recipe in recipes})
    sizes = listed([counted(n, "test image") for n in num_tests])
    trained = counted(len(rows), "trained network")
    of = f" of {counted(len(recipes), 'recipe')}" if len(recipes) < len(rows) else ""
    said = [f"{trained}{of} answered for {sizes}, every image counted once."]
    said += _accuracies(recipes)
    told = {label for pair in of_recipes.pairs for label in (pair.a, pair.b)}
    untold = {recipe.networks[0] for recipe in recipes if recipe.label not in told}
    said += _pairs(of_recipes, None)
    said += _pairs(networks, untold)
    if not networks.pairs:
        said.append(networks.note)
    return tuple(said)


def _accuracies(recipes: Sequence[Recipe]) -> list[str]:
    if len(recipes) <= MAX_SENTENCES:
        return [_accuracy(recipe) for recipe in recipes]
    low, high = (best(recipe.accuracy.value for recipe in recipes) for best in (min, max))
    if low == high:
        return [f"All recipes get {percent(low)} of their images right."]
    return [
        f"Accuracies go from {percent(low)} ({_having(low, recipes)}) to {percent(high)} "
        f"({_having(high, recipes)}); the table has each with its interval."
    ]


def _having(accuracy: float, recipes: Sequence[Recipe]) -> str:
    """The recipes of that very accuracy."""
    return some([recipe.label for recipe in recipes if recipe.accuracy.value == accuracy], 3)


def _accuracy(recipe: Recipe) -> str:
    value, low, high = recipe.accuracy.value, recipe.accuracy.low, recipe.accuracy.high
    seeds = len(recipe.networks)
    got = f"{recipe.label} gets {percent(value)} of {counted(recipe.num_test, 'image')} right"
    if low is None or high is None:
        mean = f"{got}, the mean of {counted(seeds, 'seed')}"
        return f"{mean}, without an interval: that takes {MIN_SEEDS} seeds and two images."
    interval = f"{100 * low:.2f} to {percent(high)}"
    if seeds == 1:
        return f"{got} (one seed; 95 % Wilson interval over test images {interval})."
    return f"{got}, the mean of {seeds} seeds (95 % t interval over seeds and images {interval})."


def _pairs(pairs: Pairs, about: set[str] | None) -> list[str]:
    """The sentences of a table, of those pairs that have one of `about`; few, or their number."""
    kept = [p for p in pairs.pairs if about is None or {p.a, p.b} & about]
    if len(kept) <= MAX_SENTENCES:
        return [pair.sentence for pair in kept]
    told = sum(pair.is_told for pair in kept)
    kind = "recipes" if about is None else "trained networks"
    return [
        f"Of {len(kept)} pairs of {kind}, {told} can be told apart and {len(kept) - told} cannot; "
        "the table of pairs has each with its interval."
    ]


def least_costs(recipes: Sequence[Recipe], rows: Sequence[Row]) -> list[str]:
    """Who needs least of what, without a test, where all were measured alike."""
    if len(recipes) < 2:
        return []
    row_of = {row.label: row for row in rows}
    first = {recipe.label: row_of[recipe.networks[0]] for recipe in recipes}
    metadata = []
    for cost in (cost for cost in COSTS if cost.least):
        values = {label: getattr(row, cost.name) for label, row in first.items()}
        devices = {getattr(row, cost.of) for row in first.values()} if cost.of else set()
        if None in values.values() or len(devices) > 1:
            continue
        best = min(values.values(), key=lambda value: cost.sign * value)
        named = [label for label, value in values.items() if value == best]
        models = {first[label].model for label in named}
        if len(named) < len(values):
            names = some([*models] if len(models) == 1 else named)
            metadata.append(f"{cost.least}, {names} ({cost.form.format(best)})")
    if not metadata:
        return []
    accuracies = {recipe.accuracy.value for recipe in recipes}
    top = max(accuracies)
    if len(accuracies) > 1:
        metadata.insert(0, f"highest accuracy, {_having(top, recipes)} ({percent(top)})")
    return [f"Descriptively, with no test behind it: {'; '.join(metadata)}."]


def cautions(groups: Sequence[Group], differing: Sequence[Setting]) -> tuple[str, ...]:
    """What a reader must know before repeating the figures."""
    said = [
        "One split and one test set: no interval here covers how far the figures would move with "
        "another split, or with test images of another origin.",
        "Validation images chose each run's epoch, unless its recipe scores the last; test images "
        "chose nothing.",
    ]
    if differing:
        names = some([setting.name for setting in differing])
        said.append(
            f"The recipes differ besides the network in {names}: a difference between them is one "
            "of whole recipes, not of networks alone."
        )
    few = sum(len(group.networks) < MIN_SEEDS for group in groups)
    if few:
        said.append(
            f"{few} of {counted(len(groups), 'recipe')} with fewer than {MIN_SEEDS} seeds: of "
            "these nothing is said about training again."
        )
    return (*said, *_undefined(groups))


def _undefined(groups: Sequence[Group]) -> list[str]:
    """Networks with classes whose precision or recall has no value."""
    counts = {
        network.label: network.scores.undefined_classes
        for group in groups
        for network in group.networks
        if network.scores.undefined_classes
    }
    if not counts:
        return []
    named = some([f"{network} ({number})" for network, number in counts.items()])
    return [
        "Classes without a test image or never predicted have no precision or recall and enter "
        f"macro values as 0, as scikit-learn has it: {named}."
    ]
