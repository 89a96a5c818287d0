"""The figure and the table of exported files."""

import csv
import io
import re
from html import unescape
from pathlib import Path

import pytest

from tests.deployed_files import SPEED, write_deployment
from tests.run_folders import write_run
from tests.tools.report.test_numbers import is_written, list_numbers, read_numbers
from tests.tools.report.test_page import read_terms
from triptych.runs.reader import find_run_folders
from triptych.tools.compare.command import build_comparison
from triptych.tools.compare.content import Comparison
from triptych.tools.compare.deployments import Deployments
from triptych.tools.compare.runs import read_runs
from triptych.tools.export.formats import FORMATS
from triptych.tools.report.charts import Chart, Key
from triptych.tools.report.deployments import MARKS, draw_deployments
from triptych.tools.report.page import render_page

SLOW = SPEED | {"latency_ms_p50": 40.0, "precision": "32-true"}


def compare_below(root: Path) -> Comparison:
    return build_comparison(*read_runs(find_run_folders(str(root))))


def draw(comparison: Comparison) -> list[Chart]:
    section = comparison.sections["deployments"]
    assert isinstance(section, Deployments)
    return draw_deployments(section, Key(comparison.recipes))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A slow network and a better, faster one, in two formats each."""
    slow, fast = (write_run(tmp_path, *each) for each in (("alexnet", 0), ("vgg11", 1)))
    for name, times in (("onnx", 2), ("onnx_int8", 5)):
        write_deployment(slow, name, network=SLOW, latency_ms_p50=40 / times)
        write_deployment(fast, name, times=times, num_other=9 * (times - 2))
    return tmp_path


def test_a_chart_has_a_point_a_network_and_a_file_and_names_what_nothing_beats(root: Path) -> None:
    comparison = compare_below(root)
    [chart] = draw(comparison)
    rows = [*csv.DictReader(io.StringIO(chart.data))]
    points = {row["series"]: float(row["median latency at batch 1, ms"]) for row in rows}
    assert points == {
        **{"alexnet in torch": 40, "alexnet in ONNX": 20, "alexnet in ONNX INT8": 8},
        **{"vgg11 in torch": 10, "vgg11 in ONNX": 5, "vgg11 in ONNX INT8": 2},
    }
    accuracies = {row["series"]: float(row["test accuracy"]) for row in rows}
    best = [
        name
        for name in points
        if not any(
            points[o] <= points[name]
            and accuracies[o] >= accuracies[name]
            and (points[o], accuracies[o]) != (points[name], accuracies[name])
            for o in points
        )
    ]
    assert all(name in chart.caption for name in best)
    assert not any(f"{name}," in f"{chart.caption}," for name in {*points} - {*best})
    texts = re.findall(r"<text[^>]*>([^<]*)<", chart.picture)
    assert {"alexnet", "vgg11", "torch", "ONNX", "ONNX INT8"} <= {*texts}
    assert "OpenVINO" not in texts  # the key has what is drawn


def test_latencies_of_two_devices_are_in_two_charts(root: Path) -> None:
    folder = next(root.glob("shapes/vgg11/*/*"))
    write_deployment(folder, "onnx_gpu", device="NVIDIA H100", format="onnx")
    charts = draw(compare_below(root))
    assert [chart.caption.partition(".")[0] for chart in charts] == [
        *("cpu, 2 threads", "NVIDIA H100, 2 threads"),
    ]
    assert [len(chart.data.splitlines()) for chart in charts] == [1 + 6, 1 + 2]


def test_every_format_has_a_mark_of_its_own() -> None:
    assert len({*MARKS.values()}) == len(MARKS) == 1 + len(FORMATS)


def test_every_column_has_its_definition(root: Path) -> None:
    page = render_page(compare_below(root))
    [table] = re.findall(r"<caption><span>Networks in torch.*?</thead>", page, re.DOTALL)
    heads = {unescape(head) for head in re.findall(r'<th scope="col">([^<]*)</th>', table)}
    known = {column for _, _, columns in read_terms().values() for column in columns}
    assert len(heads) == 15
    assert heads - known == {"network", "format", "measured on"}


def test_every_number_of_a_file_stands_in_a_row_of_its_network(root: Path) -> None:
    comparison = compare_below(root)
    page, count = render_page(comparison), 0
    shown = read_numbers(page[page.index("Networks in torch") :])
    apart = ("level", "num_images", "calibration_images")  # one stands above, others below
    for each in comparison.sections["deployments"].describe()["files"]:
        known = {name: value for name, value in each.items() if name not in apart}
        for value in list_numbers(known | {"p": max(each["p"], 1e-4)}):
            assert any(is_written(value, *number) for number in shown[each["name"]]), value
            count += 1
    assert count > 4 * 20
