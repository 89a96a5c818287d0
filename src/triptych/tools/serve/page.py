"""The page: HTML with every string escaped, the comparison's style sheet and its own."""

from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from importlib.resources import files

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from triptych.config import Config
from triptych.errors import sanitize_text
from triptych.tools.compare.formats import join_words, percent, pluralize
from triptych.tools.compare.runs import Problem
from triptych.tools.serve.examples import Example
from triptych.tools.serve.inference import FORMATS
from triptych.tools.serve.networks import NetworkGroup

MAX_NAMES = 4  # networks in a title


def read_asset(tool: str, name: str) -> bytes:
    return files(f"triptych.tools.{tool}").joinpath("template", name).read_bytes()


# By the name in the page's links.
ASSETS = {
    "report.css": (read_asset("report", "page.css"), "text/css"),
    "page.css": (read_asset("serve", "page.css"), "text/css"),
    "page.js": (read_asset("serve", "page.js"), "text/javascript"),
}


def render_page(
    groups: Sequence[NetworkGroup],
    place: int,
    examples: Sequence[Example],
    problems: Sequence[Problem],
    config: Config,
) -> str:
    """The page of the group at `place`, with links to the pages of the others."""
    group = groups[place]
    names = [network.name for network in group.networks]
    title = join_words(names) if len(names) <= MAX_NAMES else f"{len(names)} networks"
    return make_environment().get_template("page.html").render(
        title=title,
        groups=groups,
        place=place,
        group=group,
        examples=examples,
        problems=problems,
        config=config,
        formats=join_words([kind.replace("WEBP", "WebP") for kind in FORMATS]),
        version=version("triptych"),
    )  # fmt: skip


@cache
def make_environment() -> Environment:
    tools = ("serve", "report")
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(f"triptych.tools.{t}", "template") for t in tools]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters = (percent, join_words, pluralize, sanitize_text)
    environment.filters |= {each.__name__: each for each in filters}
    return environment
