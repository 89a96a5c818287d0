"""The export folder as a model hub reads it, and the examples of its README."""

import json
import logging
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import safetensors.torch
import torch
import torchvision
from huggingface_hub import ModelCard
from PIL import Image

from tests.run_folders import write_run
from triptych.errors import UserError
from triptych.models.backbone import Backbone, Preprocessing
from triptych.runs.record import Record
from triptych.tools.compare.runs import TrainedNetwork, read_run
from triptych.tools.export import examples
from triptych.tools.export.checks import Deployment, Network, make_photographs
from triptych.tools.export.command import check_documents
from triptych.tools.export.examples import check_printed, run_examples, write_example
from triptych.tools.export.hub import (
    Shipped,
    ShippedFile,
    list_scores_of_network,
    list_shipped,
    write_head,
)
from triptych.tools.export.program import Portable
from triptych.tools.predict.images import View

HOSTILE = "a: [b\n---\nlicense: stolen # <script> ${oc.env:HOME} 'x' \"y\""
FILE = ShippedFile("net.onnx", 3, "0" * 64)
CONFIG: dict[str, Any] = {"data": "cifar10", "model": "googlenet", "architecture": None}


def head_of(network: TrainedNetwork, license_name: str | None = None, **config: Any) -> ModelCard:
    shipped = [Shipped(name, [FILE], [], None) for name in ("onnx", "onnx_int8", "safetensors")]
    scores = list_scores_of_network(network)
    head = write_head(CONFIG | config, shipped, scores, license_name)
    return ModelCard(head + "# A network\n", ignore_metadata_errors=False)


def test_the_hub_s_library_reads_the_scores_of_the_record(tmp_path: Path) -> None:
    network = read_run(write_run(tmp_path))
    data = head_of(network, "apache-2.0").data.to_dict()
    results = head_of(network).data.eval_results
    assert {each.metric_type: each.metric_value for each in results} == {
        "accuracy": network.scores.accuracy,
        "f1": network.scores.macro.f1,
        "precision": network.scores.macro.precision,
        "recall": network.scores.macro.recall,
    }
    for each in results:
        assert (each.task_type, each.verified) == ("image-classification", False)
        assert (each.dataset_type, each.dataset_split) == ("uoft-cs/cifar10", "test")
    assert data["license"] == "apache-2.0"
    assert data["pipeline_tag"] == "image-classification"
    assert {"onnx", "int8", "safetensors", "googlenet"} < {*data["tags"]}
    assert len(data["tags"]) == len({*data["tags"]})


def test_a_licence_that_was_not_given_is_unknown_and_own_data_are_no_data_set_of_the_hub(
    tmp_path: Path,
) -> None:
    data = head_of(read_run(write_run(tmp_path)), data="my photos").data
    assert data.license == "unknown"
    assert "datasets" not in data.to_dict()
    assert data.eval_results[0].dataset_name == "my photos"
    assert data.eval_results[0].dataset_type == "my-photos"


def test_names_in_a_head_stay_data(tmp_path: Path) -> None:
    network = read_run(write_run(tmp_path))
    card = head_of(network, data=HOSTILE, model=HOSTILE)
    assert card.data.license == "unknown"
    assert card.data.model_name == HOSTILE
    assert card.data.eval_results[0].dataset_name == HOSTILE
    assert card.text == "# A network\n"


def plant_folder(tmp_path: Path, **config: Any) -> tuple[Network, Path]:
    """A run whose folder `out` has an ONNX file, which was not measured."""
    trained = read_run(write_run(tmp_path))
    record = Record(trained.folder, trained.metadata)
    network = cast(Network, SimpleNamespace(run=SimpleNamespace(record=record), trained=trained))
    out = tmp_path / "out"
    out.mkdir()
    (out / "net.onnx").write_bytes(b"abc")
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2
    exports = {"onnx": {"files": {"net.onnx": digest}, "checks": ["checked"]}}
    content = {"triptych": "1", "config_hash": record.metadata["config_hash"], "exports": exports}
    (out / "config.json").write_text(json.dumps(content | config))
    return network, out


def deploy(tmp_path: Path, name: str) -> Deployment:
    path = tmp_path / f"net.{name}"
    path.write_bytes(b"new")
    return Deployment(name, [path], ["checked"], {}, None)


def test_a_folder_lists_the_files_of_earlier_exports_too(tmp_path: Path) -> None:
    network, out = plant_folder(tmp_path)
    shipped = list_shipped(network, [deploy(tmp_path, "torch")], out)
    assert [(each.name, each.files[0].name) for each in shipped] == [
        ("onnx", "net.onnx"),
        ("torch", "net.torch"),
    ]
    [replaced] = list_shipped(network, [deploy(tmp_path, "onnx")], out)
    assert replaced.files[0].name == "net.onnx"
    assert replaced.files[0].sha256.startswith("11507a0e2f5e"), "of the new one"


def test_a_file_that_changed_since_its_export_is_left_out_with_a_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    network, out = plant_folder(tmp_path)
    (out / "net.onnx").write_bytes(b"abd")
    with caplog.at_level(logging.WARNING):
        assert [each.name for each in list_shipped(network, [], out)] == []
    assert "ONNX" in caplog.text


def test_files_of_another_run_s_export_are_not_listed(tmp_path: Path) -> None:
    network, out = plant_folder(tmp_path, config_hash="another")
    assert list_shipped(network, [], out) == []


def test_a_readme_that_no_export_of_the_run_wrote_is_not_replaced(tmp_path: Path) -> None:
    network, out = plant_folder(tmp_path)
    (out / "README.md").write_text("ours")
    record = network.run.record
    check_documents(out, record)
    for content in ("{}", "[1]", "no JSON", '{"triptych": "1", "config_hash": "another"}'):
        (out / "config.json").write_text(content)
        with pytest.raises(UserError, match=r"README\.md: exists"):
            check_documents(out, record)
    (out / "README.md").unlink()
    with pytest.raises(UserError, match=r"config\.json: exists"):
        check_documents(out, record)


@pytest.mark.filterwarnings("ignore:.*config.json:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    ("stored", "interpolation", "task"),
    [
        *((None, "bilinear", None), (None, "bicubic", "multilabel")),
        *(((48, fit), "bilinear", None) for fit in ("crop", "pad", "stretch")),
    ],
)
def test_weights_alone_answer_as_the_network_by_plain_torchvision(
    stored: tuple[int, str] | None,
    interpolation: str,
    task: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    torch.manual_seed(0)
    network = torchvision.models.get_model("squeezenet1_1", num_classes=5).eval()
    safetensors.torch.save_file(network.state_dict(), tmp_path / "net.safetensors")
    preprocessing = Preprocessing(64, (0.4, 0.5, 0.6), (0.2, 0.3, 0.25), interpolation)
    config = {
        **{"architecture": "squeezenet1_1", "library": "torchvision"},
        **{"arguments": {"num_classes": 5}, "classes": [*"abcde"]},
        **{"stored_size": stored and stored[0], "fit": stored[1] if stored else "stretch"},
        **preprocessing._asdict(),
    }
    config |= {"task": task} if task else {}
    (tmp_path / "config.json").write_text(json.dumps(config))
    photo = make_photographs()[0]
    Image.fromarray(photo[0].permute(1, 2, 0).numpy()).save(tmp_path / "photo.jpg", "png")
    monkeypatch.chdir(tmp_path)
    exec(write_example("safetensors", "net.safetensors", config), {})
    backbone = cast(Backbone, SimpleNamespace(network=network, preprocessing=preprocessing))
    activation = torch.sigmoid if task else partial(torch.softmax, dim=1)
    with torch.inference_mode():
        [own] = Portable(backbone, stored, activation)(photo)
    check_printed(capsys.readouterr().out, own, config["classes"], 0.002)


OWN = torch.tensor([0.1, 0.6, 0.25, 0.05])


def test_what_an_example_prints_is_the_network_s_answer() -> None:
    check_printed("a cat 0.6004\nb 0.2496\nc 0.1\n", OWN, ["c", "a cat", "b", "d"], 0.001)
    for text in ("b 0.2500\na 0.6000\nc 0.1000\n", "a 0.5\nb 0.25\nc 0.1\n", "a 0.6\nb 0.25\n"):
        with pytest.raises(AssertionError):
            check_printed(text, OWN, [*"cabd"], 0.001)


def test_an_example_that_fails_or_needs_triptych_ends_the_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = cast(Network, SimpleNamespace(run=None))
    monkeypatch.setattr(View, "from_run", lambda run: None)
    monkeypatch.setattr(examples, "predict_as_network", lambda *_: OWN[None])
    runs = partial(run_examples, network, [deploy(tmp_path, "onnx")], {"classes": [*"cabd"]})
    with monkeypatch.context() as patch:
        patch.setattr(examples, "write_example", lambda *_: "import triptych")
        with pytest.raises(AssertionError, match=r"onnx: .*triptych"):
            runs(tmp_path)
    lines = "open('photo.jpg').close()\nprint('a 0.6\\nb 0.25\\nc 0.1')"
    monkeypatch.setattr(examples, "write_example", lambda *_: lines)
    runs(tmp_path)
    assert not (tmp_path / "photo.jpg").exists()
