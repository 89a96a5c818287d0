"""What a search varies: settings of a training, each with a range or a list of choices."""

from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import Any, NamedTuple

from triptych.config import (
    FREE,
    RULES,
    SWEEP_ONLY,
    Config,
    check_config,
    format_value,
    iterate_settings,
    number,
)
from triptych.errors import UserError, closest_matches
from triptych.runs.record import NOT_THE_EXPERIMENT

# Settings that every trial has in common, or accuracies could not be compared: data and
# validation, and the budget.
IN_COMMON = """
    seed data.name data.source data.num_val data.num_test data.split_seed model._target_ model.name
    checkpoint pruner trainer.max_epochs trainer.max_steps trainer.max_time trainer.min_epochs
    trainer.min_steps trainer.limit_train_batches trainer.limit_val_batches
    trainer.limit_test_batches trainer.overfit_batches trainer.fast_dev_run
    trainer.check_val_every_n_epoch trainer.val_check_interval
""".split()
OF_A_RANGE = ("low", "high", "log", "step")


class Range(NamedTuple):
    """From `low` to `high`, both included: whole numbers, or any."""

    low: float
    high: float
    log: bool
    step: float | None
    is_whole: bool


Choices = list[Any]  # texts, numbers, true, false, null
Space = dict[str, Range | Choices]


def read_space(node: Mapping[str, Any], config: Config) -> Space:
    """The settings to vary by their dotted keys; null is not varied.

    Raises UserError unless each is a setting of `config`, a checked training, that takes every
    value between.
    """
    space: Space = {}
    for key, entry in parameters(node):
        require_setting(key, config)
        space[key] = parameter(key, entry)
        for value in ends(space[key]):
            try:
                check_config(with_settings(config, {key: value}))
            except UserError as refused:
                raise UserError(f"search.{key}: {str(refused).splitlines()[0]}") from refused
    if not space:
        raise UserError("search: nothing to vary; give it a range, as search.optim.lr={low:,high:}")
    return space


def parameters(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """What a search config says of each setting, under the setting's dotted key."""
    for name, entry in node.items():
        if isinstance(entry, dict) and not entry.keys() & set(OF_A_RANGE):
            yield from parameters(entry, f"{prefix}{name}.")
        elif entry is not None:
            yield f"{prefix}{name}", entry


def require_setting(key: str, config: Config) -> None:
    """Raise UserError unless the training has a setting of that name that a search may vary."""
    in_common = (*IN_COMMON, *NOT_THE_EXPERIMENT, *SWEEP_ONLY)
    if any(key == name or key.startswith(f"{name}.") for name in in_common):
        raise UserError(f"search.{key}: not to be varied, all trials have it in common")
    node: Any = config
    for name in key.split("."):
        node = node.get(name, FREE) if isinstance(node, dict) else FREE
    is_of_trainer = key.startswith("trainer.") and key in RULES  # Lightning has a default for it
    if node is FREE and not is_of_trainer:
        groups = " ".join(
            f"{group}={config[group]['name']}" for group in ("data", "model", "optim")
        )
        known = closest_matches(key, dict(iterate_settings(config, RULES)))
        raise UserError(f"search.{key}: no setting of {groups}; near: {known}")
    if isinstance(node, dict):
        raise UserError(f"search.{key}: a group of settings; vary those in it")


def parameter(key: str, entry: Any) -> Range | Choices:
    """A range or the choices; raises UserError where it is neither."""
    if isinstance(entry, dict):
        return read_range(key, entry)
    plain = (str, int, float, bool, type(None))
    if not isinstance(entry, list) or not entry or not all(type(v) in plain for v in entry):
        may = "a list of choices, {low:, high:} with log: true or step: if wished, or null"
        raise UserError(f"search.{key}={format_value(entry)}: must be {may}")
    if len({(type(value) is bool, value) for value in entry}) < len(entry):
        raise UserError(f"search.{key}={format_value(entry)}: a choice is named twice")
    return entry


def read_range(key: str, entry: dict[str, Any]) -> Range:
    said = f"search.{key}={format_value(entry)}"
    if unknown := entry.keys() - set(OF_A_RANGE):
        raise UserError(f"{said}: {', '.join(map(str, unknown))}; may be {', '.join(OF_A_RANGE)}")
    low: Any = entry.get("low")
    high: Any = entry.get("high")
    log, step = entry.get("log", False), entry.get("step")
    if not all(type(v) in (int, float) and abs(v) < float("inf") for v in (low, high)):
        raise UserError(f"{said}: low and high must be numbers")
    if low >= high:
        raise UserError(f"{said}: low must be below high")
    if type(log) is not bool or (log and low <= 0):
        raise UserError(f"{said}: log must be true or false, and low above 0 where it is true")
    if step is not None and (log or not number(0, above=True).holds(step)):
        raise UserError(f"{said}: step must be a number above 0, without log")
    is_whole = all(type(v) is int for v in (low, high, step or 0))
    rule = RULES.get(key, FREE)
    takes_fractions = rule is not FREE and rule.holds(high - 0.5)
    return Range(low, high, log, step, is_whole and not takes_fractions)


def ends(parameter: Range | Choices) -> Choices:
    """The choices, or the ends of a range: a setting that takes both takes what lies between."""
    if not isinstance(parameter, Range):
        return parameter
    kind = int if parameter.is_whole else float
    return [kind(parameter.low), kind(parameter.high)]


def holds(parameter: Range | Choices, value: Any) -> bool:
    """Whether the value is among the choices, or within the range."""
    if not isinstance(parameter, Range):
        return value in parameter
    return type(value) in (int, float) and parameter.low <= value <= parameter.high


def value_at(config: Config, key: str) -> Any:
    """The value of a dotted key; null where it is not set."""
    node: Any = config
    for name in key.split("."):
        node = node.get(name)
    return node


def with_settings(config: Config, values: Mapping[str, Any]) -> Config:
    """A copy of the config with values under dotted keys."""
    copied = deepcopy(config)
    for key, value in values.items():
        *path, last = key.split(".")
        node = copied
        for name in path:
            node = node[name]
        node[last] = value
    return copied
