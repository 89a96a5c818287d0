"""docs/predictions.md, followed to the letter: its files are written, its commands run."""

import csv
import re
import shlex
from pathlib import Path

import pytest

from tests.composing import composed
from triptych.config import CONFIGS
from triptych.tools.compare.command import compare
from triptych.tools.compare.settings import expand_arguments

TEXT = (CONFIGS.parent / "docs" / "predictions.md").read_text()
FILES = re.findall(r"`([\w./]+)`[^`\n]*:\n\n```\w+\n(.*?)```", TEXT, re.DOTALL)
[PROGRAM] = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
COMMANDS = re.findall(r"^    triptych compare (.*)$", TEXT, re.MULTILINE)


def test_every_file_of_the_page_is_read_and_every_command_of_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("answers").mkdir()
    for name, content in FILES:
        Path(name).write_text(content)
    exec(PROGRAM, {})
    accuracies = {}
    for command in COMMANDS:
        arguments = expand_arguments(shlex.split(command))
        settings = dict(argument.split("=", 1) for argument in arguments)
        chosen = {name: None if v == "null" else v for name, v in settings.items()}
        if "cifar10" in command:  # on no machine of a test
            assert {"predictions"} < chosen.keys()
            continue
        page = compare(composed("compare", **chosen))
        assert "What could not be used" not in page.read_text()
        lines = page.with_name("comparison.csv").read_text().splitlines()
        accuracies[chosen["out"]] = {
            (row["model"], row["seed"]): float(row["accuracy"]) for row in csv.DictReader(lines)
        }
    assert accuracies["page"].keys() == {
        *(("alexnet", ""), ("vgg16", "")),
        *(("resnet50", "0"), ("resnet50", "1")),
    }
    assert accuracies["page"]["alexnet", ""] == pytest.approx(4 / 6)
    assert accuracies["page"]["resnet50", "0"] == accuracies["page"]["vgg16", ""]
    assert {name for name, _ in accuracies["named"]} == {"large network", "small network"}
    assert len(FILES) == 5
    assert len(COMMANDS) == 4
