"""What stands in an optional file is within bounds that the page can show, or refused in a line."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.run_folders import change_predictions, write_run
from triptych.errors import UserError
from triptych.tools.compare import optional
from triptych.tools.compare.groups import TrainedNetwork, grouped
from triptych.tools.compare.runs import read_runs


@pytest.fixture
def network(tmp_path: Path) -> TrainedNetwork:
    [group] = grouped(read_runs([write_run(tmp_path, num_images=20)])[0])
    return group.first


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("99999999999999999999999,1,1,0.5", "a whole number of at least 0"),
        ("-1,1,1,0.5", "a whole number of at least 0"),
        ("1,1e308,1,0.5", "losses and accuracies must each be"),
        ("1,1,nan,0.5", "losses and accuracies must each be"),
    ],
)
def test_a_course_without_end_is_refused(network: TrainedNetwork, line: str, says: str) -> None:
    path = network.folder / "metrics.csv"
    path.write_text(f"epoch,train/loss,val/loss,val/accuracy\n{line}\n")
    with pytest.raises(UserError, match=says):
        optional.curve(network)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (f"noise,{'9' * 400},50", "must be a whole number of at least 0, at most 3"),
        ("noise,-7,50", "-7 must be a whole number"),
        ("noise,1,-50", "-50 must be a whole number of at least 1"),
        (f"noise,1,{'9' * 400}", "must be a whole number of at least 1"),
    ],
)
def test_image_types_have_a_severity_and_images(
    network: TrainedNetwork, line: str, says: str
) -> None:
    head = "type,severity,num_images,accuracy,accuracy_low,accuracy_high"
    (network.folder / "image_types.csv").write_text(f"{head}\n{line},0.5,0.4,0.6\n")
    with pytest.raises(UserError, match=says):
        optional.image_types(network)


def test_a_cost_without_end_is_refused(network: TrainedNetwork) -> None:
    (network.folder / "cost.json").write_text('{"latency_ms_p50": 1.7e308}')
    with pytest.raises(UserError, match="latency_ms_p50 must be a number of at least 0 and below"):
        optional.cost(network)
    (network.folder / "cost.json").write_text('{"a": ' + 900 * "[" + 900 * "]" + "}")
    with pytest.raises(UserError, match=r"cost\.json: cannot be read \(nested deeper than 50\)"):
        optional.cost(network)


def test_a_slice_counts_every_class(network: TrainedNetwork) -> None:
    part = {"measure": "edge_density", "third": "low", "num_images": 6, "class_mix": [3, 3]}
    part |= dict.fromkeys(("accuracy", "standardised", "standardised_low", "standardised_high"), 0)
    (network.folder / "evaluation.json").write_text(json.dumps({"slices": [part]}))
    with pytest.raises(UserError, match="class_mix must be of 4 classes"):
        optional.slices(network)


def test_pictures_have_pixels(network: TrainedNetwork) -> None:
    path = network.folder / "predictions" / "test_images.npz"
    np.savez(path, index=np.arange(2), images=np.zeros((2, 3, 0, 0), np.uint8))
    with pytest.raises(UserError, match=r"must be uint8 \(K, 3, H, W\), they are \(2, 3, 0, 0\)"):
        optional.pixels(network)


def test_no_temperature_is_fitted_to_other_classes(network: TrainedNetwork) -> None:
    logits = np.pad(network.test.logits, [(0, 0), (0, 1)])
    change_predictions(network.folder, "val", logits=logits)
    with pytest.raises(UserError, match=r"val\.npz: has 5 classes, the test images 4"):
        optional.validation(network)
