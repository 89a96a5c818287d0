"""The page: HTML whose every string is escaped, styled by the comparison's sheet and its own."""

from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from importlib.resources import files

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from triptych.config import Config
from triptych.errors import sanitize_text
from triptych.tools.compare.content import Problem
from triptych.tools.report.formats import join_words, percent, pluralize
from triptych.tools.serve.answers import FORMATS
from triptych.tools.serve.examples import Example
from triptych.tools.serve.networks import Group

MAX_NAMED = 4  # networks in a heading


def _asset(package: str, name: str) -> bytes:
    return files(f"triptych.{package}").joinpath("template", name).read_bytes()


# By the name that the page asks for.
ASSETS = {
    "look.css": (_asset("report", "page.css"), "text/css"),
    "page.css": (_asset("serving", "page.css"), "text/css"),
    "page.js": (_asset("serving", "page.js"), "text/javascript"),
}


def page(
    groups: Sequence[Group],
    place: int,
    examples: tuple[Sequence[Example], bool],
    problems: Sequence[Problem],
    config: Config,
) -> str:
    """The page of the group at a place, which leads to those of the others."""
    return (
        _environment()
        .get_template("page.html")
        .render(
            title=title(groups[place]),
            groups=groups,
            place=place,
            group=groups[place],
            examples=examples[0],
            are_mistakes=examples[1],
            problems=problems,
            config=config,
            formats=join_words([kind.replace("WEBP", "WebP") for kind in FORMATS]),
            which=which(groups[place], config),
            device=groups[place].device,
            version=version("triptych"),
        )
    )


def title(group: Group) -> str:
    names = [network.name for network in group.networks]
    return join_words(names) if len(names) <= MAX_NAMED else f"{len(names)} networks"


def which(group: Group, config: Config) -> str:
    """How the runs at work were chosen, in a sentence or two."""
    runs = pluralize(group.num_runs, "finished run")
    if group.num_runs == len(group.networks):
        return f"All of {runs} with these classes."
    of_each = "those" if config["which"] == "all" else "of each model the one"
    most = config["num_networks"]
    at_most = f", {most} at most (num_networks)" if len(group.networks) == most else ""
    return (
        f"Of {runs} with these classes {of_each} of highest validation accuracy{at_most}; the test "
        "images have no part in the choice."
    )


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=ChoiceLoader(
            [PackageLoader(f"triptych.{room}", "template") for room in ("serving", "report")]
        ),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "listed": join_words, "legible": sanitize_text}
    return environment
