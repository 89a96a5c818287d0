"""What research changes is chosen by a word or named by a `_target_`, and checked."""

import copy
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import Metric

from tests import tiny
from tests.composing import composed
from triptych import build, slots
from triptych.cli import check_arguments, prepare, restore
from triptych.cli.arguments import check_experiment
from triptych.cli.help import describe_unknown_choice
from triptych.config import Config, check_config
from triptych.errors import UserError
from triptych.library import load_run
from triptych.losses import BinaryCrossEntropy, FocalLoss
from triptych.models.backbone import Backbone
from triptych.module import ImageClassifier
from triptych.optim import Optim
from triptych.runs.checkpoint_files import AtomicCheckpointIO, load_checkpoint
from triptych.runs.record import config_hash
from triptych.runs.trust import check_untrusted_config, find_unknown_targets
from triptych.training import train

LIGHTNING, METRICS = "lightning.pytorch.callbacks", "torchmetrics.classification"
RATES = "torch.optim.lr_scheduler"
PARTIAL = {"_target_": f"{RATES}.StepLR", "step_size": 1}
V2, AUROC = "torchvision.transforms.v2", f"{METRICS}.MulticlassAUROC"


def choose(*typed: str) -> Config:
    return composed("train", "data=shapes", *map(prepare, typed))


@pytest.mark.parametrize(
    "typed",
    [
        *(["augment=none"], ["schedule=constant"], ["loss=cross_entropy"], ["logger=tensorboard"]),
        *(["module=classification"], ["data.augment=none", "optim.schedule=constant"]),
    ],
)
def test_the_words_of_the_defaults_change_nothing(typed: list[str]) -> None:
    assert choose(*typed) == choose()
    assert config_hash(choose(*typed)) == config_hash(choose())


@pytest.mark.parametrize(
    ("typed", "place", "expected"),
    [
        (["loss=focal", "loss.gamma=1"], "loss", "triptych.losses.FocalLoss gamma=1"),
        (["loss._target_=my.Loss", "loss.a=3"], "loss", "my.Loss a=3"),
        (["metrics.mine._target_=my.Score"], "metrics.mine", "my.Score"),
        (["module._target_=my.Module"], "module", "my.Module"),
        (["augment._target_=my.Blur", "augment.by=2"], "data.augment", "my.Blur by=2"),
        (["schedule._target_=my.Rate", "schedule.by=2"], "optim.schedule", "my.Rate by=2"),
        (["optim.schedule._target_=my.Rate"], "optim.schedule", "my.Rate"),  # as recorded
        (["data.augment._target_=my.Blur"], "data.augment", "my.Blur"),
        (["callbacks.mine._target_=my.Callback"], "trainer.callbacks.0", "my.Callback"),
        (["logger.mine._target_=my.Logger"], "trainer.logger.0", "my.Logger"),
    ],
)
def test_what_was_typed_is_where_the_config_has_it_and_is_recorded_as_a_change(
    typed: list[str], place: str, expected: str
) -> None:
    config = choose(*typed)
    node: Any = config
    for name in place.split("."):
        node = node[int(name)] if name.isdecimal() else node[name]
    target, *settings = expected.split()
    values = {"_target_": target} | {k: int(v) for k, v in (s.split("=") for s in settings)}
    assert node == values
    is_logger = place.startswith("trainer.logger")  # no result depends on it
    assert (config_hash(config) == config_hash(choose())) is is_logger
    assert {"callbacks", "logger"}.isdisjoint(config)


def test_several_callbacks_metrics_and_loggers_are_listed() -> None:
    config = choose("callbacks=[early_stopping,lr_monitor]", "metrics=[auroc]", "logger=[csv]")
    names = [node["_target_"] for node in config["trainer"]["callbacks"]]
    assert names == [f"{LIGHTNING}.EarlyStopping", f"{LIGHTNING}.LearningRateMonitor"]
    assert list(config["metrics"]) == ["auroc"]
    assert [n["_target_"] for n in config["trainer"]["logger"]] == [
        "lightning.pytorch.loggers.CSVLogger"
    ]
    assert choose("logger=none")["trainer"]["logger"] is None


@pytest.mark.parametrize("slot", ["metrics", "callbacks", "logger"])
def test_settings_of_what_was_not_chosen_are_refused_with_the_choice(slot: str) -> None:
    with pytest.raises(UserError, match=rf"^{slot}\.mine: .*{slot}=\[mine\]"):
        choose(f"{slot}.mine.x=1")


def test_a_word_that_an_experiment_sets_over_is_refused_and_one_that_it_chooses_is_not() -> None:
    with pytest.raises(UserError, match="override /schedule"):
        check_arguments("train", ["experiment=paper", "schedule=step"])
    assert choose("experiment=probe", "schedule=step")["optim"]["schedule"] == "step"
    check_arguments("train", ["experiment=finetune", "augment=none"])
    assert choose("experiment=finetune")["data"]["augment"] == "standard"
    assert choose("experiment=finetune", "augment=none")["data"]["augment"] == "none"


@pytest.mark.parametrize("typed", ["loss.gamma=1", "callbacks.mine._target_=a.B", "trainer.x=1"])
def test_what_is_typed_is_recorded_as_it_was_typed(typed: str) -> None:
    assert restore([prepare(typed)]) == [typed]


class Smooth(nn.Module):
    def __init__(self, label_smoothing: float) -> None:
        super().__init__()


# A class for each place that takes one, and an argument that it nearly has.
PARTS = {
    "data.augment": "torchvision.transforms.v2.RandomHorizontalFlip p",
    "optim.schedule": "torch.optim.lr_scheduler.StepLR step_size",
    "loss": "torch.nn.MultiMarginLoss margin",
    "metrics.mine": f"{METRICS}.MulticlassAUROC num_classes",
    "trainer.callbacks": f"{LIGHTNING}.ModelSummary max_depth",
    "trainer.logger": "lightning.pytorch.loggers.CSVLogger version",
    "module": "triptych.module.ImageClassifier backbone",
    "optim.optimizer": "torch.optim.SGD momentum",
    "model": "triptych.models.custom.CustomModel network",
    "data.source": "triptych.data.shapes.Shapes num_train",
}
WRONG = """
    nowhere.Thing torch.nn.MSELos os.system torch.hub.load nodots torch.nn.functional.relu
    collections.OrderedDict
""".split()


@cache
def default() -> Config:
    return choose(*tiny.choose("Tiny"))


def place(slot: str, node: Config) -> Config:
    """A training with this node in a slot, over what it has there."""
    config = copy.deepcopy(default())
    *path, last = slot.split(".")
    inner = config
    for name in path:
        inner = inner.setdefault(name, {})
    if slot in ("trainer.callbacks", "trainer.logger"):
        inner[last] = [node]
    else:
        inner[last] = inner[last] | node if slot in ("model", "data.source") else node
    return config


@pytest.mark.parametrize("slot", PARTS)
def test_what_is_no_such_part_is_refused_by_place_and_name_before_data_are_read(slot: str) -> None:
    def check(**node: Any) -> None:
        config = place(slot, node)
        check_config(config)
        build.check_parts(config)
        build.instantiate("data.source", config["data"]["source"])
        build.instantiate("model", config["model"])

    target, argument = PARTS[slot].split()
    for name in (*WRONG, 5):
        with pytest.raises(
            UserError, match=rf"^{slot.partition('.mine')[0]}\b.*({name}|no such argument)"
        ):
            check(_target_=name)
    with pytest.raises(UserError, match=rf"^{slot}.{argument}s: .*nearest: .*{argument}"):
        check(_target_=target, **{f"{argument}s": 1})


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["loss=focal", "loss.gama=1"], "nearest: gamma"),
        (["loss._target_=torch.nn.MSELos"], "torch.nn has no MSELos; nearest: MSELoss"),
        (["loss._target_=torch.nn.HingeEmbeddingLoss", "optim.label_smoothing=0.1"], "no label_sm"),
        (["loss._target_=torch.nn.HingeEmbeddingLoss", "optim.class_weights=balanced"], "no weigh"),
        (["metrics=[auroc]", "metrics.auroc.aver=1"], "aver"),
        (["loss=focal", "loss.gamma=much"], r"loss\.gamma=much"),
        (["loss._target_=torch.nn.AdaptiveLogSoftmaxWithLoss"], "^loss: .*in_features"),
        (["module._target_=tests.test_slots.Plain"], "^module: .*'loss'"),
        *([[f"metrics.{n}._target_={AUROC}"], rf"^metrics\.{n}: "] for n in ("accuracy", "items")),
    ],
)
def test_what_a_part_does_not_take_is_refused(typed: list[str], said: str) -> None:
    config = choose(*typed)
    with pytest.raises(UserError, match=said):
        build.build_module(config, nn.Linear(2, 3), 3, [1, 2, 3])  # type: ignore[arg-type]


class Plain(ImageClassifier):
    """One that takes no loss."""

    def __init__(self, backbone: Backbone, optim: Optim, num_classes: int) -> None:
        super().__init__(backbone, optim, num_classes)


@pytest.mark.parametrize(
    ("typed", "is_mixed", "is_taken"),
    [
        (["loss=focal"], True, True),
        (["loss._target_=torch.nn.MultiMarginLoss"], False, True),
        (["loss._target_=torch.nn.MultiMarginLoss"], True, False),
        (["loss._target_=torch.nn.NLLLoss", "loss.reduction=none"], False, False),
        (["loss._target_=torch.nn.MSELoss"], False, False),
        (["loss._target_=torch.nn.Identity"], False, False),
        (["loss._target_=tests.test_slots.Scaled"], False, True),
        (["loss._target_=tests.test_slots.Scaled", "loss.learns=false"], False, False),
    ],
)
def test_a_loss_that_nothing_learns_by_is_named_before_the_first_epoch(
    typed: list[str], is_mixed: bool, is_taken: bool
) -> None:
    module = build.build_module(choose(*typed), nn.Linear(2, 3), 3)  # type: ignore[arg-type]
    with nullcontext() if is_taken else pytest.raises(UserError, match=r"^loss: "):
        slots.try_parts(module, 3, torch.arange(300) % 3, is_mixed)


class Scaled(nn.Module):
    """A loss that has weights of its own, and counts its calls."""

    def __init__(self, num_classes: int, learns: bool = True) -> None:
        super().__init__()
        self.scales = nn.Parameter(torch.ones(num_classes))
        self.calls = nn.Buffer(torch.zeros(()))
        self.learns = learns

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        self.calls += 1
        loss = F.cross_entropy(logits * self.scales, labels)
        return loss if self.learns else loss.detach()


class Judged(ImageClassifier):
    """Logs more after a validation than its metrics."""

    @property
    def monitors(self) -> dict[str, str]:
        return super().monitors | {"val/epoch": "max"}

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        self.log("val/epoch", float(self.current_epoch))


@pytest.mark.usefixtures("no_figures")
def test_weights_of_a_loss_are_learned_and_no_part_of_the_network(tmp_path: Path) -> None:
    own = ["+loss._target_=tests.test_slots.Scaled", "+module._target_=tests.test_slots.Judged"]
    few = [f"log_dir={tmp_path}", "trainer.max_epochs=2", "checkpoint.monitor=val/epoch"]
    record = train(composed("train", *tiny.TINY, *own, *few), [])
    assert record.metadata["best_epoch"] == 2
    state = load_checkpoint(record.checkpoint_path("last"))["state_dict"]
    assert state["loss.calls"] == 10
    assert not torch.equal(state["loss.scales"], torch.ones(10))
    best = load_checkpoint(record.checkpoint_path("best"))["state_dict"]
    assert {f"backbone.network.{name}" for name in best} < state.keys()
    load_run(record.folder).network()


@pytest.mark.parametrize("state", [np.float64(0.5), Plain, lambda step: step])
def test_a_state_that_could_not_be_resumed_replaces_no_checkpoint(
    state: Any, tmp_path: Path
) -> None:
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"epoch": 1}, path)
    with pytest.raises(UserError, match="state"):
        AtomicCheckpointIO().save_checkpoint({"epoch": 2, "callbacks": {"mine": state}}, path)
    assert load_checkpoint(path) == {"epoch": 1}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("network", ["torch.nn.functional.relu", "collections.OrderedDict"])
def test_a_network_that_is_none_is_named(network: str) -> None:
    config = choose(*tiny.choose("Tiny"), f"model.network._target_={network}")
    factory = build.instantiate("model", config["model"])
    with pytest.raises(UserError, match=r"^model\.network"):
        factory.build(3, load=True, classes=None, recorded=None)


class Own(Metric):
    """One of a user's, without torchmetrics' own arguments."""

    higher_is_better = True

    def __init__(self, gives: float | str = float("nan")) -> None:
        super().__init__()
        self.gives = gives

    def update(self, shares: Tensor, labels: Tensor) -> None:
        assert len(shares) == len(labels)

    def compute(self) -> Any:
        return self.gives if isinstance(self.gives, str) else torch.tensor(self.gives)


@pytest.mark.parametrize(
    ("node", "is_taken"),
    [
        ({"_target_": f"{METRICS}.MulticlassCohenKappa"}, True),
        ({"_target_": f"{METRICS}.MulticlassConfusionMatrix"}, False),
        ({"_target_": f"{METRICS}.MulticlassF1Score", "average": None}, False),
        ({"_target_": f"{METRICS}.BinaryAUROC"}, False),
        ({"_target_": "torchmetrics.PearsonCorrCoef"}, False),
        ({"_target_": "torchmetrics.text.WordErrorRate"}, False),
        ({"_target_": "tests.test_slots.Own", "gives": 0.5}, True),
        ({"_target_": "tests.test_slots.Own", "gives": float("nan")}, True),
        ({"_target_": "tests.test_slots.Own", "gives": "much"}, False),
    ],
)
def test_a_metric_that_gives_no_number_is_named_before_the_first_epoch(
    node: Config, is_taken: bool
) -> None:
    config = place("metrics.mine", node)
    module = build.build_module(config, nn.Linear(2, 3), 3)  # type: ignore[arg-type]
    refused = nullcontext() if is_taken else pytest.raises(UserError, match=r"^metrics\.mine: ")
    with refused:
        slots.try_parts(module, 3, torch.arange(300) % 3, is_mixed=False)


@pytest.mark.usefixtures("no_figures")
def test_a_metric_without_a_value_is_null_and_ends_no_run(tmp_path: Path) -> None:
    own = ["+metrics.mine._target_=tests.test_slots.Own"]
    few = [f"log_dir={tmp_path}", "trainer.max_epochs=1"]
    record = train(composed("train", *tiny.TINY, *own, *few), [])
    assert record.metadata["status"] == "finished"
    assert record.metadata["metrics"]["test/mine"] is None


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_a_focal_loss_without_focus_is_cross_entropy(smoothing: float) -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(9, 4), torch.randint(4, (9,))
    weight = torch.tensor([1.0, 2.0, 0.5, 3.0])
    expected = F.cross_entropy(logits, labels, label_smoothing=smoothing)
    mine = FocalLoss(gamma=0, label_smoothing=smoothing)
    torch.testing.assert_close(mine(logits, labels), expected)
    shares = F.one_hot(labels, 4).float()
    torch.testing.assert_close(mine(logits, shares), expected)
    weighted = FocalLoss(gamma=0, weight=weight)(logits, labels)
    torch.testing.assert_close(weighted, F.cross_entropy(logits, labels, weight))


def test_a_focal_loss_counts_an_image_by_how_unsure_the_network_is() -> None:
    logits = torch.tensor([[4.0, 0.0], [0.5, 0.0]])
    labels = torch.tensor([0, 0])
    shares = logits.softmax(1)[:, 0]
    expected = (-((1 - shares) ** 2) * shares.log()).mean()
    torch.testing.assert_close(FocalLoss(2)(logits, labels), expected)


def test_one_against_all_is_the_mean_over_classes() -> None:
    logits, labels = torch.randn(5, 3), torch.tensor([0, 1, 2, 1, 0])
    target = F.one_hot(labels, 3).float()
    shares = logits.sigmoid()
    expected = -(target * shares.log() + (1 - target) * (1 - shares).log()).mean()
    torch.testing.assert_close(BinaryCrossEntropy()(logits, labels), expected)


@pytest.mark.parametrize(
    ("schedule", "shares"),
    [
        ("step", [1.0, 1.0, 0.1, 0.01, 0.01]),
        ("polynomial", [1.0, 0.75**0.9, 0.5**0.9, 0.25**0.9, 0.0]),
    ],
)
def test_schedules_fall_as_published(schedule: str, shares: list[float]) -> None:
    optim = Optim(optimizer=lambda groups: None, lr=1.0, schedule=schedule)  # type: ignore[arg-type, return-value]
    assert [optim.factor(step, 0, 8) for step in (0, 2, 4, 6, 8)] == pytest.approx(shares)


def unknown(slot: str, **node: Any) -> set[str]:
    return find_unknown_targets(place(slot, node)) - {*tiny.TARGETS}


@pytest.mark.parametrize(
    ("slot", "node"),
    [
        ("loss", "torch.nn.MultiMarginLoss"),
        ("loss", "torch.nn.modules.loss.MultiMarginLoss"),
        ("loss", "timm.loss.AsymmetricLossSingleLabel"),
        ("metrics.kappa", f"{METRICS}.MulticlassCohenKappa"),
        ("metrics.mean", "torchmetrics.MeanMetric"),
        (
            "metrics.a",
            {"_target_": "torchmetrics.MinMaxMetric", "base_metric": {"_target_": AUROC}},
        ),
        ("optim.schedule", "torch.optim.lr_scheduler.ExponentialLR"),
        ("optim.schedule", {"_target_": "torch.optim.swa_utils.SWALR", "swa_lr": 0.1}),
        ("optim.schedule", {"_target_": f"{RATES}.ChainedScheduler", "schedulers": [PARTIAL]}),
        ("optim.optimizer", "torch.optim.NAdam"),
        ("optim.optimizer", "timm.optim.Lion"),
        ("data.augment", {"_target_": f"{V2}.Compose", "transforms": [{"_target_": f"{V2}.JPEG"}]}),
        ("trainer.callbacks", {"_target_": f"{LIGHTNING}.Timer", "duration": "00:12:00:00"}),
        ("trainer.callbacks", {"_target_": f"{LIGHTNING}.Timer", "duration": {"hours": 1}}),
        ("trainer.callbacks", {"_target_": f"{LIGHTNING}.ModelCheckpoint", "monitor": "val/f1"}),
        ("trainer.logger", {"_target_": "lightning.pytorch.loggers.CSVLogger", "name": "csv"}),
    ],
)
def test_a_public_class_in_its_place_needs_no_trust(slot: str, node: Any) -> None:
    node = node if isinstance(node, dict) else {"_target_": node}
    if node["_target_"].startswith("timm"):
        pytest.importorskip("timm")
    assert unknown(slot, **node) == set()


EVIL = {"_target_": "os.system", "_partial_": True}


@pytest.mark.parametrize(
    ("slot", "node"),
    [
        ("loss", {"_target_": "os.system"}),
        ("loss", {"_target_": "torch.hub.load"}),
        ("loss", {"_target_": "torch.load"}),
        ("loss", {"_target_": "torch.nn.functional.cross_entropy"}),
        ("loss", {"_target_": "nowhere.Loss"}),
        ("loss", {"_target_": "torch.nn._reduction.Loss"}),
        ("loss", {"_target_": "torch.nn.Module", "_args_": [1]}),
        ("loss", {"_target_": "torch.nn.MSELoss", "_partial_": True}),
        ("loss", {"_target_": "torch.optim.Adam"}),
        ("loss", {"_target_": "torchvision.models.ResNet"}),
        ("loss", {"_target_": "torch.nn.os.system"}),
        ("metrics.a", {"_target_": "torch.nn.MSELoss"}),
        ("metrics.a", {"_target_": "torchmetrics.text.BERTScore"}),
        ("metrics.a", {"_target_": "torchmetrics.image.FrechetInceptionDistance"}),
        ("metrics.a.b", {"_target_": "torch.nn.MSELoss"}),
        ("optim.schedule", {"_target_": "torch.nn.MSELoss"}),
        ("data.augment", {"_target_": "torchvision.datasets.CIFAR10"}),
        ("trainer.callbacks", {"_target_": f"{LIGHTNING}.ModelCheckpoint", "dirpath": "x"}),
        ("trainer.callbacks", {"_target_": f"{LIGHTNING}.Timer", "duration": "/etc/passwd"}),
        ("trainer.callbacks", {"_target_": f"{LIGHTNING}.Timer", "interval": [{"a": "../up"}]}),
        ("trainer.callbacks", {"_target_": f"{LIGHTNING}.RichProgressBar", "k": {"file": "x"}}),
        ("trainer.logger", {"_target_": "lightning.pytorch.loggers.CSVLogger", "save_dir": "x"}),
        ("trainer.logger", {"_target_": "lightning.pytorch.loggers.CSVLogger", "version": ".."}),
        ("trainer.logger", {"_target_": "lightning.pytorch.loggers.CometLogger", "online": True}),
        ("trainer.logger", {"_target_": "lightning.pytorch.loggers.MLFlowLogger", "uri": "h://a"}),
        ("trainer.logger", {"_target_": "lightning.pytorch.loggers.TensorBoardLogger", "dir": "x"}),
        ("model", {"_target_": "torch.hub.load"}),
        ("model.network", {"_target_": "torchvision.models.resnet18", "_partial_": True}),
        ("module", {"_target_": "lightning.pytorch.LightningModule"}),
        ("trainer.plugins", {"_target_": "torch.nn.MSELoss"}),
    ],
)
def test_anything_else_in_a_folder_is_refused(slot: str, node: dict[str, Any]) -> None:
    assert unknown(slot, **node) == {node["_target_"]}
    with pytest.raises(UserError, match=r"add 'trusted_targets=\["):
        check_untrusted_config(place(slot, node), tiny.TARGETS)


@pytest.mark.parametrize("slot", ["loss", "data.augment", "trainer.callbacks", "metrics.a"])
def test_what_is_hidden_in_an_argument_of_a_public_class_is_refused(slot: str) -> None:
    target = {
        "loss": "torch.nn.TripletMarginWithDistanceLoss",
        "data.augment": f"{V2}.Lambda",
        "trainer.callbacks": f"{LIGHTNING}.LambdaCallback",
        "metrics.a": "torchmetrics.wrappers.BootStrapper",
    }[slot]
    assert unknown(slot, _target_=target, inner=[EVIL]) == {"os.system"}


@pytest.mark.parametrize(("slot", "place"), [("loss", "loss"), ("metrics", "metrics.<name>")])
def test_a_class_where_a_word_stands_is_answered_with_how_to_name_it(slot: str, place: str) -> None:
    last = describe_unknown_choice(slot, "mine.Poly", ["a", "b"]).splitlines()[-1]
    assert last.endswith(f"{place}._target_=mine.Poly")


def test_settings_that_an_experiment_has_for_a_choice_do_not_keep_another_from_being_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "study.yaml").write_text(
        "loss: {gamma: 1}\ncallbacks: {early_stopping: {patience: 3}}\nmodule: {_target_: a.B}\n"
    )
    monkeypatch.setattr("triptych.cli.arguments.CONFIGS", tmp_path)
    check_experiment(["experiment=study", "loss=focal", "callbacks=[early_stopping,ema]"])
    with pytest.raises(UserError, match="override /module"):
        check_experiment(["experiment=study", "module=multilabel"])
