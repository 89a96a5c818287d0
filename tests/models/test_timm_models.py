"""timm's networks: the contract of torchvision's, with weights from a cache of the hub."""

import json
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.composing import composed
from triptych.errors import UserError
from triptych.models.backbone import Backbone
from triptych.models.timm_models import TimmModel
from triptych.tools.evaluate.command import evaluate
from triptych.training import train

timm = pytest.importorskip("timm")
hub = pytest.importorskip("huggingface_hub")
safetensors = pytest.importorskip("safetensors.torch")

NAME, TAG = "test_resnet", "r160_in1k"  # of timm's networks for tests, half a million parameters
SIZE = 32


def images(size: int = SIZE) -> Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the hub's library keeps files, empty."""
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def save_to_cache(cache: Path, name: str, tag: str, content: dict[str, Tensor] | bytes) -> Path:
    """Put a file of weights where the hub's library looks for it."""
    folder = cache / f"models--timm--{name}.{tag}"
    path = folder / "snapshots" / "0" / "model.safetensors"
    for parent in (path.parent, folder / "refs"):
        parent.mkdir(parents=True)
    (folder / "refs" / "main").write_text("0")
    path.write_bytes(content if isinstance(content, bytes) else safetensors.save(content))
    return path


@pytest.fixture
def hosts(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The hosts that were looked for."""
    hosts: list[Any] = []
    resolve = socket.getaddrinfo  # of the tests: offline

    def note(host: str, *args: Any, **options: Any) -> Any:
        hosts.append(host)
        return resolve(host, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", note)
    return hosts


@torch.no_grad()
def same_logits(backbone: Backbone, plain: nn.Module, batch: Tensor) -> bool:
    """Whether a network and plain timm's agree, given the same head."""
    plain.set_submodule(backbone.head_name, backbone.head)
    return backbone.eval()(batch).equal(plain.eval()(batch))


# Networks.


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_mambaout", "test_efficientnet"])
def test_a_network_scores_ten_classes_and_expects_what_timm_says(name: str) -> None:
    backbone = TimmModel(name, weights=None).build(10)
    entry = timm.get_pretrained_cfg(name)
    size = entry.input_size[1]
    assert backbone.preprocessing == (size, entry.mean, entry.std, entry.interpolation)
    assert backbone.head_name == entry.classifier
    logits = backbone(images(size))
    assert logits.shape == (2, 10)
    logits.sum().backward()
    assert [n for n, p in backbone.named_parameters() if p.grad is None] == []


def test_a_network_that_gives_features_gets_a_head_and_expects_what_its_weights_do() -> None:
    with torch.device("meta"):
        backbone = TimmModel("vit_small_patch14_dinov2", "lvd142m").build(10, load=False)
    assert str(backbone.head) == str(nn.Linear(384, 10))
    expected = (518, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "bicubic")
    assert backbone.preprocessing == expected


def test_a_transformer_is_made_for_the_input_size_that_is_set() -> None:
    backbone = TimmModel("test_vit", weights=None, input_size=SIZE).build(10)
    assert backbone(images()).shape == (2, 10)
    with pytest.raises(UserError, match=r"^model\.input_size=7: test_vit .* \(.+\)$"):
        TimmModel("test_vit", weights=None, input_size=7).build(10)


# Weights.


def test_weights_in_the_cache_are_used_without_a_word_to_the_network(
    cache: Path, hosts: list[Any]
) -> None:
    plain = timm.create_model(NAME)
    save_to_cache(cache, NAME, TAG, plain.state_dict())
    for weights in ("DEFAULT", TAG):
        network = TimmModel(NAME, weights)
        assert network.weights_name == TAG
        assert network.missing() is None
        assert same_logits(network.build(10), plain, images())
    assert hosts == []


def test_positions_in_the_weights_are_fitted_to_another_input_size(cache: Path) -> None:
    plain = timm.create_model("test_vit")
    save_to_cache(cache, "test_vit", TAG, plain.state_dict())
    network = TimmModel("test_vit", input_size=SIZE)
    plain.set_input_size((SIZE, SIZE))
    assert same_logits(network.build(10), plain, images())


def test_missing_weights_are_named_with_the_place_where_they_were_looked_for(
    cache: Path, hosts: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    network = TimmModel(NAME)
    assert f"timm/{NAME}.{TAG}/model.safetensors" in str(network.missing())
    assert str(cache) in str(network.missing())
    network.build(10, load=False)
    assert TimmModel(NAME, None).missing() is TimmModel(NAME, None).weights_name is None
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
    assert not network.can_download()
    with pytest.raises(UserError, match=f"^weights of {NAME}: timm/"):
        network.build(10)
    assert hosts == [], "told to stay offline"
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", False)
    assert not network.can_download()
    assert hosts == ["huggingface.co"]


@pytest.mark.parametrize("content", [b"", b"\x80\x04cos\n", {"conv1.weight": torch.ones(3)}])
def test_a_file_of_weights_that_is_damaged_or_another_network_s_is_refused_by_name(
    cache: Path, content: dict[str, Tensor] | bytes
) -> None:
    path = save_to_cache(cache, NAME, TAG, content)
    with pytest.raises(UserError) as caught:
        TimmModel(NAME).build(10)
    assert str(caught.value).startswith(f"weights {path}: ")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize("num_classes", [10, 1000])
def test_weights_may_come_from_a_file(tmp_path: Path, suffix: str, num_classes: int) -> None:
    saved = timm.create_model(NAME, num_classes=num_classes)
    path = tmp_path / f"mine.{suffix}"
    save = torch.save if suffix == "pth" else safetensors.save_file
    save(saved.state_dict(), path)
    network = TimmModel(NAME, str(path))
    assert network.weights_name == str(path)
    backbone = network.build(10)
    assert backbone.head.weight.equal(saved.fc.weight) == (num_classes == 10)
    assert same_logits(backbone, saved, images())


# A run.


def test_a_run_is_trained_scored_again_and_explained(tmp_path: Path) -> None:
    """A network whose maps have their channels last."""
    model = ["model=timm", "model.name=test_mambaout", "model.weights=null", "model.input_size=64"]
    sizes = ["data=shapes", "data.num_train=40", "data.num_val=20", "data.num_test=30"]
    ends = ["trainer.max_epochs=1", "trainer.accelerator=cpu", f"log_dir={tmp_path}"]
    folder = train(composed("train", *model, *sizes, *ends), []).folder
    closely = ["cost_seconds=0.01", "grad_cam.images=[2]", "device=cpu"]
    evaluate(composed("evaluate", f"run={folder}", *closely), [])
    assert (folder / "figures" / "grad_cam.png").is_file()
    assert json.loads((folder / "evaluation.json").read_text())["largest_difference"] == 0


# What timm does not have.


@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [
        ("resnet500", None, r"^model\.name=resnet500: not a network of timm; near: resnet50"),
        (f"{NAME}.{TAG}", None, rf"^model\.name={NAME}\.{TAG}: .*near: {NAME}, .*model\.weights"),
        ("resnet50", "a1_1k", r"^model\.weights=a1_1k: .*null, or a file; near: a1_in1k, "),
        ("test_maxvit", "DEFAULT", r"^model\.weights=DEFAULT: the hub has none for test_maxvit; "),
        ("levit_128s", None, r"^model\.name=levit_128s: has several heads"),
    ],
)
def test_what_timm_does_not_have_is_refused_in_a_line(
    name: str, weights: str | None, message: str
) -> None:
    with torch.device("meta"), pytest.raises(UserError, match=message) as caught:
        TimmModel(name, weights).build(10)
    assert len(str(caught.value).splitlines()) == 1


def test_without_timm_the_command_that_installs_it_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match=r"^model=timm: .* pip install 'timm>=1\.0'$"):
        TimmModel(NAME).missing()
