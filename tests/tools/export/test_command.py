"""One file of a run's network, opened by its runtime alone."""

import json
import re
import sys
import textwrap
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import Tensor

from tests.composing import composed
from tests.tiny import TARGETS
from tests.untrained import plant
from triptych.data.shapes import OUTLINES
from triptych.errors import UserError
from triptych.runs.record import Record
from triptych.tools.evaluate.rebuild import rebuild_run
from triptych.tools.export import artifact, command
from triptych.tools.export.artifact import compare_outputs, predict_as_network, read_batches
from triptych.tools.export.command import choose_path, export
from triptych.tools.export.formats import FORMATS, METADATA, Format
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
def test_an_export_is_one_file_and_a_card_and_names_no_folder_of_ours(
    form: str, folders: dict[str, Path]
) -> None:
    path = folders[form] / "export" / NAMES[form]
    assert {each.name for each in path.parent.iterdir()} == {path.name, f"{path.name}.md"}
    contents = [path.read_bytes()]
    if form == "torch":
        with zipfile.ZipFile(path) as archive:
            contents.append(b"".join(map(archive.read, archive.namelist())))
    for content in contents:
        assert len(content) > 10_000
        assert str(ROOT).encode() not in content
        assert b"program.py" not in content


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
    (tmp_path / path.name).symlink_to(path)
    text = path.with_name(f"{path.name}.md").read_text()
    block = re.search(r"## Use\n\n(.*?)\n\nThe file", text, re.DOTALL)
    assert block
    with monkeypatch.context() as patch:
        for name in [*sys.modules]:
            if name.partition(".")[0] in ("triptych", "lightning", "hydra"):
                patch.setitem(sys.modules, name, None)  # to import it is an error
        exec(textwrap.dedent(block[1]), {})
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
    text = (folders[form] / "export" / f"{NAMES[form]}.md").read_text()
    differences = re.findall(r"([\d.e-]+) over (15 test images|synthetic)", text)
    assert [kind for _, kind in differences] == kinds
    assert all(float(value) < 1e-3 for value, _ in differences)
    runtime = FORMATS[form].runtime
    assert re.search(rf"takes {runtime} [\d.]+ ms, the network in torch [\d.]+ ms", text)


def off_by(*errors: float) -> Any:
    """A network whose probabilities, batch by batch, are off by these."""
    remaining = iter(errors)

    def predict(images: Tensor) -> Tensor:
        probabilities = torch.full((len(images), 4), 0.25)
        probabilities[-1, 2] += next(remaining)
        return probabilities

    return predict


def test_the_largest_difference_over_all_batches_counts() -> None:
    batches = {"images": [torch.zeros(2, 3, 4, 5, dtype=torch.uint8)] * 2}
    differences = compare_outputs(off_by(0, 0), off_by(1e-5, -4e-5), batches)
    assert differences == {"images": pytest.approx(4e-5, rel=1e-2)}
    for error in (0.0011, -0.0011, float("nan"), float("inf")):
        for errors in ((error, 0), (0, error)):
            with pytest.raises(UserError, match=r"over images; 0\.001 is allowed"):
                compare_outputs(off_by(0, 0), off_by(*errors), batches)


def test_missing_data_are_an_error_where_their_folder_was_given(folders: dict[str, Path]) -> None:
    with pytest.raises(UserError, match="data_root="):
        read_batches(rebuild_run(folders["onnx"], TRUSTED), "elsewhere")


def test_existing_files_stay_unless_overwrite_is_true(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[Path] = []
    monkeypatch.setattr(artifact, "write_artifact", lambda _, path, *others: written.append(path))
    folder = folders["onnx"]
    path = folder / "export" / NAMES["onnx"]
    with pytest.raises(UserError, match=rf"{path}: exists; overwrite=true"):
        run_export(folder)
    run_export(folder, overwrite=True)
    assert written == [path]
    (folder / "alone.onnx.md").touch()
    with pytest.raises(UserError, match=r"alone\.onnx\.md: exists"):
        run_export(folder, out=f"{folder}/alone.onnx")


def test_a_file_with_other_probabilities_is_not_left_behind(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = rebuild_run(folders["torch"], TRUSTED)

    def wrong(images: Tensor) -> Tensor:
        probabilities = run.logits(images).softmax(dim=1)
        probabilities[-1, 3] += 0.002
        return probabilities

    broken = Format("broken", lambda program, path, _: path.write_text("x"), lambda _: wrong)
    monkeypatch.setitem(FORMATS, "torch", broken)
    monkeypatch.setattr(artifact, "trace_program", lambda run: None)
    with pytest.raises(UserError, match=r"differs by 0\.002 from the network over 15 test"):
        run_export(folders["torch"], format="torch", out=f"{tmp_path}/new/it.pt2")
    assert [*(tmp_path / "new").iterdir()] == []


def test_a_missing_package_is_named_with_the_command_that_installs_it(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "find_spec", lambda name: None if name == "onnxscript" else True)
    with pytest.raises(UserError, match=r"onnxscript not installed; pip install 'onnx>="):
        run_export(folders["onnx"], overwrite=True)
    with pytest.raises(UserError, match="exists"):  # format=torch needs no package
        run_export(folders["torch"], format="torch")


def test_one_run_and_a_fitting_suffix_are_required(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text("{}")
    with pytest.raises(UserError, match=rf"^run={tmp_path}: 2 runs .*{tmp_path}/a"):
        run_export(tmp_path)
    with pytest.raises(UserError, match=r"^out=.*\.pt2"):
        run_export(folders["torch"], format="torch", out=f"{tmp_path}/x.onnx")


@pytest.mark.parametrize("model", ["../../etc/passwd", "..", "a\nb", "ü" * 300, "-rf"])
def test_no_name_of_a_model_leads_out_of_the_run_folder(model: str, tmp_path: Path) -> None:
    path = choose_path(Record(tmp_path, {"model": model}), "onnx", None)
    assert path.parent == tmp_path / "export"
    assert re.fullmatch(r"[A-Za-z0-9_][\w.-]{0,99}\.onnx", path.name, re.ASCII)
