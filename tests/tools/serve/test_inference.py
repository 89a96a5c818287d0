"""Predictions for an image file, against the networks themselves."""

import base64
import io
import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from tests.tools.serve.conftest import CLASSES, network
from triptych.data.photos import Unreadable
from triptych.errors import UserError
from triptych.tools.serve.inference import (
    NetworkPrediction,
    classify,
    classify_image,
    prepare_input,
    summarize_votes,
)
from triptych.tools.serve.networks import Network, NetworkGroup

PIXELS = np.random.default_rng(1).integers(0, 256, (60, 90, 3), np.uint8)
MANY = 10**6


def encode(kind: str, pixels: np.ndarray = PIXELS) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def predict(network: Network) -> NetworkPrediction:
    return classify(network, prepare_input(network.view, Image.fromarray(PIXELS)), CLASSES)


def decode(uri: str) -> Image.Image:
    head, _, content = uri.partition(",")
    assert head == "data:image/png;base64"
    return Image.open(io.BytesIO(base64.b64decode(content)))


def test_the_classes_are_the_most_probable_of_the_network_on_the_resized_image(
    group: NetworkGroup,
) -> None:
    pixels = torch.from_numpy(PIXELS).permute(2, 0, 1)[None] / 255
    small = v2.functional.resize_image(pixels, [32, 32], antialias=True)
    mean, std = torch.tensor([[[0.485, 0.456, 0.406]], [[0.229, 0.224, 0.225]]]).view(2, 3, 1, 1)
    for each in classify_image(group, encode("PNG"), MANY)["predictions"]:
        with torch.no_grad():
            logits = network(each["name"], CLASSES, 0)((small - mean) / std)
        expected, order = logits.softmax(1)[0].sort(descending=True)
        assert [name for name, _ in each["top"]] == [CLASSES[i] for i in order[:5]]
        shares = [share for _, share in each["top"]]
        torch.testing.assert_close(torch.tensor(shares), expected[:5], rtol=1e-3, atol=1e-4)
        assert each["latency_ms"] > 0


def test_the_picture_is_the_image_and_the_heat_is_as_large_as_the_networks_input(
    group: NetworkGroup,
) -> None:
    for each in classify_image(group, encode("PNG"), MANY)["predictions"]:
        np.testing.assert_array_equal(np.asarray(decode(each["picture"])), PIXELS)
        assert each["shape"] == 1.5
        assert (each["heat"] is None) == bool(each["note"])
        if each["heat"]:
            assert decode(each["heat"]).size == (32, 32)


@pytest.mark.parametrize(
    ("pixels", "size"),
    [(PIXELS.repeat(20, 0), (36, 480)), (PIXELS[:1].repeat(100, 1), (480, 1))],
    ids=["a large image", "one of a single row"],
)
def test_the_picture_has_no_side_above_its_limit(
    group: NetworkGroup, pixels: np.ndarray, size: tuple[int, int]
) -> None:
    [first, *_] = classify_image(group, encode("PNG", pixels), MANY)["predictions"]
    assert decode(first["picture"]).size == size


def test_the_picture_is_the_square_that_training_cut(group: NetworkGroup) -> None:
    first = group.networks[0]
    cut = replace(first, view=first.view._replace(stored=(60, "crop")))
    prediction = predict(cut)
    assert prediction.shape == 1
    np.testing.assert_array_equal(np.asarray(decode(prediction.picture)), PIXELS[:, 15:75])


@pytest.mark.parametrize("kind", ["AVIF", "BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP"])
def test_every_listed_format_is_read(group: NetworkGroup, kind: str) -> None:
    assert classify_image(group, encode(kind), MANY)["summary"]


@pytest.mark.parametrize("kind", ["PPM", "ICO", "TGA", "PDF"])
def test_no_other_format_is_read(group: NetworkGroup, kind: str) -> None:
    with pytest.raises(Unreadable):
        classify_image(group, encode(kind), MANY)


def test_more_pixels_than_the_limit_are_an_error_by_the_header_alone(group: NetworkGroup) -> None:
    with pytest.raises(Unreadable, match="90x60 pixels, more than max_pixels=5399"):
        classify_image(group, encode("PNG")[:60], 60 * 90 - 1)
    classify_image(group, encode("PNG"), 60 * 90)


def raise_no_map(*_: object) -> torch.Tensor:
    raise UserError("no map")


@pytest.mark.parametrize(
    ("grad_cam", "reason"),
    [(raise_no_map, "no map"), (lambda *_: torch.zeros(1, 32, 32), "no part of the image")],
)
def test_a_prediction_without_heat_says_why(
    group: NetworkGroup,
    monkeypatch: pytest.MonkeyPatch,
    grad_cam: Callable[..., torch.Tensor],
    reason: str,
) -> None:
    monkeypatch.setattr("triptych.tools.serve.inference.grad_cam", grad_cam)
    prediction = predict(group.networks[0])
    assert prediction.heat is None
    assert reason in prediction.note
    assert len(prediction.top) == 5


def test_an_output_that_is_not_finite_is_an_error(
    group: NetworkGroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = group.networks[0].run
    monkeypatch.setattr(run, "forward", lambda _: torch.full((1, len(CLASSES)), torch.nan))
    with pytest.raises(UserError, match="not finite"):
        predict(group.networks[0])


@pytest.mark.parametrize(
    ("votes", "parts"),
    [
        ("a:cat", ["a", "cat"]),
        ("a:cat b:cat", ["Both", "cat"]),
        ("a:cat b:cat c:cat", ["All 3", "cat"]),
        ("a:cat b:dog", ["cat (a)", "dog (b)"]),
        ("a:ox b:cat c:cat", ["cat (b and c)", "ox (a)"]),
        ("a:x b:x c:x d:x e:x f:y", ["x (a, b, c, d and 1 more)", "y (f)"]),
    ],
)
def test_the_summary_says_who_votes_for_what_most_votes_first(votes: str, parts: list[str]) -> None:
    pairs = [(each.split(":")[0], each.split(":")[1]) for each in votes.split()]
    assert re.search(".*".join(map(re.escape, parts)), summarize_votes(pairs))
