"""A search from its first trial to the recipe, as one worker does it."""

import logging
import os
import time
from dataclasses import dataclass
from math import inf
from pathlib import Path

import optuna
from optuna.trial import Trial, TrialState

from triptych.build import check_available, instantiate
from triptych.callbacks.progress import silence_lightning
from triptych.config import RULES, Config, check_config, format_value, iterate_settings
from triptych.distributed.launch import num_ranks
from triptych.errors import UserError, mask_password
from triptych.runs.record import experiment_settings
from triptych.runs.stopping import exit_on_signal, signal_handlers
from triptych.tools.tune import study as studies
from triptych.tools.tune.history import draw
from triptych.tools.tune.recipe import chosen, write_recipe
from triptych.tools.tune.space import Space, parameters, value_at, with_settings
from triptych.tools.tune.trial import train_trial

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Search:
    """What to search: the whole config, its part of a training, the settings to vary."""

    config: Config
    training: Config
    space: Space

    @property
    def folder(self) -> Path:
        return Path(self.config["log_dir"], "tune", self.config["study"])

    def begun_with(self) -> dict[str, object]:
        """All that the trials of one study have in common, by dotted keys."""
        varied = {f"search.{key}": entry for key, entry in parameters(self.config["search"])}
        fixed = iterate_settings(experiment_settings(self.training, less=self.space), RULES)
        return {"pruner": self.config["pruner"], **varied, **dict(fixed)}

    def own(self) -> dict[str, object]:
        """The config's own values of the settings to vary."""
        return {key: value_at(self.training, key) for key in self.space}


def search(config: Config, training: Config, space: Space, overrides: list[str]) -> None:
    """Do trials while there are any left, then say and write what came of the study."""
    silence_lightning()
    logging.getLogger("triptych").setLevel(logging.INFO)
    require_trainable(training, overrides)
    chosen(overrides)  # not found out when all trials are done
    asked, storage = Search(config, training, space), config["storage"]
    study = studies.open_study(config["study"], storage, config["pruner"], asked.folder)
    with studies.can_download(storage), studies.worker(asked.folder) as place:
        studies.require_same(study, asked.begun_with())
        studies.begin_with(study, space, asked.own())
        where = mask_password(studies.address(storage) or str(asked.folder / "journal.log"))
        log.info("study %s: %s, kept in %s", config["study"], progress(study, config), where)
        try:
            with signal_handlers(exit_on_signal):
                work(study, asked, place)
        except SystemExit:
            log.info("stopped; to go on: %s", os.environ.get("TRIPTYCH_COMMAND", ""))
            raise
        finally:
            draw(study, asked.folder)
        log.info("study %s: %s", config["study"], progress(study, config))
        if study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            log.info("the worker that ends last writes the recipe")
        else:
            write_recipe(study, config, training, overrides)


def require_trainable(training: Config, overrides: list[str]) -> None:
    """Raise UserError unless data and weights can be had, and one device will do."""
    if num_ranks(training) > 1:
        raise UserError(
            f"trainer.devices={format_value(training['trainer']['devices'])}: a trial takes "
            "one device; "
            "for more, start the command once on each (CUDA_VISIBLE_DEVICES)"
        )
    source = instantiate("data.source", training["data"]["source"])
    try:
        check_available([source, instantiate("model", training["model"])], overrides)
    except UserError as refused:
        said = str(refused).replace("python train.py", "triptych tune")
        raise UserError(said) from None


def work(study: optuna.Study, asked: Search, place: Path) -> None:
    """Take one trial after the other until none is left or the time is over."""
    minutes, num_trials = asked.config["timeout_minutes"], asked.config["num_trials"]
    deadline = time.monotonic() + 60 * minutes if minutes else inf
    while time.monotonic() < deadline:
        studies.give_back_lost(study)
        if studies.num_left(study, num_trials) <= 0:
            return
        trial = studies.take(study, num_trials, place)
        if trial:
            attempt(study, trial, asked, place)


def attempt(study: optuna.Study, trial: Trial, asked: Search, place: Path) -> None:
    """Train once, and tell the study how it ended, however it did."""

    def goes_on(step: int, accuracy: float) -> bool:
        trial.report(accuracy, step)
        return not trial.should_prune()

    try:
        values = studies.suggest(trial, asked.space, asked.config["sampler_seed"])
        described = " ".join(f"{key}={format_value(value)}" for key, value in values.items())
        log.info("trial %d: %s", trial.number, described)
        trial_config = with_settings(asked.training, values)
        check_config(trial_config)
        trained = train_trial(trial_config, place, goes_on)
    except (SystemExit, KeyboardInterrupt):
        studies.give_back(study, trial.number)
        raise
    except Exception:
        study.tell(trial, state=TrialState.FAIL)
        raise
    if trained.error:
        trial.set_user_attr("error", trained.error)
    if trained.is_pruned:
        study.tell(trial, state=TrialState.PRUNED)
        reason = f" ({trained.error})" if trained.error else ""
        log.info("trial %d: pruned%s", trial.number, reason)
    else:
        study.tell(trial, trained.accuracy)
        log.info("trial %d: val accuracy %.4f", trial.number, trained.accuracy)


def progress(study: optuna.Study, config: Config) -> str:
    """How far the whole study is."""
    states = [trial.state for trial in study.get_trials(deepcopy=False)]
    said = [f"{sum(map(states.count, studies.DONE))} of {config['num_trials']} trials done"]
    also = {"at work": TrialState.RUNNING, "failed or stopped": TrialState.FAIL}
    said += [f"{n} {what}" for what, state in also.items() if (n := states.count(state))]
    return ", ".join(said)
