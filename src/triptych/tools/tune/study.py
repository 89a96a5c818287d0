"""A study as Optuna keeps it: trials that any number of workers take from one storage."""

import math
import re
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.pruners import NopPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.study import StudyDirection
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
SAMPLERS: dict[str, Callable[..., BaseSampler]] = {"tpe": TPESampler, "random": RandomSampler}
EARLIER = {"sampler": "tpe", "sampler_seed": 0}  # of studies that did not note it


class Budget(NamedTuple):
    """What a study may spend: it ends by whichever is reached first."""

    num_trials: int | None = None  # pruned ones included
    seconds: float | None = None  # of all trials that ended, by whatever worker

    def __str__(self) -> str:
        """30 trials within 7200 seconds, or one of the two."""
        words = [f"{self.num_trials} trials"] if self.num_trials else []
        words += [f"{self.seconds} seconds"] if self.seconds else []
        return " within ".join(words)

    def is_spent(self, trials: Iterable[FrozenTrial]) -> bool:
        """By those of the trials that did not fail; one that waits will be run."""
        taken = [trial for trial in trials if trial.state != TrialState.FAIL]
        num_trials, seconds = (math.inf if most is None else most for most in self)
        return len(taken) >= num_trials or sum_seconds(taken) >= seconds


def sum_seconds(trials: Iterable[FrozenTrial]) -> float:
    """What trials that ended took together."""
    return sum(trial.duration.total_seconds() for trial in trials if trial.duration)


class BudgetUsed(Exception):
    """Another worker took the last trial meanwhile."""


def open_study(
    name: str,
    address: str,
    pruner: dict[str, Any] | None,
    direction: StudyDirection = StudyDirection.MAXIMIZE,
) -> optuna.Study:
    """The study of that name, new or as it was left; raises UserError where it cannot be opened.

    `address` is that of a database, or the path of a journal file.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    optuna_pruner = instantiate("pruner", pruner) if pruner else NopPruner()
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
    if not study.trials and not study.user_attrs:
        study.set_user_attr("settings", settings)
    earlier = EARLIER | study.user_attrs.get("settings", {})
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
    budget: Budget,
    timeout_minutes: float | None = None,
) -> None:
    """Run trials until the budget of the study is spent, whoever ran them.

    Meanwhile a folder below `workers` is locked, so that the others see that this worker lives.
    """

    def run(trial: Trial) -> float:
        trial.set_user_attr("worker", worker)
        # Numbers are given in order, and a failed trial stays failed: so all workers agree on
        # which trial is one too many.
        trials = study.get_trials(deepcopy=False)
        if budget.is_spent(t for t in trials if t.number < trial.number):
            raise BudgetUsed
        try:
            return objective(trial)
        except SystemExit:  # by a signal
            retry(study, trial.number)
            raise

    def stop(study: optuna.Study, _: FrozenTrial) -> None:
        if budget.is_spent(study.get_trials(deepcopy=False, states=TAKEN)):
            study.stop()

    retry_lost(study, workers=workers)
    if not budget.is_spent(study.get_trials(deepcopy=False, states=TAKEN)):
        timeout = 60 * timeout_minutes if timeout_minutes else None
        with TemporaryDirectory(dir=workers) as worker, lock_run(Path(worker)):
            callbacks = partial(retry_lost, workers=workers), stop
            study.optimize(run, timeout=timeout, catch=BudgetUsed, callbacks=callbacks)


def suggest(trial: Trial, space: Space, sampler: str, seed: int) -> dict[str, Any]:
    """Values for a trial. The draws are keyed by its number, not taken in sequence: so workers
    draw differently, and a search that was stopped continues as if it had not been."""
    [key] = np.random.SeedSequence((seed, trial.number)).generate_state(1)
    trial.study.sampler = SAMPLERS[sampler](seed=int(key))
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
    try:
        trial = study.tell(number, state=TrialState.FAIL)
    except (ValueError, RuntimeError):  # another worker did so before, or at the same moment
        return
    if trial.params and "retry_of" not in trial.user_attrs:
        study.enqueue_trial(trial.params, user_attrs={"retry_of": number})


def retry_lost(study: optuna.Study, _: FrozenTrial | None = None, *, workers: Path) -> None:
    """Retry the trials of workers that were killed; also a callback of Optuna's."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        worker = Path(str(trial.user_attrs.get("worker")))
        is_here = worker.parent == workers and worker.is_dir()  # else on another machine's disk
        if is_here and not is_locked(worker):
            retry(study, trial.number)
