"""The film of the demo can be shown by any page: it loads nothing, and names no machine."""

import re
from xml.etree import ElementTree

from triptych.config import CONFIGS

FILM = CONFIGS.parent / "docs" / "demo.svg"
SVG = "{http://www.w3.org/2000/svg}"


def test_the_film_moves_without_a_script_and_loads_nothing() -> None:
    film = ElementTree.fromstring(FILM.read_text())
    assert not list(film.iter(f"{SVG}script"))
    links = {link for each in film.iter() if (link := each.get("href"))}
    assert {link[:1] for link in links if not link.startswith("data:image/png;base64,")} == {"#"}
    assert "animation: film" in FILM.read_text()
    assert FILM.stat().st_size < 300_000


def test_the_film_names_no_folder_of_the_machine_that_ran_it() -> None:
    film = ElementTree.fromstring(FILM.read_text())
    texts = "\n".join(each.text or "" for each in film.iter(f"{SVG}text"))
    folders = re.findall(r"(?<![\w.])/[a-z]+/\S*", texts)
    assert {folder for folder in folders if not folder.startswith("/home/you/triptych/")} == set()
