"""The best settings of a search, as an experiment that train.py takes."""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import optuna
import yaml  # type: ignore[import-untyped]
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from optuna.trial import TrialState

from triptych.config import CONFIGS, Config, resolve_config
from triptych.errors import UserError
from triptych.runs.reader import sanitize
from triptych.runs.record import experiment_settings
from triptych.runs.storage import atomic_write

log = logging.getLogger(__name__)

GROUPS = ("data", "model", "optim", "trainer")


def write_recipe(
    study: optuna.Study, config: Config, training: Config, overrides: Sequence[str]
) -> None:
    """Write `tuned_<study>.yaml`; one that is there is kept unless `overwrite` says otherwise."""
    name = f"tuned_{config['study']}"
    path = Path(config["recipe_dir"] or CONFIGS / "experiment", f"{name}.yaml")
    if not study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        raise UserError(f"study={config['study']}: no trial came to its end, so none is the best")
    if path.exists() and not config["overwrite"]:
        log.info("%s: kept as it is; overwrite=true replaces it", path)
        return
    best = study.best_trial
    story = [*provenance(study, training), f"python train.py experiment={name}"]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as temporary:
            temporary.write_text(recipe(training, best.params, overrides, story))
    except OSError as error:
        raise UserError(f"recipe_dir={path.parent}: cannot be written to ({error})") from error
    log.info("%s: written; python train.py experiment=%s", path, name)


def provenance(study: optuna.Study, training: Config) -> list[str]:
    """Where the best settings come from, and what their accuracy is worth."""
    states = [trial.state for trial in study.get_trials(deepcopy=False)]
    complete, pruned = (states.count(s) for s in (TrialState.COMPLETE, TrialState.PRUNED))
    best, on = study.best_trial, f"{training['model']['name']} on {training['data']['name']}"
    return [
        f"{on}, the best of {complete + pruned} trials ({pruned} of them pruned), "
        f"{datetime.now(UTC):%Y-%m-%d}.",
        f"Validation accuracy {best.value:.4f} (trial {best.number}), chosen on validation",
        "images and so a little optimistic; no trial has seen a test image. From the command:",
        sanitize(os.environ.get("TRIPTYCH_COMMAND", "")),
    ]


def recipe(
    config: Config, values: Mapping[str, Any], overrides: Sequence[str], story: Sequence[str]
) -> str:
    """The YAML of an experiment that composes to the config's, with values under dotted keys.

    `overrides`: as typed, for the choices in them; `story`: lines of its head.
    """
    choices = chosen(overrides)
    plainly = composed([f"{group}={choice}" for group, choice in choices.items()])
    wanted = nested(
        [*differing(experiment_settings(config), experiment_settings(plainly)), *values.items()]
    )
    head = ["# @package _global_", *(f"# {line}" for line in story)]
    defaults = [
        "defaults:",
        *(f"  - override /{name}: {choice}" for name, choice in choices.items()),
    ]
    body = yaml.safe_dump(wanted, sort_keys=False, default_flow_style=None, width=98)
    return "\n".join([*head, "", *defaults, "", body])


def chosen(overrides: Sequence[str]) -> dict[str, str]:
    """The choice in each group of the config: typed, an experiment's or the default.

    Raises UserError where that is outside the configs, so that train.py could not repeat it.
    """
    typed = [o for o in overrides if o.partition("=")[0] in (*GROUPS, "experiment")]
    try:
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            choices = compose("train", typed, return_hydra_config=True).hydra.runtime.choices
    except HydraException as error:
        raise UserError(
            f"{' '.join(typed)}: not all of it is in {CONFIGS}, which a recipe refers to"
        ) from error
    return {group: choices[group] for group in GROUPS}


def composed(overrides: list[str]) -> Config:
    """The config of a training; what must be given stays open."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return resolve_config(compose("train", overrides))


def differing(config: Config, plainly: Config, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The settings, under dotted keys, that `plainly` has not or has otherwise."""
    for name, value in config.items():
        other = plainly.get(name)
        if isinstance(value, dict) and isinstance(other, dict):
            yield from differing(value, other, f"{prefix}{name}.")
        elif name not in plainly or value != other:
            yield f"{prefix}{name}", value


def nested(settings: Sequence[tuple[str, Any]]) -> Config:
    """Settings under dotted keys as a tree."""
    tree: Config = {}
    for key, value in settings:
        *path, last = key.split(".")
        node = tree
        for name in path:
            node = node.setdefault(name, {})
        node[last] = value
    return tree
