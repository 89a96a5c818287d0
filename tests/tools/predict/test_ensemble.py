"""What is read of runs before their networks vote."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from triptych.errors import UserError
from triptych.tools.predict.ensemble import name_runs, read_temperature


def record(model: str, seed: int, folder: str) -> Any:
    return SimpleNamespace(metadata={"model": model, "seed": seed}, folder=Path(folder))


def test_runs_are_named_by_model_and_by_seed_or_folder_where_models_repeat() -> None:
    runs = [("alexnet", 0, "a"), ("googlenet", 0, "a"), ("googlenet", 1, "a"), ("vgg", 0, "a")]
    runs += [("vgg", 0, "b")]
    names = name_runs([record(*run) for run in runs])
    assert names[:3] == ["alexnet", "googlenet, seed=0", "googlenet, seed=1"]
    assert names[3:] == ["vgg, folder=a", "vgg, folder=b"]


@pytest.mark.parametrize(
    "text",
    ["{}", "[", "[3]", '{"calibration": null}']
    + [f'{{"calibration": {{"temperature": {value}}}}}' for value in ("0", "NaN", '"2"')],
)
def test_an_evaluation_without_a_temperature_is_an_error(text: str, tmp_path: Path) -> None:
    (tmp_path / "evaluation.json").write_text(text)
    with pytest.raises(UserError, match=r"^calibrated=true: .*\npython evaluate.py run="):
        read_temperature(tmp_path)
