"""The settings of this command, by the keys of its YAML, and what may be typed instead."""

import os
from collections.abc import Sequence

from triptych.config import FLAG, FOLDERS, Rule

RULES: dict[str, Rule] = {"runs": FOLDERS, "size": FLAG, "clean": FLAG}
FLAGS = {f"--{name}": f"{name}=true" for name, rule in RULES.items() if rule is FLAG}


def expand_arguments(arguments: Sequence[str]) -> list[str]:
    """`runs=logs size=true` for `logs --size`."""
    places, settings, previous = [], [], ""
    for argument in arguments:
        is_value = previous.startswith("-") and previous not in FLAGS  # of a flag of Hydra's
        if is_place(argument) and not is_value:
            places.append(argument)
        else:
            settings.append(FLAGS.get(argument, argument))
        previous = argument
    if not places:
        return settings
    return [f"runs={places[0]}" if len(places) == 1 else f"runs=[{','.join(places)}]", *settings]


def is_place(argument: str) -> bool:
    name, is_set, _ = argument.partition("=")
    is_setting = is_set and (name in RULES or not os.path.lexists(argument))
    return not is_setting and not argument.startswith(("-", "~", "+"))
