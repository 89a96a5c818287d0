"""What a config must be. Imports no torch, so that a wrong setting is found before it is imported.

`RULES` lists every setting of a training, `tools/<command>/settings.py` those of other commands. A
node whose `_target_` is not ours is free: the callable knows its arguments.
"""

import os
import re
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from itertools import product
from math import inf
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from triptych.errors import UserError, closest_matches, shorten
from triptych.models import WEIGHT_SUFFIXES, is_weights_path

CONFIGS = Path(__file__).parents[2] / "configs"
# What a number may ask for at most: workers, ranks or jobs at a time; images of a batch; pixels of
# an image's side, as a network takes it, and of a batch (13 GB as floats).
MAX_PROCESSES = max(16, 4 * (os.cpu_count() or 1))
MAX_BATCH, MAX_SIDE, MAX_PIXELS = 2**16, 4096, 2**30
Config = dict[str, Any]


class Rule(NamedTuple):
    """What a value may be, in words (`must be {says}`) and as a test of it."""

    says: str
    holds: Callable[[Any], bool]

    def or_null(self) -> "Rule":
        return Rule(f"{self.says}, or null", lambda value: value is None or self.holds(value))


def count(least: int, most: int = 2**63 - 1) -> Rule:
    says = f"a whole number of at least {least}" + (f", at most {most}" if most < 2**62 else "")
    return Rule(says, lambda v: type(v) is int and least <= v <= most)


def number(least: float, below: float = inf, *, above: bool = False) -> Rule:
    says = f"a number {'above' if above else 'of at least'} {least:g}"
    says += f" and below {below:g}" if below < inf else ""

    def holds(value: Any) -> bool:
        is_number = type(value) in (int, float) and abs(value) <= sys.float_info.max
        return is_number and (value > least if above else value >= least) and value < below

    return Rule(says, holds)


def one_of(*choices: str) -> Rule:
    return Rule(f"one of {', '.join(choices)}", lambda value: value in choices)


def either(*rules: Rule) -> Rule:
    """What any of the rules takes."""
    says = ", or ".join(rule.says for rule in rules)
    return Rule(says, lambda value: any(rule.holds(value) for rule in rules))


def is_node(value: Any) -> bool:
    return isinstance(value, dict) and TEXT.holds(value.get("_target_"))


TEXT = Rule("a text", lambda value: type(value) is str and value != "")
PATH = Rule("a path, in YAML in quotes where it looks like a number", TEXT.holds)
LINE = Rule(
    "a line of printable letters, in YAML in quotes where it looks like a number",
    lambda value: TEXT.holds(value) and value.isprintable() and value.strip() != "",
)
OF_RUNS = Rule(
    "a path in UTF-8 without $NAME, which some libraries replace: make a link to it",
    lambda value: PATH.holds(value) and not re.search(r"\$[\w{]|[\ud800-\udfff]", value),
)
FLAG = Rule("true or false", lambda value: type(value) is bool)
FREE = Rule("anything", lambda value: True)
NAMES = Rule("a list of names", lambda v: type(v) is list and all(map(TEXT.holds, v)))
NODE = Rule("a node with a _target_", is_node)
NODES = Rule("a list of nodes with a _target_", lambda v: type(v) is list and all(map(is_node, v)))
NAMED_NODES = Rule(
    "what metrics=[<choice>,...] and metrics.<name>._target_=<class> make",
    lambda v: type(v) is dict and all(map(is_node, v.values())),
)


def rgb(rule: Rule) -> Rule:
    says = f"three, each {rule.says}"
    return Rule(says, lambda v: type(v) is list and [*map(rule.holds, v)] == [True] * 3)


SPLITS = Rule(
    "{train: folder, val: folder, test: folder} below data.root, the last two optional",
    lambda v: (
        type(v) is dict
        and {"train"} <= v.keys() <= {"train", "val", "test"}
        and all(TEXT.holds(f) and not {"/", ".."} & {*Path(f).parts} for f in v.values())
    ),
)

FOLDERS = Rule(
    "a folder, a glob in quotes, or a list of them",
    lambda value: TEXT.holds(value) or (value and NAMES.holds(value)),
)
# Every setting of every command that is a path, and `require`, as freely typed; if it may be null.
PATHS = dict.fromkeys("log_dir data.root data.source.root run images".split(), False)
PATHS |= dict.fromkeys("resume model.weights data.labels data_root storage out grid".split(), True)
PATHS |= dict.fromkeys("recipe_dir trainer.default_root_dir runs predictions labels".split(), True)
PATHS |= dict.fromkeys("plan suspects require require_log verify ood".split(), True)

MONITOR = "val/accuracy"  # what tells the best epoch, by default
# What is logged after every validation, and what is best of it.
MONITORS = {
    **{MONITOR: "max", "val/loss": "min", "val/f1": "max", "val/precision": "max"},
    **{"val/recall": "max", "val/undefined_classes": "min"},
}

REQUIRED = """
    seed log_dir resume checkpoint.score checkpoint.keep_last checkpoint.every_n_steps data.name
    data.source data.batch_size data.augment data.mix data.num_train data.num_val data.num_test
    data.split_seed data.num_workers model._target_ model.name optim.name optim.lr optim.optimizer
    trainer.max_epochs trainer.accelerator
""".split()

EXTENDS_TRAINING = True
# What research changes, and where the config has it. A word chooses one (`loss=focal`), settings
# below it are its own (`loss.gamma=1`), and `_target_` names any other.
SLOTS = {
    **{"augment": "data.augment", "schedule": "optim.schedule"},
    **{name: name for name in ("loss", "metrics", "callbacks", "logger", "module")},
}
SCHEDULES = ("constant", "cosine", "onecycle", "step", "polynomial")
# Not in a run's config where they are null; nor, but for those of data, where they are empty.
OPTIONAL = "name plan loss metrics module optim.layer_decay model.drop_path trainer.on_oom".split()
OPTIONAL_DATA = ("splits", "labels", "separator", "max_value", "groups", "folds", "fold")
RULES: dict[str, Rule] = {
    "seed": count(0, 2**32 - 1),
    "log_dir": OF_RUNS,
    "resume": OF_RUNS.or_null(),
    "trusted_targets": NAMES,
    **dict.fromkeys(
        ("retry_failed", "fresh"), Rule("false, or true in a sweep (-m)", lambda v: v is False)
    ),
    **dict.fromkeys(("minutes", "checkpoint.every_minutes"), number(0, above=True).or_null()),
    "plan": Rule("null, or in a sweep (-m) a file of `triptych plan`", lambda v: v is None),
    "same_code": Rule("required, or ignore in a sweep (-m)", lambda v: v == "required"),
    "checkpoint.score": one_of("best", "last"),
    "checkpoint.monitor": TEXT,
    "checkpoint.keep_last": FLAG.or_null(),
    "speed.cache_features": FLAG,
    "checkpoint.every_n_steps": count(1).or_null(),
    "speed.compile": one_of("none", "default", "reduce-overhead", "max-autotune"),
    "data.name": TEXT,
    "data.root": PATH,
    "data.batch_size": count(1, MAX_BATCH),
    "data.augment": either(one_of("none", "standard"), NODE)._replace(
        says="none, standard, or what augment=<choice> or augment._target_=<class> makes"
    ),
    "data.mix": one_of("none", "mixup", "cutmix"),
    "data.sampler": one_of("balanced").or_null(),
    **dict.fromkeys(("data.num_train", "data.num_val", "data.num_test"), count(1).or_null()),
    **dict.fromkeys(("data.source.num_train", "data.source.num_test"), count(1, 10**8).or_null()),
    **dict.fromkeys(("data.split_seed", "data.source.seed"), count(0)),
    "data.num_workers": count(0, MAX_PROCESSES),
    "data.set": TEXT,
    "data.size": count(8, MAX_SIDE).or_null(),
    "data.fit": one_of("crop", "pad", "stretch"),
    "data.max_pixels": count(1, 10**9),
    "data.splits": SPLITS.or_null(),
    **{"data.folds": count(2, 1000).or_null(), "data.fold": count(0, 999).or_null()},
    **{"name": LINE.or_null(), "data.labels": TEXT.or_null(), "data.separator": TEXT.or_null()},
    "data.max_value": number(0, above=True).or_null(),
    "data.groups": either(count(1, 99), TEXT).or_null(),
    "data.source": NODE,
    **dict.fromkeys(("model._target_", "model.name"), TEXT),
    "model.weights": PATH.or_null(),
    **dict.fromkeys(("model.input_size", "model.min_input_size"), count(1, MAX_SIDE).or_null()),
    "model.freeze": one_of("none", "backbone"),
    "model.drop_path": number(0, 1).or_null(),
    "model.known_weights": NAMES.or_null(),
    "model.network": NODE,
    "model.mean": rgb(number(0)),
    "model.std": rgb(number(0, above=True)),
    "optim.name": TEXT,
    "optim.optimizer": NODE,
    "optim.lr": number(0, above=True),
    **dict.fromkeys(("optim.backbone_lr", "optim.layer_decay"), number(0, above=True).or_null()),
    "optim.weight_decay": number(0),
    "optim.schedule": either(one_of(*SCHEDULES), NODE),
    "optim.warmup_epochs": number(0),
    "optim.label_smoothing": number(0, 1),
    "optim.class_weights": one_of("none", "balanced"),
    "loss": NODE._replace(says="what loss=<choice> or loss._target_=<class> makes"),
    "metrics": NAMED_NODES,
    "module": NODE._replace(says="what module=<choice> or module._target_=<class> makes"),
    "trainer.on_oom": one_of("halve").or_null(),
    "tuned": Rule("what tune writes", lambda v: v is None or (type(v) is dict and "seed" in v)),
}

TENSORBOARD = "lightning.pytorch.loggers.TensorBoardLogger"
# What most runs set of the Trainer: of others trainer_rules.py decides.
PLAIN = {
    **dict.fromkeys(("max_epochs", "accumulate_grad_batches", "log_every_n_steps"), count(1)),
    **{"accelerator": one_of("auto", "cpu"), "devices": count(1, MAX_PROCESSES)},
    **{"num_sanity_val_steps": count(0), "enable_model_summary": FLAG},
    "logger": Rule("TensorBoard's", lambda v: [*find_targets(v)] == [TENSORBOARD]),
    **dict.fromkeys(("precision", "callbacks"), Rule("nothing", lambda v: v is None or v == [])),
}
PLAIN_TRAINER = {f"trainer.{name}": rule for name, rule in PLAIN.items()}


def check_config(config: Config, command: str = "train") -> None:
    """Raise UserError, a line a setting, three at most, unless every setting is what it must be."""
    problems = list(find_broken_rules(config, command))
    if not problems:
        settings = load_settings("train" if extends_training(command) else command)
        problems = list(getattr(settings, "find_contradictions", lambda _: ())(config))
    if problems:
        raise UserError("\n".join(problems[:3]))


def find_broken_rules(config: Config, command: str) -> Iterator[str]:
    rules = load_rules(command, is_plain=is_plain_trainer(config.get("trainer")))
    present = dict(iterate_settings(config, rules))
    for key, value in present.items():
        if key not in rules:
            yield describe_unknown_key(key, command)
        elif value == "???":
            yield f"{key}: must be given, {rules[key].says}"
        elif not rules[key].holds(value):
            yield f"{key}={format_value(value)}: must be {rules[key].says}"
    required = [] if command == "train" else [*load_settings(command).RULES]
    required += REQUIRED if extends_training(command) else []
    yield from (
        f"{key}: missing, must be {rules[key].says}" for key in required if key not in present
    )


def describe_unknown_key(key: str, command: str) -> str:
    """The message about a setting that does not exist."""
    rules = load_rules(command)
    group = key.partition(".")[0]
    if key in rules or (group in rules and key in RULES):
        return f"{key}: the {group} that was chosen has no such setting; another may ({group}=...)"
    nearest = closest_matches(key, rules)
    return f"{format_value(key)}: no such setting; nearest: {nearest}"


def iterate_settings(
    config: Config, rules: dict[str, Rule], prefix: str = ""
) -> Iterator[tuple[str, Any]]:
    """Every setting by its dotted key; below somebody else's `_target_`, those of `rules`."""
    for name, value in config.items():
        key = f"{prefix}{name}"
        is_setting = key in rules
        if is_setting or not isinstance(value, dict):
            yield key, value
        if isinstance(value, dict):
            is_ours = str(value.get("_target_", "triptych.")).startswith("triptych.")
            inner = iterate_settings(value, rules, f"{key}.")
            yield from ((k, v) for k, v in inner if k in rules or (is_ours and not is_setting))


def find_contradictions(config: Config) -> Iterator[str]:
    """What is wrong between settings that are each right by themselves."""
    data, model, trainer = config["data"], config["model"], config["trainer"]
    if (tuned := config.get("tuned")) and tuned["seed"] == config["seed"]:
        yield f"seed={tuned['seed']}: trained the trials of {tuned.get('study')}; take another"
    yield from find_missing_images(data)
    is_endless = trainer["max_epochs"] == -1 and trainer.get("max_steps", -1) == -1
    if is_endless and not trainer.get("max_time"):
        yield "trainer.max_epochs=-1: trainer.max_steps or trainer.max_time must then be given"
    is_plain = is_plain_trainer(trainer) and not isinstance(config["optim"]["schedule"], dict)
    if not is_plain or config["checkpoint"].get("monitor", MONITOR) not in MONITORS:
        yield from load_trainer_rules().find_trainer_contradictions(config)
    if data.get("sampler") and config["optim"].get("class_weights") == "balanced":
        yield "data.sampler=balanced: optim.class_weights=balanced corrects the same; take one"
    size, least, batch = model.get("input_size"), model.get("min_input_size"), data["batch_size"]
    if batch > (most := MAX_PIXELS // (size or 224) ** 2):
        yield f"data.batch_size={batch}: of images of {size or 224} pixels a side at most {most}"
    if size and least and size < least:
        yield f"model.input_size={size}: {model['name']} takes {least} or more"
    weights, known = model.get("weights"), model.get("known_weights")
    is_name = weights is not None and not is_weights_path(weights)
    if is_name and known and weights not in ["DEFAULT", *known]:
        file = f"a file ({' '.join(WEIGHT_SUFFIXES)}, or with a /), or a run's folder"
        names = f"DEFAULT, {', '.join(known)}, null, or {file}"
        yield f"model.weights={format_value(weights)}: must be {names}"


def find_missing_images(data: Config) -> Iterator[str]:
    """Parts larger than a set whose size is known, a fold that is none, groups without a name."""
    if groups := data.get("groups"):
        names = import_module("triptych.data.group_names")
        yield from names.find_problems(groups, data.get("labels"))
    folds, fold = data.get("folds"), data.get("fold")
    if folds and (fold is None or fold >= folds):
        yield f"data.fold={format_value(fold)}: of data.folds={folds} must be 0 to {folds - 1}"
    elif fold is not None and not folds:
        yield f"data.folds=null: must be given, as data.fold={fold} is"
    for_train, for_test = (data["source"].get(name) for name in ("num_train", "num_test"))
    num_val = 1 if folds else data["num_val"] or 1  # of which a fold takes the place
    if for_train and (data["num_train"] or 1) + num_val > for_train:
        yield (
            f"data.num_val={format_value(data['num_val'])}: with "
            f"data.num_train={format_value(data['num_train'])} more than the {for_train} "
            "training images"
        )
    if for_test and (data["num_test"] or 1) > for_test:
        yield f"data.num_test={data['num_test']}: there are {for_test} test images"


def is_plain_trainer(trainer: Any) -> bool:
    """Whether a Trainer has only what most runs set, each as it may be."""
    if not isinstance(trainer, dict):
        return True
    return all(name in PLAIN and PLAIN[name].holds(value) for name, value in trainer.items())


def load_trainer_rules() -> Any:
    """The module that knows every argument of the Trainer, which most runs do not need."""
    return import_module("triptych.callbacks.trainer_rules")


def as_list(nodes: Any) -> list[Any]:
    """The nodes of a setting that may be one, several or none."""
    return [nodes] if isinstance(nodes, dict) else nodes or []


def load_settings(command: str) -> Any:
    """The module that describes the settings of a command: this one, or that of a tool."""
    is_train = command == "train"
    return import_module(__name__ if is_train else f"triptych.tools.{command}.settings")


def extends_training(command: str) -> bool:
    """Whether a command takes the settings of a training."""
    return bool(getattr(load_settings(command), "EXTENDS_TRAINING", False))


def load_rules(command: str, *, is_plain: bool = False) -> dict[str, Rule]:
    """The rules of every setting of a command, or without those that a plain Trainer lacks."""
    rules: dict[str, Rule] = load_settings(command).RULES
    if not extends_training(command):
        return rules
    of_trainer = PLAIN_TRAINER if is_plain else load_trainer_rules().RULES
    return RULES | of_trainer | rules


def find_targets(node: Any) -> Iterator[str]:
    """Every `_target_` below a node."""
    yield from (str(each["_target_"]) for _, each in find_nodes(node) if "_target_" in each)


def find_nodes(value: Any, key: str = "") -> Iterator[tuple[str, Config]]:
    """Every mapping that Hydra makes something of, and where it stands, lists left out."""
    if isinstance(value, list):
        for child in value:
            yield from find_nodes(child, key)
    elif isinstance(value, dict):
        if any(re.fullmatch(r"_\w+_", str(name)) for name in value):
            yield key, value
        for name, child in value.items():
            yield from find_nodes(child, f"{key}.{name}" if key else str(name))


def resolve_config(config: DictConfig) -> Config:
    """The resolved config in plain containers, without a recipe's table of models, now used up."""
    resolved = OmegaConf.to_container(config, resolve=True)
    assert isinstance(resolved, dict)
    settings = {str(k): v for k, v in resolved.items() if k not in ("hydra", "per_model")}
    check_chosen(settings)
    fold_parts(settings)
    data = settings.get("data") or {}
    for place, name in product((data, data.get("source") or {}), (*OPTIONAL_DATA, "sampler")):
        if place.get(name) is None:
            place.pop(name, None)
    for path in PATHS:
        node, name = find_node(settings, path)
        if name in node:
            node[name] = expand_home(node[name])
    return settings


def check_chosen(settings: Config) -> None:
    """Raise UserError at settings of a metric, callback or logger that was not chosen."""
    for slot in ("metrics", "callbacks", "logger"):
        for name, node in (settings.get(slot) or {}).items():
            if isinstance(node, dict) and "_target_" not in node:
                raise UserError(f"{slot}.{name}: is not chosen; add {slot}=[{name}]")


def fold_parts(settings: Config) -> None:
    """Put callbacks and loggers that were chosen by name where Lightning's Trainer has them."""
    trainer = settings.get("trainer") or {}
    if callbacks := settings.pop("callbacks", None):
        trainer["callbacks"] = [*as_list(trainer.get("callbacks")), *callbacks.values()]
    if loggers := settings.pop("logger", None):
        trainer["logger"] = [*loggers.values()]
    for node, name in (find_node(settings, key) for key in OPTIONAL if trainer):
        if node.get(name, True) in (None, {}):
            del node[name]


def find_node(settings: Config, key: str) -> tuple[Config, str]:
    """The mapping that holds a dotted setting, empty where there is none, and its name there."""
    *outer, name = key.split(".")
    node: Any = settings
    for each in outer:
        node = node.get(each) if isinstance(node, dict) else None
    return (node if isinstance(node, dict) else {}), name


def expand_home(value: Any) -> Any:
    """A path, or each of several, with the home folder for `~`, which shells leave after a `=`."""
    if isinstance(value, list):
        return [expand_home(each) for each in value]
    is_home = isinstance(value, str) and value.startswith("~")
    return os.path.expanduser(value) if is_home else value


def setting_name(override: str) -> str:
    """The setting that an override sets."""
    return override.lstrip("+").partition("=")[0]


def format_value(value: Any) -> str:
    """A value in one line, of some 80 letters where it has more, with YAML's null, true, false."""
    spelled = {None: "null", True: "true", False: "false"}
    is_python = value is None or type(value) is bool
    text = spelled[value] if is_python else str(value)
    is_long_number = type(value) is int and len(text) > 80
    return f"{text[:80]}..." if is_long_number else shorten(text, 80)


def folder_name(path: str) -> str:
    """The last part of a path, as a name for a folder: letters, digits, - _ and . of it."""
    name = re.sub(r"[^\w.-]+", "_", Path(os.path.expanduser(str(path))).absolute().resolve().name)
    return name.lstrip(".") or "folder"


OmegaConf.register_new_resolver("folder_name", folder_name, replace=True)
