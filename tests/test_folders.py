"""Run folders are found wherever they lie, each once."""

from pathlib import Path

from tests.run_folders import write_run
from triptych.folders import find_folders


def test_every_run_below_is_found_once_however_it_is_named(tmp_path: Path) -> None:
    folders = {
        write_run(tmp_path, model, seed) for model in ("alexnet", "vgg11") for seed in (0, 1)
    }
    (tmp_path / "link").symlink_to(tmp_path / "shapes")
    places = [str(tmp_path), f"{tmp_path}/*", f"{tmp_path}/**/seed1/*", f"{tmp_path}/link"]
    found = find_folders(places)
    assert len(found) == 4
    assert {folder.resolve() for folder in found} == {folder.resolve() for folder in folders}


def test_a_folder_whose_name_looks_like_a_glob_is_that_folder(tmp_path: Path) -> None:
    root = tmp_path / "logs[1]"
    assert find_folders([str(root)]) == []
    folder = write_run(root)
    assert find_folders([str(root)]) == [folder]


def test_what_lies_below_out_is_not_read(tmp_path: Path) -> None:
    kept = write_run(tmp_path / "logs")
    write_run(tmp_path / "logs" / "comparison")
    assert find_folders([str(tmp_path)], tmp_path / "logs" / "comparison") == [kept]
