"""Predictions for an image file, against the networks themselves."""

import base64
import io
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from tests.tools.serve.conftest import CLASSES, SEEDS, STORED, Plant
from tests.untrained import network
from triptych.data.photos import Unreadable
from triptych.errors import UserError
from triptych.runs.predictions import read_validation
from triptych.runs.record import Record
from triptych.tools.predict.answers import NONE
from triptych.tools.serve.inference import (
    NetworkPrediction,
    classify,
    classify_images,
    draw_picture,
    find_examples,
    prepare_image,
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
    [prediction] = classify(network, network.view(Image.fromarray(PIXELS))[None], CLASSES)
    return prediction


def classify_image(group: NetworkGroup, content: bytes) -> dict[str, Any]:
    [answer] = classify_images(group, [prepare_image(group, content, MANY)])
    return answer


def decode(uri: str) -> Image.Image:
    head, _, content = uri.partition(",")
    assert head == "data:image/png;base64"
    return Image.open(io.BytesIO(base64.b64decode(content)))


def test_the_classes_are_the_most_probable_of_the_network_on_the_resized_image(
    group: NetworkGroup,
) -> None:
    pixels = torch.from_numpy(PIXELS).permute(2, 0, 1)[None] / 255
    small = v2.functional.resize_image(pixels, [32, 32], antialias=True)
    for each in classify_image(group, encode("PNG"))["predictions"]:
        with torch.no_grad():
            logits = network(SEEDS[each["name"]])((small - 0.5) / 0.5)
        expected, order = logits.softmax(1)[0].sort(descending=True)
        assert [name for name, _ in each["top"]] == [CLASSES[i] for i in order[:5]]
        shares = [share for _, share in each["top"]]
        torch.testing.assert_close(torch.tensor(shares), expected[:5], rtol=1e-3, atol=1e-4)
        assert each["latency_ms"] > 0


def test_each_network_answers_by_its_own_validation_images(answering: NetworkGroup) -> None:
    shown = classify_image(answering, encode("PNG"))
    texts = []
    for each, of in zip(shown["predictions"], answering.networks, strict=True):
        val = read_validation(of.record.folder, 10)
        max_score = np.sort(1 - val.confidence)[90]  # every label is the most probable class
        max_doubt = np.sort(1 - val.confidence)[80]
        classes = [name for name, p in each["top"] if 1 - p <= max_score]
        accepted = bool(classes) and 1 - each["top"][0][1] <= max_doubt
        answer = each["answer"]
        assert (answer["classes"], answer["accepted"]) == (classes, accepted)
        texts.append(answer["text"])
    assert any(text != NONE for text in texts)
    assert all(text in shown["summary"] for text in texts)


def test_the_picture_is_the_image_and_the_heat_is_as_large_as_the_networks_input(
    group: NetworkGroup,
) -> None:
    for each in classify_image(group, encode("PNG"))["predictions"]:
        np.testing.assert_array_equal(np.asarray(decode(each["picture"])), PIXELS)
        assert each["shape"] == 1.5
        assert (each["heat"] is None) == bool(each["note"])
        if each["heat"]:
            assert decode(each["heat"]).size == (32, 32)


def test_the_picture_is_the_square_that_training_cut(group: NetworkGroup) -> None:
    view = group.networks[0].view._replace(stored=(60, "crop"))
    drawn = draw_picture(view, Image.fromarray(PIXELS))
    assert drawn["shape"] == 1
    np.testing.assert_array_equal(np.asarray(decode(drawn["picture"])), PIXELS[:, 15:75])


def test_images_of_browsers_and_cameras_are_read_and_no_others(group: NetworkGroup) -> None:
    for kind in ("AVIF", "BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP"):
        assert classify_image(group, encode(kind))["summary"]
    for kind in ("PPM", "ICO", "TGA", "PDF"):
        with pytest.raises(Unreadable):
            classify_image(group, encode(kind))
    with pytest.raises(Unreadable, match="90x60 pixels, more than max_pixels=5399"):
        prepare_image(group, encode("PNG")[:60], 60 * 90 - 1)


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


def test_images_together_get_the_answers_that_each_gets_alone(group: NetworkGroup) -> None:
    pixels = [np.roll(PIXELS, 7 * n, 1)[: 60 - 4 * n] for n in range(6)]
    images = [prepare_image(group, encode("PNG", each), MANY) for each in pixels]
    together = classify_images(group, images)
    assert len({each["predictions"][0]["top"][0][1] for each in together}) == 6
    for image, answer in zip(images, together, strict=True):
        [alone] = classify_images(group, [image])
        assert answer["summary"] == alone["summary"]
        for one, other in zip(answer["predictions"], alone["predictions"], strict=True):
            assert [name for name, _ in one["top"]] == [name for name, _ in other["top"]]
            np.testing.assert_allclose(*([p for _, p in x["top"]] for x in (one, other)), 1e-4)
            assert (one["batch_size"], other["batch_size"]) == (6, 1)
            assert (one["picture"], one["shape"]) == (other["picture"], other["shape"])
            heats = [np.asarray(decode(each["heat"]), int) for each in (one, other)]
            assert abs(heats[0] - heats[1]).max() <= 2


def test_an_output_that_is_not_finite_is_the_problem_of_its_image_alone(
    group: NetworkGroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = group.networks[0]
    forward = network.run.forward

    def overflow(images: torch.Tensor) -> torch.Tensor:
        logits = forward(images)
        logits[1, 3] = torch.inf
        return logits

    image = prepare_image(group, encode("PNG"), MANY)
    monkeypatch.setattr(network.run, "forward", overflow)
    first, second, third = classify_images(group, [image] * 3)
    assert second == {"problem": f"The output of {network.name} is not finite."}
    assert first["summary"] == third["summary"]


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


def test_the_mistakes_that_runs_stored_are_offered_once_each(
    group: NetworkGroup,
) -> None:
    examples = find_examples(group)
    folder = group.networks[0].record.folder / "predictions"
    labels = np.load(folder / "test.npz")["labels"][STORED]
    assert sorted(each.label for each in examples) == sorted(CLASSES[c] for c in labels)
    different = len({*labels})
    assert len({each.label for each in examples[:different]}) == different, "first one of each"
    stored = np.load(folder / "test_images.npz")["images"]
    pixels = {np.asarray(decode(each.picture).convert("RGB")).tobytes() for each in examples}
    assert pixels == {np.ascontiguousarray(image.transpose(1, 2, 0)).tobytes() for image in stored}


@pytest.mark.parametrize("harm", ["labels", "truncated"])
def test_a_run_whose_predictions_are_not_its_own_gives_no_examples(
    tmp_path: Path, plant: Plant, group: NetworkGroup, harm: str
) -> None:
    folder = plant(tmp_path)
    path = folder / "predictions" / "test.npz"
    with np.load(path) as stored:
        arrays = dict(stored)
    if harm == "labels":
        np.savez(path, **arrays | {"labels": np.zeros(15, np.int64)})
    else:
        path.write_bytes(path.read_bytes()[:100])
    network = group.networks[0]
    harmed = replace(network, run=replace(network.run, record=Record.open(folder)))
    assert find_examples(replace(group, networks=(harmed,))) == []
