"""Which images are meant, and what is refused before anything is read."""

import io
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from triptych.errors import UserError
from triptych.tools.predict.paths import check_output, find_images, read_paths


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def below(root: Path, *places: str) -> list[str]:
    found = find_images([str(root / place) for place in places])
    return [os.path.relpath(path, root) for path in found]


def test_of_a_folder_images_are_found_by_name_those_of_inner_folders_behind(tmp_path: Path) -> None:
    touch(tmp_path, "b.png", "a.JPG", "z/c.webp", "notes.txt", ".hidden.png", ".cache/d.png", "e")
    assert below(tmp_path, ".") == ["a.JPG", "b.png", "z/c.webp"]


def test_a_file_is_taken_whatever_its_name_and_as_often_as_it_is_named(tmp_path: Path) -> None:
    touch(tmp_path, "b.dat", "a.png")
    assert below(tmp_path, "b.dat", "a.png", "b.dat") == ["b.dat", "a.png", "b.dat"]


def test_a_glob_is_sorted_and_goes_into_folders(tmp_path: Path) -> None:
    touch(tmp_path, "x2/b.png", "x1/c.png", "x1/notes.txt", "x3.png")
    assert below(tmp_path, "x*") == ["x1/c.png", "x2/b.png", "x3.png"]


def test_a_name_that_reads_like_a_glob_is_a_name_first(tmp_path: Path) -> None:
    touch(tmp_path, "a[1].png", "a1.png")
    assert below(tmp_path, "a[1].png") == ["a[1].png"]


def test_names_with_line_ends_and_of_no_encoding_are_found(tmp_path: Path) -> None:
    latin = os.fsdecode(b"caf\xe9.png")
    touch(tmp_path, "two\nlines.png", latin, "写真.png")
    assert set(below(tmp_path, ".")) == {"two\nlines.png", latin, "写真.png"}


def test_a_link_back_is_followed_once(tmp_path: Path) -> None:
    touch(tmp_path, "a/b.png")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    assert below(tmp_path, ".") == ["a/b.png"]


def test_a_folder_below_that_cannot_be_read_is_not_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "a.png", "locked/b.png")
    scandir = os.scandir

    def forbidding(path: str) -> Iterator[os.DirEntry[str]]:
        if path.endswith("locked"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr("os.scandir", forbidding)
    with pytest.raises(UserError, match=rf"images: {tmp_path}/\S*locked: Permission denied"):
        below(tmp_path, ".")


@pytest.mark.parametrize("place", ["lost.png", "*.gif", "texts", "empty"])
def test_a_place_without_images_is_refused_though_another_has_some(
    tmp_path: Path, place: str
) -> None:
    touch(tmp_path, "a.png", "texts/notes.txt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no image there"):
        below(tmp_path, "a.png", place)


def stream(content: bytes) -> io.BufferedReader:
    return io.BufferedReader(io.BytesIO(content))  # type: ignore[arg-type]


def test_a_stream_names_a_path_a_line() -> None:
    found = read_paths(stream(b"b c.png\n\na.png\r\ncaf\xe9.png\n last.png"))
    assert [*found] == ["b c.png", "a.png", os.fsdecode(b"caf\xe9.png"), " last.png"]


def test_a_stream_of_paths_ended_by_nul_names_them_with_their_line_ends(tmp_path: Path) -> None:
    first = os.fsencode(tmp_path) + b"/two\nlines.png"
    Path(os.fsdecode(first)).touch()
    others = [b"%d caf\xe9.png" % n for n in range(5000)]  # more than one buffer holds
    found = read_paths(stream(b"\0".join([first, *others, b""])))
    assert [*found] == [os.fsdecode(path) for path in (first, *others)]


def test_a_stream_is_read_no_further_than_it_is_asked_for() -> None:
    reading, writing = os.pipe()
    with open(writing, "wb", buffering=0) as end, open(reading, "rb") as start:
        end.write(b"a.png\n")
        assert next(read_paths(start)) == "a.png"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "nothing came"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "not an image itself"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF\0", "not an image itself"),
    ],
)
def test_a_stream_of_nothing_or_of_an_image_is_refused(content: bytes, said: str) -> None:
    with pytest.raises(UserError, match=said):
        read_paths(stream(content))


def test_an_output_is_kept_unless_it_may_be_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "a.CSV"
    check_output("out", path, [".csv"], overwrite=False)
    path.touch()
    with pytest.raises(UserError, match="overwrite=true"):
        check_output("out", path, [".csv"], overwrite=False)
    check_output("out", path, [".csv"], overwrite=True)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("a.json", r"must end in .csv or .jsonl"),
        ("a", "must end in"),
        ("folder.csv", "is a folder"),
        ("lost/a.csv", "no folder that can be written to"),
        (f"{'x' * 300}.csv", r"cannot be written \(File name too long\)"),
        (f"{'x' * 252}.csv", r"cannot be written \(File name too long\)"),
    ],
)
def test_an_output_that_cannot_be_written_is_refused(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(UserError, match=said):
        check_output("out", tmp_path / name, [".csv", ".jsonl"], overwrite=True)
