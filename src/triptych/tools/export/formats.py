"""The formats of an exported file: written with its metadata, and opened by its own runtime.

Shapes: N images of H x W pixels, C classes.
"""

import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.export import ExportedProgram

from triptych.errors import UserError
from triptych.tools.export.program import DYNAMIC, IMAGES, PROBABILITIES

METADATA = "metadata.json"  # among the extra files of a torch.export archive
MAX_PROTOBUF_BYTES = 2**31 - 1  # an ONNX file is one protocol buffer

Predict = Callable[[Tensor], Tensor]  # uint8 (N, 3, H, W) to probabilities float32 (N, C)


class Format(NamedTuple):
    """`write(program, path, metadata)`; `open(path)` reads nothing but the file."""

    runtime: str
    write: Callable[[ExportedProgram, Path, dict[str, Any]], None]
    open: Callable[[Path], Predict]


def write_onnx(program: ExportedProgram, path: Path, metadata: dict[str, Any]) -> None:
    """One ONNX file with its weights; metadata that is no text is stored as JSON."""
    import onnx

    size = sum(tensor.nbytes for tensor in program.state_dict.values())
    if size > 0.99 * MAX_PROTOBUF_BYTES:
        raise UserError(f"format=onnx: holds 2 GB at most, the weights take {size / 1e9:.1f} GB")
    with quiet_exporter():
        exported = torch.onnx.export(
            program,
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
    texts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in metadata.items()}
    onnx.helper.set_model_props(model, texts)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())


def open_onnx(path: Path) -> Predict:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def predict(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run([PROBABILITIES], {IMAGES: images.numpy()})[0])

    return predict


def write_torch(program: ExportedProgram, path: Path, metadata: dict[str, Any]) -> None:
    """A torch.export archive; metadata are JSON in one of its extra files."""
    archive = io.BytesIO()  # on a full disk torch would end the process
    with quiet_exporter():
        torch.export.save(program, archive, extra_files={METADATA: json.dumps(metadata)})
    path.write_bytes(archive.getbuffer())


def open_torch(path: Path) -> Predict:
    with quiet_exporter(), path.open("rb") as file:
        module = torch.export.load(file).module()

    def predict(images: Tensor) -> Tensor:
        with torch.inference_mode():
            probabilities: Tensor = module(images)
        return probabilities

    return predict


FORMATS = {
    "onnx": Format("onnxruntime", write_onnx, open_onnx),
    "torch": Format("torch.export", write_torch, open_torch),
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
