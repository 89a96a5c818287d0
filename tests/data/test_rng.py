import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from triptych.data.rng import hash64, permutation, quotas, split_stratified, uniform
from triptych.errors import UserError

BITS = (1 << 64) - 1
keys = st.integers(-(2**63), 2**63 - 1)
label_lists = st.lists(st.integers(0, 4), min_size=1, max_size=80)
seeds = st.integers(0, 2**31)


def splitmix64(*keys: int) -> int:
    """The chain of finalisers on Python's integers, unsigned."""
    state = 0
    for key in keys:
        state = (state + key + 0x9E3779B97F4A7C15) & BITS
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & BITS
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & BITS
        state ^= state >> 31
    return state


def signed(bits: int) -> int:
    return bits - (1 << 64) if bits >> 63 else bits


@settings(deadline=None, max_examples=30)
@given(st.lists(keys, min_size=1, max_size=4))
def test_a_hash_is_a_chain_of_splitmix64_finalisers(keys: list[int]) -> None:
    assert hash64(*keys).item() == signed(splitmix64(*keys))


def test_a_hash_of_one_key_is_the_first_number_of_the_published_generator() -> None:
    assert hash64(1234567).item() == 6457827717110365317


def test_keys_broadcast_against_each_other() -> None:
    rows, columns = torch.arange(3)[:, None], torch.arange(4)
    table = hash64(7, rows, columns)
    assert table.dtype == torch.int64
    assert table.tolist() == [[signed(splitmix64(7, r, c)) for c in range(4)] for r in range(3)]


def test_uniform_draws_are_the_upper_24_bits_of_the_hash() -> None:
    draws = uniform(3, torch.arange(50))
    assert draws.dtype == torch.float32
    assert draws.tolist() == [(splitmix64(3, i) >> 40) / 2**24 for i in range(50)]


def test_a_permutation_holds_every_position_once_and_is_keyed_by_seed_and_epoch() -> None:
    orders = [permutation(100, seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert all(order.sort().values.equal(torch.arange(100)) for order in orders)
    assert len({tuple(order.tolist()) for order in orders}) == 4
    assert permutation(100, 1, 1).equal(orders[3])


@settings(deadline=None, max_examples=30)
@given(st.data())
def test_quotas_add_up_are_within_one_of_proportional_and_never_exceed_what_is_there(
    data: st.DataObject,
) -> None:
    counts = data.draw(st.lists(st.integers(0, 10_000), min_size=1, max_size=12).filter(sum))
    num = data.draw(st.integers(0, sum(counts)))
    shared = quotas(num, torch.tensor(counts)).tolist()
    assert sum(shared) == num
    for share, count in zip(shared, counts, strict=True):
        assert 0 <= share <= count
        assert abs(share - num * count / sum(counts)) < 1


@settings(deadline=None, max_examples=60)
@given(st.data(), label_lists, seeds)
def test_parts_are_disjoint_ascending_stratified_and_of_the_sizes_given(
    data: st.DataObject, labels: list[int], seed: int
) -> None:
    first = data.draw(st.integers(0, len(labels)))
    second = data.draw(st.none() | st.integers(0, len(labels) - first))
    sizes = [first, second] if first < len(labels) else [first]
    parts = [part.tolist() for part in split_stratified(torch.tensor(labels), sizes, seed)]
    together = [position for part in parts for position in part]
    assert len(set(together)) == len(together)
    assert all(part == sorted(part) for part in parts)
    for part, size in zip(parts, sizes, strict=True):
        assert len(part) == (len(labels) - first if size is None else size)
    chosen = [labels[position] for position in parts[0]]
    for c in set(labels):
        assert abs(chosen.count(c) - first * labels.count(c) / len(labels)) < 1


def equal_classes(per_class: int = 20) -> Tensor:
    """Labels of five classes, in no order."""
    return (torch.arange(5 * per_class) * 7 + 3) % 5


def test_of_each_equal_class_come_the_images_of_the_smallest_hash() -> None:
    labels = equal_classes()
    [part] = split_stratified(labels, [30], seed=4)
    members = [[i for i in range(100) if labels[i] == c] for c in range(5)]
    smallest = [sorted(m, key=lambda i: signed(splitmix64(4, i)))[:6] for m in members]
    assert part.tolist() == sorted(i for chosen in smallest for i in chosen)


def test_parts_are_keyed_stay_when_later_parts_change_and_grow_by_adding() -> None:
    first, small = split_stratified(equal_classes(), [30, 10], seed=0)
    again, large = split_stratified(equal_classes(), [30, 40], seed=0)
    assert again.equal(first)
    assert set(small.tolist()) < set(large.tolist())
    assert not split_stratified(equal_classes(), [30], seed=1)[0].equal(first)


@pytest.mark.parametrize("sizes", [[101], [30, 71], [100, 1]])
def test_more_images_than_there_are_is_refused(sizes: list[int | None]) -> None:
    with pytest.raises(UserError, match=r"^(101|71|1) .*(100|70|0) .*data\.num_train"):
        split_stratified(equal_classes(), sizes, seed=0)
