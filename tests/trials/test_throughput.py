"""The short form of the trial: its arithmetic, and that what it draws is as large as photos are."""

import io

import pytest
from rich.console import Console

from tests.trials.throughput import Timing, draw_photo, make_table, time_rows


def test_shares_are_taken_within_a_round_of_the_row_that_is_named() -> None:
    clock = iter([Timing(10, 1, 2), Timing(10, 2, 2.5), Timing(10, 4, 2), Timing(10, 4, 2.5)])
    rows = {"network": ("network", clock.__next__), "predict": ("network", clock.__next__)}
    timings = time_rows(rows, rounds=2)
    assert [timing.rate for timing in timings["predict"]] == [5, 2.5]
    console = Console(width=140, file=io.StringIO(), record=True)
    console.print(make_table(rows, timings))
    [row] = [line for line in console.export_text().splitlines() if "predict" in line]
    cells = [cell.strip() for cell in row.split("│")[1:-1]]
    assert cells == ["predict", "3.8", "0.750 (0.500 to 1.000)", "250.0", "0.800"]


def test_a_drawn_photo_takes_about_as_many_bytes_as_one_of_coco() -> None:
    buffer = io.BytesIO()
    draw_photo(640, 480, 0).save(buffer, "JPEG", quality=90)
    assert len(buffer.getvalue()) == pytest.approx(160_000, rel=0.3)
