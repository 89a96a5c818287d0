"""What is said of an image, and that it is read back from every way of writing it."""

import csv
import io
import json
import os

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from triptych.tools.predict.rows import (
    Guess,
    Layout,
    Prediction,
    as_csv,
    as_json_lines,
    as_lines,
    predicted,
)

CLASSES = ("cat", "dog, or not", "hip\npo")
ALONE = Layout(2, (), CLASSES)
THREE = Layout(2, ("one", "two, seed=1", "three"), CLASSES)
PATHS = st.binary(min_size=1, max_size=12).map(os.fsdecode)
VOTES = np.array([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7], [0.45, 0.1, 0.45]], np.float32)


def test_a_networks_most_probable_classes_come_best_first() -> None:
    found = predicted("a.png", np.array([[0.2, 0.5, 0.3]]), ALONE)
    assert found == Prediction("a.png", (Guess("dog, or not", 0.5), Guess("hip\npo", 0.3)))


def test_an_ensemble_says_the_mean_and_each_networks_own_choice() -> None:
    found = predicted("a.png", VOTES, THREE)
    assert [guess.label for guess in found.top] == ["hip\npo", "cat"]
    np.testing.assert_allclose([guess.probability for guess in found.top], [1.35 / 3, 1.05 / 3])
    assert [vote.label for vote in found.votes] == ["cat", "hip\npo", "cat"]
    np.testing.assert_allclose([vote.probability for vote in found.votes], [0.5, 0.7, 0.45])
    assert found.agreement == "1 of 3"


def test_of_equal_probabilities_the_first_class_wins_everywhere() -> None:
    found = predicted("a.png", np.full((3, 3), 1 / 3), THREE)
    assert [guess.label for guess in found.top] == list(CLASSES[:2])
    assert {vote.label for vote in found.votes} == {"cat"}


def test_an_answer_that_is_no_number_is_an_error_and_no_class() -> None:
    found = predicted("a.png", np.array([[0.2, np.nan, 0.3]]), ALONE)
    assert found == Prediction("a.png", error="the network's answer is not finite")


def written(way: object, layout: Layout, *rows: Prediction) -> str:
    """As a file takes it: bytes that are no text become escapes."""
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding="utf-8", errors="backslashreplace", newline="")
    write = way(file, layout)  # type: ignore[operator]
    for row in rows:
        write(row)
    file.flush()
    return raw.getvalue().decode()


@given(PATHS.filter(lambda path: "\0" not in path))
def test_a_csv_file_gives_back_every_path_and_has_a_cell_for_every_column(path: str) -> None:
    rows = [predicted(path, VOTES, THREE), Prediction(path, error="broken, or so")]
    text = written(as_csv, THREE, *rows)
    assert text.splitlines()[0].endswith("probability,error")
    header, good, bad = csv.reader(io.StringIO(text, newline=""))
    assert len(header) == len(good) == len(bad) == len(set(header))
    found = dict(zip(header, good, strict=True))
    assert found["path"].encode(errors="backslashreplace") == path.encode(errors="backslashreplace")
    assert (found["class"], found["probability"], found["class_2"]) == ("hip\npo", "0.45", "cat")
    assert (found["two, seed=1 class"], found["two, seed=1 probability"]) == ("hip\npo", "0.7")
    assert [cell for cell in bad[1:] if cell] == ["broken, or so"]


@given(PATHS)
def test_json_lines_give_back_every_path_even_of_no_encoding(path: str) -> None:
    rows = [predicted(path, VOTES, THREE), Prediction(path, error="broken")]
    good, bad = map(json.loads, written(as_json_lines, THREE, *rows).split("\n")[:-1])
    assert good.keys() == bad.keys()
    assert good["path"] == bad["path"] == path
    assert (good["class"], good["probability"], good["error"]) == ("hip\npo", 0.45, None)
    assert good["top"][1] == {"class": "cat", "probability": 0.35}
    assert good["votes"]["one"] == {"class": "cat", "probability": 0.5}
    assert (bad["class"], bad["top"], bad["votes"], bad["error"]) == (None, [], {}, "broken")


def test_on_the_screen_an_image_takes_one_line_that_no_name_can_break() -> None:
    row = predicted("a\n\x1b[31m.png", np.array([[0.25, 0.75, 0]]), Layout(2, (), ("cat", "dog")))
    error = Prediction("b\n.png", error="no file")
    assert written(as_lines, Layout(2, (), ("cat", "dog")), row, error).splitlines() == [
        "dog  75.0%  cat  25.0%  a��[31m.png",
        "b�.png: no file",
    ]
