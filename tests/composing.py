"""Configs as the commands compose them, each once: Hydra takes its time."""

import copy
from functools import cache
from typing import Any

from hydra import compose, initialize_config_dir

from triptych.config import CONFIGS, Config, check_config, resolve_config


def composed(command: str, *overrides: str, **settings: Any) -> Config:
    """The config of a command, checked; `settings` are put in when it is composed."""
    config = copy.deepcopy(_composed(command, *overrides)) | settings
    check_config(config, command)
    return config


@cache
def _composed(command: str, *overrides: str) -> Config:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return resolve_config(compose(command, [*overrides]))
