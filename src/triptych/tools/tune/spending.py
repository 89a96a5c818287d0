"""What a search spent: `trials.csv`, a line a trial, and `spent.json`, beside its journal.

Searches of one `search_hash` differ in `sampler_seed` alone: they are replicates of each other.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from triptych.config import Config
from triptych.runs.storage import atomic_write, translate_write_errors, write_csv
from triptych.tools.tune.study import DONE, Budget, sum_seconds

COLUMNS = ("number", "state", "score", "seconds", "epochs", "error")
# What a recipe repeats of `spent.json`, so that runs trained from it have it.
OF_RECIPE = """
    study search_hash space_hash budget sampler sampler_seed monitor seed num_trials seconds
""".split()


def describe_search(
    config: Config, training: Config, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """What a search is; `settings` are all that its trials have in common, by dotted keys."""
    space = {k.removeprefix("search."): v for k, v in settings.items() if k.startswith("search.")}
    budget = str(Budget(config["num_trials"], config["seconds"]))
    return {
        "study": config["study"],
        "model": training["model"]["name"],
        "data": training["data"]["name"],
        "monitor": training["checkpoint"]["monitor"],
        "seed": training["seed"],  # of every trial
        "sampler": config["sampler"],
        "sampler_seed": config["sampler_seed"],
        "pruner": config["pruner"],
        "budget": budget,
        "space": space,
        "space_hash": hash_settings(space),
        "search_hash": hash_settings({**settings, "sampler_seed": None, "budget": budget}),
    }


def hash_settings(settings: Mapping[str, Any]) -> str:
    """The first 16 hex digits of SHA-256 over JSON."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def count_spent(study: optuna.Study) -> dict[str, Any]:
    """The trials that ended, and what all of them took, those that failed included."""
    trials = study.get_trials(deepcopy=False)
    states = [trial.state for trial in trials]
    return {
        "num_trials": sum(map(states.count, DONE)),
        "num_pruned": states.count(TrialState.PRUNED),
        "num_failed": states.count(TrialState.FAIL),
        "seconds": round(sum_seconds(trials), 3),
    }


def write_spent(folder: Path, description: Mapping[str, Any], study: optuna.Study) -> Config:
    """Write both files, each whole, over those of before; what is in `spent.json`."""
    trials = [t for t in study.get_trials(deepcopy=False) if t.state.is_finished() and t.params]
    keys = [*description["space"]]
    rows = [(*COLUMNS, *keys), *(list_cells(trial, keys) for trial in trials)]
    content = {
        **description,
        **count_spent(study),
        "direction": study.direction.name.lower(),
        "code": study.user_attrs.get("code", {}),
    }
    with translate_write_errors(f"log_dir={folder}"):
        write_csv(folder / "trials.csv", rows)
        digest = hashlib.sha256((folder / "trials.csv").read_bytes()).hexdigest()
        with atomic_write(folder / "spent.json") as temporary:
            temporary.write_text(json.dumps(content | {"trials_sha256": digest}, indent=2) + "\n")
    return content


def list_cells(trial: FrozenTrial, keys: Sequence[str]) -> tuple[Any, ...]:
    """A line of the table; the score of a pruned trial is its last, empty where it had none."""
    return (
        *(trial.number, trial.state.name.lower(), trial.value, round(sum_seconds([trial]), 3)),
        *(trial.user_attrs.get(name) for name in ("epochs", "error")),
        *(trial.params.get(key) for key in keys),
    )
