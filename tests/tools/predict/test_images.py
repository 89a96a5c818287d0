"""Images as networks see them, decoded in threads."""

import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from triptych.data.photos import read_image, square
from triptych.data.transforms import DeviceTransforms
from triptych.errors import UserError
from triptych.models.backbone import Preprocessing
from triptych.tools.predict.images import View, decode_image, map_ahead

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FOLDER = {"_target_": "triptych.data.folder.Folder", "root": "photos"}


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
def test_an_image_of_any_size_is_seen_as_the_pipeline_sees_all_of_it(
    width: int, height: int, size: int, interpolation: str
) -> None:
    image = photo(width, height)
    pipeline = DeviceTransforms(Preprocessing(size, MEAN, STD, interpolation))
    whole = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
    pixels = View(size, interpolation, None)(image)
    torch.testing.assert_close(
        pipeline.evaluation(pixels[None]), pipeline.evaluation(whole), rtol=0, atol=1e-5
    )


def test_a_photo_is_stored_first_where_training_stored_its_own(tmp_path: Path) -> None:
    photo(90, 60).save(tmp_path / "a.jpg")
    [pixels] = decode_image(
        str(tmp_path / "a.jpg"), [View(24, "bilinear", (16, "crop"))], 10_000
    ).pixels
    assert pixels.dtype == torch.uint8
    np.testing.assert_array_equal(
        pixels, square(read_image(tmp_path / "a.jpg", side=16), 16, "crop")
    )


def view(source: dict[str, Any]) -> View:
    run: Any = SimpleNamespace(
        config={"data": {"source": source}},
        backbone=SimpleNamespace(preprocessing=Preprocessing(224, (0.5,) * 3, (0.5,) * 3)),
    )
    return View.from_run(run)


def test_the_view_of_a_run_has_its_size_and_how_its_images_were_stored() -> None:
    shapes = {"_target_": "triptych.data.shapes.Shapes", "num_train": 10, "num_test": 10, "seed": 0}
    assert view(shapes) == View(224, "bilinear", None)
    assert view(FOLDER | {"size": 99, "fit": "pad"}) == View(224, "bilinear", (99, "pad"))
    for wrong in ({"size": 0}, {"size": 2**20}, {"size": "9"}, {"fit": "zoom"}):
        with pytest.raises(UserError):
            view(FOLDER | wrong)


def test_every_view_is_served_by_one_file(tmp_path: Path) -> None:
    photo(90, 60).save(tmp_path / "a.png")
    views = [View(8, "bilinear", None), View(9, "bicubic", None), View(8, "bilinear", (5, "pad"))]
    decoded = decode_image(str(tmp_path / "a.png"), views, 10_000)
    assert [pixels.shape[-1] for pixels in decoded.pixels] == [8, 9, 5]


@pytest.mark.parametrize("name", ["lost.png", "text.png", "cut.png", "wide.png", "x" * 300, "."])
def test_a_file_that_gives_no_image_gives_its_error_in_a_line(tmp_path: Path, name: str) -> None:
    photo(30, 30).save(tmp_path / "good.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "good.png").read_bytes()[:-300])
    (tmp_path / "text.png").write_text("no image")
    Image.new("RGB", (101, 10)).save(tmp_path / "wide.png")
    views = [View(8, "bilinear", None)]
    assert decode_image(str(tmp_path / "good.png"), views, 1000).error is None
    decoded = decode_image(str(tmp_path / name), views, 1000)
    assert decoded.error
    assert "\n" not in decoded.error
    assert decoded.pixels == ()


class Counter:
    """Counts items and calls in progress."""

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
    counter = Counter()
    results = map_ahead(counter.call, counter.items(100), num_threads=4, num_ahead=6)
    for place, result in enumerate(results, start=1):
        assert result == place * place
        assert counter.taken <= place + 6
    assert place == 100
    assert 1 < counter.most_running <= 4


def test_closing_before_the_last_result_leaves_no_thread_behind() -> None:
    counter = Counter()
    before = threading.active_count()
    results = map_ahead(counter.call, counter.items(10**9), num_threads=3, num_ahead=5)
    next(results)
    results.close()
    assert counter.taken <= 6
    assert threading.active_count() == before
