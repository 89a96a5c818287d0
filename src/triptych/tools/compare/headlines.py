"""What a reader sees first: the question in a sentence, and an answer a pair in plain words."""

from collections.abc import Sequence

from triptych.runs.reader import sanitize
from triptych.tools.compare import formats
from triptych.tools.compare.content import (
    ACCURACY,
    Headline,
    Measure,
    Pair,
    Pairs,
    Question,
    rank_pairs,
)
from triptych.tools.compare.formats import join_words, pluralize
from triptych.tools.compare.recipes import Recipe

MAX_HEADLINES = 3  # pairs; of more, those of the best recipes
MAX_NAMES = 4  # in a title or a question
ONE_SEED = "One seed each, so this says nothing about retraining."
SMALL = 0.005  # a difference below it has more digits


def write_question(recipes: Sequence[Recipe], question: Question) -> str:
    """What a plan asked, or what the settings do."""
    if question.plan:
        return str(sanitize(question.plan.plan.question))
    labels, measure = sorted(recipe.label for recipe in recipes), question.measure
    on = f"on {name_data(recipes)}"
    if len(labels) == 1:
        what = "How accurate is" if measure is ACCURACY else f"What is the {measure.name} of"
        return f"{what} {labels[0]} {on}?"
    names = join_words(labels) if len(labels) <= MAX_NAMES else f"these {len(labels)} recipes"
    asked = f"Which of {names} {compare_by(measure, len(labels))} {on}"
    if question.margin is None:
        return f"{asked}?"
    within = measure.write_margin(question.margin)
    return f"{asked}, and which are as good as each other within {within}?"


def compare_by(measure: Measure, num_recipes: int) -> str:
    if measure is ACCURACY:
        return "is more accurate" if num_recipes == 2 else "is most accurate"
    degrees = ("higher", "highest") if measure.sign == 1 else ("lower", "lowest")
    return f"has the {degrees[num_recipes > 2]} {measure.name}"


def name_data(recipes: Sequence[Recipe]) -> str:
    return join_words([*dict.fromkeys(recipe.first.metadata["data"] for recipe in recipes)])


def write_headlines(
    recipes: Sequence[Recipe], tables: Sequence[Pairs], question: Question, described: str
) -> tuple[Headline, ...]:
    """Of the first of these tables that has pairs, in the order of the recipes; `described` says
    how good the first recipe is."""
    table = next((table for table in tables if table.pairs), None)
    if table is None:
        why = explain_no_pairs(recipes, tables[-1], question.measure)
        return (Headline(described, why) if len(recipes) == 1 else Headline(why),)
    pairs = rank_pairs(table.pairs, recipes)
    shown, more = pairs[:MAX_HEADLINES], pairs[MAX_HEADLINES:]
    sizes = [abs(bound) for pair in shown for bound in pair.difference if bound]
    digits = 1 if min(sizes, default=1) >= SMALL else 2
    rows = [write_headline(pair, len(pairs), digits) for pair in shown]
    if more:
        rows[:0] = name_best(recipes, pairs, question.measure)
        num = sum(pair.is_significant for pair in more)
        others = f"{num} with a significant difference, {len(more) - num} without"
        rows.append(Headline(f"{pluralize(len(more), 'more pair')}: {others}."))
    few = [recipe.label for recipe in recipes if not recipe.has_enough_seeds]
    if table is not tables[0]:
        rows.append(Headline(ONE_SEED))
    elif few:
        names = join_words(few, MAX_HEADLINES)
        rows.append(Headline(f"{names}: too few seeds; see the pairs of trained networks."))
    return tuple(rows)


def name_best(recipes: Sequence[Recipe], pairs: Sequence[Pair], measure: Measure) -> list[Headline]:
    """Of more recipes than have a sentence each, the first, and how many are worse."""
    best = recipes[0]
    tested = [pair for pair in pairs if {pair.a, pair.b} & {best.label, best.first.label}]
    if not tested:
        return []
    num = sum(pair.is_significant and pair.a in (best.label, best.first.label) for pair in tested)
    how_many = f"{num or 'none'} of the" if num < len(tested) else "all"
    worse = f"{'is' if num == 1 else 'are'} significantly worse"
    others = f"{how_many} {pluralize(len(tested), 'other')} tested {worse}"
    return [
        Headline(f"{best.label} has the best {measure.name} of {len(recipes)} recipes; {others}.")
    ]


def explain_no_pairs(recipes: Sequence[Recipe], network_pairs: Pairs, measure: Measure) -> str:
    if len(recipes) == 1:
        return "One recipe: there is nothing to compare it with."
    if network_pairs.num_recipes < 2:
        return (
            f"No pair is tested: two recipes at least must have probabilities for {measure.name}."
        )
    return "No two recipes can be compared: no pair is tested."


def write_headline(pair: Pair, num_pairs: int, digits: int) -> Headline:
    """The claim with its interval; in `detail` what it rests on."""
    difference, measure = pair.difference, pair.measure
    text = f"{write_claim(pair)}: {measure.write_amount(difference.value, digits)}"
    if difference.low == difference.low:
        text += f", 95 % CI {measure.write_interval(difference, digits)}"
    adjusted = " (Holm)" if num_pairs > 1 else ""
    seeds = "" if pair.num_seeds == (1, 1) else f", {count_seeds(pair)}"
    images = formats.count_images(pair.num_images, pair.num_groups, "image")
    detail = f"{write_test(pair)}{adjusted}.{_explain_contradiction(pair, num_pairs)}"
    return Headline(f"{text}.", detail, f"{images}{seeds}.")


def _explain_contradiction(pair: Pair, num_pairs: int) -> str:
    """Where the interval seems to say another thing than the test, which alone decides."""
    if pair.is_significant and pair.difference.includes_zero:
        return f" The interval includes 0: it covers all {num_pairs} pairs, stricter than the test."
    bounds_same_side = pair.difference.low * pair.difference.high > 0
    if pair.verdict == "undecided" and pair.margin is None and bounds_same_side:
        return " The interval excludes 0, but the exact test is stricter and decides."
    return ""


def count_seeds(pair: Pair) -> str:
    n, m = pair.num_seeds
    return f"{n} seeds each" if n == m else f"{n} and {m} seeds"


def write_claim(pair: Pair) -> str:
    """By p values adjusted by Holm alone, in the order of verdicts; A is named first."""
    one, other = pair.a, pair.b
    margin = "" if pair.margin is None else pair.measure.write_margin(pair.margin)
    if pair.is_significant:
        claim = f"{one} is {pair.measure.better} than {other}"
        if pair.exceeds_margin:
            return f"{claim} by more than {margin}"
        return f"{claim}, by less than the margin of {margin}" if pair.is_equivalent else claim
    in_what = "" if pair.measure is ACCURACY else f" in {pair.measure.name}"
    if pair.is_equivalent:
        return f"{one} is as good as {other} within ±{margin}{in_what}"
    if pair.verdict != "undecided":
        return f"{one} is not worse than {other} by more than {margin}{in_what}"
    if margin:
        return f"Between {one} and {other} neither a difference nor equivalence{in_what} is shown"
    return f"{one} and {other} do not differ significantly{in_what}"


def write_test(pair: Pair) -> str:
    """The test that the claim rests on, and its p."""
    test, against = pair.measure.tests[pair.num_seeds == (1, 1)], ""
    if pair.verdict in ("equivalent", "a_not_inferior", "b_not_inferior"):
        test = "t test" if pair.only_a is None else "adjusted Wald test"
        against = " against the margin"
    if pair.num_groups and test in ("McNemar", "t test"):
        test = "t test over groups"
    return f"{test}{against} {formats.p_statement(pair.p_of_verdict)}"
