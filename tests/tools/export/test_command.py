"""One file of a run's network, opened by its runtime alone."""

import hashlib
import json
import re
import signal
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import Tensor

from tests.composing import composed
from tests.tiny import TARGETS
from tests.untrained import plant
from triptych.data.shapes import OUTLINES
from triptych.errors import UserError
from triptych.runs.predictions import read_predictions
from triptych.runs.record import Record
from triptych.tools.evaluate.rebuild import rebuild_run
from triptych.tools.export import artifact, formats
from triptych.tools.export.checks import find_largest_gap, predict_as_network
from triptych.tools.export.command import export, list_files
from triptych.tools.export.formats import FORMATS
from triptych.tools.export.program import trace_program
from triptych.tools.export.writers import METADATA, WRITERS, Export, Written
from triptych.tools.predict.images import View

FOLDER = {"_target_": "triptych.data.folder.Folder", "root": "none", "size": 24, "fit": "crop"}
TRUSTED = [*TARGETS]
SHAPES = [(1, 32, 32), (2, 40, 40), (1, 480, 640), (3, 37, 100), (1, 5, 1)]
NAMES = {"onnx": "tiny.onnx", "torch": "tiny.pt2"}
# Pillow's sums are fixed-point: a pixel of a square may be one off.
TOLERANCES = {"onnx": 1e-3, "torch": 2e-5}
ROOT = Path(__file__).parents[3]

Predict = Callable[[Tensor], Tensor]


def run_export(folder: Path, **settings: Any) -> None:
    settings |= {"run": str(folder), "trusted_targets": TRUSTED}
    export(composed("export", "run=none", "time_seconds=0.01", **settings), [])


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Exported runs: onnx of one on photos, which lie elsewhere, torch of one on shapes."""
    records = {form: plant(tmp_path_factory.mktemp("logs")) for form in NAMES}
    config = records["onnx"].config
    config["data"]["source"] = FOLDER
    records["onnx"].write_config(config)
    for form, record in records.items():
        run_export(record.folder, format=form)
    return {form: record.folder for form, record in records.items()}


@pytest.fixture(scope="module")
def functions(folders: dict[str, Path]) -> dict[str, Predict]:
    """Each file opened with its runtime, and nothing but that."""
    session = onnxruntime.InferenceSession(folders["onnx"] / "export" / NAMES["onnx"])
    module = torch.export.load(folders["torch"] / "export" / NAMES["torch"]).module()
    return {
        "onnx": lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0]),
        "torch": module,
    }


@pytest.fixture(scope="module")
def expected(folders: dict[str, Path]) -> dict[str, Predict]:
    runs = {form: rebuild_run(folder, TRUSTED) for form, folder in folders.items()}
    return {n: partial(predict_as_network, run, View.from_run(run)) for n, run in runs.items()}


@pytest.mark.parametrize("form", NAMES)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_file_predicts_as_the_network_for_any_number_and_size(
    form: str, shape: tuple[int, int, int], functions: Any, expected: Any
) -> None:
    num, height, width = shape
    generator = torch.Generator().manual_seed(height)
    size = (num, 3, height, width)
    images = torch.randint(0, 256, size, dtype=torch.uint8, generator=generator)
    images[0] //= 4  # a dark one
    probabilities = functions[form](images)
    assert (probabilities.shape, probabilities.dtype) == ((num, len(OUTLINES)), torch.float32)
    tolerance = TOLERANCES[form]
    torch.testing.assert_close(probabilities, expected[form](images), rtol=0, atol=tolerance)


def read_metadata(folder: Path, form: str) -> Any:
    path = folder / "export" / NAMES[form]
    if form == "torch":
        extra = {METADATA: ""}
        torch.export.load(path, extra_files=extra)
        return json.loads(extra[METADATA])
    texts = {each.key: each.value for each in onnx.load(path).metadata_props}
    plain_texts = ("model", "data", "config_hash", "triptych", "fit")
    return {k: v if k in plain_texts else json.loads(v) for k, v in texts.items()}


@pytest.mark.parametrize("form", NAMES)
def test_a_file_names_its_run_and_its_classes(form: str, folders: dict[str, Path]) -> None:
    record = Record.open(folders[form]).metadata
    names = ("model", "data", "seed", "config_hash", "weights", "classes")
    assert read_metadata(folders[form], form) == {name: record.get(name) for name in names} | {
        "accuracy": record["metrics"]["test/accuracy"],
        "triptych": record["versions"]["triptych"],
        "fit": "crop" if form == "onnx" else "stretch",
        **{"num_test": 15, "input_size": 32},
    }


def test_the_axes_of_an_onnx_file_have_names(folders: dict[str, Path]) -> None:
    session = onnxruntime.InferenceSession(folders["onnx"] / "export" / NAMES["onnx"])
    [images], [probabilities] = session.get_inputs(), session.get_outputs()
    assert (images.name, images.type) == ("images", "tensor(uint8)")
    assert images.shape == ["batch", 3, "height", "width"]
    assert (probabilities.name, probabilities.shape) == ("probabilities", ["batch", len(OUTLINES)])


@pytest.mark.parametrize("form", NAMES)
def test_an_export_is_a_file_a_config_and_a_readme_and_names_no_folder_of_ours(
    form: str, folders: dict[str, Path]
) -> None:
    path = folders[form] / "export" / NAMES[form]
    names = {path.name, "README.md", "config.json"}
    assert {each.name for each in path.parent.iterdir()} == names
    contents = [path.read_bytes()]
    if form == "torch":
        with zipfile.ZipFile(path) as archive:
            contents.append(b"".join(map(archive.read, archive.namelist())))
    for content in contents:
        assert len(content) > 10_000
        assert str(ROOT).encode() not in content
        assert b"program.py" not in content


@pytest.mark.filterwarnings("ignore:.*config.json:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("form", NAMES)
def test_the_lines_of_the_card_work_where_triptych_is_not(
    form: str,
    folders: dict[str, Path],
    expected: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With a photograph that its camera held upright."""
    upright = load_sample_images().images[1].copy()
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: to be turned by 90 degrees
    lying = Image.fromarray(upright).transpose(Image.Transpose.ROTATE_90)
    lying.save(tmp_path / "photo.jpg", exif=exif, quality=100, subsampling=0)
    monkeypatch.chdir(tmp_path)
    path = folders[form] / "export" / NAMES[form]
    for name in (path.name, "config.json"):
        (tmp_path / name).symlink_to(path.with_name(name))
    text = path.with_name("README.md").read_text()
    [example] = re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert len([line for line in example.splitlines() if line]) == 10
    with monkeypatch.context() as patch:
        for name in [*sys.modules]:
            if name.partition(".")[0] in ("triptych", "lightning", "hydra"):
                patch.setitem(sys.modules, name, None)  # to import it is an error
        exec(example, {})
    lines = [line.rsplit(" ", 1) for line in capsys.readouterr().out.splitlines()]
    [probabilities] = expected[form](torch.from_numpy(upright).permute(2, 0, 1)[None])
    best = probabilities.argsort(descending=True)[:3].tolist()
    assert [name for name, _ in lines] == [
        Record.open(folders[form]).metadata["classes"][c] for c in best
    ]
    shares = [float(share) for _, share in lines]
    np.testing.assert_allclose(shares, probabilities[best].tolist(), atol=0.02)


@pytest.mark.parametrize(
    ("form", "kinds"), [("onnx", ["synthetic"]), ("torch", ["15 test images", "synthetic"])]
)
def test_the_card_has_the_differences_and_the_times(
    form: str, kinds: list[str], folders: dict[str, Path]
) -> None:
    text = (folders[form] / "export" / "README.md").read_text()
    differences = re.findall(r"([\d.e-]+) over (15 test images|synthetic)", text)
    assert [kind for _, kind in differences] == kinds
    assert all(float(value) < 1e-3 for value, _ in differences)


def test_the_readme_of_a_measured_file_has_its_row_of_figures(folders: dict[str, Path]) -> None:
    record = read_record(folders["torch"], "torch")
    text = (folders["torch"] / "export" / "README.md").read_text()
    [row] = re.findall(r"^\| torch\.export \|.*\|$", text, re.MULTILINE)
    cells = [cell.strip() for cell in row.split("|")[2:-1]]
    assert cells[1] == f"{100 * record['agreement']:.2f} %"
    costs = (record["latency_ms_p50"], record["network"]["latency_ms_p50"])
    assert cells[2] == "{:.1f} ({:.1f})".format(*costs)
    assert ModelCard(text).data.eval_results[0].metric_value == pytest.approx(
        Record.open(folders["torch"]).metadata["metrics"]["test/accuracy"]
    )
    other = (folders["onnx"] / "export" / "README.md").read_text()
    assert "agreement" not in other, "nothing was measured without its images"


def test_the_largest_difference_over_all_batches_counts_and_nan_is_one() -> None:
    own = [torch.full((2, 4), 0.25)] * 2
    other = [own[0] + 1e-5, own[1] - 4e-5]
    assert find_largest_gap(own, other) == pytest.approx(4e-5, rel=1e-2)
    other[0][1, 2] = float("nan")
    assert not find_largest_gap(own, other) <= 1


def test_missing_data_are_an_error_where_their_folder_was_given(folders: dict[str, Path]) -> None:
    with pytest.raises(UserError, match="data_root="):
        run_export(folders["onnx"], overwrite=True, data_root="elsewhere")


def test_existing_files_stay_unless_overwrite_is_true(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[dict[str, list[Path]]] = []
    monkeypatch.setattr(
        artifact, "write_export", lambda _, out, files, config: written.append(files)
    )
    folder = folders["onnx"]
    path = folder / "export" / NAMES["onnx"]
    with pytest.raises(UserError, match=rf"{path}: exists; overwrite=true"):
        run_export(folder)
    run_export(folder, overwrite=True)
    assert written == [{"onnx": [path]}]


def read_record(folder: Path, name: str) -> Any:
    return json.loads((folder / "deployments" / f"{name}.json").read_text())


def test_a_file_answers_every_test_image_and_is_recorded_with_its_digest(
    folders: dict[str, Path],
) -> None:
    folder = folders["torch"]
    record = read_record(folder, "torch")
    answers = read_predictions(folder / "deployments" / "torch.npz")
    own = read_predictions(folder / "predictions" / "test.npz")
    np.testing.assert_array_equal(answers.index, own.index)
    np.testing.assert_array_equal(answers.labels, own.labels)
    np.testing.assert_allclose(answers.probabilities, own.probabilities, atol=1e-4)
    assert record["num_images"] == 15
    assert record["agreement"] == (answers.classes == own.classes).mean()
    path = folder / record["file"]
    assert path == folder / "export" / NAMES["torch"]
    for name, digest in record["digests"].items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    arrays = (folder / "deployments" / "torch.npz").read_bytes()
    assert hashlib.sha256(arrays).hexdigest() == record["predictions_sha256"]


def test_costs_of_file_and_network_are_positive_and_of_processes_of_their_own(
    folders: dict[str, Path],
) -> None:
    record = read_record(folders["torch"], "torch")
    for costs in (record, record["network"]):
        assert 0 < costs["latency_ms_p50"] <= costs["latency_ms_p95"]
        assert costs["throughput_images_per_second"] > 0
        assert costs["load_seconds"] > 0
    # The network's process has Lightning, and more of ours, besides.
    assert record["peak_memory_bytes"] < record["network"]["peak_memory_bytes"]


def test_without_its_images_a_run_is_exported_but_not_measured(folders: dict[str, Path]) -> None:
    assert not (folders["onnx"] / "deployments").exists()


def plant_wrong(monkeypatch: pytest.MonkeyPatch, amount: float) -> None:
    """A writer of files whose first class gets more logits than the network gives it."""

    def write(export: Export, path: Path) -> Written:
        module = rebuild_run(export.run.record.folder, TRUSTED)
        for parameter in module.backbone.head.parameters():
            parameter.data[0] += amount
        program = trace_program(module)
        return WRITERS["torch"](replace(export, program=program), path)

    monkeypatch.setattr(artifact, "WRITERS", {"torch": write})


def test_a_file_with_other_probabilities_is_not_left_behind(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant_wrong(monkeypatch, 0.02)
    before = read_record(folders["torch"], "torch")
    with pytest.raises(UserError, match=r"differs by 0\.\d+ from the network over 15 test"):
        run_export(folders["torch"], format="torch", out=f"{tmp_path}/new")
    assert [*tmp_path.iterdir()] == []
    assert read_record(folders["torch"], "torch") == before


def test_a_signal_leaves_nothing_behind(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(_: Export, path: Path) -> Written:
        path.write_bytes(b"a part")
        signal.raise_signal(signal.SIGTERM)
        return Written()

    monkeypatch.setattr(artifact, "WRITERS", {"torch": write})
    with pytest.raises(SystemExit) as raised:
        run_export(folders["torch"], format="torch", out=f"{tmp_path}/new")
    assert raised.value.code == 143
    assert [*tmp_path.iterdir()] == []


def test_a_file_that_agrees_too_rarely_is_not_left_behind(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant_wrong(monkeypatch, 50.0)
    monkeypatch.setitem(FORMATS, "torch", FORMATS["torch"]._replace(precision="int8"))
    with pytest.raises(UserError, match=r"of 15 test images, min_agreement=0\.99"):
        run_export(folders["torch"], format="torch", out=f"{tmp_path}/new")
    assert [*tmp_path.iterdir()] == []


def test_a_file_is_named_from_its_run_or_else_wholly(tmp_path: Path) -> None:
    assert (
        artifact.name_file(tmp_path / "run" / "export" / "it.onnx", tmp_path / "run")
        == "export/it.onnx"
    )
    assert artifact.name_file(tmp_path / "it.onnx", tmp_path / "run") == str(tmp_path / "it.onnx")


def test_a_missing_package_is_named_with_the_command_that_installs_it(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "find_spec", lambda name: None if name == "onnxscript" else True)
    with pytest.raises(UserError, match=r"onnxscript not installed; pip install 'onnx>="):
        run_export(folders["onnx"], overwrite=True)
    with pytest.raises(UserError, match="exists"):  # format=torch needs no package
        run_export(folders["torch"], format="torch")


def test_one_run_and_a_folder_are_required(folders: dict[str, Path], tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text("{}")
    with pytest.raises(UserError, match=rf"^run={tmp_path}: 2 runs .*{tmp_path}/a"):
        run_export(tmp_path)
    with pytest.raises(UserError, match="is a file; give a folder"):
        run_export(folders["torch"], format="torch", out=str(tmp_path / "a" / "run.json"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about a machine without a GPU")
def test_a_gpu_that_is_not_there_is_named_before_anything_is_written(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="device=cuda: there is no NVIDIA GPU"):
        run_export(folders["torch"], format="compiled", device="cuda", out=str(tmp_path / "new"))
    assert [*tmp_path.iterdir()] == []


def test_a_gpu_times_only_what_runs_there(folders: dict[str, Path]) -> None:
    with pytest.raises(UserError, match=r"format=torch: .* device=cpu"):
        run_export(folders["torch"], format=["onnx", "torch"], device="cuda", overwrite=True)


@pytest.mark.parametrize("model", ["../../etc/passwd", "..", "a\nb", "ü" * 300, "-rf"])
def test_no_name_of_a_model_leads_out_of_the_run_folder(model: str, tmp_path: Path) -> None:
    [path] = list_files(Record(tmp_path, {"model": model}), tmp_path / "export", "onnx")
    assert path.parent == tmp_path / "export"
    assert re.fullmatch(r"[A-Za-z0-9_][\w.-]{0,99}\.onnx", path.name, re.ASCII)
