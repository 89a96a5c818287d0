"""Predictions out of probabilities, read back from every format, and drawn."""

import csv
import io
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from triptych.runs.predictions import unescape_formula
from triptych.tools.predict.labels import SEVERAL_LABELS
from triptych.tools.predict.output import (
    Choice,
    Layout,
    Prediction,
    Write,
    draw_grid,
    make_prediction,
    save_grid,
    write_csv,
    write_json_lines,
    write_lines,
)

CLASSES = ("cat", "dog, or not", "hip\npo")
ALONE = Layout(2, (), CLASSES)
THREE = Layout(2, ("one", "two, seed=1", "three"), CLASSES)
BOTH = THREE._replace(has_tta=True)
PATHS = st.binary(min_size=1, max_size=12).map(os.fsdecode)
VOTES = np.array([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7], [0.45, 0.1, 0.45]], np.float32)
FLIPPED = np.eye(3, dtype=np.float32)[[0, 0, 0]]  # of mirror images: surely cats
CAT = Choice("cat", 0.901)


def test_of_equal_probabilities_the_first_class_wins_everywhere() -> None:
    prediction = make_prediction("a.png", THREE, np.full((3, 3), 1 / 3))
    assert [choice.label for choice in prediction.top] == list(CLASSES[:2])
    assert {vote.label for vote in prediction.votes} == {"cat"}


def test_probabilities_that_are_not_finite_are_an_error() -> None:
    prediction = make_prediction("a.png", ALONE, np.array([[0.2, np.nan, 0.3]]))
    assert prediction.error
    assert prediction.top == ()


def text_of(writer: Callable[..., Write], layout: Layout, *predictions: Prediction) -> str:
    """As a file takes it: bytes that are not UTF-8 become escapes."""
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding="utf-8", errors="backslashreplace", newline="")
    write = writer(file, layout)
    for prediction in predictions:
        write(prediction)
    file.flush()
    return raw.getvalue().decode()


@given(PATHS.filter(lambda path: not {"\0", "\r"} & {*path}))
def test_a_csv_file_gives_back_every_path_and_has_a_cell_for_every_column(path: str) -> None:
    rows = [make_prediction(path, BOTH, VOTES, FLIPPED), Prediction(path, error="broken, or so")]
    text = text_of(write_csv, BOTH, *rows)
    assert text.splitlines()[0].endswith("probability,error")
    header, good, bad = csv.reader(io.StringIO(text, newline=""))
    assert len(header) == len(good) == len(bad) == len(set(header))
    row = dict(zip(header, good, strict=True))
    read = unescape_formula(row["path"])
    assert read.encode(errors="backslashreplace") == path.encode(errors="backslashreplace")
    assert (row["class"], row["probability"], row["class_2"]) == ("hip\npo", "0.45", "cat")
    assert (row["two, seed=1 class"], row["two, seed=1 probability"]) == ("hip\npo", "0.7")
    assert (row["tta class"], row["tta probability"]) == ("cat", "0.675")
    assert [cell for cell in bad[1:] if cell] == ["broken, or so"]


@given(PATHS)
def test_json_lines_give_back_every_path_whatever_its_bytes(path: str) -> None:
    rows = [make_prediction(path, BOTH, VOTES, FLIPPED), Prediction(path, error="broken")]
    good, bad = map(json.loads, text_of(write_json_lines, BOTH, *rows).split("\n")[:-1])
    assert good.keys() == bad.keys()
    assert good["path"] == bad["path"] == path
    assert (good["class"], good["probability"], good["error"]) == ("hip\npo", 0.45, None)
    assert good["top"][1] == {"class": "cat", "probability": 0.35}
    assert good["votes"]["one"] == {"class": "cat", "probability": 0.5}
    assert good["tta"] == {"class": "cat", "probability": 0.675}
    assert (bad["class"], bad["top"], bad["votes"], bad["error"]) == (None, [], {}, "broken")
    assert bad["tta"] is None
    assert "tta" not in json.loads(text_of(write_json_lines, THREE, Prediction(path, error="x")))


def test_on_the_screen_an_image_takes_one_line_that_no_name_can_break() -> None:
    layout = Layout(2, (), ("cat", "dog"))
    good = make_prediction("a\n\x1b[31m.png", layout, np.array([[0.25, 0.75, 0]]))
    assert text_of(
        write_lines, layout, good, Prediction("b\n.png", error="no file")
    ).splitlines() == [
        "dog  75.0%  cat  25.0%  a��[31m.png",
        "b�.png: no file",
    ]


def test_each_image_of_a_grid_stands_under_its_class_its_votes_and_its_name(
    tmp_path: Path,
) -> None:
    for name in ("a.png", "c" * 40):
        Image.new("RGB", (30, 20)).save(tmp_path / name, "PNG")
    voted = Prediction(f"{tmp_path}/a.png", (CAT,), (CAT, Choice("dog", 0.5)))
    broken = Prediction(f"{tmp_path}/b.png", error="no file")
    long = Prediction(f"{tmp_path}/{'c' * 40}", (Choice("a class with a long, long name", 1.0),))
    figure = draw_grid([voted, broken, long], "two networks", max_pixels=600)
    titles = [axes.get_title("left").split("\n") for axes in figure.axes]
    assert titles[:2] == [["cat  90.1%, 1 of 2", "a.png"], ["not predicted", "b.png"]]
    assert titles[2][0].endswith("…  100.0%")
    assert max(len(line) for title in titles for line in title) <= 25
    assert figure.axes[1].texts[0].get_text() == "no file"
    assert [len(axes.images) for axes in figure.axes] == [1, 0, 1]


def test_a_grid_is_written_whatever_letters_names_have(tmp_path: Path) -> None:
    path = tmp_path / "写真 $a_$\n.png"
    Image.new("RGB", (20, 30), "red").save(path)
    save_grid(tmp_path / "grid.png", [Prediction(str(path), (CAT,))] * 7, "network\n$x$", 600)
    with Image.open(tmp_path / "grid.png") as picture:
        assert picture.width > picture.height > 400  # two rows of six


def test_a_grid_of_several_labels_an_image_names_all_of_them() -> None:
    two, none = (
        Prediction(name, tuple(Choice(label, p) for label, p in shares))
        for name, shares in {
            "a.png": (("red", 0.9), ("blue", 0.6), ("green", 0.1)),
            "b.png": (("green", 0.4), ("red", 0.2)),
        }.items()
    )
    broken = Prediction("c.png", error="no file")
    figure = draw_grid([two, none, broken], "", 600, SEVERAL_LABELS)
    titles = [axes.get_title("left").split("\n")[0] for axes in figure.axes]
    assert titles == ["red, blue", "no label", "not predicted"]
