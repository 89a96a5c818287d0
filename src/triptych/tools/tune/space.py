"""What a search varies: settings of a training, each with a range or a list of choices."""

from collections.abc import Iterator, Mapping
from typing import Any

from omegaconf import OmegaConf
from optuna import distributions
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from triptych.config import FREE, Config, check_config, format_value, load_rules, resolve_config
from triptych.errors import UserError, summarize_error
from triptych.runs.record import NOT_THE_EXPERIMENT

# Settings that every trial has in common, or accuracies could not be compared: data and
# validation, and the budget.
IN_COMMON = """
    seed data.name data.source data.num_val data.num_test data.split_seed data.folds data.fold
    model._target_ model.name checkpoint trainer.max_epochs trainer.max_steps trainer.max_time
    trainer.min_epochs trainer.min_steps trainer.limit_train_batches trainer.limit_val_batches
    trainer.limit_test_batches trainer.overfit_batches trainer.fast_dev_run
    trainer.check_val_every_n_epoch trainer.val_check_interval
""".split()

Space = dict[str, distributions.BaseDistribution]  # by dotted keys


def read_space(node: Mapping[str, Any], config: Config) -> Space:
    """The settings to vary; null is not varied.

    Raises UserError unless each is a setting of `config`, a checked training, that takes every
    value between the ends of its range, or every choice.
    """
    space: Space = {}
    for key, entry in read_entries(node):
        if any(f"{key}.".startswith(f"{name}.") for name in (*IN_COMMON, *NOT_THE_EXPERIMENT)):
            raise UserError(f"search.{key}: cannot vary, all trials have it in common")
        space[key] = read_distribution(key, entry)
        for value in ends(space[key]):
            try:
                check_config(with_settings(config, {key: value}))
            except (UserError, TypeError) as error:
                raise UserError(f"search.{key}: {summarize_error(error)}") from error
    if not space:
        raise UserError("search: nothing to vary; give it a range, as search.optim.lr={low:,high:}")
    return space


def read_entries(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """What a search config says of each setting, under the setting's dotted key."""
    for name, entry in node.items():
        if isinstance(entry, dict) and not entry.keys() & {"low", "high", "log", "step"}:
            yield from read_entries(entry, f"{prefix}{name}.")
        elif entry is not None:
            yield f"{prefix}{name}", entry


def read_distribution(key: str, entry: Any) -> distributions.BaseDistribution:
    """A range or the choices; raises UserError where it is neither."""
    try:
        if isinstance(entry, list):
            if any(isinstance(choice, list | dict) for choice in entry):
                raise TypeError("a choice is a single value")
            return CategoricalDistribution(entry)
        distribution = FloatDistribution(**entry)
        is_whole = all(type(entry[name]) is int for name in entry.keys() - {"log"})
        rule = load_rules("train").get(key, FREE)
        takes_fractions = rule is not FREE and rule.holds(distribution.high - 0.5)
        return IntDistribution(**entry) if is_whole and not takes_fractions else distribution
    except (TypeError, ValueError) as error:
        raise UserError(
            f"search.{key}={format_value(entry)}: must be a list of choices, {{low:, high:}} with "
            f"log: true or step: if wished, or null ({error})"
        ) from error


def ends(distribution: distributions.BaseDistribution) -> list[Any]:
    """The choices, or the ends of a range: a setting that takes both takes what lies between."""
    if isinstance(distribution, CategoricalDistribution):
        return [*distribution.choices]
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    return [distribution.low, distribution.high]


def contains(distribution: distributions.BaseDistribution, value: Any) -> bool:
    if isinstance(distribution, CategoricalDistribution):
        return value in distribution.choices
    low, high = ends(distribution)
    return type(value) in (int, float) and low <= value <= high


def with_settings(config: Config, values: Mapping[str, Any]) -> Config:
    """A copy of the config with values under dotted keys."""
    settings = OmegaConf.create(config)
    for key, value in values.items():
        OmegaConf.update(settings, key, value, merge=False, force_add=True)
    return resolve_config(settings)
