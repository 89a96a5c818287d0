"""The model card of planted runs, some of them hostile."""

import csv
import hashlib
import json
import logging
import re
from pathlib import Path
from typing import Any

import pytest
from sklearn.metrics import precision_recall_fscore_support

from tests.run_folders import NUM_CLASSES, write_run
from triptych.runs.reader import sanitize
from triptych.tools.compare.runs import read_run
from triptych.tools.export.card import render_card
from triptych.tools.export.hub import Shipped, describe_file
from triptych.tools.statistics.inference import wilson


def card_of(folder: Path, form: str = "onnx", name: str = "net.onnx") -> str:
    run = read_run(folder)
    numbers = [str(number) for number in range(run.test.num_classes)]
    config = {
        "classes": run.metadata["classes"] or numbers,
        **{"input_size": 32, "triptych": "1.2", "fit": "stretch", "num_test": run.num_test},
        **{"library": "torchvision", "stored_size": None, "interpolation": "bilinear"},
    }
    file = describe_file(folder / "run.json")._replace(name=name)
    return render_card(run, config, [Shipped(form, [file], ["checked"], None)])


def cells(text: str, first: str) -> list[str]:
    """Of the line of a table that begins so."""
    line, *_ = [line for line in text.splitlines() if line.startswith(f"| {first} |")]
    return [cell.strip() for cell in line.split("|")[2:-1]]


def test_the_card_has_the_record_s_figures_with_wilson_s_intervals(tmp_path: Path) -> None:
    folder = write_run(tmp_path, num_train=5000, num_val=1000, split_seed=3, weights="V1")
    text = card_of(folder)
    test = read_run(folder).test
    accuracy, interval = cells(text, "accuracy")[0], wilson(int(test.correct.sum()), 200)
    assert accuracy.startswith(f"{100 * test.correct.mean():.2f} % of 200 test images (95 %")
    assert f"{100 * interval.low:.2f} % to {100 * interval.high:.2f} %)" in accuracy
    assert cells(text, "images") == ["5,000 for training, 1,000 for validation, 200 for the test"]
    assert "split_hash` 5555555555555555" in text
    assert "pretrained weights (V1)" in text
    assert "    python train.py model=googlenet seed=0" in text
    assert "exported last:\n\n    not recorded" in text


def test_every_class_is_there_the_weakest_first(tmp_path: Path) -> None:
    folder = write_run(tmp_path)
    test = read_run(folder).test
    text = card_of(folder)
    precision, recall, f1, num = precision_recall_fscore_support(test.labels, test.classes)
    names = re.findall(r"^\| (class \d) \|", text, re.MULTILINE)
    assert names == [f"class {c}" for c in recall.argsort(kind="stable")]
    for c in range(NUM_CLASSES):
        low, high = wilson(round(recall[c] * num[c]), num[c])
        assert cells(text, f"class {c}") == [
            *(str(num[c]), f"{100 * recall[c]:.2f} %", f"{100 * low:.2f} % to {100 * high:.2f} %"),
            *(f"{100 * precision[c]:.2f} %", f"{f1[c]:.4f}"),
        ]


def test_what_evaluate_measured_is_there_where_it_was(tmp_path: Path) -> None:
    folder = write_run(tmp_path)
    text = card_of(folder)
    assert "    python evaluate.py run=<folder of the run> image_types=all" in text
    assert str(tmp_path) not in text, "of this machine"
    cost = dict.fromkeys(("num_params", "macs", "checkpoint_bytes", "peak_memory_bytes"), 1234567)
    cost |= {"latency_ms_p50": 2.5, "latency_ms_p95": 3.5, "num_threads": 1}
    cost |= {"throughput_images_per_second": 400.0, "train_images_per_second": None}
    (folder / "cost.json").write_text(json.dumps(cost | {"device": "cpu", "precision": "32-true"}))
    with (folder / "image_types.csv").open("w", newline="") as file:
        columns = ("type", "severity", "num_images", "accuracy", "accuracy_low", "accuracy_high")
        csv.writer(file).writerows([columns, ("motion_blur", 2, 100, 0.5, 0.4, 0.6)])
    text = card_of(folder)
    assert "latency 2.5 ms (median) and 3.5 ms (95th percentile), 400 images/s" in text
    assert "in torch on cpu, 32-true, 1 thread: 1,234,567 multiply-accumulates" in text
    assert cells(text, "motion_blur") == ["2", "100", "50.00 %", "40.00 % to 60.00 %"]


def test_what_cannot_be_read_is_left_out_with_a_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_run(tmp_path)
    (folder / "cost.json").write_text('{"macs": -1}')
    with caplog.at_level(logging.WARNING):
        assert "Not measured for the network alone" in card_of(folder)
    assert "left out of the card" in caplog.text
    assert "cost.json" in caplog.text


HOSTILE = (
    "\n\n# <script>alert(1)</script> | [x](javascript:y) `z` ![i](http://q) \x1b[31m\u202e**b**"
)


@pytest.mark.parametrize("form", ["onnx", "torch"])
def test_nothing_that_a_run_folder_says_becomes_markup(tmp_path: Path, form: str) -> None:
    harmless = card_of(write_run(tmp_path / "harmless"), form)
    metadata: dict[str, Any] = dict.fromkeys(
        ("model", "data", "weights", "device", "git_commit", "command", "split_hash"), HOSTILE
    )
    metadata |= {"classes": [f"{HOSTILE}{n}" for n in range(NUM_CLASSES)]}
    settings = {"optim.name": HOSTILE, "model.weights": HOSTILE}
    folder = write_run(
        tmp_path / "hostile", settings=settings, **metadata, versions={HOSTILE: HOSTILE}
    )
    text = card_of(folder, form, name=sanitize(f"{HOSTILE}.onnx"))
    prose = re.sub(r"^```python$.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    outside = "\n".join(line for line in prose.splitlines() if not line.startswith("    "))
    assert "alert(1)" in outside, "it is shown"
    assert "<" not in outside
    assert not re.search(r"(?<!\\)[\[\]]", outside)
    assert not re.search(r"(?<!\\)\*\*", outside)
    assert "\x1b" not in text
    assert "\u202e" not in text
    headings = [line for line in text.splitlines() if line.startswith("#")]
    assert headings[1:] == [line for line in harmless.splitlines() if line.startswith("#")][1:]
    assert len(text.splitlines()) == len(harmless.splitlines()) + 1, "pretrained weights"


def test_a_file_is_described_by_its_size_and_hash(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc" * 1000)
    file = describe_file(tmp_path / "x")
    assert file == ("x", 3000, hashlib.sha256(b"abc" * 1000).hexdigest())
    text = card_of(write_run(tmp_path), name="net\x07 写真.onnx")
    assert 'InferenceSession("net\ufffd 写真.onnx")' in text
