"""What a setting may be, and how to say so."""

import re
import sys
from collections.abc import Callable
from math import inf
from typing import Any, NamedTuple


class Rule(NamedTuple):
    says: str
    holds: Callable[[Any], bool]

    def or_null(self) -> "Rule":
        return Rule(f"{self.says}, or null", lambda value: value is None or self.holds(value))


def count(least: int, most: int = 2**63 - 1) -> Rule:
    says = f"a whole number of at least {least}" + (f", at most {most}" if most < 2**62 else "")
    return Rule(says, lambda v: type(v) is int and least <= v <= most)


def number(least: float, below: float = inf, *, above: bool = False) -> Rule:
    says = f"a number {'above' if above else 'of at least'} {least:g}"
    says += f" and below {below:g}" if below < inf else ""

    def holds(value: Any) -> bool:
        is_number = type(value) in (int, float) and abs(value) <= sys.float_info.max
        return is_number and (value > least if above else value >= least) and value < below

    return Rule(says, holds)


def one_of(*choices: str) -> Rule:
    return Rule(f"one of {', '.join(choices)}", lambda value: value in choices)


def is_node(value: Any) -> bool:
    return isinstance(value, dict) and TEXT.holds(value.get("_target_"))


TEXT = Rule("a text", lambda value: type(value) is str and value != "")
FLAG = Rule("true or false", lambda value: type(value) is bool)
FREE = Rule("anything", lambda value: True)
NAMES = Rule("a list of names", lambda v: type(v) is list and all(map(TEXT.holds, v)))
NODE = Rule("a node with a _target_", is_node)
NODES = Rule("a list of nodes with a _target_", lambda v: type(v) is list and all(map(is_node, v)))
ENDLESS = Rule("a whole number of at least 1, or -1", lambda v: count(-1).holds(v) and v != 0)
RGB = Rule("three numbers", lambda v: type(v) is list and [*map(number(0).holds, v)] == [True] * 3)


def are_devices(value: Any) -> bool:
    if type(value) is list:
        are_indices = all(count(0).holds(index) for index in value)
        return are_indices and 0 < len(value) == len(set(value))
    return value == "auto" or (type(value) is int and value > 0)


DEVICES = Rule("a whole number of at least 1, a list of indices, or auto", are_devices)
STRATEGY = Rule(
    "auto, ddp or another whose ranks are programs (no spawn, no fork)",
    lambda v: not isinstance(v, str) or not re.search("spawn|fork|notebook|popen", v),
)
