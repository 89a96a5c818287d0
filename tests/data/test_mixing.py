"""MixUp and CutMix against torchvision's, and dealt out over devices."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest
from torch import Tensor
from torchvision.transforms import v2

from triptych.data.mixing import draw_number, make_mix

N, C = 16, 5


def batch(n: int = N) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(n)
    return torch.rand(n, 3, 12, 20, generator=generator), torch.randint(
        C, (n,), generator=generator
    )


def mixed(kind: str, images: Tensor, labels: Tensor, *keys: int) -> tuple[Tensor, Tensor]:
    mix = make_mix(kind, C)
    assert mix
    return mix(images, labels, *keys)


@pytest.mark.parametrize("epoch", range(6))
@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_two_images_become_what_torchvision_makes_of_the_same_draws(
    kind: str, epoch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, labels = batch(2)  # of two, the next image is the one half a batch away
    keys = (3, epoch, 7)
    oracle = {"mixup": v2.MixUp, "cutmix": v2.CutMix}[kind](num_classes=C)

    class Drawn:
        def sample(self, _: tuple[()]) -> float:
            return draw_number("share", keys)

    draws = iter([("right", 20), ("down", 12)])

    def randint(size_of_side: int, size: tuple[int]) -> Tensor:
        name, side = next(draws)
        assert side == size_of_side
        return torch.tensor([int(draw_number(name, keys) * side)])

    monkeypatch.setattr(oracle, "_dist", Drawn())
    monkeypatch.setattr(torch, "randint", randint)
    expected = oracle(images, labels)
    for made, wanted in zip(mixed(kind, images, labels, *keys), expected, strict=True):
        torch.testing.assert_close(made, wanted)


@settings(deadline=None, max_examples=30)
@given(
    st.sampled_from(["mixup", "cutmix"]),
    st.integers(0, 99),
    st.integers(0, 999),
    st.sampled_from([2, 4, 8]),
)
def test_a_batch_dealt_out_over_devices_is_mixed_as_the_whole_one_is(
    kind: str, epoch: int, number: int, world_size: int
) -> None:
    images, labels = batch()
    whole = mixed(kind, images, labels, 0, epoch, number)
    for rank in range(world_size):
        share = slice(rank, None, world_size)
        part = mixed(kind, images[share], labels[share], 0, epoch, number)
        assert part[0].equal(whole[0][share])
        assert part[1].equal(whole[1][share])


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_another_seed_epoch_or_batch_mixes_otherwise_and_nothing_is_drawn_globally(
    kind: str,
) -> None:
    images, labels = batch()
    before = torch.get_rng_state()
    first = mixed(kind, images, labels, 0, 0, 0)[0]
    for keys in ((1, 0, 0), (0, 1, 0), (0, 0, 1)):
        assert not mixed(kind, images, labels, *keys)[0].equal(first)
    assert torch.get_rng_state().equal(before)


def test_the_partners_share_is_uniform_over_batches() -> None:
    images, labels = torch.rand(2, 3, 4, 4), torch.tensor([0, 1])
    shares = [float(mixed("mixup", images, labels, 0, 0, k)[1][0, 1]) for k in range(300)]
    assert kstest(shares, "uniform").pvalue > 0.01


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_a_lone_image_stays_as_it_is(kind: str) -> None:
    images, labels = batch(1)
    made, probabilities = mixed(kind, images, labels, 0, 0, 0)
    torch.testing.assert_close(made, images)
    assert probabilities.argmax(1).equal(labels)
