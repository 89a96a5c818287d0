"""The tour through the package runs as it stands, and is kept as it was written."""

import base64
from typing import Any

import pytest

from triptych.config import CONFIGS

nbclient = pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")
pytest.importorskip("ipykernel")

TOUR = CONFIGS.parent / "notebooks" / "tour.ipynb"


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """What the cells put out, executed from another folder."""
    folder = tmp_path_factory.mktemp("tour")
    tour = nbformat.read(TOUR, as_version=4)
    client = nbclient.NotebookClient(tour, timeout=300, resources={"metadata": {"path": folder}})
    with pytest.MonkeyPatch.context() as patch:
        for key in ("TMPDIR", "IPYTHONDIR", "JUPYTER_RUNTIME_DIR"):
            patch.setenv(key, str(folder))
        client.execute()
    return [output for cell in tour.cells for output in cell.get("outputs", [])]


def test_the_tour_is_kept_without_outputs() -> None:
    cells = [cell for cell in nbformat.read(TOUR, as_version=4).cells if cell.cell_type == "code"]
    assert len(cells) >= 8
    assert all(cell.outputs == [] and cell.execution_count is None for cell in cells)


@pytest.mark.slow
def test_the_tour_trains_two_networks_shows_images_and_errors_and_compares(
    outputs: list[Any],
) -> None:
    said = "".join(output.text for output in outputs if output.output_type == "stream")
    assert "near: data.batch_size" in said
    assert said.count("finished: ") == 2
    assert "width32 seed 0 is more accurate than width4 seed 0 on these 1,000 test images" in said
    shown = [output.data for output in outputs if output.output_type != "stream"]
    pictures = [base64.b64decode(data["image/png"]) for data in shown if "image/png" in data]
    assert len(pictures) == 3
    assert min(map(len, pictures)) > 10_000
    assert shown[-1]["text/markdown"].startswith("# width32 and width4 on shapes")
    assert [output.text for output in outputs if output.get("name") == "stderr"] == []
