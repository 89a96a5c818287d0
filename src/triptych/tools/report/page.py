"""A comparison as a page with charts and as text: `index.html` and `comparison.md`.

The page is one HTML file that opens from disk and loads nothing. Every string is escaped by the
templates, and a content security policy admits the page's own script alone, so that nothing a run
folder says is ever executed.
"""

import base64
import hashlib
import html
import json
import math
import re
from collections.abc import Iterable, Mapping
from functools import cache
from types import MappingProxyType
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from rich.filesize import decimal

from triptych.callbacks.figures import MAX_WRITTEN_CLASSES
from triptych.runs.reader import sanitize
from triptych.tools.compare import formats
from triptych.tools.compare.content import COSTS, BaseComparison, Comparison
from triptych.tools.report import charts
from triptych.tools.report.answer import draw_answer
from triptych.tools.report.charts import Key
from triptych.tools.report.classes import (
    draw_classes,
    draw_difference,
    draw_matrix,
    list_empty,
    subtract_best,
)
from triptych.tools.report.costs import draw_costs, list_measured, write_cost
from triptych.tools.report.curves import (
    draw_calibration,
    draw_curves,
    draw_image_types,
    draw_risks,
)
from triptych.tools.report.deployments import draw_deployments
from triptych.tools.report.images import encode_picture, encode_pictures
from triptych.tools.report.shares import draw_shares
from triptych.tools.statistics.inference import (
    MIN_SEEDS,
    NUM_RESAMPLES,
    Interval,
    WithInterval,
    wilson,
)
from triptych.tools.statistics.scores import LAST_CORRECT, TABLE_1, WHY_THEY_DIFFER, last_batch

CONTENTS = {  # sections of their own come before the images
    "pairs": "Each pair, tested",
    "cost": "Accuracy against cost",
    "learning": "Learning curves",
    "classes": "Which classes are confused",
    "calibration": "Can the confidence be believed?",
    "image_types": "Harder images",
    "images": "Image by image",
    "runs": "Every network in numbers",
    "study": "The reference study",
    "method": "Method and limits",
    "reproduce": "Repeat and check this page",
}
OF_RUNS = ("learning", "cost", "image_types")
OF_LABELS = {  # of runs with any number of labels an image
    "labels_pairs": CONTENTS["pairs"],
    "labels_runs": CONTENTS["runs"],
    "labels_method": CONTENTS["method"],
    "reproduce": CONTENTS["reproduce"],
}
# Each in a block of its own.
SCRIPTS = ("page.js", "export.js", "check.js", "classes.js", "images.js")


def render_page(comparison: BaseComparison, data: Mapping[str, str] = MappingProxyType({})) -> str:
    """`index.html`; the same comparison gives the same bytes.

    `data` are documents of JSON that the page carries, by their ids: its script checks them.
    """
    key = Key(comparison.recipes)
    content = {"c": comparison, "key": key, "answer": draw_answer(comparison, key)}
    content["data"] = {name: embed(text) for name, text in data.items()}
    if not isinstance(comparison, Comparison):
        return render_frame(OF_LABELS, **content)
    measured = list_measured(comparison.networks)
    return render_frame(
        list_contents(comparison),
        **content,
        curves=draw_curves(comparison.recipes, comparison.curves, key),
        classes={
            "difference": subtract_best(comparison.recipes),
            "charts": draw_classes(comparison.recipes, key),
            "max_written": MAX_WRITTEN_CLASSES,
        },
        pictures=encode_pictures(comparison.images.pictures if comparison.images else ()),
        costs=draw_costs(comparison.recipes, key),
        measured=measured,
        unmeasured=[each.words for each in COSTS if each not in measured],
        calibration=draw_calibration(key),
        image_types=draw_image_types(comparison.image_types, key),
        draw_shares=draw_shares,
        draw_risks=draw_risks,
        draw_deployments=draw_deployments,
    )


def list_contents(comparison: Comparison) -> dict[str, str]:
    """The sections of a page in order; what cannot be known of any network is left out."""
    left_out = [] if comparison.runs else [*OF_RUNS]
    left_out += [] if comparison.has_study else ["study"]
    left_out += [] if len(comparison.recipes) > 1 else ["pairs"]
    left_out += [] if comparison.has_probabilities else ["calibration"]
    shared = {name: heading for name, heading in CONTENTS.items() if name not in left_out}
    own = {name: section.heading for name, section in comparison.sections.items()}
    place = [*shared].index("images")
    return dict([*shared.items()][:place]) | own | shared


def render_frame(contents: dict[str, str], **content: Any) -> str:
    """A page of these sections."""
    environment = make_environment("report")
    script = "\n".join(environment.get_template(name).render() for name in SCRIPTS)
    digest = hashlib.sha256(script.encode()).digest()
    return environment.get_template("page.html.jinja").render(
        **content,
        contents=contents.items(),
        script=Markup(script),
        # What the browser may do: show the page's own styles and pictures, run this one script.
        policy="default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{base64.b64encode(digest).decode()}'; "
        "base-uri 'none'; form-action 'none'",
    )


def embed(text: str) -> Markup:
    """JSON as a script element may hold it: nothing in it ends the element."""
    return Markup(json.dumps(json.loads(text), separators=(",", ":")).replace("<", "\\u003c"))


def render_markdown(comparison: BaseComparison) -> str:
    """`comparison.md`: what one pastes into an issue or a paper's notes."""
    environment = make_environment("report", finalize=_escape_value)
    kind = "comparison" if isinstance(comparison, Comparison) else "labels"
    template = environment.get_template(f"{kind}.md.jinja")
    return template.render(c=comparison)


def escape_markdown(words: str) -> str:
    """Words as they are, whatever they are: neither HTML nor Markdown. `p < 0.01` and `+8.75` need
    no escape."""
    signs = r"[\\`*\[\]|~$]|(?<![^\W_])_|_(?![^\W_])|(?<=\w):(?=//)|^#|^[+-](?!\d)"
    signs = rf"{signs}|(?<=\d)[.)](?=\s|$)"
    escaped = re.sub(signs, r"\\\g<0>", html.escape(words, quote=False))
    return re.sub(r"&lt;(?= )|(?<= )&gt;(?= )", lambda sign: html.unescape(sign[0]), escaped)


def _escape_value(value: object) -> Markup:
    return value if isinstance(value, Markup) else Markup(escape_markdown(str(value)))


@cache
def make_environment(*tools: str, autoescape: bool = True, **options: Any) -> Environment:
    """The templates of these tools, the first one's first, with the filters of the page."""
    environment = Environment(
        loader=ChoiceLoader(
            [PackageLoader(f"triptych.tools.{each}", "template") for each in tools]
        ),
        autoescape=autoescape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        **options,
    )
    environment.filters |= {function.__name__: function for function in FILTERS}
    environment.filters["interval"] = format_interval
    environment.globals |= {"swatch": charts.swatch, "wilson": wilson, "min_seeds": MIN_SEEDS}
    environment.globals |= {"num_resamples": NUM_RESAMPLES}
    environment.filters["extract"] = lambda name, table: table[name]
    study = {"why_they_differ": WHY_THEY_DIFFER, "table_1": TABLE_1, "last_correct": LAST_CORRECT}
    environment.globals |= study
    return environment


def format_interval(
    estimate: WithInterval | Interval, digits: int = 2, signed: bool = False
) -> str:
    write = formats.points if signed else formats.percent
    return formats.interval(estimate.low, estimate.high, write, digits)


def size(num_bytes: int | None) -> str:
    """22.5 MB."""
    return formats.DASH if num_bytes is None else decimal(num_bytes)


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


FILTERS = (
    *(formats.percent, formats.rate, formats.points, formats.thousands, formats.fixed),
    *(formats.p_value, formats.chance, formats.join_words, formats.pluralize, formats.spaced),
    *(last_batch, write_cost, size, share, find_scale, locate),
    *(encode_picture, draw_matrix, draw_difference, list_empty),
    *(formats.data_uri, sanitize, Markup),
)
