"""The few lines that use a file without Triptych: written, and run before anyone reads them."""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from triptych.runs.reader import sanitize
from triptych.tools.export.checks import (
    Deployment,
    Network,
    make_photographs,
    predict_as_network,
)
from triptych.tools.export.formats import FORMATS
from triptych.tools.predict.images import View
from triptych.tools.report.page import make_environment

PHOTO = "photo.jpg"  # in the examples
# What is not with whoever uses the file: to import it is an error.
ALONE = "import sys; sys.modules |= dict.fromkeys(('triptych', 'lightning', 'hydra'))\n"
TOLERANCE = 0.01  # of a probability: an example may make stored squares with other roundings


def write_example(name: str, file: str, config: Mapping[str, Any]) -> str:
    """Python that uses a file of a format; `config` is of the config.json beside it."""
    environment = make_environment("export", autoescape=False)
    template = environment.get_template(f"use_{name.removesuffix('_int8')}.py.jinja")
    return template.render(config, file=json.dumps(sanitize(file), ensure_ascii=False)) + "\n"


def list_packages(name: str, config: Mapping[str, Any]) -> str:
    """What an example imports, as pip takes it."""
    if name == "safetensors":
        torch_library = "timm" if config["library"] == "timm" else "torch torchvision"
        return f"{torch_library} safetensors pillow"
    runtime = FORMATS[name].runtime
    if runtime == "torch":  # reads no archives of later versions
        runtime = f"'torch>={'.'.join(version('torch').split('.')[:2])}'"
    return f"{runtime} numpy pillow"


def run_examples(
    network: Network, deployments: Sequence[Deployment], config: Mapping[str, Any], folder: Path
) -> None:
    """Each in a process of its own in `folder`, about a photograph that is gone afterwards.

    What it prints has to be the network's own answer; of INT8, which `min_agreement` is for,
    classes that it has.
    """
    photo = make_photographs()[0]
    own = predict_as_network(network.run, View.from_run(network.run), photo)[0]
    with (folder / PHOTO).open("wb") as file:  # without the losses of JPEG
        Image.fromarray(photo[0].permute(1, 2, 0).numpy()).save(file, "png")
    for each in deployments:
        code = ALONE + write_example(each.name, each.files[0].name, config)
        command = [sys.executable, "-P", "-X", "utf8", "-c", code]
        done = subprocess.run(command, cwd=folder, capture_output=True, encoding="utf-8")
        [*_, last] = ["", *done.stderr.splitlines()]
        assert done.returncode == 0, f"{each.name}: {last}"
        is_exact = FORMATS[each.name].precision == "float32"
        check_printed(done.stdout, own, config["classes"], TOLERANCE if is_exact else 1.0)
    (folder / PHOTO).unlink()


def check_printed(text: str, own: torch.Tensor, classes: Sequence[str], tolerance: float) -> None:
    """Lines of a class and its probability, against the network's own probabilities (C,)."""
    lines = [line.rsplit(" ", 1) for line in text.splitlines()]
    assert len(lines) == min(3, len(classes)), f"printed {len(lines)} lines"
    expected = [float(own[classes.index(name)]) for name, _ in lines]
    assert float(own.max()) - expected[0] <= 2 * tolerance, "not the network's class"
    printed = [float(share) for _, share in lines]
    np.testing.assert_allclose(printed, expected, rtol=0, atol=tolerance)
