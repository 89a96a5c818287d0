import numpy as np

from triptych.evaluation.degradation import Row
from triptych.report.figures import pixels
from triptych.report.image_types import severity_curves, type_sheet

ROWS = [
    Row("unmodified", 0, 100, 0.9, 0.83, 0.94),
    *(Row("low_contrast", s, 100, 0.9 - 0.2 * s, 0.8 - 0.2 * s, 0.95 - 0.2 * s) for s in (1, 2, 3)),
    *(Row("noise", s, 100, 0.9 - 0.1 * s, 0.8 - 0.1 * s, 0.95 - 0.1 * s) for s in (1, 2, 3)),
]


def test_a_sheet_shows_every_image_of_every_type_pixel_for_pixel() -> None:
    random = np.random.default_rng(0)
    variants = {
        name: random.integers(255, size=(4, 3, 3, 16, 20), dtype=np.uint8)
        for name in ("low_contrast", "noise")
    }
    [axes] = type_sheet(variants).axes
    sheet = axes.images[0].get_array()
    for row, types in enumerate(variants.values()):
        top = 17 * row
        for column, images in enumerate(types):
            for place, image in enumerate(images):
                left = (3 * 21 + 3) * column + 21 * place
                cell = sheet[top : top + 16, left : left + 20]
                np.testing.assert_array_equal(cell, image.transpose(1, 2, 0))
    assert (sheet < 255).all(axis=2).sum() == 2 * 4 * 3 * 16 * 20  # all else is white


def test_a_sheet_names_types_and_severities_beside_their_images() -> None:
    names = ["small_object_blurred", *(f"type {n}" for n in range(11))]
    figure = type_sheet({name: np.zeros((4, 5, 3, 32, 32), np.uint8) for name in names})
    figure.draw_without_rendering()
    [axes] = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        *("small object blurred", *names[1:])
    ]
    heads = [label.get_text() for label in axes.get_xticklabels()]
    assert heads == ["unmodified", "severity 1", "severity 2", "severity 3"]
    width, height = figure.canvas.get_width_height()
    for text in (*axes.get_yticklabels(), *axes.get_xticklabels()):
        box = text.get_window_extent()
        assert box.x0 >= 0
        assert box.x1 <= width
        assert box.y1 <= height


def test_curves_start_with_the_unmodified_images_and_carry_intervals() -> None:
    figure = severity_curves(ROWS, "GoogLeNet")
    pixels(figure)
    contrast, noise = figure.axes[:2]
    assert [axes.get_title() for axes in (contrast, noise)] == ["low contrast", "noise"]
    [container] = contrast.containers
    line, _, [bars] = container
    np.testing.assert_allclose(line.get_xydata(), [[0, 0.9], [1, 0.7], [2, 0.5], [3, 0.3]])
    ends = [segment[:, 1].tolist() for segment in bars.get_segments()]
    np.testing.assert_allclose(ends, [[0.83, 0.94], [0.6, 0.75], [0.4, 0.55], [0.2, 0.35]])
    assert "GoogLeNet" in figure.get_suptitle()
    assert "100 images" in figure.get_suptitle()
    assert not any(axes.axison for axes in figure.axes[2:])
