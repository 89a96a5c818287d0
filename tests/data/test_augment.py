"""Operations against torchvision's own, image by image; draws by key; torchvision's in workers."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F

from tests.composing import composed
from tests.data.test_datamodule import make, noise
from triptych import slots
from triptych.build import instantiate
from triptych.cli import prepare
from triptych.config import CONFIGS
from triptych.data import augment
from triptych.data.augment import (
    OPERATIONS,
    SPACE,
    PerImage,
    RandAugment,
    RandomResizedCrop,
    standard,
)
from triptych.data.rng import uniform
from triptych.errors import UserError
from triptych.runs.trust import find_unknown_targets

V2 = "torchvision.transforms.v2"
KEYS = (3, 5, torch.arange(100, 112))  # seed, epoch, index
WORDS = sorted(path.stem for path in (CONFIGS / "augment").glob("*.yaml"))
NODES = [word for word in WORDS if word not in ("none", "standard")]


def images_of(n: int = 12, height: int = 24, width: int = 32, seed: int = 0) -> Tensor:
    """Noise, noise that is smooth, of few levels, and one level alone."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (n, 3, height, width), dtype=torch.uint8, generator=generator)
    images[1::4] = F.gaussian_blur_image(images[1::4], [5, 5])
    images[2::4] &= 0b11000000
    images[3::4] = images[3::4, :, :1, :1]
    return images


def build(*typed: str) -> Any:
    node = composed("train", "data=shapes", *map(prepare, typed))["data"]["augment"]
    return slots.build_augment(node, images_of(8), instantiate)


def by_torchvision(name: str, images: Tensor, amount: float) -> Tensor:
    """What torchvision's own RandAugment, or its functional, makes of each image."""
    if name == "Hue":
        return torch.stack([F.adjust_hue_image(image, amount) for image in images])
    own = v2.RandAugment()
    amount = round(amount) if name == "Posterize" else amount
    arguments = (name, amount, InterpolationMode.NEAREST, own._fill)
    return torch.stack([own._apply_image_or_video_transform(i, *arguments) for i in images])


def places_of(name: str, images: Tensor, amount: float) -> list[Tensor]:
    """Where pixels come from: whole numbers lie on the border of two."""
    height, width = images.shape[-2:]
    x, y = torch.arange(width).double() + 0.5, (torch.arange(height).double() + 0.5)[:, None]
    angle = torch.tensor(amount).double().deg2rad()
    right, down = x - width / 2, y - height / 2
    turned = [right * angle.cos() - down * angle.sin(), right * angle.sin() + down * angle.cos()]
    turned = [turned[0] + width / 2, turned[1] + height / 2]
    return {"ShearX": [x + amount * y], "ShearY": [y + amount * x], "Rotate": turned}.get(name, [])


def worst_difference(name: str, images: Tensor, amount: float) -> int:
    """In levels; where a place lies just between two pixels, either is right."""
    amounts = torch.full((len(images), 1, 1, 1), amount)
    made = OPERATIONS[name](images, amounts)
    assert (made.dtype, made.shape) == (images.dtype, images.shape)
    difference = (made.int() - by_torchvision(name, images, float(amounts[0])).int()).abs()
    for place in places_of(name, images, amount):
        difference[..., (place - place.round()).abs() < 1e-4] = 0
    return int(difference.max())


@pytest.mark.parametrize("wide", [False, True])
def test_every_operation_is_torchvision_s_at_every_magnitude(wide: bool) -> None:
    images = images_of(4, 20, 34)
    theirs = (v2.TrivialAugmentWide() if wide else v2.RandAugment())._AUGMENTATION_SPACE
    amounts = RandAugment(wide=wide).list_amounts(20, 34)
    assert [*theirs] == SPACE
    for name, row in zip(SPACE, amounts, strict=True):
        find_amounts, is_signed = theirs[name]
        expected = find_amounts(31, 20, 34)
        assert is_signed == (name in SPACE[augment.SIGNED])
        if expected is not None:
            assert (row.round() if name == "Posterize" else row).equal(expected.float())
        for amount in row.unique().tolist():
            for sign in (1, -1) if is_signed else (1,):
                assert worst_difference(name, images, sign * amount) <= 1, (name, amount)


# Of every operation, the least and the most that it may be asked for.
LIMITS = {
    **dict.fromkeys(("ShearX", "ShearY"), (-1, 1)),
    **dict.fromkeys(("TranslateX", "TranslateY"), (-40, 40)),
    **dict.fromkeys(("Brightness", "Color", "Contrast", "Sharpness"), (-1, 1)),
    **{"Rotate": (-135, 135), "Posterize": (0, 8), "Solarize": (0, 1), "Hue": (-0.5, 0.5)},
}


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.data(), st.sampled_from([*OPERATIONS]), st.integers(3, 40), st.integers(3, 40))
def test_it_is_torchvision_s_for_any_amount_and_any_size(
    data: st.DataObject, name: str, height: int, width: int
) -> None:
    least, most = LIMITS.get(name, (0, 0))
    amount = data.draw(st.floats(least, most, width=32))
    images = images_of(4, height, width, data.draw(st.integers(0, 99)))
    assert worst_difference(name, images, amount) <= 1


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.data(), st.integers(3, 40), st.integers(3, 40))
def test_a_resized_crop_is_torchvision_s(data: st.DataObject, height: int, width: int) -> None:
    images = images_of(4, height, width)
    tall, wide = (data.draw(st.integers(1, side)) for side in (height, width))
    places = torch.tensor(data.draw(st.lists(st.floats(0, 0.99), min_size=8, max_size=8)))
    down, right = places.float().view(2, 4)
    made = augment.resize_boxes(images, down, right, *torch.tensor([[tall], [wide]]).expand(2, 4))
    for image, mine, y, x in zip(images, made, down, right, strict=True):
        top, left = int(y * (height - tall + 1)), int(x * (width - wide + 1))
        theirs = F.resized_crop_image(image, top, left, tall, wide, [height, width])
        assert (theirs.int() - mine.int()).abs().max() <= 1


@pytest.mark.parametrize("word", NODES)
def test_an_image_depends_on_seed_epoch_and_its_own_index_alone(word: str) -> None:
    assert len(NODES) == 4
    made, images, before = build(f"augment={word}"), images_of(), torch.get_rng_state()
    whole = made(images, *KEYS)
    shuffled = torch.tensor([5, 2, 7])
    assert made(images[shuffled], 3, 5, KEYS[2][shuffled]).equal(whole[shuffled])
    assert not whole.equal(standard(images, *KEYS))
    for keys in ((4, 5, KEYS[2]), (3, 6, KEYS[2]), (3, 5, KEYS[2] + 12)):
        assert not made(images, *keys).equal(whole)
    assert torch.get_rng_state().equal(before)
    assert images.equal(images_of())


def test_no_operation_mixes_tensors_of_the_host_with_those_of_the_device() -> None:
    """On a device without storage, which as a GPU does refuses tensors of another one."""
    images, index = images_of().to("meta"), KEYS[2].to("meta")
    made = [
        operation(images, torch.zeros(12, 1, 1, 1).to("meta")) for operation in OPERATIONS.values()
    ]
    made.append(RandomResizedCrop()(images, 0, 0, index))
    assert {(each.device.type, each.dtype) for each in made} == {("meta", torch.uint8)}


def test_operations_come_between_the_crop_and_the_erasing_of_standard() -> None:
    nothing = ["brightness", "contrast", "saturation", "hue"]
    still = ["augment=color_jitter", *(f"augment.{name}=0" for name in nothing)]
    images = images_of()
    assert build(*still)(images, *KEYS).equal(standard(images, *KEYS))
    assert build(*still, "augment.standard=false")(images, *KEYS).equal(images)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Tensor]]:
    """What 12,000 images are asked to be changed by: operations (R, B) and amounts (R, B)."""

    def draw(*typed: str) -> list[Tensor]:
        made, seen = build(*typed), list[Tensor]()
        monkeypatch.setattr(augment, "apply_operations", lambda _, __, *drawn: seen.extend(drawn))
        made.transform(torch.zeros(1, 3, 8, 8), 0, 0, torch.arange(12_000))
        return seen

    return draw


@pytest.mark.parametrize("word", ["randaugment", "trivialaugment"])
def test_operations_magnitudes_and_directions_are_drawn_evenly_each_by_itself(
    word: str, drawn: Callable[..., list[Tensor]]
) -> None:
    """Within five standard errors."""
    chosen, amounts = drawn(f"augment={word}")
    assert len(chosen) == (2 if word == "randaugment" else 1)
    for row, sizes in zip(chosen, amounts, strict=True):
        assert (row.bincount() - 12_000 / 14).abs().max() < 5 * (12_000 / 14) ** 0.5
        turned = sizes[row == SPACE.index("Rotate")]
        assert (turned > 0).float().mean() == pytest.approx(0.5, abs=0.09)
        levels = [9.0] if word == "randaugment" else [4.5 * magnitude for magnitude in range(31)]
        assert turned.abs().unique().tolist() == levels
    same = chosen[0].eq(chosen[-1]).float().mean()
    assert same == pytest.approx(1 / 14 if word == "randaugment" else 1, abs=0.012)


def test_colours_change_in_every_order_and_by_every_factor(
    drawn: Callable[..., list[Tensor]],
) -> None:
    """Within five standard errors."""
    order, amounts = drawn("augment=color_jitter", "augment.contrast=1.0")
    orders = (order * torch.tensor([64, 16, 4, 1])[:, None]).sum(0).unique(return_counts=True)[1]
    assert len(orders) == 24
    assert (orders - 500).abs().max() < 5 * 500**0.5
    for name, largest in enumerate((0.4, 1.0, 0.4, 0.1)):
        of_it = amounts[order == name]
        assert of_it.abs().max() == pytest.approx(largest, rel=0.01)
        assert of_it.mean() == pytest.approx(0, abs=largest * 0.03)


def test_crops_have_the_sizes_of_torchvision_s() -> None:
    """Means within five standard errors, n = 2,000, of an image twice as wide as high."""
    images, theirs = images_of(2000, 20, 40), v2.RandomResizedCrop(20)
    draws = uniform(0, torch.arange(40).view(2, 20, 1)[:, :10], torch.arange(2000))
    sizes = RandomResizedCrop().draw_sizes(draws, images)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        boxes = [theirs.make_params([images[0]]) for _ in range(2000)]
    for mine, side in zip(sizes, ("height", "width"), strict=True):
        expected = torch.tensor([float(box[side]) for box in boxes])
        error = 5 * (expected.var() / 1000).sqrt()
        assert abs(mine.mean() - expected.mean()) < error
        assert mine.std() == pytest.approx(float(expected.std()), rel=0.1)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_transform_of_torchvision_s_has_a_generator_for_each_image(num_workers: int) -> None:
    transform = v2.Compose([v2.RandomHorizontalFlip(), v2.RandAugment()])
    data, before = make(augment=PerImage(transform), num_workers=num_workers), torch.get_rng_state()
    stored, loader = noise().train.images, data.train_dataloader()
    for epoch in (0, 1):
        loader.batch_sampler.sampler.set_epoch(epoch)  # type: ignore[union-attr]
        for batch in loader:
            alone = [data.augment(stored[i][None], 0, epoch, i[None]) for i in batch.index]  # type: ignore[operator]
            assert batch.inputs.equal(torch.cat(alone))
            assert not batch.inputs.equal(stored[batch.index])
    assert torch.get_rng_state().equal(before)
    assert len(loader) == 8
    first = next(iter(data.val_dataloader()))
    assert first.inputs.equal(stored[first.index])


def test_what_was_augmented_in_workers_is_not_augmented_again_but_mixed() -> None:
    flipped = make(augment=PerImage(v2.RandomHorizontalFlip(1.0)), mix="mixup")
    batch = next(iter(flipped.train_dataloader()))
    assert batch.inputs.equal(noise().train.images[batch.index].flip(-1))
    keys = (0, 0, batch.index)
    mixed = flipped.transforms.training(batch.inputs, batch.labels, keys)
    expected = make(mix="mixup").transforms.training(batch.inputs, batch.labels, keys)
    assert all(map(torch.equal, mixed, expected))


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["augment=randaugment", "augment.magnitude=31"], "magnitude=31: must be a whole number"),
        (["augment=randaugment", "augment.magnitud=3"], "nearest: magnitude"),
        (["augment=trivialaugment", "augment.num_ops=two"], "num_ops=two"),
        (
            [f"augment._target_={V2}.RandomResize", "augment.min_size=8", "augment.max_size=99"],
            "siz",
        ),
        (
            [
                f"augment._target_={V2}.Compose",
                f"augment.transforms=[{{_target_: {V2}.RandomErasing, q: 1}}]",
            ],
            "transforms.q",
        ),
        (["augment=color_jitter", "augment.hue=0.7"], "hue=0.7: must be a number from 0 to 0.5"),
        (["augment=random_resized_crop", "augment.scale=[1,0.5]"], "smaller first"),
        (["augment=random_resized_crop", "augment.ratio=1"], "ratio=1: must be two numbers"),
        (["augment=color_jitter", "augment.standard=no"], "standard=no: must be true or false"),
        ([f"augment._target_={V2}.RandomErasing", "augment.q=1"], "q: RandomErasing has no such"),
        ([f"augment._target_={V2}.CutMix"], "CutMix fails"),
        ([f"augment._target_={V2}.ConvertImageDtype"], "float32"),
        ([f"augment._target_={V2}.functional.hflip"], "must be a class"),
        (["augment._target_=torchvision.transforms.RandomRotation", "augment.degrees=3"], "fails"),
        (["augment._target_=nowhere.Mine"], "cannot be imported"),
    ],
)
def test_what_cannot_augment_is_refused_by_name(typed: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        build(*typed)


@pytest.mark.parametrize("made", [Tensor.float, lambda images: images[:1], lambda images: None])
def test_what_gives_no_images_of_the_same_kind_is_refused(made: Callable[[Tensor], Any]) -> None:
    with pytest.raises(UserError, match=r"makes .* of torch.uint8 \(12, 3, 24, 32\)"):
        augment.prepare_augment(lambda images, *_: made(images), images_of())


def test_a_transform_of_transforms_needs_no_trust_but_for_what_is_no_transform() -> None:
    config = composed("train", "data=shapes")
    flip, hidden = {"_target_": f"{V2}.RandomHorizontalFlip"}, {"_target_": "os.system"}
    for transforms, unknown in (([flip, flip], set()), ([flip, hidden], {"os.system"})):
        inner = {"_target_": f"{V2}.RandomApply", "transforms": transforms}
        config["data"]["augment"] = {"_target_": f"{V2}.Compose", "transforms": [flip, inner]}
        assert find_unknown_targets(config) == unknown
    for word in NODES:
        assert find_unknown_targets(composed("train", f"augment={word}")) == set()
