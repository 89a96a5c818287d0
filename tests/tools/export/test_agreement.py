"""What is held against a file: test images, made photographs, differences, times."""

from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from triptych.errors import UserError
from triptych.tools.export import agreement
from triptych.tools.export.agreement import (
    PHOTOGRAPHS,
    SHAPES,
    Agreement,
    differences,
    images_to_try,
    photograph,
    photographs,
)

IMAGES = [torch.zeros(2, 3, 4, 5, dtype=torch.uint8)] * 2


def off(*errors: float) -> Any:
    """A network whose answers for one batch after the other are off by these."""
    left = iter(errors)

    def predict(images: Tensor) -> Tensor:
        found = torch.full((len(images), 4), 0.25)
        found[-1, 2] += next(left)
        return found

    return predict


def test_the_largest_difference_over_all_batches_counts() -> None:
    found = differences(off(0, 0), off(1e-5, -4e-5), {"images": IMAGES})
    assert found == {"images": pytest.approx(4e-5, rel=1e-2)}


@pytest.mark.parametrize("error", [0.0011, -0.0011, float("nan"), float("inf")])
def test_more_than_the_tolerance_is_refused_wherever_it_is(error: float) -> None:
    for errors in ((error, 0), (0, error)):
        with pytest.raises(UserError, match=r"differs by .* over images: 0\.001 is allowed"):
            differences(off(0, 0), off(*errors), {"images": IMAGES})


def test_made_photographs_have_the_spectrum_of_photographs() -> None:
    """Power falls as 1/f^2: a slope of -2 over a decade of frequencies, in double logarithms."""
    pixels = photograph(1, 256, 256, torch.Generator().manual_seed(3)).float().mean((0, 1))
    power = torch.fft.rfft2(pixels - pixels.mean()).abs() ** 2
    frequency = (torch.fft.fftfreq(256)[:, None] ** 2 + torch.fft.rfftfreq(256) ** 2).sqrt()
    edges = np.geomspace(0.02, 0.2, 9)
    means = [
        power[(frequency >= low) & (frequency < high)].mean().log().item()
        for low, high in pairwise(edges)
    ]
    slope = np.polyfit(np.log(np.sqrt(edges[1:] * edges[:-1])), means, 1)[0]
    assert slope == pytest.approx(-2, abs=0.25)


def test_made_photographs_are_the_same_ones_always() -> None:
    made = photographs()
    assert [(len(each), *each.shape[2:]) for each in made] == [*SHAPES]
    for one, other in zip(made, photographs(), strict=True):
        assert one.dtype == torch.uint8
        assert torch.equal(one, other)
        assert one.float().std() > 40


def test_without_the_data_the_images_that_the_run_kept_are_tried_and_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def lost(run: Any, root: str | None) -> None:
        raise UserError("lost,\nall of them")

    monkeypatch.setattr(agreement, "read_data", lost)
    run: Any = SimpleNamespace(folder=tmp_path)
    assert [*images_to_try(run, run, None)] == [PHOTOGRAPHS]
    assert caplog.messages == ["tried without the data: lost, all of them"]
    (tmp_path / "predictions").mkdir()
    images = np.random.default_rng(0).integers(0, 256, (70, 3, 6, 5), np.uint8)
    np.savez(tmp_path / "predictions" / "test_images.npz", index=np.arange(70), images=images)
    tried = images_to_try(run, run, None)
    assert [*tried] == ["64 kept test images", PHOTOGRAPHS]
    assert np.array_equal(torch.cat(tried["64 kept test images"]), images[:64])
    with pytest.raises(UserError, match="lost"):  # a place that was named must hold them
        images_to_try(run, run, "elsewhere")


def test_what_was_measured_is_said_in_two_lines() -> None:
    found = Agreement({"3 test images": 2e-7, "photographs": 0.0}, {"onnxruntime": 3.14159}, 1)
    assert found.sentences() == [
        "largest difference from the network's probabilities: "
        "2.0e-07 over 3 test images, 0.0e+00 over photographs",
        "an image of 640x480 takes onnxruntime 3.1 ms (CPU, 1 thread)",
    ]
