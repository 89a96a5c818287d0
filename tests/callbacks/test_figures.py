from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont
from matplotlib.image import imread

from triptych.callbacks import figures
from triptych.callbacks.figures import confusion_matrix, image_grid, pixels, save
from triptych.data import fonts

CIFAR10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
COUNTS = np.random.default_rng(0).integers(0, 1000, size=(10, 10))


def read_cells(figure: Figure) -> list[list[str]]:
    """The numbers in the cells, row by row."""
    written = sorted((t.get_position()[::-1], t.get_text()) for t in figure.axes[0].texts)
    side = round(len(written) ** 0.5)
    return [[text for _, text in written[side * row : side * (row + 1)]] for row in range(side)]


def test_rows_are_true_classes_and_every_count_is_in_its_cell() -> None:
    figure = confusion_matrix(COUNTS, CIFAR10, "GoogLeNet")
    axes = figure.axes[0]
    assert read_cells(figure) == [[str(count) for count in row] for row in COUNTS]
    np.testing.assert_allclose(axes.images[0].get_array(), COUNTS / COUNTS.sum(1, keepdims=True))
    assert [label.get_text() for label in axes.get_yticklabels()] == CIFAR10
    assert [label.get_text() for label in axes.get_xticklabels()] == CIFAR10
    assert [figure.get_suptitle(), axes.get_xlabel()] == ["GoogLeNet", "predicted class"]


def test_a_class_without_images_is_grey_and_said_so() -> None:
    counts = np.arange(9).reshape(3, 3) * [[1], [0], [1]]
    figure = confusion_matrix(counts, CIFAR10[:3], "")
    pixels(figure)  # warnings are errors: no division by zero, neither here nor when drawn
    masked = np.ma.getmaskarray(figure.axes[0].images[0].get_array())
    assert masked.all(axis=1).tolist() == [False, True, False]
    assert figure.axes[0].get_ylabel() == "true class (grey: no images)"
    assert read_cells(figure)[1] == ["0"] * 3


def test_a_hundred_classes_are_a_picture_without_numbers() -> None:
    figure = confusion_matrix(np.eye(100, dtype=np.int64), [f"class {i}" for i in range(100)], "")
    assert len(figure.axes[0].texts) == 0
    assert figure.axes[0].get_yticks().tolist() == list(range(0, 100, 10))


@pytest.mark.parametrize("name", ["d" * 200, r"$5 and \frac{$"])
def test_a_label_is_cut_to_20_letters_is_no_formula_and_lies_within_the_picture(name: str) -> None:
    figure = confusion_matrix(np.eye(2, dtype=np.int64), [name, "dog"], name)
    axes = figure.axes[0]
    assert axes.get_yticklabels()[0].get_text() == (name if len(name) <= 20 else name[:19] + "…")
    drawn = pixels(figure)
    width, height = figure.get_size_inches() * figure.dpi
    assert drawn.shape == pytest.approx((3, height, width), abs=1)
    assert (drawn[:, 0, 0] == 255).all()
    assert (drawn[2] > drawn[0]).any()  # blue
    labels = (axes.xaxis.label, axes.yaxis.label, *figure.texts)
    for text in (*axes.get_xticklabels(), *axes.get_yticklabels(), *labels):
        assert min(text.get_window_extent().min) >= 0


@pytest.mark.parametrize("num_images", [3, 33])
def test_the_grid_shows_at_most_32_images_with_their_titles(num_images: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (num_images, 3, 8, 8), dtype=np.uint8)
    figure = image_grid(images, [f"image {i}" for i in range(num_images)], "Training images")
    assert figure.get_figwidth() < 5, "its letters can be read in 350 pixels"
    assert pixels(figure).shape[2] == 700, "and of those every second can be left out"
    shown = [axes for axes in figure.axes if axes.images]
    assert [axes.get_title() for axes in shown] == [f"image {i}" for i in range(num_images)][:32]
    drawn = np.stack([axes.images[0].get_array() for axes in shown])
    np.testing.assert_array_equal(drawn.transpose(0, 3, 1, 2), images[:32])
    assert not any(axes.axison for axes in figure.axes)


def test_a_saved_png_holds_the_pixels_and_a_failed_save_keeps_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figure, path = image_grid(np.zeros((1, 3, 4, 4), np.uint8), ["black"], ""), tmp_path / "a.png"
    returned = save(figure, path)
    np.testing.assert_array_equal(returned, pixels(figure))
    shown = (imread(path)[..., :3] * 255).round().transpose(2, 0, 1)
    np.testing.assert_array_equal(shown, returned)

    def fill_disk(path: Path, *_: object, **__: object) -> None:
        path.write_bytes(b"half")
        raise OSError("no space left")

    before = path.read_bytes()
    monkeypatch.setattr(figures, "imsave", fill_disk)
    with pytest.raises(OSError, match="no space"):
        save(figure, path)
    assert [each.read_bytes() for each in tmp_path.iterdir()] == [before]


SCRIPTS = ["猫", "قطة", "🐶", "แมว", "고양이"]


def test_letters_that_no_font_has_are_boxes_with_one_line_and_no_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(fonts, "findSystemFonts", lambda: [])
    fonts.find_fonts.cache_clear()
    for _ in range(2):
        image = pixels(confusion_matrix(np.eye(5, dtype=np.int64), SCRIPTS, "测试"))
    assert image.min() == 0
    [line] = caplog.messages
    assert "猫" in line
    fonts.find_fonts.cache_clear()


def test_letters_that_the_default_font_lacks_are_drawn_with_fonts_that_have_them(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    letter = "\u23b4"  # STIX comes with matplotlib, and stands for a font of the system
    stix = findfont("STIXGeneral")
    monkeypatch.setattr(fonts, "findSystemFonts", lambda: [findfont("DejaVu Sans"), stix])
    fonts.find_fonts.cache_clear()
    assert fonts.find_fonts(frozenset(f"cat{letter}")) == ("STIXGeneral",)
    figure = confusion_matrix(np.eye(2, dtype=np.int64), ["cat", letter], "x")
    pixels(figure)
    [_, label] = figure.axes[0].get_yticklabels()
    assert label.get_fontfamily()[-1] == "STIXGeneral"
    assert caplog.messages == []
    assert fonts.find_fonts(frozenset("Ünïcöde Ελλάδα кот")) == ()
    fonts.find_fonts.cache_clear()


def test_wide_letters_have_as_much_room_as_they_take() -> None:
    assert [figures.count_columns(name) for name in ("cat", "猫猫", "a🐶", "قطة")] == [3, 4, 3, 3]
