"""A search over few drawings: its trials, its budget, its storage, its recipe."""

import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import optuna
import pytest
from hydra import compose, initialize_config_dir
from hypothesis import given
from hypothesis import strategies as st
from optuna.storages import JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from triptych import cli
from triptych.cli import STORAGE, format_help
from triptych.config import CONFIGS, Config, check_config, load_tool_rules, resolve_config
from triptych.data.datamodule import ImageSubset
from triptych.errors import UserError, mask_password
from triptych.module import ImageClassifier
from triptych.runs.record import experiment_settings
from triptych.tools.tune import recipe, work
from triptych.tools.tune import study as studies
from triptych.tools.tune import trial as trials
from triptych.tools.tune.command import tune
from triptych.tools.tune.space import Range, read_space, with_settings
from triptych.tools.tune.study import address, mend, open_storage, reveals
from triptych.tools.tune.trial import Trained, train_trial

TINY = [
    *("model=torchvision", "model.name=squeezenet1_1", "model.weights=null", "model.input_size=32"),
    *("data=shapes", "data.source.num_train=60", "data.source.num_test=30", "data.num_train=16"),
    *("data.num_val=20", "data.num_test=25", "data.batch_size=8", "trainer.max_epochs=2"),
    *("trainer.accelerator=cpu", "search=rate", "pruner.n_startup_trials=2"),
]
NAME = "squeezenet1_1_shapes"


@pytest.fixture(autouse=True)
def _untouched(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the door leaves in the environment and on the command line is taken back."""
    for key in ("HYDRA_FULL_ERROR", "TRIPTYCH_COMMAND", STORAGE):
        monkeypatch.setenv(key, "")
    monkeypatch.setattr(sys, "argv", ["tune.py"])


@cache
def composed() -> Config:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return resolve_config(compose("tune", TINY))


def asked(folder: Path, **settings: Any) -> Config:
    """The config of a tiny search, with other settings under keys that have __ for a dot."""
    places = {"log_dir": f"{folder}/logs", "recipe_dir": f"{folder}/configs/experiment"}
    named = {key.replace("__", "."): value for key, value in settings.items()}
    config = with_settings(composed(), places | named)
    check_config(config, "tune")
    return config


def training(folder: Path, **settings: Any) -> Config:
    """The part of it that a training knows."""
    config = asked(folder, **settings)
    return {key: value for key, value in config.items() if key not in load_tool_rules("tune")}


def search(folder: Path, **settings: Any) -> list[FrozenTrial]:
    tune(asked(folder, **settings), TINY)
    return kept(folder)


def kept(folder: Path, name: str = NAME) -> list[FrozenTrial]:
    """The trials in the journal, read by Optuna alone."""
    path = folder / "logs" / "tune" / name / "journal.log"
    storage = JournalStorage(JournalFileBackend(str(path)))
    return optuna.load_study(study_name=name, storage=storage).get_trials()


def states(found: list[FrozenTrial]) -> list[str]:
    return [trial.state.name for trial in found]


def pretended(config: Config, folder: Path, goes_on: trials.GoesOn) -> Trained:
    """A training of no cost: the nearer the rate is to 0.001, the better."""
    lr = config["optim"]["lr"]
    accuracy = 1 / (1 + abs(lr - 0.001) * 1000)
    for step in range(1, config["trainer"]["max_epochs"] + 1):
        if not goes_on(step, accuracy * step / 2):
            return Trained(accuracy, is_pruned=True)
    return Trained(accuracy)


@pytest.fixture
def _pretending(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "train_trial", pretended)
    monkeypatch.setattr(work, "chosen", list)  # composes a config, as a recipe does
    monkeypatch.setattr(recipe, "recipe", lambda *_: "ours")
    monkeypatch.setattr(work, "draw", lambda *_: None)


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, set[int]]:
    """A real search of three trials, and the sizes of the sets that batches were read from."""
    folder, sizes = tmp_path_factory.mktemp("searched"), set()
    read = ImageSubset.__getitems__

    def noted(part: ImageSubset, positions: Any) -> Any:
        sizes.add(len(part.data.images))
        return read(part, positions)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ImageSubset, "__getitems__", noted)
        patch.setenv("TRIPTYCH_COMMAND", "triptych tune model=torchvision")
        search(folder, num_trials=3, search__optim__schedule=None)
    return folder, sizes


def test_a_search_reads_no_test_image(searched: tuple[Path, set[int]]) -> None:
    _, sizes = searched
    assert sizes == {60}  # training and validation images together; there are 30 test images


def test_a_search_leaves_a_journal_a_figure_and_a_recipe_and_no_run(
    searched: tuple[Path, set[int]],
) -> None:
    folder, _ = searched
    files = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
    assert files == [
        f"configs/experiment/tuned_{NAME}.yaml",
        f"logs/tune/{NAME}/figures/history.png",
        f"logs/tune/{NAME}/journal.log",
    ]
    assert (folder / files[1]).read_bytes().startswith(b"\x89PNG")


def test_every_epoch_of_a_trial_is_reported_and_the_best_counts(
    searched: tuple[Path, set[int]],
) -> None:
    found = kept(searched[0])
    assert len(found) == 3
    for trial in found:
        assert trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
        if trial.state == TrialState.COMPLETE:
            assert sorted(trial.intermediate_values) == [1, 2]
            assert trial.value == max(trial.intermediate_values.values())


def test_the_first_trial_is_the_config_as_it_stands(searched: tuple[Path, set[int]]) -> None:
    assert kept(searched[0])[0].params == {"optim.lr": 0.001}


def test_train_takes_the_recipe_and_trains_what_the_best_trial_did(
    searched: tuple[Path, set[int]],
) -> None:
    folder, _ = searched
    trials_done = [t for t in kept(folder) if t.state == TrialState.COMPLETE]
    best = max(trials_done, key=lambda trial: trial.value or 0)
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        path = f"hydra.searchpath=[file://{folder}/configs]"
        asked = resolve_config(compose("train", [path, f"experiment=tuned_{NAME}"]))
        meant = [o for o in TINY if not o.startswith(("search", "pruner"))]
        as_typed = resolve_config(compose("train", meant))
    check_config(asked)
    assert experiment_settings(asked) == experiment_settings(with_settings(as_typed, best.params))


def test_the_recipe_tells_where_it_comes_from(searched: tuple[Path, set[int]]) -> None:
    text = (searched[0] / "configs" / "experiment" / f"tuned_{NAME}.yaml").read_text()
    best = max(t.value or 0 for t in kept(searched[0]) if t.state == TrialState.COMPLETE)
    for words in (
        "of 3 trials",
        f"accuracy {best:.4f}",
        "chosen on validation",
        "triptych tune",
    ):
        assert words in text
    assert len(text.splitlines()) <= 25


def test_a_training_is_pruned_after_the_validation_that_says_so(tmp_path: Path) -> None:
    config = training(tmp_path, trainer__max_epochs=3)
    seen: list[int] = []
    trained = train_trial(config, tmp_path, lambda step, _: bool(seen.append(step)))
    assert (seen, trained.is_pruned) == ([1], True)
    assert [*tmp_path.iterdir()] == []


def test_a_training_that_diverges_is_pruned_with_its_reason(tmp_path: Path) -> None:
    config = training(tmp_path, optim__lr=1e30, trainer__max_epochs=5)
    trained = train_trial(config, tmp_path, lambda *_: True)
    assert trained.is_pruned
    assert re.match(r"the training loss is (nan|inf) in epoch [12]", trained.error)


@pytest.mark.usefixtures("_pretending")
def test_a_search_that_was_stopped_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    at_once = search(tmp_path / "a", num_trials=14)
    for num_trials in (3, 11, 14):
        in_parts = search(tmp_path / "b", num_trials=num_trials)
    assert len(in_parts) == 14
    assert [t.params for t in in_parts] == [t.params for t in at_once]
    assert states(in_parts) == states(at_once)
    assert "PRUNED" in states(at_once)
    assert len({t.params["optim.lr"] for t in at_once}) == 14


@pytest.mark.usefixtures("_pretending")
def test_a_database_keeps_a_study_as_well(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/study.db"
    for num_trials in (1, 3):
        tune(asked(tmp_path, storage=url, num_trials=num_trials), TINY)
    found = optuna.load_study(study_name=NAME, storage=RDBStorage(url)).get_trials()
    assert len(found) == 3
    assert [t.params for t in found] == [t.params for t in search(tmp_path, num_trials=3)]


@pytest.mark.usefixtures("_pretending")
def test_a_recipe_that_is_there_is_kept_unless_it_may_be_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "configs" / "experiment" / f"tuned_{NAME}.yaml"
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    search(tmp_path, num_trials=2)
    assert path.read_text() == "mine"
    search(tmp_path, num_trials=2, overwrite=True)
    assert path.read_text() == "ours"


def in_a_process(do: Callable[[], object]) -> int:
    """Start a fork; its pid. It has one thread, and computes nothing with torch."""
    pid = os.fork()
    if pid:
        return pid
    try:
        do()
        os._exit(0)
    except BaseException:
        os._exit(1)


@pytest.mark.usefixtures("_pretending")
def test_workers_share_the_budget_and_what_a_killed_one_had_is_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = asked(tmp_path, num_trials=8)
    begun = tmp_path / "begun"

    def hangs(*_: Any) -> Trained:
        begun.touch()
        time.sleep(600)
        raise AssertionError

    monkeypatch.setattr(work, "train_trial", hangs)
    killed = in_a_process(lambda: tune(config, TINY))
    while not begun.exists():
        assert os.waitpid(killed, os.WNOHANG) == (0, 0), "it ended before it began"
        time.sleep(0.02)
    [lost] = kept(tmp_path)
    monkeypatch.setattr(work, "train_trial", pretended)
    search(tmp_path, num_trials=2)
    assert states(kept(tmp_path)) == ["RUNNING", "COMPLETE"]  # its worker is alive
    os.kill(killed, signal.SIGKILL)
    os.waitpid(killed, 0)

    workers = [in_a_process(lambda: tune(config, TINY)) for _ in range(2)]
    assert [os.waitpid(pid, 0)[1] for pid in workers] == [0, 0]
    found = kept(tmp_path)
    done = [trial for trial in found if trial.state in studies.DONE]
    assert len(done) == 8
    assert found[0].state == TrialState.FAIL
    again = [trial for trial in done if trial.user_attrs.get("retry_of") == 0]
    assert [trial.params for trial in again] == [lost.params]
    assert len({json.dumps(trial.params) for trial in done}) == 8
    assert (tmp_path / "configs" / "experiment" / f"tuned_{NAME}.yaml").exists()


def test_of_two_workers_that_see_one_trial_left_one_takes_it(tmp_path: Path) -> None:
    pruner = {"_target_": "optuna.pruners.NopPruner"}
    study = studies.open_study("one", None, pruner, tmp_path)
    other = studies.open_study("one", None, pruner, tmp_path)
    assert studies.num_left(study, 1) == studies.num_left(other, 1) == 1
    taken = [studies.take(worker, 1, tmp_path) is not None for worker in (study, other)]
    assert taken == [True, False]
    assert states(study.get_trials()) == ["RUNNING", "FAIL"]


@pytest.mark.usefixtures("_pretending")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_a_training_at_once_and_the_study_goes_on(
    number: int, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    monkeypatch.setenv("TRIPTYCH_COMMAND", "triptych tune search=rate")
    step = ImageClassifier.training_step

    def struck(*arguments: Any) -> Any:
        os.kill(os.getpid(), number)
        return step(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(ImageClassifier, "training_step", struck)
        patch.setattr(work, "train_trial", train_trial)
        with pytest.raises(SystemExit) as stopped:
            search(tmp_path, num_trials=1)
    assert stopped.value.code == code
    assert states(kept(tmp_path)) == ["FAIL", "WAITING"]
    assert "to go on: triptych tune search=rate" in caplog.text

    found = search(tmp_path, num_trials=1)
    assert states(found) == ["FAIL", "COMPLETE"]
    assert found[0].params == found[1].params


@pytest.mark.usefixtures("_pretending")
def test_a_failing_training_frees_its_place_and_is_not_hidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> Trained:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(work, "train_trial", fails)
        with pytest.raises(ZeroDivisionError):
            search(tmp_path, num_trials=1)
    assert states(search(tmp_path, num_trials=1)) == ["FAIL", "COMPLETE"]


@pytest.mark.usefixtures("_pretending")
def test_the_half_line_that_a_full_disk_left_does_no_harm(tmp_path: Path) -> None:
    search(tmp_path, num_trials=2)
    path = tmp_path / "logs" / "tune" / NAME / "journal.log"
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"op_code":4,"wor')
    assert len(search(tmp_path, num_trials=3)) == 3
    assert path.read_bytes().startswith(whole)


def test_a_whole_journal_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "journal.log"
    for content in (b"", b"{}\n", b"{}\n{}\n"):
        path.write_bytes(content)
        mend(path)
        assert path.read_bytes() == content


@pytest.mark.usefixtures("_pretending")
def test_a_study_begun_with_other_settings_is_not_mixed_with_these(tmp_path: Path) -> None:
    search(tmp_path, num_trials=1)
    others: dict[str, Any] = {
        "search__optim__lr__high": 0.1,
        "search__data": {"augment": ["none", "standard"]},
        "trainer__max_epochs": 3,
        "optim__name": "sgd",
        "model__input_size": 64,
        "pruner__n_startup_trials": 3,
    }
    for key, value in others.items():
        said = key.replace("__high", "").replace("__n_startup_trials", "").replace("__", ".")
        with pytest.raises(UserError, match=rf"study={NAME}: was begun with {said}.*\n.*study="):
            search(tmp_path, num_trials=2, **{key: value})
    assert len(kept(tmp_path)) == 1


@pytest.mark.usefixtures("_pretending")
def test_where_a_study_lies_and_on_what_it_runs_may_change(tmp_path: Path) -> None:
    search(tmp_path, num_trials=1)
    found = search(tmp_path, num_trials=2, trainer__accelerator="auto", data__num_workers=1)
    assert len(found) == 2


@pytest.mark.parametrize(
    ("key", "entry", "says"),
    [
        ("optim.learning_rate", [1], ": no setting of data=shapes model=squeezenet1_1 optim=adam"),
        ("optim.optimizer.momentum", [0.9], ": no setting of data=shapes"),
        ("optim.optimizer", [1], ": a group of settings"),
        ("data.num_val", [10], ": not to be varied"),
        ("data.source.seed", [1], ": not to be varied"),
        ("trainer.max_epochs", [1], ": not to be varied"),
        ("log_dir", ["a"], ": not to be varied"),
        ("optim.lr", {"low": 2, "high": 1}, "={'low': 2, 'high': 1}: low must be below high"),
        (
            "optim.lr",
            {"low": 0, "high": 1, "log": True},
            "={'low': 0, 'high': 1, 'log': True}: log",
        ),
        ("optim.lr", {"low": "a", "high": 1}, "={'low': 'a', 'high': 1}: low and high must be"),
        ("optim.lr", {"low": float("nan"), "high": 1}, "={'low': nan, 'high': 1}: low and high"),
        ("optim.lr", {"low": 1}, "={'low': 1}: low and high must be numbers"),
        ("optim.lr", {"low": 1, "high": 2, "hi": 3}, "={'low': 1, 'high': 2, 'hi': 3}: hi; may be"),
        ("optim.lr", {"low": 1, "high": 2, "step": 0}, "={'low': 1, 'high': 2, 'step': 0}: step"),
        ("optim.lr", {"low": -1, "high": 1}, ": optim.lr=-1.0: must be a number above 0"),
        ("data.batch_size", {"low": 1.5, "high": 8}, ": data.batch_size=1.5: must be a whole"),
        ("model.input_size", {"low": 8, "high": 64}, ": model.input_size=8: "),
        ("optim.lr", 3, "=3: must be a list of choices"),
        ("optim.schedule", [], "=[]: must be a list of choices"),
        ("optim.schedule", [["cosine"]], "=[['cosine']]: must be a list"),
        ("optim.schedule", ["cosine"] * 2, "=['cosine', 'cosine']: a choice is named twice"),
        ("optim.schedule", ["cosin"], ": optim.schedule=cosin: must be one of"),
    ],
)
def test_what_cannot_be_varied_is_refused_by_name(
    key: str, entry: Any, says: str, tmp_path: Path
) -> None:
    config = training(tmp_path, model__min_input_size=21)
    with pytest.raises(UserError) as refused:
        read_space({key: entry}, config)
    assert str(refused.value).startswith(f"search.{key}{says}")
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"num_trials": 0}, "num_trials=0: must be a whole number of at least 1"),
        ({"study": "a/b"}, "study=a/b: must be a name of letters"),
        ({"optim.lr": -1}, "optim.lr=-1: must be a number above 0"),
        ({"data.num_val": 60}, "data.num_val=60: with data.num_train=16 more than 60"),
        ({"num_trial": 1}, "num_trial: no such setting; near: num_trials"),
        ({"search": {"optim": {"lr": None}}}, "search: nothing to vary"),
        ({"pruner._target_": "optuna.pruners.No"}, "pruner: optuna.pruners.No refuses"),
        ({"pruner": {"_target_": "builtins.dict"}}, "pruner=builtins.dict: must be one of"),
        ({"trainer.devices": 2}, "trainer.devices=2: a trial takes one device"),
        ({"storage": "/dev/null/x"}, "storage=/dev/null/x: cannot be used ("),
        ({"log_dir": "/dev/null/x"}, "log_dir=/dev/null/x: cannot be written to ("),
    ],
)
def test_a_search_that_cannot_be_is_refused_by_name(
    settings: dict[str, Any], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "chosen", list)
    with pytest.raises(UserError) as refused:
        search(tmp_path, **settings)
    assert str(refused.value).startswith(says)


def test_a_range_of_whole_numbers_is_of_fractions_where_the_setting_takes_them(
    tmp_path: Path,
) -> None:
    node: dict[str, Any] = {
        "optim": {"weight_decay": {"low": 0, "high": 1}},
        "data.batch_size": {"low": 2, "high": 8},
        "trainer": {"gradient_clip_val": [None, 1.0]},
    }
    space = read_space(node, training(tmp_path))
    assert space["optim.weight_decay"] == Range(0, 1, False, None, False)
    assert space["data.batch_size"] == Range(2, 8, False, None, True)
    assert space["trainer.gradient_clip_val"] == [None, 1.0]


def test_without_optuna_the_command_that_installs_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = asked(tmp_path)
    monkeypatch.setattr("triptych.tools.tune.command.find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r"^tune: Optuna is not installed; pip install 'optuna>=4'$"
    ):
        tune(config, TINY)
    assert int(version("optuna").partition(".")[0]) >= 4


@given(st.text(st.characters(codec="utf-8", exclude_characters="\n"), min_size=6))
def test_a_password_is_hidden_whatever_is_in_it(password: str) -> None:
    url = f"postgresql://me:{password}@localhost:1/studies"
    if not password.startswith("${"):
        assert mask_password(url) == "postgresql://me:***@localhost:1/studies"
        assert mask_password(f"could not reach {url}") == "could not reach " + mask_password(url)


@pytest.mark.parametrize(
    ("told", "shown"),
    [
        ("sqlite:///a.db", "sqlite:///a.db"),
        ("mysql://me@host/db", "mysql://me@host/db"),
        (
            "mysql://host/db?user=me&password=hunter2&x=1",
            "mysql://host/db?user=me&password=***&x=1",
        ),
        ("postgresql://host/db?sslpassword=hunter2", "postgresql://host/db?sslpassword=***"),
        ("mysql://me:${oc.env:WORD}@host/db", "mysql://me:${oc.env:WORD}@host/db"),
    ],
)
def test_an_address_is_shown_but_for_its_password(told: str, shown: str) -> None:
    assert mask_password(told) == shown


def test_a_reason_that_has_a_word_of_the_password_is_not_shown() -> None:
    url = "postgresql://me:hunter@2@host:1/db"  # read as host 2@host
    assert reveals('could not translate host name "hunter"', url)
    assert reveals("password=hunter", "mysql://host/db?user=me&password=hunter")
    assert not reveals("could not connect to host as me", url)
    assert not reveals("unable to open database file", "sqlite:///a.db")


def test_an_address_is_taken_from_the_environment_where_none_is_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(STORAGE, "mysql://me:hunter2@host/db")
    assert address(None) == "mysql://me:hunter2@host/db"
    assert address("sqlite:///other.db") == "sqlite:///other.db"


def test_a_password_in_the_environment_reaches_neither_screen_nor_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    monkeypatch.setenv(STORAGE, "postgresql://me:hunter2@127.0.0.1:1/db")
    monkeypatch.setattr(sys, "argv", ["triptych", *TINY, f"log_dir={tmp_path}"])
    with pytest.raises(SystemExit) as ended:
        cli.main("tune")
    assert ended.value.code == 2
    shown = "".join(capfd.readouterr())
    assert "me:***@127.0.0.1:1" in shown
    assert "hunter2" not in shown
    assert all(b"hunter2" not in p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())


def test_a_storage_in_a_file_of_ones_own_is_a_journal(tmp_path: Path) -> None:
    assert isinstance(open_storage(str(tmp_path / "a" / "mine.log"), tmp_path), JournalStorage)
    assert (tmp_path / "a" / "mine.log").exists()


def test_help_names_the_settings_of_the_search_and_of_the_training() -> None:
    lines = format_help("tune").splitlines()
    assert "  search=default|rate" in lines
    for setting in ("num_trials", "storage", "resume"):
        assert any(line.startswith(f"  {setting}:") for line in lines), setting
    assert any(line.startswith("  model=alexnet|") for line in lines)
