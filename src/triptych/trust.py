"""Run folders that may be somebody else's: data until checked."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from triptych import Refused
from triptych.config import CONFIGS, Config, check
from triptych.identity import config_hash
from triptych.record import Record


def reopen(config: Config, overrides: list[str]) -> Record:
    """The record of the run to go on with; its own config holds, whatever else was typed."""
    idle = [o for o in overrides if not o.startswith(("resume=", "log_dir=", "trusted_targets="))]
    if idle:
        raise Refused(f"resume= goes on with the folder's own config, without {' '.join(idle)}")
    record = Record.open(Path(config["resume"]))
    if record.facts.get("status") == "finished":
        raise Refused(f"resume={config['resume']}: this run is finished")
    check_foreign(record.config, config["trusted_targets"])
    if config_hash(record.config) != record.facts.get("config_hash"):
        raise Refused(f"{record.folder}/config.yaml: edited since; start a new run instead")
    return record


def check_foreign(config: Config, trusted: Iterable[str] = ()) -> None:
    """Check a config out of a run folder, which may be somebody else's.

    Raises Refused where it names a `_target_` that neither the installed configs nor `trusted`
    do, or holds an interpolation, which could make one: a run folder's config is resolved.
    """
    if "${" in repr(config):
        raise Refused("config.yaml: holds an interpolation ${...}; write its value there instead")
    unknown = foreign_targets(config) - set(trusted)
    if unknown:
        listed = ",".join(sorted(unknown))
        raise Refused(
            f"_target_={listed}: not in the installed configs\n"
            f"if you trust what it runs, add 'trusted_targets=[{listed}]'"
        )
    check(config)


def foreign_targets(config: Config) -> set[str]:
    """Every `_target_` that the installed configs do not name."""
    installed = map(OmegaConf.load, CONFIGS.rglob("*.yaml"))
    known = {target for node in installed for target in targets(OmegaConf.to_container(node))}
    return set(targets(config)) - known


def targets(node: Any) -> Iterator[str]:
    """Every `_target_` below a node."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield str(node["_target_"])
        node = list(node.values())
    if isinstance(node, list):
        for child in node:
            yield from targets(child)
