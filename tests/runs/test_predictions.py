import io
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from triptych.errors import UserError
from triptych.runs.predictions import Predictions, read_predictions, read_validation
from triptych.runs.record import Record

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


def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path: Path) -> None:
    path = save(tmp_path, valid_arrays())
    content = path.read_bytes()
    for size in range(0, len(content), 47):
        path.write_bytes(content[:size])
        error_message(path)


def test_a_file_with_a_flipped_byte_is_refused_or_still_predictions(tmp_path: Path) -> None:
    path = save(tmp_path, valid_arrays())
    content = path.read_bytes()
    for place in range(0, len(content), 23):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0x55]) + content[place + 1 :])
        with suppress(UserError):
            read_predictions(path)


def test_what_is_no_archive_of_arrays_is_refused(tmp_path: Path) -> None:
    single = io.BytesIO()
    np.save(single, valid_arrays()["logits"])
    path = tmp_path / "test.npz"
    for content in (b"no archive", b"PK\x05\x06" + bytes(18), single.getvalue()):
        path.write_bytes(content)
        error_message(path)
    error_message(tmp_path)


def test_a_header_that_promises_more_than_there_is_is_refused(tmp_path: Path) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f8", "fortran_order": False, "shape": (10**14, 10)}
    )
    path = save(tmp_path, {name: valid_arrays()[name] for name in ("labels", "index")})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("logits.npy", header.getvalue())
    assert "cannot be read as arrays" in error_message(path)
