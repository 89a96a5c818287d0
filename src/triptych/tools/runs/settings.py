"""The settings of this command, by the keys of its YAML, and what may be typed instead."""

import os
import re
from collections.abc import Sequence

from triptych.config import FLAG, FOLDERS, NAMES, TEXT, Rule, count

CONDITION = re.compile(r"([^=<>!]+)(!=|<=|>=|=|<|>)(.*)", re.DOTALL)
CONDITIONS = Rule(
    "a list of conditions as model=resnet50, or 'seed>=3'",
    lambda value: value == [] or (NAMES.holds(value) and all(map(CONDITION.fullmatch, value))),
)
RULES: dict[str, Rule] = {
    "runs": FOLDERS,
    **dict.fromkeys(("size", "clean", "json"), FLAG),
    **{"sort": TEXT, "where": CONDITIONS, "tensorboard": count(0, 65535).or_null()},
}
FLAGS = {f"--{name}": f"{name}=true" for name, rule in RULES.items() if rule is FLAG}


def expand_arguments(arguments: Sequence[str]) -> list[str]:
    """`runs=logs size=true` for `logs --size`; several `where=` are one list, quoted for Hydra."""
    places, settings, conditions, previous = [], [], list[str](), ""
    for argument in arguments:
        is_value = previous.startswith("-") and previous not in FLAGS  # of a flag of Hydra's
        if is_place(argument) and not is_value:
            places.append(argument)
        elif argument.startswith("where="):
            typed = argument.removeprefix("where=")
            conditions += typed[1:-1].split(",") if typed.startswith("[") else [typed]
        else:
            settings.append(FLAGS.get(argument, argument))
        previous = argument
    quoted = ["'{}'".format(each.replace("'", r"\'")) for each in conditions if each]
    settings += [f"where=[{','.join(quoted)}]"] if quoted else []
    if not places:
        return settings
    return [f"runs={places[0]}" if len(places) == 1 else f"runs=[{','.join(places)}]", *settings]


def is_place(argument: str) -> bool:
    name, is_set, _ = argument.partition("=")
    is_setting = is_set and (name in RULES or not os.path.lexists(argument))
    return not is_setting and not argument.startswith(("-", "~", "+"))
