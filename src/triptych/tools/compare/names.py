"""What recipes are called: by their own name or else the network, and the settings that identify
them where several are called alike.
"""

import hashlib
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cache
from typing import NamedTuple

from triptych.config import CONFIGS, Config, find_node
from triptych.runs.record import read_yaml

MAX_VALUE, MAX_NAME = 40, 250  # letters of a setting's value in a label, and of a name
# Where the defaults of a group are of which no file has the run's word.
GROUPS = {"model": "torchvision", "data": "folder", "optim": "adam", "trainer": "default"}
MODEL_KEYS = {"weights": "model.weights", "input_size": "model.input_size"}  # as they are typed


class Described(NamedTuple):
    """A recipe by its name or model, and its settings as they would be typed."""

    title: str
    settings: Mapping[str, str]
    is_default: Callable[[str], bool] = lambda name: False  # of a setting, by its name


def make_labels(recipes: Sequence[Described]) -> list[str]:
    """A label for each: the title, and the settings that identify it; those with their default
    value are left out, as far as all labels still differ.

    Settings are added one at a time, the one that separates most recipes first and of these the
    shortest, until all differ or no setting separates them; then they are numbered.
    """
    labels = [recipe.title for recipe in recipes]
    short = shorten_names({name for recipe in recipes for name in recipe.settings})
    for title in set(labels):
        places = [place for place, recipe in enumerate(recipes) if recipe.title == title]
        same = [recipes[place] for place in places]
        chosen = choose_settings([recipe.settings for recipe in same], short)
        values = {n: shorten_values({r.settings.get(n, "") for r in same}) for n in chosen}
        full, words = (
            [write_settings(recipe, short, values, has_defaults) for recipe in same]
            for has_defaults in (True, False)
        )
        words = words if len({*words}) == len({*full}) else full
        for place, settings in zip(places, words, strict=True):
            labels[place] = f"{title} {settings}".strip()
    return _number_duplicates(labels)


def write_settings(
    recipe: Described,
    short: Mapping[str, str],
    values: Mapping[str, Mapping[str, str]],
    has_defaults: bool,
) -> str:
    """Those of which there are `values` in few letters, with or without defaults."""
    names = [name for name in values if name in recipe.settings]
    shown = [name for name in names if has_defaults or not recipe.is_default(name)]
    return " ".join(f"{short[name]}={values[name][recipe.settings[name]]}" for name in shown)


def choose_settings(tables: Sequence[Mapping[str, str]], short: Mapping[str, str]) -> list[str]:
    """As few settings as separate as many tables as can be: a class before its arguments, an
    optimizer before its rates."""
    chosen: list[str] = []

    def count_distinct(*names: str) -> int:
        return len({tuple(table.get(name) for name in names) for table in tables})

    known = dict.fromkeys(name for table in tables for name in table)
    names = [name for name in known if count_distinct(name) > 1]
    above = tuple(f"{name.removesuffix('.name')}." for name in names)

    def rate(name: str) -> tuple[int, bool, int]:
        is_inner = not name.endswith(".name") and name.startswith(above)
        length = len(short[name]) + max(len(table.get(name, "")) for table in tables)
        return count_distinct(*chosen, name), not is_inner, -length

    best = max(names, key=rate, default="")
    while best and count_distinct(*chosen, best) > count_distinct(*chosen):
        chosen.append(best)
        best = max(names, key=rate)
    return chosen


def shorten_names(names: Collection[str]) -> dict[str, str]:
    """The end of each dotted name that no other has: lr of optim.lr, and optim of optim.name."""
    parts = {name: name.removesuffix(".name").split(".") for name in names}
    ends = {
        name: [".".join(each[n:]) for n in range(len(each) - 1, -1, -1)]
        for name, each in parts.items()
    }
    num_owners: dict[str, int] = {}
    for each in ends.values():
        for end in each:
            num_owners[end] = num_owners.get(end, 0) + 1
    return {
        name: next((end for end in each if num_owners[end] == 1), name)
        for name, each in ends.items()
    }


def shorten_values(values: Iterable[str]) -> dict[str, str]:
    """The different values of a setting in few letters: `Soup+EMA` of classes, however they are
    called; as they are; or from where they begin to differ, with a digest where that is far."""
    values = sorted(values)
    classes = {
        value: re.sub(r"\([^()]*\)", "", value).replace(", ", "+") if "(" in value else value
        for value in values
    }
    for short in (classes, {value: value for value in values}):
        if len({*short.values()}) == len(values) and max(map(len, short.values())) <= MAX_VALUE:
            return short
    letters = enumerate(zip(*values, strict=False))
    start = values[0][: next((n for n, each in letters if len({*each}) > 1), 0)]
    num_shared = max(start.rfind(sign) for sign in " (") + 1
    return {value: _cut(value, "…" * (num_shared > 0) + value[num_shared:]) for value in values}


def cut_name(name: str) -> str:
    """As it is, or where it is very long its first letters and a digest."""
    return _cut(name, name, MAX_NAME)


def _cut(value: str, shown: str, most: int = MAX_VALUE) -> str:
    if len(shown) <= most:
        return shown
    return f"{shown[: most - 6]}… {hashlib.sha256(value.encode()).hexdigest()[:4]}"


def _number_duplicates(names: Sequence[str]) -> list[str]:
    """The names, with a number behind each that an earlier one has already."""
    unique: list[str] = []
    for name in names:
        candidate, number = name, 2
        while candidate in unique or (candidate != name and candidate in names):
            candidate, number = f"{name} ({number})", number + 1
        unique.append(candidate)
    return unique


def has_default(config: Config, name: str) -> bool:
    """Whether a run's setting is as the installed configs have it for its network, data and
    optimizer."""
    name = MODEL_KEYS.get(name, name)
    group = name.partition(".")[0]
    defaults = _read_installed("train")
    if name == "optim.name":
        [word] = [each["optim"] for each in defaults["defaults"] if "optim" in each]
        defaults = {group: {"name": word}}
    elif group in GROUPS:
        word = find_node(config, f"{group}.name")[0].get("name")
        file = _read_installed(f"{group}/{word}") or _read_installed(f"{group}/{GROUPS[group]}")
        defaults = {group: file}
    (here, key), (installed, _) = find_node(config, name), find_node(defaults, name)
    return key in here and key in installed and here[key] == installed[key]


@cache
def _read_installed(name: str) -> Config:
    """Empty where there is none of that name, which may come from somebody's folder."""
    names = {str(path.relative_to(CONFIGS).with_suffix("")) for path in CONFIGS.rglob("*.yaml")}
    return read_yaml(CONFIGS / f"{name}.yaml") if name in names else {}
