"""Charts of a page, as inline SVG: what they are made of and how they become part of it.

A style is colour, marker and dashes together, so nobody needs the colour. What runs are called is
drawn as text, which stays text and is escaped.
"""

import csv
import io
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import matplotlib
import numpy as np
from cycler import cycler
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.markers import MarkerStyle
from matplotlib.patches import PathPatch
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, MaxNLocator, NullLocator
from matplotlib.transforms import Affine2D, IdentityTransform
from numpy.typing import NDArray

from triptych.callbacks.figures import count_columns, missing_letters_as_boxes
from triptych.runs.storage import escape_formulas
from triptych.tools.compare.recipes import Recipe
from triptych.tools.evaluate.degradation import VariantAccuracy
from triptych.tools.statistics.calibration import Reliability

MARKERS = "os^DvPXp"
DASHES = ((), (5, 2), (1.5, 1.5), (6, 2, 1.5, 2), (9, 2), (3, 1), (6, 2, 1, 2, 1, 2), (2, 3))
NUM_STYLES = len(MARKERS)  # of more lines nobody can follow one
LETTER = 6.9  # pixels of a letter of a name
BOLD = 8.3  # pixels of a letter of the name of a row
MINUS = " − "  # between two names
STEPS = [1, 2, 2.5, 5, 10]  # of a scale

Numbers = NDArray[np.float64]

# Colours of the page are drawn as placeholders, which become its CSS variables.
INK, PAPER, RULE, OTHER, TEXT = (f"#00000{number}" for number in range(1, 6))
SERIES = [f"#0001{number:02}" for number in range(NUM_STYLES)]
VARIABLES = {INK: "currentColor", PAPER: "var(--paper)", RULE: "var(--rule)", OTHER: "var(--other)"}
VARIABLES |= {TEXT: "var(--ink)"}
VARIABLES |= {colour: f"var(--series-{number})" for number, colour in enumerate(SERIES)}
HALO: Any = {"facecolor": PAPER, "edgecolor": "none", "alpha": 0.8, "pad": 1}  # of text over lines
PAGE: dict[Any, Any] = {
    **dict.fromkeys(("axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
    "axes.prop_cycle": cycler(color=[*SERIES, OTHER]),  # the last is for lines without a style
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.facecolor": PAPER,
    "font.size": 11.5,
    "grid.color": RULE,
    "lines.linewidth": 1.6,
    "lines.markersize": 5.5,
    "svg.fonttype": "none",
    "text.parse_math": False,
}


@dataclass(frozen=True, eq=False)
class Series:
    """A line, or a cloud of points; style None is drawn in grey, behind those that have one."""

    style: int | None
    x: Numbers
    y: Numbers
    low: Numbers | None = None  # the ends of the intervals of y
    high: Numbers | None = None
    marked: NDArray[np.bool_] | None = None  # points that stand out
    label: str = ""
    marker: str = ""  # instead of the style's own


@dataclass(frozen=True)
class Axis:
    """`kind` is "number", "count" (whole), "percent" (of a fraction) or "log" (5k, 5M, 5G)."""

    label: str
    kind: str = "number"
    unit: str = ""  # of a logarithmic axis
    ticks: tuple[str, ...] = ()  # names of the positions 0, 1, 2, ...


Size = tuple[int, int]  # width and height of a picture, in CSS pixels
SMALL = ((300, 214),)  # one of many
MEDIUM = ((480, 310), (358, 270))  # two in a line on a wide screen; on a telephone
LARGE = ((940, 440), (358, 320))
Draw = Callable[[Axes, Sequence[Series]], None]


@dataclass(frozen=True)
class Chart:
    """A picture of the page in each of its sizes, and what it shows as CSV."""

    heading: str
    picture: Markup
    data: str = ""
    caption: str = ""


class Key:
    """One style a recipe, shared by its networks, as long as there are styles.

    Of more recipes those shown first have one and the others are grey.
    """

    def __init__(self, recipes: Sequence[Recipe]) -> None:
        self.recipes = recipes[:NUM_STYLES]
        self.num_others = len(recipes) - len(self.recipes)
        self.styles = {
            label: style
            for style, recipe in enumerate(self.recipes)
            for label in (recipe.label, *(network.label for network in recipe.networks))
        }


def make_chart(
    heading: str,
    words: str,
    draw: Draw,
    series: Sequence[Series],
    x: Axis,
    y: Axis,
    *,
    sizes: Sequence[Size] = MEDIUM,
    caption: str = "",
) -> Chart:
    """A chart of its own heading and caption; a screen reader reads `words`."""

    def render(size: Size) -> Figure:
        figure, axes = begin_figure(*size, margins=(58, 42, 10, 10))
        label_axes(axes, x, y)
        draw(axes, series)
        return figure

    return draw_sizes(heading, words, sizes, render, write_data(series, x, y), caption)


def draw_sizes(
    heading: str,
    words: str,
    sizes: Sequence[Any],
    render: Callable[[Any], Figure],
    data: str,
    caption: str = "",
) -> Chart:
    """What `render` draws for a wide screen and for a narrow one, of which the style sheet shows
    one; or of a single size."""
    pictures = []
    for size in sizes:
        with matplotlib.rc_context(PAGE):
            pictures.append(inline(render(size), f"{heading} {caption} {size} {data}", words))
    if len(pictures) == 1:
        return Chart(heading, pictures[0], data, caption)
    both = Markup('<div class="wide">{}</div><div class="narrow">{}</div>').format(*pictures)
    return Chart(heading, both, data, caption)


def begin_figure(
    width: int, height: int, margins: tuple[float, float, float, float]
) -> tuple[Figure, Axes]:
    """All in CSS pixels; margins at the left, below, at the right and above hold the labels."""
    figure = Figure(figsize=(width / 72, height / 72), dpi=72)
    left, bottom, right, top = margins
    inner = (width - left - right) / width, (height - bottom - top) / height
    return figure, figure.add_axes((left / width, bottom / height, *inner))


def draw_scale(axes: Axes, write: Callable[[float], str]) -> None:
    """The scale that rows share, and its lines behind them."""
    axes.spines["left"].set_visible(False)
    axes.tick_params(length=0, pad=5)
    axes.grid(axis="x", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=STEPS))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: write(value)))


def shorten(names: Sequence[str], room: int) -> str:
    """Names of a row in so many letters; of two, what one does not need is the other's."""
    least = max((room - len(MINUS) * (len(names) - 1)) // len(names), 6)
    spare = sum(max(least - count_columns(name), 0) for name in names)
    return MINUS.join(cut_middle(name, least + spare) for name in names)


def cut_middle(name: str, length: int) -> str:
    """At most that many letters: networks of one family differ in their last ones."""
    end = length // 2
    return name if len(name) <= length else f"{name[: length - end - 1]}…{name[-end:]}"


def write_data(series: Sequence[Series], x: Axis, y: Axis) -> str:
    """The points of all series as CSV, a line a point."""
    lines: list[Sequence[object]] = [("series", x.label, y.label, "low", "high")]
    for line in series:
        bounds = (np.full(len(line.x), np.nan) if b is None else b for b in (line.low, line.high))
        names = [line.label] * len(line.x)
        lines += zip(names, line.x.tolist(), line.y.tolist(), *bounds, strict=True)
    return write_lines(lines)


def write_lines(lines: Iterable[Sequence[object]]) -> str:
    """As CSV; NaN is empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for line in lines:
        shown = [f"{v:.6g}" if isinstance(v, float) and v == v else v for v in line]
        writer.writerow(escape_formulas(["" if value != value else value for value in shown]))
    return text.getvalue()


def draw_lines(axes: Axes, series: Sequence[Series]) -> None:
    """Lines with their intervals; a ring is around marked points."""
    for line in sorted(series, key=lambda each: each.style is not None):
        every = 1 if line.low is not None else max(1, len(line.x) // 6)
        axes.plot(line.x, line.y, **find_look(line.style), markevery=every, label=line.label)
        draw_intervals(axes, line)
        if line.marked is not None and line.style is not None:
            ring = find_point_look(line.style) | {"marker": "o", "markersize": 11}
            ring |= {"markerfacecolor": "none"}
            axes.plot(line.x[line.marked], line.y[line.marked], **ring)


def draw_bands(axes: Axes, series: Sequence[Series]) -> None:
    """Lines with their intervals as bands, which end where these are open."""
    for line in series:
        if line.low is not None and line.high is not None:
            colour = find_colour(line.style)
            axes.fill_between(line.x, line.low, line.high, color=colour, alpha=0.2, linewidth=0)
    draw_lines(axes, [replace(line, low=None, high=None) for line in series])


def draw_reliability(axes: Axes, series: Sequence[Series]) -> None:
    """Accuracy against confidence, with its intervals; on the diagonal they agree."""
    lowest = min(float(np.min([line.x, line.y])) for line in series)
    draw_dotted(axes, (lowest, 1), (lowest, 1))
    draw_lines(axes, series)


def make_reliability_series(style: int, measured: Reliability, label: str = "") -> Series:
    """A point a bin of equally many images."""
    bins = [(each.confidence, each.accuracy, *each.interval) for each in measured.bins]
    x, y, low, high = np.array(bins, dtype=np.float64).T
    return Series(style, x, y, low, high, label=label)


def make_severity_series(
    style: int | None,
    rows: Iterable[VariantAccuracy],
    kind: str,
    shift: float = 0,
    label: str = "",
) -> Series:
    """Accuracy from the unmodified images, severity 0, to the hardest of that type of images."""
    shown = [row for row in rows if row.type == kind or not row.severity]
    values = [(row.severity + shift, *row[3:6]) for row in shown]
    x, y, low, high = np.array(sorted(values), dtype=np.float64).T
    return Series(style, x, y, low, high, label=label)


@cache
def swatch(style: int | None) -> Markup:
    """A piece of line with its marker, for a key. Has no ids: it may stand on a page repeatedly."""
    with matplotlib.rc_context(PAGE):
        look = find_look(style)
        marker = MarkerStyle(look.pop("marker"))
        size = look.pop("markersize", PAGE["lines.markersize"])
        place = marker.get_transform() + Affine2D().scale(size).translate(15, 6)
        figure = Figure(figsize=(30 / 72, 12 / 72), dpi=72)
        figure.add_artist(Line2D((0, 30), (6, 6), transform=IdentityTransform(), **look))
        shape = place.transform_path(marker.get_path())
        figure.add_artist(PathPatch(shape, transform=IdentityTransform(), color=look["color"]))
        return inline(figure, "swatch", None)


def find_colour(style: int | None) -> Any:
    """The page's, or that of matplotlib in a figure of an evaluation."""
    colours = matplotlib.rcParams["axes.prop_cycle"].by_key()["color"]
    return colours[-1 if style is None else style]


def find_look(style: int | None) -> dict[str, Any]:
    colour: dict[str, Any] = {"color": find_colour(style)}
    if style is None:
        return colour | {"linewidth": 0.9, "marker": "o", "markersize": 3, "zorder": 1.5}
    dashes = {"dashes": DASHES[style]} if DASHES[style] else {}
    return colour | {"marker": MARKERS[style], "zorder": 3} | dashes


def find_point_look(style: int | None) -> dict[str, Any]:
    look = {"markersize": 6.5} | find_look(style) | {"linestyle": "none"}
    return {name: value for name, value in look.items() if name != "dashes"}


def draw_intervals(axes: Axes, series: Series) -> None:
    if series.low is not None and series.high is not None:
        colour = find_colour(series.style)
        axes.vlines(series.x, series.low, series.high, color=colour, linewidth=1.1)


def draw_dotted(axes: Axes, x: Sequence[float], y: Sequence[float]) -> None:
    ink = matplotlib.rcParams["axes.edgecolor"]
    axes.plot(x, y, color=ink, linewidth=0.8, dashes=(1.5, 2), zorder=1)


def label_axes(axes: Axes, x: Axis, y: Axis) -> None:
    axes.set(xlabel=x.label, ylabel=y.label, axisbelow=True)
    axes.grid(linewidth=0.8)
    axes.tick_params(length=0, pad=5)
    if x.kind == "log":
        axes.set_xscale("log")
    for spec, axis in ((x, axes.xaxis), (y, axes.yaxis)):
        if spec.ticks:
            axis.set_ticks(range(len(spec.ticks)), labels=spec.ticks)
        elif spec.kind == "log":
            axis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=8))
            axis.set_minor_locator(NullLocator())
            axis.set_major_formatter(_format_powers(spec.unit))
        else:
            is_count = spec.kind == "count"
            least = 1 if is_count else 2  # of one epoch there is no half
            axis.set_major_locator(MaxNLocator(5, integer=is_count, steps=STEPS, min_n_ticks=least))
        if spec.kind == "percent":
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g}%"))


def _format_powers(unit: str) -> FuncFormatter:
    """5k, 5 MB; below a thousand as it is, for "500 m" of a millisecond says nothing."""
    prefixed = EngFormatter(unit, sep=" " if unit else "")
    return FuncFormatter(lambda x, _: prefixed(x) if unit or x >= 1000 else f"{x:g}")


def inline(figure: Figure, name: str, words: str | None) -> Markup:
    """The figure as one `svg` element, as wide as its place, that a screen reader reads as `words`.

    `name` is unique on the page: ids are derived from it. Without words it is decoration.
    Text stays text, and colours follow the page around it. 1/72 inch is one CSS pixel.
    """
    buffer = io.StringIO()
    with matplotlib.rc_context(PAGE | {"svg.hashsalt": name}), missing_letters_as_boxes():
        figure.savefig(buffer, format="svg", transparent=True)
    svg = buffer.getvalue()
    body = svg[svg.index(">", svg.index("<svg")) + 1 :]
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", body, flags=re.DOTALL)
    body = re.sub(r'<g id="[^"]*"(/?)>', r"<g\1>", body).replace("<g/>", "")
    body = re.sub(r" font-family: [^;\"]*;", "", body)
    body = re.sub(r' transform="rotate\(-0 [^"]*"', "", body)
    body = re.sub(r"<[^>]*>", _shorten_numbers, body).replace("xlink:href", "href")
    body = re.sub("|".join(VARIABLES), lambda match: VARIABLES[match[0]], body)
    width, height = figure.get_size_inches() * 72
    head = Markup('<svg viewBox="0 0 {:.0f} {:.0f}" ').format(width, height)
    role = Markup('role="img" aria-label="{}">').format(words) if words else 'aria-hidden="true">'
    return head + Markup(role) + Markup(re.sub(r"\s*\n\s*", " ", body))


def _shorten_numbers(tag: re.Match[str]) -> str:
    """Of coordinates alone: what is written at a tick stays whole."""
    return re.sub(r"(\.\d\d)\d+", r"\1", tag[0])
