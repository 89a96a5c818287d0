"""What is measured: a list of commands, each with a folder of its own that says how far it is."""

import hashlib
import shlex
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import yaml  # type: ignore[import-untyped]

from triptych.cli.arguments import count_jobs
from triptych.config import CONFIGS, FLAG, Rule, number, one_of, setting_name
from triptych.errors import UserError
from triptych.runs.reader import check_entries, read_records
from triptych.runs.record import Record

COMMANDS = {
    **{"train": "python train.py -m", "benchmark": "triptych benchmark"},
    "export": "triptych export",
}


def is_command(value: Any) -> bool:
    """Whether it is one of `COMMANDS` with arguments, all quotes closed."""
    with suppress(ValueError):
        words = shlex.split(value) if type(value) is str else []
        return any(words[: len(c.split())] == c.split() != words for c in COMMANDS.values())
    return False


RULES: dict[str, Rule] = {
    "minutes": number(0, above=True),
    "command": Rule(f"a command that begins with {' or '.join(COMMANDS.values())}", is_command),
    "table": one_of("accuracy", "benchmark", "runs", "deployments"),
    "kill": FLAG,
}
# What a trial sets otherwise: it shows that a command works, and measures nothing.
TRIAL = """
    data=shapes data.num_train=64 data.num_val=32 data.num_test=32 data.source.num_train=200
    data.source.num_test=100 model.input_size=64 speed.compile=none
""".split()
TRIALS = {
    "train": [*TRIAL, "data.batch_size=16", "seed=0", "trainer.max_epochs=1"],
    "benchmark": [*TRIAL, "data.batch_size=4", "rounds=1", "block_seconds=0.1"],
    "export": ["time_seconds=0.1", "min_agreement=0"],
}
TABLES = {"train": "accuracy", "benchmark": "benchmark", "export": "deployments"}
BENCHMARK = "benchmark.json"  # the measurement, in its part's folder
KILLED = "killed"  # there once the run was killed


class Part(NamedTuple):
    """A command as it is typed, and the table that its figures go to.

    `minutes`: about how long it takes where the list was written. `kill`: the run is killed once,
    at its first checkpoint. `trained`: of an export, whose run= names it, the part before that
    trained the run.
    """

    name: str
    command: str
    minutes: float
    table: str
    kill: bool
    trained: "Part | None" = None

    @property
    def program(self) -> str:
        return find_program(self.command)

    @property
    def overrides(self) -> list[str]:
        return shlex.split(self.command.removeprefix(COMMANDS[self.program]))

    @property
    def models(self) -> list[str]:
        """The networks of the command: a row of a table each."""
        if self.trained:
            return self.trained.models
        named = [o for o in self.overrides if setting_name(o) in ("model", "model.name")]
        return named[-1].partition("=")[2].split(",") if named else ["googlenet"]

    @property
    def place(self) -> str:
        """Its folder below the device's; another command has another one."""
        digest = hashlib.sha256(self.command.encode()).hexdigest()[:6]
        return f"{self.table}/{self.name}_{digest}"

    @property
    def records(self) -> list[str]:
        """The names of what an export leaves in `deployments/`."""
        typed = {setting_name(each): each.partition("=")[2] for each in self.overrides}
        device = "_gpu" if typed.get("device") == "cuda" else ""
        return [f"{form}{device}" for form in typed["format"].split(",")]


def find_program(command: str) -> str:
    """The one of `COMMANDS` that a command begins with."""
    return next(name for name, words in COMMANDS.items() if command.startswith(words))


def read_parts(path: Path, *, is_trial: bool = False) -> list[Part]:
    """The parts of a list, in their order; raises UserError where it is not as it must be."""
    try:
        listed = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"parts={path}: cannot be read ({' '.join(str(error).split())})") from error
    if not isinstance(listed, dict) or not all(isinstance(each, dict) for each in listed.values()):
        raise UserError(f"parts={path}: must be a mapping of names to parts, as in {CONFIGS.name}/")
    parts: dict[str, Part] = {}
    for name, each in listed.items():
        program = find_program(each["command"]) if is_command(each.get("command")) else "train"
        each = {"table": TABLES[program], "kill": False} | each
        if unknown := each.keys() - RULES:
            raise UserError(f"parts={path}: {name}.{min(map(str, unknown))}: no such setting")
        rules = {f"{name}.{key}": rule for key, rule in RULES.items()}
        entries = {f"{name}.{key}": value for key, value in each.items()}
        check_entries(Path(f"parts={path}"), entries, rules)
        part = Part(str(name), **each)
        if program == "export":
            part = part._replace(trained=find_trained(path, part, parts))
        parts[part.name] = shrink(part) if is_trial else part
    return [*parts.values()]


def find_trained(path: Path, part: Part, before: Mapping[str, Part]) -> Part:
    """The part that the run= of an export names; raises UserError where there is none."""
    typed = {setting_name(each): each.partition("=")[2] for each in part.overrides}
    trained = before.get(typed.get("run", ""))
    if trained is None or trained.program != "train" or "format" not in typed:
        raise UserError(f"parts={path}: {part.name}: needs format=, and run= of a part before it")
    return trained


def shrink(part: Part) -> Part:
    """The part on a few drawings."""
    typed = {setting_name(override): override for override in part.overrides}
    saves = ["checkpoint.every_n_steps=1"] * ("checkpoint.every_n_steps" in typed)
    trial = TRIALS[part.program] + saves
    names = {setting_name(override) for override in trial}
    kept = [override for name, override in typed.items() if name not in names]
    command = shlex.join([*COMMANDS[part.program].split(), *kept, *trial])
    return part._replace(command=command, minutes=0.3)


def find_finished(place: Path) -> list[Record]:
    """The finished runs below a folder: of several of an experiment, by other code, the newest."""
    finished = (run for run in read_records(place) if run.metadata.get("status") == "finished")
    by_age = sorted(finished, key=lambda run: str(run.metadata.get("started_at")))
    return list({run.metadata.get("config_hash"): run for run in by_age}.values())


def find_exported(part: Part, place: Path) -> Record | None:
    """The run of an export whose folder is `place`: the one of the lowest seed."""
    assert part.trained
    finished = find_finished(place.parents[1] / part.trained.place)
    return min(finished, key=lambda run: run.metadata["seed"], default=None)


def estimate_minutes(part: Part, place: Path) -> float:
    """About how long what is left of a part takes, by its own finished runs; 0 where it is done."""
    if part.program == "export":
        run = find_exported(part, place)
        records = [run and run.folder / "deployments" / f"{each}.json" for each in part.records]
        return 0.0 if all(each and each.exists() for each in records) else part.minutes
    if part.program == "benchmark":
        return 0.0 if (place / BENCHMARK).exists() else part.minutes
    finished = find_finished(place)
    if not finished:
        return part.minutes
    num_left = count_jobs(part.overrides) - len(finished)
    # The least: of the runs of a probe, one computed the features, which are there by now.
    return max(0.0, num_left) * max(1.0, min(run.seconds_total for run in finished)) / 60
