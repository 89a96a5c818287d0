"""What research changes, by a word or by a class of one's own (`config.SLOTS`): checked, and made.

A default run needs nothing of it. B images of a batch, C classes.
"""

import inspect
from collections.abc import Callable
from typing import Any

from hydra.utils import get_object
from torch import nn
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import Metric

from triptych.config import Config
from triptych.errors import UserError, closest_matches, summarize_error
from triptych.losses import balanced_weights
from triptych.module import ImageClassifier

KINDS = {  # what the class of a node has to be; an augmentation is anything that can be called
    "data.augment": object,
    "optim.schedule": LRScheduler,
    "loss": nn.Module,
    "metrics": Metric,
    "module": ImageClassifier,
}
Instantiate = Callable[..., Any]  # `build.instantiate`


def find_class(key: str, node: dict[str, Any]) -> Any:
    """The class that a node names.

    Raises UserError where it is not what the setting takes, or has no such argument.
    """
    target, kind = node["_target_"], KINDS[key if key in KINDS else key.partition(".")[0]]
    try:
        made = get_object(target)
    except Exception as error:  # its module's own code runs
        reason = f"cannot be imported ({summarize_error(error)})"
        raise UserError(f"{key}._target_={target}: {reason}") from error
    if not (isinstance(made, type) and issubclass(made, kind)):
        raise UserError(f"{key}._target_={target}: must be a class, a {kind.__name__}")
    known = inspect.signature(made).parameters
    if any(p.kind is p.VAR_KEYWORD for p in known.values()):
        return made
    for name in node:
        if not name.startswith("_") and name not in known:
            nearest = closest_matches(name, known)
            raise UserError(
                f"{key}.{name}: {made.__name__} has no such argument; nearest: {nearest}"
            )
    return made


def fill_arguments(made: type, node: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Those of `more` that a class takes and its node does not give."""
    known = inspect.signature(made).parameters
    return {name: value for name, value in more.items() if name in known and name not in node}


def build_augment(node: dict[str, Any], instantiate: Instantiate) -> Any:
    find_class("data.augment", node)
    return instantiate("data.augment", node)


def build_schedule(node: dict[str, Any], instantiate: Instantiate) -> dict[str, Any]:
    """`schedule` and `interval` of `optim.Optim`: makes a scheduler, and when that steps."""
    settings = {name: value for name, value in node.items() if name != "interval"}
    find_class("optim.schedule", settings)
    made = instantiate("optim.schedule", settings, _partial_=True)
    return {"schedule": made, "interval": node.get("interval", "epoch")}


def build_loss(
    config: Config, num_per_class: list[int] | None, instantiate: Instantiate
) -> nn.Module:
    """The training loss, with the class weights and smoothing of `optim` where it takes them."""
    optim, node = config["optim"], config.get("loss") or {"_target_": "torch.nn.CrossEntropyLoss"}
    made = find_class("loss", node)
    asked: dict[str, Any] = {}
    if optim["label_smoothing"]:
        asked["label_smoothing"] = optim["label_smoothing"]
    if num_per_class and optim["class_weights"] == "balanced":
        asked["weight"] = balanced_weights(num_per_class)
    given = fill_arguments(made, node, **asked)
    for name in asked.keys() - given.keys():
        setting = {"weight": "class_weights"}.get(name, name)
        raise UserError(f"optim.{setting}={optim[setting]}: {node['_target_']} has no {name}")
    loss: nn.Module = instantiate("loss", node, _partial_=True)(**given)
    if "weight" in given:  # no part of a checkpoint: the data say it again
        loss.register_buffer("weight", given["weight"], persistent=False)
    return loss


def build_metrics(config: Config, num_classes: int, instantiate: Instantiate) -> dict[str, Metric]:
    """torchmetrics beside the five, by name; each is given the number of classes if it asks."""
    metrics = {}
    for name, node in (config.get("metrics") or {}).items():
        key = f"metrics.{name}"
        more = fill_arguments(find_class(key, node), node, num_classes=num_classes)
        metrics[name] = instantiate(key, node, sync_on_compute=False, **more)
    return metrics


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
    find_class("module", node)
    make = instantiate("module", node, _partial_=True)  # its arguments must not be copied
    module: ImageClassifier = make(
        **parts,
        loss=build_loss(config, num_per_class, instantiate),
        metrics=build_metrics(config, parts["num_classes"], instantiate),
    )
    return module
