"""Files in each format beside the network, from networks that are small and planted."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from tests.tools.export.test_program import SIZE
from triptych.errors import UserError
from triptych.models.backbone import Backbone, Preprocessing
from triptych.models.torchvision_models import TorchvisionModel
from triptych.tools.evaluate.rebuild import RebuiltRun
from triptych.tools.export import program, runtime
from triptych.tools.export.weights import plain_architecture
from triptych.tools.export.writers import METADATA, WRITERS, Export

SHAPES = [(1, SIZE, SIZE), (2, 40, 40), (1, 480, 640), (3, 37, 100), (1, 5, 1)]
HOSTILE = {"model": "\x00\x1b]<a b='\"&\u202e ]]> 😀", "classes": ["<i>", "\n"]}
CLASSES = tuple("abcde")


class Blocks(nn.Module):
    """A depthwise convolution between two others, a LayerNorm, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU6())
        self.depthwise = nn.Sequential(nn.Conv2d(8, 8, 3, groups=8, bias=False), nn.BatchNorm2d(8))
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, len(CLASSES))

    def forward(self, images: Tensor) -> Tensor:
        maps = self.depthwise(self.stem(images))
        logits: Tensor = self.head(self.norm(maps.relu().mean(dim=(2, 3))))
        return logits


def make_export(network: nn.Module, interpolation: str = "bilinear", **model: Any) -> Export:
    torch.manual_seed(0)
    preprocessing = Preprocessing(SIZE, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), interpolation)
    backbone = Backbone(network, len(CLASSES), preprocessing)
    backbone.head.weight.data *= 3
    return export_backbone(backbone, **({"_target_": "tests.Own", "name": "own"} | model))


def export_backbone(backbone: Backbone, **model: Any) -> Export:
    config = {"model": model}
    run = SimpleNamespace(backbone=backbone, config=config, classes=CLASSES, task=None)
    portable = program.Portable(backbone).eval()
    axes = {program.IMAGES: {n: torch.export.Dim(name) for n, name in program.DYNAMIC.items()}}
    example = torch.zeros(program.EXAMPLE, dtype=torch.uint8)
    traced = torch.export.export(portable, (example,), dynamic_shapes=axes)
    return Export(cast(RebuiltRun, run), traced, HOSTILE, lambda: draw(32, SIZE, SIZE))


def draw(num: int, height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(height)
    return torch.randint(0, 256, (num, 3, height, width), dtype=torch.uint8, generator=generator)


def answer_as_network(export: Export, images: Tensor) -> Any:
    with torch.inference_mode():
        return program.Portable(export.run.backbone).eval()(images).numpy()


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_openvino_answers_as_the_network_for_any_number_and_size(
    interpolation: str, tmp_path: Path
) -> None:
    export = make_export(Blocks(), interpolation)
    WRITERS["openvino"](export, path := tmp_path / "net.xml")
    answer = runtime.open_openvino({"path": str(path), "num_threads": 1})
    for shape in SHAPES:
        images = draw(*shape)
        expected = answer_as_network(export, images)
        np.testing.assert_allclose(answer(images.numpy()), expected, atol=2e-5)
    assert {each.name for each in tmp_path.iterdir()} == {"net.xml", "net.bin"}
    info = openvino.Core().read_model(path).get_rt_info("metadata")
    assert json.loads(info.value) == HOSTILE
    assert str(Path(program.__file__).parent) not in path.read_text()


def test_int8_answers_nearly_as_the_network_and_names_what_stays_float(tmp_path: Path) -> None:
    export = make_export(Blocks())
    written = WRITERS["onnx_int8"](export, path := tmp_path / "net.onnx")
    assert written.float_layers == ("norm (LayerNormalization)",)
    assert written.calibration_images == 32
    session = onnxruntime.InferenceSession(path)
    for shape in SHAPES:
        images = draw(*shape)
        answers = session.run(None, {"images": images.numpy()})[0]
        np.testing.assert_allclose(answers.sum(axis=1), np.ones(len(images)), atol=1e-5)
        if shape[1] == SIZE:  # as images were for calibration
            gaps = np.abs(answers - answer_as_network(export, images))
            assert 0 < gaps.max() < 0.05
    model = onnx.load(path)
    assert {each.key for each in model.metadata_props} == set(HOSTILE)
    kinds = {each.data_type for each in model.graph.initializer if len(each.dims) in (2, 4)}
    assert kinds == {onnx.TensorProto.INT8}, "of weights"


def test_int8_takes_seven_bits_but_for_depthwise_layers(tmp_path: Path) -> None:
    """Sums of 8 bits saturate on CPUs without VNNI; what is summed otherwise keeps them."""
    WRITERS["onnx_int8"](make_export(Blocks()), path := tmp_path / "net.onnx")
    largest = {}
    for each in onnx.load(path).graph.initializer:
        if each.data_type == onnx.TensorProto.INT8 and len(each.dims) > 1:
            values = np.abs(onnx.numpy_helper.to_array(each).astype(int))
            largest[tuple(each.dims)] = values.max()
    assert largest.pop((8, 1, 3, 3)) == 127
    assert max(largest.values()) == 64


@pytest.mark.parametrize("name", ["googlenet", "squeezenet1_1"])
def test_safetensors_load_into_the_network_of_torchvision_s_own(name: str, tmp_path: Path) -> None:
    factory = TorchvisionModel(name, weights=None, input_size=64)
    backbone = factory.build(len(CLASSES)).eval()
    if name == "googlenet":
        backbone.network.transform_input = True  # as pretrained ones have it
    target = "triptych.models.torchvision_models.TorchvisionModel"
    export = export_backbone(backbone, _target_=target, name=name)
    path = tmp_path / "net.safetensors"
    WRITERS["safetensors"](export, path)
    config = {**(plain_architecture(export.run) or {}), "stored_size": None}
    config |= backbone.preprocessing._asdict()
    (tmp_path / "config.json").write_text(json.dumps(config))
    images = draw(2, 100, 37)
    answers = runtime.open_safetensors({"path": str(path)})(images.numpy())
    np.testing.assert_allclose(answers, answer_as_network(export, images), atol=1e-5)
    with safe_open(path, "pt") as file:
        assert json.loads(file.metadata()[METADATA]) == HOSTILE


def test_safetensors_of_a_network_of_the_user_s_own_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"own of this run .*\n.*format=onnx"):
        WRITERS["safetensors"](make_export(Blocks()), tmp_path / "net.safetensors")
    assert [*tmp_path.iterdir()] == []
