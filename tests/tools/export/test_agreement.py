"""The comparison of a file with its network: images, differences, the error beyond a tolerance."""

from itertools import pairwise
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
    compare_outputs,
    make_photograph,
    make_photographs,
    read_batches,
)

IMAGES = [torch.zeros(2, 3, 4, 5, dtype=torch.uint8)] * 2


def off_by(*errors: float) -> Any:
    """A network whose probabilities, batch by batch, are off by these."""
    remaining = iter(errors)

    def predict(images: Tensor) -> Tensor:
        probabilities = torch.full((len(images), 4), 0.25)
        probabilities[-1, 2] += next(remaining)
        return probabilities

    return predict


def test_the_largest_difference_over_all_batches_counts() -> None:
    differences = compare_outputs(off_by(0, 0), off_by(1e-5, -4e-5), {"images": IMAGES})
    assert differences == {"images": pytest.approx(4e-5, rel=1e-2)}


@pytest.mark.parametrize("error", [0.0011, -0.0011, float("nan"), float("inf")])
def test_more_than_the_tolerance_is_an_error_in_any_batch(error: float) -> None:
    for errors in ((error, 0), (0, error)):
        with pytest.raises(UserError, match=r"over images; 0\.001 is allowed"):
            compare_outputs(off_by(0, 0), off_by(*errors), {"images": IMAGES})


def test_synthetic_photographs_have_the_spectrum_of_photographs() -> None:
    """Power falls as 1/f^2: a slope of -2 over a decade of frequencies, in double logarithms."""
    pixels = make_photograph(1, 256, 256, torch.Generator().manual_seed(3)).float().mean((0, 1))
    power = torch.fft.rfft2(pixels - pixels.mean()).abs() ** 2
    frequency = (torch.fft.fftfreq(256)[:, None] ** 2 + torch.fft.rfftfreq(256) ** 2).sqrt()
    edges = np.geomspace(0.02, 0.2, 9)
    means = [
        power[(frequency >= low) & (frequency < high)].mean().log().item()
        for low, high in pairwise(edges)
    ]
    slope = np.polyfit(np.log(np.sqrt(edges[1:] * edges[:-1])), means, 1)[0]
    assert slope == pytest.approx(-2, abs=0.25)


def test_synthetic_photographs_are_the_same_every_time() -> None:
    photographs = make_photographs()
    assert [(len(each), *each.shape[2:]) for each in photographs] == [*SHAPES]
    for one, other in zip(photographs, make_photographs(), strict=True):
        assert one.dtype == torch.uint8
        assert torch.equal(one, other)
        assert one.float().std() > 40


def test_missing_data_are_a_warning_unless_their_folder_was_given(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(run: Any, root: str | None) -> None:
        raise UserError("missing,\nall of them")

    monkeypatch.setattr(agreement, "read_data", fail)
    run: Any = None
    assert [*read_batches(run, None)] == [PHOTOGRAPHS]
    assert caplog.messages == ["checked without test images: missing, all of them"]
    with pytest.raises(UserError, match="missing"):
        read_batches(run, "elsewhere")
