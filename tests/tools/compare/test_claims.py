"""`require=` and its log: what holds, at which level, and how a log is held whole."""

import json
import math
import multiprocessing
import os
import resource
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tests.composing import composed
from triptych.errors import UserError
from triptych.tools.compare import command
from triptych.tools.compare.claims import Answer, answer_claims, find_p, subtract_values
from triptych.tools.compare.command import compare
from triptych.tools.compare.content import Comparison, Question
from triptych.tools.compare.settings import Claim, parse_claim, parse_claims
from triptych.tools.compare.tries import level_of_try, open_tries
from triptych.tools.statistics.crossed import Estimate, subtract_counts

CLAIM = "googlenet better alexnet"
ESTIMATES = st.builds(
    lambda value, se, df: Estimate(value, value, se**2, df),
    st.floats(-0.1, 0.1),
    st.floats(0.001, 0.1),
    st.floats(1, 1e4),
)


@pytest.mark.parametrize(
    ("sentence", "claim"),
    [
        ("a better b", ("a", "better", "b", None)),
        ("a not_inferior b margin=0.5", ("a", "not_inferior", "b", 0.5)),
        (
            " net, lr=0.1 seed 0  equivalent b margin=2 ",
            ("net, lr=0.1 seed 0", "equivalent", "b", 2),
        ),
        ("'x better' better \"c d\"", ("x better", "better", "c d", None)),
    ],
)
def test_a_claim_is_a_sentence_of_two_names_and_a_relation(sentence: str, claim: Any) -> None:
    assert parse_claim(sentence) == claim
    assert composed("compare", require=sentence, margin=1)["require"] == sentence


@pytest.mark.parametrize(
    "require",
    [
        *("", "a", "a better", "better b", "a worse b", "a equals b", "a not_inferior b"),
        *("a better b margin=x", "a equivalent b margin=0", "a equivalent b margin=-1"),
        *("a equivalent b margin=100", "a equivalent b margin=nan", [], [3], ["a better b", "a"]),
    ],
)
def test_a_wrong_sentence_is_refused_with_the_config(require: Any) -> None:
    with pytest.raises(UserError, match=r"^require="):
        composed("compare", require=require)


def test_a_log_without_a_claim_is_refused() -> None:
    with pytest.raises(UserError, match=r"^require_log=a\.jsonl: require="):
        composed("compare", require_log="a.jsonl")


@given(ESTIMATES, st.floats(0.0001, 0.1), st.sampled_from([1, -1]), st.floats(0.001, 0.2))
def test_a_claim_holds_just_where_the_interval_lies_beyond_its_margin(
    found: Estimate, margin: float, sign: int, level: float
) -> None:
    low, high = found.interval(1 - level)
    low, high = (low, high) if sign > 0 else (-high, -low)
    holds = {
        "better": low > margin,
        "not_inferior": low > -margin,
        "equivalent": low > -margin and high < margin,
    }
    for relation, is_true in holds.items():
        p = find_p(relation, margin, found, sign)
        assert (p < level) == is_true or p == pytest.approx(level)
    p = find_p("better", 0.0, found, sign)
    assert (p < level) == (low > 0) or p == pytest.approx(level)


def test_networks_are_tested_by_mcnemar_at_zero_and_by_their_interval_elsewhere() -> None:
    found = subtract_counts(30, 12, 500)
    exact = stats.binomtest(12, 42).pvalue
    assert find_p("better", 0, found, 1) == pytest.approx(exact)
    assert find_p("better", 0, found, -1) == 1
    a, b, n = 31 / 502, 13 / 502, 502
    se = math.sqrt((a + b - (a - b) ** 2) / n)
    p = 2 * stats.norm.sf((a - b + 0.01) / se)
    assert find_p("not_inferior", 0.01, found, 1) == pytest.approx(p)


def answer(comparison: Comparison, *sentences: str, log: Path | None = None) -> list[Answer]:
    claims = [claim for claim in parse_claims([*sentences]) if claim]
    question = Question("accuracy", 0.02)
    subtract = partial(subtract_values, question=question)
    return answer_claims(claims, comparison.recipes, question, subtract, log)


def test_recipes_and_networks_are_compared_by_their_names(comparison: Comparison) -> None:
    pair = comparison.recipe_pairs.pairs[0]
    better, worse, network, crossed = answer(
        comparison,
        f"{pair.b} better {pair.a}",
        f"{pair.a} better {pair.b}",
        f"{pair.a} seed 1 better resnet50 seed 5",
        f"{pair.b} not_inferior resnet50 seed 5",
    )
    assert (better.p, worse.p) == (pytest.approx(pair.p), 1)
    assert better.tried.p == pytest.approx(min(4 * pair.p, 1))  # Holm: the smallest of four
    assert worse.difference.value == pair.difference.value == -better.difference.value
    assert (better.tried.holds, worse.tried.holds, network.tried.holds) == (True, False, False)
    assert crossed.claim.margin == 2  # the comparison's
    assert (network.kind, crossed.kind) == ("networks", "recipes")


@pytest.mark.parametrize(
    ("sentence", "reason"),
    [
        ("googlenet better alexnt", "alexnt; nearest: alexnet"),
        ("googlenet better resnet50", "resnet50 has 1 seed.*\n.*resnet50 seed 5"),
        ("googlenet better googlenet", "twice"),
    ],
)
def test_a_name_that_cannot_be_compared_is_refused(
    comparison: Comparison, sentence: str, reason: str
) -> None:
    with pytest.raises(UserError, match=f"require={sentence}: .*{reason}"):
        answer(comparison, sentence)


def test_a_recipe_of_a_plan_is_set_against_no_single_network(comparison: Comparison) -> None:
    claim = Claim("googlenet", "better", "resnet50 seed 5", None)
    question = Question(plan=SimpleNamespace(has=lambda recipe: recipe.label == "googlenet"))
    subtract = partial(subtract_values, question=Question())
    with pytest.raises(UserError, match="googlenet is a recipe of a plan"):
        answer_claims([claim], comparison.recipes, question, subtract)
    [found] = answer_claims([claim._replace(a="alexnet")], comparison.recipes, question, subtract)
    assert found.kind == "recipes"


def test_of_a_loss_the_lower_is_better(comparison: Comparison) -> None:
    claims = [Claim("googlenet", "better", "alexnet", None)]
    question = Question("nll")
    subtract = partial(subtract_values, question=question)
    [found] = answer_claims(claims, comparison.recipes, question, subtract)
    assert found.tried.holds
    assert found.difference.high < 0


def test_the_exit_code_tells_whether_the_claims_hold_and_the_page_says_why(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "render_page", lambda *_: "")  # which takes its time
    typed = {"runs": str(root), "out": str(tmp_path / "out")}
    folder = compare(composed("compare", **typed, require=CLAIM)).parent
    verdict = json.loads((folder / "verdict.json").read_text())
    [claim] = verdict["claims"]
    assert (claim["claim"], claim["tested"]["holds"]) == (CLAIM, True)
    assert "require_log=" in verdict["sentences"][-1]
    with pytest.raises(SystemExit) as ended:
        compare(composed("compare", **typed, require=[CLAIM, "alexnet better googlenet"]))
    assert ended.value.code == 1
    text = (folder / "comparison.md").read_text()
    assert (text.count("does not hold: alexnet better"), text.count("holds: googlenet")) == (1, 1)
    log = str(tmp_path / "tries.jsonl")
    for number in (1, 1, 2):
        other = "googlenet better alexnet margin=1" if number == 2 else CLAIM
        compare(composed("compare", **typed, require=other, require_log=log))
        verdict = json.loads((folder / "verdict.json").read_text())
        assert verdict["claims"][0]["tested"]["number"] == number


def test_levels_of_all_tries_add_up_to_the_level_of_one() -> None:
    levels = [level_of_try(k) for k in range(1, 20_001)]
    assert levels[:2] == pytest.approx([0.0303963551, 0.0075990888])
    assert sum(levels) < 0.05 < sum(levels) + 2e-6


def spend(path: Path, keys: list[str], p: float = 0.01) -> list[tuple[int | None, bool, bool]]:
    with open_tries(path) as tries:
        tried = [tries.test(f"claim {key}", {"metric": "accuracy", "a": [key]}, p) for key in keys]
    return [(each.number, each.holds, each.is_repeated) for each in tried]


def test_the_same_try_again_costs_nothing_and_has_its_answer(tmp_path: Path) -> None:
    path = tmp_path / "tries.jsonl"
    assert spend(path, ["x", "y"]) == [(1, True, False), (2, False, False)]
    assert spend(path, ["y", "x", "z"], p=0.0) == [
        *((2, False, True), (1, True, True), (3, True, False)),
    ]
    assert path.read_text().count("\n") == 3


@pytest.mark.parametrize(
    "change",
    [
        lambda lines: [lines[0], lines[1].replace('"p": 0.01', '"p": 0.09'), lines[2]],
        lambda lines: [*lines[:2], lines[2].replace('"p": 0.01', '"p": 0.00')],
        lambda lines: lines[1:],
        lambda lines: [lines[0], lines[2]],
        lambda lines: [lines[1], lines[0], lines[2]],
        lambda lines: [*lines, lines[2]],
        lambda lines: [*lines[:2], lines[2].rstrip("\n")],
        lambda lines: [*lines[:2], lines[2][:40]],
        lambda lines: [*lines, "\n"],
        lambda lines: ["[1]\n"],
        lambda lines: ["my notes\n"],
        lambda lines: ["\ud800{}\n"],
    ],
)
def test_a_log_that_is_not_as_it_was_written_is_refused_and_left_alone(
    change: Any, tmp_path: Path
) -> None:
    path = tmp_path / "tries.jsonl"
    spend(path, ["x", "y", "z"])
    text = "".join(change(path.read_text().splitlines(keepends=True)))
    path.write_bytes(text.encode(errors="surrogatepass"))
    before = path.read_bytes()
    with pytest.raises(UserError, match=r"^require_log=.*: line \d"):
        spend(path, ["w"])
    assert path.read_bytes() == before


def test_a_log_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "pipe", "", "none/tries.jsonl"):
        with pytest.raises(UserError, match=r"^require_log="):
            spend(tmp_path / name, ["x"])


def test_processes_at_once_spend_one_after_another(tmp_path: Path) -> None:
    path, context = tmp_path / "tries.jsonl", multiprocessing.get_context("fork")
    names = [[f"{process} {n}" for n in range(20)] for process in range(3)]
    processes = [context.Process(target=spend, args=(path, each)) for each in names]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["k"] for line in lines] == [*range(1, 61)]
    assert np.all([line["level"] == level_of_try(line["k"]) for line in lines])
    assert spend(path, ["new"])[0][0] == 61


def test_a_line_that_the_disk_has_no_room_for_is_not_begun(tmp_path: Path) -> None:
    path = tmp_path / "tries.jsonl"
    spend(path, ["x"])
    before = path.read_bytes()
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 50, usual[1]))
    try:
        with pytest.raises(UserError, match=r"require_log=.*: cannot be written"):
            spend(path, ["y"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    assert path.read_bytes() == before
    assert spend(path, ["x", "y"]) == [(1, True, True), (2, False, False)]


def test_a_log_that_is_no_log_is_refused_however_deep(tmp_path: Path) -> None:
    path = tmp_path / "tries.jsonl"
    path.write_text("[" * 100_000)
    with pytest.raises(UserError, match="line 1 is not as it was written"):
        spend(path, ["x"])
