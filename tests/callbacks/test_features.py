"""Features on disk: each once, whole or not at all, and never more than there is room for."""

import os
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from triptych.callbacks import feature_cache
from triptych.callbacks.feature_cache import Features, load_or_compute
from triptych.errors import UserError

N, F = 10, 6
BYTES = N * F * 4


class Batches:
    """The features of ten images, in three batches; counts how often they were gone through."""

    def __init__(self, seed: int = 0, dtype: torch.dtype = torch.float32) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.whole = torch.randn(N, F, generator=generator, dtype=dtype)
        self.times = 0

    def __iter__(self) -> Iterator[Tensor]:
        self.times += 1
        yield from self.whole.split(4)

    def load_or_compute(self, name: str = "a") -> Features:
        return load_or_compute(name, N, self.whole[:3], self)


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of features, of this test alone."""
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    return tmp_path / ".features"


def names(place: Path) -> list[str]:
    return sorted(path.stem for path in place.glob("*.features"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_features_are_computed_once_and_read_to_the_last_bit(dtype: torch.dtype) -> None:
    batches = Batches(dtype=dtype)
    computed, read = batches.kept(), batches.kept()
    assert computed.features.equal(batches.whole)
    assert read.features.equal(batches.whole)
    assert read.features.dtype is dtype
    assert batches.times == 1
    assert computed.seconds > 0 == read.seconds


def test_under_another_name_lie_others() -> None:
    first, second = Batches(0), Batches(1)
    first.kept("a")
    assert second.kept("b").features.equal(second.whole)
    assert first.kept("a").features.equal(first.whole)
    assert (first.times, second.times) == (1, 1)


@pytest.mark.parametrize("harm", ["short", "long", "empty", "other", "not a number"])
def test_a_file_that_is_not_what_it_should_be_is_computed_anew(harm: str, place: Path) -> None:
    batches = Batches()
    batches.kept()
    path = place / "a.features"
    other = Batches(1).whole.numpy().tobytes()
    nan = np.full((N, F), np.nan, np.float32).tobytes()
    content = path.read_bytes()
    harmed = {"short": content[:-1], "long": content + b"0", "empty": b"", "other": other}
    path.write_bytes((harmed | {"not a number": nan})[harm])
    assert batches.kept().features.equal(batches.whole)
    assert batches.times == 2
    assert path.read_bytes() == content


def test_what_another_size_of_batch_makes_of_the_last_bits_is_trusted() -> None:
    batches = Batches()
    batches.kept()
    read = load_or_compute("a", N, batches.whole[:3] * (1 + 1e-5), batches)
    assert read.seconds == 0
    assert read.features.equal(batches.whole)


def test_features_that_come_out_otherwise_each_time_are_refused() -> None:
    with pytest.raises(UserError, match="another time, the same images had other features"):
        load_or_compute("a", N, Batches(1).whole[:3], Batches(0))


def test_of_two_at_once_one_computes_and_the_other_waits(capfd: pytest.CaptureFixture[str]) -> None:
    batches, waits = Batches(), threading.Event()

    def slowly() -> Iterator[Tensor]:
        waits.wait(10)
        yield from batches

    def look() -> None:
        while "waiting for another process" not in (said := capfd.readouterr().err):
            assert not said
        waits.set()

    with ThreadPoolExecutor() as pool:
        asked = [
            pool.submit(load_or_compute, "a", N, batches.whole[:3], slowly()) for _ in range(2)
        ]
        pool.submit(look).result(10)
        found = [future.result(10) for future in asked]
    assert batches.times == 1
    assert found[0].features.equal(found[1].features)
    assert sorted(load_or_compute.is_awaited for load_or_compute in found) == [False, True]
    assert min(load_or_compute.seconds for load_or_compute in found) > 0


# The disk.


def test_a_disk_that_fills_up_is_refused_and_nothing_half_written_is_left(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UserError, match="No space left on device"):
        Batches().kept()
    assert {path.suffix for path in place.iterdir()} == {".lock"}


def test_a_run_that_stops_under_way_leaves_nothing_half_written(place: Path) -> None:
    def stopped() -> Iterator[Tensor]:
        yield Batches().whole[:4]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load_or_compute("a", N, Batches().whole[:3], stopped())
    assert {path.suffix for path in place.iterdir()} == {".lock"}


def test_too_full_a_disk_is_refused_before_anything_is_computed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    batches = Batches()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=100))
    with pytest.raises(UserError, match="features take 240 bytes, 100 bytes are free"):
        batches.kept()
    assert batches.times == 0


def test_a_folder_that_cannot_be_made_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "file"))
    with pytest.raises(UserError, match="Not a directory"):
        Batches().kept()


def test_what_lies_on_a_disk_that_is_read_only_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(_: Path) -> None:
        raise OSError(30, "Read-only file system")

    batches = Batches()
    batches.kept()
    monkeypatch.setattr("os.utime", read_only)
    assert batches.kept().features.equal(batches.whole)
    assert batches.times == 1


# Room for three.


@pytest.fixture
def room_for_three(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_cache, "MOST_BYTES", 3 * BYTES)


def last_used(place: Path, *in_order: str) -> None:
    for seconds, name in enumerate(in_order):
        os.utime(place / f"{name}.features", (seconds, seconds))


@pytest.mark.usefixtures("room_for_three")
def test_what_was_used_least_recently_goes_first(place: Path) -> None:
    for name in "abc":
        Batches().kept(name)
    last_used(place, *"bac")
    Batches().kept("b")
    Batches().kept("d")
    assert names(place) == ["b", "c", "d"]
    assert not (place / "a.features.lock").exists()


@pytest.mark.usefixtures("room_for_three")
def test_what_is_in_use_stays(place: Path) -> None:
    in_use = Batches().kept("a")
    Batches().kept("b")
    Batches().kept("c")
    last_used(place, *"abc")
    Batches().kept("d")
    assert names(place) == ["a", "c", "d"]
    assert in_use.features.equal(Batches().whole)


@pytest.mark.usefixtures("room_for_three")
def test_where_all_is_in_use_nothing_goes_and_nothing_is_computed(place: Path) -> None:
    used, batches = [Batches().kept(name) for name in "abc"], Batches()
    with pytest.raises(UserError, match="features take 240 bytes, others are in use"):
        batches.kept("d")
    assert len(used) == 3
    assert names(place) == ["a", "b", "c"]
    assert batches.times == 0


@pytest.mark.usefixtures("room_for_three")
def test_what_a_killed_process_left_goes_too(place: Path) -> None:
    Batches().kept("a")
    half = place / ".b.features.12345"
    half.write_bytes(bytes(2 * BYTES))
    os.utime(half, (0, 0))
    Batches().kept("c")
    assert names(place) == ["a", "c"]
    assert not half.exists()
