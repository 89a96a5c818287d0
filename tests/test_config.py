"""What a config must be, over everything in `configs/` and over much that is wrong."""

import copy
import inspect
import re
from typing import Any

import pytest

from tests.composing import composed
from triptych.cli import list_commands
from triptych.config import (
    CONFIGS,
    FREE,
    MAX_PROCESSES,
    REQUIRED,
    Config,
    check_config,
    iterate_settings,
    load_rules,
    load_settings,
    load_trainer_rules,
)
from triptych.errors import UserError
from triptych.runs.record import config_hash

NETWORKS = ("alexnet", "googlenet", "resnet50")
TORCHVISION = ["model=torchvision", "model.name=convnext_tiny"]
NEEDS = {  # settings without which a choice, or a command, is not complete
    "data=folder": ["data.root=some/folder"],
    "model=timm": ["model.name=convnext_tiny"],
    "model=torchvision": ["model.name=convnext_tiny"],
    "data=torchvision": ["data.set=STL10"],
    "evaluate": ["run=logs"],
    "export": ["run=logs"],
    "predict": ["run=logs", "images=photos"],
}
GROUPS_OF_TOOLS = {"image_types": "evaluate", "search": "tune"}
CHOICES = sorted(
    (str(path.parent.relative_to(CONFIGS)), path.stem)
    for path in CONFIGS.rglob("*.yaml")
    if path.parent not in (CONFIGS, CONFIGS / "results")  # lists of commands
)


def compose_choice(group: str, choice: str) -> Config:
    command = GROUPS_OF_TOOLS.get(group, "train")
    needs = [*NEEDS.get(command, []), *NEEDS.get(f"{group}={choice}", [])]
    return composed(command, f"{group}={choice}", *needs)


@pytest.fixture(scope="module")
def default() -> Config:
    return composed("train")


def put(config: Config, key: str, value: Any) -> Config:
    """A copy of the config with a value at a dotted key."""
    changed = copy.deepcopy(config)
    *path, last = key.split(".")
    node = changed
    for name in path:
        node = node.setdefault(name, {})
    node[last] = value
    return changed


@pytest.mark.parametrize("command", [path.stem for path in CONFIGS.glob("*.yaml")])
def test_the_config_of_every_command_is_accepted(command: str) -> None:
    composed(command, *NEEDS.get(command, []))
    assert command in list_commands()


assert {"data", "experiment", "hydra/launcher", "model", "optim"} <= {g for g, _ in CHOICES}


@pytest.mark.parametrize(("group", "choice"), CHOICES)
def test_every_choice_of_every_group_composes_into_a_config_that_is_accepted(
    group: str, choice: str
) -> None:
    if group == "experiment":
        networks = [[f"model={name}"] for name in NETWORKS]
        for model in [*networks, TORCHVISION] if choice == "finetune" else networks:
            composed("train", f"experiment={choice}", *model)
    config = compose_choice(group, choice)
    if group in ("data", "model", "optim"):
        [*_, setting] = [choice, *NEEDS.get(f"{group}={choice}", [])]
        assert config[group]["name"] == re.split("[=/]", setting)[-1]


@pytest.mark.parametrize("command", list_commands()[1:])
def test_a_commands_settings_are_those_of_its_yaml_file_and_every_one_is_checked(
    command: str,
) -> None:
    config, rules = composed(command, *NEEDS.get(command, [])), load_settings(command).RULES
    blocks = {key.partition(".")[0] for key in rules}
    present = iterate_settings({name: config[name] for name in blocks}, rules)
    assert {key for key, _ in present} == rules.keys()
    for key in rules:
        with pytest.raises(UserError, match=re.escape(f"{key}=[[1]]: must be ")):
            check_config(put(config, key, [[1]]), command)
    with pytest.raises(UserError, match=r"^extra: no such setting"):
        check_config(put(config, "extra", 1), command)


def test_the_defaults_are_the_reference_studys_setting(default: Config) -> None:
    paper = composed("train", "experiment=paper")
    assert paper == put(default, "checkpoint.score", "last")
    assert (default["optim"]["lr"], default["optim"]["schedule"]) == (0.001, "constant")
    assert (default["data"]["batch_size"], default["trainer"]["max_epochs"]) == (64, 40)
    assert default["model"]["weights"] == "DEFAULT"


def test_trainer_arguments_are_those_of_lightnings_trainer() -> None:
    from lightning.pytorch import Trainer

    names = [name.removeprefix("trainer.") for name in load_trainer_rules().RULES]
    assert sorted(names) == sorted(inspect.signature(Trainer).parameters)


def test_every_required_setting_has_a_rule_and_is_missed_when_it_is_absent(default: Config) -> None:
    for key in REQUIRED:
        without = put(default, key, None)
        *path, last = key.split(".")
        node = without
        for name in path:
            node = node[name]
        del node[last]
        with pytest.raises(UserError, match=f"^{key}: missing"):
            check_config(without)


WRONG: list[tuple[str, Any, str]] = [
    *[("seed", value, "whole number") for value in (True, 1e3, -1, "abc", None, 2**32)],
    *[("optim.lr", value, "above 0") for value in (0, "x", {"a": 1}, True, 10**400)],
    *[("optim.lr", float(value), "above 0") for value in ("nan", "inf")],
    *[("trainer.devices", value, "at least 1") for value in (0, "2", "all", [], [0, 0], True)],
    ("trainer.strategy", "ddp_spawn", "no spawn"),
    ("optim.label_smoothing", 1, "below 1"),
    ("optim.schedule", ["cosine"], "constant, cosine, onecycle"),
    *[("optim.optimizer", value, "_target_") for value in ("adam", {}, {"lr": 1}, None)],
    ("data.num_val", 50_000, "more than the 50000"),
    ("data.num_train", 40_001, "40001 more than the 50000"),
    ("data.num_test", 10_001, "there are 10000 test images"),
    ("data.source.num_train", "abc", "whole number"),
    ("data.root", "", "a path"),
    *[("log_dir", value, "UTF-8 without $NAME") for value in ("$HOME/x", "a${b}", "caf\udce9", "")],
    *[("name", v, "a line of") for v in (5, "", "  ", "a\nb", "\x1b[0m", "caf\udce9", "\u202e")],
    ("resume", "logs/${oc.env:HOME}", "UTF-8 without $NAME"),
    ("model.name", "???", "must be given"),
    ("model.weights", "IMAGENET1K_V9", "DEFAULT, IMAGENET1K_V1, null, or a file (.pth .pth.tar"),
    ("model.weights", "weights.zip", "or a file (.pth .pth.tar"),
    ("model.input_size", 14, "googlenet takes 15 or more"),
    ("model.known_weights", "DEFAULT", "a list of names"),
    ("checkpoint.keep_last", "no", "true or false"),
    *[("data.num_workers", value, "at most") for value in (MAX_PROCESSES + 1, 400, 10**11)],
    *[("trainer.devices", value, "at most") for value in (MAX_PROCESSES + 1, 10**6)],
    *[("trainer.devices", f"0,{n}", "indices") for n in ("1" * 40 + "x", "9" * 50)],
    *[("data.batch_size", value, "at most") for value in (30_000, 2**16 + 1, 10**18)],
    *[("data.source.num_train", value, "at most") for value in (10**9, 10**18)],
    ("model.input_size", 10**5, "at most 4096"),
    ("data.max_pixels", 10**12, "at most"),
    *[("trainer.max_epochs", value, "at least 1, or -1") for value in (-3, 0, 1.5, None)],
    ("trainer.max_epochs", -1, "trainer.max_steps or trainer.max_time"),
    *[("trainer.callbacks", value, "a list of nodes") for value in (3, [3], {"a": "a.B"})],
    ("trainer.logger", True, "a list of nodes"),
]


@pytest.mark.parametrize(("key", "value", "may_be"), WRONG)
def test_an_error_about_a_wrong_value_names_its_key_and_what_it_may_be(
    default: Config, key: str, value: Any, may_be: str
) -> None:
    with pytest.raises(UserError) as raised:
        check_config(put(default, key, value))
    [line] = str(raised.value).splitlines()
    assert key in line
    assert may_be in line
    assert len(line) < 250


# Whole numbers that say how long or which, and ask for no memory and no process.
UNBOUNDED = """
    checkpoint.every_n_steps data.num_train data.num_val data.num_test data.split_seed
    data.source.seed rounds warm_up_steps image_types.num_images top_k num_networks
    num_trials trainer.num_nodes trainer.max_epochs trainer.max_steps trainer.min_epochs
    trainer.min_steps trainer.limit_train_batches trainer.limit_test_batches
    trainer.limit_val_batches trainer.overfit_batches trainer.val_check_interval
    trainer.fast_dev_run trainer.check_val_every_n_epoch trainer.num_sanity_val_steps
    trainer.accumulate_grad_batches trainer.log_every_n_steps
    trainer.reload_dataloaders_every_n_epochs
""".split()


def test_every_whole_number_has_a_bound_unless_it_asks_for_nothing() -> None:
    rules = {key: rule for command in list_commands() for key, rule in load_rules(command).items()}
    rules |= load_trainer_rules().RULES
    whole = {k: r for k, r in rules.items() if r.holds(1) and not r.holds(1.5) and r is not FREE}
    assert len(whole) > 30
    assert {key for key, rule in whole.items() if rule.holds(2**40)} == {*UNBOUNDED}


def test_a_right_value_is_accepted_up_to_its_limit(default: Config) -> None:
    for key, value in (
        *[("seed", 2**32 - 1), ("optim.lr", 1), ("optim.backbone_lr", None)],
        *[("data.num_val", 49_999), ("data.num_train", 40_000), ("data.num_test", 10_000)],
        *[
            ("model.weights", "anywhere/mine.pth"),
            ("model.weights", None),
            ("model.input_size", 15),
        ],
        *[("trainer.devices", value) for value in (4, "auto", "0,", "0,11", "0,1,", [1], [0, 2])],
        *[("data.num_workers", 16), ("data.batch_size", 20_000)],
        *[
            ("trainer.callbacks", {"_target_": "a.B"}),
            ("trainer.logger", []),
            ("model.mean", [0.5] * 3),
        ],
        ("trainer.callbacks", [{"_target_": "mine.Callback", "what": 1}]),
        ("data.source", {"_target_": "mine.Source", "x": {"y": 1}}),
    ):
        check_config(put(default, key, value))
    endless = put(default, "trainer.max_epochs", -1)
    check_config(put(endless, "trainer.max_steps", 10))
    check_config(put(endless, "trainer.max_time", "00:01:00:00"))


def test_an_error_names_three_wrong_settings_at_most_each_in_a_line(default: Config) -> None:
    config = default
    for key in ("seed", "data.batch_size", "optim.lr", "optim.weight_decay"):
        config = put(config, key, "wrong\nand\nlong" * 100)
    with pytest.raises(UserError) as raised:
        check_config(config)
    lines = str(raised.value).splitlines()
    assert len(lines) == 3
    assert all("must be" in line and len(line) < 250 for line in lines)


def test_a_misspelt_setting_is_answered_by_the_nearest(default: Config) -> None:
    with pytest.raises(UserError, match=r"^optim\.wieght_decay: .*optim\.weight_decay"):
        check_config(put(default, "optim.wieght_decay", 0))
    with pytest.raises(UserError, match=r"^extra: no such setting"):
        check_config(put(default, "extra", 1))


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


def reverse_keys(node: Any) -> Any:
    if not isinstance(node, dict):
        return node
    return {name: reverse_keys(node[name]) for name in reversed(node)}


def test_the_hash_of_a_config_depends_on_neither_the_order_of_keys_nor_the_machine(
    default: Config,
) -> None:
    config = reverse_keys(default)
    for key, value in {
        **{"log_dir": "elsewhere", "resume": "logs/x", "data.root": "/d", "data.source.root": "/d"},
        **{"data.num_workers": 4, "checkpoint.keep_last": False, "checkpoint.every_n_steps": 10},
        **{"trainer.devices": 2, "trainer.accelerator": "gpu", "trainer.strategy": "ddp"},
        **{"trainer.logger": [], "trainer.log_every_n_steps": 7, "trainer.enable_progress_bar": 0},
    }.items():
        config = put(config, key, value)
        assert config_hash(config) == config_hash(default), key


def test_the_hash_depends_on_seed_and_rate_and_that_of_a_group_on_the_rate_alone(
    default: Config,
) -> None:
    for key, value, in_group in (("seed", 1, False), ("optim.lr", 0.00100001, True)):
        changed = put(default, key, value)
        assert config_hash(changed) != config_hash(default)
        of_group = (config_hash(config, less=("seed",)) for config in (changed, default))
        assert len(set(of_group)) == 1 + in_group
