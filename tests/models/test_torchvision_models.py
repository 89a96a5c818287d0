import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
import yaml
from torch import nn
from torchvision.models import get_model, get_model_weights, list_models
from torchvision.models.regnet import BlockParams

from triptych.config import CONFIGS
from triptych.errors import UserError
from triptych.models.backbone import Backbone
from triptych.models.torchvision_models import TorchvisionModel, cache_path

NAMED = ["alexnet", "googlenet", "resnet50"]
ALL = list_models(module=torchvision.models)
GOOGLENET = "googlenet-1378be20.pth"  # torchvision's file of weights


class Trap:
    """Unpickled without guard, it leaves a file behind."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.trace}",)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where torch looks for weights, empty."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def save_weights(name: str) -> Path:
    """Random entries of the official file's names and shapes, where torch looks for it."""
    with torch.device("meta"):
        official = get_model(name, **{"init_weights": False} if name == "googlenet" else {})
    generator = torch.Generator().manual_seed(1)
    state = official.to_empty(device="cpu").state_dict()
    for value in state.values():
        if value.ndim > 1:  # weights
            value.uniform_(-1, 1, generator=generator).div_(value[0].numel() ** 0.5)
        elif value.ndim == 1:  # biases and statistics, whose variance is above zero
            value.uniform_(0.5, 1.5, generator=generator)
        else:  # counters
            value.zero_()
    path = cache_path(get_model_weights(name).DEFAULT)
    torch.save(state, path)
    return path


@torch.no_grad()
def same_logits(backbone: Backbone, plain: nn.Module) -> bool:
    batch = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return backbone.eval()(batch).equal(plain.eval()(batch))


# Pretrained, and from scratch.


@pytest.mark.parametrize("name", ["googlenet", "squeezenet1_1"])
def test_a_pretrained_network_is_torchvisions_but_for_the_head(name: str, cache: Path) -> None:
    save_weights(name)
    network = TorchvisionModel(name)
    assert network.missing() is None
    assert network.weights_name == TorchvisionModel(name, "IMAGENET1K_V1").weights_name
    assert network.weights_name == "IMAGENET1K_V1"
    backbone = network.build(10)
    plain = get_model(name, weights="DEFAULT")
    plain.set_submodule(backbone.head_name, backbone.head)
    assert backbone.training
    assert same_logits(backbone, plain)
    assert getattr(plain, "transform_input", False) == (name == "googlenet")


def test_the_official_file_may_be_given_by_its_path(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Auxiliary heads in it are left out."""
    monkeypatch.setattr(nn.init, "trunc_normal_", lambda tensor, **_: tensor)  # it takes seconds
    path = save_weights("googlenet")
    network = TorchvisionModel("googlenet", weights=str(path), input_size=32)
    assert network.weights_name == str(path)
    by_path, by_name = network.build(10), TorchvisionModel("googlenet").build(10)
    by_name.network.set_submodule("fc", by_path.head)
    assert same_logits(by_path, by_name.network)


@pytest.mark.parametrize("name", [*NAMED, "inception_v3"])
def test_a_network_from_scratch_is_plain_torchvisions_without_auxiliary_heads(name: str) -> None:
    network = TorchvisionModel(name, weights=None)
    assert network.missing() is network.weights_name is None
    plain_settings = {"aux_logits": False, "init_weights": False}
    has_more_heads = name in ("googlenet", "inception_v3")
    with torch.device("meta"):
        backbone = network.build(10)
        plain = get_model(name, num_classes=10, **plain_settings if has_more_heads else {})
        plain.load_state_dict(backbone.network.state_dict())
        assert backbone.train()(torch.zeros(2, 3, 299, 299)).shape == (2, 10)


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        *((name, "DEFAULT") for name in (*NAMED, "inception_v3", "vit_b_16")),
        ("vit_b_16", "IMAGENET1K_SWAG_E2E_V1"),
    ],
)
def test_without_its_weights_a_network_is_made_for_the_images_that_they_expect(
    name: str, weights: str, cache: Path
) -> None:
    """As when a run is resumed, and its own weights follow."""
    transforms = get_model_weights(name)[weights].transforms()
    with torch.device("meta"):
        backbone = TorchvisionModel(name, weights).build(10, load=False)
        size, mean, std, interpolation = backbone.preprocessing
        assert backbone(torch.zeros(2, 3, size, size)).shape == (2, 10)
    assert [size] == transforms.crop_size
    assert (list(mean), list(std)) == (transforms.mean, transforms.std)
    assert interpolation == transforms.interpolation.value
    assert getattr(backbone.network, "transform_input", True), "as with the weights"


# What is not there, or is not what it should be.


def test_missing_weights_are_named_with_the_place_where_they_were_looked_for(cache: Path) -> None:
    pretrained = TorchvisionModel("resnet50", "IMAGENET1K_V2")
    assert str(cache / "resnet50-11ad3fa6.pth") in str(pretrained.missing())
    assert not pretrained.can_download()
    of_ones_own = TorchvisionModel("resnet50", str(cache / "mine.pth"))
    assert str(cache / "mine.pth") in str(of_ones_own.missing())
    assert not of_ones_own.can_download()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "googlenett"}, r"^model\.name=googlenett: .*near: googlenet,"),
        ({"name": "deeplabv3_resnet50"}, r"^model\.name=deeplabv3_resnet50: no classifier"),
        ({"name": "quantized_resnet50"}, r"^model\.name=quantized_resnet50: no classifier"),
        ({"name": "alexnet", "weights": "V3"}, r"^model\.weights=V3: .*DEFAULT, IMAGENET1K_V1, "),
    ],
)
def test_what_torchvision_does_not_have_is_refused_with_what_it_has(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        TorchvisionModel(**settings).missing()


@pytest.mark.parametrize(
    ("name", "size"), [("alexnet", 62), ("googlenet", 14), ("vgg11", 31), ("vit_b_16", 250)]
)
def test_an_input_size_that_the_network_cannot_take_is_refused(name: str, size: int) -> None:
    network = TorchvisionModel(name, None, input_size=size)
    with (
        torch.device("meta"),
        pytest.raises(UserError, match=rf"^model\.input_size={size}: {name} "),
    ):
        network.build(10)


def error_of(path: Path) -> str:
    """What GoogLeNet with a file under the name of its official weights is refused with."""
    with pytest.raises(UserError) as caught:
        TorchvisionModel("googlenet").build(10)
    message = str(caught.value)
    assert message.startswith(f"weights {path}: ")
    assert len(message.splitlines()) <= 3
    return message


@pytest.mark.parametrize("form", ["zip", "plain"])
def test_code_under_the_name_of_official_weights_does_not_run(cache: Path, form: str) -> None:
    path = cache / GOOGLENET
    trap, trace = {"fc.weight": Trap(cache / "trace")}, cache / "trace"
    if form == "zip":
        torch.save(trap, path)
    else:
        path.write_bytes(pickle.dumps(trap, protocol=2))
    assert "more than tensors" in error_of(path)
    assert not trace.exists()
    pickle.loads(pickle.dumps(trap))
    assert trace.exists(), "the trap works"


@pytest.mark.parametrize("share", [0, 0.5, 1])
def test_truncated_weights_and_those_of_another_network_are_refused_by_name(
    cache: Path, share: float
) -> None:
    path = cache / GOOGLENET
    torch.save(nn.Linear(30, 40).state_dict(), path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    assert ("GoogLeNet" in error_of(path)) == (share == 1)


# What the YAML says of torchvision.


@pytest.mark.parametrize("name", NAMED)
def test_a_config_says_what_torchvision_says(name: str) -> None:
    config = yaml.safe_load((CONFIGS / "model" / f"{name}.yaml").read_text())
    weights = get_model_weights(name)
    target = config.pop("_target_")
    assert target == f"{TorchvisionModel.__module__}.{TorchvisionModel.__qualname__}"
    assert config["name"] == name
    assert config["known_weights"] == [entry.name for entry in weights]
    assert config["min_input_size"] == weights.DEFAULT.meta["min_size"][0]
    assert TorchvisionModel(**config).weights_name == weights.DEFAULT.name


def test_every_network_with_a_config_of_its_own_is_tested_here() -> None:
    configs = {path.stem for path in (CONFIGS / "model").glob("*.yaml")}
    assert configs == {*NAMED, "torchvision", "timm"}


# The whole list. Nothing is computed on the meta device: shapes alone pass through the network.


@pytest.fixture
def _regnets_on_meta(monkeypatch: pytest.MonkeyPatch) -> None:
    """RegNets plan their blocks with small tensors, whose values must be there."""
    plan = BlockParams.from_init_params

    def plan_on_cpu(*args: Any, **options: Any) -> BlockParams:
        with torch.device("cpu"):
            return plan(*args, **options)

    monkeypatch.setattr(BlockParams, "from_init_params", plan_on_cpu)


def shape_of_logits(name: str) -> tuple[int, ...]:
    with torch.device("meta"), torch.no_grad():
        backbone = TorchvisionModel(name, weights=None).build(10).eval()
        size = backbone.preprocessing.input_size
        return tuple(backbone(torch.zeros(2, 3, size, size)).shape)


@pytest.mark.slow
@pytest.mark.usefixtures("_regnets_on_meta")
def test_every_classifier_of_torchvision_gets_a_head_for_ten_classes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    shapes = {name: shape_of_logits(name) for name in ALL}
    with capsys.disabled():
        print(f"\n{len(shapes)} of torchvision's {len(ALL)} classifiers covered")
    assert {name: shape for name, shape in shapes.items() if shape != (2, 10)} == {}
    assert len(shapes) >= 80


def test_a_network_whose_head_is_a_convolution_scores_real_images() -> None:
    backbone = TorchvisionModel("squeezenet1_1", weights=None, input_size=64).build(10)
    logits = backbone(torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    assert logits.shape == (2, 10)
    assert logits.isfinite().all()
