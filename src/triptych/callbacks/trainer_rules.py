"""What each argument of Lightning's Trainer may be, and each callback, and what to take instead.

Each does what Lightning documents, or is refused by name: tests/test_lightning_parts.py counts.
Imports no torch.
"""

import re
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

from triptych.config import (
    FLAG,
    MAX_PROCESSES,
    MONITOR,
    MONITORS,
    NODE,
    NODES,
    Config,
    Rule,
    as_list,
    count,
    either,
    format_value,
    is_node,
    number,
    one_of,
)
from triptych.errors import UserError

INDEX_TEXT = Rule(
    "indices as 0,1",
    lambda v: type(v) is str and re.fullmatch(r"\d{1,4},(\d{1,4}(,\d{1,4})*,?)?", v) is not None,
)
INDICES = Rule(
    "a list of indices",
    lambda v: type(v) is list and all(map(count(0).holds, v)) and 0 < len(v) == len(set(v)),
)
ENDLESS = Rule("a whole number of at least 1, or -1", lambda v: count(-1).holds(v) and v != 0)
COUNT = count(1, MAX_PROCESSES)
DEVICES = Rule(
    f"{COUNT.says}, {INDICES.says}, or -1 or auto for all",
    lambda v: v in ("auto", "-1", -1) or any(r.holds(v) for r in (COUNT, INDICES, INDEX_TEXT)),
)
UNUSED = one_of("ddp_find_unused_parameters_true", "ddp_find_unused_parameters_false")
STRATEGY = Rule(
    "auto, ddp (no spawn, no fork), ddp_find_unused_parameters_true, or a node with a _target_",
    lambda v: v in ("auto", "ddp") or is_node(v) or UNUSED.holds(v),
)
SHARE = Rule(
    "a whole number of batches, or a part as 0.5",
    lambda v: count(1).holds(v) or (type(v) is float and 0 < v <= 1),
)
SHARE_OR_NONE = Rule(
    f"{SHARE.says}, or 0 for none", lambda v: SHARE.holds(v) or number(0, 1e-9).holds(v)
)
UNITS = ("weeks", "days", "hours", "minutes", "seconds")
DURATION = Rule(  # YAML reads 1:30:00 without quotes in base 60, as 5400
    'days:hours:minutes:seconds in quotes, as "00:01:30:00", or {minutes: 90}',
    lambda v: (
        re.fullmatch(r"(?=.*[1-9])\d+:\d\d:\d\d:\d\d", v) is not None
        if type(v) is str
        else type(v) is dict
        and bool(v)
        and {*v} <= {*UNITS}
        and all(map(number(0).holds, v.values()))
        and any(v.values())  # no time leaves no checkpoint
    ),
)
OPTIONAL_FLAGS = ("benchmark", "enable_progress_bar", "enable_model_summary")
FLAGS = ("detect_anomaly", "inference_mode", "sync_batchnorm", "enable_autolog_hparams")
PRECISIONS = (
    *("64-true", "32-true", "16-true", "16-mixed", "bf16-true", "bf16-mixed"),
    *("64", "32", "16", "bf16"),
)
EXTRAS = ("wandb", "mlflow")  # whose loggers Lightning has
# Arguments of the Trainer, and callbacks, that cannot do here what Lightning documents.
WITHOUT_USE = {
    "enable_checkpointing": (True, "the run's own checkpoints are what is scored and resumed"),
    "use_distributed_sampler": (False, "each device has its share of every batch already"),
    "limit_predict_batches": (None, "a training predicts nothing; triptych predict does"),
    "barebones": (False, "a run records itself; triptych benchmark has a bare loop"),
    "default_root_dir": (None, "a run writes into its own folder; log_dir= says where that lies"),
    "model_registry": (None, "nothing is uploaded; triptych export writes the network to a file"),
}
REFUSED_CALLBACKS = {
    "BatchSizeFinder": "trains with another size than the run says; triptych tune search=batch",
    "LearningRateFinder": "trains at another rate than the run says; triptych tune search=range",
    "ModelPruning": "its masks are lost in checkpoints; prune the network of a finished run",
    "BasePredictionWriter": "a training predicts nothing; triptych predict run=<folder>",
    "BaseFinetuning": "says nothing of which layers; take BackboneFinetuning, or your subclass",
}
AVERAGES = "WeightAveraging EMAWeightAveraging StochasticWeightAveraging SWA Soup".split()


def only(value: Any, reason: str) -> Rule:
    """An argument of Lightning's whose other values cannot do what it documents: `reason`."""
    word = "null" if value is None else str(value).lower()
    return Rule(f"{word}: {reason}", lambda v: v is None or v is value)


RULES: dict[str, Rule] = {
    "trainer.callbacks": either(NODES, NODE).or_null(),
    "trainer.plugins": either(NODES, NODE).or_null(),
    "trainer.logger": Rule(
        f"{NODES.says}, or null or false for none (left out, it is TensorBoard)",
        lambda v: v is None or v is False or NODES.holds(v) or is_node(v),
    ),
    "trainer.profiler": either(one_of("simple", "advanced", "pytorch"), NODE).or_null(),
    "trainer.strategy": STRATEGY,
    "trainer.accelerator": one_of("auto", "cpu", "gpu", "cuda", "mps"),
    "trainer.devices": DEVICES,
    "trainer.num_nodes": count(1),
    "trainer.precision": Rule(
        f"one of {', '.join(PRECISIONS)}, or null",
        lambda v: v is None or v in PRECISIONS or (type(v) is int and v in (16, 32, 64)),
    ),
    **dict.fromkeys(("trainer.max_epochs", "trainer.max_steps"), ENDLESS),
    **dict.fromkeys(("trainer.min_epochs", "trainer.min_steps"), count(1).or_null()),
    "trainer.max_time": DURATION.or_null(),
    **dict.fromkeys(("trainer.limit_train_batches", "trainer.limit_test_batches"), SHARE.or_null()),
    **dict.fromkeys(("trainer.limit_val_batches",), SHARE_OR_NONE.or_null()),
    "trainer.overfit_batches": SHARE_OR_NONE,
    "trainer.val_check_interval": either(SHARE, DURATION).or_null(),
    "trainer.fast_dev_run": Rule(
        "true, false, or a number of batches", lambda v: FLAG.holds(v) or count(0).holds(v)
    ),
    "trainer.check_val_every_n_epoch": count(1).or_null(),
    "trainer.num_sanity_val_steps": Rule(
        "a whole number of at least 0, or -1 for all", lambda v: v is None or count(-1).holds(v)
    ),
    **dict.fromkeys(("trainer.accumulate_grad_batches", "trainer.log_every_n_steps"), count(1)),
    "trainer.gradient_clip_val": number(0, above=True).or_null(),
    "trainer.gradient_clip_algorithm": one_of("norm", "value").or_null(),
    "trainer.deterministic": either(FLAG, one_of("warn")).or_null(),
    **{f"trainer.{name}": FLAG.or_null() for name in OPTIONAL_FLAGS},
    **{f"trainer.{name}": FLAG for name in FLAGS},
    "trainer.reload_dataloaders_every_n_epochs": count(0),
    **{f"trainer.{name}": only(value, reason) for name, (value, reason) in WITHOUT_USE.items()},
}


def check_packages(config: Config) -> None:
    """Raise UserError where the package of a logger is not installed."""
    for node in as_list((config.get("trainer") or {}).get("logger")):
        name = node["_target_"].removeprefix("lightning.pytorch.loggers.").removesuffix("Logger")
        if (package := name.lower()) in EXTRAS and not find_spec(package):
            raise UserError(f"logger={package}: not installed; pip install -e '.[{package}]'")


def find_trainer_contradictions(config: Config) -> Iterator[str]:
    """What is wrong between arguments of the Trainer, what is watched, and a schedule's class."""
    trainer, monitors = config["trainer"], list_monitors(config)
    monitor = config["checkpoint"].get("monitor", MONITOR)
    if monitor not in monitors and not config.get("module"):  # which may log others
        yield f"checkpoint.monitor={format_value(monitor)}: must be one of {', '.join(monitors)}"
    if isinstance(config["optim"]["schedule"], dict):
        yield from find_schedule_contradictions(config)
    callbacks = as_list(trainer.get("callbacks"))
    for package, _, name in (node["_target_"].rpartition(".") for node in callbacks):
        if "lightning" in package.partition(".")[0] and name in REFUSED_CALLBACKS:
            yield f"trainer.callbacks: {name} cannot be used ({REFUSED_CALLBACKS[name]})"
    names = [node["_target_"].rpartition(".")[2] for node in callbacks]
    if len(averages := [name for name in names if name in AVERAGES]) > 1:
        also = "; an experiment has its own: trainer.callbacks=null leaves that out"
        yield f"trainer.callbacks: {', '.join(averages)}: one average at a time{also}"
    yield from find_wrong_modes(callbacks)
    for unit in ("epochs", "steps"):
        least, most = trainer.get(f"min_{unit}") or 0, trainer.get(f"max_{unit}", -1)
        if least > most > 0:
            yield f"trainer.min_{unit}={least}: more than trainer.max_{unit}={most}"


def list_monitors(config: Config) -> list[str]:
    """What is logged after every validation, one's own metrics included."""
    return [*MONITORS, *(f"val/{name}" for name in config.get("metrics") or {})]


def find_schedule_contradictions(config: Config) -> Iterator[str]:
    """What a schedule that is a class cannot do here; `interval` and `monitor` are ours."""
    schedule = config["optim"]["schedule"]
    if (interval := schedule.get("interval")) not in (None, "step", "epoch"):
        yield f"optim.schedule.interval={interval}: must be step or epoch"
    if warmup := config["optim"].get("warmup_epochs"):
        yield (
            f"optim.warmup_epochs={warmup:g}: is for the schedules that are words; among classes, "
            "SequentialLR begins with LinearLR (docs/recipes.md)"
        )
    if schedule["_target_"].endswith(".ReduceLROnPlateau"):
        yield from find_plateau_contradictions(config)
    elif "monitor" in schedule:
        yield "optim.schedule.monitor: of ReduceLROnPlateau alone"


def find_plateau_contradictions(config: Config) -> Iterator[str]:
    schedule, monitors = config["optim"]["schedule"], list_monitors(config)
    monitor, mode = schedule.get("monitor"), schedule.get("mode")
    if monitor not in (None, *monitors) and not config.get("module"):  # which may log others
        yield f"optim.schedule.monitor={monitor}: must be one of {', '.join(monitors)}"
    elif monitor in MONITORS and mode not in (None, best := MONITORS[monitor]):
        yield f"optim.schedule.mode={mode}: must be {best} for {monitor}, or left out"
    elif monitor and monitor not in MONITORS and mode not in ("min", "max"):
        yield f"optim.schedule.mode={format_value(mode)}: must be min or max, as {monitor} is best"
    if schedule.get("interval") == "step" or config["trainer"].get("limit_val_batches", 1) == 0:
        yield "optim.schedule: ReduceLROnPlateau steps after a validation, interval=epoch"


def find_wrong_modes(callbacks: list[Config]) -> Iterator[str]:
    """Callbacks of Lightning's that were told to look for the worst accuracy."""
    for node in callbacks:
        monitor, mode = node.get("monitor"), node.get("mode")
        best = MONITORS.get(str(monitor), mode)
        if (
            mode
            and mode != best
            and node["_target_"].endswith((".EarlyStopping", ".ModelCheckpoint"))
        ):
            name = node["_target_"].rpartition(".")[2]
            yield f"trainer.callbacks: {name}(monitor={monitor}): mode must be {best}, or left out"
