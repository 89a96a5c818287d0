"""The picture of the first photos."""

from pathlib import Path

from matplotlib.image import imread
from PIL import Image

from triptych.tools.predict.grid import photo_grid, save_grid
from triptych.tools.predict.rows import Guess, Prediction

CAT = Guess("cat", 0.901)


def test_each_photo_stands_under_its_class_its_votes_and_its_name() -> None:
    voted = Prediction("x/a.png", (CAT,), (CAT, Guess("dog", 0.5)))
    broken = Prediction("b.png", error="no image, or of a format that is not decoded here")
    long = Prediction("c" * 40, (Guess("a class with a long, long name", 1.0),))
    thumbnail = Image.new("RGB", (30, 20))
    figure = photo_grid([(voted, thumbnail), (broken, None), (long, thumbnail)], "two networks")
    texts = [text.get_text() for text in figure.texts]
    assert texts[:5] == ["two networks", "cat  90.1%, 1 of 2", "a.png", "not predicted", "b.png"]
    assert texts[5].endswith("…  100.0%")
    assert max(map(len, texts)) <= 25
    assert figure.axes[1].texts[0].get_text().startswith("no image, or of a format")
    assert [len(axes.images) for axes in figure.axes] == [1, 0, 1]


def test_a_grid_is_written_whatever_letters_names_have(tmp_path: Path) -> None:
    seen = [(Prediction("写真 $a_$\n.png", (CAT,)), Image.new("RGB", (20, 30), "red"))] * 7
    save_grid(tmp_path / "grid.png", seen, "network\n$x$")
    picture = imread(tmp_path / "grid.png")
    red = (picture[..., :3] == [1, 0, 0]).all(axis=2)
    across = red.any(axis=0)
    assert red.any(axis=1).sum() > 300  # two rows of photos
    assert (across[1:] > across[:-1]).sum() == 6  # that begin, side by side
