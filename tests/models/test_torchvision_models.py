from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
import yaml
from torch import nn
from torchvision.models import get_model, get_model_weights, list_models
from torchvision.models.regnet import BlockParams

from tests.models.test_weight_files import Trap
from triptych.config import CONFIGS
from triptych.errors import UserError
from triptych.models.backbone import Backbone
from triptych.models.torchvision_models import TorchvisionModel, cache_path

NAMED = ["alexnet", "googlenet", "resnet50"]  # those with a config of their own
ALL = list_models(module=torchvision.models)
GOOGLENET = "googlenet-1378be20.pth"  # torchvision's file of weights


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
    """Whether a network and another agree, given the same head."""
    plain.set_submodule(backbone.head_name, backbone.head)
    batch = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return backbone.eval()(batch).equal(plain.eval()(batch))


# Pretrained, from a file and from scratch.


@pytest.mark.parametrize("name", ["googlenet", "squeezenet1_1"])
def test_a_pretrained_network_is_torchvisions_but_for_the_head_by_name_and_by_path(
    name: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nn.init, "trunc_normal_", lambda tensor, **_: tensor)  # it takes seconds
    path = save_weights(name)
    by_name, by_path = TorchvisionModel(name), TorchvisionModel(name, str(path), input_size=32)
    assert by_name.missing() is by_path.missing() is None
    assert by_name.weights_name == "IMAGENET1K_V1"
    assert by_path.weights_name == str(path)
    plain = get_model(name, weights="DEFAULT")
    assert getattr(plain, "transform_input", False) == (name == "googlenet")
    for network in (by_name, by_path):
        backbone = network.build(10)
        assert backbone.training
        assert same_logits(backbone, plain)


@pytest.mark.parametrize("name", [*NAMED, "inception_v3"])
def test_a_network_from_scratch_is_plain_torchvisions_and_all_of_it_learns(name: str) -> None:
    """On the meta device: shapes pass, and nothing is computed."""
    network = TorchvisionModel(name, weights=None)
    assert network.missing() is network.weights_name is None
    has_more_heads = name in ("googlenet", "inception_v3")
    settings = {"aux_logits": False, "init_weights": False} if has_more_heads else {}
    size = 75 if name == "inception_v3" else 63
    with torch.device("meta"):
        backbone = network.build(10)
        get_model(name, num_classes=10, **settings).load_state_dict(backbone.network.state_dict())
        assert backbone.eval()(torch.zeros(0, 3, size, size)).shape == (0, 10)
        logits = backbone.train()(torch.zeros(2, 3, size, size))
        assert logits.shape == (2, 10)
        logits.sum().backward()
    assert [n for n, p in backbone.named_parameters() if p.grad is None] == []


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


@pytest.mark.parametrize("weights", ["IMAGENET1K_V2", "resnet50-11ad3fa6.pth"])
def test_missing_weights_are_named_with_the_place_where_they_were_looked_for(
    cache: Path, weights: str
) -> None:
    path = cache / "resnet50-11ad3fa6.pth"
    network = TorchvisionModel("resnet50", str(path) if weights == path.name else weights)
    assert str(path) in str(network.missing())
    assert not network.can_download()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "googlenett"}, r"^model\.name=googlenett: .*near: googlenet,"),
        ({"name": "deeplabv3_resnet50"}, r"^model\.name=deeplabv3_resnet50: "),
        ({"name": "quantized_resnet50"}, r"^model\.name=quantized_resnet50: "),
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
    message = rf"^model\.input_size={size}: {name} "
    with torch.device("meta"), pytest.raises(UserError, match=message):
        TorchvisionModel(name, None, input_size=size).build(10)


@pytest.mark.parametrize("content", ["code", "half a file", "another network's weights"])
def test_a_damaged_file_under_the_name_of_official_weights_is_named_and_its_code_does_not_run(
    cache: Path, content: str
) -> None:
    path, trace = cache / GOOGLENET, cache / "trace"
    torch.save({"fc.weight": Trap(trace)} if content == "code" else {"a": torch.ones(9)}, path)
    if content == "half a file":
        path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(UserError) as caught:
        TorchvisionModel("googlenet").build(10)
    assert str(caught.value).startswith(f"weights {path}: ")
    assert len(str(caught.value).splitlines()) <= 3
    assert not trace.exists()


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


def test_every_network_of_torchvision_with_a_config_of_its_own_is_tested_here() -> None:
    texts = {path.stem: path.read_text() for path in (CONFIGS / "model").glob("*.yaml")}
    ours = {name for name, text in texts.items() if TorchvisionModel.__qualname__ in text}
    assert ours == {*NAMED, "torchvision"}


# The whole list. Nothing is computed on the meta device: shapes alone pass through the network.


@pytest.fixture
def _regnets_on_meta(monkeypatch: pytest.MonkeyPatch) -> None:
    """RegNets plan their blocks with small tensors, whose values must be there."""
    plan = BlockParams.from_init_params

    def plan_on_cpu(*args: Any, **options: Any) -> BlockParams:
        with torch.device("cpu"):
            return plan(*args, **options)

    monkeypatch.setattr(BlockParams, "from_init_params", plan_on_cpu)


@pytest.mark.usefixtures("_regnets_on_meta")
def test_every_classifier_of_torchvision_gets_a_head_for_ten_classes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The smallest network of each class runs; the others have their head where it has."""
    heads: dict[type, str] = {}
    by_size = sorted(ALL, key=lambda name: get_model_weights(name).DEFAULT.meta["num_params"])
    for name in by_size:
        with torch.device("meta"), torch.no_grad():
            backbone = TorchvisionModel(name, weights=None).build(10).eval()
            size, kind = backbone.preprocessing.input_size, type(backbone.network)
            if kind not in heads:
                assert backbone(torch.zeros(2, 3, size, size)).shape == (2, 10), name
        num_outputs = len(backbone.head.weight)  # type: ignore[arg-type]
        assert num_outputs == 10, name
        assert backbone.head_name == heads.setdefault(kind, backbone.head_name), name
    with capsys.disabled():
        print(f"\n{len(by_size)} of torchvision's classifiers have a head, {len(heads)} ran")
    assert len(by_size) >= 80
