"""Pictures of an evaluation say what they show."""

from types import SimpleNamespace

import numpy as np
import pytest

from triptych.callbacks.figures import pixels
from triptych.runs.predictions import Predictions
from triptych.tools.evaluate.degradation import VariantAccuracy
from triptych.tools.report.diagrams import (
    heat_maps,
    reliability_diagram,
    severity_curves,
    type_sheet,
)
from triptych.tools.statistics.calibration import calibrate

ROWS = [
    VariantAccuracy("unmodified", 0, 100, 0.9, 0.83, 0.94),
    *(
        VariantAccuracy(kind, s, 100, 0.9 - lost * s, 0.8 - lost * s, 0.95 - lost * s)
        for kind, lost in (("low_contrast", 0.2), ("noise", 0.1))
        for s in (1, 2, 3)
    ),
]


def make_predictions(num_images: int = 60) -> Predictions:
    random = np.random.default_rng(0)
    logits = random.normal(0, 2, (num_images, 4)).astype(np.float32)
    return Predictions(logits, random.integers(0, 4, num_images), np.arange(num_images))


def make_explanation(name: str) -> SimpleNamespace:
    heats = np.stack([np.ones((16, 16)), np.zeros((16, 16))])
    names = ("<b>bold</b>", "automobileautomobile")
    image = np.zeros((3, 8, 8), np.uint8)
    return SimpleNamespace(
        image=image, heats=heats, names=names, probabilities=(0.75, 0.021), name=name
    )


@pytest.mark.parametrize("has_temperature", [False, True])
def test_a_reliability_diagram_gives_each_curve_its_error_and_that_of_a_calibrated_network(
    has_temperature: bool,
) -> None:
    predictions = make_predictions()
    calibration = calibrate(predictions, predictions if has_temperature else None)
    [axes] = reliability_diagram(calibration, "a network").axes
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    before = calibration.before
    assert f"{100 * before.error:.1f} % ({100 * before.expected:.1f} % if calib" in labels[0]
    assert len(labels) == 1 + has_temperature
    points = axes.lines[1].get_xydata()  # behind the diagonal
    np.testing.assert_allclose(points, [(b.confidence, b.accuracy) for b in before.bins])


def test_every_heat_is_named_and_a_class_without_heat_says_so() -> None:
    explanations = [make_explanation("image 17"), make_explanation("test/dog/IMG_20240101.jpg")]
    figure = heat_maps(explanations, "a network")
    assert [axes.get_title() for axes in figure.axes] == [
        *("image 17", "…og/IMG_20240101.jpg"),
        *("<b>bold</b> 75.0%", "<b>bold</b> 75.0%"),
        *("automobileautom… 2.1%", "automobileautom… 2.1%"),
    ]
    assert [axes.get_xlabel() for axes in figure.axes] == [""] * 4 + ["no heat"] * 2
    overlaid = figure.axes[2].images
    assert [image.get_extent() for image in overlaid] == [[0, 8, 8, 0]] * 2, "one over the other"


def test_more_images_than_columns_begin_a_new_band() -> None:
    figure = heat_maps([make_explanation(f"image {place}") for place in range(9)], "a network")
    titles = [axes.get_title() for axes in figure.axes]
    assert len(titles) == 2 * 3 * 8
    assert titles[24] == "image 8"
    width, height = figure.get_size_inches()
    assert 0.8 < height / width < 1.1


def test_a_sheet_shows_every_image_of_every_type_pixel_for_pixel() -> None:
    random = np.random.default_rng(0)
    variants = {
        name: random.integers(255, size=(4, 3, 3, 16, 20), dtype=np.uint8)
        for name in ("low_contrast", "noise")
    }
    [axes] = type_sheet(variants).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["low contrast", "noise"]
    sheet = axes.images[0].get_array()
    for row, types in enumerate(variants.values()):
        top = 17 * row
        for column, images in enumerate(types):
            for place, image in enumerate(images):
                left = (3 * 21 + 3) * column + 21 * place
                cell = sheet[top : top + 16, left : left + 20]
                np.testing.assert_array_equal(cell, image.transpose(1, 2, 0))
    assert (sheet < 255).all(axis=2).sum() == 2 * 4 * 3 * 16 * 20  # all else is white


def test_photos_on_a_sheet_are_not_larger_than_it_shows_them() -> None:
    variants = {"noise": np.zeros((4, 3, 3, 256, 256), dtype=np.uint8)}
    [axes] = type_sheet(variants).axes
    assert axes.images[0].get_array().shape[0] == 64 + 4


def test_curves_start_with_the_unmodified_images_and_carry_intervals() -> None:
    figure = severity_curves(ROWS, "GoogLeNet")
    pixels(figure)
    contrast, noise = figure.axes[:2]
    assert [axes.get_title() for axes in (contrast, noise)] == ["low contrast", "noise"]
    [line], [bars] = contrast.lines, contrast.collections
    np.testing.assert_allclose(line.get_xydata(), [[0, 0.9], [1, 0.7], [2, 0.5], [3, 0.3]])
    ends = [segment[:, 1].tolist() for segment in bars.get_segments()]
    np.testing.assert_allclose(ends, [[0.83, 0.94], [0.6, 0.75], [0.4, 0.55], [0.2, 0.35]])
    assert "GoogLeNet" in figure.get_suptitle()
    assert "100 images" in figure.get_suptitle()
    assert not any(axes.axison for axes in figure.axes[2:])
