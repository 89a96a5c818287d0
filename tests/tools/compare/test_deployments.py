"""Exported files beside their networks, computed once more from the predictions by hand."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from tests.composing import composed
from tests.deployed_files import write_deployment
from tests.run_folders import write_run
from tests.verdict_schema import check_verdict
from triptych.config import Config
from triptych.errors import UserError
from triptych.tools.compare.command import answer, compare, compute
from triptych.tools.compare.content import Comparison
from triptych.tools.compare.deployments import Deployments
from triptych.tools.compare.verify import verify
from triptych.tools.report.page import render_markdown, render_page

Compare = Callable[[Path], Comparison]
NUM_OTHER = {"onnx": 1, "onnx_int8": 12, "openvino": 0}


def find(comparison: Comparison) -> Deployments:
    section = comparison.sections["deployments"]
    assert isinstance(section, Deployments)
    return section


def configure(root: Path, **settings: Any) -> Config:
    return composed("compare", runs=str(root), **settings)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run with three files; INT8 answers fastest and gets twelve images more wrong."""
    folder = write_run(tmp_path / "logs", "googlenet", skill=3.0)
    for times, (name, num_other) in enumerate(NUM_OTHER.items(), 1):
        write_deployment(folder, name, times=4 if num_other == 12 else times, num_other=num_other)
    return folder


def test_files_are_tested_against_their_network_over_all_files(
    folder: Path, compare_below: Compare
) -> None:
    [block] = find(compare_below(folder)).blocks
    with np.load(folder / "predictions" / "test.npz") as file:
        network, truth = file["logits"].argmax(axis=1), file["labels"]
    p_values = []
    for each in block.files:
        with np.load(folder / "deployments" / f"{each.record['format']}.npz") as file:
            classes = file["logits"].argmax(axis=1)
        b, c = (
            int(x.sum())
            for x in (
                (classes == truth) & (network != truth),
                (classes != truth) & (network == truth),
            )
        )
        assert c == NUM_OTHER[each.record["format"]]
        assert each.accuracy.value == (classes == truth).mean()
        assert each.agreement == (classes == network).mean()
        assert each.test.difference.value == pytest.approx((b - c) / 200)
        centre, z = (b - c) / 202, stats.norm.ppf(1 - 0.025 / 3)  # Bonett and Price, three files
        half = z * math.sqrt(((b + c + 2) / 202 - centre**2) / 202)
        assert each.test.difference[1:] == pytest.approx((centre - half, centre + half))
        p_values.append(stats.binomtest(b, b + c).pvalue if b + c else 1.0)
    assert [each.test.p for each in block.files] == pytest.approx(p_values)
    holm = [1.0, 3 * min(p_values), 1.0]
    assert [each.test.p_holm for each in block.files] == pytest.approx(holm)


def test_the_verdict_has_the_fastest_file_its_loss_and_its_speed(
    folder: Path, compare_below: Compare
) -> None:
    comparison = compare_below(folder)
    [sentence] = find(comparison).sentences
    assert sentence in comparison.verdict
    best = find(comparison).files[1]
    size = best.test.difference.negate()
    assert (
        f"ONNX INT8, the fastest of 3 formats, loses 6.00 points (95 % CI {100 * size.low:.2f} to"
        in sentence
    )
    assert "4.0 times as fast as in torch (cpu, 2 threads)" in sentence


@pytest.mark.parametrize(
    ("num_other", "times", "said"),
    [(0, 0.5, "loses at most 1.37 points"), (-12, 1.25, "gains 6.00 points (95 % CI 2")],
)
def test_no_loss_is_never_said_and_a_slow_file_takes_longer(
    tmp_path: Path, compare_below: Compare, num_other: int, times: float, said: str
) -> None:
    folder = write_run(tmp_path)
    write_deployment(folder, num_other=num_other, times=times)
    [sentence] = find(compare_below(tmp_path)).sentences
    assert said in sentence
    fast = "takes 2.0 times as long" if times < 1 else "answers 1.2 times as fast"
    assert fast in sentence
    assert "the fastest" not in sentence


def test_of_many_networks_one_sentence_counts_the_files_that_differ(
    tmp_path: Path, compare_below: Compare
) -> None:
    for seed in range(4):
        folder = write_run(tmp_path, seed=seed)
        write_deployment(folder, "onnx", times=1 + seed)
        write_deployment(folder, "onnx_int8", times=0.5, num_other=40 * (seed == 2))
    [sentence] = find(compare_below(tmp_path)).sentences
    assert "Of 8 files of 4 networks, 1 are significantly less accurate" in sentence
    assert "0 more; they answer between 0.5 and 4.0 times" in sentence


@pytest.mark.parametrize("name", ["export/model_onnx.onnx", "deployments/onnx.npz"])
def test_a_file_or_answers_that_were_changed_end_the_comparison(
    folder: Path, compare_below: Compare, name: str
) -> None:
    with (folder / name).open("ab") as file:
        file.write(b"more")
    with pytest.raises(UserError) as raised:
        compare_below(folder)
    lines = str(raised.value).splitlines()
    assert str(folder / name) in lines[0]
    assert lines[1].startswith(f"triptych export run={folder} format=onnx overwrite")


BAD: dict[str, dict[str, Any]] = {
    "latency_ms_p50": {"latency_ms_p50": 0},
    "schema": {"schema": 2},
    "digests": {"digests": {"export/a": 1}},
    "throughput_batch_size": {"network": {"latency_ms_p50": 1.0, "latency_ms_p95": 1.0,
                                          "throughput_images_per_second": 1.0}},
    "format": {"format": "openvino"},
    "float_layers": {"float_layers": "conv1"},
    "versions": {"versions": {"torch": float("nan")}},
}  # fmt: skip


@pytest.mark.parametrize("entry", BAD)
def test_a_record_that_breaks_a_rule_is_named_and_its_row_left_out(
    folder: Path, compare_below: Compare, entry: str
) -> None:
    write_deployment(folder, "onnx", **BAD[entry])
    comparison = compare_below(folder)
    [problem] = comparison.problems
    assert f"onnx.json: {entry} must be" in problem.what
    assert [each.words for each in find(comparison).files] == ["ONNX INT8", "OpenVINO"]


def test_broken_records_and_answers_for_other_images_are_named(
    folder: Path, compare_below: Compare
) -> None:
    (folder / "deployments" / "onnx.json").write_text("{")
    (folder / "deployments" / "openvino.npz").unlink()
    other = write_run(folder.parents[4] / "other", "googlenet", num_images=100)
    write_deployment(other, "onnx_int8")
    for path in other.glob("deployments/*"):
        path.rename(folder / "deployments" / path.name)
    comparison = compare_below(folder)
    assert "deployments" not in comparison.sections
    named = [problem.what.partition(":")[0] for problem in comparison.problems]
    assert sorted(named) == [
        f"deployments/{n}" for n in ("onnx.json", "onnx_int8.npz", "openvino.npz")
    ]


@pytest.mark.parametrize("place", ["/etc/hostname", "../../elsewhere"])
def test_a_file_that_is_gone_is_a_row_and_one_outside_the_run_is_not_opened(
    folder: Path, compare_below: Compare, place: str
) -> None:
    (folder / "export" / "model_openvino.xml").unlink()
    write_deployment(folder, "onnx", file=place, digests={place: "0" * 64})
    files = find(compare_below(folder)).files
    assert [each.state for each in files] == ["elsewhere, not checked", "", "gone"]
    described = [each.describe()["file"] for each in files]
    assert described == [None, "export/model_onnx_int8.onnx", None]


def test_a_link_in_a_circle_is_a_file_that_is_gone(folder: Path, compare_below: Compare) -> None:
    (folder / "round").symlink_to("round")
    write_deployment(folder, "onnx", digests={"round": "0" * 64})
    assert find(compare_below(folder)).files[0].state == "gone"


def test_page_text_and_verdict_have_every_file_and_escape_what_it_says(
    folder: Path, compare_below: Compare
) -> None:
    hostile = "<script>alert(1)</script> | *x*"
    write_deployment(
        *(folder, "onnx_int8"),
        **{
            "runtime": hostile,
            "float_layers": [hostile],
            "precision": hostile,
            "load_seconds": None,
        },
    )
    comparison = compare_below(folder)
    described = check_verdict(find(comparison).describe(), "deployments")["files"]
    assert [each["format"] for each in described] == [*NUM_OTHER]
    page, text = render_page(comparison), render_markdown(comparison)
    assert "<script>alert(1)" not in page + text
    assert page.count("&lt;script&gt;alert(1)") >= 3
    assert "in float stays &lt;script&gt;" in page
    part = text.partition("## The files that ship")[2].partition("## ")[0]
    rows = [line for line in part.splitlines() if line.startswith("| googlenet seed 0 | ")]
    assert len(rows) == 1 + len(NUM_OTHER)
    assert {row.replace(r"\|", "").count("|") for row in rows} == {17}
    assert "\n\n\n" not in text


def test_a_page_with_files_is_verified_and_an_edited_number_is_named(folder: Path) -> None:
    root = folder.parents[3]
    page = compare(configure(root))
    (folder / "export" / "model_openvino.xml").unlink()  # says nothing of the numbers
    again = configure(root, verify=str(page))
    verify(again, compute, answer)
    path = page.with_name("verdict.json")
    verdict = json.loads(path.read_text())
    verdict["deployments"]["files"][1]["difference"] = -0.01
    path.write_text(json.dumps(verdict))
    with pytest.raises(SystemExit):
        verify(configure(root, verify=str(path)), compute, answer)
