"""Heat maps, against a network whose map is known and against other people's networks."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.models import VisionTransformer, get_model

from triptych.errors import UserError
from triptych.models.backbone import Backbone, Preprocessing
from triptych.runs.predictions import Predictions
from triptych.tools.evaluate.grad_cam import (
    check_places,
    choose_rows,
    explain_image,
    find_deepest_map,
    grad_cam,
)
from triptych.tools.evaluate.rebuild import RebuiltRun

SIDE = 6


class TwoChannels(nn.Module):
    """Logits are a linear map of the means of two rectified mixtures of the colours."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, kernel_size=1, bias=False)
        self.relu = nn.ReLU(inplace=True)
        self.fc = nn.Linear(2, 4)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.relu(self.conv(images)).mean((2, 3)))
        return logits


@pytest.fixture
def backbone() -> Backbone:
    torch.manual_seed(3)
    return Backbone(TwoChannels(), 4, Preprocessing(SIDE, (0.5,) * 3, (0.5,) * 3)).eval()


def build(network: nn.Module, size: int, freeze: str = "none") -> tuple[Backbone, Tensor]:
    torch.manual_seed(0)
    preprocessing = Preprocessing(size, (0.5,) * 3, (0.5,) * 3)
    return Backbone(network, 5, preprocessing, freeze).eval(), torch.rand(2, 3, size, size)


def test_heat_is_what_the_paper_defines(backbone: Backbone) -> None:
    images, classes = torch.randn(5, 3, SIDE, SIDE), torch.tensor([0, 1, 2, 3, 1])
    mix = backbone.network.conv.weight.detach().numpy()[:, :, 0, 0]
    maps = np.maximum(np.einsum("kc,bchw->bkhw", mix, images.numpy()), 0)
    # d logit_c / d map_k(x, y) = weight_ck / (h w), at every position.
    weights = backbone.head.weight.detach().numpy()[classes] / SIDE**2
    expected = np.maximum(np.einsum("bk,bkhw->bhw", weights, maps), 0)
    assert (expected > 0).any(axis=(1, 2)).sum() >= 2
    np.testing.assert_allclose(grad_cam(backbone, images, classes), expected, rtol=1e-4, atol=1e-7)


class Mean(nn.Module):
    def forward(self, maps: Tensor) -> Tensor:
        return maps.mean((2, 3))


class ChannelsLast(nn.Module):
    """`TwoChannels` with its maps (B, h, w, K), as Swin and MambaOut keep them."""

    def __init__(self, same: Any) -> None:
        super().__init__()
        self.mix, self.relu, self.fc = nn.Linear(3, 2, bias=False), nn.ReLU(), nn.Linear(2, 4)
        self.mix.weight = nn.Parameter(same.conv.weight.flatten(1))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.relu(self.mix(images.movedim(1, -1))).mean((1, 2)))
        return logits


def test_maps_with_their_channels_last_give_the_same_heat(backbone: Backbone) -> None:
    other = Backbone(ChannelsLast(backbone.network), 4, backbone.preprocessing).eval()
    other.head.load_state_dict(backbone.head.state_dict())
    images, classes = torch.randn(3, 3, SIDE, SIDE), torch.tensor([0, 1, 3])
    heat = grad_cam(other, images, classes)
    assert heat.amax() > 0
    torch.testing.assert_close(heat, grad_cam(backbone, images, classes))


@pytest.mark.parametrize(
    ("name", "size", "shape"),
    [
        ("googlenet", 64, (1024, 2, 2)),
        ("googlenet", 32, (832, 2, 2)),  # the last block's map is a single position
        ("alexnet", 63, (256, 3, 3)),  # behind it adaptive pooling makes 6x6 of one position
        ("resnet50", 64, (2048, 2, 2)),
        ("squeezenet1_1", 64, (512, 3, 3)),  # its head is a convolution
        ("mobilenet_v3_small", 64, (576, 2, 2)),  # poolings to one position on the way
    ],
)
def test_the_deepest_map_is_found_in_any_convolutional_network(
    name: str, size: int, shape: tuple[int, ...]
) -> None:
    options: dict[str, Any] = {"googlenet": {"aux_logits": False, "init_weights": False}}
    with torch.device("meta"):  # shapes alone
        backbone, images = build(get_model(name, weights=None, **options.get(name, {})), size)
        _, maps = find_deepest_map(backbone, images)
    assert maps.shape == (2, *shape)


def small_network() -> nn.Module:
    torch.manual_seed(1)
    layers = (nn.Conv2d(3, 4, 3, stride=4), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
    return nn.Sequential(*layers, Mean(), nn.Linear(4, 5))


def test_a_frozen_network_gives_the_same_heat_as_one_that_trains() -> None:
    heat, of_frozen = (
        grad_cam(*build(small_network(), 16, freeze), torch.tensor([1, 3]))
        for freeze in ("none", "backbone")
    )
    assert heat.max() > 0
    torch.testing.assert_close(of_frozen, heat)
    assert heat.shape == (2, 16, 16)
    assert len(np.unique(heat.numpy())) > 100, "interpolated, not repeated"


def test_nothing_of_the_network_changes() -> None:
    backbone, images = build(small_network(), 16)
    before, images_before = copy.deepcopy(backbone.state_dict()), images.clone()
    grad_cam(backbone, images, torch.tensor([0, 1]))
    torch.testing.assert_close(backbone.state_dict(), before, rtol=0, atol=0)
    assert torch.equal(images, images_before)
    assert not images.requires_grad
    assert all(parameter.grad is None for parameter in backbone.parameters())
    assert not any(module._forward_hooks for module in backbone.modules())
    assert not any(module.training for module in backbone.modules())


def test_a_network_without_maps_is_refused_in_a_line() -> None:
    sizes = {"image_size": 16, "patch_size": 8, "num_layers": 1, "num_heads": 2}
    transformer = VisionTransformer(**sizes, hidden_dim=8, mlp_dim=8)
    perceptron = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 8), nn.Linear(8, 5))
    for network in (transformer, perceptron):
        backbone, images = build(network, 16)
        with pytest.raises(UserError, match="no map of an image before its head"):
            grad_cam(backbone, images, torch.tensor([0, 1]))


@pytest.fixture
def predictions() -> Predictions:
    # Right; wrong, true class at 0.1; wrong, at 0.3; wrong, at 0.05.
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.3, 0.7], [0.05, 0.95]])
    return Predictions(np.log(probabilities), np.array([0, 1, 0, 0]), np.array([2, 5, 7, 11]))


def test_the_most_confused_are_the_mistakes_that_cost_most(predictions: Predictions) -> None:
    assert choose_rows("most_confused", 8, predictions) == [3, 1, 2]
    assert choose_rows("most_confused", 2, predictions) == [3, 1]
    assert choose_rows([7, 2], 1, predictions) == [2, 0]
    with pytest.raises(UserError, match=r"grad_cam.images: 6 is not among the 4 images .* 2 to 11"):
        check_places([7, 6], predictions.index)


def test_an_image_is_explained_for_the_predicted_and_the_true_class(
    backbone: Backbone, predictions: Predictions
) -> None:
    record: Any = None
    run = RebuiltRun(record, {}, ("cat", "dog", "bird", "frog"), backbone)
    image = torch.randint(0, 256, (3, SIDE, SIDE), dtype=torch.uint8)
    explanation = explain_image(run, image, predictions, row=3)
    assert explanation.names == ("dog", "cat")
    assert explanation.probabilities == pytest.approx((0.95, 0.05))
    assert explanation.name == "image 11"
    files = [f"cat/{place}\n.jpg" for place in range(12)]
    assert explain_image(run, image, predictions, 3, files).name == "cat/11 .jpg"
    pixels = run.transforms.evaluation(image[None])
    for heat, label in zip(explanation.heats, (1, 0), strict=True):
        np.testing.assert_array_equal(heat, grad_cam(backbone, pixels, torch.tensor([label]))[0])
