"""An ONNX file whose layers compute in 8-bit integers, calibrated on images.

Shapes: N images of H x W pixels.
"""

import io
import logging
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

from triptych.tools.export.program import IMAGES

BATCH_SIZE = 8  # images at once, of which a calibration holds every layer's answers
LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
# Without those that lie between layers, numbers would go to float and back for each.
BETWEEN = """
    Add Mul Clip Relu MaxPool AveragePool GlobalAveragePool ReduceMean Concat
""".split()
MOVES = """
    QuantizeLinear DequantizeLinear Reshape Flatten Transpose Squeeze Unsqueeze Slice Gather Expand
    Cast Concat Split Identity Pad
""".split()  # compute nothing
NETWORK = "network."  # what its parameters' names begin with
Graph = Any  # onnx.GraphProto


class Batches(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
    def __init__(self, images: NDArray[np.uint8]) -> None:
        starts = range(0, len(images), BATCH_SIZE)
        self.batches: Iterator[Any] = iter([images[n : n + BATCH_SIZE] for n in starts])

    def get_next(self) -> dict[str, Any] | None:
        batch = next(self.batches, None)
        return None if batch is None else {IMAGES: batch}


def quantize(model: onnx.ModelProto, images: NDArray[np.uint8], path: Path) -> tuple[str, ...]:
    """Write the quantised file, with the metadata of `model`; return the layers that stayed float.

    `images` (N, 3, H, W) are for calibration. Preprocessing and the last activation stay float.
    """
    with tempfile.TemporaryDirectory() as folder, quiet_quantizer():
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(model, prepared)
        graph = onnx.load(prepared).graph
        inside = find_network(graph)
        # Where a CPU has no VNNI, sums of two products of 8 bits saturate at 16: weights get 7 bits
        # (`reduce_range`). Depthwise layers are summed otherwise, and need all 8 to answer right.
        all_bits = {
            "quant_type": QuantType.QInt8,
            "symmetric": True,
            "axis": 0,
            "reduce_range": False,
        }
        overrides = {name: [all_bits] for name in find_depthwise(graph)}
        quantize_static(
            prepared,
            path,
            Batches(images),
            op_types_to_quantize=[*LAYERS, *BETWEEN],
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=[node.name for node in graph.node if node.name not in inside],
            calibrate_method=CalibrationMethod.MinMax,
            extra_options={"TensorQuantOverrides": overrides} if overrides else {},
        )
    quantized = onnx.load(path)
    onnx.helper.set_model_props(quantized, {p.key: p.value for p in model.metadata_props})
    path.write_bytes(quantized.SerializeToString())
    return tuple(list_float_layers(quantized.graph, graph, inside))


def find_network(graph: Graph) -> set[str]:
    """The names of the nodes behind the first layer with weights, but for the last activation."""
    weights = {each.name for each in graph.initializer}
    outputs: set[str] = set()
    inside = set()
    for node in graph.node:  # in the order of computation
        is_layer = node.op_type in LAYERS and node.input[1] in weights
        if is_layer or not outputs.isdisjoint(node.input):
            outputs.update(node.output)
            inside.add(node.name)
    last = {each.name for each in graph.output}
    return inside - {node.name for node in graph.node if not last.isdisjoint(node.output)}


def find_depthwise(graph: Graph) -> Iterator[str]:
    """The weights of convolutions that take each channel by itself."""
    shapes = {each.name: each.dims for each in graph.initializer}
    for node in graph.node:
        groups = next((each.i for each in node.attribute if each.name == "group"), 1)
        shape = shapes.get(node.input[1]) if node.op_type == "Conv" else None
        if shape and groups == shape[0] > 1:
            yield node.input[1]


def list_float_layers(quantized: Graph, graph: Graph, inside: set[str]) -> Iterator[str]:
    """By their parameters' name and operator; those without parameters by operator alone."""
    inferred = {each.name: each.type.tensor_type.elem_type for each in graph.value_info}
    integers = {name for name, kind in inferred.items() if kind != onnx.TensorProto.FLOAT}
    scaled = {o for n in quantized.node if n.op_type == "DequantizeLinear" for o in n.output}
    parameters = {each.name for each in quantized.initializer}
    without: Counter[str] = Counter()
    for node in quantized.node:
        is_scaled = node.op_type in (*LAYERS, *BETWEEN) and node.input[0] in scaled
        is_computed = node.op_type not in MOVES and node.output[0] not in integers
        if node.name not in inside or is_scaled or not is_computed:
            continue
        own = [name for name in node.input if name in parameters and name.startswith(NETWORK)]
        if own:
            layer = own[0].removeprefix(NETWORK).rpartition(".")[0]
            yield f"{layer} ({node.op_type})"
        else:
            without[node.op_type] += 1
    yield from (f"{number} x {kind}" for kind, number in without.items())


@contextmanager
def quiet_quantizer() -> Iterator[None]:
    """Keep its advice and progress off the screen; errors stay."""
    logging.disable(logging.WARNING)
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(logging.NOTSET)
