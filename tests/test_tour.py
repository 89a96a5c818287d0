"""The tour through the package runs as it is, and is committed as it ran."""

import base64
import json
import re
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import matplotlib.pyplot as plt
import pytest
from matplotlib.figure import Figure

from triptych.callbacks.tensorboard import TensorBoardCallback
from triptych.config import CONFIGS

TOUR = CONFIGS.parent / "notebooks" / "tour.ipynb"
DRAWS = re.compile(r"^(figure|show_predictions|Image)\b", re.MULTILINE)


def read_cells() -> list[dict[str, Any]]:
    cells = json.loads(TOUR.read_text())["cells"]
    return [
        cell | {"source": "".join(cell["source"])} for cell in cells if cell["cell_type"] == "code"
    ]


def read_pictures(cell: dict[str, Any]) -> list[bytes]:
    data = [output.get("data", {}) for output in cell["outputs"]]
    return [base64.b64decode(each["image/png"]) for each in data if "image/png" in each]


def test_the_tour_is_committed_executed_with_its_pictures() -> None:
    cells = read_cells()
    assert all(cell["execution_count"] for cell in cells)
    assert [o for cell in cells for o in cell["outputs"] if o.get("name") == "stderr"] == []
    pictures = [read_pictures(cell) for cell in cells if DRAWS.search(cell["source"])]
    assert [len(each) for each in pictures] == [1] * 7
    assert min(len(picture) for [picture] in pictures) > 5000
    assert TOUR.stat().st_size < 700_000


def test_the_tour_names_no_folder_of_the_machine_that_ran_it() -> None:
    written = re.sub(r'"image/png": "[^"]*"', "", TOUR.read_text())
    assert re.findall(r"(?<![\w.])/[a-z]+/[^\s\"]*", written) == []


def test_the_tour_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setitem(sys.modules, "__main__", module := ModuleType("__main__"))
    # Pictures of each epoch cost as much as the training; they have tests of their own.
    monkeypatch.setattr(TensorBoardCallback, "on_validation_end", lambda *args: None)
    figures: list[Figure] = []
    for cell in read_cells():
        exec(cell["source"].replace("%matplotlib inline", ""), module.__dict__)
        figures += [plt.figure(number) for number in plt.get_fignums()]
        plt.close("all")
    for figure in figures:
        figure.canvas.draw()
    assert len(figures) == 6, "besides the matrix, which the run has drawn"
    printed = capsys.readouterr().out
    assert "data.batch_size" in printed, "the nearest of a misspelt setting"
    [accuracy] = [float(value) for value in re.findall(r"test accuracy ([\d.]+)%", printed)]
    assert 80 < accuracy < 98
