"""`resume=` added to a command: what was typed beside what the run has."""

import json
import os
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.composing import composed
from tests.run_folders import change_record
from tests.tiny import TINY
from triptych import cli
from triptych.config import CONFIGS
from triptych.errors import UserError
from triptych.runs.record import Record
from triptych.runs.resume_request import (
    check_request,
    find_run,
    is_same,
    merge_request,
    read_choice,
)

TYPED = (
    *("experiment=finetune", "model=alexnet", "model.weights=null", "seed=1", "data=shapes"),
    *("optim.lr=1e-3", "data.num_val=100"),
)


@pytest.fixture
def run(tmp_path: Path) -> Record:
    return begin(tmp_path, *TYPED)


def begin(log_dir: Path, *overrides: str) -> Record:
    return Record.create(composed("train", *overrides, log_dir=str(log_dir)), [*overrides])


def merge(run: Record, *overrides: str) -> dict[str, Any]:
    config = composed("train", *overrides, resume=str(run.folder))
    return merge_request(config, [*overrides, f"resume={run.folder}"], run)


@pytest.mark.parametrize(
    "typed",
    [
        TYPED,
        ("experiment=finetune", "model=alexnet"),
        ("model=alexnet", "data=shapes"),
        ("optim=adamw", "optim.lr=0.001"),
        ("optim.lr=0.0010", "++trainer.max_epochs=20"),
        ("optim=adamw", "trainer=default"),
        ("model.weights=null", "++trainer.accumulate_grad_batches=1"),
        (
            "++trainer.callbacks=[{decay: 99e-2, update_every_n_steps: 10, _target_: "
            "lightning.pytorch.callbacks.EMAWeightAveraging}]",
        ),
        ("++data.source.seed=0", "speed={compile: none, cache_features: true}"),
        ("~data.augment", "+data.augment=standard"),
        (),
    ],
)
def test_settings_equal_to_the_runs_own_are_no_request(run: Record, typed: tuple[str, ...]) -> None:
    assert merge(run, *typed) == run.config


def test_a_network_of_ones_own_may_be_typed_again(tmp_path: Path) -> None:
    run = begin(tmp_path, *TINY)
    assert merge(run, *TINY) == run.config
    with pytest.raises(UserError, match=r"model\.name=other: this run has tiny"):
        merge(run, *(o.replace("+model.name=tiny", "+model.name=other") for o in TINY))


@pytest.mark.parametrize(
    ("typed", "setting", "values"),
    [
        (["optim.lr=0.01"], "optim.lr=0.01", ["0.001"]),
        (["seed=0"], "seed=0", ["1"]),
        (["model=googlenet"], "model=googlenet", ["alexnet"]),
        (["experiment=probe"], "experiment=probe", ["optim.name=adamw"]),
        (["optim=sgd"], "optim=sgd", ["adamw"]),
        (["model.weights=DEFAULT"], "model.weights=DEFAULT", ["null"]),
        (["++trainer.callbacks=[]"], "trainer.callbacks=[]", ["EMAWeightAveraging"]),
        (["++trainer.gradient_clip_val=1"], "trainer.gradient_clip_val=1", ["no trainer"]),
        (["~trainer.callbacks"], "~trainer.callbacks", ["EMAWeightAveraging"]),
        (["seed=5", "optim.lr=0.5", "data.num_val=5", "model=resnet50"], "3 more", ["1"]),
    ],
)
def test_another_value_is_refused_by_name_with_both(
    run: Record, typed: list[str], setting: str, values: list[str]
) -> None:
    with pytest.raises(UserError) as refused:
        merge(run, *typed)
    said = str(refused.value)
    assert setting in said
    assert any(value in said for value in values), said
    assert len(said.splitlines()) <= 3


@pytest.mark.parametrize(
    ("typed", "shown"),
    [
        ([], None),
        (["loss=focal", "metrics=[auroc]"], None),
        (["module=classification", "metrics=[auroc]", "augment=standard"], None),
        (["metrics=[top5]"], "MulticlassAUROC"),
        (["metrics=[auroc,top5]"], "MulticlassAUROC"),
        (["loss=cross_entropy"], "FocalLoss"),
        (["module=multilabel"], "no module"),
    ],
)
def test_another_part_than_the_runs_own_is_refused(
    tmp_path: Path, typed: list[str], shown: str | None
) -> None:
    run = begin(tmp_path, *TYPED, "loss=focal", "metrics=[auroc]")
    with pytest.raises(UserError, match=shown) if shown else nullcontext():
        assert merge(run, *typed) == run.config


def test_what_is_no_part_of_the_experiment_is_applied(run: Record) -> None:
    merged = merge(run, *TYPED, "trainer=ddp", "data.num_workers=3", "++trainer.max_epochs=60")
    assert (merged["trainer"]["strategy"], merged["data"]["num_workers"]) == ("ddp", 3)
    assert merged["trainer"]["max_epochs"] == 60
    assert merged["optim"] == run.config["optim"]


def test_a_default_that_has_changed_since_is_the_runs_of_then(tmp_path: Path) -> None:
    config = composed("train", *TYPED, log_dir=str(tmp_path))
    config["optim"]["label_smoothing"] = 0.3
    config["model"].pop("min_input_size")
    run = Record.create(config, [*TYPED])
    assert merge(run, *TYPED) == config
    with pytest.raises(UserError, match=r"optim\.label_smoothing=0\.1: this run has 0\.3"):
        merge(run, "optim.label_smoothing=0.1")


@settings(max_examples=50)
@given(st.floats(1e-8, 1e3), st.sampled_from(["{!r}", "{:.17g}", "{:.17e}"]))
def test_a_number_is_the_same_however_it_is_written(value: float, form: str) -> None:
    assert is_same(value, float(form.format(value)))
    assert not is_same(value, value * (1 + 1e-9))


def test_two_paths_of_one_file_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "w.pth").touch()
    monkeypatch.chdir(tmp_path)
    assert is_same("w.pth", str(tmp_path / "w.pth"))
    assert not is_same("w.pth", "v.pth")


def test_every_choice_of_a_group_names_settings_that_a_config_has() -> None:
    choices = [path for path in CONFIGS.glob("*/*.yaml") if path.parent.name != "image_types"]
    keys = {path: [*read_choice(path.parent.name, path.stem)] for path in choices}
    assert sum(map(len, keys.values())) > 150
    assert {"optim.name", "optim.lr", "data.augment", "trainer.max_epochs"} <= {
        *keys[CONFIGS / "experiment" / "finetune.yaml"]
    }


@pytest.mark.parametrize(
    "place", ["", "/", "/checkpoints/last.ckpt", "/checkpoints", "/run.json", "/config.yaml"]
)
def test_a_run_may_be_named_by_what_is_in_its_folder(run: Record, place: str) -> None:
    (run.folder / "checkpoints").mkdir()
    assert find_run(f"{run.folder}{place}") == run.folder


def test_a_relative_path_and_a_moved_folder_are_read_where_they_lie(
    run: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = run.folder.parent.rename(run.folder.parent.with_name("elsewhere")) / run.folder.name
    monkeypatch.chdir(moved.parent)
    assert find_run(moved.name).resolve() == moved
    assert merge(Record.open(find_run(moved.name)), *TYPED)["seed"] == 1


@pytest.mark.parametrize("place", ["", "/shapes", "/*/*", "/shapes/alexnet/seed1/nothing"])
def test_a_folder_of_runs_or_a_glob_is_refused_with_the_run_that_is_not_finished(
    tmp_path: Path, run: Record, place: str
) -> None:
    for seed in (2, 3):
        begin(tmp_path, *TYPED[:3], f"seed={seed}", "data=shapes").update(status="finished")
    with pytest.raises(UserError) as refused:
        find_run(f"{tmp_path}{place}")
    said = str(refused.value)
    assert ("nothing" in place) or f"resume={run.folder}" in said
    assert len(said.splitlines()) <= 3


def test_a_finished_run_is_refused_unless_it_can_be_given_more(run: Record) -> None:
    run.update(status="finished", num_epochs=20)
    more = "++trainer.max_epochs=30"

    def check(*typed: str) -> None:
        check_request(composed("train", *typed, resume=str(run.folder)), [*typed])

    with pytest.raises(UserError, match=r"finished\n.*20 epochs.*trainer\.max_epochs"):
        check(*TYPED)
    with pytest.raises(UserError, match=r"trainer\.max_epochs=15: .*20 epochs"):
        check("++trainer.max_epochs=15")
    with pytest.raises(UserError, match=r"last\.ckpt is gone.*\n.*\n.*model\.weights=.*best\.ckpt"):
        check(more)
    run.checkpoint_path("last").parent.mkdir()
    run.checkpoint_path("last").touch()
    check(more)
    with pytest.raises(UserError, match=r"optim\.lr=0\.5"):
        check(more, "optim.lr=0.5")


@pytest.mark.parametrize("is_list", [True, False])
def test_a_run_that_an_average_of_late_weights_has_ended_cannot_go_on(
    tmp_path: Path, is_list: bool
) -> None:
    average = {"_target_": "lightning.pytorch.callbacks.StochasticWeightAveraging", "swa_lrs": 0.1}
    config = composed("train", *TYPED[1:], log_dir=str(tmp_path))
    config["trainer"]["callbacks"] = [average] if is_list else average
    run = Record.create(config, [*TYPED[1:]])
    run.update(status="finished", num_epochs=20)
    run.checkpoint_path("last").parent.mkdir()
    run.checkpoint_path("last").touch()
    more = "++trainer.max_epochs=30"
    config = composed("train", more, resume=str(run.folder))
    config["trusted_targets"] = [average["_target_"]]
    with pytest.raises(UserError, match="StochasticWeightAveraging has ended"):
        check_request(config, [more])


def test_own_targets_that_were_typed_again_are_trusted(tmp_path: Path) -> None:
    typed = (*TYPED, "++trainer.callbacks=[{_target_: mine.Callback}]")
    run = begin(tmp_path, *typed)
    resumed = {"resume": str(run.folder)}
    check_request(composed("train", **resumed), [])  # its owner's: the record is signed
    change_record(run.folder, signature=None)
    check_request(composed("train", *typed, **resumed), [*typed])
    with pytest.raises(UserError, match=r"mine\.Callback"):
        check_request(composed("train", **resumed), [])


@pytest.mark.parametrize("overrides", [None, "x", [1, None], {"a": 1}])
def test_a_record_edited_by_hand_is_read_as_data(run: Record, overrides: Any) -> None:
    change_record(run.folder, overrides=overrides, history=overrides)
    assert merge(Record.open(run.folder), "seed=1")["seed"] == 1


def test_the_command_line_refuses_before_torch_is_imported(
    run: Record, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def exit_code(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
        monkeypatch.setenv("TRIPTYCH_COMMAND", "")
        monkeypatch.setenv("HYDRA_FULL_ERROR", "")
        monkeypatch.setattr(cli, "load_function", lambda command: pytest.fail("it would train"))
        with pytest.raises(SystemExit) as ended:
            cli.main("train")
        return int(ended.value.code or 0)

    resumed = f"resume={run.folder}"
    for arguments, says in (
        ((*TYPED, "seed=4", resumed), "seed=4: this run has 1"),
        (("experiment=deleted", resumed), "resume= needs no other setting"),
        (("-m", "seed=1,2", resumed), "without -m"),
        ((f"resume={run.folder.parent}",), f"resume={run.folder}"),
    ):
        assert exit_code(*arguments) == 2
        said = capsys.readouterr().err
        assert says in said
        assert len(said.splitlines()) <= 3
    assert json.loads((run.folder / "run.json").read_text()) == run.metadata
    assert not os.path.exists(run.folder / ".lock")
