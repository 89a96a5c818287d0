from pathlib import Path

import pytest
import torch
from torch import nn

from triptych.errors import UserError
from triptych.models.custom import CustomModel


class Tiny(nn.Sequential):
    """Somebody's network: it takes images of eight pixels a side."""

    def __init__(self, num_classes: int, width: int = 4) -> None:
        super().__init__(nn.Conv2d(3, width, 8), nn.Flatten(), nn.Linear(width, num_classes))


class Broken(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.layer = nn.Linear(4, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        raise ZeroDivisionError


def test_a_class_of_three_lines_becomes_a_backbone() -> None:
    backbone = CustomModel("tiny", Tiny, input_size=8).build(6)
    assert backbone.training
    assert backbone(torch.zeros(2, 3, 8, 8)).shape == (2, 6)
    assert backbone.preprocessing == (8, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bilinear")
    assert str(backbone.head) == str(nn.Linear(4, 6))


def test_statistics_and_freezing_are_its_own_to_choose() -> None:
    own = CustomModel("tiny", Tiny, 8, freeze="backbone", mean=[0.1, 0.2, 0.3], std=[1, 2, 3])  # type: ignore[arg-type]
    backbone = own.build(6)
    assert backbone.preprocessing == (8, (0.1, 0.2, 0.3), (1, 2, 3), "bilinear")
    assert [n for n, p in backbone.named_parameters() if p.requires_grad] == [
        "network.2.weight",
        "network.2.bias",
    ]


@pytest.mark.parametrize("network", [Tiny, Broken])
def test_an_input_size_that_does_not_fit_is_refused_by_name(network: type[nn.Module]) -> None:
    with pytest.raises(UserError, match=r"^model\.input_size=7: mine cannot take it \(.+\)$"):
        CustomModel("mine", network, input_size=7).build(6)


def test_from_scratch_nothing_is_missing() -> None:
    own = CustomModel("tiny", Tiny, 8)
    assert own.weights_name is None
    assert own.missing() is None


def test_weights_come_from_a_file_and_stay_away_where_load_is_false(tmp_path: Path) -> None:
    path = tmp_path / "tiny.pth"
    saved = Tiny(6)
    torch.save(saved.state_dict(), path)
    own = CustomModel("tiny", Tiny, 8, weights=str(path))
    assert own.weights_name == str(path)
    assert own.missing() is None
    loaded, fresh = own.build(6), own.build(6, load=False)
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert loaded(images).equal(saved(images))
    assert not fresh(images).equal(saved(images))


def test_an_absent_file_of_weights_is_missing_and_out_of_reach(tmp_path: Path) -> None:
    own = CustomModel("tiny", Tiny, 8, weights=str(tmp_path / "absent.pth"))
    assert own.missing() == f"weights of tiny: {tmp_path / 'absent.pth'}"
    assert not own.can_download()


def test_a_file_of_weights_for_another_network_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "wide.pth"
    torch.save(Tiny(6, width=5).state_dict(), path)
    with pytest.raises(UserError, match=r"wide\.pth: of another network\n.*size mismatch"):
        CustomModel("tiny", Tiny, 8, weights=str(path)).build(6)
