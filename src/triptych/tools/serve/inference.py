"""What the page shows of images: predictions with Grad-CAM, and test images to try."""

import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib import colormaps
from PIL import Image
from torch import Tensor

from triptych.data import photos
from triptych.data.decoder import read_image
from triptych.errors import UserError
from triptych.tools.compare.formats import join_words
from triptych.tools.compare.runs import read_pixels, read_run
from triptych.tools.evaluate.cost import synchronize
from triptych.tools.evaluate.grad_cam import grad_cam
from triptych.tools.evaluate.rebuild import RebuiltRun
from triptych.tools.predict.answers import Thresholds
from triptych.tools.predict.images import ReadImage, View, read_views
from triptych.tools.report.images import encode
from triptych.tools.serve.networks import Network, NetworkGroup

# What cameras, phones and browsers write, by Pillow's names: fewer decoders to attack.
FORMATS = tuple(kind for kind in photos.FORMATS if kind in (*photos.COMMON, "AVIF"))
NUM_TOP = 5  # classes shown
MAX_SIDE = 480  # pixels of the picture that is sent back
MAX_EXAMPLES = 10
GRAD_CAM_IMAGES = 4  # at once: the maps of all layers are held
MAX_NAMES = 4  # networks named for a class in the sentence on agreement


class PreparedImage(NamedTuple):
    """What is held of an image file for each view: (3, H, W) before the transforms, and the picture
    with its width / height."""

    inputs: dict[View, Tensor]
    pictures: dict[View, dict[str, Any]]


class NetworkPrediction(NamedTuple):
    """A network's most probable classes, best first, none where its output is not finite; `heat` is
    a PNG to lay over the picture.

    `latency_ms` is of the whole batch of `batch_size` images. Without `heat`, `note` says why;
    `answer` is None unless answers by thresholds are asked for.
    """

    name: str
    top: list[tuple[str, float]]
    latency_ms: float
    batch_size: int
    heat: str | None
    note: str
    answer: dict[str, Any] | None


def prepare_image(
    group: NetworkGroup, content: bytes, max_pixels: int, read: ReadImage = read_image
) -> PreparedImage:
    """Raises Unreadable where the file gives no image."""
    views = {network.view for network in group.networks}
    images = read_views(content, views, read, max_pixels=max_pixels, formats=FORMATS)
    pictures = {view: draw_picture(view, image) for view, image in images.items()}
    return PreparedImage({view: view(image) for view, image in images.items()}, pictures)


def classify_images(group: NetworkGroup, images: Sequence[PreparedImage]) -> list[dict[str, Any]]:
    """What the page shows for each of the images, ready for JSON; each network takes all at once.

    Where an output is not finite that is the `problem` of its image alone.
    """
    batches = {
        view: torch.stack([image.inputs[view] for image in images]) for view in images[0].inputs
    }
    each = [classify(network, batches[network.view], group.classes) for network in group.networks]
    return [
        describe_image(group, image, predictions)
        for image, *predictions in zip(images, *each, strict=True)
    ]


def describe_image(
    group: NetworkGroup, image: PreparedImage, predictions: Sequence[NetworkPrediction]
) -> dict[str, Any]:
    for prediction in predictions:
        if not prediction.top:
            return {"problem": f"The output of {prediction.name} is not finite."}
    votes = [(p.name, p.answer["text"] if p.answer else p.top[0][0]) for p in predictions]
    return {
        "summary": summarize_votes(votes),
        "predictions": [
            prediction._asdict() | image.pictures[network.view]
            for network, prediction in zip(group.networks, predictions, strict=True)
        ],
    }


def draw_picture(view: View, image: Image.Image) -> dict[str, Any]:
    """The image as networks of the view see it, to look at, and its width / height."""
    if view.stored:
        image = Image.fromarray(photos.square(image, *view.stored).transpose(1, 2, 0))
    picture = image.copy()
    picture.thumbnail((MAX_SIDE, MAX_SIDE))
    url = encode(picture, compress_level=1)  # a PNG: browsers do not show every format
    return {"picture": url, "shape": picture.width / picture.height}


def classify(network: Network, pixels: Tensor, classes: Sequence[str]) -> list[NetworkPrediction]:
    """Of images (B, 3, H, W) before the transforms. The latency is that of the logits alone."""
    run = network.run
    prepared = run.transforms.evaluation(pixels.to(run.device))
    prepared = prepared.to(next(run.backbone.parameters()).dtype)
    synchronize(run.device)
    start = time.perf_counter()
    with torch.inference_mode():
        logits = run.forward(prepared).float()
    synchronize(run.device)
    latency_ms = 1000 * (time.perf_counter() - start)
    are_finite = logits.isfinite().all(1).tolist()
    every = logits.softmax(1)
    shares, places = every.topk(min(NUM_TOP, len(classes)))
    heats = draw_heats(run, prepared, places[:, 0])
    answers = list_answers(network.thresholds, every)
    rows = zip(are_finite, places.tolist(), shares.tolist(), heats, answers, strict=True)
    return [
        NetworkPrediction(
            network.name,
            [(classes[i], p) for i, p in zip(best, probabilities, strict=True) if is_finite],
            *(latency_ms, len(pixels)),
            *heat,
            answer=answer,
        )
        for is_finite, best, probabilities, heat, answer in rows
    ]


def list_answers(
    thresholds: Thresholds | None, probabilities: Tensor
) -> list[dict[str, Any] | None]:
    """For each of images (B, C); None without thresholds."""
    rows = probabilities.double().cpu().numpy()
    return [thresholds.answer(row).describe() if thresholds else None for row in rows]


def draw_heats(run: RebuiltRun, images: Tensor, classes: Tensor) -> list[tuple[str | None, str]]:
    """For each of transformed images (B, 3, S, S) a PNG, or None and why there is none."""
    parts = zip(*(torch.split(each, GRAD_CAM_IMAGES) for each in (images, classes)), strict=True)
    try:
        heats = [heat for part in parts for heat in grad_cam(run.backbone, *part)]
    except UserError:
        note = "No Grad-CAM: this network has no map of the image before its head."
        return [(None, note)] * len(images)
    return [draw_heat(heat) for heat in heats]


def draw_heat(values: Tensor) -> tuple[str | None, str]:
    """Of heat (S, S)."""
    if not values.max() > 0:
        return None, "No Grad-CAM: no part of the image speaks for the class."
    scaled = (values / values.max()).cpu().numpy()
    heat = Image.fromarray(colormaps["inferno"](scaled, bytes=True))
    return encode(heat, compress_level=1), ""


def summarize_votes(votes: Sequence[tuple[str, str]]) -> str:
    """In a sentence, which networks, each a name and its class, predict the same class."""
    voters: dict[str, list[str]] = {}
    for name, label in votes:
        voters.setdefault(label, []).append(name)
    name, label = votes[0]
    if len(votes) == 1:
        return f"{name} predicts {label}."
    if len(voters) == 1:
        return f"{'Both' if len(votes) == 2 else f'All {len(votes)}'} networks predict {label}."
    ranked = sorted(voters.items(), key=lambda item: -len(item[1]))
    parts = [f"{label} ({join_words(names, MAX_NAMES)})" for label, names in ranked]
    return f"The networks disagree: {join_words(parts)}."


class Example(NamedTuple):
    picture: str  # a data: URL
    label: str


def find_examples(group: NetworkGroup) -> list[Example]:
    """At most 10 mistakes: the first of each class, then the second of each, and so on."""
    by_class: dict[str, list[Example]] = {}
    for example in read_mistakes(group.networks, group.classes):
        by_class.setdefault(example.label, []).append(example)
    rounds = zip_longest(*(by_class.get(name, ()) for name in group.classes))
    return [each for one_of_each in rounds for each in one_of_each if each][:MAX_EXAMPLES]


def read_mistakes(networks: Iterable[Network], classes: tuple[str, ...]) -> Iterator[Example]:
    """The images in the runs' `predictions/test_images.npz`, each once; unusable runs have none."""
    seen: set[tuple[str, int]] = set()
    for network in networks:
        try:
            run = read_run(network.record.folder)
            images = read_pixels(run) or {}
        except UserError:
            continue
        labels = dict(zip(run.test.index.tolist(), run.test.labels.tolist(), strict=True))
        for index, pixels in images.items():
            key = (run.metadata["test_hash"], index)
            if index in labels and key not in seen:
                seen.add(key)
                picture = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
                yield Example(encode(picture), classes[labels[index]])
