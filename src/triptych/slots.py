"""What research changes, by a word or by a class of one's own (`config.SLOTS`): checked, and made.

A default run needs nothing of it. B images of a batch, C classes.
"""

import copy
import inspect
import math
import re
import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from hydra.utils import get_object
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import Metric

from triptych.config import MONITORS, Config, find_node, find_nodes
from triptych.data.augment import prepare_augment
from triptych.data.mixing import mix_labels
from triptych.data.transforms import Augment
from triptych.errors import CODE_ERRORS, UserError, closest_matches, summarize_error
from triptych.losses import balanced_weights
from triptych.module import ImageClassifier

KINDS: dict[str, Any] = {  # of what the node of a setting has to name a subclass
    "data.augment": Callable,
    "optim.schedule": LRScheduler,
    "optim.optimizer": Optimizer,
    "loss": nn.Module,
    "metrics": Metric,
    "module": ImageClassifier,
    "trainer.callbacks": Callback,
    "trainer.logger": Logger,
}
OF_SCHEDULE = ("interval", "monitor")  # what its node says besides the scheduler's arguments
Instantiate = Callable[..., Any]  # `build.instantiate`


def check_parts(config: Config) -> None:
    """`check_nodes` of everything that research changes."""
    for key in KINDS:
        inner, name = find_node(config, key)
        part = inner.get(name)
        if key == "optim.schedule" and isinstance(part, dict):
            part = {name: value for name, value in part.items() if name not in OF_SCHEDULE}
        check_nodes(key, part)


def check_nodes(key: str, value: Any) -> None:
    """`find_class` of every node in a setting, and below it."""
    for place, node in find_nodes(value, key):
        if "_target_" in node:
            find_class(place, node)


def find_class(key: str, node: dict[str, Any]) -> Any:
    """What a node names, not called.

    Raises UserError where it cannot be imported, has no such argument, or is no class of `KINDS`
    for the setting.
    """
    target = str(node["_target_"])
    try:
        made = get_object(target)
    except Exception as error:  # its module's own code runs
        reason, (place, _, name) = summarize_error(error.__cause__ or error), target.rpartition(".")
        if (module := sys.modules.get(place)) and not hasattr(module, name):
            nearest = closest_matches(name, vars(module), cutoff=0.6)
            reason = f"{place} has no {name}" + (f"; nearest: {nearest}" if nearest else "")
        if reason == f"No module named '{target.partition('.')[0]}'":
            reason += "; it is looked for in this folder, beside train.py, and on PYTHONPATH"
        raise UserError(f"{key}._target_={target}: cannot be imported ({reason})") from error
    kind = KINDS.get("metrics" if re.fullmatch(r"metrics\.[^.]+", key) else key)
    if kind and not (isinstance(made, type) and issubclass(made, kind)):
        raise UserError(f"{key}._target_={target}: must be a class, a {kind.__name__}")
    check_arguments(key, made, node)
    return made


def check_arguments(key: str, made: Any, node: dict[str, Any]) -> None:
    """Raise UserError at a setting of a node that is no argument of what it names."""
    try:
        known = inspect.signature(made).parameters
    except (TypeError, ValueError):  # written in C
        return
    for name, setting in node.items():
        kind = getattr(known.get(name), "annotation", None)
        if kind in (int, float, "int", "float") and isinstance(setting, str):
            raise UserError(f"{key}.{name}={setting}: must be a number")
    takes_any = any(p.kind is p.VAR_KEYWORD for p in known.values())
    for name in node.keys() - known.keys():
        nearest = closest_matches(name, known, cutoff=0.9 if takes_any else 0)
        if not name.startswith("_") and (nearest or not takes_any):
            raise UserError(
                f"{key}.{name}: {made.__name__} has no such argument; nearest: {nearest}"
            )


def fill_arguments(made: type, node: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Those of `more` that a class takes and its node does not give."""
    known = inspect.signature(made).parameters
    return {name: value for name, value in more.items() if name in known and name not in node}


def build_augment(node: dict[str, Any], images: Tensor, instantiate: Instantiate) -> Augment:
    """Raises UserError where it cannot augment stored images as these, uint8 (B, 3, H, W)."""
    check_nodes("data.augment", node)
    return prepare_augment(instantiate("data.augment", node), images)


def build_schedule(node: dict[str, Any], instantiate: Instantiate) -> dict[str, Any]:
    """`schedule`, `interval` and `monitor` of `optim.Optim`: makes a scheduler, and when it steps,
    ReduceLROnPlateau by what."""
    settings = {name: value for name, value in node.items() if name not in OF_SCHEDULE}
    if mode := MONITORS.get(monitor := node.get("monitor", "")):
        settings = {"mode": mode} | settings
    make = build_scheduler(settings, instantiate)
    return {
        "schedule": make,
        "interval": node.get("interval", "epoch"),
        "monitor": monitor or None,
    }


def build_scheduler(node: dict[str, Any], instantiate: Instantiate) -> Callable[[Optimizer], Any]:
    """Makes a scheduler of an optimizer; the `schedulers` that one consists of are nodes, too."""
    key, settings = "optim.schedule", dict(node)
    made = find_class(key, settings)
    parts = [build_scheduler(part, instantiate) for part in settings.pop("schedulers", ())]
    try:
        arguments = {name: value for name, value in settings.items() if name != "_target_"}
        more = {"schedulers": parts} if parts else {}
        inspect.signature(made).bind(optimizer=None, **arguments, **more)
    except TypeError as error:
        raise UserError(f"{key}: {node['_target_']} has {error}") from error
    make = instantiate(key, settings, _partial_=True)

    def schedule(optimizer: Optimizer) -> Any:
        more = {"schedulers": [part(optimizer) for part in parts]} if parts else {}
        return make(optimizer=optimizer, **more)

    return schedule


def make(key: str, node: dict[str, Any], instantiate: Instantiate, **given: Any) -> Any:
    """What a node makes of its settings and of what is `given` besides, which is not copied.

    Raises UserError where it refuses them, or needs more.
    """
    try:
        return instantiate(key, node, _partial_=True)(**given)
    except CODE_ERRORS as error:
        reason = summarize_error(error)
        raise UserError(f"{key}: {node['_target_']} refuses its settings ({reason})") from error


def build_loss(
    config: Config, num_classes: int, num_per_class: list[int] | None, instantiate: Instantiate
) -> nn.Module:
    """The training loss, with the class weights and smoothing of `optim` where it takes them."""
    optim = config["optim"]
    node = config.get("loss") or {"_target_": find_task(config).default_loss}
    made = find_class("loss", node)
    asked: dict[str, Any] = {}
    if optim["label_smoothing"]:
        asked["label_smoothing"] = optim["label_smoothing"]
    if num_per_class and optim["class_weights"] == "balanced":
        asked["weight"] = balanced_weights(num_per_class)
    given = fill_arguments(made, node, num_classes=num_classes, **asked)
    for name in asked.keys() - given.keys():
        setting = {"weight": "class_weights"}.get(name, name)
        reason = f"{node['_target_']} has no {name}"
        reason = f"loss.{name} is given, too; leave out one" if name in node else reason
        raise UserError(f"optim.{setting}={optim[setting]}: {reason}")
    loss: nn.Module = make("loss", node, instantiate, **given)
    if "weight" in given:  # no part of a checkpoint: the data say it again
        loss.register_buffer("weight", given["weight"], persistent=False)
    return loss


def build_metrics(config: Config, num_classes: int, instantiate: Instantiate) -> dict[str, Metric]:
    """torchmetrics beside the five, by name; each is given the number of classes if it asks."""
    metrics = {}
    taken = {*(name.removeprefix("val/") for name in MONITORS), *find_task(config).summary}
    for name, node in (config.get("metrics") or {}).items():
        key = f"metrics.{name}"
        if hasattr(nn.ModuleDict, name) or name in taken:
            raise UserError(f"{key}: the name is taken; choose another, as metrics.my_{name}")
        given = {"num_classes": num_classes, "num_labels": num_classes}
        more = fill_arguments(find_class(key, node), node, **given)
        metrics[name] = make(key, node, instantiate, **more)
        metrics[name].sync_on_compute = False  # every rank has the whole split
    return metrics


def try_parts(module: ImageClassifier, num_classes: int, labels: Tensor, is_mixed: bool) -> None:
    """Raise UserError where loss or metrics do not take what they will be given, or give no number:
    before the first epoch, by some of the labels."""
    few = labels[:: math.ceil(len(labels) / 100)]
    with warnings.catch_warnings():  # of classes that are not among them
        warnings.filterwarnings("ignore", category=UserWarning)
        if module.more_metrics:
            module.score(torch.zeros(len(few), num_classes), few)
        if type(module).training_step.__module__.startswith("triptych."):
            labels = few if few.ndim == 1 else few.float()
            labels = mix_labels(labels, 0.5, num_classes) if is_mixed else labels
            try_loss(module.loss, labels, num_classes)


def try_loss(loss: nn.Module, labels: Tensor, num_classes: int) -> None:
    """Raise UserError where a loss gives no number of logits and labels, or none to learn by."""
    logits = torch.linspace(-2, 2, len(labels) * num_classes).view(-1, num_classes)
    what = f"loss: {type(loss).__name__}"
    try:
        with torch.random.fork_rng(devices=[]):
            value = copy.deepcopy(loss)(logits.requires_grad_(), labels)
    except CODE_ERRORS as error:
        given = f"logits {(*logits.shape,)} and labels {(*labels.shape,)}"
        raise UserError(f"{what} cannot take {given} ({summarize_error(error)})") from error
    if not isinstance(value, Tensor) or value.ndim:
        shape = f"a tensor {(*value.shape,)}" if isinstance(value, Tensor) else type(value).__name__
        raise UserError(f"{what} gives {shape}; must be one number, a tensor of no dimension")
    if not value.requires_grad:
        raise UserError(f"{what} gives a number without a gradient; nothing would be learned")


def find_mode(monitor: str, modes: Mapping[str, str]) -> str:
    """What is best of a metric, its `max` or `min`; raises UserError where nobody says so, or where
    it is not logged."""
    if monitor not in modes:
        raise UserError(f"checkpoint.monitor={monitor}: must be one of {', '.join(modes)}")
    if not modes[monitor]:
        raise UserError(
            f"checkpoint.monitor={monitor}: its class does not say whether higher is better; "
            "take a subclass that sets higher_is_better"
        )
    return modes[monitor]


def find_task(config: Config) -> type[ImageClassifier]:
    """The class of a run's module."""
    node = config.get("module")
    made: type[ImageClassifier] = find_class("module", node) if node else ImageClassifier
    return made


def build_module(
    config: Config,
    parts: dict[str, Any],
    num_per_class: list[int] | None,
    instantiate: Instantiate,
) -> ImageClassifier:
    """The LightningModule, or the subclass that `module` names, of its parts and what config adds.

    `parts` are arguments of `ImageClassifier`.
    """
    node = config.get("module") or {"_target_": "triptych.module.ImageClassifier"}
    module: ImageClassifier = make(
        "module",
        node,
        instantiate,
        **parts,
        loss=build_loss(config, parts["num_classes"], num_per_class, instantiate),
        metrics=build_metrics(config, parts["num_classes"], instantiate),
    )
    return module
