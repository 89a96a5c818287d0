"""What is said of a comparison: sober English, numbers with units and n."""

from collections.abc import Sequence
from dataclasses import replace

from triptych.tools.compare.content import Pair, Setting
from triptych.tools.compare.exhibits import LostMore, WithInterval
from triptych.tools.evaluate.degradation import OVERALL

MAX_SENTENCES = 10  # of one kind in a verdict; beyond, tables say it better

ABOUT_NETWORKS = "Do these trained networks differ on these test images?"
ABOUT_RECIPES = "Do the recipes differ, if they are trained again?"
SEED_EACH = "one seed each, so nothing is said about training again"


def percent(fraction: float) -> str:
    return f"{100 * fraction:.2f} %"


def points(fraction: float) -> str:
    """A difference in percentage points, with a sign only where it is negative."""
    return f"{round(100 * fraction, 2) + 0.0:.2f}".replace("-", "−")  # no minus zero


def p_value(p: float) -> str:
    """`0.0312`, or `< 0.0001`."""
    return "< 0.0001" if p < 0.0001 else f"{p:.4f}"


def counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def listed(words: Sequence[str]) -> str:
    """`a, b and c`."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def some(words: Sequence[str], most: int = MAX_SENTENCES) -> str:
    """The words, listed; of many the first, and how many more there are."""
    more = len(words) - most
    return listed([*words[:most], f"{more} more"] if more > 0 else words)


def worded(pair: Pair, num_pairs: int) -> Pair:
    """The pair with its sentence; which words it takes follows Holm's p alone."""
    if pair.difference.value < 0:  # the better first
        a, b, difference = pair.b, pair.a, _turned(pair.difference)
    else:
        a, b, difference = pair.a, pair.b, pair.difference
    evidence = _evidence(difference, pair, num_pairs)
    sentence = _of_networks if pair.only_a is not None else _of_recipes
    return replace(pair, sentence=sentence(a, b, pair, evidence))


def _of_networks(a: str, b: str, pair: Pair, evidence: str) -> str:
    on = f"of the same {counted(pair.num_images, 'test image')}"
    if pair.is_told:
        return (
            f"This trained {a} got more {on} right than this trained {b}: {evidence}; {SEED_EACH}."
        )
    return (
        f"This trained {a} and this trained {b} cannot be told apart by how many {on} they got "
        f"right: {evidence}; {SEED_EACH}."
    )


def _of_recipes(a: str, b: str, pair: Pair, evidence: str) -> str:
    n_a, n_b = pair.num_seeds if pair.a == a else pair.num_seeds[::-1]
    seeds = f"{n_a} seeds each" if n_a == n_b else f"{n_a} and {n_b} seeds"
    n = f"{seeds}, {counted(pair.num_images, 'test image')}"
    if pair.is_told:
        return f"{a} is better than {b}: {evidence} ({n})."
    return f"{a} and {b} cannot be told apart: {evidence} ({n})."


def _turned(difference: WithInterval) -> WithInterval:
    assert difference.low is not None
    assert difference.high is not None
    return WithInterval(-difference.value, -difference.high, -difference.low)


def _evidence(difference: WithInterval, pair: Pair, num_pairs: int) -> str:
    assert difference.low is not None
    assert difference.high is not None
    test = "exact McNemar test" if pair.only_a is not None else "t test"
    p = f"p = {p_value(pair.p_holm)}".replace("= <", "<")
    jointly, adjusted = "", ""
    if num_pairs > 1:
        jointly, adjusted = f" (simultaneous over {num_pairs} pairs)", " (adjusted by Holm)"
    return (
        f"{points(difference.value)} percentage points of accuracy, 95 % interval{jointly} "
        f"{points(difference.low)} to {points(difference.high)}, {test} {p}"
        f"{adjusted}"
    )


def loses_more(pair: LostMore) -> str:
    """Descriptive: the interval is of this pair alone, and no test stands behind the words."""
    lost, (more, less) = pair.by_type[OVERALL], (pair.a, pair.b)
    value, low, high = lost
    if value < 0:
        (more, less), (value, low, high) = (less, more), (-value, -high, -low)
    return (
        f"In the mean over image types {more} loses {points(value)} points of accuracy more than "
        f"{less} (95 % bootstrap interval of this pair {points(low)} to {points(high)}; the same "
        f"{counted(pair.num_images, 'image')}, untested)."
    )


def setting_in_words(setting: Setting, labels: Sequence[str]) -> str:
    """`optim.lr: 0.1 (alexnet), 0.01 (googlenet and resnet50)`, by the labels of the recipes."""
    having: dict[str, list[str]] = {}
    for value, label in zip(setting.values, labels, strict=True):
        having.setdefault(value, []).append(label)
    shown = [f"{value} ({some(those, 3)})" for value, those in having.items()]
    more = len(shown) - MAX_SENTENCES
    kept = [*shown[:MAX_SENTENCES], *([f"{more} more values"] if more > 0 else [])]
    return f"{setting.name}: {', '.join(kept)}"


def how_networks_were_paired(num_networks: int, num_pairs: int, which: str) -> str:
    if not num_pairs:
        return _nothing_to_pair(num_networks)
    return (
        f"One trained network a recipe, the one of the lowest seed. {which} "
        f"Differences are paired by image: the p values are exact McNemar tests, the intervals of "
        f"accuracy follow Bonett and Price, those of macro F1 come from images drawn again. "
        f"{_family(num_pairs)} The exact test is conservative: an interval may leave out 0 where "
        "the words tell nothing apart."
    )


def how_recipes_were_paired(num_recipes: int, num_able: int, num_pairs: int, which: str) -> str:
    if not num_pairs:
        return (
            "Nothing is said about recipes: that takes two of at least 3 finished seeds each, on "
            "the same test images, two at least. Of "
            f"{counted(num_recipes, 'recipe')} here {num_able} {'is' if num_able == 1 else 'are'} "
            "such."
        )
    left = num_recipes - num_able
    fewer = f" {counted(left, 'recipe')} of fewer seeds left out." if left else ""
    return (
        f"Recipes with at least 3 seeds, by the mean over seeds.{fewer} {which} "
        "Both the scatter over seeds and that over test images enter the standard error; t "
        f"intervals with Welch and Satterthwaite's degrees of freedom. {_family(num_pairs)}"
    )


def _nothing_to_pair(num_recipes: int) -> str:
    if num_recipes == 1:
        return "One recipe: there is nothing to compare it with."
    return "No two recipes can be compared: no pair is tested."


def which_pairs(most: int | None, validated: bool) -> str:
    """`most`: beyond how many each was tested against one alone; None where all pairs were."""
    if most is None:
        return "All pairs that can be compared are tested."
    one = "one of the highest validation accuracy" if validated else "first by name"
    why = "" if validated else " (no validation accuracy is known)"
    return (
        f"Of more than {most} each is tested against the {one}{why}, so that the test set chooses "
        "nothing."
    )


def _family(num_pairs: int) -> str:
    if num_pairs == 1:
        return "One pair: p and interval need no adjustment."
    return (
        f"P values are adjusted by Holm over these {num_pairs} pairs and the words follow them "
        "alone; the intervals are simultaneous over the same pairs (Bonferroni), which is a little "
        "stricter: one may include 0 where the words tell two apart."
    )
