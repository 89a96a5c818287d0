import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from triptych.errors import UserError
from triptych.models.backbone import load_weights


class Trap:
    """Unpickled without guard, it leaves a file behind."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.trace}",)


def network(num_classes: int, width: int = 4) -> nn.Module:
    return nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width), nn.Linear(width, num_classes))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "some.pth"


def equal_entries(one: nn.Module, other: nn.Module) -> set[str]:
    """Names of the linear layers' parameters in which two networks agree."""
    mine = one.state_dict()
    linear = {name: value for name, value in other.state_dict().items() if name[0] != "1"}
    return {name for name, value in linear.items() if value.equal(mine[name])}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3, "config": "a: 1"},
        lambda state: {"state_dict": {f"backbone.network.{n}": v for n, v in state.items()}},
    ],
)
@pytest.mark.parametrize(("num_classes", "num_equal"), [(5, 4), (7, 2)])
def test_weights_are_loaded_with_the_head_if_it_is_of_the_same_classes(
    path: Path, wrap: Callable[[Any], Any], num_classes: int, num_equal: int
) -> None:
    saved, fresh = network(num_classes), network(5)
    head = fresh[2].weight.clone()  # type: ignore[index]
    torch.save(wrap(saved.state_dict()), path)
    load_weights(fresh, "2", path)
    loaded = fresh.state_dict()
    assert all(loaded[n].equal(value) for n, value in saved.state_dict().items() if n < "2")
    assert loaded["2.weight"].equal(head) == (num_equal == 2)
    if num_equal == 4:
        assert equal_entries(fresh, saved) == {"0.weight", "0.bias", "2.weight", "2.bias"}


def test_weights_without_a_head_are_loaded_beside_a_fresh_one(path: Path) -> None:
    saved, fresh = network(5), network(5)
    torch.save({n: v for n, v in saved.state_dict().items() if not n.startswith("2.")}, path)
    load_weights(fresh, "2", path)
    assert equal_entries(fresh, saved) == {"0.weight", "0.bias"}


def test_ignored_parameters_are_left_out(path: Path) -> None:
    saved, fresh = network(5), network(5)
    extra = {"aux1.fc.weight": torch.ones(2), "aux2.fc.weight": torch.ones(2)}
    torch.save(saved.state_dict() | extra, path)
    load_weights(fresh, "2", path, ignored=("aux1.", "aux2."))
    assert len(equal_entries(fresh, saved)) == 4
    with pytest.raises(UserError, match=r"some\.pth: of another network\n.*aux1"):
        load_weights(fresh, "2", path)


def error_of(path: Path) -> str:
    """The message of the error that loading the file into a small network raises."""
    with pytest.raises(UserError) as caught:
        load_weights(network(5), "2", path)
    message = str(caught.value)
    assert message.startswith(f"weights {path}: ")
    assert len(message.splitlines()) <= 3
    return message


@pytest.mark.parametrize(
    "content",
    [
        network(5, width=6).state_dict(),
        nn.Conv2d(3, 4, 3).state_dict(),
        {},
        network(5).state_dict() | {"more": torch.ones(1)},
    ],
)
def test_weights_of_another_network_are_refused(path: Path, content: object) -> None:
    torch.save(content, path)
    assert "of another network" in error_of(path)


@pytest.mark.parametrize(
    "content", [[1, 2], {1: torch.ones(1)}, {"2.weight": 1}, {"state_dict": None}, torch.ones(3)]
)
def test_a_file_that_holds_something_else_is_refused(path: Path, content: object) -> None:
    torch.save(content, path)
    assert "no file of weights" in error_of(path)


def test_a_file_that_is_cut_short_of_another_kind_or_absent_is_refused(path: Path) -> None:
    assert "No such file" in error_of(path)
    torch.save(network(5).state_dict(), path)
    saved = path.read_bytes()
    for content in (*(saved[: int(share * len(saved))] for share in (0, 0.1, 0.5, 0.99)), b"hello"):
        path.write_bytes(content)
        assert "no file of weights" in error_of(path)


@pytest.mark.parametrize("form", ["zip", "plain"])
def test_code_in_a_file_does_not_run_and_nobody_is_told_to_let_it(path: Path, form: str) -> None:
    trap = {"0.weight": Trap(path.with_name("trace"))}
    if form == "zip":
        torch.save(trap, path)
    else:
        path.write_bytes(pickle.dumps(trap, protocol=2))
    assert "more than tensors" in error_of(path)
    assert "weights_only" not in error_of(path)
    assert not path.with_name("trace").exists()
    pickle.loads(pickle.dumps(trap))
    assert path.with_name("trace").exists(), "the trap works"
