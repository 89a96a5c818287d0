"""A comparison as a page and as text: `index.html` and `comparison.md`.

The page is one HTML file that opens from disk and loads nothing. Every string is escaped by the
templates, and a content security policy admits the page's own script alone, so that nothing a run
folder says is ever executed.
"""

import base64
import hashlib
import html
import io
import math
import re
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.image import imsave
from matplotlib.ticker import EngFormatter
from numpy.typing import NDArray

from triptych.runs.reader import sanitize
from triptych.tools.compare import formats
from triptych.tools.compare.content import Comparison
from triptych.tools.compare.runs import WithInterval
from triptych.tools.evaluate.degradation import Degradation
from triptych.tools.evaluate.paper import LAST_CORRECT, TABLE_1, WHY_THEY_DIFFER, last_batch
from triptych.tools.report import panels
from triptych.tools.report.charts import swatch
from triptych.tools.statistics.inference import MIN_SEEDS, Interval, wilson

CONTENTS = {
    "verdict": "Verdict",
    "runs": "The runs",
    "pairs": "Pair by pair",
    "learning": "Learning curves",
    "classes": "Class by class",
    "cost": "Accuracy and cost",
    "calibration": "Calibration",
    "image_types": "Image types",
    "images": "Image by image",
    "study": "The reference study",
    "reproduce": "How to reproduce this",
}
MAX_SIDE = 96  # of a picture in the gallery, in pixels


def render_page(comparison: Comparison) -> str:
    """`index.html`; the same comparison gives the same bytes."""
    key = panels.Key(comparison)
    environment = _make_environment()
    script = environment.get_template("page.js").render()
    return environment.get_template("page.html.jinja").render(
        c=comparison,
        contents=CONTENTS.items(),
        script=Markup(script),
        policy=_write_policy(script),
        key=key,
        curves=panels.draw_curves(comparison.curves, key),
        costs=panels.draw_costs(comparison.networks, key),
        unmeasured=panels.list_unmeasured(comparison.networks),
        calibration=panels.draw_calibration(key),
        image_types=panels.draw_image_types(comparison.image_types, key),
    )


def render_markdown(comparison: Comparison) -> str:
    """`comparison.md`: what one pastes into an issue or a paper's notes."""
    environment = _make_environment(_escape_value)
    return environment.get_template("comparison.md.jinja").render(c=comparison)


def escape_markdown(words: str) -> str:
    """Words as they are, whatever they are: neither HTML nor Markdown."""
    return re.sub(r"([\\`*\[\]|])", r"\\\1", html.escape(words, quote=False))


def _escape_value(value: object) -> Markup:
    return value if isinstance(value, Markup) else Markup(escape_markdown(str(value)))


@cache
def _make_environment(finalize: Callable[[object], Markup] | None = None) -> Environment:
    environment = Environment(
        loader=PackageLoader("triptych.tools.report", "template"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {function.__name__: function for function in FILTERS}
    environment.filters["interval"] = format_interval
    environment.globals |= {"swatch": swatch, "wilson": wilson, "min_seeds": MIN_SEEDS}
    environment.globals |= {"why_they_differ": WHY_THEY_DIFFER}
    environment.globals |= {"table_1": TABLE_1, "last_correct": LAST_CORRECT}
    return environment


def _write_policy(script: str) -> str:
    """What the browser may do: styles and pictures of the page itself, and this one script."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )


# Filters of the templates.


def format_interval(
    estimate: WithInterval | Degradation | Interval, digits: int = 2, signed: bool = False
) -> str:
    write = formats.points if signed else formats.percent
    return formats.interval(estimate.low, estimate.high, write, digits)


def short(value: float | None, unit: str = "") -> str:
    """5.61 M, 22.54 MB."""
    return formats.DASH if value is None else EngFormatter(unit, places=2)(value)


def share(part: float, total: float) -> str:
    """The square root of a share, as CSS takes it."""
    return f"{100 * math.sqrt(part / total):.0f}%" if total else "0%"


def find_scale(values: Iterable[Iterable[float]], zero: bool = False) -> Interval:
    """The lowest and the highest of all values; with `zero`, 0 is in the middle."""
    known = [value for each in values for value in each if not math.isnan(value)]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    most = max(abs(low), abs(high))
    return Interval(-most, most) if zero else Interval(low, high)


def locate(value: float, scale: Interval) -> str:
    """Where a value lies between the ends of a scale, as CSS takes it."""
    if math.isnan(value):
        return "0%"
    low, high = scale
    return f"{100 * (value - low) / (high - low) if high > low else 50:.1f}%"


def png(pixels: NDArray[np.uint8]) -> str:
    """An image (3, H, W); of a large one, every so many pixels, for a page holds dozens."""
    step = math.ceil(max(pixels.shape[1:]) / MAX_SIDE)
    return _encode(np.ascontiguousarray(pixels[:, ::step, ::step].transpose(1, 2, 0)))


def heat_png(counts: NDArray[np.int64]) -> str:
    """A matrix (C, C), a pixel a cell: the square root of its share of the row."""
    totals = np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return _encode(np.sqrt(counts / totals), cmap="Blues", vmin=0, vmax=1)


def _encode(values: NDArray[Any], **colours: Any) -> str:
    buffer = io.BytesIO()
    imsave(buffer, values, format="png", **colours)
    return formats.data_uri(buffer.getvalue())


FILTERS = (
    *(formats.percent, formats.points, formats.thousands, formats.fixed, formats.p_value),
    *(formats.join_words, formats.pluralize, formats.spaced, last_batch),
    *(short, share, find_scale, locate),
    *(formats.data_uri, png, heat_png, sanitize, Markup),
)
