"""What networks say of an image file, against the networks themselves."""

import base64
import io
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
from triptych.tools.serve.answers import Answer, agreement, answer, give, look
from triptych.tools.serve.networks import Group, Network

PIXELS = np.random.default_rng(1).integers(0, 256, (60, 90, 3), np.uint8)
WHATEVER = 10**6


def encoded(kind: str, pixels: np.ndarray = PIXELS) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def asked_of(network: Network) -> Answer:
    return look(network, give(network.view, Image.fromarray(PIXELS)), CLASSES)


def decoded(uri: str) -> Image.Image:
    head, _, content = uri.partition(",")
    assert head == "data:image/png;base64"
    return Image.open(io.BytesIO(base64.b64decode(content)))


def test_the_classes_are_the_most_probable_of_the_network_on_the_squashed_image(
    group: Group,
) -> None:
    said = answer(group, encoded("PNG"), WHATEVER)
    pixels = torch.from_numpy(PIXELS).permute(2, 0, 1)[None] / 255
    small = v2.functional.resize_image(pixels, [32, 32], antialias=True)
    mean, std = torch.tensor([[[0.485, 0.456, 0.406]], [[0.229, 0.224, 0.225]]])
    for each, seed in zip(said["answers"], (0, 0), strict=True):
        with torch.no_grad():
            logits = network(each["name"], CLASSES, seed)(
                (small - mean.view(3, 1, 1)) / std.view(3, 1, 1)
            )
        expected, order = logits.softmax(1)[0].sort(descending=True)
        assert [name for name, _ in each["top"]] == [CLASSES[i] for i in order[:5]]
        shares = [share for _, share in each["top"]]
        torch.testing.assert_close(torch.tensor(shares), expected[:5], rtol=1e-3, atol=1e-4)
        assert each["latency_ms"] > 0


def test_the_picture_is_what_was_sent_and_the_heat_is_as_large_as_the_networks_input(
    group: Group,
) -> None:
    for each in answer(group, encoded("PNG"), WHATEVER)["answers"]:
        np.testing.assert_array_equal(np.asarray(decoded(each["picture"])), PIXELS)
        assert each["shape"] == 1.5
        assert (each["heat"] is None) == bool(each["missing"])
        if each["heat"]:
            assert decoded(each["heat"]).size == (32, 32)


def test_a_large_image_comes_back_small(group: Group) -> None:
    [picture, *_] = answer(group, encoded("PNG", PIXELS.repeat(20, 0)), WHATEVER * 9)["answers"]
    assert decoded(picture["picture"]).size == (36, 480)


def test_a_hair_of_an_image_is_an_image(group: Group) -> None:
    [first, *_] = answer(group, encoded("PNG", PIXELS[:1].repeat(100, 1)), WHATEVER)["answers"]
    assert decoded(first["picture"]).size == (480, 1)


def test_a_network_is_shown_the_square_it_was_trained_on_where_that_was_cut(group: Group) -> None:
    first = group.networks[0]
    cut = replace(first, view=first.view._replace(stored=(60, "crop")))
    said = asked_of(cut)
    assert said.shape == 1
    np.testing.assert_array_equal(np.asarray(decoded(said.picture)), PIXELS[:, 15:75])


@pytest.mark.parametrize("kind", ["AVIF", "BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP"])
def test_every_format_of_the_list_is_read(group: Group, kind: str) -> None:
    assert answer(group, encoded(kind), WHATEVER)["says"]


@pytest.mark.parametrize("kind", ["PPM", "ICO", "TGA", "PDF"])
def test_no_other_format_is(group: Group, kind: str) -> None:
    with pytest.raises(Unreadable):
        answer(group, encoded(kind), WHATEVER)


def test_more_pixels_than_the_limit_are_refused_by_the_header_alone(group: Group) -> None:
    with pytest.raises(Unreadable, match="90x60 pixels, more than max_pixels=5399"):
        answer(group, encoded("PNG")[:60], 60 * 90 - 1)
    answer(group, encoded("PNG"), 60 * 90)


def test_a_network_without_a_map_answers_without_heat_and_says_why(
    group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_map(*_: object) -> None:
        raise UserError("no map")

    monkeypatch.setattr("triptych.tools.serve.answers.grad_cam", no_map)
    said = asked_of(group.networks[0])
    assert (said.heat, said.missing.startswith("No Grad-CAM: ")) == (None, True)
    assert len(said.top) == 5


def test_heat_that_is_nowhere_is_no_black_picture(
    group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    cold: Callable[..., torch.Tensor] = lambda *_: torch.zeros(1, 32, 32)  # noqa: E731
    monkeypatch.setattr("triptych.tools.serve.answers.grad_cam", cold)
    said = asked_of(group.networks[0])
    assert said.heat is None
    assert "nothing in its map" in said.missing


def test_numbers_that_are_not_finite_are_no_answer(
    group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = group.networks[0].run
    monkeypatch.setattr(run, "forward", lambda _: torch.full((1, len(CLASSES)), torch.nan))
    with pytest.raises(UserError, match="not finite"):
        asked_of(group.networks[0])


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ("a:cat", "a says cat."),
        ("a:cat b:cat", "Both networks say cat."),
        ("a:cat b:cat c:cat", "All 3 networks say cat."),
        ("a:cat b:dog", "They do not agree: a says cat and b says dog."),
        ("a:ox b:dog c:cat", "No two of the 3 agree: a says ox, b says dog and c says cat."),
        ("a:ox b:cat c:cat", "2 of 3 networks say cat (b and c), 1 says ox (a)."),
        ("a:ox b:ox c:hen d:hen", "2 of 4 networks say ox (a and b), 2 say hen (c and d)."),
        ("a:ox b:ox c:d d:e", "2 of 4 networks say ox (a and b), 1 says d (c), 1 says e (d)."),
    ],
)  # fmt: skip
def test_who_agrees_is_said_in_a_sentence(said: str, sentence: str) -> None:
    pairs = [(each.split(":")[0], each.split(":")[1]) for each in said.split()]
    assert agreement(pairs) == sentence
