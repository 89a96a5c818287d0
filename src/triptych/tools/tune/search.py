"""A search from its first trial to the recipe, as one worker does it."""

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import Trial, TrialState

from triptych.build import check_available, count_ranks, instantiate
from triptych.callbacks.progress import silence_lightning
from triptych.config import RULES, Config, check_config, format_value, iterate_settings
from triptych.errors import UserError, mask_password
from triptych.runs.record import experiment_settings
from triptych.runs.stopping import exit_on_signal, signal_handlers
from triptych.tools.tune import study as studies
from triptych.tools.tune.recipe import read_choices, write_recipe
from triptych.tools.tune.space import Space, contains, read_entries, value_at, with_settings
from triptych.tools.tune.trial import train_trial

log = logging.getLogger(__name__)


def search(config: Config, training: Config, space: Space, overrides: list[str]) -> None:
    """Run trials while there are any left, then write the recipe.

    `training` is the part of `config` that a training knows, `space` what varies of it.
    """
    silence_lightning()
    logging.getLogger("triptych").setLevel(logging.INFO)
    check_trainable(training, overrides)
    read_choices(overrides)  # not refused when all trials are done
    folder = Path(config["log_dir"], "tune", config["study"]).resolve()
    try:
        (folder / "workers").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"log_dir={config['log_dir']}: cannot be written to ({error})") from error
    address = studies.storage_address(config["storage"], folder)
    study = studies.open_study(config["study"], address, config["pruner"])
    studies.check_same_settings(study, common_settings(config, training, space))
    defaults = {key: value_at(training, key) for key in space}
    if not study.trials and all(contains(space[key], value) for key, value in defaults.items()):
        study.enqueue_trial(defaults, skip_if_exists=True)  # the config as it stands
    log.info(
        "study %s: %s, in %s", study.study_name, progress(study, config), mask_password(address)
    )
    objective = make_objective(training, space, config["sampler_seed"], folder)
    try:
        with (
            studies.hold_worker_folder(folder / "workers") as worker,
            signal_handlers(exit_on_signal),
        ):
            budget = (config["num_trials"], config["timeout_minutes"])
            studies.run_trials(study, objective, worker, *budget)
    except SystemExit:
        log.info("stopped; to resume: %s", os.environ.get("TRIPTYCH_COMMAND", ""))
        raise
    log.info("study %s: %s", study.study_name, progress(study, config))
    if study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        log.info("the worker that ends last writes the recipe")
    else:
        write_recipe(study, config, training, overrides)


def check_trainable(training: Config, overrides: list[str]) -> None:
    """Raise UserError unless data and weights can be had, and one device will do."""
    if count_ranks(training) > 1:
        raise UserError(
            f"trainer.devices={format_value(training['trainer']['devices'])}: a trial takes one "
            "device; for more, start the command once on each (CUDA_VISIBLE_DEVICES)"
        )
    source = instantiate("data.source", training["data"]["source"])
    try:
        check_available([source, instantiate("model", training["model"])], overrides)
    except UserError as error:
        raise UserError(str(error).replace("python train.py", "triptych tune")) from None


def common_settings(config: Config, training: Config, space: Space) -> dict[str, Any]:
    """What the trials of one study have in common, by dotted keys."""
    varied = {f"search.{key}": entry for key, entry in read_entries(config["search"])}
    fixed = iterate_settings(experiment_settings(training, less=space), RULES)
    return {"pruner": config["pruner"], **varied, **dict(fixed)}


def make_objective(
    training: Config, space: Space, seed: int, folder: Path
) -> Callable[[Trial], float]:
    """A function that trains with a trial's values; the accuracy on validation images."""

    def objective(trial: Trial) -> float:
        values = studies.suggest(trial, space, seed)
        described = " ".join(f"{key}={format_value(value)}" for key, value in values.items())
        log.info("trial %d: %s", trial.number, described)
        config = with_settings(training, values)
        check_config(config)
        try:
            accuracy = train_trial(config, folder, trial)
        except optuna.TrialPruned as pruned:
            log.info("trial %d: pruned %s", trial.number, pruned)
            raise
        log.info("trial %d: val accuracy %.4f", trial.number, accuracy)
        return accuracy

    return objective


def progress(study: optuna.Study, config: Config) -> str:
    """How far the whole study is."""
    states = [trial.state for trial in study.get_trials(deepcopy=False)]
    num_done = sum(map(states.count, studies.DONE))
    others = {"running": TrialState.RUNNING, "failed or stopped": TrialState.FAIL}
    counts = [f"{n} {name}" for name, state in others.items() if (n := states.count(state))]
    return ", ".join([f"{num_done} of {config['num_trials']} trials done", *counts])
