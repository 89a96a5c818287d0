"""A search from its first trial to the recipe, as one worker does it.

A trial is a training that sees training and validation images, and leaves no files.
"""

import gc
import json
import logging
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import optuna
import yaml  # type: ignore[import-untyped]
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from optuna.study import StudyDirection
from optuna.trial import BaseTrial, Trial, TrialState

from triptych.callbacks.progress import silence_lightning
from triptych.cli.arguments import check_writable
from triptych.config import (
    CONFIGS,
    MONITORS,
    Config,
    format_value,
    iterate_settings,
    load_rules,
    resolve_config,
)
from triptych.data.source import Source
from triptych.errors import UserError
from triptych.models.backbone import BackboneFactory
from triptych.runs.failures import is_out_of_memory
from triptych.runs.reader import sanitize
from triptych.runs.record import experiment_settings, hash_code
from triptych.runs.stopping import exit_on_signal, signal_handlers
from triptych.runs.storage import atomic_write, translate_write_errors
from triptych.slots import find_mode
from triptych.tools.tune import study as studies
from triptych.tools.tune.finders import ShortTraining, StopAtOnce, check_trainable
from triptych.tools.tune.settings import mask_password, recipe_path
from triptych.tools.tune.space import Space, contains, read_entries, with_settings
from triptych.tools.tune.spending import OF_RECIPE, count_spent, describe_search, write_spent
from triptych.training import prepare

log = logging.getLogger(__name__)

GROUPS = ("data", "model", "optim", "trainer")


def search(config: Config, training: Config, space: Space, overrides: list[str]) -> None:
    """Run trials while the budget lasts, then write the recipe.

    `training` is the part of `config` that a training knows, `space` what varies of it.
    """
    silence_lightning()
    direction = find_direction(training, *check_trainable(training, overrides))
    read_choices(overrides)  # raises here rather than when all trials are done
    check_writable(f"recipe_dir={recipe_path(config).parent}", recipe_path(config))
    folder = Path(config["log_dir"], "tune", config["study"]).resolve()
    workers = folder / "workers"
    with translate_write_errors(f"log_dir={config['log_dir']}"):
        workers.mkdir(parents=True, exist_ok=True)
    address = config["storage"] or os.environ.get("TRIPTYCH_STORAGE") or f"{folder}/journal.log"
    study = studies.open_study(config["study"], address, config["pruner"], direction)
    settings = list_settings(config, training, space)
    studies.check_same_settings(study, settings)
    if changed := studies.record_code(study, hash_code(training)):
        log.warning("the code has changed since this study began: %s", ", ".join(changed))
    prepare_sampling(study, config, training, space)
    budget = studies.Budget(config["num_trials"], config["seconds"])
    log.info("%s, in %s", describe_progress(study, budget), mask_password(address))
    objective = partial(run_trial, training, space, config, folder)
    description = describe_search(config, training, settings)
    try:
        with signal_handlers(exit_on_signal):
            studies.run_trials(study, objective, workers, budget, config["timeout_minutes"])
    except SystemExit:
        log.info("stopped; to resume: %s", os.environ.get("TRIPTYCH_COMMAND", ""))
        raise
    finally:
        spent = write_spent(folder, description, study)
    log.info("%s", describe_progress(study, budget))
    if study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        log.info("the worker that ends last writes the recipe")
    elif not budget.is_spent(study.get_trials(deepcopy=False, states=studies.TAKEN)):
        log.info("no recipe before the budget is spent; the same command goes on")
    else:
        write_recipe(study, config, training, overrides, spent)


def list_settings(config: Config, training: Config, space: Space) -> Config:
    """All that a study's trials have in common, by dotted keys."""
    varied = {f"search.{key}": entry for key, entry in read_entries(config["search"])}
    fixed = dict(iterate_settings(experiment_settings(training, less=space), load_rules("train")))
    drawn = {name: config[name] for name in ("pruner", "sampler", "sampler_seed")}
    settings: Config = json.loads(json.dumps(drawn | varied | fixed))  # as a study stores them
    return settings


def prepare_sampling(study: optuna.Study, config: Config, training: Config, space: Space) -> None:
    """Have TPE begin with the config as it stands; random trials are all drawn."""
    if config["sampler"] == "random" and config["pruner"]:
        log.info(
            "sampler=random: a pruned trial counts with its last score, so a comparison shows less "
            "than the budget gives; pruner=null trains every trial to its end"
        )
    plain = OmegaConf.create(training)
    defaults = {key: OmegaConf.select(plain, key) for key in space}
    fits = all(contains(space[key], value) for key, value in defaults.items())
    if config["sampler"] == "tpe" and not study.trials and fits:
        study.enqueue_trial(defaults, skip_if_exists=True)


def find_direction(training: Config, source: Source, network: BackboneFactory) -> StudyDirection:
    """Whether the study is to maximize or to minimize what `checkpoint.monitor` names."""
    monitor = training["checkpoint"]["monitor"]
    is_known = monitor in MONITORS  # of others the module says so
    modes = MONITORS if is_known else prepare(training, source, network)[1].monitors
    is_max = find_mode(monitor, modes) == "max"
    return StudyDirection.MAXIMIZE if is_max else StudyDirection.MINIMIZE


def describe_progress(study: optuna.Study, budget: studies.Budget) -> str:
    spent = count_spent(study)
    num_running = len(study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)))
    running = f", {num_running} running" if num_running else ""
    done = f"{spent['num_trials']} trials done in {spent['seconds']:.0f} s"
    return f"study {study.study_name}: {done}{running}; its budget is {budget}"


def run_trial(training: Config, space: Space, config: Config, folder: Path, trial: Trial) -> float:
    """Train with a trial's values; the score on validation images.

    The attribute `error` of a trial that diverged or lacked memory says so.
    """
    values = studies.suggest(trial, space, config["sampler"], config["sampler_seed"])
    monitor = training["checkpoint"]["monitor"]
    described = " ".join(f"{key}={format_value(value)}" for key, value in values.items())
    log.info("trial %d: %s", trial.number, described)
    try:
        score = train_trial(with_settings(training, values), folder, trial)
    except optuna.TrialPruned as pruned:
        log.info("trial %d: pruned %s", trial.number, pruned)
        if str(pruned):
            trial.set_user_attr("error", str(pruned))
        raise
    log.info("trial %d: %s %.4f", trial.number, monitor, score)
    return score


def train_trial(config: Config, folder: Path, trial: BaseTrial) -> float:
    """Train as the config says; its `checkpoint.monitor` of the validation that `checkpoint.score`
    names.

    The test images are not used. Raises TrialPruned, also where a training diverges or lacks
    memory, or the score is never a number; UserError at wrong settings.
    """
    monitor = config["checkpoint"]["monitor"]
    callback = PruningCallback(trial, monitor)
    try:
        training = ShortTraining(config, folder)
        training.fit(callback)
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise optuna.TrialPruned("out of memory") from None
        raise
    finally:
        trial.set_user_attr("epochs", callback.num_epochs)
        gc.collect()  # the trainer and its parts refer to each other
    if not callback.scores:
        raise UserError("trainer: no validation in the whole training, so nothing to go by")
    scores = callback.scores if config["checkpoint"]["score"] == "best" else callback.scores[-1:]
    if not (numbers := [*filter(math.isfinite, scores)]):
        raise optuna.TrialPruned(f"{monitor} is {scores[-1]}")
    return max(numbers) if find_mode(monitor, training.module.monitors) == "max" else min(numbers)


class PruningCallback(StopAtOnce):
    """Reports each validation's score; raises TrialPruned where training diverged, or is to be
    pruned while epochs are left."""

    def __init__(self, trial: BaseTrial, monitor: str) -> None:
        self.trial, self.monitor = trial, monitor
        self.scores: list[float] = []
        self.num_epochs = 0

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if trainer.sanity_checking:
            return
        score, epoch = pl_module.scores.named("val")[self.monitor], trainer.current_epoch + 1
        self.scores.append(score)
        self.num_epochs = epoch
        log.info("epoch %d %s %.4f", epoch, self.monitor, score)
        self.trial.report(score, len(self.scores))
        loss = pl_module.epoch_loss
        if loss.unread and loss.add(loss.take_unread()) is not None:
            raise optuna.TrialPruned(f"the training loss is {loss.mean} in epoch {epoch}")
        if self.trial.should_prune() and epoch != trainer.max_epochs:
            raise optuna.TrialPruned


def write_recipe(
    study: optuna.Study,
    config: Config,
    training: Config,
    overrides: Sequence[str],
    spent: Mapping[str, Any],
) -> None:
    """Write `tuned_<study>.yaml`; an existing one stays unless `overwrite` says otherwise.

    `spent` is what `write_spent` has written.
    """
    path = recipe_path(config)
    if not study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        raise UserError(f"study={config['study']}: no trial was completed, so none is the best")
    if path.exists() and not config["overwrite"]:
        log.info("%s exists and stays as it is; overwrite=true replaces it", path)
        return
    monitor, best = spent["monitor"], study.best_trial
    head = [
        f"{spent['model']} on {spent['data']}, {date.today()}: the best of {spent['num_trials']} "
        f"trials with seed={spent['seed']}; train with other seeds.",
        f"Best {monitor} {best.value:.4f} (trial {best.number}), which is no result: it was chosen "
        "on validation",
        "images; no trial has seen a test image. From the command:",
        sanitize(os.environ.get("TRIPTYCH_COMMAND", "")),
        f"python train.py experiment={path.stem}",
    ]
    # Other searches' winners have other seeds: so no two of their networks are one training.
    fresh = (spent["seed"] + 1 + spent["sampler_seed"]) % 2**32
    tuned = {name: spent[name] for name in OF_RECIPE}
    values = {"seed": fresh, **best.params, "tuned": tuned}
    recipe = format_recipe(training, values, overrides, head)
    with translate_write_errors(f"recipe_dir={path.parent}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as temporary:
            temporary.write_text(recipe)
    log.info("recipe  %s\nnext    python train.py experiment=%s", path, path.stem)


def format_recipe(
    config: Config, values: Mapping[str, Any], overrides: Sequence[str], head: Sequence[str]
) -> str:
    """The YAML of an experiment that composes to the config's, with values under dotted keys.

    `overrides`: as typed, for the choices in them; `head`: lines of its comment.
    """
    choices = read_choices(overrides)
    typed = [f"~{g}" if choice == "null" else f"{g}={choice}" for g, choice in choices.items()]
    chosen = compose_training(typed)
    required = dict(find_required(config, chosen))
    for key, value in required.items():
        OmegaConf.update(chosen, key, value)
    plain = resolve_config(chosen)
    settings = OmegaConf.create()
    differences = find_differences(experiment_settings(config), experiment_settings(plain))
    for key, value in [*required.items(), *differences, *values.items()]:
        OmegaConf.update(settings, key, value, force_add=True)
    lines = ["# @package _global_", *(f"# {line}" for line in head), "", "defaults:"]
    lines += [f"  - override /{group}: {choice}" for group, choice in choices.items()]
    body = yaml.safe_dump(
        OmegaConf.to_container(settings), sort_keys=False, default_flow_style=None, width=98
    )
    return "\n".join([*lines, "", body])


def find_required(config: Config, chosen: DictConfig) -> Iterator[tuple[str, Any]]:
    """What the files of the choices leave to be given, as `data.root` of photos, by the config."""
    for group in GROUPS:
        node = chosen.get(group, {})
        missing = (name for name in node if OmegaConf.is_missing(node, name))
        yield from ((f"{group}.{name}", config[group][name]) for name in missing)


def read_choices(overrides: Sequence[str]) -> dict[str, str]:
    """The choice in each group of the config: typed, an experiment's or the default; null of one
    that was taken out (`~model`).

    Raises UserError where it is not in the configs, so that train.py could not repeat it.
    """
    groups = (*GROUPS, "experiment")
    typed = [o for o in overrides if o.removeprefix("~").partition("=")[0] in groups]
    try:
        choices = compose_training(typed).hydra.runtime.choices
    except HydraException as error:
        raise UserError(
            f"{' '.join(typed)}: not all of it is in {CONFIGS}, which a recipe refers to"
        ) from error
    return {group: choices.get(group) or "null" for group in GROUPS}


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
