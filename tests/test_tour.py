"""The tour through the package runs as it is, and is committed as it ran."""

import base64
import re
from typing import Any

import pytest

from triptych.config import CONFIGS

nbclient = pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")
pytest.importorskip("ipykernel")

TOUR = CONFIGS.parent / "notebooks" / "tour.ipynb"


def read_outputs(tour: Any) -> tuple[str, list[bytes]]:
    """What the cells print on standard output, and the pictures that they show."""
    outputs = [output for cell in tour.cells for output in cell.get("outputs", [])]
    assert [o.text for o in outputs if o.get("name") == "stderr"] == []
    streams = "".join(o.text for o in outputs if o.output_type == "stream")
    shown = [o.data for o in outputs if o.output_type != "stream"]
    pictures = [base64.b64decode(data["image/png"]) for data in shown if "image/png" in data]
    return streams, pictures


def test_the_tour_is_committed_executed_with_its_pictures() -> None:
    tour = nbformat.read(TOUR, as_version=4)
    cells = [cell for cell in tour.cells if cell.cell_type == "code"]
    assert len(cells) >= 8
    assert all(cell.execution_count for cell in cells)
    printed, pictures = read_outputs(tour)
    assert printed.count("finished: logs/") == 2
    assert len(pictures) == 3


def test_the_tour_uses_nothing_of_ours_but_the_library() -> None:
    tour = nbformat.read(TOUR, as_version=4)
    code = "\n".join(cell.source for cell in tour.cells if cell.cell_type == "code")
    imports = re.findall(r"^(?:import|from) (triptych\S*)", code, re.MULTILINE)
    assert imports == ["triptych"]
    used = set(re.findall(r"\btriptych\.(\w+)\(", code))
    assert used == {"compose", "train", "find_runs"}


@pytest.mark.slow
def test_the_tour_runs(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tour = nbformat.read(TOUR, as_version=4)
    for key in ("TMPDIR", "IPYTHONDIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(key, str(tmp_path))
    resources = {"metadata": {"path": tmp_path}}
    nbclient.NotebookClient(tour, timeout=300, resources=resources).execute()
    printed, pictures = read_outputs(tour)
    assert "data.batch_size" in printed, "the nearest of a misspelt setting"
    assert min(map(len, pictures)) > 10_000
    accuracies = [float(value) for value in re.findall(r"test accuracy ([\d.]+)%", printed)]
    assert 50 < accuracies[0] < accuracies[1] < 98
