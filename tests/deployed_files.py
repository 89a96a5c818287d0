"""Deployments as `triptych export` leaves them in a run folder, with drawn answers and speeds."""

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from triptych.runs.record import write_arrays

SUFFIXES = {"torch": "pt2", "openvino": "xml"}
SPEED = {
    **{"latency_ms_p50": 10.0, "latency_ms_p95": 12.0, "throughput_images_per_second": 200.0},
    **{"throughput_batch_size": 8, "load_seconds": 0.25, "peak_memory_bytes": 300_000_000},
}


def write_deployment(
    folder: Path, name: str = "onnx", *, times: float = 2.0, num_other: int = 0, **record: Any
) -> Path:
    """A file that answers `times` as fast as the network, and that gets wrong the first `num_other`
    images that the network gets right; of fewer than 0, right so many that it gets wrong.

    `record` replaces entries of its record.
    """
    with np.load(folder / "predictions" / "test.npz") as file:
        arrays = dict(file)
    logits = arrays["logits"].astype(np.float64)
    is_right = logits.argmax(axis=1) == arrays["labels"]
    turned = np.flatnonzero(is_right == (num_other > 0))[: abs(num_other)]
    logits[turned, arrays["labels"][turned]] += math.copysign(99, -num_other)
    shifted = logits - logits.max(axis=1, keepdims=True)
    logits = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    (folder / "deployments").mkdir(exist_ok=True)
    answers = folder / "deployments" / f"{name}.npz"
    write_arrays(answers, **arrays | {"logits": logits.astype(np.float32)})
    place = f"export/model_{name}.{SUFFIXES.get(name, 'onnx')}"
    (folder / "export").mkdir(exist_ok=True)
    (folder / place).write_text(name)
    is_int8 = name == "onnx_int8"
    content = {
        **{"schema": 1, "format": name, "file": place, "file_bytes": 25_000_000},
        "digests": {place: digest(folder / place)},
        **{"num_images": len(logits), "agreement": 1.0, "predictions_sha256": digest(answers)},
        **SPEED,
        **{key: SPEED[key] / times for key in ("latency_ms_p50", "latency_ms_p95")},
        **{"runtime": "onnxruntime 1.32.0", "device": "cpu", "num_threads": 2},
        **{
            "precision": "int8" if is_int8 else "float32",
            "network": SPEED | {"precision": "32-true"},
        },
        **{
            "float_layers": ["conv1 (Conv)"] * is_int8,
            "calibration_images": 512 if is_int8 else None,
        },
        "versions": {"triptych": "0.3.0", "torch": "2.14.1", "onnxruntime": "1.32.0"},
        "measured_at": "2026-11-28T00:00:00+00:00",
    }
    path = folder / "deployments" / f"{name}.json"
    path.write_text(json.dumps(content | record))
    return path


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
