"""A search over few images: its trials, its budget, its storage, its recipe."""

import os
import signal
import sys
import time
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import optuna
import pytest
from hydra import compose, initialize_config_dir
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FixedTrial, FrozenTrial, Trial, TrialState

from tests import tiny
from tests.composing import composed
from triptych import cli
from triptych.cli import STORAGE
from triptych.config import CONFIGS, Config, check_config, load_settings, resolve_config
from triptych.data.datamodule import ImageSubset
from triptych.errors import UserError
from triptych.module import ImageClassifier
from triptych.runs.record import experiment_settings
from triptych.tools.tune import search as searching
from triptych.tools.tune import study as studies
from triptych.tools.tune.command import tune
from triptych.tools.tune.finders import check_trainable
from triptych.tools.tune.search import train_trial
from triptych.tools.tune.settings import mask_password
from triptych.tools.tune.space import read_space, with_settings

SMALL = [
    *("model=torchvision", "model.name=squeezenet1_1", "model.weights=null", "model.input_size=32"),
    *("data=shapes", "data.source.num_train=60", "data.source.num_test=30", "data.num_train=16"),
    *("data.num_val=20", "data.num_test=25", "data.batch_size=8", "trainer.max_epochs=2"),
    *("trainer.accelerator=cpu", "search=rate", "pruner.n_startup_trials=2"),
]
NAME = "squeezenet1_1_shapes"


@pytest.fixture(autouse=True)
def _untouched(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a command leaves in the environment and on the command line is taken back."""
    for key in ("HYDRA_FULL_ERROR", "TRIPTYCH_COMMAND", STORAGE):
        monkeypatch.setenv(key, "")
    monkeypatch.setattr(sys, "argv", ["triptych"])


def config_of(folder: Path, **settings: Any) -> Config:
    """The config of a small search, with other settings under keys that have __ for a dot."""
    places = {"log_dir": f"{folder}/logs", "recipe_dir": f"{folder}/configs/experiment"}
    named = {key.replace("__", "."): value for key, value in settings.items()}
    config = with_settings(composed("tune", *SMALL), places | named)
    check_config(config, "tune")
    return config


def training_of(folder: Path, **settings: Any) -> Config:
    """The part of it that a training knows."""
    config = config_of(folder, **settings)
    return {key: value for key, value in config.items() if key not in load_settings("tune").RULES}


def search(folder: Path, **settings: Any) -> list[FrozenTrial]:
    tune(config_of(folder, **settings), SMALL)
    return read_trials(folder)


def read_trials(folder: Path) -> list[FrozenTrial]:
    address = str(folder / "logs" / "tune" / NAME / "journal.log")
    return studies.open_study(NAME, address, {"_target_": "optuna.pruners.NopPruner"}).get_trials()


def states(trials: list[FrozenTrial]) -> list[str]:
    return [trial.state.name for trial in trials]


def pretend_training(config: Config, folder: Path, trial: Trial) -> float:
    """A training of no cost: the nearer the rate is to 0.001, the better."""
    accuracy = 1 / (1 + abs(config["optim"]["lr"] - 0.001) * 1000)
    for step in range(1, config["trainer"]["max_epochs"] + 1):
        trial.report(accuracy * step / 2, step)
        if trial.should_prune():
            raise optuna.TrialPruned
    return accuracy


@pytest.fixture
def _pretending(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searching, "train_trial", pretend_training)
    monkeypatch.setattr(searching, "read_choices", list)  # composes a config, as a recipe does
    monkeypatch.setattr(searching, "format_recipe", lambda *_: "ours")


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, set[int]]:
    """A real search of three trials, and the sizes of the sets that batches were read from."""
    folder, sizes = tmp_path_factory.mktemp("searched"), set()
    read = ImageSubset.__getitems__

    def note(split: ImageSubset, positions: Any) -> Any:
        sizes.add(len(split.data.images))
        return read(split, positions)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ImageSubset, "__getitems__", note)
        patch.setenv("TRIPTYCH_COMMAND", "triptych tune model=torchvision")
        search(folder, num_trials=3, search__optim__schedule=None)
    return folder, sizes


def test_a_search_reads_no_test_image_and_leaves_a_journal_and_a_recipe_and_no_run(
    searched: tuple[Path, set[int]],
) -> None:
    folder, sizes = searched
    assert sizes == {60}  # training and validation images together; there are 30 test images
    files = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
    records = [f"logs/tune/{NAME}/{name}" for name in ("journal.log", "spent.json", "trials.csv")]
    assert files == [f"configs/experiment/tuned_{NAME}.yaml", *records]
    trials = read_trials(folder)
    assert len(trials) == 3
    assert trials[0].params == {"optim.lr": 0.001}, "the config as it stands"
    for trial in trials:
        assert trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
        if trial.state == TrialState.COMPLETE:
            assert sorted(trial.intermediate_values) == [1, 2]
            assert trial.value == max(trial.intermediate_values.values())


def test_train_takes_the_recipe_and_trains_what_the_best_trial_did(
    searched: tuple[Path, set[int]],
) -> None:
    folder, _ = searched
    complete = [t for t in read_trials(folder) if t.state == TrialState.COMPLETE]
    best = max(complete, key=lambda trial: trial.value or 0)
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        path = f"hydra.searchpath=[file://{folder}/configs]"
        by_recipe = resolve_config(compose("train", [path, f"experiment=tuned_{NAME}"]))
    as_typed = composed("train", *[o for o in SMALL if not o.startswith(("search", "pruner"))])
    check_config(by_recipe)
    expected = experiment_settings(with_settings(as_typed, {"seed": 1, **best.params}))
    assert experiment_settings(by_recipe) == expected
    text = (folder / "configs" / "experiment" / f"tuned_{NAME}.yaml").read_text()
    for part in ("3 trials", f"accuracy {best.value:.4f}", "triptych tune model=torchvision"):
        assert part in text
    assert len(text.splitlines()) <= 25


@pytest.mark.parametrize("network", [SMALL[:4], tiny.choose("Tiny")])
def test_a_recipe_has_what_its_data_and_its_network_require(
    network: list[str], tmp_path: Path
) -> None:
    typed = ["data=folder", f"data.root={tmp_path}/photos", "data.size=32", *network]
    config = composed("train", *typed)
    recipe = searching.format_recipe(config, {"optim.lr": 0.5}, typed, ["a head"])
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(recipe)
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        path = f"hydra.searchpath=[file://{tmp_path}]"
        by_recipe = resolve_config(compose("train", [path, "experiment=mine"]))
    assert by_recipe == with_settings(config, {"optim.lr": 0.5})


@pytest.mark.parametrize(("rate", "reason"), [(0.001, "^$"), (1e30, "loss is (nan|inf)")])
def test_a_training_is_pruned_after_the_validation_that_says_so_or_where_it_diverges(
    rate: float, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    monkeypatch.setattr(FixedTrial, "report", lambda _, accuracy, step: seen.append(step))
    monkeypatch.setattr(FixedTrial, "should_prune", lambda _: rate < 1)
    config = with_settings(composed("train", *tiny.TINY), {"optim.lr": rate})
    with pytest.raises(optuna.TrialPruned, match=reason):
        train_trial(config, tmp_path, FixedTrial({}))
    assert seen in ([1], [1, 2])
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("metric", ["MulticlassCalibrationError", "MulticlassAUROC"])
def test_a_metric_of_one_s_own_is_searched_in_its_direction(
    metric: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[float] = []
    monkeypatch.setattr(FixedTrial, "report", lambda _, score, step: seen.append(score))
    typed = [f"metrics.mine._target_=torchmetrics.classification.{metric}"]
    config = composed("train", *tiny.TINY, *map(cli.prepare, typed), "checkpoint.monitor=val/mine")
    best = min if metric.endswith("Error") else max
    assert train_trial(config, tmp_path, FixedTrial({})) == best(seen)
    assert len({*seen}) > 1
    direction = searching.find_direction(config, *check_trainable(config, []))
    assert direction.name.lower().startswith(best.__name__)


@pytest.mark.usefixtures("_pretending")
def test_of_what_is_best_when_it_is_least_the_least_is_the_study_s_best(tmp_path: Path) -> None:
    trials = search(tmp_path, num_trials=4, checkpoint__monitor="val/loss")
    address = str(tmp_path / "logs" / "tune" / NAME / "journal.log")
    study = studies.open_study(NAME, address, {"_target_": "optuna.pruners.NopPruner"})
    assert study.best_value == min(trial.value or 9 for trial in trials)


@pytest.mark.usefixtures("_pretending")
def test_a_search_that_was_stopped_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    at_once = search(tmp_path / "a", num_trials=12)
    for num_trials in (3, 12):
        in_parts = search(tmp_path / "b", num_trials=num_trials)
    assert [t.params for t in in_parts] == [t.params for t in at_once]
    assert states(in_parts) == states(at_once)
    assert "PRUNED" in states(at_once)
    assert len({t.params["optim.lr"] for t in at_once}) == 12

    url = f"sqlite:///{tmp_path}/study.db"
    search(tmp_path / "a", num_trials=3, storage=url)
    in_a_database = optuna.load_study(study_name=NAME, storage=url).get_trials()
    assert [t.params for t in in_a_database] == [t.params for t in at_once[:3]]


@pytest.mark.usefixtures("_pretending")
def test_a_recipe_that_is_there_stays_unless_it_may_be_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "configs" / "experiment" / f"tuned_{NAME}.yaml"
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    for overwrite, content in ((False, "mine"), (True, "ours")):
        search(tmp_path, num_trials=2, overwrite=overwrite)
        assert path.read_text() == content


@pytest.mark.usefixtures("_pretending")
def test_workers_share_the_budget_and_what_a_killed_one_had_is_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(tmp_path, num_trials=8)
    started = tmp_path / "started"

    def hang(*_: Any) -> float:
        started.touch()
        time.sleep(600)
        raise AssertionError

    monkeypatch.setattr(searching, "train_trial", hang)
    # Forks have one thread, and compute nothing with torch.
    fork = partial(get_context("fork").Process, target=tune, args=(config, SMALL))
    killed = fork()
    killed.start()
    while not started.exists():
        assert killed.is_alive(), "it ended before it began"
        time.sleep(0.02)
    [lost] = read_trials(tmp_path)
    monkeypatch.setattr(searching, "train_trial", pretend_training)
    assert states(search(tmp_path, num_trials=2)) == ["RUNNING", "COMPLETE"]  # its worker is alive
    killed.kill()
    killed.join()

    workers = [fork(), fork()]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    trials = read_trials(tmp_path)
    done = [trial for trial in trials if trial.state in studies.DONE]
    assert trials[0].state == TrialState.FAIL
    again = [trial for trial in done if trial.user_attrs.get("retry_of") == 0]
    assert [trial.params for trial in again] == [lost.params]
    assert len(done) == len({str(trial.params) for trial in done}) == 8
    assert (tmp_path / "configs" / "experiment" / f"tuned_{NAME}.yaml").exists()


def test_a_journal_that_a_killed_worker_left_half_a_line_in_is_gone_on_with(tmp_path: Path) -> None:
    journal, pruner = tmp_path / "journal", {"_target_": "optuna.pruners.NopPruner"}
    study = studies.open_study("one", str(journal), pruner)
    study.tell(study.ask(), 0.5)
    whole = journal.read_bytes()
    for cut in (3, 40, len(whole) - 1, len(whole)):
        journal.write_bytes(whole[:-cut])
        studies.open_study("one", str(journal), pruner).set_user_attr("more", 1)
        assert studies.open_study("one", str(journal), pruner).user_attrs == {"more": 1}
    for foreign in (b"a person's notes\nwithout an end", b"\x00" * 99, whole + b"planted\n"):
        journal.write_bytes(foreign)
        with pytest.raises(UserError, match=r"storage=.*journal: cannot be used"):
            studies.open_study("one", str(journal), pruner)
        assert journal.read_bytes() == foreign or foreign.startswith(whole)


def test_a_worker_that_sees_too_late_that_another_took_the_last_trial_leaves_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, pruner = str(tmp_path / "a" / "mine.log"), {"_target_": "optuna.pruners.NopPruner"}
    study, other = (studies.open_study("one", address, pruner) for _ in range(2))
    optimize = study.optimize

    def optimize_late(*arguments: Any, **options: Any) -> None:
        other.ask()
        optimize(*arguments, **options)

    monkeypatch.setattr(study, "optimize", optimize_late)
    studies.run_trials(study, lambda _: 0.5, tmp_path, studies.Budget(num_trials=1))
    assert states(study.get_trials()) == ["RUNNING", "FAIL"]


@pytest.mark.usefixtures("_pretending")
def test_a_signal_stops_a_training_at_once_and_the_study_can_be_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = ImageClassifier.training_step

    def terminate(*arguments: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return step(*arguments)

    model = composed("train", *tiny.TINY)["model"]
    with monkeypatch.context() as patch:
        patch.setattr(ImageClassifier, "training_step", terminate)
        patch.setattr(searching, "train_trial", train_trial)
        with pytest.raises(SystemExit) as stopped:
            search(tmp_path, num_trials=1, model=model)
    assert stopped.value.code == 143
    assert states(read_trials(tmp_path)) == ["FAIL", "WAITING"]

    trials = search(tmp_path, num_trials=1, model=model)
    assert states(trials) == ["FAIL", "COMPLETE"]
    assert trials[0].params == trials[1].params


@pytest.mark.usefixtures("_pretending")
def test_a_training_that_fails_does_not_count_and_is_not_hidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> float:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(searching, "train_trial", fail)
        with pytest.raises(ZeroDivisionError):
            search(tmp_path, num_trials=1)
    assert states(search(tmp_path, num_trials=1)) == ["FAIL", "COMPLETE"]


@pytest.mark.usefixtures("_pretending")
def test_a_study_begun_with_other_settings_is_not_mixed_with_these(tmp_path: Path) -> None:
    search(tmp_path, num_trials=1)
    others: dict[str, Any] = {
        "search__optim__lr__high": 0.1,
        "search__data": {"augment": ["none", "standard"]},
        "trainer__max_epochs": 3,
        "optim__name": "sgd",
        "pruner__n_startup_trials": 3,
    }
    for key, value in others.items():
        name = key.replace("__high", "").replace("__n_startup_trials", "").replace("__", ".")
        with pytest.raises(UserError, match=rf"study={NAME}: .* {name}.*\n.*study="):
            search(tmp_path, num_trials=2, **{key: value})
    assert len(read_trials(tmp_path)) == 1
    elsewhere = search(tmp_path, num_trials=2, trainer__accelerator="auto", data__num_workers=1)
    assert len(elsewhere) == 2, "where a study runs may change"


@pytest.mark.usefixtures("_pretending")
def test_a_study_that_goes_on_with_other_code_says_which_files_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def warnings_of(num_trials: int, **code: str) -> list[str]:
        monkeypatch.setattr(searching, "hash_code", lambda _: {"a.py": "1", "b.py": "1"} | code)
        caplog.clear()
        search(tmp_path, num_trials=num_trials)
        return [r.getMessage().partition(": ")[2] for r in caplog.records if r.levelname != "INFO"]

    assert warnings_of(1) == []
    assert warnings_of(2) == []
    assert warnings_of(3, **{"b.py": "2"}) == ["b.py"]
    assert warnings_of(4, **{"b.py": "2"}) == ["b.py"], "as long as its trials are mixed"
    assert warnings_of(5, **{"a.py": "3", "b.py": "2"}) == ["a.py, b.py"]


@pytest.mark.parametrize(
    ("key", "entry", "says"),
    [
        ("optim.learning_rate", [1], "optim.lr"),
        ("optim.optimizer", [1], "optim.optimizer=1"),
        ("optim.lr.x", [1], ""),
        ("data.num_val", [10], "in common"),
        ("optim.lr", {"low": 2, "high": 1}, "{'low': 2, 'high': 1}"),
        ("optim.lr", {"low": float("nan"), "high": 1}, "optim.lr=nan"),
        ("optim.lr", {"low": 1}, "'high'"),
        ("optim.lr", {"low": -1, "high": 1}, "optim.lr=-1.0"),
        ("data.batch_size", {"low": 1.5, "high": 8}, "data.batch_size=1.5"),
        ("model.input_size", {"low": 8, "high": 64}, "model.input_size=8"),
        ("optim.lr", 3, "=3: "),
        ("optim.schedule", [["cosine"]], "single value"),
        ("optim.schedule", ["cosin"], "optim.schedule=cosin"),
    ],
)
def test_what_cannot_be_varied_is_refused_by_name(
    key: str, entry: Any, says: str, tmp_path: Path
) -> None:
    config = training_of(tmp_path, model__min_input_size=21)
    with pytest.raises(UserError) as raised:
        read_space({key: entry}, config)
    message = str(raised.value)
    assert message.startswith(f"search.{key}")
    assert says in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"study": "a/b"}, "study=a/b: "),
        ({"search": {"optim": {"lr": None}}}, "search: "),
        ({"pruner._target_": "optuna.pruners.No"}, "pruner._target_=optuna.pruners.No: "),
        ({"trainer.devices": 2}, "trainer.devices=2: "),
        ({"storage": "/dev/null/x"}, "storage=/dev/null/x: "),
        ({"log_dir": "/dev/null/x"}, "log_dir=/dev/null/x: "),
    ],
)
def test_a_search_that_cannot_be_is_refused_by_name(
    settings: dict[str, Any], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(searching, "read_choices", list)
    with pytest.raises(UserError) as raised:
        search(tmp_path, **settings)
    assert str(raised.value).startswith(says)


def test_a_range_of_whole_numbers_is_of_fractions_where_the_setting_takes_them(
    tmp_path: Path,
) -> None:
    node: dict[str, Any] = {
        "optim": {"weight_decay": {"low": 0, "high": 1}},
        "data.batch_size": {"low": 2, "high": 8},
        "trainer": {"gradient_clip_val": [None, 1.0]},
    }
    assert read_space(node, training_of(tmp_path)) == {
        "optim.weight_decay": FloatDistribution(0, 1),
        "data.batch_size": IntDistribution(2, 8),
        "trainer.gradient_clip_val": CategoricalDistribution([None, 1.0]),
    }


def test_an_address_is_shown_without_its_password_and_a_message_that_repeats_it_is_known() -> None:
    for shown in ("mysql://me:***@host:1/db", "mysql://host/db?sslpassword=***&x=1"):
        assert mask_password(shown.replace("***", "hunter:2")) == shown
    for address in ("sqlite:///a.db", "mysql://me@host/db", "mysql://me:${oc.env:WORD}@host/db"):
        assert mask_password(address) == address
    url = "postgresql://me:hunter@2@host:1/db"  # a driver may read it as host 2@host
    assert mask_password(url) == "postgresql://me:***@host:1/db"
    assert studies.repeats_password('could not translate host name "hunter"', url)
    assert not studies.repeats_password("could not connect to host as me", url)
    assert not studies.repeats_password("unable to open database file", "sqlite:///a.db")


def test_a_password_in_the_environment_reaches_neither_screen_nor_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    monkeypatch.setenv(STORAGE, "postgresql://me:hunter2@127.0.0.1:1/db")
    monkeypatch.setattr(sys, "argv", ["triptych", *SMALL, f"log_dir={tmp_path}"])
    with pytest.raises(SystemExit) as ended:
        cli.main("tune")
    assert ended.value.code == 2
    shown = "".join(capfd.readouterr())
    assert "me:***@127.0.0.1:1" in shown
    assert "hunter2" not in shown
    assert all(b"hunter2" not in p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())
