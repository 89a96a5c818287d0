import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from triptych.errors import UserError
from triptych.models.backbone import Backbone, Preprocessing, check_forward, find_head, new_head
from triptych.models.torchvision_models import TorchvisionModel

# Small enough for a test, large enough for each network.
SIZES = {"alexnet": 63, "googlenet": 32, "resnet50": 32}
HEADS = {"alexnet": (4096, 10), "googlenet": (1024, 10), "resnet50": (2048, 10)}
EXPECTS = Preprocessing(8, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def build(name: str, freeze: str = "none") -> Backbone:
    torch.manual_seed(0)
    return TorchvisionModel(name, weights=None, freeze=freeze).build(10)


def images(name: str, n: int = 2) -> Tensor:
    size = SIZES.get(name, EXPECTS.input_size)
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(0))


def small(freeze: str = "none") -> Backbone:
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.Dropout(0.5),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 7),
    )
    return Backbone(network, 10, EXPECTS, freeze)


def learn(backbone: Backbone, batch: Tensor, num_steps: int) -> None:
    """Steps of Adam over what trains."""
    trainable = [p for p in backbone.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trainable, lr=0.01)
    for _ in range(num_steps):
        optimizer.zero_grad()
        F.cross_entropy(backbone(batch), torch.arange(len(batch))).backward()
        optimizer.step()


@pytest.mark.parametrize("name", SIZES)
def test_a_network_scores_ten_classes_in_every_mode_and_all_of_it_learns(name: str) -> None:
    backbone = build(name)
    assert isinstance(backbone.head, nn.Linear)
    assert (backbone.head.in_features, backbone.head.out_features) == HEADS[name]
    with torch.no_grad():
        logits = backbone.eval()(images(name))
        nothing = backbone(images(name)[:0])
    assert isinstance(logits, Tensor)
    assert logits.shape == (2, 10)
    assert nothing.shape == (0, 10)

    logits = backbone.train()(images(name))
    assert isinstance(logits, Tensor)
    assert logits.shape == (2, 10)
    F.cross_entropy(logits, torch.tensor([3, 7])).backward()
    gradients = {n: p.grad for n, p in backbone.named_parameters()}
    assert [n for n, gradient in gradients.items() if gradient is None] == []
    assert all(g.isfinite().all() for g in gradients.values() if g is not None)
    assert gradients[f"network.{backbone.head_name}.weight"].abs().sum() > 0  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["googlenet", "resnet50"])
def test_training_a_frozen_network_moves_its_head_and_not_a_bit_of_the_rest(name: str) -> None:
    backbone = build(name, "backbone").train()
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    learn(backbone, images(name), num_steps=2)
    moved = {key for key, value in backbone.state_dict().items() if not value.equal(before[key])}
    assert moved == {"network.fc.weight", "network.fc.bias"}
    assert any(key.endswith("running_mean") for key in before)
    assert {n for n, p in backbone.named_parameters() if p.grad is not None} == moved


def test_training_moves_the_statistics_of_a_network_that_is_not_frozen() -> None:
    backbone = small().train()
    before = backbone.network[1].running_mean.clone()  # type: ignore[index]
    learn(backbone, images(""), num_steps=1)
    assert not backbone.network[1].running_mean.equal(before)  # type: ignore[index]


def test_a_frozen_network_stays_in_evaluation_mode_but_for_its_head() -> None:
    backbone = small("backbone")
    for mode in (True, False, True):
        assert backbone.train(mode) is backbone
        in_training = {name for name, module in backbone.named_modules() if module.training}
        assert in_training == ({"network.5"} if mode else set())
    assert backbone(images("")).equal(backbone(images("")))  # no dropout below the head


def test_a_frozen_network_is_in_evaluation_mode_before_anybody_says_so() -> None:
    in_training = {name for name, module in small("backbone").named_modules() if module.training}
    assert in_training == {"network.5"}


def test_a_network_that_is_not_frozen_follows_the_mode() -> None:
    backbone = small()
    for mode in (True, False):
        backbone.train(mode)
        assert {module.training for module in backbone.modules()} == {mode}


def test_the_replaced_layer_is_remembered_as_it_was() -> None:
    backbone = small()
    assert "in_features=4, out_features=7" in backbone.replaced
    assert "in_features=4, out_features=10" in str(backbone.head)


def test_the_head_is_the_last_linear_layer_or_1x1_convolution() -> None:
    convolution = nn.Sequential(nn.Linear(2, 3), nn.Conv2d(3, 4, 1), nn.Conv2d(4, 5, 3))
    assert find_head(convolution) == "1"
    assert find_head(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(nn.Linear(4, 5)))) == "1.0"


def test_a_network_without_such_a_layer_is_refused() -> None:
    with pytest.raises(UserError, match="no linear layer or 1x1 convolution"):
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
    with pytest.raises(UserError, match=r"^model\.input_size=8: mine cannot take it \(mat1 .*\)$"):
        check_forward(Backbone(network, 10, EXPECTS), "mine")
