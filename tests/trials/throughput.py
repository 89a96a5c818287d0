"""How near `predict` and `serve` come to the rate of the network, and onnxruntime's rate beside it.

`python -m tests.trials.throughput RUN [--images 256] [--rounds 3] [--onnx FILE]` measures a run of
one label an image. A round measures each row once, in turn; a share is taken within its round, and
the median of the rounds is shown. Processor time counts all threads, of `serve` those of its
process and its decoder; programs beside do not lengthen it as they do the rest.

- network: forward passes over images that lie in memory, uint8 at the network's size; by torch's
  threads, and with each batch shared out among threads, as `predict` does on a CPU;
- predict: files, from the first path to the last row, held against the shared-out network;
- serve: the command itself, with clients that each send a photo as soon as they have the answer to
  the last; the answer has Grad-CAM and the picture, so it is more work than a prediction;
- onnxruntime: the exported file, where there is one, on the images of the first row.
"""

import argparse
import http.client
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor

from tests.composing import composed
from tests.trials.child import ROOT
from triptych.tools.evaluate.cost import synchronize
from triptych.tools.evaluate.rebuild import RebuiltRun, find_device
from triptych.tools.predict.ensemble import Ensemble
from triptych.tools.predict.images import DecodedImage
from triptych.tools.predict.parallel import Classify, share_batches
from triptych.tools.predict.prediction import predict_all

FOLDERS = {  # name: width, height, suffix
    "640x480": (640, 480, ".jpg"),
    "2 megapixels": (1632, 1224, ".jpg"),
    "32x32": (32, 32, ".png"),
}
CLIENTS = (1, 8, 16)
BATCHES = (1, 8, 32, 64)  # of onnxruntime
SLOPE = 1.15  # of the amplitudes of photos over frequency; as JPEG they take as much as COCO's


class Timing(NamedTuple):
    num_images: int
    seconds: float
    cpu_seconds: float

    @property
    def rate(self) -> float:
        return self.num_images / self.seconds


Measure = Callable[[], Timing]
Rows = Mapping[str, tuple[str, Measure]]  # by name: the row that a share is taken of, the measure


def draw_photo(width: int, height: int, seed: int) -> Image.Image:
    """Noise with the spectrum of a photo, in three channels of much the same light."""
    rng = np.random.default_rng(seed)
    rows, columns = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    frequency = np.hypot(rows, columns)
    frequency[0, 0] = np.inf
    phases = np.exp(2j * np.pi * rng.random((4, *frequency.shape)))
    light, *colours = np.fft.irfft2(frequency**-SLOPE * phases, (height, width))
    pixels = [128 + 45 * light / light.std() + 20 * each / each.std() for each in colours]
    return Image.fromarray(np.stack(pixels, 2).clip(0, 255).astype(np.uint8))


def write_photos(folder: Path, num_images: int) -> dict[str, list[str]]:
    """Paths by name; a few photos of each size, each many times."""
    paths: dict[str, list[str]] = {}
    for name, (width, height, suffix) in FOLDERS.items():
        photos = []
        for seed in range(8):
            path = folder / f"{width}-{seed}{suffix}"
            draw_photo(width, height, seed).save(path, quality=90)
            photos.append(str(path))
        paths[name] = (photos * num_images)[:num_images]
    return paths


def measure(call: Callable[[], int], read_cpu: Callable[[], float] = time.process_time) -> Timing:
    """`call` says how many images it took."""
    cpu, start = read_cpu(), time.perf_counter()
    num_images = call()
    return Timing(num_images, time.perf_counter() - start, read_cpu() - cpu)


def time_network(
    run: RebuiltRun, num_images: int, batch_size: int, is_shared: bool = False
) -> Timing:
    side = run.backbone.preprocessing.input_size
    pixels = torch.randint(0, 256, (3, side, side), dtype=torch.uint8)
    batch = [DecodedImage("", (pixels,))] * batch_size

    def classify(images: Sequence[DecodedImage]) -> Tensor:
        return run.logits(torch.stack([image.pixels[0] for image in images]))

    def classify_all(classify_batch: Classify) -> int:
        for _ in range(num_images // batch_size):
            classify_batch(batch)
        synchronize(run.device)
        return num_images // batch_size * batch_size

    if not is_shared:
        return measure(lambda: classify_all(classify))
    with share_batches(classify, run.device, batch_size) as classify_batch:
        return measure(lambda: classify_all(classify_batch))


def time_onnx(path: Path, side: int, num_images: int, batches: Sequence[int]) -> Timing:
    """The fastest of the batch sizes."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    [argument] = session.get_inputs()

    def time_batches(batch_size: int) -> Timing:
        images = np.random.default_rng(0).integers(0, 256, (batch_size, 3, side, side), np.uint8)
        predict = partial(session.run, None, {argument.name: images})
        predict()
        number = max(1, num_images // len(batches) // batch_size)
        return measure(lambda: sum(len(predict()[0]) for _ in range(number)))

    return max((time_batches(size) for size in batches), key=lambda timing: timing.rate)


def time_predict(ensemble: Ensemble, paths: list[str], folder: Path, batch_size: int) -> Timing:
    settings = {"out": str(folder / "rows.csv"), "batch_size": batch_size, "overwrite": True}
    config = composed("predict", "run=none", "images=none", **settings)
    return measure(lambda: predict_all(ensemble, iter(paths), config)[0])


@contextmanager
def start_service(run: Path, device: str) -> Iterator[tuple[int, int]]:
    """The process number and the port of `triptych serve`."""
    command = ["-m", "triptych", "serve", f"runs={run}", "port=0", f"device={device}"]
    with subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout
        try:
            output = ""
            while not (address := re.search(r"http://127\.0\.0\.1:(\d+)", output)):
                line = process.stdout.readline()
                assert line, f"triptych serve ended\n{output}"
                output += line
            yield process.pid, int(address[1])
        finally:
            process.terminate()


def send_photo(port: int, content: bytes) -> None:
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    client.request("POST", "/0/predictions", content)
    response = client.getresponse()
    assert response.status == 200, response.read()
    response.read()
    client.close()


def read_cpu_seconds(process: int) -> float:
    """Of a process and its children, on Linux."""
    place = Path(f"/proc/{process}")
    fields = place.joinpath("stat").read_text().rpartition(")")[2].split()
    children = [text for path in place.glob("task/*/children") for text in path.read_text().split()]
    own = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return own + sum(read_cpu_seconds(int(child)) for child in children)


def time_service(process: int, port: int, paths: Sequence[str], num_clients: int) -> Timing:
    contents = [Path(path).read_bytes() for path in paths]

    def send_all() -> int:
        with ThreadPoolExecutor(num_clients) as clients:
            return len([*clients.map(lambda content: send_photo(port, content), contents)])

    send_photo(port, contents[0])  # which starts the decoder
    return measure(send_all, partial(read_cpu_seconds, process))


def time_rows(rows: Rows, rounds: int) -> dict[str, list[Timing]]:
    """By row, a timing a round."""
    timings: dict[str, list[Timing]] = {name: [] for name in rows}
    for _ in range(rounds):
        for name, (_, call) in rows.items():
            timings[name].append(call())
    return timings


def make_table(rows: Rows, timings: Mapping[str, Sequence[Timing]]) -> Table:
    heads = ("images/s", "share of the network's rate", "processor ms an image", "share of its")
    table = Table("", *heads)
    for name, (bound, _) in rows.items():
        pairs = [*zip(timings[name], timings[bound], strict=True)]
        cpu = [[1000 * each.cpu_seconds / each.num_images for each in pair] for pair in pairs]
        shares = [one.rate / other.rate for one, other in pairs]
        table.add_row(
            name,
            f"{median(one.rate for one, _ in pairs):.1f}",
            f"{median(shares):.3f} ({min(shares):.3f} to {max(shares):.3f})",
            f"{median(one for one, _ in cpu):.1f}",
            f"{median(other / one for one, other in cpu):.3f}",
        )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--images", type=int, default=256, help="a measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--onnx", type=Path, help="the exported file, if not below the run")
    options = parser.parse_args()
    ensemble = Ensemble([options.run], find_device(options.device))
    with (
        tempfile.TemporaryDirectory(prefix="triptych-throughput-") as folder,
        start_service(options.run, options.device) as (service, port),
    ):
        rows = list_rows(ensemble, Path(folder), (service, port), options)
        table = make_table(rows, time_rows(rows, options.rounds))
    Console(width=max(Console().width, 120)).print(table)


def list_rows(
    ensemble: Ensemble,
    folder: Path,
    service: tuple[int, int],
    options: argparse.Namespace,
) -> Rows:
    run, num_images, batch_size = ensemble.runs[0], options.images, options.batch_size
    paths = write_photos(folder, num_images)
    side = run.backbone.preprocessing.input_size
    single, batches, shared = (
        f"network, {what}" for what in ("single images", f"batches of {batch_size}", "shared out")
    )
    rows: dict[str, tuple[str, Measure]] = {
        single: (single, partial(time_network, run, num_images, 1)),
        batches: (batches, partial(time_network, run, num_images, batch_size)),
        shared: (batches, partial(time_network, run, num_images, batch_size, True)),
    }
    for name, each in paths.items():
        call = partial(time_predict, ensemble, each, folder, batch_size)
        rows[f"predict, {name}"] = (shared, call)
    for number in CLIENTS:
        call = partial(time_service, *service, paths["640x480"], number)
        rows[f"serve, 640x480, {number} at once"] = (single, call)
    exported = [options.onnx] if options.onnx else [*(options.run / "export").glob("*.onnx")]
    for path in exported:
        for what, bound, sizes in (("single images", single, (1,)), ("best", batches, BATCHES)):
            call = partial(time_onnx, path, side, num_images, sizes)
            rows[f"onnxruntime, {path.name}, {what}"] = (bound, call)
    return rows


if __name__ == "__main__":
    main()
