"""Lines for whoever trains on a set: on its groups in the splits, and on balanced sampling."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

import numpy as np
from torch import Tensor

from triptych.data.rng import count_classes
from triptych.data.source import ImageSet
from triptych.errors import UserError


def describe_splits(
    data: ImageSet, indices: Mapping[str, Tensor], sampler: str | None
) -> Iterator[str]:
    """`indices` are of each split's images. Raises UserError where `sampler` cannot be."""
    if data.groups:
        yield from describe_groups(data.groups, indices, data.files)
    if sampler:
        yield describe_draws(data.classes, data.train.labels[indices["train"]])


def describe_groups(
    groups: tuple[Tensor, Tensor], indices: Mapping[str, Tensor], files: Sequence[str] | None
) -> Iterator[str]:
    """Lines on how many groups each split has, and on those that are in two of them."""
    splits = ("train", "val", "test")
    parts = {split: groups[split == "test"][indices[split]].numpy() for split in splits}
    counts = (f"{len(np.unique(each))} in {split}" for split, each in parts.items())
    yield f"groups of images: {', '.join(counts)}"
    for one, other in combinations(parts, 2):
        shared = np.intersect1d(parts[one], parts[other])
        if not len(shared):
            continue
        num = int(np.isin(parts[other], shared).sum())
        places = [
            int(indices[split][np.argmax(parts[split] == shared[0])]) for split in (one, other)
        ]
        names = [files[place] if files else f"no. {place}" for place in places]
        counted = f"{len(shared)} group{'s' * (len(shared) > 1)}, with {num} of {len(parts[other])}"
        yield (
            f"in {one} and in {other}: {counted} images of {other}, "
            f"such as {' and '.join(names)}: its scores flatter the network"
        )


def describe_draws(classes: Sequence[str], labels: Tensor) -> str:
    """In a line, what balanced sampling makes of training images with labels (n,).

    Raises UserError where an image has any number of classes.
    """
    if labels.ndim > 1:
        raise UserError("data.sampler=balanced: takes one label an image; leave it out")
    num_per_class = count_classes(labels, len(classes)).tolist()
    trained = [num for num in num_per_class if num]
    rarest, draws = min(trained), sum(trained) / len(trained)
    name, times = classes[num_per_class.index(rarest)], draws / rarest
    return (
        f"data.sampler=balanced: an epoch has {draws:.4g} images of each class; "
        f"each of the rarest ({name}) comes {times:.3g} times"
    )
