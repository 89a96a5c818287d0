"""What a comparison prints at its end: a few aligned lines. The page has the rest."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from triptych.cli import show_line
from triptych.cli.tables import make_console, make_table
from triptych.tools.compare import formats
from triptych.tools.compare.claims import Answer
from triptych.tools.compare.content import BaseComparison, Measure, Pair
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
    if pairs := choose_pairs(comparison):
        lower = ", lower is better" if measure.sign < 0 else ""
        adjusted = ", adjusted for all pairs" if len(pairs) > 1 else ""
        head = f"difference in {measure.name}{lower} (95 % interval) and p{adjusted}"
        names = {r.first.label: r.label for r in comparison.recipes if len(r.networks) == 1}
        print_rows(head, "<><<<", [describe_pair(pair, names) for pair in pairs])
    if answers:
        uncounted = "" if answers[0].tried.number else " (require_log=<file> counts the tries)"
        print_rows(f"required{uncounted}", "<<><<", [*map(describe_answer, answers)])
    num = len(comparison.problems) + len(comparison.cautions)
    print_line(f"\n{formats.pluralize(num, 'caution')}: on the page, under Method and limits")
    print_line(f"{page.resolve().as_uri()}\n{page}")


def choose_pairs(comparison: BaseComparison) -> list[Pair]:
    """Of recipes, and of trained networks where a recipe has too few seeds for a test."""
    of_recipes, of_networks = comparison.recipe_pairs, comparison.network_pairs
    tested = {name for pair in of_recipes.pairs for name in (pair.a, pair.b)}
    others = {r.first.label for r in comparison.recipes if r.label not in tested}
    more = [pair for pair in comparison.rank_pairs(of_networks) if {pair.a, pair.b} & others]
    return comparison.rank_pairs(of_recipes) + more


def describe_recipe(recipe: Recipe, comparison: BaseComparison) -> list[str]:
    measure, value = comparison.question.measure, comparison.estimate(recipe)
    bounds = formats.interval(value.low, value.high, lambda bound, _: measure.write_score(bound))
    score = measure.write_score(value.value) + " %" * (measure.unit == "points")
    seeds = formats.pluralize(len(recipe.networks), "seed")
    return [recipe.label, score, f"({bounds})" if value.low == value.low else "", seeds]


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
        f"p = {formats.p_value(pair.p_of_verdict)}".replace("= <", "<"),
        words,
    ]


def describe_answer(answer: Answer) -> list[str]:
    how = f"try {answer.tried.number} of the log" if answer.tried.number else ""
    return [
        str(answer.claim),
        "holds" if answer.tried.holds else "does not hold",
        *describe_difference(answer.difference, answer.measure),
        f"p = {formats.p_value(answer.tried.p)}  {how}".replace("= <", "<").rstrip(),
    ]


def describe_difference(difference: WithInterval, measure: Measure) -> list[str]:
    """With its unit, and its interval in brackets."""
    amount = f"{measure.write(difference.value)} {measure.unit}".strip()
    bounds = measure.write_interval(difference).replace("+", "")
    return [amount, f"({bounds})" if difference.low == difference.low else ""]
