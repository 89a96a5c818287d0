"""The page of a comparison: one HTML file that opens from disk and loads nothing.

Every string is escaped by the templates, and a content security policy admits the page's own
script alone, so that nothing a run folder says is ever executed.
"""

import base64
import hashlib
from functools import cache
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from triptych.tools.compare.content import Comparison
from triptych.tools.compare.sentences import p_value, some
from triptych.tools.evaluate.paper import TABLE_1, last_batch
from triptych.tools.report import formats, panels
from triptych.tools.report.charts import swatch

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
FILTERS = (
    *(formats.percent, formats.points, formats.interval, formats.count, formats.fixed),
    *(formats.short, p_value, formats.share, formats.between, formats.accuracy_of),
    *(formats.at_best_epoch, formats.overall, some, formats.data_uri, formats.png),
    *(formats.heat_png, formats.standardised, formats.types_lost, formats.spaced),
    *(formats.place, last_batch),
)


def page(comparison: Comparison) -> str:
    """`index.html`; the same comparison gives the same bytes."""
    key = panels.Key(comparison)
    return (
        _environment()
        .get_template("page.html.jinja")
        .render(
            c=comparison,
            contents=CONTENTS.items(),
            css=_asset("page.css"),
            script=_asset("page.js"),
            policy=_policy(_asset("page.js")),
            key=key,
            curves=panels.learning_curves(comparison.curves, key),
            costs=panels.costs(comparison.rows, key),
            unmeasured=panels.unmeasured(comparison.rows),
            calibration=panels.calibration(comparison.recipes, key),
            image_types=panels.image_types(comparison.image_types, key),
            table_1=TABLE_1,
            folders={row.label: row.folder for row in comparison.rows},
        )
    )


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("triptych.report", "template"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {function.__name__: function for function in FILTERS}
    environment.globals |= {"bars": formats.Bars, "swatch": swatch}
    return environment


def _asset(name: str) -> Markup:
    return Markup(files("triptych.report").joinpath("template", name).read_text(encoding="utf-8"))


def _policy(script: str) -> str:
    """What the browser may do: styles and pictures of the page itself, and this one script."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )
