"""A process that answers by one exported file, with nothing but the file's runtime.

`measurement` runs this as a script: imports of ours would count in its memory. A line of standard
input is a request, a line of standard output its reply, both in JSON.

Shapes: N images of H x W pixels, C classes.
"""

import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_CALLS = 200  # timed
Array = NDArray[Any]
Opened = dict[str, Any]  # the first request: path, format, package, device, num_threads, ...
Answer = Callable[[Array], Array]  # uint8 (N, 3, H, W) to probabilities float32 (N, C)


def open_onnx(opened: Opened) -> Answer:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = opened["num_threads"]
    options.log_severity_level = 3  # errors
    provider = "CUDAExecutionProvider" if opened["device"] == "cuda" else "CPUExecutionProvider"
    session = onnxruntime.InferenceSession(opened["path"], options, providers=[provider])
    if provider not in session.get_providers():  # it takes another one without an error
        raise RuntimeError(f"onnxruntime has no {provider} here")
    name = session.get_inputs()[0].name
    return lambda images: np.asarray(session.run(None, {name: images})[0])


def open_openvino(opened: Opened) -> Answer:
    import openvino

    settings = {"INFERENCE_NUM_THREADS": opened["num_threads"], "PERFORMANCE_HINT": "LATENCY"}
    settings["INFERENCE_PRECISION_HINT"] = "f32"  # where the CPU has bfloat16, too
    compiled = openvino.Core().compile_model(opened["path"], "CPU", settings)
    return lambda images: np.array(compiled(images)[0])


def open_torch(opened: Opened) -> Answer:
    import torch

    module = torch.export.load(opened["path"]).module()
    return answer_by_torch(module, "cpu")


def open_safetensors(opened: Opened) -> Answer:
    """Weights in a network of torchvision's or timm's, as config.json beside them says."""
    import torch
    from safetensors.torch import load_file
    from torchvision.transforms import v2

    path = Path(opened["path"])
    config = json.loads(path.with_name("config.json").read_text(encoding="utf-8"))
    library = import_module(
        {"timm": "timm", "torchvision": "torchvision.models"}[config["library"]]
    )
    build = library.create_model if config["library"] == "timm" else library.get_model
    network = build(config["architecture"], **config["arguments"]).eval()
    network.load_state_dict(load_file(path))
    size, mode = [config["input_size"]] * 2, v2.InterpolationMode(config["interpolation"])
    mean, std = (torch.tensor(config[name]).view(3, 1, 1) for name in ("mean", "std"))
    activate = (
        torch.sigmoid if config.get("task") == "multilabel" else partial(torch.softmax, dim=1)
    )

    def predict(images: Any) -> Any:
        if config["stored_size"]:
            images = fit_images(images.numpy(), config["stored_size"], config["fit"])
        pixels = v2.functional.resize(images.float() / 255, size, mode, antialias=True)
        return activate(network((pixels - mean) / std))

    return answer_by_torch(predict, "cpu")


def fit_images(images: Array, side: int, fit: str) -> Any:
    """uint8 (N, 3, S, S), S = `side`, as training stored its photos."""
    import torch
    from PIL import Image, ImageOps

    def square(photo: Image.Image) -> Image.Image:
        if fit == "crop":
            return ImageOps.fit(photo, (side, side))
        return ImageOps.pad(photo, (side, side)) if fit == "pad" else photo.resize((side, side))

    photos = (Image.fromarray(each.transpose(1, 2, 0)) for each in images)
    return torch.from_numpy(np.stack([np.asarray(square(each)) for each in photos])).permute(
        0, 3, 1, 2
    )


def open_network(opened: Opened, *, is_compiled: bool = False) -> Answer:
    """A run's own network, as `predict` has it."""
    import torch

    from triptych.callbacks.progress import silence_lightning
    from triptych.models.compilation import compile_network
    from triptych.tools.evaluate.rebuild import build_scorer, rebuild_run

    silence_lightning()
    run = rebuild_run(Path(opened["path"]), opened["trusted"])
    build_scorer(run, torch.device(opened["device"]))
    compile_network(run.backbone, "default" if is_compiled else "none")
    return answer_by_torch(
        lambda images: run.module.probabilities(run.logits(images)), opened["device"]
    )


def open_compiled(opened: Opened) -> Answer:
    return open_network(opened, is_compiled=True)


def answer_by_torch(network: Callable[[Any], Any], device: str) -> Answer:
    import torch

    def answer(images: Array) -> Array:
        with torch.inference_mode():
            probabilities = network(torch.from_numpy(images).to(device))
        return np.asarray(probabilities.float().cpu().numpy())

    return answer


# By format: the module whose import is no part of loading, and how a file is opened.
OPENERS: dict[str, tuple[str, Callable[[Opened], Answer]]] = {
    "onnx": ("onnxruntime", open_onnx),
    "onnx_int8": ("onnxruntime", open_onnx),
    "openvino": ("openvino", open_openvino),
    "torch": ("torch.export", open_torch),
    "safetensors": ("torchvision", open_safetensors),
    "network": ("triptych.tools.evaluate.rebuild", open_network),
    "compiled": ("triptych.tools.evaluate.rebuild", open_compiled),
}


def time_calls(answer: Answer, images: Array, seconds: float) -> list[float]:
    """Seconds of single calls for about `seconds` in all; one call at least, after a warm-up."""
    answer(images)
    times: list[float] = []
    end = time.perf_counter() + seconds
    while not times or (time.perf_counter() < end and len(times) < MAX_CALLS):
        start = time.perf_counter()
        answer(images)
        times.append(time.perf_counter() - start)
    return times


def read_peak_bytes() -> int:
    """What the process held at most, Python and its libraries included."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:  # not Linux, where getrusage(2) counts what its parent held, too
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def reply(answer: Answer, request: dict[str, Any]) -> dict[str, Any]:
    """Of a request `time` or `answer` about the images of an .npy file."""
    images = np.load(request["images"])
    if request["do"] == "time":
        times = time_calls(answer, images, request["seconds"])
        return {"seconds": times, "peak_bytes": read_peak_bytes()}
    size = request["batch_size"]
    batches = [answer(images[start : start + size]) for start in range(0, len(images), size)]
    np.save(request["out"], np.concatenate(batches))
    return {}


def serve_requests(lines: Iterator[str], write: Callable[[dict[str, Any]], None]) -> None:
    """The first line says what to open; its reply, how long that took."""
    opened = json.loads(next(lines))
    module, open_file = OPENERS[opened["format"]]
    if module.startswith("triptych"):
        sys.path[:] = opened["sys_path"]  # its classes may lie anywhere there
        import_module("triptych.cli").configure_process()
    import_module(module)
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(opened["num_threads"])
    start = time.perf_counter()
    answer = open_file(opened)
    seconds = time.perf_counter() - start
    write({"load_seconds": seconds, "version": version(opened["package"])})
    for line in lines:
        write(reply(answer, json.loads(line)))


def main() -> None:
    """Whatever a library prints goes to standard error."""
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    write = partial(print, file=channel, flush=True)
    serve_requests(iter(sys.stdin), lambda content: write(json.dumps(content)))


if __name__ == "__main__":
    main()
