"""Pictures of an evaluation say what they show."""

import numpy as np
import pytest

from triptych.evaluation.calibration import calibrate
from triptych.evaluation.predictions import Predicted
from triptych.report.diagrams import Explained, heat_maps, reliability_diagram
from triptych.report.figures import pixels


def predicted(num_images: int = 60) -> Predicted:
    random = np.random.default_rng(0)
    logits = random.normal(0, 2, (num_images, 4)).astype(np.float32)
    return Predicted(logits, random.integers(0, 4, num_images), np.arange(num_images))


def explained(place: int, heat: float = 1.0) -> Explained:
    heats = np.stack([np.full((16, 16), heat), np.zeros((16, 16))])
    names = ("<b>bold</b>", "a class with quite a long name")
    return Explained(np.zeros((3, 8, 8), np.uint8), heats, names, (0.75, 0.021), place)


@pytest.mark.parametrize("cooled", [False, True])
def test_a_reliability_diagram_gives_each_curve_its_error_and_what_chance_makes_of_it(
    cooled: bool,
) -> None:
    calibration = calibrate(predicted(), predicted() if cooled else None)
    figure = reliability_diagram(calibration, "a network")
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    before = calibration.before
    expected = f"as trained: error {before.error:.1%} ({before.expected:.1%} if calibrated)"
    assert expected in labels
    assert len(labels) == (3 if cooled else 2)
    assert cooled == any(label.startswith("temperature ") for label in labels)
    points = figure.axes[0].containers[0][0].get_xydata()
    np.testing.assert_allclose(points, [(b.confidence, b.accuracy) for b in before.bins])


def test_every_heat_is_named_and_a_class_without_heat_says_so() -> None:
    figure = heat_maps([explained(17), explained(4)], "a network")
    assert [axes.get_title() for axes in figure.axes] == [
        *("image 17", "image 4"),
        *("<b>bold</b> 75.0%", "<b>bold</b> 75.0%"),
        *("a class with… 2.1%", "a class with… 2.1%"),
    ]
    assert [axes.get_xlabel() for axes in figure.axes] == [""] * 4 + ["no heat"] * 2
    overlaid = figure.axes[2].images
    assert [image.get_extent() for image in overlaid] == [[0, 8, 8, 0]] * 2, "one over the other"


def test_more_images_than_columns_begin_a_new_band() -> None:
    figure = heat_maps([explained(place) for place in range(9)], "a network")
    titles = [axes.get_title() for axes in figure.axes]
    assert len(titles) == 2 * 3 * 8
    assert titles[24] == "image 8"
    height, width = pixels(figure).shape[1:]
    assert 0.8 < height / width < 1.1
