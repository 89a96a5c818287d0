from collections.abc import Callable
from dataclasses import replace

import pytest

from triptych.tools.compare.content import Circumstances, Comparison
from triptych.tools.compare.costs import COSTS
from triptych.tools.report import panels

CPU = Circumstances("cpu", "32-true", 2)
GPU = Circumstances("NVIDIA H200", "bf16-mixed", None)
ON_CPU, ON_GPU = "cpu, 32-true, 2 threads", "NVIDIA H200, bf16-mixed"


@pytest.fixture
def made(invented: Callable[..., Comparison]) -> Comparison:
    """The less accurate, the faster; the less accurate two were measured on a faster device."""
    made = invented(4, 1)
    measured = zip((0.9, 0.8, 0.7, 0.6), (50.0, 20.0, 1.0, 2.0), (CPU, CPU, GPU, GPU), strict=True)
    rows = [
        replace(row, accuracy=accuracy, latency_ms_p50=ms, measured_on=where, trained_on=CPU)
        for row, (accuracy, ms, where) in zip(made.rows, measured, strict=True)
    ]
    return replace(made, rows=tuple(rows))


def captions(made: Comparison, begins: str) -> list[str]:
    found = panels.costs(made.rows, panels.Key(made))
    return [panel.caption for panel in found if panel.heading.startswith(begins)]


def test_a_time_is_compared_among_networks_that_were_measured_in_one_place(
    made: Comparison,
) -> None:
    slow, fast, elsewhere, _ = (row.label for row in made.rows)
    assert captions(made, "Median latency") == [
        f"{ON_CPU}. Not dominated: {slow} and {fast}",
        f"{ON_GPU}. Not dominated: {elsewhere}",
    ]


def test_what_no_device_decides_is_compared_among_all(made: Comparison) -> None:
    best, *_ = rows = tuple(replace(row, num_params=7) for row in made.rows)
    [caption] = captions(replace(made, rows=rows), "Parameters")
    assert caption == f"Not dominated: {best.label}"


def test_training_is_compared_on_the_device_of_training(made: Comparison) -> None:
    first, second, *_ = rows = tuple(
        replace(row, seconds_per_epoch=seconds)
        for row, seconds in zip(made.rows, (9.0, 5.0, 7.0, None), strict=True)
    )
    assert captions(replace(made, rows=rows), "Training, seconds") == [
        f"{ON_CPU}. Not dominated: {first.label} and {second.label}"
    ]


@pytest.mark.parametrize(
    ("devices", "shown"),
    [("abccddee", "cde"), ("abccddddeeff", "dce"), ("ab", ""), ("a", "a")],
    ids=["alone", "more than three", "each elsewhere", "one"],
)
def test_a_place_has_a_chart_where_there_is_something_to_compare(
    invented: Callable[..., Comparison], devices: str, shown: str
) -> None:
    made = invented(1, 1)
    nothing_else = replace(made.rows[0], **dict.fromkeys(cost.name for cost in COSTS))
    rows = tuple(
        replace(nothing_else, macs=1, peak_memory_bytes=n, measured_on=Circumstances(d, None, None))
        for n, d in enumerate(devices, 1)
    )
    found = captions(replace(made, rows=rows), "Peak memory")
    assert [caption[0] for caption in found] == list(shown)


def test_every_cost_has_a_chart_or_is_said_to_be_missing(made: Comparison) -> None:
    charts = panels.costs(made.rows, panels.Key(made))
    assert {panel.heading.lower() for panel in charts} == {cost.words.lower() for cost in COSTS}
    rows = [replace(row, macs=None) for row in made.rows]
    assert panels.unmeasured(rows) == ["multiply-accumulates an image"]
