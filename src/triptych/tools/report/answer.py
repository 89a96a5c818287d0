"""The first figure: each recipe's score with every seed as a dot, and the tested differences."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from triptych.tools.compare import formats
from triptych.tools.compare.content import BaseComparison, Measure, Pair
from triptych.tools.compare.recipes import Recipe
from triptych.tools.report import charts
from triptych.tools.report.charts import MINUS, Chart, Key
from triptych.tools.statistics.inference import WithInterval

WIDTHS = (480, 358)
LINE = 40  # pixels of a row: a name and a number above what is drawn
MAX_ROWS = 12
SIDE = 10  # pixels beside the scale, into which names and numbers reach
DIGIT = 7.2  # pixels of a letter of a number


class Row(NamedTuple):
    names: tuple[str, ...]  # of a recipe, or of both of a pair
    number: str
    style: int | None
    estimate: WithInterval
    seeds: tuple[float, ...] = ()


def draw_answer(c: BaseComparison, key: Key) -> list[Chart]:
    """Recipes; beside them the pairs that answer the question, where any was tested."""
    measure = c.question.measure
    recipes = [make_recipe_row(c, recipe, key) for recipe in c.recipes[:MAX_ROWS]]
    drawn = [draw_rows(write_heading(c, measure), recipes, measure)]
    table = c.recipe_pairs if c.recipe_pairs.pairs else c.network_pairs
    if table.pairs:
        pairs = c.rank_pairs(table)[:MAX_ROWS]
        kind = "recipes" if table is c.recipe_pairs else "trained networks"
        heading = f"Difference between {kind}"
        rows = [make_pair_row(pair, c.short_names, key) for pair in pairs]
        if len(pairs) > 2 and len({pair.a for pair in pairs}) == 1:  # the best, and each other
            heading = f"{rows[0].names[0]} − each of these {kind}"
            rows = [row._replace(names=row.names[1:]) for row in rows]
        heading = f"{heading}, {measure.unit or 'as the score itself'}"
        margin = c.question.margin
        drawn.append(draw_rows(heading, rows, measure, is_difference=True, margin=margin))
    return drawn


def write_heading(c: BaseComparison, measure: Measure) -> str:
    sizes = {network.num_test for network in c.networks}
    images = f" on {formats.pluralize(min(sizes), 'test image')}" if len(sizes) == 1 else ""
    return f"{formats.capitalize(measure.column)}{images}"


def make_recipe_row(c: BaseComparison, recipe: Recipe, key: Key) -> Row:
    estimate, measure = c.estimate(recipe), c.question.measure
    bounds = formats.in_brackets(measure.write_score_interval(estimate))
    number = f"{measure.write_score(estimate.value)} {bounds}".rstrip()
    seeds = tuple(c.score(network) for network in recipe.networks)
    return Row((recipe.label,), number, key.styles.get(recipe.label), estimate, seeds)


def make_pair_row(pair: Pair, names: Mapping[str, str], key: Key) -> Row:
    """In grey where the difference is not significant; by `short_names` of networks."""
    bounds = formats.in_brackets(pair.measure.write_interval(pair.difference))
    number = f"{pair.measure.write(pair.difference.value)} {bounds}".rstrip()
    style = key.styles.get(pair.a) if pair.is_significant else None
    a, b = (names.get(name, name) for name in (pair.a, pair.b))
    return Row((a, b), number, style, pair.difference)


def draw_rows(
    heading: str,
    rows: Sequence[Row],
    measure: Measure,
    *,
    is_difference: bool = False,
    margin: float | None = None,
) -> Chart:
    """Rows below each other over one scale: a name and its number, below them the interval, the
    estimate and every seed."""
    words = f"{heading}: " + "; ".join(f"{MINUS.join(row.names)} {row.number}" for row in rows)

    def render(width: int) -> Figure:
        height = LINE * len(rows) + 30
        figure, axes = charts.begin_figure(width, height, margins=(SIDE, 30, SIDE, 0))
        limits = find_limits(rows, is_difference, margin)
        axes.set(xlim=limits, ylim=(LINE * len(rows), 0), yticks=[])
        charts.draw_scale(axes, lambda value: write_tick(value, measure))
        if margin is not None:
            axes.axvspan(-margin, margin, color=charts.RULE, alpha=0.6, linewidth=0, zorder=0)
        if is_difference:
            axes.axvline(0, color=charts.INK, linewidth=1, zorder=1)
        for place, row in enumerate(rows):
            draw_row(axes, row, LINE * place, width - 2 * SIDE)
        return figure

    return charts.draw_sizes(heading, words, WIDTHS, render, list_values(rows, measure))


def list_values(rows: Sequence[Row], measure: Measure) -> str:
    """The rows as CSV; seeds have no interval."""
    lines: list[Sequence[object]] = [("name", "what", measure.name, "low", "high")]
    for row in rows:
        lines.append((MINUS.join(row.names), "estimate", *row.estimate))
        lines += [
            (MINUS.join(row.names), f"seed {place}", value) for place, value in enumerate(row.seeds)
        ]
    return charts.write_lines(lines)


def draw_row(axes: Axes, row: Row, top: int, width: int) -> None:
    """One row whose upper edge is at `top`, in pixels."""
    place = axes.get_yaxis_transform()
    room = int((width + 2 * SIDE - DIGIT * len(row.number)) / charts.BOLD)
    text: dict[str, Any] = {"transform": place, "fontsize": 12.5, "color": charts.TEXT}
    text["bbox"] = charts.HALO
    axes.text(-SIDE / width, top + 15, charts.shorten(row.names, room), weight="bold", **text)
    axes.text(1 + SIDE / width, top + 15, row.number, ha="right", **text)
    colour = charts.find_colour(row.style)
    middle, (value, low, high) = top + 28, row.estimate
    if low == low:
        axes.plot((low, high), (middle, middle), color=colour, linewidth=7, alpha=0.35,
                  solid_capstyle="butt", zorder=2)  # fmt: skip
    axes.plot((value, value), (middle - 7, middle + 7), color=colour, linewidth=2.4, zorder=3)
    for seed in row.seeds if len(row.seeds) > 1 else ():
        axes.plot(seed, middle, "o", color=colour, markersize=5, zorder=4)


def find_limits(
    rows: Sequence[Row], is_difference: bool, margin: float | None
) -> tuple[float, float]:
    """All that is drawn, with some room."""
    values = [value for row in rows for value in (*row.estimate, *row.seeds) if value == value]
    if is_difference:
        values += [0.0] if margin is None else [-margin, margin]
    low, high = min(values), max(values)
    room = 0.04 * (high - low) or 0.01
    return low - room, high + room


def write_tick(value: float, measure: Measure) -> str:
    shown = measure.per_unit * value
    return f"{shown:.6g}".replace("-", "−")
