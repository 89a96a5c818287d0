"""Randomness that is keyed, not consumed in sequence.

A draw depends on its keys alone (seed, epoch, image, ...): a resumed run, or one on more
devices, makes the same draws. Keys are mixed by the finaliser of SplitMix64 (Steele, Lea &
Flood, 2014).
"""

import torch
from torch import Tensor

from triptych.errors import UserError


def hash64(*keys: int | Tensor) -> Tensor:
    """A 64-bit hash (int64) of the keys, which broadcast against each other."""
    state = torch.zeros((), dtype=torch.int64)
    for key in keys:
        x = state + key  # a scalar joins a tensor on any device, without a copy
        x = x + -7046029254386353131  # 0x9E3779B97F4A7C15, the golden ratio, as a signed integer
        x = (x ^ shift_right(x, 30)) * -4658895280553007687  # 0xBF58476D1CE4E5B9
        x = (x ^ shift_right(x, 27)) * -7723592293110705685  # 0x94D049BB133111EB
        state = x ^ shift_right(x, 31)
    return state


def shift_right(x: Tensor, bits: int) -> Tensor:
    """A logical shift; torch shifts int64 arithmetically."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def uniform(*keys: int | Tensor) -> Tensor:
    """A float32 in [0, 1) for every broadcast combination of the keys."""
    return shift_right(hash64(*keys), 40).to(torch.float32) / 2**24


def permutation(n: int, *keys: int) -> Tensor:
    """The order of `n` items under the keys, int64 (n,)."""
    return torch.argsort(hash64(*keys, torch.arange(n)), stable=True)


def quotas(num: int, counts: Tensor) -> Tensor:
    """`num` shared out in proportion to `counts` (C,), the rest by largest remainder."""
    exact = num * counts.double() / counts.sum()
    shares = exact.long()
    largest_first = torch.argsort(shares - exact, stable=True)
    shares[largest_first[: num - int(shares.sum())]] += 1
    return shares


def count_classes(labels: Tensor, num_classes: int) -> Tensor:
    """Images of each class, int64 (C,)."""
    return labels.sum(0) if labels.ndim > 1 else torch.bincount(labels, minlength=num_classes)


def find_strata(labels: Tensor) -> Tensor:
    """The class (N,) by whose proportions each image is dealt out: of several its rarest.

    Of labels (N, C) those without any are a class more.
    """
    if labels.ndim == 1:
        return labels
    rarity = torch.where(labels > 0, labels.sum(0), len(labels) + 1)
    return torch.where((labels > 0).any(1), rarity.argmin(1), labels.shape[1])


def split_stratified(labels: Tensor, sizes: list[int | None], seed: int) -> list[Tensor]:
    """Disjoint parts of the labels' positions in the classes' proportions; None takes what is left.

    Per class, images sorted by a 64-bit hash of (seed, index) go to the parts in turn. Every part
    is int64, ascending.
    """
    labels = find_strata(labels)
    key = hash64(seed, torch.arange(len(labels)))
    members = [torch.nonzero(labels == c)[:, 0] for c in range(int(labels.max()) + 1)]
    members = [m[torch.argsort(key[m], stable=True)] for m in members]
    parts = []
    for size in sizes:
        left = torch.tensor([len(m) for m in members])
        if size is not None and size > left.sum():
            raise UserError(
                f"{size} images are to be taken, {left.sum()} are left; "
                "lower data.num_train, data.num_val or data.num_test"
            )
        take = left if size is None else quotas(size, left)
        parts.append(torch.cat([m[:n] for m, n in zip(members, take, strict=True)]).sort().values)
        members = [m[n:] for m, n in zip(members, take, strict=True)]
    return parts
