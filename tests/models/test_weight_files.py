"""Files of weights: what is read of our own and of others, and what is said of the rest."""

import argparse
import datetime
import json
import os
import pickle
import re
import resource
import subprocess
import time
import tracemalloc
import warnings
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torchvision.models import DenseNet, get_model

from triptych.errors import UserError
from triptych.models import WEIGHT_SUFFIXES, is_weights_path
from triptych.models.torchvision_models import TorchvisionModel
from triptych.models.weight_content import check_checkpoint
from triptych.models.weight_files import WeightsFile, fit_head

State = dict[str, Tensor]


class Trap:
    """Unpickled without guard, it leaves a file behind."""

    def __init__(self, trace: Path, run: Callable[..., object] = os.system) -> None:
        self.trace, self.run = trace, run

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str | list[str]]]:
        command = ["touch", str(self.trace)]
        return self.run, (command if self.run is subprocess.call else " ".join(command),)


def network(num_classes: int = 5, width: int = 4) -> nn.Module:
    return nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width), nn.Linear(width, num_classes))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "some.pth"


def load(path: Path, into: nn.Module, *settings: Any) -> tuple[str, list[str]]:
    return WeightsFile.read(path).load_into(into, "2", *settings)


def equal_entries(one: nn.Module, other: nn.Module) -> set[str]:
    """Names of the linear layers' parameters in which two networks agree."""
    mine, linear = one.state_dict(), {"0.weight", "0.bias", "2.weight", "2.bias"}
    return {n for n, value in other.state_dict().items() if n in linear and value.equal(mine[n])}


def add_prefix(prefix: str, state: State) -> State:
    return {f"{prefix}{name}": value for name, value in state.items()}


def zeros(state: State) -> State:
    return {name: torch.zeros_like(value) for name, value in state.items()}


# What is read.

WRAPPINGS: dict[str, Callable[[State], Any]] = {
    "bare": lambda s: s,
    "nested prefixes": lambda s: add_prefix("module._orig_mod.model.", s),
    "Lightning": lambda s: {"state_dict": add_prefix("net.", s), "hyper_parameters": {"lr": 0.1}},
    "torchvision": lambda s: {"model": s, "args": argparse.Namespace(lr=np.float64(0.1))},
    "a class of its author": lambda s: {"network": s, "when": datetime.date(2026, 1, 1)},
    "average": lambda s: {
        "model": zeros(s),
        "model_ema": add_prefix("module.", s) | {"n_averaged": torch.tensor(3)},
    },
    "timm": lambda s: {"state_dict": zeros(s), "state_dict_ema": s, "metric": np.float32(80)},
    "teacher": lambda s: {"student": zeros(s), "teacher": add_prefix("backbone.", s)},
    "momentum": lambda s: {
        "state_dict": add_prefix("encoder_q.", s) | add_prefix("encoder_k.", zeros(s))
    },
    "other parts": lambda s: add_prefix("encoder.", s) | {"criterion.weight": torch.ones(5)},
    "counters": lambda s: s | {"0.total_ops": torch.ones(1), "total_params": torch.ones(1)},
    "no count of batches": lambda s: {n: v for n, v in s.items() if "num_batches" not in n},
    "deep": lambda s: {"ema": {"decay": 0.9, "module": s}},
    "double": lambda s: {name: value.double() for name, value in s.items()},
    "our last.ckpt": lambda s: {"state_dict": add_prefix("backbone.network.", s), "best": None},
}


@pytest.mark.parametrize("name", WRAPPINGS)
def test_weights_are_read_however_they_are_wrapped(path: Path, name: str) -> None:
    saved, fresh = network(), network()
    torch.save(WRAPPINGS[name](saved.state_dict()), path)
    load(path, fresh)
    assert equal_entries(saved, fresh) == {"0.weight", "0.bias", "2.weight", "2.bias"}


@given(st.lists(st.sampled_from(["module", "model", "a1", "0", "net"]), max_size=4))
def test_any_prefix_is_read(parts: list[str]) -> None:
    saved, fresh = network(), network()
    state = add_prefix("".join(f"{part}." for part in parts), saved.state_dict())
    WeightsFile(Path("x"), {"state_dict": state}).load_into(fresh, "2")
    assert len(equal_entries(saved, fresh)) == 4


def test_which_weights_of_several_were_taken_is_said(path: Path) -> None:
    for name, wanted in (("average", "model_ema"), ("teacher", "teacher"), ("bare", None)):
        torch.save(WRAPPINGS[name](network().state_dict()), path)
        notes = load(path, network())[1]
        assert len(notes) == (wanted is not None)
        assert not wanted or f"{wanted}" in notes[0].partition(" was taken")[0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_becomes_single(path: Path, dtype: torch.dtype) -> None:
    saved, fresh = network(), network()
    torch.save(saved.to(dtype).state_dict(), path)
    load(path, fresh)
    assert {value.dtype for value in fresh.parameters()} == {torch.float32}
    assert len(equal_entries(saved.float(), fresh)) == 4


def test_a_network_that_was_pickled_whole_is_read_without_its_classes(path: Path) -> None:
    saved, fresh = get_model("squeezenet1_1").state_dict(), TorchvisionModel("squeezenet1_1", None)
    whole = get_model("squeezenet1_1")
    whole.load_state_dict(saved)
    for content in (whole, {"model": whole, "epoch": 3}):
        torch.save(content, path)
        model = fresh.build(1000).network
        WeightsFile.read(path).load_into(model, "classifier.1")
        assert all(value.equal(saved[name]) for name, value in model.state_dict().items())


def write_safetensors(path: Path, state: State) -> None:
    """As the format's description says, independently of what reads it."""
    header, data = {}, b""
    for name, value in state.items():
        raw = value.numpy().tobytes()
        kind = {"float32": "F32", "float16": "F16", "int64": "I64"}[str(value.numpy().dtype)]
        offsets = [len(data), len(data) + len(raw)]
        header[name] = {"dtype": kind, "shape": list(value.shape), "data_offsets": offsets}
        data += raw
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def test_safetensors_are_read_and_a_cut_file_is_refused(path: Path) -> None:
    path = path.with_suffix(".safetensors")
    saved, fresh = network(), network()
    write_safetensors(path, add_prefix("model.", saved.state_dict()))
    load(path, fresh)
    assert len(equal_entries(saved, fresh)) == 4
    path.write_bytes(path.read_bytes()[:-20])
    error_of(path)


def test_names_of_old_densenets_are_read(path: Path) -> None:
    """As in torchvision's own file: norm.1.weight."""
    model = DenseNet(4, (2, 2), 8, num_classes=10)
    state = model.state_dict()
    old = {re.sub(r"(norm|conv)([12]\.)", r"\1.\2", n): v + 1 for n, v in state.items()}
    assert len(old.keys() - state.keys()) > 30
    expected = {name: value + 1 for name, value in state.items()}
    torch.save(old, path)
    WeightsFile.read(path).load_into(model, "classifier")
    assert all(value.equal(expected[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("suffix", WEIGHT_SUFFIXES)
def test_a_path_is_told_from_a_name_by_its_ending_or_a_slash(suffix: str) -> None:
    assert is_weights_path(f"x{suffix}")
    assert is_weights_path(f"X{suffix.upper()}")
    model = TorchvisionModel("alexnet", f"~/none{suffix}")
    assert model.weights_path == Path.home() / f"none{suffix}"
    assert str(Path.home()) in str(model.missing())
    assert is_weights_path("./weights of mine")
    assert not any(map(is_weights_path, ("DEFAULT", "IMAGENET1K_V1", "a1_in1k")))


# The head.


def numbered(kind: type[nn.Module], num_classes: int, bias: bool = True) -> nn.Module:
    """A head whose rows are 1, 2, 3, ..."""
    size = {"kernel_size": 1} if kind is nn.Conv2d else {}
    head = kind(2, num_classes, bias=bias, **size)
    with torch.no_grad():
        for value in head.parameters():
            values = torch.arange(1.0, num_classes + 1)
            value.copy_(values.view(-1, *[1] * (value.ndim - 1)).expand_as(value))
    return head


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", [nn.Linear, nn.Conv2d])
@given(st.permutations("abcdef"), st.permutations("defghi"), st.integers(1, 6))
def test_rows_of_a_head_are_taken_by_class_name(
    kind: type[nn.Module], bias: bool, stored: list[str], classes: list[str], number: int
) -> None:
    classes = classes[:number]
    head = numbered(kind, number, bias)
    state, origin = fit_head(head, numbered(kind, 6, bias).state_dict(), stored, classes)
    shared = sum(name in stored for name in classes)
    mean = sum(range(1, 7)) / 6
    expected = [stored.index(name) + 1 if name in stored else mean for name in classes]
    for value in state.values() if shared else ():
        assert [float(row.flatten()[0]) for row in value] == expected
    assert origin.startswith("new" if not shared else str(shared) if shared < number else "all")


@pytest.mark.parametrize(
    "content",
    [
        *({}, {"classes": list("abcd")}, {"classes": [1, 2, 3]}),
        *({"class_to_idx": {"a": [], "b": 1, "c": 2}}, {"class_to_idx": {5: 0, 6: 1, 7: 2}}),
    ],
)
def test_a_head_whose_classes_are_not_known_is_new(path: Path, content: dict[str, Any]) -> None:
    saved, fresh = network(3), network(3)
    before = fresh.state_dict()["2.weight"].clone()
    torch.save({"state_dict": saved.state_dict(), **content}, path)
    origin = load(path, fresh, (), ("a", "b", "c"))[0]
    assert origin.startswith("new")
    assert fresh.state_dict()["2.weight"].equal(before)
    assert equal_entries(saved, fresh) == {"0.weight", "0.bias"}


@pytest.mark.parametrize(
    "content", [{"class_to_idx": {"b": 1, "a": 0}}, {"class_names": ("a", "b")}]
)
def test_class_names_are_read_from_the_files_of_others(path: Path, content: Any) -> None:
    saved, fresh = network(2), network(2)
    torch.save({"model": saved.state_dict(), **content}, path)
    load(path, fresh, (), ("b", "a"))
    assert fresh.state_dict()["2.weight"].equal(saved.state_dict()["2.weight"].flip(0))


@pytest.mark.parametrize("head", ["the same number", "another", "none", "of several layers"])
def test_without_class_names_a_head_of_as_many_outputs_is_taken(path: Path, head: str) -> None:
    saved, fresh = network(7 if head == "another" else 5), network()
    state = saved.state_dict()
    if head in ("none", "of several layers"):
        del state["2.weight"], state["2.bias"]
    if head == "of several layers":
        state["2.0.weight"] = torch.ones(3)
    torch.save(state, path)
    load(path, fresh)
    of_head = {"2.weight", "2.bias"} if head == "the same number" else set()
    assert equal_entries(saved, fresh) == {"0.weight", "0.bias"} | of_head


@pytest.mark.parametrize("bias", [torch.tensor(1.0), torch.ones(2)])
@pytest.mark.parametrize("classes", [None, ("a", "b", "c")])
def test_a_head_of_no_shape_is_new(path: Path, bias: Tensor, classes: Any) -> None:
    state = network(3).state_dict() | {"2.bias": bias}
    torch.save({"state_dict": state, "classes": ["a", "b", "c"]}, path)
    assert load(path, network(3), (), classes)[0].startswith("new")


@pytest.mark.parametrize("versions", [[1], {"": 3}, {"1": [1]}, {"1": {"version": "x"}}])
def test_versions_that_are_none_are_an_error_of_the_file_or_none(path: Path, versions: Any) -> None:
    state = network().state_dict()
    state._metadata = versions  # type: ignore[attr-defined]
    torch.save(state, path)
    with suppress(UserError):
        load(path, network())


def test_ignored_parameters_are_left_out(path: Path) -> None:
    saved, fresh = network(), network()
    extra = {"aux1.fc.weight": torch.ones(2), "aux2.fc.weight": torch.ones(2)}
    torch.save(saved.state_dict() | extra, path)
    load(path, fresh, ("aux1.", "aux2."))
    assert len(equal_entries(fresh, saved)) == 4
    assert "aux1" in error_of(path)


# What cannot be read.


def error_of(path: Path) -> str:
    """The message of the error that loading the file into a small network raises."""
    with pytest.raises(UserError) as caught:
        load(path, network())
    message = str(caught.value)
    assert message.startswith(f"weights {path}: ")
    assert len(message.splitlines()) <= 3
    return message


def test_a_file_that_does_not_fit_is_refused_with_names_numbers_and_shapes(path: Path) -> None:
    state = network().state_dict()
    torch.save({n: v for n, v in state.items() if n != "0.bias"} | {"more": torch.ones(1)}, path)
    message = error_of(path)
    assert "1 missing: 0.bias" in message
    assert "1 unexpected: more" in message
    torch.save(network(width=6).state_dict(), path)
    message = error_of(path)
    assert "6 of another shape: 0.weight [6, 3] instead of [4, 3]" in message
    torch.save({f"layer.{n}": torch.ones(1) for n in "abcd"}, path)
    assert "6 missing: 0.weight, 0.bias, 1.weight, ..." in error_of(path)
    assert "4 unexpected: layer.a, layer.b, layer.c, ..." in error_of(path)


@pytest.mark.parametrize(
    "value",
    [
        *(torch.full((4, 3), torch.nan), torch.full((4, 3), 1e6).half(), torch.ones(4, 3).char()),
        torch.full((4, 3), torch.nan).to(torch.float8_e4m3fn),
    ],
)
def test_weights_that_are_no_numbers_or_whole_ones_are_refused(path: Path, value: Tensor) -> None:
    torch.save(network().state_dict() | {"0.weight": value}, path)
    assert "1 not of finite fractions: 0.weight" in error_of(path)


@pytest.mark.parametrize(
    "content",
    [
        {},
        network().state_dict() | {"0.weight": "text"},
        *([1, 2], {1: torch.ones(1)}, {"2.weight": 1}, {"state_dict": None}, torch.ones(3)),
    ],
)
def test_a_file_of_something_else_is_refused(path: Path, content: object) -> None:
    torch.save(content, path)
    error_of(path)


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"404: Not Found", "text"),
        (b"\x1f\x8b\x08\x00\x00", "unpack"),
    ],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_what_a_file_is_instead_is_said(path: Path, content: bytes, word: str, suffix: str) -> None:
    path = path.with_suffix(suffix)
    path.write_bytes(content)
    assert word in error_of(path)


def test_programs_and_folders_are_refused_with_what_to_give_instead(path: Path) -> None:
    exported = torch.export.export(nn.Linear(2, 2), (torch.ones(1, 2),))
    with path.open("wb") as file:
        torch.export.save(exported, file)
    assert "best.ckpt" in error_of(path)
    inside = path.with_name("run") / "checkpoints" / "best.ckpt"
    inside.parent.mkdir(parents=True)
    inside.touch()
    with pytest.raises(UserError, match=f"model.weights={path.with_name('run')}$"):
        WeightsFile.read(path.parent)


class Zeros:
    """Pickles as a long `bytearray`, of which the file has but the length."""

    def __reduce__(self) -> tuple[type, tuple[int]]:
        return bytearray, (10**9,)


class Rows:
    """Pickles as a mapping made of a tensor: torch makes a tensor of each of its rows."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor

    def __reduce__(self) -> tuple[type, tuple[Tensor]]:
        return OrderedDict, (self.tensor,)


HOSTILE: dict[str, Callable[[State], Any]] = {
    "views of one number": lambda state: {n: v[:1].expand(2**34) for n, v in state.items()},
    "a tensor that is nowhere": lambda state: state | {"x": torch.empty(2**40, device="meta")},
    "a sparse tensor": lambda state: state | {"x": torch.eye(3).to_sparse()},
    "rows of a tensor": lambda state: {"x": Rows(state["0.bias"][:1].expand(3 * 10**6))},
    "zeros beside it": lambda state: {"state_dict": state, "zeros": Zeros()},
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("is_zip", [True, False])
def test_a_file_that_would_take_more_than_its_size_is_refused(
    path: Path, name: str, is_zip: bool
) -> None:
    state = {"0.bias": torch.ones(4), "2.bias": torch.ones(5)}
    content, before = HOSTILE[name](state), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    torch.save(content, path, _use_new_zipfile_serialization=is_zip)
    data = path.read_bytes().replace(b"c__builtin__\nbytearray", b"cbuiltins\nbytearray")
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"weights .*some\.pth: "):
        WeightsFile.read(path)
    if is_zip:
        with pytest.raises(UserError, match=r"some\.pth: no checkpoint"):
            check_checkpoint(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2e5


def test_a_device_and_a_fifo_are_refused_and_keep_nobody_waiting(path: Path) -> None:
    path.symlink_to("/dev/zero")
    fifo = path.with_name("fifo.pth")
    os.mkfifo(fifo)
    for each in (path, fifo, path.with_suffix(".safetensors")):
        if not each.is_fifo() and not each.exists():
            each.symlink_to("/dev/zero")
        with pytest.raises(UserError, match=r"no regular file"):
            WeightsFile.read(each)


def test_an_archive_with_a_compressed_part_or_an_index_without_end_is_refused(path: Path) -> None:
    for compression, name in ((ZIP_DEFLATED, "archive/more"), (ZIP_STORED, "archive/data.pkl")):
        torch.save(network().state_dict(), path)
        with ZipFile(path, "a", compression) as archive, warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Duplicate name")
            archive.writestr(name, bytes(20_000_000))
        for read in (check_checkpoint, WeightsFile.read):
            with pytest.raises(UserError, match=r"some\.pth: "):
                read(path)


@pytest.mark.parametrize(
    ("length", "entries"),
    [
        (2**60, {}),
        (-1, {f"{i}.weight": (0, 40_000) for i in range(1000)}),
        (-1, {"a": (0, 8), "b": (4, 12)}),
        (-1, {"a": (8, 4)}),
        (-1, {"a": (0, 2**62)}),
    ],
)
def test_safetensors_that_lie_over_each_other_or_beyond_the_file_are_refused(
    path: Path, length: int, entries: dict[str, tuple[int, int]]
) -> None:
    path = path.with_suffix(".safetensors")
    header = {
        name: {"dtype": "U8", "shape": [abs(place[1] - place[0])], "data_offsets": place}
        for name, place in entries.items()
    }
    text = json.dumps(header).encode()
    size = length if length >= 0 else len(text)
    path.write_bytes(size.to_bytes(8, "little") + text + bytes(40_000))
    tracemalloc.start()
    _, (_, peak) = error_of(path), tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5e6


def test_one_mapping_at_a_million_places_and_names_without_end_take_no_time(path: Path) -> None:
    saved = network()
    content: Any = saved.state_dict() | {"a." * 10**5: torch.zeros(1)}
    for _ in range(3):
        content = {f"place{i}": content for i in range(100)}
    torch.save(content, path)
    started = time.process_time()
    into = network()
    load(path, into)
    assert equal_entries(saved, into) >= {"0.weight", "0.bias"}
    assert time.process_time() - started < 2


def test_networks_that_share_their_parts_take_no_time_and_no_memory(path: Path) -> None:
    shared: nn.Module = nn.Linear(1, 1)
    for _ in range(25):
        shared = nn.Sequential(OrderedDict({"n" * 300: shared, "m" * 300: shared}))
    torch.save({f"network{i}": nn.Sequential(shared) for i in range(1000)}, path)
    started, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    error_of(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1e5
    assert time.process_time() - started < 2


def test_a_file_that_is_cut_short_or_absent_is_refused(path: Path) -> None:
    assert "No such file" in error_of(path)
    torch.save(network().state_dict(), path)
    saved = path.read_bytes()
    for content in (saved[: len(saved) // 2], saved[:-10]):
        path.write_bytes(content)
        error_of(path)


@pytest.mark.parametrize("form", ["zip", "plain"])
def test_code_in_a_file_does_not_run_and_nobody_is_told_to_let_it(path: Path, form: str) -> None:
    trap, trace = {"0.weight": Trap(path.with_name("trace"))}, path.with_name("trace")
    if form == "zip":
        torch.save(trap, path)
    else:
        path.write_bytes(pickle.dumps(trap, protocol=2))
    assert "weights_only" not in error_of(path)
    assert not trace.exists()
    pickle.loads(pickle.dumps(trap))
    assert trace.exists(), "the trap works"


def test_code_beside_weights_does_not_run_while_they_are_read(path: Path) -> None:
    saved, fresh, trace = network(), network(), path.with_name("trace")
    trap = Trap(trace, subprocess.call)
    torch.save({"state_dict": saved.state_dict(), "args": trap}, path)
    load(path, fresh)
    assert len(equal_entries(saved, fresh)) == 4
    assert not trace.exists()
    pickle.loads(pickle.dumps(trap))
    assert trace.exists(), "the trap works"
