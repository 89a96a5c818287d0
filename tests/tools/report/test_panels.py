from collections.abc import Callable
from dataclasses import replace

import pytest
from markupsafe import Markup

from triptych.tools.compare.content import Circumstances, Comparison
from triptych.tools.compare.summaries import COSTS
from triptych.tools.report import panels

CPU = Circumstances("cpu", "32-true", 2)
GPU = Circumstances("NVIDIA H200", "bf16-mixed", None)
ON_CPU, ON_GPU = "cpu, 32-true, 2 threads", "NVIDIA H200, bf16-mixed"
Repeat = Callable[[int], Comparison]


@pytest.fixture(autouse=True)
def draw_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(panels, "render_chart", lambda *_: Markup())


@pytest.fixture
def made(repeat: Repeat) -> Comparison:
    """The less accurate, the faster; the less accurate two were measured on a faster device."""
    made = repeat(4)
    measured = zip((0.9, 0.8, 0.7, 0.6), (50.0, 20.0, 1.0, 2.0), (CPU, CPU, GPU, GPU), strict=True)
    networks = [
        replace(network, accuracy=accuracy, latency_ms_p50=ms, measured_on=where, trained_on=CPU)
        for network, (accuracy, ms, where) in zip(made.networks, measured, strict=True)
    ]
    return replace(made, networks=tuple(networks))


def list_captions(made: Comparison, begins: str) -> list[str]:
    found = panels.draw_costs(made.networks, panels.Key(made))
    return [panel.caption for panel in found if panel.heading.startswith(begins)]


def test_a_time_is_compared_among_networks_that_were_measured_in_one_place(
    made: Comparison,
) -> None:
    assert list_captions(made, "Median latency") == [
        f"{ON_CPU}. Not dominated: recipe 0 and recipe 1",
        f"{ON_GPU}. Not dominated: recipe 2",
    ]


def test_a_cost_that_depends_on_no_device_is_compared_among_all(made: Comparison) -> None:
    assert list_captions(made, "Parameters") == ["Not dominated: recipe 0"]


def test_training_is_compared_on_the_device_of_training(made: Comparison) -> None:
    times = zip(made.networks, (9.0, 5.0, 7.0, None), strict=True)
    networks = tuple(replace(network, seconds_per_epoch=seconds) for network, seconds in times)
    assert list_captions(replace(made, networks=networks), "Training, seconds") == [
        f"{ON_CPU}. Not dominated: recipe 0 and recipe 1"
    ]


@pytest.mark.parametrize(
    ("devices", "shown"),
    [("abccddee", "cde"), ("abccddddeeff", "dce"), ("ab", ""), ("a", "a")],
    ids=["alone", "more than three", "each elsewhere", "one"],
)
def test_a_place_has_a_chart_where_there_is_something_to_compare(
    repeat: Repeat, devices: str, shown: str
) -> None:
    made = repeat(1)
    networks = tuple(
        replace(made.networks[0], peak_memory_bytes=n, measured_on=Circumstances(d, None, None))
        for n, d in enumerate(devices, 1)
    )
    captions = list_captions(replace(made, networks=networks), "Peak memory")
    assert [caption[0] for caption in captions] == list(shown)


def test_every_cost_has_a_chart_or_is_named_as_not_measured(made: Comparison) -> None:
    charts = panels.draw_costs(made.networks, panels.Key(made))
    assert {panel.heading.lower() for panel in charts} == {cost.words.lower() for cost in COSTS}
    networks = [replace(network, macs=None) for network in made.networks]
    assert panels.list_unmeasured(networks) == ["multiply-accumulates an image"]
