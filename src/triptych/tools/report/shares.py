"""What the uncertainty of each difference, or of each recipe, is made of: bars of three parts."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from triptych.tools.compare.uncertainty import PairParts, RecipeParts, Uncertainty
from triptych.tools.report import charts
from triptych.tools.report.charts import MINUS, Chart

WIDTHS = (640, 358)
KEY, LINE = 24, 44  # pixels of the key, and of a row: its name above its bar
MAX_ROWS = 12
LEAST = 0.09  # of a bar, that has room for its share in words


def draw_shares(section: Uncertainty) -> Chart:
    """Of differences where any was tested, else of recipes."""
    of: Sequence[PairParts | RecipeParts] = (section.pairs or section.recipes)[:MAX_ROWS]
    parts = (section.unit, "seeds", "flips")
    rows = {
        list_names(each): (each.images.value, each.seeds.value, each.flips.value) for each in of
    }
    heading = "Parts of the uncertainty of each " + ("difference" if section.pairs else "recipe")
    written = (
        f"{MINUS.join(names)}: "
        + ", ".join(f"{share:.0%} {part}" for share, part in zip(shares, parts, strict=True))
        for names, shares in rows.items()
    )
    words = f"{heading}. {'; '.join(written)}"
    lines = [("of", *parts), *((MINUS.join(names), *shares) for names, shares in rows.items())]

    def render(width: int) -> Figure:
        figure, axes = charts.begin_figure(width, KEY + LINE * len(rows), margins=(0, 0, 0, 0))
        axes.set(xlim=(0, 1), ylim=(KEY + LINE * len(rows), 0))
        axes.set_axis_off()
        for place, part in enumerate(parts):
            left = place * 90
            axes.plot((left + 8) / width, 10, "s", color=charts.SERIES[place], markersize=9)
            axes.text((left + 20) / width, 14, part, fontsize=12.5, color=charts.TEXT)
        for place, (names, shares) in enumerate(rows.items()):
            top, name = KEY + LINE * place, charts.shorten(names, int(width / charts.BOLD))
            axes.text(0, top + 15, name, fontsize=12.5, weight="bold", color=charts.TEXT)
            draw_bar(axes, shares, top + 20)
        return figure

    return charts.draw_sizes(heading, words, WIDTHS, render, charts.write_lines(lines))


def list_names(parts: PairParts | RecipeParts) -> tuple[str, ...]:
    return (parts.recipe,) if isinstance(parts, RecipeParts) else (parts.a, parts.b)


def draw_bar(axes: Axes, shares: Sequence[float], top: int) -> None:
    left = 0.0
    for place, share in enumerate(shares):
        axes.barh(top + 8, share, 16, left, color=charts.SERIES[place], linewidth=0)
        if share >= LEAST:
            text = {"ha": "center", "va": "center", "fontsize": 11.5, "color": charts.PAPER}
            axes.text(left + share / 2, top + 8.5, f"{share:.0%}", None, **text)
        left += share
