"""One file of a run's network, opened by its runtime alone."""

import json
import re
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import Tensor, nn

from tests.composing import composed
from tests.tiny import TARGETS, Tiny, choose
from triptych.build import build_datamodule
from triptych.data.shapes import OUTLINES, Shapes
from triptych.errors import UserError
from triptych.models.backbone import Preprocessing
from triptych.runs.checkpoint_files import AtomicCheckpointIO
from triptych.runs.predictions import Predictions
from triptych.runs.record import Record
from triptych.tools.evaluate.rebuild import rebuild_run
from triptych.tools.export import artifact, command
from triptych.tools.export.command import choose_path, export
from triptych.tools.export.formats import FORMATS, METADATA, Format
from triptych.tools.statistics.scores import score_predictions

DATA = [
    *("data=shapes", "data.num_train=20", "data.num_val=10", "data.num_test=15"),
    *("data.source.num_train=40", "data.source.num_test=20", *choose("Tiny")),
]
TRUSTED = [*TARGETS]
SHAPES = [(1, 32, 32), (3, 32, 32), (2, 40, 40), (1, 480, 640), (3, 37, 100), (1, 5, 1)]
NAMES = {"onnx": "tiny.onnx", "torch": "tiny.pt2"}
ROOT = Path(__file__).parents[3]


def run_export(folder: Path, **settings: Any) -> None:
    settings |= {"run": str(folder), "trusted_targets": TRUSTED}
    export(composed("export", "run=none", "time_seconds=0.01", **settings), [])


def network() -> nn.Module:
    """Untrained; its head is scaled so that images differ in their probabilities."""
    torch.manual_seed(0)
    made = Tiny(len(OUTLINES))
    made[-1].weight.data *= 20
    return made


def plant(logs: Path) -> Record:
    """A finished run without training; its predictions are random."""
    config = composed("train", *DATA, log_dir=str(logs))
    record = Record.create(config, [])
    state = {"state_dict": network().state_dict()}
    AtomicCheckpointIO().save_checkpoint(state, record.checkpoint_path("best"))
    preprocessing = Preprocessing(32, (0.5,) * 3, (0.5,) * 3)
    data = build_datamodule(config, Shapes(num_train=40, num_test=20, seed=0).read(), preprocessing)
    logits = np.random.default_rng(0).normal(size=(15, len(OUTLINES))).astype(np.float32)
    predicted = Predictions(logits, data.test.data.labels[data.test.index].numpy(), np.arange(15))
    record.add_predictions("test", logits=logits, labels=predicted.labels, index=predicted.index)
    record.update(
        classes=list(data.classes),
        metrics={"test/accuracy": score_predictions(predicted).accuracy},
        split_hash=data.split_hash,
        test_hash=data.test_hash,
    )
    record.end("finished")
    return record


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with both of its exports."""
    folder = plant(tmp_path_factory.mktemp("logs")).folder
    for form in NAMES:
        run_export(folder, format=form)
    return folder


@pytest.fixture(scope="module")
def functions(folder: Path) -> dict[str, Callable[[Tensor], Tensor]]:
    """Each file opened with its runtime, and nothing but that."""
    session = onnxruntime.InferenceSession(folder / "export" / NAMES["onnx"])
    module = torch.export.load(folder / "export" / NAMES["torch"]).module()
    return {
        "onnx": lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0]),
        "torch": module,
    }


@pytest.fixture(scope="module")
def expected(folder: Path) -> Callable[[Tensor], Tensor]:
    run = rebuild_run(folder, TRUSTED)
    return lambda images: run.logits(images).softmax(dim=1)


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
    assert probabilities.shape == (num, len(OUTLINES))
    assert probabilities.dtype == torch.float32
    torch.testing.assert_close(probabilities, expected(images), rtol=0, atol=2e-5)


def test_a_file_predicts_as_the_network_for_photographs(functions: Any, expected: Any) -> None:
    photos = torch.from_numpy(np.stack(load_sample_images().images)).permute(0, 3, 1, 2)
    assert photos.shape == (2, 3, 427, 640)
    for function in functions.values():
        probabilities = function(photos.contiguous())
        assert (probabilities[0] - probabilities[1]).abs().max() > 0.01, "they differ"
        torch.testing.assert_close(probabilities, expected(photos), rtol=0, atol=2e-5)


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
def test_a_file_names_its_run_and_its_classes(folder: Path, form: str) -> None:
    record = Record.open(folder).metadata
    names = ("model", "data", "seed", "config_hash", "weights", "classes")
    assert read_metadata(folder, form) == {name: record.get(name) for name in names} | {
        "accuracy": record["metrics"]["test/accuracy"],
        "triptych": record["versions"]["triptych"],
        **{"num_test": 15, "input_size": 32, "fit": "stretch"},
    }


def test_the_axes_of_an_onnx_file_have_names(folder: Path) -> None:
    session = onnxruntime.InferenceSession(folder / "export" / NAMES["onnx"])
    [images], [probabilities] = session.get_inputs(), session.get_outputs()
    assert (images.name, images.type) == ("images", "tensor(uint8)")
    assert images.shape == ["batch", 3, "height", "width"]
    assert probabilities.name == "probabilities"
    assert probabilities.shape == ["batch", len(OUTLINES)]


def test_an_export_is_one_file_and_a_card_and_names_no_folder_of_ours(folder: Path) -> None:
    contents = {path.name: path.read_bytes() for path in (folder / "export").iterdir()}
    assert contents.keys() == {*NAMES.values(), *(f"{name}.md" for name in NAMES.values())}
    with zipfile.ZipFile(folder / "export" / NAMES["torch"]) as archive:
        contents["inside"] = b"".join(map(archive.read, archive.namelist()))
    for content in (contents[NAMES["onnx"]], contents[NAMES["torch"]], contents["inside"]):
        assert len(content) > 10_000
        assert str(ROOT).encode() not in content
        assert b"program.py" not in content


def lines_of_the_card(folder: Path, name: str) -> str:
    """The Python that a card shows."""
    text = (folder / "export" / f"{name}.md").read_text()
    block = re.search(r"## Use\n\n(.*?)\n\nThe file", text, re.DOTALL)
    assert block
    return "\n".join(line[4:] for line in block[1].splitlines())


def test_the_lines_of_the_card_work_where_triptych_is_not(
    folder: Path,
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
    programs = [lines_of_the_card(folder, name) for name in NAMES.values()]
    for name in NAMES.values():
        (tmp_path / name).symlink_to(folder / "export" / name)
    with monkeypatch.context() as patch:
        for name in [*sys.modules]:
            if name.partition(".")[0] in ("triptych", "lightning", "hydra"):
                patch.setitem(sys.modules, name, None)  # to import it is an error
        for program in programs:
            exec(program, {})
    lines = [line.rsplit(" ", 1) for line in capsys.readouterr().out.splitlines()]
    [probabilities] = expected(torch.from_numpy(upright).permute(2, 0, 1)[None])
    best = probabilities.argsort(descending=True)[:3].tolist()
    classes = Record.open(folder).metadata["classes"]
    assert [name for name, _ in lines] == 2 * [classes[c] for c in best]
    shares = [float(share) for _, share in lines]
    np.testing.assert_allclose(shares, 2 * probabilities[best].tolist(), atol=0.02)


def test_the_card_has_the_differences_and_the_times(folder: Path) -> None:
    for name, runtime in {NAMES["onnx"]: "onnxruntime", NAMES["torch"]: "torch.export"}.items():
        text = (folder / "export" / f"{name}.md").read_text()
        match = re.search(r"probabilities: (\S+) over 15 test images, (\S+) over synthetic", text)
        assert match
        assert all(float(value) < 1e-3 for value in match.groups())
        assert re.search(rf"takes {runtime} [\d.]+ ms, the network in torch [\d.]+ ms", text)


def test_existing_files_stay_unless_overwrite_is_true(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[Path] = []
    monkeypatch.setattr(artifact, "write_artifact", lambda _, path, *others: written.append(path))
    path = folder / "export" / NAMES["onnx"]
    with pytest.raises(UserError, match=rf"{path}: exists; overwrite=true"):
        run_export(folder)
    run_export(folder, overwrite=True)
    assert written == [path]
    (folder / "alone.onnx.md").touch()
    with pytest.raises(UserError, match=r"alone\.onnx\.md: exists"):
        run_export(folder, out=f"{folder}/alone.onnx")


def test_a_file_with_other_probabilities_is_not_left_behind(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = rebuild_run(folder, TRUSTED)

    def wrong(images: Tensor) -> Tensor:
        probabilities = run.logits(images).softmax(dim=1)
        probabilities[-1, 3] += 0.002
        return probabilities

    broken = Format("broken", lambda program, path, _: path.write_text("x"), lambda *_: wrong)
    monkeypatch.setitem(FORMATS, "torch", broken)
    monkeypatch.setattr(artifact, "trace_program", lambda run: None)
    with pytest.raises(UserError, match=r"differs by 0\.002 from the network over 15 test"):
        run_export(folder, format="torch", out=f"{tmp_path}/new/it.pt2")
    assert [*(tmp_path / "new").iterdir()] == []


def test_a_missing_package_is_named_with_the_command_that_installs_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "find_spec", lambda name: None if name == "onnxscript" else True)
    with pytest.raises(UserError, match=r"onnxscript not installed; pip install 'onnx>="):
        run_export(folder, overwrite=True)
    with pytest.raises(UserError, match="exists"):  # format=torch needs no package
        run_export(folder, format="torch")


def test_one_run_and_a_fitting_suffix_are_required(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"^run={tmp_path}: no run"):
        run_export(tmp_path)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text("{}")
    with pytest.raises(UserError, match=rf"^run={tmp_path}: 2 runs .*{tmp_path}/a"):
        run_export(tmp_path)
    with pytest.raises(UserError, match=r"^out=.*\.pt2"):
        run_export(folder, format="torch", out=f"{tmp_path}/x.onnx")


@pytest.mark.parametrize(
    ("out", "reason"),
    [
        ("file/x.onnx", "cannot be written"),
        ("folder.onnx", "is a folder"),
        ("card.onnx", "is a folder"),
        (f"{'x' * 248}.onnx", "File name too long"),
    ],
)
def test_a_path_that_cannot_be_written_is_an_error_before_any_work(
    out: str, reason: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artifact, "write_artifact", lambda *_: pytest.fail("at work"))
    (tmp_path / "file").touch()
    for name in ("folder.onnx", "card.onnx.md"):
        (tmp_path / name).mkdir()
    with pytest.raises(UserError, match=reason):
        run_export(folder, out=f"{tmp_path}/{out}", overwrite=True)


@pytest.mark.parametrize("model", ["../../etc/passwd", "..", "a\nb", "ü" * 300, "-rf"])
def test_no_name_of_a_model_leads_out_of_the_run_folder(model: str, tmp_path: Path) -> None:
    path = choose_path(Record(tmp_path, {"model": model}), "onnx", None)
    assert path.parent == tmp_path / "export"
    assert re.fullmatch(r"[A-Za-z0-9_][\w.-]{0,99}\.onnx", path.name, re.ASCII)
