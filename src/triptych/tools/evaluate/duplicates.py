"""Near-duplicates of test images: in training, in validation, or among the test images.

A network's features choose the candidates, the pixels decide. No prediction and no label is looked
at, so a list of duplicates favours no network, not even the one whose features these are.

Shapes: N images, F features, K candidates of an image, P pairs, S pixels a side of a thumbnail.
"""

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.nn import functional as F

from triptych.callbacks.feature_cache import FrozenBackbone
from triptych.callbacks.figures import image_grid
from triptych.data.datamodule import ImageDataModule
from triptych.errors import UserError
from triptych.runs.storage import write_csv
from triptych.tools.evaluate.document import save_figure
from triptych.tools.evaluate.rebuild import RebuiltRun

log = logging.getLogger(__name__)

NUM_CANDIDATES = 3  # on CIFAR-10, of 79 % of listed duplicates the first of them, of 90 % one of 5
SIDE, SHIFT, WINDOW = 32, 4, 9  # pixels: of a thumbnail; of alignment; of what counts as detail
# Of two images' details, best aligned; above it they share half of their variance. On CIFAR-10 with
# EfficientNet-Lite0 at 96 pixels this lists 488 test images with a duplicate in training: 77 % of
# ciFAIR's 286, 82 % of the near ones of these; of 96 others, looked at, about 80 were duplicates.
MIN_CORRELATION = 0.7
QUERIES, PAIRS = 256, 128  # at once: many images, and large ones, take memory
MANY = 0.01  # of the test images: more hint at several photos of an object


class Duplicate(NamedTuple):
    """A test image, by its index, and the image most like it of other splits, or of test."""

    image: int
    split: str
    partner: int  # its index, too
    distance: float  # 1 - the correlation of details; 0 of the same pixels
    is_exact: bool


def report_duplicates(
    run: RebuiltRun, data: ImageDataModule, trainer: pl.Trainer
) -> dict[str, Any]:
    """Write `duplicates.csv` and a figure into the run's folder; counts for `evaluation.json`.

    The trainer has scored the run. Raises UserError where its network has no features.
    """
    splits = (data.train, data.val, data.test)
    trainer.lightning_module.eval()
    try:
        backbone = FrozenBackbone(trainer, splits, run.record.metadata["model"])
        features, _ = backbone.load_or_compute()
    except UserError as error:
        raise UserError(f"duplicates=true: no features of this network, {error}") from error
    duplicates = find_duplicates(data, features, run.device)
    path = run.record.folder / "duplicates.csv"
    write_duplicates(path, data, duplicates, run.record.metadata)
    counts = Counter(each.split for each in duplicates)
    num_images = len({each.image for each in duplicates})
    shown = ", ".join(f"{n} in {split}" for split, n in counts.items()) or "none"
    log.info("%d of %d test images are duplicates (%s)", num_images, len(data.test), shown)
    if duplicates:
        draw_pairs(data, duplicates, run.record.folder)
        log.info("compare.py suspects=%s shows what they change", path)
    settings = run.config["data"]
    if num_images > MANY * len(data.test) and not settings.get("groups"):
        mend = ": data.groups= says which belong together" if "groups" in settings else ""
        log.info("many may show one object, and intervals count images as independent%s", mend)
    return {"num_images": num_images, **{f"in_{split}": n for split, n in counts.items()}}


def find_duplicates(
    data: ImageDataModule, features: Tensor, device: torch.device
) -> list[Duplicate]:
    """Of each test image the closest duplicate in training and validation, and the closest among
    test images before it, so that of two that are alike the second is listed; closest first.

    `features` (N, F) are of the training, validation and test images, in that order.
    """
    num_others = len(data.train) + len(data.val)
    others, test = features[:num_others], features[num_others:]
    splits = ("train", "val", "test")
    places = [(split, n) for split in splits for n in getattr(data, split).index.tolist()]
    duplicates = choose_closest(data, find_nearest(test, others, device), places[:num_others])
    within = find_nearest(test, test, device, only_before=True)
    duplicates += choose_closest(data, within, places[num_others:])
    return sorted(duplicates, key=lambda each: (not each.is_exact, each.distance, each.image))


def find_nearest(
    queries: Tensor, keys: Tensor, device: torch.device, *, only_before: bool = False
) -> Tensor:
    """Places (N, K) of the keys most alike each query by cosine.

    With `only_before` those before the query's own place alone count; -1 where there is none.
    """
    keys, nearest = F.normalize(keys.to(device)), []
    for start in range(0, len(queries), QUERIES):
        alike = F.normalize(queries[start : start + QUERIES].to(device)) @ keys.T
        if only_before:
            later = torch.ones_like(alike, dtype=torch.bool).triu(start)
            alike = alike.masked_fill(later, -torch.inf)
        values, places = alike.topk(min(NUM_CANDIDATES, len(keys)))
        nearest.append(places.where(values > -torch.inf, -1).cpu())
    return torch.cat(nearest)


def choose_closest(
    data: ImageDataModule, candidates: Tensor, places: Sequence[tuple[str, int]]
) -> list[Duplicate]:
    """Of each test image that of its candidates whose details are most alike, if they are enough.

    The candidates (N, K) are among images of these `places`, which one list of images holds.
    """
    test, others = data.test.data.images, getattr(data, places[0][0]).data.images
    numbers = torch.tensor([number for _, number in places])
    correlations = torch.full(candidates.shape, -1.0)
    for pairs in torch.split((candidates >= 0).nonzero(), PAIRS):
        row, column = pairs.T
        two = test[data.test.index[row]], others[numbers[candidates[row, column]]]
        correlations[row, column] = correlate_details(*two)
    best, column = correlations.max(dim=1)
    duplicates = []
    for row in (best > MIN_CORRELATION).nonzero().flatten().tolist():
        image, place = int(data.test.index[row]), int(candidates[row, column[row]])
        split, partner = places[place]
        is_exact = torch.equal(test[image], others[partner])
        distance = 0.0 if is_exact else max(0.0, 1 - float(best[row]))
        duplicates.append(Duplicate(image, split, partner, distance, is_exact))
    return duplicates


def correlate_details(a: Tensor, b: Tensor) -> Tensor:
    """The highest correlation (P,) of thumbnails' details over small shifts and the mirror image.

    Of images uint8 (P, 3, H, W). A smooth sky has no detail, and a brighter copy has the same.
    """
    one, two = extract_details(a), extract_details(b)
    best = torch.full((len(a),), -1.0)
    ends = [(max(0, d), SIDE + min(0, d)) for d in range(-SHIFT, SHIFT + 1)]
    slices = [(slice(*end), slice(SIDE - end[1], SIDE - end[0])) for end in ends]
    for other in (two, two.flip(-1)):
        for rows in slices:
            for columns in slices:
                x, y = one[:, rows[0], columns[0]], other[:, rows[1], columns[1]]
                norm = (x.square().sum((1, 2)) * y.square().sum((1, 2))).sqrt()
                best = best.maximum((x * y).sum((1, 2)) / norm.clamp_min(1))
    return best


def extract_details(images: Tensor) -> Tensor:
    """Thumbnails (P, S, S): what differs from the mean of a window around each pixel."""
    grey = images.float().mean(1, keepdim=True)
    grey = F.interpolate(grey, (SIDE, SIDE), mode="bilinear", antialias=True)
    around = F.pad(grey, (WINDOW // 2,) * 4, mode="reflect")
    return (grey - F.avg_pool2d(around, WINDOW, 1))[:, 0]


def write_duplicates(
    path: Path, data: ImageDataModule, duplicates: Sequence[Duplicate], metadata: dict[str, Any]
) -> None:
    """A line a pair. The columns that `suspect_labels.csv` has, too, have its names."""
    names = "index file kind partner_split partner_index partner_file distance same_label"
    rows: list[Sequence[object]] = [(*names.split(), "test_hash", "source")]
    files: Sequence[str] | None = data.image_set.files
    source = f"near-duplicates by features of {metadata['model']}, from images alone"
    for image, split, partner, distance, is_exact in duplicates:
        labels = getattr(data, split).data.labels[partner]
        is_same = torch.equal(labels, data.test.data.labels[image])
        file, other = (files[n] if files else "" for n in (image, partner))
        pair = (split, partner, other, f"{distance:.4f}", "yes" if is_same else "no")
        kind = "exact" if is_exact else "near"
        rows.append((image, file, kind, *pair, metadata["test_hash"], source))
    write_csv(path, rows)


def draw_pairs(data: ImageDataModule, duplicates: Sequence[Duplicate], folder: Path) -> None:
    """Some pairs side by side, from the closest to the farthest."""
    places = torch.linspace(0, len(duplicates) - 1, min(32, len(duplicates))).round().long()
    shown = [duplicates[place] for place in places.tolist()]
    pairs = []
    for each in shown:
        partner = getattr(data, each.split).data.images[each.partner]
        image = data.test.data.images[each.image]
        pairs.append(torch.cat([image, torch.full_like(image[..., :2], 255), partner], dim=-1))
    titles = [f"{each.image} {each.split} {each.partner}" for each in shown]
    heading = f"{len(duplicates)} near-duplicates: test image, and its partner"
    save_figure(image_grid(torch.stack(pairs).numpy(), titles, heading), folder, "duplicates")
