"""Budgets of searches: random trials, whole searches as replicates, what each spent."""

import csv
import hashlib
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import Trial

from tests.composing import composed
from tests.tools.tune.test_command import (
    NAME,
    SMALL,
    _pretending,
    _untouched,
    config_of,
    pretend_training,
    search,
    states,
)
from triptych import cli
from triptych.config import Config, check_config
from triptych.errors import UserError
from triptych.runs.record import config_hash
from triptych.tools.sweep.jobs import Job, compose_job
from triptych.tools.tune import search as searching
from triptych.tools.tune.command import tune_each
from triptych.tools.tune.space import with_settings
from triptych.tools.tune.study import Budget

__all__ = ["_pretending", "_untouched"]  # fixtures
RANDOM: dict[str, Any] = {"sampler": "random", "pruner": None}


def read_spent(folder: Path, study: str = NAME) -> tuple[dict[str, Any], list[dict[str, str]]]:
    place = folder / "logs" / "tune" / study
    with (place / "trials.csv").open(newline="") as file:
        return json.loads((place / "spent.json").read_text()), [*csv.DictReader(file)]


@pytest.mark.usefixtures("_pretending")
def test_random_trials_are_drawn_each_by_its_number_and_none_is_the_config_s(
    tmp_path: Path,
) -> None:
    at_once = search(tmp_path / "a", num_trials=8, **RANDOM)
    search(tmp_path / "b", num_trials=3, **RANDOM)
    in_parts = search(tmp_path / "b", num_trials=8, **RANDOM)
    assert [t.params for t in in_parts] == [t.params for t in at_once]
    rates = {t.params["optim.lr"] for t in at_once}
    assert len(rates) == 8
    assert 0.001 not in rates
    assert states(at_once) == ["COMPLETE"] * 8
    others = search(tmp_path / "c", num_trials=8, sampler_seed=1, **RANDOM)
    assert rates.isdisjoint(t.params["optim.lr"] for t in others)
    with pytest.raises(UserError, match=r"study=.*was begun with sampler=random, now tpe"):
        search(tmp_path / "a", num_trials=9, pruner=None)


@pytest.mark.usefixtures("_pretending")
def test_whole_searches_are_studies_of_their_own_whose_winners_have_other_seeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    written: list[dict[str, Any]] = []
    monkeypatch.setattr(searching, "format_recipe", lambda *a: written.append(a[1]) or "ours")
    search(tmp_path, num_trials=2, searches=3, **RANDOM)
    names = [NAME, f"{NAME}_search1", f"{NAME}_search2"]
    recipes = ",".join(f"tuned_{name}" for name in names)
    assert caplog.messages[-1] == f"next  python train.py -m experiment={recipes}"
    spent = [read_spent(tmp_path, name)[0] for name in names]
    assert [each["sampler_seed"] for each in spent] == [0, 1, 2]
    assert len({each["search_hash"] for each in spent}) == 1
    assert [values["seed"] for values in written] == [1, 2, 3]
    assert [values["tuned"]["study"] for values in written] == names
    assert {values["tuned"]["num_trials"] for values in written} == {2}
    search(tmp_path / "b", num_trials=3, **RANDOM)
    assert read_spent(tmp_path / "b")[0]["search_hash"] != spent[0]["search_hash"]
    assert read_spent(tmp_path / "b")[0]["space_hash"] == spent[0]["space_hash"]


@pytest.mark.usefixtures("_pretending")
def test_a_search_of_seconds_ends_when_its_trials_took_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def take_time(config: Config, folder: Path, trial: Trial) -> float:
        time.sleep(0.05)
        return pretend_training(config, folder, trial)

    monkeypatch.setattr(searching, "train_trial", take_time)
    trials = search(tmp_path, num_trials=None, seconds=0.18, **RANDOM)
    assert 2 <= len(trials) <= 4
    assert len(search(tmp_path, num_trials=None, seconds=0.18, **RANDOM)) == len(trials)
    assert 0.18 <= read_spent(tmp_path)[0]["seconds"] < 1
    assert len(search(tmp_path, num_trials=1, seconds=9, **RANDOM)) == len(trials)
    recipe = tmp_path / "b" / "configs" / "experiment" / f"tuned_{NAME}.yaml"
    search(tmp_path / "b", num_trials=9, timeout_minutes=0.001, **RANDOM)
    assert not recipe.exists(), "the budget is not spent"
    search(tmp_path / "b", num_trials=2, **RANDOM)
    assert recipe.exists()
    with pytest.raises(UserError, match=r"num_trials=null: .*seconds="):
        search(tmp_path, num_trials=None)


@pytest.mark.usefixtures("_pretending")
def test_what_was_spent_has_every_trial_and_of_a_pruned_one_its_last_score(tmp_path: Path) -> None:
    trials = search(tmp_path, num_trials=9, sampler="random")
    spent, rows = read_spent(tmp_path)
    assert [row["state"] for row in rows] == [each.lower() for each in states(trials)]
    assert "pruned" in {row["state"] for row in rows}
    for row, trial in zip(rows, trials, strict=True):
        assert float(row["score"]) == [*trial.intermediate_values.values()][-1] or (
            float(row["score"]) == trial.value
        )
        assert float(row["optim.lr"]) == trial.params["optim.lr"]
    assert (spent["num_trials"], spent["num_failed"]) == (9, 0)
    assert spent["num_pruned"] == states(trials).count("PRUNED")
    assert spent["budget"] == "9 trials"
    assert str(Budget(seconds=7200)) in str(Budget(9, 7200))
    assert spent["seconds"] == pytest.approx(sum(float(row["seconds"]) for row in rows), abs=0.01)
    content = (tmp_path / "logs" / "tune" / NAME / "trials.csv").read_bytes()
    assert spent["trials_sha256"] == hashlib.sha256(content).hexdigest()


def test_a_winner_is_the_same_experiment_and_not_trained_with_the_seed_of_its_trials() -> None:
    plain = composed("train", *[o for o in SMALL if not o.startswith(("search", "pruner"))])
    config = plain | {"tuned": {"study": "mine", "seed": 0}}
    assert config_hash(config) == config_hash(plain)
    check_config(config | {"seed": 1})
    check_config(config | {"tuned": None})
    for tuned, says in (({"study": "mine", "seed": 0}, "seed=0: .*mine"), ("mine", "tuned=mine")):
        with pytest.raises(UserError, match=says):
            check_config(plain | {"tuned": tuned})


def test_a_sweep_over_networks_has_a_study_for_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs: list[Job] = []
    monkeypatch.setattr("triptych.tools.tune.command.tune_each", jobs.extend)
    typed = ["model.name=squeezenet1_1,alexnet", "searches=3", f"log_dir={tmp_path}"]
    others = [setting for setting in SMALL if not setting.startswith("model.name")]
    monkeypatch.setattr(sys, "argv", ["triptych", "-m", *others, *typed])
    cli.main("tune")
    assert [job.config["study"] for job in jobs] == [NAME, "alexnet_shapes"]
    assert {job.config["searches"] for job in jobs} == {3}
    assert jobs[1].overrides[-2:] == ["searches=3", f"log_dir={tmp_path}"]


def test_a_sweep_tunes_each_network_in_turn_and_refuses_two_jobs_of_one_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        return subprocess.CompletedProcess(command, 2 * ("a" in command))

    monkeypatch.setattr(subprocess, "run", run)
    config = config_of(tmp_path)
    jobs = [
        compose_job(with_settings(config, {"study": name}), [name], "tune") for name in ("a", "b")
    ]
    with pytest.raises(SystemExit, match="1"):
        tune_each(jobs)
    assert [command[-1] for command in commands] == ["a", "b"]
    with pytest.raises(UserError, match="study=a: two jobs"):
        tune_each(jobs[:1] * 2)
