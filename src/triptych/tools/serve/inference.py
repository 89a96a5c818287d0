"""The predictions of networks for one image file, with Grad-CAM and a sentence on agreement."""

import io
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from matplotlib.image import imsave
from PIL import Image
from torch import Tensor

from triptych.data import photos
from triptych.errors import UserError
from triptych.tools.compare.formats import data_uri, join_words
from triptych.tools.evaluate.cost import synchronize
from triptych.tools.evaluate.grad_cam import grad_cam
from triptych.tools.predict.images import View
from triptych.tools.serve.networks import Network, NetworkGroup

# What cameras, phones and browsers write, by Pillow's names: fewer decoders to attack.
FORMATS = tuple(kind for kind in photos.FORMATS if kind in (*photos.COMMON, "AVIF"))
NUM_TOP = 5  # classes shown
MAX_SIDE = 480  # pixels of the picture that is sent back
MAX_NAMES = 4  # networks named for a class in the sentence on agreement


class NetworkInput(NamedTuple):
    """An image as networks of one view see it, and as a PNG to look at."""

    pixels: Tensor  # (1, 3, H, W), before the transforms
    picture: str
    shape: float  # width / height of the picture


class NetworkPrediction(NamedTuple):
    """A network's most probable classes, best first; `heat` is a PNG to lay over the picture.

    Without `heat`, `note` says why.
    """

    name: str
    top: list[tuple[str, float]]
    latency_ms: float
    picture: str
    shape: float
    heat: str | None
    note: str


def classify_image(group: NetworkGroup, content: bytes, max_pixels: int) -> dict[str, Any]:
    """What the page shows for an image file, ready for JSON.

    Raises Unreadable where the file gives no image, UserError where an output is not finite.
    """
    views = {network.view for network in group.networks}
    images = {
        side: photos.read_image(content, max_pixels=max_pixels, formats=FORMATS, side=side)
        for side in {view.side for view in views}
    }
    inputs = {view: prepare_input(view, images[view.side]) for view in views}
    predictions = [
        classify(network, inputs[network.view], group.classes) for network in group.networks
    ]
    return {
        "summary": summarize_votes([(each.name, each.top[0][0]) for each in predictions]),
        "predictions": [each._asdict() for each in predictions],
    }


def prepare_input(view: View, image: Image.Image) -> NetworkInput:
    pixels = view(image)[None]
    if view.stored:
        image = Image.fromarray(photos.square(image, *view.stored).transpose(1, 2, 0))
    picture = image.copy()
    picture.thumbnail((MAX_SIDE, MAX_SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=1)  # browsers do not show every format
    return NetworkInput(pixels, data_uri(buffer.getvalue()), picture.width / picture.height)


def classify(network: Network, image: NetworkInput, classes: Sequence[str]) -> NetworkPrediction:
    """The latency is that of the logits alone."""
    run = network.run
    prepared = run.transforms.evaluation(image.pixels.to(run.device))
    prepared = prepared.to(next(run.backbone.parameters()).dtype)
    synchronize(run.device)
    start = time.perf_counter()
    with torch.inference_mode():
        logits = run.forward(prepared).float()
    synchronize(run.device)
    latency_ms = 1000 * (time.perf_counter() - start)
    if not logits.isfinite().all():
        raise UserError(f"The output of {network.name} is not finite.")
    shares, places = logits.softmax(1)[0].topk(min(NUM_TOP, len(classes)))
    top = [(classes[i], p) for i, p in zip(places.tolist(), shares.tolist(), strict=True)]
    heat, note = None, "No Grad-CAM: no part of the image speaks for the class."
    try:
        values = grad_cam(run.backbone, prepared, places[:1])[0]
        if values.max() > 0:
            heat, note = draw_heat(values), ""
    except UserError:
        note = "No Grad-CAM: this network has no map of the image before its head."
    return NetworkPrediction(network.name, top, latency_ms, image.picture, image.shape, heat, note)


def draw_heat(heat: Tensor) -> str:
    """Heat (S, S), not all of it 0, scaled by its maximum."""
    buffer = io.BytesIO()
    imsave(buffer, (heat / heat.max()).cpu().numpy(), cmap="inferno", vmin=0, vmax=1, format="png")
    return data_uri(buffer.getvalue())


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
