"""The jobs of a sweep: checked before the first starts, run in processes, and how they ended."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from functools import lru_cache
from itertools import pairwise, takewhile
from pathlib import Path
from typing import IO, NamedTuple

from omegaconf import DictConfig

from triptych import config as configs
from triptych.callbacks.trainer_rules import check_packages
from triptych.cli import restore, translate_hydra_errors
from triptych.config import Config, setting_name
from triptych.distributed.processes import TrainingProcess
from triptych.errors import UserError
from triptych.models import find_weights, is_weights_path
from triptych.runs.code_changes import find_changed
from triptych.runs.durations import END_FILE
from triptych.runs.reader import find_newest_run
from triptych.runs.record import Record, config_hash, hash_code
from triptych.runs.resume_request import resume_arguments
from triptych.runs.storage import acquire_lock

# What a sweep alone may set otherwise: it takes them out of the configs of its jobs.
SWEEP_ONLY = {"retry_failed": False, "fresh": False, "same_code": "required", "minutes": None}
MAX_FILES = 4  # named of those that differ
NAMES = ("model", "model.name", "experiment", "name")  # settings whose values name a job
STOPPED = (130, 143, -signal.SIGINT, -signal.SIGTERM)  # the latter two: before it had handlers


class Job(NamedTuple):
    """A run to be made.

    `code`: hashes of the files that train. `fresh`: a new run, whatever runs there are;
    `retry_failed`: resume an earlier run that failed; `same_code`: ignore runs of other code;
    `minutes`: the budget of the sweep.
    """

    overrides: list[str]
    config: Config
    config_hash: str
    code: dict[str, str]
    fresh: bool = False
    retry_failed: bool = False
    same_code: bool = True
    minutes: float | None = None


def compose_jobs(
    compose: Callable[[list[str]], DictConfig],
    job_overrides: Sequence[Sequence[str]],
    command: str = "train",
) -> list[Job]:
    """The jobs, with their configs as the environment and the YAML files are now.

    Raises UserError where a setting is wrong, or where jobs differ in `data.root` alone.
    """
    jobs: list[Job] = []
    roots: dict[str, str | None] = {}
    for overrides in map(list, job_overrides):
        try:
            with translate_hydra_errors(command):
                config = configs.resolve_config(compose(overrides))
                job = compose_job(config, overrides, command)
        except UserError as error:
            message = "\n".join(str(error).splitlines()[:2])
            raise UserError(f"{message}\nin the job {' '.join(restore(overrides))}") from error
        jobs.append(job)
        name, root = job.config["data"]["name"], job.config["data"].get("root")
        if (other := roots.setdefault(job.config_hash, root)) != root:  # no hash contains it
            raise UserError(
                f"data.root={configs.format_value(root)}: data.name={name} is also that of "
                f"{configs.format_value(other)}\n"
                "start a sweep for each, with a data.name of its own"
            )
    return jobs


def compose_job(config: Config, overrides: list[str], command: str = "train") -> Job:
    """A job without the settings of the sweep: a single run would refuse them."""
    fresh, retry_failed = (config.get(name) is True for name in ("fresh", "retry_failed"))
    same_code = config["same_code"] != "ignore"
    minutes = config["minutes"]
    has_budget = command == "train" and configs.RULES["minutes"].holds(minutes)
    allowed = {"fresh": fresh, "retry_failed": retry_failed, "same_code": not same_code}
    allowed["minutes"] = has_budget
    config |= {name: SWEEP_ONLY[name] for name, is_set in allowed.items() if is_set}
    configs.check_config(config, command)
    check_packages(config)
    if config["checkpoint"]["keep_last"] is None:
        config["checkpoint"]["keep_last"] = False
    overrides = [o for o in restore(overrides) if setting_name(o) not in SWEEP_ONLY]
    hashes = config_hash(config), hash_code(config)
    return Job(overrides, config, *hashes, fresh, retry_failed, same_code, minutes)


def train_arguments(job: Job, earlier: Record | None) -> tuple[Config, list[str]]:
    """What `train` is called with: a new run, or `earlier` resumed."""
    if earlier is None:
        return job.config, job.overrides
    return resume_arguments(job.config, job.overrides, earlier.folder)


def label_jobs(jobs: Sequence[Job]) -> list[str]:
    """A name for each job, as `googlenet seed 0`: the overrides that not all of them share."""
    return [name or "as configured" for name in join_differing([job.overrides for job in jobs])]


def label_recipes(jobs: Sequence[Job]) -> list[str]:
    """A name for the recipe of each job, the same for those that differ in their seed alone: its
    overrides that not all recipes share, or else its model."""
    recipes = [config_hash(job.config, less=("seed",)) for job in jobs]
    overrides = [[o for o in job.overrides if setting_name(o) != "seed"] for job in jobs]
    firsts = {recipe: overrides[recipes.index(recipe)] for recipe in recipes}
    differing = join_differing([*firsts.values()]) if len(firsts) > 1 else [""]
    names = dict(zip(firsts, differing, strict=True))
    return [
        names[recipe] or job.config["model"]["name"]
        for recipe, job in zip(recipes, jobs, strict=True)
    ]


def join_differing(each: Sequence[Sequence[str]]) -> list[str]:
    """Each one's overrides that not all have, the seed last; of a single one all."""
    shared = set.intersection(*map(set, each)) if len(each) > 1 else set()
    own = ([o for o in overrides if o not in shared] for overrides in each)
    ordered = (sorted(some, key=lambda o: setting_name(o) == "seed") for some in own)
    return [" ".join(map(shorten_override, some)) for some in ordered]


def shorten_override(override: str) -> str:
    """`googlenet` of `model=googlenet`, `seed 0` of `seed=0`; others as they were typed."""
    name, _, value = override.partition("=")
    return {"seed": f"seed {value}"}.get(name, value if name in NAMES else override)


def find_run_of_job(job: Job) -> Record | None:
    """The newest run of the job's experiment below its `log_dir`, by the same code if
    `job.same_code`; one that is finished, if any."""
    code = {"code": job.code} if job.same_code else {}
    return find_newest_run(Path(job.config["log_dir"]), config_hash=job.config_hash, **code)


def describe_code(run: Record, job: Job) -> str:
    """In what the code of a run differs from that of a job; empty where it does not."""
    code = run.metadata.get("code")
    if not isinstance(code, dict):
        return "is not recorded"
    changed = find_changed(code, job.code)
    more = f" and {len(changed) - MAX_FILES} more" if len(changed) > MAX_FILES else ""
    return f"differs in {', '.join(changed[:MAX_FILES])}{more}" if changed else ""


def find_newer_inputs(run: Record, job: Job) -> list[str]:
    """What a job reads that was changed after an earlier run of it began: weights of a file, a
    table of labels, folders whose photos were changed, added or removed."""
    source, weights = job.config["data"]["source"], job.config["model"].get("weights")
    paths = [find_weights(Path(weights))] if weights and is_weights_path(weights) else []
    folders: dict[str, float] = {}
    # Photos, and not a folder that other data sets lie in, too.
    if "fit" in source and "set" not in source:
        root, labels = Path(source["root"]), source.get("labels")
        paths += [Path(labels), root / labels, root / Path(labels).name] if labels else []
        folders = find_times(str(root))
    try:
        began = datetime.fromisoformat(str(run.metadata.get("started_at"))).timestamp()
    except ValueError:
        return []
    began += 1  # it is recorded in whole seconds
    times = folders | {str(path): changed_at(path) for path in paths if path.exists()}
    return sorted(path for path, changed in times.items() if changed > began)


def changed_at(path: str | Path) -> float:
    """When a file, or a link to it, was changed last: its `mtime` alone may have been set since."""
    states = []
    for look in (os.lstat, os.stat):
        with suppress(OSError):  # gone meanwhile, or a link to nowhere
            states.append(look(path))
    return max((time for s in states for time in (s.st_mtime, s.st_ctime)), default=0)


@lru_cache(maxsize=8)
def find_times(root: str) -> dict[str, float]:
    """Every folder below a root, and when it or a file in it was changed last, at a first look."""
    return {
        folder: max(changed_at(path) for path in [folder, *(f"{folder}/{f}" for f in files)])
        for folder, _, files in os.walk(root)
    }


def is_done(run: Record, job: Job) -> bool:
    """Whether an earlier run leaves nothing to do of a job."""
    status = run.metadata["status"]
    return status == "finished" or (status == "failed" and not job.retry_failed)


def lock_path(job: Job) -> Path:
    return Path(job.config["log_dir"], ".sweep", job.config_hash[:16])


def lock_job(job: Job) -> IO[str] | None:
    """Lock an experiment below `log_dir`; None while another process has it locked.

    The lock lasts until the file is closed in every process that inherited it: so a job keeps it
    where the sweep is killed. Raises OSError where the file cannot be written.
    """
    path = lock_path(job)
    path.parent.mkdir(parents=True, exist_ok=True)
    with suppress(BlockingIOError):
        return acquire_lock(path)
    return None


class Outcome(NamedTuple):
    """How a job ended; `status` as in the record, or `refused`, `killed`, `not started`; `out of
    time`, which saved what there was, `not begun` for lack of time, or what SLURM says of a job
    that it did not start.
    """

    status: str
    record: Record | None = None
    error: str = ""
    is_earlier: bool = False
    log_file: Path | None = None  # of a cluster


def outcome_of_run(run: Record, *, is_earlier: bool) -> Outcome:
    error = str(run.metadata.get("error") or "")
    return Outcome(run.metadata["status"], run, error, is_earlier)


class JobProcess(TrainingProcess):
    """The process of a job; it resumes `earlier` where that is given, and inherits `lock`.

    `env`: variables for it, which those of the environment override.
    """

    def __init__(
        self,
        job: Job,
        place: Path,
        lock: IO[str],
        gpus: list[str],
        earlier: Record | None,
        env: Mapping[str, str],
    ) -> None:
        self.gpus, self.earlier, self.started = gpus, earlier, time.monotonic()
        self.end_file = place.with_name(f"{place.name}.end")
        visible = {"CUDA_VISIBLE_DEVICES": ",".join(gpus)} if gpus else {}
        env = {**env, **os.environ, **visible, END_FILE: str(self.end_file)}
        super().__init__(place, train_arguments(job, earlier), env, pass_fds=[lock.fileno()])

    def read_end(self) -> tuple[float, float] | None:
        """Seconds until its end, and those that the next seed saves, as it said last; None where
        it has not."""
        with suppress(OSError, ValueError):
            end, saved = map(float, self.end_file.read_text().split())
            return max(0.0, end - time.time()), saved
        return None

    def poll(self) -> Outcome | None:
        """How the job ended; None while it runs."""
        exit_code = self.process.poll()
        if exit_code is None:
            return None
        self.close()
        record = None
        with suppress(OSError, UserError):  # it made no folder, or the folder is gone
            folder = self.run_folder()
            record = Record.open(folder) if folder else self.earlier
        metadata = record.metadata if record else {}
        if metadata.get("status") in ("finished", "failed"):
            status = metadata["status"]
        elif exit_code == 0:
            status = "out of time"
        elif exit_code in STOPPED:
            status = "interrupted"
        elif exit_code == 2:
            status = "refused"
        else:
            status = "killed" if exit_code < 0 else "failed"
        error = str(metadata.get("error") or "") if status == "failed" else ""
        if not error and status in ("refused", "killed", "failed"):
            error = "\n".join(self.read_output().splitlines()[-3:])
        return Outcome(status, record, error)


def visible_gpus() -> list[str]:
    """The GPUs this process may use, by names that `CUDA_VISIBLE_DEVICES` takes.

    The driver is asked, for torch takes seconds to import.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        names = [name.strip() for name in visible.split(",")]
        return list(takewhile(re.compile(r"\w").match, names))  # CUDA, too, stops at the first -1
    command = ["nvidia-smi", "-L"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return []
    names = re.findall(r"\(UUID: ((?:GPU|MIG)-[\w/-]+)\)", answer.stdout)
    # A GPU that is divided (MIG) is followed by its parts, and cannot be used as a whole.
    followed = pairwise([*names, ""])
    return [n for n, after in followed if n.startswith("MIG") or not after.startswith("MIG")]


def num_gpus(config: Config, num_visible: int) -> int:
    """How many GPUs the sweep gives a job: none on a CPU, or where the job lists its own."""
    devices = config["trainer"].get("devices", 1)
    is_on_gpu = config["trainer"]["accelerator"] in ("auto", "gpu", "cuda")
    if not num_visible or not is_on_gpu or isinstance(devices, list):
        return 0
    return num_visible if devices in ("auto", -1, "-1") else int(devices)
