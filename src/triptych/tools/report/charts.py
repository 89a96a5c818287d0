"""Charts of a page, as inline SVG, and figures of an evaluation, drawn by the same functions.

On the page nothing that a run is called is drawn: names stand in the page's key, beside the
`swatch` of their style. A style is colour, marker and dashes together, so nobody needs the colour.

Shapes: K images of H x W pixels, white seams included in H' and W'.
"""

import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

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

from triptych.callbacks.figures import missing_letters_as_boxes, truncate
from triptych.tools.compare.formats import percent, spaced
from triptych.tools.evaluate.degradation import UNMODIFIED, VariantAccuracy
from triptych.tools.statistics.calibration import Calibration, Reliability

if TYPE_CHECKING:  # it imports torch, which no picture needs
    from triptych.tools.evaluate.grad_cam import Explanation

MARKERS = "os^DvPXp"
DASHES = ((), (5, 2), (1.5, 1.5), (6, 2, 1.5, 2), (9, 2), (3, 1), (6, 2, 1, 2, 1, 2), (2, 3))
NUM_STYLES = len(MARKERS)  # of more lines nobody can follow one
WIDTH, HEIGHT = 340, 236  # CSS pixels

# Of an evaluation's figures.
MAX_COLUMNS = 8
LEVELS = ("unmodified", "severity 1", "severity 2", "severity 3")
PANELS_A_ROW = 5
MAX_SIDE = 64  # pixels of an image among many: a larger one would be shrunk as it is drawn
GAP = 1 / 16  # between images, of their width; four times that between columns
TITLE_LETTERS = 20  # that fit above an image
LABELS, HEADS, IMAGES = 1.8, 0.4, 12.0  # inches: left of the images, above them, theirs
ROWS = ("image", "heat for\nthe prediction", "heat for\nthe true class")

Numbers = NDArray[np.float64]

# Colours of the page are drawn as placeholders, which become its CSS variables.
INK, PAPER, RULE, OTHER = "#000001", "#000002", "#000003", "#000004"
SERIES = [f"#0001{number:02}" for number in range(NUM_STYLES)]
VARIABLES = {INK: "currentColor", PAPER: "var(--paper)", RULE: "var(--rule)", OTHER: "var(--other)"}
VARIABLES |= {colour: f"var(--series-{number})" for number, colour in enumerate(SERIES)}
PAGE: dict[Any, Any] = {
    **dict.fromkeys(("axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
    "axes.prop_cycle": cycler(color=[*SERIES, OTHER]),  # the last is for lines without a style
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.facecolor": PAPER,
    "font.size": 11,
    "grid.color": RULE,
    "lines.linewidth": 1.6,
    "lines.markersize": 5.5,
    "svg.fonttype": "none",
    "text.parse_math": False,
}


@dataclass(frozen=True)
class Series:
    """A line, or a cloud of points; style None is drawn in grey, behind those that have one."""

    style: int | None
    x: Numbers
    y: Numbers
    low: Numbers | None = None  # the ends of the intervals of y
    high: Numbers | None = None
    marked: NDArray[np.bool_] | None = None  # points that stand out
    label: str = ""  # in a legend


@dataclass(frozen=True)
class Axis:
    """`kind` is "number", "count" (whole), "percent" (of a fraction) or "log" (5k, 5M, 5G)."""

    label: str
    kind: str = "number"
    unit: str = ""  # of a logarithmic axis
    ticks: tuple[str, ...] = ()  # names of the positions 0, 1, 2, ...


Draw = Callable[[Axes, Sequence[Series]], None]


def render_chart(
    name: str, words: str, draw: Draw, series: Sequence[Series], x: Axis, y: Axis
) -> Markup:
    """A chart of the page; `name` and `words` as `inline` has them."""
    with matplotlib.rc_context(PAGE):
        figure = Figure(figsize=(WIDTH / 72, HEIGHT / 72), dpi=72)
        left, bottom, rest = 58 / WIDTH, 42 / HEIGHT, 10  # margins that hold the labels
        axes = figure.add_axes((left, bottom, 1 - left - rest / WIDTH, 1 - bottom - rest / HEIGHT))
        label_axes(axes, x, y)
        draw(axes, series)
        return inline(figure, name, words)


def draw_lines(axes: Axes, series: Sequence[Series]) -> None:
    """Lines with their intervals; a ring is around marked points."""
    for line in sorted(series, key=lambda each: each.style is not None):
        every = 1 if line.low is not None else max(1, len(line.x) // 6)
        axes.plot(line.x, line.y, **_look(line.style), markevery=every, label=line.label)
        _draw_intervals(axes, line)
        if line.marked is not None and line.style is not None:
            ring = {"marker": "o", "markersize": 11, "markerfacecolor": "none"}
            axes.plot(line.x[line.marked], line.y[line.marked], **_points(line.style) | ring)


def draw_bands(axes: Axes, series: Sequence[Series]) -> None:
    """Lines with their intervals as bands, which end where these are open."""
    for line in series:
        if line.low is not None and line.high is not None:
            colour = _look(line.style)["color"]
            axes.fill_between(line.x, line.low, line.high, color=colour, alpha=0.2, linewidth=0)
    draw_lines(axes, [replace(line, low=None, high=None) for line in series])


def draw_trade_off(axes: Axes, series: Sequence[Series]) -> None:
    """Points with their intervals; marked ones are filled and joined, the others hollow."""
    costs = np.concatenate([cloud.x for cloud in series])
    axes.set_xlim(costs.min() / 1.3, costs.max() * 1.3)
    if costs.max() > 50 * costs.min():  # 2 and 5 between powers of ten would overlap
        axes.xaxis.set_major_locator(LogLocator(numticks=8))
    hollow = {"markerfacecolor": matplotlib.rcParams["figure.facecolor"]}
    best: list[tuple[float, float]] = []
    for cloud in sorted(series, key=lambda each: each.style is not None):
        _draw_intervals(axes, cloud)
        marked = np.zeros(len(cloud.x), bool) if cloud.marked is None else cloud.marked
        look = _points(cloud.style)
        axes.plot(cloud.x[~marked], cloud.y[~marked], **look | hollow)
        axes.plot(cloud.x[marked], cloud.y[marked], **look)
        best += zip(cloud.x[marked], cloud.y[marked], strict=True)
    if best:
        _draw_dotted(axes, *zip(*sorted(best), strict=True))


def draw_reliability(axes: Axes, series: Sequence[Series]) -> None:
    """Accuracy against confidence, with its intervals; on the diagonal they agree."""
    lowest = min(float(np.min([line.x, line.y])) for line in series)
    _draw_dotted(axes, (lowest, 1), (lowest, 1))
    draw_lines(axes, series)


def make_reliability_series(style: int, measured: Reliability, label: str = "") -> Series:
    """A point a bin of equally many images."""
    bins = [(each.confidence, each.accuracy, *each.interval) for each in measured.bins]
    x, y, low, high = np.array(bins, dtype=np.float64).T
    return Series(style, x, y, low, high, label=label)


def make_severity_series(
    style: int | None, rows: Iterable[VariantAccuracy], kind: str, shift: float = 0
) -> Series:
    """Accuracy from the unmodified images, severity 0, to the hardest of that type of images."""
    shown = [row for row in rows if row.type == kind or not row.severity]
    values = [(row.severity + shift, *row[3:6]) for row in shown]
    return Series(style, *np.array(sorted(values), dtype=np.float64).T)


@cache
def swatch(style: int | None) -> Markup:
    """A piece of line with its marker, for a key. Has no ids: it may stand on a page repeatedly."""
    with matplotlib.rc_context(PAGE):
        look = _look(style)
        marker = MarkerStyle(look.pop("marker"))
        size = look.pop("markersize", PAGE["lines.markersize"])
        place = marker.get_transform() + Affine2D().scale(size).translate(15, 6)
        figure = Figure(figsize=(30 / 72, 12 / 72), dpi=72)
        figure.add_artist(Line2D((0, 30), (6, 6), transform=IdentityTransform(), **look))
        shape = place.transform_path(marker.get_path())
        figure.add_artist(PathPatch(shape, transform=IdentityTransform(), color=look["color"]))
        return inline(figure, "swatch", None)


def find_undominated(cost: Numbers, gain: Numbers) -> NDArray[np.bool_]:
    """(n,) costs and gains -> (n,): nothing else costs no more, gains no less, and differs."""
    no_worse = (cost[None] <= cost[:, None]) & (gain[None] >= gain[:, None])
    better = (cost[None] < cost[:, None]) | (gain[None] > gain[:, None])
    return np.asarray(~(no_worse & better).any(axis=1))


def _look(style: int | None) -> dict[str, Any]:
    colours = matplotlib.rcParams["axes.prop_cycle"].by_key()["color"]
    if style is None:
        look = {"linewidth": 0.9, "marker": "o", "markersize": 3, "zorder": 1.5}
        return look | {"color": colours[-1]}
    dashes = {"dashes": DASHES[style]} if DASHES[style] else {}
    return {"color": colours[style], "marker": MARKERS[style], "zorder": 3} | dashes


def _points(style: int | None) -> dict[str, Any]:
    look = {"markersize": 6.5} | _look(style) | {"linestyle": "none"}
    return {name: value for name, value in look.items() if name != "dashes"}


def _draw_intervals(axes: Axes, series: Series) -> None:
    if series.low is not None and series.high is not None:
        colour = _look(series.style)["color"]
        axes.vlines(series.x, series.low, series.high, color=colour, linewidth=1.1)


def _draw_dotted(axes: Axes, x: Sequence[float], y: Sequence[float]) -> None:
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
            steps, is_count = [1, 2, 2.5, 5, 10], spec.kind == "count"
            least = 1 if is_count else 2  # of one epoch there is no half
            locator = MaxNLocator(5, integer=is_count, steps=steps, min_n_ticks=least)
            axis.set_major_locator(locator)
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


def reliability_diagram(calibration: Calibration, heading: str) -> Figure:
    """Accuracy against confidence: a point a bin of equally many images, with its interval."""
    before, temperature, after = calibration
    curves = [(before, "as trained")]
    if after and temperature:
        curves.append((after, f"temperature {temperature:.2f}"))
    series = []
    for style, (measured, name) in enumerate(curves):
        error, expected = percent(measured.error, 1), percent(measured.expected, 1)
        label = f"{name}: error {error} % ({expected} % if calibrated)"
        series.append(make_reliability_series(style, measured, label))
    figure = Figure(figsize=(6.4, 5.6), dpi=100)
    axes = figure.add_axes((0.13, 0.1, 0.84, 0.82))
    x = Axis("confidence: mean probability of the predicted class", "percent")
    label_axes(axes, x, Axis("accuracy, with 95 % interval", "percent"))
    draw_reliability(axes, series)
    axes.set_title(heading, y=1)
    axes.legend(loc="upper left", fontsize=9)
    return figure


def severity_curves(rows: Sequence[VariantAccuracy], heading: str) -> Figure:
    """Accuracy by severity, a panel a type, with 95 % intervals; 0 is the unmodified images."""
    types = list(dict.fromkeys(row.type for row in rows if row.type != UNMODIFIED))
    lines = -(-len(types) // PANELS_A_ROW)
    height = 2.4 * lines + 0.6
    figure = Figure(figsize=(12, height), dpi=100)
    figure.suptitle(f"{heading}: accuracy by severity, {rows[0].num_images} images")
    figure.subplots_adjust(0.06, 0.6 / height, 0.99, 1 - 0.7 / height, wspace=0.08, hspace=0.25)
    grid = figure.subplots(lines, PANELS_A_ROW, sharex=True, sharey=True, squeeze=False)
    for axes, name in zip(grid.flat, types, strict=False):
        label_axes(axes, Axis("", ticks=("none", "1", "2", "3")), Axis("", "percent"))
        draw_lines(axes, [make_severity_series(0, rows, name)])
        axes.set_title(spaced(name), fontsize=10)
        axes.set_ylim(0, 1)
    for axes in grid.flat[len(types) :]:
        axes.set_axis_off()
    figure.supxlabel("severity", fontsize=10)
    figure.supylabel("accuracy", x=0.005, fontsize=10)
    return figure


def heat_maps(explained: Sequence["Explanation"], heading: str) -> Figure:
    """A column an image: the image, then the heat over it for the predicted and the true class."""
    columns = min(len(explained), MAX_COLUMNS)
    bands = -(-len(explained) // columns)
    width, height = max(1.4 * columns + 0.9, 4.2), 5.1 * bands + 0.6
    figure = Figure(figsize=(width, height), dpi=100)
    figure.suptitle(heading, y=1 - 0.1 / height, va="top")
    # By hand: matplotlib's layouts, which measure, take as long as the drawing.
    figure.subplots_adjust(
        0.8 / width, 0.25 / height, 1 - 0.1 / width, 1 - 0.65 / height, wspace=0.06, hspace=0.25
    )
    grid = figure.subplots(3 * bands, columns, squeeze=False)
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[], frame_on=False)
    for place, each in enumerate(explained):
        band, column = divmod(place, columns)
        _draw_column(grid[3 * band : 3 * band + 3, column], each)
    for row, axes in enumerate(grid[:, 0]):
        axes.set_ylabel(ROWS[row % 3], fontsize=9)
    return figure


def _draw_column(column: NDArray[np.object_], each: "Explanation") -> None:
    picture = each.image.transpose(1, 2, 0)
    titles = [shorten_path(each.name, TITLE_LETTERS)]
    for name, probability in zip(each.names, each.probabilities, strict=True):
        titles.append(f"{truncate(name, 16)} {probability:.1%}")
    extent = (0, picture.shape[1], picture.shape[0], 0)
    for axes, title, heat in zip(column, titles, (None, *each.heats), strict=True):
        axes.imshow(picture, extent=extent, interpolation="nearest")
        axes.set_title(title, fontsize=8 if heat is None else 9, y=1)
        if heat is None:
            continue
        if heat.max() > 0:
            axes.imshow(heat / heat.max(), cmap="inferno", alpha=0.6, extent=extent, vmin=0)
        else:
            axes.set_xlabel("no heat", fontsize=8)


def shorten_path(path: str, length: int) -> str:
    """At most that many letters, the first of a longer path an ellipsis: its end tells most."""
    return path if len(path) <= length else "…" + path[1 - length :]


def type_sheet(variants: Mapping[str, NDArray[np.uint8]]) -> Figure:
    """A row for each type of images (4, K, 3, H, W): as they are, then at each severity."""
    parts = []
    for images in variants.values():  # beside each other, white between and below them
        step = max(1, images.shape[-1] // MAX_SIDE)
        images = images[..., ::step, ::step]
        gap = max(1, round(GAP * images.shape[-1]))
        padded = np.pad(images, [(0, 0)] * 3 + [(0, gap)] * 2, constant_values=255)
        strips = np.concatenate(list(padded.transpose(1, 0, 3, 4, 2)), axis=2)  # (4, H', K W', 3)
        apart = np.pad(strips, [(0, 0), (0, 0), (0, 3 * gap), (0, 0)], constant_values=255)
        parts.append(np.concatenate(list(apart), axis=1))
    sheet = np.concatenate(parts)
    row, column = sheet.shape[0] / len(variants), sheet.shape[1] / len(LEVELS)
    width, height = LABELS + IMAGES, HEADS + IMAGES * sheet.shape[0] / sheet.shape[1]
    figure = Figure(figsize=(width, height), dpi=100)
    axes = figure.add_axes((LABELS / width, 0, IMAGES / width, 1 - HEADS / height))
    axes.imshow(sheet, interpolation="nearest", aspect="auto")
    axes.set_frame_on(False)
    axes.set_yticks([(n + 0.5) * row for n in range(len(variants))], map(spaced, variants))
    axes.set_xticks([(n + 0.5) * column for n in range(len(LEVELS))], LEVELS)
    axes.tick_params(length=0, labeltop=True, labelbottom=False)
    return figure
