import csv
import io
import re
import tempfile
import time
import tracemalloc
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from triptych.errors import UserError
from triptych.runs.predictions import (
    Predictions,
    read_files,
    read_predictions,
    read_validation,
    write_missing_tables,
)
from triptych.runs.reader import sanitize
from triptych.runs.record import Record
from triptych.runs.resume import drop_foreign_validation

Arrays = dict[str, NDArray[np.generic]]


def valid_arrays() -> Arrays:
    random = np.random.default_rng(0)
    return {
        "logits": random.standard_normal((5, 3)).astype(np.float32),
        "labels": np.array([0, 1, 2, 2, 0]),
        "index": np.array([0, 3, 4, 7, 9]),
    }


def save(folder: Path, arrays: Arrays) -> Path:
    path = folder / "test.npz"
    np.savez(path, **arrays)
    return path


def error_message(path: Path) -> str:
    with pytest.raises(UserError) as error:
        read_predictions(path)
    message = str(error.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


def test_what_a_record_wrote_is_read_back(tmp_path: Path) -> None:
    Record(tmp_path, {}).add_predictions("val", **valid_arrays())
    predictions = read_validation(tmp_path, num_classes=3)
    for name, array in valid_arrays().items():
        read = getattr(predictions, name)
        assert read.dtype == array.dtype
        np.testing.assert_array_equal(read, array)
    with pytest.raises(UserError, match=r"val\.npz: has 3 classes, .* 4"):
        read_validation(tmp_path, num_classes=4)


CLASSES = ["cat", "=dog", '-1, a "bird"']


def write_table(folder: Path, files: list[str] | None = None, **arrays: NDArray[Any]) -> Path:
    """The table of `valid_arrays()`, of which `arrays` replace some."""
    record = Record(folder, {"classes": CLASSES})
    record.add_predictions("test", **(valid_arrays() | arrays))
    record.write_prediction_tables(files)
    return folder / "predictions" / "test.csv"


def read_table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_table_has_a_row_an_image_in_the_order_of_the_arrays(tmp_path: Path) -> None:
    rows = read_table(write_table(tmp_path))
    arrays = valid_arrays()
    predictions = Predictions(**arrays)  # type: ignore[arg-type]
    assert list(rows[0]) == ["id", "label", "prediction", "probability"]
    assert [int(row["id"]) for row in rows] == arrays["index"].tolist()
    shown = ["cat", "'=dog", '\'-1, a "bird"']  # as text, in a spreadsheet too
    assert [row["label"] for row in rows] == [shown[int(n)] for n in predictions.labels]
    assert [row["prediction"] for row in rows] == [shown[int(n)] for n in predictions.classes]
    shares = [float(row["probability"]) for row in rows]
    assert shares == pytest.approx(predictions.confidence, abs=1e-6)


def test_mistakes_are_the_wrong_rows_most_confident_first(tmp_path: Path) -> None:
    probabilities = np.array(
        [[0.7, 0.2, 0.1], [0.1, 0.2, 0.7], [0.4, 0.35, 0.25], [0.05, 0.9, 0.05]]
    )
    path = write_table(
        tmp_path,
        [f"{place}.jpg" for place in range(9)],
        logits=np.log(probabilities).astype(np.float32) - 7,
        labels=np.array([0, 1, 1, 2]),
        index=np.array([1, 2, 5, 8]),
    )
    rows = [tuple(row.values()) for row in read_table(path.with_name("mistakes.csv"))]
    assert rows == [
        ("8.jpg", '\'-1, a "bird"', "'=dog", "0.9", "0.05"),
        ("2.jpg", "'=dog", '\'-1, a "bird"', "0.7", "0.2"),
        ("5.jpg", "'=dog", "cat", "0.4", "0.35"),
    ]


@settings(deadline=None, max_examples=30)
@given(st.lists(st.text(max_size=12) | st.text("='\" a\uff1d-\t\r"), min_size=10, max_size=10))
def test_any_file_is_read_back_by_the_index_of_its_image_and_is_no_formula(
    names: list[str],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = write_table(Path(folder), names)
        predictions = read_predictions(path.with_suffix(".npz"))
        assert read_files(Path(folder), predictions) == {
            place: sanitize(names[place]) for place in (0, 3, 4, 7, 9)
        }
        for row in read_table(path):
            assert not any(re.match(r"[\s\"]*[=+\-@\t\r\uff1d]", text) for text in row.values())


def test_names_come_only_from_a_table_of_these_predictions(tmp_path: Path) -> None:
    path = write_table(tmp_path, [f"{place}.jpg" for place in range(10)])
    test = read_predictions(path.with_suffix(".npz"))
    head, *lines = path.read_text().splitlines()
    texts = {
        "sorted by a person": "\n".join([head, *lines[::-1]]),
        "a line is missing": "\n".join([head, *lines[1:]]),
        "empty": head,
        "no number": path.read_text().replace("0.", "x."),
        "another column": path.read_text().replace("probability", "share"),
    }
    for text in texts.values():
        path.write_text(text)
        with pytest.raises(UserError, match=r"test\.csv: "):
            read_files(tmp_path, test)
    path.write_bytes("file,label,prediction,probability\nkäse".encode("latin-1"))
    with pytest.raises(UserError, match=r"test\.csv: cannot be read"):
        read_files(tmp_path, test)
    path.unlink()
    assert read_files(tmp_path, test) is None, "a run of an earlier version"
    write_table(tmp_path)
    assert read_files(tmp_path, test) is None, "a set that has no files"


def test_missing_tables_are_written_and_others_left_alone(tmp_path: Path) -> None:
    path = write_table(tmp_path)
    before = path.read_text()
    index = {"val": np.arange(5), "test": valid_arrays()["index"]}
    path.unlink()
    write_missing_tables(tmp_path, CLASSES, None, index)
    assert path.read_text() == before
    path.write_text("a person's notes")
    write_missing_tables(tmp_path, CLASSES, None, index)
    assert path.read_text() == "a person's notes"
    assert not path.with_name("val.csv").exists(), "nothing was validated"
    path.unlink()
    write_missing_tables(tmp_path, CLASSES[:2], None, index)
    write_missing_tables(tmp_path, CLASSES, None, index | {"test": np.arange(5)})
    path.with_suffix(".npz").write_bytes(b"broken")
    write_missing_tables(tmp_path, CLASSES, None, index)
    assert not path.exists(), "of other classes, of other images, of none"


def test_a_table_never_outlives_its_predictions(tmp_path: Path) -> None:
    path = write_table(tmp_path)
    record = Record(tmp_path, {"classes": CLASSES})
    record.add_predictions("test", **valid_arrays())
    assert not path.exists()
    record.write_prediction_tables(None)
    record.drop_predictions("test")
    assert not path.exists()


@pytest.mark.parametrize(
    ("forged", "is_kept"),
    [
        ({}, True),
        ({"logits": np.array(["x"], dtype=object)}, False),
        ({"logits": np.zeros((5, 9), np.float32)}, False),
        ({"labels": np.full(5, 10**6)}, False),
        ({"index": np.array([0, 3, 4, 7, 10**9])}, False),
    ],
)
def test_a_resumed_run_keeps_validation_of_its_own_images_alone(
    tmp_path: Path, forged: dict[str, np.ndarray], is_kept: bool
) -> None:
    record, arrays = Record(tmp_path, {"classes": CLASSES}), valid_arrays()
    record.add_predictions("val", **arrays)
    path = tmp_path / "predictions" / "val.npz"
    np.savez(path, **arrays | forged)
    drop_foreign_validation(record, CLASSES, arrays["index"])
    assert path.exists() is is_kept
    record.write_prediction_tables(None)


def test_a_table_of_ten_thousand_images_is_written_at_once(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    arrays = {
        "logits": random.standard_normal((10_000, 3)).astype(np.float32),
        "labels": random.integers(0, 3, 10_000),
        "index": np.arange(10_000),
    }
    start = time.process_time()
    path = write_table(tmp_path, **arrays)
    assert time.process_time() - start < 1
    assert len(read_table(path)) == 10_000


def test_probabilities_classes_and_confidence_come_from_the_logits() -> None:
    probabilities = [[0.7, 0.2, 0.1], [0.1, 0.3, 0.6], [0.4, 0.4, 0.2]]
    predictions = Predictions(np.log(probabilities) + 5, np.array([0, 1, 1]), np.arange(3))
    np.testing.assert_allclose(predictions.probabilities, probabilities)
    assert predictions.classes.tolist() == [0, 2, 0]
    assert predictions.correct.tolist() == [True, False, False]
    np.testing.assert_allclose(predictions.confidence, [0.7, 0.6, 0.4])


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"logits": np.zeros((5, 3), dtype=np.int64)}, r"logits .*int64 \(5, 3\)"),
        ({"logits": np.zeros(5)}, r"logits .*float64 \(5,\)"),
        ({"logits": np.zeros((5, 10_001))}, r"logits .*10,000.*\(5, 10001\)"),
        ({"logits": np.full((5, 3), np.nan)}, "logits of image 0 are not finite"),
        ({"logits": np.diag([0, 0, 0, np.inf, 0])[:, 1:4]}, "logits of image 7 "),
        ({"labels": np.zeros(5)}, r"labels must be int64 \(5,\), they are float64 \(5,\)"),
        ({"labels": np.array([0, 1, 3, 2, 0])}, "labels .*0 to 3.* 3 classes"),
        ({"labels": np.array([0, -1, 1, 2, 0])}, "labels .*-1 to 2"),
        ({"index": np.zeros((5, 1), dtype=np.int64)}, r"index must be int64 \(5,\)"),
        ({"index": np.array([0, 3, 3, 7, 9])}, "index must ascend"),
        ({"index": np.array([-1, 3, 4, 7, 9])}, "index must ascend"),
        ({"index": np.array([2**63 - 1, -(2**63), 0, 1, 2])}, "index must ascend"),
        ({name: array[:0] for name, array in valid_arrays().items()}, "no image"),
    ],
)
def test_arrays_that_are_no_predictions_are_refused_by_name(
    change: Arrays, expected: str, tmp_path: Path
) -> None:
    save(tmp_path, valid_arrays() | change)
    with pytest.raises(UserError, match=expected):
        read_predictions(tmp_path / "test.npz")


def test_missing_arrays_and_files_are_named(tmp_path: Path) -> None:
    assert "missing" in error_message(tmp_path / "test.npz")
    assert "labels, index" in error_message(save(tmp_path, {"logits": valid_arrays()["logits"]}))


def test_pickled_arrays_are_refused_and_not_run(tmp_path: Path) -> None:
    class Mine:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (tmp_path / "was_run",)  # type: ignore[return-value]

    path = save(tmp_path, valid_arrays() | {"labels": np.array([Mine()] * 5, dtype=object)})
    assert "cannot be read as arrays" in error_message(path)
    assert not (tmp_path / "was_run").exists()


def test_a_file_with_a_flipped_byte_is_refused_or_still_predictions(tmp_path: Path) -> None:
    path = save(tmp_path, valid_arrays())
    content = path.read_bytes()
    for place in range(0, len(content), 23):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0x55]) + content[place + 1 :])
        with suppress(UserError):
            read_predictions(path)


def test_what_is_no_archive_of_arrays_or_ends_too_early_is_refused(tmp_path: Path) -> None:
    single = io.BytesIO()
    np.save(single, valid_arrays()["logits"])
    path = save(tmp_path, valid_arrays())
    whole = path.read_bytes()
    cut = [whole[:size] for size in range(0, len(whole), 47)]
    for content in (*cut, b"no archive", b"PK\x05\x06" + bytes(18), single.getvalue()):
        path.write_bytes(content)
        error_message(path)
    error_message(tmp_path)


def member(descr: object, shape: tuple[int, ...], data: bytes = b"") -> bytes:
    """A file of an array whose head may say what is not so."""
    head = {"descr": descr, "fortran_order": False, "shape": shape}
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, head)  # type: ignore[arg-type]
    return file.getvalue() + data


@pytest.mark.parametrize(
    ("logits", "expected"),
    [
        (member("<f8", (10**14, 10)), "not as long as its head says"),
        (member("<f8", (-5, -3), bytes(120)), "not as long"),
        (member("<f8", (-5, 3), bytes(120)), "not as long"),
        (member("<f8", (5, 3), bytes(119)), "not as long"),
        (member("|O", (5, 3), bytes(120)), "pickled"),
        (member([("a", "<f4"), ("b", "<f4")], (5, 3), bytes(120)), "logits must be floats"),
        (member("|V8", (5, 3), bytes(120)), "logits must be floats"),
        (member("<U0", (10**12, 3)), "larger than is read"),
        (member("<f8", (10**12, 0)), "larger than is read"),
        (member("<f4", (10**6, 10), bytes(40_000_000)), "larger than is read"),
        (b"\x93NUMPY\x03\x00" + bytes(100), "cannot be read"),
        (b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 65535, "cannot be read"),
    ],
)
def test_an_array_is_not_inflated_or_made_room_for_before_its_head_is_read(
    tmp_path: Path, logits: bytes, expected: str
) -> None:
    path = save(tmp_path, {name: valid_arrays()[name] for name in ("labels", "index")})
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("logits.npy", logits)
    tracemalloc.start()
    message, (_, peak) = error_message(path), tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert expected in message
    assert peak < 5e6


def test_an_archive_of_any_order_and_compression_is_read_with_members_of_any_name(
    tmp_path: Path,
) -> None:
    arrays = valid_arrays() | {"logits": np.asfortranarray(valid_arrays()["logits"])}
    np.savez_compressed(tmp_path / "test.npz", **arrays)
    with zipfile.ZipFile(tmp_path / "test.npz", "a") as archive:
        archive.writestr("../../outside.npy", b"x")
        archive.writestr("/absolute", b"x")
    read = read_predictions(tmp_path / "test.npz")
    assert read.logits.tolist() == valid_arrays()["logits"].tolist()
    assert [path.name for path in tmp_path.rglob("*")] == ["test.npz"]
