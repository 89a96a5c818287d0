"""Photos as networks see them, decoded in threads."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from triptych.data.photos import read_image, square
from triptych.data.transforms import DeviceTransforms
from triptych.models.backbone import Preprocessing
from triptych.tools.predict.decoding import Decoder, View, in_order

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def photo(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@settings(max_examples=25, deadline=None)
@given(
    width=st.integers(1, 90),
    height=st.integers(1, 40) | st.integers(500, 800),
    size=st.integers(1, 70),
    interpolation=st.sampled_from(["bilinear", "bicubic"]),
)
def test_a_photo_of_any_size_is_seen_as_the_pipeline_sees_all_of_it(
    width: int, height: int, size: int, interpolation: str
) -> None:
    image = photo(width, height)
    pipeline = DeviceTransforms(Preprocessing(size, MEAN, STD, interpolation))
    stored = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
    seen = View(size, interpolation, None)(image)
    torch.testing.assert_close(
        pipeline.evaluation(seen[None]), pipeline.evaluation(stored), rtol=0, atol=1e-5
    )


def test_a_photo_is_stored_first_where_training_stored_its_own(tmp_path: Path) -> None:
    photo(90, 60).save(tmp_path / "a.jpg")
    view = View(24, "bilinear", (16, "crop"))
    [seen] = Decoder([view], 10_000, 0)((0, str(tmp_path / "a.jpg"))).seen
    expected = square(read_image(tmp_path / "a.jpg", side=16), 16, "crop")
    assert seen.dtype == torch.uint8
    np.testing.assert_array_equal(seen, expected)


def test_every_view_is_served_by_one_file(tmp_path: Path) -> None:
    photo(90, 60).save(tmp_path / "a.png")
    views = [View(8, "bilinear", None), View(9, "bicubic", None), View(8, "bilinear", (5, "pad"))]
    found = Decoder(views, 10_000, num_thumbnails=1)((0, str(tmp_path / "a.png")))
    assert [seen.shape[-1] for seen in found.seen] == [8, 9, 5]
    assert found.thumbnail
    assert found.thumbnail.size == (90, 60)
    assert Decoder(views, 10_000, num_thumbnails=1)((1, str(tmp_path / "a.png"))).thumbnail is None


@pytest.mark.parametrize("name", ["lost.png", "text.png", "cut.png", "wide.png", "x" * 300, "."])
def test_what_gives_no_image_gives_its_reason(tmp_path: Path, name: str) -> None:
    photo(30, 30).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:-300])
    (tmp_path / "text.png").write_text("no image")
    Image.new("RGB", (101, 10)).save(tmp_path / "wide.png")
    decode = Decoder([View(8, "bilinear", None)], 1000, 0)
    assert decode((0, str(tmp_path / "whole.png"))).error is None
    found = decode((0, str(tmp_path / name)))
    assert found.error
    assert "\n" not in found.error
    assert found.seen == ()


class Counted:
    """Items and what is begun of them."""

    def __init__(self) -> None:
        self.taken, self.running, self.most_running = 0, 0, 0
        self.lock = threading.Lock()

    def items(self, number: int) -> Iterator[int]:
        for self.taken in range(1, number + 1):
            yield self.taken

    def call(self, item: int) -> int:
        with self.lock:
            self.running += 1
            self.most_running = max(self.most_running, self.running)
        threading.Event().wait(0.002 * (item % 3))
        with self.lock:
            self.running -= 1
        return item * item


def test_results_come_in_order_and_items_are_taken_only_as_they_are_needed() -> None:
    counted = Counted()
    results = in_order(counted.call, counted.items(200), num_threads=4, num_ahead=6)
    for place, result in enumerate(results, start=1):
        assert result == place * place
        assert counted.taken <= place + 6
    assert place == 200
    assert 1 < counted.most_running <= 4


def test_an_end_before_the_last_leaves_no_thread_behind() -> None:
    counted = Counted()
    before = threading.active_count()
    results = in_order(counted.call, counted.items(10**9), num_threads=3, num_ahead=5)
    next(results)
    results.close()
    assert counted.taken <= 6
    assert threading.active_count() == before


def test_an_error_of_ours_is_raised_where_results_are_read() -> None:
    def fail(_: Any) -> None:
        raise AssertionError("ours")

    with pytest.raises(AssertionError, match="ours"):
        next(in_order(fail, [1], num_threads=1, num_ahead=1))
