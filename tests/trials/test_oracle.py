"""The check of a file of statistics: what agrees is counted, and what does not is named."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.trials import oracle

GROUPS: dict[str, Any] = {
    "1_one_recipe": {"correct": [[1, 0, 1, 1]] * 3, "value": 0.75, "variance": 0.0625, "df": 3.0},
    "8_count": {"p": [0.02, 0.9], "differences": [0.1, 0.2], "better_and_worse": [1, 0]},
    "10_rank": [{"n": 99, "alpha": 0.1, "rank": 90}, {"n": 18, "alpha": 0.05, "rank": 19}],
}


def check(folder: Path, groups: dict[str, Any], patch: pytest.MonkeyPatch) -> int:
    path = folder / "values.json"
    path.write_text(json.dumps(groups))
    patch.setattr("sys.argv", ["oracle", str(path)])
    return oracle.main()


def test_values_that_agree_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(tmp_path, GROUPS, monkeypatch) == 0
    assert "7 values of 3 groups agree, 0 do not" in capsys.readouterr().out


@pytest.mark.parametrize(
    "wrong",
    [
        {"1_one_recipe": GROUPS["1_one_recipe"] | {"variance": 0.0625 * (1 + 1e-8)}},
        {"1_one_recipe": GROUPS["1_one_recipe"] | {"df": None}},
        {"8_count": GROUPS["8_count"] | {"best": 1}},
        {"11_more": {"a": 1}},
    ],
)
def test_what_differs_or_has_no_function_fails(
    wrong: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert check(tmp_path, wrong, monkeypatch) == 1
    assert "1 do not" in capsys.readouterr().out
