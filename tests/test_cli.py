"""The way in: flags, the environment, and what wrong input gets before torch is imported."""

import io
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from triptych import cli
from triptych.config import CONFIGS, TRAINER_ARGUMENTS, Config
from triptych.errors import UserError

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _untouched(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the door leaves in the environment and on the command line is taken back."""
    for key in ("HYDRA_FULL_ERROR", "TRIPTYCH_COMMAND"):
        monkeypatch.setenv(key, "")
    monkeypatch.setattr(sys, "argv", ["train.py"])


def typed(*arguments: str) -> Config:
    """The config that a command line comes to."""
    sys.argv[1:] = [cli.normalize_argument(argument) for argument in arguments]
    composed = cli.compose("train")
    assert composed is not None
    return composed[0]


def told(*arguments: str) -> list[str]:
    """The lines with which a command line is refused."""
    with pytest.raises(UserError) as refused:
        typed(*arguments)
    lines = str(refused.value).splitlines()
    assert 1 <= len(lines) <= 3
    return lines


@pytest.mark.parametrize("name", TRAINER_ARGUMENTS)
def test_an_argument_of_the_trainer_needs_no_plus_sign(name: str) -> None:
    assert cli.normalize_argument(f"trainer.{name}=1") == f"++trainer.{name}=1"
    assert cli.normalize_argument(f"+trainer.{name}=1") == f"+trainer.{name}=1"
    assert cli.normalize_argument(f"~trainer.{name}") == f"~trainer.{name}"


def test_an_argument_of_the_trainer_that_no_yaml_names_reaches_the_config() -> None:
    config = typed(
        "trainer.gradient_clip_val=0.5", "trainer.max_time={hours: 1}", "trainer.benchmark=true"
    )
    trainer = config["trainer"]
    assert (trainer["gradient_clip_val"], trainer["max_time"]) == (0.5, {"hours": 1})
    assert trainer["benchmark"] is True


SEVERAL, SETS = (  # with those that somebody added, as the README says
    ", ".join(sorted(path.stem for path in (CONFIGS / group).glob("*.yaml")))
    for group in ("model", "data")
)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("model=googlenett", "model=googlenett: no such choice; may be googlenet"),
        ("data=nope", "data=nope: no such choice"),
        ("model=", f"model=: must be one of {SEVERAL}"),
        ("model=null", f"model=null: must be one of {SEVERAL}"),
        ("model=[alexnet,resnet50]", f"model=[alexnet,resnet50]: must be one of {SEVERAL}"),
        ("data={a:1}", f"data={{a:1}}: must be one of {SETS}"),
        ("trainer=3", "trainer=3: must be one of ddp, debug, default"),
        ("model=alexnet,resnet50", "model=alexnet,resnet50: several values; sweep over them"),
        ("optim.learning_rate=1", "optim.learning_rate: no such setting; near: "),
        ("trainer.max_epoch=3", "trainer.max_epoch: no such setting; near: trainer.max_epochs, "),
        ("+optim.nesterov=1", "optim.nesterov: no such setting"),
        ("model@other=alexnet", "model@other: no such setting"),
        ("seed=abc", "seed=abc: must be a whole number of at least 0"),
        ("seed=true", "seed=true: must be a whole number"),
        ("seed=1e3", "seed=1000.0: must be a whole number"),
        ("seed=0,", "seed=0,: cannot be read as key=value"),
        ("seed", "seed: cannot be read as key=value"),
        ("=1", "=1: must be key=value"),
        ("model.name=é", "model.name=é: cannot be read"),
        ("seed='é…\U0001f600'", "seed=é…\U0001f600: must be a whole number"),
        ("data.batch_size=[1]", "data.batch_size=[1]: must be a whole number"),
        ("optim.lr={a:1}", "optim.lr={'a': 1}: must be a number above 0"),
        ("optim.lr=nan", "optim.lr=nan: must be a number above 0"),
        ("seed=1" + "0" * 5000, "one of the arguments cannot be set: Exceeds the limit"),
        ("trainer.callbacks=3", "trainer.callbacks=3: must be a list of nodes"),
        ("trainer.max_epochs.deep=1", "trainer.max_epochs={'deep': 1}: must be"),
        ("optim.optimizer=adam", "optim.optimizer=adam: must be a node"),
        ("data.source=null", "data.source=null: must be a node"),
        ("~optim.lr", "optim.lr: missing, must be a number above 0"),
        ("~data", "data.name: missing"),
        ("~trainer", "trainer.max_epochs: missing"),
        ("~seed", "seed: missing"),
        ("++data=3", "force-add of config groups is not supported: '++data=3'"),
        ("model=torchvision", "model.name: must be given"),
        ("seed=${seed}", "seed: Recursive interpolation"),
        ("log_dir=${oc.env:NOT_SET_ANYWHERE}", "log_dir: "),
        ("experiment=demo model=torchvision model.name=vgg11", "model.input_size: "),
        ("model=resnet50 model.input_size=0", "model.input_size=0: must be"),
        ("model=alexnet model.input_size=62", "model.input_size=62: alexnet takes 63 or more"),
        ("--flag", "--flag: no such flag; near: "),
        ("--config-name=nope", "Cannot find primary config 'nope'"),
        ("--multirun hydra.launcher.num_jobs=0", "hydra.launcher.num_jobs=0: must be"),
        ("-m hydra.launcher.num_jobs=all seed=0,1", "hydra.launcher.num_jobs=all: must be"),
        ("-m log_dir=/dev/null/x seed=0,1", "log_dir: cannot be written to"),
        ("-m hydra/launcher=basic seed=0,1", "hydra/launcher: must be processes"),
        ("-m model=glob(nope*)", "-m: no job to run; a glob(...)"),
    ],
)  # fmt: skip
def test_wrong_input_is_refused_by_its_name(arguments: str, says: str, tmp_path: Path) -> None:
    words = arguments.split()
    if "-m" in words and "log_dir=/dev/null/x" not in words:
        words.append(f"log_dir={tmp_path}")
    assert told(*words)[0].startswith(says)


def test_of_many_settings_the_nearest_three_are_offered() -> None:
    [line] = told("trainer.max_epoch=3")
    assert line.endswith("near: trainer.max_epochs, trainer.min_epochs, trainer.max_steps")


def test_a_setting_may_follow_another() -> None:
    assert typed("data.split_seed=7", "seed=${data.split_seed}")["seed"] == 7


def test_in_a_sweep_nothing_starts_where_the_last_job_is_wrong(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def start(*_: Any, **__: Any) -> None:
        raise AssertionError("a job was started")

    monkeypatch.setattr(subprocess, "Popen", start)
    lines = told("-m", "model=alexnet,resnet50", "data.num_val=100,0", f"log_dir={tmp_path}")
    assert lines[0].startswith("data.num_val=0: must be")
    assert lines[1].startswith("in the job model=alexnet data.num_val=0")


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("DATA_DIR=/data", "/data"),
        ("export DATA_DIR = '/my data'", "/my data"),
        ('DATA_DIR="/my # data"  # mine', "/my # data"),
        ("  DATA_DIR=/data # mine", "/data"),
        ("DATA_DIR=/a=b", "/a=b"),
        ("DATA_DIR=", None),
        ("DATA_DIR=''", None),
        ("# DATA_DIR=/data", None),
        ("DATA_DIR", None),
        ("DATA_DIR=~", str(Path.home())),
    ],
)
def test_env_files_are_read_as_shells_read_them(
    line: str, value: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATA_DIR", "")
    (tmp_path / ".env").write_text(f"\n{line}\nOTHER=1\n")
    cli.read_env(tmp_path / ".env")
    assert os.environ.get("DATA_DIR") == value


def test_the_environment_wins_over_the_env_file_which_sets_its_three_keys_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATA_DIR", "mine")
    monkeypatch.setenv("LOG_DIR", "")
    monkeypatch.setenv("TORCH_HOME", "weights")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    (tmp_path / ".env").write_text("DATA_DIR=a\nLOG_DIR=b\nPATH=c\nCUDA_VISIBLE_DEVICES=d\n")
    before = dict(os.environ)
    cli.read_env(tmp_path / ".env")
    assert dict(os.environ) == before | {"LOG_DIR": "b"}


def test_without_an_env_file_an_empty_setting_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATA_DIR", "")
    cli.read_env(tmp_path / ".env")
    assert "DATA_DIR" not in os.environ


def test_usage_names_every_choice_of_every_group() -> None:
    lines = cli.usage("train").splitlines()
    choices = {
        group.name: sorted(path.stem for path in group.glob("*.yaml"))
        for group in CONFIGS.iterdir()
        if group.is_dir() and group.name not in ("hydra", "image_types", "search")
    }
    assert {"data", "experiment", "model", "optim", "trainer"} <= set(choices)
    for group, names in choices.items():
        assert f"  {group}={'|'.join(names)}" in lines


@pytest.mark.parametrize("sweep", ["-m", "hydra.mode=MULTIRUN", "+hydra.mode=multirun"])
def test_other_commands_take_no_sweep_and_say_what_they_take(
    sweep: str, capsys: pytest.CaptureFixture[str]
) -> None:
    sys.argv[:] = ["compare.py", sweep, "runs=a,b"]
    with pytest.raises(SystemExit) as ended:
        cli.main("compare")
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("-m: compare takes a folder with many runs below it")


@pytest.mark.parametrize("more", [[], ["--cfg", "job"], ["num_trials=0"]])
@pytest.mark.parametrize(
    "url", ["postgresql://me:hunter2@host/db", "'mysql://h/db?password=hunter2'"]
)
def test_a_password_on_the_command_line_is_refused(
    url: str, more: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    sys.argv[:] = ["triptych", f"+storage={url}", *more]
    with pytest.raises(SystemExit) as ended:
        cli.main("tune")
    assert ended.value.code == 2
    shown = capsys.readouterr()
    assert "TRIPTYCH_STORAGE" in shown.err
    assert "hunter2" not in shown.out + shown.err + os.environ["TRIPTYCH_COMMAND"]


# In a process of its own: nothing heavy was imported, and the exit code is the shell's.

WATCHED = """
import runpy, sys
sys.argv[:] = ["train.py", *sys.argv[1:]]
try:
    runpy.run_path("train.py", run_name="__main__")
finally:
    heavy = ("torch", "lightning", "scipy", "rich", "matplotlib", *HYDRA)
    assert not [name for name in heavy if name in sys.modules]
"""


def run(*arguments: str, hydra: bool = True) -> subprocess.CompletedProcess[str]:
    program = WATCHED.replace("*HYDRA", "" if hydra else "'hydra', 'omegaconf'")
    kept = {key: value for key, value in os.environ.items() if key != "HYDRA_FULL_ERROR"}
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(command, cwd=ROOT, env=kept, capture_output=True, text=True)


@pytest.mark.parametrize(
    "arguments",
    [
        ["model=googlenett"],
        ["optim.learning_rate=1"],
        ["data.batch_size=0"],
        ["trainer.foo=1"],
        ["optim.lr=-1", "seed=x", "data.num_val=0", "data.batch_size=1.5"],
        ["-m", "model=alexnet,resnet50", "seed=0,abc"],
    ],
)
def test_a_refusal_is_exit_code_2_and_three_lines_before_torch_is_imported(
    arguments: list[str],
) -> None:
    ended = run(*arguments)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert 1 <= len(ended.stderr.splitlines()) <= 3
    assert arguments[-1].split("=")[0] in ended.stderr or len(arguments) == 4


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_is_printed_without_hydra_or_torch(flag: str) -> None:
    ended = run("model=nonsense", flag, hydra=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout == cli.usage("train") + "\n"


def test_a_config_is_printed_without_a_run() -> None:
    ended = run("--cfg", "job", "model=alexnet")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "name: alexnet" in ended.stdout


def test_ctrl_c_on_the_way_in_ends_without_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "function", interrupted)
    sys.argv[1:] = ["model=alexnet"]
    with pytest.raises(SystemExit) as ended:
        cli.main("train", "triptych.training:train")
    assert ended.value.code == 130


def test_whoever_asks_for_the_traceback_gets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    sys.argv[1:] = ["seed=abc"]
    with pytest.raises(UserError):
        cli.main("train", "triptych.training:train")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--cfg"], "argument --cfg/-c: expected one argument; --help"),
        (["--info", "seed=1"], "argument --info/-i: invalid choice: 'seed=1'"),
        (["hydra.sweeper.params={seed:1}"], "one of the arguments cannot be set: 'NoneType'"),
        (["trusted_targets.a.b=/"], "one of the arguments cannot be set: Index 'a'"),
        (["-m", "seed=0,1", "trusted_targets.a.b=/"], "one of the arguments cannot be set"),
        (["k" * 5000 + "=[x]"], "one of the arguments is too long"),
        (["hydra.searchpath=[x]", "model=nope"], "model=nope: no such choice"),
    ],
)
def test_what_hydra_cannot_set_or_find_is_refused_in_a_line_of_ours(
    arguments: list[str], says: str
) -> None:
    assert told(*arguments)[0].startswith(says)


def test_a_full_disk_below_the_screen_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("rich.get_console", lambda: Console(file=Full()))
    cli.ScreenHandler().emit(logging.makeLogRecord({"msg": "epoch 1"}))
