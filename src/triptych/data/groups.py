"""Splits and folds of images that belong together: a group is in one of them, whole.

Shapes: N images, G groups, C classes.
"""

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from triptych.data.rng import find_strata, hash64
from triptych.errors import UserError


class Groups(NamedTuple):
    """Of some images: whole groups, as they are dealt out."""

    member: Tensor  # int64 (N,), the place of each image's group
    sizes: list[int]  # (G,), images
    strata: list[int]  # (G,), the rarest class of its images
    order: list[int]  # (G,), by 64-bit hashes of (seed, stratum), and in each of (seed, group)


def find_groups(labels: Tensor, groups: Tensor, seed: int) -> Groups:
    groups, member = torch.unique(groups, return_inverse=True)
    classes = find_strata(labels).numpy()
    rarest_last = np.lexsort((classes, -np.bincount(classes)[classes]))
    strata = np.empty(len(groups), np.int64)
    strata[member.numpy()[rarest_last]] = classes[rarest_last]  # of several the last stays
    by_hash = torch.argsort(hash64(seed, groups), stable=True)
    stratum = hash64(seed, torch.from_numpy(strata))[by_hash]
    order = by_hash[torch.argsort(stratum, stable=True)]
    return Groups(member, member.bincount().tolist(), strata.tolist(), order.tolist())


def split_groups(
    labels: Tensor, groups: Tensor, sizes: Sequence[int | None], seed: int
) -> list[Tensor]:
    """As `rng.split_stratified`, whole groups (N,): sizes and proportions as nearly as they allow.

    Raises UserError where no group is small enough.
    """
    found = find_groups(labels, groups, seed)
    left, parts = found.order, list[Tensor]()
    for size in sizes:
        chosen = {*(left if size is None else choose_groups(found, left, size))}
        left = [group for group in left if group not in chosen]
        is_chosen = torch.zeros(len(found.sizes), dtype=torch.bool)
        is_chosen[[*chosen]] = True
        parts.append(torch.nonzero(is_chosen[found.member])[:, 0])
    return parts


def choose_groups(groups: Groups, left: Sequence[int], size: int) -> list[int]:
    """Those of the groups left that hold about `size` images.

    A group is taken where that brings the images of its stratum nearer to its share; what a stratum
    lacks, or has too many of, is made up for by the next.
    """
    sizes = [groups.sizes[group] for group in left]
    if size > sum(sizes):
        raise UserError(
            f"{size} images are to be taken, {sum(sizes)} are left; "
            "lower data.num_train, data.num_val or data.num_test"
        )
    chosen, lacking = [], 0.0
    for _, same in groupby(left, lambda group: groups.strata[group]):
        members = [*same]
        lacking += size * sum(groups.sizes[group] for group in members) / sum(sizes)
        for group in members:
            if groups.sizes[group] < 2 * lacking:
                chosen.append(group)
                lacking -= groups.sizes[group]
    if not chosen:
        raise UserError(
            f"data.groups: no part of about {size} images is made of whole groups: "
            f"{len(sizes)} are left, of {min(sizes)} to {max(sizes)} images\n"
            "let data.num_val and data.num_test be as large as a group, or add photos of others"
        )
    return chosen


def number_group_folds(labels: Tensor, groups: Tensor, folds: int, seed: int) -> Tensor:
    """The fold of each image, int64 (N,): each group, large ones first, goes to the fold with the
    fewest images of its stratum, and of these to that with the fewest of all."""
    found = find_groups(labels, groups, seed)
    if folds > len(found.sizes):
        raise UserError(f"data.folds={folds}: there are {len(found.sizes)} groups to share out")
    numbers, totals = torch.empty(len(found.sizes), dtype=torch.int64), [0] * folds
    for _, same in groupby(found.order, lambda group: found.strata[group]):
        nums = [0] * folds
        for group in sorted(same, key=lambda group: -found.sizes[group]):
            fold = min(zip(nums, totals, range(folds), strict=True))[2]
            numbers[group] = fold
            nums[fold] += found.sizes[group]
            totals[fold] += found.sizes[group]
    return numbers[found.member]
