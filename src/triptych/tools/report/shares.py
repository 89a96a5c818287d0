"""What the uncertainty of each difference, or of each recipe, is made of: bars of three parts."""

from collections.abc import Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from triptych.callbacks.figures import truncate
from triptych.tools.compare.uncertainty import PairParts, RecipeParts, Uncertainty
from triptych.tools.report import charts
from triptych.tools.report.charts import Chart

WIDTHS = (640, 358)
LINE = 44  # pixels of a row: its name above its bar
MAX_ROWS = 12
LEAST = 0.09  # of a bar, that has room for its share in words


def draw_shares(section: Uncertainty) -> Chart:
    """Of differences where any was tested, else of recipes."""
    rows: Sequence[PairParts | RecipeParts] = (section.pairs or section.recipes)[:MAX_ROWS]
    shares = [[each.images.value, each.seeds.value, each.flips.value] for each in rows]
    names = [name_row(each) for each in rows]
    parts = (section.unit, "seeds", "flips")
    heading = "Parts of the uncertainty of each " + ("difference" if section.pairs else "recipe")
    described = (
        f"{name}: "
        + ", ".join(f"{value:.0%} {part}" for value, part in zip(row, parts, strict=True))
        for name, row in zip(names, shares, strict=True)
    )
    words = f"{heading}. {'; '.join(described)}"
    pictures = []
    for width in WIDTHS:
        with matplotlib.rc_context(charts.PAGE):
            figure = render_shares(names, shares, parts, width)
            pictures.append(charts.inline(figure, f"{heading} {width}", words))
    lines = [("of", *parts), *((name, *row) for name, row in zip(names, shares, strict=True))]
    return Chart(heading, charts.join_sizes(pictures), charts.write_lines(lines))


def name_row(parts: PairParts | RecipeParts) -> str:
    return parts.recipe if isinstance(parts, RecipeParts) else f"{parts.a} − {parts.b}"


def render_shares(
    names: Sequence[str], shares: Sequence[Sequence[float]], parts: Sequence[str], width: int
) -> Figure:
    height = LINE * len(names) + 24
    figure = Figure(figsize=(width / 72, height / 72), dpi=72)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, 1), ylim=(height, 0))
    axes.set_axis_off()
    for place, part in enumerate(parts):
        axes.plot(8 / width + place * 90 / width, 10, "s", color=charts.SERIES[place], markersize=9)
        axes.text(20 / width + place * 90 / width, 14, part, fontsize=12.5, color=charts.TEXT)
    for place, (name, row) in enumerate(zip(names, shares, strict=True)):
        top = 24 + LINE * place
        shown = truncate(name, int(width / charts.LETTER))
        axes.text(0, top + 15, shown, fontsize=12.5, weight="bold", color=charts.TEXT)
        draw_bar(axes, row, top + 20)
    return figure


def draw_bar(axes: Axes, shares: Sequence[float], top: int) -> None:
    left = 0.0
    for place, share in enumerate(shares):
        axes.barh(top + 8, share, 16, left, color=charts.SERIES[place], linewidth=0)
        if share >= LEAST:
            text = {"ha": "center", "va": "center", "fontsize": 11.5, "color": charts.PAPER}
            axes.text(left + share / 2, top + 8.5, f"{share:.0%}", None, **text)
        left += share
