from pathlib import Path

import torch
from torch import nn

from triptych.models.custom import CustomModel


class Tiny(nn.Sequential):
    """Somebody's network: it takes images of eight pixels a side."""

    def __init__(self, num_classes: int, width: int = 4) -> None:
        super().__init__(nn.Conv2d(3, width, 8), nn.Flatten(), nn.Linear(width, num_classes))


def test_a_class_of_three_lines_becomes_a_backbone() -> None:
    chosen = {"freeze": "backbone", "mean": [0.1, 0.2, 0.3]}
    backbone = CustomModel(name="tiny", network=Tiny, input_size=8, **chosen).build(6)  # type: ignore[arg-type]
    assert backbone(torch.zeros(2, 3, 8, 8)).shape == (2, 6)
    assert backbone.preprocessing == (8, (0.1, 0.2, 0.3), (0.5, 0.5, 0.5), "bilinear")
    trained = [name for name, p in backbone.named_parameters() if p.requires_grad]
    assert trained == ["network.2.weight", "network.2.bias"]


def test_weights_come_from_a_file_and_stay_away_if_load_is_false(tmp_path: Path) -> None:
    path = tmp_path / "weights of mine"
    model = CustomModel(name="tiny", network=Tiny, input_size=8, weights=str(path))
    assert str(path) in str(model.missing())
    assert not model.can_download()
    saved = Tiny(6)
    torch.save(saved.state_dict(), path)
    assert model.weights_name == str(path)
    assert model.missing() is None
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert model.build(6)(images).equal(saved(images))
    assert not model.build(6, load=False)(images).equal(saved(images))
