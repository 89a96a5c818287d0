"""What is read of runs before they answer together."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from triptych.errors import UserError
from triptych.models.backbone import Preprocessing
from triptych.tools.predict.decoding import View
from triptych.tools.predict.ensemble import names_of, read_temperature


def record(model: str, seed: int, folder: str) -> Any:
    return SimpleNamespace(metadata={"model": model, "seed": seed}, folder=Path(folder))


def test_networks_are_named_by_no_more_than_tells_them_apart() -> None:
    runs = [("alexnet", 0, "a"), ("googlenet", 0, "a"), ("googlenet", 1, "a"), ("vgg", 0, "a")]
    runs += [("vgg", 0, "b")]
    names = names_of([record(*run) for run in runs])
    assert names[:3] == ["alexnet", "googlenet, seed=0", "googlenet, seed=1"]
    assert names[3:] == ["vgg, folder=a", "vgg, folder=b"]


@pytest.mark.parametrize(
    "found",
    ["{}", "[", "[3]", '{"calibration": 3}', '{"calibration": null}', "[" * 100_000]
    + [f'{{"calibration": {{"temperature": {value}}}}}' for value in ("null", "0", "NaN", '"2"')],
)
def test_a_temperature_that_is_none_is_refused_with_what_finds_one(
    found: str, tmp_path: Path
) -> None:
    (tmp_path / "evaluation.json").write_text(found)
    with pytest.raises(UserError, match=r"has no temperature\npython evaluate.py run=") as refused:
        read_temperature(tmp_path)
    assert len(str(refused.value).splitlines()) == 2


PHOTOS = {"_target_": "triptych.data.folder.Folder", "root": "photos"}


def view(source: dict[str, Any]) -> View:
    run: Any = SimpleNamespace(
        config={"data": {"source": source}},
        backbone=SimpleNamespace(preprocessing=Preprocessing(224, (0.5,) * 3, (0.5,) * 3)),
        record=SimpleNamespace(folder="logs/a"),
    )
    return View.of(run)


def test_photos_are_stored_as_training_stored_its_own_where_it_did() -> None:
    shapes = {"_target_": "triptych.data.shapes.Shapes", "num_train": 10, "num_test": 10, "seed": 0}
    assert view(shapes) == View(224, "bilinear", None)
    assert view(PHOTOS | {"size": 99, "fit": "pad"}) == View(224, "bilinear", (99, "pad"))


@pytest.mark.parametrize("settings", [{"size": 0}, {"size": 2**20}, {"size": "9"}, {"fit": "zoom"}])
def test_a_size_or_a_fit_that_there_is_not_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"refuses its settings .*no square has size"):
        view(PHOTOS | settings)
