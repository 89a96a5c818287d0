"""Which configs of run folders may be used: a `_target_` in one would be imported and called."""

from collections.abc import Iterable
from functools import cache

from omegaconf import OmegaConf

from triptych.config import CONFIGS, SCORING, Config, check_config, find_targets
from triptych.errors import UserError


def check_untrusted_config(config: Config, trusted: Iterable[str] = ()) -> None:
    """Raise UserError where the config of a run folder breaks a rule of `check_config`, names a
    `_target_` that neither the installed configs nor `trusted` name, or has an interpolation, which
    could resolve to one: what a run writes is resolved."""
    if "${" in repr(config):
        raise UserError("config.yaml: holds an interpolation ${...}; write its value there instead")
    if unknown := find_unknown_targets(config) - set(trusted):
        names = ",".join(sorted(unknown))
        raise UserError(
            f"_target_={names}: not in the installed configs\n"
            f"if you trust what it runs, add 'trusted_targets=[{names}]'"
        )
    check_config(config)


def find_unknown_targets(config: Config) -> set[str]:
    """Every `_target_` that the installed configs do not name."""
    return set(find_targets(config)) - installed_targets()


@cache
def installed_targets() -> set[str]:
    nodes = map(OmegaConf.load, CONFIGS.rglob("*.yaml"))
    return {target for node in nodes for target in find_targets(OmegaConf.to_container(node))}


def drop_training_parts(config: Config) -> Config:
    """The config of a run without the callbacks, loggers and plugins that only its training had."""
    trainer, names = config.get("trainer"), ("max_epochs", "accelerator", *SCORING)
    kept = {name: trainer[name] for name in names if name in trainer} if trainer else {}
    return config | {"trainer": kept}
