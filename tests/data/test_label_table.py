"""Labels in a CSV file, as spreadsheets and Kaggle write them."""

from pathlib import Path

import pytest

from tests.data.test_folder import photo
from triptych.data.folder import Folder
from triptych.data.source import ImageSet
from triptych.errors import UserError

ROWS = ["a.png,cat", "b.png,dog", '"sub/c, d.png",cat', "e.png,dog"]


def read_table(root: Path, text: str | bytes, typed: str = "labels.csv") -> ImageSet:
    for i, name in enumerate(("a", "b", "sub/c, d", "e")):
        photo(root / f"{name}.png", grey=i)
    content = text if isinstance(text, bytes) else text.encode()
    (root / "labels.csv").write_bytes(content)
    return Folder(str(root), size=8, labels=typed).read()


@pytest.fixture(autouse=True)
def stored(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA_DIR", str(tmp_path_factory.mktemp("stored")))


@pytest.mark.parametrize(
    "text",
    [
        "\n".join(["file,label", *ROWS]),
        "\r\n".join(["\ufeffFilename,Class", *ROWS]),
        "\n".join(["label;image", *("cat;a.png;", "dog;b.png", "cat;sub/c, d.png", "dog;e.png")]),
        "id\tcategory\tx\na\tcat\t1\nb\tdog\t1\nsub\\c, d\tcat\t1\ne\tdog\t2\n",
    ],
)
def test_tables_of_every_kind_give_files_and_classes(tmp_path: Path, text: str) -> None:
    data = read_table(tmp_path, text)
    assert data.classes == ("cat", "dog")
    assert data.files == ["a.png", "sub/c, d.png", "b.png", "e.png"]
    assert data.train.labels.tolist() == [0, 0, 1, 1]
    assert data.notes == ()


def test_a_column_of_splits_is_obeyed_and_the_table_may_lie_anywhere(tmp_path: Path) -> None:
    text = "file,label,split\na.png,cat,train\nb.png,dog,Training\ne.png,dog,test\n"
    (tmp_path / "other.csv").write_text(text)
    data = read_table(tmp_path / "photos", "", str(tmp_path / "other.csv"))
    assert data.splits
    assert {name: index.tolist() for name, index in data.splits.items()} == {
        "train": [0, 1],
        "test": [2],
    }
    assert data.notes == ("1 photos have no row in data.labels and are left out",)


def test_numbers_are_classes_in_the_order_of_numbers(tmp_path: Path) -> None:
    text = 'file,label\na.png,10\nb.png,2\n"sub/c, d.png",1\ne.png,2\n'
    assert read_table(tmp_path, text).classes == ("1", "2", "10")
    assert read_table(tmp_path, text.replace(",1\n", ",x\n")).classes == ("10", "2", "x")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("file,breed\na.png,cat\n", "no column label, but file, breed"),
        ("file,label\na.png,cat\nb.png,\n", "line 3: no label"),
        ("file,label\na.png,cat\na.png,dog\n", "line 3: a.png is dog"),
        ("file,label,split\na.png,cat,later\n", "line 2: later is no split"),
        ("file,label\nx.png,cat\na.png,cat\ny.png,dog\n", r"2 files .*x\.png .line 2., y\.png"),
        ("file,label,split\na.png,cat,test\n", "no training photo"),
        ("file,label,split\na.png,cat,train\nb.png,dog,val\n", r"dog: .* of b\.png .val."),
        ("", "no column file"),
        ("file,label\na.png,black, cat\n", "line 2: more cells"),
        ("file,label\na.png,Kätzchen\n".encode("latin-1"), "not UTF-8"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused(
    tmp_path: Path, text: str | bytes, words: str
) -> None:
    with pytest.raises(UserError, match=r"data\.labels=.*labels\.csv: .*" + words):
        read_table(tmp_path, text)
    with pytest.raises(UserError, match=r"data\.labels=none\.csv: no such file"):
        read_table(tmp_path, "file,label\n", "none.csv")


@pytest.mark.parametrize("spelled", ["./a.png", "sub/../a.png", "{root}/a.png", "{root}/sub/../a"])
def test_a_photo_is_one_however_its_path_is_spelled(tmp_path: Path, spelled: str) -> None:
    text = f"file,label\na.png,cat\nb.png,dog\n{spelled.format(root=tmp_path)},"
    assert read_table(tmp_path, f"{text}cat\n").files == ["a.png", "b.png"]
    with pytest.raises(UserError, match=r"line 4: .* is dog \(train\), .* cat \(train\)"):
        read_table(tmp_path, f"{text}dog\n")


@pytest.mark.parametrize("name", ["../b.png", "x/../../b.png", "{root}/../b.png", "/etc/x.png"])
def test_a_photo_that_lies_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    text = f"file,label\na.png,cat\n{name.format(root=tmp_path)},dog\n"
    with pytest.raises(UserError, match=r"line 3: .*\.png is not below data\.root="):
        read_table(tmp_path, text)


def test_a_file_name_or_a_cell_that_is_too_long_is_told(tmp_path: Path) -> None:
    text = "file,label\na.png,cat\nb.png,dog\n{},cat\n"
    with pytest.raises(UserError, match="1 files are not in"):
        read_table(tmp_path, text.format("x" * 300))
    with pytest.raises(UserError, match=r"^data\.labels=.*labels\.csv: no CSV"):
        read_table(tmp_path, text.format("x" * 200_000))
