"""What a comparison prints at its end: a few aligned lines. The page has the rest."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from triptych.cli import show_line
from triptych.cli.tables import make_console, make_table
from triptych.tools.compare import formats
from triptych.tools.compare.claims import Answer
from triptych.tools.compare.content import (
    BaseComparison,
    Measure,
    Pair,
    list_untested,
    rank_pairs,
)
from triptych.tools.compare.recipes import Recipe
from triptych.tools.statistics.inference import WithInterval

MAX_ROWS = 10  # of a kind


def print_end(comparison: BaseComparison, answers: Sequence[Answer], page: Path) -> None:
    """What is wrong, how good each recipe is, a line a pair and a claim; the page's path last."""
    console, measure = make_console(), comparison.question.measure
    print_line = partial(show_line, console)

    def print_rows(head: str, sides: str, rows: Sequence[Sequence[str]]) -> None:
        print_line(f"\n{head}")
        console.print(make_table(sides, [""] * len(sides), rows[:MAX_ROWS]))
        if len(rows) > MAX_ROWS:
            print_line(f"and {len(rows) - MAX_ROWS} more, on the page")

    for problem in comparison.problems[:MAX_ROWS]:
        print_line(f"{problem.folder}: {problem.what}")
    if comparison.banner:
        print_line(comparison.banner)
    recipes = [describe_recipe(each, comparison) for each in comparison.recipes]
    print_rows(comparison.asked, "<><<", recipes)
    tables = comparison.recipe_pairs, comparison.network_pairs
    pairs = comparison.rank_pairs(tables[0])
    pairs += rank_pairs(list_untested(comparison.recipes, *tables), comparison.recipes)
    if pairs:
        lower = ", lower is better" if measure.sign < 0 else ""
        adjusted = ", adjusted for all pairs" if len(pairs) > 1 else ""
        head = f"difference in {measure.name}{lower} (95 % interval) and p{adjusted}"
        rows = [describe_pair(pair, comparison.short_names) for pair in pairs]
        print_rows(head, "<><<<", rows)
    if answers:
        uncounted = "" if answers[0].tried.number else " (require_log=<file> counts the tries)"
        print_rows(f"required{uncounted}", "<<><<", [*map(describe_answer, answers)])
    if comparison.confounders:
        print_line(f"\nThe recipes also differ in {formats.join_words(comparison.confounders, 3)}.")
    num = len(comparison.problems) + len(comparison.cautions)
    print_line(f"\n{formats.pluralize(num, 'caution')}: on the page, under Method and limits")
    print_line(f"{page.resolve().as_uri()}\n{page}")


def describe_recipe(recipe: Recipe, comparison: BaseComparison) -> list[str]:
    measure, value = comparison.question.measure, comparison.estimate(recipe)
    bounds = formats.in_brackets(measure.write_score_interval(value))
    score = measure.write_score(value.value) + " %" * (measure.unit == "points")
    seeds = formats.pluralize(len(recipe.networks), "seed")
    return [recipe.label, score, bounds, seeds]


def describe_pair(pair: Pair, names: Mapping[str, str]) -> list[str]:
    """`names`: shorter ones of trained networks."""
    margin = "" if pair.margin is None else pair.measure.write_margin(pair.margin)
    a, b = (names.get(name, name) for name in (pair.a, pair.b))
    if pair.is_significant:
        words = f"by more than {margin}" if pair.exceeds_margin else ""
    elif pair.verdict == "undecided":
        words = "undecided" if margin else "not significant"
    else:
        words = f"not worse by {margin}"
    if pair.is_equivalent:
        words = f"within ±{margin}"
    return [
        f"{a} {'>' if pair.is_significant else '−'} {b}",
        *describe_difference(pair.difference, pair.measure),
        formats.p_statement(pair.p_of_verdict),
        words,
    ]


def describe_answer(answer: Answer) -> list[str]:
    how = f"try {answer.tried.number} of the log" if answer.tried.number else ""
    return [
        str(answer.claim),
        "holds" if answer.tried.holds else "does not hold",
        *describe_difference(answer.difference, answer.measure),
        f"{formats.p_statement(answer.tried.p)}  {how}".rstrip(),
    ]


def describe_difference(difference: WithInterval, measure: Measure) -> list[str]:
    """With its unit, and its interval in brackets."""
    bounds = formats.in_brackets(measure.write_interval(difference))
    return [measure.write_amount(difference.value), bounds]
