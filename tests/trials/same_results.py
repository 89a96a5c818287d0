"""What a refactoring must not change: small runs, what is made of them, and refusals.

From the repository's root, a minute and a half each on two cores:

    python tests/trials/same_results.py record FILE.json    # before
    python tests/trials/same_results.py check FILE.json     # after: prints what differs

Everything goes through the command line and run folders, so that modules may move; `--renamed` then
says what a `_target_` was called before. Figures are compared to the last bit, which another kind
of processor need not give: a record is for the machine that it was made on.
"""

import argparse
import csv
import hashlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from omegaconf import OmegaConf

RENAMED: dict[str, str] = {}  # --renamed: what a _target_ is called now, and was in the record

SHARED = """
    data=shapes data.source.num_train=260 data.source.num_test=60 data.num_train=200 data.num_val=50
    data.batch_size=10 trainer.accelerator=cpu trainer.precision=32-true
    trainer.max_epochs=2 trainer.log_every_n_steps=2
"""
NUM_STEPS = 20  # an epoch
SCRATCH = "model.weights=null model.input_size"
RUNS = {
    "alexnet": f"model=alexnet {SCRATCH}=63 optim.lr=1e-4 trainer.max_epochs=1",
    "googlenet": f"model=googlenet {SCRATCH}=32 data.augment=standard optim.label_smoothing=0.1",
    "resnet50": f"model=resnet50 {SCRATCH}=32 data.mix=mixup optim=sgd optim.schedule=onecycle",
    "resumed": f"model=torchvision model.name=mobilenet_v3_small {SCRATCH}=32 data.augment=standard"
    " data.mix=cutmix optim=adamw checkpoint.every_n_steps=2 trainer.log_every_n_steps=1",
    "two ranks": f"model=googlenet {SCRATCH}=32 seed=1 trainer=ddp trainer.devices=2",
    "probe": "experiment=probe model=resnet50 model.input_size=32 trainer.max_epochs=3",
}
# What no two runs have in common, or no two versions; hashes are computed here, from old names.
PASSING = """
    config_hash group_hash versions git_commit command slurm_job_id device folder started_at
    finished_at evaluated_at measured_at train_seconds feature_seconds compile_seconds
    seconds_per_epoch images_per_second train/images_per_second train_images_per_second
    latency_ms_p50 latency_ms_p95 throughput_images_per_second throughput_batch_size
    peak_memory_bytes checkpoint_bytes code seconds_total
""".split()
NOT_THE_EXPERIMENT = """
    log_dir resume trusted_targets retry_failed fresh same_code minutes data.root data.num_workers
    data.source.root data.source.urls checkpoint.keep_last checkpoint.every_n_steps
    checkpoint.every_minutes speed.compile speed.cache_features trainer.accelerator
    trainer.strategy trainer.devices
    trainer.num_nodes trainer.logger trainer.log_every_n_steps trainer.enable_progress_bar
    trainer.enable_model_summary trainer.enable_checkpointing trainer.profiler
    trainer.default_root_dir trainer.num_sanity_val_steps trainer.benchmark
""".split()

# Wrong by itself: each word makes a command line, whose refusal must name its setting.
ALONE = """
    +data.colour=red ~nope=1 optim.learning_rate=1 modell=googlenet trainer.max_epochz=3
    model=googlenett data=cifar optim=null experiment=nope optim.lr=-1 optim.lr=fast optim.lr=1,2
    optim.lr seed=1.5 data.batch_size=0 data.mix=cutout model.freeze=head data.source={a:
    model.input_size=14 model.weights=V3 trainer.max_epochs=0 trainer.max_epochs=-1
    trainer.devices=[1,1] trainer.strategy=ddp_spawn trainer.callbacks=early log_dir=null resume=RUN
    checkpoint.score=worst speed.compile=fast retry_failed=true resume=ROOM --config-name --mulitrun
""".split()
# Command lines, and what a refusal must name. RUN is a finished run, ROOM an empty folder.
WRONG = """
    train =3 | =3
    train model=torchvision | model.name
    train model.weights=null | cifar-10
    train data=shapes model=googlenet | weights of googlenet
    train data=shapes model=alexnet model.weights=ROOM/a.pth | a.pth
    train data=shapes model=torchvision model.name=resnet | model.name=resnet
    train data=shapes data.num_train=10 data.num_val=5999 | data.num_val=5999
    train data=folder data.root=ROOM model.weights=null | ROOM: no images
    train -m optim.lr=0.1,-1 | optim.lr=-1
    train -m data=shapes hydra.launcher.num_jobs=0 | num_jobs
    evaluate | run:
    evaluate run=ROOM | run=ROOM
    evaluate run=RUN image_types.types=[noize] | noize
    evaluate run=RUN split=val protocol=paper | protocol=paper
    evaluate -m run=RUN | -m
    compare runs=nowhere | runs=nowhere
    compare runs=RUN out=RUN | out=RUN
    predict run=RUN | images:
    predict run=RUN images=ROOM | images
    predict run=RUN images=ROOM top_k=0 | top_k=0
    export run=RUN format=tflite | format=tflite
    export run=RUN out=README.md | out=README.md
    tune num_trials=0 | num_trials=0
    tune data=shapes 'search.optim.lr={low:1,high:0}' | search.optim.lr
    serve runs=RUN port=70000 | port=70000
    serve runs=ROOM | runs=ROOM
    benchmark data=shapes mode=idle | mode=idle
"""

Facts = dict[str, Any]


class Room:
    """A folder for all that is written, and an environment that knows no other and no network."""

    def __init__(self, path: Path) -> None:
        self.path, self.logs, self.bare = path, path / "logs", path / "bare"
        self.bare.mkdir()
        ours = re.compile("HYDRA_FULL_ERROR|TRIPTYCH_.*|.*_proxy", re.IGNORECASE)
        self.env = {name: value for name, value in os.environ.items() if not ours.fullmatch(name)}
        self.env |= dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:9")
        self.env |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "LOG_DIR": str(self.logs)}
        self.env |= {
            name: str(path / name) for name in ("DATA_DIR", "TORCH_HOME", "XDG_STATE_HOME")
        }

    def python(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        options: Any = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True}
        return subprocess.run([sys.executable, *arguments], env=self.env, timeout=600, **options)

    def done(self, command: str, *arguments: str) -> list[str]:
        """The lines that a command prints, which must end well."""
        ended = self.python(*program(command), *arguments)
        if ended.returncode:
            raise RuntimeError(f"{command}: exit code {ended.returncode}: {ended.stderr[-1000:]}")
        return ended.stdout.splitlines()

    def folder(self, name: str) -> Path:
        """The folder of a run; there must be one, and no other."""
        [path] = (self.logs / name).rglob("run.json")
        return path.parent


def program(command: str) -> list[str]:
    """Python's arguments that start a command, in whichever form this state of the code has."""
    if Path(f"{command}.py").exists():
        return [f"{command}.py"]
    stands_alone = Path("src", "triptych", f"{command}.py").exists()
    return ["-m", f"triptych.{command}"] if stands_alone else ["-m", "triptych", command]


def train_run(room: Room, name: str) -> Facts:
    """A run from its beginning to its end, and what its folder then holds."""
    typed = [*SHARED.split(), *RUNS[name].split(), f"log_dir={room.logs / name}"]
    if name == "resumed":
        kill_within_epoch(room, typed, room.logs / name)
        typed = [f"resume={room.folder(name)}"]
    room.done("train", *typed)
    return read_run(room.folder(name))


def kill_within_epoch(room: Room, typed: list[str], log_dir: Path) -> None:
    """Start a run, and kill it when its first epoch has some lines and a checkpoint."""
    command, quiet = [sys.executable, *program("train"), *typed], subprocess.DEVNULL
    with subprocess.Popen(command, env=room.env, stdout=quiet, stderr=quiet) as process:
        lines = 0
        while process.poll() is None and not (lines > 5 and any(log_dir.rglob("last.ckpt"))):
            time.sleep(0.01)
            lines = sum(path.read_text().count("\n") for path in log_dir.rglob("metrics.csv"))
        process.kill()
    if process.returncode != -signal.SIGKILL or lines > NUM_STEPS:
        raise RuntimeError(f"not killed within its first epoch (exit code {process.returncode})")


def read_run(folder: Path) -> Facts:
    """All that a run folder holds, less what passes."""
    facts, settings = json.loads((folder / "run.json").read_text()), read_experiment(folder)
    of_group = {name: value for name, value in settings.items() if name != "seed"}
    hashes = {"config_hash": hash_settings(settings), "group_hash": hash_settings(of_group)}
    if not RENAMED and any(facts[name] != value for name, value in hashes.items()):
        raise RuntimeError("the hashes in run.json are not those of config.yaml")
    facts["overrides"] = [typed for typed in facts["overrides"] if "/" not in typed]
    paths = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    arrays = sorted([*folder.glob("checkpoints/*.ckpt"), *folder.glob("predictions/*.npz")])
    return {path.name: digest(path) for path in arrays} | {
        **hashes,
        "settings": settings,
        "run.json": drop_passing(facts),
        "metrics.csv": read_rows(folder / "metrics.csv"),
        "files": sorted(str(path) for path in paths if path.parts[0] != "tensorboard"),
    }


def read_experiment(folder: Path) -> Facts:
    """The settings of a run that make its hash, their `_target_`s by the names of then."""
    text = (folder / "config.yaml").read_text()
    for now, then in RENAMED.items():
        text = text.replace(f"_target_: {now}", f"_target_: {then}")
    settings: Any = OmegaConf.to_container(OmegaConf.create(text))
    for key in NOT_THE_EXPERIMENT:
        *path, last = key.split(".")
        node = settings
        for name in path:
            node = node.get(name) or {}
        node.pop(last, None)
    if settings["checkpoint"].get("monitor") == "val/accuracy":  # as before there was a choice
        del settings["checkpoint"]["monitor"]
    return dict(settings)


def hash_settings(settings: Facts) -> str:
    canonical = json.dumps(settings, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def digest(path: Path) -> str:
    """SHA-256 over the arrays of a file, whatever the order of their names."""
    if path.suffix == ".npz":
        named = dict(np.load(path, allow_pickle=False))
    else:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)["state_dict"]
        named = {name: tensor.numpy() for name, tensor in state.items()}
    told = hashlib.sha256()
    for name, array in sorted(named.items()):
        told.update(f"{name} {array.dtype} {array.shape} ".encode() + array.tobytes())
    return told.hexdigest()


def drop_passing(facts: Facts) -> Facts:
    return {name: value for name, value in facts.items() if name not in PASSING}


def read_rows(path: Path) -> list[str]:
    """The lines of a table, less what passes and what is empty."""
    with path.open(newline="") as file:
        lines = [drop_passing(row) for row in csv.DictReader(file)]
    return [" ".join(f"{name}={value}" for name, value in line.items() if value) for line in lines]


def plant_weights(room: Room) -> None:
    """Random weights where a probe looks for pretrained ones."""
    torch.manual_seed(0)
    url = torchvision.models.ResNet50_Weights.DEFAULT.url
    path = Path(room.env["TORCH_HOME"], "hub", "checkpoints", Path(url).name)
    path.parent.mkdir(parents=True)
    torch.save(torchvision.models.resnet50().state_dict(), path)


def evaluate_run(room: Room) -> Facts:
    folder = room.folder("googlenet")
    few = ("device=cpu", "cost_seconds=0.05", "image_types=all", "image_types.num_images=20")
    room.done("evaluate", f"run={folder}", *few)
    names = ("evaluation.json", "cost.json")
    facts: Facts = {name: drop_passing(json.loads((folder / name).read_text())) for name in names}
    return facts | {"image_types.csv": read_rows(folder / "image_types.csv")}


def compare_runs(room: Room) -> Facts:
    out = room.path / "comparison"
    said = room.done("compare", f"runs={room.logs}", f"out={out}")
    sentences = [line for line in said if str(room.path) not in line]
    return {"comparison.csv": sorted(read_rows(out / "comparison.csv")), "said": sentences}


def type_wrong(room: Room, line: str, setting: str) -> Facts:
    """How a wrong command line ends; Python tells, among the lines on stderr, what it imports."""
    places = {"RUN": str(room.folder("alexnet")), "ROOM": str(room.bare)}
    line, named = (re.sub("RUN|ROOM", lambda at: places[at[0]], text) for text in (line, setting))
    command, *typed = shlex.split(line)
    ended = room.python("-X", "importtime", *program(command), *typed)
    every = ended.stderr.splitlines()
    said = [each for each in every if not each.startswith("import time:")]
    facts: Facts = {"exit code": ended.returncode, "lines": len(said), "names": setting}
    facts["imports torch"] = any(re.fullmatch(r"import time:.*\| +torch", each) for each in every)
    if ended.returncode != 2 or not 1 <= len(said) <= 3 or named not in "\n".join(said):
        facts["wrong"] = "\n".join(said[-5:])
    return facts


def attempt(function: Callable[..., Facts], *arguments: Any) -> Facts:
    """What the function finds, or how it failed: the rest is to be tried all the same."""
    sys.stderr.write(" ".join([function.__name__, *arguments[1:]]) + "\n")
    try:
        return function(*arguments)
    except Exception as error:
        return {"wrong": f"{type(error).__name__}: {error}"}


def record_all(room: Room) -> Facts:
    plant_weights(room)
    alone = ((f"train {word}", word.lstrip("+~").partition("=")[0]) for word in ALONE)
    wrong = dict(alone) | dict(line.strip().split(" | ") for line in WRONG.strip().splitlines())
    with ThreadPoolExecutor(2) as pool:
        runs = list(pool.map(lambda name: attempt(train_run, room, name), RUNS))
        facts = {"evaluate": attempt(evaluate_run, room), "compare": attempt(compare_runs, room)}
        refusals = list(pool.map(lambda pair: attempt(type_wrong, room, *pair), wrong.items()))
    return facts | {
        "runs": dict(zip(RUNS, runs, strict=True)),
        "refused": dict(zip(wrong, refusals, strict=True)),
        "number of runs": len([*room.logs.rglob("run.json")]),  # a refusal leaves none
    }


def iterate_leaves(node: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every value under the path to it, floats in all their digits."""
    if not isinstance(node, dict | list) or not node:
        yield key, repr(node)
        return
    for name, value in node.items() if isinstance(node, dict) else enumerate(node):
        yield from iterate_leaves(value, f"{key} > {name}" if key else str(name))


def check(old: Facts, new: Facts) -> int:
    """Print what differs, value by value; how many do."""
    before, now = (dict(iterate_leaves(facts)) for facts in (old, new))
    differing = [key for key in dict.fromkeys([*before, *now]) if before.get(key) != now.get(key)]
    for key in differing:
        print(f"{key}\n  old: {before.get(key, 'none')}\n  new: {now.get(key, 'none')}")
    print(f"{len(differing)} of {len(before)} values differ")
    return len(differing)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=("record", "check"))
    parser.add_argument("file", type=Path)
    parser.add_argument("--renamed", nargs="*", default=[], metavar="NOW=THEN", help="of _target_s")
    arguments = parser.parse_args()
    RENAMED.update(pair.split("=") for pair in arguments.renamed)
    old = json.loads(arguments.file.read_text()) if arguments.what == "check" else None
    with tempfile.TemporaryDirectory(prefix="triptych-same-") as folder:
        new = json.loads(json.dumps(record_all(Room(Path(folder)))))
    wrong = [f"{key}: {value}" for key, value in iterate_leaves(new) if key.endswith(" > wrong")]
    print(*wrong, sep="\n", end="\n" * bool(wrong))
    if old:
        return min(1, check(old, new))
    arguments.file.write_text(json.dumps(new, indent=1) + "\n")
    print(f"{len(dict(iterate_leaves(new)))} values recorded")
    return min(1, len(wrong))


if __name__ == "__main__":
    sys.exit(main())
