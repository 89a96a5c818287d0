"""Configs that may be somebody else's: data until checked."""

from collections.abc import Iterator
from typing import Any

from omegaconf import OmegaConf

from triptych import Refused
from triptych.config import CONFIGS, Config, check


def check_foreign(config: Config) -> None:
    """Check a config out of a run folder, which may be somebody else's.

    Raises Refused where it names a `_target_` that the installed configs do not, or holds an
    interpolation, which could make one: a run folder's config is resolved.
    """
    if "${" in repr(config):
        raise Refused("config.yaml: holds an interpolation ${...}; write its value there instead")
    installed = map(OmegaConf.load, CONFIGS.rglob("*.yaml"))
    trusted = {target for node in installed for target in targets(OmegaConf.to_container(node))}
    for target in targets(config):
        if target not in trusted:
            raise Refused(
                f"_target_={target}: not in the installed configs; add it there if it is yours"
            )
    check(config)


def targets(node: Any) -> Iterator[str]:
    """Every `_target_` below a node."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield str(node["_target_"])
        node = list(node.values())
    if isinstance(node, list):
        for child in node:
            yield from targets(child)
