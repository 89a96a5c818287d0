from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from triptych.tools.compare.content import COSTS, Comparison
from triptych.tools.compare.runs import Curve, TrainedNetwork
from triptych.tools.report import charts, costs
from triptych.tools.report.curves import MAX_EPOCHS, average_curves

CPU = {"device": "cpu", "precision": "32-true", "num_threads": 2}
GPU = {"device": "NVIDIA H200", "precision": "bf16-mixed", "num_threads": None}
ON_CPU, ON_GPU = "cpu, 32-true, 2 threads", "NVIDIA H200, bf16-mixed"
Repeat = Callable[[int], Comparison]
ListCaptions = Callable[[list[TrainedNetwork], str], list[str]]
pytestmark = pytest.mark.usefixtures("without_charts")


def change(network: TrainedNetwork, accuracy: float = 0.5, **cost: object) -> TrainedNetwork:
    """Trained on the CPU, with another accuracy and other costs."""
    return replace(
        network,
        scores=network.scores._replace(accuracy=accuracy),
        metadata=network.metadata | CPU,
        cost=(network.cost or {}) | cost,
    )


@pytest.fixture
def networks(repeat: Repeat) -> list[TrainedNetwork]:
    """The less accurate, the faster; the less accurate two were measured on a faster device."""
    measured = zip((0.9, 0.8, 0.7, 0.6), (50.0, 20.0, 1.0, 2.0), (CPU, CPU, GPU, GPU), strict=True)
    return [
        change(network, accuracy, latency_ms_p50=ms, **where)
        for network, (accuracy, ms, where) in zip(repeat(4).networks, measured, strict=True)
    ]


@pytest.fixture
def list_captions(repeat: Repeat) -> ListCaptions:
    """Captions of the charts of the cost that begins so."""
    recipes = repeat(4).recipes
    key = charts.Key(recipes)

    def list_all(networks: list[TrainedNetwork], begins: str) -> list[str]:
        alone = [replace(recipes[0], label=each.label, networks=(each,)) for each in networks]
        drawn = costs.draw_costs(alone, key)
        return [chart.caption for chart in drawn if chart.heading.startswith(begins)]

    return list_all


def test_costs_are_compared_among_networks_measured_in_one_place(
    networks: list[TrainedNetwork], list_captions: ListCaptions
) -> None:
    assert list_captions(networks, "Median latency") == [
        f"{ON_CPU}. Pareto-optimal: recipe 0 and recipe 1",
        f"{ON_GPU}. Pareto-optimal: recipe 2",
    ]
    assert list_captions(networks, "Parameters") == ["Pareto-optimal: recipe 0"]
    for network, seconds in zip(networks, (9.0, 5.0, 7.0, None), strict=True):
        network.metadata.update(train_seconds=seconds, num_epochs=1)
    expected = [f"{ON_CPU}. Pareto-optimal: recipe 0 and recipe 1"]
    assert list_captions(networks, "Seconds an epoch") == expected


@pytest.mark.parametrize(
    ("devices", "shown"),
    [("abccddee", "cde"), ("abccddddeeff", "dce"), ("ab", ""), ("a", "a")],
    ids=["alone", "more than three", "each elsewhere", "one"],
)
def test_a_place_has_a_chart_where_there_is_something_to_compare(
    repeat: Repeat, list_captions: ListCaptions, devices: str, shown: str
) -> None:
    [network] = repeat(1).networks
    networks = [change(network, peak_memory_bytes=n, device=d) for n, d in enumerate(devices, 1)]
    captions = list_captions(networks, "Peak memory")
    assert [caption[0] for caption in captions] == list(shown)


def test_every_cost_has_a_chart_or_is_named_as_not_measured(
    networks: list[TrainedNetwork], repeat: Repeat
) -> None:
    recipes = [replace(repeat(1).recipes[0], networks=(each,)) for each in networks]
    drawn = costs.draw_costs(recipes, charts.Key(recipes))
    assert {
        panel.heading.partition(" (cpu,")[0].partition(" (NV")[0].lower() for panel in drawn
    } == {cost.words.lower() for cost in COSTS}
    unknown = [change(network, macs=None) for network in networks]
    measured = costs.list_measured(unknown)
    assert [each.name for each in COSTS if each not in measured] == ["macs"]


def test_a_learning_curve_is_the_mean_of_its_seeds_over_the_epochs_that_all_have() -> None:
    losses = ([4.0, 2.0, 1.0], [2.0, 1.0], [3.0, np.nan, 5.0])
    curves = [make_curve(values) for values in losses]
    line = average_curves(curves, "val/loss", 0, "a recipe")
    assert line is not None
    assert line.low is not None
    assert line.high is not None
    assert (line.x.tolist(), line.y.tolist()) == ([1.0], [3.0])
    assert (line.low.tolist(), line.high.tolist()) == ([2.0], [4.0])
    two = average_curves(curves[:2], "val/loss", 0, "a recipe")
    assert two is not None
    assert (two.y.tolist(), two.marked is not None and two.marked.tolist()) == ([3.0, 1.5], [0, 1])


def test_of_a_long_training_few_epochs_are_drawn_with_the_scored_one_and_the_last() -> None:
    line = average_curves([make_curve([1 / (n + 1) for n in range(1000)])], "val/loss", 0, "long")
    assert line is not None
    assert line.marked is not None
    assert len(line.x) <= MAX_EPOCHS + 1
    assert (line.x[line.marked].tolist(), line.x[-1]) == ([2], 1000)
    assert line.y.tolist() == pytest.approx((1 / line.x).tolist())


def make_curve(losses: list[float]) -> Curve:
    values = np.array(losses)
    return Curve("a", np.arange(1, len(losses) + 1), {"val/loss": values}, best_epoch=2)
