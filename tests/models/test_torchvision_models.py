import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
import yaml
from torch import Tensor, nn
from torchvision.models import get_model, get_model_weights, list_models
from torchvision.models.regnet import BlockParams

from triptych.errors import UserError
from triptych.models.backbone import Backbone
from triptych.models.torchvision_models import TorchvisionModel, cache_path

CONFIGS = Path(__file__).parents[2] / "configs" / "model"
NAMED = ["alexnet", "googlenet", "resnet50"]
SIZES = {"alexnet": 63, "googlenet": 32, "resnet50": 32}
ALL = list_models(module=torchvision.models)


class Trap:
    """Unpickled without guard, it leaves a file behind."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.trace}",)


def images(name: str) -> Tensor:
    return torch.randn(2, 3, SIZES[name], SIZES[name], generator=torch.Generator().manual_seed(0))


def without_auxiliary_heads(name: str) -> dict[str, bool]:
    """What plain torchvision must be told to leave them out of a network without weights."""
    return {"aux_logits": False, "init_weights": False} if name == "googlenet" else {}


def random_state(name: str) -> dict[str, Tensor]:
    """Entries of the official file's names and shapes, auxiliary heads included."""
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
    return state


@pytest.fixture(scope="module")
def torch_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A TORCH_HOME that holds weights for the three networks under their real names."""
    home = tmp_path_factory.mktemp("torch_home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_HOME", str(home))
        for name in NAMED:
            path = cache_path(get_model_weights(name).DEFAULT)
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.save(random_state(name), path)
        yield home


@pytest.fixture
def empty_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where weights would be kept, and are not."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


@torch.no_grad()
def same_logits(backbone: Backbone, plain: nn.Module, name: str) -> bool:
    batch = images(name)
    return backbone.eval()(batch).equal(plain.eval()(batch))


# Pretrained, and from scratch.


@pytest.mark.parametrize("name", NAMED)
def test_a_pretrained_network_is_torchvisions_but_for_the_head(name: str, torch_home: Path) -> None:
    network = TorchvisionModel(name)
    assert network.missing() is None
    backbone = network.build(10)
    plain = get_model(name, weights="DEFAULT")
    plain.set_submodule(backbone.head_name, backbone.head)
    assert backbone.training
    assert same_logits(backbone, plain, name)
    assert getattr(plain, "transform_input", False) == (name == "googlenet")
    transforms = get_model_weights(name).DEFAULT.transforms()
    assert list(backbone.preprocessing.mean) == transforms.mean
    assert list(backbone.preprocessing.std) == transforms.std
    assert backbone.preprocessing.input_size == transforms.crop_size[0] == 224
    assert backbone.preprocessing.interpolation == transforms.interpolation.value


@pytest.mark.parametrize("name", NAMED)
def test_weights_trained_from_scratch_load_into_plain_torchvision(name: str) -> None:
    network = TorchvisionModel(name, weights=None, input_size=SIZES[name])
    assert network.missing() is network.weights_name is None
    backbone = network.build(10)
    plain = get_model(name, weights=None, **without_auxiliary_heads(name))
    plain.set_submodule(backbone.head_name, nn.Linear(backbone.head.in_features, 10))  # type: ignore[arg-type]
    plain.load_state_dict(backbone.network.state_dict())
    assert same_logits(backbone, plain, name)


@pytest.mark.parametrize("weights", ["DEFAULT", "IMAGENET1K_V1"])
def test_default_weights_are_told_by_their_own_name(weights: str) -> None:
    assert TorchvisionModel("alexnet", weights).weights_name == "IMAGENET1K_V1"


def test_without_load_nothing_is_read_and_the_network_expects_the_same(empty_home: Path) -> None:
    backbone = TorchvisionModel("googlenet").build(10, load=False)
    assert backbone.network.transform_input
    assert backbone.preprocessing.input_size == 224


def test_a_transformer_without_its_weights_is_made_for_their_input_size() -> None:
    """As when a run is taken up again, and its own weights follow."""
    with torch.device("meta"):
        network = TorchvisionModel("vit_b_16", "IMAGENET1K_SWAG_E2E_V1")
        backbone = network.build(10, load=False)
        assert backbone(torch.zeros(2, 3, 384, 384)).shape == (2, 10)
    assert backbone.preprocessing.input_size == 384


def test_the_official_file_may_be_given_by_its_path(torch_home: Path) -> None:
    """Auxiliary heads in it are passed over."""
    path = cache_path(get_model_weights("googlenet").DEFAULT)
    network = TorchvisionModel("googlenet", weights=str(path), input_size=32)
    assert network.weights_name == str(path)
    by_path, by_name = network.build(10), TorchvisionModel("googlenet").build(10)
    by_name.network.set_submodule("fc", by_path.head)
    assert same_logits(by_path, by_name.network, "googlenet")


def test_inception_too_gives_one_tensor_in_every_mode() -> None:
    with torch.device("meta"):
        backbone = TorchvisionModel("inception_v3", weights=None).build(10)
        logits = backbone.train()(torch.zeros(2, 3, 299, 299))
    assert logits.shape == (2, 10)
    assert backbone.preprocessing.input_size == 299


# What is not there, or is not what it should be.


def test_missing_weights_are_told_with_the_place_where_they_were_looked_for(
    empty_home: Path,
) -> None:
    network = TorchvisionModel("resnet50", "IMAGENET1K_V2")
    expected = empty_home / "resnet50-11ad3fa6.pth"
    assert network.missing() == f"weights of resnet50: {expected}"
    assert not network.can_download()


def test_a_missing_file_of_ones_own_is_told_and_never_in_reach(tmp_path: Path) -> None:
    path = tmp_path / "mine.pth"
    network = TorchvisionModel("resnet50", str(path))
    assert network.missing() == f"weights of resnet50: {path}"
    assert not network.can_download()
    with pytest.raises(UserError, match=r"mine\.pth: no file of weights"):
        network.build(10)


def test_an_unknown_network_is_refused_with_the_nearest_names() -> None:
    with pytest.raises(UserError, match=r"^model\.name=googlenett: .*near: googlenet,"):
        TorchvisionModel("googlenett").build(10)


@pytest.mark.parametrize("name", ["deeplabv3_resnet50", "quantized_resnet50", "raft_small"])
def test_what_is_no_classifier_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="not a classifier of torchvision"):
        TorchvisionModel(name).missing()


def test_unknown_weights_are_refused_with_those_there_are() -> None:
    expected = r"^model\.weights=V3: may be DEFAULT, IMAGENET1K_V1, IMAGENET1K_V2, null, or a \.pth"
    with pytest.raises(UserError, match=expected):
        TorchvisionModel("resnet50", "V3").missing()


@pytest.mark.parametrize("name", ["alexnet", "googlenet", "vgg11"])
def test_an_input_size_below_torchvisions_least_is_refused(name: str) -> None:
    least = get_model_weights(name).DEFAULT.meta["min_size"][0]
    with (
        torch.device("meta"),
        pytest.raises(UserError, match=rf"^model\.input_size={least - 1}: {name} takes {least} or"),
    ):
        TorchvisionModel(name, None, input_size=least - 1).build(10)


def test_an_input_size_that_only_the_network_knows_to_be_wrong_is_refused() -> None:
    with (
        torch.device("meta"),
        pytest.raises(UserError, match=r"^model\.input_size=250: vit_b_16 cannot take it \(.*224"),
    ):
        TorchvisionModel("vit_b_16", None, input_size=250).build(10)


def refusal(name: str, path: Path) -> str:
    with pytest.raises(UserError) as caught:
        TorchvisionModel(name).build(10)
    message = str(caught.value)
    assert message.startswith(f"weights {path}: cannot be used (")
    assert len(message.splitlines()) <= 3
    return message


@pytest.mark.parametrize("form", ["zip", "plain"])
def test_code_under_the_name_of_official_weights_does_not_run(empty_home: Path, form: str) -> None:
    path = empty_home / "googlenet-1378be20.pth"
    trap, trace = {"fc.weight": Trap(empty_home / "trace")}, empty_home / "trace"
    if form == "zip":
        torch.save(trap, path)
    else:
        path.write_bytes(pickle.dumps(trap, protocol=2))
    assert "more than tensors" in refusal("googlenet", path)
    assert not trace.exists()
    pickle.loads(pickle.dumps(trap))
    assert trace.exists(), "the trap works"


@pytest.mark.parametrize("share", [0, 0.5])
def test_truncated_weights_are_refused_by_name(empty_home: Path, share: float) -> None:
    path = empty_home / "googlenet-1378be20.pth"
    torch.save({"fc.weight": torch.ones(1000)}, path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    refusal("googlenet", path)


def test_weights_of_another_network_under_the_name_are_refused(empty_home: Path) -> None:
    path = empty_home / "googlenet-1378be20.pth"
    torch.save(nn.Linear(3, 4).state_dict(), path)
    assert "GoogLeNet" in refusal("googlenet", path)


# What the YAML says of torchvision.


@pytest.mark.parametrize("name", NAMED)
def test_a_config_says_what_torchvision_says(name: str) -> None:
    config: dict[str, Any] = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    weights = get_model_weights(name)
    assert (
        config.pop("_target_") == f"{TorchvisionModel.__module__}.{TorchvisionModel.__qualname__}"
    )
    assert config["name"] == name
    assert config["known_weights"] == [entry.name for entry in weights]
    assert config["min_input_size"] == weights.DEFAULT.meta["min_size"][0]
    assert TorchvisionModel(**config).weights_name == weights.DEFAULT.name


def test_every_network_with_a_config_of_its_own_is_tested_here() -> None:
    assert {path.stem for path in CONFIGS.glob("*.yaml")} == {*NAMED, "torchvision", "timm"}


# The whole list. Nothing is computed on the meta device: shapes alone pass through the network.


@pytest.fixture
def regnets_on_meta(monkeypatch: pytest.MonkeyPatch) -> None:
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
@pytest.mark.usefixtures("regnets_on_meta")
def test_every_classifier_of_torchvision_gets_a_head_for_ten_classes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    shapes = {name: shape_of_logits(name) for name in ALL}
    with capsys.disabled():
        print(f"\n{len(shapes)} of torchvision's {len(ALL)} classifiers covered")
    assert {name: shape for name, shape in shapes.items() if shape != (2, 10)} == {}
    assert len(shapes) >= 80


@pytest.mark.parametrize(
    "name", ["squeezenet1_1", "shufflenet_v2_x0_5", "mobilenet_v3_small", "regnet_x_400mf"]
)
def test_small_networks_score_real_images(name: str) -> None:
    backbone = TorchvisionModel(name, weights=None, input_size=64).build(10)
    logits = backbone(torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    assert logits.shape == (2, 10)
    assert logits.isfinite().all()
