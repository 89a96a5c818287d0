"""Image files of every kind: what is decoded, and in what words the rest is refused."""

import gzip
import io
import os
import struct
import zlib
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image, ImageOps

from triptych.data import decoder, photos
from triptych.data.decoder import Decoder, read_image
from triptych.data.photos import IMAGE_SUFFIXES, Unreadable, decode_image, square

# Four quarters, so that every turn and mirror image of it differs from the others.
CORNERS = np.zeros((16, 24, 3), np.uint8)
CORNERS[:8, :12], CORNERS[:8, 12:] = (250, 10, 10), (10, 250, 10)
CORNERS[8:, :12], CORNERS[8:, 12:] = (10, 10, 250), (240, 240, 10)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def pixels(data: bytes, **options: Any) -> np.ndarray:
    return np.asarray(read_image(data, **options)).astype(int)


def test_a_path_and_bytes_give_the_same_rgb(tmp_path: Path) -> None:
    data = encoded(Image.fromarray(CORNERS))
    path = tmp_path / "ünï çödé.png"
    path.write_bytes(data)
    for image in (read_image(path), read_image(data)):
        assert image.mode == "RGB"
        assert_array_equal(np.asarray(image), CORNERS)


# The stored pixels of each orientation, as the EXIF standard words it: where row 0 and column 0
# of what is stored lie in what is shown.
STORED: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda shown: shown,
    2: lambda shown: shown[:, ::-1],
    3: lambda shown: shown[::-1, ::-1],
    4: lambda shown: shown[::-1],
    5: lambda shown: shown.swapaxes(0, 1),
    6: lambda shown: shown.swapaxes(0, 1)[::-1],
    7: lambda shown: shown.swapaxes(0, 1)[::-1, ::-1],
    8: lambda shown: shown.swapaxes(0, 1)[:, ::-1],
}


@pytest.mark.parametrize("orientation", STORED)
def test_a_photo_stands_upright_however_the_camera_was_held(orientation: int) -> None:
    stored, exif = Image.fromarray(np.ascontiguousarray(STORED[orientation](CORNERS))), Image.Exif()
    exif[0x0112] = orientation
    assert_array_equal(pixels(encoded(stored, exif=exif)), CORNERS)
    unreadable = encoded(Image.fromarray(CORNERS), exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert_array_equal(pixels(unreadable), CORNERS)


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr"])
def test_other_modes_show_what_pillow_shows(mode: str) -> None:
    image = Image.fromarray(CORNERS).convert(mode)
    kind = "TIFF" if mode in ("CMYK", "YCbCr") else "PNG"
    assert_allclose(pixels(encoded(image, kind)), image.convert("RGB"), atol=1)
    white = Image.new("CMYK", (8, 8), (0, 0, 0, 0))
    assert pixels(encoded(white, "JPEG")).min() > 250, "Photoshop's ink is inverted"


@pytest.mark.parametrize("alpha", [0, 51, 255])
def test_what_is_transparent_shows_white(alpha: int) -> None:
    red = encoded(Image.new("RGBA", (4, 4), (200, 0, 0, alpha)))
    share = alpha / 255
    expected = [255 + share * (200 - 255), 255 * (1 - share), 255 * (1 - share)]
    assert_allclose(pixels(red)[0, 0], expected, atol=1)
    grey = encoded(Image.new("LA", (4, 4), (100, alpha)))
    assert_allclose(pixels(grey)[0, 0], [255 + share * (100 - 255)] * 3, atol=1)


def test_a_palette_or_one_colour_may_be_transparent() -> None:
    image = Image.new("P", (8, 8), 1)
    image.putpalette([200, 0, 0, 0, 0, 200])
    image.paste(0, (0, 0, 4, 8))
    for kind in ("PNG", "GIF"):
        shown = pixels(encoded(image, kind, transparency=0))
        assert_array_equal(shown[0, 0], [255, 255, 255])
        assert_array_equal(shown[0, 7], [0, 0, 200])
    half = pixels(encoded(image, transparency=b"\xff\x80"))
    assert_allclose(half[0, 7], [127, 127, 227], atol=1)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_grey_of_16_bits_is_scaled_and_not_clipped(kind: str) -> None:
    ramp = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    shown = pixels(encoded(Image.fromarray(ramp), kind))
    assert_allclose(shown[..., 0], ramp / 257, atol=1)
    assert_array_equal(shown[..., 0], shown[..., 2])


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.float32([[0, 0.5], [0.25, 1]]), [[0, 128], [64, 255]]),
        (np.float32([[-2, 0], [2, 2]]), [[0, 128], [255, 255]]),
        (np.float32([[0, np.nan], [0.5, np.inf]]), [[0, 0], [128, 0]]),
        (np.int32([[0, 65535], [257, 514]]), [[0, 255], [1, 2]]),
        (np.int32([[-100, 100], [0, 0]]), [[0, 255], [128, 128]]),
    ],
)
def test_fractions_and_large_numbers_keep_their_order(
    values: np.ndarray, expected: list[list[int]]
) -> None:
    shown = pixels(encoded(Image.fromarray(values), "TIFF"))[..., 0]
    assert_allclose(shown, expected, atol=1)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF", "MPO"])
def test_of_several_images_the_first_counts(kind: str) -> None:
    first, second = (Image.new("RGB", (8, 8), colour) for colour in ("red", "blue"))
    data = encoded(first, kind, save_all=True, append_images=[second])
    assert_allclose(pixels(data)[0, 0], [255, 0, 0], atol=5)


def png_header(width: int, height: int) -> bytes:
    """A PNG of a hundred bytes whose header names these pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
        for chunk in (header, b"IDAT" + zlib.compress(b""), b"IEND")
    )


def test_too_many_pixels_are_refused_by_the_header_at_a_limit_that_can_be_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for side in (10_000, 65_000):
        with pytest.raises(Unreadable, match="max_pixels=64000000"):
            read_image(png_header(side, side))
    for size in ((70_000, 1), (1, 70_000)):  # which resizing would make 70,000 x 224
        with pytest.raises(Unreadable, match="more than 65536 a side"):
            read_image(png_header(*size))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # Pillow's own gives way
    data = encoded(Image.fromarray(CORNERS))
    with pytest.raises(Unreadable, match="24x16 pixels, more than max_pixels=383"):
        read_image(data, max_pixels=16 * 24 - 1)
    assert read_image(data, max_pixels=16 * 24).size == (24, 16)
    # An icon may hide a larger image than its header names.
    inner = encoded(Image.new("RGB", (300, 200), "red"))
    entry = struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, len(inner), 22)
    with pytest.raises(Unreadable, match="max_pixels=40000"):
        read_image(struct.pack("<HHH", 0, 1, 1) + entry + inner, max_pixels=40_000)


def repeat_scan(data: bytes, times: int) -> bytes:
    """A JPEG whose last scan, with its Huffman table, is there so often."""
    start = data.rindex(b"\xff\xc4")
    return data[:start] + data[start:-2] * times + data[-2:]


@pytest.mark.parametrize("kind", ["JPEG", "MPO"])
@pytest.mark.parametrize(("mode", "own"), [("L", 6), ("RGB", 10)])
def test_a_jpeg_has_at_most_100_scans(kind: str, mode: str, own: int) -> None:
    image = Image.fromarray(CORNERS).convert(mode)
    data = encoded(image, "JPEG", progressive=True)
    assert data.count(b"\xff\xda") == own
    behind = encoded(image, "JPEG") if kind == "MPO" else b""
    most = repeat_scan(data, 101 - own) + behind
    assert_array_equal(pixels(most), pixels(data))
    # Neither what is behind the image, such as a film, nor a comment counts.
    assert read_image(most + b"\xff\xda" * 200).size == image.size
    comment = b"\xff\xfe\x01\x92" + b"\xff\xda" * 200
    assert read_image(most[:2] + comment + most[2:]).size == image.size
    with pytest.raises(Unreadable, match="100 scans"):
        read_image(repeat_scan(data, 102 - own) + behind)


def tiff(tags: dict[int, list[int]], data: bytes) -> bytes:
    """Grey, deflated, 8 bits; the data is at byte 8."""
    tags = {258: [8], 259: [8], 262: [1], 277: [1]} | tags
    start = 8 + len(data)
    entries, beyond = b"", b""
    for tag, values in sorted(tags.items()):
        packed = struct.pack(f"<{len(values)}I", *values)
        if len(values) > 1:
            place = start + 6 + 12 * len(tags) + len(beyond)
            packed, beyond = struct.pack("<I", place), beyond + packed
        entries += struct.pack("<HHI", tag, 4, len(values)) + packed
    head = b"II*\0" + struct.pack("<I", start) + data + struct.pack("<H", len(tags))
    return head + entries + bytes(4) + beyond


def test_a_tiff_is_not_larger_inside_than_it_says() -> None:
    data = zlib.compress(bytes(4096))

    def tiles(side: int) -> bytes:
        return tiff(
            {256: [40], 257: [40], 322: [side], 323: [side], 324: [8], 325: [len(data)]}, data
        )

    assert read_image(tiles(64), max_pixels=2048).size == (40, 40)
    with pytest.raises(Unreadable, match="tiles of 80x80"):
        read_image(tiles(80), max_pixels=2048)
    # Every row in the same bytes, most of which are empty blocks.
    data = b"\x78\x01" + b"\0\0\0\xff\xff" * 100 + zlib.compress(bytes(1))[2:]

    def rows(num: int) -> bytes:
        return tiff({256: [1], 257: [num], 278: [1], 273: [8] * num, 279: [len(data)] * num}, data)

    assert read_image(rows(4), max_pixels=500).size == (1, 4)
    with pytest.raises(Unreadable, match="upon each other"):
        read_image(rows(400), max_pixels=500)


def fits(side: int) -> bytes:
    """Black, compressed, of a format that Pillow decodes pixel by pixel."""
    first: dict[str, Any] = {"SIMPLE": "T", "BITPIX": 8, "NAXIS": 0}
    second = {"XTENSION": "'BINTABLE'", "BITPIX": 8, "NAXIS": 2, "NAXIS1": 0, "NAXIS2": 0}
    second |= {"ZIMAGE": "T", "ZCMPTYPE": "'GZIP_1  '"}
    second |= {"ZBITPIX": 8, "ZNAXIS": 2, "ZNAXIS1": side, "ZNAXIS2": side}
    heads = [
        "".join(f"{key:8}= {value}".ljust(80) for key, value in cards.items()) + "END"
        for cards in (first, second)
    ]
    return b"".join(h.ljust(2880).encode() for h in heads) + gzip.compress(bytes(4 * side**2))


def test_what_takes_long_is_ended_and_the_next_image_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "slow.fits"
    path.write_bytes(fits(2000))
    process = Decoder(seconds=0.2)
    for source in (path, path.read_bytes()):
        with pytest.raises(Unreadable, match=r"more than 0\.2 s"):
            process.read_image(source)
        image = process.read_image(encoded(Image.fromarray(CORNERS)))
        assert_array_equal(np.asarray(image), CORNERS)
    with pytest.raises(Unreadable, match="not decoded here"):
        process.read_image(path, formats=photos.COMMON)
    assert process.process
    process.process.kill()
    process.process.wait()
    assert process.read_image(encoded(Image.fromarray(CORNERS))).size == (24, 16)
    # Of a common format, each piece that is read takes little.
    monkeypatch.setattr(photos, "MAX_SECONDS", 0.05)
    data, profile = encoded(Image.new("L", (1, 1))), b"iCCPa\0\0" + zlib.compress(bytes(10**6))
    chunk = struct.pack(">I", len(profile) - 4) + profile + struct.pack(">I", zlib.crc32(profile))
    assert read_image(data[:33] + chunk + data[33:]).size == (1, 1)
    with pytest.raises(Unreadable, match=r"more than 0\.05 s"):
        read_image(data[:33] + chunk * 200 + data[33:])


def test_a_rare_format_is_decoded_to_the_same_pixels_and_imports_nothing_from_where_one_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(decoder, "idle", [])
    (tmp_path / "numpy.py").write_text("raise SystemExit")
    deep = encoded(Image.fromarray(np.array([[0, 4095]] * 2, np.uint16)), "JPEG2000")
    for options in ({}, {"max_value": 4095.0}):
        images = [read(deep, **options) for read in (read_image, decode_image)]
        assert_array_equal(*map(np.asarray, images))
        assert [image.info["max_value"] for image in images] == [4095, 4095]
    assert len(decoder.idle) == 1


def noise(kind: str) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    return encoded(Image.fromarray(pixels), kind)


def test_what_is_no_image_cut_short_or_a_program_is_refused_in_one_line() -> None:
    cut = [
        noise(kind)[: int(len(noise(kind)) * share)]
        for kind in ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP")
        for share in (0, 0.01, 0.5, 0.9)
    ]
    for data in (*cut, b"no image\n" * 9, b"\0" * 99, encoded(Image.new("L", (4, 4)), "EPS")):
        with pytest.raises(Unreadable, match=r"\A[^\n]+\Z"):
            read_image(data)
    with pytest.raises(Unreadable, match="not decoded here"):
        read_image(encoded(Image.fromarray(CORNERS), "GIF"), formats=("JPEG", "PNG"))
    assert not {".eps", ".ps", ".wmf", ".mpg"} & IMAGE_SUFFIXES
    assert {".mpo", ".jpg", ".jpeg", ".png", ".gif", ".webp", ".tif", ".bmp"} <= IMAGE_SUFFIXES


def test_no_byte_that_is_altered_raises_anything_else() -> None:
    rng = np.random.default_rng(1)
    refused = 0
    for kind in ("JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP", "PPM", "TGA", "ICO"):
        data = bytearray(noise(kind))
        for _ in range(30):
            altered = bytearray(data)
            for place in rng.integers(0, min(len(data), 400), 5):
                altered[place] = rng.integers(256)
            try:
                read_image(bytes(altered), max_pixels=10**6)
            except Unreadable:
                refused += 1
    assert 0 < refused < 270


def test_a_path_without_a_file_a_folder_and_a_pipe_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path / "none.png", tmp_path, tmp_path / "pipe.png", tmp_path / ("x" * 5000)):
        with pytest.raises(Unreadable, match=r"no file|too long"):
            read_image(path)


def test_a_large_jpeg_is_decoded_at_a_smaller_scale_without_a_visible_difference() -> None:
    y, x = np.mgrid[:600, :800]
    waves = np.stack([127 + 120 * np.sin(x / 40), 127 + 120 * np.cos(y / 30), (x + y) % 256], -1)
    data = encoded(Image.fromarray(waves.astype(np.uint8)), "JPEG", quality=95)
    assert read_image(data, side=64).size == (200, 150)
    whole_scale, small_scale = (square(read_image(data, side=s), 64) for s in (None, 64))
    assert np.abs(whole_scale.astype(int) - small_scale).mean() < 2


def test_a_square_is_cropped_padded_or_stretched() -> None:
    image = Image.fromarray(CORNERS)
    middle = square(image, 16)
    assert middle.shape == (3, 16, 16)
    assert_array_equal(middle, CORNERS[:, 4:20].transpose(2, 0, 1))
    padded = square(image, 24, "pad")
    assert_array_equal(padded[:, 4:20], CORNERS.transpose(2, 0, 1))
    assert padded[:, :4].max() == padded[:, 20:].max() == 0
    assert_allclose(square(image, 4, "stretch")[:, 0, 3].astype(int), CORNERS[0, 23], atol=15)
    for size, fit in product([(1, 1), (3000, 1), (1, 3000), (7, 5)], photos.FITS):
        assert square(Image.new("RGB", size, "red"), 32, fit).shape == (3, 32, 32)


@pytest.mark.parametrize("size", [(640, 480), (83, 60), (300, 1), (24, 24), (9, 8)])
def test_squares_of_photos_wider_than_high_are_those_of_pillow_in_one_call(
    size: tuple[int, int],
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), np.uint8)
    image = Image.fromarray(noise)
    for side in (16, 24):
        expected = {
            "crop": ImageOps.fit(image, (side, side)),
            "pad": ImageOps.pad(image, (side, side), color="black"),
            "stretch": image.resize((side, side)),
        }
        for fit, whole in expected.items():
            assert_array_equal(square(image, side, fit).transpose(1, 2, 0), np.asarray(whole))


@pytest.mark.parametrize(
    ("dtype", "max_value", "values", "expected"),
    [
        ("<u2", 4095, [0, 2047, 4095], [0, 127, 255]),
        (">u2", 4095, [0, 2048, 65535], [0, 128, 255]),
        ("<u2", 1023, [0, 512, 1023], [0, 128, 255]),
        ("<u2", 16383, [0, 8191, 16383], [0, 127, 255]),
        ("<i4", 4095, [-5, 2047, 4095], [0, 127, 255]),
        ("<f4", 1, [0, 0.5, 1], [0, 128, 255]),
        ("<f4", 255, [0, 100, 255], [0, 100, 255]),
    ],
)
def test_white_in_photos_of_more_than_8_bits_can_be_set(
    dtype: str, max_value: float, values: list[float], expected: list[int]
) -> None:
    data = encoded(Image.fromarray(np.array([values]).astype(dtype)), "TIFF")
    assert pixels(data, max_value=max_value)[0, :, 0].tolist() == expected
    assert read_image(data).info["max_value"] == values[-1]
    eight_bits = encoded(Image.fromarray(CORNERS))
    assert_array_equal(pixels(eight_bits, max_value=max_value), CORNERS)


def test_a_heic_names_the_package_that_decodes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(photos, "FORMATS", photos.COMMON)
    path = tmp_path / "IMG_1.HEIC"
    path.write_bytes(b"\0\0\0\x24ftypheic\0\0\0\0" + bytes(100))
    for source in (path, path.read_bytes()):
        with pytest.raises(Unreadable, match="pip install 'pillow-heif"):
            decode_image(source, formats=photos.COMMON)


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_heic_is_an_upright_photo_once_the_extra_is_installed(orientation: int) -> None:
    pytest.importorskip("pillow_heif")
    large = Image.fromarray(CORNERS.repeat(4, 0).repeat(4, 1))
    exif = Image.Exif()
    exif[0x0112] = orientation
    shown = pixels(encoded(large, "PNG", exif=exif))
    got = pixels(encoded(large, "HEIF", quality=100, exif=exif.tobytes()))
    assert ".heic" in IMAGE_SUFFIXES
    assert_allclose(got[8::32, 8::32], shown[8::32, 8::32], atol=8)
