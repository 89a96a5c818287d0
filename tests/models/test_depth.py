"""Where a layer lies in a network, and layers that are left out at random."""

import re
from typing import Any

import pytest
import torch
from torch import nn
from torchvision.models import get_model
from torchvision.ops import StochasticDepth

from triptych.errors import UserError
from triptych.models.backbone import Backbone, Preprocessing
from triptych.models.depth import split_by_depth
from triptych.models.timm_models import TimmModel
from triptych.models.torchvision_models import TorchvisionModel

EXPECTS = Preprocessing(8, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
OWN_HEADS = {"aux_logits": False, "init_weights": False}


def blocks_of(network: nn.Module) -> tuple[list[set[str]], Backbone]:
    """The names of the weights of every block, of those that have two dimensions or more."""
    backbone = Backbone(network, 10, EXPECTS)
    names = {p: name for name, p in backbone.network.named_parameters()}
    blocks = split_by_depth(backbone.network, backbone.head)
    held = [p for block in blocks for p in block] + [*backbone.head.parameters()]
    assert sorted(map(names.get, held)) == sorted(names.values()), "each once"  # type: ignore[type-var]
    return [{names[p] for p in block if p.ndim > 1} for block in blocks], backbone


@pytest.mark.parametrize(
    ("name", "settings", "number", "last"),
    [
        ("alexnet", {}, 7, "classifier.4."),
        ("resnet50", {}, 17, "layer4.2."),
        ("googlenet", OWN_HEADS, 12, "inception5b."),
        ("densenet121", {}, 62, "features.denseblock4.denselayer16."),
        ("efficientnet_b0", {}, 18, "features.8."),
        ("convnext_tiny", {}, 22, "features.7.2."),
        ("swin_t", {}, 16, "features.7.1."),
        ("vit_b_16", {}, 13, "encoder.layers.encoder_layer_11."),
    ],
)
def test_torchvisions_networks_are_split_into_the_blocks_that_their_papers_draw(
    name: str, settings: dict[str, Any], number: int, last: str
) -> None:
    with torch.device("meta"):
        blocks, _ = blocks_of(get_model(name, weights=None, **settings))
    assert len(blocks) == number
    assert all(name.startswith(last) for name in blocks[-1])


@pytest.mark.parametrize(
    "name",
    ["resnet18", "vit_tiny_patch16_224", "mixer_s32_224", "regnetx_002", "tf_efficientnet_lite0"],
)
def test_timms_networks_are_split_as_timm_does(name: str) -> None:
    timm = pytest.importorskip("timm")
    helpers = pytest.importorskip("timm.models._manipulate")
    with torch.device("meta"):
        blocks, backbone = blocks_of(timm.create_model(name))
    matcher = backbone.network.group_matcher(coarse=False)  # type: ignore[operator]
    theirs = helpers.group_parameters(backbone.network, matcher)
    weights = {n for n, p in backbone.network.named_parameters() if p.ndim > 1}
    at_head = re.compile(rf"conv_head|{backbone.head_name}")  # which timm has as one block
    expected = [{n for n in names if n in weights} for names in theirs.values()]
    expected = [{n for n in names if not at_head.match(n)} for names in expected]
    mine = [{n for n in names if not at_head.match(n)} for names in blocks]
    assert [*filter(None, mine)] == [*filter(None, expected)]


def test_torchvisions_stochastic_depth_is_what_torchvision_makes_of_that_rate() -> None:
    model = TorchvisionModel("convnext_tiny", weights=None, drop_path=0.3)
    layers = [m.p for m in model.build(10).modules() if isinstance(m, StochasticDepth)]
    theirs = get_model("convnext_tiny", weights=None, stochastic_depth_prob=0.3)
    expected = [m.p for m in theirs.modules() if isinstance(m, StochasticDepth)]
    assert layers == pytest.approx(expected)
    assert max(layers) == pytest.approx(0.3)


def test_timms_stochastic_depth_is_built_with_the_rate() -> None:
    pytest.importorskip("timm")
    network = TimmModel("convnext_atto", weights=None, drop_path=0.2).build(10)
    rates = [float(m.drop_prob) for m in network.modules() if hasattr(m, "drop_prob")]  # type: ignore[arg-type]
    assert max(rates) == pytest.approx(0.2)
    with pytest.raises(UserError, match=r"model\.drop_path=0\.2: vgg11"):
        TimmModel("vgg11", weights=None, drop_path=0.2).build(10)


def test_a_network_without_stochastic_depth_is_named() -> None:
    with pytest.raises(UserError, match=r"model\.drop_path=0\.1: squeezenet1_1"):
        TorchvisionModel("squeezenet1_1", weights=None, drop_path=0.1).build(10)
    TorchvisionModel("squeezenet1_1", weights=None, drop_path=0.0).build(10)
