import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from triptych.errors import UserError
from triptych.models.backbone import Backbone, Preprocessing, check_forward, find_head, new_head

PREPROCESSING = Preprocessing(8, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def images() -> Tensor:
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def small(freeze: str = "none") -> Backbone:
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.Dropout(0.5),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 7),
    )
    return Backbone(network, 10, PREPROCESSING, freeze)


def test_features_as_the_head_takes_them_give_the_logits_of_their_images() -> None:
    backbone = small().eval()
    features = backbone.network[:5](images())  # type: ignore[index]
    assert features.shape == (2, 4)
    assert backbone(features).equal(backbone(images()))
    assert "out_features=7" in backbone.replaced
    assert "out_features=10" in str(backbone.head)


@pytest.mark.parametrize("freeze", ["none", "backbone"])
def test_a_step_moves_all_of_a_network_and_the_head_alone_of_a_frozen_one(freeze: str) -> None:
    backbone = small(freeze)
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    trainable = [p for p in backbone.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trainable, lr=0.01)
    F.cross_entropy(backbone.train()(images()), torch.arange(2)).backward()
    optimizer.step()
    moved = {name for name, value in backbone.state_dict().items() if not value.equal(before[name])}
    head = {"network.5.weight", "network.5.bias"}
    assert moved == (head if freeze == "backbone" else before.keys())


def test_a_frozen_network_is_in_evaluation_mode_from_the_start_but_for_its_head() -> None:
    backbone = small("backbone")
    for mode in (None, True, False, True):
        assert mode is None or backbone.train(mode) is backbone
        training = {name for name, module in backbone.named_modules() if module.training}
        assert training == (set() if mode is False else {"network.5"})


def test_the_head_is_the_last_linear_layer_or_1x1_convolution() -> None:
    convolution = nn.Sequential(nn.Linear(2, 3), nn.Conv2d(3, 4, 1), nn.Conv2d(4, 5, 3))
    assert find_head(convolution) == "1"
    assert find_head(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(nn.Linear(4, 5)))) == "1.0"
    with pytest.raises(UserError):
        find_head(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("old", [nn.Linear, nn.Conv2d])
def test_a_new_head_is_like_the_old_one_with_other_outputs(
    old: type[nn.Linear] | type[nn.Conv2d], bias: bool
) -> None:
    size = {"kernel_size": 1} if old is nn.Conv2d else {}
    layer = new_head(old(6, 9, bias=bias, **size), 4)  # type: ignore[arg-type]
    assert str(layer) == str(old(6, 4, bias=bias, **size))  # type: ignore[arg-type]


def test_trying_out_leaves_mode_statistics_and_generator_as_they_were() -> None:
    backbone = small().train()
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    state = torch.get_rng_state()
    check_forward(backbone, "small")
    assert backbone.training
    assert all(value.equal(before[key]) for key, value in backbone.state_dict().items())
    assert torch.get_rng_state().equal(state)


def test_a_network_that_cannot_take_its_input_size_is_refused_with_the_reason() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    with pytest.raises(UserError, match=r"^model\.input_size=8: mine .*\(mat1 .*\)$"):
        check_forward(Backbone(network, 10, PREPROCESSING), "mine")
