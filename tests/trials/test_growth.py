"""The short form of `make growth`: its logic; nothing is trained."""

from pathlib import Path

import pytest

from tests.trials import growth
from tests.trials.child import Ended


@pytest.mark.parametrize(
    ("figures", "says"),
    [
        ([5.0, 6.0, 8.0, 12.0], "1.0"),  # linear, on top of a start
        ([6.0, 9.0, 21.0, 69.0], "2.4"),  # quadratic
        ([5.0, 5.3, 5.1, 5.2], "flat"),
        ([5.0, 5.0, 5.0, 25.0], "30.0"),  # a jump at the end is no noise
    ],
)
def test_growth_is_told_by_what_each_half_of_the_work_adds_whatever_the_start_costs(
    figures: list[float], says: str
) -> None:
    assert growth.verdict(figures, noise=1.0) == says


def test_every_command_is_grown_eightfold(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    typed: list[str] = []

    def done(*arguments: str) -> Ended:
        typed.append(" ".join(arguments))
        (tmp_path / "tested1").mkdir(exist_ok=True)
        (tmp_path / "tested1" / "figures").mkdir(exist_ok=True)
        (tmp_path / "tested1" / "figures" / "images.png").touch()
        return Ended(0, "", 1.0, 1.0, 1.0)

    monkeypatch.setattr(growth, "done", done)
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    (tmp_path / "cifar-10-batches-py").mkdir()
    work = dict(growth.work(tmp_path, 100))
    for command in work.values():
        for n in growth.TIMES:
            command(n)
    assert len(work) == 8
    assert len(typed) == 9 * len(growth.TIMES), "what is evaluated is trained first"
    for grown in ("epochs=8", "num_train=800", "num_test=800", "seed=0,1,2,3,4,5,6,7", "jobs8"):
        assert any(grown in command for command in typed)
    assert len([*(tmp_path / "pictures8").iterdir()]) == 80
