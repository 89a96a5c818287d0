"""The page recomputes itself in a real browser: its functions against scipy, its words of edits."""

import base64
import copy
import json
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from tests.composing import composed
from tests.run_folders import change_predictions, write_run
from tests.tools.browser import CHROMIUM, Browser
from triptych.runs.reader import find_run_folders
from triptych.tools.compare.command import build_comparison, compare
from triptych.tools.compare.content import Question
from triptych.tools.compare.runs import read_runs
from triptych.tools.compare.verdict import write_outcomes, write_verdict
from triptych.tools.report.page import embed
from triptych.tools.statistics.crossed import subtract_counts

Described = tuple[dict[str, Any], dict[str, Any]]
RECOMPUTE = "check.recompute({}, {})"
OPEN = "</script><script>document.documentElement.id='hacked'</script>"


def describe(root: Path, **asked: Any) -> Described:
    """verdict.json and outcomes.json of the runs below a folder."""
    found = read_runs(find_run_folders([str(root)]))
    comparison = build_comparison(*found, Question(**asked))
    return json.loads(write_verdict(comparison)), json.loads(write_outcomes(comparison))


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three recipes of three seeds, and two networks of recipes of a single seed."""
    root = tmp_path_factory.mktemp("logs")
    for model, skill in {"alexnet": 1.0, "googlenet": 2.0, "resnet50": 2.1}.items():
        for seed in range(3):
            write_run(root, model, seed, skill=skill)
    for model in ("vgg11", "vgg13"):
        write_run(root, model, 5, skill=1.8)
    return root


@pytest.fixture(scope="module")
def described(logs: Path) -> Described:
    return describe(logs, margin=0.02)


@pytest.fixture(scope="module")
def browser(logs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A browser on the page of these runs, as `compare` writes it."""
    if CHROMIUM is None:
        pytest.skip("chromium is not installed")
    page = compare(composed("compare", runs=str(logs), out=str(logs / "comparison"), margin=2.0))
    with Browser(tmp_path_factory.mktemp("profile")) as browser:
        browser.open(f"file://{page}")
        yield browser
        assert browser.errors == []


def recompute(
    browser: Browser, verdict: dict[str, Any], outcomes: dict[str, Any]
) -> dict[str, Any]:
    found: dict[str, Any] = browser.run(RECOMPUTE.format(*map(json.dumps, (verdict, outcomes))))
    return found | {"differing": [row for row in found["rows"] if not row["equal"]]}


def test_the_page_says_equal_on_a_click(browser: Browser) -> None:
    assert browser.run("document.getElementById('recomputed').innerText") == ""
    browser.run("document.getElementById('recompute').focus()")
    browser.press("Enter")
    assert "equal" in browser.run("document.getElementById('recomputed').innerText")
    assert "ranks" in browser.run("document.getElementById('recomputed-values').innerText")


def test_its_laws_and_tests_are_those_of_scipy(browser: Browser) -> None:
    dfs, ts = (1, 2, 3.7, 28, 9999, 123456.5), (0, 0.3, 1, 1.96, 3.1, 5, 9, 30)
    tails = browser.run(f"{[*map(list, product(dfs, ts))]}.map((two) => check.tail(...two))")
    assert tails == pytest.approx([stats.t.sf(t, df) for df, t in product(dfs, ts)], rel=1e-8)
    tails = browser.run(f"{[*ts]}.map((t) => check.tail(Infinity, t))")
    assert tails == pytest.approx(stats.norm.sf(ts), rel=1e-10)
    ps = (0.4, 0.05, 0.025, 0.0005, 1e-6)
    found = browser.run(f"{[*map(list, product(dfs, ps))]}.map((two) => check.quantile(...two))")
    assert found == pytest.approx([stats.t.isf(p, df) for df, p in product(dfs, ps)], rel=1e-8)
    found = browser.run(f"{[*ps]}.map((p) => check.quantile(Infinity, p))")
    assert found == pytest.approx(stats.norm.isf(ps), rel=1e-10)
    counts = [[0, 0], [0, 1], [3, 3], [0, 30], [7, 20], [90, 131], [1200, 1300], [20, 4000]]
    found = browser.run(f"{counts}.map((two) => check.subtractCounts(...two, 10000))")
    expected = [subtract_counts(a, b, 10_000) for a, b in counts]
    assert [each["exact"] for each in found] == pytest.approx([e.p_value for e in expected], 1e-9)
    for name in ("value", "centre", "variance"):
        assert [f[name] for f in found] == pytest.approx(
            [getattr(e, name) for e in expected], 1e-12
        )


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda v, _: v["pairs"][0].update(p=v["pairs"][0]["p"] / 1.001 + 1e-9), "pairs"),
        (lambda v, _: v["pairs"][-1].update(low=-0.5), "pairs"),
        (lambda v, _: v["pairs"][2].update(verdict="equivalent"), "pairs"),
        (lambda v, _: v["runs"][3].update(value=0.9), "runs"),
        (lambda v, _: v["scores"]["values"][0].update(value=0.9), "scores"),
        (lambda _, o: o["networks"][0].update(correct=flip(o["networks"][0]["correct"])), "bits"),
    ],
)
def test_what_was_edited_is_named(
    browser: Browser, described: Described, change: Callable[..., object], named: str
) -> None:
    verdict, outcomes = copy.deepcopy(described)
    assert recompute(browser, verdict, outcomes)["differing"] == []
    change(verdict, outcomes)
    differing = recompute(browser, verdict, outcomes)["differing"]
    pair = {"pairs": verdict["pairs"], "runs": [], "scores": []}.get(named)
    names = [f"{each['a']} − {each['b']}" for each in pair or ()]
    names += [run["name"] for run in verdict["runs"]] if named in ("runs", "bits") else []
    names += [run["recipe"] for run in verdict["runs"]] if named == "scores" else []
    assert differing
    assert named == "bits" or len(differing) == 1
    assert differing[0]["of"] in names


def flip(bits: str) -> str:
    read = bytearray(base64.b64decode(bits))
    read[7] ^= 1
    return base64.b64encode(read).decode()


def test_groups_are_recomputed_and_what_needs_more_than_correctness_is_named(
    browser: Browser, logs: Path, tmp_path: Path
) -> None:
    verdict, outcomes = describe(logs, metric="nll")
    found = recompute(browser, verdict, outcomes)
    assert found["differing"] == []
    assert len(found["rows"]) > 10  # the scores section has accuracies
    assert "scores and pairs by nll" in found["left"]
    for model in ("alexnet", "googlenet"):
        for seed in range(3):
            run = write_run(tmp_path, model, seed, num_images=120)
            change_predictions(run, groups=np.arange(120) // 5)
    verdict, outcomes = describe(tmp_path)
    found = recompute(browser, verdict, outcomes)
    assert (verdict["pairs"][0]["num_groups"], len(verdict["pairs"])) == (24, 2)
    assert found["differing"] == []
    outcomes["groups"][0][0] = 3
    assert recompute(browser, verdict, outcomes)["differing"]


def test_nothing_in_a_page_s_data_ends_its_block() -> None:
    block = embed(json.dumps({"name": OPEN}))
    assert "<" not in block
    assert json.loads(block) == {"name": OPEN}
