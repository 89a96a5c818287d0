"""Batches shared out among threads, and what each image gets."""

import threading
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from triptych.tools.predict.images import DecodedImage
from triptych.tools.predict.parallel import share_batches

CPU = torch.device("cpu")


def images(number: int) -> list[DecodedImage]:
    return [DecodedImage(str(place)) for place in range(number)]


@pytest.mark.parametrize(
    ("num_threads", "batch_size", "parts", "own_threads"),
    [
        (1, 64, [64], None),
        (2, 64, [32, 32], 1),
        (4, 30, [10, 10, 10], 1),
        (16, 64, [8] * 8, 2),
        (2, 15, [15], None),
        (2, 1, [1], None),
    ],
)
def test_a_batch_is_taken_by_as_many_threads_as_have_eight_images_each_and_stays_in_order(
    monkeypatch: pytest.MonkeyPatch,
    num_threads: int,
    batch_size: int,
    parts: list[int],
    own_threads: int | None,
) -> None:
    sizes, set_to = list[int](), list[int]()
    together = threading.Barrier(len(parts), timeout=10)
    monkeypatch.setattr(torch, "get_num_threads", lambda: num_threads)
    monkeypatch.setattr(torch, "set_num_threads", set_to.append)

    def classify(part: Sequence[DecodedImage]) -> Tensor:
        together.wait()
        sizes.append(len(part))
        return torch.tensor([float(image.path) for image in part])

    with share_batches(classify, CPU, batch_size) as classify_batch:
        assert classify_batch(images(batch_size)).tolist() == [*range(batch_size)]
    assert sizes == parts
    assert set_to == [own_threads] * len(parts) * (own_threads is not None)


def test_the_last_images_are_fewer_and_a_gpu_takes_a_batch_as_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def classify(part: Sequence[DecodedImage]) -> Tensor:
        return torch.full((len(part),), len(part))

    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    with share_batches(classify, CPU, 64) as classify_batch:
        assert [classify_batch(images(n)).tolist() for n in (1, 3)] == [[1], [2, 2, 1]]
    with share_batches(classify, torch.device("meta"), 64) as classify_batch:
        assert classify_batch is classify
