import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from triptych import figures
from triptych.figures import confusion_matrix, image_grid, pixels, save

CIFAR10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


@pytest.fixture
def counts() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 1000, size=(10, 10))


def texts(figure: Figure) -> list[list[str]]:
    """The numbers in the cells, row by row."""
    written = sorted((t.get_position()[::-1], t.get_text()) for t in figure.axes[0].texts)
    side = round(len(written) ** 0.5)
    return [[text for _, text in written[side * row : side * (row + 1)]] for row in range(side)]


def test_every_count_is_written_in_its_cell(counts: np.ndarray) -> None:
    figure = confusion_matrix(counts, CIFAR10, "GoogLeNet")
    assert texts(figure) == [[str(count) for count in row] for row in counts]


def test_rows_are_true_classes_and_columns_predicted_ones(counts: np.ndarray) -> None:
    axes = confusion_matrix(counts, CIFAR10, "GoogLeNet").axes[0]
    assert axes.get_title() == "GoogLeNet"
    assert [label.get_text() for label in axes.get_yticklabels()] == CIFAR10
    assert [label.get_text() for label in axes.get_xticklabels()] == CIFAR10
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted class", "true class")


def test_colour_is_the_fraction_of_the_row(counts: np.ndarray) -> None:
    coloured = confusion_matrix(counts, CIFAR10, "").axes[0].images[0].get_array()
    np.testing.assert_allclose(coloured, counts / counts.sum(1, keepdims=True))


def test_a_class_without_images_is_grey_and_said_so(counts: np.ndarray) -> None:
    counts[3] = 0
    figure = confusion_matrix(counts, CIFAR10, "")
    pixels(figure)  # warnings are errors: no division by zero, neither here nor when drawn
    masked = np.ma.getmaskarray(figure.axes[0].images[0].get_array())
    assert masked.all(axis=1).tolist() == [row == 3 for row in range(10)]
    assert figure.axes[0].get_ylabel() == "true class (grey: no images)"
    assert texts(figure)[3] == ["0"] * 10


def test_a_hundred_classes_are_a_picture_without_numbers() -> None:
    figure = confusion_matrix(np.eye(100, dtype=np.int64), [f"class {i}" for i in range(100)], "")
    pixels(figure)
    assert len(figure.axes[0].texts) == 0
    assert figure.axes[0].get_yticks().tolist() == list(range(0, 100, 10))


@pytest.mark.parametrize("name", ["cat", "horizontal bars", "d" * 200])
def test_a_label_is_cut_to_20_letters_and_lies_within_the_picture(name: str) -> None:
    figure = confusion_matrix(np.eye(2, dtype=np.int64), [name, "dog"], "")
    label = figure.axes[0].get_yticklabels()[0]
    assert label.get_text() == (name if len(name) <= 20 else name[:19] + "…")
    figure.draw_without_rendering()
    axes = figure.axes[0]
    labels = (axes.xaxis.label, axes.yaxis.label)
    for text in (*axes.get_xticklabels(), *axes.get_yticklabels(), *labels):
        assert text.get_window_extent().min[0] >= 0
        assert text.get_window_extent().min[1] >= 0


def test_the_grid_shows_at_most_32_images_with_their_titles() -> None:
    images = np.random.default_rng(0).integers(0, 256, size=(40, 3, 8, 8), dtype=np.uint8)
    figure = image_grid(images, [f"image {i}" for i in range(40)], "Training images")
    assert len(figure.axes) == 32
    assert [axes.get_title() for axes in figure.axes] == [f"image {i}" for i in range(32)]
    shown = np.stack([axes.images[0].get_array() for axes in figure.axes])
    np.testing.assert_array_equal(shown.transpose(0, 3, 1, 2), images[:32])


@pytest.mark.parametrize("num_images", [1, 3, 11])
def test_a_grid_that_is_not_full_leaves_the_rest_blank(num_images: int) -> None:
    images = np.zeros((num_images, 3, 4, 4), dtype=np.uint8)
    figure = image_grid(images, ["black"] * num_images, "")
    assert sum(len(axes.images) for axes in figure.axes) == num_images
    assert not any(axes.axison for axes in figure.axes)


def test_pixels_are_channels_first_and_coloured(counts: np.ndarray) -> None:
    figure = confusion_matrix(counts, CIFAR10, "")
    drawn = pixels(figure)
    width, height = figure.get_size_inches() * figure.dpi
    assert drawn.shape == pytest.approx((3, height, width), abs=1)
    assert drawn.dtype == np.uint8
    assert (drawn[:, 0, 0] == 255).all()
    assert (drawn[2] > drawn[0]).any()


def test_the_saved_png_holds_the_same_pixels_and_nothing_else_is_left(
    counts: np.ndarray, tmp_path: Path
) -> None:
    figure = confusion_matrix(counts, CIFAR10, "GoogLeNet")
    returned = save(figure, tmp_path / "matrix.png")
    assert [path.name for path in tmp_path.iterdir()] == ["matrix.png"]
    opened = (imread(tmp_path / "matrix.png")[..., :3] * 255).round()
    np.testing.assert_array_equal(opened.transpose(2, 0, 1), pixels(figure))
    np.testing.assert_array_equal(returned, pixels(figure))


def test_a_failed_save_keeps_the_old_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(path: Path, *_: object, **__: object) -> None:
        path.write_bytes(b"half")
        raise OSError("no space left")

    (tmp_path / "matrix.png").write_bytes(b"old")
    monkeypatch.setattr(figures, "imsave", full_disk)
    with pytest.raises(OSError, match="no space"):
        save(Figure(), tmp_path / "matrix.png")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


def test_figures_need_neither_torch_nor_pyplot() -> None:
    script = "import sys, triptych.figures;print({'torch', 'matplotlib.pyplot'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"


def test_dollars_in_a_name_are_no_formula(counts: np.ndarray) -> None:
    names = [r"$5 and \frac{$", *map(str, range(1, len(counts)))]
    assert pixels(confusion_matrix(counts, names, names[0])).shape[0] == 3
