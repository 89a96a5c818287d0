"""How each format's files are written.

Shapes: N images of H x W pixels, C classes.
"""

import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.export import ExportedProgram

from triptych.errors import UserError
from triptych.tools.evaluate.rebuild import RebuiltRun
from triptych.tools.export.program import DYNAMIC, IMAGES, PROBABILITIES
from triptych.tools.export.weights import check_plain

METADATA = "metadata.json"  # among the extra files of a torch.export archive
PILLOW_MODES = {"linear": "bilinear_pillow", "linear_onnx": "bilinear_pillow"}
PILLOW_MODES |= {"cubic": "bicubic_pillow"}
MAX_PROTOBUF_BYTES = 2**31 - 1  # an ONNX file is one protocol buffer


@dataclass(frozen=True, eq=False)
class Export:
    """What a file is made of."""

    run: RebuiltRun
    program: ExportedProgram
    metadata: dict[str, Any]  # inside the file
    calibration: Callable[[], Tensor]  # training images uint8 (N, 3, H, W); may raise UserError


class Written(NamedTuple):
    """What the record of a file says besides."""

    float_layers: tuple[str, ...] = ()  # in which INT8 had to leave float numbers
    calibration_images: int | None = None


def write_onnx(export: Export, path: Path) -> Written:
    """One ONNX file with its weights."""
    path.write_bytes(build_onnx(export).SerializeToString())
    return Written()


def build_onnx(export: Export) -> Any:
    """An onnx.ModelProto; metadata that is no text is stored as JSON.

    Raises UserError where the weights are more than it holds.
    """
    import onnx

    size = sum(tensor.nbytes for tensor in export.program.state_dict.values())
    if size > 0.99 * MAX_PROTOBUF_BYTES:
        raise UserError(f"format=onnx: holds 2 GB at most, the weights take {size / 1e9:.1f} GB")
    with quiet_exporter():
        exported = torch.onnx.export(
            export.program,
            input_names=[IMAGES],
            output_names=[PROBABILITIES],
            dynamic_shapes={IMAGES: DYNAMIC},
            dynamo=True,
            verbose=False,
        )
    assert exported is not None
    model = exported.model_proto
    for each in (*model.graph.node, *model.graph.value_info, *model.graph.initializer):
        del each.metadata_props[:]  # the exporter's notes name files of this machine
    texts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in export.metadata.items()}
    onnx.helper.set_model_props(model, texts)
    onnx.checker.check_model(model)
    return model


def write_int8(export: Export, path: Path) -> Written:
    from triptych.tools.export.int8 import quantize  # onnxruntime, behind the checks

    images = export.calibration()
    float_layers = quantize(build_onnx(export), images.numpy(), path)
    return Written(float_layers, len(images))


def write_openvino(export: Export, path: Path) -> Written:
    """An .xml file, with metadata as JSON in its runtime information, and a .bin of weights."""
    import openvino
    from openvino.opset11 import interpolate

    # Not convert_model, which reports its use over the network.
    source = build_onnx(export)
    del source.metadata_props[:]  # texts that XML cannot hold, maybe; as JSON they follow
    model = openvino.Core().read_model(source.SerializeToString(), b"")
    for node in model.get_ops():
        if node.get_type_name() == "Interpolate":  # OpenVINO antialiases in Pillow's modes alone
            mode = PILLOW_MODES[(attributes := node.get_attributes())["mode"]]
            pixels, size = (each.get_source_output() for each in node.inputs()[:2])
            resized = interpolate(
                pixels,
                size,
                mode,
                "sizes",
                cube_coeff=attributes["cube_coeff"],
                pads_begin=attributes["pads_begin"],
                pads_end=attributes["pads_end"],
            )
            node.output(0).replace(resized.output(0))
    model.set_rt_info(json.dumps(export.metadata), "metadata")
    openvino.save_model(model, path, compress_to_fp16=False)
    return Written()


def write_safetensors(export: Export, path: Path) -> Written:
    """The network's weights, by the names that torchvision or timm has for them; metadata as JSON.

    Raises UserError where neither builds the network.
    """
    from safetensors.torch import save

    check_plain(export.run)
    state = export.run.backbone.network.state_dict()
    weights = {  # tensors that share memory are refused
        name: (each.float() if each.is_floating_point() else each).clone().contiguous()
        for name, each in state.items()
    }
    metadata = {"format": "pt", METADATA: json.dumps(export.metadata)}
    path.write_bytes(save(weights, metadata))
    return Written()


def write_torch(export: Export, path: Path) -> Written:
    """A torch.export archive; metadata are JSON in one of its extra files."""
    archive = io.BytesIO()  # on a full disk torch would end the process
    with quiet_exporter():
        extra = {METADATA: json.dumps(export.metadata)}
        torch.export.save(export.program, archive, extra_files=extra)
    path.write_bytes(archive.getbuffer())
    return Written()


# `path` is of the first of the format's files; the others lie beside it.
WRITERS: Mapping[str, Callable[[Export, Path], Written]] = {
    "onnx": write_onnx,
    "onnx_int8": write_int8,
    "openvino": write_openvino,
    "torch": write_torch,
    "safetensors": write_safetensors,
}


@contextmanager
def quiet_exporter() -> Iterator[None]:
    """Keep an exporter's warnings about its own internals off the screen; errors stay."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            for category in (DeprecationWarning, FutureWarning, UserWarning):
                warnings.simplefilter("ignore", category)
            yield
    finally:
        logging.disable(logging.NOTSET)
