"""docs/recipes.md, followed to the letter in a clone: every class and command of it."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.run_folders import change_record
from triptych.config import CONFIGS

ROOT = CONFIGS.parent
TEXT = (ROOT / "docs" / "recipes.md").read_text()
SECTIONS = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", TEXT, re.DOTALL | re.MULTILINE))
FENCED = re.findall(r"```(?:python|yaml)\n((?:# @.*?\n)?)# (\S+)\n(.*?)```", TEXT, re.DOTALL)
BLOCKS = [(name, head + text) for head, name, text in FENCED]
COMMANDS = {
    title: re.findall(
        r"(?:`|^)(python train\.py data=(?:shapes|squares) [^`\n]*)", text, re.MULTILINE
    )
    for title, text in SECTIONS.items()
}
FEW = [
    *("data.num_train=32", "data.num_val=20", "data.num_test=20", "data.batch_size=16"),
    *("trainer.max_epochs=2", "trainer.accelerator=cpu", "trainer.log_every_n_steps=1"),
]
FEW_DRAWINGS = ["data.source.num_train=80", "data.source.num_test=40"]
# Commands in one process, for starting takes longer than all of a tiny run.
SERVER = """
import json, sys
from tests.tiny import draw_nothing
from triptych import cli
draw_nothing()
for line in sys.stdin:
    command, *arguments = json.loads(line)
    sys.argv = [f"{command}.py", *arguments]
    code = "done"
    try:
        cli.main(command)
    except SystemExit as error:
        code = f"exit code {error.code}"
    except Exception as error:
        code = f"{type(error).__name__}: {error}"
    print(json.dumps(code), file=sys.__stderr__, flush=True)
"""


class Clone:
    """A copy of the project with the files of all recipes, and a process that runs commands there,
    with its folder on the path as `python train.py` has it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("src", "configs"):
            shutil.copytree(ROOT / name, folder / name)
        for name, text in BLOCKS:
            with (folder / name).open("a") as file:
                file.write(f"{text}\n\n")
        Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(folder / "one.png")
        places = [str(folder / "src"), str(ROOT)]
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(places), "LOG_DIR": "logs"},
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, command: str, *arguments: str) -> None:
        """Run a command of ours; fails with what it ended with."""
        assert self.process.stdin
        assert self.process.stderr
        print(json.dumps([command, *arguments]), file=self.process.stdin, flush=True)
        said = []
        for line in self.process.stderr:
            said.append(line)
            if line.startswith('"'):
                assert json.loads(line) == "done", "".join(said)
                return
        pytest.fail("".join(said))

    def folders(self) -> set[Path]:
        return {path.parent for path in (self.folder / "logs").rglob("run.json")}

    def train(self, command: str) -> Path:
        """The folder of a tiny run by a command of the recipes."""
        before, words = self.folders(), shlex.split(command)[2:]
        few = FEW + (FEW_DRAWINGS if "data=shapes" in words else [])
        self.run("train", *words, *few)
        [folder] = self.folders() - before
        return folder


def metrics_of(folder: Path) -> dict[str, Any]:
    metrics: dict[str, Any] = json.loads((folder / "run.json").read_text())["metrics"]
    return metrics


def use(clone: Clone, folder: Path, *, for_longer: bool = False) -> None:
    """Evaluate, predict, export, compare and resume a run, without `trusted_targets`."""
    scores = metrics_of(folder)
    run = f"run={folder}"
    clone.run("evaluate", run, "device=cpu", "cost=false")
    clone.run("predict", run, "images=one.png", f"out={folder / 'one.csv'}", "device=cpu")
    clone.run("export", run, "format=torch", "time_seconds=0.01")
    page = clone.folder / "page"
    clone.run("compare", f"runs={folder}", f"out={page}")
    assert folder.parents[1].name in (page / "comparison.csv").read_text()
    if for_longer:
        clone.run("train", f"resume={folder}", "trainer.max_epochs=3")
        assert json.loads((folder / "run.json").read_text())["num_epochs"] == 3
    else:  # after its last epoch
        change_record(folder, status="interrupted")
        clone.run("train", f"resume={folder}")
        assert metrics_of(folder) == scores


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clone]:
    made = Clone(tmp_path_factory.mktemp("clone"))
    with made.process:
        yield made
        made.process.kill()


def test_every_row_of_the_table_has_a_recipe_of_at_most_15_lines_and_names_what_there_is() -> None:
    rows = re.findall(r"^\| `(\w+)` \|.*\| (.*?) \|$", TEXT, re.MULTILINE)
    assert {group for group, _ in rows} == {
        *("model", "data", "augment", "loss", "schedule", "metrics"),
        *("callbacks", "logger", "module"),
    }
    for group, words in rows:
        named = set(re.findall(r"`(\w+)`", words))
        assert named == {path.stem for path in (CONFIGS / group).glob("*.yaml")}, group
    code = [text for name, text in BLOCKS if name == "mine.py"]
    assert len(code) == len(rows)
    assert max(len(text.split("\n")) - text.count("\n\n") for text in code) <= 15
    assert all(COMMANDS.values())


def test_what_all_recipes_change_at_once_is_trained_and_used(clone: Clone) -> None:
    words = [word for commands in COMMANDS.values() for word in shlex.split(commands[0])[2:]]
    mine = [word for word in dict.fromkeys(words) if "mine" in word or ".lines.name" in word]
    folder = clone.train(shlex.join(["python", "train.py", "data=shapes", *mine]))
    assert metrics_of(folder)["test/certainty"] > 0.1
    assert len((folder / "lines" / "version_0" / "lines.jsonl").read_text().splitlines()) > 3
    use(clone, folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("title", "command"), [(t, c) for t, commands in COMMANDS.items() for c in commands]
)
def test_a_recipe_is_trained_and_used(clone: Clone, title: str, command: str) -> None:
    use(clone, clone.train(command), for_longer="schedule" not in command)
