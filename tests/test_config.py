"""What a config must be, over everything in `configs/` and over much that is wrong."""

import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from triptych.cli import list_commands
from triptych.config import (
    CONFIGS,
    REQUIRED,
    RULES,
    TRAINER_ARGUMENTS,
    Config,
    check_config,
    iterate_settings,
    own_rules,
    resolve_config,
)
from triptych.errors import UserError
from triptych.runs.record import config_hash, finite

NETWORKS = ("alexnet", "googlenet", "resnet50")
NEEDS = {  # choices that do not stand alone
    "folder": ["data.root=some/folder"],
    "timm": ["model.name=convnext_tiny"],
    "torchvision": ["model.name=convnext_tiny"],
}
ANY_OTHER = ["model=torchvision", "model.name=convnext_tiny"]
ROOTS = sorted(path.stem for path in CONFIGS.glob("*.yaml"))
NEEDED = {  # what a command must be told
    "evaluate": ["run=logs"],
    "export": ["run=logs"],
    "predict": ["run=logs", "images=photos"],
}
GROUPS_OF_OTHERS = {"image_types": "evaluate", "search": "tune"}
CHOICES = sorted(
    (str(path.parent.relative_to(CONFIGS)), path.stem)
    for path in CONFIGS.rglob("*.yaml")
    if path.parent != CONFIGS
)


@pytest.fixture(scope="module", autouse=True)
def _hydra() -> Iterator[None]:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        yield


def composed(*overrides: str, verb: str = "train") -> Config:
    return resolve_config(compose(verb, [*NEEDED.get(verb, []), *overrides]))


@pytest.fixture(scope="module")
def default() -> Config:
    return composed()


def copy(config: Config) -> Config:
    copied: Config = json.loads(json.dumps(config))
    return copied


def put(config: Config, key: str, value: Any) -> Config:
    """A copy of the config with a value at a dotted key."""
    changed = copy(config)
    *path, last = key.split(".")
    node = changed
    for name in path:
        node = node.setdefault(name, {})
    node[last] = value
    return changed


def refusal(config: Config) -> str:
    try:
        check_config(config)
    except UserError as refused:
        return str(refused)
    return ""


def ways_to_choose(group: str, choice: str) -> list[list[str]]:
    if group == "experiment":
        recipes = [[f"experiment={choice}", f"model={name}"] for name in NETWORKS]
        return [*recipes, [f"experiment={choice}", *ANY_OTHER]] if choice == "finetune" else recipes
    return [[f"{group}={choice}", *NEEDS.get(choice, [])]]


def test_every_yaml_file_composes_into_a_config_that_is_accepted() -> None:
    seen = set()
    for verb in ROOTS:
        check_config(composed(verb=verb), verb)
        seen.add(CONFIGS / f"{verb}.yaml")
    for group, choice in CHOICES:
        verb = GROUPS_OF_OTHERS.get(group, "train")
        for overrides in ways_to_choose(group, choice):
            check_config(composed(*overrides, verb=verb), verb)
        seen.add(CONFIGS / group / f"{choice}.yaml")
    assert seen == set(CONFIGS.rglob("*.yaml"))
    assert {"data", "experiment", "model", "optim", "trainer"} <= {group for group, _ in CHOICES}


@pytest.mark.parametrize("verb", list_commands()[1:])
def test_a_commands_settings_are_those_of_its_yaml_file_and_every_one_is_checked(verb: str) -> None:
    config = composed(verb=verb)
    own = {key.partition(".")[0] for key in own_rules(verb)}
    present = iterate_settings({name: config[name] for name in own}, own_rules(verb))
    assert {key for key, _ in present} == own_rules(verb).keys()
    for key in own_rules(verb):
        with pytest.raises(UserError, match=re.escape(f"{key}=[[1]]: must be ")):
            check_config(put(config, key, [[1]]), verb)
    with pytest.raises(UserError, match=r"^extra: no such setting"):
        check_config(put(config, "extra", 1), verb)


def test_a_choice_is_the_one_that_was_named() -> None:
    for group, choice in CHOICES:
        if group in ("data", "model", "optim"):
            [*_, given] = [choice, *NEEDS.get(choice, [])]
            name = given.replace("/", "=").rpartition("=")[2]
            assert composed(f"{group}={choice}", *NEEDS.get(choice, []))[group]["name"] == name


def test_the_defaults_are_the_reference_studys_setting(default: Config) -> None:
    paper = composed("experiment=paper")
    assert paper == put(default, "checkpoint.score", "last")
    assert (default["optim"]["lr"], default["optim"]["schedule"]) == (0.001, "constant")
    assert (default["data"]["batch_size"], default["trainer"]["max_epochs"]) == (64, 40)
    assert default["model"]["weights"] == "DEFAULT"


def test_trainer_arguments_are_those_of_lightnings_trainer() -> None:
    from lightning.pytorch import Trainer

    assert sorted(TRAINER_ARGUMENTS) == sorted(inspect.signature(Trainer).parameters)


def test_every_required_setting_has_a_rule_and_is_missed_when_it_is_absent(default: Config) -> None:
    for key in REQUIRED:
        assert key in RULES
        without = copy(default)
        *path, last = key.split(".")
        node = without
        for name in path:
            node = node[name]
        del node[last]
        with pytest.raises(UserError, match=f"^{key}: missing"):
            check_config(without)


WRONG: list[tuple[str, Any, str]] = [
    *[("seed", value, "whole number") for value in (True, 1e3, -1, "abc", None, 2**32, 1.5, [0])],
    *[("data.batch_size", value, "at least 1") for value in (0, -4, 1.5, "big", [1], 10**40, None)],
    *[("optim.lr", value, "above 0") for value in (0, -1, "x", {"a": 1}, True, None, 10**400)],
    *[("optim.lr", float(value), "above 0") for value in ("nan", "inf", "-inf", "1e-400")],
    *[("trainer.devices", value, "at least 1") for value in (0, -2, "2", "all", [], [0, 0], True)],
    ("trainer.strategy", "ddp_spawn", "no spawn"),
    ("optim.label_smoothing", 1, "below 1"),
    ("optim.class_weights", "inverse", "none, balanced"),
    ("optim.weight_decay", -0.1, "at least 0"),
    ("optim.warmup_epochs", float("nan"), "at least 0"),
    ("optim.schedule", "linear", "constant, cosine, onecycle"),
    ("optim.schedule", ["cosine"], "constant, cosine, onecycle"),
    ("optim.optimizer", "adam", "_target_"),
    ("optim.optimizer", {"lr": 1}, "_target_"),
    ("optim.name", "", "a text"),
    ("data.num_val", 0, "at least 1"),
    ("data.num_val", 50_000, "50000 training images"),
    ("data.num_train", 40_001, "40001 more than 50000 training images"),
    ("data.num_test", 10_001, "there are 10000 test images"),
    ("data.source", None, "_target_"),
    ("data.source", "cifar", "_target_"),
    ("data.source", {}, "_target_"),
    ("data.source.num_train", "abc", "whole number"),
    ("data.augment", "strong", "none, standard"),
    ("data.num_workers", -1, "at least 0"),
    ("data.root", "", "a text, or null"),
    ("model.name", "???", "must be given"),
    ("model.name", None, "a text"),
    ("model.weights", "", "a text, or null"),
    ("model.weights", "IMAGENET1K_V9", "DEFAULT, IMAGENET1K_V1, null, or a .pth file"),
    ("model.weights", "weights.zip", "or a .pth file"),
    ("model.input_size", 14, "googlenet takes 15 or more"),
    ("model.input_size", 224.0, "whole number"),
    ("model.freeze", "head", "none, backbone"),
    ("model.known_weights", "DEFAULT", "a list of names"),
    ("checkpoint.score", "worst", "best, last"),
    ("checkpoint.keep_last", "no", "true or false"),
    ("checkpoint.every_n_steps", 0, "at least 1"),
    ("log_dir", None, "a text"),
    ("resume", 3, "a text, or null"),
    *[("trainer.max_epochs", value, "at least 1, or -1") for value in (-3, 0, 1.5, "many", None)],
    ("trainer.max_epochs", -1, "trainer.max_steps or trainer.max_time"),
    ("trainer.max_steps", 0, "at least 1, or -1"),
    ("trainer.accelerator", None, "a text"),
    ("trainer.callbacks", 3, "a list of nodes"),
    ("trainer.callbacks", [3], "a list of nodes"),
    ("trainer.callbacks", {"_target_": "a.B"}, "a list of nodes"),
    ("trainer.logger", True, "a list of nodes"),
    ("trainer.gradient_clip_val", -1, "above 0"),
    ("trainer.log_every_n_steps", 0, "at least 1"),
    ("trainer.limit_train_batches", 0, "above 0"),
    ("trainer.detect_anomaly", "maybe", "true or false"),
]


@pytest.mark.parametrize(("key", "value", "may_be"), WRONG)
def test_a_wrong_value_is_refused_with_its_key_and_what_it_may_be(
    default: Config, key: str, value: Any, may_be: str
) -> None:
    with pytest.raises(UserError) as refused:
        check_config(put(default, key, value))
    [line] = str(refused.value).splitlines()
    assert key in line
    assert may_be in line
    assert len(line) < 250


RIGHT: list[tuple[str, Any]] = [
    *[("seed", 2**32 - 1), ("optim.lr", 1), ("optim.backbone_lr", None), ("model.weights", None)],
    *[("data.num_val", 49_999), ("data.num_train", 40_000), ("data.num_test", 10_000)],
    *[("model.weights", "anywhere/mine.pth"), ("model.input_size", 15), ("trainer.max_steps", 5)],
    *[
        ("trainer.precision", "bf16-mixed"),
        ("trainer.strategy", {"any": 1}),
        *[("trainer.devices", value) for value in (1, 4, "auto", [1], [0, 2])],
        ("trainer.num_nodes", 2),
    ],
    *[("trainer.callbacks", [{"_target_": "mine.Callback", "what": 1}]), ("trainer.logger", [])],
    *[("model.mean", [0.5, 0.5, 0.5]), ("data.source", {"_target_": "mine.Source", "x": {"y": 1}})],
]


@pytest.mark.parametrize(("key", "value"), RIGHT)
def test_a_right_value_is_accepted_up_to_its_limit(default: Config, key: str, value: Any) -> None:
    check_config(put(default, key, value))


def test_a_run_without_end_of_epochs_may_end_by_steps_or_time(default: Config) -> None:
    endless = put(default, "trainer.max_epochs", -1)
    check_config(put(endless, "trainer.max_steps", 10))
    check_config(put(endless, "trainer.max_time", "00:01:00:00"))


def test_no_more_than_three_wrong_settings_are_told_at_once(default: Config) -> None:
    config = default
    for key in ("seed", "data.batch_size", "optim.lr", "optim.weight_decay"):
        config = put(config, key, "wrong\nand\nlong" * 100)
    with pytest.raises(UserError) as refused:
        check_config(config)
    lines = str(refused.value).splitlines()
    assert len(lines) == 3
    assert all("must be" in line and len(line) < 250 for line in lines)


def test_a_typo_in_a_yaml_of_ones_own_is_refused(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("optim: {name: mine, lr: 0.1, wieght_decay: 0}\nextra: 1")
    config = resolve_config(OmegaConf.merge(compose("train"), OmegaConf.create({})))
    config["optim"] |= OmegaConf.to_container(OmegaConf.load(mine))["optim"]
    with pytest.raises(UserError, match=r"^optim\.wieght_decay: no such .* optim\.weight_decay"):
        check_config(config)
    with pytest.raises(UserError, match=r"^extra: no such setting"):
        check_config(put(composed(), "extra", 1))


def test_a_node_of_a_foreign_target_takes_what_its_callable_knows(default: Config) -> None:
    node = {"_target_": "mine.Net", "name": "mine", "depth": 9, "blocks": {"width": [1, 2]}}
    check_config(put(default, "model", node))
    with pytest.raises(UserError, match=r"^model\.name: missing"):
        check_config(put(default, "model", {"_target_": "mine.Net", "depth": 9}))
    with pytest.raises(UserError, match=r"^model\.weights=3"):
        check_config(put(default, "model", node | {"weights": 3}))
    ours = node | {"_target_": "triptych.models.torchvision_models.TorchvisionModel"}
    with pytest.raises(UserError, match=r"^model\.depth: no such setting"):
        check_config(put(default, "model", ours))


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=4,
)
places = st.sampled_from([*RULES, "data", "model", "optim", "trainer", "checkpoint", "x", "data.x"])


@settings(max_examples=150, deadline=None)
@given(key=places, value=anything)
def test_whatever_stands_anywhere_is_accepted_or_refused_in_three_lines(
    default: Config, key: str, value: Any
) -> None:
    config = put(default, key, value)
    lines = refusal(config).splitlines()
    assert len(lines) <= 3
    assert lines or len(config_hash(config)) == 64


def shuffled(node: Any, random: Any) -> Any:
    if not isinstance(node, dict):
        return node
    names = list(node)
    random.shuffle(names)
    return {name: shuffled(node[name], random) for name in names}


not_the_experiment = st.sampled_from(
    [
        *[("log_dir", "elsewhere"), ("data.root", "/data"), ("data.source.root", "/data")],
        *[("data.num_workers", 4), ("checkpoint.keep_last", False)],
        *[("trainer.devices", 2), ("trainer.accelerator", "gpu"), ("trainer.strategy", "ddp")],
        *[("trainer.logger", []), ("trainer.log_every_n_steps", 7), ("resume", "logs/x")],
        *[("trainer.enable_progress_bar", False), ("checkpoint.every_n_steps", 10)],
    ]
)


@settings(max_examples=40, deadline=None)
@given(random=st.randoms(use_true_random=False), elsewhere=not_the_experiment)
def test_the_hash_of_a_config_knows_neither_the_order_of_keys_nor_the_machine(
    default: Config, random: Any, elsewhere: tuple[str, Any]
) -> None:
    assert config_hash(shuffled(put(default, *elsewhere), random)) == config_hash(default)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(1, 2**32 - 1), lr=st.floats(1e-6, 1, exclude_max=True))
def test_the_hash_changes_with_seed_and_rate_and_the_groups_with_the_rate_alone(
    default: Config, seed: int, lr: float
) -> None:
    reseeded, faster = put(default, "seed", seed), put(default, "optim.lr", lr * 1.0001)
    assert config_hash(reseeded) != config_hash(default)
    assert config_hash(reseeded, less=("seed",)) == config_hash(default, less=("seed",))
    if faster != default:
        assert config_hash(faster) != config_hash(default)
        assert config_hash(faster, less=("seed",)) != config_hash(default, less=("seed",))


def test_the_hash_leaves_its_config_as_it_was(default: Config) -> None:
    before = copy(default)
    config_hash(default)
    assert default == before


@settings(max_examples=100, deadline=None)
@given(value=anything)
def test_what_json_does_not_know_becomes_null_wherever_it_stands(value: Any) -> None:
    def null_is_right(before: Any, after: Any) -> bool:
        if isinstance(before, dict):
            return before.keys() == after.keys() and all(
                null_is_right(before[key], after[key]) for key in before
            )
        if isinstance(before, list):
            return len(before) == len(after) and all(map(null_is_right, before, after))
        text = repr(before)
        return after is None if text in ("nan", "inf", "-inf", "None") else after == before

    cleaned = finite(value)
    assert null_is_right(value, cleaned)
    assert json.loads(json.dumps(cleaned, allow_nan=False)) == cleaned
