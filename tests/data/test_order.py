import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from triptych.data.datamodule import KeyedBatchSampler


def batches_of(order: KeyedBatchSampler) -> list[list[int]]:
    return [batch.tolist() for batch in order]


@settings(deadline=None, max_examples=60)
@given(
    n=st.integers(1, 200),
    batch_size=st.integers(8, 40),
    epoch=st.integers(0, 50),
    seed=st.none() | st.integers(0, 3),
    world_size=st.sampled_from([1, 2, 4]),
)
def test_devices_share_the_batches_of_one_and_none_trains_on_a_lone_image(
    n: int, batch_size: int, epoch: int, seed: int | None, world_size: int
) -> None:
    alone = KeyedBatchSampler(n, batch_size, 0, 1, seed)
    ranks = [KeyedBatchSampler(n, batch_size, rank, world_size, seed) for rank in range(world_size)]
    for order in (alone, *ranks):
        order.set_epoch(epoch)
    single, shares = batches_of(alone), [batches_of(order) for order in ranks]
    assert [len(share) for share in shares] == [*map(len, ranks)] == [len(ranks[0])] * world_size
    left_out = len(single) - len(shares[0])  # the last batch, if too small for so many devices
    assert left_out == 0 or (seed is not None and left_out == 1 and n % batch_size < 2 * world_size)
    for *parts, batch in zip(*shares, single, strict=False):
        assert sorted(i for part in parts for i in part) == sorted(batch)
        assert seed is None or n < batch_size or min(map(len, parts)) >= 2


@pytest.mark.parametrize(("n", "num_batches"), [(80, 10), (81, 10), (82, 11), (1, 1)])
def test_a_lone_last_image_is_left_out_of_training_alone(n: int, num_batches: int) -> None:
    assert len(KeyedBatchSampler(n, 8, 0, 1, seed=0)) == num_batches
    assert len(KeyedBatchSampler(n, 8, 0, 1, seed=None)) == -(-n // 8)


def test_training_comes_in_another_order_each_epoch_and_seed_and_evaluation_in_its_own() -> None:
    first, again, other = (KeyedBatchSampler(50, 8, 0, 1, seed) for seed in (0, 0, 1))
    epoch0 = batches_of(first)
    assert batches_of(again) == epoch0
    assert batches_of(other) != epoch0
    first.set_epoch(1)
    assert batches_of(first) != epoch0
    assert torch.cat(list(KeyedBatchSampler(50, 8, 0, 1, None))).equal(torch.arange(50))


def test_skipped_batches_are_skipped_once_and_the_length_stays() -> None:
    order = KeyedBatchSampler(50, 8, 0, 1, seed=0)
    whole = batches_of(order)
    order.skipped_batches = 3
    assert len(order) == len(whole)
    assert batches_of(order) == whole[3:]
    assert batches_of(order) == whole
