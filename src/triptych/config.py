"""What a config must be. Knows nothing of torch, so that a refusal costs no import of it.

`RULES` lists every setting. A node that names a `_target_` of somebody else's is free: the callable
knows its arguments.
"""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from triptych import Refused, nearest

Config = dict[str, Any]
CONFIGS = Path(__file__).parents[2] / "configs"

# Every argument of Lightning's Trainer, settable as `trainer.<name>` without a plus sign.
TRAINER_ARGUMENTS = """
    accelerator strategy devices num_nodes precision logger callbacks fast_dev_run max_epochs
    min_epochs max_steps min_steps max_time limit_train_batches limit_val_batches
    limit_test_batches limit_predict_batches overfit_batches val_check_interval
    check_val_every_n_epoch num_sanity_val_steps log_every_n_steps enable_checkpointing
    enable_progress_bar enable_model_summary accumulate_grad_batches gradient_clip_val
    gradient_clip_algorithm deterministic benchmark inference_mode use_distributed_sampler
    profiler detect_anomaly barebones plugins sync_batchnorm reload_dataloaders_every_n_epochs
    default_root_dir enable_autolog_hparams model_registry
""".split()


class Rule(NamedTuple):
    says: str
    holds: Callable[[Any], bool]

    def or_null(self) -> "Rule":
        return Rule(f"{self.says}, or null", lambda value: value is None or self.holds(value))


def count(least: int, most: int = 2**63 - 1) -> Rule:
    says = f"a whole number of at least {least}" + (f", at most {most}" if most < 2**63 - 1 else "")
    return Rule(says, lambda v: type(v) is int and least <= v <= most)


def number(least: float, below: float = math.inf, *, above: bool = False) -> Rule:
    says = f"a number {'above' if above else 'of at least'} {least:g}"
    says += f" and below {below:g}" if below < math.inf else ""

    def holds(value: Any) -> bool:
        is_number = type(value) in (int, float) and math.isfinite(value)
        return is_number and (value > least if above else value >= least) and value < below

    return Rule(says, holds)


def one_of(*choices: str) -> Rule:
    return Rule(", ".join(choices), lambda value: value in choices)


TEXT = Rule("a text", lambda value: type(value) is str and value != "")
FLAG = Rule("true or false", lambda value: type(value) is bool)
FREE = Rule("anything", lambda value: True)

REQUIRED = ("data.source", "model.name", "optim.lr", "optim.optimizer")

RULES: dict[str, Rule] = {
    "seed": count(0, 2**32 - 1),
    "log_dir": TEXT,
    "resume": TEXT.or_null(),
    "checkpoint.score": one_of("best", "last"),
    "checkpoint.keep_last": FLAG,
    "checkpoint.every_n_steps": count(1).or_null(),
    "data.name": TEXT,
    "data.root": TEXT.or_null(),
    "data.batch_size": count(1),
    "data.augment": one_of("none", "standard"),
    "data.mix": one_of("none", "mixup", "cutmix"),
    "data.num_train": count(1).or_null(),
    "data.num_val": count(1),
    "data.num_test": count(1).or_null(),
    "data.split_seed": count(0, 2**63 - 1),
    "data.num_workers": count(0),
    "data.source": FREE,
    "model._target_": TEXT,
    "model.name": TEXT,
    "model.weights": TEXT.or_null(),
    "model.input_size": count(1).or_null(),
    "model.freeze": one_of("none", "backbone"),
    "model.min_input_size": count(1).or_null(),
    "model.known_weights": FREE,
    "model.network": FREE,
    "model.mean": FREE,
    "model.std": FREE,
    "optim.name": TEXT,
    "optim.optimizer": FREE,
    "optim.lr": number(0, above=True),
    "optim.backbone_lr": number(0, above=True).or_null(),
    "optim.weight_decay": number(0),
    "optim.schedule": one_of("constant", "cosine", "onecycle"),
    "optim.warmup_epochs": number(0),
    "optim.label_smoothing": number(0, 1),
    **{f"trainer.{name}": FREE for name in TRAINER_ARGUMENTS},
    "trainer.max_epochs": count(-1),
    "trainer.max_steps": count(-1),
    "trainer.num_nodes": count(1),
    "trainer.accumulate_grad_batches": count(1),
    "trainer.log_every_n_steps": count(1),
    "trainer.check_val_every_n_epoch": count(1),
    "trainer.num_sanity_val_steps": count(0),
    "trainer.gradient_clip_val": number(0, above=True).or_null(),
}


def plain(config: DictConfig) -> Config:
    """The resolved config in plain containers; a recipe's table of models has served by then."""
    resolved = OmegaConf.to_container(config, resolve=True)
    assert isinstance(resolved, dict)
    return {str(k): value for k, value in resolved.items() if k not in ("hydra", "per_model")}


def check(config: Config) -> None:
    """Raise Refused, a line a setting, three at most, unless every setting is what it must be."""
    problems = [*broken_rules(config), *contradictions(config)]
    if problems:
        raise Refused("\n".join(problems[:3]))


def broken_rules(config: Config) -> Iterator[str]:
    for key, value in settings(config):
        if key not in RULES:
            yield unknown(key)
        elif value == "???":
            yield f"{key}: must be given, {RULES[key].says}"
        elif not RULES[key].holds(value):
            yield f"{key}={'null' if value is None else value}: must be {RULES[key].says}"
    present = dict(settings(config))
    yield from (
        f"{key} is missing"
        for key in ("data.source", "model.name", "optim.lr")
        if key not in present
    )


def settings(config: Config, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting under its dotted key; not what a foreign `_target_` takes."""
    for name, value in config.items():
        key = f"{prefix}{name}"
        if key in RULES or not isinstance(value, dict):
            yield key, value
        else:
            foreign = not str(value.get("_target_", "triptych.")).startswith("triptych.")
            inner = settings(value, f"{key}.")
            yield from ((k, v) for k, v in inner if k in RULES or not foreign)


def contradictions(config: Config) -> Iterator[str]:
    """What no setting shows by itself. Silent where a setting involved is broken already."""
    data, model = config.get("data", {}), config.get("model", {})
    source = data.get("source") or {}
    train = (data.get("num_train") or 1, data.get("num_val"), source.get("num_train"))
    if all(type(n) is int for n in train) and train[0] + train[1] > train[2]:
        more = f"with data.num_train={train[0]} more than the {train[2]} training images"
        yield f"data.num_val={train[1]}: {more}"
    test = (data.get("num_test"), source.get("num_test"))
    if all(type(n) is int for n in test) and test[0] > test[1]:
        yield f"data.num_test={test[0]}: there are {test[1]} test images"
    trainer = config.get("trainer", {})
    if (
        trainer.get("max_epochs") in (-1, 0)
        and trainer.get("max_steps", -1) == -1
        and not trainer.get("max_time")
    ):
        yield "trainer.max_epochs: without it, trainer.max_steps or trainer.max_time must be given"
    size = (model.get("input_size"), model.get("min_input_size"))
    if all(type(n) is int for n in size) and size[0] < size[1]:
        yield f"model.input_size={size[0]}: {model['name']} takes {size[1]} or more"
    weights, known = model.get("weights"), model.get("known_weights")
    if type(weights) is str and known and weights not in ["DEFAULT", *known] and "." not in weights:
        yield f"model.weights={weights}: must be DEFAULT, {', '.join(known)}, null, or a .pth file"


def unknown(key: str) -> str:
    """What to say of a setting that does not exist."""
    return f"{key}: no such setting; near: {nearest(key, RULES)}"
