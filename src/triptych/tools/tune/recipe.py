"""The best settings of a search, as an experiment that train.py takes."""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import optuna
import yaml  # type: ignore[import-untyped]
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from optuna.trial import TrialState

from triptych.config import CONFIGS, Config, resolve_config
from triptych.errors import UserError
from triptych.runs.reader import sanitize
from triptych.runs.record import experiment_settings
from triptych.runs.storage import atomic_write, translate_write_errors
from triptych.tools.tune.study import DONE

log = logging.getLogger(__name__)

GROUPS = ("data", "model", "optim", "trainer")


def write_recipe(
    study: optuna.Study, config: Config, training: Config, overrides: Sequence[str]
) -> None:
    """Write `tuned_<study>.yaml`; an existing one stays unless `overwrite` says otherwise."""
    name = f"tuned_{config['study']}"
    path = Path(config["recipe_dir"] or CONFIGS / "experiment", f"{name}.yaml")
    if not study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        raise UserError(f"study={config['study']}: no trial was completed, so none is the best")
    if path.exists() and not config["overwrite"]:
        log.info("%s exists and stays as it is; overwrite=true replaces it", path)
        return
    head = [*describe_origin(study, training), f"python train.py experiment={name}"]
    recipe = format_recipe(training, study.best_trial.params, overrides, head)
    with translate_write_errors(f"recipe_dir={path.parent}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as temporary:
            temporary.write_text(recipe)
    log.info("%s: written; python train.py experiment=%s", path, name)


def describe_origin(study: optuna.Study, training: Config) -> list[str]:
    """Where the best settings come from, and what their accuracy is worth."""
    num_trials, best = len(study.get_trials(deepcopy=False, states=DONE)), study.best_trial
    return [
        f"{training['model']['name']} on {training['data']['name']}, {date.today()}: "
        f"the best of {num_trials} trials.",
        f"Validation accuracy {best.value:.4f} (trial {best.number}), chosen on validation",
        "images and so a little optimistic; no trial has seen a test image. From the command:",
        sanitize(os.environ.get("TRIPTYCH_COMMAND", "")),
    ]


def format_recipe(
    config: Config, values: Mapping[str, Any], overrides: Sequence[str], head: Sequence[str]
) -> str:
    """The YAML of an experiment that composes to the config's, with values under dotted keys.

    `overrides`: as typed, for the choices in them; `head`: lines of its comment.
    """
    choices = read_choices(overrides)
    plain = resolve_config(compose_training([f"{group}={c}" for group, c in choices.items()]))
    settings = OmegaConf.create()
    differences = find_differences(experiment_settings(config), experiment_settings(plain))
    for key, value in [*differences, *values.items()]:
        OmegaConf.update(settings, key, value, force_add=True)
    lines = ["# @package _global_", *(f"# {line}" for line in head), "", "defaults:"]
    lines += [f"  - override /{group}: {choice}" for group, choice in choices.items()]
    body = yaml.safe_dump(
        OmegaConf.to_container(settings), sort_keys=False, default_flow_style=None, width=98
    )
    return "\n".join([*lines, "", body])


def read_choices(overrides: Sequence[str]) -> dict[str, str]:
    """The choice in each group of the config: typed, an experiment's or the default.

    Raises UserError where it is not in the configs, so that train.py could not repeat it.
    """
    typed = [o for o in overrides if o.partition("=")[0] in (*GROUPS, "experiment")]
    try:
        choices = compose_training(typed).hydra.runtime.choices
    except HydraException as error:
        raise UserError(
            f"{' '.join(typed)}: not all of it is in {CONFIGS}, which a recipe refers to"
        ) from error
    return {group: choices[group] for group in GROUPS}


def compose_training(overrides: list[str]) -> DictConfig:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose("train", overrides, return_hydra_config=True)


def find_differences(config: Config, plain: Config, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The settings, under dotted keys, that `plain` lacks or has with another value."""
    for name, value in config.items():
        other = plain.get(name)
        if isinstance(value, dict) and isinstance(other, dict):
            yield from find_differences(value, other, f"{prefix}{name}.")
        elif name not in plain or value != other:
            yield f"{prefix}{name}", value
