"""What a comparison prints: each figure is the one of `verdict.json`."""

from dataclasses import replace
from pathlib import Path

import pytest

from triptych.tools.compare import screen
from triptych.tools.compare.claims import answer_claims, subtract_values
from triptych.tools.compare.content import Comparison, Pairs
from triptych.tools.compare.formats import p_value, percent, points
from triptych.tools.compare.settings import parse_claims

PAGE = Path("logs/comparison/index.html")
Capture = pytest.CaptureFixture[str]


def show(comparison: Comparison, capsys: Capture, *claims: str) -> list[str]:
    question, asked = comparison.question, [c for c in parse_claims(list(claims)) if c]
    answers = answer_claims(
        asked, comparison.recipes, question, lambda a, b: subtract_values(a, b, question)
    )
    screen.print_end(comparison, answers, PAGE)
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert max(len(line) for line in lines if "://" not in line) <= 100
    return lines


def test_a_comparison_ends_with_a_line_a_recipe_a_pair_and_a_claim_and_its_path(
    comparison: Comparison, capsys: Capture
) -> None:
    lines = show(comparison, capsys, "googlenet better alexnet", "alexnet better googlenet")
    for recipe in comparison.recipes:
        shown = [" ".join(line.split()) for line in lines]
        low, high = (percent(bound) for bound in recipe.accuracy[1:])
        value = f"{recipe.label} {percent(recipe.accuracy.value)} %"
        assert any(line.startswith(f"{value} ({low} to {high})") for line in shown)
    [pair] = comparison.recipe_pairs.pairs
    assert pair.verdict == "b_better"
    [line] = [line for line in lines if line.startswith("googlenet > alexnet ")]
    value, low, high = pair.difference.negate()
    assert f"{points(value)} points" in line
    assert f"({points(low)} to {points(high)})".replace("+", "") in line
    assert line.endswith(f"p = {p_value(pair.p_holm)}".replace("= <", "<"))
    of_networks = [line for line in lines if line.startswith("resnet50 ") and ">" in line]
    assert of_networks, "resnet50 has one seed, so its network alone is compared"
    outcomes = [line.split("  ")[1].strip() for line in lines if " better " in line]
    assert outcomes[-2:] == ["holds", "does not hold"]
    assert lines[-3].startswith(f"{len(comparison.cautions) + len(comparison.problems)} caution")
    assert lines[-2:] == [PAGE.resolve().as_uri(), str(PAGE)]
    assert not any(caution in lines for caution in comparison.cautions)


def test_settings_that_differ_besides_the_model_are_named_before_the_cautions(
    comparison: Comparison, capsys: Capture
) -> None:
    rates = replace(comparison, differing={"optim.lr": ("0.1", "0.2", "0.3")})
    assert "optim.lr" in "".join(show(rates, capsys))
    of_one_model = replace(rates, recipes=comparison.recipes[:1])
    assert of_one_model.confounders == [], "there they are the question, and in the names"


@pytest.mark.parametrize(
    ("p", "margin", "p_not_inferior", "says"),
    [
        (0.2, None, (1.0, 1.0), "googlenet − alexnet p = 0.2000 not significant"),
        (0.2, 0.01, (0.9, 0.8), "googlenet − alexnet p = 0.2000 undecided"),
        (0.2, 0.01, (0.01, 0.02), "googlenet − alexnet p = 0.0200 within ±1 point"),
        (0.2, 0.01, (0.9, 0.01), "googlenet − alexnet p = 0.0100 not worse by 1 point"),
        (0.01, 0.01, (1.0, 0.01), "googlenet > alexnet p = 0.0100 by more than 1 point"),
    ],
)
def test_a_pair_has_the_p_value_and_the_words_of_its_verdict(
    comparison: Comparison,
    p: float,
    margin: float | None,
    p_not_inferior: tuple[float, float],
    says: str,
) -> None:
    [pair] = comparison.recipe_pairs.pairs
    pair = replace(pair, p_holm=p, margin=margin, p_not_inferior=p_not_inferior)
    name, _, _, *rest = screen.describe_pair(pair.better_first, {})
    assert " ".join([name, *rest]).strip() == says


def test_of_many_pairs_ten_are_shown_and_long_names_are_folded(
    comparison: Comparison, capsys: Capture
) -> None:
    [pair] = comparison.recipe_pairs.pairs
    pairs = tuple(replace(pair, b=f"{n:02d}{80 * 'b'}", p_holm=0.5) for n in range(12))
    tables = [Pairs(some, 13, None, True) for some in (pairs, ())]
    shown = replace(comparison, recipe_pairs=tables[0], network_pairs=tables[1])
    lines = show(shown, capsys)
    assert sum("not significant" in line for line in lines) == 10
    assert "and 2 more, on the page" in lines
    assert "".join(lines).count("b") >= 800, "nothing is cut"
