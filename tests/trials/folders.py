"""Run folders of strangers: mutated as a whole, and given to every command that reads one.

`python -m tests.trials.folders [--seed 0] [--examples 300] [--names evaluate,...]` counts how the
commands end, and exits with 1 where one ends otherwise than docs/run-folders.md allows: with a
traceback or silence, after reading or writing outside, a connection, a process, too much time or
memory. An example is known by its number: `--seed <number> --examples 1` tries it again.

A command runs in a forked process behind an audit hook, which keeps it from doing what it must not.
torch is imported once, before the forks.
"""

import argparse
import csv
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from tests.composing import composed
from tests.trials.child import find_exit_code
from tests.trials.mutations import MARK, interrupt, mutate, put
from triptych import cli, library, training
from triptych.runs.reader import find_newest_run
from triptych.tools.compare import command as _compare  # noqa: F401 (before the forks)
from triptych.tools.evaluate import command as evaluation
from triptych.tools.export import artifact as _export  # noqa: F401
from triptych.tools.predict import prediction as _predict  # noqa: F401

ROOT = Path(__file__).parents[2]
# Of one command: processor time, memory above this process's, and processes.
SECONDS, MEGABYTES, PROCESSES = 60, 4000, 20
FOLDERS = {"HOME": "home", "DATA_DIR": "data", "LOG_DIR": "logs", "TMPDIR": "tmp"}
FOLDERS |= {"XDG_STATE_HOME": "state", "TORCH_HOME": "data/torch", "MPLCONFIGDIR": "tmp/matplotlib"}
FOLDERS |= {"TORCHINDUCTOR_CACHE_DIR": "tmp/inductor"}
# What resuming may ask for.
INSTALLED = ("urllib.Request ('https://download.pytorch.org/models/",)
FONTS = [Path.home() / ".fonts", Path.home() / ".local" / "share" / "fonts"]
FORMULAS = tuple("=+-@\t\r＝＋－＠")  # noqa: RUF001
CLASSES = ("=1+1", MARK, "$x^{ 日本")  # of photos
NETWORK = "model=torchvision model.name=squeezenet1_1 model.weights=null model.input_size=32"
TRAINING = f"{NETWORK} data.batch_size=16 ++trainer.max_epochs=1 ++trainer.accelerator=cpu".split()
SHAPES = "data=shapes data.source.num_train=60 data.source.num_test=30 data.num_val=20".split()
PHOTOS = "data=folder data.size=32 data.num_val=4 data.num_test=6".split()
SETTINGS = {  # with the setting that names the run's folder
    "evaluate": "run evaluate cost=false",
    "evaluate more": "run evaluate cost_seconds=0.01 grad_cam.num_images=2 image_types=all "
    "grad_cam.images=most_confused image_types.num_images=3",
    "evaluate others": "run evaluate cost=false data=folder data.root=photos",
    "predict": "run predict images=photos grid=../tmp/grid.png out=../tmp/out.csv",
    "export": "run export format=torch time_seconds=0.01",
    "compare": "runs compare",
    "runs": "runs runs size=true clean=true",
    "serve": "runs serve port=0",
    "resume": "resume train",
    "library": "",
    "weights": " ".join(["model.weights train", *SHAPES, *TRAINING, "log_dir=../tmp/logs"]),
    "tune": " ".join(["storage tune", *SHAPES, *TRAINING])
    + " num_trials=1 recipe_dir=../tmp study=x log_dir=../tmp",
}


WRITES = """
    os.mkdir os.rmdir os.remove os.rename os.link os.symlink os.truncate os.chmod os.chown os.utime
    os.setxattr
""".split()
FOLLOWING = ("open", "os.listdir", "os.scandir", "os.truncate", "os.chmod", "os.utime")
FORBIDDEN = """
    socket.connect socket.getaddrinfo socket.gethostbyname socket.sendto urllib.Request os.system
    http.client.connect ftplib.connect webbrowser.open os.exec os.posix_spawn os.forkpty pty.spawn
    pickle.find_class
""".split()
PROGRAMS = ("git", "fc-list")  # for a run's record, and for letters that a figure's font lacks
MACHINE = ["/usr", "/lib", "/sys", "/proc/meminfo", "/dev/shm", "/dev/null", "/dev/urandom"]


class Place(NamedTuple):
    """Where an example lives."""

    top: Path

    @property
    def run(self) -> Path:
        return self.top / "logs" / "shapes" / "run"

    @property
    def comparison(self) -> Path:
        return self.run.parent / "comparison"

    def writable(self, name: str) -> list[str]:
        """Where a command may write: of DATA_DIR, only in resuming elsewhere than in its store."""
        store = self.top / "data" / ("" if name in ("resume", "weights") else ".folders")
        names = ("tmp", "state", "screen1", "screen2")
        return [str(p) for p in (self.run, self.comparison, store, *map(self.top.joinpath, names))]


def lay_out(top: Path, base: Path | None = None) -> Place:
    """A user's folders around a copy of a run."""
    place = Place(top)
    shutil.rmtree(top, ignore_errors=True)
    for name in ("tmp", "state", "home/.ssh"):
        (top / name).mkdir(parents=True)
    pixels = np.random.default_rng(0)
    for root, name in product(("cwd", "data", "outside"), CLASSES):
        folder = top / root / "photos" / name
        folder.mkdir(parents=True)
        for n in range(8 if root == "data" else 1):
            photo = Image.fromarray(pixels.integers(0, 255, (40, 30, 3), np.uint8))
            photo.save(folder / f"@{n}\x1b[31m{MARK}.png")
    for name in ("home/.ssh/id_rsa", "outside/secret.txt", "outside/secret.csv", "outside/victim"):
        (top / name).write_text("mine\n")
    if base:
        shutil.copytree(base, place.run)
    return place


class Guard:
    """An audit hook that notes what a command must not do, and keeps it from being done."""

    def __init__(self, place: Place, name: str) -> None:
        self.notes = os.open(place.top / "notes", os.O_WRONLY | os.O_CREAT)
        own = [place.top / "cwd", place.top / "data", ROOT, sys.prefix, sys.base_prefix, *sys.path]
        self.writable = place.writable(name)
        self.readable = [*self.writable, *MACHINE, *map(os.path.realpath, [*own, *FONTS])]
        self.listed = [str(parent) for parent in place.run.parents]
        self.num_processes, self.is_busy = 0, False
        self.is_export = name == "export"  # opens files by their runtimes, and runs its examples

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.is_busy:
            return
        self.is_busy = True
        try:
            if problem := self.find_problem(event, arguments):
                if not problem.startswith(INSTALLED):
                    os.write(self.notes, f"{problem}\n".encode(errors="backslashreplace"))
                raise PermissionError(13, "not for a stranger's folder", problem)
        finally:
            self.is_busy = False

    def find_problem(self, event: str, arguments: tuple[Any, ...]) -> str | None:
        is_worker = event == "pickle.find_class" and arguments[0].startswith("torch.multiproc")
        if event in FORBIDDEN and not is_worker:
            return f"{event} {arguments!r:.300}"
        if event in ("os.fork", "subprocess.Popen"):
            self.num_processes += 1
            programs = [*PROGRAMS, Path(sys.executable).name] if self.is_export else PROGRAMS
            if event == "subprocess.Popen" and Path(arguments[0]).name not in programs:
                return f"{event} {arguments[:2]!r:.300}"
            return f"{PROCESSES} processes" if self.num_processes > PROCESSES else None
        if event not in ("open", "os.listdir", "os.scandir", *WRITES):
            return None
        flags = arguments[2] if event == "open" else 0
        if event == "open" and str(arguments[0]).endswith("/.lock"):
            flags |= os.O_NOFOLLOW  # of its opener, which Python says a moment later
        is_write = event in WRITES or flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        num = 2 if event in ("os.rename", "os.link") else 1
        paths = arguments[1:2] if event == "os.symlink" else arguments[:num]
        fd = arguments[-1] if event in ("os.remove", "os.rmdir", "os.mkdir") else -1
        is_followed = event in FOLLOWING and not flags & os.O_NOFOLLOW
        for path in (find_real_path(path, fd, is_followed) for path in paths):
            if not self.is_allowed(path, bool(is_write)):
                return f"{event} {'writes' if is_write else 'reads'} {path!r:.300}"
        return None

    def is_allowed(self, path: str, is_write: bool) -> bool:
        if path == "/dev/null" or path.startswith(("pipe:", "socket:")):
            return True
        if path.startswith(f"/proc/{os.getpid()}/") or (path in self.listed and not is_write):
            return not path.endswith("environ")
        roots = self.writable if is_write else self.readable
        return any(path == root or path.startswith(f"{root.rstrip('/')}/") for root in roots)


def find_real_path(path: Any, fd: Any, is_followed: bool) -> str:
    """Where a path leads that a function of the system was given."""
    if isinstance(path, int):
        return os.readlink(f"/proc/self/fd/{path}").removeprefix("/proc/self/fd/")
    path = os.fsdecode("." if path is None else path)
    if isinstance(fd, int) and fd >= 0:
        path = os.path.join(os.readlink(f"/proc/self/fd/{fd}"), path)
    if is_followed:
        return os.path.realpath(path)
    return os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))


def read_library(folder: Path) -> None:
    """What a person does with a run in Python, and a sweep with those of before."""
    find_newest_run(folder.parents[1])
    for run in library.find_runs(folder.parents[1]):
        print(run, len(run.metrics), len(run.config), run.predictions("val").num_classes)
        print(run.predictions("test").num_classes, run.network().head_name)


def prepare(name: str, folder: Path, trusted: Sequence[str]) -> Callable[[], object]:
    """What runs a command on a folder. Its config is composed here, before the fork."""
    if name == "library":
        return lambda: read_library(folder)
    setting, command, *overrides = SETTINGS[name].split()
    config = composed(command, *overrides, **({} if "." in setting else {setting: "x"}))
    value = str(folder / {"weights": "checkpoints/best.ckpt", "tune": "journal.log"}.get(name, ""))
    put(config, setting, value)
    put(config, "trusted_targets", [*trusted])

    def start() -> None:
        sys.argv = ["triptych", *overrides]
        cli.compose = lambda command: (config, [*overrides, f"{setting}={value}"])
        cli.main(command)

    return start


def enter(place: Place) -> None:
    """Make this process one that a user has started in a folder of his own, with limits."""
    os.setsid()
    os.chdir(place.top / "cwd")
    os.environ |= {key: str(place.top / folder) for key, folder in FOLDERS.items()}
    tempfile.tempdir = str(place.top / "tmp")
    warnings.resetwarnings()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.stdin = sys.__stdin__  # not pytest's
    for number, name in ((1, "stdout"), (2, "stderr")):
        screen = os.open(place.top / f"screen{number}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(screen, number)
        stream = open(number, "w", closefd=False)  # noqa: SIM115
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 6 * 10**9,) * 2)
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 5))
    resource.setrlimit(resource.RLIMIT_FSIZE, (300 * 10**6,) * 2)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(5 * SECONDS)  # for what waits


def keep_page(place: Place) -> None:
    """Have serve write its page into a file, and end."""
    import uvicorn

    from triptych.tools.serve import service

    render = service.render_page

    def render_and_keep(*arguments: Any) -> str:
        page = render(*arguments)
        (place.top / "tmp" / "served.html").write_text(page)
        return page

    service.render_page = render_and_keep
    uvicorn.Server.run = lambda *_, **__: None  # type: ignore[assignment,method-assign]


class Ended(NamedTuple):
    code: int
    out: str
    err: str
    seconds: float
    megabytes: float
    problems: list[str]


def run(name: str, place: Place, function: Callable[[], object]) -> Ended:
    """What a command does in a process of its own, watched."""
    before = snapshot(place)
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    (place.top / "notes").write_bytes(b"")
    with warnings.catch_warnings(action="ignore"):  # a fork beside threads
        child = os.fork()
    if child == 0:
        try:
            enter(place)
            if name == "serve":
                keep_page(place)
            sys.addaudithook(Guard(place, name))
            os._exit(find_exit_code(function))
        finally:
            os._exit(99)
    _, status, usage = os.wait4(child, 0)
    problems = (place.top / "notes").read_text(errors="replace").splitlines()
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
        problems.append("a process is left")
    after = snapshot(place)
    changed = (path for path in before | after if before.get(path) != after.get(path))
    problems += [f"changed: {path}" for path in changed]
    out, err = ((place.top / f"screen{n}").read_text(errors="replace") for n in (1, 2))
    seconds, megabytes = usage.ru_utime + usage.ru_stime, (usage.ru_maxrss - own) / 1024
    return Ended(os.waitstatus_to_exitcode(status), out, err, seconds, megabytes, problems)


def snapshot(place: Place) -> dict[str, Any]:
    """Everything around a run that no command may change, by its path."""
    own = {*place.writable(""), str(place.top / "notes"), str(place.top / "data" / "torch")}
    found: dict[str, Any] = {}
    pending = [place.top]
    while pending:
        for entry in os.scandir(pending.pop()):
            if entry.path not in own:
                stat, is_folder = entry.stat(follow_symlinks=False), entry.is_dir()
                found[entry.path] = is_folder or (stat.st_mode, stat.st_size, stat.st_mtime_ns)
                pending += [Path(entry.path)] * is_folder
    return found


def judge(ended: Ended, place: Place, began: float) -> Iterator[str]:
    """What was wrong with how a command ended."""
    output = ended.out + ended.err
    yield from ended.problems
    if ended.code not in (0, 1, 2) or (ended.code and not output.strip()):
        yield f"exit code {ended.code}, {len(output)} letters"
    if "Traceback" in output or "Logging error" in output:
        yield f"a traceback: {output.strip().splitlines()[-1]:.200}"
    lines = [line for line in ended.err.strip().splitlines() if "━" not in line]  # of a bar
    if ended.code == 2 and not 1 <= len(lines) <= 3:
        yield f"an error of {len(lines)} lines"
    if strange := {c for c in output if not c.isprintable() and c not in "\n\t"}:
        yield f"on the screen: {strange!a}"
    if ended.seconds > SECONDS / 2 or ended.megabytes > MEGABYTES:
        yield f"{ended.seconds:.0f} seconds, {ended.megabytes:.0f} MB"
    for path in (p for p in [*place.top.rglob("*")] if p.is_file() and not p.is_symlink()):
        if path.stat().st_mtime >= began and path.stat().st_nlink == 1:
            yield from check_written(path)


def check_written(path: Path) -> Iterator[str]:
    """What is wrong with a file that a command wrote."""
    if path.name.startswith(".") and path.name[-1].isdecimal():
        yield f"half of a file is left: {path.name}"
    if path.suffix in (".html", ".md") and MARK in path.read_text(errors="replace"):
        yield f"{path.name}: HTML of the folder"
    if path.suffix == ".csv":
        with path.open(newline="", errors="replace") as file, suppress(csv.Error):
            for cell in (cell for row in csv.reader(file) for cell in row):
                if cell.startswith(FORMULAS) and not cell[1:].replace(".", "").isdecimal():
                    yield f"{path.name}: a formula {cell:.40}"


def make_base(kind: str, top: Path) -> Path:
    """A finished run on drawings or photos, evaluated; that on drawings with a search's journal."""
    place, base = lay_out(top), top.parent / kind
    place.run.parent.mkdir(parents=True)
    settings = SHAPES if kind == "shapes" else [*PHOTOS, f"data.root={top}/data/photos"]
    overrides = [*settings, *TRAINING]
    config = composed("train", *overrides, log_dir=str(top / "logs"))
    evaluated = composed(*SETTINGS["evaluate more"].split()[1:], run=str(place.run))
    searched = prepare("tune", place.run, ())

    def make() -> None:
        os.rename(training.train(config, overrides).folder, place.run)
        evaluation.evaluate(evaluated, [])
        if kind == "shapes":
            searched()
        os.rename(place.run, base)

    child = os.fork()  # so that no logger's thread lives in this process
    if child == 0:
        enter(place)
        os._exit(find_exit_code(make))
    assert os.waitpid(child, 0)[1] == 0, (top / "screen2").read_text()
    return base


def try_example(
    number: int, top: Path, base: Path, names: Sequence[str], trusted: Sequence[str] = ()
) -> Iterator[tuple[str, list[str]]]:
    """How each command ended with a mutated copy of a run, and what was wrong."""
    for name in names:
        place, chance = lay_out(top, base), random.Random(number)
        if name == "resume":
            interrupt(place.run)
        done = mutate(chance, place.run, top / "outside")
        began = time.time()
        ended = run(name, place, prepare(name, place.run, trusted))
        wrong = [*dict.fromkeys(judge(ended, place, began))]
        shown = [f"{'; '.join(done)!a:.600}", f"{ended.out[-300:]!a}", f"{ended.err[-600:]!a}"]
        faults = [f"{number} {name}: {fault.replace(str(top), '…')}" for fault in wrong]
        yield f"{name} {ended.code}", ["\n    ".join([*faults, *shown])] if faults else []


def main() -> int:
    parser = argparse.ArgumentParser()
    for option, default in (("seed", 0), ("examples", 300)):
        parser.add_argument(f"--{option}", type=int, default=default)
    parser.add_argument("--names", default="")
    options = parser.parse_args()
    torch.set_num_threads(1)
    num_wrong, counted = 0, Counter[str]()
    with tempfile.TemporaryDirectory() as folder:
        top = Path(folder).resolve() / "example"
        bases = [make_base(kind, top) for kind in ("shapes", "photos")]
        for number in range(options.seed, options.seed + options.examples):
            names = options.names.split(",") if options.names else []
            names = names or random.Random(number).sample([*SETTINGS], 2)
            base = bases[0 if "tune" in names else number % 2]
            for ending, wrong in try_example(number, top, base, names):
                counted[ending] += 1
                num_wrong += len(wrong)
                print(*wrong, sep="\n", end="\n" * len(wrong), flush=True)
    print(", ".join(f"{num} {ending}" for ending, num in sorted(counted.items())))
    return bool(num_wrong)


if __name__ == "__main__":
    sys.exit(main())
