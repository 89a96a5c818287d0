"""One run from the config to its folder, on a few drawings."""

import csv
import json
import os
import re
import shlex
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score, log_loss
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.nn import functional as F
from torchvision.models import get_model

import triptych
from tests.run_folders import change_record
from tests.tiny import TARGETS, choose
from triptych.callbacks import figures
from triptych.callbacks.batchnorm import count_batches
from triptych.callbacks.checkpoint import CheckpointCallback
from triptych.callbacks.tensorboard import choose_mistakes
from triptych.cli.help import describe_missing
from triptych.config import Config
from triptych.data.shapes import Shapes
from triptych.errors import RunFailed, UserError
from triptych.runs.failures import translate_error
from triptych.runs.record import COLUMNS, Record
from triptych.runs.resume import reopen_run
from triptych.runs.resume_request import resume_command
from triptych.tools.statistics.inference import wilson
from triptych.training import train

TINY = [
    *(
        "data=shapes",
        "data.num_train=32",
        "data.num_val=30",
        "data.num_test=35",
        "data.batch_size=8",
    ),
    *("trainer.max_epochs=2", "trainer.log_every_n_steps=3", "trainer.accelerator=cpu"),
    *("data.source.num_train=100", "data.source.num_test=40"),
]
TORCHVISION = [
    *("model=torchvision", "model.name=mobilenet_v3_small", "model.weights=null"),
    *("model.input_size=32", "data.augment=standard"),
]
TRUSTED = ",".join(TARGETS)
FIELDS = """
    schema status name model weights classes num_per_class notes data seed split_seed
    split_hash test_hash config_hash group_hash code
    num_params num_train num_val num_test num_epochs batch_size input_size device num_threads
    preprocessing precision versions git_commit command overrides started_at finished_at
    train_seconds images_per_second compile_seconds feature_seconds monitor best_epoch error metrics
    slurm_job_id world_size num_nodes seconds_total
""".split()


def composed(log_dir: Path, *overrides: str) -> Config:
    is_chosen = any(override.startswith(("model=", "~model")) for override in overrides)
    network = [] if is_chosen else choose("Tiny")
    return triptych.compose([*TINY, f"log_dir={log_dir}", *network, *overrides])


Run = Callable[..., Record]


@pytest.fixture
def run(tmp_path: Path, no_figures: None) -> Run:
    return lambda *overrides: train(composed(tmp_path, *overrides), list(overrides))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Record:
    return train(composed(tmp_path_factory.mktemp("logs"), *TORCHVISION), TORCHVISION)


def predictions(record: Record, split: str = "test") -> dict[str, np.ndarray]:
    return dict(np.load(record.folder / "predictions" / f"{split}.npz", allow_pickle=False))


def the_folder(log_dir: Path) -> Path:
    [path] = log_dir.rglob("run.json")
    return path.parent


def test_a_finished_run_has_every_file_and_field_of_the_design(finished: Record) -> None:
    metadata = json.loads((finished.folder / "run.json").read_text())
    assert sorted(metadata) == sorted(FIELDS)
    assert metadata["status"] == "finished"
    assert metadata["num_epochs"] == 2
    assert metadata["best_epoch"] in (1, 2)
    assert metadata["weights"] is None
    assert {f"test/{name}" for name in ("loss", "accuracy", "f1", "precision", "recall")} < set(
        metadata["metrics"]
    )
    files = {str(p.relative_to(finished.folder)) for p in finished.folder.rglob("*") if p.is_file()}
    expected = {"config.yaml", "run.json", "metrics.csv", "train.log"}
    expected |= {"checkpoints/best.ckpt", "checkpoints/last.ckpt"}
    expected |= {"predictions/test.npz", "predictions/val.npz"}
    expected |= {"figures/images.png", "figures/images_as_seen.png"}
    expected |= {"figures/val_confusion.png", "figures/test_confusion.png"}
    assert expected <= files
    assert not [name for name in files if Path(name).name.startswith(".")], "temporary files"
    assert finished.folder.parts[-4:-1] == ("shapes", "mobilenet_v3_small", "seed0")


def test_logged_test_metrics_are_those_of_the_saved_predictions(finished: Record) -> None:
    saved = predictions(finished)
    assert saved["logits"].dtype == np.float32
    assert saved["labels"].dtype == saved["index"].dtype == np.int64
    assert saved["logits"].shape == (35, 10), "every image once, the odd last batch included"
    assert (np.diff(saved["index"]) > 0).all()
    logged = finished.metadata["metrics"]
    guesses = saved["logits"].argmax(1)
    macro = f1_score(saved["labels"], guesses, labels=range(10), average="macro", zero_division=0)
    probabilities = torch.from_numpy(saved["logits"]).double().softmax(1).numpy()
    assert logged["test/accuracy"] == pytest.approx(accuracy_score(saved["labels"], guesses))
    assert logged["test/f1"] == pytest.approx(macro)
    assert logged["test/loss"] == pytest.approx(
        log_loss(saved["labels"], probabilities, labels=range(10)), rel=1e-5
    )


def test_the_best_weights_fit_the_plain_network_and_give_the_saved_logits(finished: Record) -> None:
    best = torch.load(finished.checkpoint_path("best"), weights_only=True)
    assert set(best) == {"state_dict", "config", "preprocessing", "classes"}
    network = get_model("mobilenet_v3_small", num_classes=10)
    network.load_state_dict(best["state_dict"])
    saved = predictions(finished)
    images = Shapes(100, 40, 0).read().test.images[torch.from_numpy(saved["index"])]
    pixels = images.float() / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        logits = network.eval()((pixels - mean[:, None, None]) / std[:, None, None])
    np.testing.assert_allclose(logits.numpy(), saved["logits"], rtol=1e-3, atol=1e-4)


def test_tensorboard_reads_the_curves_the_pictures_and_the_table_of_hyperparameters(
    finished: Record,
) -> None:
    events = EventAccumulator(str(finished.folder / "tensorboard"), size_guidance={"images": 0})
    events.Reload()
    tags = events.Tags()
    scalars = {"train/loss", "train/accuracy", "lr", "train/images_per_second", "val/accuracy"}
    assert scalars | {"val/f1"} <= set(tags["scalars"])
    pictures = {"train/images", "train/images_as_seen", "val/confusion", "test/confusion"}
    assert pictures <= set(tags["images"])
    assert {len(events.Scalars(name)) for name in tags["scalars"]} == {2, 4}, "no single dot"
    [chart] = events.Tensors("custom_scalars__config__")
    for name in scalars:
        assert f"^{name}$".encode() in chart.tensor_proto.string_val[0]
    steps = [event.step for event in events.Scalars("train/loss")]
    assert steps == sorted(set(steps)), "no curve runs backwards"
    texts = events.Tags()["tensors"]
    assert {"config/text_summary", "about/run/text_summary"} <= set(texts)
    plugins = events.summary_metadata
    assert "_hparams_/session_start_info" in plugins


@pytest.mark.parametrize(("num_classes", "num_saved"), [(8, 80), (20, 128), (30, 64)])
def test_the_most_confident_mistakes_are_saved_and_one_of_each_cell_of_few_classes(
    num_classes: int, num_saved: int
) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2000, num_classes, generator=generator)
    labels = torch.randint(num_classes, (2000,), generator=generator)
    chosen = choose_mistakes(logits, labels)
    losses, predicted = F.cross_entropy(logits, labels, reduction="none"), logits.argmax(1)
    wrong = (predicted != labels).nonzero().flatten()
    order = wrong[losses[wrong].argsort(descending=True)]
    assert chosen[:64].tolist() == order[:64].tolist()
    assert len(chosen) == num_saved
    cells = (labels * num_classes + predicted)[order].tolist()
    first = [n for n, cell in enumerate(cells) if cell not in cells[:n]]
    later = [n for n in first if n >= 64] if num_classes <= 20 else []
    assert chosen[64:].tolist() == order[later][: 128 - 64].tolist()


def test_metrics_csv_has_the_loss_at_the_interval_and_the_scores_of_every_epoch(
    finished: Record,
) -> None:
    with (finished.folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    losses = [(row["epoch"], row["step"]) for row in rows if row["train/loss"]]
    assert losses == [("1", "3"), ("1", "4"), ("2", "7"), ("2", "8")]
    assert [row["epoch"] for row in rows if row["val/accuracy"]] == ["1", "2"]
    assert len([row for row in rows if row["test/accuracy"]]) == 1


def test_the_log_shows_the_head_and_the_loss_of_the_epoch_so_far(finished: Record) -> None:
    log = (finished.folder / "train.log").read_text()
    assert "out_features=1000, bias=True)\n  -> Linear(in_features=1024, out_features=10" in log
    assert "epoch 1 batch 3 loss " in log


def test_a_run_ends_with_a_few_lines_its_accuracy_with_wilsons_interval(finished: Record) -> None:
    log = (finished.folder / "train.log").read_text()
    end = log[log.index("finished: ") :].splitlines()
    metrics = finished.metadata["metrics"]
    right = round(35 * metrics["test/accuracy"])
    low, high = wilson(right, 35)
    shares = [right / 35, low, high, metrics["test/f1"]]
    shown = [float(number) for number in re.findall(r"\d+\.\d\d\b", end[1])]
    assert shown == [round(100 * share, 2) for share in shares]
    assert end[2].split()[1:4] == [str(finished.metadata["best_epoch"]), "of", "2,"]
    assert str(finished.folder) in end[3]
    assert [line.split("=", 1)[1] for line in end[5:]] == [
        str(finished.folder),
        str(finished.folder.parents[2]),
    ]


def test_the_best_epoch_is_the_first_of_the_highest_validation_accuracy(finished: Record) -> None:
    with (finished.folder / "metrics.csv").open(newline="") as file:
        scores = [float(r["val/accuracy"]) for r in csv.DictReader(file) if r["val/accuracy"]]
    assert finished.metadata["best_epoch"] == scores.index(max(scores)) + 1
    assert finished.metadata["metrics"]["val/accuracy"] == pytest.approx(max(scores))
    saved = predictions(finished, "val")
    assert (saved["logits"].argmax(1) == saved["labels"]).mean() == pytest.approx(max(scores))


def test_the_same_config_and_seed_give_the_same_run_to_the_last_bit(run: Run) -> None:
    first, again, other = run("data.augment=standard"), run("data.augment=standard"), run("seed=1")
    assert again.metadata["config_hash"] == first.metadata["config_hash"]
    np.testing.assert_array_equal(predictions(again)["logits"], predictions(first)["logits"])
    assert (predictions(other)["logits"] != predictions(first)["logits"]).any()


def stopped(log_dir: Path, monkeypatch: pytest.MonkeyPatch, step: int, *overrides: str) -> Path:
    """The folder of a run that SIGTERM reached at the end of a batch."""
    end_batch = CheckpointCallback.on_train_batch_end

    def stop(self: CheckpointCallback, trainer: Any, *args: Any) -> None:
        if trainer.global_step == step:
            os.kill(os.getpid(), signal.SIGTERM)
        end_batch(self, trainer, *args)

    with monkeypatch.context() as patched:
        patched.setattr(CheckpointCallback, "on_train_batch_end", stop)
        with pytest.raises(SystemExit) as ended:
            train(composed(log_dir, *overrides), list(overrides))
    assert ended.value.code == 143
    return the_folder(log_dir)


@pytest.fixture
def interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_figures: None) -> Path:
    return stopped(tmp_path, monkeypatch, 3)


def resume(folder: Path, *overrides: str) -> Record:
    return train(
        composed(folder, f"resume={folder}", f"trusted_targets=[{TRUSTED}]", *overrides), []
    )


@pytest.mark.parametrize(
    ("step", "extra"), [(3, ["data.mix=mixup"]), (1, ["trainer.accumulate_grad_batches=2"])]
)
def test_a_run_stopped_by_a_signal_and_resumed_equals_one_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_figures: None, step: int, extra: list[str]
) -> None:
    whole = train(composed(tmp_path / "whole", *extra), extra)
    folder = stopped(tmp_path / "stopped", monkeypatch, step, *extra)
    assert Record.open(folder).metadata["status"] == "interrupted"
    resumed = resume(folder)
    assert resumed.folder == folder
    assert resumed.metadata["status"] == "finished"
    np.testing.assert_array_equal(predictions(resumed)["logits"], predictions(whole)["logits"])
    assert resumed.metadata["metrics"] == whole.metadata["metrics"]
    assert 0 < resumed.metadata["train_seconds"] < 60
    steps = [
        {row.split(",")[1] for row in (record.folder / "metrics.csv").read_text().splitlines()}
        for record in (whole, resumed)
    ]
    assert steps[0] <= steps[1]


def test_a_resumed_run_trusts_what_its_owner_names(interrupted: Path) -> None:
    change_record(interrupted, signature=None)
    with pytest.raises(UserError, match=rf"trusted_targets=\[{TRUSTED}\]"):
        train(triptych.compose([f"resume={interrupted}"]), [])
    assert resume(interrupted).metadata["status"] == "finished"


def test_a_finished_run_is_not_resumed_nor_one_with_another_setting(
    finished: Record, interrupted: Path
) -> None:
    with pytest.raises(UserError, match="finished"):
        resume(finished.folder)
    typed = [f"resume={interrupted}", "optim.lr=0.5"]
    with pytest.raises(UserError, match=r"optim\.lr=0\.5"):
        train(composed(interrupted, *typed), typed)


def test_out_of_memory_says_what_to_try_and_is_forgotten_when_the_run_is_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_figures: None
) -> None:
    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    with monkeypatch.context() as patched:
        patched.setattr("triptych.module.ImageClassifier.training_step", full)
        with pytest.raises(SystemExit) as ended:
            train(composed(tmp_path), [])
    assert ended.value.code == 1
    folder = the_folder(tmp_path)
    error = Record.open(folder).metadata["error"]
    assert "data.batch_size=4 trainer.accumulate_grad_batches=2" in error
    assert (folder / "traceback.txt").exists()
    resumed = resume(folder)
    assert (resumed.metadata["status"], resumed.metadata["error"]) == ("finished", None)
    assert not (folder / "traceback.txt").exists()
    assert len((folder / "metrics.csv").read_text().splitlines()) == 1 + 4 + 2 + 1


def test_without_validation_the_last_epoch_is_scored(run: Run) -> None:
    record = run("trainer.limit_val_batches=0")
    assert record.metadata["best_epoch"] == 2
    assert "val/accuracy" not in record.metadata["metrics"]


def test_the_last_epoch_carries_no_other_epochs_validation(run: Run) -> None:
    often = ["trainer.check_val_every_n_epoch=2", "trainer.max_epochs=3"]
    record = run("checkpoint.score=last", *often)
    assert record.metadata["best_epoch"] == 3
    assert "val/accuracy" not in record.metadata["metrics"]
    assert not (record.folder / "predictions" / "val.npz").exists()


def test_the_last_weights_are_scored_also_where_steps_follow_the_last_validation(run: Run) -> None:
    record = run("checkpoint.score=last", "trainer.val_check_interval=3", "trainer.max_epochs=1")
    last = torch.load(record.checkpoint_path("last"), weights_only=True)["state_dict"]
    best = torch.load(record.checkpoint_path("best"), weights_only=True)["state_dict"]
    assert all(torch.equal(last[f"backbone.network.{name}"], best[name]) for name in best)


def test_training_seconds_leave_validations_figures_and_checkpoints_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_figures: None
) -> None:
    monkeypatch.setattr(figures, "confusion_matrix", lambda *_: time.sleep(0.5))
    record = train(composed(tmp_path, "trainer.val_check_interval=2", "trainer.max_epochs=1"), [])
    assert 0 < record.metadata["train_seconds"] < 0.5


def test_the_record_counts_the_test_images_that_were_scored(run: Run) -> None:
    record = run("trainer.limit_test_batches=2", "trainer.max_epochs=1")
    assert record.metadata["num_test"] == len(predictions(record)["labels"]) == 16


def test_a_probe_changes_the_head_alone(run: Run) -> None:
    record = run("+model.freeze=backbone", "trainer.limit_train_batches=2")
    state = torch.load(record.checkpoint_path("last"), weights_only=True)
    trained = state["optimizer_states"][0]["state"]
    assert len(trained) == 2, "weight and bias of the head"
    early = {k: v for k, v in state["state_dict"].items() if "running_mean" in k}
    assert early
    assert all((value == 0).all() for value in early.values()), "BatchNorm's statistics moved"


def test_averaged_weights_are_what_is_scored_and_saved(run: Run) -> None:
    average = "{_target_: lightning.pytorch.callbacks.EMAWeightAveraging, decay: 0.5}"
    record = run(f"trainer.callbacks=[{average}]", "trainer.limit_train_batches=2")
    last = torch.load(record.checkpoint_path("last"), weights_only=True)
    best = torch.load(record.checkpoint_path("best"), weights_only=True)
    assert record.metadata["best_epoch"] in (1, 2)
    name = "5.weight"
    current = last["current_model_state"][f"backbone.network.{name}"]
    assert not torch.equal(best["state_dict"][name], current)
    if record.metadata["best_epoch"] == 2:
        torch.testing.assert_close(
            best["state_dict"][name], last["state_dict"][f"backbone.network.{name}"]
        )


def test_early_stopping_is_a_line_of_yaml(run: Run) -> None:
    stopper = "_target_: lightning.pytorch.callbacks.EarlyStopping, monitor: val/accuracy"
    callback = f"{{{stopper}, mode: max, patience: 1, min_delta: 2}}"
    record = run(f"trainer.callbacks=[{callback}]", "trainer.max_epochs=9")
    assert record.metadata["num_epochs"] == 2


def test_training_may_end_by_steps_in_the_middle_of_an_epoch(run: Run) -> None:
    record = run("trainer.max_steps=2", "optim.schedule=onecycle")
    assert record.metadata["status"] == "finished"
    assert record.metadata["num_test"] == len(predictions(record)["labels"]) == 35


def test_a_loss_that_is_not_finite_stops_the_run_and_says_where(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        train(composed(tmp_path, "optim=sgd", "optim.lr=1e30"), [])
    assert ended.value.code == 1
    metadata = Record.open(the_folder(tmp_path)).metadata
    assert metadata["status"] == "failed"
    assert "epoch 1 batch 2" in metadata["error"]
    assert "optim.lr=1e+30, learning rate" in metadata["error"]
    assert "try optim.lr=1e+29" in metadata["error"]
    assert (the_folder(tmp_path) / "traceback.txt").exists()
    assert "Traceback" not in capfd.readouterr().err


def test_a_full_disk_leaves_the_earlier_checkpoint_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_figures: None
) -> None:
    save, calls = torch.save, []

    def sometimes(content: Any, path: Any) -> None:
        calls.append(path)
        if len(calls) > 2:  # best and last of the first epoch were written
            Path(path).write_bytes(b"half")
            raise OSError(28, "No space left on device", str(path))
        save(content, path)

    monkeypatch.setattr(torch, "save", sometimes)
    with pytest.raises(SystemExit) as ended:
        train(composed(tmp_path), [])
    assert ended.value.code == 1
    record = Record.open(the_folder(tmp_path))
    assert record.metadata["status"] == "failed"
    assert "No space left on device" in record.metadata["error"]
    assert torch.load(record.checkpoint_path("last"), weights_only=True)["global_step"] == 4


def test_without_data_weights_and_network_one_message_offers_two_commands_that_work(
    tmp_path: Path,
) -> None:
    overrides = ["data=cifar10", "model=alexnet", "data.num_train=null", "model.input_size=227"]
    config = composed(tmp_path, *overrides, "model.weights=DEFAULT", "data.num_test=null")
    with pytest.raises(UserError) as refused:
        train(config, ["model=alexnet", "data=cifar10", "seed=3"])
    what, *commands = str(refused.value).splitlines()
    assert "cifar-10-batches-py" in what
    assert "alexnet-owt-7be5be79.pth" in what
    assert commands == [
        "python train.py model=alexnet data=cifar10 seed=3 model.weights=null",
        "python train.py model=alexnet seed=3 data=shapes model.weights=null",
    ]
    assert not list(tmp_path.rglob("run.json")), "a refused run leaves no folder"
    with pytest.raises(UserError) as refused:
        train(config, ["experiment=paper", "model=alexnet"])
    assert (
        str(refused.value)
        .splitlines()[-1]
        .endswith("train.py model=alexnet data=shapes model.weights=null")
    )
    [_, *commands] = describe_missing(["data_batch_1"], ["experiment=paper", "seed=3"]).splitlines()
    assert commands == ["python train.py seed=3 data=shapes"], "its weights are there"


@pytest.mark.parametrize(
    ("argument", "named"), [("precision=17", "precision"), ("val_check_interval=50", "val_check")]
)
def test_an_argument_that_the_trainer_refuses_is_named(
    tmp_path: Path, argument: str, named: str
) -> None:
    with pytest.raises(UserError, match=rf"trainer.*{named}"):
        train(composed(tmp_path, f"trainer.{argument}"), [])


@pytest.mark.parametrize("precision", ["64-true", "bf16-true"])
def test_a_run_takes_lightnings_other_precisions(precision: str, run: Run) -> None:
    record = run(f"trainer.precision={precision}", "trainer.max_epochs=1")
    assert record.metadata["precision"] == precision


def test_a_network_learns_drawings_from_scratch_and_not_too_well(run: Run) -> None:
    """The upper bound would catch test drawings among the training ones."""
    sizes = ["data.num_train=1024", "data.num_val=100", "data.num_test=500", "data.batch_size=64"]
    sizes += ["data.source.num_train=2000", "data.source.num_test=500"]
    learning = ["optim.schedule=onecycle", "optim.lr=0.005", "trainer.max_epochs=3"]
    record = run(*choose("Learner"), *sizes, *learning)
    assert 0.75 < record.metadata["metrics"]["test/accuracy"] < 0.98  # measured: 0.91 to 0.94


def test_real_images_go_through_a_run(real_cifar10: Path, run: Run) -> None:
    official = ["data.source.num_train=50000", "data.source.num_test=10000"]
    small = ["data.num_val=50", "trainer.max_epochs=1"]
    record = run("data=cifar10", f"data.root={real_cifar10}", *official, *small)
    assert record.metadata["data"] == "cifar10"
    assert record.metadata["num_test"] == 35
    assert len(predictions(record)["labels"]) == 35


def test_settings_that_an_optimizer_does_not_take_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"optim\.optimizer.*momentum.*Adam"):
        train(composed(tmp_path, "+optim.optimizer.momentum=0.9"), [])


@pytest.mark.parametrize("trainer", ["trainer.fast_dev_run=true", "trainer.logger=false"])
def test_a_run_finishes_with_less_of_lightning(trainer: str, run: Run) -> None:
    assert run(trainer, "trainer.max_epochs=1").metadata["status"] == "finished"


@pytest.mark.parametrize(("before", "after"), [(2, 2), (10**6, 1), ("2", 1), (0, 1)])
def test_a_resumed_run_takes_as_many_threads_as_it_had_where_there_are_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: object, after: int
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    record = Record.create(composed(tmp_path), [])
    record.update(num_threads=before)
    own = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        reopen_run(
            composed(tmp_path, f"resume={record.folder}", f"trusted_targets=[{TRUSTED}]"), []
        )
        assert torch.get_num_threads() == after
    finally:
        torch.set_num_threads(own)


def test_an_edited_config_is_not_resumed(interrupted: Path) -> None:
    config = interrupted / "config.yaml"
    config.write_text(config.read_text().replace("batch_size: 8", "batch_size: 16"))
    with pytest.raises(UserError, match=r"config\.yaml"):
        resume(interrupted)


def test_a_damaged_checkpoint_is_named_and_the_run_stays_interrupted(interrupted: Path) -> None:
    last = Record.open(interrupted).checkpoint_path("last")
    last.write_bytes(last.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"last\.ckpt: no checkpoint, or damaged"):
        resume(interrupted)
    assert Record.open(interrupted).metadata["status"] == "interrupted"


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("optim.optimizer.momentum=0", "Nesterov"),
        ("trainer.callbacks=[{_target_: lightning.pytorch.callbacks.EarlyStopping}]", "monitor"),
    ],
)
def test_what_torch_or_lightning_refuse_later_is_said_in_a_line(
    tmp_path: Path, override: str, says: str
) -> None:
    with pytest.raises(UserError, match=says) as refused:
        train(composed(tmp_path, "optim=sgd", override), [])
    assert len(str(refused.value).splitlines()) <= 3


def test_batch_norm_on_single_images_is_explained(run: Run) -> None:
    with pytest.raises(UserError, match=r"data\.batch_size: BatchNorm .* single image"):
        run(*TORCHVISION, "data.batch_size=1", "data.num_train=2")


def test_the_commands_that_resume_quote_what_hydra_would_not_read(
    tmp_path: Path, no_figures: None
) -> None:
    odd = tmp_path / "my runs (1), ü"
    record = train(composed(tmp_path, "trainer.max_epochs=1") | {"log_dir": str(odd)}, [])
    _, _, *overrides = shlex.split(resume_command(record))
    config = composed(tmp_path, *overrides)
    assert Path(config["resume"]) == record.folder


@pytest.mark.parametrize(("batches", "few"), [(1, 1), (65, 65), (66, None)])
def test_statistics_of_batchnorm_from_too_few_batches_are_counted(
    batches: int, few: int | None
) -> None:
    network = torch.nn.Sequential(torch.nn.BatchNorm1d(2), torch.nn.BatchNorm1d(2), torch.nn.ReLU())
    for _ in range(batches):
        network[0](torch.randn(4, 2))  # the other is not run
    assert count_batches(network) == few


def test_a_run_says_that_batchnorm_saw_too_few_batches(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "triptych")
    run("trainer.max_epochs=1")
    assert "from 4 batches alone" in caplog.text


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Please call `iter(combined_loader)` first.", UserError),
        ("DataLoader worker (pid 7) is killed by signal: Bus error.", RunFailed),
        ("unable to allocate shared memory(shm) for file </torch_7>", RunFailed),
    ],
)
def test_workers_that_cannot_share_memory_are_named_with_what_needs_none(
    trained_run: Path, text: str, kind: type[Exception]
) -> None:
    error = RuntimeError(text)
    error.__context__ = OSError(30, "Read-only file system")
    known = translate_error(error, Record.open(trained_run))
    assert type(known) is kind
    assert str(known).startswith("data.num_workers: ")
    assert "data.num_workers=0" in str(known)
    assert ("Read-only" in str(known)) == (kind is UserError)


def test_a_layer_without_a_deterministic_algorithm_is_named_with_what_goes_on_without(
    trained_run: Path,
) -> None:
    torch.use_deterministic_algorithms(True)
    try:
        with pytest.raises(RuntimeError) as raised:
            torch.zeros(2).put_(torch.tensor([0]), torch.ones(1))
    finally:
        torch.use_deterministic_algorithms(False)
    known = translate_error(raised.value, Record.open(trained_run))
    assert isinstance(known, UserError)
    assert str(known).startswith("trainer.deterministic=true: put_ ")
    assert "trainer.deterministic=warn" in str(known)
    assert len(str(known).splitlines()) <= 3
