"""What networks answer for one image: classes, where each found its own, and whether they agree."""

import io
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from matplotlib.image import imsave
from PIL import Image
from torch import Tensor

from triptych.data import photos
from triptych.errors import UserError
from triptych.tools.evaluate.cost import synchronize
from triptych.tools.evaluate.grad_cam import grad_cam
from triptych.tools.predict.images import View
from triptych.tools.report.formats import data_uri, join_words
from triptych.tools.serve.networks import Group, Network

# What cameras, phones and browsers write, by Pillow's names: fewer decoders to attack.
FORMATS = tuple(kind for kind in photos.FORMATS if kind in (*photos.COMMON, "AVIF"))
NUM_TOP = 5  # classes shown
LARGEST_SHOWN = 480  # pixels a side of the picture that is sent back


class Given(NamedTuple):
    """What networks of one view are given of an image, and that as a PNG to look at."""

    pixels: Tensor  # (1, 3, H, W), as a pipeline takes them
    picture: str
    shape: float  # width / height of the picture


class Answer(NamedTuple):
    """A network's most probable classes, best first; `heat` is a PNG to lay over the picture.

    Without one, `missing` says why in a sentence.
    """

    name: str
    top: list[tuple[str, float]]
    latency_ms: float
    picture: str
    shape: float
    heat: str | None
    missing: str


def answer(group: Group, content: bytes, max_pixels: int) -> dict[str, Any]:
    """What the page shows of an image file, as JSON has it.

    Raises Unreadable where it gives no image, UserError where a network has no answer.
    """
    views = {network.view for network in group.networks}
    images = {
        side: photos.read_image(content, max_pixels=max_pixels, formats=FORMATS, side=side)
        for side in {view.side for view in views}
    }
    given = {view: give(view, images[view.side]) for view in views}
    answers = [look(network, given[network.view], group.classes) for network in group.networks]
    return {
        "says": agreement([(each.name, each.top[0][0]) for each in answers]),
        "answers": [each._asdict() for each in answers],
    }


def give(view: View, image: Image.Image) -> Given:
    """An RGB image by a view; the picture has no more pixels than are shown."""
    pixels = view(image)[None]
    if view.stored:
        image = Image.fromarray(photos.square(image, *view.stored).transpose(1, 2, 0))
    shown = image.copy()
    shown.thumbnail((LARGEST_SHOWN, LARGEST_SHOWN))
    return Given(pixels, png(shown), shown.width / shown.height)


def look(network: Network, given: Given, classes: Sequence[str]) -> Answer:
    """One network's answer; its time is that of the logits alone."""
    run = network.run
    prepared = run.pipeline.evaluation(given.pixels.to(run.device))
    prepared = prepared.to(next(run.backbone.parameters()).dtype)
    synchronize(run.device)
    start = time.perf_counter()
    with torch.inference_mode():
        logits = run.forward(prepared).float()
    synchronize(run.device)
    latency_ms = 1000 * (time.perf_counter() - start)
    if not logits.isfinite().all():
        raise UserError(f"{network.name} answers with numbers that are not finite.")
    best, places = logits.softmax(1)[0].topk(min(NUM_TOP, len(classes)))
    top = [(classes[i], p) for i, p in zip(places.tolist(), best.tolist(), strict=True)]
    heat, missing = None, "No Grad-CAM: nothing in its map spoke for the class."
    try:
        found = grad_cam(run.backbone, prepared, places[:1])[0]
        heat = heat_png(found) if found.max() > 0 else None
    except UserError:
        missing = "No Grad-CAM: this network has no map of the image before its head."
    missing = "" if heat else missing
    return Answer(network.name, top, latency_ms, given.picture, given.shape, heat, missing)


def heat_png(heat: Tensor) -> str:
    """Heat (S, S), not all of it 0, by its own maximum."""
    buffer = io.BytesIO()
    imsave(buffer, (heat / heat.max()).cpu().numpy(), cmap="inferno", vmin=0, vmax=1, format="png")
    return data_uri(buffer.getvalue())


def png(image: Image.Image) -> str:
    """No browser shows every format that is decoded here."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return data_uri(buffer.getvalue())


def agreement(said: Sequence[tuple[str, str]]) -> str:
    """In a sentence, which of the networks, (name, class) each, say what."""
    votes = Counter(choice for _, choice in said).most_common()
    if len(said) == 1:
        return f"{said[0][0]} says {said[0][1]}."
    if len(votes) == 1:
        all_of_them = "Both" if len(said) == 2 else f"All {len(said)}"
        return f"{all_of_them} networks say {said[0][1]}."
    if len(votes) == len(said):
        none = "They do not agree" if len(said) == 2 else f"No two of the {len(said)} agree"
        return f"{none}: {join_words([f'{name} says {choice}' for name, choice in said])}."
    names = [[name for name, theirs in said if theirs == choice] for choice, _ in votes]
    (most, count), *others = votes
    parts = [f"{count} of {len(said)} networks say {most} ({join_words(names[0], 4)})"]
    for (choice, count), those in zip(others, names[1:], strict=True):
        parts.append(f"{count} {'says' if count == 1 else 'say'} {choice} ({join_words(those, 4)})")
    return f"{', '.join(parts)}."
