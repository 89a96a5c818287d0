"""Paths on a command line: what a person types is what the config holds."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from triptych import cli
from triptych.cli import list_commands
from triptych.config import FOLDERS, PATH, PATHS, Config, load_rules
from triptych.errors import UserError

LETTERS = st.characters(exclude_characters="/\0", exclude_categories=["Cs"])
NAMES = st.text(LETTERS, min_size=1, max_size=12)
ODD = """
    2024 true null 1e5 1_000 0x10 nan [a] {b} a:b a=b a,b (x) a(1)
    it's a"b $a # * ? ! ~x % a;b C:\\x
    C:\\x\\ \\ müll 写真 a\u0301 \udcff a\\'b 'a "a choice(a,b) glob(*) range(3) str(1) @x &
""".split()
ODD += ["my photos", "a  b", " a", "a ", "a\tb", "a\nb", "[a, b]", "{a: 1}", "' '", '" "']


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train.py"])
    for key in ("HYDRA_FULL_ERROR", "TRIPTYCH_COMMAND"):
        monkeypatch.setenv(key, "")


def read(argument: str, *, is_sweep: bool = False) -> object:
    """What the config holds of an argument, as Hydra and OmegaConf read it."""
    override = OverridesParser.create().parse_override(cli.prepare(argument, is_sweep=is_sweep))
    return OmegaConf.to_container(OmegaConf.create({"value": override.value()}), resolve=True)[
        "value"
    ]


def compose(*arguments: str, command: str = "train") -> tuple[Config, list[str]]:
    is_sweep = cli.check_arguments(command, arguments)
    sys.argv[1:] = [cli.prepare(argument, is_sweep=is_sweep) for argument in arguments]
    composed = cli.compose(command)
    assert composed is not None
    return composed


def test_every_setting_with_the_rule_of_a_path_is_taken_as_it_is_typed() -> None:
    texts = [rule.says for each in (PATH, FOLDERS) for rule in (each, each.or_null())]
    rules = [
        (name, rule) for command in list_commands() for name, rule in load_rules(command).items()
    ]
    paths = {name for name, rule in rules if rule.says in texts}
    assert len(paths) >= 10
    for name in paths:  # null for any command
        assert PATHS[name] == any(rule.holds(None) for each, rule in rules if each == name), name


@settings(max_examples=100, deadline=None)
@given(name=NAMES, key=st.sampled_from(sorted(PATHS)), is_sweep=st.booleans())
@example(name="2024", key="data.root", is_sweep=True)
def test_a_folder_that_exists_is_taken_as_it_is_typed(
    name: str, key: str, is_sweep: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    assume(name not in (".", "..") and "${" not in name and len(name.encode(errors="replace")) < 99)
    assume(not (name == "null" and PATHS[key]) and not name.startswith("~"))
    os.chdir(tmp_path_factory.mktemp("a"))
    Path(name).mkdir()
    argument = f"{key}={name}"
    assert read(argument, is_sweep=is_sweep) == name
    assert cli.restore([cli.prepare(argument, is_sweep=is_sweep)]) == [argument]


@settings(max_examples=100, deadline=None)
@given(name=NAMES, key=st.sampled_from(["log_dir", "data.root", "out", "data_root", "resume"]))
def test_a_name_that_does_not_exist_yet_is_taken_as_it_is_typed(name: str, key: str) -> None:
    assume("${" not in name and not (name == "null" and PATHS[key]))
    assume(not (name[0] == name[-1] and name[0] in "'\""))  # Hydra's quotes, as ever
    assert read(f"{key}={name}") == name


@pytest.mark.parametrize(("name", "other"), [*zip(ODD[::2], ODD[1::2], strict=True)])
def test_an_odd_name_comes_through_a_shell_hydra_and_the_record(name: str, other: str) -> None:
    Path(name).mkdir()
    Path(other).mkdir()
    typed = ["data=folder", f"data.root={name}", f"log_dir={other}", "model.weights=null"]
    shell = subprocess.run(
        ["bash", "-c", f"printf '%s\\0' {shlex.join(typed)}"], capture_output=True, check=True
    )
    arguments = [os.fsdecode(word) for word in shell.stdout.split(b"\0")[:-1]]
    config, overrides = compose(*arguments)
    assert (config["data"]["root"], config["log_dir"]) == (name, other)
    assert config["data"]["source"]["root"] == name
    assert overrides == typed


def test_lists_quotes_sweeps_home_and_variables_keep_their_meaning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert read("run=[my runs,b=c,'d']".replace("'", "")) == ["my runs", "b=c", "d"]
    assert read("run=['a,b',c]") == ["a,b", "c"]
    assert read("images='a (1).jpg'") == "a (1).jpg"
    claims = ["a, lr=0.1 better b margin=0.5", "'a b' equivalent c"]
    assert read(f"require={claims[0]}") == claims[0]
    assert read(f'require=["{claims[0]}","{claims[1]}"]') == claims
    assert read("log_dir=${oc.env:HOME}/my logs (1)") == "/home/me/my logs (1)"
    assert read("model.weights=null") is None
    sweep = OverridesParser.create().parse_override(
        cli.prepare("data.root=my a,2024", is_sweep=True)
    )
    assert [*sweep.sweep_string_iterator()] == ["'my a'", "'2024'"]
    config, _ = compose("log_dir=~/logs", "model.weights=~/w.pth", "data.root=~")
    assert config["log_dir"] == "/home/me/logs"
    assert config["model"]["weights"] == "/home/me/w.pth"
    assert (config["data"]["root"], config["data"]["source"]["root"]) == ("/home/me", "/home/me")
    config, _ = compose("run=[~/a,~/b]", command="evaluate")
    assert config["run"] == ["/home/me/a", "/home/me/b"]


@pytest.mark.parametrize("name", ["${", "a${b", "${a}", "it's ${HOME}"])
def test_a_name_that_begins_a_variable_is_refused_with_lines_that_work(name: str) -> None:
    Path(name).mkdir()
    with pytest.raises(UserError) as raised:
        cli.prepare(f"data.root={name}")
    _, link, argument = str(raised.value).splitlines()
    subprocess.run(["bash", "-c", link], check=True)
    assert Path(str(read(argument))).samefile(name)


def test_several_paths_where_one_is_taken_are_answered_with_what_takes_each() -> None:
    Path("a b").mkdir()
    Path("c").mkdir()
    with pytest.raises(UserError, match="-m") as raised:
        cli.prepare("data.root=a b,c")
    line = shlex.split(str(raised.value).partition("-m ")[2])
    sweep = OverridesParser.create().parse_override(cli.prepare(*line, is_sweep=True))
    assert [*sweep.sweep_string_iterator()] == ["'a b'", "c"]
    with pytest.raises(UserError) as raised:
        cli.prepare("run=a b,c")
    [listed] = shlex.split(str(raised.value).rpartition(": ")[2])
    assert read(listed) == ["a b", "c"]


def test_a_number_in_a_yaml_file_is_no_path(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="quotes"):
        compose("data=folder", "++data.source.root=3", "+data={root: 2024}")


@pytest.mark.parametrize(
    "sweep",
    [
        *("seed=range(10000000)", "seed=range(0,1e300)", "optim.lr=range(0,1,1e-9)"),
        *("seed=range(0,10,0)", "seed=range(0,1,nan)", "seed=shuffle(range(100000000))"),
        "seed=range(101) optim.lr=range(100)",
    ],
)
def test_a_sweep_of_more_jobs_than_can_be_checked_is_refused_before_they_are_listed(
    sweep: str,
) -> None:
    with pytest.raises(UserError, match=r"^-m: more than 10,000 jobs"):
        cli.check_arguments("train", ["-m", *sweep.split()])
    for allowed in ("seed=range(10000)", "seed=range(5,1)", "model=a,b seed=range(9,0,-1) x=1"):
        assert cli.check_arguments("train", ["-m", *allowed.split()])
