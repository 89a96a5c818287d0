"""The formats of an exported file: their names, and what each needs. Imports no torch."""

from collections.abc import Mapping
from importlib.util import find_spec
from typing import NamedTuple

from triptych.errors import UserError

ONNX = {"onnx": "onnx>=1.19", "onnxscript": "onnxscript>=0.5", "onnxruntime": "onnxruntime>=1.23"}
OPENVINO = ONNX | {"openvino": "openvino>=2025.4"}  # which reads the ONNX file
SAFETENSORS = {"safetensors": "safetensors>=0.5"}


class Format(NamedTuple):
    """`suffixes` of its files, the first of which is opened; `packages` that write and open it, by
    what they are imported as, and what installs them. `on_gpu`: whether it is measured there."""

    words: str
    suffixes: tuple[str, ...]
    packages: Mapping[str, str]
    runtime: str
    precision: str = "float32"
    on_gpu: bool = False


FORMATS = {
    "onnx": Format("ONNX", (".onnx",), ONNX, "onnxruntime", on_gpu=True),
    "onnx_int8": Format("ONNX INT8", ("_int8.onnx",), ONNX, "onnxruntime", precision="int8"),
    "openvino": Format("OpenVINO", (".xml", ".bin"), OPENVINO, "openvino"),
    "torch": Format("torch.export", (".pt2",), {}, "torch"),
    "safetensors": Format("safetensors", (".safetensors",), SAFETENSORS, "torch"),
    # No file, and in the precision of its run.
    "compiled": Format("torch.compile", (), {}, "torch", precision="", on_gpu=True),
}


def check_packages(name: str) -> None:
    """Raise UserError where a format's packages are not installed."""
    packages = FORMATS[name].packages
    if missing := [each for each in packages if find_spec(each) is None]:
        install = " ".join(f"'{each}'" for each in packages.values())
        raise UserError(f"format={name}: {', '.join(missing)} not installed; pip install {install}")
