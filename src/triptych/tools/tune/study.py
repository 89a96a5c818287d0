"""A study as Optuna keeps it: trials that any number of workers take from one storage."""

import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.study import MaxTrialsCallback, StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState

from triptych.build import instantiate
from triptych.config import format_value
from triptych.errors import UserError
from triptych.runs.code_changes import merge_hashes
from triptych.runs.reader import is_locked
from triptych.runs.storage import lock_run
from triptych.tools.tune.settings import mask_password
from triptych.tools.tune.space import Space

DONE = (TrialState.COMPLETE, TrialState.PRUNED)
FIRST = b'{"op_code"'  # of a journal
TAKEN = (*DONE, TrialState.RUNNING)  # a failed trial does not count


class BudgetUsed(Exception):
    """Another worker took the last trial meanwhile."""


def open_study(
    name: str,
    address: str,
    pruner: dict[str, Any],
    direction: StudyDirection = StudyDirection.MAXIMIZE,
) -> optuna.Study:
    """The study of that name, new or as it was left; raises UserError where it cannot be opened.

    `address` is that of a database, or the path of a journal file.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    optuna_pruner = instantiate("pruner", pruner)
    try:
        storage: str | JournalStorage = address
        if "://" not in address:
            Path(address).parent.mkdir(parents=True, exist_ok=True)
            lock = JournalFileOpenLock(address)
            cut_half_line(Path(address), lock)
            storage = JournalStorage(JournalFileBackend(address, lock))
        return optuna.create_study(
            storage=storage,
            study_name=name,
            direction=direction,
            load_if_exists=True,
            pruner=optuna_pruner,
        )
    except Exception as error:  # of databases, their drivers, the system: many kinds
        reason = str(error.__cause__ or error).partition("\n")[0]
        if repeats_password(reason, address):
            reason = "the reason repeats the password; in it, write %40 for @, %3A for :, %2F for /"
        where = mask_password(address)
        raise UserError(f"storage={where}: cannot be used ({mask_password(reason)})") from None


def cut_half_line(journal: Path, lock: JournalFileOpenLock) -> None:
    """Drop what a killed worker has written of a line, to which the next would be appended.

    Raises ValueError at a file that is no journal.
    """
    if not journal.is_file():
        return
    lock.acquire()
    try:
        with journal.open("rb+") as file:
            content = file.read()
            if not FIRST.startswith(content[: len(FIRST)]):
                raise ValueError("no journal of a study")
            file.truncate(content.rfind(b"\n") + 1)
    finally:
        lock.release()


def repeats_password(message: str, address: str) -> bool:
    """Whether a message has a word of an address's password: a driver may split it elsewhere."""
    words = [set(re.findall(r"\w+", text)) for text in (message, address, mask_password(address))]
    return bool(words[0] & (words[1] - words[2]))


def check_same_settings(study: optuna.Study, settings: dict[str, Any]) -> None:
    """Raise UserError where the study was begun with other settings than these, by dotted keys."""
    settings = json.loads(json.dumps(settings))
    if not study.trials and not study.user_attrs:
        study.set_user_attr("settings", settings)
    earlier = study.user_attrs.get("settings", {})
    for key in settings | earlier:
        before, now = (values.get(key, "not set") for values in (earlier, settings))
        if before != now:
            raise UserError(
                f"study={study.study_name}: was begun with {key}={format_value(before)}, "
                f"now {format_value(now)}\ngive the settings it has, or another name: study="
            )


def record_code(study: optuna.Study, code: dict[str, str]) -> list[str]:
    """Note the code that trains from now on; the files that have changed during the study."""
    states = merge_hashes(study.user_attrs.get("code", code), code)
    if states != study.user_attrs.get("code"):
        study.set_user_attr("code", states)
    return [name for name, each in states.items() if ", " in each]


def run_trials(
    study: optuna.Study,
    objective: Callable[[Trial], float],
    workers: Path,
    num_trials: int,
    timeout_minutes: float | None = None,
) -> None:
    """Run trials until the study has `num_trials`, pruned ones included, whoever ran them.

    Meanwhile a folder below `workers` is locked, so that the others see that this worker lives.
    """

    def run(trial: Trial) -> float:
        trial.set_user_attr("worker", worker)
        # Numbers are given in order, and a failed trial stays failed: so all workers agree on
        # which trial is one too many.
        before = [t for t in study.get_trials(deepcopy=False) if t.number < trial.number]
        if sum(t.state != TrialState.FAIL for t in before) >= num_trials:
            raise BudgetUsed
        try:
            return objective(trial)
        except SystemExit:  # by a signal
            retry(study, trial.number)
            raise

    retry_lost_here = partial(retry_lost, workers=workers)
    retry_lost_here(study)
    if len(study.get_trials(deepcopy=False, states=TAKEN)) < num_trials:
        timeout = 60 * timeout_minutes if timeout_minutes else None
        stop = MaxTrialsCallback(num_trials, TAKEN)
        with TemporaryDirectory(dir=workers) as worker, lock_run(Path(worker)):
            study.optimize(
                run, timeout=timeout, catch=BudgetUsed, callbacks=[retry_lost_here, stop]
            )


def suggest(trial: Trial, space: Space, seed: int) -> dict[str, Any]:
    """Values for a trial. The draws are keyed by its number, not taken in sequence: so workers
    draw differently, and a search that was stopped continues as if it had not been."""
    [key] = np.random.SeedSequence((seed, trial.number)).generate_state(1)
    trial.study.sampler = TPESampler(seed=int(key))
    values: dict[str, Any] = {}
    for name, d in space.items():
        if isinstance(d, CategoricalDistribution):
            values[name] = trial.suggest_categorical(name, d.choices)
        elif isinstance(d, IntDistribution):
            values[name] = trial.suggest_int(name, d.low, d.high, step=d.step, log=d.log)
        elif isinstance(d, FloatDistribution):
            values[name] = trial.suggest_float(name, d.low, d.high, step=d.step, log=d.log)
    return values


def retry(study: optuna.Study, number: int) -> None:
    """Mark a trial that did not come to its end as failed; its values are queued again, once."""
    trial = study.tell(number, state=TrialState.FAIL, skip_if_finished=True)
    retried = [t.user_attrs.get("retry_of") for t in study.get_trials(deepcopy=False)]
    if trial.params and "retry_of" not in trial.user_attrs and number not in retried:
        study.enqueue_trial(trial.params, user_attrs={"retry_of": number})


def retry_lost(study: optuna.Study, _: FrozenTrial | None = None, *, workers: Path) -> None:
    """Retry the trials of workers that were killed; also a callback of Optuna's."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        worker = Path(str(trial.user_attrs.get("worker")))
        is_here = worker.parent == workers and worker.is_dir()  # else on another machine's disk
        if is_here and not is_locked(worker):
            retry(study, trial.number)
