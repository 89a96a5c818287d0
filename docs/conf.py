"""The site of these pages: `make docs` builds it into docs/_build/html, without a network.

Sphinx, because it checks every link offline and takes a broken one as an error, and because it is
the most kept of them; MyST reads the pages as the Markdown that GitHub shows; Furo loads nothing
from elsewhere. mkdocs-material ends, Zensical is new, Great Docs is for pages of an API.
"""

import re
from typing import Any

from sphinx.application import Sphinx

project = "Triptych"
html_title = project
extensions = ["myst_parser"]
exclude_patterns = ["_build", "results"]
myst_heading_anchors = 3  # links to headings, by GitHub's names for them
suppress_warnings = ["misc.highlighting_failure"]  # GitHub knows csv as a language, Pygments not
html_theme = "furo"
html_static_path = ["site.css"]
html_css_files = ["site.css"]
html_show_copyright = False
html_copy_source = False


def setup(app: Sphinx) -> None:
    app.connect("source-read", link_files)
    app.connect("html-page-context", set_levels, priority=900)  # after Furo's own


def link_files(app: Sphinx, page: str, source: list[str]) -> None:
    """Markdown files outside of docs/ are no pages of the site: it brings them as files."""
    source[0] = re.sub(r"\]\((?=(\.\./)+[A-Z]+\.md)", r"](path:", source[0])


def set_levels(app: Sphinx, page: str, template: str, context: dict[str, Any], *_: Any) -> None:
    """Captions beside the text are headings, of which a screen reader wants the level."""
    tree = context.get("furo_navigation_tree", "")
    context["furo_navigation_tree"] = tree.replace('"heading"', '"heading" aria-level="2"')
