"""What a stranger may have done to a run folder: to its values, keys, files, arrays, tensors.

Every way takes a generator, the folder, and a folder `outside` which is somebody's own; it returns
what it did, in words. Files may have been spoilt by another way before.
"""

import copy
import io
import json
import os
import random
import shutil
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import date
from functools import cache, partial
from math import inf, nan
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml  # type: ignore[import-untyped]
from omegaconf import OmegaConf

from triptych.config import CONFIGS, load_rules
from triptych.runs.record import config_hash

MARK = "<b id=stranger>"
Way = Callable[[random.Random, Path, Path], str]

NUMBERS = [0, -1, 1, 2, 3, 50, 1000, 10**6, 10**9, 10**11, 2**31, 2**63, 2**64, -(10**9), 10**400]
NUMBERS += [nan, inf, 1e308, 1e-320, 0.5, -0.5, True, False, None, "10", "1e9"]  # type: ignore[list-item]
WORDS = r"""
    - --help -rf . .. / ~ ~root/x ** * [a- (a+)+$ (?P<x %s%n {} {0.__class__} $HOME $(id) `id` ???
    ${oc.env:HOME} ${seed} ${ ${now:%Y} null nan 1_000 0x10 =1+1 @SUM(1) +1 -1+2 [/] 日本語 \ _ $x^{
    $\frac{1}{$ ![x](http://127.0.0.1:9/) http://127.0.0.1:9/x ftp://127.0.0.1/x sqlite:///x.db
    hf-hub:stranger/model local-dir:/tmp file:///etc/passwd cuda mps auto ddp fsdp slurm deepspeed
    bf16-mixed 64-true transformer-engine advanced DEFAULT IMAGENET1K_V1 resnet18 vit_b_16
""".split()
WORDS += ["", " ", "a\0b", "x" * 300, "x" * 5000, "\t=1", "\uff1d1", "\x1b]0;x\x07", "\udcff"]
WORDS += ["\u202egnp.exe", "\u2066a", "[red]x[/red]", "a\r\n| b |", f"{'a' * 60} {'b' * 60}"]
WORDS += [MARK, f"{MARK}</script><script>alert(1)</script>"]
PATHS = """
    OUT/secret.txt OUT/secret.csv OUT/victim OUT/photos OUT/new/x.pth OUT/** OUT/photos/../x
    file://OUT/secret.txt local-dir:OUT sqlite:///OUT/x.db UP/OUT/victim ../../../outside/secret.txt
    ~/.ssh/id_rsa OUT/../home/.ssh/* /etc/passwd /dev/zero /proc/self/environ ../cwd ../../..
""".split()
TARGETS = """
    trap.Trap os.system os.getcwd builtins.exec builtins.open pathlib.Path.touch subprocess.run
    hydra.utils.get_method hydra.utils.instantiate torch.load torch.hub.load functools.partial
    torch.nn.Linear torch.optim.SGD torchvision.transforms.v2.RandomErasing torchmetrics.Accuracy
    lightning.pytorch.Trainer lightning.pytorch.loggers.CSVLogger lightning.pytorch.callbacks.Timer
    lightning.pytorch.loggers.TensorBoardLogger lightning.pytorch.callbacks.ModelCheckpoint
    triptych.training.train triptych.download.download triptych.models.timm_models.TimmModel
    triptych.models.custom.CustomModel triptych.data.folder.Folder triptych.data.cifar.Cifar no.such
""".split()
ARGUMENTS = """
    root path save_dir dir dirpath filename name weights labels splits url urls archive files size
    num_train num_test
""".split()
CIFAR = {"_target_": "triptych.data.cifar.Cifar", "num_train": 50000, "num_test": 10000}
FOLDER = {"_target_": "triptych.data.folder.Folder", "size": 32, "fit": "crop", "max_pixels": 10**6}
TIMM = {"_target_": "triptych.models.timm_models.TimmModel", "weights": None, "input_size": 32}
OWN = {"_target_": "triptych.models.custom.CustomModel", "weights": None, "input_size": 32}
BOARD = {"_target_": "lightning.pytorch.loggers.TensorBoardLogger"}
# Settings that decide where or how much: a text, a number, a path, any value, a node.
CHOICES = {
    "word": "model.name optim.schedule trainer.profiler trainer.strategy trainer.accelerator "
    "trainer.precision model.weights speed.compile checkpoint.monitor data.name",
    "number": "data.source.num_train data.source.num_test data.source.seed data.num_workers seed "
    "data.batch_size data.num_train data.num_val data.num_test model.input_size optim.lr data.size "
    "trainer.devices trainer.num_nodes trainer.max_epochs trainer.limit_test_batches",
    "path": "data.root data.source.root data.labels data.source.labels data.name model.name "
    "model.weights trainer.default_root_dir log_dir resume trainer.profiler",
    "value": "data.augment model.freeze model.known_weights data.splits hydra trusted_targets",
    "node": "data.source model model.network optim.optimizer trainer.logger trainer.callbacks "
    "trainer.plugins",
}
DRAWN = CHOICES.keys() - {"value"}
# What a run folder may have besides.
FILES = """
    evaluation.json evaluation_val.json cost.json image_types.csv .lock .run.json.123 comparison
    hpc_ckpt_1.ckpt traceback.txt predictions/val.csv predictions/test.csv predictions/mistakes.csv
    predictions/image_types.npz predictions/test_images.npz figures/grad_cam.png figures export
    figures/image_types.png figures/evaluated_test_confusion.png export/squeezenet1_1.pt2 external
    external/photos/evaluation.json comparison/index.html earlier predictions checkpoints shifts
    tensorboard tensorboard/events.out.tfevents.1.x checkpoints/last.ckpt checkpoints/best.ckpt
    shifts/svhn.npz
""".split()
PLANTED = ["\0", "\x1b", "a" * 10**6, "[" * 10**5, '{"a":' * 10**4, "1" * 10**5, "1e999", "NaN"]
PLANTED += ["a: &a [x,x]\nb: &b [*a,*a]\n", "\n<<: *a\n", "\ufeff", "\\ud800", '"seed": 1,', "&x"]
PLANTED += ["!!python/object/apply:os.system [id]\n", "\nseed: 1\nseed: 2\n", ",,,,\n" * 1000]
PLANTED += ['"' + "x" * 200_000]


def mutate(chance: random.Random, folder: Path, outside: Path) -> list[str]:
    """Change a run folder as a stranger might, in one to three ways; what was done."""
    done = []
    for way in chance.choices(WAYS, k=chance.choice([1, 1, 2, 3])):
        with suppress(Exception):  # another way has spoilt the file
            done.append(f"{way.__name__}: {way(chance, folder, outside)}")
    return done


def interrupt(folder: Path) -> None:
    """Make a finished run one that was interrupted before its last epoch."""
    record = json.loads(read(folder / "run.json"))
    config = yaml.safe_load(read(folder / "config.yaml"))
    config["trainer"]["max_epochs"] = record["num_epochs"] + 1
    (folder / "run.json").write_text(json.dumps(record | {"status": "interrupted"}))
    write_config(folder, config)


def read(path: Path) -> str:
    return check(path).read_text()


def check(path: Path) -> Path:
    """The path, where another way has left a file of an ordinary size."""
    if not path.is_file() or path.is_symlink() or path.stat().st_size > 10**8:
        raise ValueError(path)
    return path


def write_config(folder: Path, config: Any) -> None:
    """Write the config, and its hash into the record, as who knows how runs are checked."""
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    record = json.loads(read(folder / "run.json"))
    record["config_hash"] = config_hash(yaml.safe_load(read(folder / "config.yaml")))
    (folder / "run.json").write_text(json.dumps(record))


def draw_path(chance: random.Random, folder: Path, outside: Path) -> str:
    """What is not the folder's, as a stranger may know or guess it."""
    up = "/".join([".."] * len(folder.parts))
    return chance.choice(PATHS).replace("OUT", str(outside)).replace("UP", up)


def draw_value(chance: random.Random, folder: Path, outside: Path, kind: str = "") -> Any:
    """A path, number, word, node or something odd; of any kind unless one is given."""
    kind = kind or chance.choice("path number word node odd".split())
    if kind == "path":
        return draw_path(chance, folder, outside)
    if kind == "node":
        return draw_node(chance, folder, outside)
    deep: Any = "x"
    for _ in range(60):
        deep = [deep] if chance.random() < 0.5 else {"a": deep}
    odd = [date(2026, 1, 1), b"x\xff", {"x"}, {1: 2, None: 3, 1.5: 5}, {"a.b": 1}, {"": 1}, deep]
    odd += [[], {}, [[]], [None], {"a": {"b": 1}}, ["x"] * 1000]
    return chance.choice({"number": NUMBERS, "word": WORDS, "odd": odd}[kind])


@cache
def installed_nodes() -> list[dict[str, Any]]:
    """Every node with a `_target_` in the installed configs."""
    paths = sorted(CONFIGS.rglob("*.yaml"))
    configs = [OmegaConf.to_container(OmegaConf.load(path)) for path in paths]
    inner = [node[key] for config in configs for node, key in places(config)]
    return [node for node in [*configs, *inner] if isinstance(node, dict) and "_target_" in node]


def draw_node(chance: random.Random, folder: Path, outside: Path) -> dict[str, Any]:
    """A node with a target of any kind, and arguments that lead somewhere."""
    path = draw_path(chance, folder, outside)
    ready = [CIFAR | {"num_classes": 10, "root": path}, BOARD | {"save_dir": path, "name": path}]
    ready += [FOLDER | {"root": path}, FOLDER | {"root": f"{outside}/photos", "labels": path}]
    ready += [TIMM | {"name": chance.choice([path, *WORDS])}, OWN | {"name": "x", "network": BOARD}]
    targets = [{"_target_": target} for target in TARGETS]
    node = copy.deepcopy(chance.choice(chance.choice([ready, targets, installed_nodes()])))
    for key in [*node]:
        if "${" in str(node[key]):
            node[key] = draw_path(chance, folder, outside)
    for name in chance.sample(ARGUMENTS, chance.randint(0, 2)):
        node[name] = chance.choice([path, *NUMBERS])
    if chance.random() < 0.2:
        special = chance.choice(["_partial_", "_args_", "_recursive_", "_convert_"])
        node[special] = chance.choice([True, False, [path], "all", [1, 2], {}])
    return node


def places(node: Any) -> Iterator[tuple[Any, Any]]:
    """Every container with a key of it, through nested ones."""
    is_container = isinstance(node, dict | list)
    keys = [*node] if isinstance(node, dict) else range(len(node)) if is_container else []
    for key in keys:
        yield node, key
        yield from places(node[key])


def put(node: Any, key: str, value: Any) -> None:
    *outer, last = key.split(".")
    for name in outer:
        node = node.setdefault(name, {})
    node[last] = value


def change_config(chance: random.Random, folder: Path, outside: Path) -> str:
    """A setting that decides where or how much, or any other; one more, or less."""
    config = yaml.safe_load(read(folder / "config.yaml"))
    kind = chance.choice([*CHOICES, *CHOICES, "more", "less", "other", "other", "other"])
    value = draw_value(chance, folder, outside, kind if kind in DRAWN else "")
    node, key = chance.choice([*places(config)])
    if kind == "less":
        value = node.pop(key)
    elif kind == "other":
        node[key] = value
    else:
        key = chance.choice([*load_rules("train")] if kind == "more" else CHOICES[kind].split())
        put(config, key, [value] if kind == "node" and key.endswith(("s", "logger")) else value)
    write_config(folder, config)
    return f"{kind} {key} {value!r:.200}"


def change_record(chance: random.Random, folder: Path, outside: Path) -> str:
    """An entry of run.json."""
    record, value = json.loads(read(folder / "run.json")), draw_value(chance, folder, outside)
    node, key = chance.choice([*places(record)])
    kind = chance.choice(["classes", "text", "any", "any", "less"])
    if kind == "classes":
        node, key = record, "classes"
        value = [f"{chance.choice(WORDS)}{n}" for n in range(len(record["classes"]))]
    elif kind == "text":
        node, key = record, chance.choice(["model", "data", "name", "device", "command", "weights"])
        value = chance.choice([*WORDS, draw_path(chance, folder, outside)])
    node[key] = value
    if kind == "less":
        del node[key]
    (folder / "run.json").write_text(json.dumps(record))
    return f"{kind} {key} {value!r:.200}"


def change_text(chance: random.Random, folder: Path, outside: Path) -> str:
    """A text, cut, doubled, or with what no run writes in it."""
    path = folder / chance.choice(["config.yaml", "run.json", "metrics.csv", "journal.log"])
    text, words = read(path), chance.choice(PLANTED)
    place = chance.randint(0, len(text))
    kind = chance.choice(["cut", "planted", "before", "after", "doubled"])
    planted = text[:place] + words + text[place:]
    texts = {"cut": text[:place], "planted": planted, "doubled": text + text}
    path.write_text((texts | {"before": words + text, "after": text + words})[kind])
    return f"{path.name} {kind} {words[:40]!r} at {place}"


def replace_file(chance: random.Random, folder: Path, outside: Path) -> str:
    """A file or a folder, by a link, a FIFO, a folder, nothing, or by other content."""
    existing = sorted(folder.rglob("*"))
    inner = [path for path in existing if "journal" not in path.name]
    path = chance.choice([chance.choice(inner), folder / chance.choice(FILES)])
    path.parent.mkdir(parents=True, exist_ok=True)
    contents = {"empty": b"", "random": chance.randbytes(500), "cut": b"x" * 100}
    others = [p for p in existing if p.is_file() and p.stat().st_size < 10**8]
    contents["other"] = chance.choice(others).read_bytes()
    if path in others:
        contents["cut"] = path.read_bytes()[: path.stat().st_size // 2]
    links = {"secret": outside / "secret.txt", "outside": outside, "victim": outside / "victim"}
    links |= {"dangling": outside / "new", "loop": path, "above": Path("..")}
    links["device"] = Path("/dev/zero")
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    makers = {"fifo": os.mkfifo, "folder": os.mkdir, "hard": partial(os.link, links["secret"])}
    kind = chance.choice([*contents, *links, *makers, "sparse", "zip"])
    if kind in contents:
        path.write_bytes(contents[kind])
    elif kind in links:
        path.symlink_to(links[kind])
    elif kind == "sparse":
        path.touch()
        os.truncate(path, 10**12)
    elif kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("../../victim", b"x")
            archive.writestr("logits.npy", bytes(10**8))
    else:
        makers[kind](path)
    return f"{path.relative_to(folder)} {kind}"


def change_arrays(chance: random.Random, folder: Path, outside: Path) -> str:
    """An archive of predictions, with an array that no run writes."""
    path = check(folder / "predictions" / chance.choice(["test.npz", "val.npz", "test_images.npz"]))
    with np.load(path) as file:
        arrays = dict(file)
    name = chance.choice([*arrays])
    array = arrays[name]
    others: dict[str, Any] = {
        "object": np.array([os.system, "x"], dtype=object),
        "nan": np.full(array.shape, np.nan, np.float32),
        "flat": array.reshape(-1),
        "none": array[:0],
        "complex": array.astype(np.complex128),
        "negative": array.astype(np.int64) - 10**6,
        "fortran": np.asfortranarray(array),
        "structured": np.zeros(3, [("a", "i4"), ("b", "f8")]),
        "scalar": np.float32(1),
        "text": np.array(["x" * 10]),
        "more": np.repeat(array, 100, axis=0),
    }
    kind = chance.choice([*others, "absent", "head", "head", "head"])
    arrays[name] = others.get(kind, array)
    if kind == "absent":
        del arrays[name]
    contents = {each: npy(value) for each, value in arrays.items()}
    if kind == "head":
        shapes = [(10**12, 10), (2**62, 2**62), (-1,), (10**9, 10), (10**8, 3, 32, 32)]
        shape = chance.choice(shapes)
        head = io.BytesIO()
        about = {"descr": array.dtype.str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(head, about)
        contents[name], kind = head.getvalue() + bytes(100), f"head says {shape}"
    with zipfile.ZipFile(path, "w") as archive:
        for each, content in contents.items():
            archive.writestr(f"{each}.npy", content)
    return f"{path.name} {name} {kind}"


def npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


class Trap:
    """Makes a folder when it is unpickled."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("trapped",)


def change_checkpoint(chance: random.Random, folder: Path, outside: Path) -> str:
    """A checkpoint with tensors or entries that no training saves."""
    path = check(folder / "checkpoints" / chance.choice(["best.ckpt", "last.ckpt", "last.ckpt"]))
    content = torch.load(path, weights_only=True)
    state = content["state_dict"]
    name = chance.choice([*state])
    tensor = state[name]
    others: dict[str, Any] = {
        "nan": tensor.float() * nan,
        "shape": torch.zeros(3, 3),
        "expanded": torch.zeros(1).expand(10**5, 10**5),
        "complex": torch.zeros(tensor.shape, dtype=torch.complex64),
        "sparse": torch.eye(3).to_sparse(),
        "meta": torch.zeros(tensor.shape, device="meta"),
        "text": "x",
        "code": Trap(),
    }
    kind = chance.choice([*others, "entry", "entry", "entry", "absent", "list", "legacy"])
    state[name] = others.get(kind, tensor)
    if kind == "entry":
        node, key = chance.choice([place for place in places(content) if place[0] is not state])
        value = node[key] = draw_value(chance, folder, outside)
        kind = f"{key} {value!r:.100}"
    elif kind == "absent":
        del state[name]
    elif kind == "list":
        content = [content]
    torch.save(content, path, _use_new_zipfile_serialization=kind != "legacy")
    return f"{path.name} {name} {kind}"


WAYS: list[Way] = [change_config, change_record, replace_file, change_text, change_arrays]
WAYS += [change_config, change_config, replace_file, change_checkpoint]
