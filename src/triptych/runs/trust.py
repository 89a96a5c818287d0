"""What of a run folder's config may be used: the folder may be somebody else's, or edited by hand.

A `_target_` in it would be imported and called, and a text become a path or an address. So both are
taken from the installed configs, or from what is typed now. Where the owner of a run has typed a
place of their own, a signature in `run.json` says so, by a key that no other user can read.
"""

import hmac
import os
import re
import secrets
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import hydra
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from triptych.config import CONFIGS, FREE, RULES, Config, check_config, find_nodes, format_value
from triptych.errors import UserError

if TYPE_CHECKING:
    from triptych.runs.record import Record

# The settings of a run's Trainer that bear on its scores.
SCORING = ("limit_test_batches", "limit_val_batches", "fast_dev_run", "deterministic", "benchmark")
KEY_BYTES = 32
# How to read photos and their labels, folders below their root, names of ours.
HOW = ("fit", "splits", "separator", "set", "groups")
PLACES = ("root", "labels")  # of photos: only their owner knows

# The class that all of a slot are of, and the modules of libraries that have harmless ones: none
# that fetches weights, or sends what it gets to somebody.
BASES = {
    "optim.optimizer": ("torch.optim.Optimizer", "torch.optim", "timm.optim"),
    "optim.schedule": ("torch.optim.lr_scheduler.LRScheduler", "torch.optim"),
    "loss": ("torch.nn.Module", "torch.nn", "timm.loss"),
    "metrics": (
        *("torchmetrics.Metric", "torchmetrics.classification", "torchmetrics.aggregation"),
        *("torchmetrics.regression", "torchmetrics.wrappers"),
    ),
    "data.augment": ("torchvision.transforms.v2.Transform", "torchvision.transforms.v2"),
    "trainer.callbacks": ("lightning.pytorch.callbacks.Callback", "lightning.pytorch.callbacks"),
    "trainer.logger": (
        *("lightning.pytorch.loggers.Logger", "lightning.pytorch.loggers.csv_logs"),
        "lightning.pytorch.loggers.tensorboard",
    ),
}
# Where a run has what a group of configs chooses, if not under the group's own name.
PLACED = {
    **{"augment": "data.augment", "schedule": "optim.schedule", "metrics": "metrics.{}"},
    **{name: f"trainer.{name}" for name in ("callbacks", "logger")},
}
OF_PARTS = ("data.augment", "optim.schedule", "metrics")  # whose classes are made of others
# Names of arguments that say where something lies or goes, and as whom; texts that may.
PLACE = re.compile(
    "dir|path|file|root|url|uri|host|address|location|key|token|entity|workspace", re.IGNORECASE
)
PLACE_TEXT = re.compile(r"[/\\:~]|\.\.")
MODULE = re.compile(r"[a-z]\w*(\.[a-z]\w*)*", re.ASCII)  # no private one
PLAIN_TEXT = re.compile(r"(train|val|test)/\w+|[\d:]+", re.ASCII)  # a metric, a duration


class Node(NamedTuple):
    """A mapping that Hydra makes an object of: where it stands, lists left out, and of what."""

    slot: str
    target: Any
    options: str  # _partial_, _args_ and others of Hydra's, as one text


def check_untrusted_config(config: Config, trusted: Iterable[str] = ()) -> None:
    """Raise UserError where the config of a run folder breaks a rule of `check_config`, has a
    `_target_` that neither `trusted` names nor an installed config has in the same place, or an
    interpolation, which could resolve to one: what a run writes is resolved."""
    if "${" in repr(config):
        raise UserError("config.yaml: holds an interpolation ${...}; write its value there instead")
    if r"\x00" in repr(config):  # the end of a name for the system, and none for Python
        raise UserError("config.yaml: holds a NUL, which no text of a config has")
    if unknown := [node for node in find_unknown_nodes(config) if node.target not in {*trusted}]:
        names = ",".join(sorted({node.target for node in unknown}))
        places = ", ".join(sorted({node.slot for node in unknown}))
        raise UserError(
            f"_target_={names}: not in the installed configs, or not as {places}\n"
            f"if you trust what it runs, add 'trusted_targets=[{names}]'"
        )
    check_config(config)


def find_signed_targets(record: "Record") -> set[str]:
    """The `_target_`s of a run that its owner, this user, has trained with."""
    is_own = is_signed(record.folder, record.metadata.get("signature"))
    return find_unknown_targets(record.config) if is_own else set()


def find_unknown_targets(config: Config) -> set[str]:
    """Every `_target_` that the installed configs do not have in its place."""
    return {node.target for node in find_unknown_nodes(config)}


def find_unknown_nodes(config: Config) -> Iterator[Node]:
    """Raises UserError at a `_target_` that is no text."""
    for slot, mapping in find_nodes(config):
        node = read_node(slot, mapping)
        if type(node.target) is not str:
            raise UserError(f"{node.slot}._target_={format_value(node.target)}: must be a text")
        is_known = node in installed_nodes()
        if slot == "trainer.logger" or not is_known:  # where others' places are checked, too
            is_known = not names_place(mapping) and (is_known or is_public_class(node))
        if not is_known:
            yield node


def names_place(value: Any) -> bool:
    """Whether a setting may be, or hold, a path or an address, or say who somebody is."""
    if isinstance(value, dict):
        inner = {str(k): v for k, v in value.items() if not re.fullmatch(r"_\w+_", str(k))}
        return any(
            (PLACE.search(name) and each is not None) or names_place(each)
            for name, each in inner.items()
        )
    if isinstance(value, list):
        return any(map(names_place, value))
    is_text = isinstance(value, str) and not PLAIN_TEXT.fullmatch(value)
    return is_text and PLACE_TEXT.search(value) is not None


def is_public_class(node: Node) -> bool:
    """Whether a node is of a class that a library has for its slot, or for the slot around it
    whose parts it is made of. The library is imported, nothing of the node is called.
    """
    around = (slot for slot in OF_PARTS if is_within(node.slot, slot))
    slot = node.slot if node.slot in BASES else next(around, None)
    place, _, name = node.target.rpartition(".")
    if node.options != "{}" or slot is None or not MODULE.fullmatch(place):
        return False
    base, *libraries = BASES[slot]
    if not any(is_within(place, lib) or is_within(lib, place) for lib in libraries):
        return False
    with suppress(ImportError):
        made = getattr(import_module(place), name, None)
        module, _, base_name = base.rpartition(".")
        kind = getattr(import_module(module), base_name)
        is_of_library = any(is_within(getattr(made, "__module__", ""), lib) for lib in libraries)
        return isinstance(made, type) and issubclass(made, kind) and is_of_library
    return False


def is_within(module: str, package: str) -> bool:
    return f"{module}.".startswith(f"{package}.")


def read_node(slot: str, mapping: Config) -> Node:
    options = {k: v for k, v in mapping.items() if re.fullmatch(r"_\w+_", str(k))}
    return Node(slot, options.pop("_target_", None), repr(options))


@cache
def installed_nodes() -> set[Node]:
    nodes, groups_of_runs = set[Node](), {key.partition(".")[0] for key in RULES}
    for path in CONFIGS.rglob("*.yaml"):
        groups = path.relative_to(CONFIGS).parent.parts
        is_global = not groups or "@package _global_" in path.read_text()
        slots = [".".join(groups[: n + 1]) for n in range(len(groups))]  # data=mine/birds
        slots = [PLACED.get(slot, slot).format(path.stem) for slot in slots]
        content = OmegaConf.to_container(OmegaConf.load(path))
        for slot in [""] if is_global else slots:
            nodes |= {read_node(*found) for found in find_nodes(content, slot)}
    return {node for node in nodes if node.slot.partition(".")[0] in groups_of_runs}


def drop_training_parts(config: Config) -> Config:
    """The config of a run without what only its training had: callbacks, loggers, plugins, loss,
    schedule, augmentation and workers."""
    names = ("max_epochs", "max_steps", "max_time", "accelerator", *SCORING)
    trainer = config.get("trainer")
    kept = {n: trainer[n] for n in names if n in trainer} if isinstance(trainer, dict) else {}
    data = config.get("data")
    data = data | {"num_workers": 0, "augment": "none"} if isinstance(data, dict) else data
    optim = config.get("optim")
    plain = {"schedule": "constant", "label_smoothing": 0.0}
    optim = optim | plain if isinstance(optim, dict) else optim
    rest = {name: value for name, value in config.items() if name != "loss"}
    return rest | {"trainer": kept, "data": data, "optim": optim}


def localize_source(
    config: Config, trusted: Iterable[str], typed: Config | None = None
) -> tuple[dict[str, Any], list[str]]:
    """The settings of the data source of a checked config that nobody here has signed, and which of
    them are places that have to be typed.

    Texts are those of the installed data set, or `typed` now, for a run to resume. Raises UserError
    at other arguments than that has, and where a run to resume had other texts than `root`.
    """
    settings, unknown = dict(config["data"]["source"]), list[str]()
    target = settings.pop("_target_")
    is_ours = target.startswith("triptych.data.")
    installed = find_installed_source(target, config["data"]["name"])
    for name, value in [] if target in {*trusted} else [*settings.items()]:
        refusal = UserError(
            f"data.source.{name}={format_value(value)}: not in the installed configs\n"
            f"if you trust what it does, add 'trusted_targets=[{target}]'"
        )
        rule = RULES.get(f"data.source.{name}") or RULES.get(f"data.{name}", FREE)
        if name not in installed or (is_ours and not rule.or_null().holds(value)):
            raise refusal
        is_place = isinstance(value, str | list | dict) and not (is_ours and name in HOW)
        if not is_place or value in (installed[name], (typed or {}).get(name)):
            continue
        if installed[name] is not None and (typed is None or name == "root"):
            settings[name] = installed[name]
        elif not (is_ours and name in PLACES):
            raise refusal
        elif not is_below_data_dir(value):
            unknown.append(name)
    return {"_target_": target} | settings, unknown


def is_below_data_dir(path: str) -> bool:
    data_dir = os.path.realpath(os.environ.get("DATA_DIR") or "data")
    return "\0" not in path and Path(os.path.realpath(path)).is_relative_to(data_dir)


def find_installed_source(target: str, name: str) -> dict[Any, Any]:
    """The arguments that an installed data set gives a source of this `_target_`, by preference the
    one of this name; each is None where it has to be typed."""
    paths = [*(CONFIGS / "data").rglob("*.yaml")]
    for path in sorted(paths, key=lambda p: (p.stem != name, target not in p.read_text(), p)):
        source = compose_data(path.relative_to(CONFIGS / "data").with_suffix("")).source
        if source.get("_target_") == target:
            return {name: resolve_node(source, name) for name in source}
    return {}


def resolve_node(source: Any, name: str) -> Any:
    """An argument of a source as plain Python; None where it has to be typed."""
    with suppress(OmegaConfBaseException):
        value = source[name]
        return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
    return None


@cache
def compose_data(choice: Path) -> Any:
    """An installed data set; it is resolved when it is used, as the environment may change."""
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return hydra.compose("train", [f"data={choice}"]).data


def is_signed(folder: Path, signature: Any) -> bool:
    """Whether this user has trained with the config that lies in a run folder."""
    expected = sign(folder, make_key=False) if isinstance(signature, str) else None
    given = str(signature).encode(errors="replace")
    return expected is not None and hmac.compare_digest(given, expected.encode())


def sign(folder: Path, *, make_key: bool = True) -> str | None:
    """HMAC-SHA256 of the config that lies in a run folder; None where this user has no key."""
    key = read_key(make=make_key)
    text = (folder / "config.yaml").read_bytes()
    return hmac.new(key, text, "sha256").hexdigest() if key else None


def read_key(*, make: bool) -> bytes | None:
    """This user's key, made if need be; None where there is none, or others can read it."""
    home = os.environ.get("XDG_STATE_HOME", "")
    with suppress(OSError, RuntimeError):  # no home, one that cannot be written, no links in it
        state = Path(home) if os.path.isabs(home) else Path.home() / ".local" / "state"
        path = state / "triptych" / "key"
        if make and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=path.parent) as file:  # for its owner alone
                file.write(secrets.token_bytes(KEY_BYTES))
                file.flush()
                with suppress(FileExistsError):  # another process was first
                    os.link(file.name, path)
        with path.open("rb") as file:
            status, key = os.fstat(file.fileno()), file.read(KEY_BYTES + 1)
            is_own = status.st_uid == os.geteuid() and not status.st_mode & 0o077
            return key if is_own and len(key) == KEY_BYTES else None
    return None
