"""Images as networks see them, decoded in threads."""

import io
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

from triptych.data.decoder import read_image
from triptych.data.photos import square
from triptych.data.transforms import DeviceTransforms
from triptych.models.backbone import Preprocessing
from triptych.tools.predict.images import (
    DecodedImage,
    View,
    decode_batches,
    decode_image,
    read_views,
)

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
    interpolation=st.sampled_from(["bilinear", "bicubic", "nearest"]),
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


def test_a_file_gives_the_pixels_of_every_view_stored_first_where_training_did(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.jpg"
    photo(90, 60).save(path)
    views = [
        View(24, "bilinear", (16, "crop")),
        View(8, "bilinear", None),
        View(9, "bicubic", None),
    ]
    stored, *others = decode_image(str(path), views, 10_000).pixels
    np.testing.assert_array_equal(stored, square(read_image(path, side=16), 16, "crop"))
    assert [pixels.shape for pixels in others] == [(3, 8, 8), (3, 9, 9)]


@pytest.mark.parametrize(("side", "expected"), [(32, (500, 600)), (224, (500, 600)), (300, 1000)])
def test_a_large_jpeg_is_reduced_for_every_network_but_stays_twice_as_large_as_its_input(
    side: int, expected: tuple[int, int] | int
) -> None:
    buffer = io.BytesIO()
    photo(1000, 1200).resize((1000, 1200)).save(buffer, "JPEG")
    [image] = read_views(buffer.getvalue(), [View(side, "bilinear", None)]).values()
    assert image.size == (expected if isinstance(expected, tuple) else (1000, 1200))


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
    scans = view(FOLDER | {"size": 8, "max_value": 4095})
    scan = io.BytesIO()
    Image.fromarray(np.full((8, 8), 4095, np.uint16)).save(scan, "PNG")
    [image] = read_views(scan.getvalue(), [scans]).values()
    assert np.asarray(image).min() == 255


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


def test_batches_come_in_order_and_only_the_next_one_is_decoded_ahead() -> None:
    taken = 0

    def paths() -> Iterator[str]:
        nonlocal taken
        for taken in range(1, 24):
            yield str(taken)

    def decode(path: str) -> DecodedImage:
        threading.Event().wait(0.002 * (int(path) % 3))
        return DecodedImage(path)

    seen = []
    for batch in decode_batches(decode, paths(), batch_size=5, num_threads=4):
        seen += [int(image.path) for image in batch]
        assert taken <= len(seen) + 5
    assert seen == [*range(1, 24)]
    assert not [each for each in threading.enumerate() if each.name.startswith("decoder")]
