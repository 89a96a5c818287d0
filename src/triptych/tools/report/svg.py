"""A matplotlib figure as inline SVG: text stays text, colours follow the page around it.

Colours are drawn as placeholders, which become the page's CSS variables.
"""

import io
import re
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.figure import Figure

INK, PAPER, RULE, OTHER = "#000001", "#000002", "#000003", "#000004"
SERIES = [f"#0001{number:02}" for number in range(8)]
VARIABLES = {INK: "currentColor", PAPER: "var(--paper)", RULE: "var(--rule)"}
VARIABLES |= {OTHER: "var(--other)"}
VARIABLES |= {colour: f"var(--series-{number})" for number, colour in enumerate(SERIES)}
RC: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": INK,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 11,
    "grid.color": RULE,
    "grid.linewidth": 0.8,
    "lines.linewidth": 1.6,
    "lines.markersize": 5.5,
    "svg.fonttype": "none",
    "text.parse_math": False,
    "xtick.color": INK,
    "ytick.color": INK,
}


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of that many CSS pixels; one unit of `inline`'s SVG is one of them."""
    return Figure(figsize=(width / 72, height / 72), dpi=72)


def inline(figure: Figure, name: str, words: str | None) -> Markup:
    """The figure as one `svg` element, as wide as its place, that a screen reader reads as `words`.

    `name` is unique on the page: ids are derived from it. Without words it is decoration.
    """
    buffer = io.StringIO()
    with matplotlib.rc_context(RC | {"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True)
    svg = buffer.getvalue()
    body = svg[svg.index(">", svg.index("<svg")) + 1 :]
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", body, flags=re.DOTALL)
    body = re.sub(r'<g id="[^"]*"(/?)>', r"<g\1>", body).replace("<g/>", "")
    body = re.sub(r" font-family: [^;\"]*;", "", body)
    body = re.sub(r' transform="rotate\(-0 [^"]*"', "", body)
    body = re.sub(r"(\.\d\d)\d+", r"\1", body).replace("xlink:href", "href")
    body = re.sub("|".join(VARIABLES), lambda found: VARIABLES[found[0]], body)
    width, height = figure.get_size_inches() * 72
    head = Markup('<svg viewBox="0 0 {:.0f} {:.0f}" ').format(width, height)
    role = Markup('role="img" aria-label="{}">').format(words) if words else 'aria-hidden="true">'
    return head + Markup(role) + Markup(re.sub(r"\s*\n\s*", " ", body))
