"""What a command with `resume=` asks of the run that it names, beside that run's own config.

What was typed is compared with the run's settings: equal values are no request, so `resume=` can be
added to the command that began the run. Imports no torch: a refusal comes at once.
"""

import os
import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from triptych.callbacks.trainer_rules import check_packages
from triptych.config import CONFIGS, SLOTS, Config, as_list, find_node, format_value, setting_name
from triptych.errors import UserError
from triptych.models import is_weights_path
from triptych.runs.reader import find_run_folders
from triptych.runs.record import NOT_THE_EXPERIMENT, Record, config_hash
from triptych.runs.trust import (
    check_untrusted_config,
    find_signed_targets,
    find_unknown_targets,
    is_below_data_dir,
    is_signed,
    localize_source,
)

EXTENDING = ("trainer.max_epochs", "trainer.max_steps")  # of which a run may be given more
# Callbacks that end a training, with weights or a schedule that it cannot go on with.
ENDING = ("StochasticWeightAveraging", "SWA", "Soup")
UNSET = object()
# Where a resolved config has what the groups of research choose: compared as a whole.
PARTS = SLOTS | {name: f"trainer.{name}" for name in ("callbacks", "logger")}


def find_run(place: str) -> Path:
    """The run folder that `resume=` names, by itself or by one of its files.

    Raises UserError where that is no run, or where several lie below.
    """
    path = Path(os.path.expanduser(place))
    is_inside = path.exists() or path.suffix == ".ckpt"  # it may have been deleted
    for folder in [path, *path.parents[:2]] if is_inside else []:
        if os.path.lexists(folder / "run.json"):
            return folder
    try:
        below = find_run_folders(str(path), "resume")
    except UserError:
        raise UserError(f"resume={place}: no run folder, it has no run.json") from None
    newest = max(below, key=lambda folder: (is_unfinished(folder), folder.name))
    count = f"{len(below)} runs" if len(below) > 1 else "a run"
    raise UserError(
        f"resume={place}: no run folder, but {count} below it; one run can be resumed, such as\n"
        f"{shlex.quote(f'resume={newest}')}"
    )


def is_unfinished(folder: Path) -> bool:
    with suppress(UserError):
        return Record.open(folder).metadata.get("status") != "finished"
    return False


def check_request(config: Config, overrides: Sequence[str]) -> None:
    """Raise UserError where the run that `resume=` names cannot be resumed as typed."""
    record = Record.open(find_run(config["resume"]))
    check_run_config(record, config)
    merged = compose_resumed(config, overrides, record)
    check_unfinished(record, merged)
    check_packages(merged)


def compose_resumed(config: Config, overrides: Sequence[str], record: Record) -> Config:
    """The config that a run goes on with: its own, with what was typed, its data on this machine.

    Raises UserError as `merge_request` and `use_own_places` do.
    """
    return use_own_places(merge_request(config, overrides, record), config, record)


def check_run_config(record: Record, config: Config) -> None:
    """Raise UserError where a run's config is untrusted, or is not the one it was trained with.

    `config` is the command's own: whose targets somebody typed, they trust.
    """
    run_config = record.config
    trusted = find_trusted_targets(config) | find_signed_targets(record)
    check_untrusted_config(run_config, trusted)
    # One that was killed when it was to go on for longer has its new hash before its new config.
    before = [entry.get("config_hash") for entry in read_history(record)[-1:]]
    if config_hash(run_config) not in [record.metadata.get("config_hash"), *before]:
        raise UserError(f"{record.folder}/config.yaml: edited since; start a new run instead")


def find_trusted_targets(config: Config) -> set[str]:
    """The `_target_`s that a command's own config trusts: those that were typed."""
    return {*config["trusted_targets"], *find_unknown_targets(config)}


def use_own_places(merged: Config, config: Config, record: Record) -> Config:
    """The config of a run to resume with the places of its data on this machine.

    Raises UserError where somebody else's has a place that `config`, the command's own, has not.
    """
    if is_signed(record.folder, record.metadata.get("signature")):
        return merged
    own, weights = config["data"]["source"], str(merged["model"].get("weights"))
    typed = {k: v for k, v in merged["data"]["source"].items() if is_same(v, own.get(k))}
    source, unknown = localize_source(merged, find_trusted_targets(config), typed)
    add = [f"data.{name}={source[name]}" for name in unknown]
    is_read = is_weights_path(weights) and not record.checkpoint_path("last").exists()
    is_typed = is_same(weights, config["model"].get("weights"))
    if is_read and not is_typed and not is_below_data_dir(weights):
        add.append(f"model.weights={weights}")
    if add:
        raise UserError(
            f"{record.folder}: not a run of yours, or edited since; it names places outside of "
            f"DATA_DIR\nif they are right, add {shlex.join(add)}"
        )
    root = {"root": source["root"]} if "root" in source else {}
    return merged | {"data": merged["data"] | root | {"source": source}}


def read_history(record: Record) -> list[dict[str, Any]]:
    """What a run was before it went on for more epochs than it began with, the earliest first."""
    history = record.metadata.get("history")
    return [e for e in history if isinstance(e, dict)] if isinstance(history, list) else []


def merge_request(config: Config, overrides: Sequence[str], record: Record) -> Config:
    """The run's own config with what was typed of `EXTENDING` and `NOT_THE_EXPERIMENT`.

    Of `config`, which was composed for this command, only what `overrides` set counts. Raises
    UserError where they set anything else to another value than the run's.
    """
    merged: Config = record.config  # read anew
    recorded = record.metadata.get("overrides")
    earlier = [*map(str, recorded)] if isinstance(recorded, list) else []
    settled = [*find_settled(earlier)]
    problems: dict[str, str] = {}
    for key, override, value, is_choice in find_requests(config, merged, overrides):
        before = lookup(merged, key)
        # As when the run began, whatever today's configs make of it.
        is_repeated = override in earlier and (is_choice or "${" in override)
        if is_same(before, value):
            continue
        if not is_experiment(key) or (key in EXTENDING and not is_choice):
            put(merged, key, value)
            if key == "data.root" and "root" in merged["data"]["source"]:
                put(merged, "data.source.root", value)
        elif not is_repeated and not (is_choice and is_below(key, settled)):
            text = f"{key}={format_value(before)}" if is_choice else format_value(before)
            problems.setdefault(override, f"no {key}" if before is UNSET else text)
    if problems:
        lines = [f"{format_value(o)}: this run has {value}" for o, value in problems.items()]
        if len(lines) > 2:
            lines[1:] = [f"and {len(lines) - 1} more differ"]
        advice = "resume= goes on with the run's own settings: leave out what differs, or resume="
        raise UserError("\n".join([*lines, advice]))
    return merged


def find_settled(overrides: Sequence[str]) -> Iterator[str]:
    """What overrides set besides the choices of groups, or over them: an experiment's settings."""
    for override in overrides:
        name, _, choice = override.partition("=")
        name = setting_name(name).lstrip("~")
        if not os.path.isdir(CONFIGS / name):
            yield name
        elif name == "experiment":
            yield from read_choice(name, choice, follow=False)


def find_requests(
    config: Config, run_config: Config, overrides: Sequence[str]
) -> Iterator[tuple[str, str, Any, bool]]:
    """Every setting that was typed, by its override, its value in that command's config, and
    whether it came with the choice of a group as model=resnet50: of that, what its file sets."""
    for override in overrides:
        name, _, choice = override.partition("=")
        name = setting_name(name).lstrip("~")
        is_choice = os.path.isdir(CONFIGS / name)
        if name in ("resume", "trusted_targets", "minutes"):
            continue
        if slot := PARTS.get(name.partition(".")[0]):
            yield slot, override, lookup(config, slot), False
            continue
        if is_choice and not override.startswith("~"):
            keys = [*read_choice(name, choice)]
        else:
            nodes = (lookup(node, name) for node in (config, run_config))
            keys = [*dict.fromkeys(key for node in nodes for key in leaves(node, name))]
        for key in keys:
            # Of a choice, where the data lie is not what was meant; which devices is.
            if is_experiment(key) or not is_choice or name == "trainer":
                yield key, override, lookup(config, key), is_choice


def read_choice(group: str, choice: str, *, follow: bool = True) -> Iterator[str]:
    """The settings that the file of a choice sets, itself or (`follow`) by its choice of others."""
    path = CONFIGS / group / f"{choice}.yaml"
    if "/" in choice or not path.is_file():  # of another package on the path
        return
    node: Any = OmegaConf.to_container(OmegaConf.load(path))
    header = re.match(r"# @package (\S+)", path.read_text())
    package = header[1] if header else group
    for default in node.pop("defaults", []):
        for key, inner in default.items() if isinstance(default, dict) else ():
            if follow and key.startswith("override /"):
                yield from read_choice(key.removeprefix("override /"), str(inner))
    node.pop("per_model", None)
    for name, value in node.items():
        yield from leaves(value, name if package == "_global_" else f"{package}.{name}")


def leaves(node: Any, prefix: str) -> Iterator[str]:
    """The dotted keys of all that is no mapping at or below a node."""
    if isinstance(node, dict) and node:
        for name, value in node.items():
            yield from leaves(value, f"{prefix}.{name}")
    elif node is not UNSET:
        yield prefix


def lookup(node: Any, key: str) -> Any:
    holder, name = find_node(node, key)
    return holder.get(name, UNSET)


def put(node: Config, key: str, value: Any) -> None:
    *path, last = key.split(".")
    for name in path:
        node[name] = node.get(name) or {}
        node = node[name]
    if value is UNSET:
        node.pop(last, None)
    else:
        node[last] = value


def is_same(one: Any, other: Any) -> bool:
    """Whether two values mean the same: null and no value, or two paths of one file."""
    if {type(one), type(other)} == {str} and os.path.exists(one) and os.path.exists(other):
        return os.path.samefile(one, other)
    return bool(one == other) or (one in (None, UNSET) and other in (None, UNSET))


def is_experiment(key: str) -> bool:
    return not is_below(key, NOT_THE_EXPERIMENT)


def is_below(key: str, names: Sequence[str]) -> bool:
    """Whether a setting is one of some, or below one of them."""
    return any(f"{key}.".startswith(f"{name}.") for name in names)


def check_unfinished(record: Record, config: Config) -> None:
    """Raise UserError where a run is finished, unless `config` asks for more of it and it can.

    Of an unfinished run, and of its steps, the checkpoint decides.
    """
    if record.metadata.get("status") != "finished":
        return
    folder, done = record.folder, record.metadata.get("num_epochs")
    if type(done) is not int:  # it becomes the name of a folder
        raise UserError(f"{folder}/run.json: num_epochs={format_value(done)}: must be a number")
    changed = [key for key in EXTENDING if lookup(config, key) != lookup(record.config, key)]
    if not changed:
        raise UserError(
            f"resume={folder}: this run is finished\n"
            f"for more than its {done} epochs, add trainer.max_epochs=<number>"
        )
    label = f"{changed[0]}={format_value(lookup(config, changed[0]))}"
    if "trainer.max_epochs" in changed and 0 < config["trainer"]["max_epochs"] <= done:
        raise UserError(f"{label}: this run is finished with {done} epochs; give more to go on")
    best = record.checkpoint_path("best")
    if not record.checkpoint_path("last").is_file():
        raise UserError(
            f"{label}: checkpoints/last.ckpt is gone (a sweep keeps it with "
            "checkpoint.keep_last=true), and with it\nthe optimizer's state. A new run can "
            "start from the weights of this one:\n"
            f"python train.py {shlex.quote(f'model.weights={best}')} ..."
        )
    nodes = as_list(config["trainer"].get("callbacks"))
    names = [str(node.get("_target_")).rpartition(".")[2] for node in nodes]
    if ending := [name for name in names if name in ENDING]:
        raise UserError(f"{label}: {ending[0]} has ended this run; start a new one")


def resume_arguments(
    config: Config, overrides: list[str], folder: Path
) -> tuple[Config, list[str]]:
    """Config and overrides with which `train` resumes a run, as a person would with `resume=`."""
    # Whoever starts a job trusts the targets of its config.
    trusted = sorted(find_trusted_targets(config))
    resumed = config | {"resume": str(folder), "trusted_targets": trusted}
    return resumed, [o for o in overrides if setting_name(o) in NOT_THE_EXPERIMENT]


def resume_command(record: Record) -> str:
    command = ["python", "train.py", f"resume={record.folder}"]
    if targets := find_unknown_targets(record.config) - find_signed_targets(record):
        command.append(f"trusted_targets=[{','.join(sorted(targets))}]")
    return shlex.join(command)
