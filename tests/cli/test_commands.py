"""The command line: commands, flags, the environment, and what wrong input gets before torch."""

import io
import logging
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from omegaconf import OmegaConf
from rich.console import Console

from triptych import cli
from triptych.callbacks import trainer_rules
from triptych.cli import CONFIGS, ROOT, list_commands
from triptych.cli.help import check_choice, check_module_name, explain, format_help
from triptych.config import RULES, Config, extends_training, load_settings
from triptych.errors import UserError


@pytest.fixture(autouse=True)
def _untouched(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a command leaves in the environment and on the command line is taken back."""
    for key in ("HYDRA_FULL_ERROR", "TRIPTYCH_COMMAND"):
        monkeypatch.setenv(key, "")
    monkeypatch.setattr(sys, "argv", ["train.py"])


def compose(*arguments: str) -> Config:
    """The config that a command line comes to."""
    is_sweep = cli.check_arguments("train", arguments)
    sys.argv[1:] = [cli.prepare(argument, is_sweep=is_sweep) for argument in arguments]
    composed = cli.compose("train")
    assert composed is not None
    return composed[0]


def error_lines(*arguments: str) -> list[str]:
    """The lines of the error that a command line ends with."""
    with pytest.raises(UserError) as raised:
        compose(*arguments)
    lines = str(raised.value).splitlines()
    assert 1 <= len(lines) <= 3
    return lines


def exit_code(command: str, *arguments: str) -> int:
    sys.argv[:] = [f"{command}.py", *arguments]
    with pytest.raises(SystemExit) as ended:
        cli.main(command)
    return int(ended.value.code or 0)


def test_an_argument_of_the_trainer_needs_no_plus_sign() -> None:
    for name in trainer_rules.RULES:
        for argument in (f"{name}=x", f"{name}.deeper=1"):
            assert cli.prepare(argument) == f"++{argument}"
            assert cli.restore([f"++{argument}"]) == [argument]
    for argument in ("+trainer.callbacks=[]", "~trainer.callbacks", "trainer=ddp"):
        assert cli.prepare(argument) == argument
    trainer = compose("trainer.gradient_clip_val=0.5", "trainer.max_time={hours: 1}")["trainer"]
    assert (trainer["gradient_clip_val"], trainer["max_time"]) == (0.5, {"hours": 1})


# With those that somebody added, as the README says.
SEVERAL = ", ".join(sorted(path.stem for path in (CONFIGS / "model").glob("*.yaml")))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("model=googlenett", "model=googlenett: no such choice; nearest: googlenet"),
        ("callbacks=[soup,sva]", "callbacks=sva: no such choice; nearest: swa"),
        ("loss.gamma=1", "loss={'gamma': 1}: must be what loss=<choice>"),
        ("model=", f"model=: must be one of {SEVERAL}"),
        ("model=[alexnet,resnet50]", f"model=[alexnet,resnet50]: must be one of {SEVERAL}"),
        ("trainer=3", "trainer=3: must be one of ddp, debug, default"),
        ("model=alexnet,resnet50", "model=alexnet,resnet50: several values; sweep over them"),
        ("optim.learning_rate=1", "optim.learning_rate: no such setting"),
        ("seed=0,", "seed=0,: cannot be read as key=value"),
        ("=1", "=1: must be key=value"),
        ("seed='é…\U0001f600'", "seed=é…\U0001f600: must be a whole number"),
        ("seed=1" + "0" * 5000, "one of the arguments cannot be set: Exceeds the limit"),
        ("~optim.lr", "optim.lr: missing, must be a number above 0"),
        ("model=torchvision", "model.name: must be given"),
        ("seed=${seed}", "seed: Recursive interpolation"),
        ("log_dir=${oc.env:NOT_SET_ANYWHERE}", "log_dir: "),
        ("experiment=demo model=torchvision model.name=vgg11", "model.input_size: "),
        ("--flag", "unrecognized arguments: --flag"),
        ("hydra.sweeper.params={seed:1}", "one of the arguments cannot be set: 'NoneType'"),
        ("k" * 5000 + "=[x]", "one of the arguments is too long"),
        ("--multirun hydra.launcher.num_jobs=0", "hydra.launcher.num_jobs=0: must be"),
        ("-m hydra.launcher.jobs_per_gpu=0", "hydra.launcher.jobs_per_gpu=0: must be"),
        ("-m log_dir=/dev/null/x seed=0,1", "log_dir: cannot be written to"),
        ("-m hydra/launcher=basic seed=0,1", "hydra/launcher: must be processes"),
        ("-m model=glob(nope*)", "-m: no jobs to run"),
    ],
)
def test_an_error_names_the_argument_and_what_it_may_be(
    arguments: str, says: str, tmp_path: Path
) -> None:
    words = arguments.split()
    if "-m" in words and "log_dir=/dev/null/x" not in words:
        words.append(f"log_dir={tmp_path}")
    assert error_lines(*words)[0].startswith(says)


def test_what_hydra_cannot_read_without_assertions_is_answered_with_what_to_unset(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    flags = SimpleNamespace(flags=SimpleNamespace(optimize=2), argv=[])
    monkeypatch.setattr("triptych.cli.help.sys", flags)
    assert "PYTHONOPTIMIZE" in explain(AttributeError("no 'function'"), "train")


def test_in_a_sweep_nothing_starts_where_the_last_job_is_wrong(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def start(*_: Any, **__: Any) -> None:
        raise AssertionError("a job was started")

    monkeypatch.setattr(subprocess, "Popen", start)
    lines = error_lines("-m", "model=alexnet,resnet50", "data.num_val=100,0", f"log_dir={tmp_path}")
    assert lines[0].startswith("data.num_val=0: must be")
    assert lines[1].startswith("in the job model=alexnet data.num_val=0")


@pytest.mark.parametrize("sweep", ["-m", "--multi"])
def test_other_commands_take_no_sweep(sweep: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("compare", sweep, "runs=a,b") == 2
    assert capsys.readouterr().err.startswith("-m: compare takes a folder with many runs below it")


@pytest.mark.parametrize(
    "url", ["postgresql://me:hunter2@host/db", "'mysql://h/db?password=hunter2'"]
)
def test_a_password_on_the_command_line_is_refused(
    url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code("tune", f"+storage={url}", "--cfg", "job") == 2
    shown = capsys.readouterr()
    assert "TRIPTYCH_STORAGE" in shown.err
    assert "hunter2" not in shown.out + shown.err + os.environ["TRIPTYCH_COMMAND"]


def test_ctrl_c_before_a_command_begins_prints_no_traceback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "load_function", interrupt)
    assert exit_code("train", "model=alexnet") == 130


def test_hydra_full_error_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    sys.argv[1:] = ["seed=abc"]
    with pytest.raises(UserError):
        cli.main("train")


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("DATA_DIR=/data", "/data"),
        ('DATA_DIR="/my # data"  # mine', "/my # data"),
        ("DATA_DIR=''", None),
        ("DATA_DIR", None),
        ("DATA_DIR=~", str(Path.home())),
    ],
)
def test_env_files_are_read_as_shells_read_them(
    line: str, value: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATA_DIR", "")
    (tmp_path / ".env").write_text(f"\n{line}\nOTHER=1\n")
    cli.load_env(tmp_path / ".env")
    assert os.environ.get("DATA_DIR") == value


def test_the_environment_wins_over_the_env_file_which_sets_its_four_variables_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"DATA_DIR": "mine", "LOG_DIR": "", "TORCH_HOME": ""}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    (tmp_path / ".env").write_text("DATA_DIR=a\nLOG_DIR=b\nPATH=c\nCUDA_VISIBLE_DEVICES=d\n")
    before = {name: value for name, value in os.environ.items() if name != "TORCH_HOME"}
    cli.load_env(tmp_path / ".env")
    assert dict(os.environ) == before | {"LOG_DIR": "b"}


def test_a_full_disk_below_the_screen_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("rich.get_console", lambda: Console(file=Full()))
    cli.ScreenHandler().emit(logging.makeLogRecord({"msg": "epoch 1"}))


def test_help_names_every_choice_of_every_group() -> None:
    lines = format_help("train").splitlines()
    groups = {"data", "experiment", "model", "optim", "trainer"}
    assert groups <= {path.name for path in CONFIGS.iterdir()}
    for group in groups:
        choices = sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))
        assert f"  {group}={'|'.join(choices)}" in lines


@pytest.mark.parametrize("command", list_commands()[1:])
def test_help_names_every_setting_of_a_command_as_it_is_typed(command: str) -> None:
    if command == "compare":
        assert "  runs: logs, or $LOG_DIR  # a folder" in format_help(command)
    shown = set(re.findall(r"^  ([\w.]+)(?:: |=)", format_help(command), flags=re.MULTILINE))
    own = {name.removesuffix(".types") for name in load_settings(command).RULES}
    assert own <= shown
    of_a_training = {path.name for path in CONFIGS.iterdir()} | RULES.keys()
    assert shown - own <= (of_a_training if extends_training(command) else set())


# In a process of its own: nothing heavy is imported, and the exit code is the shell's.

WATCHED = """
import runpy, sys
sys.argv[:] = ["train.py", *sys.argv[1:]]
try:
    runpy.run_path("train.py", run_name="__main__")
finally:
    heavy = ("torch", "lightning", "scipy", "rich.console", "matplotlib", *HYDRA)
    assert not [name for name in heavy if name in sys.modules]
"""


def run(*command: str) -> tuple[int, str, str]:
    env = {name: value for name, value in os.environ.items() if name != "HYDRA_FULL_ERROR"}
    command = (sys.executable, *command)
    ended = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    return ended.returncode, ended.stdout, ended.stderr


def test_wrong_input_is_exit_code_2_and_three_lines_before_torch_is_imported() -> None:
    arguments = ["-m", "model=alexnet,resnet50", "seed=0,abc"]
    code, out, err = run("-c", WATCHED.replace("*HYDRA", ""), *arguments)
    assert (code, out) == (2, "")
    assert 1 <= len(err.splitlines()) <= 3
    assert err.startswith("seed=abc: must be")


def test_help_is_printed_without_hydra_or_torch() -> None:
    watched = WATCHED.replace("*HYDRA", "'hydra', 'omegaconf'")
    help_of_train = format_help("train") + "\n"
    assert run("-c", watched, "model=nonsense", "--help") == (0, help_of_train, "")


def test_a_config_is_printed_without_a_run() -> None:
    code, out, err = run("-m", "triptych", "train", "--cfg", "job", "model=alexnet")
    assert (code, err) == (0, "")
    assert "name: alexnet" in out


def test_a_command_started_as_a_module_is_answered_by_its_new_name() -> None:
    code, out, err = run("-m", "triptych.predict", "run=logs")
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert "triptych predict" in err
    for command in list_commands():
        with pytest.raises(SystemExit, match="2"):
            check_module_name(["python", "-m", f"triptych.{command}", "run=logs"])
    check_module_name(["python", "-m", "triptych.distributed.processes", "predict"])


def test_without_a_command_the_commands_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    sys.argv[1:] = []
    cli.run()
    listed = re.findall(r"^  (\w+) +\S", capsys.readouterr().out, flags=re.MULTILINE)
    assert listed == list_commands()


def test_an_unknown_command_is_answered_by_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    sys.argv[1:] = ["evalute", "run=logs"]
    with pytest.raises(SystemExit) as ended:
        cli.run()
    assert ended.value.code == 2
    assert re.match("evalute: .*evaluate", capsys.readouterr().err)


def test_a_yaml_file_with_a_syntax_error_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("# mine\ntrainer: {max_epochs: [}\n")
    with pytest.raises(UserError, match=f"{path}, line 2: "), cli.translate_hydra_errors("train"):
        OmegaConf.load(path)


@pytest.mark.parametrize(
    ("command", "word", "line"),
    [
        ("evaluate", "logs/my photos", "python evaluate.py 'run=logs/my photos'"),
        ("compare", "logs", "python compare.py runs=logs"),
        ("predict", "photo.JPG", "triptych predict images=photo.JPG"),
        ("predict", "logs/a", "triptych predict run=logs/a"),
        ("train", "resnet50", "python train.py model=resnet50"),
        ("train", "tests", "python train.py data=folder data.root=tests"),
    ],
)
def test_a_word_that_is_no_setting_is_answered_with_the_line_to_paste(
    command: str, word: str, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(UserError) as raised:
        cli.check_arguments(command, [word])
    assert str(raised.value).splitlines()[1] == line


@pytest.mark.parametrize(
    ("argument", "offers"),
    [
        ("model=resnet18", "model=torchvision model.name=resnet18"),
        ("model=efficientnet_b0", "model=torchvision model.name=efficientnet_b0"),
        ("model=resnet152", "model=torchvision model.name=resnet152"),
        ("model=convnextv2_atto", "model=timm model.name=convnextv2_atto"),
        ("data=mnist", "data=folder data.root=<folder>"),
        ("optim=rmsprop", "optim.optimizer._target_=torch.optim."),
        ("experiment=fintune", "finetune"),
    ],
)
def test_an_unknown_choice_is_answered_with_how_to_have_it(argument: str, offers: str) -> None:
    assert offers in "\n".join(error_lines(argument))


def test_a_setting_of_another_choice_is_not_called_unknown() -> None:
    [line] = error_lines("data=shapes", "data.root=x")
    assert line.startswith("data.root: the data that was chosen")


def test_help_shows_a_group_with_its_comments_and_rules() -> None:
    shown = format_help("train", ["--help", "optim"])
    for choice in (CONFIGS / "optim").glob("*.yaml"):
        assert choice.read_text().strip() in shown
    assert f"optim.lr: {RULES['optim.lr'].says}" in shown.splitlines()
    assert "grad_cam.num_images: " in format_help("evaluate", ["grad_cam", "-h"])
    with pytest.raises(UserError, match=r"optm.*optim"):
        format_help("train", ["optm"])


def test_a_sweep_may_be_over_lists_of_choices() -> None:
    check_choice("callbacks", "[ema],[swa,lr_monitor],[]")
    for group, value in {"callbacks": "ema],[swa", "loss": "[focal]", "metrics": "3"}.items():
        with pytest.raises(UserError, match=re.escape(f"{group}={value}: must be one of")):
            check_choice(group, value)
