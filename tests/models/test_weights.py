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


def network(num_classes: int = 5, width: int = 4) -> nn.Module:
    return nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width), nn.Linear(width, num_classes))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "some.pth"


def equal_entries(one: nn.Module, other: nn.Module) -> set[str]:
    """Names of the linear layers' parameters in which two networks agree."""
    mine, linear = one.state_dict(), {"0.weight", "0.bias", "2.weight", "2.bias"}
    return {n for n, value in other.state_dict().items() if n in linear and value.equal(mine[n])}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3, "config": "a: 1"},
        lambda state: {"state_dict": {f"backbone.network.{n}": v for n, v in state.items()}},
    ],
)
@pytest.mark.parametrize("head", ["the same classes", "other classes", "none"])
def test_weights_are_loaded_with_the_head_if_it_is_of_the_same_classes(
    path: Path, wrap: Callable[[Any], Any], head: str
) -> None:
    saved, fresh = network(7 if head == "other classes" else 5), network()
    state = saved.state_dict()
    if head == "none":
        del state["2.weight"], state["2.bias"]
    torch.save(wrap(state), path)
    load_weights(fresh, "2", path)
    of_head = {"2.weight", "2.bias"} if head == "the same classes" else set()
    assert equal_entries(saved, fresh) == {"0.weight", "0.bias"} | of_head


def test_ignored_parameters_are_left_out(path: Path) -> None:
    saved, fresh = network(), network()
    extra = {"aux1.fc.weight": torch.ones(2), "aux2.fc.weight": torch.ones(2)}
    torch.save(saved.state_dict() | extra, path)
    load_weights(fresh, "2", path, ignored=("aux1.", "aux2."))
    assert len(equal_entries(fresh, saved)) == 4
    assert "aux1" in error_of(path)


def error_of(path: Path) -> str:
    """The message of the error that loading the file into a small network raises."""
    with pytest.raises(UserError) as caught:
        load_weights(network(), "2", path)
    message = str(caught.value)
    assert message.startswith(f"weights {path}: ")
    assert len(message.splitlines()) <= 3
    return message


@pytest.mark.parametrize(
    "content",
    [
        network(width=6).state_dict(),
        {},
        network().state_dict() | {"more": torch.ones(1)},
        network().state_dict() | {"0.weight": "text"},
        *([1, 2], {1: torch.ones(1)}, {"2.weight": 1}, {"state_dict": None}, torch.ones(3)),
    ],
)
def test_a_file_of_another_network_or_of_something_else_is_refused(
    path: Path, content: object
) -> None:
    torch.save(content, path)
    error_of(path)


def test_a_file_that_is_cut_short_of_another_kind_or_absent_is_refused(path: Path) -> None:
    assert "No such file" in error_of(path)
    torch.save(network().state_dict(), path)
    saved = path.read_bytes()
    for content in (b"", saved[: len(saved) // 2], saved[:-10], b"hello"):
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
