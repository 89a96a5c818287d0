import hashlib
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn
from torchvision.transforms import v2

from triptych.data.augment import PerImage, standard
from triptych.data.datamodule import Batch, ImageDataModule
from triptych.data.source import ImageSet, LabelledImages, hash_tensors
from triptych.data.transforms import DeviceTransforms
from triptych.models.backbone import Preprocessing

PREPROCESSING = Preprocessing(16, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3))


def noise(num_train: int = 80, num_test: int = 21) -> ImageSet:
    """Random images of four classes, in this order of labels: 0, 1, 2, 3, 0, ..."""
    generator = torch.Generator().manual_seed(0)
    train, test = (
        LabelledImages(
            torch.randint(1, 256, (n, 3, 8, 8), dtype=torch.uint8, generator=generator),
            torch.arange(n) % 4,
        )
        for n in (num_train, num_test)
    )
    return ImageSet(train, test, ("a", "b", "c", "d"))


def make(**changes: Any) -> ImageDataModule:
    settings: dict[str, Any] = {
        "image_set": noise(),
        "preprocessing": PREPROCESSING,
        "batch_size": 8,
        **{"augment": "none", "mix": "none", "num_workers": 0},
        **{"num_train": None, "num_val": 20, "num_test": None},
        **{"split_seed": 0, "seed": 0},
    }
    return ImageDataModule(**settings | changes)


class Toy(pl.LightningModule):
    """Learns a little, and keeps what arrives: (epoch, index, images, labels) of each batch."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 4)
        self.arrived: dict[str, list[tuple[int, Tensor, Tensor, Tensor]]] = {
            stage: [] for stage in ("train", "sanity_check", "validate", "test")
        }

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        stage = self.trainer.state.stage
        assert stage is not None
        arrived = (self.current_epoch, batch.index, batch.inputs, batch.labels)
        self.arrived[stage.value].append(arrived)
        return nn.functional.cross_entropy(self.layer(batch.inputs.mean((2, 3))), batch.labels)

    validation_step = test_step = training_step

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)

    def order(self) -> list[tuple[int, list[int]]]:
        return [(epoch, index.tolist()) for epoch, index, *_ in self.arrived["train"]]


def trainer(**options: Any) -> pl.Trainer:
    return pl.Trainer(
        **{"max_epochs": 2} | options,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        use_distributed_sampler=False,
    )


def test_validation_images_come_from_training_and_the_official_test_set_stays_apart() -> None:
    data = make()
    train, test, classes, *_ = noise()
    assert data.classes == classes
    assert data.train.data.images.equal(train.images)
    assert data.val.data.images.equal(train.images)
    assert data.test.data.images.equal(test.images)
    assert sorted(data.train.index.tolist() + data.val.index.tolist()) == list(range(80))
    assert data.test.index.equal(torch.arange(21))
    assert data.val.data.labels[data.val.index].bincount().tolist() == [5] * 4
    assert data.num_per_class == [15] * 4


def test_the_split_depends_on_its_own_seed_and_not_on_the_runs() -> None:
    hashes = {make(seed=seed, split_seed=split).split_hash for seed in (0, 1) for split in (0, 1)}
    assert hashes == {make().split_hash, make(split_seed=1).split_hash}
    assert len(hashes) == 2


def test_hashes_are_of_the_split_s_indices_and_of_the_test_images_pixels_then_labels() -> None:
    data = make(num_train=12, num_test=8)
    indices = data.train.index.tolist() + data.val.index.tolist()
    packed = b"".join(i.to_bytes(8, "little") for i in indices)
    assert data.split_hash == hashlib.sha256(packed).hexdigest()[:16]
    images, labels = (tensor[data.test.index] for tensor in data.test.data)
    packed = bytes(images.flatten().tolist())
    packed += b"".join(label.to_bytes(8, "little") for label in labels.tolist())
    assert data.test_hash == hashlib.sha256(packed).hexdigest()[:16]
    one, two = torch.arange(3), torch.arange(3, 6)
    assert hash_tensors([one, two]) == hash_tensors([torch.arange(6)]) != hash_tensors([two, one])


def test_a_loader_gives_what_is_stored_also_from_workers_and_draws_nothing_globally() -> None:
    data, before = make(augment="standard"), torch.get_rng_state()
    stored = data.train.data
    helped = iter(make(num_workers=1).train_dataloader())
    for batch in data.train_dataloader():
        assert isinstance(batch, Batch)
        assert batch.inputs.dtype == torch.uint8
        assert batch.inputs.equal(stored.images[batch.index])
        assert batch.labels.equal(stored.labels[batch.index])
        assert all(map(torch.equal, batch, next(helped)))
    assert torch.get_rng_state().equal(before)


def test_features_replace_the_images_of_a_split_and_pass_untouched() -> None:
    data = make(augment="standard")
    data.trainer = trainer()
    data.val.features = torch.rand(20, 5)
    batch = next(iter(data.val_dataloader()))
    assert batch.inputs.ndim == 2
    assert batch.inputs.equal(data.val.features[:8])
    assert data.on_after_batch_transfer(batch, 0) is batch
    assert next(iter(data.train_dataloader())).inputs.ndim == 4


def test_only_training_augments_in_a_new_order_each_epoch_and_all_are_normalised_alike() -> None:
    data, toy = make(augment="standard"), Toy()
    fit = trainer()
    fit.fit(toy, datamodule=data)
    fit.test(toy, datamodule=data, verbose=False)

    plain, augmenting = (DeviceTransforms(PREPROCESSING, augment) for augment in (None, standard))
    num_batches = {stage: len(batches) for stage, batches in toy.arrived.items()}
    assert num_batches == {"train": 16, "sanity_check": 2, "validate": 6, "test": 3}
    for stage in ("sanity_check", "validate", "test"):
        stored = data.test.data.images if stage == "test" else data.train.data.images
        for _, index, images, _ in toy.arrived[stage]:
            assert images.equal(plain.evaluation(stored[index]))
    for epoch, index, images, labels in toy.arrived["train"]:
        stored = data.train.data.images[index]
        assert images.equal(augmenting.training(stored, labels, (0, epoch, index))[0])
        assert not images.equal(plain.evaluation(stored))
    orders = [[i for e, index in toy.order() if e == epoch for i in index] for epoch in (0, 1)]
    assert orders[0] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1]) == data.train.index.tolist()


def test_mixed_batches_train_and_evaluation_keeps_its_labels() -> None:
    toy = Toy()
    trainer(max_epochs=1).fit(toy, datamodule=make(mix="mixup"))
    for *_, labels in toy.arrived["train"]:
        assert labels.shape == (len(labels), 4)
        torch.testing.assert_close(labels.sum(1), torch.ones(len(labels)))
    for *_, labels in toy.arrived["validate"]:
        assert labels.dtype == torch.int64


class SaveAt(pl.Callback):
    """Saves once, after so many batches, or at the end of the first epoch."""

    def __init__(self, path: Path, batch: int | None) -> None:
        self.path, self.batch = path, batch

    def on_train_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
        if trainer.global_step == self.batch:
            trainer.save_checkpoint(self.path)

    def on_train_epoch_end(self, trainer: pl.Trainer, *_: object) -> None:
        if self.batch is None and trainer.current_epoch == 0:
            trainer.save_checkpoint(self.path)


# Lightning looks for a loader that finds its place; here the data module does.
@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch")
@pytest.mark.parametrize(
    ("batch", "limit", "num_workers", "sampler"),
    [
        *((None, 1.0, 0, None), (3, 1.0, 1, "balanced"), (11, 1.0, 0, None)),
        *((None, 0.5, 0, "balanced"), (3, 5, 0, None), (11, 0.5, 1, "balanced")),
    ],
)
def test_a_resumed_run_goes_on_with_the_very_next_batch(
    tmp_path: Path, batch: int | None, limit: int | float, num_workers: int, sampler: str | None
) -> None:
    """At the end of an epoch or inside one, a shortened epoch included; augmented in workers."""
    path = tmp_path / "last.ckpt"
    options = {"limit_train_batches": limit, "max_epochs": 3, "num_sanity_val_steps": 0}
    uninterrupted, augment = Toy(), PerImage(v2.RandAugment())
    data = make(augment=augment, sampler=sampler)
    trainer(**options, callbacks=[SaveAt(path, batch)]).fit(uninterrupted, datamodule=data)
    per_epoch = len(uninterrupted.order()) // 3
    done = per_epoch if batch is None else batch

    resumed = Toy()
    data = make(augment=augment, num_workers=num_workers, sampler=sampler)
    trainer(**options).fit(resumed, datamodule=data, ckpt_path=path, weights_only=True)
    assert resumed.order() == uninterrupted.order()[done:]
    expected = uninterrupted.arrived["train"][done:]
    for (*_, images, _), (*_, mine, _) in zip(expected, resumed.arrived["train"], strict=True):
        assert images.equal(mine)
    epoch, index, images, _ = uninterrupted.arrived["train"][-1]
    assert epoch == 2
    again = augment(data.train.data.images[index % 2**40], 0, 2, index)
    assert images.equal(data.transforms.evaluation(again))
    assert uninterrupted.order()[0][0] == 0
