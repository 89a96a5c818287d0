"""Callbacks, plugins and profilers that a config names: what they write, what they watch."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.fabric.plugins import ClusterEnvironment
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins import CheckpointIO, LayerSync
from lightning.pytorch.plugins.precision import Precision

from triptych.callbacks.loggers import list_arguments
from triptych.callbacks.trainer_rules import REFUSED_CALLBACKS
from triptych.errors import UserError, closest_matches

log = logging.getLogger(__name__)
PLUGINS = (Precision, CheckpointIO, ClusterEnvironment, LayerSync)
PROFILERS = {
    "simple": "lightning.pytorch.profilers.SimpleProfiler",
    "advanced": "lightning.pytorch.profilers.AdvancedProfiler",
    "pytorch": "lightning.pytorch.profilers.PyTorchProfiler",
}


def build_parts(
    callbacks: list[Any],
    plugins: list[Any],
    options: dict[str, Any],
    folder: Path,
    instantiate: Callable[[str, dict[str, Any]], Any],
    monitors: Mapping[str, str],
) -> tuple[list[Callback], list[Any]]:
    """What nodes of callbacks and plugins make; nodes of the Trainer's `options` in place.

    `monitors`: what is logged after a validation, and what is best of it.
    """
    if not isinstance(options.get("profiler"), pl.profilers.Profiler | None):  # made from a word
        node = profiler_node(options["profiler"], folder)
        options["profiler"] = instantiate("trainer.profiler", node)
        check_type("trainer.profiler", options["profiler"], pl.profilers.Profiler)
    if isinstance(options.get("strategy"), dict):
        options["strategy"] = instantiate("trainer.strategy", options["strategy"])
        check_type("trainer.strategy", options["strategy"], pl.strategies.Strategy)
    key, place = "trainer.callbacks", "model_checkpoints"
    callbacks = [place_in_folder(key, node, folder, place) for node in callbacks]
    callbacks = [fill_mode(node, monitors) for node in callbacks]
    callbacks = [instantiate(key, node) for node in callbacks]
    plugins = [instantiate("trainer.plugins", node) for node in plugins]
    check_parts(callbacks, plugins)
    return callbacks, plugins


def fill_mode(node: dict[str, Any], monitors: Mapping[str, str]) -> dict[str, Any]:
    """The node with the `mode` of what it monitors, where it takes one and has none: `min` is the
    default of Lightning's callbacks, and would look for the worst accuracy."""
    mode = monitors.get(node.get("monitor", ""))
    takes_mode = mode and "mode" in list_arguments(node["_target_"])
    return {"mode": mode} | node if takes_mode else node


def place_in_folder(key: str, node: dict[str, Any], folder: Path, default: str) -> dict[str, Any]:
    """The node with its `dirpath`, where it takes one, in the run's folder.

    Raises UserError where that leads out of it, or to the run's own checkpoints.
    """
    if "dirpath" not in list_arguments(node["_target_"]):
        return node
    given = node.get("dirpath") or default
    place = (folder / given).resolve()
    own = (folder / "checkpoints").resolve()
    if not place.is_relative_to(folder.resolve()) or place.is_relative_to(own):
        raise UserError(
            f"{key}: dirpath={given} is not in the run's folder, or of the run's own files\n"
            f"leave it out, and it is {default} there"
        )
    return node | {"dirpath": str(folder / given)}


def profiler_node(profiler: str | dict[str, Any], folder: Path) -> dict[str, Any]:
    """The node of a profiler. A short report goes to the log, a long one into a file."""
    if isinstance(profiler, str):
        node = {"_target_": PROFILERS[profiler]}
        if profiler != "simple":
            node["filename"] = "profile"
            log.info("profiler: the report will be %s", folder / "fit-profile.txt")
        profiler = node
    return place_in_folder("trainer.profiler", profiler, folder, ".")


def check_parts(callbacks: Sequence[Callback], plugins: Sequence[Any]) -> None:
    """Raise UserError at callbacks and plugins that cannot do here what Lightning documents."""
    for callback in callbacks:
        check_type("trainer.callbacks", callback, Callback)
        for parent in type(callback).__mro__[:-1]:
            is_abstract = parent.__name__ == "BaseFinetuning" and type(callback) is not parent
            is_lightnings = parent.__module__.startswith("lightning.") and not is_abstract
            if is_lightnings and (reason := REFUSED_CALLBACKS.get(parent.__name__)):
                name = type(callback).__name__
                raise UserError(f"trainer.callbacks: {name} cannot be used ({reason})")
    for plugin in plugins:
        check_type("trainer.plugins", plugin, *PLUGINS)
        if isinstance(plugin, CheckpointIO):
            name = type(plugin).__name__
            raise UserError(
                f"trainer.plugins: {name} cannot be used; the run's checkpoints are written whole "
                "or not at all by a plugin of its own"
            )


def check_type(key: str, part: Any, *types: type) -> None:
    """Raise UserError where what a node has made is not of the types."""
    if not isinstance(part, types):
        names = ", ".join(kind.__name__ for kind in types)
        raise UserError(f"{key}: {type(part).__name__} is not what belongs there ({names})")


def check_monitors(
    trainer: pl.Trainer, callbacks: Sequence[Callback], monitors: Mapping[str, str]
) -> None:
    """Raise UserError where a callback watches what nothing logs: found before the first epoch."""
    modules = {type(c).__module__.partition(".")[0] for c in callbacks}
    if modules - {"lightning", "triptych"}:  # an own callback may log what another one watches
        return
    for callback in callbacks:
        name = getattr(callback, "monitor", None)
        is_strict = getattr(callback, "strict", True)
        is_known = name in (None, "step", "epoch", *monitors) or str(name).startswith("lr-")
        if is_strict and name in monitors and not trainer.limit_val_batches:
            raise UserError(
                f"trainer.callbacks: {type(callback).__name__}(monitor={name}) needs validation, "
                "and trainer.limit_val_batches=0 leaves it out"
            )
        if is_strict and not is_known:
            raise UserError(
                f"trainer.callbacks: {type(callback).__name__}(monitor={name}): nothing is logged "
                f"under that name; nearest: {closest_matches(str(name), monitors, 6)}"
            )
