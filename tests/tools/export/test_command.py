"""One file of a run's network, opened by those who know nothing of us."""

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
import torchvision
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import Tensor

from tests.composing import composed
from triptych.build import build_datamodule
from triptych.callbacks.checkpoint import AtomicCheckpointIO
from triptych.data.shapes import OUTLINES, Shapes
from triptych.errors import UserError
from triptych.models.backbone import Preprocessing
from triptych.runs.predictions import Predictions
from triptych.runs.record import Record
from triptych.tools.evaluate.rebuild import rebuild_run
from triptych.tools.export import command as door
from triptych.tools.export import delivery
from triptych.tools.export.agreement import PHOTOGRAPHS, photographs
from triptych.tools.export.command import destination, export
from triptych.tools.export.formats import FORMATS, METADATA, Format
from triptych.tools.export.portable import program
from triptych.tools.predict.images import View
from triptych.tools.statistics.scores import score_predictions

TINY = [
    *("model=torchvision", "model.name=squeezenet1_1", "model.weights=null", "model.input_size=40"),
    *("data=shapes", "data.num_train=20", "data.num_val=10", "data.num_test=15"),
    *("data.source.num_train=40", "data.source.num_test=20"),
]
SHAPES = [(1, 32, 32), (3, 32, 32), (2, 40, 40), (1, 480, 640), (3, 37, 100), (1, 5, 1)]
NAMES = {"onnx": "squeezenet1_1.onnx", "torch": "squeezenet1_1.pt2"}
ROOT = Path(__file__).parents[3]


def exported(folder: Path, **settings: Any) -> None:
    export(composed("export", "run=none", "time_seconds=0.01", run=str(folder), **settings), [])


def network(num_classes: int = len(OUTLINES)) -> torch.nn.Module:
    """Drawn, not trained; its head is scaled so that images differ in their probabilities."""
    torch.manual_seed(0)
    made: torch.nn.Module = torchvision.models.squeezenet1_1(num_classes=num_classes)
    with torch.no_grad():
        made.classifier[1].weight *= 40  # type: ignore[operator, union-attr, index]
    return made


def plant(logs: Path, num_classes: int = len(OUTLINES)) -> Record:
    """A finished run without its training; its predictions are drawn."""
    config = composed("train", *TINY, log_dir=str(logs))
    record = Record.create(config, [])
    state = {"state_dict": network(num_classes).state_dict()}
    AtomicCheckpointIO().save_checkpoint(state, record.checkpoint_path("best"))
    anything = Preprocessing(32, (0.5,) * 3, (0.5,) * 3)
    data = build_datamodule(config, Shapes(num_train=40, num_test=20, seed=0).read(), anything)
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
        exported(folder, format=form)
    return folder


@pytest.fixture(scope="module")
def answers(folder: Path) -> dict[str, Callable[[Tensor], Tensor]]:
    """Each file opened with its runtime, and nothing but that."""
    session = onnxruntime.InferenceSession(folder / "export" / NAMES["onnx"])
    module = torch.export.load(folder / "export" / NAMES["torch"]).module()
    return {
        "onnx": lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0]),
        "torch": module,
    }


@pytest.fixture(scope="module")
def expected(folder: Path) -> Callable[[Tensor], Tensor]:
    run = rebuild_run(folder)
    return lambda images: run.logits(images).softmax(dim=1)


@pytest.mark.parametrize("form", NAMES)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_file_answers_as_the_network_for_any_number_and_size(
    form: str, shape: tuple[int, int, int], answers: Any, expected: Any
) -> None:
    num, height, width = shape
    generator = torch.Generator().manual_seed(height)
    size = (num, 3, height, width)
    images = torch.randint(0, 256, size, dtype=torch.uint8, generator=generator)
    images[0] //= 4  # a dark one
    probabilities = answers[form](images)
    assert probabilities.shape == (num, len(OUTLINES))
    assert probabilities.dtype == torch.float32
    torch.testing.assert_close(probabilities, expected(images), rtol=0, atol=2e-5)


@pytest.mark.parametrize("form", NAMES)
def test_a_file_answers_as_the_network_for_photographs(
    form: str, answers: Any, expected: Any
) -> None:
    photos = torch.from_numpy(np.stack(load_sample_images().images)).permute(0, 3, 1, 2)
    assert photos.shape == (2, 3, 427, 640)
    probabilities = answers[form](photos.contiguous())
    assert (probabilities[0] - probabilities[1]).abs().max() > 0.01, "it tells them apart"
    torch.testing.assert_close(probabilities, expected(photos), rtol=0, atol=2e-5)


def metadata(folder: Path, form: str) -> Any:
    path = folder / "export" / NAMES[form]
    if form == "torch":
        found = {METADATA: ""}
        torch.export.load(path, extra_files=found)
        return json.loads(found[METADATA])
    texts = {each.key: each.value for each in onnx.load(path).metadata_props}
    plain_texts = ("model", "data", "config_hash", "triptych", "fit")
    return {k: v if k in plain_texts else json.loads(v) for k, v in texts.items()}


@pytest.mark.parametrize("form", NAMES)
def test_a_file_says_which_run_it_is_of_and_what_its_classes_are(folder: Path, form: str) -> None:
    metadata = Record.open(folder).metadata
    found = metadata(folder, form)
    for name in ("model", "data", "seed", "config_hash", "weights", "classes"):
        assert found.pop(name) == metadata.get(name)
    assert found.pop("accuracy") == metadata["metrics"]["test/accuracy"]
    assert found.pop("triptych") == metadata["versions"]["triptych"]
    assert found == {"num_test": 15, "input_size": 40, "fit": "stretch"}


def test_the_axes_of_an_onnx_file_have_names(folder: Path) -> None:
    session = onnxruntime.InferenceSession(folder / "export" / NAMES["onnx"])
    [images], [probabilities] = session.get_inputs(), session.get_outputs()
    assert (images.name, images.type) == ("images", "tensor(uint8)")
    assert images.shape == ["batch", 3, "height", "width"]
    assert probabilities.name == "probabilities"
    assert probabilities.shape == ["batch", len(OUTLINES)]


def test_an_export_is_one_file_and_a_card_and_names_no_folder_of_ours(folder: Path) -> None:
    left = {path.name: path.read_bytes() for path in (folder / "export").iterdir()}
    assert left.keys() == {*NAMES.values(), *(f"{name}.md" for name in NAMES.values())}
    with zipfile.ZipFile(folder / "export" / NAMES["torch"]) as archive:
        left["inside"] = b"".join(map(archive.read, archive.namelist()))
    for content in (left[NAMES["onnx"]], left[NAMES["torch"]], left["inside"]):
        assert len(content) > 1_000_000
        assert str(ROOT).encode() not in content
        assert b"portable.py" not in content


def lines_of_the_card(folder: Path, name: str) -> str:
    """The Python that a card shows."""
    text = (folder / "export" / f"{name}.md").read_text()
    block = re.search(r"## Use\n\n(.*?)\n\nThe same", text, re.DOTALL)
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
    assert lines[:3] == lines[3:], "both formats"
    [probabilities] = expected(torch.from_numpy(upright).permute(2, 0, 1)[None])
    best = probabilities.argsort(descending=True)[:3].tolist()
    classes = Record.open(folder).metadata["classes"]
    assert [name for name, _ in lines[:3]] == [classes[c] for c in best]
    np.testing.assert_allclose(
        [float(value) for _, value in lines[:3]], probabilities[best], atol=0.02
    )


def test_the_card_says_what_was_tried_and_how_it_ended(folder: Path) -> None:
    for name, runtime in {NAMES["onnx"]: "onnxruntime", NAMES["torch"]: "torch.export"}.items():
        text = (folder / "export" / f"{name}.md").read_text()
        found = re.search(r"probabilities: (\S+) over 15 test images, (\S+) over made", text)
        assert found
        assert all(float(value) < 1e-3 for value in found.groups())
        assert re.search(rf"takes {runtime} [\d.]+ ms, the network in torch [\d.]+ ms", text)


def test_what_exists_is_kept_unless_it_is_to_be_replaced(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    delivered: list[Path] = []
    monkeypatch.setattr(delivery, "deliver", lambda folder, path, config: delivered.append(path))
    path = folder / "export" / NAMES["onnx"]
    with pytest.raises(UserError, match=rf"{path}: exists and is kept; overwrite=true"):
        exported(folder)
    exported(folder, overwrite=True)
    assert delivered == [path]
    with pytest.raises(UserError, match="exists"):
        exported(folder, out=str(path))
    (folder / "alone.onnx.md").touch()
    with pytest.raises(UserError, match=r"alone\.onnx\.md: exists"):
        exported(folder, out=f"{folder}/alone.onnx")


@pytest.mark.parametrize("error", [0.002, float("nan")])
def test_a_file_that_answers_otherwise_is_not_left_behind(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: float
) -> None:
    run = rebuild_run(folder)

    def wrong(images: Tensor) -> Tensor:
        probabilities = run.logits(images).softmax(dim=1)
        probabilities[-1, 3] += error
        return probabilities

    broken = Format(
        "broken", lambda traced, path, _: path.write_text("x"), lambda path, threads: wrong
    )
    monkeypatch.setitem(delivery.FORMATS, "torch", broken)
    monkeypatch.setattr(delivery, "program", lambda run: None)
    with pytest.raises(UserError, match=r"differs by (0\.002|nan) from the network over 15 test"):
        exported(folder, format="torch", out=f"{tmp_path}/there/it.pt2")
    assert [*tmp_path.iterdir()] == []


def test_a_checkpoint_of_other_classes_is_refused(tmp_path: Path) -> None:
    folder = plant(tmp_path, num_classes=7).folder
    with pytest.raises(UserError) as raised:
        exported(folder)
    assert str(folder) in str(raised.value)
    assert "10 classes" in str(raised.value)
    assert not (folder / "export").exists()


def test_a_missing_extra_is_named_with_the_command_that_brings_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door, "find_spec", lambda name: None if name == "onnxscript" else True)
    with pytest.raises(
        UserError, match=r"onnxscript not installed; pip install 'onnx>=1.19' 'onnxs"
    ):
        exported(folder, overwrite=True)
    with pytest.raises(UserError, match="exists and is kept"):  # not for want of a package
        exported(folder, format="torch")


def test_one_run_and_a_fitting_name_are_asked_for(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"run={tmp_path}: no run there or below"):
        exported(tmp_path)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text("{}")
    with pytest.raises(UserError, match=rf"2 runs lie there; name one, such as {tmp_path}/a"):
        exported(tmp_path)
    with pytest.raises(UserError, match=r"must end with \.pt2, as format=torch asks"):
        exported(folder, format="torch", out=f"{tmp_path}/x.onnx")


def test_a_place_that_cannot_be_written_to_is_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(delivery, "program", lambda run: None)
    with pytest.raises(UserError, match="cannot be written"):
        exported(folder, out=f"{tmp_path}/file/x.onnx")


@pytest.mark.parametrize("name", ["there.onnx", "there.onnx.md"])
def test_a_folder_in_the_place_of_a_file_is_refused_before_any_work(
    name: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "deliver", lambda *_: pytest.fail("at work"))
    (tmp_path / name).mkdir()
    with pytest.raises(UserError, match=rf"{name}: is a folder"):
        exported(folder, out=f"{tmp_path}/there.onnx", overwrite=True)


@pytest.mark.parametrize("length", [253, 300])
def test_a_name_too_long_for_the_system_is_refused_before_any_work(
    length: int, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "deliver", lambda *_: pytest.fail("at work"))
    with pytest.raises(UserError, match="File name too long"):
        exported(folder, out=f"{tmp_path}/{'x' * (length - 5)}.onnx")


def test_a_full_disk_is_an_error_and_not_the_end_of_the_process() -> None:
    traced = torch.export.export(torch.nn.Linear(2, 2), (torch.zeros(1, 2),))
    with pytest.raises(OSError, match="No space left"):
        FORMATS["torch"].write(traced, Path("/dev/full"), {})


@pytest.mark.parametrize(("fit", "form"), [("crop", "onnx"), ("pad", "torch")])
def test_a_file_of_a_run_on_a_folder_fits_photos_into_squares_as_that_did(
    fit: str, form: str, folder: Path, tmp_path: Path
) -> None:
    """Against what `predict` sees."""
    run = rebuild_run(folder)
    source = {"_target_": "triptych.data.folder.Folder", "root": "none", "size": 24, "fit": fit}
    run.config = {**run.config, "data": {**run.config["data"], "source": source}}
    view, shown, way = View.from_run(run), {PHOTOGRAPHS: photographs()}, FORMATS[form]
    way.write(program(run), tmp_path / form, {})
    found = delivery.tried(run, view, way, tmp_path / form, shown, 0.01)
    assert found.differences[PHOTOGRAPHS] < 1e-3
    [first, *_] = shown[PHOTOGRAPHS]
    squeezed = run.logits(first).softmax(dim=1)
    assert (squeezed - way.open(tmp_path / form, 1)(first)).abs().max() > 0.01


@pytest.mark.parametrize("model", ["../../etc/passwd", "..", "a\nb", "ü" * 300, "-rf"])
def test_no_name_of_a_model_leads_out_of_the_run_folder(model: str, tmp_path: Path) -> None:
    path = destination(Record(tmp_path, {"model": model}), "onnx", None)
    assert path.parent == tmp_path / "export"
    assert re.fullmatch(r"[A-Za-z0-9_][\w.-]{0,99}\.onnx", path.name, re.ASCII)
