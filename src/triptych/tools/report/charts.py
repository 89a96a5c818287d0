"""The charts of a comparison, as inline SVG.

Nothing that a run is called is drawn: names stand in the page's key, beside the `swatch` of their
style. A style is colour, marker and dashes together, so none has to be told by its colour.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.markers import MarkerStyle
from matplotlib.patches import PathPatch
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, MaxNLocator, NullLocator
from matplotlib.transforms import Affine2D, IdentityTransform
from numpy.typing import NDArray

from triptych.tools.report.svg import INK, OTHER, PAPER, RC, SERIES, inline, new_figure

MARKERS = "os^DvPXp"
DASHES = ((), (5, 2), (1.5, 1.5), (6, 2, 1.5, 2), (9, 2), (3, 1), (6, 2, 1, 2, 1, 2), (2, 3))
NUM_STYLES = len(SERIES)  # more lines than these nobody tells apart
WIDTH, HEIGHT = 340, 236  # CSS pixels

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Series:
    """A line, or a cloud of points; style None is drawn in grey, behind those that have one."""

    style: int | None
    x: Numbers
    y: Numbers
    low: Numbers | None = None  # the ends of the intervals of y
    high: Numbers | None = None
    marked: NDArray[np.bool_] | None = None  # points that stand out


@dataclass(frozen=True)
class Axis:
    """`kind` is "number", "count" (whole), "percent" (of a fraction) or "log" (5k, 5M, 5G)."""

    label: str
    kind: str = "number"
    unit: str = ""  # of a logarithmic axis
    ticks: tuple[str, ...] = ()  # names of the positions 0, 1, 2, ...


def lines(name: str, words: str, series: Sequence[Series], x: Axis, y: Axis) -> Markup:
    """Lines with their intervals; a ring is around marked points. `name`, `words`: see `inline`."""
    with matplotlib.rc_context(RC):
        figure, axes = _empty(x, y)
        for line in _grey_first(series):
            every = max(1, len(line.x) // 6)
            axes.plot(line.x, line.y, **_look(line.style), markevery=every)
            _draw_intervals(axes, line)
            if line.marked is not None and line.style is not None:
                ring = {"marker": "o", "markersize": 11, "markerfacecolor": "none"}
                look = _points(line.style) | ring
                axes.plot(line.x[line.marked], line.y[line.marked], **look)
        return inline(figure, name, words)


def trade_off(name: str, words: str, series: Sequence[Series], x: Axis, y: Axis) -> Markup:
    """Points with their intervals; marked ones are filled and joined, the others hollow."""
    with matplotlib.rc_context(RC):
        figure, axes = _empty(x, y)
        costs = np.concatenate([cloud.x for cloud in series])
        axes.set_xlim(costs.min() / 1.3, costs.max() * 1.3)
        if costs.max() > 50 * costs.min():  # 2 and 5 between powers of ten would overlap
            axes.xaxis.set_major_locator(LogLocator(numticks=8))
        best: list[tuple[float, float]] = []
        for cloud in _grey_first(series):
            _draw_intervals(axes, cloud)
            marked = np.zeros(len(cloud.x), bool) if cloud.marked is None else cloud.marked
            look = _points(cloud.style)
            axes.plot(cloud.x[~marked], cloud.y[~marked], **look | {"markerfacecolor": PAPER})
            axes.plot(cloud.x[marked], cloud.y[marked], **look)
            best += zip(cloud.x[marked], cloud.y[marked], strict=True)
        if best:
            _draw_dotted(axes, *zip(*sorted(best), strict=True))
        return inline(figure, name, words)


def reliability(name: str, words: str, series: Sequence[Series]) -> Markup:
    """Accuracy against confidence, with its intervals; on the diagonal they agree."""
    with matplotlib.rc_context(RC):
        figure, axes = _empty(Axis("confidence", "percent"), Axis("accuracy", "percent"))
        lowest = min(float(np.min([line.x, line.y])) for line in series)
        _draw_dotted(axes, (lowest, 1), (lowest, 1))
        for line in series:
            axes.plot(line.x, line.y, **_look(line.style))
            _draw_intervals(axes, line)
        return inline(figure, name, words)


@cache
def swatch(style: int | None) -> Markup:
    """A piece of line with its marker, for a key. Has no ids: it may stand on a page repeatedly."""
    look = _look(style)
    marker = MarkerStyle(look.pop("marker"))
    size = look.pop("markersize", RC["lines.markersize"])
    place = marker.get_transform() + Affine2D().scale(size).translate(15, 6)
    with matplotlib.rc_context(RC):
        figure = new_figure(30, 12)
        figure.add_artist(Line2D((0, 30), (6, 6), transform=IdentityTransform(), **look))
        shape = place.transform_path(marker.get_path())
        figure.add_artist(PathPatch(shape, transform=IdentityTransform(), color=look["color"]))
        return inline(figure, "swatch", None)


def undominated(cost: Numbers, gain: Numbers) -> NDArray[np.bool_]:
    """(n,) costs and gains -> (n,): nothing else costs no more, gains no less, and differs."""
    no_worse = (cost[None] <= cost[:, None]) & (gain[None] >= gain[:, None])
    better = (cost[None] < cost[:, None]) | (gain[None] > gain[:, None])
    return np.asarray(~(no_worse & better).any(axis=1))


def _look(style: int | None) -> dict[str, Any]:
    if style is None:
        return {"color": OTHER, "linewidth": 0.9, "marker": "o", "markersize": 3, "zorder": 1.5}
    dashes = {"dashes": DASHES[style]} if DASHES[style] else {}
    return {"color": SERIES[style], "marker": MARKERS[style], "zorder": 3} | dashes


def _points(style: int | None) -> dict[str, Any]:
    look = {"markersize": 6.5} | _look(style) | {"linestyle": "none"}
    return {name: value for name, value in look.items() if name != "dashes"}


def _grey_first(series: Sequence[Series]) -> list[Series]:
    return sorted(series, key=lambda each: each.style is not None)


def _draw_intervals(axes: Axes, series: Series) -> None:
    if series.low is not None and series.high is not None:
        colour = _look(series.style)["color"]
        axes.vlines(series.x, series.low, series.high, color=colour, linewidth=1.1)


def _draw_dotted(axes: Axes, x: Sequence[float], y: Sequence[float]) -> None:
    axes.plot(x, y, color=INK, linewidth=0.8, dashes=(1.5, 2), zorder=1)


def _empty(x: Axis, y: Axis) -> tuple[Figure, Axes]:
    """Axes amid margins that hold their labels."""
    figure = new_figure(WIDTH, HEIGHT)
    left, bottom, rest = 58 / WIDTH, 42 / HEIGHT, 10
    axes = figure.add_axes((left, bottom, 1 - left - rest / WIDTH, 1 - bottom - rest / HEIGHT))
    axes.set(xlabel=x.label, ylabel=y.label)
    axes.tick_params(length=0, pad=5)
    if x.kind == "log":
        axes.set_xscale("log")
    for asked, axis in ((x, axes.xaxis), (y, axes.yaxis)):
        if asked.ticks:
            axis.set_ticks(range(len(asked.ticks)), labels=asked.ticks)
        elif asked.kind == "log":
            axis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=8))
            axis.set_minor_locator(NullLocator())
            axis.set_major_formatter(_in_powers(asked.unit))
        else:
            whole = asked.kind == "count"
            axis.set_major_locator(MaxNLocator(5, integer=whole, steps=[1, 2, 2.5, 5, 10]))
        if asked.kind == "percent":
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g}%"))
    return figure, axes


def _in_powers(unit: str) -> FuncFormatter:
    """5k, 5 MB; below a thousand as it is, for "500 m" of a millisecond says nothing."""
    prefixed = EngFormatter(unit, sep=" " if unit else "")
    return FuncFormatter(lambda x, _: prefixed(x) if unit or x >= 1000 else f"{x:g}")
