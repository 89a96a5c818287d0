"""The order of work: what is handed to the device, and when its answers are read."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from triptych.tools.predict.decoding import Photo
from triptych.tools.predict.rows import Layout
from triptych.tools.predict.watch import Lines, watch
from triptych.tools.predict.work import predictions

LAYOUT = Layout(1, (), ("cat", "dog"))


class Device:
    """Stands in for an ensemble; answers with the photo's own number."""

    def __init__(self) -> None:
        self.log: list[str] = []

    def probabilities(self, photos: Sequence[Photo]) -> Any:
        numbers = [int(photo.path) for photo in photos]
        self.log.append(f"given {numbers}")
        return Later(self.log, numbers)


class Later:
    def __init__(self, log: list[str], numbers: list[int]) -> None:
        self.log, self.numbers = log, numbers

    def cpu(self) -> Tensor:
        self.log.append(f"asked {self.numbers}")
        return torch.tensor([[[number / 100, 1 - number / 100]] for number in self.numbers])


def said(photos: list[Photo], batch_size: int) -> tuple[list[str], list[tuple[str, Any]]]:
    device = Device()
    found = predictions(device, iter(photos), batch_size, LAYOUT)  # type: ignore[arg-type]
    rows = [(p.path, p.error or round(100 * (1 - p.top[0].probability))) for _, p in found]
    return device.log, rows


def test_a_batch_is_given_before_the_answers_of_the_one_before_are_asked_for() -> None:
    log, rows = said([Photo(str(number)) for number in range(5)], batch_size=2)
    order = ["given [0, 1]", "given [2, 3]", "asked [0, 1]", "given [4]", "asked [2, 3]"]
    assert log == [*order, "asked [4]"]
    assert rows == [(str(number), number) for number in range(5)]


def test_what_could_not_be_read_is_kept_from_the_device_and_stays_in_its_place() -> None:
    photos = [Photo(str(n), error="broken" if n in (1, 2, 3) else None) for n in range(6)]
    log, rows = said(photos, batch_size=2)
    assert [line for line in log if "given" in line] == ["given [0]", "given [4, 5]"]
    expected = [0, "broken", "broken", "broken", 4, 5]
    assert rows == [(str(number), what) for number, what in enumerate(expected)]


def test_of_no_photos_nothing_is_said() -> None:
    assert said([], batch_size=2) == ([], [])


def test_away_from_a_terminal_a_line_now_and_then_says_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = iter(range(100))
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    caplog.set_level("INFO")
    lines = Lines(1000)
    for _ in range(20):
        lines.advance()
    assert caplog.messages == ["8 of 1,000 images predicted", "16 of 1,000 images predicted"]
    with watch(None, is_shown=False) as advance:
        advance()
