"""What a reader must know before repeating the figures of a comparison."""

from collections import Counter
from collections.abc import Collection, Sequence

from triptych.data.group_names import LEAK
from triptych.tools.compare.formats import MAX_WORDS, join_words, pluralize
from triptych.tools.compare.recipes import Recipe
from triptych.tools.compare.runs import TrainedNetwork, find_other_code
from triptych.tools.statistics.inference import MIN_SEEDS


def write_cautions(recipes: Sequence[Recipe], differing: Collection[str]) -> tuple[str, ...]:
    """What a reader must know before repeating the figures."""
    sentences = describe_choices(recipes)
    if differing:
        names = join_words([*differing], MAX_WORDS)
        sentences.append(
            f"The runs also differ in {names}: a difference is one between whole recipes, not "
            "between networks alone."
        )
    if any(recipe.first.num_groups for recipe in recipes):
        sentences.append(
            "Test images come in groups, such as photos of one object: intervals and tests are "
            "over these, which may be few; scores and counts are of images."
        )
    notes = [n for r in recipes for each in r.networks for n in each.metadata["notes"] or ()]
    leaks = dict.fromkeys(note for note in notes if note.startswith(LEAK))
    sentences += [f"Groups of images {leak}." for leak in leaks]
    sentences += describe_code(recipes)
    few = sum(len(recipe.networks) < MIN_SEEDS for recipe in recipes)
    if few == len(recipes):
        sentences.append(f"Fewer than {MIN_SEEDS} seeds say nothing about retraining.")
    elif few:
        have, their = ("has", "its") if few == 1 else ("have", "their")
        sentences.append(
            f"{few} of {pluralize(len(recipes), 'recipe')} {have} fewer than {MIN_SEEDS} seeds: "
            f"{their} figures say nothing about retraining."
        )
    undefined = [
        f"{network.label} ({network.scores.undefined_classes})"
        for recipe in recipes
        for network in recipe.networks
        if network.scores.undefined_classes
    ]
    if undefined:
        sentences.append(
            "Classes without test images or predictions count as 0 in macro averages, as in "
            f"scikit-learn: {join_words(undefined, MAX_WORDS)}."
        )
    return tuple(sentences)


def describe_choices(recipes: Sequence[Recipe]) -> list[str]:
    """What chose the networks, as far as that is known."""
    guests = [recipe.label for recipe in recipes if recipe.first.is_guest]
    sentences = [
        "One split and one test set: no interval covers another split, or test images from "
        "elsewhere."
    ]
    if len(guests) < len(recipes):
        sentences.append(
            "Validation images chose the epoch of each run, unless it is the last one; test images "
            "chose nothing."
        )
    if guests:
        names = join_words(guests, MAX_WORDS) if len(guests) < len(recipes) else "these networks"
        sentences.append(
            f"Of {names} only predictions are known: not the training images, nor whether test "
            "images chose epoch or settings."
        )
    alike: dict[bytes, list[TrainedNetwork]] = {}
    for network in (network for recipe in recipes for network in recipe.networks):
        alike.setdefault(network.test.classes.tobytes(), []).append(network)
    for same in alike.values():
        if not any(network.is_guest for network in same):  # all may be right, by other logits
            digests = Counter(network.digest for network in same if len(same) > 1)
            same = [network for network in same if digests[network.digest] > 1]
        if len(same) > 1:
            names = join_words([network.label for network in same], MAX_WORDS)
            sentences.append(
                f"{names} give every image the same class: one network under several names, or a "
                "seed that changes nothing? Each counts as a training of its own."
            )
    return sentences


def describe_code(recipes: Sequence[Recipe]) -> list[str]:
    """Where different code trained the runs of a recipe, or those of different recipes."""
    sentences, named = [], set[str]()
    for recipe in recipes:
        if files := find_other_code(recipe.networks):
            named.update(files)
            sentences.append(
                f"Runs of {recipe.label} were trained by different code: "
                f"{join_words(files, MAX_WORDS)}. Its figures mix them."
            )
    networks = [each for recipe in recipes for each in recipe.networks if not each.is_guest]
    if files := [name for name in find_other_code(networks) if name not in named]:
        sentences.append(
            f"Recipes were trained by different code: {join_words(files, MAX_WORDS)}. It may cause "
            "their difference."
        )
    unknown = sum(network.metadata["code"] is None for network in networks)
    if 0 < unknown < len(networks):
        runs = f"{unknown} of {pluralize(len(networks), 'run')}"
        sentences.append(f"The code that trained {runs} is not recorded.")
    return sentences
