"""A search as Optuna keeps it: trials that any number of workers take from one storage."""

import json
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.pruners import BasePruner
from optuna.samplers import TPESampler
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, Trial, TrialState

from triptych.build import instantiate
from triptych.config import format_value
from triptych.errors import UserError, mask_password
from triptych.runs.storage import is_locked, lock_run, make_folder
from triptych.tools.tune.space import Range, Space, holds

DONE = (TrialState.COMPLETE, TrialState.PRUNED)
TAKEN = (*DONE, TrialState.RUNNING)
MAY_BEGIN = timedelta(minutes=1)  # a trial that names no worker after that has lost it


def address(storage: str | None) -> str | None:
    """Where a study lies: `storage`, else what the environment says, if anything."""
    return storage or os.environ.get("TRIPTYCH_STORAGE")


def reveals(text: str, url: str) -> bool:
    """Whether a text has a word of an address's password: a driver may split it elsewhere."""
    shown = words(mask_password(url))
    return bool((words(url) - shown) & words(text))


def words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text))


@contextmanager
def can_download(storage: str | None, *errors: type[Exception]) -> Iterator[None]:
    """Refuse what a storage has against being used, without its password."""
    caught: tuple[type[Exception], ...] = (optuna.exceptions.StorageInternalError, *errors)
    try:
        yield
    except UserError:
        raise
    except caught as error:
        where, said = address(storage) or "", str(error.__cause__ or error).partition("\n")[0]
        if reveals(said, where):
            said = "the reason repeats the password; in it, write %40 for @, %3A for :, %2F for /"
        raise UserError(
            f"storage={mask_password(where)}: cannot be used ({mask_password(said)})"
        ) from None


def open_study(
    name: str, storage: str | None, pruner: dict[str, Any], folder: Path
) -> optuna.Study:
    """The study of that name, new or as it was left; raises UserError where it cannot be had."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    optuna_pruner = instantiate("pruner", pruner)
    if not isinstance(optuna_pruner, BasePruner):
        raise UserError(f"pruner={pruner['_target_']}: must be one of optuna.pruners")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"log_dir={folder.parents[1]}: cannot be written to ({error})") from error
    with can_download(storage, Exception):  # of databases, their drivers, the system: many kinds
        return optuna.create_study(
            storage=open_storage(address(storage), folder),
            study_name=name,
            direction="maximize",
            load_if_exists=True,
            pruner=optuna_pruner,
        )


def open_storage(where: str | None, folder: Path) -> BaseStorage:
    """A database by its address, or a journal file, by default the one of the folder."""
    if where and "://" in where:
        return RDBStorage(where)
    path = Path(where or folder / "journal.log").resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = JournalFileOpenLock(str(path))
    if path.exists():
        lock.acquire()
        try:
            mend(path)
        finally:
            lock.release()
    return JournalStorage(JournalFileBackend(str(path), lock))


def mend(path: Path) -> None:
    """Cut off the half line that a full disk left: the next line would be appended to it."""
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        os.truncate(path, whole)


def require_same(study: optuna.Study, told: dict[str, Any]) -> None:
    """Raise UserError where the study was begun with other settings than those told."""
    told, has_trials = json.loads(json.dumps(told)), bool(study.trials)
    earlier = study.user_attrs.get("settings")  # which another worker may set, and then begin
    if earlier is None and not has_trials:
        study.set_user_attr("settings", told)
        return
    if not isinstance(earlier, dict):
        raise UserError(f"study={study.study_name}: another program's study; take another name")
    absent = "not set"
    keys = sorted(earlier.keys() | told.keys())
    for key in sorted(keys, key=lambda key: not key.startswith("search.")):
        before, now = earlier.get(key, absent), told.get(key, absent)
        if before != now:
            raise UserError(
                f"study={study.study_name}: was begun with {key}={format_value(before)}, "
                f"now {format_value(now)}\ngive the settings it has, or another name: study="
            )


def begin_with(study: optuna.Study, space: Space, own: dict[str, Any]) -> None:
    """Let a new study's first trial be the config as it stands, where the space holds it."""
    if not study.trials and all(holds(space[key], value) for key, value in own.items()):
        study.enqueue_trial(own, skip_if_exists=True)


def num_left(study: optuna.Study, num_trials: int) -> int:
    """How many trials nobody has taken yet; a failed one is given back."""
    return num_trials - len(study.get_trials(deepcopy=False, states=TAKEN))


def take(study: optuna.Study, num_trials: int, worker: Path) -> Trial | None:
    """The next trial, or None where another worker took the last one meanwhile.

    A trial is one too many where `num_trials` before it have not failed. All workers see that
    alike: numbers are given in order, and a failed trial stays failed.
    """
    trial = study.ask()
    trial.set_user_attr("worker", [socket.gethostname(), str(worker)])
    before = [t for t in study.get_trials(deepcopy=False) if t.number < trial.number]
    if sum(t.state != TrialState.FAIL for t in before) < num_trials:
        return trial
    study.tell(trial, state=TrialState.FAIL)
    return None


def suggest(trial: Trial, space: Space, seed: int) -> dict[str, Any]:
    """Values for a trial. The draws are keyed by its number, not taken in sequence: so workers
    draw differently, and a search that was stopped goes on as if it had not been."""
    [own] = np.random.SeedSequence((seed, trial.number)).generate_state(1)
    trial.study.sampler = TPESampler(seed=int(own), multivariate=False)
    return {key: suggest_one(trial, key, parameter) for key, parameter in space.items()}


def suggest_one(trial: Trial, key: str, parameter: Range | list[Any]) -> Any:
    if not isinstance(parameter, Range):
        return trial.suggest_categorical(key, parameter)
    low, high, log, step, is_whole = parameter
    if is_whole:
        return trial.suggest_int(key, int(low), int(high), step=int(step or 1), log=log)
    return trial.suggest_float(key, low, high, step=step, log=log)


def give_back(study: optuna.Study, number: int) -> None:
    """Mark a trial that did not come to its end as failed; its values are queued again, once."""
    trial = study.tell(number, state=TrialState.FAIL, skip_if_finished=True)
    retried = [t.user_attrs.get("retry_of") for t in study.get_trials(deepcopy=False)]
    if trial.params and "retry_of" not in trial.user_attrs and number not in retried:
        study.enqueue_trial(trial.params, user_attrs={"retry_of": number})


def give_back_lost(study: optuna.Study) -> None:
    """Give back the trials of workers that are gone."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if is_lost(trial):
            give_back(study, trial.number)


def is_lost(trial: FrozenTrial) -> bool:
    """Whether a trial's worker is gone; one of another machine counts as alive where its folder
    cannot be seen from here."""
    host, place = trial.user_attrs.get("worker") or (None, "")
    if host is None:
        began = trial.datetime_start or datetime.min
        return datetime.now() - began > MAY_BEGIN
    seen_from_here = host == socket.gethostname() or Path(place).is_dir()
    return seen_from_here and not is_locked(Path(place))


@contextmanager
def worker(folder: Path) -> Iterator[Path]:
    """A folder that is held while this worker lives, so that others see that it does."""
    try:
        place = make_folder(folder.resolve() / "workers", f"{socket.gethostname()}-{os.getpid()}")
    except OSError as error:
        raise UserError(f"log_dir: cannot be written to ({error})") from error
    try:
        with lock_run(place):
            yield place
    finally:
        with suppress(OSError):
            place.rmdir()
