import io
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from triptych.errors import UserError
from triptych.runs.record import Record
from triptych.tools.statistics.predictions import Predictions, read_predictions

Arrays = dict[str, NDArray[np.generic]]


def right() -> Arrays:
    random = np.random.default_rng(0)
    return {
        "logits": random.standard_normal((5, 3)).astype(np.float32),
        "labels": np.array([0, 1, 2, 2, 0]),
        "index": np.array([0, 3, 4, 7, 9]),
    }


def saved(folder: Path, arrays: Arrays) -> Path:
    path = folder / "test.npz"
    np.savez(path, **arrays)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as refused:
        read_predictions(path)
    message = str(refused.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


def test_what_a_record_wrote_is_read_back(tmp_path: Path) -> None:
    Record(tmp_path, {}).add_predictions("test", **right())
    predicted = read_predictions(tmp_path / "predictions" / "test.npz")
    for name, array in right().items():
        read = getattr(predicted, name)
        assert read.dtype == array.dtype
        np.testing.assert_array_equal(read, array)
    assert predicted.num_classes == 3


def test_probabilities_classes_and_confidence_come_from_the_logits() -> None:
    logits = np.log([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6], [0.4, 0.4, 0.2]]) + 5
    predicted = Predictions(logits, np.array([0, 1, 1]), np.arange(3))
    np.testing.assert_allclose(
        predicted.probabilities, [[0.7, 0.2, 0.1], [0.1, 0.3, 0.6], [0.4, 0.4, 0.2]]
    )
    assert predicted.classes.tolist() == [0, 2, 0]
    assert predicted.correct.tolist() == [True, False, False]
    np.testing.assert_allclose(predicted.confidence, [0.7, 0.6, 0.4])


def test_huge_float32_logits_have_finite_probabilities() -> None:
    logits = np.array([[3e38, -3e38], [0, 3e38]], dtype=np.float32)
    predicted = Predictions(logits, np.array([0, 1]), np.arange(2))
    assert predicted.probabilities.tolist() == [[1, 0], [0, 1]]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"logits": np.zeros((5, 3), dtype=np.int64)}, "logits must be floats (N, C)"),
        ({"logits": np.zeros(5)}, "logits must be floats (N, C), they are float64 (5,)"),
        ({"logits": np.zeros((5, 1))}, "logits must be floats (N, C)"),
        ({"labels": np.zeros(4, dtype=np.int64)}, "labels must be int64 (5,)"),
        ({"labels": np.zeros(5)}, "labels must be int64 (5,) as the logits, they are float64 (5,)"),
        ({"index": np.zeros((5, 1), dtype=np.int64)}, "index must be int64 (5,)"),
        ({"logits": np.full((5, 3), np.nan)}, "5 images have logits that are not finite"),
        ({"labels": np.array([0, 1, 3, 2, 0])}, "labels must be 0 to 2, they go from 0 to 3"),
        ({"labels": np.array([0, -1, 1, 2, 0])}, "labels must be 0 to 2, they go from -1 to 2"),
        ({"index": np.array([0, 3, 3, 7, 9])}, "index must ascend, 3 follows 3"),
        ({"index": np.array([0, 4, 3, 7, 9])}, "index must ascend, 3 follows 4"),
        ({"index": np.array([-1, 3, 4, 7, 9])}, "index must not be negative, it begins with -1"),
        ({"index": np.array([2**63 - 1, -(2**63), 0, 1, 2])}, "index must ascend"),
    ],
)
def test_arrays_that_are_no_predictions_are_refused(
    change: Arrays, said: str, tmp_path: Path
) -> None:
    assert said in refusal(saved(tmp_path, right() | change))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_an_image_with_a_logit_that_is_not_finite_is_named(bad: float, tmp_path: Path) -> None:
    arrays = right()
    arrays["logits"][3, 1] = bad
    assert "1 images have logits that are not finite, the first is 7" in refusal(
        saved(tmp_path, arrays)
    )


def test_no_images_are_refused(tmp_path: Path) -> None:
    empty = {name: array[:0] for name, array in right().items()}
    assert "holds no image" in refusal(saved(tmp_path, empty))


def test_missing_arrays_are_named(tmp_path: Path) -> None:
    path = saved(tmp_path, {"logits": right()["logits"]})
    assert "has no labels, index" in refusal(path)


def test_a_missing_file_is_called_missing(tmp_path: Path) -> None:
    assert "missing" in refusal(tmp_path / "test.npz")


def test_pickled_arrays_are_refused_and_not_run(tmp_path: Path) -> None:
    class Mine:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (tmp_path / "was_run",)  # type: ignore[return-value]

    path = saved(tmp_path, right() | {"labels": np.array([Mine()] * 5, dtype=object)})
    assert "cannot be read as arrays" in refusal(path)
    assert not (tmp_path / "was_run").exists()


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, right())
    whole = path.read_bytes()
    for size in range(0, len(whole), 23):
        path.write_bytes(whole[:size])
        refusal(path)


def test_a_file_with_a_flipped_byte_is_refused_or_still_predictions(tmp_path: Path) -> None:
    path = saved(tmp_path, right())
    whole = path.read_bytes()
    for place in range(0, len(whole), 11):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        with suppress(UserError):
            read_predictions(path)


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x05\x06" + bytes(18)])
def test_what_is_no_archive_of_arrays_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "test.npz"
    path.write_bytes(content)
    refusal(path)


def test_a_single_array_is_no_archive(tmp_path: Path) -> None:
    with (tmp_path / "test.npz").open("wb") as file:
        np.save(file, right()["logits"])
    assert "cannot be read as arrays" in refusal(tmp_path / "test.npz")


def test_a_folder_in_place_of_the_file_is_refused(tmp_path: Path) -> None:
    refusal(tmp_path)


def test_a_header_that_promises_more_than_there_is_is_refused(tmp_path: Path) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f8", "fortran_order": False, "shape": (10**14, 10)}
    )
    path = saved(tmp_path, {name: right()[name] for name in ("labels", "index")})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("logits.npy", header.getvalue())
    assert "cannot be read as arrays" in refusal(path)


def test_more_classes_than_a_matrix_can_hold_are_refused(tmp_path: Path) -> None:
    few = {"labels": np.zeros(1, np.int64), "index": np.arange(1)}
    path = saved(tmp_path, {"logits": np.zeros((1, 70_000), np.float32), **few})
    assert "logits are of 70,000 classes, there may be 10,000" in refusal(path)
