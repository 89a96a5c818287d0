import hashlib
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn

from triptych.data.datamodule import Batch, ImageDataModule, digest
from triptych.data.source import ImageSet, LabelledImages
from triptych.data.transforms import DeviceTransforms
from triptych.models.backbone import Preprocessing

EXPECTS = Preprocessing(16, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3))


@dataclass
class Noise:
    """Random images of four classes, in this order of labels: 0, 1, 2, 3, 0, ..."""

    num_train: int = 80
    num_test: int = 21
    calls: list[str] = field(default_factory=list)

    def missing(self) -> str | None:
        return None

    def can_download(self) -> bool:
        return True

    def fetch(self) -> None:
        self.calls.append("fetch")

    def read(self) -> ImageSet:
        self.calls.append("read")
        generator = torch.Generator().manual_seed(0)
        train, test = (
            LabelledImages(
                torch.randint(1, 256, (n, 3, 8, 8), dtype=torch.uint8, generator=generator),
                torch.arange(n) % 4,
            )
            for n in (self.num_train, self.num_test)
        )
        return ImageSet(train, test, ("a", "b", "c", "d"))


def make(source: Noise | None = None, **changes: Any) -> ImageDataModule:
    settings: dict[str, Any] = {
        "source": source or Noise(),
        "batch_size": 8,
        "augment": "none",
        "mix": "none",
        "num_train": None,
        "num_val": 20,
        "num_test": None,
        "split_seed": 0,
        "num_workers": 0,
        "seed": 0,
    }
    data = ImageDataModule(**settings | changes)
    data.setup()
    data.expect(EXPECTS)
    return data


class Toy(pl.LightningModule):
    """Learns a little, and keeps what arrives: (epoch, index, images, labels) of each batch."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 4)
        self.arrived: dict[str, list[tuple[int, Tensor, Tensor, Tensor]]] = {
            stage: [] for stage in ("train", "sanity_check", "validate", "test")
        }

    def _loss(self, batch: Batch) -> Tensor:
        stage = self.trainer.state.stage
        assert stage is not None
        kept = (self.current_epoch, batch.index, batch.images, batch.labels)
        self.arrived[stage.value].append(kept)
        return nn.functional.cross_entropy(self.layer(batch.images.mean((2, 3))), batch.labels)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self._loss(batch)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._loss(batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._loss(batch)

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


# The parts of a data set.


def test_images_are_split_once_and_the_official_test_set_stays_apart() -> None:
    source = Noise()
    data = make(source)
    data.setup("test")
    assert source.calls == ["read"]
    train, test, classes, *_ = source.read()
    assert data.classes == classes
    assert data.train.data.images.equal(train.images)
    assert data.val.data.images.equal(train.images)
    assert data.test.data.images.equal(test.images)
    assert sorted(data.train.index.tolist() + data.val.index.tolist()) == list(range(80))
    assert data.test.index.equal(torch.arange(21))
    assert data.val.data.labels[data.val.index].bincount().tolist() == [5] * 4


def test_parts_for_quick_runs_are_stratified_and_leave_the_validation_images_alone() -> None:
    whole, part = make(), make(num_train=12, num_test=8)
    assert part.val.index.equal(whole.val.index)
    assert set(part.train.index.tolist()) < set(whole.train.index.tolist())
    assert part.train.data.labels[part.train.index].bincount().tolist() == [3] * 4
    assert part.test.data.labels[part.test.index].bincount().tolist() == [2] * 4


def test_the_split_depends_on_its_own_seed_and_not_on_the_runs() -> None:
    hashes = {make(seed=seed, split_seed=split).split_hash for seed in (0, 1) for split in (0, 1)}
    assert hashes == {make().split_hash, make(split_seed=1).split_hash}
    assert len(hashes) == 2


def test_the_hash_of_a_split_is_that_of_its_indices_as_little_endian_integers() -> None:
    data = make(num_train=12)
    packed = b"".join(
        i.to_bytes(8, "little") for part in (data.train, data.val) for i in part.index.tolist()
    )
    assert data.split_hash == hashlib.sha256(packed).hexdigest()[:16]
    assert len(packed) == 8 * 32


def test_the_hash_of_the_test_set_is_that_of_its_pixels_then_its_labels() -> None:
    data = make(num_test=8)
    images, labels = (tensor[data.test.index] for tensor in data.test.data)
    packed = bytes(images.flatten().tolist())
    packed += b"".join(label.to_bytes(8, "little") for label in labels.tolist())
    assert data.test_hash == hashlib.sha256(packed).hexdigest()[:16]
    assert data.test_hash != make().test_hash


def test_a_digest_tells_the_order_of_tensors() -> None:
    one, two = torch.arange(3), torch.arange(3, 6)
    assert digest([one, two]) == digest([torch.arange(6)]) != digest([two, one])


# The loaders.


def test_batches_come_out_of_the_loader_whole_as_stored_with_labels_and_places() -> None:
    data = make()
    train = data.train.data
    for batch in data.train_dataloader():
        assert isinstance(batch, Batch)
        assert batch.images.dtype == torch.uint8
        assert batch.images.equal(train.images[batch.index])
        assert batch.labels.equal(train.labels[batch.index])


def test_worker_processes_bring_the_same_batches() -> None:
    alone, helped = make().train_dataloader(), make(num_workers=1).train_dataloader()
    for one, two in zip(alone, helped, strict=True):
        assert all(map(torch.equal, one, two))


@pytest.mark.parametrize("num_val", [17, 20, 24])
def test_no_evaluation_loader_drops_its_last_batch(num_val: int) -> None:
    data = make(num_val=num_val)
    for loader, part in ((data.val_dataloader(), data.val), (data.test_dataloader(), data.test)):
        assert torch.cat([batch.index for batch in loader]).equal(part.index)


def test_an_epoch_of_batches_draws_nothing_from_the_global_generator() -> None:
    data = make(augment="standard")
    before = torch.get_rng_state()
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        assert len(list(loader)) == len(loader)
    assert torch.get_rng_state().equal(before)


# Under a real Trainer.


def test_only_training_augments_and_all_splits_are_normalised_alike() -> None:
    data, toy = make(augment="standard"), Toy()
    fit = trainer()
    fit.fit(toy, datamodule=data)
    fit.test(toy, datamodule=data, verbose=False)

    plain, augmenting = (DeviceTransforms(*EXPECTS, augment=augment) for augment in (False, True))
    assert {stage: len(batches) for stage, batches in toy.arrived.items()} == {
        "train": 16,
        "sanity_check": 2,
        "validate": 6,
        "test": 3,
    }
    for stage in ("sanity_check", "validate", "test"):
        stored = data.test.data.images if stage == "test" else data.train.data.images
        for _, index, images, _ in toy.arrived[stage]:
            assert images.equal(plain.evaluation(stored[index]))
    for epoch, index, images, labels in toy.arrived["train"]:
        stored = data.train.data.images[index]
        assert images.equal(augmenting.training(stored, labels, (0, epoch, index))[0])
        assert not images.equal(plain.evaluation(stored))


def test_every_epoch_trains_on_every_image_once_in_an_order_of_its_own() -> None:
    toy = Toy()
    trainer().fit(toy, datamodule=make())
    orders = [[i for e, index in toy.order() if e == epoch for i in index] for epoch in (0, 1)]
    assert orders[0] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1]) == make().train.index.tolist()


def test_the_trainer_has_the_source_fetch_and_reads_no_image_twice() -> None:
    source = Noise()
    trainer(max_epochs=1).fit(Toy(), datamodule=make(source))
    assert source.calls == ["read", "fetch"]


@pytest.mark.parametrize("mix", ["mixup", "cutmix"])
def test_mixed_batches_train_and_evaluation_keeps_its_labels(mix: str) -> None:
    toy = Toy()
    trainer(max_epochs=1).fit(toy, datamodule=make(mix=mix))
    for *_, labels in toy.arrived["train"]:
        assert labels.shape == (len(labels), 4)
        torch.testing.assert_close(labels.sum(1), torch.ones(len(labels)))
    for *_, labels in toy.arrived["validate"]:
        assert labels.dtype == torch.int64


class SaveAt(pl.Callback):
    """Saves once, behind so many batches, or at the end of the first epoch."""

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
    ("batch", "limit", "num_workers"),
    [*product([None, 3, 11], [1.0, 5, 0.5], [0]), (3, 1.0, 1), (None, 1.0, 1)],
)
def test_a_resumed_run_goes_on_with_the_very_next_batch(
    tmp_path: Path, batch: int | None, limit: int | float, num_workers: int
) -> None:
    """At the end of an epoch or inside one, a shortened epoch included."""
    path = tmp_path / "last.ckpt"
    options = {"limit_train_batches": limit, "max_epochs": 3, "num_sanity_val_steps": 0}
    whole = Toy()
    trainer(**options, callbacks=[SaveAt(path, batch)]).fit(whole, datamodule=make())
    per_epoch = len(whole.order()) // 3
    done = per_epoch if batch is None else batch

    resumed = Toy()
    data = make(num_workers=num_workers)
    trainer(**options).fit(resumed, datamodule=data, ckpt_path=path, weights_only=True)
    assert resumed.order() == whole.order()[done:]
    assert whole.order()[0][0] == 0
