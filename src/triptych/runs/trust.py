"""Configs out of run folders that may be somebody else's: data until checked."""

from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from omegaconf import OmegaConf

from triptych.config import CONFIGS, Config, check_config
from triptych.errors import UserError

MAX_DEPTH = 50  # of nested lists and mappings: no run comes near it


def check_untrusted_config(config: Config, trusted: Iterable[str] = ()) -> None:
    """Raise UserError where the config of a run folder breaks a rule of `check_config`, names a
    `_target_` that neither the installed configs nor `trusted` name, or has an interpolation, which
    could resolve to one: what a run writes is resolved."""
    if "${" in repr(config):
        raise UserError("config.yaml: holds an interpolation ${...}; write its value there instead")
    unknown = find_unknown_targets(config) - set(trusted)
    if unknown:
        names = ",".join(sorted(unknown))
        raise UserError(
            f"_target_={names}: not in the installed configs\n"
            f"if you trust what it runs, add 'trusted_targets=[{names}]'"
        )
    check_config(config)


def check_yaml(text: str) -> None:
    """Raise ValueError at aliases, which unfold into any size, and at deep nesting, which exhausts
    the parser: no run writes either."""
    depth = 0
    for event in yaml.parse(text):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if isinstance(event, yaml.AliasEvent) or depth > MAX_DEPTH:
            raise ValueError(f"it has aliases, or is nested deeper than {MAX_DEPTH}")


def find_unknown_targets(config: Config) -> set[str]:
    """Every `_target_` that the installed configs do not name."""
    return set(find_targets(config)) - installed_targets(CONFIGS)


@cache
def installed_targets(configs: Path) -> set[str]:
    nodes = map(OmegaConf.load, configs.rglob("*.yaml"))
    return {target for node in nodes for target in find_targets(OmegaConf.to_container(node))}


def find_targets(node: Any) -> Iterator[str]:
    """Every `_target_` below a node."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield str(node["_target_"])
        node = list(node.values())
    if isinstance(node, list):
        for child in node:
            yield from find_targets(child)
