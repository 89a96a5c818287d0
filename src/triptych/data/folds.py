"""Cross-validation: a set's images in parts, of which one at a time is held out.

Shapes: N images.
"""

import torch
from torch import Tensor

from triptych.data.groups import number_group_folds
from triptych.data.rng import find_strata, hash64
from triptych.data.source import ImageSet
from triptych.errors import UserError


def hold_out_fold(data: ImageSet, folds: int, fold: int, seed: int) -> tuple[ImageSet, str]:
    """The set with its part `fold` of `folds` held out, and as which split: `val` or `test`.

    Where the set has test images, they stay the test, and the parts are of all others: one
    validates, also in place of a validation set that it may have. Where it has none, the parts are
    of its training images: one is the test. Raises UserError at more folds than images or groups.
    """
    splits = data.splits or {
        "train": torch.arange(len(data.train.labels)),
        "test": torch.arange(len(data.test.labels)),
    }
    held_out, use = ("val", "validates") if "test" in splits else ("test", "is the test set")
    pool = splits["train"]
    if held_out in splits:
        pool = torch.cat([pool, splits[held_out]]).sort().values
    if folds > len(pool):
        raise UserError(f"data.folds={folds}: there are {len(pool)} images to share out")
    labels = data.train.labels[pool]
    if data.groups:
        numbers = number_group_folds(labels, data.groups[0][pool], folds, seed)
    else:
        numbers = number_folds(pool, labels, folds, seed)
    is_held_out = numbers == fold
    parts = {"train": pool[~is_held_out], held_out: pool[is_held_out]}
    note = (
        f"fold {fold} of {folds} {use}: {len(parts[held_out])} of {len(pool)} images, "
        f"in place of data.num_{held_out}"
    )
    return data._replace(splits=splits | parts, notes=(*data.notes, note)), held_out


def number_folds(index: Tensor, labels: Tensor, folds: int, seed: int) -> Tensor:
    """The fold of each image, int64 (N,), from its index and label (N,).

    Classes one after another, their images sorted by a 64-bit hash of (seed, index), go round the
    folds, so that sizes, of folds and of every class in them, differ by one image at most.
    """
    by_hash = torch.argsort(hash64(seed, index), stable=True)
    order = by_hash[torch.argsort(find_strata(labels)[by_hash], stable=True)]
    numbers = torch.empty_like(order)
    numbers[order] = torch.arange(len(order)) % folds
    return numbers
